"""
Some nodes, and what a test needs of them: a clock, what each node was delivered, and their faults.

`Cluster` is what the suite asks of an engine's author. `MemoryCluster` is the shortest one, and
`LinkedCluster` the one over links.
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
from heliograph.engine.testing.state import LEASE_S, SharedState
from heliograph.hub.facts import Fact, Notice
from heliograph.reply import Reply, proceed

APP = "1"
ALL_WANTED = Wants(
    occupancy=True, members=True, users=True, cache=True, counts=True, client_events=True
)
TICK_S = 0.1
CLOSE_S = 5.0
SETTLED_S = 3 * LEASE_S
"""After so long without faults, everything is repaired: dead nodes and their leases included."""


def run_now(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what does not wait for anything, without an event loop."""
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


class Recorder:
    """A `Local` that notes what a space calls, in order."""

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

    def restart(self, scope: str, /) -> None:
        self._note("restart", scope)

    def release(self) -> None:
        self.holds = False
        self._note("release", None)

    def of(self, name: str) -> list[Any]:
        """Return what came by the calls of this name."""
        return [what for called, what in self.calls if called == name]

    @property
    def facts(self) -> list[Fact]:
        """Everything that was delivered."""
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
    """One node: its engine, the space of its only app, and what was called on it."""

    def __init__(self, engine: Engine, space: Space, local: Recorder) -> None:
        self.engine = engine
        self.space = space
        self.local = local

    def settle(self) -> None:
        """Settle everything that was owed here, as a holder does that keeps it."""
        for mark in {mark.scope: mark for mark in self.marks}.values():
            self.space.settle(mark)

    @property
    def marks(self) -> list[Mark]:
        """The marks of what was owed here."""
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

    The engines read time from a clock that `elapse` moves. It may run by itself, too: a test
    expects of it only that it does not run for seconds within one test.
    """

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes that live, each made by `make_node`; a node that was closed is not in it."""

    def settle(self) -> None:
        """Let everything that is under way arrive and be answered, without time passing."""

    def elapse(self, seconds: float) -> None:
        """Let time pass, and everything happen in it that is due."""


class MemoryCluster:
    """The only node of the engine that has no other."""

    def __init__(self, clock: Clock | None = None, local: Recorder | None = None) -> None:
        self.clock = clock if clock is not None else Clock()
        engine = MemoryEngine(self.clock, epoch="an epoch")
        run_now(engine.open())
        self.nodes: Sequence[Node] = (make_node(engine, local),)

    def settle(self) -> None:
        """Nothing is ever under way."""

    def elapse(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds


class LinkedNode(Node):
    """A node behind a link."""

    engine: LinkedEngine

    def __init__(self, engine: LinkedEngine, space: Space, local: Recorder, link: Link) -> None:
        super().__init__(engine, space, local)
        self.link = link
        self.stalled = False
        self.dead = False


class LinkedCluster:
    """Nodes that have a link each to one state. With a *pace* of STEPPED, the test moves them."""

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
        self._wants = wants
        self._local = local
        self._schedule = schedule
        self.state = make_state(self.clock, self._new_text, bounds=bounds)
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
        """Add a node, with an incarnation that none had."""
        link = Link(self.state, self.pace)
        engine = LinkedEngine(link, self.clock, self._new_text(), schedule=self._schedule)
        run_now(engine.open())
        local = self._local()
        node = LinkedNode(engine, engine.space(APP, local, self._wants), local, link)
        self._nodes.append(node)
        return node

    def kill(self, node: LinkedNode) -> None:
        """Kill a node: its process ends without a goodbye."""
        node.dead = True
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
        """Move all links until nothing moves any more."""
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
        """End all faults, and let pass what it takes until everything is repaired."""
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


class Answer:
    """What became of a reply: nothing yet, a value, or an error."""

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
