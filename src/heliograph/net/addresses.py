"""
The client address of a connection, and the number of connections of each address.

Reads the X-Forwarded-For header of trusted proxies.
"""

import ipaddress
import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from heliograph.net.transport import Transport, peer_address
from heliograph.observe.log_throttle import Summary
from heliograph.wire.http import Request

logger = logging.getLogger(__name__)

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV6_HOME_BITS = 64
"""IPv6 addresses with the same first 64 bits count as one client: a home has such a network."""

MOST_OVER_EACH = 8
"""Connections over its limit that one address may have; each is answered once and closed."""

MOST_OVER = 512
"""Connections over their limit that all addresses together may have."""


def read_address(text: str) -> Address | None:
    """Return the address in *text*, which may have a port; None if it is not an address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def client_address(
    peer: Address | None, forwarded: Sequence[bytes], trusted: Sequence[Network]
) -> Address | None:
    """
    Return the client's address; None if no trusted proxy names one.

    *peer* is the address that connected; None for a Unix socket, to which only proxies connect.
    *forwarded* are the values of X-Forwarded-For. Each proxy appends the address of its client,
    so the entries are read from the end, and only while the proxy that wrote an entry is
    *trusted*: entries before that may be forged.
    """
    speaker = peer
    entries = b",".join(forwarded).decode("latin-1").split(",") if forwarded else []
    for entry in reversed(entries):
        if speaker is not None and not _within(speaker, trusted):
            break
        named = read_address(entry)
        if named is None:
            return speaker
        speaker = named
    if speaker is peer and peer is not None and _within(peer, trusted):
        return None  # the proxy does not name its client
    return speaker


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def shared_key(address: Address) -> str:
    """Return the key that counts as one client: an IPv4 address, or a network of IPv6 addresses."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_HOME_BITS), strict=False))
    return str(address)


class Origin:
    """
    An address that connections come from, and their number now.

    All connections of one address share one object, so that a connection keeps a reference and
    no address. If *over*, the address is over its limit, and these connections are answered once
    and closed. If *proxy*, the address connects for clients, and its own connections have no
    limit.
    """

    __slots__ = ("_among", "connections", "key", "over", "peer", "proxy")

    def __init__(
        self,
        key: str,
        among: "dict[str, Origin] | None",
        *,
        over: bool = False,
        proxy: bool = False,
        peer: Address | None = None,
    ) -> None:
        self.key = key
        self.connections = 0
        self.over = over
        self.proxy = proxy
        self.peer = peer  # the address of a proxy; None for a Unix socket
        self._among = among  # None: connections are not counted

    def enter(self) -> "Origin":
        """Count a connection in."""
        if self._among is not None:
            if not self.connections:
                self._among[self.key] = self
            self.connections += 1
        return self

    def leave(self) -> bool:
        """Count a connection out; return whether it was counted."""
        if self._among is None:
            return False
        self.connections -= 1
        if not self.connections:
            del self._among[self.key]
        return True


class Addresses:
    """
    The number of connections of each address, at most *limit*; 0: no limit, nothing is counted.

    A connection counts from the time its client's address is known until it ends, whatever its
    protocol. A few connections over *limit* are accepted and refused with an answer
    (`Origin.over`); further ones are closed without an answer.

    *trusted* are the networks of trusted proxies. *later* calls a function after a delay.
    """

    __slots__ = (
        "_clients",
        "_local",
        "_over",
        "_over_now",
        "_proxies",
        "_summary",
        "_trusted",
        "limit",
        "refused",
        "uncounted",
    )

    def __init__(self, limit: int, trusted: Sequence[str], later: Callable[..., object]) -> None:
        self.refused = 0
        self.limit = limit
        self.uncounted = Origin("", None)
        self._trusted = tuple(ipaddress.ip_network(one, strict=False) for one in trusted)
        self._clients: dict[str, Origin] = {}
        self._over: dict[str, Origin] = {}
        self._over_now = 0
        self._proxies: dict[str, Origin] = {}
        self._local = Origin("", self._proxies, proxy=True)
        self._summary = Summary(logger, logging.INFO, later)

    # -- Counting in ---------------------------------------------------------------------

    def arrive(self, address: str) -> Origin | None:
        """
        Count in a connection from *address*, which connected directly or through a load balancer.

        Return None if the connection must be closed without an answer.
        """
        if not self._trusted:  # a proxy's own address may also be that of a client
            known = self._clients.get(address)
            if known is not None and known.connections < self.limit:
                return known.enter()
        read = read_address(address)
        if read is None:
            return self.uncounted  # the connection has ended already
        if _within(read, self._trusted):
            key = str(read)
            proxy = self._proxies.get(key) or Origin(key, self._proxies, proxy=True, peer=read)
            return proxy.enter()
        return self._count(read)

    def arrive_locally(self) -> Origin:
        """Count in a connection to a Unix socket, to which only proxies connect."""
        return self._local.enter()

    def arrive_unnamed(self, balancer: str) -> Origin:
        """
        Count in a connection for which the load *balancer* named no client.

        It is a connection of the balancer's own, such as a health check, and has no limit.
        """
        read = read_address(balancer)
        if read is not None and _within(read, self._trusted):
            return self.arrive(balancer) or self.uncounted
        return self.uncounted

    def arrive_by(self, transport: Transport) -> Origin | None:
        """Count in a connection that the event loop accepted, as `arrive` does."""
        if _is_local(transport):
            return self.arrive_locally()
        return self.arrive(peer_address(transport))

    def name_client(self, proxy: Origin, request: Request) -> Origin | None:
        """
        Move a connection from *proxy* to the client that the proxy names in *request*.

        Return *proxy* if the request names no client. Return None if the connection must be closed
        without an answer; it still counts for the proxy.
        """
        forwarded = [value for name, value in request.headers if name == b"x-forwarded-for"]
        address = client_address(proxy.peer, forwarded, self._trusted)
        if address is None or address == proxy.peer:
            return proxy
        client = self._count(address)
        if client is not None:
            self.leave(proxy)
        return client

    def _count(self, address: Address) -> Origin | None:
        key = shared_key(address)
        origin = self._clients.get(key) or Origin(key, self._clients)
        if origin.connections < self.limit:
            return origin.enter()
        self.refused += 1
        self._summary.note(
            "a connection was refused",
            f"its address already has --max_connections_per_ip ({self.limit}) connections; if it"
            " is the address of a proxy, add it to --trusted_proxies",
        )
        logger.debug("%s: a connection was refused; open connections: %d", key, origin.connections)
        over = self._over.get(key) or Origin(key, self._over, over=True)
        if over.connections >= MOST_OVER_EACH or self._over_now >= MOST_OVER:
            return None
        self._over_now += 1
        return over.enter()

    # -- Counting out --------------------------------------------------------------------

    def leave(self, origin: Origin) -> None:
        """Count a connection out."""
        if origin.leave() and origin.over:
            self._over_now -= 1


def _is_local(transport: Transport) -> bool:
    """Whether *transport* is a Unix socket. A TCP peer that disconnected has no name either."""
    return isinstance(transport.get_extra_info("sockname"), str | bytes)
