"""
One timer wheel for all connections.

A connection has at most one entry, in a coarse slot. Activity costs nothing here: a connection
stores the time, and when its slot is due, it decides whether it needs a new timer. The wheel only
turns while it has entries.
"""

import asyncio
from collections import deque
from typing import Protocol

RESOLUTION_S = 0.25

FIRED_AT_ONCE = 256
"""
Timers that fire before the loop turns: ten thousand connections that were opened in one second
time out in one second.
"""


class Timed(Protocol):
    """An object with a timer. *due* belongs to the wheel, and starts as 0."""

    due: int

    def on_timer(self, now: float) -> None:
        """Handle the deadlines that have passed; add itself to the wheel again for later ones."""


class Wheel:
    """Fires timers with a resolution of RESOLUTION_S, never early."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, dict[Timed, None]] = {}
        self._turned = self._tick_at(loop.time())
        self._due: deque[Timed] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._wanted_at = 0.0  # when the timer is to run
        self.late_s = 0.0
        """Delay of the last turn, if it was longer than a slot, as after a stall; else 0."""

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots.values()) + len(self._due)

    def add(self, timed: Timed, delay_s: float) -> None:
        """Set the timer of *timed* to fire in *delay_s* seconds; it replaces its earlier timer."""
        if timed.due:
            self.discard(timed)
        if self._timer is None:
            if not self._slots:
                # The wheel stood still. While it turns, no slot may be skipped: time has passed
                # since the slots of this turn were taken.
                self._turned = self._tick_at(self._loop.time())
            self._turn_later()
        # Later than the slot of the time: slots round down, and a turn runs late.
        tick = int((self._loop.time() + delay_s) / RESOLUTION_S)
        timed.due = due = max(tick, self._turned) + 1
        slot = self._slots.get(due)
        if slot is None:
            slot = self._slots[due] = {}
        slot[timed] = None

    def hasten(self, timed: Timed, delay_s: float) -> None:
        """Let the timer of *timed* fire in *delay_s* seconds at the latest."""
        # At the latest in the slot that `add` would use; a slot more or less does not matter here.
        if not timed.due or timed.due > int((self._loop.time() + delay_s) / RESOLUTION_S) + 1:
            self.add(timed, delay_s)

    def discard(self, timed: Timed) -> None:
        """Remove *timed*, if it is on the wheel."""
        if timed.due:
            slot = self._slots.get(timed.due)
            if slot is not None:
                slot.pop(timed, None)
                if not slot:
                    del self._slots[timed.due]
            timed.due = 0

    def replace(self, timed: Timed, successor: Timed) -> None:
        """Give the timer of *timed* to *successor*, and remove *timed*."""
        slot = self._slots.get(timed.due)
        if slot is not None and timed in slot:
            del slot[timed]
            slot[successor] = None
            successor.due = timed.due
        else:
            self.add(successor, 0)  # its timer was about to fire
        timed.due = 0

    def stop(self) -> None:
        """Stop the wheel, and remove all timers."""
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
            self._fire()
        finally:  # an exception in one does not stop the wheel
            self._turn_on()

    def _turn_on(self) -> None:
        # A method of its own: after `_timer = None`, a compiler that trusts types assumes that it
        # is still None, although a call in between may have set it.
        if self._slots and self._timer is None:
            self._turn_later()

    def _turn_later(self) -> None:
        self._wanted_at = self._loop.time() + RESOLUTION_S
        self._timer = self._loop.call_later(RESOLUTION_S, self._turn)

    def _fire(self) -> None:
        now = self._loop.time()
        for _ in range(min(FIRED_AT_ONCE, len(self._due))):
            timed = self._due.popleft()
            # A timer that was removed or set again since its slot was due does not fire.
            if 0 < timed.due <= self._turned:
                timed.due = 0
                timed.on_timer(now)
        if self._due:
            self._loop.call_soon(self._fire)
