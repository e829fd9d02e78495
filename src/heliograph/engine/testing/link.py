"""
The link between one node's engine and the shared state, with the faults of a network.

Messages keep their order in each direction. They move when they are sent, when a test moves them,
or one in each turn of an event loop.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from heliograph.engine.testing import messages
from heliograph.engine.testing.state import SharedState


class Receiver(Protocol):
    """The node's end of a link."""

    node: str

    def connected(self) -> None:
        """Commands can be sent; no message of an earlier connection follows."""

    def disconnected(self) -> None:
        """The connection is broken."""

    def received(self, message: messages.Message) -> None:
        """Handle a message of the state."""


class Pace(Enum):
    """When messages move."""

    AT_ONCE = "when they are sent"
    STEPPED = "when the test says so"


class _Connection:
    """One connection; after its end, answers to its late commands are dropped."""

    def __init__(self, link: "Link") -> None:
        self._link = link

    def send(self, message: messages.Message) -> None:
        self._link.queue_down(self, message)


class Link:
    """
    A link to *state*, whose faults a test sets.

    *frozen_up* and *frozen_down* silently stop one direction of the connection; a new connection
    works. *losing_up* and *losing_down* silently lose messages that are sent in a direction. With
    *refusing*, commands are answered as refused. While it is not *reachable*, no connection is
    made. *moved* is called whenever there is a message to move, for a caller with its own pace.
    """

    def __init__(
        self,
        state: SharedState,
        pace: Pace = Pace.AT_ONCE,
        moved: Callable[[], object] | None = None,
    ) -> None:
        self.pace = pace
        self.reachable = True
        self.frozen_up = False
        self.frozen_down = False
        self.losing_up = False
        self.losing_down = False
        self.refusing = False
        self._state = state
        self._moved = moved
        self._receiver: Receiver | None = None
        self._connection: _Connection | None = None
        self._up: deque[messages.Command] = deque()
        self._down: deque[messages.Message] = deque()
        self._withheld: list[tuple[_Connection, messages.Command]] = []
        self._moving = False

    # -- The node's side ---------------------------------------------------------------------

    def connect(self, receiver: Receiver) -> None:
        """Reconnect, if the state can be reached; earlier messages in transit are lost."""
        self._disconnect()
        if not self.reachable:
            return
        self.frozen_up = self.frozen_down = False
        self._receiver = receiver
        self._connection = _Connection(self)
        self._state.attach(receiver.node, self._connection.send)
        receiver.connected()
        self._go()

    def send(self, command: messages.Command) -> None:
        """Send a command; without a connection it is lost."""
        if self._connection is not None and not self.losing_up:
            self._up.append(command)
            self._go()

    def close(self) -> None:
        """End the connection, without a call on the node."""
        self._disconnect()

    # -- The test's side ---------------------------------------------------------------------

    @property
    def under_way(self) -> tuple[int, int]:
        """The number of commands and of messages that have not arrived."""
        return len(self._up), len(self._down)

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def cut(self, executed: int = 0) -> None:
        """
        Break the connection after the state has executed the next commands in transit.

        The node does not receive their answers, nor other messages in transit to it.
        """
        receiver, connection = self._receiver, self._connection
        if connection is not None:
            for _ in range(min(executed, len(self._up))):
                self._execute(connection, self._up.popleft())
        self._disconnect()
        if receiver is not None:
            receiver.disconnected()

    def withhold(self) -> None:
        """Withhold the next command, for `deliver_withheld`."""
        if self._up and self._connection is not None:
            self._withheld.append((self._connection, self._up.popleft()))

    @property
    def withheld(self) -> int:
        """The number of commands that were withheld."""
        return len(self._withheld)

    def deliver_withheld(self) -> None:
        """Let the withheld commands arrive, late; on their own connections, if they still exist."""
        withheld, self._withheld = self._withheld, []
        for connection, command in withheld:
            self._state.execute(command, connection.send)
        self._go()

    def step_up(self) -> bool:
        """Let the next command arrive; return whether there was one."""
        connection = self._connection
        if connection is None or not self._up or self.frozen_up:
            return False
        self._execute(connection, self._up.popleft())
        return True

    def step_down(self) -> bool:
        """Let the next message arrive; return whether there was one."""
        if not self._down or self.frozen_down or self._receiver is None:
            return False
        self._receiver.received(self._down.popleft())
        return True

    def step(self) -> bool:
        """Let the next command, or else the next message, arrive; return whether there was one."""
        return self.step_up() or self.step_down()

    def move(self) -> bool:
        """Let everything arrive; return whether there was anything."""
        if self._moving:
            return False
        self._moving = True
        moved = False
        try:
            while self.step():
                moved = True
        finally:
            self._moving = False
        return moved

    def heal(self) -> None:
        """End the faults that last."""
        self.reachable = True
        self.frozen_up = self.frozen_down = self.losing_up = self.losing_down = False
        self.refusing = False
        self._go()

    def queue_down(self, connection: object, message: messages.Message) -> None:
        """Send a message of the state to the node, if *connection* is still the node's."""
        if connection is self._connection and not self.losing_down:
            self._down.append(message)
            self._go()

    # -- The rest ----------------------------------------------------------------------------

    def _execute(self, connection: _Connection, command: messages.Command) -> None:
        if self.refusing:
            refusal = messages.NotExecuted(command.seq, messages.Why.REFUSED)
            connection.send(messages.Message(command.app_id, "", 0, 0, refusal))
        else:
            self._state.execute(command, connection.send)

    def _disconnect(self) -> None:
        if self._connection is not None and self._receiver is not None:
            self._state.detach(self._receiver.node, self._connection.send)
        self._connection = None
        self._up.clear()
        self._down.clear()

    def _go(self) -> None:
        if self._moved is not None:
            self._moved()
        if self.pace is Pace.AT_ONCE:
            self.move()
