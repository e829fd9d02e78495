"""
The settings of a server, by part, and `Config`, which has all of them.

A part has the settings that one package reads. Knows no source of a value, and checks nothing: see
`sources`, `checks` and `load`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, Self, get_type_hints

from heliograph import origins
from heliograph.config.apps import (
    APP_OPTIONS,
    LARGEST_HISTORY_LIMIT,
    LONGEST_HISTORY_TTL_S,
    SHORTEST_HISTORY_TTL_S,
    App,
    Apps,
    HistoryRule,
)
from heliograph.config.options import (
    HISTORY,
    LIMITS,
    PROTOCOL,
    SERVER,
    SINGLE_APP,
    WEBHOOKS,
    in_order,
    option,
    options_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFileSettings:
    """The configuration file."""

    config: str | None = option(
        None,
        "A TOML file with any of these options and any number of apps.",
        group=SERVER,
        aliases=("config_path",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """Where the server listens."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownSettings:
    """How the server disconnects its clients when it stops."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSettings:
    """The TLS certificate."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PusherSettings:
    """Pusher's protocol."""

    activity_timeout: int = option(
        120,
        "Seconds of inactivity after which a client sends `pusher:ping`.",
        group=PROTOCOL,
        minimum=1,
        unit="s",
    )
    lenient_protocol: bool = option(
        False, "Accepts clients without a protocol version, as version 7.", group=PROTOCOL
    )
    subscription_errors: bool = option(
        False,
        "Also sends `pusher_internal:subscription_error`, which the .NET client uses.",
        group=PROTOCOL,
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


BROKER_PRESET = "broker"
"""The preset of AnyCable that turns history on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySettings:
    """Channels that keep events, for clients that were away: how many, and for how long."""

    broker: str | None = option(
        None,
        "`memory` keeps events of every channel, `none` only of those that [[apps.history]] names.",
        group=HISTORY,
        environment=("ANYCABLE_BROKER",),
    )
    presets: tuple[str, ...] = option(
        (),
        "AnyCable's presets: `broker` is --broker memory, unless --broker is set.",
        group=HISTORY,
        environment=("ANYCABLE_PRESETS",),
    )
    history_limit: int = option(
        100,
        "The last events that a channel with history keeps.",
        group=HISTORY,
        environment=("ANYCABLE_HISTORY_LIMIT",),
        minimum=1,
        maximum=LARGEST_HISTORY_LIMIT,
    )
    history_ttl: float = option(
        300.0,
        "Seconds that it keeps each of them.",
        group=HISTORY,
        environment=("ANYCABLE_HISTORY_TTL",),
        minimum=SHORTEST_HISTORY_TTL_S,
        maximum=LONGEST_HISTORY_TTL_S,
        unit="s",
    )
    history_max_bytes: int = option(
        64 << 20,
        "Bytes of all kept events together; above, those of the channels that were quiet the"
        " longest are dropped first.",
        group=HISTORY,
        minimum=1 << 20,
    )

    @property
    def default_rule(self) -> HistoryRule:
        """The rule of a channel with history, unless [[apps.history]] sets another one."""
        return HistoryRule(prefix="", limit=self.history_limit, ttl=self.history_ttl)

    @property
    def every(self) -> HistoryRule | None:
        """The rule of the channels that no [[apps.history]] names, if they have history."""
        on = self.broker == "memory" or (self.broker is None and BROKER_PRESET in self.presets)
        return self.default_rule if on else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """Connections: deadlines, limits and buffers of each client. All that `net` needs."""

    ping_interval: float = option(
        25.0,
        "Seconds of inactivity after which the server pings a client. Keep it below the idle"
        " time-outs of proxies.",
        group=PROTOCOL,
        minimum=0.1,
        unit="s",
        follows="activity_timeout",
    )
    pong_timeout: float = option(
        15.0, "Seconds that a client has to answer a ping.", group=PROTOCOL, minimum=0.1, unit="s"
    )
    enable_ws_compression: bool = option(
        False,
        "Compresses messages for clients that support it (permessage-deflate).",
        group=PROTOCOL,
        environment=("ANYCABLE_ENABLE_WS_COMPRESSION",),
        follows="subscription_errors",
    )
    ws_compression_threshold: int = option(
        512, "Bytes from which a message is compressed.", group=PROTOCOL
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """HTTP requests: their paths and sizes, and which pages may send them."""

    path_prefix: str = option(
        "", "Path before /app and /apps, as a proxy may add it; it is not signed.", group=SERVER
    )
    cors_allowed_origins: tuple[str, ...] = option(
        (),
        "Origins whose pages may use the HTTP API (CORS); * matches anything, none when empty.",
        group=SERVER,
        each=origins.entry,
    )
    max_request_head_bytes: int = option(
        16384,
        "Largest request line and headers, in bytes.",
        group=LIMITS,
        minimum=1024,
        follows="trusted_proxies",
    )
    max_request_body_bytes: int = option(
        1 << 20, "Largest request body, in bytes.", group=LIMITS, minimum=1024
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLoopSettings:
    """The event loop."""

    loop: str = option(
        "auto",
        "Event loop; auto is uvloop if it is installed.",
        group=SERVER,
        choices=("auto", "uvloop", "asyncio"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringSettings:
    """The metrics page."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The log."""

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

    @property
    def lowest_level(self) -> str:
        """The lowest level that is logged; `debug` overrides `log_level`."""
        return "debug" if self.debug else self.log_level


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleAppSettings:
    """Id, key and secret of the app that options configure; the file can have others."""

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

    @property
    def described(self) -> bool:
        """Whether options describe an app, in part at least. `secret` has other uses, too."""
        return any(
            (self.pusher_app_id, self.pusher_app_key, self.pusher_secret, self.pusher_secret_file)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Delivery of webhooks."""

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


DEFAULT = "default"
GENERATED = "generated: development mode"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSource:
    """
    Where an app comes from.

    *values* has the source of each of its values, by name; a value that is not there has its
    default. *place* is the app's place in errors, such as ``h.toml: apps[0]``; the app of the
    options has none.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    place: str = ""

    def source(self, name: str) -> str:
        """Return the source of the app's value *name*."""
        return self.values.get(name, DEFAULT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """
    The configuration of a server: the settings of each part, and the apps.

    *sources* has the source of each option, by name; an option that is not there has its default.
    *app_sources* has the sources of the apps, in their order. In *development*, the only app was
    generated. *warnings* are for the log.
    """

    config_file: ConfigFileSettings = field(default_factory=ConfigFileSettings)
    listening: ListenSettings = field(default_factory=ListenSettings)
    shutdown: ShutdownSettings = field(default_factory=ShutdownSettings)
    certificate: CertificateSettings = field(default_factory=CertificateSettings)
    pusher_protocol: PusherSettings = field(default_factory=PusherSettings)
    event_history: HistorySettings = field(default_factory=HistorySettings)
    connections: ConnectionSettings = field(default_factory=ConnectionSettings)
    http_requests: RequestSettings = field(default_factory=RequestSettings)
    event_loop: EventLoopSettings = field(default_factory=EventLoopSettings)
    monitoring: MonitoringSettings = field(default_factory=MonitoringSettings)
    log_output: LogSettings = field(default_factory=LogSettings)
    single_app: SingleAppSettings = field(default_factory=SingleAppSettings)
    webhook_delivery: WebhookSettings = field(default_factory=WebhookSettings)
    apps: Apps = field(default_factory=Apps)
    development: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    app_sources: tuple[AppSource, ...] = ()
    warnings: tuple[str, ...] = ()

    def value(self, name: str) -> Any:
        """Return the value of the option *name*."""
        return getattr(getattr(self, PART_OF[name]), name)

    def source(self, name: str) -> str:
        """Return the source of the value of the option *name*."""
        return self.sources.get(name, DEFAULT)

    def sourced_apps(self) -> Iterator[tuple[App, AppSource]]:
        """Return each app with its source; apps that were set without one have only a place."""
        for number, app in enumerate(self.apps):
            known = number < len(self.app_sources)
            yield app, self.app_sources[number] if known else AppSource(place=f"apps[{number}]")

    def with_values(self, **values: Any) -> Self:
        """
        Return this configuration with other *values*, of options or of its own fields.

        Values have the type of their option; nothing is parsed or checked. *apps* come without
        their sources, unless *app_sources* are set as well.
        """
        changed: dict[str, Any] = {} if "apps" not in values else {"app_sources": ()}
        settings: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name in PART_OF:
                settings.setdefault(PART_OF[name], {})[name] = value
            else:
                changed[name] = value
        for part, of_part in settings.items():
            changed[part] = replace(getattr(self, part), **of_part)
        return replace(self, **changed)


PARTS: Mapping[str, type] = {
    name: kind
    for name, kind in get_type_hints(Config).items()
    if isinstance(kind, type) and is_dataclass(kind)
}
"""The classes of the parts, by their field of Config."""

PART_OF: Mapping[str, str] = {
    one.name: name for name, settings in PARTS.items() for one in options_of(settings)
}
"""The field of Config that has an option, by the option's name."""

SERVER_OPTIONS = in_order(options_of(settings) for settings in PARTS.values())
OPTIONS = {one.name: one for one in (*SERVER_OPTIONS, *APP_OPTIONS)}
