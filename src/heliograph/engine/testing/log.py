"""
The last facts and notices of an app, for nodes that were interrupted; bounded.

Knows no nodes.
"""

from collections import deque
from collections.abc import Iterator

from msgspec import Struct

from heliograph.hub.facts import Event, Fact, MemberAdded, Notice

OVERHEAD_BYTES = 200
"""The approximate size of an entry in bytes, without its texts."""


class Logged(Struct, frozen=True):
    """A fact of a channel, or a notice about a user, with its number."""

    number: int
    channel: str | None
    user_id: str | None
    fact: Fact | Notice


class Log:
    """Facts in their order, numbered from 1; above the limits, the oldest are dropped."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._entries: deque[tuple[Logged, int]] = deque()
        self._bytes = 0
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._dropped = 0  # the number of the last entry that was dropped
        self.last = 0

    def append(self, fact: Fact | Notice, *, channel: str | None, user_id: str | None) -> int:
        """Log *fact*; return its number."""
        self.last += 1
        size = OVERHEAD_BYTES + _size(fact)
        self._entries.append((Logged(self.last, channel, user_id, fact), size))
        self._bytes += size
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            dropped, size = self._entries.popleft()
            self._dropped = dropped.number
            self._bytes -= size
        return self.last

    def take_number(self) -> int:
        """Return a number that no entry has, for a change that is not logged."""
        self.last += 1
        return self.last

    def reaches(self, seen: int) -> bool:
        """Return whether the log has every entry after the number *seen*."""
        return seen >= self._dropped

    def after(self, seen: int) -> Iterator[Logged]:
        """Return the entries after the number *seen* that the log still has."""
        return (logged for logged, _ in self._entries if logged.number > seen)

    def lose(self) -> None:
        """Drop every entry."""
        self._entries.clear()
        self._bytes = 0
        self._dropped = self.last


def _size(fact: Fact | Notice) -> int:
    if isinstance(fact, Event):
        return len(fact.channel) + len(fact.name) + len(fact.data)
    if isinstance(fact, MemberAdded):
        return len(fact.channel) + len(fact.member.user_id) + len(fact.member.user_info or b"")
    return 0
