"""Each tool prints its options."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "tool",
    ["bench", "bench.fairness", "bench.scale", "bench.states", "conformance", "fuzz", "soak"],
)
def test_a_tool_prints_its_options(tool: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", tool, "--help"], capture_output=True, text=True, check=False
    )
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.startswith("usage: ")
    assert "options:" in printed.stdout
