"""
The changes of an app that are owed to its holder, until they are settled.

Knows no nodes, and not the causes of changes; the state that adds them supplies the present state.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from heliograph.engine.answers import Change, Mark, Owed
from heliograph.hub.facts import Event, MemberAdded

SCOPE = ""
"""All changes of an app are numbered together."""

OVERHEAD_BYTES = 200
"""The approximate size of a change in bytes, without its texts."""


class Texts(Protocol):
    """Makes the names of epochs."""

    @property
    def new_text(self) -> Callable[[], str]:
        """Return a function that returns a new unique text for each call."""


class Owing:
    """
    Changes with their marks, in order.

    Unsettled changes are limited by *max_changes* and *max_bytes*; above, the scope restarts: a new
    epoch of marks begins with the present state. *truth* returns the present state, as changes from
    an empty one. These changes do not count against the limits.
    """

    def __init__(
        self,
        texts: Texts,
        truth: Callable[[], Iterable[Change]],
        max_changes: int,
        max_bytes: int,
    ) -> None:
        self._texts = texts
        self._truth = truth
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self._changes: deque[tuple[Owed, int]] = deque()
        self._bytes = 0
        # The state that this epoch began with: its last number, and its unsettled changes.
        self._true = self._free_changes = self._free_bytes = 0
        self.epoch = texts.new_text()
        self.number = 0
        self._settled_any = False
        self.overflowed = False

    @property
    def start(self) -> Mark:
        """The mark before the first change that is not settled."""
        if self._changes:
            return Mark(SCOPE, self.epoch, self._changes[0][0].mark.number - 1)
        return Mark(SCOPE, self.epoch, self.number)

    def add(self, change: Change) -> Owed | None:
        """Owe *change*; return None if the limits are reached, and the scope must restart."""
        if self.overflowed:
            return None
        owed = self._append(change)
        if (
            len(self._changes) > self._max_changes + self._free_changes
            or self._bytes > self._max_bytes + self._free_bytes
        ):
            self._clear()
            self.overflowed = True
            return None
        return owed

    def settle(self, mark: Mark) -> None:
        """Remove the changes up to *mark*."""
        if mark.epoch != self.epoch:
            return
        self._settled_any = True
        while self._changes and self._changes[0][0].mark.number <= mark.number:
            owed, size = self._changes.popleft()
            self._bytes -= size
            if owed.mark.number <= self._true:
                self._free_changes -= 1
                self._free_bytes -= size

    def take(self) -> tuple[bool, Sequence[Owed]]:
        """
        Return whether the scope restarts for a new holder, and the unsettled changes.

        A holder that restarted and settled nothing may have kept some of the changes, or none. So
        the next holder restarts, too, with the same marks, by which it skips events that were kept.
        """
        if self.overflowed:
            self._begin()
        return not self._settled_any, self.after(0)

    def restart(self) -> Sequence[Owed]:
        """Restart the scope for the present holder, after too many changes."""
        self._begin()
        return self.after(0)

    def after(self, number: int) -> Sequence[Owed]:
        """Return the unsettled changes with a greater number."""
        return tuple(owed for owed, _ in self._changes if owed.mark.number > number)

    def _begin(self) -> None:
        self._clear()
        self.epoch = self._texts.new_text()
        self.number = 0
        self._settled_any = self.overflowed = False
        for change in self._truth():
            self._append(change)
        self._true = self.number
        self._free_changes, self._free_bytes = len(self._changes), self._bytes

    def _append(self, change: Change) -> Owed:
        self.number += 1
        owed = Owed(change, Mark(SCOPE, self.epoch, self.number))
        size = _size(change)
        self._changes.append((owed, size))
        self._bytes += size
        return owed

    def _clear(self) -> None:
        self._changes.clear()
        self._bytes = self._true = self._free_changes = self._free_bytes = 0


def _size(change: Change) -> int:
    if isinstance(change, Event):
        return OVERHEAD_BYTES + len(change.channel) + len(change.name) + len(change.data)
    if isinstance(change, MemberAdded):
        member = change.member
        return OVERHEAD_BYTES + len(member.user_id) + len(member.user_info or b"")
    return OVERHEAD_BYTES
