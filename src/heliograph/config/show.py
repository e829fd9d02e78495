"""What people are shown of the configuration: the table, the sample, the resolved values."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from heliograph.config.apps import APP_OPTIONS, WEBHOOK_KINDS, Webhook
from heliograph.config.options import LIMITS, PROTOCOL, SERVER, SINGLE_APP, WEBHOOKS, Option, shown
from heliograph.config.settings import DEFAULT, OPTIONS, SERVER_OPTIONS, Config


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
    LIMITS: "Limits",
    WEBHOOKS: "Webhooks",
}
"""Of the tables in docs/options.md, by group."""


def _table(title: str, options: list[Option]) -> list[str]:
    lines = ["", f"## {title}", "", "| option | description | default |", "|---|---|---|"]
    for one in options:
        default = shown(one, one.default)
        if default and one.unit:
            default += f" {one.unit}"
        cell = f"`{default}`" if default else ""
        lines.append(f"| `{one.flag}` | {_described_option(one)} | {cell} |")
    return lines


def _described_option(one: Option) -> str:
    """Return the sentence of an option, and the names that it has besides its own."""
    parts = [one.sentence]
    if one.choices:
        parts.append(f"One of {', '.join(f'`{choice}`' for choice in one.choices)}.")
    others = [*one.environment, *(f"--{alias}" for alias in one.aliases)]
    if others:
        parts.append(f"Also: {', '.join(f'`{other}`' for other in others)}.")
    return " ".join(parts)


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
        "# Configuration of Heliograph. Each commented line shows an option with its default.",
        "# Flags override environment variables, which override this file.",
    ]
    for group in (SERVER, PROTOCOL, LIMITS, WEBHOOKS):
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
    ]
    return "\n".join(lines) + "\n"


EXAMPLE_PORTS = {"pusher_api_port": "8081", "metrics_port": "8082"}
"""What the sample shows for a port without a default."""


def _toml(one: Option) -> str:
    if one.default is None:
        return EXAMPLE_PORTS.get(one.name, '""')
    if one.kind is tuple:
        return "[" + ", ".join(f'"{part}"' for part in one.default) + "]"
    text = shown(one, one.default)
    return f'"{text}"' if one.kind is str else text
