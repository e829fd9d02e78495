"""
The times at which subscribers receive the number of subscriptions of their channel.

The engine states the number; this module decides only when this node sends it. Knows names of
channels, numbers, and the clock and timers that it is given. Knows no subscribers, and not how a
number is sent.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from heliograph.engine.base import LARGE_CHANNEL

INTERVAL_S = 1.0
"""Seconds between two numbers of one channel, up to LARGE_CHANNEL subscriptions."""

SENDS_AT_ONCE = 250
"""Numbers sent before the event loop turns: one client may change thousands of channels at once."""


class Counting:
    """
    Decides when the number of a channel is sent; the latest number is always sent in the end.

    Up to LARGE_CHANNEL subscriptions, the first change is sent at the end of this turn of the event
    loop, so that the client that caused it receives it too. Further changes are sent at most once
    in INTERVAL_S per channel: otherwise a client that subscribes and unsubscribes in a loop would
    cause a write to every subscriber each time. Above LARGE_CHANNEL the engine states numbers
    rarely, and each is sent.

    *now* reads a monotonic clock in seconds, *soon* calls a function at the end of this turn,
    *later* after a delay; there is one timer for all channels. *send* takes a channel and its
    number. *ask* takes a channel whose number the engine is to state now.
    """

    __slots__ = (
        "_ask",
        "_changed",
        "_due",
        "_later",
        "_now",
        "_recent",
        "_send",
        "_soon",
        "_timer_at",
    )

    def __init__(
        self,
        now: Callable[[], float],
        soon: Callable[[Callable[[], object]], object],
        later: Callable[..., object],
        send: Callable[[str, int], object],
        ask: Callable[[str], object],
    ) -> None:
        self._now = now
        self._soon = soon
        self._later = later
        self._send = send
        self._ask = ask
        self._changed: dict[str, int] = {}  # to be sent at the end of the turn
        # Channels whose number was sent: the end of the interval in which no other number is sent,
        # and the number to send then, if any. In the order of these times, since the interval is
        # the same for every channel.
        self._recent: OrderedDict[str, tuple[float, int | None]] = OrderedDict()
        self._due: list[tuple[float, str]] = []  # a heap: time, and the channel to ask for then
        self._timer_at: float | None = None  # older timers do nothing

    def __len__(self) -> int:
        """Return the number of channels that have an entry here."""
        return len(self._changed.keys() | self._recent.keys() | {name for _, name in self._due})

    def changed(self, channel: str, count: int) -> None:
        """Record that *channel* has *count* subscriptions now."""
        recent = self._recent.get(channel)
        if recent is not None and count <= LARGE_CHANNEL:
            self._recent[channel] = (recent[0], count)
            self._set_timer()
            return
        if recent is not None:
            self._recent[channel] = (recent[0], None)
        if not self._changed:
            self._soon(self._send_changed)
        self._changed[channel] = count

    def due(self, channel: str, in_s: float) -> None:
        """Ask for the number of *channel* in *in_s* seconds."""
        heapq.heappush(self._due, (self._now() + in_s, channel))
        self._set_timer()

    def _send_changed(self) -> None:
        left = SENDS_AT_ONCE
        while self._changed and left:
            left -= 1
            channel = next(iter(self._changed))
            self._send_now(channel, self._changed.pop(channel), self._now())
        if self._changed:
            self._soon(self._send_changed)
        self._set_timer()

    def _send_now(self, channel: str, count: int, now: float) -> None:
        if count <= LARGE_CHANNEL:
            self._recent[channel] = (now + INTERVAL_S, None)
            self._recent.move_to_end(channel)
        self._send(channel, count)

    def _set_timer(self) -> None:
        times = [at for at, _ in self._due[:1]]
        if self._recent:
            times.append(next(iter(self._recent.values()))[0])
        if times and (self._timer_at is None or min(times) < self._timer_at):
            self._timer_at = min(times)
            self._later(max(0.0, self._timer_at - self._now()), self._on_timer, self._timer_at)

    def _on_timer(self, set_for: float) -> None:
        if set_for != self._timer_at:
            return  # an earlier timer was set since, and has done the work of this one
        self._timer_at = None
        now = max(self._now(), set_for)  # timers of an event loop may fire a little early
        left = SENDS_AT_ONCE
        while left and self._due and self._due[0][0] <= now:
            left -= 1
            self._ask(heapq.heappop(self._due)[1])
        while left and (taken := self._take_due(now)) is not None:
            channel, count = taken
            if count is not None:
                left -= 1
                self._send_now(channel, count, now)
        self._set_timer()

    def _take_due(self, now: float) -> tuple[str, int | None] | None:
        """Remove a channel whose interval has ended; return it with the number to send, if any."""
        recent: Any = self._recent
        if recent:
            channel, (at, count) = next(iter(recent.items()))
            if at <= now:
                del recent[channel]
                return channel, count
        return None
