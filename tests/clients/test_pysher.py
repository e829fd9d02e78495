"""Pysher: an older client, of protocol 6, which signs for itself and hands data over unread."""

import json
import logging
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pusher
import pysher
import pytest

from tests.clients.listener import Listener
from tests.server import ServerProcess

PATIENCE_S = 10.0

Heard = queue.SimpleQueue[Any]
Connect = Callable[..., Heard]


@pytest.fixture(scope="module")
def sdk(server: ServerProcess) -> Iterator[Any]:
    made = pusher.Pusher(
        server.app_id, server.key, server.secret, ssl=False, host=server.host, port=server.port
    )
    yield made
    made._pusher_client.http.session.close()


@pytest.fixture
def connect(server: ServerProcess) -> Iterator[Connect]:
    """Connects a client that hears these events of a channel; all it heard comes in one queue."""
    clients = []

    def connect(channel: str, *events: str, **user: Any) -> Heard:
        heard: Heard = queue.SimpleQueue()
        client = pysher.Pusher(
            server.key,
            secret=server.secret,
            secure=False,
            custom_host=server.host,
            port=server.port,
            user_data=user,
            log_level=logging.WARNING,
        )

        # On the client's own thread, as its manual has it, so that nothing is missed.
        def connected(_: str) -> None:
            subscription = client.subscribe(channel)
            for event in ("pusher_internal:subscription_succeeded", *events):
                subscription.bind(event, lambda data, event=event: heard.put((event, data)))

        client.connection.bind("pusher:connection_established", connected)
        client.connect()
        clients.append(client)
        return heard

    yield connect
    for client in clients:
        # Its thread is not waited for: it may sleep on over the socket that this closes.
        client.disconnect(timeout=0)


@pytest.mark.parametrize("channel", ["news", "private-news"])
def test_an_event_arrives(connect: Connect, sdk: Any, channel: str) -> None:
    heard = connect(channel, "said")
    assert heard.get(timeout=PATIENCE_S) == ("pusher_internal:subscription_succeeded", "{}")
    sdk.trigger(channel, "said", {"hello": "wörld"})
    assert heard.get(timeout=PATIENCE_S) == ("said", '{"hello": "wörld"}')


def test_a_member_receives_the_roster_and_each_change_of_members(
    server: ServerProcess, connect: Connect
) -> None:
    added, removed = "pusher_internal:member_added", "pusher_internal:member_removed"
    heard = connect("presence-room", added, removed, user_id="ann", user_info={"name": "Ann"})
    event, roster = heard.get(timeout=PATIENCE_S)
    assert event == "pusher_internal:subscription_succeeded"
    assert json.loads(roster) == {
        "presence": {"count": 1, "ids": ["ann"], "hash": {"ann": {"name": "Ann"}}}
    }
    with Listener.open(server, room="bob"):
        event, member = heard.get(timeout=PATIENCE_S)
        assert event == added
        assert json.loads(member)["user_id"] == "bob"
    assert heard.get(timeout=PATIENCE_S) == (removed, '{"user_id":"bob"}')
