"""What one client, one address, one app may take of the server, and what it is told beyond."""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import unix_connect

from heliograph.net import idle, listener
from heliograph.net.addresses import MOST_OVER_EACH
from heliograph.net.http import HttpConnection
from heliograph.net.pages import Pages
from heliograph.protocols.pusher.api.routes import Routes
from heliograph.reply import Later
from heliograph.wire.http import Request
from heliograph.wire.responses import Response, text
from tests.integration.rig import KEY, PATIENCE_S, Rig, serving
from tests.integration.test_http import HEALTH, UPGRADE, Wire, wire
from tests.unit.test_addresses import counts
from tests.unit.test_proxy import OF_V4, header

PAGES = Pages("", lambda: "")
PATH = f"/app/{KEY}?protocol=7"
INFO_CACHE = {"info": "cache"}
TOO_MANY = "Over capacity: too many connections from your address"


async def expect_refused(rig: Rig, forwarded: str | None = None) -> None:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    async with rig.open(additional_headers=headers) as client:
        await client.expect_error(4100, TOO_MANY)
        await client.expect_close(4100)


async def until_left(rig: Rig, sockets: int) -> None:
    while rig.server.context.sockets > sockets:
        await rig.fetch("GET", "/health")


async def until(true: Callable[[], bool]) -> None:
    """Return when something is *true* that no event announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - there is no event to await
            await asyncio.sleep(0.01)


async def until_nobody_is_counted(rig: Rig) -> bool:
    """Return when no address has a connection, which each must have given up exactly once."""
    await until(lambda: not (rig.server.context.http_connections or rig.server.context.sockets))
    return not counts(rig.server.context.addresses)


async def kept_alive(rig: Rig, stack: AsyncExitStack, words: bytes = HEALTH) -> Wire:
    """Connect, and have one request answered."""
    one = await stack.enter_async_context(wire(rig))
    await one.send(words)
    await one.read_until(b"OK\n")
    return one


# -- Connections of an address -------------------------------------------------------------


async def test_an_address_has_as_many_connections_as_it_may_have(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """4100, upon which clients try again; one line in the log; room again when one leaves."""
    caplog.set_level(logging.INFO)
    async with serving(max_connections_per_ip=3) as rig, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(rig.client()) for _ in range(3)]
        for _ in range(20):
            await expect_refused(rig)
        assert rig.server.context.refused_per_address == 20
        for client in clients:
            await client.expect_nothing_before_pong()
        assert (await rig.request("GET", "/channels")).status == 200
        await clients[0].connection.close()
        await until_left(rig, 2)
        async with rig.client():
            pass
    (line,) = [one for one in caplog.messages if "--max_connections_per_ip" in one]
    assert "--trusted_proxies" in line


async def test_an_untrusted_client_cannot_choose_its_address() -> None:
    async with serving(max_connections_per_ip=1, trusted_proxies="192.0.2.1") as rig, rig.client():
        await expect_refused(rig, "198.51.100.7")
        await expect_refused(rig, "192.0.2.1, 127.0.0.1")


async def test_behind_a_proxy_clients_are_counted_by_their_own_addresses() -> None:
    async with (
        serving(max_connections_per_ip=1, trusted_proxies="127.0.0.0/8") as rig,
        AsyncExitStack() as stack,
    ):
        for number in range(5):
            headers = {"X-Forwarded-For": f"spoofed, 198.51.100.{number}"}
            await stack.enter_async_context(rig.client(additional_headers=headers))
        await expect_refused(rig, "203.0.113.1, 198.51.100.3")
        # A proxy that does not say for whom it speaks has no limit: its clients are not known.
        for _ in range(3):
            await stack.enter_async_context(rig.client())


async def test_a_proxy_is_trusted_through_a_unix_socket(tmp_path: Path) -> None:
    async with serving(max_connections_per_ip=1) as rig, AsyncExitStack() as stack:
        context = rig.server.context
        routes = Routes(rig.server.node, prefix="", now_s=lambda: 0.0, otherwise=PAGES)
        path = str(tmp_path / "socket")
        make: Any = partial(HttpConnection, context, routes, upgrades=rig.server.upgrades)
        server = await context.loop.create_unix_server(make, path)
        for number in range(3):
            connection = await stack.enter_async_context(
                unix_connect(
                    path,
                    f"ws://x{PATH}",
                    additional_headers={"X-Forwarded-For": f"192.0.2.{number}"},
                )
            )
            assert "connection_established" in str(await connection.recv())
        async with unix_connect(
            path, f"ws://x{PATH}", additional_headers={"X-Forwarded-For": "192.0.2.1"}
        ) as refused:
            assert json.loads(await refused.recv())["data"]["code"] == 4100
        server.close()


async def test_refused_clients_that_stay_cost_the_address_no_room() -> None:
    """However it leaves, its place is free again, once."""
    async with serving(max_connections_per_ip=2) as rig:
        for _ in range(3):
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    await stack.enter_async_context(rig.client())
                for _ in range(3):
                    client = await stack.enter_async_context(rig.open())
                    await client.expect_error(4100, TOO_MANY)
                client.connection.transport.abort()
            await until_left(rig, 0)
        assert await until_nobody_is_counted(rig)


async def test_connections_that_end_before_they_begin_are_counted_out() -> None:
    async with serving(max_connections_per_ip=2) as rig:
        for path in ("/app/nobody?protocol=7", "/app/x/y?protocol=7", f"/app/{KEY}?protocol=1"):
            for _ in range(3):
                async with rig.open(path) as client:
                    assert json.loads(await client.receive())["event"] == "pusher:error"
                await until_left(rig, 0)
        for _ in range(5):
            async with rig.client() as client:
                client.connection.transport.abort()
            await until_left(rig, 0)
        assert await until_nobody_is_counted(rig)


async def test_http_connections_count_towards_the_limit_of_their_address() -> None:
    """Silent ones, too. Over the limit there is one answer and 4100; soon not even that."""
    async with serving(max_connections_per_ip=3) as rig, AsyncExitStack() as stack:
        await kept_alive(rig, stack)
        silent = await stack.enter_async_context(wire(rig))
        await stack.enter_async_context(rig.client())
        await expect_refused(rig)
        over = await stack.enter_async_context(wire(rig))
        await over.send(HEALTH * 2)
        answer = await over.read_all()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.count(b"HTTP/1.1") == 1
        held = [await stack.enter_async_context(wire(rig)) for _ in range(MOST_OVER_EACH)]
        addresses = rig.server.context.addresses
        await until(lambda: counts(addresses)["over 127.0.0.1"] == MOST_OVER_EACH)
        for _ in range(50):
            async with wire(rig) as unheard:
                assert await unheard.read_all() == b""
        assert len(rig.server.context.http_connections) == 2 + MOST_OVER_EACH
        await silent.send(HEALTH)
        await silent.read_until(b"OK\n")
        for one in (silent, *held):
            one.writer.close()
        await until(lambda: len(rig.server.context.http_connections) == 1)
        async with rig.client():
            assert counts(addresses) == {"127.0.0.1": 3}


async def test_a_connection_that_becomes_a_websocket_keeps_its_place() -> None:
    """However it does, it counts once, and until it ends."""
    before = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(max_connections_per_ip=4) as rig, AsyncExitStack() as stack:
        addresses = rig.server.context.addresses
        for number, words in enumerate((UPGRADE, UPGRADE, before + UPGRADE, UPGRADE[:-2])):
            one = await stack.enter_async_context(wire(rig))
            await one.send(words)
            if words == UPGRADE[:-2]:
                await one.send(UPGRADE[-2:])
            await one.read_until(b"connection_established")
            assert counts(addresses) == {"127.0.0.1": number + 1}
        await expect_refused(rig)
        await stack.aclose()
        await until_left(rig, 0)
        assert await until_nobody_is_counted(rig)


async def test_the_http_connections_of_a_proxy_are_its_own_and_have_no_limit() -> None:
    """They are a pool, each for the requests of many clients; WebSockets are one client's."""
    async with (
        serving(max_connections_per_ip=1, trusted_proxies="127.0.0.1") as rig,
        AsyncExitStack() as stack,
    ):
        spoken_for = b"GET /up HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.%d\r\n\r\n"
        pool = [await kept_alive(rig, stack, spoken_for % 7) for _ in range(10)]
        for number in range(3):
            await pool[0].send(spoken_for % number)
            await pool[0].read_until(b"OK\n")
        assert counts(rig.server.context.addresses) == {"proxy 127.0.0.1": 10}
        headers = {"X-Forwarded-For": "198.51.100.7"}
        await stack.enter_async_context(rig.client(additional_headers=headers))
        await expect_refused(rig, "198.51.100.7")
        assert counts(rig.server.context.addresses)["198.51.100.7"] == 1


@pytest.mark.parametrize("app_key", [KEY, "none"])
async def test_a_client_far_over_its_limit_gets_no_answer_behind_a_proxy_either(
    app_key: str,
) -> None:
    """Nor where each of its connections is refused for another reason, and stays to be closed."""
    async with (
        serving(max_connections_per_ip=1, trusted_proxies="127.0.0.1") as rig,
        AsyncExitStack() as stack,
    ):
        ask = (
            UPGRADE[:-2].replace(KEY.encode(), app_key.encode())
            + b"X-Forwarded-For: 198.51.100.7\r\n\r\n"
        )
        answers = []
        for _ in range(MOST_OVER_EACH + 5):
            one = await stack.enter_async_context(wire(rig))
            await one.send(ask)
            answers.append(await one.reader.read(100))
        assert [bool(answer) for answer in answers] == [True] * (1 + MOST_OVER_EACH) + [False] * 4
        await stack.aclose()
        await until_left(rig, 0)
        assert await until_nobody_is_counted(rig)


async def test_connections_of_a_proxy_that_name_no_client_are_bounded_in_total(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oldest that has sent nothing ends for the next; where all have begun, the next ends."""
    monkeypatch.setattr(idle, "UNNAMED_FLOOR", 4)
    monkeypatch.setattr(idle, "UNNAMED_SHARE", 1 << 30)
    async with (
        serving(max_connections_per_ip=1, trusted_proxies="127.0.0.1") as rig,
        AsyncExitStack() as stack,
    ):
        pool = [await kept_alive(rig, stack) for _ in range(6)]
        silent = [await stack.enter_async_context(wire(rig)) for _ in range(5)]
        assert await silent[0].read_all() == b""
        # Those that have asked something are the proxy's own, and stay.
        for one in (*pool, *silent[1:]):
            await one.send(HEALTH[:-2])
        begun = rig.server.context.http_connections
        await until(lambda: all(one._receiving for one in begun))
        async with wire(rig) as late:
            assert await late.read_all() == b""
        for one in (*pool, *silent[1:]):
            await one.send(HEALTH[-2:])
            await one.read_until(b"OK\n")
        await kept_alive(rig, stack)


async def test_connections_that_owe_a_proxy_header_are_bounded_in_total(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "ARRIVALS_AT_ONCE", 1)
    monkeypatch.setattr(idle, "UNNAMED_FLOOR", 4)
    monkeypatch.setattr(idle, "UNNAMED_SHARE", 1 << 30)
    async with serving(proxy_protocol=True) as rig, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(wire(rig)) for _ in range(6)]
        assert await silent[0].read_all() == b""
        assert await silent[1].read_all() == b""
        last = b"".join(header(OF_V4)) + HEALTH
        for one in silent[2:]:
            await one.send(last)
            await one.read_until(b"OK\n")
        assert "too many connections were waiting for theirs" in caplog.text


async def test_behind_a_balancer_an_http_connection_counts_from_its_header() -> None:
    async with serving(proxy_protocol=True, max_connections_per_ip=1) as rig:
        addresses = rig.server.context.addresses
        checks = b"".join(header(b"", command=0x20, family=0x00)) + HEALTH
        async with AsyncExitStack() as stack:
            await kept_alive(rig, stack, b"".join(header(OF_V4)) + HEALTH)
            over = await stack.enter_async_context(wire(rig))
            await over.send(b"".join(header(OF_V4)))
            await until(lambda: counts(addresses) == {"192.0.2.1": 1, "over 192.0.2.1": 1})
            await over.send(UPGRADE)
            await over.read_until(TOO_MANY.encode())
            for _ in range(3):  # the balancer's own
                await kept_alive(rig, stack, checks)
            assert counts(addresses) == {"192.0.2.1": 1, "over 192.0.2.1": 1}
        assert await until_nobody_is_counted(rig)


async def test_the_page_of_metrics_has_no_limit() -> None:
    async with serving(max_connections_per_ip=1, metrics_port=0) as rig, rig.client():
        port = rig.server.metrics_port
        for _ in range(20):
            reply = await rig.fetch("GET", "/metrics", port=port)
            assert reply.status == 200
        assert "heliograph_refused_per_address_total 0\n" in reply.text


async def test_where_the_event_loop_accepts_connections_count_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("heliograph.net.streams.available", lambda: False)
    async with serving(max_connections_per_ip=2) as rig, AsyncExitStack() as stack:
        await kept_alive(rig, stack)
        await stack.enter_async_context(rig.client())
        await expect_refused(rig)
        over = await stack.enter_async_context(wire(rig))
        await over.send(HEALTH)
        assert b"\r\nConnection: close\r\n" in await over.read_all()
        for _ in range(MOST_OVER_EACH):
            await stack.enter_async_context(wire(rig))
        async with wire(rig) as unheard:
            assert await unheard.read_all() == b""
        await stack.aclose()
        await until_left(rig, 0)
        assert await until_nobody_is_counted(rig)


class Slow:
    """Answers its requests when the test does."""

    def __init__(self) -> None:
        self.owed: list[Later[Response]] = []

    def handle(self, _request: Request) -> Later[Response]:
        self.owed.append(Later())
        return self.owed[-1]

    def refuse_early(self, _request: Request) -> None:
        """Wait for every body."""


async def test_a_connection_is_idle_only_while_nothing_is_under_way() -> None:
    """Not within a request, nor while its answer is awaited, nor while the client must read it."""
    async with serving() as rig, AsyncExitStack() as stack:
        context, slow = rig.server.context, Slow()
        made: list[HttpConnection] = []

        def make() -> Any:
            made.append(HttpConnection(context, slow, upgrades=rig.server.upgrades))
            return made[-1]

        server = await context.loop.create_server(make, "127.0.0.1", 0)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(writer.close)
        await until(lambda: bool(made and context.http_connections))
        (connection,) = made
        stack.callback(connection.drop)
        assert connection.silent
        assert connection.idle_since() is not None
        writer.write(HEALTH[:-2])
        await until(lambda: not connection.silent)
        assert connection.idle_since() is None
        writer.write(HEALTH[-2:])
        await until(lambda: bool(slow.owed))
        assert connection.idle_since() is None
        slow.owed.pop().resolve(text(200, "x"))
        assert b"200 OK" in await reader.readuntil(b"x\n")
        assert connection.idle_since() is not None
        writer.write(HEALTH)
        await until(lambda: bool(slow.owed))
        slow.owed.pop().resolve(text(200, "x" * (1 << 24)))
        assert connection.idle_since() is None
        connection.drop()
        connection.drop()
        await until(lambda: connection not in context.http_connections)
        assert connection.idle_since() is None


# -- Messages of a client ------------------------------------------------------------------


async def test_only_the_client_that_floods_is_closed_with_4100() -> None:
    async with serving(max_messages_per_second=2) as rig, rig.client() as other:
        async with rig.client() as client:
            for _ in range(40):
                await client.send("pusher:ping", {})
            for _ in range(20):  # ten seconds' worth
                await client.expect('{"event":"pusher:pong","data":"{}"}')
            await client.expect_error(4100, "Over capacity: too many messages per second")
            await client.expect_close(4100)
        await other.expect_nothing_before_pong()
        assert rig.server.context.rate_limited_messages == 1
        async with rig.client() as again:
            await again.expect_nothing_before_pong()


async def test_frames_of_any_kind_count_as_messages() -> None:
    """Pings that must be answered, binary ones that are refused, fragmented ones."""
    for flood in (
        b"\x89\x80\x00\x00\x00\x00" * 50,
        b"\x8a\x80\x00\x00\x00\x00" * 50,
        b"\x01\x81\x00\x00\x00\x00{\x80\x81\x00\x00\x00\x00}" * 50,
    ):
        async with serving(max_messages_per_second=1) as rig, wire(rig) as one:
            await one.send(UPGRADE)
            await one.read_until(b'120}"}')
            await one.send(flood)
            said = await one.read_until(b'Over capacity: too many messages per second"}}')
            assert said.count(b"\x8a\x00") in (0, 10)
            assert rig.server.context.rate_limited_messages == 1


async def test_without_a_limit_messages_are_as_many_as_they_are() -> None:
    async with serving() as rig, rig.client() as client:
        for _ in range(500):
            await client.send("pusher:ping", {})
        for _ in range(500):
            await client.expect('{"event":"pusher:pong","data":"{}"}')


# -- Subscriptions of a connection ---------------------------------------------------------


async def test_a_connection_has_as_many_subscriptions_as_it_may_have() -> None:
    """One more is an error, and the socket stays; one less makes room."""
    async with serving(max_subscriptions=3) as rig, rig.client() as client:
        for number in range(3):
            assert "subscription_succeeded" in await client.subscribe(f"c{number}")
        for name in ("c3", "c4", "presence-c"):
            data = json.dumps({"user_id": "1"}) if name.startswith("presence") else None
            error = json.loads(await client.subscribe(name, data))["data"]
            assert error == {
                "code": None,
                "message": "Subscription limit exceeded: at most 3 for each connection",
            }
        await client.send("pusher:unsubscribe", {"channel": "c0"})
        assert "subscription_succeeded" in await client.subscribe("c4")
        channels = json.loads((await rig.request("GET", "/channels")).body)["channels"]
        assert sorted(channels) == ["c1", "c2", "c4"]


# -- Publishes of an app -------------------------------------------------------------------


async def test_an_app_that_publishes_too_fast_is_answered_429() -> None:
    async with serving(max_publishes_per_second=5) as rig, rig.client() as client:
        await client.subscribe("c")
        body = {"name": "n", "channel": "c", "data": "x"}
        replies = [await rig.request("POST", "/events", body) for _ in range(10)]
        assert [reply.status for reply in replies].count(429) >= 4
        taken = [reply.status for reply in replies].count(200)
        for _ in range(taken):
            await client.expect('{"event":"n","channel":"c","data":"x"}')
        await client.expect_nothing_before_pong()
        refused = replies[-1]
        assert refused.headers["Retry-After"] == "1"
        assert refused.text == (
            "Rate limit exceeded: this app may publish 5 events per second on this server\n"
        )
        assert rig.server.node.tally.rate_limited_publishes == 10 - taken
        # Looking is not publishing.
        assert (await rig.request("GET", "/channels")).status == 200


async def test_every_event_of_a_batch_and_every_channel_of_an_event_counts() -> None:
    """And what is refused is refused whole: nobody hears a part of it."""
    events = [{"name": "n", "channel": "c", "data": "x"}] * 10
    for path, body in (
        ("/batch_events", {"batch": events}),
        ("/events", {"name": "n", "channels": [f"c{n}" for n in range(10)], "data": "x"}),
    ):
        async with serving(max_publishes_per_second=2) as rig, rig.client() as client:
            assert (await rig.request("POST", path, body)).status == 200
            await client.subscribe("c")
            reply = await rig.request("POST", path, body)
            assert reply.status == 429
            assert int(reply.headers["Retry-After"]) in (4, 5)
            await client.expect_nothing_before_pong()
            assert rig.server.node.tally.rate_limited_publishes == 10


async def test_an_app_that_is_limited_takes_nothing_from_another(tmp_path: Path) -> None:
    file = tmp_path / "apps.toml"
    file.write_text('[[apps]]\nid = "7"\n[[apps.keys]]\nkey = "seven"\nsecret = "seven-secret"\n')
    async with serving(max_publishes_per_second=1, config=str(file)) as rig:
        body = {"name": "n", "channel": "c", "data": "x"}
        statuses = [(await rig.request("POST", "/events", body)).status for _ in range(3)]
        assert statuses.count(429) >= 1
        rig.app_id, rig.key, rig.secret = "7", "seven", "seven-secret"
        for _ in range(20):
            assert (await rig.request("POST", "/events", body)).status == 200


async def test_the_deprecated_way_to_publish_is_limited_too() -> None:
    async with serving(max_publishes_per_second=1) as rig:
        replies = [
            await rig.request("POST", "/channels/c/events", b"x", {"name": "n"}) for _ in range(3)
        ]
        statuses = [reply.status for reply in replies]
        assert statuses[0] == 202
        assert 429 in statuses


# -- Patience ------------------------------------------------------------------------------


async def test_clients_that_send_too_slowly_are_disconnected() -> None:
    """Silence, a head or a body or a handshake that trickles: a thousand of them end in time."""
    beginnings = (
        b"",
        b"\r\n",
        b"GET /app/x HT",
        UPGRADE[:-3],
        b"POST /apps/3/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /apps/3/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    )
    async with serving(request_timeout=0.6) as rig, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(wire(rig)) for _ in range(300)]
        ends = []
        for number, one in enumerate(wires):
            await one.send(beginnings[number % len(beginnings)])
            ends.append(asyncio.create_task(one.read_all()))
        while not all(end.done() for end in ends):
            for one, end in zip(wires, ends, strict=True):
                if not end.done() and not one.writer.is_closing():
                    one.writer.write(b"x")
            await asyncio.wait(ends, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
            await rig.fetch("GET", "/health")
        async with asyncio.timeout(PATIENCE_S):  # they had two seconds to read why
            while len(rig.server.context.http_connections) > 1:
                await rig.fetch("GET", "/health")
        answers = {b"HTTP/1.1 408", b"HTTP/1.1 400", b"HTTP/1.1 401", b""}
        assert {end.result()[:12] for end in ends} <= answers


async def test_a_message_in_endless_fragments_closes_with_1008() -> None:
    async with serving() as rig, wire(rig) as one:
        await one.send(UPGRADE)
        await one.read_until(b'120}"}')
        await one.send(b"\x01\x81\x00\x00\x00\x00x" + b"\x00\x81\x00\x00\x00\x00x" * 2000)
        answer = await one.read_all()
        assert answer[:1] == b"\x88"
        assert int.from_bytes(answer[2:4], "big") == 1008


# -- Cached events of an app ---------------------------------------------------------------


async def test_cached_events_of_an_app_are_bounded_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of 64 MiB, the oldest go; metrics count each, the log has a line a minute."""
    large = {"max_event_bytes": 10 << 20, "max_request_body_bytes": 11 << 20}
    async with serving(metrics=True, **large) as rig:
        for number in range(8):
            await rig.publish("n", f"cache-{number}", "x" * (9 << 20))
        answers = [
            json.loads(
                (await rig.request("GET", f"/channels/cache-{number}", parameters=INFO_CACHE)).body
            )["cache"]
            for number in range(8)
        ]
        assert [answer is not None for answer in answers] == [False] + [True] * 7
        page = (await rig.fetch("GET", "/metrics")).text
        assert "\nheliograph_cached_events_evicted_total 1\n" in page
        await rig.publish("n", "cache-8", "x" * (9 << 20))
        page = (await rig.fetch("GET", "/metrics")).text
        assert "\nheliograph_cached_events_evicted_total 2\n" in page
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines == ["app 3: the kept events exceed --history_max_bytes; the oldest are removed"]
