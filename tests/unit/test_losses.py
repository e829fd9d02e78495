"""What clients see where the engine reports that events, or terminations, may be missing."""

import logging

import pytest

from heliograph.engine.answers import Entry, Lost, Reason
from heliograph.node.closings import SPREAD_S, STEPS
from tests.unit.test_large_work import sign_in
from tests.unit.test_session import FakePeer, World, say


def lost(world: World, *losses: Lost) -> None:
    tenant = world.node.tenant("1")
    assert tenant is not None
    tenant.lost(losses)
    world.settle()


def of(channel: str) -> Lost:
    return Lost(Reason.NEW_STATE, channel, now=Entry(1))


def crowd_on(world: World, channel: str, number: int) -> list[FakePeer]:
    crowd = [world.client() for _ in range(number)]
    for peer in crowd:
        say(peer, "subscribe", channel)
    world.settle()
    return crowd


def codes(crowd: list[FakePeer]) -> set[int | None]:
    return {peer.closed.code for peer in crowd if peer.closed is not None}


def test_clients_that_lost_events_are_closed_with_4200() -> None:
    world = World(late=False)
    (peer,), (other,) = crowd_on(world, "c", 1), crowd_on(world, "d", 1)
    lost(world, of("c"), of("e"))
    assert codes([peer]) == {4200}
    assert other.closed is None


def test_closing_many_is_spread_over_time() -> None:
    world = World(late=False)
    crowd = crowd_on(world, "c", 1000)
    lost(world, of("c"))
    steps = [sum(peer.closed is not None for peer in crowd)]
    while world.timing.delayed:
        (delay_s,) = {delay for delay, _ in world.timing.delayed if delay < 60}
        assert delay_s == SPREAD_S / STEPS
        before = list(world.timing.delayed)
        world.timing.delayed = [one for one in before if one[0] >= 60]
        for delay, callback in before:
            if delay < 60:
                callback()
        world.timing.turn()
        steps.append(sum(peer.closed is not None for peer in crowd))
        if steps[-1] == len(crowd):
            break
    assert steps == list(range(10, 1001, 10))
    assert codes(crowd) == {4200}


def test_closing_those_that_were_not_answered_is_spread_over_time() -> None:
    world = World(late=True)
    assert world.late is not None
    crowd = [world.client() for _ in range(1000)]
    world.late.away = True
    for peer in crowd:
        say(peer, "subscribe", "c")
    world.settle()
    steps = [sum(peer.closed is not None for peer in crowd)]
    for _ in range(STEPS):
        world.timing.elapse()
        steps.append(sum(peer.closed is not None for peer in crowd))
    assert steps == [1, *range(11, 1000, 10), 1000]
    assert codes(crowd) == {4100}
    while world.timing.delayed:
        world.timing.elapse()
    assert len(world.timing.delayed) == 0, "no further step"


def test_a_later_and_larger_loss_takes_no_longer() -> None:
    world = World(late=False)
    few, many = crowd_on(world, "c", 50), crowd_on(world, "d", 2000)
    lost(world, of("c"))
    lost(world, of("d"))
    for _ in range(STEPS):
        due = [callback for delay, callback in world.timing.delayed if delay < SPREAD_S]
        world.timing.delayed.clear()
        for callback in due:
            callback()
        world.timing.turn()
    assert len([peer for peer in few + many if peer.closed is None]) == 0


def test_a_session_that_can_tell_of_a_gap_is_notified_at_once_and_stays() -> None:
    world = World(late=False)
    stays, goes = crowd_on(world, "c", 2)
    notified: list[tuple[str, Entry | None]] = []

    class Understanding:
        """The session of a protocol that knows gaps."""

        def __init__(self, peer: FakePeer) -> None:
            self.id, self.peer, self.ended = peer.id, peer, False

        def lost(self, channel: str, now: Entry | None) -> bool:
            notified.append((channel, now))
            return True

    tenant = world.node.tenant("1")
    assert tenant is not None
    real = tenant.sessions[stays.id]
    tenant.sessions[stays.id] = Understanding(stays)  # type: ignore[assignment]  # what is asked of it
    lost(world, of("c"))
    tenant.sessions[stays.id] = real
    assert notified == [("c", Entry(1))]
    assert stays.closed is None
    assert codes([goes]) == {4200}


def test_a_termination_that_may_be_missing_closes_the_sessions_of_its_user() -> None:
    world = World(late=False, watchlist=True)
    ann, bob = world.client(), world.client()
    sign_in(ann, "ann")
    sign_in(bob, "bob", watchlist=["ann"])
    lost(world, Lost(Reason.NEW_STATE, user_id="ann"))
    assert codes([ann]) == {4200}
    assert bob.closed is None


def test_a_client_that_lost_events_twice_is_closed_once() -> None:
    world = World(late=False)
    crowd = crowd_on(world, "c", 300)
    lost(world, of("c"))
    lost(world, of("c"))
    for _ in range(200):
        world.timing.elapse()
        world.settle()
        world.timing.delayed = [one for one in world.timing.delayed if one[0] < 60]
        if not world.timing.delayed:
            break
    assert codes(crowd) == {4200}
    assert world.node.connections == 0


def test_a_loss_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = World(late=False)
    with caplog.at_level(logging.WARNING):
        lost(world, of("c"), of("d"))
    assert world.node.tally.losses == 2
    assert [record.message for record in caplog.records] == [
        "app 1: events may have been lost: the shared state began anew"
    ]
