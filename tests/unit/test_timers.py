"""The wheel with the timers of all connections."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from heliograph.net.timers import RESOLUTION_S, Wheel


class FakeLoop:
    """A loop whose time passes when the test says so, also while a callback runs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> None:
        self.calls.append((self.now + delay_s, callback))

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.calls.append((self.now, callback))

    def run(self, until: float) -> None:
        while self.calls and min(due for due, _ in self.calls) <= until:
            call = min(self.calls, key=lambda one: one[0])
            self.calls.remove(call)
            self.now = max(self.now, call[0])
            call[1]()
        self.now = max(self.now, until)


class Client:
    """A connection whose timer is set again each time that it fires."""

    def __init__(self, loop: FakeLoop, wheel: Wheel, *, takes_s: float = 0.0) -> None:
        self.due = 0
        self.fired: list[float] = []
        self._loop, self._wheel, self._takes_s = loop, wheel, takes_s

    def on_timer(self, now: float) -> None:
        del now
        self.fired.append(self._loop.now)
        self._loop.now += self._takes_s
        self._wheel.add(self, 0.5)


def test_a_timer_fires_although_another_one_took_longer_than_a_slot() -> None:
    """The wheel is turning then, and the slots that passed meanwhile are due."""
    loop = FakeLoop()
    wheel = Wheel(cast("asyncio.AbstractEventLoop", loop))
    slow = Client(loop, wheel, takes_s=2 * RESOLUTION_S)
    other = Client(loop, wheel)
    wheel.add(slow, 1.0)
    wheel.add(other, 1.0 + RESOLUTION_S)
    loop.run(until=103.0)
    assert len(slow.fired) >= 2
    assert len(other.fired) >= 2, "its slot was skipped"


def test_a_wheel_that_stood_still_turns_again() -> None:
    loop = FakeLoop()
    wheel = Wheel(cast("asyncio.AbstractEventLoop", loop))
    client: Any = Client(loop, wheel)
    wheel.add(client, 1.0)
    wheel.discard(client)
    loop.run(until=110.0)
    wheel.add(client, 1.0)
    loop.run(until=111.5)
    assert [round(moment, 2) for moment in client.fired[:1]] == [111.25]
