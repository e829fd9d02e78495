"""
HTTP/1.1 responses, as a server writes them.

Knows RFC 9110 and 9112. Knows nothing of sockets, time or the meaning of requests.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from http import HTTPStatus

from msgspec import Struct

# Without a charset: some SDKs compare the whole value.
JSON = "application/json"
TEXT = "text/plain"


class Response(Struct, frozen=True, gc=False):
    """The response to a request; `response` returns it as bytes."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()


def text(status: int, line: str, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> Response:
    """Return a response with one line of text; tests of SDKs expect its line feed."""
    return Response(status, line.encode(errors="replace") + b"\n", TEXT, headers)


_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {
    # The phrases of RFC 9110; those of http.HTTPStatus changed in Python 3.13.
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}

_BODILESS = frozenset((*range(100, 200), 204, 304))

_BREAKS_A_LINE = re.compile(rb"[\r\n\0]")


def response(
    status: int,
    body: bytes = b"",
    *,
    content_type: str = "text/plain",
    headers: Iterable[tuple[bytes, bytes]] = (),
    keep_alive: bool = True,
    head_only: bool = False,
    date: bytes | None = None,
    version: str = "1.1",
) -> bytes:
    """
    Return a complete response.

    *version* is that of the request: for HTTP/1.0, a header is sent if the connection stays open,
    for HTTP/1.1, if it does not. *head_only* answers a HEAD request: the length is that of *body*,
    which is left out. A status that has no body (1xx, 204, 304) has no length and no type either.

    Raises ValueError for a header that would break the message; a client cannot cause this.
    """
    if status in _BODILESS and body:
        raise ValueError(f"a response {status} has no body")
    head = _head(status, content_type, keep_alive, version)
    length = b"" if status in _BODILESS else b"Content-Length: %d\r\n" % len(body)
    dated = b"" if date is None else _field(b"Date", date)
    others = b"".join(_field(name, value) for name, value in headers) if headers else b""
    return b"%b%b%b%b\r\n%b" % (head, length, dated, others, b"" if head_only else body)


def stream_head(
    content_type: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    keep_alive: bool = False,
    date: bytes | None = None,
) -> bytes:
    """
    Return the head of a response 200 whose body follows in parts.

    If no header defines the end of the body, the body ends with the connection. Raises ValueError
    for a header that would break the message.
    """
    head = _head(200, content_type, keep_alive, "1.1")
    dated = b"" if date is None else _field(b"Date", date)
    return b"%b%b%b\r\n" % (head, dated, b"".join(_field(name, value) for name, value in headers))


@lru_cache(maxsize=256)
def _head(status: int, content_type: str, keep_alive: bool, version: str) -> bytes:
    """Return the first lines, which most responses share."""
    head = b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, "").encode())
    if status not in _BODILESS:
        head += _field(b"Content-Type", content_type.encode())
    if not keep_alive:
        head += _field(b"Connection", b"close")
    elif version == "1.0":
        head += _field(b"Connection", b"keep-alive")
    return head


@lru_cache(maxsize=256)
def _field(name: bytes, value: bytes) -> bytes:
    line = b"%b: %b" % (name, value)
    if _BREAKS_A_LINE.search(line):
        raise ValueError(f"a header must fit on one line: {line!r}")
    return line + b"\r\n"
