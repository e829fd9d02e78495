"""
The contract of an engine's history, as tests: the second part of `suite`.

An engine's author adds `HistoryContract` to the class that derives from `EngineContract`, and
`SharedHistoryContract` to the one that derives from `SharedContract`. `FaultHistoryContract` tests
history when links and the state fail, `BoundedHistoryContract` an engine that has little memory.

The tests fail with AssertionError by `assert`, so that pytest shows the difference.
"""

from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest

from heliograph.engine.answers import (
    POSITION_ONLY,
    CacheMiss,
    Counts,
    Entry,
    FromTime,
    Gap,
    GapReason,
    Lost,
    Options,
    Page,
    Published,
    Reason,
    Rewind,
    Since,
    Terms,
)
from heliograph.engine.base import (
    ENTER_DEADLINE_S,
    EVENT_OVERHEAD_BYTES,
    KEY_TTL_S,
    NUMBERED_TTLS,
    PAGE_BYTES,
    PUBLISH_DEADLINE_S,
)
from heliograph.engine.testing.app_state import Bounds
from heliograph.engine.testing.cluster import Answer, Cluster, FaultyCluster, Node
from heliograph.engine.testing.suite import (
    ANN,
    BOB,
    NO_OPTIONS,
    ClusterTests,
    FaultyClusterTests,
    ask,
    cut_off,
    enter,
    event,
    leave,
    names,
    owed,
    pass_time,
    record_entry,
    tick,
)
from heliograph.errors import OutcomeUnknown, Unavailable
from heliograph.hub.facts import Event, Keep, MemberAdded, Position, SubscriptionCount

THREE = Keep(3, 30.0)
MANY = Keep(1000, 30.0)
BRIEF = Keep(3, 1.0)
FLEETING = Keep(3, 0.2)
LASTING = Keep(3, 3600.0)
"""Rules; a test with a real clock sleeps for a multiple of their times."""

EVERYTHING = Rewind(count=1_000_000)
LONG_AGO_S = 1e6
"""More seconds than any engine of a test has served."""


def publish(
    cluster: Cluster,
    node: Node,
    names: Iterable[str],
    channel: str = "chat",
    *,
    keep: Keep | None = THREE,
) -> None:
    """Publish an event for each of *names*, all in one call."""
    ask(cluster, node.space.publish([event(name, channel, keep=keep) for name in names]))


def large(size: int, name: str, channel: str = "chat") -> Event:
    """Make an event with *size* bytes of data, which is kept."""
    return Event(channel, name, b'"%s"' % (b"x" * (size - 2)), keep=MANY)


def size_of(events: Iterable[Event]) -> int:
    """Return the bytes that *events* count with in a page."""
    return sum(len(one.data) + EVENT_OVERHEAD_BYTES for one in events)


def page(found: object) -> Page:
    """Return an answer that has events, or could have some."""
    assert isinstance(found, Page)
    return found


def gap(found: object) -> Gap:
    """Return an answer that is a gap."""
    assert isinstance(found, Gap)
    return found


def history(
    cluster: Cluster,
    node: Node,
    since: Since = EVERYTHING,
    channel: str = "chat",
    *,
    keep: Keep = THREE,
    **bounds: int,
) -> Page | Gap:
    """Read the history of a channel, and check that what was found holds together."""
    found: Page | Gap = ask(cluster, node.space.history(channel, since, keep, **bounds))
    if isinstance(found, Page):
        assert len(found.times) == len(found.events)
        check_page(found)
    return found


def check_page(found: Page) -> None:
    """Check that the events of a page follow each other, and end with its position."""
    offsets = [position_of(one).offset for one in found.events]
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets))) if offsets else True
    assert {position_of(one).epoch for one in found.events} <= {found.top.epoch}
    assert found.position.epoch == found.top.epoch
    assert found.position.offset <= found.top.offset
    if offsets:
        assert found.position.offset == offsets[-1]


def read(
    cluster: Cluster, node: Node, since: Since, channel: str = "chat", *, keep: Keep = THREE
) -> Page | Gap:
    """Read the history of a channel, and check that a new subscriber gets the same."""
    found = history(cluster, node, since, channel, keep=keep)
    options = Options(keep=keep)
    entry = enter(cluster, node, channel, "reader", options, since=since, numbered=True)
    leave(cluster, node, channel, "reader", options)
    if isinstance(found, Gap):
        assert entry.history == found
    else:
        same = page(entry.history)
        check_page(same)
        assert contents(same.events) == contents(found.events)
        assert (same.position, same.top) == (found.position, found.top)
        assert not same.times
    return found


def kept(found: object) -> list[str]:
    """Return the names of the events of a page."""
    return [one.name for one in page(found).events]


def contents(events: Iterable[object]) -> list[tuple[str, bytes, Position | None]]:
    """Return what subscribers receive of those of *events* that are events."""
    return [(one.name, one.data, one.position) for one in events if isinstance(one, Event)]


def position_of(one: Event) -> Position:
    """Return the position of an event, which has one."""
    assert one.position is not None
    return one.position


def epoch_of(cluster: Cluster, node: Node, channel: str = "chat", *, keep: Keep = THREE) -> str:
    """Return the epoch of a channel."""
    return history(cluster, node, POSITION_ONLY, channel, keep=keep).top.epoch


def pages(
    cluster: Cluster,
    node: Node,
    since: Since = EVERYTHING,
    channel: str = "chat",
    *,
    limit: int = 0,
    max_bytes: int = PAGE_BYTES,
) -> list[Page]:
    """Read page after page of a channel, up to the end."""
    found: list[Page] = []
    while not found or found[-1].more:
        read_from = found[-1].position if found else since
        found.append(
            page(
                history(
                    cluster,
                    node,
                    read_from,
                    channel,
                    keep=MANY,
                    limit=limit,
                    max_bytes=max_bytes,
                )
            )
        )
        assert found[-1].events or not found[-1].more
    return found


def events_of(found: Iterable[Page]) -> list[Event]:
    """Return the events of several pages."""
    return [one for each in found for one in each.events]


class HistoryContract(ClusterTests):
    """The promises of every engine; with several nodes, one sends commands and another observes."""

    # -- Positions ---------------------------------------------------------------------------

    def test_kept_events_are_numbered_from_one_in_each_channel(self, cluster: Cluster) -> None:
        """Broken on purpose: if delivered events have no position, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        for channel in ("chat", "other"):
            enter(cluster, last, channel, "s")
        batch = [event("a", keep=THREE), event("x"), event("b", "other", keep=THREE)]
        ask(cluster, first.space.publish([*batch, event("c", keep=THREE)]))
        publish(cluster, last, ["d"])
        found = {one.name: one.position for one in last.local.facts if isinstance(one, Event)}
        assert found.pop("x") is None
        epoch = epoch_of(cluster, first)
        assert epoch
        assert found == {
            "a": Position(epoch, 1),
            "b": Position(epoch_of(cluster, first, "other"), 1),
            "c": Position(epoch, 2),
            "d": Position(epoch, 3),
        }
        for channel in ("chat", "other"):
            facts = [one for one in last.local.facts if one.channel == channel]
            kept_facts = [one for one in facts if isinstance(one, Event) and one.position]
            assert contents(page(read(cluster, first, EVERYTHING, channel)).events) == contents(
                kept_facts
            )

    def test_a_kept_event_is_returned_as_it_was_published(self, cluster: Cluster) -> None:
        """Broken on purpose: if a kept event loses the sender that it excludes, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        sent = Event("chat", "x", b'{"text":"\xc3\xa9"}', "1.1", "ann", THREE)
        ask(cluster, first.space.publish([sent]))
        for found in (
            history(cluster, last),
            enter(cluster, last, "chat", "s", Options(keep=THREE), since=EVERYTHING).history,
        ):
            (one,) = page(found).events
            assert (one.channel, one.name, one.data) == ("chat", "x", sent.data)
            assert (one.except_id, one.user_id) == ("1.1", "ann")
            assert one.position == page(found).top

    def test_a_position_is_continued_exactly_if_nothing_is_missing_after_it(
        self, cluster: Cluster
    ) -> None:
        """
        With one event more than the limit, and with twice as many.

        Broken on purpose: if what is left is returned instead of a gap, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        publish(cluster, first, "abcd")
        epoch = epoch_of(cluster, first)
        assert read(cluster, last, Position(epoch, 0)) == Gap(GapReason.TRIMMED, Position(epoch, 4))
        assert kept(read(cluster, last, Position(epoch, 1))) == ["b", "c", "d"]
        publish(cluster, last, "ef")
        for offset, left in ((3, "def"), (4, "ef"), (5, "f"), (6, "")):
            found = page(read(cluster, last, Position(epoch, offset)))
            assert kept(found) == list(left)
            assert found.position == found.top == Position(epoch, 6)
        for offset in range(3):
            assert read(cluster, last, Position(epoch, offset)) == Gap(
                GapReason.TRIMMED, Position(epoch, 6)
            )

    def test_a_position_before_the_first_event_is_continued(self, cluster: Cluster) -> None:
        """Broken on purpose: if the limit is one event less, this test fails."""
        node = cluster.nodes[-1]
        publish(cluster, node, "abc")
        epoch = epoch_of(cluster, node)
        assert kept(read(cluster, node, Position(epoch, 0))) == ["a", "b", "c"]

    def test_a_position_ahead_of_the_last_event_is_a_gap(self, cluster: Cluster) -> None:
        """Broken on purpose: if it has an empty page, this test fails."""
        node = cluster.nodes[-1]
        publish(cluster, node, "ab")
        epoch = epoch_of(cluster, node)
        assert read(cluster, node, Position(epoch, 3)) == Gap(GapReason.AHEAD, Position(epoch, 2))

    def test_a_position_of_another_numbering_is_a_gap(self, cluster: Cluster) -> None:
        """
        Also of a channel that never had an event; the gap's top is continued.

        Broken on purpose: if epochs are not compared, this test fails.
        """
        node = cluster.nodes[-1]
        publish(cluster, node, "ab")
        for channel, offset in (("chat", 2), ("nobody", 0)):
            for asked in (0, 1, 2, 3):
                found = gap(read(cluster, node, Position("another", asked), channel))
                assert found.reason is GapReason.EPOCH
                assert found.top.offset == offset
            publish(cluster, node, ["next"], channel)
            assert kept(read(cluster, node, found.top, channel)) == ["next"]

    def test_the_top_is_continued_when_nothing_is_kept_any_more(self, cluster: Cluster) -> None:
        """Broken on purpose: if a numbering ends with its events, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        publish(cluster, first, "ab", keep=FLEETING)
        epoch = epoch_of(cluster, first, keep=FLEETING)
        cluster.elapse(2 * FLEETING.ttl_s)
        top = Position(epoch, 2)
        found = page(read(cluster, last, top, keep=FLEETING))
        assert (kept(found), found.position, found.top) == ([], top, top)
        assert read(cluster, last, Position(epoch, 1), keep=FLEETING) == Gap(GapReason.TRIMMED, top)
        publish(cluster, last, "c", keep=FLEETING)
        found = page(read(cluster, last, top, keep=FLEETING))
        assert (kept(found), found.top) == (["c"], Position(epoch, 3))

    def test_numbering_ends_some_time_after_the_last_event(self, cluster: Cluster) -> None:
        """
        It goes on for ten times the time to live, and then begins with another epoch.

        Broken on purpose: if numberings are kept for ever, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, last, "chat", "s")
        publish(cluster, first, "a", keep=FLEETING)
        cluster.elapse((NUMBERED_TTLS - 1) * FLEETING.ttl_s)
        publish(cluster, first, "b", keep=FLEETING)
        a, b = (position_of(one) for one in last.local.facts if isinstance(one, Event))
        assert b == Position(a.epoch, 2)
        cluster.elapse((NUMBERED_TTLS + 1) * FLEETING.ttl_s)
        assert gap(read(cluster, last, b, keep=FLEETING)).reason is GapReason.EPOCH
        publish(cluster, first, "c", keep=FLEETING)
        c = position_of(page(history(cluster, last, keep=FLEETING)).events[0])
        assert c.offset == 1
        assert c.epoch != a.epoch
        assert gap(read(cluster, last, a, keep=FLEETING)).reason is GapReason.EPOCH

    def test_positions_of_an_empty_channel_are_continued(self, cluster: Cluster) -> None:
        """
        Those of a read and of an entry that asks for it; also when the time to live has passed.

        Broken on purpose: if the epoch of an empty channel is not remembered, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        options = Options(keep=FLEETING)
        entry = enter(cluster, last, "a", "s", options, since=POSITION_ONLY, numbered=True)
        entered = page(entry.history)
        asked = page(history(cluster, last, POSITION_ONLY, "b", keep=FLEETING))
        terms = Terms(keeps=(FLEETING,))
        (published,) = ask(cluster, first.space.publish([event("unkept", "c")], terms)).positions
        # Numberings that end meanwhile change no other one.
        publish(cluster, first, "x", "brief", keep=Keep(1, 0.02))
        cluster.elapse((NUMBERED_TTLS - 1) * FLEETING.ttl_s)
        history(cluster, first, POSITION_ONLY, "brief")
        for channel, position in (("a", entered.position), ("b", asked.top), ("c", published)):
            assert position.epoch
            assert position.offset == 0
            publish(cluster, first, ["x"], channel, keep=FLEETING)
            found = page(read(cluster, last, position, channel, keep=FLEETING))
            assert kept(found) == ["x"]
            assert found.top == Position(position.epoch, 1)

    # -- How long events are kept ------------------------------------------------------------

    def test_each_event_is_kept_for_its_own_time(self, cluster: Cluster) -> None:
        """
        While younger events keep the channel alive.

        Broken on purpose: if a channel expires as a whole, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        for name in "abc":
            publish(cluster, first, name, keep=BRIEF)
            cluster.elapse(0.4)
        epoch = epoch_of(cluster, last, keep=BRIEF)
        assert kept(read(cluster, last, EVERYTHING, keep=BRIEF)) == ["b", "c"]
        assert kept(read(cluster, last, Position(epoch, 1), keep=BRIEF)) == ["b", "c"]
        assert read(cluster, last, Position(epoch, 0), keep=BRIEF) == Gap(
            GapReason.TRIMMED, Position(epoch, 3)
        )
        cluster.elapse(BRIEF.ttl_s)
        assert kept(read(cluster, last, EVERYTHING, keep=BRIEF)) == []

    def test_a_rule_that_changed_applies_from_the_next_event_on(self, cluster: Cluster) -> None:
        """Broken on purpose: if a channel keeps its first rule, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        more = Keep(5, 30.0)
        publish(cluster, first, "abc")
        assert kept(history(cluster, last, keep=more)) == ["a", "b", "c"]
        publish(cluster, first, "def", keep=more)
        assert kept(history(cluster, last, keep=more)) == ["b", "c", "d", "e", "f"]
        assert kept(history(cluster, last, keep=THREE)) == ["b", "c", "d", "e", "f"]
        publish(cluster, first, "g")
        assert kept(history(cluster, last, keep=more)) == ["e", "f", "g"]
        epoch = epoch_of(cluster, last)
        assert gap(read(cluster, last, Position(epoch, 3))).reason is GapReason.TRIMMED

    def test_a_shorter_time_to_live_leaves_no_hole(self, cluster: Cluster) -> None:
        """
        An older event may be kept for longer than a younger one; a page never lacks one of them.

        Broken on purpose: if each event expires beside the others, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        publish(cluster, first, "a")
        publish(cluster, first, "b", keep=FLEETING)
        epoch = epoch_of(cluster, last)
        top = Position(epoch, 2)
        cluster.elapse(2 * FLEETING.ttl_s)
        assert read(cluster, last, Position(epoch, 0)) == Gap(GapReason.TRIMMED, top)
        assert read(cluster, last, Position(epoch, 1)) == Gap(GapReason.TRIMMED, top)
        assert kept(read(cluster, last, EVERYTHING)) == []
        publish(cluster, first, "c")
        assert kept(read(cluster, last, EVERYTHING)) == ["c"]
        assert kept(read(cluster, last, top)) == ["c"]

    def test_only_events_with_a_rule_are_kept(self, cluster: Cluster) -> None:
        """
        No events of clients, no transient ones, no members, no numbers.

        Broken on purpose: if every fact has a position, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        options = Options(counted=True, observed=True, keep=THREE)
        enter(cluster, last, "presence-p", "a", options, member=ANN)
        publish(cluster, first, ["kept"], "presence-p")
        sent = Event("presence-p", "client-x", b'"1"', "b", user_id="ann", owed=True)
        ask(cluster, first.space.publish([event("transient", "presence-p"), sent]))
        entry = enter(
            cluster, first, "presence-p", "b", options, member=BOB, since=EVERYTHING, numbered=True
        )
        found = page(entry.history)
        assert (kept(found), found.top.offset) == (["kept"], 1)
        facts = last.local.facts
        assert {type(one) for one in facts} >= {MemberAdded, SubscriptionCount, Event}
        delivered = [one for one in facts if isinstance(one, Event)]
        assert [(one.name, one.position is None) for one in delivered] == [
            ("kept", False),
            ("transient", True),
            ("client-x", True),
        ]
        assert kept(history(cluster, last, EVERYTHING, "presence-p")) == ["kept"]

    # -- From a time on ----------------------------------------------------------------------

    def test_history_from_a_time_on_includes_that_time(self, cluster: Cluster) -> None:
        """Broken on purpose: if an event of that time is left out, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        cluster.elapse(0.6)
        for name in "abc":
            publish(cluster, first, name)
            cluster.elapse(0.6)
        times = page(history(cluster, last)).times
        assert all(0.6 - 1e-3 <= after - before < 3.0 for before, after in pairwise(times))
        for index, time in enumerate(times):
            assert kept(read(cluster, last, FromTime(time))) == list("abc"[index:])
            assert kept(read(cluster, last, FromTime(time - 0.3))) == list("abc"[index:])
            assert kept(read(cluster, last, FromTime(time + 0.3))) == list("abc"[index + 1 :])

    def test_a_time_in_the_future_is_the_present(self, cluster: Cluster) -> None:
        """Broken on purpose: if it is refused, this test fails."""
        node = cluster.nodes[-1]
        publish(cluster, node, "ab")
        for channel, offset in (("chat", 2), ("nobody", 0)):
            found = page(read(cluster, node, FromTime(1e12), channel))
            assert (kept(found), found.position, found.top.offset) == ([], found.top, offset)

    def test_a_time_is_refused_if_a_later_event_is_no_longer_kept(self, cluster: Cluster) -> None:
        """
        Whether it was trimmed, or expired, or its numbering has ended.

        Broken on purpose: if what is left is returned instead of a gap, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        cluster.elapse(0.6)
        publish(cluster, first, "a")
        (time,) = page(history(cluster, last)).times
        cluster.elapse(0.6)
        publish(cluster, first, "bcd")
        top = Position(epoch_of(cluster, first), 4)
        for since in (time, time - 0.3):
            assert read(cluster, last, FromTime(since)) == Gap(GapReason.TRIMMED, top)
        assert kept(read(cluster, last, FromTime(time + 0.3))) == ["b", "c", "d"]
        publish(cluster, first, "x", "brief", keep=FLEETING)
        (time,) = page(history(cluster, last, EVERYTHING, "brief", keep=FLEETING)).times
        cluster.elapse(2 * FLEETING.ttl_s)
        found = gap(read(cluster, last, FromTime(time), "brief", keep=FLEETING))
        assert (found.reason, found.top.offset) == (GapReason.TRIMMED, 1)
        assert kept(read(cluster, last, FromTime(time + 0.2), "brief", keep=FLEETING)) == []
        cluster.elapse((NUMBERED_TTLS + 1) * FLEETING.ttl_s)
        found = gap(read(cluster, last, FromTime(time), "brief", keep=FLEETING))
        assert (found.reason, found.top.offset) == (GapReason.TRIMMED, 0)
        publish(cluster, first, "y", "brief", keep=FLEETING)
        assert isinstance(read(cluster, last, FromTime(time), "brief", keep=FLEETING), Gap)

    def test_a_time_before_the_engine_served_is_refused(self, cluster: Cluster) -> None:
        """
        Of a later time it is known that an unknown channel had no event.

        Broken on purpose: if the channel counts as empty since ever, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        cluster.elapse(0.6)
        publish(cluster, first, "a")
        (time,) = page(history(cluster, last)).times
        for channel in ("chat", "nobody"):
            found = gap(read(cluster, last, FromTime(time - LONG_AGO_S), channel))
            assert found.reason is GapReason.TRIMMED
        found_none = page(read(cluster, last, FromTime(time), "nobody"))
        assert (kept(found_none), found_none.top.offset) == ([], 0)

    # -- Rewind, and pages -------------------------------------------------------------------

    def test_rewind_returns_the_last_events_by_number_or_age(self, cluster: Cluster) -> None:
        """
        What is kept of them; it is never refused.

        Broken on purpose: if everything is returned, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        for name in "abcd":
            publish(cluster, first, name)
            cluster.elapse(0.6)
        for count, found_names in ((0, ""), (1, "d"), (2, "cd"), (3, "bcd"), (4, "bcd")):
            found = page(read(cluster, last, Rewind(count=count)))
            assert kept(found) == list(found_names)
            assert found.position == found.top == Position(epoch_of(cluster, first), 4)
        for seconds, found_names in ((0.3, ""), (0.9, "d"), (1.5, "cd"), (60.0, "bcd")):
            assert kept(read(cluster, last, Rewind(seconds=seconds))) == list(found_names)
        for since in (POSITION_ONLY, EVERYTHING, Rewind(seconds=9.0)):
            found = page(read(cluster, last, since, "nobody"))
            assert (kept(found), found.top.offset) == ([], 0)

    def test_pages_are_limited_in_number(self, cluster: Cluster) -> None:
        """Broken on purpose: if the limit is ignored, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        publish(cluster, first, "abcde", keep=MANY)
        beginning = Position(epoch_of(cluster, first), 0)
        found = pages(cluster, last, beginning, limit=2)
        assert [kept(one) for one in found] == [["a", "b"], ["c", "d"], ["e"]]
        assert {one.top.offset for one in found} == {5}
        assert [kept(one) for one in pages(cluster, last, Rewind(count=3), limit=2)] == [
            ["c", "d"],
            ["e"],
        ]
        assert kept(history(cluster, last, beginning, keep=MANY, limit=5)) == list("abcde")

    def test_pages_are_limited_in_bytes(self, cluster: Cluster) -> None:
        """
        An event that is larger than a page is alone in one.

        Broken on purpose: if the limit is ignored, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        events = [large(1000, "a"), large(1000, "b"), large(9000, "c"), large(1000, "d")]
        ask(cluster, first.space.publish([*events, large(1000, "e")]))
        max_bytes = size_of(events[:2])
        found = pages(cluster, last, EVERYTHING, max_bytes=max_bytes)
        assert [name for one in found for name in kept(one)] == list("abcde")
        for one in found:
            assert size_of(one.events) <= max_bytes or kept(one) == ["c"]
        assert [kept(one) for one in pages(cluster, last, EVERYTHING, max_bytes=1)] == [
            [name] for name in "abcde"
        ]

    def test_the_page_of_an_entry_is_bounded_and_the_rest_is_read_up_to_its_top(
        self, cluster: Cluster
    ) -> None:
        """
        The top is the position where facts begin.

        Broken on purpose: if an entry has all events that are kept, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        events = [large(20_000, f"e{number}") for number in range(8)]
        events.insert(2, large(PAGE_BYTES, "larger than a page"))
        for one in events:
            ask(cluster, first.space.publish([one]))
        beginning = Position(epoch_of(cluster, first, keep=MANY), 0)
        entry = enter(
            cluster, last, "chat", "s", Options(keep=MANY), since=beginning, numbered=True
        )
        found = page(entry.history)
        assert found.events
        assert size_of(found.events) <= PAGE_BYTES
        assert found.top.offset == len(events)
        last.local.calls.clear()
        ask(cluster, first.space.publish([large(100, "live")]))
        facts = contents(last.local.facts)
        assert [(name, place.offset) for name, _, place in facts if place] == [
            ("live", len(events) + 1)
        ]
        further = pages(cluster, last, found.position)
        replayed = events_of([found, *further])
        assert [one.name for one in replayed] == [*(one.name for one in events), "live"]
        for each in further:
            assert size_of(each.events) <= PAGE_BYTES or len(each.events) == 1
        alone = history(cluster, last, Position(beginning.epoch, 2), keep=MANY)
        assert kept(alone) == ["larger than a page"]

    def test_a_page_whose_events_were_trimmed_meanwhile_is_a_gap(self, cluster: Cluster) -> None:
        """Broken on purpose: if reading goes on behind the trimmed events, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        publish(cluster, first, "abc")
        found = page(history(cluster, last, limit=1))
        assert (kept(found), found.more) == (["a"], True)
        publish(cluster, first, "d")
        assert kept(history(cluster, last, found.position, limit=1)) == ["b"]
        publish(cluster, first, "e")
        assert history(cluster, last, found.position, limit=1) == Gap(
            GapReason.TRIMMED, Position(found.top.epoch, 5)
        )

    # -- Channels that are expected to keep an event -----------------------------------------

    def test_an_entry_knows_whether_anything_is_kept(self, cluster: Cluster) -> None:
        """Broken on purpose: if `nothing_kept` is always false, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        keeping = Options(keep=FLEETING)

        def entered(options: Options, since: Since | None) -> Entry:
            entry = enter(cluster, last, "chat", "s", options, since=since)
            leave(cluster, last, "chat", "s", options)
            return entry

        places: tuple[Since | None, ...] = (None, Rewind(count=1), POSITION_ONLY)
        for since in places:
            assert entered(keeping, since).nothing_kept
        publish(cluster, first, "x", keep=FLEETING)
        for since in (*places, Position("another", 0)):
            assert not entered(keeping, since).nothing_kept
        assert entered(keeping, None).history is None
        assert entered(NO_OPTIONS, None) == Entry(1)
        cluster.elapse(2 * FLEETING.ttl_s)
        assert entered(keeping, Rewind(count=1)).nothing_kept
        assert entered(NO_OPTIONS, None) == Entry(1)

    def test_a_miss_is_owed_only_of_cached_channels(self, cluster: Cluster) -> None:
        """Broken on purpose: if every channel that keeps events owes one, this test fails."""
        node = cluster.nodes[-1]
        enter(cluster, node, "history", "s", Options(observed=True, keep=THREE))
        enter(cluster, node, "unobserved", "s", Options(keep=THREE, cached=True))
        assert owed(cluster, CacheMiss) == []
        cached = Options(observed=True, keep=THREE, cached=True)
        enter(cluster, node, "cached", "s", cached, since=Rewind(count=1))
        assert owed(cluster, CacheMiss) == [CacheMiss("cached")]
        publish(cluster, node, "x", "cached")
        enter(cluster, node, "cached", "t", cached, since=Rewind(count=1))
        assert owed(cluster, CacheMiss) == [CacheMiss("cached")]

    # -- What publishers ask for -------------------------------------------------------------

    def test_a_publisher_gets_the_positions_that_it_asks_for(self, cluster: Cluster) -> None:
        """
        For each event the position of its channel after it, also if the event is not kept.

        Broken on purpose: if the answer has no positions, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, last, "chat", "s")
        events = [event("a", keep=THREE), event("b", "other"), event("c"), event("d", keep=THREE)]
        terms = Terms(keeps=(THREE, None, THREE, THREE))
        published = ask(cluster, first.space.publish(events, terms))
        assert isinstance(published, Published)
        epoch = epoch_of(cluster, first)
        assert list(published.positions) == [
            Position(epoch, 1),
            None,
            Position(epoch, 1),
            Position(epoch, 2),
        ]
        assert not published.counts
        assert not published.repeated
        assert names(last) == ["a", "c", "d"]

    def test_a_publisher_gets_the_counts_that_it_asks_for(self, cluster: Cluster) -> None:
        """Broken on purpose: if the answer has no counts, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, last, "presence-p", "s", member=ANN)
        enter(cluster, last, "presence-p", "t", member=ANN)
        events = [event("a", "presence-p"), event("b", "nobody"), event("c", "presence-p")]
        published = ask(cluster, first.space.publish(events, Terms(counts=True)))
        assert published.counts == {"presence-p": Counts(2, 1), "nobody": Counts(0, 0)}
        assert not any(published.positions)
        assert names(last, "presence-p") == ["a", "c"]

    def test_without_terms_a_publish_has_no_answer(self, cluster: Cluster) -> None:
        """Broken on purpose: if each publish has an answer, this test fails."""
        node = cluster.nodes[-1]
        assert ask(cluster, node.space.publish([event("a", keep=THREE)])) is None
        answer = ask(cluster, node.space.publish([event("a")], Terms()))
        assert isinstance(answer, Published)
        assert (len(answer.positions), len(answer.counts)) == (0, 0)
        assert (answer.fingerprint, answer.repeated) == (b"", False)

    def test_a_publish_with_the_same_key_is_not_delivered_again(self, cluster: Cluster) -> None:
        """
        From any node; it has the first answer.

        Broken on purpose: if keys are not remembered, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, last, "chat", "s")
        terms = Terms(keeps=(THREE,), counts=True, key="k", fingerprint=b"one")
        answer = ask(cluster, first.space.publish([event("a", keep=THREE)], terms))
        assert (answer.repeated, answer.fingerprint) == (False, b"one")
        enter(cluster, last, "chat", "t")
        for node, fingerprint in ((last, b"one"), (first, b"another")):
            terms = Terms(keeps=(THREE,), counts=True, key="k", fingerprint=fingerprint)
            again = ask(cluster, node.space.publish([event("b", keep=THREE)], terms))
            assert again == msgspec.structs.replace(answer, repeated=True)
        assert names(last) == ["a"]
        assert kept(history(cluster, last)) == ["a"]
        other = ask(cluster, first.space.publish([event("c", keep=THREE)], Terms(key="other")))
        assert not other.repeated
        ask(cluster, first.space.publish([event("d", keep=THREE)], Terms()))
        ask(cluster, first.space.publish([event("d", keep=THREE)], Terms()))
        assert names(last) == ["a", "c", "d", "d"]

    def test_a_key_is_forgotten_after_a_while(self, cluster: Cluster) -> None:
        """Broken on purpose: if keys are remembered for ever, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, last, "chat", "s")
        for name, repeated in (("a", False), ("b", True)):
            answer = ask(cluster, first.space.publish([event(name)], Terms(key="k")))
            assert answer.repeated is repeated
        cluster.elapse(KEY_TTL_S + 0.1)
        answer = ask(cluster, last.space.publish([event("c")], Terms(key="k")))
        assert not answer.repeated
        assert names(last) == ["a", "c"]


class SharedHistoryContract(HistoryContract):
    """The further promises of an engine that several nodes share."""

    def test_positions_are_the_same_on_all_nodes(self, cluster: Cluster) -> None:
        """Broken on purpose: if nodes number the events that they deliver, this test fails."""
        for node in cluster.nodes:
            enter(cluster, node, "chat", "s")
        for node in cluster.nodes:
            node.space.publish([event(f"event {id(node)}", keep=MANY)])
            node.space.publish([event(f"again {id(node)}", keep=MANY)])
        cluster.settle()
        seen = [contents(node.local.facts) for node in cluster.nodes]
        assert all(one == seen[0] for one in seen)
        offsets = [place.offset for _, _, place in seen[0] if place]
        assert offsets == list(range(1, 2 * len(cluster.nodes) + 1))
        for node in cluster.nodes:
            assert contents(page(history(cluster, node, keep=MANY)).events) == seen[0]

    def test_page_and_facts_of_a_newcomer_have_each_event_once(self, cluster: Cluster) -> None:
        """
        Its node had no subscription of the channel, and all messages are in transit at once.

        Broken on purpose: if the reply comes after facts that it should precede, this test fails.
        """
        witness, *others = cluster.nodes
        enter(cluster, witness, "chat", "w")
        publish(cluster, witness, ["first"], keep=MANY)
        beginning = Position(epoch_of(cluster, witness, keep=MANY), 0)
        for node in cluster.nodes:
            # Only facts and entries count here, not what is owed to the holder.
            node.local.calls = [one for one in node.local.calls if one[0] == "deliver"]
        options = Options(keep=MANY)
        for index, node in enumerate(others):
            witness.space.publish([event(f"before {index}", keep=MANY)])
            record_entry(node, "chat", "s", options, since=beginning, numbered=True)
            node.space.publish([event(f"after {index}", keep=MANY)])
            witness.space.publish([event(f"later {index}", keep=MANY)])
        cluster.settle()
        everything = contents(witness.local.facts)
        assert len(everything) == 1 + 3 * len(others)
        for node in others:
            calls = [one for one in node.local.calls if one[0] in {"entered", "deliver"}]
            assert [name for name, _ in calls].index("entered") == 0
            found = page(calls[0][1].history)
            assert found.position == found.top
            assert contents(found.events) + contents(node.local.facts) == everything

    def test_an_entry_has_the_events_since_the_last_one_on_another_node(
        self, cluster: Cluster
    ) -> None:
        """
        A client moves from node to node, and receives each event once.

        Broken on purpose: if an entry has everything that is kept, this test fails.
        """
        publisher = cluster.nodes[0]
        options = Options(keep=MANY)
        received: list[tuple[str, bytes, Position | None]] = []
        since: Since = POSITION_ONLY
        expected: list[str] = []
        for node in (*cluster.nodes, *cluster.nodes):
            node.local.calls.clear()
            publish(cluster, publisher, [f"away {len(expected)}"], keep=MANY)
            entry = enter(cluster, node, "chat", "s", options, since=since, numbered=True)
            found = page(entry.history)
            publish(cluster, publisher, [f"live {len(expected)}"], keep=MANY)
            leave(cluster, node, "chat", "s", options)
            new = contents(found.events) + contents(node.local.facts)
            received += new
            place = new[-1][2]
            assert place is not None
            since = place
            expected += [f"away {len(expected)}", f"live {len(expected)}"]
        assert [name for name, _, _ in received] == expected[1:]


class BoundedHistoryContract:
    """The promises of an engine whose kept events exceed their limit in bytes."""

    max_bytes = 100_000

    def make_small(self, max_bytes: int) -> Cluster:
        """Return a new cluster whose kept events have at most *max_bytes*, with overhead."""
        raise NotImplementedError

    def evicted(self, cluster: Cluster) -> int | None:  # noqa: ARG002 - for engines that count
        """Return the number of events that were evicted; None if the engine does not count them."""
        return None

    def test_the_channel_that_was_quiet_the_longest_loses_its_events_first(self) -> None:
        """
        All of them; its numbering goes on, and other channels keep their events.

        Broken on purpose: if none is evicted, this test fails.
        """
        cluster = self.make_small(self.max_bytes)
        first, last = cluster.nodes[0], cluster.nodes[-1]
        size = self.max_bytes // 10 - EVENT_OVERHEAD_BYTES
        for channel in ("busy", "quiet", "busy", "quiet", "busy", "other", "busy"):
            ask(cluster, first.space.publish([large(size, "x", channel)]))
        before = page(history(cluster, last, channel="quiet", keep=MANY))
        top = before.top
        assert (kept(before), top.offset) == (["x", "x"], 2)
        assert self.evicted(cluster) in {None, 0}
        for _ in range(3):
            ask(cluster, first.space.publish([large(size, "y", "busy")]))
        assert read(cluster, last, Position(top.epoch, 1), "quiet", keep=MANY) == Gap(
            GapReason.TRIMMED, top
        )
        assert kept(read(cluster, last, top, "quiet", keep=MANY)) == []
        assert self.evicted(cluster) in {None, 2}
        for channel, number in (("busy", 7), ("other", 1)):
            assert len(events_of(pages(cluster, last, channel=channel))) == number
        ask(cluster, first.space.publish([large(100, "z", "quiet")]))
        assert kept(read(cluster, last, top, "quiet", keep=MANY)) == ["z"]

    def test_a_channel_alone_loses_its_oldest_events_one_by_one(self) -> None:
        """
        The new event is kept.

        Broken on purpose: if none is evicted, this test fails.
        """
        cluster = self.make_small(self.max_bytes)
        node = cluster.nodes[-1]
        size = self.max_bytes // 10 - EVENT_OVERHEAD_BYTES
        for number in range(15):
            ask(cluster, node.space.publish([large(size, f"e{number}")]))
        events = events_of(pages(cluster, node))
        names = [one.name for one in events]
        assert names == [f"e{number}" for number in range(15 - len(names), 15)]
        assert self.max_bytes * 3 // 4 < size_of(events) <= self.max_bytes
        assert self.evicted(cluster) in {None, 15 - len(names)}
        top = position_of(events[-1])
        assert top.offset == 15
        low = position_of(events[0]).offset
        beginning = page(history(cluster, node, Position(top.epoch, low - 1), keep=MANY))
        assert kept(beginning)[0] == events[0].name
        assert history(cluster, node, Position(top.epoch, low - 2), keep=MANY) == Gap(
            GapReason.TRIMMED, top
        )

    def test_numberings_without_events_end_before_events_are_evicted(self) -> None:
        """
        Of channels that keep nothing any more; the number of their records is bounded.

        Broken on purpose: if such records do not count, this test fails.
        """
        cluster = self.make_small(self.max_bytes)
        node = cluster.nodes[-1]
        publish(cluster, node, "x", "events", keep=MANY)
        names = [f"channel {number} ".ljust(self.max_bytes // 50, "n") for number in range(40)]
        tops: list[Position] = []
        for index, channel in enumerate(names):
            if index and not index % 10:
                cluster.elapse(2 * FLEETING.ttl_s)
            publish(cluster, node, "y", channel, keep=FLEETING)
            tops.append(history(cluster, node, POSITION_ONLY, channel, keep=FLEETING).top)
        first = history(cluster, node, tops[0], names[0], keep=FLEETING)
        assert gap(first).reason is GapReason.EPOCH
        assert kept(history(cluster, node, tops[-1], names[-1], keep=FLEETING)) == []
        assert kept(history(cluster, node, channel="events", keep=MANY)) == ["x"]
        assert self.evicted(cluster) in {None, 0}


class FaultHistoryContract(FaultyClusterTests):
    """The promises of an engine's history when links, nodes and the state fail."""

    def test_kept_events_of_an_interruption_arrive_with_their_positions(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if the log has no positions, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "chat", "s")
        publish(cluster, other, "a")
        node.link.cut()
        publish(cluster, other, "bc")
        tick(cluster)
        epoch = epoch_of(cluster, other)
        assert [place for _, _, place in contents(node.local.facts)] == [
            Position(epoch, offset) for offset in (1, 2, 3)
        ]

    @pytest.mark.parametrize("executed", [0, 1])
    def test_history_of_an_entry_that_was_cut_off_joins_the_facts(
        self, cluster: FaultyCluster, executed: int
    ) -> None:
        """Broken on purpose: if the repeated entry has no history, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        publish(cluster, other, "ab")
        beginning = Position(epoch_of(cluster, other), 0)
        node.local.calls.clear()
        record_entry(node, "chat", "s", Options(keep=THREE), since=beginning, numbered=True)
        node.link.cut(executed=executed)
        publish(cluster, other, "c")
        tick(cluster)
        publish(cluster, other, "d")
        (entry,) = node.local.of("entered")
        found = page(entry.history)
        received = contents(found.events) + contents(node.local.facts)
        assert [name for name, _, _ in received] == ["a", "b", "c", "d"]
        assert found.top.offset == len(found.events)

    def test_a_state_that_lost_everything_has_other_epochs(self, cluster: FaultyCluster) -> None:
        """
        A position of before is a gap, also when there are as many events again.

        Broken on purpose: if its epochs are those of before, this test fails.
        """
        node, other = cluster.nodes[0], cluster.nodes[-1]
        publish(cluster, node, "ab")
        old = Position(epoch_of(cluster, node), 1)
        cluster.empty()
        cluster.heal()
        publish(cluster, node, "ab")
        found = gap(read(cluster, other, old))
        assert (found.reason, found.top.offset) == (GapReason.EPOCH, 2)

    def test_a_state_that_was_set_back_has_other_epochs(self, cluster: FaultyCluster) -> None:
        """
        It gives the same offsets to other events.

        Broken on purpose: if it goes on in the same epoch, this test fails.
        """
        node, other = cluster.nodes[0], cluster.nodes[-1]
        publish(cluster, node, "a")
        old = cluster.snapshot()
        publish(cluster, node, "b")
        seen = history(cluster, node).top
        cluster.restore(old)
        cluster.heal()
        publish(cluster, node, "c")
        assert gap(read(cluster, other, seen)).reason is GapReason.EPOCH

    def test_events_that_a_node_lost_are_read_up_to_the_position_of_the_loss(self) -> None:
        """Broken on purpose: if the loss has no position, this test fails."""
        cluster = self.make_bounded(Bounds(log_entries=2))
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "chat", "s", Options(keep=MANY))
        publish(cluster, other, "a", keep=MANY)
        node.link.cut()
        publish(cluster, other, "bcde", keep=MANY)
        tick(cluster)
        (loss,) = node.local.losses
        assert isinstance(loss, Lost)
        assert loss.reason is Reason.TRIMMED
        assert loss.now is not None
        begins = page(loss.now.history)
        assert begins.top == begins.position
        publish(cluster, other, "f", keep=MANY)
        facts = contents(node.local.facts)
        assert [name for name, _, _ in facts] == ["a", "f"]
        last_seen = facts[0][2]
        assert last_seen is not None
        missed = page(history(cluster, node, last_seen, keep=MANY)).events
        lost = [one.name for one in missed if position_of(one).offset <= begins.top.offset]
        assert lost == ["b", "c", "d", "e"]

    def test_a_publish_of_unknown_outcome_is_repeated_with_its_key(
        self, cluster: FaultyCluster
    ) -> None:
        """
        Executed or not before the connection was cut: it is delivered once.

        Broken on purpose: if keys are not remembered, this test fails.
        """
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, other, "chat", "s")
        for executed in (0, 1):
            terms = Terms(keeps=(THREE,), key=f"key {executed}")
            one = event(f"event {executed}", keep=THREE)
            answer = Answer(node.space.publish([one], terms))
            node.link.cut(executed=executed)
            tick(cluster)
            assert isinstance(answer.error, OutcomeUnknown)
            again = ask(cluster, other.space.publish([one], terms))
            assert again.repeated is bool(executed)
            assert again.positions[0].offset == executed + 1
        assert names(other) == ["event 0", "event 1"]

    def test_history_that_cannot_be_read_fails(self, cluster: FaultyCluster) -> None:
        """
        Neither a read nor an entry returns an empty page during an outage.

        Broken on purpose: if a read has no deadline, this test fails.
        """
        node, other = cluster.nodes[0], cluster.nodes[-1]
        publish(cluster, other, "a", keep=LASTING)
        cut_off(node)
        reading = Answer(node.space.history("chat", EVERYTHING, LASTING))
        options = Options(keep=LASTING)
        entering = Answer(node.space.enter("chat", "s", options, since=EVERYTHING, numbered=True))
        pass_time(cluster, PUBLISH_DEADLINE_S)
        assert isinstance(reading.error, Unavailable)
        assert not entering.came
        pass_time(cluster, ENTER_DEADLINE_S)
        assert isinstance(entering.error, Unavailable)
        cluster.heal()
        assert kept(read(cluster, node, EVERYTHING, keep=LASTING)) == ["a"]

    def test_history_outlives_the_node_that_published_it(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if the events of a removed node are lost, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "chat", "s", Options(keep=MANY))
        publish(cluster, node, "ab", keep=MANY)
        beginning = Position(epoch_of(cluster, node, keep=MANY), 0)
        node.declare_dead()
        cut_off(node)
        cluster.settle()
        assert kept(read(cluster, other, beginning, keep=MANY)) == ["a", "b"]
