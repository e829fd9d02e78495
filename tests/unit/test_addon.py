"""The add-on to pusher-js: what of it can be checked without a browser, and how it is served."""

import gzip
import re
from pathlib import Path

import pytest

from heliograph.assembly import CLIENT_FILES, read_client_file
from heliograph.handler import AnswerReply
from heliograph.net.client_files import ClientFiles, route_of
from heliograph.wire.http import Request
from heliograph.wire.responses import Response, text

ROOT = Path(__file__).parents[2]
ADDON = (ROOT / "clients" / "heliograph-resume.js").read_bytes()
README = (ROOT / "clients" / "README.md").read_text()
MAX_COMPRESSED_BYTES = 2048

OTHERWISE = text(404, "Not found")
LATER_SYNTAX = re.compile(
    r"\?\.|\?\?|\*\*=|\.\.\.|\bcatch\s*\{|\basync\b|\bawait\b|\bfor await\b|\bimport\b|\bexport\b"
    r"|\bglobalThis\b|\bstatic\b|#\w|\b\d+n\b",
)
"""Syntax and globals that ECMAScript 2017 does not have, and those of modules."""


class Missing:
    """The next handler: has no file."""

    def handle(self, _request: Request) -> AnswerReply:
        return OTHERWISE

    def refuse_early(self, _request: Request) -> Response | None:
        return OTHERWISE


FILES = ClientFiles("/realtime", {"one.js": b"1", "two.js": b"2"}, Missing())


def ask(path: str, method: str = "GET", known: bytes | None = None) -> Response:
    headers = [] if known is None else [(b"if-none-match", known)]
    request = Request(method, path.encode(), path.encode(), b"", "1.1", headers, keep_alive=True)
    answer = FILES.handle(request)
    assert isinstance(answer, Response)
    assert FILES.refuse_early(request) == answer
    return answer


def test_the_add_on_has_less_than_two_kilobytes_compressed() -> None:
    assert len(gzip.compress(ADDON, 9)) < MAX_COMPRESSED_BYTES


def test_the_add_on_has_no_syntax_that_is_newer_than_pusher_js_needs() -> None:
    code = re.sub(r"//.*|/\*.*?\*/|'[^']*'", "", ADDON.decode("ascii"))
    assert LATER_SYNTAX.findall(code) == []
    assert LATER_SYNTAX.findall("a ?? b") == ["??"]


def test_each_served_file_is_read_from_the_sources() -> None:
    assert {name: read_client_file(name) for _, name in CLIENT_FILES} == {
        "heliograph-resume.js": ADDON
    }


def test_the_readme_names_the_path_at_which_the_add_on_is_served() -> None:
    for served, name in CLIENT_FILES:
        assert f"/clients/{served}" in README
        assert f"`{name}`" in README


@pytest.mark.parametrize("prefix", ["", "/realtime"])
def test_a_file_has_its_bytes_and_the_headers_for_pages_of_any_origin(prefix: str) -> None:
    answer = ask(f"{prefix}/clients/one.js")
    assert (answer.status, answer.body) == (200, b"1")
    assert answer.content_type == "text/javascript; charset=utf-8"
    headers = dict(answer.headers)
    assert headers.pop(b"ETag").startswith(b'"')
    assert headers == {
        b"Access-Control-Allow-Origin": b"*",
        b"Cache-Control": b"public, max-age=3600",
        b"Cross-Origin-Resource-Policy": b"cross-origin",
        b"X-Content-Type-Options": b"nosniff",
    }


@pytest.mark.parametrize("form", [b"%b", b"W/%b", b'"other", %b', b"%b,W/%b", b"*"])
def test_a_client_that_has_the_file_gets_no_body(form: bytes) -> None:
    tag = dict(ask("/clients/one.js").headers)[b"ETag"]
    answer = ask("/clients/one.js", known=form.replace(b"%b", tag))
    assert (answer.status, answer.body) == (304, b"")
    assert dict(answer.headers)[b"ETag"] == tag


@pytest.mark.parametrize("known", [b"", b'"other"', b'"*"', b"1"])
def test_a_client_that_has_another_version_gets_the_file(known: bytes) -> None:
    other = dict(ask("/clients/two.js").headers)[b"ETag"]
    for tag in (known, other):
        assert ask("/clients/one.js", known=tag).body == b"1"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_file_is_only_read(method: str) -> None:
    answer = ask("/clients/one.js", method)
    assert (answer.status, dict(answer.headers)) == (405, {b"Allow": b"GET, HEAD, OPTIONS"})


def test_options_has_the_methods_of_a_file() -> None:
    answer = ask("/clients/one.js", "OPTIONS")
    assert (answer.status, dict(answer.headers)) == (204, {b"Allow": b"GET, HEAD, OPTIONS"})


@pytest.mark.parametrize(
    "path",
    [
        *("/clients", "/clients/", "/clients/three.js", "/clients/one.js/", "/Clients/one.js"),
        *("/one.js", "/clients/../clients/one.js", "/clients/%6fne.js", "/realtime/one.js"),
    ],
)
def test_other_paths_are_passed_to_the_next_handler(path: str) -> None:
    assert ask(path) == OTHERWISE


def test_files_have_one_name_in_metrics() -> None:
    assert route_of(b"/clients/one.js") == route_of(b"/clients/three.js") == "/clients/{file}"
    assert route_of(b"/clients") is None
