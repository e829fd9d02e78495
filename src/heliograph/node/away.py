"""
The peer of a session that lost its connection and waits for the client to reconnect.

Holds the data for the client, up to a number of bytes. Knows no protocol, and nothing of
connections.
"""

from collections.abc import Callable
from typing import Any

from heliograph.node.dialect import ClientLane, Goodbye


class Away:
    """
    A Peer that holds chunks of *lane* instead of sending them, *most_bytes* in total.

    If there are more bytes, all chunks are dropped: a client that misses some of them must be
    notified. *end* is called when the session is closed.
    """

    __slots__ = ("_end", "_most_bytes", "_size", "chunks", "dropped", "goodbye", "id", "lane")

    def __init__(
        self, session_id: str, lane: ClientLane, most_bytes: int, end: Callable[[], object]
    ) -> None:
        self.id = session_id
        self.lane = lane
        self.chunks: list[bytes | memoryview] = []
        self.dropped = False
        self.goodbye: Goodbye | None = None  # the goodbye that it was closed with
        self._size = 0
        self._most_bytes = most_bytes
        self._end = end

    def write(self, chunk: Any, /) -> None:
        """Hold a chunk that the lane made."""
        if self.dropped or self.goodbye is not None or not chunk:
            return
        self._size += len(chunk)
        if self._size > self._most_bytes:
            self.dropped = True
            self.chunks.clear()
        else:
            self.chunks.append(chunk)

    def room(self) -> int:
        """Return 0: history is read when the client is back."""
        return 0

    def when_room(self, callback: Callable[[], object]) -> None:
        """Do nothing: when the client is back, its session asks the new connection."""

    def send(self, *texts: bytes) -> None:
        """Hold messages for the client."""
        for text in texts:
            self.write(self.lane.framing.frame(text))

    def release(self) -> None:
        """Hold nothing more: the session ended. It can still be asked for its goodbye."""
        self.dropped = True
        self.chunks.clear()
        self._end = _nothing  # the session refers to its peer: no cycle is left

    def close(self, goodbye: Goodbye) -> None:
        """End the session; the client receives *goodbye* if it reconnects."""
        if self.goodbye is None:
            self.goodbye = goodbye
            self.chunks.clear()
            self._end()


def _nothing() -> None:
    """Do nothing: the session has ended."""
