"""An event loop that a test turns, whose time is a clock that the test moves."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any


class _NothingToRead:
    """The selector of a loop without sockets."""

    def select(self, _timeout: float | None) -> list[object]:
        return []


class TurnedLoop(asyncio.BaseEventLoop):
    """
    The loop of one process among several; while a process is stalled, its loop is not turned.

    Has no sockets and no threads. *faults* are what callbacks and tasks raised.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self._selector = _NothingToRead()
        self.faults: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _loop, context: self.faults.append(context))

    def time(self) -> float:
        return self._now()

    def _process_events(self, events: list[object]) -> None:
        """Nothing is ever read."""

    @property
    def busy(self) -> bool:
        """Whether anything is ready, or due."""
        return bool(self._ready or (self._scheduled and self._scheduled[0].when() <= self._now()))

    def turn(self) -> bool:
        """Do everything that is ready or due; return whether there was anything."""
        if not self.busy:
            return False
        while self.busy:
            self.call_soon(self.stop)
            self.run_forever()
        return True

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task; it goes on when the loop is turned."""
        return self.create_task(coroutine)

    def end(self) -> None:
        """End the process: its tasks are cancelled, and nothing is called any more."""
        while tasks := asyncio.all_tasks(self):
            for task in tasks:
                task.cancel()
            self.call_soon(self.stop)
            self.run_forever()
        self.close()
