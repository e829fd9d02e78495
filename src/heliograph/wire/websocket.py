"""
WebSockets on the server's side: reads and writes frames, and the opening handshake.

Knows RFC 6455 and nothing else: no sockets, no time, no protocol above it. The owner of the
connection feeds bytes in, handles the messages in their order, and closes after a `Failure`.
"""

import binascii
import codecs
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from heliograph.wire.deflate import Malformed, TooLarge, deflate, inflate

try:
    from websockets.speedups import apply_mask
except ImportError:  # no wheel for this platform, or a version without this function
    from heliograph.wire.mask import apply_mask

Headers = Sequence[tuple[bytes, bytes]]

# -- Frames --------------------------------------------------------------------------------


class Opcode(IntEnum):
    """The kind of a frame (RFC 6455 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection is closed (RFC 6455 7.4.1). NO_STATUS and ABNORMAL are never sent."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011


FIN: Final = 0x80
COMPRESSED: Final = 0x40  # RSV1, as permessage-deflate uses it (RFC 7692 6)
RESERVED_BITS: Final = 0x70
MASKED: Final = 0x80
MAX_CONTROL_PAYLOAD: Final = 125

_WHOLE_TEXT: Final = 0x81  # FIN | Opcode.TEXT, as a literal, which costs nothing compiled
_OPCODES = {int(opcode): opcode for opcode in Opcode}
_LENGTH_OF_2_BYTES: Final = 126
_LENGTH_OF_8_BYTES: Final = 127
_SHORTEST_FRAME: Final = 6  # of a client: two bytes of head and four of mask
_SHORT_HEADS = {
    opcode: tuple(bytes((FIN | opcode, length)) for length in range(126)) for opcode in Opcode
}
_SHORT_TEXT_HEADS = _SHORT_HEADS[Opcode.TEXT]
_MEDIUM_TEXT_HEAD = bytes((FIN | Opcode.TEXT, _LENGTH_OF_2_BYTES))


def text_frame(payload: bytes) -> bytes:
    """Return one unmasked frame with a complete text message; *payload* is valid UTF-8."""
    length = len(payload)
    if length <= MAX_CONTROL_PAYLOAD:
        return _SHORT_TEXT_HEADS[length] + payload
    if length < 1 << 16:
        return _MEDIUM_TEXT_HEAD + length.to_bytes(2, "big") + payload
    return _frame(FIN | Opcode.TEXT, payload)


def compressed_text_frame(payload: bytes, window_bits: int) -> bytes:
    """Return the same, compressed with *window_bits*; the peer's window must not be smaller."""
    return _frame(FIN | COMPRESSED | Opcode.TEXT, deflate(payload, window_bits))


def frame(opcode: Opcode, payload: bytes = b"") -> bytes:
    """
    Return one unmasked frame with a complete message.

    Raises ValueError for a control frame with more than 125 bytes (RFC 6455 5.5).
    """
    length = len(payload)
    if length <= MAX_CONTROL_PAYLOAD:
        return _SHORT_HEADS[opcode][length] + payload
    if opcode >= Opcode.CLOSE:
        raise ValueError(f"a control frame holds at most 125 bytes, not {length}")
    return _frame(FIN | opcode, payload)


def _frame(first: int, payload: bytes) -> bytes:
    length = len(payload)
    if length <= MAX_CONTROL_PAYLOAD:
        return b"%c%c%b" % (first, length, payload)
    if length < 1 << 16:
        return b"%c%c%b%b" % (first, _LENGTH_OF_2_BYTES, length.to_bytes(2, "big"), payload)
    return b"%c%c%b%b" % (first, _LENGTH_OF_8_BYTES, length.to_bytes(8, "big"), payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a Close frame; *reason* is cut, between characters, to the 123 bytes that fit."""
    text = reason.encode(errors="replace")[: MAX_CONTROL_PAYLOAD - 2]
    text = text.decode(errors="ignore").encode()
    return frame(Opcode.CLOSE, code.to_bytes(2, "big") + text)


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a Close frame's payload, which `FrameReader` has checked."""
    if not payload:
        return CloseCode.NO_STATUS, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def _is_legal_close(payload: bytes) -> bool:
    """Return whether a peer may send this payload (RFC 6455 7.4 and IANA's registry)."""
    if not payload:
        return True
    code = int.from_bytes(payload[:2], "big")
    assigned = 1000 <= code <= 1003 or 1007 <= code <= 1014  # noqa: PLR2004 - the registry's
    return len(payload) > 1 and (assigned or 3000 <= code <= 4999)  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class Failure:
    """The peer violated the protocol: close with *code* and *reason*."""

    code: int
    reason: str


class _Broken(Exception):
    """The peer violated the protocol. Never leaves this module."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.failure = Failure(code, reason)


class _Fragments:
    """An incomplete message in fragments. Exists only while there is one."""

    __slots__ = ("compressed", "count", "decoder", "opcode", "payload")

    def __init__(self, opcode: Opcode, *, compressed: bool) -> None:
        self.opcode = opcode
        self.compressed = compressed
        self.payload = bytearray()
        self.count = 0
        # So that invalid text fails at its fragment and not at the end of the message.
        uncompressed_text = opcode is Opcode.TEXT and not compressed
        self.decoder = codecs.getincrementaldecoder("utf-8")() if uncompressed_text else None


def text_fast(data: bytes, max_message_bytes: int) -> bytes | None:
    """
    Return the text of *data* if it is exactly one complete text frame, as nine in ten are.

    None means only that a `FrameReader` must read *data*; only the reader reports errors. If the
    reader has the beginning of a frame or a message, it must read *data*, not this function.
    """
    size = len(data)
    if size < _SHORTEST_FRAME or data[0] != _WHOLE_TEXT:
        return None
    length = data[1] - MASKED
    payload_at = _SHORTEST_FRAME
    if length == _LENGTH_OF_2_BYTES:
        length = int.from_bytes(data[2:4], "big")
        payload_at += 2
        if length < _LENGTH_OF_2_BYTES:
            return None
    elif not 0 <= length <= MAX_CONTROL_PAYLOAD:
        return None
    if size != payload_at + length or length > max_message_bytes:
        return None
    text = apply_mask(data[payload_at:], data[payload_at - 4 : payload_at])
    return text if text.isascii() or _is_utf8(text) else None


class FrameReader:
    """
    Reads the bytes of one connection into messages; the boundaries of the reads do not matter.

    *max_message_bytes* limits a message over all its fragments, compressed or not, and
    *max_fragments* their number. With *compression*, messages may be compressed.
    A message that is known to be too long is not buffered, and an idle reader buffers nothing.
    """

    __slots__ = (
        "_allowed",
        "_buffer",
        "_closed",
        "_fragments",
        "_max_fragments",
        "_max_message_bytes",
        "_wanted",
        "failure",
        "inflated",
    )

    def __init__(
        self, max_message_bytes: int, max_fragments: int = 1024, *, compression: bool = False
    ) -> None:
        self.failure: Failure | None = None
        """Set when the peer violates the protocol; all later data of the peer is discarded."""
        self.inflated = 0
        """Bytes of decompressed messages, since the owner last set it to 0."""
        self._max_message_bytes = max_message_bytes
        self._max_fragments = max_fragments
        self._allowed = COMPRESSED if compression else 0  # of the reserved bits
        self._buffer: bytearray | None = None  # the beginning of a frame
        self._wanted = 0  # the size of the buffer from which it is read again
        self._fragments: _Fragments | None = None
        self._closed = False

    def feed(self, data: bytes) -> list[tuple[Opcode, bytes]]:
        """
        Return the messages and control frames that *data* completes, in order. Never raises.

        Text is valid UTF-8, and the payload of a Close frame is valid. No message follows a Close
        frame, and none is returned once `failure` is set.
        """
        if self._closed:
            return []
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return []
            data, self._buffer = bytes(self._buffer), None
        messages: list[tuple[Opcode, bytes]] = []
        try:
            self._read(data, messages)
        except _Broken as broken:
            self.failure = broken.failure
            self._close()
        return messages

    @property
    def idle(self) -> bool:
        """Whether nothing is buffered and the reader is not closed: equivalent to a new reader."""
        return self._buffer is None and self._fragments is None and not self._closed

    @property
    def held(self) -> int:
        """The number of buffered bytes of an incomplete message."""
        held = 0
        if self._buffer is not None:
            held += len(self._buffer)
        if self._fragments is not None:
            held += len(self._fragments.payload)
        return held

    @property
    def missing(self) -> int:
        """The number of missing bytes of an incomplete frame, as far as it is known."""
        return 0 if self._buffer is None else max(0, self._wanted - len(self._buffer))

    def _close(self) -> None:
        self._closed = True
        self._buffer = self._fragments = None

    def _read(self, data: bytes, messages: list[tuple[Opcode, bytes]]) -> None:
        end = len(data)
        start = 0
        while end - start >= 2:  # noqa: PLR2004 - the shortest head
            first, second = data[start], data[start + 1]
            payload_at = start + _SHORTEST_FRAME
            length = second & 0x7F
            opcode = self._checked(first, second, length)
            if length >= _LENGTH_OF_2_BYTES:
                size = 2 if length == _LENGTH_OF_2_BYTES else 8
                payload_at += size
                if end - start < 2 + size:
                    break
                length = self._long_length(data[start + 2 : start + 2 + size])
            self._check_size(opcode, length)
            frame_end = payload_at + length
            if frame_end > end:
                self._keep(data[start:], frame_end - start)
                return
            payload = apply_mask(data[payload_at:frame_end], data[payload_at - 4 : payload_at])
            start = frame_end
            message = self._message(opcode, payload, first)
            if message is not None:
                messages.append(message)
                if message[0] is Opcode.CLOSE:
                    self._close()
                    return
        if start < end:
            self._keep(data[start:], 0)

    def _keep(self, data: bytes, wanted: int) -> None:
        self._buffer = bytearray(data)
        self._wanted = wanted

    def _checked(self, first: int, second: int, length: int) -> Opcode:
        """Return the opcode of a head whose first two bytes are allowed."""
        opcode = _OPCODES.get(first & 0x0F)
        # RFC 7692 6: only the first frame of a data message has the bit for compression.
        allowed = self._allowed if opcode in (Opcode.TEXT, Opcode.BINARY) else 0
        if first & RESERVED_BITS & ~allowed:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "Reserved bits are set")
        if opcode is None:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "Unknown opcode")
        if second < MASKED:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "Frames of a client must be masked")
        if opcode >= Opcode.CLOSE:
            if length > MAX_CONTROL_PAYLOAD:
                raise _Broken(CloseCode.PROTOCOL_ERROR, "Control frame too long")
            if first < FIN:
                raise _Broken(CloseCode.PROTOCOL_ERROR, "Fragmented control frame")
        elif (opcode is Opcode.CONTINUATION) is (self._fragments is None):
            raise _Broken(CloseCode.PROTOCOL_ERROR, "Unexpected fragment")
        return opcode

    @staticmethod
    def _long_length(field: bytes) -> int:
        length = int.from_bytes(field, "big")
        # RFC 6455 5.2: the minimal number of bytes, and the most significant bit is 0.
        shortest = _LENGTH_OF_2_BYTES if len(field) == 2 else 1 << 16  # noqa: PLR2004 - its name
        if length < shortest or length >> 63:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "Invalid payload length")
        return length

    def _check_size(self, opcode: Opcode, length: int) -> None:
        if opcode >= Opcode.CLOSE:
            return
        fragments = self._fragments
        before = len(fragments.payload) if fragments is not None else 0
        if before + length > self._max_message_bytes:
            raise _Broken(CloseCode.MESSAGE_TOO_BIG, "Message too big")
        if fragments is not None and fragments.count >= self._max_fragments:
            raise _Broken(CloseCode.POLICY_VIOLATION, "Too many fragments")

    def _message(self, opcode: Opcode, payload: bytes, first: int) -> tuple[Opcode, bytes] | None:
        if first == _WHOLE_TEXT:
            _check_text(payload)
        elif opcode >= Opcode.CLOSE:
            if opcode is Opcode.CLOSE:
                if not _is_legal_close(payload):
                    raise _Broken(CloseCode.PROTOCOL_ERROR, "Invalid close code")
                if payload:
                    _check_text(payload[2:])
        elif self._fragments is not None or first < FIN:
            return self._fragment(opcode, payload, first)
        elif first & COMPRESSED:
            return opcode, self._inflated(opcode, payload)
        return opcode, payload

    def _fragment(self, opcode: Opcode, payload: bytes, first: int) -> tuple[Opcode, bytes] | None:
        fragments = self._fragments
        if fragments is None:
            compressed = bool(first & COMPRESSED)
            fragments = self._fragments = _Fragments(opcode, compressed=compressed)
        final = first >= FIN
        fragments.count += 1
        fragments.payload += payload
        if fragments.decoder is not None:
            try:
                fragments.decoder.decode(payload, final)
            except UnicodeDecodeError:
                raise _Broken(CloseCode.INVALID_DATA, "Text is not valid UTF-8") from None
        if not final:
            return None
        self._fragments = None
        message = bytes(fragments.payload)
        if fragments.compressed:
            message = self._inflated(fragments.opcode, message)
        return fragments.opcode, message

    def _inflated(self, opcode: Opcode, payload: bytes) -> bytes:
        try:
            message = inflate(payload, self._max_message_bytes)
        except TooLarge:
            raise _Broken(CloseCode.MESSAGE_TOO_BIG, "Message too big") from None
        except Malformed:
            raise _Broken(CloseCode.INVALID_DATA, "Message is not compressed data") from None
        self.inflated += len(message)
        if opcode is Opcode.TEXT:
            _check_text(message)
        return message


def _check_text(payload: bytes) -> None:
    if not payload.isascii() and not _is_utf8(payload):
        raise _Broken(CloseCode.INVALID_DATA, "Text is not valid UTF-8")


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


# -- The opening handshake -----------------------------------------------------------------

_HANDSHAKE_FIELDS = frozenset(
    (b"upgrade", b"connection", b"sec-websocket-version", b"sec-websocket-key")
)
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSION = b"13"
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_KEY_BYTES = 16
_KEY_FIELD = b"\r\nSec-WebSocket-Key: "
KEY_CHARACTERS = 24


class HandshakeRefused(Exception):
    """The handshake is invalid or not supported; send this as the response, and close."""

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


def accept_key(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    digest = hashlib.sha1(key + GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False)


def check_handshake(method: str, version: str, headers: Headers) -> bytes:
    """
    Return the Sec-WebSocket-Key of a request; the names of *headers* are in lower case.

    Raises HandshakeRefused (RFC 6455 4.2.1).
    """
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _HANDSHAKE_FIELDS:
            fields.setdefault(name, []).append(value)
    if b"websocket" not in _members(fields.get(b"upgrade", [])):
        upgrade = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))
        raise HandshakeRefused(426, "This endpoint speaks WebSocket", upgrade)
    if method != "GET" or version != "1.1":
        raise HandshakeRefused(400, "A WebSocket handshake is a GET of HTTP/1.1")
    if b"upgrade" not in _members(fields.get(b"connection", [])):
        raise HandshakeRefused(400, "A WebSocket handshake needs Connection: Upgrade")
    if fields.get(b"sec-websocket-version") != [VERSION]:
        raise HandshakeRefused(
            426, "Unsupported WebSocket version", ((b"Sec-WebSocket-Version", VERSION),)
        )
    keys = fields.get(b"sec-websocket-key", [])
    if len(keys) != 1 or not is_key(keys[0]):
        raise HandshakeRefused(400, "A WebSocket handshake needs one valid Sec-WebSocket-Key")
    return keys[0]


def cut_at_key(head: bytes) -> tuple[bytes, bytes, bytes] | None:
    """
    Return the bytes before a handshake's key, the key, and the bytes after it; None without a key.

    Two requests with equal outer parts and valid keys (`is_key`) are equivalent. Only the usual
    spelling of the header's name in client libraries is found.
    """
    start = head.find(_KEY_FIELD) + len(_KEY_FIELD)
    if start < len(_KEY_FIELD):
        return None
    end = start + KEY_CHARACTERS
    if end > len(head):
        return None
    return head[:start], head[start:end], head[end:]


def is_key(key: bytes) -> bool:
    """Return whether *key* is a valid Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455 4.1)."""
    try:
        return len(binascii.a2b_base64(key, strict_mode=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def _members(lists: Sequence[bytes]) -> list[bytes]:
    """Return the members, in lower case, of comma-separated lists."""
    return [member.strip().lower() for member in b",".join(lists).split(b",")]


MAX_SUBPROTOCOLS = 32
"""Subprotocols of one handshake that are read."""


def offered_subprotocols(headers: Headers) -> list[bytes]:
    """
    Return the subprotocols that a client offers, in its order; only tokens (RFC 9110 5.6.2).

    After MAX_SUBPROTOCOLS, further subprotocols are not read.
    """
    lists = b",".join([value for name, value in headers if name == b"sec-websocket-protocol"])
    if not lists:
        return []
    offers = (offer.strip() for offer in lists.split(b",", MAX_SUBPROTOCOLS)[:MAX_SUBPROTOCOLS])
    return [offer for offer in offers if _TOKEN.fullmatch(offer)]


HANDSHAKE_BEGINNING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: "
)
"""The beginning of every response that accepts a handshake; the accepted key follows."""


def handshake_response(
    key: bytes,
    *,
    subprotocol: bytes | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return the response that accepts a handshake. Raises ValueError: see `handshake_end`."""
    end = handshake_end(subprotocol=subprotocol, headers=headers)
    return b"%b%b%b" % (HANDSHAKE_BEGINNING, accept_key(key), end)


def handshake_end(
    *, subprotocol: bytes | None = None, headers: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """
    Return the part of a handshake response that follows the accepted key.

    Raises ValueError for a *subprotocol* that is no token, and for a header of several lines: data
    of a client cannot become a header.
    """
    lines = []
    if subprotocol is not None:
        if not _TOKEN.fullmatch(subprotocol):
            raise ValueError(f"a subprotocol is a token, unlike {subprotocol!r}")
        lines.append(b"Sec-WebSocket-Protocol: " + subprotocol)
    lines += [name + b": " + value for name, value in headers]
    for line in lines:
        if b"\r" in line or b"\n" in line:
            raise ValueError(f"a header must fit on one line: {line!r}")
    return b"".join([b"\r\n" + line for line in lines]) + b"\r\n\r\n"
