"""
Nodes for tests: with a clock, a record of the calls on each node, and faults.

`Cluster` is the protocol that an engine's author implements for the suite. `MemoryCluster` is the
shortest implementation, and `LinkedCluster` the one over links.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any, Protocol

from heliograph.engine.answers import Lost, Mark, Owed, Wants
from heliograph.engine.base import Engine, Space
from heliograph.engine.memory import MemoryEngine
from heliograph.engine.testing.app_state import Bounds
from heliograph.engine.testing.engine import LinkedEngine, Schedule
from heliograph.engine.testing.link import Link, Pace
from heliograph.engine.testing.state import LEASE_S, SharedState, Snapshot
from heliograph.hub.facts import Fact, Notice
from heliograph.reply import Reply, proceed

APP = "1"
ALL_WANTED = Wants(
    occupancy=True, members=True, users=True, cache=True, counts=True, client_events=True
)
TICK_S = 0.1
CLOSE_S = 5.0
SETTLED_S = 3 * LEASE_S
"""Seconds without faults after which everything is repaired, and dead nodes are removed."""


def run_now(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def unix_s(self) -> float:
        """Return the seconds since 1970 that the engines read."""
        return self.now + 1_700_000_000


class Recorder:
    """A `Local` that records the calls of a space, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.holds = False

    def _note(self, name: str, what: object) -> None:
        self.calls.append((name, what))

    def deliver(self, fact: Fact, /) -> None:
        self._note("deliver", fact)

    def notice(self, notice: Notice, /) -> None:
        self._note("notice", notice)

    def count_due(self, channel: str, in_s: float, /) -> None:
        self._note("count_due", (channel, in_s))

    def lost(self, losses: Sequence[Lost], /) -> None:
        self._note("lost", tuple(losses))

    def hold(self, term: str, /) -> None:
        self.holds = True
        self._note("hold", term)

    def owe(self, changes: Sequence[Owed], /) -> None:
        if not self.holds:
            raise AssertionError("changes are owed to a node that is not the holder")
        for owed in changes:
            self._note("owe", owed)

    def restart(self, scope: str, epoch: str, /) -> None:
        self._note("restart", (scope, epoch))

    def release(self) -> None:
        self.holds = False
        self._note("release", None)

    def of(self, name: str) -> list[Any]:
        """Return the arguments of the calls with this name."""
        return [what for called, what in self.calls if called == name]

    @property
    def facts(self) -> list[Fact]:
        """All facts that were delivered."""
        return self.of("deliver")

    @property
    def notices(self) -> list[Notice]:
        """Every notice."""
        return self.of("notice")

    @property
    def losses(self) -> list[Lost]:
        """Every loss."""
        return [loss for losses in self.of("lost") for loss in losses]

    @property
    def owed(self) -> list[Owed]:
        """Every change that was owed here."""
        return self.of("owe")


class Node:
    """One node: its engine, the space of its only app, and the recorded calls."""

    def __init__(self, engine: Engine, space: Space, local: Recorder) -> None:
        self.engine = engine
        self.space = space
        self.local = local

    def settle(self) -> None:
        """Settle all changes that were owed here, as a holder does that has kept them."""
        for mark in {mark.scope: mark for mark in self.marks}.values():
            self.space.settle(mark)

    @property
    def marks(self) -> list[Mark]:
        """The marks of the changes that were owed here."""
        return [owed.mark for owed in self.local.owed]


def make_node(engine: Engine, local: Recorder | None = None, wants: Wants = ALL_WANTED) -> Node:
    """
    Return a node as the suite needs it, of an engine that was opened.

    Its only app is APP, its `Local` is a Recorder, and all changes are wanted.
    """
    if local is None:
        local = Recorder()
    return Node(engine, engine.space(APP, local, wants), local)


class Cluster(Protocol):
    """
    Nodes over one shared state, as the suite uses them.

    The engines read a clock that `elapse` moves. The clock may also run by itself, but not for
    seconds within one test.
    """

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes that live, each made by `make_node`; a node that was closed is not in it."""

    def settle(self) -> None:
        """Deliver and answer all messages in transit, without time passing."""

    def elapse(self, seconds: float) -> None:
        """Let time pass, and do everything that becomes due."""


class MemoryCluster:
    """The only node of the engine for one node."""

    def __init__(self, clock: Clock | None = None, local: Recorder | None = None) -> None:
        self.clock = clock if clock is not None else Clock()
        engine = MemoryEngine(self.clock, wall=self.clock.unix_s, epoch="an epoch")
        run_now(engine.open())
        self.nodes: Sequence[Node] = (make_node(engine, local),)

    def settle(self) -> None:
        """Do nothing: no message is ever in transit."""

    def elapse(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds


class FaultyLink(Protocol):
    """
    The link between a node and the state, with faults that a test begins and ends.

    Messages move in `Cluster.settle`, or when the test moves them; see `link.Link`.
    """

    reachable: bool
    """Whether a connection can be made."""

    frozen_up: bool
    """Nothing arrives at the state over this connection. A new connection works."""

    frozen_down: bool
    """Nothing arrives at the node over this connection. A new connection works."""

    losing_up: bool
    """Commands that are sent now are lost silently."""

    losing_down: bool
    """Messages to the node that are sent now are lost silently."""

    refusing: bool
    """Commands are answered as refused."""

    @property
    def withheld(self) -> int:
        """The number of commands that were withheld."""

    def cut(self, executed: int = 0) -> None:
        """Break the connection after the next *executed* commands, whose answers are lost."""

    def withhold(self) -> None:
        """Withhold the next command, for `deliver_withheld`."""

    def deliver_withheld(self) -> None:
        """Let the withheld commands arrive, late."""

    def step_up(self) -> bool:
        """Let the next command arrive at the state; return whether there was one."""

    def step_down(self) -> bool:
        """Let the next message arrive at the node; return whether there was one."""

    def step(self) -> bool:
        """Let the next command, or else the next message, arrive; return whether there was one."""

    def move(self) -> bool:
        """Let everything arrive; return whether there was anything."""

    def heal(self) -> None:
        """End the faults that last."""


class FaultyNode(Node):
    """A node that can fail, as `FaultContract` and `EngineMachine` need it."""

    def __init__(self, engine: Engine, space: Space, local: Recorder, link: FaultyLink) -> None:
        super().__init__(engine, space, local)
        self.link = link
        self.stalled = False
        """A stalled node does nothing until a test sets this to False, and then ticks it."""

    def tick(self) -> None:
        """Run the timers of the engine that are due, if it has any."""
        raise NotImplementedError

    def kill(self) -> None:
        """End the process of the node, which does not close its engine."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the engine, as a server does when it stops."""
        raise NotImplementedError

    def declare_dead(self) -> None:
        """Make the state remove the node, which is alive."""
        raise NotImplementedError

    def lose_share(self) -> None:
        """Make the state lose the numbers that the node has asserted, but not the totals."""
        raise NotImplementedError

    def is_holder(self) -> bool:
        """Return whether the node is the holder in the state."""
        raise NotImplementedError

    def settle_in_state(self, mark: Mark) -> None:
        """Make the state execute a settling of this node, whether it is the holder or not."""
        raise NotImplementedError


class FaultyCluster(Cluster, Protocol):
    """Nodes, links and a state with faults, as `FaultContract` and `EngineMachine` need them."""

    clock: Clock

    @property
    def nodes(self) -> Sequence[FaultyNode]:
        """The nodes that live."""

    def join(self) -> FaultyNode:
        """Add a node."""

    def tick(self) -> None:
        """Tick the nodes that are not stalled."""

    def heal(self) -> None:
        """End all faults, and let the time pass in which everything is repaired."""

    def empty(self) -> None:
        """Make the state lose everything."""

    def snapshot(self) -> object:
        """Return a copy of the state, for `restore`."""

    def restore(self, snapshot: Any) -> None:
        """Set the state back to a copy."""

    def lose_channel(self, name: str) -> None:
        """Make the state lose the record of a channel."""

    def lose_members(self, name: str) -> None:
        """Make the state lose the members of a channel."""

    def lose_log(self) -> None:
        """Make the state lose the data that it keeps for interrupted nodes."""

    def unsettled(self) -> Sequence[Owed]:
        """Return the owed changes that are not settled."""


class LinkedNode(FaultyNode):
    """A node behind a link to the state of *cluster*."""

    engine: LinkedEngine
    link: Link

    def __init__(
        self, cluster: "LinkedCluster", engine: LinkedEngine, local: Recorder, link: Link
    ) -> None:
        space = engine.space(APP, local, cluster.wants)
        super().__init__(engine, space, local, link)
        self._cluster = cluster

    def tick(self) -> None:
        """Run the timers of the engine."""
        self.engine.tick()

    def kill(self) -> None:
        """End the process of the node, which does not close its engine."""
        self._cluster.kill(self)

    async def close(self) -> None:
        """Close the engine, as a server does when it stops."""
        await self._cluster.close(self)

    def declare_dead(self) -> None:
        """Make the state remove the node, which is alive."""
        self._cluster.state.bury(self.engine.node)

    def lose_share(self) -> None:
        """Make the state lose the numbers that the node has asserted, but not the totals."""
        self._cluster.state.app(APP).lose_share(self.engine.node)

    def is_holder(self) -> bool:
        """Return whether the node is the holder in the state."""
        return self._cluster.state.app(APP).holder == self.engine.node

    def settle_in_state(self, mark: Mark) -> None:
        """Make the state execute a settling of this node, whether it is the holder or not."""
        self._cluster.state.app(APP).settle(self.engine.node, mark)


class LinkedCluster:
    """Nodes that each have a link to one state. If *pace* is STEPPED, the test moves messages."""

    def __init__(
        self,
        number: int,
        pace: Pace = Pace.AT_ONCE,
        *,
        bounds: Bounds | None = None,
        wants: Wants = ALL_WANTED,
        local: Callable[[], Recorder] = Recorder,
        schedule: Schedule | None = None,
        make_state: type[SharedState] = SharedState,
    ) -> None:
        self.clock = Clock()
        self.pace = pace
        self._texts = count(1)
        self.wants = wants
        self._local = local
        self._schedule = schedule
        self.state = make_state(self.clock, self._new_text, unix_s=self.clock.unix_s, bounds=bounds)
        self._nodes: list[LinkedNode] = []
        for _ in range(number):
            self.join()
        self.settle()

    @property
    def nodes(self) -> Sequence[LinkedNode]:
        """The nodes that live."""
        return tuple(self._nodes)

    def _new_text(self) -> str:
        return f"text {next(self._texts)}"

    def join(self) -> LinkedNode:
        """Add a node, with an incarnation that no other node had."""
        link = Link(self.state, self.pace)
        engine = LinkedEngine(link, self.clock, self._new_text(), schedule=self._schedule)
        run_now(engine.open())
        local = self._local()
        node = LinkedNode(self, engine, local, link)
        self._nodes.append(node)
        return node

    def kill(self, node: LinkedNode) -> None:
        """Kill a node: its process ends without a goodbye."""
        node.link.close()
        node.link.reachable = False
        self._nodes.remove(node)

    async def close(self, node: LinkedNode) -> None:
        """Close a node's engine as its server does when it stops."""
        closing = asyncio.ensure_future(node.engine.close(CLOSE_S))
        await asyncio.sleep(0)
        self.settle()
        await closing
        self._nodes.remove(node)

    def settle(self) -> None:
        """Move the messages of all links until none is left."""
        moved = True
        while moved:
            moved = False
            for node in self.nodes:
                moved |= not node.stalled and node.link.move()

    def elapse(self, seconds: float) -> None:
        """Let time pass, in which nodes are ticked and all links move."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now = min(until, self.clock.now + TICK_S)
            self.tick()
            self.settle()

    def tick(self) -> None:
        """Tick the nodes that are not stalled."""
        for node in self.nodes:
            if not node.stalled:
                node.engine.tick()
        if self.pace is Pace.AT_ONCE:
            self.settle()

    def heal(self) -> None:
        """End all faults, and let the time pass in which everything is repaired."""
        for node in self.nodes:
            if node.stalled:
                node.stalled = False
                node.engine.tick()
            node.link.deliver_withheld()
            node.link.heal()
        for _ in range(round(SETTLED_S / TICK_S)):
            self.settle()
            self.clock.now += TICK_S
            self.tick()
        self.settle()

    def empty(self) -> None:
        """Make the state lose everything."""
        self.state.empty()

    def snapshot(self) -> Snapshot:
        """Return a copy of the state."""
        return self.state.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Set the state back to a copy."""
        self.state.restore(snapshot)

    def lose_channel(self, name: str) -> None:
        """Make the state lose the record of a channel."""
        self.state.app(APP).lose_channel(name)

    def lose_members(self, name: str) -> None:
        """Make the state lose the members of a channel."""
        self.state.app(APP).lose_members(name)

    def lose_log(self) -> None:
        """Make the state lose its log."""
        self.state.app(APP).lose_log()

    def unsettled(self) -> Sequence[Owed]:
        """Return the owed changes that are not settled."""
        return self.state.app(APP).unsettled()


class Answer:
    """The result of a reply: none yet, a value, or an error."""

    def __init__(self, reply: Reply[Any]) -> None:
        self.value: Any = None
        self.error: Exception | None = None
        self.came = False
        proceed(reply, self._done, self._failed)

    def _done(self, value: object) -> None:
        self.came = True
        self.value = value

    def _failed(self, error: Exception) -> None:
        self.came = True
        self.error = error
