"""The script that compares the coverage of each package with its floor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.floors import below, by_package, floors_of_the_project, package_of

ROOT = Path(__file__).parents[2]


def measured(**covered: int) -> dict[str, object]:
    """Return a report with a module of 80 lines and 20 branches in each package."""
    return {
        "files": {
            f"src/heliograph/{name}/module.py": {
                "summary": {
                    "covered_lines": min(lines, 80),
                    "num_statements": 80,
                    "covered_branches": max(lines - 80, 0),
                    "num_branches": 20,
                }
            }
            for name, lines in covered.items()
        }
    }


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("src/heliograph/hub/hub.py", "hub"),
        ("src/heliograph/protocols/pusher/auth.py", "protocols"),
        ("/usr/lib/python3/heliograph/node.py", "heliograph"),
        ("src\\heliograph\\net\\http.py", "net"),
    ],
)
def test_modules_are_summed_up_by_package(path: str, package: str) -> None:
    assert package_of(path) == package


def test_lines_and_branches_count_alike() -> None:
    found = by_package(measured(hub=90, wire=100))
    percents = {name: one.percent for name, one in found.items()}
    assert percents == {"hub": 90.0, "wire": 100.0, "total": 95.0}


def test_a_package_at_its_floor_passes_and_one_below_is_named() -> None:
    found = by_package(measured(hub=90, wire=94))
    assert below(found, {"hub": 90, "wire": 94}) == []
    assert below(found, {"hub": 90.5, "wire": 94}) == ["hub: 90.00 % is below the floor of 90.5 %"]


def test_a_package_that_is_not_measured_is_a_fault() -> None:
    assert below(by_package(measured(hub=100)), {"wire": 1}) == ["wire: not measured"]


def test_the_packages_of_the_protocol_have_a_floor_of_95_percent_at_least() -> None:
    floors = floors_of_the_project()
    assert all(floors[name] >= 95 for name in ("hub", "wire", "protocols", "engine", "config"))


def test_the_exit_status_is_1_below_a_floor(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps(measured(**dict.fromkeys(floors_of_the_project(), 50))))
    command = [sys.executable, "-m", "tests.floors", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "hub: 50.00 % is below the floor" in done.stderr
    report.write_text(json.dumps(measured(**dict.fromkeys(floors_of_the_project(), 100))))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
