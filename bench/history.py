"""
What the history of channels costs: publishes, resuming clients, slow readers, memory.

Each function measures a server of its own, of the build that it is given.
"""

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import tools
from bench.fairness.measure import Bystander
from bench.resuming import channel_name, publish, publish_request
from bench.tools import BenchError, Build, Target

FLAG = "--broker=memory"
"""Has every channel keep its events; an older build does not know it."""

STORM_CLIENTS, STORM_CHANNELS, MISSED, STORM_PAYLOAD = 5_000, 50, 20, 100
SLOW_CLIENTS, SLOW_EVENTS, SLOW_PAYLOAD, SLOW_RATE = 20, 100, 60_000, 200_000
FEW_SLOW_EVENTS = 15
"""For a trial, and for comparisons: more than the kernel keeps, which is read at once."""

SLOW_FLAGS = (FLAG, f"--max_event_bytes={SLOW_PAYLOAD}")
SAMPLE_S = 0.1

EVENTS, CHANNELS_OF_EVENTS, EVENT_PAYLOAD = 100_000, 10, 100
CHANNELS, CHANNELS_EACH, BATCH = 100_000, 100, 10
"""Channels with one event each; *each* are named by one publish."""

WARM_UP_SHARE = 0.2
MEMORY_FLAGS = (FLAG, "--metrics", "--history_limit=10000", "--history_ttl=3600")
MOST_KEPT_BYTES = 1 << 30


@contextlib.contextmanager
def resuming(mode: str, target: Target, **options: int) -> Iterator[subprocess.Popen[str]]:
    """Run the clients of bench.resuming until they are ready to connect. Raises BenchError."""
    command = [sys.executable, "-m", "bench.resuming", mode, f"port={target.port}"]
    command += [f"{name}={value}" for name, value in options.items()]
    with tools.loading(command, subprocess.PIPE) as process:
        if process.stdout is None or not process.stdout.readline():
            _, output = process.communicate()
            raise BenchError(f"no events were kept for the clients: {output.strip()[-300:]}")
        yield process


def _begin(process: subprocess.Popen[str]) -> None:
    if process.stdin is None:
        raise AssertionError("it was started with a pipe")
    process.stdin.write("begin\n")
    process.stdin.flush()


def _found(process: subprocess.Popen[str]) -> dict[str, float]:
    """Return what the clients print when all of them are live. Raises BenchError."""
    printed = process.stdout.readline() if process.stdout is not None else ""
    if not printed:
        _, output = process.communicate()
        raise BenchError(f"the clients failed: {output.strip()[-300:]}")
    found: dict[str, float] = json.loads(printed)
    return found


# -- A storm ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Storm:
    """How long it took until all clients were live, and what a bystander saw meanwhile."""

    seconds: float
    load_busy: float
    server_busy: float
    pings_us: Sequence[float]

    @property
    def limited(self) -> bool:
        """Whether the clients were the bottleneck: busy all the time, and the server was not."""
        return self.load_busy >= tools.LOAD_BUSY and self.server_busy < tools.SERVER_BUSY


def storm(target: Target, clients: int) -> Storm:
    """Have *clients* come back at the same time, after each missed MISSED events."""
    if target.pid is None:
        raise AssertionError("it was started here")
    with (
        resuming(
            "storm",
            target,
            clients=clients,
            channels=min(STORM_CHANNELS, clients),
            events=MISSED,
            payload=STORM_PAYLOAD,
        ) as process,
        Bystander(f"{target.host}:{target.port}") as bystander,
    ):
        used = tools.processor_s(target.pid)
        bystander.begin()
        _begin(process)
        found = _found(process)
        busy = (tools.processor_s(target.pid) - used) / found["seconds"]
        waits = bystander.end()
        process.communicate()  # the end of its input asks it to close its connections
    time.sleep(tools.AFTERMATH_S)
    return Storm(found["seconds"], found["load_busy"], min(busy, 1.0), waits.pings())


# -- Slow readers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slow:
    """How long it took until slow readers were live, and the server's memory for each."""

    seconds: float
    bytes_each: float


def slow_readers(build: Build, events: int = SLOW_EVENTS) -> Slow:
    """Have clients read a history of *events* large events at SLOW_RATE bytes a second."""
    with (
        tools.heliograph(*SLOW_FLAGS, build=build) as target,
        resuming(
            "slow",
            target,
            clients=SLOW_CLIENTS,
            channels=1,
            events=events,
            payload=SLOW_PAYLOAD,
            rate=SLOW_RATE,
        ) as process,
    ):
        if target.pid is None:
            raise AssertionError("it was started here")
        before = most = tools.at_rest(target.pid)
        _begin(process)
        while process.poll() is None:
            most = max(most, tools.resident_bytes(target.pid))
            time.sleep(SAMPLE_S)
        return Slow(_found(process)["seconds"], (most - before) / SLOW_CLIENTS)


# -- Memory ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """The bytes of one of many kept things: as measured, and as --history_max_bytes counts it."""

    measured: float
    counted: float


def bytes_an_event(build: Build, events: int = EVENTS) -> Kept:
    """Return the memory of a small kept event, of which a channel has thousands."""
    each = max(events // CHANNELS_OF_EVENTS // BATCH, 1)

    def fill(first: int, share: float) -> Iterator[bytes]:
        for number in range(CHANNELS_OF_EVENTS):
            data = "x" * EVENT_PAYLOAD
            one = publish_request([channel_name(first + number)], data, BATCH)
            yield from [one] * max(round(each * share), 1)

    warm_up = list(fill(CHANNELS_OF_EVENTS, WARM_UP_SHARE))
    return _kept_bytes(build, warm_up, list(fill(0, 1)), each * CHANNELS_OF_EVENTS * BATCH)


def bytes_a_channel(build: Build, channels: int = CHANNELS) -> Kept:
    """Return the memory of a channel that keeps one small event."""
    each = min(CHANNELS_EACH, channels)
    count = channels // each

    def fill(first: int, requests: int) -> list[bytes]:
        begins = range(first, first + requests * each, each)
        return [
            publish_request([channel_name(begin + at) for at in range(each)], "x" * EVENT_PAYLOAD)
            for begin in begins
        ]

    warm_up = fill(channels, max(round(count * WARM_UP_SHARE), 1))
    return _kept_bytes(build, warm_up, fill(0, count), count * each)


def _kept_bytes(
    build: Build, warm_up: Sequence[bytes], requests: Sequence[bytes], count: int
) -> Kept:
    flags = (*MEMORY_FLAGS, f"--history_max_bytes={MOST_KEPT_BYTES}")
    variables = tools.LARGE_IS_MAPPED
    with tools.heliograph(*flags, build=build, variables=variables) as target:
        if target.pid is None:
            raise AssertionError("it was started here")
        publish(target.port, warm_up)
        before, counted = tools.at_rest(target.pid), _counted(target)
        publish(target.port, requests)
        after, counted_after = tools.at_rest(target.pid), _counted(target)
    return Kept((after - before) / count, (counted_after - counted) / count)


def _counted(target: Target) -> float:
    """Return the bytes of kept events as the server counts them. Raises BenchError."""
    url = f"http://{target.host}:{target.api_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith("heliograph_history_bytes{"):
                return float(value)
    raise BenchError("the server does not count the bytes of kept events")
