"""
TLS over our own streams, so that its clients wait for their turn as all others do.

An event loop's TLS transport decrypts whatever a client sends as soon as it comes, megabytes at a
time, and does as many handshakes as there are. Here both are done in slices (see turns.py). Knows
records, as OpenSSL makes them of bytes; what they mean is the receiver's business.
"""

import contextlib
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from heliograph.net.streams import Stream
from heliograph.net.transport import FirstReceiver, Receiver, Transport
from heliograph.net.turns import SLICE_S, Turns

RECORD_BYTES: Final = 16 * 1024
"""The most that one record holds (RFC 8446, 5.1); OpenSSL is given, and asked for, no more."""


Failed = Callable[[Transport, str], object]
"""Takes a connection, and why its handshake failed: one of the few reasons of OpenSSL."""

REASONS = {
    "HTTP_REQUEST": "the client sent HTTP without TLS",
    "WRONG_VERSION_NUMBER": "the client sent something other than TLS",
}
"""Those that OpenSSL has words for which say little."""


class TlsStream:
    """
    A Receiver to its stream, and a Transport to *receiver*: the server's side of one connection.

    The receiver is told of the connection before its handshake, and has the deadlines; what it
    writes before the handshake is done is lost. *failed* is called with this and a reason
    where the handshake fails. Nothing here raises, whatever the peer sends.
    """

    __slots__ = (
        "_clock",
        "_closing",
        "_ended",
        "_failed",
        "_incoming",
        "_input",
        "_object",
        "_outgoing",
        "_paused",
        "_queued",
        "_ready",
        "_receiver",
        "_shut",
        "_turns",
        "stream",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        turns: Turns,
        receiver: FirstReceiver,
        clock: Callable[[], float] = monotonic,
        *,
        failed: Failed | None = None,
    ) -> None:
        self.stream: Stream
        self._failed = failed
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._receiver: Receiver = receiver
        self._turns = turns
        self._clock = clock
        self._input = b""  # that OpenSSL has not been given yet
        self._ready = False  # the handshake is done
        self._paused = False  # by the receiver
        self._queued = False  # for a turn in which more of the input is taken
        self._shut = False  # we have said that nothing more comes, and hear nothing more
        self._ended = False  # the peer has said so, and is heard no more
        self._closing = False

    # -- What the stream says ------------------------------------------------------------

    def connection_made(self, stream: Stream) -> None:
        """A client connected; it has yet to say hello."""
        self.stream = stream
        receiver: Any = self._receiver
        receiver.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Take records, as many as there is time for."""
        if self._shut or self._ended:
            return  # read so that the socket closes without a reset, no more
        self._input = self._input + data if self._input else data
        if not self._queued and not self._paused:
            self._take()

    def eof_received(self) -> bool:
        """Return whether anything is still to be sent to a client that sends no more."""
        if not self._ready or self._shut:
            return False
        if self._ended:
            return not self._closing  # the receiver has said that it goes on
        self._ended = True
        return bool(self._receiver.eof_received())

    def pause_writing(self) -> None:
        """The client does not read."""
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._receiver.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._shut = self._closing = True
        self._input = b""
        self._receiver.connection_lost(error)
        # They refer to each other; nobody should wait for the collector.
        self._receiver = None  # type: ignore[assignment]  # nothing will be told any more

    # -- Reading -------------------------------------------------------------------------

    def _take(self) -> None:
        """Have what came decrypted and received, until the slice of this connection is over."""
        end = self._clock() + SLICE_S
        while not self._paused and not self._shut:
            try:
                data = self._next()
            except ssl.SSLWantReadError:
                self._send()
                if not self._input:
                    break
                self._incoming.write(self._input[:RECORD_BYTES])
                self._input = self._input[RECORD_BYTES:]
            except ssl.SSLError as error:
                self._report(error)
                self._send()  # an alert says to the peer what was wrong
                self._shut = True
                self.close()
                return
            else:
                self._send()
                if data is None:
                    continue
                if not data:
                    self._end()
                    return
                self._receiver.data_received(data)
            if self._clock() >= end and not self._paused:
                self._put_off()
                return
        if self._paused and not self._shut:
            self.stream.pause_reading()

    def _report(self, error: ssl.SSLError) -> None:
        if self._failed is not None and not self._ready:
            name = error.reason or type(error).__name__
            reason = REASONS.get(name, name.lower().replace("_", " "))
            self._failed(self, reason)

    def _next(self) -> bytes | None:
        """Return what the peer says next, b"" at its end, None where the handshake went on."""
        if not self._ready:
            self._object.do_handshake()
            self._ready = True
            return None
        try:
            return self._object.read(RECORD_BYTES)
        except ssl.SSLZeroReturnError:
            return b""

    def _put_off(self) -> None:
        """Take what is left on a later turn, and read nothing before."""
        if not self._queued and not self._closing:
            self._queued = True
            self.stream.pause_reading()
            self._turns.again(self._go_on, self.stream)

    def _go_on(self) -> None:
        self._queued = False
        if self._paused or self._closing:
            return
        self.stream.resume_reading()
        if not self._shut:
            self._take()

    def _end(self) -> None:
        """The peer said that it sends no more."""
        self._ended = True
        self._input = b""
        if not self._receiver.eof_received():
            self.close()

    def has_input(self) -> bool:
        """Whether the peer has sent something that the receiver is yet to be given."""
        if self._closing:
            return False
        return bool(self._input or self._incoming.pending) or self.stream.has_input()

    def pause_reading(self) -> None:
        """Give the receiver nothing more for now."""
        self._paused = True
        self.stream.pause_reading()

    def resume_reading(self) -> None:
        """Go on; what has come already is received on a later turn."""
        if self._paused:
            self._paused = False
            if self._shut:
                self.stream.resume_reading()  # for its end
            else:
                self._put_off()

    # -- Writing -------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Send *data* after what was written before."""
        if self._shut or not self._ready or not data:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._object.write(rest) :]
        except ssl.SSLError as error:
            self.stream.fail(error)  # nothing that a peer may do leads here
            return
        self._send()

    def _send(self) -> None:
        """Give the stream what OpenSSL has for the peer."""
        if self._outgoing.pending:
            self.stream.write(self._outgoing.read())

    def can_write_eof(self) -> bool:
        """Whether one direction can end before the other: it can (RFC 8446, 6.1)."""
        return True

    def write_eof(self) -> None:
        """Say that nothing more comes. What the peer still sends is not decrypted."""
        self._send_end()
        self.stream.write_eof()

    def _send_end(self) -> None:
        if not self._shut:
            self._shut = True
            if self._ready:
                # It waits for the peer to say the same, which we do not.
                with contextlib.suppress(ssl.SSLError):
                    self._object.unwrap()
                self._send()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that wait here, as they go over the wire."""
        return self.stream.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int) -> None:
        """Have `pause_writing` called with more than *high* bytes waiting."""
        self.stream.set_write_buffer_limits(high)

    # -- Ending, and who it is -----------------------------------------------------------

    def close(self) -> None:
        """Read no more, and end when what was written is out."""
        if not self._closing:
            self._closing = True
            self._send_end()
            self.stream.close()

    def abort(self) -> None:
        """End now."""
        self._closing = True
        self.stream.abort()

    def set_protocol(self, protocol: Receiver) -> None:
        """Have *protocol* receive what comes from now on."""
        self._receiver = protocol

    def get_extra_info(self, name: str) -> Any:
        """Return a `peername` or a `sockname`, None where it is not known."""
        return self.stream.get_extra_info(name)
