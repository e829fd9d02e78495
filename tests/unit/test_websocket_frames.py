"""
Frames: the RFC's examples, every way of cutting them, and wsproto and websockets as oracles.

What one case at a time shows is in `test_frames.py`. Here are the properties, what reading
costs, and where the other implementations differ from us and why.
"""

import sys
from typing import cast

import pytest
import wsproto.frame_protocol as wsproto
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Close
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode as TheirOpcode
from websockets.protocol import CLIENT, SERVER, Protocol

from heliograph.wire.websocket import (
    CloseCode,
    FrameReader,
    Opcode,
    close_frame,
    frame,
    parse_close,
    text_fast,
    text_frame,
)
from tests.unit.test_frames import Messages, cut, masked, read

LIMIT = 1 << 17
SMALL = 300
KEY = b"\x37\xfa\x21\x3d"
PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009

TEXT, BINARY = Opcode.TEXT, Opcode.BINARY
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG

places = st.lists(st.integers(0, 1 << 20), max_size=8)


def read_all(data: bytes, limit: int = LIMIT) -> tuple[Messages, int | None]:
    return read([data], limit)


# -- The examples of RFC 6455 5.7 ----------------------------------------------------------

HELLO = b"\x7f\x9f\x4d\x51\x58"  # under KEY
EXAMPLES = [
    (b"\x81\x85" + KEY + HELLO, [(TEXT, b"Hello")], None),
    # The RFC's fragments are a server's: the same, as a client must send them.
    (
        b"\x01\x83" + KEY + b"\x7f\x9f\x4d" + b"\x80\x82" + KEY + b"\x5b\x95",
        [(TEXT, b"Hello")],
        None,
    ),
    (b"\x89\x85" + KEY + HELLO, [(PING, b"Hello")], None),
    (b"\x8a\x85" + KEY + HELLO, [(PONG, b"Hello")], None),
    (b"\x82\xfe\x01\x00" + bytes(4) + b"x" * 256, [(BINARY, b"x" * 256)], None),
    (b"\x81\x05Hello", [], PROTOCOL_ERROR),  # a server's, and we are one
]

# Where one frame is all there is, and the reader may take its straight way.
LONE = [
    (masked(0x81, b""), [(TEXT, b"")], None),
    (masked(0x81, b"x" * 125), [(TEXT, b"x" * 125)], None),
    (masked(0x81, b"x" * 126), [(TEXT, b"x" * 126)], None),
    (masked(0x81, b"x" * 133), [(TEXT, b"x" * 133)], None),
    (masked(0x81, b"x" * SMALL), [(TEXT, b"x" * SMALL)], None),
    (masked(0x81, b"x" * (SMALL + 1)), [], TOO_BIG),
    (masked(0x81, "zażółć".encode()), [(TEXT, "zażółć".encode())], None),
    (masked(0x81, b"\xc3"), [], INVALID_DATA),
    (masked(0x81, b"x" * 126 + b"\xff"), [], INVALID_DATA),
    (b"\x81\xfe\x00\x05" + bytes(4) + b"hello", [], PROTOCOL_ERROR),  # not the shortest
    (b"\x81\xff" + (5).to_bytes(8, "big") + bytes(4) + b"hello", [], PROTOCOL_ERROR),
    (b"\x81\xff\x80" + bytes(7) + bytes(4), [], PROTOCOL_ERROR),  # the highest bit
    (b"\x81\x7e\x00\x7e" + b"x" * 126, [], PROTOCOL_ERROR),  # not masked
]

SEQUENCES = [
    (masked(0x01, b"a") + masked(0x81, b"b"), [], PROTOCOL_ERROR),
    (masked(0x01, b"a") + masked(0x89, b"") + masked(0x81, b"b"), [(PING, b"")], PROTOCOL_ERROR),
    (masked(0x81, b"a") + masked(0x81, b"b"), [(TEXT, b"a"), (TEXT, b"b")], None),
    (
        masked(0x81, b"a") + masked(0x88, b"") + masked(0x81, b"b"),
        [(TEXT, b"a"), (CLOSE, b"")],
        None,
    ),
    (
        masked(0x01, b"a") + masked(0x88, b"\x03\xe8") + masked(0x80, b"b"),
        [(CLOSE, b"\x03\xe8")],
        None,
    ),
    (
        masked(0x01, b"\xe2\x82") + masked(0x00, b"") + masked(0x80, b"\xac"),
        [(TEXT, "€".encode())],
        None,
    ),
    (masked(0x01, b"\xe2") + masked(0x80, b"\x82"), [], INVALID_DATA),
    (masked(0x01, b"\xe2") + masked(0x00, b"\x28") + masked(0x80, b"\xa1"), [], INVALID_DATA),
    (masked(0x01, b"x" * 200) + masked(0x00, b"x" * 101), [], TOO_BIG),
]

CASES = EXAMPLES + LONE + SEQUENCES


@pytest.mark.parametrize(("data", "messages", "code"), CASES)
def test_a_case_at_once_and_byte_by_byte(data: bytes, messages: Messages, code: int | None) -> None:
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        assert read(pieces, SMALL) == (messages, code)


@given(st.sampled_from(CASES), places)
def test_a_case_cut_anywhere(case: tuple[bytes, Messages, int | None], places: list[int]) -> None:
    data, messages, code = case
    assert read(cut(data, places), SMALL) == (messages, code)


def test_the_long_example_of_the_rfc() -> None:
    payload = bytes(range(256)) * 256
    data = b"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00" + bytes(4) + payload
    assert read_all(data) == ([(BINARY, payload)], None)


def test_our_frames_are_those_of_the_rfc() -> None:
    assert text_frame(b"Hello") == b"\x81\x05Hello"
    assert frame(Opcode.PING, b"Hello") == b"\x89\x05Hello"
    assert frame(BINARY, b"x" * 256) == b"\x82\x7e\x01\x00" + b"x" * 256
    assert frame(BINARY, b"x" * 65536) == b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + b"x" * 65536


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16383, 16384, 16385, 16387, 32768, 40001])
def test_the_mask_goes_on_where_a_long_payload_is_cut(size: int) -> None:
    payload = bytes(at * 7 % 256 for at in range(size))
    assert read_all(masked(0x82, payload, b"\x01\x20\x40\xff")) == ([(BINARY, payload)], None)


def test_a_message_may_be_text_of_64_kibibytes() -> None:
    payload = b"x" * 65536
    assert read_all(masked(0x81, payload)) == ([(TEXT, payload)], None)


def test_a_whole_text_on_its_own_is_still_out_of_place_within_a_message() -> None:
    """However it arrives: this is the chunk that looks most like the straight way's."""
    assert read([masked(0x01, b"a"), masked(0x81, b"b")]) == ([], PROTOCOL_ERROR)


def test_a_payload_that_looks_like_a_frame_is_a_payload() -> None:
    inner = masked(0x81, b"not a message")
    outer = masked(0x82, inner, bytes(4))
    for place in range(1, len(outer)):
        assert read([outer[:place], outer[place:]]) == ([(BINARY, inner)], None)


# -- Failing early, and for good -----------------------------------------------------------


def test_a_length_that_is_too_much_is_refused_before_the_mask_has_come() -> None:
    for head in (
        b"\x81\xfe" + (SMALL + 1).to_bytes(2, "big"),
        b"\x81\xff" + (1 << 40).to_bytes(8, "big"),
    ):
        reader = FrameReader(SMALL)
        assert reader.feed(head) == []
        assert reader.failure is not None
        assert reader.failure.code == CloseCode.MESSAGE_TOO_BIG


def test_bad_text_fails_at_its_fragment() -> None:
    reader = FrameReader(SMALL)
    reader.feed(masked(0x01, b"good"))
    assert reader.failure is None
    reader.feed(masked(0x00, b"\xff"))
    assert reader.failure is not None
    assert reader.failure.code == CloseCode.INVALID_DATA


def test_control_frames_count_towards_no_limit() -> None:
    between = masked(0x89, b"x" * 125) * 50
    data = masked(0x01, b"a") + between + masked(0x80, b"b")
    reader = FrameReader(2, max_fragments=2)
    messages = reader.feed(data)
    assert (len(messages), messages[-1], reader.failure) == (51, (TEXT, b"ab"), None)


def test_the_last_fragment_allowed_is_allowed() -> None:
    data = masked(0x01, b"") + masked(0x00, b"") * 6 + masked(0x80, b"")
    assert read([data], max_fragments=8) == ([(TEXT, b"")], None)
    assert read([data], max_fragments=7) == ([], CloseCode.POLICY_VIOLATION)


def test_a_reader_that_failed_is_deaf_and_holds_nothing() -> None:
    reader = FrameReader(SMALL)
    reader.feed(masked(0x01, b"begun") + b"\x81\x05Hello")
    failure = reader.failure
    assert failure is not None
    for piece in (masked(0x81, b"more"), b"", b"\x81"):
        assert reader.feed(piece) == []
    assert reader.failure is failure
    assert (reader._buffer, reader._fragments) == (None, None)


# -- What reading costs --------------------------------------------------------------------


class CountingReader(FrameReader):
    """Counts the bytes that are looked at, each time they are."""

    __slots__ = ("seen",)

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__(max_message_bytes)
        self.seen = 0

    def _read(self, data: bytes, messages: Messages) -> None:
        self.seen += len(data)
        super()._read(data, messages)


@pytest.mark.interpreted
@pytest.mark.parametrize("piece", [1, 100, 1460, 65536])
@pytest.mark.parametrize("fragments", [1, 64])
def test_a_large_message_in_small_pieces_is_looked_at_about_twice(
    piece: int, fragments: int
) -> None:
    """Otherwise a client that sends slowly on purpose would cost the square of what it sends."""
    size = LIMIT // fragments
    data = masked(0x02 if fragments > 1 else 0x82, b"x" * size)
    data += masked(0x00, b"x" * size) * (fragments - 2)
    data += masked(0x80, b"x" * size) if fragments > 1 else b""
    reader = CountingReader(LIMIT)
    messages = [
        message
        for at in range(0, len(data), piece)
        for message in reader.feed(data[at : at + piece])
    ]
    assert messages == [(BINARY, b"x" * LIMIT)]
    # A head of up to 14 bytes may be looked at for each of its bytes.
    assert reader.seen <= 2 * len(data) + fragments * 14 * 14


@pytest.mark.interpreted
def test_many_short_frames_in_one_piece_are_looked_at_once() -> None:
    data = masked(0x81, b"x") * 10_000
    reader = CountingReader(LIMIT)
    assert reader.feed(data) == [(TEXT, b"x")] * 10_000
    assert reader.seen == len(data)


def test_one_short_text_alone_takes_the_straight_way() -> None:
    for text in ("x" * 30, "x" * 300, "zażółć"):
        assert text_fast(masked(0x81, text.encode()), LIMIT) == text.encode()


@pytest.mark.parametrize(
    "data",
    [
        masked(0x81, b"x") + masked(0x81, b"y"),
        masked(0x81, b"x" * 200)[:-1],
        masked(0x01, b"x"),
        masked(0x82, b"x"),
        masked(0x89, b"x"),
        masked(0x81, b"\xff"),
        masked(0x81, b"x" * (LIMIT + 1)),
        b"\x81\x01x",
        b"\x81\xfe\x00\x01" + bytes(4) + b"x",
        b"",
    ],
)
def test_what_is_no_short_text_alone_is_left_to_feed(data: bytes) -> None:
    assert text_fast(data, LIMIT) is None


@given(st.binary(max_size=200), st.integers(0, 11), st.binary(max_size=3))
def test_text_fast_returns_the_message_of_the_full_reader(
    payload: bytes, at: int, damage: bytes
) -> None:
    data = masked(0x81, payload)
    data = data[:at] + damage + data[at + len(damage) :]
    text = text_fast(data, LIMIT)
    if text is not None:
        assert FrameReader(LIMIT).feed(data) == [(TEXT, text)]


def test_a_reader_amid_a_frame_or_a_message_or_after_the_end_is_not_idle() -> None:
    """What comes then is not a text alone, whatever it looks like."""
    for before in (masked(0x81, b"abc")[:-1], masked(0x01, b"abc"), masked(0x88, b""), b"xx"):
        reader = FrameReader(LIMIT)
        assert reader.idle
        reader.feed(before)
        assert not reader.idle


@given(st.lists(st.sampled_from([masked(0x81, b"a"), masked(0x89, b""), masked(0x01, b"b")])))
def test_an_idle_reader_can_be_another(frames: list[bytes]) -> None:
    """Whoever reads may put an idle one away, and take a new one when there is something again."""
    kept = reader = FrameReader(LIMIT)
    for one in frames:
        if reader.idle:
            reader = FrameReader(LIMIT)
        assert reader.feed(one) == kept.feed(one)
        assert reader.failure == kept.failure


def test_an_idle_reader_is_small() -> None:
    """There may be a hundred thousand of them."""
    reader = FrameReader(LIMIT)
    reader.feed(masked(0x01, b"a" * 1000) + masked(0x80, b"b" * 1000)[:500])
    reader.feed(masked(0x80, b"b" * 1000)[500:])
    assert not hasattr(reader, "__dict__")
    assert sys.getsizeof(reader) < 120
    assert (reader._buffer, reader._fragments, reader.failure) == (None, None, None)


# -- Two other implementations -------------------------------------------------------------

texts = st.text(max_size=100)
data_messages = st.one_of(
    st.tuples(st.just(TEXT), st.lists(texts, min_size=1, max_size=4)),
    st.tuples(st.just(BINARY), st.lists(st.binary(max_size=200), min_size=1, max_size=4)),
)
controls = st.lists(st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)), max_size=2)


@given(st.lists(st.tuples(data_messages, controls), max_size=4), places)
def test_we_read_what_the_client_of_wsproto_fragments(
    conversation: list[tuple[tuple[Opcode, list[str | bytes]], Messages]], places: list[int]
) -> None:
    """Every byte is wsproto's, masks included; control frames come between the fragments."""
    theirs = wsproto.FrameProtocol(client=True, extensions=[])
    data = b""
    expected: Messages = []
    for (opcode, fragments), between in conversation:
        last = len(fragments) - 1
        for number, fragment in enumerate(fragments):
            data += theirs.send_data(fragment, fin=number == last)
            if number < last:
                for control, payload in between:
                    data += theirs.ping(payload) if control is PING else theirs.pong(payload)
                expected += between
        whole = (part.encode() if isinstance(part, str) else part for part in fragments)
        expected.append((opcode, b"".join(whole)))
    data += theirs.close(wsproto.CloseReason.NORMAL_CLOSURE, "bye")
    expected.append((CLOSE, b"\x03\xe8bye"))
    assert read(cut(data, places), LIMIT) == (expected, None)


@given(st.lists(st.tuples(data_messages, controls), max_size=4), places)
def test_we_read_what_the_client_of_websockets_fragments(
    conversation: list[tuple[tuple[Opcode, list[str | bytes]], Messages]], places: list[int]
) -> None:
    theirs = Protocol(CLIENT)
    expected: Messages = []
    for (opcode, fragments), between in conversation:
        parts = [part.encode() if isinstance(part, str) else part for part in fragments]
        for number, part in enumerate(parts):
            fin = number == len(parts) - 1
            if number:
                theirs.send_continuation(part, fin)
            elif opcode is TEXT:
                theirs.send_text(part, fin)
            else:
                theirs.send_binary(part, fin)
            if not fin:
                for control, payload in between:
                    send = theirs.send_ping if control is PING else theirs.send_pong
                    send(payload)
                expected += between
        expected.append((opcode, b"".join(parts)))
    theirs.send_close(1001, "left")
    expected.append((CLOSE, b"\x03\xe9left"))
    assert read(cut(b"".join(theirs.data_to_send()), places), LIMIT) == (expected, None)


@given(st.sampled_from([TEXT, BINARY, PING, PONG]), st.text(max_size=2000))
def test_wsproto_reads_our_frames(opcode: Opcode, text: str) -> None:
    payload = text.encode() if opcode < CLOSE else text.encode()[:125]
    theirs = wsproto.FrameProtocol(client=True, extensions=[])
    theirs.receive_bytes(frame(opcode, payload))
    (event,) = theirs.received_frames()
    received = event.payload.encode() if isinstance(event.payload, str) else event.payload
    assert (int(event.opcode), received, event.message_finished) == (opcode, payload, True)


@given(st.integers(3000, 4999), st.text("aé€😀", max_size=150) | st.text(max_size=150))
@example(4000, "x" * 124)
@example(4000, "é" * 62)
def test_both_read_our_close_with_as_much_of_the_reason_as_fits(code: int, reason: str) -> None:
    data = close_frame(code, reason)
    wsproto_client = wsproto.FrameProtocol(client=True, extensions=[])
    wsproto_client.receive_bytes(data)
    (event,) = wsproto_client.received_frames()
    client = Protocol(CLIENT)
    client.receive_data(data)
    assert client.close_rcvd is not None
    assert event.payload == (client.close_rcvd.code, client.close_rcvd.reason)
    assert event.payload == parse_close(data[2:])
    assert reason.startswith(client.close_rcvd.reason)
    # All that fits: one character more would be over 123 bytes.
    longer = reason[: len(client.close_rcvd.reason) + 1]
    assert longer == client.close_rcvd.reason or len(longer.encode()) > 123


def wsproto_refuses_close(code: int) -> bool:
    theirs = wsproto.FrameProtocol(client=False, extensions=[])
    theirs.receive_bytes(masked(0x88, code.to_bytes(2, "big")))
    try:
        list(theirs.received_frames())
    except wsproto.ParseFailed:
        return True
    return False


def test_all_close_codes() -> None:
    """We have IANA's registry as websockets has it; wsproto does not know its last entry."""
    ours, websockets_, wsproto_ = set(), set(), set()
    for code in [*range(5200), 0x8000, 0xFFFF]:
        payload = code.to_bytes(2, "big")
        messages, failed = read_all(masked(0x88, payload))
        assert bool(messages) is (failed is None)
        if messages:
            ours.add(code)
        try:
            Close.parse(payload)
        except ProtocolError:
            pass
        else:
            websockets_.add(code)
        if not wsproto_refuses_close(code):
            wsproto_.add(code)
    assert ours == websockets_
    assert ours - wsproto_ == {1014}
    assert wsproto_ - ours == set()


# -- Whatever is sent ----------------------------------------------------------------------


def by_wsproto(data: bytes) -> tuple[Messages, int | None]:
    """What wsproto makes of *data*, up to a Close frame, and the code that it fails with."""
    theirs = wsproto.FrameProtocol(client=False, extensions=[])
    theirs.receive_bytes(data)
    messages: Messages = []
    parts: list[bytes] = []
    try:
        for event in theirs.received_frames():
            if event.opcode is wsproto.Opcode.CLOSE:
                code, reason = cast("tuple[int, str]", event.payload)
                payload = b"" if code == 1005 else code.to_bytes(2, "big") + reason.encode()
                return [*messages, (CLOSE, payload)], None
            assert isinstance(event.payload, str | bytes)
            part = event.payload.encode() if isinstance(event.payload, str) else event.payload
            if event.opcode.iscontrol():
                messages.append((Opcode(event.opcode), part))
                continue
            parts.append(part)
            if event.message_finished:
                messages.append((Opcode(event.opcode), b"".join(parts)))
                parts.clear()
    except wsproto.ParseFailed as failed:
        return messages, int(failed.code)
    return messages, None


def by_websockets(data: bytes) -> tuple[Messages, int | None]:
    """The same of websockets, whose frames are put together to messages here."""
    theirs = Protocol(SERVER, max_size=LIMIT)
    theirs.receive_data(data)
    messages: Messages = []
    begun: tuple[Opcode, bytes] | None = None
    for event in theirs.events_received():
        assert isinstance(event, TheirFrame)
        payload = bytes(event.data)
        if event.opcode in (TheirOpcode.TEXT, TheirOpcode.BINARY):
            begun = (Opcode(event.opcode), payload)
        elif event.opcode is TheirOpcode.CONT:
            assert begun is not None
            begun = (begun[0], begun[1] + payload)
        else:
            messages.append((Opcode(event.opcode), payload))
            continue
        if event.fin:
            messages.append(begun)
    failed = theirs.parser_exc is not None and theirs.close_sent is not None
    return messages, int(theirs.close_sent.code) if failed and theirs.close_sent else None


def raw(first: int, payload: bytes, key: bytes | None, width: int) -> bytes:
    """A whole frame, however wrong: with no mask, or a length of more bytes than it takes."""
    length = len(payload)
    bit = 0 if key is None else 0x80
    if width == 8:
        head = bytes([first, bit | 127]) + length.to_bytes(8, "big")
    elif width == 2 or length > 125:
        head = bytes([first, bit | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([first, bit | length])
    if key is None:
        return head + payload
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


keys = st.binary(min_size=4, max_size=4)
pieces_of_text = st.one_of(
    st.text(max_size=30).map(str.encode),
    st.binary(max_size=6),
    st.sampled_from([b"\xe2", b"\x82", b"\xac", b"\xed\xa0\x80", b"\xf4\x90"]),
    st.binary(min_size=124, max_size=128),
)
plausible = st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x00, 0x80, 0x80, 0x89, 0x8A])
good_frames = st.builds(masked, plausible, pieces_of_text, keys)
close_payloads = st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason,
    st.sampled_from([0, 999, 1000, 1004, 1005, 1006, 1011, 1015, 2999, 3000, 4999, 5000]),
    st.one_of(st.text(max_size=20).map(str.encode), st.just(b"\xff")),
)
closes = st.builds(masked, st.just(0x88), st.one_of(close_payloads, st.binary(max_size=1)), keys)
odd_heads = st.sampled_from([0x09, 0x08, 0xC1, 0x41, 0xC9, 0xA1, 0x91, 0x83, 0x8B, 0x81, 0x01])
odd_frames = st.builds(
    raw,
    odd_heads | st.integers(0, 255),
    pieces_of_text,
    st.none() | keys,
    st.sampled_from([1, 1, 2, 8]),
)
whole_frames = st.lists(
    st.one_of(good_frames, good_frames, good_frames, closes, odd_frames), max_size=8
)


@given(whole_frames, places)
@example([masked(0x09, b"x")], [])
@example([masked(0xC1, b"x")], [])
@example([masked(0x88, b"\x03\xe8\xff")], [])
def test_whole_frames_are_parsed_as_wsproto_parses_them(
    frames: list[bytes], places: list[int]
) -> None:
    """The same messages, and the same code to fail with, whatever is wrong with a frame."""
    data = b"".join(frames)
    ours = read_all(data)
    assert ours == by_wsproto(data)
    assert read(frames, LIMIT) == ours
    assert read(cut(data, places), LIMIT) == ours


@given(whole_frames.map(b"".join))
def test_of_whole_frames_websockets_makes_the_same_but_for_text_and_lengths(data: bytes) -> None:
    """
    What websockets refuses, we refuse; what we accept, it reads as we do.

    It leaves UTF-8 to the layer above, accepts lengths that are not the shortest, and wants
    the last fragment before a Close frame, which RFC 6455 5.4 lets come between fragments.
    """
    ours, code = read_all(data)
    theirs, their_code = by_websockets(data)
    if code is None:
        closed_within = bool(ours) and ours[-1][0] is CLOSE and their_code == PROTOCOL_ERROR
        assert their_code is None or closed_within
        assert theirs == (ours[:-1] if closed_within else ours)
    else:
        assert theirs[: len(ours)] == ours
        assert their_code is not None or code in {PROTOCOL_ERROR, INVALID_DATA}


@given(st.lists(st.one_of(good_frames, st.binary(max_size=40)), max_size=5).map(b"".join), places)
@example(masked(0x81, b"\xff" * 10)[:-2], [])
@example(masked(0x01, b"a") + masked(0x80, b"\xff\xff\xff")[:-1], [3])
def test_what_wsproto_refuses_we_refuse_by_the_end_of_the_frame(
    data: bytes, places: list[int]
) -> None:
    """
    Any bytes, cut off anywhere.

    wsproto reads text as it comes, we at the end of its frame: a frame that never ends is
    limited by its length, which we have judged by then. Where we fail first, it is at the head:
    for its length, of which wsproto knows no limit, or while wsproto waits for the rest of it.
    """
    messages, code = read_all(data)
    theirs, their_code = by_wsproto(data)
    assert theirs[: len(messages)] == messages
    if their_code is not None and code is None:
        reader = FrameReader(LIMIT)
        reader.feed(data)
        assert reader._buffer is not None
        missing = reader._wanted - len(reader._buffer)
        assert missing > 0
        reader.feed(bytes(missing))
        assert reader.failure is not None
        assert reader.failure.code == their_code == INVALID_DATA
    assert read(cut(data, places), LIMIT) == (messages, code)


@given(st.lists(st.binary(max_size=200), max_size=10), st.integers(0, 300), st.integers(1, 4))
def test_arbitrary_bytes_end_in_a_documented_failure_or_in_none(
    pieces: list[bytes], limit: int, max_fragments: int
) -> None:
    reader = FrameReader(limit, max_fragments)
    for piece in pieces:
        failed = reader.failure
        messages = reader.feed(piece)
        assert not (failed and messages)
        for opcode, payload in messages:
            assert len(payload) <= (limit if opcode < CLOSE else 125)
            if opcode is TEXT:
                payload.decode()
            elif opcode is CLOSE:
                parse_close(payload)
    assert reader.failure is None or reader.failure.code in {1002, 1007, 1008, 1009}
    assert read([b"".join(pieces)], limit, max_fragments)[1] == (
        reader.failure.code if reader.failure else None
    )
