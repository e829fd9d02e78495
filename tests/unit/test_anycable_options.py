"""AnyCable's flags and variables: read, accepted, or ignored with a warning."""

import pytest

from heliograph.config.anycable_options import ANYCABLE_OPTIONS
from heliograph.config.settings import OPTIONS
from tests.unit.configurations import SINGLE, about, only, resolve


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
        *("noauth", "broker", "presets", "history_limit", "history_ttl", "sessions_ttl"),
        *("presence_ttl", "jwt_secret", "jwt_param", "enforce_jwt", "streams_secret"),
        *("streams_whisper", "streams_presence", "public_streams"),
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
