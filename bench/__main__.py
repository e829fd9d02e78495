"""
Measure Heliograph, or another Pusher server, beside the plainest server that can exist.

    python -m bench [--only fan-out-1,posts-32] [--json FILE] [--server URL --api URL ...]
    python -m bench --against REV [--only ...] [--rounds N] [--json FILE]
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from bench import against, builds, report, tools
from bench.tools import BenchError, Target
from bench.verdict import BOUND
from bench.workloads import REPORT_ROUNDS, ROUND_S, ROUNDS, WORKLOADS, Bench, Row

MARKS = ("<!-- bench -->\n", "<!-- /bench -->")
AGAINST_MARKS = ("<!-- bench against -->\n", "<!-- /bench against -->")
QUICK_CLIENTS = 500

WITHOUT_COMPILER = frozenset(
    (
        *("fan-out-1", "fan-out-4", "fan-out-128", "posts-1", "posts-32"),
        *("connecting-public", "connecting-private"),
        *("memory-own-channels", "memory-one-channel"),
    )
)
"""What the load generator in Python can do."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", help=f"workloads, by comma: {', '.join(WORKLOADS)}")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    parser.add_argument("--interpreted", action="store_true", help="though it could be compiled")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; - for here")
    parser.add_argument("--chart", metavar="FILE", help="draw the ratios as an SVG")
    parser.add_argument(
        "--markdown", metavar="FILE", help=f"put the table between {MARKS[0].strip()} marks"
    )
    two = parser.add_argument_group("two builds", "instead of the baseline in C")
    two.add_argument(
        "--against", metavar="REV", help="is this tree slower than that commit, in any workload?"
    )
    two.add_argument(
        "--rounds",
        type=_count,
        metavar="N",
        default=against.ROUNDS,
        help="of each workload (%(default)s); a row that is near its bound gets 2 N + 1",
    )
    other = parser.add_argument_group("another server", "instead of one of ours")
    other.add_argument("--server", metavar="URL", help="ws://HOST:PORT[/prefix]")
    other.add_argument("--api", metavar="URL", help="http://HOST:PORT, if not the same")
    other.add_argument("--app", default=tools.APP, help="the app's id")
    other.add_argument("--key", default=tools.KEY, help="the app's key")
    other.add_argument("--secret", default=tools.SECRET, help="the app's secret")
    other.add_argument("--pid", type=int, help="the server's process, to see how busy it is")
    options = parser.parse_args(arguments)
    if options.against and (options.server or options.chart):
        parser.error("--against: --server and --chart do not go with it")
    return options


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def _chosen(only: str | None) -> list[str]:
    names = only.split(",") if only else list(WORKLOADS)
    for name in names:
        if name not in WORKLOADS:
            raise BenchError(f"{name}: no such workload; there are {', '.join(WORKLOADS)}")
    return names


def _other(options: argparse.Namespace) -> Target:
    server = urlsplit(options.server)
    api = urlsplit(options.api or options.server)
    if server.scheme != "ws" or not server.port or not api.port:
        raise BenchError("--server: write ws://HOST:PORT, and --api: http://HOST:PORT")
    # The load generator speaks IPv4, and the name that everybody uses is this.
    host = "127.0.0.1" if server.hostname == "localhost" else server.hostname or ""
    return Target(
        host=host,
        port=server.port,
        api_port=api.port,
        path=server.path.rstrip("/"),
        app=options.app,
        key=options.key,
        secret=options.secret,
        pid=options.pid,
    )


def _with_load(names: list[str]) -> tuple[list[str], list[str]]:
    """Return those of *names* that can be measured here, and the load generator for it."""
    if tools.compiler():
        return names, [str(tools.build("load"))]
    print("without a C compiler: no baseline, and a load that is slow", file=sys.stderr)
    return [name for name in names if name in WITHOUT_COMPILER], [
        sys.executable,
        "-m",
        "bench.load",
    ]


def measure(options: argparse.Namespace) -> list[Row]:
    """Run the chosen workloads, and say on standard error how far they are."""
    names, load = _with_load(_chosen(options.only))
    build = tools.tree(interpreted=options.interpreted)
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(tools.baseline(100)) if tools.compiler() else None
        target = (
            _other(options)
            if options.server
            else stack.enter_context(tools.heliograph(build=build))
        )
        bench = Bench(
            load=load,
            server=target,
            baseline=plain,
            ours=not options.server,
            build=build,
        )
        if options.quick:
            bench.rounds, bench.round_s, bench.clients = 1, 0.3, QUICK_CLIENTS
        rows = []
        for name in names:
            began = time.monotonic()
            try:
                row = WORKLOADS[name](bench)
            except BenchError as error:
                row = Row(title=name, measure="", note=str(error), met=False)
            rows.append(row)
            took = time.monotonic() - began
            verdict = {True: "met", False: "MISSED", None: ""}[row.met]
            ratio = f"ratio {row.ratio:.2f}" if row.ratio is not None else row.note
            print(f"{name}: {row.server} {ratio} {verdict} ({took:.0f} s)", file=sys.stderr)
        return rows


def _measured(options: argparse.Namespace) -> str:
    """Say what was measured, where it is ours."""
    if options.server:
        return ""
    compiled = tools.python(interpreted=options.interpreted) != sys.executable
    return f"Heliograph {'compiled' if compiled else 'interpreted'}; "


def _write(
    options: argparse.Namespace, about: str, table: list[report.Line], as_json: str, explained: str
) -> None:
    """Print what was found, and put it where *options* ask for it."""
    print(f"\n{about}\n{explained}\n\n{report.text(table)}")
    if options.markdown:
        marks = AGAINST_MARKS if options.against else MARKS
        text = f"{about}.\n\n{report.markdown(table)}\n"
        report.replace_table(Path(options.markdown), text, marks)
    if options.json == "-":
        print(as_json)
    elif options.json:
        Path(options.json).write_text(as_json + "\n")


def _beside_baseline(options: argparse.Namespace) -> int:
    rows = measure(options)
    about = (
        f"{_measured(options)}{report.machine()}; rounds of {ROUND_S:.0f} s, median of {ROUNDS}"
        f" ({REPORT_ROUNDS} where it is only reported)"
    )
    explained = "p50 and p99: the baseline's in brackets"
    _write(options, about, report.table(rows), report.as_json(rows), explained)
    if options.chart:
        Path(options.chart).write_text(report.chart(rows))
    return 1 if any(row.met is False for row in rows) else 0


def _two_builds(options: argparse.Namespace) -> int:
    names = _chosen(options.only)
    new, old = builds.pair(options.against, interpreted=options.interpreted)
    names, load = _with_load(names)
    effort = against.Effort(load=load, rounds=options.rounds)
    if options.quick:
        effort = against.Effort(
            load=load,
            rounds=1,
            extended=False,
            slice_s=0.3,
            latency_slice_s=0.3,
            clients=QUICK_CLIENTS,
        )
    rows = against.compare(names, new, old, effort)
    kind = "compiled" if new.compiled else "interpreted"
    about = f"{new.name} against {old.name}, {kind}; {report.machine()}; median of the rounds"
    explained = (
        f"Below 1 is worse, in every row. FAILS: below {BOUND}, and lower than the old build"
        " against itself gets by chance"
    )
    as_json = report.compared_json(rows, new, old)
    _write(options, about, report.compared_table(rows, new, old), as_json, explained)
    return against.exit_status(rows)


def main(arguments: list[str]) -> int:
    """Return 0 where everything that must be reached is, 1 where not, 2 where it cannot be said."""
    options = parse(arguments)
    try:
        return _two_builds(options) if options.against else _beside_baseline(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    # As an exception, so that the servers that were started are ended.
    tools.end_children_on_sigterm()
    sys.exit(main(sys.argv[1:]))
