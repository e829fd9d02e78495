"""
An engine whose answers come on later ticks, out of order across channels, or not at all.

Within a channel it keeps the contract's order; which channel goes on next is the test's choice.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from heliograph.engine.answers import (
    Cached,
    Counts,
    Departure,
    Entry,
    Listing,
    Refusal,
    SignedIn,
    SignedOut,
)
from heliograph.engine.base import Deliver
from heliograph.engine.memory import MemoryEngine
from heliograph.errors import EngineError
from heliograph.hub.facts import Fact, Member
from heliograph.reply import Later

T = TypeVar("T")

ANY_CHANNEL = ""


class LateEngine:
    """A MemoryEngine behind one queue for each channel."""

    def __init__(self, inner: MemoryEngine) -> None:
        self._inner = inner
        self._queues: dict[str, deque[Callable[[], None]]] = {}
        self.away = False

    def start(self, deliver: Deliver) -> None:
        self._inner.start(deliver)

    # -- The test's side -----------------------------------------------------------------

    @property
    def waiting(self) -> list[str]:
        """The channels that have something to answer."""
        return sorted(channel for channel, queue in self._queues.items() if queue)

    def step(self, channel: str) -> None:
        """Let the oldest operation on *channel* take place and be answered."""
        self._queues[channel].popleft()()

    def settle(self) -> None:
        """Let everything take place, last channel first."""
        while self.waiting:
            self.step(self.waiting[-1])

    # -- The port ------------------------------------------------------------------------

    @property
    def available(self) -> bool:
        return not self.away

    def _queue(self, channel: str, operation: Callable[[], T]) -> Later[T]:
        later: Later[T] = Later()
        away = self.away

        def take_place() -> None:
            if away:
                later.fail(EngineError("away"))
            else:
                later.resolve(operation())

        self._queues.setdefault(channel, deque()).append(take_place)
        return later

    def publish(self, app_id: str, facts: Sequence[Fact]) -> Later[None]:
        later: Later[None] = Later()
        left = len(facts)
        away = self.away

        def take_place(fact: Fact) -> None:
            nonlocal left
            left -= 1
            if not away:
                self._inner.publish(app_id, (fact,))
            if not left:
                if away:
                    later.fail(EngineError("away"))
                else:
                    later.resolve(None)

        for fact in facts:
            queue = self._queues.setdefault(fact.channel, deque())
            queue.append(lambda fact=fact: take_place(fact))  # type: ignore[misc]
        return later

    def enter(
        self, app_id: str, channel: str, subscriber_id: str, **options: Any
    ) -> Later[Entry | Refusal]:
        return self._queue(
            channel, lambda: self._inner.enter(app_id, channel, subscriber_id, **options)
        )

    def leave(self, app_id: str, channel: str, subscriber_id: str) -> Later[Departure]:
        return self._queue(channel, lambda: self._inner.leave(app_id, channel, subscriber_id))

    def channels(self, app_id: str, prefix: str) -> Later[Listing]:
        return self._queue(ANY_CHANNEL, lambda: self._inner.channels(app_id, prefix))

    def counts(self, app_id: str, channels: Sequence[str]) -> Later[Mapping[str, Counts]]:
        return self._queue(ANY_CHANNEL, lambda: self._inner.counts(app_id, channels))

    def users(self, app_id: str, channel: str) -> Later[Sequence[str]]:
        return self._queue(channel, lambda: self._inner.users(app_id, channel))

    def cached(self, app_id: str, channel: str) -> Later[Cached | None]:
        return self._queue(channel, lambda: self._inner.cached(app_id, channel))

    def sign_in(
        self, app_id: str, user_id: str, session_id: str, watchlist: Sequence[str] = ()
    ) -> Later[SignedIn]:
        return self._queue(
            f"user {user_id}", lambda: self._inner.sign_in(app_id, user_id, session_id, watchlist)
        )

    def sign_out(self, app_id: str, user_id: str, session_id: str) -> Later[SignedOut]:
        return self._queue(
            f"user {user_id}", lambda: self._inner.sign_out(app_id, user_id, session_id)
        )

    def terminate(self, app_id: str, user_id: str) -> Later[None]:
        return self._queue(f"user {user_id}", lambda: self._inner.terminate(app_id, user_id))


def roster_of(entry: Entry | Refusal) -> list[Member]:
    assert isinstance(entry, Entry)
    return list(entry.roster)
