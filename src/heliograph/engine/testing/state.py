"""
The state that all nodes share: the state of each app, and the leases of nodes.

Executes the commands of nodes, in the order in which they arrive. Knows no links; the clock is an
argument. A server, or a test, attaches nodes, and passes on their commands.
"""

import copy
from collections.abc import Callable

from heliograph.engine.testing import messages
from heliograph.engine.testing.app_state import AppState, Bounds, Damaged, Tools

LEASE_S = 10.0
"""Seconds without a renewal after which a node can be removed."""

Send = Callable[[messages.Message], object]
"""Sends a message over one connection."""


class _Lease:
    """When a lease ends, and since when it was renewed without a break."""

    def __init__(self, now: float, lease_s: float) -> None:
        self.since = now
        self.ends = now + lease_s


class Snapshot:
    """A copy of the state, as a store writes one to a disk."""

    def __init__(self, apps: dict[str, AppState], leases: dict[str, _Lease]) -> None:
        self.apps = apps
        self.leases = leases


class SharedState:
    """
    The state of all apps.

    *now* reads a clock that all nodes share. *unix_s* reads the seconds since 1970; without it,
    *now* does. *new_text* returns a new unique text for each call, for epochs and terms. A node is
    removed if it has not renewed its lease for *lease_s*, and another node has renewed its own
    without a break for as long: after an outage of all nodes, the first one that returns does not
    remove the others.
    """

    def __init__(
        self,
        now: Callable[[], float],
        new_text: Callable[[], str],
        *,
        unix_s: Callable[[], float] | None = None,
        lease_s: float = LEASE_S,
        bounds: Bounds | None = None,
    ) -> None:
        self._now = now
        self._new_text = new_text
        self._lease_s = lease_s
        self._bounds = bounds if bounds is not None else Bounds()
        self._tools = Tools(self._send, now, unix_s if unix_s is not None else now, new_text)
        self._life = new_text()
        self._grants_from = now()
        self._apps: dict[str, AppState] = {}
        self._leases: dict[str, _Lease] = {}
        self._attached: dict[str, Send] = {}

    # -- Connections -------------------------------------------------------------------------

    def attach(self, node: str, send: Send) -> None:
        """Send the inbox messages of *node* by *send*, from now on."""
        self._attached[node] = send

    def detach(self, node: str, send: Send) -> None:
        """Send *node* nothing more by *send*."""
        if self._is_attached(node, send):
            del self._attached[node]

    def _is_attached(self, node: str, send: Send) -> bool:
        return self._attached.get(node) == send  # not `is`: each access makes a new method object

    def _send(self, node: str, message: messages.Message) -> None:
        send = self._attached.get(node)
        if send is not None:
            send(message)

    # -- Commands ----------------------------------------------------------------------------

    def execute(self, command: messages.Command, answer: Send) -> None:
        """
        Execute *command*, or refuse it; *answer* sends over the connection of the command.

        A hello registers a node only if it comes from the connection over which the node's messages
        are sent. A late hello of an earlier connection, or after a goodbye, would register numbers
        that are out of date: the state of a removed node is not available for a comparison.
        """
        if isinstance(command.body, messages.Renew | messages.Goodbye):
            answer(messages.Message(command.app_id, "", 0, 0, self._execute_for_node(command)))
            return
        app = self._app(command.app_id)
        outcome: messages.Done | messages.NotExecuted
        try:
            if isinstance(command.body, messages.Hello) and not self._is_attached(
                command.node, answer
            ):
                outcome = messages.NotExecuted(command.seq, messages.Why.STALE)
            else:
                outcome = self._execute(app, command)
            app.finish()
        except Damaged:
            app = self._begin(command.app_id, app.holder)
            outcome = messages.NotExecuted(command.seq, messages.Why.UNKNOWN)
        answer(messages.Message(command.app_id, app.epoch, 0, 0, outcome))

    def _execute(
        self, app: AppState, command: messages.Command
    ) -> messages.Done | messages.NotExecuted:
        node, seq, body = command.node, command.seq, command.body
        why = self._refuses(app, command)
        if why is not None:
            return messages.NotExecuted(seq, why)
        app.check(node)
        app.wants = command.wants
        app.received(node, command.received)
        if isinstance(body, messages.Hello):
            why = app.hello(node, seq, body)
            if why is not None:
                return messages.NotExecuted(seq, why)
            self._grant_lease(node)
            return messages.Done(seq)
        return messages.Done(seq, app.execute(node, seq, body))

    def _execute_for_node(self, command: messages.Command) -> messages.Done | messages.NotExecuted:
        """Execute a command of no app; a late renewal must not keep a dead node alive."""
        if self._late(command):
            return messages.NotExecuted(command.seq, messages.Why.LATE)
        if isinstance(command.body, messages.Renew):
            return messages.Done(command.seq, self._renew(command.node))
        self._remove(command.node)
        self._attached.pop(command.node, None)  # a goodbye is final
        return messages.Done(command.seq)

    def _late(self, command: messages.Command) -> bool:
        return command.deadline is not None and self._now() >= command.deadline

    def _refuses(self, app: AppState, command: messages.Command) -> messages.Why | None:
        if self._late(command):
            return messages.Why.LATE
        if not app.fence(command.node, command.seq):
            return messages.Why.STALE
        if not app.registered(command.node) and not isinstance(command.body, messages.Hello):
            return messages.Why.UNKNOWN
        return None

    def _app(self, app_id: str) -> AppState:
        app = self._apps.get(app_id)
        if app is None or app.life != self._life:
            # Commands that were answered after the copy was written may be missing in it.
            app = self._begin(app_id)
        return app

    def _begin(self, app_id: str, holder: str | None = None) -> AppState:
        app = self._apps[app_id] = AppState(
            app_id,
            self._life,
            self._tools,
            self._bounds,
            holder=holder,
            grants_from=self._grants_from,
        )
        return app

    def _begin_life(self) -> None:
        """Grant no holder until the leases of all earlier holders have ended, so they released."""
        self._life = self._new_text()
        self._grants_from = self._now() + self._lease_s

    # -- Leases ------------------------------------------------------------------------------

    def _grant_lease(self, node: str) -> None:
        now = self._now()
        lease = self._leases.get(node)
        if lease is None or now >= lease.ends:
            self._leases[node] = _Lease(now, self._lease_s)
        else:
            lease.ends = now + self._lease_s

    def _renew(self, node: str) -> bool:
        """Renew a lease, and remove the dead; return whether there was a lease to renew."""
        if node not in self._leases:
            return False
        self._grant_lease(node)
        now = self._now()
        if now - self._leases[node].since >= self._lease_s:
            for other, lease in list(self._leases.items()):
                if now >= lease.ends:
                    self._remove(other)
        return True

    def _remove(self, node: str) -> None:
        self._leases.pop(node, None)
        for app_id in list(self._apps):
            app = self._app(app_id)
            try:
                app.unregister(node)
                app.finish()
            except Damaged:
                self._begin(app_id, app.holder)

    def bury(self, node: str) -> None:
        """Remove a node that is known to be dead, such as a process whose socket was closed."""
        self._remove(node)

    # -- The state as a whole ----------------------------------------------------------------

    def app(self, app_id: str) -> AppState:
        """Return the state of an app, as it is now."""
        return self._app(app_id)

    def empty(self) -> None:
        """Lose everything."""
        self._begin_life()
        self._apps.clear()
        self._leases.clear()

    def snapshot(self) -> Snapshot:
        """Return a copy."""
        return copy.deepcopy(Snapshot(self._apps, self._leases))

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a copy, like a store that was restarted: this is another life."""
        restored = copy.deepcopy(snapshot)
        self._begin_life()
        self._apps = restored.apps
        self._leases = restored.leases
