"""Pusher's protocol as the node uses it: who is admitted, the ids of sessions, and how they end."""

import json
import logging
from typing import Any

import pytest

from heliograph.node.dialect import Ending, NotAdmitted, Opening, Refused
from heliograph.protocols.pusher import refusals
from heliograph.protocols.pusher.dialect import PusherDialect
from tests.unit.test_session import FakePeer, World

CODES = {
    Ending.APP_DISABLED: (4003, "Application disabled"),
    Ending.TERMINATED: (4009, "Connection is unauthorized"),
    Ending.RECONNECT: (4200, "Please reconnect immediately"),
    Ending.EVENTS_LOST: (4200, "Please reconnect immediately"),
    Ending.ENGINE_UNAVAILABLE: (4100, "Over capacity: the server is temporarily unavailable"),
    Ending.OVER_CAPACITY: (4100, "Over capacity"),
    Ending.ADDRESS_OVER_LIMIT: (4100, "Over capacity: too many connections from your address"),
    Ending.TOO_MANY_MESSAGES: (4100, "Over capacity: too many messages per second"),
    Ending.TOO_MUCH_UNFINISHED: (4100, "Over capacity: too many incomplete messages"),
    Ending.PING_UNANSWERED: (4201, "Pong reply not received"),
    Ending.NOT_IDENTIFIED: (4009, "Connection not authorized within timeout"),
}

REFUSED = {
    NotAdmitted.Why.UNKNOWN_KEY: 4001,
    NotAdmitted.Why.APP_DISABLED: 4003,
    NotAdmitted.Why.ORIGIN: 4009,
    NotAdmitted.Why.QUOTA: 4004,
}

KINDS: dict[str, tuple[dict[str, Any], str, NotAdmitted.Why]] = {
    "unknown key": ({}, "nobody", NotAdmitted.Why.UNKNOWN_KEY),
    "disabled": ({"enabled": False}, "key", NotAdmitted.Why.APP_DISABLED),
    "origin": ({"allowed_origins": ("a.example",)}, "key", NotAdmitted.Why.ORIGIN),
    "quota": ({"max_connections": 1}, "key", NotAdmitted.Why.QUOTA),
}


@pytest.mark.parametrize("ending", Ending)
def test_the_node_closes_every_session_with_pushers_code_for_the_ending(ending: Ending) -> None:
    world = World(late=False)
    crowd = [world.client() for _ in range(3)]
    done: list[int] = []
    world.node.close(ending, lambda: done.append(world.node.connections))
    assert done == [0]
    for peer in crowd:
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.reason) == CODES[ending]


@pytest.mark.parametrize("code", [4009, 4000])
def test_connections_of_a_user_are_terminated_with_the_code_of_the_dialect(code: int) -> None:
    world = World(late=False)
    world.dialect = PusherDialect(world.node, terminate_code=code)
    peer = world.client()
    peer.session.close(Ending.TERMINATED)
    assert peer.closed is not None
    assert peer.closed.code == code


def test_a_session_that_has_ended_is_not_closed_again() -> None:
    world = World(late=False)
    ended, other = world.client(), world.client()
    ended.close(world.dialect.goodbye(Ending.PING_UNANSWERED))
    world.node.close_each([ended.session, other.session], Ending.RECONNECT)
    assert ended.closed is not None
    assert other.closed is not None
    assert (ended.closed.code, other.closed.code) == (4201, 4200)


def test_a_client_of_pusher_has_to_reconnect_when_events_are_lost() -> None:
    assert World(late=False).client().session.lost("c", None) is False


@pytest.mark.parametrize("what", KINDS)
def test_a_client_that_the_node_does_not_admit_gets_pushers_code(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="heliograph")
    settings, key, why = KINDS[what]
    world = World(late=False, **settings)
    if why is NotAdmitted.Why.QUOTA:
        world.client()
    before = world.node.connections
    asked: list[str] = []

    def address() -> str:
        asked.append(what)
        return "10.0.0.9"

    for _ in range(2):
        opening = Opening(dialect=world.dialect, key=key, origin="https://b.example")
        with pytest.raises(Refused) as caught:
            world.dialect.connect(opening, address)
        assert caught.value.goodbye.code == REFUSED[why]
    assert world.node.connections == before
    tally = world.node.tally
    counted = {"unknown key": (2, 0), "origin": (0, 2)}.get(what, (0, 0))
    assert (tally.unknown_keys, tally.refused_origins) == counted
    # What the operator can mend is logged, once, with the address that is asked for only then.
    assert len(caplog.messages) == len(asked) == (1 if any(counted) else 0)
    assert all(line.endswith("(from 10.0.0.9)") for line in caplog.messages)


def test_each_reason_not_to_admit_a_client_has_a_code() -> None:
    for why in NotAdmitted.Why:
        error = refusals.not_admitted(why, "key")
        assert (error.code, error.closes) == (REFUSED[why], True)


def test_the_greeting_has_the_id_and_the_activity_timeout() -> None:
    world = World(late=False)
    dialect = PusherDialect(world.node, activity_timeout_s=77)
    session = dialect.connect(Opening(dialect=dialect, key="key"))
    greeting = json.loads(session.open(FakePeer(session)))
    assert greeting["event"] == "pusher:connection_established"
    assert json.loads(greeting["data"]) == {"socket_id": session.id, "activity_timeout": 77}
    assert session.id == "0.1"
