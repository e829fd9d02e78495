"""The contract of an engine: the suite that ships, over each engine and each kind of link."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from heliograph.engine.answers import Mark, Owed
from heliograph.engine.memory import MemoryEngine
from heliograph.engine.testing.app_state import Bounds
from heliograph.engine.testing.cluster import (
    APP,
    Clock,
    Cluster,
    LinkedCluster,
    MemoryCluster,
    Node,
    Recorder,
    make_node,
)
from heliograph.engine.testing.history_suite import (
    BoundedHistoryContract,
    FaultHistoryContract,
    HistoryContract,
    SharedHistoryContract,
)
from heliograph.engine.testing.link import Pace
from heliograph.engine.testing.messages import Assert, Command, Message, NotExecuted, Why
from heliograph.engine.testing.partitions import Partitions
from heliograph.engine.testing.state import Send, SharedState
from heliograph.engine.testing.suite import (
    EngineContract,
    FaultContract,
    SharedContract,
    goodbye,
    linked,
)
from heliograph.hub.facts import UserOffline, UserOnline


class TestMemoryEngine(EngineContract, HistoryContract):
    def make(self) -> Cluster:
        return MemoryCluster()


class SmallMemoryCluster(MemoryCluster):
    """The engine for one node, with little memory for history."""

    def __init__(self, max_bytes: int, evicted: Callable[[str, int], object]) -> None:
        self.clock = Clock()
        engine = MemoryEngine(
            self.clock,
            wall=self.clock.unix_s,
            epoch="an epoch",
            evicted=evicted,
            history_max_bytes=max_bytes,
        )
        self.nodes = (make_node(engine),)


class TestMemoryEngineWithLittleMemory(BoundedHistoryContract):
    def make_small(self, max_bytes: int) -> Cluster:
        self.counted = 0
        return SmallMemoryCluster(max_bytes, self.count)

    def count(self, _app_id: str, number: int) -> None:
        self.counted += number

    def evicted(self, _cluster: Cluster) -> int | None:
        return self.counted


class RunningClock(Clock):
    """A clock that runs on whenever it is read, as a real one does."""

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


class TestAnEngineWhoseClockRuns(EngineContract, HistoryContract):
    def make(self) -> Cluster:
        return MemoryCluster(RunningClock())


class ScopedRecorder(Recorder):
    """What is owed by an engine that numbers the changes of some channels and users separately."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: Counter[str] = Counter()

    def owe(self, changes: Sequence[Owed], /) -> None:
        super().owe([Owed(one.change, self._mark(one)) for one in changes])

    @property
    def owed(self) -> list[Owed]:
        """One scope after the other: between scopes, changes have no order."""
        return sorted(super().owed, key=lambda one: one.mark.scope)

    def _mark(self, owed: Owed) -> Mark:
        change = owed.change
        name = change.user_id if isinstance(change, UserOnline | UserOffline) else change.channel
        scope = f"scope {len(name) + ord(name[0]) & 3}"
        self._numbers[scope] += 1
        return Mark(scope, owed.mark.epoch, self._numbers[scope])


class TestAnEngineWithSeveralScopes(EngineContract, HistoryContract):
    def make(self) -> Cluster:
        return MemoryCluster(local=ScopedRecorder())


class TestOneNodeOverALink(EngineContract, HistoryContract):
    def make(self) -> Cluster:
        return LinkedCluster(1)


class TestTwoNodes(SharedContract, SharedHistoryContract):
    number: ClassVar[int] = 2
    pace: ClassVar[Pace] = Pace.AT_ONCE

    def make(self) -> Cluster:
        return LinkedCluster(self.number, self.pace)

    def close(self, cluster: Cluster, node: Node) -> None:
        assert isinstance(cluster, LinkedCluster)
        goodbye(cluster, linked(node))


class TestThreeNodes(TestTwoNodes):
    number = 3


class TestTwoNodesOverLateLinks(TestTwoNodes):
    pace = Pace.STEPPED


class TestThreeNodesOverLateLinks(TestThreeNodes):
    pace = Pace.STEPPED


class InterruptedCluster(LinkedCluster):
    """Every link is cut, and made anew, whenever nothing is under way."""

    def settle(self) -> None:
        super().settle()
        for node in self.nodes:
            node.link.cut()
            node.engine.tick()
            super().settle()


class TestTwoNodesOverInterruptedLinks(TestTwoNodes):
    def make(self) -> Cluster:
        return InterruptedCluster(self.number, Pace.STEPPED)


class TestThreeNodesOverInterruptedLinks(TestTwoNodesOverInterruptedLinks):
    number = 3


class LossyCluster(InterruptedCluster):
    """A link on which no command is under way loses what it carries to its node."""

    fault: ClassVar[str] = "losing_down"

    def settle(self) -> None:
        for node in self.nodes:
            commands, _ = node.link.under_way
            setattr(node.link, self.fault, not commands)
        LinkedCluster.settle(self)
        for node in self.nodes:
            setattr(node.link, self.fault, False)
            node.link.cut()
        super().settle()


class FrozenCluster(LossyCluster):
    """A link on which no command is under way carries nothing to its node."""

    fault = "frozen_down"


class TestTwoNodesOverLossyLinks(TestTwoNodes):
    def make(self) -> Cluster:
        return LossyCluster(self.number, Pace.STEPPED)


class TestThreeNodesOverLossyLinks(TestTwoNodesOverLossyLinks):
    number = 3


class TestTwoNodesOverFrozenLinks(TestTwoNodes):
    def make(self) -> Cluster:
        return FrozenCluster(self.number, Pace.STEPPED)


class TestThreeNodesOverFrozenLinks(TestTwoNodesOverFrozenLinks):
    number = 3


class RefusingState(SharedState):
    """Refuses each assertion once: nodes repeat it with what is true then."""

    def execute(self, command: Command, answer: Send) -> None:
        if isinstance(command.body, Assert) and not command.body.fresh:
            refused = NotExecuted(command.seq, Why.REFUSED)
            answer(Message(command.app_id, "", 0, 0, refused))
        else:
            super().execute(command, answer)


class RepairingCluster(LinkedCluster):
    """Nodes are ticked whenever nothing is under way."""

    def settle(self) -> None:
        super().settle()
        for node in self.nodes:
            node.engine.tick()
        super().settle()


class TestTwoNodesThatAreRefused(TestTwoNodes):
    def make(self) -> Cluster:
        return RepairingCluster(self.number, Pace.STEPPED, make_state=RefusingState)


class TestThreeNodesThatAreRefused(TestTwoNodesThatAreRefused):
    number = 3


class DelayingState(SharedState):
    """Executes each assertion late: after the node gave its connection up, and made another."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.late: list[tuple[Command, Send]] = []

    def execute(self, command: Command, answer: Send) -> None:
        if isinstance(command.body, Assert) and not command.body.fresh:
            self.late.append((command, answer))
        else:
            super().execute(command, answer)

    def execute_late(self) -> None:
        late, self.late = self.late, []
        for command, answer in late:
            super().execute(command, answer)


class DelayingCluster(InterruptedCluster):
    """Links are cut while assertions are under way, which arrive after the next hello."""

    def settle(self) -> None:
        super().settle()
        assert isinstance(self.state, DelayingState)
        self.state.execute_late()
        super().settle()


class TestTwoNodesWithLateCommands(TestTwoNodes):
    def make(self) -> Cluster:
        return DelayingCluster(self.number, Pace.STEPPED, make_state=DelayingState)


class TestThreeNodesWithLateCommands(TestTwoNodesWithLateCommands):
    number = 3


class PartitionedCluster(LinkedCluster):
    """Messages of different channels arrive in another order than they were sent in."""

    def __init__(self, number: int) -> None:
        self._partitions = Partitions()
        super().__init__(number, Pace.STEPPED, schedule=self._partitions)

    def settle(self) -> None:
        super().settle()
        while self._partitions.settle():
            super().settle()


class TestTwoNodesOverPartitions(TestTwoNodes):
    def make(self) -> Cluster:
        return PartitionedCluster(self.number)


class TestThreeNodesOverPartitions(TestTwoNodesOverPartitions):
    number = 3


class TestFaultsOfTwoNodes(FaultContract, FaultHistoryContract):
    number: ClassVar[int] = 2

    def make(self) -> LinkedCluster:
        return LinkedCluster(self.number, Pace.STEPPED)

    def make_bounded(self, bounds: Bounds) -> LinkedCluster:
        return LinkedCluster(self.number, Pace.STEPPED, bounds=bounds)


class TestFaultsOfThreeNodes(TestFaultsOfTwoNodes):
    number = 3


class TestTwoNodesWithLittleMemory(BoundedHistoryContract):
    number: ClassVar[int] = 2

    def make_small(self, max_bytes: int) -> LinkedCluster:
        bounds = Bounds(history_max_bytes=max_bytes)
        return LinkedCluster(self.number, Pace.STEPPED, bounds=bounds)

    def evicted(self, cluster: Cluster) -> int | None:
        assert isinstance(cluster, LinkedCluster)
        return cluster.state.app(APP).evicted


class TestThreeNodesWithLittleMemory(TestTwoNodesWithLittleMemory):
    number = 3
