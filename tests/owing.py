"""The engine's side of webhooks, small: the truth about one app, and the changes that it owes."""

import secrets
from collections.abc import Iterable, Sequence
from itertools import count

from heliograph.engine.answers import Change, ChannelOccupied, ChannelVacated, Mark, Owed
from heliograph.hub.facts import Member, MemberAdded, MemberRemoved, UserOffline, UserOnline

SCOPE = "s"

EPOCH = secrets.token_hex(8)
"""Of changes that nothing more is said of; another one in each process."""

_numbers = count(1)


def owed(changes: Iterable[Change], scope: str = SCOPE) -> list[Owed]:
    """Return *changes* with marks that were never used before."""
    return [Owed(change, Mark(scope, EPOCH, next(_numbers))) for change in changes]


class Truth:
    """Subscriptions, members and signed-in users of one app; each call returns what it changes."""

    def __init__(self) -> None:
        self.entered: dict[tuple[str, str], str | None] = {}  # session, channel -> user id
        self.signed_in: dict[str, str] = {}  # session -> user id

    def enter(self, session: str, channel: str, user_id: str | None = None) -> Sequence[Change]:
        changes: list[Change] = []
        if not self._sessions(channel):
            changes.append(ChannelOccupied(channel))
        if user_id is not None and user_id not in self._sessions(channel):
            changes.append(MemberAdded(channel, Member(user_id)))
        self.entered[session, channel] = user_id
        return changes

    def leave(self, session: str, channel: str) -> Sequence[Change]:
        changes: list[Change] = []
        user_id = self.entered.pop((session, channel))
        if user_id is not None and user_id not in self._sessions(channel):
            changes.append(MemberRemoved(channel, user_id))
        if not self._sessions(channel):
            changes.append(ChannelVacated(channel))
        return changes

    def sign_in(self, session: str, user_id: str) -> Sequence[Change]:
        first = user_id not in self.signed_in.values()
        self.signed_in[session] = user_id
        return [UserOnline(user_id)] if first else []

    def sign_out(self, session: str) -> Sequence[Change]:
        user_id = self.signed_in.pop(session)
        return [] if user_id in self.signed_in.values() else [UserOffline(user_id)]

    def asserted(self) -> Sequence[Change]:
        """Return what a state that begins from nothing owes once all nodes have asserted theirs."""
        changes: dict[object, Change] = {}
        for (_, channel), user_id in self.entered.items():
            changes.setdefault(channel, ChannelOccupied(channel))
            if user_id is not None:
                changes.setdefault((channel, user_id), MemberAdded(channel, Member(user_id)))
        for user_id in self.signed_in.values():
            changes.setdefault((None, user_id), UserOnline(user_id))
        return list(changes.values())

    def _sessions(self, channel: str) -> list[str | None]:
        return [user_id for (_, name), user_id in self.entered.items() if name == channel]
