"""
What waits for clients that read too slowly: bounded for each, and for all of them together.

Only who is behind is here, so that everybody else costs nothing. Knows how many bytes wait, as the
transport counts them: in our memory, what TLS made of them included; not in the kernel's.
"""

import asyncio
import logging
from typing import Protocol

from heliograph.observe.log_throttle import Summary

logger = logging.getLogger(__name__)

BEHIND_BYTES = 16 * 1024
"""With so much unread a client is behind. Less is neither looked at nor counted."""

CHECK_INTERVAL_S = 0.25
"""How often it is looked whether who is behind has caught up."""


class Behind(Protocol):
    """A client that has not read what it was written."""

    @property
    def patient(self) -> bool:
        """Whether it is dropped only for the total: what it may be written is bounded elsewhere."""

    def unread(self) -> int:
        """Return the number of bytes that wait for it."""

    def drop(self) -> None:
        """End its connection at once, with what waits."""


class Backlog:
    """
    Who is behind, and how far.

    One that has more than *most_each* bytes unread at two looks in a row is dropped. When all
    together have more than *most* (0 is no bound), those with the most unread are dropped until
    they have not: at the end of the tick, because it is a flush that finds out.
    """

    __slots__ = (
        "_loop",
        "_most",
        "_most_each",
        "_over",
        "_relieving",
        "_summary",
        "_timer",
        "_unread",
        "_wanted_at",
        "bytes",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most_each: int, most: int) -> None:
        self.bytes = 0
        self._loop = loop
        self._most_each = most_each
        self._most = most
        self._unread: dict[Behind, int] = {}
        self._over: set[Behind] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wanted_at = 0.0  # when the next look is to be
        self._relieving = False
        self._summary = Summary(logger, logging.WARNING, loop.call_later)

    def __len__(self) -> int:
        return len(self._unread)

    def note(self, client: Behind, size: int) -> None:
        """Take note that *size* bytes wait for *client*."""
        self.bytes += size - self._unread.get(client, 0)
        self._unread[client] = size
        if self.bytes > self._most > 0 and not self._relieving:
            self._relieving = True
            self._loop.call_soon(self._relieve)
        if self._timer is None:
            self._wanted_at = self._loop.time() + CHECK_INTERVAL_S
            self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._on_timer)

    def forget(self, client: Behind) -> None:
        """Take *client* off, which has caught up or is gone."""
        self.bytes -= self._unread.pop(client, 0)
        self._over.discard(client)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        self._timer = None
        if self._loop.time() - self._wanted_at > CHECK_INTERVAL_S:
            self._over.clear()  # after a stall: they may have read, and we have not written
        for client in list(self._unread):
            size = client.unread()
            self.note(client, size)
            if size <= self._most_each or client.patient:
                self._over.discard(client)
            elif client in self._over:
                self._drop(client)
            else:
                self._over.add(client)

    def _relieve(self) -> None:
        """Drop those with the most unread until what is left is within bounds."""
        for client in list(self._unread):
            self.note(client, client.unread())
        for client in sorted(self._unread, key=self._unread.__getitem__, reverse=True):
            if self.bytes <= self._most:
                break
            self._drop(client)
            self._summary.note(
                "a slow client was disconnected",
                "the unsent bytes of all clients exceeded --max_total_write_buffer"
                f" ({self._most} bytes)",
            )
        self._relieving = False

    def _drop(self, client: Behind) -> None:
        self.forget(client)
        client.drop()
