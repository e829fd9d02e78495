"""
A Tenant: one app on this node, with its hub, its sessions and its signed-in users.

The only place that uses hub, engine and sessions together. Knows nothing of bytes, sockets or HTTP,
and of time only what it is given to read and how to be called later.
"""

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

from heliograph import rate
from heliograph.apps import App
from heliograph.engine.answers import (
    Cached,
    CacheMiss,
    Counts,
    Departure,
    Entry,
    Happening,
    Listing,
    Refusal,
    SignedIn,
    SignedOut,
)
from heliograph.engine.base import Engine
from heliograph.errors import EngineError, echoed
from heliograph.hub.channel import Counters, Subscription
from heliograph.hub.facts import (
    Event,
    Fact,
    Member,
    Notice,
    SubscriptionCount,
    UserOffline,
    UserOnline,
    UserTerminated,
)
from heliograph.hub.hub import Hub
from heliograph.hub.users import Users
from heliograph.metrics import Tally
from heliograph.node.counting import Counting
from heliograph.node.dialect import Ending
from heliograph.node.dialect import Session as AnySession
from heliograph.protocols.pusher import messages
from heliograph.protocols.pusher.messages import User
from heliograph.protocols.pusher.names import Kind
from heliograph.protocols.pusher.session import Session
from heliograph.reply import Later, Reply, after, proceed
from heliograph.slices import Each, LargeAnswers, Slices
from heliograph.summary import Summary

logger = logging.getLogger(__name__)

CLOSED_AT_ONCE = 64
"""More sessions than this, with their channels, are closed in slices: some 10 µs for each."""

NOTIFIED_AT_ONCE = 64
"""More watchers than this are notified of a user in slices."""

ENGINE_AWAY = "engine unavailable"
"""What the log calls it."""


class Timing(Protocol):
    """What a node needs of an event loop."""

    def soon(self, callback: Callable[[], object]) -> object:
        """Have *callback* called at the end of this tick."""

    def when_read(self, callback: Callable[[], object]) -> object:
        """
        Have *callback* called at the end of this tick or, while clients have sent more than it has
        time for, of one of the next.
        """

    def now(self) -> float:
        """Return the time, in monotonic seconds."""

    def later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> object:
        """Have *callback* called with *arguments* in *delay_s* seconds."""


Record = Callable[[str, Happening], None]
"""Takes an app's id and what happened there."""


class Tenant:
    """One app on this node: its settings, its hub, its sessions."""

    def __init__(
        self,
        app: App,
        engine: Engine,
        timing: Timing,
        counters: Counters,
        *,
        tally: Tally,
        failures: Summary,
        outages: Summary,
        record: Record,
        slices: Slices,
    ) -> None:
        self.app = app
        self._slices = slices
        # Each kind of large work of an app has an owner of its own: leaving many channels takes
        # long, and delays neither a list nor a termination.
        self.large_answers: LargeAnswers[Any] = LargeAnswers(slices, (app.id, "answers"))
        self._closings = (app.id, "closings")
        self._departures = (app.id, "departures")
        self._notices = (app.id, "notices")
        self._failures = failures
        self._outages = outages
        self.tally = tally
        self.users: Users[Session] = Users()
        self.subscriptions = 0
        self.channels_by_kind: dict[str, int] = {}
        self._publishes_paid_until = 0.0
        self._record = record
        self.hub = Hub(self._wake, counters, self._hurry)
        self._flushing = False  # or about to
        self.sessions: dict[str, Session] = {}
        self.leaving: dict[str, Session] = {}  # ended, with channels yet to leave
        self._engine = engine
        self._timing = timing
        self._counting = Counting(timing.now, timing.later, self._send_count)

    # -- What sessions ask ---------------------------------------------------------------

    def enter(
        self, session: Session, channel: str, kind: Kind, member: Member | None
    ) -> Reply[Entry | Refusal]:
        """Make a subscription known to everybody."""
        reply: Reply[Entry | Refusal] = self._engine.enter(
            self.app.id,
            channel,
            session.id,
            member=member,
            max_members=self.app.max_presence_members,
            replay=kind.cached,
        )
        if not self.app.webhooks or not self._watched(kind):
            return reply
        return after(reply, self._entered) if isinstance(reply, Later) else self._entered(reply)

    def _entered(self, entry: Entry | Refusal) -> Entry | Refusal:
        # Here, and not where the session goes on: it may have given up meanwhile.
        if isinstance(entry, Entry):
            self._tell(entry.changes)
        return entry

    def _watched(self, kind: Kind) -> bool:
        """Whether anybody outside wants to know what happens on such a channel."""
        return bool(self.app.webhooks) and not kind.user

    def _tell(self, happenings: Iterable[Happening]) -> None:
        for happening in happenings:
            self._record(self.app.id, happening)

    def subscribe(self, session: Session, channel: str, kind: Kind, entry: Entry) -> Subscription:
        """Have what is said on *channel* from now on written to the session's peer."""
        subscription = self.hub.subscribe(session.peer, channel, session.peer.lane)
        self.subscriptions += 1
        if len(subscription.channel.subscriptions) == 1:
            name = kind.name
            self.channels_by_kind[name] = self.channels_by_kind.get(name, 0) + 1
        if self.app.subscription_count and kind.counted:
            self._counting.changed(channel, entry.count)
        if kind.cached and entry.cached is None and self._watched(kind):
            self._tell((CacheMiss(channel),))
        return subscription

    def leave(
        self, session: Session, channel: str, kind: Kind, subscription: Subscription | None
    ) -> None:
        """Undo `enter`, and `subscribe` where it came to that."""
        if subscription is not None:
            self.hub.unsubscribe(subscription)
            self.subscriptions -= 1
            if not subscription.channel.subscriptions:
                self.channels_by_kind[kind.name] -= 1

        reply = self._engine.leave(self.app.id, channel, session.id)
        if isinstance(reply, Later):
            reply.then(partial(self._left, channel, kind), self._lost)
        else:
            self._left(channel, kind, reply)

    def _left(self, channel: str, kind: Kind, departure: Departure) -> None:
        if self.app.subscription_count and kind.counted:
            self._counting.changed(channel, departure.count)
        if self.app.webhooks and self._watched(kind):
            self._tell(departure.changes)

    def client_event(self, _session: Session, event: Event) -> Reply[None]:
        """Have a client's event delivered to the others on its channel."""
        reply = self._engine.publish(self.app.id, (event,))
        if not self.app.webhooks:
            return reply
        return after(reply, lambda _nothing: self._tell((event,)))

    def sign_in(self, session: Session, user: User) -> Reply[SignedIn]:
        """Make it known to everybody that the session is *user*."""
        watchlist = user.watchlist if self.app.watchlist else ()
        reply = self._engine.sign_in(self.app.id, user.id, session.id, watchlist)
        return after(reply, self._signed_in) if self.app.webhooks else reply

    def _signed_in(self, found: SignedIn) -> SignedIn:
        self._tell(found.changes)
        return found

    def watch(self, session: Session, user: User) -> None:
        """Have the session told of those it watches, and closed with its user."""
        self.users.sign_in(session, user.id, user.watchlist if self.app.watchlist else ())

    def sign_out(self, session: Session, user: User) -> None:
        """Undo `sign_in`, and `watch` where it came to that."""
        self.users.sign_out(session, user.id)

        def signed_out(found: SignedOut) -> None:
            if self.app.webhooks:
                self._tell(found.changes)

        proceed(self._engine.sign_out(self.app.id, user.id, session.id), signed_out, self._lost)

    def signature_failed(self, reason: str, channel: str | None) -> None:
        """
        Take note that a client showed a signature that is none; *reason* is of a few.

        The first line of a minute has the *channel* that it is for.
        """
        self.tally.auth_failures += 1
        subject, reason = f"app {self.app.id}", f"a client was refused: {reason}"
        if self._failures.first(subject, reason):
            where = "" if channel is None else f" (channel {short(channel)})"
            logger.info("%s: %s%s", subject, reason, where)

    def ended(self, session: Session) -> None:
        """Count the session no more."""
        del self.sessions[session.id]

    def leave_in_slices(self, session: Session, job: Iterator[None]) -> None:
        """Have *job* done, by which an ended session leaves, between the loop's other work."""
        self.leaving[session.id] = session
        self._slices.start(self._departures, chain(job, self._departed(session)))

    def _departed(self, session: Session) -> Iterator[None]:
        del self.leaving[session.id]
        yield

    # -- What publishers ask -------------------------------------------------------------

    def publish(self, events: Sequence[Event]) -> Reply[None]:
        """Have *events* delivered to all nodes, all of them or none."""
        self.tally.publishes += len(events)
        reply = self._engine.publish(self.app.id, events)
        if not self.app.webhooks:
            return reply
        # A cache channel that is filled again may be told to miss again.
        return after(reply, lambda _nothing: self._tell(one for one in events if one.cached))

    def pay_for(self, count: int) -> float:
        """Count *count* events from outside; return in how many seconds if they come too fast."""
        limit, now = self.app.max_publishes_per_second, self._timing.now()
        before = self._publishes_paid_until
        after_them = rate.paid_until(before, now, per_second=limit, burst_s=1.0, count=count)
        if after_them is None:
            self.tally.rate_limited_publishes += count
            return rate.wait_s(before, now, per_second=limit, burst_s=1.0)
        self._publishes_paid_until = after_them
        return 0.0

    def channels(self, prefix: str) -> Reply[Listing]:
        """Return the occupied channels whose names begin with *prefix*, not at one instant."""
        return self._engine.channels(self.app.id, prefix)

    def counts(self, channels: Sequence[str]) -> Reply[Mapping[str, Counts]]:
        """Return the counts of *channels*, zeros for the unoccupied."""
        return self._engine.counts(self.app.id, channels)

    def users_in(self, channel: str) -> Reply[Sequence[str]]:
        """Return the ids of the users in a presence channel."""
        return self._engine.users(self.app.id, channel)

    def cached(self, channel: str) -> Reply[Cached | None]:
        """Return the cached event of a channel."""
        return self._engine.cached(self.app.id, channel)

    def terminate(self, user_id: str) -> Reply[None]:
        """Have every session signed in as *user_id* closed, on all nodes."""
        return self._engine.terminate(self.app.id, user_id)

    # -- What the engine delivers --------------------------------------------------------

    def deliver(self, said: Fact | Notice) -> None:
        """Take what is said on a channel, or about a user."""
        if isinstance(said, UserOnline):
            self._tell_watchers(said.user_id, messages.watchlist_events([said.user_id], []))
        elif isinstance(said, UserOffline):
            self._tell_watchers(said.user_id, messages.watchlist_events([], [said.user_id]))
        elif isinstance(said, UserTerminated):
            sessions = self.users.sessions(said.user_id)
            self.close_each(sessions, Ending.TERMINATED)
        else:
            self.hub.publish(said)

    def _tell_watchers(self, user_id: str, message: bytes | None) -> None:
        if message is None:
            return
        watchers = self.users.watchers(user_id)
        # Never past a notice that not all of its watchers have received.
        if len(watchers) > NOTIFIED_AT_ONCE or self._slices.busy(self._notices):
            notify = partial(self._tell_watcher, user_id, message)
            self._slices.start(self._notices, Each(watchers, notify))
            return
        for session in watchers:
            if not session.ended:
                session.peer.send(message)

    def _tell_watcher(self, user_id: str, message: bytes, session: Session) -> None:
        # It may have ended meanwhile, or signed in again with another watchlist.
        if not session.ended and self.users.watches(session, user_id):
            session.peer.send(message)

    # -- The rest ------------------------------------------------------------------------

    def close(self, ending: Ending) -> None:
        """Close every session, many of them in slices."""
        self.close_each(list(self.sessions.values()), ending)

    def close_each(self, sessions: Sequence[Session], ending: Ending) -> None:
        """Close *sessions* of this app, many of them in slices."""
        close_sessions(self._slices, self._closings, sessions, ending)

    def _wake(self) -> None:
        self._timing.when_read(self._flush_all)

    def _hurry(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._timing.soon(self._flush)

    def _flush_all(self) -> None:
        """Begin to flush what could wait, unless that goes on already."""
        if not self._flushing:
            self._flush()

    def _flush(self) -> None:
        self._flushing = False
        try:
            self.hub.flush()
        finally:
            if self.hub.pending:
                # The rest of a large fan-out, or of one that met a fault of ours: the loop turns
                # once, for everybody else.
                self._hurry()

    def _send_count(self, channel: str, count: int) -> None:
        fact = SubscriptionCount(channel, count)
        proceed(self._engine.publish(self.app.id, (fact,)), _done, self._lost)
        if self.app.webhooks:
            self._tell((fact,))

    def _lost(self, error: Exception) -> None:
        if not isinstance(error, EngineError):
            raise error
        self._outages.note(ENGINE_AWAY, f"an update was lost ({error})")


def _done(_nothing: object) -> None:
    """Nothing is left to do."""


def close_sessions(
    slices: Slices,
    owner: Hashable,
    sessions: Sequence[AnySession],
    ending: Ending,
    then: Callable[[], object] = lambda: None,
) -> None:
    """Close *sessions*, and call *then*; at once if they are few, else in slices."""

    def close(session: AnySession) -> None:
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


SHOWN = 100
"""Characters that the log shows of a stranger's text."""


def short(text: str, size: int = SHOWN) -> str:
    """Return the beginning of *text*, which a stranger sent, as the log can show it."""
    return ascii(echoed(text, size))
