"""
The memory that a connection costs the server, by how far it has come.

    python -m bench.states [--only NAMES] [--clients 1000] [--interpreted] [--markdown FILE]

Each state is measured in a server of its own: some connections are brought into it first, for what
is paid once, and then as many more as were asked for. What counts is the resident memory of the
server's process. What the kernel keeps for a socket is in no process's memory and is not counted.
"""

import argparse
import contextlib
import select
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import report, tools
from bench.messages import client_hello, frame, message, request, upgrade
from bench.tls import make_certificate
from bench.tools import APP, KEY, BenchError, Target
from heliograph.net.descriptors import raise_descriptor_limit

CLIENTS = 1000
WARM_UP = 500
"""Enough to fill what the server has free from its start."""
MARKS = ("<!-- states -->\n", "<!-- /states -->")

PATIENCE_S = 10.0

PATIENT = ("--request_timeout", "600", "--keep_alive_timeout", "600", "--ping_interval", "600")
"""So that no connection leaves its state while it is measured."""

UPGRADE = upgrade()
HEALTH = b"GET /up HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF_A_HEAD = b"GET /up HTTP/1.1\r\nHost: localhost\r\nX-Filler: ".ljust(1024, b"x")


SUBSCRIBE = message("pusher:subscribe", {"channel": "channel"})
HALF_A_MESSAGE = frame(b"x" * 65536)[:-32768]


def half_a_body() -> bytes:
    """Return half of a publish whose signature is right; the body of another is not received."""
    return request("POST", f"/apps/{APP}/events", b"x" * 65536)[:-32768]


# -- How connections get there -----------------------------------------------------------------


@dataclass(frozen=True)
class Visit:
    """What it takes to visit one server: where it is, and whom to trust there."""

    target: Target
    context: ssl.SSLContext

    def connect(self) -> socket.socket:
        """Return a connection on which nothing was sent."""
        return socket.create_connection((self.target.host, self.target.port), timeout=PATIENCE_S)

    def secured(self) -> socket.socket:
        """Return a connection with TLS."""
        return self.context.wrap_socket(self.connect(), server_hostname="localhost")


Step = Callable[[Visit], socket.socket]


def sent(connection: socket.socket, words: bytes, answer: bytes = b"") -> socket.socket:
    """Send *words*, and wait until *answer* has come."""
    connection.sendall(words)
    received = b""
    while answer not in received:
        part = connection.recv(65536)
        if not part:
            raise BenchError(f"the server hung up: {received!r}")
        received += part
    return connection


@dataclass(frozen=True)
class State:
    """A state of a connection, what ends it, how to get there and with which options."""

    title: str
    ends: str
    step: Step
    tls: bool = False
    flags: Sequence[str] = ()
    lasts_s: float = 600.0
    quiet: bool = True  # the client has read all that the server sends while it lasts


ESTABLISHED = b"connection_established"
REQUEST, KEEP_ALIVE = "`--request_timeout`", "`--keep_alive_timeout`"
PONG = "`--ping_interval` and `--pong_timeout` of silence"

STATES = {
    "silent": State("accepted, nothing sent", REQUEST, Visit.connect),
    "proxy-silent": State(
        "accepted, PROXY header not sent", REQUEST, Visit.connect, flags=("--proxy_protocol",)
    ),
    "tls-silent": State("TLS: accepted, nothing sent", REQUEST, Visit.connect, tls=True),
    "tls-half": State(
        "TLS: handshake half done",
        REQUEST,
        lambda visit: sent(visit.connect(), client_hello(), b"\x16"),
        tls=True,
        quiet=False,
    ),
    "tls-idle": State(
        "TLS: idle keep-alive",
        KEEP_ALIVE,
        lambda visit: sent(visit.secured(), HEALTH, b"OK\n"),
        tls=True,
    ),
    "tls-websocket": State(
        "TLS: WebSocket, no subscription",
        PONG,
        lambda visit: sent(visit.secured(), UPGRADE, ESTABLISHED),
        tls=True,
    ),
    "head": State(
        "HTTP: 1 KB of a head sent", REQUEST, lambda visit: sent(visit.connect(), HALF_A_HEAD)
    ),
    "body": State(
        "HTTP: 32 KB of a body of 64 KB sent",
        REQUEST,
        lambda visit: sent(visit.connect(), half_a_body()),
    ),
    "idle": State(
        "HTTP: idle keep-alive", KEEP_ALIVE, lambda visit: sent(visit.connect(), HEALTH, b"OK\n")
    ),
    "websocket": State(
        "WebSocket, no subscription",
        PONG,
        lambda visit: sent(visit.connect(), UPGRADE, ESTABLISHED),
    ),
    "subscribed": State(
        "WebSocket, one subscription",
        PONG,
        lambda visit: sent(visit.connect(), UPGRADE + SUBSCRIBE, b"subscription_succeeded"),
    ),
    "message": State(
        "WebSocket, 32 KB of a message of 64 KB sent",
        REQUEST,
        lambda visit: sent(sent(visit.connect(), UPGRADE, ESTABLISHED), HALF_A_MESSAGE),
    ),
    "closing": State(
        "WebSocket, closed by the server, Close frame not answered",
        "5 s",
        lambda visit: sent(visit.connect(), UPGRADE.replace(KEY.encode(), b"none"), b"4001"),
        lasts_s=5.0,
        quiet=False,
    ),
}


# -- Measuring ---------------------------------------------------------------------------------


def bytes_a_connection(
    state: State, clients: int, *, warm_up: int = WARM_UP, interpreted: bool = False
) -> float:
    """
    Return the memory that each of *clients* costs in *state*, after *warm_up* others.

    Raises BenchError.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        make_certificate(certificate, key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(certificate)
        flags = [*PATIENT, *state.flags]
        if state.tls:
            flags += ["--ssl_cert", str(certificate), "--ssl_key", str(key)]
        target = stack.enter_context(tools.heliograph(*flags, interpreted=interpreted))
        if target.pid is None:
            raise AssertionError("it was started here")
        visit = Visit(target, context)
        began = time.monotonic()
        for _ in range(warm_up):
            stack.enter_context(state.step(visit))
        before, files = tools.at_rest(target.pid), _open_files(target.pid)
        held = [stack.enter_context(state.step(visit)) for _ in range(clients)]
        after = tools.at_rest(target.pid)
        if time.monotonic() - began >= state.lasts_s:
            raise BenchError(f"{clients} connections took longer than they stay: fewer, please")
        if _open_files(target.pid) - files != clients:
            raise BenchError(f"of {clients} connections not all are there: {state.title}")
        if state.quiet and (left := sum(map(_readable, held))):
            raise BenchError(f"{left} of {clients} connections did not stay: {state.title}")
        return (after - before) / clients


def _readable(connection: socket.socket) -> bool:
    """Return whether the server has answered, or has ended the connection."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _open_files(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError as error:
        raise BenchError(f"the files of process {pid} cannot be read: {error}") from None


def table(figures: dict[str, str], clients: int, *, interpreted: bool) -> str:
    """Return the figures as Markdown."""
    compiled = tools.tree(interpreted=interpreted).compiled
    lines = [
        f"Heliograph {'compiled' if compiled else 'interpreted'}; {report.machine()};"
        f" {clients:,} connections in each state.",
        "",
        "| state of a connection | bytes | ends after |",
        "| --- | --- | --- |",
        *(
            f"| {STATES[name].title} | {figure} | {STATES[name].ends} |"
            for name, figure in figures.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Print the table; return 2 where a state cannot be measured."""
    parser = argparse.ArgumentParser(prog="bench.states", description=__doc__)
    parser.add_argument("--only", help=f"states, by comma: {', '.join(STATES)}")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--interpreted", action="store_true", help="though it could be compiled")
    parser.add_argument(
        "--markdown", metavar="FILE", help=f"put it between {MARKS[0].strip()} marks"
    )
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(STATES)
    if unknown := [name for name in names if name not in STATES]:
        parser.error(f"no such state: {', '.join(unknown)}")
    raise_descriptor_limit()
    try:
        figures = {}
        for name in names:
            each = bytes_a_connection(
                STATES[name],
                options.clients,
                warm_up=min(WARM_UP, options.clients),
                interpreted=options.interpreted,
            )
            figures[name] = f"{each:,.0f}"
            print(f"{name}: {figures[name]}", file=sys.stderr)
        text = table(figures, options.clients, interpreted=options.interpreted)
        print(text)
        if options.markdown:
            report.replace_table(Path(options.markdown), text, MARKS)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    tools.end_children_on_sigterm()
    sys.exit(main(sys.argv[1:]))
