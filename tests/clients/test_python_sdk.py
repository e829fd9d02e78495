"""The official Python server SDK, for every endpoint, and what it makes of refusals."""

import base64
import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

import nacl.secret
import pytest
from pusher import Pusher
from pusher.errors import PusherBadAuth, PusherBadRequest, PusherBadStatus
from pusher.http import Request

from tests.clients.listener import Listener
from tests.server import ServerProcess

MASTER_KEY = base64.b64encode(b"a master key that has 32 bytes..").decode()

MakePusher = Callable[..., Any]


@pytest.fixture(scope="module")
def make_pusher(server: ServerProcess) -> Iterator[MakePusher]:
    """Makes SDK clients; what is given replaces the app's id, key or secret."""
    made = []

    def make(**given: str) -> Any:
        who = {"app_id": server.app_id, "key": server.key, "secret": server.secret, **given}
        sdk = Pusher(
            **who,
            ssl=False,
            host=server.host,
            port=server.port,
            encryption_master_key_base64=MASTER_KEY,
        )
        made.append(sdk)
        return sdk

    yield make
    for sdk in made:
        sdk._pusher_client.http.session.close()


@pytest.fixture(scope="module")
def pusher(make_pusher: MakePusher) -> Any:
    return make_pusher()


def raw(request: Request) -> tuple[int, str | None, bytes]:
    """Send what the SDK would, and return status, type and body of the answer as they came."""
    connection = http.client.HTTPConnection(request.client.host, request.client.port, timeout=10)
    try:
        connection.request(request.method, request.signed_path, request.body, request.headers)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read()
    finally:
        connection.close()


# -- Publishing ----------------------------------------------------------------------------


def test_trigger_reaches_the_subscriber(server: ServerProcess, pusher: Any) -> None:
    with Listener.open(server, "news") as listener:
        assert pusher.trigger("news", "said", {"hello": "wörld"}) == {}
        assert listener.hear() == ("news", "said", '{"hello": "wörld"}')
        assert pusher.trigger("news", "said", "a text") == {}
        assert listener.hear() == ("news", "said", "a text")


def test_trigger_answers_an_empty_object(pusher: Any) -> None:
    request = pusher._pusher_client.trigger.make_request("news", "said", "hello")
    assert raw(request) == (200, "application/json", b"{}")


def test_trigger_reaches_every_channel_of_a_list(server: ServerProcess, pusher: Any) -> None:
    with Listener.open(server, "one", "private-two") as listener:
        assert pusher.trigger(["one", "private-two", "three"], "said", 1) == {}
        assert {listener.hear(), listener.hear()} == {
            ("one", "said", "1"),
            ("private-two", "said", "1"),
        }


def test_trigger_takes_a_hundred_channels(server: ServerProcess, pusher: Any) -> None:
    channels = [f"channel-{number}" for number in range(100)]
    with Listener.open(server, "channel-0", "channel-99") as listener:
        assert pusher.trigger(channels, "said", 1) == {}
        assert {listener.hear()[0], listener.hear()[0]} == {"channel-0", "channel-99"}


def test_trigger_leaves_out_the_socket_it_names(server: ServerProcess, pusher: Any) -> None:
    with Listener.open(server, "news") as author, Listener.open(server, "news") as reader:
        pusher.trigger("news", "said", "to others", socket_id=author.socket_id)
        pusher.trigger("news", "said", "to all")
        assert author.hear()[2] == "to all"
        assert [reader.hear()[2], reader.hear()[2]] == ["to others", "to all"]


def test_trigger_batch_publishes_in_order(server: ServerProcess, pusher: Any) -> None:
    with Listener.open(server, "one") as first, Listener.open(server, "two") as second:
        events = [
            {"channel": "one", "name": "a", "data": {"n": 1}},
            {"channel": "two", "name": "b", "data": "text", "socket_id": first.socket_id},
            {"channel": "one", "name": "c", "data": 3, "socket_id": second.socket_id},
            {"channel": "one", "name": "d", "data": 4, "socket_id": first.socket_id},
            {"channel": "one", "name": "e", "data": 5},
        ]
        assert pusher.trigger_batch(events) == {}
        assert [first.hear() for _ in range(3)] == [
            ("one", "a", '{"n": 1}'),
            ("one", "c", "3"),
            ("one", "e", "5"),
        ]
        assert second.hear() == ("two", "b", "text")


def test_trigger_batch_answers_an_empty_object(pusher: Any) -> None:
    events = [{"channel": "one", "name": "a", "data": "1"}]
    request = pusher._pusher_client.trigger_batch.make_request(events)
    assert raw(request) == (200, "application/json", b"{}")


def test_an_encrypted_event_passes_through_unread(server: ServerProcess, pusher: Any) -> None:
    """Only who was authorized has the secret that opens it."""
    channel = "private-encrypted-vault"
    with Listener.open(server) as listener:
        signed = pusher.authenticate(channel, listener.socket_id)
        shared_secret = base64.b64decode(signed.pop("shared_secret"))
        listener.subscribe(channel, signed)
        assert pusher.trigger(channel, "opened", {"gold": 3}) == {}
        _, name, data = listener.hear()
        sealed = json.loads(data)
        opened = nacl.secret.SecretBox(shared_secret).decrypt(
            base64.b64decode(sealed["ciphertext"]), base64.b64decode(sealed["nonce"])
        )
        assert (name, json.loads(opened)) == ("opened", {"gold": 3})


# -- Asking --------------------------------------------------------------------------------


def test_channels_info_lists_occupied_channels(server: ServerProcess, pusher: Any) -> None:
    with Listener.open(server, "listed-a", "listed-b", listed="ann"):
        assert pusher.channels_info("listed-") == {"channels": {"listed-a": {}, "listed-b": {}}}
        everything = pusher.channels_info()["channels"]
        assert {"listed-a", "listed-b", "presence-listed"} <= set(everything)
    assert pusher.channels_info("nothing-") == {"channels": {}}


def test_channels_info_counts_users(server: ServerProcess, pusher: Any) -> None:
    with (
        Listener.open(server, counted="ann"),
        Listener.open(server, counted="ann"),
        Listener.open(server, counted="bob", counted2="bob"),
    ):
        assert pusher.channels_info("presence-counted", ["user_count"]) == {
            "channels": {
                "presence-counted": {"user_count": 2},
                "presence-counted2": {"user_count": 1},
            }
        }


def test_channel_info_tells_what_it_is_asked(server: ServerProcess, pusher: Any) -> None:
    with (
        Listener.open(server, asked="ann"),
        Listener.open(server, asked="ann"),
        Listener.open(server, "asked", asked="bob"),
    ):
        assert pusher.channel_info("asked") == {"occupied": True}
        assert pusher.channel_info("asked", ["subscription_count"]) == {
            "occupied": True,
            "subscription_count": 1,
        }
        assert pusher.channel_info("presence-asked", ["user_count", "subscription_count"]) == {
            "occupied": True,
            "user_count": 2,
            "subscription_count": 3,
        }
    assert pusher.channel_info("nobody-is-here") == {"occupied": False}


def test_channel_info_tells_what_a_cache_channel_holds(pusher: Any) -> None:
    empty = pusher.channel_info("cache-asked", ["cache"])
    assert empty == {"occupied": False, "cache": None}
    pusher.trigger("cache-asked", "price", {"now": 1})
    held = pusher.channel_info("cache-asked", ["cache"])["cache"]
    assert held["data"] == '{"now": 1}'
    assert 1700 < held["ttl"] <= 1800


def test_users_info_lists_each_user_once(server: ServerProcess, pusher: Any) -> None:
    with (
        Listener.open(server, users="ann"),
        Listener.open(server, users="ann"),
        Listener.open(server, users="bob"),
    ):
        users = pusher.users_info("presence-users")["users"]
        assert sorted(user["id"] for user in users) == ["ann", "bob"]
    assert pusher.users_info("presence-empty") == {"users": []}


# -- Authorizing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "custom_data"),
    [
        ("private-signed", None),
        ("private-signed", {"user_id": "ann"}),
        ("presence-signed", {"user_id": "ann", "user_info": {"name": "Änn"}}),
        ("presence-signed", {"user_id": 7}),
    ],
)
def test_a_signature_of_authenticate_is_accepted(
    server: ServerProcess, pusher: Any, channel: str, custom_data: dict[str, Any] | None
) -> None:
    with Listener.open(server) as listener:
        signed = pusher.authenticate(channel, listener.socket_id, custom_data)
        listener.subscribe(channel, signed)
        pusher.trigger(channel, "said", "to the authorized")
        assert listener.hear() == (channel, "said", "to the authorized")


def test_an_authenticated_user_is_reached_and_sent_away(server: ServerProcess, pusher: Any) -> None:
    with Listener.open(server) as listener:
        listener.send("pusher:signin", pusher.authenticate_user(listener.socket_id, {"id": "ann"}))
        assert json.loads(listener.frame()) == {
            "event": "pusher:signin_success",
            "data": json.dumps({"user_data": '{"id": "ann"}'}, separators=(",", ":")),
        }
        listener.subscribe("#server-to-user-ann")
        assert pusher.send_to_user("ann", "notice", "for Ann") == {}
        assert listener.hear() == ("#server-to-user-ann", "notice", "for Ann")
        assert pusher.terminate_user_connections("ann") == {}
        assert listener.closed_with() == 4009


# -- What the SDK is told when something is wrong ------------------------------------------


def test_a_wrong_secret_is_bad_auth(make_pusher: MakePusher) -> None:
    with pytest.raises(PusherBadAuth) as caught:
        make_pusher(secret="another").trigger("news", "said", 1)
    text = str(caught.value)
    assert text.startswith(
        'Invalid signature: you should have sent HmacSHA256Hex("POST\\n/apps/3/events\\nauth_key='
    )
    assert text.endswith('"\n')


def test_an_unknown_key_is_a_bad_request(make_pusher: MakePusher) -> None:
    with pytest.raises(PusherBadRequest, match=r"^Unknown auth_key\n$"):
        make_pusher(key="nobodys").trigger("news", "said", 1)


def test_an_unknown_app_is_a_bad_status(make_pusher: MakePusher) -> None:
    with pytest.raises(PusherBadStatus, match=r"^404: "):
        make_pusher(app_id="99").trigger("news", "said", 1)


@pytest.mark.parametrize("data", ["x" * 10240, "ü" * 5120])
def test_ten_kilobytes_of_data_are_taken(server: ServerProcess, pusher: Any, data: str) -> None:
    """Measured in bytes of UTF-8, however long their escapes are in the request."""
    with Listener.open(server, "large") as listener:
        assert pusher.trigger("large", "said", data) == {}
        assert listener.hear() == ("large", "said", data)


TOO_LARGE = (
    "The data content of this event exceeds the allowed maximum (10240 bytes). See"
    " https://pusher.com/docs/channels/server_api/http-api#publishing-events for more info\n"
)


@pytest.mark.parametrize("data", ["x" * 10241, "ü" * 5121])
def test_more_than_ten_kilobytes_of_data_are_too_large(pusher: Any, data: str) -> None:
    with pytest.raises(PusherBadStatus) as caught:
        pusher.trigger("large", "said", data)
    assert str(caught.value) == f"413: {TOO_LARGE}"


def test_one_event_that_is_too_large_stops_the_batch(server: ServerProcess, pusher: Any) -> None:
    with Listener.open(server, "large") as listener:
        events = [
            {"channel": "large", "name": "said", "data": data} for data in ("small", "x" * 10241)
        ]
        with pytest.raises(PusherBadStatus) as caught:
            pusher.trigger_batch(events, already_encoded=True)
        assert str(caught.value) == f"413: {TOO_LARGE}"
        pusher.trigger("large", "said", "after")
        assert listener.hear()[2] == "after"


def test_eleven_events_are_too_many_for_a_batch(pusher: Any) -> None:
    events = [{"channel": "news", "name": "said", "data": "1"}] * 11
    with pytest.raises(PusherBadRequest) as caught:
        pusher.trigger_batch(events)
    assert str(caught.value) == "Batch too large (11 > 10)\n"


def test_a_name_of_pushers_own_is_refused(pusher: Any) -> None:
    with pytest.raises(PusherBadRequest) as caught:
        pusher.trigger("news", "pusher:said", 1)
    assert str(caught.value) == "The 'pusher' namespace is reserved for internal usage\n"


def test_users_are_counted_in_presence_channels_only(pusher: Any) -> None:
    with pytest.raises(PusherBadRequest) as caught:
        pusher.channels_info(attributes=["user_count"])
    assert str(caught.value) == (
        "user_count may only be requested for presence channels -"
        " please supply filter_by_prefix begining with presence-\n"
    )
    with pytest.raises(PusherBadRequest) as caught:
        pusher.channel_info("news", ["user_count"])
    assert str(caught.value) == (
        "Cannot retrieve the user count unless the channel is a presence channel\n"
    )
    with pytest.raises(PusherBadRequest) as caught:
        pusher.users_info("news")
    assert str(caught.value) == "Users can only be retrieved for presence channels\n"


def test_an_unknown_attribute_is_refused(pusher: Any) -> None:
    with pytest.raises(PusherBadRequest, match="info should be a comma separated list"):
        pusher.channel_info("news", ["weather"])


def test_an_error_is_a_line_of_plain_text(pusher: Any) -> None:
    request = pusher._pusher_client.users_info.make_request("news")
    status, kind, body = raw(request)
    assert (status, body) == (400, b"Users can only be retrieved for presence channels\n")
    assert kind is not None
    assert kind.partition(";")[0] == "text/plain"
