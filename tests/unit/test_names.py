"""Kinds of channels are decided by prefixes, and only by them."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.protocols.kinds import Kind, kind_of
from heliograph.protocols.pusher.names import (
    RESERVED_EVENT_PREFIXES,
    is_channel_name,
    is_socket_id,
    kind_if_legal,
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chat", Kind()),
        ("privateer", Kind()),
        ("presence@x", Kind()),
        ("Private-x", Kind()),
        ("cache", Kind()),
        ("cache-x", Kind("public-cache", cached=True)),
        ("private-x", Kind("private", private=True)),
        ("private-cache-x", Kind("private-cache", private=True, cached=True)),
        ("private-encrypted-x", Kind("private-encrypted", private=True, encrypted=True)),
        (
            "private-encrypted-cache-x",
            Kind("private-encrypted-cache", private=True, encrypted=True, cached=True),
        ),
        ("presence-x", Kind("presence", private=True, presence=True)),
        ("presence-cache-x", Kind("presence-cache", private=True, presence=True, cached=True)),
        ("#server-to-user-5", Kind("user", user=True)),
    ],
)
def test_the_longest_prefix_decides(name: str, kind: Kind) -> None:
    assert attributes(kind_of(name)) == attributes(kind)


def attributes(kind: Kind) -> tuple[str | bool, ...]:
    return kind.name, kind.private, kind.presence, kind.encrypted, kind.cached, kind.user


@pytest.mark.parametrize("name", ["a", "A-Z_a=z@,.;09", "x" * 200, "#server-to-user-5"])
def test_legal_names(name: str) -> None:
    assert is_channel_name(name, 200)


@pytest.mark.parametrize(
    "name", ["", "a b", "a:b", "#x", "x#", "#server-to-user-", "é", "x" * 201, "a\n", "a/b"]
)
def test_illegal_names(name: str) -> None:
    assert not is_channel_name(name, 200)


def test_no_limit_is_no_limit() -> None:
    assert is_channel_name("x" * 5000, 0)


NAMES = st.text(alphabet="ab-#=@,.;_ é\n/:", max_size=12) | st.builds(
    str.__add__,
    st.sampled_from(["private-", "presence-cache-", "cache-", "#server-to-user-", "#", "private"]),
    st.text(alphabet="ab #", max_size=3),
)


@given(NAMES)
def test_a_name_that_is_remembered_is_judged_as_any_other(name: str) -> None:
    for _ in range(2):
        assert kind_if_legal(name) == (kind_of(name) if is_channel_name(name, 0) else None)


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        ("pusher:ping", True),
        ("pusher_internal:x", True),
        ("pusher-notification", True),
        ("pushers", False),
        ("client-x", False),
    ],
)
def test_the_namespace_of_servers(name: str, reserved: bool) -> None:
    assert name.startswith(RESERVED_EVENT_PREFIXES) is reserved


@pytest.mark.parametrize(("text", "is_id"), [("1.2", True), ("1", False), ("1.2\n", False)])
def test_socket_ids(text: str, is_id: bool) -> None:
    assert is_socket_id(text) is is_id


def test_names_of_strangers_are_not_kept() -> None:
    """A name may be as long as a message: remembering thousands would be memory given away."""
    name = "private-" + "x" * 9999
    before = sys.getrefcount(name)
    assert kind_of(name).private
    assert not is_channel_name(name, 200)
    assert sys.getrefcount(name) == before
