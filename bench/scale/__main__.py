"""
Measure what many idle clients take: memory, and the time to connect, reach and drain them.

    python -m bench.scale [--clients 2500,5000,10000,limit] [--rounds 3] [--chart FILE]
"""

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import report as common
from bench import tools
from bench.scale import chart, report
from bench.scale.growth import RESERVE
from bench.scale.measure import LAYOUTS, measure
from bench.scale.report import Row
from bench.tools import BenchError
from heliograph.net.descriptors import MOST_DESCRIPTORS

MARKS = ("<!-- scale -->\n", "<!-- /scale -->")
LIMIT = "limit"
MOST_CLIENTS = 100_000
"""Of `limit`: where a process may have a million descriptors, a run would take hours."""

TRIES = 3
"""How often a round is measured, at most, where the tool itself was disturbed."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    parser.add_argument(
        "--clients",
        metavar="LIST",
        default=f"2500,5000,10000,{LIMIT}",
        help=f"numbers, by comma; {LIMIT}: as many as one process has descriptors for, at most"
        f" {MOST_CLIENTS:,} (%(default)s)",
    )
    names = ", ".join(f"{layout.name} ({layout.title})" for layout in LAYOUTS)
    parser.add_argument("--only", help=f"layouts, by comma: {names}")
    parser.add_argument("--rounds", type=int, default=3, help="of each number (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of broadcasts in a round (%(default)s)"
    )
    parser.add_argument("--interpreted", action="store_true", help="though it could be compiled")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; - for here")
    parser.add_argument("--chart", metavar="FILE", help="draw the growth as an SVG")
    parser.add_argument(
        "--markdown", metavar="FILE", help=f"put the tables between {MARKS[0].strip()} marks"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    return options


def most_clients(limit: int) -> int:
    """Return how many clients a process with *limit* descriptors can have."""
    return limit - RESERVE


def numbers(listed: str, limit: int) -> list[int]:
    """Return the numbers of clients that *listed* asks for, in order. Raises BenchError."""
    found = set()
    for word in listed.split(","):
        if word == LIMIT:
            found.add(min(most_clients(limit), MOST_CLIENTS))
        elif word.isdecimal() and int(word) > 0:
            found.add(int(word))
        else:
            raise BenchError(f"--clients: {word!r} is neither a number nor {LIMIT!r}")
    if max(found) > most_clients(limit):
        raise BenchError(
            f"{max(found):,} clients need {max(found) + RESERVE:,} descriptors, and a process may"
            f" have {limit:,}: raise the hard limit (ulimit -Hn)"
        )
    return sorted(found)


def descriptor_limit() -> int:
    """Return how many descriptors the server and the clients each get."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard


def run(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Measure all *rows*, in rounds so that a slow minute of the machine is no row's alone."""
    for number in range(options.rounds):
        for row in rows:
            _round(row, options)
            step = row.problems[-1] if len(row.cells) <= number and row.problems else "measured"
            print(
                f"round {number + 1}, {row.layout.title}, {row.clients:,} clients: {step}",
                file=sys.stderr,
                flush=True,
            )


def _round(row: Row, options: argparse.Namespace) -> None:
    problem = ""
    for _ in range(TRIES):
        try:
            row.cells.append(
                measure(row.layout, row.clients, options.seconds, interpreted=options.interpreted)
            )
        except BenchError as error:
            problem = str(error)
        else:
            return
    row.problems.append(problem)


def _rows(options: argparse.Namespace) -> list[Row]:
    layouts = {layout.name: layout for layout in LAYOUTS}
    chosen = options.only.split(",") if options.only else list(layouts)
    if unknown := [name for name in chosen if name not in layouts]:
        raise BenchError(f"--only: there is no {', '.join(unknown)}; see --help")
    steps = numbers(options.clients, descriptor_limit())
    return [Row(layouts[name], clients) for name in chosen for clients in steps]


def main(arguments: list[str]) -> int:
    """Measure and print; return 2 where something could not be measured."""
    options = parse(arguments)
    try:
        if tools.compiler() is None:
            raise BenchError("it takes a C compiler (cc, gcc or clang)")  # noqa: TRY301
        rows = _rows(options)
        run(rows, options)
        _write(rows, options)
    except BenchError as error:
        print(f"bench.scale: {error}", file=sys.stderr)
        return 2
    return 2 if any(row.problems for row in rows) else 0


def _write(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print what was found, and put it where *options* ask for it. Raises BenchError."""
    compiled = tools.python(interpreted=options.interpreted) != sys.executable
    about = report.about(rows, compiled=compiled, rounds=options.rounds, seconds=options.seconds)
    print(f"\n{about}\n\n{report.text(rows)}")
    if options.json == "-":
        print(report.as_json(rows))
    elif options.json:
        Path(options.json).write_text(report.as_json(rows) + "\n")
    if options.markdown:
        common.replace_table(
            Path(options.markdown), f"{about}.\n\n{report.markdown(rows)}\n", MARKS
        )
    if options.chart:
        layouts = report.measured(rows)
        if not layouts:
            raise BenchError("--chart: it takes two numbers of clients that could be measured")
        Path(options.chart).write_text(chart.draw(layouts))


if __name__ == "__main__":
    # As an exception, so that the servers that were started are ended.
    tools.end_children_on_sigterm()
    started = time.monotonic()
    outcome = main(sys.argv[1:])
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(outcome)
