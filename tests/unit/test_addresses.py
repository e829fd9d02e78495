"""Whose word is taken for where a client comes from."""

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.net.addresses import (
    MOST_OVER,
    MOST_OVER_EACH,
    Addresses,
    Origin,
    client_address,
    read_address,
    shared_key,
)
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
def test_headers_of_a_client_do_not_change_the_address_from_a_proxy(
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


def counts(addresses: Addresses) -> dict[str, int]:
    """Return the connections of every origin there is, over its limit or not."""
    every = (addresses._clients, addresses._over, addresses._proxies)
    return {
        f"{'over ' * one.over}{'proxy ' * one.proxy}{key}": one.connections
        for origins in every
        for key, one in origins.items()
    }


def arrived(addresses: Addresses, address: str) -> Origin:
    origin = addresses.arrive(address)
    assert origin is not None
    return origin


def test_as_many_as_may_be_and_no_more() -> None:
    addresses = counting()
    origins = [addresses.arrive("203.0.113.9") for _ in range(4)]
    assert [one is not None and one.over for one in origins] == [False, False, True, True]
    assert addresses.refused == 2
    assert origins[0] is not None
    addresses.leave(origins[0])
    assert not arrived(addresses, "203.0.113.9").over


def test_connections_of_an_address_share_one_origin() -> None:
    """So that a connection costs no string of its own."""
    for trusted in ((), ("10.0.0.0/8",)):
        addresses = counting(5, trusted)
        assert arrived(addresses, "203.0.113.9") is arrived(addresses, "203.0.113.9")
        assert arrived(addresses, "2001:db8::1") is arrived(addresses, "2001:db8::2")


def test_beyond_a_few_over_the_limit_a_connection_gets_no_answer() -> None:
    addresses = counting(1)
    origins = [addresses.arrive("203.0.113.9") for _ in range(MOST_OVER_EACH + 3)]
    assert [one is None for one in origins] == [False] * (MOST_OVER_EACH + 1) + [True] * 2
    assert arrived(addresses, "203.0.113.10").over is False


def test_connections_over_the_limit_are_bounded_in_total() -> None:
    addresses = counting(1)
    over = []
    for number in range(200):
        arrived(addresses, f"203.0.113.{number}")
        found = [addresses.arrive(f"203.0.113.{number}") for _ in range(5)]
        over += [one for one in found if one is not None]
    assert len(over) == MOST_OVER
    addresses.leave(over.pop())
    assert addresses.arrive("203.0.113.199") is not None
    assert addresses.arrive("203.0.113.199") is None


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_the_count_is_that_of_the_connections_there_are(steps: list[tuple[int, bool]]) -> None:
    """In whatever order they come and leave; and what has left leaves no trace."""
    addresses = counting(3)
    there: list[Origin] = []
    names = ("203.0.113.9", "203.0.113.10", "2001:db8::1", "2001:db8::2", "10.0.0.1", "10.0.0.2")
    for number, leaves in steps:
        if leaves and there:
            addresses.leave(there.pop(number % len(there)))
        elif (origin := addresses.arrive(names[number])) is not None:
            there.append(origin)
        assert sum(counts(addresses).values()) == len(there)
        assert all(one.connections <= 3 for one in addresses._clients.values())
    for one in there:
        addresses.leave(one)
    assert counts(addresses) == {}
    assert addresses._over_now == 0


def test_a_proxy_has_no_limit_and_its_clients_have() -> None:
    addresses = counting(1)
    pool = [arrived(addresses, "10.0.0.1") for _ in range(20)]
    assert all(one.proxy for one in pool)
    assert counts(addresses) == {"proxy 10.0.0.1": 20}
    client = addresses.name_client(pool[0], request(b"198.51.100.7"))
    again = addresses.name_client(pool[1], request(b"198.51.100.7"))
    assert client is not None
    assert again is not None
    assert (client.key, client.over, again.over) == ("198.51.100.7", False, True)
    assert counts(addresses) == {"198.51.100.7": 1, "over 198.51.100.7": 1, "proxy 10.0.0.1": 18}
    assert addresses.name_client(pool[2], request()) is pool[2]
    assert addresses.name_client(pool[2], request(b"unknown")) is pool[2]


def test_a_proxys_address_may_be_that_of_a_client_too() -> None:
    addresses = counting(1)
    client = addresses.name_client(arrived(addresses, "10.0.0.1"), request(b"10.1.1.1"))
    assert client is not None
    assert (client.key, client.proxy) == ("10.1.1.1", False)
    assert arrived(addresses, "10.1.1.1").proxy


def test_a_client_refused_without_an_answer_stays_its_proxys() -> None:
    addresses = counting(1)
    proxy = arrived(addresses, "10.0.0.1")
    for _ in range(MOST_OVER_EACH + 1):
        addresses.name_client(arrived(addresses, "10.0.0.1"), request(b"198.51.100.7"))
    assert addresses.name_client(proxy, request(b"198.51.100.7")) is None
    assert counts(addresses)["proxy 10.0.0.1"] == 1


def test_a_socket_that_lost_its_peer_is_taken_for_nobody_and_not_for_a_proxy() -> None:
    """Else one that resets its connection at the right moment could say that it is anybody."""
    for peer in (None, "", b""):
        addresses = counting()
        for family in (socket.AF_INET, None):
            transport: Any = FakeTransport(family, peer)
            assert addresses.arrive_by(transport) is addresses.uncounted
        transport = FakeTransport(socket.AF_UNIX, peer)
        local = addresses.arrive_by(transport)
        assert local is not None
        client = addresses.name_client(local, request(b"198.51.100.7"))
        assert client is not None
        assert client.key == "198.51.100.7"
    transport = FakeTransport(socket.AF_INET, ("203.0.113.9", 1))
    origin = counting().arrive_by(transport)
    assert origin is not None
    assert origin.key == "203.0.113.9"


def test_what_a_balancer_does_for_itself_has_no_limit() -> None:
    addresses = counting(1)
    for _ in range(20):
        assert addresses.arrive_unnamed("203.0.113.9") is addresses.uncounted
        assert addresses.arrive_unnamed("10.0.0.1").proxy
    addresses.leave(addresses.uncounted)
    assert counts(addresses) == {"proxy 10.0.0.1": 20}
