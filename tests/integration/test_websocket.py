"""The WebSocket protocol, over real sockets; what the server says is asserted literally."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)

from heliograph.errors import MAX_ECHO
from tests.integration.rig import KEY, SECRET, Client, serving
from tests.integration.test_http import UPGRADE, wire


async def test_the_first_message_gives_the_socket_id() -> None:
    async with serving() as rig, rig.open() as client:
        assert re.fullmatch(
            r'\{"event":"pusher:connection_established","data":"\{'
            r'\\"socket_id\\":\\"\d{1,10}\.\d{1,10}\\",\\"activity_timeout\\":120\}"\}',
            await client.receive(),
        )


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        (
            "/app/nobody?protocol=7",
            4001,
            "App key nobody not in this cluster. Did you forget to specify the cluster?",
        ),
        ("/elsewhere?protocol=7", 4005, "Path not found"),
        ("/app/?protocol=7", 4005, "Path not found"),
        (f"/app/{KEY}", 4008, "No protocol version supplied"),
        (f"/app/{KEY}?protocol=", 4008, "No protocol version supplied"),
        (f"/app/{KEY}?protocol=3", 4007, "Unsupported protocol version"),
        (f"/app/{KEY}?protocol=8", 4007, "Unsupported protocol version"),
        (f"/app/{KEY}?protocol=seven", 4007, "Unsupported protocol version"),
    ],
)
async def test_refusals_are_sent_inside_the_websocket(path: str, code: int, message: str) -> None:
    async with serving() as rig, rig.open(path) as client:
        await client.expect_error(code, message)
        await client.expect_close(code)
        assert client.connection.close_reason == message


async def test_of_a_long_key_only_the_beginning_is_repeated() -> None:
    key = "k" * 12_000
    async with serving() as rig, rig.open(f"/app/{key}?protocol=7") as client:
        beginning = key[:MAX_ECHO] + "..."
        text = f"App key {beginning} not in this cluster. Did you forget to specify the cluster?"
        await client.expect_error(4001, text)


@pytest.mark.parametrize("version", [4, 5, 6, 7])
async def test_clients_of_supported_protocol_versions_connect(version: int) -> None:
    async with serving() as rig, rig.client(f"/app/{KEY}/?protocol={version}&x=y"):
        pass


async def test_a_missing_protocol_is_the_newest_where_that_is_asked_for() -> None:
    async with serving(lenient_protocol=True) as rig, rig.client(f"/app/{KEY}"):
        pass


async def test_clients_connect_below_the_path_prefix() -> None:
    async with serving(path_prefix="/ws") as rig:
        async with rig.client(f"/ws/app/{KEY}?protocol=7"):
            pass
        async with rig.open(f"/app/{KEY}?protocol=7") as client:
            await client.expect_error(4005, "Path not found")


@pytest.mark.parametrize(
    ("offered", "echoed"),
    [
        (["pusher-channels-protocol-7"], "pusher-channels-protocol-7"),
        (["x", "pusher-channels-protocol-7"], "pusher-channels-protocol-7"),
        (["x"], None),
    ],
)
async def test_the_offered_subprotocol_is_echoed(offered: list[str], echoed: str | None) -> None:
    async with serving() as rig, rig.client(subprotocols=offered) as client:
        assert client.connection.subprotocol == echoed


async def test_a_disabled_app_and_a_full_app_refuse_clients() -> None:
    async with serving(max_connections=1) as rig, rig.client(), rig.open() as second:
        await second.expect_error(4004, "Application is over connection quota")
        await second.expect_close(4004)
    async with serving(enabled=False) as rig, rig.open() as client:
        await client.expect_error(4003, "Application disabled")
        await client.expect_close(4003)


async def test_a_closed_connection_makes_room_for_another() -> None:
    async with serving(max_connections=1) as rig:
        for _ in range(3):
            async with rig.client():
                pass


async def test_a_server_over_capacity_closes_new_clients_with_4100(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And says so once for each time that it is."""
    async with serving() as rig, rig.client() as first:
        rig.server.context.descriptors.capacity = 0
        for _ in range(2):
            async with rig.open() as second:
                await second.expect_error(4100, "Over capacity")
                await second.expect_close(4100)
        await first.expect_nothing_before_pong()
        rig.server.context.descriptors.capacity = 1000
        async with rig.client():
            pass
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


async def test_clients_from_origins_that_are_not_allowed_get_4009() -> None:
    async with serving(allowed_origins="https://*.example.com") as rig:
        async with rig.client(origin="https://www.example.com"):
            pass
        for origin in ("https://example.org", None):
            async with rig.open(origin=origin) as client:
                await client.expect_error(4009, "Connection is unauthorized")
                await client.expect_close(4009)
        allowed = "https://www.example.com"
        for second in (allowed, "https://example.org"):
            headers = [("Origin", allowed), ("Origin", second)]
            async with rig.open(additional_headers=headers) as client:
                await client.expect_error(4009, "Connection is unauthorized")


# -- Liveness ------------------------------------------------------------------------------


async def test_pings_are_answered() -> None:
    async with serving() as rig, rig.client() as client:
        for message in (
            '{"event":"pusher:ping","data":{}}',
            '{"event": "pusher:ping"}',
            '{"event":"pusher:ping","data":"{}"}',
        ):
            await client.connection.send(message)
            await client.expect('{"event":"pusher:pong","data":"{}"}')
        async with asyncio.timeout(5):
            await (await client.connection.ping(b"payload"))
        await client.send("pusher:pong", {})
        await client.expect_nothing_before_pong()


async def test_a_client_that_answers_pings_stays() -> None:
    async with serving(ping_interval=0.3, pong_timeout=0.3) as rig, rig.client() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await client.connection.recv()
        await client.expect_nothing_before_pong()


async def test_a_client_is_pinged_at_each_interval_however_long_it_may_take_to_answer() -> None:
    """Proxies cut off who is silent for as long as the time to answer."""
    async with serving(ping_interval=0.3, pong_timeout=30) as rig, wire(rig) as one:
        await one.send(UPGRADE)
        await one.read_until(b"connection_established")
        await one.read_until(b"}")
        for _ in range(3):
            await one.read_until(b"\x89\x00")
            await one.send(b"\x8a\x80\0\0\0\0")


async def test_a_client_that_does_not_answer_a_ping_is_closed_with_4201() -> None:
    async with serving(ping_interval=0.3, pong_timeout=0.3) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
        writer.write(
            f"GET /app/{KEY}?protocol=7 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        error = b'{"event":"pusher:error","data":{"code":4201,"message":"Pong reply not received"}}'
        frames = b"\x81" + bytes([len(error)]) + error + b"\x88\x19\x10\x69Pong reply not received"
        async with asyncio.timeout(10):
            received = await reader.readuntil(frames)
        writer.close()
        assert received.endswith(b"\x89\x00" + frames)  # our ping, then the error


# -- Subscriptions -------------------------------------------------------------------------


async def test_a_public_channel_delivers_its_events() -> None:
    async with serving() as rig, rig.client() as client:
        await client.send("pusher:subscribe", {"auth": "", "channel": "my-channel"})
        await client.expect(
            '{"event":"pusher_internal:subscription_succeeded","channel":"my-channel","data":"{}"}'
        )
        await rig.publish("my-event", "my-channel", '{"a": [1, "é"]}')
        await client.expect(
            '{"event":"my-event","channel":"my-channel","data":"{\\"a\\": [1, \\"\\u00e9\\"]}"}'
        )


async def test_data_reaches_subscribers_as_it_was_published() -> None:
    """Not even its escapes are touched."""
    async with serving() as rig, rig.client() as client:
        await client.subscribe("c")
        for data in (
            b'"plain"',
            b'""',
            '"é \\u00e9 \\/ \\ud83d\\ude00 \\ud800"'.encode(),
            b'"{\\"a\\":1}"',
        ):
            reply = await rig.request(
                "POST", "/events", b'{"name":"n","channel":"c","data":' + data + b"}"
            )
            assert reply.status == 200
            text = await client.receive()
            assert json.loads(text)["data"] == json.loads(data)


async def test_data_that_is_no_string_is_sent_as_the_string_of_its_json() -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("c")
        body = b'{"name":"n","channel":"c","data":{"a": 1}}'
        assert (await rig.request("POST", "/events", body)).status == 200
        await client.expect('{"event":"n","channel":"c","data":"{\\"a\\": 1}"}')


async def test_a_signature_is_required_on_private_channels() -> None:
    async with serving() as rig, rig.client() as client:
        good = client.sign("private-c")
        await client.send("pusher:subscribe", {"channel": "private-c", "auth": f"{KEY}:beef"})
        await client.expect_error(
            None,
            "Invalid signature: Expected HMAC SHA256 hex digest of"
            f" {client.socket_id}:private-c, but got beef",
        )
        for wrong, key in (("other:beef", "other"), ("nonsense", "nonsense"), ("", "")):
            await client.send("pusher:subscribe", {"channel": "private-c", "auth": wrong})
            await client.expect_error(None, f"Invalid key in subscription auth data: '{key}'")
        await client.send("pusher:subscribe", good)
        await client.expect(
            '{"event":"pusher_internal:subscription_succeeded","channel":"private-c","data":"{}"}'
        )


async def test_channel_data_is_signed_on_private_channels_too() -> None:
    async with serving() as rig, rig.client() as client:
        signed = client.sign("private-c", '{"user_id":1}')
        await client.send("pusher:subscribe", {**signed, "channel_data": '{"user_id":2}'})
        assert "Invalid signature" in await client.receive()
        await client.send("pusher:subscribe", signed)
        assert "subscription_succeeded" in await client.receive()


@pytest.mark.parametrize(
    "data",
    [
        None,
        5,
        [],
        {},
        {"channel": 5},
        {"channel": None},
        {"channel": "presence-c", "auth": "x", "channel_data": {"user_id": 1}},
        "nonsense",
    ],
)
async def test_a_subscription_of_another_shape_is_an_error(data: object) -> None:
    async with serving() as rig, rig.client() as client:
        await client.send("pusher:subscribe", data)
        await client.expect_error(
            None,
            "Invalid data of pusher:subscribe: expected an object with a string channel,"
            " strings for auth and channel_data, and an object for history",
        )
        await client.expect_nothing_before_pong()


async def test_data_may_be_a_string_of_json() -> None:
    async with serving() as rig, rig.client() as client:
        await client.send("pusher:subscribe", '{"channel":"c"}')
        assert "subscription_succeeded" in await client.receive()


@pytest.mark.parametrize("name", ["a b", "#x", "#server-to-user-", "x" * 201, "", "é"])
async def test_an_invalid_channel_name_is_refused(name: str) -> None:
    async with serving() as rig, rig.client() as client:
        await client.send("pusher:subscribe", {"channel": name})
        await client.expect_error(None, f"Invalid channel name: {name}")


async def test_a_second_subscription_and_a_second_unsubscription_are_errors() -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("c")
        await client.send("pusher:subscribe", {"channel": "c"})
        await client.expect_error(None, "Existing subscription to channel c")
        await client.send("pusher:unsubscribe", {"channel": "c"})
        await client.send("pusher:unsubscribe", {"channel": "c"})
        await client.expect_error(
            None, "No current subscription to channel c, or subscription in progress"
        )


async def test_nothing_is_delivered_after_unsubscribe_and_all_after_the_next_subscribe() -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("c")
        await client.send("pusher:unsubscribe", {"channel": "c"})
        await client.expect_nothing_before_pong()
        await rig.publish("lost", "c")
        await client.subscribe("c")
        await rig.publish("heard", "c")
        await client.expect('{"event":"heard","channel":"c","data":"{}"}')


async def test_subscribe_unsubscribe_subscribe_in_one_breath_ends_subscribed() -> None:
    async with serving() as rig, rig.client() as client:
        for event in ("subscribe", "unsubscribe", "subscribe"):
            await client.send(f"pusher:{event}", {"channel": "c"})
        success = '{"event":"pusher_internal:subscription_succeeded","channel":"c","data":"{}"}'
        await client.expect(success, success)
        await rig.publish("heard", "c")
        await client.expect('{"event":"heard","channel":"c","data":"{}"}')


async def test_the_extension_that_net_clients_listen_for() -> None:
    async with serving(subscription_errors=True) as rig, rig.client() as client:
        await client.send("pusher:subscribe", {"channel": "private-c", "auth": "x"})
        await client.expect_error(None, "Invalid key in subscription auth data: 'x'")
        await client.expect(
            '{"event":"pusher_internal:subscription_error","channel":"private-c","data":"{'
            '\\"type\\":\\"AuthError\\",\\"error\\":\\"Invalid key in subscription auth data:'
            ' \'x\'\\",\\"status\\":401}"}'
        )


# -- Presence ------------------------------------------------------------------------------


async def test_presence_counts_users_and_not_tabs() -> None:
    async with serving() as rig, rig.client() as ann, rig.client() as bob, rig.client() as tab:
        assert await ann.join("presence-c", "11", {"name": "A"}) == (
            '{"event":"pusher_internal:subscription_succeeded","channel":"presence-c","data":"{'
            '\\"presence\\":{\\"count\\":1,\\"ids\\":[\\"11\\"],'
            '\\"hash\\":{\\"11\\":{\\"name\\": \\"A\\"}}}}"}'
        )
        assert await bob.join("presence-c", "22") == (
            '{"event":"pusher_internal:subscription_succeeded","channel":"presence-c","data":"{'
            '\\"presence\\":{\\"count\\":2,\\"ids\\":[\\"11\\",\\"22\\"],'
            '\\"hash\\":{\\"11\\":{\\"name\\": \\"A\\"},\\"22\\":null}}}"}'
        )
        await ann.expect(
            '{"event":"pusher_internal:member_added","channel":"presence-c",'
            '"data":"{\\"user_id\\":\\"22\\"}"}'
        )
        assert '\\"count\\":2' in await tab.join("presence-c", "22")
        await bob.send("pusher:unsubscribe", {"channel": "presence-c"})
        await bob.expect_nothing_before_pong()
        await ann.expect_nothing_before_pong()
        await tab.connection.close()
        await ann.expect(
            '{"event":"pusher_internal:member_removed","channel":"presence-c",'
            '"data":"{\\"user_id\\":\\"22\\"}"}'
        )


async def test_a_number_for_a_user_id_becomes_its_string() -> None:
    async with serving() as rig, rig.client() as client:
        text = await client.subscribe("presence-c", '{"user_id":10,"user_info":[]}')
        presence = json.loads(json.loads(text)["data"])["presence"]
        assert presence == {"count": 1, "ids": ["10"], "hash": {"10": []}}


@pytest.mark.parametrize(
    ("channel_data", "message"),
    [
        (
            None,
            "Missing parameter: data.channel_data (a presence subscription needs it,"
            " or a signed-in user)",
        ),
        (
            "{}",
            "Invalid channel_data: expected a JSON object whose user_id is a string or an integer",
        ),
        (
            '{"user_id":1.5}',
            "Invalid channel_data: expected a JSON object whose user_id is a string or an integer",
        ),
        ('{"user_id":""}', "Invalid channel_data: user_id is empty"),
        (
            '{"user_id":"' + "x" * 129 + '"}',
            "Invalid channel_data: user_id exceeds the allowed 128 characters",
        ),
        (
            '{"user_id":"1","user_info":"' + "x" * 1024 + '"}',
            "channel_data of a presence subscription exceeds the allowed 1024 bytes",
        ),
    ],
)
async def test_invalid_user_data_is_refused(channel_data: str | None, message: str) -> None:
    async with serving() as rig, rig.client() as client:
        await client.send("pusher:subscribe", client.sign("presence-c", channel_data))
        await client.expect_error(None, message)
        await client.expect_nothing_before_pong()


async def test_a_full_presence_channel_refuses_new_members() -> None:
    async with serving(max_presence_members=1) as rig, rig.client() as ann, rig.client() as bob:
        await ann.join("presence-c", "ann")
        assert "presence-c is full" in await bob.join("presence-c", "bob")
        assert "subscription_succeeded" in await bob.join("presence-c", "ann")


# -- Client events -------------------------------------------------------------------------


async def two_in(a: Client, b: Client, channel: str) -> None:
    await a.join(channel, "a") if channel.startswith("presence") else await a.subscribe(channel)
    await b.join(channel, "b") if channel.startswith("presence") else await b.subscribe(channel)
    if channel.startswith("presence"):
        await a.receive()


async def test_client_events_reach_the_others_as_strings() -> None:
    async with serving() as rig, rig.client() as ann, rig.client() as bob:
        await two_in(ann, bob, "private-c")
        for data, string in (
            ({"a": 1}, '"{\\"a\\": 1}"'),
            ("text", '"text"'),
            (5, '"5"'),
            (None, '"null"'),
        ):
            await ann.send("client-x", data, channel="private-c", user_id="forged")
            await bob.expect(f'{{"event":"client-x","channel":"private-c","data":{string}}}')
        await ann.expect_nothing_before_pong()


async def test_client_events_on_presence_channels_have_the_senders_user_id() -> None:
    async with serving() as rig, rig.client() as ann, rig.client() as bob:
        await two_in(ann, bob, "presence-c")
        await ann.send("client-x", {}, channel="presence-c", user_id="forged", userId="forged")
        await bob.expect('{"event":"client-x","channel":"presence-c","data":"{}","user_id":"a"}')


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (
            {"event": "client-x", "data": {}},
            "Invalid client event (must contain channel and data)",
        ),
        (
            {"event": "client-x", "channel": "private-c"},
            "Invalid client event (must contain channel and data)",
        ),
        (
            {"event": "client-x", "channel": "public", "data": {}},
            "Client event rejected - only supported on private and presence channels",
        ),
        (
            {"event": "client-x", "channel": "private-other", "data": {}},
            "Cannot broadcast client event (connection not subscribed to channel private-other)",
        ),
        (
            {"event": "client-x", "channel": "private-c", "data": "x" * 10241},
            "Client event rejected - the data content of this event exceeds the allowed maximum"
            " (10240 bytes)",
        ),
        (
            {"event": "client-" + "x" * 200, "channel": "private-c", "data": {}},
            "Client event rejected - the name exceeds 200 characters",
        ),
        ({"event": "my-event"}, "Unsupported event received on socket: my-event"),
    ],
)
async def test_invalid_client_events_are_refused(message: dict[str, object], error: str) -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("private-c")
        await client.connection.send(json.dumps(message))
        await client.expect_error(None, error)
        await client.expect_nothing_before_pong()


async def test_client_events_can_be_switched_off() -> None:
    async with serving(client_events=False) as rig, rig.client() as client:
        await client.subscribe("private-c")
        await client.send("client-x", {}, channel="private-c")
        await client.expect_error(
            None,
            "To send client events, you must enable this feature in the Settings page of your"
            " dashboard.",
        )


async def test_more_client_events_than_allowed_are_dropped_one_by_one() -> None:
    limited = serving(max_client_events_per_second=3)
    async with limited as rig, rig.client() as ann, rig.client() as bob:
        await two_in(ann, bob, "private-c")
        for number in range(5):
            await ann.send(f"client-{number}", {}, channel="private-c")
        for _ in range(2):
            await ann.expect_error(4301, "Client event rejected due to rate limit")
        for number in range(3):
            assert f"client-{number}" in await bob.receive()
        await ann.expect_nothing_before_pong()


# -- Cache channels and counts -------------------------------------------------------------


@pytest.mark.parametrize("channel", ["cache-c", "private-cache-c", "private-encrypted-cache-c"])
async def test_cache_channels_replay_the_last_event(channel: str) -> None:
    async with serving() as rig, rig.client() as early, rig.client() as late:
        assert "subscription_succeeded" in await early.subscribe(channel)
        await early.expect(f'{{"event":"pusher:cache_miss","channel":"{channel}","data":"{{}}"}}')
        await rig.publish("one", channel, "1")
        await rig.publish("two", channel, "2")
        assert "subscription_succeeded" in await late.subscribe(channel)
        await late.expect(f'{{"event":"two","channel":"{channel}","data":"2"}}')
        await rig.publish("three", channel, "3")
        await late.expect(f'{{"event":"three","channel":"{channel}","data":"3"}}')


async def test_client_events_are_not_cached() -> None:
    async with serving() as rig, rig.client() as ann, rig.client() as bob:
        await ann.subscribe("private-cache-c")
        await ann.receive()
        await ann.send("client-x", {}, channel="private-cache-c")
        await ann.expect_nothing_before_pong()
        await bob.subscribe("private-cache-c")
        assert "pusher:cache_miss" in await bob.receive()


async def test_subscription_counts_are_sent_if_the_app_has_the_option() -> None:
    def counted(count: int) -> str:
        return (
            '{"event":"pusher_internal:subscription_count","channel":"c",'
            f'"data":"{{\\"subscription_count\\":{count}}}"}}'
        )

    async with serving(subscription_count=True) as rig, rig.client() as ann:
        await ann.subscribe("c")
        await ann.expect(counted(1))
        async with rig.client() as bob:
            await bob.subscribe("c")
            await bob.expect(counted(2))
            await ann.expect(counted(2))
        await ann.expect(counted(1))
        await ann.join("presence-c", "1")
        await ann.expect_nothing_before_pong()


# -- Bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "Invalid JSON"),
        ('{"event":', "Invalid JSON"),
        ("[" * 50_000, 'Invalid message: expected a JSON object with a string "event"'),
        ('{"event":"x","data":' + "[" * 50_000 + "]" * 50_000 + "}", "Invalid JSON"),
        ("[]", 'Invalid message: expected a JSON object with a string "event"'),
        ("5", 'Invalid message: expected a JSON object with a string "event"'),
        ("{}", 'Invalid message: expected a JSON object with a string "event"'),
        ('{"event":5}', 'Invalid message: expected a JSON object with a string "event"'),
        # A channel is a string or nobody's concern.
        ('{"event":"x","channel":1e999}', "Unsupported event received on socket: x"),
        (
            '{"event":"client-x","channel":1e999,"data":1}',
            "Invalid client event (must contain channel and data)",
        ),
        ('{"event":"x\\ud800"}', "Unsupported event received on socket: x\ud800"),
    ],
)
async def test_bad_messages_are_errors_and_the_socket_stays(text: str, message: str) -> None:
    async with serving() as rig, rig.client() as client:
        await client.connection.send(text)
        await client.expect_error(None, message)
        await client.expect_nothing_before_pong()


async def test_binary_messages_close_with_1003() -> None:
    async with serving() as rig, rig.client() as client:
        await client.connection.send(b"\x00")
        await client.expect_close(1003)


async def test_messages_that_are_too_long_close_with_1009() -> None:
    async with serving(max_message_bytes=1024) as rig, rig.client() as client:
        await client.connection.send("x" * 1024)
        await client.expect_error(None, "Invalid JSON")
        await client.connection.send("x" * 1025)
        await client.expect_close(1009)


async def test_clients_with_different_keys_share_an_app(tmp_path: Path) -> None:
    config = tmp_path / "heliograph.toml"
    config.write_text(
        '[[apps]]\nid = "9"\n'
        '[[apps.keys]]\nkey = "old"\nsecret = "old-secret"\n'
        '[[apps.keys]]\nkey = "new"\nsecret = "new-secret"\n'
    )
    async with serving(config=str(config)) as rig:
        async with (
            rig.client("/app/old?protocol=7") as old,
            rig.client("/app/new?protocol=7") as new,
        ):
            await old.subscribe("c")
            await new.subscribe("c")
            rig.app_id, rig.key, rig.secret = "9", "new", "new-secret"
            await rig.publish("x", "c")
            await old.expect('{"event":"x","channel":"c","data":"{}"}')
            await new.expect('{"event":"x","channel":"c","data":"{}"}')
        rig.app_id, rig.key, rig.secret = "3", KEY, SECRET
        await rig.publish("x", "c")


async def test_a_server_that_stops_closes_every_client_with_4200() -> None:
    async with serving() as rig, rig.client() as client:
        stopping = asyncio.create_task(rig.server.stop())
        await client.expect_error(4200, "Please reconnect immediately")
        with pytest.raises(ConnectionClosed):
            await client.connection.recv()
        assert client.connection.close_code == 4200
        await stopping


# -- Compression ---------------------------------------------------------------------------


@pytest.mark.parametrize("switched_on", [True, False])
async def test_large_messages_are_compressed_for_clients_that_agreed(switched_on: bool) -> None:
    options = {"enable_ws_compression": switched_on}
    async with serving(**options) as rig, rig.client() as can, rig.client(compression=None) as not_:
        offers = [extension.name for extension in can.connection.protocol.extensions]
        assert offers == (["permessage-deflate"] if switched_on else [])
        assert not_.connection.protocol.extensions == []
        for client in (can, not_):
            await client.subscribe("c")
        for data in ("small", "large " * 1000):
            await rig.publish("n", "c", data)
            for client in (can, not_):
                assert json.loads(await client.receive())["data"] == data
        before = rig.server.context.bytes_sent
        await can.send("pusher:subscribe", {"channel": "long " * 100})
        assert "Invalid channel name" in await can.receive()
        # What is said to one client alone, too.
        assert (rig.server.context.bytes_sent - before < 200) is switched_on


@pytest.mark.parametrize("debug", [False, True])
async def test_a_client_with_a_small_window_gets_it_and_is_understood(debug: bool) -> None:
    async with serving(enable_ws_compression=True, debug=debug) as rig:
        for bits in (9, 12, 15):
            offer = ClientPerMessageDeflateFactory(
                server_max_window_bits=bits, client_max_window_bits=bits
            )
            for _ in range(2):  # the second is answered from memory
                async with rig.client(compression=None, extensions=[offer]) as client:
                    (agreed,) = client.connection.protocol.extensions
                    assert isinstance(agreed, PerMessageDeflate)
                    assert agreed.remote_max_window_bits == bits
                    await client.subscribe("c")
                    await rig.publish("n", "c", "large " * 1000)
                    assert json.loads(await client.receive())["data"] == "large " * 1000
                    await client.send("pusher:subscribe", {"channel": "long " * 100})
                    assert "Invalid channel name" in await client.receive()
