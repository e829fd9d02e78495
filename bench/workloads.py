"""
What is measured: each workload, what it must reach, and what it goes for.

A workload is a function from a Bench to a Row. The server and the two baselines in C take turns,
and the median of the rounds' ratios counts.
"""

import contextlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import history, tools
from bench.counted import counted_presence
from bench.fairness.measure import Times
from bench.tls import tls_bytes_a_client
from bench.tools import BenchError, Build, Load, Target

ROUNDS = 5
ROUND_S = 2.0
IDLE_CLIENTS = 10_000
TLS_CLIENTS = 2_000
MOST_BURST_WRITES = 3
DEFLATE_FLAG = "--enable_ws_compression"
LONG_DRAIN_S = 0.5
LEAST_WITH_HISTORY = 0.85
MOST_BYSTANDER_MS = 60
MOST_BYTES_A_SLOW_READER = 400_000

LOADS: Mapping[str, Mapping[str, Any]] = {
    "fan-out-1": {},
    "fan-out-paced": {"rate": 50, "publishers": 8},
    "fan-out-4": {"publishers": 4},
    "fan-out-128": {"publishers": 128},
    "fan-out-excluding": {"publishers": 128, "exclude": 1},
    "undelivered-1": {"undelivered": 1},
    "undelivered-4": {"undelivered": 1, "publishers": 4},
    "undelivered-128": {"undelivered": 1, "publishers": 128},
    "fan-out-channels": {"channels": 100, "publishers": 64, "all_channels": 1},
    "fan-out-one-channel": {"channels": 100, "publishers": 64},
    "posts-1": {"subscribers": 1},
    "posts-32": {"subscribers": 1, "publishers": 32},
    "batches": {"subscribers": 1, "publishers": 8, "batch": 10},
    "client-events": {"mode": "client_events", "subscribers": 100, "prefix": "private-"},
    "connecting-public": {"mode": "connect", "subscribers": IDLE_CLIENTS},
    "connecting-private": {"mode": "connect", "subscribers": IDLE_CLIENTS, "prefix": "private-"},
    "company": {"subscribers": 1, "rate": 50, "publishers": 4, "first": 1000, "calm": 1},
    "large-payloads": {"payload": 10_000, "subscribers": 200, "publishers": 4},
    "compressed-payloads": {"payload": 1000, "publishers": 4, "deflate": 1},
    "publish-with-history": {"subscribers": 1, "publishers": 32},
}
"""The options of load.c with which each workload loads a server; by default, 1,000 subscribers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A rate beside another one, that of a baseline or of the same server with another load."""

    rate: float  # the other one, a second
    ratios: tuple[float, ...]  # of each round
    p50_ms: float
    p99_ms: float

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest of them."""
        return min(self.ratios), max(self.ratios)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How the measured time was spent: shares of it, 0 where that cannot be seen."""

    server_user: float  # of the server's core, in its own code
    server_kernel: float  # in the kernel
    load_busy: float  # of the load's core


@dataclass(slots=True, kw_only=True)
class Row:
    """One line of the table."""

    title: str
    measure: str
    must: str = ""
    goal: str = ""
    server: str = ""  # what was measured, as text
    plain: Beside | None = None  # the baseline that writes each event by itself
    coalescing: Beside | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    shares: Shares | None = None
    must_ratio: float | None = None
    goal_ratio: float | None = None
    met: bool | None = None  # what must be reached; None where nothing must
    reached: bool | None = None  # what is gone for
    measured: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def better(self) -> Beside | None:
        """The baseline that was faster; None where there was none."""
        found = [beside for beside in (self.plain, self.coalescing) if beside is not None]
        return min(found, key=lambda beside: beside.ratio, default=None)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found of the server, and of the baselines that took part in it."""

    server: Load
    plain: Load | None = None
    coalescing: Load | None = None


@dataclass(slots=True, kw_only=True)
class Bench:
    """What workloads are measured with."""

    load: Sequence[str]
    server: Target
    plain: Target | None
    coalescing: Target | None
    ours: bool  # the server is Heliograph: it has bounds to reach, and more of them may be started
    build: Build  # what else is started
    rounds: int = ROUNDS
    round_s: float = ROUND_S
    clients: int = IDLE_CLIENTS

    def run(self, target: Target, **options: Any) -> Load:
        """Put *target* under load for one round."""
        return tools.run_load(self.load, target, **{"seconds": self.round_s, **options})

    def turns(self, *, plain: Target | None, **options: Any) -> list[Round]:
        """Run the server and the baselines in turns; *plain* is the one for this workload."""
        return [
            Round(
                self.run(self.server, **options),
                self.run(plain, **options) if plain else None,
                self.run(self.coalescing, **options) if self.coalescing else None,
            )
            for _ in range(self.rounds)
        ]


Workload = Callable[[Bench], Row]


def _median(values: Iterable[float]) -> float:
    return statistics.median(list(values) or [0.0])


def rounded(rate: float) -> str:
    """Return a rate with as many digits as mean something."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rate >= 10 * size or (unit == "M" and rate >= size):
            return f"{rate / size:.1f} {unit}"
    return f"{rate:,.0f}"


Rate = Callable[[Load], float]


def _beside(
    pairs: Sequence[tuple[Load, Load | None]], rate: Rate, timed: str = "delivery"
) -> Beside | None:
    """Compare the first of each pair with the second; None where there is no second."""
    found = [(server, other) for server, other in pairs if other is not None]
    if not found:
        return None
    others = [other for _, other in found]
    return Beside(
        rate=_median(rate(other) for other in others),
        ratios=tuple(rate(server) / rate(other) for server, other in found),
        p50_ms=_median(other.figures[f"{timed}_p50_ms"] for other in others),
        p99_ms=_median(other.figures[f"{timed}_p99_ms"] for other in others),
    )


def _filled(row: Row, rounds: Sequence[Round], rate: Rate, timed: str = "delivery") -> Row:
    """Fill in the figures of *row*."""
    _fill_server(row, [one.server for one in rounds], rate, timed)
    row.plain = _beside([(one.server, one.plain) for one in rounds], rate, timed)
    row.coalescing = _beside([(one.server, one.coalescing) for one in rounds], rate, timed)
    limited = [
        name
        for name, others in (
            ("with one send each", [one.plain for one in rounds]),
            ("that coalesces", [one.coalescing for one in rounds]),
        )
        if any(other is not None and other.limited for other in others)
    ]
    if limited:
        row.notes.append(
            f"the load is the bottleneck of the server in C {' and the one '.join(limited)}:"
            " the ratio is at most this"
        )
    return row


def _fill_server(row: Row, loads: Sequence[Load], rate: Rate, timed: str = "delivery") -> None:
    """Fill in what concerns the server alone."""
    row.server = rounded(_median(map(rate, loads)))
    row.p50_ms = _median(load.figures[f"{timed}_p50_ms"] for load in loads)
    row.p99_ms = _median(load.figures[f"{timed}_p99_ms"] for load in loads)
    row.shares = Shares(
        server_user=_median(load.figures["server_user"] for load in loads),
        server_kernel=_median(load.figures["server_kernel"] for load in loads),
        load_busy=_median(load.figures["load_busy"] for load in loads),
    )
    row.notes += _notes(loads)


def _notes(loads: Sequence[Load]) -> list[str]:
    """Say what happened that the rate does not show."""
    notes = []
    lost = sum(load.figures["lost"] for load in loads)
    if lost:
        arrived = sum(load.figures["deliveries"] for load in loads)
        notes.append(f"{lost / (lost + arrived):.1%} of the events did not arrive")
    if tools.grows(loads):
        queued = _median(load.figures["queue_end"] for load in loads)
        notes.append(f"the queue grows: {rounded(queued)} deliveries to come at the end")
    drain_s = max(load.figures["drain_s"] for load in loads)
    if drain_s >= LONG_DRAIN_S:
        notes.append(f"up to {drain_s:.1f} s until the last was delivered")
    redials = sum(load.figures["redials"] for load in loads)
    if redials:
        share = redials / max(sum(load.figures["answers"] for load in loads), 1)
        notes.append(f"{share:.0%} of the requests needed a new connection")
    return notes


def _judged(row: Row, bench: Bench, beside: Beside | None) -> Row:
    """Compare the ratio *beside* a baseline with what it must be, if the server is ours."""
    if not bench.ours or beside is None:
        return row
    if row.must_ratio is not None:
        row.must = row.must or f"{row.must_ratio:g}"
        row.met = beside.ratio >= row.must_ratio
    if row.goal_ratio is not None:
        row.goal = row.goal or f"{row.goal_ratio:g}"
        row.reached = beside.ratio >= row.goal_ratio
    return row


def _requests(load: Load) -> float:
    return load.requests


def _rate(load: Load) -> float:
    return load.rate


# -- Fan-out -----------------------------------------------------------------------------------


def _fan_out(name: str, title: str, must_ratio: float, goal_ratio: float = 1.0) -> Workload:
    """Measure deliveries, and compare them with those of the baseline that coalesces."""

    def workload(bench: Bench) -> Row:
        row = Row(title=title, measure="deliveries/s", must_ratio=must_ratio, goal_ratio=goal_ratio)
        rounds = bench.turns(plain=bench.plain, **LOADS[name])
        return _judged(_filled(row, rounds, _rate), bench, row.coalescing)

    return workload


def fan_out_paced(bench: Bench) -> Row:
    """Fifty publishes a second, whatever the answers; late ones count from when they were due."""
    row = Row(title="the same, open loop at 50 publishes/s", measure="p50, p99 of deliveries")
    rounds = bench.turns(plain=bench.plain, **LOADS["fan-out-paced"])
    row = _filled(row, rounds, _rate)
    if not bench.ours or row.coalescing is None or row.p50_ms is None or row.p99_ms is None:
        return row
    limit = row.coalescing
    row.must, row.goal = "≤ 1.5 x coalescing + 2 ms", "≤ coalescing + 1 ms"
    row.met = row.p50_ms <= 1.5 * limit.p50_ms + 2 and row.p99_ms <= 1.5 * limit.p99_ms + 2
    row.reached = row.p50_ms <= limit.p50_ms + 1 and row.p99_ms <= limit.p99_ms + 1
    return row


def fan_out_excluding(bench: Bench) -> Row:
    """Every publish excludes another subscriber; the plain baseline cannot do that."""
    row = Row(
        title="the same, each excluding another subscriber's socket_id",
        measure="deliveries/s",
        must_ratio=0.6,
        goal_ratio=1.0,
    )
    rounds = bench.turns(plain=None, **LOADS["fan-out-excluding"])
    return _judged(_filled(row, rounds, _rate), bench, row.coalescing)


# -- Requests, client events, connections ------------------------------------------------------


def _posts(name: str, title: str, must_ratio: float, goal_ratio: float) -> Workload:
    """Measure requests whose event reaches one subscriber."""

    def workload(bench: Bench) -> Row:
        row = Row(title=title, measure="requests/s", must_ratio=must_ratio, goal_ratio=goal_ratio)
        rounds = bench.turns(plain=bench.plain, **LOADS[name])
        return _judged(_filled(row, rounds, _requests, "answer"), bench, row.better)

    return workload


def batches(bench: Bench) -> Row:
    """Ten events a request, also compared with one a request."""
    row = Row(title="POST /batch_events of 10, 8 in flight", measure="events/s")
    tens = LOADS["batches"]
    rounds, singles = [], []
    for _ in range(bench.rounds):
        singles.append(bench.run(bench.server, **{**tens, "batch": 1}))
        rounds.append(
            Round(
                bench.run(bench.server, **tens),
                None,  # it would answer one event for ten
                bench.run(bench.coalescing, **tens) if bench.coalescing else None,
            )
        )
    row = _filled(row, rounds, _rate, "answer")
    alone = _beside([(r.server, s) for r, s in zip(rounds, singles, strict=True)], _rate)
    row.notes += _times_as_many("single events", alone)
    return row


def _times_as_many(other: str, beside: Beside | None) -> list[str]:
    """Say in a note how the rate compares with that of the same server under another load."""
    return [] if beside is None else [f"{beside.ratio:.2f} times {other} ({rounded(beside.rate)})"]


def client_events(bench: Bench) -> Row:
    """Fifty pairs that answer each other through private channels."""
    row = Row(
        title="client events, 50 pairs answering each other, private",
        measure="events/s",
        must_ratio=0.4,
        goal_ratio=0.6,
    )
    rounds = bench.turns(plain=bench.plain, **LOADS["client-events"])
    return _judged(_filled(row, rounds, _rate), bench, row.better)


def connecting_public(bench: Bench) -> Row:
    """Clients that connect and subscribe, 64 at a time."""
    return _connecting(bench, "public", "connecting-public", 0.5, 0.9)


def connecting_private(bench: Bench) -> Row:
    """The same with a signature each."""
    return _connecting(bench, "private with signature", "connecting-private", 0.5, 0.9)


def _connecting(bench: Bench, kind: str, name: str, must: float, goal: float) -> Row:
    row = Row(
        title=f"connect + subscribe, {bench.clients:,} clients, {kind}",
        measure="clients/s",
        must_ratio=must,
        goal_ratio=goal,
    )
    rounds = bench.turns(plain=bench.plain, **{**LOADS[name], "subscribers": bench.clients})
    return _judged(_filled(row, rounds, _rate, "answer"), bench, row.better)


# -- Memory, presence, company -------------------------------------------------------------------


def _needs_ours(bench: Bench, row: Row) -> bool:
    if not bench.ours:
        row.measured = False
        row.must = row.goal = ""
        row.notes.append("this takes a server that is started for it")
    return bench.ours


def memory_own_channels(bench: Bench) -> Row:
    """What an idle client costs that has a channel of its own."""
    return _memory(bench, "a channel of its own each", bench.clients, 3500, 2500)


def memory_one_channel(bench: Bench) -> Row:
    """What an idle client costs among others in one channel."""
    return _memory(bench, "all in one channel", 1, 3000, 2000)


def _memory(bench: Bench, where: str, channels: int, must: int, goal: int) -> Row:
    row = Row(
        title=f"server memory, {bench.clients:,} idle clients, {where}",
        measure="bytes a client",
        must=f"≤ {must:,}",
        goal=f"≤ {goal:,}",
    )
    if not _needs_ours(bench, row):
        return row
    each = idle_bytes_a_client(bench.load, bench.build, bench.clients, channels)
    row.server = f"{each:,.0f}"
    row.met, row.reached = each <= must, each <= goal
    return row


def idle_bytes_a_client(load: Sequence[str], build: Build, clients: int, channels: int) -> float:
    """
    Return the memory that each of *clients* idle ones costs a server of its own.

    A server that needs a megabyte less at its start, or frees one less, is neither better nor
    worse for it: so others are connected before, and tables of thousands of clients are mapped,
    rather than made in whatever part of the heap the start left free.
    """
    with tools.heliograph(build=build, variables=tools.LARGE_IS_MAPPED) as target:
        assert target.pid is not None  # noqa: S101 - it was started here
        # Whatever is made once is no client's cost, and the first thousands of clients cost
        # nothing: they take the megabytes that a server has left over from its start.
        others = max(clients * 4 // 5, 1)
        with tools.holding(load, target, subscribers=others, first=clients):
            before = tools.resident_bytes(target.pid)
            with tools.holding(load, target, subscribers=clients, channels=channels):
                return (tools.resident_bytes(target.pid) - before) / clients


def tls_memory(bench: Bench) -> Row:
    """What an idle client costs whose TLS ends in the server."""
    clients = min(TLS_CLIENTS, bench.clients)
    row = Row(title=f"TLS in process, {clients:,} idle clients", measure="bytes a client")
    if _needs_ours(bench, row):
        row.server = f"{tls_bytes_a_client(clients, bench.build):,.0f}"
    return row


def presence_one_by_one(bench: Bench) -> Row:
    """A thousand members join one channel, each after the one before."""
    return _presence(bench, "one after the other", "idle")


def presence_burst(bench: Bench) -> Row:
    """They are connected already, and join at once."""
    return _presence(bench, "all in one burst", "burst")


def _presence(bench: Bench, how: str, mode: str) -> Row:
    members = min(1000, bench.clients)
    row = Row(
        title=f"presence: {members:,} members join one channel, {how}",
        measure="joins/s; encodings and writes, counted",
        must="1 encoding a join"
        + (f", ≤ {MOST_BURST_WRITES} writes a member" if mode == "burst" else ""),
    )
    if not _needs_ours(bench, row):
        return row
    found, encodings, writes = joining(bench.load, bench.build, mode, members)
    row.server = f"{rounded(found.rate)}; {encodings:.2f} encodings, {writes:.1f} writes a join"
    row.p50_ms = found.figures["answer_p50_ms"]
    row.p99_ms = found.figures["answer_p99_ms"]
    row.met = encodings <= 1 and (mode != "burst" or writes <= MOST_BURST_WRITES)
    return row


def joining(
    load: Sequence[str], build: Build, mode: str, members: int
) -> tuple[Load, float, float]:
    """Have *members* join one channel; return what the load found, encodings and writes a join."""
    found, counters = counted_presence(load, mode, members, build)
    if not counters["system_calls"]:
        raise BenchError("no write was counted: the server writes in another way")
    # Each had connected, which is one write.
    return found, counters["encodings"] / members, counters["system_calls"] / members - 1


def company(bench: Bench) -> Row:
    """A small channel's latency while a large one is busy, beside the same without it."""
    row = Row(
        title=f"small channel beside one of {bench.clients:,} with 5 events/s",
        measure="p99 of deliveries, ms more than without",
    )
    small = LOADS["company"]
    alone, beside = [], []
    for _ in range(bench.rounds):
        alone.append(bench.run(bench.server, **small))
        with large_channel(bench.load, bench.server, bench.clients, bench.round_s):
            beside.append(bench.run(bench.server, **small))
    without = _median(load.figures["delivery_p99_ms"] for load in alone)
    _fill_server(row, beside, _rate)
    more = _median(load.figures["delivery_p99_ms"] for load in beside) - without
    row.server = f"{more:.1f} ms more"
    row.notes.append(f"{without:.1f} ms without")
    if bench.ours:
        row.must, row.goal = "≤ 15 ms more", "≤ 5 ms more"
        row.met, row.reached = more <= 15, more <= 5
    return row


def large_channel(
    load: Sequence[str], target: Target, clients: int, seconds: float
) -> contextlib.AbstractContextManager[None]:
    """Return the load that a small channel has beside it, for a round of *seconds*."""
    return tools.background(
        load, target, subscribers=clients, rate=5, publishers=2, calm=1, seconds=seconds + 8
    )


# -- Reported ------------------------------------------------------------------------------------


def large_payloads(bench: Bench) -> Row:
    """Ten kilobytes an event."""
    row = Row(title="fan-out of 10 KB, 200 subscribers, 4 in flight", measure="deliveries/s")
    options = LOADS["large-payloads"]
    if bench.plain is None:
        rounds = bench.turns(plain=None, **options)
    else:
        with tools.baseline(options["payload"]) as plain:
            rounds = bench.turns(plain=plain, **options)
    _note_bytes(row, [one.server for one in rounds])
    return _filled(row, rounds, _rate)


def compressed_payloads(bench: Bench) -> Row:
    """One kilobyte an event, compressed; compared with the same that is not."""
    row = Row(
        title="fan-out of 1 KB with permessage-deflate, 1,000 subscribers, 4 in flight",
        measure="deliveries/s",
    )
    options = LOADS["compressed-payloads"]
    if not _needs_ours(bench, row):
        return row
    with tools.heliograph(DEFLATE_FLAG, build=bench.build) as target:
        pairs: list[tuple[Load, Load | None]] = [
            (bench.run(target, **options), bench.run(target, **{**options, "deflate": 0}))
            for _ in range(bench.rounds)
        ]
    loads = [compressed for compressed, _ in pairs]
    _note_bytes(row, loads)
    _fill_server(row, loads, _rate)
    row.notes += _times_as_many("uncompressed events", _beside(pairs, _rate))
    return row


def _note_bytes(row: Row, loads: Sequence[Load]) -> None:
    each = _median(load.figures["bytes"] / max(load.figures["deliveries"], 1) for load in loads)
    row.notes.append(f"{each:,.0f} bytes on the wire a delivery")


# -- History -------------------------------------------------------------------------------------


def publish_with_history(bench: Bench) -> Row:
    """Requests whose event the channel keeps, compared with the same that it does not keep."""
    row = Row(
        title="signed POST /events, one subscriber, 32 in flight, each event kept",
        measure="requests/s",
    )
    options = LOADS["publish-with-history"]
    if not _needs_ours(bench, row):
        return row
    with (
        tools.heliograph(history.FLAG, build=bench.build) as keeping,
        tools.heliograph(build=bench.build) as other,
    ):
        pairs: list[tuple[Load, Load | None]] = [
            (bench.run(keeping, **options), bench.run(other, **options))
            for _ in range(bench.rounds)
        ]
    _fill_server(row, [kept for kept, _ in pairs], _requests, "answer")
    beside = _beside(pairs, _requests, "answer")
    row.notes += _times_as_many("events that are not kept", beside)
    if beside is not None:
        row.must = f"{LEAST_WITH_HISTORY:g} times"
        row.met = beside.ratio >= LEAST_WITH_HISTORY
    return row


def resume_storm(bench: Bench) -> Row:
    """Clients that all come back at the same time, and have missed some events each."""
    clients = min(history.STORM_CLIENTS, bench.clients)
    row = Row(
        title=f"{clients:,} clients resume at once, {history.MISSED} missed events each",
        measure="seconds until all are live; p50, p99 of a bystander",
        must=f"p99 ≤ {MOST_BYSTANDER_MS:g} ms",
    )
    if not _needs_ours(bench, row):
        return row
    with tools.heliograph(history.FLAG, build=bench.build) as target:
        storms = [history.storm(target, clients) for _ in range(bench.rounds)]
    times = Times.of([wait for one in storms for wait in one.pings_us])
    if times is None:
        raise BenchError("the bystander sent no ping")
    row.server = f"{_median(one.seconds for one in storms):.2f}"
    row.p50_ms, row.p99_ms = times.p50_ms, times.p99_ms
    row.met = times.p99_ms <= MOST_BYSTANDER_MS
    if any(one.limited for one in storms):
        row.notes.append("the load is the bottleneck: the time is at most this")
    return row


def slow_reader(bench: Bench) -> Row:
    """Clients that read a long history slowly: when they are live, and what each costs."""
    events = history.SLOW_EVENTS if bench.clients == IDLE_CLIENTS else history.FEW_SLOW_EVENTS
    row = Row(
        title=(
            f"{history.SLOW_CLIENTS} clients read {events} kept events of"
            f" {history.SLOW_PAYLOAD // 1000} KB at {history.SLOW_RATE // 1000} KB/s"
        ),
        measure="seconds until all are live; bytes of the server's memory for each",
        must=f"≤ {MOST_BYTES_A_SLOW_READER:,} bytes",
    )
    if not _needs_ours(bench, row):
        return row
    found = history.slow_readers(bench.build, events)
    row.server = f"{found.seconds:.1f}; {found.bytes_each:,.0f}"
    row.met = found.bytes_each <= MOST_BYTES_A_SLOW_READER
    row.notes.append(f"{events * history.SLOW_PAYLOAD / history.SLOW_RATE:.0f} s at that rate")
    return row


def history_memory(bench: Bench) -> Row:
    """What a kept event costs, and a channel that keeps one; and as what they are counted."""
    row = Row(
        title=f"server memory, kept events of {history.EVENT_PAYLOAD} bytes",
        measure="bytes an event; bytes a channel with one event",
        must="≤ what --history_max_bytes counts",
    )
    if not _needs_ours(bench, row):
        return row
    event = history.bytes_an_event(bench.build, 10 * bench.clients)
    channel = history.bytes_a_channel(bench.build, 10 * bench.clients)
    row.server = f"{event.measured:,.0f}; {channel.measured:,.0f}"
    row.met = event.measured <= event.counted and channel.measured <= channel.counted
    row.notes.append(f"counted as {event.counted:,.0f} and {channel.counted:,.0f}")
    return row


WORKLOADS: dict[str, Workload] = {
    "fan-out-1": _fan_out(
        "fan-out-1", "fan-out, 1,000 subscribers, 1 publish not yet answered", 0.7
    ),
    "fan-out-paced": fan_out_paced,
    "fan-out-4": _fan_out("fan-out-4", "the same, 4 publishes not yet answered", 0.8),
    "fan-out-128": _fan_out("fan-out-128", "the same, 128 publishes not yet answered", 0.8),
    "fan-out-excluding": fan_out_excluding,
    "undelivered-1": _fan_out(
        "undelivered-1", "fan-out, 1,000 subscribers, 1 event not yet delivered to all", 0.7
    ),
    "undelivered-4": _fan_out("undelivered-4", "the same, 4 events not yet delivered", 0.8),
    "undelivered-128": _fan_out("undelivered-128", "the same, 128 events not yet delivered", 0.8),
    "fan-out-channels": _fan_out(
        "fan-out-channels",
        "fan-out, 100 channels x 10 subscribers, 64 in flight, each publish to all 100",
        0.35,
    ),
    "fan-out-one-channel": _fan_out(
        "fan-out-one-channel", "the same, each publish to one of the 100 in turn", 0.5
    ),
    "posts-1": _posts("posts-1", "signed POST /events, one subscriber, 1 in flight", 0.5, 0.7),
    "posts-32": _posts("posts-32", "the same, 32 in flight", 0.35, 0.6),
    "batches": batches,
    "client-events": client_events,
    "connecting-public": connecting_public,
    "connecting-private": connecting_private,
    "memory-own-channels": memory_own_channels,
    "memory-one-channel": memory_one_channel,
    "presence-one-by-one": presence_one_by_one,
    "presence-burst": presence_burst,
    "company": company,
    "tls-memory": tls_memory,
    "large-payloads": large_payloads,
    "compressed-payloads": compressed_payloads,
    "publish-with-history": publish_with_history,
    "resume-storm": resume_storm,
    "slow-reader": slow_reader,
    "history-memory": history_memory,
}
