"""
Who may subscribe to what, beyond the signatures that a protocol checks.

The port of an application's own rules. Without a policy, which is the default, signatures decide.
"""

from typing import Protocol

from heliograph.hub.facts import Member
from heliograph.reply import Reply


class Forbidden(Exception):
    """A policy refuses; *reason* is a text for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Policy(Protocol):
    """An application's own rules."""

    def authorize(
        self, app_id: str, session_id: str, channel: str, member: Member | None
    ) -> Reply[None]:
        """
        Allow a subscription, whose signature is valid where it needs one.

        Fails with `Forbidden` where the client may not subscribe, and with `EngineError` where that
        cannot be decided now: the client is closed then, so that it reconnects. Raises neither.
        """
