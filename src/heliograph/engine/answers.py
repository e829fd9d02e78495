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
    Position,
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
    are owed if they are wanted. A channel with *keep* keeps events. A *cached* one is expected to
    keep at least one: if it keeps none when it is entered, a CacheMiss is owed.
    """

    counted: bool = False
    observed: bool = False
    keep: Keep | None = None
    cached: bool = False


class FromTime(Struct, frozen=True, gc=False):
    """
    The events that were published at *unix_s* or later (seconds since 1970, the engine's clock).

    A time in the future is the present. A time is refused with a Gap if an event that was published
    then, or later, is no longer kept, or if the engine cannot know that.
    """

    unix_s: float


class Rewind(Struct, frozen=True, gc=False):
    """
    The last *count* events, or the events of the last *seconds*, as far as they are kept.

    Never refused. With neither, no events: the position alone.
    """

    count: int = 0
    seconds: float = 0.0


Since = Position | FromTime | Rewind
"""The place among the kept events of a channel from which a client, or a page, wants them."""

POSITION_ONLY = Rewind()


class Terms(Struct, frozen=True):
    """
    What a publisher wants beside the delivery of its events.

    *keeps* has, for each event, the rule of its channel if the position of the channel is wanted,
    even if the event itself is not kept; it is empty if no position is wanted. With *counts*, the
    counts of the channels are wanted. Of several calls with the same *key* within
    `engine.base.KEY_TTL_S` seconds only the first is executed; the others have its answer.
    *fingerprint* is of the first call's request.
    """

    keeps: Sequence[Keep | None] = ()
    counts: bool = False
    key: str | None = None
    fingerprint: bytes = b""


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


class Counts(Struct, frozen=True, gc=False):
    """The number of subscriptions and, in a presence channel, of distinct users, on all nodes."""

    subscriptions: int
    users: int


class Published(Struct, frozen=True):
    """
    The answer to a publish with Terms.

    *positions* has, for each event, the position of its channel after it: None where the terms ask
    for none. *counts* has the counts of the channels, if they were asked for, after all events.
    *repeated* is True if an earlier call had the same key: nothing was published, and the rest is
    the answer to that call, *fingerprint* included.
    """

    positions: Sequence[Position | None] = ()
    counts: Mapping[str, Counts] = {}
    fingerprint: bytes = b""
    repeated: bool = False


class Page(Struct, frozen=True):
    """
    Kept events in the order of the channel, each with its position.

    *position* is that of the last one, or the place from which none follow. *top* is the position
    of the channel's last event when the page was read: there are further events to be read from
    *position* on, if both differ. *times* has the time of each event (seconds since 1970); a page
    in an Entry has none.
    """

    events: Sequence[Event]
    position: Position
    top: Position
    times: Sequence[float] = ()

    @property
    def more(self) -> bool:
        """Whether there were further events when the page was read."""
        return self.position.offset < self.top.offset


class GapReason(Enum):
    """The reason for which events cannot be read from a position or time on."""

    EPOCH = "the numbering of the channel began anew"
    TRIMMED = "events that followed are no longer kept"
    AHEAD = "the position is beyond the last event"


class Gap(Struct, frozen=True):
    """Events cannot be read from where they were asked for; *top* as in Page."""

    reason: GapReason
    top: Position


class HistorySize(Struct, frozen=True, gc=False):
    """
    The number of kept events of an app, and of the channels that have any.

    *bytes* is their part of the bound of all kept events; it includes the records of channels
    without events.
    """

    events: int
    bytes: int
    channels: int


class Entry(Struct, frozen=True):
    """
    The answer to `enter`: the state at its position in the order of the channel.

    *count* is the number of the channel's subscriptions on all nodes. *roster* has the members of a
    presence channel. Both include the new subscriber. *history* has the kept events that were asked
    for: at most `engine.base.PAGE_BYTES` of them, the rest is read with `Space.history`. The top of
    its page, or gap, is the position where the facts for the new subscriber begin. *nothing_kept*
    is True if the options have *keep*, and no event is kept.
    """

    count: int
    roster: Sequence[Member] = ()
    history: Page | Gap | None = None
    nothing_kept: bool = False


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
