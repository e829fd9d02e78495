"""
Origins: the form that operators write, its conversion to the form that browsers send, and matching.

A browser sends a scheme, a host and a port that is not the scheme's default, in lower case:
https://shop.example.com. Source: https://datatracker.ietf.org/doc/html/rfc6454#section-6.2
"""

import ipaddress
import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache

DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
LAST_PORT = 65535
_SCHEMES = {"80": "http", "443": "https"}

_ENTRY = re.compile(
    r"(?:(?P<scheme>[a-z*][a-z0-9+.*-]*)://)?"
    r"(?P<host>\[[0-9a-f:.*]+\]|[^\s/?#@:\[\]]+)"
    r"(?::(?P<port>[0-9]+|\*))?"
)


def entry(text: str) -> str:
    """
    Return *text*, an origin or a host with `*` for anything, as browsers send it.

    A trailing slash and a port that is the default of its scheme are left out. Raises ValueError
    for an entry that can match no origin.
    """
    found = _ENTRY.fullmatch(text.strip().lower().removesuffix("/"))
    if found is None:
        raise ValueError(
            f"{text!r} is not an origin such as https://example.com or a host such as example.com"
        )
    scheme, host, port = found["scheme"], _canonical(found["host"], text), found["port"]
    if port is not None and port != "*":
        port = str(int(port))
        if int(port) > LAST_PORT:
            raise ValueError(f"{text!r} has a port that does not exist")
    if scheme is None and port in _SCHEMES:
        scheme = _SCHEMES[port]  # a browser leaves this port out and sends only the scheme
    if scheme is not None and DEFAULT_PORTS.get(scheme) == port:
        port = None
    return f"{scheme}://" * (scheme is not None) + host + f":{port}" * (port is not None)


def _canonical(host: str, text: str) -> str:
    """Return a host as browsers send it: a name in ASCII, an IPv6 address in its short form."""
    if host.startswith("[") and "*" not in host:
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise ValueError(f"{text!r} has a host that is not an IPv6 address") from None
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"{text!r} has an invalid host name") from None


def origin_allowed(origin: str | None, allowed: Sequence[str]) -> bool:
    """
    Return whether a page from *origin* may connect; an empty *allowed* allows all.

    An entry is an origin (`https://example.com`) or a host (`example.com`), either with `*` for
    anything (`https://*.example.com`). A client without an Origin header is not a browser; if
    there is a list, it may not connect.
    """
    if not allowed:
        return True
    if origin is None:
        return False
    origin = origin.lower()
    host = origin.partition("://")[2]
    name = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) else host
    return any(
        pattern.match(origin) or pattern.match(host) or pattern.match(name)
        for pattern in map(_pattern, allowed)
    )


@lru_cache(maxsize=1024)
def _pattern(entry: str) -> re.Pattern[str]:
    """Return a pattern for *entry*, in which only `*` is special: IPv6 addresses have brackets."""
    literal = entry.lower().replace("[", "[[]").replace("?", "[?]")
    return re.compile(translate(literal))
