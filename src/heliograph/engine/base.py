"""
The port: what a node asks of the state that it shares with other nodes.

Every operation returns a `Reply`. It never raises: what cannot be answered fails the
reply with an `EngineError`, and then nothing of the operation took place.

Within one channel, replies and what is delivered come in one order, the same on every node:
the reply to `enter` stands between the last fact that the newcomer is too late for and the
first that it must receive.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from heliograph.engine.answers import (
    Cached,
    Counts,
    Departure,
    Entry,
    Listing,
    Refusal,
    SignedIn,
    SignedOut,
)
from heliograph.hub.facts import Fact, Member, Notice
from heliograph.reply import Reply

Deliver = Callable[[str, Fact | Notice], None]
"""Takes an app's id and what is said there. The engine is its only caller."""


class Engine(Protocol):
    """The state of all nodes together. One conformance suite runs over every engine."""

    @property
    def available(self) -> bool:
        """Whether operations are answered, as far as is known now; asking asks nobody else."""

    def start(self, deliver: Deliver) -> None:
        """Begin to deliver, to this node, what is said on channels it has entered."""

    def publish(self, app_id: str, facts: Sequence[Fact]) -> Reply[None]:
        """Have all of *facts* delivered wherever somebody is subscribed; all of them or none."""

    def enter(
        self,
        app_id: str,
        channel: str,
        subscriber_id: str,
        *,
        member: Member | None = None,
        max_members: int = 0,
        replay: bool = False,
    ) -> Reply[Entry | Refusal]:
        """
        Count a subscription, and see to it that the channel's facts are delivered here.

        With *member*, the channel is a presence channel: if it is the user's first session there,
        `MemberAdded` is delivered to everybody else, unless *max_members* (0: no limit) users
        are present already, which is refused. With *replay*, the cached event is looked up.
        """

    def leave(self, app_id: str, channel: str, subscriber_id: str) -> Reply[Departure]:
        """
        Undo `enter`, whose reply need not have come yet.

        If it was the user's last session in a presence channel, `MemberRemoved` is delivered.
        """

    def channels(self, app_id: str, prefix: str) -> Reply[Listing]:
        """
        Return the occupied channels whose names begin with *prefix*, not at one instant.

        A channel that is occupied from this call until the listing has been read is in it.
        """

    def counts(self, app_id: str, channels: Sequence[str]) -> Reply[Mapping[str, Counts]]:
        """Return the counts of each of *channels*, zeros for the unoccupied."""

    def users(self, app_id: str, channel: str) -> Reply[Sequence[str]]:
        """Return the ids of the users in a presence channel, none for the unoccupied."""

    def cached(self, app_id: str, channel: str) -> Reply[Cached | None]:
        """Return the cached event of a channel while it is kept."""

    def sign_in(
        self, app_id: str, user_id: str, session_id: str, watchlist: Sequence[str] = ()
    ) -> Reply[SignedIn]:
        """
        Note that a session is *user_id*; a second time for the same session is no change.

        If it is the user's first session anywhere, `UserOnline` is delivered to every node first.
        """

    def sign_out(self, app_id: str, user_id: str, session_id: str) -> Reply[SignedOut]:
        """
        Undo `sign_in`, whose reply need not have come yet.

        If it was the user's last session anywhere, `UserOffline` is delivered to every node.
        """

    def terminate(self, app_id: str, user_id: str) -> Reply[None]:
        """Have `UserTerminated` delivered to every node."""
