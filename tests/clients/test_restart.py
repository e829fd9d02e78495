"""Clients find their way back when the server was away, in Node and in Chromium at once."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tests.clients.javascript import JavaScript
from tests.server import ServerProcess

BOB = {"id": "bob", "info": {"name": "Bob"}}

BACK_AGAIN = {
    "newSocket": True,
    "members": {"members": {"bob": {"name": "Bob"}}, "count": 1, "me": BOB},
    "said": ["back again"] * 3,
    "rest": [],
}


def play_over(server: ServerProcess, interrupt: Callable[[], None]) -> list[Any]:
    """Play the scenario in both runtimes, and *interrupt* when both are subscribed."""
    with ExitStack() as stack:
        node = stack.enter_context(JavaScript(server, "node"))
        chromium = stack.enter_context(JavaScript(server, "chromium"))
        node.start("survivesARestart", place="in-node")
        chromium.start("survivesARestart", place="in-chromium")
        for runtime in (node, chromium):
            runtime.reached("subscribed")
        interrupt()
        return [runtime.result() for runtime in (node, chromium)]


def test_channels_work_again_after_a_restart() -> None:
    """pusher-js is told to reconnect at once; being refused, it tries again 15 seconds later."""
    with ServerProcess() as server:

        def restart() -> None:
            assert server.restart() == 0

        for played in play_over(server, restart):
            errors = played.pop("errors")
            assert {"code": 4200, "message": "Please reconnect immediately"} in errors
            assert played == BACK_AGAIN


def test_channels_work_again_after_a_crash() -> None:
    with ServerProcess() as server:

        def crash() -> None:
            server.kill()
            server.start()

        for played in play_over(server, crash):
            del played["errors"]  # what each runtime makes of a reset is its own affair
            assert played == BACK_AGAIN
