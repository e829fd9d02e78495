"""
Every command of the documents is run here as printed, or listed in docs/untried-commands.md.

What is changed: servers get a free port of the loopback interface, by the environment where the
command names none, else in its text; `/var/lib` and `/var/backups` are folders of the test.
"""

import http.client
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.docs.commands import ROOT, Command, Scratch, Started, all_commands, blocks, commands_of

pytestmark = pytest.mark.timeout(400)  # the first start installs packages

APP = "PUSHER_APP_ID=1 PUSHER_APP_KEY=my-app-key PUSHER_APP_SECRET=my-app-secret"
CONFIGURED = ("README.md", "heliograph --config heliograph.toml")
LARAVEL = ("docs/frameworks/laravel.md", f"{APP} heliograph")
RAILS = ("docs/frameworks/rails.md", f"{APP} heliograph")
REVERB = ("docs/coming-from/reverb.md", "set -a; . ./.env; set +a")
SERVERS = [
    ("README.md", f"{APP} make run"),
    CONFIGURED,
    ("CONTRIBUTING.md", "make run"),
    ("docs/coming-from/pusher.md", "PUSHER_APP_ID=1234567 PUSHER_APP_KEY=my-app-key"),
    ("docs/coming-from/anycable.md", "heliograph --norpc --broadcast_adapter=http"),
    ("docs/coming-from/soketi.md", APP),
    ("docs/frameworks/django.md", f"{APP} heliograph"),
    ("docs/frameworks/fastapi.md", f"{APP} heliograph"),
    ("docs/frameworks/flask.md", f"{APP} heliograph"),
    ("docs/frameworks/node.md", f"{APP} heliograph"),
    LARAVEL,
    RAILS,
    REVERB,
]
"""Commands that start a server, by their page and beginning."""

FIRST = ("README.md", "make run")
PUBLISH = ("README.md", "body=")
CHAT = ("README.md", "python3 examples/chat/app.py")
EXAMPLE_SERVER = ("examples/chat/README.md", "make run")
EXAMPLE_CHAT = ("examples/chat/README.md", "python3 examples/chat/app.py")
BACKUP = ("docs/operations/upgrades.md", "sqlite3 /var/lib/heliograph/webhooks.sqlite3")
CHECK_CONFIG = ("docs/options.md", "heliograph check-config")
SAMPLE_CONFIG = ("docs/options.md", "heliograph sample-config")
OPTIONS_TABLE = ("CONTRIBUTING.md", "heliograph options-table")
TRIED = [
    *SERVERS,
    FIRST,
    PUBLISH,
    CHAT,
    EXAMPLE_SERVER,
    EXAMPLE_CHAT,
    BACKUP,
    CHECK_CONFIG,
    SAMPLE_CONFIG,
    OPTIONS_TABLE,
]

Named = tuple[str, str]


def command(named: Named) -> Command:
    """Return the only command of a page that begins so."""
    page, beginning = named
    (found,) = {one for one in commands_of(page) if one.title.startswith(beginning)}
    return found


def name_of(named: Named) -> str:
    return f"{named[0]}: {named[1]}"


# -- A new user's clone --------------------------------------------------------------------


@dataclass
class FirstStart:
    """A clone after its first command, and what that printed."""

    scratch: Scratch
    printed: str


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstStart]:
    """A clone in which the first command of the README was run: it installs the server."""
    scratch = Scratch(tmp_path_factory.mktemp("clone"))
    with scratch.started(command(FIRST).text) as running:
        assert get(running, "/up")[0] == 200
    yield FirstStart(scratch, running.printed)
    shutil.rmtree(scratch.folder)


@pytest.fixture
def scratch(first: FirstStart) -> Scratch:
    return first.scratch


def get(running: Started, path: str) -> tuple[int, str]:
    return ask(running.port, "GET", path)


def ask(
    port: int, method: str, path: str, body: str | None = None, token: str = ""
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@contextmanager
def subscribed(port: int) -> Iterator[ClientConnection]:
    """A client that is subscribed to the channel of the quick start."""
    with connect(f"ws://127.0.0.1:{port}/app/my-app-key?protocol=7", proxy=None) as client:
        client.recv(timeout=20)
        client.send('{"event":"pusher:subscribe","data":{"channel":"my-channel"}}')
        acknowledgement = json.loads(client.recv(timeout=20))
        assert acknowledgement["event"] == "pusher_internal:subscription_succeeded"
        yield client


# -- The list of untried commands ----------------------------------------------------------


def test_each_command_is_either_run_here_or_listed_as_untried() -> None:
    page = (ROOT / "docs" / "untried-commands.md").read_text()
    rows = re.findall(r"^\| \[(\S+)\]\(\S+\) \| `(.+)` \| (.+) \|$", page, re.MULTILINE)
    untried = {(name, title) for name, title, reason in rows}
    tried = {(one.page, one.title) for one in map(command, TRIED)}
    there = {(one.page, one.title) for one in all_commands()}
    assert len(untried) == len(rows)
    assert not tried & untried
    assert there - tried - untried == set()
    assert untried - there == set()


# -- Servers -------------------------------------------------------------------------------


def test_the_first_command_starts_a_server_in_development_mode(first: FirstStart) -> None:
    assert "Development mode" in first.printed, first.printed


def test_the_first_commands_print_no_warning(first: FirstStart) -> None:
    assert "warning" not in first.printed.lower()
    quick_start = command(("README.md", f"{APP} make run"))
    with first.scratch.started(quick_start.text) as running:
        pass
    assert "warning" not in running.printed.lower()


def prepare(named: Named, scratch: Scratch) -> None:
    """Write the file that a command reads, from the page that shows it."""
    if named == CONFIGURED:
        (block,) = blocks("README.md", "toml")
        (scratch.folder / "heliograph.toml").write_text(block)
    elif named == REVERB:
        _, reverb = blocks(LARAVEL[0], "ini")
        (scratch.folder / ".env").write_text(f"{reverb}\nREVERB_SERVER_PORT=0\n")


@pytest.mark.parametrize("named", SERVERS, ids=name_of)
def test_a_command_that_starts_a_server_does(
    named: Named, scratch: Scratch, tmp_path: Path
) -> None:
    prepare(named, scratch)
    text = command(named).text.replace("--host=0.0.0.0", "--host=127.0.0.1")
    text = text.replace("--port=6001", "--port=0")
    variables = {"HELIOGRAPH_DATA_DIR": str(tmp_path)} if named == CONFIGURED else {}
    if "anycable" in named[0]:
        variables["ANYCABLE_SECRET"] = "my-app-secret"  # the sentence below the command asks for it
    with scratch.started(text, **variables) as running:
        assert get(running, "/up")[0] == 200


def test_the_quick_start_publishes_from_a_shell(scratch: Scratch) -> None:
    with scratch.started(command(SERVERS[0]).text) as running:
        with subscribed(running.port) as client:
            text = command(PUBLISH).text
            assert text.count("localhost:8080") == 1
            scratch.run(text.replace("localhost:8080", f"127.0.0.1:{running.port}"))
            event = json.loads(client.recv(timeout=20))
    assert (event["event"], event["channel"]) == ("my-event", "my-channel")
    assert json.loads(event["data"]) == {"message": "Hello from a shell"}


# -- The chat ------------------------------------------------------------------------------


def chat(scratch: Scratch, text: str, port: int) -> None:
    """Run the chat for the server on *port*, and say something there."""
    elsewhere = f"{text} --host 127.0.0.1 --port {port} --listen 0"
    with scratch.started(elsewhere, until="Open http://localhost:") as running:
        found = re.search(r"Open http://localhost:(\d+)", running.printed)
        assert found
        listens = int(found[1])
        assert ask(listens, "GET", "/")[0] == 200
        status, answer = ask(listens, "POST", "/join", '{"name": "Ada"}')
        assert status == 200
        token = json.loads(answer)["token"]
        assert ask(listens, "POST", "/messages", '{"text": "Hello"}', token)[0] == 200


def test_the_chat_of_the_readme_publishes_to_the_server_of_step_one(scratch: Scratch) -> None:
    with scratch.started(command(SERVERS[0]).text) as running:
        chat(scratch, command(CHAT).text.strip(), running.port)


def test_the_chat_takes_the_app_that_the_development_mode_prints(scratch: Scratch) -> None:
    # The snippet of Python is the last that is printed, and has all three values.
    with scratch.started(command(EXAMPLE_SERVER).text, until="client.trigger(") as running:
        found = re.search(r"app_id='(\w+)', key='(\w+)', secret='(\w+)'", running.printed)
        assert found
        text = command(EXAMPLE_CHAT).text.strip()
        for word, value in zip(("APP_ID", "APP_KEY", "APP_SECRET"), found.groups(), strict=True):
            assert word in text
            text = text.replace(word, value)
        port = re.search(r"host='127.0.0.1', port=(\d+)", running.printed)
        assert port
        chat(scratch, text, int(port[1]))


# -- The rest ------------------------------------------------------------------------------


def test_check_config_prints_each_value_and_its_source(scratch: Scratch) -> None:
    printed = scratch.run(command(CHECK_CONFIG).text)
    assert "port = 0    # the environment variable HELIOGRAPH_PORT\n" in printed


def test_sample_config_prints_a_file_that_check_config_accepts(scratch: Scratch) -> None:
    (scratch.folder / "sample.toml").write_text(scratch.run(command(SAMPLE_CONFIG).text))
    scratch.run("heliograph check-config --config sample.toml")


def test_options_table_prints_what_the_page_of_options_shows(scratch: Scratch) -> None:
    printed = scratch.run(command(OPTIONS_TABLE).text)
    assert printed.strip() in (ROOT / "docs" / "options.md").read_text()


def test_the_webhooks_of_a_stopped_server_can_be_copied_and_put_back(
    scratch: Scratch, tmp_path: Path
) -> None:
    if shutil.which("sqlite3") is None:
        pytest.fail("there is no `sqlite3` here: run `sh tests/install-system.sh` as root")
    prepare(CONFIGURED, scratch)
    data, backups = tmp_path / "data", tmp_path / "backups"
    backups.mkdir()
    with scratch.started(command(CONFIGURED).text, HELIOGRAPH_DATA_DIR=str(data)):
        assert {path.name for path in data.iterdir()} == {
            "webhooks.sqlite3",
            "webhooks.sqlite3-wal",
        }
    text = command(BACKUP).text.replace("/var/lib/heliograph", str(data))
    scratch.run(text.replace("/var/backups", str(backups)))
    assert tables(backups / "webhooks.sqlite3") == tables(data / "webhooks.sqlite3") != set()
    with scratch.started(command(CONFIGURED).text, HELIOGRAPH_DATA_DIR=str(backups)) as running:
        assert get(running, "/up")[0] == 200
    assert "damaged" not in running.printed


def tables(file: Path) -> set[str]:
    database = sqlite3.connect(file)
    try:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    finally:
        database.close()
