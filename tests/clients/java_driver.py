"""
Pusher's Java client and Java SDK: a process that obeys lines of JSON.

Knows `java/…/Driver.java`. Maven compiles it and fetches the two libraries once; then Java is
started without Maven.
"""

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pytest

from tests.server import ServerProcess

JAVA_FOLDER = Path(__file__).parent / "java"
TARGET = JAVA_FOLDER / "target"
MAIN_CLASS = "heliograph.Driver"

BUILD_TIMEOUT_S = 300.0
PATIENCE_S = 20.0
STOP_TIMEOUT_S = 10.0


def find_command(name: str, package: str) -> str:
    """Return the path of a command; a test that has none fails and says what to install."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(
            f"there is no `{name}` here: run `sh tests/install-system.sh` as root, or install a"
            f" JDK of version 17 or newer and Maven (packages `{package}`)"
        )
    return found


def build() -> None:
    """Compile the program and fetch its libraries, unless that is done and nothing has changed."""
    find_command("javac", "default-jdk-headless")
    maven = find_command("mvn", "maven")
    sources = [JAVA_FOLDER / "pom.xml", *(JAVA_FOLDER / "src").rglob("*.java")]
    built = TARGET / "built"
    if built.exists() and all(source.stat().st_mtime < built.stat().st_mtime for source in sources):
        return
    done = subprocess.run(
        [maven, "--batch-mode", "--quiet", "clean", "process-classes"],
        cwd=JAVA_FOLDER,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built.touch()


class Java:
    """A Java process with one client and one SDK, for *server*; `build` must have been called."""

    def __init__(self, server: ServerProcess, user_id: str) -> None:
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        app = [server.host, str(server.port), server.app_id, server.key, server.secret]
        paths = os.pathsep.join([str(TARGET / "classes"), str(TARGET / "dependency" / "*")])
        self._process = subprocess.Popen(
            [find_command("java", "default-jdk-headless"), "-cp", paths, MAIN_CLASS, *app, user_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
        )
        self._printed: dict[str, queue.SimpleQueue[list[Any] | None]] = {
            "client": queue.SimpleQueue(),
            "result": queue.SimpleQueue(),
        }
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            ((kind, values),) = json.loads(line).items()
            self._printed[kind].put(values)
        for each in self._printed.values():
            each.put(None)

    def _next(self, kind: str) -> list[Any]:
        try:
            values = self._printed[kind].get(timeout=PATIENCE_S)
        except queue.Empty:
            raise AssertionError(f"nothing came in {PATIENCE_S} s:\n{self.complaints()}") from None
        assert values is not None, f"Java has ended:\n{self.complaints()}"
        return values

    def complaints(self) -> str:
        """Return what Java wrote to standard error."""
        size = os.fstat(self._complaints.fileno()).st_size
        return os.pread(self._complaints.fileno(), size, 0).decode(errors="replace")

    def order(self, order: str, **fields: Any) -> None:
        """Give an order to the client."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"order": order, **fields}) + "\n")
        self._process.stdin.flush()

    def ask(self, order: str, **fields: Any) -> tuple[str, int | None, str]:
        """Give an order to the SDK; return the kind of its result, the HTTP status and the text."""
        self.order(order, **fields)
        kind, status, text = self._next("result")
        return kind, status, text

    def reported(self) -> list[Any]:
        """Wait for the next thing that the client reports."""
        return self._next("client")

    def open(self, *channels: str) -> list[Any]:
        """
        Connect and subscribe; return what the client reports besides that.

        The channels come before the connection: a channel that is added while the client connects
        may be subscribed twice, which the server refuses with an error.
        """
        for channel in channels:
            self.order("subscribe", channel=channel, event="said")
        self.order("connect")
        missing = [["state", "CONNECTING"], ["state", "CONNECTED"]]
        missing += [["subscribed", channel] for channel in channels]
        others = []
        while missing:
            report = self.reported()
            if report in missing:
                missing.remove(report)
            else:
                others.append(report)
        return others

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(STOP_TIMEOUT_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        if problem is not None:
            problem.add_note(f"Java's standard error:\n{self.complaints()}")
        self._complaints.close()
