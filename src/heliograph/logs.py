"""One set-up of logging, for the whole process. One line for one fact."""

import json
import logging
import sys
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
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
    """Send the server's log to standard error, from *level* on; *style* is text or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter()
        if style == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    root = logging.getLogger("heliograph")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
