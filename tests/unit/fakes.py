"""Small stand-ins, for what is hard to cause with the real thing."""

from collections.abc import Sequence
from typing import Any

from heliograph.config.apps import App
from heliograph.engine.answers import NOTHING_WANTED, Change, Mark, Owed, Wants
from heliograph.hub.facts import Event, Fact, MemberAdded, MemberRemoved, UserStatus
from heliograph.node.journal import Settle


def told(fact: Fact) -> str:
    """A fact in a few letters: what a test's lane writes."""
    if isinstance(fact, Event):
        return fact.name
    if isinstance(fact, MemberAdded):
        return f"+{fact.member.user_id}"
    if isinstance(fact, MemberRemoved):
        return f"-{fact.user_id}"
    if isinstance(fact, UserStatus):
        return "on" if fact.online else "off"
    return f"#{fact.count}"


def texts_of(size: int) -> dict[str, str]:
    """Texts of *size* bytes of UTF-8, by what they are made of; JSON escapes some of it."""
    return {
        "ascii": "x" * size,
        "two bytes each": "é" * (size // 2),
        "three bytes each": "€" * (size // 3) + "x" * (size % 3),
        "four bytes each": "\N{GRINNING FACE}" * (size // 4),
        "line feeds": "\n" * size,
        "quotes": '"' * size,
        "backslashes": "\\" * size,
        "controls": "\1" * size,
    }


class RecordingLane:
    """Encodes facts as text, and counts."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.encoded = 0
        self.joined = 0

    def encode(self, fact: Fact, /) -> str:
        self.encoded += 1
        return self.name + told(fact) + " "

    def join(self, encoded: Sequence[str], /) -> str:
        self.joined += 1
        return "".join(encoded)

    def cut(self, chunk: str, parts: Sequence[tuple[int, int]], /) -> list[str]:
        return ["".join([chunk[begin:end] for begin, end in parts])]


class FakeSubscriber:
    """Remembers what was written to it."""

    def __init__(self, id: str) -> None:  # noqa: A002 - the name is the port's
        self.id = id
        self.chunks: list[Any] = []

    def write(self, chunk: Any, /) -> None:
        self.chunks.append(chunk)

    @property
    def heard(self) -> list[str]:
        """The facts that reached it, in order."""
        return " ".join(self.chunks).split()


def event(name: str, channel: str = "chat", except_id: str | None = None) -> Event:
    return Event(channel, name, b'"{}"', except_id)


ALL = Wants(occupancy=True, members=True, users=True, cache=True, counts=True, client_events=True)


class Recorder:
    """An observer of owed changes: wants all of those of apps with webhooks, and keeps nothing."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.marks: list[Mark] = []
        self.terms: list[str] = []

    def wants(self, app: App) -> Wants:
        return ALL if app.webhooks else NOTHING_WANTED

    def hold(self, _app_id: str, term: str, _settle: Settle) -> None:
        self.terms.append(term)

    def owe(self, _app_id: str, changes: Sequence[Owed]) -> None:
        self.changes += [one.change for one in changes]
        self.marks += [one.mark for one in changes]

    def restart(self, _app_id: str, scope: str, epoch: str) -> None:
        self.terms.append(f"restart {scope} {epoch}")

    def release(self, _app_id: str) -> None:
        self.terms.append("released")
