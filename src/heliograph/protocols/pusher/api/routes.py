"""
The routes of Pusher's HTTP API: the endpoint of each path and method.

Knows paths, methods and the answers to errors; knows nothing of the endpoints' meaning. Requests
for other paths are passed to the next handler.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TypeAlias
from urllib.parse import unquote

from msgspec import Struct

from heliograph.errors import ApiError, EngineError
from heliograph.handler import Answer, AnswerReply, Handler
from heliograph.node.node import Node
from heliograph.node.tenant import ENGINE_UNAVAILABLE, Tenant
from heliograph.protocols.pusher import endpoint
from heliograph.protocols.pusher.api import channels, events, history, users
from heliograph.protocols.pusher.api.auth import Signers, authenticate, authenticate_fast
from heliograph.protocols.pusher.api.request import ApiRequest
from heliograph.reply import Later, Reply
from heliograph.wire.http import Request
from heliograph.wire.responses import Response, text

Endpoint: TypeAlias = Callable[[ApiRequest], Reply[Response]]

MAX_REMEMBERED_PATH = 256
MAX_REMEMBERED_PATHS = 256

MAX_LOGGED = 120
"""Characters of a refusal that are logged."""

_UPGRADE_REQUIRED = text(
    426,
    "This is a WebSocket endpoint: connect with a Pusher client library",
    headers=((b"Upgrade", b"websocket"),),
)


class Routes:
    """
    Answers the requests of the HTTP API, and passes all other requests to *otherwise*.

    *prefix* precedes every path of the API, and is not part of the signed text. *now_s* reads the
    wall clock. *api* and *websockets* are True if this port serves them.
    """

    def __init__(
        self,
        node: Node,
        *,
        prefix: str,
        now_s: Callable[[], float],
        api: bool = True,
        websockets: bool = True,
        otherwise: Handler,
    ) -> None:
        self._node = node
        self._signers = Signers(node)
        self._prefix = prefix
        self._posts: dict[bytes, tuple[Endpoint, str | None, bytes]] = {}
        self._now_s = now_s
        self._api = api
        self._websockets = websockets
        self._otherwise = otherwise

    def handle(self, request: Request) -> AnswerReply:
        """Answer *request*, now or later. Never raises."""
        try:
            reply = self._answer_fast(request) or self._route(request)
        except Exception as error:  # noqa: BLE001 - an answer is owed; see _failure
            return self._failure(error)
        if not isinstance(reply, Later):
            return reply
        answer: Later[Answer] = Later()
        reply.then(answer.resolve, lambda error: answer.resolve(self._failure(error)))
        return answer

    def _answer_fast(self, request: Request) -> Reply[Response] | None:
        """
        Answer a POST to a known path, signed in the form of most SDKs.

        None if `_route` must be used.
        """
        known = self._posts.get(request.path)
        if known is None or request.method != "POST":
            return None
        answer, app_id, path = known
        body, now_s = request.body, self._now_s()
        tenant = authenticate_fast(self._signers, app_id, path, request.query, body, now_s)
        if tenant is None:
            return None
        try:
            return answer(ApiRequest(tenant, (), body, now_s))
        except ApiError as error:
            self._note_refused(tenant, error)
            raise

    def _remember(self, path: bytes, answer: "Endpoint", app_id: str | None) -> None:
        if len(path) <= MAX_REMEMBERED_PATH:
            if len(self._posts) >= MAX_REMEMBERED_PATHS:
                self._posts.clear()
            self._posts[path] = (answer, app_id, path.removeprefix(self._prefix.encode()))

    def refuse_early(self, request: Request) -> Response | None:
        """
        Answer *request* before its body is received; None if the answer depends on the body.

        Only the body of a signed request is received: the signature is in the query.
        """
        try:
            path = request.path.decode("latin-1")
            found = self._endpoint_of(path)
            if found is None:
                if self._is_for_websockets(request, path):
                    return _UPGRADE_REQUIRED
                return self._otherwise.refuse_early(request)
            if request.method == "OPTIONS":
                return _options(found)
            self._authenticated(request, found, path.removeprefix(self._prefix), None)
        except Exception as error:  # noqa: BLE001 - an answer is owed; see _failure
            return self._failure(error)
        return None

    def _route(self, request: Request) -> AnswerReply:
        path = request.path.decode("latin-1")
        found = self._endpoint_of(path)
        if found is None:
            if self._is_for_websockets(request, path):
                return _UPGRADE_REQUIRED
            return self._otherwise.handle(request)
        if request.method == "OPTIONS":
            return _options(found)
        return self._answer_api(request, path.removeprefix(self._prefix), found)

    def _is_for_websockets(self, request: Request, path: str) -> bool:
        """Whether clients connect to *path* on this port, and *request* is not OPTIONS."""
        return (
            self._websockets
            and request.method != "OPTIONS"
            and endpoint.is_endpoint(unquote(path), self._prefix)
        )

    def _endpoint_of(self, path: str) -> "_Found | None":
        if not self._api or not path.startswith(self._prefix):
            return None
        below = path.removeprefix(self._prefix)
        # The request is not authenticated yet, so only short paths are cached, and only a few.
        find = _endpoint if len(below) <= MAX_REMEMBERED_PATH else _endpoint.__wrapped__
        return find(below)

    def _answer_api(self, request: Request, path: str, found: "_Found") -> Reply[Response]:
        answer, tenant, parameters = self._authenticated(request, found, path, request.body)
        if request.method == "POST":
            # Only paths of signed requests are cached.
            self._remember(request.path, answer, found.app_id)
        try:
            return answer(ApiRequest(tenant, parameters, request.body, self._now_s()))
        except ApiError as error:
            self._note_refused(tenant, error)
            raise

    def _authenticated(
        self, request: Request, found: "_Found", path: str, body: bytes | None
    ) -> tuple[Endpoint, Tenant, Sequence[tuple[str, str]]]:
        """
        Return the endpoint, the app that signed the request, and the query's parameters.

        *body* is None if it has not been received yet.
        """
        answer = found.methods.get(request.method) or _pick(found.methods, request.method)
        if request.query.count(b"&") >= endpoint.MAX_PARAMETERS:
            raise ApiError(400, f"More than {endpoint.MAX_PARAMETERS} query parameters")
        parameters = endpoint.query_parameters(request.query)
        try:
            tenant = authenticate(
                self._node,
                found.app_id,
                method=request.method,
                path=path,
                parameters=parameters,
                body=body,
                now_s=self._now_s(),
            )
        except ApiError as error:
            if error.status != 403:  # noqa: PLR2004 - the request is signed, its app is switched off
                # The text before the colon is one of a fixed set; the rest may come from a client.
                reason = error.message.partition(":")[0]
                self._node.request_failed(found.app_id, dict(parameters).get("auth_key"), reason)
            raise
        return answer, tenant, parameters

    def _note_refused(self, tenant: Tenant, error: ApiError) -> None:
        """Log the error in a signed request, so that the operator can correct the publisher."""
        reason = error.message[:MAX_LOGGED]
        self._node.refusals.note(
            f"app {tenant.app.id}", f"a signed request was refused: {error.status} {reason}"
        )

    def _failure(self, error: Exception) -> Response:
        if isinstance(error, ApiError):
            return text(error.status, error.message, headers=error.headers)
        if isinstance(error, EngineError):
            self._node.outages.note(ENGINE_UNAVAILABLE, f"a request was refused with 503 ({error})")
            return text(503, "The server cannot process this request now, try again later")
        self._node.faults.fault("a request failed", error)
        return text(500, "Internal server error")


def _options(found: "_Found") -> Response:
    """Answer OPTIONS with the methods of a path."""
    methods = _allowed([*found.methods, "OPTIONS"])
    return Response(204, b"", headers=((b"Allow", methods.encode()),))


class _Found(Struct, frozen=True):
    """The endpoints of a path by method, and the id of the app in the path."""

    app_id: str | None
    methods: "Mapping[str, Endpoint]"


@lru_cache(maxsize=1024)
def _endpoint(path: str) -> _Found | None:
    """Return the endpoints of *path*, without its prefix. Cached: publishers use few paths."""
    match path.split("/"):
        case ["", "apps", app_id, *segments]:
            found = _endpoints([unquote(segment) for segment in segments])
            return None if found is None else _Found(unquote(app_id), found)
        case ["", "users", user_id, "terminate_connections"]:
            # The Python SDK leaves /apps/{app_id} out; the app is found by its key.
            found = _endpoints(["users", unquote(user_id), "terminate_connections"])
            return None if found is None else _Found(None, found)
    return None


def _endpoints(segments: list[str]) -> Mapping[str, Endpoint] | None:
    """Return the endpoints under /apps/{app_id}/ by method, None if there is no such path."""
    match segments:
        case ["events"]:
            return {"POST": events.publish}
        case ["batch_events"]:
            return {"POST": events.publish_batch}
        case ["channels"]:
            return {"GET": channels.channels}
        case ["channels", name]:
            return {"GET": partial(channels.channel, name=name)}
        case ["channels", name, "history"]:
            return {"GET": partial(history.history, name=name)}
        case ["channels", name, "users"]:
            return {"GET": partial(channels.users, name=name)}
        case ["channels", name, "stats"]:
            return {"GET": partial(channels.stats, name=name)}
        case ["channels", name, "events"]:
            return {"POST": partial(events.publish_raw, channel=name)}
        case ["users", user_id, "terminate_connections"]:
            return {"POST": partial(users.terminate_connections, user_id=user_id)}
    return None


def _pick(methods: Mapping[str, Callable[..., Reply[Response]]], method: str) -> Endpoint:
    found = methods.get("GET" if method == "HEAD" else method)
    if found is None:
        raise _method_not_allowed(_allowed(methods))
    return found


def _allowed(methods: Iterable[str]) -> str:
    """Return *methods* in the form of a header, with HEAD if GET is one of them."""
    listed = list(methods)
    return ", ".join([*listed, *(("HEAD",) if "GET" in listed else ())])


def _method_not_allowed(allowed: str) -> ApiError:
    """The path exists, but not for this method."""
    return ApiError(
        405,
        f"Method not allowed. Allowed: {allowed}",
        headers=((b"Allow", allowed.encode()),),
    )
