"""What ships for authors of engines is loaded by nobody else."""

import subprocess
import sys

import pytest

SUITE = frozenset(("pytest", "_pytest", "hypothesis"))


def loaded_by(module: str) -> set[str]:
    """Return the modules that a new process has loaded after importing one."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["heliograph.cli", "heliograph.server", "heliograph.engine"])
def test_the_server_loads_neither_the_suite_nor_what_it_needs(module: str) -> None:
    found = loaded_by(module)
    assert not found & SUITE
    assert not any(name.startswith("heliograph.engine.testing") for name in found)


@pytest.mark.parametrize("name", ["state", "link", "engine", "lanes", "looped", "cluster"])
def test_the_linked_engine_needs_neither_pytest_nor_hypothesis(name: str) -> None:
    assert not loaded_by(f"heliograph.engine.testing.{name}") & SUITE
