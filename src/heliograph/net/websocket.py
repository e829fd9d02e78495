"""
A WebSocket connection: bytes to frames to a session, and its answers back.

Knows the socket, its liveness and its pace. What the messages mean is the session's
business. There is one object for a connection, no task, no timer of its own, no queue:
what a slow client has not read yet waits in the transport, up to a limit.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from typing import Any, ClassVar, Final

from heliograph import rate
from heliograph.errors import ClientError
from heliograph.hub.channel import Lane
from heliograph.hub.facts import Event, Fact
from heliograph.net.addresses import Origin
from heliograph.net.backlog import BEHIND_BYTES
from heliograph.net.clock import Timed
from heliograph.net.context import Context
from heliograph.net.transport import Transport, has_input, peer_address
from heliograph.net.turns import SLICE_S
from heliograph.node.dialect import Session
from heliograph.protocols.pusher import endpoint, messages, refusals
from heliograph.protocols.pusher.event_text import event_message
from heliograph.wire.deflate import SMALLEST_WINDOW_BITS, WINDOW_BITS, negotiate
from heliograph.wire.http import Request
from heliograph.wire.websocket import (
    HANDSHAKE_BEGINNING,
    CloseCode,
    FrameReader,
    Opcode,
    accept_key,
    close_frame,
    compressed_text_frame,
    cut_at_key,
    frame,
    handshake_end,
    is_key,
    lone_text,
    offered_subprotocols,
    parse_close,
    text_frame,
)

CLOSE_TIMEOUT_S = 5.0
"""How long a client has to answer our Close frame."""

LINGER_S = 2.0
"""How long a client that broke the framing has to read why."""

PIECE_BYTES: Final = 256
"""Input is handled in such pieces, or frames, between which a connection looks at the clock."""

INFLATED_BYTES: Final = 4096
"""For the limit on messages, each so many bytes of a compressed one are one more."""

UNFINISHED_BYTES: Final = 4096
"""With so much of a message that is not complete, a connection counts against the total."""

FAR_OVER = 4
"""A client this many times over its limit is not waited for."""

MESSAGES_BURST_S = 10.0
"""Clients subscribe to all their channels at once: so much time's messages may come together."""

MAX_REMEMBERED = 256
"""Handshakes that are remembered, of at most MAX_REMEMBERED_BYTES each."""

MAX_REMEMBERED_BYTES = 1024

MOST_PIECES = 4
"""A chunk that some are left out of is written in so many pieces at the most."""

WORTH_A_VIEW = 8 * 1024
"""Less than this is copied sooner than written in pieces. Measured: it is even at 10 KB."""

PING = frame(Opcode.PING)


class TextLane(Lane):
    """Text frames of Pusher's messages: the lane of every plain WebSocket connection."""

    def frame(self, text: bytes) -> bytes:
        """Make a frame of a message."""
        return text_frame(text)

    def encode(self, fact: Fact, /) -> bytes:
        """Make one frame."""
        if type(fact) is Event:  # nine in ten
            return text_frame(event_message(fact))
        return text_frame(messages.fact_message(fact))

    def join(self, encoded: Sequence[bytes], /) -> bytes:
        """Frames stand for themselves, so they are only put in a row."""
        return b"".join(encoded)

    def cut(
        self, chunk: bytes, parts: Sequence[tuple[int, int]], /
    ) -> Sequence[bytes | memoryview]:
        """
        Return some frames of a row: where that is large as parts of it, which are no copies.

        Whoever reads slowly keeps with a part the whole. So where the parts are less than half of
        it, or many, they are put in a row of their own.
        """
        view = memoryview(chunk)
        pieces = [view[begin:end] for begin, end in parts]
        kept = sum([end - begin for begin, end in parts])
        if len(pieces) > MOST_PIECES or kept < WORTH_A_VIEW or 2 * kept < len(chunk):
            return [b"".join(pieces)]
        return pieces


class DeflateLane(TextLane):
    """
    The same, with messages of *threshold* bytes and more compressed, once for all.

    Clients whose window is smaller than usual have a lane of their own, with the smallest window:
    it serves them all, so that a client can have each message compressed twice, and not for each
    size of a window.
    """

    def __init__(self, threshold: int, window_bits: int = WINDOW_BITS) -> None:
        self._threshold = threshold
        self._window_bits = window_bits
        self._small: DeflateLane | None = None  # until a client asks for it

    def within(self, window_bits: int) -> "DeflateLane":
        """Return the lane for a client with a window of *window_bits*, 9 to 15."""
        if window_bits >= self._window_bits:
            return self
        if self._small is None:
            self._small = DeflateLane(self._threshold, SMALLEST_WINDOW_BITS)
        return self._small

    def frame(self, text: bytes) -> bytes:
        """Make a frame of a message."""
        if len(text) < self._threshold:
            return text_frame(text)
        return compressed_text_frame(text, self._window_bits)

    def encode(self, fact: Fact, /) -> bytes:
        """Make one frame."""
        return self.frame(messages.fact_message(fact))


class State(IntEnum):
    """Where a connection is in its life; in the order in which it gets there."""

    OPEN = 0
    PINGED = 1  # silent for long, and asked whether it is there
    CLOSING = 2  # our Close frame is on its way, or the peer's was answered
    CLOSED = 3


# A member of an enum costs as much to look up as a call of a function.
_OPEN = State.OPEN


class Handshake:
    """What a client asks for, but for its key: the same for all whose requests are the same."""

    __slots__ = ("_end", "app_key", "lane", "origin", "refusal", "request")

    def __init__(self, context: Context, request: Request) -> None:
        headers = request.headers
        self.request = request
        self.lane: TextLane = context.lane
        extensions: Sequence[tuple[bytes, bytes]] = ()
        deflate_lane = context.deflate_lane
        if deflate_lane is not None and (agreed := negotiate(headers)) is not None:
            self.lane = deflate_lane.within(agreed.window_bits)
            extensions = ((b"Sec-WebSocket-Extensions", agreed.answer),)
        self._end = handshake_end(
            subprotocol=endpoint.subprotocol(offered_subprotocols(headers)), headers=extensions
        )
        origin = request.lone_header(b"origin")
        self.origin = origin.decode("latin-1") if origin is not None else None
        self.app_key = ""
        self.refusal: ClientError | None = None
        try:
            self.app_key = endpoint.requested_app(
                request.path, request.query, context.path_prefix, lenient=context.lenient_protocol
            )
        except ClientError as error:
            self.refusal = error

    def accept(
        self,
        context: Context,
        transport: Transport,
        key: bytes,
        *,
        rest: bytes = b"",
        origin: Origin | None = None,
        crowded: bool = False,
        predecessor: Timed,
        now: float,
    ) -> None:
        """
        Turn an HTTP connection into a WebSocket connection; *rest* followed the request.

        *predecessor* is the HTTP connection, whose place on the wheel it takes *now*.

        *origin* is where the connection is counted, if it is; it keeps its place there. One for
        whom there was no room, for it is *crowded*, is told so, as is whatever else is wrong:
        inside the WebSocket, since a browser shows its page nothing of a failed handshake.
        """
        connection = (context.connect or WebSocketConnection)(context, transport, self.lane, now)
        transport.set_protocol(connection)
        context.wheel.replace(predecessor, connection)
        answer = b"%b%b%b" % (HANDSHAKE_BEGINNING, accept_key(key), self._end)
        connection.open(answer, self, rest, origin, crowded=crowded)


class HandshakeMemory:
    """
    Handshakes that were accepted before, by the bytes of their requests around the key.

    When a server comes back, thousands of clients ask for the same, in the same words.
    """

    __slots__ = ("_handshakes",)

    def __init__(self) -> None:
        self._handshakes: dict[tuple[bytes, bytes], Handshake] = {}

    def find(self, head: bytes) -> tuple[Handshake, bytes] | None:
        """Return what *head* asks for, and its key; None says only that it must be read."""
        parts = cut_at_key(head)
        if parts is None:
            return None
        before, key, after = parts
        handshake = self._handshakes.get((before, after))
        if handshake is None or not is_key(key):
            return None
        return handshake, key

    def remember(self, head: bytes, handshake: Handshake) -> None:
        """Keep what was read from *head*, the whole of a request, if there was nothing to it."""
        if len(head) > MAX_REMEMBERED_BYTES or handshake.refusal is not None:
            return
        parts = cut_at_key(head)
        if parts is None or not is_key(parts[1]):
            return
        if len(self._handshakes) >= MAX_REMEMBERED:
            self._handshakes.clear()  # cheaper than an order of use; those in use are soon back
        self._handshakes[parts[0], parts[2]] = handshake


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


def _discard(_chunk: Any) -> None:
    """Where writes to a closing connection go."""


class WebSocketConnection:
    """A Subscriber, and the Peer of a session, over a socket."""

    __slots__ = (
        "_context",
        "_identify_by",
        "_last_seen",
        "_origin",
        "_paid_until",
        "_reader",
        "_session",
        "_state",
        "_transport",
        "due",
        "id",
        "lane",
        "write",
    )

    patient: ClassVar[bool] = False
    """One that is far behind is dropped."""

    def __init__(self, context: Context, transport: Transport, lane: TextLane, now: float) -> None:
        self.id = ""
        self.lane = lane
        self.due = 0
        # The transport's own method, so that a fan-out pays for no call of ours; replaced by
        # another when the connection is closing or its client slow.
        self.write: Any = transport.write
        self._context = context
        self._transport = transport
        self._session: Session | None = None
        self._reader: Unfinished | None = None  # while there is more to read than whole texts
        self._state = State.OPEN
        self._origin: Origin | None = None  # where it is counted, if it is
        self._identify_by = 0.0  # when the client must have proved who it is; 0 for never
        self._last_seen = now
        self._paid_until = 0.0  # see rate.py
        context.sockets += 1
        context.sockets_opened += 1

    # -- Opening -------------------------------------------------------------------------

    def open(
        self,
        answer: bytes,
        handshake: Handshake,
        rest: bytes,
        origin: Origin | None,
        *,
        crowded: bool,
    ) -> None:
        """Answer the handshake and begin the session, in one write."""
        self._origin = origin
        config = self._context.config
        self._transport.set_write_buffer_limits(min(config.max_write_buffer, BEHIND_BYTES))
        try:
            self._admit(handshake, crowded=crowded)
            session = self._context.dialect.connect(
                handshake.app_key, handshake.origin, self._peer_name
            )
        except ClientError as error:
            self.write(answer)
            self.close(error)
            return
        self.id = session.id
        self._session = session
        self.write(answer + text_frame(session.open(self)))
        patience_s = session.tenant.app.authorized_connections_timeout
        if patience_s:
            self._identify_by = self._context.now() + patience_s
            self._context.wheel.add(self, min(patience_s, config.ping_interval))
        if rest:
            self.data_received(rest)

    def _peer_name(self) -> str:
        return peer_address(self._transport) or "a Unix socket"

    def _admit(self, handshake: Handshake, *, crowded: bool) -> None:
        """Raise ClientError for whom no app need be asked to refuse."""
        context, origin = self._context, self._origin
        if origin is not None and origin.proxy:
            # First: those that are refused for another reason count until they have left, too.
            origin = context.addresses.name_client(origin, handshake.request)
            if origin is None:
                self._transport.abort()
                raise refusals.too_many_from_address()
            self._origin = origin
        if handshake.refusal is not None:
            raise handshake.refusal
        if context.deserted is not None:
            raise refusals.reconnect()  # let in at the last moment, while the others leave
        if origin is not None and origin.over:
            raise refusals.too_many_from_address()
        if crowded:
            context.refused_over_capacity += 1
            raise refusals.over_capacity()

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
            and (text := lone_text(data, context.max_message_bytes)) is not None
        ):
            context.messages_received += 1
            if self._state is not _OPEN:
                self._state = _OPEN  # it was asked whether it is there
            if context.max_messages_per_second and not self._pays(now):
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
            compression = isinstance(self.lane, DeflateLane)
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
            if count and self._context.max_messages_per_second and not self._pays(now, count):
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
            self._forget_reader()
            return
        if not reader.timed:
            reader.timed = True
            self._context.wheel.hasten(self, self._context.config.request_timeout)
        held = reader.held
        if held > UNFINISHED_BYTES or reader.counted:
            reader.counted = True
            self._context.intake.note(self, held)

    def _take(self, opcode: Opcode, payload: bytes, now: float) -> None:
        context = self._context
        session = self._session
        if opcode is Opcode.CLOSE:
            self._close_received(payload)
        elif session is None or (context.max_messages_per_second and not self._pays(now)):
            pass  # it was refused at its handshake, or just now
        elif opcode is Opcode.TEXT:
            context.messages_received += 1
            session.receive(payload, now)
        elif opcode is Opcode.PING:
            self.write(frame(Opcode.PONG, payload))
        elif opcode is Opcode.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "Binary messages are not supported")

    def _pays(self, now: float, count: int = 1) -> bool:
        """Return whether *count* more messages may come now; close where they may not."""
        context = self._context
        paid_until = rate.paid_until(
            self._paid_until,
            now,
            per_second=context.max_messages_per_second,
            burst_s=MESSAGES_BURST_S,
            count=count,
        )
        if paid_until is None:
            context.rate_limited_messages += 1
            self.close(refusals.too_many_messages())
            return False
        self._paid_until = paid_until
        return True

    def eof_received(self) -> None:
        """The peer sends no more: the transport closes itself, and says so."""

    # -- Writing -------------------------------------------------------------------------

    def send(self, *texts: bytes) -> None:
        """Deliver messages to this client, in one write."""
        frame = self.lane.frame
        self._context.messages_sent += len(texts)
        chunk = frame(texts[0]) if len(texts) == 1 else b"".join(map(frame, texts))
        self._context.bytes_sent += len(chunk)
        self.write(chunk)

    def pause_writing(self) -> None:
        """Called inside a write: the client is behind."""
        self._context.backlog.note(self, self.unread())
        if self._state < State.CLOSING:
            self.write = self._write_to_slow

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._context.backlog.forget(self)
        if self._state < State.CLOSING:
            self.write = self._transport.write

    def unread(self) -> int:
        """Return the number of bytes that wait for the client."""
        return self._transport.get_write_buffer_size()

    def _write_to_slow(self, chunk: bytes) -> None:
        self._transport.write(chunk)
        context = self._context
        size = self.unread()
        context.backlog.note(self, size)
        if size > FAR_OVER * context.config.max_write_buffer:
            # A flush is going on around us: memberships change after it.
            self.write = _discard
            context.loop.call_soon(self.drop)

    def drop(self) -> None:
        """End the connection at once: the client reads too slowly."""
        if self._state < State.CLOSING:
            self._context.slow_readers += 1
            self._end()
        if self._state is not State.CLOSED:
            self._transport.abort()

    # -- Time ----------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """
        See to what is due: a silent client, an unknown one, an unfinished message, a slow close.

        After a stall of the server nobody is judged before what it sent meanwhile is read.
        """
        config = self._context.config
        if self._state is State.CLOSING:
            self._transport.abort()
            return
        if self._context.wheel.late_s and has_input(self._transport):
            self._look_again(0.0, now)  # when it is read
            return
        if not self._identified(now) or not self._finishes(now):
            return
        silent_s = now - self._last_seen
        if silent_s < config.ping_interval:
            self._look_again(config.ping_interval - silent_s, now)
        elif self._state is State.OPEN:
            self._state = State.PINGED
            self._last_seen = now - config.ping_interval  # however late: it has time from now on
            self.write(PING)
            self._look_again(min(config.pong_timeout, config.ping_interval), now)
        elif (left_s := config.ping_interval + config.pong_timeout - silent_s) > 0:
            # Once more before, for it may have answered and be silent again by then.
            self._look_again(min(left_s, config.ping_interval), now)
        elif has_input(self._transport):
            self._look_again(config.pong_timeout, now)  # it is there, and we are slow to read
        else:
            self.close(refusals.pong_not_received())

    def _finishes(self, now: float) -> bool:
        """Return whether the client may stay: no message of its has been on its way for long."""
        reader = self._reader
        if reader is None:
            return True
        if now - reader.since < self._context.config.request_timeout:
            return True
        self._fail(CloseCode.POLICY_VIOLATION, "A message was not complete in time")
        return False

    def _identified(self, now: float) -> bool:
        """Return whether the client may stay: it proved who it is, or has time left to."""
        session = self._session
        if not self._identify_by:
            return True
        if session is not None and session.identified:
            self._identify_by = 0.0
        elif now >= self._identify_by:
            self.close(refusals.not_authorized_in_time())
            return False
        return True

    def _look_again(self, delay_s: float, now: float) -> None:
        if self._identify_by:
            delay_s = min(delay_s, self._identify_by - now)
        reader = self._reader
        if reader is not None:
            delay_s = min(delay_s, reader.since + self._context.config.request_timeout - now)
        self._context.wheel.add(self, delay_s)

    # -- Closing -------------------------------------------------------------------------

    def close(self, error: ClientError) -> None:
        """Send the client the reason and a Close frame, in one write, and nothing after it."""
        if self._state >= State.CLOSING:
            return
        code = error.code or CloseCode.NORMAL
        self._context.node.tally.refused(error.code)
        self._transport.write(
            text_frame(messages.error_message(error)) + close_frame(code, error.message)
        )
        self._end()
        self._finish(CLOSE_TIMEOUT_S)

    def _close_received(self, payload: bytes) -> None:
        code, _ = parse_close(payload)
        self._transport.write(close_frame(code) if payload else frame(Opcode.CLOSE))
        self._end()
        # RFC 6455 7.1.1: it is the server that closes the TCP connection. One that does not
        # read our answer is not waited for.
        self._context.wheel.add(self, LINGER_S)
        self._transport.close()

    def _fail(self, code: int, reason: str) -> None:
        """RFC 6455 7.1.7: say why and be done; what the peer still sends is not understood."""
        errors = self._context.protocol_errors
        errors[code] = errors.get(code, 0) + 1
        self._transport.write(close_frame(code, reason))
        self._end()
        self._finish(LINGER_S)

    def _finish(self, patience_s: float) -> None:
        """
        End our half of the connection after what was written, and wait for the peer's end.

        What it still sends is read and thrown away: its Close frame says nothing that we need,
        and closing with bytes unread would reset the connection, and take the reason along.
        """
        self._context.wheel.add(self, patience_s)
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def _end(self) -> None:
        """Leave the hub, and let nothing more be written."""
        self._state = State.CLOSING
        self.write = _discard
        if self._reader is not None:
            self._forget_reader()
        session, self._session = self._session, None
        if session is not None:
            session.end()

    def _forget_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and reader.counted:
            self._context.intake.forget(self)

    def drop_unfinished(self) -> None:
        """Close, since the unfinished messages of all clients together are too large."""
        self.close(refusals.too_much_unfinished())

    def connection_lost(self, _error: Exception | None) -> None:
        """The socket is gone."""
        if self._state < State.CLOSING:
            self._end()
        self._state = State.CLOSED
        self._context.sockets -= 1
        if self._origin is not None:
            self._context.addresses.leave(self._origin)
        self._context.backlog.forget(self)
        self._context.wheel.discard(self)
        self._context.departed()
        # The transport and we refer to each other; nobody should wait for the collector.
        self._transport = None  # type: ignore[assignment]  # nobody may use it any more
