"""
History, rewind and positions of a channel are for those who may subscribe to it, and for its app.

Each way in is tried with each kind of channel: without the right to it, nothing is readable.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from heliograph.assembly import PROTOCOLS
from heliograph.config.apps import App, AppKey, Apps, HistoryRule
from tests.integration.rig import APP, APP_ID, KEY, SECRET, Client, Reply, Rig, serving

REWIND = (HistoryRule(prefix="", limit=10, ttl=60.0, rewind_count=5),)
OTHER_ID, OTHER_KEY = "4", "other-key"

PRIVATE = [
    *("private-c", "private-cache-c", "private-encrypted-c", "private-encrypted-cache-c"),
    *("presence-c", "presence-cache-c"),
]
READABLE = ["c", "cache-c", *PRIVATE]
USER_CHANNEL = "#server-to-user-ann"
SECRET_DATA = "not for everybody"


def claims(epoch: str) -> list[dict[str, Any]]:
    """Return what a client may ask for: nothing, positions, a continuation, a time."""
    return [
        *({}, {"history": {}}, {"history": {"epoch": epoch, "offset": 0}}),
        {"history": {"since": 0.0, "except": ["1.1"]}},
    ]


@asynccontextmanager
async def two_apps() -> AsyncIterator[Rig]:
    """Run a server with two apps; the first has an event in each kind of channel."""
    apps = Apps(
        [
            App(id=APP_ID, keys=(AppKey(key=KEY, secret=SECRET),), history=REWIND),
            App(id=OTHER_ID, keys=(AppKey(key=OTHER_KEY, secret="other"),), history=REWIND),
        ]
    )
    async with serving(PROTOCOLS, apps) as rig:
        for channel in (*READABLE, USER_CHANNEL):
            await rig.publish("secret", channel, json.dumps(SECRET_DATA))
        yield rig


async def position(rig: Rig, channel: str) -> dict[str, Any]:
    reply = await rig.request("GET", f"/channels/{channel}/history", parameters={"limit": "0"})
    found: dict[str, Any] = json.loads(reply.body)
    return found


async def heard(client: Client) -> list[str]:
    """Return everything that a client receives until the answer to a ping."""
    await client.send("pusher:ping", {})
    texts: list[str] = []
    while '"pusher:pong"' not in (text := await client.receive()):
        texts.append(text)
    return texts


def leaks(texts: list[str], epoch: str) -> list[str]:
    return [text for text in texts if SECRET_DATA in text or (epoch and epoch in text)]


def member(channel: str) -> str | None:
    return json.dumps({"user_id": "ann"}) if channel.startswith("presence-") else None


# -- Clients ---------------------------------------------------------------------------------


async def unsigned(client: Client, channel: str) -> dict[str, Any]:
    del client
    return {"channel": channel}


async def signed_for_another_channel(client: Client, channel: str) -> dict[str, Any]:
    return {**client.sign(channel + "2", member(channel)), "channel": channel}


async def signed_for_another_socket(client: Client, channel: str) -> dict[str, Any]:
    own, client.socket_id = client.socket_id, "1.1"
    signed = client.sign(channel, member(channel))
    client.socket_id = own
    return signed


async def signed_with_a_wrong_secret(client: Client, channel: str) -> dict[str, Any]:
    return {**client.sign(channel, member(channel)), "auth": f"{KEY}:{'0' * 64}"}


@pytest.mark.parametrize("channel", PRIVATE)
@pytest.mark.parametrize(
    "way",
    [
        *(unsigned, signed_for_another_channel, signed_for_another_socket),
        signed_with_a_wrong_secret,
    ],
)
async def test_a_client_without_the_right_reads_no_history(
    way: Callable[[Client, str], Awaitable[dict[str, Any]]], channel: str
) -> None:
    async with two_apps() as rig, rig.client() as client:
        epoch = (await position(rig, channel))["epoch"]
        for claim in claims(epoch):
            await client.send("pusher:subscribe", {**await way(client, channel), **claim})
            texts = await heard(client)
            assert any("pusher:error" in text for text in texts)
            assert leaks(texts, epoch) == []


@pytest.mark.parametrize("claim", range(4))
async def test_the_channel_of_a_user_has_no_history_even_for_that_user(claim: int) -> None:
    async with two_apps() as rig, rig.client() as client:
        data = {"channel": USER_CHANNEL, **claims("any")[claim]}
        await client.send("pusher:subscribe", data)
        texts = await heard(client)
        assert any("pusher:error" in text for text in texts)
        assert leaks(texts, "") == []
        user_data = json.dumps({"id": "ann"})
        auth = APP.authorize_user(client.socket_id, user_data)
        await client.send("pusher:signin", {"auth": auth, "user_data": user_data})
        await client.send("pusher:subscribe", data)
        assert leaks(await heard(client), "") == []


@pytest.mark.parametrize("channel", ["c", "cache-c"])
async def test_a_client_of_another_app_reads_no_history(channel: str) -> None:
    async with two_apps() as rig:
        epoch = (await position(rig, channel))["epoch"]
        for claim in claims(epoch):
            async with rig.client(f"/app/{OTHER_KEY}?protocol=7") as client:
                await client.send("pusher:subscribe", {"channel": channel, **claim})
                texts = await heard(client)
                assert any("subscription_succeeded" in text for text in texts)
                assert [text for text in texts if SECRET_DATA in text] == []


@pytest.mark.parametrize("channel", ["presence-c", "presence-cache-c"])
async def test_a_client_that_a_full_channel_refuses_reads_no_history(channel: str) -> None:
    key = AppKey(key=KEY, secret=SECRET)
    app = App(id=APP_ID, keys=(key,), history=REWIND, max_presence_members=1)
    async with serving(PROTOCOLS, Apps([app])) as rig, rig.client() as one, rig.client() as client:
        await one.join(channel, "bob")
        await rig.publish("secret", channel, json.dumps(SECRET_DATA))
        epoch = (await position(rig, channel))["epoch"]
        for claim in claims(epoch):
            data = client.sign(channel, member(channel))
            await client.send("pusher:subscribe", {**data, **claim})
            texts = await heard(client)
            assert any("pusher:error" in text for text in texts)
            assert leaks(texts, epoch) == []


@pytest.mark.parametrize("channel", READABLE)
async def test_history_is_readable_only_where_a_subscription_is_allowed(channel: str) -> None:
    """The other tests would pass if nobody could read anything."""
    async with two_apps() as rig:
        here = await position(rig, channel)
        allowed: list[dict[str, Any]] = [
            *({}, {"history": {}}, {"history": {"epoch": here["epoch"], "offset": 0}}),
        ]
        for claim in allowed:
            async with rig.client() as client:
                public = channel in {"c", "cache-c"}
                data = {"channel": channel} if public else client.sign(channel, member(channel))
                await client.send("pusher:subscribe", {**data, **claim})
                texts = await heard(client)
                assert len([text for text in texts if SECRET_DATA in text]) == 1
                assert any(here["epoch"] in text for text in texts) is bool(claim)


# -- The HTTP API ----------------------------------------------------------------------------


async def without_a_signature(rig: Rig, method: str, path: str, body: Any) -> Reply:
    return await rig.request(method, path, body, auth_signature=None)


async def with_a_wrong_signature(rig: Rig, method: str, path: str, body: Any) -> Reply:
    return await rig.request(method, path, body, auth_signature="0" * 64)


async def with_the_key_of_another_app(rig: Rig, method: str, path: str, body: Any) -> Reply:
    rig.key, rig.secret = OTHER_KEY, "other"
    return await rig.request(method, path, body)


READS: list[tuple[str, str, Any]] = [
    ("GET", "/channels/{}/history", None),
    ("GET", "/channels/{}", None),
    ("POST", "/events", {"name": "n", "channel": "{}", "data": "x", "info": "position"}),
]


@pytest.mark.parametrize("channel", READABLE)
@pytest.mark.parametrize(("method", "path", "body"), READS)
@pytest.mark.parametrize(
    "way", [without_a_signature, with_a_wrong_signature, with_the_key_of_another_app]
)
async def test_a_request_without_the_apps_signature_reads_no_history(
    way: Callable[[Rig, str, str, Any], Awaitable[Reply]],
    method: str,
    path: str,
    body: Any,
    channel: str,
) -> None:
    async with two_apps() as rig:
        epoch = (await position(rig, channel))["epoch"]
        sent = None if body is None else {**body, "channel": channel}
        reply = await way(rig, method, path.format(channel), sent)
        assert reply.status == 401
        assert leaks([reply.text], epoch) == []


async def test_the_history_of_a_users_channel_is_readable_for_nobody() -> None:
    async with two_apps() as rig:
        path = f"/channels/{USER_CHANNEL.replace('#', '%23')}/history"
        reply = await rig.request("GET", path)
        assert reply.status == 400
        assert leaks([reply.text], "") == []
