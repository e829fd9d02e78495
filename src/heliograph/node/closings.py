"""
Sessions that the node closes over time, so that their clients do not all reconnect at once.

Knows no reasons and no protocol, and of time only how to be called later.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from heliograph.node.dialect import Ending, Session

SPREAD_S = 10.0
"""Seconds over which sessions are closed that are to be closed at the same time."""

STEPS = 100
"""Steps in which they are closed."""


class Closings:
    """
    Closes sessions a few at a time, in the order in which they are added: all within SPREAD_S.

    It makes no difference whether they are added in one call or one by one.

    *close* closes some sessions for one ending. *later* calls a function after a delay in seconds.
    """

    __slots__ = ("_close", "_in_a_step", "_later", "_stepping", "_waiting")

    def __init__(
        self,
        close: Callable[[Sequence[Session], Ending], object],
        later: Callable[..., object],
    ) -> None:
        self._close = close
        self._later = later
        self._waiting: dict[str, tuple[Session, Ending]] = {}  # by id of the session
        self._in_a_step = 0
        self._stepping = False  # the next step is scheduled

    def __len__(self) -> int:
        """Return the number of sessions that are still to be closed."""
        return len(self._waiting)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._waiting

    def add(self, sessions: Iterable[Session], ending: Ending) -> None:
        """Close *sessions* for *ending*; those that are to be closed already keep their place."""
        for session in sessions:
            self._waiting.setdefault(session.id, (session, ending))
        # All sessions that wait now are closed within SPREAD_S from now.
        self._in_a_step = -(-len(self._waiting) // STEPS)
        if self._waiting and not self._stepping:
            self._stepping = True
            self._step()

    def _step(self) -> None:
        if not self._waiting:
            self._stepping = False
            return
        by_ending: dict[Ending, list[Session]] = {}
        for one in list(islice(self._waiting, self._in_a_step)):
            session, ending = self._waiting.pop(one)
            if not session.ended:
                by_ending.setdefault(ending, []).append(session)
        # Before the sessions are closed: an end may cause further closings. Also if none is left:
        # sessions that are added by then are closed in the next step.
        self._later(SPREAD_S / STEPS, self._step)
        for ending, sessions in by_ending.items():
            self._close(sessions, ending)
