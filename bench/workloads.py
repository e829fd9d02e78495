"""
What is measured: each workload, what it must reach, and what it goes for.

A workload is a function from a Bench to a Row. Where there is a baseline, it and the server
take turns, and the median of the rounds' ratios counts.
"""

import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import tools
from bench.counted import counted_presence
from bench.tls import tls_bytes_a_client
from bench.tools import BenchError, Build, Load, Target

ROUNDS = 5
REPORT_ROUNDS = 2
COMPANY_ROUNDS = 3
ROUND_S = 3.0
IDLE_CLIENTS = 10_000
TLS_CLIENTS = 2_000
MOST_BURST_WRITES = 3
DEFLATE_FLAG = "--enable_ws_compression"

LOADS: Mapping[str, Mapping[str, Any]] = {
    "fan-out-1": {},
    "fan-out-paced": {"rate": 50, "publishers": 8},
    "fan-out-4": {"publishers": 4},
    "fan-out-128": {"publishers": 128},
    "fan-out-excluding": {"publishers": 128, "exclude": 1},
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
}
"""The options of load.c with which each workload loads a server; by default, 1,000 subscribers."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One line of the table."""

    title: str
    measure: str
    must: str = ""
    goal: str = ""
    server: str = ""  # what was measured, as text
    baseline: str = ""
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    p50_ms: tuple[float, float | None] | None = None  # of the server, of the baseline
    p99_ms: tuple[float, float | None] | None = None
    must_ratio: float | None = None
    goal_ratio: float | None = None
    met: bool | None = None  # what must be reached; None where nothing must
    reached: bool | None = None  # what is gone for
    note: str = ""


@dataclass(slots=True, kw_only=True)
class Bench:
    """What workloads are measured with."""

    load: Sequence[str]
    server: Target
    baseline: Target | None
    ours: bool  # the server is Heliograph, and more of them may be started
    build: Build  # what else is started
    rounds: int = ROUNDS
    round_s: float = ROUND_S
    clients: int = IDLE_CLIENTS
    kept: dict[str, list[Load]] = field(default_factory=dict)

    def run(self, target: Target, **options: Any) -> Load:
        """Put *target* under load for one round."""
        return tools.run_load(self.load, target, **{"seconds": self.round_s, **options})

    def turns(self, rounds: int | None = None, **options: Any) -> list[tuple[Load, Load | None]]:
        """Run server and baseline in turns."""
        return [
            (
                self.run(self.server, **options),
                self.run(self.baseline, **options) if self.baseline else None,
            )
            for _ in range(min(self.rounds, rounds or self.rounds))
        ]


Workload = Callable[[Bench], Row]


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def _rounded(rate: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rate >= 10 * size or (unit == "M" and rate >= size):
            return f"{rate / size:.1f} {unit}"
    return f"{rate:,.0f}"


def _quantiles(pairs: Sequence[tuple[Load, Load | None]], name: str) -> tuple[float, float | None]:
    mine = _median([server.figures[name] for server, _ in pairs])
    others = [baseline.figures[name] for _, baseline in pairs if baseline is not None]
    return mine, _median(others) if others else None


def _compared(
    row: Row,
    pairs: Sequence[tuple[Load, Load | None]],
    rate: Callable[[Load], float],
    timed: str = "delivery",
) -> Row:
    """Fill in the figures of *row* from rounds taken in turns."""
    row.server = _rounded(_median([rate(server) for server, _ in pairs]))
    row.p50_ms = _quantiles(pairs, f"{timed}_p50_ms")
    row.p99_ms = _quantiles(pairs, f"{timed}_p99_ms")
    ratios = [rate(server) / rate(plain) for server, plain in pairs if plain is not None]
    if ratios:
        row.baseline = _rounded(_median([rate(plain) for _, plain in pairs if plain is not None]))
        row.ratio = _median(ratios)
        row.spread = (min(ratios), max(ratios))
        _judge(row)
    return row


def _judge(row: Row) -> None:
    if row.ratio is None:
        return
    if row.must_ratio is not None:
        row.must = row.must or f"{row.must_ratio:g}"
        row.met = row.ratio >= row.must_ratio
    if row.goal_ratio is not None:
        row.goal = row.goal or f"{row.goal_ratio:g}"
        row.reached = row.ratio >= row.goal_ratio


def _requests(load: Load) -> float:
    return load.requests


def _rate(load: Load) -> float:
    return load.rate


# -- Fan-out -----------------------------------------------------------------------------------


def fan_out_1(bench: Bench) -> Row:
    """One publisher that waits for each answer."""
    row = Row(
        title="fan-out, 1,000 subscribers, 1 publish in flight",
        measure="deliveries/s",
        must_ratio=0.6,
        goal_ratio=0.9,
    )
    return _compared(row, bench.turns(**LOADS["fan-out-1"]), _rate)


def fan_out_paced(bench: Bench) -> Row:
    """Fifty publishes a second, whatever the answers; late ones count from when they were due."""
    row = Row(title="the same, open loop at 50 publishes/s", measure="p50, p99 of deliveries")
    pairs = bench.turns(**LOADS["fan-out-paced"])
    row.server, row.p50_ms, row.p99_ms = (
        "50/s",
        _quantiles(pairs, "delivery_p50_ms"),
        _quantiles(pairs, "delivery_p99_ms"),
    )
    row.must, row.goal = "≤ 1.5 x baseline + 2 ms", "≤ baseline + 1 ms"
    (p50, base50), (p99, base99) = row.p50_ms, row.p99_ms
    if base50 is not None and base99 is not None:
        row.baseline = "50/s"
        row.met = p50 <= 1.5 * base50 + 2 and p99 <= 1.5 * base99 + 2
        row.reached = p50 <= base50 + 1 and p99 <= base99 + 1
    return row


def _with_calm_tail(row: Row) -> Row:
    """Demand that the latest hundredth is no later than the baseline's."""
    if row.p99_ms is not None and row.p99_ms[1] is not None and row.met is not None:
        row.must += ", p99 ≤ baseline's"
        row.met = row.met and row.p99_ms[0] <= row.p99_ms[1]
    return row


def fan_out_4(bench: Bench) -> Row:
    """Four publishers that wait for each answer."""
    row = Row(
        title="fan-out, 1,000 subscribers, 4 publishes in flight",
        measure="deliveries/s",
        must_ratio=1.0,
        goal_ratio=2.5,
    )
    return _with_calm_tail(_compared(row, bench.turns(**LOADS["fan-out-4"]), _rate))


def fan_out_128(bench: Bench) -> Row:
    """As many publishers as a busy application has processes."""
    row = Row(
        title="the same, 128 connections with 1 in flight each",
        measure="deliveries/s",
        must_ratio=15,
        goal_ratio=35,
    )
    pairs = bench.turns(**LOADS["fan-out-128"])
    bench.kept["fan_out_128"] = [server for server, _ in pairs]
    return _with_calm_tail(_compared(row, pairs, _rate))


def fan_out_excluding(bench: Bench) -> Row:
    """Every publish leaves another subscriber out; compared with those that leave out nobody."""
    row = Row(
        title="the same, each excluding another subscriber's socket_id",
        measure="share of the row above",
        must_ratio=0.8,
        goal_ratio=0.95,
        baseline="the row above",
    )
    pairs = [
        (
            bench.run(bench.server, **LOADS["fan-out-excluding"]),
            bench.run(bench.server, **LOADS["fan-out-128"]),
        )
        for _ in range(bench.rounds)
    ]
    row = _compared(row, [*pairs], _rate)
    row.baseline = "the row above"
    return row


def fan_out_channels(bench: Bench) -> Row:
    """Every publish names all hundred channels, as Pusher's API allows."""
    row = Row(
        title="fan-out, 100 channels x 10 subscribers, 64 in flight, each publish to all 100",
        measure="deliveries/s",
        must_ratio=1.5,
        goal_ratio=4,
    )
    return _compared(row, bench.turns(**LOADS["fan-out-channels"]), _rate)


def fan_out_one_channel(bench: Bench) -> Row:
    """Every publish names one of the hundred: nothing to put together, hence one send each."""
    row = Row(
        title="the same, each publish to one of the 100 in turn",
        measure="deliveries/s",
        note="reported: 64 events on 64 channels leave nothing to join",
    )
    pairs = bench.turns(REPORT_ROUNDS, **LOADS["fan-out-one-channel"])
    return _compared(row, pairs, _rate)


# -- Requests, client events, connections ------------------------------------------------------


def posts_1(bench: Bench) -> Row:
    """A publisher whose event reaches one subscriber."""
    row = Row(
        title="signed POST /events, one subscriber, 1 in flight",
        measure="requests/s",
        must_ratio=0.5,
        goal_ratio=0.7,
    )
    return _compared(row, bench.turns(**LOADS["posts-1"]), _requests, "answer")


def posts_32(bench: Bench) -> Row:
    """Thirty-two of them."""
    row = Row(
        title="the same, 32 in flight",
        measure="requests/s",
        must_ratio=0.35,
        goal_ratio=0.5,
    )
    return _compared(row, bench.turns(**LOADS["posts-32"]), _requests, "answer")


def batches(bench: Bench) -> Row:
    """Ten events a request, compared with one a request."""
    row = Row(
        title="POST /batch_events of 10, 8 in flight",
        measure="events/s, beside single ones",
        goal_ratio=3,
        note="reported",
    )
    tens = LOADS["batches"]
    pairs = [
        (bench.run(bench.server, **tens), bench.run(bench.server, **{**tens, "batch": 1}))
        for _ in range(min(bench.rounds, REPORT_ROUNDS))
    ]
    row = _compared(row, [*pairs], _rate, "answer")
    row.baseline = "single: " + row.baseline
    return row


def client_events(bench: Bench) -> Row:
    """Fifty pairs that answer each other through private channels."""
    row = Row(
        title="client events, 50 pairs answering each other, private",
        measure="events/s",
        must_ratio=0.45,
        goal_ratio=0.6,
    )
    pairs = bench.turns(**LOADS["client-events"])
    return _compared(row, pairs, _rate)


def connecting_public(bench: Bench) -> Row:
    """Clients that connect and subscribe, 64 at a time."""
    return _connecting(bench, "public", "connecting-public", 0.6, 0.85)


def connecting_private(bench: Bench) -> Row:
    """The same with a signature each."""
    return _connecting(bench, "private with signature", "connecting-private", 0.5, 0.75)


def _connecting(bench: Bench, kind: str, name: str, must: float, goal: float) -> Row:
    row = Row(
        title=f"connect + subscribe, {bench.clients:,} clients, {kind}",
        measure="clients/s",
        must_ratio=must,
        goal_ratio=goal,
    )
    pairs = bench.turns(**{**LOADS[name], "subscribers": bench.clients})
    return _compared(row, pairs, _rate, "answer")


# -- Memory, presence, company -------------------------------------------------------------------


def _needs_ours(bench: Bench, row: Row) -> bool:
    if not bench.ours:
        row.note = "not measured: takes a look into the server's process"
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


LARGE_IS_MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""In glibc: what is larger is given back when it is freed, and never comes out of the heap."""


def idle_bytes_a_client(load: Sequence[str], build: Build, clients: int, channels: int) -> float:
    """
    Return the memory that each of *clients* idle ones costs a server of its own.

    A server that needs a megabyte less at its start, or frees one less, is neither better nor
    worse for it: so others are connected before, and tables of thousands of clients are mapped,
    rather than made in whatever part of the heap the start left free.
    """
    with tools.heliograph(build=build, variables=LARGE_IS_MAPPED) as target:
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
    row = Row(
        title=f"TLS in process, {clients:,} idle clients", measure="bytes a client", note="reported"
    )
    if _needs_ours(bench, row):
        try:
            row.server = f"{tls_bytes_a_client(clients, bench.build):,.0f}"
        except BenchError as error:
            row.note = str(error)
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
    row.server = f"{_rounded(found.rate)}; {encodings:.2f} encodings, {writes:.1f} writes a join"
    row.p50_ms = (found.figures["answer_p50_ms"], None)
    row.p99_ms = (found.figures["answer_p99_ms"], None)
    row.met = encodings <= 1 and (mode != "burst" or writes <= MOST_BURST_WRITES)
    return row


def joining(
    load: Sequence[str], build: Build, mode: str, members: int
) -> tuple[Load, float, float]:
    """Have *members* join one channel; return what the load found, encodings and writes a join."""
    found, counters = counted_presence(load, mode, members, build)
    # Each had connected, which is one write.
    return found, counters["encodings"] / members, counters["system_calls"] / members - 1


def company(bench: Bench) -> Row:
    """A small channel's latency while a large one is busy, beside the same without it."""
    row = Row(
        title=f"small channel beside one of {bench.clients:,} with 5 events/s",
        measure="p99 of deliveries, ms more than without",
        must="≤ 15 ms more",
        goal="≤ 5 ms more",
    )
    small = LOADS["company"]
    alone, beside = [], []
    for _ in range(min(bench.rounds, COMPANY_ROUNDS)):
        alone.append(bench.run(bench.server, **small))
        with large_channel(bench.load, bench.server, bench.clients, bench.round_s):
            beside.append(bench.run(bench.server, **small))
    name = "delivery_p99_ms"
    without = _median([load.figures[name] for load in alone])
    within = _median([load.figures[name] for load in beside])
    row.server, row.baseline = f"{within - without:.1f} ms more", f"alone: {without:.1f} ms"
    row.p50_ms = (_median([load.figures["delivery_p50_ms"] for load in beside]), None)
    row.p99_ms = (within, None)
    row.met, row.reached = within - without <= 15, within - without <= 5
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
    row = Row(
        title="fan-out of 10 KB, 200 subscribers, 4 in flight",
        measure="deliveries/s",
        note="reported",
    )
    options = LOADS["large-payloads"]
    rounds = range(min(bench.rounds, REPORT_ROUNDS))
    if bench.baseline is None:
        return _compared(row, [(bench.run(bench.server, **options), None) for _ in rounds], _rate)
    with tools.baseline(10_000) as plain:
        pairs: list[tuple[Load, Load | None]] = [
            (bench.run(bench.server, **options), bench.run(plain, **options)) for _ in rounds
        ]
    return _with_bytes(_compared(row, pairs, _rate), pairs)


def compressed_payloads(bench: Bench) -> Row:
    """One kilobyte an event, compressed; compared with the same that is not."""
    row = Row(
        title="fan-out of 1 KB with permessage-deflate, 1,000 subscribers, 4 in flight",
        measure="deliveries/s, beside no compression",
        note="reported",
    )
    options = LOADS["compressed-payloads"]
    if not _needs_ours(bench, row):
        return row
    with tools.heliograph(DEFLATE_FLAG, build=bench.build) as target:
        pairs: list[tuple[Load, Load | None]] = [
            (bench.run(target, **options), bench.run(target, **{**options, "deflate": 0}))
            for _ in range(min(bench.rounds, REPORT_ROUNDS))
        ]
    row = _with_bytes(_compared(row, pairs, _rate), pairs)
    row.baseline = "plain: " + row.baseline
    return row


def _with_bytes(row: Row, pairs: Sequence[tuple[Load, Load | None]]) -> Row:
    each = [server.figures["bytes"] / max(server.figures["deliveries"], 1) for server, _ in pairs]
    row.note = f"reported; {_median(each):,.0f} bytes on the wire a delivery"
    return row


WORKLOADS: dict[str, Workload] = {
    "fan-out-1": fan_out_1,
    "fan-out-paced": fan_out_paced,
    "fan-out-4": fan_out_4,
    "fan-out-128": fan_out_128,
    "fan-out-excluding": fan_out_excluding,
    "fan-out-channels": fan_out_channels,
    "fan-out-one-channel": fan_out_one_channel,
    "posts-1": posts_1,
    "posts-32": posts_32,
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
}
