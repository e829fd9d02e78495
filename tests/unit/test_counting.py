"""When subscribers are sent the number of subscriptions of their channel."""

import heapq
from collections.abc import Callable
from itertools import count, pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine.base import LARGE_INTERVAL_S
from heliograph.node.counting import SENDS_AT_ONCE, Counting


class Loop:
    """A clock, its timers, the end of a turn, what was sent when, and what the engine was asked."""

    def __init__(self) -> None:
        self.time = 100.0
        self.timers: list[tuple[float, int, Callable[[], object]]] = []
        self.soon: list[Callable[[], object]] = []
        self.sent: list[tuple[float, str, int]] = []
        self.asked: list[tuple[float, str]] = []
        self._numbers = count()
        self.counting = Counting(
            lambda: self.time, self.soon.append, self.later, self.send, self.ask
        )

    def later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> None:
        at = self.time + delay_s
        heapq.heappush(self.timers, (at, next(self._numbers), lambda: callback(*arguments)))

    def send(self, channel: str, number: int) -> None:
        self.sent.append((round(self.time, 3), channel, number))

    def ask(self, channel: str) -> None:
        self.asked.append((round(self.time, 3), channel))

    def turn(self) -> None:
        """End this turn of the event loop."""
        due, self.soon[:] = list(self.soon), []
        for callback in due:
            callback()

    def wait(self, seconds: float) -> None:
        self.turn()
        end = self.time + seconds
        while self.timers and self.timers[0][0] <= end:
            self.time, _, callback = heapq.heappop(self.timers)
            callback()
        self.time = end

    def changed(self, channel: str, *numbers: int) -> None:
        for number in numbers:
            self.counting.changed(channel, number)


def test_the_first_change_is_sent_in_its_turn_and_then_one_a_second() -> None:
    loop = Loop()
    loop.changed("c", 1)
    assert loop.sent == []
    loop.turn()
    assert loop.sent == [(100.0, "c", 1)]
    loop.changed("c", 2, 3)
    loop.wait(0.5)
    loop.changed("c", 4, 3)
    loop.wait(10.0)
    assert loop.sent == [(100.0, "c", 1), (101.0, "c", 3)]
    loop.changed("c", 4)
    loop.turn()
    assert loop.sent[2:] == [(110.5, "c", 4)]


def test_of_several_changes_in_a_turn_the_last_is_sent() -> None:
    loop = Loop()
    loop.changed("c", 1, 2, 3)
    loop.wait(10.0)
    assert loop.sent == [(100.0, "c", 3)]


def test_channels_do_not_wait_for_each_other() -> None:
    loop = Loop()
    loop.changed("a", 1)
    loop.turn()
    loop.changed("a", 2)
    loop.wait(0.25)
    loop.changed("b", 1)
    loop.turn()
    loop.changed("b", 2)
    loop.wait(2.0)
    assert loop.sent == [(100.0, "a", 1), (100.25, "b", 1), (101.0, "a", 2), (101.25, "b", 2)]


def test_the_engine_is_asked_for_the_number_of_a_large_channel_when_it_is_due() -> None:
    loop = Loop()
    loop.counting.due("c", 5.0)
    loop.wait(2.0)
    loop.counting.due("d", 1.0)
    loop.wait(10.0)
    assert loop.asked == [(103.0, "d"), (105.0, "c")]
    assert loop.sent == []


def test_each_number_of_a_large_channel_that_the_engine_states_is_sent() -> None:
    loop = Loop()
    for number in (101, 102):
        loop.changed("c", number)
        loop.turn()
    assert loop.sent == [(100.0, "c", 101), (100.0, "c", 102)]


def test_a_channel_that_shrinks_to_a_hundred_is_sent_that_at_once() -> None:
    loop = Loop()
    loop.changed("c", 101)
    loop.wait(2.0)
    loop.changed("c", 100)
    loop.wait(10.0)
    assert loop.sent == [(100.0, "c", 101), (102.0, "c", 100)]


def test_a_channel_that_grows_above_a_hundred_is_sent_no_number_of_before() -> None:
    loop = Loop()
    loop.changed("c", 99)
    loop.turn()
    loop.changed("c", 100, 101)
    loop.wait(10.0)
    assert loop.sent == [(100.0, "c", 99), (100.0, "c", 101)]


def test_nothing_is_remembered_and_no_timer_runs_of_channels_at_rest() -> None:
    loop = Loop()
    for number in range(1000):
        loop.changed(f"c{number}", 1)
        loop.counting.due(f"large-{number}", 5.0)
    assert len(loop.counting) == 2000
    for _ in range(20):
        loop.wait(1.0)
    assert (len(loop.counting), loop.timers, loop.soon) == (0, [], [])


def test_many_channels_have_one_timer_which_sends_a_part_at_a_time() -> None:
    loop = Loop()
    for number in range(SENDS_AT_ONCE * 3):
        loop.changed(f"c{number}", 1)
    assert len(loop.soon) == 1
    turns = []
    while loop.soon:
        before = len(loop.sent)
        loop.turn()
        turns.append(len(loop.sent) - before)
    assert turns == [SENDS_AT_ONCE] * 3
    for number in range(SENDS_AT_ONCE * 3):
        loop.changed(f"c{number}", 2)
    assert len(loop.timers) == 1
    sends: list[int] = []
    while loop.timers and sum(sends) < SENDS_AT_ONCE * 3:
        before = len(loop.sent)
        loop.time, _, callback = heapq.heappop(loop.timers)
        callback()
        sends.append(len(loop.sent) - before)
        assert len(loop.timers) <= 1
    assert sends == [SENDS_AT_ONCE] * 3


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("ab"), st.sampled_from([0, 1, 2, 99, 100, 101, 102])),
        st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, 4.0, 5.0]),
    ),
    max_size=60,
)


@given(steps)
def test_however_a_channel_changes_it_is_not_sent_more_often_and_the_last_number_in_the_end(
    story: list[tuple[str, int] | float],
) -> None:
    """The engine states numbers above a hundred once in five seconds, as here."""
    loop = Loop()
    last: dict[str, int] = {}
    changed_at: dict[str, float] = {}
    stated: dict[str, float] = {}
    for step in story:
        if isinstance(step, tuple):
            channel, number = step
            if number > 100:
                if loop.time < stated.get(channel, 0.0) + LARGE_INTERVAL_S:
                    continue
                stated[channel] = loop.time
            loop.changed(channel, number)
            last[channel], changed_at[channel] = number, loop.time
        else:
            loop.wait(step)
    for _ in range(20):
        loop.wait(1.0)
    for channel, number in last.items():
        sent = [(at, one) for at, name, one in loop.sent if name == channel]
        assert sent[-1][1] == number
        assert sent[-1][0] <= changed_at[channel] + 1.01
        small = [at for at, one in sent if one <= 100]
        assert all(after - before >= 0.999 for before, after in pairwise(small))
    assert (len(loop.counting), loop.timers, loop.soon) == (0, [], [])
