"""
What was asked for: options and apps, each value with where it came from.

A value of the configuration file gives way to one of the environment, and that to a flag.
Loading touches nothing but the file, and can be repeated.
"""

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heliograph import origins
from heliograph.config import borrowed, environment
from heliograph.config.app_tables import apps_of_file, check_identifier, list_of_tables
from heliograph.config.apps import APP_OPTIONS, App, AppKey, Apps
from heliograph.config.options import (
    LIMITS,
    PROTOCOL,
    SERVER,
    SINGLE_APP,
    WEBHOOKS,
    Option,
    option,
    options_of,
    suggestion,
)
from heliograph.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of the server."""

    config: str | None = option(
        None,
        "A TOML file with any of these options and any number of apps.",
        group=SERVER,
        aliases=("config_path",),
    )
    host: tuple[str, ...] = option(
        ("localhost",),
        "Addresses to listen on; 0.0.0.0 and :: are all addresses.",
        group=SERVER,
        environment=("ANYCABLE_HOST",),
    )
    port: int = option(
        8080,
        "Port for WebSockets and the HTTP API; 0 takes a free one.",
        group=SERVER,
        environment=("ANYCABLE_PORT", "PORT"),
        maximum=65535,
    )
    pusher_api_port: int | None = option(
        None,
        "Separate port for the HTTP API, for a private network; 0 takes a free one.",
        group=SERVER,
        environment=("ANYCABLE_PUSHER_API_PORT",),
        maximum=65535,
    )
    unix_socket: str | None = option(
        None, "Path of a Unix socket to listen on as well, for a proxy.", group=SERVER
    )
    unix_socket_mode: str = option("660", "Permissions of the Unix socket, in octal.", group=SERVER)
    reuse_port: bool = option(
        False,
        "Several servers may listen on the same port, so that one can replace another.",
        group=SERVER,
    )
    proxy_protocol: bool = option(
        False,
        "Every connection begins with a PROXY header (version 2) with the client's address.",
        group=SERVER,
    )
    shutdown_delay: float = option(
        0.0,
        "Seconds between SIGTERM, from when /ready answers 503, and the last accepted connection.",
        group=SERVER,
        unit="s",
        environment=("ANYCABLE_SHUTDOWN_DELAY",),
    )
    shutdown_timeout: float = option(
        10.0,
        "Seconds over which clients are then disconnected, evenly; 0 disconnects all at once.",
        group=SERVER,
        environment=("ANYCABLE_SHUTDOWN_TIMEOUT",),
        unit="s",
    )
    ssl_cert: str | None = option(
        None,
        "File with the TLS certificate and its chain, in PEM; SIGHUP reloads it.",
        group=SERVER,
        environment=("ANYCABLE_SSL_CERT",),
    )
    ssl_key: str | None = option(
        None,
        "File with the private key of that certificate, in PEM.",
        group=SERVER,
        environment=("ANYCABLE_SSL_KEY",),
    )
    path_prefix: str = option(
        "", "Path before /app and /apps, as a proxy may add it; it is not signed.", group=SERVER
    )
    cors_allowed_origins: tuple[str, ...] = option(
        (),
        "Origins whose pages may use the HTTP API (CORS); * matches anything, none when empty.",
        group=SERVER,
        each=origins.entry,
    )
    loop: str = option(
        "auto",
        "Event loop; auto is uvloop if it is installed.",
        group=SERVER,
        choices=("auto", "uvloop", "asyncio"),
    )
    metrics: bool = option(
        False,
        "Serves /metrics on the port of the HTTP API. Without a token, every client can read it.",
        group=SERVER,
    )
    metrics_port: int | None = option(
        None,
        "Separate port for /metrics, on the same addresses; 0 takes a free one.",
        group=SERVER,
        maximum=65535,
    )
    metrics_token: str | None = option(
        None, "Bearer token that requests for /metrics need.", group=SERVER, secret=True
    )
    log_format: str = option(
        "text",
        "Log lines as text, or as JSON objects.",
        group=SERVER,
        choices=("text", "json"),
        environment=("ANYCABLE_LOG_FORMAT",),
    )
    log_level: str = option(
        "info",
        "Lowest level that is logged.",
        group=SERVER,
        choices=("debug", "info", "warning", "warn", "error"),
        environment=("ANYCABLE_LOG_LEVEL",),
    )
    debug: bool = option(
        False,
        "Logs every message of every client, with secrets redacted.",
        group=SERVER,
        environment=("ANYCABLE_DEBUG",),
    )
    pusher_app_id: str | None = option(
        None,
        "The app's id. Some SDKs accept only decimal ids.",
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
        "The app's secret, for signatures. Default: the value of `secret`.",
        group=SINGLE_APP,
        environment=("ANYCABLE_PUSHER_SECRET", "PUSHER_APP_SECRET"),
        secret=True,
    )
    pusher_secret_file: str | None = option(
        None,
        "File with the app's secret on one line; SIGHUP reloads it.",
        group=SINGLE_APP,
        environment=("ANYCABLE_PUSHER_SECRET_FILE", "PUSHER_APP_SECRET_FILE"),
    )
    secret: str | None = option(
        None,
        "Default for every secret that is not given.",
        group=SINGLE_APP,
        environment=("ANYCABLE_SECRET",),
        secret=True,
    )
    activity_timeout: int = option(
        120,
        "Seconds of inactivity after which a client sends `pusher:ping`.",
        group=PROTOCOL,
        minimum=1,
        unit="s",
    )
    ping_interval: float = option(
        25.0,
        "Seconds of inactivity after which the server pings a client. Keep it below the idle"
        " time-outs of proxies.",
        group=PROTOCOL,
        minimum=0.1,
        unit="s",
    )
    pong_timeout: float = option(
        15.0, "Seconds that a client has to answer a ping.", group=PROTOCOL, minimum=0.1, unit="s"
    )
    lenient_protocol: bool = option(
        False, "Accepts clients without a protocol version, as version 7.", group=PROTOCOL
    )
    subscription_errors: bool = option(
        False,
        "Also sends `pusher_internal:subscription_error`, which the .NET client uses.",
        group=PROTOCOL,
    )
    enable_ws_compression: bool = option(
        False,
        "Compresses messages for clients that support it (permessage-deflate).",
        group=PROTOCOL,
        environment=("ANYCABLE_ENABLE_WS_COMPRESSION",),
    )
    ws_compression_threshold: int = option(
        512, "Bytes from which a message is compressed.", group=PROTOCOL
    )
    terminate_code: int = option(
        4009,
        "Close code for the connections of a terminated user.",
        group=PROTOCOL,
        minimum=4000,
        maximum=4299,
    )
    cache_ttl: float = option(
        1800.0,
        "Seconds that a cache channel keeps its last event.",
        group=PROTOCOL,
        minimum=1,
        unit="s",
    )
    max_message_bytes: int = option(
        131072,
        "Largest message of a client, in bytes; a larger one closes with 1009.",
        group=LIMITS,
        minimum=1024,
        environment=("ANYCABLE_MAX_MESSAGE_SIZE",),
        aliases=("max_message_size",),
    )
    max_write_buffer: int = option(
        1 << 20,
        "Unsent bytes after which a slow client is disconnected.",
        group=LIMITS,
        minimum=4096,
        environment=("ANYCABLE_WS_MAX_PENDING_SIZE",),
        aliases=("ws_max_pending_size",),
    )
    max_total_write_buffer: int = option(
        1 << 28,
        "Unsent bytes of all clients together after which the slowest are disconnected;"
        " 0 is no limit.",
        group=LIMITS,
    )
    max_messages_per_second: int = option(
        0,
        "Messages of one client per second, over ten seconds; more closes with 4100;"
        " 0 is no limit.",
        group=LIMITS,
    )
    max_connections_per_ip: int = option(
        0,
        "Connections of one IP address (IPv6: one /64), HTTP and WebSocket; 0 is no limit.",
        group=LIMITS,
    )
    trusted_proxies: tuple[str, ...] = option(
        (),
        "Addresses and networks of proxies whose X-Forwarded-For header is trusted.",
        group=LIMITS,
    )
    max_request_head_bytes: int = option(
        16384, "Largest request line and headers, in bytes.", group=LIMITS, minimum=1024
    )
    max_request_body_bytes: int = option(
        1 << 20, "Largest request body, in bytes.", group=LIMITS, minimum=1024
    )
    request_timeout: float = option(
        30.0,
        "Seconds that a client has to send a request or a message.",
        group=LIMITS,
        minimum=0.1,
        unit="s",
    )
    keep_alive_timeout: float = option(
        75.0,
        "Idle seconds after which an HTTP connection is closed.",
        group=LIMITS,
        minimum=0.1,
        unit="s",
    )
    data_dir: str | None = option(
        None,
        "Folder that keeps webhooks through a restart; without one they are kept in memory.",
        group=WEBHOOKS,
    )
    webhook_settle: float = option(
        30.0,
        "Seconds after a start in which clients may reconnect before webhooks report them as gone.",
        group=WEBHOOKS,
        unit="s",
    )


SERVER_OPTIONS = options_of(Settings)
OPTIONS = {one.name: one for one in (*SERVER_OPTIONS, *APP_OPTIONS)}

VARIABLES = frozenset(
    [variable for one in OPTIONS.values() for variable in one.variables] + [*borrowed.VARIABLES]
)
"""The environment variables that are read, or ignored for a reason."""

DEFAULT = "default"
MADE_UP = "generated: development mode"


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


def _mode_of_file(path: str) -> int:
    return Path(path).stat().st_mode


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    make_up: Callable[[], tuple[str, str, str]],
    read_file: Callable[[str], str] = _read_file,
    mode_of_file: Callable[[str], int] = _mode_of_file,
) -> Config:
    """
    Resolve the configuration. Raises ConfigError, whose one line names option and source.

    *flags* are the options given on the command line, those of AnyCable's included, and no others.
    *make_up* returns id, key and secret of the app of the development mode, which is for when none
    is configured.
    """
    environ, services = environment.without_services(environ)
    given = _Given({name: flags[name] for name in flags if name in OPTIONS}, environ)
    path = given.value("config")
    document = _document(path, read_file, given.source("config")) if path else {}
    tables = list_of_tables(document.pop("apps", []), f"{path}: apps")
    given.add_file(document, str(path))
    values = {name: given.value(name) for name in OPTIONS}
    _check_path_prefix(values["path_prefix"], given)
    _check_pair(values, given)
    _check_mode(values["unix_socket_mode"], given)
    _check_networks(values["trusted_proxies"], given)
    _check_ports(values, given)
    _check_hosts(values["host"], given)
    secrets = _SecretFiles(read_file, mode_of_file)
    apps = apps_of_file(tables, str(path), secrets.read)
    app_sources = {
        app.id: dict.fromkeys(table, str(path)) for app, table in zip(apps, tables, strict=True)
    }
    single = _single_app(given, values, secrets)
    development = not apps and single is None
    if development:
        for host in values["host"] or ("",):
            _check_local(host, given)
        single = _app(given, *make_up())
    if single is not None:
        _check_unlike(single, apps, given)
        apps.append(single)
        app_sources[single.id] = _sources_of_single(given, development=development)
    try:
        registry = Apps(apps)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    config = Config(
        **{one.name: values[one.name] for one in SERVER_OPTIONS},
        apps=registry,
        development=development,
        sources=given.sources,
        app_sources=app_sources,
        warnings=(
            *_warnings_of_ids(registry),
            *_warnings_of_idle(single, given),
            *_warnings_of_flags(given),
            *secrets.warnings,
            *borrowed.warnings(
                {name: str(value) for name, value in flags.items() if name not in OPTIONS}, environ
            ),
            *environment.warnings(environ, services, VARIABLES),
        ),
    )
    if config.reuse_port:
        check_shared_port(config)
    return config


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
                raise ConfigError(f"{path}: {name}: unknown option{suggestion(name, OPTIONS)}")
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
        reason = "the value is not a valid string" if one.secret else str(error)
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
        raise ConfigError(f"--config: {path} is not valid TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and what it lets pass: a number too long
        raise ConfigError(f"--config: {path} is not valid TOML: {error}") from None


class _SecretFiles:
    """Files with a secret each; *warnings* are of those that too many may read."""

    def __init__(self, read_file: Callable[[str], str], mode_of_file: Callable[[str], int]) -> None:
        self.warnings: list[str] = []
        self._read_file = read_file
        self._mode_of_file = mode_of_file

    def read(self, path: str, where: str) -> str:
        """Return the secret in the file *path*. Raises ConfigError, which says *where* it was."""
        try:
            text = self._read_file(path)
            mode = self._mode_of_file(path)
        except OSError as error:
            raise ConfigError(f"{where}: cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{where}: {path} is not UTF-8") from None
        secret = text.strip()
        if not secret:
            raise ConfigError(f"{where}: {path} is empty; it must contain the secret")
        if not secret.isprintable():
            raise ConfigError(f"{where}: {path} must contain only the secret, on one line")
        if mode & READABLE_BY_ANYBODY:
            self.warnings.append(
                f"{path} contains a secret, and every user of this machine can read it:"
                " run chmod o-r on it"
            )
        return secret


READABLE_BY_ANYBODY = 0o004


# -- Apps ----------------------------------------------------------------------------------


def _single_app(given: _Given, values: Mapping[str, Any], secrets: _SecretFiles) -> App | None:
    """Return the app that flags, environment or the top of the file describe, if they do."""
    own_secret = _own_secret(given, values, secrets)
    parts = {
        "pusher_app_id": values["pusher_app_id"],
        "pusher_app_key": values["pusher_app_key"],
        "pusher_secret": own_secret or values["secret"],
    }
    if not (parts["pusher_app_id"] or parts["pusher_app_key"] or own_secret):
        return None
    for name, value in parts.items():
        if not value:
            others = ", ".join(
                f"--{other} (from {given.source(other)})"
                for other in (*parts, "pusher_secret_file")
                if values[other]
            )
            raise ConfigError(f"--{name}: missing; it is required together with {others}")
    return _app(given, *parts.values())


def _own_secret(given: _Given, values: Mapping[str, Any], secrets: _SecretFiles) -> str | None:
    path: str | None = values["pusher_secret_file"]
    secret: str | None = values["pusher_secret"]
    if not path:
        return secret
    if secret:
        raise ConfigError(
            f"--pusher_secret_file (from {given.source('pusher_secret_file')}): --pusher_secret"
            f" (from {given.source('pusher_secret')}) is also set; remove one of them"
        )
    return secrets.read(path, f"--pusher_secret_file (from {given.source('pusher_secret_file')})")


def _app(given: _Given, app_id: str, key: str, secret: str) -> App:
    check_identifier(app_id, "--pusher_app_id")
    check_identifier(key, "--pusher_app_key")
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
        f"--{name}: {value!r} (from {given.source(name)}) is also used by the app {other.id!r}"
        f" in {given.value('config')}; choose another one"
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


def _check_path_prefix(prefix: str, given: _Given) -> None:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", prefix):
        raise ConfigError(
            f"--path_prefix: {prefix!r} is not a path such as /realtime"
            f" (from {given.source('path_prefix')})"
        )


def _check_mode(mode: str, given: _Given) -> None:
    if not re.fullmatch(r"0?[0-7]{3}", mode):
        raise ConfigError(
            f"--unix_socket_mode: {mode!r} is not a mode such as 660"
            f" (from {given.source('unix_socket_mode')})"
        )


def _check_pair(values: Mapping[str, Any], given: _Given) -> None:
    for one, other in (("ssl_cert", "ssl_key"), ("ssl_key", "ssl_cert")):
        if values[one] and not values[other]:
            raise ConfigError(
                f"--{other}: missing; it is required together with --{one}"
                f" (from {given.source(one)})"
            )


def _check_networks(texts: tuple[str, ...], given: _Given) -> None:
    for text in texts:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ConfigError(
                f"--trusted_proxies: {text!r} is not an address or a network such as"
                f" 10.0.0.0/8 (from {given.source('trusted_proxies')})"
            ) from None


def _check_hosts(hosts: tuple[str, ...], given: _Given) -> None:
    """All addresses, and one of them beside, would be listened on twice."""
    for everything, version in (("0.0.0.0", 4), ("::", 6)):  # noqa: S104 - not listened on here
        for host in hosts:
            try:
                address = ipaddress.ip_address(host)
            except ValueError:
                continue
            if everything in hosts and host != everything and address.version == version:
                raise ConfigError(
                    f"--host: {host} (from {given.source('host')}) is one of {everything}, which"
                    " stands beside it; take one of them out"
                )


PORTS = ("port", "pusher_api_port", "metrics_port")


def _check_ports(values: Mapping[str, Any], given: _Given) -> None:
    """Clients and the API may share a port, and are then served together; metrics may not."""
    metrics = values["metrics_port"]
    for name in PORTS[:-1]:
        if metrics and values[name] == metrics:
            raise ConfigError(
                f"--metrics_port: {metrics} (from {given.source('metrics_port')}) is also the port"
                f" of --{name} (from {given.source(name)}); choose another port, or use --metrics"
            )


def check_shared_port(config: Config) -> None:
    """
    Raise ConfigError where a server that shares its port has webhooks.

    Each of the processes would report channels and members as gone that are with the other one.
    """
    for app in config.apps:
        if any(webhook.enabled for webhook in app.webhooks):
            source = config.sources.get("reuse_port", DEFAULT)
            raise ConfigError(
                f"--reuse_port (from {source}): the app {app.id!r} has webhooks, and each process"
                " that shares the port would report channels and members as gone that are connected"
                " to the other process; remove --reuse_port or the webhooks"
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
            f"--host: {host!r} (from {given.source('host')}) needs an app; without an app the"
            " server is in development mode, which listens on localhost only; set --pusher_app_id,"
            " --pusher_app_key and --pusher_secret, or --config with [[apps]]"
        )


def _warnings_of_ids(apps: Apps) -> list[str]:
    return [
        f"app id {app.id!r} is not a number: the Python SDK does not accept it, nor do the Go and"
        " Node SDKs when they are configured with a URL"
        for app in apps
        if not (app.id.isascii() and app.id.isdigit())
    ]


def _warnings_of_idle(single: App | None, given: _Given) -> list[str]:
    """Options of an app change nothing for the apps of the file, which have their own."""
    return [
        f"--{one.name} (from {given.source(one.name)}) has no effect: it applies to the app of"
        " --pusher_app_id, which is not set; set it under [[apps]]"
        for one in APP_OPTIONS
        if single is None and one.name in given.sources
    ]


def _warnings_of_flags(given: _Given) -> list[str]:
    """What stands on the command line can be read by everybody who may list processes."""
    return [
        f"--{one.name} is on the command line, where every user of this machine can read it:"
        f" use {_instead_of_flag(one)}"
        for one in OPTIONS.values()
        if one.secret and given.source(one.name).startswith("the flag")
    ]


def _instead_of_flag(one: Option) -> str:
    file = f"{one.name}_file"
    return f"{one.variables[0]} or --{file}" if file in OPTIONS else one.variables[0]
