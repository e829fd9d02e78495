"""The kept events of an app: numbering, expiry, pages, and the bound of their bytes."""

import tracemalloc
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.engine.answers import (
    POSITION_ONLY,
    FromTime,
    Gap,
    GapReason,
    HistorySize,
    Page,
    Rewind,
    Since,
)
from heliograph.engine.base import EVENT_OVERHEAD_BYTES, NUMBERED_TTLS, PAGE_BYTES
from heliograph.engine.history import (
    EXPIRED_AT_ONCE,
    RECORD_OVERHEAD_BYTES,
    AppHistory,
    HistoryBudget,
)
from heliograph.hub.facts import Event, Keep, Position

TTL_S = 10.0
KEEP = Keep(3, TTL_S)
MANY = Keep(1000, TTL_S)
START = 1000.0
AHEAD = 1_700_000_000.0
"""The difference of the wall clock to the monotonic one."""

LARGE = 1 << 30


class World:
    """The history of some apps with one bound, a clock, and the evictions."""

    def __init__(self, max_bytes: int = LARGE, apps: str = "1") -> None:
        self.now = START
        self.ahead = AHEAD
        self.evictions: list[tuple[str, int]] = []
        self.budget = HistoryBudget(
            max_bytes, lambda app, count: self.evictions.append((app, count))
        )
        self.apps = {app: AppHistory(app, f"life{app}", self.budget, self.now) for app in apps}

    def add(
        self, channel: str, name: str = "n", keep: Keep = KEEP, *, size: int = 4, app: str = "1"
    ) -> Position:
        """Keep an event; return its position."""
        kept = self.apps[app].add(Event(channel, name, b"x" * size, keep=keep), keep, self.now)
        assert (kept.channel, kept.name, kept.data) == (channel, name, b"x" * size)
        assert kept.position is not None
        return kept.position

    def read(
        self,
        channel: str,
        since: Since,
        *,
        app: str = "1",
        asked: Keep | None = None,
        limit: int = 0,
        max_bytes: int = PAGE_BYTES,
    ) -> Page | Gap:
        return self.apps[app].read(
            channel,
            since,
            self.now,
            self.now + self.ahead,
            asked=asked,
            limit=limit,
            max_bytes=max_bytes,
            times=True,
        )

    def names(self, channel: str, since: Since, *, app: str = "1") -> str:
        """The names of the events from *since* on, or the reason of the gap."""
        page = self.read(channel, since, app=app)
        if isinstance(page, Gap):
            return page.reason.name
        assert not page.more
        return " ".join(event.name for event in page.events)

    def kept(self, channel: str, *, app: str = "1") -> str:
        return self.names(channel, Rewind(count=LARGE), app=app)

    def top(self, channel: str) -> Position:
        page = self.read(channel, POSITION_ONLY)
        assert page.top == (page.top if isinstance(page, Gap) else page.position)
        return page.top

    def size(self, app: str = "1") -> HistorySize:
        return self.apps[app].size(self.now)


def event_bytes(channel: str, name: str = "n", size: int = 4) -> int:
    return len(channel) + len(name) + size + EVENT_OVERHEAD_BYTES


def record_bytes(channel: str) -> int:
    return len(channel) + RECORD_OVERHEAD_BYTES


@pytest.fixture
def world() -> World:
    return World()


# -- Numbering ---------------------------------------------------------------------------------


def test_the_offsets_of_each_channel_begin_with_one(world: World) -> None:
    first = world.add("a")
    assert [world.add("a").offset, world.add("b").offset, world.add("a").offset] == [2, 1, 3]
    assert first.offset == 1
    assert world.top("a") == Position(first.epoch, 3)


def test_an_event_stays_as_it_was_published_but_for_its_position(world: World) -> None:
    event = Event("c", "n", b"1", except_id="1.2", user_id="ann", keep=KEEP, owed=True)
    kept = world.apps["1"].add(event, KEEP, world.now)
    position = Position(world.top("c").epoch, 1)
    assert kept == Event("c", "n", b"1", "1.2", "ann", KEEP, owed=True, position=position)
    page = world.read("c", Rewind(count=1))
    assert isinstance(page, Page)
    assert page.events == [kept]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        *((-1, "TRIMMED"), (0, "TRIMMED"), (2, "TRIMMED"), (3, "4 5 6"), (5, "6"), (6, "")),
        (7, "AHEAD"),
    ],
)
def test_a_position_is_continued_from_the_last_event_that_was_trimmed_up_to_the_top(
    world: World, offset: int, expected: str
) -> None:
    for name in "123456":
        epoch = world.add("c", name).epoch
    assert world.names("c", Position(epoch, offset)) == expected
    assert world.names("c", Position("another", offset)) == "EPOCH"


def test_a_position_is_continued_when_nothing_is_kept_any_more(world: World) -> None:
    world.add("c", "1")
    second = world.add("c", "2")
    world.now += TTL_S
    assert world.kept("c") == ""
    assert world.names("c", second) == ""
    assert world.names("c", Position(second.epoch, 1)) == "TRIMMED"
    assert world.add("c", "3") == Position(second.epoch, 3)
    assert world.names("c", second) == "3"


def test_the_numbering_is_known_for_ten_times_to_live_after_the_last_event(world: World) -> None:
    world.add("c")
    world.now += 1
    last = world.add("c")
    world.now += NUMBERED_TTLS * TTL_S - 0.1
    assert world.names("c", last) == ""
    world.now += 0.1
    assert world.names("c", last) == "EPOCH"
    assert world.names("c", world.top("c")) == ""
    again = world.add("c", "new")
    assert again.offset == 1
    assert again.epoch != last.epoch
    assert world.names("c", last) == "EPOCH"


def test_a_channel_that_was_forgotten_never_has_an_earlier_epoch_again(world: World) -> None:
    epochs = []
    for _ in range(20):
        epochs.append(world.add("c").epoch)
        world.add("other")
        world.now += NUMBERED_TTLS * TTL_S
    assert len(set(epochs)) == 20


def test_apps_and_lives_have_epochs_of_their_own() -> None:
    world = World(apps="12")
    assert world.add("c", app="1").epoch != world.add("c", app="2").epoch


def test_a_position_that_was_asked_for_is_continued_with_the_first_event(world: World) -> None:
    """Also if records of other channels, which have an epoch in common with it, are forgotten."""
    world.add("other")
    asked = world.apps["1"].top("c", KEEP, world.now)
    page = world.read("d", POSITION_ONLY, asked=KEEP)
    world.now += NUMBERED_TTLS * TTL_S - 1
    assert world.apps["1"].top("c", KEEP, world.now) == asked
    assert world.read("d", POSITION_ONLY, asked=KEEP) == page
    world.now += 2
    world.add("another")  # the record of `other` is forgotten
    assert world.top("unknown").epoch != asked.epoch
    assert (world.add("c", "1"), world.add("d", "1")) == (
        Position(asked.epoch, 1),
        Position(page.top.epoch, 1),
    )
    assert world.names("c", asked) == "1"


def test_a_channel_of_which_a_position_was_asked_long_ago_is_forgotten(world: World) -> None:
    world.apps["1"].top("c", KEEP, world.now)
    world.now += NUMBERED_TTLS * TTL_S - 1
    assert world.size().bytes == record_bytes("c")
    world.now += 1
    assert world.size() == HistorySize(0, 0, 0)


def test_a_position_is_known_for_as_long_as_the_rule_at_the_last_question_has_it(
    world: World,
) -> None:
    world.apps["1"].top("c", KEEP, world.now)
    world.apps["1"].top("c", Keep(3, 2 * TTL_S), world.now)
    world.now += 2 * NUMBERED_TTLS * TTL_S - 1
    assert world.size().bytes == record_bytes("c")
    world.now += 1
    assert world.size().bytes == 0


def test_reading_makes_no_record_unless_positions_are_asked_for(world: World) -> None:
    world.read("c", POSITION_ONLY)
    world.read("c", FromTime(0.0))
    assert world.size().bytes == 0
    world.read("c", POSITION_ONLY, asked=KEEP)
    assert world.size() == HistorySize(0, record_bytes("c"), 0)


@pytest.mark.parametrize(
    ("offset", "expected"), [(-1, "TRIMMED"), (0, ""), (1, "AHEAD"), (None, "EPOCH")]
)
def test_a_channel_without_a_record_has_the_position_before_its_first_event(
    world: World, offset: int | None, expected: str
) -> None:
    top = world.top("c")
    assert top.offset == 0
    since = Position("another", 0) if offset is None else Position(top.epoch, offset)
    assert world.names("c", since) == expected


# -- Expiry ------------------------------------------------------------------------------------


def test_each_event_expires_by_its_own_time(world: World) -> None:
    """Also while younger events keep the channel alive."""
    for name in "123":
        world.add("c", name)
        world.now += 4
    assert world.kept("c") == "2 3"
    world.now = START + 14
    assert world.kept("c") == "3"
    world.add("c", "4")
    world.now = START + 18
    assert world.kept("c") == "4"


def test_an_event_is_kept_for_its_time_and_no_longer(world: World) -> None:
    world.add("c", "1")
    world.now = START + TTL_S - 0.001
    assert world.apps["1"].keeps("c", world.now)
    assert world.kept("c") == "1"
    world.now = START + TTL_S
    assert not world.apps["1"].keeps("c", world.now)
    assert world.kept("c") == ""
    assert world.size().events == 0


def test_a_channel_without_events_keeps_none(world: World) -> None:
    assert not world.apps["1"].keeps("c", world.now)
    world.apps["1"].top("c", KEEP, world.now)
    assert not world.apps["1"].keeps("c", world.now)


def test_a_rule_that_keeps_fewer_events_applies_from_the_next_event_on(world: World) -> None:
    for name in "123":
        world.add("c", name)
    assert world.kept("c") == "1 2 3"
    world.add("c", "4", Keep(2, TTL_S))
    assert world.kept("c") == "3 4"
    world.add("c", "5", Keep(3, TTL_S))
    assert world.kept("c") == "3 4 5"


def test_an_event_with_a_longer_time_to_live_does_not_change_those_before_it(world: World) -> None:
    world.add("c", "1")
    world.now += 1
    world.add("c", "2", Keep(3, 50.0))
    world.now = START + TTL_S
    assert world.kept("c") == "2"
    world.now = START + 50
    assert world.kept("c") == "2"
    world.now = START + 51
    assert world.kept("c") == ""


def test_an_event_expires_with_a_later_one_that_has_a_shorter_time_to_live(world: World) -> None:
    """Events that are kept follow each other: without the second, the first is not whole."""
    first = world.add("c", "1", Keep(3, 50.0))
    world.now += 1
    world.add("c", "2")
    world.now = START + TTL_S
    assert world.kept("c") == "1 2"
    assert world.names("c", Position(first.epoch, 0)) == "1 2"
    world.now = START + TTL_S + 1
    assert world.kept("c") == ""
    assert world.names("c", first) == "TRIMMED"
    world.add("c", "3")
    assert world.kept("c") == "3"


def test_records_expire_when_events_are_kept_in_other_channels(world: World) -> None:
    for number in range(10):
        world.add(f"c{number}")
        world.now += 1
    assert world.apps["1"].used == 10 * (event_bytes("c0") + record_bytes("c0"))
    world.now += 4.5
    world.add("new")
    expected = 5 * event_bytes("c0") + 10 * record_bytes("c0")
    assert world.apps["1"].used == expected + event_bytes("new") + record_bytes("new")


def test_few_records_expire_at_once_and_all_of_them_for_metrics(world: World) -> None:
    for number in range(100):
        world.add(f"{number:02}", keep=Keep(1, TTL_S))
    world.now += TTL_S
    each = event_bytes("00")
    before = world.budget.used
    for more in range(1, 4):
        world.add("new", keep=Keep(1, 50.0))
        added = event_bytes("new") + record_bytes("new")
        assert before + added - world.budget.used == more * EXPIRED_AT_ONCE * each
    assert world.size().events == 1
    world.now += NUMBERED_TTLS * TTL_S
    world.apps["1"].top("new", KEEP, world.now)
    assert world.size() == HistorySize(0, record_bytes("new"), 0)
    world.now += NUMBERED_TTLS * 50
    assert world.size() == HistorySize(0, 0, 0)
    assert world.budget.apps == {}


def test_records_expire_when_positions_are_asked_for(world: World) -> None:
    """Also where nothing is published any more."""
    for number in range(3):
        world.add(f"{number}")
    world.now += NUMBERED_TTLS * TTL_S
    world.apps["1"].top("c", KEEP, world.now)
    assert world.budget.used == record_bytes("c")


def test_a_channel_that_is_forgotten_among_many_begins_anew(world: World) -> None:
    """The records that expire at once do not include its own."""
    for number in range(3 * EXPIRED_AT_ONCE):
        last = world.add(f"{number:02}")
    world.now += NUMBERED_TTLS * TTL_S
    again = world.add(f"{number:02}")
    assert again.offset == 1
    assert again.epoch != last.epoch
    assert world.size().bytes == event_bytes("00") + record_bytes("00")


def test_the_size_counts_events_bytes_and_channels_with_events(world: World) -> None:
    assert world.size() == HistorySize(0, 0, 0)
    world.add("a", "name", size=1)
    world.add("a", "other", size=2)
    world.add("bb", "n", size=3)
    size = sum((event_bytes("a", "name", 1), event_bytes("a", "other", 2), record_bytes("a")))
    size += event_bytes("bb", "n", 3) + record_bytes("bb")
    assert world.size() == HistorySize(3, size, 2)
    world.now += TTL_S
    assert world.size() == HistorySize(0, record_bytes("a") + record_bytes("bb"), 0)


# -- Reads from a time -------------------------------------------------------------------------


def since(seconds: float) -> FromTime:
    return FromTime(START + AHEAD + seconds)


def test_a_time_includes_the_events_of_that_time(world: World) -> None:
    world.now += 1
    for name in "123":
        world.add("c", name)
        world.now += 1
    assert world.names("c", since(0.5)) == "1 2 3"
    assert world.names("c", since(2)) == "2 3"
    assert world.names("c", since(2.1)) == "3"
    assert world.names("c", since(3.1)) == ""
    assert world.names("c", since(1e6)) == ""  # the future is now


def test_the_time_of_an_event_asks_for_it_again_when_it_was_rounded(world: World) -> None:
    for step in (0.01049, 0.3333333, 0.1):
        world.now += step
        world.add("c", f"{step}", MANY)
    page = world.read("c", Rewind(count=3))
    assert isinstance(page, Page)
    for index, at in enumerate(page.times):
        for rounded in (at, round(at, 3)):
            again = world.read("c", FromTime(rounded))
            assert isinstance(again, Page)
            assert again.events == page.events[index:]


def test_a_time_is_refused_if_an_event_then_or_later_is_not_kept(world: World) -> None:
    for name in "1234":
        world.now += 1
        world.add("c", name)
    assert world.names("c", since(1)) == "TRIMMED"
    assert world.names("c", since(1.5)) == "2 3 4"
    world.now = START + 12
    assert world.names("c", since(2)) == "TRIMMED"
    assert world.names("c", since(2.5)) == "3 4"
    world.now += TTL_S
    assert world.names("c", since(4)) == "TRIMMED"
    assert world.names("c", since(4.1)) == ""


def test_a_time_before_the_engine_started_is_refused(world: World) -> None:
    world.now += 5
    world.add("c", "1")
    for channel in ("c", "unknown"):
        assert world.names(channel, since(-1)) == "TRIMMED"
        assert world.names(channel, since(0)) == "TRIMMED"
    assert world.names("c", since(0.1)) == "1"
    assert world.names("unknown", since(0.1)) == ""


def test_a_time_is_refused_if_a_channel_may_have_been_forgotten_since(world: World) -> None:
    world.now += 1
    world.add("c")
    world.now += NUMBERED_TTLS * TTL_S
    assert world.size().bytes == 0
    for channel in ("c", "unknown"):
        assert world.names(channel, since(1)) == "TRIMMED"
        assert world.names(channel, since(1.1)) == ""
    world.add("c", "2")
    assert world.names("c", since(1)) == "TRIMMED"
    assert world.names("c", since(1.1)) == "2"


def test_a_step_of_the_wall_clock_makes_no_event_older(world: World) -> None:
    world.now += 1
    world.add("c", "1")
    world.now += 1
    world.ahead += 3600
    assert world.kept("c") == "1"
    assert world.names("c", FromTime(world.now + world.ahead - 1)) == "1"
    assert world.names("c", FromTime(world.now + world.ahead - 0.5)) == ""


# -- Rewind, and pages -------------------------------------------------------------------------


def test_a_rewind_has_what_is_kept_and_is_never_refused(world: World) -> None:
    assert world.names("unknown", Rewind(count=3)) == ""
    for name in "1234":
        world.add("c", name)
        world.now += 1
    assert world.names("c", Rewind(count=1)) == "4"
    assert world.names("c", Rewind(count=2)) == "3 4"
    assert world.names("c", Rewind(count=50)) == "2 3 4"
    assert world.names("c", Rewind(seconds=2)) == "3 4"
    assert world.names("c", Rewind(seconds=1.5)) == "4"
    assert world.names("c", Rewind(seconds=1e6)) == "2 3 4"
    assert world.names("c", POSITION_ONLY) == ""


def test_pages_follow_each_other_up_to_the_top(world: World) -> None:
    for name in "12345":
        world.add("c", name, MANY, size=100)
        world.now += 1
    top = world.top("c")
    two = 2 * (100 + EVENT_OVERHEAD_BYTES)
    page = world.read("c", Rewind(count=5), max_bytes=two)
    assert isinstance(page, Page)
    assert [event.name for event in page.events] == ["1", "2"]
    assert (page.position, page.top, page.more) == (Position(top.epoch, 2), top, True)
    assert page.times == [START + AHEAD, START + AHEAD + 1]
    page = world.read("c", page.position, max_bytes=two + 100 + EVENT_OVERHEAD_BYTES - 1)
    assert isinstance(page, Page)
    assert (page.position.offset, page.more) == (4, True)
    page = world.read("c", page.position, limit=1)
    assert isinstance(page, Page)
    assert ([event.name for event in page.events], page.position, page.more) == (["5"], top, False)
    page = world.read("c", page.position, limit=1)
    assert isinstance(page, Page)
    assert (page.events, page.position, page.more) == ([], top, False)


def test_a_page_has_one_event_at_least(world: World) -> None:
    world.add("c", "1", size=PAGE_BYTES)
    world.add("c", "2", size=1)
    page = world.read("c", Rewind(count=2))
    assert isinstance(page, Page)
    assert ([event.name for event in page.events], page.more) == (["1"], True)
    assert world.names("c", page.position) == "2"


# -- The bound ---------------------------------------------------------------------------------


def filled(events: int, *channels: str) -> int:
    """The bytes of so many events of channels with names of one letter, and of their records."""
    return events * event_bytes("c") + len(channels) * record_bytes("c")


def test_the_channel_that_was_quiet_the_longest_gives_way_and_its_numbering_goes_on() -> None:
    world = World(filled(6, *"abc"))
    for channel in "aabbca":
        last = world.add(channel)
        world.now += 0.1
    b = world.top("b")
    assert world.evictions == []
    world.add("c")
    assert [world.kept(channel) for channel in "abc"] == ["n n n", "", "n n"]
    assert world.evictions == [("1", 2)]
    assert world.names("b", b) == ""
    assert world.names("b", Position(b.epoch, 1)) == "TRIMMED"
    assert world.add("b") == Position(b.epoch, 3)
    assert world.top("a") == last


def test_records_without_events_go_before_events() -> None:
    world = World(filled(2, *"abcd"))
    quiet = world.add("q")
    world.now += TTL_S
    asked = world.apps["1"].top("p", KEEP, world.now)
    world.add("a")
    assert world.names("q", quiet) == ""
    world.add("b")
    assert world.evictions == []
    assert world.budget.used == filled(2, *"pqab")
    world.add("c", size=1)
    assert world.top("p").epoch == world.top("q").epoch  # both are forgotten
    assert asked.epoch != world.top("p").epoch
    assert world.names("q", quiet) == "EPOCH"
    assert [world.kept(channel) for channel in "abc"] == ["n", "n", "n"]
    assert world.evictions == []


def test_records_that_never_had_an_event_go_first_and_change_no_epoch() -> None:
    world = World(filled(1, *"abq"))
    quiet = world.add("q")
    world.now += TTL_S
    world.apps["1"].top("a", KEEP, world.now)
    world.now += 1
    asked = world.apps["1"].top("b", KEEP, world.now)
    world.add("c", size=0)
    assert world.budget.used == filled(1, *"bcq") - 4
    assert world.names("q", quiet) == ""
    assert world.top("a") == world.top("b") == asked
    world.add("d", size=0)
    assert world.budget.used == filled(2, *"cd") - 8
    assert world.names("q", quiet) == "EPOCH"


def test_a_channel_alone_loses_its_oldest_events_one_by_one() -> None:
    world = World(filled(3, "c"))
    for name in "1234":
        last = world.add("c", name, MANY)
    assert world.kept("c") == "2 3 4"
    world.add("c", "5", MANY, size=4 + 2 * event_bytes("c"))
    assert world.kept("c") == "5"
    assert world.top("c").epoch == last.epoch
    assert world.evictions == [("1", 1)] * 4


def test_an_event_above_the_bound_is_not_kept_but_numbered() -> None:
    world = World(filled(3, "c"))
    first = world.add("c", "1")
    assert world.add("c", "2", size=4000) == Position(first.epoch, 2)
    assert world.kept("c") == ""
    assert world.names("c", first) == "TRIMMED"
    assert world.evictions == [("1", 1), ("1", 1)]
    assert world.add("c", "3") == Position(first.epoch, 3)
    assert world.kept("c") == "3"


def test_a_bound_below_one_record_keeps_nothing() -> None:
    world = World(10)
    assert world.add("c").offset == 1
    assert (world.budget.used, world.budget.apps) == (0, {})
    assert world.kept("c") == ""


def test_an_app_above_its_equal_share_gives_way_to_the_others() -> None:
    world = World(filled(6, *"abcdef"), apps="12")
    for channel in "abcde":
        world.add(channel, app="1")
    world.add("f", app="2")
    world.add("g", app="1")
    assert [world.kept(channel, app="1") for channel in "abcdeg"] == ["", *("n" * 5)]
    assert world.kept("f", app="2") == "n"
    # The other app is below its share: the one that uses most gives way.
    world.evictions.clear()
    world.add("f", app="2")
    world.add("f", app="2")
    assert world.kept("f", app="2") == "n n n"
    assert {app for app, _ in world.evictions} == {"1"}


def test_an_app_that_uses_its_equal_share_keeps_it() -> None:
    world = World(filled(6, *"abcdef"), apps="12")
    for channel in "abcd":
        world.add(channel, app="2")
    for channel in "efg":
        world.add(channel, app="1")
    assert [world.kept(channel, app="1") for channel in "efg"] == ["n"] * 3
    assert world.evictions == [("2", 1)]


def test_the_newest_event_of_an_app_stays_if_another_app_has_older_ones() -> None:
    bound = filled(10, *"ab")
    world = World(bound, apps="12")
    for _ in range(4):
        world.add("a", keep=MANY, app="2")
    large = 7 * event_bytes("a")
    world.add("b", "large", MANY, size=large, app="1")
    assert world.kept("b", app="1") == "large"
    assert world.kept("a", app="2") == ""
    assert world.evictions == [("2", 4)]


def test_what_expired_makes_room_and_counts_as_nothing_evicted() -> None:
    world = World(filled(2, *"ab"))
    world.add("a")
    world.add("b")
    world.now += NUMBERED_TTLS * TTL_S
    world.add("c")
    world.add("d")
    assert [world.kept(channel) for channel in "cd"] == ["n", "n"]
    assert world.evictions == []


def test_the_overheads_that_are_counted_are_those_that_are_measured() -> None:
    world = World()
    keep = Keep(4, TTL_S)
    history = world.apps["1"]
    number = 44_000  # just above the size at which a dict grows, where it takes the most
    names = [f"channel-{index}" for index in range(number)]

    def add(index: int) -> None:
        data, name = b"x" * (100 + index % 2), f"name-{index}"
        history.add(Event(names[index], name, data, keep=keep), keep, world.now)

    def measured() -> int:
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        begin = measured()
        for name in names:
            history.top(name, keep, world.now)
        asked = measured()
        for index in range(number):
            add(index)
        added = measured()
        for index in range(number):
            add(index)
        again = measured()
    finally:
        tracemalloc.stop()
    event = (again - added) / number - 100 - len("name-10000")
    record = (asked - begin) / number
    lists = (added - asked) / number - (again - added) / number
    assert 150 < event < EVENT_OVERHEAD_BYTES
    assert 0.6 * RECORD_OVERHEAD_BYTES < record + lists < RECORD_OVERHEAD_BYTES


# -- Compared with models ----------------------------------------------------------------------


class Past(NamedTuple):
    """An event, as a model remembers it for ever."""

    name: str
    at: float
    keep: Keep


def kept_by_model(past: Sequence[Past], now: float) -> list[Past]:
    """
    Return the events of one numbering that are kept.

    An event is not if one that followed has more events after it than its rule keeps, or if it, or
    one that followed, has expired.
    """
    first = 0
    for index, event in enumerate(past):
        first = max(first, index + 1 - event.keep.count)
        if event.at + event.keep.ttl_s <= now:
            first = index + 1
    return list(past[first:])


KEEPS = [Keep(1, 4.0), Keep(3, 4.0), Keep(5, 20.0)]
STORIES = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 3, 17, 45]),
        st.sampled_from("abc"),
        st.sampled_from(KEEPS),
    ),
    max_size=40,
)


def lives(story: Sequence[Past], now: float) -> list[list[Past]]:
    """Return the events of a channel, split where its numbering was forgotten; the last is now."""
    found: list[list[Past]] = [[]]
    for event in story:
        if is_over(found[-1], event.at):
            found.append([])
        found[-1].append(event)
    return [*found, []] if is_over(found[-1], now) else found


def is_over(life: Sequence[Past], now: float) -> bool:
    """Return whether the numbering of a channel is not known any more."""
    return bool(life) and life[-1].at + NUMBERED_TTLS * life[-1].keep.ttl_s <= now


@given(STORIES, st.integers(0, 50), st.integers(1, 4))
@settings(max_examples=150)
def test_positions_rewinds_and_pages_are_those_of_a_model_that_forgets_nothing(
    story: list[tuple[int, str, Keep]], late: int, limit: int
) -> None:
    world = World()
    past: dict[str, list[Past]] = {"a": [], "b": [], "c": []}
    epochs: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for number, (pause, channel, keep) in enumerate(story):
        world.now += pause
        position = world.add(channel, str(number), keep)
        past[channel].append(Past(str(number), world.now, keep))
        assert position.offset == len(lives(past[channel], world.now)[-1])
        if position.offset == 1:
            assert position.epoch not in epochs[channel]
            epochs[channel].append(position.epoch)
        assert position.epoch == epochs[channel][-1]
    world.now += late
    for channel, events in past.items():
        life = lives(events, world.now)[-1]
        top = world.top(channel)
        assert top.offset == len(life)
        kept = kept_by_model(life, world.now)
        assert world.apps["1"].keeps(channel, world.now) == bool(kept)
        compare_positions(world, channel, kept)
        compare_rewinds(world, channel, kept)
        compare_pages(world, channel, kept, limit)
        for epoch in set(epochs[channel]) - {top.epoch}:
            assert world.names(channel, Position(epoch, top.offset)) == "EPOCH"


def compare_positions(world: World, channel: str, kept: Sequence[Past]) -> None:
    top = world.top(channel)
    low = top.offset - len(kept)
    for offset in range(-1, top.offset + 2):
        expected = " ".join(event.name for event in kept[max(0, offset - low) :])
        if offset > top.offset:
            expected = "AHEAD"
        elif offset < low:
            expected = "TRIMMED"
        assert world.names(channel, Position(top.epoch, offset)) == expected


def compare_rewinds(world: World, channel: str, kept: Sequence[Past]) -> None:
    for count in range(1, 7):
        last = [event.name for event in kept[-count:]]
        assert world.names(channel, Rewind(count=count)) == " ".join(last)
    for seconds in (1, 4, 18):
        young = [event.name for event in kept if event.at >= world.now - seconds]
        assert world.names(channel, Rewind(seconds=seconds)) == " ".join(young)


def compare_pages(world: World, channel: str, kept: Sequence[Past], limit: int) -> None:
    top = world.top(channel)
    at = Position(top.epoch, top.offset - len(kept))
    collected: list[str] = []
    more = True
    while more:
        page = world.read(channel, at, limit=limit)
        assert isinstance(page, Page)
        assert len(page.events) <= limit
        assert [event.position for event in page.events] == [
            Position(top.epoch, at.offset + index + 1) for index in range(len(page.events))
        ]
        collected += [event.name for event in page.events]
        at, more = page.position, page.more
    assert collected == [event.name for event in kept]
    assert at == top


@given(STORIES, st.integers(0, 60))
@settings(max_examples=150)
def test_a_time_has_all_events_from_then_on_or_is_refused_for_a_reason(
    story: list[tuple[int, str, Keep]], late: int
) -> None:
    world = World()
    past: dict[str, list[Past]] = {"a": [], "b": [], "c": [], "d": []}
    for number, (pause, channel, keep) in enumerate(story):
        world.now += pause
        world.add(channel, str(number), keep)
        past[channel].append(Past(str(number), world.now, keep))
    world.now += late
    forgotten = START  # the last event of any numbering that is over, or the start
    for events in past.values():
        for life in lives(events, world.now)[:-1]:
            forgotten = max(forgotten, life[-1].at)
    for channel, events in past.items():
        kept = kept_by_model(lives(events, world.now)[-1], world.now)
        times = {START - 1, START, world.now + 5, *(event.at for event in events)}
        for at in times | {one + 0.5 for one in times}:
            page = world.read(channel, FromTime(at + AHEAD))
            wanted = [event for event in events if event.at >= at]
            if isinstance(page, Page):
                assert [event.name for event in page.events] == [event.name for event in wanted]
                assert at > START
            else:
                assert page.reason is GapReason.TRIMMED
                assert at <= forgotten or any(event not in kept for event in wanted)


class Bounded:
    """
    A model of the bound of one app: its channels, with the times and sizes of their events.

    It has no orders that it keeps up: it finds each time, from all that there is, what has to go.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.events: dict[str, list[tuple[float, int]]] = {}
        self.used_at: dict[str, tuple[float, int]] = {}  # of each record, and a running number
        self.numbered: set[str] = set()
        self.lost = 0

    def add(self, channel: str, now: float, size: int, number: int) -> None:
        self.expire(now, channel)
        self.used_at[channel] = (now, number)
        self.numbered.add(channel)
        self.events.setdefault(channel, []).append((now, size))
        self.shrink(channel, now)

    def ask(self, channel: str, now: float, number: int) -> None:
        self.expire(now, None)
        if channel not in self.numbered:
            self.used_at[channel] = (now, number)
        self.shrink(None, now)

    def expire(self, now: float, used: str | None) -> None:
        for channel, (at, _) in list(self.used_at.items()):
            if at + NUMBERED_TTLS * TTL_S <= now:
                self.forget(channel)
            elif at + TTL_S <= now or channel == used:
                self.expire_events(channel, now)

    def expire_events(self, channel: str, now: float) -> bool:
        """Remove the expired events of a channel: when it is used, and when all have expired."""
        events = self.events.get(channel, [])
        left = self.events[channel] = [one for one in events if one[0] + TTL_S > now]
        return len(left) < len(events)

    def forget(self, channel: str) -> None:
        del self.used_at[channel]
        self.events.pop(channel, None)
        self.numbered.discard(channel)

    @property
    def used(self) -> int:
        events = sum(size for one in self.events.values() for _, size in one)
        return events + sum(map(record_bytes, self.used_at))

    def shrink(self, newest: str | None, now: float) -> None:
        while self.used > self.max_bytes:
            oldest_first = sorted(self.used_at, key=lambda channel: self.used_at[channel])
            asked = [one for one in oldest_first if one not in self.numbered]
            quiet = [one for one in oldest_first if one in self.numbered and not self.events[one]]
            live = [one for one in oldest_first if self.events.get(one) and one != newest]
            if asked or quiet:
                self.forget((asked or quiet)[0])
            elif live:
                if not self.expire_events(live[0], now):
                    self.lost += len(self.events[live[0]])
                    self.events[live[0]] = []
            else:
                assert newest is not None
                self.lost += 1
                self.events[newest].pop(0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0, 1, 7]),
            st.sampled_from("abcdef"),
            st.sampled_from([0, 10, 400, 900]),
            st.booleans(),
        ),
        max_size=40,
    ),
    st.integers(0, 4),
)
@settings(max_examples=150)
def test_under_the_bound_the_events_of_the_most_recent_channels_are_kept(
    story: list[tuple[int, str, int, bool]], events: int
) -> None:
    world = World(filled(events, *"abc") + 500)
    model = Bounded(world.budget.max_bytes)
    for number, (pause, channel, size, asks) in enumerate(story):
        world.now += pause
        world.size()  # all that is due expires
        if asks:
            world.apps["1"].top(channel, MANY, world.now)
            model.ask(channel, world.now, number)
        else:
            world.add(channel, keep=MANY, size=size)
            model.add(channel, world.now, event_bytes(channel, "n", size), number)
        assert world.budget.used == model.used
        assert set(world.apps["1"]._records) == set(model.used_at)
    assert sum(count for _, count in world.evictions) == model.lost
    for channel in "abcdef":
        model.expire_events(channel, world.now)
        assert len(world.kept(channel).split()) == len(model.events[channel])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0, 1, 30, 200]),
            st.sampled_from("123"),
            st.sampled_from("abcd"),
            st.sampled_from([0, 100, 3000]),
            st.sampled_from(KEEPS),
            st.booleans(),
        ),
        max_size=40,
    )
)
@settings(max_examples=100)
def test_whatever_is_kept_and_asked_for_the_bytes_are_counted_and_within_the_bound(
    story: list[tuple[int, str, str, int, Keep, bool]],
) -> None:
    world = World(filled(5, *"abcde"), apps="123")
    for pause, app, channel, size, keep, asks in story:
        world.now += pause
        if asks:
            world.read(channel, POSITION_ONLY, app=app, asked=keep)
        else:
            world.add(channel, keep=keep, size=size, app=app)
        assert 0 <= world.budget.used <= world.budget.max_bytes
        assert world.budget.used == sum(one.used for one in world.apps.values())
        assert set(world.budget.apps) == {one for one in world.apps.values() if one.used}
        for one, history in world.apps.items():
            kept = [len(world.kept(each, app=one).split()) for each in "abcd"]
            size_now = history.size(world.now)
            assert size_now.events >= sum(kept)
            assert size_now.channels == sum(map(bool, kept))
    world.now += NUMBERED_TTLS * 20.0
    assert [history.size(world.now) for history in world.apps.values()] == [
        HistorySize(0, 0, 0)
    ] * 3
    assert (world.budget.used, world.budget.apps) == (0, {})
    assert all(not history._ages for history in world.apps.values())
