"""
Lanes whose chunks are bytes: the base of the lane of each protocol.

Joins and cuts encodings. The lane of each protocol encodes a fact as a message, and the framing
frames the message.
"""

from collections.abc import Sequence

from heliograph.hub.channel import Lane
from heliograph.hub.facts import Event, Fact
from heliograph.node.dialect import Framing

MOST_PIECES = 4
"""The most pieces in which a chunk is written that some frames are cut out of."""

WORTH_A_VIEW = 8 * 1024
"""Bytes below which copying is faster than writing pieces; both were equal at 10 KB, measured."""


class FramedLane(Lane):
    """
    Encodes each fact as one message, framed by *framing*, so that a chunk can be cut.

    *without_kept* is the lane of the same subscribers while they receive the kept events of a
    channel from its history: there, kept events have no encoding.
    """

    def __init__(self, framing: Framing) -> None:
        self.framing = framing
        self.without_kept: Lane = WithoutKept(self)

    def encode(self, fact: Fact, /) -> bytes:
        """Make one frame of a fact."""
        raise NotImplementedError

    def join(self, encoded: Sequence[bytes], /) -> bytes:
        """Concatenate frames, which are independent of each other."""
        return b"".join(encoded)

    def cut(
        self, chunk: bytes, parts: Sequence[tuple[int, int]], /
    ) -> Sequence[bytes | memoryview]:
        """
        Return *parts* of a chunk: if they are large, as views of it, which are not copies.

        A view keeps the whole chunk in memory until a slow client has read it. So the parts are
        copied into one new chunk if they are less than half of the chunk, or many.
        """
        view = memoryview(chunk)
        pieces = [view[begin:end] for begin, end in parts]
        kept = sum([end - begin for begin, end in parts])
        if len(pieces) > MOST_PIECES or kept < WORTH_A_VIEW or 2 * kept < len(chunk):
            return [b"".join(pieces)]
        return pieces


class WithoutKept(Lane):
    """The lane *all_facts*, without the events that the engine keeps."""

    def __init__(self, all_facts: FramedLane) -> None:
        self._all_facts = all_facts

    def encode(self, fact: Fact, /) -> bytes:
        """Make one frame of a fact; nothing of an event that is kept."""
        if type(fact) is Event and fact.position is not None:
            return b""
        return self._all_facts.encode(fact)

    def join(self, encoded: Sequence[bytes], /) -> bytes:
        """Concatenate frames; see FramedLane."""
        return self._all_facts.join(encoded)

    def cut(
        self, chunk: bytes, parts: Sequence[tuple[int, int]], /
    ) -> Sequence[bytes | memoryview]:
        """Return *parts* of a chunk; see FramedLane."""
        return self._all_facts.cut(chunk, parts)
