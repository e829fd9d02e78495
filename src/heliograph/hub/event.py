"""
The vocabulary: what is said on a channel, and what an operation changed.

Nothing here is in a protocol's dialect. Payloads are carried as the publisher
wrote them and are never looked into.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct


class Member:
    """
    A user in a presence channel, whatever number of sessions it has there.

    *user_info* is JSON text, or None where the user came without. *encoded* belongs
    to a protocol, which may keep there what it makes of this member, so that it is
    made once and not for every newcomer.
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


class Event(Struct, frozen=True, gc=False):
    """
    Something published on a channel.

    *data* is JSON text in UTF-8, as the publisher wrote it. The subscriber with the id
    *except_id* does not receive it. *user_id* is the member that sent it, where one did.
    *cached* asks the engine to remember it for those who subscribe later.
    """

    channel: str
    name: str
    data: bytes
    except_id: str | None = None
    user_id: str | None = None
    cached: bool = False


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


class ChannelOccupied(Struct, frozen=True, gc=False):
    """A channel went from no subscriptions to one."""

    channel: str


class ChannelVacated(Struct, frozen=True, gc=False):
    """A channel lost its last subscription."""

    channel: str


class CacheMiss(Struct, frozen=True, gc=False):
    """Somebody subscribed to a cache channel that keeps no event."""

    channel: str


class UserOnline(Struct, frozen=True, gc=False):
    """A user's first session signed in."""

    user_id: str


class UserOffline(Struct, frozen=True, gc=False):
    """A user's last signed-in session ended."""

    user_id: str


class UserTerminated(Struct, frozen=True, gc=False):
    """Every session signed in as this user is to be closed, on all nodes."""

    user_id: str


Notice = UserOnline | UserOffline | UserTerminated
"""What is said about a user, to whomever it concerns; it belongs to no channel."""

Fact = Event | MemberAdded | MemberRemoved | SubscriptionCount
"""What is said on a channel; each is numbered there and reaches every subscriber in order."""

Change = ChannelOccupied | ChannelVacated | MemberAdded | MemberRemoved
"""What entering or leaving a channel changed for those who watch from outside."""


Happening = Change | Event | SubscriptionCount | CacheMiss | UserOnline | UserOffline
"""What an application can be told of; an Event is one that a client sent."""


class Cached(Struct, frozen=True, gc=False):
    """The last event of a cache channel, and how many seconds it will still be kept."""

    event: Event
    ttl_s: float


class Entry(Struct, frozen=True):
    """
    What entering a channel found and changed.

    *count* is the number of the channel's subscriptions, *roster* a presence channel's
    members, both with the newcomer. *cached* is the event to replay, if one is kept.
    """

    count: int
    changes: tuple[Change, ...] = ()
    roster: Sequence[Member] = ()
    cached: Cached | None = None


class Refusal(Enum):
    """Why a channel was not entered; nothing was changed."""

    FULL = "the presence channel is full"


class Departure(Struct, frozen=True):
    """What leaving a channel changed; *count* is the number of subscriptions that remain."""

    count: int
    changes: tuple[Change, ...] = ()


class SignedIn(Struct, frozen=True):
    """
    What signing in found and changed.

    *online* are those of the watched users that have a session signed in somewhere.
    """

    online: frozenset[str]
    changes: tuple[UserOnline, ...] = ()


class SignedOut(Struct, frozen=True):
    """What signing out changed."""

    changes: tuple[UserOffline, ...] = ()


class Counts(Struct, frozen=True, gc=False):
    """How many subscriptions and, in a presence channel, distinct users there are."""

    subscriptions: int
    users: int


class Listing(Protocol):
    """Occupied channels with their counts, read a part at a time, since there may be many."""

    def __len__(self) -> int:
        """Return the number of channels among which they are found, now."""

    def __iter__(self) -> Iterator[Mapping[str, Counts]]:
        """Find a few hundred channels for each part, when it is asked for; parts may be empty."""
