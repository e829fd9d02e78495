"""Who is behind, and who has to go for it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.net.backlog import CHECK_INTERVAL_S, LEAST_ROOM_BYTES, Backlog


class FakeTimer:
    def __init__(self, loop: "FakeLoop") -> None:
        self._loop = loop

    def cancel(self) -> None:
        self._loop.later.clear()


class FakeLoop:
    """A loop that turns when the test says so."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []
        self.later: list[Callable[[], object]] = []
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def call_later(
        self, delay_s: float, callback: Callable[..., object], *arguments: Any
    ) -> FakeTimer:
        if delay_s == CHECK_INTERVAL_S:
            self.later.append(lambda: callback(*arguments))
        return FakeTimer(self)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def look(self, late_s: float = 0.0) -> None:
        self.now += CHECK_INTERVAL_S + late_s
        later, self.later = self.later, []
        for callback in later:
            callback()


class FakeClient:
    def __init__(self, size: int = 0, *, patient: bool = False) -> None:
        self.size = size
        self.patient = patient
        self.dropped = False

    def unread(self) -> int:
        return self.size

    def drop(self) -> None:
        assert not self.dropped
        self.dropped = True


def backlog(*, most_each: int = 100, most: int = 0) -> tuple[Any, Backlog]:
    loop: Any = FakeLoop()
    return loop, Backlog(loop, most_each=most_each, most=most)


def noted(behind: Backlog, *sizes: int) -> list[FakeClient]:
    clients = [FakeClient(size) for size in sizes]
    for client in clients:
        behind.note(client, client.size)
    return clients


def test_after_a_stall_of_the_server_a_slow_client_has_another_look() -> None:
    loop, behind = backlog()
    (client,) = noted(behind, 101)
    loop.look()
    loop.look(late_s=4)
    assert not client.dropped
    loop.look()
    assert client.dropped


def test_one_that_stays_over_its_bound_for_a_look_is_dropped() -> None:
    loop, behind = backlog()
    over, under = noted(behind, 101, 100)
    loop.look()
    assert not over.dropped
    loop.look()
    assert (over.dropped, under.dropped) == (True, False)
    assert (len(behind), behind.bytes) == (1, 100)


def test_one_that_reads_meanwhile_is_not() -> None:
    loop, behind = backlog()
    (client,) = noted(behind, 101)
    for size in (101, 99, 101, 99, 101):
        client.size = size
        loop.look()
    assert not client.dropped


def test_the_slowest_go_first_and_no_more_of_them_than_need_be() -> None:
    loop, behind = backlog(most=1000, most_each=10_000)
    small, large, larger = noted(behind, 300, 400, 500)
    assert not larger.dropped, "a flush is going on"
    loop.turn()
    assert [one.dropped for one in (small, large, larger)] == [False, False, True]
    assert behind.bytes == 700


def test_who_has_caught_up_meanwhile_is_counted_anew_before_anybody_goes() -> None:
    loop, behind = backlog(most=1000, most_each=10_000)
    clients = noted(behind, 600, 600)
    clients[0].size = 0
    loop.turn()
    assert not any(one.dropped for one in clients)
    assert behind.bytes == 600


def test_without_a_bound_for_all_nobody_goes_for_the_others() -> None:
    loop, behind = backlog(most=0, most_each=1 << 40)
    clients = noted(behind, *[1 << 30] * 10)
    loop.turn()
    assert not any(one.dropped for one in clients)


def test_one_line_in_the_log_however_many_go(caplog: pytest.LogCaptureFixture) -> None:
    loop, behind = backlog(most=100, most_each=10_000)
    for _ in range(10):
        noted(behind, *range(90, 130))
        loop.turn()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "--max_total_write_buffer (100 bytes)" in record.message


def test_nobody_behind_is_nothing_to_do() -> None:
    loop, behind = backlog()
    (client,) = noted(behind, 50)
    behind.forget(client)
    behind.forget(client)
    loop.look()
    assert (loop.soon, loop.later) == ([], [])


def test_a_server_that_stops_looks_no_more() -> None:
    loop, behind = backlog()
    noted(behind, 50)
    behind.stop()
    assert loop.later == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "read", "leave", "turn", "look"]),
                  st.integers(0, 5), st.integers(0, 2000)),
        max_size=60,
    )
)  # fmt: skip
def test_whatever_happens_the_sum_is_right_and_bounded(steps: list[tuple[str, int, int]]) -> None:
    loop, behind = backlog(most=3000, most_each=1500)
    clients = {number: FakeClient() for number in range(6)}
    for verb, number, size in steps:
        client = clients[number]
        if verb == "turn":
            loop.turn()
            assert behind.bytes <= 3000
        elif verb == "look":
            loop.look()
        elif verb == "write":
            client.size += size
            behind.note(client, client.size)
        elif verb == "read":
            client.size = max(0, client.size - size)
        else:
            behind.forget(client)
            client.size = 0
        for gone, one in clients.items():
            if one.dropped:
                clients[gone] = FakeClient()
    loop.look()
    loop.turn()
    assert behind.bytes == sum(behind._unread.values())
    assert behind.bytes <= 3000
    assert all(one.unread() == size for one, size in behind._unread.items())


def test_a_client_has_less_room_the_more_all_clients_leave_unread() -> None:
    _, behind = backlog(most=10 * 1024 * 1024)
    rooms = [behind.room()]
    for _ in range(10):
        noted(behind, 1024 * 1024)
        rooms.append(behind.room())
    assert rooms == sorted(rooms, reverse=True)
    assert rooms[0] == 10 * 1024 * 1024 // 8
    assert rooms[-1] == LEAST_ROOM_BYTES


def test_without_a_bound_for_all_clients_the_room_is_that_of_each() -> None:
    _, behind = backlog(most_each=100)
    noted(behind, 50)
    assert behind.room() == 100
