"""A server that runs out of files says so to whoever comes, loses nobody, and does not spin."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.rig import PATIENCE_S
from tests.integration.test_http import UPGRADE
from tests.server import ServerProcess
from tests.unit.test_proxy import header

DESCRIPTORS = 200
ROOM = DESCRIPTORS - 64
OWN = 25
"""The server has some files open of its own: fewer than these."""

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
BALANCERS_OWN = b"".join(header(b"", command=0x20, family=0x00))
PING, PONG = b"\x89\x80\x00\x00\x00\x00", b"\x8a\x00"


class Confined(ServerProcess):
    """A server that may have few files open, and no more."""

    def _command(self) -> list[str]:
        return ["sh", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "sh", *super()._command()]


class ConfinedBehindABalancer(Confined):
    """The same, where whoever comes says first for whom."""

    def _serves(self, said_before: int) -> bool:
        if not self._announced(said_before):
            return False
        with ExitStack() as stack:
            balancer = come(self, stack)
            balancer.sendall(BALANCERS_OWN + HEALTH)
            return balancer.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.fixture(params=["uvloop", "asyncio"])
def confined(request: pytest.FixtureRequest) -> Iterator[Confined]:
    with Confined({"loop": request.param, "request_timeout": 2}) as server:
        yield server


def come(server: ServerProcess, stack: ExitStack) -> socket.socket:
    one = socket.create_connection((server.host, server.port), timeout=20)
    return stack.enter_context(one)


def ask(server: ServerProcess, stack: ExitStack) -> socket.socket:
    """Connect, and ask for a WebSocket."""
    one = come(server, stack)
    one.sendall(UPGRADE)
    return one


def first_words(one: socket.socket) -> bytes:
    """Return what the server says before anybody asks it something."""
    said = b""
    while b"connection_established" not in said and b"Over capacity" not in said:
        part = one.recv(4096)
        assert part, "dropped without a word"
        said += part
    return said


def is_inside(one: socket.socket) -> bool:
    """Return whether the server let it in; one that it did not let in leaves."""
    said = first_words(one)
    if b"connection_established" in said:
        return True
    assert b'"code":4100' in said
    one.close()
    return False


def open_files(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.process_id}/fd").iterdir()))


def until_those_refused_have_left(server: ServerProcess) -> None:
    """Return when the server's number of open files rests."""
    deadline = time.monotonic() + PATIENCE_S
    before = 0
    while (now := open_files(server)) != before:
        assert time.monotonic() < deadline, f"{now} files open, {before} before"
        before = now
        time.sleep(0.2)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_clients_beyond_the_last_descriptor_are_closed_with_4100(
    confined: Confined,
) -> None:
    """Four times as many come at once as there is room for; one line in the log."""
    with ExitStack() as stack:
        came = [ask(confined, stack) for _ in range(4 * ROOM)]
        inside = [one for one in came if is_inside(one)]
        assert ROOM - OWN < len(inside) <= ROOM
        for one in inside:
            one.sendall(PING)
        assert [one.recv(2) for one in inside] == [PONG] * len(inside)
        # Those refused counted until they had left: there may be a little room, for one at a time.
        until_those_refused_have_left(confined)
        while is_inside(ask(confined, stack)):
            pass
        until_those_refused_have_left(confined)
        publisher = come(confined, stack)
        publisher.sendall(HEALTH)
        answer = b"".join(iter(lambda: publisher.recv(4096), b""))  # to the end: it may not stay
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        # Full as it is, it waits, and does not turn in circles.
        before = cpu_s(confined.process_id)
        time.sleep(1)
        assert cpu_s(confined.process_id) - before < 0.3
    assert confined.log().count("over capacity") == 1


def test_clients_are_accepted_again_without_a_restart(confined: Confined) -> None:
    for _ in range(3):
        with ExitStack() as stack:
            came = [ask(confined, stack) for _ in range(2 * ROOM)]
            assert sum(map(is_inside, came)) <= ROOM
        deadline = time.monotonic() + PATIENCE_S
        with ExitStack() as stack:
            while not is_inside(ask(confined, stack)):
                assert time.monotonic() < deadline
    assert confined.log().count("over capacity") == 1  # and a sum, a minute later


def test_silent_clients_hold_the_last_descriptors_for_a_limited_time(
    confined: Confined,
) -> None:
    """Who comes after them waits for as long, and is heard."""
    with ExitStack() as stack:
        inside = [ask(confined, stack) for _ in range(ROOM - OWN)]
        assert all(map(is_inside, inside))
        for _ in range(70):
            come(confined, stack)
        publisher = come(confined, stack)
        publisher.sendall(HEALTH)
        assert publisher.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        for one in inside:
            one.sendall(PING)
        assert [one.recv(2) for one in inside] == [PONG] * len(inside)
    log = confined.log()
    assert "cannot accept" not in log
    assert "Traceback" not in log


def keep(server: ServerProcess, stack: ExitStack) -> socket.socket:
    """Connect, have a request answered, and keep the connection."""
    one = come(server, stack)
    one.sendall(HEALTH)
    assert one.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
    return one


def has_ended(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return not one.recv(4096)
    except BlockingIOError:
        return False
    finally:
        one.settimeout(20)


def test_idle_http_connections_make_room_for_clients() -> None:
    """
    One client cannot take every descriptor with connections that it only keeps: with default
    options, every client that comes is let in, and those idle for longest are closed for it.
    """
    with Confined() as server, ExitStack() as stack:
        begun = [come(server, stack) for _ in range(10)]
        for one in begun:
            one.sendall(HEALTH[:-2])
        first = keep(server, stack)
        silent = [come(server, stack) for _ in range(40)]
        idle = [keep(server, stack) for _ in range(60)]
        time.sleep(1.5)  # what has been silent for less is not idle
        first.sendall(HEALTH)
        assert first.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        inside = []
        for _ in range(80):
            inside.append(ask(server, stack))
            assert b"connection_established" in first_words(inside[-1])
        assert not has_ended(first)
        # Those with a request under way, and WebSockets, are not closed for others.
        for one in begun:
            one.sendall(HEALTH[-2:])
            assert one.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        for one in inside:
            one.sendall(PING)
        assert [one.recv(2) for one in inside] == [PONG] * len(inside)
        ended = [has_ended(one) for one in (*silent, *idle)]
        assert 0 < sum(ended) < len(ended)
        assert ended == sorted(ended, reverse=True)  # the oldest
        log = server.log()
        assert "over capacity" not in log
        assert log.count("an idle HTTP connection was closed") == 1


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_idle_http_connections_make_room_where_every_descriptor_is_taken(loop: str) -> None:
    """Far more than there is room for, at once, and with half a minute for each."""
    with Confined({"loop": loop}) as server, ExitStack() as stack:
        for _ in range(2 * DESCRIPTORS):
            come(server, stack)
        deadline = time.monotonic() + PATIENCE_S
        inside: list[socket.socket] = []
        while len(inside) < ROOM // 2:
            assert time.monotonic() < deadline
            one = ask(server, stack)
            if is_inside(one):
                inside.append(one)
        assert server.log().count("over capacity") == 1


def test_clients_without_a_proxy_header_do_not_take_the_last_descriptor() -> None:
    """Behind a balancer it is the PROXY header that they owe first."""
    options = {"proxy_protocol": True, "request_timeout": 2}
    with ConfinedBehindABalancer(options) as server, ExitStack() as stack:
        for _ in range(2 * DESCRIPTORS):
            come(server, stack)
        publisher = come(server, stack)
        publisher.sendall(BALANCERS_OWN + HEALTH)
        assert publisher.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        log = server.log()
        assert "cannot accept" not in log
        assert log.count("over capacity") == 1
