"""The settings of a server, by part: names, order, and values."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from heliograph.config.apps import APP_OPTIONS, App, AppKey, Apps
from heliograph.config.options import options_of
from heliograph.config.settings import (
    OPTIONS,
    PART_OF,
    PARTS,
    SERVER_OPTIONS,
    AppSource,
    Config,
    ConnectionSettings,
)
from tests.unit.configurations import SINGLE, resolve

SOURCE = Path(__file__).parents[2] / "src" / "heliograph"
FILES = sorted(SOURCE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the names that a file binds by its imports."""
    return {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


MODULES = {part for path in FILES for part in path.relative_to(SOURCE).with_suffix("").parts}
USERS = [path for path in FILES if "Config" in imported(path)]


def test_each_option_is_in_one_part() -> None:
    names = [one.name for settings in PARTS.values() for one in options_of(settings)]
    assert sorted(names) == sorted(PART_OF)
    assert sorted(names) == sorted(one.name for one in SERVER_OPTIONS)
    assert not set(names) & {one.name for one in APP_OPTIONS}


@pytest.mark.parametrize("part", PARTS)
def test_the_name_of_a_part_shadows_no_option_no_module_and_no_other_name(part: str) -> None:
    others = {one.name for one in fields(Config)} - set(PARTS)
    members = {name for name in vars(Config) if not name.startswith("_")} - set(PARTS) - others
    assert part not in OPTIONS.keys() | others | members | MODULES
    for path in USERS:
        assert part not in imported(path), path


@pytest.mark.parametrize("part", PARTS)
def test_the_settings_of_a_part_are_options(part: str) -> None:
    assert {one.name for one in fields(PARTS[part])} == {
        one.name for one in options_of(PARTS[part])
    }


def test_sockets_need_one_part_of_the_configuration() -> None:
    """A transport may have options of its own: its registration gets the whole configuration."""
    found = {
        alias.name
        for path in FILES
        if path.relative_to(SOURCE).parts[0] == "net" and path.name != "registration.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("heliograph.config")
        for alias in node.names
    }
    assert found == {ConnectionSettings.__name__}


def test_an_option_follows_the_one_that_it_names() -> None:
    names = [one.name for one in SERVER_OPTIONS]
    assert any(one.follows for one in SERVER_OPTIONS)
    for one in SERVER_OPTIONS:
        if one.follows:
            assert names[names.index(one.name) - 1] == one.follows
            assert OPTIONS[one.follows].group == one.group


def test_values_go_to_their_part() -> None:
    config = Config().with_values(port=1, ping_interval=2.0, development=True)
    assert (config.listening.port, config.connections.ping_interval) == (1, 2.0)
    assert (config.value("port"), config.value("ping_interval")) == (1, 2.0)
    assert config.development
    assert config.with_values(port=2).connections == config.connections
    assert Config().listening.port == 8080


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(TypeError, match="prot"):
        Config().with_values(prot=1)


def test_other_apps_come_without_the_sources_of_the_first() -> None:
    config = resolve(SINGLE)
    assert [source.place for _, source in config.sourced_apps()] == [""]
    other = App(id="9", keys=(AppKey("k", "s"),))
    changed = config.with_values(apps=Apps([other]))
    assert list(changed.sourced_apps()) == [(other, AppSource(place="apps[0]"))]
    assert config.with_values(port=1).app_sources == config.app_sources


@pytest.mark.parametrize(
    ("debug", "log_level", "lowest"), [(True, "error", "debug"), (False, "warn", "warn")]
)
def test_debug_overrides_the_log_level(debug: bool, log_level: str, lowest: str) -> None:
    config = Config().with_values(debug=debug, log_level=log_level)
    assert config.log_output.lowest_level == lowest
