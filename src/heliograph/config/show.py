"""The configuration as text: the tables of options, the sample file, the resolved values."""

from typing import Any
from urllib.parse import urlsplit

from heliograph.config.apps import APP_OPTIONS, WEBHOOK_KINDS, HistoryRule, Webhook
from heliograph.config.options import (
    HISTORY,
    LIMITS,
    PROTOCOL,
    SERVER,
    SINGLE_APP,
    WEBHOOKS,
    Option,
    in_full,
    text_of,
)
from heliograph.config.settings import OPTIONS, SERVER_OPTIONS, Config


def options_table() -> str:
    """Return the options as tables in Markdown, one for each group, for docs/options.md."""
    groups: dict[str, list[Option]] = {}
    for one in OPTIONS.values():
        groups.setdefault(HEADINGS[one.group], []).append(one)
    return "\n".join(line for title, options in groups.items() for line in _table(title, options))


HEADINGS = {
    SERVER: "Server",
    SINGLE_APP: "Apps",
    PROTOCOL: "Protocol",
    HISTORY: "History",
    LIMITS: "Limits",
    WEBHOOKS: "Webhooks",
}
"""The headings of the tables in docs/options.md, by group."""


def _table(title: str, options: list[Option]) -> list[str]:
    lines = ["", f"## {title}", "", "| option | description | default |", "|---|---|---|"]
    for one in options:
        default = text_of(one, one.default)
        if default and one.unit:
            default += f" {one.unit}"
        cell = f"`{default}`" if default else ""
        lines.append(f"| `{one.flag}` | {_description(one)} | {cell} |")
    return lines


def _description(one: Option) -> str:
    """Return the sentence of an option, and its other names."""
    parts = [one.sentence]
    if one.choices:
        parts.append(f"One of {', '.join(f'`{choice}`' for choice in one.choices)}.")
    others = [*one.environment, *(f"--{alias}" for alias in one.aliases)]
    if others:
        parts.append(f"Also: {', '.join(f'`{other}`' for other in others)}.")
    return " ".join(parts)


def describe(config: Config) -> str:
    """Return the resolved configuration, secrets redacted, with the source of each value."""
    lines = [_line(one, config.value(one.name), config.source(one.name)) for one in SERVER_OPTIONS]
    for app, source in config.sourced_apps():
        lines += ["", "[[apps]]", f"id = {app.id}    # {source.source('id')}"]
        lines += [
            f"key = {key.key}, secret = (hidden)    # {source.source('keys')}" for key in app.keys
        ]
        lines += [
            _line(one, getattr(app, one.name), source.source(one.name)) for one in APP_OPTIONS
        ]
        lines += [
            f"history = {_rule_text(rule)}    # {source.source('history')}" for rule in app.history
        ]
        every = config.event_history.every
        if every is not None and all(rule.prefix for rule in app.history):
            by = "presets" if config.event_history.broker is None else "broker"
            lines.append(f"history = {_rule_text(every)}    # {config.source(by)}")
        lines += [
            f"webhook = {_webhook_text(webhook)}    # {source.source('webhooks')}"
            for webhook in app.webhooks
        ]
    return "\n".join(lines) + "\n"


def _line(one: Option, value: Any, source: str) -> str:
    return f"{one.name} = {text_of(one, value) or '(none)'}    # {source}"


def _rule_text(rule: HistoryRule) -> str:
    """Return *rule* with the keys of its table."""
    if not rule.limit:
        return f'prefix: "{rule.prefix}"; limit: 0'
    parts = [f'prefix: "{rule.prefix}"', f"limit: {rule.limit}", f"ttl: {in_full(rule.ttl)}"]
    if rule.rewind_count:
        parts.append(f"rewind: {rule.rewind_count}")
    if rule.rewind_s:
        parts.append(f"rewind: {in_full(rule.rewind_s)}s")
    return "; ".join(parts)


def _webhook_text(webhook: Webhook) -> str:
    """Return *webhook* without secrets: of its URL the host, of its headers the names."""
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
    rule = Config().event_history.default_rule
    lines = [
        "# Configuration of Heliograph. Each commented line shows an option with its default.",
        "# Flags override environment variables, which override this file.",
    ]
    for group in (SERVER, PROTOCOL, HISTORY, LIMITS, WEBHOOKS):
        lines += ["", f"# -- {group} " + "-" * (80 - len(group))]
        for one in SERVER_OPTIONS:
            if one.group == group and one.name != "config":
                lines += ["", f"# {one.sentence}", f"#{one.name} = {_toml(one)}"]
    lines += [
        "",
        "# -- Apps " + "-" * 76,
        "# Any number of apps. An app can have several keys, so that a key can be replaced.",
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
        '# Or a file that contains only the secret: secret_file = "/run/secrets/my-app"',
        "",
        "#[[apps.webhooks]]",
        '#url = "http://localhost:8000/webhooks"',
        f"#events = [{', '.join(repr(kind) for kind in WEBHOOK_KINDS)}]",
        '#channel_prefix = ""',
        "#headers = {}",
        "#enabled = true",
        "",
        "# Channels that keep events, by the beginning of their names; the longest prefix decides.",
        '# "" is every channel of the app. With the limit 0, channels keep none. A new subscriber',
        '# receives the last events: rewind is their number, or a time such as "30s" or "5m".',
        "#[[apps.history]]",
        '#prefix = ""',
        f"#limit = {rule.limit}",
        f"#ttl = {in_full(rule.ttl)}",
        "#rewind = 0",
    ]
    return "\n".join(lines) + "\n"


EXAMPLE_PORTS = {"pusher_api_port": "8081", "metrics_port": "8082"}
"""The values in the sample for ports without a default."""


def _toml(one: Option) -> str:
    if one.default is None:
        return EXAMPLE_PORTS.get(one.name, '""')
    if one.kind is tuple:
        return "[" + ", ".join(f'"{part}"' for part in one.default) + "]"
    text = text_of(one, one.default)
    return f'"{text}"' if one.kind is str else text
