"""
The opening handshake of WebSockets: a request in; out comes a response, or the takeover of its
connection.

Knows RFC 6455 section 4, and which request was accepted before. A protocol is asked once what a
client may have; afterwards the handshake is data, the same for all clients with the same request.
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
"""Handshakes that are remembered, of at most MAX_REMEMBERED_BYTES each."""

MAX_REMEMBERED_BYTES = 1024

Connect: TypeAlias = Callable[[Context, Transport, ClientLane, float], WebSocketConnection]
"""Makes the connection of a client."""


_NOT_FOUND = text(404, "Not found")


class Handshake:
    """What a client asks for, but for its key: the same for all whose requests are the same."""

    __slots__ = ("end", "lane", "opening", "request")

    def __init__(self, request: Request, opening: Opening, lane: ClientLane, end: bytes) -> None:
        self.request = request
        self.opening = opening
        self.lane = lane
        self.end = end  # of the answer: what follows the accepted key


class Upgrade(Struct, eq=False, gc=False):
    """A handshake that is accepted: the takeover of its connection."""

    handshake: Handshake
    key: bytes
    connect: Connect
    status: int = 101

    def take(self, connection: Handover, /) -> None:
        """Go on with a connection as a WebSocket."""
        handshake, transport = self.handshake, connection.transport
        client = self.connect(connection.context, transport, handshake.lane, connection.now)
        transport.set_protocol(client)
        connection.context.wheel.replace(connection.predecessor, client)
        answer = b"%b%b%b" % (HANDSHAKE_BEGINNING, accept_key(self.key), handshake.end)
        client.open(answer, handshake.opening, handshake.request, connection)


class Upgrades:
    """
    Answers requests that ask for a WebSocket, for clients of *dialects*.

    *compression* is the framing of clients that support compression; without one, none is
    compressed. *connect* makes connections.

    Handshakes that were accepted before are remembered by the bytes of their requests around the
    key: when a server comes back, thousands of clients ask for the same, in the same words.
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
        Answer *request*; *head* is the whole of it, where it came in one piece.

        One for whom there is no room, and one that its protocol refuses, is let in to hear why.
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
        """Answer the request that *data* is, if one like it was accepted. None: use `answer`."""
        parts = cut_at_key(data)
        if parts is None:
            return None
        before, key, after = parts
        handshake = self._known.get((before, after))
        if handshake is None or not is_key(key):
            return None
        return Upgrade(handshake, key, self.connect)

    def handshake(self, request: Request) -> Handshake | None:
        """Read *request*, and ask its protocol; None if no protocol knows its path."""
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
        """Keep what was read from *head*, the whole of a request, if nothing is wrong with it."""
        if len(head) > MAX_REMEMBERED_BYTES or handshake.opening.refusal is not None:
            return
        parts = cut_at_key(head)
        if parts is None or not is_key(parts[1]):
            return
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()  # cheaper than an order of use; those in use are soon back
        self._known[parts[0], parts[2]] = handshake
