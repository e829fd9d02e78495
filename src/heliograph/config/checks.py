"""
The rules that a configuration must obey beyond the types and ranges of its values.

Each check takes a resolved configuration and raises ConfigError, which names the option or the
place in the file, the source where there are several, and no secret. `heliograph.prerequisites`
checks the prerequisites on the machine (certificate, event loop).
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from heliograph.config.apps import APP_OPTIONS, App, HistoryRule, Webhook
from heliograph.config.options import Option, in_full, suggestion
from heliograph.config.settings import BROKER_PRESET, OPTIONS, AppSource, Config
from heliograph.config.sources import flag_source
from heliograph.errors import ConfigError


def check(config: Config) -> None:
    """Raise ConfigError unless a server can be started with *config*."""
    for one in CHECKS:
        one(config)


def check_reload(config: Config, running: Config) -> None:
    """Raise ConfigError unless a server that was started with *running* can change to *config*."""
    for one in RELOAD_CHECKS:
        one(config, running)


def warnings(config: Config) -> list[str]:
    """Return a line for each thing in *config* that is valid, but probably a mistake."""
    return [line for one in WARNINGS for line in one(config)]


# -- Options -------------------------------------------------------------------------------


def check_path_prefix(config: Config) -> None:
    """The prefix is a path without a slash at its end."""
    prefix = config.http_requests.path_prefix
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", prefix):
        raise ConfigError(
            f"--path_prefix: {prefix!r} is not a path such as /realtime"
            f" (from {config.source('path_prefix')})"
        )


def check_certificate_and_key(config: Config) -> None:
    """A certificate has a key, and a key has a certificate."""
    for one, other in (("ssl_cert", "ssl_key"), ("ssl_key", "ssl_cert")):
        if config.value(one) and not config.value(other):
            raise ConfigError(
                f"--{other}: missing; it is required together with --{one}"
                f" (from {config.source(one)})"
            )


def check_unix_socket_mode(config: Config) -> None:
    """The permissions are octal."""
    mode = config.listening.unix_socket_mode
    if not re.fullmatch(r"0?[0-7]{3}", mode):
        raise ConfigError(
            f"--unix_socket_mode: {mode!r} is not a mode such as 660"
            f" (from {config.source('unix_socket_mode')})"
        )


def check_trusted_proxies(config: Config) -> None:
    """Proxies are addresses or networks, not names."""
    for text in config.connections.trusted_proxies:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ConfigError(
                f"--trusted_proxies: {text!r} is not an address or a network such as"
                f" 10.0.0.0/8 (from {config.source('trusted_proxies')})"
            ) from None


def check_metrics_port(config: Config) -> None:
    """Clients and the HTTP API can share a port; metrics have a port of their own."""
    port = config.monitoring.metrics_port
    for name in ("port", "pusher_api_port"):
        if port and config.value(name) == port:
            raise ConfigError(
                f"--metrics_port: {port} (from {config.source('metrics_port')}) is also the port"
                f" of --{name} (from {config.source(name)}); choose another port, or use --metrics"
            )


def check_hosts(config: Config) -> None:
    """The server does not listen on an address twice: once by itself, once as one of all."""
    hosts = config.listening.host
    for everything, version in (("0.0.0.0", 4), ("::", 6)):  # noqa: S104 - not listened on here
        for host in hosts:
            address = _address(host)
            if (
                everything in hosts
                and host != everything
                and address
                and address.version == version
            ):
                raise ConfigError(
                    f"--host: {host} (from {config.source('host')}) is one of {everything}, which"
                    " stands beside it; take one of them out"
                )


def check_host_names(config: Config) -> None:
    """Names of hosts are valid for the resolver: no label of them is empty or too long."""
    for host in config.listening.host:
        try:
            host.encode("idna")
        except UnicodeError:
            raise ConfigError(
                f"--host (from {config.source('host')}): {host!r} is not a valid host name"
            ) from None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


BROKERS = ("none", "memory")
SHARED_BROKERS = ("nats", "redis")
"""Brokers of AnyCable that several processes share."""


def check_broker(config: Config) -> None:
    """The broker is one that this server has."""
    broker = config.event_history.broker
    if broker is None or broker in BROKERS:
        return
    source = config.source("broker")
    if broker in SHARED_BROKERS:
        raise ConfigError(
            f"--broker: {broker!r} is not supported (from {source}): the server keeps events in its"
            " own memory; set memory, or none"
        )
    raise ConfigError(f"--broker: {broker!r} is not one of {', '.join(BROKERS)} (from {source})")


# -- Apps ----------------------------------------------------------------------------------

NOT_IN_IDENTIFIERS = "/?#:&+% "


def check_identifiers(config: Config) -> None:
    """Ids and keys can stand in a path, and keys before a colon; SDKs escape neither + nor %."""
    for app, source in config.sourced_apps():
        _check_identifier(app.id, _place(source, "id", "pusher_app_id"))
        for number, key in enumerate(app.keys):
            _check_identifier(key.key, _place(source, f"keys[{number}].key", "pusher_app_key"))


def _place(source: AppSource, key: str, option: str) -> str:
    """Return the place of an app's *key*, which the app of the options has from *option*."""
    return f"{source.place}.{key}" if source.place else f"--{option}"


def _check_identifier(text: str, where: str) -> None:
    if not text.isprintable() or any(mark in text for mark in NOT_IN_IDENTIFIERS):
        marks = " ".join(NOT_IN_IDENTIFIERS.strip())
        raise ConfigError(f"{where}: {text!r} must not contain spaces or any of {marks}")


def check_single_app(config: Config) -> None:
    """The app of the options has an id, a key and one secret."""
    app = config.single_app
    if app.pusher_secret and app.pusher_secret_file:
        raise ConfigError(
            f"--pusher_secret_file (from {config.source('pusher_secret_file')}): --pusher_secret"
            f" (from {config.source('pusher_secret')}) is also set; remove one of them"
        )
    if not app.described:
        return
    secret = app.pusher_secret or app.pusher_secret_file or app.secret
    parts = {
        "pusher_app_id": app.pusher_app_id,
        "pusher_app_key": app.pusher_app_key,
        "pusher_secret": secret,
    }
    for name, value in parts.items():
        if not value:
            others = ", ".join(
                f"--{other} (from {config.source(other)})"
                for other in (*parts, "pusher_secret_file")
                if config.value(other)
            )
            raise ConfigError(f"--{name}: missing; it is required together with {others}")


def check_development_hosts(config: Config) -> None:
    """A server in development mode, whose app has a secret that is printed, is local."""
    if not config.development:
        return
    for host in config.listening.host or ("",):
        address = _address(host)
        if host != "localhost" and not (address and address.is_loopback):
            raise ConfigError(
                f"--host: {host!r} (from {config.source('host')}) needs an app; without an app the"
                " server is in development mode, which listens on localhost only; set"
                " --pusher_app_id, --pusher_app_key and --pusher_secret, or --config with [[apps]]"
            )


def check_single_app_is_another(config: Config) -> None:
    """The app of the options shares neither its id nor its key with an app of the file."""
    apps = list(config.sourced_apps())
    for single in (app for app, source in apps if not source.place):
        for other in (app for app, source in apps if source.place):
            if other.id == single.id:
                raise _taken("pusher_app_id", single.id, other, config)
            for key in single.keys:
                if other.secret(key.key) is not None:
                    raise _taken("pusher_app_key", key.key, other, config)


def _taken(name: str, value: str, other: App, config: Config) -> ConfigError:
    return ConfigError(
        f"--{name}: {value!r} (from {config.source(name)}) is also used by the app {other.id!r}"
        f" in {config.config_file.config}; choose another one"
    )


def check_ids_and_keys(config: Config) -> None:
    """Apps share no id and no key. No secret is empty: every client could sign with that."""
    ids: set[str] = set()
    owners: dict[str, str] = {}
    for app, source in config.sourced_apps():
        where = f"{source.values['id']}: " if "id" in source.values else ""
        if app.id in ids:
            raise ConfigError(f"{where}two apps have the id {app.id!r}")
        ids.add(app.id)
        if not app.keys:
            raise ConfigError(f"{where}the app {app.id!r} has no key")
        for key in app.keys:
            if not key.secret:
                raise ConfigError(f"{where}the key {key.key!r} of the app {app.id!r} has no secret")
            if owners.get(key.key) == app.id:
                raise ConfigError(f"{where}the app {app.id!r} has the key {key.key!r} twice")
            if key.key in owners:
                raise ConfigError(
                    f"{where}the apps {owners[key.key]!r} and {app.id!r} have the same key"
                    f" {key.key!r}"
                )
            owners[key.key] = app.id


# -- History -------------------------------------------------------------------------------


def check_history(config: Config) -> None:
    """The rules of an app have different prefixes, and no rule sends more than it keeps."""
    for app, source in config.sourced_apps():
        prefixes: set[str] = set()
        for number, rule in enumerate(app.history):
            where = f"{source.place or 'app ' + repr(app.id)}.history[{number}]"
            if rule.prefix in prefixes:
                raise ConfigError(f"{where}.prefix: {rule.prefix!r} has a table already")
            prefixes.add(rule.prefix)
            if rule.prefix.startswith("#"):
                raise ConfigError(
                    f"{where}.prefix: only channels of users begin with #, such as {rule.prefix!r},"
                    " and their events are never kept"
                )
            _check_rewind(rule, f"{where}.rewind")


def _check_rewind(rule: HistoryRule, where: str) -> None:
    if rule.rewind_count > rule.limit:
        raise ConfigError(
            f"{where}: {rule.rewind_count} events are more than the limit of {rule.limit}"
        )
    if rule.rewind_s and not rule.limit:
        raise ConfigError(f"{where}: no events are kept, because the limit is 0")
    if rule.rewind_s > rule.ttl:
        raise ConfigError(
            f"{where}: {in_full(rule.rewind_s)} s are more than the ttl of {in_full(rule.ttl)} s"
        )


# -- Webhooks ------------------------------------------------------------------------------

_HEADER_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")

_OWN_HEADERS = frozenset(
    (
        *("content-type", "x-pusher-key", "x-pusher-signature", "x-heliograph-delivery"),
        *("connection", "content-encoding", "content-length", "expect", "host", "keep-alive"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    )
)
"""Headers that the server sets: those of a webhook's content, and those of its connection."""


def check_webhooks(config: Config) -> None:
    """
    A request can be sent to each webhook.

    Errors show nothing of a URL, which may contain a password, nor of a header's value.
    """
    for app, source in config.sourced_apps():
        for number, webhook in enumerate(app.webhooks):
            where = f"{source.place or 'app ' + repr(app.id)}.webhooks[{number}]"
            _check_url(webhook, f"{where}.url")
            for name, text in webhook.headers:
                _check_header(name, text, f"{where}.headers.{name}")


def _check_url(webhook: Webhook, where: str) -> None:
    url = webhook.url
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{where}: must begin with http:// or https://")
    if not url.isprintable() or " " in url:
        raise ConfigError(f"{where}: must not contain spaces or control characters")
    try:
        # Reading the port checks it. A password that contains a slash is refused here, too.
        valid = bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{where}: has no host, or an invalid port")


def _check_header(name: str, text: str, where: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise ConfigError(f"{where}: is not a valid header name")
    if name.lower() in _OWN_HEADERS:
        raise ConfigError(f"{where}: the server sets this header; remove it")
    if not text.isprintable():
        raise ConfigError(f"{where}: the value must be one line of printable characters")


def check_shared_port(config: Config) -> None:
    """A server that shares its port has no webhooks."""
    if config.listening.reuse_port:
        _refuse_webhooks(config)


def _refuse_webhooks(config: Config) -> None:
    for app in config.apps:
        if any(webhook.enabled for webhook in app.webhooks):
            raise ConfigError(
                f"--reuse_port (from {config.source('reuse_port')}): the app {app.id!r} has"
                " webhooks, and each process that shares the port would report channels and"
                " members as gone that are connected to the other process; remove --reuse_port"
                " or the webhooks"
            )


CHECKS: tuple[Callable[[Config], None], ...] = (
    check_path_prefix,
    check_certificate_and_key,
    check_unix_socket_mode,
    check_trusted_proxies,
    check_metrics_port,
    check_hosts,
    check_host_names,
    check_broker,
    check_identifiers,
    check_history,
    check_webhooks,
    check_single_app,
    check_development_hosts,
    check_single_app_is_another,
    check_ids_and_keys,
    check_shared_port,
)
"""In this order: of several mistakes, the first one is reported."""


# -- Changes of a running server -----------------------------------------------------------


def check_an_app_remains(config: Config, running: Config) -> None:
    """The app of the development mode does not replace the apps of a running server."""
    if config.development and not running.development:
        raise ConfigError(
            f"{config.config_file.config or 'the environment'}: no app is configured any more;"
            " keep at least one"
        )


def check_port_that_is_shared(config: Config, running: Config) -> None:
    """A server that shares its port gets no webhooks; whether it shares, only a restart changes."""
    if running.listening.reuse_port:
        _refuse_webhooks(config)


RELOAD_CHECKS: tuple[Callable[[Config, Config], None], ...] = (
    check_an_app_remains,
    check_port_that_is_shared,
)


# -- Warnings ------------------------------------------------------------------------------


def warn_of_ids(config: Config) -> Iterator[str]:
    """Some SDKs accept only numbers as ids."""
    for app in config.apps:
        if not (app.id.isascii() and app.id.isdigit()):
            yield (
                f"app id {app.id!r} is not a number: the Python SDK does not accept it, nor do the"
                " Go and Node SDKs when they are configured with a URL"
            )


def warn_of_options_without_app(config: Config) -> Iterator[str]:
    """Options of an app change nothing in the apps of the file, which have their own."""
    if config.development or config.single_app.described:
        return
    for one in APP_OPTIONS:
        if one.name in config.sources:
            yield (
                f"--{one.name} (from {config.source(one.name)}) has no effect: it applies to the"
                " app of --pusher_app_id, which is not set; set it under [[apps]]"
            )


SILENT_PRESETS = (BROKER_PRESET, "none")
PLATFORM_PRESETS = ("fly", "heroku")
"""AnyCable's presets for a platform, whose addresses and ports they set."""


def warn_of_presets(config: Config) -> Iterator[str]:
    """A preset that changes nothing may have set an address, or a port, for AnyCable."""
    for preset in config.event_history.presets:
        where = f"--presets (from {config.source('presets')}): {preset!r}"
        if preset in PLATFORM_PRESETS:
            yield f"{where} changes nothing here; set the options that it would set, such as --host"
        elif preset not in SILENT_PRESETS:
            yield f"{where} is unknown, ignored{suggestion(preset, SILENT_PRESETS)}"


def warn_of_history_without_channels(config: Config) -> Iterator[str]:
    """A limit of history, or its time to live, without a channel that keeps events."""
    if config.event_history.every or any(rule.limit for app in config.apps for rule in app.history):
        return
    for name in ("history_limit", "history_ttl"):
        if name in config.sources:
            yield (
                f"--{name} (from {config.source(name)}) has no effect: no channel has history; set"
                " --broker memory, or [[apps.history]] for some channels of an app"
            )


def warn_of_secrets_in_flags(config: Config) -> Iterator[str]:
    """Every user who can list processes can read a command line."""
    for one in OPTIONS.values():
        if one.secret and config.source(one.name) == flag_source(one):
            yield (
                f"--{one.name} is on the command line, where every user of this machine can read"
                f" it: use {_instead_of_flag(one)}"
            )


def _instead_of_flag(one: Option) -> str:
    file = f"{one.name}_file"
    return f"{one.variables[0]} or --{file}" if file in OPTIONS else one.variables[0]


WARNINGS: tuple[Callable[[Config], Iterator[str]], ...] = (
    warn_of_ids,
    warn_of_options_without_app,
    warn_of_presets,
    warn_of_history_without_channels,
    warn_of_secrets_in_flags,
)
