"""
Where the server listens.

Knows addresses and sockets; who is served on them is the caller's business.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from functools import partial

from heliograph.errors import ConfigError

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel has a lower limit of its own, maybe."""


def bind(host: str, port: int, *, host_option: str, port_option: str) -> list[socket.socket]:
    """
    Bind a TCP socket to every address of *host*; port 0 takes a free one, the same for all.

    An address that this machine does not have is passed over where the name has others.
    Raises ConfigError, which names the option at fault.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ConfigError(f"{host_option}: cannot find {host!r}: {error.strerror}") from None
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        chosen = sockets[0].getsockname()[1] if port == 0 and sockets else port
        try:
            sockets.append(_bound(family, kind, protocol, (address[0], chosen, *address[2:])))
        except OSError as error:
            problem = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
    else:
        if sockets:
            return sockets
    for bound in sockets:
        bound.close()
    reason = problem.strerror if problem else "no address"
    option = host_option if problem and problem.errno == errno.EADDRNOTAVAIL else port_option
    raise ConfigError(f"{option}: cannot listen on {host}:{port}: {reason}")


def _bound(
    family: int, kind: int, protocol: int, address: tuple[str | int | bytes, ...]
) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        # A server that was just stopped leaves connections behind that are no reason to wait.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setblocking(False)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


async def listen(
    sockets: list[socket.socket],
    protocol: Callable[[], asyncio.Protocol],
    *,
    tls: ssl.SSLContext | None = None,
    handshake_timeout_s: float = 60.0,
) -> list[asyncio.Server]:
    """Serve *protocol* on *sockets*, behind *tls* where that is given."""
    create = partial(asyncio.get_running_loop().create_server, protocol, backlog=BACKLOG)
    if tls is not None:
        create = partial(create, ssl=tls, ssl_handshake_timeout=handshake_timeout_s)
    return [await create(sock=bound) for bound in sockets]
