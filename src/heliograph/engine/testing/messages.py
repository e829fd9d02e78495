"""
The messages between a node's engine and the shared state, in both directions.

Data only. A node sends commands, each with its incarnation, a number that grows, and the kinds of
changes that it wants; the state answers, and sends the messages for the node. Messages with a place
in the order of a channel or user, including replies, are numbered in the node's inbox.
"""

from collections.abc import Mapping
from enum import Enum

from msgspec import Struct

from heliograph.engine.answers import (
    Counts,
    Gap,
    Mark,
    Options,
    Owed,
    Page,
    Reason,
    Since,
    Terms,
    Wants,
)
from heliograph.hub.facts import Event, Fact, Keep, Member, Notice

# -- Assertions of a node ------------------------------------------------------------------------


class Entering(Struct, frozen=True):
    """
    An `enter` that is unanswered; the numbers that are asserted with it include it.

    *asked* is the rule of the channel if the positions of the answer must be known later.
    """

    ticket: int
    deadline: float
    user_id: str | None = None
    max_members: int = 0
    since: Since | None = None
    asked: Keep | None = None


class ChannelAssertion(Struct, frozen=True):
    """
    The absolute numbers of a node in a channel.

    *members* has the members whose sessions may have changed, with the number of sessions.
    """

    channel: str
    subscriptions: int
    options: Options
    members: tuple[tuple[Member, int], ...] = ()
    entering: tuple[Entering, ...] = ()


class UserAssertion(Struct, frozen=True):
    """The numbers of a node's sessions that are signed in as a user, and that watch the user."""

    user_id: str
    sessions: int
    watching: int


class SigningIn(Struct, frozen=True):
    """A `sign_in` that is unanswered; the numbers that are asserted with it include it."""

    ticket: int
    deadline: float
    user_id: str
    watchlist: tuple[str, ...] = ()


# -- Commands ------------------------------------------------------------------------------------


class Assert(Struct, frozen=True):
    """
    The present numbers of a node for some channels and users.

    *withdrawn* has the tickets of commands that the numbers no longer include. A *fresh* assertion,
    such as that of a hello, has all members of its channels, and all unanswered commands; earlier
    refusals are removed.
    """

    channels: tuple[ChannelAssertion, ...] = ()
    users: tuple[UserAssertion, ...] = ()
    signing_in: tuple[SigningIn, ...] = ()
    withdrawn: tuple[int, ...] = ()
    fresh: bool = False


class Hello(Struct, frozen=True):
    """
    The first command of a connection, and the first one after `Why.UNKNOWN`.

    *epoch* and *seen* are the position in the log up to which the node has received everything. A
    *complete* hello asserts all numbers of the node. *holding* is the mark of the last change that
    was owed to it, if it is the holder, and *settled* is the mark that it settled last.
    """

    epoch: str | None
    seen: int
    complete: bool
    asserted: Assert
    holding: Mark | None = None
    settled: Mark | None = None


class Publish(Struct, frozen=True):
    """Publish events, all or none."""

    events: tuple[Event, ...]
    terms: Terms | None = None


class Terminate(Struct, frozen=True):
    """Terminate the sessions of a user on all nodes."""

    user_id: str


class CountsOf(Struct, frozen=True):
    """Read the counts of channels."""

    channels: tuple[str, ...]


class ChannelsWith(Struct, frozen=True):
    """Read the occupied channels whose names begin with a prefix."""

    prefix: str


class UsersOf(Struct, frozen=True):
    """Read the ids of a channel's members."""

    channel: str


class HistoryOf(Struct, frozen=True):
    """Read the kept events of a channel."""

    channel: str
    since: Since
    keep: Keep
    limit: int
    max_bytes: int


class StateCount(Struct, frozen=True):
    """State the number of a large channel's subscriptions, if that is due."""

    channel: str


class Take(Struct, frozen=True):
    """Become the holder, if there is none."""


class Settle(Struct, frozen=True):
    """All changes up to a mark are kept by the holder."""

    mark: Mark


class Probe(Struct, frozen=True):
    """Check that this node is still known; the answer is numbered."""


class Renew(Struct, frozen=True):
    """Renew the lease of this node; it belongs to no app."""


class Goodbye(Struct, frozen=True):
    """Remove all data of this node, then its lease; it belongs to no app."""


Read = CountsOf | ChannelsWith | UsersOf | HistoryOf

Body = (
    Assert
    | Hello
    | Publish
    | Terminate
    | CountsOf
    | ChannelsWith
    | UsersOf
    | HistoryOf
    | StateCount
    | Take
    | Settle
    | Probe
    | Renew
    | Goodbye
)


class Command(Struct, frozen=True):
    """
    A command of a node.

    *seq* grows with each command of the node's space; *received* is the number of the last inbox
    message that the node has handled. After *deadline*, it is not executed.
    """

    node: str
    app_id: str
    seq: int
    received: int
    wants: Wants
    body: Body
    deadline: float | None = None


# -- Answers without a place in an order ---------------------------------------------------------


class Why(Enum):
    """Why a command was not executed."""

    LATE = "its deadline had passed"
    STALE = "a later command of the node was executed before"
    UNKNOWN = "the node is not registered in this epoch"
    REFUSED = "the state cannot execute commands now"
    INCOMPLETE = "the log does not reach back far enough: hello must be complete"


class Done(Struct, frozen=True):
    """A command was executed; a read has a value."""

    seq: int
    value: object = None


class NotExecuted(Struct, frozen=True):
    """A command was not executed, and will not be."""

    seq: int
    why: Why


# -- Inbox messages ------------------------------------------------------------------------------


class Began(Struct, frozen=True):
    """The inbox begins again: the messages that follow are complete."""


class FactMessage(Struct, frozen=True):
    """A fact of a channel that this node entered, or a notice about a user."""

    fact: Fact | Notice


class Entered(Struct, frozen=True):
    """
    A subscription was counted. *roster* is set if the node does not have the members.

    *history* and *nothing_kept* are those of an `Entry`.
    """

    ticket: int
    seq: int
    channel: str
    count: int
    roster: tuple[Member, ...] | None = None
    history: Page | Gap | None = None
    nothing_kept: bool = False


class EnterRefused(Struct, frozen=True):
    """The member limit refused a subscription."""

    ticket: int
    seq: int


class SignedInAs(Struct, frozen=True):
    """A session was counted; *online* are those of its watchlist."""

    ticket: int
    seq: int
    online: frozenset[str]


class CountDue(Struct, frozen=True):
    """This node must request the number of a channel in some seconds."""

    channel: str
    in_s: float


class ChannelPicture(Struct, frozen=True):
    """
    The present state of a channel; *lost* is the reason for which events may be missing.

    *history* and *nothing_kept* are those of an `Entry` without events, if the channel keeps any.
    """

    channel: str
    count: int
    roster: tuple[Member, ...] = ()
    history: Page | Gap | None = None
    nothing_kept: bool = False
    lost: Reason | None = None


class Welcome(Struct, frozen=True):
    """
    The end of the answer to a hello: from here on, the inbox is live.

    After a complete hello, *missed* has the events and terminations after those that the node has
    seen, *channels* has all channels of the node, *online* the watched users that are online, and
    *lost_users* the users whose terminations may be missing. All of it is one message, so that the
    answer to a hello is atomic.
    """

    complete: bool
    holder: bool
    missed: tuple[Fact | Notice, ...] = ()
    channels: tuple[ChannelPicture, ...] = ()
    online: frozenset[str] = frozenset()
    lost_users: Mapping[str, Reason] = {}


class Granted(Struct, frozen=True):
    """
    This node is the holder. With *restart*, the scope restarts.

    *changes* has all unsettled changes; they follow *mark*.
    """

    term: str
    mark: Mark
    restart: bool
    changes: tuple[Owed, ...] = ()


class Restarted(Struct, frozen=True):
    """Too many changes were not settled: the scope restarts after *mark*."""

    mark: Mark


class OwedChanges(Struct, frozen=True):
    """Changes for the holder."""

    changes: tuple[Owed, ...]


class Probed(Struct, frozen=True):
    """The answer to a probe."""


Inbox = (
    Began
    | FactMessage
    | Entered
    | EnterRefused
    | SignedInAs
    | CountDue
    | Welcome
    | Granted
    | Restarted
    | OwedChanges
    | Probed
)


class Message(Struct, frozen=True):
    """
    A message to a node.

    *number* counts the inbox of a node in an app, 0 for answers. *log* is the number of the last
    fact in the log of the app's *epoch*.
    """

    app_id: str
    epoch: str
    number: int
    log: int
    body: Inbox | Done | NotExecuted


Listed = tuple[Mapping[str, Counts], ...]
"""The value of `ChannelsWith`: parts of a few hundred channels."""
