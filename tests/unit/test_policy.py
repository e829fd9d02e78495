"""An application's own rules: who may subscribe beyond the signatures."""

import logging

import pytest

from heliograph.errors import Unavailable
from heliograph.hub.facts import Member
from heliograph.node.policy import Forbidden
from heliograph.reply import Later, Reply
from tests.unit.test_session import World, say, sign


class Rules:
    """A policy that answers when the test says so, or at once."""

    def __init__(self, *, later: bool) -> None:
        self.later = later
        self.asked: list[tuple[str, str, str, str | None]] = []
        self.answers: list[Later[None]] = []

    def authorize(
        self, app_id: str, session_id: str, channel: str, member: Member | None
    ) -> Reply[None]:
        user_id = None if member is None else member.user_id
        self.asked.append((app_id, session_id, channel, user_id))
        if not self.later:
            return None
        self.answers.append(Later())
        return self.answers[-1]


@pytest.fixture(params=[False, True], ids=["memory", "late"])
def late(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_policy_that_allows_at_once_changes_nothing(late: bool) -> None:
    rules = Rules(later=False)
    world = World(late=late, policy=rules)
    peer = world.client()
    say(peer, "subscribe", "presence-c", **sign(peer, "presence-c", "ann"))
    world.settle()
    assert peer.take() == ["subscription_succeeded presence-c"]
    assert rules.asked == [("1", peer.id, "presence-c", "ann")]


def test_a_policy_is_not_asked_for_what_a_signature_forbids() -> None:
    rules = Rules(later=False)
    world = World(late=False, policy=rules)
    peer = world.client()
    say(peer, "subscribe", "private-c", auth="key:wrong")
    assert rules.asked == []


def test_a_client_is_subscribed_when_the_policy_has_allowed_it(late: bool) -> None:
    rules = Rules(later=True)
    world = World(late=late, policy=rules)
    peer = world.client()
    say(peer, "subscribe", "c")
    world.publish("before", "c")
    world.settle()
    assert peer.take() == []
    assert world.space.share().channels == {}
    rules.answers[0].resolve(None)
    world.settle()
    world.publish("after", "c")
    world.settle()
    assert peer.take() == ["subscription_succeeded c", "after c"]


def test_a_subscription_that_the_policy_forbids_is_refused_and_can_be_tried_again(
    late: bool,
) -> None:
    rules = Rules(later=True)
    world = World(late=late, policy=rules)
    peer = world.client()
    say(peer, "subscribe", "c")
    rules.answers[0].fail(Forbidden("not on Sundays"))
    world.settle()
    assert peer.take() == ["error: Subscription to channel c is forbidden: not on Sundays"]
    assert peer.closed is None
    say(peer, "subscribe", "c")
    rules.answers[1].resolve(None)
    world.settle()
    assert peer.take() == ["subscription_succeeded c"]


def test_a_policy_that_cannot_decide_closes_the_client_so_that_it_reconnects(late: bool) -> None:
    rules = Rules(later=True)
    world = World(late=late, policy=rules)
    peer = world.client()
    say(peer, "subscribe", "c")
    rules.answers[0].fail(Unavailable("the database is down"))
    world.settle()
    assert peer.closed is not None
    assert peer.closed.code == 4100


@pytest.mark.parametrize("raises", [False, True])
def test_a_fault_of_a_policy_is_logged_and_closes_the_client_so_that_it_reconnects(
    caplog: pytest.LogCaptureFixture, *, raises: bool
) -> None:
    class Faulty(Rules):
        def authorize(
            self, app_id: str, session_id: str, channel: str, member: Member | None
        ) -> Reply[None]:
            if raises:
                raise ValueError("ours")
            return super().authorize(app_id, session_id, channel, member)

    rules = Faulty(later=True)
    world = World(late=False, policy=rules)
    peer, other = world.client(), world.client()
    with caplog.at_level(logging.ERROR):
        say(peer, "subscribe", "c")
        if not raises:
            rules.answers[0].fail(ValueError("ours"))
    assert peer.closed is not None
    assert peer.closed.code == 4100
    assert other.closed is None
    assert "app 1: the policy failed" in [record.message for record in caplog.records]
    assert world.space.share() == world.asserted()


def test_the_answer_of_a_policy_for_a_channel_that_was_left_is_ignored(late: bool) -> None:
    rules = Rules(later=True)
    world = World(late=late, policy=rules)
    peer = world.client()
    say(peer, "subscribe", "c")
    say(peer, "unsubscribe", "c")
    say(peer, "subscribe", "c")
    rules.answers[0].fail(Forbidden("no"))
    world.settle()
    assert peer.take() == []
    rules.answers[1].resolve(None)
    world.settle()
    assert peer.take() == ["subscription_succeeded c"]
    assert world.space.share() == world.asserted()


@pytest.mark.parametrize("channels", [1, 100])
@pytest.mark.parametrize("outcome", ["allowed", "forbidden", "unavailable"])
def test_a_client_that_leaves_while_the_policy_decides_leaves_nothing_behind(
    late: bool, channels: int, outcome: str
) -> None:
    """Also where it leaves its channels in slices, and the answers come before their turn."""
    rules = Rules(later=True)
    world = World(late=late, policy=rules)
    peer = world.client()
    for number in range(channels):
        say(peer, "subscribe", f"c{number}")
    peer.session.end()
    for answer in rules.answers:
        if outcome == "allowed":
            answer.resolve(None)
        else:
            answer.fail(Forbidden("no") if outcome == "forbidden" else Unavailable("down"))
    world.settle()
    assert peer.told == []
    assert world.space.share() == world.asserted()
    assert world.node.connections == 0
