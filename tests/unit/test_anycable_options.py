"""AnyCable's flags and variables: read, accepted, or ignored with a warning."""

import pytest

from heliograph.config.anycable_options import ANYCABLE_OPTIONS
from heliograph.config.apps import HistoryRule
from heliograph.config.settings import OPTIONS
from tests.unit.configurations import ID_AND_KEY, SECRET_SET, SINGLE, about, only, problem, resolve


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
        ("ANYCABLE_BROKER", "memory", "broker", "memory"),
        ("ANYCABLE_PRESETS", "broker", "presets", ("broker",)),
    ],
)
def test_anycables_variables_of_the_server_are_read(
    variable: str, value: str, name: str, read: object
) -> None:
    config = resolve(SINGLE, {variable: value})
    assert config.value(name) == read
    assert about(config, variable) == []


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
        *("noauth", "sessions_ttl", "presence_ttl", "jwt_secret", "jwt_param", "enforce_jwt"),
        *("streams_secret", "streams_whisper", "streams_presence", "public_streams"),
    ],
)
def test_what_is_not_supported_yet_is_ignored_with_a_warning(flag: str) -> None:
    value = "true" if ANYCABLE_OPTIONS[flag].option.kind is bool else "hidden-secret"
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
    assert (config.connections.ping_interval, config.connections.pong_timeout) == (25.0, 15.0)
    assert about(config, "ANYCABLE_PING_INTERVAL, ANYCABLE_PONG_TIMEOUT: not supported yet")


def test_no_flag_of_anycables_is_one_of_ours() -> None:
    names = {name for one in OPTIONS.values() for name in (one.name, *one.aliases)}
    assert not names & set(ANYCABLE_OPTIONS)


# -- Presets and brokers -------------------------------------------------------------------


def test_a_limit_and_a_time_to_live_for_anycable_are_those_of_history() -> None:
    environ = {
        **SECRET_SET,
        "ANYCABLE_BROKER": "memory",
        "ANYCABLE_HISTORY_LIMIT": "7",
        "ANYCABLE_HISTORY_TTL": "60",
    }
    config = resolve(ID_AND_KEY, environ)
    assert config.event_history.every == HistoryRule(prefix="", limit=7, ttl=60.0)
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("broker", "presets", "on"),
    [
        ("", "", False),
        ("none", "", False),
        ("memory", "", True),
        ("", "broker", True),
        ("", "fly,broker", True),
        ("", "none", False),
        ("none", "broker", False),
        ("memory", "broker", True),
    ],
)
def test_a_preset_turns_history_on_unless_a_broker_is_set(
    broker: str, presets: str, on: bool
) -> None:
    for flags, environ in (
        ({"broker": broker, "presets": presets}, {}),
        ({}, {"ANYCABLE_BROKER": broker, "ANYCABLE_PRESETS": presets}),
    ):
        config = resolve({**SINGLE, **flags}, environ)
        assert (config.event_history.every is not None) is on
        assert about(config, "broker") == []


@pytest.mark.parametrize("broker", ["nats", "redis"])
def test_a_broker_that_processes_share_is_refused_with_the_reason(broker: str) -> None:
    reason = "the server keeps events in its own memory; set memory, or none"
    assert problem({**SINGLE, "broker": broker}) == (
        f"--broker: {broker!r} is not supported (from the flag --broker): {reason}"
    )
    assert problem(SINGLE, {"ANYCABLE_BROKER": broker}) == (
        f"--broker: {broker!r} is not supported (from the environment variable ANYCABLE_BROKER):"
        f" {reason}"
    )


def test_an_unknown_broker_is_refused() -> None:
    assert problem({**SINGLE, "broker": "memry"}) == (
        "--broker: 'memry' is not one of none, memory (from the flag --broker)"
    )


def test_a_preset_that_changes_nothing_is_warned_of() -> None:
    presets = "fly,heroku,brokr,x,none,broker"
    config = resolve({**ID_AND_KEY, "presets": presets}, SECRET_SET)
    where = "--presets (from the flag --presets)"
    nothing = "changes nothing here; set the options that it would set, such as --host"
    assert config.warnings == (
        f"{where}: 'fly' {nothing}",
        f"{where}: 'heroku' {nothing}",
        f"{where}: 'brokr' is unknown, ignored; did you mean broker?",
        f"{where}: 'x' is unknown, ignored",
    )
