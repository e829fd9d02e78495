"""Messages: the fast ways of reading and writing them, beside the careful ones."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from heliograph.errors import ApiError, ClientError
from heliograph.hub.facts import Event
from heliograph.protocols.json import UNREADABLE, encode, string_size
from heliograph.protocols.pusher import messages
from heliograph.protocols.pusher.api import events
from heliograph.protocols.pusher.api.request import EventBody

T = TypeVar("T")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec=None), max_size=8),  # lone surrogates, too
    st.sampled_from(["pusher:subscribe", "client-x", "c", "private-c", "key:signature", "{}"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "event": values,
        "channel": values,
        "data": values,
        "auth": values,
        "channel_data": values,
        "name": values,
        "channels": values,
        "info": values,
        "socket_id": values,
        "extra": values,
    },
)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """JSON, valid UTF-8, escaped or not; and JSON with a fault."""
    value = draw(st.one_of(fields, fields, values))
    spaces: Any = draw(st.sampled_from([None, (",", ":"), (" , ", " : ")]))
    text = json.dumps(value, separators=spaces)
    if draw(st.booleans()):
        text = json.dumps(value, separators=spaces, ensure_ascii=False)
    encoded = text.encode(errors="replace")
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(encoded)))
        damage = draw(
            st.sampled_from([b"", b"}", b'"', b"\\", b"\\ud800", b"\\u", b",", b"NaN", b"[" * 2000])
        )
        damaged = encoded[:place] + damage + encoded[place + draw(st.integers(0, 2)) :]
        encoded = damaged.decode(errors="replace").encode()
    return encoded


def outcome(read: Callable[[], T]) -> T | str:
    """What was read, or what was said to be wrong."""
    try:
        return read()
    except (ClientError, ApiError) as error:
        return error.message


SURROGATES = b'{"event":"client-x","channel":"private-c","data":"\\ud800"}'


@given(texts())
@example(SURROGATES)
@example(b'{"event":"client-\\ud800"}')
@example(b'{"event":5,"event":"x"}')
@example(b"[" * 100_000)
def test_a_message_is_read_the_same_by_the_fast_decoder(text: bytes) -> None:
    """What it reads, the careful one reads too; what it refuses, only that one judges."""
    try:
        fast = messages.INCOMING.decode(text)
    except UNREADABLE:
        return
    assert fast == outcome(lambda: messages.read_message(text))


@given(texts())
@example(b'"{\\"channel\\":\\"c\\"}"')
@example(b'{"channel":"\\ud800"}')
@example(b"")
def test_a_subscription_is_read_the_same_by_the_fast_decoder(text: bytes) -> None:
    direct = outcome(lambda: messages.read_subscribe(Raw(text)))
    careful = outcome(
        lambda: messages._read_data(
            Raw(text),
            messages.Subscribe,
            messages.SUBSCRIBE,
            "a string channel, strings for auth and channel_data, and an object for history",
        )
    )
    assert direct == careful


@given(texts())
@example(b'{"name":"n","channel":"c","data":"\xff"}')
@example(b'{"name":"n","channel":"c","data":"\\ud800"}')
@example(b'{"name":"n","channel":"c","data":\xc3\xa9}')
@example(b"[" * 100_000)
def test_an_event_is_read_the_same_by_the_fast_decoder(body: bytes) -> None:
    assert outcome(lambda: events._read_event(body)) == outcome(
        lambda: events._read(body, EventBody)
    )


names = st.text(st.characters(codec=None), min_size=1, max_size=10)


@given(
    names,
    st.sampled_from(["c", "private-c", "a;b,c.d@e=f_g-h"]),
    values.map(json.dumps).map(json.dumps).map(str.encode),
    st.one_of(st.none(), names),
)
def test_an_event_is_written_as_a_struct_would_be(
    name: str, channel: str, data: bytes, user_id: str | None
) -> None:
    """In the same order, with the same escapes, as the readers of our messages expect."""
    fields: dict[str, Any] = {"event": name, "channel": channel, "data": Raw(data)}
    if user_id is not None:
        fields["user_id"] = user_id
    written = messages.fact_message(Event(channel, name, data, None, user_id))
    # The same JSON; where a lone surrogate makes `encode` escape everything, not the same bytes.
    assert json.loads(written) == json.loads(encode(fields))
    if not any("\ud800" <= one <= "\udfff" for one in name + (user_id or "")):
        assert written == encode(fields)


@given(st.text(st.characters(codec=None), max_size=30), st.booleans())
def test_the_size_of_a_literal_is_that_of_its_text(text: str, ascii_only: bool) -> None:
    """And never more than the literal has, which is why a short one is not looked into."""
    literal = json.dumps(text, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    try:
        literal.decode()
    except UnicodeDecodeError:
        return
    # Two halves of a pair that stand side by side are one character.
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    size = len(whole.encode(errors="surrogatepass"))
    assert string_size(literal) == size
    assert size <= len(literal) - 2


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        ('{"user_id":1}', "1"),
        ('{"user_id":"é"}', "é"),
        ('{"user_id":-5}', "-5"),
        ('{"user_id":""}', "Invalid channel_data: user_id is empty"),
        ('{"user_id":1.5}', "Invalid channel_data: expected a JSON object whose"),
        ('{"user_id":null}', "Invalid channel_data: expected a JSON object whose"),
        ("{}", "Invalid channel_data: expected a JSON object whose"),
        ("", "Invalid channel_data: expected a JSON object whose"),
    ],
)
def test_who_a_member_is(stated: str, read: str) -> None:
    found = outcome(lambda: messages.read_member(stated, 128, 2048).user_id)
    assert found.startswith(read) if read.startswith("Invalid") else found == read


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        ('{"id":"u"}', "u"),
        ('{"id":"u","watchlist":null}', "u"),
        ('{"id":"u","watchlist":[]}', "u"),
        ('{"id":1}', "Invalid user_data: expected a JSON object whose id is a string"),
        (
            '{"id":""}',
            "Invalid user_data: id contains characters that are not allowed in channel names",
        ),
        (
            '{"id":"a b"}',
            "Invalid user_data: id contains characters that are not allowed in channel names",
        ),
        (
            '{"id":"#u"}',
            "Invalid user_data: id contains characters that are not allowed in channel names",
        ),
        ('{"id":"u","watchlist":{}}', "Invalid user_data: watchlist must be an array of strings"),
        ('{"id":"u","watchlist":[1]}', "Invalid user_data: watchlist must be an array of strings"),
        ('{"id":"u","watchlist":"v"}', "Invalid user_data: watchlist must be an array of strings"),
        ("nonsense", "Invalid user_data: expected a JSON object whose id is a string"),
    ],
)
def test_who_a_user_is(stated: str, read: str) -> None:
    found = outcome(lambda: messages.read_user(stated, 128).id)
    assert found == read


def test_what_says_nothing_of_a_member_is_not_kept() -> None:
    for info in ("", ',"user_info":null'):
        assert messages.read_member(f'{{"user_id":"u"{info}}}', 0, 0).user_info is None
        assert messages.read_user(f'{{"id":"u"{info}}}', 0).member.user_info is None
    assert messages.read_member('{"user_id":"u","user_info":{}}', 0, 0).user_info == b"{}"
    assert messages.read_user('{"id":"u","user_info":0}', 0).member.user_info == b"0"
