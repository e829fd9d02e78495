"""
The chart of a soak, as SVG: memory, kept events, descriptors, latency and lag, one above the other.

Written by hand: a picture of a few lines is worth no dependency.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10
from statistics import median

from soak.run import Outcome

MIB = 1 << 20
WIDTH, PANEL, GAP, LEFT, TOP, RIGHT = 880, 120, 46, 70, 52, 34
MOST_POINTS = 400
SILENCE = 3
"""So many times as long between two measurements as usual, and no line is drawn."""
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:15px;font-weight:600}"
    ".head{font-weight:600}.grid{stroke:#ddd}.line{fill:none;stroke-width:1.5}"
)
BLUE, RED = "#2563ab", "#c2410c"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """One measured thing over time."""

    name: str
    colour: str
    points: Points


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn on one scale, which begins at zero."""

    title: str
    unit: str
    lines: Sequence[Line]


def draw(outcome: Outcome, title: str) -> str:
    """Return the chart."""
    panels = _panels(outcome)
    end = max((one.time for one in outcome.samples), default=1.0)
    height = TOP + len(panels) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img" aria-label="{title}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="title" x="{LEFT}" y="24">{title}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, TOP + number * (PANEL + GAP), end)
    return "\n".join([*parts, "</svg>\n"])


def _panels(outcome: Outcome) -> list[Panel]:
    samples = outcome.samples
    heard = [(one.time, one.median, one.slowest) for one in samples]
    return [
        Panel(
            "Memory (RSS)",
            "MiB",
            [Line("memory", BLUE, [(one.time, one.memory / MIB) for one in samples])],
        ),
        Panel(
            "Kept events",
            "MiB",
            [Line("kept", BLUE, [(one.time, one.kept / MIB) for one in samples])],
        ),
        Panel(
            "Open descriptors",
            "",
            [Line("descriptors", BLUE, [(one.time, one.descriptors) for one in samples])],
        ),
        Panel(
            "From publishing to hearing",
            "ms",
            [
                Line("median", BLUE, [(time, p50 * 1e3) for time, p50, _ in heard if p50]),
                Line("99 of 100", RED, [(time, p99 * 1e3) for time, _, p99 in heard if p99]),
            ],
        ),
        Panel(
            "Lag of the event loop, in each second",
            "ms",
            [
                Line("median", BLUE, [(time, middle * 1e3) for time, middle, _ in outcome.lags]),
                Line("longest", RED, [(time, most * 1e3) for time, _, most in outcome.lags]),
            ],
        ),
    ]


def _panel(panel: Panel, top: int, end: float) -> list[str]:
    step = _step(max((y for line in panel.lines for _, y in line.points), default=1.0) / 3)
    most = step * ceil(max(y for line in panel.lines for _, y in (*line.points, (0, step))) / step)
    bottom = top + PANEL

    def x_of(time: float) -> float:
        return LEFT + time / end * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return bottom - value / most * PANEL

    parts = [f'<text class="head" x="{LEFT}" y="{top - 8}">{panel.title}</text>']
    for number in range(round(most / step) + 1):
        value = number * step
        y = y_of(value)
        parts += [
            f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g} {panel.unit}</text>',
        ]
    for line in panel.lines:
        for run in _runs(_thinned(line.points)):
            points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in run)
            parts.append(f'<polyline class="line" stroke="{line.colour}" points="{points}"/>')
    parts += _legend(panel, top)
    parts += _times(end, bottom, x_of)
    return parts


def _legend(panel: Panel, top: int) -> list[str]:
    if len(panel.lines) == 1:
        return []
    return [
        f'<text x="{WIDTH - RIGHT - 90 * number}" y="{top - 8}" text-anchor="end"'
        f' style="fill:{line.colour}">{line.name}</text>'
        for number, line in enumerate(reversed(panel.lines))
    ]


def _times(end: float, bottom: int, x_of: Callable[[float], float]) -> list[str]:
    step = max(_step(end / 60 / 6), 0.5)
    return [
        f'<text x="{x_of(number * step * 60):.1f}" y="{bottom + 16}" text-anchor="middle">'
        f"{number * step:g} min</text>"
        for number in range(floor(end / 60 / step) + 1)
    ]


def _thinned(points: Points) -> Points:
    """Leave as many points as can be told apart, the highest of each few."""
    few = ceil(len(points) / MOST_POINTS) or 1
    return [
        max(points[start : start + few], key=lambda point: point[1])
        for start in range(0, len(points), few)
    ]


def _runs(points: Points) -> list[Points]:
    """Cut *points* where nothing was measured for a while."""
    if len(points) < 2:
        return [points]
    usual = median(later - sooner for (sooner, _), (later, _) in pairwise(points))
    cuts = [
        number
        for number, ((sooner, _), (later, _)) in enumerate(pairwise(points), 1)
        if later - sooner > SILENCE * usual
    ]
    return [points[start:end] for start, end in pairwise((0, *cuts, len(points)))]


def _step(least: float) -> float:
    """Return the round number that is at least *least*."""
    if least <= 0:
        return 1.0
    power: float = 10.0 ** floor(log10(least))
    return next(power * nice for nice in (1, 2, 5, 10) if power * nice >= least)
