"""
`python -m conformance`: start the server, run Autobahn|Testsuite against it, and read the report.

The exit status is 1 if a case failed, if cases are missing, or if the test suite is not installed.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from conformance import report

ROOT = Path(__file__).parents[1]
OUT = ROOT / "conformance" / "out"
SPECIFICATION = ROOT / "conformance" / "fuzzingclient.json"
INSTALLED = ROOT / ".stamps" / "wstest" / "bin" / "wstest"
IMAGE = "crossbario/autobahn-testsuite"

ALL_CASES = 517
"""Cases of a whole run; fewer in the report mean that the test suite ended early."""

STOP_TIMEOUT_S = 15.0

NOT_INSTALLED = f"""\
Autobahn|Testsuite is not installed. Either start Docker, which runs the image {IMAGE},
or install Python 2.7, and the test suite into a virtual environment of it:

    python2.7 -m pip install --user virtualenv
    python2.7 -m virtualenv {INSTALLED.parents[1].relative_to(ROOT)}
    {INSTALLED.parent.relative_to(ROOT)}/pip install autobahntestsuite==0.8.2

A wstest in another place can be named by the environment variable WSTEST."""


def wstest(out: Path) -> list[str] | None:
    """Return the command that runs the test suite and writes to *out*; None if there is none."""
    named = os.environ.get("WSTEST")
    if named:
        found = shutil.which(named)
        return [found] if found else None
    if INSTALLED.exists():
        return [str(INSTALLED)]
    found = shutil.which("wstest")
    if found:
        return [found]
    docker = shutil.which("docker")
    if docker is None or not _answers([docker, "info"]):
        return None
    mount = f"{out}:{out}"
    return [docker, "run", "--rm", "--network", "host", "--volume", mount, IMAGE, "wstest"]


def _answers(command: list[str]) -> bool:
    silent = subprocess.DEVNULL
    done = subprocess.run(command, stdout=silent, stderr=silent, check=False)  # noqa: S603 - ours
    return done.returncode == 0


@contextlib.contextmanager
def echo_server() -> Iterator[str]:
    """Run the server; its URL is returned, and it is ended by its process id."""
    command = [sys.executable, "-m", "conformance.echo"]
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            if not url:
                raise SystemExit("The server did not start; its error is above.")
            yield url
        finally:
            server.terminate()
            try:
                server.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
    if server.returncode:
        raise SystemExit(f"The server ended with status {server.returncode}.")


def run(command: list[str], cases: list[str], out: Path) -> list[report.Case]:
    """Run *cases* with the *command* of the test suite; return their results."""
    reports = out / "reports"
    if reports.exists():
        shutil.rmtree(reports)  # those of an earlier run
    out.mkdir(parents=True, exist_ok=True)
    specification = json.loads(SPECIFICATION.read_text(encoding="utf-8"))
    specification["outdir"] = str(reports)
    specification["cases"] = cases
    filled = out / "fuzzingclient.json"
    with echo_server() as url:
        specification["servers"][0]["url"] = url
        filled.write_text(json.dumps(specification, indent=2), encoding="utf-8")
        done = subprocess.run(  # noqa: S603 - the tool that the developer installed
            [*command, "--mode", "fuzzingclient", "--spec", str(filled)], cwd=out, check=False
        )
        if done.returncode:
            print(f"The test suite ended with status {done.returncode}.", file=sys.stderr)
            return []
    return report.read(reports / "index.json")


def main() -> int:
    """Run the test suite, print the failed cases and the totals."""
    parser = argparse.ArgumentParser(prog="make autobahn", description=__doc__)
    parser.add_argument(
        "--cases", default="*", metavar="LIST", help='only these: --cases "1.*,7.3.1"'
    )
    parser.add_argument("--out", default=OUT, type=Path, help="a folder for the report")
    given = parser.parse_args()
    cases, out = given.cases.split(","), given.out.resolve()
    command = wstest(out)
    if command is None:
        print(NOT_INSTALLED, file=sys.stderr)
        return 1
    results = run(command, cases, out)
    print(report.summary(results))
    if not results or any(case.failed for case in results):
        return 1
    if cases == ["*"] and len(results) != ALL_CASES:
        print(f"A whole run has {ALL_CASES} cases.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
