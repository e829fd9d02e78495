"""
An engine for one node, over a shared state behind a link.

Keeps the node's share (its subscriptions and sessions), its received state, and its unanswered
commands. Commands are assertions of numbers, so that they can be repeated after an interruption,
executed or not. Has no timers: its owner calls `tick` about every 100 ms.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from heliograph.engine.answers import Wants
from heliograph.engine.base import ENTER_DEADLINE_S, PUBLISH_DEADLINE_S, Local
from heliograph.engine.testing import messages
from heliograph.engine.testing.space import LinkedSpace
from heliograph.engine.testing.state import LEASE_S

RENEWALS = 6
"""Renewals within the duration of a lease."""

NODE_LEVEL = ""
"""Used instead of an app's id for commands that belong to no app."""


class Wire(Protocol):
    """The connection that sends commands: see `link.Link`."""

    def connect(self, receiver: "LinkedEngine", /) -> None:
        """Reconnect; `LinkedEngine.connected` is called when there is a connection."""

    def send(self, command: messages.Command, /) -> None:
        """Send a command."""

    def close(self) -> None:
        """End the connection."""


Schedule = Callable[[str, Callable[[], None]], object]
"""Takes the name of a partition and an action on a message in it, and runs the action later."""


class LinkedEngine:
    """
    One node's engine.

    *node* is its incarnation: a text that no other node ever had. *now* reads the clock that all
    nodes and the state share. *schedule* may delay the messages of single channels, as partitions
    of a state do; it is called with the name of the channel, or for a user, with the name from
    `user_partition`.
    """

    def __init__(
        self,
        wire: Wire,
        now: Callable[[], float],
        node: str,
        *,
        lease_s: float = LEASE_S,
        publish_deadline_s: float = PUBLISH_DEADLINE_S,
        enter_deadline_s: float = ENTER_DEADLINE_S,
        schedule: Schedule | None = None,
    ) -> None:
        self.node = node
        self.now = now
        self.publish_deadline_s = publish_deadline_s
        self.enter_deadline_s = enter_deadline_s
        self.schedule = schedule
        self.is_connected = False
        self._wire = wire
        self._lease_s = lease_s
        self._spaces: dict[str, LinkedSpace] = {}
        self._lease_from: float | None = None  # when the command that renewed it last was sent
        self._renewing: list[float] = []  # when the unanswered renewals were sent
        self._renew_at = now()
        self._opened = False
        self._closing = False
        self._goodbye = asyncio.Event()  # it was answered, or will never be

    # -- The contract ------------------------------------------------------------------------

    @property
    def available(self) -> bool:
        """Whether the state of every app is available."""
        return (
            self.is_connected
            and not self._closing
            and all(space.live for space in self._spaces.values())
        )

    async def open(self) -> None:
        """Serve from now on."""
        self._opened = True
        self._wire.connect(self)

    def space(self, app_id: str, local: Local, wants: Wants) -> LinkedSpace:
        """Return the state of an app; see the contract."""
        if app_id in self._spaces:
            raise AssertionError(f"app {app_id} has its space already")
        space = self._spaces[app_id] = LinkedSpace(self, app_id, local, wants)
        if self.is_connected:
            space.connected()
        return space

    async def close(self, timeout_s: float) -> None:
        """
        Remove all data of this node from the state, then its lease; see the contract.

        From the call on, commands fail at once, so that the goodbye is the last one. Earlier
        unanswered commands fail when the goodbye is answered, or after *timeout_s*.
        """
        self._closing = True
        for space in self._spaces.values():
            space.close()
        if self.is_connected:
            self._send(messages.Goodbye())
            try:
                async with asyncio.timeout(timeout_s):
                    await self._goodbye.wait()
            except TimeoutError:
                pass  # the lease ends by itself
        self._opened = self.is_connected = False
        self._wire.close()
        for space in self._spaces.values():
            space.fail_all()

    # -- Time --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Fail overdue commands, renew the lease, and repeat refused commands, if that is due."""
        now = self.now()
        if self._lease_from is not None and now >= self._lease_from + self._lease_s:
            for space in self._spaces.values():
                space.release()
        for space in self._spaces.values():
            space.fail_overdue(now)
        if not self._opened or self._closing:
            return
        if not self.is_connected:
            self._wire.connect(self)
            return
        if any(space.stuck(now) for space in self._spaces.values()):
            self.reconnect()
            return
        renews = now >= self._renew_at
        if renews:
            self._renew(now)
        for space in self._spaces.values():
            space.repair(renews=renews)

    def _renew(self, now: float) -> None:
        self._renew_at = now + self._lease_s / RENEWALS
        self._renewing.append(now)
        self._send(messages.Renew(), now + self._lease_s)

    def renewed(self, sent_at: float) -> None:
        """Handle that a command, sent at *sent_at*, renewed the lease."""
        if self._lease_from is None or sent_at > self._lease_from:
            self._lease_from = sent_at

    # -- The connection ----------------------------------------------------------------------

    def reconnect(self) -> None:
        """Drop the connection, which lost a message or does not answer, and make a new one."""
        self.disconnected()
        if self._closing:
            self._wire.close()
        else:
            self._wire.connect(self)

    def connected(self) -> None:
        """Send a hello to the state; see `link.Receiver`."""
        self.is_connected = True
        self._renewing.clear()
        self._renew_at = self.now()
        for space in self._spaces.values():
            space.connected()

    def disconnected(self) -> None:
        """Handle a disconnection: unanswered commands may have been executed or not."""
        self.is_connected = False
        for space in self._spaces.values():
            space.disconnected()
        if self._closing:
            self._goodbye.set()

    def received(self, message: messages.Message) -> None:
        """Handle a message of the state."""
        if message.app_id == NODE_LEVEL:
            self._answered(message.body)
            return
        self._spaces[message.app_id].received(message)

    def _answered(self, body: object) -> None:
        if not self._renewing:
            self._goodbye.set()
            return
        sent_at = self._renewing.pop(0)
        if isinstance(body, messages.Done) and body.value is True:
            self.renewed(sent_at)

    def _send(self, body: messages.Body, deadline: float | None = None) -> None:
        nothing = Wants()
        self._wire.send(messages.Command(self.node, NODE_LEVEL, 0, 0, nothing, body, deadline))

    def send(self, command: messages.Command) -> None:
        """Send a command of a space."""
        self._wire.send(command)
