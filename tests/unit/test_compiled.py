"""The hot path is compiled: its modules are in pyproject.toml, or have a reason not to be."""

import ast
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "heliograph"
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]

COMPILED: list[str] = TOOLS["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["include"]
INTERPRETED: Mapping[str, str] = TOOLS["heliograph"]["interpreted"]

HOT = ("hub", "engine", "node", "protocols", "wire", "net")
LEAVES = ("handler.py", "rate.py", "reply.py", "slices.py")
"""Packages and modules that events, requests and connections go through."""


def hot_modules() -> set[str]:
    found = {path for part in HOT for path in (SOURCE / part).rglob("*.py")}
    found |= {SOURCE / leaf for leaf in LEAVES}
    return {
        str(path.relative_to(ROOT))
        for path in found
        if path.name != "__init__.py" and "testing" not in path.relative_to(SOURCE).parts
    }


def test_each_module_of_the_hot_path_is_compiled_or_has_a_reason_not_to_be() -> None:
    assert sorted(hot_modules() - set(COMPILED) - set(INTERPRETED)) == []


def test_no_module_is_compiled_and_has_a_reason_not_to_be() -> None:
    assert sorted(set(COMPILED) & set(INTERPRETED)) == []


def test_the_lists_name_modules_of_the_hot_path_once_and_in_order() -> None:
    assert set(INTERPRETED) <= hot_modules()
    assert all((ROOT / path).is_file() for path in COMPILED)
    for paths in (list(COMPILED), list(INTERPRETED)):
        assert paths == sorted(set(paths))


@pytest.mark.parametrize("path", sorted(INTERPRETED))
def test_a_module_of_data_and_ports_alone_has_no_functions(path: str) -> None:
    """If the reason is that a module has nothing to compile, it has nothing to compile."""
    reason = INTERPRETED[path]
    assert reason
    if not reason.startswith("data"):
        return
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
            assert bases & {"Struct", "Protocol", "Enum", "Exception"} or not bodies(node), (
                node.name
            )
        else:
            assert not isinstance(node, ast.FunctionDef), node.name


def bodies(node: ast.ClassDef) -> list[str]:
    """Return the methods of a class, but for those that make and compare its instances."""
    methods = [one.name for one in node.body if isinstance(one, ast.FunctionDef)]
    return [name for name in methods if name not in {"__init__", "__eq__", "__hash__", "__repr__"}]
