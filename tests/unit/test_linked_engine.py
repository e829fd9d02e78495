"""The linked engine of the suite itself: what the contract does not show, and what once failed."""

import asyncio

from heliograph.engine.answers import Counts
from heliograph.engine.testing.cluster import APP, Answer, LinkedCluster
from heliograph.engine.testing.link import Pace
from heliograph.engine.testing.suite import (
    ANN,
    BOB,
    PLAIN,
    ask,
    enter,
    event,
    goodbye,
    holders,
    leave,
    linked,
    names,
    tick,
)
from heliograph.errors import OutcomeUnknown, Unavailable


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


# -- Closing -----------------------------------------------------------------------------------


def test_a_goodbye_is_the_last_command_of_a_node_that_the_state_does_not_know() -> None:
    """Broken on purpose: with a hello for the leave that is not executed, the node is back."""
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, node, "p", "s", member=ANN)
    enter(cluster, node, "q", "s")
    cluster.state.empty()
    node.space.leave([("q", PLAIN, None)], "s")
    goodbye(cluster, node)
    cluster.heal()
    assert not cluster.state.app(APP).registered(node.engine.node)
    assert ask(cluster, other.space.users("p")) == []


def test_no_command_follows_a_goodbye() -> None:
    """Broken on purpose: with commands that are sent while it is under way, a hello follows it."""
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, node, "p", "s", member=ANN)
    enter(cluster, other, "p", "t", member=BOB)

    async def close() -> list[Answer]:
        closing = asyncio.ensure_future(node.engine.close(5.0))
        await asyncio.sleep(0)
        space = node.space
        answers = [
            Answer(space.publish([event("x", "p")])),
            Answer(space.counts(["p"])),
            Answer(space.enter("q", "s", PLAIN)),
            Answer(space.sign_in("ann", "s")),
        ]
        node.space.leave([("p", PLAIN, ANN)], "s")
        assert not space.available("p")
        assert not node.engine.available
        cluster.settle()
        await closing
        return answers

    answers = asyncio.run(close())
    assert [type(one.error) for one in answers] == [Unavailable] * 4
    cluster.settle()
    assert not cluster.state.app(APP).registered(node.engine.node)
    assert ask(cluster, other.space.users("p")) == ["bob"]
    assert node.space.share() == type(node.space.share())()


def test_what_is_unanswered_when_an_engine_is_closed_fails() -> None:
    """Broken on purpose: without `fail_all`, neither client nor publisher is ever answered."""
    cluster = make()
    node = cluster.nodes[0]
    node.link.frozen_up = True
    answers = [
        Answer(node.space.publish([event("x")])),
        Answer(node.space.enter("chat", "s", PLAIN)),
        Answer(node.space.sign_in("ann", "s")),
        Answer(node.space.users("chat")),
    ]
    asyncio.run(node.engine.close(0.01))
    errors = [type(one.error) for one in answers]
    assert errors == [OutcomeUnknown, Unavailable, Unavailable, Unavailable]
    late = Answer(node.space.publish([event("y")]))
    assert isinstance(late.error, Unavailable)


def test_what_was_sent_before_a_goodbye_is_answered() -> None:
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, other, "chat", "s")
    published = Answer(node.space.publish([event("x")]))
    goodbye(cluster, node)
    assert published.came
    assert published.error is None
    assert names(other) == ["x"]


def test_a_close_ends_at_once_when_the_connection_breaks() -> None:
    """Broken on purpose: an engine that waits for the answer takes the whole time-out."""
    cluster = make()
    node = cluster.nodes[0]
    enter(cluster, node, "chat", "s")

    async def close() -> None:
        closing = asyncio.ensure_future(node.engine.close(3600.0))
        await asyncio.sleep(0)
        node.link.cut()
        await closing

    asyncio.run(close())
    assert not node.link.connected


def test_an_engine_that_is_closed_does_not_connect_again() -> None:
    """An answer that was lost makes a connection useless: it is given up, and no other is made."""
    cluster = make()
    node = cluster.nodes[0]

    async def close() -> None:
        node.space.users("chat")
        node.space.users("chat")
        closing = asyncio.ensure_future(node.engine.close(3600.0))
        await asyncio.sleep(0)
        node.link.withhold()
        cluster.settle()
        await closing

    asyncio.run(close())
    node.engine.tick()
    assert not node.link.connected


def test_a_node_that_says_goodbye_is_not_granted_the_changes() -> None:
    """Broken on purpose: a grant that was under way makes a node the holder that is gone."""
    cluster = make()
    (holder,) = holders(cluster)
    (other,) = (linked(node) for node in cluster.nodes if node is not holder)
    cluster.kill(linked(holder))
    cluster.state.bury(linked(holder).engine.node)
    other.link.frozen_down = True
    cluster.clock.now += 2.0
    cluster.tick()
    cluster.settle()
    assert cluster.state.app(APP).holder == other.engine.node

    async def close() -> None:
        closing = asyncio.ensure_future(other.engine.close(5.0))
        await asyncio.sleep(0)
        other.link.frozen_down = False
        cluster.settle()
        await closing

    asyncio.run(close())
    assert not other.local.holds
    assert "hold" not in [name for name, _ in other.local.calls]
