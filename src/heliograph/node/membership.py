"""
The channels of a session: it enters and leaves them in the same way in every protocol.

The states of a subscription, in `channels`:

    missing ──subscribe──▶ Asked ──allowed──▶ Attempt ──entered──▶ Subscription
       ▲                     │                   │                     │
       └──────────────────leave, refused─────────┴─────────────────────┘

In the state Asked, the subscription waits for the policy; without a policy, an attempt begins at
once. If a session leaves the channel meanwhile, an engine does not answer the attempt, and the
answer of a policy is ignored. A Subscription receives the events that the channel keeps first, as
far as the client is to have them: a replay.

Knows no messages: the protocol makes them. The protocol's session derives from `Membership`, so
that a connection has one object and not two.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, cast

from msgspec import Struct

from heliograph.engine.answers import (
    POSITION_ONLY,
    Entry,
    FromTime,
    Gap,
    GapReason,
    Page,
    Refusal,
    Since,
)
from heliograph.engine.base import PAGE_BYTES, Leaving
from heliograph.errors import EngineError
from heliograph.hub.channel import Lane, Subscription
from heliograph.hub.facts import Event, Member, Position
from heliograph.node.away import Away
from heliograph.node.dialect import Ending, Peer, Session
from heliograph.node.journal import Connected, Subscribed, SubscriptionRefused
from heliograph.node.policy import Forbidden, Policy
from heliograph.node.replay import HistoryRequest, Replay, write_kept
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
    request: HistoryRequest | None


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
    `on_refused`, `on_forbidden`, `on_end` and `close`; `on_caught_up`, `on_gap`, `knows_positions`
    and `lane_of` if its clients know positions.
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
        "replays",
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
        self.replays: dict[str, Replay] | None = None  # those that are not over, by channel
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

    def on_caught_up(self, channel: str, position: Position) -> None:
        """
        Notify the client that it has all events up to *position*; live ones follow.

        Called once for a subscription with a history, unless `on_gap` is.
        """

    def on_gap(self, channel: str, gap: Gap) -> None:
        """
        Notify the client that it misses events, and that live ones follow after *gap.top*.

        A client that does not know positions is closed instead, and subscribes anew.
        """
        del channel, gap
        self.close(Ending.EVENTS_LOST)

    def lane_of(self, channel: str) -> Lane:
        """Return the lane for *channel*, with all facts; clients may have asked for positions."""
        del channel
        return self.peer.lane

    def knows_positions(self, channel: str) -> bool:
        """Return whether the client asked for positions of *channel*, and has them."""
        del channel
        return False

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
        self,
        channel: str,
        rule: Rule,
        member: Member | None,
        request: HistoryRequest | None = None,
        *,
        allowed: bool = False,
    ) -> None:
        """
        Begin to subscribe to *channel*, to which the session is not subscribed yet.

        With a *request*, the channels of *rule* have positions. Without one, the client receives
        the events that the rule is for. The policy, if there is one, is asked first, unless it has
        *allowed* this already.
        """
        tenant = self.tenant
        if tenant.policy is not None and not allowed:
            self._ask(tenant.policy, Asked(channel, rule, member, request))
            return
        attempt = self.channels[channel] = Attempt(channel, rule, member, request)
        history = rule.history
        since: Since | None = None if history is None else history.rewind
        if request is not None:
            since = request.since or since or POSITION_ONLY
        reply = tenant.space.enter(
            channel,
            self.id,
            rule.options,
            member=member,
            max_members=tenant.app.max_presence_members,
            since=since,
            numbered=request is not None,
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
            self.subscribe(asked.channel, asked.rule, asked.member, asked.request, allowed=True)

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
        lane = self.peer.lane if attempt.request is None else self.lane_of(channel)
        subscription = tenant.subscribe(self.peer, lane, channel, rule, entry)
        # All subscribers share the channel's string, instead of one from each client's message.
        del self.channels[channel]
        channel = subscription.channel.name
        self.channels[channel] = subscription
        if member is not None:
            if self.members is None:
                self.members = {}
            self.members[channel] = member
        if entry.history is not None:
            self._begin_replay(attempt, subscription, entry.history)
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

        The subscription is not refused instead: client libraries never retry a refused channel. If
        many sessions are not answered, they are closed over time.
        """
        self.tenant.unavailable(error)
        self.tenant.close_over_time(cast("Session", self), Ending.ENGINE_UNAVAILABLE)

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

    # -- History -------------------------------------------------------------------------

    def _begin_replay(
        self, attempt: Attempt, subscription: Subscription, history: Page | Gap
    ) -> None:
        """Write the history that an entry has, or begin to write it when the client has room."""
        request = attempt.request
        former_ids = frozenset[str]() if request is None else request.former_ids
        resumes = request is not None and isinstance(request.since, Position | FromTime)
        name = subscription.channel.name
        # The engine's answer stands where this node has delivered the events up to *top*.
        subscription.channel.position = history.top
        if isinstance(history, Gap):
            self._count_gap(history.reason)
            self.on_gap(name, history)
            return
        events = history.events
        if not history.more and (not events or self._may_write_now()):
            write_kept(self, name, events, former_ids)
            self.tenant.tally.resumes_continued += resumes
            self.on_caught_up(name, history.top)
            return
        keep = attempt.rule.options.keep
        if keep is None or not events:
            raise AssertionError("only a channel that keeps events has a history")
        begin = _before(events[0])
        self._replay(Replay(self, subscription, keep, begin, former_ids, resumes=resumes))

    def _replay(self, replay: Replay) -> None:
        if self.replays is None:
            self.replays = {}
        self.replays[replay.subscription.channel.name] = replay
        replay.subscription.lane = self._lane_in_replay()
        replay.go_on()

    def interrupt(self, channel: str) -> None:
        """Read the kept events that this node missed; see `Session.interrupt`."""
        subscription = self.channels.get(channel)
        if (
            self.ended
            or not isinstance(subscription, Subscription)
            or not self.knows_positions(channel)
            or self.replay_of(channel) is not None  # it reads on from its own position
        ):
            return
        here, keep = subscription.channel.position, self.tenant.keep_of(subscription)
        if here is None or keep is None:  # the channel's history was switched off since
            self.close(Ending.EVENTS_LOST)
            return
        self._write_pending(subscription)
        self._replay(Replay(self, subscription, keep, here, frozenset(), resumes=False))

    def _may_write_now(self) -> bool:
        """Whether a whole page can be written to the client, and nothing is to precede it."""
        return not self.replays and self.peer.room() >= PAGE_BYTES

    def _lane_in_replay(self) -> Lane:
        return self.peer.lane.without_kept

    def _count_gap(self, reason: GapReason) -> None:
        self.tenant.tally.gap(reason.name.lower())

    def replay_of(self, channel: str) -> Replay | None:
        """Return the replay of *channel* that is not over, if there is one."""
        return None if self.replays is None or self.ended else self.replays.get(channel)

    def on_room(self) -> None:
        """Go on with all replays: the client has read most of what was written."""
        for replay in (self.replays or {}).values():
            replay.go_on()

    def end_replay(self, replay: Replay, gap: Gap | None) -> None:
        """Let live events follow; notify the client of a *gap*, or that there is none."""
        subscription = replay.subscription
        channel = subscription.channel
        if self.replays is not None:
            del self.replays[channel.name]
        self._write_pending(subscription)  # without kept events: the replay has written these
        subscription.lane = self.lane_of(channel.name)
        if gap is None:
            self.tenant.tally.resumes_continued += replay.resumes
            self.on_caught_up(channel.name, replay.position)
        else:
            self._count_gap(gap.reason)
            self.on_gap(channel.name, gap)

    def _write_pending(self, subscription: Subscription) -> None:
        """Write, in its present lane, the facts that a flush has yet to write to a subscription."""
        channel, lane = subscription.channel, subscription.lane
        for fact in channel.unwritten(subscription):
            if not isinstance(fact, Event) or fact.except_id != self.id:
                self.peer.write(lane.encode(fact))
        subscription.since = channel.next

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
        for name, state in self.channels.items():
            if isinstance(state, Subscription):
                state.subscriber = peer
                replaying = self.replays is not None and name in self.replays
                state.lane = self._lane_in_replay() if replaying else self.lane_of(name)
        self.tenant.move(cast("Session", self), peer)
        self.on_room()

    # -- Leaving -------------------------------------------------------------------------

    def unsubscribe(self, channel: str) -> bool:
        """Leave *channel*; return whether the session was subscribed, or was subscribing, to it."""
        state = self.channels.pop(channel, None)
        if state is None:
            return False
        if self.replays is not None:
            self.replays.pop(channel, None)
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
        self.replays = None
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


def _before(event: Event) -> Position:
    """Return the position before a kept event."""
    position = event.position
    if position is None:
        raise AssertionError("a kept event has a position")
    return Position(position.epoch, position.offset - 1)
