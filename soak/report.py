"""What a soak found, for programs and for people."""

import json
from pathlib import Path
from statistics import median

from soak import chart
from soak.process import Held
from soak.run import Outcome, Plan

MIB = 1 << 20


def write(plan: Plan, outcome: Outcome, folder: Path, chart_too: Path | None) -> None:
    """Put report.json and soak.svg into *folder*, and the chart to *chart_too* as well."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures(plan, outcome), indent=1)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    drawing = chart.draw(
        outcome, f"{plan.clients:,d} clients for {plan.minutes:g} minutes, in three cycles"
    )
    for path in (folder / "soak.svg", chart_too):
        if path is not None:
            path.write_text(drawing, encoding="utf-8")


def figures(plan: Plan, outcome: Outcome) -> dict[str, object]:
    """Return everything that was counted and measured."""
    return {
        "minutes": plan.minutes,
        "clients": plan.clients,
        "seed": plan.seed,
        "balanced": not outcome.faults,
        "faults": outcome.faults.lines(),
        "done": dict(sorted(outcome.done.items())),
        "peak_memory_of_cycles": outcome.peaks,
        "peak_bytes_of_kept_events": max((one.kept for one in outcome.samples), default=0),
        "held": [
            {
                "when": when,
                "objects": held.objects,
                "blocks": held.blocks,
                "tasks": held.tasks,
                "threads": held.threads,
                "descriptors": held.descriptors,
                "memory": held.memory,
                "own": held.own,
            }
            for when, held in _held(outcome)
        ],
        "samples": [
            [one.time, one.clients, one.memory, one.descriptors, one.kept, one.median, one.slowest]
            for one in outcome.samples
        ],
        "lags": outcome.lags,
    }


def _held(outcome: Outcome) -> list[tuple[str, Held]]:
    start = [("at the start", outcome.start)] if outcome.start else []
    return [*start, *((f"after cycle {n}", held) for n, held in enumerate(outcome.cycles, 1))]


def summary(plan: Plan, outcome: Outcome) -> list[str]:
    """Say it in a few lines."""
    done = outcome.done
    medians = [one.median for one in outcome.samples if one.median is not None]
    slowest = [one.slowest for one in outcome.samples if one.slowest is not None]
    lines = [
        f"{plan.clients} clients, three cycles of {plan.load_s:.0f} s under load:",
        *(f"  {count:9,d} {what}" for what, count in sorted(done.items())),
    ]
    if medians and outcome.lags:
        lines.append(
            f"from publishing to hearing: {median(medians) * 1e3:.1f} ms in the middle,"
            f" {median(slowest) * 1e3:.1f} ms for one in a hundred; the loop lags"
            f" {median(most for _, _, most in outcome.lags) * 1e3:.1f} ms at most, in most seconds"
        )
    lines += [
        f"memory: {peak / MIB:.1f} MiB at most in cycle {number}"
        for number, peak in enumerate(outcome.peaks, 1)
    ]
    if outcome.samples:
        kept = max(one.kept for one in outcome.samples)
        lines.append(f"kept events: {kept / MIB:.1f} MiB at most")
    lines += [
        f"{when}: {held.objects} objects, {held.blocks} blocks, {held.tasks} tasks,"
        f" {held.descriptors} descriptors, {held.memory / MIB:.1f} MiB"
        for when, held in _held(outcome)
    ]
    lines.append("the books balance" if not outcome.faults else "THE BOOKS DO NOT BALANCE")
    return lines
