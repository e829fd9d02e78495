"""
The pages of every port: whether the server runs, and whether it accepts new clients.

The last handler of a port: it answers paths that no protocol has with 404.
"""

from collections.abc import Callable, Mapping

from heliograph.wire.http import Request
from heliograph.wire.responses import Response, text

HOME = (
    "Heliograph, a realtime server.\n"
    "GET /health answers 200 while the server runs, GET /ready while it accepts new clients.\n"
    "Documentation: README.md and docs/ in the source."
)

_NOT_FOUND = text(404, "Not found")
_METHODS = "GET, HEAD"


class Readiness:
    """
    Whether the server accepts new clients; *why_not* is the reason if it does not, else "".

    A server starts, serves, and drains. A draining server still serves its clients, but accepts no
    new ones.
    """

    __slots__ = ("why_not",)

    def __init__(self) -> None:
        self.why_not = "starting"

    @property
    def ready(self) -> bool:
        """Whether the server accepts new clients."""
        return not self.why_not


class Pages:
    """
    Answers /, /health, /up, /ready and /accept-traffic, with and without *prefix*.

    *why_not_ready* returns "" while new clients are accepted, else the reason in a few words.
    """

    def __init__(self, prefix: str, why_not_ready: Callable[[], str]) -> None:
        self._why_not_ready = why_not_ready
        pages: dict[str, Callable[[], Response]] = {
            "/health": _health,
            "/up": _health,
            "/ready": self._ready,
            "/accept-traffic": self._ready,
        }
        # A proxy forwards paths with the prefix; a health check of the server itself has none.
        self._pages: Mapping[bytes, Callable[[], Response]] = {
            path.encode(): page
            for path, page in {
                "/": _home,
                prefix or "/": _home,
                f"{prefix}/": _home,
                **pages,
                **{prefix + path: page for path, page in pages.items()},
            }.items()
        }

    def handle(self, request: Request) -> Response:
        """Answer *request*. Never raises."""
        page = self._pages.get(request.path)
        if request.method == "OPTIONS":
            methods = b"GET, OPTIONS, HEAD" if page is not None else b"GET, POST, OPTIONS, HEAD"
            return Response(204, b"", headers=((b"Allow", methods),))
        if page is None:
            return _NOT_FOUND
        if request.method not in ("GET", "HEAD"):
            return method_not_allowed(_METHODS)
        return page()

    def refuse_early(self, request: Request) -> Response:
        """Answer *request* before its body arrives, since no page needs a body."""
        return self.handle(request)

    def _ready(self) -> Response:
        """200 while new clients are accepted, else 503 and the reason."""
        why_not = self._why_not_ready()
        return text(503, f"Not ready: {why_not}") if why_not else text(200, "OK")


def route_of(path: bytes) -> str | None:
    """Return the name of a page in metrics; None if *path* has no name of its own there."""
    return path.decode() if path in (b"/up", b"/health", b"/ready", b"/metrics") else None


def method_not_allowed(allowed: str) -> Response:
    """Return the response for a path that exists, but not for the request's method."""
    return text(
        405, f"Method not allowed. Allowed: {allowed}", headers=((b"Allow", allowed.encode()),)
    )


def _health() -> Response:
    """200 while the server runs."""
    return text(200, "OK")


def _home() -> Response:
    """200 with a short page, which load balancers request."""
    return text(200, HOME)
