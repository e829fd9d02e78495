"""
A long history is written at the pace at which its client reads.

A client that reads slowly receives all of it and becomes live, the server's memory stays bounded,
and the limit for slow clients counts live data, as it does without a history.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import uvloop

from heliograph.assembly import PROTOCOLS
from heliograph.client.publisher import Publisher
from heliograph.client.signing import Credentials
from heliograph.config.apps import Apps, HistoryRule
from heliograph.config.load import make_config
from tests.conftest import StartServer
from tests.integration.resuming import (
    CLOSE,
    PING,
    PONG,
    Frames,
    Message,
    Place,
    frame,
    read_message,
    read_place,
    subscribe_message,
)
from tests.integration.rig import SINGLE_APP, Rig, serving
from tests.integration.test_history_resume import counted
from tests.integration.test_http import UPGRADE
from tests.integration.test_idle_clients import memory
from tests.integration.test_slow_readers import subscribing
from tests.server import ServerProcess

MIB = 1 << 20
KEPT = 100
EVENT_BYTES = 60_000
LIVE_EVERY_S = 1.0
BYTES_PER_SECOND = 200_000
RECEIVE_BUFFER = 16_384
PATIENCE_S = 60.0

READERS, READERS_OF_SMALL = 50, 10
SMALL_WRITE_BUFFER = 131_072
"""Little more than two events."""

MOST_GROWTH = 20 * MIB
"""Of the server's memory while 50 clients read a history of 6 MB: 0.4 MiB for each."""


@dataclass(eq=False)
class Reader:
    """
    A client of the channel `c` that continues from *place*.

    It reads *bytes_per_second*, and all that arrives if that is 0.
    """

    place: Place | None
    bytes_per_second: int = 0
    offsets: list[int] = field(default_factory=list)
    """Those of all events that arrived."""

    live_at: int | None = None
    """The number of events that had arrived when live ones began to follow."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    last: int = 0
    unexpected: list[str] = field(default_factory=list)

    async def read(self, port: int, enough: Callable[["Reader"], bool]) -> None:
        """Connect, and read until *enough* of it has arrived."""
        with await connected(port) as connection:
            await continue_from(self.place, connection)
            await self.read_on(connection, enough)

    async def read_on(self, connection: socket.socket, enough: Callable[["Reader"], bool]) -> None:
        """Read all that was sent since the handshake, until *enough* of it has arrived."""
        loop, frames = asyncio.get_running_loop(), Frames()
        while not enough(self):
            data = await loop.sock_recv(connection, RECEIVE_BUFFER)
            if not data:
                self.unexpected.append("the end of the connection")
                return
            for opcode, payload in frames.feed(data):
                if opcode == PING:
                    await loop.sock_sendall(connection, frame(PONG, payload))
                elif opcode == CLOSE:
                    self.unexpected.append(f"a Close frame: {payload!r}")
                else:
                    self._take(read_message(payload))
            if self.bytes_per_second:
                await asyncio.sleep(len(data) / self.bytes_per_second)

    def _take(self, message: Message) -> None:
        match message.event:
            case "kept":
                self.offsets.append(self.last)
                self.begun.set()
            case "pusher_internal:next_position":
                self.place = read_place(message.data)
                self.last = self.place.offset
            case "pusher_internal:position":
                self.place = read_place(message.data)
                self.live_at = len(self.offsets)
            case "pusher:connection_established" | "pusher_internal:subscription_succeeded":
                pass
            case _:
                self.unexpected.append(f"{message.event} {message.data:.100}")


async def connected(port: int) -> socket.socket:
    """Return a connection with a small receive buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return connection


async def continue_from(place: Place | None, connection: socket.socket, *channels: str) -> None:
    """Subscribe to *channels*, and to `c`: from *place* on, or else only with positions."""
    history: dict[str, Any] = {}
    if place is not None:
        history = {"epoch": place.epoch, "offset": place.offset}
    others = b"".join(subscribing(channel) for channel in channels)
    message = UPGRADE + others + subscribe_message("c", history)
    await asyncio.get_running_loop().sock_sendall(connection, message)


async def place_in(port: int) -> Place:
    """Return the present position of the channel `c`."""
    reader = Reader(None)
    await reader.read(port, _is_live)
    assert reader.place is not None
    return reader.place


# -- Clients that read slowly ----------------------------------------------------------------------


@dataclass
class Found:
    """What slow readers of one server found, and how its memory grew meanwhile."""

    readers: list[Reader]
    published: int
    growth: int


async def read_slowly(server: ServerProcess, number: int) -> Found:
    """Have *number* clients read a history of KEPT events while live ones follow."""
    credentials = Credentials(server.key, server.secret)
    async with Publisher(server.url, server.app_id, credentials) as publisher:
        place = await place_in(server.port)
        for _ in range(KEPT):
            await publisher.publish("c", "kept", "x" * EVENT_BYTES)
        published = KEPT
        readers = [Reader(place, BYTES_PER_SECOND) for _ in range(number)]
        before = most = memory(server)
        reading = [asyncio.create_task(one.read(server.port, _has_a_live_event)) for one in readers]
        # The first live event removes the first kept one, which all must have by then.
        await asyncio.gather(*(one.begun.wait() for one in readers))
        pending: set[asyncio.Task[None]] = set(reading)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=LIVE_EVERY_S)
            await publisher.publish("c", "kept", "live")
            published += 1
            most = max(most, memory(server))
        for task in reading:
            task.result()
    return Found(readers, published, most - before)


def _has_a_live_event(reader: Reader) -> bool:
    return reader.live_at is not None and len(reader.offsets) > reader.live_at


def test_clients_that_read_slowly_receive_a_long_history_and_become_live(
    start_server: StartServer,
) -> None:
    """With the default limit of unsent bytes, and with one of little more than two events."""
    options = {
        "broker": "memory",
        "history_limit": KEPT,
        "max_event_bytes": EVENT_BYTES,
        "metrics": True,
    }
    default = start_server(options)
    small = start_server({**options, "max_write_buffer": SMALL_WRITE_BUFFER})

    async def both() -> tuple[Found, Found]:
        return await asyncio.gather(
            read_slowly(default, READERS), read_slowly(small, READERS_OF_SMALL)
        )

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(both())
    for one in found:
        for reader in one.readers:
            assert not reader.unexpected
            assert reader.offsets == list(range(1, len(reader.offsets) + 1))
            assert KEPT < len(reader.offsets) <= one.published
        assert one.growth <= MOST_GROWTH
    for server in (default, small):
        assert counted(server, "heliograph_slow_readers_total") == {"": 0}
        assert not any(counted(server, "heliograph_gaps_total").values())


# -- Clients that stop to read ---------------------------------------------------------------------

FIRST, LATER = 100, 20
ALL_KEPT = {
    "broker": "memory",
    "history_limit": FIRST + LATER,
    "max_event_bytes": EVENT_BYTES,
    "max_write_buffer": SMALL_WRITE_BUFFER,
}


async def publish(rig: Rig, count: int) -> None:
    for _ in range(count):
        await rig.publish("kept", "c", "x" * EVENT_BYTES)


async def stalled(rig: Rig, place: Place, *channels: str) -> socket.socket:
    """Return a connection that joins *channels*, continues in `c` from *place*, and stops there."""
    connection = await connected(rig.server.port)
    await continue_from(place, connection, *channels)
    while not len(rig.server.context.backlog):
        await rig.fetch("GET", "/health")
    return connection


async def test_a_client_that_stops_to_read_a_history_holds_little_memory_and_can_read_on() -> None:
    """Kept events that are published meanwhile are part of the rest: they are not held for it."""
    async with serving(**ALL_KEPT) as rig:
        place = await place_in(rig.server.port)
        await publish(rig, FIRST)
        with await stalled(rig, place) as connection:
            largest = rig.server.context.backlog.bytes
            for _ in range(LATER):
                await publish(rig, 1)
                largest = max(largest, rig.server.context.backlog.bytes)
            # What may be unsent before a page is written, and the page.
            assert largest <= SMALL_WRITE_BUFFER / 2 + EVENT_BYTES + 1000
            reader = Reader(place)
            await reader.read_on(connection, _is_live)
        assert not reader.unexpected
        assert reader.offsets == list(range(1, FIRST + LATER + 1))
        assert rig.server.context.slow_readers == 0


async def test_a_client_that_stops_to_read_is_dropped_for_live_events_as_others_are() -> None:
    """Those of another channel while it has yet to read a history, and any once it is live."""
    config = make_config(**SINGLE_APP, max_event_bytes=EVENT_BYTES)
    rule = HistoryRule(prefix="c", limit=FIRST, ttl=300)
    apps = Apps(replace(app, history=(rule,)) for app in config.apps)
    async with serving(PROTOCOLS, apps, max_write_buffer=SMALL_WRITE_BUFFER) as rig:
        place = await place_in(rig.server.port)
        await publish(rig, FIRST)
        with await stalled(rig, place, "not-kept"):
            await until_dropped(rig, "not-kept", 1)
        with await connected(rig.server.port) as connection:
            await continue_from(None, connection)
            await Reader(None).read_on(connection, _is_live)
            await until_dropped(rig, "c", 2)


async def until_dropped(rig: Rig, channel: str, number: int) -> None:
    """Publish on *channel* until *number* clients have been dropped."""
    async with asyncio.timeout(PATIENCE_S):
        while rig.server.context.slow_readers < number:
            await rig.publish("live", channel, "x" * EVENT_BYTES)


def _is_live(reader: Reader) -> bool:
    return reader.live_at is not None
