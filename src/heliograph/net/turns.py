"""
Turns: how long sockets are read before everybody else has a go, and which one is next.

A turn of the server has a time budget, and each connection a slice of it. A connection with more
input than its slice has time for is served again later, after those that have used less time. So
no client, whatever it sends, delays another one by more than about a turn.

Knows seconds and callbacks. What input is, and how it is read, is for streams.py and for the
connections to know.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

S = TypeVar("S")

TURN_S: Final = 0.005
"""How long sockets are read, and what came is handled, before the loop turns."""

SLICE_S: Final = 0.0005
"""How long one connection's input is handled before it is another one's turn."""

ENDINGS_S: Final = 0.002
"""How long connections are ended before the loop turns: thousands may disconnect at once."""

DELAYS_S: Final = (0.0, 0.01, 0.03, 1.0, 1.5, 2.0)
"""
How far behind others a connection is queued, by its level.

A read that uses up its slice, or is not the whole of what its client has sent, takes it one level
down this list, and short ones back. The first steps are little: any read may meet with
the garbage collector, and a client that waits has sent more when it is read, and must catch up.
"""

STEP: Final = 32
"""Standing from one level to the next: see `standing_after`."""

LONG_S: Final = 0.001
"""A read that takes no longer, and leaves nothing for another slice, takes no connection down."""

NEWCOMER: Final = 4 * STEP
"""The standing of a connection that begins: those that are there and use little come before it."""

GoOn = Callable[[], object]
"""Handles some more of a connection's input, no longer than a slice."""


class Turns(Protocol):
    """Whatever can serve a connection again later."""

    def again(self, go_on: GoOn, transport: Any, /) -> None:
        """
        Have *go_on* called on a later turn, once, for the connection that *transport* carries.

        The connection has paused reading meanwhile, and finds out by itself whether it has ended.
        """


class LoopTurns:
    """Turns where asyncio's transports carry the connections: in the order of asking."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = monotonic
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._queue: deque[GoOn] = deque()
        self._turning = False  # or about to

    def again(self, go_on: GoOn, _transport: Any, /) -> None:
        """Have *go_on* called when it is its turn."""
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
        finally:  # a fault in one connection does not stop the others
            self._turning = bool(self._queue)
            if self._turning:
                self._loop.call_soon(self._turn)


class Queue(Generic[S]):
    """
    Streams (of type *S*) that have something to read, and connections with more of it, in the
    order of serving.

    Connections that use little time come in the order of their coming, before all that use much
    (DELAYS_S), and those take turns.
    """

    __slots__ = ("_levels", "_size")

    def __init__(self) -> None:
        # Those of one level are behind by the same, so they stay in the order of their coming.
        self._levels: list[deque[tuple[float, S, GoOn | None]]] = [
            deque() for _ in range(len(DELAYS_S))
        ]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, stream: S, standing: int, now: float, go_on: GoOn | None = None) -> None:
        """
        Queue *stream*, of this *standing*, *now*.

        It is to be read or, with *go_on*, its connection has more to handle.
        """
        self._size += 1
        level = standing // STEP
        self._levels[level].append((now + DELAYS_S[level], stream, go_on))

    def take(self) -> tuple[S, GoOn | None]:
        """Take out the next. Raises IndexError where there is none."""
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
        """Forget all."""
        self._size = 0
        for entries in self._levels:
            entries.clear()


def standing_after(standing: int, took_s: float, *, whole: bool, done: bool) -> int:
    """
    Return the standing of a connection after a read that took *took_s* seconds to handle.

    Its level is the standing divided by STEP, and what is left are the short reads that it owes: a
    long read takes it a level down and has it owe STEP - 1 of them before another one takes it
    back. A client that sends what is expensive once in a while, among much that is cheap, stays
    behind those who do not.

    Where that was not *done*, there is another slice of it. Where it was not the *whole* of what
    the client has sent, it is not short, however little it takes: there is more, and of a large
    message only the last part takes long.
    """
    if not (whole and done) or took_s > LONG_S:
        return min(standing // STEP + 1, len(DELAYS_S) - 1) * STEP + STEP - 1
    if took_s > SLICE_S or not standing:
        return standing
    return standing - 1 if standing % STEP else standing - STEP
