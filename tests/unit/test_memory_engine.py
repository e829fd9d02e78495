"""What the engine of one process keeps, and for how long. Its contract is in `test_engine.py`."""

import tracemalloc
from collections.abc import Sequence

import pytest
from msgspec import structs

from heliograph.engine.answers import (
    NOTHING_WANTED,
    POSITION_ONLY,
    CacheFilled,
    CacheMiss,
    Change,
    Counts,
    Entry,
    FromTime,
    Lost,
    Options,
    Owed,
    Page,
    Published,
    Rewind,
    Since,
    Terms,
    Wants,
)
from heliograph.engine.base import EVENT_OVERHEAD_BYTES, KEY_TTL_S, LARGE_CHANNEL
from heliograph.engine.history import RECORD_OVERHEAD_BYTES
from heliograph.engine.memory import MemoryEngine, MemorySpace
from heliograph.hub.facts import Event, Fact, Keep, Member, Notice, SubscriptionCount

TTL_S = 10.0
AHEAD = 1_700_000_000.0
KEEP = Keep(1, TTL_S)
KEEPING = Options(keep=KEEP)
LAST = Rewind(count=1)
NO_FUNCTIONS = Options()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def unix_s(self) -> float:
        return self.now + AHEAD


class Silent:
    """A node that remembers events, owed changes, stated counts, and when those are due."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.owed: list[Change] = []
        self.counts: list[SubscriptionCount] = []
        self.due: list[tuple[str, float]] = []

    def deliver(self, fact: Fact, /) -> None:
        if isinstance(fact, SubscriptionCount):
            self.counts.append(fact)
        elif isinstance(fact, Event):
            self.events.append(fact)

    def notice(self, notice: Notice, /) -> None: ...

    def count_due(self, channel: str, in_s: float, /) -> None:
        self.due.append((channel, in_s))

    def lost(self, losses: Sequence[Lost], /) -> None: ...

    def hold(self, term: str, /) -> None: ...

    def owe(self, changes: Sequence[Owed], /) -> None:
        self.owed += [owed.change for owed in changes]

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
    return MemoryEngine(clock, wall=clock.unix_s, epoch="e").space("1", node, NOTHING_WANTED)


def names(space: MemorySpace, channel: str, since: Since = LAST) -> list[str]:
    """The names of the events that a channel keeps."""
    page = space.history(channel, since, KEEP)
    assert isinstance(page, Page)
    return [event.name for event in page.events]


def test_only_events_that_ask_for_it_are_kept(space: MemorySpace, node: Silent) -> None:
    space.publish([Event("c", "n", b'"{}"')])
    assert names(space, "c") == []
    space.publish([Event("c", "n", b'"{}"', keep=KEEP), Event("c", "m", b'"{}"')])
    assert names(space, "c") == ["n"]
    assert [event.position and event.position.offset for event in node.events] == [None, 1, None]


def test_an_event_is_kept_for_its_time_and_no_longer(space: MemorySpace, clock: Clock) -> None:
    space.publish([Event("c", "n", b'"{}"', keep=KEEP)])
    clock.now += TTL_S - 0.5
    assert names(space, "c") == ["n"]
    assert not space.enter("c", "s", KEEPING).nothing_kept  # type: ignore[union-attr]
    assert space.history_size().events == 1
    clock.now += 0.5
    assert names(space, "c") == []
    assert space.enter("c", "t", KEEPING).nothing_kept  # type: ignore[union-attr]
    assert space.history_size().events == 0


def test_the_times_of_events_are_those_of_the_wall_clock(space: MemorySpace, clock: Clock) -> None:
    space.publish([Event("c", "n", b'"{}"', keep=KEEP)])
    clock.now += 2
    page = space.history("c", LAST, KEEP)
    assert isinstance(page, Page)
    assert page.times == [1000.0 + AHEAD]
    space.publish([Event("c", "m", b'"{}"', keep=KEEP)])
    assert names(space, "c", FromTime(1001.0 + AHEAD)) == ["m"]


def test_an_entry_has_the_history_that_was_asked_for_and_no_times(space: MemorySpace) -> None:
    space.publish([Event("c", f"{number}", b"1", keep=Keep(5, TTL_S)) for number in range(4)])
    entry = space.enter("c", "s", KEEPING, since=Rewind(count=2))
    assert isinstance(entry, Entry)
    page = entry.history
    assert isinstance(page, Page)
    assert [event.name for event in page.events] == ["2", "3"]
    assert (page.position, page.times, entry.nothing_kept) == (page.top, (), False)
    for options in (KEEPING, NO_FUNCTIONS):
        entry = space.enter("c", "t", options)
        assert isinstance(entry, Entry)
        assert (entry.history, entry.nothing_kept) == (None, False)


def test_a_channel_is_numbered_for_subscribers_that_ask_for_it(space: MemorySpace) -> None:
    space.enter("c", "s", KEEPING, since=POSITION_ONLY)
    assert space.history_size().bytes == 0
    space.enter("c", "t", KEEPING, numbered=True)  # without positions in the answer
    assert space.history_size().bytes == 0
    space.enter("c", "u", KEEPING, since=POSITION_ONLY, numbered=True)
    assert space.history_size().bytes > 0


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_cached_channel_that_keeps_nothing_owes_a_cache_miss(
    space: MemorySpace, node: Silent, *, cached: bool, observed: bool, wanted: bool
) -> None:
    space.want(Wants(cache=wanted))
    options = Options(keep=KEEP, cached=cached, observed=observed)
    space.enter("c", "s", options)
    misses = [CacheMiss("c")] if cached and observed and wanted else []
    assert node.owed == misses
    node.owed.clear()
    space.publish([Event("c", "n", b"1", keep=KEEP), Event("c", "n", b"1", keep=KEEP)])
    assert node.owed == ([CacheFilled("c")] if wanted else [])
    node.owed.clear()
    space.enter("c", "t", options)
    assert node.owed == []


# -- Publishes with terms --------------------------------------------------------------------


def test_a_publish_without_terms_has_no_answer(space: MemorySpace) -> None:
    assert space.publish([Event("c", "n", b"1", keep=KEEP)]) is None


def test_positions_are_those_after_each_event_also_of_events_that_are_not_kept(
    space: MemorySpace, node: Silent
) -> None:
    events = [
        Event("a", "1", b"1", keep=KEEP),
        Event("a", "2", b"1"),
        Event("b", "3", b"1"),
        Event("a", "4", b"1", keep=KEEP),
        Event("a", "5", b"1", keep=KEEP),
    ]
    published = space.publish(events, Terms(keeps=[KEEP, KEEP, KEEP, None, KEEP]))
    assert published is not None
    offsets = [position and position.offset for position in published.positions]
    assert offsets == [1, 1, 0, None, 3]
    assert [event.name for event in node.events] == ["1", "2", "3", "4", "5"]
    # The position of the channel without an event is known from now on.
    page = space.history("b", published.positions[2], KEEP)  # type: ignore[arg-type]
    assert isinstance(page, Page)
    assert published.counts == {}
    assert space.publish(events[:1], Terms()) == Published()


def test_counts_are_those_of_the_channels_after_all_events(space: MemorySpace) -> None:
    space.enter("presence-c", "s", NO_FUNCTIONS, member=Member("ann", None))
    space.enter("presence-c", "t", NO_FUNCTIONS, member=Member("ann", None))
    events = [Event("presence-c", "n", b"1"), Event("d", "n", b"1"), Event("d", "m", b"1")]
    published = space.publish(events, Terms(counts=True))
    assert published == Published(counts={"presence-c": Counts(2, 1), "d": Counts(0, 0)})


def test_client_events_with_terms_are_owed(space: MemorySpace, node: Silent) -> None:
    space.want(Wants(client_events=True))
    sent = Event("c", "client-n", b"1", owed=True)
    space.publish([sent, Event("c", "n", b"1"), Event("c", "m", b"1", keep=KEEP)], Terms())
    assert node.owed == [sent]


def test_a_repeated_key_is_answered_and_not_published(
    space: MemorySpace, node: Silent, clock: Clock
) -> None:
    terms = Terms(keeps=[KEEP], counts=True, key="k", fingerprint=b"f")
    event = Event("c", "n", b"1", keep=KEEP)
    first = space.publish([event], terms)
    assert first is not None
    assert (first.repeated, first.fingerprint) == (False, b"f")
    space.enter("c", "s", KEEPING)
    clock.now += KEY_TTL_S - 0.1
    other = Terms(key="k", fingerprint=b"other")
    for again in (terms, other):
        assert space.publish([event], again) == structs.replace(first, repeated=True)
    assert len(node.events) == 1
    clock.now += 0.1
    assert space.publish([event], other) == Published(fingerprint=b"other")
    assert len(node.events) == 2


def test_keys_of_an_app_are_not_those_of_another(clock: Clock) -> None:
    engine = MemoryEngine(clock, wall=clock.unix_s, epoch="e")
    for app_id in "12":
        space = engine.space(app_id, Silent(), NOTHING_WANTED)
        assert space.publish([], Terms(key="k")) == Published()


def test_an_engine_in_this_process_is_available(space: MemorySpace, clock: Clock) -> None:
    assert space.available("c")
    assert MemoryEngine(clock, wall=clock.unix_s, epoch="e").available


def test_an_app_has_its_space_once(clock: Clock, node: Silent) -> None:
    engine = MemoryEngine(clock, wall=clock.unix_s, epoch="e")
    engine.space("1", node, NOTHING_WANTED)
    with pytest.raises(AssertionError, match="has its space already"):
        engine.space("1", node, NOTHING_WANTED)


def test_a_channel_that_all_have_left_holds_nothing(space: MemorySpace) -> None:
    members = [Member(str(number % 2), None) for number in range(3)]
    for number, member in enumerate(members):
        space.enter("presence-c", str(number), NO_FUNCTIONS, member=member)
    assert space.users("presence-c") == ["0", "1"]
    for number, member in enumerate(members):
        space.leave([("presence-c", NO_FUNCTIONS, member)], str(number))
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
        space.enter(channel, "first", NO_FUNCTIONS, member=entering)
        tracemalloc.start()
        try:
            for number in range(10_000):
                space.enter(channel, f"{number}", NO_FUNCTIONS, member=entering)
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


# -- The bound -------------------------------------------------------------------------------


def test_all_apps_share_one_bound_and_evictions_name_the_app(clock: Clock) -> None:
    evictions: list[tuple[str, int]] = []
    engine = MemoryEngine(
        clock,
        wall=clock.unix_s,
        epoch="e",
        evicted=lambda app_id, count: evictions.append((app_id, count)),
        history_max_bytes=5 * (EVENT_OVERHEAD_BYTES + RECORD_OVERHEAD_BYTES + 100),
    )
    spaces = {app_id: engine.space(app_id, Silent(), NOTHING_WANTED) for app_id in "12"}
    for app_id, channels in (("1", "abcd"), ("2", "ef")):
        for channel in channels:
            spaces[app_id].publish([Event(channel, "n", b"x" * 97, keep=KEEP)])
    assert evictions == [("1", 1)]
    assert [names(spaces["1"], channel) for channel in "abcd"] == [[], ["n"], ["n"], ["n"]]
    assert [names(spaces["2"], channel) for channel in "ef"] == [["n"], ["n"]]


def test_epochs_of_channels_are_short_whatever_names_the_life_of_the_engine(clock: Clock) -> None:
    epochs = set()
    for epoch in ("a long name of a life 1", "a long name of a life 2"):
        engine = MemoryEngine(clock, wall=clock.unix_s, epoch=epoch)
        page = engine.space("1", Silent(), NOTHING_WANTED).history("c", POSITION_ONLY, KEEP)
        epochs.add(page.top.epoch)
    assert len(epochs) == 2
    assert all(len(one) <= 12 for one in epochs)
