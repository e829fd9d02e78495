"""
A WebSocket connection: it parses bytes into frames and messages, and answers control frames.

Implements RFC 6455, and paces reading from the socket. client.py decides when a client is closed.
"""

from functools import partial
from typing import Final

from heliograph.net.client import Client, State
from heliograph.net.context import Context
from heliograph.net.intake import UNFINISHED_BYTES
from heliograph.net.transport import Transport
from heliograph.net.turns import SLICE_S
from heliograph.node.dialect import ClientLane, Goodbye
from heliograph.wire.websocket import (
    CloseCode,
    FrameReader,
    Opcode,
    close_frame,
    frame,
    parse_close,
    text_fast,
)

LINGER_S = 2.0
"""Seconds that a client with a framing error has to read the reason."""

PIECE_BYTES: Final = 256
"""Size of the pieces in which input is handled, if a frame is not larger; a connection checks the
clock after each piece."""

INFLATED_BYTES: Final = 4096
"""For the rate limit, this many decompressed bytes of a compressed message count as one more."""

PING = frame(Opcode.PING)

# Access to a member of an enum costs as much as a function call.
_OPEN = State.OPEN


class Unfinished(FrameReader):
    """
    The reader of a connection while its input is anything else than complete text messages.

    *since* is the time when the incomplete message began.
    """

    __slots__ = ("counted", "since", "timed")

    def __init__(self, max_message_bytes: int, since: float, *, compression: bool) -> None:
        super().__init__(max_message_bytes, compression=compression)
        self.since = since
        self.timed = False  # its deadline is on the wheel
        self.counted = False  # the intake counts its bytes


class WebSocketConnection(Client):
    """A client over a WebSocket."""

    __slots__ = ("_reader",)

    def __init__(
        self, context: Context, transport: Transport, lane: ClientLane, now: float
    ) -> None:
        super().__init__(context, transport, lane, now)
        self._reader: Unfinished | None = None  # only while needed

    # -- Reading -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Pass every message that *data* contains or completes to the session."""
        if self._state >= State.CLOSING:
            return  # input is only read so that the socket closes without a reset
        context = self._context
        now = self._last_seen = context.now()
        context.bytes_received += len(data)
        session = self._session
        if (
            session is not None
            and self._reader is None
            and (text := text_fast(data, context.max_message_bytes)) is not None
        ):
            context.messages_received += 1
            if self._state is not _OPEN:
                self._state = _OPEN  # it was pinged
            if context.max_messages_per_second and not self.admits(now):
                return
            session.receive(text, now)
        else:
            self._take_frames(data, now)

    def _take_frames(self, data: bytes, now: float) -> None:
        """
        Handle input other than one complete text, with a reader that is kept until it is empty.

        Input is handled in pieces, until the connection's slice of the turn is over.
        """
        if self._state is State.PINGED:
            self._state = State.OPEN
        reader = self._reader
        if reader is None:
            limit = self._context.max_message_bytes
            compression: bool = self.lane.framing.compression
            reader = self._reader = Unfinished(limit, now, compression=compression)
        size = len(data)
        if size <= PIECE_BYTES:
            self._take_piece(reader, data, now)
        else:
            clock = self._context.clock
            end = clock() + SLICE_S
            position = 0
            while position < size and self._state < State.CLOSING:
                if position and clock() >= end:
                    self._put_off(data[position:])
                    break
                piece = data[position : position + max(PIECE_BYTES, reader.missing)]
                position += len(piece)
                self._take_piece(reader, piece, now)
        if self._state < State.CLOSING:
            self._keep_reader(reader)

    def _put_off(self, data: bytes) -> None:
        """Handle *data* on a later turn; pause reading until then."""
        self._transport.pause_reading()
        self._context.turns.again(partial(self._go_on, data), self._transport)

    def _go_on(self, data: bytes) -> None:
        """Handle the rest of the input, unless the connection is closing."""
        if self._state < State.CLOSING:
            self._transport.resume_reading()
            self._take_frames(data, self._context.now())

    def _take_piece(self, reader: Unfinished, data: bytes, now: float) -> None:
        messages = reader.feed(data)
        if reader.inflated:
            count, reader.inflated = reader.inflated // INFLATED_BYTES, 0
            if count and self._context.max_messages_per_second and not self.admits(now, count):
                return
        for opcode, payload in messages:
            if self._state >= State.CLOSING:
                return  # input after a Close frame of either side is ignored
            if opcode < Opcode.CLOSE:
                reader.since = now  # an incomplete message after it is a new one
            self._take(opcode, payload, now)
        failure = reader.failure
        if failure is not None and self._state < State.CLOSING:
            self._fail(failure.code, failure.reason)

    def _keep_reader(self, reader: Unfinished) -> None:
        """Keep the reader while a message is incomplete, and set the deadline of that message."""
        if reader.idle:
            self.forget_unfinished()
            return
        if not reader.timed:
            reader.timed = True
            self._context.wheel.hasten(self, self._context.settings.request_timeout)
        held = reader.held
        if held > UNFINISHED_BYTES or reader.counted:
            reader.counted = True
            self._context.intake.note(self, held)

    def _take(self, opcode: Opcode, payload: bytes, now: float) -> None:
        context = self._context
        session = self._session
        if opcode is Opcode.CLOSE:
            self._close_received(payload)
        elif session is None or (context.max_messages_per_second and not self.admits(now)):
            pass  # refused at its handshake, or by the rate limit just now
        elif opcode is Opcode.TEXT:
            context.messages_received += 1
            session.receive(payload, now)
        elif opcode is Opcode.PING:
            self.write(frame(Opcode.PONG, payload))
        elif opcode is Opcode.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "Binary messages are not supported")

    # -- Framing, for client.py ----------------------------------------------------------

    def ping(self) -> None:
        """Send a Ping frame."""
        self.write(PING)

    def last_bytes(self, goodbye: Goodbye) -> bytes:
        """Return the message, if there is one, and a Close frame."""
        end = close_frame(goodbye.code, goodbye.reason)
        if goodbye.message is None:
            return end
        return self.lane.framing.uncompressed(goodbye.message) + end

    def unfinished_since(self) -> float:
        """Return when the incomplete message began; 0 if there is none."""
        return 0.0 if self._reader is None else self._reader.since

    def refuse_unfinished(self) -> None:
        """Close the connection, because the incomplete message has taken too long."""
        self._fail(CloseCode.POLICY_VIOLATION, "A message was not complete in time")

    def forget_unfinished(self) -> None:
        """Drop the reader with its buffered bytes."""
        reader, self._reader = self._reader, None
        if reader is not None and reader.counted:
            self._context.intake.forget(self)

    # -- Closing -------------------------------------------------------------------------

    def _close_received(self, payload: bytes) -> None:
        code, _ = parse_close(payload)
        self._transport.write(close_frame(code) if payload else frame(Opcode.CLOSE))
        self.end()
        # RFC 6455 7.1.1: the server closes the TCP connection. The wheel aborts the connection of a
        # client that does not read the answer.
        self._context.wheel.add(self, LINGER_S)
        self._transport.close()

    def _fail(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455 7.1.7): send the reason, and ignore further input."""
        errors = self._context.protocol_errors
        errors[code] = errors.get(code, 0) + 1
        self._transport.write(close_frame(code, reason))
        self.end()
        self.finish(LINGER_S)
