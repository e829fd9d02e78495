"""
The unsent bytes of clients that read too slowly: limited for each client, and for all together.

Only slow clients are registered, so that other clients cost nothing. Bytes are counted as the
transport counts them: in the memory of this process, after TLS encryption; bytes in the kernel's
buffers are not counted.
"""

import asyncio
import logging
from typing import Protocol

from heliograph.observe.log_throttle import Summary

logger = logging.getLogger(__name__)

BEHIND_BYTES = 16 * 1024
"""A client with this many unsent bytes is slow. Fewer bytes are neither checked nor counted."""

LEAST_ROOM_BYTES = 4096
"""The least that can be written to a client that is not behind, whatever the others leave."""

CHECK_INTERVAL_S = 0.25
"""Seconds between checks whether slow clients have caught up."""


class Behind(Protocol):
    """A client that has not read all bytes that were written to it."""

    @property
    def patient(self) -> bool:
        """Whether only the total limit applies: the client's own bytes are limited elsewhere."""

    def unread(self) -> int:
        """Return the number of unsent bytes."""

    def drop(self) -> None:
        """Abort the connection, and discard its unsent bytes."""


class Backlog:
    """
    The slow clients, and the number of unsent bytes of each.

    A client with more than *most_each* unsent bytes at two checks in a row is dropped. If all
    clients together have more than *most* unsent bytes (0: no limit), the clients with the most
    are dropped until the total is within the limit. That happens at the end of the tick, because
    the limit is usually exceeded during a flush.
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
        self._wanted_at = 0.0  # when the next check is due
        self._relieving = False
        self._summary = Summary(logger, logging.WARNING, loop.call_later)

    def __len__(self) -> int:
        return len(self._unread)

    def note(self, client: Behind, size: int) -> None:
        """Register that *client* has *size* unsent bytes."""
        self.bytes += size - self._unread.get(client, 0)
        self._unread[client] = size
        if self.bytes > self._most > 0 and not self._relieving:
            self._relieving = True
            self._loop.call_soon(self._relieve)
        if self._timer is None:
            self._wanted_at = self._loop.time() + CHECK_INTERVAL_S
            self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._on_timer)

    def forget(self, client: Behind) -> None:
        """Remove *client*, which has caught up or has disconnected."""
        self.bytes -= self._unread.pop(client, 0)
        self._over.discard(client)

    def room(self) -> int:
        """
        Return the bytes that one client may be written without need.

        An eighth of what is free for all clients; never less than LEAST_ROOM_BYTES, so that
        everybody comes to an end.
        """
        if not self._most:
            return self._most_each
        return max((self._most - self.bytes) // 8, LEAST_ROOM_BYTES)

    def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        self._timer = None
        if self._loop.time() - self._wanted_at > CHECK_INTERVAL_S:
            self._over.clear()  # after a stall: clients may have read, the server did not write
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
        """Drop the clients with the most unsent bytes until the total is within the limit."""
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
