"""The answers to publishes with a key, so that a repetition is answered and not executed."""

from collections import OrderedDict

from msgspec import structs

from heliograph.engine.answers import Published
from heliograph.engine.base import KEY_TTL_S

MAX_KEYS = 10_000
"""Keys that are kept for an app; the oldest one gives way."""

MAX_PARTS = 100_000
"""Positions and counts in all these answers together."""


class KeyedAnswers:
    """The answers of one app, each for `KEY_TTL_S` seconds."""

    __slots__ = ("_answers", "_parts")

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[float, Published]] = OrderedDict()  # oldest first
        self._parts = 0

    def find(self, key: str, now: float) -> Published | None:
        """Return the answer to the first call with *key*, marked as repeated; None without one."""
        self._expire(now)
        found = self._answers.get(key)
        return None if found is None else found[1]

    def add(self, key: str, answer: Published, now: float) -> None:
        """Keep the answer to the first call with *key*."""
        self._answers[key] = (now, structs.replace(answer, repeated=True))
        self._parts += _parts(answer)
        while len(self._answers) > 1 and (len(self._answers) > MAX_KEYS or self._parts > MAX_PARTS):
            self._remove_first()

    def _expire(self, now: float) -> None:
        while self._answers:
            at, _ = self._answers[next(iter(self._answers))]
            if at + KEY_TTL_S > now:
                return
            self._remove_first()

    def _remove_first(self) -> None:
        _, (_, answer) = self._answers.popitem(last=False)
        self._parts -= _parts(answer)


def _parts(answer: Published) -> int:
    return len(answer.positions) + len(answer.counts)
