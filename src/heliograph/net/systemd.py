"""
The interfaces to systemd: sockets that it passes to the server, and notifications of its state.

Both are systemd's interfaces for any service (sd_listen_fds, sd_notify), and work with any other
service manager that implements them. Without their environment variables this module does nothing.
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
"""FileDescriptorName= of a socket that serves only the HTTP API."""


def inherited(environ: MutableMapping[str, str]) -> list[tuple[str, ListeningSocket]]:
    """
    Return the sockets that were passed to this process, each with its name.

    Their variables are removed from *environ*, so that child processes do not use the sockets.
    Raises ConfigError if a descriptor is not a stream socket.
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
    """Notifies the service manager of the server's state, if *environ* has its address."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # The address of an abstract socket begins with @.
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self) -> None:
        """The server is ready: after the start, or after a reload."""
        self._notify("READY=1")

    def reloading(self, now_s: float) -> None:
        """The configuration is being read; *now_s* is monotonic. `ready` comes after it."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={int(now_s * 1_000_000)}")

    def stopping(self, patience_s: float) -> None:
        """The server begins to stop, which takes up to *patience_s* seconds."""
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
