"""
How a measure grows with the number of clients: lines through points, and what they lead to.

Arithmetic only: knows neither processes nor files.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.fairness.measure import Times
from bench.scale.measure import Cell

Points = Sequence[tuple[float, float]]


def slope(points: Points) -> float:
    """Return how much y grows for each x: the line with the least squares."""
    xs, ys = zip(*points, strict=True)
    return statistics.linear_regression(xs, ys).slope


def exponent(points: Points) -> float | None:
    """
    Return e of y = c * x ** e: 1 where y is proportional to x; None where there is no such e.

    More than 1 is growth faster than linear.
    """
    if any(x <= 0 or y <= 0 for x, y in points):
        return None
    return slope([(math.log(x), math.log(y)) for x, y in points])


# -- Rounds ------------------------------------------------------------------------------------


DISTURBED = 0.05
"""A round in which others had the server's core for a larger share of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    One number of clients: medians of the rounds, and a bystander's times of all of them.

    Times are those of *rounds* that were not disturbed, or else of the least disturbed one.
    """

    clients: int
    rounds: int
    start_bytes: float  # of the process, before its first client
    server_bytes: float
    kernel_bytes: float  # of one end of each connection
    connect_s: float
    broadcast_s: float
    slowest_broadcast_s: float
    alone: Times
    beside: Times
    drain_s: float
    last_closed_s: float
    drain_cpu_s: float
    starved: float  # at most


def step(cells: Sequence[Cell]) -> Step:
    """Return what the rounds with one number of clients amount to."""
    calm = [cell for cell in cells if cell.starved <= DISTURBED]
    timed = calm or [min(cells, key=lambda cell: cell.starved)]

    def median(value: Callable[[Cell], float], of: Sequence[Cell] = timed) -> float:
        return statistics.median(map(value, of))

    return Step(
        clients=cells[0].clients,
        rounds=len(timed),
        start_bytes=median(lambda cell: cell.start_bytes, cells),
        server_bytes=median(lambda cell: cell.server_bytes, cells),
        kernel_bytes=median(lambda cell: cell.kernel.bytes / 2, cells),
        connect_s=median(lambda cell: cell.connect_s),
        broadcast_s=median(lambda cell: statistics.median(cell.broadcasts_s)),
        slowest_broadcast_s=max(max(cell.broadcasts_s) for cell in timed),
        alone=_times(cell.alone_us for cell in timed),
        beside=_times(cell.beside_us for cell in timed),
        drain_s=median(lambda cell: cell.drain_s),
        last_closed_s=median(lambda cell: cell.last_closed_s),
        drain_cpu_s=median(lambda cell: cell.drain_cpu_s),
        starved=max(cell.starved for cell in timed),
    )


def _times(rounds: Iterable[Sequence[float]]) -> Times:
    times = Times.of([one for found in rounds for one in found])
    if times is None:
        raise AssertionError("a bystander without answers is no cell")
    return times


# -- Measures ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of a step, in a unit for one client more."""

    name: str
    unit: str
    scale: float
    of: Callable[[Step], float]

    def points(self, steps: Sequence[Step]) -> Points:
        """Return the measure over the number of clients."""
        return [(step.clients, self.of(step)) for step in steps]


SERVER_MEMORY = Measure("memory of the server", "bytes", 1, lambda step: step.server_bytes)
KERNEL_MEMORY = Measure("memory of the kernel", "bytes", 1, lambda step: step.kernel_bytes)
CONNECT = Measure("time to connect", "µs", 1e6, lambda step: step.connect_s)
BROADCAST = Measure("time of a broadcast", "µs", 1e6, lambda step: step.broadcast_s)
BYSTANDER = Measure("p99 of a bystander's ping", "µs", 1e3, lambda step: step.beside.p99_ms)
DRAIN = Measure("CPU time to drain", "µs", 1e6, lambda step: step.drain_cpu_s)

MEASURES = (SERVER_MEMORY, KERNEL_MEMORY, CONNECT, BROADCAST, BYSTANDER, DRAIN)


# -- Many more clients -------------------------------------------------------------------------

RESERVE = 100
"""Descriptors of a process that are not its clients'."""


def processes(clients: int, limit: int) -> int:
    """Return how many processes *clients* need, of *limit* descriptors each."""
    return math.ceil(clients / (limit - RESERVE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What *clients* would take, by the slopes of what was measured."""

    clients: int
    processes: int
    server_bytes: float  # of all processes
    kernel_bytes: float  # of the servers' ends of the connections
    connect_s: float  # in one process after the other
    broadcast_s: float  # the same


def outlook(steps: Sequence[Step], clients: int, processes: int) -> Outlook:
    """Return what *clients* would take in *processes*."""

    def more(measure: Measure) -> float:
        return slope(measure.points(steps)) * clients

    start = statistics.median(step.start_bytes for step in steps)
    return Outlook(
        clients=clients,
        processes=processes,
        server_bytes=more(SERVER_MEMORY) + processes * start,
        kernel_bytes=more(KERNEL_MEMORY),
        connect_s=more(CONNECT),
        broadcast_s=more(BROADCAST),
    )
