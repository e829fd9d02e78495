"""
TLS over this server's own streams, so that TLS clients take turns as all others do.

An event loop's TLS transport decrypts all input of a client as soon as it arrives, megabytes at a
time, and does any number of handshakes at once. Here both are done in slices (see turns.py). This
module decrypts records with OpenSSL; the receiver interprets their content.
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
"""Maximum size of a record (RFC 8446, 5.1); OpenSSL gets, and returns, no more at once."""


Failed = Callable[[Transport, str], object]
"""Takes a connection, and the reason why its handshake failed: one of OpenSSL's few reasons."""

REASONS = {
    "HTTP_REQUEST": "the client sent HTTP without TLS",
    "WRONG_VERSION_NUMBER": "the client sent something other than TLS",
}
"""Clearer texts for some of OpenSSL's reasons."""


class TlsStream:
    """
    A Receiver to its stream, and a Transport to *receiver*: the server's side of one connection.

    The receiver gets the connection before the handshake, and is responsible for deadlines; its
    writes before the end of the handshake are lost. *failed* is called with this object and a
    reason if the handshake fails. No method raises, whatever the peer sends.
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
        self._input = b""  # not passed to OpenSSL yet
        self._ready = False  # the handshake is done
        self._paused = False  # the receiver paused reading
        self._queued = False  # for a turn that handles more of the input
        self._shut = False  # close_notify was sent; further input is ignored
        self._ended = False  # the peer ended its direction; further input is ignored
        self._closing = False

    # -- Events of the stream ------------------------------------------------------------

    def connection_made(self, stream: Stream) -> None:
        """A client connected; its TLS handshake has not begun."""
        self.stream = stream
        receiver: Any = self._receiver
        receiver.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Handle records, until the slice is over."""
        if self._shut or self._ended:
            return  # input is only read so that the socket closes without a reset
        self._input = self._input + data if self._input else data
        if not self._queued and not self._paused:
            self._take()

    def eof_received(self) -> bool:
        """Return whether the connection stays open for a client that sends no more."""
        if not self._ready or self._shut:
            return False
        if self._ended:
            return not self._closing  # the receiver decided to keep it open
        self._ended = True
        return bool(self._receiver.eof_received())

    def pause_writing(self) -> None:
        """The client does not read."""
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._receiver.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        self._shut = self._closing = True
        self._input = b""
        self._receiver.connection_lost(error)
        # This object and the receiver refer to each other; without this line, their memory is
        # only freed by the garbage collector.
        self._receiver = None  # type: ignore[assignment]  # no event follows

    # -- Reading -------------------------------------------------------------------------

    def _take(self) -> None:
        """Decrypt input and pass it to the receiver, until the connection's slice is over."""
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
                self._send()  # an alert with the reason, for the peer
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
        """Return the next input; b"" at its end, None if only the handshake is complete."""
        if not self._ready:
            self._object.do_handshake()
            self._ready = True
            return None
        try:
            return self._object.read(RECORD_BYTES)
        except ssl.SSLZeroReturnError:
            return b""

    def _put_off(self) -> None:
        """Handle the rest of the input on a later turn; pause reading until then."""
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
        """Handle the peer's close_notify: it sends no more."""
        self._ended = True
        self._input = b""
        if not self._receiver.eof_received():
            self.close()

    def has_input(self) -> bool:
        """Whether the peer has sent input that the receiver has not received yet."""
        if self._closing:
            return False
        return bool(self._input or self._incoming.pending) or self.stream.has_input()

    def pause_reading(self) -> None:
        """Pass no more input to the receiver for now."""
        self._paused = True
        self.stream.pause_reading()

    def resume_reading(self) -> None:
        """Resume; input that has arrived already is handled on a later turn."""
        if self._paused:
            self._paused = False
            if self._shut:
                self.stream.resume_reading()  # to read the end of the stream
            else:
                self._put_off()

    # -- Writing -------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Send *data* after earlier writes."""
        if self._shut or not self._ready or not data:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._object.write(rest) :]
        except ssl.SSLError as error:
            self.stream.fail(error)  # no input of a peer causes this
            return
        self._send()

    def _send(self) -> None:
        """Write OpenSSL's output to the stream."""
        if self._outgoing.pending:
            self.stream.write(self._outgoing.read())

    def can_write_eof(self) -> bool:
        """Return True: one direction can end before the other (RFC 8446, 6.1)."""
        return True

    def write_eof(self) -> None:
        """End the sending direction. Further input of the peer is not decrypted."""
        self._send_end()
        self.stream.write_eof()

    def _send_end(self) -> None:
        if not self._shut:
            self._shut = True
            if self._ready:
                # unwrap() sends close_notify; it raises because the peer's has not arrived, for
                # which the server does not wait.
                with contextlib.suppress(ssl.SSLError):
                    self._object.unwrap()
                self._send()

    def get_write_buffer_size(self) -> int:
        """Return the number of unsent bytes in this process, after encryption."""
        return self.stream.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int) -> None:
        """Call `pause_writing` if more than *high* bytes are unsent."""
        self.stream.set_write_buffer_limits(high)

    # -- Ending, and identity ------------------------------------------------------------

    def close(self) -> None:
        """Stop reading, and close once all written bytes are sent."""
        if not self._closing:
            self._closing = True
            self._send_end()
            self.stream.close()

    def abort(self) -> None:
        """Close at once; unsent bytes are lost."""
        self._closing = True
        self.stream.abort()

    def set_protocol(self, protocol: Receiver) -> None:
        """Deliver all further events to *protocol*."""
        self._receiver = protocol

    def get_extra_info(self, name: str) -> Any:
        """Return the `peername` or the `sockname`, None if it is not known."""
        return self.stream.get_extra_info(name)
