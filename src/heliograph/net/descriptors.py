"""
DescriptorBudget: whether file descriptors are left for new clients.

The kernel assigns the lowest free number. A new descriptor's number is thus about the number of
descriptors in use, for whatever purpose. No counter is needed, so no counter can be wrong.
"""

import logging
import os
import sys
from collections.abc import Callable

from heliograph.observe.log_throttle import Summary

logger = logging.getLogger(__name__)

RESERVED = 64
"""Descriptors that clients do not get: the server works with them, and refuses clients."""

SHORT = 256
"""
Descriptors run short if this many are left, or an eighth of the capacity if that is less. The
number is that of connections accepted in two turns of the loop, because the loop needs one turn to
close idle connections.
"""

MOST_DESCRIPTORS = 1 << 20
"""The number of descriptors to request if the system has no limit."""


class DescriptorBudget:
    """
    The descriptors that one process may have: *limit*. *later* calls a function after a delay.

    Over `capacity`, clients are refused with the request to come back later. Half a reserve
    further, no connection should be accepted: otherwise the last descriptor would be used up, and
    new connections would be dropped without an answer.
    """

    def __init__(self, limit: int, later: Callable[..., object]) -> None:
        self.capacity = limit - RESERVED
        self._relief: Callable[[int], object] | None = None
        self._summary = Summary(logger, logging.WARNING, later)
        self._was_full = False
        self._probe = -1

    def attend(self, relief: Callable[[int], object]) -> None:
        """Call *relief* with the number of descriptors wanted whenever descriptors run short."""
        self._relief = relief

    def full(self, given: int | None = None) -> bool:
        """
        Whether the capacity for clients is used up; logged when that begins.

        *given* is the descriptor of the newest client, if known: while it is below the capacity,
        no system call is needed.
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
            self._was_full = False  # with hysteresis: not for each client that leaves
        return False

    def exhausted(self) -> bool:
        """Whether no descriptor is left even for clients that are only refused."""
        # The reserve is only used after `full` returned True; until then no system call is needed.
        if not self._was_full or (used := self._used()) < self.capacity + RESERVED // 2:
            return False
        self._relieve(used)
        return True

    def close(self) -> None:
        """Close the descriptor that is used for counting. Later calls open it again."""
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
    """Return the number of descriptors that this process may have."""
    if sys.platform == "win32":
        return sys.maxsize  # Windows has no such limit
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
