"""
The port of protocols: what the node and connections need of one, and what they offer to it.

Protocols implement `Dialect` and `Session`, connections implement `Peer`. Knows no protocol, and
none of the codes and texts that clients read.
"""

from collections.abc import Callable, Collection
from enum import Enum
from typing import Any, Protocol

from heliograph.config.apps import App
from heliograph.engine.answers import Entry
from heliograph.errors import ClientError, HeliographError
from heliograph.hub.channel import Lane


class Ending(Enum):
    """Why the node ends a session. Each protocol has its own words and code for it."""

    APP_DISABLED = "the app was removed or switched off"
    TERMINATED = "the connections of this user were terminated"
    RECONNECT = "the server stops"
    EVENTS_LOST = "events may have been lost"
    ENGINE_UNAVAILABLE = "the engine is unavailable"


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


class Peer(Protocol):
    """The connection of a session: a subscriber that a session can also send to alone."""

    id: str

    @property
    def lane(self) -> Lane:
        """The encoding of facts for this client."""

    def write(self, chunk: Any, /) -> object:
        """Take a chunk of the lane's."""

    def send(self, *texts: bytes) -> None:
        """Deliver messages to this client, in one write."""

    def close(self, error: ClientError) -> None:
        """Send the client *error*, then end the connection; `Session.end` is called on the way."""


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

    def end(self) -> None:
        """Leave everything: the client disconnected or is being closed. Called once."""


class Dialect(Protocol):
    """A protocol: begins sessions."""

    name: str

    def connect(self, app_key: str, origin: str | None, address: Callable[[], str]) -> Session:
        """
        Begin a session with the app that owns *app_key*, for a page of *origin*, if it is a page.

        *address* returns the client's address for the log. Raises ClientError with the protocol's
        code and text.
        """
