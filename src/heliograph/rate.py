"""
How often something may happen: evenly, with a burst.

Whoever is limited keeps one number, the time up to which what it did is paid for. 0 is for who
has done nothing yet.
"""


def paid_until(
    before: float, now: float, *, per_second: float, burst_s: float, count: int = 1
) -> float | None:
    """
    Return the time up to which *count* more are paid for, None where they come too early.

    On average *per_second* may happen; *burst_s* seconds' worth may come at once. What is let
    in is paid for to the last: a batch may be larger than what is left of the burst, and then
    delays what follows it.
    """
    start = max(before, now)
    if start - now > burst_s - 1 / per_second + TOLERANCE_S:
        return None
    return start + count / per_second


TOLERANCE_S = 1e-6
"""So that sums of fractions do not cost a whole."""


def wait_s(before: float, now: float, *, per_second: float, burst_s: float) -> float:
    """Return the time until one more may happen."""
    return max(0.0, before - now - burst_s + 1 / per_second)
