"""
A server with two protocols: their clients share channels, and each gets the words of its own.

The second one is the line protocol of tests/protocols/line. It is added by one entry in the list of
protocols that a server is given.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from heliograph.assembly import PROTOCOLS
from heliograph.config.apps import App, AppKey, Apps
from heliograph.config.load import make_config
from heliograph.engine.answers import Entry, Lost, Reason
from heliograph.engine.testing.looped import LoopedEngine
from heliograph.engine.testing.state import SharedState
from heliograph.hub.facts import Member
from heliograph.net.intake import Intake
from heliograph.node.policy import Forbidden
from heliograph.node.tenant import Tenant
from heliograph.server import Server
from tests.integration.rig import (
    APP_ID,
    KEY,
    LOCAL,
    PATIENCE_S,
    SECRET,
    SINGLE_APP,
    Client,
    Engines,
    Rig,
    serving,
)
from tests.integration.test_greedy_clients import frame
from tests.integration.test_http import UPGRADE, wire
from tests.integration.test_webhook_delivery import app_for, receiving
from tests.protocols.line import lines
from tests.protocols.line.registration import Line

pytestmark = pytest.mark.interpreted  # its session derives from a class that may be compiled

ROOM = "presence-room"
LINE_UPGRADE = UPGRADE.replace(f"/app/{KEY}?protocol=7".encode(), f"/line/{KEY}".encode())
OTHER_KEY = "another-key"
LINES_AND_PUSHER = (Line(), *PROTOCOLS)


def proof(*words: str, secret: str = SECRET) -> str:
    return lines.proof(secret.encode(), *words)


def both(apps: Apps | None = None, /, **options: Any) -> Any:
    """Run a server with both protocols."""
    return serving(LINES_AND_PUSHER, apps, **options)


class LineClient:
    """A client of the line protocol that expects each line to the letter."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.id = ""

    async def receive(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            text = await self.connection.recv()
        assert isinstance(text, str)
        return text

    async def expect(self, *lines: str) -> None:
        for line in lines:
            assert await self.receive() == line

    async def ask(self, line: str, answer: str) -> None:
        await self.connection.send(line)
        await self.expect(answer)

    async def join(self, room: str, name: str, *others: str) -> None:
        """Join *room* as *name*, where *others* are members."""
        names = " ".join(sorted([name, *others]))
        await self.ask(f"join {room} {name} {proof(self.id, room, name)}", f"joined {room} {names}")

    async def expect_nothing(self) -> None:
        """Prove absence: a line that was sent would come before the answer to this one."""
        await self.ask("nonsense", "error bad-line")

    async def expect_bye(self, code: int, word: str) -> None:
        await self.expect(f"bye {word}")
        async with asyncio.timeout(PATIENCE_S):
            await self.connection.wait_closed()
        assert (self.connection.close_code, self.connection.close_reason) == (code, word)


@asynccontextmanager
async def unopened(
    rig: Rig, path: str = f"/line/{KEY}", **options: Any
) -> AsyncIterator[LineClient]:
    """Connect, and leave the first line to the test."""
    options.setdefault("proxy", None)
    async with connect(rig.url + path, **options) as connection:
        yield LineClient(connection)


@asynccontextmanager
async def line(rig: Rig, path: str = f"/line/{KEY}", **options: Any) -> AsyncIterator[LineClient]:
    """Connect, and take the first line."""
    async with unopened(rig, path, **options) as client:
        verb, client.id = (await client.receive()).split(" ")
        assert verb == "hello"
        yield client


def tenant_of(rig: Rig) -> Tenant:
    tenant = rig.server.node.tenant(APP_ID)
    assert tenant is not None
    return tenant


async def expect_error_and_close(client: Client, code: int) -> None:
    """Pusher's goodbye: an error and its code."""
    assert json.loads(await client.receive())["data"]["code"] == code
    await client.expect_close(code)


def named(text: str) -> tuple[str, Any]:
    """Return the name and the data of a message of Pusher's."""
    message = json.loads(text)
    return message["event"], message["data"]


# -- The same channels ---------------------------------------------------------------------


async def exchange(ann: Client, bob: LineClient, arrived: Callable[[], Any]) -> None:
    """Have clients of both protocols join one room, talk, and leave; *ann* has joined."""
    await bob.join(ROOM, "bob", "ann")
    await ann.expect(
        f'{{"event":"pusher_internal:member_added","channel":"{ROOM}",'
        '"data":"{\\"user_id\\":\\"bob\\"}"}'
    )
    await ann.send("client-x", {"n": 1}, channel=ROOM)
    await bob.expect(f'event {ROOM} client-x "{{\\"n\\": 1}}"')
    await bob.connection.send(f'say {ROOM} hello "you"')
    await bob.expect(f"said {ROOM}")
    await ann.expect(
        f'{{"event":"client-line","channel":"{ROOM}","data":"hello \\"you\\"","user_id":"bob"}}'
    )
    await arrived()
    await bob.ask(f"leave {ROOM}", f"left {ROOM}")
    await ann.expect(
        f'{{"event":"pusher_internal:member_removed","channel":"{ROOM}",'
        '"data":"{\\"user_id\\":\\"bob\\"}"}'
    )
    await bob.join(ROOM, "bob", "ann")
    await ann.receive()
    await ann.send("pusher:unsubscribe", {"channel": ROOM})
    await bob.expect(f"removed {ROOM} ann")
    await ann.expect_nothing_before_pong()


async def test_clients_of_two_protocols_share_channels_and_members() -> None:
    async with both() as rig, rig.client() as ann, line(rig) as bob:
        await ann.join(ROOM, "ann")

        async def carol_comes_and_goes() -> None:
            async with rig.client() as carol:
                assert '\\"ids\\":[\\"ann\\",\\"bob\\",\\"c d\\"]' in await carol.join(ROOM, "c d")
                await bob.expect(f"added {ROOM} c%20d")
                await ann.receive()
            await bob.expect(f"removed {ROOM} c%20d")
            await ann.receive()

        await exchange(ann, bob, carol_comes_and_goes)


async def test_clients_of_two_protocols_share_channels_over_two_nodes() -> None:
    numbers = count()
    state = SharedState(time.monotonic, lambda: f"text {next(numbers)}")
    async with AsyncExitStack() as stack:
        rigs = []
        for name in ("one", "two"):
            engine = LoopedEngine(state, time.monotonic, name)
            config = make_config(**LOCAL, **SINGLE_APP)
            make: Callable[[], LoopedEngine] = lambda engine=engine: engine  # type: ignore[misc]  # noqa: E731
            server = Server(config, make, protocols=LINES_AND_PUSHER)
            await server.start()
            stack.push_async_callback(server.stop)
            rigs.append(Rig(server))
        first, second = rigs
        ann = await stack.enter_async_context(first.client())
        bob = await stack.enter_async_context(line(second))
        await ann.join(ROOM, "ann")

        async def published() -> None:
            await first.publish("n", ROOM, "x")
            await bob.expect(f'event {ROOM} n "x"')
            assert named(await ann.receive()) == ("n", "x")

        await exchange(ann, bob, published)


async def test_a_client_that_disconnects_leaves_for_clients_of_the_other_protocol() -> None:
    async with both() as rig, rig.client() as ann, line(rig) as carol:
        await ann.join(ROOM, "ann")
        await carol.join(ROOM, "carol", "ann")
        await ann.receive()
        async with line(rig) as bob:
            await bob.join(ROOM, "bob", "ann", "carol")
            await ann.receive()
            await carol.expect(f"added {ROOM} bob")
        assert named(await ann.receive())[0] == "pusher_internal:member_removed"
        await carol.expect(f"removed {ROOM} bob")
    assert not rig.server.node.connections


async def publish_line(
    rig: Rig, body: str, token: str | None = None, **more: Any
) -> tuple[int, str]:
    token = f"{KEY}:{proof('publish')}" if token is None else token
    reply = await rig.fetch(
        "POST",
        more.pop("path", "/line/publish"),
        body.encode(),
        headers={"Authorization": f"Bearer {token}"},
        **more,
    )
    return reply.status, reply.text


async def test_what_the_apis_of_both_protocols_publish_reaches_clients_of_both() -> None:
    async with both() as rig, rig.client() as ann, line(rig) as bob:
        await ann.subscribe("room")
        await bob.ask("subscribe room", "subscribed room")
        await rig.publish("my event", "room", '{"a":"b c"}')
        await bob.expect('event room my%20event "{\\"a\\":\\"b c\\"}"')
        assert named(await ann.receive()) == ("my event", '{"a":"b c"}')
        assert await publish_line(rig, "room hello you") == (200, "published\n")
        await bob.expect('event room line "hello you"')
        assert named(await ann.receive()) == ("line", "hello you")


async def test_the_counts_of_the_api_include_clients_of_both_protocols() -> None:
    async with both(subscription_count=True) as rig, rig.client() as ann, line(rig) as bob:
        await ann.subscribe("room")
        assert named(await ann.receive()) == (
            "pusher_internal:subscription_count",
            '{"subscription_count":1}',
        )
        await bob.ask("subscribe room", "subscribed room")
        await bob.expect("count room 2")
        await ann.receive()
        await ann.join(ROOM, "ann")
        await bob.join(ROOM, "bob", "ann")
        info = {"info": "subscription_count"}
        reply = await rig.request("GET", "/channels/room", parameters=info)
        assert json.loads(reply.body) == {"occupied": True, "subscription_count": 2}
        reply = await rig.request("GET", f"/channels/{ROOM}", parameters={"info": "user_count"})
        assert json.loads(reply.body) == {"occupied": True, "user_count": 2}
        reply = await rig.request("GET", f"/channels/{ROOM}/users")
        assert json.loads(reply.body) == {"users": [{"id": "ann"}, {"id": "bob"}]}
        tenant = tenant_of(rig)
        assert tenant.channels_by_kind == {"public": 1, "presence": 1}
        assert tenant.subscriptions == 4
        await bob.ask("leave room", "left room")
        await ann.receive()
        assert named(await ann.receive()) == (
            "pusher_internal:subscription_count",
            '{"subscription_count":1}',
        )


async def test_a_room_keeps_its_last_event_whatever_protocol_it_was_published_with() -> None:
    async with both() as rig, rig.client() as ann, line(rig) as bob:
        assert (await publish_line(rig, "cache-room first"))[0] == 200
        await ann.subscribe("cache-room")
        assert named(await ann.receive()) == ("line", "first")
        await rig.publish("n", "cache-room", "second")
        await bob.ask("subscribe cache-room", "subscribed cache-room")
        await bob.expect('event cache-room n "second"')


async def test_webhooks_report_channels_members_and_events_of_both_protocols() -> None:
    async with receiving() as receiver:
        apps = Apps([app_for(receiver)])
        async with both(apps) as rig, rig.client() as ann, line(rig) as bob:
            await bob.join(ROOM, "bob")
            await ann.join(ROOM, "ann")
            await bob.expect(f"added {ROOM} ann")
            await bob.ask(f"say {ROOM} hello", f"said {ROOM}")
            await receiver.received(4)
            await rig.server.stop()
        assert receiver.story[:2] == [f"channel_occupied {ROOM}", f"member_added {ROOM} bob"]
        assert sorted(receiver.story) == sorted(
            [
                f"channel_occupied {ROOM}",
                f"member_added {ROOM} bob",
                f"member_added {ROOM} ann",
                f"client_event {ROOM} bob hello",
                f"member_removed {ROOM} bob",
                f"member_removed {ROOM} ann",
                f"channel_vacated {ROOM}",
            ]
        )


# -- Limits of an app ----------------------------------------------------------------------


async def test_a_line_client_receives_an_error_for_each_mistake() -> None:
    limits = {"max_subscriptions": 2, "max_channel_name_length": 20, "max_event_bytes": 3}
    async with both(**limits, max_presence_members=1) as rig, line(rig) as ann, line(rig) as bob:
        for wrong in (
            "",
            "subscribe",
            "subscribe a b c",
            "join a b",
            "say a",
            "leave",
            "shout a b",
        ):
            await ann.ask(wrong, "error bad-line")
        for room in ("a:b", "x" * 21, "#server-to-user-1"):
            await ann.ask(f"subscribe {room}", "error bad-room")
        await ann.ask(f"subscribe {ROOM}", f"error join-it {ROOM}")
        await ann.ask("join room ann 0", "error subscribe-to-it room")
        await ann.ask(f"join {ROOM} ann {proof(ann.id, ROOM, 'bob')}", f"error bad-proof {ROOM}")
        await ann.ask("subscribe private-a", "error bad-proof private-a")
        await ann.ask("leave room", "error not-there")
        await ann.ask("say room x", "error not-there")
        assert rig.server.node.tally.auth_failures == 2
        await ann.join(ROOM, "ann")
        await ann.ask(f"join {ROOM} ann x", f"error there-already {ROOM}")
        await ann.ask(f"say {ROOM} long", f"error too-large {ROOM}")
        await ann.ask("subscribe room", "subscribed room")
        await ann.ask("say room x", "error not-private room")
        await ann.ask("subscribe third", "error too-many-rooms third")
        await bob.ask(
            f"join {ROOM} bob {proof(bob.id, ROOM, 'bob')}",
            f"error full {ROOM}",
        )
        name = "x" * 129
        await bob.ask(f"join {ROOM} {name} {proof(bob.id, ROOM, name)}", f"error bad-name {ROOM}")
        await bob.ask(f"subscribe private-a {proof(bob.id, 'private-a')}", "subscribed private-a")
        assert rig.server.node.tally.errors == {None: 22}


async def test_the_limit_on_client_events_holds_for_clients_of_both_protocols() -> None:
    limit = {"max_client_events_per_second": 2}
    async with both(**limit) as rig, rig.client() as ann, line(rig) as bob:
        await ann.join(ROOM, "ann")
        await bob.join(ROOM, "bob", "ann")
        await ann.receive()
        for _ in range(2):
            await bob.ask(f"say {ROOM} x", f"said {ROOM}")
        await bob.ask(f"say {ROOM} x", f"error too-fast {ROOM}")
        for _ in range(3):
            await ann.send("client-x", 1, channel=ROOM)
        assert [named(await ann.receive())[0] for _ in range(3)] == [
            *("client-line", "client-line", "pusher:error")
        ]
        await bob.expect(*[f'event {ROOM} client-x "1"'] * 2)
    async with both(client_events=False) as rig, line(rig) as bob:
        await bob.join(ROOM, "bob")
        await bob.ask(f"say {ROOM} x", f"error switched-off {ROOM}")


async def test_a_policy_holds_for_clients_of_both_protocols() -> None:
    class Nobody:
        def authorize(self, *_arguments: Any) -> None:
            raise Forbidden("not today")

    async with both() as rig, rig.client() as ann, line(rig) as bob:
        tenant_of(rig).policy = Nobody()
        await bob.ask("subscribe room", "error forbidden not%20today room")
        assert "forbidden: not today" in await ann.subscribe("room")


# -- Admission and goodbyes ----------------------------------------------------------------


REFUSED: dict[str, tuple[dict[str, Any], str, int, str, int]] = {
    "unknown key": ({}, "nobody", 4720, "unknown-key", 4001),
    "disabled": ({"enabled": False}, KEY, 4721, "app-disabled", 4003),
    "origin": ({"allowed_origins": ("a.example",)}, KEY, 4722, "origin", 4009),
    "quota": ({"max_connections": 1}, KEY, 4723, "quota", 4004),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_client_that_is_not_admitted_gets_the_code_of_its_protocol(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="heliograph.node")
    settings, key, code, word, pushers = REFUSED[what]
    apps = Apps([App(id=APP_ID, keys=(AppKey(KEY, SECRET),), **settings)])
    async with both(apps) as rig, AsyncExitStack() as stack:
        if what == "quota":
            await stack.enter_async_context(line(rig))
        headers = {"Origin": "https://b.example"}
        async with unopened(rig, f"/line/{key}", additional_headers=headers) as bob:
            await bob.expect_bye(code, word)
        async with rig.open(f"/app/{key}?protocol=7", additional_headers=headers) as ann:
            await expect_error_and_close(ann, pushers)
        tally = rig.server.node.tally
        counted = {"unknown key": (2, 0), "origin": (0, 2)}.get(what, (0, 0))
        assert (tally.unknown_keys, tally.refused_origins) == counted
        assert tally.errors == {code: 1, pushers: 1}
        # Both are one reason, so the second is only counted.
        assert len(caplog.messages) == (1 if any(counted) else 0)


@pytest.mark.parametrize("path", ["/line", "/line/", f"/line/{KEY}/x", f"/{KEY}", "/"])
async def test_a_path_of_no_protocol_gets_the_answer_of_the_last_one(path: str) -> None:
    async with both() as rig, rig.open(path) as client:
        await expect_error_and_close(client, 4005)


async def test_a_path_that_no_protocol_knows_is_not_found() -> None:
    """A server without Pusher has no protocol that answers clients on every path."""
    async with serving((Line(),)) as rig, wire(rig) as client:
        await client.send(UPGRADE)
        assert b"HTTP/1.1 404 Not Found" in await client.read_until(b"Not found\n")
        async with line(rig, f"/line/{KEY}") as bob:
            await bob.expect_nothing()


async def test_both_protocols_are_under_the_prefix_of_paths() -> None:
    async with both(path_prefix="/realtime") as rig:
        async with line(rig, f"/realtime/line/{KEY}") as bob:
            await bob.expect_nothing()
        async with rig.open(f"/line/{KEY}") as client:
            await expect_error_and_close(client, 4005)
        assert await publish_line(rig, "a b", path="/realtime/line/publish") == (200, "published\n")
        assert (await publish_line(rig, "a b"))[0] == 404


async def test_a_server_that_drains_says_goodbye_to_each_client_in_its_protocol() -> None:
    async with both() as rig, rig.client() as ann, line(rig) as bob:
        await ann.subscribe("room")
        await bob.ask("subscribe room", "subscribed room")
        stopping = asyncio.create_task(rig.server.stop())
        await asyncio.gather(expect_error_and_close(ann, 4200), bob.expect_bye(4702, "reconnect"))
        await stopping


async def test_a_client_is_notified_of_lost_events_in_its_protocol() -> None:
    """A line client is notified and stays, a client of Pusher's has to reconnect."""
    async with both() as rig, rig.client() as ann, line(rig) as bob, line(rig) as carol:
        await ann.join(ROOM, "ann")
        await bob.join(ROOM, "bob", "ann")
        await ann.receive()
        await carol.ask("subscribe room", "subscribed room")
        roster = (Member("ann"), Member("bob"))
        tenant = tenant_of(rig)
        tenant.lost([Lost(Reason.TRIMMED, channel=ROOM, now=Entry(2, roster))])
        await bob.expect(f"lost {ROOM} ann bob")
        await expect_error_and_close(ann, 4200)
        await bob.expect(f"removed {ROOM} ann")
        await bob.expect_nothing()
        await carol.expect_nothing()


async def test_an_engine_that_is_unavailable_is_reported_in_each_protocol(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Engines, "late", True)
    async with both() as rig, rig.client() as ann, line(rig) as bob:
        assert Engines.made is not None
        await bob.join(ROOM, "bob")
        assert (await publish_line(rig, "room x"))[0] == 200
        Engines.made.away = True
        assert await publish_line(rig, "room x") == (503, "Unavailable, try again later\n")
        await bob.ask(f"say {ROOM} x", f"error unavailable {ROOM}")
        await bob.connection.send("subscribe room")
        await bob.expect_bye(4704, "unavailable")
        await ann.send("pusher:subscribe", {"channel": "room"})
        await expect_error_and_close(ann, 4100)
        Engines.made.away = False
        async with line(rig) as again:
            await again.join(ROOM, "bob")


async def test_apps_that_are_reloaded_hold_for_clients_of_both_protocols() -> None:
    async with both() as rig, rig.client() as ann, line(rig) as bob:
        await ann.subscribe("room")
        await bob.ask("subscribe room", "subscribed room")
        new = App(id="5", keys=(AppKey(OTHER_KEY, "other secret"),))
        rig.server.reload(replace(rig.server.config, apps=Apps([new])))
        await expect_error_and_close(ann, 4003)
        await bob.expect_bye(4700, "app-disabled")
        async with unopened(rig) as old:
            await old.expect_bye(4720, "unknown-key")
        async with line(rig, f"/line/{OTHER_KEY}") as carol:
            private = proof(carol.id, "private-a", secret="other secret")
            await carol.ask(f"subscribe private-a {private}", "subscribed private-a")
        assert (await publish_line(rig, "room x"))[0] == 401
        token = f"{OTHER_KEY}:{proof('publish', secret='other secret')}"
        assert await publish_line(rig, "room x", token) == (200, "published\n")


async def test_sessions_of_a_terminated_user_are_those_that_signed_in() -> None:
    """The line protocol has no sign-in: a member of the same name stays."""
    async with both() as rig, line(rig) as bob:
        await bob.join(ROOM, "bob")
        assert (await rig.request("POST", "/users/bob/terminate_connections", {})).status == 200
        await bob.expect_nothing()


# -- Connections ---------------------------------------------------------------------------


async def test_a_client_that_sends_too_much_is_closed_in_its_protocol() -> None:
    async with both(max_messages_per_second=1) as rig, rig.client() as ann, line(rig) as bob:
        for _ in range(11):
            await bob.connection.send("nonsense")
            await ann.send("pusher:ping", {})
        for _ in range(10):
            await bob.expect("error bad-line")
            await ann.expect('{"event":"pusher:pong","data":"{}"}')
        await bob.expect_bye(4707, "too-many-messages")
        await expect_error_and_close(ann, 4100)


async def test_a_client_that_does_not_answer_a_ping_is_closed_in_its_protocol() -> None:
    async with both(ping_interval=0.3, pong_timeout=0.3) as rig, wire(rig) as bob, wire(rig) as ann:
        await bob.send(LINE_UPGRADE)
        await ann.send(UPGRADE)
        await bob.read_until(b"bye ping-unanswered\x88\x11\x12\x65ping-unanswered")
        await ann.read_until(b"Pong reply not received")


async def test_clients_hold_too_much_of_incomplete_messages_whatever_their_protocol() -> None:
    async with both() as rig, wire(rig) as ann, wire(rig) as bob:
        intake = Intake(asyncio.get_running_loop(), most=100_000)
        rig.server.context.intake = intake
        await ann.send(UPGRADE)
        await ann.read_until(b'120}"}')
        await bob.send(LINE_UPGRADE)
        await bob.read_until(b"hello line-")
        await ann.send(frame(b"x" * 60_000)[:-100])
        async with asyncio.timeout(PATIENCE_S):
            while intake.bytes < 59_000:  # noqa: ASYNC110 - there is no event to await
                await asyncio.sleep(0.01)
        await bob.send(frame(b"x" * 90_000)[:-100])
        await bob.read_until(b"bye too-much-unfinished")
        assert (intake.dropped, len(intake)) == (1, 1)


async def test_connections_of_an_address_are_counted_over_both_protocols() -> None:
    async with both(max_connections_per_ip=2) as rig, rig.client() as ann, line(rig) as bob:
        async with unopened(rig) as third:
            await third.expect_bye(4706, "address-over-limit")
        async with rig.open() as third_of_pusher:
            await expect_error_and_close(third_of_pusher, 4100)
        await bob.expect_nothing()
        await ann.expect_nothing_before_pong()


async def test_clients_that_prove_nothing_in_time_are_closed_in_their_protocol() -> None:
    patience = {"authorized_connections_timeout": 0.5, "ping_interval": 0.4}
    async with (
        both(**patience) as rig,
        rig.client() as ann,
        line(rig) as bob,
        line(rig) as carol,
    ):
        await carol.join(ROOM, "carol")
        await bob.ask("subscribe room", "subscribed room")
        await bob.expect_bye(4710, "not-identified")
        await expect_error_and_close(ann, 4009)
        await carol.expect_nothing()


async def test_clients_of_both_protocols_share_framings_and_have_lanes_of_their_own() -> None:
    compressed = {"enable_ws_compression": True, "ws_compression_threshold": 0}
    async with both(**compressed) as rig, AsyncExitStack() as stack:
        # Of equal requests the second is answered from memory: carol's is another.
        other = {"X-Request": "another"}
        async with (
            rig.client() as ann,
            line(rig) as bob,
            line(rig, additional_headers=other) as carol,
        ):
            dave = await stack.enter_async_context(line(rig, compression=None))
            assert bob.connection.protocol.extensions
            sessions = tenant_of(rig).sessions
            lanes = [sessions[one].peer.lane for one in (ann.socket_id, bob.id, carol.id, dave.id)]
            assert lanes[0].framing is lanes[1].framing
            assert lanes[1] is lanes[2]
            assert len(set(lanes)) == 3
            await ann.subscribe("room")
            for client in (bob, carol, dave):
                await client.ask("subscribe room", "subscribed room")
            before = rig.server.node.counters.encodings
            await rig.publish("n", "room", "x" * 500)
            for client in (bob, carol, dave):
                await client.expect(f'event room n "{"x" * 500}"')
            assert named(await ann.receive()) == ("n", "x" * 500)
            assert rig.server.node.counters.encodings - before == 3


async def test_the_log_for_debugging_shows_lines_without_their_proofs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="heliograph.net")
    async with both(debug=True) as rig, rig.client() as ann, line(rig) as bob:
        await ann.join(ROOM, "ann")
        await bob.join(ROOM, "bob", "ann")
        secret = proof(bob.id, "private-a")
        await bob.ask(f"subscribe private-a {secret}", "subscribed private-a")
        await bob.ask(f"jion {ROOM} bob {secret}", "error bad-line")
        await bob.connection.close(4321, secret)
        await ann.receive()
        await ann.receive()
    log = [one for one in caplog.messages if one.startswith(bob.id)]
    assert f"{bob.id} received join {ROOM} bob (hidden)" in log
    assert f"{bob.id} sent joined {ROOM} ann bob" in log
    assert f"{bob.id} received subscribe private-a (hidden)" in log
    assert f"{bob.id} received ({len(f'jion {ROOM} bob {secret}')} bytes)" in log
    assert f"{bob.id} received a Close frame: 4321 (64 characters)" in log
    assert secret not in caplog.text
    assert proof(bob.id, ROOM, "bob") not in caplog.text
    # Pusher's messages are redacted by Pusher's dialect.
    assert any(f'"auth":"{KEY}:(hidden)"' in one for one in caplog.messages)


async def greeted(rig: Rig, upgrade: bytes, greeting: bytes) -> None:
    async with wire(rig) as one:
        await one.send(upgrade)
        assert b"101 Switching Protocols" in await one.read_until(greeting)


async def test_remembered_handshakes_of_two_protocols_are_not_mistaken_for_each_other() -> None:
    """Their requests differ in the path only; the second of each is answered from memory."""
    async with both() as rig:
        asked: list[str] = []
        upgrades: Any = rig.server.upgrades
        for dialect in upgrades._dialects:
            name, opening = dialect.name, dialect.opening

            def noted(request: Any, name: str = name, opening: Any = opening) -> Any:
                asked.append(name)
                return opening(request)

            dialect.opening = noted
        for _ in range(3):
            await greeted(rig, LINE_UPGRADE, b"hello line-")
            await greeted(rig, UPGRADE, b"pusher:connection_established")
        # The first of the dialects is asked for both requests, the last one for its own.
        assert asked == ["line", "line", "pusher"]
        names = sorted(one.opening.dialect.name for one in upgrades._known.values())
        assert names == ["line", "pusher"]


# -- HTTP ----------------------------------------------------------------------------------


async def test_the_http_endpoint_of_the_second_protocol_refuses_what_is_wrong() -> None:
    async with both(max_event_bytes=5, max_publishes_per_second=1) as rig:
        for token in ("", KEY, f"{KEY}:0", f"nobody:{proof('publish')}"):
            assert await publish_line(rig, "room x", token) == (401, "Unauthorized\n")
        for body in ("", "room", " x", "röom x"):
            assert (await publish_line(rig, body))[0] == 400
        assert (await publish_line(rig, "room 123456"))[0] == 413
        assert (await rig.fetch("GET", "/line/publish")).status == 405
        assert (await publish_line(rig, "room 12345"))[0] == 200
        assert (await publish_line(rig, "room 12345"))[0] == 429


async def test_the_body_of_a_request_without_a_valid_token_is_not_received() -> None:
    async with both() as rig, wire(rig) as one:
        head = b"POST /line/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        await one.send(head + b"\r\n")
        assert b"401 Unauthorized" in await one.read_all()
    async with both() as rig, wire(rig) as other:
        token = f"Authorization: Bearer {KEY}:{proof('publish')}\r\n".encode()
        await other.send(head + token + b"Expect: 100-continue\r\n\r\n")
        assert b"100 Continue" in await other.read_until(b"\r\n\r\n")
        await other.send(b"room ".ljust(1000, b"x"))
        assert b"200 OK" in await other.read_until(b"published\n")


async def test_requests_go_to_the_api_of_the_protocol_that_has_a_path_for_them() -> None:
    async with both(cors_allowed_origins=["https://a.example"]) as rig:
        assert (await rig.request("GET", "/channels")).status == 200
        assert (await rig.fetch("GET", "/health")).status == 200
        assert (await rig.fetch("GET", "/line/else")).status == 404
        asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        for path in ("/line/publish", f"/apps/{APP_ID}/events"):
            reply = await rig.fetch("OPTIONS", path, headers=asked)
            assert reply.status == 204
            assert reply.headers["Access-Control-Allow-Origin"] == "https://a.example"
    async with both(pusher_api_port=0) as rig:
        assert rig.server.port != rig.server.api_port
        assert (await publish_line(rig, "room x", port=rig.server.api_port))[0] == 200
        assert (await publish_line(rig, "room x", port=rig.server.port))[0] == 404


async def test_metrics_name_the_paths_and_count_the_clients_of_both_protocols() -> None:
    async with both(metrics=True) as rig, rig.client() as ann, line(rig) as bob:
        await ann.join(ROOM, "ann")
        await bob.join(ROOM, "bob", "ann")
        await publish_line(rig, "room x")
        await publish_line(rig, "room x", "wrong")
        await rig.fetch("GET", "/line/a")
        await rig.fetch("GET", "/line/b")
        await rig.request("GET", "/channels")
        async with unopened(rig, "/line/nobody") as nobody:
            await nobody.expect_bye(4720, "unknown-key")
        page = (await rig.fetch("GET", "/metrics")).text.splitlines()
    routes = [row for row in page if row.startswith("heliograph_api_requests_total{")]
    assert 'heliograph_api_requests_total{route="/line/publish",status="200"} 1' in routes
    assert 'heliograph_api_requests_total{route="/line/publish",status="401"} 1' in routes
    assert 'heliograph_api_requests_total{route="/line/{key}",status="404"} 2' in routes
    assert len(routes) == 4
    for row in (
        'heliograph_connections{app="3"} 2',
        'heliograph_subscriptions{app="3"} 2',
        'heliograph_channels{app="3",kind="presence"} 1',
        'heliograph_client_errors_total{code="4720"} 1',
    ):
        assert row in page
