"""The reported state: grace period, settling time, and that receivers end up with the truth."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine.answers import CacheMiss, Change, ChannelOccupied, ChannelVacated
from heliograph.hub.facts import (
    Event,
    Member,
    MemberAdded,
    MemberRemoved,
    SubscriptionCount,
    UserOffline,
    UserOnline,
)
from heliograph.webhooks import debounce as module
from heliograph.webhooks.debounce import (
    CHANNEL,
    FORGOTTEN_AT_ONCE,
    MEMBER,
    USER,
    Outcome,
    Removal,
    Reported,
    ReportedState,
    Standing,
    state_of,
)
from tests.owing import Truth

GRACE_S = 3.0
SETTLE_S = 30.0
EVERYTHING = 1000


def fresh() -> Reported:
    return Reported(GRACE_S, 10.0)


def reports(reported: Reported, change: Change, now: float) -> bool:
    """Take a change; return whether it is reported at once."""
    return reported.take(change, now) is Outcome.REPORT


def load(reported: Reported, states: Iterable[ReportedState], until: float) -> None:
    """Take over what a former life of the server reported, none of which is confirmed."""
    reported.load([(state, "", Standing.CONFIRMED) for state in states], 0.0, 0.0)
    reported.restart("", until)


def test_a_channel_occupied_again_within_three_seconds_is_not_reported() -> None:
    reported = fresh()
    assert reports(reported, ChannelOccupied("c"), 0.0)
    assert not reports(reported, ChannelVacated("c"), 1.0)
    assert reported.due() == 4.0
    assert not reports(reported, ChannelOccupied("c"), 3.9)
    assert reported.due() is None
    assert reported.elapse(100.0, EVERYTHING) == []


def test_a_removal_is_reported_when_the_grace_period_is_over() -> None:
    reported = fresh()
    reported.take(UserOnline("u"), 0.0)
    reported.take(UserOffline("u"), 1.0)
    assert reported.elapse(3.9, EVERYTHING) == []
    assert reported.elapse(4.0, EVERYTHING) == [UserOffline("u")]
    assert reported.due() is None
    assert reports(reported, UserOnline("u"), 4.1)


def test_every_absence_has_a_grace_of_its_own() -> None:
    reported = fresh()
    reported.take(ChannelOccupied("c"), 0.0)
    reported.take(ChannelVacated("c"), 1.0)
    reported.take(ChannelOccupied("c"), 2.0)
    reported.take(ChannelVacated("c"), 3.0)
    assert reported.elapse(5.9, EVERYTHING) == []
    assert reported.elapse(6.0, EVERYTHING) == [ChannelVacated("c")]


def test_a_state_that_was_never_reported_is_not_removed() -> None:
    reported = fresh()
    assert not reports(reported, MemberRemoved("presence-c", "u"), 0.0)
    assert not reports(reported, ChannelVacated("presence-c"), 0.0)
    assert reported.due() is None


def test_members_go_before_their_channel() -> None:
    reported = fresh()
    for change in (
        ChannelOccupied("presence-c"),
        MemberAdded("presence-c", Member("u")),
        MemberRemoved("presence-c", "u"),
        ChannelVacated("presence-c"),
    ):
        reported.take(change, 0.0)
    assert reported.elapse(3.0, EVERYTHING) == [
        MemberRemoved("presence-c", "u"),
        ChannelVacated("presence-c"),
    ]


def test_a_channel_waits_for_the_members_of_a_former_life() -> None:
    """A newcomer who leaves at once does not end what others may still come back to."""
    reported = fresh()
    kept = [ReportedState(CHANNEL, "presence-c", ""), ReportedState(MEMBER, "presence-c", "u")]
    load(reported, kept, until=30.0)
    reported.take(ChannelOccupied("presence-c"), 1.0)
    assert reports(reported, MemberAdded("presence-c", Member("v")), 1.0)
    reported.take(MemberRemoved("presence-c", "v"), 2.0)
    reported.take(ChannelVacated("presence-c"), 2.0)
    assert reported.elapse(29.9, EVERYTHING) == [MemberRemoved("presence-c", "v")]
    assert reported.elapse(30.0, EVERYTHING) == [
        MemberRemoved("presence-c", "u"),
        ChannelVacated("presence-c"),
    ]


def test_states_that_are_not_confirmed_after_a_start_are_reported_as_gone() -> None:
    reported = fresh()
    kept = [
        ReportedState(CHANNEL, "presence-c", ""),
        ReportedState(MEMBER, "presence-c", "u"),
        ReportedState(USER, "", "u"),
        ReportedState(CHANNEL, "d", ""),
    ]
    load(reported, kept, until=30.0)
    assert not reports(reported, ChannelOccupied("d"), 29.0)
    assert reported.elapse(29.9, EVERYTHING) == []
    assert reported.elapse(30.0, EVERYTHING) == [
        MemberRemoved("presence-c", "u"),
        UserOffline("u"),
        ChannelVacated("presence-c"),
    ]
    assert list(reported) == [ReportedState(CHANNEL, "d", "")]


def test_removals_come_in_portions() -> None:
    reported = fresh()
    load(reported, [ReportedState(CHANNEL, str(number), "") for number in range(5)], until=1.0)
    assert [len(reported.elapse(1.0, 2)) for _ in range(4)] == [2, 2, 1, 0]


def test_release_ends_every_grace_in_order() -> None:
    reported = fresh()
    load(reported, [ReportedState(CHANNEL, "d", "")], until=30.0)
    reported.take(UserOnline("u"), 0.0)
    reported.take(UserOffline("u"), 1.0)
    reported.end_holds(1.5)
    assert reported.elapse(1.5, EVERYTHING) == [UserOffline("u"), ChannelVacated("d")]


def test_states_that_no_receiver_wants_are_forgotten() -> None:
    reported = fresh()
    reported.take(ChannelOccupied("presence-c"), 0.0)
    reported.take(MemberAdded("presence-c", Member("u")), 0.0)
    reported.take(MemberRemoved("presence-c", "u"), 0.0)
    pieces = list(reported.forget(lambda state: state.about == MEMBER))
    assert pieces == [[ReportedState(MEMBER, "presence-c", "u")]]
    assert reported.elapse(9.0, EVERYTHING) == []
    assert len(reported) == 1


def test_all_is_forgotten_a_piece_at_a_time_by_what_is_unwanted_then() -> None:
    reported = fresh()
    names = [f"c{number}" for number in range(2 * FORGOTTEN_AT_ONCE + 1)]
    for name in names:
        reported.take(ChannelOccupied(name), 0.0)
    not_reported = set(names)
    forgetting = reported.forget(lambda state: state.channel in not_reported)
    assert len(next(forgetting)) == FORGOTTEN_AT_ONCE
    kept = next(iter(reported)).channel
    not_reported.discard(kept)
    reported.take(ChannelOccupied("told meanwhile"), 0.0)
    not_reported.add("told meanwhile")
    assert [len(piece) for piece in forgetting] == [FORGOTTEN_AT_ONCE, 0]
    assert [state.channel for state in reported] == [kept, "told meanwhile"]


def test_a_cache_miss_stands_for_all_until_filled_or_ten_seconds() -> None:
    reported = fresh()
    assert reports(reported, CacheMiss("cache-c"), 0.0)
    assert not reports(reported, CacheMiss("cache-c"), 9.9)
    assert reports(reported, CacheMiss("cache-d"), 9.9)
    assert reports(reported, CacheMiss("cache-c"), 10.0)
    reported.filled("cache-c")
    assert reports(reported, CacheMiss("cache-c"), 10.1)
    assert not reports(reported, CacheMiss("cache-d"), 19.8)


def test_changes_that_are_about_no_state_are_reported_at_once() -> None:
    reported = fresh()
    for _ in range(2):
        assert reports(reported, SubscriptionCount("c", 2), 0.0)
        assert reports(reported, Event("private-c", "client-e", b'""', "1.1"), 0.0)
    assert len(reported) == 0


class Receivers:
    """Receivers that replay what they are sent, and insist that it makes sense."""

    def __init__(self) -> None:
        self.known: set[ReportedState] = set()

    def receive(self, change: Change) -> None:
        concerned = state_of(change)
        assert concerned is not None
        state, begins = concerned
        assert (state in self.known) != begins, "nothing is reported twice"
        if begins:
            self.known.add(state)
        else:
            self.known.discard(state)
        occupied = {state.channel for state in self.known if state.about == CHANNEL}
        inhabited = {state.channel for state in self.known if state.about == MEMBER}
        assert inhabited <= occupied, "members come after their channel and go before it"


class World:
    """The truth, a clock, what was reported, and a way to lose all but what was kept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.receivers = Receivers()
        self.reported = fresh()
        self.absent_since: dict[ReportedState, float] = {}
        self.truth = Truth()
        self.true: set[ReportedState] = set()

    def take_over(self) -> None:
        """Have another node report from now on: the truth goes on, and holds begin anew."""
        kept = [(state, *self.reported.standing(state)) for state in self.reported]
        assert {state for state, *_ in kept} == self.receivers.known
        self.reported = fresh()
        self.reported.load(kept, self.now, SETTLE_S)

    def restart(self) -> None:
        """Have the server crash: every client is gone."""
        self.take_over()
        self.reported.restart("", self.now + SETTLE_S)
        for state in self.true:
            self.absent_since[state] = self.now
        self.truth = Truth()
        self.true = set()

    def occur(self, changes: Iterable[Change]) -> None:
        for change in changes:
            state, begins = state_of(change) or (None, False)
            assert state is not None
            if begins:
                self.true.add(state)
                self.absent_since.pop(state, None)
            else:
                self.true.discard(state)
                self.absent_since[state] = self.now
            if reports(self.reported, change, self.now):
                assert begins, "an end is never reported at once"
                self.receivers.receive(change)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for removal in self.reported.elapse(self.now, EVERYTHING):
            state, _ = state_of(removal) or (None, False)
            assert state is not None
            assert state not in self.true, "a state that is true is not reported as gone"
            assert self.now - self.absent_since[state] >= GRACE_S
            self.receivers.receive(removal)

    def toggle_channel(self, session: str, channel: str, user_id: str) -> None:
        if (session, channel) in self.truth.entered:
            self.occur(self.truth.leave(session, channel))
        else:
            member = user_id if channel.startswith("presence-") else None
            self.occur(self.truth.enter(session, channel, member))

    def toggle_user(self, session: str, user_id: str) -> None:
        if session in self.truth.signed_in:
            self.occur(self.truth.sign_out(session))
        else:
            self.occur(self.truth.sign_in(session, user_id))


sessions = st.sampled_from("123")
users = st.sampled_from("uv")
channels = st.sampled_from(["presence-a", "presence-b", "c"])
steps = st.one_of(
    st.tuples(st.just("channel"), sessions, channels, users),
    st.tuples(st.just("user"), sessions, users),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 10.0, 31.0])),
    st.tuples(st.sampled_from(["restart", "take over"])),
)


@given(st.lists(steps, max_size=60))
def test_receivers_get_the_correct_state_after_any_joins_and_leaves(
    story: list[tuple[object, ...]],
) -> None:
    """Restarts included, which the reported state survives and clients do not; and takeovers."""
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
            case ("take over",):
                world.take_over()
        assert set(world.reported) == world.receivers.known
        assert world.true <= world.receivers.known
    world.wait(SETTLE_S)
    assert world.receivers.known == world.true
    assert world.reported.due() is None


# -- Scopes and takeovers ------------------------------------------------------------------


def standings(reported: Reported) -> dict[str, tuple[str, Standing]]:
    return {state.channel: reported.standing(state) for state in reported}


def test_a_restart_concerns_the_states_of_its_scope() -> None:
    reported = fresh()
    for channel, scope in (("a", "1"), ("b", "1"), ("c", "2")):
        reported.take(ChannelOccupied(channel), 0.0, scope)
    reported.take(ChannelVacated("b"), 0.0, "1")
    reported.restart("1", until=30.0)
    assert standings(reported) == {
        "a": ("1", Standing.UNCONFIRMED),
        "b": ("1", Standing.UNCONFIRMED),
        "c": ("2", Standing.CONFIRMED),
    }
    assert reported.take(ChannelOccupied("a"), 29.9, "1") is Outcome.CONFIRMED
    assert reported.take(ChannelOccupied("a"), 29.9, "1") is Outcome.NOTHING
    assert reported.elapse(29.9, EVERYTHING) == []
    assert reported.elapse(30.0, EVERYTHING) == [ChannelVacated("b")]


def test_a_state_belongs_to_the_scope_that_confirmed_it_last() -> None:
    reported = fresh()
    reported.take(ChannelOccupied("c"), 0.0, "1")
    assert reported.take(ChannelOccupied("c"), 0.0, "2") is Outcome.CONFIRMED
    reported.restart("1", until=1.0)
    assert standings(reported) == {"c": ("2", Standing.CONFIRMED)}
    assert reported.take(ChannelVacated("c"), 0.0, "3") is Outcome.HELD
    assert standings(reported) == {"c": ("3", Standing.ENDED)}


def test_what_was_held_is_held_anew_after_a_takeover() -> None:
    reported = fresh()
    channels = {"a": Standing.CONFIRMED, "b": Standing.ENDED, "c": Standing.UNCONFIRMED}
    kept = [(ReportedState(CHANNEL, name, ""), "1", one) for name, one in channels.items()]
    reported.load(kept, 100.0, SETTLE_S)
    assert standings(reported) == {name: ("1", one) for name, one in channels.items()}
    assert reported.due() == 100.0 + GRACE_S
    assert reported.elapse(103.0, EVERYTHING) == [ChannelVacated("b")]
    assert reported.take(ChannelVacated("c"), 104.0, "1") is Outcome.NOTHING
    assert reported.elapse(129.9, EVERYTHING) == []
    assert reported.elapse(130.0, EVERYTHING) == [ChannelVacated("c")]
    assert standings(reported) == {"a": ("1", Standing.CONFIRMED)}


# -- Bounds --------------------------------------------------------------------------------


def test_channel_names_that_clients_invent_do_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond the bound, the oldest removals do not have their three seconds."""
    monkeypatch.setattr(module, "MAX_HELD", 10)
    reported = Reported(3.0, 10.0)
    removals: list[Removal] = []
    for number in range(100):
        reported.take(ChannelOccupied(f"c{number}"), 0.0)
        reported.take(ChannelVacated(f"c{number}"), 0.0)
        due = reported.due()
        assert due is not None
        if due <= 0.0:
            removals += reported.elapse(0.0, 1000)
        assert len(reported) <= 10
        assert len(reported._heap) <= 10
    assert removals == [ChannelVacated(f"c{number}") for number in range(90)]
    assert reported.due() == 3.0
    assert reported.elapse(3.0, 1000) == [ChannelVacated(f"c{number}") for number in range(90, 100)]
    assert reported.due() is None


def test_a_channel_that_comes_and_goes_in_a_loop_is_held_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_HELD", 10)
    reported = Reported(3.0, 10.0)
    reported.take(ChannelOccupied("c"), 0.0)
    for _ in range(100):
        reported.take(ChannelVacated("c"), 0.0)
        reported.take(ChannelOccupied("c"), 0.0)
        reported.due()
        assert reported.elapse(0.0, 1000) == []
        assert len(reported._heap) <= 11


def test_what_was_kept_through_a_restart_has_its_time_whatever_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_HELD", 10)
    reported = Reported(3.0, 10.0)
    load(reported, [ReportedState(CHANNEL, f"c{number}", "") for number in range(50)], 30.0)
    assert reported.due() == 30.0
    assert reported.elapse(29.0, 1000) == []
    assert len(reported.elapse(30.0, 1000)) == 50


def test_members_are_gone_before_their_channel_when_too_much_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_HELD", 1)
    reported = Reported(3.0, 10.0)
    reported.take(ChannelOccupied("presence-c"), 0.0)
    for user_id in "ab":
        reported.take(MemberAdded("presence-c", Member(user_id)), 0.0)
    reported.take(ChannelVacated("presence-c"), 0.0)
    for user_id in "ab":
        reported.take(MemberRemoved("presence-c", user_id), 0.0)
    assert reported.elapse(0.0, 1000) == [
        MemberRemoved("presence-c", "a"),
        MemberRemoved("presence-c", "b"),
    ]
    assert reported.elapse(3.0, 1000) == [ChannelVacated("presence-c")]


def test_cache_misses_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MISSES", 10)
    reported = Reported(3.0, 10.0)
    for number in range(100):
        assert reports(reported, CacheMiss(f"cache-{number}"), 0.0)
        assert len(reported._missed) <= 10
    assert not reports(reported, CacheMiss("cache-99"), 0.0)
    assert reports(reported, CacheMiss("cache-0"), 0.0)


def test_removals_that_are_held_are_forgotten_a_piece_at_a_time_with_all_else() -> None:
    reported = fresh()
    many = 3 * FORGOTTEN_AT_ONCE
    load(reported, [ReportedState(CHANNEL, str(number), "") for number in range(many)], until=1.0)
    held = [many, *(len(reported._heap) for _ in reported.forget(lambda _: True))]
    assert max(before - after for before, after in pairwise(held)) == FORGOTTEN_AT_ONCE
    assert held[-1] == 0


def test_a_removal_that_is_held_while_others_are_forgotten_is_reported() -> None:
    reported = fresh()
    many = 3 * FORGOTTEN_AT_ONCE
    load(reported, [ReportedState(CHANNEL, str(number), "") for number in range(many)], until=1.0)
    forgetting = reported.forget(lambda state: state.channel != "new")
    while len(reported):
        next(forgetting)
    assert reports(reported, ChannelOccupied("new"), 2.0)
    reported.take(ChannelVacated("new"), 2.0)
    for _ in forgetting:
        pass
    assert reported.elapse(100.0, EVERYTHING) == [ChannelVacated("new")]
