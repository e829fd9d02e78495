"""A soak of two minutes; `make soak` has longer ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_two_minutes_of_mixed_load_lose_and_repeat_no_event(tmp_path: Path) -> None:
    """A thousand clients come, go, crash and talk; nothing is lost, doubled or left behind."""
    options = ("--minutes", "2", "--clients", "1000", "--out", str(tmp_path))
    process = subprocess.run(
        [sys.executable, "-m", "soak", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["balanced"]
    done = report["done"]
    assert all(done[what] for what in ("events heard", "whispers", "reload", "crash"))
    assert all(done[what] for what in ("resume", "continued channels", "replayed events"))
    assert not any(done.get(what) for what in ("lost events", "repeated events", "gaps"))
    assert report["peak_bytes_of_kept_events"] > 0
    assert (tmp_path / "soak.svg").read_text().startswith("<svg ")
