"""Webhooks to real receivers that are slow, broken, gone or rude, and servers that are killed."""

import asyncio
import dataclasses
import json
import logging
import random
import re
import secrets
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pusher
import pytest

from heliograph.config.apps import App, AppKey, Webhook
from heliograph.engine.answers import (
    CacheFilled,
    CacheMiss,
    Change,
    ChannelOccupied,
    ChannelVacated,
)
from heliograph.errors import ConfigError
from heliograph.hub.facts import (
    Event,
    Member,
    MemberAdded,
    MemberRemoved,
    SubscriptionCount,
    UserOffline,
    UserOnline,
)
from heliograph.webhooks import (
    Limits,
    MemoryStore,
    SqliteStore,
    Store,
    Webhooks,
)
from heliograph.webhooks.courier import REMOVALS_AT_ONCE
from heliograph.webhooks.debounce import FORGOTTEN_AT_ONCE
from tests.integration.rig import APP_ID, KEY, PATIENCE_S, SECRET
from tests.owing import SCOPE, Truth, owed

OTHER_APP_ID = "4"

QUICK = Limits(grace_s=0.12, batch_s=0.05, timeout_s=0.4, backoff_s=0.02, max_backoff_s=0.1)


@dataclass
class Request:
    """A request as it came."""

    head: bytes
    body: bytes

    @property
    def headers(self) -> Mapping[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return dict(line.split(": ", 1) for line in lines if line)

    @property
    def delivery(self) -> str:
        return self.headers["X-Heliograph-Delivery"]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its events, as the official SDK sees them."""
        sdk: Any = pusher.Pusher(APP_ID, KEY, SECRET)
        webhook = sdk.validate_webhook(
            self.headers["X-Pusher-Key"], self.headers["X-Pusher-Signature"], self.body.decode()
        )
        assert webhook is not None, "the SDK refuses it"
        events: list[dict[str, Any]] = webhook["events"]
        return events


Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answering(answer: str) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(answer.encode())

    return behave


OK = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
NO_CONTENT = answering("HTTP/1.1 204 No Content\r\n\r\n")
BROKEN = answering("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\nsorr")


async def hang(writer: asyncio.StreamWriter) -> None:
    """Do not answer."""


async def reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00" + b"\x00" * 4)
    writer.transport.abort()


async def talk_for_ever(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        await asyncio.sleep(0)


class Receiver:
    """
    An application's server: notes the requests, and behaves as it is set.

    *behaviours* are for the first requests; those after them are taken.
    """

    def __init__(self, *behaviours: Behaviour) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0
        self.behaviour = OK
        self._behaviours = list(behaviours)
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event that came, once."""
        deliveries = {request.delivery: request for request in self.requests}
        return [event for request in deliveries.values() for event in request.events]

    @property
    def story(self) -> list[str]:
        return [short(event) for event in self.events]

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def received(self, count: int) -> list[Request]:
        """Return the first *count* requests, when they have come."""
        await until(lambda: len(self.requests) >= count)
        return self.requests[:count]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = Request(head, b"")
                request.body = await reader.readexactly(int(request.headers["Content-Length"]))
                behave = self._behaviours.pop(0) if self._behaviours else self.behaviour
                self.requests.append(request)
                await behave(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def short(event: Mapping[str, Any]) -> str:
    """Return an event in short."""
    about = [str(event[name]) for name in ("channel", "user_id", "data") if event.get(name)]
    return " ".join([str(event["name"]), *about])


@asynccontextmanager
async def receiving(*behaviours: Behaviour) -> AsyncIterator[Receiver]:
    receiver = Receiver(*behaviours)
    await receiver.listen()
    try:
        yield receiver
    finally:
        await receiver.close()


def app_with(*webhooks: Webhook, batching: bool = False, **settings: Any) -> App:
    keys = settings.pop("keys", (AppKey(KEY, SECRET),))
    return App(id=APP_ID, keys=keys, webhooks=webhooks, webhook_batching=batching, **settings)


def app_for(receiver: Receiver, *, batching: bool = False, **webhook: Any) -> App:
    return app_with(Webhook(url=receiver.url, **webhook), batching=batching)


def webhooks_of(
    *apps: App,
    store: Store | None = None,
    now_s: Callable[[], float] = time.time,
    settle_s: float = 30.0,
    limits: Limits = QUICK,
) -> Webhooks:
    """Webhooks of a server that begins, with an engine that has the state of one process."""
    webhooks = Webhooks(
        store=store or MemoryStore(),
        now_s=now_s,
        monotonic=time.monotonic,
        random=lambda: 0.5,
        settle_s=settle_s,
        limits=limits,
    )
    webhooks.configure(apps)
    for app_id in (APP_ID, OTHER_APP_ID):
        webhooks.hold(app_id, "first", lambda _mark: None)
        webhooks.restart(app_id, SCOPE, secrets.token_hex(8))
    return webhooks


@asynccontextmanager
async def sending(*apps: App, stop_s: float = 0.0, **options: Any) -> AsyncIterator[Webhooks]:
    webhooks = webhooks_of(*apps, **options)
    await webhooks.start()
    try:
        yield webhooks
    finally:
        await webhooks.stop(stop_s)


def owe(webhooks: Webhooks, *changes: Change) -> None:
    webhooks.owe(APP_ID, owed(changes))


def say(channel: str, number: int) -> Event:
    """A client's event."""
    return Event(channel, "client-n", b'"%d"' % number, "1.2")


# -- What is sent --------------------------------------------------------------------------


async def test_the_request_to_the_letter() -> None:
    """PHP's SDK reads headers by their spelling, Node's compares the content type as a whole."""
    async with receiving() as receiver:
        hook = Webhook(url=receiver.url + "?token=t", headers=(("X-Mine", "yes"),))
        async with sending(app_with(hook), now_s=lambda: 1327078148.132) as webhooks:
            owe(webhooks, ChannelOccupied("my-channel"))
            (request,) = await receiver.received(1)
    assert request.body == (
        b'{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"my-channel"}]}'
    )
    signature = "c19001ae3963ccb13bf618e5b16ba9848e7e74df0993aa0689168e341c6833cf"
    assert request.head.decode().split("\r\n") == [
        "POST /hook?token=t HTTP/1.1",
        f"Host: 127.0.0.1:{receiver.port}",
        "Content-Type: application/json",
        f"X-Pusher-Key: {KEY}",
        f"X-Pusher-Signature: {signature}",
        f"X-Heliograph-Delivery: {request.delivery}",
        "X-Mine: yes",
        "User-Agent: Heliograph",
        "Accept: */*",
        "Content-Length: 87",
        "",
        "",
    ]


async def test_every_kind_of_event_is_taken_by_the_sdk() -> None:
    changes: list[Change] = [
        ChannelOccupied("presence-c"),
        MemberAdded("presence-c", Member("7")),
        Event("presence-c", "client-e", b'"{\\"x\\":1}"', "1.2", "7"),
        SubscriptionCount("c", 3),
        CacheMiss("cache-c"),
        UserOnline("7"),
        MemberRemoved("presence-c", "7"),
        ChannelVacated("presence-c"),
        UserOffline("7"),
    ]
    async with receiving() as receiver, sending(app_for(receiver, batching=True)) as webhooks:
        owe(webhooks, *changes)
        first, second = await receiver.received(2)
    assert first.events == [
        {"name": "channel_occupied", "channel": "presence-c"},
        {"name": "member_added", "channel": "presence-c", "user_id": "7"},
        {
            "name": "client_event",
            "channel": "presence-c",
            "event": "client-e",
            "data": '{"x":1}',
            "socket_id": "1.2",
            "user_id": "7",
        },
        {"name": "subscription_count", "channel": "c", "subscription_count": 3},
        {"name": "cache_miss", "channel": "cache-c"},
        {"name": "user_online", "channel": "", "user_id": "7"},
    ]
    assert second.events == [
        {"name": "member_removed", "channel": "presence-c", "user_id": "7"},
        {"name": "channel_vacated", "channel": "presence-c"},
        {"name": "user_offline", "channel": "", "user_id": "7"},
    ]


async def test_without_batching_every_event_is_a_request() -> None:
    async with receiving() as receiver, sending(app_for(receiver)) as webhooks:
        owe(webhooks, say("private-c", 1), say("private-c", 2), say("private-d", 3))
        requests = await receiver.received(3)
    assert [len(request.events) for request in requests] == [1, 1, 1]
    assert len({request.delivery for request in requests}) == 3


async def test_a_webhook_is_sent_the_events_that_it_selects() -> None:
    async with receiving() as every, receiving() as presence, receiving() as prefixed:
        app = app_with(
            Webhook(url=every.url),
            Webhook(url=presence.url, events=("presence", "user_presence")),
            Webhook(url=prefixed.url, channel_prefix="presence-a"),
            Webhook(url=every.url + "/off", enabled=False),
        )
        async with sending(app, App(id=OTHER_APP_ID, keys=app.keys)) as webhooks:
            webhooks.owe(OTHER_APP_ID, owed([ChannelOccupied("c")]))
            webhooks.owe("nobody", owed([ChannelOccupied("c")]))
            owe(
                webhooks,
                ChannelOccupied("#server-to-user-7"),
                ChannelOccupied("presence-b"),
                MemberAdded("presence-b", Member("7")),
                UserOnline("7"),
                ChannelOccupied("presence-ab"),
            )
            await every.received(4)
            await presence.received(2)
            await prefixed.received(1)
    assert sorted(every.story) == [
        "channel_occupied presence-ab",
        "channel_occupied presence-b",
        "member_added presence-b 7",
        "user_online 7",
    ]
    assert sorted(presence.story) == ["member_added presence-b 7", "user_online 7"]
    assert prefixed.story == ["channel_occupied presence-ab"]
    assert not any("/off" in str(request.head) for request in every.requests)


async def test_a_channel_that_is_occupied_again_in_time_was_never_vacated() -> None:
    async with receiving() as receiver, sending(app_for(receiver)) as webhooks:
        owe(webhooks, ChannelOccupied("c"))
        owe(webhooks, ChannelVacated("c"), ChannelOccupied("c"), say("private-d", 1))
        await receiver.received(2)
        owe(webhooks, ChannelVacated("c"))
        await receiver.received(3)
    assert receiver.story == ["channel_occupied c", "client_event private-d 1", "channel_vacated c"]


async def test_a_cache_miss_is_reported_again_once_its_channel_has_an_event() -> None:
    filled = CacheFilled("cache-c")
    async with receiving() as receiver, sending(app_for(receiver)) as webhooks:
        owe(webhooks, CacheMiss("cache-c"), CacheMiss("cache-c"), filled, CacheMiss("cache-c"))
        await receiver.received(2)
    assert receiver.story == ["cache_miss cache-c"] * 2


# -- When it does not arrive ---------------------------------------------------------------


async def test_a_broken_receiver_gets_the_same_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with receiving(BROKEN, BROKEN) as receiver, sending(app_for(receiver)) as webhooks:
        owe(webhooks, say("private-c", 1), say("private-c", 2))
        requests = await receiver.received(4)
        await until(lambda: webhooks.counters.sent == 2)
        assert (webhooks.counters.queued, webhooks.counters.retried) == (2, 2)
        assert webhooks.pending == 0
    first, second, third, later = requests
    assert (first.body, first.headers) == (second.body, second.headers)
    assert (second.body, second.headers) == (third.body, third.headers)
    assert later.delivery != first.delivery
    assert receiver.story == ["client_event private-c 1", "client_event private-c 2"]
    said = [record.getMessage() for record in caplog.records if "webhook " in record.getMessage()]
    label = f"app 3: webhook {receiver.url}"
    assert said == [f"{label}: HTTP 500; trying again", f"{label}: accepts events again"]


@pytest.mark.parametrize(
    "rude",
    [
        reset,
        hang,
        answering("HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n"),
        answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        answering("what?\r\n\r\n"),
        answering(""),
    ],
    ids=["resets", "hangs", "redirects", "knows nothing", "speaks no HTTP", "says nothing"],
)
async def test_whatever_a_receiver_does_it_gets_it_again(rude: Behaviour) -> None:
    async with receiving(rude) as receiver, sending(app_for(receiver)) as webhooks:
        owe(webhooks, say("private-c", 1))
        first, second = await receiver.received(2)
        await until(lambda: webhooks.counters.sent == 1)
        assert (first.body, first.headers) == (second.body, second.headers)
        assert second.head.startswith(b"POST /hook ")


async def test_an_answer_counts_as_soon_as_its_status_is_there() -> None:
    async with (
        receiving(talk_for_ever, NO_CONTENT) as receiver,
        sending(app_for(receiver)) as webhooks,
    ):
        owe(webhooks, say("private-c", 1), say("private-c", 2))
        await receiver.received(2)
        await until(lambda: webhooks.counters.sent == 2)
        assert webhooks.counters.retried == 0


async def test_connections_are_used_again() -> None:
    async with receiving() as receiver, sending(app_for(receiver)) as webhooks:
        owe(webhooks, *(say("private-c", number) for number in range(5)))
        await receiver.received(5)
    assert receiver.connections == 1


async def test_a_receiver_that_is_down_for_a_while_misses_nothing() -> None:
    async with receiving() as receiver, sending(app_for(receiver, batching=True)) as webhooks:
        await receiver.close()
        owe(webhooks, *(say("private-c", number) for number in range(3)))
        await until(lambda: webhooks.counters.retried >= 2)
        owe(webhooks, *(say("private-c", number) for number in range(3, 6)))
        await receiver.listen()
        await receiver.received(2)
    assert receiver.story == [f"client_event private-c {number}" for number in range(6)]


async def test_a_slow_receiver_delays_no_other_and_other_channels_pass() -> None:
    async with receiving() as slow, receiving() as quick:
        slow.behaviour = hang
        app = app_with(Webhook(url=slow.url), Webhook(url=quick.url))
        limits = dataclasses.replace(QUICK, timeout_s=4.0, max_tries_at_once=3)
        async with sending(app, limits=limits) as webhooks:
            owe(webhooks, *(say("private-c", number) for number in range(20)))
            owe(webhooks, say("private-d", 20), say("private-e", 21), say("private-f", 22))
            await quick.received(23)
            await slow.received(3)
    assert sorted(slow.story) == [
        "client_event private-c 0",
        "client_event private-d 20",
        "client_event private-e 21",
    ]


async def test_deliveries_that_never_arrive_are_dropped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = dataclasses.replace(QUICK, retry_for_s=0.05)
    async with receiving() as receiver:
        receiver.behaviour = BROKEN
        async with sending(app_for(receiver), limits=limits) as webhooks:
            owe(webhooks, say("private-c", 1), say("private-c", 2))
            await until(lambda: webhooks.counters.failed == 2)
            assert webhooks.pending == 0
            receiver.behaviour = OK
            owe(webhooks, say("private-c", 3))
            await until(lambda: webhooks.counters.sent == 1)
    said = [record.getMessage() for record in caplog.records]
    assert sum("dropped after 2 attempts, 1 event lost" in line for line in said) == 1


async def test_a_receiver_that_fails_again_and_again_fills_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clients cause the events, so that they decide how often it is tried."""
    caplog.set_level(logging.INFO, "heliograph.webhooks")
    limits = dataclasses.replace(QUICK, retry_for_s=0.05)
    async with receiving() as receiver, sending(app_for(receiver), limits=limits) as webhooks:
        counters = webhooks.counters
        for _ in range(5):
            receiver.behaviour = BROKEN
            owe(webhooks, say("private-c", 1), say("private-d", 1))
            await until(lambda: counters.failed == 2 * counters.sent + 2)
            receiver.behaviour = OK
            owe(webhooks, say("private-c", 2))
            await until(lambda: counters.failed == 2 * counters.sent)
    said = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert [line.replace("HTTP 500; ", "").partition(" ")[0] for line in said] == [
        "trying",
        "delivery",
        "accepts",
    ]


async def test_what_is_too_much_is_dropped_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = dataclasses.replace(QUICK, max_queued_events=5)
    async with receiving() as receiver:
        await receiver.close()
        async with sending(app_for(receiver, batching=True), limits=limits) as webhooks:
            owe(webhooks, *(say("private-c", number) for number in range(20)))
            assert (webhooks.counters.dropped, webhooks.pending) == (15, 5)
            await receiver.listen()
            await receiver.received(1)
            await until(lambda: webhooks.counters.sent == 1)
    assert receiver.story == [f"client_event private-c {number}" for number in range(15, 20)]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    label = f"webhook {receiver.url}"
    assert [line for line in said if "trying again" not in line] == [
        f"app 3: the queue of {label} is full; events are dropped, those of public channels first",
        f"app 3: the queue of {label} has room again; 15 events dropped",
    ]


@pytest.mark.parametrize("batching", [True, False])
async def test_public_channels_evict_no_webhook_event_of_signed_in_users(
    batching: bool,
) -> None:
    """However many there are, and while the webhook's server is away."""
    limits = dataclasses.replace(QUICK, max_queued_events=720, retry_for_s=60.0)
    async with receiving() as receiver:
        await receiver.close()
        async with sending(app_for(receiver, batching=batching), limits=limits) as webhooks:
            for number in range(59):
                owe(webhooks, *(ChannelOccupied(f"c{number}-{n}") for n in range(100)))
                owe(webhooks, MemberAdded(f"presence-{number}", Member("7")))
                await asyncio.sleep(0)  # deliveries are formed, and tried in vain
            owe(webhooks, UserOnline("7"))
            await until(lambda: webhooks.counters.retried > 3)
            assert webhooks.pending <= 720
            assert webhooks.counters.dropped == 59 * 101 + 1 - webhooks.pending
            await receiver.listen()
            await until(lambda: webhooks.pending == 0)
    expected = [f"member_added presence-{number} 7" for number in range(59)]
    assert sorted(one for one in receiver.story if "occupied" not in one) == sorted(
        [*expected, "user_online 7"]
    )


async def test_after_a_restart_a_queue_knows_what_strangers_caused(tmp_path: Path) -> None:
    limits = dataclasses.replace(QUICK, max_queued_events=100, batch_s=60.0)
    async with receiving() as receiver:
        app = app_for(receiver, batching=True)
        async with sending(app, limits=limits, store=SqliteStore(tmp_path)) as webhooks:
            owe(webhooks, *(ChannelOccupied(f"c{n}") for n in range(40)))
            owe(webhooks, *(MemberAdded("presence-c", Member(str(n))) for n in range(20)))
        limits = dataclasses.replace(QUICK, max_queued_events=24)
        async with sending(app, limits=limits, store=SqliteStore(tmp_path)) as webhooks:
            await until(lambda: webhooks.pending == 0)
            assert webhooks.counters.dropped == 40 + 20 - len(receiver.story)
    # Two are reserved for each of the five other kinds.
    assert receiver.story == [f"member_added presence-c {n}" for n in range(6, 20)]


async def test_no_log_line_holds_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    limits = dataclasses.replace(QUICK, retry_for_s=0.05)
    urls = ["http://u:PASSWORD@127.0.0.1:1/?PASSWORD", "http://u:PASSWORD@nowhere.invalid/"]
    hooks = [Webhook(url=url, headers=(("X-Secret", "PASSWORD"),)) for url in urls]
    async with sending(app_with(*hooks), limits=limits) as webhooks:
        owe(webhooks, say("private-c", 1))
        await until(lambda: webhooks.counters.failed == 2)
    text = caplog.text
    assert "http://127.0.0.1:1/: no connection" in text
    assert "PASSWORD" not in text
    assert SECRET not in text


async def test_a_password_in_a_url_is_sent_as_it_should_be() -> None:
    async with receiving() as receiver:
        url = receiver.url.replace("http://", "http://user:pass@")
        async with sending(app_with(Webhook(url=url))) as webhooks:
            owe(webhooks, say("private-c", 1))
            (request,) = await receiver.received(1)
    assert request.headers["Authorization"] == "Basic dXNlcjpwYXNz"


# -- Changing the configuration ------------------------------------------------------------


async def test_webhooks_come_change_and_go() -> None:
    async with receiving() as old, receiving() as new:
        async with sending(app_for(old)) as webhooks:
            owe(webhooks, ChannelOccupied("c"))
            await old.received(1)
            webhooks.configure([app_with(Webhook(url=old.url), Webhook(url=new.url))])
            owe(webhooks, ChannelOccupied("d"))
            await old.received(2)
            await new.received(1)
            webhooks.configure([app_with(Webhook(url=new.url, events=("channel_existence",)))])
            owe(webhooks, say("private-c", 1), ChannelVacated("c"))
            await new.received(2)
            webhooks.configure([])
            owe(webhooks, ChannelOccupied("e"))
            assert webhooks.counters.queued == 4
    assert old.story == ["channel_occupied c", "channel_occupied d"]
    assert new.story == ["channel_occupied d", "channel_vacated c"]


async def test_what_is_reserved_is_for_the_kinds_that_a_webhook_asks_for_now() -> None:
    limits = dataclasses.replace(QUICK, max_queued_events=8)
    url = "http://127.0.0.1:9/"  # nothing is tried before the loop turns
    private = [ChannelOccupied(f"private-{number}") for number in range(20)]
    async with sending(
        app_with(Webhook(url=url, events=("channel_existence",))), limits=limits
    ) as (webhooks):
        owe(webhooks, *private)
        assert webhooks.pending == 8
        both = Webhook(url=url, events=("channel_existence", "presence"))
        webhooks.configure([app_with(both)])
        owe(webhooks, ChannelOccupied("private-more"))
        assert webhooks.pending == 6  # a quarter is for members


async def test_what_no_webhook_asks_for_any_longer_is_forgotten_and_the_rest_is_known() -> None:
    async with receiving() as receiver:
        everything = app_for(receiver, events=("channel_existence", "client_event"))
        async with sending(everything) as webhooks:
            owe(webhooks, ChannelOccupied("c"))
            webhooks.configure([everything])  # nothing new of it
            owe(webhooks, ChannelOccupied("c"))
            assert webhooks.counters.queued == 1
            webhooks.configure([app_for(receiver, events=("client_event",))])
            webhooks.configure([everything])
            owe(webhooks, ChannelOccupied("c"))
            await receiver.received(2)
    assert receiver.story == ["channel_occupied c", "channel_occupied c"]


async def test_many_removals_are_sent_a_part_in_each_turn() -> None:
    """One client may leave thousands of channels."""
    channels = [f"c{number}" for number in range(5 * REMOVALS_AT_ONCE)]
    app = app_with(Webhook(url="http://127.0.0.1:9/"), batching=True)
    async with asyncio.timeout(20), sending(app) as webhooks:
        for channel in channels:
            owe(webhooks, ChannelOccupied(channel), ChannelVacated(channel))
        time.sleep(2 * QUICK.grace_s)  # noqa: ASYNC251 - the loop stands still: all are due then
        queued = [webhooks.counters.queued]
        while queued[-1] < 2 * len(channels):
            await asyncio.sleep(0)
            queued.append(webhooks.counters.queued)
    assert max(after - before for before, after in pairwise(queued)) == REMOVALS_AT_ONCE


def occupied(webhooks: Webhooks, many: int) -> None:
    for number in range(many):
        owe(webhooks, ChannelOccupied(f"c{number}"))


async def test_the_reported_state_of_a_removed_app_is_forgotten_a_part_in_each_turn(
    tmp_path: Path,
) -> None:
    """An app may have a hundred thousand channels, and may be back before they are forgotten."""
    app = app_with(Webhook(url="http://127.0.0.1:9/"))
    async with asyncio.timeout(20), sending(app, store=SqliteStore(tmp_path)) as webhooks:
        occupied(webhooks, 5 * FORGOTTEN_AT_ONCE)
        (audience,) = webhooks._audiences.values()
        webhooks.configure([])
        left = [len(audience.reported)]
        webhooks.configure([app])
        owe(webhooks, ChannelOccupied("c1"))
        while left[-1]:
            await asyncio.sleep(0)
            left.append(len(audience.reported))
    assert left == [many * FORGOTTEN_AT_ONCE for many in (4, 3, 2, 1, 0)]
    assert (await what_is_kept(tmp_path))[0] == 1


async def test_states_that_a_webhook_wants_no_more_are_forgotten_a_part_in_each_turn(
    tmp_path: Path,
) -> None:
    url = "http://127.0.0.1:9/"
    app = app_with(Webhook(url=url))
    members_only = app_with(Webhook(url=url, events=("presence",)))
    async with asyncio.timeout(20), sending(app, store=SqliteStore(tmp_path)) as webhooks:
        occupied(webhooks, 3 * FORGOTTEN_AT_ONCE)
        (audience,) = webhooks._audiences.values()
        webhooks.configure([members_only])
        left = [len(audience.reported)]
        while left[-1]:
            await asyncio.sleep(0)
            left.append(len(audience.reported))
    assert left == [many * FORGOTTEN_AT_ONCE for many in (2, 1, 0)]
    assert (await what_is_kept(tmp_path))[0] == 0


async def test_the_queue_of_a_webhook_that_is_disabled_is_dropped(tmp_path: Path) -> None:
    async with receiving() as receiver:
        await receiver.close()
        store = SqliteStore(tmp_path)
        async with sending(app_for(receiver), store=store) as webhooks:
            owe(webhooks, ChannelOccupied("c"), say("c", 1))
            await until(lambda: webhooks.counters.retried > 0)
            webhooks.configure([app_for(receiver, enabled=False)])
            assert (webhooks.pending, webhooks.counters.dropped) == (0, 2)
        assert await what_is_kept(tmp_path) == (0, 0, 0)


async def test_the_oldest_key_signs_and_a_new_one_takes_over() -> None:
    old, new = AppKey("old", "1"), AppKey(KEY, SECRET)
    async with receiving(BROKEN) as receiver:
        hook = Webhook(url=receiver.url)
        async with sending(app_with(hook, keys=(old, new))) as webhooks:
            owe(webhooks, say("private-c", 1))
            (first,) = await receiver.received(1)
            webhooks.configure([app_with(hook, keys=(new,))])
            _, second = await receiver.received(2)
    assert first.headers["X-Pusher-Key"] == "old"
    assert first.delivery == second.delivery
    assert short(second.events[0]) == "client_event private-c 1"


# -- Stopping and starting -----------------------------------------------------------------


async def test_without_a_file_stopping_sends_what_is_held_and_pending() -> None:
    limits = dataclasses.replace(QUICK, grace_s=60.0, batch_s=60.0)
    async with receiving(BROKEN) as receiver:
        webhooks = webhooks_of(app_for(receiver, batching=True), limits=limits)
        await webhooks.start()
        owe(
            webhooks,
            ChannelOccupied("presence-c"),
            MemberAdded("presence-c", Member("7")),
            MemberRemoved("presence-c", "7"),
            ChannelVacated("presence-c"),
        )
        await webhooks.stop(PATIENCE_S)
        owe(webhooks, ChannelOccupied("c"))
        assert webhooks.pending == 0
    assert receiver.story == [
        "channel_occupied presence-c",
        "member_added presence-c 7",
        "member_removed presence-c 7",
        "channel_vacated presence-c",
    ]


async def test_stopping_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    async with receiving() as receiver:
        receiver.behaviour = hang
        webhooks = webhooks_of(app_for(receiver))
        await webhooks.start()
        owe(webhooks, say("private-c", 1), say("private-c", 2))
        await receiver.received(1)
        began = time.monotonic()
        await webhooks.stop(0.1)
        assert time.monotonic() - began < 2.0
    assert webhooks.counters.dropped == 2
    assert "the server stopped before 2 events could be delivered" in caplog.text


async def test_pending_deliveries_survive_a_restart_with_their_ids(tmp_path: Path) -> None:
    async with receiving() as receiver:
        receiver.behaviour = BROKEN
        async with sending(app_for(receiver), store=SqliteStore(tmp_path)) as webhooks:
            owe(webhooks, say("private-c", 1), say("private-c", 2))
            (first,) = await receiver.received(1)
        receiver.behaviour = OK
        before = len(receiver.requests)
        async with sending(app_for(receiver), store=SqliteStore(tmp_path)) as webhooks:
            await until(lambda: webhooks.counters.sent == 2)
        again = receiver.requests[before]
        assert (again.delivery, again.body) == (first.delivery, first.body)
        assert receiver.story == ["client_event private-c 1", "client_event private-c 2"]
        assert await what_is_kept(tmp_path) == (0, 0, 0)


async def test_after_a_long_downtime_a_body_has_a_new_time_and_the_same_id(tmp_path: Path) -> None:
    async with receiving() as receiver:
        receiver.behaviour = BROKEN
        async with sending(
            app_for(receiver), store=SqliteStore(tmp_path), now_s=lambda: time.time() - 241.0
        ) as webhooks:
            owe(webhooks, say("private-c", 1))
            (first,) = await receiver.received(1)
        receiver.behaviour = OK
        before = len(receiver.requests)
        async with sending(app_for(receiver), store=SqliteStore(tmp_path)) as webhooks:
            await until(lambda: webhooks.counters.sent == 1)
    again = receiver.requests[before]
    assert again.delivery == first.delivery
    assert again.events == first.events
    assert json.loads(again.body)["time_ms"] - json.loads(first.body)["time_ms"] >= 241_000


async def test_states_that_are_not_confirmed_after_a_start_are_reported_as_gone(
    tmp_path: Path,
) -> None:
    async with receiving() as receiver:
        app = app_for(receiver)
        async with sending(app, store=SqliteStore(tmp_path)) as webhooks:
            owe(webhooks, ChannelOccupied("presence-c"), MemberAdded("presence-c", Member("7")))
            owe(webhooks, ChannelOccupied("d"), UserOnline("7"), UserOnline("8"))
            await until(lambda: webhooks.counters.sent == 5)
            owe(webhooks, ChannelVacated("d"))
        before = len(receiver.requests)
        async with sending(app, store=SqliteStore(tmp_path), settle_s=0.1) as webhooks:
            owe(webhooks, ChannelOccupied("d"), UserOnline("8"))
            await until(lambda: webhooks.counters.sent == 3)
        stories = [short(request.events[0]) for request in receiver.requests[before:]]
        assert sorted(stories) == [
            "channel_vacated presence-c",
            "member_removed presence-c 7",
            "user_offline 7",
        ]
        member, channel = (stories.index(story) for story in sorted(stories)[1::-1])
        assert member < channel
        assert await what_is_kept(tmp_path) == (2, 0, 0)


async def test_the_stored_queue_of_a_webhook_that_is_removed_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiving() as receiver:
        await receiver.close()
        async with sending(app_for(receiver), store=SqliteStore(tmp_path)) as webhooks:
            owe(webhooks, ChannelOccupied("c"), ChannelOccupied("d"), say("d", 1))
            await until(lambda: webhooks.counters.retried > 0)
        async with sending(store=SqliteStore(tmp_path)) as webhooks:
            assert webhooks.counters.dropped == 3
        assert "3 events dropped: the webhook is no longer configured" in caplog.text
        assert await what_is_kept(tmp_path) == (0, 0, 0)


async def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    await what_is_kept(tmp_path)
    change(tmp_path, "PRAGMA user_version = 3")
    webhooks = webhooks_of(store=SqliteStore(tmp_path))
    with pytest.raises(ConfigError, match="by a newer version"):
        await webhooks.start()
    await webhooks.stop(0.0)


def change(directory: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(directory / "webhooks.sqlite3")
    connection.execute(statement, values)
    connection.commit()
    connection.close()


async def left_behind(directory: Path, receiver: Receiver, count: int) -> App:
    """Have a file keep events for a receiver that is down, the first few of them in deliveries."""
    app = app_for(receiver, batching=True)
    await receiver.close()
    limits = dataclasses.replace(QUICK, batch_s=0.0, batch_events=2, max_fresh=4)
    async with sending(app, limits=limits, store=SqliteStore(directory)) as webhooks:
        owe(webhooks, *(say(f"private-{number}", number) for number in range(count)))
        await until(lambda: webhooks.counters.retried > 0)
    await receiver.listen()
    return app


def story_of(numbers: Iterable[int]) -> list[str]:
    return sorted(f"client_event private-{number} {number}" for number in numbers)


async def test_the_readable_events_of_a_damaged_file_are_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiving() as receiver:
        app = await left_behind(tmp_path, receiver, 400)
        caplog.clear()
        path = tmp_path / "webhooks.sqlite3"
        content = bytearray(path.read_bytes())
        hole = slice(6 * 4096, 7 * 4096)
        damaged = {int(one) for one in re.findall(rb"private-(\d+)\"", content[hole])}
        assert damaged
        content[hole] = random.Random(5).randbytes(4096)
        path.write_bytes(content)
        async with sending(app, store=SqliteStore(tmp_path)) as webhooks:
            assert webhooks.pending == 400 - len(damaged)
            await until(lambda: webhooks.pending == 0)
    assert sorted(receiver.story) == story_of(set(range(400)) - damaged)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"recovered events: {400 - len(damaged)}," in line
    assert await what_is_kept(tmp_path) == (0, 0, 0)


async def test_an_event_that_says_nothing_is_left_out_of_its_delivery(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [b"nonsense", b"{}", b'{"name":"client_event","channel":"private-2"', b"\xff"]
    async with receiving() as receiver:
        app = await left_behind(tmp_path, receiver, 20)
        caplog.clear()
        for number, text in enumerate(texts, 2):
            change(tmp_path, "UPDATE events SET text = ? WHERE number = ?", text, number)
        async with sending(app, store=SqliteStore(tmp_path)) as webhooks:
            await until(lambda: webhooks.pending == 0)
            assert webhooks.counters.dropped == 4
    assert sorted(receiver.story) == story_of({0, *range(5, 20)})
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["webhooks: 4 events dropped: the stored data is unreadable"]
    assert await what_is_kept(tmp_path) == (0, 0, 0)


async def test_whatever_a_file_says_an_event_goes_to_its_own_receiver(tmp_path: Path) -> None:
    async with receiving() as one, receiving() as other:
        await one.close()
        await other.close()
        app = app_with(Webhook(url=one.url), Webhook(url=other.url, channel_prefix="private-b"))
        async with sending(app, store=SqliteStore(tmp_path)) as webhooks:
            owe(webhooks, say("private-a", 1), say("private-b", 2))
            await until(lambda: webhooks.counters.retried > 3)
        change(
            tmp_path,
            "UPDATE events SET delivery = (SELECT delivery FROM events WHERE number = 3)",
        )
        await one.listen()
        await other.listen()
        async with sending(app, store=SqliteStore(tmp_path)) as webhooks:
            await until(lambda: webhooks.pending == 0)
    assert sorted(one.story) == ["client_event private-a 1", "client_event private-b 2"]
    assert other.story == ["client_event private-b 2"]


async def test_a_wrong_stream_does_not_spoil_the_order(tmp_path: Path) -> None:
    async with receiving(BROKEN, BROKEN) as receiver:
        app = app_for(receiver)
        await receiver.close()
        async with sending(app, store=SqliteStore(tmp_path)) as webhooks:
            owe(webhooks, *(say("private-c", number) for number in range(5)))
            await until(lambda: webhooks.counters.retried > 0)
        change(tmp_path, "UPDATE events SET stream = CAST(number AS TEXT)")
        await receiver.listen()
        async with sending(app, store=SqliteStore(tmp_path)) as webhooks:
            await until(lambda: webhooks.pending == 0)
    tries = [short(request.events[0]) for request in receiver.requests]
    assert tries == [f"client_event private-c {number}" for number in (0, 0, 0, 1, 2, 3, 4)]


# -- Killed --------------------------------------------------------------------------------

KILLS = 3

START_PATIENCE_S = 60.0
"""An interpreter takes its time to start on a machine that has other things to do."""

REPOSITORY = Path(__file__).parents[2]

IN_THE_CHILD = Limits(
    grace_s=0.05, batch_s=0.03, timeout_s=1.0, backoff_s=0.02, max_backoff_s=0.1, batch_events=10
)


async def test_after_every_kill_the_webhooks_replay_to_the_truth(tmp_path: Path) -> None:
    """Receivers of a server that is killed under load end up with the truth."""
    chance = random.Random(5)
    async with receiving() as receiver:
        for _ in range(KILLS):
            child = await start_child(receiver, tmp_path, seed=chance.randrange(1000))
            try:
                enough = len(receiver.requests) + chance.randrange(1, 30)
                await until(lambda: len(receiver.requests) >= enough, START_PATIENCE_S)  # noqa: B023 - awaited here
            finally:
                child.send_signal(signal.SIGKILL)
                await child.wait()
            receiver.behaviour = BROKEN if receiver.behaviour is OK else OK
        receiver.behaviour = OK
        async with sending(
            app_for(receiver, batching=True),
            store=SqliteStore(tmp_path),
            settle_s=0.1,
            limits=IN_THE_CHILD,
        ) as webhooks:
            # One member of those that may have been reported is back, and no other.
            owe(webhooks, ChannelOccupied("presence-0"), MemberAdded("presence-0", Member("0")))
            reported = webhooks._audiences[APP_ID].reported
            await until(lambda: len(reported) == 2 and webhooks.pending == 0)
        assert known_by(accepted(receiver)) == {("presence-0", None), ("presence-0", "0")}
        assert await what_is_kept(tmp_path) == (2, 0, 0)


async def start_child(receiver: Receiver, directory: Path, seed: int) -> asyncio.subprocess.Process:
    code = "from tests.integration import test_webhook_delivery as test; test.run_child()"
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, receiver.url, str(directory), str(seed), cwd=REPOSITORY
    )


def run_child() -> None:
    """Be a server in which people come and go, until killed."""
    _, url, directory, seed = sys.argv
    asyncio.run(_be_busy(url, directory, random.Random(int(seed))))


async def _be_busy(url: str, directory: str, chance: random.Random) -> None:
    webhooks = webhooks_of(
        app_with(Webhook(url=url), batching=True),
        store=SqliteStore(directory),
        settle_s=0.2,
        limits=IN_THE_CHILD,
    )
    await webhooks.start()
    truth = Truth()
    while True:
        for _ in range(chance.randrange(8)):
            session, channel = str(chance.randrange(20)), f"presence-{chance.randrange(5)}"
            if (session, channel) in truth.entered:
                changes = truth.leave(session, channel)
            else:
                changes = truth.enter(session, channel, str(int(session) % 7))
            owe(webhooks, *changes)
        await asyncio.sleep(0.002)


def accepted(receiver: Receiver) -> list[dict[str, Any]]:
    """What a receiver makes of it that knows a delivery which it has taken before."""
    seen: set[str] = set()
    events = []
    for request in receiver.requests:
        if request.delivery not in seen:
            seen.add(request.delivery)
            events += json.loads(request.body)["events"]
    return events


def known_by(events: Iterable[Mapping[str, Any]]) -> set[tuple[str, str | None]]:
    """Replay events: what is there does not begin again, what is not there does not end."""
    known: set[tuple[str, str | None]] = set()
    for event in events:
        thing = (event["channel"], event.get("user_id"))
        if event["name"] in {"channel_occupied", "member_added"}:
            assert thing not in known
            known.add(thing)
        else:
            assert thing in known
            known.discard(thing)
            assert thing[1] is not None or not any(name == thing[0] for name, _ in known)
    return known


# -- Helpers -------------------------------------------------------------------------------


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - counters tell nobody that they changed
            await asyncio.sleep(0.005)


async def what_is_kept(directory: Path) -> tuple[int, int, int]:
    """How many reported states, events and deliveries a directory's file holds."""
    store = SqliteStore(directory)
    kept = await store.open(lambda: None, lambda: None)
    await store.close()
    return len(kept.states), len(kept.events), len(kept.deliveries)
