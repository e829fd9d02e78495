"""The tables of `make bench-scale`, as text, Markdown and JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from bench import report
from bench.fairness.measure import Times
from bench.report import Line
from bench.scale import growth
from bench.scale.growth import DISTURBED, MEASURES, Step
from bench.scale.measure import LAYOUTS, Cell, Layout

MILLION = 1_000_000
CORES = 6
"""Of the second outlook, with a process each."""

LIMITS = (20_000, 200_000, 1_048_576)
"""Descriptors: of these machines, of the systemd unit, of a process where fs.nr_open is not set."""

HEADINGS = (
    "channels",
    "clients",
    "memory: server, kernel (MB)",
    "connect (s)",
    "broadcast: p50, max (ms)",
    "ping without: p99, max (ms)",
    "ping during: p99, max (ms)",
    "drain, its CPU time (s)",
)


@dataclass(slots=True)
class Row:
    """One number of clients in one layout, and the rounds that measured it."""

    layout: Layout
    clients: int
    cells: list[Cell] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of rounds that could not be measured

    @property
    def step(self) -> Step | None:
        """What the rounds amount to, if there is one."""
        return growth.step(self.cells) if self.cells else None


def steps(rows: Sequence[Row], layout: Layout) -> list[Step]:
    """Return what was measured in *layout*, fewest clients first."""
    found = [row.step for row in rows if row.layout == layout]
    return sorted(filter(None, found), key=lambda step: step.clients)


def measured(rows: Sequence[Row]) -> Mapping[Layout, Sequence[Step]]:
    """Return the layouts in which there are enough steps for a slope."""
    found = {layout: steps(rows, layout) for layout in LAYOUTS}
    return {layout: of for layout, of in found.items() if len(of) > 1}


# -- Each step ---------------------------------------------------------------------------------


def _times(times: Times) -> str:
    return f"{times.p99_ms:.1f}, {times.max_ms:.1f}"


def _cells(row: Row) -> Line:
    channels, step = ("one each" if row.layout.own_channels else "one"), row.step
    if step is None:
        return (channels, f"{row.clients:,}", *["-"] * 5, f"not measured: {row.problems[-1]}")
    return (
        channels,
        f"{row.clients:,}",
        f"{step.server_bytes / 1e6:.1f}, {step.kernel_bytes / 1e6:.1f}",
        f"{step.connect_s:.2f}",
        f"{step.broadcast_s * 1e3:.1f}, {step.slowest_broadcast_s * 1e3:.1f}",
        _times(step.alone),
        _times(step.beside),
        f"{step.drain_s:.2f}, {step.drain_cpu_s:.2f}",
    )


def table(rows: Sequence[Row]) -> list[Line]:
    """Return the headings, and a line for each of *rows*."""
    return [HEADINGS, *(_cells(row) for row in rows)]


# -- What one client more costs ------------------------------------------------------------------


def slopes(rows: Sequence[Row]) -> list[Line]:
    """Return what one client more costs in each layout, and how that grows."""
    layouts = measured(rows)
    headings = ["for one more client"]
    for layout in layouts:
        headings += [layout.title, "growth"]
    lines: list[Line] = [headings]
    for measure in MEASURES:
        line = [f"{measure.name} ({measure.unit})"]
        for of in layouts.values():
            points = measure.points(of)
            exponent = growth.exponent(points)
            line += [
                f"{growth.slope(points) * measure.scale:,.4g}",
                "-" if exponent is None else f"{exponent:.2f}",
            ]
        lines.append(line)
    return lines


# -- A million -----------------------------------------------------------------------------------


def million(rows: Sequence[Row]) -> list[Line]:
    """Return what a million clients would take, by the slopes."""
    layouts = measured(rows)
    one = [growth.outlook(of, MILLION, 1) for of in layouts.values()]
    several = [growth.outlook(of, MILLION, CORES) for of in layouts.values()]
    lines: list[Line] = [
        (f"{MILLION:,} clients", *(layout.title for layout in layouts)),
        ("memory of one process", *(f"{of.server_bytes / 1e9:.2f} GB" for of in one)),
        (f"memory of {CORES} processes", *(f"{of.server_bytes / 1e9:.2f} GB" for of in several)),
        (
            "memory of the kernel: clients connect to the server",
            *(f"{of.kernel_bytes / 1e9:.1f} GB" for of in one),
        ),
        (
            "memory of the kernel: through a proxy on the same machine",
            *(f"{of.kernel_bytes * 3 / 1e9:.1f} GB" for of in one),
        ),
        (
            f"time to connect them: one process, {CORES} processes on {CORES} cores",
            *(f"{of.connect_s:.0f} s, {of.connect_s / CORES:.0f} s" for of in one),
        ),
        (
            "time of one broadcast to all: the same",
            *(f"{of.broadcast_s:.1f} s, {of.broadcast_s / CORES:.1f} s" for of in one),
        ),
    ]
    for limit in LIMITS:
        number = str(growth.processes(MILLION, limit))
        lines.append((f"processes, with LimitNOFILE={limit}", *(number for _ in layouts)))
    return lines


# -- All of it -----------------------------------------------------------------------------------


def about(rows: Sequence[Row], *, compiled: bool, rounds: int, seconds: float) -> str:
    """Say what was measured, how and where."""
    cells = [cell for row in rows for cell in row.cells]
    sources = " and ".join(sorted({cell.kernel.source for cell in cells}))
    found = [step for row in rows if (step := row.step)]
    ignored = len(cells) - sum(step.rounds for step in found)
    starved = max((step.starved for step in found), default=0.0)
    parts = [
        f"Heliograph {'compiled' if compiled else 'interpreted'}",
        report.machine(),
        f"{f'median of {rounds} rounds' if rounds > 1 else 'one round'} with {seconds:g} s of"
        " broadcasts",
        f"kernel memory: {sources or 'not measured'}, half of what both ends of a connection take",
    ]
    if failed := sum(len(row.problems) for row in rows):
        parts.append(f"{failed} round{'s' if failed > 1 else ''} could not be measured")
    if ignored:
        parts.append(
            f"{ignored} of {len(cells)} rounds do not count for times, as other processes had the"
            f" server's core for more than {DISTURBED:.0%} of the time"
        )
    if starved > DISTURBED:
        parts.append(
            f"other processes had the server's core for up to {starved:.0%} of a round that counts:"
            " its times are too long"
        )
    return "; ".join(parts)


def sections(rows: Sequence[Row]) -> list[tuple[str, list[Line]]]:
    """Return all tables, each with the sentence above it."""
    found = [("", table(rows))]
    if measured(rows):
        found += [
            (
                "By the line with the least squares through the steps. Growth is the exponent: 1 is"
                " linear, more is faster.",
                slopes(rows),
            ),
            ("By the same slopes, for more clients than were measured:", million(rows)),
        ]
    return found


def text(rows: Sequence[Row]) -> str:
    """Return the tables for a terminal."""
    return _joined(rows, report.text)


def markdown(rows: Sequence[Row]) -> str:
    """Return the tables for a document."""
    return _joined(rows, report.markdown)


def _joined(rows: Sequence[Row], write: Callable[[Sequence[Line]], str]) -> str:
    return "\n\n".join(f"{above}\n\n{write(lines)}".strip() for above, lines in sections(rows))


def as_json(rows: Sequence[Row]) -> str:
    """Return everything for machines, each round included."""
    found = {
        "machine": report.machine(),
        "rows": [
            {
                "layout": row.layout.name,
                "clients": row.clients,
                "step": row.step and asdict(row.step),
                "rounds": [asdict(cell) for cell in row.cells],
                "problems": row.problems,
            }
            for row in rows
        ],
        "slopes": {
            layout.name: {
                measure.name: {
                    "unit": measure.unit,
                    "each": growth.slope(measure.points(of)) * measure.scale,
                    "exponent": growth.exponent(measure.points(of)),
                }
                for measure in MEASURES
            }
            for layout, of in measured(rows).items()
        },
    }
    return json.dumps(found, indent=2, ensure_ascii=False)
