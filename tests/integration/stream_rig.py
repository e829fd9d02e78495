"""A server with the streaming transport, and a client of it that can lose its connection."""

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httptools

from heliograph.config.load import make_config
from heliograph.engine.base import Engine
from heliograph.net.registration import TransportRegistration
from heliograph.server import Server
from tests.integration.rig import APP, KEY, LOCAL, PATIENCE_S, SINGLE_APP, Reply, Rig
from tests.transports.stream.registration import StreamTransport
from tests.transports.stream.resumable import Terms

OPEN = f"/stream/{KEY}?protocol=7&client=test&version=1"


@asynccontextmanager
async def streaming(
    terms: Terms | None = None,
    *,
    transport: TransportRegistration | None = None,
    make_engine: Callable[[], Engine] | None = None,
    **options: Any,
) -> "AsyncIterator[StreamRig]":
    """Run a server with the streaming transport."""
    config = make_config(**{**LOCAL, **SINGLE_APP, **options})
    server = Server(config, make_engine, transports=(transport or StreamTransport(terms),))
    await server.start()
    rig = StreamRig(server)
    try:
        yield rig
    finally:
        for writer in rig.writers:
            writer.transport.abort()
        await server.stop()


class StreamRig(Rig):
    """The server, and the connections of its streams."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.writers: list[asyncio.StreamWriter] = []


class Response:
    """A response that comes in parts: its lines, as httptools reads them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.headers: dict[str, str] = {}
        self.complete = False
        self._reader = reader
        self.writer = writer
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode()] = value.decode()

    def on_body(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines += lines

    def on_message_complete(self) -> None:
        self.complete = True

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())

    async def line(self) -> bytes:
        """Return the next line; raises EOFError where the connection ends before."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._lines:
                await self.read_more()
        return self._lines.popleft()

    async def read_more(self) -> None:
        data = await self._reader.read(65536)
        if not data:
            raise EOFError
        self._parser.feed_data(data)

    async def until_complete(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.complete:
                await self.read_more()


def request(method: str, target: str, *headers: str, body: bytes = b"") -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{lines}{length}\r\n".encode() + body


class StreamClient:
    """A client of a stream: *received* counts its messages, whatever connection they came by."""

    def __init__(self, rig: StreamRig) -> None:
        self.rig = rig
        self.id = ""
        self.socket_id = ""
        self.received = 0
        self.closed: tuple[int, str] | None = None
        self.comments = 0
        self.response: Response

    async def ask(self, target: str, *headers: str, before: bytes = b"") -> Response:
        """Send a request whose response is a stream; *before* is sent in front of it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.rig.server.port)
        self.rig.writers.append(writer)
        writer.write(before + request("POST", target, *headers))
        self.response = Response(reader, writer)
        return self.response

    async def open(self, target: str = OPEN, *headers: str) -> None:
        """Connect, and take the greeting and the id."""
        await self.ask(target, *headers)
        await self.greeted()

    async def greeted(self) -> None:
        greeting = await self.receive()
        assert greeting["event"] == "pusher:connection_established"
        self.socket_id = json.loads(greeting["data"])["socket_id"]
        self.id = json.loads(await self.response.line())["stream"]

    @property
    def resuming(self) -> str:
        """The request target that goes on after the messages that were received."""
        return f"/stream/{self.id}/resume?received={self.received}"

    async def resume(self, *headers: str) -> None:
        """Connect again."""
        await self.ask(self.resuming, *headers)

    async def receive(self) -> dict[str, Any]:
        """Return the next message."""
        while True:
            line = await self.response.line()
            if line != b":":
                break
            self.comments += 1
        self.received += 1
        message: dict[str, Any] = json.loads(line)
        return message

    async def expect(self, *events: str) -> None:
        for event in events:
            assert (await self.receive())["event"] == event

    async def expect_closed(self, code: int) -> None:
        """Take the error, the last line and the end of the response."""
        error = await self.receive()
        assert error["event"] == "pusher:error"
        assert error["data"]["code"] == code
        last = json.loads(await self.response.line())
        assert (last["closed"], last["reason"]) == (code, error["data"]["message"])
        await self.response.until_complete()

    async def send(self, *messages: Any) -> Reply:
        body = b"\n".join(json.dumps(message).encode() for message in messages)
        return await self.rig.fetch("POST", f"/stream/{self.id}/send", body)

    async def subscribe(self, channel: str, user_id: str | None = None) -> dict[str, Any]:
        """Subscribe, and return the acknowledgement."""
        data = {"channel": channel}
        if user_id is not None:
            member = json.dumps({"user_id": user_id})
            data["auth"] = APP.authorize_subscription(self.socket_id, channel, member)
            data["channel_data"] = member
        assert (await self.send({"event": "pusher:subscribe", "data": data})).status == 204
        acknowledgement = await self.receive()
        assert acknowledgement["event"] == "pusher_internal:subscription_succeeded"
        return acknowledgement

    async def sign_in(self, user_id: str, **fields: Any) -> None:
        user = json.dumps({"id": user_id, **fields})
        data = {"user_data": user, "auth": APP.authorize_user(self.socket_id, user)}
        assert (await self.send({"event": "pusher:signin", "data": data})).status == 204
        await self.expect("pusher:signin_success")

    def reset(self) -> None:
        """Lose the connection with a reset: what is on the way is lost."""
        self.response.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.response.writer.transport.abort()

    def hang_up(self) -> None:
        """End the connection in order."""
        self.response.writer.close()

    async def lose(self, *, reset: bool = True) -> None:
        """Lose the connection, and await that the server knows."""
        sockets = self.rig.server.context.sockets
        if reset:
            self.reset()
        else:
            self.hang_up()
        async with asyncio.timeout(PATIENCE_S):
            while self.rig.server.context.sockets == sockets:  # noqa: ASYNC110 - it is near
                await asyncio.sleep(0)


@asynccontextmanager
async def stream(rig: StreamRig, *headers: str) -> AsyncIterator[StreamClient]:
    """Open a stream."""
    client = StreamClient(rig)
    await client.open(OPEN, *headers)
    yield client


async def until(condition: Callable[[], bool]) -> None:
    """Await what the server does on one of its next turns."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it is near
            await asyncio.sleep(0)
