"""Which channels keep events, as operators configure it: [[apps.history]] and the options."""

import pytest

from heliograph.config.apps import HistoryRule
from heliograph.config.checks import check_reload
from heliograph.config.settings import OPTIONS
from heliograph.config.show import describe
from tests.unit.configurations import (
    FILE,
    ID_AND_KEY,
    SECRET_SET,
    SINGLE,
    about,
    only,
    problem,
    resolve,
)

APP = """
[[apps]]
id = "1"
[[apps.keys]]
key = "k"
secret = "hidden-secret"
"""


def file(*tables: str) -> str:
    """Return a file with one app that has these tables under [[apps.history]]."""
    return APP + "".join(f"[[apps.history]]\n{table}\n" for table in tables)


def rules(*tables: str, **flags: str) -> tuple[HistoryRule, ...]:
    return only(resolve({**FILE, **flags}, file=file(*tables))).history


def refusal(*tables: str) -> str:
    message = problem(FILE, file=file(*tables))
    place, _, reason = message.partition("history[")
    assert place == "h.toml: apps[0]."
    return reason


def test_history_is_off_unless_it_is_turned_on() -> None:
    config = resolve({**FILE}, file=APP)
    assert config.event_history.every is None
    assert only(config).history == ()


def test_the_defaults_are_those_of_anycable() -> None:
    rule = resolve({"broker": "memory"}).event_history.every
    assert rule == HistoryRule(prefix="", limit=100, ttl=300.0)
    assert resolve().event_history.history_max_bytes == 64 << 20


def test_a_table_sets_the_rule_of_the_channels_with_a_prefix() -> None:
    table = 'prefix = "chat-"\nlimit = 50\nttl = 60\nrewind = 20'
    assert rules(table) == (HistoryRule(prefix="chat-", limit=50, ttl=60.0, rewind_count=20),)


def test_a_table_has_the_values_of_the_options_unless_it_sets_its_own() -> None:
    found = rules(
        'prefix = "a"', 'prefix = "b"\nlimit = 3', 'prefix = ""\nttl = 1.5',
        history_limit="7", history_ttl="90",
    )  # fmt: skip
    assert found == (
        HistoryRule(prefix="a", limit=7, ttl=90.0),
        HistoryRule(prefix="b", limit=3, ttl=90.0),
        HistoryRule(prefix="", limit=7, ttl=1.5),
    )


@pytest.mark.parametrize(
    ("rewind", "count", "seconds"),
    [
        ("0", 0, 0.0),
        ("100", 100, 0.0),
        ('"0s"', 0, 0.0),
        ('"30s"', 0, 30.0),
        ('"2.5s"', 0, 2.5),
        ('"5m"', 0, 300.0),
        ('"1h"', 0, 3600.0),
        ('"1d"', 0, 86400.0),
    ],
)
def test_a_rewind_is_a_number_of_events_or_a_time(rewind: str, count: int, seconds: float) -> None:
    (rule,) = rules(f'prefix = ""\nttl = 86400\nrewind = {rewind}')
    assert (rule.rewind_count, rule.rewind_s) == (count, seconds)


@pytest.mark.parametrize(
    "rewind",
    [
        *("-1", "true", "2.5", "[1]", '""', '"20"', '"s"', '"-5s"', '"5 s"', '"5S"', '"1e3s"'),
        *('"5s "', '"5w"', '"nans"', '"5ms"', '".5s"', '"\u0665s"'),
    ],
)
def test_a_rewind_that_is_neither_is_refused(rewind: str) -> None:
    message = refusal(f'prefix = ""\nrewind = {rewind}')
    assert message.startswith("0].rewind: ")
    assert message.endswith(' is neither a number of events nor a time such as "30s" or "5m"')


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("limit = 5\nrewind = 6", "6 events are more than the limit of 5"),
        ("rewind = 101", "101 events are more than the limit of 100"),
        ("limit = 0\nrewind = 1", "1 events are more than the limit of 0"),
        ('limit = 0\nrewind = "1s"', "no events are kept, because the limit is 0"),
        ('rewind = "301s"', "301 s are more than the ttl of 300 s"),
        ('ttl = 1.5\nrewind = "2s"', "2 s are more than the ttl of 1.5 s"),
    ],
)
def test_a_rewind_of_more_than_is_kept_is_refused(table: str, message: str) -> None:
    assert refusal(f'prefix = "a"\n{table}') == f"0].rewind: {message}"


def test_a_rewind_of_all_that_is_kept_is_accepted() -> None:
    assert rules('prefix = "a"\nlimit = 5\nrewind = 5')[0].rewind_count == 5
    assert rules('prefix = "a"\nttl = 60\nrewind = "1m"')[0].rewind_s == 60


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("limit = 5", 'prefix: missing or not a string; "" is the prefix of every channel'),
        ("prefix = 5", 'prefix: missing or not a string; "" is the prefix of every channel'),
        ('prefix = "a"\nlimit = -1', "limit: -1 is less than 0"),
        ('prefix = "a"\nlimit = 10001', "limit: 10001 is more than 10000"),
        ('prefix = "a"\nlimit = 2.5', "limit: 2.5 is not a whole number"),
        ('prefix = "a"\nttl = 0', "ttl: 0 is less than 0.001"),
        ('prefix = "a"\nttl = 2592001', "ttl: 2592001 is more than 2592000"),
        ('prefix = "a"\nttl = "5m"', "ttl: '5m' is not a number"),
        ('prefix = "a"\nlimits = 5', "limits: unknown key; did you mean limit?"),
        (
            'prefix = "#server-to-user-7"',
            "prefix: only channels of users begin with #, such as '#server-to-user-7', and their"
            " events are never kept",
        ),
        (
            'prefix = "#"',
            "prefix: only channels of users begin with #, such as '#', and their events are never"
            " kept",
        ),
    ],
)
def test_a_mistake_in_a_table_is_an_error_with_its_place(table: str, message: str) -> None:
    assert refusal(table) == f"0].{message}"


def test_two_tables_with_one_prefix_are_refused() -> None:
    assert refusal('prefix = "a"', 'prefix = "ab"', 'prefix = "a"\nlimit = 0') == (
        "2].prefix: 'a' has a table already"
    )


def test_two_apps_may_have_rules_for_one_prefix() -> None:
    other = file('prefix = ""').replace('"1"', '"2"').replace('"k"', '"other"')
    config = resolve(FILE, file=file('prefix = ""\nlimit = 3') + other)
    assert [[rule.limit for rule in app.history] for app in config.apps] == [[3], [100]]


def test_history_that_is_no_table_is_refused() -> None:
    assert problem(FILE, file=APP + "[apps.history]\nprefix = 'a'\n") == (
        "h.toml: apps[0].history: must be one or more tables, each under [[apps.history]]"
    )


# -- Limits of the options -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("history_limit", "1", "10000"),
        ("history_ttl", "0.001", "2592000"),
        ("history_max_bytes", "1048576", None),
    ],
)
def test_the_options_have_limits(name: str, least: str, most: str | None) -> None:
    for value in (least, most):
        if value is not None:
            assert resolve({name: value}).value(name) == float(value)
    below = str(float(least) / 2) if name == "history_ttl" else str(int(least) - 1)
    assert problem({name: below}).startswith(f"--{name}: {below} is less than {least} (")
    if most is not None:
        above = str(int(most) + 1)
        assert problem({name: above}).startswith(f"--{name}: {above} is more than {most} (")


def test_the_options_of_history_are_a_group_of_their_own() -> None:
    group = [one.name for one in OPTIONS.values() if one.group == "History"]
    assert group == ["broker", "presets", "history_limit", "history_ttl", "history_max_bytes"]


# -- Warnings, check-config and reloads ----------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("history_limit", "7"), ("history_ttl", "60")])
def test_a_limit_without_a_channel_that_has_history_is_warned_of(name: str, value: str) -> None:
    (line,) = about(resolve({**SINGLE, name: value}), "--history")
    assert line == (
        f"--{name} (from the flag --{name}) has no effect: no channel has history; set --broker"
        " memory, or [[apps.history]] for some channels of an app"
    )
    off = file('prefix = "a"\nlimit = 0')
    assert about(resolve({**FILE, name: value}, file=off), "--history") == [line]


@pytest.mark.parametrize("on", [{"broker": "memory"}, {"presets": "broker"}])
def test_limits_of_channels_that_have_history_are_not_warned_of(on: dict[str, str]) -> None:
    limits = {"history_limit": "7", "history_ttl": "60"}
    assert resolve({**ID_AND_KEY, **limits, **on}, SECRET_SET).warnings == ()
    assert resolve({**FILE, **limits}, file=file('prefix = "a"')).warnings == ()


def test_the_bound_of_all_events_is_not_warned_of_because_it_includes_cache_channels() -> None:
    flags = {**ID_AND_KEY, "history_max_bytes": "1048576"}
    assert resolve(flags, SECRET_SET).warnings == ()


def history_lines(*tables: str, **flags: str) -> list[str]:
    text = describe(resolve({**FILE, **flags}, file=file(*tables)))
    return [line for line in text.splitlines() if line.startswith("history = ")]


def test_check_config_shows_each_rule_with_its_source() -> None:
    found = history_lines(
        'prefix = "chat-"\nlimit = 50\nttl = 60\nrewind = 20',
        'prefix = "news-"\nrewind = "1.5m"',
        'prefix = "b"\nlimit = 0',
    )
    assert found == [
        'history = prefix: "chat-"; limit: 50; ttl: 60; rewind: 20    # h.toml',
        'history = prefix: "news-"; limit: 100; ttl: 300; rewind: 90s    # h.toml',
        'history = prefix: "b"; limit: 0    # h.toml',
    ]


@pytest.mark.parametrize("name", ["broker", "presets"])
def test_check_config_shows_the_rule_of_every_channel_unless_the_app_has_its_own(name: str) -> None:
    flags = {name: "memory" if name == "broker" else "broker"}
    chat = 'history = prefix: "chat-"; limit: 100; ttl: 300    # h.toml'
    every = f'history = prefix: ""; limit: 100; ttl: 300    # the flag --{name}'
    assert history_lines(**flags) == [every]
    assert history_lines('prefix = "chat-"', **flags) == [chat, every]
    assert history_lines('prefix = ""\nlimit = 5', **flags) == [
        'history = prefix: ""; limit: 5; ttl: 300    # h.toml'
    ]


def test_a_reload_may_change_the_rules_of_an_app() -> None:
    running = resolve(FILE, file=file('prefix = "a"'))
    check_reload(resolve(FILE, file=file('prefix = "b"\nlimit = 5')), running)
    check_reload(resolve(FILE, file=APP), running)
