"""What publishers are refused: each limit, to the byte, cold and through the fast path."""

import json
from dataclasses import replace
from typing import Any

import pytest

from heliograph.config.apps import App
from tests.unit.fakes import texts_of
from tests.unit.test_api_auth import OURS, Post, Server

MAX = 100
TOO_LARGE = (
    "The data content of this event exceeds the allowed maximum (100 bytes). See"
    " https://pusher.com/docs/channels/server_api/http-api#publishing-events for more info\n"
)


class Publisher:
    """A server with one app, cold or warm, and a publisher."""

    def __init__(self, app: App, *, warm: bool) -> None:
        self.server = Server(app)
        if warm:
            self.server.warm(Post(), Post(path="/apps/1/batch_events", body=b'{"batch":[]}'))

    def publish(self, body: Any, path: str = "/apps/1/events") -> tuple[int, str]:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, answer = self.server.ask(Post(path=path, body=sent))
        return status, answer.decode()

    def batch(self, *events: Any) -> tuple[int, str]:
        return self.publish({"batch": list(events)}, "/apps/1/batch_events")


@pytest.fixture(params=[False, True], ids=["cold", "warm"])
def warm(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def an_event(**fields: Any) -> dict[str, Any]:
    return {"name": "n", "channel": "c", "data": "x", **fields}


AT_THE_LIMIT = texts_of(MAX)


@pytest.mark.parametrize("data", AT_THE_LIMIT.values(), ids=AT_THE_LIMIT)
@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "as it is"])
def test_an_event_may_be_as_large_as_the_limit_and_no_larger(
    data: str, ascii_only: bool, warm: bool
) -> None:
    """Its size is that of its text, however that is escaped."""
    publisher = Publisher(replace(OURS, max_event_bytes=MAX), warm=warm)
    for text, taken in ((data[:-1], True), (data, True), (data + "x", False), (data * 2, False)):
        expected = (200, "{}") if taken else (413, TOO_LARGE)
        body = json.dumps(an_event(data=text), ensure_ascii=ascii_only).encode()
        assert publisher.publish(body) == expected
        assert publisher.batch(an_event(), an_event(data=text)) == expected


def test_the_size_of_data_that_is_no_string_is_that_of_its_json(warm: bool) -> None:
    publisher = Publisher(replace(OURS, max_event_bytes=MAX), warm=warm)
    for length, status in ((MAX, 200), (MAX + 1, 413)):
        data = b'{"a":"%b"}' % (b"x" * (length - len(b'{"a":""}')))
        assert len(data) == length
        assert publisher.publish(b'{"name":"n","channel":"c","data":%b}' % data)[0] == status


def test_without_a_limit_an_event_is_as_large_as_it_is(warm: bool) -> None:
    unlimited = replace(
        OURS,
        max_event_bytes=0,
        max_event_name_length=0,
        max_channels_per_publish=0,
        max_batch=0,
        max_channel_name_length=0,
    )
    publisher = Publisher(unlimited, warm=warm)
    large = an_event(data="x" * 100_000, name="n" * 1000, channel="c" * 1000)
    assert publisher.publish(large) == (200, "{}")
    assert publisher.batch(*[an_event()] * 50) == (200, "{}")
    del large["channel"]
    assert publisher.publish({**large, "channels": [f"c{n}" for n in range(500)]}) == (200, "{}")


LIMITS: dict[str, tuple[dict[str, int], dict[str, Any], dict[str, Any], str]] = {
    "names": (
        {"max_event_name_length": 5},
        {"name": "ééééé"},
        {"name": "éééééé"},
        "The event name exceeds 5 characters\n",
    ),
    "names of channels": (
        {"max_channel_name_length": 5},
        {"channel": "abcde"},
        {"channel": "abcdef"},
        "Invalid channel name: abcdef\n",
    ),
    "channels": (
        {"max_channels_per_publish": 3},
        {"channels": ["a", "b", "a"]},
        {"channels": ["a", "b", "a", "a"]},
        "Cannot publish to more than 3 channels at once\n",
    ),
}


@pytest.mark.parametrize("what", LIMITS)
def test_an_event_has_as_much_as_the_limit_and_no_more(what: str, warm: bool) -> None:
    limit, most, more, text = LIMITS[what]
    publisher = Publisher(replace(OURS, **limit), warm=warm)  # type: ignore[arg-type]  # ints
    assert publisher.publish(an_event(**most)) == (200, "{}")
    assert publisher.publish(an_event(**more)) == (400, text)


def test_a_batch_has_as_many_events_as_the_limit_and_no_more(warm: bool) -> None:
    publisher = Publisher(replace(OURS, max_batch=3), warm=warm)
    assert publisher.batch(*[an_event()] * 3) == (200, "{}")
    assert publisher.batch(*[an_event()] * 4) == (400, "Batch too large (4 > 3)\n")


@pytest.mark.parametrize("name", ["pusher:x", "pusher_internal:x", "pusher-x", "pusher:"])
def test_names_of_servers_are_refused_wherever_an_event_comes_from(name: str, warm: bool) -> None:
    publisher = Publisher(OURS, warm=warm)
    refused = (400, "The 'pusher' namespace is reserved for internal usage\n")
    assert publisher.publish(an_event(name=name)) == refused
    assert publisher.batch(an_event(), an_event(name=name)) == refused
    path = "/apps/1/channels/c/events"
    status, body = publisher.server.ask(Post(path=path, extra=(("name", name),)))
    assert (status, body.decode()) == refused


def test_what_is_refused_is_published_to_nobody(warm: bool) -> None:
    publisher = Publisher(replace(OURS, max_event_bytes=MAX), warm=warm)
    tally = publisher.server.node.tally
    before = tally.publishes
    for bad in (
        {"data": "x" * 101},
        {"name": 5},
        {"channel": "a b"},
        {"info": "x"},
        {"data": None},
    ):
        assert publisher.publish(an_event(**bad))[0] >= 400
        assert publisher.batch(an_event(), an_event(**bad), an_event())[0] >= 400
    assert tally.publishes == before


def test_a_rate_is_for_events_each_channel_counted() -> None:
    limited = replace(OURS, max_publishes_per_second=10)
    publisher = Publisher(limited, warm=False)
    two = {**an_event(), "channels": ["a", "b"]}
    assert [publisher.publish(two)[0] for _ in range(6)] == [200] * 5 + [429]
    publisher = Publisher(limited, warm=False)
    assert [publisher.batch(*[an_event()] * 5)[0] for _ in range(3)] == [200, 200, 429]
    publisher = Publisher(limited, warm=False)
    raw = Post(path="/apps/1/channels/c/events", body=b"x", extra=(("name", "n"),))
    assert [publisher.server.ask(raw)[0] for _ in range(11)] == [202] * 10 + [429]
