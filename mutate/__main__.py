"""
`python -m mutate`: plant small faults, one at a time, and show those that no unit test notices.

Works on a copy of the sources. A fault is noticed where a test fails, or takes far too long. Each
one that is not is a check without a test, or a line without a purpose, or makes no difference;
which one it is takes a reader.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mutate.mutants import Mutant, mutants_of

ROOT = Path(__file__).parents[1]

PATIENCE = 4
"""A test run that takes this many times as long as without a fault hangs."""


@dataclass(frozen=True, slots=True)
class Target:
    """A module, and the unit tests that hold it."""

    module: str
    tests: tuple[str, ...]


TARGETS = {
    "api-auth": Target("protocols/pusher/api/auth.py", ("test_api_auth",)),
    "pusher-auth": Target("protocols/pusher/auth.py", ("test_pusher_auth", "test_api_auth")),
    "session": Target("protocols/pusher/session.py", ("test_session_checks", "test_session")),
    "frames": Target(
        "wire/websocket.py",
        (
            *("test_websocket_frames", "test_handshake", "test_websocket_handshake"),
            *("test_lanes", "test_deflate", "test_frames"),
        ),
    ),
    "history": Target("engine/history.py", ("test_history",)),
    "memory": Target("engine/memory.py", ("test_memory_engine", "test_engine", "test_session")),
}
"""In the order of what a missing check in them costs."""


@dataclass(slots=True)
class Result:
    """What became of a module's faults."""

    module: str
    tried: int = 0
    survivors: list[Mutant] = field(default_factory=list)
    seconds: float = 0.0


class Copy:
    """A copy of sources and tests in *folder*, in which faults are planted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("src", "clients", "tests", "fuzz", "mutate"):
            ignored = shutil.ignore_patterns("node_modules", "__pycache__", "out", "corpus")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, folder / name)

    def passes(self, tests: Sequence[str], timeout_s: float | None = None) -> bool:
        """Return whether *tests* pass, in time."""
        command = [
            *(sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no"),
            *("-p", "no:cacheprovider", "-p", "mutate.profile"),
            *(f"tests/unit/{one}.py" for one in tests),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": f"{self.folder / 'src'}{os.pathsep}{self.folder}",
        }
        with subprocess.Popen(  # noqa: S603 - our own interpreter
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as run:
            try:
                return run.wait(timeout_s) == 0
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                return False

    def plant(self, module: str, source: str) -> None:
        """Write *source* where *module* is, and let no compiled one be taken for it."""
        path = self.folder / "src" / "heliograph" / module
        path.write_text(source)
        for stale in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            stale.unlink()


def main() -> int:
    """Plant faults, and show what survived."""
    parser = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this module")
    parser.add_argument("--module", help="another one instead, as protocols/pusher/api/events.py")
    parser.add_argument("--test", action="append", help="a file of its unit tests: test_api_events")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth fault")
    parser.add_argument("--lines", help="only faults in these lines of the module: 10-25")
    parser.add_argument("--list", action="store_true", help="count the faults, and try none")
    given = parser.parse_args()
    targets = [TARGETS[name] for name in given.target or TARGETS]
    if given.module:
        if not given.test:
            parser.error("--module needs the tests that hold it: --test NAME")
        targets = [Target(given.module, tuple(given.test))]
    first, _, last = (given.lines or f"1-{sys.maxsize}").partition("-")
    results = []
    with tempfile.TemporaryDirectory(prefix="heliograph-mutate-") as folder:
        copy = Copy(Path(folder))
        for target in targets:
            original = (ROOT / "src" / "heliograph" / target.module).read_text()
            chosen = [
                one for one in mutants_of(original) if int(first) <= one.line <= int(last or first)
            ][:: given.every]
            if given.list:
                print(f"{target.module}: {len(chosen)} faults")
            else:
                results.append(_try(copy, target, original, chosen))
    for one in results:
        noticed = one.tried - len(one.survivors)
        print(f"{one.module}: {noticed} of {one.tried} noticed, in {one.seconds:.0f} s")
    return 0


def _try(copy: Copy, target: Target, original: str, mutants: Sequence[Mutant]) -> Result:
    result = Result(target.module)
    began = time.monotonic()
    if not copy.passes(target.tests):
        raise SystemExit(f"{', '.join(target.tests)} fail without a fault in {target.module}")
    timeout_s = PATIENCE * (time.monotonic() - began) + 2
    for mutant in mutants:
        copy.plant(target.module, mutant.source)
        result.tried += 1
        if copy.passes(target.tests, timeout_s):
            result.survivors.append(mutant)
            place = f"{target.module}:{mutant.line} {mutant.kind}"
            print(f"{place}\n{mutant.diff(original)}", flush=True)
    copy.plant(target.module, original)
    result.seconds = time.monotonic() - began
    return result


if __name__ == "__main__":
    sys.exit(main())
