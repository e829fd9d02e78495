"""
Lanes whose chunks are bytes: what a lane of any protocol has in common with others.

Knows how encodings are joined and cut. How a fact is written is for the lane of each protocol, how
a message is framed for the framing.
"""

from collections.abc import Sequence

from heliograph.hub.channel import Lane
from heliograph.hub.facts import Fact
from heliograph.node.dialect import Framing

MOST_PIECES = 4
"""A chunk that some are left out of is written in so many pieces at the most."""

WORTH_A_VIEW = 8 * 1024
"""Less than this is copied sooner than written in pieces. Measured: it is even at 10 KB."""


class FramedLane(Lane):
    """Facts as messages, framed by *framing*: one message each, so that they can be cut."""

    def __init__(self, framing: Framing) -> None:
        self.framing = framing

    def encode(self, fact: Fact, /) -> bytes:
        """Make one frame of a fact."""
        raise NotImplementedError

    def join(self, encoded: Sequence[bytes], /) -> bytes:
        """Put frames, which stand for themselves, in a row."""
        return b"".join(encoded)

    def cut(
        self, chunk: bytes, parts: Sequence[tuple[int, int]], /
    ) -> Sequence[bytes | memoryview]:
        """
        Return some frames of a row: where that is large as parts of it, which are no copies.

        A client that reads slowly keeps with a part the whole. So where the parts are less than
        half of it, or many, they are put in a row of their own.
        """
        view = memoryview(chunk)
        pieces = [view[begin:end] for begin, end in parts]
        kept = sum([end - begin for begin, end in parts])
        if len(pieces) > MOST_PIECES or kept < WORTH_A_VIEW or 2 * kept < len(chunk):
            return [b"".join(pieces)]
        return pieces
