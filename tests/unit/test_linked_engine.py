"""The linked engine of the suite itself: what the contract does not show, and what once failed."""

from heliograph.engine.answers import Counts
from heliograph.engine.testing.cluster import APP, LinkedCluster
from heliograph.engine.testing.link import Pace
from heliograph.engine.testing.suite import (
    ask,
    enter,
    event,
    leave,
    names,
    tick,
)


def make(number: int = 2) -> LinkedCluster:
    """Return a cluster whose messages a test moves."""
    return LinkedCluster(number, Pace.STEPPED)


# -- Registration ------------------------------------------------------------------------------


def test_a_late_hello_of_an_old_connection_does_not_register_a_removed_node() -> None:
    """Broken on purpose: with hellos of any connection, node and state differ for ever."""
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, node, "a", "s")
    cluster.state.bury(node.engine.node)
    node.space.counts(["a"])
    while node.link.step_up():
        pass
    while node.link.step_down():
        pass
    node.link.withhold()  # the complete hello, with one subscription of "a"
    assert node.link.withheld == 1
    node.link.cut()
    tick(cluster)
    enter(cluster, node, "b", "s")
    leave(cluster, node, "a", "s")
    cluster.state.bury(node.engine.node)
    node.link.deliver_withheld()
    assert not cluster.state.app(APP).registered(node.engine.node)
    cluster.settle()
    cluster.heal()
    assert ask(cluster, other.space.counts(["a", "b"])) == {"a": Counts(0, 0), "b": Counts(1, 0)}
    ask(cluster, other.space.publish([event("x", "b")]))
    assert names(node, "b") == ["x"]
