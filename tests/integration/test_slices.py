"""Large work on a real server: others are served in between. Order is measured, not time."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TypeAlias

from heliograph.config.apps import App, AppKey, Apps
from heliograph.engine.answers import Options
from heliograph.node.tenant import Tenant
from heliograph.slices import SLICE_S
from tests.integration.rig import APP, APP_ID, KEY, PATIENCE_S, Rig, parse, serving

CROWD = 400
CHANNELS_EACH = 30
MANY_CHANNELS = 20_000
LONG_LIST = 40_000

ROUND_TRIPS = 3
"""A bystander is served at least so often. It was at most once where the work was one call."""

Raw: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter, str]
"""A connection, and its socket id."""

PING = b"\x81\x99" + bytes(4) + b'{"event":"pusher:ping"  }'
PONG = b'\x81\x23{"event":"pusher:pong","data":"{}"}'

UPGRADE = (
    "GET /app/{key}?protocol=7&client=js&version=8.6.0 HTTP/1.1\r\nHost: localhost\r\n"
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def frame(event: str, data: object) -> bytes:
    """A client's text frame, masked with zeros."""
    text = json.dumps({"event": event, "data": data}).encode()
    size = len(text)
    head = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + head + bytes(4) + text


@asynccontextmanager
async def raw(rig: Rig, key: str = KEY) -> AsyncIterator[Raw]:
    """Connect without a library, which would do more than the server in the same loop."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
    try:
        writer.write(UPGRADE.format(key=key).encode())
        await reader.readuntil(b"\r\n\r\n")
        greeting = await reader.readuntil(b'}"}')
        data = json.loads(greeting[greeting.index(b"{") :])["data"]
        yield reader, writer, json.loads(data)["socket_id"]
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def crowd(rig: Rig, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Have *count* clients signed in as `u` and subscribed; give what they read from then on."""
    data = '{"id":"u"}'
    async with AsyncExitStack() as stack:
        readers = []
        for _ in range(count):
            reader, writer, socket_id = await stack.enter_async_context(raw(rig))
            auth = APP.authorize_user(socket_id, data)
            writer.write(frame("pusher:signin", {"auth": auth, "user_data": data}))
            for number in range(CHANNELS_EACH):
                writer.write(frame("pusher:subscribe", {"channel": f"c{number}"}))
            readers.append(reader)
        for reader in readers:
            await reader.readuntil(f'"c{CHANNELS_EACH - 1}","data":"{{}}"}}'.encode())
        yield readers


@asynccontextmanager
async def many_subscriptions(rig: Rig) -> AsyncIterator[asyncio.StreamWriter]:
    async with raw(rig) as (reader, writer, _):
        writer.write(
            b"".join(
                frame("pusher:subscribe", {"channel": f"c{number}"})
                for number in range(MANY_CHANNELS)
            )
        )
        while tenant_of(rig).subscriptions < MANY_CHANNELS:
            await reader.read(1 << 20)
        yield writer


def tenant_of(rig: Rig, app_id: str = APP_ID) -> Tenant:
    tenant = rig.server.node.tenant(app_id)
    assert tenant is not None
    return tenant


class Bystander(asyncio.Protocol):
    """A client that pings whenever it is answered, and counts that until *done*."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self.count = 0
        self._transport = transport
        self._done: Callable[[], bool]
        self._counted: asyncio.Future[None]
        transport.set_protocol(self)

    async def round_trips_until(self, done: Callable[[], bool]) -> int:
        self._done = done
        self._counted = asyncio.get_running_loop().create_future()
        self._transport.write(PING)
        async with asyncio.timeout(PATIENCE_S):
            await self._counted
        return self.count

    def data_received(self, data: bytes) -> None:
        assert data == PONG, data
        if self._done():
            self._counted.set_result(None)
        else:
            self.count += 1
            self._transport.write(PING)


@asynccontextmanager
async def bystanding(rig: Rig, key: str = KEY) -> AsyncIterator[Bystander]:
    async with raw(rig, key) as (_, writer, _):
        protocol = writer.transport.get_protocol()
        try:
            yield Bystander(writer.transport)
        finally:
            writer.transport.set_protocol(protocol)


async def test_a_bystander_is_served_while_a_user_is_terminated() -> None:
    async with serving() as rig, crowd(rig, CROWD) as readers, bystanding(rig) as bystander:
        sessions = tenant_of(rig).sessions
        answer, writer = await asyncio.open_connection("127.0.0.1", rig.server.api_port)
        target = rig.signed("POST", f"/apps/{APP_ID}/users/u/terminate_connections")
        head = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        writer.write(f"POST {target} {head}".encode())
        trips = await bystander.round_trips_until(lambda: len(sessions) == 1)
        assert trips >= ROUND_TRIPS
        assert parse(await answer.read()).status == 200
        writer.close()
        for reader in readers:
            await reader.readuntil(b"4009")


async def test_a_bystander_is_served_while_an_app_is_removed() -> None:
    other = App(id="other", keys=(AppKey(key="other", secret="other"),))
    async with serving() as rig:
        node = rig.server.node
        mine = tenant_of(rig)
        node.configure(Apps([mine.app, other]))
        async with crowd(rig, CROWD) as readers, bystanding(rig, "other") as bystander:
            node.configure(Apps([other]))
            assert await bystander.round_trips_until(lambda: not mine.sessions) >= ROUND_TRIPS
            for reader in readers:
                await reader.readuntil(b"4003")
            async with rig.open() as late:
                await late.expect_error(
                    4001,
                    f"App key {KEY} not in this cluster. Did you forget to specify the cluster?",
                )


async def test_a_bystander_is_served_while_a_client_leaves_thousands_of_channels() -> None:
    async with serving(max_subscriptions=0) as rig, bystanding(rig) as bystander:
        tenant = tenant_of(rig)
        async with many_subscriptions(rig) as writer:
            writer.transport.abort()
            trips = await bystander.round_trips_until(lambda: not tenant.subscriptions)
        assert trips >= ROUND_TRIPS
        assert len(tenant.hub) == 0
        assert (await rig.request("GET", "/channels")).body == b'{"channels":{}}'


async def test_a_bystander_is_served_while_lists_of_channels_are_made() -> None:
    """A packet of pipelined requests: answers come in order, all of the same list."""
    async with serving() as rig, bystanding(rig) as bystander:
        space = tenant_of(rig).space
        state = getattr(space, "_inner", space)
        for number in range(LONG_LIST):
            state.enter(f"c{number}", "elsewhere", Options())
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", rig.server.api_port, limit=1 << 24
        )
        target = rig.signed("GET", f"/apps/{APP_ID}/channels")
        last = "Host: localhost\r\nConnection: close"
        pipelined = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 20
        writer.write(pipelined + f"GET {target} HTTP/1.1\r\n{last}\r\n\r\n".encode())
        answer = asyncio.create_task(reader.readuntil(b"}}}"))
        trips = await bystander.round_trips_until(answer.done)
        assert trips >= ROUND_TRIPS
        first = parse(answer.result())
        assert len(json.loads(first.body)["channels"]) == LONG_LIST
        async with asyncio.timeout(PATIENCE_S):
            rest = await reader.read()
        assert rest.count(first.body) == 20
        writer.close()
        await writer.wait_closed()


async def test_a_server_that_stops_leaves_all_channels_first() -> None:
    """Webhooks are told of them before they stop, and shared state has nothing left of us."""
    async with serving(max_subscriptions=0) as rig:
        tenant = tenant_of(rig)
        async with many_subscriptions(rig) as writer:
            writer.transport.abort()
            await rig.server.stop()
            assert tenant.subscriptions == 0
            assert tenant.leaving == set()


async def test_the_clock_of_slices_is_finer_than_a_slice() -> None:
    """That of uvloop has milliseconds: slices would be too long, or not end before their turn."""
    async with serving() as rig:
        now = rig.server.node._slices._now
        steps = []
        for _ in range(20):
            first = now()
            while (second := now()) == first:
                pass
            steps.append(second - first)
        assert min(steps) < SLICE_S / 10
