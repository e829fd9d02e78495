"""
What a channel's name says about the channel, and which names are legal.

The only place that knows Pusher's prefixes; the rest of the server is told flags.
"""

import re
from functools import lru_cache

from msgspec import Struct

USER_CHANNEL_PREFIX = "#server-to-user-"

# The two kinds of names whose spaces are reserved: Pusher refuses "pusher-notification" too.
RESERVED_EVENT_PREFIXES = ("pusher:", "pusher_internal:", "pusher-")
"""Of events that only servers send."""

CLIENT_EVENT_PREFIX = "client-"

_LEGAL = re.compile(rf"(?:{USER_CHANNEL_PREFIX})?[-A-Za-z0-9_=@,.;]+")
_SOCKET_ID = re.compile(r"[0-9]+\.[0-9]+")


class Kind(Struct, frozen=True, gc=False):
    """What a channel does. Encrypted channels need nothing from a server but privacy."""

    name: str = "public"  # what people call it
    private: bool = False  # a subscription must be signed; presence channels included
    presence: bool = False
    encrypted: bool = False
    cached: bool = False
    user: bool = False  # the channel of one signed-in user

    @property
    def counted(self) -> bool:
        """Whether subscribers may be told how many they are."""
        return not self.presence and not self.user


_PUBLIC = Kind()
# Longest first: the first that fits is the kind.
_KINDS = (
    (
        "private-encrypted-cache-",
        Kind("private-encrypted-cache", private=True, encrypted=True, cached=True),
    ),
    ("private-encrypted-", Kind("private-encrypted", private=True, encrypted=True)),
    ("private-cache-", Kind("private-cache", private=True, cached=True)),
    ("private-", Kind("private", private=True)),
    ("presence-cache-", Kind("presence-cache", private=True, presence=True, cached=True)),
    ("presence-", Kind("presence", private=True, presence=True)),
    ("cache-", Kind("public-cache", cached=True)),
    (USER_CHANNEL_PREFIX, Kind("user", user=True)),
)
_SPECIAL = tuple(prefix for prefix, _ in _KINDS)
TAKES_CLIENT_EVENTS = ("private-", "presence-")
"""Prefixes of channels on which clients may talk to each other, for whom their kind is private."""


def kind_of(channel: str) -> Kind:
    """Return the kind that the name's prefix decides, case-sensitively; public is the rest."""
    if channel.startswith(_SPECIAL):
        for prefix, kind in _KINDS:
            if channel.startswith(prefix):
                return kind
    return _PUBLIC


def is_channel_name(name: str, max_length: int) -> bool:
    """
    Whether *name* may name a channel; 0 for *max_length* is no limit.

    A leading # is reserved: only the channel of a user begins with one. A user's id may be
    of any characters that a channel's name may be of.
    """
    if max_length and len(name) > max_length:
        return False
    return _LEGAL.fullmatch(name) is not None


MAX_REMEMBERED_NAME = 200
"""Characters; of a longer name, nothing is remembered."""


@lru_cache(maxsize=4096)
def kind_if_legal(channel: str) -> Kind | None:
    """
    Return the kind of a channel, or None where it may not have that name, whatever its length.

    Remembered, as publishers name the same channels again and again. For names that somebody
    signed, of at most MAX_REMEMBERED_NAME characters; for others there is `__wrapped__`.
    """
    return None if _LEGAL.fullmatch(channel) is None else kind_of(channel)


def is_socket_id(text: str) -> bool:
    """Whether *text* has the form of a socket id, which every server SDK insists on."""
    return _SOCKET_ID.fullmatch(text) is not None
