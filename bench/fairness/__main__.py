"""
Measure how long a client that does no harm waits while others attack the server.

    python -m bench.fairness [--only gets,lists] [--connections 1,50] [--seconds 5] [--json FILE]
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench import tools
from bench.fairness import measure, report
from bench.fairness.attacks import HOLDERS, KINDS, Attack, Kind, holders
from bench.fairness.measure import Server, ServerEnded
from bench.fairness.report import Bounds, Row
from bench.report import machine, replace_table
from bench.tools import BenchError

MARKS = ("<!-- fairness -->\n", "<!-- /fairness -->")
CONTROL, BASELINE = "control", "baseline"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.fairness", description=__doc__)
    names = ", ".join((CONTROL, *KINDS, BASELINE))
    parser.add_argument("--only", help=f"kinds, by comma: {names}")
    parser.add_argument("--connections", default="1,50,300", help="of the attacker, by comma")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row")
    parser.add_argument("--max-ms", type=float, default=250.0, help="that one answer may take")
    parser.add_argument("--p99-ms", type=float, default=60.0, help="that 99 %% of them may take")
    parser.add_argument("--interpreted", action="store_true", help="though it could be compiled")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; - for here")
    parser.add_argument(
        "--markdown", metavar="FILE", help=f"put the table between {MARKS[0].strip()} marks"
    )
    return parser.parse_args(arguments)


TRIES = 3
"""How often a row is measured, at the most, where the tool itself was disturbed."""


class Run:
    """One run of the tool: rows come out in the order of the table."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._bounds = Bounds(max_ms=options.max_ms, p99_ms=options.p99_ms)
        self._connections = [int(number) for number in options.connections.split(",")]
        chosen = options.only.split(",") if options.only else [CONTROL, *KINDS, BASELINE]
        for name in chosen:
            if name not in KINDS and name not in (CONTROL, BASELINE):
                raise BenchError(f"{name}: no such kind; see --help")
        self._chosen = chosen
        self.prior = True

    def rows(self) -> Iterator[Row]:
        """Measure, and yield each row when it is known."""
        for name in self._chosen:
            if name == CONTROL:
                yield from self._control("no attacker", self._heliograph(None), self._bounds)
            elif name == BASELINE:
                yield from self._beside_baseline()
            else:
                yield from self._beside(name, KINDS[name])

    def _heliograph(
        self, kind: Kind | None
    ) -> Callable[[], contextlib.AbstractContextManager[Server]]:
        flags, tls = (kind.flags, kind.tls) if kind is not None else ({}, False)

        @contextlib.contextmanager
        def started() -> Iterator[Server]:
            with contextlib.ExitStack() as stack:
                server = stack.enter_context(
                    measure.heliograph(
                        flags, self._folder, tls=tls, interpreted=self._options.interpreted
                    )
                )
                if kind is not None and kind.held:
                    clients = stack.enter_context(measure.holding(holders(), server, HOLDERS))
                    server = replace(server, clients=clients)
                if kind is not None and kind.kept:
                    server = measure.keep_events(server)
                yield server

        return started

    def _control(
        self,
        title: str,
        started: Callable[[], contextlib.AbstractContextManager[Server]],
        bounds: Bounds | None,
    ) -> Iterator[Row]:
        name = CONTROL if bounds is not None else BASELINE
        row = Row(name=name, title=title, connections=0)
        try:
            with started() as server:
                measure.recovered(server)
                cell = measure.measure(
                    server, None, 0, self._options.seconds, websocket=bounds is not None
                )
            self.prior &= cell.prior
            yield report.judge(row, cell, None, bounds)
        except BenchError as error:
            yield replace(row, problem=str(error))

    def _beside_baseline(self) -> Iterator[Row]:
        started = measure.baseline
        yield from self._control("baseline in C: no attacker", started, None)
        for name, kind in KINDS.items():
            if kind.baseline:
                title = f"baseline in C: {kind.title}"
                yield from self._cells(f"{BASELINE}-{name}", title, kind, started, None)

    def _beside(self, name: str, kind: Kind) -> Iterator[Row]:
        return self._cells(name, kind.title, kind, self._heliograph(kind), self._bounds)

    def _cells(
        self,
        name: str,
        title: str,
        kind: Kind,
        started: Callable[[], contextlib.AbstractContextManager[Server]],
        bounds: Bounds | None,
    ) -> Iterator[Row]:
        """One server for all numbers of connections; a new one where it does not recover."""
        left = [Row(name=name, title=title, connections=number) for number in self._connections]
        while left:
            try:
                with started() as server:
                    if not measure.recovered(server):
                        raise BenchError("the server is busy without an attacker")  # noqa: TRY301
                    while left:
                        attack = kind.attack(left[0].connections).since(server.kept_since)
                        yield self._judged(left[0], server, attack, bounds)
                        left.pop(0)
                        if left and not measure.recovered(server):
                            break
            except ServerEnded as error:
                yield replace(left.pop(0), problem=str(error), met=False)
            except BenchError as error:
                # The next number of connections gets a server of its own.
                yield replace(left.pop(0), problem=str(error))

    def _judged(self, row: Row, server: Server, attack: Attack, bounds: Bounds | None) -> Row:
        ours = bounds is not None
        if ours:
            measure.prove(attack, server)
        seconds = self._options.seconds
        for _ in range(TRIES):
            cell = measure.measure(server, attack, row.connections, seconds, websocket=ours)
            self.prior &= cell.prior
            judged = report.judge(row, cell, attack, bounds)
            # What is out of its bounds stays so. A measure that failed by itself is taken again.
            if not judged.problem or judged.met is False or not measure.recovered(server):
                break
        return judged


def status(rows: list[Row]) -> int:
    """Return 1 where a row is out of its bounds, 2 where one was not measured, else 0."""
    if any(row.met is False for row in rows):
        return 1
    return 2 if any(row.problem for row in rows) else 0


def main(arguments: list[str]) -> int:
    """Measure and print; return the exit status."""
    options = parse(arguments)
    rows: list[Row] = []
    try:
        if tools.compiler() is None:
            raise BenchError("it takes a C compiler (cc, gcc or clang)")  # noqa: TRY301
        with tempfile.TemporaryDirectory(prefix="fairness-") as folder:
            run = Run(options, Path(folder))
            for row in run.rows():
                rows.append(row)
                line = " | ".join(cell for cell in report.cells(row)[:-2] if cell)
                print(f"{row.name}: {line} | {row.verdict()}", file=sys.stderr, flush=True)
        compiled = tools.python(interpreted=options.interpreted) != sys.executable
        priority = "with" if run.prior else "WITHOUT"
        about = (
            f"Heliograph {'compiled' if compiled else 'interpreted'}; {machine()}; rows of"
            f" {options.seconds:g} s; bystander {priority} real-time priority; must:"
            f" p99 ≤ {options.p99_ms:g} ms, max ≤ {options.max_ms:g} ms; go for:"
            f" {report.GOAL.p99_ms:g} and {report.GOAL.max_ms:g} ms"
        )
        print(f"\n{about}\n\n{report.text(rows)}")
        if options.markdown:
            table = f"{about}.\n\n{report.markdown(rows)}\n"
            replace_table(Path(options.markdown), table, MARKS)
        if options.json == "-":
            print(report.as_json(rows))
        elif options.json:
            Path(options.json).write_text(report.as_json(rows) + "\n")
    except BenchError as error:
        print(f"fairness: {error}", file=sys.stderr)
        return 2
    return status(rows)


if __name__ == "__main__":
    tools.end_children_on_sigterm()
    started = time.monotonic()
    outcome = main(sys.argv[1:])
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(outcome)
