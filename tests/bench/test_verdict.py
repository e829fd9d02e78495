"""When a build is slower than another: what the rounds must show, and what they must not."""

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.verdict import (
    BOUND,
    CHANCE,
    Ratios,
    Round,
    Verdict,
    against_old,
    by_chance,
    judge,
    limit_rank,
    settled,
)

ratios = st.lists(st.floats(0.25, 4), min_size=1, max_size=15).map(lambda of: Ratios(tuple(of)))
figures = st.integers(1, 1 << 20).map(float)
rounds = st.lists(st.builds(Round, figures, figures, figures), min_size=1, max_size=15)


def verdict(new: Sequence[float], control: Sequence[float]) -> Verdict:
    return judge(Ratios(tuple(new)), Ratios(tuple(control)))


CALM = (1.0, 0.99, 1.01, 1.0, 0.99, 1.01, 1.0)


@pytest.mark.parametrize(
    ("new", "control", "expected"),
    [
        ((0.99, 1.01, 0.98, 0.97, 1.02, 1.0, 0.99), CALM, Verdict.PASSES),
        ((0.97,) * 7, CALM, Verdict.PASSES),
        ((0.969,) * 7, CALM, Verdict.FAILS),
        ((0.94, 0.95, 0.96, 1.02, 0.93, 0.95, 1.01), CALM, Verdict.FAILS),
        # The old build against itself is as slow as that in two rounds of seven, either way round.
        ((0.95,) * 7, (0.9, 0.93, 0.98, 1.0, 1.01, 1.02, 1.03), Verdict.NOISE),
        ((0.95,) * 7, (1.1, 1.08, 1.0, 1.0, 0.99, 0.98, 0.98), Verdict.NOISE),
        # The new build is slower than that, but the old one has lost 4 % to itself.
        ((0.8,) * 7, (0.96,) * 7, Verdict.DISTURBED),
        ((0.965,) * 7, (0.96,) * 7, Verdict.NOISE),
    ],
)
def test_a_row_fails_below_the_bound_unless_the_old_build_does_so_itself(
    new: Sequence[float], control: Sequence[float], expected: Verdict
) -> None:
    assert verdict(new, control) == expected


@given(ratios, ratios)
def test_only_a_median_below_the_bound_beside_a_control_that_is_not_fails(
    new: Ratios, control: Ratios
) -> None:
    found = judge(new, control)
    assert (found is Verdict.PASSES) == (new.median >= BOUND)
    if found is Verdict.FAILS:
        assert control.median >= BOUND > new.median
    if control.limits == (1, 1):  # a control without any noise: the rule has no exception
        assert (found is Verdict.FAILS) == (new.median < BOUND)


@given(ratios, ratios, st.floats(0.1, 1))
def test_no_build_gets_off_by_being_slower(new: Ratios, control: Ratios, share: float) -> None:
    order = [Verdict.PASSES, Verdict.NOISE, Verdict.FAILS]
    slower = Ratios(tuple(ratio * share for ratio in new.values))
    before, after = judge(new, control), judge(slower, control)
    worst = {Verdict.DISTURBED: Verdict.FAILS}
    assert order.index(worst.get(after, after)) >= order.index(worst.get(before, before))


@given(rounds, st.lists(st.integers(-4, 4), min_size=15, max_size=15))
def test_a_machine_that_changes_its_speed_between_rounds_changes_nothing(
    taken: list[Round], exponents: list[int]
) -> None:
    shifted = [
        Round(one.new * 2.0**by, one.old * 2.0**by, one.control * 2.0**by)
        for one, by in zip(taken, exponents, strict=False)
    ]
    for less in (False, True):
        assert against_old(shifted, less_is_better=less) == against_old(taken, less_is_better=less)


def test_below_one_is_worse_whether_more_is_better_or_less() -> None:
    one = [Round(new=200.0, old=100.0, control=100.0)]
    more, _ = against_old(one, less_is_better=False)
    less, _ = against_old(one, less_is_better=True)
    assert (more.median, less.median) == (2.0, 0.5)


@pytest.mark.parametrize("nothing", [0.0, -3.0, math.nan])
def test_of_nothing_no_ratio_is_made(nothing: float) -> None:
    for one in (Round(nothing, 1, 1), Round(1, nothing, 1), Round(1, 1, nothing)):
        with pytest.raises(ValueError, match="no ratio"):
            against_old([one], less_is_better=False)


@given(ratios)
def test_which_server_of_the_old_build_is_the_control_is_arbitrary(control: Ratios) -> None:
    swapped = Ratios(tuple(1 / ratio for ratio in control.values))
    assert math.isclose(by_chance(control), by_chance(swapped))
    assert by_chance(control) <= 1


@pytest.mark.parametrize("count", range(4, 40))
def test_the_limits_of_a_median_are_as_near_as_chance_allows(count: int) -> None:
    def beyond(rank: int) -> float:
        return float(sum(math.comb(count, fewer) for fewer in range(rank)) / 2**count)

    assert beyond(limit_rank(count)) <= CHANCE < beyond(limit_rank(count) + 1)


# -- What the rule is worth --------------------------------------------------------------------


def share_that_fails(*, true_ratio: float, scatter: float, runs: int = 400) -> float:
    """Return how many rows fail after 7 rounds, or 15 where 7 leave it open."""
    chance = random.Random(2026)

    def figure() -> float:
        return math.exp(chance.gauss(0, scatter / math.sqrt(2)))

    failed = 0
    for _ in range(runs):
        taken = [Round(figure() * true_ratio, figure(), figure()) for _ in range(15)]
        for count in (7, 15):
            found = against_old(taken[:count], less_is_better=False)
            if settled(*found):
                break
        failed += judge(*found) is Verdict.FAILS
    return failed / runs


@pytest.mark.parametrize("scatter", [0.01, 0.04, 0.1, 0.3])
def test_a_build_that_is_no_slower_fails_at_most_one_row_in_fifty(scatter: float) -> None:
    assert share_that_fails(true_ratio=1, scatter=scatter) <= 0.02


@pytest.mark.parametrize(
    ("true_ratio", "scatter"), [(0.96, 0.01), (0.95, 0.02), (0.93, 0.04), (0.90, 0.06)]
)
def test_a_planted_slow_down_fails(true_ratio: float, scatter: float) -> None:
    assert share_that_fails(true_ratio=true_ratio, scatter=scatter) >= 0.94
