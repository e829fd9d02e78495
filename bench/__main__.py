"""
Measure Heliograph, or another Pusher server, beside two servers in C on the same core.

    python -m bench [--only fan-out-1,posts-32] [--json FILE] [--server URL --pid PID ...]
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
from bench.workloads import WORKLOADS, Bench, Row

MARKS = ("<!-- bench -->\n", "<!-- /bench -->")
AGAINST_MARKS = ("<!-- bench against -->\n", "<!-- /bench against -->")
QUICK_CLIENTS = 500
PAYLOAD_BYTES = 100
"""What load.c publishes where a workload does not say."""

WITHOUT_COMPILER = frozenset(
    (
        *("fan-out-1", "fan-out-4", "fan-out-128", "posts-1", "posts-32"),
        *("connecting-public", "connecting-private"),
        *("memory-own-channels", "memory-one-channel"),
        *("publish-with-history", "slow-reader", "history-memory"),
    )
)
"""What is measured without programs in C."""


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
    other.add_argument(
        "--pid", type=int, help="the server's process: kept on one core, and its time is shown"
    )
    other.add_argument("--name", help="what the report calls it, with its version")
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
    if options.pid is not None:
        _pin(options.pid)
    return Target(
        host=host,
        port=server.port,
        api_port=api.port,
        path=server.path.rstrip("/"),
        app=options.app,
        key=options.key,
        secret=options.secret,
        pid=options.pid,
        pinned=options.pid is not None,
        may_lose=True,
    )


def _pin(pid: int) -> None:
    try:
        tools.pin(pid, tools.SERVER_CORE)
    except OSError as error:
        raise BenchError(f"--pid: process {pid} cannot be pinned: {error.strerror}") from None


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


def measure(options: argparse.Namespace) -> tuple[list[Row], Bench]:
    """Run the chosen workloads, and say on standard error how far they are."""
    names, load = _with_load(_chosen(options.only))
    build = tools.tree(interpreted=options.interpreted)
    with contextlib.ExitStack() as stack:
        in_c = tools.compiler() is not None
        bench = Bench(
            load=load,
            plain=stack.enter_context(tools.baseline(PAYLOAD_BYTES)) if in_c else None,
            coalescing=stack.enter_context(tools.coalescing()) if in_c else None,
            server=(
                _other(options)
                if options.server
                else stack.enter_context(tools.heliograph(build=build))
            ),
            ours=not options.server,
            build=build,
        )
        if options.quick:
            bench.rounds, bench.round_s, bench.clients = 1, 0.3, QUICK_CLIENTS
        return [_measured_row(name, bench) for name in names], bench


def _measured_row(name: str, bench: Bench) -> Row:
    began = time.monotonic()
    try:
        row = WORKLOADS[name](bench)
    except BenchError as error:
        reason = " ".join(str(error).split())  # it may be an answer of the server, in many lines
        row = Row(title=name, measure="", notes=[reason], measured=False)
    took = time.monotonic() - began
    print(f"{name}: {report.progress(row)} ({took:.0f} s)", file=sys.stderr)
    return row


def _about(options: argparse.Namespace, bench: Bench) -> str:
    """Say what was measured, and how."""
    if not options.server:
        compiled = tools.python(interpreted=options.interpreted) != sys.executable
        name = f"Heliograph {'compiled' if compiled else 'interpreted'}"
    else:
        name = options.name or options.server
        name += "" if bench.server.pinned else ", not pinned to a core"
    rounds = f"{bench.rounds} rounds of {bench.round_s:g} s"
    return f"{name}; {report.machine()}; median of {rounds}"


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


def _beside_baselines(options: argparse.Namespace) -> int:
    rows, bench = measure(options)
    explained = "p50 and p99: those of the server that coalesces in brackets"
    about = _about(options, bench)
    _write(options, about, report.table(rows), report.as_json(rows, about), explained)
    if options.chart:
        Path(options.chart).write_text(report.chart(rows, about))
    if any(row.met is False for row in rows):
        return 1
    return 0 if all(row.measured for row in rows) else 2


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
        return _two_builds(options) if options.against else _beside_baselines(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    # As an exception, so that the servers that were started are ended.
    tools.end_children_on_sigterm()
    sys.exit(main(sys.argv[1:]))
