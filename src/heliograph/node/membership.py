"""
The channels of a session: it enters and leaves them in the same way in every protocol.

The states of a subscription, in `channels`:

    missing ──subscribe──▶ Asked ──allowed──▶ Attempt ──entered──▶ Subscription
       ▲                     │                   │                     │
       └──────────────────leave, refused─────────┴─────────────────────┘

In the state Asked, the subscription waits for the policy; without a policy, an attempt begins at
once. If a session leaves the channel meanwhile, an engine does not answer the attempt, and the
answer of a policy is ignored.

Knows no messages: the protocol makes them. The protocol's session derives from `Membership`, so
that a connection has one object and not two.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, cast

from msgspec import Struct

from heliograph.engine.answers import Entry, Refusal
from heliograph.engine.base import Leaving
from heliograph.errors import EngineError
from heliograph.hub.channel import Subscription
from heliograph.hub.facts import Member
from heliograph.node.away import Away
from heliograph.node.dialect import Ending, Peer, Session
from heliograph.node.journal import Connected, Subscribed, SubscriptionRefused
from heliograph.node.policy import Forbidden, Policy
from heliograph.node.tenant import Rule, Tenant
from heliograph.reply import Later, proceed
from heliograph.slices import Each

LEFT_AT_ONCE = 32
"""A session with more channels than this leaves them in slices: each channel takes some 10 µs."""

LEFT_IN_A_PIECE = 16
"""Channels that a session leaves together in one piece of that work."""


class Asked(Struct, frozen=True, eq=False):
    """A subscription that waits for the policy's answer."""

    channel: str
    rule: Rule
    member: Member | None


class Attempt(Asked, frozen=True, eq=False):
    """A subscription that the policy allowed, and that waits for the engine's answer."""


SubscriptionState = Subscription | Attempt | Asked
"""The state of a session's subscription to a channel."""


class Membership:
    """
    The channels of one session of a tenant: the base of each protocol's session.

    The tenant counts the session from now on, until it ends. *session_id* must be one that
    `tenant.has_session` does not know.

    *identified* is True once the client has proved its identity. A protocol overrides `on_entered`,
    `on_refused`, `on_forbidden`, `on_end` and `close`.
    """

    __slots__ = (
        "_refilled",
        "_tokens",
        "channels",
        "ended",
        "id",
        "identified",
        "members",
        "peer",
        "tenant",
    )

    def __init__(self, session_id: str, tenant: Tenant) -> None:
        self.id = session_id
        self.tenant = tenant
        self.peer: Peer
        self.identified = False
        self.ended = False
        self.channels: dict[str, SubscriptionState] = {}
        self.members: dict[str, Member] | None = None  # the session's member, by presence channel
        # None is a full bucket, so that idle clients share it; see take_token.
        self._tokens: float | None = None
        self._refilled = 0.0
        session: Any = self  # each protocol's class is a Session
        tenant.sessions[session_id] = session
        if tenant.observers:
            tenant.record(Connected(session_id))

    # -- Overridden by protocols ---------------------------------------------------------

    def on_entered(self, channel: str, rule: Rule, member: Member | None, entry: Entry) -> None:
        """Acknowledge a subscription. Facts of the channel are sent after this call."""
        raise NotImplementedError

    def on_refused(self, channel: str, refusal: Refusal) -> None:
        """Notify the client that the engine refused a subscription."""
        raise NotImplementedError

    def on_forbidden(self, channel: str, reason: str) -> None:
        """Notify the client that the policy refused a subscription."""
        raise NotImplementedError

    def on_end(self) -> None:
        """Leave all state other than channels: called once the channels are left."""
        raise NotImplementedError

    def close(self, ending: Ending) -> None:
        """End the connection, with the text and code that the protocol has for *ending*."""
        raise NotImplementedError

    # -- Entering ------------------------------------------------------------------------

    def subscribe(
        self, channel: str, rule: Rule, member: Member | None, *, allowed: bool = False
    ) -> None:
        """
        Begin to subscribe to *channel*, to which the session is not subscribed yet.

        The policy, if there is one, is asked first, unless it has *allowed* this already.
        """
        tenant = self.tenant
        if tenant.policy is not None and not allowed:
            self._ask(tenant.policy, Asked(channel, rule, member))
            return
        attempt = self.channels[channel] = Attempt(channel, rule, member)
        reply = tenant.space.enter(
            channel,
            self.id,
            rule.options,
            member=member,
            max_members=tenant.app.max_presence_members,
        )
        if isinstance(reply, Later):
            reply.then(partial(self._answered, attempt), partial(self._failed, attempt))
        else:
            self._answered(attempt, reply)

    def _ask(self, policy: Policy, asked: Asked) -> None:
        self.channels[asked.channel] = asked
        try:
            reply = policy.authorize(self.tenant.app.id, self.id, asked.channel, asked.member)
        except Exception as error:  # noqa: BLE001 - application code that raises has failed
            self._not_allowed(asked, error)
            return
        proceed(reply, partial(self._allowed, asked), partial(self._not_allowed, asked))

    def _allowed(self, asked: Asked, _nothing: None) -> None:
        if self.channels.get(asked.channel) is asked and not self.ended:
            self.subscribe(asked.channel, asked.rule, asked.member, allowed=True)

    def _not_allowed(self, asked: Asked, error: Exception) -> None:
        if not isinstance(error, Forbidden | EngineError):
            self.tenant.policy_failed(error)
        if self.channels.get(asked.channel) is not asked:
            return
        del self.channels[asked.channel]
        if self.ended:
            return
        if isinstance(error, Forbidden):
            self.on_forbidden(asked.channel, error.reason)
        else:
            self.close_unanswered(error)

    def _answered(self, attempt: Attempt, entry: Entry | Refusal) -> None:
        channel, rule, member = attempt.channel, attempt.rule, attempt.member
        if isinstance(entry, Refusal):
            del self.channels[channel]
            if not self.ended:
                self.on_refused(channel, entry)
            return
        if self.ended:
            return  # the session leaves this channel in a later slice
        if rule.identifies:
            self.identified = True
        self.on_entered(channel, rule, member, entry)
        tenant = self.tenant
        subscription = tenant.subscribe(self.peer, self.peer.lane, channel, rule, entry)
        # All subscribers share the channel's string, instead of one from each client's message.
        del self.channels[channel]
        channel = subscription.channel.name
        self.channels[channel] = subscription
        if member is not None:
            if self.members is None:
                self.members = {}
            self.members[channel] = member
        if tenant.observers:
            user_id = None if member is None else member.user_id
            tenant.record(Subscribed(self.id, channel, user_id))

    def _failed(self, attempt: Attempt, error: Exception) -> None:
        if not isinstance(error, EngineError):
            raise error
        self.channels.pop(attempt.channel, None)
        if not self.ended:
            self.close_unanswered(error)

    def close_unanswered(self, error: Exception) -> None:
        """
        Close the session, since the engine, or the policy, did not answer; the client reconnects.

        The subscription is not refused instead: client libraries never retry a refused channel.
        """
        self.tenant.unavailable(error)
        self.close(Ending.ENGINE_UNAVAILABLE)

    def note_refused(self, channel: str, reason: str) -> None:
        """Notify the observers of a subscription that engine, policy or protocol refused."""
        if self.tenant.observers:
            self.tenant.record(SubscriptionRefused(self.id, channel, reason))

    def take_token(self, per_second: int, now: float) -> bool:
        """
        Return whether the client may send one more event at *now*, at a rate of *per_second*.

        A client that sent no event for a second may send *per_second* events at once.
        """
        if self._tokens is None:
            tokens = float(per_second)
        else:
            tokens = min(per_second, self._tokens + (now - self._refilled) * per_second)
        self._refilled = now
        self._tokens = tokens - 1 if tokens >= 1 else tokens
        return tokens >= 1

    # -- Without a connection ------------------------------------------------------------

    def detach(self, most_bytes: int) -> None:
        """Go on without a connection; see `Session.detach`."""
        if self.ended or isinstance(self.peer, Away):
            raise AssertionError("only a session with a connection can lose it")
        self._move(Away(self.id, self.peer.lane, most_bytes, self.end))

    def attach(self, peer: Peer) -> None:
        """Go on with a connection; see `Session.attach`."""
        away = self.peer
        if self.ended:
            self.peer = peer  # its subscriptions are ending: nothing more is written for them
            if isinstance(away, Away) and away.goodbye is not None:
                peer.close(away.goodbye)
            else:
                self.close(Ending.EVENTS_LOST)
            return
        if not isinstance(away, Away):
            raise AssertionError("a session has one connection at a time")  # noqa: TRY004 - a fault of the caller
        self._move(peer)
        if away.dropped or (away.chunks and peer.lane is not away.lane):
            self.close(Ending.EVENTS_LOST)
            return
        for chunk in away.chunks:
            peer.write(chunk)

    def _move(self, peer: Peer) -> None:
        """Write all data for the client to *peer* from now on."""
        self.peer = peer
        lane = peer.lane
        for state in self.channels.values():
            if isinstance(state, Subscription):
                state.subscriber = peer
                state.lane = lane
        self.tenant.move(cast("Session", self), peer)

    # -- Leaving -------------------------------------------------------------------------

    def unsubscribe(self, channel: str) -> bool:
        """Leave *channel*; return whether the session was subscribed, or was subscribing, to it."""
        state = self.channels.pop(channel, None)
        if state is None:
            return False
        self._leave(((channel, state),))
        return True

    def end(self) -> None:
        """
        Leave all channels, then sign out; see `Session.end`.

        From now on the session is not counted, and nothing is sent to its client. If it has many
        channels, it leaves them in slices. If the engine answers an attempt before the slice that
        leaves its channel, the answer changes only what that slice has to leave.
        """
        if self.ended:
            return
        self.ended = True
        if isinstance(self.peer, Away):
            self.peer.release()
        channels = self.channels
        tenant = self.tenant
        if len(channels) > LEFT_AT_ONCE:
            tenant.ended(self.id)
            job = Each(self._parts(), self._leave_part, self.on_end)
            tenant.leave_in_slices(self.id, job)
            return
        if channels:
            self.channels = {}
            self._leave(channels.items())
        self.on_end()
        tenant.ended(self.id)

    def _parts(self) -> Iterator[list[str]]:
        """Yield the channels to leave; listed in the first slice: many sessions may wait for it."""
        names = iter(list(self.channels))
        while part := list(islice(names, LEFT_IN_A_PIECE)):
            yield part

    def _leave_part(self, names: list[str]) -> None:
        # Attempts that were refused, or failed, since the session ended are in *channels* no more.
        channels = self.channels
        self._leave([(name, channels.pop(name)) for name in names if name in channels])

    def _leave(self, states: Iterable[tuple[str, SubscriptionState]]) -> None:
        tenant, members = self.tenant, self.members
        leaving: list[Leaving] = []
        for name, state in states:
            if isinstance(state, Subscription):
                options = tenant.unsubscribe(state)
                member = None if members is None else members.pop(name, None)
                leaving.append((name, options, member))
            elif isinstance(state, Attempt):
                leaving.append((name, state.rule.options, state.member))
        if leaving:
            tenant.space.leave(leaving, self.id)
