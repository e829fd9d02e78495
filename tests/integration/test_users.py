"""Signing in, watching, being terminated: over real sockets, the wire asserted literally."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.rig import APP, KEY, Client, Rig, serving


async def sign_in(client: Client, user_id: str, **user: Any) -> str:
    user_data = json.dumps({"id": user_id, **user})
    await send_sign_in(client, user_data)
    return await client.receive()


async def send_sign_in(client: Client, user_data: str, signature: str | None = None) -> None:
    auth = APP.authorize_user(client.socket_id, user_data)
    if signature is not None:
        auth = f"{KEY}:{signature}"
    await client.send("pusher:signin", {"auth": auth, "user_data": user_data})


async def test_a_sign_in_is_acknowledged_with_what_was_sent() -> None:
    async with serving() as rig, rig.client() as client:
        await send_sign_in(client, '{"id":"42"}')
        await client.expect(
            '{"event":"pusher:signin_success",'
            '"data":"{\\"user_data\\":\\"{\\\\\\"id\\\\\\":\\\\\\"42\\\\\\"}\\"}"}'
        )
        await send_sign_in(client, '{"id":"42"}')  # again, as the same
        assert "signin_success" in await client.receive()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"auth": "x:y"}, "Missing parameter: data.user_data"),
        (
            {"auth": f"{KEY}:beef", "user_data": '{"id":"1"}'},
            'Invalid signature: Expected HMAC SHA256 hex digest of SOCKET::user::{"id":"1"},'
            " but got beef",
        ),
        (
            {"auth": "other:beef", "user_data": '{"id":"1"}'},
            "Invalid key in subscription auth data: 'other'",
        ),
        (
            {"auth": 5, "user_data": {}},
            "Invalid data of pusher:signin: expected an object with strings for auth and user_data",
        ),
    ],
)
async def test_a_failed_sign_in_never_closes_the_socket(
    data: dict[str, object], message: str
) -> None:
    async with serving() as rig, rig.client() as client:
        await client.send("pusher:signin", data)
        await client.expect_error(None, message.replace("SOCKET", client.socket_id))
        assert "signin_success" in await sign_in(client, "1")


@pytest.mark.parametrize(
    ("user_data", "message"),
    [
        ("nonsense", "Invalid user_data: expected a JSON object whose id is a string"),
        ('{"id":5}', "Invalid user_data: expected a JSON object whose id is a string"),
        ("{}", "Invalid user_data: expected a JSON object whose id is a string"),
        (
            '{"id":""}',
            "Invalid user_data: id contains characters that are not allowed in channel names",
        ),
        (
            '{"id":"a b"}',
            "Invalid user_data: id contains characters that are not allowed in channel names",
        ),
        (
            '{"id":"' + "x" * 129 + '"}',
            "Invalid user_data: id exceeds the allowed 128 characters",
        ),
        (
            '{"id":"1","watchlist":[1]}',
            "Invalid user_data: watchlist must be an array of strings",
        ),
    ],
)
async def test_invalid_user_data_is_refused(user_data: str, message: str) -> None:
    async with serving() as rig, rig.client() as client:
        await send_sign_in(client, user_data)
        await client.expect_error(None, message)
        await client.expect_nothing_before_pong()


async def test_one_socket_is_one_user() -> None:
    async with serving() as rig, rig.client() as client:
        await sign_in(client, "1")
        await send_sign_in(client, '{"id":"2"}')
        await client.expect_error(None, "Connection already signed in as user 1")


async def test_a_users_channel_is_for_that_user() -> None:
    async with serving() as rig, rig.client() as ann, rig.client() as bob:
        for client in (ann, bob):
            await client.send("pusher:subscribe", {"channel": "#server-to-user-ann"})
            await client.expect_error(
                None,
                "Subscription to #server-to-user-ann requires signing in as that user",
            )
        await sign_in(ann, "ann")
        await sign_in(bob, "bob")
        await bob.send("pusher:subscribe", {"channel": "#server-to-user-ann"})
        assert "requires signing in" in await bob.receive()
        assert await ann.subscribe("#server-to-user-ann") == (
            '{"event":"pusher_internal:subscription_succeeded",'
            '"channel":"#server-to-user-ann","data":"{}"}'
        )
        await rig.publish("hello", "#server-to-user-ann")
        await ann.expect('{"event":"hello","channel":"#server-to-user-ann","data":"{}"}')
        assert (await rig.request("GET", "/channels")).body == b'{"channels":{}}'


async def test_presence_without_channel_data_takes_the_identity_from_the_sign_in() -> None:
    async with serving() as rig, rig.client() as client:
        await sign_in(client, "ann", user_info={"name": "Ann"})
        text = await client.subscribe("presence-c")
        presence = json.loads(json.loads(text)["data"])["presence"]
        assert presence == {"count": 1, "ids": ["ann"], "hash": {"ann": {"name": "Ann"}}}
        text = await client.join("presence-d", "other")
        assert json.loads(json.loads(text)["data"])["presence"]["ids"] == ["other"]


# -- Watchlists ----------------------------------------------------------------------------


def watched(**events: list[str]) -> str:
    told = [{"name": name, "user_ids": user_ids} for name, user_ids in events.items()]
    data = json.dumps({"events": told}, separators=(",", ":"))
    return json.dumps(
        {"event": "pusher_internal:watchlist_events", "data": data}, separators=(",", ":")
    )


async def test_a_watchlist_reports_users_as_online_and_offline() -> None:
    async with serving(watchlist=True) as rig, rig.client() as ann, rig.client() as bob:
        await sign_in(bob, "bob")
        await sign_in(ann, "ann", watchlist=["bob", "eve", "bob"])
        await ann.expect(watched(online=["bob"], offline=["eve"]))
        async with rig.client() as eve, rig.client() as tab:
            await sign_in(eve, "eve")
            await ann.expect(watched(online=["eve"]))
            await sign_in(tab, "eve")
            await eve.connection.close()
            await tab.expect_nothing_before_pong()
            await ann.expect_nothing_before_pong()
        await ann.expect(watched(offline=["eve"]))
        await bob.expect_nothing_before_pong()


async def test_nothing_is_told_of_an_empty_watchlist_or_where_the_app_wants_none() -> None:
    async with serving(watchlist=True) as rig, rig.client() as ann:
        await sign_in(ann, "ann", watchlist=[])
        await ann.expect_nothing_before_pong()
    async with serving() as rig, rig.client() as ann, rig.client() as bob:
        await sign_in(ann, "ann", watchlist=["bob"])
        await sign_in(bob, "bob")
        await ann.expect_nothing_before_pong()


async def test_only_the_first_hundred_users_of_a_watchlist_are_accepted() -> None:
    wanted = [f"u{number}" for number in range(102)]
    async with serving(watchlist=True) as rig, rig.client() as ann, rig.client() as late:
        assert "signin_success" in await sign_in(ann, "ann", watchlist=wanted)
        await ann.expect_error(
            4302,
            "Watchlist limit exceeded. Only the first 100 user IDs are accepted. Accepted: "
            + ", ".join(wanted[:100]),
        )
        await ann.expect(watched(offline=wanted[:100]))
        await sign_in(late, "u100")
        await ann.expect_nothing_before_pong()


# -- Terminating and authorised connections ------------------------------------------------


@pytest.mark.parametrize("code", [4009, 4200])
async def test_all_connections_of_a_user_are_terminated(code: int) -> None:
    async with serving(terminate_code=code) as rig, rig.client() as one, rig.client() as two:
        async with rig.client() as other:
            await sign_in(one, "ann")
            await sign_in(two, "ann")
            await other.join("presence-c", "ann")  # present under that name, not signed in
            reply = await rig.request("POST", "/users/ann/terminate_connections", {})
            assert (reply.status, reply.body) == (200, b"{}")
            for client in (one, two):
                await client.expect_error(code, "Connection is unauthorized")
                await client.expect_close(code)
            await other.expect_nothing_before_pong()
            reply = await rig.request("POST", "/users/nobody/terminate_connections", {})
            assert (reply.status, reply.body) == (200, b"{}")


async def test_users_are_terminated_on_the_path_of_the_python_sdk() -> None:
    async with serving() as rig, rig.client() as client:
        await sign_in(client, "ann")
        target = rig.signed("POST", "/users/ann/terminate_connections", b"{}")
        assert (await rig.fetch("POST", target, b"{}")).body == b"{}"
        await client.expect_close(4009)


async def test_a_user_id_in_a_path_is_escaped() -> None:
    async with serving() as rig, rig.client() as client:
        await sign_in(client, "a=b@c")
        path = f"/users/{quote('a=b@c', safe='')}/terminate_connections"
        assert (await rig.request("POST", path, {})).status == 200
        await client.expect_close(4009)


async def test_clients_that_do_not_sign_in_or_subscribe_in_time_are_closed() -> None:
    patience = {"authorized_connections_timeout": 0.5, "ping_interval": 0.4}
    async with serving(**patience) as rig, rig.client() as nobody, rig.client() as public:
        async with rig.client() as user, rig.client() as private:
            await public.subscribe("c")
            await sign_in(user, "ann")
            await private.subscribe("private-c")
            for client in (nobody, public):
                await client.expect_error(4009, "Connection not authorized within timeout")
                await client.expect_close(4009)
            await user.expect_nothing_before_pong()
            await private.expect_nothing_before_pong()


# -- Deprecated by Pusher, and still called ------------------------------------------------


async def test_a_raw_event_is_published() -> None:
    async with serving() as rig, rig.client() as ann, rig.client() as bob:
        await ann.subscribe("c")
        await bob.subscribe("c")
        parameters = {"name": "n", "socket_id": ann.socket_id}
        reply = await rig.request("POST", "/channels/c/events", b'"raw" {', parameters)
        assert (reply.status, reply.body) == (202, b"")
        await bob.expect('{"event":"n","channel":"c","data":"\\"raw\\" {"}')
        await ann.expect_nothing_before_pong()


async def test_stats_of_a_channel_are_returned() -> None:
    async with serving() as rig, rig.client() as client:
        await client.join("presence-c", "u")
        reply = await rig.request("GET", "/channels/presence-c/stats")
        assert reply.body == b'{"occupied":true,"user_count":1}'
        assert (await rig.request("GET", "/channels/c/stats")).body == b'{"occupied":false}'


async def test_signing_in_leaves_no_trace() -> None:
    async with serving(watchlist=True) as rig:
        async with rig.client() as ann, rig.client() as bob:
            await sign_in(ann, "ann", watchlist=["bob", "ann"])
            await sign_in(bob, "bob", watchlist=["ann"])
        await settled(rig)
        tenant = rig.server.node.tenant(rig.app_id)
        assert tenant is not None
        assert len(tenant.users) == 0


async def settled(rig: Rig) -> None:
    """Until every connection that was closed is gone."""
    async with rig.client() as witness:
        while rig.server.node.connections > 1:
            await witness.expect_nothing_before_pong()
