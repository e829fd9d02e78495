"""laravel-echo with the broadcasters `pusher` and `reverb`, in Node and in Chromium."""

import pytest

from tests.clients.javascript import JavaScript

pytestmark = pytest.mark.parametrize("broadcaster", ["pusher", "reverb"])


def test_listen_receives_events_with_laravels_names_and_custom_names(
    clients: JavaScript, broadcaster: str
) -> None:
    assert clients.play("listensThroughEcho", broadcaster=broadcaster) == {
        "heard": [
            ["OrderShipped", {"order": {"id": 1}}],
            ["Stock.RunOut", {"item": "tea"}],
            [".order.paid", {"order": {"id": 2}}],
        ],
        "all": [
            ["OrderShipped", {"order": {"id": 1}}],
            ["Stock\\RunOut", {"item": "tea"}],
            [".order.paid", {"order": {"id": 2}}],
        ],
        "status": "connected",
    }


def test_a_whisper_reaches_only_the_other_clients(clients: JavaScript, broadcaster: str) -> None:
    assert clients.play("whispersThroughEcho", broadcaster=broadcaster) == {
        "whispered": ["whisper", {"name": "Ann"}],
        "own": ["message", {"text": "hello"}],
        "others": ["message", {"text": "hello"}],
    }


def test_join_reports_members_that_are_here_that_join_and_that_leave(
    clients: JavaScript, broadcaster: str
) -> None:
    assert clients.play("meetsThroughEcho", broadcaster=broadcaster) == {
        "here": ["here", [{"name": "Ann"}]],
        "bobsHere": ["here", [{"name": "Ann"}, {"name": "Bob"}]],
        "joining": ["joining", {"name": "Bob"}],
        "waved": ["whisper", {"to": "Ann"}],
        "opened": ["RoomOpened", {"by": "the house"}],
        "leaving": ["leaving", {"name": "Bob"}],
        "rest": [],
    }


def test_leave_leaves_the_channel_and_no_other(clients: JavaScript, broadcaster: str) -> None:
    assert clients.play("leavesThroughEcho", broadcaster=broadcaster) == {
        "before": ["orders", 1],
        "after": ["stays", 2],
        "rest": [],
    }


def test_to_others_leaves_out_who_said_it(clients: JavaScript, broadcaster: str) -> None:
    assert clients.play("sendsToOthersThroughEcho", broadcaster=broadcaster) == {
        "own": "to all",
        "others": ["to others", "to all"],
    }


def test_error_tells_of_a_refused_channel(clients: JavaScript, broadcaster: str) -> None:
    assert clients.play("isRefusedThroughEcho", broadcaster=broadcaster) == {
        "type": "AuthError",
        "status": 403,
    }


def test_an_encrypted_private_channel_is_read(clients: JavaScript, broadcaster: str) -> None:
    played = clients.play(
        "decryptsThroughEcho", build="pusher-with-encryption", broadcaster=broadcaster
    )
    assert played == {"gold": 3}
