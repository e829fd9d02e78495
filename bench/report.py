"""The table of a run, as text, Markdown, JSON and a picture."""

import json
import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from bench.against import Compared
from bench.tools import BenchError, Build
from bench.verdict import BOUND, Ratios
from bench.workloads import Row

HEADINGS = (
    "workload",
    "measure",
    "server",
    "baseline",
    "ratio (spread)",
    "p50, p99 (ms)",
    "must; go for",
)


def machine() -> str:
    """Describe where the figures come from."""
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
        count = sum(line.startswith("processor") for line in lines)
        model = f"{model}, {count} cores"
    except (OSError, StopIteration):
        pass
    system = f"{platform.system()} {platform.release()}"
    return f"{model}; {system}; Python {platform.python_version()}; {datetime.now(UTC):%Y-%m-%d}"


def replace_table(path: Path, table: str, marks: tuple[str, str]) -> None:
    """Put *table* between the *marks* of a document. Raises BenchError."""
    before, found, rest = path.read_text().partition(marks[0])
    _, also, after = rest.partition(marks[1])
    if not (found and also):
        raise BenchError(f"{path}: the marks {marks[0].strip()} and {marks[1]} are missing")
    path.write_text(f"{before}{found}{table}{also}{after}")


def _times(*pairs: tuple[float, float | None] | None) -> str:
    shown = []
    for mine, other in filter(None, pairs):
        shown.append(f"{mine:.2f}" if other is None else f"{mine:.2f} ({other:.2f})")
    return ", ".join(shown)


def _marked(aim: str, reached: bool | None) -> str:
    return aim if reached is None or not aim else f"{aim} {'✓' if reached else '✗'}"


def cells(row: Row) -> tuple[str, ...]:
    """Return what the table says of *row*."""
    ratio = ""
    if row.ratio is not None and row.spread is not None:
        ratio = f"{row.ratio:.2f} ({row.spread[0]:.2f} to {row.spread[1]:.2f})"
    aims = (_marked(row.must, row.met) or row.note, _marked(row.goal, row.reached))
    return (
        row.title,
        row.measure,
        row.server or "-",
        row.baseline,
        ratio,
        _times(row.p50_ms, row.p99_ms),
        "; ".join(filter(None, aims)),
    )


Line = Sequence[str]


def table(rows: Sequence[Row]) -> list[Line]:
    """Return the headings, and a line for each of *rows*."""
    return [HEADINGS, *(cells(row) for row in rows)]


def text(table: Sequence[Line]) -> str:
    """Return a table for a terminal."""
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(table: Sequence[Line]) -> str:
    """Return a table for a document."""
    headings, *rest = table
    lines = [headings, tuple("---" for _ in headings), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_json(rows: Sequence[Row]) -> str:
    """Return everything for machines."""
    found = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    return json.dumps(found, indent=2, ensure_ascii=False)


# -- Two builds --------------------------------------------------------------------------------


def _ratio(ratios: Ratios) -> str:
    low, high = ratios.spread
    return f"{ratios.median:.3f} ({low:.3f} to {high:.3f})"


def _figure(values: Sequence[float]) -> str:
    """Return the median with three digits that mean something, or more where it is large."""
    value = statistics.median(values)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def compared_table(rows: Sequence[Compared], new: Build, old: Build) -> list[Line]:
    """Return the table of a comparison of two builds."""
    headings = (
        *("workload", "measure", old.name, new.name),
        *("new against old (spread)", "old against itself (spread)", "rounds", "verdict"),
    )
    return [headings, *(_compared_cells(row) for row in rows)]


def _compared_cells(row: Compared) -> Line:
    ratios = row.ratios
    if ratios is None:
        return (row.workload, row.measure, "-", "-", "", "", "", f"not measured: {row.note}")
    mine, control = ratios
    return (
        row.workload,
        row.measure + (" (less is better)" if row.less_is_better else ""),
        _figure([one.old for one in row.rounds]),
        _figure([one.new for one in row.rounds]),
        _ratio(mine),
        _ratio(control),
        str(len(row.rounds)),
        str(row.verdict),
    )


def compared_json(rows: Sequence[Compared], new: Build, old: Build) -> str:
    """Return a comparison for machines, each round with what was measured."""
    found = {
        "machine": machine(),
        "new": new.name,
        "old": old.name,
        "compiled": new.compiled,
        "bound": BOUND,
        "rows": [_compared_object(row) for row in rows],
    }
    return json.dumps(found, indent=2, ensure_ascii=False)


def _compared_object(row: Compared) -> dict[str, Any]:
    mine, control = row.ratios or (None, None)
    return {
        "workload": row.workload,
        "measure": row.measure,
        "less_is_better": row.less_is_better,
        "ratio": mine and mine.median,
        "spread": mine and mine.spread,
        "control_ratio": control and control.median,
        "control_spread": control and control.spread,
        "verdict": row.verdict,
        "note": row.note,
        "rounds": [asdict(one) for one in row.rounds],
    }


# -- The picture -------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT, LINE = 980, 470, 90, 34
SMALLEST, LARGEST = 0.1, 100.0

STYLE = """
    text { fill: #1d241f; }
    .faint { fill: #5c665f; font-size: 12px; }
    .grid { stroke: #d9ddd6; }
    .one { stroke: #5c665f; stroke-dasharray: 4 3; }
    .met { fill: #1f6b4f; }
    .plain { fill: #7d8a82; }
    .missed { fill: #a3301d; }
    .must { stroke: #1d241f; stroke-width: 2; }
    .goal { stroke: #1d241f; stroke-width: 2; stroke-dasharray: 2 2; }
    .spread { stroke: #1d241f; stroke-width: 1; }
"""


def _at(ratio: float) -> float:
    share = math.log(max(ratio, SMALLEST) / SMALLEST) / math.log(LARGEST / SMALLEST)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def chart(rows: Sequence[Row]) -> str:
    """Draw the ratios, on a logarithmic scale, beside what they must reach and go for."""
    shown = [row for row in rows if row.ratio is not None]
    height = 92 + LINE * len(shown)
    bottom = height - 22
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' aria-labelledby="title" font-family="system-ui, \'DejaVu Sans\', sans-serif"'
        ' font-size="13">',
        '<title id="title">Heliograph beside the plainest server: ratios by workload</title>',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#f7f8f5"/>',
        '<text x="20" y="28" font-weight="600" font-size="15">'
        "How often the rate of the plainest server in C (1 is as fast)</text>",
        f'<text x="20" y="48" class="faint">{escape(machine())}</text>',
    ]
    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100):
        kind, x = "one" if tick == 1 else "grid", f"{_at(tick):.1f}"
        parts.append(
            f'<line class="{kind}" x1="{x}" x2="{x}" y1="60" y2="{bottom}"/>'
            f'<text class="faint" x="{x}" y="{height - 6}"'
            f' text-anchor="middle">{tick:g}</text>'
        )
    for number, row in enumerate(shown):
        parts += _bar(row, 66 + number * LINE)
    return "\n".join([*parts, "</svg>\n"])


def _bar(row: Row, top: float) -> list[str]:
    if row.ratio is None or row.spread is None:
        return []
    kind = {True: "met", False: "missed", None: "plain"}[row.met]
    start, end, middle = _at(SMALLEST), _at(row.ratio), top + LINE / 2
    title = escape(row.title if len(row.title) < 66 else row.title[:64] + "…")
    parts = [
        f'<text x="20" y="{middle + 4:.1f}" font-size="12">{title}</text>',
        f'<rect class="{kind}" x="{start:.1f}" y="{top + 7:.1f}" width="{end - start:.1f}"'
        f' height="{LINE - 14}" rx="2"/>',
        f'<line class="spread" x1="{_at(row.spread[0]):.1f}" x2="{_at(row.spread[1]):.1f}"'
        f' y1="{middle:.1f}" y2="{middle:.1f}"/>',
        f'<text x="{WIDTH - RIGHT + 14}" y="{middle + 4:.1f}" font-weight="600">'
        f"{row.ratio:.2f}</text>",
    ]
    for aim, name in ((row.must_ratio, "must"), (row.goal_ratio, "goal")):
        if aim is not None:
            x = f"{_at(aim):.1f}"
            parts.append(
                f'<line class="{name}" x1="{x}" x2="{x}" y1="{top + 4:.1f}"'
                f' y2="{top + LINE - 4:.1f}"/>'
            )
    return parts
