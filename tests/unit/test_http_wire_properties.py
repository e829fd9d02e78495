"""What holds for every request, every cut of its bytes, and every garbage."""

from collections.abc import Sequence
from itertools import pairwise

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from heliograph.wire.http import (
    CONTINUE,
    Continue,
    HeaderMemory,
    HttpLimits,
    RefusedRequest,
    Request,
    RequestReader,
)
from heliograph.wire.responses import response

CORPUS = [
    b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nX: \t y \r\n\r\n",
    b"POST /apps/3/events HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n\r\n\r\n{}\r\n0",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4\r\n\r\n\r\n\r\n2;x=y\r\nab\r\n0\r\nX: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"Content-Length: 2\r\n\r\nhi",
    b"PUT / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    b"GET http://a/b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"\r\n\r\n",
]
LAST = [
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x80\0\0",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nmore",
    b"GET / HTTP/1.1\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n\x16\x03",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 300,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101,
    b"",
]
LIMITS = HttpLimits(max_head_bytes=200, max_headers=6, max_body_bytes=100)

streams = st.tuples(st.lists(st.sampled_from(CORPUS), max_size=5), st.sampled_from(LAST)).map(
    lambda parts: b"".join(parts[0]) + parts[1]
)
cuts = st.lists(st.integers(min_value=0, max_value=1000), max_size=12)
snippets = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b"\r\n", b"\r", b"\n", b"\r\n\r\n", b" ", b":", b"0", b"HTTP/1.1", b"\0"]),
)


@st.composite
def damaged_streams(draw: st.DrawFn) -> bytes:
    """Requests of which some bytes were replaced, removed or added."""
    stream = draw(streams)
    for _ in range(draw(st.integers(min_value=1, max_value=3))):
        start = draw(st.integers(min_value=0, max_value=len(stream)))
        end = draw(st.integers(min_value=start, max_value=min(start + 6, len(stream))))
        stream = stream[:start] + draw(snippets) + stream[end:]
    return stream


def outcome(pieces: Sequence[bytes], limits: HttpLimits) -> tuple[object, ...]:
    """
    What a reader made of *pieces*, in all.

    Without `CONTINUE`: whether a client seems to wait depends on how its bytes come.
    """
    reader = RequestReader(limits)
    events = [event for piece in pieces for event in reader.feed(piece)]
    told = [facts(event) for event in events if event is not CONTINUE]
    return told, reader.upgraded, reader.rest, reader.receiving, reader.receiving_body


def facts(event: Request | RefusedRequest | Continue) -> object:
    if isinstance(event, Request):
        return {name: getattr(event, name) for name in Request.__slots__}
    return event


def pieces_of(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


@given(streams, cuts)
def test_requests_are_the_same_however_their_bytes_are_cut(
    stream: bytes, places: list[int]
) -> None:
    whole = outcome([stream], LIMITS)

    assert outcome(pieces_of(stream, places), LIMITS) == whole
    assert outcome([bytes([byte]) for byte in stream], LIMITS) == whole


@given(damaged_streams(), cuts)
def test_damage_is_judged_the_same_however_its_bytes_are_cut(
    stream: bytes, places: list[int]
) -> None:
    """Nothing raises either."""
    # The allowance for the framing of chunks is out of reach here. Where a body is wasteful
    # and malformed as well, the cuts decide which of the two is told.
    limits = HttpLimits(max_head_bytes=2000, max_headers=6, max_body_bytes=100)
    whole = outcome([stream], limits)

    assert outcome(pieces_of(stream, places), limits) == whole
    assert outcome([bytes([byte]) for byte in stream], limits) == whole


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_no_bytes_make_the_reader_raise(pieces: list[bytes]) -> None:
    outcome(pieces, LIMITS)
    outcome([b"GET / HTTP/1.1\r\nHost: a\r\n", *pieces], LIMITS)
    outcome([b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces], LIMITS)


@given(st.lists(st.one_of(streams, damaged_streams()), min_size=1, max_size=4), st.data())
def test_request_fast_returns_the_request_of_the_full_parser(
    pieces: list[bytes], data: st.DataObject
) -> None:
    """Whatever was remembered before, and whatever comes after."""
    memory = HeaderMemory()
    straight, careful = RequestReader(LIMITS, memory), RequestReader(LIMITS)
    line = b"POST /apps/3/events?a=1 HTTP/1.1"
    common = b"\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
    for piece in [line + common + b"{}", *pieces]:
        chosen = data.draw(st.sampled_from([piece, line + common + b"[]", piece[:40] + common]))
        plain = straight.request_fast(chosen)
        told = [plain] if plain is not None else straight.feed(chosen)
        assert list(map(facts, told)) == list(map(facts, careful.feed(chosen)))
        assert straight.upgraded == careful.upgraded
        assert straight.receiving == careful.receiving


LINES = [
    b"POST /apps/3/events?a=1 HTTP/1.1",
    b"POST /apps/3/events?a=1 HTTP/1.1",
    b"POST /other HTTP/1.1",
    b"POST /other HTTP/1.0",
    b"POST /other?a?b HTTP/1.2",
    b"POST http://b/other HTTP/1.1",
    b"POST * HTTP/1.1",
    b"POST /a#b HTTP/1.1",
    b"POST /a\xe9 HTTP/1.1",
    b"POST /a b HTTP/1.1",
    b"POST  /a HTTP/1.1",
    b"post /a HTTP/1.1",
    b"PUT /a HTTP/1.1",
    b"GET /a HTTP/1.1",
    b"\r\nPOST /a HTTP/1.1",
    b"POST /" + b"x" * 150 + b" HTTP/1.1",
]
BLOCKS = [
    b"Host: a\r\nContent-Length: 2",
    b"Host: a\r\nContent-Length: 2",
    b"Content-Length: 2",
    b"Content-Length: 2\r\nConnection: keep-alive",
    b"Host: a\r\nContent-Length: 2\r\nConnection: Keep-Alive",
    b"Host: a\r\nContent-Length: 2\r\nConnection: close",
    b"Host: a\r\nContent-Length: 2\r\nConnection: keep-alive, close",
    b"Host: a\r\nHost: a\r\nContent-Length: 2",
    b"Host: a\r\nContent-Length: 2\r\nContent-Length: 2",
    b"Host: a\r\nContent-Length: 2\r\nExpect: 100-continue",
    b"Host: a\r\nContent-Length: 2\r\nConnection: Upgrade\r\nUpgrade: websocket",
    b"Host: a\r\nContent-Length: 2\r\nUpgrade: h2c\r\nConnection: Upgrade",
    b"Host: a\r\nTransfer-Encoding: chunked",
    b"Host: a\r\nContent-Length: 101",
    b"Host: a\r\nContent-Length: 0",
    b"Host: a",
    b"Host: a\r\nContent-Length: 2" + b"\r\nX: y" * 4,
    b"Host: a\r\nContent-Length: 2" + b"\r\nX: y" * 5,
]
BODIES = [b"{}", b"{}", b"[]", b"", b"{", b"{} ", b"{}" * 51, b"0\r\n\r\n", b"1\r\nx\r\n0\r\n\r\n"]

posts = st.tuples(st.sampled_from(LINES), st.sampled_from(BLOCKS), st.sampled_from(BODIES)).map(
    lambda parts: b"%b\r\n%b\r\n\r\n%b" % parts
)


@st.composite
def similar_posts(draw: st.DrawFn) -> list[list[bytes]]:
    """Requests of a few lines, headers and bodies, in every combination, on some connections."""
    lines = draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=3))
    blocks = draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=2))
    bodies = draw(st.lists(st.sampled_from(BODIES), min_size=1, max_size=2))
    some = st.tuples(st.sampled_from(lines), st.sampled_from(blocks), st.sampled_from(bodies))
    requests = some.map(lambda parts: b"%b\r\n%b\r\n\r\n%b" % parts)
    return draw(st.lists(st.lists(requests, min_size=1, max_size=3), min_size=1, max_size=6))


@given(similar_posts())
@example(
    [
        [LINES[3] + b"\r\n" + BLOCKS[3] + b"\r\n\r\n{}"],
        [LINES[2] + b"\r\n" + BLOCKS[3] + b"\r\n\r\n{}"],
    ]
)
def test_a_memory_of_headers_changes_nothing_for_any_connection(
    connections: list[list[bytes]],
) -> None:
    """Whatever the same headers came with before, on this connection or another."""
    memory = HeaderMemory()
    for requests in connections:
        fast, full = RequestReader(LIMITS, memory), RequestReader(LIMITS)
        for data in requests:
            plain = fast.request_fast(data)
            told = [plain] if plain is not None else fast.feed(data)
            assert list(map(facts, told)) == list(map(facts, full.feed(data)))
            assert fast.upgraded == full.upgraded
            assert fast.receiving == full.receiving
        fast.close()
        full.close()


@given(posts, posts)
def test_what_a_memory_holds_can_be_told_again(first: bytes, second: bytes) -> None:
    """The same request is the same the second time, if it is remembered at all."""
    memory = HeaderMemory()
    before = RequestReader(LIMITS, memory).feed(first)
    RequestReader(LIMITS, memory).feed(second)
    plain = RequestReader(LIMITS, memory).request_fast(first)
    if plain is not None:
        assert list(map(facts, before)) == [facts(plain)]


UPGRADE = (
    b"GET /app/key?protocol=7 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nX: y \r\n\r\n"
)


@given(st.integers(0, len(UPGRADE)), st.integers(0, 12), snippets)
def test_request_fast_returns_the_upgrade_of_the_full_parser(
    start: int, length: int, damage: bytes
) -> None:
    data = UPGRADE[:start] + damage + UPGRADE[start + length :]
    straight, careful = RequestReader(LIMITS), RequestReader(LIMITS)
    plain = straight.request_fast(data)
    if plain is not None:
        assert [facts(plain)] == list(map(facts, careful.feed(data)))
        assert straight.upgraded
        assert careful.upgraded


UPGRADE_LINES = [
    b"GET /app/key?protocol=7 HTTP/1.1",
    b"GET /app/key?protocol=7 HTTP/1.1",
    b"GET /app/key?protocol=7 HTTP/1.0",
    b"GET http://a/app/key HTTP/1.1",
    b"GET /app/key#x HTTP/1.1",
    b"POST /app/key HTTP/1.1",
    b"GET /app/\xff HTTP/1.1",
]
UPGRADE_FIELDS = [
    *(b"Host: a", b"Host: b", b"Upgrade: websocket", b"Upgrade: WebSocket", b"Upgrade: h2c"),
    *(b"Upgrade: websocket, h2c", b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
    *(b"Connection: close", b"Connection: Upgrade, close", b"Content-Length: 0", b"X:", b"X:\ty "),
    *(b"Content-Length: 1", b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"X y: z"),
    *(b" folded", b"X: \x00", b"X: \xe9", b"X: \x7f", b": x", b"X : y", b"Sec-WebSocket-Key: k"),
    b"X: " + b"x" * 120,
]


@given(st.sampled_from(UPGRADE_LINES), st.lists(st.sampled_from(UPGRADE_FIELDS), max_size=7))
def test_an_upgrade_is_the_same_by_the_fast_path_whatever_its_headers(
    line: bytes, fields: list[bytes]
) -> None:
    data = b"\r\n".join([line, b"Host: a", *fields, b"", b""])
    fast, full = RequestReader(LIMITS), RequestReader(LIMITS)
    plain = fast.request_fast(data)
    if plain is not None:
        assert [facts(plain)] == list(map(facts, full.feed(data)))
        assert (fast.upgraded, fast.rest) == (full.upgraded, full.rest) == (True, b"")


def test_an_upgrade_is_not_plain_where_websockets_are_not_served() -> None:
    reader = RequestReader(LIMITS, websockets=False)
    assert reader.request_fast(UPGRADE) is None
    (request,) = reader.feed(UPGRADE)
    assert isinstance(request, Request)
    assert not reader.upgraded


def test_an_upgrade_as_browsers_send_it_is_plain_to_see() -> None:
    assert RequestReader(LIMITS).request_fast(UPGRADE) is not None


# -- h11 as the other side ---------------------------------------------------------------

token = st.text(
    "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_!#$%&'*+.^`|~", min_size=1, max_size=12
)
text = st.binary(max_size=20).map(
    lambda raw: bytes(b for b in raw if (b >= 0x20 and b != 0x7F) or b == 0x09).strip()
)
fields = st.lists(
    st.tuples(token.map(lambda name: b"x-" + name.lower().encode()), text), max_size=5
)
targets = st.text("abcXYZ019-._~!$&'()*+,;=:@/?%[]", max_size=40).map(lambda s: b"/" + s.encode())


@st.composite
def sent_requests(draw: st.DrawFn) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, bytes]:
    """A request as h11's client sends it: method, target, headers, body, and its bytes."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=60), max_size=4))
    body = b"".join(pieces)
    framing = draw(
        st.sampled_from(["length", "chunked"] if body else ["none", "length", "chunked"])
    )
    headers = [(b"host", b"a"), *draw(fields)]
    if framing == "length":
        headers.append((b"content-length", b"%d" % len(body)))
    elif framing == "chunked":
        headers.append((b"transfer-encoding", b"chunked"))
    method = draw(st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS"]))
    target = draw(targets)
    client = h11.Connection(h11.CLIENT)
    sent = [client.send(h11.Request(method=method, target=target, headers=headers))]
    sent += [client.send(h11.Data(data=piece)) for piece in pieces]
    sent.append(client.send(h11.EndOfMessage()))
    return method, target, headers, body, b"".join(data or b"" for data in sent)


@given(st.lists(sent_requests(), max_size=4), cuts)
def test_what_h11_sends_is_what_is_read(
    requests: list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, bytes]],
    places: list[int],
) -> None:
    reader = RequestReader(HttpLimits())
    data = b"".join(sent for *_, sent in requests)

    events = [event for piece in pieces_of(data, places) for event in reader.feed(piece)]

    assert [
        (event.method.encode(), event.target, event.headers, event.body)
        for event in events
        if isinstance(event, Request)
    ] == [tuple(request) for *request, _ in requests]
    assert len(events) == len(requests)
    assert not reader.receiving


@given(
    status=st.sampled_from([200, 202, 400, 401, 404, 413, 503]),
    body=st.binary(max_size=100),
    headers=fields,
    keep_alive=st.booleans(),
    head_only=st.booleans(),
)
def test_h11_reads_what_is_answered(
    status: int,
    body: bytes,
    headers: list[tuple[bytes, bytes]],
    keep_alive: bool,
    head_only: bool,
) -> None:
    client = h11.Connection(h11.CLIENT)
    method = "HEAD" if head_only else "GET"
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())

    client.receive_data(
        response(status, body, headers=headers, keep_alive=keep_alive, head_only=head_only)
    )

    head = client.next_event()
    assert isinstance(head, h11.Response)
    assert head.status_code == status
    kept = [(name, value) for name, value in head.headers if name.startswith(b"x-")]
    assert kept == headers
    received = b""
    while isinstance(event := client.next_event(), h11.Data):
        received += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert received == (b"" if head_only else body)
    assert client.trailing_data == (b"", False)
    assert client.their_state is (h11.DONE if keep_alive else h11.MUST_CLOSE)
