"""The table of `make fairness`: what is within its bounds, as text, Markdown and JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from bench.fairness.attacks import Attack
from bench.fairness.measure import MAX_LATE_MS, Cell, Times
from bench.report import machine

HEADINGS = (
    "beside",
    "attackers",
    "ping: p50, p99, max (ms)",
    "GET /up: p50, p99, max (ms)",
    "connect: p50, max (ms)",
    "attack",
    "server's core",
    "must",
    "go for",
)

IDLE, STRAINED = 0.5, 0.1
"""
A server that uses less of its core, beside an attacker that waited a smaller share of its time: it
was the attacker that was slow.
"""

DISTURBED = 0.05
"""Where the server could not run for a larger share of the time, the row shows it."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a bystander may wait, in milliseconds."""

    max_ms: float
    p99_ms: float

    def hold(self, cell: Cell) -> bool:
        """Return whether all that *cell* measured is within, and nothing was lost."""
        if cell.waits.closed or cell.waits.unanswered or cell.up is None:
            return False
        return all(map(self._hold, (cell.ping, cell.up)))

    def _hold(self, times: Times | None) -> bool:
        return times is None or (times.max_ms <= self.max_ms and times.p99_ms <= self.p99_ms)


GOAL = Bounds(max_ms=50, p99_ms=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    A line of the table.

    *met* is None where there is nothing to meet: beside the baseline, or where *problem* says
    why it could not be measured.
    """

    name: str
    title: str
    connections: int
    cell: Cell | None = None
    attack: str = ""
    met: bool | None = None
    reached: bool | None = None
    problem: str = ""

    def verdict(self) -> str:
        """Say in a word how it went."""
        if self.problem:
            return f"{'NOT MEASURED' if self.met is None else 'MISSED'}: {self.problem}"
        return {True: "met", False: "MISSED", None: ""}[self.met]


def judge(row: Row, cell: Cell, attack: Attack | None, bounds: Bounds | None) -> Row:
    """Return *row* with what *cell* found; without *bounds* that is only reported."""
    problem = _problem(cell, attack, row.connections)
    met = bounds.hold(cell) if bounds is not None else None
    if met is False:
        problem = ""  # that it misses is certain, whatever else is wrong
    return replace(
        row,
        cell=cell,
        attack=_rate(cell, attack),
        met=None if problem else met,
        reached=GOAL.hold(cell) if bounds is not None and not problem else None,
        problem=problem,
    )


def _problem(cell: Cell, attack: Attack | None, connections: int) -> str:
    if cell.disturbed:
        return cell.disturbed
    if cell.waits.late / 1e3 > MAX_LATE_MS:
        return f"the bystander itself was late by {cell.waits.late / 1e3:.0f} ms"
    done = cell.attacked
    if attack is None or done is None:
        return ""
    if done.connections < connections:
        return f"only {done.connections} of {connections} connections of the attacker came about"
    if attack.mode == "return" and not done.rounds:
        return "no connection of the attacker came so far as to disconnect"
    idle = cell.busy + cell.starved < IDLE
    if attack.mode != "trickle" and idle and done.waited < STRAINED * done.attacked:
        return f"the attacker was too slow: the server used {cell.busy:.0%} of its core"
    return ""


def _rate(cell: Cell, attack: Attack | None) -> str:
    if attack is None or cell.attacked is None:
        return ""
    if attack.mode == "trickle":
        seconds = cell.attacked.attacked or 1.0
        return f"{_short(cell.attacked.read / seconds)} bytes/s"
    return f"{_short(cell.attacked.rate(attack))} {attack.counted}/s"


def _short(rate: float) -> str:
    return f"{rate / 1e3:.1f} k" if rate >= 1e3 else f"{rate:.0f}"


def _times(times: Times | None) -> str:
    return f"{times.p50_ms:.1f}, {times.p99_ms:.1f}, {times.max_ms:.1f}" if times else ""


def _marked(reached: bool | None) -> str:
    return {True: "✓", False: "✗", None: ""}[reached]


def cells(row: Row) -> tuple[str, ...]:
    """Return what the table says of *row*."""
    cell = row.cell
    if cell is None:
        return (row.title, str(row.connections or ""), *[""] * 5, row.verdict(), "")
    fresh = f"{cell.fresh.p50_ms:.1f}, {cell.fresh.max_ms:.1f}" if cell.fresh else ""
    if cell.waits.fresh_failed:
        fresh += f"; {cell.waits.fresh_failed} failed"
    others = f" (others: {cell.starved:.0%})" if cell.starved > DISTURBED else ""
    must = _marked(row.met) if not row.problem else row.verdict()
    if cell.waits.closed:
        must += f" {cell.waits.closed}"
    if cell.waits.unanswered:
        must += f" {cell.waits.unanswered} never answered"
    return (
        row.title,
        str(row.connections or ""),
        _times(cell.ping),
        _times(cell.up),
        fresh,
        row.attack,
        f"{cell.busy:.0%}{others}",
        must,
        _marked(row.reached),
    )


def text(rows: Sequence[Row]) -> str:
    """Return the table for a terminal."""
    table = [HEADINGS, *(cells(row) for row in rows)]
    widths = [max(len(line[at]) for line in table) for at in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for a document."""
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *(cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_json(rows: Sequence[Row]) -> str:
    """Return everything for machines, each answer's time included."""
    found = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    return json.dumps(found, ensure_ascii=False)
