"""
The PROXY protocol, version 2: for whom a proxy connects, said before anything else.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.2
"""

from ipaddress import IPv4Address, IPv6Address

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

HEAD_BYTES = 16
"""What every header begins with: the signature, what it is, how much follows."""

MAX_REST_BYTES = 4096
"""More than any proxy says of a client; the format would allow sixteen times as much."""

_LOCAL, _PROXY = 0x20, 0x21

# Of what a proxy says for whom it comes: the address's size, both ends, each with its port.
_ADDRESS_BYTES = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}
_UNSPECIFIED, _IPV4, _IPV6 = 0x00, 0x11, 0x21


class HeaderError(ValueError):
    """What came is no such header."""


def rest_bytes(head: bytes) -> int:
    """Return how many bytes belong to the header after its *head*. Raises HeaderError."""
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
    Return the address of the client; None where the proxy comes for itself, or does not know.

    *rest* are the bytes that `rest_bytes` wants. Raises HeaderError.
    """
    if len(rest) != rest_bytes(head):
        raise HeaderError("its PROXY header is cut short")
    if head[12] == _LOCAL:
        return None  # a health check of the proxy: what else is said is to be ignored
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
    """Insist that *rest* is a row of types, lengths and values; what they say is not asked."""
    while rest:
        end = 3 + int.from_bytes(rest[1:3])
        if len(rest) < end or len(rest) < 3:  # noqa: PLR2004 - a type and a length
            raise HeaderError("its PROXY header ends within a TLV")
        rest = rest[end:]
