"""Configuration: where values come from, and how what is wrong is said."""

import re
import tomllib
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heliograph import origins
from heliograph.cli.development import make_up, snippets
from heliograph.config.apps import APP_OPTIONS, App, AppKey, Webhook
from heliograph.config.borrowed import BORROWED
from heliograph.config.settings import OPTIONS, Config, load
from heliograph.config.show import describe, options_table, sample
from heliograph.errors import ConfigError

SINGLE = {"pusher_app_id": "3", "pusher_app_key": "key", "pusher_secret": "hidden-secret"}
FILE = {"config": "h.toml"}
SECRET_SET = {"HELIOGRAPH_PUSHER_SECRET": "hidden-secret"}


def resolve(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: str | None = None,
) -> Config:
    def read_file(path: str) -> str:
        if file is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        return file

    return load(
        flags or {}, environ or {}, make_up=lambda: ("1", "made-up", "made-up"), read_file=read_file
    )


def problem(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: str | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(flags, environ, file)
    message = str(caught.value)
    assert "\n" not in message
    assert "hidden-secret" not in message
    return message


def only(config: Config) -> App:
    (app,) = config.apps
    return app


# -- Sources -------------------------------------------------------------------------------


def test_a_flag_is_stronger_than_the_environment_and_that_than_the_file() -> None:
    file = "port = 1\nping_interval = 1.5\nhost = '127.0.0.1'\nclient_events = false"
    environ = {"HELIOGRAPH_PORT": "2", "HELIOGRAPH_PING_INTERVAL": "2.5"}
    config = resolve({**FILE, "port": "3"}, environ, file)
    assert (config.port, config.ping_interval, config.host) == (3, 2.5, ("127.0.0.1",))
    assert config.sources["port"] == "the flag --port"
    assert config.sources["ping_interval"] == "the environment variable HELIOGRAPH_PING_INTERVAL"
    assert config.sources["host"] == "h.toml"
    assert "pong_timeout" not in config.sources
    assert only(config).client_events is False


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
    assert (config.port, only(config).id, only(config).keys) == (81, "7", (AppKey("k", "s"),))
    assert not config.development


def test_the_secret_falls_back_to_the_general_one() -> None:
    config = resolve({"pusher_app_id": "3", "pusher_app_key": "k"}, {"ANYCABLE_SECRET": "general"})
    assert only(config).secret("k") == b"general"


def test_an_empty_variable_is_none() -> None:
    assert resolve(environ={"PORT": "", "HELIOGRAPH_DEBUG": ""}).port == 8080


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Off", False), ("yes", True)])
def test_switches(text: str, value: bool) -> None:
    assert resolve(environ={"HELIOGRAPH_DEBUG": text}).debug is value


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


# -- The file ------------------------------------------------------------------------------

APPS = """
[[apps]]
id = "1"
max_connections = 5
allowed_origins = ["https://example.com"]
[[apps.keys]]
key = "old"
secret = "hidden-secret-1"
[[apps.keys]]
key = "new"
secret = "hidden-secret-2"
[[apps.webhooks]]
url = "http://user:hidden-secret@localhost:9/hooks"
events = ["presence"]
channel_prefix = "private-"
headers = { X-Token = "hidden-secret" }

[[apps]]
id = "2"
enabled = false
[[apps.keys]]
key = "other"
secret = "hidden-secret-3"
"""


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


def test_the_app_of_the_command_line_may_be_no_app_of_the_file() -> None:
    assert problem({**FILE, **SINGLE, "pusher_app_id": "2"}, file=APPS) == (
        "--pusher_app_id: '2' (from the flag --pusher_app_id) is also used by the app '2'"
        " in h.toml; choose another one"
    )
    assert problem({**FILE, **SINGLE}, {}, APPS.replace('"other"', '"key"')) == (
        "--pusher_app_key: 'key' (from the flag --pusher_app_key) is also used by the app '2'"
        " in h.toml; choose another one"
    )


# -- The single app and the development mode -----------------------------------------------


@pytest.mark.parametrize("missing", list(SINGLE))
def test_an_app_with_a_part_missing_does_not_start(missing: str) -> None:
    flags = {name: value for name, value in SINGLE.items() if name != missing}
    assert problem(flags).startswith(f"--{missing}: missing; it is required together with --")


def test_an_empty_secret_is_none() -> None:
    assert problem({**SINGLE, "pusher_secret": ""}).startswith("--pusher_secret: missing")


# -- Secrets that stand elsewhere ----------------------------------------------------------

ID_AND_KEY = {"pusher_app_id": "3", "pusher_app_key": "key"}


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
        make_up=lambda: ("1", "made-up", "made-up"),
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


def test_without_an_app_one_is_made_up() -> None:
    config = resolve({"max_batch": "3"})
    assert config.development
    assert (only(config).id, only(config).max_batch) == ("1", 3)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_the_development_mode_is_for_this_machine(host: str) -> None:
    assert resolve({"host": host}).development


def test_hosts_are_a_list() -> None:
    assert resolve({"host": "127.0.0.1, ::1"}).host == ("127.0.0.1", "::1")
    assert resolve(FILE, file="host = ['127.0.0.1', 'localhost']").host == (
        "127.0.0.1",
        "localhost",
    )
    message = problem({"host": "localhost,0.0.0.0"})
    assert message.startswith("--host: '0.0.0.0' (from the flag --host) needs an app")


@pytest.mark.parametrize("mode", ["", "rw", "66", "0o660", "1660", "668", "-660"])
def test_a_mode_is_octal(mode: str) -> None:
    assert problem({"unix_socket_mode": mode}) == (
        f"--unix_socket_mode: {mode!r} is not a mode such as 660 (from the flag --unix_socket_mode)"
    )


@pytest.mark.parametrize(("one", "other"), [("ssl_cert", "ssl_key"), ("ssl_key", "ssl_cert")])
def test_a_certificate_has_a_key_and_a_key_a_certificate(one: str, other: str) -> None:
    assert problem({one: "x.pem"}) == (
        f"--{other}: missing; it is required together with --{one} (from the flag --{one})"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.1.5", "example.com"])
def test_and_for_no_other(host: str) -> None:
    message = problem({"host": host})
    assert message.startswith(f"--host: {host!r} (from the flag --host) needs an app")


def test_what_is_made_up_can_be_used_by_every_sdk() -> None:
    app_id, key, secret = make_up(lambda bits: (1 << bits) - 1)
    assert re.fullmatch(r"[0-9]{6,10}", app_id)
    assert re.fullmatch(r"[0-9a-f]{20}", key)
    assert re.fullmatch(r"[0-9a-f]{20}", secret)


def test_the_snippets_can_be_pasted() -> None:
    text = snippets(resolve({"path_prefix": "/ws"}), 8080, 8081)
    assert "wsHost: 'localhost', wsPort: 8080, forceTLS: false" in text
    assert "window.Pusher = Pusher;" in text
    assert "wsPath: '/ws'" in text
    python = text[text.index("import pusher") :].replace("\n  ", "\n")
    compile(python, "snippet", "exec")
    assert "port=8081, ssl=False" in python


def test_the_python_snippet_says_where_its_sdk_falls_short() -> None:
    """It has no option for a prefix: pasted as it is, every request would be a 404."""
    assert "a proxy must add /ws to its paths" in snippets(
        resolve({"path_prefix": "/ws"}), 8080, 8080
    )
    assert "proxy" not in snippets(resolve(), 8080, 8080)


def test_an_address_of_ipv6_stands_in_brackets_where_it_becomes_part_of_a_url() -> None:
    text = snippets(resolve({"host": "::1"}), 8080, 8080)
    assert text.count("'[::1]'") == 3
    assert "'::1'" not in text


# -- What people are shown -----------------------------------------------------------------


def test_the_description_shows_sources_and_no_secrets() -> None:
    text = describe(resolve({**FILE, **SINGLE}, {"PORT": "81"}, APPS))
    assert "port = 81    # the environment variable PORT" in text
    assert "host = localhost    # default" in text
    assert "pusher_secret = (hidden)    # the flag --pusher_secret" in text
    assert "key = old, secret = (hidden)    # h.toml" in text
    assert (
        "webhook = http://localhost:9; events: presence; channel_prefix: private-;"
        " headers: X-Token    # h.toml"
    ) in text
    assert "hidden-secret" not in text


@pytest.mark.parametrize(
    "url", ["https://example.com?t=hidden-secret", "https://example.com/hidden-secret"]
)
def test_the_description_shows_no_more_of_a_url_than_its_host(url: str) -> None:
    text = describe(
        resolve(FILE, file=APPS.replace("http://user:hidden-secret@localhost:9/hooks", url))
    )
    assert "webhook = https://example.com; " in text
    assert "hidden-secret" not in text


def test_the_description_says_of_each_app_where_its_values_came_from() -> None:
    """Options of the command line are for its own app only, and so are their sources."""
    flags = {**FILE, **SINGLE, "max_batch": "7"}
    text = describe(resolve(flags, {"HELIOGRAPH_WATCHLIST": "1"}, APPS))
    _, first, second, single = text.split("[[apps]]\n")
    assert "id = 1    # h.toml\n" in first
    assert "max_connections = 5    # h.toml\n" in first
    assert "max_batch = 10    # default\n" in first
    assert "enabled = false    # h.toml\n" in second
    assert "id = 3    # the flag --pusher_app_id\n" in single
    assert "max_batch = 7    # the flag --max_batch\n" in single
    assert "watchlist = true    # the environment variable HELIOGRAPH_WATCHLIST\n" in single
    assert "max_connections = 0    # default\n" in single


def test_the_description_says_what_was_made_up() -> None:
    text = describe(resolve({"max_batch": "7"}))
    assert "id = 1    # generated: development mode\n" in text
    assert "max_batch = 7    # the flag --max_batch\n" in text


def test_numbers_are_shown_in_full() -> None:
    text = describe(resolve({"ping_interval": "1234567.25", "cache_ttl": "1800"}))
    assert "ping_interval = 1234567.25    #" in text
    assert "cache_ttl = 1800    #" in text


def test_secrets_are_in_no_representation() -> None:
    assert "hidden-secret" not in repr(resolve({**FILE, **SINGLE}, file=APPS))


def test_the_sample_is_accepted_when_its_comments_are_taken_away() -> None:
    text = "\n".join(
        line[1:] if re.match(r"#(\[\[|[a-z_]+ = )", line) else line
        for line in sample().splitlines()
    )
    tomllib.loads(text)
    config = resolve(FILE, file=text)
    assert not config.development
    assert only(config).webhooks[0].enabled
    for name, one in OPTIONS.items():
        if one.default is not None and hasattr(config, name):
            assert getattr(config, name) == one.default
    for one in APP_OPTIONS:
        assert getattr(only(config), one.name) == one.default


NOT_IN_THE_SAMPLE = {*SINGLE, "config", "secret", "pusher_secret_file"}
"""The file has [[apps]] for it."""


def test_the_sample_shows_every_option() -> None:
    text = sample()
    for name, one in OPTIONS.items():
        assert f"#{name} = " in text or name in NOT_IN_THE_SAMPLE
        assert one.sentence in text or name in NOT_IN_THE_SAMPLE


def test_the_table_has_a_row_for_every_option() -> None:
    rows = [line for line in options_table().splitlines() if line.startswith("| `--")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(f"--{name}" for name in OPTIONS)
    for one in OPTIONS.values():
        (row,) = [row for row in rows if row.startswith(f"| `--{one.name}` ")]
        assert all(f"`{variable}`" in row for variable in one.environment)
        assert all(f"`--{alias}`" in row for alias in one.aliases)


def test_ids_that_some_sdks_cannot_express_are_warned_of() -> None:
    config = resolve({"pusher_app_id": "my-app", "pusher_app_key": "key"}, SECRET_SET)
    assert config.warnings == (
        "app id 'my-app' is not a number: the Python SDK does not accept it, nor do the Go"
        " and Node SDKs when they are configured with a URL",
    )


def test_an_option_that_no_app_takes_is_warned_of() -> None:
    assert resolve({**FILE, "max_batch": "3"}, file=APPS).warnings == (
        "--max_batch (from the flag --max_batch) has no effect: it applies to the app of"
        " --pusher_app_id, which is not set; set it under [[apps]]",
    )
    single = {"pusher_app_id": "3", "pusher_app_key": "key"}
    assert resolve({**FILE, **single, "max_batch": "3"}, SECRET_SET, APPS).warnings == ()
    assert resolve({"max_batch": "3"}).warnings == ()


@pytest.mark.parametrize("text", ["10.0.0.0/33", "proxy.example", "10.0.0", "*"])
def test_proxies_are_addresses_and_networks(text: str) -> None:
    message = problem({**SINGLE, "trusted_proxies": f"127.0.0.1,fd00::/8,{text}"})
    assert message.startswith(f"--trusted_proxies: {text!r} is not an address or a network")
    assert resolve({"trusted_proxies": "127.0.0.1, ::1"}).trusted_proxies == (
        "127.0.0.1",
        "::1",
    )


# -- Settings that people bring ------------------------------------------------------------


def about(config: Config, *parts: str) -> list[str]:
    """The warnings that have one of *parts*."""
    return [one for one in config.warnings if any(part in one for part in parts)]


def test_an_unknown_variable_is_warned_of_with_the_nearest_known_one() -> None:
    environ = {"HELIOGRAPH_PROT": "9000", "HELIOGRAPH_XYZ": "1", "ANYCABLE_HOTS": "x", "PROT": "1"}
    assert about(resolve(environ=environ), "unknown environment variable") == [
        "ANYCABLE_HOTS: unknown environment variable, ignored; did you mean ANYCABLE_HOST?",
        "HELIOGRAPH_PROT: unknown environment variable, ignored; did you mean HELIOGRAPH_PORT?",
        "HELIOGRAPH_XYZ: unknown environment variable, ignored",
    ]


def test_what_kubernetes_sets_for_a_service_is_ignored_with_one_warning() -> None:
    """A Service that is called heliograph: its port is no port of ours."""
    environ = {
        "HELIOGRAPH_PORT": "tcp://10.0.0.1:8080",
        "HELIOGRAPH_SERVICE_HOST": "10.0.0.1",
        "HELIOGRAPH_SERVICE_PORT": "8080",
        "HELIOGRAPH_SERVICE_PORT_HTTP": "8080",
        "HELIOGRAPH_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "HELIOGRAPH_PORT_8080_TCP_PROTO": "tcp",
        "HELIOGRAPH_PORT_8080_TCP_PORT": "8080",
        "HELIOGRAPH_PORT_8080_TCP_ADDR": "10.0.0.1",
        "HELIOGRAPH_PUSHER_API_PORT": "tcp://10.0.0.2:8081",
        "ANYCABLE_PORT": "tcp://10.0.0.3:8080",
        "PORT": "9000",
    }
    config = resolve(environ=environ)
    assert (config.port, config.pusher_api_port) == (9000, None)
    (warning,) = about(config, "Kubernetes", "unknown")
    assert warning.startswith("ANYCABLE_PORT, HELIOGRAPH_PORT, HELIOGRAPH_PORT_8080_TCP and 7 more")


def test_a_port_that_is_misspelled_is_still_an_error() -> None:
    assert "--port" in problem(environ={"HELIOGRAPH_PORT": "http://10.0.0.1:8080"})


@pytest.mark.parametrize(
    ("variable", "value", "name", "read"),
    [
        ("ANYCABLE_ALLOWED_ORIGINS", "example.com", "allowed_origins", ("example.com",)),
        ("ANYCABLE_MAX_CONN", "9", "max_connections", 9),
    ],
)
def test_anycables_variables_of_an_app_are_read(
    variable: str, value: str, name: str, read: object
) -> None:
    assert getattr(only(resolve(SINGLE, {variable: value})), name) == read


@pytest.mark.parametrize(
    ("variable", "value", "name", "read"),
    [
        ("ANYCABLE_SHUTDOWN_DELAY", "3", "shutdown_delay", 3.0),
        ("ANYCABLE_LOG_LEVEL", "warn", "log_level", "warn"),
        ("ANYCABLE_LOG_FORMAT", "json", "log_format", "json"),
        ("ANYCABLE_DEBUG", "1", "debug", True),
        ("ANYCABLE_ENABLE_WS_COMPRESSION", "true", "enable_ws_compression", True),
        ("ANYCABLE_MAX_MESSAGE_SIZE", "70000", "max_message_bytes", 70000),
        ("ANYCABLE_WS_MAX_PENDING_SIZE", "70000", "max_write_buffer", 70000),
    ],
)
def test_anycables_variables_of_the_server_are_read(
    variable: str, value: str, name: str, read: object
) -> None:
    config = resolve(SINGLE, {variable: value})
    assert getattr(config, name) == read
    assert about(config, variable) == []


@pytest.mark.parametrize("prefix", ["SOKETI_", "REVERB_"])
def test_variables_of_another_server_alone_are_worth_one_hint(prefix: str) -> None:
    environ = {f"{prefix}APP_ID": "1", f"{prefix}APP_KEY": "k", f"{prefix}X": "", f"{prefix}Y": "1"}
    (hint,) = about(resolve(environ=environ), prefix)
    assert f"docs/coming-from/{prefix[:-1].lower()}.md" in hint
    assert about(resolve(environ={**environ, "PUSHER_APP_ID": "1"} | SECRETS), prefix) == []
    assert len(about(resolve(environ={**environ, "PORT": "80"}), prefix)) == 1


SECRETS = {"PUSHER_APP_KEY": "k", "PUSHER_APP_SECRET": "hidden-secret"}


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("norpc", "true"),
        ("broadcast_adapter", "http"),
        ("health_path", "/health"),
        ("pubsub", "none"),
        ("noauth", "false"),
        ("enats", "false"),
        ("rpc_host", "none"),
        ("disable_telemetry", "true"),
    ],
)
def test_a_flag_of_anycables_that_asks_for_what_is_so_anyway_is_silent(
    flag: str, value: str
) -> None:
    before = resolve(SINGLE).warnings
    assert resolve({**SINGLE, flag: value}).warnings == before
    assert resolve(SINGLE, {f"ANYCABLE_{flag.upper()}": value}).warnings == before


@pytest.mark.parametrize(
    "flag",
    [
        *("noauth", "broker", "presets", "history_limit", "history_ttl", "sessions_ttl"),
        *("presence_ttl", "jwt_secret", "jwt_param", "enforce_jwt", "streams_secret"),
        *("streams_whisper", "streams_presence", "public_streams"),
    ],
)
def test_what_is_not_supported_yet_is_ignored_with_a_warning(flag: str) -> None:
    value = "true" if BORROWED[flag].option.kind is bool else "hidden-secret"
    for flags, environ, name in (
        ({flag: value}, {}, f"--{flag}"),
        ({}, {f"ANYCABLE_{flag.upper()}": value}, f"ANYCABLE_{flag.upper()}"),
    ):
        (warning,) = about(resolve({**SINGLE, **flags}, environ), name)
        assert warning == f"{name}: not supported yet, ignored"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("redis_url", "redis://:hidden-secret@h/"),
        ("pubsub", "redis"),
        ("enats", "true"),
        ("broadcast_adapter", "http,redis"),
        ("nats_servers", "nats://h"),
    ],
)
def test_what_asks_for_shared_state_is_warned_of(flag: str, value: str) -> None:
    """Silence here would lose events."""
    for flags, environ in (({flag: value}, {}), ({}, {f"ANYCABLE_{flag.upper()}": value})):
        (warning,) = about(resolve({**SINGLE, **flags}, environ), "shares no state with others")
        assert "hidden-secret" not in warning


def test_settings_that_only_tune_anycable_are_ignored_with_a_warning() -> None:
    config = resolve({**SINGLE, "hub_gopool_size": "16"}, {"ANYCABLE_WS_WRITE_TIMEOUT": "2"})
    assert about(config, "there is no such setting") == [
        "--hub_gopool_size, ANYCABLE_WS_WRITE_TIMEOUT: there is no such setting here, ignored"
    ]


def test_anycables_intervals_are_not_pushers() -> None:
    config = resolve(SINGLE, {"ANYCABLE_PING_INTERVAL": "3", "ANYCABLE_PONG_TIMEOUT": "6"})
    assert (config.ping_interval, config.pong_timeout) == (25.0, 15.0)
    assert about(config, "ANYCABLE_PING_INTERVAL, ANYCABLE_PONG_TIMEOUT: not supported yet")


def test_no_flag_of_anycables_is_one_of_ours() -> None:
    names = {name for one in OPTIONS.values() for name in (one.name, *one.aliases)}
    assert not names & set(BORROWED)


# -- What does not go together -------------------------------------------------------------


@pytest.mark.parametrize("other", ["port", "pusher_api_port"])
def test_metrics_have_a_port_of_their_own(other: str) -> None:
    flags = {**SINGLE, other: "9000", "metrics_port": "9000"}
    assert problem(flags) == (
        f"--metrics_port: 9000 (from the flag --metrics_port) is also the port of"
        f" --{other} (from the flag --{other}); choose another port, or use --metrics"
    )


def test_clients_and_the_api_may_share_a_port_and_free_ones_are_never_the_same() -> None:
    resolve({**SINGLE, "port": "9000", "pusher_api_port": "9000", "metrics_port": "9001"})
    resolve({**SINGLE, "port": "0", "pusher_api_port": "0", "metrics_port": "0"})


@pytest.mark.parametrize("hosts", ["0.0.0.0,127.0.0.1", "::,::1", "::1,0.0.0.0,::"])
def test_all_addresses_and_one_of_them_are_not_both_listened_on(hosts: str) -> None:
    assert problem({**SINGLE, "host": hosts}).startswith("--host: ")
    resolve({**SINGLE, "host": "0.0.0.0,::"})
    resolve({**SINGLE, "host": "0.0.0.0,::1"})


def test_a_shared_port_has_no_webhooks() -> None:
    file = APPS.replace("[[apps]]", "reuse_port = true\n[[apps]]", 1)
    assert problem(FILE, file=file).startswith(
        "--reuse_port (from h.toml): the app '1' has webhooks"
    )
    assert problem({**FILE, "data_dir": "/tmp"}, file=file)
    resolve(FILE, file=file.replace("url =", "enabled = false\nurl =", 1))


# -- Origins -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("https://shop.example.com/", "https://shop.example.com"),
        ("https://Shop.Example.com:443", "https://shop.example.com"),
        ("http://example.com:80/", "http://example.com"),
        ("https://example.com:80", "https://example.com:80"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("[::1]", "[::1]"),
        ("example.com", "example.com"),
        ("example.com:443", "https://example.com"),
        ("example.com:80", "http://example.com"),
        ("localhost:*", "localhost:*"),
        ("*", "*"),
        ("*.example.com", "*.example.com"),
        ("https://*.example.com", "https://*.example.com"),
        ("*://example.com", "*://example.com"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("null", "null"),
        ("http://[0:0:0:0:0:0:0:1]:8000", "http://[::1]:8000"),
        ("http://a.example:080", "http://a.example"),
        ("file://*", "file://*"),
        ("app+electron://app", "app+electron://app"),
    ],
)
def test_origins_are_read_as_browsers_send_them(written: str, read: str) -> None:
    flags = {**SINGLE, "allowed_origins": written, "cors_allowed_origins": written}
    config = resolve(flags)
    assert (only(config).allowed_origins, config.cors_allowed_origins) == ((read,), (read,))


@pytest.mark.parametrize(
    "text",
    [
        *("https://example.com/page", "https://example.com?", "https://", "://example.com"),
        *("https://user@example.com", "::1", "http://::1", "https://exa mple.com", "https://a:b"),
        *("https://example.com//", "http://[::1", "http://a:99999", "http://[:::::]"),
    ],
)
@pytest.mark.parametrize("name", ["allowed_origins", "cors_allowed_origins"])
def test_an_entry_that_matches_no_origin_is_refused(name: str, text: str) -> None:
    assert problem({**SINGLE, name: text}).startswith(f"--{name}: ")


@given(st.sampled_from(["http", "https"]), st.sampled_from(["a.example", "[::1]", "10.0.0.1"]))
@example("https", "[2001:db8::1]")
def test_an_origin_that_a_browser_sends_is_an_entry_that_matches_it(scheme: str, host: str) -> None:
    for port in ("", ":8000"):
        origin = f"{scheme}://{host}{port}"
        for written in (origin, origin + "/", origin.upper(), host + port, host):
            entry = origins.entry(written)
            assert origins.entry(entry) == entry
            assert origins.origin_allowed(origin, (entry,)), written
