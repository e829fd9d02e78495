"""
Answers of an engine, and the changes that it owes.

Data only: knows no protocol, and not how an engine keeps its state.
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
    Which changes of an app are owed: configuration, which travels with each command.

    An engine that lost its state has no other source for it.
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
    What is asked of a channel besides its events. One object for each rule, nothing for each call.

    Of a *counted* channel, the number of subscriptions is a fact. Changes of an *observed* one are
    owed, as far as they are wanted. With *keep*, `enter` answers with the event that is kept.
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
"""What an engine owes the holder of an app; an Event is one that a client sent."""


class Mark(Struct, frozen=True, gc=False):
    """
    The place of a change among all that are owed.

    *scope* is the part of an app's state whose changes are numbered together, *epoch* the life of
    that state, and *number* grows within both, without gaps from 1 on.
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
    """The last event of a channel that keeps events, and for how many seconds it is still kept."""

    event: Event
    ttl_s: float


class Entry(Struct, frozen=True):
    """
    The answer to `enter`, as of its place in the order of the channel.

    *count* is the number of the channel's subscriptions on all nodes, *roster* a presence channel's
    members, both with the newcomer. *kept* is the event that is kept, where it was asked for.
    """

    count: int
    roster: Sequence[Member] = ()
    kept: Kept | None = None


class Refusal(Enum):
    """Why a channel was not entered; nothing was changed."""

    FULL = "the presence channel is full"


class SignedIn(Struct, frozen=True):
    """
    The answer to `sign_in`.

    *online* are those of the watched users that have a session signed in on any node. The state of
    each is followed by exactly its later notices.
    """

    online: frozenset[str]


class Counts(Struct, frozen=True, gc=False):
    """The number of subscriptions and, in a presence channel, of distinct users, on all nodes."""

    subscriptions: int
    users: int


class Listing(Protocol):
    """Occupied channels with their counts, read a part at a time, since there may be many."""

    def __len__(self) -> int:
        """Return the number of channels among which they are found, now."""

    def __iter__(self) -> Iterator[Mapping[str, Counts]]:
        """Find a few hundred channels for each part, when it is asked for; parts may be empty."""


# -- Losses ------------------------------------------------------------------------------------


class Reason(Enum):
    """Why events, or terminations, may be missing."""

    NEW_STATE = "the shared state began anew"
    TRIMMED = "the node was away for longer than events are kept for it"
    VACATED = "the channel was vacated while the node was away"


class Lost(Struct, frozen=True):
    """
    Events of *channel*, or terminations of *user_id*, may not have reached this node.

    Exactly one of both is given. *now* is what `enter` would answer now, for a channel. Members,
    counts and online states are never lost: they were repaired by difference before.
    """

    reason: Reason
    channel: str | None = None
    user_id: str | None = None
    now: Entry | None = None
