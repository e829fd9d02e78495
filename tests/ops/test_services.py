"""The unit and the image that we give away: what they say of the server is so."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from heliograph.config import OPTIONS, load
from heliograph.server import Server
from tests.integration.rig import APP_ID, KEY, SECRET
from tests.ops.test_proxies import OPS, free_port
from tests.server import ServerProcess

ROOT = Path(__file__).parents[2]
UNIT, IMAGE, COMPOSE = (
    (OPS / name).read_text() for name in ("heliograph.service", "Dockerfile", "compose.yml")
)
VARIABLES = {variable for one in OPTIONS.values() for variable in one.variables}


def only(pattern: str, text: str) -> str:
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return str(found)


def test_the_unit_gives_options_that_exist() -> None:
    flags = re.findall(r"--(\w+)", only(r"^ExecStart=(.*)", UNIT))
    assert flags
    assert set(flags) <= OPTIONS.keys()


@pytest.mark.parametrize(
    "patience_s",
    [only(r"^TimeoutStopSec=(\d+)$", UNIT), only(r"stop_grace_period: (\d+)s$", COMPOSE)],
)
def test_a_server_has_ended_before_anybody_loses_patience(patience_s: str) -> None:
    config = load(
        {"pusher_app_id": APP_ID, "pusher_app_key": KEY, "pusher_secret": SECRET},
        {},
        make_up=lambda: ("", "", ""),
    )
    assert Server(config).stop_s < int(patience_s)


def test_the_image_is_made_of_what_there_is_and_says_what_is_understood() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)", IMAGE, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
    set_ = re.findall(r"(\w+)=", only(r"^ENV (.*)", IMAGE))
    assert {name for name in set_ if not name.startswith("PYTHON")} <= VARIABLES
    passed = set(re.findall(r"^ {6}(\w+): \$", COMPOSE, re.MULTILINE))
    assert passed
    assert passed <= VARIABLES


def test_the_image_runs_as_nobody_in_particular_and_keeps_webhooks_to_itself() -> None:
    *_, last = IMAGE.split("\nFROM ")
    assert only(r"^USER (\S+)$", last) == "heliograph"
    assert "install -d -m 700 -o heliograph /var/lib/heliograph" in last


def test_the_health_check_of_the_image_tells_whether_the_server_is_there() -> None:
    command = json.loads(only(r"^HEALTHCHECK [^\[]*(\[(?:.|\n)*?\])$", IMAGE.replace("\\\n", "")))

    def status(port: int) -> int:
        program = command[-1].replace(":8080/", f":{port}/")
        assert str(port) in program
        return subprocess.run(
            [sys.executable, *command[1:-1], program], check=False, stderr=subprocess.DEVNULL
        ).returncode

    with ServerProcess() as server:
        assert status(server.port) == 0
    assert status(free_port()) != 0
