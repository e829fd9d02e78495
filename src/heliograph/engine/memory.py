"""
The engine of a single process: every answer is a value, nothing is ever away.

Knows subscriptions by number, presence by session, and the last event of each cache
channel. Knows no sockets, and of time only what it is given to read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from heliograph.engine.answers import (
    Cached,
    Change,
    ChannelOccupied,
    ChannelVacated,
    Counts,
    Departure,
    Entry,
    Listing,
    Refusal,
    SignedIn,
    SignedOut,
)
from heliograph.engine.base import Deliver
from heliograph.hub.facts import (
    Event,
    Fact,
    Member,
    MemberAdded,
    MemberRemoved,
    Notice,
    UserOffline,
    UserOnline,
    UserTerminated,
)
from heliograph.hub.presence import Presence

MAX_CACHED_EVENTS = 100_000
MAX_CACHED_BYTES = 64 << 20
"""What the cached events of one app may hold, each with its text and CACHED_OVERHEAD_BYTES."""

CACHED_OVERHEAD_BYTES = 320
"""What a cached event takes besides its text: measured, 312."""


class _AppState:
    """What is shared of one app."""

    __slots__ = ("cache", "presences", "subscriptions", "users")

    def __init__(self, cache: "_Cache") -> None:
        self.users: dict[str, set[str]] = {}  # user id -> ids of sessions signed in
        self.subscriptions: dict[str, int] = {}
        self.presences: dict[str, Presence] = {}
        self.cache = cache


class _Cache:
    """
    The last event of each cache channel, in the order in which they expire.

    Bounded: what a new event finds no room for are those that would expire first.
    """

    __slots__ = ("_bytes", "_entries", "_max_bytes", "_max_events")

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._entries: dict[str, tuple[Event, float]] = {}  # channel -> event, when it expires
        self._bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes

    def put(self, event: Event, now: float, ttl_s: float) -> int:
        """Keep *event*; return how many had to go before their time."""
        # Taken out first: a dict keeps the old place of a key, and we count on the order.
        if event.channel in self._entries:
            self._remove(event.channel)
        self._entries[event.channel] = (event, now + ttl_s)
        self._bytes += _size(event)
        self._expire(now)
        evicted = 0
        while len(self._entries) > self._max_events or self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))
            evicted += 1
        return evicted

    def get(self, channel: str, now: float) -> Cached | None:
        self._expire(now)
        entry = self._entries.get(channel)
        return Cached(entry[0], entry[1] - now) if entry else None

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
    return len(event.data) + len(event.channel) + len(event.name) + CACHED_OVERHEAD_BYTES


NAMES_AT_ONCE = 128
"""Channels that are looked up for one part of a listing."""


class _Listing:
    """The occupied channels of an app whose names begin with *prefix*; see the port."""

    __slots__ = ("_app", "_prefix")

    def __init__(self, app: _AppState, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    def __len__(self) -> int:
        return len(self._app.subscriptions)

    def __iter__(self) -> Iterator[Mapping[str, Counts]]:
        # A copy of the names is one loop in C, about 1 ms for 100,000. It is made here, so that it
        # is not held while the listing waits to be read.
        names = list(self._app.subscriptions)
        app, prefix = self._app, self._prefix
        for start in range(0, len(names), NAMES_AT_ONCE):
            part: dict[str, Counts] = {}
            for name in names[start : start + NAMES_AT_ONCE]:
                if not name.startswith(prefix):
                    continue
                count = app.subscriptions.get(name, 0)
                if count:  # it was not vacated since
                    part[name] = Counts(count, len(app.presences.get(name) or ()))
            yield part


class MemoryEngine:
    """
    What one process needs no other for.

    *now* reads a monotonic clock in seconds; cached events are kept for *cache_ttl_s*, as long as
    those of an app are no more than *max_cached_events* of *max_cached_bytes* together. Otherwise
    those that expire first are evicted, and *evicted* is called with the app's id and their number.
    """

    available = True
    """It is here where we are."""

    def __init__(
        self,
        now: Callable[[], float],
        cache_ttl_s: float,
        evicted: Callable[[str, int], object] | None = None,
        *,
        max_cached_events: int = MAX_CACHED_EVENTS,
        max_cached_bytes: int = MAX_CACHED_BYTES,
    ) -> None:
        self._now = now
        self._cache_ttl_s = cache_ttl_s
        self._evicted = evicted
        self._max_cached_events = max_cached_events
        self._max_cached_bytes = max_cached_bytes
        self._apps: dict[str, _AppState] = {}
        self._deliver: Deliver = _not_started

    def start(self, deliver: Deliver) -> None:
        """Deliver everything through *deliver*, inside the call that caused it."""
        self._deliver = deliver

    def publish(self, app_id: str, facts: Sequence[Fact]) -> None:
        """Deliver *facts* at once, remembering those of cache channels."""
        event = Event  # compiled, what is not local costs a look-up for each fact
        for fact in facts:
            if isinstance(fact, event) and fact.cached:
                evicted = self._app(app_id).cache.put(fact, self._now(), self._cache_ttl_s)
                if evicted and self._evicted is not None:
                    self._evicted(app_id, evicted)
            self._deliver(app_id, fact)

    def enter(
        self,
        app_id: str,
        channel: str,
        subscriber_id: str,
        *,
        member: Member | None = None,
        max_members: int = 0,
        replay: bool = False,
    ) -> Entry | Refusal:
        """Count a subscription; see the port."""
        app = self._apps.get(app_id) or self._app(app_id)
        changes: list[Change] = []
        roster: Sequence[Member] = ()
        before = app.subscriptions.get(channel, 0)
        if not before:
            changes.append(ChannelOccupied(channel))
        if member is not None:
            presence = app.presences.get(channel) or Presence()
            if max_members and len(presence) >= max_members and member.user_id not in presence:
                return Refusal.FULL
            app.presences[channel] = presence
            if presence.join(subscriber_id, member):
                added = MemberAdded(channel, member)
                changes.append(added)
                self._deliver(app_id, added)
            roster = presence.roster()
        app.subscriptions[channel] = before + 1
        cached = app.cache.get(channel, self._now()) if replay else None
        return Entry(before + 1, tuple(changes), roster, cached)

    def leave(self, app_id: str, channel: str, subscriber_id: str) -> Departure:
        """Undo `enter`; see the port."""
        app = self._app(app_id)
        changes: list[Change] = []
        count = app.subscriptions[channel] - 1
        presence = app.presences.get(channel)
        if presence is not None:
            member = presence.leave(subscriber_id)
            if member is not None:
                removed = MemberRemoved(channel, member.user_id)
                changes.append(removed)
                self._deliver(app_id, removed)
        if count:
            app.subscriptions[channel] = count
        else:
            del app.subscriptions[channel]
            app.presences.pop(channel, None)
            changes.append(ChannelVacated(channel))
        return Departure(count, tuple(changes))

    def channels(self, app_id: str, prefix: str) -> Listing:
        """Return the occupied channels; see the port."""
        return _Listing(self._app(app_id), prefix)

    def counts(self, app_id: str, channels: Sequence[str]) -> Mapping[str, Counts]:
        """Return subscriptions and users of *channels*."""
        app = self._app(app_id)
        return {
            channel: Counts(
                app.subscriptions.get(channel, 0), len(app.presences.get(channel) or ())
            )
            for channel in channels
        }

    def users(self, app_id: str, channel: str) -> Sequence[str]:
        """Return the ids of the users in *channel*."""
        presence = self._app(app_id).presences.get(channel)
        return presence.user_ids() if presence else []

    def cached(self, app_id: str, channel: str) -> Cached | None:
        """Return the cached event of *channel*."""
        return self._app(app_id).cache.get(channel, self._now())

    def sign_in(
        self, app_id: str, user_id: str, session_id: str, watchlist: Sequence[str] = ()
    ) -> SignedIn:
        """Note that a session is *user_id*; see the port."""
        users = self._app(app_id).users
        changes: tuple[UserOnline, ...] = ()
        if user_id not in users:
            users[user_id] = set()
            changes = (UserOnline(user_id),)
            self._deliver(app_id, changes[0])
        users[user_id].add(session_id)
        return SignedIn(frozenset(users.keys() & watchlist), changes)

    def sign_out(self, app_id: str, user_id: str, session_id: str) -> SignedOut:
        """Undo `sign_in`; see the port."""
        users = self._app(app_id).users
        sessions = users[user_id]
        sessions.discard(session_id)
        if sessions:
            return SignedOut()
        del users[user_id]
        gone = UserOffline(user_id)
        self._deliver(app_id, gone)
        return SignedOut((gone,))

    def terminate(self, app_id: str, user_id: str) -> None:
        """Have the user's sessions closed; see the port."""
        self._deliver(app_id, UserTerminated(user_id))

    def _app(self, app_id: str) -> _AppState:
        app = self._apps.get(app_id)
        if app is None:
            cache = _Cache(self._max_cached_events, self._max_cached_bytes)
            app = self._apps[app_id] = _AppState(cache)
        return app


def _not_started(app_id: str, fact: Fact | Notice) -> None:
    raise AssertionError(f"{fact} of app {app_id} was published before the engine was started")
