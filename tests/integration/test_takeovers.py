"""
Takeovers of connections by a handler of plain Python: also on the compiled server.

The streaming transport of tests/transports derives classes from those of the server, which cannot
be done where these are compiled. What is here needs no base class.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import Struct

from heliograph.config.load import make_config
from heliograph.config.settings import Config
from heliograph.handler import AnswerReply, Handler
from heliograph.net.registration import TransportRegistration
from heliograph.net.takeover import Handover
from heliograph.node.dialect import Dialect
from heliograph.reply import Later
from heliograph.server import Server
from heliograph.wire.chunked import LAST_CHUNK, chunk, chunked_head
from heliograph.wire.http import Request
from heliograph.wire.responses import Response
from tests.integration.rig import LOCAL, SINGLE_APP, Rig
from tests.integration.test_http import HEALTH, wire

ORIGIN = "https://a.example"
TAKE = f"GET /take HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\n\r\n".encode()
LATER = TAKE.replace(b"/take", b"/take-later")
WHOLE = chunk(b"taken\n") + LAST_CHUNK


class Stream(Struct):
    """The takeover: writes a response in chunks, and closes."""

    status: int = 200

    def take(self, handover: Handover, /) -> None:
        """Write all at once."""
        handover.transport.set_protocol(Deaf(handover))
        head = chunked_head("text/plain", handover.headers)
        handover.transport.write(head + WHOLE)
        handover.transport.close()


class Deaf:
    """The receiver of a connection from which nothing is expected."""

    def __init__(self, handover: Handover) -> None:
        self._context = handover.context
        self._context.sockets += 1
        self._context.wheel.discard(handover.predecessor)

    def data_received(self, _data: bytes, /) -> None:
        """Discard it."""

    def eof_received(self) -> None:
        """Nothing more comes."""

    def pause_writing(self) -> None:
        """All was written."""

    def resume_writing(self) -> None:
        """All was written."""

    def connection_lost(self, _error: Exception | None, /) -> None:
        """Count the connection no more."""
        self._context.sockets -= 1
        self._context.departed()


class Taking:
    """Answers /take with a takeover, /take-later with one that comes when `late` is resolved."""

    def __init__(self, otherwise: Handler) -> None:
        self._otherwise = otherwise
        self.late: list[Later[Any]] = []

    def handle(self, request: Request) -> AnswerReply:
        if request.path == b"/take":
            return Stream()
        if request.path == b"/take-later":
            self.late.append(Later())
            return self.late[-1]
        return self._otherwise.handle(request)

    def refuse_early(self, request: Request) -> Response | None:
        return self._otherwise.refuse_early(request)


class Transport(TransportRegistration):
    paths = ("/take",)
    handlers: list[Taking]

    def __init__(self) -> None:
        self.handlers = []

    def handler(self, _dialects: Sequence[Dialect], _config: Config, otherwise: Handler) -> Taking:
        self.handlers.append(Taking(otherwise))
        return self.handlers[-1]

    def route_of(self, path: bytes) -> str | None:
        return path.decode() if path.startswith(b"/take") else None


@pytest.fixture
async def transport() -> Transport:
    return Transport()


@pytest.fixture
async def rig(transport: Transport) -> Any:
    config = make_config(**{**LOCAL, **SINGLE_APP, "cors_allowed_origins": ORIGIN})
    server = Server(config, transports=[transport])
    await server.start()
    yield Rig(server)
    await server.stop()


async def test_a_connection_that_is_taken_over_at_once_has_the_headers_for_pages(rig: Rig) -> None:
    async with wire(rig) as one:
        await one.send(TAKE)
        answer = await one.read_until(WHOLE)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"Access-Control-Allow-Origin: {ORIGIN}".encode() in answer
        assert await one.read_all() == b""
    assert rig.server.context.sockets == 0


async def test_a_connection_is_taken_over_after_the_answers_to_earlier_requests(
    rig: Rig, transport: Transport
) -> None:
    async with wire(rig) as one:
        await one.send(HEALTH + LATER + HEALTH)
        assert (await one.read_until(b"OK\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        (late,) = transport.handlers[0].late
        late.resolve(Stream())
        answer = await one.read_until(WHOLE)
        assert answer.count(b"HTTP/1.1") == 1  # nothing behind a takeover is answered
        assert await one.read_all() == b""


async def test_a_client_that_disconnects_before_its_takeover_costs_nothing(
    rig: Rig, transport: Transport
) -> None:
    async with wire(rig) as one:
        await one.send(LATER)
        while not transport.handlers[0].late:  # noqa: ASYNC110 - it is read soon
            await asyncio.sleep(0)
        one.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        one.writer.transport.abort()  # a client that only ends its side still gets its answer
    while rig.server.context.http_connections:  # noqa: ASYNC110 - it notices by itself
        await asyncio.sleep(0)
    transport.handlers[0].late[0].resolve(Stream())
    assert rig.server.context.sockets == 0
