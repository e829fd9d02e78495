"""
permessage-deflate without context takeover (RFC 7692), server side.

Neither side keeps state between messages: a broadcast is compressed once for all clients that
negotiated compression, and an idle connection needs no additional memory.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

ACCEPTED = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
"""The response to an offer that is accepted; the window follows if the offer requests one."""

MAX_OFFERS = 16
"""Offers of one handshake that are read. Browsers make one, and the first that fits is taken."""

MAX_PARAMETERS = 8
"""Parameters of one offer; RFC 7692 has four. The rest is read as one, which is not accepted."""

LEVEL = 6
WINDOW_BITS = 15
SMALLEST_WINDOW_BITS = 9
"""RFC 7692 has windows of 8 bits too, but zlib does not support them for raw deflate."""

TAIL = b"\x00\x00\xff\xff"
"""The end of a message's last block, which is left out on the wire (RFC 7692 7.2.1)."""

_NO_VALUE = ("server_no_context_takeover", "client_no_context_takeover")


class TooLarge(Exception):
    """A message would inflate to more than the limit."""


class Malformed(Exception):
    """A message is not deflated data."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of a negotiation: Sec-WebSocket-Extensions and the largest window to send with."""

    answer: bytes
    window_bits: int = WINDOW_BITS


def negotiate(headers: Sequence[tuple[bytes, bytes]]) -> Agreement | None:
    """
    Accept the first of a client's offers that is acceptable; return None if none is.

    The names of *headers* are in lower case. If an offer requests a window from the server, the
    response repeats it (RFC 7692 7.1.2.1); the offer is declined if the window is too small for
    zlib. After MAX_OFFERS, further offers are not read.
    """
    offers = b",".join(value for name, value in headers if name == b"sec-websocket-extensions")
    for offer in offers.decode("latin-1").split(",", MAX_OFFERS)[:MAX_OFFERS]:
        agreement = _agreement(offer)
        if agreement is not None:
            return agreement
    return None


def _agreement(offer: str) -> Agreement | None:
    name, *parameters = (part.strip().lower() for part in offer.split(";", MAX_PARAMETERS))
    if name != "permessage-deflate":
        return None
    agreement = Agreement(ACCEPTED)
    seen = set()
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        key, value = key.strip(), value.strip().strip('"')
        if key in seen:
            return None
        seen.add(key)
        if key in _NO_VALUE:
            acceptable = not value
        elif key == "client_max_window_bits":
            # The client limits its own window; the server can inflate every size.
            acceptable = not value or value in _WINDOWS
        else:
            acceptable = key == "server_max_window_bits" and value in _OUR_WINDOWS
            if acceptable:
                answer = b"%b; server_max_window_bits=%b" % (ACCEPTED, value.encode())
                agreement = Agreement(answer, int(value))
        if not acceptable:
            return None
    return agreement


_OUR_WINDOWS = {str(bits) for bits in range(SMALLEST_WINDOW_BITS, WINDOW_BITS + 1)}
_WINDOWS = _OUR_WINDOWS | {"8"}


def deflate(payload: bytes, window_bits: int = WINDOW_BITS) -> bytes:
    """Compress a message for a peer with a window of *window_bits*, 9 to 15."""
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -window_bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def inflate(payload: bytes, max_bytes: int) -> bytes:
    """
    Decompress a message, up to *max_bytes*.

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
