"""Small stand-ins, for what is hard to cause with the real thing."""

from collections.abc import Sequence
from typing import Any

from heliograph.hub.facts import Event, Fact, MemberAdded, MemberRemoved


def told(fact: Fact) -> str:
    """A fact in a few letters: what a test's lane writes."""
    if isinstance(fact, Event):
        return fact.name
    if isinstance(fact, MemberAdded):
        return f"+{fact.member.user_id}"
    if isinstance(fact, MemberRemoved):
        return f"-{fact.user_id}"
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
