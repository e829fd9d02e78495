"""
One channel: its subscriptions, and what was said on it since the last flush.

A channel numbers its facts, and a subscription remembers from which number on it has yet to
be told. A flush gives each subscription its suffix of what is pending, which is nearly always
one shared chunk; so joining and leaving force no flush, and nobody receives what was
said before they joined.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Protocol

from heliograph.hub.facts import Event, Fact

GONE = 1 << 62
"""What a subscription that has ended is told from: no fact ever gets such a number."""

MAX_CHUNK_BYTES = 256 * 1024
"""A longer write would make a transport call a healthy client slow."""

KEPT_CHUNKS = 16
"""So many are remembered for the next subscriber, who nearly always needs the last one or two."""


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

    def cut(self, chunk: Any, parts: Sequence[tuple[int, int]], /) -> Sequence[Any]:
        """Make chunks of *parts* of another, each from an encoding's beginning to one's end."""


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
    """
    One subscriber's place in one channel: the handle that `subscribe` returns.

    All before *since* was said before it began, or written to it in the walk of a flush.
    """

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
        "_offsets",
        "ahead",
        "excluded",
        "first",
        "written_up_to",
    )

    def __init__(self, first: int, facts: list[Fact], counters: Counters) -> None:
        self.first = first
        self.excluded: dict[str, list[int]] = {}  # whom some facts leave out, and which
        # In a walk: whom it has yet to reach, reversed, and up to which number the first were told.
        self.ahead: list[Subscription] = []
        self.written_up_to = 0
        self._facts: list[Fact] = []
        self._counters = counters
        self._encoded: dict[Lane, list[Any]] = {}
        self._offsets: dict[Lane, list[int]] = {}  # where in a lane's whole chunk facts begin
        self._chunks: dict[tuple[Lane, int], list[Any]] = {}
        self.extend(facts)

    @property
    def end(self) -> int:
        """The number after the last fact's."""
        return self.first + len(self._facts)

    def extend(self, facts: list[Fact]) -> None:
        """Take in what was said since, for those who are yet to be reached."""
        event = Event  # compiled, what is not local costs a look-up for each fact
        for index, fact in enumerate(facts, len(self._facts)):
            if type(fact) is event and fact.except_id is not None:
                self.excluded.setdefault(fact.except_id, []).append(index)
        self._facts += facts
        self._chunks.clear()
        self._offsets.clear()

    def rest(self) -> "Batch | None":
        """Return what came after those who were reached first, encoded already; None if nothing."""
        known = self.written_up_to - self.first
        if known == len(self._facts):
            return None
        rest = Batch(self.written_up_to, self._facts[known:], self._counters)
        for lane, encoded in self._encoded.items():
            if len(encoded) > known:
                rest._encoded[lane] = encoded[known:]
        return rest

    def chunks(self, lane: Lane, since: int) -> list[Any]:
        """What a subscription of *lane* is to be written from *since* on, a number of ours."""
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
        """The same for a subscriber that some facts leave out, and the number of the others."""
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
        # Subscribers are many events behind where publishers are many: to cut one out of a chunk
        # is cheap, to join hundreds again is not.
        return lane.cut(chunks[0], self._parts(lane, start, left_out)), count

    def _parts(self, lane: Lane, start: int, left_out: list[int]) -> list[tuple[int, int]]:
        """Say where in a chunk that begins with fact *start* those are that are not left out."""
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

    __slots__ = ("_counters", "kind", "name", "next", "pending", "subscriptions", "walk")

    def __init__(self, name: str, counters: Counters) -> None:
        self.name = name
        self.kind = ""  # as the owner of the hub calls it
        self.next = 0  # the number that the next fact will get
        self.subscriptions: dict[Subscription, None] = {}
        self.pending: list[Fact] | None = None  # those numbered last, yet to be written
        self._counters = counters
        self.walk: Batch | None = None  # what is being written, in several calls

    def flush(self, budget: int) -> int:
        """
        Write what is pending to at most *budget* subscribers; return the writes made.

        One encoding a fact and lane, one write a subscriber (a few for who is left out of some, or
        for what is longer than a chunk may be). A channel with more subscribers than
        *budget* is walked over in several calls, over a snapshot and past who has left meanwhile.
        What is said during the walk is written along to those that it has yet to reach, and to
        the others in a walk of its own.
        """
        pending, self.pending = self.pending, None
        batch = self.walk
        if batch is None:
            if pending is None:
                return 0
            if len(pending) == 1 and len(self.subscriptions) <= budget:
                return self._write_one_fast(pending[0])
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
        ):  # it begins only now: whoever subscribes from here on is too late for it
            ahead += self.subscriptions
            ahead.reverse()
            batch.written_up_to = end
        part = ahead[: -budget - 1 : -1]
        del ahead[-budget:]
        try:
            writes = self._write(batch, part)
        finally:  # a fault of a lane's costs nobody the same fact twice
            for subscription in part:
                if subscription.since < end:  # noqa: PLR1730 - as in _write
                    subscription.since = end
        if not ahead:
            self.walk = batch.rest() if self.subscriptions else None
        return writes

    def _write_one_fast(self, fact: Fact) -> int:
        """Write a single fact to everybody: what `_write` would, without a batch to prepare."""
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
        lone: Any = None  # the only one of them, as nearly always
        since, lane = -1, None  # whose chunks these are
        for subscription in subscriptions:
            subscriber = subscription.subscriber
            begin = subscription.since
            if begin < first:  # noqa: PLR1730 - a call would cost more than all else here
                begin = first
            if begin >= end:
                continue  # joined after all of it, was told already, or is gone
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
