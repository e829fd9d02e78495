"""
One cell of the table: a server, an attacker, and a bystander that waits.

Knows processes, cores and files; knows nothing of what an attack is made of, nor of bounds.
"""

import contextlib
import json
import math
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import tools
from bench.fairness.attacks import KEPT_BYTES, KEPT_CHANNEL, KEPT_EVENTS, Attack
from bench.messages import message
from bench.resuming import publish, publish_request
from bench.tls import make_certificate
from bench.tools import APP, KEY, SECRET, BenchError

INTERVAL_US = 5_000
"""Between two messages of the bystander: a ping and a request, each a hundred times a second."""

MAX_LATE_MS = 10.0
"""A bystander that was late by more has measured itself."""

FRESH_MS = 200
"""Between two new connections of the bystander."""

GRACE_S = 20.0
"""How long answers are waited for when the attack is over."""

ATTACK_START_S = 16.0
"""In which an attacker must be connected; attack.c gives up by itself a little earlier."""

RECOVERY_TIMEOUT_S = 30.0
RECOVERED_ANSWERS, RECOVERED_S, RECOVERED_SHARE = 5, 0.02, 0.3
PROOF_TIMEOUT_S = 5.0


@cache
def program(name: str) -> str:
    """Compile one of the C programs, once for all cells. Raises BenchError."""
    return str(tools.build(name))


# -- Arithmetic ------------------------------------------------------------------------------------


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest of *values* that *share* of them do not exceed (the nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True, slots=True)
class Times:
    """How long the answers of a kind took."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    count: int

    @classmethod
    def of(cls, microseconds: Sequence[float]) -> "Times | None":
        """Sum up *microseconds*; None where there are none."""
        if not microseconds:
            return None
        p50, p99, most = (quantile(microseconds, share) / 1e3 for share in (0.5, 0.99, 1.0))
        return cls(p50, p99, most, len(microseconds))


# -- The server ------------------------------------------------------------------------------------


class ServerEnded(BenchError):
    """The server under attack has ended."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server under attack. *bystander* is the address that a harmless client uses."""

    process: subprocess.Popen[bytes]
    port: int
    bystander: str
    clients: "Holders | None" = None
    """Others that have to stay connected."""

    kept_since: float = 0.0
    """The time (seconds since 1970) before the first kept event."""

    def processor(self) -> "Processor":
        """Return what it has had of its core. Raises ServerEnded."""
        if self.process.poll() is not None:
            raise ServerEnded(f"the server has ended with status {self.process.returncode}")
        return Processor.of(self.process.pid)


@dataclass(frozen=True, slots=True)
class Processor:
    """Seconds since a process began."""

    used_s: float
    starved_s: float  # it could have run, but others had the core

    @classmethod
    def of(cls, pid: int) -> "Processor":
        """Sum up what the threads of a process have had. Raises BenchError."""
        used = starved = 0
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                times = (task / "schedstat").read_text().split()
                used += int(times[0])
                starved += int(times[1])
        except OSError:
            raise BenchError(f"the times of process {pid} cannot be read") from None
        return cls(used / 1e9, starved / 1e9)


@contextlib.contextmanager
def heliograph(
    flags: Mapping[str, str], folder: Path, *, tls: bool = False, interpreted: bool = False
) -> Iterator[Server]:
    """
    Run Heliograph as a user does: the options are the defaults, but for *flags*.

    With *tls* its port speaks TLS only, and a bystander uses its Unix socket. Raises BenchError.
    """
    build, port = tools.tree(interpreted=interpreted), tools.free_port()
    options = {"host": "127.0.0.1", "port": str(port), "log_level": "warning", **flags}
    options |= {"pusher_app_id": APP, "pusher_app_key": KEY, "pusher_secret": SECRET}
    bystander = f"127.0.0.1:{port}"
    if tls:
        bystander = str(folder / "server.sock")
        options |= {"unix_socket": bystander, **certificate(folder)}
    command = [build.python, "-m", "heliograph"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with tools.running(command, port, build.environment) as process:
        yield Server(process, port, bystander)


@contextlib.contextmanager
def baseline() -> Iterator[Server]:
    """Run the plainest server. Raises BenchError."""
    port = tools.free_port()
    command = [program("baseline"), str(port), "100"]
    with tools.running(command, port) as process:
        yield Server(process, port, f"127.0.0.1:{port}")


def certificate(folder: Path) -> dict[str, str]:
    """
    Make a certificate that signed itself; return the server's options for it. Raises BenchError.

    The key is RSA's: what the server pays for a handshake is most with it.
    """
    crt, key = folder / "certificate.pem", folder / "key.pem"
    if not crt.exists():
        make_certificate(crt, key)
    return {"ssl_cert": str(crt), "ssl_key": str(key)}


def recovered(server: Server) -> bool:
    """Wait until *server* answers as one with nothing to do; False where it does not in time."""
    given_up, good = time.monotonic() + RECOVERY_TIMEOUT_S, 0
    while time.monotonic() < given_up:
        began, before = time.monotonic(), server.processor()
        answered = _is_up(server.bystander)
        took = time.monotonic() - began
        time.sleep(0.05)
        share = (server.processor().used_s - before.used_s) / (time.monotonic() - began)
        good = good + 1 if answered and took < RECOVERED_S and share < RECOVERED_SHARE else 0
        if good == RECOVERED_ANSWERS:
            return True
    return False


def _is_up(address: str) -> bool:
    try:
        with dial(address, 1.0) as connection:
            connection.sendall(b"GET /up HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return connection.recv(1024).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def dial(address: str, timeout_s: float) -> socket.socket:
    """Connect to HOST:PORT, or to a Unix socket. Raises OSError."""
    if not address.startswith("/"):
        host, _, port = address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


# -- The bystander ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waits:
    """What a bystander found: microseconds of each answer, in the order of the messages."""

    ping: Sequence[float]
    up: Sequence[float]
    fresh: Sequence[float]  # `GET /up` over a connection of its own, from connect() on
    unanswered: int
    fresh_failed: int
    late: float  # microseconds by which it was itself late, at most
    closed: str  # why it lost a connection; empty where it lost none

    def pings(self) -> Sequence[float]:
        """Return the microseconds of all pings. Raises BenchError if they are no measure."""
        if self.closed or self.unanswered or not self.ping:
            raise BenchError(f"the bystander was not served: {self.closed or 'no answer'}")
        if self.late / 1e3 > MAX_LATE_MS:
            raise BenchError(f"the bystander itself was late by {self.late / 1e3:.0f} ms")
        return self.ping


class Bystander:
    """
    A client of the server at *address* that does no harm, in a process of its own: see bystander.c.

    As a context manager it connects; it measures from `begin` to `end`.
    """

    def __init__(self, address: str, *, websocket: bool = True, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._command = [
            program("bystander"),
            *(f"address={address}", f"key={KEY}", f"websocket={int(websocket)}"),
            *(f"interval={INTERVAL_US}", f"fresh={FRESH_MS}", f"grace={grace_s}"),
        ]
        self._process: subprocess.Popen[str]
        self._running: contextlib.ExitStack
        self.prior = False
        """Whether it has priority over the attacker that is on the same core."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as running:
            self._process = running.enter_context(tools.loading(self._command, subprocess.PIPE))
            with contextlib.suppress(PermissionError):
                priority = os.sched_param(1)
                os.sched_setscheduler(self._process.pid, os.SCHED_FIFO, priority)
                self.prior = True
            if self._process.stdout is None or not self._process.stdout.readline():
                _, output = self._process.communicate()
                raise BenchError(f"the bystander did not connect: {output.strip()}")
            self._running = running.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.close()

    def begin(self) -> None:
        """Have it measure from now on."""
        if self._process.stdin is None:
            raise AssertionError("it was started with a pipe")
        self._process.stdin.write("begin\n")
        self._process.stdin.flush()

    def end(self) -> Waits:
        """Return what it found, once all is answered or given up. Raises BenchError."""
        try:
            printed, output = self._process.communicate("end\n", self._grace_s + 10)
        except subprocess.TimeoutExpired:
            raise BenchError("the bystander did not end") from None
        if self._process.returncode:
            raise BenchError(f"the bystander failed: {output.strip()}")
        return Waits(**json.loads(printed))


# -- The attacker ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """What an attacker did: see report() in attack.c."""

    seconds: float
    attacked: float  # seconds since the first of its connections was ready
    waited: float  # of those, how many it had nothing to do
    cpu: float
    connections: int  # the most that were ready at a time
    opened: int
    refused: int
    cut_off: int
    sent: int
    received: int
    unread: int  # of what was sent, what the server had not read at the end
    rounds: int

    def rate(self, attack: Attack) -> float:
        """Return how many units a second the server read."""
        if not self.attacked:
            return 0.0
        if attack.mode == "return":
            return self.rounds / self.attacked
        block, units = attack.block()
        return self.read / self.attacked * units / len(block)

    @property
    def read(self) -> int:
        """Bytes that the server has read."""
        return max(0, self.sent - self.unread)


def attack_command(
    attack: Attack, port: int, folder: Path, options: Mapping[str, Any]
) -> list[str]:
    """Return the command line of attack.c for *attack*, whose bytes are put into *folder*."""
    block = folder / "block"
    block.write_bytes(attack.block()[0])
    named: dict[str, Any] = {
        "port": port,
        "block": block,
        "mode": attack.mode,
        "greeting": attack.greeting,
        "answer": attack.answer,
        "read": int(attack.read),
        "together": int(attack.together),
        "numbered": int(attack.numbered),
        "pause": attack.pause_us,
        "cut": len(attack.units[0]),
        "times": attack.times,
    }
    if attack.opening:
        named["opening"] = folder / "opening"
        named["opening"].write_bytes(attack.opening)
    named |= options
    return [program("attack"), *(f"{name}={value}" for name, value in named.items())]


def run_attack(attack: Attack, server: Server, connections: int, seconds: float) -> Attacked:
    """Attack *server* from the load's core, and return when that is over. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="fairness-") as name:
        folder = Path(name)
        options = {"connections": connections, "seconds": seconds}
        command = attack_command(attack, server.port, folder, options)
        if attack.encrypted:
            command = [sys.executable, "-m", "bench.fairness.tls_flood"]
            command += [str(server.port), str(connections), str(seconds), str(folder / "block")]
        with tools.loading(command) as process:
            try:
                printed, output = process.communicate(timeout=seconds + 2 * ATTACK_START_S)
            except subprocess.TimeoutExpired:
                raise BenchError("the attacker did not end") from None
    if process.returncode:
        raise BenchError(f"the attacker failed: {output.strip()[-300:]}")
    return Attacked(**json.loads(printed))


@dataclass(frozen=True, slots=True)
class Holders:
    """Clients that keep channels occupied, in a process of their own."""

    process: subprocess.Popen[str]

    def ended(self) -> str:
        """Return why they are connected no more; empty where they are."""
        if self.process.poll() is None:
            return ""
        output = self.process.stderr.read() if self.process.stderr is not None else ""
        return f"the clients that occupy channels have ended: {output.strip()}"


@contextlib.contextmanager
def holding(attack: Attack, server: Server, connections: int) -> Iterator[Holders]:
    """Have clients connected that do what *attack* says once, and stay. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="fairness-") as name:
        folder = Path(name)
        alive = folder / "alive"
        alive.write_bytes(message("pusher:ping"))
        options = {"connections": connections, "mode": "hold", "alive": alive}
        command = attack_command(attack, server.port, folder, options)
        with tools.loading(command, subprocess.PIPE) as process:
            if process.stdout is None or not process.stdout.readline():
                process.wait()
                raise BenchError(Holders(process).ended())
            yield Holders(process)
            process.communicate()  # the end of its input asks it to close its connections


def keep_events(server: Server) -> Server:
    """Publish the events of KEPT_CHANNEL; return *server* with the time before them."""
    since = time.time()
    data = "x" * KEPT_BYTES
    publish(server.port, (publish_request([KEPT_CHANNEL], data) for _ in range(KEPT_EVENTS)))
    return replace(server, kept_since=since)


def prove(attack: Attack, server: Server) -> None:
    """Insist that the server answers the first unit as it should. Raises BenchError."""
    with contextlib.ExitStack() as stack:
        try:
            connection = stack.enter_context(dial(f"127.0.0.1:{server.port}", PROOF_TIMEOUT_S))
            if attack.encrypted:
                connection = stack.enter_context(_unverified().wrap_socket(connection))
            connection.sendall(attack.opening)
            _await(connection, attack.greeting.encode())
            connection.sendall(attack.units[0])
            _await(connection, attack.proof)
        except OSError as error:
            raise BenchError(f"the server does not take part in the attack: {error}") from None


def _await(connection: socket.socket, text: bytes) -> None:
    received = bytearray()
    with contextlib.suppress(TimeoutError):
        while text not in received and (part := connection.recv(1 << 16)):
            received += part
    if text not in received:
        raise BenchError(f"the server answers the attack with {bytes(received[:200])!r}")


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# -- A cell ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one attack did to a bystander."""

    waits: Waits
    attacked: Attacked | None
    busy: float  # the share of its core that the server used
    starved: float  # the share of the time in which it could not run, as others had its core
    prior: bool
    disturbed: str = ""  # why this was not the attack that it should have been
    ping: Times | None = field(init=False)
    up: Times | None = field(init=False)
    fresh: Times | None = field(init=False)

    def __post_init__(self) -> None:
        for name in ("ping", "up", "fresh"):
            object.__setattr__(self, name, Times.of(getattr(self.waits, name)))


def measure(
    server: Server,
    attack: Attack | None,
    connections: int,
    seconds: float,
    *,
    websocket: bool = True,
) -> Cell:
    """Let a bystander wait beside *attack*, or beside nothing. Raises BenchError."""
    with Bystander(server.bystander, websocket=websocket) as bystander:
        bystander.begin()
        began, before = time.monotonic(), server.processor()
        attacked = None
        if attack is None:
            time.sleep(seconds)
        else:
            attacked = run_attack(attack, server, connections, seconds)
        took, after = time.monotonic() - began, server.processor()
        return Cell(
            waits=bystander.end(),
            attacked=attacked,
            busy=(after.used_s - before.used_s) / took,
            starved=(after.starved_s - before.starved_s) / took,
            prior=bystander.prior,
            disturbed=server.clients.ended() if server.clients is not None else "",
        )
