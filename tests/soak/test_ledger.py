"""The books of the soak notice what they are there to notice."""

from collections import Counter

import pytest

from soak.books import Channel, Faults, Position, Subscription, Webhooks, whisper
from soak.ledger import LEAVING_S, SENT_AWAY_S, Follower, Reader, Stream


class Heard:
    """A stream of ten, accepted one second after the other, and one who was there from the 3rd."""

    def __init__(self, *, replays: bool = False, leave_out: int | None = None) -> None:
        self.faults: list[str] = []
        self.stream = Stream("c")
        for number in range(10):
            said = self.stream.say(number, leave_out="me" if number == leave_out else None)
            self.stream.accept(said, number + 0.1)
        self.reader = Reader(
            self.stream,
            "me",
            asked=2.5,
            acknowledged=3.5,
            complain=self.faults.append,
            replays=replays,
        )

    def hear(self, *numbers: int) -> list[str]:
        for number in numbers:
            self.reader.hear(number)
        self.reader.close(until=100)
        return self.faults


@pytest.mark.parametrize("first", [3, 4])
def test_all_of_it_in_order_is_what_is_owed(first: int) -> None:
    """What was sent between question and answer may come or not."""
    assert Heard().hear(*range(first, 10)) == []


@pytest.mark.parametrize(
    ("numbers", "fault"),
    [
        ([4, 5, 7, 8, 9], "heard 7 after 5: 1 missing"),
        ([4, 5, 5, 6, 7, 8, 9], "heard 5 again, or too late"),
        ([4, 6, 5, 7, 8, 9], "heard 6 after 4: 1 missing"),
        ([5, 6, 7, 8, 9], "began with 5 instead of 4"),
        ([2, 3, 4, 5, 6, 7, 8, 9], "heard 2, which was said before it subscribed"),
        ([4, 5, 6, 7], "never heard 2 of what was accepted, the last of it"),
        ([], "never heard 6 of what was accepted, the last of it"),
        ([4, 5, 6, 7, 8, 9, 10], "heard 10, which was never said"),
    ],
)
def test_every_unexpected_event_is_a_fault(numbers: list[int], fault: str) -> None:
    assert Heard().hear(*numbers)[0] == f"c: me {fault}"


def test_an_excluded_subscriber_must_not_receive_the_event() -> None:
    assert Heard(leave_out=6).hear(4, 5, 7, 8, 9) == []
    assert (
        Heard(leave_out=6).hear(4, 5, 6, 7, 8, 9)[0]
        == "c: me heard 6, which it was to be left out of"
    )
    assert Heard(leave_out=9).hear(4, 5, 6, 7, 8) == []
    assert Heard(leave_out=4).hear(5, 6, 7, 8, 9) == []


def test_a_cache_channel_begins_with_the_last_event_from_before() -> None:
    assert Heard(replays=True).hear(*range(2, 10)) == []
    assert Heard(replays=True).hear(*range(3, 10)) == []
    assert Heard(replays=True).hear(*range(4, 10)) != []
    assert Heard(replays=True).hear(*range(1, 10)) != []


def test_only_what_was_accepted_in_time_is_owed_to_one_who_leaves() -> None:
    heard = Heard()
    heard.reader.hear(4)
    assert heard.reader.owed(5.05) == 0
    assert heard.reader.owed(5.15) == 1


class Followed:
    """A stream of ten, and a page that follows it from the offset 3 on: from the number 3."""

    def __init__(self, *, leave_out: int | None = None) -> None:
        self.faults: list[str] = []
        self.done: Counter[str] = Counter()
        self.stream = Stream("c")
        for number in range(10):
            excluded = "1.1" if number == leave_out else None
            self.stream.accept(self.stream.say(number, leave_out=excluded), number + 0.1)
        self.page = Follower(self.stream, self.faults.append, self.done)
        assert self.page.connect("1.1") == {}
        self.page.catch_up("e", 3)

    def hear(self, *numbers: int) -> None:
        for number in numbers:
            self.page.hear(number, "e", number + 1)

    def resume(self, *numbers: int, top: int) -> dict[str, object]:
        """Continue over another connection; return what it asked for."""
        asked = self.page.connect("2.2")
        self.hear(*numbers)
        self.page.catch_up("e", top)
        return asked


def test_a_page_has_each_event_once_over_all_its_connections() -> None:
    one = Followed()
    one.hear(3, 4)
    assert one.resume(5, 6, top=7) == {"epoch": "e", "offset": 5, "except": ["1.1"]}
    one.hear(7, 8, 9)
    one.page.close(100)
    assert one.faults == []
    assert one.done == {"continued channels": 1, "replayed events": 2}


@pytest.mark.parametrize(
    ("replayed", "live", "fault", "count"),
    [
        ([6], [7, 8, 9], "a page at 2.2 heard the next event 6, with 1 events missing", "lost"),
        ([5], [7, 8, 9], "a page at 2.2 heard the position 7, with 1 events missing", "lost"),
        ([4, 5, 6], [7, 8, 9], "a page at 2.2 heard 4 again", "repeated"),
        ([5, 6], [6, 7, 8, 9], "a page at 2.2 heard 6 again", "repeated"),
        ([5, 6], [8, 9], "a page at 2.2 heard the next event 8, with 1 events missing", "lost"),
    ],
)
def test_an_event_that_a_page_lost_or_received_again_is_a_fault(
    replayed: list[int], live: list[int], fault: str, count: str
) -> None:
    one = Followed()
    one.hear(3, 4)
    one.resume(*replayed, top=7)
    one.hear(*live)
    one.page.close(100)
    assert len(one.faults) == 1
    assert one.faults[0].startswith(f"c: {fault}")
    assert one.done[f"{count} events"] == 1


def test_the_last_events_that_a_page_did_not_receive_are_a_fault() -> None:
    one = Followed()
    one.hear(3, 4, 5)
    assert one.page.owed(7.05) == 1
    one.page.close(100)
    assert one.faults == ["c: a page at 1.1 never heard 4 of what was accepted, the last of it"]


def test_a_page_does_not_receive_an_event_that_excluded_an_earlier_connection() -> None:
    one = Followed(leave_out=5)
    one.hear(3, 4)
    one.resume(6, top=7)
    assert one.faults == []
    other = Followed(leave_out=5)
    other.hear(3, 4)
    other.resume(5, 6, top=7)
    assert other.faults == ["c: a page at 2.2 heard 5, which excluded it"]


def test_a_gap_is_a_fault_and_the_page_follows_the_events_after_it() -> None:
    one = Followed()
    one.page.connect("2.2")
    one.page.miss("trimmed", "e", 8)
    one.hear(8, 9)
    one.page.close(100)
    assert one.faults == ["c: a page at 2.2 was notified of a gap (trimmed) up to the offset 8"]
    assert one.done["gaps"] == 1


def test_each_event_of_a_page_has_the_position_of_its_number() -> None:
    one = Followed()
    one.page.hear(3, "e", 5)
    assert one.faults == ["c: a page at 1.1 heard 3 with the offset 5"]
    faults = Faults()
    channel = Channel("1", "feed-1")
    page = Subscription(channel, "1.1", 0, faults, follower=one.page)
    page.acknowledge(1)
    page.hear(4)  # its position did not precede it
    page.announce(Position("e", 6))
    page.announce(Position("e", 7))
    assert faults.counts == {"delivery": 2}


def subscription(name: str, faults: Faults, user_id: str | None = None) -> Subscription:
    one = Subscription(Channel("1", name), "1.1", 0, faults, user_id)
    one.acknowledge(1)
    return one


@pytest.mark.parametrize(("sent_away", "margin_s"), [(False, LEAVING_S), (True, SENT_AWAY_S)])
@pytest.mark.parametrize(("after_s", "lost"), [(0.1, 0), (-0.1, 1)])
def test_who_leaves_need_not_have_heard_the_last_of_it(
    sent_away: bool, margin_s: float, after_s: float, lost: int
) -> None:
    """A second of it; more for one that the server closes, which it knows only afterwards."""
    said = 10 - margin_s + after_s
    faults = Faults()
    one = subscription("c", faults)
    events = one.channel.events
    events.accept(events.say(said), said)
    one.leave(10, sent_away=sent_away)
    one.close()
    assert len(faults) == lost


def test_a_client_event_that_did_not_arrive_is_reported() -> None:
    faults = Faults()
    one = subscription("private-c", faults)
    voice = one.channel.voice("2.2")
    for now in (2, 3):
        voice.accept(voice.say(now), now)
    assert one.owed(4) == 2
    one.hear_whisper("2.2", 1)
    one.hear_whisper("3.3", 0)
    assert faults.counts == {"delivery": 2}


def test_nobody_comes_twice_or_goes_unseen() -> None:
    faults = Faults()
    one = subscription("presence-c", faults, "ada")
    one.roster = {"ada"}
    one.appear("bob")
    one.vanish("bob")
    assert not faults
    one.appear("ada")
    one.vanish("bob")
    assert faults.counts == {"presence": 2}


def test_webhooks_tell_each_thing_once_and_all_whispers() -> None:
    faults = Faults()
    channel = Channel("1", "presence-c")
    voice = channel.voice("1.1")
    for now in (1, 2):
        voice.accept(voice.say(now), now)
    books = Webhooks("1", faults, {"presence-c": channel})
    told = [
        {"name": "channel_occupied", "channel": "presence-c"},
        {"name": "member_added", "channel": "presence-c", "user_id": "ada"},
        {"name": "client_event", "channel": "presence-c", "data": whisper("1.1", 0)},
    ]
    for event in told:
        books.take(event)
    assert books.owed(3) == 1
    assert not faults
    for event in told:
        books.take(event)
    assert faults.counts == {"webhooks": 3}
    books.close(3)
    assert faults.counts == {"webhooks": 4}


def test_a_delivery_that_is_repeated_is_known() -> None:
    books = Webhooks("1", Faults(), {})
    assert [books.is_repeat(one) for one in "aba"] == [False, False, True]
    assert books.repeated == 1


def test_a_difference_is_told_with_its_names() -> None:
    faults = Faults()
    faults.compare("presence", "c", {"ada"}, {"ada"})
    faults.compare("presence", "c", {"ada", "bob"}, {"ada", "eve"})
    assert faults.lines() == ["presence: 1 faults, such as: c: 1 (bob) too many, 1 (eve) missing"]
