"""
The two sides of a connection: the transport, which carries bytes, and the receiver of its events.

Both asyncio's transports and this server's own streams (streams.py) implement Transport.
"""

import select
from typing import Any, Protocol


class Transport(Protocol):
    """Carries the bytes of a connection: the methods of asyncio.Transport that are used here."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Send *data*, which must not change, after earlier writes. Never raises."""

    def write_eof(self) -> None:
        """End the sending direction: signal EOF to the peer."""

    def can_write_eof(self) -> bool:
        """Whether `write_eof` is supported."""

    def get_write_buffer_size(self) -> int:
        """Return the number of unsent bytes in this process."""

    def set_write_buffer_limits(self, high: int) -> None:
        """Call `Receiver.pause_writing` if more than *high* bytes are unsent."""

    def pause_reading(self) -> None:
        """Stop reading from the peer."""

    def resume_reading(self) -> None:
        """Read from the peer again."""

    def close(self) -> None:
        """Stop reading, and close once all written bytes are sent."""

    def abort(self) -> None:
        """Close at once; unsent bytes are lost."""

    def set_protocol(self, protocol: "Receiver", /) -> None:
        """Deliver all further events to *protocol*."""

    def get_extra_info(self, name: str) -> Any:
        """Return the `peername` or the `sockname`, None if it is not known."""


class Receiver(Protocol):
    """Receives the events of a connection: the methods of asyncio.Protocol."""

    def data_received(self, data: bytes, /) -> None:
        """The peer sent *data*."""

    def eof_received(self) -> bool | None:
        """The peer ended its sending direction; return whether the connection stays open."""

    def pause_writing(self) -> None:
        """The number of unsent bytes exceeds the limit."""

    def resume_writing(self) -> None:
        """Most of the unsent bytes have been sent."""

    def connection_lost(self, error: Exception | None, /) -> None:
        """The connection ended, because of *error* if there was one. The last event."""


class FirstReceiver(Receiver, Protocol):
    """The first receiver of a connection."""

    def connection_made(self, transport: Any, /) -> None:
        """The connection began, carried by *transport*."""


def has_input(transport: Transport) -> bool:
    """
    Return whether the peer has sent input that its receiver has not received yet.

    The peer's EOF counts as input. A closing connection has no input: it is not read any more, and
    its peer may never read the unsent bytes. Not for frequent use: it needs a system call.
    """
    own = getattr(transport, "has_input", None)
    if own is not None:
        return bool(own())
    connection = transport.get_extra_info("socket")
    closing = getattr(transport, "is_closing", None)
    if connection is None or connection.fileno() < 0 or (closing is not None and closing()):
        return False
    if not hasattr(select, "poll"):
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def peer_address(transport: Transport) -> str:
    """Return the peer's IP address; "" for a Unix socket, or if the peer has disconnected."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""
