"""
The rules for names of channels and events, and the form of a socket id.

The kind of a channel by its name is in protocols/kinds.py.
"""

import re
from functools import lru_cache

from heliograph.protocols.kinds import USER_CHANNEL_PREFIX, Kind, kind_of

# Pusher reserves two namespaces, and also refuses names such as "pusher-notification".
RESERVED_EVENT_PREFIXES = ("pusher:", "pusher_internal:", "pusher-")
"""Prefixes of the names of events that only servers send."""

CLIENT_EVENT_PREFIX = "client-"

_LEGAL = re.compile(rf"(?:{USER_CHANNEL_PREFIX})?[-A-Za-z0-9_=@,.;]+")
_SOCKET_ID = re.compile(r"[0-9]+\.[0-9]+")


def is_channel_name(name: str, max_length: int) -> bool:
    """
    Whether *name* is legal for a channel; 0 for *max_length* is no limit.

    A leading # is reserved for the channels of users. The id of a user may have any character that
    the name of a channel may have.
    """
    if max_length and len(name) > max_length:
        return False
    return _LEGAL.fullmatch(name) is not None


MAX_REMEMBERED_NAME = 200
"""Characters above which a name is not cached."""


@lru_cache(maxsize=4096)
def kind_if_legal(channel: str) -> Kind | None:
    """
    Return the kind of a channel, or None if its name is not legal; the length is not checked.

    Cached, since publishers use the same channels again and again. Call it only with names from
    signed requests, of at most MAX_REMEMBERED_NAME characters, and `__wrapped__` with others.
    """
    return None if _LEGAL.fullmatch(channel) is None else kind_of(channel)


def is_socket_id(text: str) -> bool:
    """Whether *text* has the form of a socket id, which every server SDK checks."""
    return _SOCKET_ID.fullmatch(text) is not None
