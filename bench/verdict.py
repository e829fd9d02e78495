"""
Whether a build is slower than another, by rounds in which both and a control were measured.

Pure: figures in, a verdict out. The control is a second server of the old build. What it shows of
the old build against itself is what chance alone does on this machine, in this run.
"""

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

BOUND = 0.97
"""A new build may cost 3 % of a row."""

MARGIN = 0.01
"""A median that is not this much above the bound is too near to it to be believed at once."""

CHANCE = 0.10
"""How probable it may be that a median is beyond a limit of it: see limits()."""


class Verdict(enum.StrEnum):
    """What a row's rounds say of the new build."""

    PASSES = "ok"
    NOISE = "ok, within noise"  # below the bound, but the old build against itself gets there, too
    FAILS = "FAILS"
    DISTURBED = "disturbed"  # slower, but so is the old build against itself: measure again


@dataclass(frozen=True, slots=True)
class Round:
    """One figure of the new build, of the old one, and of a second server of the old one."""

    new: float
    old: float
    control: float


@dataclass(frozen=True, slots=True)
class Ratios:
    """A build against the old one, a ratio a round; below 1 is worse, whatever the figure."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The ratio that counts."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest."""
        return min(self.values), max(self.values)

    @property
    def limits(self) -> tuple[float, float]:
        """
        The bounds that the true median is beyond by chance only, each with CHANCE at most.

        They are two of the ratios themselves (the third lowest and third highest of ten, say), so
        nothing is assumed of how rounds scatter. With fewer than four rounds they are the extremes,
        and are passed more often.
        """
        ordered = sorted(self.values)
        left_out = limit_rank(len(ordered)) - 1
        return ordered[left_out], ordered[-1 - left_out]


def limit_rank(rounds: int) -> int:
    """
    Return which of *rounds* ordered ratios limits their median, counted from 1.

    The true median is below the k-th lowest only if fewer than k of the ratios are below it, each
    of which is the toss of a coin.
    """
    rank, chance = 0, 0.0
    while (chance := chance + math.comb(rounds, rank) / 2**rounds) <= CHANCE:
        rank += 1
    return max(rank, 1)


def against_old(rounds: Sequence[Round], *, less_is_better: bool) -> tuple[Ratios, Ratios]:
    """
    Return the ratios of the new build, and of the control, against the old build.

    Raises ValueError where a figure is not above 0, as no ratio can be made of it.
    """
    for one in rounds:
        if not (one.new > 0 and one.old > 0 and one.control > 0):
            raise ValueError(f"no ratio can be made of {one}")
    if less_is_better:
        new = tuple(one.old / one.new for one in rounds)
        control = tuple(one.old / one.control for one in rounds)
    else:
        new = tuple(one.new / one.old for one in rounds)
        control = tuple(one.control / one.old for one in rounds)
    return Ratios(new), Ratios(control)


def by_chance(control: Ratios) -> float:
    """
    Return how low a median may be without any difference between the builds.

    Which of the two servers of the old build is the control is arbitrary, so that both ways count.
    """
    low, high = control.limits
    return min(low, 1 / high)


def judge(new: Ratios, control: Ratios) -> Verdict:
    """Return what the ratios of the new build say, beside those of the old one against itself."""
    if new.median >= BOUND:
        return Verdict.PASSES
    if new.median >= by_chance(control):
        return Verdict.NOISE
    return Verdict.FAILS if control.median >= BOUND else Verdict.DISTURBED


def settled(new: Ratios, control: Ratios) -> bool:
    """Return whether more rounds would hardly change the verdict."""
    verdict = judge(new, control)
    if verdict is Verdict.FAILS:
        return new.limits[1] < BOUND
    return verdict is Verdict.PASSES and new.median >= BOUND + MARGIN
