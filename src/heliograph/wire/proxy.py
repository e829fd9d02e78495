"""
The PROXY protocol, version 2: a header with the client's address, sent first by a proxy.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.2
"""

from ipaddress import IPv4Address, IPv6Address

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

HEAD_BYTES = 16
"""The size of the fixed part of a header: the signature, the kind, the length of the rest."""

MAX_REST_BYTES = 4096
"""More than any proxy sends about a client; the format would allow sixteen times as much."""

_LOCAL, _PROXY = 0x20, 0x21

# The size of the addresses, by family: those of both ends, with their ports.
_ADDRESS_BYTES = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}
_UNSPECIFIED, _IPV4, _IPV6 = 0x00, 0x11, 0x21


class HeaderError(ValueError):
    """The data is not a valid header."""


def rest_bytes(head: bytes) -> int:
    """Return the number of bytes of the header after its *head*. Raises HeaderError."""
    if len(head) != HEAD_BYTES or not head.startswith(SIGNATURE):
        raise HeaderError("it does not begin with a PROXY header of version 2")
    command, family = head[12], head[13]
    if command not in (_LOCAL, _PROXY):
        raise HeaderError(f"0x{command:02x} is not a version and command of a PROXY header")
    if command == _PROXY and family not in _ADDRESS_BYTES:
        raise HeaderError(f"0x{family:02x} is not a stream of a known address family")
    size = int.from_bytes(head[14:16])
    if size > MAX_REST_BYTES:
        raise HeaderError(f"its PROXY header is too long: {size} bytes")
    return size


def source(head: bytes, rest: bytes) -> str | None:
    """
    Return the address of the client; None if the connection is the proxy's own, or it is unknown.

    *rest* has as many bytes as `rest_bytes` returned. Raises HeaderError.
    """
    if len(rest) != rest_bytes(head):
        raise HeaderError("its PROXY header is cut short")
    if head[12] == _LOCAL:
        return None  # a health check of the proxy: the rest of the header must be ignored
    family = head[13]
    size = _ADDRESS_BYTES[family]
    if len(rest) < size:
        raise HeaderError("its PROXY header is too short for the addresses")
    _check_additions(rest[size:] if family != _UNSPECIFIED else b"")
    if family == _IPV4:
        return str(IPv4Address(rest[:4]))
    if family == _IPV6:
        address = IPv6Address(rest[:16])
        return str(address.ipv4_mapped or address)
    return None


def _check_additions(rest: bytes) -> None:
    """Check that *rest* is a list of types, lengths and values (TLVs); the values are ignored."""
    while rest:
        end = 3 + int.from_bytes(rest[1:3])
        if len(rest) < end or len(rest) < 3:  # noqa: PLR2004 - a type and a length
            raise HeaderError("its PROXY header ends within a TLV")
        rest = rest[end:]
