"""
Clients that remember their positions and continue from them, and a proxy that cuts connections.

A client commits a position when the event has arrived that it belongs to, as
`heliograph-resume.js` does. A thousand of them, their proxy and the publisher share a process.
"""

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from tests.integration.test_http import UPGRADE

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
MOST_FORMER_IDS = 16
"""The most ids of earlier connections that a client may name."""

RESET = struct.pack("ii", 1, 0)


class Message(msgspec.Struct, gc=False):
    """A message of the server."""

    event: str
    channel: str = ""
    data: Any = ""


class Place(msgspec.Struct, frozen=True, gc=False):
    """A position, as the server sends it."""

    epoch: str
    offset: int


class Gap(msgspec.Struct, frozen=True, gc=False):
    """The data of a gap."""

    reason: str
    epoch: str
    offset: int


read_message = msgspec.json.Decoder(Message).decode
read_place = msgspec.json.Decoder(Place).decode
_gap = msgspec.json.Decoder(Gap).decode
_encode = msgspec.json.Encoder().encode


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame; a mask of zeros is a mask."""
    length = len(payload)
    if length <= 125:
        return struct.pack("!BB4x", 0x80 | opcode, 0x80 | length) + payload
    return struct.pack("!BBH4x", 0x80 | opcode, 0x80 | 126, length) + payload


def subscribe_message(channel: str, history: object) -> bytes:
    """Return the frame that subscribes to *channel*, with *history* as the server reads it."""
    data = {"channel": channel, "history": history}
    return frame(TEXT, _encode({"event": "pusher:subscribe", "data": data}))


class Frames:
    """Cuts received bytes into frames: the first one follows the end of the handshake."""

    def __init__(self) -> None:
        self._upgraded = False
        self._rest = b""

    def feed(self, data: bytes) -> Iterable[tuple[int, bytes]]:
        """Yield the opcode and the payload of each frame that is complete."""
        data = self._rest + data
        position = 0
        if not self._upgraded:
            position = data.find(b"\r\n\r\n") + 4
            if position < 4:
                self._rest = data
                return
            assert data.startswith(b"HTTP/1.1 101 "), data
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
            opcode, position = data[position] & 0x0F, at + length
            yield opcode, data[at:position]
        self._rest = data[position:]


# -- What a client has received --------------------------------------------------------------------


@dataclass(slots=True)
class Missing:
    """Events that a client knows that it misses: those after *after*, up to *until*."""

    reason: str
    after: int
    until: int


@dataclass(slots=True)
class Read:
    """All that a client received of a channel, over all its connections."""

    place: Place | None = None
    """The last position that the client committed."""

    numbers: list[int] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


class Published:
    """The events of a channel, numbered from 1: for each, the client that it excludes, if any."""

    def __init__(self) -> None:
        self.excluded: dict[int, Client] = {}
        self.count = 0

    def next(self, excluded: "Client | None") -> int:
        """Return the number of the next event."""
        self.count += 1
        if excluded is not None:
            self.excluded[self.count] = excluded
        return self.count

    def expected(self, client: "Client", read: Read) -> list[int]:
        """Return the numbers that *client* must have received, in their order."""
        known_missing = {
            number for one in read.missing for number in range(one.after + 1, one.until + 1)
        }
        return [
            number
            for number in range(1, self.count + 1)
            if self.excluded.get(number) is not client and number not in known_missing
        ]


class Client:
    """
    A page that stays subscribed to *channels*: it connects again whenever its connection is lost.

    Its connections are cut at moments of *chance*, until `calm` is called. What the server sends
    against the protocol is in *faults*.
    """

    def __init__(
        self,
        channels: Iterable[str],
        address: tuple[str, int],
        chance: random.Random,
        *,
        mean_life_s: float,
        most_away_s: float,
    ) -> None:
        self.read = {channel: Read() for channel in channels}
        self.socket_id = ""
        self.former_ids: list[str] = []
        self.faults: list[str] = []
        self.cuts: Counter[str] = Counter()
        """How the connections ended, `between` a position and its event among others."""

        self.continued = 0
        """How often the client continued in a channel, without a gap."""

        self.joined = asyncio.Event()
        """Set while the client is subscribed to all channels, and has what it missed."""

        self.reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._goal: dict[str, int] = {}
        self._address = address
        self._chance = chance
        self._mean_life_s = mean_life_s
        self._most_away_s = most_away_s
        self._calm = False
        self._connection: Connection | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    # -- Coming and going ------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and return when the client is subscribed to all channels."""
        self._task = asyncio.get_running_loop().create_task(self._live())
        await self.joined.wait()

    def cut_now_and_then(self) -> None:
        """Have this connection, and later ones, cut after a while."""
        self._schedule_cut()

    def calm(self, goal: dict[str, int]) -> None:
        """Cut nothing any more; `reached` is done when the client has all events up to *goal*."""
        self._calm = True
        if self._cut is not None:
            self._cut.cancel()
        self._goal = {channel: goal[channel] for channel in self.read}
        for channel, read in self.read.items():
            if read.place is not None:
                self._towards_goal(channel, read.place)

    async def stop(self) -> None:
        """Disconnect for good. Raises what went wrong in this client."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.result()
        if self._connection is not None:
            self._connection.abort()
            await self._connection.lost

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._connection = connection = Connection(self)
            await loop.create_connection(_returns(connection), *self._address)
            await asyncio.shield(connection.lost)
            self.joined.clear()
            if self.socket_id:
                self.former_ids = [*self.former_ids, self.socket_id][-MOST_FORMER_IDS:]
                self.socket_id = ""
            self._connection = None
            if not self._calm:
                await asyncio.sleep(self._chance.uniform(0, self._most_away_s))
                self._schedule_cut()

    def _schedule_cut(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
        if not self._calm:
            in_s = self._chance.expovariate(1 / self._mean_life_s)
            self._cut = asyncio.get_running_loop().call_later(in_s, self._cut_connection)

    def _cut_connection(self) -> None:
        if self._connection is not None:
            # At once, or in the middle of what arrives next: before the event of a position, too.
            self._connection.cut(after_frames=self._chance.choice((0, 0, 1, 2, 3, 4)))

    # -- What arrives ----------------------------------------------------------------------------

    def history_of(self, channel: str) -> dict[str, Any]:
        """Return what the client asks for when it subscribes to *channel*."""
        place = self.read[channel].place
        if place is None:
            return {}
        return {"epoch": place.epoch, "offset": place.offset, "except": self.former_ids}

    def commit(self, channel: str, place: Place) -> None:
        """Record that all events up to *place* have arrived."""
        self.read[channel].place = place
        self._towards_goal(channel, place)

    def miss(self, channel: str, gap: Gap) -> None:
        """Record a gap; the client continues after it."""
        read = self.read[channel]
        after = 0 if read.place is None else read.place.offset
        read.missing.append(Missing(gap.reason, after, gap.offset))
        self.commit(channel, Place(gap.epoch, gap.offset))

    def _towards_goal(self, channel: str, place: Place) -> None:
        if place.offset >= self._goal.get(channel, place.offset + 1):
            del self._goal[channel]
            if not self._goal and not self.reached.done():
                self.reached.set_result(None)


def _returns(connection: "Connection") -> Callable[[], "Connection"]:
    return lambda: connection


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, client: Client) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._client = client
        self._frames = Frames()
        self._transport: asyncio.Transport
        self._made = False
        self._frames_left: int | None = None  # before this connection is cut
        self._next: dict[str, Place] = {}  # the positions of events that have not arrived
        self._before: str | None = None  # the channel of the position that was the last message
        self._last: dict[str, int] = {}  # the last offset of each channel
        self._awaited = set(client.read)  # channels that have not caught up
        self._resumed: set[str] = set()  # channels in which this connection continues

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the WebSocket."""
        self._transport = cast("asyncio.Transport", transport)
        self._made = True
        self._transport.write(UPGRADE)

    def cut(self, *, after_frames: int) -> None:
        """Reset the connection; what arrives after some more frames is lost."""
        if after_frames or not self._made:  # under load, connecting may take longer than a life
            self._frames_left = max(after_frames, 1)
        elif not self.lost.done():
            self._client.cuts["between" if self._before else "reset"] += 1
            self.abort()

    def abort(self) -> None:
        """Reset the connection; what it has received, and was not read, is lost."""
        if not self._transport.is_closing():
            connection: socket.socket = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """Have the client connect again."""
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take the messages in *data*, up to the moment of the cut."""
        for opcode, payload in self._frames.feed(data):
            if self._transport.is_closing():
                return
            if opcode == TEXT:
                self._take(read_message(payload))
            elif opcode == PING:
                self._transport.write(frame(PONG, payload))
            elif opcode == CLOSE:
                self._fault(f"closed with {payload!r}")
            if self._frames_left is not None:
                self._frames_left -= 1
                if self._frames_left <= 0:
                    self.cut(after_frames=0)

    def _fault(self, text: str) -> None:
        self._client.faults.append(f"{self._client.socket_id}: {text}")

    def _take(self, message: Message) -> None:
        event, channel = message.event, message.channel
        if self._before is not None and (event != "numbered" or channel != self._before):
            self._fault(f"{event} of {channel} after the position of an event of {self._before}")
        match event:
            case "numbered":
                self._event(channel, int(message.data.partition(" ")[0]))
            case "pusher_internal:next_position":
                self._next[channel] = read_place(message.data)
                self._before = channel
                return
            case "pusher_internal:position":
                self._client.continued += channel in self._resumed
                self._client.commit(channel, read_place(message.data))
                self._caught_up(channel)
            case "pusher_internal:gap":
                self._client.miss(channel, _gap(message.data))
                self._caught_up(channel)
            case "pusher:connection_established":
                self._client.socket_id = msgspec.json.decode(message.data)["socket_id"]
                self._subscribe()
            case "pusher_internal:subscription_succeeded":
                pass
            case _:
                self._fault(f"received {event} {message.data}")
        self._before = None

    def _subscribe(self) -> None:
        for channel, read in self._client.read.items():
            if read.place is not None:
                self._resumed.add(channel)
            request = subscribe_message(channel, self._client.history_of(channel))
            self._transport.write(request)

    def _event(self, channel: str, number: int) -> None:
        place = self._next.pop(channel, None)
        if place is None:
            self._fault(f"{number} of {channel} arrived without a position")
            return
        if place.offset != number:
            self._fault(f"{number} of {channel} has the position {place.offset}")
        if place.offset <= self._last.get(channel, 0):
            self._fault(f"{number} of {channel} after {self._last[channel]}")
        self._last[channel] = place.offset
        self._client.read[channel].numbers.append(number)
        self._client.commit(channel, place)

    def _caught_up(self, channel: str) -> None:
        if channel not in self._awaited:
            self._fault(f"a second position, or gap, of {channel}")
        self._awaited.discard(channel)
        if not self._awaited:
            self._client.joined.set()


# -- A proxy that cuts -----------------------------------------------------------------------------


class CuttingProxy:
    """
    Forwards connections to a server, and cuts each after some bytes, in the middle of a frame.

    *most_bytes* is the most that a client receives over one connection, until `calm` is called.
    """

    def __init__(self, server: tuple[str, int], chance: random.Random, most_bytes: int) -> None:
        self.server = server
        self.cuts = 0
        self._chance = chance
        self._most_bytes: int | None = most_bytes
        self._listener: asyncio.Server

    async def start(self) -> tuple[str, int]:
        """Listen; return the address."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Front(self), "127.0.0.1", 0, backlog=512)
        address: tuple[str, int] = self._listener.sockets[0].getsockname()
        return address

    def calm(self) -> None:
        """Cut nothing any more."""
        self._most_bytes = None

    async def stop(self) -> None:
        """Stop to listen."""
        self._listener.close()
        await self._listener.wait_closed()

    def allowance(self) -> int:
        """Return the number of bytes after which a new connection is cut."""
        return 0 if self._most_bytes is None else self._chance.randrange(500, self._most_bytes)

    @property
    def cutting(self) -> bool:
        """Whether connections are cut."""
        return self._most_bytes is not None


class _Front(asyncio.Protocol):
    """The side of the client."""

    def __init__(self, proxy: CuttingProxy) -> None:
        self.transport: asyncio.Transport
        self._proxy = proxy
        self._back = _Back(proxy, self)
        self._task: asyncio.Task[Any] | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        connecting = asyncio.get_running_loop().create_connection(
            lambda: self._back, *self._proxy.server
        )
        self._task = asyncio.get_running_loop().create_task(connecting)

    def data_received(self, data: bytes) -> None:
        if self._back.transport is None:
            self._early += data
        else:
            self._back.transport.write(data)

    def connected(self) -> None:
        """Forward what arrived before there was a connection to the server."""
        if self.transport.is_closing():
            self._back.end()
        elif self._early and self._back.transport is not None:
            self._back.transport.write(self._early)

    def connection_lost(self, _error: Exception | None) -> None:
        self._back.end()


class _Back(asyncio.Protocol):
    """The side of the server."""

    def __init__(self, proxy: CuttingProxy, front: _Front) -> None:
        self.transport: asyncio.Transport | None = None
        self._proxy = proxy
        self._front = front
        self._left = proxy.allowance()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._front.connected()

    def data_received(self, data: bytes) -> None:
        if self._proxy.cutting and len(data) > self._left:
            self._proxy.cuts += 1
            self._front.transport.write(data[: self._left])
            self._front.transport.close()
            self.end()
            return
        self._left -= len(data)
        self._front.transport.write(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._front.transport.close()

    def end(self) -> None:
        """Close the connection to the server, if there is one."""
        if self.transport is not None:
            self.transport.abort()
