"""
The HTTP endpoint: `POST /line/publish` with `ROOM TEXT` as its body.

It has `Authorization: Bearer KEY:TOKEN`, where TOKEN signs the word `publish` with the secret of
the key. All other requests are passed on.
"""

from heliograph.errors import EngineError
from heliograph.handler import Answer, AnswerReply, Handler
from heliograph.hub.facts import Event
from heliograph.node.node import Node
from heliograph.node.tenant import Tenant
from heliograph.protocols.json import string_literal
from heliograph.protocols.kinds import history_of, kind_of
from heliograph.reply import Later
from heliograph.wire.http import Request
from heliograph.wire.responses import Response, text
from tests.protocols.line import lines
from tests.protocols.line.dialect import PATH

_PUBLISHED = text(200, "published")
_UNAUTHORIZED = text(401, "Unauthorized", headers=((b"WWW-Authenticate", b"Bearer"),))


class Publish:
    """Answers requests for *prefix* and `/line/publish`; *otherwise* answers the others."""

    def __init__(self, node: Node, prefix: str, otherwise: Handler) -> None:
        self._node = node
        self._path = f"{prefix}{PATH}publish".encode()
        self._otherwise = otherwise

    def handle(self, request: Request) -> AnswerReply:
        """Answer *request*, now or later. Never raises."""
        if request.path != self._path:
            return self._otherwise.handle(request)
        try:
            return self._publish(request)
        except Exception as error:  # noqa: BLE001 - an answer is owed, and the fault is logged
            return self._failure(error)

    def refuse_early(self, request: Request) -> Response | None:
        """Answer *request* where it is not authorized: its body is not received."""
        if request.path != self._path:
            return self._otherwise.refuse_early(request)
        found = self._authorized(request)
        return found if isinstance(found, Response) else None

    def _authorized(self, request: Request) -> Tenant | Response:
        """Return the app that a request is for, or the answer that refuses it."""
        if request.method != "POST":
            return text(405, "Method not allowed", headers=((b"Allow", b"POST"),))
        given = (request.lone_header(b"authorization") or b"").decode("latin-1")
        key, _, token = given.removeprefix("Bearer ").partition(":")
        tenant = self._node.tenant_of_key(key)
        secret = None if tenant is None else tenant.app.secret(key)
        if tenant is None or not lines.is_proof(secret, token, "publish"):
            self._node.request_failed(None, key or None, "wrong token")
            return _UNAUTHORIZED
        return tenant if tenant.app.enabled else text(403, "The app is disabled")

    def _publish(self, request: Request) -> AnswerReply:
        tenant = self._authorized(request)
        if isinstance(tenant, Response):
            return tenant
        room, space, words = request.body.partition(b" ")
        if not room or not space or not room.isascii():
            return text(400, "The body is not of the form: ROOM TEXT")
        limit = tenant.app.max_event_bytes
        if limit and len(words) > limit:
            return text(413, f"The text is larger than {limit} bytes")
        if tenant.admit_publishes(1):
            return text(429, "Too many events, try again later")
        channel, data = room.decode(), string_literal(words.decode(errors="replace"))
        history = history_of(tenant, channel, kind_of(channel))
        keep = None if history is None else history.keep
        reply = tenant.publish((Event(channel, lines.PUBLISHED_EVENT, data, keep=keep),))
        if not isinstance(reply, Later):
            return _PUBLISHED
        answer: Later[Answer] = Later()
        reply.then(
            lambda _nothing: answer.resolve(_PUBLISHED),
            lambda error: answer.resolve(self._failure(error)),
        )
        return answer

    def _failure(self, error: Exception) -> Response:
        if isinstance(error, EngineError):
            return text(503, "Unavailable, try again later")
        self._node.faults.fault("a request failed", error)
        return text(500, "Internal server error")


def route_of(path: bytes) -> str | None:
    """Return the name of *path* in metrics, None for a path of others."""
    if path == f"{PATH}publish".encode():
        return f"{PATH}publish"
    return f"{PATH}{{key}}" if path.startswith(PATH.encode()) else None
