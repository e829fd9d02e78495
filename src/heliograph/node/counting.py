"""
How often subscribers are sent the number of subscriptions of their channel.

Knows channels by name, numbers, and of time what it is given. Does not know subscribers, nor how
a number is sent.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

LARGE_CHANNEL = 100
"""The number of a channel with more subscriptions than this is sent at LARGE_INTERVAL_S only."""

SMALL_INTERVAL_S = 1.0
LARGE_INTERVAL_S = 5.0

SENDS_AT_ONCE = 250
"""Numbers sent before the event loop turns: one client may change thousands of channels at once."""


class Counting:
    """
    Decides when the number of a channel is sent; the latest number is always sent in the end.

    Up to LARGE_CHANNEL subscriptions, the first change is sent at once, and further ones at most
    once in SMALL_INTERVAL_S per channel. Above it, a change is sent at the end of the
    LARGE_INTERVAL_S that it begins. So one client that subscribes and unsubscribes in a loop cannot
    have every subscriber of the channel written to each time.

    *now* reads a monotonic clock in seconds, *later* calls a function after a delay; there is one
    timer for all channels. *send* is given a channel and its number.
    """

    __slots__ = ("_large", "_later", "_now", "_send", "_small", "_timer_at")

    def __init__(
        self,
        now: Callable[[], float],
        later: Callable[..., object],
        send: Callable[[str, int], object],
    ) -> None:
        self._now = now
        self._later = later
        self._send = send
        # Both in the order of their times: an interval is the same for every channel.
        # Channels whose number was sent: until when no other is, and the one to send then, if any.
        self._small: OrderedDict[str, tuple[float, int | None]] = OrderedDict()
        # Large channels that changed: when their number is sent, and what it is by now.
        self._large: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._timer_at: float | None = None  # older timers do nothing

    def __len__(self) -> int:
        """Return the number of channels that something is remembered of."""
        return len(self._small.keys() | self._large.keys())

    def changed(self, channel: str, count: int) -> None:
        """Take note that *channel* has *count* subscriptions now."""
        now = self._now()
        recent = self._small.get(channel)
        if count > LARGE_CHANNEL:
            if recent is not None:
                self._small[channel] = (recent[0], None)
            due = self._large.get(channel)
            self._large[channel] = (due[0] if due else now + LARGE_INTERVAL_S, count)
        else:
            self._large.pop(channel, None)
            if recent is None:
                self._send_now(channel, count, now)
            else:
                self._small[channel] = (recent[0], count)
        self._set_timer(now)

    def _send_now(self, channel: str, count: int, now: float) -> None:
        # Never there yet: what is due of _small is taken out before anything of _large, and the
        # interval of a channel that grew since has ended by then. So it becomes the last key.
        self._small[channel] = (now + SMALL_INTERVAL_S, None)
        self._send(channel, count)

    def _set_timer(self, now: float) -> None:
        times = [next(iter(queue.values()))[0] for queue in (self._small, self._large) if queue]
        if times and (self._timer_at is None or min(times) < self._timer_at):
            self._timer_at = min(times)
            self._later(max(0.0, self._timer_at - now), self._on_timer, self._timer_at)

    def _on_timer(self, set_for: float) -> None:
        if set_for != self._timer_at:
            return  # an earlier timer was set since, and has done this one's work
        self._timer_at = None
        now = max(self._now(), set_for)  # a loop's timers may fire a little early
        left = SENDS_AT_ONCE
        while left and (taken := self._take_due(now)) is not None:
            channel, count = taken
            if count is not None:
                left -= 1
                self._send_now(channel, count, now)
        self._set_timer(now)

    def _take_due(self, now: float) -> tuple[str, int | None] | None:
        """Take out a channel whose time has come, with the number to send, if any."""
        queue: Any
        for queue in (self._small, self._large):
            if queue:
                channel, (at, count) = next(iter(queue.items()))
                if at <= now:
                    del queue[channel]
                    return channel, count
        return None
