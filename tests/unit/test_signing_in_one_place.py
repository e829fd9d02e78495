"""
Where signatures are made: in `heliograph.client`, and in what has to be independent of it.

The independent places check the client, or the server, with code of their own. A further file that
signs by hand fails here: use `heliograph.client.signing`.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "bench", "soak", "fuzz", "conformance", "mutate", "examples", "ops")

SIGNS = re.compile(
    r"\bhmac\.(new|digest|HMAC)\b|\bmd5\("
    r"|\bauth\.(sign|Signer|request_string|channel_string|user_string|body_md5)\b"
)
"""Code that computes a signature or a checksum, with the standard library or with the server's."""

NAMES = re.compile(r"auth_signature|body_md5")
"""The parameters of a signed request, of which most callers need to know nothing."""

CLIENT = {"src/heliograph/client/signing.py"}
SERVER = {
    "src/heliograph/protocols/pusher/api/auth.py",
    "src/heliograph/protocols/pusher/auth.py",
    "src/heliograph/protocols/pusher/session.py",
    "src/heliograph/webhooks/payload.py",
}
INDEPENDENT = {
    "examples/chat/app.py",  # a file to copy, which needs nothing but the standard library
    "fuzz/rig.py",  # signs messages that no client sends, with code that is fuzzed
    "fuzz/targets.py",  # the oracle of signatures
    "tests/protocols/line/lines.py",  # another protocol, whose proofs are its own
    "tests/unit/test_api_auth.py",  # every wrong signature of a request, and what the server says
    "tests/unit/test_client_signing.py",  # compares the client with the server
    "tests/unit/test_pusher_auth.py",  # the vectors of Pusher's documents
    "tests/unit/test_session_checks.py",  # every wrong signature of a message
}
WRONG_ON_PURPOSE = {
    "tests/integration/rig.py",  # replaces and omits parameters of a signed request
    "tests/integration/test_api.py",
    "tests/integration/test_greedy_clients.py",
    "tests/integration/test_history_access.py",
    "tests/integration/test_history_api.py",
    "tests/integration/test_logs.py",
    "tests/integration/test_secrets.py",
    "tests/integration/test_warm_paths.py",
    "tests/ops/test_dashboard.py",
}
"""Tests that have the rig sign a request and spoil it."""

TEXT_ONLY = {"tests/unit/test_http_wire.py"}  # the parameter is a part of a URL to parse

HERE = str(Path(__file__).relative_to(ROOT))


def files_with(pattern: re.Pattern[str]) -> set[str]:
    return {
        name
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if "node_modules" not in path.parts
        and (name := path.relative_to(ROOT).as_posix()) != HERE
        and pattern.search(path.read_text())
    }


def test_signatures_are_computed_by_the_client_the_server_and_independent_checks() -> None:
    assert files_with(SIGNS) == CLIENT | SERVER | INDEPENDENT


def test_the_parameters_of_a_signature_are_named_by_few_files() -> None:
    sign_no_requests = {
        "fuzz/rig.py",
        "src/heliograph/protocols/pusher/session.py",
        "src/heliograph/webhooks/payload.py",
        "tests/protocols/line/lines.py",
        "tests/unit/test_session_checks.py",
    }
    sign_requests = (CLIENT | SERVER | INDEPENDENT) - sign_no_requests
    assert files_with(NAMES) == sign_requests | WRONG_ON_PURPOSE | TEXT_ONLY


@pytest.mark.parametrize(
    "line",
    [
        "hmac.new(secret, text, 'sha256')",
        "hmac.digest(secret, text, 'sha256')",
        "hashlib.md5(body, usedforsecurity=False)",
        "from hashlib import md5; md5(body)",
        "signature = auth.sign(secret, text)",
        "map(auth.request_string, requests)",
    ],
)
def test_a_signature_by_hand_would_be_noticed(line: str) -> None:
    assert SIGNS.search(line)


def test_comparisons_and_other_names_are_no_signatures() -> None:
    for line in ("hmac.compare_digest(a, b)", "signing.body_md5(body)", "client.sign('private-c')"):
        assert not SIGNS.search(line)
