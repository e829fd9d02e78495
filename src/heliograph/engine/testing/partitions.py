"""
The messages of each channel and user in their own queue, as in a state with partitions.

A queue keeps its order; a test chooses the queue that continues next.
"""

from collections import deque
from collections.abc import Callable


class Partitions:
    """Give it to `LinkedEngine` as its *schedule*."""

    def __init__(self) -> None:
        self._partitions: dict[str, deque[Callable[[], None]]] = {}

    def __call__(self, partition: str, action: Callable[[], None]) -> None:
        """Delay *action* until its partition is stepped."""
        self._partitions.setdefault(partition, deque()).append(action)

    @property
    def waiting(self) -> list[str]:
        """The names of the partitions with actions."""
        return sorted(partition for partition, actions in self._partitions.items() if actions)

    def step(self, partition: str) -> None:
        """Run the oldest action of *partition*."""
        self._partitions[partition].popleft()()

    def settle(self) -> bool:
        """Run all actions, last partition first; return whether there were any."""
        moved = False
        while self.waiting:
            self.step(self.waiting[-1])
            moved = True
        return moved
