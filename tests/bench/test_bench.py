"""The benchmark runs and its books balance; what it finds in so short a time does not matter."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import tools
from bench.tools import BenchError

ROOT = Path(__file__).parents[2]


def bench(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", "--quick", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_every_kind_of_workload_is_measured_and_drawn(tmp_path: Path) -> None:
    names = "fan-out-4,fan-out-excluding,fan-out-channels,posts-1,batches,client-events"
    names += ",connecting-private,memory-one-channel,presence-burst"
    found, drawn = tmp_path / "bench.json", tmp_path / "chart.svg"
    done = bench("--only", names, "--json", str(found), "--chart", str(drawn))

    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert len(rows) == len(names.split(","))
    for row in rows:
        assert row["server"], f"{row['title']}: {row['note']}"
        assert row["measure"] in done.stdout
    compared = [row for row in rows if row["ratio"] is not None]
    assert len(compared) == len(rows) - 2
    bars = ET.fromstring(drawn.read_text()).findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + len(compared)


def test_without_a_compiler_there_are_no_ratios(tmp_path: Path) -> None:
    found = tmp_path / "bench.json"
    done = bench("--only", "posts-1,memory-one-channel", "--json", str(found), PATH=str(tmp_path))

    assert "without a C compiler" in done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert [(bool(row["server"]), row["ratio"]) for row in rows] == [(True, None)] * 2, done.stderr


def test_a_benchmark_that_is_ended_ends_its_servers() -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--interpreted", "--only"]
    command += ["posts-1,fan-out-1,fan-out-4,fan-out-128,fan-out-channels,posts-32"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("posts-1")  # the others are to come
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.terminate()
        process.communicate(timeout=60)
    assert len(listed) >= 2  # baseline and server; the load ends with its connections
    assert process.returncode == 128 + signal.SIGTERM
    assert not [child for child in listed if Path("/proc", child).exists()]


def test_a_load_ends_with_the_block_that_runs_it_however_that_ended() -> None:
    with pytest.raises(SystemExit), tools.loading(["sleep", "60"]) as process:
        sys.exit("as SIGTERM does")
    assert process.returncode == -signal.SIGKILL


def test_sigterm_while_a_load_starts_ends_it() -> None:
    """Python runs a handler between two instructions: here, as early as there is a process."""
    script = (
        "import signal, subprocess\n"
        "from bench import tools\n"
        "class Interrupted(subprocess.Popen):\n"
        "    def _execute_child(self, *arguments):\n"
        "        super()._execute_child(*arguments)\n"
        "        print(self.pid, flush=True)\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "tools.subprocess.Popen = Interrupted\n"
        "tools.end_children_on_sigterm()\n"
        "with tools.loading(['sleep', '60']): print('still there')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert not Path("/proc", done.stdout.strip()).exists()


def test_another_server_is_measured_by_its_address() -> None:
    with tools.heliograph() as target:
        address = f"ws://localhost:{target.port}"
        done = bench("--only", "posts-1,memory-one-channel", "--server", address, "--json", "-")
        wrong = bench("--only", "posts-1", "--server", address, "--secret", "wrong")

    assert "not measured" in done.stdout
    assert "ratio" in done.stderr
    assert wrong.returncode == 1
    assert "a publish was not taken: HTTP/1.1 401" in wrong.stdout


def test_a_load_without_time_to_spare_is_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "MIN_EMPTY_POLLS", 1.1)
    monkeypatch.setattr(tools, "BUSY", 1.1)
    load = [str(tools.build("load"))]
    with tools.baseline(100) as target:
        assert tools.run_load(load, target, seconds=0.2, subscribers=10).busy is None
        monkeypatch.setattr(tools, "SHORTEST_SHARED_S", 0.0)
        with pytest.raises(BenchError, match="is the bottleneck"):
            tools.run_load(load, target, seconds=0.2, subscribers=10)


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(BenchError, match="--max_write_buffer"):
        with tools.heliograph("--max_write_buffer", "1"):
            pass
