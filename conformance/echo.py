"""
A server that sends each message back to its client, as Autobahn|Testsuite expects.

The event loop, sockets, handshake, frames, compression, pings and closes are those of the real
server. The Pusher session and the refusal of binary messages are replaced. The limit on the
fragments of a message (1024) is raised: cases 9.3 and 9.4 send more than 65,536.
"""

import asyncio
import signal
from typing import Any

from heliograph.config.load import make_config
from heliograph.net.takeover import Handover
from heliograph.net.websocket import Unfinished, WebSocketConnection
from heliograph.node.dialect import Opening
from heliograph.server import Server
from heliograph.wire.http import Request
from heliograph.wire.websocket import Opcode, frame

KEY = "conformance"
LARGEST_MESSAGE = 1 << 25
"""Bytes; the largest message of the test suite has 16 MiB."""

MOST_FRAGMENTS = 1 << 17


class EchoSession:
    """Sends each text message back, where the real server has a Pusher session."""

    identified = True

    def __init__(self, connection: "EchoConnection") -> None:
        self._connection = connection

    def receive(self, text: bytes, _now: float) -> None:
        """Send *text* back."""
        self._connection.send(text)

    def end(self) -> None:
        """Nothing is kept that the end of a connection would release."""


class EchoConnection(WebSocketConnection):
    """A connection of the real server, with an `EchoSession`; binary messages are echoed too."""

    __slots__ = ()

    def open(
        self,
        answer: bytes,
        opening: Opening,  # noqa: ARG002 - the app and the origin do not matter here
        request: Request,  # noqa: ARG002 - nor does the rest of the request
        handover: Handover,
    ) -> None:
        """Answer the handshake; the real server sends a greeting with it."""
        session: Any = EchoSession(self)
        self._session = session
        self._origin = handover.origin
        self.write(answer)
        if handover.rest:
            self.data_received(handover.rest)

    def _take_frames(self, data: bytes, now: float) -> None:
        if self._reader is None:
            compression = self.lane.framing.compression
            self._reader = Unfinished(LARGEST_MESSAGE, now, compression=compression)
            self._reader._max_fragments = MOST_FRAGMENTS
        super()._take_frames(data, now)

    def _take(self, opcode: Opcode, payload: bytes, now: float) -> None:
        if opcode is Opcode.BINARY:
            self.write(frame(Opcode.BINARY, payload))
        else:
            super()._take(opcode, payload, now)


async def serve() -> None:
    """Serve on a free port of the loopback interface, print its URL, and stop at SIGTERM."""
    config = make_config(
        host="127.0.0.1",
        port=0,
        pusher_app_id="1",
        pusher_app_key=KEY,
        pusher_secret="secret",  # noqa: S106 - clients of the test use no API
        shutdown_timeout=0,
        enable_ws_compression=True,
        ws_compression_threshold=0,
        max_message_bytes=LARGEST_MESSAGE,
        max_write_buffer=2 * LARGEST_MESSAGE,
        request_timeout=120,
    )
    server = Server(config)
    await server.start()
    server.upgrades.connect = EchoConnection
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    print(f"ws://127.0.0.1:{server.port}/app/{KEY}", flush=True)
    await stopping.wait()
    await server.stop(at_once=True)


if __name__ == "__main__":
    asyncio.run(serve())
