"""
Compare two builds of Heliograph, to find whether the new one is slower in any workload.

Three servers take turns in each round: one of the new build, one of the old, and a second one of
the old, the control. Each round has servers of its own, since how fast a process is depends on
chance, too: where its memory lies, how its hashes fall. Load and measuring are this tree's for all.
"""

import contextlib
import enum
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench import history, tools
from bench.fairness.measure import Times
from bench.tls import tls_bytes_a_client
from bench.tools import BenchError, Build, Load
from bench.verdict import Ratios, Round, Verdict, against_old, judge, settled
from bench.workloads import (
    DEFLATE_FLAG,
    IDLE_CLIENTS,
    LOADS,
    idle_bytes_a_client,
    joining,
    large_channel,
)

ROUNDS = 7
SLICE_S = 0.6
LATENCY_SLICE_S = 1.5
"""Fifty publishes a second take longer to have a latest hundredth."""

SUBSCRIBERS = 1000
"""What load.c has where LOADS does not say."""

TLS_CLIENTS = 500
"""Connecting one takes Python some milliseconds, and each costs the same."""

REPEATS = 2
"""How many rounds of a workload may be lost to a machine that was busy otherwise."""


class Side(enum.Enum):
    """Whose turn it is."""

    NEW = "new"
    OLD = "old"
    CONTROL = "control"


ORDERS = (
    (Side.NEW, Side.OLD, Side.CONTROL),
    (Side.CONTROL, Side.OLD, Side.NEW),
    (Side.OLD, Side.NEW, Side.CONTROL),
    (Side.CONTROL, Side.NEW, Side.OLD),
    (Side.NEW, Side.CONTROL, Side.OLD),
    (Side.OLD, Side.CONTROL, Side.NEW),
)
"""One a round: each order is followed by its reverse, and each side comes first as often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured, and by which load generator."""

    load: Sequence[str]
    rounds: int = ROUNDS
    extended: bool = True  # a row that is near its bound gets more rounds
    slice_s: float = SLICE_S
    latency_slice_s: float = LATENCY_SLICE_S
    clients: int = IDLE_CLIENTS

    @property
    def most_rounds(self) -> int:
        """What a row gets whose rounds so far leave its verdict open."""
        return 2 * self.rounds + 1 if self.extended else self.rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One figure of one workload, compared: a row of the table."""

    workload: str
    measure: str
    less_is_better: bool
    rounds: tuple[Round, ...]
    note: str = ""  # why it was not measured
    skipped: bool = False  # because a build cannot do what is measured

    @property
    def ratios(self) -> tuple[Ratios, Ratios] | None:
        """The new build's and the control's against the old one; None where not measured."""
        if self.note:
            return None
        return against_old(self.rounds, less_is_better=self.less_is_better)

    @property
    def outcome(self) -> str:
        """The verdict, or why there is none."""
        if self.note:
            return f"{'skipped' if self.skipped else 'not measured'}: {self.note}"
        return str(self.verdict)

    @property
    def verdict(self) -> Verdict | None:
        """What the rounds say; None where not measured."""
        ratios = self.ratios
        return None if ratios is None else judge(*ratios)


# -- How each workload is measured -------------------------------------------------------------

Sample = Mapping[str, float]  # by measure
Measuring = AbstractContextManager[Callable[[], Sample]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """
    How one workload is measured on a server of either build.

    *begin* starts what a round needs, and its value takes a sample. Where *mirrored*, each round
    has every server take two, as in ABC CBA, so that a machine that slows down slows all of them.
    The workload is skipped if a build does not know one of the flags in *needs*.
    """

    begin: Callable[[Effort, Build], Measuring]
    more_is_better: tuple[str, ...] = ()  # the measures in a sample
    less_is_better: tuple[str, ...] = ()
    mirrored: bool = True
    needs: tuple[str, ...] = ()

    @property
    def measures(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.more_is_better, *self.less_is_better)


def _rate_under_load(
    workload: str, measure: str, *flags: str, needs: tuple[str, ...] = ()
) -> Method:
    """Count what a server with *flags* does in a second."""

    @contextlib.contextmanager
    def begin(effort: Effort, build: Build) -> Iterator[Callable[[], Sample]]:
        options = {**LOADS[workload], "seconds": effort.slice_s}
        options["subscribers"] = min(options.get("subscribers", SUBSCRIBERS), effort.clients)

        def sample() -> Sample:
            load = tools.run_load(effort.load, target, **options)
            return {measure: load.requests if measure == "requests/s" else load.rate}

        with tools.heliograph(*flags, build=build) as target:
            yield sample

    return Method(begin=begin, more_is_better=(measure,), needs=needs)


P50, P99 = "p50 of deliveries, ms", "p99 of deliveries, ms"


def _latencies(load: Load) -> Sample:
    return {P50: load.figures["delivery_p50_ms"], P99: load.figures["delivery_p99_ms"]}


@contextlib.contextmanager
def _paced(effort: Effort, build: Build) -> Iterator[Callable[[], Sample]]:
    """Publish at a steady pace, whatever the answers."""
    options = {**LOADS["fan-out-paced"], "seconds": effort.latency_slice_s}
    options["subscribers"] = min(SUBSCRIBERS, effort.clients)
    with tools.heliograph(build=build) as target:
        yield lambda: _latencies(tools.run_load(effort.load, target, **options))


@contextlib.contextmanager
def _in_company(effort: Effort, build: Build) -> Iterator[Callable[[], Sample]]:
    """
    Publish on a small channel beside a large one.

    The latency itself is compared. How much more it is than without the large channel may be next
    to nothing, or less than that, and a ratio of two such differences means nothing.
    """
    seconds = effort.latency_slice_s

    def sample() -> Sample:
        with large_channel(effort.load, target, effort.clients, seconds):
            found = tools.run_load(effort.load, target, **LOADS["company"], seconds=seconds)
        return _latencies(found)

    with tools.heliograph(build=build) as target:
        yield sample


def _alone(
    measured: Callable[[Effort, Build], Sample],
    *,
    more_is_better: tuple[str, ...] = (),
    less_is_better: tuple[str, ...],
    needs: tuple[str, ...] = (),
) -> Method:
    """Measure in a server that *measured* starts for one sample, as memory is not given back."""

    @contextlib.contextmanager
    def begin(effort: Effort, build: Build) -> Iterator[Callable[[], Sample]]:
        yield lambda: measured(effort, build)

    return Method(
        begin=begin,
        more_is_better=more_is_better,
        less_is_better=less_is_better,
        mirrored=False,
        needs=needs,
    )


BYTES = "bytes a client"


def _memory(*, own_channels: bool) -> Method:
    def measured(effort: Effort, build: Build) -> Sample:
        channels = effort.clients if own_channels else 1
        return {BYTES: idle_bytes_a_client(effort.load, build, effort.clients, channels)}

    return _alone(measured, less_is_better=(BYTES,))


def _tls_memory(effort: Effort, build: Build) -> Sample:
    return {BYTES: tls_bytes_a_client(min(TLS_CLIENTS, effort.clients), build)}


JOINS, ENCODINGS, WRITES = "joins/s", "encodings a join", "writes a join"


def _presence(mode: str) -> Method:
    def measured(effort: Effort, build: Build) -> Sample:
        members = min(SUBSCRIBERS, effort.clients)
        found, encodings, writes = joining(effort.load, build, mode, members)
        return {JOINS: found.rate, ENCODINGS: encodings, WRITES: writes}

    return _alone(measured, more_is_better=(JOINS,), less_is_better=(ENCODINGS, WRITES))


UNTIL_LIVE, PING_P99 = "s until all are live", "p99 of a bystander, ms"
BYTES_AN_EVENT, BYTES_A_CHANNEL = "bytes a kept event", "bytes a channel with one"
HISTORY = (history.FLAG,)


def _resume_storm(effort: Effort, build: Build) -> Sample:
    """Have clients come back at the same time; the first time is no sample."""
    clients = min(history.STORM_CLIENTS, effort.clients)
    with tools.heliograph(history.FLAG, build=build) as target:
        history.storm(target, max(clients // 10, 1))
        found = history.storm(target, clients)
    times = Times.of(found.pings_us)
    if times is None:
        raise BenchError("the bystander sent no ping")
    return {UNTIL_LIVE: found.seconds, PING_P99: times.p99_ms}


def _slow_reader(_effort: Effort, build: Build) -> Sample:
    return {UNTIL_LIVE: history.slow_readers(build, history.FEW_SLOW_EVENTS).seconds}


def _history_memory(effort: Effort, build: Build) -> Sample:
    count = 10 * effort.clients
    return {
        BYTES_AN_EVENT: history.bytes_an_event(build, count).measured,
        BYTES_A_CHANNEL: history.bytes_a_channel(build, count).measured,
    }


METHODS: Mapping[str, Method] = {
    "fan-out-1": _rate_under_load("fan-out-1", "deliveries/s"),
    "fan-out-paced": Method(begin=_paced, less_is_better=(P50, P99)),
    "fan-out-4": _rate_under_load("fan-out-4", "deliveries/s"),
    "fan-out-128": _rate_under_load("fan-out-128", "deliveries/s"),
    "fan-out-excluding": _rate_under_load("fan-out-excluding", "deliveries/s"),
    "undelivered-1": _rate_under_load("undelivered-1", "deliveries/s"),
    "undelivered-4": _rate_under_load("undelivered-4", "deliveries/s"),
    "undelivered-128": _rate_under_load("undelivered-128", "deliveries/s"),
    "fan-out-channels": _rate_under_load("fan-out-channels", "deliveries/s"),
    "fan-out-one-channel": _rate_under_load("fan-out-one-channel", "deliveries/s"),
    "posts-1": _rate_under_load("posts-1", "requests/s"),
    "posts-32": _rate_under_load("posts-32", "requests/s"),
    "batches": _rate_under_load("batches", "events/s"),
    "client-events": _rate_under_load("client-events", "events/s"),
    "connecting-public": _rate_under_load("connecting-public", "clients/s"),
    "connecting-private": _rate_under_load("connecting-private", "clients/s"),
    "memory-own-channels": _memory(own_channels=True),
    "memory-one-channel": _memory(own_channels=False),
    "presence-one-by-one": _presence("idle"),
    "presence-burst": _presence("burst"),
    "company": Method(begin=_in_company, less_is_better=(P50, P99)),
    "tls-memory": _alone(_tls_memory, less_is_better=(BYTES,)),
    "large-payloads": _rate_under_load("large-payloads", "deliveries/s"),
    "compressed-payloads": _rate_under_load("compressed-payloads", "deliveries/s", DEFLATE_FLAG),
    "publish-with-history": _rate_under_load(
        "publish-with-history", "requests/s", history.FLAG, needs=HISTORY
    ),
    "resume-storm": _alone(_resume_storm, less_is_better=(UNTIL_LIVE, PING_P99), needs=HISTORY),
    "slow-reader": _alone(_slow_reader, less_is_better=(UNTIL_LIVE,), needs=HISTORY),
    "history-memory": _alone(
        _history_memory, less_is_better=(BYTES_AN_EVENT, BYTES_A_CHANNEL), needs=HISTORY
    ),
}
"""Every workload there is."""


# -- Comparing ---------------------------------------------------------------------------------


def compare(names: Iterable[str], new: Build, old: Build, effort: Effort) -> list[Compared]:
    """Compare *new* with *old* in the workloads *names*; progress goes to standard error."""
    sides = {Side.NEW: new, Side.OLD: old, Side.CONTROL: old}
    rows = []
    for name in names:
        began = time.monotonic()
        found = compare_workload(name, METHODS[name], sides, effort)
        took = time.monotonic() - began
        for row in found:
            print(f"{name}: {_progress(row)} ({took:.0f} s)", file=sys.stderr)
        rows += found
    return rows


def compare_workload(
    name: str, method: Method, sides: Mapping[Side, Build], effort: Effort
) -> list[Compared]:
    """
    Compare builds in one workload; return a row for each of its measures.

    It takes more rounds where what they show of any measure is too near to the bound.
    """
    rounds: dict[str, list[Round]] = {measure: [] for measure in method.measures}
    unable = _unable(method, sides.values())
    try:
        if unable:
            raise BenchError(unable)  # noqa: TRY301
        for found in _rounds(name, method, sides, effort):
            for measure, one in found.items():
                rounds[measure].append(one)
            done = len(rounds[method.measures[0]])
            if done == effort.rounds and all(
                settled(*against_old(rounds[m], less_is_better=m in method.less_is_better))
                for m in method.measures
            ):
                break
    except BenchError as error:
        note = str(error)
    else:
        note = ""
    return [
        Compared(
            workload=name,
            measure=measure,
            less_is_better=measure in method.less_is_better,
            rounds=tuple(rounds[measure]),
            note=note,
            skipped=bool(unable),
        )
        for measure in method.measures
    ]


def _unable(method: Method, builds: Iterable[Build]) -> str:
    """Return which build does not know what *method* needs; empty where all do."""
    for build in builds:
        unknown = [flag.partition("=")[0] for flag in method.needs if not build.knows(flag)]
        if unknown:
            return f"{build.name} does not know {', '.join(unknown)}"
    return ""


def _rounds(
    name: str, method: Method, sides: Mapping[Side, Build], effort: Effort
) -> Iterator[Mapping[str, Round]]:
    """Take as many rounds as a workload may have. Raises BenchError where one fails repeatedly."""
    failures = 0
    for number in range(effort.most_rounds):
        while True:
            try:
                found = _one_round(method, sides, ORDERS[number % len(ORDERS)], effort)
                break
            except BenchError as error:
                failures += 1
                if failures > REPEATS:
                    raise
                print(f"{name}: a round is taken again: {error}", file=sys.stderr)
        yield found


def _one_round(
    method: Method, sides: Mapping[Side, Build], order: Sequence[Side], effort: Effort
) -> Mapping[str, Round]:
    """Have each side measured once, or twice if mirrored, starting in *order*."""
    samples: dict[Side, list[Sample]] = {side: [] for side in order}
    with contextlib.ExitStack() as stack:
        taking = {side: stack.enter_context(method.begin(effort, sides[side])) for side in order}
        for side in (*order, *reversed(order)) if method.mirrored else order:
            samples[side].append(taking[side]())

    def mean(side: Side, measure: str) -> float:
        found = statistics.fmean(sample[measure] for sample in samples[side])
        if found <= 0:
            raise BenchError(f"{measure} of {sides[side].name} was {found:g}")
        return found

    return {
        measure: Round(
            new=mean(Side.NEW, measure),
            old=mean(Side.OLD, measure),
            control=mean(Side.CONTROL, measure),
        )
        for measure in method.measures
    }


def _progress(row: Compared) -> str:
    ratios = row.ratios
    if ratios is None:
        return f"{row.measure}: {row.outcome}"
    new, control = ratios
    return (
        f"{row.measure} {new.median:.3f}, control {control.median:.3f},"
        f" {len(row.rounds)} rounds: {row.verdict}"
    )


def exit_status(rows: Sequence[Compared]) -> int:
    """
    Return 1 where a row fails, 2 where one could not be measured, 0 otherwise.

    Rows that are skipped do not count.
    """
    verdicts = {row.verdict for row in rows if not row.skipped}
    if Verdict.FAILS in verdicts:
        return 1
    return 2 if None in verdicts or Verdict.DISTURBED in verdicts else 0
