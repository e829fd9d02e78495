"""
The contract of an engine: the state that the nodes of an app share.

A node asserts its numbers (subscriptions of a channel, sessions of a user) and sends commands and
reads. The engine makes the state of all nodes from these numbers, and delivers facts and notices to
the nodes that they concern. docs/architecture.md describes how to add an engine. Each engine passes
the suite `heliograph.engine.testing`.

**Replies.** A reply is a value or a refusal, or it fails: with `Unavailable` (nothing of the
command was executed, and nothing will be) or, for `publish` and `terminate` only, with
`OutcomeUnknown` (the command may have been executed, but will not be later). A command never
raises. A command that is not answered fails at its deadline below, at the latest. An `enter` or
`sign_in` that fails, or is refused, leaves nothing in the state.

**Order.** Within a channel, facts and the replies to `enter` have one order, the same on every
node: the reply stands between the last fact that the new subscriber does not receive and the first
one that it must receive. Within a user, the same holds for notices and the replies to `sign_in`.
Other replies have no place in that order.

**Pairs.** Each `enter` that was neither refused nor failed is followed by exactly one `leave`, each
such `sign_in` by one `sign_out`. `leave` and `sign_out` may be called before the reply: then they
withdraw the command, and the engine never replies to it. They never fail: if the engine is
unavailable, they take effect later.

**History.** An event with `keep` gets the next offset of its channel. A channel has one epoch as
long as its numbering is known: for `NUMBERED_TTLS` times the time to live after its last event, at
least, unless memory runs short. A position is continued exactly if its epoch is the channel's, and
`low - 1 <= offset <= top`, where *top* is the last offset that was given, and *low* the lowest that
is kept (`top + 1` if nothing is kept). Otherwise the answer is a Gap, and has no events. Each event
is kept for the time to live of its own, whatever follows. A rule that changed applies to a channel
from its next event on. If its time to live is shorter than before, an earlier event expires with a
later one at the latest, so that kept events have no hole. All kept events of an engine are bounded
in bytes. If they are too many, records without events go first, then the events of the channel that
was quiet the longest. Facts of events without `keep` have no position, and are in no history.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from heliograph.engine.answers import (
    Counts,
    Entry,
    Gap,
    HistorySize,
    Listing,
    Lost,
    Mark,
    Options,
    Owed,
    Page,
    Published,
    Refusal,
    SignedIn,
    Since,
    Terms,
    Wants,
)
from heliograph.engine.share import Share
from heliograph.hub.facts import Event, Fact, Keep, Member, Notice
from heliograph.reply import Reply

PUBLISH_DEADLINE_S = 2.0
"""Time-out of `publish`, `terminate` and reads; a publisher then receives status 503."""

ENTER_DEADLINE_S = 5.0
"""Time-out of `enter` and `sign_in`; the client is then closed so that it reconnects."""

LARGE_CHANNEL = 100
"""Subscriptions up to which each change of a counted channel's number is a fact."""

LARGE_INTERVAL_S = 5.0
"""Minimum seconds between two such facts of a larger channel, for all nodes together."""

PAGE_BYTES = 64 * 1024
"""The most bytes of events in one page; a single event may be larger."""

EVENT_OVERHEAD_BYTES = 400
"""Bytes of a kept event beside its texts, as pages and the bound of all kept events count it."""

NUMBERED_TTLS = 10
"""Times to live for which the numbering of a channel is known after its last event."""

KEY_TTL_S = 60.0
"""Seconds for which the answer to a publish with a key is kept."""

Leaving = tuple[str, Options, Member | None]
"""A channel to leave, with the options and the member with which it was entered."""


class Local(Protocol):
    """
    The calls of a space to its node: synchronous, in order, and never nested in each other.

    A space may make them inside one of its own commands, before it returns the reply.
    """

    def deliver(self, fact: Fact, /) -> None:
        """Take a fact of a channel that was entered here; ignore those of other channels."""

    def notice(self, notice: Notice, /) -> None:
        """Take a notice of a user that is signed in, or watched, here; ignore those of others."""

    def count_due(self, channel: str, in_s: float, /) -> None:
        """Call `Space.state_count` for *channel* in *in_s* seconds: engines need no timers."""

    def lost(self, losses: Sequence[Lost], /) -> None:
        """Handle that events, or terminations, may be missing on this node."""

    def hold(self, term: str, /) -> None:
        """
        Become the holder of the app: from now on, changes are owed to this node.

        *term* is new each time that a node becomes the holder. The node first loads the stored
        result of earlier changes, and then skips changes up to the marks stored with it.
        """

    def owe(self, changes: Sequence[Owed], /) -> None:
        """Take changes, in order within a channel or a user; some may be stored already."""

    def restart(self, scope: str, epoch: str, /) -> None:
        """
        Handle that the state of *scope* begins from nothing, as after a crash.

        *epoch* names the life of the state that begins; the marks of its changes have the same
        epoch. The reported state of *scope* is unconfirmed until the nodes have asserted it again.
        A holder may be notified of a restart that it, or another holder, has stored already: such a
        restart has no effect.
        """

    def release(self) -> None:
        """Stop being the holder, at once: changes not settled yet are owed to another node."""


class Space(Protocol):
    """The shared state of one app, for one node."""

    def available(self, channel: str) -> bool:
        """Whether commands for *channel* are answered, as far as this node knows; asks no other."""

    def want(self, wants: Wants) -> None:
        """Send *wants* with each command from now on."""

    def publish(
        self, events: Sequence[Event], terms: Terms | None = None
    ) -> Reply[Published | None]:
        """
        Deliver *events*, in order, to each node on which their channels were entered.

        The answer is None without *terms*.

        Of the events of one partition of the state, all are delivered or none. Partitions are
        independent: if only some of them fail, the failure names the channels that are concerned.
        """

    def enter(
        self,
        channel: str,
        subscriber_id: str,
        options: Options,
        *,
        member: Member | None = None,
        max_members: int = 0,
        since: Since | None = None,
        numbered: bool = False,
    ) -> Reply[Entry | Refusal]:
        """
        Count a subscription, and deliver the facts of *channel* to this node.

        With *since*, the options have *keep*, and the entry has the history from there on. If
        *numbered*, the positions in the answer can be continued later, even if the channel never
        had an event.

        A subscriber enters a channel once at a time. With *member*, the channel is a presence
        channel: if it is the user's first session there, `MemberAdded` is delivered to the others.
        If *max_members* users (0: no limit) are present, another user is refused; a node that
        asserts its members again is not refused.
        """

    def leave(self, channels: Iterable[Leaving], subscriber_id: str) -> None:
        """
        Undo `enter` for each of *channels*, in order.

        If it was the user's last session in a presence channel, `MemberRemoved` is delivered.
        """

    def sign_in(
        self, user_id: str, session_id: str, watchlist: Sequence[str] = ()
    ) -> Reply[SignedIn]:
        """
        Count a session of *user_id*, which watches the users of *watchlist*, each named once.

        If it is the user's first session on any node, `UserOnline` is delivered to the nodes that
        watch it. A session has one unanswered `sign_in` at a time. To change its watchlist, it
        signs in again, and after the answer signs out with the previous watchlist.
        """

    def sign_out(self, user_id: str, session_id: str, watchlist: Sequence[str] = ()) -> None:
        """
        Undo `sign_in` with the same *watchlist*; an unanswered `sign_in` is withdrawn.

        If it was the user's last session on any node, `UserOffline` is delivered.
        """

    def terminate(self, user_id: str) -> Reply[None]:
        """Deliver `UserTerminated` to each node on which the user is signed in."""

    def counts(self, channels: Sequence[str]) -> Reply[Mapping[str, Counts]]:
        """Return the counts of each of *channels*, zeros for unoccupied channels."""

    def channels(self, prefix: str) -> Reply[Listing]:
        """
        Return the occupied channels whose names begin with *prefix*, not at one instant.

        A channel that is occupied from this call until the listing has been read is in it.
        """

    def users(self, channel: str) -> Reply[Sequence[str]]:
        """Return the ids of the users in a presence channel, none if it is unoccupied."""

    def history(
        self,
        channel: str,
        since: Since,
        keep: Keep,
        *,
        limit: int = 0,
        max_bytes: int = PAGE_BYTES,
    ) -> Reply[Page | Gap]:
        """
        Return the events that *channel* keeps from *since* on, in order.

        *keep* is the rule of the channel. The page has at most *limit* events (0: no limit), and at
        most *max_bytes* of them, or a single larger one. Its positions can be continued later, even
        if the channel never had an event. The reply has no place in the order of the channel.
        """

    def history_size(self) -> HistorySize | None:
        """
        Return the size of what is kept for this app, for metrics.

        Events that have expired do not count, unless their channel keeps later ones: these may
        count until it is used again. The bytes are those that the bound of the engine counts. None
        if the engine does not know.
        """

    def state_count(self, channel: str) -> None:
        """Deliver the number of subscriptions of *channel*, which `Local.count_due` announced."""

    def settle(self, mark: Mark) -> None:
        """Record that the holder has stored its result of all changes up to *mark* in its scope."""

    def share(self) -> Share:
        """Return the numbers of this node, unanswered commands included: for audits."""


class Engine(Protocol):
    """The state that nodes share, app by app."""

    @property
    def available(self) -> bool:
        """Whether all of the state is available, as far as this node knows; asks no other node."""

    async def open(self) -> None:
        """
        Serve from now on. May return before the shared state can be reached.

        Raises ConfigError if the configuration can never work; nothing is left open then.
        """

    def space(self, app_id: str, local: Local, wants: Wants) -> Space:
        """Return the state of an app. Once for each app, after `open`."""

    async def close(self, timeout_s: float) -> None:
        """
        Execute the departures of this node, then release its lease, within *timeout_s*.

        Unanswered commands fail, and so does each later command.
        """
