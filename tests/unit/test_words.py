"""
Names in the code: words that have a better one, and words with one meaning.

The pairs stand in CONTRIBUTING.md, "Names and words".
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "heliograph"

BANNED = {
    "plain": "_fast for a fast path, cleartext, redact_text",
    "look": "on_timer, check, find",
    "looks": "on_timer, check, find",
    "looking": "on_timer, check, find",
    "told": "sent, received, written, notified, logged",
    "tell": "send, notify, log",
    "say": "send, write, log, report",
    "said": "sent, written, logged, reported",
    "untell": "retract",
    "belief": "reported state",
    "beliefs": "reported states",
    "crowded": "over_capacity",
    "brimming": "exhausted",
    "shown": "logged, redacted",
    "spoken": "read_server_frames",
    "ear": "a reader",
    "paid": "arrival, admit",
    "pays": "admits",
    "pay": "admit",
    "deserted": "draining, all_closed",
    "tapped": "traced",
    "unwanted": "not_reported",
}
"""Parts of identifiers, with what to write instead."""

ALLOWED: dict[str, set[str]] = {}
"""Identifiers that keep such a part, by file; each needs a reason."""

FILES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def identifiers(text: str) -> Iterator[str]:
    """Every name that code gives or uses."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.alias(name=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name


def parts(identifier: str) -> set[str]:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)
    return {word.lower() for word in words}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_identifier_has_a_banned_word(path: Path) -> None:
    allowed = ALLOWED.get(name_of(path), set())
    found = {one for one in identifiers(path.read_text()) if parts(one) & set(BANNED)}
    assert found <= allowed, {one: [BANNED[it] for it in parts(one) & set(BANNED)] for one in found}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_module_has_a_banned_word_in_its_name(path: Path) -> None:
    assert not parts(path.stem) & set(BANNED)


@pytest.mark.parametrize(
    "text",
    ["_look = 1", "x.pay_for(1)", "def f(told): pass", "class PlainRequest: pass", "f(say=1)"],
)
def test_a_banned_word_would_be_noticed(text: str) -> None:
    assert any(parts(one) & set(BANNED) for one in identifiers(text))


def test_no_two_classes_share_a_name() -> None:
    """Apart from the suite for engines, and the client, which is the side of other programs."""
    found = defaultdict(list)
    for path in FILES:
        if not name_of(path).startswith(("engine/testing/", "client/")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(name_of(path))
    assert {name: files for name, files in found.items() if len(files) > 1} == {}
