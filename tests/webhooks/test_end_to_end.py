"""Webhooks of the real server, received by a real receiver and checked by the official SDK."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from heliograph.client.signing import Credentials
from tests.conftest import StartServer
from tests.server import APP_ID, KEY, SECRET, ServerProcess
from tests.webhooks.receiver import Receiver, replay

APP = Credentials(KEY, SECRET)


def configuration(receiver: Receiver, **webhook: Any) -> str:
    extra = "".join(f"{name} = {json.dumps(value)}\n" for name, value in webhook.items())
    return (
        f'[[apps]]\nid = "{APP_ID}"\nsubscription_count = true\n'
        f'[[apps.keys]]\nkey = "{KEY}"\nsecret = "{SECRET}"\n'
        f'[[apps.webhooks]]\nurl = "http://127.0.0.1:{receiver.port}/hooks"\n{extra}'
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with receiver.listening():
        yield receiver


class Client:
    """A client that speaks the protocol by hand."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        greeting = json.loads(connection.recv(timeout=5))
        self.socket_id = json.loads(greeting["data"])["socket_id"]

    def say(self, event: str, data: Any, **fields: Any) -> None:
        self.connection.send(json.dumps({"event": event, "data": data, **fields}))

    def expect(self, event: str) -> None:
        while event not in str(self.connection.recv(timeout=5)):
            pass

    def subscribe(self, channel: str, user_id: str | None = None) -> None:
        data = {"channel": channel}
        member = json.dumps({"user_id": user_id}) if user_id else None
        if channel.startswith(("private-", "presence-")):
            data["auth"] = APP.authorize_subscription(self.socket_id, channel, member)
        if member:
            data["channel_data"] = member
        self.say("pusher:subscribe", data)
        self.expect("subscription_succeeded")

    def sign_in(self, user_id: str) -> None:
        user_data = json.dumps({"id": user_id})
        auth = APP.authorize_user(self.socket_id, user_data)
        self.say("pusher:signin", {"auth": auth, "user_data": user_data})
        self.expect("signin_success")


def url(server: ServerProcess) -> str:
    return f"ws://127.0.0.1:{server.port}/app/{KEY}?protocol=7"


def test_everything_that_can_happen_is_told(receiver: Receiver, start_server: StartServer) -> None:
    server = start_server(toml=configuration(receiver))
    with connect(url(server)) as connection:
        client = Client(connection)
        client.subscribe("presence-c", "ann")
        client.subscribe("cache-c")
        client.sign_in("ann")
        client.subscribe("#server-to-user-ann")
        client.say("client-x", {"a": 1}, channel="presence-c")
        receiver.wait_for(lambda: len(receiver.told) >= 7)
    receiver.wait_for(lambda: len(receiver.told) >= 12)

    told = sorted(json.dumps(event, sort_keys=True) for event in receiver.told)
    expected = [
        {"name": "channel_occupied", "channel": "presence-c"},
        {"name": "member_added", "channel": "presence-c", "user_id": "ann"},
        {"name": "channel_occupied", "channel": "cache-c"},
        {"name": "cache_miss", "channel": "cache-c"},
        {"name": "subscription_count", "channel": "cache-c", "subscription_count": 1},
        {"name": "user_online", "channel": "", "user_id": "ann"},
        {
            "name": "client_event",
            "channel": "presence-c",
            "event": "client-x",
            "data": '{"a": 1}',
            "socket_id": client.socket_id,
            "user_id": "ann",
        },
        {"name": "subscription_count", "channel": "cache-c", "subscription_count": 0},
        {"name": "channel_vacated", "channel": "cache-c"},
        {"name": "member_removed", "channel": "presence-c", "user_id": "ann"},
        {"name": "channel_vacated", "channel": "presence-c"},
        {"name": "user_offline", "channel": "", "user_id": "ann"},
    ]
    assert told == sorted(json.dumps(event, sort_keys=True) for event in expected)
    assert all(delivery.accepted for delivery in receiver.deliveries)
    assert "waits in memory" not in server.log()


def test_headers_are_spelled_as_phps_sdk_reads_them(
    receiver: Receiver, start_server: StartServer
) -> None:
    server = start_server(toml=configuration(receiver, headers={}, channel_prefix="c"))
    with connect(url(server)) as connection:
        Client(connection).subscribe("c")
        receiver.wait_for(lambda: bool(receiver.told))
    headers = receiver.deliveries[0].headers
    assert headers["Content-Type"] == "application/json"
    assert {"X-Pusher-Key", "X-Pusher-Signature"} <= headers.keys()


def test_a_prefix_filters_what_is_told(receiver: Receiver, start_server: StartServer) -> None:
    server = start_server(
        toml=configuration(receiver, channel_prefix="presence-", events=["presence"])
    )
    with connect(url(server)) as connection:
        client = Client(connection)
        client.subscribe("c")
        client.subscribe("presence-c", "ann")
        receiver.wait_for(lambda: bool(receiver.told))
    assert receiver.told == [{"name": "member_added", "channel": "presence-c", "user_id": "ann"}]


def test_whoever_comes_back_within_the_grace_was_never_away(
    receiver: Receiver, start_server: StartServer
) -> None:
    server = start_server(toml=configuration(receiver, events=["channel_existence", "presence"]))
    for _ in range(3):
        with connect(url(server)) as connection:
            Client(connection).subscribe("presence-c", "ann")
    receiver.wait_for(lambda: len(receiver.told) == 4)
    assert [event["name"] for event in receiver.told] == [
        "channel_occupied",
        "member_added",
        "member_removed",
        "channel_vacated",
    ]


def test_a_stop_tells_everything_that_is_only_in_memory(
    receiver: Receiver, start_server: StartServer
) -> None:
    server = start_server(toml=configuration(receiver, events=["channel_existence", "presence"]))
    with connect(url(server)) as connection:
        Client(connection).subscribe("presence-c", "ann")
        assert server.stop() == 0
    assert [event["name"] for event in receiver.told] == [
        "channel_occupied",
        "member_added",
        "member_removed",
        "channel_vacated",
    ]


def test_a_restart_with_a_folder_loses_nothing_and_repeats_nothing(
    start_server: StartServer, tmp_path: Path
) -> None:
    """What could not be delivered before a stop is delivered after the start."""
    receiver = Receiver()
    with receiver.listening():
        port = receiver.port
    events = ["channel_existence", "presence"]
    options = {"data_dir": tmp_path, "webhook_settle": 4}
    server = start_server(options, toml=configuration(receiver, events=events))
    with connect(url(server)) as connection:
        client = Client(connection)
        client.subscribe("presence-stays", "ann")
        client.subscribe("goes")
        assert server.stop() == 0
    assert receiver.told == []
    with receiver.listening(port):
        server.start()
        with connect(url(server)) as connection:
            Client(connection).subscribe("presence-stays", "ann")
            receiver.wait_for(lambda: replay(receiver.told)[0] == {"presence-stays"}, 15)
        assert [event["name"] for event in receiver.told] == [
            "channel_occupied",
            "member_added",
            "channel_occupied",
            "channel_vacated",
        ]
        assert replay(receiver.told) == ({"presence-stays"}, {"presence-stays": {"ann"}})


def test_a_receiver_that_fails_is_tried_again_with_the_same_body(
    receiver: Receiver, start_server: StartServer
) -> None:
    answers = iter([500, None, 302])
    receiver.behave = lambda: next(answers, 200)
    server = start_server(toml=configuration(receiver, events=["channel_existence"]))
    with connect(url(server)) as connection:
        Client(connection).subscribe("c")
        receiver.wait_for(lambda: bool(receiver.told), 15)
    first, *others = receiver.deliveries
    assert len(others) >= 3
    for delivery in others[:3]:
        assert (delivery.id, delivery.body) == (first.id, first.body)
        assert delivery.headers["X-Pusher-Signature"] == first.headers["X-Pusher-Signature"]
