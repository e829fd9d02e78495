"""Clients that take what they can: what they are given, and that nobody else pays for it."""

import asyncio
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from heliograph.net.intake import Intake
from tests import certificates
from tests.integration.rig import PATIENCE_S, Rig, parse, serving
from tests.integration.test_http import UPGRADE, wire
from tests.integration.test_tls import Secured
from tests.integration.test_turns import until

GET = b"GET /x HTTP/1.1\r\nHost:\r\n\r\n"
MUCH = GET * (64 * 1024 // len(GET))
REQUESTS = len(MUCH) // len(GET)


def frame(payload: bytes, first: int = 0x81) -> bytes:
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 1 << 16:
        head = bytes((first, 0xFE)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + length.to_bytes(8, "big")
    return head + bytes(4) + payload


PING = frame(b'{"event":"pusher:ping","data":{}}')
PONG = b'{"event":"pusher:pong","data":"{}"}'


@asynccontextmanager
async def connected(rig: Rig, first: bytes = b"", **options: Any) -> AsyncIterator[Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port, **options)
    writer.write(first)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def websocket(rig: Rig, **options: Any) -> AsyncIterator[Any]:
    async with connected(rig, UPGRADE, **options) as (reader, writer):
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"established")
            await reader.readuntil(b"}")
        yield reader, writer


def answered(rig: Rig) -> float:
    """Return the number of requests that the server has answered."""
    instruments = rig.server._instruments
    assert instruments is not None
    return sum(instruments.requests.answered.values())


async def read_on(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


# -- Time ------------------------------------------------------------------------------------


async def test_a_bystander_is_answered_between_the_requests_of_greedy_clients() -> None:
    """It was answered after all of them: 20,000 requests here, 21 s of them once."""
    async with serving(metrics=True) as rig, AsyncExitStack() as stack:
        reader, writer = await stack.enter_async_context(websocket(rig))
        readers = []
        for _ in range(8):
            other, greedy = await stack.enter_async_context(connected(rig))
            greedy.write(MUCH)
            readers.append(asyncio.create_task(read_on(other)))
        await until(lambda: bool(answered(rig)))
        before = answered(rig)
        writer.write(PING)
        await reader.readuntil(PONG)
        assert answered(rig) - before < REQUESTS, "less than one packet of one of them"
        assert answered(rig) < 8 * REQUESTS
        for task in readers:
            task.cancel()


async def test_a_bystander_is_answered_between_the_messages_of_greedy_clients() -> None:
    async with serving() as rig, AsyncExitStack() as stack:
        reader, writer = await stack.enter_async_context(websocket(rig))
        context = rig.server.context
        messages = frame(b"{}") * 8000
        readers = []
        for _ in range(8):
            other, greedy = await stack.enter_async_context(websocket(rig))
            greedy.write(messages)
            readers.append(asyncio.create_task(read_on(other)))
        await until(lambda: bool(context.messages_received))
        before = context.messages_received
        writer.write(PING)
        await reader.readuntil(PONG)
        assert context.messages_received - before < 8000
        for task in readers:
            task.cancel()


async def test_a_bystander_is_answered_between_the_requests_of_a_greedy_client_through_tls(
    tmp_path: Path,
) -> None:
    pair = certificates.make(tmp_path, "served")
    async with serving(metrics=True, **pair.options) as rig, AsyncExitStack() as stack:
        secured = Secured(rig, pair)
        reader, writer = await stack.enter_async_context(secured.wire())
        other, greedy = await stack.enter_async_context(secured.wire())
        writer.write(UPGRADE)
        await reader.readuntil(b"established")
        for _ in range(8):
            greedy.write(MUCH)
        task = asyncio.create_task(read_on(other))
        await until(lambda: bool(answered(rig)))
        before = answered(rig)
        writer.write(PING)
        await reader.readuntil(PONG)
        assert answered(rig) - before < REQUESTS
        task.cancel()


@pytest.mark.parametrize("through_tls", [False, True], ids=["cleartext", "tls"])
async def test_a_client_that_reads_no_answers_gets_no_further_requests_served(
    tmp_path: Path, through_tls: bool
) -> None:
    pair = certificates.make(tmp_path, "served")
    options = pair.options if through_tls else {}
    async with serving(metrics=True, **options) as rig, AsyncExitStack() as stack:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", rig.server.port))
        secure: dict[str, Any] = (
            {"ssl": pair.trusting(), "server_hostname": "localhost"} if through_tls else {}
        )
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096, **secure)
        stack.callback(writer.transport.abort)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # it reads nothing at all
        sent = 200
        for _ in range(sent):
            writer.write(MUCH)
        (connection,) = rig.server.context.http_connections
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: bool(connection._unread))
        served = answered(rig)
        for _ in range(200):
            await asyncio.sleep(0)
        assert answered(rig) - served <= 1, "no further one than what was at work"
        assert served < sent * REQUESTS / 4
        assert len(connection._input) <= 64 * 1024


async def test_input_that_was_put_off_is_handled_in_order_and_once() -> None:
    paths = [f"/{number}" for number in range(5000)]
    async with serving() as rig, wire(rig) as one:
        await one.send(b"".join(f"GET {p} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for p in paths))
        body = b'{"name":"n","channel":"c","data":"x"}'
        target = rig.signed("POST", f"/apps/{rig.app_id}/events", body)
        await one.send(f"POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode())
        await one.send(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answers = (await one.read_all()).split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] for answer in answers] == [b"404"] * 5000 + [b"200"]


async def test_messages_that_were_put_off_are_handled_in_order_and_once() -> None:
    async with serving(max_subscriptions=0) as rig, rig.client() as client:
        for number in range(3000):
            await client.send("pusher:subscribe", {"channel": f"c{number}"})
        for number in range(3000):
            acknowledged = json.loads(await client.receive())
            assert acknowledged["channel"] == f"c{number}"
        await client.expect_nothing_before_pong()


async def test_an_upgrade_takes_along_the_input_that_was_put_off() -> None:
    async with serving() as rig, connected(rig) as (reader, writer):
        writer.write(GET * 1000 + UPGRADE + PING * 1000)
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(1000):
                await reader.readuntil(b"Not found\n")
            await reader.readuntil(b"established")
            for _ in range(1000):
                await reader.readuntil(PONG)


async def test_after_a_stall_healthy_clients_are_not_closed() -> None:
    """Those that answered meanwhile were closed with 4201: they were judged before being read."""
    async with (
        serving(ping_interval=0.3, pong_timeout=0.3) as rig,
        websocket(rig) as (reader, writer),
    ):
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"\x89\x00")
        writer.write(frame(b"", 0x8A))
        time.sleep(1.2)  # noqa: ASYNC251 - nothing is read meanwhile, nor is any time looked at
        writer.write(PING)
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(PONG)
        assert rig.server.context.sockets == 1


async def test_after_a_stall_a_request_that_came_meanwhile_is_in_time() -> None:
    async with serving(request_timeout=0.5) as rig, wire(rig) as one:
        await one.send(b"GET /health HTTP/1.1\r\n")
        await until(lambda: bool(rig.server.context.http_connections))
        (connection,) = rig.server.context.http_connections
        await until(lambda: bool(connection._receiving))
        await one.send(b"Host: x\r\n\r\n")
        time.sleep(1.2)  # noqa: ASYNC251 - as above
        assert (await one.read_until(b"\r\n")).startswith(b"HTTP/1.1 200")


async def test_nothing_is_parsed_after_our_close() -> None:
    async with serving() as rig, websocket(rig) as (reader, writer):
        context = rig.server.context
        writer.write(frame(b"\xff\xfe"))  # no UTF-8
        async with asyncio.timeout(PATIENCE_S):
            assert b"\x03\xef" in await reader.read()  # 1007, and our end of the connection
        received = context.messages_received, context.bytes_received
        writer.write(PING * 1000)
        await rig.fetch("GET", "/health")
        assert context.messages_received == received[0]
        assert context.sockets <= 1


async def test_a_closed_client_has_our_end_of_the_connection_at_once() -> None:
    """Browsers wait for it before they tell their page; no Close frame of theirs is needed."""
    async with serving() as rig:
        unknown = UPGRADE.replace(rig.key.encode(), b"unknown")
        async with connected(rig, unknown) as (reader, writer):
            async with asyncio.timeout(PATIENCE_S):
                assert b"\x0f\xa1" in await reader.read()  # 4001
            writer.write(PING * 100)
            writer.write_eof()
            async with asyncio.timeout(PATIENCE_S):
                await until(lambda: not rig.server.context.sockets)


def deflated(text: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


async def test_what_compressed_messages_become_counts_against_the_limit_on_messages() -> None:
    upgrade = UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    small = deflated(b'{"event":"pusher:ping","data":{}}')
    large = deflated(b'{"event":"pusher:ping","data":"%b"}' % (b" " * 100_000))
    assert len(large) < 1000
    options = {"enable_ws_compression": True, "max_messages_per_second": 1}
    async with serving(**options) as rig:
        for payload, allowed in ((small, True), (large, False)):
            async with connected(rig, upgrade) as (reader, writer):
                async with asyncio.timeout(PATIENCE_S):
                    await reader.readuntil(b"established")
                    writer.write(frame(payload, 0xC1) * 5)
                    writer.write_eof()
                    said = await reader.read()
            assert (b"too many messages per second" not in said) is allowed


# -- Memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beginning",
    [
        frame(b"x" * 1000)[:100],
        frame(b"x" * 1000, 0x01),
        frame(b"x" * 1000, 0x01) + frame(b"x" * 1000, 0x00),
    ],
    ids=["half a frame", "a first fragment", "fragments"],
)
async def test_a_message_incomplete_for_too_long_closes_with_1008(
    beginning: bytes,
) -> None:
    async with serving(request_timeout=0.6) as rig, websocket(rig) as (reader, writer):
        began = time.monotonic()
        writer.write(beginning)
        if beginning[0] == 0x01:  # between frames others may be sent, which keep nothing alive
            async with asyncio.timeout(PATIENCE_S):
                while not reader.at_eof() and time.monotonic() < began + 3:
                    writer.write(frame(b"", 0x89))
                    said = await reader.read(1000)
                    if b"\x03\xf0" in said:  # 1008
                        break
        else:
            async with asyncio.timeout(PATIENCE_S):
                said = await reader.read()
        assert b"\x03\xf0A message was not complete in time" in said
        assert 0.6 <= time.monotonic() - began < 2


async def test_messages_of_which_each_is_in_time_may_go_on_for_ever() -> None:
    async with serving(request_timeout=0.5) as rig, websocket(rig) as (reader, writer):
        began = time.monotonic()
        half = len(PING) // 2
        writer.write(PING[:half])
        while time.monotonic() - began < 1.2:  # more than two time-outs; never a whole read
            writer.write(PING[half:] + PING[:half])
            async with asyncio.timeout(PATIENCE_S):
                await reader.readuntil(PONG)
            await asyncio.sleep(0.05)


async def test_the_largest_incomplete_message_is_dropped_beyond_the_total() -> None:
    async with serving() as rig, AsyncExitStack() as stack:
        intake = Intake(asyncio.get_running_loop(), most=100_000)
        rig.server.context.intake = intake
        small = await stack.enter_async_context(websocket(rig))
        large = await stack.enter_async_context(websocket(rig))
        small[1].write(frame(b"x" * 60_000)[:-100])
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: intake.bytes >= 59_000)
            large[1].write(frame(b"x" * 90_000)[:-100])
            assert b"too many incomplete messages" in await large[0].read()
        assert intake.dropped == 1
        assert len(intake) == 1
        small[1].write(b"x" * 100)
        async with asyncio.timeout(PATIENCE_S):
            assert b"Invalid JSON" in await small[0].readuntil(b"Invalid JSON")
        assert intake.bytes == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/apps/3/events", 401),
        ("/apps/3/events?auth_key=unknown", 400),
        ("/apps/3/channels", 405),
        ("/nothing", 404),
        ("/health", 405),
    ],
)
async def test_a_body_that_nobody_signed_is_not_received(path: str, status: int) -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode()
        )
        reply = parse(await one.read_all())
        assert reply.status == status
        assert reply.headers["Connection"] == "close"


async def test_a_body_whose_signature_is_wrong_is_not_asked_for() -> None:
    async with serving() as rig, wire(rig) as one:
        target = rig.signed("POST", "/apps/3/events", b"x", auth_signature="0" * 64)
        await one.send(
            f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        answer = await one.read_all()
        assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_body_that_somebody_signed_is_received_in_pieces() -> None:
    async with serving() as rig, rig.client() as client, wire(rig) as one:
        await client.subscribe("c")
        body = json.dumps({"name": "n", "channel": "c", "data": "x" * 9000}).encode()
        target = rig.signed("POST", "/apps/3/events", body)
        await one.send(f"POST {target} HTTP/1.1\r\nHost: x\r\n".encode())
        await one.send(b"Content-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 1000):
            await one.send(body[start : start + 1000])
            await asyncio.sleep(0)
        assert (await one.read_until(b"\r\n")).startswith(b"HTTP/1.1 200")
        assert json.loads(await client.receive())["data"] == "x" * 9000


async def test_an_early_answer_is_the_one_that_the_whole_request_would_get() -> None:
    body = b'{"name":"n","channel":"c","data":"x"}'
    bad: list[dict[str, str | None]] = [
        {"auth_signature": "0" * 64},
        {"auth_key": "unknown"},
        {"auth_timestamp": "1"},
        {"auth_version": "2.0"},
        {"auth_key": None},
    ]
    async with serving() as rig:
        for overrides in bad:
            target = rig.signed("POST", "/apps/3/events", body, None, **overrides)
            head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            async with wire(rig) as whole, wire(rig) as early:
                await whole.send(head.encode() + body)
                await early.send(head.encode())
                answer = parse(await early.read_all())
                await whole.send(b"GET /x HTTP/1.0\r\n\r\n")
                first = (await whole.read_all()).partition(b"HTTP/1.1 404")[0]
                expected = parse(first)
            assert (answer.status, answer.body) == (expected.status, expected.body)


async def test_the_largest_unfinished_request_is_refused_when_all_are_too_much() -> None:
    async with serving() as rig, wire(rig) as one, wire(rig) as other:
        intake = Intake(asyncio.get_running_loop(), most=100_000)
        rig.server.context.intake = intake
        for each, size in ((one, 60_000), (other, 90_000)):
            target = rig.signed("POST", "/apps/3/events", b"x")
            await each.send(f"POST {target} HTTP/1.1\r\nHost: x\r\n".encode())
            await each.send(b"Content-Length: 100000\r\n\r\n" + b"x" * size)
        assert (await other.read_all()).startswith(b"HTTP/1.1 503 ")
        assert intake.bytes == pytest.approx(60_000, abs=1000)
        assert intake.dropped == 1
    assert intake.bytes == 0 or len(intake) <= 1


async def test_heads_that_are_not_complete_count_as_what_is_incomplete() -> None:
    async with serving() as rig, wire(rig) as one, wire(rig) as other:
        intake = Intake(asyncio.get_running_loop(), most=20_000)
        rig.server.context.intake = intake
        await one.send(b"GET /" + b"x" * 8_000)
        await until(lambda: intake.bytes >= 8_000)
        await other.send(b"GET /")
        for _ in range(13):
            await other.send(b"x" * 1000)
            await asyncio.sleep(0)
        assert (await other.read_all()).startswith(b"HTTP/1.1 503 ")
        assert intake.dropped == 1
        await one.send(b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await one.read_until(b"\r\n")).startswith(b"HTTP/1.1 404")
        assert intake.bytes == 0
