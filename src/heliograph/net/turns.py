"""
Turns: fair scheduling of connections, with a time budget for each turn.

A turn of the server has a time budget, and each connection a slice of it. A connection with more
input than its slice has time for is served again later, after connections that have used less
time. So no client, whatever it sends, delays another one by more than about a turn.

This module schedules callbacks. streams.py and the connections read and handle the input.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

S = TypeVar("S")

TURN_S: Final = 0.005
"""Seconds in which sockets are read and their input is handled before the loop turns."""

SLICE_S: Final = 0.0005
"""Seconds in which one connection's input is handled before another connection's turn."""

ENDINGS_S: Final = 0.002
"""Seconds in which ended connections are released before the loop turns: thousands may disconnect
at once."""

DELAYS_S: Final = (0.0, 0.01, 0.03, 1.0, 1.5, 2.0)
"""
Seconds by which a connection is queued behind others, for each level.

A read that uses up its slice, or does not read all that the client has sent, moves the connection
one level down this list; short reads move it back. The first steps are small for two reasons: any
read may coincide with a garbage collection, and a client that has waited has more input, which it
must be able to catch up on.
"""

STEP: Final = 32
"""Difference of the standing between two levels: see `standing_after`."""

LONG_S: Final = 0.001
"""A read that takes no longer than this many seconds, and is complete, does not move a connection
down a level."""

NEWCOMER: Final = 4 * STEP
"""The standing of a new connection: existing connections that use little time come before it."""

GoOn = Callable[[], object]
"""Handles more of a connection's input, for no longer than a slice."""


class Turns(Protocol):
    """A scheduler that serves a connection again on a later turn."""

    def again(self, go_on: GoOn, transport: Any, /) -> None:
        """
        Call *go_on* once, on a later turn, for the connection that *transport* carries.

        The connection has paused reading until then. If it ends before, *go_on* must detect that.
        """


class LoopTurns:
    """Turns for connections over asyncio's transports: first in, first out."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = monotonic
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._queue: deque[GoOn] = deque()
        self._turning = False  # a turn is running or scheduled

    def again(self, go_on: GoOn, _transport: Any, /) -> None:
        """Call *go_on* on its turn."""
        self._queue.append(go_on)
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        end = self._clock() + TURN_S
        try:
            while self._queue:
                self._queue.popleft()()
                if self._clock() >= end:
                    break
        finally:  # an exception in one connection does not stop the others
            self._turning = bool(self._queue)
            if self._turning:
                self._loop.call_soon(self._turn)


class Queue(Generic[S]):
    """
    Streams (of type *S*) with unread input, and connections with unhandled input, in the order in
    which they are served.

    Connections that use little time are served in order of arrival, before those that use much
    (DELAYS_S), which take turns.
    """

    __slots__ = ("_levels", "_size")

    def __init__(self) -> None:
        # Entries of one level have the same delay, so they stay in order of arrival.
        self._levels: list[deque[tuple[float, S, GoOn | None]]] = [
            deque() for _ in range(len(DELAYS_S))
        ]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, stream: S, standing: int, now: float, go_on: GoOn | None = None) -> None:
        """
        Queue *stream*, of this *standing*, *now*.

        Without *go_on*, the stream has unread input; with it, the connection has unhandled input.
        """
        self._size += 1
        level = standing // STEP
        self._levels[level].append((now + DELAYS_S[level], stream, go_on))

    def take(self) -> tuple[S, GoOn | None]:
        """Remove and return the next entry. Raises IndexError if there is none."""
        first = self._levels[0]
        moment = first[0][0] if first else float("inf")
        for entries in self._levels:
            if entries and entries[0][0] < moment:
                first = entries
                moment = entries[0][0]
        _, stream, go_on = first.popleft()
        self._size -= 1
        return stream, go_on

    def clear(self) -> None:
        """Remove all entries."""
        self._size = 0
        for entries in self._levels:
            entries.clear()


def standing_after(standing: int, took_s: float, *, whole: bool, done: bool) -> int:
    """
    Return the standing of a connection after a read that took *took_s* seconds to handle.

    The level is the standing divided by STEP. The remainder is the number of short reads that the
    connection owes: after a long read it is one level further down, and owes STEP - 1 short reads
    before the next short read moves it back up. So a client that sends an expensive message from
    time to time, among many cheap ones, stays behind clients that send only cheap ones.

    If the read is not *done*, another slice of it follows. If it was not the *whole* input that the
    client has sent, it is not short, however little time it took: more input follows, and of a
    large message only the last part takes long.
    """
    if not (whole and done) or took_s > LONG_S:
        return min(standing // STEP + 1, len(DELAYS_S) - 1) * STEP + STEP - 1
    if took_s > SLICE_S or not standing:
        return standing
    return standing - 1 if standing % STEP else standing - STEP
