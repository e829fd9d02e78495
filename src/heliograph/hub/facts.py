"""
Facts and notices: the messages of a channel, and those about a user.

They have no protocol's format. Payloads stay as the publisher wrote them, and are never parsed.
"""

from msgspec import Struct


class Member:
    """
    A user in a presence channel, with any number of sessions there.

    *user_info* is JSON text, or None if the user has none. *encoded* belongs to a protocol, which
    may keep its encoding of this member there, so that the encoding is made once and not for each
    new subscriber.
    """

    __slots__ = ("encoded", "user_id", "user_info")

    def __init__(self, user_id: str, user_info: bytes | None = None) -> None:
        self.user_id = user_id
        self.user_info = user_info
        self.encoded: object = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Member):
            return NotImplemented
        return (self.user_id, self.user_info) == (other.user_id, other.user_info)

    def __hash__(self) -> int:
        return hash(self.user_id)

    def __repr__(self) -> str:
        return f"Member({self.user_id!r}, {self.user_info!r})"


class Keep(Struct, frozen=True, gc=False):
    """
    A rule: the last *count* events of a channel are kept, each for *ttl_s* seconds.

    One object for each rule: all its events and subscriptions refer to the same object.
    """

    count: int
    ttl_s: float


class Position(Struct, frozen=True, gc=False):
    """
    A place among the events of a channel that keeps events: after the event number *offset*.

    Offsets begin with 1 in each channel; 0 is the place before the first event. *epoch* names the
    life of a channel's numbering: offsets of different epochs cannot be compared.
    """

    epoch: str
    offset: int


class Event(Struct, frozen=True, gc=False):
    """
    An event that was published on a channel.

    *data* is JSON text in UTF-8, as the publisher wrote it. The subscriber with the id *except_id*
    does not receive it. *user_id* is the member that sent it, if a member did. With *keep*, the
    engine keeps the event, and gives it its *position*. *owed* events, which are those of clients,
    are reported to the holder as a change.
    """

    channel: str
    name: str
    data: bytes
    except_id: str | None = None
    user_id: str | None = None
    keep: Keep | None = None
    owed: bool = False
    position: Position | None = None


class MemberAdded(Struct, frozen=True):
    """A user's first session entered a presence channel."""

    channel: str
    member: Member


class MemberRemoved(Struct, frozen=True, gc=False):
    """A user's last session left a presence channel."""

    channel: str
    user_id: str


class SubscriptionCount(Struct, frozen=True, gc=False):
    """The number of subscriptions that a channel has now, on all nodes together."""

    channel: str
    count: int


class UserOnline(Struct, frozen=True, gc=False):
    """A user's first session signed in."""

    user_id: str


class UserOffline(Struct, frozen=True, gc=False):
    """A user's last signed-in session ended."""

    user_id: str


class UserTerminated(Struct, frozen=True, gc=False):
    """Every session signed in as this user is to be closed, on all nodes."""

    user_id: str


class UserStatus(Struct, frozen=True, gc=False):
    """
    Whether a watched user is online.

    Its *channel* is the user's id: in a hub of watchlists, the channels are the watched users.
    """

    channel: str
    online: bool


Notice = UserOnline | UserOffline | UserTerminated
"""A message about a user, to the nodes where it is signed in or watched. It has no channel."""

Fact = Event | MemberAdded | MemberRemoved | SubscriptionCount | UserStatus
"""A message of a channel, which is numbered there and reaches every subscriber in order."""
