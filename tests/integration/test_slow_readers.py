"""A client that does not read costs itself its connection, and nobody else anything."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.integration.rig import PATIENCE_S, Rig, serving
from tests.integration.test_http import HEALTH, UPGRADE

SUBSCRIBE = b'{"event":"pusher:subscribe","data":{"channel":"c"}}'


@asynccontextmanager
async def stalled(rig: Rig) -> AsyncIterator[asyncio.StreamReader]:
    """A subscriber of c that reads nothing more, with as little room on the way as possible."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", rig.server.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    writer.write(UPGRADE + b"\x81" + bytes([0x80 | len(SUBSCRIBE)]) + bytes(4) + SUBSCRIBE)
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


async def test_what_waits_for_a_stalled_reader_is_bounded() -> None:
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
