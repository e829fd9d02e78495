"""
One set-up of logging, for the whole process. One line for one fact.

What strangers can put into a message cannot begin a line of its own, nor speak to a terminal.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


MAX_EXCEPTION = 10_000
"""Characters of an exception with its traceback: its text may be of what a client sent."""


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return an exception with its traceback: of a long one, the beginning and the end."""
        text = super().formatException(ei)
        if len(text) <= MAX_EXCEPTION:
            return text
        half = MAX_EXCEPTION // 2
        return f"{text[:half]}\n({len(text) - 2 * half} characters omitted)\n{text[-half:]}"


class TextFormatter(_Formatter):
    """A line of time, level and message; the exception below it, where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line, with what is no printable character as an escape."""
        return _UNPRINTABLE.sub(_escape, super().formatMessage(record))


def _escape(character: re.Match[str]) -> str:
    return character[0].encode("unicode_escape").decode()


class JsonFormatter(_Formatter):
    """One object a line: time (UTC), level, logger, message; the exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as JSON."""
        at = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def set_up(level: str, style: str = "text") -> None:
    """
    Send the process's log to standard error; *style* is text or json.

    What the server says, from *level* on; what Python and the libraries have to say, from
    warnings on, and in the same style: a machine that reads the log reads all of it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("heliograph").setLevel(level.upper())
    logging.captureWarnings(capture=True)
