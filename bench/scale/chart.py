"""
The chart of `make bench-scale`: each measure as a multiple of its value at the smallest step.

Both axes are logarithmic, so that proportion is a straight line. The text is large enough to be
read when the picture is shrunk to 400 pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from bench.report import machine
from bench.scale.growth import (
    BROADCAST,
    BYSTANDER,
    CONNECT,
    DRAIN,
    KERNEL_MEMORY,
    SERVER_MEMORY,
    Measure,
    Step,
)
from bench.scale.measure import Layout

WIDTH, LEFT, RIGHT, TOP, HEAD, PANEL, FOOT = 640, 70, 36, 74, 22, 290, 66
LEGEND_LINE = 30


@dataclass(frozen=True, slots=True)
class Look:
    """How a measure is drawn. The shape of its marks does not depend on seeing colours."""

    measure: Measure
    colour: str
    shape: str


# The first four colours are of Okabe and Ito's palette, all six differ in lightness as well.
LOOKS = (
    Look(SERVER_MEMORY, "#0072b2", "circle"),
    Look(KERNEL_MEMORY, "#56b4e9", "square"),
    Look(CONNECT, "#d55e00", "triangle"),
    Look(BROADCAST, "#009e73", "diamond"),
    Look(BYSTANDER, "#7a2a7a", "cross"),
    Look(DRAIN, "#a67c00", "plus"),
)

SHAPES = {
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "square": "M-5 -5h10v10h-10z",
    "triangle": "M0 -7l6.5 11h-13z",
    "diamond": "M0 -7l6 7l-6 7l-6 -7z",
    "cross": "M-5 -5l10 10m0 -10l-10 10",
    "plus": "M-6 0h12m-6 -6v12",
}

STYLE = """
    text { fill: #1d241f; }
    .faint { fill: #5c665f; }
    .grid { stroke: #d9ddd6; }
    .one { stroke: #1d241f; stroke-width: 2; stroke-dasharray: 7 5; }
    .line { fill: none; stroke-width: 2; }
    .mark { stroke-width: 2.5; fill-opacity: 0.25; }
"""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """A pair of logarithmic axes, and where they are in the picture."""

    top: float
    clients: tuple[float, float]
    multiples: tuple[float, float]

    def x(self, clients: float) -> float:
        """Return the place of a number of clients."""
        return LEFT + _share(clients, *self.clients) * (WIDTH - LEFT - RIGHT)

    def y(self, multiple: float) -> float:
        """Return the place of a multiple of the smallest step's value."""
        return self.top + PANEL - _share(multiple, *self.multiples) * PANEL


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def draw(layouts: Mapping[Layout, Sequence[Step]]) -> str:
    """Return the chart as SVG. Each layout has at least two steps."""
    legend_top = TOP + len(layouts) * (HEAD + PANEL + FOOT)
    height = legend_top + LEGEND_LINE * (len(LOOKS) // 2 + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img" aria-labelledby="title"'
        ' font-family="system-ui, \'DejaVu Sans\', sans-serif" font-size="17">',
        '<title id="title">Memory and times over the number of idle clients, each divided by its'
        " value at the smallest number</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#f7f8f5"/>',
        '<text x="20" y="30" font-weight="600" font-size="19">'
        "How memory and times grow with the number of clients</text>",
        f'<text x="20" y="52" class="faint" font-size="13">{escape(machine())}</text>',
    ]
    for number, (layout, steps) in enumerate(layouts.items()):
        parts += _panel(layout.title, steps, TOP + number * (HEAD + PANEL + FOOT) + HEAD)
    return "\n".join([*parts, *_legend(legend_top), "</svg>\n"])


def _multiples(measure: Measure, steps: Sequence[Step]) -> Points:
    """Return *measure* divided by its first value; nothing where it has no logarithm."""
    points = measure.points(steps)
    if any(value <= 0 for _, value in points):
        return []
    return [(clients, value / points[0][1]) for clients, value in points]


def _panel(title: str, steps: Sequence[Step], top: float) -> list[str]:
    first, last = steps[0].clients, steps[-1].clients
    lines = {look: _multiples(look.measure, steps) for look in LOOKS}
    values = [value for points in lines.values() for _, value in points]
    panel = Panel(
        top,
        (first * 0.94, last * 1.06),
        (min([1.0, *values]) * 0.88, max([last / first, *values]) * 1.14),
    )
    parts = [
        f'<text x="{LEFT}" y="{top - 10}" font-weight="600">{escape(title)}</text>',
        *_axes(panel, steps),
    ]
    for look, points in lines.items():
        path = " ".join(f"{panel.x(x):.1f},{panel.y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line" stroke="{look.colour}" points="{path}"/>')
    parts.append(
        f'<line class="one" x1="{panel.x(first):.1f}" y1="{panel.y(1):.1f}"'
        f' x2="{panel.x(last):.1f}" y2="{panel.y(last / first):.1f}"/>'
    )
    for look, points in lines.items():
        parts += [_mark(look, panel.x(x), panel.y(y)) for x, y in points]
    return parts


def _axes(panel: Panel, steps: Sequence[Step]) -> list[str]:
    bottom, right = panel.top + PANEL, WIDTH - RIGHT
    parts = []
    low, high = panel.multiples
    for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1):
        y = panel.y(2.0**power)
        parts += [
            f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>',
            f'<text class="faint" x="{LEFT - 8}" y="{y + 6:.1f}" text-anchor="end">'
            f"{2**power if power >= 0 else f'1/{2**-power}'} x</text>",
        ]
    for step in steps:
        x = panel.x(step.clients)
        parts += [
            f'<line class="grid" x1="{x:.1f}" y1="{panel.top}" x2="{x:.1f}" y2="{bottom}"/>',
            f'<text class="faint" x="{x:.1f}" y="{bottom + 22}" text-anchor="middle">'
            f"{step.clients:,}</text>",
        ]
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="faint" x="{middle}" y="{bottom + 44}" text-anchor="middle">clients</text>'
    )
    return parts


def _mark(look: Look, x: float, y: float) -> str:
    return (
        f'<path class="mark" d="{SHAPES[look.shape]}" transform="translate({x:.1f} {y:.1f})"'
        f' stroke="{look.colour}" fill="{look.colour}"/>'
    )


def _legend(top: float) -> list[str]:
    parts = []
    for number, look in enumerate(LOOKS):
        x = 20 + number % 2 * (WIDTH // 2)
        y = top + number // 2 * LEGEND_LINE
        parts += [
            f'<line x1="{x}" y1="{y}" x2="{x + 36}" y2="{y}" stroke="{look.colour}"'
            ' stroke-width="2"/>',
            _mark(look, x + 18, y),
            f'<text x="{x + 46}" y="{y + 6}">{look.measure.name}</text>',
        ]
    y = top + len(LOOKS) // 2 * LEGEND_LINE
    return [
        *parts,
        f'<line class="one" x1="20" y1="{y}" x2="56" y2="{y}"/>',
        f'<text x="66" y="{y + 6}">exact proportion: above it, growth is faster than linear</text>',
    ]
