"""The HTTP API of kept events, over real sockets, with signatures; over both engines."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pusher import Pusher
from pusher.errors import PusherBadRequest, PusherBadStatus
from pusher.http import GET, POST
from pusher.http import Request as SdkRequest

from heliograph.assembly import PROTOCOLS
from heliograph.client.errors import RequestRefused
from heliograph.client.publisher import OutgoingEvent, Publisher
from heliograph.client.signing import Credentials
from heliograph.config.apps import App, AppKey, Apps, HistoryRule
from tests.integration.rig import APP_ID, KEY, SECRET, Reply, Rig, serving

LIMIT = 5
RULES = (
    HistoryRule(prefix="kept", limit=LIMIT, ttl=300.0),
    HistoryRule(prefix="kept-many", limit=1000, ttl=300.0),
    HistoryRule(prefix="private-kept", limit=LIMIT, ttl=300.0),
    HistoryRule(prefix="presence-kept", limit=LIMIT, ttl=300.0),
    HistoryRule(prefix="private-encrypted-kept", limit=LIMIT, ttl=300.0),
)
OURS = App(id=APP_ID, keys=(AppKey(KEY, SECRET),), history=RULES)
THEIRS = App(id="9", keys=(AppKey("k9", "s9"),), history=RULES)


@asynccontextmanager
async def keeping(**options: Any) -> AsyncIterator[Rig]:
    """Run a server with two apps that keep events."""
    async with serving(PROTOCOLS, Apps([OURS, THEIRS]), **options) as rig:
        yield rig


async def history(rig: Rig, channel: str, **parameters: object) -> Reply:
    given = {name: str(value) for name, value in parameters.items()}
    return await rig.request("GET", f"/channels/{channel}/history", parameters=given)


async def page(rig: Rig, channel: str, **parameters: object) -> dict[str, Any]:
    reply = await history(rig, channel, **parameters)
    assert reply.status == 200, reply.text
    found: dict[str, Any] = json.loads(reply.body)
    return found


def names(found: dict[str, Any]) -> list[str]:
    return [event["name"] for event in found["events"]]


async def test_a_history_is_read_page_by_page() -> None:
    async with keeping() as rig:
        for number in range(LIMIT + 2):
            await rig.publish(str(number), "kept", f"data {number}")
        first = await page(rig, "kept", limit=2)
        assert [(event["name"], event["data"]) for event in first["events"]] == [
            ("2", "data 2"),
            ("3", "data 3"),
        ]
        assert [event["offset"] for event in first["events"]] == [3, 4]
        assert (first["offset"], first["more"]) == (LIMIT + 2, True)
        second = await page(rig, "kept", limit=2, cursor=first["cursor"])
        third = await page(rig, "kept", limit=2, cursor=second["cursor"])
        assert (names(second), names(third)) == (["4", "5"], ["6"])
        assert (second["more"], third["more"]) == (True, False)
        reply = await history(rig, "kept", cursor=f"{first['epoch']}:1")
        assert (reply.status, reply.headers["Content-Type"]) == (410, "text/plain")


async def test_a_history_is_read_from_a_time_on() -> None:
    async with keeping() as rig:
        times: list[float] = []
        while not times or times[-1] < times[0] + 0.02:
            await rig.publish(str(len(times)), "kept-many")
            events = (await page(rig, "kept-many", limit=1000))["events"]
            times = [event["time"] for event in events]
        assert times == sorted(times)
        assert abs(times[-1] - time.time()) < 60
        since = times[-1]
        found = names(await page(rig, "kept-many", since=since))
        # Times have milliseconds: events of the one before may be included.
        assert found == [event["name"] for event in events][-len(found) :]
        assert all(one < since for one in times[: -len(found)])
        assert times[-len(found)] >= since - 0.002
        assert names(await page(rig, "kept-many", since=int(since) + 3600)) == []
        reply = await history(rig, "kept-many", since=int(since) - 3600)
        assert reply.status == 410  # before the server was started


async def test_the_position_of_a_publish_is_where_a_page_begins() -> None:
    """Each event after it is in the history from there on, and no other one."""
    async with keeping() as rig, rig.client() as client:
        await client.subscribe("kept")
        event = {"name": "a", "channel": "kept", "data": "1", "info": "position,subscription_count"}
        reply = await rig.request("POST", "/events", event)
        found = json.loads(reply.body)["channels"]["kept"]
        assert (found["subscription_count"], found["offset"]) == (1, 1)
        await rig.publish("b", "kept")
        after = await page(rig, "kept", cursor=f"{found['epoch']}:{found['offset']}")
        assert names(after) == ["b"]
        reply = await rig.request("GET", "/channels/kept", parameters={"info": "position"})
        assert json.loads(reply.body) == {"occupied": True, "epoch": found["epoch"], "offset": 2}


async def test_a_transient_event_is_delivered_and_not_kept() -> None:
    async with keeping() as rig, rig.client() as client:
        await client.subscribe("kept")
        await rig.publish("a", "kept", transient=True)
        await rig.publish("b", "kept")
        await client.expect(
            '{"event":"a","channel":"kept","data":"{}"}',
            '{"event":"b","channel":"kept","data":"{}"}',
        )
        assert names(await page(rig, "kept")) == ["b"]


async def test_client_events_are_not_in_the_history() -> None:
    async with keeping() as rig, rig.client() as ann, rig.client() as bob:
        await ann.subscribe("private-kept")
        await bob.subscribe("private-kept")
        await ann.send("client-x", {"n": 1}, channel="private-kept")
        assert json.loads(await bob.receive())["event"] == "client-x"
        found = await page(rig, "private-kept")
        assert (found["events"], found["offset"]) == ([], 0)


async def test_a_repeated_publish_is_delivered_once() -> None:
    event = {
        "name": "a",
        "channels": ["kept", "other"],
        "data": "1",
        "info": "position,subscription_count",
        "idempotency_key": "k",
    }
    async with keeping() as rig, rig.client() as client:
        await client.subscribe("kept")
        replies = [await rig.request("POST", "/events", event) for _ in range(3)]
        assert len({(reply.status, reply.body) for reply in replies}) == 1
        assert json.loads(replies[0].body)["channels"]["kept"]["offset"] == 1
        await client.expect('{"event":"a","channel":"kept","data":"1"}')
        await client.expect_nothing_before_pong()
        assert names(await page(rig, "kept")) == ["a"]
        reply = await rig.request("POST", "/events", {**event, "data": "2"})
        assert reply.status == 409
        await client.expect_nothing_before_pong()


async def test_repetitions_at_the_same_time_are_delivered_once() -> None:
    """On connections of their own: over an engine that answers later, none has its answer yet."""
    batch = [
        {"name": str(number), "channel": f"kept-{number}", "data": "", "info": "position"}
        for number in range(3)
    ]
    body = {"batch": batch, "idempotency_key": "k"}
    async with keeping() as rig:
        replies = await asyncio.gather(
            *[rig.request("POST", "/batch_events", body) for _ in range(10)]
        )
        assert len({(reply.status, reply.body) for reply in replies}) == 1
        assert [found["offset"] for found in json.loads(replies[0].body)["batch"]] == [1, 1, 1]
        for number in range(3):
            assert names(await page(rig, f"kept-{number}")) == [str(number)]


@pytest.mark.parametrize(
    "channel", ["kept", "private-kept", "presence-kept", "private-encrypted-kept"]
)
async def test_a_history_is_for_those_that_sign_with_a_key_of_the_app(channel: str) -> None:
    path = f"/channels/{channel}/history"
    async with keeping() as rig:
        await rig.publish("secret-event", channel)
        assert names(await page(rig, channel)) == ["secret-event"]
        replies = [
            await rig.fetch("GET", f"/apps/{APP_ID}{path}"),
            await rig.request("GET", path, auth_signature=None),
            await rig.request("GET", path, auth_signature="0" * 64),
            await rig.request("GET", path, auth_key="k9"),
            await rig.fetch("GET", rig.signed("GET", f"/apps/9{path}")),
            await rig.fetch("GET", rig.signed("GET", f"/apps/{APP_ID}{path}") + "&limit=1"),
        ]
        assert [reply.status for reply in replies] == [401] * 6
        rig.key, rig.secret = "k9", "s9"
        reply = await rig.fetch("GET", rig.signed("GET", f"/apps/{APP_ID}{path}"))
        assert (reply.status, reply.text) == (401, "Unknown auth_key\n")
        rig.app_id = "9"
        assert (await page(rig, channel))["events"] == []


async def test_head_and_options_of_a_history() -> None:
    path = "/channels/kept/history"
    async with keeping() as rig:
        got = await rig.request("GET", path)
        head = await rig.request("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Length"] == str(len(got.body))
        options = await rig.fetch("OPTIONS", f"/apps/{APP_ID}{path}")
        assert (options.status, options.headers["Allow"]) == (204, "GET, OPTIONS, HEAD")
        reply = await rig.request("POST", path, {})
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")


async def test_a_history_can_be_read_by_pages_of_allowed_origins() -> None:
    async with keeping(cors_allowed_origins="https://a.example") as rig:
        target = rig.signed("GET", f"/apps/{APP_ID}/channels/kept/history")
        reply = await rig.fetch("GET", target, headers={"Origin": "https://a.example"})
        assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (
            200,
            "https://a.example",
        )


async def test_a_publisher_of_heliograph_reads_what_it_published() -> None:
    async with keeping() as rig:
        async with Publisher(rig.url, APP_ID, Credentials(KEY, SECRET)) as api:
            found = await api.publish("kept", "a", "1", info=["position"], idempotency_key="k")
            assert found["kept"]["offset"] == 1
            assert found == await api.publish(
                "kept", "a", "1", info=["position"], idempotency_key="k"
            )
            batch = [OutgoingEvent("kept", "b", "2", transient=True), OutgoingEvent("kept", "c", 3)]
            for _ in range(2):
                assert await api.publish_batch(batch, idempotency_key="batch") == []
            await api.publish("kept", "d", "", transient=True)
            first = await api.history("kept", limit=1)
            assert (names(first), first["more"]) == (["a"], True)
            assert names(await api.history("kept", cursor=first["cursor"])) == ["c"]
            assert names(await api.history("kept", since=time.time() + 3600)) == []
            assert (await api.history("kept", limit=0))["offset"] == 2
            with pytest.raises(RequestRefused) as refused:
                await api.history("kept", cursor="x:1")
            assert refused.value.status == 410


async def test_the_python_sdk_signs_requests_for_a_history_and_publishes_with_a_key() -> None:
    """It has no methods for them, but sends any request that is made with its `Request`."""
    async with keeping() as rig:
        sdk = Pusher(APP_ID, KEY, SECRET, ssl=False, host="127.0.0.1", port=rig.server.port)
        client = sdk._pusher_client

        async def send(method: str, path: str, parameters: dict[str, Any]) -> Any:
            request = SdkRequest(client, method, f"/apps/{APP_ID}{path}", parameters)
            return await asyncio.to_thread(client.http.send_request, request)

        try:
            await asyncio.to_thread(sdk.trigger, "kept", "a", {"n": 1})
            event = {"name": "b", "channel": "kept", "data": "", "idempotency_key": "k"}
            for _ in range(2):
                assert await send(POST, "/events", event) == {}
            transient = {"name": "c", "channel": "kept", "data": "", "transient": True}
            assert await send(POST, "/events", transient) == {}
            found = await send(GET, "/channels/kept/history", {})
            assert names(found) == ["a", "b"]
            assert json.loads(found["events"][0]["data"]) == {"n": 1}
            found = await send(
                GET, "/channels/kept/history", {"cursor": f"{found['epoch']}:1", "limit": "1"}
            )
            assert (names(found), found["more"]) == (["b"], False)
            with pytest.raises(PusherBadStatus, match="410: Cannot continue from here"):
                await send(GET, "/channels/kept/history", {"cursor": "x:1"})
            with pytest.raises(PusherBadRequest, match="the channel has no history"):
                await send(GET, "/channels/other/history", {})
        finally:
            client.http.session.close()


async def test_metrics_have_the_path_of_a_history() -> None:
    async with keeping(metrics=True) as rig:
        for channel in ("kept", "kept-2"):
            assert (await history(rig, channel)).status == 200
        text = (await rig.fetch("GET", "/metrics")).text
        assert "/apps/{app}/channels/{channel}/history" in text
        assert "kept-2" not in text
