"""
The schedule of events to one receiver: batches, order, retries, limits.

Knows events as texts and streams (a stream keeps its order; it is a channel or a user). The time
and the random number are arguments. Knows nothing of the network or the store.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

EVENT_OVERHEAD_BYTES = 600
"""Memory of an event in bytes, without its text; 570 were measured for one with its own stream."""

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Intervals, time-outs and sizes of the schedule."""

    grace_s: float = 3.0  # how long a removal is held
    cache_miss_s: float = 10.0  # in which further cache misses of a channel are not reported
    count_s: float = 1.0  # between two numbers of subscriptions of a channel
    batch_s: float = 1.0
    batch_events: int = 100
    batch_bytes: int = 256 << 10  # many web servers refuse a body over 1 MB
    timeout_s: float = 4.0  # of one try
    backoff_s: float = 1.0  # after the first failed try, doubled after each
    max_backoff_s: float = 60.0
    retry_for_s: float = 300.0  # from the first try to the last
    # SDKs refuse bodies that are five minutes old; their clock may differ from the server's.
    max_body_age_s: float = 240.0
    max_tries_at_once: int = 8
    max_fresh: int = 32  # deliveries that are formed before their first try
    max_queued_events: int = 100_000
    max_queued_bytes: int = 64 << 20
    # Part of a queue for the kinds of events that only authenticated users can cause, in equal
    # shares.
    reserved: float = 0.5


OPEN = "open"
"""The share of a queue that unauthenticated clients can fill; nothing is reserved for it."""


class QueuedEvent:
    """
    An event that is to be sent to one receiver.

    *number* is unique, and grows; *at* is the time at which it was queued. *share* is the part of
    the queue that it counts against: OPEN, or a kind of event that only authenticated users can
    cause. If the event reports that something begins (*appears*) or ends, *subject* is that thing.
    """

    __slots__ = (
        "appears",
        "at",
        "later",
        "next",
        "number",
        "previous",
        "share",
        "sooner",
        "stream",
        "subject",
        "text",
    )

    def __init__(
        self,
        number: int,
        stream: str,
        text: bytes,
        at: float,
        *,
        share: str = OPEN,
        subject: Hashable = None,
        appears: bool = True,
    ) -> None:
        self.number = number
        self.stream = stream
        self.text = text
        self.at = at
        self.share = share
        self.subject = subject
        self.appears = appears
        # Its neighbours while it waits: in its stream, and of its subject.
        self.previous: QueuedEvent | None = None
        self.next: QueuedEvent | None = None
        self.sooner: QueuedEvent | None = None
        self.later: QueuedEvent | None = None

    @property
    def size(self) -> int:
        """Bytes that it counts against the limit."""
        return len(self.text) + EVENT_OVERHEAD_BYTES


class _Stream:
    """
    The waiting events of one stream, in order.

    A linked list, because a deque needs 600 bytes: if a thousand channels end, each has one event.
    """

    __slots__ = ("_last", "first", "length")

    def __init__(self, event: QueuedEvent) -> None:
        self.first = self._last = event
        self.length = 1

    def append(self, event: QueuedEvent) -> None:
        event.previous = self._last
        self._last.next = event
        self._last = event
        self.length += 1

    def remove(self, event: QueuedEvent) -> bool:
        """Remove *event*; return whether there is another."""
        previous, following = event.previous, event.next
        event.previous = event.next = None
        self.length -= 1
        if previous is not None:
            previous.next = following
        elif following is not None:
            self.first = following
        if following is not None:
            following.previous = previous
        elif previous is not None:
            self._last = previous
        return self.length > 0


class _Share:
    """
    A part of the queue: its used size, and its waiting events.

    *reserved_events* and *reserved_bytes* are reserved for it; other shares cannot use them.
    """

    __slots__ = ("_gone", "_others", "bytes", "events", "reserved_bytes", "reserved_events")

    def __init__(self) -> None:
        self.events = 0
        self.bytes = 0
        self.reserved_events = 0
        self.reserved_bytes = 0
        # Events that report the end of something, and all others; in both, the oldest is first.
        self._gone: OrderedDict[int, QueuedEvent] = OrderedDict()
        self._others: OrderedDict[int, QueuedEvent] = OrderedDict()

    @property
    def waiting(self) -> bool:
        return bool(self._others or self._gone)

    def waiting_events(self) -> Iterable[QueuedEvent]:
        yield from self._others.values()
        yield from self._gone.values()

    def wait(self, event: QueuedEvent) -> None:
        self._queue_of(event)[event.number] = event

    def wait_no_more(self, event: QueuedEvent) -> None:
        del self._queue_of(event)[event.number]

    def first_to_drop(self) -> QueuedEvent:
        """Return the oldest event; events that report the end of something come last."""
        return next(iter((self._others or self._gone).values()))

    def count(self, event: QueuedEvent, times: int) -> None:
        self.events += times
        self.bytes += times * event.size

    def _queue_of(self, event: QueuedEvent) -> OrderedDict[int, QueuedEvent]:
        gone = event.subject is not None and not event.appears
        return self._gone if gone else self._others


class Delivery:
    """
    Events that are sent together, and again with the same body until they arrive.

    *key* is the public key of the app that signs it. The first try must wait until the store has
    kept *group*.
    """

    __slots__ = ("events", "give_up_at", "group", "id", "key", "time_ms", "tries")

    def __init__(self, delivery_id: str, key: str, time_ms: int, events: list[QueuedEvent]) -> None:
        self.id = delivery_id
        self.key = key
        self.time_ms = time_ms
        self.events = events
        self.group = 0
        self.tries = 0
        self.give_up_at = 0.0

    def renew(self, now_ms: int, max_age_s: float) -> None:
        """Set a new time, and so another body, if SDKs may refuse the present one as too old."""
        if abs(now_ms - self.time_ms) > max_age_s * 1000:
            self.time_ms = now_ms


class Outbox:
    """
    The queue of events and deliveries for one receiver.

    The later events of a stream wait until the earlier ones are delivered or given up; other
    streams do not wait.

    The queue is limited in events and bytes. A kind of event that only authenticated users can
    cause always has the space that `reserve` gave it: other kinds, and clients without a signature,
    cannot use it up. Above the limits, events that are in no delivery are dropped: those of the
    share OPEN first, then those of the share that exceeds its reserve most. Within a share, the
    oldest events are dropped, because receivers act upon the latest. So that the state of receivers
    stays correct, an event is dropped together with the one that it cancels, and events that report
    the end of something are dropped after all others.
    """

    def __init__(
        self, limits: Limits, *, batching: bool, reserved_for: Collection[str] = ()
    ) -> None:
        self.batching = batching
        self.hurried = False
        """Batches are sent at once, without waiting for more events."""
        self.events = 0
        self.bytes = 0
        self._limits = limits
        self._shares: dict[str, _Share] = {OPEN: _Share()}  # of waiting events and deliveries
        self._streams: dict[str, _Stream] = {}  # of events in no delivery, like the next two
        self._subjects: dict[Hashable, QueuedEvent] = {}  # the last event about each
        self._ready: OrderedDict[str, None] = OrderedDict()  # streams with a next event to send
        self._ready_events = 0
        self._busy: dict[str, Delivery] = {}
        self._flush_at: float | None = None
        self._fresh: deque[Delivery] = deque()  # not known to be kept
        self._untried = 0
        self._agenda: Agenda[Delivery] = Agenda()  # when each is to be tried
        self._deliveries: dict[str, Delivery] = {}
        self._tries = 0
        self.reserve(reserved_for)

    @property
    def waiting(self) -> list[QueuedEvent]:
        """The events that are in no delivery, in order."""
        return sorted(
            (event for share in self._shares.values() for event in share.waiting_events()),
            key=_number,
        )

    @property
    def deliveries(self) -> Iterable[Delivery]:
        """The deliveries that are not finished."""
        return self._deliveries.values()

    @property
    def over_capacity(self) -> bool:
        """Whether more than 90% of the queue is used or reserved."""
        limits, (events, bytes_) = self._limits, self._claimed()
        return events > limits.max_queued_events * 0.9 or bytes_ > limits.max_queued_bytes * 0.9

    @property
    def gated(self) -> bool:
        """Whether a delivery waits until the store has kept it."""
        return bool(self._fresh)

    def reserve(self, shares: Collection[str]) -> None:
        """Reserve equal parts of the space for *shares*, and none for others."""
        for share in self._shares.values():
            share.reserved_events = share.reserved_bytes = 0
        limits = self._limits
        for name in shares:
            share = self._share(name)
            share.reserved_events = int(limits.max_queued_events * limits.reserved / len(shares))
            share.reserved_bytes = int(limits.max_queued_bytes * limits.reserved / len(shares))

    def put(self, event: QueuedEvent) -> list[QueuedEvent]:
        """Queue an event; return the events that are dropped for it."""
        self._count(event, 1)
        self._share(event.share).wait(event)
        self._link(event)
        stream = self._streams.get(event.stream)
        if stream is None:
            self._streams[event.stream] = _Stream(event)
        else:
            stream.append(event)
        if event.stream not in self._busy:
            self._ready[event.stream] = None
            self._ready_events += 1
            self._flush_by(event.at + self._limits.batch_s)
        return self._overflow()

    def restore(self, delivery: Delivery, now: float) -> None:
        """Add a delivery that an earlier process or another node stored; it is due at once."""
        for event in delivery.events:
            self._count(event, 1)
            self._busy[event.stream] = delivery
        self._deliveries[delivery.id] = delivery
        self._untried += 1
        self._agenda.put(delivery, now)

    def form(self, now: float, now_ms: int, key: str, new_id: Callable[[], str]) -> Delivery | None:
        """Return a new delivery if one is due. The caller must store it, and set its group."""
        if not self._ready or self._untried >= self._limits.max_fresh:
            return None
        if not self.batching:
            events = self._take(1)
        elif self._ripe(now):
            events = self._take(self._limits.batch_events)
        else:
            return None
        delivery = Delivery(new_id(), key, now_ms, events)
        for event in events:
            self._busy[event.stream] = delivery
        self._deliveries[delivery.id] = delivery
        self._fresh.append(delivery)
        self._untried += 1
        return delivery

    def kept(self, group: int, now: float) -> None:
        """Handle that the store has kept *group*, and all groups before it."""
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
        """Handle a try that succeeded: the delivery is finished."""
        self._tries -= 1
        self._finish(delivery, now)

    def failed(self, delivery: Delivery, now: float, chance: float) -> bool:
        """
        Handle a try that failed; return whether it is retried, otherwise the delivery is finished.

        *chance*, from 0 to 1, spreads the retries of deliveries that failed at the same time.
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
        """Return when to call `form` and `begin` again, unless another method is called before."""
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

    def _take(self, count: int) -> list[QueuedEvent]:
        """Take up to *count* events of ready streams; the other events of these streams wait."""
        events: list[QueuedEvent] = []
        room = self._limits.batch_bytes
        while self._ready and len(events) < count:
            name = next(iter(self._ready))
            stream = self._streams[name]
            if events and len(stream.first.text) > room:
                break
            del self._ready[name]
            self._ready_events -= stream.length
            more = True
            while more and len(events) < count and (not events or len(stream.first.text) <= room):
                event = stream.first
                more = stream.remove(event)
                self._share(event.share).wait_no_more(event)
                self._unlink(event)
                events.append(event)
                room -= len(event.text)
            if not more:
                del self._streams[name]
        events.sort(key=_number)
        if not self._ready:
            self._flush_at = None
        return events

    def _finish(self, delivery: Delivery, now: float) -> None:
        del self._deliveries[delivery.id]
        for event in delivery.events:
            self._count(event, -1)
            if self._busy.pop(event.stream, None) is not None and event.stream in self._streams:
                waiting = self._streams[event.stream]
                self._ready[event.stream] = None
                self._ready_events += waiting.length
                self._flush_by(max(now, waiting.first.at + self._limits.batch_s))

    def _overflow(self) -> list[QueuedEvent]:
        dropped: list[QueuedEvent] = []
        while (share := self._over()) is not None:
            event = share.first_to_drop()
            for other in (event.sooner, event.later):
                if other is not None and other.appears != event.appears:
                    self._drop(other)
                    dropped.append(other)
                    break
            self._drop(event)
            dropped.append(event)
        return dropped

    def _over(self) -> _Share | None:
        """Return the share of which an event must be dropped; None if nothing must be dropped."""
        limits = self._limits
        events, bytes_ = self._claimed()
        if events > limits.max_queued_events:
            excess = {one: one.events - one.reserved_events for one in self._shares.values()}
        elif bytes_ > limits.max_queued_bytes:
            excess = {one: one.bytes - one.reserved_bytes for one in self._shares.values()}
        else:
            return None
        over = [share for share in excess if excess[share] > 0 and share.waiting]
        if self._shares[OPEN] in over:
            return self._shares[OPEN]
        return max(over, key=excess.__getitem__, default=None)

    def _claimed(self) -> tuple[int, int]:
        """Return the numbers of events and bytes that are used or reserved."""
        events = bytes_ = 0
        for share in self._shares.values():
            events += max(share.events, share.reserved_events)
            bytes_ += max(share.bytes, share.reserved_bytes)
        return events, bytes_

    def _drop(self, event: QueuedEvent) -> None:
        self._count(event, -1)
        self._share(event.share).wait_no_more(event)
        self._unlink(event)
        if event.stream in self._ready:
            self._ready_events -= 1
        if not self._streams[event.stream].remove(event):
            del self._streams[event.stream]
            self._ready.pop(event.stream, None)

    def _share(self, name: str) -> _Share:
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = _Share()
        return share

    def _count(self, event: QueuedEvent, times: int) -> None:
        self.events += times
        self.bytes += times * event.size
        self._share(event.share).count(event, times)

    def _link(self, event: QueuedEvent) -> None:
        if event.subject is not None:
            event.sooner = self._subjects.get(event.subject)
            if event.sooner is not None:
                event.sooner.later = event
            self._subjects[event.subject] = event

    def _unlink(self, event: QueuedEvent) -> None:
        if event.subject is None:
            return
        sooner, later = event.sooner, event.later
        event.sooner = event.later = None
        if sooner is not None:
            sooner.later = later
        if later is not None:
            later.sooner = sooner
        elif sooner is not None:
            self._subjects[event.subject] = sooner
        else:
            del self._subjects[event.subject]


def _number(event: QueuedEvent) -> int:
    return event.number


class Agenda(Generic[T]):
    """Things that are due at a time; each thing is on it once, at the earliest of its times."""

    def __init__(self) -> None:
        self._at: dict[T, float] = {}
        self._heap: list[tuple[float, int, T]] = []  # entries that differ from _at are stale
        self._puts = 0

    def put(self, thing: T, at: float) -> None:
        """Make *thing* due no later than *at*."""
        if at < self._at.get(thing, float("inf")):
            self._at[thing] = at
            self._puts += 1
            heapq.heappush(self._heap, (at, self._puts, thing))

    def take_one(self, now: float) -> T | None:
        """Remove and return the thing with the earliest time; None if no thing is due."""
        at = self.due()
        if at is None or at > now:
            return None
        _, _, thing = heapq.heappop(self._heap)
        del self._at[thing]
        return thing

    def due(self) -> float | None:
        """Return the earliest time of a thing; None if there is no thing."""
        while self._heap:
            at, _, thing = self._heap[0]
            if self._at.get(thing) == at:
                return at
            heapq.heappop(self._heap)
        return None
