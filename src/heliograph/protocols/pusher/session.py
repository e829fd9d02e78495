"""
The protocol state of one client: it takes messages and the time, and makes answers and commands.

Knows the messages of Pusher's clients. Knows nothing of sockets, frames or other nodes: it answers
through its `Peer`. `node.membership` enters and leaves channels for it.
"""

from functools import partial
from typing import Final, cast

from msgspec import Struct

from heliograph.engine.answers import Entry, Gap, Refusal, SignedIn
from heliograph.errors import MAX_ECHO, ClientError, EngineError
from heliograph.hub.channel import Lane, Subscription
from heliograph.hub.facts import Event, Member, Position
from heliograph.node.dialect import Ending, Peer
from heliograph.node.membership import Membership
from heliograph.node.tenant import Rule, Tenant
from heliograph.protocols.json import UNREADABLE, as_string_literal, string_size
from heliograph.protocols.kinds import (
    TAKES_CLIENT_EVENTS,
    USER_CHANNEL_PREFIX,
    Kind,
    kind_of,
    rule_of,
)
from heliograph.protocols.pusher import auth, messages, refusals
from heliograph.protocols.pusher.lanes import PusherLane
from heliograph.protocols.pusher.messages import User
from heliograph.protocols.pusher.names import CLIENT_EVENT_PREFIX, is_channel_name
from heliograph.reply import proceed

NO_HISTORY: Final = "no_history"
"""The reason of a gap: the client asked to continue in a channel that keeps no events."""


class SigningIn(Struct):
    """A sign-in that waits for the engine's answer, and the last sign-in received meanwhile."""

    user: User
    user_data: str
    following: "SigningIn | None" = None


class DialectSettings(Struct, frozen=True):
    """
    The settings that all sessions of a dialect share.

    *greeting* is the first message, with a placeholder for the socket id. With
    *subscription_errors*, a refused subscription is also answered with
    `pusher_internal:subscription_error`. The sessions of a user whose connections are terminated
    are closed with *terminate_code*.
    """

    greeting: bytes
    subscription_errors: bool
    terminate_code: int


class PusherSession(Membership):
    """The state of one client of an app."""

    __slots__ = ("_positions", "_settings", "_signing_in", "user")

    def __init__(self, socket_id: str, tenant: Tenant, settings: DialectSettings) -> None:
        super().__init__(socket_id, tenant)
        self.user: User | None = None
        self._signing_in: SigningIn | None = None
        # The channels of which the client asked for positions. False: it asked to continue, but the
        # channel keeps no events, so that it may miss some.
        self._positions: dict[str, bool] | None = None
        self._settings = settings

    def open(self, peer: Peer) -> bytes:
        """Return the first message, which the peer sends before anything else."""
        self.peer = peer
        return self._settings.greeting % self.id.encode()

    def receive(self, text: bytes, now: float) -> None:
        """Handle a message, valid UTF-8, that was received at *now* (monotonic seconds)."""
        try:
            try:
                message = messages.INCOMING.decode(text)
            except UNREADABLE:
                message = messages.read_message(text)
            if message.event.startswith(CLIENT_EVENT_PREFIX):
                self._client_event(message, now)
            elif message.event == messages.SUBSCRIBE:
                self._subscribe(message)
            else:
                self._handle(message)
        except ClientError as error:
            self.refuse(error)

    def refuse(self, error: ClientError) -> None:
        """Send *error* to the client, and close the connection if the error requires it."""
        if error.closes:
            self.peer.close(messages.goodbye(error))
        else:
            self.tenant.tally.refused(error.code)
            self.peer.send(messages.error_message(error))

    def close(self, ending: Ending) -> None:
        """End the connection, with Pusher's code and text for *ending*."""
        self.peer.close(messages.goodbye(refusals.ended(ending, self._settings.terminate_code)))

    def lost(self, channel: str, now: Entry | None) -> bool:
        """
        Return whether the session was interrupted, and reads the kept events again.

        Otherwise the client must reconnect: this protocol has no message for lost events.
        """
        interrupted = now is not None and now.history is not None
        return interrupted and self.knows_positions(channel)

    def on_end(self) -> None:
        """Sign out."""
        if self._signing_in is not None:
            user, self._signing_in = self._signing_in.user, None
            self.tenant.space.sign_out(user.id, self.id, user.watchlist)
        if self.user is not None:
            user, self.user = self.user, None
            self.tenant.unwatch(self, user.id)
            self.tenant.space.sign_out(user.id, self.id, user.watchlist)

    def _handle(self, message: messages.Incoming) -> None:
        match message.event:
            case messages.PING:
                self.peer.send(messages.PONG_MESSAGE)
            case messages.UNSUBSCRIBE:
                self._unsubscribe(message)
            case messages.SIGN_IN:
                self._sign_in(message)
            case messages.PONG:
                pass  # the peer has noted that the client is alive, as with any message
            case event:
                raise refusals.unsupported_event(event)

    # -- Subscriptions -------------------------------------------------------------------

    def _subscribe(self, message: messages.Incoming) -> None:
        request = messages.read_subscribe(message.data)
        name = request.channel
        try:
            kind, member = self._admitted(name, request)
        except ClientError as error:
            self._subscription_refused(name, error)
            return
        if self._positions is not None:
            # Of an earlier subscription that was not answered: the client is to be closed for it.
            self._positions.pop(name, None)
        tenant = self.tenant
        rule: Rule | None = None
        if not (kind.cached or tenant.histories.any):  # as in nine of ten apps
            rule = tenant.rules.get((kind.name, None))
        if rule is None:
            rule = rule_of(tenant, name, kind)
        if request.history is None:
            self.subscribe(name, rule, member)
        else:
            self._subscribe_with_positions(name, rule, member, request.history)

    def _subscribe_with_positions(
        self, name: str, rule: Rule, member: Member | None, asked: messages.AskedHistory
    ) -> None:
        try:
            request = messages.history_request(asked)
        except ClientError as error:
            self._subscription_refused(name, error)
            return
        has_positions = rule.history is not None and rule.history.positions
        if has_positions or request.since is not None:
            if self._positions is None:
                self._positions = {}
            self._positions[name] = has_positions
        self.subscribe(name, rule, member, request if has_positions else None)

    def _admitted(self, name: str, request: messages.Subscribe) -> tuple[Kind, Member | None]:
        app = self.tenant.app
        if not is_channel_name(name, app.max_channel_name_length):
            raise refusals.invalid_channel_name(name)
        if name in self.channels:
            raise refusals.already_subscribed(name)
        if len(self.channels) >= app.max_subscriptions > 0:
            raise refusals.too_many_subscriptions(app.max_subscriptions)
        kind = kind_of(name)
        if kind.user and (self.user is None or name != USER_CHANNEL_PREFIX + self.user.id):
            raise refusals.not_signed_in_as(name)
        if not kind.private:
            return kind, None
        signed = auth.channel_string(self.id, name, request.channel_data)
        self._check_signature(signed, request.auth or "", name)
        return kind, self._member(request) if kind.presence else None

    def _check_signature(self, signed: str, stated: str, channel: str | None = None) -> None:
        key, _, signature = stated.partition(":")
        tenant = self.tenant
        secret = tenant.app.secret(key)
        if secret is None:
            tenant.signature_failed("unknown key", channel)
            raise refusals.invalid_key(key)
        if not auth.matches(auth.sign(secret, signed), signature):
            tenant.signature_failed("wrong signature", channel)
            raise refusals.invalid_signature(signed, signature)

    def _member(self, request: messages.Subscribe) -> Member:
        if request.channel_data is None:
            if self.user is None:
                raise refusals.channel_data_required()
            return self.user.member
        app = self.tenant.app
        return messages.read_member(
            request.channel_data, app.max_presence_user_id_length, app.max_presence_user_bytes
        )

    def _subscription_refused(self, name: str, error: ClientError) -> None:
        if self._positions is not None and name not in self.channels:
            self._positions.pop(name, None)
        self.refuse(error)
        self.note_refused(name, error.message)
        # The Java client tries to decrypt each message of an encrypted channel, and throws here.
        # A client finds the channel by its whole name, so a name that would be cut is not sent.
        whole = len(name) <= MAX_ECHO or is_channel_name(
            name, self.tenant.app.max_channel_name_length
        )
        if self._settings.subscription_errors and whole and not kind_of(name).encrypted:
            self.peer.send(messages.subscription_error(name, error))

    def on_refused(self, channel: str, refusal: Refusal) -> None:
        """Refuse a subscription: the presence channel is full."""
        if refusal is not Refusal.FULL:
            raise AssertionError(f"a refusal without words: {refusal}")
        full = refusals.presence_channel_full(channel, self.tenant.app.max_presence_members)
        self._subscription_refused(channel, full)

    def on_forbidden(self, channel: str, reason: str) -> None:
        """Refuse a subscription that the application's rules forbid."""
        self._subscription_refused(channel, refusals.forbidden(channel, reason))

    def on_entered(self, channel: str, rule: Rule, member: Member | None, entry: Entry) -> None:
        """Acknowledge a subscription; notify the client if a cache channel has no event for it."""
        if member is None:
            answers = [messages.subscription_succeeded(channel)]
        else:
            answers = [messages.presence_succeeded(channel, entry.roster)]
        if entry.nothing_kept and rule.options.cached:
            answers.append(messages.cache_miss(channel))
        if self._positions is not None and self._positions.get(channel) is False:
            del self._positions[channel]
            self.tenant.tally.gap(NO_HISTORY)
            answers.append(messages.gap(channel, NO_HISTORY, None))
        self.peer.send(*answers)

    def on_caught_up(self, channel: str, position: Position) -> None:
        """Send the position to a client that asked for positions."""
        if self.knows_positions(channel):
            self.peer.send(messages.current_position(channel, position))

    def on_gap(self, channel: str, gap: Gap) -> None:
        """Notify a client that asked for positions of a gap; close any other."""
        if self.knows_positions(channel):
            self.peer.send(messages.gap(channel, gap.reason.name.lower(), gap.top))
        else:
            super().on_gap(channel, gap)

    def lane_of(self, channel: str) -> Lane:
        """Return the lane for *channel*: with positions if the client asked for them."""
        lane = cast("PusherLane", self.peer.lane)
        return lane.with_positions if self.knows_positions(channel) else lane

    def knows_positions(self, channel: str) -> bool:
        """Return whether the client asked for positions of *channel*, and has them."""
        return self._positions is not None and self._positions.get(channel, False)

    def _unsubscribe(self, message: messages.Incoming) -> None:
        name = messages.read_unsubscribe(message.data).channel
        if not self.unsubscribe(name):
            raise refusals.not_subscribed(name)
        if self._positions is not None:
            self._positions.pop(name, None)

    # -- Signing in ----------------------------------------------------------------------

    def _sign_in(self, message: messages.Incoming) -> None:
        request = messages.read_sign_in(message.data)
        if request.user_data is None:
            raise refusals.user_data_required()
        self._check_signature(auth.user_string(self.id, request.user_data), request.auth)
        app = self.tenant.app
        user = messages.read_user(request.user_data, app.max_presence_user_id_length)
        if not app.watchlist:
            user = User(user.id, user.member)
        pending = self._signing_in
        present = self.user or (None if pending is None else pending.user)
        if present is not None and present.id != user.id:
            raise refusals.already_signed_in(present.id)
        signing_in = SigningIn(user, request.user_data)
        if pending is None:
            self._ask_to_sign_in(signing_in)
        else:
            # The sign-ins are sent one after the other, so that the user is never offline between.
            pending.following = signing_in

    def _ask_to_sign_in(self, signing_in: SigningIn) -> None:
        self._signing_in = signing_in
        user = signing_in.user
        proceed(
            self.tenant.space.sign_in(user.id, self.id, user.watchlist),
            partial(self._signed_in, signing_in),
            self._sign_in_failed,
        )

    def _signed_in(self, signing_in: SigningIn, found: SignedIn) -> None:
        if self.ended:
            return  # it signs out once it has left its channels
        self._signing_in = None
        user, user_data = signing_in.user, signing_in.user_data
        before, self.user = self.user, user
        self.identified = True
        self.tenant.watch(self, user.id, user.watchlist)
        answers = [messages.signin_success(user_data)]
        if user.truncated:
            answers.append(messages.error_message(refusals.watchlist_limit(user.watchlist)))
        online = [one for one in user.watchlist if one in found.online]
        offline = [one for one in user.watchlist if one not in found.online]
        states = messages.watchlist_events(online, offline)
        if states is not None:
            answers.append(states)
        self.peer.send(*answers)
        if before is not None:
            self.tenant.space.sign_out(before.id, self.id, before.watchlist)
        if signing_in.following is not None and not self.ended:
            self._ask_to_sign_in(signing_in.following)

    def _sign_in_failed(self, error: Exception) -> None:
        if not isinstance(error, EngineError):
            raise error
        self._signing_in = None
        if not self.ended:
            self.close_unanswered(error)

    # -- Client events -------------------------------------------------------------------

    def _client_event(self, message: messages.Incoming, now: float) -> None:
        event = self._accepted_client_event(message)
        limit = self.tenant.app.max_client_events_per_second
        if limit and not self.take_token(limit, now):
            raise refusals.client_event_rate()
        reply = self.tenant.client_event(self.id, event)
        if reply is not None:
            proceed(reply, _done, self._client_event_failed)

    def _accepted_client_event(self, message: messages.Incoming) -> Event:
        app = self.tenant.app
        channel, data = message.channel, bytes(message.data)
        if not isinstance(channel, str) or not data:
            raise refusals.client_event_incomplete()
        if not app.client_events:
            raise refusals.client_events_disabled()
        if not channel.startswith(TAKES_CLIENT_EVENTS):
            raise refusals.client_event_wrong_channel()
        if type(self.channels.get(channel)) is not Subscription:
            raise refusals.client_event_not_subscribed(channel)
        if app.max_event_name_length and len(message.event) > app.max_event_name_length:
            raise refusals.client_event_name_too_long(app.max_event_name_length)
        if not data.startswith(b'"'):
            data = as_string_literal(data)
        # Escapes only make a literal longer, so the size of a short one is not computed.
        limit = app.max_event_bytes
        if limit and len(data) - 2 > limit and string_size(data) > limit:
            raise refusals.client_event_too_large(limit)
        member = self.members.get(channel) if self.members else None
        return Event(
            channel,
            message.event,
            data,
            self.id,
            member.user_id if member else None,
            None,
            True,
        )

    def _client_event_failed(self, error: Exception) -> None:
        if not isinstance(error, EngineError):
            raise error
        self.refuse(ClientError("Client event rejected - try again later"))


def _done(_nothing: object) -> None:
    """Do nothing."""
