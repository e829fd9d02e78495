"""
A WebSocket connection that logs every message, with secrets redacted.

Shows the messages between a client and the server. An ordinary connection has no code for this, so
a trace that is off costs nothing.
"""

import logging
from collections.abc import Callable
from typing import Any, cast

from heliograph.net.client import Client
from heliograph.net.context import Context
from heliograph.net.takeover import Handover
from heliograph.net.transport import Transport
from heliograph.net.websocket import WebSocketConnection
from heliograph.node.dialect import ClientLane, Opening, Session
from heliograph.wire.http import Request
from heliograph.wire.unmasked import read_server_frames
from heliograph.wire.websocket import FrameReader, Opcode, parse_close

logger = logging.getLogger(__name__)


class _TracedTransport:
    """A transport that logs what is written to it."""

    __slots__ = ("_connection", "_transport")

    def __init__(self, transport: Transport, connection: "TracedConnection") -> None:
        self._transport = transport
        self._connection = connection

    def write(self, chunk: bytes | memoryview) -> None:
        """Write *chunk*, and log it."""
        for opcode, payload in read_server_frames(bytes(chunk)):
            self._connection.log("sent", opcode, payload)
        self._transport.write(chunk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class TracedConnection(WebSocketConnection):
    """The same connection, traced in the log."""

    __slots__ = ("_came_from", "_received", "_redact", "_redact_reason")

    def __init__(
        self, context: Context, transport: Transport, lane: ClientLane, now: float
    ) -> None:
        traced = cast("Transport", _TracedTransport(transport, self))
        super().__init__(context, traced, lane, now)
        peer = transport.get_extra_info("peername")
        # For a Unix socket the peer name is a path, or empty.
        self._came_from = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "a local client"
        # A second reader: input is parsed twice, so that the ordinary connection needs no change.
        self._received = FrameReader(
            context.settings.max_message_bytes, compression=lane.framing.compression
        )
        self._redact: Callable[[bytes], str]
        self._redact_reason: Callable[[str], str]
        logger.debug("%s connected", self._came_from)

    def open(self, answer: bytes, opening: Opening, request: Request, handover: Handover) -> None:
        """Get the redaction of the client's protocol, and open as usual."""
        self._learn(opening)
        super().open(answer, opening, request, handover)

    def resume(
        self,
        answer: bytes,
        opening: Opening,
        session: Session,
        before: Client,
        *,
        request: Request,
        handover: Handover,
    ) -> None:
        """Get the redaction of the client's protocol, and resume as usual."""
        self._learn(opening)
        super().resume(answer, opening, session, before, request=request, handover=handover)

    def _learn(self, opening: Opening) -> None:
        self._redact = opening.dialect.redact
        self._redact_reason = opening.dialect.redact_reason

    def data_received(self, data: bytes) -> None:
        """Log the input, and handle it as usual."""
        for opcode, payload in self._received.feed(data):
            self.log("received", opcode, payload)
        super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Log the disconnection, after the usual handling."""
        super().connection_lost(error)
        logger.debug("%s disconnected%s", self.id or self._came_from, f": {error}" if error else "")

    def log(self, verb: str, opcode: Opcode, payload: bytes) -> None:
        """Log a frame."""
        if opcode is Opcode.TEXT:
            what = self._redact(payload)
        elif opcode is Opcode.CLOSE:
            code, reason = parse_close(payload)
            what = f"a Close frame: {code} {self._redact_reason(reason)}"
        else:
            what = f"a {opcode.name.title()} frame of {len(payload)} bytes"
        logger.debug("%s %s %s", self.id or self._came_from, verb, what)
