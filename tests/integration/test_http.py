"""HTTP over real sockets: order, patience, and the way from HTTP to WebSocket."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.integration.rig import KEY, PATIENCE_S, Engines, Rig, serving

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    f"GET /app/{KEY}?protocol=7 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()
MASKED_PING = b"\x89\x80\x00\x00\x00\x00"


class Wire:
    """A plain socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_until(self, end: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(end)

    async def read_all(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()


@asynccontextmanager
async def wire(rig: Rig) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


async def test_a_connection_is_kept_alive_until_it_asks_otherwise() -> None:
    async with serving() as rig, wire(rig) as one:
        for _ in range(3):
            await one.send(HEALTH)
            assert (await one.read_until(b"\r\n\r\nOK\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        await one.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"Connection: close" in await one.read_all()


async def test_every_answer_has_a_date() -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(HEALTH)
        assert b"\r\nDate: " in await one.read_until(b"OK\n")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as rig, wire(rig) as one:
        paths = ["/health", "/nothing", "/up", "/apps/3/events"] * 20
        await one.send(b"".join(f"GET {p} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for p in paths))
        for path in paths:
            status = {"/nothing": b"404", "/apps/3/events": b"405"}.get(path, b"200")
            assert (await one.read_until(b"\r\n")).split(b" ")[1] == status
            head = await one.read_until(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            await one.reader.readexactly(length)


async def test_a_signed_request_byte_by_byte() -> None:
    async with serving() as rig, rig.client() as client, wire(rig) as one:
        await client.subscribe("c")
        body = b'{"name":"n","channel":"c","data":"x"}'
        target = rig.signed("POST", "/apps/3/events", body)
        request = (
            f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        for place in range(len(request)):
            await one.send(request[place : place + 1])
            await asyncio.sleep(0)
        assert (await one.read_until(b"{}")).startswith(b"HTTP/1.1 200")
        await client.expect('{"event":"n","channel":"c","data":"x"}')


async def test_a_chunked_body_is_accepted_after_100_continue() -> None:
    async with serving() as rig, rig.client() as client, wire(rig) as one:
        await client.subscribe("c")
        body = b'{"name":"n","channel":"c","data":"x"}'
        target = rig.signed("POST", "/apps/3/events", body).encode()
        await one.send(
            b"POST " + target + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert await one.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await one.send(b"5\r\n" + body[:5] + b"\r\n" + b"%x\r\n" % (len(body) - 5) + body[5:])
        await one.send(b"\r\n0\r\n\r\n")
        assert (await one.read_until(b"{}")).startswith(b"HTTP/1.1 200")
        await client.expect('{"event":"n","channel":"c","data":"x"}')


async def test_javas_client_offers_h2c_and_is_answered_in_http() -> None:
    async with serving() as rig, rig.client() as client, wire(rig) as one:
        await client.subscribe("c")
        body = b'{"name":"n","channel":"c","data":"x"}'
        target = rig.signed("POST", "/apps/3/events", body).encode()
        request = (
            b"POST " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        ) + body
        await one.send(request + HEALTH)
        assert (await one.read_until(b"{}")).startswith(b"HTTP/1.1 200")
        assert (await one.read_until(b"OK\n")).startswith(b"HTTP/1.1 200")
        await client.expect('{"event":"n","channel":"c","data":"x"}')


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\n\r\n", 417),
    ],
)
async def test_an_invalid_request_is_answered_and_its_connection_closed(
    request_bytes: bytes, status: int
) -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(request_bytes)
        answer = await one.read_all()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"Connection: close" in answer


async def test_a_client_that_is_still_sending_reads_why_it_was_refused() -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n")
        await one.send(b"x" * 500_000)
        assert (await one.read_all()).startswith(b"HTTP/1.1 413 ")


async def test_a_slow_request_is_answered_408() -> None:
    async with serving(request_timeout=0.5) as rig, wire(rig) as head, wire(rig) as body:
        await head.send(b"GET /health HTTP/1.1\r\nHo")
        target = rig.signed("POST", f"/apps/{rig.app_id}/events", b"abcde")
        await body.send(f"POST {target} HTTP/1.1\r\nHost: a\r\n".encode())
        await body.send(b"Content-Length: 5\r\n\r\nab")
        for one in (head, body):
            assert (await one.read_all()).startswith(b"HTTP/1.1 408 ")


async def test_trickling_bytes_does_not_make_a_slow_request_faster() -> None:
    async with serving(request_timeout=0.5) as rig, wire(rig) as one:
        answer = asyncio.create_task(one.read_all())
        await one.send(b"GET /health HTTP/1.1\r\nX: ")
        while not answer.done():
            one.writer.write(b"x")
            await asyncio.wait([answer], timeout=0.05)
        assert answer.result().startswith(b"HTTP/1.1 408 ")


async def test_an_idle_connection_is_closed() -> None:
    async with serving(keep_alive_timeout=0.5) as rig, wire(rig) as silent, wire(rig) as used:
        await used.send(HEALTH)
        await used.read_until(b"OK\n")
        assert await silent.read_all() == b""
        assert await used.read_all() == b""


# -- From HTTP to WebSocket ----------------------------------------------------------------


async def test_bytes_that_follow_the_upgrade_are_kept() -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(UPGRADE + MASKED_PING)
        assert (await one.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (await one.read_until(b"\x8a\x00")).endswith(b"\x8a\x00")


async def test_an_upgrade_byte_by_byte() -> None:
    async with serving() as rig, wire(rig) as one:
        for byte in UPGRADE + MASKED_PING:
            await one.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await one.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (await one.read_until(b"\x8a\x00")).endswith(b"\x8a\x00")


async def test_an_upgrade_behind_other_requests() -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(HEALTH + HEALTH + UPGRADE + MASKED_PING)
        for _ in range(2):
            assert (await one.read_until(b"OK\n")).startswith(b"HTTP/1.1 200")
        assert (await one.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await one.read_until(b"\x8a\x00")


async def test_the_handshake_and_the_greeting_are_one_write() -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(UPGRADE)
        async with asyncio.timeout(PATIENCE_S):
            first = await one.reader.read(65536)
        assert first.startswith(b"HTTP/1.1 101 ")
        assert b"pusher:connection_established" in first


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Version: 13", b"Version: 8", 426),
        (b"Key: dGhlIHNhbXBsZSBub25jZQ==", b"Key: x", 400),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", 400),
    ],
)
async def test_a_handshake_that_is_none(old: bytes, new: bytes, status: int) -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(UPGRADE.replace(old, new))
        answer = await one.read_all()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        if status == 426:
            assert b"Sec-WebSocket-Version: 13" in answer


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x01x", 1002),  # not masked
        (b"\xc1\x80\x00\x00\x00\x00", 1002),  # a reserved bit
        (b"\x83\x80\x00\x00\x00\x00", 1002),  # a reserved opcode
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007),
        (b"\x81\xff\x00\x00\x00\x00\x00\xff\xff\xff\x00\x00\x00\x00", 1009),
    ],
)
async def test_broken_frames_close_with_their_code(frame: bytes, code: int) -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(UPGRADE)
        await one.read_until(b'120}"}')
        await one.send(frame)
        answer = await one.read_all()
        assert answer[:1] == b"\x88"
        assert int.from_bytes(answer[2:4], "big") == code


async def test_a_close_is_answered_with_its_code_and_the_socket_closed() -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(UPGRADE)
        await one.read_until(b'120}"}')
        await one.send(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
        assert await one.read_all() == b"\x88\x02\x03\xe8"


# -- Answers that come later ---------------------------------------------------------------


async def test_at_most_sixteen_requests_of_a_connection_wait_for_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the answers come in the order of the requests, whatever order they are known in."""
    monkeypatch.setattr(Engines, "late", True)
    async with serving() as rig, wire(rig) as one:
        requests = []
        for number in range(100):
            path = f"/apps/3/channels/presence-{number}/users"
            path = path if number % 3 else "/apps/3/channels"
            requests.append(f"GET {rig.signed('GET', path)} HTTP/1.1\r\nHost: x\r\n\r\n")
        await one.send("".join(requests).encode())
        for number in range(100):
            head = await one.read_until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            body = b'{"users":[]}' if number % 3 else b'{"channels":{}}'
            assert await one.reader.readexactly(len(body)) == body
        assert Engines.made is not None
        assert 2 <= Engines.made.most_in_flight <= 16


async def test_an_engine_that_is_away_is_503_and_reaches_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Engines, "late", True)
    async with serving() as rig, rig.client() as client:
        await client.subscribe("a")
        await client.subscribe("b")
        assert Engines.made is not None
        Engines.made.away = True
        body = {"name": "n", "channels": ["a", "b"], "data": "x"}
        reply = await rig.request("POST", "/events", body)
        assert (reply.status, reply.text) == (
            503,
            "The server cannot process this request now, try again later\n",
        )
        await client.expect_nothing_before_pong()
        Engines.made.away = False
        await rig.publish("n", "a")
        await client.expect('{"event":"n","channel":"a","data":"{}"}')


async def test_a_client_that_leaves_before_its_answer_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Engines, "late", True)
    async with serving() as rig:
        for _ in range(20):
            async with wire(rig) as one:
                target = rig.signed("GET", "/apps/3/channels")
                await one.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                one.writer.transport.abort()
        assert (await rig.request("GET", "/channels")).status == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_an_upgrade_waits_for_the_answers_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the client says afterwards is read, though reading had paused meanwhile."""
    monkeypatch.setattr(Engines, "late", True)
    async with serving() as rig, wire(rig) as one:
        target = rig.signed("GET", "/apps/3/channels")
        request = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        await one.send(request * 20 + UPGRADE)
        for _ in range(20):
            assert (await one.read_until(b'{"channels":{}}')).startswith(b"HTTP/1.1 200 ")
        assert (await one.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await one.read_until(b'120}"}')
        await one.send(MASKED_PING)
        await one.read_until(b"\x8a\x00")


async def test_a_client_that_does_not_read_its_answers_may_not_ask_for_more() -> None:
    async with serving() as rig:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", rig.server.port))
            await loop.sock_sendall(client, HEALTH)
            await loop.sock_recv(client, 1)
            (connection,) = rig.server.context.http_connections
            server_side: Any = connection._transport
            async with asyncio.timeout(30):
                while server_side.is_reading():
                    with suppress(BlockingIOError):
                        client.send(HEALTH)  # one at a time, so that each is answered alone
                    await asyncio.sleep(0)
            assert server_side.get_write_buffer_size() < 1_000_000


WORDS = [
    UPGRADE,
    UPGRADE.replace(b"protocol=7", b"protocol=6"),
    UPGRADE.replace(b"\r\n\r\n", b"\r\nOrigin: https://example.com\r\n\r\n"),
    UPGRADE.replace(b"Key: ", b"key: "),
    UPGRADE.replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
    UPGRADE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: a, b\r\n\r\n"),
]
SAMPLE_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
KEYS = [
    SAMPLE_KEY,
    b"x3JJHMbDL1EzLkh9GBhXDw==",
    b"x3JJHMbDL1EzLkh9GBhXDw=",
    b"x3JJHMbDL1EzLkh9GBhXDw==A",
    b"x3JJHMbDL1EzLkh9GBhX\r\n==",
    b"x3JJHMbDL1 zLkh9GBhXDw==",
    b"x3JJHMbDL1EzLkh9GBhXDwAA",
    b"A: b\r\nSec-WebSocket-Key: " + SAMPLE_KEY,
    b"",
]


async def handshake(rig: Rig, request: bytes) -> bytes:
    """Return the answer, and see that a client that is let in gets its id."""
    async with wire(rig) as one:
        await one.send(request)
        said = await one.read_until(b"\r\n\r\n")
        if said.startswith(b"HTTP/1.1 101 "):
            await one.read_until(b'\\"socket_id\\"')
            return said
        return re.sub(rb"Date: [^\r]+", b"", said + await one.read_all())


@pytest.mark.parametrize("words", WORDS)
async def test_a_handshake_in_known_words_is_answered_as_the_first_one(words: bytes) -> None:
    """The same words around another key are not read again, and the key is still judged."""
    async with serving() as known:
        for key in KEYS:
            request = words.replace(SAMPLE_KEY, key)
            async with serving() as new:
                answer = await handshake(new, request)
            await handshake(known, words)
            assert await handshake(known, request) == answer
            assert await handshake(known, request) == answer
