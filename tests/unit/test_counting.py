"""When the number of a channel's subscriptions is sent."""

import heapq
from collections.abc import Callable
from itertools import count, pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from heliograph.node.counting import SENDS_AT_ONCE, Counting


class Loop:
    """A clock, its timers, and what was sent when."""

    def __init__(self) -> None:
        self.time = 100.0
        self.timers: list[tuple[float, int, Callable[[], object]]] = []
        self.sent: list[tuple[float, str, int]] = []
        self._numbers = count()
        self.counting = Counting(lambda: self.time, self.later, self.send)

    def later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> None:
        at = self.time + delay_s
        heapq.heappush(self.timers, (at, next(self._numbers), lambda: callback(*arguments)))

    def send(self, channel: str, number: int) -> None:
        self.sent.append((round(self.time, 3), channel, number))

    def wait(self, seconds: float) -> None:
        end = self.time + seconds
        while self.timers and self.timers[0][0] <= end:
            self.time, _, callback = heapq.heappop(self.timers)
            callback()
        self.time = end

    def changed(self, channel: str, *numbers: int) -> None:
        for number in numbers:
            self.counting.changed(channel, number)


def test_the_first_change_is_sent_at_once_and_then_one_a_second() -> None:
    loop = Loop()
    loop.changed("c", 1, 2, 3)
    assert loop.sent == [(100.0, "c", 1)]
    loop.wait(0.5)
    loop.changed("c", 4, 3)
    loop.wait(10.0)
    assert loop.sent == [(100.0, "c", 1), (101.0, "c", 3)]
    loop.changed("c", 4)
    assert loop.sent[2:] == [(110.5, "c", 4)]


def test_channels_do_not_wait_for_each_other() -> None:
    loop = Loop()
    loop.changed("a", 1, 2)
    loop.wait(0.25)
    loop.changed("b", 1, 2)
    loop.wait(2.0)
    assert loop.sent == [(100.0, "a", 1), (100.25, "b", 1), (101.0, "a", 2), (101.25, "b", 2)]


def test_above_a_hundred_a_change_is_sent_once_in_five_seconds() -> None:
    loop = Loop()
    loop.changed("c", 101)
    loop.wait(3.0)
    loop.changed("c", 102, 103)
    loop.wait(2.0)
    assert loop.sent == [(105.0, "c", 103)]
    loop.changed("c", 102)
    loop.wait(10.0)
    assert loop.sent[1:] == [(110.0, "c", 102)]


def test_a_channel_that_shrinks_to_a_hundred_is_sent_that_at_once() -> None:
    loop = Loop()
    loop.changed("c", 101)
    loop.wait(2.0)
    loop.changed("c", 100)
    assert loop.sent == [(102.0, "c", 100)]
    loop.wait(10.0)
    assert len(loop.sent) == 1


def test_a_channel_that_grows_above_a_hundred_is_sent_no_number_of_before() -> None:
    loop = Loop()
    loop.changed("c", 99, 100, 101)
    loop.wait(4.0)
    assert loop.sent == [(100.0, "c", 99)]
    loop.wait(10.0)
    assert loop.sent[1:] == [(105.0, "c", 101)]


def test_nothing_is_remembered_and_no_timer_runs_of_channels_at_rest() -> None:
    loop = Loop()
    for number in range(1000):
        loop.changed(f"c{number}", 1, 200)
    assert len(loop.counting) == 1000
    loop.wait(20.0)
    assert (len(loop.counting), loop.timers) == (0, [])


def test_many_channels_have_one_timer_which_sends_a_part_at_a_time() -> None:
    loop = Loop()
    for number in range(SENDS_AT_ONCE * 3):
        loop.changed(f"c{number}", 1, 2)
    assert len(loop.timers) == 1
    loop.sent.clear()
    sends = []
    while loop.timers and len(loop.sent) < SENDS_AT_ONCE * 3:
        before = len(loop.sent)
        loop.time, _, callback = heapq.heappop(loop.timers)
        callback()
        sends.append(len(loop.sent) - before)
        assert len(loop.timers) <= 1
    assert sends == [SENDS_AT_ONCE] * 3


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("ab"), st.sampled_from([0, 1, 2, 99, 100, 101, 102])),
        st.sampled_from([0.1, 0.5, 0.9, 1.0, 4.0, 5.0]),
    ),
    max_size=60,
)


@given(steps)
def test_however_a_channel_changes_it_is_not_sent_more_often_and_the_last_number_in_the_end(
    story: list[tuple[str, int] | float],
) -> None:
    loop = Loop()
    last: dict[str, int] = {}
    changed_at: dict[str, float] = {}
    for step in story:
        if isinstance(step, tuple):
            channel, number = step
            loop.changed(channel, number)
            last[channel], changed_at[channel] = number, loop.time
        else:
            loop.wait(step)
    loop.wait(20.0)
    for channel, number in last.items():
        sent = [(at, one) for at, name, one in loop.sent if name == channel]
        assert sent[-1][1] == number
        assert sent[-1][0] <= changed_at[channel] + (5.0 if number > 100 else 1.0) + 0.01
        assert all(after - before >= 0.999 for (before, _), (after, _) in pairwise(sent))
        large = [at for at, one in sent if one > 100]
        assert all(after - before >= 4.999 for before, after in pairwise(large))
    assert (len(loop.counting), loop.timers) == (0, [])
