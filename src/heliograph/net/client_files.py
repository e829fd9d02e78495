"""
Files for pages: the add-ons to client libraries, on every port that serves clients.

Knows their bytes, which it is given, and the headers that they need. A file has no secret, and any
page may load it, from any origin.
"""

import hashlib
from collections.abc import Mapping

from heliograph.handler import AnswerReply, Handler
from heliograph.net.pages import method_not_allowed
from heliograph.wire.http import Request
from heliograph.wire.responses import Response

FOLDER = "/clients/"
JAVASCRIPT = "text/javascript; charset=utf-8"
MAX_AGE_S = 3600
"""
Seconds for which browsers use a file without a request.

The number in the name of a file is that of its interface: the bytes may change with the server.
"""

_METHODS = "GET, HEAD, OPTIONS"


class _File:
    """The two responses for a file: its bytes, and that they have not changed."""

    def __init__(self, body: bytes) -> None:
        self.tag = b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode()
        caching = (
            (b"ETag", self.tag),
            (b"Cache-Control", b"public, max-age=%d" % MAX_AGE_S),
            (b"Access-Control-Allow-Origin", b"*"),
        )
        security = (
            (b"Cross-Origin-Resource-Policy", b"cross-origin"),
            (b"X-Content-Type-Options", b"nosniff"),
        )
        self.whole = Response(200, body, JAVASCRIPT, (*caching, *security))
        self.not_modified = Response(304, b"", JAVASCRIPT, caching)


class ClientFiles:
    """
    Answers requests for *files*, by their names under `/clients/`, with and without *prefix*.

    All other requests are passed to *otherwise*.
    """

    def __init__(self, prefix: str, files: Mapping[str, bytes], otherwise: Handler) -> None:
        self._otherwise = otherwise
        self._files: dict[bytes, _File] = {}
        for name, body in files.items():
            file = _File(body)
            for start in (FOLDER, prefix + FOLDER):
                self._files[(start + name).encode()] = file

    def handle(self, request: Request) -> AnswerReply:
        """Answer *request*. Never raises."""
        file = self._files.get(request.path)
        return self._otherwise.handle(request) if file is None else _answer(request, file)

    def refuse_early(self, request: Request) -> Response | None:
        """Answer *request* before its body arrives, since no file needs a body."""
        file = self._files.get(request.path)
        return self._otherwise.refuse_early(request) if file is None else _answer(request, file)


def route_of(path: bytes) -> str | None:
    """Return the name of *path* in metrics; None if it is not in the folder of these files."""
    return FOLDER + "{file}" if path.startswith(FOLDER.encode()) else None


def _answer(request: Request, file: _File) -> Response:
    if request.method == "OPTIONS":
        return Response(204, b"", headers=((b"Allow", _METHODS.encode()),))
    if request.method not in ("GET", "HEAD"):
        return method_not_allowed(_METHODS)
    return file.not_modified if _has(request, file.tag) else file.whole


def _has(request: Request, tag: bytes) -> bool:
    """Whether the client has the file with *tag* (RFC 9110, 13.1.2: by weak comparison)."""
    known = request.header(b"if-none-match") or b""
    tags = [one.strip().removeprefix(b"W/") for one in known.split(b",")]
    return tag in tags or tags == [b"*"]
