"""
A listener: one connection of a Pusher client, its subscriptions and the events that it receives.

Knows the messages of Pusher's protocol, version 7. The framing is that of the websockets library. A
listener does not connect again: its caller decides what a lost connection means.

Source: https://pusher.com/docs/channels/library_auth_reference/pusher-websockets-protocol/
"""

import asyncio
import json
import ssl as tls
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import CloseCode
from websockets.protocol import Event
from websockets.typing import Origin

from heliograph.client.errors import (
    Disconnected,
    InvalidAnswer,
    NoGreeting,
    NotUpgraded,
    Refused,
    Unreachable,
)
from heliograph.client.signing import Credentials
from heliograph.client.urls import WEBSOCKET, base_url

PROTOCOL = 7
PONG_TIMEOUT_S = 30.0
"""Seconds without any message after a ping, after which the connection is considered lost."""

CLOSE_TIMEOUT_S = 5.0
MAX_MESSAGE_BYTES = 16 << 20
MAX_UNREAD_EVENTS = 10_000
"""While so many events are unread, a listener reads nothing from its connection."""

SUBSCRIBED = "pusher_internal:subscription_succeeded"
SIGNED_IN = "pusher:signin_success"
SIGNED = ("private-", "presence-")
"""Channels whose names begin so need a signature."""


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """
    A message of the server that is no answer.

    *name* and *data* are as received. Beside application events there are `pusher:cache_miss`,
    `pusher_internal:member_added` and `member_removed`, `subscription_count`, `watchlist_events`,
    and each `pusher:error` that answers no subscription and no sign-in.
    """

    name: str
    channel: str | None
    data: str
    user_id: str | None = None

    def json(self) -> Any:
        """Return the value of *data*, if it is JSON. Raises ValueError."""
        return json.loads(self.data)


class _Message(msgspec.Struct, gc=False):
    """A message of the server; *data* is a string, or any JSON value."""

    event: str
    channel: str | None = None
    data: Any = ""
    user_id: str | None = None


class _Connection(ClientConnection):
    """
    Records the time of the last frame. The library answers pings as they arrive.

    The library waits without end for a server that sends a Close frame, or that it sent one for a
    wrong frame, to close the socket. Here, that takes CLOSE_TIMEOUT_S at most.
    """

    last_frame_at = 0.0
    _closing_socket = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.protocol.close_expected() and not self._closing_socket:
            self._closing_socket = True
            wrong = self.protocol.parser_exc is not None
            self.loop.call_later(0 if wrong else CLOSE_TIMEOUT_S, self.transport.abort)

    def process_event(self, event: Event) -> None:
        self.last_frame_at = self.loop.time()
        super().process_event(event)


class _Connect(connect):
    """Follows no redirect, as browsers do not: the caller learns the status."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


NOT_WEBSOCKET = "the answer does not come from a WebSocket server"
NOT_PUSHER = "the answer does not come from a server for Pusher clients"

_decode = msgspec.json.Decoder(_Message).decode


class Listener:
    """
    A connected client. `Listener.connect` makes one; as a context manager it closes itself.

    Events are read with `receive` or `async for`. A task answers pings and sends them.
    """

    def __init__(
        self, connection: _Connection, credentials: Credentials, *, max_unread_events: int
    ) -> None:
        """For `connect` only."""
        self.socket_id = ""
        """The id that the server assigned to this connection."""
        self.activity_timeout_s = 0.0
        """Seconds without a message after which this client sends `pusher:ping`; 0: never."""
        self._connection = connection
        self._credentials = credentials
        self._max_unread_events = max_unread_events
        self._events: asyncio.Queue[ReceivedEvent | None] = asyncio.Queue()
        self._read_on = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._expected: Callable[[_Message], bool] = lambda _: False
        self._answer: asyncio.Future[_Message] | None = None
        self._pongs: deque[asyncio.Future[None] | None] = deque()  # None: for a ping of the reader
        self._closing = False
        self._ended: Disconnected | None = None
        self._reader: asyncio.Task[None] | None = None

    # -- Connecting --------------------------------------------------------------------------

    @classmethod
    async def connect(
        cls,
        url: str,
        credentials: Credentials,
        *,
        ssl: tls.SSLContext | None = None,
        origin: str | None = None,
        compression: bool = False,
        client: str = "heliograph",
        open_timeout_s: float = 10.0,
        greeting_timeout_s: float = 10.0,
        activity_timeout_s: float | None = None,
        max_unread_events: int = MAX_UNREAD_EVENTS,
    ) -> Self:
        """
        Connect to the server at *url*, which is ws, wss, http or https and may have a path prefix.

        *ssl* verifies the server's certificate; the default is the certificates that the system
        trusts. *client* names this client to the server, *origin* is the page that it claims to
        come from. *activity_timeout_s* overrides the server's activity time-out, if it is shorter;
        0 disables pings of this client.

        Raises Unreachable if there is no WebSocket within *open_timeout_s* seconds, or no message
        within further *greeting_timeout_s*, Refused if the server refuses the client, Disconnected
        if it closes the connection without a reason, InvalidAnswer, and ValueError for a *url* that
        is none.
        """
        address = f"{base_url(url, WEBSOCKET)}/app/{quote(credentials.key, safe='')}"
        opening = _Connect(
            f"{address}?protocol={PROTOCOL}&client={quote(client)}",
            origin=None if origin is None else Origin(origin),
            compression="deflate" if compression else None,
            create_connection=_Connection,
            open_timeout=open_timeout_s,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=None,
            max_size=MAX_MESSAGE_BYTES,
            proxy=None,
            ssl=(ssl or True) if address.startswith("wss:") else None,
        )
        try:
            connection = cast("_Connection", await opening)
        except InvalidStatus as error:
            raise NotUpgraded(error.response.status_code) from None
        except InvalidHandshake as error:
            raise InvalidAnswer(f"{NOT_WEBSOCKET}: {error}") from error
        except TimeoutError:
            raise Unreachable(f"no answer within {open_timeout_s:g} s") from None
        except (OSError, EOFError) as error:
            raise Unreachable(str(error)) from error
        listener = cls(connection, credentials, max_unread_events=max_unread_events)
        try:
            await listener._greeted(greeting_timeout_s)
        except BaseException:
            connection.transport.abort()
            raise
        if activity_timeout_s is not None:
            given_s = listener.activity_timeout_s or activity_timeout_s
            listener.activity_timeout_s = min(activity_timeout_s, given_s)
        listener._reader = asyncio.create_task(listener._read())
        return listener

    async def _greeted(self, timeout_s: float) -> None:
        """Receive the first message. Raises what `connect` raises."""
        try:
            async with asyncio.timeout(timeout_s):
                message = _read_message(await self._connection.recv())
        except TimeoutError:
            raise NoGreeting(timeout_s) from None
        except ConnectionClosed as closed:
            if closed.rcvd is None and closed.sent is not None:  # this side found a wrong frame
                raise InvalidAnswer(NOT_PUSHER) from closed
            raise _disconnected(closed) from None
        if message.event == "pusher:error":
            raise _refused(message)
        data = _object(message)
        if message.event != "pusher:connection_established" or "socket_id" not in data:
            raise InvalidAnswer(NOT_PUSHER)
        self.socket_id = str(data["socket_id"])
        try:
            self.activity_timeout_s = float(data.get("activity_timeout") or 0)
        except (TypeError, ValueError):
            raise InvalidAnswer(NOT_PUSHER) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a Close frame with *code*, and return when the connection is closed."""
        self._closing = True
        self._read_on.set()
        await self._connection.close(code, reason)
        if self._reader is not None:
            await self._reader

    async def closed(self) -> Disconnected:
        """Return how the connection ended, once it has."""
        if self._reader is not None:
            await asyncio.shield(self._reader)
        if self._ended is None:
            raise AssertionError("the reader sets it")
        return self._ended

    @property
    def last_frame_at(self) -> float:
        """The event loop's time at which the last frame arrived, pings included."""
        return self._connection.last_frame_at

    # -- Requests ------------------------------------------------------------------------------

    async def subscribe(self, channel: str, channel_data: Any = None) -> dict[str, Any]:
        """
        Subscribe to a channel, with a signature if it is private or a presence channel.

        *channel_data* describes the member of a presence channel: `{"user_id": …}`. It is sent as
        its JSON text unless it is a string. Return the data of the acknowledgement. Raises Refused,
        Disconnected.

        Only a code tells errors of subscriptions from others: an error without one that arrives
        meanwhile is taken as the answer.
        """
        data = {"channel": channel}
        text = None
        if channel_data is not None:
            text = data["channel_data"] = _text(channel_data)
        if channel.startswith(SIGNED):
            data["auth"] = self._credentials.authorize_subscription(self.socket_id, channel, text)

        def acknowledges(message: _Message) -> bool:
            return message.channel == channel and message.event == SUBSCRIBED

        return _object(await self._ask("pusher:subscribe", data, acknowledges))

    async def unsubscribe(self, channel: str) -> None:
        """
        Unsubscribe from a channel; the server does not acknowledge it.

        Events that the server sent before are still received.
        """
        await self._send("pusher:unsubscribe", {"channel": channel})

    async def sign_in(self, user_data: Any) -> None:
        """Sign in; *user_data* is at least `{"id": …}`. Raises Refused, Disconnected."""
        text = _text(user_data)
        auth = self._credentials.authorize_user(self.socket_id, text)
        data = {"auth": auth, "user_data": text}
        await self._ask("pusher:signin", data, lambda message: message.event == SIGNED_IN)

    async def trigger(self, channel: str, name: str, data: Any) -> None:
        """Send a client event, whose *name* begins with `client-`, to the other subscribers."""
        await self._send(name, data, channel=channel)

    async def ping(self) -> None:
        """Return when the server has handled all that was sent before. Raises Disconnected."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        await self._send("pusher:ping", {})
        await pong

    async def _ask(
        self, event: str, data: dict[str, str], answers: Callable[[_Message], bool]
    ) -> _Message:
        """Send a message and return its answer. Raises Refused, Disconnected."""
        async with self._one_at_a_time:
            answer: asyncio.Future[_Message] = asyncio.get_running_loop().create_future()
            self._answer = answer
            self._expected = answers
            try:
                await self._send(event, data)
                message = await answer
            finally:
                self._answer = None
        if message.event == "pusher:error":
            raise _refused(message)
        return message

    async def _send(self, event: str, data: Any, **fields: str) -> None:
        if self._ended is not None:
            raise self._ended
        try:
            await self._connection.send(json.dumps({"event": event, "data": data, **fields}))
        except ConnectionClosed as closed:
            raise _disconnected(closed) from None

    # -- Events --------------------------------------------------------------------------------

    async def receive(self) -> ReceivedEvent:
        """Return the next event. Raises Disconnected after the last one."""
        event = await self._events.get()
        self._read_on.set()
        if event is None:
            self._events.put_nowait(None)
            if self._ended is None:
                raise AssertionError("it is set before the end of the events")
            raise self._ended
        return event

    async def __aiter__(self) -> AsyncIterator[ReceivedEvent]:
        """Yield events. Ends when this side closes the connection, else raises Disconnected."""
        while True:
            try:
                event = await self.receive()
            except Disconnected:
                if self._closing:
                    return
                raise
            yield event

    async def _read(self) -> None:
        """Handle messages until the connection ends."""
        try:
            while True:
                await self._handle(_read_message(await self._next()))
                await self._room()
        except ConnectionClosed as closed:
            self._end(_disconnected(closed))
        except Disconnected as ended:
            self._end(ended)
        except InvalidAnswer as error:
            self._end(Disconnected(None, str(error)))
        except BaseException as error:
            self._end(Disconnected(None, repr(error)))
            raise
        finally:
            self._connection.transport.abort()

    async def _room(self) -> None:
        """Return when there is room for a further event."""
        while self._events.qsize() >= self._max_unread_events and not self._closing:
            self._read_on.clear()
            await self._read_on.wait()

    async def _next(self) -> str | bytes:
        """Return the next message; after an idle time, send a ping and wait for any message."""
        if not self.activity_timeout_s:
            return await self._connection.recv()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.activity_timeout_s):
                return await self._connection.recv()
        self._pongs.append(None)
        await self._send("pusher:ping", {})
        try:
            async with asyncio.timeout(PONG_TIMEOUT_S):
                return await self._connection.recv()
        except TimeoutError:
            reason = f"no message arrived within {PONG_TIMEOUT_S:g} s of a ping"
            raise Disconnected(None, reason) from None

    async def _handle(self, message: _Message) -> None:
        if message.event == "pusher:pong":
            if self._pongs and (pong := self._pongs.popleft()) is not None and not pong.done():
                pong.set_result(None)
        elif message.event == "pusher:ping":
            await self._send("pusher:pong", {})
        elif self._answer is not None and not self._answer.done() and self._answers(message):
            self._answer.set_result(message)
        elif not self._closing:
            data = message.data if isinstance(message.data, str) else json.dumps(message.data)
            event = ReceivedEvent(message.event, message.channel, data, message.user_id)
            self._events.put_nowait(event)

    def _answers(self, message: _Message) -> bool:
        if message.event == "pusher:error":
            return _object(message).get("code") is None
        return self._expected(message)

    def _end(self, ended: Disconnected) -> None:
        self._ended = ended
        self._events.put_nowait(None)
        for future in (self._answer, *self._pongs):
            if future is not None and not future.done():
                future.set_exception(ended)
        self._pongs.clear()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_message(text: str | bytes) -> _Message:
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidAnswer(NOT_PUSHER) from error


def _object(message: _Message) -> dict[str, Any]:
    """Return the object that is the data of a message, or that its data contain as JSON text."""
    data = message.data
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except ValueError as error:
            raise InvalidAnswer(NOT_PUSHER) from error
    if not isinstance(data, dict):
        raise InvalidAnswer(NOT_PUSHER)
    return data


def _refused(message: _Message) -> Refused:
    data = _object(message)
    code = data.get("code")
    return Refused(code if isinstance(code, int) else None, str(data.get("message", "")))


def _disconnected(closed: ConnectionClosed) -> Disconnected:
    if closed.rcvd is not None:
        return Disconnected(closed.rcvd.code, closed.rcvd.reason)
    if closed.sent is not None and closed.sent.code != CloseCode.NORMAL_CLOSURE:
        return Disconnected(None, f"this client closed the connection: {closed.sent}")
    return Disconnected(None, "the connection was closed without a Close frame")
