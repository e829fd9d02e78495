"""
What a channel's name says about the channel, and which names are legal.

The only place that knows Pusher's prefixes; the rest of the server is told flags.
"""

import re

from msgspec import Struct

USER_CHANNEL_PREFIX = "#server-to-user-"

# The two kinds of names whose spaces are reserved: Pusher refuses "pusher-notification" too.
RESERVED_EVENT_PREFIXES = ("pusher:", "pusher_internal:", "pusher-")
CLIENT_EVENT_PREFIX = "client-"

_LEGAL = re.compile(rf"(?:{USER_CHANNEL_PREFIX})?[-A-Za-z0-9_=@,.;]+")
_SOCKET_ID = re.compile(r"[0-9]+\.[0-9]+")


class Kind(Struct, frozen=True, gc=False):
    """What a channel does. Encrypted channels need nothing from a server but privacy."""

    private: bool = False  # a subscription must be signed; presence channels included
    presence: bool = False
    encrypted: bool = False
    cached: bool = False
    user: bool = False  # the channel of one signed-in user

    @property
    def name(self) -> str:
        """What people call it."""
        if self.user:
            return "user"
        first = "presence" if self.presence else "private" if self.private else "public"
        parts = (first, self.encrypted and "encrypted", self.cached and "cache")
        return "-".join(part for part in parts if part)

    @property
    def counted(self) -> bool:
        """Whether subscribers may be told how many they are."""
        return not self.presence and not self.user


_PUBLIC = Kind()
# Longest first: the first that fits is the kind.
_KINDS = (
    ("private-encrypted-cache-", Kind(private=True, encrypted=True, cached=True)),
    ("private-encrypted-", Kind(private=True, encrypted=True)),
    ("private-cache-", Kind(private=True, cached=True)),
    ("private-", Kind(private=True)),
    ("presence-cache-", Kind(private=True, presence=True, cached=True)),
    ("presence-", Kind(private=True, presence=True)),
    ("cache-", Kind(cached=True)),
    (USER_CHANNEL_PREFIX, Kind(user=True)),
)
_SPECIAL = tuple(prefix for prefix, _ in _KINDS)
_PRIVATE = ("private-", "presence-")


def kind_of(channel: str) -> Kind:
    """Return the kind that the name's prefix decides, case-sensitively; public is the rest."""
    if channel.startswith(_SPECIAL):
        for prefix, kind in _KINDS:
            if channel.startswith(prefix):
                return kind
    return _PUBLIC


def takes_client_events(channel: str) -> bool:
    """Whether clients may talk to each other on *channel*, for whom its kind must be private."""
    return channel.startswith(_PRIVATE)


def is_channel_name(name: str, max_length: int) -> bool:
    """
    Whether *name* may name a channel; 0 for *max_length* is no limit.

    A leading # is reserved: only the channel of a user begins with one. A user's id may be
    of any characters that a channel's name may be of.
    """
    if max_length and len(name) > max_length:
        return False
    return _LEGAL.fullmatch(name) is not None


def is_socket_id(text: str) -> bool:
    """Whether *text* has the form of a socket id, which every server SDK insists on."""
    return _SOCKET_ID.fullmatch(text) is not None


def is_reserved_event(name: str) -> bool:
    """Whether an event's *name* is in the namespace that only servers use."""
    return name.startswith(RESERVED_EVENT_PREFIXES)
