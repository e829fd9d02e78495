"""
One round with one number of clients: a server of its own, from its start to its end.

Knows processes and files; knows nothing of what rounds amount to.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench import tools
from bench.fairness import measure as fairness
from bench.fairness.measure import Bystander, Processor, Server
from bench.messages import request
from bench.scale import kernel
from bench.scale.kernel import Growth
from bench.tools import APP, KEY, SERVER_BUSY, BenchError

CHANNELS_EACH = 100
"""Of one publish: as many as Pusher's API allows."""

CLIENTS_PER_ADDRESS = 10_000
"""How many clients have one address: see crowd.c."""

MIN_EMPTY_POLLS = 0.05
"""With fewer, the clients had no time to spare."""

PAYLOAD = "x" * 100
DRAIN_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Layout:
    """How clients share channels."""

    name: str
    title: str
    own_channels: bool

    def channels(self, clients: int) -> int:
        """Return how many channels *clients* have."""
        return clients if self.own_channels else 1


LAYOUTS = (
    Layout("one", "all in one channel", own_channels=False),
    Layout("each", "a channel each", own_channels=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one round found."""

    clients: int
    start_bytes: int  # resident memory of the server, before its first client
    server_bytes: int  # what the clients added to it
    kernel: Growth
    connect_s: float
    broadcasts_s: Sequence[float]
    requests: int  # of one broadcast
    alone_us: Sequence[float]  # of a bystander's pings
    beside_us: Sequence[float]  # the same, while broadcasts follow one another
    busy: float  # the share of its core that the server used for broadcasts
    starved: float  # the share of the time in which it could have run, but others had its core
    empty_polls: float  # of the clients during broadcasts
    drain_s: float  # from SIGTERM until the process has ended
    last_closed_s: float  # from SIGTERM until the last client is disconnected
    drain_cpu_s: float  # what the server computed in that time


class Crowd:
    """Clients in a process of their own: see crowd.c."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def running(cls, port: int, clients: int, channels: int, requests: Path) -> Iterator[Self]:
        """Run them until the block ends."""
        command = [
            fairness.program("crowd"),
            *(f"port={port}", f"key={KEY}", f"clients={clients}", f"channels={channels}"),
            *(f"requests={requests}", f"per_address={CLIENTS_PER_ADDRESS}"),
        ]
        with tools.loading(command, subprocess.PIPE) as process:
            yield cls(process)

    def begin(self, command: str) -> None:
        """Have the clients do something. Raises BenchError where they are gone."""
        if self._process.stdin is None:
            raise AssertionError("it was started with a pipe")
        try:
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failed() from None

    def result(self) -> Mapping[str, Any]:
        """Return what came of it. Raises BenchError."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise self._failed()
        found: Mapping[str, Any] = json.loads(line)
        return found

    def ask(self, command: str) -> Mapping[str, Any]:
        """Have the clients do something, and return what came of it. Raises BenchError."""
        self.begin(command)
        return self.result()

    def _failed(self) -> BenchError:
        with contextlib.suppress(OSError):  # the rest of a command that it cannot read any more
            if self._process.stdin is not None:
                self._process.stdin.close()
        output = self._process.stderr.read() if self._process.stderr is not None else ""
        return BenchError(f"the clients failed: {output.strip()}")


def publishes(layout: Layout, clients: int) -> list[bytes]:
    """Return the requests that reach every client once."""
    names = [f"scale-{number}" for number in range(layout.channels(clients))]
    requests = []
    for first in range(0, len(names), CHANNELS_EACH):
        part = names[first : first + CHANNELS_EACH]
        body = {"name": "scale-event", "channels": part, "data": PAYLOAD}
        requests.append(request("POST", f"/apps/{APP}/events", json.dumps(body).encode()))
    return requests


def write_requests(path: Path, requests: Sequence[bytes]) -> None:
    """Write *requests* as crowd.c reads them."""
    path.write_bytes(b"".join(b"%d\n%b" % (len(one), one) for one in requests))


@dataclass(slots=True)
class Observed:
    """Microseconds of each of a bystander's pings; known when the block has ended."""

    pings_us: Sequence[float] = ()


@contextlib.contextmanager
def observed(server: Server) -> Iterator[Observed]:
    """Have a bystander send pings while the block runs. Raises BenchError."""
    found = Observed()
    with Bystander(server.bystander) as bystander:
        bystander.begin()
        yield found
        found.pings_us = bystander.end().pings()


def measure(layout: Layout, clients: int, seconds: float, *, interpreted: bool = False) -> Cell:
    """Measure *clients* in *layout* once, with broadcasts for *seconds*. Raises BenchError."""
    requests = publishes(layout, clients)
    with tempfile.TemporaryDirectory(prefix="scale-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        file = folder / "requests"
        write_requests(file, requests)
        # No option is set: all are the defaults.
        server = stack.enter_context(fairness.heliograph({}, folder, interpreted=interpreted))
        crowd = stack.enter_context(
            Crowd.running(server.port, clients, layout.channels(clients), file)
        )
        pid = server.process.pid
        start_bytes, before, at_start = tools.at_rest(pid), kernel.read(), server.processor()
        connect_s = crowd.ask("connect")["seconds"]
        full_bytes, after = tools.at_rest(pid), kernel.read()
        with observed(server) as alone:
            time.sleep(seconds)
        crowd.ask("broadcast 0")  # a single one, for what is made once
        with observed(server) as beside:
            began, used = time.monotonic(), server.processor()
            broadcasts = crowd.ask(f"broadcast {seconds}")
            took, now_used = time.monotonic() - began, server.processor()
        busy = (now_used.used_s - used.used_s) / took
        starved_s = now_used.starved_s - at_start.starved_s
        if broadcasts["empty_polls"] < MIN_EMPTY_POLLS and busy < SERVER_BUSY:
            raise BenchError(
                f"the clients are the bottleneck: {broadcasts['empty_polls']:.1%} of their polls"
                f" came back empty, and the server used {busy:.0%} of its core"
            )
        drain_s, last_closed_s, drain_cpu_s = _drain(server, crowd)
        return Cell(
            clients=clients,
            start_bytes=start_bytes,
            server_bytes=full_bytes - start_bytes,
            kernel=kernel.grown(before, after, clients),
            connect_s=connect_s,
            broadcasts_s=[one / 1e3 for one in broadcasts["times_ms"]],
            requests=len(requests),
            alone_us=alone.pings_us,
            beside_us=beside.pings_us,
            busy=busy,
            starved=starved_s / (starved_s + now_used.used_s - at_start.used_s),
            empty_polls=broadcasts["empty_polls"],
            drain_s=drain_s,
            last_closed_s=last_closed_s,
            drain_cpu_s=drain_cpu_s,
        )


def _drain(server: Server, crowd: Crowd) -> tuple[float, float, float]:
    """
    End *server*; return how long that took, when its last client was closed, and what it computed.

    Raises BenchError.
    """
    process = server.process
    crowd.ask("drain")  # it answers when it is ready, and again when all are closed
    used, began = server.processor().used_s, time.monotonic()
    descriptor = os.pidfd_open(process.pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        process.send_signal(signal.SIGTERM)
        if not ended.poll(DRAIN_TIMEOUT_S * 1e3):
            raise BenchError(f"the server has not ended after {DRAIN_TIMEOUT_S:.0f} s")
    finally:
        os.close(descriptor)
    took = time.monotonic() - began
    # The process has ended, and /proc has its times until it is waited for.
    computed = Processor.of(process.pid).used_s - used
    if status := process.wait():
        raise BenchError(f"the server has ended with status {status}")
    return took, crowd.result()["last_s"], computed
