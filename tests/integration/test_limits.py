"""What one client, one address, one app may take of the server, and what it is told beyond."""

import json
import logging
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import unix_connect

from heliograph.api.routes import Routes
from heliograph.net.http import HttpConnection
from tests.integration.rig import KEY, Rig, serving

PATH = f"/app/{KEY}?protocol=7"
TOO_MANY = "Over capacity: too many connections from your address"


async def expect_refused(rig: Rig, forwarded: str | None = None) -> None:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    async with rig.open(additional_headers=headers) as client:
        await client.expect_error(4100, TOO_MANY)
        await client.expect_close(4100)


async def until_left(rig: Rig, sockets: int) -> None:
    while rig.server.context.sockets > sockets:
        await rig.fetch("GET", "/health")


# -- Connections of an address -------------------------------------------------------------


async def test_an_address_has_as_many_connections_as_it_may_have(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """4100, upon which clients try again; one line in the log; room again when one leaves."""
    caplog.set_level(logging.INFO)
    async with serving(max_connections_per_ip=3) as rig, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(rig.client()) for _ in range(3)]
        for _ in range(20):
            await expect_refused(rig)
        assert rig.server.context.refused_per_address == 20
        for client in clients:
            await client.expect_nothing_before_pong()
        assert (await rig.request("GET", "/channels")).status == 200
        await clients[0].connection.close()
        await until_left(rig, 2)
        async with rig.client():
            pass
    (line,) = [one for one in caplog.messages if "--max_connections_per_ip" in one]
    assert "--trusted_proxies" in line


async def test_a_stranger_cannot_say_that_it_comes_from_elsewhere() -> None:
    async with serving(max_connections_per_ip=1, trusted_proxies="192.0.2.1") as rig, rig.client():
        await expect_refused(rig, "198.51.100.7")
        await expect_refused(rig, "192.0.2.1, 127.0.0.1")


async def test_behind_a_proxy_clients_are_counted_by_their_own_addresses() -> None:
    async with (
        serving(max_connections_per_ip=1, trusted_proxies="127.0.0.0/8") as rig,
        AsyncExitStack() as stack,
    ):
        for number in range(5):
            headers = {"X-Forwarded-For": f"spoofed, 198.51.100.{number}"}
            await stack.enter_async_context(rig.client(additional_headers=headers))
        await expect_refused(rig, "203.0.113.1, 198.51.100.3")
        # A proxy that does not say for whom it speaks has no limit: its clients are not known.
        for _ in range(3):
            await stack.enter_async_context(rig.client())


async def test_through_a_unix_socket_a_proxy_is_believed(tmp_path: Path) -> None:
    async with serving(max_connections_per_ip=1) as rig, AsyncExitStack() as stack:
        context = rig.server.context
        routes = Routes(rig.server.node, prefix="", now_s=lambda: 0.0)
        path = str(tmp_path / "socket")
        server = await context.loop.create_unix_server(
            lambda: HttpConnection(context, routes, websockets=True), path
        )
        for number in range(3):
            connection = await stack.enter_async_context(
                unix_connect(
                    path,
                    f"ws://x{PATH}",
                    additional_headers={"X-Forwarded-For": f"192.0.2.{number}"},
                )
            )
            assert "connection_established" in str(await connection.recv())
        async with unix_connect(
            path, f"ws://x{PATH}", additional_headers={"X-Forwarded-For": "192.0.2.1"}
        ) as refused:
            assert json.loads(await refused.recv())["data"]["code"] == 4100
        server.close()


async def test_refused_clients_that_stay_cost_the_address_no_room() -> None:
    """However it leaves, its place is free again, once."""
    async with serving(max_connections_per_ip=2) as rig:
        for _ in range(3):
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    await stack.enter_async_context(rig.client())
                for _ in range(3):
                    client = await stack.enter_async_context(rig.open())
                    await client.expect_error(4100, TOO_MANY)
                client.connection.transport.abort()
            await until_left(rig, 0)
        assert rig.server.context.addresses._counts == {}


async def test_connections_that_end_before_they_begin_are_counted_out() -> None:
    async with serving(max_connections_per_ip=2) as rig:
        for path in ("/app/nobody?protocol=7", "/app/x/y?protocol=7", f"/app/{KEY}?protocol=1"):
            for _ in range(3):
                async with rig.open(path) as client:
                    assert json.loads(await client.receive())["event"] == "pusher:error"
                await until_left(rig, 0)
        for _ in range(5):
            async with rig.client() as client:
                client.connection.transport.abort()
            await until_left(rig, 0)
        assert rig.server.context.addresses._counts == {}
