"""
CORS: pages of other sites that may use the HTTP API from a browser.

Only used if CORS is configured: otherwise requests go directly to their routes, and browsers do
not pass the answers to pages of other sites. CORS grants no access; these requests are signed as
all others are.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

import re
from collections.abc import Sequence

from heliograph.handler import Answer, AnswerReply, Handler, Takeover
from heliograph.net.takeover import Handover
from heliograph.origins import origin_allowed
from heliograph.reply import Later
from heliograph.wire.http import Request
from heliograph.wire.responses import Response

Headers = tuple[tuple[bytes, bytes], ...]


class CrossOrigin:
    """Allows pages from *allowed* to read the answers of *handler* under *paths*."""

    def __init__(self, allowed: Sequence[str], paths: Sequence[str], handler: Handler) -> None:
        self._allowed = allowed
        self._paths = tuple(path.encode() for path in paths)
        self._handler = handler

    def handle(self, request: Request) -> AnswerReply:
        """Answer *request*, now or later. Never raises."""
        if not request.path.startswith(self._paths):
            return self._handler.handle(request)
        headers, asks = self._headers(request)
        if asks:
            return Response(204, b"", headers=headers + _permissions(request))
        reply = self._handler.handle(request)
        if not isinstance(reply, Later):
            return _with(reply, headers)
        answer: Later[Answer] = Later()
        reply.then(lambda found: answer.resolve(_with(found, headers)), answer.fail)
        return answer

    def refuse_early(self, request: Request) -> Response | None:
        """Answer *request* before its body arrives, if its head decides the answer."""
        response = self._handler.refuse_early(request)
        if response is None or not request.path.startswith(self._paths):
            return response
        headers, asks = self._headers(request)
        if asks:
            return Response(204, b"", headers=headers + _permissions(request))
        return _with_headers(response, headers)

    def _headers(self, request: Request) -> tuple[Headers, bool]:
        """Return the CORS headers, and whether the request is a preflight request."""
        # With Vary, caches store the answer for each site separately.
        headers: Headers = ((b"Vary", b"Origin"),)
        origin = request.lone_header(b"origin")
        if origin is None or not self._allows(origin):
            return headers, False
        headers += ((b"Access-Control-Allow-Origin", origin),)
        asks = bool(request.header(b"access-control-request-method"))
        return headers, asks and request.method == "OPTIONS"

    def _allows(self, origin: bytes) -> bool:
        # The answer repeats the origin, so the origin must be short and visible ASCII.
        return _VISIBLE.fullmatch(origin) is not None and origin_allowed(
            origin.decode("ascii"), self._allowed
        )


_VISIBLE = re.compile(rb"[!-~]{1,256}")
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z, -]{1,256}")


def _permissions(request: Request) -> Headers:
    """Return the headers that answer a preflight request: the methods and headers allowed."""
    permissions: Headers = (
        (b"Access-Control-Allow-Methods", b"GET, HEAD, POST"),
        (b"Access-Control-Max-Age", b"600"),
    )
    asked = request.header(b"access-control-request-headers")
    if asked is not None and _NAMES.fullmatch(asked):
        permissions += ((b"Access-Control-Allow-Headers", asked),)
    return permissions


class _WithHeaders:
    """A takeover whose response also has *headers*."""

    __slots__ = ("_headers", "_takeover", "status")

    def __init__(self, takeover: Takeover, headers: Headers) -> None:
        self._takeover = takeover
        self._headers = headers
        self.status = takeover.status

    def take(self, handover: Handover, /) -> None:
        """Take over the connection, with the headers added."""
        handover.headers += self._headers
        self._takeover.take(handover)


def _with(answer: Answer, headers: Headers) -> Answer:
    """Add *headers* to the response of an answer."""
    if isinstance(answer, Response):
        return _with_headers(answer, headers)
    return _WithHeaders(answer, headers)


def _with_headers(response: Response, headers: Headers) -> Response:
    return Response(
        response.status, response.body, response.content_type, (*response.headers, *headers)
    )
