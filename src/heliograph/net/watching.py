"""
A WebSocket connection of which every message is in the log, its secrets cut.

For finding out what a client and the server say to each other. An ordinary connection knows
nothing of it, so it costs nothing where it is not asked for.
"""

import logging
from typing import Any, cast

from heliograph.net.context import Context
from heliograph.net.transport import Transport
from heliograph.net.websocket import DeflateLane, TextLane, WebSocketConnection
from heliograph.protocols.pusher.shown import plain, shown
from heliograph.wire.unmasked import spoken
from heliograph.wire.websocket import FrameReader, Opcode, parse_close

logger = logging.getLogger(__name__)


class _Tapped:
    """A transport that shows what is written to it."""

    __slots__ = ("_connection", "_transport")

    def __init__(self, transport: Transport, connection: "WatchedConnection") -> None:
        self._transport = transport
        self._connection = connection

    def write(self, chunk: bytes | memoryview) -> None:
        """Write *chunk*, and say so."""
        for opcode, payload in spoken(bytes(chunk)):
            self._connection.say("sent", opcode, payload)
        self._transport.write(chunk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class WatchedConnection(WebSocketConnection):
    """The same connection, told of in the log."""

    __slots__ = ("_came_from", "_ear")

    def __init__(self, context: Context, transport: Transport, lane: TextLane, now: float) -> None:
        tapped = cast("Transport", _Tapped(transport, self))
        super().__init__(context, tapped, lane, now)
        peer = transport.get_extra_info("peername")
        # Through a Unix socket it is a path, or nothing.
        self._came_from = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "a local client"
        # Of its own: reading twice is what lets the other side be as it is.
        self._ear = FrameReader(
            context.config.max_message_bytes, compression=isinstance(lane, DeflateLane)
        )
        logger.debug("%s connected", self._came_from)

    def data_received(self, data: bytes) -> None:
        """Say what came, and go on as ever."""
        for opcode, payload in self._ear.feed(data):
            self.say("received", opcode, payload)
        super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Say so, and go on as ever."""
        super().connection_lost(error)
        logger.debug("%s disconnected%s", self.id or self._came_from, f": {error}" if error else "")

    def say(self, verb: str, opcode: Opcode, payload: bytes) -> None:
        """Put a frame into the log."""
        if opcode is Opcode.TEXT:
            what = shown(payload)
        elif opcode is Opcode.CLOSE:
            code, reason = parse_close(payload)
            what = f"a Close frame: {code} {plain(reason)}"
        else:
            what = f"a {opcode.name.title()} frame of {len(payload)} bytes"
        logger.debug("%s %s %s", self.id or self._came_from, verb, what)
