"""
The HTTP API of kept events: history, positions, transient events, and repeated publishes.

Every refusal is in a table. The engine is the real one of a single process, and, where answers come
later, the same one behind queues.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.config.apps import App, AppKey, HistoryRule
from heliograph.engine.answers import Page, Rewind
from heliograph.engine.base import EVENT_OVERHEAD_BYTES, KEY_TTL_S, NUMBERED_TTLS
from heliograph.engine.memory import MemoryEngine
from heliograph.hub.facts import Event
from heliograph.node.tenant import Tenant
from heliograph.protocols.pusher.api.history import MAX_BYTES, MAX_LIMIT
from heliograph.protocols.pusher.api.route_names import route_of
from heliograph.reply import Later
from heliograph.wire.http import Request
from heliograph.wire.responses import Response
from tests.unit.late_engine import LateEngine
from tests.unit.test_api_auth import NOW, OURS, THEIRS, Post, Server
from tests.unit.test_api_channels import get, signed_get

T = TypeVar("T")

LIMIT = 5
TTL_S = 50.0
"""So short that a numbering is forgotten while the signature of a request is still valid."""

RULES = (
    HistoryRule(prefix="kept", limit=LIMIT, ttl=TTL_S),
    HistoryRule(prefix="private-kept", limit=LIMIT, ttl=TTL_S),
    HistoryRule(prefix="presence-kept", limit=LIMIT, ttl=TTL_S),
    HistoryRule(prefix="cache-kept", limit=LIMIT, ttl=TTL_S),
    HistoryRule(prefix="kept-off", limit=0, ttl=TTL_S),
    HistoryRule(prefix="kept-large", limit=5000, ttl=TTL_S),
    HistoryRule(prefix="kept-long", limit=LIMIT, ttl=10 * TTL_S),
)
KEEPING = replace(OURS, history=RULES, max_event_bytes=0, max_batch=0)
THEIRS_KEEPING = replace(THEIRS, history=RULES)

NO_HISTORY = (
    ": the channel has no history. [[apps.history]] in the configuration file switches it on for"
    " some channels, --broker memory for all\n"
)
READ_AGAIN = (
    ". Read all events that are kept, without since and cursor, or only the present position, with"
    " limit=0\n"
)


class Desk:
    """A server whose app keeps events, with clocks that stand still until a test moves them."""

    def __init__(
        self, app: App = KEEPING, *, late: bool = False, engine_ahead_s: float = 0.0
    ) -> None:
        self.elapsed = 0.0
        inner = MemoryEngine(
            lambda: self.elapsed, epoch="e", wall=lambda: self.wall() + engine_ahead_s
        )
        self.late = LateEngine(inner) if late else None
        self.server = Server(app, THEIRS_KEEPING, engine=self.late or inner, now_s=self.wall)

    def wall(self) -> float:
        return NOW + self.elapsed

    @property
    def tenant(self) -> Tenant:
        tenant = self.server.node.tenant("1")
        assert tenant is not None
        return tenant

    def ask(self, request: Request) -> tuple[int, str]:
        """Return status and body, once an engine that answers later has done so."""
        answer: object = self.server.routes.handle(request)
        if isinstance(answer, Later):
            answer = self.settled(answer)
        assert isinstance(answer, Response)
        return answer.status, answer.body.decode()

    def settled(self, reply: Later[T]) -> T:
        """Return the answer of an engine that answers later, once it has done so."""
        assert self.late is not None
        answers: list[T] = []
        errors: list[Exception] = []
        reply.then(answers.append, errors.append)
        assert (answers, errors) == ([], [])
        self.late.settle()
        assert errors == []
        (answer,) = answers
        return answer

    def post(self, body: Any, path: str = "/apps/1/events") -> tuple[int, str]:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask(Post(path=path, body=sent).request())

    def publish(self, channel: str, *names: str, **fields: Any) -> None:
        for name in names:
            event = {"name": name, "channel": channel, "data": f"data of {name}", **fields}
            assert self.post(event) == (200, "{}")

    def refuse(self, channel: str, **parameters: object) -> tuple[int, str]:
        pairs = [(name, str(value)) for name, value in parameters.items()]
        return get(self.server, f"/channels/{channel}/history", *pairs)

    def read(self, channel: str, **parameters: object) -> dict[str, Any]:
        status, text = self.refuse(channel, **parameters)
        assert status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer

    def names(self, channel: str, **parameters: object) -> list[str]:
        return [event["name"] for event in self.read(channel, **parameters)["events"]]

    def position(self, channel: str) -> tuple[str, int]:
        found = self.read(channel, limit=0)
        return found["epoch"], found["offset"]


@pytest.fixture
def desk() -> Desk:
    return Desk()


# -- Pages -----------------------------------------------------------------------------------


def test_a_page_has_the_kept_events_with_their_times_and_positions(desk: Desk) -> None:
    desk.publish("kept", "a")
    desk.elapsed = 1.2346
    desk.publish("kept", "b")
    status, text = desk.refuse("kept")
    epoch = desk.position("kept")[0]
    assert status == 200
    assert json.loads(text) == {
        "events": [
            {"name": "a", "data": "data of a", "time": NOW, "epoch": epoch, "offset": 1},
            {
                "name": "b",
                "data": "data of b",
                "time": NOW + 1.234,
                "epoch": epoch,
                "offset": 2,
            },
        ],
        "cursor": f"{epoch}:2",
        "more": False,
        "epoch": epoch,
        "offset": 2,
    }


def test_the_data_of_a_page_is_what_was_published(desk: Desk) -> None:
    """Byte for byte: escapes, a lone surrogate, and the text of data that is no string."""
    for data in (rb'"\u00e9\/\ud800"', '"é"'.encode(), b'{"a": [1]}'):
        body = b'{"name":"\\ud801","channel":"kept","data":%b}' % data
        assert desk.post(body) == (200, "{}")
    text = desk.refuse("kept")[1]
    for written in (r'"data":"\u00e9\/\ud800"', '"data":"é"', r'"data":"{\"a\": [1]}"'):
        assert f'"name":"\\ud801",{written},' in text


def test_an_event_of_a_member_has_its_user(desk: Desk) -> None:
    """Another protocol may keep such events; those of Pusher's clients are never kept."""
    desk.publish("presence-kept", "a")
    history = desk.tenant.histories.of("presence-kept", cached=False)
    assert history is not None
    desk.tenant.publish((Event("presence-kept", "b", b'"x"', None, "ann", history.keep),))
    of_the_server, of_ann = desk.read("presence-kept")["events"]
    assert "user_id" not in of_the_server
    assert of_ann["user_id"] == "ann"


def test_a_channel_that_never_had_an_event_has_a_position(desk: Desk) -> None:
    for limit in (0, 1):
        found = desk.read("kept", limit=limit)
        epoch = found["epoch"]
        assert found == {
            "events": [],
            "cursor": f"{epoch}:0",
            "more": False,
            "epoch": epoch,
            "offset": 0,
        }
    desk.publish("kept", "a")
    assert desk.names("kept", cursor=f"{epoch}:0") == ["a"]


@given(
    numbers=st.integers(0, 2 * LIMIT),
    limits=st.lists(st.integers(1, LIMIT + 2), min_size=1, max_size=LIMIT + 2),
    data=st.data(),
)
def test_pages_of_any_size_have_each_kept_event_once_in_order(
    numbers: int, limits: list[int], data: st.DataObject
) -> None:
    desk = Desk()
    names = [str(number) for number in range(numbers)]
    desk.publish("kept", *names)
    kept = names[-LIMIT:]
    found: list[str] = []
    page = desk.read("kept", limit=limits[0])
    for limit in [*limits[1:], *[1] * LIMIT]:
        found += [event["name"] for event in page["events"]]
        assert page["more"] == (len(found) < len(kept))
        assert page["offset"] == numbers
        assert page["cursor"] == f"{page['epoch']}:{numbers - len(kept) + len(found)}"
        page = desk.read("kept", cursor=page["cursor"], limit=limit)
    assert found == kept
    # A cursor in the middle, and the same one as the position of an event.
    if kept:
        number = data.draw(st.integers(0, len(kept) - 1))
        event = desk.read("kept")["events"][number]
        after = desk.names("kept", cursor=f"{event['epoch']}:{event['offset']}")
        assert after == kept[number + 1 :]


def test_events_that_are_published_between_two_pages_are_in_the_next_one(desk: Desk) -> None:
    desk.publish("kept", "1", "2", "3")
    page = desk.read("kept", limit=2)
    assert (page["more"], page["offset"]) == (True, 3)
    desk.publish("kept", "4")
    page = desk.read("kept", cursor=page["cursor"])
    assert [event["name"] for event in page["events"]] == ["3", "4"]
    assert (page["more"], page["offset"]) == (False, 4)


def test_a_page_has_at_most_a_megabyte_of_events(desk: Desk) -> None:
    size = MAX_BYTES // 4 - EVENT_OVERHEAD_BYTES - len('"') * 2
    for number in range(LIMIT):
        event = {"name": str(number), "channel": "kept", "data": "x" * size}
        assert desk.post(event) == (200, "{}")
    first = desk.read("kept")
    assert ([event["name"] for event in first["events"]], first["more"]) == (list("0123"), True)
    second = desk.read("kept", cursor=first["cursor"])
    assert ([event["name"] for event in second["events"]], second["more"]) == (["4"], False)


def test_an_event_of_more_than_a_megabyte_is_a_page_of_its_own(desk: Desk) -> None:
    for name, size in (("a", 1), ("b", 2 * MAX_BYTES), ("c", 1)):
        assert desk.post({"name": name, "channel": "kept", "data": "x" * size}) == (200, "{}")
    page = desk.read("kept")
    pages = [page]
    while page["more"]:
        page = desk.read("kept", cursor=page["cursor"])
        pages.append(page)
    assert [[event["name"] for event in page["events"]] for page in pages] == [["a"], ["b"], ["c"]]


def test_a_page_has_a_hundred_events_unless_another_limit_is_asked_for(desk: Desk) -> None:
    for first in range(0, 1500, 500):
        batch = [
            {"name": str(first + number), "channel": "kept-large", "data": ""}
            for number in range(500)
        ]
        assert desk.post({"batch": batch}, "/apps/1/batch_events") == (200, "{}")
    for limit, expected in (({}, 100), ({"limit": MAX_LIMIT}, 1000), ({"limit": "007"}, 7)):
        page = desk.read("kept-large", **limit)
        assert (len(page["events"]), page["more"]) == (expected, True)


# -- From where ------------------------------------------------------------------------------


def test_a_time_includes_the_events_of_that_time(desk: Desk) -> None:
    for number in range(4):
        desk.elapsed = 1 + number * 0.7777
        desk.publish("kept", str(number))
    for number, event in enumerate(desk.read("kept")["events"]):
        assert desk.names("kept", since=event["time"]) == list("0123")[number:]
    assert desk.names("kept", since=int(NOW) + 1) == list("0123")
    assert desk.names("kept", since=int(NOW) + 2) == list("123")
    assert desk.names("kept", since=f"{NOW + 2.1:.3f}") == list("23")


def test_a_time_in_the_future_is_the_present(desk: Desk) -> None:
    desk.publish("kept", "a")
    found = desk.read("kept", since=int(NOW) + 3600)
    assert (found["events"], found["more"], found["offset"]) == ([], False, 1)
    desk.publish("kept", "b")
    assert desk.names("kept", cursor=found["cursor"]) == ["b"]


def test_without_events_a_limit_of_zero_has_the_place_that_was_asked_for(desk: Desk) -> None:
    for number in range(4):
        desk.elapsed = float(number)
        desk.publish("kept", str(number))
    epoch = desk.position("kept")[0]

    def place(**parameters: object) -> tuple[list[Any], str, bool, int]:
        found = desk.read("kept", limit=0, **parameters)
        return found["events"], found["cursor"], found["more"], found["offset"]

    assert place() == ([], f"{epoch}:4", False, 4)
    assert place(cursor=f"{epoch}:1") == ([], f"{epoch}:1", True, 4)
    assert place(cursor=f"{epoch}:3") == ([], f"{epoch}:3", True, 4)
    assert place(cursor=f"{epoch}:4") == ([], f"{epoch}:4", False, 4)
    assert place(since=NOW + 2) == ([], f"{epoch}:2", True, 4)
    assert place(since=NOW + 9) == ([], f"{epoch}:4", False, 4)
    assert desk.names("kept", cursor=place(since=NOW + 2)[1]) == ["2", "3"]
    assert desk.refuse("kept", limit=0, cursor=f"{epoch}:5")[0] == 410


def trimmed(desk: Desk) -> dict[str, object]:
    desk.publish("kept", *[str(number) for number in range(LIMIT + 2)])
    return {"cursor": f"{desk.position('kept')[0]}:1"}


def trimmed_since(desk: Desk) -> dict[str, object]:
    desk.publish("kept", "0")
    desk.elapsed += 1
    desk.publish("kept", *[str(number) for number in range(LIMIT)])
    return {"since": NOW}


def expired(desk: Desk) -> dict[str, object]:
    desk.publish("kept", "0", "1")
    desk.elapsed += TTL_S + 1
    return {"cursor": f"{desk.position('kept')[0]}:1"}


def of_another_epoch(desk: Desk) -> dict[str, object]:
    desk.publish("kept", "0")
    return {"cursor": f"x{desk.position('kept')[0]}:1"}


def forgotten(desk: Desk) -> dict[str, object]:
    desk.publish("kept", "0")
    epoch, offset = desk.position("kept")
    desk.elapsed += NUMBERED_TTLS * TTL_S + 1
    return {"cursor": f"{epoch}:{offset}"}


def ahead(desk: Desk) -> dict[str, object]:
    desk.publish("kept", "0")
    return {"cursor": f"{desk.position('kept')[0]}:2"}


GAPS: dict[str, tuple[Callable[[Desk], dict[str, object]], str]] = {
    "a cursor before events that were trimmed": (
        trimmed,
        "events that followed are no longer kept",
    ),
    "a time before events that were trimmed": (
        trimmed_since,
        "events that followed are no longer kept",
    ),
    "a cursor before events that expired": (expired, "events that followed are no longer kept"),
    "a cursor of another epoch": (of_another_epoch, "the numbering of the channel began anew"),
    "a cursor of a channel that was forgotten": (
        forgotten,
        "the numbering of the channel began anew",
    ),
    "a cursor beyond the last event": (ahead, "the position is beyond the last event"),
}


@pytest.mark.parametrize("what", GAPS)
@pytest.mark.parametrize("limit", [0, 1, 100])
def test_a_place_that_cannot_be_continued_is_answered_410(
    what: str, limit: int, desk: Desk
) -> None:
    make, reason = GAPS[what]
    parameters = make(desk)
    expected = (410, f"Cannot continue from here: {reason}{READ_AGAIN}")
    assert desk.refuse("kept", limit=limit, **parameters) == expected
    assert desk.refuse("kept")[0] == 200
    assert desk.read("kept", limit=0)["events"] == []


def test_parameters_may_be_as_long_as_their_limits(desk: Desk) -> None:
    desk.elapsed = 1.0
    desk.publish("kept", "a")
    assert desk.names("kept", since="1800000001.123456789", limit="0001") == ["a"]
    assert desk.refuse("kept", cursor=f"{'e' * 64}:1{'0' * 14}")[0] == 410
    assert desk.refuse("kept", cursor="e:f:1")[0] == 410


def test_a_cursor_at_the_last_event_continues_when_nothing_is_kept(desk: Desk) -> None:
    desk.publish("kept", "a", "b")
    epoch, _ = desk.position("kept")
    desk.elapsed += TTL_S + 1
    assert desk.read("kept", cursor=f"{epoch}:2")["events"] == []
    desk.publish("kept", "c")
    assert desk.names("kept", cursor=f"{epoch}:2") == ["c"]


# -- Refusals --------------------------------------------------------------------------------

BAD_LIMIT = "Expected limit parameter to be an integer from 0 to 1000\n"
BAD_SINCE = "Expected since parameter to be a number of seconds since 1970, e.g. 1700000000.5\n"
BAD_CURSOR = (
    "Expected cursor parameter to be the cursor of an answer, or epoch and offset of a position"
    " with a colon between them\n"
)
BOTH = "Expected either a since parameter or a cursor parameter, not both\n"

REFUSED: list[tuple[str, Sequence[tuple[str, str]], str]] = [
    *(
        ("kept", [("limit", limit)], BAD_LIMIT)
        for limit in ("", "1001", "-1", "1.5", "1e2", "ten", " 1", "1 ", "10000", "\u0661")
    ),
    *(
        ("kept", [("since", since)], BAD_SINCE)
        for since in ("", "-1", "now", "1e9", "1.", ".5", "17000000000", "1.0123456789", "nan")
    ),
    *(
        ("kept", [("cursor", cursor)], BAD_CURSOR)
        for cursor in (
            "",
            "e",
            ":",
            "e:",
            ":1",
            "e:-1",
            "e:1.5",
            "e:x",
            "e" * 65 + ":1",
            "e:1" + "0" * 15,
        )
    ),
    ("kept", [("cursor", "e:1"), ("since", "1")], BOTH),
    ("kept", [("cursor", ""), ("since", "")], BOTH),
    (
        "kept",
        [("colour", "red"), ("b", "c")],
        "The following query string parameters are extraneous: colour, b\n",
    ),
    ("a%20b", [], "Invalid channel name: a b\n"),
    ("kept!", [], "Invalid channel name: kept!\n"),
    ("kept".ljust(201, "x"), [], f"Invalid channel name: {'kept'.ljust(201, 'x')}\n"),
    *(
        (channel, [], "Cannot retrieve the history" + NO_HISTORY)
        for channel in (
            "other",
            "private-other",
            "presence-other",
            "cache-other",
            "kept-off",
            "kep",
        )
    ),
    (
        "%23server-to-user-ann",
        [],
        "Cannot retrieve the history: channels of users have no history\n",
    ),
]


@pytest.mark.parametrize(("channel", "parameters", "text"), REFUSED)
def test_every_request_for_a_history_that_is_refused(
    channel: str, parameters: Sequence[tuple[str, str]], text: str, desk: Desk
) -> None:
    assert get(desk.server, f"/channels/{channel}/history", *parameters) == (400, text)


def test_users_have_no_history_even_if_every_channel_has_one() -> None:
    desk = Desk(replace(KEEPING, history=(HistoryRule(prefix="", limit=LIMIT, ttl=TTL_S),)))
    desk.publish("#server-to-user-ann", "a")
    assert desk.refuse("%23server-to-user-ann")[0] == 400
    assert desk.refuse("x") == (200, desk.refuse("x")[1])


def test_the_channels_of_an_app_are_read_with_its_own_keys_only(desk: Desk) -> None:
    desk.publish("private-kept", "secret")
    path = "/apps/1/channels/private-kept/history"
    for post, status in (
        (Post(path=path, key="their-key"), 401),
        (Post(path=path, key=None), 401),
        (Post(path=path, key="nobody"), 400),
        (Post(path=path, secret=b"their-secret"), 401),
        (Post(path=path, signature=None), 401),
        (Post(path=path, signature="0" * 64), 401),
        (Post(path="/apps/2/channels/private-kept/history"), 401),
    ):
        request = replace(post, body=b"", md5=None).request()
        request.method = "GET"
        answered, text = desk.ask(request)
        assert answered == status
        assert "secret" not in text.replace("your_secret_key", "")


def test_apps_do_not_share_the_history_of_a_channel(desk: Desk) -> None:
    desk.publish("kept", "ours")
    theirs = Post(
        path="/apps/2/events", key="their-key", body=b'{"name":"n","channel":"kept","data":""}'
    )
    assert desk.ask(theirs.request()) == (200, "{}")
    assert desk.names("kept") == ["ours"]


def test_a_history_is_read_with_get_and_head_alone(desk: Desk) -> None:
    path = "/apps/1/channels/kept/history"
    options = Request("OPTIONS", path.encode(), path.encode(), b"", "1.1", [], keep_alive=True)
    answer = desk.server.routes.handle(options)
    assert isinstance(answer, Response)
    assert (answer.status, dict(answer.headers)[b"Allow"]) == (204, b"GET, OPTIONS, HEAD")
    for method in ("POST", "PUT", "DELETE"):
        request = Post(path=path).request()
        request.method = method
        assert desk.ask(request) == (405, "Method not allowed. Allowed: GET, HEAD\n")
    assert route_of(path.encode()) == "/apps/{app}/channels/{channel}/history"


# -- Positions -------------------------------------------------------------------------------


def test_a_publish_has_the_positions_of_its_channels(desk: Desk) -> None:
    """Those that have none are left out of it."""
    channels = ["kept", "other", "cache-other", "cache-kept", "kept-off", "#server-to-user-ann"]
    desk.publish("kept", "0")
    status, text = desk.post(
        {"name": "n", "channels": channels, "data": "", "info": "position,subscription_count"}
    )
    epoch, cached_epoch = desk.position("kept")[0], desk.position("cache-kept")[0]
    assert (status, json.loads(text)) == (
        200,
        {
            "channels": {
                "kept": {"subscription_count": 0, "epoch": epoch, "offset": 2},
                "other": {"subscription_count": 0},
                "cache-other": {"subscription_count": 0},
                "cache-kept": {"subscription_count": 0, "epoch": cached_epoch, "offset": 1},
                "kept-off": {"subscription_count": 0},
                "#server-to-user-ann": {"subscription_count": 0},
            }
        },
    )
    text = desk.post({"name": "n", "channel": "other", "data": "", "info": "position"})[1]
    assert text == '{"channels":{"other":{}}}'


def test_a_batch_has_the_position_after_each_event_that_asks_for_it(desk: Desk) -> None:
    batch: list[dict[str, Any]] = [
        {"name": "1", "channel": "kept", "data": "", "info": "position"},
        {"name": "2", "channel": "kept", "data": ""},
        {"name": "3", "channel": "other", "data": "", "info": "position"},
        {"name": "4", "channel": "kept", "data": "", "info": "position,subscription_count"},
        {"name": "5", "channel": "kept", "data": "", "info": "position", "transient": True},
        {"name": "6", "channel": "kept", "data": "", "info": "subscription_count"},
    ]
    status, text = desk.post({"batch": batch}, "/apps/1/batch_events")
    epoch = desk.position("kept")[0]
    assert (status, json.loads(text)) == (
        200,
        {
            "batch": [
                {"epoch": epoch, "offset": 1},
                {},
                {},
                {"subscription_count": 0, "epoch": epoch, "offset": 3},
                {"epoch": epoch, "offset": 3},
                {"subscription_count": 0},
            ]
        },
    )
    assert desk.names("kept", cursor=f"{epoch}:1") == ["2", "4", "6"]


def test_a_channel_has_its_position(desk: Desk) -> None:
    desk.publish("cache-kept", "a", "b")
    epoch, _ = desk.position("cache-kept")
    status, text = get(desk.server, "/channels/cache-kept", ("info", "position"))
    assert (status, json.loads(text)) == (200, {"occupied": False, "epoch": epoch, "offset": 2})
    desk.elapsed = 10.5
    status, text = get(desk.server, "/channels/cache-kept", ("info", "cache,position"))
    assert json.loads(text) == {
        "occupied": False,
        "cache": {"data": "data of b", "ttl": 39},
        "epoch": epoch,
        "offset": 2,
    }


def test_a_channel_keeps_its_cached_event_and_no_position(desk: Desk) -> None:
    assert get(desk.server, "/channels/cache-c", ("info", "cache")) == (
        200,
        '{"occupied":false,"cache":null}',
    )
    desk.publish("cache-c", "a", "b")
    desk.elapsed = 60.0
    assert get(desk.server, "/channels/cache-c", ("info", "cache")) == (
        200,
        '{"occupied":false,"cache":{"data":"data of b","ttl":1740}}',
    )


@pytest.mark.parametrize(("engine_ahead_s", "ttl"), [(100.0, 1800), (-100.0, 1700), (-1e4, 0)])
def test_a_cached_event_is_kept_for_no_longer_than_its_time_whatever_the_clocks(
    engine_ahead_s: float, ttl: int
) -> None:
    """A shared engine has a clock of its own."""
    desk = Desk(engine_ahead_s=engine_ahead_s)
    desk.publish("cache-c", "a")
    text = get(desk.server, "/channels/cache-c", ("info", "cache"))[1]
    assert json.loads(text)["cache"]["ttl"] == ttl


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        ("other", NO_HISTORY),
        ("cache-other", NO_HISTORY),
        ("kept-off", NO_HISTORY),
        ("%23server-to-user-ann", ": channels of users have no history\n"),
    ],
)
def test_a_channel_without_history_has_no_position(channel: str, text: str, desk: Desk) -> None:
    answer = get(desk.server, f"/channels/{channel}", ("info", "position"))
    assert answer == (400, "Cannot retrieve the position" + text)


def test_a_list_of_channels_has_no_positions(desk: Desk) -> None:
    assert get(desk.server, "/channels", ("info", "position"))[0] == 400


# -- Transient events ------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["kept", "private-kept", "cache-kept"])
def test_a_transient_event_is_not_kept(channel: str, desk: Desk) -> None:
    desk.publish(channel, "a")
    desk.publish(channel, "b", transient=True)
    desk.publish(channel, "c", transient=False)
    assert desk.names(channel) == ["a", "c"]
    assert desk.position(channel)[1] == 2


def test_an_event_of_the_deprecated_endpoint_is_kept(desk: Desk) -> None:
    post = Post(path="/apps/1/channels/kept/events", body=b"raw", extra=[("name", "a")])
    assert desk.ask(post.request()) == (202, "")
    assert [event["data"] for event in desk.read("kept")["events"]] == ["raw"]


def test_a_transient_event_is_no_cached_event(desk: Desk) -> None:
    desk.publish("cache-c", "a")
    desk.publish("cache-c", "b", transient=True)
    text = get(desk.server, "/channels/cache-c", ("info", "cache"))[1]
    assert json.loads(text)["cache"]["data"] == "data of a"


def test_an_event_in_the_query_can_be_transient(desk: Desk) -> None:
    for name, transient in (("a", "true"), ("b", "false"), ("c", None)):
        extra = [("name", name), ("channel", "kept"), ("data", "x")]
        extra += [] if transient is None else [("transient", transient)]
        assert desk.ask(Post(body=b"", extra=extra).request()) == (200, "{}")
    assert desk.names("kept") == ["b", "c"]


# -- Repeated publishes ----------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["memory", "late"])
def either(request: pytest.FixtureRequest) -> Desk:
    """A desk over each engine: of this process, and one that answers later."""
    return Desk(late=request.param)


def kept_names(desk: Desk, channel: str = "kept") -> list[str]:
    history = desk.tenant.histories.of(channel, cached=False)
    assert history is not None
    reply = desk.tenant.history(channel, Rewind(count=99), history.keep)
    page = desk.settled(reply) if isinstance(reply, Later) else reply
    assert isinstance(page, Page)
    return [event.name for event in page.events]


def test_a_repeated_publish_has_the_first_answer_and_delivers_nothing(either: Desk) -> None:
    event = {
        "name": "a",
        "channels": ["kept-long", "other"],
        "data": "",
        "info": "position,subscription_count",
        "idempotency_key": "k",
    }
    first = either.post(event)
    assert first[0] == 200
    assert json.loads(first[1])["channels"]["kept-long"]["offset"] == 1
    assert either.post({**event, "name": "b", "idempotency_key": "another"})[0] == 200
    assert either.tenant.tally.repeated_publishes == 0
    either.elapsed = KEY_TTL_S - 1
    assert [either.post(event) for _ in range(3)] == [first] * 3
    assert kept_names(either, "kept-long") == ["a", "b"]
    assert either.tenant.tally.repeated_publishes == 3


def test_a_repeated_batch_has_the_first_answer_and_delivers_nothing(either: Desk) -> None:
    for info in (None, "position,user_count"):
        body = {
            "batch": [
                {"name": "a", "channel": "presence-kept", "data": "", "info": info},
                {"name": "b", "channel": "presence-kept", "data": ""},
            ],
            "idempotency_key": f"k{info}",
        }
        first = either.post(body, "/apps/1/batch_events")
        assert first[0] == 200
        assert (first[1] == "{}") == (info is None)
        assert either.post(body, "/apps/1/batch_events") == first
    assert kept_names(either, "presence-kept") == ["a", "b", "a", "b"]


def test_a_key_is_for_one_request(either: Desk) -> None:
    used = (
        409,
        "Another request had the same idempotency_key less than a minute ago: each event or batch"
        " needs a key of its own\n",
    )
    event = {"name": "a", "channel": "kept", "data": "1", "idempotency_key": "k"}
    assert either.post(event) == (200, "{}")
    assert either.post({**event, "data": "2"}) == used
    assert either.post(json.dumps(event).encode() + b" ") == used
    batch = [{"name": "a", "channel": "kept", "data": ""}]
    assert either.post({"batch": batch, "idempotency_key": "k"}, "/apps/1/batch_events") == used
    both = {**event, "batch": batch}
    assert either.post({**both, "idempotency_key": "k2"}) == (200, "{}")
    assert either.post({**both, "idempotency_key": "k2"}, "/apps/1/batch_events") == used
    assert either.post({**event, "idempotency_key": "K"}) == (200, "{}")
    assert kept_names(either) == ["a", "a", "a"]
    assert either.tenant.tally.repeated_publishes == 0


def test_after_a_minute_a_key_is_free(either: Desk) -> None:
    event = {"name": "a", "channel": "kept-long", "data": "", "idempotency_key": "k"}
    assert either.post(event) == (200, "{}")
    either.elapsed = KEY_TTL_S
    assert either.post(event) == (200, "{}")
    assert kept_names(either, "kept-long") == ["a", "a"]


def test_an_empty_batch_is_answered_at_once(either: Desk) -> None:
    empty: dict[str, Any] = {"batch": []}
    for body in (empty, {**empty, "idempotency_key": "k"}):
        assert either.post(body, "/apps/1/batch_events") == (200, "{}")


def test_apps_have_keys_of_their_own(desk: Desk) -> None:
    event = {"name": "a", "channel": "kept", "data": "", "idempotency_key": "k"}
    assert desk.post(event) == (200, "{}")
    theirs = Post(path="/apps/2/events", key="their-key", body=json.dumps(event).encode() + b" ")
    assert desk.ask(theirs.request()) == (200, "{}")


def test_a_key_in_the_query_is_of_the_parameters_there(desk: Desk) -> None:
    """Those of the signature are not the content: a repetition is signed at another time."""
    extra = [("name", "a"), ("channel", "kept"), ("data", "x"), ("idempotency_key", "k")]
    post = Post(body=b"", extra=extra)
    assert desk.ask(post.request()) == (200, "{}")
    assert desk.ask(replace(post, timestamp=str(int(NOW) + 1)).request()) == (200, "{}")
    other = [*extra[:2], ("data", "y"), extra[3]]
    assert desk.ask(replace(post, extra=other).request())[0] == 409
    assert desk.names("kept") == ["a"]


def test_a_publish_that_failed_can_be_repeated_with_its_key() -> None:
    desk = Desk(late=True)
    assert desk.late is not None
    event = {"name": "a", "channel": "kept", "data": "", "idempotency_key": "k"}
    desk.late.away = True
    unavailable = (503, "The server cannot process this request now, try again later\n")
    assert desk.post(event) == unavailable
    desk.late.away = False
    assert desk.post(event) == (200, "{}")
    assert desk.post(event) == (200, "{}")
    assert kept_names(desk) == ["a"]


def test_a_history_cannot_be_read_while_the_engine_is_unavailable() -> None:
    desk = Desk(late=True)
    assert desk.late is not None
    desk.late.away = True
    for path, parameters in (
        ("/channels/kept/history", ()),
        ("/channels/kept/history", (("limit", "0"),)),
        ("/channels/cache-kept", (("info", "position"),)),
        ("/channels/cache-kept", (("info", "cache"),)),
    ):
        assert desk.ask(signed_get(path, *parameters))[0] == 503


def test_a_request_with_a_key_counts_against_the_rate_each_time() -> None:
    desk = Desk(replace(KEEPING, max_publishes_per_second=2))
    event = {"name": "a", "channel": "kept", "data": "", "idempotency_key": "k"}
    assert [desk.post(event)[0] for _ in range(3)] == [200, 200, 429]


# -- Mistakes of publishers ------------------------------------------------------------------

BAD_TRANSIENT = "Expected transient parameter to be a boolean\n"
BAD_KEY = "Expected idempotency_key parameter to be a string of 1 to 128 characters\n"

NOT_BOOLEAN: Sequence[object] = (None, 0, 1, "", "true", [], {}, 1.0)
NO_KEY: Sequence[object] = (None, "", "k" * 129, 1, True, ["k"], {"k": "k"})
MISTAKES: list[tuple[dict[str, Any], str]] = [
    *(({"transient": value}, BAD_TRANSIENT) for value in NOT_BOOLEAN),
    *(({"idempotency_key": value}, BAD_KEY) for value in NO_KEY),
    (
        {"info": "position,colour"},
        "info should be a comma separated list of attributes."
        " Supported: position, subscription_count, user_count\n",
    ),
]


@pytest.mark.parametrize(("fields", "text"), MISTAKES)
def test_every_mistake_in_a_publish_is_refused(
    fields: dict[str, Any], text: str, desk: Desk
) -> None:
    event = {"name": "n", "channel": "kept", "data": ""}
    assert desk.post({**event, **fields}) == (400, text)
    if "idempotency_key" in fields:
        assert desk.post({"batch": [event], **fields}, "/apps/1/batch_events") == (400, text)
        text = "Expected idempotency_key parameter beside the batch, not in it\n"
    body = {"batch": [event, {**event, **fields}]}
    assert desk.post(body, "/apps/1/batch_events") == (400, text)
    assert desk.position("kept")[1] == 0


def test_a_batch_is_not_transient_its_events_are(desk: Desk) -> None:
    body = {"batch": [], "transient": True}
    text = "Expected transient parameter in the events of a batch\n"
    assert desk.post(body, "/apps/1/batch_events") == (400, text)


@pytest.mark.parametrize("key", ["k", "k" * 128, "é" * 128, "\N{GRINNING FACE}", " ", "\0"])
def test_a_key_has_up_to_128_characters(key: str, desk: Desk) -> None:
    event = {"name": "n", "channel": "kept", "data": "", "idempotency_key": key}
    assert [desk.post(event) for _ in range(2)] == [(200, "{}")] * 2
    assert desk.position("kept")[1] == 1


def test_a_wrong_transient_parameter_in_the_query_is_refused(desk: Desk) -> None:
    extra = [("name", "a"), ("channel", "kept"), ("data", "x"), ("transient", "yes")]
    assert desk.ask(Post(body=b"", extra=extra).request()) == (400, BAD_TRANSIENT)


# -- Without any of this ---------------------------------------------------------------------


def test_a_publish_without_these_fields_asks_the_engine_for_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    publish = desk.tenant.space.publish

    def noted(events: Any, terms: Any = None) -> Any:
        seen.append((terms, [event.keep for event in events]))
        return publish(events, terms)

    monkeypatch.setattr(type(desk.tenant.space), "publish", lambda _self, *more: noted(*more))
    event = {"name": "n", "channel": "other", "data": "", "colour": "red"}
    assert desk.post(event) == (200, "{}")
    assert desk.post({"batch": [event]}, "/apps/1/batch_events") == (200, "{}")
    assert seen == [(None, [None])] * 2


def test_apps_without_rules_have_no_history() -> None:
    desk = Desk(App(id="1", keys=(AppKey("key", "secret"),)))
    desk.publish("kept", "a")
    assert desk.refuse("kept")[0] == 400
    text = desk.post({"name": "n", "channel": "kept", "data": "", "info": "position"})[1]
    assert text == '{"channels":{"kept":{}}}'
