"""Garbage from one client changes nothing for another, and reaches no unhandled exception."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.rig import KEY, PATIENCE_S, Rig, serving
from tests.integration.test_http import UPGRADE

slow = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
events = st.sampled_from(
    ["pusher:subscribe", "pusher:unsubscribe", "pusher:ping", "pusher:signin", "client-x", "x"]
)
channels = st.sampled_from(["c", "private-c", "presence-c", "cache-c", "#server-to-user-1", "é"])
messages = st.one_of(
    json_values,
    st.fixed_dictionaries({"event": events | json_values}, optional={"data": json_values}),
    st.fixed_dictionaries(
        {"event": events, "channel": channels | json_values, "data": json_values}
    ),
    st.fixed_dictionaries(
        {
            "event": events,
            "data": st.fixed_dictionaries(
                {"channel": channels | json_values},
                optional={
                    "auth": json_values | st.just(f"{KEY}:x"),
                    "channel_data": json_values,
                },
            ),
        }
    ),
)


@asynccontextmanager
async def untroubled(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Rig]:
    """A server that, whatever happens, logs nothing alarming and keeps serving others."""
    troubles: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: troubles.append(context))
    caplog.clear()
    async with serving() as rig, rig.client() as witness:
        await witness.subscribe("witnessed")
        yield rig
        await rig.publish("still here", "witnessed")
        await witness.expect('{"event":"still here","channel":"witnessed","data":"{}"}')
    assert troubles == []
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@slow
@given(sent=st.lists(messages, min_size=1, max_size=10))
async def test_arbitrary_json_in_messages(
    sent: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    async with untroubled(caplog) as rig, rig.client() as client:
        for message in sent:
            await client.connection.send(json.dumps(message))
        await client.send("pusher:ping", {})
        while await client.receive() != '{"event":"pusher:pong","data":"{}"}':
            pass


@slow
@given(data=st.binary(max_size=200), head=st.booleans())
async def test_arbitrary_bytes_after_the_handshake(
    data: bytes, head: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with untroubled(caplog) as rig:
        # With a head, the bytes are at least a frame; without, they are anything.
        sent = b"\x81" + bytes([0x80 | min(len(data), 125)]) + bytes(4) + data if head else data
        await swallow(rig, UPGRADE + sent)


@slow
@given(
    data=st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                b"GET ",
                b"POST ",
                b"/apps/3/events",
                b"/app/x?protocol=7",
                b" HTTP/1.1\r\n",
                b"Host: x\r\n",
                b"Content-Length: 5\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Upgrade: websocket\r\n",
                b"Connection: upgrade\r\n",
                b"Expect: 100-continue\r\n",
                b"\r\n",
                b"5\r\nhello\r\n",
                b"0\r\n\r\n",
                b"?auth_key=%ff&&=&a==",
                b"\xff\x00",
            ]
        ),
        max_size=12,
    ).map(b"".join)
)
async def test_arbitrary_bytes_as_a_request(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with untroubled(caplog) as rig:
        await swallow(rig, data)


async def swallow(rig: Rig, data: bytes) -> None:
    """Send *data*, say no more, and read until the server has said all that it wants to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE_S):
        await reader.read()
    writer.close()
    await writer.wait_closed()


@slow
@given(
    body=json_values
    | st.fixed_dictionaries(
        {},
        optional={
            "name": json_values | st.just("n"),
            "channel": channels | json_values,
            "channels": st.lists(channels | json_values, max_size=3) | json_values,
            "data": json_values,
            "socket_id": json_values,
            "info": json_values,
            "batch": json_values,
        },
    )
)
async def test_arbitrary_json_in_signed_requests(
    body: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with untroubled(caplog) as rig:
        for path in ("/events", "/batch_events"):
            reply = await rig.request("POST", path, body)
            assert reply.status in {200, 400, 413}


@slow
@given(parameters=st.dictionaries(st.text(max_size=5), st.text(max_size=10), max_size=4))
async def test_arbitrary_parameters_in_signed_requests(
    parameters: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async with untroubled(caplog) as rig:
        target = rig.signed("GET", "/apps/3/channels", parameters={"info": ""})
        extra = urlencode({k: v.encode(errors="surrogatepass") for k, v in parameters.items()})
        reply = await rig.fetch("GET", f"{target}&{extra}")
        assert reply.status in {200, 400, 401}
