"""The contract of an engine: the suite that ships, over each engine and each kind of link."""

from typing import ClassVar

from heliograph.engine.memory import MemoryEngine
from heliograph.engine.testing.app_state import Bounds
from heliograph.engine.testing.cluster import (
    ALL_WANTED,
    APP,
    Clock,
    Cluster,
    LinkedCluster,
    Node,
    Recorder,
)
from heliograph.engine.testing.lanes import Lanes
from heliograph.engine.testing.link import Pace
from heliograph.engine.testing.suite import (
    EngineContract,
    FaultContract,
    SharedContract,
    goodbye,
    linked,
)


class MemoryCluster:
    """The only node of the engine that has no other."""

    def __init__(self) -> None:
        self.clock = Clock()
        engine = MemoryEngine(self.clock, epoch="an epoch")
        local = Recorder()
        self.nodes = (Node(engine, engine.space(APP, local, ALL_WANTED), local),)

    def settle(self) -> None:
        """Nothing is ever under way."""

    def elapse(self, seconds: float) -> None:
        self.clock.now += seconds


class TestMemoryEngine(EngineContract):
    def make(self) -> Cluster:
        return MemoryCluster()


class TestOneNodeOverALink(EngineContract):
    def make(self) -> Cluster:
        return LinkedCluster(1)


class TestTwoNodes(SharedContract):
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


class TestThreeNodesOverInterruptedLinks(TestThreeNodes):
    def make(self) -> Cluster:
        return InterruptedCluster(self.number, Pace.STEPPED)


class PartitionedCluster(LinkedCluster):
    """Messages of different channels arrive in another order than they were sent in."""

    def __init__(self, number: int) -> None:
        self._lanes = Lanes()
        super().__init__(number, Pace.STEPPED, schedule=self._lanes)

    def settle(self) -> None:
        super().settle()
        while self._lanes.settle():
            super().settle()


class TestThreeNodesOverPartitions(TestThreeNodes):
    def make(self) -> Cluster:
        return PartitionedCluster(self.number)


class TestFaultsOfTwoNodes(FaultContract):
    number: ClassVar[int] = 2

    def make(self) -> LinkedCluster:
        return LinkedCluster(self.number, Pace.STEPPED)

    def make_bounded(self, bounds: Bounds) -> LinkedCluster:
        return LinkedCluster(self.number, Pace.STEPPED, bounds=bounds)


class TestFaultsOfThreeNodes(TestFaultsOfTwoNodes):
    number = 3
