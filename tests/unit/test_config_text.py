"""The configuration as operators read it: check-config, the sample, the tables, the snippets."""

import re
import tomllib

import pytest

from heliograph.cli.development import generate_app, snippets
from heliograph.config.apps import APP_OPTIONS
from heliograph.config.settings import OPTIONS, SERVER_OPTIONS
from heliograph.config.show import describe, options_table, sample
from tests.unit.configurations import APPS, FILE, SINGLE, only, resolve


def test_every_sdk_accepts_the_generated_app() -> None:
    app_id, key, secret = generate_app(lambda bits: (1 << bits) - 1)
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


def test_check_config_names_the_generated_app() -> None:
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
    for one in SERVER_OPTIONS:
        if one.default is not None:
            assert config.value(one.name) == one.default
    for one in APP_OPTIONS:
        assert getattr(only(config), one.name) == one.default


NOT_IN_THE_SAMPLE = {*SINGLE, "config", "secret", "pusher_secret_file"}


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
