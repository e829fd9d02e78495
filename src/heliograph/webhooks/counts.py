"""
The rate limit of reports of a channel's number of subscriptions.

Knows names of channels and numbers. The time is an argument.
"""

from collections import OrderedDict
from collections.abc import Iterable


class LatestCounts:
    """
    Decides when a number is reported: at most once in *interval_s* for each channel.

    The first number is reported at once. Of the numbers that follow within the interval, the latest
    is *pending*, and is reported at the end of the interval.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        # In the order of the ends: channel -> end of its interval, and the pending number.
        self._channels: OrderedDict[str, tuple[float, int | None]] = OrderedDict()
        self._pending = 0

    def __len__(self) -> int:
        """Return the number of channels whose interval is stored."""
        return len(self._channels)

    @property
    def pending(self) -> dict[str, int]:
        """The numbers that are still to be reported."""
        return {
            channel: count for channel, (_, count) in self._channels.items() if count is not None
        }

    def take(self, channel: str, count: int, now: float) -> bool:
        """Take a number; return whether it must be reported now. Otherwise it is pending."""
        known = self._channels.get(channel)
        if known is None:
            self._channels[channel] = (now + self._interval_s, None)
            return True
        self._put(channel, known[0], count)
        return False

    def elapse(self, now: float, limit: int) -> list[tuple[str, int]]:
        """Return the numbers that are to be reported now, *limit* at most."""
        reported: list[tuple[str, int]] = []
        while self._channels and len(reported) < limit:
            channel, (until, count) = next(iter(self._channels.items()))
            if until > now:
                break
            del self._channels[channel]
            if count is not None:
                self._pending -= 1
                reported.append((channel, count))
                self._channels[channel] = (now + self._interval_s, None)
        return reported

    def due(self) -> float | None:
        """Return when a number is due or, if none is pending, when all channels can be removed."""
        if not self._channels:
            return None
        channel = next(iter(self._channels)) if self._pending else next(reversed(self._channels))
        return self._channels[channel][0]

    def load(self, pending: Iterable[tuple[str, int]], now: float) -> None:
        """Load pending numbers of an earlier process of this server, or of another node."""
        for channel, count in pending:
            self._channels[channel] = (now + self._interval_s, None)
            self._put(channel, now + self._interval_s, count)

    def end_intervals(self, now: float) -> None:
        """End all intervals: `elapse` now returns all pending numbers."""
        for channel, (_, count) in self._channels.items():
            self._channels[channel] = (now, count)

    def _put(self, channel: str, until: float, count: int) -> None:
        if self._channels[channel][1] is None:
            self._pending += 1
        self._channels[channel] = (until, count)
