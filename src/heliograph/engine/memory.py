"""
The engine of a single process: every reply is a value, and the engine is always available.

Knows the number of subscriptions of each channel, the sessions of each member, and the events that
channels keep. Has no task and no timer, and of time only the clocks that it is given.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from zlib import crc32

from heliograph.engine.answers import (
    CacheFilled,
    CacheMiss,
    Change,
    ChannelOccupied,
    ChannelVacated,
    Counts,
    Entry,
    Gap,
    HistorySize,
    Mark,
    Options,
    Owed,
    Page,
    Published,
    Refusal,
    SignedIn,
    Since,
    Terms,
    Wants,
)
from heliograph.engine.base import LARGE_CHANNEL, LARGE_INTERVAL_S, PAGE_BYTES, Leaving, Local
from heliograph.engine.history import HISTORY_MAX_BYTES, AppHistory, HistoryBudget
from heliograph.engine.keys import KeyedAnswers
from heliograph.engine.presence import Presence
from heliograph.engine.share import Held, Share, count_less, count_more
from heliograph.hub.facts import (
    Event,
    Keep,
    Member,
    MemberAdded,
    MemberRemoved,
    Position,
    SubscriptionCount,
    UserOffline,
    UserOnline,
    UserTerminated,
)

NAMES_AT_ONCE = 128
"""Channels that are searched for one part of a listing."""

SCOPE = ""
"""The whole state of an app is one scope."""


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
        "_history",
        "_keys",
        "_local",
        "_wants",
        "app_id",
        "online",
        "presences",
        "subscriptions",
        "watched",
    )

    def __init__(
        self, engine: "MemoryEngine", app_id: str, local: Local, wants: Wants, history: AppHistory
    ) -> None:
        self.app_id = app_id
        self.subscriptions: dict[str, int] = {}
        self.presences: dict[str, Presence] = {}
        self.online: dict[str, int] = {}  # user id -> sessions signed in
        self.watched: dict[str, int] = {}  # user id -> sessions that watch it
        self._engine = engine
        self._epoch = engine.epoch
        self._history = history
        self._keys = KeyedAnswers()
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

    def publish(self, events: Sequence[Event], terms: Terms | None = None) -> Published | None:
        """Deliver *events* at once; see the contract."""
        if terms is not None:
            return self._publish_on(terms, events)
        deliver, owes = self._deliver, self._wants.client_events
        for event in events:
            keep = event.keep
            if keep is None:
                deliver(event)
                if owes and event.owed:
                    self._owe(event)
            else:
                self._publish_kept(event, keep)
        return None

    def _publish_on(self, terms: Terms, events: Sequence[Event]) -> Published:
        key, keeps, now = terms.key, terms.keeps, self._engine.now()
        if key is not None:
            answer = self._keys.find(key, now)
            if answer is not None:
                return answer
        positions: list[Position | None] = []
        for index, event in enumerate(events):
            position: Position | None = None
            if event.keep is None:
                self.publish((event,))
            else:
                position = self._publish_kept(event, event.keep)
            if keeps:
                keep = keeps[index]
                if keep is None:
                    position = None
                elif position is None:
                    position = self._history.top(event.channel, keep, now)
                positions.append(position)
        counts = self.counts([event.channel for event in events]) if terms.counts else {}
        published = Published(positions if keeps else (), counts, terms.fingerprint)
        if key is not None:
            self._keys.add(key, published, now)
        return published

    def _publish_kept(self, event: Event, keep: Keep) -> Position | None:
        now = self._engine.now()
        if self._wants.cache and not self._history.keeps(event.channel, now):
            self._owe(CacheFilled(event.channel))
        kept = self._history.add(event, keep, now)
        self._deliver(kept)
        if kept.owed and self._wants.client_events:
            self._owe(kept)
        return kept.position

    def enter(
        self,
        channel: str,
        subscriber_id: str,  # noqa: ARG002 - numbers are counted, not subscribers
        options: Options,
        *,
        member: Member | None = None,
        max_members: int = 0,
        since: Since | None = None,
        numbered: bool = False,
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
        asked = options.keep if numbered else None
        history, nothing_kept = self._history_for_entry(channel, options, since, asked)
        return Entry(count, roster, history, nothing_kept)

    def _history_for_entry(
        self, channel: str, options: Options, since: Since | None, asked: Keep | None
    ) -> tuple[Page | Gap | None, bool]:
        """Return the history of a channel that keeps events, and whether nothing is kept."""
        now = self._engine.now()
        nothing_kept = not self._history.keeps(channel, now)
        if nothing_kept and options.cached and options.observed and self._wants.cache:
            self._owe(CacheMiss(channel))
        history: Page | Gap | None = None
        if since is not None:
            history = self._history.read(channel, since, now, self._engine.unix_s(), asked=asked)
        return history, nothing_kept

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

    def history(
        self,
        channel: str,
        since: Since,
        keep: Keep,
        *,
        limit: int = 0,
        max_bytes: int = PAGE_BYTES,
    ) -> Page | Gap:
        """Return the events that *channel* keeps from *since* on; see the contract."""
        return self._history.read(
            channel,
            since,
            self._engine.now(),
            self._engine.unix_s(),
            asked=keep,
            limit=limit,
            max_bytes=max_bytes,
            times=True,
        )

    def history_size(self) -> HistorySize:
        """Return the number and the bytes of the kept events."""
        return self._history.size(self._engine.now())

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

    *now* reads a monotonic clock in seconds, *wall* the seconds since 1970. *epoch* names this life
    of the state, and must be unique. The kept events of all apps together are bounded by
    *history_max_bytes*; above it, events are evicted, and *evicted* is called with the id of their
    app and their number.
    """

    available = True
    """The state is in this process."""

    def __init__(
        self,
        now: Callable[[], float],
        *,
        wall: Callable[[], float],
        epoch: str,
        evicted: Callable[[str, int], object] = _ignore,
        history_max_bytes: int = HISTORY_MAX_BYTES,
    ) -> None:
        self.now = now
        self.unix_s = wall
        self.epoch = epoch
        # Clients receive the epochs of channels again and again, so they are short.
        self._history_prefix = f"{crc32(epoch.encode()):08x}"
        self._budget = HistoryBudget(history_max_bytes, evicted)
        self._spaces: set[str] = set()

    async def open(self) -> None:
        """Serve from now on: this engine opens nothing."""

    def space(self, app_id: str, local: Local, wants: Wants) -> MemorySpace:
        """Return the state of an app, whose only node becomes its holder; see the contract."""
        if app_id in self._spaces:
            raise AssertionError(f"app {app_id} has its space already")
        self._spaces.add(app_id)
        history = AppHistory(app_id, self._history_prefix, self._budget, self.now())
        space = MemorySpace(self, app_id, local, wants, history)
        local.hold(self.epoch)
        local.restart(SCOPE, self.epoch)
        return space

    async def close(self, timeout_s: float) -> None:
        """End; the state ends with the process."""
