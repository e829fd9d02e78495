"""What all connections of one server share, so that each needs only one reference to it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from time import monotonic, time
from typing import TYPE_CHECKING

from heliograph.config.settings import ConnectionSettings
from heliograph.net.addresses import Addresses
from heliograph.net.backlog import Backlog
from heliograph.net.clock import Wheel
from heliograph.net.descriptors import IdleConnections, Unnamed
from heliograph.net.intake import Intake
from heliograph.net.room import Room
from heliograph.net.turns import Turns
from heliograph.node.dialect import Dialect
from heliograph.node.node import Node
from heliograph.wire.http import HeaderMemory, HttpLimits
from heliograph.wire.responses import Response, response

if TYPE_CHECKING:
    from heliograph.net.http import HttpConnection
    from heliograph.net.websocket import (
        DeflateLane,
        HandshakeMemory,
        TextLane,
        WebSocketConnection,
    )


class Dates:
    """The value of the Date header, made once a second."""

    __slots__ = ("_second", "_value")

    def __init__(self) -> None:
        self._second = 0
        self._value = b""

    def now(self) -> bytes:
        """Return the date of this second."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._value = formatdate(second, usegmt=True).encode()
        return self._value


@dataclass(slots=True, kw_only=True, eq=False)
class Context:
    """What the connections of one server share."""

    loop: asyncio.AbstractEventLoop
    config: ConnectionSettings
    path_prefix: str = ""  # before Pusher's /app
    lenient_protocol: bool = False  # of Pusher's clients
    node: Node
    dialect: Dialect
    wheel: Wheel
    lane: "TextLane"
    deflate_lane: "DeflateLane | None" = None  # where compression is on
    # What a client's connection is made by, where that is not an ordinary one.
    connect: "Callable[..., WebSocketConnection] | None" = None
    http_limits: HttpLimits
    header_memory: HeaderMemory = field(default_factory=HeaderMemory)
    handshakes: "HandshakeMemory"
    now: Callable[[], float]  # monotonic seconds, as the loop has them: the same within a turn
    clock: Callable[[], float] = monotonic  # the same, and they go on within a turn
    turns: Turns
    dates: Dates = field(default_factory=Dates)
    http_connections: "set[HttpConnection]" = field(default_factory=set)
    sockets: int = 0  # WebSocket connections that have not ended, those being closed included
    sockets_opened: int = 0  # since the start
    room: Room
    slow_readers: int = 0
    refused_over_capacity: int = 0
    rate_limited_messages: int = 0
    protocol_errors: dict[int, int] = field(default_factory=dict)  # closed by us, by code
    tls_failures: int = 0  # handshakes
    messages_received: int = 0
    messages_sent: int = 0  # to single clients
    bytes_sent: int = 0  # in these
    bytes_received: int = 0
    _answered: tuple[Response | None, bytes, bytes] = (None, b"", b"")
    deserted: asyncio.Event | None = None  # once we drain; set when nobody is connected any more

    # Of the configuration, where every message would look twice.
    first_look_s: float = field(init=False)  # how long a newcomer may be silent
    max_message_bytes: int = field(init=False)
    max_messages_per_second: int = field(init=False)  # of one client; 0 is no limit
    backlog: Backlog = field(init=False)
    intake: Intake = field(init=False)
    addresses: Addresses = field(init=False)
    idle: IdleConnections = field(init=False)
    unnamed: Unnamed = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.max_message_bytes = config.max_message_bytes
        self.max_messages_per_second = config.max_messages_per_second
        # No later than the first ping, for a WebSocket inherits the place on the wheel.
        self.first_look_s = min(
            config.keep_alive_timeout, config.request_timeout, config.ping_interval
        )
        self.backlog = Backlog(
            self.loop, most_each=config.max_write_buffer, most=config.max_total_write_buffer
        )
        self.intake = Intake(self.loop)
        self.addresses = Addresses(
            config.max_connections_per_ip, config.trusted_proxies, self.loop.call_later
        )
        self.idle = IdleConnections(self.http_connections, self.loop, self.now)
        self.room.attend(self.idle.close_soon)
        self.unnamed = Unnamed(lambda: self.room.capacity)

    @property
    def refused_per_address(self) -> int:
        """Connections refused because their address had as many as it may have."""
        return self.addresses.refused

    def answer(self, result: Response) -> bytes:
        """
        Return *result* as most requests are answered: in HTTP/1.1, on a connection that goes on
        unless the server is about to stop.

        The last one is kept for its second: publishers are all told the same.
        """
        date = self.dates.now()
        last, of, answer = self._answered
        if result is not last or date is not of:
            answer = response(
                result.status,
                result.body,
                content_type=result.content_type,
                headers=result.headers,
                keep_alive=self.deserted is None,
                date=date,
            )
            self._answered = (result, date, answer)
        return answer

    def begin_draining(self) -> asyncio.Event:
        """From now on everybody is asked to leave; return what is set when all have."""
        self.deserted = asyncio.Event()
        self._answered = (None, b"", b"")  # it told publishers that they may stay
        self.departed()
        return self.deserted

    def departed(self) -> None:
        """A connection has ended."""
        if self.deserted is not None and not self.sockets and not self.http_connections:
            self.deserted.set()
