"""
What systemd and we tell each other: sockets that it listens on for us, and how we are.

Both are its interfaces for any service (sd_listen_fds, sd_notify), and work with whatever else
speaks them. Without its variables in the environment nothing happens.
"""

import logging
import os
import socket
from collections.abc import Mapping, MutableMapping

from heliograph.errors import ConfigError
from heliograph.net.sockets import INTERNET, ListeningSocket

logger = logging.getLogger(__name__)

FIRST_DESCRIPTOR = 3
API_NAME = "api"
"""FileDescriptorName= of a socket that the HTTP API is to have for itself."""


def inherited(environ: MutableMapping[str, str]) -> list[tuple[str, ListeningSocket]]:
    """
    Return the sockets that were passed to this process, each with its name.

    They are taken out of *environ*: what we start is not to take them for its own. Raises
    ConfigError where one of them is nothing to listen on.
    """
    ours = environ.get("LISTEN_PID") == str(os.getpid())
    number = environ.pop("LISTEN_FDS", "0")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    environ.pop("LISTEN_PID", None)
    if not ours or not number.isdecimal():
        return []
    found: list[tuple[str, ListeningSocket]] = []
    for index in range(int(number)):
        descriptor = FIRST_DESCRIPTOR + index
        name = names[index] if index < len(names) else ""
        found.append((name, ListeningSocket(_passed(descriptor), kept=True)))
    return found


def _passed(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        passed = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(
            f"LISTEN_FDS: descriptor {descriptor} is not a socket: {error.strerror}"
        ) from None
    families = (*INTERNET, getattr(socket, "AF_UNIX", None))
    if passed.family not in families or passed.type != socket.SOCK_STREAM:
        passed.close()
        raise ConfigError(f"LISTEN_FDS: descriptor {descriptor} is not a stream socket")
    passed.setblocking(False)
    return passed


class Notifier:
    """Tells the service manager how we are, where *environ* says that one wants to know."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # An abstract one is written with an @.
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self) -> None:
        """We serve, again or for the first time."""
        self._notify("READY=1")

    def reloading(self, now_s: float) -> None:
        """The configuration is being read; *now_s* is monotonic. `ready` comes after it."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={int(now_s * 1_000_000)}")

    def stopping(self, patience_s: float) -> None:
        """We are about to end, which takes as long as *patience_s*."""
        self._notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(patience_s * 1_000_000)}")

    def _notify(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            logger.warning(
                "NOTIFY_SOCKET: %s cannot be sent to the service manager: %s",
                message.partition("=")[0],
                error.strerror,
            )
