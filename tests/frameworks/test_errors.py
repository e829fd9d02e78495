"""What the pages say under "When the server is down" is what the SDKs do."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pusher
import pytest
import requests
from pusher.errors import PusherBadAuth, PusherBadRequest, PusherBadStatus, PusherForbidden

from tests.clients.javascript import NODE_FOLDER, find_node
from tests.frameworks.application import environment
from tests.frameworks.page import Page
from tests.server import APP_ID, HOST, KEY, SECRET, ServerProcess

DISABLED_APP = """
[[apps]]
id = "9"
enabled = false

[[apps.keys]]
key = "key-of-off"
secret = "secret-of-off"
"""

TOO_LARGE = "x" * 20_000


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody else gets while it refuses connections: it is bound and not listening."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of a server that accepts connections and never answers."""
    with socket.create_server((HOST, 0)) as listening:
        yield listening.getsockname()[1]


# -- Python --------------------------------------------------------------------------------


class Sdk:
    """The Python SDK, made as the pages make it; it is closed after the test."""

    def __init__(self) -> None:
        self._made: list[Any] = []

    def __call__(self, port: int, **options: Any) -> Any:
        app = {"app_id": APP_ID, "key": KEY, "secret": SECRET}
        made = pusher.Pusher(**{**app, **options}, host=HOST, port=port, ssl=False)
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in self._made:
            made._pusher_client.http.session.close()


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sdk]:
    monkeypatch.setenv("no_proxy", "*")
    sdk = Sdk()
    yield sdk
    sdk.close()


def test_without_a_server_trigger_raises_connection_error(sdk: Sdk, closed_port: int) -> None:
    with pytest.raises(requests.exceptions.ConnectionError):
        sdk(closed_port).trigger("news", "said", 1)


def test_without_an_answer_trigger_raises_read_timeout(sdk: Sdk, silent_port: int) -> None:
    with pytest.raises(requests.exceptions.ReadTimeout):
        sdk(silent_port, timeout=0.1).trigger("news", "said", 1)


def test_the_sdk_waits_five_seconds_unless_it_is_given_a_timeout(sdk: Sdk) -> None:
    assert sdk(1)._pusher_client.timeout == 5


def test_each_status_is_an_exception_of_its_own(
    sdk: Sdk, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.port
    with pytest.raises(PusherBadRequest):
        sdk(port).trigger("news", "pusher:said", 1)
    with pytest.raises(PusherBadRequest):
        sdk(port, key="unknown").trigger("news", "said", 1)
    with pytest.raises(PusherBadAuth):
        sdk(port, secret="wrong").trigger("news", "said", 1)
    with pytest.raises(PusherBadStatus, match="404"):
        sdk(port, app_id="99").trigger("news", "said", 1)
    with pytest.raises(PusherBadStatus, match="413"):
        sdk(port).trigger("news", "said", TOO_LARGE)
    now = time.time()
    monkeypatch.setattr("pusher.http.time.time", lambda: now - 590)
    assert sdk(port).trigger("news", "said", 1) == {}
    monkeypatch.setattr("pusher.http.time.time", lambda: now - 610)
    with pytest.raises(PusherBadAuth, match="Timestamp expired"):
        sdk(port).trigger("news", "said", 1)


def test_a_disabled_app_is_forbidden(sdk: Sdk) -> None:
    with ServerProcess(toml=DISABLED_APP) as server:
        off = sdk(server.port, app_id="9", key="key-of-off", secret="secret-of-off")
        with pytest.raises(PusherForbidden):
            off.trigger("news", "said", 1)


def test_an_invalid_channel_name_is_a_value_error_without_a_server(
    sdk: Sdk, closed_port: int
) -> None:
    with pytest.raises(ValueError, match="Channel"):
        sdk(closed_port).trigger("not a name", "said", 1)


def test_authenticate_needs_no_server(sdk: Sdk, closed_port: int) -> None:
    assert sdk(closed_port).authenticate("private-news", "1.1")["auth"].startswith(f"{KEY}:")


# -- Node ----------------------------------------------------------------------------------


TRY = """
import { pusher } from './realtime.mjs';
const [channel, data] = process.argv.slice(2);
try {
  await pusher.trigger(channel, 'said', data);
  console.log(JSON.stringify({}));
} catch (error) {
  const { name, status, body, message, error: cause } = error;
  const { code, type } = cause ?? {};
  console.log(JSON.stringify({ name, status, body, message, code, type }));
}
"""


@pytest.fixture
def trigger_in_node(tmp_path: Path) -> Any:
    """Calls `trigger` of the SDK as the page of Node configures it."""
    (tmp_path / "node_modules").symlink_to(NODE_FOLDER / "node_modules")
    (tmp_path / "try.mjs").write_text(TRY)
    (module,) = [text for name, text in Page("node").files() if name == "realtime.mjs"]

    def trigger(port: int, channel: str = "news", data: str = "1", **variables: str) -> Any:
        text = module.replace("8080", str(port)).replace("localhost", HOST)
        (tmp_path / "realtime.mjs").write_text(text)
        app = {"PUSHER_APP_ID": APP_ID, "PUSHER_APP_KEY": KEY, "PUSHER_APP_SECRET": SECRET}
        done = subprocess.run(
            [find_node(), "try.mjs", channel, data],
            cwd=tmp_path,
            env=environment(**{**app, **variables}),
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    return trigger


def test_without_a_server_nodes_trigger_is_rejected_with_the_cause(
    trigger_in_node: Any, closed_port: int
) -> None:
    error = trigger_in_node(closed_port)
    assert (error["name"], error["code"]) == ("PusherRequestError", "ECONNREFUSED")
    assert "status" not in error


def test_without_an_answer_nodes_trigger_is_rejected_after_its_timeout(
    trigger_in_node: Any, silent_port: int
) -> None:
    error = trigger_in_node(silent_port)
    assert (error["name"], error["type"]) == ("PusherRequestError", "aborted")
    assert "status" not in error


def test_a_refusal_gives_node_its_status_and_text(
    trigger_in_node: Any, server: ServerProcess
) -> None:
    assert trigger_in_node(server.port) == {}
    wrong = trigger_in_node(server.port, PUSHER_APP_SECRET="wrong")
    assert (wrong["name"], wrong["status"]) == ("PusherRequestError", 401)
    assert wrong["body"].startswith("Invalid signature")
    assert trigger_in_node(server.port, data=TOO_LARGE)["status"] == 413


def test_an_invalid_channel_name_is_an_error_of_node_without_a_server(
    trigger_in_node: Any, closed_port: int
) -> None:
    error = trigger_in_node(closed_port, channel="not a name")
    assert error["name"] == "Error"
    assert "Invalid channel name" in error["message"]
