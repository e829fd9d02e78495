"""Which connections make room, and when they are asked to."""

import logging
import os
from collections.abc import Callable
from typing import Any

import pytest

from heliograph.net import idle
from heliograph.net.descriptors import RESERVED, SHORT, DescriptorBudget
from heliograph.net.idle import SAMPLE, IdleConnections, Unnamed


class FakeHttp:
    """An HTTP connection that is idle since a moment, or has a request under way."""

    def __init__(self, since: float | None = None, *, silent: bool = False) -> None:
        self.since = since
        self.silent = silent
        self.dropped = False

    def idle_since(self) -> float | None:
        return self.since

    def close(self, *, idle_s: float = 0.0) -> None:
        raise AssertionError(f"only a server that stops closes it after {idle_s} s")

    def drop(self) -> None:
        self.dropped = True


class FakeLoop:
    """Calls what it was asked to when the test turns it; its time is what the test says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.calls.append(callback)

    def call_later(self, _delay_s: float, callback: Callable[..., object], *_: object) -> None:
        if callback.__name__ == "clear":
            self.clear = callback

    def time(self) -> float:
        return self.now

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def idle_ones(connections: set[Any]) -> tuple[IdleConnections, FakeLoop]:
    loop = FakeLoop()
    fake: Any = loop
    return IdleConnections(connections, fake, loop.time), loop


def dropped(connections: Any) -> list[float | None]:
    return sorted(one.since for one in connections if one.dropped)


def test_the_longest_idle_are_closed_and_none_with_a_request_under_way() -> None:
    connections = {FakeHttp(since) for since in (10.0, 50.0, 30.0, 99.5, None)}
    idle, loop = idle_ones(connections)
    idle.close_soon(2)
    assert dropped(connections) == []  # what has arrived in this turn may be unread
    loop.turn()
    assert dropped(connections) == [10.0, 30.0]
    assert idle.closed == 2


def test_those_silent_for_a_moment_are_not_idle() -> None:
    connections = {FakeHttp(99.5), FakeHttp(99.0)}
    idle, loop = idle_ones(connections)
    idle.close_soon(10)
    loop.turn()
    assert dropped(connections) == [99.0]


def test_asked_several_times_in_a_turn_it_closes_the_most_that_were_wanted() -> None:
    connections = {FakeHttp(float(number)) for number in range(50)}
    idle, loop = idle_ones(connections)
    for wanted in (1, 7, 3):
        idle.close_soon(wanted)
    loop.turn()
    assert dropped(connections) == [float(number) for number in range(7)]
    loop.turn()
    assert idle.closed == 7


def test_of_very_many_it_compares_a_part_at_a_time_and_comes_to_all() -> None:
    """One turn of the loop is short, however many there are."""
    connections = {FakeHttp(float(number % 90)) for number in range(4 * SAMPLE)}
    idle, loop = idle_ones(connections)
    for _ in range(4):
        idle.close_soon(SAMPLE)
        loop.turn()
    assert idle.closed == 4 * SAMPLE
    assert all(one.dropped for one in connections)


def test_what_has_ended_meanwhile_is_not_closed_again_nor_kept() -> None:
    connections = {FakeHttp(1.0) for _ in range(2 * SAMPLE)}
    idle, loop = idle_ones(connections)
    idle.close_soon(1)
    loop.turn()
    gone = [one for one in connections if not one.dropped]
    connections.clear()
    connections.update(FakeHttp(1.0) for _ in range(2 * SAMPLE))
    idle.close_soon(SAMPLE)
    loop.turn()
    assert not any(one.dropped for one in gone)
    loop.clear()
    assert idle._snapshot == []


# -- Those whose client is not known -------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Unnamed:
    monkeypatch.setattr(idle, "UNNAMED_FLOOR", 3)
    return Unnamed(lambda: 16)


def test_a_share_of_the_capacity_may_be_unnamed(few: Unnamed) -> None:
    assert few.limit == 4
    assert Unnamed(lambda: 4).limit == 3
    assert Unnamed(lambda: 1 << 20).limit == 1 << 18


def test_the_oldest_that_has_sent_nothing_makes_room(few: Unnamed) -> None:
    begun = FakeHttp()
    silent = [FakeHttp(1.0, silent=True) for _ in range(3)]
    for one in (begun, *silent):
        assert few.add(one)
    last = FakeHttp(1.0, silent=True)
    assert few.add(last)
    assert [one.dropped for one in (begun, *silent, last)] == [False, True, False, False, False]
    assert len(few) == 4


def test_one_that_has_had_an_answer_counts_no_more(few: Unnamed) -> None:
    used = [FakeHttp(1.0) for _ in range(4)]
    for one in used:
        assert few.add(one)
    for _ in range(4):
        assert few.add(FakeHttp())
    assert not any(one.dropped for one in used)
    assert not few.add(FakeHttp())


def test_where_all_have_begun_a_request_there_is_no_room(few: Unnamed) -> None:
    begun = [FakeHttp() for _ in range(4)]
    for one in begun:
        assert few.add(one)
    assert not few.add(FakeHttp())
    few.discard(begun[0])
    few.discard(begun[0])
    assert few.add(FakeHttp())
    assert not any(one.dropped for one in begun)


# -- When it is asked ----------------------------------------------------------------------


def asked_of(room: DescriptorBudget) -> list[int]:
    asked: list[int] = []
    room.attend(asked.append)
    return asked


def test_relief_is_asked_for_before_there_is_no_room() -> None:
    room = DescriptorBudget(10_000 + RESERVED, later=lambda *_: None)
    asked = asked_of(room)
    for given in (5, 10_000 - SHORT - 1, 10_000 - SHORT, 10_000 - SHORT + 9, 9_999):
        assert not room.full(given)
    assert asked == [1, 10, SHORT]


def test_of_few_descriptors_an_eighth_is_kept_free() -> None:
    room = DescriptorBudget(80 + RESERVED, later=lambda *_: None)
    asked = asked_of(room)
    for given in (69, 70, 79):
        assert not room.full(given)
    assert asked == [1, 10]


def test_it_is_asked_for_while_nobody_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    used = os.dup(0)
    os.close(used)
    room = DescriptorBudget(
        used + RESERVED // 2, later=lambda *_: None
    )  # half the reserve is taken already
    asked = asked_of(room)
    assert not room.exhausted()
    assert room.full()
    assert room.exhausted()
    room.close()
    assert len(asked) == 2
    assert min(asked) > 0
    assert len(caplog.messages) == 1
