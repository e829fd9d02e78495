"""Presence: users, not tabs."""

from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine.presence import Presence
from heliograph.hub.facts import Member


def test_three_tabs_are_one_member() -> None:
    presence = Presence()
    user = Member("u", b'{"name":"U"}')

    assert [presence.enter(user) for _ in range(3)] == [True, False, False]
    assert presence.roster() == [user]
    assert presence.sessions() == {"u": 3}
    assert [presence.leave("u") for _ in range(3)] == [False, False, True]
    assert len(presence) == 0
    assert presence.sessions() == {}


def test_what_is_known_of_a_user_is_what_the_first_session_stated() -> None:
    presence = Presence()
    presence.enter(Member("u", b'"first"'))
    presence.enter(Member("u", b'"second"'))
    presence.leave("u")
    assert presence.roster() == [Member("u", b'"first"')]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=80))
def test_members_added_and_removed_in_order_give_the_roster(steps: list[tuple[bool, int]]) -> None:
    """Replaying the announcements, in order, gives exactly the users present."""
    presence = Presence()
    here: dict[int, str] = {}  # session -> user
    replayed: list[str] = []
    for enters, session in steps:
        user_id = str(session % 3)
        if enters and session not in here:
            here[session] = user_id
            if presence.enter(Member(user_id)):
                replayed.append(user_id)
        elif not enters and session in here and presence.leave(here.pop(session)):
            replayed.remove(user_id)
        assert presence.user_ids() == replayed
        assert set(replayed) == set(here.values())
