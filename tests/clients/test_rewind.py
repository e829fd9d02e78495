"""The last events of a channel for new subscribers: stock clients, without the add-on."""

import json
import logging
import queue
from collections.abc import Iterator
from typing import Any

import pusher
import pysher
import pytest

from tests.clients.java_driver import Java, build
from tests.clients.pages import KINDS, Page, each_library
from tests.server import APP_ID, KEY, SECRET, ServerProcess

PATIENCE_S = 10.0
REWIND = 2

RULES = f"""
[[apps]]
id = "{APP_ID}"

[[apps.keys]]
key = "{KEY}"
secret = "{SECRET}"

[[apps.history]]
prefix = ""
limit = 10
rewind = {REWIND}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(toml=RULES) as running:
        yield running


@each_library
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_new_subscriber_receives_the_last_events_before_live_ones(
    page: Page, channels: list[str], kind: int
) -> None:
    channel = channels[kind]
    page.publish([channel], 1, 2, 3)
    page.start("receivesFrames", channel=channel)
    page.reached("subscribed")
    page.publish([channel], 4)
    played = page.end([channel])
    assert played["received"][channel] == [2, 3, 4]
    names = [frame["event"] for frame in played["frames"]]
    assert names == ["pusher_internal:subscription_succeeded", *["said"] * 4]


@each_library
def test_a_page_with_the_add_on_receives_the_last_events_once(
    page: Page, channels: list[str]
) -> None:
    """Those at its first subscription, and after that only the events that it missed."""
    page.publish(channels, 1, 2, 3)
    page.start("resumes", channels=channels)
    page.reached("live")
    page.relay.cut()
    page.publish(channels, 4)
    page.relay.release()
    page.reached("live")
    expected = [2, 3, 4, ["heliograph:resumed", {"recovered": 1}]]
    assert page.end(channels)["received"] == dict.fromkeys(channels, expected)


@pytest.mark.parametrize("channel", ["news", "private-news", "cache-news"])
def test_pysher_receives_the_last_events_before_live_ones(
    server: ServerProcess, channel: str
) -> None:
    sdk = pusher.Pusher(APP_ID, KEY, SECRET, ssl=False, host=server.host, port=server.port)
    for number in (1, 2, 3):
        sdk.trigger(channel, "said", number)
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client = pysher.Pusher(
        KEY,
        secret=SECRET,
        secure=False,
        custom_host=server.host,
        port=server.port,
        log_level=logging.WARNING,
    )

    def connected(_: str) -> None:
        subscription = client.subscribe(channel)
        for event in ("pusher_internal:subscription_succeeded", "said"):
            subscription.bind(event, lambda data, event=event: received.put((event, data)))

    client.connection.bind("pusher:connection_established", connected)
    client.connect()
    try:
        found = [received.get(timeout=PATIENCE_S)]
        sdk.trigger(channel, "said", 4)
        found += [received.get(timeout=PATIENCE_S) for _ in range(REWIND + 1)]
    finally:
        client.disconnect(timeout=0)
        sdk._pusher_client.http.session.close()
    names, texts = zip(*found, strict=True)
    assert names == ("pusher_internal:subscription_succeeded", "said", "said", "said")
    assert [json.loads(text) for text in texts[1:]] == [2, 3, 4]


@pytest.mark.timeout(400)  # Maven may have to fetch the libraries
@pytest.mark.parametrize("channel", ["java-news", "private-java-news", "cache-java-news"])
def test_the_java_client_receives_the_last_events_before_live_ones(
    server: ServerProcess, channel: str
) -> None:
    build()
    with Java(server, "ann") as java:
        for text in ("1", "2", "3"):
            java.ask("trigger", channels=[channel], event="said", data=text)
        assert java.open(channel) == []
        java.ask("trigger", channels=[channel], event="said", data="4")
        reports = [java.reported() for _ in range(REWIND + 1)]
    assert [(name, json.loads(json.loads(text))) for _, _, name, text in reports] == [
        ("said", 2),
        ("said", 3),
        ("said", 4),
    ]
