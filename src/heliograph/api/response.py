"""Answers of the HTTP API: JSON objects on success, one line of plain text otherwise."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from heliograph.protocols.json import encode

# Without a charset: some SDKs compare the whole value.
JSON = "application/json"
TEXT = "text/plain"


class Response(Struct, frozen=True, gc=False):
    """What is answered; the network shell adds the rest."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()


EMPTY = Response(200, b"{}")
ACCEPTED = Response(202, b"")


def ok(value: Any) -> Response:
    """Answer 200 with *value* as JSON."""
    return Response(200, encode(value))


def text(status: int, line: str, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> Response:
    """Answer with one line of text, whose line feed SDKs' tests expect."""
    return Response(status, line.encode(errors="replace") + b"\n", TEXT, headers)
