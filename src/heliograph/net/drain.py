"""
Leaving: those who are connected are told to, a few at a time.

What they are told makes clients come back at once, to whoever serves by then. All at the same
moment would be more than any server likes.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from heliograph.net.context import Context
from heliograph.node.dialect import Ending, Session

TURN_S = 0.05
"""How often the next few are told."""

IDLE_S = 1.0
"""Silence after which a publisher that keeps its connection open is taken to have no request
on its way to us."""

FAREWELL_S = 3.0
"""How long the last ones have to take their leave; the rest is cut off."""


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

    WebSocket clients are told to reconnect, spread evenly over *over_s* in the order that
    *shuffle* makes. HTTP connections are closed when they have been silent for *idle_s* seconds.
    Returns when all are gone, a few seconds later at the most.
    """
    loop, gone = context.loop, context.all_closed
    context.begin_draining()
    sessions = clients.sessions()
    shuffle(sessions)
    number, began = len(sessions), loop.time()
    while not gone.is_set() and (elapsed := loop.time() - began) < over_s:
        due = min(number, int(number * elapsed / over_s) + 1)
        leave_now = sessions[number - due :]
        del sessions[number - due :]
        clients.close_each(leave_now, Ending.RECONNECT)
        for connection in list(context.http_connections):
            connection.close(idle_s=min(idle_s, over_s))
        await _wait(gone, TURN_S)
    closed = asyncio.Event()
    clients.close(Ending.RECONNECT, closed.set)
    await closed.wait()
    for connection in list(context.http_connections):
        connection.close()
    await _wait(gone, FAREWELL_S)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
