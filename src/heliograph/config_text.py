"""What people are shown of the configuration: the table, the sample, the resolved values."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from heliograph.apps import APP_OPTIONS, WEBHOOK_KINDS, Webhook
from heliograph.config import DEFAULT, OPTIONS, SERVER_OPTIONS, Config
from heliograph.options import LIMITS, PROTOCOL, SERVER, WEBHOOKS, Option, shown


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
        '# or, for a file that holds it on one line: secret_file = "/run/secrets/my-app"',
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
        return "[" + ", ".join(f'"{part}"' for part in one.default) + "]"
    text = shown(one, one.default)
    return f'"{text}"' if one.kind is str else text
