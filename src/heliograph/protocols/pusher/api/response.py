"""Answers of the HTTP API on success: JSON objects."""

from typing import Any

from heliograph.protocols.json import encode
from heliograph.wire.responses import Response

EMPTY = Response(200, b"{}")
ACCEPTED = Response(202, b"")


def ok(value: Any) -> Response:
    """Answer 200 with *value* as JSON."""
    return Response(200, encode(value))
