"""The official Java client, and the official Java SDK, which signs for it and publishes to it."""

import json
from collections.abc import Iterator

import pytest

from tests.clients.java_driver import Java, build
from tests.clients.listener import Listener
from tests.server import ServerProcess

pytestmark = pytest.mark.timeout(400)  # the first test has Maven fetch the libraries

OK = ("SUCCESS", 200, "{}")


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    build()


@pytest.fixture
def java(server: ServerProcess) -> Iterator[Java]:
    """A client that is not connected yet, for the user "ann"; and an SDK."""
    with Java(server, "ann") as running:
        yield running


@pytest.mark.parametrize("channel", ["java-news", "private-java-news"])
def test_a_java_client_receives_what_the_java_sdk_triggers(java: Java, channel: str) -> None:
    assert java.open(channel) == []
    data = {"hello": "wörld"}
    assert java.ask("trigger", channels=[channel, "other"], event="said", data=data) == OK
    assert java.reported() == ["event", channel, "said", '{"hello":"wörld"}']


def test_a_java_client_is_a_member_of_a_presence_channel(server: ServerProcess, java: Java) -> None:
    channel = "presence-java"
    assert java.open(channel) == [["users", channel, ["ann"]]]
    with Listener.open(server, java="bob"):
        assert java.reported()[:3] == ["joined", channel, "bob"]
        assert java.ask("trigger", channels=[channel], event="said", data="a text") == OK
        assert java.reported() == ["event", channel, "said", '"a text"']
    assert java.reported() == ["left", channel, "bob"]


def test_a_java_client_sends_a_client_event(server: ServerProcess, java: Java) -> None:
    channel = "private-java-whispers"
    assert java.open(channel) == []
    with Listener.open(server, channel) as listener:
        java.order("whisper", channel=channel, event="client-typing", data='{"by":"ann"}')
        heard = listener.hear()
        assert heard[:2] == (channel, "client-typing")
        assert json.loads(heard[2]) == {"by": "ann"}


def test_a_java_client_that_unsubscribed_receives_nothing_more(java: Java) -> None:
    assert java.open("java-first", "java-second") == []
    java.order("unsubscribe", channel="java-first")
    # Once the channel is vacant, the server has taken the client from it.
    while java.ask("get", path="/channels/java-first", parameters={})[2] != '{"occupied":false}':
        pass
    both = ["java-first", "java-second"]
    assert java.ask("trigger", channels=both, event="said", data="1") == OK
    assert java.reported()[:2] == ["event", "java-second"]


def test_the_java_sdk_leaves_out_the_socket_it_names(server: ServerProcess, java: Java) -> None:
    assert java.open("java-own") == []
    with Listener.open(server, "java-own") as listener:
        channels = ["java-own"]
        to_others = {"event": "said", "data": "to others", "exclude_me": True}
        assert java.ask("trigger", channels=channels, **to_others) == OK
        assert java.ask("trigger", channels=channels, event="said", data="to all") == OK
        assert java.reported() == ["event", "java-own", "said", '"to all"']
        assert [listener.hear()[2], listener.hear()[2]] == ['"to others"', '"to all"']


def test_the_java_sdk_publishes_a_batch_in_order(java: Java) -> None:
    assert java.open("java-batch") == []
    events = [{"channel": "java-batch", "name": "said", "data": {"n": n}} for n in range(10)]
    assert java.ask("batch", events=events) == OK
    assert [java.reported() for _ in events] == [
        ["event", "java-batch", "said", f'{{"n":{n}}}'] for n in range(10)
    ]


def test_the_java_sdk_asks_about_channels_and_users(server: ServerProcess, java: Java) -> None:
    with Listener.open(server, java_a="ann"), Listener.open(server, java_a="bob"):
        info = {"info": "user_count,subscription_count"}
        assert java.ask("get", path="/channels/presence-java_a", parameters=info) == (
            "SUCCESS",
            200,
            '{"occupied":true,"user_count":2,"subscription_count":2}',
        )
        asked = {"filter_by_prefix": "presence-java_", "info": "user_count"}
        kind, _, text = java.ask("get", path="/channels", parameters=asked)
        assert kind == "SUCCESS"
        assert json.loads(text) == {"channels": {"presence-java_a": {"user_count": 2}}}
        kind, _, text = java.ask("get", path="/channels/presence-java_a/users", parameters={})
        assert kind == "SUCCESS"
        assert {user["id"] for user in json.loads(text)["users"]} == {"ann", "bob"}


def test_what_is_refused_is_a_result_of_the_java_sdk(java: Java) -> None:
    kind, status, text = java.ask("trigger", channels=["news"], event="said", data="x" * 10241)
    assert (kind, status) == ("UNKNOWN_ERROR", 413)
    assert text.startswith("The data content of this event exceeds the allowed maximum")
    kind, status, text = java.ask("get", path="/channels/news/users", parameters={})
    assert (kind, status) == ("CLIENT_ERROR", 400)
    assert text == "Users can only be retrieved for presence channels\n"
