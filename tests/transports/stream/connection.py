"""
The connection of a stream: a response that does not end, one chunk for each message.

The client's messages come in requests of their own. Policy is net/client.py's.
"""

import json
from collections.abc import Sequence
from typing import Any, cast

from heliograph.net.client import Client, State
from heliograph.net.takeover import Handover
from heliograph.net.transport import Transport
from heliograph.node.dialect import ClientLane, Ending, Goodbye, Opening, Session
from heliograph.wire.chunked import LAST_CHUNK, chunk, chunked_head
from heliograph.wire.http import Request
from tests.transports.stream.resumable import Log, Stream, Streams

KEEP_ALIVE = chunk(b":\n")
"""A comment: no message, and not numbered."""


class LoggedTransport:
    """A transport that keeps a log of the messages that are written to it."""

    def __init__(self, transport: Transport, log: Log) -> None:
        self._transport = transport
        self._log = log

    def write(self, chunk: bytes | memoryview) -> None:
        if chunk:
            self._log.append(bytes(chunk))
            self._transport.write(chunk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class StreamConnection(Client):
    """
    A client over a stream.

    Its messages are numbered from 0 on, through all connections of its session. They are written
    through the log; the head, comments and what is said of the stream itself are not.
    """

    def __init__(
        self,
        handover: Handover,
        lane: ClientLane,
        streams: "Streams[StreamConnection]",
        log: Log,
    ) -> None:
        context, socket = handover.context, handover.transport
        transport = cast("Transport", LoggedTransport(socket, log))
        super().__init__(context, transport, lane, handover.now)
        self._log = log
        self._stream: Stream[StreamConnection] | None = None
        self._streams = streams
        self._socket = socket
        self._received = 0  # by the client, of the messages that were written before
        socket.set_protocol(self)
        context.wheel.replace(handover.predecessor, self)
        head = chunked_head(
            "application/x-ndjson",
            ((b"Cache-Control", b"no-store"), *handover.headers),
            date=context.answers.date(),
        )
        socket.write(head)

    def begin(self, opening: Opening, request: Request, handover: Handover) -> None:
        """Begin a session: the greeting, and the id of the stream, are the first lines."""
        self.open(b"", opening, request, handover)
        session = self._session
        if session is not None:
            stream = Stream(self._streams, self._context, opening, session, self._log, self)
            self._stream = stream
            self._streams.add(stream)
            self._socket.write(chunk(json.dumps({"stream": stream.id}).encode() + b"\n"))

    def go_on(
        self,
        stream: "Stream[StreamConnection]",
        received: int,
        request: Request,
        handover: Handover,
    ) -> None:
        """Go on with a session, of whose messages the client has the first *received*."""
        self._stream = stream
        self._received = received
        before = stream.connection
        opening = stream.opening
        self.resume(b"", opening, stream.session, before, request=request, handover=handover)

    def repeat(self) -> None:
        """Write what the client has not received, or say that it is not there any more."""
        stream = self._stream
        assert stream is not None
        stream.connection = self
        stream.resumed()
        numbers = self._log.numbers
        if numbers.start <= self._received <= numbers.stop:
            self.write(self._log.take(self._received))
        else:
            stream.session.close(Ending.EVENTS_LOST)

    def take_messages(self, texts: Sequence[bytes]) -> None:
        """Hand messages to the session; none is a sign of life, too."""
        context = self._context
        now = self._last_seen = context.now()
        if self._state is State.PINGED:
            self._state = State.OPEN
        for text in texts:
            if self._session is None:
                return  # it was closed for the message before
            if context.max_messages_per_second and not self.admits(now):
                return
            context.messages_received += 1
            self._session.receive(text, now)

    @property
    def connected(self) -> bool:
        """Whether the session can be sent to."""
        return self._session is not None

    # -- What net/client.py asks of a framing --------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Discard what follows the request: on this connection no other one is answered."""
        self._context.bytes_received += len(data)

    def ping(self) -> None:
        """Send a comment. The client answers by a request, which may have no message."""
        self._socket.write(KEEP_ALIVE)

    def last_bytes(self, goodbye: Goodbye) -> bytes:
        """Return the message, if there is one, the code and the reason, and the last chunk."""
        end = json.dumps({"closed": goodbye.code, "reason": goodbye.reason}).encode()
        message = goodbye.message
        before = b"" if message is None else self.lane.framing.frame(message)
        return before + chunk(end + b"\n") + LAST_CHUNK

    def unfinished_since(self) -> float:
        """Return 0: a message is complete with its request."""
        return 0.0

    def refuse_unfinished(self) -> None:
        """Never called, since no message is unfinished."""
        raise AssertionError("messages come in requests")

    def forget_unfinished(self) -> None:
        """Nothing is held of a message."""

    # -- Ending --------------------------------------------------------------------------

    def on_lost(self, _session: Session) -> None:
        """Keep the session, whose client may come back."""
        stream, self._stream = self._stream, None  # which refers to us: no cycle is left
        if stream is not None:
            stream.lost()

    def end(self) -> None:
        """End the session, and the stream with it."""
        stream = self._stream if self.connected else None
        super().end()
        self._stream = None
        if stream is not None:
            self._streams.end(stream)
