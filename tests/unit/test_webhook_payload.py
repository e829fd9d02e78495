"""What receivers read: JSON, signature and headers, to the letter."""

import time
from typing import Any

import pusher
import pytest

from heliograph.config.apps import Webhook
from heliograph.engine.answers import CacheMiss, ChannelOccupied, ChannelVacated
from heliograph.hub.facts import (
    Event,
    Member,
    MemberAdded,
    MemberRemoved,
    SubscriptionCount,
    UserOffline,
    UserOnline,
)
from heliograph.webhooks import payload
from heliograph.webhooks.debounce import state_of
from heliograph.webhooks.payload import Reportable
from heliograph.webhooks.schedule import OPEN

KEY = "278d425bdf160c739803"
SECRET = "7ad3773142a6692b25b8"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (ChannelOccupied("c"), '{"name":"channel_occupied","channel":"c"}'),
        (ChannelVacated("c"), '{"name":"channel_vacated","channel":"c"}'),
        (
            MemberAdded("presence-c", Member("7", b'{"name":"Ann"}')),
            '{"name":"member_added","channel":"presence-c","user_id":"7"}',
        ),
        (
            MemberRemoved("presence-c", "7"),
            '{"name":"member_removed","channel":"presence-c","user_id":"7"}',
        ),
        (
            SubscriptionCount("c", 3),
            '{"name":"subscription_count","channel":"c","subscription_count":3}',
        ),
        (CacheMiss("cache-c"), '{"name":"cache_miss","channel":"cache-c"}'),
        (
            Event("private-c", "client-e", b'"{\\"x\\":1}"', "1.2"),
            '{"name":"client_event","channel":"private-c","event":"client-e",'
            '"data":"{\\"x\\":1}","socket_id":"1.2"}',
        ),
        (
            Event("presence-c", "client-e", b'"d"', "1.2", "7"),
            '{"name":"client_event","channel":"presence-c","event":"client-e",'
            '"data":"d","socket_id":"1.2","user_id":"7"}',
        ),
        (
            Event("private-c", "client-e", b'{"x":1}', "1.2"),
            '{"name":"client_event","channel":"private-c","event":"client-e",'
            '"data":"{\\"x\\":1}","socket_id":"1.2"}',
        ),
        (UserOnline("7"), '{"name":"user_online","channel":"","user_id":"7"}'),
        (UserOffline("7"), '{"name":"user_offline","channel":"","user_id":"7"}'),
        (
            MemberRemoved("presence-c", "\ud800"),
            '{"name":"member_removed","channel":"presence-c","user_id":"\\ud800"}',
        ),
    ],
)
def test_every_event_is_spelled_as_pusher_spells_it(change: Reportable, text: str) -> None:
    assert payload.event(change) == text.encode()
    found = payload.read(text.encode())  # as after a restart
    assert found is not None
    assert type(found) is type(change)
    assert payload.event(found) == text.encode()
    assert payload.stream_of(found) == payload.stream_of(change)
    assert payload.share_of(found) == payload.share_of(change)
    assert state_of(found) == state_of(change)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nonsense",
        b"[]",
        b'"channel_occupied"',
        b'{"name":"channel_occupied"}',
        b'{"name":"channel_occupied","channel":5}',
        b'{"name":"channel_occupied","channel":"c"}}',
        b'{"name":"channel_occupied","channel":"c"',
        b'{"name":"channel_occupied","channel":"\xff"}',
        b'{"name":"channel_occupied","channel":"c","else":"\xff"}',
        b'{"name":"of a newer version","channel":"c"}',
        b'{"name":"member_added","channel":"presence-c"}',
        b'{"name":"member_removed","channel":"presence-c","user_id":7}',
        b'{"name":"subscription_count","channel":"c"}',
        b'{"name":"subscription_count","channel":"c","subscription_count":"3"}',
        b'{"name":"client_event","channel":"c","event":"client-e"}',
        b'{"name":"client_event","channel":"c","data":"d"}',
        b'{"name":"user_online","channel":""}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_event_is_not_taken_for_one(text: bytes) -> None:
    assert payload.read(text) is None


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (ChannelOccupied("c"), OPEN),
        (ChannelVacated("cache-c"), OPEN),
        (CacheMiss("cache-c"), OPEN),
        (SubscriptionCount("c", 1), OPEN),
        (ChannelOccupied("private-c"), "channel_existence"),
        (ChannelVacated("presence-c"), "channel_existence"),
        (ChannelVacated("private-encrypted-c"), "channel_existence"),
        (CacheMiss("private-cache-c"), "cache_miss"),
        (SubscriptionCount("private-c", 1), "subscription_count"),
        (Event("private-c", "client-e", b'""'), "client_event"),
        (MemberAdded("presence-c", Member("7")), "presence"),
        (MemberRemoved("presence-cache-c", "7"), "presence"),
        (UserOnline("7"), "user_presence"),
        (UserOffline("7"), "user_presence"),
    ],
)
def test_only_what_happens_on_public_channels_is_in_the_open_share(
    change: Reportable, share: str
) -> None:
    assert payload.share_of(change) == share


def test_the_signature_is_the_documented_one() -> None:
    body = payload.body(1327078148132, [payload.event(ChannelOccupied("my-channel"))])
    expected = (
        b'{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"my-channel"}]}'
    )
    assert body == expected
    assert payload.headers(KEY, SECRET.encode(), body, "d1", [("X-Mine", "1")]) == [
        ("Content-Type", "application/json"),
        ("X-Pusher-Key", KEY),
        (
            "X-Pusher-Signature",
            "c19001ae3963ccb13bf618e5b16ba9848e7e74df0993aa0689168e341c6833cf",
        ),
        ("X-Heliograph-Delivery", "d1"),
        ("X-Mine", "1"),
        ("User-Agent", "Heliograph"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        ChannelOccupied("c"),
        MemberRemoved("presence-c", "\ud800é"),
        Event("private-c", "client-é", '"\\u00e9 é \\ud83d\\ude00"'.encode(), "1.2"),
        SubscriptionCount("c", 0),
        UserOnline("7"),
    ],
)
def test_the_python_sdk_accepts_a_webhook(change: Reportable) -> None:
    body = payload.body(int(time.time() * 1000), [payload.event(change)] * 3)
    headers = dict(payload.headers(KEY, SECRET.encode(), body, "d1", ()))
    sdk: Any = pusher.Pusher("3", KEY, SECRET)
    webhook = sdk.validate_webhook(
        headers["X-Pusher-Key"], headers["X-Pusher-Signature"], body.decode()
    )
    assert len(webhook["events"]) == 3
    for value in webhook["events"][0].values():
        assert isinstance(value, str | int)


def test_the_operator_may_name_another_user_agent() -> None:
    headers = payload.headers(KEY, b"s", b"{}", "d1", [("user-agent", "Mine")])
    assert [text for name, text in headers if name.lower() == "user-agent"] == ["Mine"]


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("https://user:pass@host:8443/hook?token=t#f", "https://host:8443/hook"),
        ("http://host", "http://host"),
        ("http://user:p@ss@host?token=t", "http://host"),
    ],
)
def test_logs_show_no_secret_of_a_url(url: str, label: str) -> None:
    assert payload.label(Webhook(url=url)) == label


def test_users_have_an_order_of_their_own() -> None:
    assert payload.stream_of(UserOnline("7")) == "#7"
    assert payload.stream_of(ChannelOccupied("7")) == "7"
