"""Configurations without files, environment and command line, for the tests of their parts."""

from collections.abc import Mapping

import pytest

from heliograph.config.apps import App
from heliograph.config.load import load
from heliograph.config.settings import Config
from heliograph.errors import ConfigError

SINGLE = {"pusher_app_id": "3", "pusher_app_key": "key", "pusher_secret": "hidden-secret"}
ID_AND_KEY = {"pusher_app_id": "3", "pusher_app_key": "key"}
FILE = {"config": "h.toml"}
SECRET_SET = {"HELIOGRAPH_PUSHER_SECRET": "hidden-secret"}

APPS = """
[[apps]]
id = "1"
max_connections = 5
allowed_origins = ["https://example.com"]
[[apps.keys]]
key = "old"
secret = "hidden-secret-1"
[[apps.keys]]
key = "new"
secret = "hidden-secret-2"
[[apps.webhooks]]
url = "http://user:hidden-secret@localhost:9/hooks"
events = ["presence"]
channel_prefix = "private-"
headers = { X-Token = "hidden-secret" }

[[apps]]
id = "2"
enabled = false
[[apps.keys]]
key = "other"
secret = "hidden-secret-3"
"""


def generate_app() -> tuple[str, str, str]:
    """Return the app of the development mode, always the same."""
    return "1", "generated", "generated"


def resolve(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: str | None = None,
) -> Config:
    """Return a configuration; *file* is the text of any configuration file."""

    def read_file(path: str) -> str:
        if file is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        return file

    return load(flags or {}, environ or {}, generate_app=generate_app, read_file=read_file)


def problem(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: str | None = None,
) -> str:
    """Return the error of a configuration that is refused: one line, without secrets."""
    with pytest.raises(ConfigError) as caught:
        resolve(flags, environ, file)
    message = str(caught.value)
    assert "\n" not in message
    assert "hidden-secret" not in message
    return message


def only(config: Config) -> App:
    """Return the app of a configuration with one app."""
    (app,) = config.apps
    return app


def about(config: Config, *parts: str) -> list[str]:
    """Return the warnings that contain one of *parts*."""
    return [one for one in config.warnings if any(part in one for part in parts)]
