"""Stock pusher-js, in Node and in Chromium. What is played is in `node/scenarios.js`."""

from typing import Any

import pytest

from tests.clients.javascript import JavaScript

ANN = {"id": "ann", "info": {"name": "Ann"}}
BOB = {"id": "bob", "info": {"name": "Bob"}}
OK = {"status": 200, "body": "{}"}


# -- Channels ------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["news", "private-news", "News_=@,.;-9"])
def test_an_event_arrives_as_it_was_published(clients: JavaScript, channel: str) -> None:
    data = [{"hello": "world"}, "a text", 3, None, True, ["ü", "\u2028", "😀"], "", '{"a": 1}']
    played = clients.play("receivesWhatIsPublished", channel=channel, data=data)
    assert played["answers"] == [OK] * len(data)
    # pusher-js takes data that looks like JSON for JSON.
    heard = [*data[:-1], {"a": 1}]
    assert played["heard"] == [["said", one, {}] for one in heard]


def test_a_presence_channel_carries_events(clients: JavaScript) -> None:
    played = clients.play("receivesWhatIsPublished", channel="presence-news", data=["hello"])
    assert played == {"answers": [OK], "heard": [["said", "hello", {}]]}


def test_a_hundred_events_arrive_in_order(clients: JavaScript) -> None:
    data = list(range(100))
    played = clients.play("receivesWhatIsPublished", channel="numbers", data=data)
    assert played["heard"] == [["said", number, {}] for number in data]


def test_an_encrypted_event_is_read_by_its_client_only(clients: JavaScript) -> None:
    played = clients.play(
        "receivesWhatIsPublished",
        build="pusher-with-encryption",
        channel="private-encrypted-news",
        data=[{"secret": "ü"}, "a text"],
    )
    assert played["answers"] == [OK, OK]
    assert played["heard"] == [["said", {"secret": "ü"}, None], ["said", "a text", None]]


@pytest.mark.parametrize("channel_data", [None, {"user_id": "ann", "note": "ü"}])
def test_a_handler_may_authorize_a_private_channel(
    clients: JavaScript, channel_data: dict[str, str] | None
) -> None:
    """Where it returns channel_data, pusher-js sends that too, and it is part of what is signed."""
    played = clients.play(
        "isAuthorizedByAHandler", channel="private-handled", channelData=channel_data
    )
    assert played == ["said", "to the authorized", {}]


def test_who_is_not_authorized_hears_nothing(clients: JavaScript) -> None:
    assert clients.play("isNotAuthorized") == {
        "type": "AuthError",
        "status": 403,
        "heard": ["said", "hello", {}],
    }


def test_a_bad_signature_is_an_error_and_the_socket_stays_usable(clients: JavaScript) -> None:
    played = clients.play("signsBadly")
    error = played["error"]
    assert (error["type"], error["data"]["code"]) == ("PusherError", None)
    expected = (
        "Invalid signature: Expected HMAC SHA256 hex digest of"
        f" {played['socketId']}:private-badly-signed, but got "
    )
    assert error["data"]["message"].startswith(expected)
    assert not played["subscribed"]
    assert played["heard"] == ["said", "still here", {}]
    assert played["sameSocket"]


def test_an_event_of_a_channel_that_was_left_does_not_arrive(clients: JavaScript) -> None:
    assert clients.play("leavesAndComesBack") == {
        "before": ["said", "before", {}],
        "meanwhile": ["said", "meanwhile", {}],
        "missed": [],
        "after": ["said", "after", {}],
    }


def test_subscribe_unsubscribe_subscribe_in_one_breath_ends_subscribed(
    clients: JavaScript,
) -> None:
    acknowledged = ["pusher:subscription_succeeded", {}]
    assert clients.play("changesItsMind") == {
        "acknowledged": acknowledged,
        "acknowledgedAgain": acknowledged,
        "acknowledgedAtLast": acknowledged,
        "said": [["said", "once"], ["said", "the end"]],
        "rest": [],
        "errors": [],
    }


def test_subscribe_unsubscribe_in_one_breath_ends_unsubscribed(clients: JavaScript) -> None:
    assert clients.play("thinksBetterOfIt") == {
        "frames": [["said", "wanted"]],
        "errors": [],
        "occupied": {"status": 200, "body": '{"occupied":false}'},
    }


def test_the_socket_that_a_publisher_names_is_left_out(clients: JavaScript) -> None:
    assert clients.play("isLeftOutByItsSocketId") == {
        "answer": OK,
        "own": ["said", "to all", {}],
        "others": [["said", "to the others", {}], ["said", "to all", {}]],
    }


def test_a_batch_arrives_channel_by_channel_in_order(clients: JavaScript) -> None:
    assert clients.play("isSentABatch") == {
        "answer": OK,
        "one": [{"number": 1}, [3]],
        "two": ["two"],
    }


def test_subscribers_are_told_how_many_they_are_where_the_app_wants_it(
    clients: JavaScript,
) -> None:
    assert clients.play("countsSubscriptions") == {
        "counts": [
            {"subscription_count": 1},
            {"subscription_count": 2},
            {"subscription_count": 1},
        ],
        "subscriptionCount": 1,
    }


# -- Presence ------------------------------------------------------------------------------


def test_two_users_with_three_tabs_are_two_members(clients: JavaScript) -> None:
    """Ann has two tabs, Bob one; she has gone when her last tab has."""
    ann_alone = {"members": {"ann": {"name": "Ann"}}, "count": 1, "me": ANN}
    both = {"members": {"ann": {"name": "Ann"}, "bob": {"name": "Bob"}}, "count": 2}
    bob_came = ["pusher:member_added", BOB, None]
    assert clients.play("meetsInAPresenceChannel") == {
        "alone": ann_alone,
        "onHerPhone": ann_alone,
        "bobCame": [bob_came, bob_came],
        "together": {**both, "me": BOB},
        "seenByAnn": {**both, "me": ANN},
        "annLeft": ["pusher:member_removed", ANN, None],
        "remaining": {"members": {"bob": {"name": "Bob"}}, "count": 1, "me": BOB},
        "rest": [],
    }


def test_a_user_may_have_a_number_for_an_id_and_no_info(clients: JavaScript) -> None:
    played = clients.play("isPresentByANumber")
    assert played["seven"] == {"id": 7, "info": {"name": "Seven"}}
    assert played["added"][0] == "pusher:member_added"
    assert played["added"][1]["id"] == "silent"
    assert played["silent"] == {
        "members": {"7": {"name": "Seven"}, "silent": None},
        "count": 2,
        "me": {"id": "silent", "info": None},
    }


# -- Cache channels ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "channel",
    ["cache-price", "private-cache-price", "presence-cache-price", "private-encrypted-cache-price"],
)
def test_a_new_subscriber_gets_the_last_event_of_a_cache_channel(
    clients: JavaScript, channel: str
) -> None:
    build = "pusher-with-encryption" if "encrypted" in channel else "pusher"
    assert clients.play("findsTheLastEvent", build=build, channel=channel) == {
        "acknowledged": "pusher:subscription_succeeded",
        "missed": ["pusher:cache_miss", {}],
        "acknowledgedAgain": "pusher:subscription_succeeded",
        "replayed": ["price", {"now": 2}],
        "live": ["price", 3],
        "rest": [],
    }


# -- Client events -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "metadata"), [("private-chat", {}), ("presence-chat", {"user_id": "ann"})]
)
def test_a_client_event_reaches_the_others_and_not_its_sender(
    clients: JavaScript, channel: str, metadata: dict[str, str]
) -> None:
    """Any value may be said; on a presence channel the others learn who said it."""
    data: list[Any] = [{"a": [1]}, "a text", 3, False, None, "ü", {}]
    end = ["marker", "the end", {}]
    assert clients.play("tellsTheOthers", channel=channel, data=data) == {
        "heard": [["client-said", one, metadata] for one in data],
        "own": end,
        "end": end,
    }


def test_a_public_channel_carries_no_client_events(clients: JavaScript) -> None:
    message = "Client event rejected - only supported on private and presence channels"
    assert clients.play("tellsAPublicChannel") == {
        "error": {"type": "PusherError", "data": {"code": None, "message": message}},
        "heard": ["marker", "the end", {}],
    }


def test_too_many_client_events_are_dropped_and_the_socket_stays(clients: JavaScript) -> None:
    played = clients.play("saysTooMuch", burst=30)
    assert played["error"] == {
        "type": "PusherError",
        "data": {"code": 4301, "message": "Client event rejected due to rate limit"},
    }
    told = played["told"]
    assert told[:10] == list(range(1, 11))  # a slow machine may have time for some more
    assert told == sorted(told)
    assert len(told) + played["errorsInAll"] == 30
    assert played["state"] == "connected"


# -- Users ---------------------------------------------------------------------------------


def test_a_signed_in_user_gets_events_and_is_disconnected_by_id(clients: JavaScript) -> None:
    assert clients.play("signsIn") == {
        "success": {
            "event": "pusher:signin_success",
            "data": {"user_data": '{"id":"bob","user_info":{"name":"Bob"}}'},
        },
        "subscribed": {
            "event": "pusher_internal:subscription_succeeded",
            "channel": "#server-to-user-bob",
            "data": {},
        },
        "answer": OK,
        "notice": ["notice", {"for": "bob"}],
        "ended": OK,
        "state": "disconnected",
    }


# -- Connections ---------------------------------------------------------------------------


def test_a_client_with_an_unknown_key_is_told_and_gives_up(clients: JavaScript) -> None:
    message = "App key no-such-key not in this cluster. Did you forget to specify the cluster?"
    assert clients.play("hasAnUnknownKey") == {
        "error": {
            "type": "WebSocketError",
            "error": {"type": "PusherError", "data": {"code": 4001, "message": message}},
        },
        "states": ["disconnected"],
        "willRetry": False,
    }
