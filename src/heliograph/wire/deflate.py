"""
permessage-deflate without context takeover (RFC 7692), server side.

No state is kept between messages, on either side: a broadcast is compressed once for all who
negotiated it, and an idle connection costs nothing more.
"""

import zlib
from collections.abc import Sequence

ACCEPTED = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
"""What we answer to an offer that we can take."""

LEVEL = 6
WINDOW_BITS = 15
TAIL = b"\x00\x00\xff\xff"
"""Ends a message's last block, and is left out of it on the wire (RFC 7692 7.2.1)."""

_NO_VALUE = ("server_no_context_takeover", "client_no_context_takeover")


class TooLarge(Exception):
    """A message would inflate to more than is allowed."""


class Malformed(Exception):
    """A message is not deflated data."""


def negotiate(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """
    Return the Sec-WebSocket-Extensions that accepts a client's offer, None where none fits.

    The names of *headers* are in lower case. An offer that asks us for a smaller window is not
    taken: our frames are the same for all clients.
    """
    offers = b",".join(value for name, value in headers if name == b"sec-websocket-extensions")
    if any(_acceptable(offer) for offer in offers.decode("latin-1").split(",")):
        return ACCEPTED
    return None


def _acceptable(offer: str) -> bool:
    name, *parameters = (part.strip().lower() for part in offer.split(";"))
    if name != "permessage-deflate":
        return False
    seen = set()
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        key, value = key.strip(), value.strip().strip('"')
        if key in seen:
            return False
        seen.add(key)
        if key in _NO_VALUE:
            acceptable = not value
        elif key == "client_max_window_bits":
            # It may use less than we can inflate, whatever it says.
            acceptable = not value or value in _WINDOWS
        else:
            acceptable = key == "server_max_window_bits" and value == str(WINDOW_BITS)
        if not acceptable:
            return False
    return True


_WINDOWS = {str(bits) for bits in range(8, WINDOW_BITS + 1)}


def deflate(payload: bytes) -> bytes:
    """Compress a message."""
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -WINDOW_BITS)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def inflate(payload: bytes, max_bytes: int) -> bytes:
    """
    Decompress a message, no further than *max_bytes*.

    Raises TooLarge or Malformed.
    """
    decompressor = zlib.decompressobj(-WINDOW_BITS)
    try:
        message = decompressor.decompress(payload + TAIL, max_bytes + 1)
    except zlib.error:
        raise Malformed from None
    if len(message) > max_bytes:
        raise TooLarge
    return message
