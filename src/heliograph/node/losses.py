"""
What the node does where the engine reports that events, or terminations, may be missing.

A session that can tell its client of a gap is notified at once and stays. Each other one is closed,
so that its client reconnects and fetches what it shows; the closes are spread over time, for all
clients of a node may be concerned. Knows no protocol, and of time only how to be called later.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

from heliograph.engine.answers import Lost
from heliograph.node.dialect import Ending, Session
from heliograph.slices import Each

SPREAD_S = 10.0
"""How long closing the sessions of one report takes."""

STEPS = 100
"""Steps in which they are closed."""


class Losses:
    """
    Closes sessions that lost something, a few at a time.

    *start* has a job done in slices, for a report may be of all channels of an app. *concerned*
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
        self._waiting: dict[str, Session] = {}  # that are to be closed, by id
        self._in_a_step = 0

    def __len__(self) -> int:
        """Return the number of sessions that are yet to be closed."""
        return len(self._waiting)

    def take(self, losses: Sequence[Lost]) -> None:
        """Notify, or close in time, the sessions of *losses*."""
        found: dict[str, Session] = {}
        self._start(Each(losses, partial(self._find, found), partial(self._begin, found)))

    def _find(self, found: dict[str, Session], loss: Lost) -> None:
        for session in self._concerned(loss):
            if session.id in self._waiting or session.ended:
                continue
            # Nothing makes good for a termination that was missed: the session must end.
            if loss.channel is None or not session.lost(loss.channel, loss.now):
                found[session.id] = session

    def _begin(self, found: dict[str, Session]) -> None:
        sessions = list(found.values())
        self._shuffle(sessions)
        idle = not self._waiting
        self._waiting.update((session.id, session) for session in sessions)
        # All that wait now are closed within SPREAD_S from now.
        self._in_a_step = -(-len(self._waiting) // STEPS)
        if self._waiting and idle:
            self._step()

    def _step(self) -> None:
        ids = list(islice(self._waiting, self._in_a_step))
        self._close([self._waiting.pop(one) for one in ids], Ending.EVENTS_LOST)
        if self._waiting:
            self._later(SPREAD_S / STEPS, self._step)
