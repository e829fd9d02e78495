"""
The changes of an app that this node has taken as its holder, and those that it can settle.

Knows marks, and groups of a store by their numbers; knows nothing of the results of a change.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from heliograph.engine.answers import Mark, Owed
from heliograph.hub.facts import Event

OVERHEAD_BYTES = 200
"""The approximate memory of a waiting change in bytes, without the data of an event."""


class Progress:
    """
    The changes of one app, from `hold` to `release`.

    Until the app's stored data is `loaded`, calls are *waiting*: changes and restarts, in their
    order. A restart is the mark before the first change of its epoch, with the number 0. A mark
    is settled once the store has kept the group that was current when its change was taken.
    """

    def __init__(self, settle: Callable[[Mark], object]) -> None:
        self.settle = settle
        self.loaded = False
        self.waiting: list[Sequence[Owed] | Mark] = []
        self.waiting_bytes = 0
        self._taken: dict[str, Mark] = {}  # by scope
        self._kept: dict[str, Mark] = {}
        # For each group that is not known to be kept, the last mark of each scope.
        self._groups: deque[tuple[int, dict[str, Mark]]] = deque()

    @property
    def taken(self) -> Iterable[Mark]:
        """The last mark of each scope."""
        return self._taken.values()

    @property
    def unsettled(self) -> bool:
        """Whether changes were taken that are not settled."""
        return bool(self._groups)

    def wait(self, changes: Sequence[Owed]) -> None:
        """Add *changes* to the calls that wait until the app is loaded."""
        self.waiting.append(changes)
        for owed in changes:
            data = owed.change.data if isinstance(owed.change, Event) else b""
            self.waiting_bytes += OVERHEAD_BYTES + len(data)

    def take_waiting(self) -> list[Sequence[Owed] | Mark]:
        """Return the waiting calls, and remove them."""
        waiting, self.waiting, self.waiting_bytes = self.waiting, [], 0
        return waiting

    def load(self, marks: Iterable[Mark]) -> None:
        """Load the marks that are kept, and settle them."""
        self.loaded = True
        for mark in marks:
            self._taken[mark.scope] = mark
            if mark.number:
                self._kept[mark.scope] = mark
        self.settle_again()

    def settle_again(self) -> None:
        """Settle the marks that are kept again, for an engine that begins a new term."""
        for mark in list(self._kept.values()):
            self.settle(mark)

    def restart(self, mark: Mark) -> bool:
        """
        Take a restart; return False if it was taken already.

        A holder that died may have kept the restart and later changes without settling them. These
        changes are skipped then, so the states that they confirmed must stay confirmed.
        """
        taken = self._taken.get(mark.scope)
        if taken is not None and taken.epoch == mark.epoch:
            return False
        self._taken[mark.scope] = mark
        self._kept.pop(mark.scope, None)
        return True

    def take(self, changes: Iterable[Owed]) -> Iterator[Owed]:
        """Yield those of *changes* that were not taken, and mark them as taken."""
        for owed in changes:
            mark = owed.mark
            taken = self._taken.get(mark.scope)
            if taken is None or taken.epoch != mark.epoch or taken.number < mark.number:
                yield owed
                self._taken[mark.scope] = mark

    def give(self, marks: Iterable[Mark], group: int) -> None:
        """Record that *marks*, and the results up to them, are in *group* of the store."""
        if not self._groups or self._groups[-1][0] != group:
            self._groups.append((group, {}))
        for mark in marks:
            self._groups[-1][1][mark.scope] = mark

    def keep(self, group: int) -> None:
        """Settle the marks of *group*, which the store has kept, and of earlier groups."""
        newest: dict[str, Mark] = {}
        while self._groups and self._groups[0][0] <= group:
            newest.update(self._groups.popleft()[1])
        self._kept.update(newest)
        for mark in newest.values():
            self.settle(mark)
