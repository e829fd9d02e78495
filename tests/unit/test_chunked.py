"""Responses in chunks, as two independent readers of HTTP take them."""

import http.client
import io
from collections.abc import Sequence

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.node.dialect import Framing
from heliograph.protocols.pusher import messages
from heliograph.protocols.pusher.lanes import PusherLane
from heliograph.wire.chunked import LAST_CHUNK, ChunkedFraming, chunk, chunked_head
from heliograph.wire.responses import stream_head
from tests.unit.fakes import event

BODIES = st.lists(st.binary(max_size=300), max_size=20)


class Socket:
    """What http.client reads a response from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


class Reader:
    """What httptools makes of a response."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.complete = False
        self._current = b""
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_chunk_header(self) -> None:
        self._current = b""

    def on_body(self, data: bytes) -> None:
        self._current += data

    def on_chunk_complete(self) -> None:
        if self._current:
            self.chunks.append(self._current)

    def on_message_complete(self) -> None:
        self.complete = True


def response(parts: Sequence[bytes]) -> bytes:
    return chunked_head("text/plain") + b"".join(map(chunk, parts)) + LAST_CHUNK


@given(BODIES)
def test_the_standard_library_reads_the_body_that_was_written(parts: list[bytes]) -> None:
    found = http.client.HTTPResponse(Socket(response(parts)), method="POST")  # type: ignore[arg-type]
    found.begin()
    assert found.status == 200
    assert found.read() == b"".join(parts)
    assert found.will_close


@given(BODIES, st.lists(st.integers(1, 100), max_size=30))
def test_the_chunks_are_the_same_however_their_bytes_are_cut(
    parts: list[bytes], cuts: list[int]
) -> None:
    reader, data = Reader(), response(parts)
    for size in cuts:
        reader.parser.feed_data(data[:size])
        data = data[size:]
        if not data:
            break
    if data:
        reader.parser.feed_data(data)
    assert reader.chunks == [one for one in parts if one]
    assert reader.complete


def test_the_example_of_the_rfc() -> None:
    """RFC 9112 7.1: the size in hexadecimal digits, a line feed after size and data each."""
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert LAST_CHUNK == b"0\r\n\r\n"


def test_no_data_is_no_chunk_since_an_empty_one_would_end_the_response() -> None:
    assert chunk(b"") == b""
    assert ChunkedFraming(end=b"").frame(b"") == b""
    assert ChunkedFraming().frame(b"") == b"1\r\n\n\r\n"


def test_a_message_is_a_chunk_with_its_end() -> None:
    assert ChunkedFraming().frame(b"{}") == b"3\r\n{}\n\r\n"
    assert ChunkedFraming(end=b"\n\n").frame(b"data: {}") == b"a\r\ndata: {}\n\n\r\n"
    assert ChunkedFraming.compression is False


def test_the_lane_of_a_protocol_takes_chunks_as_it_takes_frames() -> None:
    """Compiled, too: there it is an error if a lane is for frames alone."""
    framing: Framing = ChunkedFraming()
    lane = PusherLane(framing)
    facts = [event(name) for name in ("a", "b", "c")]
    encoded = [lane.encode(fact) for fact in facts]
    assert encoded == [framing.frame(messages.fact_message(fact)) for fact in facts]
    row = lane.join(encoded)
    begin = len(encoded[0])
    assert b"".join(lane.cut(row, [(0, begin)])) == encoded[0]
    reader = Reader()
    reader.parser.feed_data(chunked_head("application/x-ndjson") + row)
    assert reader.chunks == [messages.fact_message(fact) + b"\n" for fact in facts]
    assert not reader.complete


# -- The head of a response that comes in parts --------------------------------------------


def test_a_head_of_a_chunked_response() -> None:
    head = chunked_head("text/event-stream", [(b"Cache-Control", b"no-store")], date=b"today")
    assert head == (
        b"HTTP/1.1 200 OK\r\n"
        b"Content-Type: text/event-stream\r\n"
        b"Connection: close\r\n"
        b"Date: today\r\n"
        b"Cache-Control: no-store\r\n"
        b"Transfer-Encoding: chunked\r\n"
        b"\r\n"
    )


def test_a_connection_that_goes_on_after_the_response_is_not_said_to_close() -> None:
    assert b"Connection" not in chunked_head("text/plain", keep_alive=True)


def test_a_response_without_a_length_ends_with_its_connection() -> None:
    """RFC 9112 6.3: neither a length nor a coding."""
    head = stream_head("text/plain", date=b"today")
    assert b"Content-Length" not in head
    assert b"Transfer-Encoding" not in head
    found = http.client.HTTPResponse(Socket(head + b"all of it"), method="POST")  # type: ignore[arg-type]
    found.begin()
    assert found.read() == b"all of it"


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\nb", b"a\0b"])
def test_a_header_that_would_break_the_head_is_an_error(value: bytes) -> None:
    with pytest.raises(ValueError, match="must fit on one line"):
        stream_head("text/plain", [(b"X", value)])
    with pytest.raises(ValueError, match="must fit on one line"):
        chunked_head("text/plain", [(b"X", value)])
