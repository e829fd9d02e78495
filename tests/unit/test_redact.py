"""What a log may show of a message."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.protocols.pusher import refusals
from heliograph.protocols.pusher.messages import error_message
from heliograph.protocols.pusher.redact import (
    HIDDEN,
    MAX_LOGGED,
    MAX_SEARCHED,
    redact_message,
    redact_text,
)

SIGNATURE = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"


def text(event: str, data: Any) -> bytes:
    return json.dumps({"event": event, "data": data}).encode()


def test_a_plain_message_is_shown_as_it_is() -> None:
    message = '{"event":"pusher:subscribe","data":{"channel":"ü"}}'
    assert redact_message(message.encode()) == message


def test_of_a_signature_only_the_key_is_left() -> None:
    message = redact_message(
        text("pusher:subscribe", {"channel": "private-a", "auth": f"key:{SIGNATURE}"})
    )
    assert json.loads(message)["data"] == {"channel": "private-a", "auth": f"key:{HIDDEN}"}


@pytest.mark.parametrize("auth", ["no colon", SIGNATURE, f"{SIGNATURE}:{SIGNATURE}", "a:b:c"])
def test_a_signature_in_the_wrong_form_is_hidden_too(auth: str) -> None:
    message = redact_message(text("pusher:subscribe", {"channel": "private-a", "auth": auth}))
    assert SIGNATURE not in message
    assert "colon" not in message
    assert ":c" not in message


@pytest.mark.parametrize("nested", [False, True])
def test_of_a_user_only_the_id_is_left(nested: bool) -> None:
    member = json.dumps({"user_id": "ann", "user_info": {"token": "open sesame"}, "x": "sesame"})
    data: Any = {"channel": "presence-a", "auth": "k:s", "channel_data": member}
    message = redact_message(text("pusher:subscribe", json.dumps(data) if nested else data))
    assert "ann" in message
    assert "sesame" not in message
    user = json.dumps({"id": "ann", "user_info": {"name": "sesame"}, "watchlist": ["sesame"]})
    message = redact_message(text("pusher:signin", {"auth": "k:s", "user_data": user}))
    assert "ann" in message
    assert "sesame" not in message


@pytest.mark.parametrize("damaged", ['{"user_id":"ann","token":"sesame', "sesame", '["sesame"]'])
def test_damaged_data_of_a_user_is_hidden_whole(damaged: str) -> None:
    message = redact_message(
        text("pusher:subscribe", {"channel": "presence-a", "channel_data": damaged})
    )
    assert "sesame" not in message


def test_what_others_are_told_of_a_user_is_hidden() -> None:
    added = {"user_id": "ann", "user_info": {"email": "sesame"}}
    assert "sesame" not in redact_message(text("pusher_internal:member_added", json.dumps(added)))
    roster = {"presence": {"count": 1, "ids": ["ann"], "hash": {"ann": {"email": "sesame"}}}}
    message = redact_message(text("pusher_internal:subscription_succeeded", json.dumps(roster)))
    assert "sesame" not in message
    assert "ann" in message


def test_errors_repeat_no_signature() -> None:
    signed = '1.1:presence-a:{"user_id":"ann","token":"sesame"}'
    message = redact_message(error_message(refusals.invalid_signature(signed, "sesame")))
    assert "presence-a" in message
    assert "sesame" not in message
    assert "sesame" not in redact_message(error_message(refusals.invalid_key("sesame")))


@pytest.mark.parametrize("name", ["token", "accessToken", "api_key", "Password", "shared_secret"])
def test_what_is_called_a_secret_is_one(name: str) -> None:
    assert "sesame" not in redact_message(text("client-x", {"a": [{name: "sesame"}]}))
    assert "sesame" not in redact_message(text("client-x", json.dumps({name: {"deep": "sesame"}})))


@pytest.mark.parametrize("message", [b"sesame", b'{"auth":"sesame', b"[" * 100_000, b"\xff"])
def test_what_is_no_json_is_not_shown(message: bytes) -> None:
    assert redact_message(message) == f"({len(message)} bytes, not JSON)"


def test_a_long_message_is_cut() -> None:
    message = redact_message(text("client-x", "x" * 100_000))
    assert len(message) < MAX_LOGGED + 50
    assert "bytes)" in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON, st.sampled_from(["auth", "channel_data", "user_data", "user_info", "token"]), JSON)
def test_whatever_is_around_it_a_secret_is_not_shown(around: Any, name: str, beside: Any) -> None:
    message = {"event": "x", "data": [around, {"beside": beside, name: f"k:{SIGNATURE}"}]}
    assert SIGNATURE not in redact_message(json.dumps(message).encode())
    message["data"] = json.dumps(message["data"])
    assert SIGNATURE not in redact_message(json.dumps(message).encode())


@given(st.binary())
def test_nothing_makes_it_fail(message: bytes) -> None:
    redact_message(message)


@pytest.mark.parametrize("part", ["digest of ", "f" * 31 + " ", "f", "Invalid key in", "x:"])
def test_a_long_text_is_searched_no_further_than_it_is_shown(part: str) -> None:
    """Searching all of "digest of digest of ..." took a second, for every client to wait."""
    text = part * (130_000 // len(part))
    assert len(redact_text(text)) <= MAX_SEARCHED + 3
    assert len(redact_message(json.dumps({"event": text}).encode())) <= MAX_LOGGED + 30


@given(st.integers(MAX_SEARCHED - 70, MAX_SEARCHED + 10))
def test_a_digest_at_the_cut_is_no_more_found_in_the_log_than_any_other(before: int) -> None:
    digest = "0123456789abcdef" * 4
    seen = redact_text("-" * before + digest + "-" * 1000)
    assert digest[:8] not in seen
