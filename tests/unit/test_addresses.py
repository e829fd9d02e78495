"""Whose word is taken for where a client comes from."""

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.net.addresses import Addresses, client_address, read_address, shared_key
from heliograph.wire.http import Request

LAN = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
PROXY = ipaddress.ip_address("10.0.0.1")
STRANGER = ipaddress.ip_address("203.0.113.9")
CLIENT = ipaddress.ip_address("198.51.100.7")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        (STRANGER, [], STRANGER),
        (STRANGER, [b"198.51.100.7"], STRANGER),  # anybody can write that
        (PROXY, [b"198.51.100.7"], CLIENT),
        (PROXY, [b"1.1.1.1, 198.51.100.7"], CLIENT),  # the client wrote 1.1.1.1
        (PROXY, [b"1.1.1.1", b"198.51.100.7"], CLIENT),
        (PROXY, [b"1.1.1.1, 198.51.100.7, 10.9.9.9, 10.0.0.2"], CLIENT),
        (PROXY, [b"10.1.1.1, 198.51.100.7"], CLIENT),
        (PROXY, [b"198.51.100.7:51234"], CLIENT),
        (PROXY, [b"[2001:db8::1]:443"], ipaddress.ip_address("2001:db8::1")),
        (PROXY, [b"::ffff:198.51.100.7"], CLIENT),
        (PROXY, [b"10.1.1.1"], ipaddress.ip_address("10.1.1.1")),  # from inside
        (PROXY, [b"198.51.100.7, nonsense, 10.0.0.2"], ipaddress.ip_address("10.0.0.2")),
        (PROXY, [b"unknown"], PROXY),
        (PROXY, [], None),  # it does not say, and is not a client itself
        (None, [b"198.51.100.7"], CLIENT),
        (None, [b"1.1.1.1, 198.51.100.7"], CLIENT),
        (None, [], None),
        (None, [b"nonsense"], None),
    ],
)
def test_the_last_word_of_whoever_is_believed(
    peer: Any, forwarded: list[bytes], client: Any
) -> None:
    assert client_address(peer, forwarded, LAN) == client


@given(st.lists(st.binary(max_size=40), max_size=4), st.booleans())
def test_nothing_that_a_stranger_writes_changes_what_a_proxy_says(
    written: list[bytes], through_proxy: bool
) -> None:
    if through_proxy:
        said = [*written, str(STRANGER).encode()]
        assert client_address(PROXY, [b",".join(said)], LAN) == STRANGER
        assert client_address(PROXY, said, LAN) == STRANGER
        assert client_address(None, said, LAN) == STRANGER
    else:
        assert client_address(STRANGER, written, LAN) == STRANGER


@given(st.text(max_size=50))
def test_any_text_is_an_address_or_none(text: str) -> None:
    address = read_address(text)
    assert address is None or read_address(str(address)) == address


def test_a_home_is_one_client() -> None:
    here, there = ipaddress.ip_address("2001:db8:1:2::1"), ipaddress.ip_address("2001:db8:1:2:9::")
    assert shared_key(here) == shared_key(there) == "2001:db8:1:2::/64"
    assert shared_key(ipaddress.ip_address("2001:db8:1:3::1")) != shared_key(here)
    assert shared_key(STRANGER) == "203.0.113.9"


class FakeTransport:
    def __init__(self, family: socket.AddressFamily | None, peer: object) -> None:
        names = {socket.AF_INET: ("127.0.0.1", 8080), socket.AF_UNIX: "/run/h.sock", None: None}
        self.known = {"sockname": names[family], "peername": peer}

    def get_extra_info(self, name: str) -> object:
        return self.known[name]


def request(*forwarded: bytes) -> Request:
    headers = [(b"x-forwarded-for", one) for one in forwarded]
    return Request("GET", b"/", b"/", b"", "1.1", headers, True)


def counting(limit: int = 2, trusted: tuple[str, ...] = ("10.0.0.0/8",)) -> Addresses:
    return Addresses(limit, trusted, lambda *_: None)


def test_as_many_as_may_be_and_no_more() -> None:
    addresses = counting()
    transport: Any = FakeTransport(socket.AF_INET, ("203.0.113.9", 1))
    keys = [addresses.enter(transport, None, request()) for _ in range(4)]
    assert keys == ["203.0.113.9", "203.0.113.9", None, None]
    assert addresses.refused == 2
    addresses.leave("203.0.113.9")
    assert addresses.enter(transport, None, request()) == "203.0.113.9"


def test_who_has_left_leaves_no_trace() -> None:
    addresses = counting(1)
    for number in range(1000):
        transport: Any = FakeTransport(socket.AF_INET, (f"203.0.113.{number % 250}", 1))
        key = addresses.enter(transport, None, request())
        assert key
        addresses.leave(key)
    assert addresses._counts == {}


def test_a_socket_that_lost_its_peer_is_taken_for_nobody_and_not_for_a_proxy() -> None:
    """Else one that resets its connection at the right moment could say that it is anybody."""
    for peer in (None, "", b""):
        addresses = counting()
        transport: Any = FakeTransport(socket.AF_INET, peer)
        assert addresses.enter(transport, None, request(b"198.51.100.7")) == ""
        transport = FakeTransport(None, peer)
        assert addresses.enter(transport, None, request(b"198.51.100.7")) == ""
        transport = FakeTransport(socket.AF_UNIX, peer)
        assert addresses.enter(transport, None, request(b"198.51.100.7")) == "198.51.100.7"


def test_an_address_that_was_told_before_the_request_is_the_peers() -> None:
    addresses = counting()
    transport: Any = FakeTransport(socket.AF_INET, ("10.0.0.1", 1))
    assert addresses.enter(transport, "203.0.113.9", request(b"1.1.1.1")) == "203.0.113.9"
    assert addresses.enter(transport, "10.0.0.5", request(b"1.1.1.1")) == "1.1.1.1"
    assert addresses.enter(transport, "", request(b"1.1.1.1")) == ""


def test_without_a_limit_nothing_is_counted() -> None:
    addresses = counting(0)
    transport: Any = None  # is not even looked at
    assert addresses.enter(transport, None, request()) == ""
