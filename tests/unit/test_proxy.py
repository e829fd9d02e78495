"""The PROXY protocol's header, against its specification and against garbage."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.wire.proxy import HEAD_BYTES, MAX_REST_BYTES, HeaderError, rest_bytes, source

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
PORTS = b"\x9c\x40\x1f\x90"
OF_V4 = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + PORTS
OF_V6 = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("::1").packed + PORTS
MAPPED = ipaddress.ip_address("::ffff:192.0.2.9").packed + bytes(16) + PORTS
ADDITIONS = b"\x01\x00\x08http/1.1" + b"\x04\x00\x00" + b"\x05\x00\x02ab"


def header(rest: bytes, *, command: int = 0x21, family: int = 0x11) -> tuple[bytes, bytes]:
    return SIGNATURE + bytes([command, family]) + len(rest).to_bytes(2), rest


@pytest.mark.parametrize(
    ("parts", "address"),
    [
        (header(OF_V4), "192.0.2.1"),
        (header(OF_V4 + ADDITIONS), "192.0.2.1"),
        (header(OF_V6, family=0x21), "2001:db8::1"),
        (header(OF_V6 + ADDITIONS, family=0x21), "2001:db8::1"),
        (header(MAPPED, family=0x21), "192.0.2.9"),
        (header(bytes(216), family=0x31), None),
        (header(b"", family=0x00), None),
        (header(b"anything", family=0x00), None),
        (header(b"", command=0x20, family=0x00), None),
        (header(OF_V4, command=0x20), None),
        (header(b"?", command=0x20, family=0xFF), None),
    ],
)
def test_what_a_proxy_says(parts: tuple[bytes, bytes], address: str | None) -> None:
    head, rest = parts
    assert rest_bytes(head) == len(rest)
    assert source(head, rest) == address


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((b"GET / HTTP/1.1\r\n", b""), "does not begin"),
        ((b"PROXY TCP4 192.0", b""), "does not begin"),
        ((SIGNATURE, b""), "does not begin"),
        (header(OF_V4, command=0x11), "0x11 is not a version"),
        (header(OF_V4, command=0x22), "0x22 is not a version"),
        (header(OF_V4, family=0x12), "0x12 is not a stream"),
        (header(OF_V4, family=0x41), "0x41 is not a stream"),
        (header(OF_V4[:-1]), "too short for the addresses"),
        (header(OF_V4, family=0x21), "too short for the addresses"),
        (header(OF_V4 + b"\x01"), "ends within a TLV"),
        (header(OF_V4 + b"\x01\x00"), "ends within a TLV"),
        (header(OF_V4 + b"\x01\x00\x02a"), "ends within a TLV"),
        (header(bytes(MAX_REST_BYTES + 1)), "too long: 4097 bytes"),
        ((header(OF_V4)[0], OF_V4[:-1]), "cut short"),
    ],
)
def test_what_is_no_header(parts: tuple[bytes, bytes], message: str) -> None:
    with pytest.raises(HeaderError, match=message):
        source(*parts)


@given(st.binary(max_size=20), st.binary(max_size=60))
def test_garbage_after_the_signature_is_refused_or_read(head: bytes, rest: bytes) -> None:
    full = (SIGNATURE + head)[:HEAD_BYTES]
    try:
        size = rest_bytes(full)
        address = source(full, rest[:size])
    except HeaderError:
        return
    assert address is None or ipaddress.ip_address(address)


@given(st.ip_addresses(), st.binary(max_size=100))
def test_every_address_comes_through(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, more: bytes
) -> None:
    family = 0x11 if address.version == 4 else 0x21
    addition = b"\xe0" + len(more).to_bytes(2) + more
    rest = address.packed * 2 + PORTS + addition
    told = source(*header(rest, family=family))
    assert told is not None
    mapped = getattr(address, "ipv4_mapped", None)
    assert ipaddress.ip_address(told) == (mapped or address)
