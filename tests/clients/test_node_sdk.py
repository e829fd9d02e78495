"""The official Node server SDK, for every endpoint; it hands over status and body as they are."""

import json
from typing import Any

import pytest

from tests.clients.javascript import JavaScript
from tests.clients.listener import Listener
from tests.server import ServerProcess

OK = {"status": 200, "body": "{}"}

TOO_LARGE = (
    "The data content of this event exceeds the allowed maximum (10240 bytes). See"
    " https://pusher.com/docs/channels/server_api/http-api#publishing-events for more info\n"
)


def sdk(node: JavaScript, method: str, *args: Any) -> dict[str, Any]:
    """Call a method of the SDK; return the answer's status and body, or what it threw."""
    answer: dict[str, Any] = node.call("sdk", "main", method, *args)
    return answer


def answered(node: JavaScript, method: str, *args: Any) -> Any:
    """Call a method of the SDK; return the JSON of the answer, which must be a good one."""
    answer = sdk(node, method, *args)
    assert answer["status"] == 200, answer
    return json.loads(answer["body"])


def refused(node: JavaScript, method: str, *args: Any) -> tuple[int, str]:
    """Call a method of the SDK; return status and text of the refusal."""
    answer = sdk(node, method, *args)
    assert answer["error"] == "PusherRequestError", answer
    assert answer["message"] == f"Unexpected status code {answer['status']}"
    return answer["status"], answer["body"]


def test_trigger_reaches_the_subscriber(server: ServerProcess, node: JavaScript) -> None:
    with Listener.open(server, "news", "private-news") as listener:
        assert sdk(node, "trigger", "news", "said", {"hello": "wörld"}) == OK
        assert listener.hear() == ("news", "said", '{"hello":"wörld"}')
        assert sdk(node, "trigger", ["private-news", "empty"], "said", "a text") == OK
        assert listener.hear() == ("private-news", "said", "a text")


def test_trigger_leaves_out_the_socket_it_names(server: ServerProcess, node: JavaScript) -> None:
    with Listener.open(server, "news") as author, Listener.open(server, "news") as reader:
        sdk(node, "trigger", "news", "said", "to others", {"socket_id": author.socket_id})
        sdk(node, "trigger", "news", "said", "to all", {"socket_id": None})
        assert author.hear()[2] == "to all"
        assert [reader.hear()[2], reader.hear()[2]] == ["to others", "to all"]


def test_trigger_tells_what_it_is_asked(server: ServerProcess, node: JavaScript) -> None:
    channels = ["presence-info", "info", "presence-empty"]
    asked = {"info": "user_count,subscription_count"}
    with (
        Listener.open(server, "info", info="ann"),
        Listener.open(server, info="ann"),
        Listener.open(server, info="bob"),
    ):
        assert answered(node, "trigger", channels, "said", 1, asked) == {
            "channels": {
                "presence-info": {"user_count": 2, "subscription_count": 3},
                "info": {"subscription_count": 1},
                "presence-empty": {"user_count": 0, "subscription_count": 0},
            }
        }


def test_trigger_batch_publishes_in_order(server: ServerProcess, node: JavaScript) -> None:
    with Listener.open(server, "batch") as listener:
        events = [{"channel": "batch", "name": "said", "data": number} for number in range(10)]
        assert sdk(node, "triggerBatch", events) == OK
        assert [listener.hear()[2] for _ in range(10)] == [str(number) for number in range(10)]


def test_trigger_batch_returns_the_counts_that_info_asks_for(
    server: ServerProcess, node: JavaScript
) -> None:
    events = [
        {"channel": "batch", "name": "said", "data": 1, "info": "subscription_count"},
        {"channel": "batch", "name": "said", "data": 2},
        {"channel": "presence-batch", "name": "said", "data": 3, "info": "user_count"},
    ]
    with Listener.open(server, "batch", batch="ann"):
        assert answered(node, "triggerBatch", events) == {
            "batch": [{"subscription_count": 1}, {}, {"user_count": 1}]
        }


def test_get_channels(server: ServerProcess, node: JavaScript) -> None:
    def get(**params: str) -> Any:
        return answered(node, "get", {"path": "/channels", "params": params})

    with Listener.open(server, "got", "private-got", got="ann"):
        assert get() == {"channels": {"got": {}, "private-got": {}, "presence-got": {}}}
        assert get(filter_by_prefix="private-") == {"channels": {"private-got": {}}}
        assert get(filter_by_prefix="presence-", info="user_count") == {
            "channels": {"presence-got": {"user_count": 1}}
        }
        assert get(filter_by_prefix="__fish") == {"channels": {}}


def test_get_channel(server: ServerProcess, node: JavaScript) -> None:
    def get(channel: str, **params: str) -> Any:
        return answered(node, "get", {"path": f"/channels/{channel}", "params": params})

    with Listener.open(server, "got", "semi;colon,comma@at=is.dot", got="ann"):
        assert get("got") == {"occupied": True}
        assert get("semi;colon,comma@at=is.dot") == {"occupied": True}
        assert get("presence-got", info="user_count,subscription_count") == {
            "occupied": True,
            "user_count": 1,
            "subscription_count": 1,
        }
    assert get("nobody-is-here", info="subscription_count") == {
        "occupied": False,
        "subscription_count": 0,
    }


def test_get_users(server: ServerProcess, node: JavaScript) -> None:
    with Listener.open(server, got="ann"), Listener.open(server, got="ann"):
        path = "/channels/presence-got/users"
        assert answered(node, "get", {"path": path}) == {"users": [{"id": "ann"}]}
    path = "/channels/presence-empty/users"
    assert sdk(node, "get", {"path": path}) == {"status": 200, "body": '{"users":[]}'}


def test_an_app_is_found_by_its_url(server: ServerProcess, node: JavaScript) -> None:
    with Listener.open(server, "news") as listener:
        assert node.call("url", "trigger", "news", "said", "by URL") == OK
        assert listener.hear() == ("news", "said", "by URL")


@pytest.mark.parametrize(
    ("channel", "data"),
    [
        ("private-signed", None),
        ("private-signed", {"user_id": "ann"}),
        ("presence-signed", {"user_id": 10, "user_info": {"name": "Mr. Channels"}}),
    ],
)
def test_what_authorize_channel_signs_is_accepted(
    server: ServerProcess, node: JavaScript, channel: str, data: dict[str, Any] | None
) -> None:
    with Listener.open(server) as listener:
        listener.subscribe(channel, node.call("authorize", listener.socket_id, channel, data))
        assert sdk(node, "trigger", channel, "said", "to the authorized") == OK
        assert listener.hear() == (channel, "said", "to the authorized")


def test_a_user_without_sockets_can_be_sent_away(node: JavaScript) -> None:
    assert sdk(node, "terminateUserConnections", "nobody") == OK


def test_more_than_ten_kilobytes_of_data_are_too_large(node: JavaScript) -> None:
    assert sdk(node, "trigger", "large", "said", "x" * 10240) == OK
    assert refused(node, "trigger", "large", "said", "x" * 10241) == (413, TOO_LARGE)
    events = [{"channel": "large", "name": "said", "data": "x" * 10241}]
    assert refused(node, "triggerBatch", events) == (413, TOO_LARGE)


def test_eleven_events_are_too_many_for_a_batch(node: JavaScript) -> None:
    events = [{"channel": "news", "name": "said", "data": 1}] * 11
    assert refused(node, "triggerBatch", events) == (400, "Batch too large (11 > 10)\n")


def test_an_event_of_a_batch_needs_a_channel(node: JavaScript) -> None:
    order = {"path": "/batch_events", "body": {"batch": [{"name": "said", "data": "1"}]}}
    assert refused(node, "post", order) == (400, "Missing required parameter: channel\n")


def test_what_a_channel_does_not_have_is_refused(node: JavaScript) -> None:
    def get(path: str, **params: str) -> tuple[int, str]:
        return refused(node, "get", {"path": path, "params": params})

    assert get("/channels", info="user_count") == (
        400,
        "user_count may only be requested for presence channels -"
        " please supply filter_by_prefix begining with presence-\n",
    )
    assert get("/channels/news", info="user_count") == (
        400,
        "Cannot retrieve the user count unless the channel is a presence channel\n",
    )
    assert get("/channels/news/users") == (
        400,
        "Users can only be retrieved for presence channels\n",
    )
    status, text = get("/channels/news", info="weather")
    assert (status, "info should be a comma separated list of attributes" in text) == (400, True)
