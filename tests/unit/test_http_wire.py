"""HTTP/1.1 as bytes: each case is read at once and byte by byte, and is the same."""

import gc
import weakref
from collections.abc import Iterator

import httptools
import pytest

from heliograph.wire.http import (
    CONTINUE,
    CONTINUE_RESPONSE,
    MAX_REMEMBERED_BYTES,
    MAX_REMEMBERED_HEADERS,
    Continue,
    HeaderMemory,
    HttpLimits,
    RefusedRequest,
    Request,
    RequestReader,
)
from heliograph.wire.responses import response

Event = Request | RefusedRequest | Continue

LIMITS = HttpLimits()
SMALL = HttpLimits(max_head_bytes=64, max_headers=3, max_body_bytes=10)

MALFORMED = RefusedRequest(400, "Malformed HTTP request")


def at_once(data: bytes, limits: HttpLimits = LIMITS) -> list[Event]:
    return RequestReader(limits).feed(data)


def byte_by_byte(data: bytes, limits: HttpLimits = LIMITS) -> list[Event]:
    reader = RequestReader(limits)
    return [event for at in range(len(data)) for event in reader.feed(data[at : at + 1])]


def facts(event: Event) -> object:
    """What an event says, comparable."""
    if isinstance(event, Request):
        return {name: getattr(event, name) for name in Request.__slots__}
    return event


def read(data: bytes, limits: HttpLimits = LIMITS) -> list[Event]:
    """The events of *data*, which are the same when its bytes come one by one."""
    events = at_once(data, limits)
    slowly = byte_by_byte(data, limits)
    assert [facts(event) for event in slowly] == [facts(event) for event in events]
    return events


def read_one(data: bytes, limits: HttpLimits = LIMITS) -> Request:
    [event] = read(data, limits)
    assert isinstance(event, Request)
    return event


def refused(data: bytes, limits: HttpLimits = LIMITS) -> int:
    [event] = read(data, limits)
    assert isinstance(event, RefusedRequest)
    return event.status


# -- A request ---------------------------------------------------------------------------


def test_a_request_is_taken_apart() -> None:
    request = read_one(
        b"POST /apps/3/events?auth_key=278d&x=a%20b HTTP/1.1\r\n"
        b"Host: localhost:6001\r\n"
        b"Content-Type: application/json\r\n"
        b"X-Empty:\r\n"
        b"X-Padded: \t a b \t \r\n"
        b"Content-Length: 11\r\n"
        b"\r\n"
        b'{"name":""}'
    )

    assert request.method == "POST"
    assert request.target == b"/apps/3/events?auth_key=278d&x=a%20b"
    assert request.path == b"/apps/3/events"
    assert request.query == b"auth_key=278d&x=a%20b"
    assert request.version == "1.1"
    assert request.headers == [
        (b"host", b"localhost:6001"),
        (b"content-type", b"application/json"),
        (b"x-empty", b""),
        (b"x-padded", b"a b"),
        (b"content-length", b"11"),
    ]
    assert request.body == b'{"name":""}'
    assert request.keep_alive


def test_a_header_is_found_by_its_lower_case_name_and_the_first_one_counts() -> None:
    request = read_one(b"GET / HTTP/1.1\r\nHost: a\r\nX-Twice: 1\r\nx-twice: 2\r\n\r\n")

    assert request.header(b"x-twice") == b"1"
    assert request.header(b"x-missing") is None


def test_bytes_above_ascii_are_kept_in_header_values() -> None:
    request = read_one(b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\xc3\xa9\r\n\r\n")

    assert request.header(b"x") == b"\xff\xc3\xa9"


def test_the_representation_of_a_request_does_not_show_its_signature() -> None:
    request = read_one(b"GET /apps/3?auth_signature=1681 HTTP/1.1\r\nHost: a\r\n\r\n")

    assert repr(request) == "<Request GET b'/apps/3'>"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", b""),
        (b"/?", b"/", b""),
        (b"/a/%2F?x=1?y=2", b"/a/%2F", b"x=1?y=2"),
        (b"//a/b", b"//a/b", b""),
        (b"/a;b,c@d?e[]=f", b"/a;b,c@d", b"e[]=f"),
        (b"http://example.com/a?b", b"/a", b"b"),
        (b"HTTPS://example.com:443/a/b", b"/a/b", b""),
        (b"http://example.com", b"/", b""),
        (b"http://example.com?b/c", b"/", b"b/c"),
        (b"ws://example.com/app/key?protocol=7", b"/app/key", b"protocol=7"),
    ],
)
def test_a_target_has_a_path_and_a_query(target: bytes, path: bytes, query: bytes) -> None:
    request = read_one(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")

    assert (request.target, request.path, request.query) == (target, path, query)


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"foo",
        b"?x",
        b"/a#b",
        b"/a?b#c",
        b"http://",
        b"http:///a",
        b"http://a/b#c",
        b"ftp://a/b",
        b"/\xc3\xa9",
        b"/\0",
    ],
)
def test_any_other_target_is_refused(target: bytes) -> None:
    assert refused(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n") == 400


def test_connect_is_refused_and_hands_nothing_over() -> None:
    data = b"CONNECT example.com:443 HTTP/1.1\r\nHost: a\r\n\r\n\x16\x03"
    reader = RequestReader(LIMITS)

    assert refused(data) == 400
    reader.feed(data)
    assert (reader.upgraded, reader.rest) == (False, b"")
    assert refused(b"CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n") == 501


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods_are_told_apart(method: str) -> None:
    assert read_one(method.encode() + b" / HTTP/1.1\r\nHost: a\r\n\r\n").method == method


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"PROPFIND / HTTP/1.1", 501),
        (b"SOURCE / ICE/1.0", 501),
        (b"DESCRIBE / RTSP/1.0", 501),
        (b"BREW / HTTP/1.1", 400),
        (b"get / HTTP/1.1", 400),
        (b" GET / HTTP/1.1", 400),
        (b"GET\t/ HTTP/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET / http/1.1", 400),
        (b"GET / HTTP/1.11", 400),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/3.0", 505),
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/0.9", 505),
        (b"GET /", 505),
        (b"PRI * HTTP/2.0", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ],
)
def test_any_other_request_line_is_refused(line: bytes, status: int) -> None:
    assert refused(line + b"\r\nHost: a\r\n\r\n") == status


@pytest.mark.parametrize(
    "header",
    [
        b"X: a\r\n b",
        b"X:\r\n b",
        b" X: a",
        b"X: a\rb",
        b"X: a\r",
        b"X: a\nY: b",
        b"X: a\0b",
        b"X\0: a",
        b"X : a",
        b": a",
        b"X",
        b"\xff: a",
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: 3, 3",
        b"Content-Length: -3",
        b"Content-Length: +3",
        b"Content-Length: 0x3",
        b"Content-Length: 1_0",
        b"Content-Length: 3 4",
        b"Content-Length:",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Transfer-Encoding: chunked, gzip",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Host: b",
    ],
)
def test_a_header_that_could_be_read_in_two_ways_is_refused(header: bytes) -> None:
    assert refused(b"POST / HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n\r\nabc") == 400


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\rGET",
    ],
)
def test_lines_end_in_cr_and_lf(data: bytes) -> None:
    assert read(data) == [MALFORMED]


@pytest.mark.parametrize(
    "coding", [b"", b"gzip", b"gzip, chunked", b"identity", b"xchunked", b"chunked;q=1"]
)
def test_only_the_chunked_coding_is_known(coding: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + coding + b"\r\n\r\n"

    assert refused(head + b"0\r\n\r\n") in {400, 501}


def test_an_unknown_coding_before_chunked_is_not_passed_off_as_the_body() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"

    assert refused(head + b"1\r\nx\r\n0\r\n\r\n") == 501


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((b"gzip", b"chunked"), 501),
        ((b"identity", b"chunked"), 501),
        ((b"gzip, deflate", b"chunked"), 501),
        ((b"chunked", b"gzip"), 400),  # RFC 9112 6.3: nobody knows where the body ends
        ((b"chunked", b"chunked"), 400),
        ((b"chunked", b""), 400),
        ((b"", b"chunked"), 400),
        ((b"chunked, chunked",), 400),
        ((b"chunked, gzip",), 400),
        ((b", chunked",), 501),
        ((b"gzip",), 501),
    ],
)
@pytest.mark.parametrize("between", [b"", b"X: y\r\n"])
def test_transfer_codings_on_several_lines_are_one_list(
    lines: tuple[bytes, ...], status: int, between: bytes
) -> None:
    headers = between.join(b"Transfer-Encoding: " + line + b"\r\n" for line in lines)
    data = b"POST / HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n1\r\nx\r\n0\r\n\r\n"

    assert refused(data) == status


@pytest.mark.parametrize(
    ("lines", "keeps"),
    [
        ((b"close", b"keep-alive"), False),
        ((b"keep-alive", b"close"), False),
        ((b"x", b"close"), False),
        ((b"keep-alive", b"x"), True),
    ],
)
def test_connection_options_on_several_lines_are_one_list(
    lines: tuple[bytes, ...], keeps: bool
) -> None:
    headers = b"".join(b"Connection: " + line + b"\r\n" for line in lines)
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n" + headers + b"\r\n"
    memory = HeaderMemory()
    for _ in range(2):
        reader = RequestReader(HttpLimits(), memory)
        request = reader.request_fast(data)
        (one,) = reader.feed(data) if request is None else [request]
        assert isinstance(one, Request)
        assert one.keep_alive is keeps


def test_expectations_on_several_lines_are_one_list() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
    for lines in ((b"x", b"100-continue"), (b"100-continue", b"x")):
        expected = b"".join(b"Expect: " + line + b"\r\n" for line in lines)
        assert refused(head + expected + b"\r\nx") == 417


def test_of_a_header_that_comes_once_several_lines_are_none() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: b\r\n"
    (one,) = read(head + b"\r\n")
    (two,) = read(head + b"Origin: b\r\n\r\n")
    assert isinstance(one, Request)
    assert isinstance(two, Request)
    assert one.lone_header(b"origin") == b"b"
    assert two.lone_header(b"origin") is None
    assert one.lone_header(b"cookie") is None


def test_a_request_of_http_1_1_has_a_host() -> None:
    assert refused(b"GET / HTTP/1.1\r\n\r\n") == 400
    assert read_one(b"GET / HTTP/1.0\r\n\r\n").version == "1.0"
    assert refused(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n") == 400


def test_nothing_comes_after_a_refusal() -> None:
    good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    reader = RequestReader(LIMITS)

    first, refusal = reader.feed(good + b"nonsense\r\n\r\n" + good)

    assert isinstance(first, Request)
    assert refusal == MALFORMED
    assert reader.feed(good) == []
    assert not reader.receiving


# -- Several requests --------------------------------------------------------------------

TWO = (
    b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
)


def test_pipelined_requests_come_in_order() -> None:
    chunked = (
        b"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n"
    )

    events = read(TWO + chunked + TWO)

    assert [(event.path, event.body) for event in events if isinstance(event, Request)] == [
        (b"/1", b"abc"),
        (b"/2", b""),
        (b"/3", b"def"),
        (b"/1", b"abc"),
        (b"/2", b""),
    ]


def test_empty_lines_between_requests_are_skipped() -> None:
    assert len(read(b"\r\n\r\n" + TWO + b"\r\n\n\r" + TWO + b"\r\n")) == 4


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Foo, CLOSE\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: close\r\n", False),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_a_connection_stays_as_the_client_asks(
    version: bytes, connection: bytes, stays: bool
) -> None:
    data = b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + connection + b"\r\n"

    events = read(data + data)

    assert [isinstance(event, Request) and event.keep_alive for event in events] == (
        [True, True] if stays else [False]
    )


def test_what_follows_the_last_request_is_discarded() -> None:
    last = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    reader = RequestReader(LIMITS)

    assert len(reader.feed(TWO + last + b"\0garbage" + TWO)) == 3
    assert reader.feed(TWO) == []
    assert not reader.receiving


# -- Bodies ------------------------------------------------------------------------------

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("chunks", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"000\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
        (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
        (b"2\r\n\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n"),
        (b'3;a=b;c="d e"\r\nabc\r\n0;e\r\nX-Trailer: 1\r\nHost: b\r\n\r\n', b"abc"),
    ],
)
def test_a_chunked_body_is_put_together(chunks: bytes, body: bytes) -> None:
    first, second = read(CHUNKED + chunks + TWO)[:2]

    assert isinstance(first, Request)
    assert isinstance(second, Request)
    assert first.body == body
    assert [name for name, _ in first.headers] == [b"host", b"transfer-encoding"]
    assert second.path == b"/1"


@pytest.mark.parametrize(
    "chunks",
    [
        b"-1\r\n",
        b"g\r\n",
        b"\r\n",
        b"3 \r\nabc\r\n",
        b"3\nabc\n0\n\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"0x3\r\nabc\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX: y\r\n folded\r\n\r\n",
    ],
)
def test_a_malformed_chunk_is_refused(chunks: bytes) -> None:
    assert refused(CHUNKED + chunks) == 400


def test_a_client_of_http_1_0_cannot_send_chunks() -> None:
    data = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"

    assert refused(data) == 400


def test_a_get_may_have_a_body() -> None:
    assert read_one(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}").body == b"{}"


# -- Limits ------------------------------------------------------------------------------


def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: "

    assert read_one(head + b"10\r\n\r\n0123456789", SMALL).body == b"0123456789"
    assert refused(head + b"11\r\n\r\n", SMALL) == 413


def test_a_chunked_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    limits = HttpLimits(max_body_bytes=10)

    assert (
        read_one(CHUNKED + b"6\r\n012345\r\n4\r\n6789\r\n0\r\n\r\n", limits).body == b"0123456789"
    )
    assert refused(CHUNKED + b"6\r\n012345\r\n5\r\n6789a\r\n0\r\n\r\n", limits) == 413
    assert refused(CHUNKED + b"5\r\n01234\r\n6\r\n56789a", limits) == 413


@pytest.mark.parametrize(
    "framing",
    [
        b"1;" + b"x" * 400 + b"\r\na\r\n0\r\n\r\n",
        b"1" + b"\r\na\r\n0\r\nX-Trailer: " + b"x" * 400 + b"\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 70 + b"\r\n",
        b"0" * 400 + b"\r\n\r\n",
    ],
)
def test_chunk_extensions_and_trailers_count_too(framing: bytes) -> None:
    limits = HttpLimits(max_head_bytes=100, max_body_bytes=10)

    assert refused(CHUNKED + framing, limits) == 413
    assert isinstance(read(CHUNKED + framing)[0], Request)


def test_a_head_may_be_as_long_as_the_limit_and_no_longer() -> None:
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    fits = start + b"x" * (64 - len(start) - 4) + b"\r\n\r\n"
    too_long = start + b"x" * (65 - len(start) - 4) + b"\r\n\r\n"
    padded = start + b" " * (65 - len(start) - 4) + b"\r\n\r\n"

    assert len(fits) == 64
    assert len(read(fits * 3, SMALL)) == 3
    assert refused(too_long, SMALL) == 431
    assert refused(padded, SMALL) == 431


def test_a_head_without_an_end_is_refused_at_the_limit() -> None:
    reader = RequestReader(SMALL)

    assert reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\nX: ".ljust(64, b"x")) == []
    assert reader.feed(b"x") == [RefusedRequest(431, "Request header fields too large")]


def test_a_fault_within_the_limit_is_named_before_the_limit() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\nX\0: " + b"x" * 100 + b"\r\n\r\n"

    assert refused(data, SMALL) == 400


def test_a_request_line_that_is_too_long_has_its_own_status() -> None:
    assert refused(b"GET /" + b"x" * 100 + b" HTTP/1.1\r\nHost: a\r\n\r\n", SMALL) == 414
    assert refused(b"GET /" + b"x" * 100, SMALL) == 414


def test_only_so_many_headers_are_taken() -> None:
    three = b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nY: 2\r\n"

    assert len(read_one(three + b"\r\n", SMALL).headers) == 3
    assert refused(three + b"Z: 3\r\n\r\n", SMALL) == 431


def test_the_limit_of_a_head_does_not_count_the_body_before_it() -> None:
    limits = HttpLimits(max_head_bytes=100, max_body_bytes=1000)
    first = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n" + b"\r\n" * 450

    assert (
        len(read(first + TWO + CHUNKED + b"190\r\n" + b"x" * 400 + b"\r\n0\r\n\r\n" + TWO, limits))
        == 6
    )


# -- Expect ------------------------------------------------------------------------------

EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n"


def test_a_client_that_waits_is_told_to_continue() -> None:
    reader = RequestReader(LIMITS)

    assert reader.feed(EXPECTING) == [CONTINUE]
    assert reader.receiving_body
    [request] = reader.feed(b"abc")
    assert isinstance(request, Request)
    assert request.body == b"abc"


def test_a_client_that_waits_is_told_after_the_requests_before() -> None:
    *requests, last = RequestReader(LIMITS).feed(TWO + EXPECTING)

    assert len(requests) == 2
    assert last is CONTINUE


def test_a_client_that_sends_its_body_at_once_is_not_told() -> None:
    assert len(at_once(EXPECTING + b"abc")) == 1
    assert at_once(EXPECTING + b"a") == []
    assert byte_by_byte(EXPECTING + b"abc")[0] is CONTINUE


def test_a_client_that_waits_before_its_chunks_is_told() -> None:
    head = (
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    )

    events = byte_by_byte(head + b"1\r\nx\r\n0\r\n\r\n")

    assert events[0] is CONTINUE
    assert isinstance(events[1], Request)
    assert len(events) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.0\r\nExpect: the-unexpected\r\nContent-Length: 1\r\n\r\nx",
    ],
)
def test_nobody_waits_without_a_body_or_in_http_1_0(data: bytes) -> None:
    read_one(data)


@pytest.mark.parametrize(
    "value", [b"200-ok", b"100-continue, x", b"", b"100-continue\r\nExpect: x"]
)
def test_an_unknown_expectation_is_refused(value: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: " + value + b"\r\nContent-Length: 3\r\n\r\n"

    assert refused(head) == 417


def test_a_body_that_would_be_too_long_is_refused_before_it_is_sent() -> None:
    limits = HttpLimits(max_body_bytes=2)

    assert refused(EXPECTING, limits) == 413


# -- Upgrades ----------------------------------------------------------------------------

WEBSOCKET = (
    b"GET /app/key?protocol=7 HTTP/1.1\r\n"
    b"Host: a\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"\r\n"
)


@pytest.mark.parametrize("rest", [b"", b"\x81\x80\0\0\0\0", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_websocket_takes_the_connection_with_every_byte_behind_the_head(rest: bytes) -> None:
    for cut in range(len(WEBSOCKET + rest) + 1):
        reader = RequestReader(LIMITS)
        data = TWO + WEBSOCKET + rest
        events = reader.feed(data[: len(TWO) + cut]) + reader.feed(data[len(TWO) + cut :])

        assert [event.path for event in events if isinstance(event, Request)] == [
            b"/1",
            b"/2",
            b"/app/key",
        ]
        assert reader.upgraded
        assert reader.rest == rest
        assert not reader.receiving


@pytest.mark.parametrize(
    "fields",
    [
        b"Upgrade: WebSocket\r\nConnection: keep-alive, UPGRADE\r\n",
        b"Upgrade: h2c, websocket\r\nConnection: Upgrade\r\n",
        b"Connection: foo\r\nConnection: upgrade\r\nUpgrade: foo\r\nUpgrade: websocket\r\n",
    ],
)
def test_tokens_of_an_upgrade_are_found_in_lists_of_any_case(fields: bytes) -> None:
    reader = RequestReader(LIMITS)

    assert len(reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")) == 1
    assert reader.upgraded


def test_a_body_of_a_websocket_request_is_left_to_whoever_takes_over() -> None:
    reader = RequestReader(LIMITS)
    head = WEBSOCKET.removesuffix(b"\r\n") + b"Content-Length: 3\r\n\r\n"

    [request] = reader.feed(head + b"abc")

    assert isinstance(request, Request)
    assert (request.body, reader.rest) == (b"", b"abc")


def test_a_websocket_request_is_judged_like_any_other() -> None:
    reader = RequestReader(LIMITS)

    [refusal] = reader.feed(WEBSOCKET.replace(b"Host: a\r\n", b"") + b"abc")

    assert isinstance(refusal, RefusedRequest)
    assert (reader.upgraded, reader.rest) == (False, b"")


IGNORED = [
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
    b"Upgrade: TLS/1.0\r\nConnection: upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Upgrade: websocket2\r\nConnection: upgrade\r\n",
    b"Upgrade:\r\nConnection: upgrade\r\n",
    b"Connection: upgrade\r\n",
]


@pytest.mark.parametrize("fields", IGNORED)
@pytest.mark.parametrize(
    ("framed", "body"),
    [
        (b"\r\n", b""),
        (b"Content-Length: 0\r\n\r\n", b""),
        (b"Content-Length: 12\r\n\r\nGET / \r\n\r\n00", b"GET / \r\n\r\n00"),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n", b"abcde"),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    ],
)
def test_any_other_upgrade_is_ignored_and_its_body_read(
    fields: bytes, framed: bytes, body: bytes
) -> None:
    upgrade = b"POST /up HTTP/1.1\r\nHost: a\r\n" + fields + framed

    events = read(TWO + upgrade + upgrade + b"\r\n" + TWO)

    requests = [event for event in events if isinstance(event, Request)]
    assert [(request.path, request.body) for request in requests] == [
        (b"/1", b"abc"),
        (b"/2", b""),
        (b"/up", body),
        (b"/up", body),
        (b"/1", b"abc"),
        (b"/2", b""),
    ]
    assert len(requests[2].headers) == upgrade.partition(b"\r\n\r\n")[0].count(b"\r\n")


@pytest.mark.parametrize("framed", [b"\r\n", b"Content-Length: 3\r\n\r\nabc"])
def test_an_ignored_upgrade_may_be_the_last_request(framed: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, close\r\n"

    assert not read_one(head + framed + TWO).keep_alive


def test_an_ignored_upgrade_may_wait_for_its_continue() -> None:
    reader = RequestReader(LIMITS)
    head = EXPECTING.removesuffix(b"\r\n") + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n"

    assert reader.feed(head) == [CONTINUE]
    assert len(reader.feed(b"abc" + TWO)) == 3
    assert len(at_once(head + b"abc" + TWO)) == 3


@pytest.mark.parametrize("chunks", [b"b\r\n0123456789a\r\n0\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 140])
def test_a_body_behind_an_ignored_upgrade_has_the_same_limits(chunks: bytes) -> None:
    limits = HttpLimits(max_head_bytes=200, max_body_bytes=10)
    upgrade = b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n"

    assert refused(CHUNKED.removesuffix(b"\r\n") + upgrade + chunks, limits) == 413


def test_an_upgrade_in_http_1_0_is_ignored() -> None:
    reader = RequestReader(LIMITS)

    [request] = reader.feed(WEBSOCKET.replace(b"HTTP/1.1", b"HTTP/1.0") + b"abc")

    assert isinstance(request, Request)
    assert (reader.upgraded, request.keep_alive) == (False, False)


def test_a_reader_without_websockets_ignores_them_too() -> None:
    reader = RequestReader(LIMITS, websockets=False)

    assert len(reader.feed(WEBSOCKET + TWO)) == 3
    assert not reader.upgraded


# -- Where a request stands --------------------------------------------------------------


def test_a_request_is_being_received_from_its_first_byte_to_its_last() -> None:
    reader = RequestReader(LIMITS)
    seen = []
    for byte in b"\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n":
        reader.feed(bytes([byte]))
        seen.append((reader.receiving, reader.receiving_body))

    assert seen == (
        [(False, False)] * 4
        + [(True, False)] * len(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r")
        + [(True, True)] * 3
        + [(False, False)] * 3
    )


def test_half_a_request_behind_a_whole_one_is_being_received() -> None:
    reader = RequestReader(LIMITS)

    assert len(reader.feed(TWO + b"G")) == 2
    assert (reader.receiving, reader.receiving_body) == (True, False)


def test_a_closed_reader_takes_no_more() -> None:
    reader = RequestReader(LIMITS)
    reader.feed(TWO[:50])

    reader.close()
    reader.close()

    assert reader.feed(TWO) == []
    assert not reader.receiving


class Watched(RequestReader):
    """A reader of which a weak reference can tell whether it is alive."""

    __slots__ = ("__weakref__",)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "data",
    [
        WEBSOCKET,
        b"nonsense",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        CHUNKED + b"0" * 40000,
    ],
)
def test_a_reader_at_its_end_is_freed_without_the_garbage_collector(data: bytes) -> None:
    reader = Watched(LIMITS)
    alive = weakref.ref(reader)

    assert reader.feed(data) is not None
    reader.close()
    del reader

    assert alive() is None


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("data", [WEBSOCKET, b"nonsense", b"GET / HTTP/1.0\r\n\r\n"])
def test_a_reader_that_expects_nothing_more_closes_itself(data: bytes) -> None:
    reader = Watched(LIMITS)
    alive = weakref.ref(reader)

    assert len(reader.feed(data)) == 1
    del reader

    assert alive() is None


def test_an_idle_reader_holds_nothing_of_its_last_request() -> None:
    reader = RequestReader(LIMITS)

    reader.feed(TWO + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")

    assert (reader._events, reader._headers, reader._target) == ([], [], b"")
    assert (reader._body, reader._request, reader._tail) == (b"", None, b"")
    assert (reader._left, reader._head_bytes, reader._raw_bytes) == (0, 0, 0)


def test_a_fault_of_ours_is_not_blamed_on_the_client() -> None:
    class Faulty(RequestReader):
        def on_body(self, piece: bytes) -> None:
            raise RuntimeError(piece)

    with pytest.raises(httptools.HttpParserCallbackError):
        Faulty(LIMITS).feed(TWO)


# -- Responses ---------------------------------------------------------------------------


def test_a_response_says_no_more_than_it_was_given() -> None:
    assert response(200, b'{"a":1}', content_type="application/json") == (
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
    )


def test_a_response_carries_its_date_and_further_headers() -> None:
    assert response(
        503,
        b"later\n",
        headers=[(b"Retry-After", b"1"), (b"X-Empty", b"")],
        date=b"Sun, 06 Nov 1994 08:49:37 GMT",
    ) == (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"Content-Type: text/plain\r\n"
        b"Content-Length: 6\r\n"
        b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        b"Retry-After: 1\r\n"
        b"X-Empty: \r\n"
        b"\r\n"
        b"later\n"
    )


@pytest.mark.parametrize(
    ("version", "keep_alive", "line"),
    [
        ("1.1", True, b""),
        ("1.1", False, b"Connection: close\r\n"),
        ("1.0", True, b"Connection: keep-alive\r\n"),
        ("1.0", False, b"Connection: close\r\n"),
    ],
)
def test_a_response_says_whether_the_connection_stays(
    version: str, keep_alive: bool, line: bytes
) -> None:
    assert response(200, b"x", version=version, keep_alive=keep_alive) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + line + b"Content-Length: 1\r\n\r\nx"
    )


def test_a_response_to_head_has_the_length_and_not_the_body() -> None:
    whole = response(200, b"abc")

    assert response(200, b"abc", head_only=True) == whole.removesuffix(b"abc")
    assert b"Content-Length: 3\r\n" in whole


@pytest.mark.parametrize("status", [101, 204, 304])
def test_a_response_without_a_body_has_no_length(status: int) -> None:
    head = response(status)

    assert b"Content-" not in head
    assert head.endswith(b"\r\n\r\n")
    with pytest.raises(ValueError, match="has no body"):
        response(status, b"x")


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (400, b"HTTP/1.1 400 Bad Request\r\n"),
        (401, b"HTTP/1.1 401 Unauthorized\r\n"),
        (413, b"HTTP/1.1 413 Content Too Large\r\n"),
        (414, b"HTTP/1.1 414 URI Too Long\r\n"),
        (431, b"HTTP/1.1 431 Request Header Fields Too Large\r\n"),
        (499, b"HTTP/1.1 499 \r\n"),
    ],
)
def test_a_status_has_its_standard_phrase(status: int, line: bytes) -> None:
    assert response(status).startswith(line)


@pytest.mark.parametrize("bad", [b"a\r\nB: c", b"a\nb", b"a\rb", b"a\0b"])
def test_a_header_cannot_smuggle_another(bad: bytes) -> None:
    with pytest.raises(ValueError, match="one line"):
        response(200, headers=[(b"X", bad)])
    with pytest.raises(ValueError, match="one line"):
        response(200, headers=[(bad, b"x")])
    with pytest.raises(ValueError, match="one line"):
        response(200, content_type=bad.decode())
    with pytest.raises(ValueError, match="one line"):
        response(200, date=bad)


def test_the_interim_response_ends_with_its_head() -> None:
    assert CONTINUE_RESPONSE == b"HTTP/1.1 100 Continue\r\n\r\n"


# -- What was read before --------------------------------------------------------------------

BLOCK = b"\r\nHost: a\r\nContent-Length: 2\r\n\r\n"


def after_reading(*requests: bytes, limits: HttpLimits | None = None) -> HeaderMemory:
    """What is remembered of *requests*, each of which came on a connection of its own."""
    memory = HeaderMemory()
    for data in requests:
        RequestReader(limits or HttpLimits(), memory).feed(data)
    return memory


def test_headers_that_were_read_before_are_plain_to_see() -> None:
    memory = after_reading(b"POST /a HTTP/1.1" + BLOCK + b"{}")
    request = RequestReader(HttpLimits(), memory).request_fast(
        b"POST /b?c HTTP/1.1" + BLOCK + b"[]"
    )
    assert request is not None
    assert (request.method, request.target, request.path) == ("POST", b"/b?c", b"/b")
    assert (request.query, request.version, request.body) == (b"c", "1.1", b"[]")
    assert request.headers == [(b"host", b"a"), (b"content-length", b"2")]
    assert request.keep_alive


def test_a_request_of_http_1_1_has_a_host_though_one_of_1_0_had_the_same_headers() -> None:
    block = b"\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}"
    memory = HeaderMemory()
    (old,) = RequestReader(HttpLimits(), memory).feed(b"POST /a HTTP/1.0" + block)
    assert isinstance(old, Request)
    assert old.keep_alive
    assert memory.blocks == {}
    reader = RequestReader(HttpLimits(), memory)
    assert reader.request_fast(b"POST /a HTTP/1.1" + block) is None
    assert reader.feed(b"POST /a HTTP/1.1" + block) == [
        RefusedRequest(400, "Exactly one Host header is required")
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"POST /a HTTP/1.0" + BLOCK + b"{}",
        b"POST /a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
        b"PUT /a HTTP/1.1" + BLOCK + b"{}",
        b"POST /a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: Upgrade\r\n\r\n{}",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nUpgrade: h2c\r\n\r\n{}",
        b"POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /a HTTP/1.1" + BLOCK + b"{}POST /a HTTP/1.1" + BLOCK + b"{}",
        b"POST /a HTTP/1.1" + BLOCK + b"{}\r\n",
        b"\r\nPOST /a HTTP/1.1" + BLOCK + b"{}",
    ],
)
def test_headers_that_leave_something_to_judge_are_not_remembered(data: bytes) -> None:
    assert after_reading(data).blocks == {}


def test_headers_are_not_remembered_of_requests_that_came_in_pieces() -> None:
    memory = HeaderMemory()
    data = b"POST /a HTTP/1.1" + BLOCK + b"{}"
    reader = RequestReader(HttpLimits(), memory)
    for piece in (data[:20], data[20:]):
        reader.feed(piece)
    assert memory.blocks == {}


def test_few_and_short_blocks_of_headers_are_remembered() -> None:
    def sent(number: int, length: int) -> tuple[bytes, bytes]:
        block = b"\r\nHost: a\r\nContent-Length: 2\r\nX: %d" % number
        block = block.ljust(length - 4, b"x") + b"\r\n\r\n"
        return b"POST /a HTTP/1.1" + block + b"{}", block

    memory = HeaderMemory()
    for number in range(MAX_REMEMBERED_HEADERS + 3):
        data, block = sent(number, 100)
        RequestReader(HttpLimits(), memory).feed(data)
        assert block in memory.blocks
        assert len(memory.blocks) <= MAX_REMEMBERED_HEADERS
    for length, kept in ((MAX_REMEMBERED_BYTES, True), (MAX_REMEMBERED_BYTES + 1, False)):
        data, block = sent(0, length)
        assert len(block) == length
        RequestReader(HttpLimits(), memory).feed(data)
        assert (block in memory.blocks) is kept


@pytest.mark.parametrize(
    "data",
    [
        b"POST /a HTTP/1.0" + BLOCK + b"{}",
        b"PUT /a HTTP/1.1" + BLOCK + b"{}",
        b"POST a HTTP/1.1" + BLOCK + b"{}",
        b"POST /a#b HTTP/1.1" + BLOCK + b"{}",
        b"POST /a b HTTP/1.1" + BLOCK + b"{}",
        b"POST /a\xff HTTP/1.1" + BLOCK + b"{}",
        b"POST /a\x00 HTTP/1.1" + BLOCK + b"{}",
        b"POST /a\n HTTP/1.1" + BLOCK + b"{}",
        b"POST http://a/ HTTP/1.1" + BLOCK + b"{}",
        b"POST /a HTTP/1.1" + BLOCK + b"{",
        b"POST /a HTTP/1.1" + BLOCK + b"{} ",
        b"POST /a HTTP/1.1" + BLOCK.replace(b"Host", b"host") + b"{}",
    ],
)
def test_another_request_with_known_headers_is_read_with_care(data: bytes) -> None:
    memory = after_reading(b"POST /a HTTP/1.1" + BLOCK + b"{}")
    assert RequestReader(HttpLimits(), memory).request_fast(data) is None


def test_the_head_of_a_request_with_known_headers_is_as_long_as_the_limit_and_no_longer() -> None:
    limits = HttpLimits(max_head_bytes=100)
    memory = after_reading(b"POST /a HTTP/1.1" + BLOCK + b"{}", limits=limits)
    path = b"/" + b"x" * (100 - len(b"POST / HTTP/1.1" + BLOCK))
    assert RequestReader(limits, memory).request_fast(b"POST %b HTTP/1.1%b{}" % (path, BLOCK))
    longer = b"POST %bx HTTP/1.1%b{}" % (path, BLOCK)
    assert RequestReader(limits, memory).request_fast(longer) is None
    (refusal,) = RequestReader(limits, memory).feed(longer)
    assert isinstance(refusal, RefusedRequest)


def test_an_upgrade_that_is_plain_to_see_is_within_the_limits() -> None:
    def upgrade(*fields: bytes) -> bytes:
        first = b"GET /app/k HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        return first + b"".join(field + b"\r\n" for field in fields) + b"\r\n"

    limits = HttpLimits(max_head_bytes=120, max_headers=4)
    room = 120 - len(upgrade(b"X:"))
    assert RequestReader(limits).request_fast(upgrade(b"X:" + b"x" * room))
    for data in (upgrade(b"X:" + b"x" * (room + 1)), upgrade(b"X:1", b"Y:1")):
        assert RequestReader(limits).request_fast(data) is None
        (refusal,) = RequestReader(limits).feed(data)
        assert isinstance(refusal, RefusedRequest)
        assert refusal.status == 431


def test_nothing_is_plain_to_see_in_the_middle_of_a_request_nor_after_the_last() -> None:
    memory = after_reading(b"POST /a HTTP/1.1" + BLOCK + b"{}")
    data = b"POST /a HTTP/1.1" + BLOCK + b"{}"
    reader = RequestReader(HttpLimits(), memory)
    for begun in (b"POST /b HTTP/1.1\r\n", b"Content-Length: 1000\r\nHost: a\r\n\r\n"):
        reader.feed(begun)
        assert reader.request_fast(data) is None
        assert reader.request_fast(WEBSOCKET) is None
    reader.close()
    assert reader.request_fast(data) is None
    assert reader.request_fast(WEBSOCKET) is None


def test_nobody_puts_headers_of_its_own_into_what_is_remembered() -> None:
    """The rest of a head may look like a request, but what came before it belongs to it."""
    memory = HeaderMemory()
    reader = RequestReader(HttpLimits(), memory)
    assert reader.feed(b"POST /b HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nX: ") == []
    (request,) = reader.feed(b"POST /a HTTP/1.1" + BLOCK + b"{}")
    assert isinstance(request, Request)
    assert request.header(b"x-forwarded-for") == b"192.0.2.1"
    assert memory.blocks == {}


UNUSUAL_UPGRADES = {
    "no host": (b"Host: a\r\n", b""),
    "two hosts": (b"Host: a\r\n", b"Host: a\r\nHost: b\r\n"),
    "an empty body": (b"Host: a\r\n", b"Host: a\r\nContent-Length: 0\r\n"),
    "a body": (b"Host: a\r\n", b"Host: a\r\nContent-Length: 1\r\n"),
    "chunks": (b"Host: a\r\n", b"Host: a\r\nTransfer-Encoding: chunked\r\n"),
    "an expectation": (b"Host: a\r\n", b"Host: a\r\nExpect: 100-continue\r\n"),
    "a connection that closes": (b"Host: a\r\n", b"Host: a\r\nConnection: close\r\n"),
    "another upgrade": (b"Upgrade: websocket", b"Upgrade: h2c"),
    "no upgrade": (b"Upgrade: websocket\r\n", b""),
    "a connection that is kept": (b"Connection: Upgrade", b"Connection: keep-alive"),
    "a line that goes on": (b"Host: a\r\n", b"Host: a\r\n b\r\n"),
    "a name with a space": (b"Host: a\r\n", b"Host: a\r\nX : y\r\n"),
    "a zero": (b"Host: a\r\n", b"Host: a\r\nX: \0\r\n"),
    "another version": (b"HTTP/1.1", b"HTTP/1.0"),
    "another method": (b"GET ", b"PUT "),
    "more behind it": (b"\r\n\r\n", b"\r\n\r\n\x81"),
    "no end": (b"\r\n\r\n", b"\r\nab"),
}


@pytest.mark.parametrize("what", UNUSUAL_UPGRADES)
def test_an_upgrade_with_something_unusual_is_read_with_care(what: str) -> None:
    usual = b"GET /app/k HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    assert RequestReader(HttpLimits()).request_fast(usual) is not None
    unusual = usual.replace(*UNUSUAL_UPGRADES[what])
    assert unusual != usual
    reader = RequestReader(HttpLimits())
    assert reader.request_fast(unusual) is None
    assert not reader.upgraded
