"""
The node's handling of losses: the engine reports that events, or terminations, may be missing.

A session that can notify its client of a gap is notified at once and stays open. Each other session
is closed, so that its client reconnects and fetches its data again. The closes are spread over
time, since all clients of a node may be affected. Knows no protocol, and of time only how to be
called later.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

from heliograph.engine.answers import Lost
from heliograph.node.dialect import Ending, Session
from heliograph.slices import Each

SPREAD_S = 10.0
"""Seconds over which the sessions of one report are closed."""

STEPS = 100
"""Steps in which the sessions are closed."""


class Losses:
    """
    Closes sessions that may have lost events or terminations, a few at a time.

    *start* runs a job in slices, since a report may be about all channels of an app. *concerned*
    returns the sessions of a loss; *close* closes some of them. *shuffle* brings a list into a
    random order, so that no client is always the last. *later* calls a function after a delay in
    seconds.
    """

    __slots__ = ("_close", "_concerned", "_in_a_step", "_later", "_shuffle", "_start", "_waiting")

    def __init__(
        self,
        start: Callable[[Iterator[object]], object],
        concerned: Callable[[Lost], Iterable[Session]],
        close: Callable[[Sequence[Session], Ending], object],
        shuffle: Callable[[list[Session]], object],
        later: Callable[..., object],
    ) -> None:
        self._start = start
        self._concerned = concerned
        self._close = close
        self._shuffle = shuffle
        self._later = later
        self._waiting: dict[str, Session] = {}  # the sessions that are to be closed, by id
        self._in_a_step = 0

    def __len__(self) -> int:
        """Return the number of sessions that are still to be closed."""
        return len(self._waiting)

    def take(self, losses: Sequence[Lost]) -> None:
        """Notify the sessions of *losses*, or close them within SPREAD_S."""
        found: dict[str, Session] = {}
        self._start(Each(losses, partial(self._find, found), partial(self._begin, found)))

    def _find(self, found: dict[str, Session], loss: Lost) -> None:
        for session in self._concerned(loss):
            if session.id in self._waiting or session.ended:
                continue
            # A missed termination cannot be repaired: the session must end.
            if loss.channel is None or not session.lost(loss.channel, loss.now):
                found[session.id] = session

    def _begin(self, found: dict[str, Session]) -> None:
        sessions = list(found.values())
        self._shuffle(sessions)
        idle = not self._waiting
        self._waiting.update((session.id, session) for session in sessions)
        # All sessions that wait now are closed within SPREAD_S from now.
        self._in_a_step = -(-len(self._waiting) // STEPS)
        if self._waiting and idle:
            self._step()

    def _step(self) -> None:
        ids = list(islice(self._waiting, self._in_a_step))
        self._close([self._waiting.pop(one) for one in ids], Ending.EVENTS_LOST)
        if self._waiting:
            self._later(SPREAD_S / STEPS, self._step)
