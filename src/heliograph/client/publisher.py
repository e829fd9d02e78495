"""
A publisher: the HTTP API of a server, over connections that are kept.

Knows the paths and bodies of the HTTP API. What may be published is for the server to decide.

Source: https://pusher.com/docs/channels/library_auth_reference/rest-api/
"""

import asyncio
import ssl as tls
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from heliograph.client.errors import InvalidAnswer, RequestRefused, Unreachable
from heliograph.client.signing import Credentials, Parameters
from heliograph.client.urls import HTTP, base_url

IN_A_PATH = "=@,;"
"""Characters of a channel's name that a path has as they are."""

MAX_ANSWER_BYTES = 64 << 20
"""More than the list of a million channels."""

READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of the HTTP API. The names of *headers* are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace").strip()

    def json(self) -> dict[str, Any]:
        """Return the object in the body of a 200. Raises RequestRefused, InvalidAnswer."""
        if self.status != HTTPStatus.OK:
            raise RequestRefused(self.status, self.text)
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidAnswer(f"the answer is not a JSON object: {self.text[:200]}") from None


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """
    An event to publish on one channel.

    *data* that is no string is sent as its JSON text. The client with *socket_id* does not receive
    the event. *info* names the attributes of the channel that the answer contains. A *transient*
    event is not kept in the history of the channel.
    """

    channel: str
    name: str
    data: Any
    socket_id: str | None = None
    info: Sequence[str] = ()
    transient: bool = False


class Publisher:
    """
    The HTTP API of the server at *url*, for the app *app_id*.

    *url* is http, https, ws or wss, and may have a path, which is the prefix of the server's paths.
    Another one raises ValueError.
    *ssl* verifies the server's certificate; the default is the certificates that the system trusts.
    *connections* requests are sent at the same time, further ones wait for one of them. *clock*
    returns the time in seconds since 1970, with which requests are signed.

    Methods raise RequestRefused if the answer is not 200, Unreachable if there is none within
    *timeout_s* seconds, and InvalidAnswer if the answer is not what the API returns. No POST is
    sent twice: after Unreachable, the server may have executed it. A publish with an
    *idempotency_key* may be repeated by the caller, within a minute: it is executed once.
    """

    def __init__(
        self,
        url: str,
        app_id: str,
        credentials: Credentials,
        *,
        ssl: tls.SSLContext | None = None,
        timeout_s: float = 10.0,
        connections: int = 1,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._base = base_url(url, HTTP)
        self._app_path = f"/apps/{quote(app_id, safe='')}"
        self._credentials = credentials
        self._ssl = ssl
        self._timeout_s = timeout_s
        self._connections = connections
        self._max_answer_bytes = max_answer_bytes
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The next request opens one again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # -- Events ----------------------------------------------------------------------------

    async def publish(
        self,
        channels: str | Sequence[str],
        name: str,
        data: Any,
        *,
        socket_id: str | None = None,
        info: Sequence[str] = (),
        transient: bool = False,
        idempotency_key: str | None = None,
    ) -> dict[str, dict[str, Any]]:
        """
        Publish one event on one or several channels.

        *data*, *socket_id*, *info* and *transient* are as in OutgoingEvent. Return the attributes
        that *info* names, by channel.
        """
        names = [channels] if isinstance(channels, str) else list(channels)
        body = {
            "name": name,
            "channels": names,
            "data": _text(data),
            **_options(socket_id, info, transient),
            **_key(idempotency_key),
        }
        answer = await self.post("/events", body)
        found: dict[str, dict[str, Any]] = answer.get("channels", {})
        return found

    async def publish_batch(
        self, events: Sequence[OutgoingEvent], *, idempotency_key: str | None = None
    ) -> list[dict[str, Any]]:
        """Publish several events. Return the attributes that each asks for, if any does."""
        batch = [
            {
                "name": event.name,
                "channel": event.channel,
                "data": _text(event.data),
                **_options(event.socket_id, event.info, event.transient),
            }
            for event in events
        ]
        answer = await self.post("/batch_events", {"batch": batch, **_key(idempotency_key)})
        found: list[dict[str, Any]] = answer.get("batch", [])
        return found

    async def publish_to_user(self, user_id: str, name: str, data: Any) -> None:
        """Publish an event to the connections that are signed in as *user_id*."""
        await self.publish(f"#server-to-user-{user_id}", name, data)

    async def terminate(self, user_id: str) -> None:
        """Close all connections that are signed in as *user_id*."""
        await self.post(f"/users/{quote(user_id, safe=IN_A_PATH)}/terminate_connections", {})

    # -- State -----------------------------------------------------------------------------

    async def channels(
        self, *, prefix: str | None = None, info: Sequence[str] = ()
    ) -> dict[str, dict[str, Any]]:
        """Return the occupied channels, each with the attributes that *info* names."""
        parameters = [] if prefix is None else [("filter_by_prefix", prefix)]
        answer = await self.get("/channels", [*parameters, *_asked(info)])
        found = answer.get("channels")
        if not isinstance(found, dict):
            raise InvalidAnswer("the answer has no channels")
        return found

    async def channel(self, name: str, *, info: Sequence[str] = ()) -> dict[str, Any]:
        """Return whether a channel is occupied, and the attributes that *info* names."""
        return await self.get(f"/channels/{quote(name, safe=IN_A_PATH)}", _asked(info))

    async def users(self, channel: str) -> list[str]:
        """Return the ids of the users in a presence channel."""
        answer = await self.get(f"/channels/{quote(channel, safe=IN_A_PATH)}/users")
        try:
            return [user["id"] for user in answer["users"]]
        except (LookupError, TypeError):
            raise InvalidAnswer("the answer has no users with ids") from None

    async def history(
        self,
        channel: str,
        *,
        since: float | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> dict[str, Any]:
        """
        Return kept events of *channel*, and its position.

        The events are those at *since* (seconds since 1970) or later, or those after *cursor*, or
        all; at most *limit* of them. The answer has a cursor for those that follow.
        """
        given = [
            ("since", None if since is None else f"{since:.3f}"),
            ("cursor", cursor),
            ("limit", None if limit is None else str(limit)),
        ]
        parameters = [(name, value) for name, value in given if value is not None]
        return await self.get(f"/channels/{quote(channel, safe=IN_A_PATH)}/history", parameters)

    # -- Any request -----------------------------------------------------------------------

    async def get(self, path: str, parameters: Parameters = ()) -> dict[str, Any]:
        """Return the answer to a GET of *path*, which is below the path of the app."""
        return (await self.request("GET", path, parameters=parameters)).json()

    async def post(self, path: str, body: Any) -> dict[str, Any]:
        """Return the answer to a POST of *body* as JSON to *path*, below the path of the app."""
        return (await self.request("POST", path, body=msgspec.json.encode(body))).json()

    async def request(
        self, method: str, path: str, *, body: bytes = b"", parameters: Parameters = ()
    ) -> Answer:
        """Send a signed request, whatever its answer. Raises Unreachable, InvalidAnswer."""
        target = self._credentials.request_target(
            method, self._app_path + path, at=self._clock(), parameters=parameters, body=body
        )
        try:
            url = URL(self._base + target, encoded=True)  # signed as it is
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(method, url, body)
        except TimeoutError:
            raise Unreachable(f"no answer within {self._timeout_s:g} s") from None
        except (
            aiohttp.ClientConnectionError,
            aiohttp.ClientPayloadError,  # cut off in the middle of an answer
            OSError,
            ValueError,
        ) as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        except aiohttp.ClientError as error:
            raise InvalidAnswer(f"the answer is not HTTP: {error}") from error

    async def _exchange(self, method: str, url: URL, body: bytes) -> Answer:
        session = self._session
        if session is None:
            # Not the context that aiohttp makes when it is imported: the environment may change.
            context = self._ssl or (url.scheme == "https" and tls.create_default_context())
            session = self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, ssl=context or True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # a request has its own
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
            )
        headers = {"Content-Type": "application/json"} if body else {}
        async with session.request(
            method, url, data=body or None, headers=headers, allow_redirects=False
        ) as response:
            received = bytearray()
            async for part in response.content.iter_chunked(READ_BYTES):
                received += part
                if len(received) > self._max_answer_bytes:
                    response.close()
                    raise InvalidAnswer(f"the answer exceeds {self._max_answer_bytes} bytes")
            lower = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, lower, bytes(received))


def _text(data: Any) -> str:
    return data if isinstance(data, str) else msgspec.json.encode(data).decode()


def _options(socket_id: str | None, info: Sequence[str], transient: bool) -> dict[str, Any]:
    options: dict[str, Any] = dict(_asked(info))
    if socket_id is not None:
        options["socket_id"] = socket_id
    if transient:
        options["transient"] = True
    return options


def _key(idempotency_key: str | None) -> dict[str, str]:
    return {} if idempotency_key is None else {"idempotency_key": idempotency_key}


def _asked(info: Sequence[str]) -> list[tuple[str, str]]:
    return [("info", ",".join(info))] if info else []
