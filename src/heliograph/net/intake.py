"""
Intake: what clients have begun to send and not completed, bounded for all of them together.

Each connection bounds its own: a head, a body, a message may only be so long. Thousands of them
could still hold gigabytes, and none of them has proved who it is. Knows connections and sizes;
what is incomplete is for them to know.
"""

import asyncio
import logging
from typing import Protocol

from heliograph.observe.log_throttle import Summary

logger = logging.getLogger(__name__)

MOST_BYTES = 64 << 20
"""How much all connections together may hold of what is incomplete."""


class HoldsUnfinished(Protocol):
    """A connection that holds something incomplete."""

    def drop_unfinished(self) -> None:
        """End the connection, with what it holds."""


class Intake:
    """
    Who holds how much of what is incomplete.

    When all together hold more than *most* bytes, those that hold the most are dropped until they
    do not: at the end of the tick, since a connection is about to go on when it finds out.
    """

    __slots__ = ("_held", "_loop", "_most", "_relieving", "_summary", "bytes", "dropped")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most: int = MOST_BYTES) -> None:
        self.bytes = 0
        self.dropped = 0
        """How many connections were ended, since the start."""
        self._loop = loop
        self._most = most
        self._held: dict[HoldsUnfinished, int] = {}
        self._relieving = False
        self._summary = Summary(logger, logging.WARNING, loop.call_later)

    def __len__(self) -> int:
        return len(self._held)

    def note(self, connection: HoldsUnfinished, size: int) -> None:
        """Take note that *connection* holds *size* bytes."""
        self.bytes += size - self._held.get(connection, 0)
        self._held[connection] = size
        if self.bytes > self._most and not self._relieving:
            self._relieving = True
            self._loop.call_soon(self._relieve)

    def forget(self, connection: HoldsUnfinished) -> None:
        """Take *connection* off: what it held is complete, or gone."""
        self.bytes -= self._held.pop(connection, 0)

    def _relieve(self) -> None:
        self._relieving = False
        for connection in sorted(self._held, key=self._held.__getitem__, reverse=True):
            if self.bytes <= self._most:
                break
            self.forget(connection)
            self.dropped += 1
            self._summary.note(
                "a client was disconnected",
                f"incomplete messages and requests of all clients exceeded {self._most} bytes, and"
                " this client had sent most of them",
            )
            connection.drop_unfinished()
