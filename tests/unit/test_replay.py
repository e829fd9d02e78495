"""
What a client receives of a channel's history when it subscribes, and that live events follow.

Over an engine that answers at once and one that does not.
"""

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.config.apps import Apps, HistoryRule
from heliograph.engine.answers import POSITION_ONLY, Entry, Lost, Page, Reason, Wants
from heliograph.engine.base import PAGE_BYTES, Engine, Local, Space
from heliograph.hub.facts import Event, Fact, Keep, Position
from heliograph.hub.hub import FLUSH_BUDGET
from heliograph.node.dialect import Opening
from heliograph.node.replay import Replay
from heliograph.reply import Later, proceed
from tests.unit.test_session import FakePeer, World, late, say, sign

__all__ = ["late"]  # a fixture

EVERY = HistoryRule(prefix="", limit=100, ttl=60.0)
REWIND = HistoryRule(prefix="", limit=100, ttl=60.0, rewind_count=3)


def new_world(late: bool, rule: HistoryRule | None = EVERY, **rules: Any) -> World:
    return World(late=late, every=rule, **rules)


def publish(world: World, *names: str, channel: str = "c", size: int = 2, **fields: Any) -> None:
    tenant = world.node.tenant("1")
    assert tenant is not None
    history = tenant.histories.of(channel, cached=channel.startswith("cache-"))
    keep = None if history is None else history.keep
    data = b'"' + b"x" * (size - 2) + b'"'
    for name in names:
        event = Event(channel, name, data, keep=keep, **fields)
        proceed(tenant.publish([event]), lambda _: None, lambda _: None)


def settle(world: World) -> None:
    """Let the engine answer, and the node work, until nothing is left to do."""
    world.settle()
    while world.late and world.late.waiting:
        world.settle()


def subscribe(peer: FakePeer, channel: str = "c", **data: Any) -> None:
    say(peer, "subscribe", channel, **data)


def joined(world: World, channel: str = "c", **data: Any) -> FakePeer:
    peer = world.client()
    subscribe(peer, channel, **data)
    settle(world)
    return peer


def told(peer: FakePeer) -> list[str]:
    """Return the names of events, with their offsets; positions as @offset; the rest in short."""
    found: list[str] = []
    offset = ""
    for message in peer.told:
        name = message["event"]
        internal = name.startswith("pusher_internal:")
        data = json.loads(message["data"]) if internal else {}
        if name == "pusher_internal:next_position":
            assert not offset, "a position precedes its event directly"
            offset = str(data["offset"])
            continue
        if name == "pusher_internal:position":
            found.append(f"@{data['offset']}")
        elif name == "pusher_internal:gap":
            found.append(f"gap {data['reason']} @{data.get('offset')}")
        elif offset:
            found.append(f"{name}={offset}")
        else:
            found.append(name.rpartition(":")[2])
        offset = ""
    peer.told.clear()
    return found


def position(peer: FakePeer) -> dict[str, Any]:
    """Return the last position that a client was sent."""
    for message in reversed(peer.told):
        if message["event"] in {"pusher_internal:next_position", "pusher_internal:position"}:
            found: dict[str, Any] = json.loads(message["data"])
            return found
    raise AssertionError("the client was sent no position")


@pytest.fixture
def world(late: bool) -> World:
    return new_world(late)


# -- Clients that do not ask ---------------------------------------------------------------


def test_a_client_that_does_not_ask_receives_no_position(world: World) -> None:
    publish(world, "a")
    peer = joined(world)
    publish(world, "b")
    settle(world)
    assert told(peer) == ["subscription_succeeded", "b"]


def test_a_new_client_receives_the_last_events_by_rule_before_live_ones(late: bool) -> None:
    world = new_world(late, REWIND)
    publish(world, "a", "b", "c", "d")
    settle(world)
    peer = world.client()
    subscribe(peer)
    publish(world, "e")
    settle(world)
    assert told(peer) == ["subscription_succeeded", "b", "c", "d", "e"]


def test_a_rule_replaces_the_cached_event(late: bool) -> None:
    world = new_world(late, history=(HistoryRule(prefix="cache-", limit=5, ttl=9, rewind_count=2),))
    empty = joined(world, "cache-c")
    publish(world, "a", "b", "c", channel="cache-c")
    settle(world)
    peer = joined(world, "cache-c")
    assert told(empty) == ["subscription_succeeded", "cache_miss", "a", "b", "c"]
    assert told(peer) == ["subscription_succeeded", "b", "c"]


def test_a_cached_channel_without_a_rule_has_its_last_event_and_no_positions(late: bool) -> None:
    world = new_world(late, None)
    publish(world, "a", "b", channel="cache-c")
    settle(world)
    peer = joined(world, "cache-c", history={})
    assert told(peer) == ["subscription_succeeded", "b"]


@pytest.mark.parametrize("reloads", [1, 2])
def test_a_reload_changes_the_rules_for_later_subscribers(reloads: int) -> None:
    world = new_world(late=False, rule=None)
    tenant = world.node.tenant("1")
    assert tenant is not None
    before = joined(world)
    publish(world, "a")
    rules = (HistoryRule(prefix="", limit=5, ttl=9, rewind_count=2),)
    for _ in range(reloads):
        world.node.configure(Apps([replace(tenant.app, history=rules)]))
    publish(world, "b", "c")
    settle(world)
    after = joined(world)
    say(before, "unsubscribe", "c")
    settle(world)
    assert told(before) == ["subscription_succeeded", "a", "b", "c"]
    assert told(after) == ["subscription_succeeded", "b", "c"]
    assert world.asserted().channels["c"].subscriptions == 1


def test_the_clients_of_a_removed_app_receive_no_more_of_a_history(world: World) -> None:
    here = behind(world)
    peer = without_room(world, history=here)
    told(peer)
    peer.read()
    world.node.configure(Apps([]))
    settle(world)
    assert told(peer) == []


# -- Clients that ask ----------------------------------------------------------------------


def test_a_client_that_asks_is_sent_the_position_and_those_of_live_events(world: World) -> None:
    publish(world, "a", "b")
    settle(world)
    peer = joined(world, history={})
    publish(world, "c", "d")
    settle(world)
    assert told(peer) == ["subscription_succeeded", "@2", "c=3", "d=4"]


def test_the_position_of_an_empty_channel_is_continued(world: World) -> None:
    peer = joined(world, history={})
    here = position(peer)
    assert here["offset"] == 0
    peer.session.end()
    settle(world)
    publish(world, "a")
    settle(world)
    again = joined(world, history=here)
    assert told(again) == ["subscription_succeeded", "a=1", "@1"]


def test_a_client_that_comes_back_receives_what_it_missed_in_order_and_once(world: World) -> None:
    peer = joined(world, history={})
    publish(world, "a")
    settle(world)
    here = position(peer)
    peer.session.end()
    publish(world, "b", "c")
    settle(world)
    again = world.client()
    subscribe(again, history=here)
    publish(world, "d")
    settle(world)
    publish(world, "e")
    settle(world)
    offsets = [one for one in told(again) if "=" in one]
    assert offsets == ["b=2", "c=3", "d=4", "e=5"]


def test_replayed_events_move_the_position_as_live_ones_do(world: World) -> None:
    publish(world, "a", "b")
    settle(world)
    first = joined(world, history={"since": -1.0})
    epoch = json.loads(first.told[-1]["data"])["epoch"]
    again = joined(world, history={"epoch": epoch, "offset": 1})
    assert position(again) == {"epoch": epoch, "offset": 2}


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        ({"offset": 2}, "trimmed"),
        ({"offset": 9}, "ahead"),
        ({"epoch": "another", "offset": 5}, "epoch"),
        ({"since": -1}, "trimmed"),
    ],
)
def test_what_cannot_be_continued_is_a_gap_and_no_part_is_sent(
    late: bool, claim: dict[str, Any], reason: str
) -> None:
    world = new_world(late, HistoryRule(prefix="", limit=3, ttl=60.0, rewind_count=2))
    publish(world, "1", "2", "3", "4", "5", "6")
    settle(world)
    epoch = position(joined(world, history={}))["epoch"]
    if "since" not in claim:
        claim = {"epoch": epoch, **claim}
    peer = joined(world, history=claim)
    publish(world, "7")
    settle(world)
    assert told(peer) == ["subscription_succeeded", f"gap {reason} @6", "7=7"]
    assert {one for one, count in world.node.tally.gaps.items() if count == 1} == {reason}


def test_a_channel_that_keeps_no_history_cannot_be_continued(late: bool) -> None:
    world = new_world(late, None)
    peer = joined(world, history={"epoch": "e", "offset": 3})
    other = joined(world, history={})
    publish(world, "a")
    settle(world)
    assert told(peer) == ["subscription_succeeded", "gap no_history @None", "a"]
    assert told(other) == ["subscription_succeeded", "a"]


def test_a_client_leaves_and_asks_for_nothing_when_it_subscribes_again(world: World) -> None:
    peer = joined(world, history={})
    say(peer, "unsubscribe", "c")
    subscribe(peer)
    settle(world)
    publish(world, "a")
    settle(world)
    assert told(peer)[-1] == "a"


def test_events_that_excluded_the_client_before_are_not_replayed(world: World) -> None:
    peer = joined(world, history={})
    here = position(peer)
    peer.session.end()
    publish(world, "a")
    publish(world, "b", except_id=peer.id)
    publish(world, "c", except_id="1.1")
    settle(world)
    again = joined(world, history={**here, "except": [peer.id]})
    assert told(again) == ["subscription_succeeded", "a=1", "c=3", "@3"]


def test_client_events_and_members_are_in_no_history(world: World) -> None:
    channel = "presence-c"
    world.timing.time = 1.0
    first, peer = world.client(), world.client()
    subscribe(first, channel, **sign(first, channel, "ann"))
    publish(world, "a", channel=channel)
    settle(world)
    say(first, "client-typing", channel)
    settle(world)
    subscribe(peer, channel, **sign(peer, channel, "bob"), history={"since": 1.0})
    settle(world)
    assert told(peer) == ["subscription_succeeded", "a=1", "@1"]


@pytest.mark.parametrize(
    "history",
    [
        {"except": ["1." + "1" * 63]},
        *({"epoch": "e"}, {"offset": 1}, {"epoch": "e", "offset": -1}, {"epoch": 1, "offset": 1}),
        *({"epoch": "e", "offset": 1, "since": 1}, {"since": "now"}, [], "x", 1),
        *({"except": ["1.1"] * 17}, {"except": "1.1"}, {"except": [1]}),
    ],
)
def test_a_malformed_history_is_an_error_and_the_client_stays(late: bool, history: object) -> None:
    world = new_world(late)
    peer = joined(world, history=history)
    assert told(peer) == ["error"]
    assert peer.closed is None
    subscribe(peer)
    settle(world)
    assert told(peer) == ["subscription_succeeded"]


def test_a_client_whose_subscription_was_not_answered_may_ask_for_nothing_the_next_time() -> None:
    world = new_world(late=True, rule=REWIND)
    assert world.late is not None
    publish(world, "a")
    settle(world)
    peers = [world.client(), world.client()]
    world.late.away = True
    for peer in peers:
        subscribe(peer, history={})
    settle(world)
    world.late.away = False
    assert [peer.closed is None for peer in peers] == [False, True], "one is closed later"
    subscribe(peers[1])
    settle(world)
    assert told(peers[1]) == ["subscription_succeeded", "a"]


# -- Pace ----------------------------------------------------------------------------------


class PacedPeer(FakePeer):
    """A peer whose client reads only when the test says so."""

    def write(self, chunk: bytes, /) -> None:
        super().write(chunk)
        self.free_bytes = max(self.free_bytes - len(chunk), 0)


def paced(world: World) -> PacedPeer:
    session = world.dialect.connect(Opening(dialect=world.dialect, key="key"))
    peer = PacedPeer(session)
    session.open(peer)
    peer.free_bytes = 0
    return peer


def without_room(world: World, **data: Any) -> FakePeer:
    """Return a client that has subscribed, and does not read yet."""
    peer = world.client()
    peer.free_bytes = 0
    subscribe(peer, **data)
    settle(world)
    return peer


def behind(world: World) -> dict[str, Any]:
    """Publish thirty events of 10 KB; return the position before them."""
    here = position(joined(world, history={}))
    publish(world, *map(str, range(30)), size=10_000)
    settle(world)
    return here


def test_a_long_history_is_written_as_the_client_reads_it(world: World) -> None:
    here = behind(world)
    peer = paced(world)
    subscribe(peer, history=here)
    settle(world)
    assert told(peer) == ["subscription_succeeded"]
    seen: list[str] = []
    while peer.waiting:
        peer.read()
        chunks = peer.chunks
        settle(world)
        page = told(peer)
        assert len(page) <= 7, "a page is at most 64 KB"
        assert peer.chunks - chunks <= 2, "and is one write"
        seen += page
    assert seen == [*(f"{number}={number + 1}" for number in range(30)), "@30"]


def test_a_client_that_does_not_read_leaves_no_replays_behind() -> None:
    world = new_world(late=False)
    here = behind(world)
    peer = paced(world)
    for _ in range(100):
        subscribe(peer, history=here)
        settle(world)
        say(peer, "unsubscribe", "c")
    gc.collect()
    assert len([one for one in gc.get_objects() if isinstance(one, Replay)]) == 0
    assert len(peer.waiting) == 1


def test_events_that_are_published_during_a_replay_follow_it(world: World) -> None:
    here = behind(world)
    peer = without_room(world, history=here)
    publish(world, "live")
    settle(world)
    told(peer)
    peer.read()
    settle(world)
    seen = told(peer)
    assert seen[-2:] == ["live=31", "@31"]
    assert len(seen) == 32
    publish(world, "more")
    settle(world)
    assert told(peer) == ["more=32"]


def test_events_that_are_not_kept_arrive_at_once_during_a_replay(world: World) -> None:
    here = behind(world)
    peer = without_room(world, history=here)
    told(peer)
    tenant = world.node.tenant("1")
    assert tenant is not None
    event = Event("c", "transient", b'"{}"')
    proceed(tenant.publish([event]), lambda _: None, lambda _: None)
    settle(world)
    assert told(peer) == ["transient"]
    peer.read()
    settle(world)
    assert "transient" not in told(peer)


def test_events_trimmed_during_a_replay_are_a_gap(late: bool) -> None:
    world = new_world(late, HistoryRule(prefix="", limit=30, ttl=60.0))
    here = behind(world)
    peer = without_room(world, history=here)
    publish(world, "live")
    settle(world)
    told(peer)
    peer.read()
    settle(world)
    assert told(peer) == ["gap trimmed @31"]
    publish(world, "more")
    settle(world)
    assert told(peer) == ["more=32"]


def test_a_client_that_knows_no_gaps_is_closed_if_its_rewind_was_trimmed(late: bool) -> None:
    world = new_world(late, HistoryRule(prefix="", limit=30, ttl=60.0, rewind_count=30))
    behind(world)
    peer = without_room(world)
    publish(world, "live")
    settle(world)
    peer.read()
    settle(world)
    assert peer.closed is not None
    assert peer.closed.code == 4200


def test_a_client_that_leaves_during_a_replay_receives_no_more_of_it(world: World) -> None:
    here = behind(world)
    peer = without_room(world, history=here)
    say(peer, "unsubscribe", "c")
    told(peer)
    peer.read()
    settle(world)
    publish(world, "live")
    settle(world)
    assert told(peer) == []
    assert peer.session.replays == {}


def test_many_channels_at_once_are_replayed_a_page_at_a_time(world: World) -> None:
    peer = world.client()
    peer.free_bytes = 0
    places = {}
    for number in range(20):
        channel = f"c{number}"
        places[channel] = position(joined(world, channel, history={}))
        publish(world, "a", "b", channel=channel, size=10_000)
    settle(world)
    for channel, here in places.items():
        subscribe(peer, channel, history=here)
    settle(world)
    assert told(peer) == ["subscription_succeeded"] * 20
    peer.read()
    settle(world)
    assert len(told(peer)) == 60
    assert peer.session.replays == {}


def test_an_engine_that_does_not_answer_closes_the_client() -> None:
    world = new_world(late=True)
    here = behind(world)
    peer = without_room(world, history=here)
    assert world.late is not None
    world.late.away = True
    peer.read()
    settle(world)
    assert peer.closed is not None
    assert peer.closed.code == 4100


def asked(world: World, peer: FakePeer) -> None:
    """Let the node ask the engine for the next page, which it does not answer yet."""
    peer.read()
    world.timing.turn()
    assert world.late is not None
    assert world.late.waiting


def test_a_page_that_arrives_after_the_client_left_is_not_written() -> None:
    world = new_world(late=True)
    here = behind(world)
    peer = without_room(world, history=here)
    told(peer)
    asked(world, peer)
    say(peer, "unsubscribe", "c")
    settle(world)
    assert told(peer) == []
    assert peer.closed is None


def test_an_engine_that_fails_after_the_client_left_closes_no_client() -> None:
    world = new_world(late=True)
    here = behind(world)
    peer = without_room(world, history=here)
    assert world.late is not None
    world.late.away = True
    asked(world, peer)
    say(peer, "unsubscribe", "c")
    settle(world)
    assert peer.closed is None


def test_a_page_that_arrives_while_the_client_has_no_room_is_read_again() -> None:
    world = new_world(late=True)
    here = behind(world)
    peer = without_room(world, history=here)
    told(peer)
    asked(world, peer)
    peer.free_bytes = 0
    settle(world)
    assert told(peer) == []
    peer.read(1 << 20)
    settle(world)
    assert told(peer)[-2:] == ["29=30", "@30"]


class Faulty:
    """An engine with a fault: reads of a history raise, or fail with something unexpected."""

    available = True

    def __init__(self, engine: Engine, *, at_once: bool) -> None:
        self._engine = engine
        self._at_once = at_once

    def space(self, app_id: str, local: Local, wants: Wants) -> Space:
        return cast("Space", FaultySpace(self, self._engine.space(app_id, local, wants)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def history(self) -> Later[Page]:
        if self._at_once:
            raise RuntimeError("a fault")
        answer: Later[Page] = Later()
        answer.fail(RuntimeError("a fault"))
        return answer


class FaultySpace:
    """An app in that engine."""

    def __init__(self, engine: Faulty, space: Space) -> None:
        self._engine = engine
        self._space = space

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)

    def history(self, *_arguments: object, **_keywords: object) -> Later[Page]:
        return self._engine.history()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_client_is_closed_if_its_replay_has_a_fault(
    at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its replay, it would wait for ever."""

    def wrap(engine: Engine) -> Engine:
        return cast("Engine", Faulty(engine, at_once=at_once))

    world = World(late=False, every=EVERY, wrap=wrap)
    peer = without_room(world, history=behind(world))
    peer.read()
    settle(world)
    assert peer.closed is not None
    assert peer.closed.code == 4200
    assert "a fault" in caplog.text


def test_events_that_the_engine_no_longer_knows_are_a_gap(world: World) -> None:
    """The node delivered events that the engine has not: it began anew at an earlier state."""
    peer = without_room(world, history=behind(world))
    told(peer)
    tenant = world.node.tenant("1")
    assert tenant is not None
    epoch = position(joined(world, history={}))["epoch"]
    tenant.hub.set_position("c", Position(epoch, 99))
    peer.read(1 << 20)
    settle(world)
    assert told(peer)[-1] == "gap trimmed @99"


class Lagging:
    """An engine whose facts reach the node later than its answers, when the test says so."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.held: list[Fact] = []
        self._deliver: Callable[[Fact], None] = self.held.append
        self.available = True

    async def open(self) -> None:
        await self._engine.open()

    async def close(self, timeout_s: float) -> None:
        await self._engine.close(timeout_s)

    def space(self, app_id: str, local: Local, wants: Wants) -> Space:
        self._deliver = local.deliver
        return self._engine.space(app_id, cast("Local", LaggingLocal(self, local)), wants)

    def deliver(self, count: int) -> None:
        """Deliver the oldest *count* facts."""
        for fact in self.held[:count]:
            self._deliver(fact)
        del self.held[:count]


class LaggingLocal:
    """The node as that engine calls it."""

    def __init__(self, engine: Lagging, local: Local) -> None:
        self._local = local
        self.deliver = engine.held.append

    def __getattr__(self, name: str) -> Any:
        return getattr(self._local, name)


@pytest.mark.parametrize("delivered", range(4))
def test_a_page_that_is_ahead_of_this_node_ends_where_the_node_is(delivered: int) -> None:
    """The events beyond are delivered to this node later, and are live ones."""
    world, engine = lagging_world()
    here = behind(world)
    engine.deliver(30)
    peer = without_room(world, history=here)
    told(peer)
    publish(world, "1", "2", "3")
    engine.deliver(delivered)
    peer.read(1 << 20)
    settle(world)
    engine.deliver(3)
    settle(world)
    offsets = [one.partition("=")[2] for one in told(peer) if "=" in one]
    assert offsets == [str(number + 1) for number in range(33)]
    assert position(joined(world, history={}))["offset"] == 33


def lagging_world(rule: HistoryRule = EVERY) -> tuple[World, Lagging]:
    engines: list[Lagging] = []

    def wrap(engine: Engine) -> Engine:
        engines.append(Lagging(engine))
        return engines[0]

    return World(late=False, every=rule, wrap=wrap), engines[0]


def lose(world: World, engine: Lagging, channel: str = "c") -> None:
    """Have the engine report that facts were lost, which the node does not receive."""
    engine.held.clear()
    tenant = world.node.tenant("1")
    assert tenant is not None
    found = tenant.history(channel, POSITION_ONLY, Keep(100, 60.0))
    assert isinstance(found, Page)
    now = Entry(1, history=Page([], found.top, found.top))
    tenant.lost([Lost(Reason.TRIMMED, channel, now=now)])


def test_events_that_a_node_lost_are_read_again_before_later_ones() -> None:
    world, engine = lagging_world()
    peer, other = joined(world, history={}), joined(world)
    publish(world, "a", "b")
    engine.deliver(2)  # to the node, which has yet to write them
    publish(world, "c", "d")
    lose(world, engine)
    publish(world, "e")
    engine.deliver(1)
    settle(world)
    assert told(peer) == ["subscription_succeeded", "@0", "a=1", "b=2", "c=3", "d=4", "e=5", "@5"]
    assert peer.closed is None
    assert other.closed is not None, "a client without positions reconnects"
    assert other.closed.code == 4200


def test_a_loss_of_events_that_are_no_longer_kept_is_a_gap() -> None:
    world, engine = lagging_world(HistoryRule(prefix="", limit=2, ttl=60.0))
    peer = joined(world, history={})
    publish(world, "a", "b", "c", "d")
    lose(world, engine)
    publish(world, "e")
    engine.deliver(1)
    settle(world)
    publish(world, "f")
    engine.deliver(1)
    settle(world)
    assert told(peer) == ["subscription_succeeded", "@0", "gap trimmed @5", "f=6"]


def test_a_loss_during_a_replay_is_part_of_it() -> None:
    world, engine = lagging_world()
    here = position(joined(world, history={}))
    publish(world, *map(str, range(30)), size=10_000)
    engine.deliver(30)
    settle(world)
    peer = without_room(world, history=here)
    publish(world, "lost")
    lose(world, engine)
    peer.read(1 << 20)
    settle(world)
    seen = told(peer)
    assert seen[-2:] == ["lost=31", "@31"]
    assert len(seen) == 33


def test_a_loss_in_a_channel_whose_history_was_switched_off_closes_the_client() -> None:
    world, engine = lagging_world(EVERY)
    peer = joined(world, history={})
    tenant = world.node.tenant("1")
    assert tenant is not None
    off = (HistoryRule(prefix="", limit=0, ttl=1.0),)
    world.node.configure(Apps([replace(tenant.app, history=off)]))
    lose(world, engine)
    settle(world)
    assert peer.closed is not None
    assert peer.closed.code == 4200


# -- Any order of all of it ----------------------------------------------------------------


class Reader:
    """A client that remembers its position over its connections, as the add-on does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: list[int] = []  # offsets, since the last gap
        self.gaps = 0
        self.here: dict[str, Any] | None = None
        self.peer: PacedPeer | None = None

    def connect(self, free_bytes: int) -> None:
        self.peer = paced(self.world)
        self.peer.free_bytes = free_bytes
        subscribe(self.peer, history=self.here or {})

    def take(self) -> None:
        """Take what was written to the connection."""
        if self.peer is None:
            return
        offset = 0
        for message in self.peer.told:
            name = message["event"]
            if name == "pusher_internal:next_position":
                self.here = json.loads(message["data"])
                offset = self.here["offset"]
            elif name == "pusher_internal:position":
                self.here = json.loads(message["data"])
                assert not self.seen or self.here["offset"] == self.seen[-1]
                if not self.seen:
                    self.seen.append(self.here["offset"])
            elif name == "pusher_internal:gap":
                self.here = json.loads(message["data"])
                self.gaps += 1
                self.seen = [self.here["offset"]]
            elif name == "kept":
                assert offset, "a kept event has a position"
                if self.seen:
                    assert offset == self.seen[-1] + 1, "no event is missing, and none is repeated"
                self.seen.append(offset)
        self.peer.told.clear()

    def lose(self) -> None:
        """Lose the connection; what was written has arrived."""
        self.take()
        if self.peer is not None:
            self.peer.session.end()
            self.peer = None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 3)),
        st.tuples(st.just("large"), st.integers(1, 3)),
        st.tuples(st.just("transient"), st.just(0)),
        st.tuples(st.just("connect"), st.sampled_from([0, 500, PAGE_BYTES])),
        st.tuples(st.just("lose"), st.just(0)),
        st.tuples(st.just("read"), st.sampled_from([500, PAGE_BYTES])),
        st.tuples(st.just("turn"), st.just(0)),
        st.tuples(st.just("engine"), st.just(0)),
    ),
    max_size=40,
)


class Story:
    """A channel, its publisher, and a reader that comes and goes."""

    def __init__(self, *, late: bool, limit: int) -> None:
        self.world = new_world(late, HistoryRule(prefix="", limit=limit, ttl=60.0))
        self.reader = Reader(self.world)
        self.published = 0

    def publish(self, number: int) -> None:
        publish(self.world, *["kept"] * number)
        self.published += number

    def large(self, number: int) -> None:
        publish(self.world, *["kept"] * number, size=40_000)
        self.published += number

    def transient(self, _number: int) -> None:
        tenant = self.world.node.tenant("1")
        assert tenant is not None
        reply = tenant.publish([Event("c", "transient", b'"{}"')])
        proceed(reply, lambda _: None, lambda _: None)

    def connect(self, free_bytes: int) -> None:
        if self.reader.peer is None:
            self.reader.connect(free_bytes)

    def lose(self, _number: int) -> None:
        self.reader.lose()

    def read(self, free_bytes: int) -> None:
        if self.reader.peer is not None:
            self.reader.peer.read(free_bytes)

    def turn(self, _number: int) -> None:
        self.world.timing.turn()

    def engine(self, _number: int) -> None:
        """Have the engine execute the oldest command of a channel."""
        late = self.world.late
        for channel in (late.waiting if late else [])[:1]:
            assert late is not None
            late.step(channel)

    def end(self) -> None:
        """Connect the reader, and let it read everything."""
        self.connect(PAGE_BYTES)
        peer = self.reader.peer
        assert peer is not None
        while True:
            settle(self.world)
            self.reader.take()
            if not peer.waiting:
                break
            peer.read()
        assert peer.closed is None
        assert peer.session.replays in (None, {})


@settings(max_examples=300)
@given(late=st.booleans(), limit=st.sampled_from([2, 5, 50]), steps=STEPS)
def test_every_event_arrives_once_and_in_order_or_there_is_a_gap(
    late: bool, limit: int, steps: list[tuple[str, int]]
) -> None:
    story = Story(late=late, limit=limit)
    for step, number in steps:
        getattr(story, step)(number)
        story.reader.take()
    story.end()
    assert story.reader.seen[-1] == story.published
    if story.published <= limit:
        assert not story.reader.gaps, "everything is kept"


def test_a_replay_ends_in_the_middle_of_a_large_fan_out() -> None:
    """Facts that a walk has yet to write to the client are written when its replay ends."""
    world = new_world(late=False)
    here = behind(world)
    crowd = [joined(world) for _ in range(2 * FLUSH_BUDGET)]
    peer = without_room(world, history=here)
    told(peer)
    tenant = world.node.tenant("1")
    assert tenant is not None
    tenant.publish([Event("c", "transient", b'"{}"')])
    publish(world, "live")
    tenant.hub.flush(FLUSH_BUDGET)  # the walk has not reached the newcomer
    tenant.publish([Event("c", "transient", b'"{}"')])
    peer.free_bytes = 1 << 20
    peer.read(1 << 20)
    settle(world)
    seen = told(peer)
    assert seen.count("transient") == 2
    assert [one for one in seen if "=" in one][-1] == "live=31"
    assert seen.count("@31") == 1
    assert len(crowd) == 2 * FLUSH_BUDGET
