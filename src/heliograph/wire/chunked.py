"""
Responses with an unknown length at their beginning: chunked (RFC 9112 7.1), for streams.

Knows the format. The owner of the connection decides on the data and the time of sending.
"""

from collections.abc import Iterable

from heliograph.wire.responses import stream_head

LAST_CHUNK = b"0\r\n\r\n"
"""Ends the response; the connection can be used again."""


def chunk(data: bytes) -> bytes:
    """Return *data* as one chunk; nothing for no data, since an empty chunk ends the response."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def chunked_head(
    content_type: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    keep_alive: bool = False,
    date: bytes | None = None,
) -> bytes:
    """
    Return the head of a response 200 whose body follows in chunks, for a request of HTTP/1.1.

    A client of HTTP/1.0 cannot read chunks. Raises ValueError for a header that would break the
    message; a client cannot cause this.
    """
    return stream_head(
        content_type,
        (*headers, (b"Transfer-Encoding", b"chunked")),
        keep_alive=keep_alive,
        date=date,
    )


class ChunkedFraming:
    """The framing of streams: each message, followed by *end*, is one chunk."""

    compression = False

    def __init__(self, end: bytes = b"\n") -> None:
        self._end = end

    def frame(self, text: bytes) -> bytes:
        """Return a message as a chunk."""
        return chunk(text + self._end)

    def uncompressed(self, text: bytes) -> bytes:
        """Make a chunk of a message: none is compressed."""
        return self.frame(text)
