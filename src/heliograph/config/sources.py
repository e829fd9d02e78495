"""
The sources of the configuration: flags, environment variables, the file.

A source yields values, each with its name and a text that names the source. `resolve`
reads the sources in the order of SOURCES. A further source is a function and an entry there.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from heliograph.config.apps_from_file import list_of_tables
from heliograph.config.options import Option, suggestion
from heliograph.config.settings import DEFAULT, OPTIONS
from heliograph.errors import ConfigError

APPS = "apps"
"""The name of a value that is a list of tables, one for each app; all sources add to it."""


class Sourced(NamedTuple):
    """
    A value as a source has it, not parsed yet.

    *name* is that of an option, or APPS. *source* is the text about the source that errors and
    check-config print.
    """

    name: str
    value: object
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The inputs of sources: *flags* by the names of their options, variables, and files."""

    flags: Mapping[str, object]
    environ: Mapping[str, str]
    read_file: Callable[[str], str]


class Values:
    """The parsed values of all options, each from its strongest source or with its default."""

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}
        self.app_tables: list[tuple[dict[str, Any], str, str]] = []
        """Tables of apps, each with its place and its source."""
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        return self._values.get(name, OPTIONS[name].default)

    def source(self, name: str) -> str:
        """Return the source of the option *name*."""
        return self.sources.get(name, DEFAULT)

    def add(self, name: str, value: object, source: str) -> None:
        """Add a value, unless a stronger source has set the option. Raises ConfigError."""
        if name == APPS:
            place = f"{source}: {APPS}"
            self.app_tables += [
                (table, f"{place}[{number}]", source)
                for number, table in enumerate(list_of_tables(value, place))
            ]
        elif name not in OPTIONS:
            raise _unknown(name, source)
        elif name not in self.sources:
            self._values[name] = parse(OPTIONS[name], value, source)
            self.sources[name] = source


Source = Callable[[Inputs, Values], Iterator[Sourced]]
"""Yields its values; it also takes those of the stronger sources, and does not change them."""


def from_flags(inputs: Inputs, _stronger: Values) -> Iterator[Sourced]:
    """Yield the options on the command line."""
    for name, value in inputs.flags.items():
        if name in OPTIONS:
            yield Sourced(name, value, flag_source(OPTIONS[name]))


def flag_source(one: Option) -> str:
    """Return the source of an option that is set by its flag."""
    return f"the flag {one.flag}"


def from_environment(inputs: Inputs, _stronger: Values) -> Iterator[Sourced]:
    """Yield the options in environment variables; of an option's variables, the strongest first."""
    for one in OPTIONS.values():
        for variable in one.variables:
            # Compose files set a variable without a value to an empty text.
            if inputs.environ.get(variable):
                value = inputs.environ[variable]
                yield Sourced(one.name, value, f"the environment variable {variable}")


def from_file(inputs: Inputs, stronger: Values) -> Iterator[Sourced]:
    """Yield the keys of the TOML file that the option `config` names, if it is set."""
    path = stronger["config"]
    if not path:
        return
    document = _document(path, inputs.read_file, stronger.source("config"))
    yield Sourced(APPS, document.pop(APPS, []), path)
    for name, value in document.items():
        if name == "config":
            raise _unknown(name, path)
        yield Sourced(name, value, path)


SOURCES: tuple[Source, ...] = (from_flags, from_environment, from_file)
"""Strongest first: flags override environment variables, which override the file."""


def resolve(sources: Sequence[Source], inputs: Inputs) -> Values:
    """Return the values of *sources*, which are given strongest first. Raises ConfigError."""
    values = Values()
    for source in sources:
        for one in source(inputs, values):
            values.add(*one)
    return values


def parse(one: Option, value: object, source: str) -> Any:
    """Parse *value* as its option requires. Raises ConfigError that names option and *source*."""
    try:
        return one.parse(value)
    except ValueError as error:
        reason = "the value is not a valid string" if one.secret else str(error)
        raise ConfigError(f"{one.flag}: {reason} (from {source})") from None


def _unknown(name: str, source: str) -> ConfigError:
    return ConfigError(f"{source}: {name}: unknown option{suggestion(name, OPTIONS)}")


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
    except ValueError as error:  # TOMLDecodeError, or a number with too many digits
        raise ConfigError(f"--config: {path} is not valid TOML: {error}") from None
