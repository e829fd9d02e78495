"""
The kind of a channel, by its name: the same for every protocol.

Clients of different protocols share channels. A channel that counts members, or keeps events, does
so for the clients of all protocols, so its name decides, and not the protocol. The prefixes are
Pusher's.
"""

from typing import Final

from heliograph.node.history import History
from heliograph.node.tenant import Rule, Tenant

USER_CHANNEL_PREFIX = "#server-to-user-"


class Kind:
    """The properties of a channel. For a server, an encrypted channel is a private one."""

    __slots__ = ("cached", "encrypted", "name", "presence", "private", "user")

    def __init__(
        self,
        name: str = "public",
        *,
        private: bool = False,
        presence: bool = False,
        encrypted: bool = False,
        cached: bool = False,
        user: bool = False,
    ) -> None:
        self.name: Final = name  # in metrics
        self.private: Final = private  # subscriptions are signed; presence channels included
        self.presence: Final = presence
        self.encrypted: Final = encrypted
        self.cached: Final = cached
        self.user: Final = user  # the channel of one signed-in user

    @property
    def counted(self) -> bool:
        """Whether subscribers may receive the number of subscriptions."""
        return not self.presence and not self.user


_PUBLIC = Kind()
# Longer prefixes first: the first prefix that matches decides.
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
"""Prefixes of channels that accept client events: those of the private kinds."""


def kind_of(channel: str) -> Kind:
    """Return the kind by the prefix of the name, case-sensitive; public without such a prefix."""
    if channel.startswith(_SPECIAL):
        for prefix, kind in _KINDS:
            if channel.startswith(prefix):
                return kind
    return _PUBLIC


def history_of(tenant: Tenant, channel: str, kind: Kind) -> History | None:
    """Return the history of *channel*, which is of *kind*; None if it keeps no events."""
    histories = tenant.histories
    if kind.user or not (kind.cached or histories.any):
        return None
    return histories.of(channel, cached=kind.cached)


def rule_of(tenant: Tenant, channel: str, kind: Kind) -> Rule:
    """Return the rule of *channel*, which is of *kind*."""
    history = history_of(tenant, channel, kind)
    return tenant.rules.get((kind.name, history)) or tenant.new_rule(
        kind.name,
        history,
        counts=kind.counted,
        observed=not kind.user,
        cached=kind.cached,
        identifies=kind.private,
    )
