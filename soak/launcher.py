"""
Starts the server as its command does, and counts what it holds when it is asked to.

`python -m soak.launcher FOLDER OPTIONS…` is `heliograph OPTIONS…`. SIGUSR1 has what this
process holds written to FOLDER/held.json; from the first SIGUSR2 on, the lag of the event loop is
written to FOLDER/lag, a line a second. It is a launcher and no option: nobody should be able to
ask a server in production for a full garbage collection.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from heliograph.cli import main as cli

TICK_S = 0.02
TICKS_A_LINE = 50


class Accounts:
    """What a process holds, for whoever asks by signal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def listen(self) -> None:
        """Take signals from now on; the event loop begins later, and runs the handlers."""
        signal.signal(signal.SIGUSR1, self._in_loop(self._write))
        signal.signal(signal.SIGUSR2, self._in_loop(self._measure))

    @staticmethod
    def _in_loop(act: Any) -> Any:
        # Not in the signal handler itself, which may run in the middle of anything.
        return lambda *_: asyncio.get_running_loop().call_soon_threadsafe(act)

    def _write(self) -> None:
        for _ in range(3):  # what a finaliser lets go of is garbage only then
            gc.collect()
        objects = gc.get_objects()
        kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in objects)
        held = {
            "objects": len(objects),
            "blocks": sys.getallocatedblocks(),
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
            "kinds": dict(kinds),
        }
        del objects
        unfinished = self._folder / "held.tmp"
        unfinished.write_text(json.dumps(held), encoding="utf-8")
        unfinished.replace(self._folder / "held.json")

    def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        out = (self._folder / "lag").open("w", encoding="utf-8", buffering=1)
        loop.call_later(TICK_S, self._tick, loop, out, loop.time() + TICK_S, [])

    def _tick(
        self, loop: asyncio.AbstractEventLoop, out: TextIO, due: float, lags: list[float]
    ) -> None:
        now = loop.time()
        lags.append(max(now - due, 0.0))
        if len(lags) == TICKS_A_LINE:
            lags.sort()
            out.write(f"{now:.3f} {lags[len(lags) // 2]:.6f} {lags[-1]:.6f}\n")
            lags = []
        loop.call_later(TICK_S, self._tick, loop, out, now + TICK_S, lags)


if __name__ == "__main__":
    gc.enable()
    Accounts(Path(sys.argv[1])).listen()
    os.environ["PYTHONUNBUFFERED"] = "1"
    cli.main(sys.argv[2:])
