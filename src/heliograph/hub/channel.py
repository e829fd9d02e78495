"""
One channel: its subscriptions, and the facts that were published on it since the last flush.

A channel numbers its facts. A subscription stores the number of the next fact that it needs. A
flush writes to each subscriber the pending facts from that number on, which are nearly always one
shared chunk. So subscribing and unsubscribing force no flush, and a subscriber never receives facts
that were published before it subscribed.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Protocol

from heliograph.hub.facts import Event, Fact, Position

GONE = 1 << 62
"""The next number of a subscription that has ended: no fact ever gets such a number."""

MAX_CHUNK_BYTES = 256 * 1024
"""A longer write would make a transport call a healthy client slow."""

KEPT_CHUNKS = 16
"""Chunks that a batch keeps for the next subscriber, which nearly always needs the last or two."""


class Subscriber(Protocol):
    """
    A receiver of the facts of a channel.

    *write* takes one of the chunks that the subscriber's lane made. It never raises and never
    subscribes or unsubscribes anything: a flush calls it.
    """

    id: str

    def write(self, chunk: Any, /) -> object:
        """Take a chunk; a subscriber that is closing drops it without an error."""


class Lane(Protocol):
    """
    The encoding of facts for one kind of subscriber. Opaque to the hub; equal lanes are one object.

    Its encodings are bytes for sockets, and for other subscribers any object that has a length. The
    length of a chunk is the sum of the lengths of its encodings.
    """

    def encode(self, fact: Fact, /) -> Any:
        """Turn one fact into this lane's form."""

    def join(self, encoded: Sequence[Any], /) -> Any:
        """Make one chunk of several encodings, in order."""

    def cut(self, chunk: Any, parts: Sequence[tuple[int, int]], /) -> Sequence[Any]:
        """Make chunks of *parts* of a chunk: each begins and ends where an encoding does."""


class Counters:
    """Counts of the work of flushes: integers, because they are counted on the hot path."""

    __slots__ = ("bytes", "deliveries", "encodings", "facts", "joins", "writes")

    def __init__(self) -> None:
        self.bytes = 0
        self.facts = 0
        self.encodings = 0
        self.joins = 0
        self.writes = 0
        self.deliveries = 0


class Subscription:
    """
    A subscription of one subscriber to one channel: the handle that `subscribe` returns.

    *since* is the number of the next fact that it needs. Facts with lower numbers were published
    before it began, or were written to it already by a flush in several calls.
    """

    __slots__ = ("channel", "lane", "since", "subscriber")

    def __init__(self, channel: "Channel", subscriber: Subscriber, lane: Lane, since: int) -> None:
        self.channel = channel
        self.subscriber = subscriber
        self.lane = lane
        self.since = since


class Batch:
    """
    The facts of one flush, consecutive in number, each encoded at most once for each lane.

    A chunk is made when the first subscriber needs it, and shared by all that need the same facts.
    """

    __slots__ = (
        "_chunks",
        "_counters",
        "_encoded",
        "_facts",
        "_offsets",
        "ahead",
        "excluded",
        "first",
        "written_up_to",
    )

    def __init__(self, first: int, facts: list[Fact], counters: Counters) -> None:
        self.first = first
        # By id of a subscriber: the indices of the facts that exclude it.
        self.excluded: dict[str, list[int]] = {}
        # In a walk: the subscriptions that it has not reached yet, reversed, and the number up to
        # which facts were written to those that it reached first.
        self.ahead: list[Subscription] = []
        self.written_up_to = 0
        self._facts: list[Fact] = []
        self._counters = counters
        self._encoded: dict[Lane, list[Any]] = {}
        self._offsets: dict[Lane, list[int]] = {}  # of each fact in a lane's whole chunk
        self._chunks: dict[tuple[Lane, int], list[Any]] = {}
        self.extend(facts)

    @property
    def end(self) -> int:
        """The number after the last fact's."""
        return self.first + len(self._facts)

    def facts_from(self, number: int) -> list[Fact]:
        """Return the facts of the batch with *number* and those after it."""
        return self._facts[max(number - self.first, 0) :]

    def extend(self, facts: list[Fact]) -> None:
        """Add facts published since, for the subscriptions that the walk has not reached yet."""
        event = Event  # compiled, a name that is not local costs a lookup for each fact
        for index, fact in enumerate(facts, len(self._facts)):
            if type(fact) is event and fact.except_id is not None:
                self.excluded.setdefault(fact.except_id, []).append(index)
        self._facts += facts
        self._chunks.clear()
        self._offsets.clear()

    def rest(self) -> "Batch | None":
        """
        Return the facts that the subscriptions reached first have not received; None without any.

        Their encodings are kept.
        """
        known = self.written_up_to - self.first
        if known == len(self._facts):
            return None
        rest = Batch(self.written_up_to, self._facts[known:], self._counters)
        for lane, encoded in self._encoded.items():
            if len(encoded) > known:
                rest._encoded[lane] = encoded[known:]
        return rest

    def chunks(self, lane: Lane, since: int) -> list[Any]:
        """Return the chunks for a subscription of *lane* whose next fact is number *since*."""
        start = since - self.first
        key = (lane, start)
        chunks = self._chunks.get(key)
        if chunks is None:
            encoded = self._encodings(lane)
            chunks = self._joined(lane, encoded[start:] if start else encoded)
            if len(self._chunks) >= KEPT_CHUNKS:
                self._chunks.clear()
            self._chunks[key] = chunks
        return chunks

    def chunks_without(
        self, lane: Lane, since: int, subscriber_id: str
    ) -> tuple[Sequence[Any], int]:
        """
        Return the chunks for a subscriber that some facts exclude, and the number of facts in them.

        Otherwise as `chunks`.
        """
        start = since - self.first
        left_out = [index for index in self.excluded[subscriber_id] if index >= start]
        count = len(self._facts) - start - len(left_out)
        if not count:
            return [], 0
        chunks = self.chunks(lane, since)
        if not left_out:
            return chunks, count
        if len(chunks) > 1:
            encoded = self._encodings(lane)
            kept = sorted({*range(start, len(encoded))}.difference(left_out))
            return self._joined(lane, [encoded[index] for index in kept]), count
        # With many publishers, many events are pending for a subscriber. Cutting one event out of a
        # chunk is cheap, joining hundreds of them again is not.
        return lane.cut(chunks[0], self._parts(lane, start, left_out)), count

    def _parts(self, lane: Lane, start: int, left_out: list[int]) -> list[tuple[int, int]]:
        """
        Return the parts of a chunk without the facts *left_out*: the begin and end of each.

        The chunk begins with fact *start*.
        """
        offsets = self._offsets.get(lane)
        if offsets is None:
            offsets = [0, *accumulate(map(len, self._encodings(lane)))]
            self._offsets[lane] = offsets
        base = offsets[start]
        begins = [0, *[offsets[index + 1] - base for index in left_out]]
        ends = [*[offsets[index] - base for index in left_out], offsets[-1] - base]
        return [(begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end]

    def _encodings(self, lane: Lane) -> list[Any]:
        encoded = self._encoded.get(lane, [])
        if len(encoded) < len(self._facts):
            more = [lane.encode(fact) for fact in self._facts[len(encoded) :]]
            self._counters.encodings += len(more)
            encoded = self._encoded[lane] = encoded + more
        return encoded

    def _joined(self, lane: Lane, encoded: list[Any]) -> list[Any]:
        if len(encoded) <= 1:
            return encoded
        if sum(map(len, encoded)) <= MAX_CHUNK_BYTES:
            self._counters.joins += 1
            return [lane.join(encoded)]
        chunks = []
        for run in _runs(encoded):
            chunks.append(lane.join(run) if len(run) > 1 else run[0])
            self._counters.joins += 1
        return chunks


def _runs(encoded: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Split *encoded* into runs no longer than a chunk may be, unless one encoding alone is."""
    start = size = 0
    for index, encoding in enumerate(encoded):
        length = len(encoding)
        if size and size + length > MAX_CHUNK_BYTES:
            yield encoded[start:index]
            start, size = index, 0
        size += length
    yield encoded[start:]


class Channel:
    """A named set of subscriptions of one app on this node."""

    __slots__ = (
        "_counters",
        "kind",
        "name",
        "next",
        "pending",
        "position",
        "subscriptions",
        "walk",
    )

    def __init__(self, name: str, counters: Counters) -> None:
        self.name = name
        self.kind = ""  # as the owner of the hub calls it
        self.next = 0  # the number that the next fact will get
        self.position: Position | None = None  # of the last event here that is kept, if any is
        self.subscriptions: dict[Subscription, None] = {}
        self.pending: list[Fact] | None = None  # the facts numbered last, not written yet
        self._counters = counters
        self.walk: Batch | None = None  # the batch that is being written in several calls

    def unwritten(self, subscription: Subscription) -> list[Fact]:
        """Return the facts that a flush has yet to write to *subscription*, in order."""
        since, walk = subscription.since, self.walk
        facts = walk.facts_from(since) if walk is not None else []
        pending = self.pending or []
        return facts + pending[max(since - (self.next - len(pending)), 0) :]

    def flush(self, budget: int) -> int:
        """
        Write the pending facts to at most *budget* subscribers; return the number of writes.

        Each fact is encoded once for each lane. Each subscriber gets one write: a few if some facts
        exclude it, or if the facts are longer than a chunk may be.

        A channel with more subscribers than *budget* is flushed in several calls, a walk. A walk
        uses a snapshot of the subscriptions and skips those that have ended meanwhile. Facts that
        are published during the walk are written with it to the subscriptions that it has not
        reached yet, and to the others in a second walk.
        """
        pending, self.pending = self.pending, None
        batch = self.walk
        if batch is None:
            if pending is None:
                return 0
            if len(pending) == 1 and len(self.subscriptions) <= budget:
                return self._write_one(pending[0])
            batch = Batch(self.next - len(pending), pending, self._counters)
            if len(self.subscriptions) <= budget:
                return self._write(batch, self.subscriptions)
            self.walk = batch
        elif pending is not None:
            batch.extend(pending)
        return self._walk_on(batch, budget)

    def _walk_on(self, batch: Batch, budget: int) -> int:
        ahead, end = batch.ahead, batch.end
        if (
            not batch.written_up_to
        ):  # the walk begins with this call: later subscriptions are not part of it
            ahead += self.subscriptions
            ahead.reverse()
            batch.written_up_to = end
        part = ahead[: -budget - 1 : -1]
        del ahead[-budget:]
        try:
            writes = self._write(batch, part)
        finally:  # if a lane fails, no subscriber receives the same fact twice
            for subscription in part:
                if subscription.since < end:  # noqa: PLR1730 - as in _write
                    subscription.since = end
        if not ahead:
            self.walk = batch.rest() if self.subscriptions else None
        return writes

    def _write_one(self, fact: Fact) -> int:
        """Write a single fact to all subscribers: the same as `_write`, without a batch."""
        number = self.next - 1
        except_id = fact.except_id if type(fact) is Event else None
        encoded: dict[Lane, Any] = {}
        writes = size = length = 0
        lane: Lane | None = None
        chunk: Any = None
        for subscription in self.subscriptions:
            subscriber = subscription.subscriber
            if subscription.since > number or (
                except_id is not None and subscriber.id == except_id
            ):
                continue
            if subscription.lane is not lane:
                lane = subscription.lane
                chunk = encoded.get(lane)
                if chunk is None:
                    chunk = encoded[lane] = lane.encode(fact)
                length = len(chunk)
            subscriber.write(chunk)
            writes += 1
            size += length
        counters = self._counters
        counters.bytes += size
        counters.encodings += len(encoded)
        counters.writes += writes
        counters.deliveries += writes
        return writes

    def _write(self, batch: Batch, subscriptions: Iterable[Subscription]) -> int:
        first, end = batch.first, batch.end
        excluded = batch.excluded
        writes = deliveries = size = count = length = 0
        chunks: Sequence[Any] = []
        lone: Any = None  # the only chunk, if there is one, as nearly always
        since, lane = -1, None  # the subscriptions that *chunks* are for
        for subscription in subscriptions:
            subscriber = subscription.subscriber
            begin = subscription.since
            if begin < first:  # noqa: PLR1730 - a call costs more than the rest of the loop
                begin = first
            if begin >= end:
                continue  # it began after these facts, has received them already, or has ended
            if excluded and subscriber.id in excluded:
                lane = lone = None
                chunks, count = batch.chunks_without(subscription.lane, begin, subscriber.id)
            elif begin != since or subscription.lane is not lane:
                since, lane = begin, subscription.lane
                chunks, count = batch.chunks(lane, since), end - since
                lone = chunks[0] if len(chunks) == 1 else None
                length = len(chunks[0])
            deliveries += count
            if lone is not None:
                subscriber.write(lone)
                writes += 1
                size += length
                continue
            for chunk in chunks:
                subscriber.write(chunk)
                writes += 1
                size += len(chunk)
        self._counters.bytes += size
        self._counters.writes += writes
        self._counters.deliveries += deliveries
        return writes
