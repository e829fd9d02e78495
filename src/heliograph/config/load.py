"""
Loads the configuration: sources in, a checked `Config` out.

Loading reads the configuration file and the files with secrets, changes nothing, and can be
repeated.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from heliograph.config import anycable_options, checks, unused_variables
from heliograph.config.apps import APP_OPTIONS, App, AppKey, Apps
from heliograph.config.apps_from_file import app_of_table
from heliograph.config.options import suggestion
from heliograph.config.secret_files import SecretFiles
from heliograph.config.settings import (
    GENERATED,
    OPTIONS,
    SERVER_OPTIONS,
    AppSource,
    Config,
    SingleAppSettings,
)
from heliograph.config.sources import SOURCES, Inputs, Source, Values, resolve
from heliograph.errors import ConfigError

VARIABLES = frozenset(
    [
        *(variable for one in OPTIONS.values() for variable in one.variables),
        *anycable_options.ANYCABLE_VARIABLES,
    ]
)
"""The environment variables that are read, or ignored with a reason."""


def _read_file(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _mode_of_file(path: str) -> int:
    return Path(path).stat().st_mode


def _refuse_development() -> tuple[str, str, str]:
    raise ConfigError("no app is configured")


def make_config(**values: object) -> Config:
    """Return the configuration with these values of options, checked. Raises ConfigError."""
    for name in values:
        if name not in OPTIONS and name not in anycable_options.ANYCABLE_OPTIONS:
            raise ConfigError(f"{name}: no such option{suggestion(name, OPTIONS)}")
    return load(values, {})


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    generate_app: Callable[[], tuple[str, str, str]] = _refuse_development,
    sources: Sequence[Source] = SOURCES,
    read_file: Callable[[str], str] = _read_file,
    mode_of_file: Callable[[str], int] = _mode_of_file,
) -> Config:
    """
    Return the checked configuration. Raises ConfigError, whose one line names option and source.

    *flags* are the options on the command line, by name, AnyCable's included. Where no app is
    configured, *generate_app* returns id, key and secret of the app of the development mode.
    """
    environ, services = unused_variables.without_services(environ)
    values = resolve(sources, Inputs(flags=flags, environ=environ, read_file=read_file))
    secrets = SecretFiles(read_file, mode_of_file)
    config = Config().with_values(
        **{one.name: values[one.name] for one in SERVER_OPTIONS}, sources=values.sources
    )
    config = _with_apps(config, values, secrets, generate_app)
    checks.check(config)
    return config.with_values(
        warnings=(
            *checks.warnings(config),
            *secrets.warnings,
            *anycable_options.warnings(
                {name: str(value) for name, value in flags.items() if name not in OPTIONS}, environ
            ),
            *unused_variables.warnings(environ, services, VARIABLES),
        )
    )


def _with_apps(
    config: Config,
    values: Values,
    secrets: SecretFiles,
    generate_app: Callable[[], tuple[str, str, str]],
) -> Config:
    """Return *config* with the apps of the file, and with that of the options after them."""
    found: list[tuple[App, AppSource]] = []
    for table, place, source in values.app_tables:
        app = app_of_table(table, place, secrets.read, config.event_history.default_rule)
        found.append((app, AppSource(place=place, values=dict.fromkeys(table, source))))
    development = not found and not config.single_app.described
    if development:
        names = {"id": GENERATED, "keys": GENERATED}
        found.append(_app(values, *generate_app(), names))
    elif (parts := _single_app(config.single_app, values, secrets)) is not None:
        names = {"id": values.source("pusher_app_id"), "keys": values.source("pusher_app_key")}
        found.append(_app(values, *parts, names))
    return config.with_values(
        apps=Apps(app for app, _ in found),
        app_sources=tuple(source for _, source in found),
        development=development,
    )


def _single_app(
    settings: SingleAppSettings, values: Values, secrets: SecretFiles
) -> tuple[str, str, str] | None:
    """Return id, key and secret of the app of the options; None if a check refuses them."""
    secret = settings.pusher_secret
    if settings.pusher_secret_file:
        if secret:
            return None
        source = values.source("pusher_secret_file")
        secret = secrets.read(settings.pusher_secret_file, f"--pusher_secret_file (from {source})")
    secret = secret or settings.secret
    if settings.pusher_app_id and settings.pusher_app_key and secret:
        return settings.pusher_app_id, settings.pusher_app_key, secret
    return None


def _app(
    values: Values, app_id: str, key: str, secret: str, sources: Mapping[str, str]
) -> tuple[App, AppSource]:
    options = {one.name: values[one.name] for one in APP_OPTIONS}
    own = {name: values.sources[name] for name in options if name in values.sources}
    return (
        App(id=app_id, keys=(AppKey(key, secret),), **options),
        AppSource(values={**own, **sources}),
    )
