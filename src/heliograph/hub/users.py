"""
Signed-in users of one app on this node: their sessions, and who watches whom.

Which users are online anywhere is the engine's to know; here is who must be told.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

S = TypeVar("S")


class Users(Generic[S]):
    """Sessions of type *S* (hashable) by the user that they are, and by those they watch."""

    __slots__ = ("_sessions", "_watched", "_watchers")

    def __init__(self) -> None:
        self._sessions: dict[str, dict[S, None]] = {}  # user id -> sessions signed in as it
        self._watchers: dict[str, dict[S, None]] = {}  # user id -> sessions that watch it
        self._watched: dict[S, tuple[str, ...]] = {}  # session -> user ids that it watches

    @property
    def signed_in(self) -> int:
        """The number of users that are signed in."""
        return len(self._sessions)

    def sign_in(self, session: S, user_id: str, watchlist: Iterable[str] = ()) -> None:
        """Note that *session* is *user_id*, and watches exactly the users of *watchlist*."""
        self._sessions.setdefault(user_id, {})[session] = None
        self._unwatch(session)
        watched = tuple(dict.fromkeys(watchlist))
        if watched:
            self._watched[session] = watched
            for other in watched:
                self._watchers.setdefault(other, {})[session] = None

    def sign_out(self, session: S, user_id: str) -> None:
        """Forget a session that was signed in."""
        _discard(self._sessions, user_id, session)
        self._unwatch(session)

    def sessions(self, user_id: str) -> list[S]:
        """Return the sessions signed in as *user_id*, in the order of their signing in."""
        return list(self._sessions.get(user_id, ()))

    def watchers(self, user_id: str) -> list[S]:
        """Return the sessions that are to be told when *user_id* comes and goes."""
        return list(self._watchers.get(user_id, ()))

    def watches(self, session: S, user_id: str) -> bool:
        """Whether *session* watches *user_id*."""
        return session in self._watchers.get(user_id, ())

    def __len__(self) -> int:
        """Return the number of users signed in, and of those watched: nothing is left at 0."""
        return len(self._sessions) + len(self._watchers) + len(self._watched)

    def _unwatch(self, session: S) -> None:
        for other in self._watched.pop(session, ()):
            _discard(self._watchers, other, session)


def _discard(index: dict[str, dict[S, None]], key: str, session: S) -> None:
    sessions = index.get(key)
    if sessions is not None:
        sessions.pop(session, None)
        if not sessions:
            del index[key]
