"""
The rate limiter: GCRA, the generic cell rate algorithm.

Something may happen evenly, with a burst. What is limited keeps one number, its theoretical arrival
time: when the next one would come if all came evenly. 0 stands for nothing so far.

Source: https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
"""


def admit(
    arrival: float, now: float, *, per_second: float, burst_s: float, count: int = 1
) -> float | None:
    """
    Return the theoretical arrival time after *count* more, None if these come too early.

    On average *per_second* may happen; *burst_s* seconds' worth may come at once. All *count* are
    admitted together: a batch may be larger than what is left of the burst, and then delays what
    follows it.
    """
    start = max(arrival, now)
    if start - now > burst_s - 1 / per_second + TOLERANCE_S:
        return None
    return start + count / per_second


TOLERANCE_S = 1e-6
"""So that sums of fractions do not cost a whole."""


def wait_s(arrival: float, now: float, *, per_second: float, burst_s: float) -> float:
    """Return the time until one more may happen."""
    return max(0.0, arrival - now - burst_s + 1 / per_second)
