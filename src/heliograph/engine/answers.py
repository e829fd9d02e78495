"""
Answers of an engine, and the changes that it reports.

Knows no protocol, and not how an engine keeps its state.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct

from heliograph.hub.facts import (
    Event,
    Member,
    MemberAdded,
    MemberRemoved,
    SubscriptionCount,
    UserOffline,
    UserOnline,
)


class ChannelOccupied(Struct, frozen=True, gc=False):
    """A channel went from no subscriptions to one."""

    channel: str


class ChannelVacated(Struct, frozen=True, gc=False):
    """A channel lost its last subscription."""

    channel: str


class CacheMiss(Struct, frozen=True, gc=False):
    """Somebody subscribed to a cache channel that keeps no event."""

    channel: str


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
