"""Grace, settling, and that receivers end up with the truth."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine.answers import CacheMiss, ChannelOccupied, ChannelVacated, Entry, Happening
from heliograph.engine.memory import MemoryEngine
from heliograph.hub.facts import (
    Event,
    Member,
    MemberAdded,
    MemberRemoved,
    SubscriptionCount,
    UserOffline,
    UserOnline,
)
from heliograph.webhooks import beliefs as module
from heliograph.webhooks.beliefs import (
    CHANNEL,
    FORGOTTEN_AT_ONCE,
    MEMBER,
    USER,
    Belief,
    Beliefs,
    Removal,
    belief_of,
)

GRACE_S = 3.0
SETTLE_S = 30.0
EVERYTHING = 1000


def fresh() -> Beliefs:
    return Beliefs(GRACE_S, 10.0)


def test_what_returns_in_time_was_never_gone() -> None:
    beliefs = fresh()
    assert beliefs.take(ChannelOccupied("c"), 0.0)
    assert not beliefs.take(ChannelVacated("c"), 1.0)
    assert beliefs.due() == 4.0
    assert not beliefs.take(ChannelOccupied("c"), 3.9)
    assert beliefs.due() is None
    assert beliefs.elapse(100.0, EVERYTHING) == []


def test_a_removal_is_told_when_the_grace_is_over() -> None:
    beliefs = fresh()
    beliefs.take(UserOnline("u"), 0.0)
    beliefs.take(UserOffline("u"), 1.0)
    assert beliefs.elapse(3.9, EVERYTHING) == []
    assert beliefs.elapse(4.0, EVERYTHING) == [UserOffline("u")]
    assert beliefs.due() is None
    assert beliefs.take(UserOnline("u"), 4.1)


def test_every_absence_has_a_grace_of_its_own() -> None:
    beliefs = fresh()
    beliefs.take(ChannelOccupied("c"), 0.0)
    beliefs.take(ChannelVacated("c"), 1.0)
    beliefs.take(ChannelOccupied("c"), 2.0)
    beliefs.take(ChannelVacated("c"), 3.0)
    assert beliefs.elapse(5.9, EVERYTHING) == []
    assert beliefs.elapse(6.0, EVERYTHING) == [ChannelVacated("c")]


def test_what_was_never_told_is_not_removed() -> None:
    beliefs = fresh()
    assert not beliefs.take(MemberRemoved("presence-c", "u"), 0.0)
    assert not beliefs.take(ChannelVacated("presence-c"), 0.0)
    assert beliefs.due() is None


def test_members_go_before_their_channel() -> None:
    beliefs = fresh()
    for happening in (
        ChannelOccupied("presence-c"),
        MemberAdded("presence-c", Member("u")),
        MemberRemoved("presence-c", "u"),
        ChannelVacated("presence-c"),
    ):
        beliefs.take(happening, 0.0)
    assert beliefs.elapse(3.0, EVERYTHING) == [
        MemberRemoved("presence-c", "u"),
        ChannelVacated("presence-c"),
    ]


def test_a_channel_waits_for_the_members_of_a_former_life() -> None:
    """A newcomer who leaves at once does not end what others may still come back to."""
    beliefs = fresh()
    kept = [Belief(CHANNEL, "presence-c", ""), Belief(MEMBER, "presence-c", "u")]
    beliefs.load(kept, until=30.0)
    beliefs.take(ChannelOccupied("presence-c"), 1.0)
    assert beliefs.take(MemberAdded("presence-c", Member("v")), 1.0)
    beliefs.take(MemberRemoved("presence-c", "v"), 2.0)
    beliefs.take(ChannelVacated("presence-c"), 2.0)
    assert beliefs.elapse(29.9, EVERYTHING) == [MemberRemoved("presence-c", "v")]
    assert beliefs.elapse(30.0, EVERYTHING) == [
        MemberRemoved("presence-c", "u"),
        ChannelVacated("presence-c"),
    ]


def test_what_does_not_come_back_after_a_start_is_told_as_gone() -> None:
    beliefs = fresh()
    kept = [
        Belief(CHANNEL, "presence-c", ""),
        Belief(MEMBER, "presence-c", "u"),
        Belief(USER, "", "u"),
        Belief(CHANNEL, "d", ""),
    ]
    beliefs.load(kept, until=30.0)
    assert not beliefs.take(ChannelOccupied("d"), 29.0)
    assert beliefs.elapse(29.9, EVERYTHING) == []
    assert beliefs.elapse(30.0, EVERYTHING) == [
        MemberRemoved("presence-c", "u"),
        UserOffline("u"),
        ChannelVacated("presence-c"),
    ]
    assert list(beliefs) == [Belief(CHANNEL, "d", "")]


def test_removals_come_in_portions() -> None:
    beliefs = fresh()
    beliefs.load([Belief(CHANNEL, str(number), "") for number in range(5)], until=1.0)
    assert [len(beliefs.elapse(1.0, 2)) for _ in range(4)] == [2, 2, 1, 0]


def test_release_ends_every_grace_in_order() -> None:
    beliefs = fresh()
    beliefs.load([Belief(CHANNEL, "d", "")], until=30.0)
    beliefs.take(UserOnline("u"), 0.0)
    beliefs.take(UserOffline("u"), 1.0)
    beliefs.release(1.5)
    assert beliefs.elapse(1.5, EVERYTHING) == [UserOffline("u"), ChannelVacated("d")]


def test_what_nobody_wants_to_know_is_forgotten() -> None:
    beliefs = fresh()
    beliefs.take(ChannelOccupied("presence-c"), 0.0)
    beliefs.take(MemberAdded("presence-c", Member("u")), 0.0)
    beliefs.take(MemberRemoved("presence-c", "u"), 0.0)
    pieces = list(beliefs.forget(lambda belief: belief.about == MEMBER))
    assert pieces == [[Belief(MEMBER, "presence-c", "u")]]
    assert beliefs.elapse(9.0, EVERYTHING) == []
    assert len(beliefs) == 1


def test_all_is_forgotten_a_piece_at_a_time_by_what_is_unwanted_then() -> None:
    beliefs = fresh()
    names = [f"c{number}" for number in range(2 * FORGOTTEN_AT_ONCE + 1)]
    for name in names:
        beliefs.take(ChannelOccupied(name), 0.0)
    unwanted = set(names)
    forgetting = beliefs.forget(lambda belief: belief.channel in unwanted)
    assert len(next(forgetting)) == FORGOTTEN_AT_ONCE
    kept = next(iter(beliefs)).channel
    unwanted.discard(kept)
    beliefs.take(ChannelOccupied("told meanwhile"), 0.0)
    unwanted.add("told meanwhile")
    assert [len(piece) for piece in forgetting] == [FORGOTTEN_AT_ONCE, 0]
    assert [belief.channel for belief in beliefs] == [kept, "told meanwhile"]


def test_a_cache_miss_stands_for_all_until_filled_or_ten_seconds() -> None:
    beliefs = fresh()
    assert beliefs.take(CacheMiss("cache-c"), 0.0)
    assert not beliefs.take(CacheMiss("cache-c"), 9.9)
    assert beliefs.take(CacheMiss("cache-d"), 9.9)
    assert beliefs.take(CacheMiss("cache-c"), 10.0)
    beliefs.filled("cache-c")
    assert beliefs.take(CacheMiss("cache-c"), 10.1)
    assert not beliefs.take(CacheMiss("cache-d"), 19.8)


def test_what_is_no_belief_is_told_at_once() -> None:
    beliefs = fresh()
    for _ in range(2):
        assert beliefs.take(SubscriptionCount("c", 2), 0.0)
        assert beliefs.take(Event("private-c", "client-e", b'""', "1.1"), 0.0)
    assert len(beliefs) == 0


class Audience:
    """Receivers that replay what they are told, and insist on its making sense."""

    def __init__(self) -> None:
        self.believed: set[Belief] = set()

    def hear(self, happening: Happening) -> None:
        concerned = belief_of(happening)
        assert concerned is not None
        belief, there = concerned
        assert (belief in self.believed) != there, "nothing is told twice"
        if there:
            self.believed.add(belief)
        else:
            self.believed.discard(belief)
        occupied = {belief.channel for belief in self.believed if belief.about == CHANNEL}
        inhabited = {belief.channel for belief in self.believed if belief.about == MEMBER}
        assert inhabited <= occupied, "members come after their channel and go before it"


class World:
    """An engine, its clock, its beliefs, and a way to lose everything but what was kept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.audience = Audience()
        self.beliefs = fresh()
        self.absent_since: dict[Belief, float] = {}
        self.begin()

    def begin(self) -> None:
        self.engine = MemoryEngine(lambda: self.now, 1800.0)
        self.engine.start(lambda *_: None)
        self.entered: dict[tuple[str, str], str] = {}
        self.signed_in: dict[str, str] = {}
        self.true: set[Belief] = set()

    def restart(self) -> None:
        kept = list(self.beliefs)
        assert set(kept) == self.audience.believed
        for belief in self.true:
            self.absent_since[belief] = self.now
        self.beliefs = fresh()
        self.beliefs.load(kept, self.now + SETTLE_S)
        self.begin()

    def occur(self, occurrences: Iterable[Happening]) -> None:
        for happening in occurrences:
            belief, there = belief_of(happening) or (None, False)
            assert belief is not None
            if there:
                self.true.add(belief)
                self.absent_since.pop(belief, None)
            else:
                self.true.discard(belief)
                self.absent_since[belief] = self.now
            if self.beliefs.take(happening, self.now):
                assert there, "what goes is never told at once"
                self.audience.hear(happening)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for removal in self.beliefs.elapse(self.now, EVERYTHING):
            belief, _ = belief_of(removal) or (None, False)
            assert belief is not None
            assert belief not in self.true, "what is there is not told as gone"
            assert self.now - self.absent_since[belief] >= GRACE_S
            self.audience.hear(removal)

    def toggle_channel(self, session: str, channel: str, user_id: str) -> None:
        if (session, channel) in self.entered:
            del self.entered[session, channel]
            self.occur(self.engine.leave("3", channel, session).changes)
            return
        self.entered[session, channel] = user_id
        member = Member(user_id) if channel.startswith("presence-") else None
        entry = self.engine.enter("3", channel, session, member=member)
        assert isinstance(entry, Entry)
        self.occur(entry.changes)

    def toggle_user(self, session: str, user_id: str) -> None:
        if session in self.signed_in:
            user_id = self.signed_in.pop(session)
            self.occur(self.engine.sign_out("3", user_id, session).changes)
        else:
            self.signed_in[session] = user_id
            self.occur(self.engine.sign_in("3", user_id, session).changes)


sessions = st.sampled_from("123")
users = st.sampled_from("uv")
channels = st.sampled_from(["presence-a", "presence-b", "c"])
steps = st.one_of(
    st.tuples(st.just("channel"), sessions, channels, users),
    st.tuples(st.just("user"), sessions, users),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 10.0, 31.0])),
    st.tuples(st.just("restart")),
)


@given(st.lists(steps, max_size=60))
def test_for_every_order_of_joins_and_leaves_in_time_receivers_end_up_with_the_truth(
    story: list[tuple[object, ...]],
) -> None:
    """Restarts included: what receivers were told survives, who was connected does not."""
    world = World()
    for step in story:
        match step:
            case ("channel", str(session), str(channel), str(user_id)):
                world.toggle_channel(session, channel, user_id)
            case ("user", str(session), str(user_id)):
                world.toggle_user(session, user_id)
            case ("wait", float(seconds)):
                world.wait(seconds)
            case ("restart",):
                world.restart()
        assert set(world.beliefs) == world.audience.believed
        assert world.true <= world.audience.believed
    world.wait(SETTLE_S)
    assert world.audience.believed == world.true
    assert world.beliefs.due() is None


# -- Bounds --------------------------------------------------------------------------------


def test_channel_names_that_clients_invent_do_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond the bound, the oldest removals do not have their three seconds."""
    monkeypatch.setattr(module, "MAX_HELD", 10)
    beliefs = Beliefs(3.0, 10.0)
    reported: list[Removal] = []
    for number in range(100):
        beliefs.take(ChannelOccupied(f"c{number}"), 0.0)
        beliefs.take(ChannelVacated(f"c{number}"), 0.0)
        due = beliefs.due()
        assert due is not None
        if due <= 0.0:
            reported += beliefs.elapse(0.0, 1000)
        assert len(beliefs) <= 10
        assert len(beliefs._held) <= 10
    assert reported == [ChannelVacated(f"c{number}") for number in range(90)]
    assert beliefs.due() == 3.0
    assert beliefs.elapse(3.0, 1000) == [ChannelVacated(f"c{number}") for number in range(90, 100)]
    assert beliefs.due() is None


def test_a_channel_that_comes_and_goes_in_a_loop_is_held_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_HELD", 10)
    beliefs = Beliefs(3.0, 10.0)
    beliefs.take(ChannelOccupied("c"), 0.0)
    for _ in range(100):
        beliefs.take(ChannelVacated("c"), 0.0)
        beliefs.take(ChannelOccupied("c"), 0.0)
        beliefs.due()
        assert beliefs.elapse(0.0, 1000) == []
        assert len(beliefs._held) <= 11


def test_what_was_kept_through_a_restart_has_its_time_whatever_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_HELD", 10)
    beliefs = Beliefs(3.0, 10.0)
    beliefs.load([Belief(CHANNEL, f"c{number}", "") for number in range(50)], 30.0)
    assert beliefs.due() == 30.0
    assert beliefs.elapse(29.0, 1000) == []
    assert len(beliefs.elapse(30.0, 1000)) == 50


def test_members_are_gone_before_their_channel_when_too_much_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_HELD", 1)
    beliefs = Beliefs(3.0, 10.0)
    beliefs.take(ChannelOccupied("presence-c"), 0.0)
    for user_id in "ab":
        beliefs.take(MemberAdded("presence-c", Member(user_id)), 0.0)
    beliefs.take(ChannelVacated("presence-c"), 0.0)
    for user_id in "ab":
        beliefs.take(MemberRemoved("presence-c", user_id), 0.0)
    assert beliefs.elapse(0.0, 1000) == [
        MemberRemoved("presence-c", "a"),
        MemberRemoved("presence-c", "b"),
    ]
    assert beliefs.elapse(3.0, 1000) == [ChannelVacated("presence-c")]


def test_cache_misses_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MISSES", 10)
    beliefs = Beliefs(3.0, 10.0)
    for number in range(100):
        assert beliefs.take(CacheMiss(f"cache-{number}"), 0.0)
        assert len(beliefs._missed) <= 10
    assert not beliefs.take(CacheMiss("cache-99"), 0.0)
    assert beliefs.take(CacheMiss("cache-0"), 0.0)


def test_removals_that_are_held_are_forgotten_a_piece_at_a_time_with_all_else() -> None:
    beliefs = fresh()
    many = 3 * FORGOTTEN_AT_ONCE
    beliefs.load([Belief(CHANNEL, str(number), "") for number in range(many)], until=1.0)
    held = [many, *(len(beliefs._held) for _ in beliefs.forget(lambda _: True))]
    assert max(before - after for before, after in pairwise(held)) == FORGOTTEN_AT_ONCE
    assert held[-1] == 0


def test_a_removal_that_is_held_while_others_are_forgotten_is_told() -> None:
    beliefs = fresh()
    many = 3 * FORGOTTEN_AT_ONCE
    beliefs.load([Belief(CHANNEL, str(number), "") for number in range(many)], until=1.0)
    forgetting = beliefs.forget(lambda belief: belief.channel != "new")
    while len(beliefs):
        next(forgetting)
    assert beliefs.take(ChannelOccupied("new"), 2.0)
    beliefs.take(ChannelVacated("new"), 2.0)
    for _ in forgetting:
        pass
    assert beliefs.elapse(100.0, EVERYTHING) == [ChannelVacated("new")]
