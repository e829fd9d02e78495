"""
The contract of an engine: the state that the nodes of an app share.

A node asserts what it has (subscriptions of a channel, sessions of a user) and asks for what it
needs; the engine makes the state of all nodes from that, and delivers facts and notices to the
nodes that they concern. How to add an engine is described in docs/architecture.md. The suite that
each one passes is `heliograph.engine.testing`.

**Replies.** A reply is a value or a refusal, or it fails: with `Unavailable` (nothing of the
command was executed, and nothing will be) or, for `publish` and `terminate` only, with
`OutcomeUnknown` (it may have been executed, but will not be later). A command never raises. Each
fails at its deadline below, at the latest. Of `enter` and `sign_in` nothing remains when they fail
or are refused.

**Order.** Within a channel, facts and the replies to `enter` have one order, the same on every
node: the reply stands between the last fact that the newcomer is too late for and the first one
that it must receive. The same holds within a user for notices and the replies to `sign_in`. Other
replies have no place in that order.

**Pairs.** Each `enter` that was neither refused nor failed is followed by exactly one `leave`, each
such `sign_in` by one `sign_out`. They may come before the reply: they withdraw the command then,
and its reply never comes. They never fail: if the engine is unavailable, they take effect later.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from heliograph.engine.answers import (
    Counts,
    Entry,
    Kept,
    Listing,
    Lost,
    Mark,
    Options,
    Owed,
    Refusal,
    SignedIn,
    Wants,
)
from heliograph.engine.share import Share
from heliograph.hub.facts import Event, Fact, Member, Notice
from heliograph.reply import Reply

PUBLISH_DEADLINE_S = 2.0
"""After so long, `publish`, `terminate` and reads fail, and a publisher is answered 503."""

ENTER_DEADLINE_S = 5.0
"""After so long, `enter` and `sign_in` fail, and the client is closed so that it reconnects."""

LARGE_CHANNEL = 100
"""Up to so many subscriptions, each change of a counted channel's number is a fact."""

LARGE_INTERVAL_S = 5.0
"""The number of a larger one is a fact at most once in so long, for all nodes together."""

Leaving = tuple[str, Options, Member | None]
"""A channel that is left, with the options and the member that it was entered with."""


class Local(Protocol):
    """
    What a space calls on its node: synchronously, in order, and never inside one of these calls.

    A space may call them inside a command of its own, before it returns the reply.
    """

    def deliver(self, fact: Fact, /) -> None:
        """Take a fact of a channel that was entered here; ignore those of other channels."""

    def notice(self, notice: Notice, /) -> None:
        """Take a notice of a user that is signed in, or watched, here; ignore those of others."""

    def count_due(self, channel: str, in_s: float, /) -> None:
        """Call `Space.state_count` for *channel* in *in_s* seconds: engines need no timers."""

    def lost(self, losses: Sequence[Lost], /) -> None:
        """Take note that events, or terminations, may be missing here."""

    def hold(self, term: str, /) -> None:
        """
        Be the holder of the app from now on: changes are owed to this node.

        *term* is new each time that a node becomes the holder. What was kept of them elsewhere is
        loaded first, and changes that are marked there are skipped.
        """

    def owe(self, changes: Sequence[Owed], /) -> None:
        """Take changes, in order within a channel or a user; some may be marked already."""

    def restart(self, scope: str, epoch: str, /) -> None:
        """
        Take note that the state of *scope* begins from nothing, as after a crash.

        *epoch* names the life that begins, as the marks of its changes do. What was reported of
        *scope* is unconfirmed until the nodes have asserted it again. A holder may be notified of
        a restart that another one, or it itself, has kept already: nothing follows from that.
        """

    def release(self) -> None:
        """Be the holder no more, at once: what was not settled is owed to another node."""


class Space(Protocol):
    """The shared state of one app, as one node uses it."""

    def available(self, channel: str) -> bool:
        """Whether commands for *channel* are answered, as far as is known; asks no other node."""

    def want(self, wants: Wants) -> None:
        """Let *wants* travel with each command from now on."""

    def publish(self, events: Sequence[Event]) -> Reply[None]:
        """
        Have *events* delivered wherever their channels were entered, in order.

        Those of one partition of the state are delivered all or none. Partitions are independent:
        the failure names the channels concerned, where those of others were delivered.
        """

    def enter(
        self,
        channel: str,
        subscriber_id: str,
        options: Options,
        *,
        member: Member | None = None,
        max_members: int = 0,
    ) -> Reply[Entry | Refusal]:
        """
        Count a subscription, and have the facts of *channel* delivered here.

        A subscriber enters a channel once at a time. With *member*, the channel is a presence
        channel: if it is the user's first session there, `MemberAdded` is delivered to the others.
        If *max_members* users (0: no limit) are present, another one is refused; a node that
        asserts again what it has is not.
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
        signs in again, and signs out of what was before once that is answered.
        """

    def sign_out(self, user_id: str, session_id: str, watchlist: Sequence[str] = ()) -> None:
        """
        Undo `sign_in` with the same *watchlist*; one that is unanswered is withdrawn.

        If it was the user's last session on any node, `UserOffline` is delivered.
        """

    def terminate(self, user_id: str) -> Reply[None]:
        """Have `UserTerminated` delivered to each node where the user is signed in."""

    def counts(self, channels: Sequence[str]) -> Reply[Mapping[str, Counts]]:
        """Return the counts of each of *channels*, zeros for the unoccupied."""

    def channels(self, prefix: str) -> Reply[Listing]:
        """
        Return the occupied channels whose names begin with *prefix*, not at one instant.

        A channel that is occupied from this call until the listing has been read is in it.
        """

    def users(self, channel: str) -> Reply[Sequence[str]]:
        """Return the ids of the users in a presence channel, none for the unoccupied."""

    def kept(self, channel: str) -> Reply[Kept | None]:
        """Return the event of *channel* that is kept."""

    def state_count(self, channel: str) -> None:
        """Deliver the number of subscriptions of *channel*, which `Local.count_due` announced."""

    def settle(self, mark: Mark) -> None:
        """Take note that the holder keeps what it made of all changes up to *mark* in its scope."""

    def share(self) -> Share:
        """Return what this node wants, unanswered commands included: for audits."""


class Engine(Protocol):
    """The state that nodes share, app by app."""

    @property
    def available(self) -> bool:
        """Whether all of it is available, as far as is known; asks no other node."""

    async def open(self) -> None:
        """
        Serve from now on. Returns before the shared state can be reached, if need be.

        Raises ConfigError for what will never work; nothing is left open then.
        """

    def space(self, app_id: str, local: Local, wants: Wants) -> Space:
        """Return the state of an app. Once for each app, after `open`."""

    async def close(self, timeout_s: float) -> None:
        """
        Have the departures of this node executed, then give its lease back; bounded.

        What is unanswered fails, and so does each later command.
        """
