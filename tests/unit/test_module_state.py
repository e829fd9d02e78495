"""Modules have no state that the servers of one process would share."""

import ast
import datetime as dt
import functools
import importlib
import logging
import re
import struct
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest

SOURCE = Path(__file__).parents[2] / "src" / "heliograph"

MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path
    for path in sorted(SOURCE.rglob("*.py"))
    if "testing" not in path.parts and path.name not in {"__init__.py", "__main__.py"}
}

TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}

CACHES = {
    "heliograph.origins._pattern": "the pattern of an origin, compiled",
    "heliograph.protocols.json._decoder": "a decoder of a type",
    "heliograph.protocols.json._has_unread": "a property of a type",
    "heliograph.protocols.json._unread": "a property of a type",
    "heliograph.protocols.pusher.api.routes._endpoint": "the endpoint of a path",
    "heliograph.protocols.pusher.auth._signer": "an HMAC whose key is set, which is copied",
    "heliograph.protocols.pusher.endpoint.requested_app": "the key in a path",
    "heliograph.protocols.pusher.names.kind_if_legal": "the kind of a channel's name",
    "heliograph.wire.responses._field": "a header as bytes",
    "heliograph.wire.responses._head": "the first lines of a response",
}
"""Results of pure functions: they depend on the arguments alone, whichever server calls."""

STATELESS = {
    "heliograph.protocols.pusher.auth._MD5": "a hash of nothing, which is copied and never updated",
    "heliograph.assembly.PROTOCOLS": "registrations, which make the parts of each server anew",
}

READ_ONLY = (
    *(str, bytes, int, float, complex, bool, type(None), frozenset, range, type(...)),
    *(Enum, dt.timedelta, dt.timezone, re.Pattern, struct.Struct, logging.Logger),
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType),
    *(types.MethodDescriptorType, types.WrapperDescriptorType, types.GenericAlias),
    *(types.UnionType, types.MappingProxyType, typing.TypeVar, functools.partial),
    *(msgspec.Raw, msgspec.json.Encoder, msgspec.json.Decoder),  # these keep nothing of a call
)

CHANGING = {
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "add"),
    *("discard", "update", "setdefault", "popitem", "popleft", "appendleft"),
    *("intersection_update", "difference_update", "symmetric_difference_update"),
}


def names_of(tree: ast.Module) -> Iterator[str]:
    """Return the names that a module gives to values; those that it imports are not its own."""
    for node in tree.body:
        for one in ast.walk(node) if isinstance(node, ast.If | ast.Try) else [node]:
            if isinstance(one, ast.Assign):
                yield from (it.id for it in one.targets if isinstance(it, ast.Name))
            elif isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                yield one.target.id
            elif isinstance(one, ast.FunctionDef):
                yield one.name


def is_read_only(value: Any) -> bool:
    """Whether nothing in *value* can be changed; a container is as good as what is in it."""
    if isinstance(value, tuple):
        return all(map(is_read_only, value))
    if isinstance(value, msgspec.Struct):
        return bool(value.__struct_config__.frozen)
    if type(value).__module__ == "typing" or isinstance(value, READ_ONLY):
        return True
    if isinstance(value, types.MethodType):  # of an instance, such as a decoder's `decode`
        return is_read_only(value.__self__)
    if type(value).__module__.startswith("heliograph."):
        # One of ours counts as read only where its attributes are declared so; frozen dataclasses.
        parameters = getattr(type(value), "__dataclass_params__", None)
        return bool(parameters and parameters.frozen) or _is_final(type(value))
    return callable(value) and type(value).__name__ in {"builtin_function_or_method", "itemgetter"}


def _is_final(kind: type) -> bool:
    """Whether a class assigns its attributes in `__init__` only, as Final, by its source."""
    tree = TREES.get(kind.__module__)
    for node in [] if tree is None else ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
            assigned = [one for one in ast.walk(node) if isinstance(one, ast.Attribute)]
            stored = [one for one in assigned if isinstance(one.ctx, ast.Store)]
            final = [
                one.target
                for one in ast.walk(node)
                if isinstance(one, ast.AnnAssign) and "Final" in ast.unparse(one.annotation)
            ]
            return all(one in final for one in stored)
    return False


def changes(tree: ast.Module, name: str) -> list[str]:
    """Return the places in a module that change the container *name*, or bind the name again."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Global) and name in node.names:
            found.append(f"global {name}")
        target: ast.expr | None = None
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            target = node.value
        elif isinstance(node, ast.AugAssign):
            target = node.target
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in CHANGING
        ):
            target = node.func.value
        if isinstance(target, ast.Attribute):
            target = ast.Name(target.attr)
        if isinstance(target, ast.Name) and target.id == name:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_value_of_a_module_is_read_only(module: str) -> None:
    """Tables may be dictionaries, since they are fast, as long as no code changes them."""
    loaded = importlib.import_module(module)
    for name in dict.fromkeys(names_of(TREES[module])):
        value = getattr(loaded, name, None)
        full = f"{module}.{name}"
        if hasattr(value, "cache_info"):
            assert full in CACHES
        elif isinstance(value, list | dict | set):
            assert [one for tree in TREES.values() for one in changes(tree, name)] == [], full
        else:
            assert full in STATELESS or is_read_only(value), (full, type(value))


@pytest.mark.parametrize("module", MODULES)
def test_no_function_binds_a_name_of_its_module_again(module: str) -> None:
    assert [one.names for one in ast.walk(TREES[module]) if isinstance(one, ast.Global)] == []


@pytest.mark.parametrize("module", MODULES)
def test_no_class_has_a_container_that_its_instances_share(module: str) -> None:
    assert shared_containers(TREES[module]) == []


def shared_containers(tree: ast.Module) -> list[str]:
    """Return the containers that classes make once. A msgspec Struct copies an empty one."""
    containers = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    return [
        f"{node.name}: {ast.unparse(one)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for one in node.body
        if isinstance(one, ast.Assign | ast.AnnAssign)
        and isinstance(one.value, containers)
        and not (
            ast.unparse(one.value) in {"{}", "[]"} and "Struct" in map(ast.unparse, node.bases)
        )
    ]


@pytest.mark.parametrize("text", ["class A:\n    a = []", "class A:\n    a: dict[int, int] = {}"])
def test_a_container_of_a_class_would_be_noticed(text: str) -> None:
    assert shared_containers(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "def f() -> None:\n    TABLE[1] = 2",
        "def f() -> None:\n    del TABLE[1]",
        "def f() -> None:\n    TABLE.update({1: 2})",
        "def f() -> None:\n    module.TABLE.clear()",
        "def f() -> None:\n    global TABLE\n    TABLE |= {}",
        "from module import TABLE\nTABLE.pop(1)",
    ],
)
def test_code_that_changes_a_table_would_be_noticed(text: str) -> None:
    assert changes(ast.parse(text), "TABLE")


@pytest.mark.parametrize("value", [object(), [], (1, []), bytearray(), iter(())])
def test_a_value_that_can_change_would_be_noticed(value: Any) -> None:
    assert not is_read_only(value)


def test_the_lists_name_what_there_is() -> None:
    for full in (*CACHES, *STATELESS):
        module, _, name = full.rpartition(".")
        assert hasattr(importlib.import_module(module), name), full
