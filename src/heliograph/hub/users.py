"""
Signed-in users of one app on this node: their sessions, and what each session watches.

A watchlist is a number of subscriptions, in a hub whose channels are the watched users. Which users
are online on any node is known to the engine.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

from heliograph.hub.channel import Subscription

S = TypeVar("S")


class Users(Generic[S]):
    """Sessions of type *S* (hashable), by the user that each is signed in as."""

    __slots__ = ("_sessions", "_watched")

    def __init__(self) -> None:
        self._sessions: dict[str, dict[S, None]] = {}  # user id -> sessions signed in as it
        self._watched: dict[S, Sequence[Subscription]] = {}

    def __len__(self) -> int:
        """Return the number of users that are signed in."""
        return len(self._sessions)

    @property
    def watchers(self) -> int:
        """The number of sessions that watch at least one user."""
        return len(self._watched)

    def sign_in(
        self, session: S, user_id: str, watched: Sequence[Subscription] = ()
    ) -> Sequence[Subscription]:
        """
        Record that *session* is signed in as *user_id*; *watched* is its watchlist.

        Returns the subscriptions of its previous watchlist, which the caller ends.
        """
        self._sessions.setdefault(user_id, {})[session] = None
        before = self._watched.pop(session, ())
        if watched:
            self._watched[session] = watched
        return before

    def sign_out(self, session: S, user_id: str) -> Sequence[Subscription]:
        """Forget a session that was signed in; return the subscriptions of its watchlist."""
        sessions = self._sessions.get(user_id)
        if sessions is not None:
            sessions.pop(session, None)
            if not sessions:
                del self._sessions[user_id]
        return self._watched.pop(session, ())

    def watched_by(self, session: S) -> Sequence[Subscription]:
        """Return the subscriptions of the session's watchlist."""
        return self._watched.get(session, ())

    def sessions(self, user_id: str) -> list[S]:
        """Return the sessions signed in as *user_id*, in the order in which they signed in."""
        return list(self._sessions.get(user_id, ()))
