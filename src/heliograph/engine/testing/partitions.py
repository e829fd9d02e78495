"""
The messages of each channel and user in a queue of its own, as partitions of a state have them.

Within a queue the order stays; a test chooses which queue goes on next.
"""

from collections import deque
from collections.abc import Callable


class Partitions:
    """Give it to `LinkedEngine` as its *schedule*."""

    def __init__(self) -> None:
        self._partitions: dict[str, deque[Callable[[], None]]] = {}

    def __call__(self, partition: str, action: Callable[[], None]) -> None:
        """Put off *action* until its partition is stepped."""
        self._partitions.setdefault(partition, deque()).append(action)

    @property
    def waiting(self) -> list[str]:
        """The partitions that have something, by name."""
        return sorted(partition for partition, actions in self._partitions.items() if actions)

    def step(self, partition: str) -> None:
        """Do the oldest action of *partition*."""
        self._partitions[partition].popleft()()

    def settle(self) -> bool:
        """Do everything, last partition first; return whether there was anything."""
        moved = False
        while self.waiting:
            self.step(self.waiting[-1])
            moved = True
        return moved
