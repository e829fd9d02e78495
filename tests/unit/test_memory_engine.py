"""What the engine of one process keeps, and for how long. Its contract is in `test_engine.py`."""

import pytest

from heliograph.engine.memory import MemoryEngine
from heliograph.hub.facts import Event, Member
from tests.unit.test_engine import Clock

TTL_S = 10.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> MemoryEngine:
    engine = MemoryEngine(clock, TTL_S)
    engine.start(lambda _app_id, _fact: None)
    return engine


def put(engine: MemoryEngine, channel: str, name: str = "n") -> None:
    engine.publish("1", [Event(channel, name, b'"{}"', None, None, cached=True)])


def kept(engine: MemoryEngine) -> list[str]:
    """The channels whose events are in memory, expired or not."""
    return sorted(engine._apps["1"].cache._entries)


def test_an_event_is_kept_for_its_time_and_no_longer(engine: MemoryEngine, clock: Clock) -> None:
    put(engine, "cache-c")
    for passed, left in ((0.0, 10.0), (9.5, 0.5)):
        clock.now = 1000.0 + passed
        cached = engine.cached("1", "cache-c")
        assert cached is not None
        assert cached.ttl_s == left
    clock.now = 1010.0
    assert engine.cached("1", "cache-c") is None
    assert kept(engine) == []


def test_an_event_that_is_replaced_expires_by_its_own_time(
    engine: MemoryEngine, clock: Clock
) -> None:
    """Also where others were kept in between, which expire before it."""
    put(engine, "cache-a")
    clock.now += 5
    put(engine, "cache-b")
    clock.now += 3
    put(engine, "cache-a", "new")
    clock.now = 1016.0
    assert engine.cached("1", "cache-b") is None
    cached = engine.cached("1", "cache-a")
    assert cached is not None
    assert (cached.event.name, cached.ttl_s) == ("new", 2.0)


def test_what_has_expired_is_let_go_when_more_is_kept(engine: MemoryEngine, clock: Clock) -> None:
    """Nobody need ask for it."""
    for number in range(10):
        put(engine, f"cache-{number}")
        clock.now += 1
    assert len(kept(engine)) == 10
    clock.now += 4.5
    put(engine, "cache-new")
    assert kept(engine) == [*(f"cache-{number}" for number in range(5, 10)), "cache-new"]


def test_only_events_of_cache_channels_are_kept(engine: MemoryEngine) -> None:
    engine.publish("1", [Event("c", "n", b'"{}"')])
    assert engine.cached("1", "c") is None


def test_an_engine_that_is_here_is_available(engine: MemoryEngine) -> None:
    assert engine.available


def test_a_channel_that_all_have_left_holds_nothing(engine: MemoryEngine) -> None:
    for number in range(3):
        engine.enter("1", "presence-c", str(number), member=Member(str(number % 2), None))
    assert engine.users("1", "presence-c") == ["0", "1"]
    for number in range(3):
        engine.leave("1", "presence-c", str(number))
    app = engine._apps["1"]
    assert (app.subscriptions, app.presences) == ({}, {})
    engine.sign_in("1", "u", "s")
    engine.sign_in("1", "u", "t")
    engine.sign_out("1", "u", "s")
    assert set(app.users) == {"u"}
    engine.sign_out("1", "u", "t")
    assert app.users == {}


def test_what_is_published_before_the_start_is_a_fault_of_ours(clock: Clock) -> None:
    with pytest.raises(AssertionError, match="before the engine was started"):
        MemoryEngine(clock, TTL_S).publish("1", [Event("c", "n", b'"{}"')])
