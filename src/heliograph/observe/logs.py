"""
The set-up of logging for the whole process. One fact is one line.

Text from clients in a message cannot begin a new line, and cannot send control codes to a terminal.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


MAX_EXCEPTION = 10_000
"""Characters of an exception with its traceback: its text may contain data of a client."""


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return an exception with its traceback; a long text is cut in the middle."""
        text = super().formatException(ei)
        if len(text) <= MAX_EXCEPTION:
            return text
        half = MAX_EXCEPTION // 2
        return f"{text[:half]}\n({len(text) - 2 * half} characters omitted)\n{text[-half:]}"


class TextFormatter(_Formatter):
    """A line of time, level and message; an exception follows below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line; a character that is not printable is escaped."""
        return _UNPRINTABLE.sub(_escape, super().formatMessage(record))


def _escape(character: re.Match[str]) -> str:
    return character[0].encode("unicode_escape").decode()


class JsonFormatter(_Formatter):
    """One object a line: time (UTC), level, logger, message, and the exception if there is one."""

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

    Messages of the server are logged from *level* on, those of Python and the libraries from
    WARNING on. All have the same style, so that a program can parse the whole log.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("heliograph").setLevel(level.upper())
    logging.captureWarnings(capture=True)
