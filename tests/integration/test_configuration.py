"""What `check-config` accepts is what a server starts with, and what it refuses none does."""

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliograph import prerequisites
from heliograph.cli import main as cli
from heliograph.config.load import load, make_config
from heliograph.config.settings import Config
from heliograph.errors import ConfigError
from heliograph.server import Server
from tests import certificates
from tests.integration.rig import LOCAL, SINGLE_APP, Rig, serving

URLS = (
    *("http://localhost:9/hooks", "https://u:p@h.example/?a=b", "http://", "http://h:0/", "h/"),
    *("http://h:99999/", "ftp://h/", "http://a b/", "http://[::1]/", "http://[::1", "http://h\\n/"),
)
HEADERS: tuple[dict[str, str], ...] = (
    *({}, {"X-Mine": "yes"}, {"Host": "h"}, {"Content-length": "1"}, {"X Mine": "a"}, {"": "a"}),
    *(
        {"X-Mine": "a\nb"},
        {"X:Y": "a"},
        {"\u00dc": "a"},
        {"X-Pusher-Key": "k"},
        {"X-Mine": "\u00fc"},
    ),
)
VALUES: dict[str, tuple[Any, ...]] = {
    "path_prefix": ("", "/realtime", "realtime", "/a b"),
    "allowed_origins": ([], ["https://a.example/"], ["https://a.example/path"], ["[::1]"], ["::1"]),
    "cors_allowed_origins": ([], ["*"], ["https://"]),
    "trusted_proxies": ([], ["10.0.0.0/8"], ["10.0.0"]),
    "ping_interval": (25, 0, -1, "x"),
    "unix_socket_mode": ("660", "999"),
    "reuse_port": (False, True),
    "broker": ("", "memory", "none", "redis", "memry"),
    "presets": ([], ["broker", "fly"]),
    "history_limit": (1, 0, 10_001),
    "history_max_bytes": (1 << 20, 1),
    "max_connections_per_ip": (0, 5),
    "metrics": (False, True),
    "metrics_token": ("t", "\u00fc"),
    "log_level": ("info", "loud"),
    "port": (0, 7, 65536),
    "pusher_api_port": (0,),
    "metrics_port": (0, 7),
    "loop": ("auto", "asyncio", "libev"),
    "terminate_code": (4009, 1000),
    "host": (["127.0.0.1"], ["localhost", "127.0.0.1"], ["0.0.0.0", "127.0.0.1"], ["a..b"]),
    "ssl_cert": ("FOLDER/served.crt", "FOLDER/missing.crt", "FOLDER/served.key"),
    "ssl_key": ("FOLDER/served.key", "FOLDER/served.key", "FOLDER/other.key"),
    "pusher_app_id": ("3", "10", "a/b"),
    "pusher_app_key": ("k3", "k0", ""),
    "secret": ("s", ""),
}
"""Of options of the file; some values are wrong, some only together with others."""

RULES: tuple[dict[str, Any], ...] = (
    *({"prefix": ""}, {"prefix": "a", "limit": 0}, {"limit": 3}, {"prefix": "#a"}),
    *({"prefix": "b", "rewind": 2}, {"prefix": "c", "ttl": 5, "rewind": "5s"}),
    *({"prefix": "d", "limit": 1, "rewind": 2}, {"prefix": "e", "rewind": "1d"}),
)


@st.composite
def files(draw: st.DrawFn) -> str:
    """A configuration file with a few options and apps, of which some are wrong."""
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=3))
    for together in ({"ssl_cert", "ssl_key"}, {"pusher_app_id", "pusher_app_key", "secret"}):
        if not together.isdisjoint(names) and draw(st.booleans()):
            names = [*names, *sorted(together - set(names))]
    server = {name: draw(st.sampled_from(VALUES[name])) for name in names}
    own = {name: server.pop(name) for name in ("allowed_origins",) if name in server}
    lines = [f"{name} = {toml(value)}" for name, value in server.items()]
    for number in range(draw(st.integers(1, 2))):
        app = draw(st.sampled_from(["1", "1", "a-b", "a/b", "2+"]))
        lines += [
            "[[apps]]",
            f'id = "{app}{number}"',
            *(f"{n} = {toml(v)}" for n, v in own.items()),
        ]
        lines += ["[[apps.keys]]", f'key = "k{number}"', 'secret = "s"']
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            rule = draw(st.sampled_from(RULES))
            lines += ["[[apps.history]]", *(f"{n} = {toml(v)}" for n, v in rule.items())]
        for _ in range(draw(st.integers(0, 1))):
            lines += ["[[apps.webhooks]]", f"url = {toml(draw(st.sampled_from(URLS)))}"]
            lines += [f"enabled = {toml(draw(st.booleans()))}"]
            headers = draw(st.sampled_from(HEADERS))
            lines += [
                "[apps.webhooks.headers]",
                *(f"{toml(n)} = {toml(v)}" for n, v in headers.items()),
            ]
    return "\n".join(lines)


def toml(value: Any) -> str:
    return json.dumps(value)  # of texts, numbers, truth values and lists, it is the same


async def starts(path: Path) -> str:
    """Start a server with the file and stop it; return why it cannot be, or nothing."""
    try:
        config = load({"config": str(path)}, {})
        server = Server(config)
        await server.start()
    except ConfigError as error:
        return str(error)
    await server.stop(at_once=True)
    return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configuration")
    certificates.make(folder, "served")
    certificates.make(folder, "other")
    return folder


@given(files())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_check_config_accepts_exactly_what_the_server_starts_with(folder: Path, text: str) -> None:
    path = folder / "h.toml"
    path.write_text(text.replace("FOLDER", str(folder)))
    problem = asyncio.run(starts(path))
    if "cannot listen on" in problem:
        return  # port 7 is for root: what is free is for no file to say
    done = CliRunner().invoke(cli.command, ["check-config", "--config", str(path)], obj=None)
    refused = "" if done.exception is None else str(done.exception)
    assert refused == problem


def test_check_config_reads_the_certificate_as_a_server_does(tmp_path: Path) -> None:
    pair = certificates.make(tmp_path, "served")
    flags = ["check-config", f"--ssl_cert={pair.certificate}", f"--ssl_key={pair.key}"]
    assert CliRunner().invoke(cli.command, flags).exit_code == 0
    pair.key.write_text("nonsense")
    done = CliRunner().invoke(cli.command, flags)
    assert isinstance(done.exception, ConfigError)


WITHOUT_UVLOOP = (
    "import sys; sys.modules['uvloop'] = None\n"  # as if it were not installed
    "from heliograph.__main__ import main; main()\n"
)


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_check_config_and_the_server_require_the_same_event_loop(command: str) -> None:
    arguments = [command, "--loop=uvloop", "--host=127.0.0.1", "--port=0"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UVLOOP, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "heliograph: error: --loop: uvloop is not installed; use auto or asyncio\n"
    )


def test_without_uvloop_asyncio_has_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert prerequisites.loop_factory(Config()) is asyncio.new_event_loop
    assert prerequisites.certificate(Config()) is None


async def test_a_reload_needs_no_restart_for_the_app_of_the_options(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with serving() as rig, rig.client() as client:
        app = {**SINGLE_APP, "pusher_secret": "another"}
        rig.server.reload(make_config(**{**LOCAL, **app}))
        assert (await rig.request("GET", "/channels")).status == 401
        rig.secret = "another"
        assert (await rig.request("GET", "/channels")).status == 200
        await client.subscribe("c")
    assert "a restart is needed" not in caplog.text


# -- History -------------------------------------------------------------------------------

WITH_HISTORY = """
history_limit = {limit}
[[apps]]
id = "9"
[[apps.keys]]
key = "nine"
secret = "hidden-secret"
[[apps.history]]
prefix = "{prefix}"
"""


async def kept_of(rig: Rig, channel: str) -> int | None:
    """Return the number of events that *channel* keeps, None if it has no history."""
    answer = await rig.request("GET", f"/channels/{channel}/history")
    return len(json.loads(answer.body)["events"]) if answer.status == 200 else None


async def test_a_reload_changes_which_channels_keep_events_and_how_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    file = tmp_path / "h.toml"
    file.write_text(WITH_HISTORY.format(limit=2, prefix="a-"))
    async with serving(config=str(file)) as rig:
        rig.app_id, rig.key, rig.secret = "9", "nine", "hidden-secret"
        for _ in range(3):
            await rig.publish("n", "a-1")
        assert (await kept_of(rig, "a-1"), await kept_of(rig, "b-1")) == (2, None)
        file.write_text(WITH_HISTORY.format(limit=4, prefix="b-"))
        rig.server.reload(make_config(**{**LOCAL, **SINGLE_APP, "config": str(file)}))
        for _ in range(5):
            await rig.publish("n", "b-1")
        assert (await kept_of(rig, "a-1"), await kept_of(rig, "b-1")) == (None, 4)
    assert "a restart is needed" not in caplog.text


async def test_history_of_every_channel_takes_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    off, on = {**LOCAL, **SINGLE_APP}, {**LOCAL, **SINGLE_APP, "broker": "memory"}
    async with serving() as rig:
        rig.server.reload(make_config(**on, history_max_bytes=1 << 20))
        assert "a restart is needed to apply: broker, history_max_bytes" in caplog.text
        assert await kept_of(rig, "a") is None
    caplog.clear()
    async with serving(broker="memory") as rig:
        rig.server.reload(make_config(**on, history_limit=7, history_ttl=9))
        assert "a restart is needed to apply: history_limit, history_ttl" in caplog.text
        rig.server.reload(make_config(**off))
        assert await kept_of(rig, "a") == 0


async def test_a_preset_of_anycable_turns_history_on() -> None:
    async with serving(presets="broker") as rig:
        await rig.publish("n", "a")
        assert await kept_of(rig, "a") == 1
    async with serving(presets="broker", broker="none") as rig:
        assert await kept_of(rig, "a") is None
