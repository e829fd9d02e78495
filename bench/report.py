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
from bench.workloads import Beside, Row, Shares, rounded

HEADINGS = (
    "workload",
    "server",
    "beside one send each",
    "beside coalescing",
    "p50, p99 (ms)",
    "server's code + kernel; load",
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


def _times(row: Row) -> str:
    if row.p50_ms is None or row.p99_ms is None:
        return ""
    limit = row.coalescing
    others = "" if limit is None else f" ({limit.p50_ms:.2f}, {limit.p99_ms:.2f})"
    return f"{row.p50_ms:.2f}, {row.p99_ms:.2f}{others}"


def _marked(aim: str, reached: bool | None) -> str:
    return aim if reached is None or not aim else f"{aim} {'✓' if reached else '✗'}"


def _beside(beside: Beside | None) -> str:
    if beside is None:
        return ""
    low, high = beside.spread
    return f"{beside.ratio:.2f} ({low:.2f} to {high:.2f}) of {rounded(beside.rate)}"


def _shares(shares: Shares | None) -> str:
    if shares is None:
        return ""
    server = f"{shares.server_user:.0%} + {shares.server_kernel:.0%}; "
    return f"{server if shares.server_user or shares.server_kernel else ''}{shares.load_busy:.0%}"


def cells(row: Row) -> tuple[str, ...]:
    """Return what the table says of *row*."""
    aims = (_marked(row.must, row.met), _marked(row.goal, row.reached))
    said = ". ".join(filter(None, ("; ".join(filter(None, aims)), *row.notes)))
    return (
        ": ".join(filter(None, (row.title, row.measure))),
        row.server or "-",
        _beside(row.plain),
        _beside(row.coalescing),
        _times(row),
        _shares(row.shares),
        said if row.measured else f"not measured: {said}",
    )


def progress(row: Row) -> str:
    """Return what a terminal shows of *row* once it is measured."""
    if not row.measured:
        return f"not measured: {'; '.join(row.notes)}"
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    limit = row.coalescing
    return f"{row.server}{f', ratio {limit.ratio:.2f}' if limit else ''} {verdict}".rstrip()


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


def as_json(rows: Sequence[Row], about: str) -> str:
    """Return everything for machines."""
    found = {"about": about, "machine": machine(), "rows": [_row_object(row) for row in rows]}
    return json.dumps(found, indent=2, ensure_ascii=False)


def _row_object(row: Row) -> dict[str, Any]:
    found = asdict(row)
    for name, beside in (("plain", row.plain), ("coalescing", row.coalescing)):
        if beside is not None:
            found[name] |= {"ratio": beside.ratio}
    return found


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
        return (row.workload, row.measure, "-", "-", "", "", "", row.outcome)
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
        "skipped": row.skipped,
        "rounds": [asdict(one) for one in row.rounds],
    }


# -- The picture -------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT, LINE = 900, 20, 76, 52
SMALLEST, LARGEST = 0.25, 4.0
TICKS = (0.25, 0.5, 1, 2, 4)
BAR, HEAD = 9, 112

STYLE = """
    text { fill: #1d241f; }
    .faint { fill: #5c665f; font-size: 13px; }
    .grid { stroke: #d9ddd6; }
    .one { stroke: #1d241f; stroke-width: 1.5; }
    .coalescing { fill: #1f6b4f; }
    .plain { fill: #c9a227; }
    .spread { stroke: #1d241f; stroke-width: 1; }
"""


def _at(ratio: float) -> float:
    """Return where on the logarithmic scale a ratio is, at its ends where it is beyond them."""
    inside = min(max(ratio, SMALLEST), LARGEST)
    share = math.log(inside / SMALLEST) / math.log(LARGEST / SMALLEST)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def chart(rows: Sequence[Row], about: str) -> str:
    """Draw the ratios to both baselines, on a logarithmic scale."""
    shown = [row for row in rows if row.plain is not None or row.coalescing is not None]
    height = HEAD + LINE * len(shown) + 30
    bottom = height - 26
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' aria-labelledby="title" font-family="system-ui, \'DejaVu Sans\', sans-serif"'
        ' font-size="14">',
        '<title id="title">The rate beside two servers in C, by workload</title>',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#f7f8f5"/>',
        '<text x="20" y="30" font-weight="600" font-size="17">'
        "Rate beside two servers in C (1 is as fast)</text>",
        f'<text x="20" y="52" class="faint">{escape(about.partition(";")[0])}</text>',
        f'<rect class="coalescing" x="20" y="66" width="22" height="{BAR}"/>',
        '<text x="50" y="75" class="faint">one write for each subscriber and turn, and all'
        " checks</text>",
        f'<rect class="plain" x="440" y="66" width="22" height="{BAR}"/>',
        '<text x="470" y="75" class="faint">one write for each event, and no checks</text>',
    ]
    for tick in TICKS:
        kind, x = "one" if tick == 1 else "grid", f"{_at(tick):.1f}"
        parts.append(
            f'<line class="{kind}" x1="{x}" x2="{x}" y1="{HEAD - 16}" y2="{bottom}"/>'
            f'<text class="faint" x="{x}" y="{height - 8}" text-anchor="middle">{tick:g}</text>'
        )
    for number, row in enumerate(shown):
        parts += _bars(row, HEAD + number * LINE)
    return "\n".join([*parts, "</svg>\n"])


def _bars(row: Row, top: float) -> list[str]:
    parts = [f'<text x="{LEFT + 6}" y="{top + 12:.1f}">{escape(row.title)}</text>']
    for kind, beside, at in (
        ("coalescing", row.coalescing, top + 18),
        ("plain", row.plain, top + 20 + BAR),
    ):
        if beside is None:
            continue
        start, end = _at(SMALLEST), _at(beside.ratio)
        low, high = (f"{_at(one):.1f}" for one in beside.spread)
        middle = f"{at + BAR / 2:.1f}"
        parts += [
            f'<rect class="{kind}" x="{start:.1f}" y="{at:.1f}" width="{end - start:.1f}"'
            f' height="{BAR}"/>',
            f'<line class="spread" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>',
            f'<text x="{WIDTH - RIGHT + 8}" y="{at + BAR:.1f}" font-size="13"'
            f' font-weight="600">{beside.ratio:.3g}</text>',
        ]
    return parts
