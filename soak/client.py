"""
A WebSocket client that costs little: thousands of them and the server share two cores.

Speaks RFC 6455 as far as the server does, permessage-deflate included, and writes down in the books
what it hears. What it does, and when, is for others to say. It signs as `heliograph.client` does,
but is no `Listener` of it, which takes several times as long for each event.
"""

import asyncio
import socket
import struct
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from heliograph.client.signing import Credentials
from soak.books import Channel, Faults, Position, Subscription, read_whisper, whisper
from soak.ledger import Follower

WHISPER = "client-whisper"
EVENT = "said"

TEXT, CLOSE, PING = 0x1, 0x8, 0x9
COMPRESSED = 0x40
TAIL = b"\x00\x00\xff\xff"

HANDSHAKE = (
    "GET /app/{key}?protocol=7&client=soak&version=1.0 HTTP/1.1\r\n"
    "Host: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


@dataclass(frozen=True, slots=True)
class App:
    """An app of the server under test, and its channels as they truly are."""

    id: str
    key: str
    secret: str
    channels: dict[str, Channel] = field(default_factory=dict)

    def channel(self, name: str) -> Channel:
        """Return the channel of this name."""
        found = self.channels.get(name)
        if found is None:
            found = self.channels[name] = Channel(self.id, name)
        return found

    @property
    def credentials(self) -> Credentials:
        """The key of the app, with its secret."""
        return Credentials(self.key, self.secret)


class Message(msgspec.Struct, gc=False):
    """What the server says."""

    event: str
    channel: str = ""
    data: Any = ""


_decode = msgspec.json.Decoder(Message).decode
_encode = msgspec.json.Encoder().encode


def _frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame of a client's; a mask of zeros is a mask, and changes nothing."""
    length = len(payload)
    if length <= 125:
        return struct.pack("!BB4x", 0x80 | opcode, 0x80 | length) + payload
    return struct.pack("!BBH4x", 0x80 | opcode, 0x80 | 126, length) + payload


def numbers_of_several(numbers: Mapping[str, int]) -> str:
    """Return the data of one event for several channels: its number in each."""
    return "*" + _encode(numbers).decode()


def _number(data: str, channel: str) -> int:
    """Return which event of *channel* this is."""
    if data.startswith("*"):
        return int(msgspec.json.decode(data[1:])[channel])
    return int(data.partition(" ")[0])


PING_MESSAGE = _frame(TEXT, b'{"event":"pusher:ping"}')


class Client(asyncio.Protocol):
    """
    One client of *app*, from its connection to its end.

    *heard* is told the seconds from sending to hearing of each published event.
    """

    def __init__(
        self, app: App, faults: Faults, heard: Callable[[float], None], *, compression: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        self.app = app
        self.socket_id = ""
        self.subscriptions: dict[str, Subscription] = {}
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the server has greeted us; failed when it will not."""
        self.ended: asyncio.Future[None] = loop.create_future()
        self.close_code = 0
        self.mute = False
        """Answers no pings: as good as gone, until the server notices."""
        self._now = loop.time
        self._faults = faults
        self._heard = heard
        self._compression = compression
        self._transport: asyncio.Transport
        self._upgraded = False
        self._buffer = b""
        self._ended_here = False
        self._pongs: deque[Callable[[], None]] = deque()

    # -- What it does --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the WebSocket."""
        self._transport = cast("asyncio.Transport", transport)
        head = HANDSHAKE.format(key=self.app.key, host="localhost")
        offer = OFFER if self._compression else ""
        self._transport.write(f"{head}{offer}\r\n".encode())

    @property
    def open(self) -> bool:
        """Whether it is greeted, and has not ended or begun to."""
        return bool(self.socket_id) and not self._ended_here and not self.ended.done()

    def _send(self, event: str, data: Any, channel: str | None = None) -> None:
        message = {"event": event, "data": data}
        if channel is not None:
            message["channel"] = channel
        self._transport.write(_frame(TEXT, _encode(message)))

    def _then(self, act: Callable[[], None]) -> None:
        """Do it when the server has handled all that was sent so far."""
        self._pongs.append(act)
        self._transport.write(PING_MESSAGE)

    def subscribe(
        self, name: str, user_id: str | None = None, follower: Follower | None = None
    ) -> None:
        """
        Ask to join a channel; *user_id* is who it is in a presence channel.

        With a *follower*, the client asks for positions, and continues from that of the follower.
        """
        data: dict[str, Any] = {"channel": name}
        if follower is not None:
            data["history"] = follower.connect(self.socket_id)
        member = None
        if user_id is not None:
            member = data["channel_data"] = _encode({"user_id": user_id}).decode()
        if name.startswith(("private-", "presence-")):
            credentials = self.app.credentials
            data["auth"] = credentials.authorize_subscription(self.socket_id, name, member)
        self.subscriptions[name] = Subscription(
            self.app.channel(name), self.socket_id, self._now(), self._faults, user_id, follower
        )
        self._send("pusher:subscribe", data)

    def unsubscribe(self, name: str) -> None:
        """Give up a channel; once the server has seen that, nothing of it may come."""
        subscription = self.subscriptions[name]
        self._leave(subscription)

        def gone() -> None:
            subscription.close()
            del self.subscriptions[name]

        self._send("pusher:unsubscribe", {"channel": name})
        self._then(gone)

    def _leave(self, subscription: Subscription, *, sent_away: bool = False) -> None:
        now = self._now()
        subscription.leave(now, sent_away=sent_away)
        voice = subscription.channel.whispers.get(self.socket_id)
        if voice is not None:
            voice.closed = now

    def whisper(self, name: str) -> None:
        """Say something to the others on a channel."""
        voice = self.app.channel(name).voice(self.socket_id)
        number = voice.say(self._now())
        self._send(WHISPER, whisper(self.socket_id, number), name)
        self._then(lambda: voice.accept(number, self._now()))

    def sign_in(self, user_id: str) -> None:
        """Say who it is, so that it can be terminated."""
        user_data = _encode({"id": user_id}).decode()
        auth = self.app.credentials.authorize_user(self.socket_id, user_data)
        self._send("pusher:signin", {"auth": auth, "user_data": user_data})

    async def settled(self) -> None:
        """Return when the server has handled all that was sent, or the connection has ended."""
        if self.ended.done():
            return
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._then(lambda: reached.set_result(None))
        await asyncio.wait({reached, self.ended}, return_when=asyncio.FIRST_COMPLETED)

    # -- How it ends ---------------------------------------------------------------------

    def _end(self, *, sent_away: bool = False) -> None:
        self._ended_here = True
        for subscription in self.subscriptions.values():
            if not subscription.left:
                self._leave(subscription, sent_away=sent_away)

    def close(self) -> None:
        """Leave as a browser does that goes to another page."""
        self._end()
        self._transport.write(_frame(CLOSE, b"\x03\xe9"))

    def hang_up(self) -> None:
        """Leave without a word: the socket is closed."""
        self._end()
        self._transport.close()

    def crash(self) -> None:
        """Leave as a process does that is killed with data unread: a reset."""
        self._end()
        connection: socket.socket = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """Complain of what was not heard, where it is known what should have been."""
        if not self._ended_here:
            if not self.close_code and self.ready.done():
                self._faults.add("connections", f"{self.socket_id} was dropped without a word")
            self._end()
        elif self.close_code:  # it was read to its end
            for subscription in self.subscriptions.values():
                subscription.close()
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(f"refused: {self._buffer!r:.200}"))
        self.ended.set_result(None)

    # -- What it hears -------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take frames apart."""
        if self._buffer:
            data = self._buffer + data
        position = 0
        if not self._upgraded:
            position = data.find(b"\r\n\r\n") + 4
            if position < 4 or not data.startswith(b"HTTP/1.1 101 "):
                self._buffer = data
                return
            self._upgraded = True
        end = len(data)
        while end - position >= 2:
            length, at = data[position + 1], position + 2
            if length == 126:
                at += 2
                length = int.from_bytes(data[at - 2 : at])
            elif length == 127:
                at += 8
                length = int.from_bytes(data[at - 8 : at])
            if at + length > end:
                break
            first, position = data[position], at + length
            self._take(first, data[at:position])
        self._buffer = data[position:]

    def _take(self, first: int, payload: bytes) -> None:
        opcode = first & 0x0F
        if opcode == TEXT:
            if first & COMPRESSED:
                payload = zlib.decompressobj(-15).decompress(payload + TAIL)
            self._hear(_decode(payload))
        elif opcode == PING:
            if not self.mute:
                self._transport.write(_frame(0xA, payload))
        elif opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2])
            if not self._ended_here:
                self._end(sent_away=True)
                self._transport.write(_frame(CLOSE, payload[:2]))

    def _hear(self, message: Message) -> None:
        event = message.event
        if not event.startswith("pusher"):
            self._hear_event(event, message)
        elif event.startswith("pusher_internal:"):
            self._hear_of_channel(event.removeprefix("pusher_internal:"), message)
        elif event == "pusher:pong":
            self._pongs.popleft()()
        elif event == "pusher:connection_established":
            self.socket_id = msgspec.json.decode(message.data)["socket_id"]
            self.ready.set_result(None)
        elif event == "pusher:error":
            if message.data["code"] not in EXPECTED_CODES:
                self._faults.add("errors", f"{self.socket_id} was told {message.data}")
        elif event not in {"pusher:signin_success", "pusher:cache_miss"}:
            self._faults.add("errors", f"{self.socket_id} was told {event}")

    def _hear_of_channel(self, event: str, message: Message) -> None:
        subscription = self.subscriptions.get(message.channel)
        if subscription is None:
            self._faults.add("delivery", f"{self.socket_id}: {event} of no channel of its")
            return
        data = msgspec.json.decode(message.data)
        match event:
            case "subscription_succeeded":
                if subscription.user_id is not None:
                    subscription.roster.update(data["presence"]["ids"])
                subscription.acknowledge(self._now())
            case "next_position":
                subscription.announce(Position(**data))
            case "position" if subscription.follower is not None:
                subscription.follower.catch_up(**data)
            case "gap" if subscription.follower is not None:
                subscription.follower.miss(**data)
            case "member_added":
                subscription.appear(data["user_id"])
            case "member_removed":
                subscription.vanish(data["user_id"])
            case _:
                self._faults.add("errors", f"{self.socket_id} was told {event}")

    def _hear_event(self, event: str, message: Message) -> None:
        subscription = self.subscriptions.get(message.channel)
        if subscription is None:
            text = f"{self.socket_id} heard of {message.channel}, where it is not subscribed"
            self._faults.add("delivery", text)
        elif event == WHISPER:
            subscription.hear_whisper(*read_whisper(message.data))
        else:
            number = _number(message.data, message.channel)
            subscription.hear(number)
            sent = subscription.channel.events.sent_at(number)
            if sent > subscription.acknowledged:  # what a cache channel kept is not late
                self._heard(self._now() - sent)


EXPECTED_CODES = frozenset({4003, 4009, 4201})
"""Of an app that was switched off, of a user who was terminated, of a client that fell silent."""
