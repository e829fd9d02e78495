"""The workflows of .github: pinned actions, few rights, time-outs, and commands that exist."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def name_of(path: Path) -> str:
    return path.name


def test_there_are_workflows() -> None:
    assert WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_each_action_is_pinned_by_its_commit_with_the_version_beside_it(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    assert not [one for one in used if not PINNED.fullmatch(one)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_a_workflow_may_read_the_sources_and_nothing_else(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^ *permissions:((?:\n +\S.*)+)", text, re.MULTILINE) == [
        "\n  contents: read"
    ]
    assert "secrets." not in text
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_each_job_has_a_time_out(path: Path) -> None:
    jobs = re.split(r"^  [\w-]+:$", path.read_text().partition("\njobs:\n")[2], flags=re.MULTILINE)
    assert len(jobs) > 1
    assert all(re.search(r"^    timeout-minutes: \d+$", one, re.MULTILINE) for one in jobs[1:])


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_the_workflows_call_targets_of_make_that_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"run: make ([a-z-]+)", path.read_text()))
    assert called
    assert called <= targets


def test_the_tests_run_on_every_version_that_the_package_names() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = {
        one.rpartition(" ")[2]
        for one in settings["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", one)
    }
    matrix = re.search(r"python: \[(.+)\]", "".join(path.read_text() for path in WORKFLOWS))
    assert matrix
    tested = set(re.findall(r'"([\d.]+)"', matrix[1]))
    assert named <= tested
    wheels = settings["tool"]["cibuildwheel"]["build"]
    assert {f"cp{one.replace('.', '')}-manylinux_*" for one in tested} == set(wheels)
