"""
Refusals through the fast paths, once they are warm.

A server remembers the paths and headers of publishers, the handshakes of clients, and its last
answer. A request in the same words as one that was served is refused as on a server that remembers
nothing: to the letter.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.client.signing import body_md5
from heliograph.config.apps import App, AppKey, Apps
from heliograph.errors import ClientError
from heliograph.net.handshake import MAX_REMEMBERED, MAX_REMEMBERED_BYTES, Handshake, Upgrades
from heliograph.net.http import HttpConnection
from heliograph.net.pages import Pages
from heliograph.protocols.pusher import messages, refusals
from heliograph.protocols.pusher.api.routes import Routes
from heliograph.wire.http import HttpLimits, Request, RequestReader
from heliograph.wire.responses import Response, response, text
from heliograph.wire.websocket import HandshakeRefused, check_handshake
from tests.integration.rig import APP_ID, KEY, SECRET, Rig, serving
from tests.integration.test_http import HEALTH, SAMPLE_KEY, UPGRADE, Wire, wire

PAGES = Pages("", lambda: "")
BODY = b'{"name":"n","channel":"c","data":"x"}'
OTHER = BODY.replace(b'"x"', b'"y"')
EVENTS = f"/apps/{APP_ID}/events"


def posted(target: str, body: bytes = BODY) -> bytes:
    """A POST whose headers are the same whatever it asks for."""
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
        target.encode(),
        len(body),
        body,
    )


def good(rig: Rig) -> bytes:
    return posted(rig.signed("POST", EVENTS, BODY))


async def answer(one: Wire) -> bytes:
    """Read one answer, and leave its date out."""
    head = await one.read_until(b"\r\n\r\n")
    length = re.search(rb"Content-Length: ([0-9]+)", head)
    assert length is not None
    body = await one.reader.readexactly(int(length[1]))
    return re.sub(rb"Date: [^\r]+\r\n", b"", head) + body


async def ask(rig: Rig, *requests: bytes) -> list[bytes]:
    """Make requests one after the other on one connection."""
    async with wire(rig) as one:
        answers = []
        for request in requests:
            await one.send(request)
            answers.append(await answer(one))
        return answers


def configure(rig: Rig, **changes: Any) -> None:
    """Change the one app, as a reload would."""
    tenant = rig.server.node.tenant(APP_ID)
    assert tenant is not None
    rig.server.node.configure(Apps([replace(tenant.app, **changes)]))


# -- Publishers ------------------------------------------------------------------------------

STAMP = str(int(time.time()) + 500)
"""Ahead, for good during the whole run: it is taken when the tests are collected."""

BAD: dict[str, tuple[Callable[[Rig], bytes], bytes]] = {
    "a wrong signature": (
        lambda rig: posted(
            rig.signed("POST", EVENTS, BODY, auth_signature="0" * 64, auth_timestamp=STAMP)
        ),
        b"401",
    ),
    "no signature": (
        lambda rig: posted(
            rig.signed("POST", EVENTS, BODY, auth_signature=None, auth_timestamp=STAMP)
        ),
        b"401",
    ),
    "another path": (
        lambda rig: posted(
            rig.signed("POST", EVENTS, BODY, auth_timestamp=STAMP).replace("events", "batch_events")
        ),
        b"401",
    ),
    "another app": (
        lambda rig: posted(rig.signed("POST", "/apps/77/events", BODY)),
        b"404",
    ),
    "an unknown key": (
        lambda rig: posted(rig.signed("POST", EVENTS, BODY, auth_key="nobody")),
        b"400",
    ),
    "another version": (
        lambda rig: posted(rig.signed("POST", EVENTS, BODY, auth_version="1.1")),
        b"401",
    ),
    "another body": (
        lambda rig: posted(rig.signed("POST", EVENTS, BODY), OTHER),
        b"401",
    ),
    "another checksum": (
        lambda rig: posted(rig.signed("POST", EVENTS, BODY, body_md5=body_md5(OTHER))),
        b"401",
    ),
    "no checksum": (
        lambda rig: posted(rig.signed("POST", EVENTS, BODY, body_md5=None)),
        b"401",
    ),
    "a body that is no event": (
        lambda rig: posted(rig.signed("POST", EVENTS, b"x" * len(BODY)), b"x" * len(BODY)),
        b"400",
    ),
    "another method": (
        lambda rig: good(rig).replace(b"POST", b"PUT", 1),
        b"405",
    ),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_request_among_good_ones_in_the_same_words_is_refused_as_alone(
    what: str,
) -> None:
    bad, status = BAD[what]
    async with serving() as cold:
        (expected,) = await ask(cold, bad(cold))
    assert expected.startswith(b"HTTP/1.1 " + status)
    async with serving() as warm, warm.client() as client:
        await client.subscribe("c")
        await ask(warm, good(warm), good(warm))
        answers = await ask(warm, good(warm), bad(warm), good(warm), bad(warm))
        assert answers == [answers[0], expected] * 2
        assert answers[0].startswith(b"HTTP/1.1 200 ")
        # And nobody heard of it.
        await client.expect(*['{"event":"n","channel":"c","data":"x"}'] * 4)
        await client.expect_nothing_before_pong()


@pytest.mark.parametrize("offset", [-600, 660])  # ahead: the clock goes on meanwhile
async def test_a_timestamp_expires_for_a_publisher_that_is_known(offset: int) -> None:
    async with serving() as warm:
        stamp = str(int(time.time()) + offset)
        stale = posted(warm.signed("POST", EVENTS, BODY, auth_timestamp=stamp))
        answers = await ask(warm, good(warm), stale, good(warm))
        assert [one[9:12] for one in answers] == [b"200", b"401", b"200"]
        assert b"Timestamp expired: Given timestamp (" in answers[1]


RECONFIGURED: dict[str, tuple[dict[str, Any], bytes]] = {
    "the app is switched off": ({"enabled": False}, b"403"),
    "the key is another": ({"keys": (AppKey("another", SECRET),)}, b"400"),
    "the secret is another": ({"keys": (AppKey(KEY, "another"),)}, b"401"),
    "names are shorter": ({"max_channel_name_length": 0, "max_event_name_length": 0}, b"200"),
    "events are smaller": ({"max_event_bytes": 1}, b"200"),
}


@pytest.mark.parametrize("what", RECONFIGURED)
async def test_a_known_publisher_is_answered_as_the_app_is_configured_now(what: str) -> None:
    changes, status = RECONFIGURED[what]
    async with serving() as cold:
        request = good(cold)
        configure(cold, **changes)
        (expected,) = await ask(cold, request)
    async with serving() as warm, wire(warm) as one:
        await one.send(request)
        assert (await answer(one)).startswith(b"HTTP/1.1 200 ")
        configure(warm, **changes)
        await one.send(request)
        assert await answer(one) == expected
    assert expected.startswith(b"HTTP/1.1 " + status)


async def test_a_known_publisher_is_held_to_its_rate() -> None:
    async with serving(max_publishes_per_second=2) as rig:
        answers = await ask(rig, *[good(rig)] * 4)
        assert [one[9:12] for one in answers] == [b"200", b"200", b"429", b"429"]
        assert b"Retry-After: 1\r\n" in answers[2]


async def test_known_headers_make_no_request_of_1_1_good_without_a_host() -> None:
    async with serving() as rig:
        old = good(rig).replace(b"HTTP/1.1\r\nHost: x", b"HTTP/1.0\r\nConnection: keep-alive", 1)
        new = old.replace(b"HTTP/1.0", b"HTTP/1.1", 1)
        for _ in range(2):
            first, second = await ask(rig, old, new)
            assert first.startswith(b"HTTP/1.1 200 ")
            assert second.startswith(b"HTTP/1.1 400 ")


# -- Answers ---------------------------------------------------------------------------------


def requests(rig: Rig) -> dict[str, bytes]:
    """Requests of every kind that leave the connection open."""
    return {
        "a page": HEALTH,
        "the head of a page": HEALTH.replace(b"GET", b"HEAD"),
        "a page of HTTP/1.0": b"GET /up HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "nothing that is there": HEALTH.replace(b"/health", b"/nothing"),
        "a good event": good(rig),
        "a bad event": posted(rig.signed("POST", EVENTS, OTHER, auth_timestamp=STAMP), BODY),
        "an event of HTTP/1.0": good(rig).replace(
            b"HTTP/1.1", b"HTTP/1.0\r\nConnection: keep-alive", 1
        ),
        "a list": b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
        % rig.signed("GET", f"/apps/{APP_ID}/channels").encode(),
        "another method": HEALTH.replace(b"GET", b"POST"),
    }


async def test_a_request_alone_is_answered_as_among_others_and_in_pieces() -> None:
    async with serving() as rig:
        for _ in range(2):  # cold and warm
            for what, request in requests(rig).items():
                async with wire(rig) as one:
                    await one.send(request)
                    alone = await head_or_answer(one, request)
                    assert (b"Connection: keep-alive\r\n" in alone) is (b"HTTP/1.0" in request)
                    await one.send(HEALTH + request + HEALTH)
                    health = await answer(one)
                    assert await head_or_answer(one, request) == alone, what
                    assert await answer(one) == health
                    for byte in request:
                        await one.send(bytes([byte]))
                    assert await head_or_answer(one, request) == alone, what
                    await one.send(request)
                    assert await head_or_answer(one, request) == alone, what


class Dates:
    """Seconds that pass when the test says so."""

    second = b"1"

    def now(self) -> bytes:
        return self.second


class Recorder:
    """A transport that remembers what was written to it, and whether the connection goes on."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@st.composite
def any_request(draw: st.DrawFn, rig: Rig) -> bytes:
    """A request that is answered at once, good or bad, which may be the last of its connection."""
    body = draw(st.sampled_from([BODY, OTHER, b"", b"{", b"x" * 300]))
    path = draw(st.sampled_from([EVENTS, f"/apps/{APP_ID}/batch_events", "/apps/77/events"]))
    signed = rig.signed("POST", path, draw(st.sampled_from([body, BODY])), auth_timestamp=STAMP)
    target = draw(st.sampled_from([signed, signed, "/health", "/nothing", path, "*", "no path"]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0", "2.0"]))
    lines = [
        f"{draw(st.sampled_from(['POST', 'POST', 'GET', 'HEAD', 'PUT']))} {target} HTTP/{version}",
        *draw(st.sampled_from([["Host: x"], ["Host: x"], []])),
        f"Content-Length: {len(body)}",
        *draw(
            st.lists(
                st.sampled_from(
                    ["Connection: close", "Connection: keep-alive", "Origin: https://a.example"]
                ),
                max_size=1,
            )
        ),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Nothing(dict[Any, Any]):
    """Keeps nothing."""

    def __setitem__(self, _key: Any, _value: Any, /) -> None:
        """Forget it."""


async def test_a_request_alone_gets_the_same_answer_as_among_others() -> None:
    """`_answer_alone`, `request_fast` and `Routes._answer_fast`, against the full way."""
    async with serving() as rig:
        context = rig.server.context
        dates: Any = Dates()
        context.answers.date = dates.now
        routes = Routes(rig.server.node, prefix="", now_s=time.time, otherwise=PAGES)
        forgetful = Routes(rig.server.node, prefix="", now_s=time.time, otherwise=PAGES)
        forgetful._posts = Nothing()  # so `_answer_fast` never has an answer

        def answered(reads: list[bytes], by: Routes) -> tuple[bytes, bool]:
            connection = HttpConnection(context, by, upgrades=rig.server.upgrades)
            transport: Any = Recorder()
            connection.connection_made(transport)
            for data in reads:
                connection.data_received(data)
            closed = transport.closed
            connection.connection_lost(None)
            return transport.written, closed

        ways = set()

        @given(st.lists(st.just(good(rig)) | any_request(rig), min_size=1, max_size=4))
        @settings(deadline=None)
        def check(story: list[bytes]) -> None:
            # A page first: nothing that comes in one read with others is alone.
            written, closed = answered([HEALTH, *story], routes)
            assert (written, closed) == answered([b"".join([HEALTH, *story])], forgetful)
            ways.add("it goes on" if not closed else "it ends")
            ways.add("an event is taken" if written.count(b" 200 OK") > 1 else "none is")

        check()
    assert len(ways) == 4


async def head_or_answer(one: Wire, request: bytes) -> bytes:
    if not request.startswith(b"HEAD"):
        return await answer(one)
    return re.sub(rb"Date: [^\r]+\r\n", b"", await one.read_until(b"\r\n\r\n"))


async def test_the_answer_that_is_kept_is_the_one_that_would_be_made() -> None:
    """Whatever was answered before, in this second or an earlier one, drained or not."""
    results = [
        Response(200, b"{}"),
        Response(200, b"{}"),
        text(401, "no", headers=((b"X", b"y"),)),
        Response(202, b"", "text/x"),
        Response(204, b""),
    ]

    @given(st.lists(st.sampled_from([*range(len(results)), "a second", "drain"]), max_size=12))
    @settings(deadline=None)
    def check(story: list[int | str]) -> None:
        context.answers.closing = False
        context.answers._last = (None, b"", b"")
        dates.second = b"1"
        for step in story:
            if step == "a second":
                dates.second += b"1"
            elif step == "drain":
                context.begin_draining()
            else:
                result = results[int(step)]
                assert context.answers.usual(result) == response(
                    result.status,
                    result.body,
                    content_type=result.content_type,
                    headers=result.headers,
                    keep_alive=not context.answers.closing,
                    date=dates.second,
                )

    async with serving() as rig:
        context = rig.server.context
        dates: Any = Dates()
        context.answers.date = dates.now
        check()


# -- Clients ---------------------------------------------------------------------------------

NOT_OURS = refusals.unsupported_protocol()

WORDS = UPGRADE.replace(b"\r\n\r\n", b"\r\nOrigin: https://example.com\r\n\r\n")


@asynccontextmanager
async def connected(rig: Rig, words: bytes = WORDS) -> AsyncIterator[Wire]:
    """A client that was let in, with these words."""
    async with wire(rig) as one:
        await one.send(words)
        assert b"connection_established" in await one.read_until(b"socket_id")
        yield one


async def refused(rig: Rig, words: bytes = WORDS) -> bytes:
    """Everything that a client is sent which asks in these words, until it is closed."""
    async with wire(rig) as one:
        await one.send(words)
        received = await one.read_until(b"}}")
        await one.send(b"\x88\x80\0\0\0\0")
        return received + await one.read_all()


def disable(rig: Rig) -> None:
    configure(rig, enabled=False)


def other_key(rig: Rig) -> None:
    configure(rig, keys=(AppKey("another", SECRET),))


def remove(rig: Rig) -> None:
    rig.server.node.configure(Apps([App(id="9", name="another", keys=(AppKey("k9", "s9"),))]))


def other_origin(rig: Rig) -> None:
    configure(rig, allowed_origins=("example.org",))


def fill(rig: Rig) -> None:
    configure(rig, max_connections=1)


def drain(rig: Rig) -> None:
    rig.server.context.begin_draining()


NOT_LET_IN: dict[str, tuple[Callable[[Rig], None], int]] = {
    "the app is switched off": (disable, 4003),
    "the key is no app's": (other_key, 4001),
    "the app was removed": (remove, 4001),
    "the page is of another site": (other_origin, 4009),
    "the app is full": (fill, 4004),
    "the server drains": (drain, 4200),
}


@pytest.mark.parametrize("what", NOT_LET_IN)
async def test_a_client_in_known_words_is_refused_as_the_first_one_would_be(what: str) -> None:
    change, code = NOT_LET_IN[what]
    async with AsyncExitStack() as stack:
        cold = await stack.enter_async_context(serving())
        warm = await stack.enter_async_context(serving())
        # There is one client on each: in other words on the first, in the same on the second.
        await stack.enter_async_context(connected(cold, UPGRADE))
        await stack.enter_async_context(connected(warm))
        change(cold)
        change(warm)
        expected = await refused(cold)
        assert b'"code":%d' % code in expected
        assert b"\x88" in expected
        assert code.to_bytes(2, "big") in expected.rpartition(b"\x88")[2]
        assert b"connection_established" not in expected
        assert await refused(warm) == expected
        assert await refused(warm) == expected  # and what was refused is known now
        assert await refused(cold) == expected


async def test_a_client_in_known_words_is_let_in_again_once_it_may_be() -> None:
    async with serving() as rig:
        configure(rig, allowed_origins=("example.org",), enabled=False)
        for _ in range(2):
            assert b'"code":4003' in await refused(rig)
        configure(rig, enabled=True)
        for _ in range(2):
            assert b'"code":4009' in await refused(rig)
        configure(rig, allowed_origins=())
        for _ in range(2):
            async with connected(rig):
                pass


async def test_a_client_in_known_words_counts_for_its_address() -> None:
    async with serving(max_connections_per_ip=2) as rig, connected(rig), connected(rig):
        for _ in range(2):
            assert b"Over capacity: too many connections from your address" in await refused(rig)


async def test_newcomers_are_sent_away_at_once_while_the_server_drains() -> None:
    """Those that ask in one piece, in pieces, and behind another request."""
    async with serving() as rig, connected(rig) as stays:
        drain(rig)
        for pieces in ([WORDS], [WORDS[:30], WORDS[30:]], [WORDS.replace(b"Origin", b"X-Origin")]):
            async with wire(rig) as one:
                for piece in pieces:
                    await one.send(piece)
                    await asyncio.sleep(0)
                received = await one.read_until(b"}}")
                assert b"connection_established" not in received
                assert b'"code":4200,"message":"Please reconnect immediately"' in received
        assert rig.server.node.connections == 1
        await stays.send(b"\x89\x80\0\0\0\0")
        assert await stays.read_until(b"\x8a\x00")


async def test_few_and_short_handshakes_are_remembered_and_none_that_is_no_good() -> None:
    def words(number: int, length: int = 0) -> bytes:
        """A handshake with so many bytes at least."""
        filled = b"\r\nX: %d" % number
        return UPGRADE[:-4] + filled + b"x" * (length - len(UPGRADE) - len(filled)) + b"\r\n\r\n"

    async with serving() as rig:
        memory = Upgrades(rig.server.upgrades._dialects)

        def remember(head: bytes, *, refusal: ClientError | None = None) -> bool:
            (request,) = RequestReader(HttpLimits()).feed(head)
            assert isinstance(request, Request)
            handshake = memory.handshake(request)
            assert handshake is not None
            assert (handshake.opening.refusal is None) is (refusal is None)
            memory.remember(head, handshake)
            found = memory.answer_fast(head)
            assert found is None or (found.handshake, found.key) == (handshake, SAMPLE_KEY)
            return found is not None

        for number in range(MAX_REMEMBERED + 3):
            assert remember(words(number))
            assert len(memory._known) <= MAX_REMEMBERED
        assert remember(words(0, MAX_REMEMBERED_BYTES))
        assert not remember(words(1, MAX_REMEMBERED_BYTES + 1))
        assert not remember(UPGRADE.replace(b"protocol=7", b"protocol=1"), refusal=NOT_OURS)
        assert not remember(UPGRADE.replace(b"/app/", b"/nothing/"), refusal=NOT_OURS)
        assert not remember(UPGRADE.replace(SAMPLE_KEY, b"short"))
        assert not remember(UPGRADE.replace(SAMPLE_KEY, SAMPLE_KEY[:-1] + b"!"))

        assert remember(UPGRADE)
        # Another key is found, and judged; other words around it are not.
        another = b"x3JJHMbDL1EzLkh9GBhXDw=="
        found = memory.answer_fast(UPGRADE.replace(SAMPLE_KEY, another))
        assert found is not None
        assert found.key == another
        for other in (
            UPGRADE.replace(SAMPLE_KEY, another[:-1] + b"!"),
            UPGRADE.replace(SAMPLE_KEY, another[:-1]),
            UPGRADE.replace(b"Host: x", b"Host: y"),
            UPGRADE + b"\x81",
            UPGRADE[:-1],
            UPGRADE[:-4] + b"\r\nOrigin: https://example.com\r\n\r\n",
            UPGRADE.replace(b"protocol=7", b"protocol=6"),
            b"",
        ):
            assert memory.answer_fast(other) is None


KEYS = st.sampled_from([SAMPLE_KEY, b"x3JJHMbDL1EzLkh9GBhXDw==", b"short", SAMPLE_KEY[:-1] + b"!"])
LINES = st.sampled_from(
    [
        *(b"Origin: https://a.example", b"Origin: https://b.example", b"Host: z"),
        *(b"Sec-WebSocket-Protocol: pusher-channels-protocol-7", b"Sec-WebSocket-Version: 8"),
        *(b"Sec-WebSocket-Extensions: permessage-deflate", b"Sec-WebSocket-Key: " + SAMPLE_KEY),
        *(b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9", b"Bad line"),
        *(b"X: Sec-WebSocket-Key: " + SAMPLE_KEY, b"Content-Length: 1", b"Connection: close"),
    ]
)


@st.composite
def handshakes(draw: st.DrawFn) -> bytes:
    """A handshake in words of which many are the same, now and then with a fault."""
    head = UPGRADE.replace(SAMPLE_KEY, draw(KEYS))
    if draw(st.booleans()):
        head = head.replace(b"protocol=7", draw(st.sampled_from([b"protocol=5", b"protocol=1"])))
    lines = head.split(b"\r\n")
    for line in draw(st.lists(LINES, max_size=2)):
        lines.insert(draw(st.integers(1, len(lines) - 2)), line)
    head = b"\r\n".join(lines)
    if draw(st.integers(0, 5)) == 0:
        place = draw(st.integers(0, len(head) - 1))
        damage = draw(st.sampled_from([b"", b"x", b"\r\n", b":", b"\0"]))
        head = head[:place] + damage + head[place + 1 :]
    return head


def meaning(handshake: Handshake) -> tuple[object, ...]:
    opening = handshake.opening
    return (handshake.lane, handshake.end, opening.dialect, opening.key, opening.origin)


async def test_a_remembered_handshake_means_what_the_full_path_reads() -> None:
    """Whatever was asked for before: what is found would be accepted, and mean the same."""
    async with serving(enable_ws_compression=True) as rig:
        server = rig.server.upgrades

        @given(st.lists(handshakes(), min_size=2, max_size=6))
        @settings(deadline=None)
        def check(story: list[bytes]) -> None:
            memory = Upgrades(server._dialects, compression=server._compression)
            for head in [*story, *story]:
                read: tuple[Handshake, bytes] | None = None
                events = RequestReader(HttpLimits()).feed(head)
                if len(events) == 1 and isinstance(events[0], Request):
                    request = events[0]
                    with suppress(HandshakeRefused):
                        key = check_handshake(request.method, request.version, request.headers)
                        handshake = memory.handshake(request)
                        assert handshake is not None
                        read = handshake, key
                found = memory.answer_fast(head)
                if found is not None:
                    assert read is not None
                    assert read[0].opening.refusal is None
                    assert (meaning(found.handshake), found.key) == (meaning(read[0]), read[1])
                if read is not None:
                    memory.remember(head, read[0])

        check()


# -- The end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (refusals.reconnect(), 4200),
        (refusals.terminated(4009), 4009),
        (refusals.too_many_messages(), 4100),
        (ClientError("without a code", closes=True), 1000),
    ],
)
async def test_nothing_is_written_after_our_close_which_has_its_code(
    error: ClientError, code: int
) -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(UPGRADE)
        await one.read_until(b'120}"}')
        (session,) = rig.server.node.sessions()
        peer: Any = session.peer
        peer.close(messages.goodbye(error))
        for later in (peer.resume_writing, lambda: peer.send(b"{}"), peer.pause_writing):
            later()
            peer.send(b'{"event":"late"}')
            peer.write(b"\x81\x04late")
        peer.resume_writing()
        peer.write(b"\x81\x04late")
        peer.close(refusals.reconnect())
        # Not even a pong comes (RFC 6455 5.5.1), and nobody hears what else is said.
        for frame in (b"\x89\x80\0\0\0\0", b"\x81\x82\0\0\0\0{}", b"\x82\x80\0\0\0\0"):
            await one.send(frame)
            await asyncio.sleep(0)
        await one.send(b"\x88\x82\0\0\0\0" + code.to_bytes(2, "big"))
        received = await one.read_all()
        reason = error.message.encode()
        assert received.endswith(b"\x88%c%b%b" % (2 + len(reason), code.to_bytes(2, "big"), reason))
        assert received.count(b"\x88") == 1
        assert b"late" not in received


@pytest.mark.parametrize(
    ("close", "answered"),
    [
        (b"\x88\x80\0\0\0\0", b"\x88\x00"),
        (b"\x88\x82\0\0\0\0\x03\xe8", b"\x88\x02\x03\xe8"),
        (b"\x88\x82\0\0\0\0\x03\xe9", b"\x88\x02\x03\xe9"),
        (b"\x88\x85\0\0\0\0\x0f\xa0bye", b"\x88\x02\x0f\xa0"),
        (b"\x88\x81\0\0\0\0\x03", b"\x88"),
        (b"\x88\x82\0\0\0\0\x03\xed", b"\x88"),
    ],
)
async def test_a_close_is_answered_with_the_code_that_it_had(close: bytes, answered: bytes) -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(UPGRADE)
        await one.read_until(b'120}"}')
        await one.send(close + b"\x89\x80\0\0\0\0")
        received = await one.read_all()
        if len(answered) > 1:
            assert received == answered
        else:  # what is no Close is a breach of the protocol, and that has its own code
            assert received[:1] == b"\x88"
            assert received[2:4] == (1002).to_bytes(2, "big")
