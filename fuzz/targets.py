"""
What must hold for any bytes: one function for each parser.

A target raises only where a promise is broken. It is the same for every engine that makes the
bytes, and does the same for the same bytes: time and chance are fixed.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import unquote, unquote_plus

from fuzz.rig import APP_ID, KEY, NOW, SECRET, Link, Ticked, Wire
from heliograph.errors import ApiError
from heliograph.node.node import Node
from heliograph.protocols.pusher import endpoint
from heliograph.protocols.pusher.api.auth import (
    MAX_CLOCK_SKEW_S,
    Signers,
    authenticate,
    authenticate_fast,
)
from heliograph.wire.http import (
    CONTINUE,
    HeaderMemory,
    HttpLimits,
    RefusedRequest,
    Request,
    RequestReader,
)
from heliograph.wire.websocket import FrameReader, Opcode, parse_close

MAX_INPUT = 4096

Target = Callable[[bytes], None]


def _cuts(data: bytes, seed: int) -> list[bytes]:
    """Return *data* in pieces; which ones depends on *seed*."""
    pieces, start, state = [], 0, seed * 2654435761 + 1
    while start < len(data):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        length = 1 + (state >> 16) % (7 if state & 1 else 90)
        pieces.append(data[start : start + length])
        start += length
    return pieces


def _bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def _ways(data: bytes, seed: int) -> list[list[bytes]]:
    return [[data] if data else [], _cuts(data, seed), _cuts(data, seed + 1), _bytewise(data)]


def _same(outcomes: Sequence[object]) -> None:
    first = outcomes[0]
    for other in outcomes[1:]:
        assert other == first, f"cut otherwise, the same bytes give\n{other}\ninstead of\n{first}"


# -- Frames --------------------------------------------------------------------------------

FRAME_LIMITS = (125, 300, 70_000)


def frames(data: bytes) -> None:
    """Any bytes after a handshake; the first one says how they are read."""
    if not data:
        return
    how, stream = data[0], data[1 : MAX_INPUT + 1]
    limit, compression = FRAME_LIMITS[how & 3] if how & 3 < 3 else 300, bool(how & 4)
    _same([_read_frames(pieces, limit, compression) for pieces in _ways(stream, how)])


def _read_frames(pieces: Sequence[bytes], limit: int, compression: bool) -> object:
    reader = FrameReader(limit, max_fragments=8, compression=compression)
    read: list[tuple[Opcode, bytes]] = []
    for piece in pieces:
        told = reader.feed(piece)
        assert not (read and read[-1][0] is Opcode.CLOSE and told), "more after a Close frame"
        read += told
        held = len(reader._buffer or b"") + len(
            reader._fragments.payload if reader._fragments else b""
        )
        assert held <= 2 * (limit + 14) + MAX_INPUT, f"holds {held} bytes of at most {limit}"
        assert not (reader.failure and held), "holds bytes after it has failed"
    for opcode, payload in read:
        assert len(payload) <= (limit if opcode < Opcode.CLOSE else 125)
        if opcode is Opcode.TEXT:
            payload.decode()
        elif opcode is Opcode.CLOSE:
            parse_close(payload)
    return read, reader.failure


# -- Requests ------------------------------------------------------------------------------

ROOMY = HttpLimits(max_head_bytes=MAX_INPUT, max_headers=20, max_body_bytes=500)
TIGHT = HttpLimits(max_head_bytes=200, max_headers=6, max_body_bytes=100)


def requests(data: bytes) -> None:
    """Any bytes on a connection; the first one says how they are read."""
    if not data:
        return
    how, stream = data[0], data[1 : MAX_INPUT + 1]
    limits = TIGHT if how & 1 else ROOMY
    outcomes = [
        _read_requests(pieces, limits, websockets=not how & 2) for pieces in _ways(stream, how)
    ]
    if limits is TIGHT:
        outcomes = [_either_fault(told) for told in outcomes]
    _same(outcomes)
    _remembered_is_read(stream, limits)


def _read_requests(
    pieces: Sequence[bytes], limits: HttpLimits, *, websockets: bool
) -> list[object]:
    reader = RequestReader(limits, websockets=websockets)
    read: list[object] = []
    for piece in pieces:
        for event in reader.feed(piece):
            assert not (read and isinstance(read[-1], RefusedRequest)), "more after a refusal"
            if event is CONTINUE:
                continue  # whether a client seems to wait depends on how its bytes come
            read.append(_facts(event) if isinstance(event, Request) else event)
        assert len(reader._body) <= limits.max_body_bytes + MAX_INPUT
    if reader.upgraded:
        read.append(reader.rest)
    return [*read, reader.upgraded, reader.receiving, reader.receiving_body]


def _facts(request: Request) -> tuple[object, ...]:
    assert len(request.body) <= ROOMY.max_body_bytes
    return tuple(getattr(request, name) for name in Request.__slots__)


def _either_fault(told: list[object]) -> list[object]:
    """Of a chunked body that wastes bytes and is malformed as well, either may be told."""
    either = {400, 413}
    return [
        "refused" if isinstance(one, RefusedRequest) and one.status in either else one
        for one in told
    ]


def _remembered_is_read(stream: bytes, limits: HttpLimits) -> None:
    """What the shortcut makes of a request is what the parser makes of it."""
    first, _, second = stream.partition(b"\n\n\n")
    memory = HeaderMemory()
    RequestReader(limits, memory).feed(first)
    for data in (first, second):
        reader = RequestReader(limits, memory)
        plain = reader.request_fast(data)
        if plain is not None:
            rest = [reader.rest] if reader.upgraded else []
            shortcut: list[object] = [_facts(plain), *rest]
            shortcut += [reader.upgraded, reader.receiving, reader.receiving_body]
            read = _read_requests([data], limits, websockets=True)
            assert read == shortcut, f"the shortcut reads\n{shortcut}\ninstead of\n{read}"


# -- Connections ---------------------------------------------------------------------------


def connections(data: bytes) -> None:
    """Any bytes to a server: HTTP, an upgrade, frames, messages."""
    if not data:
        return
    how, stream = data[0], data[1 : MAX_INPUT + 1]
    ways = [(pieces, False) for pieces in _ways(stream, how)]
    ways.append(([stream], True))
    hang_up = bool(how & 1)
    _same([Wire(pieces, hang_up=hang_up, hurried=hurried).said() for pieces, hurried in ways])


# -- Messages ------------------------------------------------------------------------------


def messages(data: bytes) -> None:
    """
    Lines that two clients of one app say in turn, each a message.

    One that begins with ! is signed by the rig, or nothing private could ever be reached.
    """
    ticked = Ticked()
    links = [Link(ticked.node), Link(ticked.node)]
    for number, line in enumerate(data[:MAX_INPUT].split(b"\n")):
        links[number % 2].say(line)
        ticked.tick()
    for link in links:
        link.check()
        link.end()
    ticked.tick()
    ticked.check_empty()


# -- Signatures ----------------------------------------------------------------------------


def signatures(data: bytes) -> None:
    """
    A request to the API: method, path, query and body, a line each.

    A query that begins with ! is signed by the rig; then one bit of it is turned.
    """
    parts = data[:MAX_INPUT].split(b"\n", 3)
    method, path, query, body = [*parts, b"", b"", b"", b""][:4]
    ask = partial(_asks, Ticked().node, method.decode("latin-1"), path, body=body)
    if not query.startswith(b"!"):
        ask(query)
        return
    query = _signed(method.decode("latin-1"), path, query[1:], body)
    ask(query)
    turned = bytearray(query)
    turned[-1 - len(body) % 64] ^= 1
    assert not ask(bytes(turned)), "a turned bit is accepted"


def _asks(node: Node, method: str, path: bytes, query: bytes, *, body: bytes) -> bool:
    """Tell whether the server takes the request for one of the app; who else does must agree."""
    accepted = True
    try:
        authenticate(
            node,
            APP_ID,
            method=method,
            path=path.decode("latin-1"),
            parameters=endpoint.query_parameters(query),
            body=body,
            now_s=NOW,
        )
    except ApiError as error:
        accepted = False
        assert SECRET not in error.message, "an error shows the secret"
    if accepted:
        paths = {path.decode("latin-1"), unquote(path.decode("latin-1"))}
        assert any(_is_signed(method, one, query, body) for one in paths), "accepted unsigned"
    if method == "POST":
        shortcut = authenticate_fast(Signers(node), APP_ID, path, query, body, NOW)
        assert accepted or shortcut is None, "the shortcut accepts what is refused"
    return accepted


def _is_signed(method: str, path: str, query: bytes, body: bytes) -> bool:
    """Judge as Pusher's documentation has it, written anew."""
    given = dict(_pairs(query))
    checksum = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return (
        given["auth_key"] == KEY
        and given["auth_version"] == "1.0"
        and abs(int(given["auth_timestamp"]) - NOW) < MAX_CLOCK_SKEW_S
        and given.get("body_md5", "" if not body else None)
        in ({checksum, ""} if not body else {checksum})
        and given["auth_signature"] == _signature(method, path, query)
    )


def _pairs(query: bytes) -> list[tuple[str, str]]:
    parts = [one.partition("=") for one in query.decode(errors="replace").split("&") if one]
    return [
        (unquote_plus(name, errors="replace"), unquote_plus(value, errors="replace"))
        for name, _, value in parts
    ]


def _signature(method: str, path: str, query: bytes) -> str:
    pairs = [(name.lower(), value) for name, value in _pairs(query) if name != "auth_signature"]
    pairs.sort(key=lambda pair: pair[0])
    text = "\n".join((method.upper(), path, "&".join("=".join(pair) for pair in pairs)))
    return hmac.new(SECRET.encode(), text.encode(), "sha256").hexdigest()


def _signed(method: str, path: bytes, query: bytes, body: bytes) -> bytes:
    fixed = f"auth_key={KEY}&auth_timestamp={NOW:.0f}&auth_version=1.0".encode()
    if body:
        fixed += b"&body_md5=" + hashlib.md5(body, usedforsecurity=False).hexdigest().encode()
    query = fixed + (b"&" + query if query else b"")
    signature = _signature(method, path.decode("latin-1"), query)
    return query + b"&auth_signature=" + signature.encode()


TARGETS: dict[str, Target] = {
    "frames": frames,
    "requests": requests,
    "connections": connections,
    "messages": messages,
    "signatures": signatures,
}
