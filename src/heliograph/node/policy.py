"""
The port of an application's own rules for subscriptions.

A protocol checks signatures; a policy is asked in addition. Without a policy, which is the default,
signatures alone decide.
"""

from typing import Protocol

from heliograph.hub.facts import Member
from heliograph.reply import Reply


class Forbidden(Exception):
    """A policy refuses a subscription; *reason* is a text for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Policy(Protocol):
    """The rules of an application."""

    def authorize(
        self, app_id: str, session_id: str, channel: str, member: Member | None
    ) -> Reply[None]:
        """
        Allow a subscription. If it needs a signature, the signature is valid.

        The reply fails with `Forbidden` if the client may not subscribe, and with `EngineError` if
        that cannot be decided now: the client is closed then, so that it reconnects. The call
        itself raises neither.
        """
