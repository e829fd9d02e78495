"""A client that does not read costs itself its connection, and nobody else anything."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from heliograph.net import client
from tests.integration.rig import PATIENCE_S, Rig, serving
from tests.integration.test_http import HEALTH, UPGRADE


def subscribing(channel: str) -> bytes:
    message = f'{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}'.encode()
    return b"\x81" + bytes([0x80 | len(message)]) + bytes(4) + message


@asynccontextmanager
async def stalled(rig: Rig, channel: str = "c") -> AsyncIterator[asyncio.StreamWriter]:
    """A subscriber of *channel* that reads nothing more, with little room on the way."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", rig.server.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    writer.write(UPGRADE + subscribing(channel))
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(f'"channel":"{channel}","data":"{{}}"}}'.encode())
    try:
        yield writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def subscriber(rig: Rig) -> AsyncIterator[asyncio.StreamReader]:
    """A subscriber of c that reads when it is asked to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
    writer.write(UPGRADE + subscribing("c"))
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(b'"channel":"c","data":"{}"}')
    try:
        yield reader
    finally:
        writer.transport.abort()


async def until_dropped(rig: Rig) -> None:
    async with asyncio.timeout(10):
        while not rig.server.context.slow_readers:
            await rig.fetch("GET", "/health")


async def test_a_stalled_reader_is_dropped_and_the_others_hear_everything() -> None:
    async with serving(max_write_buffer=65536) as rig, rig.client() as healthy:
        await healthy.subscribe("c")
        async with stalled(rig):
            published = 0
            while not rig.server.context.slow_readers:
                assert published < 5000, "the stalled reader was never dropped"
                await rig.publish(str(published), "c", "x" * 10_000)
                assert json.loads(await healthy.receive())["event"] == str(published)
                published += 1
            reply = await rig.request(
                "GET", "/channels/c", parameters={"info": "subscription_count"}
            )
            assert json.loads(reply.body)["subscription_count"] == 1
        assert rig.server.context.slow_readers == 1


async def test_unsent_bytes_of_a_stalled_client_are_bounded() -> None:
    """However much is published in one tick, not much more than the limit is kept for it."""
    async with serving(max_write_buffer=65536) as rig, rig.client() as healthy:
        await healthy.subscribe("c")
        async with stalled(rig):
            (connection,) = [
                session.peer
                for session in rig.server.node._tenants["3"].sessions.values()
                if session.id != healthy.socket_id
            ]
            tenant = rig.server.node.tenant("3")
            assert tenant is not None
            largest = 0
            publish = json.dumps({"name": "n", "channel": "c", "data": "x" * 10_000})
            for _ in range(500):
                assert (await rig.request("POST", "/events", publish.encode())).status == 200
                await healthy.receive()
                transport = connection._transport  # type: ignore[attr-defined]
                if transport is None:
                    break
                largest = max(largest, transport.get_write_buffer_size())
            await until_dropped(rig)
        # At four times the limit it is not waited for any longer; a chunk may be under way.
        assert largest <= 4 * 65536 + 300_000


async def test_a_healthy_client_survives_one_very_large_chunk() -> None:
    async with serving(max_write_buffer=65536) as rig, rig.client(max_size=None) as client:
        await client.subscribe("c")
        body = {
            "batch": [{"name": str(n), "channel": "c", "data": "x" * 10_000} for n in range(10)]
        }
        replies = await asyncio.gather(
            *(rig.request("POST", "/batch_events", body) for _ in range(20))
        )
        assert {reply.status for reply in replies} == {200}
        for _ in range(200):
            await client.receive()
        assert rig.server.context.slow_readers == 0


async def test_unread_answers_of_http_hold_up_the_upgrade() -> None:
    """A client that leaves answers unread would else be a WebSocket whose pace nobody knows."""
    async with serving(max_write_buffer=65536) as rig:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", rig.server.port))
            await loop.sock_sendall(client, HEALTH)
            await loop.sock_recv(client, 1)
            (connection,) = rig.server.context.http_connections
            while not connection._unread:
                with suppress(BlockingIOError):
                    client.send(HEALTH)
                await asyncio.sleep(0)
            while True:  # what had been sent until then is answered before
                try:
                    sent = client.send(UPGRADE)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert sent == len(UPGRADE)
            await rig.fetch("GET", "/health")
            assert rig.server.context.sockets == 0
            received = b""
            async with asyncio.timeout(PATIENCE_S):
                while b"connection_established" not in received:
                    received = received[-100:] + await loop.sock_recv(client, 65536)
            assert rig.server.context.sockets == 1


async def test_unsent_bytes_of_all_stalled_clients_are_bounded_in_total(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those with the most unread go, one line says so, and who reads hears everything."""
    most = 1_000_000
    async with (
        serving(max_write_buffer=50_000_000, max_total_write_buffer=most) as rig,
        rig.client() as healthy,
        AsyncExitStack() as stack,
    ):
        await healthy.subscribe("c")
        for _ in range(6):
            await stack.enter_async_context(stalled(rig))
        context, largest = rig.server.context, 0
        publish = json.dumps({"name": "n", "channel": "c", "data": "x" * 10_000}).encode()
        for _ in range(3000):
            assert (await rig.request("POST", "/events", publish)).status == 200
            await healthy.receive()
            largest = max(largest, context.backlog.bytes)
            if context.slow_readers >= 3:
                break
        assert context.slow_readers >= 3
        # The bytes that a flush writes come before anybody is dropped for them.
        assert largest <= most + 6 * 10_100
        assert context.backlog.bytes <= most
        assert len(context.backlog) == 6 - context.slow_readers
    (warning,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert "--max_total_write_buffer (1000000 bytes)" in warning.message


async def test_a_stalled_reader_is_asked_whether_it_is_there_as_everybody_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that stops reading for good, with little unread, must not stay for ever."""
    monkeypatch.setattr(client, "CLOSE_TIMEOUT_S", 0.2)
    async with serving(ping_interval=0.3, pong_timeout=0.3) as rig, stalled(rig):
        while not len(rig.server.context.backlog):
            await rig.publish("n", "c", "x" * 10_000)
        async with asyncio.timeout(10):
            while rig.server.context.sockets:
                await rig.fetch("GET", "/health")
        assert len(rig.server.context.backlog) == rig.server.context.backlog.bytes == 0


CROWD = 1000


async def test_one_stalled_reader_among_a_thousand_costs_the_others_nothing() -> None:
    """No write more for anybody, no encoding, and no more memory than what is allowed for one."""
    async with serving(max_write_buffer=200_000) as rig, AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(subscriber(rig)) for _ in range(CROWD - 1)]
        writer = await stack.enter_async_context(stalled(rig, "filler"))
        context, counters = rig.server.context, rig.server.node.counters
        largest = published = 0
        data = "x" * 10_000
        while not len(context.backlog):  # what the kernel takes is not ours to count
            await rig.publish("n", "filler", data)
        writer.write(subscribing("c"))
        while (
            b'"subscription_count":1000'
            not in (
                await rig.request("GET", "/channels/c", parameters={"info": "subscription_count"})
            ).body
        ):
            pass
        while not context.slow_readers:
            published += 1
            before = counters.encodings, counters.writes
            await rig.publish("n", "c", data)
            async with asyncio.timeout(60):
                for one in crowd:
                    await one.readuntil(b'"}')
            assert counters.encodings - before[0] == 1
            assert CROWD - 1 <= counters.writes - before[1] <= CROWD
            waiting = context.backlog.bytes
            largest = max(largest, waiting)
            # Nobody else is behind: what waits, waits for the one.
            assert len(context.backlog) <= 1
        await rig.fetch("GET", "/health")
        assert (context.slow_readers, context.sockets) == (1, CROWD - 1)
        assert largest <= 4 * 200_000 + len(data) + 100
        assert published >= 10
