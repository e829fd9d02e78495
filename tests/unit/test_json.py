"""JSON from strangers: read, or refused with one error."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct

from heliograph.protocols.json import (
    InvalidJson,
    as_string_literal,
    decode,
    encode,
    string_size,
    string_value,
)


class Shape(Struct):
    event: str
    channel: Any = None
    data: Raw = Raw()


class Batch(Struct):
    batch: list[Shape]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nonsense",
        b'{"event":"a"',
        b'{"event":"a"} x',
        b'\xef\xbb\xbf{"event":"a"}',
        b'{"event":"a","data":NaN}',
        b'{"event":"a","data":Infinity,"channel":"\\ud800"}',
        b'{"event":"\xff"}',
        b'{"event":"a","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"event":"a","channel":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"event":"\\ud800","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"event":"\\ud800","data":1' + b"0" * 100_000 + b"}",
    ],
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidJson) as caught:
        decode(text, Shape)
    assert not caught.value.well_formed


@pytest.mark.parametrize(
    "text",
    [b"[]", b"5", b"{}", b'{"event":5}', b'{"event":"a","channel":1e999}', b'["\\ud800"]'],
)
def test_json_of_another_shape_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidJson) as caught:
        decode(text, Shape)
    assert caught.value.well_formed


def test_the_last_of_doubled_keys_wins() -> None:
    assert decode(b'{"event":"a","event":"b"}', Shape).event == "b"


def test_lone_surrogates_leave_as_the_escapes_they_came_as() -> None:
    found = decode(rb'{"event":"\ud800","data":{"x":"\udfff"},"channel":"c"}', Shape)
    assert (found.event, found.channel, bytes(found.data)) == ("\ud800", "c", rb'{"x": "\udfff"}')
    assert encode(found) == rb'{"event":"\ud800","channel":"c","data":{"x":"\udfff"}}'


def test_lone_surrogates_deep_in_a_list_of_shapes() -> None:
    found = decode(rb'{"batch":[{"event":"a","data":"\ud800"}]}', Batch)
    assert bytes(found.batch[0].data) == rb'"\ud800"'


@pytest.mark.parametrize(
    ("raw", "literal"),
    [(b'"x"', b'"x"'), (b'{"a":"b"}', rb'"{\"a\":\"b\"}"'), (b"5", b'"5"'), (b"null", b'"null"')],
)
def test_what_is_not_a_string_becomes_a_string_of_its_text(raw: bytes, literal: bytes) -> None:
    assert as_string_literal(raw) == literal


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_size_is_that_of_the_decoded_text(text: str) -> None:
    for literal in (json.dumps(text).encode(), encode(text)):
        assert string_size(literal) == len(text.encode())
        assert string_value(literal) == text


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        decode(text, Shape)
    except InvalidJson:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values)
def test_arbitrary_json_is_read_or_refused(value: Any) -> None:
    for shape in (Shape, Batch):
        for text in (
            json.dumps(value),
            json.dumps({"event": value}),
            json.dumps({"event": "a", "data": value, "channel": value}),
            json.dumps({"batch": [value]}),
        ):
            try:
                decode(text.encode(), shape)
            except InvalidJson:
                pass
