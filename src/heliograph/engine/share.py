"""
The part of one node in an app's shared state.

A node asserts numbers: subscriptions of each channel, sessions of each member, sessions of each
signed-in user, sessions that watch a user. Single subscriptions are not stored, and asserting a
number twice has no further effect. Does not know how assertions are sent.
"""

from collections.abc import Iterable

from msgspec import Struct

from heliograph.hub.facts import Member


class Held(Struct):
    """The numbers of a node for one channel."""

    subscriptions: int = 0
    sessions: dict[str, int] = {}  # of each member, by user id
    members: dict[str, Member] = {}  # by user id, from the user's first session on this node


class Share:
    """
    The numbers of a node for one app, unanswered commands included.

    *channels*, *users* (signed in) and *watched* have entries only for numbers above 0.
    """

    __slots__ = ("channels", "users", "watched")

    def __init__(self) -> None:
        self.channels: dict[str, Held] = {}
        self.users: dict[str, int] = {}  # user id -> sessions signed in on this node
        self.watched: dict[str, int] = {}  # user id -> sessions on this node that watch it

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Share):
            return NotImplemented
        return (self.channels, self.users, self.watched) == (
            other.channels,
            other.users,
            other.watched,
        )

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Share({self.channels!r}, {self.users!r}, {self.watched!r})"

    def enter(self, channel: str, member: Member | None = None) -> None:
        """Count one more subscription of *channel*, and one more session of *member*."""
        held = self.channels.get(channel)
        if held is None:
            held = self.channels[channel] = Held()
        held.subscriptions += 1
        if member is not None:
            user_id = member.user_id
            count_more(held.sessions, user_id)
            held.members.setdefault(user_id, member)

    def leave(self, channel: str, member: Member | None = None) -> None:
        """Undo `enter`."""
        held = self.channels[channel]
        held.subscriptions -= 1
        if member is not None and count_less(held.sessions, member.user_id):
            del held.members[member.user_id]
        if not held.subscriptions:
            del self.channels[channel]

    def sign_in(self, user_id: str, watchlist: Iterable[str] = ()) -> None:
        """Count one more session of *user_id*, and one more that watches each of *watchlist*."""
        count_more(self.users, user_id)
        for watched in watchlist:
            count_more(self.watched, watched)

    def sign_out(self, user_id: str, watchlist: Iterable[str] = ()) -> None:
        """Undo `sign_in` with the same watchlist."""
        count_less(self.users, user_id)
        for watched in watchlist:
            count_less(self.watched, watched)


def count_more(numbers: dict[str, int], key: str) -> bool:
    """Count one more of *key*; return whether it is the first."""
    before = numbers.get(key, 0)
    numbers[key] = before + 1
    return not before


def count_less(numbers: dict[str, int], key: str) -> bool:
    """Count one less of *key*; return whether the number is 0 now, which removes its entry."""
    left = numbers[key] - 1
    if left:
        numbers[key] = left
        return False
    del numbers[key]
    return True
