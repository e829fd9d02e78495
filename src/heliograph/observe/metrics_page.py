"""
Counts and times HTTP responses, and serves the page with all metrics.

Used only if metrics are configured: otherwise requests go directly to their routes.
"""

import hmac
from collections.abc import Callable
from functools import lru_cache

from heliograph.handler import Answer, AnswerReply, Handler
from heliograph.observe.metrics import CONTENT_TYPE, Histogram
from heliograph.reply import Later
from heliograph.wire.http import Request
from heliograph.wire.responses import Response, text

DURATIONS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

PATH = b"/metrics"

_NOT_FOUND = text(404, "Not found")


class Requests:
    """
    The counters of requests, for all ports together.

    *route_of* returns the name of a path in metrics; it is one of few, whatever path is requested.
    """

    def __init__(self, route_of: Callable[[bytes], str]) -> None:
        self.answered: dict[tuple[str, ...], float] = {}  # by route and status
        self.durations = Histogram(DURATIONS_S)
        self._route_of = lru_cache(maxsize=512)(route_of)

    @property
    def unauthorized(self) -> float:
        """Requests whose signature was wrong, missing or too old."""
        return sum(count for labels, count in self.answered.items() if labels[1] == "401")

    def count(self, path: bytes, status: int, seconds: float) -> None:
        """Count a response."""
        short = path if len(path) <= _LONGEST else path[:_LONGEST]
        key = (self._route_of(short), str(status))
        self.answered[key] = self.answered.get(key, 0) + 1
        self.durations.observe(seconds)


_LONGEST = 256


class Metered:
    """Passes requests to *handler*; counts and times responses. *now* reads a monotonic clock."""

    def __init__(self, handler: Handler, requests: Requests, now: Callable[[], float]) -> None:
        self._handler = handler
        self._requests = requests
        self._now = now

    def handle(self, request: Request) -> AnswerReply:
        """Answer *request*, now or later. Never raises."""
        began = self._now()
        reply = self._handler.handle(request)
        if not isinstance(reply, Later):
            self._count(request, reply, began)
            return reply
        answer: Later[Answer] = Later()

        def answered(response: Answer) -> None:
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

    def _count(self, request: Request, response: Answer, began: float) -> None:
        seconds = self._now() - began
        self._requests.count(request.path, response.status, seconds)


class MetricsPage:
    """
    Answers GET /metrics with the result of *scrape*, and passes all other requests to *handler*.

    With a *token*, a request for the page needs `Authorization: Bearer TOKEN`.
    """

    def __init__(
        self, scrape: Callable[[], bytes], token: str | None, handler: Handler | None = None
    ) -> None:
        self._scrape = scrape
        self._expected = None if token is None else b"Bearer " + token.encode()
        self._handler = handler

    def handle(self, request: Request) -> AnswerReply:
        """Answer *request*, now or later. Never raises."""
        if request.path != PATH:
            return self._handler.handle(request) if self._handler else _NOT_FOUND
        return self._page(request)

    def refuse_early(self, request: Request) -> Response | None:
        """Answer *request* before its body has arrived, where its head decides the answer."""
        if request.path != PATH:
            return self._handler.refuse_early(request) if self._handler else _NOT_FOUND
        return self._page(request)  # its body is ignored

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
    """Return the credentials of *request*; a Bearer scheme in any case is spelled `Bearer`."""
    given = request.lone_header(b"authorization") or b""
    scheme, _, token = given.partition(b" ")
    # RFC 9110 11.1: the scheme is case-insensitive; 11.4: spaces may follow it.
    return b"Bearer " + token.lstrip(b" ") if scheme.lower() == b"bearer" else given
