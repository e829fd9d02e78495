"""
The messages of each channel and user in a queue of its own, as partitions of a state have them.

Within a queue the order stays; which one goes on next is the choice of whoever steps them.
"""

from collections import deque
from collections.abc import Callable


class Lanes:
    """Give it to `LinkedEngine` as its *schedule*."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Callable[[], None]]] = {}

    def __call__(self, lane: str, action: Callable[[], None]) -> None:
        """Put off *action* until its lane is stepped."""
        self._lanes.setdefault(lane, deque()).append(action)

    @property
    def waiting(self) -> list[str]:
        """The lanes that have something, by name."""
        return sorted(lane for lane, actions in self._lanes.items() if actions)

    def step(self, lane: str) -> None:
        """Do the oldest action of *lane*."""
        self._lanes[lane].popleft()()

    def settle(self) -> bool:
        """Do everything, last lane first; return whether there was anything."""
        moved = False
        while self.waiting:
            self.step(self.waiting[-1])
            moved = True
        return moved
