"""
The opening handshake of WebSockets: it takes a request, and returns a response or the takeover of
the connection.

Implements RFC 6455 section 4, and caches accepted requests. The protocol decides once for each
different request; after that the handshake is data, shared by all clients with the same request.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from msgspec import Struct

from heliograph.handler import Answer
from heliograph.net.context import Context
from heliograph.net.takeover import Handover
from heliograph.net.transport import Transport
from heliograph.net.websocket import WebSocketConnection
from heliograph.node.dialect import ClientLane, Dialect, Opening, opening_of
from heliograph.wire.deflate import negotiate
from heliograph.wire.framing import DeflateFraming, TextFraming
from heliograph.wire.http import Request
from heliograph.wire.responses import text
from heliograph.wire.websocket import (
    HANDSHAKE_BEGINNING,
    HandshakeRefused,
    accept_key,
    check_handshake,
    cut_at_key,
    handshake_end,
    is_key,
)

MAX_REMEMBERED = 256
"""Number of cached handshakes, of at most MAX_REMEMBERED_BYTES each."""

MAX_REMEMBERED_BYTES = 1024

Connect: TypeAlias = Callable[[Context, Transport, ClientLane, float], WebSocketConnection]
"""Makes the connection of a client."""


_NOT_FOUND = text(404, "Not found")


class Handshake:
    """A client's request without its key; clients with the same request share the object."""

    __slots__ = ("end", "lane", "opening", "request")

    def __init__(self, request: Request, opening: Opening, lane: ClientLane, end: bytes) -> None:
        self.request = request
        self.opening = opening
        self.lane = lane
        self.end = end  # the bytes of the answer after the accepted key


class Upgrade(Struct, eq=False, gc=False):
    """An accepted handshake: the takeover of its connection."""

    handshake: Handshake
    key: bytes
    connect: Connect
    status: int = 101

    def take(self, handover: Handover, /) -> None:
        """Take over a connection as a WebSocket."""
        handshake, transport = self.handshake, handover.transport
        client = self.connect(handover.context, transport, handshake.lane, handover.now)
        transport.set_protocol(client)
        handover.context.wheel.replace(handover.predecessor, client)
        answer = b"%b%b%b" % (HANDSHAKE_BEGINNING, accept_key(self.key), handshake.end)
        client.open(answer, handshake.opening, handshake.request, handover)


class Upgrades:
    """
    Answers requests that ask for a WebSocket, for clients of *dialects*.

    *compression* is the framing of clients that support compression; if None, no client gets
    compression. *connect* makes connections.

    Accepted handshakes are cached by the bytes of their requests before and after the key: after
    a restart of a server, thousands of clients send the same request, except for the key.
    """

    __slots__ = ("_compression", "_dialects", "_known", "_text", "connect")

    def __init__(
        self,
        dialects: Sequence[Dialect],
        *,
        compression: DeflateFraming | None = None,
        connect: Connect = WebSocketConnection,
    ) -> None:
        self._dialects = dialects
        self._compression = compression
        self._text = TextFraming()
        self.connect = connect
        self._known: dict[tuple[bytes, bytes], Handshake] = {}

    def answer(self, request: Request, head: bytes = b"") -> Answer:
        """
        Answer *request*; *head* is the complete request if it arrived in one piece.

        A client over capacity, or refused by its protocol, still gets a WebSocket, over which
        it receives the reason.
        """
        try:
            key = check_handshake(request.method, request.version, request.headers)
        except HandshakeRefused as refused:
            return text(refused.status, refused.text, headers=refused.headers)
        handshake = self.handshake(request)
        if handshake is None:
            return _NOT_FOUND
        if head:
            self.remember(head, handshake)
        return Upgrade(handshake, key, self.connect)

    def answer_fast(self, data: bytes) -> Upgrade | None:
        """Answer the request in *data* if the same was accepted before. None: use `answer`."""
        parts = cut_at_key(data)
        if parts is None:
            return None
        before, key, after = parts
        handshake = self._known.get((before, after))
        if handshake is None or not is_key(key):
            return None
        return Upgrade(handshake, key, self.connect)

    def handshake(self, request: Request) -> Handshake | None:
        """Parse *request*, and let its protocol decide; None if no protocol knows its path."""
        headers = request.headers
        opening = opening_of(self._dialects, request)
        if opening is None:
            return None
        framing: TextFraming = self._text
        extensions: Sequence[tuple[bytes, bytes]] = ()
        if self._compression is not None and (agreed := negotiate(headers)) is not None:
            framing = self._compression.within(agreed.window_bits)
            extensions = ((b"Sec-WebSocket-Extensions", agreed.answer),)
        end = handshake_end(subprotocol=opening.subprotocol, headers=extensions)
        return Handshake(request, opening, opening.dialect.lane(framing), end)

    def remember(self, head: bytes, handshake: Handshake) -> None:
        """Cache the *handshake* of *head*, a complete request, unless it is refused."""
        if len(head) > MAX_REMEMBERED_BYTES or handshake.opening.refusal is not None:
            return
        parts = cut_at_key(head)
        if parts is None or not is_key(parts[1]):
            return
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()  # cheaper than LRU; requests in use are soon cached again
        self._known[parts[0], parts[2]] = handshake
