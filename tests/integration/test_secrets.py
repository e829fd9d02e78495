"""A secret is in nothing that anybody reads: no log, no error, no answer, no description."""

import ast
import json
import logging
import random
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.cli import main as cli
from heliograph.client.signing import Credentials
from heliograph.config.apps import Webhook
from heliograph.config.load import load
from heliograph.config.settings import OPTIONS, Config
from heliograph.config.show import describe
from heliograph.errors import ConfigError
from tests.integration.rig import APP_ID, KEY, Rig, serving

MARK = "Hu5h-"
"""In every secret here, and in nothing else."""


def secret_of(name: str) -> str:
    return f"{MARK}{name}"


# -- The configuration ---------------------------------------------------------------------

TOML = f"""
port = 8080
max_message_bytes = 4096
secret = "{secret_of("general")}"
metrics_token = "{secret_of("token")}"
[[apps]]
id = "7"
max_connections = 5
[[apps.keys]]
key = "seven"
secret = "{secret_of("seven")}"
[[apps.keys]]
key = "eight"
secret_file = "/run/eight"
[[apps.webhooks]]
url = "https://user:{secret_of("password")}@example.com/{secret_of("path")}?{secret_of("query")}"
events = ["presence"]
headers = {{ Authorization = "Bearer {secret_of("header")}" }}
"""

option_values = st.dictionaries(
    st.sampled_from(sorted(set(OPTIONS) - {"config"})),
    st.sampled_from(
        ["", "1", "-1", "x", "true", "0.5", "nan", "127.0.0.1", "é", "\ud800", "1" * 30]
    ),
    max_size=3,
)


def shown_by(config: Config) -> str:
    (*apps,) = config.apps
    return "\n".join(
        [describe(config), *config.warnings, repr(config), str(config), repr(apps), str(apps)]
        + [repr(key) for app in apps for key in app.keys]
        + [repr(hook) for app in apps for hook in app.webhooks]
    )


def said_about(flags: dict[str, Any], environ: dict[str, str], toml: str) -> str:
    """What people read of a configuration, be it right or wrong."""

    def read_file(path: str) -> str:
        return toml if path == "h.toml" else secret_of("file")

    try:
        config = load(
            flags,
            environ,
            generate_app=lambda: ("1", "k", secret_of("generated")),
            read_file=read_file,
            mode_of_file=lambda _path: 0o644,
        )
    except ConfigError as error:
        return (
            f"{error} {error!r} {error.__cause__} {error.__suppress_context__ or error.__context__}"
        )
    return shown_by(config)


@given(
    options=option_values,
    given_secrets=st.sets(st.sampled_from(["pusher_secret", "secret", "metrics_token"])),
    where=st.sampled_from(["flags", "environ"]),
    file=st.booleans(),
)
def test_no_configuration_shows_a_secret(
    options: dict[str, str], given_secrets: set[str], where: str, file: bool
) -> None:
    secrets = {name: secret_of(name) for name in given_secrets}
    flags: dict[str, Any] = {**options, **({"config": "h.toml"} if file else {})}
    environ: dict[str, str] = {}
    if where == "flags":
        flags |= secrets
    else:
        environ = {f"HELIOGRAPH_{name.upper()}": text for name, text in secrets.items()}
    assert MARK not in said_about(flags, environ, TOML)


PLACES = [place for place in range(len(TOML)) if MARK not in TOML[max(0, place - 30) : place]]


@settings(max_examples=400)
@given(
    place=st.sampled_from(PLACES),
    drop=st.integers(0, 1),
    insert=st.sampled_from(
        ["", '"', "'", "[", "]", "=", "\n", "{", "}", ",", "#", "1", "\\", "\0"]
    ),
)
def test_no_slip_of_the_pen_in_the_file_shows_a_secret(place: int, drop: int, insert: str) -> None:
    slipped = TOML[:place] + insert + TOML[place + drop :]
    assert MARK not in said_about({"config": "h.toml"}, {}, slipped)


@pytest.mark.parametrize(
    "wrong",
    [
        f'secret = ["{MARK}"]',
        f'secret = {{ is = "{MARK}" }}',
        f'secrets = "{MARK}"',
        f'pusher_secret = "{MARK}"\npusher_secret = "{MARK}"',
        f'[[apps]]\nid = "1"\nsecret = "{MARK}"',
        f'[[apps]]\nid = "1"\nkeys = "{MARK}"',
        f'[[apps]]\nid = "1"\nkeys = ["{MARK}"]',
        f'[[apps]]\nid = "1"\nkeys = [{{ key = "k", secret = "{MARK}", secrets = "{MARK}" }}]',
        f'[[apps]]\nid = "1"\nkeys = [{{ key = "k", secret = ["{MARK}"] }}]',
        f'[[apps]]\nid = "1"\nkeys = [{{ key = "k", secret = "{MARK}", secret_file = "/x" }}]',
    ],
)
def test_what_is_wrong_with_a_secret_is_said_without_it(wrong: str) -> None:
    said = said_about({"config": "h.toml"}, {}, wrong)
    assert "h.toml" in said
    assert MARK not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pusher_secret", "{}", "--port", "x"],
        ["--pusher-secret={}", "--nonsense"],
        ["check-config", "--pusher_secret", "{}", "--pusher_app_id=1", "--pusher_app_key=k"],
        ["check-config", "--secret={}", "--metrics_token={}"],
        ["--pusher_secrt={}"],
        ["--pusher_secret={}", "--config", "missing.toml"],
        ["--pusher_secret={}", "--pusher_secret_file=/x", "--pusher_app_id=1"],
        ["--pusher_secret", "{}\ud800"],
        ["nonsense", "--secret", "{}"],
    ],
)
def test_the_command_line_shows_no_secret(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [one for option in OPTIONS.values() for one in option.variables]:
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(SystemExit):
        cli.main([argument.replace("{}", MARK) for argument in arguments])
    said = capsys.readouterr()
    assert said.out or said.err
    assert MARK not in said.out + said.err


def test_a_webhook_keeps_its_password_and_headers_to_itself() -> None:
    hook = Webhook(url=f"https://u:{MARK}@example.com/{MARK}", headers=(("X", MARK),))
    assert MARK not in f"{hook!r} {hook}"


# -- The server ----------------------------------------------------------------------------


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What clients and publishers were answered; checked in the end, with the whole log."""
    caplog.set_level(logging.DEBUG)
    answers: list[str] = []
    yield answers
    assert answers
    assert MARK not in "".join(answers)
    assert MARK not in caplog.text


def marked() -> dict[str, Any]:
    return {
        "pusher_secret": secret_of("app"),
        "metrics": True,
        "metrics_token": secret_of("token"),
        "debug": True,
    }


def tampered(target: str, chance: random.Random) -> str:
    place = chance.randrange(1, len(target))
    return target[:place] + chance.choice(string.ascii_letters + "&=%") + target[place + 1 :]


async def test_no_answer_of_the_api_and_no_line_of_the_log_shows_a_secret(said: list[str]) -> None:
    chance = random.Random(7)
    async with serving(**marked()) as rig:
        rig.secret = secret_of("app")
        body = b'{"name":"n","channel":"c","data":"x"}'
        paths = ("/apps/3/events", "/apps/3/batch_events", "/apps/3/channels", "/apps/4/events")
        for number in range(200):
            path = paths[number % 4]
            method = "GET" if path.endswith("channels") else "POST"
            target = rig.signed(method, path, body if method == "POST" else b"")
            if number % 5:
                target = tampered(target, chance)
            reply = await rig.fetch(method, target.replace(" ", ""), body)
            said.append(f"{reply.headers} {reply.body!r}")
        wrong: tuple[dict[str, Any], ...] = (
            {"auth_signature": None},
            {"auth_timestamp": "1"},
            {"auth_key": "other"},
        )
        for overrides in wrong:
            reply = await rig.request("GET", "/channels", **overrides)
            assert reply.status in (400, 401)
            said.append(reply.text)
        said.append((await rig.fetch("GET", "/metrics")).text)


async def test_no_client_is_told_a_secret(said: list[str]) -> None:
    async with serving(**marked()) as rig, rig.client() as client:
        app = Credentials(KEY, secret_of("app"))
        real = app.sign(f"{client.socket_id}:private-c")
        signatures = [f"{KEY}:{real[:-1]}", f"{KEY}:", f"other:{real}", "", KEY, f"{KEY}:{real}x"]
        for signature in signatures:
            await client.send("pusher:subscribe", {"channel": "private-c", "auth": signature})
            said.append(await client.receive())
            data = {"auth": signature, "user_data": json.dumps({"id": "1"})}
            await client.send("pusher:signin", data)
            said.append(await client.receive())
        assert all("pusher:error" in one for one in said)


async def test_a_reload_that_fails_shows_no_secret(said: list[str], tmp_path: Path) -> None:
    file = tmp_path / "h.toml"
    file.write_text(TOML.replace('secret_file = "/run/eight"', f'secret = "{MARK}8"'))
    async with serving(config=str(file)) as rig:
        for wrong in (TOML.replace("port", "prot"), TOML.replace('"seven"', '"eight"'), "["):
            with pytest.raises(ConfigError) as caught:
                rig.server.reload(_loaded(wrong))
            said.append(str(caught.value))


def _loaded(toml: str) -> Config:
    return load(
        {"config": "h.toml"},
        {},
        read_file=lambda path: toml if path == "h.toml" else secret_of("file"),
        mode_of_file=lambda _path: 0o600,
    )


# -- What an operator finds instead --------------------------------------------------------


async def refused_requests(rig: Rig, times: int, **overrides: Any) -> None:
    for _ in range(times):
        assert (await rig.request("GET", "/channels", **overrides)).status in (400, 401, 404)


async def test_a_wrong_secret_is_one_line_for_each_app(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as rig, rig.client() as client:
        rig.secret = "wrong-secret"
        await refused_requests(rig, 30)
        await refused_requests(rig, 3, auth_key=f"unknown-{MARK}")
        rig.app_id = "8"
        await refused_requests(rig, 3, auth_key=f"unknown-{MARK}")
        await refused_requests(rig, 3)
        for _ in range(5):
            auth_text = {"channel": "private-c", "auth": f"{KEY}:wrong"}
            await client.send("pusher:subscribe", auth_text)
            await client.receive()
        assert rig.server.node.tally.auth_failures == 5
        lines = [one for one in caplog.messages if "refused" in one]
        assert lines == [
            f"app {APP_ID}: an API request was refused: Invalid signature",
            "unknown app: an API request was refused: unknown key",
            f"app {APP_ID}: a client was refused: wrong signature (channel 'private-c')",
        ]
        summary = rig.server.node._failures
        summary._end(f"app {APP_ID}")  # a minute later
        assert caplog.messages[-1] == (
            f"app {APP_ID}: in the last minute,"
            " 29 times an API request was refused: Invalid signature,"
            " 3 times an API request was refused: unknown key,"
            " 3 times an API request was refused: its key was used with the id of another app"
        )
    assert MARK not in caplog.text


async def test_what_is_signed_rightly_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(max_batch=1) as rig, rig.client() as client:
        await client.subscribe("private-c")
        await rig.publish("n", "private-c")
        assert (await rig.request("POST", "/events", {"name": 1})).status == 400
        assert (await rig.request("GET", "/nothing")).status == 404
    # What was signed and is wrong otherwise is told apart.
    assert [one for one in caplog.messages if "refused" in one] == [
        "app 3: a signed request was refused: 400 Missing required parameter: channel"
    ]


SECRETIVE = re.compile(r"signature|secret|token(?!s)|checksum|digest|md5", re.IGNORECASE)


def test_nothing_but_compare_digest_looks_whether_a_signature_is_right() -> None:
    """What compares with == says by its time how much of a guess was right."""
    source = Path(cli.__file__).parent
    compared = [
        f"{path.name}: {ast.unparse(node)}"
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops)
        and not any(isinstance(one, ast.Constant) for one in (node.left, *node.comparators))
        and SECRETIVE.search(ast.unparse(node))
    ]
    assert compared == []
