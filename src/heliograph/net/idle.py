"""
Closes HTTP connections when there are too many.

Idle connections are closed when file descriptors run short, so that a new client is only refused
if every descriptor is in use. Connections of a proxy that has not named their client yet are closed
if there are too many of them, because no limit per address applies to them. WebSocket connections
are never closed for these reasons.
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
"""Seconds of silence after which a connection is idle; before that, a request may be in flight."""

SAMPLE = 512
"""
Connections that are compared in one turn of the loop. If there are more, each turn compares another
part of them.
"""

SNAPSHOT_S = 5.0
"""
Seconds that a list of more than SAMPLE connections is kept; it also keeps ended connections alive.
"""

UNNAMED_SHARE = 4
"""Connections whose client is not known may use the capacity divided by this, ..."""

UNNAMED_FLOOR = 512
"""
... but always this many, the number accepted in a few turns of the loop: the client is known as
soon as a request is read.
"""

TRIED = 64
"""Connections that are checked to find one that has sent nothing."""


def most_unnamed(capacity: int) -> int:
    """Return how many connections of *capacity* may have an unknown client."""
    return max(capacity // UNNAMED_SHARE, UNNAMED_FLOOR)


class ClosableConnection(Protocol):
    """The part of an HTTP connection that this module needs."""

    def idle_since(self) -> float | None:
        """Return since when it has been idle, in monotonic seconds; None if it is not idle."""

    @property
    def silent(self) -> bool:
        """Whether nothing was received yet."""

    def drop(self) -> None:
        """Abort the connection."""

    def close(self, *, idle_s: float = 0.0) -> None:
        """Close after pending answers; without any, only after *idle_s* seconds of silence."""


class IdleConnections:
    """
    Closes the idle ones of *connections*, beginning with those that were idle for the longest time.

    The order is exact for up to SAMPLE connections; if there are more, it is exact within a sample
    of that size. *now* is the clock that `ClosableConnection.idle_since` uses.
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
        Close *wanted* connections, or as many as are idle, in the next turn of the loop.

        Not in this turn, because input that has arrived on a connection may not be read yet. Of
        several calls in one turn, the largest *wanted* counts.
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
    Connections of proxies that have not named a client yet; their total is limited.

    *capacity* returns the number of descriptors for clients.
    """

    __slots__ = ("_capacity", "_connections")

    def __init__(self, capacity: Callable[[], int]) -> None:
        self._capacity = capacity
        # In order of arrival. Connections that have sent a request since then are only removed
        # when the limit is reached, so that requests cost nothing.
        self._connections: dict[ClosableConnection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def limit(self) -> int:
        """The maximum number of connections."""
        return most_unnamed(self._capacity())

    def add(self, connection: ClosableConnection) -> bool:
        """
        Add *connection*; return whether it was within the limit.

        If the limit is reached, the oldest connection that has sent nothing is aborted.
        """
        if len(self._connections) >= self.limit and not self._make_room():
            return False
        self._connections[connection] = None
        return True

    def discard(self, connection: ClosableConnection) -> None:
        """Remove *connection*, if it is registered."""
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
