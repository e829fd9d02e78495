"""
One channel: its subscriptions, and what was said on it since the last flush.

A channel numbers its facts, and a subscription remembers the number at which it began.
A flush gives each subscription its suffix of what is pending, which is nearly always
one shared chunk; so joining and leaving force no flush, and nobody receives what was
said before they joined.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Protocol

from heliograph.hub.event import Event, Fact

GONE = 1 << 62
"""The beginning of a subscription that has ended: no fact ever gets such a number."""

MAX_CHUNK_BYTES = 256 * 1024
"""A longer write would make a transport call a healthy client slow."""


class Subscriber(Protocol):
    """
    Whoever receives what is said on a channel.

    *write* takes one of the chunks that the subscriber's lane made. It never raises and
    never changes a membership: a flush is going on around it.
    """

    id: str

    def write(self, chunk: Any, /) -> object:
        """Take a chunk, or lose it silently when closing."""


class Lane(Protocol):
    """
    How a kind of subscriber wants facts. Opaque to the hub; equal lanes are one object.

    What it makes is bytes for sockets, and for others anything that has a length; that of a
    chunk is what its encodings' are together.
    """

    def encode(self, fact: Fact, /) -> Any:
        """Turn one fact into this lane's form."""

    def join(self, encoded: Sequence[Any], /) -> Any:
        """Make one chunk of several encodings, in order."""

    def cut(self, chunk: Any, parts: Sequence[tuple[int, int]], /) -> Any:
        """Make one chunk of *parts* of another, each from an encoding's beginning to one's end."""


class Counters:
    """What flushing cost: plain numbers, because they are counted on the hot path."""

    __slots__ = ("bytes", "deliveries", "encodings", "facts", "joins", "writes")

    def __init__(self) -> None:
        self.bytes = 0
        self.facts = 0
        self.encodings = 0
        self.joins = 0
        self.writes = 0
        self.deliveries = 0


class Subscription:
    """One subscriber's place in one channel: the handle that `subscribe` returns."""

    __slots__ = ("channel", "lane", "since", "subscriber")

    def __init__(self, channel: "Channel", subscriber: Subscriber, lane: Lane, since: int) -> None:
        self.channel = channel
        self.subscriber = subscriber
        self.lane = lane
        self.since = since


class Batch:
    """
    What one flush has to say: a run of facts, encoded at most once a lane.

    Chunks are made when first asked for and shared by all whose part is the same.
    """

    __slots__ = (
        "_chunks",
        "_counters",
        "_encoded",
        "_facts",
        "_long",
        "_offsets",
        "excluded",
        "first",
    )

    def __init__(self, first: int, facts: list[Fact], counters: Counters) -> None:
        self.first = first
        self.excluded = _excluded(facts)
        self._facts = facts
        self._counters = counters
        self._encoded: dict[Lane, list[Any]] = {}
        self._offsets: dict[Lane, list[int]] = {}  # where in a lane's whole chunk facts begin
        self._long = False  # all of it, in one lane at least, is longer than a chunk may be
        self._chunks: dict[tuple[Lane, int], list[Any]] = {}

    def __len__(self) -> int:
        return len(self._facts)

    def chunks(self, lane: Lane, since: int) -> list[Any]:
        """What a subscription of *lane* that began at *since* is to be written."""
        start = max(since - self.first, 0)
        key = (lane, start)
        chunks = self._chunks.get(key)
        if chunks is None:
            encoded = self._encodings(lane)
            chunks = self._chunks[key] = self._joined(lane, encoded[start:] if start else encoded)
        return chunks

    def chunks_without(self, lane: Lane, since: int, subscriber_id: str) -> tuple[list[Any], int]:
        """The same for a subscriber that some facts leave out, and the number of the others."""
        start = max(since - self.first, 0)
        left_out = [index for index in self.excluded[subscriber_id] if index >= start]
        count = len(self._facts) - start - len(left_out)
        if not count:
            return [], 0
        whole = self.chunks(lane, self.first)
        if self._long:
            encoded = self._encodings(lane)
            kept = sorted({*range(start, len(encoded))}.difference(left_out))
            return self._joined(lane, [encoded[index] for index in kept]), count
        # Subscribers are many events behind where publishers are many: to cut one out of a chunk
        # is a copy, to join hundreds again is not.
        offsets = self._offsets.get(lane)
        if offsets is None:
            offsets = [0, *accumulate(map(len, self._encodings(lane)))]
            self._offsets[lane] = offsets
        parts = []
        begin = offsets[start]
        for index in left_out:
            parts.append((begin, offsets[index]))
            begin = offsets[index + 1]
        parts.append((begin, offsets[-1]))
        self._counters.joins += 1
        return [lane.cut(whole[0], parts)], count

    def _encodings(self, lane: Lane) -> list[Any]:
        encoded = self._encoded.get(lane)
        if encoded is None:
            encoded = self._encoded[lane] = [lane.encode(fact) for fact in self._facts]
            self._counters.encodings += len(encoded)
            self._long |= sum(map(len, encoded)) > MAX_CHUNK_BYTES
        return encoded

    def _joined(self, lane: Lane, encoded: list[Any]) -> list[Any]:
        if len(encoded) <= 1:
            return encoded
        if not self._long:
            self._counters.joins += 1
            return [lane.join(encoded)]
        chunks = []
        for run in _runs(encoded):
            chunks.append(lane.join(run) if len(run) > 1 else run[0])
            self._counters.joins += 1
        return chunks


def _excluded(facts: list[Fact]) -> dict[str, list[int]]:
    """Return whom some of *facts* leave out, and which: nearly always nobody."""
    excluded: dict[str, list[int]] = {}
    for index, fact in enumerate(facts):
        if type(fact) is Event and fact.except_id is not None:
            excluded.setdefault(fact.except_id, []).append(index)
    return excluded


def _runs(encoded: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Cut *encoded* so that no run is longer than a chunk may be, unless one alone is."""
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

    __slots__ = ("_batch", "_counters", "name", "next", "pending", "subscriptions", "walk")

    def __init__(self, name: str, counters: Counters) -> None:
        self.name = name
        self.next = 0  # the number that the next fact will get
        self.subscriptions: dict[Subscription, None] = {}
        self.pending: list[Fact] | None = None  # those numbered last, yet to be written
        self._counters = counters
        self._batch: Batch | None = None
        self.walk: list[Subscription] | None = None  # whom the batch has yet to reach, reversed

    def flush(self, budget: int) -> int:
        """
        Write what is pending to at most *budget* subscribers; return the writes made.

        One encoding a fact and lane, one join a lane, one write a subscriber. A channel with
        more subscribers than *budget* is walked over in several calls, over a
        snapshot and past who has left meanwhile; facts said during the walk wait for its end.
        """
        if self.walk is None:
            pending, self.pending = self.pending, None
            if pending is None:
                return 0
            if len(pending) == 1 and len(self.subscriptions) <= budget:
                return self._write_one(pending[0])
            self._batch = Batch(self.next - len(pending), pending, self._counters)
            if len(self.subscriptions) <= budget:
                writes = self._write(self._batch, self.subscriptions)
                self._batch = None
                return writes
            self.walk = list(self.subscriptions)
            self.walk.reverse()
        assert self._batch is not None  # noqa: S101 - it lives as long as the walk
        part = self.walk[: -budget - 1 : -1]
        del self.walk[-budget:]
        writes = self._write(self._batch, part)
        if not self.walk:
            self.walk = self._batch = None
        return writes

    def _write_one(self, fact: Fact) -> int:
        """Write a single fact to everybody: what `_write` would, without a batch to prepare."""
        number = self.next - 1
        except_id = fact.except_id if type(fact) is Event else None
        encoded: dict[Lane, Any] = {}
        writes = size = 0
        lane: Lane | None = None
        chunk: Any = None
        for subscription in self.subscriptions:
            subscriber = subscription.subscriber
            if subscription.since > number or subscriber.id == except_id:
                continue
            if subscription.lane is not lane:
                lane = subscription.lane
                chunk = encoded.get(lane)
                if chunk is None:
                    chunk = encoded[lane] = lane.encode(fact)
            subscriber.write(chunk)
            writes += 1
            size += len(chunk)
        counters = self._counters
        counters.bytes += size
        counters.encodings += len(encoded)
        counters.writes += writes
        counters.deliveries += writes
        return writes

    def _write(self, batch: Batch, subscriptions: Iterable[Subscription]) -> int:
        first = batch.first
        excluded = batch.excluded
        end = first + len(batch)
        writes = deliveries = size = 0
        whole: list[Any] = []
        lane: Lane | None = None
        for subscription in subscriptions:
            subscriber = subscription.subscriber
            since = subscription.since
            if since > first or subscriber.id in excluded:
                if since >= end or (since <= first and end - first == 1):
                    continue  # joined after all of it, or gone; or left out of the only fact
                chunks, count = self._part(batch, subscription)
                deliveries += count
            else:
                if subscription.lane is not lane:
                    lane = subscription.lane
                    whole = batch.chunks(lane, first)
                chunks = whole
                deliveries += end - first
            for chunk in chunks:
                subscriber.write(chunk)
                writes += 1
                size += len(chunk)
        self._counters.bytes += size
        self._counters.writes += writes
        self._counters.deliveries += deliveries
        return writes

    @staticmethod
    def _part(batch: Batch, subscription: Subscription) -> tuple[list[Any], int]:
        subscriber_id = subscription.subscriber.id
        if subscriber_id in batch.excluded:
            return batch.chunks_without(subscription.lane, subscription.since, subscriber_id)
        since = subscription.since
        return batch.chunks(subscription.lane, since), batch.first + len(batch) - since
