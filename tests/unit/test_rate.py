"""Evenly, with a burst: never more than that, and never less than was promised."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.rate import admit, wait_s


def let_in(times: list[float], per_second: float, burst_s: float) -> list[float]:
    paid, accepted = 0.0, []
    for now in times:
        found = admit(paid, now, per_second=per_second, burst_s=burst_s)
        if found is not None:
            paid = found
            accepted.append(now)
    return accepted


@pytest.mark.parametrize("start", [0.0, 12_345.678, 9e6])
@pytest.mark.parametrize(("per_second", "burst_s"), [(1, 1), (3, 1), (7, 10), (100, 1), (999, 10)])
def test_a_burst_is_as_large_as_promised(start: float, per_second: int, burst_s: float) -> None:
    assert len(let_in([start] * 20_000, per_second, burst_s)) == per_second * burst_s


def test_who_keeps_to_the_rate_is_never_refused() -> None:
    times = [1000 + number / 10 for number in range(10_000)]
    assert let_in(times, 10, 1) == times


@given(
    st.lists(st.floats(0, 20), max_size=200).map(sorted),
    st.integers(1, 20),
    st.sampled_from([1.0, 10.0]),
)
def test_in_no_stretch_of_time_are_there_more(
    times: list[float], per_second: int, burst_s: float
) -> None:
    accepted = let_in([1000 + one for one in times], per_second, burst_s)
    for first in range(len(accepted)):
        for last in range(first, len(accepted)):
            stretch = accepted[last] - accepted[first]
            assert last - first + 1 <= per_second * (burst_s + stretch) + 0.001


def test_a_batch_is_let_in_whole_and_paid_for_afterwards() -> None:
    paid = admit(0.0, 100.0, per_second=5, burst_s=1, count=20)
    assert paid == 104.0
    assert admit(paid, 103.0, per_second=5, burst_s=1) is None
    assert wait_s(paid, 103.0, per_second=5, burst_s=1) == pytest.approx(0.2)
    assert admit(paid, 103.2, per_second=5, burst_s=1) is not None


@given(st.floats(0, 50), st.integers(1, 1000))
def test_who_waits_as_long_as_told_is_let_in(before: float, per_second: int) -> None:
    now = 10.0
    delay = wait_s(before, now, per_second=per_second, burst_s=1)
    assert admit(before, now + delay, per_second=per_second, burst_s=1) is not None
    refused = admit(before, now, per_second=per_second, burst_s=1) is None
    assert (delay > 0) or not refused
