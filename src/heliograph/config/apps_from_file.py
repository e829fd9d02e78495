"""
Apps of the configuration file: tables of TOML in, `App` out.

Knows the keys of a table and the type of each value. A mistake is a ConfigError that names its
place and shows no secret. The rules for values of the right type are in `checks`.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from heliograph.config.apps import (
    APP_OPTIONS,
    LARGEST_HISTORY_LIMIT,
    LONGEST_HISTORY_TTL_S,
    SHORTEST_HISTORY_TTL_S,
    WEBHOOK_KINDS,
    App,
    AppKey,
    HistoryRule,
    Webhook,
)
from heliograph.config.options import Option, suggestion
from heliograph.errors import ConfigError

ReadSecret = Callable[[str, str], str]
"""Takes the path of a file with a secret, and the place that names it, for errors."""


_LIMIT = Option(
    name="limit", kind=int, default=None, sentence="", group="", maximum=LARGEST_HISTORY_LIMIT
)
_TTL = Option(
    name="ttl",
    kind=float,
    default=None,
    sentence="",
    group="",
    minimum=SHORTEST_HISTORY_TTL_S,
    maximum=LONGEST_HISTORY_TTL_S,
)

_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def app_of_table(
    table: dict[str, Any], where: str, read_secret: ReadSecret, default_rule: HistoryRule
) -> App:
    """
    Return the app that *table* describes; *where* is its place in errors.

    *default_rule* has the values that a table under [[apps.history]] leaves out.
    """
    known = {one.name: one for one in APP_OPTIONS}
    for name in ("key", "secret", "secret_file"):
        if name in table:
            raise ConfigError(
                f"{where}.{name}: belongs under [[apps.keys]], because an app can have several keys"
            )
    _check_keys(table, (*known, "id", "keys", "webhooks", "history"), where)
    app_id = _text(table, "id", where)
    keys = tuple(
        _key_of_table(key, f"{where}.keys[{number}]", read_secret)
        for number, key in enumerate(list_of_tables(table.get("keys", []), f"{where}.keys"))
    )
    if not keys:
        raise ConfigError(f"{where}.keys: missing; an app needs at least one key with a secret")
    webhooks = tuple(
        _webhook_of_table(webhook, f"{where}.webhooks[{number}]")
        for number, webhook in enumerate(
            list_of_tables(table.get("webhooks", []), f"{where}.webhooks")
        )
    )
    history = tuple(
        _rule_of_table(rule, f"{where}.history[{number}]", default_rule)
        for number, rule in enumerate(list_of_tables(table.get("history", []), f"{where}.history"))
    )
    settings = {
        name: _parse_at(one, table[name], f"{where}.{name}")
        for name, one in known.items()
        if name in table
    }
    return App(id=app_id, keys=keys, webhooks=webhooks, history=history, **settings)


def _key_of_table(table: dict[str, Any], where: str, read_secret: ReadSecret) -> AppKey:
    _check_keys(table, ("key", "secret", "secret_file"), where)
    key = _text(table, "key", where)
    if "secret_file" in table:
        if "secret" in table:
            raise ConfigError(f"{where}.secret_file: set either secret_file or secret, not both")
        return AppKey(key, read_secret(_text(table, "secret_file", where), f"{where}.secret_file"))
    return AppKey(key, _text(table, "secret", where))


def _webhook_of_table(table: dict[str, Any], where: str) -> Webhook:
    _check_keys(table, [one.name for one in dataclasses.fields(Webhook)], where)
    url = _text(table, "url", where)
    events = table.get("events", list(WEBHOOK_KINDS))
    if not isinstance(events, list) or not events:
        raise ConfigError(
            f"{where}.events: must be a list with at least one of {', '.join(WEBHOOK_KINDS)}"
        )
    for kind in events:
        if kind not in WEBHOOK_KINDS:
            raise ConfigError(f"{where}.events: {kind!r} is not one of {', '.join(WEBHOOK_KINDS)}")
    prefix, enabled = table.get("channel_prefix", ""), table.get("enabled", True)
    if not isinstance(prefix, str):
        raise ConfigError(f"{where}.channel_prefix: must be a string")
    if not isinstance(enabled, bool):
        raise ConfigError(f"{where}.enabled: must be true or false")
    headers = _headers(table.get("headers", {}), f"{where}.headers")
    return Webhook(
        url=url, events=tuple(events), channel_prefix=prefix, headers=headers, enabled=enabled
    )


def _rule_of_table(table: dict[str, Any], where: str, default: HistoryRule) -> HistoryRule:
    _check_keys(table, ("prefix", "limit", "ttl", "rewind"), where)
    prefix = table.get("prefix")
    if not isinstance(prefix, str):
        raise ConfigError(
            f'{where}.prefix: missing or not a string; "" is the prefix of every channel'
        )
    count, seconds = _rewind(table.get("rewind", 0), f"{where}.rewind")
    return HistoryRule(
        prefix=prefix,
        limit=_parse_at(_LIMIT, table.get("limit", default.limit), f"{where}.limit"),
        ttl=_parse_at(_TTL, table.get("ttl", default.ttl), f"{where}.ttl"),
        rewind_count=count,
        rewind_s=seconds,
    )


def _rewind(value: object, where: str) -> tuple[int, float]:
    """Return the number of events, or the seconds, of which a new subscriber receives events."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value, 0.0
    if isinstance(value, str) and (found := _TIME.fullmatch(value)):
        number, unit = found.groups()
        return 0, float(number) * _SECONDS[unit]
    raise ConfigError(
        f'{where}: {value!r} is neither a number of events nor a time such as "30s" or "5m"'
    )


def _headers(value: object, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ConfigError(f"{where}: must be a table of strings")
    return tuple(value.items())


def _parse_at(one: Option, value: object, where: str) -> Any:
    try:
        return one.parse(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def list_of_tables(value: object, where: str) -> list[dict[str, Any]]:
    """Return *value* if it is an array of tables, as [[…]] makes it. Raises ConfigError."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        heading = re.sub(r"\[\d+\]", "", where.rpartition(" ")[2])
        raise ConfigError(f"{where}: must be one or more tables, each under [[{heading}]]")
    return value


def _check_keys(table: Mapping[str, Any], known: Any, where: str) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(f"{where}.{name}: unknown key{suggestion(name, known)}")


def _text(table: Mapping[str, Any], name: str, where: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}.{name}: missing, empty or not a string")
    if "\0" in value:
        raise ConfigError(f"{where}.{name}: contains a zero byte")
    return value
