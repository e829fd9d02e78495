"""
A Tenant: one app on this node, with its hub, its sessions and its signed-in users.

The only module that uses hub, engine and sessions together. Knows no protocol, nothing of bytes,
sockets or HTTP, and of time only the clock and the timers of `Timing`.
"""

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from heliograph import rate
from heliograph.config.apps import App, HistoryRule
from heliograph.engine.answers import (
    Counts,
    Entry,
    Gap,
    Listing,
    Lost,
    Mark,
    Options,
    Owed,
    Page,
    Published,
    Since,
    Terms,
)
from heliograph.engine.base import LARGE_CHANNEL, PAGE_BYTES, Engine, Space
from heliograph.errors import EngineError, echoed
from heliograph.hub.channel import Counters, Lane, Subscriber, Subscription
from heliograph.hub.facts import (
    Event,
    Fact,
    Keep,
    Notice,
    Position,
    SubscriptionCount,
    UserOnline,
    UserStatus,
    UserTerminated,
)
from heliograph.hub.hub import Hub
from heliograph.hub.users import Users
from heliograph.node.closings import Closings
from heliograph.node.counting import Counting
from heliograph.node.dialect import Ending, Peer, Session
from heliograph.node.history import Histories, History
from heliograph.node.journal import (
    ClientEventSent,
    Disconnected,
    EventsPublished,
    Holding,
    Journal,
    Occurrence,
)
from heliograph.node.losses import Losses
from heliograph.node.policy import Policy
from heliograph.observe.log_throttle import Summary
from heliograph.observe.metrics import Tally
from heliograph.reply import Reply, after
from heliograph.slices import Each, LargeAnswers, Slices

logger = logging.getLogger(__name__)

CLOSED_AT_ONCE = 64
"""Above this number of sessions and their channels, they are closed in slices: some 10 µs each."""

ENGINE_UNAVAILABLE = "engine unavailable"
"""The subject of log lines about an engine, or a policy, that did not answer."""


# Compiled, a name that is not Final costs a lookup for each event.
_COUNT: Final = SubscriptionCount


class Rule(Struct, frozen=True, gc=False):
    """
    The node's properties of a kind of channel. One object for each kind and configuration.

    *kind* is its name in metrics. With *counts*, the channels send their subscribers the number of
    subscriptions if the app is configured so. With *identifies*, a client that subscribes has
    proved its identity. *history* is that of the channels, if they keep events.
    """

    kind: str
    options: Options
    counts: bool = False
    identifies: bool = False
    history: History | None = None


class Timing(Protocol):
    """The functions of an event loop that a node needs."""

    def soon(self, callback: Callable[[], object]) -> object:
        """Call *callback* at the end of this tick."""

    def when_read(self, callback: Callable[[], object]) -> object:
        """
        Call *callback* at the end of this tick, or of one of the next ticks under load.

        Under load: clients have sent more than this tick has time for.
        """

    def now(self) -> float:
        """Return the time, in monotonic seconds."""

    def later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> object:
        """Call *callback* with *arguments* in *delay_s* seconds."""


class Tenant:
    """
    One app on this node: its settings, its hub, its sessions; the `Local` of its space.

    *rules* has the rule of each kind of channel, by the name that the protocol gives the kind, and
    its history. *every* is the history of channels for which the app has no rule of its own.
    """

    def __init__(
        self,
        app: App,
        engine: Engine,
        timing: Timing,
        counters: Counters,
        *,
        keep: Keep,
        every: HistoryRule | None,
        tally: Tally,
        failures: Summary,
        outages: Summary,
        faults: Summary,
        journal: Journal,
        policy: Policy | None,
        slices: Slices,
        shuffle: Callable[[list[Any]], object],
    ) -> None:
        self.app = app
        self.retired = False  # the app was removed: its clients are closed, and receive no more
        self._keep = keep  # of cached channels
        self._every = every
        self.histories = Histories(app.history, every, keep)
        self.policy = policy
        self.rules: dict[tuple[str, History | None], Rule] = {}
        self._kinds: dict[str, Rule] = {}  # by name: a rule of the kind, whatever its history
        self._slices = slices
        # Each kind of large work of an app has its own owner in the slices, so that leaving many
        # channels, which takes long, delays neither a list nor a termination.
        self.large_answers: LargeAnswers[Any] = LargeAnswers(slices, (app.id, "answers"))
        self._closings = (app.id, "closings")
        self._departures = (app.id, "departures")
        self._replays = (app.id, "replays")
        self._failures = failures
        self._outages = outages
        self._faults = faults
        self.tally = tally
        self.users: Users[Session] = Users()
        self.subscriptions = 0
        self.channels_by_kind: dict[str, int] = {}
        self._publish_arrival = 0.0
        self._timing = timing
        self.hub = Hub(self._wake, counters, self._hurry)
        self._flushing = False  # a flush is scheduled for the end of this tick
        self.watching = Hub(self._flush_watching_soon, counters)  # its channels are watched users
        self.sessions: dict[str, Session] = {}
        self.leaving: set[str] = set()  # ids of sessions that ended, with channels yet to leave
        self._counting = Counting(
            timing.now, timing.when_read, timing.later, self._send_count, self._state_count
        )
        self._over_time = Closings(self.close_each, timing.later)
        self._losses = Losses(self._find_losses, self._concerned, self._over_time, shuffle)
        self.observers = journal.observers
        self._journal = journal
        self._holding = Holding(app.id, journal.owed, self._settle)
        # Last: a space calls its node from the beginning.
        self.space: Space = engine.space(app.id, self, journal.wants(app))

    def configure(self, app: App) -> None:
        """Apply the settings of *app* to later requests of its clients and publishers."""
        self.app = app
        self.retired = False
        self.histories = Histories(app.history, self._every, self._keep)
        for kind, rule in self._kinds.items():
            options = replace(rule.options, counted=rule.counts and app.subscription_count)
            self._kinds[kind] = replace(rule, options=options)
        self.rules.clear()  # they are made again when a client subscribes
        self.space.want(self._journal.wants(app))

    # -- For sessions --------------------------------------------------------------------

    def new_rule(
        self,
        kind: str,
        history: History | None,
        *,
        counts: bool,
        observed: bool,
        cached: bool,
        identifies: bool,
    ) -> Rule:
        """Make the rule of a kind of channel. It follows the configuration of the app."""
        options = Options(
            counted=counts and self.app.subscription_count,
            observed=observed,
            keep=None if history is None else history.keep,
            cached=cached,
        )
        rule = Rule(kind, options, counts, identifies, history)
        self.rules[kind, history] = self._kinds[kind] = rule
        return rule

    def subscribe(
        self, subscriber: Subscriber, lane: Lane, channel: str, rule: Rule, entry: Entry
    ) -> Subscription:
        """Write the facts of *channel* to *subscriber* from now on."""
        subscription = self.hub.subscribe(subscriber, channel, lane)
        found, kind = subscription.channel, rule.kind
        self.subscriptions += 1
        if len(found.subscriptions) == 1:
            found.kind = kind
            self.channels_by_kind[kind] = self.channels_by_kind.get(kind, 0) + 1
        if rule.options.counted and entry.count <= LARGE_CHANNEL:
            self._counting.changed(channel, entry.count)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> Options:
        """Undo `subscribe`; return the options to leave the channel with."""
        self.hub.unsubscribe(subscription)
        self.subscriptions -= 1
        channel = subscription.channel
        kind: str = channel.kind
        if not channel.subscriptions:
            self.channels_by_kind[kind] -= 1
        return self._kinds[kind].options

    def client_event(self, session_id: str, event: Event) -> Reply[object]:
        """Deliver a client's event to the other subscribers of its channel."""
        reply = self.space.publish((event,))
        if not self.observers:
            return reply
        return after(reply, lambda _nothing: self.record(ClientEventSent(session_id, event)))

    def watch(self, session: Session, user_id: str, watchlist: Sequence[str]) -> None:
        """
        Record that *session* is signed in as *user_id*, and watches the users of *watchlist*.

        It is closed when the user is terminated. *watchlist* replaces its previous one.
        """
        peer = session.peer
        lane = peer.lane
        watched = [self.watching.subscribe(peer, other, lane) for other in watchlist]
        self.watching.drop(self.users.sign_in(session, user_id, watched))

    def unwatch(self, session: Session, user_id: str) -> None:
        """Undo `watch`."""
        self.watching.drop(self.users.sign_out(session, user_id))

    def move(self, session: Session, peer: Peer) -> None:
        """Write notices of the users that *session* watches to *peer* from now on."""
        for subscription in self.users.watched_by(session):
            subscription.subscriber, subscription.lane = peer, peer.lane

    def signature_failed(self, reason: str, channel: str | None) -> None:
        """
        Count and log that a client sent an invalid signature; *reason* is one of a fixed set.

        The first log line of a minute has the *channel* that the signature is for.
        """
        self.tally.auth_failures += 1
        subject, reason = f"app {self.app.id}", f"a client was refused: {reason}"
        if self._failures.first(subject, reason):
            where = "" if channel is None else f" (channel {short(channel)})"
            logger.info("%s: %s%s", subject, reason, where)

    def unavailable(self, error: Exception) -> None:
        """Log that a client is closed since the engine, or the policy, did not answer."""
        reason = str(error) if isinstance(error, EngineError) else "the policy failed"
        self._outages.note(ENGINE_UNAVAILABLE, f"a client was closed ({reason})")

    def policy_failed(self, error: Exception) -> None:
        """Log a fault of the application's own rules."""
        self._faults.fault(f"app {self.app.id}: the policy failed", error)

    def has_session(self, session_id: str) -> bool:
        """Whether a session has this id; those that have ended and are leaving have theirs, too."""
        return session_id in self.sessions or session_id in self.leaving

    def ended(self, session_id: str) -> None:
        """Remove a session that ended from the tenant's sessions."""
        del self.sessions[session_id]
        if self.observers:
            self.record(Disconnected(session_id))

    def leave_in_slices(self, session_id: str, job: Iterator[None]) -> None:
        """Run *job*, with which an ended session leaves its channels, in slices."""
        self.leaving.add(session_id)
        self._slices.start(self._departures, chain(job, self._departed(session_id)))

    def _departed(self, session_id: str) -> Iterator[None]:
        self.leaving.discard(session_id)
        yield

    def keep_of(self, subscription: Subscription) -> Keep | None:
        """Return the present rule for kept events of a subscription's channel, if it has one."""
        channel = subscription.channel
        cached = self._kinds[channel.kind].options.cached
        history = self.histories.of(channel.name, cached=cached)
        return None if history is None else history.keep

    def replay_in_slices(self, job: Iterator[object]) -> None:
        """Run *job*, which writes history to a client, in slices."""
        self._slices.start(self._replays, job)

    def close_over_time(self, session: Session, ending: Ending) -> None:
        """Close *session*; if many are to be closed at this time, a few at a time."""
        self._over_time.add((session,), ending)

    # -- For publishers ------------------------------------------------------------------

    def publish(
        self, events: Sequence[Event], terms: Terms | None = None
    ) -> Reply[Published | None]:
        """Deliver *events* to all nodes; see `engine.base.Space.publish`."""
        reply = self.space.publish(events, terms)
        if not self.observers and (terms is None or terms.key is None):
            self.tally.publishes += len(events)
            return reply

        def noted(published: Published | None) -> Published | None:
            if published is None or not published.repeated:
                self.tally.publishes += len(events)
                self.record(EventsPublished(events))
            return published

        return after(reply, noted)

    def admit_publishes(self, count: int) -> float:
        """
        Count *count* events of the HTTP API against the rate limit of the app.

        Returns 0 if they are admitted, else the seconds after which the publisher may retry.
        """
        limit, now = self.app.max_publishes_per_second, self._timing.now()
        if not limit:
            return 0.0
        before = self._publish_arrival
        arrival = rate.admit(before, now, per_second=limit, burst_s=1.0, count=count)
        if arrival is None:
            self.tally.rate_limited_publishes += count
            return rate.wait_s(before, now, per_second=limit, burst_s=1.0)
        self._publish_arrival = arrival
        return 0.0

    def channels(self, prefix: str) -> Reply[Listing]:
        """Return the occupied channels whose names begin with *prefix*, not at one instant."""
        return self.space.channels(prefix)

    def counts(self, channels: Sequence[str]) -> Reply[Mapping[str, Counts]]:
        """Return the counts of *channels*, zeros for the unoccupied."""
        return self.space.counts(channels)

    def users_in(self, channel: str) -> Reply[Sequence[str]]:
        """Return the ids of the users in a presence channel."""
        return self.space.users(channel)

    def history(
        self,
        channel: str,
        since: Since,
        keep: Keep,
        *,
        limit: int = 0,
        max_bytes: int = PAGE_BYTES,
    ) -> Reply[Page | Gap]:
        """Return the events that *channel* keeps; see `engine.base.Space.history`."""
        return self.space.history(channel, since, keep, limit=limit, max_bytes=max_bytes)

    def terminate(self, user_id: str) -> Reply[None]:
        """Close every session signed in as *user_id*, on all nodes."""
        return self.space.terminate(user_id)

    # -- Called by the engine: see engine.base.Local -------------------------------------

    def deliver(self, fact: Fact, /) -> None:
        """Take a fact of a channel that was entered here."""
        if type(fact) is _COUNT:
            self._counting.changed(fact.channel, fact.count)
        elif not self.retired:
            self.hub.publish(fact)

    def notice(self, notice: Notice, /) -> None:
        """Take a notice of a user that is signed in, or watched, here."""
        if isinstance(notice, UserTerminated):
            self.close_each(self.users.sessions(notice.user_id), Ending.TERMINATED)
        elif not self.retired:
            self.watching.publish(UserStatus(notice.user_id, isinstance(notice, UserOnline)))

    def count_due(self, channel: str, in_s: float, /) -> None:
        """Ask the engine for the number of a large channel in *in_s* seconds."""
        self._counting.due(channel, in_s)

    def lost(self, losses: Sequence[Lost], /) -> None:
        """Count and log losses; notify the sessions that they concern, or close them over time."""
        self.tally.losses += len(losses)
        reason = losses[0].reason.value
        self._outages.note(f"app {self.app.id}", f"events may have been lost: {reason}")
        for loss in losses:
            if loss.channel is not None and loss.now is not None and loss.now.history is not None:
                self._read_again(loss.channel, loss.now.history.top)
        self._losses.take(losses)

    def _read_again(self, channel: str, top: Position) -> None:
        """
        Have the sessions that know positions read what *channel* kept since they were interrupted.

        Done at once: a later event of the channel would move the position of their clients beyond
        those that they miss.
        """
        sessions = self._concerned_by(channel)
        for session in sessions:
            session.interrupt(channel)
        if sessions:
            self.hub.set_position(channel, top)

    def hold(self, term: str, /) -> None:
        """Become the holder of the app."""
        self._holding.hold(term)

    def owe(self, changes: Sequence[Owed], /) -> None:
        """Take changes that are owed."""
        self._holding.owe(changes)

    def restart(self, scope: str, epoch: str, /) -> None:
        """Notify the observers that the state of *scope* begins from nothing."""
        self._holding.restart(scope, epoch)

    def release(self) -> None:
        """Stop being the holder of the app."""
        self._holding.release()

    # -- The rest ------------------------------------------------------------------------

    def record(self, occurrence: Occurrence) -> None:
        """Notify the observers; the fault of an observer is logged, and harms no client."""
        for observer in self.observers:
            try:
                observer(self.app.id, occurrence)
            except Exception as error:  # noqa: BLE001 - it is logged, the client goes on
                self._faults.fault(f"app {self.app.id}: an observer failed", error)

    def close(self, ending: Ending) -> None:
        """Close every session, many of them in slices."""
        self.close_each(list(self.sessions.values()), ending)

    def close_each(self, sessions: Sequence[Session], ending: Ending) -> None:
        """Close *sessions* of this app, many of them in slices."""
        close_sessions(self._slices, self._closings, sessions, ending)

    def _find_losses(self, job: Iterator[object]) -> None:
        self._slices.start(self._closings, job)

    def _concerned(self, loss: Lost) -> Iterable[Session]:
        if loss.user_id is not None:
            return self.users.sessions(loss.user_id)
        return self._concerned_by(loss.channel or "")

    def _concerned_by(self, channel: str) -> list[Session]:
        ids = self.hub.subscriber_ids(channel)
        return [self.sessions[one] for one in ids if one in self.sessions]

    def _settle(self, mark: Mark) -> None:
        self.space.settle(mark)

    def _state_count(self, channel: str) -> None:
        self.space.state_count(channel)

    def _send_count(self, channel: str, count: int) -> None:
        if not self.retired:
            self.hub.publish(SubscriptionCount(channel, count))

    def _flush_watching_soon(self) -> None:
        self._timing.when_read(self._flush_watching)

    def _flush_watching(self) -> None:
        try:
            self.watching.flush()
        finally:
            if self.watching.pending:
                self._flush_watching_soon()

    def _wake(self) -> None:
        self._timing.when_read(self._flush_all)

    def _hurry(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._timing.soon(self._flush)

    def _flush_all(self) -> None:
        """Flush members and counts, unless a flush is scheduled already."""
        if not self._flushing:
            self._flush()

    def _flush(self) -> None:
        self._flushing = False
        try:
            self.hub.flush()
        finally:
            if self.hub.pending:
                # The rest of a large fan-out, or of one in which a fault was raised, is written in
                # the next tick, so that the loop serves other clients before.
                self._hurry()


def close_sessions(
    slices: Slices,
    owner: Hashable,
    sessions: Sequence[Session],
    ending: Ending,
    then: Callable[[], object] = lambda: None,
) -> None:
    """Close *sessions*, many of them in slices, and call *then*."""

    def close(session: Session) -> None:
        if not session.ended:
            session.close(ending)

    job = Each(sessions, close, then)
    size = len(sessions)
    if size <= CLOSED_AT_ONCE:
        size += sum([len(session.channels) for session in sessions])
    if size > CLOSED_AT_ONCE:
        slices.start(owner, job)
    else:
        for _ in job:
            pass


MAX_LOGGED = 100
"""Characters of a text from a client that are logged."""


def short(text: str, size: int = MAX_LOGGED) -> str:
    """Return the beginning of *text*, which a client sent, in ASCII for the log."""
    return ascii(echoed(text, size))
