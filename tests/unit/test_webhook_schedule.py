"""Batches, order, retries and bounds of what one receiver is owed."""

from collections import Counter
from collections.abc import Hashable
from itertools import chain, count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heliograph.webhooks.payload import body
from heliograph.webhooks.schedule import (
    EVENT_OVERHEAD_BYTES,
    OPEN,
    Agenda,
    Delivery,
    Limits,
    Outbox,
    QueuedEvent,
)


class Post:
    """An outbox and a clock."""

    def __init__(self, *, batching: bool = False, **limits: float) -> None:
        self.outbox = Outbox(Limits(**limits), batching=batching)  # type: ignore[arg-type]
        self.now = 0.0
        self._numbers = count(1)
        self._ids = count(1)

    def put(self, *streams: str) -> list[int]:
        """Queue an event of each stream; its text is its number."""
        dropped: list[QueuedEvent] = []
        for stream in streams:
            number = next(self._numbers)
            event = QueuedEvent(number, stream, b"%d" % number, self.now)
            dropped += self.outbox.put(event)
        return [event.number for event in dropped]

    def form(self) -> list[Delivery]:
        """Make up what can be made up, and consider it kept."""
        formed = []
        while delivery := self.outbox.form(
            self.now, int(self.now * 1000), "key", lambda: f"d{next(self._ids)}"
        ):
            formed.append(delivery)
        self.outbox.kept(0, self.now)
        return formed

    def begin(self) -> list[Delivery]:
        """Form, and begin every try that may begin."""
        self.form()
        begun = []
        while delivery := self.outbox.begin(self.now):
            begun.append(delivery)
        return begun


def numbers(deliveries: list[Delivery]) -> list[list[int]]:
    return [[event.number for event in delivery.events] for delivery in deliveries]


def test_without_batching_a_delivery_is_one_event() -> None:
    post = Post()
    post.put("a", "b", "c")
    assert numbers(post.begin()) == [[1], [2], [3]]


def test_the_events_of_a_second_are_one_batch() -> None:
    post = Post(batching=True)
    post.put("a", "b", "a")
    post.now = 0.9
    post.put("c")
    assert post.begin() == []
    assert post.outbox.due() == 1.0
    post.now = 1.0
    assert numbers(post.begin()) == [[1, 2, 3, 4]]
    assert post.outbox.due() is None


def test_a_batch_is_a_hundred_events_at_once() -> None:
    post = Post(batching=True)
    post.put(*"a" * 60, *"b" * 60)
    assert numbers(post.begin()) == [list(range(1, 101))]
    post.now = 5.0  # the rest waits, as it is of a stream that is on its way
    assert post.begin() == []


def test_a_hurried_batch_goes_at_once() -> None:
    post = Post(batching=True)
    post.outbox.hurried = True
    post.put("a")
    assert numbers(post.begin()) == [[1]]


def test_a_batch_is_no_larger_than_receivers_take() -> None:
    post = Post(batching=True, batch_bytes=2)
    post.put("a", "b", "c")
    post.now = 1.0
    assert numbers(post.begin()) == [[1, 2], [3]]


def test_an_event_that_is_larger_than_a_batch_goes_alone() -> None:
    post = Post(batching=True, batch_bytes=1)
    post.put("a", "b")
    post.now = 1.0
    assert numbers(post.begin()) == [[1], [2]]


def test_later_events_of_a_stream_wait_while_others_pass() -> None:
    post = Post()
    post.put("a", "a", "b")
    first, other = post.begin()
    assert numbers([first, other]) == [[1], [3]]
    post.put("b", "c")
    assert numbers(post.begin()) == [[5]]
    assert post.outbox.failed(first, post.now, 0.5)
    assert post.begin() == []
    post.outbox.delivered(other, post.now)
    assert numbers(post.begin()) == [[4]]


def test_what_waited_goes_when_its_turn_comes() -> None:
    post = Post(batching=True)
    post.put("a")
    post.now = 1.0
    (first,) = post.begin()
    post.put("a", "a")
    post.now = 3.0
    assert post.begin() == []
    post.outbox.delivered(first, post.now)
    assert post.outbox.due() == 3.0
    assert numbers(post.begin()) == [[2, 3]]


def test_deliveries_are_retried_for_five_minutes() -> None:
    post = Post()
    post.put("a")
    (delivery,) = post.begin()
    began = []
    while True:
        began.append(post.now)
        if not post.outbox.failed(delivery, post.now, 0.5):
            break
        due = post.outbox.due()
        assert due is not None
        post.now = due
        assert post.begin() == [delivery]
    assert began == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert (post.outbox.events, post.outbox.bytes) == (0, 0)


@pytest.mark.parametrize(("chance", "again_at"), [(0.0, 0.8), (1.0, 1.2)])
def test_chance_spreads_the_tries(chance: float, again_at: float) -> None:
    post = Post()
    post.put("a")
    post.outbox.failed(post.begin()[0], 0.0, chance)
    assert post.outbox.due() == pytest.approx(again_at)


def test_giving_up_lets_the_stream_go_on() -> None:
    post = Post(retry_for_s=0.5)
    post.put("a", "a")
    (first,) = post.begin()
    assert not post.outbox.failed(first, post.now, 0.5)
    assert numbers(post.begin()) == [[2]]


def test_an_old_body_takes_a_new_time_under_the_same_id() -> None:
    delivery = Delivery("d1", "key", 1000, [QueuedEvent(1, "a", b"{}", 0.0)])
    delivery.renew(241_000, 240.0)
    assert delivery.time_ms == 1000
    delivery.renew(241_001, 240.0)
    assert (delivery.id, delivery.time_ms) == ("d1", 241_001)


def test_a_body_from_the_future_takes_the_present_time() -> None:
    """Clocks are set back, too."""
    delivery = Delivery("d1", "key", 1_000_000, [])
    delivery.renew(0, 240.0)
    assert delivery.time_ms == 0


def test_tries_at_once_are_bounded() -> None:
    post = Post(max_tries_at_once=2)
    post.put("a", "b", "c")
    begun = post.begin()
    assert numbers(begun) == [[1], [2]]
    assert post.outbox.due() is None
    post.outbox.delivered(begun[0], post.now)
    assert numbers(post.begin()) == [[3]]


def test_deliveries_are_not_made_up_long_before_their_try() -> None:
    post = Post(max_tries_at_once=1, max_fresh=2)
    post.put(*"abcdef")
    for _ in range(3):
        post.begin()
    assert len(list(post.outbox.deliveries)) == 3


def test_nothing_is_tried_before_it_is_kept() -> None:
    post = Post()
    post.put("a", "b")
    outbox = post.outbox
    for group in (1, 2):
        delivery = outbox.form(0.0, 0, "key", lambda: "d")
        assert delivery is not None
        delivery.group = group
        delivery.id = f"d{group}"
    outbox.kept(0, 0.0)
    assert outbox.gated
    assert outbox.begin(0.0) is None
    outbox.kept(1, 0.0)
    first = outbox.begin(0.0)
    assert first is not None
    assert first.id == "d1"
    assert outbox.begin(0.0) is None


def test_too_many_events_cost_the_oldest_that_no_delivery_holds() -> None:
    post = Post(max_queued_events=3)
    assert post.put("a", "a", "b") == []
    post.begin()  # 1 and 3
    assert post.put("a") == [2]
    assert post.put("c") == [4]
    assert [event.number for event in post.outbox.waiting] == [5]


def test_too_many_bytes_cost_events_too() -> None:
    post = Post(max_queued_bytes=2 * EVENT_OVERHEAD_BYTES + 2)
    assert post.put("a", "a") == []
    assert post.outbox.over_capacity
    assert post.put("b") == [1]
    assert numbers(post.begin()) == [[2], [3]]


def test_what_fits_nowhere_is_dropped_itself() -> None:
    post = Post(max_queued_bytes=10)
    assert post.put("a") == [1]
    assert post.begin() == []
    assert (post.outbox.events, post.outbox.bytes) == (0, 0)


# -- Shares of the queue -------------------------------------------------------------------

KINDS = ("presence", "client_event")


class Crowd(Post):
    """A receiver of two kinds, of whose queue of 12 each has 3 reserved."""

    def __init__(self, **limits: float) -> None:
        limits = {"max_queued_events": 12, **limits}
        super().__init__(batching=True, **limits)
        self.outbox.reserve(KINDS)
        self.dropped: list[QueuedEvent] = []

    def add(
        self, stream: str, share: str = OPEN, subject: str | None = None, *, appears: bool = True
    ) -> QueuedEvent:
        number = next(self._numbers)
        event = QueuedEvent(
            number, stream, b"x", self.now, share=share, subject=subject, appears=appears
        )
        self.dropped += self.outbox.put(event)
        return event

    def occupied(self, channel: str) -> QueuedEvent:
        return self.add(channel, subject=channel)

    def vacated(self, channel: str) -> QueuedEvent:
        return self.add(channel, subject=channel, appears=False)


def test_strangers_cannot_have_an_event_of_an_authenticated_user_dropped() -> None:
    """Neither those that wait, nor those that come when deliveries hold all the rest."""
    crowd = Crowd()
    members = [crowd.add(f"presence-{number}", "presence") for number in range(3)]
    for number in range(1000):
        crowd.occupied(f"c{number}")
        if number % 4 == 0:
            crowd.now += 0.2
            for delivery in crowd.begin():
                crowd.outbox.failed(delivery, crowd.now, 0.5)
    assert crowd.outbox.events <= 12
    members += [crowd.add(f"private-{number}", "client_event") for number in range(3)]
    assert all(event.share == OPEN for event in crowd.dropped)
    assert len(crowd.dropped) == 1000 + 6 - crowd.outbox.events


def test_what_strangers_can_cause_is_dropped_first() -> None:
    crowd = Crowd()
    strangers = [crowd.occupied(f"c{number}") for number in range(6)]
    members = [crowd.add("presence-c", "presence") for _ in range(12)]
    assert crowd.dropped == [*strangers, *members[:3]]


def test_one_kind_does_not_crowd_out_another() -> None:
    """A user with many client events has the webhook lose some of those."""
    crowd = Crowd()
    members = [crowd.add("presence-c", "presence") for _ in range(3)]
    events = [crowd.add("private-c", "client_event") for _ in range(100)]
    assert crowd.dropped == events[:91]
    assert crowd.outbox.waiting == [*members, *events[91:]]
    more = [crowd.add("presence-c", "presence") for _ in range(3)]
    assert crowd.dropped == events[:94]
    assert set(more) < set(crowd.outbox.waiting)


def test_space_is_reserved_in_bytes_too() -> None:
    size = EVENT_OVERHEAD_BYTES + 1
    crowd = Crowd(max_queued_events=1000, max_queued_bytes=12 * size)
    members = [crowd.add("presence-c", "presence") for _ in range(3)]
    events = [crowd.add("private-c", "client_event") for _ in range(100)]
    assert crowd.dropped == events[:91]
    assert crowd.outbox.waiting == [*members, *events[91:]]


def test_what_is_reserved_stays_free_while_nothing_of_its_kind_waits() -> None:
    size = EVENT_OVERHEAD_BYTES + 1
    for limits in ({}, {"max_queued_events": 1000, "max_queued_bytes": 12 * size}):
        crowd = Crowd(**limits)
        strangers = [crowd.occupied(f"c{number}") for number in range(100)]
        assert crowd.dropped == strangers[:-6]


def test_an_event_and_the_one_that_cancels_it_are_dropped_together() -> None:
    crowd = Crowd(max_queued_events=4, reserved=0.0)
    first, second = crowd.occupied("a"), crowd.vacated("a")
    others = [crowd.occupied("b"), crowd.occupied("c"), crowd.occupied("d")]
    assert crowd.dropped == [second, first]
    assert crowd.outbox.waiting == others


def test_a_channel_that_is_occupied_again_is_not_left_vacated() -> None:
    crowd = Crowd(max_queued_events=2, reserved=0.0)
    gone, back = crowd.vacated("a"), crowd.occupied("a")
    other = crowd.occupied("b")
    assert crowd.dropped == [gone, back]
    assert crowd.outbox.waiting == [other]


def test_what_says_that_something_is_gone_is_dropped_last() -> None:
    """A receiver that never hears of it would believe for ever that it is there."""
    crowd = Crowd(max_queued_events=3, reserved=0.0)
    gone = [crowd.vacated("a"), crowd.vacated("b")]
    later = [crowd.occupied(name) for name in "cde"]
    assert crowd.dropped == later[:2]
    assert crowd.outbox.waiting == [*gone, later[2]]
    gone += [crowd.vacated("f"), crowd.vacated("g")]
    assert crowd.dropped == [*later, gone[0]]


def test_a_drop_in_the_middle_of_a_stream_keeps_its_order() -> None:
    crowd = Crowd(max_queued_events=5, reserved=0.4)
    first = crowd.add("presence-c", "presence")
    events = [crowd.add("presence-c", "client_event") for _ in range(4)]
    last = crowd.add("presence-c", "presence")
    crowd.now += 1.0
    assert crowd.dropped == events[:1]
    assert numbers(crowd.begin()) == [[first.number, *(e.number for e in events[1:]), last.number]]


# -- A former life -------------------------------------------------------------------------


def test_a_former_lifes_delivery_goes_first_and_holds_its_streams() -> None:
    post = Post()
    kept = Delivery(
        "old", "key", 0, [QueuedEvent(1, "a", b"1", 0.0), QueuedEvent(2, "b", b"2", 0.0)]
    )
    post.outbox.restore(kept, 0.0)
    post.put("a", "c")
    begun = post.begin()
    assert [delivery.id for delivery in begun] == ["old", "d1"]
    post.outbox.delivered(kept, 0.0)
    assert [event.stream for event in post.begin()[0].events] == ["a"]


def test_an_agenda_keeps_the_earliest_time_of_each() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.put("a", 3.0)
    agenda.put("a", 1.0)
    agenda.put("a", 2.0)
    agenda.put("b", 1.5)
    assert agenda.take_one(0.9) is None
    assert [agenda.take_one(9.0) for _ in range(3)] == ["a", "b", None]
    assert agenda.due() is None


class Story(Post):
    """A receiver with moods, and what became of what it was owed."""

    def __init__(self, *, batching: bool) -> None:
        super().__init__(batching=batching, batch_events=4, max_tries_at_once=3, max_fresh=2)
        self.under_way: list[Delivery] = []
        self.bodies: dict[str, bytes] = {}
        self.arrived: dict[str, list[int]] = {}
        self.given_up: list[int] = []

    def go_on(self) -> None:
        for delivery in self.begin():
            said = body(delivery.time_ms, (event.text for event in delivery.events))
            assert self.bodies.setdefault(delivery.id, said) == said
            self.under_way.append(delivery)
        assert len(self.under_way) <= 3

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def arrive(self, which: int) -> None:
        delivery = self.under_way.pop(which % len(self.under_way))
        self.outbox.delivered(delivery, self.now)
        for event in delivery.events:
            self.arrived.setdefault(event.stream, []).append(event.number)

    def fail(self, which: int) -> None:
        delivery = self.under_way.pop(which % len(self.under_way))
        if not self.outbox.failed(delivery, self.now, 0.5):
            self.given_up += [event.number for event in delivery.events]

    def finish(self) -> None:
        """Have the receiver take everything from now on."""
        while self.outbox.events:
            if self.under_way:
                self.arrive(0)
            else:
                due = self.outbox.due()
                assert due is not None, "something is owed, and nothing would ever happen"
                self.now = max(self.now, due)
            self.go_on()


steps = st.one_of(
    st.tuples(st.just("put"), st.lists(st.sampled_from("abc"), min_size=1, max_size=5)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 0.5, 1.0, 30.0])),
    st.tuples(st.sampled_from(["arrive", "fail"]), st.integers(0, 2)),
)


@given(st.booleans(), st.lists(steps, max_size=60))
def test_each_stream_arrives_in_order_and_once_whatever_fails(
    batching: bool, plot: list[tuple[str, object]]
) -> None:
    """Nothing is lost but what was given up, and every try of a delivery has the same body."""
    story = Story(batching=batching)
    put = 0
    for step in plot:
        match step:
            case ("put", list(streams)):
                assert story.put(*streams) == []
                put += len(streams)
            case ("wait", float(seconds)):
                story.wait(seconds)
            case ("arrive", int(which)) if story.under_way:
                story.arrive(which)
            case ("fail", int(which)) if story.under_way:
                story.fail(which)
        story.go_on()
    story.finish()

    arrived = [number for stream in story.arrived.values() for number in stream]
    assert sorted([*arrived, *story.given_up]) == list(range(1, put + 1))
    assert all(stream == sorted(stream) for stream in story.arrived.values())
    assert story.outbox.bytes == 0
    assert story.outbox.due() is None
    assert not list(story.outbox.waiting)


shares = st.sampled_from([OPEN, OPEN, *KINDS])
plots = st.lists(
    st.one_of(
        st.tuples(st.just("toggle"), shares, st.integers(0, 3)),
        st.tuples(st.sampled_from(["say", "flood"]), shares, st.integers(0, 3)),
        st.tuples(st.sampled_from(["arrive", "fail"]), st.just(""), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 5)),
    ),
    max_size=120,
)


class Picture(Story):
    """What a receiver believes of what it gets, while more happens than its queue holds."""

    def __init__(self) -> None:
        super().__init__(batching=True)
        self.outbox = Outbox(
            Limits(max_queued_events=12, batch_events=4, max_tries_at_once=3, max_fresh=2),
            batching=True,
            reserved_for=KINDS,
        )
        self.truth: dict[tuple[str, int], bool] = {}
        self.believed: dict[Hashable, bool] = {}
        # Subjects of which an event was dropped alone, with its number, until a later one arrives.
        # A later one that is only queued is not enough, because it may be dropped, too.
        self.alone: dict[Hashable, int] = {}
        self.put_events: dict[int, QueuedEvent] = {}
        self.lost: list[int] = []

    def happen(self, share: str, number: int, *, toggles: bool) -> None:
        subject = (share, number)
        if toggles:
            self.truth[subject] = not self.truth.get(subject, False)
        event = QueuedEvent(
            next(self._numbers),
            f"{share}-{number}",
            b"x",
            self.now,
            share=share,
            subject=subject if toggles else None,
            appears=self.truth.get(subject, True) if toggles else True,
        )
        self.put_events[event.number] = event
        used = dict.fromkeys(KINDS, 0)
        for one in (*self.outbox.waiting, *chain(*map(events_of, self.outbox.deliveries))):
            if one.share != OPEN:
                used[one.share] += 1
        dropped = self.outbox.put(event)
        self.lost += [one.number for one in dropped]
        for one in dropped:
            if one.share != OPEN:
                assert used[one.share] + (one.share == event.share) > 3, "it was reserved"
        if any(one.share != OPEN for one in dropped):
            assert all(one.share != OPEN for one in self.outbox.waiting)
        changes = Counter(one.subject for one in dropped if one.subject is not None)
        alone = {subject for subject, count in changes.items() if count % 2}
        assert not alone & {one.subject for one in self.outbox.waiting}, "it had company"
        for one in dropped:
            if one.subject in alone:
                self.alone[one.subject] = max(one.number, self.alone.get(one.subject, 0))
        assert self.outbox.events <= 12

    def arrive(self, which: int) -> None:
        for event in self.under_way[which % len(self.under_way)].events:
            if event.subject is not None:
                self.believed[event.subject] = event.appears
                if event.number > self.alone.get(event.subject, event.number):
                    del self.alone[event.subject]
        super().arrive(which)


def events_of(delivery: Delivery) -> list[QueuedEvent]:
    return delivery.events


@given(plots)
@example(
    [
        ("toggle", "presence", 2),  # dropped alone
        ("toggle", "presence", 0),
        ("flood", "presence", 2),
        ("toggle", "presence", 2),  # dropped with the next, which cancels it
        ("toggle", "presence", 2),
    ]
)
def test_whatever_is_dropped_receivers_are_left_with_a_true_picture(  # noqa: C901 - a story has many verbs
    plot: list[tuple[str, str, int]],
) -> None:
    """
    Reserved space is never lost, and events arrive in order. In the end, the receiver has the
    true state of each thing, unless an event about it was dropped alone and no later one arrived.
    """
    story = Picture()
    for verb, share, number in plot:
        match verb:
            case "toggle" | "say":
                story.happen(share, number, toggles=verb == "toggle")
            case "flood":
                for stream in range(10, 16 + number):
                    story.happen(share, stream, toggles=False)
            case "wait":
                story.wait(float(number))
            case "arrive" if story.under_way:
                story.arrive(number)
            case "fail" if story.under_way:
                story.fail(number)
        story.go_on()
    story.finish()
    arrived = [number for stream in story.arrived.values() for number in stream]
    assert sorted([*arrived, *story.given_up, *story.lost]) == sorted(story.put_events)
    assert all(stream == sorted(stream) for stream in story.arrived.values())
    if not story.given_up:
        for subject, true in story.truth.items():
            if subject not in story.alone:
                assert story.believed.get(subject, False) == true
    assert (story.outbox.events, story.outbox.bytes, story.outbox.waiting) == (0, 0, [])
    assert not story.outbox._subjects
    assert not story.outbox._streams
