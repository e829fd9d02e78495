"""
A server without an event loop, sockets, clock or chance: bytes in, bytes out, the same every time.

Whatever is logged as a warning or worse is a fault here: nothing that a client sends is one.
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from typing import Any, cast

from heliograph.config.apps import HistoryRule
from heliograph.config.load import make_config
from heliograph.config.settings import Config
from heliograph.engine.memory import MemoryEngine
from heliograph.engine.share import Share
from heliograph.net.answers import Answers
from heliograph.net.context import Context
from heliograph.net.descriptors import DescriptorBudget
from heliograph.net.handshake import Upgrades
from heliograph.net.http import HttpConnection
from heliograph.net.pages import Pages
from heliograph.net.timers import Wheel
from heliograph.net.turns import LoopTurns
from heliograph.node.dialect import Goodbye, Opening
from heliograph.node.node import Node
from heliograph.protocols.pusher import auth
from heliograph.protocols.pusher.api.routes import Routes
from heliograph.protocols.pusher.dialect import PusherDialect
from heliograph.protocols.pusher.lanes import PusherLane
from heliograph.wire.framing import DeflateFraming, TextFraming
from heliograph.wire.http import HttpLimits, Request

APP_ID, KEY, SECRET = "3", "fuzz-key", "fuzz-secret"
PAGES = Pages("", lambda: "")
NOW = 1_800_000_000.0


class Alarm(logging.Handler):
    """Makes a fault of every complaint in the log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise what is complained of."""
        raise AssertionError(f"logged: {record.getMessage()}") from (
            record.exc_info[1] if record.exc_info else None
        )


def sound_the_alarm() -> None:
    """Let nothing be logged but what a client may cause."""
    logger = logging.getLogger("heliograph")
    if not any(isinstance(one, Alarm) for one in logger.handlers):
        logger.addHandler(Alarm(logging.WARNING))


def switch_the_alarm_off() -> None:
    """Let everything be logged again, as others expect."""
    logger = logging.getLogger("heliograph")
    for one in [one for one in logger.handlers if isinstance(one, Alarm)]:
        logger.removeHandler(one)


@cache
def configuration(*, counts: bool) -> Config:
    """Return a server's configuration, with everything switched on, but *counts* perhaps."""
    return make_config(
        pusher_app_id=APP_ID,
        pusher_app_key=KEY,
        pusher_secret=SECRET,
        watchlist=True,
        subscription_count=counts,
        subscription_errors=True,
        enable_ws_compression=True,
        ws_compression_threshold=60,
        max_message_bytes=1024,
        max_request_head_bytes=2048,
        max_request_body_bytes=1024,
        max_event_bytes=300,
    )


class Ticked:
    """A `node` whose ticks are ours; with *counts*, clients are told how many subscribe."""

    def __init__(self, *, counts: bool = True) -> None:
        self._soon: list[Callable[[], object]] = []
        self._bits = 0
        self._engine = MemoryEngine(lambda: NOW, wall=lambda: NOW, epoch="e")
        apps = configuration(counts=counts).apps
        every = HistoryRule(prefix="", limit=3, ttl=60.0, rewind_count=2)
        self.node = Node(apps, self._engine, self, self._next_bits, every=every)

    def soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Have it called by `tick`."""
        self._soon.append(lambda: callback(*arguments))

    when_read = soon

    def now(self) -> float:
        """Return the time, which stands still."""
        return 0.0

    def later(self, _delay_s: float, callback: Callable[..., object], *arguments: Any) -> None:
        """Have it called by `tick`, too: nobody waits here."""
        self.soon(callback, *arguments)

    def _next_bits(self, _number: int) -> int:
        self._bits += 1
        return self._bits

    def tick(self) -> None:
        """Do what was to be done soon, and what comes of it."""
        while self._soon:
            due, self._soon = self._soon, []
            for one in due:
                one()

    def check_empty(self) -> None:
        """Insist that nobody is left, anywhere."""
        tenant = self.node.tenant(APP_ID)
        assert tenant is not None
        assert self.node.connections == 0, "sessions are left"
        assert len(tenant.hub) == 0, "channels are left in the hub"
        assert tenant.space.share() == Share(), "something is left in the engine"


# -- Messages ------------------------------------------------------------------------------


class Link:
    """A session, and the peer that it speaks through."""

    def __init__(self, node: Node) -> None:
        self.lane = PusherLane(TextFraming())
        self.open = True
        self.said: list[bytes] = []
        dialect = PusherDialect(node, subscription_errors=True)
        self._session = dialect.connect(Opening(dialect=dialect, key=KEY))
        self.id = self._session.id
        self.said.append(self._session.open(self))

    def say(self, line: bytes) -> None:
        """Have the client say something, if it is text and the connection is open."""
        if line.startswith(b"!"):
            line = self._signed(line[1:])
        if self.open and _is_text(line):
            self._session.receive(line, NOW)

    def room(self) -> int:
        """Return room for two events at most, so that larger histories come in pages."""
        return 1000

    def when_room(self, _callback: Callable[[], object], /) -> None:
        """Never wait: there is always room."""
        raise AssertionError("there is room")

    def _signed(self, line: bytes) -> bytes:
        try:
            message = json.loads(line)
            data = message["data"]
            if message["event"] == "pusher:signin":
                text = auth.user_string(self.id, data["user_data"])
            else:
                text = auth.channel_string(self.id, data["channel"], data.get("channel_data"))
            data["auth"] = f"{KEY}:{auth.sign(SECRET.encode(), text)}"
            return json.dumps(message).encode()
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return line

    def end(self) -> None:
        """Have the client go."""
        if self.open:
            self.open = False
            self._session.end()

    def check(self) -> None:
        """Insist that everything said was a message."""
        for text in self.said:
            message = json.loads(text.decode())
            assert isinstance(message["event"], str)
            assert SECRET.encode() not in text

    # -- What the session asks of its peer ---------------------------------------------------

    def write(self, chunk: bytes, /) -> None:
        """Take frames of the lane."""
        while chunk:
            length, start = chunk[1], 2
            if length == 126:
                length, start = int.from_bytes(chunk[2:4]), 4
            self.said.append(chunk[start : start + length])
            chunk = chunk[start + length :]

    def send(self, *texts: bytes) -> None:
        """Take messages."""
        self.said += texts

    def close(self, goodbye: Goodbye) -> None:
        """End, as a connection does."""
        if goodbye.message is not None:
            self.said.append(goodbye.message)
        self.end()


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


# -- Connections ---------------------------------------------------------------------------


def _date() -> bytes:
    """Return the date of the Date header: always the same second."""
    return b"Fri, 15 Jan 2027 08:00:00 GMT"


class FakeLoop:
    """As much of an event loop as connections ask for."""

    def __init__(self, ticked: Ticked) -> None:
        self.call_soon = ticked.soon

    def time(self) -> float:
        """Return a time."""
        return NOW

    def call_later(self, *_when_and_what: object) -> "FakeLoop":
        """Never come to it."""
        return self

    def cancel(self) -> None:
        """Forget a timer."""


class TakingAllBodies:
    """The routes, which here wait for every body: as many bytes arrive, however they are cut."""

    def __init__(self, routes: Routes) -> None:
        self.handle = routes.handle

    def refuse_early(self, _request: Request) -> None:
        """Wait for the body."""


class Wire:
    """
    A connection to a server, and what came back over it.

    One that is *hurried* has no time in a turn for more than one piece of what came.
    """

    def __init__(self, pieces: Sequence[bytes], *, hang_up: bool, hurried: bool = False) -> None:
        # What is flushed at the end of a tick comes sooner or later as the bytes are cut.
        self._ticked = Ticked(counts=False)
        self._context = _context(self._ticked)
        self._context.clock = count().__next__ if hurried else lambda: NOW
        self._written = b""
        self._closed = self._finished = self._paused = False
        routes = TakingAllBodies(
            Routes(self._ticked.node, prefix="", now_s=lambda: NOW, otherwise=PAGES)
        )
        self._protocol: Any = HttpConnection(
            self._context, routes, upgrades=_upgrades(self._ticked)
        )
        self._protocol.connection_made(cast("Any", self))
        for piece in pieces:
            self._deliver(piece)
        if hang_up and not self._closed:
            self._protocol.eof_received()
        self._protocol.connection_lost(None)
        self._ticked.tick()
        self._check_empty()

    def _deliver(self, piece: bytes) -> None:
        if not self._closed:
            self._protocol.data_received(piece)
            self._ticked.tick()
            paused = self._paused and not self._closed and not self._finished
            assert not paused, "reading stays paused though every answer was given"

    def _check_empty(self) -> None:
        self._ticked.check_empty()
        context = self._context
        assert context.sockets == 0, "sockets are counted that are gone"
        assert not context.http_connections, "HTTP connections are left"
        assert len(context.wheel) == 0, "somebody waits on the wheel who is gone"

    def said(self) -> tuple[bytes, bool, bool]:
        """Return what the server wrote, and how it ended."""
        # Whether a client seems to wait for it depends on how its bytes come.
        written = self._written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        assert b"HTTP/1.1 500" not in written
        assert SECRET.encode() not in written
        return written, self._closed, self._finished

    # -- A transport -------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Take what the server says."""
        assert not self._finished, "written after the end"
        self._written += data

    def close(self) -> None:
        """Read no more."""
        self._closed = True

    abort = close

    def can_write_eof(self) -> bool:
        """Say that the connection can be half closed."""
        return True

    def write_eof(self) -> None:
        """Take no more."""
        self._finished = True

    def pause_reading(self) -> None:
        """Deliver nothing."""
        self._paused = True

    def resume_reading(self) -> None:
        """Deliver again."""
        self._paused = False

    def set_protocol(self, protocol: object) -> None:
        """Deliver to another."""
        self._protocol = protocol

    def set_write_buffer_limits(self, _high: int) -> None:
        """Keep nothing back."""

    def get_write_buffer_size(self) -> int:
        """Return how much is kept back."""
        return 0

    def get_extra_info(self, _name: str, default: object = None) -> object:
        """Know nothing of a socket."""
        return default


def _upgrades(ticked: Ticked) -> Upgrades:
    config = configuration(counts=False)
    dialect = PusherDialect(
        ticked.node, subscription_errors=config.pusher_protocol.subscription_errors
    )
    return Upgrades(
        [dialect], compression=DeflateFraming(config.connections.ws_compression_threshold)
    )


def _context(ticked: Ticked) -> Context:
    config = configuration(counts=False)
    loop = cast("Any", FakeLoop(ticked))
    return Context(
        loop=loop,
        settings=config.connections,
        tally=ticked.node.tally,
        wheel=Wheel(loop),
        turns=LoopTurns(loop),
        http_limits=HttpLimits(
            max_head_bytes=config.http_requests.max_request_head_bytes,
            max_body_bytes=config.http_requests.max_request_body_bytes,
        ),
        now=loop.time,
        answers=Answers(_date),
        descriptors=DescriptorBudget(sys.maxsize, loop.call_later),
    )
