"""
One timer wheel for all connections.

A connection has at most one entry, in a coarse slot. Activity costs nothing here: a
connection notes the time, and when its slot comes up decides whether to be looked at
again later. The wheel turns only while somebody is on it.
"""

import asyncio
from collections import deque
from typing import Protocol

RESOLUTION_S = 0.25

FIRED_AT_ONCE = 256
"""Entries looked at before the loop turns: ten thousand that came in one second expire in one."""


class Timed(Protocol):
    """Something to be looked at later. *due* belongs to the wheel, and starts as 0."""

    due: int

    def on_timer(self, now: float) -> None:
        """Decide what the time means, and get back on the wheel where it means nothing yet."""


class Wheel:
    """Deadlines to within RESOLUTION_S, never early."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, dict[Timed, None]] = {}
        self._turned = self._tick_at(loop.time())
        self._due: deque[Timed] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._wanted_at = 0.0  # when the timer is to run
        self.late_s = 0.0
        """How much too late the last turn came, where that is more than a slot: after a stall."""

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots.values()) + len(self._due)

    def add(self, timed: Timed, delay_s: float) -> None:
        """Have *timed* looked at once in *delay_s* seconds, and not when it was due before."""
        if timed.due:
            self.discard(timed)
        if self._timer is None:
            self._turned = self._tick_at(self._loop.time())
            self._turn_later()
        # Two slots on: one because slots round down, one because a turn comes late.
        tick = int((self._loop.time() + delay_s) / RESOLUTION_S)
        timed.due = due = max(tick, self._turned) + 1
        slot = self._slots.get(due)
        if slot is None:
            slot = self._slots[due] = {}
        slot[timed] = None

    def hasten(self, timed: Timed, delay_s: float) -> None:
        """Have *timed* looked at in *delay_s* seconds at the latest."""
        # The tick of `add` at the latest; one more or less does not matter here.
        if not timed.due or timed.due > int((self._loop.time() + delay_s) / RESOLUTION_S) + 1:
            self.add(timed, delay_s)

    def discard(self, timed: Timed) -> None:
        """Forget *timed*, whether it was on the wheel or not."""
        if timed.due:
            slot = self._slots.get(timed.due)
            if slot is not None:
                slot.pop(timed, None)
                if not slot:
                    del self._slots[timed.due]
            timed.due = 0

    def replace(self, timed: Timed, successor: Timed) -> None:
        """Have *successor* looked at when *timed* was due, which is forgotten."""
        slot = self._slots.get(timed.due)
        if slot is not None and timed in slot:
            del slot[timed]
            slot[successor] = None
            successor.due = timed.due
        else:
            self.add(successor, 0)  # it was just about to be looked at
        timed.due = 0

    def stop(self) -> None:
        """Turn no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._slots.clear()
        self._due.clear()

    @staticmethod
    def _tick_at(now: float) -> int:
        return int(now / RESOLUTION_S)

    def _turn(self) -> None:
        now = self._loop.time()
        late_s = now - self._wanted_at
        self.late_s = late_s if late_s > RESOLUTION_S else 0.0
        tick = self._tick_at(now)
        for turned in range(self._turned + 1, tick + 1):
            self._due.extend(self._slots.pop(turned, ()))
        self._turned = max(tick, self._turned)
        self._timer = None
        try:
            self._on_timer()
        finally:  # a fault in one does not stop the time of all
            self._turn_on()

    def _turn_on(self) -> None:
        # Not where `_timer` was just set to None: a compiler that trusts types then believes that
        # it still is, whatever was called in between.
        if self._slots and self._timer is None:
            self._turn_later()

    def _turn_later(self) -> None:
        self._wanted_at = self._loop.time() + RESOLUTION_S
        self._timer = self._loop.call_later(RESOLUTION_S, self._turn)

    def _on_timer(self) -> None:
        now = self._loop.time()
        for _ in range(min(FIRED_AT_ONCE, len(self._due))):
            timed = self._due.popleft()
            # Whoever was taken off, or put on again, since its slot came up is not due.
            if 0 < timed.due <= self._turned:
                timed.due = 0
                timed.on_timer(now)
        if self._due:
            self._loop.call_soon(self._on_timer)
