"""
The messages between a node's engine and the shared state, in both directions.

Data only. A node sends commands, each with its incarnation, a number that grows, and what it wants
to be owed; the state answers, and sends what concerns the node. What has a place in the order of a
channel or user, replies included, is numbered in the node's inbox.
"""

from collections.abc import Mapping
from enum import Enum

from msgspec import Struct

from heliograph.engine.answers import Counts, Kept, Mark, Options, Owed, Reason, Wants
from heliograph.hub.facts import Event, Fact, Member, Notice

# -- What a node asserts -------------------------------------------------------------------------


class Entering(Struct, frozen=True):
    """An `enter` that is unanswered; the numbers that are asserted with it include it."""

    ticket: int
    deadline: float
    user_id: str | None = None
    max_members: int = 0


class ChannelAssertion(Struct, frozen=True):
    """
    What a node has of a channel: absolute numbers.

    *members* are those whose sessions may have changed, with the number of sessions.
    """

    channel: str
    subscriptions: int
    options: Options
    members: tuple[tuple[Member, int], ...] = ()
    entering: tuple[Entering, ...] = ()


class UserAssertion(Struct, frozen=True):
    """How many sessions of a node are signed in as a user, and how many watch it."""

    user_id: str
    sessions: int
    watching: int


class SigningIn(Struct, frozen=True):
    """A `sign_in` that is unanswered; it is in the numbers that are asserted with it."""

    ticket: int
    deadline: float
    user_id: str
    watchlist: tuple[str, ...] = ()


# -- Commands ------------------------------------------------------------------------------------


class Assert(Struct, frozen=True):
    """
    What a node has now of some channels and users.

    *withdrawn* are tickets of commands that are in the numbers no longer. A *fresh* one, as a hello
    is, names all members of its channels, and all that is unanswered; refusals are forgotten.
    """

    channels: tuple[ChannelAssertion, ...] = ()
    users: tuple[UserAssertion, ...] = ()
    signing_in: tuple[SigningIn, ...] = ()
    withdrawn: tuple[int, ...] = ()
    fresh: bool = False


class Hello(Struct, frozen=True):
    """
    The first command of a connection, and the first one after `Why.UNKNOWN`.

    *epoch* and *seen* say up to where of the log the node has received everything. A *complete*
    hello asserts all that the node has. *holding* is the mark of the last change that was owed to
    it, if it is the holder, and *settled* what it settled last.
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


class Terminate(Struct, frozen=True):
    """Have the sessions of a user closed on all nodes."""

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


class KeptOf(Struct, frozen=True):
    """Read the event of a channel that is kept."""

    channel: str


class StateCount(Struct, frozen=True):
    """State the number of a large channel's subscriptions, if that is due."""

    channel: str


class Take(Struct, frozen=True):
    """Become the holder, if there is none."""


class Settle(Struct, frozen=True):
    """All changes up to a mark are kept by the holder."""

    mark: Mark


class Probe(Struct, frozen=True):
    """Ask whether this node is still known, and have a numbered answer."""


class Renew(Struct, frozen=True):
    """Renew the lease of this node; it belongs to no app."""


class Goodbye(Struct, frozen=True):
    """Remove all that this node has, then its lease; it belongs to no app."""


Read = CountsOf | ChannelsWith | UsersOf | KeptOf

Body = (
    Assert
    | Hello
    | Publish
    | Terminate
    | CountsOf
    | ChannelsWith
    | UsersOf
    | KeptOf
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


# -- Answers, which have no place in an order ----------------------------------------------------


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
    """The inbox begins anew: what follows is complete."""


class FactMessage(Struct, frozen=True):
    """A fact of a channel that this node has, or a notice about a user."""

    fact: Fact | Notice


class Entered(Struct, frozen=True):
    """A subscription was counted. *roster* is given if the node cannot know it."""

    ticket: int
    seq: int
    channel: str
    count: int
    roster: tuple[Member, ...] | None = None
    kept: Kept | None = None


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
    """This node is to ask for the number of a channel in some seconds."""

    channel: str
    in_s: float


class ChannelPicture(Struct, frozen=True):
    """What a channel is now; *lost* tells why events may be missing."""

    channel: str
    count: int
    roster: tuple[Member, ...] = ()
    kept: Kept | None = None
    lost: Reason | None = None


class Welcome(Struct, frozen=True):
    """
    The end of the answer to a hello: from here on, the inbox is live.

    After a complete hello, *missed* are the events and terminations since what the node has seen,
    *channels* all that it has, *online* the users that it watches and that are, and *lost_users*
    those whose terminations may be missing. All of it is one message: a hello is done as a whole.
    """

    complete: bool
    holder: bool
    missed: tuple[Fact | Notice, ...] = ()
    channels: tuple[ChannelPicture, ...] = ()
    online: frozenset[str] = frozenset()
    lost_users: Mapping[str, Reason] = {}


class Granted(Struct, frozen=True):
    """
    This node is the holder. With *restart*, the scope begins from nothing.

    *changes* are all that are not settled; they follow *mark*.
    """

    term: str
    mark: Mark
    restart: bool
    changes: tuple[Owed, ...] = ()


class Restarted(Struct, frozen=True):
    """Too many changes were not settled: the scope begins from nothing, after *mark*."""

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
