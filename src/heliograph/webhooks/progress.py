"""
Which changes of an app this node has taken as its holder, and which it can settle.

Knows marks, and groups of a store by their numbers; nothing of what is made of a change.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from heliograph.engine.answers import Mark, Owed
from heliograph.hub.facts import Event

OVERHEAD_BYTES = 200
"""What a waiting change takes besides the data of an event, roughly."""


class Progress:
    """
    The changes of one app, from `hold` to `release`.

    Until what is kept of the app is `loaded`, calls are *waiting*: changes as they came, and
    restarts. A restart is the mark before the first change of its epoch: with the number 0. A mark
    is settled once the store has kept the group that was current when its change was taken.
    """

    def __init__(self, settle: Callable[[Mark], object]) -> None:
        self.settle = settle
        self.loaded = False
        self.waiting: list[Sequence[Owed] | Mark] = []
        self.waiting_bytes = 0
        self._taken: dict[str, Mark] = {}  # by scope
        self._kept: dict[str, Mark] = {}
        # The last mark of each scope in each group that is not known to be kept.
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
        """Have *changes* wait until the app is loaded."""
        self.waiting.append(changes)
        for owed in changes:
            data = owed.change.data if isinstance(owed.change, Event) else b""
            self.waiting_bytes += OVERHEAD_BYTES + len(data)

    def take_waiting(self) -> list[Sequence[Owed] | Mark]:
        """Return what waits, and let nothing wait any longer."""
        waiting, self.waiting, self.waiting_bytes = self.waiting, [], 0
        return waiting

    def load(self, marks: Iterable[Mark]) -> None:
        """Take over the marks that are kept, and settle them."""
        self.loaded = True
        for mark in marks:
            self._taken[mark.scope] = mark
            if mark.number:
                self._kept[mark.scope] = mark
        self.settle_again()

    def settle_again(self) -> None:
        """Settle what is kept, for an engine that begins a new term."""
        for mark in list(self._kept.values()):
            self.settle(mark)

    def restart(self, mark: Mark) -> bool:
        """
        Note a restart; return False for one that was taken already.

        A holder that died may have kept it, and changes that came after it, without settling them.
        The changes are skipped then, so what they confirmed must stay confirmed.
        """
        taken = self._taken.get(mark.scope)
        if taken is not None and taken.epoch == mark.epoch:
            return False
        self._taken[mark.scope] = mark
        self._kept.pop(mark.scope, None)
        return True

    def take(self, changes: Iterable[Owed]) -> Iterator[Owed]:
        """Yield those of *changes* that were not taken, and note that they are."""
        for owed in changes:
            mark = owed.mark
            taken = self._taken.get(mark.scope)
            if taken is None or taken.epoch != mark.epoch or taken.number < mark.number:
                yield owed
                self._taken[mark.scope] = mark

    def give(self, marks: Iterable[Mark], group: int) -> None:
        """Note that the store keeps *marks*, and all that was made up to them, with *group*."""
        if not self._groups or self._groups[-1][0] != group:
            self._groups.append((group, {}))
        for mark in marks:
            self._groups[-1][1][mark.scope] = mark

    def keep(self, group: int) -> None:
        """Settle what belongs to *group*, which the store has kept, or to an earlier one."""
        newest: dict[str, Mark] = {}
        while self._groups and self._groups[0][0] <= group:
            newest.update(self._groups.popleft()[1])
        self._kept.update(newest)
        for mark in newest.values():
            self.settle(mark)
