"""An application as a process, its users' requests, and a browser that opens its page."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from http.cookiejar import CookieJar
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import (
    HTTPCookieProcessor,
    HTTPRedirectHandler,
    ProxyHandler,
    Request,
    build_opener,
)

from tests.clients.javascript import NODE_FOLDER, find_chromium, find_node

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 15.0
BROWSER_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.02

LISTENS = re.compile(r"http://(?:127\.0\.0\.1|localhost):(\d+)")


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a reader's shell: the virtual environment's commands are found."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PUSHER_", "PYTHONPATH", "COVERAGE_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {
        **kept,
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "no_proxy": "*",
        **variables,
    }


def run(command: str, folder: Path, **variables: str) -> None:
    """Run a command of a page to its end."""
    done = subprocess.run(
        shlex.split(command),
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Application:
    """The application in *folder*, started with *command*, on the port that it prints."""

    def __init__(self, command: str, folder: Path, **variables: str) -> None:
        self._command = shlex.split(command)
        self._folder = folder
        self._variables = variables
        self._log = folder / "log"
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            # A group of its own: Django's server starts a second process, which must end too.
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=environment(**self._variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._stop()
                raise AssertionError(f"the application did not start:\n{self.log()}")
            time.sleep(POLL_INTERVAL_S)
        return self

    def _listens(self) -> bool:
        """Read the port from the log, and ask for the page."""
        printed = LISTENS.search(self.log())
        if printed is None:
            return False
        self.port = int(printed[1])
        try:
            Visitor(self).get("")
        except OSError:
            return False
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        if problem is not None:
            problem.add_note(f"The application's log:\n{self.log()}")

    def _stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(STOP_TIMEOUT_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Leave a redirect to the test, as its status."""


class Visitor:
    """A browser's requests to an application: it keeps cookies, and follows no redirect."""

    def __init__(self, application: Application, **headers: str) -> None:
        self._application = application
        self._headers = headers
        self._jar = CookieJar()
        self._opener = build_opener(
            ProxyHandler({}), HTTPCookieProcessor(self._jar), _NoRedirects()
        )

    @property
    def cookies(self) -> dict[str, str]:
        return {cookie.name: cookie.value or "" for cookie in self._jar}

    @property
    def same_site(self) -> dict[str, str]:
        """Return the attribute SameSite of each cookie, in small letters; "" where it has none."""
        return {
            cookie.name: (cookie.get_nonstandard_attr("SameSite") or "").lower()
            for cookie in self._jar
        }

    def add_header(self, name: str, value: str) -> None:
        self._headers[name] = value

    def get(self, path: str) -> tuple[int, str]:
        return self._fetch(path, None)

    def post(self, path: str, **fields: str) -> tuple[int, str]:
        return self._fetch(path, urlencode(fields).encode())

    def _fetch(self, path: str, body: bytes | None) -> tuple[int, str]:
        request = Request(self._application.url + path, body, self._headers)
        try:
            with self._opener.open(request, timeout=REQUEST_TIMEOUT_S) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    def authorize(self, socket_id: str, channel: str) -> tuple[int, str]:
        """Ask for a signature as pusher-js asks."""
        return self.post("pusher/auth", socket_id=socket_id, channel_name=channel)

    def order(self) -> Any:
        """Order something; return the answer's JSON."""
        status, text = self.post("orders")
        assert status == 200, text
        return json.loads(text)


def visit(url: str, cookies: Mapping[str, str], button: str) -> dict[str, Any]:
    """Open the page in Chromium and press *button*; return what `visit.js` prints."""
    pairs: Sequence[Mapping[str, str]] = [
        {"name": name, "value": value} for name, value in cookies.items()
    ]
    done = subprocess.run(
        [find_node(), "visit.js"],
        cwd=NODE_FOLDER,
        input=json.dumps(
            {"chromium": find_chromium(), "url": url, "cookies": pairs, "button": button}
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=BROWSER_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed
