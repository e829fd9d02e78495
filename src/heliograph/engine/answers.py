"""
Answers of an engine, and the changes that it owes.

Data only. Knows no protocol, and not how an engine stores its state.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct

from heliograph.hub.facts import (
    Event,
    Keep,
    Member,
    MemberAdded,
    MemberRemoved,
    SubscriptionCount,
    UserOffline,
    UserOnline,
)

# -- Arguments of commands ---------------------------------------------------------------------


class Wants(Struct, frozen=True, gc=False):
    """
    The kinds of changes of an app that are owed: configuration that each command carries.

    An engine that lost its state has no other source for this configuration.
    """

    occupancy: bool = False  # ChannelOccupied, ChannelVacated
    members: bool = False  # MemberAdded, MemberRemoved
    users: bool = False  # UserOnline, UserOffline
    cache: bool = False  # CacheMiss, CacheFilled
    counts: bool = False  # SubscriptionCount
    client_events: bool = False  # Event


NOTHING_WANTED = Wants()


class Options(Struct, frozen=True, gc=False):
    """
    The functions of a channel besides its events. One object for each rule, none for each call.

    The number of subscriptions of a *counted* channel is a fact. Changes of an *observed* channel
    are owed if they are wanted. With *keep*, the answer to `enter` has the event that is kept.
    """

    counted: bool = False
    observed: bool = False
    keep: Keep | None = None


# -- Changes -----------------------------------------------------------------------------------


class ChannelOccupied(Struct, frozen=True, gc=False):
    """A channel went from no subscriptions to one, on all nodes together."""

    channel: str


class ChannelVacated(Struct, frozen=True, gc=False):
    """A channel lost its last subscription, on all nodes together."""

    channel: str


class CacheMiss(Struct, frozen=True, gc=False):
    """A client subscribed to a channel that keeps events, and none is kept."""

    channel: str


class CacheFilled(Struct, frozen=True, gc=False):
    """A channel that keeps events, and had none, has one again."""

    channel: str


Change = (
    ChannelOccupied
    | ChannelVacated
    | MemberAdded
    | MemberRemoved
    | UserOnline
    | UserOffline
    | CacheMiss
    | CacheFilled
    | SubscriptionCount
    | Event
)
"""A change that an engine owes to the holder of an app; an Event is one that a client sent."""


class Mark(Struct, frozen=True, gc=False):
    """
    The position of a change among all owed changes.

    *scope* is the part of an app's state whose changes are numbered together. *epoch* is the life
    of that state. *number* grows within both, from 1 on, without gaps.
    """

    scope: str
    epoch: str
    number: int


class Owed(Struct, frozen=True):
    """A change that is owed until it is settled."""

    change: Change
    mark: Mark


# -- Answers -----------------------------------------------------------------------------------


class Kept(Struct, frozen=True, gc=False):
    """The last event of a channel that keeps events, and the seconds until it expires."""

    event: Event
    ttl_s: float


class Entry(Struct, frozen=True):
    """
    The answer to `enter`: the state at its position in the order of the channel.

    *count* is the number of the channel's subscriptions on all nodes. *roster* has the members of a
    presence channel. Both include the new subscriber. *kept* is the event that is kept, if the
    options have *keep*.
    """

    count: int
    roster: Sequence[Member] = ()
    kept: Kept | None = None


class Refusal(Enum):
    """The reason for which a channel was not entered; the state is unchanged."""

    FULL = "the presence channel is full"


class SignedIn(Struct, frozen=True):
    """
    The answer to `sign_in`.

    *online* has the watched users with a session signed in on any node. After the answer, the node
    receives exactly the later notices of each watched user.
    """

    online: frozenset[str]


class Counts(Struct, frozen=True, gc=False):
    """The number of subscriptions and, in a presence channel, of distinct users, on all nodes."""

    subscriptions: int
    users: int


class Listing(Protocol):
    """Occupied channels with their counts, read in parts, since a listing may be long."""

    def __len__(self) -> int:
        """Return the present number of channels that are searched for the listing."""

    def __iter__(self) -> Iterator[Mapping[str, Counts]]:
        """Search a few hundred channels for each part, when it is read; parts may be empty."""


# -- Losses ------------------------------------------------------------------------------------


class Reason(Enum):
    """The reason for which events, or terminations, may be missing."""

    NEW_STATE = "the shared state began anew"
    TRIMMED = "the node was away for longer than events are kept for it"
    VACATED = "the channel was vacated while the node was away"


class Lost(Struct, frozen=True):
    """
    Events of *channel*, or terminations of *user_id*, may not have reached this node.

    Exactly one of both is set. For a channel, *now* is the answer that `enter` would give now.
    Members, counts and online states are never lost: before this report, the engine has delivered
    the differences.
    """

    reason: Reason
    channel: str | None = None
    user_id: str | None = None
    now: Entry | None = None
