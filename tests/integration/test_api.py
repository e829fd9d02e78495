"""The HTTP API, over real sockets, with the statuses and texts that SDKs' tests assert."""

import json
import time
from typing import Any

import pytest

from heliograph.errors import MAX_ECHO
from tests.integration.rig import APP_ID, KEY, Rig, serving

TOO_LARGE = (
    "The data content of this event exceeds the allowed maximum (10240 bytes). See"
    " https://pusher.com/docs/channels/server_api/http-api#publishing-events for more info\n"
)


def fresh() -> str:
    return str(int(time.time()))


async def test_success_is_an_empty_object() -> None:
    async with serving() as rig:
        reply = await rig.request("POST", "/events", {"name": "n", "channel": "c", "data": "{}"})
        assert (reply.status, reply.body) == (200, b"{}")
        assert reply.headers["Content-Type"] == "application/json"


# -- Authentication ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "status", "text"),
    [
        ({"auth_key": None}, 401, "Missing parameter: auth_key\n"),
        ({"auth_key": "nobody"}, 400, "Unknown auth_key\n"),
        ({"auth_version": None}, 401, "Version required\n"),
        ({"auth_version": "2.0"}, 401, "Version not supported\n"),
        ({"auth_timestamp": None}, 401, "Timestamp required\n"),
        ({"auth_timestamp": "now"}, 401, "Timestamp must be a number of seconds since 1970\n"),
        ({"body_md5": "0" * 32}, 401, "body_md5 does not match the request body\n"),
        ({"body_md5": None}, 401, "Missing parameter: body_md5\n"),
    ],
)
async def test_a_request_without_a_valid_signature_is_refused(
    overrides: dict[str, Any], status: int, text: str
) -> None:
    async with serving() as rig:
        body = {"name": "n", "channel": "c", "data": "{}"}
        reply = await rig.request("POST", "/events", body, **overrides)
        assert (reply.status, reply.text) == (status, text)
        assert reply.headers["Content-Type"] == "text/plain"


async def test_a_wrong_signature_is_told_what_should_have_been_signed() -> None:
    async with serving() as rig:
        stamp = fresh()
        reply = await rig.request("GET", "/channels", auth_timestamp=stamp, auth_signature="beef")
        assert reply.status == 401
        assert reply.text == (
            'Invalid signature: you should have sent HmacSHA256Hex("GET\\n/apps/3/channels\\n'
            f'auth_key={KEY}&auth_timestamp={stamp}&auth_version=1.0", your_secret_key),'
            ' but you sent "beef"\n'
        )
        assert rig.secret not in reply.text


LONG = "x" * 12_000


@pytest.mark.parametrize(
    ("method", "path", "body", "overrides"),
    [
        ("GET", "/channels", None, {"auth_signature": LONG}),
        ("GET", "/channels", None, {"auth_key": LONG}),
        ("GET", "/channels", None, {"auth_version": LONG}),
        ("GET", "/channels", None, {"auth_timestamp": LONG}),
        ("GET", "/channels", None, {"body_md5": LONG}),
        ("GET", "/channels", None, {"parameters": {LONG: "x"}}),
        ("GET", "/channels", None, {"parameters": {"info": LONG}}),
        (
            "GET",
            "/channels",
            None,
            {"parameters": {"x": LONG}, "auth_signature": "0"},
        ),
        ("GET", "/channels", None, {"parameters": {"x" * n: "" for n in range(1, 150)}}),
        ("GET", f"/channels/{LONG}", None, {}),
        ("GET", f"/channels/{LONG}/users", None, {}),
        ("GET", f"/channels/{LONG}", None, {"auth_signature": "0"}),
        ("GET", f"/{LONG}", None, {}),
        ("POST", f"/channels/{LONG}/events", {"x": 1}, {"parameters": {"name": "x"}}),
        ("POST", "/events", {"name": LONG, "channel": "c", "data": "x"}, {}),
        ("POST", "/events", {"name": "n", "channel": LONG, "data": "x"}, {}),
        ("POST", "/events", {"name": "n", "channels": ["c", LONG], "data": "x"}, {}),
        ("POST", "/events", {"name": "n", "channel": "c", "data": "x", "info": LONG}, {}),
        ("POST", "/events", {"name": "pusher:" + LONG, "channel": "c", "data": "x"}, {}),
        ("POST", "/batch_events", {"batch": [{"name": "n", "channel": LONG, "data": "x"}]}, {}),
        ("POST", "/batch_events", {"batch": LONG}, {}),
        ("PUT", "/channels", None, {}),
    ],
)
async def test_an_answer_repeats_only_the_beginning_of_a_request(
    method: str, path: str, body: Any, overrides: dict[str, Any]
) -> None:
    async with serving() as rig:
        reply = await rig.request(method, path, body, **overrides)
        assert 400 <= reply.status < 500
        assert len(reply.body) <= 2 * MAX_ECHO + 300


async def test_an_app_of_a_long_id_is_unknown_by_its_beginning() -> None:
    async with serving() as rig:
        reply = await rig.fetch("GET", rig.signed("GET", f"/apps/{LONG}/channels"))
        assert (reply.status, reply.text) == (404, f"Unknown app_id {LONG[:MAX_ECHO]}...\n")


@pytest.mark.parametrize("drift", [-600, 660])  # ahead: the clock goes on meanwhile
async def test_a_request_with_an_expired_timestamp_is_refused(drift: int) -> None:
    async with serving() as rig:
        reply = await rig.request("GET", "/channels", auth_timestamp=str(int(time.time()) + drift))
        assert reply.status == 401
        assert reply.text.startswith("Timestamp expired: Given timestamp (20")
        assert ") not within 600s of server time (20" in reply.text


@pytest.mark.parametrize("drift", [-590, 590])
async def test_a_timestamp_close_enough(drift: int) -> None:
    async with serving() as rig:
        reply = await rig.request("GET", "/channels", auth_timestamp=str(int(time.time()) + drift))
        assert reply.status == 200


async def test_every_parameter_is_signed() -> None:
    async with serving() as rig:
        target = rig.signed("GET", "/apps/3/channels") + "&filter_by_prefix=x"
        assert (await rig.fetch("GET", target)).status == 401


async def test_values_are_signed_as_they_decode() -> None:
    async with serving() as rig:
        for prefix in ("a b+c&d=e;f", "__fish", "é"):
            reply = await rig.request("GET", "/channels", parameters={"filter_by_prefix": prefix})
            assert (reply.status, reply.body) == (200, b'{"channels":{}}')


async def test_a_get_request_may_have_a_body_md5() -> None:
    async with serving() as rig:
        reply = await rig.request("GET", "/channels", body_md5="d41d8cd98f00b204e9800998ecf8427e")
        assert reply.status == 200


async def test_an_unknown_app_and_anothers_app(tmp_path: Any) -> None:
    config = tmp_path / "heliograph.toml"
    config.write_text('[[apps]]\nid="9"\n[[apps.keys]]\nkey="k9"\nsecret="s9"\n')
    async with serving(config=str(config)) as rig:
        reply = await rig.fetch("GET", rig.signed("GET", "/apps/77/channels"))
        assert (reply.status, reply.text) == (404, "Unknown app_id 77\n")
        reply = await rig.fetch("GET", rig.signed("GET", "/apps/9/channels"))
        assert (reply.status, reply.text) == (401, "Unknown auth_key\n")


async def test_a_disabled_app() -> None:
    async with serving(enabled=False) as rig:
        reply = await rig.request("GET", "/channels")
        assert (reply.status, reply.text) == (403, "Application disabled\n")


# -- Publishing ----------------------------------------------------------------------------


async def test_an_event_for_several_channels_is_sent_once_on_each() -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("a")
        await client.subscribe("b")
        body = {"name": "n", "channels": ["a", "b", "a"], "data": "1"}
        assert (await rig.request("POST", "/events", body)).body == b"{}"
        await client.expect(
            '{"event":"n","channel":"a","data":"1"}', '{"event":"n","channel":"b","data":"1"}'
        )
        await client.expect_nothing_before_pong()


async def test_a_socket_id_excludes_that_socket() -> None:
    async with serving() as rig, rig.client() as ann, rig.client() as bob:
        await ann.subscribe("c")
        await bob.subscribe("c")
        await rig.publish("n", "c", socket_id=ann.socket_id)
        await bob.expect('{"event":"n","channel":"c","data":"{}"}')
        await ann.expect_nothing_before_pong()
        for nobody in ("123123", None, 5):
            await rig.publish("n", "c", socket_id=nobody)
            await ann.expect('{"event":"n","channel":"c","data":"{}"}')


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"channel": "c", "data": "x"}, 400, "Expected name parameter to be a string\n"),
        ({"name": 5, "channel": "c", "data": "x"}, 400, "Expected name parameter to be a string\n"),
        (
            {"name": "pusher:x", "channel": "c", "data": "x"},
            400,
            "The 'pusher' namespace is reserved for internal usage\n",
        ),
        (
            {"name": "pusher-notification", "channel": "c", "data": "x"},
            400,
            "The 'pusher' namespace is reserved for internal usage\n",
        ),
        (
            {"name": "x" * 201, "channel": "c", "data": "x"},
            400,
            "The event name exceeds 200 characters\n",
        ),
        ({"name": "n", "data": "x"}, 400, "Missing required parameter: channel\n"),
        ({"name": "n", "channels": [], "data": "x"}, 400, "Missing required parameter: channel\n"),
        (
            {"name": "n", "channels": [5], "data": "x"},
            400,
            "Expected channels parameter to be an array of strings\n",
        ),
        (
            {"name": "n", "channel": 5, "data": "x"},
            400,
            "Expected channel parameter to be a string\n",
        ),
        ({"name": "n", "channel": "a b", "data": "x"}, 400, "Invalid channel name: a b\n"),
        ({"name": "n", "channel": "c"}, 400, "Missing required parameter: data\n"),
        ({"name": "n", "channel": "c", "data": None}, 400, "Missing required parameter: data\n"),
        (
            {"name": "n", "channels": [f"c{n}" for n in range(101)], "data": "x"},
            400,
            "Cannot publish to more than 100 channels at once\n",
        ),
        ({"name": "n", "channel": "c", "data": "x" * 10241}, 413, TOO_LARGE),
        ({"name": "n", "channel": "c", "data": "é" * 5121}, 413, TOO_LARGE),
        (
            {"name": "n", "channel": "c", "data": "x", "info": "colour"},
            400,
            "info should be a comma separated list of attributes."
            " Supported: position, subscription_count, user_count\n",
        ),
        (b"nonsense", 400, "The request body is not valid JSON\n"),
        (b"\xff", 400, "The request body is not valid UTF-8\n"),
        (b'{"name":"n","channel":"c","data":"\xff"}', 400, "The request body is not valid UTF-8\n"),
        (b"[" * 100_000, 400, "Expected the request body to be an object\n"),
        (b'{"name":' + b"[" * 100_000, 400, "The request body is not valid JSON\n"),
        (b"[]", 400, "Expected the request body to be an object\n"),
    ],
)
async def test_invalid_events_are_refused(body: Any, status: int, text: str) -> None:
    async with serving() as rig:
        reply = await rig.request("POST", "/events", body)
        assert (reply.status, reply.text) == (status, text)


@pytest.mark.parametrize("data", ["x" * 10240, "é" * 5120, "\n" * 10240, ""])
async def test_the_size_of_data_is_that_of_its_decoded_text(data: str) -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("c")
        await rig.publish("n", "c", data)
        assert json.loads(await client.receive())["data"] == data


async def test_unknown_fields_and_laravels_names_are_welcome() -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("c")
        await rig.publish("App\\Events\\Sent", "c", colour="red")
        await client.expect('{"event":"App\\\\Events\\\\Sent","channel":"c","data":"{}"}')


async def test_parameters_in_the_query_of_a_post_without_a_body() -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("c")
        reply = await rig.request(
            "POST", "/events", parameters={"name": "n", "channels[]": "c", "data": "hello"}
        )
        assert (reply.status, reply.body) == (200, b"{}")
        await client.expect('{"event":"n","channel":"c","data":"hello"}')


async def test_publishing_returns_the_counts_that_info_asks_for() -> None:
    async with serving() as rig, rig.client() as one, rig.client() as two:
        await one.join("presence-c", "u")
        await two.join("presence-c", "u")
        await two.subscribe("public")
        body = {
            "name": "n",
            "channels": ["presence-c", "public", "empty", "presence-empty"],
            "data": "x",
            "info": "user_count,subscription_count",
        }
        reply = await rig.request("POST", "/events", body)
        assert json.loads(reply.body) == {
            "channels": {
                "presence-c": {"user_count": 1, "subscription_count": 2},
                "public": {"subscription_count": 1},
                "empty": {"subscription_count": 0},
                "presence-empty": {"user_count": 0, "subscription_count": 0},
            }
        }


async def test_a_batch_is_published_in_order() -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("a")
        await client.subscribe("b")
        batch = [
            {"name": "1", "channel": "a", "data": "x"},
            {"name": "2", "channel": "b", "data": "x", "info": "subscription_count"},
            {"name": "3", "channel": "a", "data": "x", "socket_id": client.socket_id},
            {"name": "4", "channel": "a", "data": "x"},
        ]
        reply = await rig.request("POST", "/batch_events", {"batch": batch})
        assert reply.body == b'{"batch":[{},{"subscription_count":1},{},{}]}'
        heard = [json.loads(await client.receive()) for _ in range(3)]
        assert [e["event"] for e in heard if e["channel"] == "a"] == ["1", "4"]
        assert [e["event"] for e in heard if e["channel"] == "b"] == ["2"]
        reply = await rig.request("POST", "/batch_events", {"batch": batch[:1]})
        assert reply.body == b"{}"


@pytest.mark.parametrize(
    ("batch", "status", "text"),
    [
        (
            [{"name": "n", "channel": "c", "data": "x"}] * 11,
            400,
            "Batch too large (11 > 10)\n",
        ),
        ([{"name": "n", "data": "x"}], 400, "Missing required parameter: channel\n"),
        ([{"name": "n", "channel": "c", "data": "x" * 10241}], 413, TOO_LARGE),
        ("x", 400, 'Expected the request body to be an object with "batch", an array of objects\n'),
        ([5], 400, 'Expected the request body to be an object with "batch", an array of objects\n'),
    ],
)
async def test_batches_that_are_refused(batch: Any, status: int, text: str) -> None:
    async with serving() as rig:
        reply = await rig.request("POST", "/batch_events", {"batch": batch})
        assert (reply.status, reply.text) == (status, text)


async def test_a_batch_is_published_whole_or_not_at_all() -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("c")
        batch = [{"name": "n", "channel": "c", "data": "x"}, {"name": "n", "channel": "c"}]
        assert (await rig.request("POST", "/batch_events", {"batch": batch})).status == 400
        await client.expect_nothing_before_pong()


# -- Looking -------------------------------------------------------------------------------


async def occupied(rig: Rig) -> Any:
    return json.loads((await rig.request("GET", "/channels")).body)


async def test_occupied_channels_are_listed() -> None:
    async with serving() as rig:
        assert await occupied(rig) == {"channels": {}}
        async with rig.client() as client:
            await client.subscribe("c")
            await client.join("presence-c", "u")
            assert await occupied(rig) == {"channels": {"c": {}, "presence-c": {}}}
            reply = await rig.request(
                "GET",
                "/channels",
                parameters={"filter_by_prefix": "presence-", "info": "user_count"},
            )
            assert reply.body == b'{"channels":{"presence-c":{"user_count":1}}}'
            reply = await rig.request("GET", "/channels", parameters={"info": "subscription_count"})
            assert json.loads(reply.body)["channels"]["c"] == {"subscription_count": 1}
            await client.send("pusher:unsubscribe", {"channel": "c"})
            await client.send("pusher:unsubscribe", {"channel": "presence-c"})
            await client.expect_nothing_before_pong()
            assert await occupied(rig) == {"channels": {}}


@pytest.mark.parametrize(
    ("path", "parameters", "text"),
    [
        (
            "/channels",
            {"info": "user_count"},
            "user_count may only be requested for presence channels - please supply"
            " filter_by_prefix begining with presence-\n",
        ),
        (
            "/channels",
            {"info": "colour"},
            "info should be a comma separated list of attributes."
            " Supported: subscription_count, user_count\n",
        ),
        (
            "/channels/c",
            {"info": "user_count"},
            "Cannot retrieve the user count unless the channel is a presence channel\n",
        ),
        (
            "/channels/c",
            {"info": "cache"},
            "Cannot retrieve the cache unless the channel is a cache channel\n",
        ),
        (
            "/channels/c",
            {"info": "colour"},
            "info should be a comma separated list of attributes."
            " Supported: cache, position, subscription_count, user_count\n",
        ),
        ("/channels/c/users", {}, "Users can only be retrieved for presence channels\n"),
        (
            "/channels/presence-c/users",
            {"info": "x"},
            "The following query string parameters are extraneous: info\n",
        ),
        ("/channels/a%20b", {}, "Invalid channel name: a b\n"),
    ],
)
async def test_looks_that_are_refused(path: str, parameters: dict[str, str], text: str) -> None:
    async with serving() as rig:
        reply = await rig.request("GET", path, parameters=parameters)
        assert (reply.status, reply.text) == (400, text)


async def test_a_channel_has_its_counts_and_its_cached_event() -> None:
    async with serving() as rig, rig.client() as client:
        assert (await rig.request("GET", "/channels/c")).body == b'{"occupied":false}'
        await client.subscribe("c")
        await client.join("presence-cache-c", "u")
        await client.receive()
        assert (await rig.request("GET", "/channels/c")).body == b'{"occupied":true}'
        everything = {"info": "user_count,subscription_count,cache"}
        reply = await rig.request("GET", "/channels/presence-cache-c", parameters=everything)
        assert reply.body == (
            b'{"occupied":true,"user_count":1,"subscription_count":1,"cache":null}'
        )
        await rig.publish("n", "presence-cache-c", '"quoted"')
        reply = await rig.request("GET", "/channels/presence-cache-c", parameters=everything)
        cache = json.loads(reply.body)["cache"]
        assert cache["data"] == '"quoted"'
        assert 1790 < cache["ttl"] <= 1800


async def test_users_of_a_presence_channel_are_listed() -> None:
    async with serving() as rig, rig.client() as one, rig.client() as two, rig.client() as tab:
        reply = await rig.request("GET", "/channels/presence-c/users")
        assert (reply.status, reply.body) == (200, b'{"users":[]}')
        await one.subscribe("presence-c", '{"user_id":1}')
        await two.join("presence-c", "Mr Pusher")
        await tab.join("presence-c", "1")
        reply = await rig.request("GET", "/channels/presence-c/users")
        assert reply.body == b'{"users":[{"id":"1"},{"id":"Mr Pusher"}]}'


# -- Ports and paths -----------------------------------------------------------------------


async def test_health_pages_answer_and_other_paths_and_methods_are_refused() -> None:
    async with serving() as rig:
        for path in ("/health", "/up"):
            reply = await rig.fetch("GET", path)
            assert (reply.status, reply.text) == (200, "OK\n")
        reply = await rig.fetch("HEAD", "/health")
        assert (reply.status, reply.body, reply.headers["Content-Length"]) == (200, b"", "3")
        for path in ("/apps", "/apps/3", "/apps/3/nothing", "/nothing"):
            assert (await rig.fetch("GET", path)).status == 404
        reply = await rig.fetch("GET", "/apps/3/events")
        assert (reply.status, reply.headers["Allow"]) == (405, "POST")
        reply = await rig.fetch("POST", "/apps/3/channels")
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")
        reply = await rig.fetch("GET", f"/app/{KEY}?protocol=7")
        assert (reply.status, reply.headers["Upgrade"]) == (426, "websocket")


@pytest.mark.parametrize("prefix", ["", "/realtime"])
async def test_health_pages_have_paths_with_and_without_the_prefix(prefix: str) -> None:
    async with serving(path_prefix="/realtime") as rig:
        for path in ("/health", "/up", "/ready", "/accept-traffic"):
            reply = await rig.fetch("GET", prefix + path)
            assert (reply.status, reply.text) == (200, "OK\n")
        for path in (f"{prefix}/", prefix or "/"):
            reply = await rig.fetch("GET", path)
            assert reply.status == 200
            assert reply.text.startswith("Heliograph")
        assert (await rig.fetch("GET", f"{prefix}{prefix}/nothing")).status == 404


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", "GET, OPTIONS, HEAD"),
        ("/ready", "GET, OPTIONS, HEAD"),
        (f"/apps/{APP_ID}/events", "POST, OPTIONS"),
        (f"/apps/{APP_ID}/channels", "GET, OPTIONS, HEAD"),
        ("/nothing", "GET, POST, OPTIONS, HEAD"),
    ],
)
async def test_options_on_any_path_answers_with_its_methods(path: str, allowed: str) -> None:
    """Unsigned, with a body and without: it tells nothing but what the documents say."""
    async with serving() as rig:
        for body in (b"", b"{}" * 40_000):
            reply = await rig.fetch("OPTIONS", path, body)
            assert (reply.status, reply.headers["Allow"], reply.body) == (204, allowed, b"")


async def test_the_api_can_have_a_separate_port() -> None:
    async with serving(pusher_api_port=0) as rig, rig.client() as client:
        assert rig.server.api_port != rig.server.port
        await client.subscribe("c")
        await rig.publish("n", "c")
        await client.receive()
        target = rig.signed("GET", "/apps/3/channels")
        assert (await rig.fetch("GET", target, port=rig.server.port)).status == 404
        assert (await rig.fetch("GET", target)).status == 200
        assert (await rig.fetch("GET", "/health")).status == 200
        reply = await rig.fetch("GET", f"/app/{KEY}?protocol=7")
        assert reply.status == 404


async def test_a_prefix_is_no_part_of_what_is_signed() -> None:
    async with serving(path_prefix="/ws") as rig:
        target = rig.signed("GET", "/apps/3/channels")
        assert (await rig.fetch("GET", "/ws" + target)).status == 200
        assert (await rig.fetch("GET", target)).status == 404
