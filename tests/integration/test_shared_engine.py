"""Two servers, whose engines share one state: clients notice nothing of there being two."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import pytest

from heliograph.config.apps import App, AppKey, Apps, HistoryRule
from heliograph.config.load import make_config
from heliograph.engine.testing.looped import LoopedEngine
from heliograph.engine.testing.state import SharedState
from heliograph.server import Server
from tests.integration.rig import APP_ID, KEY, LOCAL, SECRET, SINGLE_APP, Client, Rig
from tests.integration.test_webhook_delivery import app_for, receiving


@pytest.fixture
def texts() -> Iterator[str]:
    return (f"text {number}" for number in count())


@pytest.fixture
def state(texts: Iterator[str]) -> SharedState:
    return SharedState(time.monotonic, lambda: next(texts))


@asynccontextmanager
async def serving(
    state: SharedState, *nodes: str, apps: Apps | None = None
) -> AsyncIterator[list[tuple[Rig, LoopedEngine]]]:
    config = make_config(**LOCAL, **SINGLE_APP)
    if apps is not None:
        config = config.with_values(apps=apps)
    async with AsyncExitStack() as servers:
        found = []
        for node in nodes:
            engine = LoopedEngine(state, time.monotonic, node)
            server = Server(config, lambda engine=engine: engine)  # type: ignore[misc]
            await server.start()
            servers.push_async_callback(server.stop)
            found.append((Rig(server), engine))
        yield found


def joined(client: Client, channel: str, user_id: str) -> dict[str, str]:
    """Return the message's data by which a client subscribes to a presence channel."""
    member = json.dumps({"user_id": user_id})
    return client.sign(channel, member)


async def subscribe(client: Client, channel: str, user_id: str) -> dict[str, object]:
    """Subscribe to a presence channel; return what its acknowledgement says."""
    await client.send("pusher:subscribe", joined(client, channel, user_id))
    message = json.loads(await client.receive())
    assert message["event"] == "pusher_internal:subscription_succeeded"
    data = json.loads(message["data"])
    assert isinstance(data["presence"], dict)
    return data["presence"]


async def test_clients_of_two_servers_are_members_of_one_channel(state: SharedState) -> None:
    async with (
        serving(state, "one", "two") as ((first, _), (second, _)),
        first.client() as ann,
        second.client() as bob,
    ):
        await subscribe(ann, "presence-p", "ann")
        assert (await subscribe(bob, "presence-p", "bob"))["ids"] == ["ann", "bob"]
        assert json.loads(await ann.receive())["event"] == "pusher_internal:member_added"
        await second.publish("x", "presence-p")
        for client in (ann, bob):
            message = json.loads(await client.receive())
            assert (message["event"], message["channel"]) == ("x", "presence-p")
        await bob.send("pusher:unsubscribe", {"channel": "presence-p"})
        assert json.loads(await ann.receive())["event"] == "pusher_internal:member_removed"


async def test_an_event_during_an_interruption_reaches_the_client_after_it(
    state: SharedState,
) -> None:
    async with (
        serving(state, "one", "two") as ((first, engine), (second, _)),
        first.client() as ann,
    ):
        await subscribe(ann, "presence-p", "ann")
        engine.link.reachable = False
        engine.link.cut()
        await second.publish("x", "presence-p")
        engine.link.reachable = True
        assert json.loads(await ann.receive())["event"] == "x"


async def test_a_server_that_stops_sends_its_webhooks_before_it_gives_its_engine_up(
    state: SharedState,
) -> None:
    """A holder that is released forgets what it has yet to send."""
    async with (
        receiving() as receiver,
        serving(state, "a", apps=Apps([app_for(receiver)])) as servers,
    ):
        ((rig, engine),) = servers
        async with rig.client() as client:
            await client.subscribe("c")
            await receiver.received(1)
            await rig.server.stop()
        assert receiver.story == ["channel_occupied c", "channel_vacated c"]
        assert not engine.available


async def test_servers_share_the_history_and_the_keys_of_publishes(state: SharedState) -> None:
    """A publisher that repeats its request at the other server gets the answer of the first one."""
    rule = HistoryRule(prefix="kept", limit=5, ttl=300.0)
    app = App(id=APP_ID, keys=(AppKey(KEY, SECRET),), history=(rule,))
    event = {
        "name": "a",
        "channels": ["kept-1", "kept-2", "other"],
        "data": "1",
        "info": "position,subscription_count",
        "idempotency_key": "k",
    }
    async with (
        serving(state, "one", "two", apps=Apps([app])) as ((first, _), (second, _)),
        first.client() as client,
    ):
        await client.subscribe("kept-1")
        replies = [await rig.request("POST", "/events", event) for rig in (first, second, first)]
        assert len({(reply.status, reply.body) for reply in replies}) == 1
        found = json.loads(replies[0].body)["channels"]
        assert (found["kept-1"]["offset"], found["kept-1"]["subscription_count"]) == (1, 1)
        reply = await second.request("POST", "/events", {**event, "data": "2"})
        assert reply.status == 409
        await client.expect('{"event":"a","channel":"kept-1","data":"1"}')
        await client.expect_nothing_before_pong()
        pages = [await rig.request("GET", "/channels/kept-2/history") for rig in (first, second)]
        assert pages[0].body == pages[1].body
        page = json.loads(pages[0].body)
        assert [event["name"] for event in page["events"]] == ["a"]
        assert (page["epoch"], page["offset"]) == (found["kept-2"]["epoch"], 1)
