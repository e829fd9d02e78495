"""
A WebSocket connection: bytes to frames to messages, and the frames that are not messages.

Knows RFC 6455 and the socket's pace of reading. When a client is closed is decided in client.py.
"""

from functools import partial
from typing import Final

from heliograph.net.client import Client, State
from heliograph.net.context import Context
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
"""How long a client that broke the framing has to read why."""

PIECE_BYTES: Final = 256
"""Input is handled in such pieces, or frames, between which a connection looks at the clock."""

INFLATED_BYTES: Final = 4096
"""For the limit on messages, each so many bytes of a compressed one are one more."""

UNFINISHED_BYTES: Final = 4096
"""With so much of a message that is not complete, a connection counts against the total."""

PING = frame(Opcode.PING)

# A member of an enum costs as much to look up as a call of a function.
_OPEN = State.OPEN


class Unfinished(FrameReader):
    """
    The reader of a connection whose input is more, or less, than whole texts: for so long only.

    *since* is when the message began that is not complete.
    """

    __slots__ = ("counted", "since", "timed")

    def __init__(self, max_message_bytes: int, since: float, *, compression: bool) -> None:
        super().__init__(max_message_bytes, compression=compression)
        self.since = since
        self.timed = False  # the wheel has its deadline
        self.counted = False  # the intake has its bytes


class WebSocketConnection(Client):
    """A client over a WebSocket."""

    __slots__ = ("_reader",)

    def __init__(
        self, context: Context, transport: Transport, lane: ClientLane, now: float
    ) -> None:
        super().__init__(context, transport, lane, now)
        self._reader: Unfinished | None = None  # while there is more to read than whole texts

    # -- Reading -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Hand every message in *data*, and in what came before it, to the session."""
        if self._state >= State.CLOSING:
            return  # read so that the socket closes without a reset, no more
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
        Take what is more, or less, than one text: with a reader, until that holds nothing.

        A piece at a time, until the connection's slice of the turn is over.
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
        """Take *data* on a later turn, and read nothing before."""
        self._transport.pause_reading()
        self._context.turns.again(partial(self._go_on, data), self._transport)

    def _go_on(self, data: bytes) -> None:
        """Take what there was no time for; nothing of it once the connection closes."""
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
                return  # what came after our Close frame, or the client's, is not looked at
            if opcode < Opcode.CLOSE:
                reader.since = now  # what is not complete is another message
            self._take(opcode, payload, now)
        failure = reader.failure
        if failure is not None and self._state < State.CLOSING:
            self._fail(failure.code, failure.reason)

    def _keep_reader(self, reader: Unfinished) -> None:
        """Keep the reader while it holds something, which must be complete in time."""
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
            pass  # it was refused at its handshake, or just now
        elif opcode is Opcode.TEXT:
            context.messages_received += 1
            session.receive(payload, now)
        elif opcode is Opcode.PING:
            self.write(frame(Opcode.PONG, payload))
        elif opcode is Opcode.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "Binary messages are not supported")

    # -- What client.py asks of a framing ------------------------------------------------

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
        """Return when the message began that is not complete; 0 without one."""
        return 0.0 if self._reader is None else self._reader.since

    def refuse_unfinished(self) -> None:
        """Close: the message that is not complete has taken too long."""
        self._fail(CloseCode.POLICY_VIOLATION, "A message was not complete in time")

    def forget_unfinished(self) -> None:
        """Drop the reader, with what it holds."""
        reader, self._reader = self._reader, None
        if reader is not None and reader.counted:
            self._context.intake.forget(self)

    # -- Closing -------------------------------------------------------------------------

    def _close_received(self, payload: bytes) -> None:
        code, _ = parse_close(payload)
        self._transport.write(close_frame(code) if payload else frame(Opcode.CLOSE))
        self.end()
        # RFC 6455 7.1.1: it is the server that closes the TCP connection. One that does not
        # read our answer is not waited for.
        self._context.wheel.add(self, LINGER_S)
        self._transport.close()

    def _fail(self, code: int, reason: str) -> None:
        """RFC 6455 7.1.7: say why and be done; what the peer still sends is not understood."""
        errors = self._context.protocol_errors
        errors[code] = errors.get(code, 0) + 1
        self._transport.write(close_frame(code, reason))
        self.end()
        self.finish(LINGER_S)
