"""The objects that all connections of a server share, so that a connection needs one reference."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from heliograph.config.settings import ConnectionSettings
from heliograph.net.addresses import Addresses
from heliograph.net.answers import Answers
from heliograph.net.backlog import BEHIND_BYTES, Backlog
from heliograph.net.descriptors import DescriptorBudget
from heliograph.net.idle import IdleConnections, Unnamed
from heliograph.net.intake import Intake
from heliograph.net.timers import Wheel
from heliograph.net.turns import Turns
from heliograph.observe.metrics import Tally
from heliograph.wire.http import HeaderMemory, HttpLimits


class Context:
    """
    The objects that the connections of one server share.

    *now* returns the event loop's time in monotonic seconds, which is constant within a turn of
    the loop. *clock* returns the current time in monotonic seconds.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        settings: ConnectionSettings,
        tally: Tally,
        wheel: Wheel,
        turns: Turns,
        descriptors: DescriptorBudget,
        http_limits: HttpLimits,
        now: Callable[[], float],
        clock: Callable[[], float] = monotonic,
        answers: Answers | None = None,
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.tally = tally
        self.wheel = wheel
        self.turns = turns
        self.descriptors = descriptors
        self.now = now
        self.clock = clock
        # Of HTTP connections.
        self.http_limits = http_limits
        self.header_memory = HeaderMemory()
        self.answers = answers or Answers()
        self.http_connections: set[Any] = set()  # of HttpConnection, which knows this class
        # Of clients.
        # Of clients that have not read all of a history, and what is to be called then.
        self.awaiting_room: dict[Any, dict[Callable[[], object], None]] = {}
        self.sockets = 0  # open connections, including those that are closing
        self.sockets_opened = 0  # since the start
        self.slow_readers = 0
        self.refused_over_capacity = 0
        self.rate_limited_messages = 0
        self.protocol_errors: dict[int, int] = {}  # connections that the server closed, by code
        self.tls_failures = 0  # handshakes
        self.messages_received = 0
        self.messages_sent = 0  # to single clients
        self.bytes_sent = 0  # in these
        self.bytes_received = 0
        self.draining = False
        self.all_closed = asyncio.Event()  # set when the server drains and no connection is open
        # Copies of settings that are used for every message.
        # Unsent bytes above which a client is slow.
        self.behind_bytes = min(settings.max_write_buffer // 2, BEHIND_BYTES)
        self.max_message_bytes = settings.max_message_bytes
        self.max_messages_per_second = settings.max_messages_per_second  # per client; 0: no limit
        # Seconds that a new connection may be silent: at most until the first ping, because a
        # WebSocket inherits the HTTP connection's place on the wheel.
        self.first_deadline_s = min(
            settings.keep_alive_timeout, settings.request_timeout, settings.ping_interval
        )
        self.backlog = Backlog(
            loop, most_each=settings.max_write_buffer, most=settings.max_total_write_buffer
        )
        self.intake = Intake(loop)
        self.addresses = Addresses(
            settings.max_connections_per_ip, settings.trusted_proxies, loop.call_later
        )
        self.idle = IdleConnections(self.http_connections, loop, now)
        self.unnamed = Unnamed(lambda: descriptors.capacity)
        descriptors.attend(self.idle.close_soon)

    @property
    def refused_per_address(self) -> int:
        """Connections that were refused because their address had reached its limit."""
        return self.addresses.refused

    def begin_draining(self) -> None:
        """Begin to end all connections; `all_closed` is set once all have ended."""
        self.draining = True
        self.answers.close()
        self.departed()

    def departed(self) -> None:
        """Register that a connection has ended."""
        if self.draining and not self.sockets and not self.http_connections:
            self.all_closed.set()
