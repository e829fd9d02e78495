"""
HTTP answers, counted and timed; and the page that shows all that is measured.

Only where somebody asked for metrics: otherwise requests go straight to their routes.
"""

import hmac
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from heliograph.api.response import Response, text
from heliograph.metrics import CONTENT_TYPE, Histogram
from heliograph.reply import Later, Reply
from heliograph.wire.http import Request

DURATIONS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

PATH = b"/metrics"

_NOT_FOUND = text(404, "Not found")


class Handler(Protocol):
    """Whoever answers HTTP requests."""

    def handle(self, request: Request) -> Reply[Response]:
        """Answer *request*, now or later. Never raises."""

    def refuse_early(self, request: Request) -> Response | None:
        """Answer *request* before its body has arrived, where its head decides the answer."""


class Requests:
    """What was counted of requests, for all ports together."""

    def __init__(self) -> None:
        self.answered: dict[tuple[str, ...], float] = {}  # by route and status
        self.durations = Histogram(DURATIONS_S)

    @property
    def unauthorized(self) -> float:
        """Requests whose signature was wrong, missing or too old."""
        return sum(count for labels, count in self.answered.items() if labels[1] == "401")

    def count(self, path: bytes, prefix: bytes, status: int, seconds: float) -> None:
        """Count an answer."""
        short = path if len(path) <= _LONGEST else path[:_LONGEST]
        key = (route_of(short.removeprefix(prefix)), str(status))
        self.answered[key] = self.answered.get(key, 0) + 1
        self.durations.observe(seconds)


_LONGEST = 256
_ENDPOINTS = frozenset(("events", "batch_events", "channels", "users"))


@lru_cache(maxsize=512)
def route_of(path: bytes) -> str:
    """Return the path with what varies left out; whatever is no path of ours is `other`."""
    match path.split(b"/"):
        case [b"", b"apps", _, endpoint] if endpoint.decode("latin-1") in _ENDPOINTS:
            return f"/apps/{{app}}/{endpoint.decode('latin-1')}"
        case [b"", b"apps", _, b"channels", _]:
            return "/apps/{app}/channels/{channel}"
        case [b"", b"apps", _, b"channels", _, (b"users" | b"stats" | b"events") as endpoint]:
            return f"/apps/{{app}}/channels/{{channel}}/{endpoint.decode()}"
        case [b"", b"apps", _, b"users", _, b"terminate_connections"]:
            return "/apps/{app}/users/{user}/terminate_connections"
        case [b"", b"users", _, b"terminate_connections"]:
            return "/users/{user}/terminate_connections"
        case [b"", b"app", _]:
            return "/app/{key}"
        case [b"", (b"up" | b"health" | b"ready" | b"metrics") as page]:
            return f"/{page.decode()}"
    return "other"


class Metered:
    """Answers as *handler* does, and counts and times it. *now* reads a monotonic clock."""

    def __init__(
        self, handler: Handler, requests: Requests, prefix: str, now: Callable[[], float]
    ) -> None:
        self._handler = handler
        self._requests = requests
        self._prefix = prefix.encode()
        self._now = now

    def handle(self, request: Request) -> Reply[Response]:
        """Answer *request*, now or later. Never raises."""
        began = self._now()
        reply = self._handler.handle(request)
        if not isinstance(reply, Later):
            self._count(request, reply, began)
            return reply
        answer: Later[Response] = Later()

        def answered(response: Response) -> None:
            self._count(request, response, began)
            answer.resolve(response)

        reply.then(answered, answer.fail)
        return answer

    def refuse_early(self, request: Request) -> Response | None:
        """Answer *request* before its body has arrived, where its head decides the answer."""
        began = self._now()
        response = self._handler.refuse_early(request)
        if response is not None:
            self._count(request, response, began)
        return response

    def _count(self, request: Request, response: Response, began: float) -> None:
        seconds = self._now() - began
        self._requests.count(request.path, self._prefix, response.status, seconds)


class MetricsPage:
    """
    Answers GET /metrics with what *scrape* returns, and leaves all else to *handler*.

    With a *token*, only to who has it: `Authorization: Bearer TOKEN`.
    """

    def __init__(
        self, scrape: Callable[[], bytes], token: str | None, handler: Handler | None = None
    ) -> None:
        self._scrape = scrape
        self._expected = None if token is None else b"Bearer " + token.encode()
        self._handler = handler

    def handle(self, request: Request) -> Reply[Response]:
        """Answer *request*, now or later. Never raises."""
        if request.path != PATH:
            return self._handler.handle(request) if self._handler else _NOT_FOUND
        return self._page(request)

    def refuse_early(self, request: Request) -> Response | None:
        """Answer *request* before its body has arrived, where its head decides the answer."""
        if request.path != PATH:
            return self._handler.refuse_early(request) if self._handler else _NOT_FOUND
        return self._page(request)  # its body is of no use

    def _page(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(204, b"", headers=((b"Allow", b"GET, OPTIONS, HEAD"),))
        if request.method not in ("GET", "HEAD"):
            return text(405, "Method not allowed", headers=((b"Allow", b"GET, HEAD"),))
        if self._expected is not None and not hmac.compare_digest(_given(request), self._expected):
            challenge = ((b"WWW-Authenticate", b'Bearer realm="metrics"'),)
            return text(401, "The token of --metrics_token is missing or wrong", headers=challenge)
        return Response(200, self._scrape(), CONTENT_TYPE)


def _given(request: Request) -> bytes:
    """Return the credentials of *request*, with the name of their scheme in our spelling."""
    given = request.lone_header(b"authorization") or b""
    scheme, _, token = given.partition(b" ")
    # RFC 9110 11.1: the scheme is the same in any case, and 11.4: spaces may follow it.
    return b"Bearer " + token.lstrip(b" ") if scheme.lower() == b"bearer" else given
