"""Configuration: its sources, the file, and secrets in files."""

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.config.apps import APP_OPTIONS, AppKey, Webhook
from heliograph.config.load import load, make_config
from heliograph.config.settings import OPTIONS, Config
from heliograph.config.show import describe
from heliograph.config.sources import (
    SOURCES,
    Inputs,
    Source,
    Sourced,
    Values,
    from_file,
    from_flags,
)
from heliograph.errors import ConfigError
from tests.unit.configurations import (
    APPS,
    FILE,
    ID_AND_KEY,
    SECRET_SET,
    SINGLE,
    only,
    problem,
    resolve,
)


def test_a_flag_is_stronger_than_the_environment_and_that_than_the_file() -> None:
    file = "port = 1\nping_interval = 1.5\nhost = '127.0.0.1'\nclient_events = false"
    environ = {"HELIOGRAPH_PORT": "2", "HELIOGRAPH_PING_INTERVAL": "2.5"}
    config = resolve({**FILE, "port": "3"}, environ, file)
    assert config.listening.port == 3
    assert config.connections.ping_interval == 2.5
    assert config.listening.host == ("127.0.0.1",)
    assert config.sources["port"] == "the flag --port"
    assert config.sources["ping_interval"] == "the environment variable HELIOGRAPH_PING_INTERVAL"
    assert config.sources["host"] == "h.toml"
    assert "pong_timeout" not in config.sources
    assert only(config).client_events is False


def from_vault(_inputs: Inputs, stronger: Values) -> Iterator[Sourced]:
    """Yield what a store of secrets could have for the app that stronger sources name."""
    app_id = stronger["pusher_app_id"]
    yield Sourced("pusher_secret", "from-vault", f"vault: {app_id}/secret")
    yield Sourced("pusher_app_key", "from-vault", f"vault: {app_id}/key")


def test_a_further_source_is_one_entry_in_the_list() -> None:
    """It has a place among the others, and errors and check-config name it."""

    def loaded(*sources: Source, **flags: object) -> Config:
        file = "pusher_app_key = 'from-file'\npusher_secret = 'from-file'"
        return load({**FILE, **flags}, {}, sources=sources, read_file=lambda _path: file)

    config = loaded(from_flags, from_vault, from_file, pusher_app_id="3", pusher_app_key="flag")
    assert only(config).keys == (AppKey("flag", "from-vault"),)
    assert "pusher_secret = (hidden)    # vault: 3/secret\n" in describe(config)
    config = loaded(*SOURCES, from_vault, pusher_app_id="3")
    assert only(config).keys == (AppKey("from-file", "from-file"),)

    def wrong(_inputs: Inputs, _stronger: Values) -> Iterator[Sourced]:
        yield Sourced("port", "x", "vault: port")

    def unknown(_inputs: Inputs, _stronger: Values) -> Iterator[Sourced]:
        yield Sourced("prot", "x", "vault")

    def apps(_inputs: Inputs, _stronger: Values) -> Iterator[Sourced]:
        key = {"key": "k", "secret": "s"}
        yield Sourced("apps", [{"id": "8", "keys": [key]}, {"id": "a/b", "keys": [key]}], "vault")

    for source, message in (
        (wrong, "--port: 'x' is not a whole number (from vault: port)"),
        (unknown, "vault: prot: unknown option; did you mean port?"),
        (apps, "vault: apps[1].id: 'a/b' must not contain spaces or any of / ? # : & + %"),
    ):
        with pytest.raises(ConfigError) as caught:
            loaded(*SOURCES, source, pusher_app_id="3")
        assert str(caught.value) == message


def test_a_configuration_is_made_of_values_alone() -> None:
    config = make_config(**SINGLE, port=81, allowed_origins=("example.com",))
    assert (config.listening.port, only(config).allowed_origins) == (81, ("example.com",))
    with pytest.raises(ConfigError, match="no app is configured"):
        make_config(port=81)
    with pytest.raises(ConfigError, match="--path_prefix"):
        make_config(**SINGLE, path_prefix="x")


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("pusher_app_id", ("ANYCABLE_PUSHER_APP_ID", "PUSHER_APP_ID")),
        ("pusher_app_key", ("ANYCABLE_PUSHER_APP_KEY", "PUSHER_APP_KEY")),
        ("pusher_secret", ("ANYCABLE_PUSHER_SECRET", "PUSHER_APP_SECRET")),
        ("secret", ("ANYCABLE_SECRET",)),
        ("pusher_api_port", ("ANYCABLE_PUSHER_API_PORT",)),
        ("host", ("ANYCABLE_HOST",)),
        ("port", ("ANYCABLE_PORT", "PORT")),
        ("config", ()),
    ],
)
def test_the_variables_that_people_have_set_already(name: str, variables: tuple[str, ...]) -> None:
    assert OPTIONS[name].variables == (f"HELIOGRAPH_{name.upper()}", *variables)


def test_the_app_of_other_servers_environments() -> None:
    environ = {"PUSHER_APP_ID": "7", "PUSHER_APP_KEY": "k", "PUSHER_APP_SECRET": "s", "PORT": "81"}
    config = resolve(environ=environ)
    assert (config.listening.port, only(config).id, only(config).keys) == (
        81,
        "7",
        (AppKey("k", "s"),),
    )
    assert not config.development


def test_the_secret_falls_back_to_the_general_one() -> None:
    config = resolve({"pusher_app_id": "3", "pusher_app_key": "k"}, {"ANYCABLE_SECRET": "general"})
    assert only(config).secret("k") == b"general"


def test_an_empty_variable_is_none() -> None:
    assert resolve(environ={"PORT": "", "HELIOGRAPH_DEBUG": ""}).listening.port == 8080


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Off", False), ("yes", True)])
def test_switches(text: str, value: bool) -> None:
    assert resolve(environ={"HELIOGRAPH_DEBUG": text}).log_output.debug is value


def test_every_key_of_an_app_is_an_option_for_the_single_app() -> None:
    flags = {
        **SINGLE,
        "max_client_events_per_second": "0",
        "allowed_origins": "a, b",
        "authorized_connections_timeout": "2.5",
    }
    app = only(resolve(flags))
    assert app.max_client_events_per_second == 0
    assert app.allowed_origins == ("a", "b")
    assert app.authorized_connections_timeout == 2.5
    assert {one.name for one in APP_OPTIONS} == {
        "name",
        "enabled",
        "max_publishes_per_second",
        "max_subscriptions",
        "client_events",
        "subscription_count",
        "watchlist",
        "authorized_connections_timeout",
        "allowed_origins",
        "max_connections",
        "max_presence_members",
        "max_presence_user_bytes",
        "max_presence_user_id_length",
        "max_event_bytes",
        "max_event_name_length",
        "max_channel_name_length",
        "max_channels_per_publish",
        "max_batch",
        "max_client_events_per_second",
        "webhook_batching",
    }


def test_apps_of_the_file_and_the_one_of_the_command_line() -> None:
    config = resolve({**FILE, **SINGLE}, file=APPS)
    first = config.apps.get("1")
    assert first is not None
    assert [app.id for app in config.apps] == ["1", "2", "3"]
    assert first.secret("new") == b"hidden-secret-2"
    assert first.secret("other") is None
    assert first.max_connections == 5
    assert first.webhooks == (
        Webhook(
            url="http://user:hidden-secret@localhost:9/hooks",
            events=("presence",),
            channel_prefix="private-",
            headers=(("X-Token", "hidden-secret"),),
        ),
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("prot = 1", "h.toml: prot: unknown option; did you mean port?"),
        ("port = 'x'", "--port: 'x' is not a whole number (from h.toml)"),
        ("port = true", "--port: True is not a whole number (from h.toml)"),
        ("debug = 'maybe'", "--debug: 'maybe' is neither true nor false (from h.toml)"),
        ("loop = 'x'", "--loop: 'x' is not one of auto, uvloop, asyncio (from h.toml)"),
        ("port = 70000", "--port: 70000 is more than 65535 (from h.toml)"),
        ("ping_interval = nan", "--ping_interval: nan is not a number (from h.toml)"),
        ("port = 1234567", "--port: 1234567 is more than 65535 (from h.toml)"),
        (
            "max_batch = 9007199254740993",
            "--max_batch: 9007199254740993 is more than 9007199254740992 (from h.toml)",
        ),
        ("path_prefix = 'ws'", "--path_prefix: 'ws' is not a path such as /realtime (from h.toml)"),
        (
            "path_prefix = '/ws/'",
            "--path_prefix: '/ws/' is not a path such as /realtime (from h.toml)",
        ),
        (
            r'data_dir = "a\u0000b"',
            r"--data_dir: 'a\x00b' contains a zero byte (from h.toml)",
        ),
        (
            r'pusher_secret = "hidden-secret\u0000"',
            "--pusher_secret: the value is not a valid string (from h.toml)",
        ),
        (
            "[[apps]]\nid='1'\n[[apps.keys]]\nkey='k'\nsecret_file=\"a\\u0000b\"",
            "h.toml: apps[0].keys[0].secret_file: contains a zero byte",
        ),
        ("apps = 5", "h.toml: apps: must be one or more tables, each under [[apps]]"),
        (
            "[[apps]]\nid='1'\nkeys=5",
            "h.toml: apps[0].keys: must be one or more tables, each under [[apps.keys]]",
        ),
        (
            APPS.replace('"new"', '"old"'),
            "h.toml: the app '1' has the key 'old' twice",
        ),
        (
            APPS.replace("http://user", "http://us er"),
            "h.toml: apps[0].webhooks[0].url: must not contain spaces or control characters",
        ),
        (
            APPS.replace("@localhost:9", "@localhost:99999"),
            "h.toml: apps[0].webhooks[0].url: has no host, or an invalid port",
        ),
        (
            APPS.replace("user:hidden-secret@localhost:9", ""),
            "h.toml: apps[0].webhooks[0].url: has no host, or an invalid port",
        ),
        (
            APPS.replace("user:hidden-secret", "user:hidden-secret/more"),
            "h.toml: apps[0].webhooks[0].url: has no host, or an invalid port",
        ),
        (
            APPS.replace("user:hidden-secret@localhost", "[::1"),
            "h.toml: apps[0].webhooks[0].url: has no host, or an invalid port",
        ),
        (
            "[[apps]]\nid='1'\nmax_conections=1\n[[apps.keys]]\nkey='k'\nsecret='s'",
            "h.toml: apps[0].max_conections: unknown key; did you mean max_connections?",
        ),
        ("[[apps]]\nid=1", "h.toml: apps[0].id: missing, empty or not a string"),
        (
            "[[apps]]\nid='1'",
            "h.toml: apps[0].keys: missing; an app needs at least one key with a secret",
        ),
        (
            "[[apps]]\nid='1'\n[[apps.keys]]\nkey='k'\nsecret=''",
            "h.toml: apps[0].keys[0].secret: missing, empty or not a string",
        ),
        (
            "[[apps]]\nid='a/b'\n[[apps.keys]]\nkey='k'\nsecret='s'",
            "h.toml: apps[0].id: 'a/b' must not contain spaces or any of / ? # : & + %",
        ),
        (
            "[[apps]]\nid='1'\n[[apps.keys]]\nkey='a+b'\nsecret='s'",
            "h.toml: apps[0].keys[0].key: 'a+b' must not contain spaces or any of / ? # : & + %",
        ),
        (
            "[[apps]]\nid='1'\nkey='k'\nsecret='hidden-secret'",
            "h.toml: apps[0].key: belongs under [[apps.keys]], because an app can have several"
            " keys",
        ),
        (
            APPS.replace("headers = {", "headers = { Host = 'a', "),
            "h.toml: apps[0].webhooks[0].headers.Host: the server sets this header; remove it",
        ),
        (
            "[[apps]]\nid='1'\nmax_batch=-1\n[[apps.keys]]\nkey='k'\nsecret='s'",
            "h.toml: apps[0].max_batch: -1 is less than 0",
        ),
        (APPS + APPS, "h.toml: two apps have the id '1'"),
        (
            APPS.replace('"other"', '"new"'),
            "h.toml: the apps '1' and '2' have the same key 'new'",
        ),
        (
            APPS.replace('["presence"]', '["presents"]'),
            "h.toml: apps[0].webhooks[0].events: 'presents' is not one of channel_existence,"
            " presence, client_event, cache_miss, subscription_count, user_presence",
        ),
        (
            APPS.replace("http://user", "user"),
            "h.toml: apps[0].webhooks[0].url: must begin with http:// or https://",
        ),
        (
            APPS.replace('"hidden-secret" }', '"a\\r\\nb" }'),
            "h.toml: apps[0].webhooks[0].headers.X-Token: the value must be one line of"
            " printable characters",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_place(file: str, message: str) -> None:
    assert problem(FILE, file=file) == message


def test_a_file_that_cannot_be_read() -> None:
    assert problem(FILE) == (
        "--config: cannot read h.toml: No such file or directory (from the flag --config)"
    )
    assert problem(environ={"HELIOGRAPH_CONFIG": "h.toml"}).endswith(
        "(from the environment variable HELIOGRAPH_CONFIG)"
    )


@pytest.mark.parametrize(
    "file", ["a =", "port = " + "1" * 5000, "port = " + "[" * 5000], ids=["cut", "long", "deep"]
)
def test_a_file_that_is_not_toml(file: str) -> None:
    assert problem(FILE, file=file).startswith("--config: h.toml is not valid TOML: ")


@pytest.mark.parametrize("file", ["port = ", "ping_interval = ", "max_batch = "])
@pytest.mark.parametrize("number", ["1" * 400, "0x" + "f" * 5000], ids=["decimal", "hex"])
def test_a_number_that_no_machine_has_is_refused(file: str, number: str) -> None:
    assert "(from h.toml)" in problem(FILE, file=file + number)


@given(st.sampled_from(sorted(set(OPTIONS) - {"config"})), st.text())
def test_no_text_is_anything_but_a_value_or_an_error(name: str, text: str) -> None:
    message = name
    try:
        describe(resolve({**SINGLE, name: text}))
    except ConfigError as error:
        message = str(error)
    assert name in message


def test_bytes_that_are_no_text_are_refused() -> None:
    """So the system hands on what is not UTF-8; a secret of it could sign nothing."""
    assert problem({"host": "\udcff"}) == "--host: '\\udcff' is not UTF-8 (from the flag --host)"
    assert problem({**SINGLE, "pusher_secret": "hidden-secret\udcff"}).startswith(
        "--pusher_secret: "
    )


def with_files(
    files: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    mode: int = 0o100600,
) -> Config:
    def read_file(path: str) -> str:
        if path not in files:
            raise PermissionError(13, "Permission denied", path)
        return files[path]

    return load(
        {**ID_AND_KEY, **(flags or {})},
        environ or {},
        generate_app=lambda: ("1", "generated", "generated"),
        read_file=read_file,
        mode_of_file=lambda _path: mode,
    )


@pytest.mark.parametrize("text", ["s3cret", "s3cret\n", "s3cret\r\n", "\n s3cret \n"])
def test_a_secret_may_stand_in_a_file_as_editors_leave_it(text: str) -> None:
    secret = {"/secret": text}
    for config in (
        with_files(secret, {"pusher_secret_file": "/secret"}),
        with_files(secret, environ={"PUSHER_APP_SECRET_FILE": "/secret"}),
        with_files(secret, {"pusher_secret_file": "/secret"}, {"HELIOGRAPH_SECRET": "other"}),
    ):
        assert only(config).secret("key") == b"s3cret"
        assert config.warnings == ()


def test_apps_of_the_file_may_have_theirs_in_files_too() -> None:
    toml = """
        pusher_secret_file = "/one"
        [[apps]]
        id = "7"
        keys = [{ key = "seven", secret_file = "/two" }, { key = "old", secret = "here" }]
    """
    files = {"h.toml": toml, "/one": "first", "/two": "second"}
    by_id = {app.id: app for app in with_files(files, {"config": "h.toml"}).apps}
    assert by_id["3"].secret("key") == b"first"
    assert by_id["7"].secret("seven") == b"second"
    assert by_id["7"].secret("old") == b"here"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read /secret: Permission denied"),
        ("", "/secret is empty; it must contain the secret"),
        (" \n", "/secret is empty; it must contain the secret"),
        ("hidden-secret\nmore", "/secret must contain only the secret, on one line"),
        ("hidden-secret\0", "/secret must contain only the secret, on one line"),
    ],
)
def test_a_file_without_a_secret_is_an_error_that_names_it(text: str | None, message: str) -> None:
    files = {} if text is None else {"/secret": text}
    with pytest.raises(ConfigError) as caught:
        with_files(files, {"pusher_secret_file": "/secret"})
    assert str(caught.value) == (
        f"--pusher_secret_file (from the flag --pusher_secret_file): {message}"
    )
    files["h.toml"] = '[[apps]]\nid = "7"\nkeys = [{ key = "seven", secret_file = "/secret" }]'
    with pytest.raises(ConfigError) as caught:
        with_files(files, {"config": "h.toml", "pusher_secret": "s"})
    assert str(caught.value) == f"h.toml: apps[0].keys[0].secret_file: {message}"


def test_a_secret_is_given_once() -> None:
    with pytest.raises(ConfigError, match=r"--pusher_secret \(from the env.*is also set"):
        with_files({"/secret": "s"}, {"pusher_secret_file": "/secret"}, SECRET_SET)
    toml = '[[apps]]\nid = "7"\nkeys = [{ key = "k", secret = "s", secret_file = "/secret" }]'
    with pytest.raises(ConfigError, match="secret_file: set either secret_file or secret"):
        with_files({"/secret": "s", "h.toml": toml}, {"config": "h.toml"}, SECRET_SET)


def test_a_file_that_everybody_may_read_is_warned_of() -> None:
    flags = {"pusher_secret_file": "/secret"}
    assert with_files({"/secret": "s"}, flags, mode=0o100640).warnings == ()
    (warning,) = with_files({"/secret": "s"}, flags, mode=0o100644).warnings
    assert warning == (
        "/secret contains a secret, and every user of this machine can read it: run chmod o-r on it"
    )


def test_a_secret_on_the_command_line_is_warned_of() -> None:
    """For each there is another way; every option that is a secret has one."""
    for name, one in OPTIONS.items():
        if not one.secret:
            continue
        flags = {**ID_AND_KEY, "pusher_secret_file": "/secret", name: "hidden-secret"}
        if name == "pusher_secret":
            del flags["pusher_secret_file"]
        (warning,) = with_files({"/secret": "s"}, flags).warnings
        assert warning.startswith(f"--{name} is on the command line, where every user")
        assert one.variables[0] in warning
        assert ("--pusher_secret_file" in warning) == (name == "pusher_secret")
        assert "hidden-secret" not in warning


def test_a_wrong_secret_is_not_shown() -> None:
    assert problem(FILE, file="pusher_secret = ['hidden-secret']") == (
        "--pusher_secret: the value is not a valid string (from h.toml)"
    )


def test_hosts_are_a_list() -> None:
    assert resolve({"host": "127.0.0.1, ::1"}).listening.host == ("127.0.0.1", "::1")
    assert resolve(FILE, file="host = ['127.0.0.1', 'localhost']").listening.host == (
        "127.0.0.1",
        "localhost",
    )
    message = problem({"host": "localhost,0.0.0.0"})
    assert message.startswith("--host: '0.0.0.0' (from the flag --host) needs an app")


def test_a_name_that_is_no_option_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"^prot: no such option; did you mean port"):
        make_config(prot=1)


@pytest.mark.parametrize("name", ["metrics_token", "data_dir", "unix_socket"])
def test_an_empty_text_is_no_value_of_an_option_that_has_none_by_default(name: str) -> None:
    """So that a sample file with every line uncommented means the same as an empty one."""
    app = {"pusher_app_id": "1", "pusher_app_key": "k", "pusher_secret": "s"}
    assert make_config(**app, **{name: ""}).value(name) is None
