"""
What was asked for: options and apps, each value with where it came from.

A value of the configuration file gives way to one of the environment, and that to a flag.
Loading touches nothing but the file, and can be repeated.
"""

import dataclasses
import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from heliograph.apps import WEBHOOK_KINDS, App, AppKey, Apps, Webhook
from heliograph.errors import ConfigError
from heliograph.options import (
    LIMITS,
    PROTOCOL,
    SERVER,
    SINGLE_APP,
    WEBHOOKS,
    Option,
    option,
    options_of,
    shown,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of the server."""

    config: str | None = option(
        None, "A TOML file with any of these options, and any number of apps.", group=SERVER
    )
    host: str = option(
        "localhost",
        "The address to listen on; 0.0.0.0 for all.",
        group=SERVER,
        environment=("ANYCABLE_HOST",),
    )
    port: int = option(
        8080,
        "The port for WebSockets and, unless it has its own, the HTTP API; 0 for any.",
        group=SERVER,
        environment=("ANYCABLE_PORT", "PORT"),
        maximum=65535,
    )
    pusher_api_port: int | None = option(
        None,
        "A port of its own for the HTTP API, to keep it in a private network.",
        group=SERVER,
        environment=("ANYCABLE_PUSHER_API_PORT",),
        maximum=65535,
    )
    path_prefix: str = option(
        "", "A path before /app and /apps, as a proxy may put there; not signed.", group=SERVER
    )
    loop: str = option(
        "auto",
        "The event loop: auto is uvloop where it exists.",
        group=SERVER,
        choices=("auto", "uvloop", "asyncio"),
    )
    log_level: str = option(
        "info",
        "The least that is logged.",
        group=SERVER,
        choices=("debug", "info", "warning", "error"),
    )
    debug: bool = option(False, "Log everything.", group=SERVER)
    pusher_app_id: str | None = option(
        None,
        "The app's id; decimal, or some SDKs cannot name it.",
        group=SINGLE_APP,
        environment=("ANYCABLE_PUSHER_APP_ID", "PUSHER_APP_ID"),
    )
    pusher_app_key: str | None = option(
        None,
        "The app's key, which clients connect with.",
        group=SINGLE_APP,
        environment=("ANYCABLE_PUSHER_APP_KEY", "PUSHER_APP_KEY"),
    )
    pusher_secret: str | None = option(
        None,
        "The app's secret, which signs; `secret` where it is not given.",
        group=SINGLE_APP,
        environment=("ANYCABLE_PUSHER_SECRET", "PUSHER_APP_SECRET"),
        secret=True,
    )
    secret: str | None = option(
        None,
        "A secret for everything that needs one and has none of its own.",
        group=SINGLE_APP,
        environment=("ANYCABLE_SECRET",),
        secret=True,
    )
    activity_timeout: int = option(
        120,
        "Silence after which clients are told to ask whether we are there.",
        group=PROTOCOL,
        minimum=1,
        unit="s",
    )
    ping_interval: float = option(
        60.0,
        "Silence after which we ask whether a client is there.",
        group=PROTOCOL,
        minimum=0.1,
        unit="s",
    )
    pong_timeout: float = option(
        15.0, "Time that a client has to answer.", group=PROTOCOL, minimum=0.1, unit="s"
    )
    lenient_protocol: bool = option(
        False, "Take clients that name no protocol version for the newest.", group=PROTOCOL
    )
    subscription_errors: bool = option(
        False,
        "Also send pusher_internal:subscription_error, which the .NET client knows.",
        group=PROTOCOL,
    )
    terminate_code: int = option(
        4009,
        "What connections of a terminated user are closed with.",
        group=PROTOCOL,
        minimum=4000,
        maximum=4299,
    )
    cache_ttl: float = option(
        1800.0,
        "How long a cache channel keeps its last event.",
        group=PROTOCOL,
        minimum=1,
        unit="s",
    )
    max_message_bytes: int = option(
        131072,
        "Size of a message of a client; a larger one closes with 1009.",
        group=LIMITS,
        minimum=1024,
    )
    max_write_buffer: int = option(
        1 << 20,
        "Bytes that may wait for a slow client before it is dropped.",
        group=LIMITS,
        minimum=4096,
    )
    max_request_head_bytes: int = option(
        16384, "Size of the head of an HTTP request.", group=LIMITS, minimum=1024
    )
    max_request_body_bytes: int = option(
        1 << 20, "Size of the body of an HTTP request.", group=LIMITS, minimum=1024
    )
    request_timeout: float = option(
        30.0, "Time that a client has to send a request.", group=LIMITS, minimum=0.1, unit="s"
    )
    keep_alive_timeout: float = option(
        75.0,
        "Idle time after which an HTTP connection is closed.",
        group=LIMITS,
        minimum=0.1,
        unit="s",
    )
    data_dir: str | None = option(
        None,
        "A folder where webhooks wait through a restart; without one they wait in memory.",
        group=WEBHOOKS,
    )
    webhook_settle: float = option(
        30.0,
        "Time after a start in which clients may come back before webhooks tell them gone.",
        group=WEBHOOKS,
        unit="s",
    )


SERVER_OPTIONS = options_of(Settings)
APP_OPTIONS = options_of(App)
OPTIONS = {one.name: one for one in (*SERVER_OPTIONS, *APP_OPTIONS)}

DEFAULT = "default"
MADE_UP = "made up: development mode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """
    Everything that a server is started with.

    *sources* says of each option where its value came from, *app_sources* the same of each app,
    by its id; what is not named there has its default. In *development*, the only app is made up.
    """

    apps: Apps = field(default_factory=Apps)
    development: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    app_sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def _read_file(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    make_up: Callable[[], tuple[str, str, str]],
    read_file: Callable[[str], str] = _read_file,
) -> Config:
    """
    Resolve the configuration. Raises ConfigError, whose one line names option and source.

    *flags* are the options given on the command line, and no others. *make_up* returns id, key
    and secret of the app of the development mode, which is for when none is configured.
    """
    given = _Given(flags, environ)
    path = given.value("config")
    document = _document(path, read_file, given.source("config")) if path else {}
    tables = _list_of_tables(document.pop("apps", []), f"{path}: apps")
    given.add_file(document, str(path))
    values = {name: given.value(name) for name in OPTIONS}
    _check_path_prefix(values["path_prefix"], given)
    apps = _apps_of_file(tables, str(path))
    app_sources = {
        app.id: dict.fromkeys(table, str(path)) for app, table in zip(apps, tables, strict=True)
    }
    single = _single_app(given, values)
    development = not apps and single is None
    if development:
        _check_local(values["host"], given)
        single = _app(given, *make_up())
    if single is not None:
        _check_unlike(single, apps, given)
        apps.append(single)
        app_sources[single.id] = _sources_of_single(given, development=development)
    try:
        registry = Apps(apps)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return Config(
        **{one.name: values[one.name] for one in SERVER_OPTIONS},
        apps=registry,
        development=development,
        sources=given.sources,
        app_sources=app_sources,
        warnings=(*_warnings_of_ids(registry), *_warnings_of_idle(single, given)),
    )


class _Given:
    """The values that were given, strongest source first; what was not given has its default."""

    def __init__(self, flags: Mapping[str, object], environ: Mapping[str, str]) -> None:
        self.sources: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        for name, value in flags.items():
            self._set(OPTIONS[name], value, f"the flag --{name}")
        for one in OPTIONS.values():
            for variable in one.variables:
                # A variable that is set to nothing is as good as none, as Compose files have them.
                if environ.get(variable):
                    self._set(one, environ[variable], f"the environment variable {variable}")

    def add_file(self, document: Mapping[str, Any], path: str) -> None:
        for name, value in document.items():
            if name not in OPTIONS or name == "config":
                raise ConfigError(f"{path}: {name}: unknown option{_suggestion(name, OPTIONS)}")
            self._set(OPTIONS[name], value, path)

    def _set(self, one: Option, value: object, source: str) -> None:
        if one.name in self.sources:
            return
        self._values[one.name] = parse(one, value, source)
        self.sources[one.name] = source

    def value(self, name: str) -> Any:
        return self._values.get(name, OPTIONS[name].default)

    def source(self, name: str) -> str:
        return self.sources.get(name, DEFAULT)


def parse(one: Option, value: object, source: str) -> Any:
    """Read *value* as the option wants it. Raises ConfigError that names option and *source*."""
    try:
        return one.parse(value)
    except ValueError as error:
        reason = "its value is of another kind" if one.secret else str(error)
        raise ConfigError(f"{one.flag}: {reason} (from {source})") from None


def _document(path: str, read_file: Callable[[str], str], source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_file(path))
    except OSError as error:
        raise ConfigError(
            f"--config: cannot read {path}: {error.strerror} (from {source})"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config: {path} is not UTF-8") from None
    except RecursionError:
        raise ConfigError(f"--config: {path} is not TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and what it lets pass: a number too long
        raise ConfigError(f"--config: {path} is not TOML: {error}") from None


def _suggestion(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


# -- Apps ----------------------------------------------------------------------------------


def _single_app(given: _Given, values: Mapping[str, Any]) -> App | None:
    """Return the app that flags, environment or the top of the file describe, if they do."""
    parts = {
        "pusher_app_id": values["pusher_app_id"],
        "pusher_app_key": values["pusher_app_key"],
        "pusher_secret": values["pusher_secret"] or values["secret"],
    }
    if not (parts["pusher_app_id"] or parts["pusher_app_key"] or values["pusher_secret"]):
        return None
    for name, value in parts.items():
        if not value:
            others = ", ".join(
                f"--{other} (from {given.source(other)})" for other in parts if values[other]
            )
            raise ConfigError(f"--{name}: missing, though {others} is given")
    return _app(given, *parts.values())


def _app(given: _Given, app_id: str, key: str, secret: str) -> App:
    _check_identifier(app_id, "--pusher_app_id")
    _check_identifier(key, "--pusher_app_key")
    settings = {one.name: given.value(one.name) for one in APP_OPTIONS}
    return App(id=app_id, keys=(AppKey(key, secret),), **settings)


def _check_unlike(single: App, others: list[App], given: _Given) -> None:
    (key,) = single.keys
    for other in others:
        if other.id == single.id:
            _refuse_taken("pusher_app_id", single.id, other, given)
        if other.secret(key.key) is not None:
            _refuse_taken("pusher_app_key", key.key, other, given)


def _refuse_taken(name: str, value: str, other: App, given: _Given) -> None:
    raise ConfigError(
        f"--{name}: {value!r} (from {given.source(name)}) is that of the app {other.id!r}"
        f" of {given.value('config')}, too"
    )


def _sources_of_single(given: _Given, *, development: bool) -> dict[str, str]:
    sources = {
        one.name: given.sources[one.name] for one in APP_OPTIONS if one.name in given.sources
    }
    if development:
        return {**sources, "id": MADE_UP, "keys": MADE_UP}
    return {
        **sources,
        "id": given.source("pusher_app_id"),
        "keys": given.source("pusher_app_key"),
    }


def _apps_of_file(tables: list[dict[str, Any]], path: str) -> list[App]:
    return [_app_of_table(table, f"{path}: apps[{number}]") for number, table in enumerate(tables)]


def _app_of_table(table: dict[str, Any], where: str) -> App:
    known = {one.name: one for one in APP_OPTIONS}
    _check_keys(table, (*known, "id", "keys", "webhooks"), where)
    app_id = _text(table, "id", where)
    _check_identifier(app_id, f"{where}.id")
    keys = tuple(
        _key_of_table(key, f"{where}.keys[{number}]")
        for number, key in enumerate(_list_of_tables(table.get("keys", []), f"{where}.keys"))
    )
    if not keys:
        raise ConfigError(f"{where}.keys: missing; an app needs a key with a secret")
    webhooks = tuple(
        _webhook_of_table(webhook, f"{where}.webhooks[{number}]")
        for number, webhook in enumerate(
            _list_of_tables(table.get("webhooks", []), f"{where}.webhooks")
        )
    )
    settings = {
        name: _parse_at(one, table[name], f"{where}.{name}")
        for name, one in known.items()
        if name in table
    }
    return App(id=app_id, keys=keys, webhooks=webhooks, **settings)


def _key_of_table(table: dict[str, Any], where: str) -> AppKey:
    _check_keys(table, ("key", "secret"), where)
    key = _text(table, "key", where)
    _check_identifier(key, f"{where}.key")
    return AppKey(key, _text(table, "secret", where))


def _webhook_of_table(table: dict[str, Any], where: str) -> Webhook:
    _check_keys(table, [one.name for one in dataclasses.fields(Webhook)], where)
    url = _text(table, "url", where)
    _check_url(url, f"{where}.url")
    events = table.get("events", list(WEBHOOK_KINDS))
    if not isinstance(events, list) or not events:
        raise ConfigError(f"{where}.events: must be a list of {', '.join(WEBHOOK_KINDS)}")
    for kind in events:
        if kind not in WEBHOOK_KINDS:
            raise ConfigError(f"{where}.events: {kind!r} is none of {', '.join(WEBHOOK_KINDS)}")
    prefix, enabled = table.get("channel_prefix", ""), table.get("enabled", True)
    if not isinstance(prefix, str):
        raise ConfigError(f"{where}.channel_prefix: must be a text")
    if not isinstance(enabled, bool):
        raise ConfigError(f"{where}.enabled: must be true or false")
    headers = _headers(table.get("headers", {}), f"{where}.headers")
    return Webhook(
        url=url, events=tuple(events), channel_prefix=prefix, headers=headers, enabled=enabled
    )


def _headers(value: object, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ConfigError(f"{where}: must be a table of texts")
    for name, text in value.items():
        if not name or not (name + text).isprintable() or ":" in name:
            raise ConfigError(f"{where}.{name}: is no header that fits on a line")
    return tuple(value.items())


def _parse_at(one: Option, value: object, where: str) -> Any:
    try:
        return one.parse(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _list_of_tables(value: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        heading = re.sub(r"\[\d+\]", "", where.rpartition(" ")[2])
        raise ConfigError(f"{where}: must be tables, each under [[{heading}]]")
    return value


def _check_keys(table: Mapping[str, Any], known: Any, where: str) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(f"{where}.{name}: unknown key{_suggestion(name, known)}")


def _text(table: Mapping[str, Any], name: str, where: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}.{name}: missing; it must be a text that is not empty")
    return value


def _check_identifier(text: str, where: str) -> None:
    """Ids and keys stand in paths, and keys before a colon."""
    if not text.isprintable() or any(mark in text for mark in "/?#:& "):
        raise ConfigError(f"{where}: {text!r} may hold neither blanks nor any of / ? # : &")


def _check_url(url: str, where: str) -> None:
    """A URL that is refused is not shown: it may hold a password."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{where}: must begin with http:// or https://")
    if not url.isprintable() or " " in url:
        raise ConfigError(f"{where}: may hold no blanks")
    try:
        # Reading the port checks it. A password with a slash in it ends up here, too.
        named = bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:
        named = False
    if not named:
        raise ConfigError(f"{where}: names no host, or no port that exists")


def _check_path_prefix(prefix: str, given: _Given) -> None:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", prefix):
        raise ConfigError(
            f"--path_prefix: {prefix!r} is no path such as /realtime"
            f" (from {given.source('path_prefix')})"
        )


def _check_local(host: str, given: _Given) -> None:
    local = host == "localhost"
    if not local:
        try:
            local = ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = False
    if not local:
        raise ConfigError(
            f"--host: {host!r} (from {given.source('host')}) needs an app; without one the server"
            " is in development mode, which is for localhost only (give --pusher_app_id,"
            " --pusher_app_key and --pusher_secret, or a --config with [[apps]])"
        )


def _warnings_of_ids(apps: Apps) -> list[str]:
    return [
        f"app id {app.id!r} is not a number: the Python, Go and Node SDKs cannot express it"
        for app in apps
        if not (app.id.isascii() and app.id.isdigit())
    ]


def _warnings_of_idle(single: App | None, given: _Given) -> list[str]:
    """Options of an app change nothing for the apps of the file, which have their own."""
    return [
        f"--{one.name} (from {given.source(one.name)}) is for the app of the command line,"
        " and there is none"
        for one in APP_OPTIONS
        if single is None and one.name in given.sources
    ]


# -- What people are shown -----------------------------------------------------------------


def options_table() -> str:
    """Return the options as a table in Markdown, for the README."""
    lines = ["| option | environment | default | what it is |", "|---|---|---|---|"]
    for one in OPTIONS.values():
        variables = ", ".join(f"`{variable}`" for variable in one.variables)
        default = shown(one, one.default)
        if default and one.unit:
            default += f" {one.unit}"
        cell = f"`{default}`" if default else ""
        lines.append(f"| `{one.flag}` | {variables} | {cell} | {one.sentence} |")
    return "\n".join(lines) + "\n"


def describe(config: Config) -> str:
    """Return the resolved configuration, secrets hidden, and where each value came from."""
    lines = [_line(one, config, config.sources) for one in SERVER_OPTIONS]
    for app in config.apps:
        sources = config.app_sources.get(app.id, {})
        lines += ["", "[[apps]]", f"id = {app.id}    # {sources.get('id', DEFAULT)}"]
        lines += [
            f"key = {key.key}, secret = (hidden)    # {sources.get('keys', DEFAULT)}"
            for key in app.keys
        ]
        lines += [_line(one, app, sources) for one in APP_OPTIONS]
        lines += [
            f"webhook = {_described(hook)}    # {sources.get('webhooks', DEFAULT)}"
            for hook in app.webhooks
        ]
    return "\n".join(lines) + "\n"


def _line(one: Option, holder: object, sources: Mapping[str, str]) -> str:
    value = shown(one, getattr(holder, one.name)) or "(none)"
    return f"{one.name} = {value}    # {sources.get(one.name, DEFAULT)}"


def _described(webhook: Webhook) -> str:
    """No more of a URL than its host, and no header's value: the rest may be a secret."""
    url = urlsplit(webhook.url)
    parts = [
        f"{url.scheme}://{url.netloc.rpartition('@')[2]}",
        f"events: {', '.join(webhook.events)}",
    ]
    if webhook.channel_prefix:
        parts.append(f"channel_prefix: {webhook.channel_prefix}")
    if webhook.headers:
        parts.append(f"headers: {', '.join(name for name, _ in webhook.headers)}")
    return "; ".join(parts if webhook.enabled else [*parts, "disabled"])


def sample() -> str:
    """Return a configuration file with every option, commented out."""
    lines = [
        "# Heliograph's configuration. Every line that is commented out shows its default.",
        "# Environment variables and flags of the same names are stronger than this file.",
    ]
    for group in (SERVER, PROTOCOL, LIMITS, WEBHOOKS):
        lines += ["", f"# -- {group} " + "-" * (80 - len(group))]
        for one in SERVER_OPTIONS:
            if one.group == group and one.name != "config":
                lines += ["", f"# {one.sentence}", f"#{one.name} = {_toml(one)}"]
    lines += [
        "",
        "# -- Apps " + "-" * 76,
        "# As many as you like, each with as many keys as you like, so that they can be changed.",
        "",
        "#[[apps]]",
        '#id = "1"',
    ]
    for one in APP_OPTIONS:
        lines += [f"# {one.sentence}", f"#{one.name} = {_toml(one)}"]
    lines += [
        "",
        "#[[apps.keys]]",
        '#key = "my-app-key"',
        '#secret = "my-app-secret"',
        "",
        "#[[apps.webhooks]]",
        '#url = "http://localhost:8000/webhooks"',
        f"#events = [{', '.join(repr(kind) for kind in WEBHOOK_KINDS)}]",
        '#channel_prefix = ""',
        "#headers = {}",
        "#enabled = true",
    ]
    return "\n".join(lines) + "\n"


def _toml(one: Option) -> str:
    if one.default is None:
        return "8081" if one.kind is int else '""'
    if one.kind is tuple:
        return "[]"
    text = shown(one, one.default)
    return f'"{text}"' if one.kind is str else text
