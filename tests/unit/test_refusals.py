"""What clients are refused: how much of what they sent comes back to them."""

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import pytest

from heliograph.errors import MAX_ECHO, ClientError, echoed
from heliograph.node.dialect import Ending, NotAdmitted
from heliograph.protocols.pusher import endpoint, messages, refusals
from heliograph.protocols.pusher.dialect import PusherDialect
from heliograph.wire.websocket import close_frame
from tests.unit.test_session import CREDENTIALS, FakePeer, World, sign

HUGE = 100_000
MOST = 2 * MAX_ECHO + 300
"""Characters of a text: two parts of what a client sent, and our own words."""

MOST_WITH_ESCAPES = HUGE // 10
"""Characters of a whole answer, where each of a text is escaped, and in JSON that is in JSON."""

ARGUMENTS: dict[Any, Any] = {
    str: "x" * HUGE,
    int: 10**9,
    Sequence[str]: ["x" * HUGE] * 100,
    Ending: Ending.TERMINATED,
    NotAdmitted.Why: NotAdmitted.Why.UNKNOWN_KEY,
}
ALL = [
    function
    for _, function in inspect.getmembers(refusals, inspect.isfunction)
    if function.__module__ == refusals.__name__
]


@pytest.mark.parametrize("refusal", ALL, ids=lambda refusal: refusal.__name__)
def test_a_refusal_repeats_only_the_beginning_of_a_message(
    refusal: Callable[..., ClientError],
) -> None:
    kinds = get_type_hints(refusal)
    error = refusal(**{name: ARGUMENTS[kind] for name, kind in kinds.items() if name != "return"})
    assert len(error.message) <= MOST
    assert len(messages.error_message(error)) <= MOST + 200
    assert len(close_frame(4000, error.message)) <= 127


def test_what_has_a_usual_length_is_repeated_whole() -> None:
    name = "n" * MAX_ECHO
    assert echoed(name) == name
    assert echoed(name + "n") == name + "..."


def filled(unit: str, text: str) -> bytes:
    """*text* with as much of *unit* as fits into a message in the place of its @."""
    return text.replace("@", unit * (HUGE // len(unit))).encode()


def length_of_answers(client: FakePeer) -> int:
    answers, client.told = client.told, []
    closed = client.closed.reason if client.closed else ""
    return sum(len(json.dumps(answer, ensure_ascii=False)) for answer in answers) + len(closed)


MESSAGES = [
    '{"event":"@"}',
    '{"event":"client-@"}',
    '{"event":"pusher:@"}',
    '{"event":"client-x","channel":"@","data":1}',
    '{"event":"client-x","channel":"private-@","data":1}',
    '{"event":"client-x","channel":"private-a","data":"@"}',
    '{"event":"client-@","channel":"private-a","data":"x"}',
    '{"event":"pusher:subscribe","channel":"@"}',
    '{"event":"pusher:subscribe","data":"@"}',
    '{"event":"pusher:subscribe","data":{"channel":"@"}}',
    '{"event":"pusher:subscribe","data":{"channel":"private-@"}}',
    '{"event":"pusher:subscribe","data":{"channel":"#server-to-user-@"}}',
    '{"event":"pusher:subscribe","data":{"channel":"private-b","auth":"@"}}',
    '{"event":"pusher:subscribe","data":{"channel":"private-b","auth":"key:@"}}',
    '{"event":"pusher:subscribe","data":{"channel":"private-b","auth":"key:x","channel_data":"@"}}',
    '{"event":"pusher:subscribe","data":{"channel":"presence-b","auth":"key:","channel_data":"@"}}',
    '{"event":"pusher:unsubscribe","data":{"channel":"@"}}',
    '{"event":"pusher:unsubscribe","data":"@"}',
    '{"event":"pusher:signin","data":{"auth":"@","user_data":"{}"}}',
    '{"event":"pusher:signin","data":{"auth":"key:@","user_data":"{}"}}',
    '{"event":"pusher:signin","data":{"auth":"key:x","user_data":"@"}}',
    "@",
]


@pytest.mark.parametrize("unit", ["a", "é", "😀", r"\ud800", r"\\", r"\"", "9"])
@pytest.mark.parametrize("subscription_errors", [False, True])
def test_no_answer_is_long_because_the_message_was(unit: str, subscription_errors: bool) -> None:
    world = World(late=False, client_events=True)
    world.dialect = PusherDialect(world.node, subscription_errors=subscription_errors)
    client = world.client()
    private = {"channel": "private-a", **sign(client, "private-a")}
    client.session.receive(json.dumps({"event": "pusher:subscribe", "data": private}).encode(), 0.0)
    assert length_of_answers(client)
    for text in MESSAGES:
        client.session.receive(filled(unit, text), 0.0)
        assert length_of_answers(client) <= MOST_WITH_ESCAPES, text


def test_a_legal_name_is_refused_whole_however_long_it_is_and_no_other() -> None:
    """The client that is told of it finds its channel by the name."""
    long = "private-" + "n" * HUGE
    lenient = World(late=False, max_channel_name_length=0)
    for name, world in ((long, lenient), (long + "!", World(late=False))):
        world.dialect = PusherDialect(world.node, subscription_errors=True)
        client = world.client()
        asked = {"event": "pusher:subscribe", "data": {"channel": name, "auth": "key:x"}}
        client.session.receive(json.dumps(asked).encode(), 0.0)
        named = [message["channel"] for message in client.told if "channel" in message]
        assert named == ([name] if name == long else [])


def test_a_refused_second_sign_in_repeats_the_beginning_of_the_id() -> None:
    client = World(late=False, max_presence_user_id_length=0).client()
    for name in ("u" * HUGE, "other"):
        client.told.clear()
        data = json.dumps({"id": name})
        sign_in = {"auth": CREDENTIALS.authorize_user(client.id, data), "user_data": data}
        client.session.receive(json.dumps({"event": messages.SIGN_IN, "data": sign_in}).encode(), 0)
    assert "already signed in" in client.told[0]["data"]["message"]
    assert length_of_answers(client) <= MOST


def test_a_subprotocol_is_echoed_only_where_it_is_short() -> None:
    beginning = b"pusher-channels-protocol-"
    assert endpoint.subprotocol([beginning + b"7"]) == beginning + b"7"
    assert endpoint.subprotocol([beginning + b"7" * 1000]) is None
