"""
Which names of channels and events are legal, and the form of a socket id.

What a channel's name says about the channel is in protocols/kinds.py.
"""

import re
from functools import lru_cache

from heliograph.protocols.kinds import USER_CHANNEL_PREFIX, Kind, kind_of

# The two kinds of names whose spaces are reserved: Pusher refuses "pusher-notification" too.
RESERVED_EVENT_PREFIXES = ("pusher:", "pusher_internal:", "pusher-")
"""Of events that only servers send."""

CLIENT_EVENT_PREFIX = "client-"

_LEGAL = re.compile(rf"(?:{USER_CHANNEL_PREFIX})?[-A-Za-z0-9_=@,.;]+")
_SOCKET_ID = re.compile(r"[0-9]+\.[0-9]+")


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
