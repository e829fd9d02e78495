"""
The sockets that a server listens on, and how they are bound.

Handles addresses and permissions, not connections.
"""

import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

from heliograph.errors import ConfigError

BACKLOG = 4096
"""Maximum size of the accept queue; the kernel may have a lower limit."""

INTERNET = (socket.AF_INET, socket.AF_INET6)


class ListeningSocket:
    """
    A socket that listens.

    A *kept* socket is owned by another process that passed it on; its accept queue is left to that
    process. *host* is the name of its address, for people. *file* is the path of a Unix socket that
    this server made; the file is removed when the socket is closed.
    """

    def __init__(
        self,
        bound: socket.socket,
        *,
        host: str | None = None,
        kept: bool = False,
        file: Path | None = None,
    ) -> None:
        self.socket = bound
        self.local = bound.family not in INTERNET
        """Whether it is a Unix socket."""
        self.kept = kept
        self._host = host
        self._file = file
        self._identity = _identity(file) if file is not None else None

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket."""
        return 0 if self.local else int(self.socket.getsockname()[1])

    @property
    def name(self) -> str:
        """The part after :// of a URL to this socket; a Unix socket is written as in nginx."""
        address = self.socket.getsockname()
        if self.local:
            return f"unix:{self._file or address}:"
        host = self._host or str(address[0])
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def copy(self) -> "ListeningSocket":
        """Return a copy with a descriptor of its own; the copy does not remove the file."""
        return ListeningSocket(self.socket.dup(), host=self._host, kept=self.kept)

    def close(self) -> None:
        """Stop listening; if no copy is open, connections in the accept queue are reset."""
        self.socket.close()
        # Another server may have taken over the path meanwhile.
        if self._file is not None and _identity(self._file) == self._identity:
            self._file.unlink()


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


# -- Binding -------------------------------------------------------------------------------


def bind(
    hosts: Sequence[str], port: int, *, host_option: str, port_option: str, shared: bool = False
) -> list[ListeningSocket]:
    """
    Listen on a TCP socket at every address of *hosts*; port 0 is one free port for all of them.

    If a host name has several addresses, those that this machine does not have are skipped. A
    *shared* port may be bound again by another process that also shares it. Raises ConfigError,
    which names the option at fault.
    """
    sockets: list[ListeningSocket] = []
    try:
        for host in hosts:
            chosen = sockets[0].port if port == 0 and sockets else port
            taken = {one.socket.getsockname()[:2] for one in sockets}
            sockets += _bind_host(
                host,
                chosen,
                taken,
                host_option=host_option,
                port_option=port_option,
                shared=shared,
            )
    except BaseException:
        for listening in sockets:
            listening.close()
        raise
    return sockets


def _bind_host(
    host: str,
    port: int,
    taken: set[tuple[str, int]],
    *,
    host_option: str,
    port_option: str,
    shared: bool,
) -> list[ListeningSocket]:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ConfigError(f"{host_option}: cannot resolve {host!r}: {error.strerror}") from None
    except UnicodeError:  # such as a..b
        raise ConfigError(f"{host_option}: {host!r} is not a valid host name") from None
    sockets: list[ListeningSocket] = []
    problem: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        chosen = sockets[0].port if port == 0 and sockets else port
        if (address[0], chosen) in taken:
            continue  # such as 127.0.0.1 and localhost
        bound = socket.socket(family, kind, protocol)
        try:
            _bind(bound, (address[0], chosen, *address[2:]), shared=shared)
            bound.listen(BACKLOG)  # at once: two servers can bind a port, one can listen
            sockets.append(ListeningSocket(bound, host=host))
        except OSError as error:
            bound.close()
            problem = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
    else:
        if sockets or problem is None:
            return sockets
    for listening in sockets:
        listening.close()
    option = host_option if problem.errno == errno.EADDRNOTAVAIL else port_option
    raise ConfigError(f"{option}: cannot listen on {host}:{port}: {problem.strerror}")


def _bind(bound: socket.socket, address: tuple[str | int | bytes, ...], *, shared: bool) -> None:
    # So that the port can be used at once after a server with open connections has stopped.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        if not hasattr(socket, "SO_REUSEPORT"):
            raise ConfigError("--reuse_port: this system does not support shared ports")
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if bound.family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.setblocking(False)
    bound.bind(address)


def bind_unix(path: str, mode: int, *, option: str, shared: bool = False) -> ListeningSocket:
    """
    Listen on a Unix socket at *path* with the permissions *mode*.

    A socket at *path* on which no process listens is replaced. If *shared*, a socket in use is also
    replaced: new clients then connect to this one. Raises ConfigError, which names the option.
    """
    file = Path(path)
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"{option}: this system does not support Unix sockets")
    try:
        used = _answers(file)
    except OSError as error:
        raise ConfigError(f"{option}: cannot listen on {path}: {_reason(error)}") from None
    if used and not shared:
        raise ConfigError(f"{option}: {path} is in use by a running server")
    bound = socket.socket(socket.AF_UNIX)
    # The socket gets its name once it is ready, so that no client finds a socket that does not
    # listen yet, or one with other permissions.
    draft = Path(f"{path}.{os.getpid()}")
    try:
        bound.setblocking(False)
        bound.bind(str(draft))
        draft.chmod(mode)
        bound.listen(BACKLOG)
        draft.rename(file)
    except OSError as error:
        bound.close()
        draft.unlink(missing_ok=True)
        raise ConfigError(f"{option}: cannot listen on {path}: {_reason(error)}") from None
    return ListeningSocket(bound, file=file)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)  # for a path that is too long, there is no errno


def _answers(file: Path) -> bool:
    """Whether a process listens at *file*. Raises OSError if that cannot be determined."""
    try:
        if not stat.S_ISSOCK(file.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "the file exists and is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(str(file))
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except BlockingIOError:
        return True  # the accept queue is full
    return True
