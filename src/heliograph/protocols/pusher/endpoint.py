"""
The WebSocket endpoint: the path and the query with which a client connects.

    ws[s]://HOST:PORT[/prefix]/app/{key}?protocol=7&client=js&version=8.6.0&flash=false
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from urllib.parse import unquote, unquote_plus

from heliograph.errors import ClientError
from heliograph.protocols.pusher import messages, refusals

MAX_PARAMETERS = 100
"""Parameters of a query that are read; libraries send ten. Each costs time before any signature."""

_SUBPROTOCOL = re.compile(rb"pusher-channels-protocol-[0-9]{1,3}")


def app_key(path: str, prefix: str) -> str:
    """
    Return the key in *path*, which begins with *prefix*. Raises ClientError 4005.

    A trailing slash is ignored; a path with more segments is refused.
    """
    if not path.startswith(prefix + "/app/"):
        raise refusals.path_not_found()
    key = path[len(prefix) + len("/app/") :].removesuffix("/")
    if not key or "/" in key:
        raise refusals.path_not_found()
    return key


@lru_cache(maxsize=64)
def requested_app(path: bytes, query: bytes, prefix: str, *, lenient: bool) -> str:
    """
    Return the key of the app in *path*, if *query* has a supported protocol version.

    Both are as in the request line. Raises ClientError 4005, 4007 or 4008.
    """
    key = app_key(unquote(path.decode("latin-1")), prefix)
    check_protocol(query_parameters(query), lenient=lenient)
    return key


def is_endpoint(path: str, prefix: str) -> bool:
    """Whether *path* is that of the endpoint: `app_key` finds a key in it."""
    try:
        app_key(path, prefix)
    except ClientError:
        return False
    return True


def check_protocol(parameters: Sequence[tuple[str, str]], *, lenient: bool) -> int:
    """
    Return the protocol version in the query. Raises ClientError 4007 or 4008.

    With *lenient*, a client that sends no version gets the newest.
    """
    stated = next((value for name, value in parameters if name == "protocol"), "")
    if not stated:
        if lenient:
            return messages.MAX_PROTOCOL
        raise refusals.no_protocol()
    # A version is one ASCII digit: no sign, not two digits, no digit of another alphabet.
    if not (len(stated) == 1 and stated.isascii() and stated.isdigit()):
        raise refusals.unsupported_protocol()
    version = int(stated)
    if not messages.MIN_PROTOCOL <= version <= messages.MAX_PROTOCOL:
        raise refusals.unsupported_protocol()
    return version


def subprotocol(offers: Iterable[bytes]) -> bytes | None:
    """
    Return the offered subprotocol to echo, if one is Pusher's.

    It has no meaning: the version is that of the query. The Swift client offers a subprotocol, and
    Apple's network stack prefers a response that contains it.
    """
    return next((offer for offer in offers if _SUBPROTOCOL.fullmatch(offer)), None)


def query_parameters(query: bytes) -> list[tuple[str, str]]:
    """
    Split *query* as Pusher's libraries write it: at & only, and each pair at its first =.

    Names and values are percent-decoded, with + for a space; bytes that are not UTF-8 become
    U+FFFD. Semicolons and commas do not separate pairs: they are legal in channel names, and
    several SDKs do not escape them. Parameters after the first MAX_PARAMETERS are left out.
    """
    text = query.decode(errors="replace")
    parts = text.split("&", MAX_PARAMETERS)[:MAX_PARAMETERS]
    pairs = [pair.partition("=")[::2] for pair in parts if pair]
    if "%" in text or "+" in text:
        return [(_decoded(name), _decoded(value)) for name, value in pairs]
    return pairs


def _decoded(part: str) -> str:
    return unquote_plus(part, errors="replace")
