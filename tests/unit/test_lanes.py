"""Lanes of WebSockets: what they make of facts, and of chunks that somebody is left out of."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.protocols.lanes import MOST_PIECES, WORTH_A_VIEW
from heliograph.protocols.pusher import messages
from heliograph.protocols.pusher.lanes import PusherLane
from heliograph.wire.framing import DeflateFraming, TextFraming
from tests.unit.fakes import event
from tests.unit.test_deflate import FAR_APART, inflated_strictly

LANE = PusherLane(TextFraming())


def row(count: int) -> tuple[bytes, list[int]]:
    """Some frames in a row, and where each begins, and the last one ends."""
    frames = [LANE.encode(event("e" * (1 + number % 50))) for number in range(count)]
    ends = [sum(map(len, frames[:number])) for number in range(count + 1)]
    return LANE.join(frames), ends


def test_who_is_left_out_of_a_little_is_written_the_rest_of_much_without_a_copy() -> None:
    chunk, ends = row(200)
    pieces = LANE.cut(chunk, [(0, ends[70]), (ends[80], ends[200])])
    assert sum(map(len, pieces)) > WORTH_A_VIEW
    assert [bytes(piece) for piece in pieces] == [chunk[: ends[70]], chunk[ends[80] :]]
    assert all(isinstance(piece, memoryview) and piece.obj is chunk for piece in pieces)


def test_who_gets_little_of_a_chunk_does_not_keep_all_of_it() -> None:
    chunk, ends = row(20)
    (piece,) = LANE.cut(chunk, [(ends[3], ends[4]), (ends[9], ends[10])])
    assert piece == chunk[ends[3] : ends[4]] + chunk[ends[9] : ends[10]]
    assert isinstance(piece, bytes)


def test_what_is_short_is_copied_since_views_cost_more() -> None:
    chunk, ends = row(20)
    (piece,) = LANE.cut(chunk, [(0, ends[7]), (ends[8], ends[20])])
    assert piece == chunk[: ends[7]] + chunk[ends[8] :]


def test_what_would_be_many_pieces_is_one() -> None:
    chunk, ends = row(300)
    parts = [(ends[place], ends[place + 29]) for place in range(0, 300, 30)]
    assert len(parts) > MOST_PIECES
    assert LANE.cut(chunk, parts) == [b"".join([chunk[begin:end] for begin, end in parts])]


@given(st.lists(st.booleans(), min_size=1, max_size=150))
@pytest.mark.parametrize(
    "lane", [LANE, PusherLane(DeflateFraming(1)), PusherLane(DeflateFraming(1).within(9))]
)
def test_the_pieces_are_the_parts_in_their_order(lane: PusherLane, kept: Sequence[bool]) -> None:
    chunk, ends = row(len(kept))
    parts = [(ends[i], ends[i + 1]) for i, keeps in enumerate(kept) if keeps]
    if parts:
        pieces = lane.cut(chunk, parts)
        assert b"".join(pieces) == b"".join([chunk[begin:end] for begin, end in parts])
        assert len(pieces) <= MOST_PIECES


def test_clients_with_equal_windows_share_a_framing_and_those_with_small_ones_too() -> None:
    usual = DeflateFraming(10)
    assert usual.within(15) is usual
    small = {usual.within(bits) for bits in range(9, 15)}
    assert len(small) == 1
    assert usual not in small


def test_no_frame_needs_a_larger_window_than_its_client_has() -> None:
    for bits in range(9, 16):
        frame = DeflateFraming(10).within(bits).frame(FAR_APART)
        assert frame[:2] == b"\xc1\x7e"
        assert inflated_strictly(frame[4:], bits) == FAR_APART


@pytest.mark.parametrize("threshold", [1, 20, 1024])
def test_messages_are_compressed_from_the_threshold_on(threshold: int) -> None:
    """One byte less is not."""
    framing = DeflateFraming(threshold)
    for size, compressed in ((threshold - 1, 0), (threshold, 0x40), (threshold + 1, 0x40)):
        assert framing.frame(b"x" * size)[0] == 0x81 | compressed
    beside = len(messages.fact_message(event("")))
    for size in (beside + 10, beside + 11):
        fact = event("e" * (size - beside))
        assert PusherLane(DeflateFraming(beside + 11)).encode(fact)[0] & 0x40 == (
            0x40 if size == beside + 11 else 0
        )
    assert LANE.framing.frame(b"x" * 5000)[0] == 0x81


def test_the_length_of_a_compressed_frame_is_as_short_as_it_can_be() -> None:
    """RFC 6455 5.2: the minimal number of bytes."""
    chance, seen = random.Random(1), set()
    for size in range(250):
        payload = bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=size))
        frame = DeflateFraming(0).frame(payload)
        assert frame[0] == 0xC1
        if frame[1] < 126:
            length, begins = frame[1], 2
        else:
            length, begins = int.from_bytes(frame[2:4], "big"), 4
            assert length >= 126
        assert len(frame) == begins + length
        seen.add(length)
    assert {125, 126} <= seen
