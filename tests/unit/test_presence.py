"""Presence: users, not tabs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.hub.facts import Member
from heliograph.hub.presence import Presence


def test_three_tabs_are_one_member() -> None:
    presence = Presence()
    user = Member("u", b'{"name":"U"}')

    assert [presence.join(tab, user) for tab in "abc"] == [True, False, False]
    assert presence.roster() == [user]
    assert [presence.leave(tab) for tab in "abc"] == [None, None, user]
    assert len(presence) == 0


def test_what_is_known_of_a_user_is_what_the_first_session_said() -> None:
    presence = Presence()
    presence.join("a", Member("u", b'"first"'))
    presence.join("b", Member("u", b'"second"'))
    presence.leave("a")
    assert presence.roster() == [Member("u", b'"first"')]


def test_leaving_without_having_joined_changes_nothing() -> None:
    presence = Presence()
    presence.join("a", Member("u"))
    assert presence.leave("b") is None
    assert presence.user_ids() == ["u"]


def test_a_session_joins_once() -> None:
    presence = Presence()
    presence.join("a", Member("u"))
    with pytest.raises(AssertionError):
        presence.join("a", Member("u"))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=80))
def test_added_and_removed_tell_the_same_story(steps: list[tuple[bool, int]]) -> None:
    """Replaying the announcements, in order, gives exactly the users present."""
    presence = Presence()
    here: dict[str, str] = {}  # session -> user
    replayed: list[str] = []
    for joins, session in steps:
        name, user_id = str(session), str(session % 3)
        if joins and name not in here:
            here[name] = user_id
            if presence.join(name, Member(user_id)):
                replayed.append(user_id)
        elif not joins:
            here.pop(name, None)
            gone = presence.leave(name)
            if gone is not None:
                replayed.remove(gone.user_id)
        assert presence.user_ids() == replayed
        assert set(replayed) == set(here.values())
