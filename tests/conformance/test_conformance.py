"""What `make autobahn` does besides running Autobahn|Testsuite, which is not installed here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from conformance import report
from conformance.__main__ import SPECIFICATION, echo_server

ROOT = Path(__file__).parents[2]


def test_the_server_sends_back_what_it_receives() -> None:
    with echo_server() as url, connect(url, max_size=None) as client:
        assert client.protocol.extensions, "compression was not negotiated"
        for message in ("", "zażółć", "x" * (1 << 20), b"", b"\x00\xff" * 70_000):
            client.send(message)
            assert client.recv(timeout=30) == message


def test_the_server_reads_frames_as_the_real_one_does() -> None:
    with echo_server() as url, connect(url, compression=None) as client:
        client.socket.sendall(b"\xc1\x80\x00\x00\x00\x00")  # a reserved bit is set
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1002


def test_a_run_asks_for_every_case() -> None:
    specification = json.loads(SPECIFICATION.read_text())
    assert specification["cases"] == ["*"]
    assert not specification["exclude-cases"]


def index(folder: Path, **results: tuple[str, str]) -> Path:
    """Write a report as the test suite does."""
    path = folder / "index.json"
    cases = {
        number: {"behavior": behavior, "behaviorClose": close, "duration": 1, "remoteCloseCode": 1}
        for number, (behavior, close) in results.items()
    }
    path.write_text(json.dumps({"Heliograph": cases}))
    return path


@pytest.mark.parametrize(
    ("behavior", "close", "failed"),
    [
        ("OK", "OK", False),
        ("NON-STRICT", "OK", False),
        ("INFORMATIONAL", "INFORMATIONAL", False),
        ("FAILED", "OK", True),
        ("UNIMPLEMENTED", "OK", True),
        ("OK", "WRONG CODE", True),
        ("OK", "UNCLEAN", True),
        ("OK", "FAILED BY CLIENT", True),
    ],
)
def test_a_case_passes_only_with_the_right_answer_and_the_right_close(
    behavior: str, close: str, failed: bool, tmp_path: Path
) -> None:
    (case,) = report.read(index(tmp_path, **{"1.1.1": (behavior, close)}))
    assert case.failed is failed


def test_the_summary_names_the_failed_cases(tmp_path: Path) -> None:
    cases = report.read(index(tmp_path, **{"1.1": ("OK", "OK"), "7.3.1": ("FAILED", "UNCLEAN")}))
    assert report.summary(cases) == (
        "7.3.1: FAILED, close: UNCLEAN\n1 failed of 2 (FAILED 1, OK 1)"
    )


def autobahn(out: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"PATH", "WSTEST"}}
    return subprocess.run(
        [sys.executable, "-m", "conformance", "--cases", "1.1.1", "--out", out],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_test_suite_that_cannot_run_fails_the_run(tmp_path: Path) -> None:
    done = autobahn(tmp_path, {"WSTEST": "/bin/false"})
    assert done.returncode == 1
    assert "The test suite ended with status 1." in done.stderr
    assert "0 failed of 0 (no case ran)" in done.stdout


def test_without_a_test_suite_the_run_fails_and_says_what_to_install(tmp_path: Path) -> None:
    done = autobahn(tmp_path, {"PATH": str(tmp_path), "WSTEST": str(tmp_path / "wstest")})
    assert done.returncode == 1
    assert "pip install autobahntestsuite" in done.stderr
    assert "crossbario/autobahn-testsuite" in done.stderr
