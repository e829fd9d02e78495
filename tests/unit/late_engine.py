"""
An engine whose answers come on later ticks, out of order across channels, or not at all.

Within a channel it keeps the contract's order; which channel goes on next is the test's choice.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from heliograph.engine.answers import (
    Counts,
    Entry,
    Gap,
    HistorySize,
    Listing,
    Mark,
    Options,
    Page,
    Published,
    Refusal,
    SignedIn,
    Since,
    Terms,
    Wants,
)
from heliograph.engine.base import PAGE_BYTES, Leaving, Local
from heliograph.engine.memory import MemoryEngine, MemorySpace
from heliograph.engine.share import Share
from heliograph.errors import Unavailable
from heliograph.hub.facts import Event, Keep, Member
from heliograph.reply import Later

T = TypeVar("T")

ANY_CHANNEL = ""


class LateEngine:
    """A MemoryEngine behind one queue for each channel; all its apps share the queues."""

    def __init__(self, inner: MemoryEngine) -> None:
        self._inner = inner
        self.queues: dict[str, deque[Callable[[], None]]] = {}
        self.away = False

    @property
    def available(self) -> bool:
        return not self.away

    async def open(self) -> None:
        await self._inner.open()

    def space(self, app_id: str, local: Local, wants: Wants) -> "LateSpace":
        return LateSpace(self, self._inner.space(app_id, local, wants))

    async def close(self, timeout_s: float) -> None:
        await self._inner.close(timeout_s)

    # -- The test's side -----------------------------------------------------------------

    @property
    def waiting(self) -> list[str]:
        """The channels that have something to answer."""
        return sorted(channel for channel, queue in self.queues.items() if queue)

    def queue(self, channel: str, operation: Callable[[], None]) -> None:
        """Have *operation* take place after those that were queued for *channel* before."""
        self.queues.setdefault(channel, deque()).append(operation)

    def step(self, channel: str) -> None:
        """Let the oldest operation on *channel* take place and be answered."""
        self.queues[channel].popleft()()

    def settle(self) -> None:
        """Let everything take place, last channel first."""
        while self.waiting:
            self.step(self.waiting[-1])


class LateSpace:
    """The space of one app; a command whose engine is away when it comes fails in its turn."""

    def __init__(self, engine: LateEngine, inner: MemorySpace) -> None:
        self._engine = engine
        self._inner = inner
        # Enters and sign-ins that were not executed yet, by subject and session.
        self._pending: dict[tuple[str, str], Callable[[], object]] = {}

    def _later(self, channel: str, operation: Callable[[], T]) -> Later[T]:
        later: Later[T] = Later()
        away = self._engine.away

        def take_place() -> None:
            if away:
                later.fail(Unavailable("away"))
            else:
                later.resolve(operation())

        self._engine.queue(channel, take_place)
        return later

    def _withdrawable(self, subject: str, session_id: str, operation: Callable[[], T]) -> Later[T]:
        """Queue an operation that `_withdraw` can take back as long as it has not taken place."""
        later: Later[T] = Later()
        away = self._engine.away
        key = subject, session_id

        def take_place() -> None:
            if self._pending.get(key) is not take_place:
                return  # withdrawn
            del self._pending[key]
            if away:
                later.fail(Unavailable("away"))
            else:
                later.resolve(operation())

        self._pending[key] = take_place
        self._engine.queue(subject, take_place)
        return later

    def _undo(self, subject: str, session_id: str, operation: Callable[[], None]) -> None:
        if self._pending.pop((subject, session_id), None) is None:
            self._engine.queue(subject, operation)
        else:
            self._engine.queue(subject, lambda: None)  # a turn for it all the same

    # -- The contract --------------------------------------------------------------------

    def available(self, channel: str) -> bool:
        return self._inner.available(channel) and not self._engine.away

    def want(self, wants: Wants) -> None:
        self._inner.want(wants)

    def publish(
        self, events: Sequence[Event], terms: Terms | None = None
    ) -> Later[Published | None]:
        if terms is not None:
            return self._publish_on(terms, events)
        later: Later[Published | None] = Later()
        left = len(events)
        away = self._engine.away

        def take_place(event: Event) -> None:
            nonlocal left
            left -= 1
            if not away:
                self._inner.publish((event,))
            if not left:
                if away:
                    later.fail(Unavailable("away"))
                else:
                    later.resolve(None)

        for event in events:
            self._engine.queue(event.channel, lambda event=event: take_place(event))  # type: ignore[misc]
        return later

    def _publish_on(self, terms: Terms, events: Sequence[Event]) -> Later[Published | None]:
        """Publish *events* in one step, in the turn of the last of their channels."""
        later: Later[Published | None] = Later()
        channels = {event.channel for event in events} or {ANY_CHANNEL}
        left = len(channels)
        away = self._engine.away

        def take_place() -> None:
            nonlocal left
            left -= 1
            if left:
                return
            if away:
                later.fail(Unavailable("away"))
            else:
                later.resolve(self._inner.publish(events, terms))

        for channel in sorted(channels):
            self._engine.queue(channel, take_place)
        return later

    def enter(
        self,
        channel: str,
        subscriber_id: str,
        options: Options,
        *,
        member: Member | None = None,
        max_members: int = 0,
        since: Since | None = None,
        numbered: bool = False,
    ) -> Later[Entry | Refusal]:
        return self._withdrawable(
            channel,
            subscriber_id,
            lambda: self._inner.enter(
                channel,
                subscriber_id,
                options,
                member=member,
                max_members=max_members,
                since=since,
                numbered=numbered,
            ),
        )

    def leave(self, channels: Iterable[Leaving], subscriber_id: str) -> None:
        for one in channels:
            leave = lambda one=one: self._inner.leave((one,), subscriber_id)  # noqa: E731
            self._undo(one[0], subscriber_id, leave)

    def sign_in(
        self, user_id: str, session_id: str, watchlist: Sequence[str] = ()
    ) -> Later[SignedIn]:
        return self._withdrawable(
            f"user {user_id}",
            session_id,
            lambda: self._inner.sign_in(user_id, session_id, watchlist),
        )

    def sign_out(self, user_id: str, session_id: str, watchlist: Sequence[str] = ()) -> None:
        self._undo(
            f"user {user_id}",
            session_id,
            lambda: self._inner.sign_out(user_id, session_id, watchlist),
        )

    def terminate(self, user_id: str) -> Later[None]:
        return self._later(f"user {user_id}", lambda: self._inner.terminate(user_id))

    def counts(self, channels: Sequence[str]) -> Later[Mapping[str, Counts]]:
        return self._later(ANY_CHANNEL, lambda: self._inner.counts(channels))

    def channels(self, prefix: str) -> Later[Listing]:
        return self._later(ANY_CHANNEL, lambda: self._inner.channels(prefix))

    def users(self, channel: str) -> Later[Sequence[str]]:
        return self._later(channel, lambda: self._inner.users(channel))

    def history(
        self,
        channel: str,
        since: Since,
        keep: Keep,
        *,
        limit: int = 0,
        max_bytes: int = PAGE_BYTES,
    ) -> Later[Page | Gap]:
        return self._later(
            channel,
            lambda: self._inner.history(channel, since, keep, limit=limit, max_bytes=max_bytes),
        )

    def history_size(self) -> HistorySize:
        return self._inner.history_size()

    def state_count(self, channel: str) -> None:
        self._engine.queue(channel, lambda: self._inner.state_count(channel))

    def settle(self, mark: Mark) -> None:
        self._inner.settle(mark)

    def share(self) -> Share:
        return self._inner.share()
