"""
The commands that documents print, and a scratch copy of the repository to run them in.

A command is one line of a block of `sh`, with the lines that continue it. A block that sets
variables of the shell is one command, since its lines need each other.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.server import OURS

ROOT = Path(__file__).parents[2]
FOLDERS = ("bench", "docs", "examples")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))]
)

NOT_COPIED = shutil.ignore_patterns(
    ".git",
    ".venv",
    ".compiled",
    ".stamps",
    "node_modules",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)
SETS_VARIABLES = re.compile(r"^(set |\w+=['\"$])", re.MULTILINE)
LISTENS = "Handle Pusher API requests at "
PORT = re.compile(r"Handle Pusher WebSocket connections at http://[^/]+:(\d+)/")
STOP_TIMEOUT_S = 30


@dataclass(frozen=True)
class Command:
    """What stands in a block of *page*: *title* is its first line, without a comment."""

    page: str
    title: str
    text: str = field(compare=False)


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of *language* of a page, each with its lines."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands_of(page: str) -> Iterator[Command]:
    """Return the commands of a page, in the order in which they stand there."""
    for block in blocks(page, "sh"):
        parts = [block] if SETS_VARIABLES.search(block) else _lines(block)
        for part in parts:
            yield Command(page, _without_comment(part.splitlines()[0]), part)


def all_commands() -> list[Command]:
    """Return the commands of all documents."""
    names = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
    return [command for name in names for command in commands_of(name)]


def _lines(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", "").splitlines() if line.strip()]


def _without_comment(line: str) -> str:
    return re.sub(r"\s+#.*", "", line).strip()


class Scratch:
    """A copy of the repository, as a clone has it, and a shell in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "heliograph"
        shutil.copytree(ROOT, self.folder, ignore=NOT_COPIED)

    def environment(self, **more: str) -> Mapping[str, str]:
        """
        Return the environment of a new user's shell.

        A server listens on a free port of the loopback interface, unless a flag says otherwise, and
        closes its clients at once when it ends.
        """
        left_out = {"PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
        kept = {
            name: value
            for name, value in os.environ.items()
            if not OURS.match(name) and name not in left_out
        }
        return {
            **kept,
            "PATH": f"{self.folder / '.venv' / 'bin'}:{kept['PATH']}",
            "HELIOGRAPH_HOST": "127.0.0.1",
            "HELIOGRAPH_PORT": "0",
            "HELIOGRAPH_SHUTDOWN_TIMEOUT": "0",
            "NO_PROXY": "127.0.0.1,localhost",
            **more,
        }

    def run(self, text: str, **more: str) -> str:
        """Run *text* in the shell and return what it printed; it must succeed."""
        done = subprocess.run(
            ["sh", "-c", text],
            check=False,
            cwd=self.folder,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def started(self, text: str, until: str = LISTENS, **more: str) -> Iterator["Started"]:
        """Start *text*, wait until it has printed *until*, and end it on the way out."""
        process = subprocess.Popen(
            ["sh", "-c", text],
            cwd=self.folder,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # make and the shell have children, which end with them
        )
        assert process.stdout is not None
        running = Started()
        try:
            for line in process.stdout:
                running.printed += line
                if until in line:
                    break
            else:
                raise AssertionError(f"it ended before it printed {until!r}: {running.printed}")
            yield running
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            # Not `communicate`: what the loop above has read ahead would be lost.
            running.printed += process.stdout.read()
            process.wait(timeout=STOP_TIMEOUT_S)
            process.stdout.close()
        assert "Traceback" not in running.printed, running.printed


class Started:
    """A command that runs: everything that it *printed*."""

    def __init__(self) -> None:
        self.printed = ""

    @property
    def port(self) -> int:
        """The port on which the server listens."""
        announced = PORT.search(self.printed)
        assert announced is not None, self.printed
        return int(announced[1])
