"""
What carries bytes, and what is told of them: the two sides of a connection.

asyncio's transports and our own streams (streams.py) are both a Transport, and know each other no
better than this.
"""

import select
from typing import Any, Protocol


class Transport(Protocol):
    """Whoever carries a connection's bytes, as asyncio.Transport has it; no more is asked of it."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Send *data*, which stays as it is, after what was written before. Never raises."""

    def write_eof(self) -> None:
        """Say to the peer that nothing more comes."""

    def can_write_eof(self) -> bool:
        """Whether it can be said."""

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the peer has not taken, and that wait here."""

    def set_write_buffer_limits(self, high: int) -> None:
        """Have `Receiver.pause_writing` called with more than *high* bytes waiting."""

    def pause_reading(self) -> None:
        """Leave unread what the peer sends."""

    def resume_reading(self) -> None:
        """Read on."""

    def close(self) -> None:
        """Read no more, and end when what was written is out."""

    def abort(self) -> None:
        """End at once."""

    def set_protocol(self, protocol: "Receiver", /) -> None:
        """Have *protocol* told of what comes from now on."""

    def get_extra_info(self, name: str) -> Any:
        """Return a `peername` or a `sockname`, None where it is not known."""


class Receiver(Protocol):
    """Whoever is told what happens to a connection, as asyncio.Protocol has it."""

    def data_received(self, data: bytes, /) -> None:
        """The peer sent *data*."""

    def eof_received(self) -> bool | None:
        """The peer sends no more; return whether we still do."""

    def pause_writing(self) -> None:
        """More than is good waits for the peer."""

    def resume_writing(self) -> None:
        """It does not any more."""

    def connection_lost(self, error: Exception | None, /) -> None:
        """It ended, for *error* if there was one. Nothing is told after this."""


class FirstReceiver(Receiver, Protocol):
    """The receiver that a connection begins with."""

    def connection_made(self, transport: Any, /) -> None:
        """It began, carried by *transport*."""


def has_input(transport: Transport) -> bool:
    """
    Return whether the peer has sent something that its receiver has yet to be given.

    The peer's end counts, but nothing does once the connection is closing: it is read no more, and
    may be waiting for its peer to read for ever. For seldom: the kernel is asked.
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
    """Return the peer's IP address; "" through a Unix socket, or where the peer is gone."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""
