"""A few seconds of hostile bytes for every parser; `make fuzz` goes on for longer."""

import gc
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import pytest

import fuzz
from fuzz import mutations
from fuzz.rig import Link, Ticked, Wire, switch_the_alarm_off
from fuzz.targets import TARGETS
from heliograph.wire.http import HttpLimits, RefusedRequest, RequestReader
from heliograph.wire.websocket import FrameReader

CORPUS = Path(fuzz.__file__).parent / "corpus"
INPUTS = 3000


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    yield
    switch_the_alarm_off()


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_bytes_violate_no_property(name: str) -> None:
    """The promises are in `fuzz/targets.py`; the same seed makes the same inputs."""
    found = mutations.run(name, mutations.corpus(CORPUS / name), seed=1, inputs=INPUTS)
    assert not found.why, f"{found.why}\n{found.broken!r}"
    assert found.tried == INPUTS


def test_an_input_that_fails_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(data: bytes) -> None:
        assert not (b"Upgrade" in data and data.count(b"\r\n") > 6)

    monkeypatch.setitem(TARGETS, "requests", fragile)
    found = mutations.run("requests", mutations.corpus(CORPUS / "requests"), seed=1, inputs=5000)
    assert found.broken is not None
    assert found.broken.count(b"\r\n") == 7
    assert len(found.broken) == 7 * 2 + len(b"Upgrade")


# -- Bytes that never end --------------------------------------------------------------------

MIB = 1 << 20
PIECE = 4096
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


def masked(first: int, payload: bytes) -> bytes:
    return bytes((first, 0xFE)) + len(payload).to_bytes(2, "big") + bytes(4) + payload


ENDLESS = {
    "a request line": (b"GET /", b"x" * PIECE),
    "a header": (HEAD + b"X: ", b"x" * PIECE),
    "headers": (HEAD, b"X: y\r\n" * 600),
    "empty lines": (b"", b"\r\n" * 2000),
    "a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n", b"x" * PIECE),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 600),
    "a chunk's extension": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;x=", b"x" * PIECE),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 600),
    "a trailer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * PIECE),
    "requests": (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 100),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_request_that_never_ends_holds_no_more_than_its_limits(kind: str) -> None:
    """A mebibyte in; at any time no more is held than a body of 64 KiB and its making."""
    begun, more = ENDLESS[kind]
    limits = HttpLimits(max_body_bytes=64 << 10)
    reader = RequestReader(limits)

    def feed(piece: bytes) -> bool:
        return not any(isinstance(event, RefusedRequest) for event in reader.feed(piece))

    assert peak(feed, begun, more) < 4 * limits.max_body_bytes


ENDLESS_FRAMES = {
    "a frame": (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + bytes(4), b"x" * PIECE),
    "fragments": (masked(0x01, b"x" * 200), masked(0x00, b"x" * 200) * 20),
    "empty fragments": (masked(0x01, b"x" * 200), b"\x00\x80\0\0\0\0" * 600),
    "pings within a message": (masked(0x01, b"x" * 200), b"\x89\x80\0\0\0\0" * 600),
    "messages": (b"", masked(0x81, b"x" * 200) * 20),
}


@pytest.mark.parametrize("kind", ENDLESS_FRAMES)
def test_a_message_that_never_ends_holds_no_more_than_its_limit(kind: str) -> None:
    begun, more = ENDLESS_FRAMES[kind]
    limit = 64 << 10
    reader = FrameReader(limit)

    def feed(piece: bytes) -> bool:
        reader.feed(piece)
        return reader.failure is None

    assert peak(feed, begun, more) < 4 * limit


def peak(feed: Callable[[bytes], bool], begun: bytes, more: bytes) -> int:
    """Return the most memory held while *feed* takes 1 MiB, or until it takes no more."""
    gc.collect()
    gc.disable()  # what other tests left would be ended in this one's time, and counted
    tracemalloc.start()
    try:
        if feed(begun):
            for piece in repeat(more, MIB // len(more)):
                if not feed(piece):
                    break
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()


# -- Time ------------------------------------------------------------------------------------

FACTOR = 8
WORST = 3
"""How much more than in proportion it may take: the quadratic takes FACTOR times as much."""


def head_by_bytes(size: int) -> Iterator[bytes]:
    return (bytes((byte,)) for byte in HEAD + b"X: " + b"y" * size)


def body_by_bytes(size: int) -> Iterator[bytes]:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
    return (bytes((byte,)) for byte in head + b"x" * size)


def chunks_by_bytes(size: int) -> Iterator[bytes]:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    return (bytes((byte,)) for byte in head + b"1\r\nx\r\n" * (size // 6))


def frame_by_bytes(size: int) -> Iterator[bytes]:
    return (bytes((byte,)) for byte in b"\x81\xff" + size.to_bytes(8, "big") + b"x" * (size + 4))


def many_fragments(size: int) -> Iterator[bytes]:
    return iter([b"\x01\x81\0\0\0\0x" + b"\x00\x81\0\0\0\0x" * (size // 8)])


def many_messages(size: int) -> Iterator[bytes]:
    return iter([b"\x81\x81\0\0\0\0x" * (size // 8)])


def read_requests(pieces: Iterator[bytes]) -> None:
    reader = RequestReader(HttpLimits(max_head_bytes=MIB, max_body_bytes=MIB))
    for piece in pieces:
        reader.feed(piece)


def read_frames(pieces: Iterator[bytes]) -> None:
    reader = FrameReader(MIB, max_fragments=MIB)
    for piece in pieces:
        reader.feed(piece)


@pytest.mark.parametrize(
    ("read", "sent"),
    [
        (read_requests, head_by_bytes),
        (read_requests, body_by_bytes),
        (read_requests, chunks_by_bytes),
        (read_frames, frame_by_bytes),
        (read_frames, many_fragments),
        (read_frames, many_messages),
    ],
    ids=lambda one: one.__name__,
)
def test_time_grows_with_the_bytes_and_no_faster(
    read: Callable[[Iterator[bytes]], None], sent: Callable[[int], Iterator[bytes]]
) -> None:
    size = 8 << 10

    def quickest(factor: int) -> float:
        return min(timed(lambda: read(sent(size * factor))) for _ in range(5))

    assert quickest(FACTOR) < quickest(1) * FACTOR * WORST


def timed(act: Callable[[], None]) -> float:
    begun = time.process_time()
    act()
    return time.process_time() - begun


def test_a_refused_client_has_our_end_at_once_whatever_it_still_sends() -> None:
    """Found by fuzzing: what came in one packet with the handshake made a difference."""
    handshake = (CORPUS / "connections" / "no-app").read_bytes()[1:]
    close = b"\x88\x82\0\0\0\0\x03\xe8"
    at_once = Wire([handshake + close], hang_up=False).said()
    assert at_once == Wire([handshake, close], hang_up=False).said()
    assert at_once[2], "the connection waits for a Close frame that says nothing"


def test_half_a_character_in_what_a_member_says_harms_nobody() -> None:
    """Found by fuzzing: it ended the connection, and of all who joined that channel later."""
    ticked = Ticked()
    first, second = Link(ticked.node), Link(ticked.node)
    data = json.dumps({"user_id": "1", "user_info": {"\ud800": "\udfff"}}, ensure_ascii=False)
    subscribe = {"event": "pusher:subscribe", "data": {"channel": "presence-c"}}
    poisoned = {**subscribe, "data": {"channel": "presence-c", "channel_data": data}}
    first.say(b"!" + json.dumps(poisoned).encode())
    sound = {"channel": "presence-c", "channel_data": '{"user_id":"2"}'}
    second.say(b"!" + json.dumps({**subscribe, "data": sound}).encode())
    ticked.tick()

    roster = json.loads(json.loads(second.said[-1])["data"])["presence"]
    assert roster["hash"] == {"1": {"\ud800": "\udfff"}, "2": None}
    first.check()
