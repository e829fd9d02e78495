"""The chat example, in two real browsers, one of which is offline for a while."""

import json
import subprocess
from typing import Any

from tests.clients.javascript import NODE_FOLDER, find_chromium, find_node
from tests.docs.chat_picture import chat_of
from tests.server import ServerProcess

TIMEOUT_S = 90

MESSAGES = ["before", "one", "two", "after"]
RECOVERED = "Back online. Messages received meanwhile: 2"


def played(options: dict[str, str]) -> Any:
    """Return what the page shows that was offline while "one" and "two" were written."""
    with ServerProcess(options) as server, chat_of(server) as address:
        done = subprocess.run(
            [find_node(), "chat_offline.js", find_chromium(), address],
            cwd=NODE_FOLDER,
            check=True,
            stdout=subprocess.PIPE,
            timeout=TIMEOUT_S,
        )
    return json.loads(done.stdout)


def test_messages_that_were_written_while_a_page_was_offline_are_replayed() -> None:
    found = played({"broker": "memory"})
    assert found["messages"] == MESSAGES
    assert found["notices"].count(RECOVERED) == 1
    assert found["loads"] == 1


def test_the_chat_asks_the_application_for_messages_that_cannot_be_replayed() -> None:
    found = played({})
    assert sorted(found["messages"]) == sorted(MESSAGES)
    assert RECOVERED not in found["notices"]
    assert found["loads"] == 2
