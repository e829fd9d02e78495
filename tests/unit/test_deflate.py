"""permessage-deflate: offers, and messages that are no larger than they say."""

import random
import tracemalloc
import zlib
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.uri import parse_uri

from heliograph.wire import deflate as deflate_module
from heliograph.wire.deflate import (
    ACCEPTED,
    MAX_OFFERS,
    TAIL,
    Agreement,
    Malformed,
    TooLarge,
    deflate,
    inflate,
    negotiate,
)
from heliograph.wire.websocket import (
    FrameReader,
    Opcode,
    compressed_text_frame,
    handshake_response,
)
from tests.unit.test_frames import masked


def offer(text: str) -> Agreement | None:
    return negotiate([(b"sec-websocket-extensions", text.encode())])


@pytest.mark.parametrize(
    "text",
    [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",  # Chromium's
        "x, permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits=8, permessage-deflate",
        'permessage-deflate; client_max_window_bits="8"',
    ],
)
def test_offers_that_are_taken(text: str) -> None:
    assert offer(text) == Agreement(ACCEPTED, 15)


def test_of_endless_offers_only_the_first_are_read() -> None:
    assert offer("x," * (MAX_OFFERS - 1) + "permessage-deflate") is not None
    assert offer("x," * MAX_OFFERS + "permessage-deflate") is None
    assert offer("permessage-deflate" + "; server_no_context_takeover" * 2) is None
    assert offer("permessage-deflate" + "; " * 5000 + "server_no_context_takeover") is None


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize(
    "text",
    [
        "permessage-deflate; server_max_window_bits={}",
        'permessage-deflate; client_max_window_bits; server_max_window_bits="{}"',
        "permessage-deflate; server_max_window_bits={}, permessage-deflate",
        "x; server_max_window_bits=8, Permessage-Deflate;Server_Max_Window_Bits={}",
    ],
)
def test_a_window_that_is_asked_for_is_answered(text: str, bits: int) -> None:
    """RFC 7692 7.1.2.1; one who reads strictly fails the connection otherwise."""
    assert offer(text.format(bits)) == Agreement(
        ACCEPTED + f"; server_max_window_bits={bits}".encode(), bits
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x-webkit-deflate-frame",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=8",  # legal, but zlib cannot
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=\u0669",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
    ],
)
def test_offers_that_are_not(text: str) -> None:
    assert offer(text) is None
    assert negotiate([]) is None


@given(st.binary(max_size=2000))
def test_what_is_deflated_inflates(payload: bytes) -> None:
    assert inflate(deflate(payload), 2000) == payload


def inflated_strictly(compressed: bytes, bits: int) -> bytes:
    """Inflate as a client does that keeps no more than its window: a few bytes at a time."""
    one = zlib.decompressobj(-bits)
    data, parts = compressed + TAIL, []
    while data:
        parts.append(one.decompress(data, 16))
        data = one.unconsumed_tail
    return b"".join(parts)


NOISE = random.Random(1).randbytes(400).hex().encode()
FAR_APART = NOISE + b"x" * 3000 + NOISE
"""Compressed best by who remembers the beginning at the end."""


@pytest.mark.parametrize("bits", range(9, 16))
def test_a_message_needs_no_larger_window_than_was_agreed_upon(bits: int) -> None:
    assert inflated_strictly(deflate(FAR_APART, bits), bits) == FAR_APART


def test_a_message_for_a_large_window_cannot_be_read_with_a_small_one() -> None:
    with pytest.raises(zlib.error):
        inflated_strictly(deflate(FAR_APART), 9)


def test_a_bomb_is_not_inflated() -> None:
    bomb = deflate(b"\x00" * 10_000_000)
    with pytest.raises(TooLarge):
        inflate(bomb, 1000)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_as_much_is_inflated_as_the_limit_and_no_more(size: int, limit: int) -> None:
    payload = b"x" * size
    if size <= limit:
        assert inflate(deflate(payload), limit) == payload
    else:
        with pytest.raises(TooLarge):
            inflate(deflate(payload), limit)


@pytest.mark.parametrize("limit", [0, 1, 1000, 100_000])
def test_what_a_bomb_takes_of_memory_is_bounded_by_the_limit(limit: int) -> None:
    """Not by what it says that it holds: no more is made of it than one byte over the limit."""
    bomb = deflate(b"\x00" * 50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            inflate(bomb, limit)
        one = FrameReader(limit + len(bomb), compression=True)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        assert one.feed(masked(0xC1, bomb)) == []
        assert one.failure is not None
        assert one.failure.code == 1009
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The frame, its payload and its copies; and what was inflated, whose buffer zlib doubles.
    assert peak - before < 8 * len(bomb) + 4 * limit + 200_000


@pytest.mark.interpreted
def test_no_more_is_asked_of_zlib_than_one_byte_over_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    class Counted:
        """A decompressor that notes how much it may make."""

        def __init__(self, bits: int) -> None:
            self._inner = zlib.decompressobj(bits)

        def decompress(self, data: bytes, max_length: int = 0) -> bytes:
            made = self._inner.decompress(data, max_length)
            asked.append(len(made))
            assert max_length > 0
            return made

    module = SimpleNamespace(decompressobj=Counted, error=zlib.error)
    monkeypatch.setattr(deflate_module, "zlib", module)
    with pytest.raises(TooLarge):
        inflate(deflate_of(b"\x00" * 1_000_000), 1000)
    assert sum(asked) <= 1001


def deflate_of(payload: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]


def test_what_is_not_deflated_is_malformed() -> None:
    with pytest.raises(Malformed):
        inflate(b"\xff\xff\xff", 1000)


def reader() -> FrameReader:
    return FrameReader(4096, compression=True)


def test_compressed_messages_whole_and_in_fragments() -> None:
    payload = b"hello " * 50
    compressed = deflate(payload)
    one = reader()
    assert one.feed(masked(0xC1, compressed)) == [(Opcode.TEXT, payload)]
    fragments = masked(0x41, compressed[:5]) + masked(0x89, b"") + masked(0x80, compressed[5:])
    assert one.feed(fragments) == [(Opcode.PING, b""), (Opcode.TEXT, payload)]
    assert one.feed(masked(0x81, b"plain")) == [(Opcode.TEXT, b"plain")]
    assert one.failure is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(0xC1, b"\xff\xff\xff"), 1007),
        (masked(0xC1, deflate(b"\xff")), 1007),
        (masked(0xC1, deflate(b"x" * 5000)), 1009),
        (masked(0x41, b"") + masked(0xC0, b""), 1002),  # only the first frame says it
        (masked(0xC9, b""), 1002),  # and never a control frame
        (masked(0xA1, b""), 1002),
    ],
)
def test_what_breaks_the_extension(data: bytes, code: int) -> None:
    one = reader()
    assert one.feed(data) == []
    assert one.failure is not None
    assert one.failure.code == code


def test_without_the_extension_its_bit_is_reserved() -> None:
    one = FrameReader(4096)
    one.feed(masked(0xC1, deflate(b"x")))
    assert one.failure is not None


@given(st.text(max_size=300).map(str.encode), st.sampled_from([None, *range(9, 16)]))
def test_websockets_understands_us_and_we_understand_it(payload: bytes, bits: int | None) -> None:
    offered = ClientPerMessageDeflateFactory(server_max_window_bits=bits)
    theirs = ClientProtocol(parse_uri("ws://example.com/"), extensions=[offered])
    request = theirs.connect()
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    key = dict(headers)[b"sec-websocket-key"]
    agreed = negotiate(headers)
    assert agreed is not None
    extension = (b"Sec-WebSocket-Extensions", agreed.answer)
    theirs.receive_data(handshake_response(key, headers=[extension]))
    theirs.events_received()
    theirs.data_to_send()
    for _ in range(2):
        theirs.receive_data(compressed_text_frame(payload, agreed.window_bits))
        (event,) = theirs.events_received()
        assert isinstance(event, Frame)
        assert (event.opcode, event.data) == (TheirOpcode.TEXT, payload)
        theirs.send_text(payload)
        assert reader().feed(b"".join(theirs.data_to_send())) == [(Opcode.TEXT, payload)]
