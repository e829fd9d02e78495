"""
Members of one channel with their sessions.

A user is a member from its first session's join to its last session's leave; what is
known of it is what the first session said, so that announcements replayed in
order always give the present roster.
"""

from collections.abc import Sequence

from heliograph.hub.facts import Member


class Presence:
    """Who is in one presence channel."""

    __slots__ = ("_members", "_sessions", "_users")

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}  # by user id, in order of arrival
        self._sessions: dict[str, str] = {}  # session id -> user id
        self._users: dict[str, int] = {}  # user id -> number of sessions

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._members

    def join(self, session_id: str, member: Member) -> bool:
        """Add a session of *member*; return whether it is the user's first here."""
        user_id = member.user_id
        if session_id in self._sessions:
            raise AssertionError(f"session {session_id} joined twice")
        self._sessions[session_id] = user_id
        sessions = self._users.get(user_id, 0)
        self._users[user_id] = sessions + 1
        if sessions:
            return False
        self._members[user_id] = member
        return True

    def leave(self, session_id: str) -> Member | None:
        """Remove a session; return its member when that was the user's last here."""
        user_id = self._sessions.pop(session_id, None)
        if user_id is None:
            return None
        self._users[user_id] -= 1
        if self._users[user_id]:
            return None
        del self._users[user_id]
        return self._members.pop(user_id)

    def roster(self) -> Sequence[Member]:
        """Everybody present, in order of arrival."""
        return list(self._members.values())

    def user_ids(self) -> list[str]:
        """The ids of everybody present, in order of arrival."""
        return list(self._members)
