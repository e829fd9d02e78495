"""Signed-in users, with pusher-js and the official SDKs; and webhooks, as those read them."""

import json
from collections.abc import Iterator
from typing import Any

import pusher
import pytest
from websockets.sync.client import connect

from tests.clients.javascript import JavaScript
from tests.conftest import StartServer
from tests.server import APP_ID, HOST, KEY, SECRET, ServerProcess
from tests.webhooks.receiver import Receiver
from tests.webhooks.test_end_to_end import Client, configuration, url


def test_a_signed_in_user_hears_what_is_sent_to_it_in_every_tab(clients: JavaScript) -> None:
    played = clients.play("hearsAsAUser")
    assert played["user"]["id"] == "ann"
    assert played["answer"] == {"status": 200, "body": "{}"}
    assert [[name, data] for name, data, _ in played["heard"]] == [["said", {"hello": "Ann"}]] * 2
    assert "#server-to-user" not in played["occupied"]["body"]


def test_a_watchlist_tells_who_is_there_who_comes_and_who_goes(clients: JavaScript) -> None:
    played = clients.play("watchesOthers")
    assert [name for name, *_ in played["atFirst"]] == ["offline"]
    assert sorted(played["atFirst"][0][1]["user_ids"]) == ["7", "bob"]
    assert played["came"][:2] == ["online", {"name": "online", "user_ids": ["bob"]}]
    assert played["went"][:2] == ["offline", {"name": "offline", "user_ids": ["bob"]}]


def test_presence_takes_the_identity_of_the_signed_in_user(clients: JavaScript) -> None:
    played = clients.play("isPresentAsItsUser")
    assert played["members"] == {"ann": {"name": "Ann"}}
    assert played["me"] == {"id": "ann", "info": {"name": "Ann"}}


def test_a_terminated_user_is_told_4009_and_does_not_come_back(clients: JavaScript) -> None:
    played = clients.play("isTerminated")
    assert played["answer"] == {"status": 200, "body": "{}"}
    assert played["error"]["data"] == {"code": 4009, "message": "Connection is unauthorized"}
    assert played["state"] == "disconnected"


def test_who_may_not_sign_in_stays_connected(clients: JavaScript) -> None:
    played = clients.play("failsToSignIn")
    assert played["heard"][:2] == ["said", "still here"]
    assert played["state"] == "connected"


# -- The Python SDK ------------------------------------------------------------------------


@pytest.fixture
def sdk(server: ServerProcess) -> pusher.Pusher:
    return pusher.Pusher(
        app_id=APP_ID, key=KEY, secret=SECRET, host=HOST, port=server.port, ssl=False
    )


def test_the_python_sdk_sends_to_a_user_and_terminates_it(server: ServerProcess, sdk: Any) -> None:
    with connect(url(server)) as connection:
        client = Client(connection)
        client.sign_in("ann")
        client.subscribe("#server-to-user-ann")
        assert sdk.send_to_user("ann", "said", {"a": 1}) == {}
        assert json.loads(connection.recv(timeout=5)) == {
            "event": "said",
            "channel": "#server-to-user-ann",
            "data": '{"a": 1}',
        }
        assert sdk.terminate_user_connections("ann") == {}
        assert '"code":4009' in str(connection.recv(timeout=5))


def test_the_python_sdk_signs_in(server: ServerProcess, sdk: Any) -> None:
    with connect(url(server)) as connection:
        client = Client(connection)
        client.say("pusher:signin", sdk.authenticate_user(client.socket_id, {"id": "ann"}))
        client.expect("signin_success")


# -- Webhooks ------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with receiver.listening():
        yield receiver


def test_the_node_sdk_accepts_our_webhooks(
    receiver: Receiver, start_server: StartServer, node: JavaScript
) -> None:
    server = start_server(toml=configuration(receiver))
    with connect(url(server)) as connection:
        client = Client(connection)
        client.subscribe("presence-c", "ann")
        client.subscribe("cache-c")
        client.say("client-x", {"a": 1}, channel="presence-c")
        client.sign_in("ann")
        receiver.wait_for(lambda: len(receiver.told) >= 7)
    for delivery in list(receiver.deliveries):
        headers = {name.lower(): value for name, value in delivery.headers.items()}
        read = node.call("webhook", headers, delivery.body.decode())
        assert read["valid"] is True
        assert read["events"] == delivery.events
