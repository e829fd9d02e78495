"""What the engine of one process keeps, and for how long. Its contract is in `test_engine.py`."""

import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine.answers import NOTHING_WANTED, Lost, Options, Owed
from heliograph.engine.base import LARGE_CHANNEL
from heliograph.engine.memory import KEPT_OVERHEAD_BYTES, MemoryEngine, MemorySpace
from heliograph.hub.facts import Event, Fact, Keep, Member, Notice, SubscriptionCount

TTL_S = 10.0
KEEP = Keep(1, TTL_S)
PLAIN = Options()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Silent:
    """A node that remembers the counts that are stated, and when they are due."""

    def __init__(self) -> None:
        self.counts: list[SubscriptionCount] = []
        self.due: list[tuple[str, float]] = []

    def deliver(self, fact: Fact, /) -> None:
        if isinstance(fact, SubscriptionCount):
            self.counts.append(fact)

    def notice(self, notice: Notice, /) -> None: ...

    def count_due(self, channel: str, in_s: float, /) -> None:
        self.due.append((channel, in_s))

    def lost(self, losses: Sequence[Lost], /) -> None: ...

    def hold(self, term: str, /) -> None: ...

    def owe(self, changes: Sequence[Owed], /) -> None: ...

    def restart(self, scope: str, epoch: str, /) -> None: ...

    def release(self) -> None: ...


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node() -> Silent:
    return Silent()


@pytest.fixture
def space(clock: Clock, node: Silent) -> MemorySpace:
    return MemoryEngine(clock, epoch="e").space("1", node, NOTHING_WANTED)


def put(space: MemorySpace, channel: str, name: str = "n", data: bytes = b'"{}"') -> None:
    space.publish([Event(channel, name, data, keep=KEEP)])


def kept(space: MemorySpace) -> list[str]:
    """The channels whose events are in memory, expired or not."""
    return sorted(space._kept._entries)


def test_an_event_is_kept_for_its_time_and_no_longer(space: MemorySpace, clock: Clock) -> None:
    put(space, "cache-c")
    for passed, left in ((0.0, 10.0), (9.5, 0.5)):
        clock.now = 1000.0 + passed
        found = space.kept("cache-c")
        assert found is not None
        assert found.ttl_s == left
    clock.now = 1010.0
    assert space.kept("cache-c") is None
    assert kept(space) == []


def test_an_event_that_is_replaced_expires_by_its_own_time(
    space: MemorySpace, clock: Clock
) -> None:
    """Also where others were kept in between, which expire before it."""
    put(space, "cache-a")
    clock.now += 5
    put(space, "cache-b")
    clock.now += 3
    put(space, "cache-a", "new")
    clock.now = 1016.0
    assert space.kept("cache-b") is None
    found = space.kept("cache-a")
    assert found is not None
    assert (found.event.name, found.ttl_s) == ("new", 2.0)


def test_an_event_that_is_kept_for_less_than_those_before_it_expires_all_the_same(
    space: MemorySpace, clock: Clock
) -> None:
    put(space, "cache-a")
    space.publish([Event("cache-b", "n", b'"{}"', keep=Keep(1, 1.0))])
    clock.now += 2
    assert space.kept("cache-b") is None
    assert space.kept("cache-a") is not None


def test_what_has_expired_is_let_go_when_more_is_kept(space: MemorySpace, clock: Clock) -> None:
    """Nobody need ask for it."""
    for number in range(10):
        put(space, f"cache-{number}")
        clock.now += 1
    assert len(kept(space)) == 10
    clock.now += 4.5
    put(space, "cache-new")
    assert kept(space) == [*(f"cache-{number}" for number in range(5, 10)), "cache-new"]


def test_only_events_that_ask_for_it_are_kept(space: MemorySpace) -> None:
    space.publish([Event("c", "n", b'"{}"')])
    assert space.kept("c") is None


def test_more_than_one_event_of_a_channel_is_not_kept_yet(space: MemorySpace) -> None:
    with pytest.raises(AssertionError):
        space.publish([Event("c", "n", b'"{}"', keep=Keep(2, TTL_S))])


def test_an_engine_in_this_process_is_available(space: MemorySpace, clock: Clock) -> None:
    assert space.available("c")
    assert MemoryEngine(clock, epoch="e").available


def test_an_app_has_its_space_once(clock: Clock, node: Silent) -> None:
    engine = MemoryEngine(clock, epoch="e")
    engine.space("1", node, NOTHING_WANTED)
    with pytest.raises(AssertionError, match="has its space already"):
        engine.space("1", node, NOTHING_WANTED)


def test_a_channel_that_all_have_left_holds_nothing(space: MemorySpace) -> None:
    members = [Member(str(number % 2), None) for number in range(3)]
    for number, member in enumerate(members):
        space.enter("presence-c", str(number), PLAIN, member=member)
    assert space.users("presence-c") == ["0", "1"]
    for number, member in enumerate(members):
        space.leave([("presence-c", PLAIN, member)], str(number))
    assert (space.subscriptions, space.presences) == ({}, {})
    space.sign_in("u", "s", ["v"])
    space.sign_in("u", "t")
    space.sign_out("u", "s", ["v"])
    assert (space.online, space.watched) == ({"u": 1}, {})
    space.sign_out("u", "t")
    assert space.online == {}


def test_a_subscription_takes_nothing_in_the_engine_but_a_number(space: MemorySpace) -> None:
    """No id of a subscriber is kept: a set of them is 33 bytes for each, and more."""
    member = Member("ann", None)
    for channel in ("c", "presence-c"):
        entering = None if channel == "c" else member
        space.enter(channel, "first", PLAIN, member=entering)
        tracemalloc.start()
        try:
            for number in range(10_000):
                space.enter(channel, f"{number}", PLAIN, member=entering)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert grown < 5000  # what the measuring itself takes; 10,000 ids are 330,000


def test_the_number_of_a_large_channel_is_stated_when_it_is_asked_for(
    space: MemorySpace, node: Silent
) -> None:
    counted = Options(counted=True)
    for number in range(LARGE_CHANNEL + 3):
        space.enter("c", str(number), counted)
    assert [one.count for one in node.counts] == list(range(1, LARGE_CHANNEL + 1))
    assert node.due == [("c", 5.0)]
    space.state_count("c")
    assert node.counts[-1].count == LARGE_CHANNEL + 3
    space.state_count("c")
    assert len(node.counts) == LARGE_CHANNEL + 1
    space.leave([("c", counted, None)], "0")
    assert node.due == [("c", 5.0)] * 2
    for number in range(1, 3):
        space.leave([("c", counted, None)], str(number))
    assert node.counts[-1].count == LARGE_CHANNEL
    space.state_count("c")
    assert len(node.counts) == LARGE_CHANNEL + 2  # it was stated when it became small


# -- Bounds ----------------------------------------------------------------------------------


class Evictions:
    """A memory engine with little room, and what had to go."""

    def __init__(self, **bounds: int) -> None:
        self.counts: list[tuple[str, int]] = []
        self.clock = Clock()
        engine = MemoryEngine(
            self.clock,
            epoch="e",
            evicted=lambda app_id, count: self.counts.append((app_id, count)),
            **bounds,
        )
        self.spaces = {one: engine.space(one, Silent(), NOTHING_WANTED) for one in "12"}

    def publish(self, *channels: str, data: bytes = b'"1"', app_id: str = "1") -> None:
        events = [Event(one, "x", data, keep=Keep(1, 1800)) for one in channels]
        self.spaces[app_id].publish(events)

    def kept(self, *channels: str, app_id: str = "1") -> str:
        return "".join(one for one in channels if self.spaces[app_id].kept(one))


def test_too_many_kept_events_cost_those_that_were_kept_first() -> None:
    world = Evictions(max_kept_events=2)
    world.publish("a", "b", "a")
    assert world.counts == []
    world.publish("c")
    assert world.kept(*"abc") == "ac"
    assert world.counts == [("1", 1)]
    world.publish("a", "b", app_id="2")
    assert world.kept(*"ab", app_id="2") == "ab"
    assert world.kept(*"abc") == "ac"


def test_what_has_expired_makes_room_and_counts_as_nothing_evicted() -> None:
    world = Evictions(max_kept_events=2)
    world.publish("a", "b")
    world.clock.now += 1800
    world.publish("c", "d")
    assert world.kept(*"abcd") == "cd"
    assert world.counts == []


def test_kept_events_are_bounded_in_bytes_too() -> None:
    text = b"x" * 1000
    size = len(text) + len("a") + len("x") + KEPT_OVERHEAD_BYTES
    world = Evictions(max_kept_bytes=3 * size)
    world.publish(*"abc", data=text)
    world.publish("c", "b", data=text)
    assert world.counts == []
    world.publish("d", data=text * 2)
    assert world.kept(*"abcd") == "bd"
    assert world.counts == [("1", 2)]
    world.publish("d")
    world.publish("e", data=text)
    assert world.kept(*"abcde") == "bde"
    world.publish("f", data=text * 4)
    assert world.kept(*"abcdef") == ""


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 900), st.sampled_from([0, 700])))
)
def test_whatever_is_published_kept_events_are_within_their_bounds_and_the_newest(
    story: list[tuple[str, int, int]],
) -> None:
    limit = 3 * KEPT_OVERHEAD_BYTES + 1500
    world = Evictions(max_kept_events=4, max_kept_bytes=limit)
    model: dict[str, tuple[float, int]] = {}  # channel -> when it was published, its size
    for channel, length, pause_s in story:
        world.clock.now += pause_s
        world.publish(channel, data=b"x" * length)
        model.pop(channel, None)
        model[channel] = (world.clock.now, length + 2 + KEPT_OVERHEAD_BYTES)
        model = {one: kept for one, kept in model.items() if kept[0] + 1800 > world.clock.now}
        while len(model) > 4 or sum(size for _, size in model.values()) > limit:
            del model[next(iter(model))]
        assert world.kept(*"abcdef") == "".join(sorted(model))
