"""
The port of protocols: the interfaces between a protocol, the node and connections.

Protocols implement `Dialect` and `Session`, connections implement `Peer`. Knows no protocol, and
none of the codes and texts that clients receive.
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
    The reason for which the node, or the connection, ends a session.

    Each protocol has its own text and code for it.
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
    """The node refuses a client before its session begins; *why* is the reason."""

    class Why(Enum):
        """The reason for which the client was refused."""

        UNKNOWN_KEY = "no app has this key"
        APP_DISABLED = "the app is switched off"
        ORIGIN = "the page's origin is not allowed"
        QUOTA = "the app has as many connections as it may have"

    def __init__(self, why: Why) -> None:
        super().__init__(why.value)
        self.why = why


class Goodbye(Struct, frozen=True):
    """
    The end of a connection: the last *message* for the client, if there is one, then the close.

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
    """The head of the request with which a client connects; `wire.http.Request` implements it."""

    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]

    def lone_header(self, name: bytes, /) -> bytes | None:
        """Return the value of header *name* (in lower case); None unless it occurs once."""


class Framing(Protocol):
    """Encodes messages as bytes for one kind of connection: WebSockets, or a stream."""

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
    """The lane of clients of one protocol and framing: encodes facts as bytes to be sent."""

    @property
    def framing(self) -> Framing:
        """The framing of the lane."""

    @property
    def without_kept(self) -> Lane:
        """The lane that encodes the same facts, except the events that the engine keeps."""


class Peer(Protocol):
    """The connection of a session: a subscriber that a session can also send to alone."""

    id: str

    @property
    def lane(self) -> ClientLane:
        """The encoding of facts for this client."""

    def write(self, chunk: Any, /) -> object:
        """Take a chunk that the lane made."""

    def send(self, *texts: bytes) -> None:
        """Deliver messages to this client, in one write."""

    def room(self) -> int:
        """
        Return the number of bytes that can be written now without making the client a slow one.

        0 if the client has yet to read earlier ones.
        """

    def when_room(self, callback: Callable[[], object], /) -> None:
        """
        Call *callback* once there is room again; not at all if the connection is lost before.

        However often it is registered until then, it is called once.
        """

    def close(self, goodbye: Goodbye) -> None:
        """Send the client *goodbye*, then end the connection, and with it the session."""


class Host(Protocol):
    """The part of a Tenant that connections use."""

    app: App
    """The app with its present configuration."""


class Session(Protocol):
    """The protocol state of one client, as the node and its connection use it."""

    id: str
    ended: bool
    identified: bool  # whether the client has ever proved its identity
    peer: Peer

    @property
    def tenant(self) -> Host:
        """The node's part of the app that the client is connected to."""

    @property
    def channels(self) -> Collection[str]:
        """The channels that the session has to leave when it ends."""

    def open(self, peer: Peer) -> bytes:
        """Take the session's peer; return the first message, which the peer sends before others."""

    def receive(self, text: bytes, now: float) -> None:
        """Handle a message, valid UTF-8, that was received at *now* (monotonic seconds)."""

    def close(self, ending: Ending) -> None:
        """End the connection, with the text and code that the protocol has for *ending*."""

    def interrupt(self, channel: str) -> None:
        """
        Read the events that *channel* keeps since the last one that this node delivered.

        Called for a channel with a history that may have lost events, before later events of the
        channel are delivered. Does nothing if the client knows no positions there.
        """

    def lost(self, channel: str, now: Entry | None) -> bool:
        """
        Handle the loss of events of *channel*; return whether the client can handle it.

        *now* is the answer that `enter` would give now. If the client cannot handle the loss, the
        node closes the session.
        """

    def detach(self, most_bytes: int) -> None:
        """
        Go on without a connection: it is lost, and the client may reconnect.

        Data for the client is held from now on, up to *most_bytes*. Data that the lost connection
        took and did not deliver is not held: the connection has to send it again. The owner of the
        session calls `end` if the client does not reconnect in time. A session that ended, or is
        detached, must not be detached.
        """

    def attach(self, peer: Peer) -> None:
        """
        Go on with *peer*, which has the id of the session, and send it the data that was held.

        If there was more data than can be held, or the data was encoded by another lane, *peer* is
        closed for `Ending.EVENTS_LOST`. If the session ended meanwhile, *peer* is closed with the
        goodbye of that end. Only a session that is detached, or ended, can be attached.
        """

    def end(self) -> None:
        """
        Leave all channels and sign out: the client disconnected or is being closed.

        Does nothing if the session has ended already: it may end while it is detached.
        """


class Opening(Struct, frozen=True, eq=False, kw_only=True):
    """
    The content of a client's connect request; clients with equal requests have equal openings.

    *key* is the key of the app. *origin* is the origin of the page, if the client is in one.
    *subprotocol* is the offered subprotocol (RFC 6455 1.9) that is accepted, if any. With a
    *refusal*, no session begins. A protocol may derive a class of its own, with further fields from
    the request.
    """

    dialect: "Dialect"
    key: str = ""
    origin: str | None = None
    subprotocol: bytes | None = None
    refusal: Goodbye | None = None


class Dialect(Protocol):
    """A protocol: recognises its requests, and makes its sessions, lanes and goodbyes."""

    name: str

    def opening(self, request: RequestHead) -> Opening | None:
        """
        Return the opening of a client's *request*; None if the request is for another protocol.

        The caller may keep it, and use it for other clients with an equal request: it depends on
        the request and the settings alone. Never raises.
        """

    def connect(self, opening: Opening, address: Callable[[], str]) -> Session:
        """
        Begin the session that *opening* requests.

        *address* returns the client's address for the log. Raises Refused, with the protocol's
        code and text.
        """

    def lane(self, framing: Framing) -> ClientLane:
        """Return the lane for clients with *framing*: one object for each."""

    def goodbye(self, ending: Ending) -> Goodbye:
        """Return what a client of this protocol receives when it is closed for *ending*."""

    def redact(self, text: bytes) -> str:
        """Return a message for the log: without secrets, and not too long."""

    def redact_reason(self, reason: str) -> str:
        """Return the reason in a Close frame for the log: without secrets, and not too long."""


def opening_of(dialects: Sequence[Dialect], request: RequestHead) -> Opening | None:
    """
    Return the opening of a client's *request*, from the first of *dialects* that has one.

    None if no protocol knows its path.
    """
    for dialect in dialects:
        opening = dialect.opening(request)
        if opening is not None:
            return opening
    return None
