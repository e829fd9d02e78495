"""
Reads the frames of a server: for traces of sent messages, and for clients of another server.

`wire.websocket` wrote them, so nothing is checked. It also reads the frames of clients.
"""

from collections.abc import Iterator

from heliograph.wire.deflate import inflate
from heliograph.wire.websocket import COMPRESSED, Opcode

_HEAD_END = b"\r\n\r\n"
_LENGTH_OF_2_BYTES, _LENGTH_OF_8_BYTES = 126, 127


def read_server_frames(chunk: bytes) -> Iterator[tuple[Opcode, bytes]]:
    """Return the frames of *chunk*, which are complete; a handshake response may precede them."""
    at = chunk.find(_HEAD_END) + len(_HEAD_END) if chunk.startswith(b"HTTP/") else 0
    while at < len(chunk):
        first, length = chunk[at], chunk[at + 1]
        at += 2
        if length >= _LENGTH_OF_2_BYTES:
            size = 2 if length == _LENGTH_OF_2_BYTES else 8
            length = int.from_bytes(chunk[at : at + size], "big")
            at += size
        payload = chunk[at : at + length]
        at += length
        # This server sent it, so its size needs no limit.
        yield Opcode(first & 0x0F), inflate(payload, 1 << 30) if first & COMPRESSED else payload
