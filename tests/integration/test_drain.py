"""A server that is told to end: what it says, in which order it sees its clients off."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from heliograph.config.load import make_config
from heliograph.errors import ConfigError
from heliograph.net import sockets
from heliograph.server import Server
from tests import certificates
from tests.integration.rig import (
    APP_ID,
    LOCAL,
    PATIENCE_S,
    SINGLE_APP,
    Client,
    Engines,
    Rig,
    serving,
)
from tests.integration.test_http import HEALTH, UPGRADE, Wire, wire

READY = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
SLOWLY = b"POST /apps/3/events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{"


@asynccontextmanager
async def stopping(rig: Rig, **how: bool) -> AsyncIterator[asyncio.Task[None]]:
    """Have the server begin to end, and insist that it does; without a delay, it drains."""
    task = asyncio.create_task(rig.server.stop(**how))
    await asyncio.sleep(0)
    config = rig.server.config
    waits_first = config.value("shutdown_delay") and not how and not config.value("reuse_port")
    while not waits_first and not rig.server.context.draining:  # noqa: ASYNC110 - it is near
        await asyncio.sleep(0)
    try:
        yield task
    finally:
        async with asyncio.timeout(PATIENCE_S * 2):
            await task


async def told_to_reconnect(client: Client) -> None:
    await client.expect_error(4200, "Please reconnect immediately")
    await client.expect_close(4200)


async def test_a_server_is_ready_between_start_and_drain() -> None:
    async with serving(shutdown_delay=0.4) as rig, wire(rig) as one:
        assert (await rig.fetch("GET", "/ready")).body == b"OK\n"
        rig.server.readiness.why_not = "starting"
        reply = await rig.fetch("GET", "/ready")
        assert (reply.status, reply.body) == (503, b"Not ready: starting\n")
        async with stopping(rig):
            reply = await rig.fetch("GET", "/ready")
            assert (reply.status, reply.body) == (503, b"Not ready: draining\n")
            assert (await rig.fetch("GET", "/health")).status == 200
            await one.send(READY)
            assert b"503" in await one.read_until(b"\r\n")


async def test_a_server_is_not_ready_while_the_engine_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Newcomers could not subscribe; who is there already stays, so it is healthy all the same."""
    monkeypatch.setattr(Engines, "late", True)
    async with serving() as rig:
        assert Engines.made is not None
        Engines.made.away = True
        reply = await rig.fetch("GET", "/ready")
        assert (reply.status, reply.body) == (503, b"Not ready: engine unavailable\n")
        assert (await rig.fetch("GET", "/up")).status == 200
        Engines.made.away = False
        assert (await rig.fetch("GET", "/ready")).status == 200


async def test_a_server_is_not_ready_before_it_listens_everywhere() -> None:
    config = make_config(**LOCAL, **SINGLE_APP)
    server = Server(config)
    assert not server.readiness.ready
    await server.start()
    assert server.readiness.ready
    await server.stop()


async def test_new_clients_are_served_during_the_delay_and_not_after_it() -> None:
    async with serving(shutdown_delay=0.5) as rig:
        async with stopping(rig) as ends:
            async with rig.client() as client:
                await client.subscribe("c")
                await rig.publish("n", "c")
                assert json.loads(await client.receive())["event"] == "n"
                assert not ends.done()
                await told_to_reconnect(client)
        with pytest.raises(ConnectionRefusedError):
            await rig.fetch("GET", "/health")


async def test_clients_are_closed_in_random_order_spread_over_the_time() -> None:
    """Evenly: the first at once, the last before the time is over."""
    async with serving(shutdown_timeout=1) as rig, AsyncExitStack() as stack:
        rig.server._shuffle = list.reverse
        clients = [await stack.enter_async_context(rig.client()) for _ in range(5)]
        loop = asyncio.get_running_loop()
        left: list[tuple[int, float]] = []

        async def leaves(number: int, client: Client) -> None:
            await told_to_reconnect(client)
            left.append((number, loop.time()))

        began = loop.time()
        async with stopping(rig):
            await asyncio.gather(*(leaves(*one) for one in enumerate(clients)))
        # Sessions are shuffled to 4…0, and taken from the end.
        assert [number for number, _ in left] == [0, 1, 2, 3, 4]
        for number, at in left:
            assert at - began >= number * 0.2
        assert loop.time() - began < 3


@pytest.mark.parametrize("how", [{"at_once": True}, {}], ids=["interrupted", "no time"])
async def test_all_leave_at_once_where_there_is_no_time(how: dict[str, bool]) -> None:
    timeout = 30 if how else 0
    async with serving(shutdown_timeout=timeout, shutdown_delay=timeout) as rig:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(rig.client()) for _ in range(20)]
            async with stopping(rig, **how):
                await asyncio.gather(*(told_to_reconnect(client) for client in clients))


async def test_a_client_that_does_not_leave_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("heliograph.net.drain.FAREWELL_S", 0.2)
    async with serving(shutdown_timeout=0.2) as rig, wire(rig) as one:
        await one.send(UPGRADE)
        await one.read_until(b"connection_established")
        async with stopping(rig):
            await one.read_until(b"Please reconnect immediately")


async def test_requests_in_flight_are_finished() -> None:
    """One whose body is on its way, one that waits for the engine, one that comes now."""
    Engines.late = True
    try:
        async with serving(shutdown_timeout=3) as rig:
            async with wire(rig) as slow, wire(rig) as waits, wire(rig) as busy:
                await slow.send(SLOWLY)
                await busy.send(HEALTH)
                await busy.read_until(b"OK\n")
                target = rig.signed("GET", f"/apps/{APP_ID}/channels")
                await waits.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await busy.send(HEALTH)
                await busy.read_until(b"OK\n")
                async with stopping(rig) as ends:
                    await busy.send(HEALTH)
                    assert b"Connection: close" in await busy.read_until(b"OK\n")
                    assert b"HTTP/1.1 200" in await waits.read_all()
                    assert not ends.done()
                    await slow.send(b"}")
                    assert b"HTTP/1.1 401" in await slow.read_all()
    finally:
        Engines.late = False


async def test_a_publisher_that_stays_busy_is_told_that_its_connection_ends() -> None:
    """What it sends every tenth of a second is answered, and the answer says to come no more."""
    body = b'{"name":"n","channel":"c","data":"x"}'
    async with serving(shutdown_timeout=30) as rig, wire(rig) as one:
        target = rig.signed("POST", f"/apps/{APP_ID}/events", body)
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        publish = head.encode() + body
        for _ in range(3):
            await one.send(publish)
            assert b"Connection" not in await one.read_until(b"{}")
        async with stopping(rig):
            await asyncio.sleep(0.1)
            await one.send(publish)
            assert b"Connection: close" in await one.read_until(b"{}")
            assert await one.read_all() == b""


async def test_an_idle_publisher_is_not_waited_for_long() -> None:
    async with serving(shutdown_timeout=60) as rig, wire(rig) as idle:
        await idle.send(HEALTH)
        await idle.read_until(b"OK\n")
        async with stopping(rig):
            assert await idle.read_all() == b""


async def test_connections_in_the_accept_queue_are_served_at_shutdown() -> None:
    """
    Closing a socket that listens resets whoever the kernel has let in already.

    They come while the server does not look, as they do while it is busy.
    """
    async with serving(shutdown_timeout=3) as rig, AsyncExitStack() as stack:
        waiting = []
        for request in (HEALTH, UPGRADE) * 20:
            sock = stack.enter_context(
                socket.create_connection(("127.0.0.1", rig.server.port), timeout=PATIENCE_S)
            )
            sock.sendall(request)
            waiting.append(sock)
        async with stopping(rig):
            for sock in waiting:
                sock.setblocking(False)
                reader, writer = await asyncio.open_connection(sock=sock)
                one = Wire(reader, writer)
                answer = await one.read_until(b"OK\n" if sock in waiting[::2] else b'"code":4200')
                assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101"))
                writer.close()


async def test_a_client_without_tls_at_the_last_moment_holds_nothing_up(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pair = certificates.make(tmp_path_factory.mktemp("tls"), "c")
    options: dict[str, Any] = {**pair.options, "shutdown_timeout": 60, "request_timeout": 1}
    async with serving(**options) as rig, wire(rig) as silent:
        async with stopping(rig):
            pass
        assert await silent.read_all() == b""


async def test_publishers_and_clients_on_a_shared_port_move_at_once() -> None:
    """Whatever delays are asked for: what is published here reaches nobody who is there."""
    async with serving(reuse_port=True, shutdown_delay=30, shutdown_timeout=30) as rig:
        assert rig.server.stop_s < 30
        async with wire(rig) as publisher, rig.client() as client:
            await publisher.send(HEALTH)
            await publisher.read_until(b"OK\n")
            async with stopping(rig), asyncio.timeout(1):
                assert await publisher.read_all() == b""
                await told_to_reconnect(client)


# -- What did not start --------------------------------------------------------------------


async def test_a_server_that_did_not_start_leaves_nothing_behind_and_can_be_stopped(
    tmp_path: Path,
) -> None:
    """Its last port is taken, or its folder cannot be had: what it had begun is ended."""
    file = tmp_path / "file"
    file.write_text("")
    async with serving() as rig:
        taken = rig.server.port
        for options, message in (
            ({"pusher_api_port": taken}, "--pusher_api_port"),
            ({"metrics_port": taken}, "--metrics_port"),
            ({"unix_socket": str(tmp_path / "s"), "data_dir": str(file)}, "data_dir"),
        ):
            server = Server(make_config(**LOCAL, **SINGLE_APP, **options))
            tasks = asyncio.all_tasks()
            before = open_descriptors()
            with pytest.raises(ConfigError, match=message):
                await server.start()
            await server.stop()
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == tasks
            assert open_descriptors() == before
            assert not (tmp_path / "s").exists()
        assert (await rig.fetch("GET", "/up")).status == 200


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


async def test_two_servers_cannot_both_take_a_port() -> None:
    """Binding alone would let both have it: the later one would fail in the middle of its start."""
    first = sockets.bind(("127.0.0.1",), 0, host_option="--host", port_option="--port")
    with pytest.raises(ConfigError, match="--port: cannot listen on"):
        sockets.bind(("127.0.0.1",), first[0].port, host_option="--host", port_option="--port")
    first[0].close()
