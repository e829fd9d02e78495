"""The books of the soak notice what they are there to notice."""

import pytest

from soak.books import Channel, Faults, Subscription, Webhooks, whisper
from soak.ledger import LEAVING_S, SENT_AWAY_S, Reader, Stream


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
