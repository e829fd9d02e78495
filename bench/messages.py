"""
What clients send, as bytes: frames of clients, requests with and without a right signature.

Knows the bytes of WebSocket and the first message of TLS; knows no socket.
"""

import json
import ssl
import struct
import time
import zlib
from typing import Any

from bench.tools import APP, KEY, SECRET
from heliograph.client.signing import Credentials

MASK = b"mask"
TEXT, PING = 0x1, 0x9
COMPRESSED = 0x40
FINAL = 0x80
NO_MASK = b"\0\0\0\0"
"""A mask that leaves the payload as it is, so that it can be changed afterwards."""


def upgrade(*, compressed: bool = False) -> bytes:
    """Return the request that makes a connection a WebSocket."""
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if compressed else ""
    return (
        f"GET /app/{KEY}?protocol=7 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\n{offer}Sec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


def frame(payload: bytes, opcode: int = TEXT, *, flags: int = 0, mask: bytes = MASK) -> bytes:
    """Return *payload* in one frame of a client."""
    length = len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 1 << 16:
        size = struct.pack(">BH", 0xFE, length)
    else:
        size = struct.pack(">BQ", 0xFF, length)
    key = int.from_bytes((mask * (length // 4 + 1))[:length])
    masked = (int.from_bytes(payload) ^ key).to_bytes(length)
    return bytes([FINAL | flags | opcode]) + size + mask + masked


def message(event: str, data: Any = None, *, mask: bytes = MASK) -> bytes:
    """Return a message of a Pusher client, in a frame."""
    content = {"event": event, "data": {} if data is None else data}
    return frame(json.dumps(content).encode(), mask=mask)


def compressed(payload: bytes) -> bytes:
    """Return *payload* in one frame with permessage-deflate (RFC 7692)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return frame(deflated.removesuffix(b"\x00\x00\xff\xff"), flags=COMPRESSED)


def request(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    signature: str = "",
    query: str = "",
    at: float | None = None,
) -> bytes:
    """
    Return a request of the HTTP API.

    Its signature is right where *signature* is empty. *query* is a parameter more, NAME=VALUE. It
    is signed *at* a time in seconds since 1970, or now.
    """
    name, _, value = query.partition("=")
    target = Credentials(KEY, SECRET).request_target(
        method,
        path,
        at=time.time() if at is None else at,
        parameters=[(name, value)] if query else [],
        body=body,
    )
    if signature:
        target = f"{target.rpartition('=')[0]}={signature}"  # it is the last parameter
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


def channels(query: str = "") -> bytes:
    """Return the request for the app's channels, with a right signature."""
    return request("GET", f"/apps/{APP}/channels", query=query)


def client_hello() -> bytes:
    """Return what a client of TLS begins with; the same bytes begin any number of connections."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake takes two")
