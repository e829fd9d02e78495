"""
A linked engine that runs on an event loop, for servers of tests.

Each turn of the loop moves one message of its link, so that no command is answered in the turn in
which it was sent.
"""

import asyncio
from collections.abc import Callable

from heliograph.engine.testing.engine import LinkedEngine, Schedule
from heliograph.engine.testing.link import Link, Pace
from heliograph.engine.testing.state import SharedState

TICK_S = 0.1


class LoopedEngine(LinkedEngine):
    """
    A node's engine over its own link to *state*, between `open` and `close`.

    A test can set faults on *link*.
    """

    def __init__(
        self,
        state: SharedState,
        now: Callable[[], float],
        node: str,
        *,
        schedule: Schedule | None = None,
    ) -> None:
        self.link = Link(state, Pace.STEPPED, self._moved)
        super().__init__(self.link, now, node, schedule=schedule)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stepping = False

    async def open(self) -> None:
        """Serve, and begin to run."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(TICK_S, self._on_timer)
        await super().open()

    async def close(self, timeout_s: float) -> None:
        """Send a goodbye, then stop running."""
        await super().close(timeout_s)
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None

    def _on_timer(self) -> None:
        self.tick()
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._on_timer)

    def _moved(self) -> None:
        if not self._stepping and self._loop is not None:
            self._stepping = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._stepping = False
        if self.link.step():
            self._moved()
