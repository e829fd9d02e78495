"""The unit and the image that we give away: what they say of the server is so."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from heliograph.config.load import make_config
from heliograph.config.settings import OPTIONS
from heliograph.server import Server
from tests.integration.rig import APP_ID, KEY, SECRET
from tests.ops.test_proxies import OPS, free_port
from tests.server import POLL_INTERVAL_S, START_TIMEOUT_S, STOP_TIMEOUT_S

ROOT = Path(__file__).parents[2]
UNIT, IMAGE, COMPOSE = (
    (OPS / name).read_text() for name in ("heliograph.service", "Dockerfile", "compose.yml")
)
LONGEST_S = 900
"""How long the compiled build may take."""

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
def test_a_server_stops_within_the_time_that_services_allow(patience_s: str) -> None:
    config = make_config(pusher_app_id=APP_ID, pusher_app_key=KEY, pusher_secret=SECRET)
    assert Server(config).stop_s < int(patience_s)


def test_the_image_is_made_of_what_there_is_and_says_what_is_understood() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)", IMAGE, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
    *_, last = IMAGE.split("\nFROM ")
    set_ = re.findall(r"(\w+)=", only(r"^ENV (.*)", last))
    assert {name for name in set_ if not name.startswith("PYTHON")} <= VARIABLES
    passed = set(re.findall(r"^ {6}(\w+): \$", COMPOSE, re.MULTILINE))
    assert passed
    assert passed <= VARIABLES


def test_the_image_runs_as_nobody_in_particular_and_keeps_webhooks_to_itself() -> None:
    *_, last = IMAGE.split("\nFROM ")
    assert only(r"^USER (\S+)$", last) == "heliograph"
    assert "install -d -m 700 -o heliograph /var/lib/heliograph" in last


def test_metrics_are_on_and_private_in_the_unit_and_the_compose_file() -> None:
    """The unit's are behind the token of its file; the compose file's are on this machine."""
    port = only(r"^Environment=HELIOGRAPH_METRICS_PORT=(\d+)$", UNIT)
    assert "metrics_token = " in only(r"^# +printf (.*)", UNIT)
    assert only(r'^ +HELIOGRAPH_METRICS_PORT: "(\d+)"$', COMPOSE) == port
    published = re.findall(r'"([\d.:]+)"', only(r"^ +ports: (.*)", COMPOSE))
    assert [one for one in published if one.endswith(f":{port}")] == [f"127.0.0.1:{port}:{port}"]


# -- Run in a scratch folder ---------------------------------------------------------------


def run(command: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a line of a shell; a failure shows what it printed."""
    done = subprocess.run(
        ["sh", "-euc", command],
        cwd=folder,
        env={**as_users_set_nothing(), **environment},
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def scratch_root(folder: Path) -> Path:
    """Return a folder with the files of /etc that useradd needs, and a `python`."""
    root = folder / "root"
    for name in ("etc/systemd/system", "var/lib", "opt", "bin"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    for name in ("shadow", "gshadow"):
        (root / "etc" / name).touch()
    for name in ("python", "python3"):
        (root / "bin" / name).symlink_to(sys.executable)
    return root


def moved(text: str, root: Path) -> str:
    """
    Return *text* with the absolute paths in *root*, which the user of this test may do.

    The user heliograph is made there and is unknown to this system, so that what it should own
    belongs to the user of the test.
    """
    text = re.sub(r"(?<![\w./])/(opt|src|etc|var)/", rf"{root}/\1/", text)
    text = text.replace("useradd ", f"useradd --prefix {root} ")
    text = re.sub(r"(?<= -o )\w+", str(os.getuid()), text)
    return re.sub(r"(?<= -g )\w+", str(os.getgid()), text)


def as_users_set_nothing() -> dict[str, str]:
    """Return this process's environment without what the server or the build would obey."""
    ours = re.compile(r"(HELIOGRAPH|ANYCABLE|PUSHER|HATCH|PYTHON|VIRTUAL)_?|PORT$")
    return {name: value for name, value in os.environ.items() if not ours.match(name)}


@contextmanager
def started(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """Run a server until it has announced where it listens, and end it afterwards."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env={**as_users_set_nothing(), **environment}, stdout=said, stderr=said
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "Handle Pusher API requests" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(POLL_INTERVAL_S)
        yield
    finally:
        process.terminate()
        status = process.wait(STOP_TIMEOUT_S)
    assert status == 0, log.read_text()


def instructions(stage: str) -> list[tuple[str, str]]:
    """Return the instructions of a stage of the image, their lines put together."""
    text = re.sub(r"^#.*\n", "", stage, flags=re.MULTILINE).replace("\\\n", "")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, rest) for name, rest in pairs]


class Image:
    """What the Dockerfile makes, in a folder instead of a container."""

    def __init__(self, folder: Path) -> None:
        self.root = scratch_root(folder)
        self.environment: dict[str, str] = {}
        self.check: list[str] = []
        self.entry = ""
        self._folder = self.root
        _, build, final = re.split(r"^FROM .*\n", IMAGE, flags=re.MULTILINE)
        for stage in (build, final):
            self.environment = {}
            for name, given in instructions(stage):
                self._carry_out(name, given)

    def _carry_out(self, name: str, given: str) -> None:
        text = moved(given, self.root)
        if name == "WORKDIR":
            self._folder = self.root / given.lstrip("/")
            self._folder.mkdir()
        elif name == "COPY":
            self._copy(given.split())
        elif name == "ENV":
            self.environment |= dict(pair.split("=", 1) for pair in text.split())
        elif name == "RUN":
            self._run(text)
        elif name == "HEALTHCHECK":
            self.check = json.loads(text[text.index("[") :])
        elif name == "ENTRYPOINT":
            (self.entry,) = json.loads(text)
        else:
            assert name in {"USER", "VOLUME", "EXPOSE", "STOPSIGNAL"}, name

    def _copy(self, words: list[str]) -> None:
        *sources, target = words
        if sources[0] == "--from=build":
            assert sources[1] == target, "it is in the same place in both stages"
            return
        for source in sources:
            run(f"cp -r {ROOT / source} {target}", self._folder, {})

    def _run(self, command: str) -> None:
        if "apt-get" in command:
            # The operating system stays as it is: the tests need the same packages.
            words = only(r"apt-get install (.*)$", command).split()
            system = (ROOT / "tests" / "install-system.sh").read_text()
            needed = set(re.findall(r"^([\w-]+) ", system, re.MULTILINE))
            assert {word for word in words if not word.startswith("-")} <= needed
            return
        run(command, self._folder, {"PATH": path_of(self.root), **self.environment})


def path_of(root: Path) -> str:
    return f"{root / 'bin'}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image"))


@pytest.mark.timeout(LONGEST_S)
def test_the_image_has_the_compiled_build_and_a_user(image: Image) -> None:
    assert "heliograph:x:10001:" in (image.root / "etc/passwd").read_text()
    folder = image.root / "var/lib/heliograph"
    assert folder.stat().st_mode & 0o777 == 0o700
    python = Path(image.entry).parent / "python"
    code = "import heliograph.hub.hub as one; print(one.__file__)"
    where = run(f"{python} -c '{code}'", image.root, {}).strip()
    assert where.startswith(str(image.root / "opt/heliograph"))
    assert where.endswith(".so")


@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize("variable", ["HELIOGRAPH_PORT", "ANYCABLE_PORT", "PORT", None])
def test_the_health_check_of_the_image_asks_the_port_that_the_server_has(
    variable: str | None, image: Image, tmp_path: Path
) -> None:
    port = free_port()
    given = {**image.environment, "HELIOGRAPH_HOST": "127.0.0.1"}
    check, options = image.check, ["--shutdown_timeout=0"]
    if variable is None:
        # The default port, which may be taken here.
        options.append(f"--port={port}")
        assert "'8080'" in check[-1]
        check = [*check[:-1], check[-1].replace("'8080'", f"'{port}'")]
    else:
        given[variable] = str(port)
    app = ["--pusher_app_id=1", "--pusher_app_key=key", "--pusher_secret=secret"]

    def status() -> int:
        environment = {**as_users_set_nothing(), **given}
        return subprocess.run(
            check,
            env=environment,
            check=False,
            stderr=subprocess.DEVNULL,
            timeout=START_TIMEOUT_S,
        ).returncode

    with started([image.entry, *options, *app], given, tmp_path / "log"):
        assert status() == 0
    assert status() != 0


@pytest.mark.timeout(LONGEST_S)
def test_the_commands_in_the_unit_install_a_server_that_systemd_can_start(tmp_path: Path) -> None:
    root = scratch_root(tmp_path)
    header = UNIT.partition("\n\n")[0].replace("\\\n#", "")
    commands = re.findall(r"^# {3}(\S.*)", header, re.MULTILINE)
    assert commands
    for command in commands:
        if command != "systemctl daemon-reload":
            # Without a running systemd the unit is enabled, and not started.
            there = command.replace("systemctl enable --now", f"systemctl --root={root} enable")
            run(moved(there, root), ROOT, {"PATH": path_of(root)})

    assert (root / "etc/systemd/system/multi-user.target.wants/heliograph.service").is_symlink()
    assert "heliograph:x:" in (root / "etc/passwd").read_text()
    assert "heliograph:x:" in (root / "etc/group").read_text()
    file = root / "etc/heliograph/heliograph.toml"
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.parent.stat().st_mode & 0o777 == 0o750

    installed = root / "etc/systemd/system/heliograph.service"
    unit = moved(installed.read_text(), root)
    (tmp_path / "heliograph.service").write_text(unit)
    # A setting that systemd does not know is a warning only.
    verify = f"systemd-analyze verify --man=no {tmp_path}/heliograph.service 2>&1"
    assert run(verify, tmp_path, {}) == ""

    (root / "var/lib/heliograph").mkdir(mode=0o700)  # StateDirectory
    port, metrics_port = free_port(), free_port()
    token = only(r"^metrics_token = '(\w+)'$", file.read_text())
    command = only(r"^ExecStart=(.*)", unit).split()
    given = {"HELIOGRAPH_PORT": str(port), "HELIOGRAPH_SHUTDOWN_TIMEOUT": "0"}
    given[only(r"^Environment=(\w+)=", unit)] = str(metrics_port)
    with started(command, given, tmp_path / "log"):
        assert ask(port, "/up") == 200
        assert ask(port, "/metrics") == 404
        assert ask(metrics_port, "/metrics") == 401
        assert ask(metrics_port, "/metrics", {"Authorization": f"Bearer {token}"}) == 200


def ask(port: int, path: str, headers: Mapping[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT_S)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        return connection.getresponse().status
    finally:
        connection.close()
