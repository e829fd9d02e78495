"""One set-up of logging, for the whole process. One line for one fact."""

import logging
import sys


def set_up(level: str) -> None:
    """Send the server's log to standard error, from *level* on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("heliograph")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
