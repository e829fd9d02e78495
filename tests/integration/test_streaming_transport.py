"""
Sessions over another transport than WebSockets, which lose their connections and go on.

The transport is in tests/transports/stream; the sessions are Pusher's, and know nothing of it.
"""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from heliograph.config.apps import Apps
from heliograph.config.settings import Config
from heliograph.engine.base import Engine
from heliograph.engine.testing.looped import LoopedEngine
from heliograph.engine.testing.state import SharedState
from heliograph.handler import Answer, AnswerReply, Handler
from heliograph.node.away import Away
from heliograph.node.dialect import Dialect
from heliograph.reply import Later
from heliograph.wire.http import Request
from tests.integration.rig import KEY, PATIENCE_S, Engines, Rig, parse
from tests.integration.stream_rig import (
    OPEN,
    Response,
    StreamClient,
    request,
    stream,
    streaming,
    until,
)
from tests.integration.test_http import HEALTH, wire
from tests.integration.test_metrics import scrape
from tests.transports.stream.handler import MOST_MESSAGES, StreamHandler
from tests.transports.stream.registration import StreamTransport
from tests.transports.stream.resumable import Terms

pytestmark = pytest.mark.interpreted  # the transport derives from net.client.Client

PING = {"event": "pusher:ping", "data": {}}

BOTH_WAYS = pytest.mark.parametrize("reset", [True, False], ids=["reset", "in order"])


def looped() -> Engine:
    texts = (f"text {number}" for number in count())
    return LoopedEngine(SharedState(time.monotonic, lambda: next(texts)), time.monotonic, "one")


async def members(rig: Rig, channel: str) -> list[str]:
    reply = await rig.request("GET", f"/channels/{channel}/users")
    return [user["id"] for user in json.loads(reply.body)["users"]]


# -- A session over a stream ---------------------------------------------------------------


async def test_a_stream_and_a_websocket_are_clients_of_one_channel() -> None:
    async with streaming() as rig, rig.client() as web, stream(rig) as one:
        await web.join("presence-p", "web")
        roster = json.loads((await one.subscribe("presence-p", "one"))["data"])
        assert roster["presence"]["ids"] == ["web", "one"]
        assert json.loads(await web.receive())["event"] == "pusher_internal:member_added"
        await rig.publish("x", "presence-p", "hello")
        assert (await one.receive())["data"] == "hello"
        assert json.loads(await web.receive())["event"] == "x"
        event = {"event": "client-y", "channel": "presence-p", "data": "{}"}
        await one.send(event)
        assert json.loads(await web.receive())["event"] == "client-y"
        await web.send("client-z", "{}", channel="presence-p")
        await one.expect("client-z")


async def test_a_stream_is_a_chunked_response_that_no_cache_keeps() -> None:
    async with streaming() as rig, stream(rig) as one:
        headers = one.response.headers
        assert one.response.status == 200
        assert headers["Transfer-Encoding"] == "chunked"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Type"] == "application/x-ndjson"
        assert headers["Connection"] == "close"
        assert "Date" in headers
        assert "Content-Length" not in headers


async def test_a_refused_client_reads_why_and_no_stream_begins() -> None:
    async with streaming() as rig:
        for target, code in ((f"/stream/{KEY}x?protocol=7", 4001), (f"/stream/{KEY}", 4008)):
            client = StreamClient(rig)
            await client.ask(target)
            await client.expect_closed(code)
        assert rig.server.node.connections == 0


async def test_messages_of_a_client_are_taken_in_their_order_or_not_at_all() -> None:
    async with streaming(max_message_bytes=1024) as rig, stream(rig) as one:
        subscribe = {"event": "pusher:subscribe", "data": {"channel": "c"}}
        assert (await one.send(subscribe, PING)).status == 204
        await one.expect("pusher_internal:subscription_succeeded", "pusher:pong")
        target = f"/stream/{one.id}/send"
        line = json.dumps(PING).encode() + b"\n"
        for body, status in (
            (line + b"x" * 1025, 413),
            (line * (MOST_MESSAGES + 1), 413),
            (line + b"\xff", 400),
        ):
            assert (await rig.fetch("POST", target, body)).status == status
        assert (await rig.fetch("POST", target + "x", line)).status == 404
        assert (await rig.fetch("POST", "/stream/nobody/send", line)).status == 404
        assert (await rig.fetch("GET", target)).status == 405
        assert (await rig.fetch("POST", target, line * MOST_MESSAGES)).status == 204
        await one.expect(*["pusher:pong"] * MOST_MESSAGES)


async def test_a_head_request_opens_no_stream() -> None:
    async with streaming() as rig, wire(rig) as one:
        await one.send(request("HEAD", OPEN) + HEALTH)
        assert (await one.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
        assert (await one.read_until(b"\r\n\r\nOK\n")).startswith(b"HTTP/1.1 200 ")
        assert rig.server.node.connections == 0


async def test_a_client_of_http_1_0_is_refused_since_it_knows_no_chunks() -> None:
    async with streaming() as rig, wire(rig) as one:
        await one.send(f"POST {OPEN} HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        reply = parse(await one.read_all())
        assert (reply.status, reply.headers["Upgrade"]) == (426, "HTTP/1.1")
        assert rig.server.node.connections == 0


async def test_a_body_that_nothing_reads_is_refused_before_it_has_arrived() -> None:
    async with streaming() as rig, wire(rig) as one:
        await one.send(f"POST {OPEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n".encode())
        assert parse(await one.read_all()).status == 413


# -- Lost, and resumed ---------------------------------------------------------------------


@BOTH_WAYS
async def test_a_stream_goes_on_with_what_was_published_meanwhile(reset: bool) -> None:
    async with streaming() as rig, stream(rig) as one:
        await one.subscribe("c")
        await rig.publish("before", "c")
        await one.expect("before")
        await one.lose(reset=reset)
        for name in ("first", "second"):
            await rig.publish(name, "c")
        await one.resume()
        await one.expect("first", "second")
        await rig.publish("after", "c")
        await one.expect("after")
        assert (await one.send(PING)).status == 204
        await one.expect("pusher:pong")
        assert rig.server.node.connections == 1


async def test_events_that_the_lost_connection_did_not_deliver_are_repeated() -> None:
    """It was written, and may even have arrived; the client says what it has."""
    async with streaming() as rig, rig.client() as web, stream(rig) as one:
        await web.subscribe("c")
        await one.subscribe("c")
        has = one.received
        for name in "abc":
            await rig.publish(name, "c")
            assert json.loads(await web.receive())["event"] == name
        await one.lose()
        await rig.publish("d", "c")
        one.received = has + 1
        await one.resume()
        await one.expect("b", "c", "d")


async def test_a_client_resumes_before_the_server_knows_that_its_connection_is_lost() -> None:
    """As after a change of networks: nothing says that the old connection is lost."""
    async with streaming() as rig, stream(rig) as one:
        await one.subscribe("c")
        before = one.response
        await rig.publish("a", "c")
        await one.expect("a")
        await one.resume()
        await rig.publish("b", "c")
        await one.expect("b")
        with pytest.raises((EOFError, ConnectionError)):
            await before.line()
        before.writer.transport.abort()
        await until(lambda: rig.server.context.sockets == 1)
        assert rig.server.node.connections == 1


async def test_a_member_stays_in_its_presence_channel_while_its_connection_is_lost() -> None:
    async with streaming() as rig, rig.client() as web, stream(rig) as one:
        await web.join("presence-p", "web")
        await one.subscribe("presence-p", "one")
        assert json.loads(await web.receive())["event"] == "pusher_internal:member_added"
        await one.lose()
        assert await members(rig, "presence-p") == ["web", "one"]
        await one.resume()
        await rig.publish("x", "presence-p")
        await one.expect("x")
        assert json.loads(await web.receive())["event"] == "x"  # and no member was removed


@BOTH_WAYS
async def test_a_session_that_is_not_resumed_in_time_ends(reset: bool) -> None:
    async with streaming(Terms(resume_s=0.3)) as rig, rig.client() as web, stream(rig) as one:
        await web.join("presence-p", "web")
        await one.subscribe("presence-p", "one")
        assert json.loads(await web.receive())["event"] == "pusher_internal:member_added"
        await one.lose(reset=reset)
        assert json.loads(await web.receive())["event"] == "pusher_internal:member_removed"
        assert await members(rig, "presence-p") == ["web"]
        assert rig.server.node.connections == 1
        await one.resume()
        await one.response.until_complete()
        assert one.response.status == 404


async def test_the_oldest_lost_stream_ends_beyond_the_limit() -> None:
    async with (
        streaming(Terms(most_away=2)) as rig,
        stream(rig) as a,
        stream(rig) as b,
        stream(rig) as c,
    ):
        for one in (a, b, c):
            await one.subscribe("c")
            await one.lose()
        assert rig.server.node.connections == 2
        await a.resume()
        await a.response.until_complete()
        assert a.response.status == 404
        await rig.publish("x", "c")
        for one in (b, c):
            await one.resume()
            await one.expect("x")


async def test_a_lost_client_with_too_many_events_is_closed_when_it_resumes() -> None:
    async with streaming(Terms(most_bytes=4096)) as rig, stream(rig) as one:
        await one.subscribe("presence-p", "one")
        await one.lose()
        for number in range(10):
            await rig.publish(str(number), "presence-p", "x" * 1000)
        assert await members(rig, "presence-p") == ["one"]
        await one.resume()
        await one.expect_closed(4200)
        assert rig.server.node.connections == 0
        assert await members(rig, "presence-p") == []


async def test_a_client_whose_messages_are_not_in_the_log_any_more_is_closed() -> None:
    async with streaming(Terms(most_bytes=4096)) as rig, stream(rig) as one:
        await one.subscribe("c")
        has = one.received
        for number in range(10):
            await rig.publish(str(number), "c", "x" * 1000)
            await one.expect(str(number))
        await one.lose()
        one.received = has
        await one.resume()
        await one.expect_closed(4200)
        assert rig.server.node.connections == 0


async def test_a_number_of_messages_that_cannot_be_is_refused_and_the_stream_stays() -> None:
    async with streaming() as rig, stream(rig) as one:
        await one.subscribe("c")
        for received in ("3", "-1", "x", "", "9" * 30):
            target = f"/stream/{one.id}/resume?received={received}"
            assert (await rig.fetch("POST", target)).status == 400
        await rig.publish("x", "c")
        await one.expect("x")


async def test_nothing_can_be_sent_while_the_connection_is_lost() -> None:
    """The client resumes, and sends it again: nothing of it was handled."""
    async with streaming() as rig, stream(rig) as one:
        subscribe = {"event": "pusher:subscribe", "data": {"channel": "c"}}
        await one.lose()
        assert (await one.send(subscribe)).status == 409
        await one.resume()
        await one.subscribe("c")


async def test_an_answer_of_the_engine_that_comes_while_the_connection_is_lost_is_held() -> None:
    async with streaming(make_engine=Engines.make) as rig, stream(rig) as one:
        engine = Engines.made
        assert engine is not None
        held: list[Any] = []
        original = engine._turn
        engine._turn = lambda ticks, channel: held.append((ticks, channel))  # type: ignore[method-assign]
        subscribe = {"event": "pusher:subscribe", "data": {"channel": "c"}}
        assert (await one.send(subscribe)).status == 204
        assert held
        await one.lose()
        engine._turn = original  # type: ignore[method-assign]
        for ticks, channel in held:
            engine._turn(ticks, channel)
        await rig.publish("x", "c")
        await one.resume()
        await one.expect("pusher_internal:subscription_succeeded", "x")


class Loss(Struct, frozen=True):
    """
    One loss of a connection: after how many events were published since the last one, and read.

    It is *noticed* where the server knows of it before the client comes back.
    """

    published: int
    read: int
    reset: bool
    noticed: bool


LOSSES = st.lists(
    st.builds(Loss, st.integers(0, 6), st.integers(0, 6), st.booleans(), st.booleans()),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@settings(max_examples=25)
@given(losses=LOSSES)
def test_every_event_arrives_once_and_in_order_after_a_lost_connection(
    losses: list[Loss], loop: Callable[[], asyncio.AbstractEventLoop], late: bool
) -> None:
    """Also where the engine answers on a later turn, so that its answers come meanwhile."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(receive_all(losses, late=late))


async def receive_all(losses: list[Loss], *, late: bool) -> None:
    names = (str(number) for number in count())
    published: list[str] = []
    received: list[str] = []
    async with streaming(make_engine=looped if late else None) as rig, stream(rig) as one:

        async def publish() -> None:
            published.append(next(names))
            await rig.publish(published[-1], "c")

        async def receive() -> None:
            received.append((await one.receive())["event"])

        await one.subscribe("c")
        for loss in losses:
            for _ in range(loss.published):
                await publish()
            for _ in range(min(loss.read, len(published) - len(received))):
                await receive()
            if loss.noticed:
                await one.lose(reset=loss.reset)
            elif loss.reset:
                one.reset()
            else:
                one.hang_up()
            await publish()
            await one.resume()
        while len(received) < len(published):
            await receive()
        assert received == published
        assert (await one.send(PING)).status == 204
        await one.expect("pusher:pong")  # and nothing before it


# -- Closed meanwhile ----------------------------------------------------------------------


async def test_a_client_terminated_while_lost_is_closed_when_it_resumes() -> None:
    async with streaming(terminate_code=4009) as rig, stream(rig) as one:
        await one.sign_in("ann")
        await one.lose()
        assert (await rig.request("POST", "/users/ann/terminate_connections")).status == 200
        assert rig.server.node.connections == 0
        await one.resume()
        await one.expect_closed(4009)
        await one.resume()
        await one.response.until_complete()
        assert one.response.status == 404  # it was read


async def test_a_client_whose_app_is_removed_meanwhile_reads_it_at_its_resumption() -> None:
    async with streaming() as rig, stream(rig) as one:
        await one.subscribe("c")
        await one.lose()
        rig.server.reload(replace(rig.server.config, apps=Apps([])))
        assert rig.server.node.connections == 0
        await one.resume()
        await one.expect_closed(4003)


async def test_a_client_learns_of_the_users_that_it_watches_what_changed_meanwhile() -> None:
    async with streaming(watchlist=True) as rig, stream(rig) as one, stream(rig) as other:
        await one.sign_in("ann", watchlist=["bob"])
        await one.expect("pusher_internal:watchlist_events")
        await one.lose()
        await other.sign_in("bob")
        await one.resume()
        message = await one.receive()
        assert message["event"] == "pusher_internal:watchlist_events"
        assert json.loads(message["data"])["events"] == [{"name": "online", "user_ids": ["bob"]}]


async def test_a_server_that_stops_ends_the_sessions_whose_connections_are_lost() -> None:
    """Their clients cannot come back to it, and it does not wait for them."""
    async with streaming(Terms(resume_s=60), shutdown_timeout=30) as rig, stream(rig) as one:
        await one.subscribe("presence-p", "one")
        await one.lose()
        node = rig.server.node
        assert node.connections == 1
        async with asyncio.timeout(PATIENCE_S):
            await rig.server.stop()
        assert node.connections == 0


async def test_a_connection_that_is_lost_while_the_server_stops_takes_its_session_along() -> None:
    async with streaming(shutdown_timeout=2) as rig, stream(rig) as one, stream(rig) as other:
        rig.server.context.begin_draining()
        await one.lose()
        assert rig.server.node.connections == 1
        await other.subscribe("c")


async def test_a_resumption_while_the_server_stops_is_refused() -> None:
    async with streaming() as rig, stream(rig) as one:
        await one.subscribe("c")
        await one.lose()
        rig.server.context.begin_draining()
        await one.resume()
        await one.expect_closed(4200)
        assert rig.server.node.connections == 1  # as it was: the drain closes it
        client = StreamClient(rig)
        await client.ask(OPEN)
        await client.expect_closed(4200)


# -- Limits --------------------------------------------------------------------------------


async def test_a_client_that_reads_its_stream_too_slowly_is_dropped_with_its_session() -> None:
    async with streaming(max_write_buffer=65536) as rig, rig.client() as web:
        await web.subscribe("c")
        one = StreamClient(rig)
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", rig.server.port))
        reader, writer = await asyncio.open_connection(sock=narrow, limit=4096)
        rig.writers.append(writer)
        writer.write(request("POST", OPEN))
        one.response = Response(reader, writer)
        await one.greeted()
        await one.subscribe("c")
        published = 0
        while not rig.server.context.slow_readers:
            assert published < 5000, "the slow reader was never dropped"
            await rig.publish(str(published), "c", "x" * 10_000)
            assert json.loads(await web.receive())["event"] == str(published)
            published += 1
        assert rig.server.node.connections == 1
        reply = await rig.fetch("POST", f"/stream/{one.id}/resume?received={one.received}")
        assert reply.status == 404


async def test_the_limit_on_messages_goes_on_over_a_resumption() -> None:
    """Ten seconds' worth may come at once: not again on each connection."""
    async with streaming(max_messages_per_second=2) as rig, stream(rig) as one:
        for _ in range(20):
            assert (await one.send(PING)).status == 204
            await one.expect("pusher:pong")
            if one.received == 10:
                await one.lose()
                await one.resume()
        await one.lose()
        await one.resume()
        assert (await one.send(PING, PING, PING, PING, PING)).status == 204
        while (message := await one.receive())["event"] == "pusher:pong":
            pass
        assert message["data"]["code"] == 4100
        await one.response.until_complete()
        assert rig.server.context.rate_limited_messages == 1
        assert rig.server.node.connections == 0


def has_connection(session: Any) -> bool:
    return not isinstance(session.peer, Away)


async def test_the_time_to_prove_an_identity_goes_on_over_a_resumption() -> None:
    patience: dict[str, Any] = {"authorized_connections_timeout": 2.0}
    async with streaming(**patience) as rig, stream(rig) as one, stream(rig) as user:
        await user.sign_in("ann")
        deadlines = []
        for client in (one, user):
            await client.lose()
            await client.resume()
            (session,) = [it for it in rig.server.node.sessions() if it.id == client.socket_id]
            await until(partial(has_connection, session))
            connection: Any = session.peer
            deadlines.append(connection._identify_by - connection._context.now())
        assert all(left < 2.0 for left in deadlines)
        await one.expect_closed(4009)
        assert (await user.send(PING)).status == 204
        await user.expect("pusher:pong")


async def test_a_client_that_answers_no_comment_is_closed_and_one_that_answers_stays() -> None:
    times: dict[str, Any] = {"ping_interval": 0.3, "pong_timeout": 0.3}
    async with streaming(**times) as rig, stream(rig) as silent, stream(rig) as one:

        async def answer() -> None:
            """Answer comments by requests without a message."""
            while True:
                assert await one.response.line() == b":"
                assert (await one.send()).status == 204

        answering = asyncio.create_task(answer())
        await silent.expect_closed(4201)
        assert silent.comments >= 1
        assert not answering.done()
        answering.cancel()
        assert rig.server.node.connections == 1


async def test_streams_count_for_the_limit_of_their_address() -> None:
    async with streaming(max_connections_per_ip=1) as rig, stream(rig) as one:
        client = StreamClient(rig)
        await client.ask(OPEN)
        error = await client.receive()
        assert error["data"]["message"] == "Over capacity: too many connections from your address"
        await one.lose()
        client.response.writer.transport.abort()
        await until(lambda: rig.server.context.sockets == 0)
        await one.resume()  # a lost connection does not count any more
        await until(lambda: rig.server.context.sockets == 1)


async def test_a_resumption_beyond_the_limit_of_an_address_leaves_the_session_as_it_is() -> None:
    async with streaming(max_connections_per_ip=1) as rig, stream(rig) as one:
        other = StreamClient(rig)
        other.id, other.received = one.id, one.received
        await other.resume()
        await other.expect_closed(4100)
        assert one.response.complete is False
        assert rig.server.node.connections == 1


async def test_a_client_for_which_there_is_no_room_reads_so_on_its_stream() -> None:
    async with streaming() as rig:
        room = rig.server.context.descriptors
        room.capacity = room._used()
        client = StreamClient(rig)
        await client.ask(OPEN)
        await client.expect_closed(4100)
        assert rig.server.context.refused_over_capacity == 1
        assert rig.server.node.connections == 0


# -- Requests before and behind a stream ---------------------------------------------------


async def test_a_stream_begins_when_earlier_requests_are_answered() -> None:
    async with streaming() as rig:
        client = StreamClient(rig)
        await client.ask(OPEN, before=HEALTH * 3)
        reader = client.response._reader
        for _ in range(3):
            assert (await reader.readuntil(b"\r\n\r\nOK\n")).startswith(b"HTTP/1.1 200 ")
        await client.greeted()


class Handlers(StreamTransport):
    """The transport, whose answers a test holds back; *asked* has what was asked for."""

    def __init__(self, *, late: Sequence[bytes] = ()) -> None:
        super().__init__()
        self.asked: list[bytes] = []
        self.resolve: list[Callable[[], None]] = []
        self._late = tuple(late)

    def handler(
        self, dialects: Sequence[Dialect], config: Config, otherwise: Handler
    ) -> StreamHandler:
        handler = super().handler(dialects, config, otherwise)
        answer = handler.handle

        def handle(request: Request) -> AnswerReply:
            self.asked.append(request.path)
            reply = answer(request)
            if not request.path.startswith(self._late) or isinstance(reply, Later):
                return reply
            later: Later[Answer] = Later()
            self.resolve.append(partial(later.resolve, reply))
            return later

        handler.handle = handle  # type: ignore[method-assign]
        return handler


async def test_a_stream_waits_for_the_answer_to_an_earlier_request() -> None:
    transport = Handlers(late=[b"/health"])
    async with streaming(transport=transport) as rig:
        client = StreamClient(rig)
        await client.ask(OPEN, before=HEALTH)
        await until(lambda: len(transport.asked) == 2)
        assert rig.server.node.connections == 0
        transport.resolve.pop()()
        assert await client.response._reader.readuntil(b"\r\n\r\nOK\n")
        await client.greeted()


async def test_a_stream_that_is_answered_later_begins_then() -> None:
    transport = Handlers(late=[b"/stream/"])
    async with streaming(transport=transport) as rig:
        client = StreamClient(rig)
        await client.ask(OPEN)
        await until(lambda: len(transport.resolve) == 1)
        assert rig.server.node.connections == 0
        transport.resolve.pop()()
        await client.greeted()


async def test_a_client_that_leaves_before_its_stream_begins_has_no_session() -> None:
    transport = Handlers(late=[b"/stream/"])
    async with streaming(transport=transport) as rig:
        client = StreamClient(rig)
        await client.ask(OPEN)
        await until(lambda: len(transport.resolve) == 1)
        client.reset()
        await until(lambda: not rig.server.context.http_connections)
        transport.resolve.pop()()
        assert rig.server.node.connections == 0
        assert rig.server.context.sockets == 0


async def test_a_request_behind_a_stream_is_not_handled() -> None:
    transport = Handlers()
    async with streaming(transport=transport) as rig:
        client = StreamClient(rig)
        target = rig.signed("GET", "/apps/3/channels")
        behind = request("GET", target) * 20
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
        rig.writers.append(writer)
        writer.write(request("POST", OPEN) + behind)
        client.response = Response(reader, writer)
        await client.greeted()
        writer.write(behind)
        await client.subscribe("c")
        await rig.publish("x", "c")
        await client.expect("x")
        assert b"/apps/3/channels" not in transport.asked


async def test_a_stream_begins_when_the_client_has_read_the_answers_before_it() -> None:
    """16 KiB of unsent answers are as much as a stream may begin with."""
    transport = Handlers()
    async with streaming(transport=transport, max_publishes_per_second=0) as rig:
        subscriber = StreamClient(rig)
        await subscriber.open()
        for number in range(400):
            await subscriber.send(
                {"event": "pusher:subscribe", "data": {"channel": f"{number:0>150}"}}
            )
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", rig.server.port))
        reader, writer = await asyncio.open_connection(sock=narrow, limit=1 << 20)
        rig.writers.append(writer)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        lists = 100
        target = rig.signed("GET", "/apps/3/channels")
        writer.write(request("GET", target) * lists + request("POST", OPEN))
        await until(lambda: len(rig.server.context.backlog) == 1)
        assert rig.server.node.connections == 1
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE_S * 2):
            for _ in range(lists):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
        client = StreamClient(rig)
        client.response = Response(reader, writer)
        await client.greeted()
        assert rig.server.node.connections == 2


# -- What else a server does with requests -------------------------------------------------


async def test_streams_are_counted_as_requests_by_their_routes() -> None:
    async with streaming(metrics=True) as rig, stream(rig) as one:
        await one.subscribe("c")
        await one.lose()
        await one.resume()
        await rig.publish("x", "c")
        await one.expect("x")
        await rig.fetch("POST", "/stream/nobody/resume?received=0")
        found = await scrape(rig)

        def number(route: str, status: int) -> float:
            labels = (("route", route), ("status", str(status)))
            return found["heliograph_api_requests_total", labels]

        assert number("/stream/*", 200) == 1
        assert number("/stream/*/send", 204) == 1
        assert number("/stream/*/resume", 200) == 1
        assert number("/stream/*/resume", 404) == 1


SITE = "https://app.example.com"


@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("options", [{}, {"pusher_api_port": 0}], ids=["one port", "two ports"])
async def test_a_page_of_an_allowed_site_may_read_a_stream(
    options: dict[str, Any], late: bool
) -> None:
    transport = Handlers(late=[b"/stream/"] if late else ())
    async with streaming(transport=transport, cors_allowed_origins=SITE, **options) as rig:
        for origin, allowed in ((SITE, SITE), ("https://example.org", None)):
            client = StreamClient(rig)
            await client.ask(OPEN, f"Origin: {origin}")
            if late:
                await until(lambda: len(transport.resolve) == 1)
                transport.resolve.pop()()
            await client.greeted()
            assert client.response.headers.get("Access-Control-Allow-Origin") == allowed
            assert client.response.headers["Vary"] == "Origin"


async def test_a_page_of_an_allowed_site_may_resume_a_stream() -> None:
    async with streaming(cors_allowed_origins=SITE) as rig, stream(rig, f"Origin: {SITE}") as one:
        await one.subscribe("c")
        await one.lose()
        await rig.publish("x", "c")
        await one.resume(f"Origin: {SITE}")
        await one.expect("x")
        assert one.response.headers["Access-Control-Allow-Origin"] == SITE


async def test_without_allowed_sites_a_stream_has_no_header_for_pages() -> None:
    async with streaming() as rig, stream(rig, f"Origin: {SITE}") as one:
        assert not [name for name in one.response.headers if name.startswith("Access-Control")]


async def test_a_port_for_the_http_api_alone_has_no_streams() -> None:
    async with streaming(pusher_api_port=0) as rig:
        assert (await rig.fetch("POST", OPEN, port=rig.server.api_port)).status == 404


async def test_streams_are_below_the_prefix_of_the_server() -> None:
    async with streaming(path_prefix="/live") as rig:
        client = StreamClient(rig)
        await client.open(f"/live{OPEN}")
        assert (await rig.fetch("POST", f"/live/stream/{client.id}/send")).status == 204
        assert (await rig.fetch("POST", OPEN)).status == 404
