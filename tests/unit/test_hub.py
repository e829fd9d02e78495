"""The hub: who hears what, in which order, and what it costs."""

from collections.abc import Sequence
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.hub import channel as channel_module
from heliograph.hub.channel import MAX_CHUNK_BYTES, Subscription
from heliograph.hub.facts import Member, MemberAdded
from heliograph.hub.hub import FLUSH_BUDGET, Hub
from tests.unit.fakes import FakeSubscriber, RecordingLane, event


class Wakes:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def hub() -> Hub:
    return Hub(Wakes())


def crowd(hub: Hub, size: int, lane: RecordingLane, channel: str = "chat") -> list[FakeSubscriber]:
    subscribers = [FakeSubscriber(str(number)) for number in range(size)]
    for subscriber in subscribers:
        hub.subscribe(subscriber, channel, lane)
    return subscribers


def flush_all(hub: Hub, budget: int = FLUSH_BUDGET) -> int:
    writes = 0
    while hub.pending:
        writes += hub.flush(budget)
    return writes


def test_only_events_are_in_a_hurry() -> None:
    """Members may wait a little, until an event comes: they go before it then."""
    wake, hurry = Wakes(), Wakes()
    hub = Hub(wake, None, hurry)
    (one,) = crowd(hub, 1, RecordingLane(), "presence-a")
    hub.publish(MemberAdded("presence-a", Member("ann")))
    hub.publish(MemberAdded("presence-a", Member("bob")))
    assert (wake.count, hurry.count) == (1, 0)
    for _ in range(2):
        hub.publish(event("hi", "presence-a"))
        assert (wake.count, hurry.count) == (1, 1)
    flush_all(hub)
    assert one.heard == ["+ann", "+bob", "hi", "hi"]
    hub.publish(event("hi", "presence-a"))
    assert (wake.count, hurry.count) == (1, 2)
    flush_all(hub)
    hub.publish(MemberAdded("presence-a", Member("cy")))
    assert (wake.count, hurry.count) == (2, 2)


def test_an_event_for_nobody_is_in_no_hurry() -> None:
    wake, hurry = Wakes(), Wakes()
    Hub(wake, None, hurry).publish(event("hi"))
    assert (wake.count, hurry.count) == (0, 0)


def test_publish_encodes_once_per_lane(hub: Hub) -> None:
    """A thousand subscribers on two lanes cost two encodings."""
    lanes = RecordingLane("a"), RecordingLane("b")
    crowds = [crowd(hub, 500, lane) for lane in lanes]

    hub.publish(event("hi"))

    assert flush_all(hub) == 1000
    assert [lane.encoded for lane in lanes] == [1, 1]
    assert {tuple(one.chunks) for one in crowds[0]} == {("ahi ",)}
    assert {tuple(one.chunks) for one in crowds[1]} == {("bhi ",)}


def test_a_flush_makes_one_write_a_subscriber_however_much_is_pending(hub: Hub) -> None:
    lane = RecordingLane()
    subscribers = crowd(hub, 100, lane)

    for number in range(50):
        hub.publish(event(f"e{number}"))

    assert hub.flush() == 100
    assert (lane.encoded, lane.joined) == (50, 1)
    assert subscribers[42].heard == [f"e{number}" for number in range(50)]
    assert hub.counters.deliveries == 5000


def test_an_excluded_subscriber_costs_the_others_no_encoding(hub: Hub) -> None:
    lane = RecordingLane()
    subscribers = crowd(hub, 100, lane)

    for number in range(10):
        hub.publish(event(f"e{number}", except_id=str(number)))

    assert hub.flush() == 100
    assert lane.encoded == 10
    assert len({id(one.chunks[0]) for one in subscribers[10:]}) == 1
    for number in range(10):
        assert subscribers[number].heard == [f"e{other}" for other in range(10) if other != number]


def test_nothing_is_written_to_whom_everything_excludes(hub: Hub) -> None:
    subscribers = crowd(hub, 2, RecordingLane())

    hub.publish(event("hi", except_id="0"))

    assert hub.flush() == 1
    assert subscribers[0].chunks == []


def test_a_subscriber_receives_no_event_from_before_its_subscription(hub: Hub) -> None:
    lane = RecordingLane()
    (first,) = crowd(hub, 1, lane)
    late = FakeSubscriber("late")

    hub.publish(event("before"))
    hub.subscribe(late, "chat", lane)
    hub.publish(event("after"))
    flush_all(hub)

    assert first.heard == ["before", "after"]
    assert late.heard == ["after"]
    assert lane.encoded == 2


def test_a_thousand_joins_in_a_tick_cost_one_write_a_member(hub: Hub) -> None:
    """Joining forces no flush, and each newcomer hears what was said after it."""
    lane = RecordingLane()
    subscribers = [FakeSubscriber(str(number)) for number in range(1000)]
    for number, subscriber in enumerate(subscribers):
        hub.publish(event(f"e{number}"))
        hub.subscribe(subscriber, "chat", lane)

    assert flush_all(hub) == 999
    assert lane.encoded == 999  # the first was said to an empty channel
    assert subscribers[0].heard == [f"e{number}" for number in range(1, 1000)]
    assert subscribers[998].heard == ["e999"]


def test_nothing_is_delivered_after_unsubscribe(hub: Hub) -> None:
    lane = RecordingLane()
    stays, leaves = FakeSubscriber("stays"), FakeSubscriber("leaves")
    hub.subscribe(stays, "chat", lane)
    handle = hub.subscribe(leaves, "chat", lane)

    hub.publish(event("hi"))
    hub.unsubscribe(handle)
    flush_all(hub)

    assert stays.heard == ["hi"]
    assert leaves.heard == []


def test_a_handle_is_given_back_once(hub: Hub) -> None:
    handle = hub.subscribe(FakeSubscriber("1"), "chat", RecordingLane())
    hub.unsubscribe(handle)
    with pytest.raises(AssertionError):
        hub.unsubscribe(handle)


def test_a_subscriber_may_hold_several_subscriptions_to_one_channel(hub: Hub) -> None:
    lane = RecordingLane()
    twice = FakeSubscriber("twice")
    first = hub.subscribe(twice, "chat", lane)
    hub.subscribe(twice, "chat", lane)

    hub.publish(event("a"))
    flush_all(hub)
    hub.unsubscribe(first)
    hub.publish(event("b"))
    flush_all(hub)

    assert twice.heard == ["a", "a", "b"]


def test_drop_leaves_no_trace(hub: Hub) -> None:
    lane = RecordingLane()
    subscriber = FakeSubscriber("1")
    handles = [hub.subscribe(subscriber, f"c{number}", lane) for number in range(100)]

    hub.drop(handles)

    assert len(hub) == 0
    hub.publish(event("hi", "c1"))
    assert not hub.pending


def test_publishing_wakes_once_until_flushed() -> None:
    wake = Wakes()
    hub = Hub(wake)
    lane = RecordingLane()
    crowd(hub, 1, lane, "a")
    crowd(hub, 1, lane, "b")

    hub.publish(event("1", "a"))
    hub.publish(event("2", "b"))
    assert wake.count == 1

    hub.flush()
    hub.publish(event("3", "a"))
    assert wake.count == 2


def test_a_large_fan_out_is_done_in_turns_and_lets_small_channels_through(hub: Hub) -> None:
    lane = RecordingLane()
    large = crowd(hub, 2000, lane, "large")
    (small,) = crowd(hub, 1, lane, "small")

    hub.publish(event("hi", "large"))
    assert hub.flush() == FLUSH_BUDGET
    hub.publish(event("ho", "small"))
    hub.publish(event("again", "large"))
    assert hub.flush() == FLUSH_BUDGET
    assert small.heard == ["ho"]
    flush_all(hub)

    assert {tuple(one.heard) for one in large} == {("hi", "again")}
    assert lane.encoded == 3


def test_a_crowd_of_small_channels_does_not_hold_a_large_one_up(hub: Hub) -> None:
    lane = RecordingLane()
    large = crowd(hub, 2000, lane, "large")
    names = [f"small-{number}" for number in range(FLUSH_BUDGET)]
    for name in names:
        crowd(hub, 1, lane, name)

    hub.publish(event("hi", "large"))
    hub.flush()
    for _ in range(2 * 2000 // FLUSH_BUDGET):
        for name in names:
            hub.publish(event("ho", name))
        hub.flush()

    assert {tuple(one.heard) for one in large} == {("hi",)}


def test_who_leaves_or_joins_during_a_walk_is_respected(hub: Hub) -> None:
    lane = RecordingLane()
    subscribers = [FakeSubscriber(str(number)) for number in range(600)]
    handles = [hub.subscribe(subscriber, "chat", lane) for subscriber in subscribers]
    late = FakeSubscriber("late")

    hub.publish(event("hi"))
    hub.flush()
    hub.unsubscribe(handles[599])
    hub.unsubscribe(handles[0])
    hub.subscribe(late, "chat", lane)
    hub.publish(event("ho"))
    flush_all(hub)

    assert subscribers[599].heard == []
    assert subscribers[0].heard == ["hi"]
    assert late.heard == ["ho"]
    assert subscribers[300].heard == subscribers[598].heard == ["hi", "ho"]


def test_an_event_during_a_flush_reaches_the_remaining_subscribers_in_it(hub: Hub) -> None:
    """Everybody is written to once a round, and waits for one round at the most."""
    lane = RecordingLane()
    subscribers = crowd(hub, 10, lane)

    hub.publish(event("a"))
    assert hub.flush(4) == 4
    hub.publish(event("b"))
    assert hub.flush(4) == 4
    hub.publish(event("c", except_id="9"))
    assert flush_all(hub) == 2 + 8

    assert {tuple(one.chunks) for one in subscribers[:4]} == {("a ", "b c ")}
    assert {tuple(one.chunks) for one in subscribers[4:8]} == {("a b ", "c ")}
    assert subscribers[8].chunks == ["a b c "]
    assert subscribers[9].heard == ["a", "b"]
    assert lane.encoded == 3


def test_a_burst_of_joins_costs_less_than_two_writes_a_member(hub: Hub) -> None:
    """In turns as they were seen; each join is told to everybody who is there."""
    lane = RecordingLane()
    members = burst(hub, lane, (7, 107, 512, 300, 74), FLUSH_BUDGET)

    assert lane.encoded == len(members) - 1  # the first one told nobody
    assert hub.counters.writes <= 1.7 * len(members)


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 6))
def test_every_member_hears_of_all_who_join_after_it(turns: list[int], budget: int) -> None:
    burst(Hub(Wakes()), RecordingLane(), turns, budget)


def burst(hub: Hub, lane: RecordingLane, turns: Sequence[int], budget: int) -> list[FakeSubscriber]:
    """Have so many join in each turn, with a flush at its end; check what they hear."""
    members: list[FakeSubscriber] = []
    for newcomers in turns:
        for _ in range(newcomers):
            members.append(FakeSubscriber(f"{len(members)}"))
            hub.publish(event(members[-1].id))
            hub.subscribe(members[-1], "chat", lane)
        hub.flush(budget)
    flush_all(hub, budget)
    names = [one.id for one in members]
    assert [one.heard for one in members] == [names[at + 1 :] for at in range(len(names))]
    return members


def test_a_subscriber_added_between_two_flushes_receives_later_events(hub: Hub) -> None:
    lane = RecordingLane()
    crowd(hub, 300, lane)
    hub.publish(event("a"))
    assert hub.flush() == 256
    hub.publish(event("b"))
    assert hub.flush() == 44  # and the next walk, of b, is due
    late = FakeSubscriber("late")
    hub.subscribe(late, "chat", lane)
    hub.publish(event("c"))
    flush_all(hub)
    assert late.heard == ["c"]


def test_a_fault_in_one_lane_tells_nobody_anything_twice(hub: Hub) -> None:
    class FaultyLane(RecordingLane):
        def encode(self, _fact: object, /) -> str:
            raise ZeroDivisionError

    lane = RecordingLane()
    before = crowd(hub, 4, lane)
    crowd(hub, 1, FaultyLane())
    after = crowd(hub, 1, lane)
    hub.publish(event("a"))
    hub.flush(3)
    hub.publish(event("b"))
    with pytest.raises(ZeroDivisionError):
        hub.flush(3)
    flush_all(hub)
    assert [one.heard for one in before] == [["a", "b"]] * 4
    assert len(after[0].heard) == len(set(after[0].heard))


def test_a_lane_that_everybody_left_is_not_encoded_for(hub: Hub) -> None:
    lane, other = RecordingLane(), RecordingLane()
    crowd(hub, 10, lane)
    last = hub.subscribe(FakeSubscriber("last"), "chat", other)
    hub.publish(event("a"))
    hub.flush(4)
    hub.publish(event("b"))
    hub.flush(8)
    hub.unsubscribe(last)
    for _ in range(20):
        hub.publish(event("c"))
        hub.flush(4)
    flush_all(hub)
    assert (lane.encoded, other.encoded) == (22, 2)


def test_what_a_large_channel_was_told_is_not_kept_for_each_turn(hub: Hub) -> None:
    crowd(hub, 200, RecordingLane())
    for number in range(60):
        hub.publish(event(f"e{number}"))
        hub.flush(4)
    batch = next(iter(hub._walked)).walk
    assert batch is not None
    assert len(batch._chunks) <= channel_module.KEPT_CHUNKS
    flush_all(hub)


def test_a_lane_may_cut_a_chunk_into_pieces(hub: Hub) -> None:
    class Cutting(RecordingLane):
        def cut(self, chunk: str, parts: Sequence[tuple[int, int]], /) -> list[str]:
            return [chunk[begin:end] for begin, end in parts]

    subscribers = crowd(hub, 3, Cutting())
    for number in range(5):
        hub.publish(event(f"e{number}", except_id=str(number)))
    flush_all(hub)
    assert subscribers[0].chunks == ["e1 e2 e3 e4 "]
    assert subscribers[1].chunks == ["e0 ", "e2 e3 e4 "]
    assert subscribers[2].chunks == ["e0 e1 ", "e3 e4 "]
    assert hub.counters.deliveries == 12


def test_a_lane_that_fails_once_holds_nobody_up_for_ever(hub: Hub) -> None:
    class FaultyLane(RecordingLane):
        def encode(self, fact: object, /) -> str:
            if getattr(fact, "name", "") == "bad":
                raise ZeroDivisionError
            return super().encode(fact)  # type: ignore[arg-type]  # it is an event

    lane = FaultyLane()
    subscribers = crowd(hub, 10, lane)
    hub.publish(event("a"))
    hub.flush(4)
    hub.publish(event("bad"))
    failures = 0
    while hub.pending:
        try:
            hub.flush(4)
        except ZeroDivisionError:
            failures += 1
    subscribers += crowd(hub, 1, lane)
    hub.publish(event("b"))
    flush_all(hub)

    assert failures
    assert [one.heard for one in subscribers] == [["a", "b"]] * 4 + [["b"]] * 7


def test_no_chunk_is_larger_than_a_healthy_client_takes_at_once(hub: Hub) -> None:
    class BytesLane:
        def encode(self, _fact: object, /) -> bytes:
            return b"x" * 100_000

        def join(self, encoded: list[bytes], /) -> bytes:
            return b"".join(encoded)

    subscriber = FakeSubscriber("1")
    hub.subscribe(subscriber, "chat", BytesLane())  # type: ignore[arg-type]  # a lane of bytes
    for _ in range(7):
        hub.publish(event("hi"))
    flush_all(hub)

    assert [len(chunk) for chunk in subscriber.chunks] == [200_000, 200_000, 200_000, 100_000]
    assert max(map(len, subscriber.chunks)) <= MAX_CHUNK_BYTES


class Model:
    """What the hub must do, said without a thought for cost."""

    def __init__(self) -> None:
        self.members: dict[Subscription, tuple[FakeSubscriber, str]] = {}
        self.expected: dict[str, list[str]] = {}

    def publish(self, name: str, channel: str, except_id: str | None) -> None:
        for subscriber, subscribed in self.members.values():
            if subscribed == channel and subscriber.id != except_id:
                self.expected[subscriber.id].append(f"{channel}/{name}")


steps = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 5), st.sampled_from("xy")),
        st.tuples(st.just("leave"), st.integers(0, 5), st.sampled_from("xy")),
        st.tuples(st.just("say"), st.integers(-1, 5), st.sampled_from("xy")),
        st.tuples(st.just("flush"), st.integers(1, 4), st.just("")),
    ),
    max_size=60,
)


@pytest.mark.parametrize("chunk_size", [MAX_CHUNK_BYTES, 12])
@settings(max_examples=1000)
@given(steps)
def test_subscribers_receive_each_event_once_and_in_order(
    chunk_size: int,
    story: list[tuple[str, int, str]],
) -> None:
    """
    For every order of joining, leaving, saying and partial flushing: each subscriber that stays
    hears, channel by channel, exactly what was said since it joined, in order, once; whether it
    fits into one chunk or not.
    """
    with mock.patch.object(channel_module, "MAX_CHUNK_BYTES", chunk_size):
        live_through(story)


def live_through(story: list[tuple[str, int, str]]) -> None:
    hub, model = Hub(Wakes()), Model()
    lanes = RecordingLane(), RecordingLane()
    places: dict[tuple[int, str], Subscription] = {}
    serial = iter(range(1000))
    for what, number, channel in story:
        place = places.get((number, channel))
        if what == "join" and place is None:
            subscriber = FakeSubscriber(f"{number}")
            handle = hub.subscribe(subscriber, channel, lanes[number % 2])
            places[number, channel] = handle
            model.members[handle] = (subscriber, channel)
            model.expected.setdefault(subscriber.id, [])
        elif what == "leave" and place is not None:
            hub.unsubscribe(places.pop((number, channel)))
            subscriber, _ = model.members.pop(place)
            # What was said in the meantime may or may not have been written: drop the claim.
            model.expected[subscriber.id] = [
                heard
                for heard in model.expected[subscriber.id]
                if not heard.startswith(channel + "/")
            ]
        elif what == "say":
            name = f"e{next(serial)}"
            except_id = None if number < 0 else str(number)
            hub.publish(event(name, channel, except_id))
            model.publish(name, channel, except_id)
        elif what == "flush":
            hub.flush(number)
    flush_all(hub)

    for subscriber, channel in model.members.values():
        expected = [
            heard.removeprefix(channel + "/")
            for heard in model.expected[subscriber.id]
            if heard.startswith(channel + "/")
        ]
        assert subscriber.heard == expected


COUNTED = ("bytes", "deliveries", "encodings", "facts", "joins", "writes")


# -- One fact, the fast way ------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.booleans()), max_size=12),
    st.sampled_from([None, "0", "1", "2", "9"]),
    st.integers(0, 2),
)
def test_a_single_fact_is_written_as_a_batch_of_one_would_be(
    subscriptions: list[tuple[int, int, bool]], except_id: str | None, before: int
) -> None:
    """To the same subscribers, once each, and counted the same."""

    def written(*, fast: bool) -> tuple[list[list[str]], dict[str, int], int, list[int]]:
        hub = Hub(Wakes())
        lanes = RecordingLane("a"), RecordingLane("b")
        everybody = [FakeSubscriber(str(number)) for number in range(4)]
        kept = hub.subscribe(FakeSubscriber("kept"), "chat", lanes[0])
        channel = kept.channel
        for number in range(before):
            hub.publish(event(f"e{number}"))
            flush_all(hub)
        late = []
        for number, lane, joins_late in subscriptions:
            if joins_late:
                late.append((everybody[number], lanes[lane]))
            else:
                hub.subscribe(everybody[number], "chat", lanes[lane])
        hub.publish(event("hi", except_id=except_id))
        for subscriber, its_lane in late:
            hub.subscribe(subscriber, "chat", its_lane)
        pending, channel.pending = channel.pending, None
        assert pending is not None
        if fast:
            writes = channel._write_one(pending[0])
        else:
            batch = channel_module.Batch(channel.next - 1, pending, hub.counters)
            writes = channel._write(batch, channel.subscriptions)
        counters = {name: getattr(hub.counters, name) for name in COUNTED}
        chunks = [one.chunks for one in everybody]
        return chunks, counters, writes, [lane.encoded for lane in lanes]

    assert written(fast=True) == written(fast=False)
