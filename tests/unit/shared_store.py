"""A store of webhooks that several nodes share, as one beside a shared engine would be."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from heliograph.engine.answers import Mark
from heliograph.webhooks.debounce import ReportedState, Standing
from heliograph.webhooks.rows import (
    Stored,
    StoredCount,
    StoredDelivery,
    StoredEvent,
    StoredMark,
    StoredState,
)

LINGER_S = 0.02


class Disk:
    """What is kept. A write takes *latency_s*."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        self.states: dict[ReportedState, tuple[str, Standing]] = {}
        self.counts: dict[str, int] = {}
        self.marks: dict[str, Mark] = {}
        self.events: dict[int, StoredEvent] = {}
        self.deliveries: dict[str, StoredDelivery] = {}

    def read(self, app_id: str, receivers: Iterable[str]) -> Stored:
        """Return what is kept."""
        names = set(receivers)
        return Stored(
            [StoredState(app_id, state, *known) for state, known in self.states.items()],
            [StoredCount(app_id, channel, number) for channel, number in self.counts.items()],
            [StoredMark(app_id, mark) for mark in self.marks.values()],
            [one for _, one in sorted(self.events.items()) if one.receiver in names],
            [one for one in self.deliveries.values() if one.receiver in names],
        )


class SharedStore:
    """
    One node's store, of one app, on *disk*; as if it was beside the shared state.

    A group is kept as a whole or not at all: of a node of which *holds*, asked by the state, is not
    true, nothing is. *judge* is called with each event that is queued, and what it returns when
    that is kept.
    """

    lasting = True

    def __init__(
        self,
        disk: Disk,
        holds: Callable[[], bool],
        judge: Callable[[bytes], Callable[[], object]],
    ) -> None:
        self.failures = 0
        self.group = 1
        self.kept = 0
        self.dead = False
        self._disk = disk
        self._holds = holds
        self._judge = judge
        self._operations: list[Callable[[], object]] = []
        self._writing: list[Callable[[], object]] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def unwritten(self) -> int:
        """The number of operations that are not being written yet."""
        return len(self._operations)

    async def open(self, on_kept: Callable[[], object], write_all: Callable[[], object]) -> Stored:  # noqa: ARG002 - it never loses track
        """Return nothing: no app is held yet."""
        self._loop = asyncio.get_running_loop()
        self._on_kept = on_kept
        return Stored()

    async def load(self, app_id: str, receivers: Iterable[str]) -> Stored:
        """Return what is kept, after what is being written."""
        while self._writing is not None:
            await self._idle.wait()
        return self._disk.read(app_id, receivers)

    def give_up(self) -> None:
        raise AssertionError("what waits while this store loads is little")

    def abandon(self, app_id: str) -> None:  # noqa: ARG002 - there is one
        self._operations.clear()

    def mark(self, app_id: str, mark: Mark) -> None:  # noqa: ARG002 - there is one
        self._add(lambda: self._disk.marks.update({mark.scope: mark}))

    def report(self, app_id: str, state: ReportedState, scope: str, standing: Standing) -> None:  # noqa: ARG002 - there is one
        self._add(lambda: self._disk.states.update({state: (scope, standing)}))

    def retract(self, app_id: str, state: ReportedState) -> None:  # noqa: ARG002 - there is one
        self._add(lambda: self._disk.states.pop(state, None))

    def unconfirm(self, app_id: str, scope: str) -> None:  # noqa: ARG002 - there is one
        def unconfirm() -> None:
            for state, (known, _) in self._disk.states.items():
                if known == scope:
                    self._disk.states[state] = (scope, Standing.UNCONFIRMED)

        self._add(unconfirm)

    def keep_count(self, app_id: str, channel: str, count: int) -> None:  # noqa: ARG002 - there is one
        self._add(lambda: self._disk.counts.update({channel: count}))

    def drop_count(self, app_id: str, channel: str) -> None:  # noqa: ARG002 - there is one
        self._add(lambda: self._disk.counts.pop(channel, None))

    def clear(self, app_id: str, receivers: Iterable[str]) -> None:  # noqa: ARG002 - the port's
        raise AssertionError(f"app {app_id} is configured on every node, and never written anew")

    def queue(self, app_id: str, number: int, receiver: str, stream: str, text: bytes) -> None:  # noqa: ARG002 - there is one
        kept = self._judge(text)

        def queue() -> None:
            kept()
            if number in self._disk.events:
                raise AssertionError(f"the number {number} is that of another event")
            self._disk.events[number] = StoredEvent(number, receiver, stream, text, None)

        self._add(queue)

    def deliver(self, app_id: str, delivery: StoredDelivery, numbers: Sequence[int]) -> None:  # noqa: ARG002 - there is one
        def deliver() -> None:
            self._disk.deliveries[delivery.id] = delivery
            for number in numbers:
                self._disk.events[number].delivery = delivery.id

        self._add(deliver)

    def finish(self, app_id: str, delivery: str, numbers: Sequence[int]) -> None:
        self._add(lambda: self._disk.deliveries.pop(delivery, None))
        self.drop(app_id, numbers)

    def drop(self, app_id: str, numbers: Sequence[int]) -> None:  # noqa: ARG002 - there is one
        def drop() -> None:
            for number in numbers:
                self._disk.events.pop(number, None)

        self._add(drop)

    async def close(self) -> None:
        """Write what is to be written."""
        while self._operations or self._writing is not None:
            self._write()
            await self._idle.wait()

    def die(self, *, landed: bool) -> None:
        """Write nothing more; if *landed*, what is being written is kept."""
        self.dead = True
        self._operations.clear()
        writing, self._writing = self._writing, None
        if landed and writing is not None:
            self._keep(writing)

    def _add(self, operation: Callable[[], object]) -> None:
        if self.dead:
            return
        self._operations.append(operation)
        if self._timer is None and self._writing is None:
            self._timer = self._loop.call_later(LINGER_S, self._write)

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None or not self._operations or self.dead:
            return
        self._writing, self._operations = self._operations, []
        self._idle.clear()
        group, self.group = self.group, self.group + 1
        self._loop.call_later(self._disk.latency_s, self._written, group)

    def _written(self, group: int) -> None:
        writing, self._writing = self._writing, None
        self._idle.set()
        if writing is not None and self._keep(writing):
            self.kept = group
            self._write()  # what came meanwhile has waited long enough
            self._on_kept()
        elif self._operations:
            self._write()

    def _keep(self, operations: Iterable[Callable[[], object]]) -> bool:
        if not self._holds():
            return False
        for operation in operations:
            operation()
        return True
