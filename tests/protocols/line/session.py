"""The state of one client: its lines in, answers out. Entering and leaving are `Membership`'s."""

import re
from functools import partial

from heliograph.engine.answers import Entry, Refusal
from heliograph.errors import ClientError, EngineError
from heliograph.hub.channel import Subscription
from heliograph.hub.facts import Event, Member
from heliograph.node.dialect import Ending, Peer
from heliograph.node.membership import Membership
from heliograph.node.tenant import Rule, Tenant
from heliograph.protocols.json import string_literal
from heliograph.protocols.kinds import Kind, kind_of, rule_of
from heliograph.reply import proceed
from tests.protocols.line import lines

_ROOM = re.compile(r"[A-Za-z0-9_-]+")


class LineSession(Membership):
    """One client, which connected with *key* of the app."""

    __slots__ = ("_key",)

    def __init__(self, session_id: str, tenant: Tenant, key: str) -> None:
        super().__init__(session_id, tenant)
        self._key = key

    # -- What a connection calls ---------------------------------------------------------

    def open(self, peer: Peer) -> bytes:
        """Take the peer; return the first line."""
        self.peer = peer
        return lines.line("hello", self.id)

    def receive(self, text: bytes, now: float) -> None:
        """Do what a line asks for."""
        try:
            match text.decode().split(" ", 3):
                case ["say", room, *words] if words:
                    self._say(room, " ".join(words), now)
                case ["subscribe", room, *proof] if len(proof) < 2:
                    self._subscribe(room, "".join(proof))
                case ["join", room, name, proof] if name:
                    self._join(room, lines.decoded(name), proof)
                case ["leave", room]:
                    self._leave_room(room)
                case _:
                    self._refuse(ClientError("bad-line"))
        except ClientError as problem:
            self._refuse(problem)

    def close(self, ending: Ending) -> None:
        """End the connection with the code and the word for *ending*."""
        self.peer.close(lines.goodbye(*lines.ENDINGS[ending]))

    def lost(self, channel: str, now: Entry | None) -> bool:
        """Notify the client, which fetches what it missed: it can stay."""
        self.peer.send(lines.names("lost", channel, () if now is None else now.roster))
        return True

    # -- What a membership calls ---------------------------------------------------------

    def on_entered(self, channel: str, rule: Rule, member: Member | None, entry: Entry) -> None:
        """Acknowledge a subscription; the event that the room keeps follows."""
        del rule
        if member is None:
            answer = lines.line("subscribed", channel)
        else:
            answer = lines.names("joined", channel, entry.roster)
        self.peer.send(answer)

    def on_refused(self, channel: str, refusal: Refusal) -> None:
        """Refuse a subscription: the room is full."""
        if refusal is not Refusal.FULL:
            raise AssertionError(f"a refusal without a word: {refusal}")
        self._refuse_room("full", channel)

    def on_forbidden(self, channel: str, reason: str) -> None:
        """Refuse a subscription that the policy forbids."""
        self._refuse_room(f"forbidden {lines.encoded(reason)}", channel)

    def on_end(self) -> None:
        """Nothing is left: clients of this protocol do not sign in."""

    # -- Lines ---------------------------------------------------------------------------

    def _refuse(self, problem: ClientError) -> None:
        self.tenant.tally.refused(problem.code)
        self.peer.send(lines.error(problem))

    def _refuse_room(self, word: str, room: str) -> None:
        self._refuse(ClientError(f"{word} {room}"))
        self.note_refused(room, word)

    def _subscribe(self, room: str, proof: str) -> None:
        kind = self._enterable(room)
        if kind.presence:
            raise ClientError(f"join-it {room}")
        if kind.private:
            self._check(proof, room)
        self._enter(room, kind, None)

    def _join(self, room: str, name: str, proof: str) -> None:
        kind = self._enterable(room)
        if not kind.presence:
            raise ClientError(f"subscribe-to-it {room}")
        longest = self.tenant.app.max_presence_user_id_length
        if len(name) > longest > 0:
            raise ClientError(f"bad-name {room}")
        self._check(proof, room, name)
        self._enter(room, kind, Member(name))

    def _enterable(self, room: str) -> Kind:
        """Return the kind of a room that the client may be able to enter."""
        app = self.tenant.app
        longest = app.max_channel_name_length
        if not _ROOM.fullmatch(room) or len(room) > longest > 0:
            raise ClientError("bad-room")
        if room in self.channels:
            raise ClientError(f"there-already {room}")
        if len(self.channels) >= app.max_subscriptions > 0:
            raise ClientError(f"too-many-rooms {room}")
        return kind_of(room)

    def _check(self, proof: str, room: str, *name: str) -> None:
        secret = self.tenant.app.secret(self._key)
        if not lines.is_proof(secret, proof, self.id, room, *name):
            self.tenant.signature_failed("wrong signature", room)
            raise ClientError(f"bad-proof {room}")

    def _enter(self, room: str, kind: Kind, member: Member | None) -> None:
        self.subscribe(room, rule_of(self.tenant, room, kind), member)

    def _leave_room(self, room: str) -> None:
        if not self.unsubscribe(room):
            raise ClientError("not-there")
        self.peer.send(lines.line("left", room))

    def _say(self, room: str, text: str, now: float) -> None:
        app = self.tenant.app
        if type(self.channels.get(room)) is not Subscription:
            raise ClientError("not-there")
        if not app.client_events:
            raise ClientError(f"switched-off {room}")
        if not kind_of(room).private:
            raise ClientError(f"not-private {room}")
        if len(text.encode()) > app.max_event_bytes > 0:
            raise ClientError(f"too-large {room}")
        limit = app.max_client_events_per_second
        if limit and not self.take_token(limit, now):
            raise ClientError(f"too-fast {room}")
        member = self.members.get(room) if self.members else None
        event = Event(
            room,
            lines.CLIENT_EVENT,
            string_literal(text),
            self.id,
            member.user_id if member else None,
            None,
            True,
        )
        reply = self.tenant.client_event(self.id, event)
        proceed(reply, partial(self._said, room), partial(self._not_said, room))

    def _said(self, room: str, _nothing: object) -> None:
        if not self.ended:
            self.peer.send(lines.line("said", room))

    def _not_said(self, room: str, problem: Exception) -> None:
        if not isinstance(problem, EngineError):
            raise problem
        if not self.ended:
            self._refuse(ClientError(f"unavailable {room}"))
