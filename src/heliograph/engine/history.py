"""
The kept events of channels, their numbering, and the bound of their bytes.

The engines of one process, and the shared state of `engine.testing`, use it alike. Knows no nodes
and reads no clock: the time is an argument, in seconds of a clock that never goes back.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable

from heliograph.engine.answers import FromTime, Gap, GapReason, HistorySize, Page, Since
from heliograph.engine.base import EVENT_OVERHEAD_BYTES, NUMBERED_TTLS, PAGE_BYTES
from heliograph.hub.facts import Event, Keep, Position

HISTORY_MAX_BYTES = 64 << 20
"""Default bound of the kept events of all apps, in bytes."""

RECORD_OVERHEAD_BYTES = 600
"""Bytes of a channel's record without events, beside the name of the channel; 550 were measured."""

EXPIRED_AT_ONCE = 16
"""The most records that expire together in one call, so that no call is long."""

TIME_TOLERANCE_S = 0.001
"""A time that was read from a page, rounded, and is asked for again, still includes its event."""

NEVER = float("inf")


class _Record:
    """
    The numbering of a channel, and its kept events, which are those before and at *top*.

    *times* has the time of each event. *cut* is the time of the last event that is not kept; of
    events at that time, or earlier, the record may not know. *at* is the time of the last event or,
    as long as there was none, the time at which a position was asked for last. *order* is that of
    the orders in *ages* which has the record. *mixed*: its events have different times to live.
    """

    __slots__ = (
        *("ages", "at", "channel", "cut", "epoch", "events", "mixed", "order", "times", "top"),
    )

    def __init__(self, channel: str, epoch: str, ages: "_Ages", now: float, cut: float) -> None:
        self.channel = channel
        self.epoch = epoch
        self.top = 0
        self.events: list[Event] = []
        self.times: list[float] = []
        self.cut = cut
        self.at = now
        self.mixed = False
        self.ages = ages
        self.order = ages.asked

    def is_forgotten(self, now: float) -> bool:
        """Return whether the time for which the numbering is known has passed."""
        return self.at + self.ages.numbered_s <= now


class _Ages:
    """
    The records of the rules with one time to live, in the order in which they expire.

    *live* has those with events, in the order of their last events. *quiet* has those that have no
    events any more, and *asked* those that never had one.
    """

    __slots__ = ("asked", "live", "numbered_s", "quiet", "ttl_s")

    def __init__(self, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self.numbered_s = NUMBERED_TTLS * ttl_s
        self.live: OrderedDict[str, _Record] = OrderedDict()
        self.quiet: OrderedDict[str, _Record] = OrderedDict()
        self.asked: OrderedDict[str, _Record] = OrderedDict()


def _move(record: _Record, order: "OrderedDict[str, _Record]") -> None:
    """Make *record* the last one of *order*."""
    if record.order is order:
        order.move_to_end(record.channel)
    else:
        del record.order[record.channel]
        order[record.channel] = record
        record.order = order


def _first(order: "OrderedDict[str, _Record]") -> _Record | None:
    """Return the oldest record of *order*, None without one."""
    for record in order.values():
        return record
    return None


def _oldest(one: _Record | None, other: _Record | None) -> _Record | None:
    if one is None or (other is not None and other.at < one.at):
        return other
    return one


def _first_after(since: Position, top: Position, kept: int) -> int | GapReason:
    """Return the place, among *kept* events up to *top*, of the first one that follows *since*."""
    if since.epoch != top.epoch:
        return GapReason.EPOCH
    if since.offset > top.offset:
        return GapReason.AHEAD
    first = since.offset - (top.offset - kept)
    return GapReason.TRIMMED if first < 0 else first


def _end_of_page(events: list[Event], first: int, last: int, max_bytes: int) -> int:
    """Return the end of a page from *first* to *last*: one event, or more of *max_bytes*."""
    size = 0
    for index in range(first, last):
        size += len(events[index].data) + EVENT_OVERHEAD_BYTES
        if size > max_bytes and index > first:
            return index
    return last


class HistoryBudget:
    """
    Bounds the bytes of the kept events of all apps of an engine.

    If they exceed *max_bytes*, the app that publishes gives way if it uses more than an equal share
    of them, otherwise the app that uses most. *evicted* is called with the id of an app and the
    number of its events that were removed before they expired.
    """

    __slots__ = ("_evicted", "apps", "max_bytes", "used")

    def __init__(self, max_bytes: int, evicted: Callable[[str, int], object]) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self.apps: dict[AppHistory, None] = {}  # those that use any
        self._evicted = evicted

    def shrink(self, publishing: "AppHistory", newest: _Record | None, now: float) -> None:
        """
        Remove records and events until the bound holds.

        The last event of *newest*, a record of *publishing*, is removed only if nothing else is
        left.
        """
        while self.used > self.max_bytes:
            app = publishing
            if app.used * len(self.apps) <= self.max_bytes:
                app = self._largest(None)
            count = app.evict(newest, now)
            if count is None:
                if len(self.apps) > 1:
                    app = self._largest(publishing)
                count = app.evict(None, now)
            if count:
                self._evicted(app.app_id, count)

    def _largest(self, besides: "AppHistory | None") -> "AppHistory":
        """Return the app that uses most, without *besides*; there is one."""
        found: AppHistory | None = None
        for app in self.apps:
            if app is not besides and (found is None or app.used > found.used):
                found = app
        assert found is not None  # noqa: S101 - for mypy: the callers make sure
        return found


class AppHistory:
    """
    The kept events of one app.

    *prefix* must be unique among all lives of the state; the epochs of channels begin with it. All
    records that were made between two that were forgotten have the same epoch: so a channel whose
    record was forgotten never has an earlier epoch again, and an epoch costs a record no memory.
    Events before *now* are not known.
    """

    __slots__ = (
        *("_ages", "_budget", "_due", "_epoch", "_events", "_forgotten", "_known_after"),
        *("_prefix", "_records", "app_id", "used"),
    )

    def __init__(self, app_id: str, prefix: str, budget: HistoryBudget, now: float) -> None:
        self.app_id = app_id
        self.used = 0
        """The bytes of the records and events of this app."""
        self._budget = budget
        self._prefix = prefix
        self._forgotten = 0
        self._epoch = f"{prefix}.0"
        self._records: dict[str, _Record] = {}
        self._ages: dict[float, _Ages] = {}
        self._events = 0
        self._due = NEVER  # when the next record expires, or earlier
        self._known_after = now  # the time of the last event of all records that were forgotten

    # -- Events ------------------------------------------------------------------------------

    def add(self, event: Event, keep: Keep, now: float) -> Event:
        """Keep *event*; return it with its position."""
        if self._due <= now:
            self._expire(now)
        channel = event.channel
        record = self._records.get(channel)
        if record is None or record.is_forgotten(now):
            record = self._begin(channel, keep.ttl_s, now)
        ages, events, times = record.ages, record.events, record.times
        if ages.ttl_s != keep.ttl_s:
            ages = record.ages = self._of_ttl(keep.ttl_s)
            record.mixed = bool(events)
        record.top = offset = record.top + 1
        kept = Event(
            record.channel,
            event.name,
            event.data,
            event.except_id,
            event.user_id,
            keep,
            event.owed,
            Position(record.epoch, offset),
        )
        events.append(kept)
        times.append(now)
        record.at = now
        _move(record, ages.live)
        due = now + ages.ttl_s
        self._due = min(self._due, due)
        self._events += 1
        size = len(event.data) + len(event.name) + len(channel) + EVENT_OVERHEAD_BYTES
        self.used += size
        budget = self._budget
        budget.used += size
        surplus = len(events) - keep.count
        if surplus > 0:
            self._drop(record, surplus)
        if record.mixed or times[0] + ages.ttl_s <= now:
            self._drop_expired(record, now)
        if budget.used > budget.max_bytes:
            budget.shrink(self, record, now)
        return kept

    def keeps(self, channel: str, now: float) -> bool:
        """Return whether an event of *channel* is kept."""
        record = self._records.get(channel)
        if record is None or not record.events:
            return False
        return record.at + record.ages.ttl_s > now

    # -- Reads -------------------------------------------------------------------------------

    def top(self, channel: str, keep: Keep, now: float) -> Position:
        """Return the position of *channel*, and remember that it was asked for."""
        record = self._ask(channel, keep, now)
        return Position(record.epoch, record.top)

    def read(
        self,
        channel: str,
        since: Since,
        now: float,
        unix_s: float,
        *,
        asked: Keep | None = None,
        limit: int = 0,
        max_bytes: int = PAGE_BYTES,
        times: bool = False,
    ) -> Page | Gap:
        """
        Return the events that *channel* keeps from *since* on, as `Space.history` describes it.

        *unix_s* is the present time in seconds since 1970. With *asked*, the rule of the channel,
        the positions of the answer are known later, even if the channel never had an event. With
        *times*, the page has the times of its events.
        """
        ahead = unix_s - now
        record = self._find(channel, now) if asked is None else self._ask(channel, asked, now)
        events: list[Event] = []
        event_times: list[float] = []
        if record is None:
            top, cut = Position(self._epoch, 0), self._known_after
        else:
            self._drop_expired(record, now)
            top, cut = Position(record.epoch, record.top), record.cut
            events, event_times = record.events, record.times
        first: int | GapReason
        if isinstance(since, Position):
            first = _first_after(since, top, len(events))
        elif isinstance(since, FromTime):
            at = since.unix_s - ahead - TIME_TOLERANCE_S
            first = GapReason.TRIMMED if at <= cut else bisect_left(event_times, at)
        elif since.count:
            first = max(0, len(events) - since.count)
        elif since.seconds:
            first = bisect_left(event_times, now - since.seconds)
        else:
            first = len(events)
        if isinstance(first, GapReason):
            return Gap(first, top)
        last = min(len(events), first + limit) if limit else len(events)
        end = _end_of_page(events, first, last, max_bytes)
        offset = top.offset - (len(events) - end)
        return Page(
            events[first:end],
            Position(top.epoch, offset),
            top,
            [ahead + at for at in event_times[first:end]] if times else (),
        )

    def size(self, now: float) -> HistorySize:
        """Return what is kept; channels whose events have all expired have none of it."""
        while self._due <= now:
            self._expire(now)
        channels = sum(len(ages.live) for ages in self._ages.values())
        return HistorySize(self._events, self.used, channels)

    # -- Records -----------------------------------------------------------------------------

    def _find(self, channel: str, now: float) -> _Record | None:
        record = self._records.get(channel)
        if record is not None and record.is_forgotten(now):
            self._forget(record)
            return None
        return record

    def _ask(self, channel: str, keep: Keep, now: float) -> _Record:
        """Return the record of *channel*; make one if there is none."""
        if self._due <= now:
            self._expire(now)
        record = self._find(channel, now)
        if record is None:
            record = self._begin(channel, keep.ttl_s, now)
        elif not record.top:
            record.at = now
            record.ages = self._of_ttl(keep.ttl_s)
            _move(record, record.ages.asked)
        else:
            return record
        self._due = min(self._due, now + record.ages.numbered_s)
        if self._budget.used > self._budget.max_bytes:
            self._budget.shrink(self, None, now)
        return record

    def _begin(self, channel: str, ttl_s: float, now: float) -> _Record:
        """Return a new record of *channel*, instead of one that is forgotten by now."""
        self._find(channel, now)
        if not self._records:
            self._budget.apps[self] = None
        ages = self._of_ttl(ttl_s)
        record = _Record(channel, self._epoch, ages, now, self._known_after)
        self._records[channel] = ages.asked[channel] = record
        size = RECORD_OVERHEAD_BYTES + len(channel)
        self.used += size
        self._budget.used += size
        return record

    def _of_ttl(self, ttl_s: float) -> _Ages:
        ages = self._ages.get(ttl_s)
        if ages is None:
            ages = self._ages[ttl_s] = _Ages(ttl_s)
        return ages

    def _forget(self, record: _Record) -> None:
        """Remove *record*; if it had numbers, records that begin from now on have a new epoch."""
        if record.events:
            self._drop(record, len(record.events))
        del record.order[record.channel], self._records[record.channel]
        size = RECORD_OVERHEAD_BYTES + len(record.channel)
        self.used -= size
        self._budget.used -= size
        if not self._records:
            del self._budget.apps[self]
        if record.top:
            self._forgotten += 1
            self._epoch = f"{self._prefix}.{self._forgotten:x}"
            self._known_after = max(self._known_after, record.cut)

    def _drop(self, record: _Record, count: int) -> None:
        """Remove the oldest *count* events of *record*."""
        events, times = record.events, record.times
        record.cut = times[count - 1]
        size = count * (len(record.channel) + EVENT_OVERHEAD_BYTES)
        for event in events[:count]:
            size += len(event.data) + len(event.name)
        del events[:count], times[:count]
        self._events -= count
        self.used -= size
        self._budget.used -= size

    def _drop_expired(self, record: _Record, now: float) -> int:
        """
        Remove the events of *record* that have expired; return their number.

        Where the rule of a channel was changed, an event may expire before an earlier one. The
        earlier one is removed with it: kept events have no gaps.
        """
        times, ttl_s = record.times, record.ages.ttl_s
        count = 0
        if record.mixed:
            for index, event in enumerate(record.events):
                keep = event.keep
                if keep is not None and times[index] + keep.ttl_s <= now:
                    count = index + 1
        else:
            while count < len(times) and times[count] + ttl_s <= now:
                count += 1
        if count:
            self._drop(record, count)
            if record.mixed:
                keeps = [event.keep for event in record.events]
                record.mixed = any(keep is not None and keep.ttl_s != ttl_s for keep in keeps)
        return count

    # -- Expiry and eviction -----------------------------------------------------------------

    def _expire(self, now: float) -> None:
        """Remove what is due, of `EXPIRED_AT_ONCE` records at most."""
        left = EXPIRED_AT_ONCE
        self._due = NEVER
        for ttl_s, ages in list(self._ages.items()):
            left = self._expire_ages(ages, now, left)
            if not (ages.live or ages.quiet or ages.asked):
                del self._ages[ttl_s]

    def _expire_ages(self, ages: _Ages, now: float, left: int) -> int:
        """Remove what is due of *left* records at most; return how many more may be."""
        while left:
            record = _first(ages.live)
            if record is None or record.at + ages.ttl_s > now:
                break
            self._silence(record)
            left -= 1
        while left:
            record = _oldest(_first(ages.quiet), _first(ages.asked))
            if record is None or not record.is_forgotten(now):
                break
            self._forget(record)
            left -= 1
        for order, in_s in (
            (ages.live, ages.ttl_s),
            (ages.quiet, ages.numbered_s),
            (ages.asked, ages.numbered_s),
        ):
            record = _first(order)
            if record is not None:
                self._due = min(self._due, record.at + in_s)
        return left

    def _silence(self, record: _Record) -> int:
        """Remove all events of *record*, whose numbering goes on; return their number."""
        count = len(record.events)
        if count:
            self._drop(record, count)
        _move(record, record.ages.quiet)
        return count

    def evict(self, newest: _Record | None, now: float) -> int | None:
        """
        Remove one record, or events of one channel; return the number of these events.

        None: there is nothing but the last event of *newest*. Its earlier events are removed one by
        one, after those of all other channels.
        """
        asked = quiet = live = None
        for ages in self._ages.values():
            asked = _oldest(asked, _first(ages.asked))
            quiet = _oldest(quiet, _first(ages.quiet))
            first = _first(ages.live)
            if first is not newest:  # as the last one of its order, it is first only if it is alone
                live = _oldest(live, first)
        without_events = asked if asked is not None else quiet
        if without_events is not None:
            self._forget(without_events)
            return 0
        if live is not None:
            if self._drop_expired(live, now):
                return 0  # that may be enough
            return self._silence(live)
        if newest is None or len(newest.events) < 2:  # noqa: PLR2004 - the last, and an earlier one
            return None
        self._drop(newest, 1)
        return 1
