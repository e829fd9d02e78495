"""
The JavaScript clients: Node as it is, and Chromium behind it.

Knows `node/driver.js` and its lines of JSON. What a scenario does is written in
`node/scenarios.js`; what must come of it is said by the test that plays it.
"""

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import pytest

from tests.clients.relay import Relay
from tests.server import ServerProcess

NODE_FOLDER = Path(__file__).parent / "node"
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

START_TIMEOUT_S = 45.0
ORDER_TIMEOUT_S = 75.0  # a little more than the driver gives itself
STOP_TIMEOUT_S = 10.0

Runtime = Literal["node", "chromium"]
AppKeys = Mapping[str, Mapping[str, str]]


def main_app(server: ServerProcess) -> AppKeys:
    """Return what clients must know of the server's app, under the name that scenarios use."""
    return {"main": {"id": server.app_id, "key": server.key, "secret": server.secret}}


class JavaScript:
    """
    A Node process that obeys one order at a time, with *server* as its Pusher.

    *apps* are the apps that scenarios name. A *runtime* of "chromium" plays scenarios in pages of
    one browser; orders that are not scenarios are carried out by Node in any case. With a *relay*,
    clients connect to it instead of the server.
    """

    def __init__(
        self,
        server: ServerProcess,
        runtime: Runtime,
        apps: AppKeys | None = None,
        relay: Relay | None = None,
    ) -> None:
        way = relay or server
        self._settings = {
            "runtime": runtime,
            "host": server.host,
            "port": server.port,
            "wsHost": way.host,
            "wsPort": way.port,
            "apps": apps or main_app(server),
            "chromium": find_chromium() if runtime == "chromium" else None,
        }
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop
        self._process = subprocess.Popen(
            [find_node(), "driver.js"],
            cwd=NODE_FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
        )
        self._said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        try:
            self._send(self._settings)
            self._receive("result", START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # -- Orders --------------------------------------------------------------------------

    def start(self, scenario: str, *, build: str = "pusher", **params: Any) -> None:
        """
        Begin to play *scenario*; `reached` and `result` tell of it.

        *build* is the file of pusher-js that a page loads, such as "pusher-7-with-encryption". Node
        uses the version, and has one file for everything.
        """
        self._send({"scenario": scenario, "build": build, "params": params})

    def reached(self, mark: str) -> None:
        """Wait until the scenario says that it has come to *mark*."""
        reached = self._receive("reached", ORDER_TIMEOUT_S)
        assert reached == mark, f"reached {reached}, not {mark}"

    def result(self) -> Any:
        """Wait for the end of the scenario and return what it returned."""
        return self._receive("result", ORDER_TIMEOUT_S)

    def play(self, scenario: str, **params: Any) -> Any:
        """Play *scenario* from beginning to end."""
        self.start(scenario, **params)
        return self.result()

    def call(self, name: str, *args: Any) -> Any:
        """Have the backend of `node/backend.js` do something."""
        self._send({"call": name, "args": args})
        return self.result()

    # -- Lines ---------------------------------------------------------------------------

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise AssertionError(f"Node has gone away:\n{self.complaints()}") from None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))
        self._said.put(None)

    def _receive(self, kind: str, timeout_s: float) -> Any:
        try:
            message = self._said.get(timeout=timeout_s)
        except queue.Empty:
            self._process.kill()
            raise AssertionError(
                f"Node said nothing for {timeout_s} s:\n{self.complaints()}"
            ) from None
        if message is None:
            raise AssertionError(f"Node has gone away:\n{self.complaints()}")
        if "error" in message:
            raise AssertionError(f"{message['error']}\n\n{self.complaints()}")
        assert kind in message, message
        return message[kind]

    def complaints(self) -> str:
        """Return what Node and Chromium wrote to standard error."""
        # Node shares the file's position, so it is read by another way.
        size = os.fstat(self._complaints.fileno()).st_size
        return os.pread(self._complaints.fileno(), size, 0).decode(errors="replace")

    def stop(self) -> None:
        """End Node and the browser."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        self._process.stdout.close()
        self._complaints.close()


def find_node() -> str:
    """Return the path of Node; a test that has none fails and says what to install."""
    node = shutil.which("node")
    if node is None:
        pytest.fail("there is no `node` here: install Node.js 20.19 or newer, with npm")
    if not (NODE_FOLDER / "node_modules").is_dir():
        pytest.fail("no npm packages here: run `make test`, or `npm ci` in tests/clients/node")
    return node


def find_chromium() -> str:
    """Return the path of a Chromium; a test that has none fails and says what to install."""
    named = os.environ.get("HELIOGRAPH_TEST_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None:
        pytest.fail(
            "there is no Chromium here: run `sh tests/install-system.sh` as root, install the"
            " package `chromium`, or name one by HELIOGRAPH_TEST_CHROMIUM"
        )
    return found
