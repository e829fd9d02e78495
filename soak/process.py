"""The server under test: a process with accounts that can be asked for, and a file to reload."""

import asyncio
import http.client
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.server import ServerProcess

PATIENCE_S = 30.0
CHECK_INTERVAL_S = 0.05
KEPT_BYTES = re.compile(r"^heliograph_history_bytes\{.*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds, garbage apart."""

    objects: int
    blocks: int
    tasks: int
    threads: int
    kinds: dict[str, int]
    descriptors: int
    memory: int

    @property
    def own(self) -> dict[str, int]:
        """Objects of the server's own classes."""
        return {
            kind: count
            for kind, count in self.kinds.items()
            if kind.startswith("heliograph.") or kind in TRANSPORTS
        }


TRANSPORTS = ("uvloop.loop.TCPTransport", "asyncio.selector_events._SelectorSocketTransport")


class Server(ServerProcess):
    """A server with a launcher of ours, which keeps its papers in *folder*."""

    def __init__(self, folder: Path, options: dict[str, Any], toml: str) -> None:
        super().__init__(options, toml=toml)
        self._papers = folder

    def _command(self) -> list[str]:
        _, _, _, *options = super()._command()
        return [sys.executable, "-m", "soak.launcher", str(self._papers), *options]

    # -- Looking from outside --------------------------------------------------------------

    def memory(self) -> int:
        """Return the bytes of memory that the process has."""
        pages = Path(f"/proc/{self.process_id}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Return how many descriptors are open."""
        return len(os.listdir(f"/proc/{self.process_id}/fd"))  # noqa: PTH208 - half the time

    def kept_bytes(self) -> int:
        """Return the bytes of the kept events of all apps, as the server counts them."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse().read().decode()
        finally:
            connection.close()
        return sum(int(float(value)) for value in KEPT_BYTES.findall(answer))

    # -- Asking ----------------------------------------------------------------------------

    async def held(self) -> Held:
        """Return what the process holds."""
        answer = self._papers / "held.json"
        answer.unlink(missing_ok=True)
        self._signal(signal.SIGUSR1)
        await until(answer.exists, "the server's accounts")
        counted = json.loads(answer.read_text(encoding="utf-8"))
        return Held(**counted, descriptors=self.descriptors(), memory=self.memory())

    def measure_lag(self) -> None:
        """Have the lag of the event loop measured from now on."""
        self._signal(signal.SIGUSR2)

    def lags(self) -> list[tuple[float, float, float]]:
        """Return the median and the longest lag of each second, after when it was."""
        lines = (self._papers / "lag").read_text(encoding="utf-8").splitlines()
        parts = (line.split() for line in lines)
        return [(float(time), float(median), float(most)) for time, median, most in parts]

    async def reload(self, toml: str, answer: str) -> None:
        """Put *toml* into the file and have it read; wait until the log says *answer*."""
        before = self.log().count(answer)
        self.write_configuration(toml)
        self._signal(signal.SIGHUP)
        await until(lambda: self.log().count(answer) > before, f"{answer!r} in the log")

    def _signal(self, number: int) -> None:
        os.kill(self.process_id, number)


async def until(reached: Callable[[], bool], what: str) -> None:
    """Wait for something outside of this process. Raises TimeoutError that says for what."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not reached():  # noqa: ASYNC110 - another process has no events here
                await asyncio.sleep(CHECK_INTERVAL_S)
    except TimeoutError:
        raise TimeoutError(f"waited {PATIENCE_S:g} s in vain for {what}") from None
