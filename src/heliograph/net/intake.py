"""
Intake: limits the incomplete requests and messages of all connections together.

Each connection limits its own: a head, a body and a message have a maximum size. Thousands of
connections, none of them authenticated, could still use gigabytes. This module counts the bytes of
each connection; it does not parse them.
"""

import asyncio
import logging
from typing import Final, Protocol

from heliograph.observe.log_throttle import Summary

logger = logging.getLogger(__name__)

UNFINISHED_BYTES: Final = 4096
"""With more bytes of an incomplete request or message, a connection counts towards the total."""

MOST_BYTES = 64 << 20
"""Bytes of incomplete requests and messages that all connections together may hold."""


class HoldsUnfinished(Protocol):
    """A connection that holds an incomplete request or message."""

    def drop_unfinished(self) -> None:
        """End the connection, and drop its incomplete request or message."""


class Intake:
    """
    The number of incomplete bytes that each connection holds.

    If all connections together hold more than *most* bytes, those that hold the most are dropped
    until the total is within the limit. That happens at the end of the tick, because a connection
    calls `note` while it handles its input.
    """

    __slots__ = ("_held", "_loop", "_most", "_relieving", "_summary", "bytes", "dropped")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most: int = MOST_BYTES) -> None:
        self.bytes = 0
        self.dropped = 0
        """Number of connections that were ended for this since the start."""
        self._loop = loop
        self._most = most
        self._held: dict[HoldsUnfinished, int] = {}
        self._relieving = False
        self._summary = Summary(logger, logging.WARNING, loop.call_later)

    def __len__(self) -> int:
        return len(self._held)

    def note(self, connection: HoldsUnfinished, size: int) -> None:
        """Register that *connection* holds *size* bytes."""
        self.bytes += size - self._held.get(connection, 0)
        self._held[connection] = size
        if self.bytes > self._most and not self._relieving:
            self._relieving = True
            self._loop.call_soon(self._relieve)

    def forget(self, connection: HoldsUnfinished) -> None:
        """Remove *connection*, whose bytes are complete or dropped."""
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
