"""JSON from strangers: read, or refused with one error."""

import json
import sys
import tracemalloc
from collections.abc import Sequence
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


class Read(Struct):
    """The same, of which nothing is passed on unread."""

    event: str
    channel: Any = None
    data: Any = None


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
        b'{"event":"\\ud800"',
        b'{"event":"\\ud800","data":"\\ud8"}',
        b'{"event":"\\ud800","data":"\\ud8zz"}',
        b'{"event":"\\ud800","data":"\\uD8zz"}',
        b'{"event":"\\ud800","data":"\\uezzz"}',
        b'{"event":"\\ud800","data":\\ud800}',
        b'{"event":"\\ud800","data":~}',
        b'{"event":"\\ud800","data":NaN}',
        b'{"event":"\\ud800\x00"}',
    ],
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    for shape in (Shape, Read):
        with pytest.raises(InvalidJson) as caught:
            decode(text, shape)
        assert not caught.value.well_formed


@pytest.mark.parametrize(
    "text",
    [b"[]", b"5", b"{}", b'{"event":5}', b'{"event":"a","channel":1e999}', b'["\\ud800"]'],
)
def test_json_of_another_shape_is_refused(text: bytes) -> None:
    for shape in (Shape, Read):
        with pytest.raises(InvalidJson) as caught:
            decode(text, shape)
        assert caught.value.well_formed


def test_the_last_of_doubled_keys_wins() -> None:
    assert decode(b'{"event":"a","event":"b"}', Shape).event == "b"


def test_lone_surrogates_leave_as_the_escapes_they_came_as() -> None:
    found = decode(rb'{"event":"\ud800","data":{"x":"\udfff"},"channel":"c"}', Shape)
    assert (found.event, found.channel, bytes(found.data)) == ("\ud800", "c", rb'{"x":"\udfff"}')
    assert encode(found) == rb'{"event":"\ud800","channel":"c","data":{"x":"\udfff"}}'


def test_lone_surrogates_deep_in_a_list_of_shapes() -> None:
    found = decode(rb'{"batch":[{"event":"a","data":"\ud800"}]}', Batch)
    assert bytes(found.batch[0].data) == rb'"\ud800"'


def expected(text: str) -> dict[str, Any]:
    """What the standard library finds in a Shape."""
    value = json.loads(text)
    return {name: value.get(name) for name in ("event", "channel", "data")}


def values_of(found: Any) -> Any:
    if isinstance(found, Raw):
        return json.loads(bytes(found)) if bytes(found) else None
    if isinstance(found, list):
        return [values_of(item) for item in found]
    if isinstance(found, Struct):
        return {name: values_of(getattr(found, name)) for name in found.__struct_fields__}
    return found


literals = st.lists(
    st.sampled_from(
        [
            *(r"\ud800", r"\uDBFF", r"\udfff", r"\uDc00", r"\ud83d\ude00", r"\uD83D\uDE00"),
            *(r"\ud7ff", r"\ue000", r"\uEfff", r"\u005c", r"\\", r"\"", r"\n", r"\/"),
            *(
                "~",
                "|",
                "~|",
                "~|0",
                "~|1",
                "~|2",
                "u",
                "ud800",
                "ue000",
                "d",
                "e",
                "D",
                "E",
                "0",
                " ",
            ),
            *("é", "😀", "\x7f", "\ue800"),
        ]
    ),
    max_size=6,
).map(lambda parts: '"' + "".join(parts) + '"')
texts = st.recursive(
    literals | st.sampled_from(["null", "true", "0", "1.5", "-1e9", "12345678901234567890"]),
    lambda inner: (
        st.lists(inner).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(literals, inner)).map(
            lambda pairs: "{" + " , ".join(f"{key} :{item}" for key, item in pairs) + "}"
        )
    ),
    max_leaves=5,
)
shaped = st.tuples(literals, texts, texts, literals, texts).map(
    lambda five: (
        f'{{"event":{five[0]}, {five[3]}:{five[4]},\n"channel":{five[1]},"data": {five[2]} }}'
    )
)


@given(shaped, st.lists(shaped, max_size=2))
def test_text_with_surrogates_is_read_as_the_standard_library_reads_it(
    one: str, several: Sequence[str]
) -> None:
    assert values_of(decode(one.encode(), Shape)) == expected(one)
    assert values_of(decode(one.encode(), Read)) == expected(one)
    batch = f'{{"batch":[{",".join(several)}]}}'
    found = decode(batch.encode(), Batch)
    assert [values_of(item) for item in found.batch] == [expected(text) for text in several]


@given(shaped)
def test_raw_json_is_passed_on_unchanged(text: str) -> None:
    found = decode(text.encode(), Shape)
    assert text.endswith(f'"data": {bytes(found.data).decode()} }}')
    written = encode(found)
    assert bytes(found.data) in written
    assert json.loads(written) == expected(text)


@given(literals)
def test_a_string_with_surrogates_comes_back(literal: str) -> None:
    value = string_value(literal.encode())
    assert value == json.loads(literal)
    assert json.loads(encode({"x": [value, {value: (value,)}]})) == {"x": [value, {value: [value]}]}
    assert string_size(literal.encode()) == len(value.encode(errors="surrogatepass"))


LARGE = 128 * 1024


def filled(unit: bytes, begin: bytes = b'{"event":"', end: bytes = b'"}') -> bytes:
    return begin + unit * ((LARGE - len(begin) - len(end)) // len(unit)) + end


@pytest.mark.parametrize(
    "text",
    [
        filled(rb"\ud800"),
        filled(rb"~|\\\ue000\ud800\uE000\uD800"),
        filled(b'{"a":1},', b'{"event":"\\ud800","data":[', b"1]}"),
        filled(b"1.5,", b'{"event":"\\ud800","data":[', b"1]}"),
        filled(rb'"\ud800",', b'{"event":"a","data":[', b"1]}"),
    ],
    ids=["surrogates", "veils", "objects", "numbers", "strings"],
)
def test_text_with_surrogates_is_read_without_an_object_for_each_part(text: bytes) -> None:
    """Its time depends on the machine; what it goes into, objects and calls, does not."""
    decode(text, Shape)
    calls = 0

    def count(_frame: Any, _event: str, _argument: Any) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    tracemalloc.start()
    try:
        assert decode(text, Shape).event
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        sys.setprofile(before)
    assert calls < 500
    assert peak < 12 * LARGE


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
    for shape in (Shape, Read, Batch):
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
