"""
Which HTTP connections make room when there are too many.

Idle ones when file descriptors run short, so that a new client is refused only where every
descriptor is in use; and those behind a proxy whose client is not known yet, which no limit of an
address can hold for. WebSocket connections are never closed for either.
"""

import asyncio
import logging
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from heapq import nsmallest
from itertools import islice
from operator import itemgetter
from typing import Protocol

from heliograph.observe.log_throttle import Summary

logger = logging.getLogger(__name__)

IDLE_S = 1.0
"""A connection that was silent for less is not idle: its request may be on its way."""

SAMPLE = 512
"""Connections that are compared in one turn of the loop; of more, a different part each time."""

SNAPSHOT_S = 5.0
"""How long a list of more connections is kept; it also refers to those that have ended."""

UNNAMED_SHARE = 4
"""Connections whose client is not known may take the capacity divided by this, ..."""

UNNAMED_FLOOR = 512
"""... or as many as come in a few turns of the loop: each is known as soon as it is read."""

TRIED = 64
"""Connections that are looked at for one that has sent nothing."""


def most_unnamed(capacity: int) -> int:
    """Return how many connections of *capacity* may be there whose client is not known."""
    return max(capacity // UNNAMED_SHARE, UNNAMED_FLOOR)


class ClosableConnection(Protocol):
    """An HTTP connection, as far as this module is concerned."""

    def idle_since(self) -> float | None:
        """Return since when nothing has been under way, in monotonic seconds; None if it is."""

    @property
    def silent(self) -> bool:
        """Whether nothing was received yet."""

    def drop(self) -> None:
        """End the connection at once."""

    def close(self, *, idle_s: float = 0.0) -> None:
        """Close after the answers that are owed; if none are, after *idle_s* seconds of silence."""


class IdleConnections:
    """
    Closes idle ones of *connections*, those that have been idle for longest first.

    Exact for up to SAMPLE of them, and among as many of more. *now* is the clock that
    `ClosableConnection.idle_since` goes by.
    """

    __slots__ = ("_connections", "_loop", "_now", "_snapshot", "_summary", "_wanted", "closed")

    def __init__(
        self,
        connections: AbstractSet[ClosableConnection],
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
    ) -> None:
        self.closed = 0
        self._connections = connections
        self._loop = loop
        self._now = now
        self._wanted = 0
        self._snapshot: list[ClosableConnection] = []
        self._summary = Summary(logger, logging.WARNING, loop.call_later)

    def close_soon(self, wanted: int) -> None:
        """
        Close *wanted* of them, or as many as are idle, in the next turn of the loop.

        Not in this one: what has arrived on a connection may not be read yet. Asked several times
        in one turn, as many as were wanted at most.
        """
        if not self._wanted:
            self._loop.call_soon(self._close)
        self._wanted = max(self._wanted, wanted)

    def _close(self) -> None:
        wanted, self._wanted = self._wanted, 0
        latest = self._now() - IDLE_S
        idle = [
            (since, connection)
            for connection in self._sample()
            if (since := connection.idle_since()) is not None and since <= latest
        ]
        for _, connection in nsmallest(wanted, idle, key=itemgetter(0)):
            connection.drop()
            self.closed += 1
            self._summary.note(
                "few file descriptors are left", "an idle HTTP connection was closed"
            )

    def _sample(self) -> list[ClosableConnection]:
        if len(self._connections) <= SAMPLE:
            return list(self._connections)
        if not self._snapshot:
            self._snapshot = list(self._connections)
            self._loop.call_later(SNAPSHOT_S, self._snapshot.clear)
        part = self._snapshot[-SAMPLE:]
        del self._snapshot[-SAMPLE:]
        return [one for one in part if one in self._connections]


class Unnamed:
    """
    Connections of proxies that have not named a client yet: bounded in total.

    *capacity* returns how many descriptors there are for clients.
    """

    __slots__ = ("_capacity", "_connections")

    def __init__(self, capacity: Callable[[], int]) -> None:
        self._capacity = capacity
        # In the order in which they came. Those that have sent a request since are taken out
        # when it comes to that, so that requests pay nothing.
        self._connections: dict[ClosableConnection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def limit(self) -> int:
        """How many there may be."""
        return most_unnamed(self._capacity())

    def add(self, connection: ClosableConnection) -> bool:
        """
        Take in *connection*; return whether there is room.

        Where there are as many as may be, the oldest that has sent nothing is ended.
        """
        if len(self._connections) >= self.limit and not self._make_room():
            return False
        self._connections[connection] = None
        return True

    def discard(self, connection: ClosableConnection) -> None:
        """Forget *connection*, whether it was here or not."""
        self._connections.pop(connection, None)

    def _make_room(self) -> bool:
        for one in list(islice(self._connections, TRIED)):
            if one.silent:
                self.discard(one)
                one.drop()
            elif one.idle_since() is not None:
                self.discard(one)  # it has sent a request
            else:
                continue
            return True
        return False
