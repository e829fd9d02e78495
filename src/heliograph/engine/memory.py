"""
The engine of a single process: every reply is a value, and the engine is always available.

Knows the number of subscriptions of each channel, the sessions of each member, and the event that a
channel keeps. Has no task and no timer, and of time only the clock that it is given.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from heliograph.engine.answers import (
    CacheFilled,
    CacheMiss,
    Change,
    ChannelOccupied,
    ChannelVacated,
    Counts,
    Entry,
    Kept,
    Mark,
    Options,
    Owed,
    Refusal,
    SignedIn,
    Wants,
)
from heliograph.engine.base import LARGE_CHANNEL, LARGE_INTERVAL_S, Leaving, Local
from heliograph.engine.presence import Presence
from heliograph.engine.share import Held, Share, count_less, count_more
from heliograph.hub.facts import (
    Event,
    Keep,
    Member,
    MemberAdded,
    MemberRemoved,
    SubscriptionCount,
    UserOffline,
    UserOnline,
    UserTerminated,
)

MAX_KEPT_EVENTS = 100_000
MAX_KEPT_BYTES = 64 << 20
"""Limits of the kept events of one app; each counts with its text and KEPT_OVERHEAD_BYTES."""

KEPT_OVERHEAD_BYTES = 320
"""Bytes of a kept event besides its text; 312 were measured."""

NAMES_AT_ONCE = 128
"""Channels that are searched for one part of a listing."""

SCOPE = ""
"""The whole state of an app is one scope."""


class _KeptEvents:
    """
    The last event of each channel that keeps one.

    Bounded: if a new event exceeds a limit, the events that were kept first are evicted.
    """

    __slots__ = ("_bytes", "_entries", "_max_bytes", "_max_events")

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._entries: dict[str, tuple[Event, float]] = {}  # channel -> event, when it expires
        self._bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes

    def put(self, event: Event, now: float, keep: Keep) -> int:
        """Keep *event*; return how many were evicted before they expired."""
        if keep.count != 1:
            raise AssertionError("one event of a channel is kept until there is history")
        # Removed first: a dict keeps the old position of a key, but a new event must be last.
        if event.channel in self._entries:
            self._remove(event.channel)
        self._entries[event.channel] = (event, now + keep.ttl_s)
        self._bytes += _size(event)
        self._expire(now)
        evicted = 0
        while len(self._entries) > self._max_events or self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))
            evicted += 1
        return evicted

    def get(self, channel: str, now: float) -> Kept | None:
        self._expire(now)
        entry = self._entries.get(channel)
        if entry is None or entry[1] <= now:
            return None
        return Kept(entry[0], entry[1] - now)

    def _expire(self, now: float) -> None:
        while self._entries:
            channel = next(iter(self._entries))
            if self._entries[channel][1] > now:
                return
            self._remove(channel)

    def _remove(self, channel: str) -> None:
        event, _ = self._entries.pop(channel)
        self._bytes -= _size(event)


def _size(event: Event) -> int:
    return len(event.data) + len(event.channel) + len(event.name) + KEPT_OVERHEAD_BYTES


class _Listing:
    """The occupied channels whose names begin with *prefix*; see the contract."""

    __slots__ = ("_prefix", "_space")

    def __init__(self, space: "MemorySpace", prefix: str) -> None:
        self._space = space
        self._prefix = prefix

    def __len__(self) -> int:
        return len(self._space.subscriptions)

    def __iter__(self) -> Iterator[Mapping[str, Counts]]:
        # Copying the names is one loop in C, about 1 ms for 100,000. The copy is made here, and not
        # in the constructor, so that it takes no memory while the listing waits to be read.
        names = list(self._space.subscriptions)
        space, prefix = self._space, self._prefix
        for start in range(0, len(names), NAMES_AT_ONCE):
            part: dict[str, Counts] = {}
            for name in names[start : start + NAMES_AT_ONCE]:
                if not name.startswith(prefix):
                    continue
                count = space.subscriptions.get(name, 0)
                if count:  # the channel was not vacated meanwhile
                    part[name] = Counts(count, len(space.presences.get(name) or ()))
            yield part


class MemorySpace:
    """
    The state of one app, which has one node; see the contract.

    The node is the holder of the app from the beginning. The engine stores no changes: state and
    holder end together.
    """

    __slots__ = (
        "_changes",
        "_deliver",
        "_due",
        "_engine",
        "_epoch",
        "_kept",
        "_local",
        "_wants",
        "app_id",
        "online",
        "presences",
        "subscriptions",
        "watched",
    )

    def __init__(
        self, engine: "MemoryEngine", app_id: str, local: Local, wants: Wants, kept: _KeptEvents
    ) -> None:
        self.app_id = app_id
        self.subscriptions: dict[str, int] = {}
        self.presences: dict[str, Presence] = {}
        self.online: dict[str, int] = {}  # user id -> sessions signed in
        self.watched: dict[str, int] = {}  # user id -> sessions that watch it
        self._engine = engine
        self._epoch = engine.epoch
        self._kept = kept
        self._wants = wants
        self._changes = 0
        self._due: dict[str, Options] = {}  # large channels whose number is to be stated
        self._local = local
        self._deliver = local.deliver

    def available(self, channel: str) -> bool:  # noqa: ARG002 - the same for every channel
        """Return True: the state is in this process."""
        return True

    def want(self, wants: Wants) -> None:
        """Owe the changes that are wanted now; see the contract."""
        self._wants = wants

    def publish(self, events: Sequence[Event]) -> None:
        """Deliver *events* at once; see the contract."""
        deliver, owes = self._deliver, self._wants.client_events
        for event in events:
            keep = event.keep
            if keep is not None:
                self._keep(event, keep)
            deliver(event)
            if owes and event.owed:
                self._owe(event)

    def _keep(self, event: Event, keep: Keep) -> None:
        now = self._engine.now()
        if self._wants.cache and self._kept.get(event.channel, now) is None:
            self._owe(CacheFilled(event.channel))
        evicted = self._kept.put(event, now, keep)
        if evicted:
            self._engine.evicted(self.app_id, evicted)

    def enter(
        self,
        channel: str,
        subscriber_id: str,  # noqa: ARG002 - numbers are counted, not subscribers
        options: Options,
        *,
        member: Member | None = None,
        max_members: int = 0,
    ) -> Entry | Refusal:
        """Count a subscription; see the contract."""
        count = self.subscriptions.get(channel, 0) + 1
        roster: Sequence[Member] = ()
        added: MemberAdded | None = None
        if member is not None:
            presence = self.presences.get(channel) or Presence()
            if max_members and len(presence) >= max_members and member.user_id not in presence:
                return Refusal.FULL
            self.presences[channel] = presence
            if presence.enter(member):
                added = MemberAdded(channel, member)
                self._deliver(added)
            roster = presence.roster()
        self.subscriptions[channel] = count
        if options.observed:
            if count == 1 and self._wants.occupancy:
                self._owe(ChannelOccupied(channel))
            if added is not None and self._wants.members:
                self._owe(added)
        if options.counted:
            self._state(channel, count, options)
        if options.keep is None:
            return Entry(count, roster)
        kept = self._kept.get(channel, self._engine.now())
        if kept is None and options.observed and self._wants.cache:
            self._owe(CacheMiss(channel))
        return Entry(count, roster, kept)

    def leave(self, channels: Iterable[Leaving], subscriber_id: str) -> None:  # noqa: ARG002 - as in enter
        """Undo `enter`; see the contract."""
        for channel, options, member in channels:
            count = self.subscriptions[channel] - 1
            observed = options.observed
            if member is not None and self.presences[channel].leave(member.user_id):
                removed = MemberRemoved(channel, member.user_id)
                self._deliver(removed)
                if observed and self._wants.members:
                    self._owe(removed)
            if count:
                self.subscriptions[channel] = count
            else:
                del self.subscriptions[channel]
                if member is not None:
                    del self.presences[channel]
                if observed and self._wants.occupancy:
                    self._owe(ChannelVacated(channel))
            if options.counted:
                self._state(channel, count, options)

    def sign_in(
        self,
        user_id: str,
        session_id: str,  # noqa: ARG002 - numbers are counted, not sessions
        watchlist: Sequence[str] = (),
    ) -> SignedIn:
        """Count a session of *user_id*; see the contract."""
        if count_more(self.online, user_id):
            notice = UserOnline(user_id)
            self._local.notice(notice)
            if self._wants.users:
                self._owe(notice)
        for other in watchlist:
            count_more(self.watched, other)
        return SignedIn(frozenset(self.online.keys() & watchlist))

    def sign_out(
        self,
        user_id: str,
        session_id: str,  # noqa: ARG002 - as in sign_in
        watchlist: Sequence[str] = (),
    ) -> None:
        """Undo `sign_in`; see the contract."""
        for other in watchlist:
            count_less(self.watched, other)
        if not count_less(self.online, user_id):
            return
        offline = UserOffline(user_id)
        self._local.notice(offline)
        if self._wants.users:
            self._owe(offline)

    def terminate(self, user_id: str) -> None:
        """Deliver `UserTerminated`, which closes the user's sessions; see the contract."""
        self._local.notice(UserTerminated(user_id))

    def counts(self, channels: Sequence[str]) -> Mapping[str, Counts]:
        """Return subscriptions and users of *channels*."""
        return {
            channel: Counts(
                self.subscriptions.get(channel, 0), len(self.presences.get(channel) or ())
            )
            for channel in channels
        }

    def channels(self, prefix: str) -> _Listing:
        """Return the occupied channels; see the contract."""
        return _Listing(self, prefix)

    def users(self, channel: str) -> Sequence[str]:
        """Return the ids of the users in *channel*."""
        presence = self.presences.get(channel)
        return presence.user_ids() if presence else []

    def kept(self, channel: str) -> Kept | None:
        """Return the event that *channel* keeps."""
        return self._kept.get(channel, self._engine.now())

    def state_count(self, channel: str) -> None:
        """Deliver the number of a large channel; see the contract."""
        options = self._due.pop(channel, None)
        count = self.subscriptions.get(channel, 0)
        if options is not None and count > LARGE_CHANNEL:  # a smaller number was stated already
            self._state_now(channel, count, options)

    def settle(self, mark: Mark) -> None:
        """Do nothing: this engine stores no changes; see the contract."""

    def share(self) -> Share:
        """Return all of the state; see the contract."""
        share = Share()
        for channel, count in self.subscriptions.items():
            presence = self.presences.get(channel)
            held = share.channels[channel] = Held(count)
            if presence is not None:
                held.sessions = presence.sessions()
                held.members = {member.user_id: member for member in presence.roster()}
        share.users = dict(self.online)
        share.watched = dict(self.watched)
        return share

    def _state(self, channel: str, count: int, options: Options) -> None:
        if count <= LARGE_CHANNEL:
            self._state_now(channel, count, options)
        elif channel not in self._due:
            self._due[channel] = options
            self._local.count_due(channel, LARGE_INTERVAL_S)

    def _state_now(self, channel: str, count: int, options: Options) -> None:
        fact = SubscriptionCount(channel, count)
        self._deliver(fact)
        if options.observed and self._wants.counts:
            self._owe(fact)

    def _owe(self, change: Change) -> None:
        self._changes += 1
        self._local.owe((Owed(change, Mark(SCOPE, self._epoch, self._changes)),))


def _ignore(_app_id: str, _count: int) -> None:
    """Ignore evictions."""


class MemoryEngine:
    """
    The engine of a server without other nodes.

    *now* reads a monotonic clock in seconds. *epoch* names this life of the state, and must be
    unique. The kept events of an app are bounded by *max_kept_events* and *max_kept_bytes*; above
    these limits, the events that were kept first are evicted, and *evicted* is called with the
    app's id and their number.
    """

    available = True
    """The state is in this process."""

    def __init__(
        self,
        now: Callable[[], float],
        *,
        epoch: str,
        evicted: Callable[[str, int], object] = _ignore,
        max_kept_events: int = MAX_KEPT_EVENTS,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        self.now = now
        self.epoch = epoch
        self.evicted = evicted
        self._max_kept_events = max_kept_events
        self._max_kept_bytes = max_kept_bytes
        self._spaces: set[str] = set()

    async def open(self) -> None:
        """Serve from now on: this engine opens nothing."""

    def space(self, app_id: str, local: Local, wants: Wants) -> MemorySpace:
        """Return the state of an app, whose only node becomes its holder; see the contract."""
        if app_id in self._spaces:
            raise AssertionError(f"app {app_id} has its space already")
        self._spaces.add(app_id)
        kept = _KeptEvents(self._max_kept_events, self._max_kept_bytes)
        space = MemorySpace(self, app_id, local, wants, kept)
        local.hold(self.epoch)
        local.restart(SCOPE, self.epoch)
        return space

    async def close(self, timeout_s: float) -> None:
        """End; the state ends with the process."""
