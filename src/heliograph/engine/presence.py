"""
The members of one presence channel, with the number of sessions that each has there.

A user is a member from the time its first session enters until its last session leaves. Its
`Member` is that of the first session, so that the roster follows from `MemberAdded` and
`MemberRemoved`, replayed in order.
"""

from collections.abc import Sequence

from heliograph.hub.facts import Member


class Presence:
    """The members of one presence channel, in the order in which they entered."""

    __slots__ = ("_members", "_sessions")

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}  # by user id
        self._sessions: dict[str, int] = {}  # user id -> number of sessions

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._members

    def enter(self, member: Member) -> bool:
        """Add a session of *member*; return whether it is the user's first in this channel."""
        user_id = member.user_id
        sessions = self._sessions.get(user_id, 0)
        self._sessions[user_id] = sessions + 1
        if sessions:
            return False
        self._members[user_id] = member
        return True

    def leave(self, user_id: str) -> bool:
        """Remove a session of a user; return whether it was its last in this channel."""
        sessions = self._sessions[user_id] - 1
        if sessions:
            self._sessions[user_id] = sessions
            return False
        del self._sessions[user_id]
        del self._members[user_id]
        return True

    def sessions(self) -> dict[str, int]:
        """Return the number of sessions of each member, by user id."""
        return dict(self._sessions)

    def roster(self) -> Sequence[Member]:
        """Return the members, in the order in which they entered."""
        return list(self._members.values())

    def user_ids(self) -> list[str]:
        """Return the ids of the members, in the order in which they entered."""
        return list(self._members)
