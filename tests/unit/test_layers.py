"""The picture of the architecture, checked: who imports whom, and what pure files may not touch."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "heliograph"
LINE_PROTOCOL = sorted((Path(__file__).parents[1] / "protocols" / "line").glob("*.py"))

# What each part may import of the others, leaves included: a part is a package or module right
# under heliograph. One that is pure gets nothing that it could read a setting or a file through.
ALLOWED = {
    "__init__": set(),
    "__main__": {"cli"},
    "cli": {
        *("__init__", "client", "config", "errors", "net", "observe", "prerequisites"),
        *("process", "reply"),
    },
    "client": {"errors"},
    "process": {"config", "errors", "net", "observe", "prerequisites", "server"},
    "prerequisites": {"config", "errors", "net"},
    "server": {
        *("assembly", "config", "engine", "errors", "handler", "instruments", "net", "node"),
        *("observe", "prerequisites", "protocols", "wire"),
    },
    "assembly": {
        *("config", "engine", "handler", "hub", "net", "node", "protocols", "webhooks"),
    },
    "instruments": {"__init__", "net", "node", "observe", "webhooks"},
    "config": {"errors", "origins"},
    "errors": set(),
    "handler": {"reply", "wire"},
    "observe": {"handler", "reply", "wire"},
    "origins": set(),
    "rate": set(),
    "reply": set(),
    "slices": {"reply"},
    "wire": set(),
    "hub": set(),
    "protocols": {
        *("config", "engine", "errors", "handler", "hub", "node", "reply", "wire"),
    },
    "engine": {"errors", "hub", "reply"},
    "node": {
        *("config", "engine", "errors", "hub", "observe", "origins", "rate", "reply", "slices"),
    },
    "net": {
        *("config", "errors", "handler", "node", "observe", "origins", "rate", "reply", "wire"),
    },
    "webhooks": {
        *("config", "engine", "errors", "hub", "node", "observe", "protocols"),
    },
}

ORDER = {
    "cli": ("development", "doctor", "main"),
    "client": ("errors", "signing", "urls", "listener", "publisher"),
    "config": (
        *("options", "secret_files", "anycable_options", "apps", "unused_variables"),
        *("apps_from_file", "settings", "show", "sources", "checks", "load"),
    ),
    "engine": (
        *("answers", "presence", "share", "base", "history", "keys", "memory"),
        *("testing.log", "testing.partitions", "testing.messages", "testing.owing"),
        *("testing.app_state", "testing.space", "testing.state", "testing.engine", "testing.link"),
        *("testing.looped", "testing.cluster", "testing.suite", "testing.history_suite"),
        *("testing.machine", "testing.history_machine"),
    ),
    "hub": ("facts", "channel", "hub", "users"),
    "net": (
        *("transport", "timers", "turns", "addresses", "backlog", "intake", "idle", "descriptors"),
        *("answers", "pages", "client_files", "sockets", "systemd", "tls", "streams"),
        *("tls_streams", "context", "takeover", "cors", "client", "websocket", "trace"),
        *("handshake", "http"),
        *("registration", "listener", "drain"),
    ),
    "node": (
        *("counting", "dialect", "journal", "policy", "away", "history", "closings", "losses"),
        *("tenant", "replay", "membership", "node"),
    ),
    "observe": ("metrics", "log_throttle", "logs", "metrics_page"),
    "protocols": (
        *("json", "kinds", "lanes", "registration"),
        *("pusher.names", "pusher.auth", "pusher.refusals", "pusher.redact", "pusher.event_text"),
        *("pusher.messages", "pusher.endpoint", "pusher.lanes", "pusher.session"),
        *("pusher.dialect", "pusher.api.auth", "pusher.api.response", "pusher.api.request"),
        *("pusher.api.history", "pusher.api.channels", "pusher.api.events", "pusher.api.users"),
        *("pusher.api.route_names", "pusher.api.routes", "pusher.registration"),
    ),
    "webhooks": (
        *("counts", "progress", "debounce", "schedule", "payload", "rows", "sender", "audience"),
        *("store", "courier"),
    ),
    "wire": (
        *("deflate", "mask", "proxy", "http", "responses", "chunked", "websocket", "framing"),
        "unmasked",
    ),
}
"""The modules of each package: each may import those before it, and no others of its package."""

PURE = (
    "handler.py",
    "client/signing.py",
    "client/urls.py",
    "webhooks/payload.py",
    "webhooks/schedule.py",
    "webhooks/debounce.py",
    "webhooks/counts.py",
    "webhooks/progress.py",
    "webhooks/audience.py",
    "wire/",
    "hub/",
    "protocols/",
    "net/client_files.py",
    "net/cors.py",
    "net/pages.py",
    "reply.py",
    "rate.py",
    "slices.py",
    "errors.py",
    "node/counting.py",
    "node/away.py",
    "node/dialect.py",
    "node/journal.py",
    "node/closings.py",
    "node/history.py",
    "node/losses.py",
    "node/membership.py",
    "node/policy.py",
    "node/replay.py",
    "engine/",
    "origins.py",
    "config/",
    "observe/metrics.py",
)

PURE_MODULES = frozenset(
    (
        # Of the standard library: data and text, and nothing that reads a clock, draws a number,
        # opens a file or a socket, starts a process or a thread, or asks the system.
        *("binascii", "bisect", "codecs", "collections", "collections.abc", "dataclasses"),
        *("difflib", "enum"),
        *("fnmatch", "functools", "hashlib", "heapq", "hmac", "ipaddress", "itertools", "json"),
        *("math", "operator", "re", "string", "struct", "types", "typing", "urllib.parse", "zlib"),
        "http",  # HTTPStatus; http.client is another module
        # Of others.
        *("httptools", "msgspec", "websockets.speedups"),
    )
)
"""What pure files may import: whatever is not here needs a reason, and a line."""

ALSO = {
    "config/load.py": frozenset(("pathlib",)),  # it is given paths
    "config/sources.py": frozenset(("tomllib",)),  # it is given text
    "protocols/pusher/api/auth.py": frozenset(("datetime",)),  # it is given the time
    # Tests of engines, and an engine that they run.
    "engine/testing/__init__.py": frozenset(("sys",)),  # whether pytest is loaded
    "engine/testing/cluster.py": frozenset(("asyncio",)),
    "engine/testing/engine.py": frozenset(("asyncio",)),
    "engine/testing/looped.py": frozenset(("asyncio",)),
    "engine/testing/history_machine.py": frozenset(("hypothesis", "hypothesis.stateful")),
    "engine/testing/history_suite.py": frozenset(("msgspec", "pytest")),
    "engine/testing/machine.py": frozenset(("hypothesis", "hypothesis.stateful")),
    "engine/testing/state.py": frozenset(("copy",)),
    "engine/testing/suite.py": frozenset(("asyncio", "pytest")),
}
"""What single files may import besides."""

IMPURE_CALLS = frozenset(("open", "print", "input", "exec", "eval", "__import__"))

IMPURE_MODULES = (
    *("asyncio", "socket", "ssl", "time", "random", "secrets", "threading", "uvloop", "os", "io"),
    *("select", "selectors", "signal", "subprocess", "concurrent.futures", "multiprocessing"),
    *("ctypes", "sqlite3", "aiohttp", "uuid", "datetime", "pathlib", "shutil", "tempfile", "gc"),
    *("http.client", "urllib.request", "importlib", "logging", "resource", "builtins", "mmap"),
    *("websockets", "websockets.asyncio.client", "queue", "sched", "platform", "fcntl"),
)
"""Some that would do harm, for the test of the test."""

PUSHER_WORDS = re.compile(r"pusher|socket.?id|\b4(?!096\b)[0-9]{3}\b", re.IGNORECASE)
"""Pusher's name, its words, and the codes that it closes connections with; 4096 is a size."""

FILES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(text: str) -> Iterator[str]:
    """Every module that a file names in an import, in full, wherever in the file it does."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            if node.module == "heliograph":
                yield from (f"heliograph.{alias.name}" for alias in node.names)
            else:
                yield node.module


def against_the_arrows(part: str, text: str) -> list[str]:
    """What a file of *part* imports of ours and may not."""
    found = []
    for module in imports(text):
        first, _, rest = module.partition(".")
        if first == "heliograph":
            imported = rest.partition(".")[0] or "__init__"
            if imported.startswith("_"):
                imported = "__init__"
            if imported not in ALLOWED[part] | {part}:
                found.append(module)
    return found


def impurities(name: str, text: str) -> list[str]:
    """What a pure file imports and calls and may not."""
    allowed = PURE_MODULES | ALSO.get(name, frozenset())
    imported = [
        module
        for module in imports(text)
        if module.partition(".")[0] != "heliograph" and module not in allowed
    ]
    called = [
        node.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name) and node.id in IMPURE_CALLS
    ]
    return imported + called


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    assert against_the_arrows(part_of(path), path.read_text()) == []


PURE_FILES = [path for path in FILES if name_of(path).startswith(PURE)]


@pytest.mark.parametrize("path", PURE_FILES, ids=name_of)
def test_pure_files_touch_neither_io_nor_clock_nor_chance(path: Path) -> None:
    assert impurities(name_of(path), path.read_text()) == []


@pytest.mark.parametrize("module", IMPURE_MODULES)
def test_what_is_impure_would_be_noticed_in_a_pure_file(module: str) -> None:
    for how in ("import {}", "import {} as x", "from {} import x", "def f():\n import {}"):
        for name in ("hub/hub.py", "wire/http.py", "protocols/pusher/session.py", "reply.py"):
            assert impurities(name, how.format(module)) == [module]


@pytest.mark.parametrize("call", sorted(IMPURE_CALLS))
def test_what_reads_and_writes_without_an_import_would_be_noticed(call: str) -> None:
    assert impurities("hub/hub.py", f"x = {call}('file')") == [call]


@pytest.mark.parametrize("part", ["hub", "wire", "protocols", "engine", "rate", "reply", "observe"])
def test_what_has_settings_or_sockets_would_be_noticed_in_the_inner_parts(part: str) -> None:
    outer = {"config", "node", "net", "webhooks", "assembly", "server", "cli"}
    for other in sorted(outer - ALLOWED[part]):
        for how in (
            "import heliograph.{}",
            "from heliograph import {}",
            "from heliograph.{} import x",
        ):
            assert against_the_arrows(part, how.format(other)) == [f"heliograph.{other}"]


# Of some parts, not every module may be imported; the others are theirs.
MODULES = {
    ("node", "engine"): {"heliograph.engine.answers", "heliograph.engine.base"},
    ("protocols", "engine"): {"heliograph.engine.answers"},
    ("webhooks", "engine"): {"heliograph.engine.answers"},
    ("webhooks", "node"): {"heliograph.node.journal"},
    ("webhooks", "protocols"): {
        *("heliograph.protocols", "heliograph.protocols.kinds", "heliograph.protocols.pusher"),
    },
    ("engine", "hub"): {"heliograph.hub.facts"},
    ("net", "node"): {"heliograph.node.dialect"},
    ("node", "config"): {"heliograph.config.apps"},
    ("instruments", "node"): {"heliograph.node.node"},
    ("instruments", "net"): {"heliograph.net.context"},
    ("process", "net"): {"heliograph.net", "heliograph.net.descriptors"},
    ("prerequisites", "net"): {"heliograph.net"},
    ("net", "config"): {"heliograph.config.settings"},
    ("protocols", "config"): {"heliograph.config.apps", "heliograph.config.settings"},
    ("protocols", "hub"): {"heliograph.hub.channel", "heliograph.hub.facts"},
    ("assembly", "net"): {
        *("heliograph.net", "heliograph.net.client_files", "heliograph.net.cors"),
        *("heliograph.net.pages", "heliograph.net.registration"),
    },
}


@pytest.mark.parametrize(("importing", "imported"), MODULES)
def test_of_some_parts_only_the_ports_and_the_data_are_imported(
    importing: str, imported: str
) -> None:
    found = {
        module
        for path in FILES
        if part_of(path) == importing
        for module in imports(path.read_text())
        if module.startswith(f"heliograph.{imported}")
    }
    assert found <= MODULES[importing, imported]
    assert found  # or the row is not needed


def other_protocols(own: str, text: str) -> list[str]:
    """What a file of the protocol *own* imports of another protocol."""
    names = {name for name in ORDER["protocols"] if "." not in name} | {own}
    parts = [module.split(".") for module in imports(text)]
    return [
        ".".join(part)
        for part in parts
        if part[:2] == ["heliograph", "protocols"] and not names.intersection(part[2:3])
    ]


@pytest.mark.parametrize(
    "path", sorted((SOURCE / "protocols" / "pusher").rglob("*.py")), ids=name_of
)
def test_a_protocol_imports_nothing_of_another_protocol(path: Path) -> None:
    assert other_protocols("pusher", path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "from heliograph.protocols.pusher import messages",
        "from heliograph.protocols.pusher.auth import sign",
        "import heliograph.protocols.pusher.api.events",
        "from heliograph.protocols import pusher",
    ],
)
def test_an_import_of_another_protocol_would_be_noticed(text: str) -> None:
    assert other_protocols("another", text)
    assert not other_protocols("another", "from heliograph.protocols.json import encode")


@pytest.mark.parametrize("path", LINE_PROTOCOL, ids=lambda path: path.name)
def test_the_second_protocol_imports_what_a_protocol_may_import(path: Path) -> None:
    """It lives in the tests, and is held to the rules of the package `protocols`."""
    text = path.read_text()
    assert against_the_arrows("protocols", text) == []
    assert other_protocols("line", text) == []
    engine = {module for module in imports(text) if module.startswith("heliograph.engine")}
    assert engine <= MODULES["protocols", "engine"]
    outside = [one for one in impurities(path.name, text) if not one.startswith("tests.")]
    assert outside == []
    ours = [module for module in imports(text) if module.startswith("tests.")]
    assert all(module.startswith("tests.protocols.line") for module in ours)


def test_the_hub_and_the_wire_import_nothing_of_the_others() -> None:
    for part in ("hub", "wire"):
        for other in set(ALLOWED) - {part, "__init__"}:
            assert against_the_arrows(part, f"import heliograph.{other}")


NEED_WHAT_TESTS_NEED = {
    f"engine/testing/{name}.py" for name in ("suite", "history_suite", "machine", "history_machine")
}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_suite_of_engines_imports_what_tests_need(path: Path) -> None:
    found = {module.partition(".")[0] for module in imports(path.read_text())}
    if name_of(path) not in NEED_WHAT_TESTS_NEED:
        assert not found & {"pytest", "hypothesis"}
        assert "heliograph.engine.testing" not in "".join(
            module
            for module in imports(path.read_text())
            if not name_of(path).startswith("engine/testing/")
        )


def test_no_two_parts_import_each_other() -> None:
    """Not by way of others either."""
    reached = {part: set(others) for part, others in ALLOWED.items()}
    for _ in ALLOWED:
        for others in reached.values():
            others.update(*[reached[one] for one in others])
    assert [part for part, others in reached.items() if part in others] == []


@pytest.mark.parametrize("package", ORDER)
def test_the_modules_of_a_package_have_an_order_without_circles(package: str) -> None:
    """What is imported for types alone counts, too."""
    order = ORDER[package]
    folder = SOURCE / package
    there = {
        str(path.relative_to(folder)).removesuffix(".py").replace("/", "."): path
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert sorted(there) == sorted(order)
    for place, name in enumerate(order):
        assert against_the_order(package, order[:place], there[name].read_text()) == [], name


def against_the_order(package: str, before: tuple[str, ...], text: str) -> list[str]:
    """What a file imports of its own package that is not *before* it."""
    own = f"heliograph.{package}."
    modules = [name for name in ORDER[package] if name not in before]
    imported = [
        full
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for full in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    ] + [module for module in imports(text) if module.startswith(own)]
    return sorted({one for one in imported if one.removeprefix(own) in modules})


@pytest.mark.parametrize(
    "text",
    [
        "from heliograph.net.http import HttpConnection",
        "from heliograph.net import http",
        "import heliograph.net.http",
        "if TYPE_CHECKING:\n    from heliograph.net.http import HttpConnection",
    ],
)
def test_an_import_against_the_order_would_be_noticed(text: str) -> None:
    before = ORDER["net"][: ORDER["net"].index("context")]
    assert against_the_order("net", before, text) == ["heliograph.net.http"]


NEUTRAL = {
    *("engine", "errors", "handler", "hub", "net", "node", "rate", "reply", "slices"),
}

NEUTRAL_FILES = [path for path in FILES if part_of(path) in NEUTRAL]


@pytest.mark.parametrize("path", NEUTRAL_FILES, ids=name_of)
def test_parts_that_serve_every_protocol_do_not_name_pusher(path: Path) -> None:
    """Neither in code, nor in strings, nor in what is written about them."""
    found = PUSHER_WORDS.findall(path.read_text())
    assert found == []


@pytest.mark.parametrize("word", ["Pusher's", "pusher:ping", "socket_id", "socket id", "a 4009"])
def test_a_word_of_pushers_would_be_noticed(word: str) -> None:
    assert PUSHER_WORDS.search(f"# {word}")


@pytest.mark.parametrize("part", ["node", "hub", "engine"])
def test_the_node_and_what_it_imports_are_below_protocols_sockets_and_webhooks(part: str) -> None:
    for other in ("protocols", "net", "webhooks", "wire"):
        assert against_the_arrows(part, f"import heliograph.{other}")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_interned(path: Path) -> None:
    """Some releases of CPython never free an interned string, and clients send most of them."""
    assert "intern(" not in path.read_text()


def test_every_part_has_its_arrows() -> None:
    assert {part_of(path) for path in FILES} <= set(ALLOWED)


def test_every_pure_part_is_there() -> None:
    for name in PURE:
        assert any(name_of(path).startswith(name) for path in FILES), name
