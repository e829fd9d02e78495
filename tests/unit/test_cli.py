"""The command, as a process: what it prints, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from websockets.sync.client import connect


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "heliograph", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={"PATH": os.environ["PATH"], **environ},
    )


def error_of(*arguments: str, **environ: str) -> str:
    done = run(*arguments, **environ)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("heliograph: error: ")
    return line.removeprefix("heliograph: error: ")


def test_version() -> None:
    assert run("--version").stdout.startswith("heliograph 0.")
    assert run("--port", "1", "--version").stdout.startswith("heliograph 0.")


def test_help_names_every_option_with_its_variables() -> None:
    text = " ".join(run("--help").stdout.split())
    assert "--pusher_app_id, --pusher-app-id TEXT" in text
    assert "HELIOGRAPH_PUSHER_APP_ID, ANYCABLE_PUSHER_APP_ID, PUSHER_APP_ID" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense"], "No such option '--nonsense'"),
        (["serve", "nonsense"], "Got unexpected extra argument (nonsense)"),
        (["chek-config"], "unknown command 'chek-config'; the commands are serve, check-config"),
        (["--debug", "nonsense"], "unknown command 'nonsense'"),
        (["--prot", "9000"], "No such option '--prot'. Did you mean '--port'?"),
        (["--prot=9000", "chek-config"], "No such option '--prot'. Did you mean '--port'?"),
        (["--no_port"], "No such option '--no_port'"),
        (["--port", "1" * 400], f"--port: {'1' * 400} is more than 65535"),
        (["--port", "x"], "--port: 'x' is not a whole number (from the flag --port)"),
        (["--config", "missing.toml"], "--config: cannot read missing.toml: No such file"),
        (
            ["--pusher-app-id=1"],
            "--pusher_app_key: missing; it is required together with --pusher_app_id (from",
        ),
        (["--host", "0.0.0.0"], "--host: '0.0.0.0' (from the flag --host) needs an app"),
        (
            ["--host", "nowhere.invalid", "--pusher_app_id=1", "--pusher_app_key=k", "--secret=s"],
            "--host (from the flag --host): cannot resolve 'nowhere.invalid'",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    assert error_of(*arguments).startswith(message)


def test_the_start_command_of_an_anycable_application_works() -> None:
    """Options that ask for what is so anyway, with and without values, dashes and underscores."""
    done = run(
        *("--host=127.0.0.1", "--port", "8080", "--norpc", "--broadcast_adapter=http"),
        *("--health-path", "/health", "--max-conn=100", "--log_level=warn"),
        *("--pusher_app_id=1", "--pusher_app_key=k", "check-config"),
        PUSHER_APP_SECRET="s",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "max_connections = 100    # the flag --max_connections" in done.stdout


def test_flags_of_anycable_that_are_ignored_are_said_to_be() -> None:
    done = run("check-config", "--noauth", "--sessions_ttl=9", "--redis_url=redis://:sesame@h")
    assert done.returncode == 0
    assert "warning: --noauth, --sessions_ttl: not supported yet, ignored" in done.stderr
    assert "warning: --redis_url: this process shares no state with others" in done.stderr
    assert "sesame" not in done.stdout + done.stderr


def test_options_may_stand_before_a_command_and_with_dashes() -> None:
    for arguments in (
        ["check-config", "--max-message-bytes=2048", "--debug"],
        ["--max_message_bytes", "2048", "--debug=true", "check-config"],
    ):
        done = run(*arguments, PORT="81")
        assert done.returncode == 0
        assert "max_message_bytes = 2048    # the flag --max_message_bytes" in done.stdout
        assert "port = 81    # the environment variable PORT" in done.stdout
        assert "debug = true    # the flag --debug" in done.stdout


def test_a_word_is_no_command_where_an_option_wants_it() -> None:
    """An app may be called as a command is; taken for one, it would start a server."""
    for arguments in (
        ["--name", "serve", "check-config", "--debug"],
        ["check-config", "--debug", "true", "--name", "serve"],
        ["--debug", "on", "--name=serve", "check-config"],
    ):
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "name = serve    # the flag --name" in done.stdout
        assert "debug = true    # the flag --debug" in done.stdout


def test_a_switch_does_not_take_the_word_behind_it() -> None:
    """The URL of the doctor, for one: a dead port would pass."""
    for arguments in (
        ["--norpc", "doctor", "ws://127.0.0.1:1"],
        ["doctor", "--norpc", "ws://127.0.0.1:1"],
        ["doctor", "--debug", "ws://127.0.0.1:1"],
        ["doctor", "ws://127.0.0.1:1", "--debug"],
    ):
        done = run(*arguments)
        assert done.returncode == 1, done.stdout
        assert "fault  public URL" in done.stdout


def test_a_switch_is_turned_off_with_no() -> None:
    for flag in ("--no_client_events", "--no-client-events", "--client-events=false"):
        assert "client_events = false    # the flag --client_events" in (
            run("check-config", flag).stdout
        )


def test_of_two_flags_the_last_one_counts() -> None:
    done = run("--no_debug", "--port=1", "check-config", "--debug", "--port=2")
    assert "debug = true    # the flag --debug" in done.stdout
    assert "port = 2    # the flag --port" in done.stdout


def test_help_names_the_other_commands() -> None:
    text = run("--help").stdout
    assert "check-config" in text
    assert "sample-config" in text
    assert "options-table" not in text


def test_warnings_of_the_configuration() -> None:
    done = run("check-config", "--pusher_app_id=x", "--pusher_app_key=k", "--pusher_secret=s")
    assert "warning: app id 'x' is not a number" in done.stderr


def test_sample_config_prints_toml() -> None:
    assert "[[apps.keys]]" in run("sample-config").stdout


# -- A running server ----------------------------------------------------------------------


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


APP = ["--pusher_app_id=7", "--pusher_app_key=my-key", "--pusher_secret=hidden-secret"]


class Running:
    process: subprocess.Popen[str]

    @classmethod
    def of(cls, process: subprocess.Popen[str]) -> "Running":
        running = cls.__new__(cls)
        running.process = process
        return running

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "heliograph", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_log_until(self, text: str) -> str:
        assert self.process.stderr is not None
        log = ""
        while text not in log:
            line = self.process.stderr.readline()
            assert line, f"the server ended: {log}"
            log += line
        return log


@pytest.fixture
def started(free_port: int) -> Iterator[Running]:
    running = Running("--port", str(free_port), *APP)
    running.read_log_until("Handle Pusher API requests")
    yield running
    running.process.kill()
    running.process.communicate()


def test_the_log_of_a_start_has_the_addresses_and_no_secret(free_port: int) -> None:
    running = Running("--port", str(free_port), *APP)
    log = running.read_log_until("Handle Pusher API requests")
    running.process.terminate()
    output, rest = running.process.communicate(timeout=10)
    assert f"Handle Pusher WebSocket connections at http://localhost:{free_port}/app/my-key" in log
    assert f"Handle Pusher API requests at http://localhost:{free_port}/apps/7/" in log
    assert "hidden-secret" not in log + rest + output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(started: Running, number: signal.Signals) -> None:
    started.process.send_signal(number)
    _, log = started.process.communicate(timeout=10)
    assert started.process.returncode == 0
    assert "server stopped" in log
    assert "Traceback" not in log


def test_a_second_signal_ends_it_at_once(started: Running, free_port: int) -> None:
    with socket.create_connection(("127.0.0.1", free_port)) as client:
        # A client that leaves its WebSocket open keeps an orderly end waiting.
        client.sendall(
            b"GET /app/my-key?protocol=7 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert b"101" in client.recv(65536)
        started.process.terminate()
        started.read_log_until("stopping")
        started.process.terminate()
        assert started.process.wait(timeout=2) == 128 + signal.SIGTERM


def test_a_port_in_use_is_one_line(started: Running, free_port: int) -> None:
    assert started.process.poll() is None
    assert error_of("--port", str(free_port), *APP) == (
        f"--port (from the flag --port): cannot listen on localhost:{free_port}:"
        " Address already in use"
    )


def test_the_development_mode_prints_what_to_paste(free_port: int) -> None:
    running = Running("--port", str(free_port))
    running.read_log_until("Handle Pusher API requests")
    running.process.terminate()
    output, _ = running.process.communicate(timeout=10)
    assert f"wsPort: {free_port}" in output
    assert "new Pusher(" in output
    assert "new Echo(" in output
    assert "pusher.Pusher(" in output


def test_sighup_reads_the_apps_again(free_port: int, tmp_path: Path) -> None:
    """New apps appear, a removed one's clients are sent away, a broken file changes nothing."""

    def app(name: str) -> str:
        return f'[[apps]]\nid = "{name}"\n[[apps.keys]]\nkey = "{name}"\nsecret = "s"\n'

    file = tmp_path / "h.toml"
    file.write_text(app("1") + app("2"))
    running = Running("--config", str(file), "--port", str(free_port))
    running.read_log_until("/apps/2/")
    endpoints = [f"ws://127.0.0.1:{free_port}/app/{name}?protocol=7" for name in "123"]
    with connect(endpoints[0]) as first, connect(endpoints[1]) as second:
        for client in (first, second):
            assert "connection_established" in str(client.recv(timeout=5))

        file.write_text(app("1") + "nonsense")
        running.process.send_signal(signal.SIGHUP)
        log = running.read_log_until("configuration not reloaded, nothing was changed: --config: ")

        file.write_text("")
        running.process.send_signal(signal.SIGHUP)
        log += running.read_log_until("h.toml: no app is configured any more")

        file.write_text("port = 1\n" + app("2") + app("3"))
        running.process.send_signal(signal.SIGHUP)
        log += running.read_log_until("configuration reloaded: 2 apps")
        assert "Traceback" not in log
        assert '"code":4003' in str(first.recv(timeout=5))
        with connect(endpoints[2]) as third:
            assert "connection_established" in str(third.recv(timeout=5))
        second.send('{"event":"pusher:ping"}')
        assert "pusher:pong" in str(second.recv(timeout=5))
    running.process.terminate()
    running.process.communicate(timeout=10)
    assert running.process.returncode == 0


HUNG_UP_AT_EACH_IMPORT = """
import os, signal, sys

def hang_up(event, arguments):
    if event == "import" and (hang_up.begun or arguments[0] == os.environ["HUNG_UP_FROM"]):
        hang_up.begun = True
        os.kill(os.getpid(), signal.SIGHUP)

hang_up.begun = False
sys.addaudithook(hang_up)
"""
MODULE = ("-m", "heliograph")
SCRIPT = ("-c", "import sys; from heliograph.__main__ import main; sys.exit(main())")


def hung_up(
    tmp_path: Path, begin: str, *arguments: str, ignored: bool = False
) -> subprocess.Popen[str]:
    """Start a process that gets a SIGHUP at each import, from that of *begin* on."""
    (tmp_path / "sitecustomize.py").write_text(HUNG_UP_AT_EACH_IMPORT)
    how = signal.SIG_IGN if ignored else signal.SIG_DFL
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HUNG_UP_FROM": begin},
        preexec_fn=partial(signal.signal, signal.SIGHUP, how),  # noqa: PLW1509 - no more than this
    )


@pytest.mark.parametrize("entry", [MODULE, SCRIPT])
def test_a_sighup_during_start_or_stop_does_not_end_a_server(
    entry: tuple[str, ...], free_port: int, tmp_path: Path
) -> None:
    options = ("--port", str(free_port), *APP)
    process = hung_up(tmp_path, "heliograph.cli.main", *entry, *options)
    running = Running.of(process)
    running.read_log_until("Handle Pusher API requests")
    process.send_signal(signal.SIGHUP)
    running.read_log_until("configuration reloaded: 1 app")
    process.terminate()
    running.read_log_until("server stopping: SIGTERM")
    while process.poll() is None:  # nor does one on the way out
        process.send_signal(signal.SIGHUP)
        time.sleep(0.001)
    process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.parametrize(("ignored", "status"), [(False, -signal.SIGHUP), (True, 0)])
def test_a_command_that_is_no_server_can_be_hung_up_unless_its_parent_said_otherwise(
    ignored: bool, status: int, tmp_path: Path
) -> None:
    command = ("doctor", "--port", "0", *APP)
    process = hung_up(tmp_path, "heliograph.cli.doctor", *MODULE, *command, ignored=ignored)
    _, errors = process.communicate(timeout=30)
    assert process.returncode in ({status} if status else {0, 1}), errors
