"""The linked engine of the suite itself: what the contract does not show, and what once failed."""

import asyncio
from itertools import count
from typing import ClassVar

import pytest

from heliograph.engine.answers import (
    CacheMiss,
    ChannelOccupied,
    ChannelVacated,
    Counts,
    Options,
    Reason,
    Refusal,
    Rewind,
    SignedIn,
    Wants,
)
from heliograph.engine.base import (
    ENTER_DEADLINE_S,
    LARGE_CHANNEL,
    LARGE_INTERVAL_S,
    PUBLISH_DEADLINE_S,
)
from heliograph.engine.share import Share
from heliograph.engine.testing import messages
from heliograph.engine.testing.app_state import Bounds
from heliograph.engine.testing.cluster import (
    ALL_WANTED,
    APP,
    Answer,
    Clock,
    FaultyCluster,
    LinkedCluster,
    LinkedNode,
    Node,
    Recorder,
    run_now,
)
from heliograph.engine.testing.engine import LinkedEngine
from heliograph.engine.testing.link import Link, Pace
from heliograph.engine.testing.looped import LoopedEngine
from heliograph.engine.testing.owing import OVERHEAD_BYTES, Owing
from heliograph.engine.testing.partitions import Partitions
from heliograph.engine.testing.space import MAX_WAITING, MAX_WAITING_BYTES, LinkedSpace
from heliograph.engine.testing.state import LEASE_S, SharedState
from heliograph.engine.testing.suite import (
    ANN,
    BOB,
    COUNTED,
    KEEP,
    NO_OPTIONS,
    OBSERVED,
    FaultContract,
    ask,
    cut_off,
    enter,
    event,
    goodbye,
    holders,
    leave,
    names,
    owed,
    pass_time,
    tick,
)
from heliograph.errors import EngineError, OutcomeUnknown, Unavailable
from heliograph.hub.facts import (
    Event,
    MemberAdded,
    MemberRemoved,
    SubscriptionCount,
    UserOffline,
    UserOnline,
    UserTerminated,
)


class PartitionedCluster(LinkedCluster):
    """Messages of different channels arrive in another order; a test can hold them up."""

    def __init__(self, number: int, bounds: Bounds | None = None) -> None:
        self._partitions = Partitions()
        self.held_up = False
        super().__init__(number, Pace.STEPPED, bounds=bounds, schedule=self._partitions)

    def settle(self) -> None:
        super().settle()
        while not self.held_up and self._partitions.settle():
            super().settle()


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
    node.space.leave([("q", NO_OPTIONS, None)], "s")
    goodbye(cluster, node)
    cluster.heal()
    assert not cluster.state.app(APP).registered(node.engine.node)
    assert ask(cluster, other.space.users("p")) == []


def test_a_hello_that_arrives_behind_a_goodbye_registers_nothing() -> None:
    """Broken on purpose: where a goodbye is not for good, a late hello brings the node back."""
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, node, "p", "s", member=ANN)
    cluster.state.bury(node.engine.node)
    node.link.cut()
    node.engine.tick()
    node.link.step_up()
    node.link.step_down()
    node.link.withhold()  # the complete hello

    async def close() -> None:
        closing = asyncio.ensure_future(node.engine.close(5.0))
        await asyncio.sleep(0)
        node.link.step_up()
        assert node.link.withheld == 1
        node.link.deliver_withheld()
        cluster.settle()
        await closing

    asyncio.run(close())
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
            Answer(space.enter("q", "s", NO_OPTIONS)),
            Answer(space.sign_in("ann", "s")),
        ]
        node.space.leave([("p", NO_OPTIONS, ANN)], "s")
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
        Answer(node.space.enter("chat", "s", NO_OPTIONS)),
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


def linked(node: Node) -> LinkedNode:
    """Return the same node, whose engine is a linked one."""
    assert isinstance(node, LinkedNode)
    return node


# -- Partitions ----------------------------------------------------------------------------------


class TestFaultsOverPartitions(FaultContract):
    """Faults, and messages of different channels in another order than they were sent in."""

    number: ClassVar[int] = 2

    def make(self) -> LinkedCluster:
        return PartitionedCluster(self.number)

    def make_bounded(self, bounds: Bounds) -> LinkedCluster:
        return PartitionedCluster(self.number, bounds)

    def test_a_withdrawn_enter_is_never_answered(self, cluster: FaultyCluster) -> None:
        """Nor is one whose answer was received and put off."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        for before in range(3):
            answer = Answer(node.space.enter("p", "a", NO_OPTIONS, member=ANN))
            for _ in range(before):
                node.link.step()
            node.space.leave([("p", NO_OPTIONS, ANN)], "a")
            cluster.settle()
            assert not answer.came
            assert ask(cluster, other.space.counts(["p"])) == {"p": Counts(0, 0)}


class TestFaultsOfThreeNodesOverPartitions(TestFaultsOverPartitions):
    number = 3


def test_a_refusal_that_is_not_handled_is_not_reported_as_received() -> None:
    """Broken on purpose: with numbers that count at the receipt, the refused one is counted."""
    cluster = PartitionedCluster(2)
    node, other = cluster.nodes
    enter(cluster, other, "p", "x", member=ANN, max_members=1)
    cluster.held_up = True
    refused = Answer(node.space.enter("p", "b", NO_OPTIONS, member=BOB, max_members=1))
    cluster.settle()
    entered = Answer(node.space.enter("p", "a", NO_OPTIONS, member=ANN, max_members=1))
    cluster.settle()
    cluster.held_up = False
    cluster.settle()
    assert refused.value is Refusal.FULL
    assert entered.came
    assert ask(cluster, other.space.counts(["p"])) == {"p": Counts(2, 1)}


def test_a_hello_is_without_a_refusal_that_was_put_off() -> None:
    """Broken on purpose: the state forgets refusals at a hello, and counts this one then."""
    cluster = PartitionedCluster(2)
    node, other = cluster.nodes
    enter(cluster, other, "p", "x", member=ANN, max_members=1)
    cluster.held_up = True
    refused = Answer(node.space.enter("p", "b", NO_OPTIONS, member=BOB, max_members=1))
    cluster.settle()
    node.link.cut()
    tick(cluster)
    Answer(node.space.enter("p", "a", NO_OPTIONS, member=ANN, max_members=1))
    cluster.settle()
    cluster.held_up = False
    cluster.settle()
    assert refused.value is Refusal.FULL
    assert ask(cluster, other.space.counts(["p"])) == {"p": Counts(2, 1)}


def test_a_watched_user_that_goes_offline_does_so_after_the_answer_to_a_sign_in() -> None:
    """Broken on purpose: with the answer in a partition, the notice overtakes it, and is lost."""
    cluster = PartitionedCluster(2)
    node, other = cluster.nodes
    ask(cluster, other.space.sign_in("zoe", "z"))
    cluster.held_up = True
    signed_in = Answer(node.space.sign_in("ann", "a", ["zoe"]))
    cluster.settle()
    other.space.sign_out("zoe", "z")
    cluster.settle()
    cluster.held_up = False
    cluster.settle()
    assert signed_in.value == SignedIn(frozenset(("zoe",)))
    assert [one for one in node.local.notices if one.user_id == "zoe"] == [UserOffline("zoe")]


def test_what_was_put_off_is_done_before_a_repair() -> None:
    """Broken on purpose: a welcome that overtakes it has the member added twice."""
    cluster = PartitionedCluster(2)
    node, other = cluster.nodes
    enter(cluster, node, "p", "s", member=ANN)
    node.local.calls.clear()
    cluster.held_up = True
    Answer(other.space.enter("p", "t", NO_OPTIONS, member=BOB))
    cluster.settle()
    cluster.state.bury(node.engine.node)
    for _ in range(30):
        tick(cluster)
    cluster.held_up = False
    cluster.settle()
    assert node.local.facts == [MemberAdded("p", BOB)]


# -- Outages -------------------------------------------------------------------------------------


def test_commands_that_are_overdue_make_room_for_others() -> None:
    """Broken on purpose: where they stay, every publish of a long outage fails at once."""
    cluster = make()
    node = cluster.nodes[0]
    cut_off(node)
    for _ in range(MAX_WAITING):
        node.space.publish([event("x")])
    refused = Answer(node.space.publish([event("y")]))
    assert isinstance(refused.error, Unavailable)
    pass_time(cluster, 2.1)
    waits = Answer(node.space.publish([event("z")]))
    assert not waits.came
    node.link.reachable = True
    tick(cluster)
    assert waits.came
    assert waits.error is None


def test_commands_that_wait_are_bounded_in_bytes() -> None:
    cluster = make()
    node = cluster.nodes[0]
    cut_off(node)
    large = Event("chat", "x", b"1" * (MAX_WAITING_BYTES // 2))
    first, second, small = (Answer(node.space.publish([one])) for one in (large, large, event("y")))
    assert not first.came
    assert isinstance(second.error, Unavailable)
    assert not small.came
    pass_time(cluster, 2.1)
    assert not Answer(node.space.publish([large])).came


def test_what_comes_and_goes_in_an_outage_is_forgotten() -> None:
    """Broken on purpose: names that the state never heard of are kept until the hello."""
    cluster = make()
    node = cluster.nodes[0]
    enter(cluster, node, "before", "s", NO_OPTIONS)
    ask(cluster, node.space.sign_in("before", "s", ["watched"]))
    cut_off(node)
    leave(cluster, node, "before", "s", NO_OPTIONS)
    node.space.sign_out("before", "s", ["watched"])
    for number in range(100):
        node.space.enter(f"c{number}", "s", NO_OPTIONS)
        node.space.leave([(f"c{number}", NO_OPTIONS, None)], "s")
        node.space.sign_in(f"u{number}", "s", [f"w{number}"])
        node.space.sign_out(f"u{number}", "s", [f"w{number}"])
    node.link.reachable = True
    cluster.clock.now += 0.1
    node.engine.tick()
    asserted = first_hello(node).asserted
    assert [one.channel for one in asserted.channels] == ["before"]
    assert {one.user_id for one in asserted.users} == {"before", "watched"}
    cluster.settle()
    assert ask(cluster, cluster.nodes[1].space.counts(["before"])) == {"before": Counts(0, 0)}


def test_what_the_state_has_nothing_of_is_forgotten() -> None:
    """What was left, and what was refused, is asserted no more by a hello after an interruption."""
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, other, "p", "s", member=ANN, max_members=1)
    refused = ask(cluster, node.space.enter("p", "s", NO_OPTIONS, member=BOB, max_members=1))
    assert refused is Refusal.FULL
    enter(cluster, node, "left", "s")
    leave(cluster, node, "left", "s")
    ask(cluster, node.space.sign_in("ann", "s"))
    node.space.sign_out("ann", "s")
    cluster.settle()
    cut_off(node)
    for channel, member in (("p", ANN), ("left", None)):
        node.space.enter(channel, "s", NO_OPTIONS, member=member)
        node.space.leave([(channel, NO_OPTIONS, member)], "s")
    node.space.sign_in("ann", "s")
    node.space.sign_out("ann", "s")
    node.link.reachable = True
    cluster.clock.now += 0.1
    node.engine.tick()
    asserted = first_hello(node).asserted
    assert (asserted.channels, asserted.users) == ((), ())


def first_hello(node: LinkedNode) -> messages.Hello:
    """Return the hello that is the next command of a node, and let it arrive."""
    node.link.withhold()
    ((_, command),) = node.link._withheld
    node.link.deliver_withheld()
    assert isinstance(command.body, messages.Hello)
    return command.body


# -- Owed changes --------------------------------------------------------------------------------


def test_an_enter_that_is_asserted_again_owes_one_cache_miss() -> None:
    """Broken on purpose: where the state forgets the ticket, the webhook is sent twice."""
    cluster = make()
    node = cluster.nodes[0]
    cached = Options(observed=True, keep=KEEP, cached=True)
    first = Answer(node.space.enter("c", "s", cached))
    node.link.cut(executed=1)
    tick(cluster)
    assert first.came
    assert owed(cluster) == [ChannelOccupied("c"), CacheMiss("c")]
    enter(cluster, node, "c", "t", cached)
    assert owed(cluster, CacheMiss) == [CacheMiss("c")] * 2
    pass_time(cluster, 3.0)
    assert not cluster.state.app(APP)._nodes[node.engine.node].missed


@pytest.mark.parametrize("lost", ["everything", "what followed a copy", "a channel"])
def test_a_state_that_lost_something_has_one_holder(lost: str) -> None:
    """Broken on purpose: a grant at once makes a second one beside a holder that is cut off."""
    cluster = make(3)
    (holder,) = (linked(node) for node in holders(cluster))
    other = next(node for node in cluster.nodes if node is not holder)
    snapshot = cluster.state.snapshot()
    enter(cluster, other, "a", "s", OBSERVED)
    holder.settle()
    cluster.settle()
    holder.link.reachable = False
    holder.link.frozen_up = holder.link.frozen_down = True
    match lost:
        case "everything":
            cluster.state.empty()
        case "what followed a copy":
            cluster.state.restore(snapshot)
        case _:
            cluster.state.app(APP).lose_channel("a")
    seen: set[int] = set()
    for _ in range(300):
        tick(cluster)
        holding = holders(cluster)
        assert len(holding) <= 1
        seen.update(id(one) for one in holding)
    assert len(seen) == 2
    enter(cluster, other, "b", "s", OBSERVED)
    assert ChannelOccupied("b") in owed(cluster)
    cluster.heal()
    assert len(holders(cluster)) == 1


def test_a_holder_that_lives_holds_again_when_a_part_of_the_state_was_lost() -> None:
    cluster = make()
    (holder,) = holders(cluster)
    other = next(node for node in cluster.nodes if node is not holder)
    enter(cluster, other, "a", "s", OBSERVED)
    cluster.state.app(APP).lose_channel("a")
    pass_time(cluster, 2.0)
    assert holders(cluster) == [holder]
    assert ask(cluster, other.space.counts(["a"])) == {"a": Counts(1, 0)}


def test_what_is_true_gives_no_room_for_changes_when_it_is_settled() -> None:
    """Broken on purpose: with room that is never given back, the bound grows with what was true."""
    truth = [ChannelOccupied(f"c{number}") for number in range(100)]
    owing = Owing(Texts(), lambda: truth, 4, 1_000_000)
    add(owing, 5)
    assert owing.overflowed
    marks = [one.mark for one in owing.restart()]
    assert add(owing, 1)
    owing.settle(marks[-2])  # a change of the truth remains, and one after it
    assert add(owing, 3)
    assert not add(owing, 1)
    assert owing.overflowed


def test_the_bytes_of_what_is_true_are_given_back_too() -> None:
    truth = [ChannelOccupied(f"c{number}") for number in range(100)]
    owing = Owing(Texts(), lambda: truth, 1000, 4 * OVERHEAD_BYTES)
    add(owing, 5)
    owing.settle(owing.restart()[-1].mark)
    assert add(owing, 4)
    assert not add(owing, 1)


class Texts:
    """Names of epochs."""

    def __init__(self) -> None:
        self._number = count(1)

    def new_text(self) -> str:
        return f"epoch {next(self._number)}"


def add(owing: Owing, number: int) -> bool:
    """Owe changes; return whether there was room for all of them."""
    return all(owing.add(ChannelVacated("c")) is not None for _ in range(number))


# -- The rest of what a link can do ----------------------------------------------------------------


def test_a_node_that_starts_before_the_state_can_be_reached_serves_later() -> None:
    state = SharedState(clock := Clock(), Texts().new_text)
    link = Link(state)
    link.reachable = False
    link.cut()
    engine = LinkedEngine(link, clock, "node")
    run_now(engine.open())
    local = Recorder()
    space = engine.space(APP, local, ALL_WANTED)
    with pytest.raises(AssertionError, match="has its space already"):
        engine.space(APP, local, ALL_WANTED)
    entered = Answer(space.enter("chat", "s", NO_OPTIONS))
    assert not entered.came
    link.reachable = True
    engine.tick()
    assert entered.value.count == 1
    assert engine.available
    link.reachable = False
    link.cut()
    run_now(engine.close(5.0))
    assert not engine.available


async def test_a_looped_engine_that_was_not_opened_can_be_closed() -> None:
    engine = LoopedEngine(SharedState(Clock(), Texts().new_text), Clock(), "node")
    await engine.close(1.0)
    assert not engine.available


def test_what_is_wanted_travels_with_each_command() -> None:
    """Broken on purpose: a node that keeps it to itself is owed nothing."""
    cluster = LinkedCluster(2, Pace.STEPPED, wants=Wants())
    node = cluster.nodes[0]
    enter(cluster, node, "p", "s", OBSERVED, member=ANN)
    ask(cluster, node.space.sign_in("ann", "s"))
    assert owed(cluster) == []
    node.space.want(ALL_WANTED)
    enter(cluster, node, "p", "t", OBSERVED, member=BOB)
    ask(cluster, node.space.sign_in("bob", "t"))
    assert owed(cluster) == [MemberAdded("p", BOB), UserOnline("bob")]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_scope_that_begins_from_nothing_has_only_what_is_wanted(wanted: bool) -> None:
    wants = ALL_WANTED if wanted else Wants(client_events=True)
    cluster = LinkedCluster(2, Pace.STEPPED, bounds=Bounds(owed_changes=1), wants=wants)
    node = cluster.nodes[0]
    enter(cluster, node, "unseen", "s", NO_OPTIONS)
    enter(cluster, node, "p", "s", OBSERVED, member=ANN)
    ask(cluster, node.space.sign_in("ann", "s", ["bob"]))
    for one in cluster.nodes:
        one.local.calls.clear()
    for _ in range(3):
        ask(cluster, node.space.publish([Event("p", "client-x", b"1", owed=True)]))
    truth = [ChannelOccupied("p"), MemberAdded("p", ANN), UserOnline("ann")]
    restarts = sum(len(one.local.of("restart")) for one in cluster.nodes)
    assert restarts
    states = [one for one in owed(cluster) if not isinstance(one, Event)]
    assert states == (truth * restarts if wanted else [])


def test_evicted_events_are_counted() -> None:
    cluster = LinkedCluster(1, bounds=Bounds(history_max_bytes=2500))
    node = cluster.nodes[0]
    for channel in "abc":
        ask(cluster, node.space.publish([event("x", channel, keep=KEEP)]))
    pages = [ask(cluster, node.space.history(channel, Rewind(count=1), KEEP)) for channel in "abc"]
    assert [len(page.events) for page in pages] == [0, 1, 1]
    assert cluster.state.app(APP).evicted == 1


def test_a_count_that_is_asked_for_too_early_is_announced_again() -> None:
    cluster = make()
    node, _ = large_channel(cluster)
    node.space.state_count("large")
    cluster.settle()
    assert node.local.of("count_due")[-1] == ("large", pytest.approx(LARGE_INTERVAL_S))


def test_another_node_asks_for_a_count_when_the_one_that_was_to_ask_leaves() -> None:
    """Broken on purpose: without it, the number of a channel is never stated again."""
    cluster = make()
    node, other = large_channel(cluster)
    enter(cluster, other, "large", "s", COUNTED)
    assert not other.local.of("count_due")
    leave_large(node)
    cluster.settle()
    assert not other.local.of("count_due")  # it is a small channel, whose number is stated at once
    assert other.local.facts[-1] == SubscriptionCount("large", 1)


def test_a_large_channel_whose_asker_leaves_has_another_one() -> None:
    cluster = make()
    node, other = cluster.nodes
    for number in range(LARGE_CHANNEL):
        other.space.enter("large", f"o{number}", COUNTED)
    cluster.settle()
    enter(cluster, node, "large", "a", COUNTED)
    assert [one for one, _ in node.local.of("count_due")] == ["large"]
    enter(cluster, other, "large", "late", COUNTED)
    assert not other.local.of("count_due")
    leave(cluster, node, "large", "a", COUNTED)
    assert [one for one, _ in other.local.of("count_due")] == ["large"]


def test_a_count_that_is_due_in_an_outage_is_stated_after_it() -> None:
    """Asked for while cut off, and asked for by a command that was cut off."""
    cluster = make()
    node, _ = large_channel(cluster)
    cluster.clock.now += LARGE_INTERVAL_S
    node.space.state_count("large")
    cut_off(node)
    node.space.state_count("large")
    assert SubscriptionCount("large", LARGE_CHANNEL + 1) not in node.local.facts
    node.link.reachable = True
    tick(cluster)
    assert node.local.facts[-1] == SubscriptionCount("large", LARGE_CHANNEL + 1)


def test_a_termination_that_the_log_lacks_is_lost() -> None:
    """The user was signed in elsewhere without a break: only its termination is missing."""
    cluster = LinkedCluster(2, Pace.STEPPED, bounds=Bounds(log_entries=2))
    node, other = cluster.nodes
    for one in cluster.nodes:
        ask(cluster, one.space.sign_in("ann", "s"))
        ask(cluster, one.space.sign_in("bob", "s"))
        enter(cluster, one, "chat", "s")
    cut_off(node)
    ask(cluster, other.space.terminate("ann"))
    for name in "abc":
        ask(cluster, other.space.publish([event(name)]))
    node.link.reachable = True
    tick(cluster)
    losses = {(one.reason, one.channel, one.user_id) for one in node.local.losses}
    assert losses == {(Reason.TRIMMED, "chat", None), (Reason.TRIMMED, None, "ann")}


def test_events_of_a_log_that_was_lost_are_lost() -> None:
    """Broken on purpose: a node that trusts an empty log misses the event without a loss."""
    cluster = make()
    node, other = cluster.nodes
    for one in cluster.nodes:
        enter(cluster, one, "chat", "s")
    cut_off(node)
    ask(cluster, other.space.publish([event("x")]))
    cluster.state.app(APP).lose_log()
    node.link.reachable = True
    tick(cluster)
    assert names(node) == []
    assert [(one.reason, one.channel) for one in node.local.losses] == [(Reason.TRIMMED, "chat")]
    ask(cluster, other.space.publish([event("y")]))
    assert names(node) == ["y"]


def test_a_user_that_came_online_in_an_outage_is_a_notice_after_it() -> None:
    cluster = LinkedCluster(2, Pace.STEPPED, bounds=Bounds(log_entries=1))
    node, other = cluster.nodes
    ask(cluster, node.space.sign_in("ann", "s", ["bob", "cat"]))
    ask(cluster, other.space.sign_in("cat", "s"))
    cut_off(node)
    ask(cluster, other.space.sign_in("bob", "s"))
    other.space.sign_out("cat", "s")
    cluster.settle()
    node.link.reachable = True
    node.local.calls.clear()
    tick(cluster)
    assert node.local.notices == [UserOnline("bob"), UserOffline("cat")]


def test_a_late_sign_in_is_not_counted() -> None:
    """Broken on purpose: the next one includes it, and the user would be online for ever."""
    cluster = make()
    node = cluster.nodes[0]
    late = Answer(node.space.sign_in("ann", "a", ["bob"]))
    cluster.clock.now += ENTER_DEADLINE_S
    while node.link.step_up():
        pass
    in_time = Answer(node.space.sign_in("ann", "b", ["bob"]))
    cluster.settle()
    tick(cluster)
    assert isinstance(late.error, Unavailable)
    assert in_time.value == SignedIn(frozenset())
    node.space.sign_out("ann", "b", ["bob"])
    cluster.settle()
    assert owed(cluster) == [UserOnline("ann"), UserOffline("ann")]


def test_a_refused_user_is_subtracted_from_what_is_asserted_next() -> None:
    """Broken on purpose: the second session of a refused user would be two."""
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, other, "p", "x", OBSERVED, member=ANN, max_members=1)
    answers = [
        Answer(node.space.enter("p", one, OBSERVED, member=BOB, max_members=most))
        for one, most in (("a", 1), ("b", 1), ("c", 2))
    ]
    cluster.settle()
    assert [one.value for one in answers[:2]] == [Refusal.FULL] * 2
    assert answers[2].value.count == 2
    leave(cluster, node, "p", "c", OBSERVED, BOB)
    assert ask(cluster, other.space.users("p")) == ["ann"]


def test_what_was_refused_and_put_off_is_decided_again_by_a_fresh_assertion() -> None:
    """Broken on purpose: a refusal that is subtracted twice takes a session of the user away."""
    cluster = PartitionedCluster(2)
    node, other = cluster.nodes
    enter(cluster, other, "p", "x", member=ANN, max_members=1)
    enter(cluster, other, "q", "x", member=ANN, max_members=1)
    cluster.held_up = True
    refused = [
        Answer(node.space.enter(channel, "b", NO_OPTIONS, member=BOB, max_members=1))
        for channel in "pq"
    ]
    cluster.settle()
    node.link.refusing = True
    entered = Answer(node.space.enter("p", "a", NO_OPTIONS, member=BOB, max_members=2))
    cluster.settle()
    node.link.refusing = False
    tick(cluster)
    cluster.held_up = False
    cluster.settle()
    assert [one.value for one in refused] == [Refusal.FULL] * 2
    assert entered.value.count == 2
    assert ask(cluster, other.space.counts(["p", "q"])) == {"p": Counts(2, 2), "q": Counts(1, 1)}


def test_a_late_renewal_does_not_renew_a_lease() -> None:
    """Broken on purpose: a renewal that was held up keeps a dead node alive."""
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, node, "chat", "s")
    cluster.clock.now += 2.0
    node.engine.tick()
    node.link.withhold()
    cluster.settle()
    node.stalled = True
    pass_time(cluster, LEASE_S + 0.5)
    node.link.deliver_withheld()
    pass_time(cluster, LEASE_S)
    assert ask(cluster, other.space.counts(["chat"])) == {"chat": Counts(0, 0)}


def test_a_part_that_is_missing_when_a_node_is_removed_begins_the_app_anew() -> None:
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, node, "chat", "a")
    enter(cluster, other, "chat", "b")
    cluster.state.app(APP).lose_share(node.engine.node)
    cluster.state.bury(node.engine.node)
    cluster.heal()
    assert ask(cluster, other.space.counts(["chat"])) == {"chat": Counts(2, 0)}


def test_a_node_whose_commands_are_overtaken_connects_anew() -> None:
    """The state has executed a later command of the node: another process has its name."""
    cluster = make()
    node = cluster.nodes[0]
    answer = Answer(node.space.publish([event("x")]))
    stale = messages.NotExecuted(node.link._up[0].seq, messages.Why.STALE)
    node.link.withhold()
    connection = node.link._connection
    node.engine.received(messages.Message(APP, "", 0, 0, stale))
    assert node.link._connection is not connection
    pass_time(cluster, 2.1)
    assert isinstance(answer.error, EngineError)
    assert node.engine.available


def test_a_node_that_is_not_the_holder_any_more_releases() -> None:
    """The record of the holder was lost while the holder was cut off."""
    cluster = make()
    (holder,) = (linked(node) for node in holders(cluster))
    holder.link.cut()
    cluster.state.app(APP).holder = None
    holder.local.calls.clear()
    tick(cluster)
    assert [name for name, _ in holder.local.calls] == ["release", "hold", "restart"]


def test_a_holder_that_is_granted_twice_holds_by_the_later_term() -> None:
    """It asked twice, because the answer was late."""
    cluster = make()
    (holder,) = (linked(node) for node in holders(cluster))
    holder.local.calls.clear()
    cluster.state.app(APP).take(holder.engine.node)
    cluster.settle()
    assert [name for name, _ in holder.local.calls] == ["release", "hold", "restart"]


def test_a_restart_that_reaches_no_holder_any_more_is_ignored() -> None:
    cluster = LinkedCluster(2, Pace.STEPPED, bounds=Bounds(owed_changes=1))
    (holder,) = (linked(node) for node in holders(cluster))
    other = next(node for node in cluster.nodes if node is not holder)
    holder.link.frozen_down = True
    for channel in "abc":
        other.space.enter(channel, "s", OBSERVED)
    cluster.settle()
    assert isinstance(holder.space, LinkedSpace)
    holder.space.release()
    holder.local.calls.clear()
    holder.link.frozen_down = False
    cluster.settle()
    assert holder.local.calls == []


def test_a_channel_that_is_left_while_a_repair_is_under_way_is_not_repaired() -> None:
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, other, "p", "t", member=BOB)
    enter(cluster, node, "p", "s", member=ANN)
    cluster.state.bury(node.engine.node)
    node.link.cut()
    node.engine.tick()
    while node.link.step():
        if node.link._up and getattr(node.link._up[0].body, "complete", False):
            break
    node.link.step_up()
    node.space.leave([("p", NO_OPTIONS, ANN)], "s")
    node.local.calls.clear()
    cluster.settle()
    assert (node.local.facts, node.local.losses) == ([], [])
    tick(cluster)
    assert ask(cluster, other.space.users("p")) == ["bob"]


def test_an_engine_that_is_closed_while_it_greets_says_goodbye_all_the_same() -> None:
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, node, "chat", "s")
    node.link.cut()
    node.engine.tick()
    goodbye(cluster, node)
    assert ask(cluster, other.space.counts(["chat"])) == {"chat": Counts(0, 0)}


def test_facts_of_a_channel_that_was_left_are_not_delivered() -> None:
    cluster = make()
    node, other = cluster.nodes
    enter(cluster, node, "chat", "s")
    other.space.publish([event("x")])
    other.link.move()
    node.space.leave([("chat", NO_OPTIONS, None)], "s")
    cluster.settle()
    assert node.local.facts == []


def test_an_answer_after_the_deadline_changes_nothing() -> None:
    cluster = make()
    node = cluster.nodes[0]
    answer = Answer(node.space.publish([event("x")]))
    node.link.step_up()
    cluster.clock.now += PUBLISH_DEADLINE_S
    node.engine.tick()
    assert isinstance(answer.error, OutcomeUnknown)
    cluster.settle()
    assert answer.value is None


def test_a_listing_knows_its_length() -> None:
    cluster = make()
    for channel in "abc":
        enter(cluster, cluster.nodes[0], channel, "s")
    assert len(ask(cluster, cluster.nodes[1].space.channels(""))) == 3


def test_only_questions_are_read() -> None:
    with pytest.raises(AssertionError, match="is no question"):
        make().state.app(APP).read(messages.Take())


def test_a_share_is_compared_by_what_is_wanted() -> None:
    share, same = Share(), Share()
    for one in (share, same):
        one.enter("p", ANN)
        one.sign_in("ann", ["bob"])
    assert share == same
    assert share != "a share"
    assert repr(share).startswith("Share({'p': Held(")
    same.leave("p", ANN)
    assert share != same


def test_a_scope_that_restarted_while_its_holder_was_cut_off_restarts_there() -> None:
    """Broken on purpose: the holder would go on with marks that are not of this epoch."""
    cluster = LinkedCluster(2, Pace.STEPPED, bounds=Bounds(owed_changes=1))
    (holder,) = (linked(node) for node in holders(cluster))
    other = next(node for node in cluster.nodes if node is not holder)
    cut_off(holder)
    for channel in "abc":
        enter(cluster, other, channel, "s", OBSERVED)
    leave(cluster, other, "a", "s", OBSERVED)
    holder.local.calls.clear()
    holder.link.reachable = True
    tick(cluster)
    assert [name for name, _ in holder.local.calls][:1] == ["restart"]
    changes = [one.change for one in holder.local.owed]
    assert ChannelOccupied("b") in changes
    assert ChannelOccupied("c") in changes
    assert holder.marks == [one.mark for one in cluster.state.app(APP).unsettled()]


@pytest.mark.parametrize("how", ["while it was cut off", "and was refused"])
def test_what_a_holder_settled_is_settled_later(how: str) -> None:
    """Broken on purpose: where it is not said again, the next holder reports it a second time."""
    cluster = make()
    (holder,) = (linked(node) for node in holders(cluster))
    other = next(node for node in cluster.nodes if node is not holder)
    enter(cluster, other, "a", "s", OBSERVED)
    if how == "and was refused":
        holder.link.refusing = True
        holder.settle()
        cluster.settle()
    else:
        cut_off(holder)
        holder.settle()
    assert cluster.state.app(APP).unsettled()
    holder.link.heal()
    tick(cluster)
    assert not cluster.state.app(APP).unsettled()


def test_a_refused_hello_is_followed_by_another() -> None:
    cluster = make()
    node = cluster.nodes[0]
    node.link.cut()
    node.link.refusing = True
    tick(cluster)
    assert not node.space.available("chat")
    node.link.refusing = False
    tick(cluster)
    assert node.space.available("chat")


def test_of_two_sessions_that_sign_in_the_one_that_signs_out_is_withdrawn() -> None:
    cluster = make()
    node, other = cluster.nodes
    first, second = (Answer(node.space.sign_in("ann", one)) for one in "ab")
    node.space.sign_out("ann", "b")
    cluster.settle()
    assert (first.came, second.came) == (True, False)
    node.space.sign_out("ann", "a")
    cluster.settle()
    assert owed(cluster) == [UserOnline("ann"), UserOffline("ann")]
    assert ask(cluster, other.space.terminate("ann")) is None
    assert UserTerminated("ann") not in node.local.notices


def test_the_answer_to_a_sign_in_follows_the_notices_before_it() -> None:
    """Broken on purpose: a session would be sent that a user came online that it knows of."""
    cluster = PartitionedCluster(2)
    node, other = cluster.nodes
    ask(cluster, node.space.sign_in("ann", "a", ["zoe"]))
    cluster.held_up = True
    ask(cluster, other.space.sign_in("zoe", "z"))
    assert node.local.notices == []
    assert ask(cluster, node.space.sign_in("bob", "b", ["zoe"])) == SignedIn(frozenset(("zoe",)))
    assert node.local.notices == [UserOnline("zoe")]


def test_the_answer_to_a_sign_in_does_not_hurry_other_partitions() -> None:
    cluster = PartitionedCluster(2)
    node, other = cluster.nodes
    enter(cluster, node, "chat", "s")
    cluster.held_up = True
    ask(cluster, node.space.sign_in("ann", "s"))
    other.space.publish([event("x")])
    cluster.settle()
    ask(cluster, node.space.sign_in("bob", "s"))
    assert names(node) == []
    cluster.held_up = False
    cluster.settle()
    assert names(node) == ["x"]


def test_notices_of_a_user_that_is_watched_no_more_are_not_delivered() -> None:
    cluster = make()
    node, other = cluster.nodes
    ask(cluster, node.space.sign_in("ann", "s", ["bob"]))
    other.space.sign_in("bob", "s")
    other.link.move()
    node.space.sign_out("ann", "s", ["bob"])
    cluster.settle()
    assert node.local.notices == []


def test_a_question_that_was_cut_off_is_not_asked_again_after_its_deadline() -> None:
    cluster = make()
    node = cluster.nodes[0]
    answer = Answer(node.space.users("chat"))
    cut_off(node)
    pass_time(cluster, PUBLISH_DEADLINE_S + 0.1)
    assert isinstance(answer.error, Unavailable)
    node.link.reachable = True
    tick(cluster)
    assert node.engine.available
    assert answer.value is None


def test_what_a_node_changed_itself_in_an_outage_is_repaired_once() -> None:
    """Broken on purpose: facts of its own assertion, and then the picture, would say it twice."""
    cluster = LinkedCluster(2, Pace.STEPPED, bounds=Bounds(log_entries=1))
    node, other = cluster.nodes
    for session, member in (("a", ANN), ("b", BOB)):
        enter(cluster, node, "p", session, member=member)
        ask(cluster, node.space.sign_in(member.user_id, session, ["bob"]))
    enter(cluster, other, "p", "c", member=ANN)
    cut_off(node)
    for name in "xyz":
        ask(cluster, other.space.publish([event(name, "p")]))
    node.space.leave([("p", NO_OPTIONS, BOB)], "b")
    node.space.sign_out("bob", "b", ["bob"])
    node.local.calls.clear()
    node.link.reachable = True
    tick(cluster)
    assert node.local.facts == [MemberRemoved("p", "bob")]
    assert node.local.notices == [UserOffline("bob")]


def large_channel(cluster: LinkedCluster) -> tuple[LinkedNode, LinkedNode]:
    """Have the first node enter a channel whose number is stated only from time to time."""
    node, other = cluster.nodes
    for number in range(LARGE_CHANNEL + 1):
        node.space.enter("large", f"s{number}", COUNTED)
    cluster.settle()
    return node, other


def leave_large(node: LinkedNode) -> None:
    for number in range(LARGE_CHANNEL + 1):
        node.space.leave([("large", COUNTED, None)], f"s{number}")
