"""The add-on to pusher-js without a server: mistakes of the page that uses it."""

import json
import subprocess
from typing import Any

import pytest

from tests.clients.javascript import NODE_FOLDER, find_node

TIMEOUT_S = 30

POSITIONS = [None, None, {"epoch": "a", "offset": 0}, {"epoch": "a", "offset": 17}]
"""Those that the script hands over: none, none, and two."""


@pytest.fixture(scope="module")
def found() -> Any:
    done = subprocess.run(
        [find_node(), "resume_alone.js"],
        cwd=NODE_FOLDER,
        check=True,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_S,
    )
    return json.loads(done.stdout)


def test_a_gap_reaches_a_page_whose_handler_of_the_subscription_throws(found: Any) -> None:
    succeeded = "pusher:subscription_succeeded"
    assert found["thrown"] == [succeeded, succeeded, "heliograph:gap"]


def test_a_first_position_that_is_none_is_an_error_of_the_page(found: Any) -> None:
    refused, accepted = found["refused"][0], found["accepted"][0]
    assert refused == ["HeliographResume: invalid position of news"] * 18
    assert accepted == []


def test_a_first_position_may_be_missing(found: Any) -> None:
    refused, accepted = found["refused"][1], found["accepted"][1]
    assert accepted == [position for position in POSITIONS for _ in range(2)]
    assert refused == []
