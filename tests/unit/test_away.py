"""A session whose connection is lost, over an engine that answers at once and one that does not."""

import gc
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heliograph.hub.facts import Fact
from heliograph.hub.hub import FLUSH_BUDGET
from heliograph.node.away import Away
from heliograph.node.dialect import Ending, Goodbye
from heliograph.node.membership import LEFT_AT_ONCE
from heliograph.node.policy import Forbidden
from heliograph.protocols.pusher.lanes import PusherLane
from heliograph.reply import Later
from tests.unit.test_session import (
    CREDENTIALS,
    FakePeer,
    LineFraming,
    World,
    late,
    say,
    sign,
    world,
)

__all__ = ["late", "world"]  # fixtures

MOST_BYTES = 100_000

GOODBYE = Goodbye(4200, "later")


class OtherLane(PusherLane):
    """The same messages in other bytes, for another kind of connection."""

    def encode(self, fact: Fact, /) -> bytes:
        return super().encode(fact).replace(b'"c"', b'"C"')


def away(most_bytes: int = 10) -> tuple[Away, list[str]]:
    ended: list[str] = []
    return Away("7", PusherLane(LineFraming()), most_bytes, lambda: ended.append("ended")), ended


# -- What holds instead of a connection ----------------------------------------------------


def test_chunks_and_messages_are_held_in_their_order() -> None:
    peer, ended = away(100)
    peer.write(b"one\n")
    peer.send(b"two", b"three")
    peer.write(memoryview(b"four\n"))
    peer.write(b"")  # the encoding of a kept event during a replay
    assert b"".join(peer.chunks) == b"one\ntwo\nthree\nfour\n"
    assert len(peer.chunks) == 4
    assert (peer.id, peer.dropped, peer.goodbye, ended) == ("7", False, None, [])


@given(st.lists(st.binary(max_size=6), max_size=12))
@example([b"12345", b"67890"])
@example([b"12345", b"67890", b"1"])
def test_all_is_held_or_nothing(chunks: list[bytes]) -> None:
    peer, _ = away(10)
    for chunk in chunks:
        peer.write(chunk)
    whole = b"".join(chunks)
    assert peer.dropped is (len(whole) > 10)
    assert b"".join(peer.chunks) == (b"" if peer.dropped else whole)


def test_nothing_is_held_after_more_than_could_be() -> None:
    peer, ended = away(3)
    peer.write(b"four")
    peer.write(b"5")
    peer.send(b"6")
    assert peer.dropped
    assert peer.chunks == []
    assert ended == []  # it may come back, to be closed


def test_a_close_ends_the_session_once_and_the_first_goodbye_stays() -> None:
    peer, ended = away()
    peer.write(b"a")
    peer.close(GOODBYE)
    peer.close(Goodbye(4001, "other"))
    peer.write(b"b")
    assert ended == ["ended"]
    assert (peer.goodbye, peer.chunks) == (GOODBYE, [])


# -- A session without a connection --------------------------------------------------------


def detach(peer: FakePeer, most_bytes: int = MOST_BYTES) -> None:
    """Lose the connection; what comes to it from here on is a fault."""
    peer.session.detach(most_bytes)
    peer.chunks = 0


def attach(peer: FakePeer) -> FakePeer:
    """Come back by another connection."""
    assert peer.chunks == 0
    other = FakePeer(peer.session)
    peer.session.attach(other)
    return other


def test_a_session_goes_on_with_what_was_sent_meanwhile(world: World) -> None:
    peer = world.client()
    say(peer, "subscribe", "c")
    world.settle()
    peer.take()
    detach(peer)
    for name in ("a", "b"):
        world.publish(name, "c")
        world.settle()
    other = attach(peer)
    world.publish("after", "c")
    world.settle()
    assert other.take() == ["a c", "b c", "after c"]


def test_what_was_published_before_the_loss_and_is_flushed_after_it_is_held(world: World) -> None:
    peer = world.client()
    say(peer, "subscribe", "c")
    world.settle()
    peer.take()
    world.publish("a", "c")
    detach(peer)
    world.settle()
    world.publish("b", "c")
    other = attach(peer)
    world.settle()
    assert other.take() == ["a c", "b c"]


def test_an_answer_that_comes_while_the_connection_is_lost_is_held() -> None:
    world = World(late=True)
    peer, witness = world.client(), world.client()
    say(witness, "subscribe", "presence-p", **sign(witness, "presence-p", "w"))
    world.settle()
    say(peer, "subscribe", "presence-p", **sign(peer, "presence-p", "u"))
    detach(peer)
    world.settle()
    world.publish("a", "presence-p")
    world.settle()
    other = attach(peer)
    assert other.take() == ["subscription_succeeded presence-p", "a presence-p"]
    assert witness.take()[1:] == ["member_added presence-p", "a presence-p"]


def test_an_answer_that_comes_after_the_connection_is_back_goes_there() -> None:
    world = World(late=True)
    peer = world.client()
    say(peer, "subscribe", "c")
    detach(peer)
    other = attach(peer)
    world.settle()
    world.publish("a", "c")
    world.settle()
    assert other.take() == ["subscription_succeeded c", "a c"]


@pytest.mark.parametrize("back", [False, True], ids=["while lost", "once back"])
def test_the_answer_of_a_policy_goes_where_the_client_is(back: bool) -> None:
    class LatePolicy:
        def __init__(self) -> None:
            self.asked: list[Later[None]] = []

        def authorize(self, *_arguments: Any) -> Later[None]:
            self.asked.append(Later())
            return self.asked[-1]

    policy = LatePolicy()
    world = World(late=False, policy=policy)
    peer = world.client()
    for channel in "cd":
        say(peer, "subscribe", channel)
    detach(peer)
    if not back:
        policy.asked[0].resolve(None)
        policy.asked[1].fail(Forbidden("no"))
    other = attach(peer)
    if back:
        policy.asked[0].resolve(None)
        policy.asked[1].fail(Forbidden("no"))
    taken = other.take()
    assert taken[0] == "subscription_succeeded c"
    assert taken[1].startswith("error: ")
    assert list(peer.session.channels) == ["c"]


def sign_in(peer: FakePeer, user_id: str, *watchlist: str) -> None:
    data = json.dumps({"id": user_id, "watchlist": watchlist})
    message = {
        "event": "pusher:signin",
        "data": {"user_data": data, "auth": CREDENTIALS.authorize_user(peer.id, data)},
    }
    peer.session.receive(json.dumps(message).encode(), 0.0)


def test_a_sign_in_that_is_answered_meanwhile_is_held_with_what_follows(late: bool) -> None:
    world = World(late=late, watchlist=True)
    peer, watched = world.client(), world.client()
    sign_in(peer, "ann", "bob")
    if not late:
        peer.take()
    detach(peer)
    world.settle()
    sign_in(watched, "bob")
    world.settle()
    other = attach(peer)
    signed_in = ["signin_success", "watchlist_events"] if late else []
    assert other.take() == [*signed_in, "watchlist_events"]
    watched.session.end()
    world.settle()
    assert other.take() == ["watchlist_events"]


def test_a_session_whose_user_is_terminated_while_the_sign_in_is_unanswered_ends() -> None:
    world = World(late=True)
    peer = world.client()
    sign_in(peer, "ann")
    detach(peer)
    tenant = world.node.tenant("1")
    assert tenant is not None
    tenant.terminate("ann")
    world.settle()
    assert peer.session.ended
    other = attach(peer)
    assert other.closed is not None
    assert other.closed.code == 4009
    assert world.space.share() == world.asserted()


def test_in_the_middle_of_a_flush_nobody_receives_twice_or_nothing(world: World) -> None:
    """A channel with many subscribers is written to in several turns."""
    peers = [world.client() for _ in range(3 * FLUSH_BUDGET)]
    for peer in peers:
        say(peer, "subscribe", "c")
    world.settle()
    for peer in peers:
        peer.take()
    world.publish("a", "c")
    if world.late:
        world.late.settle()
    world.timing.due.pop(0)()
    reached = [peer for peer in peers if peer.chunks > 1]
    assert 0 < len(reached) < len(peers)
    lost = [peers[0], peers[FLUSH_BUDGET + 1], peers[-1]]
    assert len({peer in reached for peer in lost}) == 2
    for peer in lost[:2]:
        before = peer.take()
        detach(peer)
        peer.told = [{"event": name.partition(" ")[0], "channel": "c"} for name in before]
    world.publish("b", "c")
    detach(lost[2])
    third = attach(lost[2])
    world.settle()
    for peer in lost[:2]:
        assert peer.take() + attach(peer).take() == ["a c", "b c"]
    assert lost[2].take() + third.take() == ["a c", "b c"]


def test_a_session_that_was_sent_more_than_is_held_is_closed_when_it_is_back(world: World) -> None:
    peer, witness = world.client(), world.client()
    for one, user_id in ((witness, "w"), (peer, "u")):
        say(one, "subscribe", "presence-p", **sign(one, "presence-p", user_id))
        world.settle()
    witness.take()
    detach(peer, most_bytes=200)
    for _ in range(10):
        world.publish("a", "presence-p")
        world.settle()
    assert witness.take() == ["a presence-p"] * 10  # the member is still there
    other = attach(peer)
    assert other.closed is not None
    assert other.closed.code == 4200
    assert other.take() == []
    world.settle()
    assert witness.take() == ["member_removed presence-p"]
    assert world.space.share() == world.asserted()


@pytest.mark.interpreted
@pytest.mark.parametrize("published", [0, 1])
def test_a_connection_of_another_kind_goes_on_only_where_nothing_was_held(
    world: World, published: int
) -> None:
    """What is held is in the bytes of the lane that the connection had."""
    peer = world.client()
    say(peer, "subscribe", "c")
    world.settle()
    detach(peer)
    for _ in range(published):
        world.publish("a", "c")
        world.settle()
    other = FakePeer(peer.session)
    other.lane = OtherLane(LineFraming())
    peer.session.attach(other)
    assert (other.closed is not None) is bool(published)
    world.publish("b", "c")
    world.settle()
    assert other.take() == ([] if published else ["b C"])


@pytest.mark.parametrize("channels", [2, 2 * LEFT_AT_ONCE], ids=["at once", "in slices"])
@pytest.mark.parametrize("ending", [Ending.APP_DISABLED, Ending.RECONNECT, Ending.EVENTS_LOST])
def test_a_session_that_is_closed_meanwhile_ends_and_its_client_reads_why(
    world: World, ending: Ending, channels: int
) -> None:
    peer = world.client()
    for number in range(channels):
        say(peer, "subscribe", f"c{number}")
    world.settle()
    detach(peer)
    world.publish("a", "c0")
    world.settle()
    peer.session.close(ending)
    assert peer.session.ended
    assert world.node.connections == 0
    world.publish("b", "c0")
    other = attach(peer)
    assert other.closed == world.dialect.goodbye(ending)
    for _ in range(2):
        world.settle()  # the channels are left in a turn, and the engine takes note after it
    assert other.take() == []
    assert world.space.share() == world.asserted()


def test_an_engine_that_does_not_answer_closes_a_session_without_a_connection() -> None:
    world = World(late=True)
    assert world.late
    peer = world.client()
    world.late.away = True
    say(peer, "subscribe", "c")
    detach(peer)
    world.settle()
    assert peer.session.ended
    other = attach(peer)
    assert other.closed == world.dialect.goodbye(Ending.ENGINE_UNAVAILABLE)


def test_a_session_that_ended_in_time_closes_a_connection_that_comes_too_late(
    world: World,
) -> None:
    """The owner of a session ended it; a resumption was already under way."""
    peer = world.client()
    say(peer, "subscribe", "c")
    world.settle()
    detach(peer)
    peer.session.end()
    other = attach(peer)
    assert other.closed == world.dialect.goodbye(Ending.EVENTS_LOST)
    world.publish("a", "c")
    world.settle()
    assert other.take() == []


def test_a_session_that_is_closed_with_its_connection_closes_the_next_one(world: World) -> None:
    peer = world.client()
    peer.session.close(Ending.RECONNECT)
    other = FakePeer(peer.session)
    peer.session.attach(other)
    assert other.closed == world.dialect.goodbye(Ending.EVENTS_LOST)


def test_a_session_ends_once_however_often_it_is_ended(world: World) -> None:
    peer = world.client()
    say(peer, "subscribe", "presence-p", **sign(peer, "presence-p", "u"))
    world.settle()
    detach(peer)
    for _ in range(2):
        peer.session.close(Ending.TERMINATED)
        peer.session.end()
    world.settle()
    assert world.space.share() == world.asserted()
    assert world.node.connections == 0


def test_a_session_loses_its_connection_once_and_has_one_at_a_time(world: World) -> None:
    peer = world.client()
    with pytest.raises(AssertionError):
        peer.session.attach(FakePeer(peer.session))
    detach(peer)
    with pytest.raises(AssertionError):
        peer.session.detach(MOST_BYTES)
    other = attach(peer)
    other.session.end()
    with pytest.raises(AssertionError):
        other.session.detach(MOST_BYTES)


STEPS = st.lists(
    st.sampled_from(
        ["publish", "detach", "attach", "subscribe", "unsubscribe", "turn", "answer", "answer"]
    ),
    max_size=40,
)


@given(STEPS)
def test_in_any_order_a_client_receives_what_one_that_loses_no_connection_does(
    steps: list[str],
) -> None:
    assert received(steps, loses=True) == received(steps, loses=False)


def received(steps: list[str], *, loses: bool) -> list[str]:
    """What a client receives, over an engine that answers late; with *loses*, it is detached."""
    world = World(late=True)
    assert world.late
    peers = [world.client()]
    session = peers[0].session
    numbers = iter(range(len(steps)))
    lost = False
    for step in [*steps, "attach"]:
        if step == "publish":
            world.publish(str(next(numbers)), "c")
        elif step == "turn":
            world.timing.turn()
        elif step in {"subscribe", "unsubscribe"}:
            say(peers[-1], step, "c")
        elif step == "detach":
            if loses and not lost:
                session.detach(MOST_BYTES)
                lost = True
        elif step == "attach":
            if lost:
                peers.append(FakePeer(session))
                session.attach(peers[-1])
                lost = False
        elif world.late.waiting:
            world.late.step(world.late.waiting[0])
    world.settle()
    assert world.space.share() == world.asserted()
    return [name for peer in peers for name in peer.take()]


def test_a_session_that_ends_without_a_connection_leaves_nothing_for_the_collector(
    world: World,
) -> None:
    peer = world.client()
    say(peer, "subscribe", "c")
    world.settle()
    session = peer.session
    del peer
    gc.collect()
    gc.disable()
    try:
        session.detach(MOST_BYTES)
        world.publish("news", "c")
        world.settle()
        (held,) = [one for one in gc.get_objects() if isinstance(one, Away)]
        assert held.chunks
        del held
        session.end()
        del session
        world.settle()
        assert [one for one in gc.get_objects() if isinstance(one, Away)] == []
    finally:
        gc.enable()
