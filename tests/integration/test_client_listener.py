"""The listener of `heliograph.client`, at real servers and at some that misbehave."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from heliograph.client import listener as module
from heliograph.client.errors import (
    Disconnected,
    InvalidAnswer,
    NoGreeting,
    NotUpgraded,
    Refused,
    Unreachable,
)
from heliograph.client.listener import Listener, ReceivedEvent
from heliograph.client.signing import Credentials
from heliograph.wire.websocket import accept_key
from tests import certificates
from tests.conftest import StartServer
from tests.integration.rig import KEY, PATIENCE_S, SECRET, Rig, serving

APP = Credentials(KEY, SECRET)


@asynccontextmanager
async def connected(rig: Rig, **options: Any) -> AsyncIterator[Listener]:
    credentials = options.pop("credentials", APP)
    async with await Listener.connect(rig.url, credentials, **options) as listener:
        yield listener


async def received(listener: Listener) -> ReceivedEvent:
    async with asyncio.timeout(PATIENCE_S):
        return await listener.receive()


async def ended(listener: Listener) -> Disconnected:
    async with asyncio.timeout(PATIENCE_S):
        return await listener.closed()


# -- Connecting ------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [False, True])
async def test_a_listener_receives_the_events_of_its_channels(compression: bool) -> None:
    async with serving() as rig, connected(rig, compression=compression) as listener:
        assert listener.activity_timeout_s == 120
        assert await listener.subscribe("a") == {}
        assert await listener.subscribe("private-b") == {}
        await rig.publish("n", "a", "text")
        await rig.publish("n", "elsewhere", "text")
        await rig.publish("n", "private-b", '{"x":1}')
        assert await received(listener) == ReceivedEvent("n", "a", "text")
        event = await received(listener)
        assert (event.channel, event.json()) == ("private-b", {"x": 1})


async def test_a_listener_names_itself_and_its_page() -> None:
    async with serving(allowed_origins="https://shop.example") as rig:
        async with connected(rig, origin="https://shop.example", client="a b") as listener:
            assert listener.socket_id
        for origin in (None, "https://other.example"):
            with pytest.raises(Refused) as refused:
                await Listener.connect(rig.url, APP, origin=origin)
            assert refused.value.code == 4009


async def test_an_unknown_key_is_refused_with_its_code() -> None:
    async with serving() as rig:
        with pytest.raises(Refused, match="4001 App key unknown not in this cluster") as refused:
            await Listener.connect(rig.url, Credentials("unknown", ""))
    assert refused.value.code == 4001


async def test_a_server_with_tls_is_verified(tmp_path: Path) -> None:
    pair = certificates.make(tmp_path, "pair")
    async with serving(path_prefix="/realtime", **pair.options) as rig:
        url = f"https://localhost:{rig.server.port}/realtime/"
        async with await Listener.connect(url, APP, ssl=pair.trusting()) as listener:
            assert await listener.subscribe("c") == {}
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await Listener.connect(url, APP)


async def test_a_port_that_nobody_listens_on_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        await Listener.connect("ws://127.0.0.1:1", APP)


# -- Subscriptions and users -----------------------------------------------------------------


async def test_members_of_a_presence_channel_come_and_go() -> None:
    async with serving() as rig, connected(rig) as ann, connected(rig) as bob:
        roster = await ann.subscribe("presence-c", {"user_id": "ann", "user_info": {"name": "A"}})
        assert roster == {"presence": {"count": 1, "ids": ["ann"], "hash": {"ann": {"name": "A"}}}}
        roster = await bob.subscribe("presence-c", '{"user_id":"bob"}')
        assert roster["presence"]["ids"] == ["ann", "bob"]
        await bob.unsubscribe("presence-c")
        added, removed = await received(ann), await received(ann)
        assert (added.name, added.json()["user_id"]) == ("pusher_internal:member_added", "bob")
        assert (removed.name, removed.json()) == (
            "pusher_internal:member_removed",
            {"user_id": "bob"},
        )


async def test_a_refused_signature_leaves_the_connection_usable() -> None:
    wrong = Credentials(KEY, "another")
    async with serving() as rig, connected(rig, credentials=wrong) as listener:
        for channel, data in (("private-c", None), ("presence-c", {"user_id": "u"})):
            with pytest.raises(Refused, match="Invalid signature: Expected HMAC SHA256") as refused:
                await listener.subscribe(channel, data)
            assert refused.value.code is None
        with pytest.raises(Refused, match="Invalid signature"):
            await listener.sign_in({"id": "ann"})
        assert await listener.subscribe("c") == {}


async def test_an_answer_belongs_to_the_subscription_that_it_names() -> None:
    async with serving(subscription_errors=True) as rig, connected(rig) as listener:
        answers = await asyncio.gather(
            *(listener.subscribe(name) for name in ("a", "a b", "private-c", "a", "cache-d")),
            return_exceptions=True,
        )
        assert answers[0] == answers[2] == answers[4] == {}
        assert [str(answers[at]) for at in (1, 3)] == [
            "Invalid channel name: a b",
            "Existing subscription to channel a",
        ]


async def test_a_subscription_that_is_given_up_changes_nothing_for_the_next_one() -> None:
    async with serving() as rig, connected(rig) as listener:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await listener.subscribe("a")
        assert await listener.subscribe("b") == {}


async def test_client_events_reach_the_others_with_the_name_of_the_user() -> None:
    async with serving() as rig, connected(rig) as ann, connected(rig) as bob:
        for listener, user_id in ((ann, "ann"), (bob, "bob")):
            await listener.subscribe("presence-c", {"user_id": user_id})
        await bob.trigger("presence-c", "client-x", {"a": 1})
        assert (await received(ann)).name == "pusher_internal:member_added"
        event = await received(ann)
        assert (event.name, event.json(), event.user_id) == ("client-x", {"a": 1}, "bob")


async def test_an_error_that_answers_nothing_is_an_event() -> None:
    async with serving(max_client_events_per_second=1) as rig, connected(rig) as listener:
        await listener.subscribe("private-c")
        for _ in range(2):
            await listener.trigger("private-c", "client-x", "")
        event = await received(listener)
        assert (event.name, event.json()["code"]) == ("pusher:error", 4301)


async def test_events_of_a_channel_end_with_its_subscription() -> None:
    async with serving() as rig, connected(rig) as listener:
        await listener.subscribe("c")
        await rig.publish("n", "c", "before")
        await listener.unsubscribe("c")
        await listener.ping()
        await rig.publish("n", "c", "after")
        await listener.subscribe("cache-d")
        assert (await received(listener)).data == "before"
        assert (await received(listener)).name == "pusher:cache_miss"


# -- The end of a connection -----------------------------------------------------------------


async def test_a_server_that_stops_says_so_with_a_code() -> None:
    async with serving() as rig, connected(rig) as listener:
        await listener.subscribe("c")
        await rig.publish("n", "c", "the last one")
        await rig.server.stop()
        assert (await ended(listener)).code == 4200
        assert [(await listener.receive()).name for _ in range(2)] == ["n", "pusher:error"]
        with pytest.raises(Disconnected, match="4200 Please reconnect immediately"):
            await anext(aiter(listener))
        for attempt in (listener.receive(), listener.ping(), listener.subscribe("d")):
            with pytest.raises(Disconnected, match="4200"):
                await attempt


async def test_a_server_that_is_killed_ends_the_connection_without_a_code(
    start_server: StartServer,
) -> None:
    server = start_server()
    async with await Listener.connect(server.url, APP) as listener:
        await asyncio.to_thread(server.kill)
        assert (await ended(listener)).code is None
    await asyncio.to_thread(server.start)


async def test_the_events_of_a_listener_that_closes_end() -> None:
    async with serving() as rig:
        listener = await Listener.connect(rig.url, APP)
        await listener.subscribe("c")
        await rig.publish("n", "c", "one")
        await listener.ping()
        await listener.close()
        await listener.close()
        assert [event.data async for event in listener] == ["one"]
        assert (await ended(listener)).code == 1000


async def test_a_user_who_is_terminated_is_told_the_code() -> None:
    async with serving() as rig, connected(rig) as listener:
        await listener.sign_in({"id": "ann"})
        reply = await rig.request("POST", "/users/ann/terminate_connections", {})
        assert reply.status == 200
        assert (await ended(listener)).code == 4009


# -- Pings -----------------------------------------------------------------------------------


async def test_pings_of_the_server_are_answered_and_recorded() -> None:
    """Without answers the server closes the connection."""
    async with serving(ping_interval=0.2, pong_timeout=0.2) as rig, connected(rig) as listener:
        times = {listener.last_frame_at}
        async with asyncio.timeout(PATIENCE_S):
            while len(times) < 4:
                await asyncio.sleep(0.05)
                times.add(listener.last_frame_at)
        await listener.ping()


async def test_an_idle_listener_pings_a_real_server() -> None:
    async with serving() as rig, connected(rig, activity_timeout_s=0.05) as listener:
        before = listener.last_frame_at
        async with asyncio.timeout(PATIENCE_S):
            while listener.last_frame_at == before:  # noqa: ASYNC110 - nothing else shows it
                await asyncio.sleep(0.01)
        await listener.ping()
        assert await listener.subscribe("c") == {}


# -- Other servers ---------------------------------------------------------------------------

GREETING = json.dumps(
    {
        "event": "pusher:connection_established",
        "data": json.dumps({"socket_id": "1.2", "activity_timeout": 0.05}),
    }
)
PING, PONG = '{"event": "pusher:ping", "data": {}}', '{"event":"pusher:pong","data":"{}"}'

Script = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def acting(script: Script) -> AsyncIterator[str]:
    """A WebSocket server that does what *script* says, by the library of the listener."""
    failures: list[BaseException] = []

    async def act(connection: ServerConnection) -> None:
        try:
            await script(connection)
        except BaseException as failure:
            failures.append(failure)
            raise

    async with serve(act, "127.0.0.1", 0, ping_interval=None) as server:
        (address,) = {one.getsockname() for one in server.sockets}
        yield f"ws://127.0.0.1:{address[1]}"
    assert failures == []


async def test_an_idle_listener_pings_and_any_message_is_an_answer() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.send(GREETING)
        assert await connection.recv() == PING
        await connection.send(PONG)
        assert await connection.recv() == PING
        await connection.send('{"event":"n","channel":"c","data":"not a pong"}')
        assert await connection.recv() == PING
        await connection.close(4000, "enough")

    async with acting(script) as url, await Listener.connect(url, APP) as listener:
        assert listener.activity_timeout_s == 0.05
        assert (await received(listener)).data == "not a pong"
        assert str(await ended(listener)) == "4000 enough"


async def test_a_server_that_answers_no_ping_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PONG_TIMEOUT_S", 0.1)

    async def script(connection: ServerConnection) -> None:
        await connection.send(GREETING)
        assert await connection.recv() == PING
        await connection.wait_closed()

    async with acting(script) as url, await Listener.connect(url, APP) as listener:
        with pytest.raises(Disconnected, match=r"no message arrived within 0\.1 s of a ping"):
            await received(listener)


async def test_a_listener_without_pings_sends_none() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.send(GREETING)
        await connection.send('{"event":"pusher:ping","data":"{}"}')
        assert json.loads(await connection.recv()) == {"event": "pusher:pong", "data": {}}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await connection.recv()
        await connection.send('{"event":"n","data":{"no":"text"}}')
        await connection.wait_closed()
        assert connection.close_code == 4000

    async with acting(script) as url:
        listener = await Listener.connect(url, APP, activity_timeout_s=0)
        assert await received(listener) == ReceivedEvent("n", None, '{"no": "text"}')
        await listener.close(4000, "done")


async def test_its_own_ping_is_not_answered_by_the_pong_of_an_idle_time() -> None:
    idle = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        await connection.send(GREETING)
        assert await connection.recv() == PING
        idle.set()
        assert await connection.recv() == PING
        await connection.send(PONG)
        await connection.send('{"event":"n","data":""}')
        await connection.send(PONG)
        await connection.wait_closed()

    async with acting(script) as url, await Listener.connect(url, APP) as listener:
        async with asyncio.timeout(PATIENCE_S):
            await idle.wait()
            await listener.ping()
        async with asyncio.timeout(0):
            assert (await listener.receive()).name == "n"


async def test_a_subscription_fails_if_the_connection_ends_before_its_answer() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.send(GREETING)
        while json.loads(await connection.recv())["event"] != "pusher:subscribe":
            pass
        await connection.close(4100, "Over capacity")

    async with acting(script) as url, await Listener.connect(url, APP) as listener:
        pinged = asyncio.create_task(listener.ping())
        await asyncio.sleep(0)
        with pytest.raises(Disconnected, match="4100 Over capacity"):
            await listener.subscribe("c")
        with pytest.raises(Disconnected, match="4100 Over capacity"):
            await pinged


async def test_unread_events_keep_the_listener_from_reading_more() -> None:
    sent = 0
    several = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        nonlocal sent
        await connection.send(GREETING)
        while sent < 1000:
            await connection.send(json.dumps({"event": "n", "data": "x" * 100_000}))
            sent += 1
            if sent > 4:
                several.set()
        await connection.wait_closed()

    async with acting(script) as url:
        options = {"max_unread_events": 2, "activity_timeout_s": 0}
        async with await Listener.connect(url, APP, **options) as listener:  # type: ignore[arg-type]
            async with asyncio.timeout(PATIENCE_S):
                await several.wait()
                before = -1
                while before < sent:  # until the buffers of the kernel are full
                    before = sent
                    await asyncio.sleep(0.2)
                assert listener._events.qsize() == 2
                assert sent < 1000
                for _ in range(1000):
                    await listener.receive()


async def test_a_listener_that_closes_discards_what_arrives_meanwhile() -> None:
    """Also while it reads nothing, since events are unread."""

    async def script(connection: ServerConnection) -> None:
        await connection.send(GREETING)
        with suppress(ConnectionClosed):
            while True:
                await connection.send('{"event":"n","data":""}')
                await asyncio.sleep(0)
        assert connection.close_code == 1000

    async with acting(script) as url:
        listener = await Listener.connect(url, APP, max_unread_events=3)
        await received(listener)
        async with asyncio.timeout(PATIENCE_S):
            await listener.close()
        assert len([event async for event in listener]) <= 3


@pytest.mark.parametrize(
    "first",
    [
        "no",
        "[]",
        b"\x00",
        '{"event":"n","data":"{}"}',
        '{"event":"pusher:connection_established","data":"{}"}',
        '{"event":"pusher:connection_established","data":"no"}',
        '{"event":"pusher:connection_established","data":"[]"}',
    ],
)
async def test_a_first_message_of_another_protocol_is_an_error(first: str | bytes) -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.send(first)
        await connection.wait_closed()

    async with acting(script) as url:
        with pytest.raises(InvalidAnswer, match="not come from a server for Pusher clients"):
            await Listener.connect(url, APP)


async def test_a_message_of_another_protocol_ends_the_connection() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.send(GREETING)
        await connection.send("no")
        await connection.wait_closed()

    async with acting(script) as url, await Listener.connect(url, APP) as listener:
        assert "Pusher" in str(await ended(listener))


async def test_a_server_that_closes_at_once_refuses_with_its_code() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.close(4100, "Over capacity")

    async with acting(script) as url:
        with pytest.raises(Disconnected, match="4100 Over capacity"):
            await Listener.connect(url, APP)


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with acting(script) as url:
        with pytest.raises(NoGreeting, match=r"no message arrived within 0\.1 s of the handshake"):
            await Listener.connect(url, APP, greeting_timeout_s=0.1)


FRAME = b"\x81" + bytes([len(GREETING)]) + GREETING.encode()
RESERVED_BIT = b"\xc1\x00"


@asynccontextmanager
async def framing(*frames: bytes) -> AsyncIterator[str]:
    """A server that sends these bytes after its handshake, and waits for the client to leave."""
    left = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        (key,) = re.findall(rb"Sec-WebSocket-Key: (\S+)", request)
        head = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += b"Sec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n"
        writer.write(head + b"".join(frames))
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(PATIENCE_S):
            await left.wait()


async def test_a_wrong_frame_instead_of_the_first_message_is_an_error() -> None:
    async with framing(RESERVED_BIT) as url:
        with pytest.raises(InvalidAnswer, match="not come from a server for Pusher clients"):
            await Listener.connect(url, APP)


async def test_a_wrong_frame_ends_the_connection() -> None:
    async with framing(FRAME, RESERVED_BIT) as url:
        async with await Listener.connect(url, APP) as listener:
            assert "this client closed the connection: 1002" in str(await ended(listener))


async def test_a_server_that_keeps_the_socket_after_a_close_frame_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.1)
    async with framing(FRAME, b"\x88\x02" + (4200).to_bytes(2)) as url:
        async with await Listener.connect(url, APP) as listener:
            assert (await ended(listener)).code == 4200


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that sends *answer* instead of a handshake, and waits for the client to leave."""
    left = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(PATIENCE_S):
            await left.wait()


@pytest.mark.parametrize("status", [200, 301, 426, 502])
async def test_another_status_is_an_error_that_has_it(status: int) -> None:
    answer = f"HTTP/1.1 {status} X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"
    async with answering(answer.encode()) as url:
        with pytest.raises(NotUpgraded, match=f"the answer was {status} instead of 101") as raised:
            await Listener.connect(url, APP)
    assert raised.value.status == status


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n"]
)
async def test_an_answer_that_is_no_handshake_is_an_error(answer: bytes) -> None:
    async with answering(answer) as url:
        with pytest.raises(InvalidAnswer, match="not come from a WebSocket server"):
            await Listener.connect(url, APP)


async def test_a_handshake_without_an_answer_is_given_up() -> None:
    async with answering(b"HTTP/1.1 ") as url:
        with pytest.raises(Unreachable, match=r"no answer within 0\.1 s"):
            await Listener.connect(url, APP, open_timeout_s=0.1)
