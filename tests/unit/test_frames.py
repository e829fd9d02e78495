"""Frames, by the RFC's examples, byte by byte, and against two other implementations."""

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise

import pytest
import wsproto.frame_protocol as wsproto
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.protocol import CLIENT, Protocol
from websockets.speedups import apply_mask as in_c

from heliograph.wire.mask import apply_mask
from heliograph.wire.websocket import (
    CloseCode,
    FrameReader,
    Opcode,
    close_frame,
    frame,
    parse_close,
    text_frame,
)

Messages = list[tuple[Opcode, bytes]]
LIMIT = 4096


def masked(first: int, payload: bytes, key: bytes = b"\x37\xfa\x21\x3d") -> bytes:
    """A frame of a client, whatever its first byte."""
    length = len(payload)
    if length < 126:
        head = bytes([first, 0x80 | length])
    elif length < 1 << 16:
        head = bytes([first, 0x80 | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([first, 0x80 | 127]) + length.to_bytes(8, "big")
    return head + key + bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


def read(
    pieces: Sequence[bytes], limit: int = LIMIT, max_fragments: int = 1024
) -> tuple[Messages, int | None]:
    """What a reader makes of *pieces*, and the code that it fails with."""
    reader = FrameReader(limit, max_fragments)
    messages = [message for piece in pieces for message in reader.feed(piece)]
    return messages, reader.failure.code if reader.failure else None


def check(data: bytes, messages: Messages, code: int | None = None) -> None:
    """The same comes of *data* at once, byte by byte, in halves, and with more behind it."""
    for pieces in (
        [data],
        [data[place : place + 1] for place in range(len(data))],
        [data[: len(data) // 2], data[len(data) // 2 :]],
    ):
        assert read(pieces) == (messages, code)
    if code is not None:
        assert read([data + masked(0x81, b"more")]) == (messages, code)


TEXT, BINARY, CLOSE, PING, PONG = (
    Opcode.TEXT,
    Opcode.BINARY,
    Opcode.CLOSE,
    Opcode.PING,
    Opcode.PONG,
)


def test_the_example_of_the_rfc() -> None:
    check(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", [(TEXT, b"Hello")])


def test_where_websockets_has_no_wheel_masks_come_off_all_the_same() -> None:
    program = (
        "import sys; sys.modules['websockets.speedups'] = None\n"
        "from heliograph.wire.websocket import FrameReader\n"
        "frame = bytes.fromhex('818537fa213d7f9f4d5158')\n"
        "print(FrameReader(100).feed(frame))"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert said.stdout.startswith(b"[(<Opcode.TEXT: 1>, b'Hello')]")


@given(st.binary(max_size=70), st.binary(min_size=4, max_size=4), st.sampled_from([0, 1, 1 << 15]))
def test_masks_come_off_as_they_do_in_c(data: bytes, mask: bytes, more: int) -> None:
    data += bytes(more)
    assert apply_mask(data, mask) == in_c(data, mask)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 4096])
def test_lengths(length: int) -> None:
    check(masked(0x82, b"x" * length), [(BINARY, b"x" * length)])


def test_a_long_message_in_many_pieces() -> None:
    payload = os.urandom(100_000)
    data = masked(0x82, payload)
    pieces = [data[place : place + 100] for place in range(0, len(data), 100)]
    assert read(pieces, limit=100_000) == ([(BINARY, payload)], None)


def test_fragments_with_control_frames_between_them() -> None:
    data = (
        masked(0x01, b"Hel")
        + masked(0x89, b"ping")
        + masked(0x00, b"")
        + masked(0x8A, b"pong")
        + masked(0x80, b"lo")
    )
    check(data, [(PING, b"ping"), (PONG, b"pong"), (TEXT, b"Hello")])


def test_nothing_follows_a_close() -> None:
    check(masked(0x88, b"\x03\xe8bye") + masked(0x81, b"x"), [(CLOSE, b"\x03\xe8bye")])
    check(masked(0x88, b""), [(CLOSE, b"")])


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4200, 4999])
def test_legal_close_codes(code: int) -> None:
    payload = code.to_bytes(2, "big")
    check(masked(0x88, payload), [(CLOSE, payload)])
    assert parse_close(payload) == (code, "")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535])
def test_close_codes_that_nobody_may_say(code: int) -> None:
    check(masked(0x88, code.to_bytes(2, "big")), [], 1002)


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x05Hello",  # not masked
        masked(0xC1, b"x"),  # reserved bits
        masked(0xA1, b"x"),
        masked(0x91, b"x"),
        masked(0x83, b"x"),  # unknown opcodes
        masked(0x8B, b"x"),
        masked(0x09, b"x"),  # a fragmented ping
        masked(0x89, b"x" * 126),  # a long one
        masked(0x80, b"x"),  # a continuation of nothing
        masked(0x88, b"x"),  # half a close code
        b"\x82\xfe\x00\x05\x00\x00\x00\x00hello",  # not the shortest length
        b"\x82\xff" + (65535).to_bytes(8, "big") + b"\x00\x00\x00\x00",
        b"\x82\xff\x80" + bytes(7) + b"\x00\x00\x00\x00",  # the highest bit
    ],
)
def test_what_breaks_the_protocol(data: bytes) -> None:
    check(masked(0x81, b"before") + data, [(TEXT, b"before")], 1002)


def test_a_message_within_a_message() -> None:
    check(masked(0x01, b"a") + masked(0x81, b"b"), [], 1002)


@pytest.mark.parametrize(
    "data",
    [
        masked(0x81, b"\xff"),
        masked(0x81, "é".encode()[:1]),
        masked(0x81, b"\xed\xa0\x80"),  # a surrogate
        masked(0x01, b"a\xff"),  # at its fragment, not at the end
        masked(0x01, "é".encode()[:1]) + masked(0x80, b"x"),
        masked(0x01, "é".encode()[:1]) + masked(0x80, b""),
        masked(0x88, b"\x03\xe8\xff"),
    ],
)
def test_text_that_is_none(data: bytes) -> None:
    check(data, [], 1007)


def test_a_character_cut_by_fragments_is_whole_again() -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    check(masked(0x01, first) + masked(0x80, second), [(TEXT, "é".encode())])


def test_too_long_is_known_from_the_head() -> None:
    check(b"\x82\xfe" + (LIMIT + 1).to_bytes(2, "big"), [], 1009)
    check(b"\x82\xff" + (1 << 40).to_bytes(8, "big"), [], 1009)
    half = masked(0x02, b"x" * (LIMIT // 2))
    check(half + masked(0x80, b"x" * (LIMIT // 2)), [(BINARY, b"x" * LIMIT)])
    check(half + masked(0x80, b"x" * (LIMIT // 2 + 1))[:8], [], 1009)


def test_fragments_have_a_limit() -> None:
    data = masked(0x01, b"") + masked(0x00, b"") * 8
    assert read([data], max_fragments=8) == ([], 1008)


def test_an_idle_reader_holds_nothing() -> None:
    reader = FrameReader(LIMIT)
    reader.feed(masked(0x81, b"x" * 1000)[:500])
    assert reader._buffer is not None
    reader.feed(masked(0x81, b"x" * 1000)[500:])
    assert reader._buffer is None
    assert reader._fragments is None


# -- What we send --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_our_frames(length: int, head: bytes) -> None:
    assert text_frame(b"x" * length) == head + b"x" * length


def test_control_frames_are_short() -> None:
    assert frame(Opcode.PONG, b"x" * 125) == b"\x8a\x7d" + b"x" * 125
    with pytest.raises(ValueError, match="at most 125 bytes"):
        frame(Opcode.PONG, b"x" * 126)


@pytest.mark.parametrize("opcode", [Opcode.CLOSE, Opcode.PING, Opcode.PONG])
def test_a_control_frame_of_any_kind_holds_125_bytes_and_no_more(opcode: Opcode) -> None:
    assert frame(opcode, b"x" * 125)[:2] == bytes((0x80 | opcode, 125))
    with pytest.raises(ValueError, match="at most 125 bytes"):
        frame(opcode, b"x" * 126)


def test_a_reason_is_cut_between_characters() -> None:
    assert close_frame(1000, "é" * 100) == b"\x88\x7c\x03\xe8" + "é".encode() * 61
    assert close_frame(4009) == b"\x88\x02\x0f\xa9"
    assert parse_close(b"") == (CloseCode.NO_STATUS, "")
    assert parse_close(b"\x03\xe8bye") == (1000, "bye")


@given(st.sampled_from([TEXT, BINARY, PING, PONG]), st.text(max_size=40), st.integers(0, 3))
def test_websockets_reads_our_frames(opcode: Opcode, text: str, times: int) -> None:
    theirs = Protocol(CLIENT)
    payload = text.encode()[:125] if opcode >= CLOSE else text.encode() * 10**times
    theirs.receive_data(frame(opcode, payload))
    (event,) = theirs.events_received()
    assert isinstance(event, Frame)
    assert (event.opcode, event.data) == (TheirOpcode(opcode), payload)


def test_websockets_reads_our_close() -> None:
    theirs = Protocol(CLIENT)
    theirs.receive_data(close_frame(1000, "bye"))
    assert theirs.close_rcvd is not None
    assert (theirs.close_rcvd.code, theirs.close_rcvd.reason) == (1000, "bye")


# -- What others send ----------------------------------------------------------------------

payloads = st.one_of(
    st.tuples(st.just(TEXT), st.text(max_size=200).map(str.encode)),
    st.tuples(st.just(BINARY), st.binary(max_size=200)),
    st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)),
)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut *data* at *places*, wherever they are inside it."""
    inside = sorted({place % (len(data) + 1) for place in places})
    bounds = [0, *inside, len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


@given(st.lists(payloads, max_size=6), st.lists(st.integers(0, 5000), max_size=8))
def test_frames_of_the_websockets_library_are_parsed(messages: Messages, places: list[int]) -> None:
    theirs = Protocol(CLIENT)
    for opcode, payload in messages:
        theirs.send_frame(Frame(TheirOpcode(opcode), payload))
    data = b"".join(theirs.data_to_send())
    assert read(cut(data, places)) == (messages, None)


@given(
    st.lists(st.tuples(payloads, st.lists(st.integers(0, 200), max_size=4)), max_size=5),
    st.lists(st.integers(0, 5000), max_size=8),
)
def test_we_read_what_wsproto_sends_in_fragments(
    messages: list[tuple[tuple[Opcode, bytes], list[int]]], places: list[int]
) -> None:
    theirs = wsproto.FrameProtocol(client=True, extensions=[])
    data = b""
    for (opcode, payload), cuts in messages:
        if opcode is PING:
            data += theirs.ping(payload)
        elif opcode is PONG:
            data += theirs.pong(payload)
        else:
            fragments = cut(payload, cuts)
            for number, fragment in enumerate(fragments):
                first = opcode if number == 0 else Opcode.CONTINUATION
                final = 0x80 if number == len(fragments) - 1 else 0
                data += masked(final | first, fragment)
    assert read(cut(data, places)) == ([message for message, _ in messages], None)
