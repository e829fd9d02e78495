"""What people read is true: compared with the code, so that it stays so."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from heliograph import __version__
from heliograph.cli.main import FLAGS
from heliograph.config.anycable_options import ANYCABLE_OPTIONS
from heliograph.config.load import load
from heliograph.config.show import options_table

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "heliograph"
FOLDERS = ("bench", "clients", "docs", "examples")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))]
)
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
OPERATIONS = [
    path for path in DOCUMENTS if path.stem == "operations" or path.parent.stem == "operations"
]
SUPPORT = (ROOT / "docs" / "protocol-support.md").read_text()


KNOWN_FLAGS = {*FLAGS, *ANYCABLE_OPTIONS, "wait", "origin"}
"""Those of every command; two are the doctor's."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """Return a document without its code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return what a link to a heading of *path* may say after the #."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


@cache
def names_of_tests() -> frozenset[str]:
    names: set[str] = set()
    contract = SOURCE / "engine" / "testing" / "suite.py"  # tests/unit/test_engine.py runs it
    for path in (*(ROOT / "tests").rglob("*.py"), contract):
        if "node_modules" not in path.parts:
            names.update(
                node.name
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name.startswith("test_")
            )
    return frozenset(names)


def rows(text: str) -> Iterator[list[str]]:
    """Return the cells of every row of every table, heads included."""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|--"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


# -- All documents -------------------------------------------------------------------------


LINK = re.compile(
    r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)"  # [text](target "title"), ![image](target)
    r"|^\s*\[[^\]]+\]:\s*<?([^\s>]+)"  # [name]: target
    r"|<(https?://[^>\s]+)>"
    r"|\b(?:href|src)=\"([^\"]+)\"",  # HTML
    re.MULTILINE,
)


def without_code(text: str) -> str:
    """Return the prose of a document without what it quotes as code."""
    return re.sub(r"`[^`\n]*`", "", prose(text))


def links(path: Path) -> list[str]:
    """Return where the links and images of a document lead."""
    found = LINK.finditer(without_code(path.read_text()))
    return [next(target for target in link.groups() if target) for link in found]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in links(path):
        link = urlsplit(target)
        if link.scheme:
            continue
        found = (path.parent / unquote(link.path)).resolve() if link.path else path
        assert found.is_relative_to(ROOT), target
        assert found.exists(), target
        if link.fragment:
            assert link.fragment in anchors(found), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_to_other_hosts_are_well_formed(path: Path) -> None:
    """They are not fetched: a test that needs other hosts fails when they do."""
    for target in links(path):
        link = urlsplit(target)
        if link.scheme:
            local = link.hostname in {"localhost", "127.0.0.1"}
            assert link.scheme == "https" or (local and link.scheme == "http"), target
            assert local or re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", link.hostname or ""), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_references_are_defined(path: Path) -> None:
    text = without_code(path.read_text())
    used = {name.lower() for name in re.findall(r"\]\[([^\]]+)\]", text)}
    defined = {name.lower() for name in re.findall(r"^\s*\[([^\]]+)\]:", text, re.MULTILINE)}
    assert used == defined


def test_every_kind_of_link_is_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '[a](one.md) ![b](two.png "title") [c][name] <https://three.example> `[x](no.md)`\n'
        '<img src="four.svg"> <a href="five.md#part">d</a>\n\n[name]: six.md\n'
        "```sh\n[x](no.md)\n```\n"
    )
    targets = ["one.md", "two.png", "https://three.example", "four.svg", "five.md#part", "six.md"]
    assert links(page) == targets


def test_sources_name_documents_that_exist() -> None:
    """A decision may be named by its number: docs/decisions/0007."""
    named = 0
    for folder in ("src", "tests", "bench", "soak", "fuzz", "mutate", "ops", "examples", "clients"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix not in {".py", ".c", ".js", ".conf", ".cfg", ".yml", ".service"}:
                continue
            if "node_modules" in path.parts:
                continue
            for target in re.findall(r"(?<![\w/])docs/[\w./-]*\w", path.read_text()):
                named += 1
                assert (ROOT / target).exists() or list(ROOT.glob(f"{target}-*.md")), (path, target)
    assert named


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_python_compiles(path: Path) -> None:
    for block in blocks(path.read_text(), "python"):
        compile(block, name_of(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_configuration_files_are_accepted(path: Path) -> None:
    texts = {str(number): block for number, block in enumerate(blocks(path.read_text(), "toml"))}
    for number in texts:
        load({"config": number}, {}, read_file=texts.__getitem__)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_name_options_that_exist(path: Path) -> None:
    for block in blocks(path.read_text(), "sh"):
        for line in block.splitlines():
            if line.startswith(("heliograph", "make run")):
                flags = re.findall(r"--([a-z_-]+)", line)
                assert {flag.replace("-", "_") for flag in flags} <= KNOWN_FLAGS, line


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_named_tests_exist(path: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", path.read_text()))
    assert named <= names_of_tests(), named - names_of_tests()


# -- Options -------------------------------------------------------------------------------


def test_the_page_of_options_has_them_as_they_are() -> None:
    """To mend it: `heliograph options-table`, between the two markers."""
    page = (ROOT / "docs" / "options.md").read_text()
    shown = re.search(r"<!-- options\b[^>]*-->\n(.*)<!-- /options -->", page, re.DOTALL)
    assert shown
    assert shown[1].strip() == options_table().strip()


# -- The README ----------------------------------------------------------------------------


def test_the_commands_of_the_readme_are_targets_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for path in DOCUMENTS:
        for block in blocks(path.read_text(), "sh"):
            assert set(re.findall(r"^make ([a-z]+)", block, re.MULTILINE)) <= targets


# -- The architecture ----------------------------------------------------------------------


def drawn_tree() -> set[str]:
    """Return the files that the tree names, by their paths under the package."""
    (tree,) = [block for block in blocks(ARCHITECTURE, "") if block.startswith("src/heliograph/")]
    folders: list[str] = []
    drawn = set()
    for line in tree.splitlines()[1:]:
        branch = re.match(r"([│ ]*)[├└]── (\S+)", line)
        assert branch, line
        depth = len(branch[1]) // 4
        name = branch[2]
        folders[depth:] = [name]
        if not name.endswith("/"):
            drawn.add("".join(folders))
    return drawn


def test_the_tree_is_the_one_there_is() -> None:
    there = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py" or path.parent == SOURCE
    }
    assert drawn_tree() == there


def test_the_transport_in_the_tests_has_the_files_that_a_transport_needs() -> None:
    """And uses the parts of the server that the page names, no others."""
    section = re.search(r"^### Add a transport\n(.*?)^##", ARCHITECTURE, re.DOTALL | re.MULTILINE)
    assert section
    folder = ROOT / "tests" / "transports" / "stream"
    files = {row[0].strip("`") for row in rows(section[1])} - {"file"}
    assert files == {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    named = set(re.findall(r"`([\w/]+\.py)`", section[1]))
    for path in folder.glob("*.py"):
        for module in imported(path):
            first, _, rest = module.partition(".")
            part = rest.partition(".")[0]
            if first == "heliograph" and part in {"handler", "net", "node", "wire"}:
                assert rest.replace(".", "/") + ".py" in named, module
            elif first == "heliograph":
                assert part == "config", module


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def test_the_files_of_a_protocol_are_those_of_the_one_in_the_tests() -> None:
    section = ARCHITECTURE.partition("### Add a protocol")[2].partition("\n## ")[0]
    tables = [list(rows(table)) for table in re.findall(r"^\|.*(?:\n\|.*)*", section, re.MULTILINE)]
    files = {head[0]: [re.sub("`", "", row[0]) for row in rest] for head, *rest in tables}
    folder = ROOT / "tests" / "protocols" / "line"
    there = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert sorted(files["file to write"]) == sorted(there)
    # Nothing else of the server knows the protocol, the file to touch included: it is a test's.
    assert [SOURCE / one for one in files["file to touch"]] == [SOURCE / "assembly.py"]
    assert not [path for path in SOURCE.rglob("*.py") if "protocols.line" in path.read_text()]


def test_every_invariant_names_its_test() -> None:
    table = ARCHITECTURE.partition("## Invariants")[2]
    held = [row for row in rows(table) if row[0] != "invariant"]
    assert held
    assert all("`test_" in test for _, test in held)


# -- Protocol support ----------------------------------------------------------------------


def test_every_feature_that_works_names_its_test() -> None:
    features = SUPPORT.partition("## Where we differ")[0]
    for row in rows(features):
        if row[-1] == "test":
            continue
        works, test = row[-2:]
        if works == "yes":
            assert test.startswith("`test_"), row
        else:
            assert works.startswith(("no", "not sent", "not yet")), row
            assert not test, row


# -- Operations ----------------------------------------------------------------------------


def promises(text: str) -> Iterator[tuple[str, str]]:
    """Return each promise of a document's tables, and what stands where its test is named."""
    for table in re.findall(r"^\|.*(?:\n\|.*)*", text, re.MULTILINE):
        head, *rest = rows(table)
        if head[0] == "promise":
            yield from ((row[0], row[head.index("test")]) for row in rest)


@pytest.mark.parametrize("path", OPERATIONS, ids=name_of)
def test_every_promise_names_its_test(path: Path) -> None:
    made = list(promises(path.read_text()))
    assert made
    for promise, test in made:
        files = re.findall(r"`(tests/\S+\.py)`", test)
        assert "`test_" in test or files, promise
        assert all((ROOT / file).exists() for file in files), promise


# -- The changelog -------------------------------------------------------------------------


def test_the_changelog_knows_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest
    assert newest[1] == __version__


def test_every_decision_is_in_the_list_and_has_all_sections() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "README.md").read_text()
    for page in folder.glob("[0-9]*.md"):
        text = page.read_text()
        assert f"({page.name})" in listed
        for heading in ("## Context", "## Choice", "## When to reconsider"):
            assert heading in text
