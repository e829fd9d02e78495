"""
From which address a client comes, and how many come from each.

Knows what proxies say (X-Forwarded-For), and whom of them to believe.
"""

import ipaddress
import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from heliograph.net.transport import Transport
from heliograph.summary import Summary
from heliograph.wire.http import Request

logger = logging.getLogger(__name__)

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV6_HOME_BITS = 64
"""Whoever has one IPv6 address has as many as these bits leave: a home is one client."""


def read_address(text: str) -> Address | None:
    """Return the address that a proxy wrote, with a port or without, if it is one."""
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
    Return the client's address, None if nobody who is believed says one.

    *peer* is who connected, None through a Unix socket, where only proxies are. *forwarded* are
    the values of X-Forwarded-For. Each proxy adds at the end whom it speaks for, so they are
    read from there, and only for as long as the speaker is *trusted*: what stands before was
    written by strangers.
    """
    speaker = peer
    entries = b",".join(forwarded).decode("latin-1").split(",") if forwarded else []
    for entry in reversed(entries):
        if speaker is not None and not _within(speaker, trusted):
            break
        said = read_address(entry)
        if said is None:
            return speaker
        speaker = said
    if speaker is peer and peer is not None and _within(peer, trusted):
        return None  # a proxy that does not say for whom it speaks
    return speaker


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def shared_key(address: Address) -> str:
    """Return what is counted as one client: an IPv4 address, or a network of IPv6 ones."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_HOME_BITS), strict=False))
    return str(address)


class Addresses:
    """
    How many clients each address has, of at most *limit*; 0 is no limit, and counts nothing.

    *trusted* are the proxies that are believed. *later* calls a function after a delay.
    """

    __slots__ = ("_counts", "_limit", "_summary", "_trusted", "refused")

    def __init__(self, limit: int, trusted: Sequence[str], later: Callable[..., object]) -> None:
        self.refused = 0
        self._limit = limit
        self._trusted = tuple(ipaddress.ip_network(one, strict=False) for one in trusted)
        self._counts: dict[str, int] = {}
        self._summary = Summary(logger, logging.INFO, later)

    def enter(self, transport: Transport, told: str | None, request: Request) -> str | None:
        """
        Count a client in; return what `leave` wants, None if there are as many as may be.

        *told* is the address that came before the request, where a proxy told one.
        """
        if not self._limit:
            return ""
        address = self._of(transport, told, request)
        if address is None:
            return ""
        key = shared_key(address)
        count = self._counts.get(key, 0)
        if count >= self._limit:
            self.refused += 1
            self._summary.note(
                "a client was told 4100",
                f"its address has --max_connections_per_ip ({self._limit}) connections; is it a"
                f" proxy's, name that in --trusted_proxies",
            )
            logger.debug("%s has %d connections, no more are let in", key, count)
            return None
        self._counts[key] = count + 1
        return key

    def leave(self, key: str) -> None:
        """Count a client out."""
        if key:
            count = self._counts.pop(key) - 1
            if count:
                self._counts[key] = count

    def _of(self, transport: Transport, told: str | None, request: Request) -> Address | None:
        if told is None and _is_local(transport):
            peer = None
        else:
            peer = read_address(told if told is not None else _peer(transport))
            if peer is None:
                return None  # it is gone already
        forwarded = [value for name, value in request.headers if name == b"x-forwarded-for"]
        return client_address(peer, forwarded, self._trusted)


def _is_local(transport: Transport) -> bool:
    """Whether a transport is a Unix socket's. One without a peer may also have lost it."""
    return isinstance(transport.get_extra_info("sockname"), str | bytes)


def _peer(transport: Transport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""
