"""A turn has a budget and a connection a slice of it: which is served when, by a clock of ours."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.net import streams
from heliograph.net.streams import BUSY_READ_BYTES, UNREAD_S
from heliograph.net.turns import (
    DELAYS_S,
    ENDINGS_S,
    LONG_S,
    NEWCOMER,
    SLICE_S,
    STEP,
    TURN_S,
    LoopTurns,
    Queue,
    standing_after,
)
from tests.integration.rig import PATIENCE_S
from tests.integration.test_streams import ENDED, GOT, MUCH, Told, switchboard


class Clock:
    """Stands still but for what the connections of a test say that they cost."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Costly(Told):
    """A protocol whose every read takes *cost_s*; *log* is who was served, in order."""

    def __init__(self, clock: Clock, log: list[str], name: str, cost_s: float) -> None:
        super().__init__()
        self.clock, self.log, self.name, self.cost_s = clock, log, name, cost_s

    def data_received(self, data: bytes) -> None:
        self.log.append(self.name)
        self.clock.now += self.cost_s
        super().data_received(data)


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop turn until *holds* does."""
    for _ in range(100_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


async def everybody(*some: Told) -> None:
    for one in some:
        await one.until(GOT)


async def test_a_turn_ends_after_its_time_and_goes_on_in_the_next() -> None:
    clock, log = Clock(), list[str]()
    async with switchboard(clock) as board:
        some = [Costly(clock, log, str(number), TURN_S / 2) for number in range(9)]
        for one in some:
            board.connect(one).send(b"a")
        await everybody(*some)
        assert sorted(log) == sorted(one.name for one in some)
        assert board.poller.turns >= 4, "two of them are a turn"
        assert await board.turns_while_idle() == 0


async def test_connections_that_used_less_time_are_served_first() -> None:
    clock, log = Clock(), list[str]()
    async with switchboard(clock) as board:
        greedy = [Costly(clock, log, "greedy", TURN_S) for _ in range(20)]
        calm = Costly(clock, log, "calm", 0.0)
        peers = [board.connect(one) for one in greedy]
        beside = board.connect(calm)
        beside.send(b"a")
        await calm.until(GOT)
        for times in (1, 2, 3):
            for peer in peers:
                peer.send(b"a")
            for one in greedy:
                await one.until(GOT, times)

        log.clear()
        for peer in peers:
            peer.send(b"a")
        beside.send(b"a")
        await calm.until(GOT, 2)
        assert log.index("calm") <= 1, "the first turn may have begun with one of them"
        for one in greedy:
            await one.until(GOT, 4)


async def test_a_short_read_puts_a_client_among_the_others_again() -> None:
    clock, log = Clock(), list[str]()
    async with switchboard(clock) as board:
        some = [Costly(clock, log, str(number), TURN_S) for number in range(20)]
        peers = [board.connect(one) for one in some]
        for times in range(1, 10):
            some[0].cost_s = 0.0 if times == 9 else TURN_S
            for peer in peers:
                peer.send(b"a")
            for one in some:
                await one.until(GOT, times)
        log.clear()
        for peer in peers:
            peer.send(b"a")
        await some[0].until(GOT, 10)
        assert log.index("0") <= 1


async def test_newcomers_come_after_those_that_are_there() -> None:
    clock, log = Clock(), list[str]()
    async with switchboard(clock) as board:
        there = Costly(clock, log, "there", 0.0)
        beside = board.connect(there)
        beside.send(b"a")
        await there.until(GOT)
        some = [Costly(clock, log, "new", TURN_S) for _ in range(60)]
        for one in some:
            board.connect(one).send(b"a")
        for times in (2, 3, 4):  # however long they have waited
            await until(lambda times=times: log.count("new") >= 15 * (times - 1))  # type: ignore[misc]
            before = log.count("new")
            beside.send(b"a")
            await there.until(GOT, times)
            assert log.count("new") <= before + 2
        await everybody(*some)


async def test_connections_that_are_queued_do_not_hide_others_from_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the kernel they are ready, in every turn again, until they are read."""
    monkeypatch.setattr(streams, "AT_ONCE", 4)
    clock, log = Clock(), list[str]()
    async with switchboard(clock) as board:
        calm = Costly(clock, log, "calm", 0.0)
        beside = board.connect(calm)
        beside.send(b"a")
        await calm.until(GOT)
        some = [Costly(clock, log, "new", TURN_S) for _ in range(60)]
        for one in some:
            board.connect(one).send(b"a")
        await until(lambda: board.poller.queued >= 30)
        before = log.count("new")
        beside.send(b"a")
        await calm.until(GOT, 2)
        assert log.count("new") <= before + 2
        await everybody(*some)


async def test_what_is_put_off_is_done_in_slices_between_which_others_are_served() -> None:
    clock, log = Clock(), list[str]()
    async with switchboard(clock) as board:
        calm = Costly(clock, log, "calm", 0.0)
        beside = board.connect(calm)
        beside.send(b"a")
        await calm.until(GOT)
        left = 30

        def go_on() -> None:
            nonlocal left
            left -= 1
            log.append("slice")
            clock.now += TURN_S
            if left == 15:
                beside.send(b"a")
            if left:
                board.poller.again(go_on, greedy.transport)

        greedy = Told(data_received=lambda _: go_on())
        board.connect(greedy).send(b"much")
        await calm.until(GOT, 2)
        assert log.count("slice") in (15, 16, 17), "its turn came within two slices"
        await until(lambda: not left)
        assert log.count("slice") == 30


async def test_the_short_rest_of_a_long_read_makes_it_no_short_one() -> None:
    clock = Clock()
    async with switchboard(clock) as board:

        def handle(_data: bytes) -> None:
            clock.now += SLICE_S
            board.poller.again(lambda: None, greedy.transport)

        greedy = Told(data_received=handle)
        peer = board.connect(greedy)
        for number in range(1, 6):
            peer.send(b"a")
            await greedy.until(GOT, number)
            await until(lambda: not board.poller.queued)
        assert delay_s(greedy.transport.standing) == DELAYS_S[-1]


async def test_an_answer_that_comes_late_goes_on_with_a_connection_outside_of_a_turn() -> None:
    async with switchboard() as board:
        told = Told()
        board.connect(told)
        done = asyncio.Event()
        board.poller.again(done.set, told.transport)
        async with asyncio.timeout(PATIENCE_S):
            await done.wait()
        assert await board.turns_while_idle() == 0


async def test_what_can_wait_does_so_while_there_is_more_to_read_and_not_for_long() -> None:
    """A crowd that comes at once is announced in few writes; no news waits for a flood to end."""
    clock = Clock()
    async with switchboard(clock) as board:
        left = slices = 2 * round(UNREAD_S / TURN_S)
        flushed: list[int] = []

        def go_on() -> None:
            nonlocal left
            left -= 1
            if left == slices - 1:
                board.poller.when_read(lambda: flushed.append(left))
            clock.now += TURN_S
            if left:
                board.poller.again(go_on, greedy.transport)
            else:
                board.poller.when_read(lambda: flushed.append(-1))

        greedy = Told(data_received=lambda _: go_on())
        board.connect(greedy).send(b"much")
        await until(lambda: len(flushed) == 2)
    (first, last) = flushed
    assert abs(first - (slices - round(UNREAD_S / TURN_S))) <= 1
    assert last == -1


@pytest.mark.interpreted
@given(st.lists(st.tuples(st.integers(0, len(DELAYS_S) * STEP - 1), st.floats(0, 1)), max_size=40))
def test_the_queue_serves_those_first_that_are_behind_the_least(
    entries: list[tuple[int, float]],
) -> None:
    """In the order of their coming where they are behind by the same, as a sorted list has it."""
    queue: Queue[Any] = Queue()
    now, expected = 0.0, []
    for number, (standing, passed_s) in enumerate(entries):
        now += passed_s
        stream: Any = SimpleNamespace(standing=standing, number=number)
        queue.put(stream, standing, now)
        expected.append((now + delay_s(standing), standing // STEP, number))
    served: list[Any] = [queue.take()[0] for _ in range(len(queue))]
    assert [one.number for one in served] == [number for *_, number in sorted(expected)]
    with pytest.raises(IndexError):
        queue.take()


async def test_one_that_ends_while_it_is_queued_is_left_out_and_harms_nobody() -> None:
    clock, log = Clock(), list[str]()
    async with switchboard(clock) as board:
        some = [Costly(clock, log, str(number), 2 * TURN_S) for number in range(6)]
        peers = [board.connect(one) for one in some]
        for peer in peers:
            peer.send(b"a")
        await until(lambda: bool(log))
        queued = [one for one in some if not one.received]
        assert queued
        queued[0].transport.abort()
        board.poller.again(queued[0].transport.abort, queued[0].transport)
        await everybody(*[one for one in some if one is not queued[0]])
        assert queued[0].received == b""


async def test_a_fault_in_a_slice_ends_its_own_connection_only() -> None:
    async with switchboard() as board:
        told = Told()
        board.connect(told)
        other = Told()
        beside = board.connect(other)

        def fault() -> None:
            raise RuntimeError("a planted fault")

        board.poller.again(fault, told.transport)
        beside.send(b"a")
        await other.until(GOT)
        await told.until("connection_lost")
        (found,) = board.faults
        assert str(found) == "a planted fault"
        board.faults.clear()


async def test_while_more_is_to_be_read_than_there_is_time_little_is_taken_of_each() -> None:
    clock, log = Clock(), list[str]()
    async with switchboard(clock) as board:
        some = [Costly(clock, log, str(number), 2 * TURN_S) for number in range(4)]
        for one in some:
            peer = board.connect(one)
            peer.setblocking(False)
            peer.send(bytes(8 * BUSY_READ_BYTES))
        for one in some:
            await one.until_received(bytes(8 * BUSY_READ_BYTES))
        largest = sorted(max(len(data) for what, data in one.heard if what == GOT) for one in some)
        assert largest[:-1] == [BUSY_READ_BYTES] * 3, "all but the first, which met no queue"


async def test_input_that_is_not_read_yet_is_seen_and_stays() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told)
        told.transport.pause_reading()
        assert not told.transport.has_input()
        peer.send(b"a")
        assert told.transport.has_input()
        told.transport.resume_reading()
        await told.until_received(b"a")
        assert not told.transport.has_input()
        told.transport.pause_reading()
        peer.shutdown(socket.SHUT_WR)
        assert told.transport.has_input(), "its end is something to be read"
        told.transport.abort()
        assert not told.transport.has_input()


# -- Where asyncio's transports carry the connections ------------------------------------------


async def test_without_a_poller_slices_take_turns_within_the_time_of_a_turn() -> None:
    clock = Clock()
    turns = LoopTurns(asyncio.get_running_loop(), clock)
    log: list[str] = []
    left = {"a": 3, "b": 3}

    def go_on(name: str) -> None:
        log.append(name)
        clock.now += TURN_S
        left[name] -= 1
        if left[name]:
            turns.again(partial(go_on, name), None)

    turns.again(partial(go_on, "a"), None)
    turns.again(partial(go_on, "b"), None)
    ticks = 0
    while any(left.values()):
        await asyncio.sleep(0)
        ticks += 1
    assert log == ["a", "b"] * 3
    assert ticks >= 6, "each filled a turn of its own"


async def test_without_a_poller_a_fault_in_a_slice_stops_nobody_else() -> None:
    loop = asyncio.get_running_loop()
    turns = LoopTurns(loop)
    faults: list[Any] = []
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    done = asyncio.Event()

    def fault() -> None:
        raise RuntimeError("a planted fault")

    turns.again(fault, None)
    turns.again(done.set, None)
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    loop.set_exception_handler(None)
    assert [str(one) for one in faults] == ["a planted fault"]


async def test_once_a_connection_closes_there_is_no_input_that_is_yet_to_be_read() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told)
        told.transport.write(MUCH)
        peer.shutdown(socket.SHUT_WR)
        await told.until(ENDED)
        assert not told.losses, "it waits for its peer to read"
        assert not told.transport.has_input()


async def test_of_many_that_disconnect_at_once_a_few_are_ended_before_the_loop_turns() -> None:
    clock = Clock()
    async with switchboard(clock) as board:
        ended: list[int] = []

        def end(_error: Exception | None) -> None:
            ended.append(board.poller.turns)
            clock.now += ENDINGS_S / 2

        some = [Told(connection_lost=end) for _ in range(20)]
        for one in some:
            board.connect(one)
        for one in some:
            one.transport.abort()
        at_once = []
        while len(ended) < len(some):
            before = len(ended)
            await asyncio.sleep(0)
            at_once.append(len(ended) - before)
        assert max(at_once) == 2
        assert len(board.poller) == 0


# -- Levels ------------------------------------------------------------------------------------


def after(standing: int, *reads_s: float, whole: bool = True, done: bool = True) -> int:
    for took_s in reads_s:
        standing = standing_after(standing, took_s, whole=whole, done=done)
    return standing


def delay_s(standing: int) -> float:
    return DELAYS_S[standing // STEP]


def test_one_long_read_puts_a_client_behind_by_a_few_turns_at_the_most() -> None:
    """It may have met with the garbage collector, or with another process."""
    assert delay_s(after(0, 10.0)) <= 5 * TURN_S


def test_after_long_reads_in_a_row_a_client_is_further_and_further_behind() -> None:
    delays = [delay_s(after(0, *[SLICE_S] * count, done=False)) for count in range(20)]
    assert delays == sorted(delays)
    assert delays[-1] == DELAYS_S[-1]


def test_a_newcomer_with_short_reads_comes_in_at_once() -> None:
    assert delay_s(after(NEWCOMER, SLICE_S)) < delay_s(NEWCOMER)
    assert after(NEWCOMER, *[SLICE_S] * 4) == 0


def test_many_short_reads_bring_a_client_back() -> None:
    last = after(0, *[SLICE_S] * 9, done=False)
    assert delay_s(last) == DELAYS_S[-1]
    owed = [SLICE_S] * (STEP - 1)
    assert delay_s(after(last, *owed)) == DELAYS_S[-1]
    assert after(last, *owed, *[SLICE_S] * (len(DELAYS_S) - 1)) == 0


@pytest.mark.parametrize("short", [0, 1, 2, 10, STEP - 2])
def test_a_long_read_among_short_ones_leaves_a_client_behind_those_that_have_none(
    short: int,
) -> None:
    """Hundreds of clients that send something expensive now and then come after all others."""
    standing = 0
    for _ in range(10):
        standing = after(standing, 2 * LONG_S, *[SLICE_S / 10] * short)
    assert delay_s(standing) == DELAYS_S[-1]


def test_a_read_that_is_a_little_long_and_done_changes_nothing() -> None:
    assert after(STEP, LONG_S) == STEP
    assert delay_s(after(STEP, 1.1 * LONG_S)) == DELAYS_S[2]


def test_parts_of_a_large_message_are_no_short_reads() -> None:
    assert delay_s(after(0, *[SLICE_S / 10] * 15, whole=False)) == DELAYS_S[-1]


def test_thousands_of_greedy_clients_stay_behind_a_calm_one() -> None:
    """Each is served again only after all others: for so long it must not come to the front."""
    assert DELAYS_S[-1] > 3000 * SLICE_S


def test_a_client_that_has_fallen_behind_catches_up() -> None:
    """A hundred requests a second, 0.1 ms each: their delay must not make its reads long."""
    for behind_s in DELAYS_S[:3]:
        assert 100 * behind_s * 0.0001 < SLICE_S
