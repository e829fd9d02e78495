"""One event for a thousand clients."""

import asyncio
import json
import resource
from contextlib import AsyncExitStack

import pusher
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.conftest import StartServer
from tests.server import ServerProcess

SUBSCRIBERS = 1000
EVENTS = 20
AT_A_TIME = 50
"""Connections that are opened at once."""

FILES_NEEDED = SUBSCRIBERS + 200


def allow_files() -> None:
    """Let this process, and the server that it starts, have a socket for everyone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES_NEEDED:
        if hard != resource.RLIM_INFINITY and hard < FILES_NEEDED:
            pytest.fail(f"{FILES_NEEDED} open files are needed: raise the limit (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_NEEDED, hard))


async def subscriber(server: ServerProcess, stack: AsyncExitStack) -> ClientConnection:
    """Connect, subscribe, and return when the server has said yes."""
    connection = await stack.enter_async_context(
        connect(
            f"ws://{server.host}:{server.port}/app/{server.key}?protocol=7",
            proxy=None,
            compression=None,
            ping_interval=None,
        )
    )
    await connection.recv()
    await connection.send('{"event":"pusher:subscribe","data":{"channel":"everybody"}}')
    acknowledged = json.loads(await connection.recv())
    assert acknowledged["event"] == "pusher_internal:subscription_succeeded"
    return connection


async def heard(connection: ClientConnection) -> list[str]:
    return [json.loads(await connection.recv())["data"] for _ in range(EVENTS)]


async def test_a_thousand_subscribers_receive_every_event_in_order(
    start_server: StartServer,
) -> None:
    allow_files()
    server = start_server()
    sdk = pusher.Pusher(
        server.app_id, server.key, server.secret, ssl=False, host=server.host, port=server.port
    )

    def publish() -> None:
        for number in range(EVENTS):
            assert sdk.trigger("everybody", "said", {"number": number}) == {}

    async with asyncio.timeout(90), AsyncExitStack() as stack:
        connections: list[ClientConnection] = []
        while len(connections) < SUBSCRIBERS:
            batch = (subscriber(server, stack) for _ in range(AT_A_TIME))
            connections += await asyncio.gather(*batch)
        assert sdk.channel_info("everybody", ["subscription_count"]) == {
            "occupied": True,
            "subscription_count": SUBSCRIBERS,
        }

        listening = [asyncio.create_task(heard(connection)) for connection in connections]
        await asyncio.to_thread(publish)
        said = [f'{{"number": {number}}}' for number in range(EVENTS)]
        for one in await asyncio.gather(*listening):
            assert one == said
    sdk._pusher_client.http.session.close()
