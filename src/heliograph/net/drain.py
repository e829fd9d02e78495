"""
Draining: the server asks connected clients to reconnect, a few at a time.

The close code makes clients reconnect at once, to the server that then accepts connections. If all
clients reconnected at the same moment, they would overload that server.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from heliograph.net.context import Context
from heliograph.node.dialect import Ending, Session

TURN_S = 0.05
"""Seconds between two groups of clients that are closed."""

IDLE_S = 1.0
"""Seconds of silence after which a publisher with an open connection is assumed to have no request
in flight."""

FAREWELL_S = 3.0
"""Seconds that the last connections have to close; after that the server aborts the rest."""


class Clients(Protocol):
    """The sessions of a node."""

    def sessions(self) -> list[Session]:
        """Return the sessions of all apps."""

    def close_each(self, sessions: Sequence[Session], ending: Ending, /) -> None:
        """Close *sessions*, many of them in slices."""

    def close(self, ending: Ending, then: Callable[[], object], /) -> None:
        """Close every session, many of them in slices, and call *then*."""


async def drain(
    context: Context,
    clients: Clients,
    over_s: float,
    *,
    shuffle: Callable[[list[Any]], None],
    idle_s: float = IDLE_S,
) -> None:
    """
    End every connection of a server that accepts no new ones; in-flight requests finish.

    WebSocket clients are closed with the request to reconnect, spread evenly over *over_s* in the
    order that *shuffle* makes. HTTP connections are closed after *idle_s* seconds of silence.
    Returns when all connections have ended, or at most a few seconds after *over_s*.
    """
    loop, all_closed = context.loop, context.all_closed
    context.begin_draining()
    sessions = clients.sessions()
    shuffle(sessions)
    number, began = len(sessions), loop.time()
    while not all_closed.is_set() and (elapsed := loop.time() - began) < over_s:
        due = min(number, int(number * elapsed / over_s) + 1)
        leave_now = sessions[number - due :]
        del sessions[number - due :]
        clients.close_each(leave_now, Ending.RECONNECT)
        for connection in list(context.http_connections):
            connection.close(idle_s=min(idle_s, over_s))
        await _wait(all_closed, TURN_S)
    closed = asyncio.Event()
    clients.close(Ending.RECONNECT, closed.set)
    await closed.wait()
    for connection in list(context.http_connections):
        connection.close()
    await _wait(all_closed, FAREWELL_S)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
