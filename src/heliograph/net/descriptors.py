"""
DescriptorBudget: whether there are file descriptors for those who come.

The kernel gives out the lowest number that is free. One that was just given thus says how many
are in use, whatever they are used for: no books are kept, and none can be wrong.
"""

import logging
import os
import sys
from collections.abc import Callable

from heliograph.observe.log_throttle import Summary

logger = logging.getLogger(__name__)

RESERVED = 64
"""Descriptors that clients do not get, so that the server can work, and tell others to go."""

SHORT = 256
"""
With so many left, or an eighth of the capacity where that is less, descriptors run short: as many
as are accepted in two turns of the loop, since it takes one to make room.
"""

MOST_DESCRIPTORS = 1 << 20
"""As many as are asked for where there is no limit."""


class DescriptorBudget:
    """
    The descriptors that one process may have: *limit*. *later* calls a function after a delay.

    Beyond `capacity` clients are told to come back later; half a reserve further nobody should
    be accepted at all, or the last descriptor would be gone and whoever comes dropped unheard.
    """

    def __init__(self, limit: int, later: Callable[..., object]) -> None:
        self.capacity = limit - RESERVED
        self._relief: Callable[[int], object] | None = None
        self._summary = Summary(logger, logging.WARNING, later)
        self._was_full = False
        self._probe = -1

    def attend(self, relief: Callable[[int], object]) -> None:
        """From now on ask *relief* for descriptors before there are none: how many run short."""
        self._relief = relief

    def full(self, given: int | None = None) -> bool:
        """
        Whether there is no room for one more client; noted once for each time it is so.

        *given* is the descriptor that the client was just given, where that is known: while there
        is room, nobody else need be asked.
        """
        if given is not None and given < self.capacity and not self._was_full:
            if given >= self.capacity - SHORT:
                self._relieve(given)
            return False
        used = self._used()
        self._relieve(used)
        if used >= self.capacity:
            if not self._was_full:
                self._was_full = True
                self._note()
            return True
        if self._was_full and used < self.capacity - RESERVED // 2:
            self._was_full = False  # they do not only take turns
        return False

    def exhausted(self) -> bool:
        """Whether there is none even for those who only hear that there is none."""
        # The reserve is only touched once somebody found it full: nobody else need ask the kernel.
        if not self._was_full or (used := self._used()) < self.capacity + RESERVED // 2:
            return False
        self._relieve(used)
        return True

    def close(self) -> None:
        """Give back what counting takes. It may be asked again."""
        if self._probe >= 0:
            os.close(self._probe)
            self._probe = -1

    def _note(self) -> None:
        reason = f"all {self.capacity} descriptors for clients are in use; new clients are refused"
        self._summary.note("over capacity", reason)

    def _relieve(self, used: int) -> None:
        short = used - (self.capacity - min(SHORT, self.capacity // 8))
        if short >= 0 and self._relief is not None:
            self._relief(short + 1)

    def _used(self) -> int:
        try:
            if self._probe < 0:
                self._probe = os.open(os.devnull, os.O_RDONLY)
            given = os.dup(self._probe)
        except OSError:
            return self.capacity + RESERVED
        os.close(given)
        return given


def descriptor_limit() -> int:
    """Return how many descriptors this process may have."""
    if sys.platform == "win32":
        return sys.maxsize  # there is no such limit
    import resource  # noqa: PLC0415 - it does not exist everywhere

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as the system lets it have."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - it does not exist everywhere

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, MOST_DESCRIPTORS)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return  # some systems allow less than they report
