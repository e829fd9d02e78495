"""What ships for authors of engines is loaded by nobody else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = frozenset(("pytest", "_pytest", "hypothesis"))


def loaded_by(module: str) -> set[str]:
    """Return the modules that a new process has loaded after importing one."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["heliograph.cli.main", "heliograph.server", "heliograph.engine"]
)
def test_the_server_loads_neither_the_suite_nor_what_it_needs(module: str) -> None:
    found = loaded_by(module)
    assert not found & SUITE
    assert not any(name.startswith("heliograph.engine.testing") for name in found)


@pytest.mark.parametrize("name", ["state", "link", "engine", "partitions", "looped", "cluster"])
def test_the_linked_engine_needs_neither_pytest_nor_hypothesis(name: str) -> None:
    assert not loaded_by(f"heliograph.engine.testing.{name}") & SUITE


ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"
MY_ENGINE = """
from heliograph.engine.answers import Wants
from heliograph.engine.memory import MemoryEngine


class MyEngine:
    available = True

    def __init__(self, now):
        self._inner = MemoryEngine(now, wall=now, epoch="an epoch")

    async def open(self):
        await self._inner.open()

    async def close(self, timeout_s):
        await self._inner.close(timeout_s)

    def space(self, app_id, local, wants):
        return self._inner.space(app_id, local, wants)
"""
THAT_OWES_NOTHING = """
    def space(self, app_id, local, wants):
        return self._inner.space(app_id, local, Wants())
"""


def example() -> str:
    """The example of the section "Add an engine"."""
    section = ARCHITECTURE.read_text("utf-8").split("### Add an engine", 1)[1]
    found = re.search(r"^   ```python\n(.*?)^   ```$", section, re.DOTALL | re.MULTILINE)
    assert found is not None
    return "".join(line.removeprefix("   ") for line in found[1].splitlines(keepends=True))


def run_example(directory: Path, engine: str) -> tuple[int, str]:
    """Run the example with an engine as its author does; return the status and the output."""
    (directory / "my_engine.py").write_text(engine, "utf-8")
    (directory / "test_my_engine.py").write_text(example(), "utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", "."]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_the_example_of_the_documentation_runs_the_suite(tmp_path: Path) -> None:
    status, output = run_example(tmp_path, MY_ENGINE)
    assert status == 0, output
    assert re.search(r"\b[2-9]\d passed", output)


def test_a_failed_assert_of_the_suite_shows_what_differed(tmp_path: Path) -> None:
    status, output = run_example(tmp_path, MY_ENGINE + THAT_OWES_NOTHING)
    assert status == 1, output
    assert "assert [] == [ChannelOccup" in output
