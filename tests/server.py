"""
The real server, as its users start it: a process with a port, a log and an exit status.

Knows the command line, the configuration file and `GET /health`. Knows nothing of what tests
do with the server.
"""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

HOST = "127.0.0.1"
APP_ID = "3"
KEY = "278d425bdf160c739803"
SECRET = "7ad3773142a6692b25b8"

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.02

ANNOUNCED = re.compile(r"Handle Pusher WebSocket connections at http://[^/]+:(\d+)/")
ALARMING = re.compile(r"Traceback|\b(ERROR|CRITICAL)\b")
OURS = re.compile(r"(HELIOGRAPH|ANYCABLE|PUSHER)_|PORT$")


class ServerProcess:
    """
    A server in a process of its own, on a free port of the loopback interface.

    *options* are given as flags of the command line. *toml* is a configuration file's text, with
    apps of its own; without it there is the one app of APP_ID, KEY and SECRET. `app_id`, `key`
    and `secret` are the first app's. As a context manager it starts, and on the way out it insists
    that the server ended in order and had nothing to complain of.
    """

    running: ClassVar["weakref.WeakSet[ServerProcess]"] = weakref.WeakSet()
    """Those whose log is worth reading when a test fails."""

    def __init__(
        self, options: Mapping[str, Any] | None = None, *, toml: str | None = None
    ) -> None:
        self.options = dict(options or {})
        self.toml = toml
        if toml is None:
            self.app_id, self.key, self.secret = APP_ID, KEY, SECRET
        else:
            app = tomllib.loads(toml)["apps"][0]
            self.app_id, self.key = app["id"], app["keys"][0]["key"]
            self.secret = app["keys"][0]["secret"]
        self.host = HOST
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="heliograph-test-")
        self._log = Path(self._folder.name) / "log"
        self._log.touch()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Return everything that the server has said, all its lives together."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    # -- One life ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and return when it serves; a restarted one has the port it had."""
        assert self._process is None, "it runs already"
        said_before = self._log.stat().st_size
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
            )
        ServerProcess.running.add(self)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._serves(said_before):
            if self._process.poll() is not None or time.monotonic() > deadline:
                status = self.kill()
                raise AssertionError(f"the server did not start (status {status}):\n{self.log()}")
            time.sleep(POLL_INTERVAL_S)

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "heliograph"]
        # Tests have no time to see clients off one by one; those of that say so.
        flags = {"host": self.host, "port": self.port, "shutdown_timeout": 0, **self.options}
        if self.toml is None:
            flags |= {"pusher_app_id": APP_ID, "pusher_app_key": KEY, "pusher_secret": SECRET}
        else:
            flags["config"] = self.write_configuration(self.toml)
        for name, value in flags.items():
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            command.append(f"--{name}={shown}")
        return command

    def write_configuration(self, toml: str) -> Path:
        """Put *toml* into the configuration file, which a SIGHUP has read again."""
        file = Path(self._folder.name) / "heliograph.toml"
        unfinished = file.with_suffix(".tmp")
        unfinished.write_text(toml, encoding="utf-8")
        return unfinished.replace(file)

    def _announced(self, said_before: int) -> bool:
        # Only this life's words count: the port of an earlier one says nothing of this one.
        announced = ANNOUNCED.search(self._log.read_bytes()[said_before:].decode(errors="replace"))
        if announced is not None:
            self.port = int(announced[1])
        return announced is not None

    def _serves(self, said_before: int) -> bool:
        if not self._announced(said_before):
            return False
        connection = http.client.HTTPConnection(self.host, self.port, timeout=START_TIMEOUT_S)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> int:
        """Ask the server to end; return its exit status. One that will not is killed, and fails."""
        assert self._process is not None, "it does not run"
        self._process.terminate()
        try:
            return self._ended(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"the server still ran {STOP_TIMEOUT_S} s after SIGTERM:\n{self.log()}"
            ) from None

    def kill(self) -> int:
        """End the server as a crash does; return its exit status."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGKILL)
        return self._ended(STOP_TIMEOUT_S)

    def _ended(self, timeout_s: float) -> int:
        assert self._process is not None
        status = self._process.wait(timeout_s)
        self._process = None
        ServerProcess.running.discard(self)
        return status

    def restart(self) -> int:
        """Stop the server and start it again on the same port; return how the old one ended."""
        status = self.stop()
        self.start()
        return status

    # -- The whole of it -----------------------------------------------------------------

    def check_log(self) -> None:
        """Insist that the server had nothing to complain of."""
        log = self.log()
        assert not ALARMING.search(log), log

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if problem is not None:
                problem.add_note(f"The server's log:\n{self.log()}")
                with contextlib.suppress(AssertionError):
                    self.stop()
                return
            if self._process is not None:
                assert self.stop() == 0, self.log()
            self.check_log()
        finally:
            self._folder.cleanup()


def _environment() -> dict[str, str]:
    """Return this process's environment without anything that the server would obey."""
    return {name: value for name, value in os.environ.items() if not OURS.match(name)}
