"""The picture of the architecture, checked: who imports whom, and what pure files may not touch."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "heliograph"

# A part is a package or module right under heliograph; leaves may be imported by anyone.
LEAVES = {
    "errors",
    "config",
    "config_text",
    "app_tables",
    "apps",
    "counting",
    "metrics",
    "options",
    "reply",
    "rate",
    "summary",
}

ALLOWED = {
    "__init__": set(),
    "__main__": {"cli"},
    "cli": {"server", "__init__", "development", "doctor"},
    "doctor": {"net", "protocols", "wire"},
    "errors": set(),
    "reply": set(),
    "apps": {"errors"},
    "app_tables": {"errors", "apps"},
    "config": {"errors", "apps", "app_tables"},
    "config_text": {"apps", "config"},
    "options": set(),
    "counting": set(),
    "development": {"apps", "config", "errors"},
    "logs": set(),
    "metrics": set(),
    "rate": set(),
    "summary": set(),
    "wire": set(),
    "hub": set(),
    "protocols": {"hub"},
    "engine": {"hub"},
    "node": {"hub", "engine", "protocols"},
    "api": {"node", "hub", "protocols", "wire"},
    "net": {"wire", "protocols", "api", "node", "hub"},
    "webhooks": {"hub", "protocols"},
    "instruments": {"__init__", "api", "net", "webhooks"},
    "server": {
        "instruments",
        "webhooks",
        "api",
        "engine",
        "net",
        "node",
        "protocols",
        "wire",
        "logs",
        "development",
        "hub",
    },
}

PURE = (
    "webhooks/payload.py",
    "webhooks/schedule.py",
    "webhooks/beliefs.py",
    "wire",
    "hub",
    "protocols",
    "reply.py",
    "errors.py",
    "counting.py",
    "apps.py",
    "options.py",
    "config.py",
    "metrics.py",
)
IMPURE_MODULES = {"asyncio", "socket", "ssl", "time", "random", "secrets", "threading", "uvloop"}

# Pusher's own words have no business in the hub.
PUSHER_WORDS = ("socket_id", "pusher_internal:", "pusher:")

FILES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, in full, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            if node.module == "heliograph":
                yield from (f"heliograph.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    part = part_of(path)
    allowed = ALLOWED[part] | LEAVES | {part}
    for module in imports(path):
        first, _, rest = module.partition(".")
        if first == "heliograph":
            imported = rest.partition(".")[0] or "__init__"
            if imported.startswith("_") and imported != "__init__":
                imported = "__init__"
            assert imported in allowed, f"{part} may not import {module}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if name_of(path).startswith(PURE)], ids=name_of
)
def test_pure_files_touch_neither_io_nor_clock_nor_chance(path: Path) -> None:
    touched = {module.partition(".")[0] for module in imports(path)}
    assert not touched & IMPURE_MODULES


@pytest.mark.parametrize("path", sorted((SOURCE / "hub").glob("*.py")), ids=name_of)
def test_the_hub_speaks_no_protocol(path: Path) -> None:
    text = path.read_text()
    assert not [word for word in PUSHER_WORDS if word in text]


def test_every_part_has_its_arrows() -> None:
    assert {part_of(path) for path in FILES} <= set(ALLOWED)
