"""The contract of an engine: one suite over all of them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine.answers import (
    ChannelOccupied,
    ChannelVacated,
    Counts,
    Entry,
    Listing,
    Refusal,
)
from heliograph.engine.base import Engine
from heliograph.engine.memory import CACHED_OVERHEAD_BYTES, MemoryEngine
from heliograph.hub.facts import (
    Event,
    Fact,
    Member,
    MemberAdded,
    MemberRemoved,
    Notice,
    UserOffline,
    UserOnline,
    UserTerminated,
)
from heliograph.reply import proceed
from tests.unit.fakes import event
from tests.unit.late_engine import LateEngine, roster_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """An engine, what it delivered, and a way to get its answers."""

    def __init__(self, engine: Engine, clock: Clock, settle: Callable[[], None]) -> None:
        self.engine = engine
        self.clock = clock
        self._settle = settle
        self.delivered: list[tuple[str, Fact | Notice]] = []
        engine.start(lambda app_id, fact: self.delivered.append((app_id, fact)))

    def answer(self, reply: Any) -> Any:
        answers: list[Any] = []
        proceed(reply, answers.append, answers.append)
        self._settle()
        (answer,) = answers
        assert not isinstance(answer, Exception)
        return answer


def listed(listing: Listing) -> dict[str, Counts]:
    """Read a listing to its end."""
    return {name: counts for part in listing for name, counts in part.items()}


@pytest.fixture(params=["memory", "late"])
def bench(request: pytest.FixtureRequest) -> Bench:
    clock = Clock()
    memory = MemoryEngine(clock, 1800)
    if request.param == "memory":
        return Bench(memory, clock, lambda: None)
    late = LateEngine(memory)
    return Bench(late, clock, late.settle)


def test_publish_delivers_everything_in_order(bench: Bench) -> None:
    bench.answer(bench.engine.publish("1", [event("a"), event("b", "other"), event("c")]))
    said = [fact.name for _, fact in bench.delivered if isinstance(fact, Event)]
    assert [name for name in said if name != "b"] == ["a", "c"]
    assert "b" in said


def test_the_first_subscription_occupies_and_the_last_vacates(bench: Bench) -> None:
    engine = bench.engine
    first = bench.answer(engine.enter("1", "chat", "a"))
    second = bench.answer(engine.enter("1", "chat", "b"))
    assert isinstance(first, Entry)
    assert isinstance(second, Entry)
    assert (first.count, first.changes) == (1, (ChannelOccupied("chat"),))
    assert (second.count, second.changes) == (2, ())

    leaves = [bench.answer(engine.leave("1", "chat", one)) for one in "ab"]
    assert [(one.count, one.changes) for one in leaves] == [
        (1, ()),
        (0, (ChannelVacated("chat"),)),
    ]


def test_members_are_announced_to_those_before_them(bench: Bench) -> None:
    """The roster has the newcomer; the announcement precedes the answer."""
    engine = bench.engine
    ann, bob = Member("ann", b'{"n":1}'), Member("bob")
    assert roster_of(bench.answer(engine.enter("1", "p", "a", member=ann))) == [ann]
    assert roster_of(bench.answer(engine.enter("1", "p", "b", member=bob))) == [ann, bob]
    bench.answer(engine.enter("1", "p", "b2", member=bob))

    assert bench.delivered == [("1", MemberAdded("p", ann)), ("1", MemberAdded("p", bob))]


def test_the_last_session_of_a_user_removes_the_member(bench: Bench) -> None:
    engine = bench.engine
    for session in "abc":
        bench.answer(engine.enter("1", "p", session, member=Member("ann")))
    bench.delivered.clear()
    for session in "ab":
        bench.answer(engine.leave("1", "p", session))
    assert bench.delivered == []
    departure = bench.answer(engine.leave("1", "p", "c"))
    assert bench.delivered == [("1", MemberRemoved("p", "ann"))]
    assert departure.changes == (MemberRemoved("p", "ann"), ChannelVacated("p"))


def test_a_full_presence_channel_refuses_newcomers_but_not_more_tabs(bench: Bench) -> None:
    engine = bench.engine
    bench.answer(engine.enter("1", "p", "a", member=Member("ann"), max_members=1))
    refused = bench.answer(engine.enter("1", "p", "b", member=Member("bob"), max_members=1))
    again = bench.answer(engine.enter("1", "p", "a2", member=Member("ann"), max_members=1))
    assert refused is Refusal.FULL
    assert isinstance(again, Entry)
    assert bench.answer(engine.users("1", "p")) == ["ann"]
    assert bench.answer(engine.counts("1", ["p"])) == {"p": Counts(2, 1)}


def test_counts_and_channels(bench: Bench) -> None:
    engine = bench.engine
    for session in "abc":
        bench.answer(engine.enter("1", "presence-p", session, member=Member("ann")))
    bench.answer(engine.enter("1", "chat", "a"))
    assert listed(bench.answer(engine.channels("1", "pre"))) == {"presence-p": Counts(3, 1)}
    assert set(listed(bench.answer(engine.channels("1", "")))) == {"presence-p", "chat"}
    assert bench.answer(engine.counts("1", ["chat", "nobody"])) == {
        "chat": Counts(1, 0),
        "nobody": Counts(0, 0),
    }
    assert bench.answer(engine.users("1", "nobody")) == []


def test_a_channel_that_is_vacated_while_a_listing_is_read_is_not_in_the_rest(
    bench: Bench,
) -> None:
    names = [f"c{number}" for number in range(1000)]
    for name in names:
        bench.answer(bench.engine.enter("1", name, "a"))
    parts = iter(bench.answer(bench.engine.channels("1", "")))
    first = next(parts)
    assert 0 < len(first) < 500
    for name in names[:-1]:
        bench.answer(bench.engine.leave("1", name, "a"))
    assert [part for part in parts if part] == [{"c999": Counts(1, 0)}]


def test_apps_share_nothing(bench: Bench) -> None:
    engine = bench.engine
    bench.answer(engine.enter("1", "presence-p", "a", member=Member("ann")))
    cached = Event("cache-c", "x", b'"1"', cached=True)
    bench.answer(engine.publish("1", [cached]))
    assert listed(bench.answer(engine.channels("2", ""))) == {}
    assert bench.answer(engine.users("2", "presence-p")) == []
    assert bench.answer(engine.cached("2", "cache-c")) is None


def test_the_last_event_of_a_cache_channel_is_kept_for_a_while(bench: Bench) -> None:
    engine = bench.engine
    first = Event("cache-c", "x", b'"1"', cached=True)
    second = Event("cache-c", "x", b'"2"', cached=True)
    bench.answer(engine.publish("1", [first]))
    bench.clock.now += 100
    bench.answer(engine.publish("1", [second]))

    bench.clock.now += 1799
    entry = bench.answer(engine.enter("1", "cache-c", "a", replay=True))
    assert isinstance(entry, Entry)
    assert entry.cached is not None
    assert (entry.cached.event, entry.cached.ttl_s) == (second, 1.0)
    unasked = bench.answer(engine.enter("1", "cache-c", "b"))
    assert isinstance(unasked, Entry)
    assert unasked.cached is None

    bench.clock.now += 1
    assert bench.answer(engine.cached("1", "cache-c")) is None


def test_an_event_that_asks_for_no_caching_leaves_the_cached_one(bench: Bench) -> None:
    engine = bench.engine
    kept = Event("cache-c", "x", b'"1"', cached=True)
    bench.answer(engine.publish("1", [kept, Event("cache-c", "client-x", b'"2"')]))
    found = bench.answer(engine.cached("1", "cache-c"))
    assert found is not None
    assert found.event == kept


def test_a_user_is_online_from_the_first_session_to_the_last(bench: Bench) -> None:
    engine = bench.engine
    first = bench.answer(engine.sign_in("1", "ann", "a", ["ann", "bob"]))
    again = bench.answer(engine.sign_in("1", "ann", "a"))
    second = bench.answer(engine.sign_in("1", "ann", "a2", ["ann", "bob"]))
    assert (first.changes, again.changes, second.changes) == ((UserOnline("ann"),), (), ())
    assert first.online == second.online == {"ann"}
    bench.answer(engine.sign_in("2", "bob", "b"))
    assert bench.answer(engine.sign_in("1", "ann", "a3", ["bob"])).online == frozenset()

    leaves = [bench.answer(engine.sign_out("1", "ann", one)) for one in ("a", "a3", "a2")]
    assert [one.changes for one in leaves] == [(), (), (UserOffline("ann"),)]
    assert [notice for app_id, notice in bench.delivered if app_id == "1"] == [
        UserOnline("ann"),
        UserOffline("ann"),
    ]


def test_terminating_is_told_everywhere_even_when_nobody_is_there(bench: Bench) -> None:
    bench.answer(bench.engine.terminate("1", "ann"))
    assert bench.delivered == [("1", UserTerminated("ann"))]


def cached(channel: str, data: bytes = b'"1"') -> Event:
    return Event(channel, "x", data, cached=True)


class Evictions:
    """A memory engine with little room, and what had to go."""

    def __init__(self, **bounds: int) -> None:
        self.counts: list[tuple[str, int]] = []
        self.clock = Clock()
        self.engine = MemoryEngine(
            self.clock, 1800, lambda app_id, count: self.counts.append((app_id, count)), **bounds
        )
        self.engine.start(lambda *_: None)

    def kept(self, *channels: str, app_id: str = "1") -> str:
        return "".join(one for one in channels if self.engine.cached(app_id, one))


def test_too_many_cached_events_cost_those_that_expire_first() -> None:
    world = Evictions(max_cached_events=2)
    world.engine.publish("1", [cached("a"), cached("b"), cached("a")])
    assert world.counts == []
    world.engine.publish("1", [cached("c")])
    assert world.kept(*"abc") == "ac"
    assert world.counts == [("1", 1)]
    world.engine.publish("2", [cached("a"), cached("b")])
    assert world.kept(*"ab", app_id="2") == "ab"
    assert world.kept(*"abc") == "ac"


def test_what_has_expired_makes_room_and_counts_as_nothing_evicted() -> None:
    world = Evictions(max_cached_events=2)
    world.engine.publish("1", [cached("a"), cached("b")])
    world.clock.now += 1800
    world.engine.publish("1", [cached("c"), cached("d")])
    assert world.kept(*"abcd") == "cd"
    assert world.counts == []


def test_cached_events_are_bounded_in_bytes_too() -> None:
    text = b"x" * 1000
    size = len(text) + len("a") + len("x") + CACHED_OVERHEAD_BYTES
    world = Evictions(max_cached_bytes=3 * size)
    world.engine.publish("1", [cached(one, text) for one in "abc"])
    world.engine.publish("1", [cached("c", text), cached("b", text)])
    assert world.counts == []
    world.engine.publish("1", [cached("d", text * 2)])
    assert world.kept(*"abcd") == "bd"
    assert world.counts == [("1", 2)]
    world.engine.publish("1", [cached("d")])
    world.engine.publish("1", [cached("e", text)])
    assert world.kept(*"abcde") == "bde"
    world.engine.publish("1", [cached("f", text * 4)])
    assert world.kept(*"abcdef") == ""


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 900), st.sampled_from([0, 700])))
)
def test_whatever_is_published_the_cache_is_within_its_bounds_and_keeps_the_newest(
    story: list[tuple[str, int, int]],
) -> None:
    limit = 3 * CACHED_OVERHEAD_BYTES + 1500
    world = Evictions(max_cached_events=4, max_cached_bytes=limit)
    model: dict[str, tuple[float, int]] = {}  # channel -> when it was published, its size
    for channel, length, pause_s in story:
        world.clock.now += pause_s
        world.engine.publish("1", [cached(channel, b"x" * length)])
        model.pop(channel, None)
        model[channel] = (world.clock.now, length + 2 + CACHED_OVERHEAD_BYTES)
        model = {one: kept for one, kept in model.items() if kept[0] + 1800 > world.clock.now}
        while len(model) > 4 or sum(size for _, size in model.values()) > limit:
            del model[next(iter(model))]
        assert world.kept(*"abcdef") == "".join(sorted(model))
