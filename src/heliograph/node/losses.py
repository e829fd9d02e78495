"""
The node's handling of losses: the engine reports that events, or terminations, may be missing.

A session that can notify its client of a gap is notified at once and stays open. Each other session
is closed, so that its client reconnects and fetches its data again. The closes are spread over
time, since all clients of a node may be affected. Knows no protocol.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from heliograph.engine.answers import Lost
from heliograph.node.closings import Closings
from heliograph.node.dialect import Ending, Session
from heliograph.slices import Each


class Losses:
    """
    Closes sessions that may have lost events or terminations.

    *start* runs a job in slices, since a report may be about all channels of an app. *concerned*
    returns the sessions of a loss. *shuffle* brings a list into a random order, so that no client
    is always the last.
    """

    __slots__ = ("_closings", "_concerned", "_shuffle", "_start")

    def __init__(
        self,
        start: Callable[[Iterator[object]], object],
        concerned: Callable[[Lost], Iterable[Session]],
        closings: Closings,
        shuffle: Callable[[list[Session]], object],
    ) -> None:
        self._start = start
        self._concerned = concerned
        self._closings = closings
        self._shuffle = shuffle

    def take(self, losses: Sequence[Lost]) -> None:
        """Notify the sessions of *losses*, or close them over time."""
        found: dict[str, Session] = {}
        self._start(Each(losses, partial(self._find, found), partial(self._begin, found)))

    def _find(self, found: dict[str, Session], loss: Lost) -> None:
        for session in self._concerned(loss):
            if session.id in self._closings or session.ended:
                continue
            # A missed termination cannot be repaired: the session must end.
            if loss.channel is None or not session.lost(loss.channel, loss.now):
                found[session.id] = session

    def _begin(self, found: dict[str, Session]) -> None:
        sessions = list(found.values())
        self._shuffle(sessions)
        self._closings.add(sessions, Ending.EVENTS_LOST)
