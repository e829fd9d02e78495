"""
What is sent when, to one receiver: batches, order, retries, bounds.

Knows events as texts and streams (what order is kept in: a channel, or a user). Knows of time and
chance only what it is given, and nothing of how anything is sent or kept.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

ENTRY_OVERHEAD_BYTES = 500
"""What an event in memory costs besides its text, about."""

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How patient we are, and how much may wait."""

    grace_s: float = 3.0  # how long a removal is held
    cache_miss_s: float = 10.0  # for how long one cache miss stands for all
    batch_s: float = 1.0
    batch_events: int = 100
    batch_bytes: int = 256 << 10  # many a web server takes no body over 1 MB
    timeout_s: float = 4.0  # of one try
    backoff_s: float = 1.0  # after the first failed try, doubled after each
    max_backoff_s: float = 60.0
    retry_for_s: float = 300.0  # from the first try to the last
    # SDKs refuse bodies that are five minutes old, by a clock that need not agree with ours.
    max_body_age_s: float = 240.0
    max_tries_at_once: int = 8
    max_fresh: int = 32  # deliveries made up ahead of their first try
    max_queued_events: int = 100_000
    max_queued_bytes: int = 64 << 20


class Entry:
    """
    An event that one receiver is to be told.

    *number* is unique, and grows; *at* is when it was put here.
    """

    __slots__ = ("at", "next", "number", "stream", "text")

    def __init__(self, number: int, stream: str, text: bytes, at: float) -> None:
        self.number = number
        self.stream = stream
        self.text = text
        self.at = at
        self.next: Entry | None = None  # of its stream, while it waits

    @property
    def size(self) -> int:
        """What it counts against the bound."""
        return len(self.text) + ENTRY_OVERHEAD_BYTES


class _Stream:
    """
    The events of one stream that wait, in order.

    Linked, for a deque takes 600 bytes, and when a thousand channels end, each has one event.
    """

    __slots__ = ("_last", "first", "length")

    def __init__(self, entry: Entry) -> None:
        self.first = self._last = entry
        self.length = 1

    def append(self, entry: Entry) -> None:
        self._last.next = entry
        self._last = entry
        self.length += 1

    def take(self) -> bool:
        """Take the first out; return whether there is another."""
        following, self.first.next = self.first.next, None
        if following is None:
            return False
        self.first = following
        self.length -= 1
        return True


class Delivery:
    """
    Events that are sent together, and again with the same body until they arrive.

    *key* is the public key of the app that signs it. It may be tried once the store has kept
    *group*.
    """

    __slots__ = ("entries", "give_up_at", "group", "id", "key", "time_ms", "tries")

    def __init__(self, delivery_id: str, key: str, time_ms: int, entries: list[Entry]) -> None:
        self.id = delivery_id
        self.key = key
        self.time_ms = time_ms
        self.entries = entries
        self.group = 0
        self.tries = 0
        self.give_up_at = 0.0

    def renew(self, now_ms: int, max_age_s: float) -> None:
        """Take a new time, hence another body, if this one is so old that SDKs may refuse it."""
        if abs(now_ms - self.time_ms) > max_age_s * 1000:
            self.time_ms = now_ms


class Outbox:
    """
    What one receiver is still to be told.

    A stream's later events wait until its earlier ones have arrived or been given up; other
    streams pass. What is over the bounds costs the oldest events that no delivery holds:
    what receivers hear last is what they act upon.
    """

    def __init__(self, limits: Limits, *, batching: bool) -> None:
        self.batching = batching
        self.hurried = False
        """Batches go at once, without waiting for more."""
        self.events = 0
        self.bytes = 0
        self._limits = limits
        self._waiting: OrderedDict[int, Entry] = OrderedDict()  # in no delivery, the oldest first
        self._streams: dict[str, _Stream] = {}  # the same, by stream
        self._ready: OrderedDict[str, None] = OrderedDict()  # streams with a next event to send
        self._ready_events = 0
        self._busy: dict[str, Delivery] = {}
        self._flush_at: float | None = None
        self._fresh: deque[Delivery] = deque()  # not known to be kept
        self._untried = 0
        self._agenda: Agenda[Delivery] = Agenda()  # when each is to be tried
        self._deliveries: dict[str, Delivery] = {}
        self._tries = 0

    @property
    def waiting(self) -> Iterable[Entry]:
        """The events that are in no delivery, in order."""
        return self._waiting.values()

    @property
    def deliveries(self) -> Iterable[Delivery]:
        """The deliveries that are not done with."""
        return self._deliveries.values()

    @property
    def crowded(self) -> bool:
        """Whether there is next to no room left."""
        limits = self._limits
        return (
            self.events > limits.max_queued_events * 0.9
            or self.bytes > limits.max_queued_bytes * 0.9
        )

    @property
    def gated(self) -> bool:
        """Whether a delivery waits for being kept."""
        return bool(self._fresh)

    def put(self, entry: Entry) -> list[Entry]:
        """Queue an event; return those that had to go for it."""
        self.events += 1
        self.bytes += entry.size
        self._waiting[entry.number] = entry
        stream = self._streams.get(entry.stream)
        if stream is None:
            self._streams[entry.stream] = _Stream(entry)
        else:
            stream.append(entry)
        if entry.stream not in self._busy:
            self._ready[entry.stream] = None
            self._ready_events += 1
            self._flush_by(entry.at + self._limits.batch_s)
        return self._overflow()

    def restore(self, delivery: Delivery, now: float) -> None:
        """Take up a delivery of a former life of the server, to be tried at once."""
        for entry in delivery.entries:
            self.events += 1
            self.bytes += entry.size
            self._busy[entry.stream] = delivery
        self._deliveries[delivery.id] = delivery
        self._untried += 1
        self._agenda.put(delivery, now)

    def form(self, now: float, now_ms: int, key: str, new_id: Callable[[], str]) -> Delivery | None:
        """Return a new delivery if it is time for one. To be kept, and given its group."""
        if not self._ready or self._untried >= self._limits.max_fresh:
            return None
        if not self.batching:
            entries = self._take(1)
        elif self._ripe(now):
            entries = self._take(self._limits.batch_events)
        else:
            return None
        delivery = Delivery(new_id(), key, now_ms, entries)
        for entry in entries:
            self._busy[entry.stream] = delivery
        self._deliveries[delivery.id] = delivery
        self._fresh.append(delivery)
        self._untried += 1
        return delivery

    def kept(self, group: int, now: float) -> None:
        """Note that the store has kept *group*, and whatever was before it."""
        while self._fresh and self._fresh[0].group <= group:
            self._agenda.put(self._fresh.popleft(), now)

    def begin(self, now: float) -> Delivery | None:
        """Return a delivery to try now. `delivered` or `failed` must follow."""
        if self._tries >= self._limits.max_tries_at_once:
            return None
        delivery = self._agenda.take_one(now)
        if delivery is None:
            return None
        if not delivery.tries:
            delivery.give_up_at = now + self._limits.retry_for_s
            self._untried -= 1
        self._tries += 1
        delivery.tries += 1
        return delivery

    def delivered(self, delivery: Delivery, now: float) -> None:
        """Note that a try succeeded: the delivery is done with."""
        self._tries -= 1
        self._finish(delivery, now)

    def failed(self, delivery: Delivery, now: float, chance: float) -> bool:
        """
        Note that a try failed; return whether there will be another, else it is done with.

        *chance*, from 0 to 1, spreads the tries of those that failed together.
        """
        self._tries -= 1
        limits = self._limits
        pause = min(limits.backoff_s * 2 ** min(delivery.tries - 1, 30), limits.max_backoff_s)
        again_at = now + pause * (0.8 + 0.4 * chance)
        if again_at > delivery.give_up_at:
            self._finish(delivery, now)
            return False
        self._agenda.put(delivery, again_at)
        return True

    def due(self) -> float | None:
        """Return when `form` or `begin` may have something new, if nothing else happens."""
        times = []
        if self._tries < self._limits.max_tries_at_once:
            times.append(self._agenda.due())
        if self.batching and self._ready and self._untried < self._limits.max_fresh:
            times.append(self._flush_at)
        return min((time for time in times if time is not None), default=None)

    def _flush_by(self, at: float) -> None:
        if self._flush_at is None or at < self._flush_at:
            self._flush_at = at

    def _ripe(self, now: float) -> bool:
        if self.hurried or self._ready_events >= self._limits.batch_events:
            return True
        return self._flush_at is not None and self._flush_at <= now

    def _take(self, count: int) -> list[Entry]:
        """Take up to *count* events of ready streams, whose others then have to wait."""
        entries: list[Entry] = []
        room = self._limits.batch_bytes
        while self._ready and len(entries) < count:
            name = next(iter(self._ready))
            stream = self._streams[name]
            if entries and len(stream.first.text) > room:
                break
            del self._ready[name]
            self._ready_events -= stream.length
            more = True
            while more and len(entries) < count and (not entries or len(stream.first.text) <= room):
                entry = stream.first
                more = stream.take()
                del self._waiting[entry.number]
                entries.append(entry)
                room -= len(entry.text)
            if not more:
                del self._streams[name]
        entries.sort(key=_number)
        if not self._ready:
            self._flush_at = None
        return entries

    def _finish(self, delivery: Delivery, now: float) -> None:
        del self._deliveries[delivery.id]
        for entry in delivery.entries:
            self.events -= 1
            self.bytes -= entry.size
            if self._busy.pop(entry.stream, None) is not None and entry.stream in self._streams:
                waiting = self._streams[entry.stream]
                self._ready[entry.stream] = None
                self._ready_events += waiting.length
                self._flush_by(max(now, waiting.first.at + self._limits.batch_s))

    def _overflow(self) -> list[Entry]:
        dropped: list[Entry] = []
        limits = self._limits
        while self._waiting and (
            self.events > limits.max_queued_events or self.bytes > limits.max_queued_bytes
        ):
            _, entry = self._waiting.popitem(last=False)
            self.events -= 1
            self.bytes -= entry.size
            # The oldest of all is the oldest of its stream.
            if entry.stream in self._ready:
                self._ready_events -= 1
            if not self._streams[entry.stream].take():
                del self._streams[entry.stream]
                self._ready.pop(entry.stream, None)
            dropped.append(entry)
        return dropped


def _number(entry: Entry) -> int:
    return entry.number


class Agenda(Generic[T]):
    """When to look at what; each thing is on it once, at the earliest time that it was put."""

    def __init__(self) -> None:
        self._at: dict[T, float] = {}
        self._heap: list[tuple[float, int, T]] = []  # entries that _at does not agree with: stale
        self._puts = 0

    def put(self, thing: T, at: float) -> None:
        """Have *thing* looked at no later than *at*."""
        if at < self._at.get(thing, float("inf")):
            self._at[thing] = at
            self._puts += 1
            heapq.heappush(self._heap, (at, self._puts, thing))

    def take_one(self, now: float) -> T | None:
        """Take what is due the longest, if anything is due."""
        at = self.due()
        if at is None or at > now:
            return None
        _, _, thing = heapq.heappop(self._heap)
        del self._at[thing]
        return thing

    def due(self) -> float | None:
        """Return when something will be due, if anything ever is."""
        while self._heap:
            at, _, thing = self._heap[0]
            if self._at.get(thing) == at:
                return at
            heapq.heappop(self._heap)
        return None
