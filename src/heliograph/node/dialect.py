"""
The port of protocols: what the node and connections need of one, and what they offer to it.

Protocols implement `Dialect` and `Session`, connections implement `Peer`. Knows no protocol, and
none of the codes and texts that clients read.
"""

from collections.abc import Callable, Collection, Sequence
from enum import Enum
from typing import Any, Protocol

from msgspec import Struct

from heliograph.config.apps import App
from heliograph.engine.answers import Entry
from heliograph.errors import HeliographError
from heliograph.hub.channel import Lane


class Ending(Enum):
    """
    Why the node, or the connection, ends a session.

    Each protocol has its own words and code for it.
    """

    APP_DISABLED = "the app was removed or switched off"
    TERMINATED = "the connections of this user were terminated"
    RECONNECT = "the server stops"
    EVENTS_LOST = "events may have been lost"
    ENGINE_UNAVAILABLE = "the engine is unavailable"
    OVER_CAPACITY = "the server has as many connections as it can have"
    ADDRESS_OVER_LIMIT = "the address of the client has as many connections as it may have"
    TOO_MANY_MESSAGES = "the client sends more messages per second than it may"
    TOO_MUCH_UNFINISHED = "the server holds too much of messages that are not complete"
    PING_UNANSWERED = "the client did not answer a ping"
    NOT_IDENTIFIED = "the client did not prove its identity in time"


class NotAdmitted(HeliographError):
    """The node refuses a client before its session begins; *why* is one of a few."""

    class Why(Enum):
        """What was wrong."""

        UNKNOWN_KEY = "no app has this key"
        APP_DISABLED = "the app is switched off"
        ORIGIN = "the page's origin is not allowed"
        QUOTA = "the app has as many connections as it may have"

    def __init__(self, why: Why) -> None:
        super().__init__(why.value)
        self.why = why


class Goodbye(Struct, frozen=True):
    """
    The last that a client receives: *message*, if there is one, then the end of its connection.

    *code* and *reason* are those of a Close frame (RFC 6455 7.4), where the connection has frames.
    """

    code: int
    reason: str
    message: bytes | None = None


class Refused(HeliographError):
    """A session does not begin; *goodbye* is what the client receives."""

    def __init__(self, goodbye: Goodbye) -> None:
        super().__init__(goodbye.reason)
        self.goodbye = goodbye


class RequestHead(Protocol):
    """The head of the request that a client connects with, as `wire.http.Request` has it."""

    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]

    def lone_header(self, name: bytes, /) -> bytes | None:
        """Return the value of the header *name* (in lower case), None without it or with two."""


class Framing(Protocol):
    """How a message becomes bytes of one kind of connection: of WebSockets, or a stream."""

    @property
    def compression(self) -> bool:
        """Whether clients may send compressed messages."""

    def frame(self, text: bytes, /) -> bytes:
        """Return *text*, the whole of a message, as the connection sends it."""

    def uncompressed(self, text: bytes, /) -> bytes:
        """
        Return the same, not compressed.

        For the first and the last message of a connection: many clients connect, or are closed, at
        the same time.
        """


class ClientLane(Lane, Protocol):
    """The lane of clients of one protocol and framing: facts as bytes of their connections."""

    @property
    def framing(self) -> Framing:
        """The framing of the lane."""


class Peer(Protocol):
    """The connection of a session: a subscriber that a session can also send to alone."""

    id: str

    @property
    def lane(self) -> ClientLane:
        """The encoding of facts for this client."""

    def write(self, chunk: Any, /) -> object:
        """Take a chunk of the lane's."""

    def send(self, *texts: bytes) -> None:
        """Deliver messages to this client, in one write."""

    def close(self, goodbye: Goodbye) -> None:
        """Send the client *goodbye*, then end the connection, and with it the session."""


class Host(Protocol):
    """A Tenant, as connections know it."""

    app: App
    """The app, as it is configured now."""


class Session(Protocol):
    """The protocol state of one client, as the node and its connection use it."""

    id: str
    ended: bool
    identified: bool  # whether the client ever proved who it is
    peer: Peer

    @property
    def tenant(self) -> Host:
        """The node's part of the app that the client is connected to."""

    @property
    def channels(self) -> Collection[str]:
        """What the session has to leave when it ends."""

    def open(self, peer: Peer) -> bytes:
        """Take the session's peer; return the first message, which the peer sends before others."""

    def receive(self, text: bytes, now: float) -> None:
        """Handle a message, valid UTF-8, that came at *now* (monotonic seconds)."""

    def close(self, ending: Ending) -> None:
        """End the connection, in the words and with the code of the protocol."""

    def lost(self, channel: str, now: Entry | None) -> bool:
        """
        Take note that events of *channel* are missing; return whether the client can handle that.

        *now* is what entering would answer. Where it cannot, the node closes the session.
        """

    def detach(self, most_bytes: int) -> None:
        """
        Go on without a connection, which is lost and may come back.

        What the client is sent from now on is held, up to *most_bytes*. What the lost connection
        was given and did not deliver is the connection's to repeat. The owner of the session calls
        `end` if no connection comes back in time. Not for a session that ended, nor for one that is
        detached.
        """

    def attach(self, peer: Peer) -> None:
        """
        Go on with *peer*, which has the id of the session: it is sent what was held.

        Where more was to be held than could be, or what was held is in the bytes of another lane,
        *peer* is closed, for `Ending.EVENTS_LOST`. Where the session ended meanwhile, *peer* is
        closed with the goodbye of then. Only for a session that is detached, or ended.
        """

    def end(self) -> None:
        """
        Leave everything: the client disconnected or is being closed.

        Nothing happens where the session ended before: it may end while it is detached.
        """


class Opening(Struct, frozen=True, eq=False, kw_only=True):
    """
    What a client asks for when it connects: the same for all whose requests are the same.

    *key* names the app, *origin* the page, if the client is one. *subprotocol* is the offered one
    (RFC 6455 1.9) that is accepted, if any. With a *refusal*, no session begins. A protocol may
    derive a class of its own, for whatever else it reads from the request.
    """

    dialect: "Dialect"
    key: str = ""
    origin: str | None = None
    subprotocol: bytes | None = None
    refusal: Goodbye | None = None


class Dialect(Protocol):
    """A protocol: which requests are for it, its sessions, its lanes and its last words."""

    name: str

    def opening(self, request: RequestHead) -> Opening | None:
        """
        Return what a client asks for that connects with *request*; None if by another protocol.

        The answer may be kept, and used again for other clients with an equal request: it follows
        from the request and the settings alone. Never raises.
        """

    def connect(self, opening: Opening, address: Callable[[], str]) -> Session:
        """
        Begin the session that *opening* asks for.

        *address* returns the client's address for the log. Raises Refused, with the protocol's
        code and text.
        """

    def lane(self, framing: Framing) -> ClientLane:
        """Return the lane for clients with *framing*: one object for each."""

    def goodbye(self, ending: Ending) -> Goodbye:
        """Return what a client of this protocol receives when it is closed for *ending*."""

    def redact(self, text: bytes) -> str:
        """Return what the log may show of a message: without secrets, not too long."""

    def redact_reason(self, reason: str) -> str:
        """Return the same of the reason in a Close frame."""


def opening_of(dialects: Sequence[Dialect], request: RequestHead) -> Opening | None:
    """
    Return what a client asks for that connects with *request*; None if no protocol knows its path.

    The *dialects* are asked in their order.
    """
    for dialect in dialects:
        opening = dialect.opening(request)
        if opening is not None:
            return opening
    return None
