"""A real server in this process, with real sockets to talk to it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from heliograph.assembly import PROTOCOLS
from heliograph.client import signing
from heliograph.client.signing import Credentials
from heliograph.config.apps import Apps
from heliograph.config.load import make_config
from heliograph.engine.memory import MemoryEngine
from heliograph.protocols.registration import Registration
from heliograph.server import Server
from tests.unit.late_engine import LateEngine

APP_ID = "3"
KEY = "278d425bdf160c739803"
SECRET = "7ad3773142a6692b25b8"
APP = Credentials(KEY, SECRET)

SINGLE_APP = {"pusher_app_id": APP_ID, "pusher_app_key": KEY, "pusher_secret": SECRET}
LOCAL = {"host": "127.0.0.1", "port": 0, "shutdown_timeout": 0}
"""Options of a server for a test."""

PATIENCE_S = 5.0
"""How long anything may take before a test says that it never comes."""


class Client:
    """A WebSocket client that expects what it is told, to the letter."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.socket_id = ""

    async def receive(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            text = await self.connection.recv()
        assert isinstance(text, str)
        return text

    async def send(self, event: str, data: Any = None, **fields: Any) -> None:
        await self.connection.send(json.dumps({"event": event, "data": data, **fields}))

    async def expect(self, *texts: str) -> None:
        for text in texts:
            assert await self.receive() == text

    async def expect_error(self, code: int | None, message: str) -> None:
        error = json.loads(await self.receive())
        assert error == {"event": "pusher:error", "data": {"code": code, "message": message}}

    async def expect_nothing_before_pong(self) -> None:
        """Prove absence: what would have come must come before the answer to this."""
        await self.send("pusher:ping", {})
        await self.expect('{"event":"pusher:pong","data":"{}"}')

    async def expect_close(self, code: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.connection.wait_closed()
        assert self.connection.close_code == code

    def sign(self, channel: str, channel_data: str | None = None) -> dict[str, str]:
        auth = APP.authorize_subscription(self.socket_id, channel, channel_data)
        signed = {"channel": channel, "auth": auth}
        if channel_data is not None:
            signed["channel_data"] = channel_data
        return signed

    async def subscribe(self, channel: str, channel_data: str | None = None) -> str:
        """Subscribe, with a signature where one is needed, and return the acknowledgement."""
        public = not channel.startswith(("private-", "presence-"))
        data = {"channel": channel} if public else self.sign(channel, channel_data)
        await self.send("pusher:subscribe", data)
        return await self.receive()

    async def join(self, channel: str, user_id: str, user_info: Any = None) -> str:
        """Subscribe to a presence channel as *user_id*."""
        member = {"user_id": user_id}
        if user_info is not None:
            member["user_info"] = user_info
        return await self.subscribe(channel, json.dumps(member))


class Reply:
    """An answer of the HTTP API."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode()


class Rig:
    """The server, and ways to reach it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.app_id = APP_ID
        self.key = KEY
        self.secret = SECRET

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}"

    @asynccontextmanager
    async def open(self, path: str | None = None, **options: Any) -> AsyncIterator[Client]:
        """Connect, without looking at what comes first."""
        path = (
            f"/app/{KEY}?protocol=7&client=js&version=8.6.0&flash=false" if path is None else path
        )
        options.setdefault("proxy", None)
        async with connect(self.url + path, **options) as connection:
            yield Client(connection)

    @asynccontextmanager
    async def client(self, path: str | None = None, **options: Any) -> AsyncIterator[Client]:
        """Connect, and take the greeting."""
        async with self.open(path, **options) as client:
            greeting = json.loads(await client.receive())
            assert greeting["event"] == "pusher:connection_established"
            client.socket_id = json.loads(greeting["data"])["socket_id"]
            yield client

    def signed(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        parameters: Mapping[str, str] | None = None,
        **overrides: str | None,
    ) -> str:
        """Return the request target, signed; an override of None leaves a parameter out."""
        app = Credentials(self.key, self.secret)
        added = dict(app.request_parameters(method, path, at=time.time(), body=body))
        pairs: dict[str, str | None] = {**added, **(parameters or {}), **overrides}
        signature = pairs.pop("auth_signature")
        kept = [(name, value) for name, value in pairs.items() if value is not None]
        if "auth_signature" not in overrides:
            signature = app.sign(signing.request_text(method, path, kept))
        if signature is not None:
            kept.append(("auth_signature", signature))
        return f"{path}?{signing.query(kept)}"

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        parameters: Mapping[str, str] | None = None,
        **overrides: str | None,
    ) -> Reply:
        """Make a signed request under /apps/{app_id}; *body* is sent as JSON unless it is bytes."""
        sent = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        target = self.signed(method, f"/apps/{self.app_id}{path}", sent, parameters, **overrides)
        return await self.fetch(method, target, sent)

    async def fetch(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        port: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Make a request of a connection of its own."""
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port or self.server.api_port
            )
            head = (
                f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n"
            )
            lines = [f"{name}: {value}\r\n" for name, value in (headers or {}).items()]
            writer.write("".join([head, *lines, "\r\n"]).encode() + body)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return parse(answer)

    async def publish(self, name: str, channel: str, data: str = "{}", **fields: Any) -> None:
        """Publish one event, and insist that it was taken."""
        reply = await self.request(
            "POST", "/events", {"name": name, "channel": channel, "data": data, **fields}
        )
        assert (reply.status, reply.body) == (200, b"{}")


def parse(answer: bytes) -> Reply:
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Reply(int(status_line.split(" ")[1]), headers, body)


class TickingEngine(LateEngine):
    """Answers each operation some ticks later, one channel sooner than another."""

    in_flight = 0
    most_in_flight = 0

    def queue(self, channel: str, operation: Callable[[], None]) -> None:
        super().queue(channel, operation)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        # The same for one channel always, so that its order is kept.
        self._turn(1 + sum(channel.encode()) % 5, channel)

    def _turn(self, ticks: int, channel: str) -> None:
        if ticks:
            asyncio.get_running_loop().call_soon(self._turn, ticks - 1, channel)
        else:
            self.in_flight -= 1
            self.step(channel)


class Engines:
    """Which engine the servers of a test have; the last one made is kept for the test to ask."""

    late = False
    made: TickingEngine | None = None

    @classmethod
    def make(cls) -> TickingEngine:
        cls.made = TickingEngine(MemoryEngine(time.monotonic, wall=time.time, epoch="1"))
        return cls.made


@asynccontextmanager
async def serving(
    protocols: Sequence[Registration] = PROTOCOLS, apps: Apps | None = None, /, **options: Any
) -> AsyncIterator[Rig]:
    """
    Run a server with these options, as flags of the command line would give them.

    *apps* replace the one app that it would have.
    """
    config = make_config(**{**LOCAL, **SINGLE_APP, **options})
    config = replace(config, apps=apps or config.apps)
    server = Server(config, Engines.make if Engines.late else None, protocols=protocols)
    await server.start()
    try:
        yield Rig(server)
    finally:
        await server.stop()
