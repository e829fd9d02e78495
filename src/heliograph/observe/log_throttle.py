"""
Limits how often the same fact is logged.

The first occurrence is logged at once; after that, one line a minute has the number of occurrences.
So clients that cause a fact any number of times cannot fill the disk, and operators still find it.
"""

import logging
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

WINDOW_S = 60.0

MAX_REASONS = 16
"""Reasons of one subject that are counted separately in one window."""

OTHERS = "other reasons"


class Summary:
    """
    Counts for the log of *logger*, at *level*.

    *later* calls a function after a delay. There must be few subjects; a subject is forgotten at
    the end of a window in which it did not occur.
    """

    __slots__ = ("_counts", "_later", "_level", "_logger")

    def __init__(self, logger: logging.Logger, level: int, later: Callable[..., object]) -> None:
        self._logger = logger
        self._level = level
        self._later = later
        self._counts: dict[str, dict[str, int]] = {}

    def note(self, subject: str, reason: str) -> None:
        """Log *reason* for *subject*: now, or in the sum of the window."""
        if self.first(subject, reason):
            self._logger.log(self._level, "%s: %s", subject, reason)

    def fault(self, subject: str, error: BaseException) -> None:
        """Log *error*, a fault of the server: with its traceback, or in the sum of the window."""
        if self.first(f"{subject} ({location_of(error)})", "the same error"):
            self._logger.log(self._level, "%s", subject, exc_info=error)

    def first(self, subject: str, reason: str) -> bool:
        """Return whether the caller must log this occurrence now; otherwise it is counted."""
        counts = self._counts.get(subject)
        if counts is None:
            self._begin(subject)
            return True
        if reason not in counts and len(counts) >= MAX_REASONS:
            reason = OTHERS
        counts[reason] = counts.get(reason, 0) + 1
        return False

    def _begin(self, subject: str) -> None:
        self._counts[subject] = {}
        self._later(WINDOW_S, self._end, subject)

    def _end(self, subject: str) -> None:
        counts: dict[str, Any] = self._counts.pop(subject)
        if not counts:
            return
        reasons = ", ".join(
            f"{counted(count, 'time')} {reason}" for reason, count in counts.items()
        )
        self._logger.log(self._level, "%s: in the last minute, %s", subject, reasons)
        self._begin(subject)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: 1 app, 2 apps."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def location_of(error: BaseException) -> str:
    """Return the type and the code line of *error*: equal for the same fault, whatever its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    file = PurePath(trace.tb_frame.f_code.co_filename).name
    return f"{type(error).__name__} at {file}:{trace.tb_lineno}"
