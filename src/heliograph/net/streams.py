"""
Plain stream sockets: read, written and closed without a transport of the event loop's for each.

All of them are watched through one epoll, which is a single descriptor to the loop. Knows
descriptors and bytes; what they mean is their protocols' business. Where the kernel has no epoll,
and for TLS, asyncio's own transports do the same: see docs/decisions/0007.
"""

import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final

from heliograph.net.transport import FirstReceiver, Receiver
from heliograph.net.turns import (
    ENDINGS_S,
    NEWCOMER,
    SLICE_S,
    TURN_S,
    GoOn,
    Queue,
    standing_after,
)

UNREAD_S = 0.15
"""
How long what can wait does so while there is more to read than a turn has time for. A thousand
clients that join a channel at once are announced in a few writes each, not in one for each turn.
"""

AT_ONCE = 512
"""Sockets that the kernel is asked about before the event loop turns."""

READ_BYTES: Final = 64 * 1024
"""Read from one socket at once, at the most."""

BUSY_READ_BYTES: Final = 16 * 1024
"""
The same while there is more to read than time: the kernel keeps what cannot be handled yet. By
default, an event of the largest size is one read: its publisher must not seem to ask for much.
"""

PARTS_AT_ONCE = 512
"""Chunks that are handed to the kernel in one call; POSIX promises 16, Linux takes 1024."""

SMALL_BYTES = 128
"""Less than this is put together while it waits for a peer that does not read, or what Python needs
to keep it would be more than itself, and what bounds it would not be a bound."""

HIGH_BYTES = 16 * 1024
"""With more than this unsent a protocol is told to pause, unless it sets another limit."""

# Compiled, a name that is Final costs nothing to look up, and these are called for each event.
_read: Final = os.read
_write: Final = os.write
_writev: Final = os.writev

if hasattr(select, "epoll"):
    READ, WRITE, BROKEN = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP


def available() -> bool:
    """Whether the kernel has what a Poller needs."""
    return hasattr(select, "epoll")


class Stream:
    """
    One connected socket, as its protocol sees it.

    What is written while the poller is at work goes out when that is done, in one call of the
    kernel however many writes it was; at other times at once. Nothing here raises, whatever
    the peer does: `connection_lost` is called, once, on a later turn of the loop.
    """

    __slots__ = (
        "_closing",
        "_done",
        "_full",
        "_high",
        "_lost",
        "_poller",
        "_shuts",
        "_size",
        "_waiting",
        "descriptor",
        "protocol",
        "ready",
        "standing",
        "watched",
    )

    def __init__(self, poller: "Poller", descriptor: int, protocol: Receiver) -> None:
        self.descriptor = descriptor
        self.protocol = protocol
        self.watched = READ
        self.standing = NEWCOMER  # see turns.py
        self.ready = 0  # what the kernel said of it, while it is queued for that
        self._poller = poller
        # A list of what waits; or the only thing that does, as nine times in ten; or None.
        self._waiting: Any = None
        self._size = 0  # of what waits, in bytes
        self._high = HIGH_BYTES
        self._full = False  # the protocol was told to pause
        self._done = False  # nothing more is taken
        self._shuts = False  # and the peer is to be told so after what waits
        self._closing = False
        self._lost = False

    # -- Writing -------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Have *data* sent after what was written before; lost if the connection closes."""
        if self._done or not data:
            return
        waiting = self._waiting
        if waiting is None:
            self._waiting = data
            self._size = size = len(data)
            poller = self._poller
            # What is large goes at once: there is nothing to save, and it need not be kept.
            if poller.working and size <= self._high:
                poller.held.append(self)
            else:
                self.send()
        else:
            if not isinstance(waiting, list):
                waiting = self._waiting = [waiting]
            size = len(data)
            self._size += size
            last = waiting[-1]
            if size >= SMALL_BYTES or not self.watched & WRITE:
                waiting.append(data)
            elif type(last) is bytearray:
                last += data
            else:
                waiting.append(bytearray(data))
            # Whoever was told to pause has a full socket, and is sent the rest as it drains.
            if self._size > self._high and not self._full:
                self.send()

    def send(self) -> None:
        """Give the kernel what waits, as much as it takes now."""
        waiting = self._waiting
        if waiting is None:
            return
        try:
            if isinstance(waiting, list):
                sent = _writev(self.descriptor, waiting[:PARTS_AT_ONCE])
            else:
                sent = _write(self.descriptor, waiting)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._lose(error)
            return
        self._size -= sent
        if self._size:
            self._waiting = _rest(waiting if isinstance(waiting, list) else [waiting], sent)
            self._wait()
        else:
            self._waiting = None
            if self._done or self.watched & WRITE:
                self._sent()

    def _wait(self) -> None:
        """Go on when the peer has read some of it."""
        self._watch(self.watched | WRITE)
        if self._size > self._high and not self._full:
            self._pace(full=True)
        elif self._full and self._size <= self._high // 4:
            self._pace(full=False)

    def _pace(self, *, full: bool) -> None:
        """Have the protocol pause or resume; a fault there is not that of whoever writes."""
        self._full = full
        try:
            if full:
                self.protocol.pause_writing()
            else:
                self.protocol.resume_writing()
        except Exception as error:  # noqa: BLE001 - it is told, and ends this connection only
            self.fail(error)

    def _sent(self) -> None:
        """Do what was to be done once everything is out."""
        self._watch(self.watched & ~WRITE)
        if self._full:
            self._pace(full=False)
        if self._waiting is None:  # it may have written
            if self._shuts:
                self._shut()
            if self._closing:
                self._lose(None)

    def _shut(self) -> None:
        self._shuts = False
        try:
            with _borrowed(self.descriptor) as connection:
                connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lose(error)

    def write_eof(self) -> None:
        """Say to the peer that nothing more comes, after what waits."""
        if not self._done:
            self._done = self._shuts = True
            if self._waiting is None:
                self._shut()

    def can_write_eof(self) -> bool:
        """Whether one direction can end before the other: it can."""
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Have the protocol pause with more than *high* bytes unsent, until a quarter is left."""
        assert low is None  # noqa: S101 - nobody here asks for another
        self._high = HIGH_BYTES if high is None else high

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that wait here, those in the kernel not counted."""
        return self._size

    # -- Reading -------------------------------------------------------------------------

    def happened(self, what: int) -> None:
        """Take note of what the kernel says of the socket, whatever it is."""
        reads = what & self.watched & READ
        if reads:
            self.read()  # first: where it is gone, sending fails, and its last words were lost
        if what & WRITE:
            self.send()
        if what & BROKEN and not reads and not self._lost:
            self._lose(ConnectionResetError("the peer disconnected"))

    def read(self) -> None:
        """Have what has come handled, as much of it as is read at once now."""
        poller = self._poller
        try:
            data = _read(self.descriptor, poller.read_bytes)
        except OSError as error:
            self.unreadable(error)  # the kernel says it only once
            return
        if not data:
            self.ended()
            poller.now = poller.clock()
            return
        began = poller.now
        self.protocol.data_received(data)
        poller.now = ended = poller.clock()
        whole = len(data) < poller.read_bytes
        self.standing = standing_after(self.standing, ended - began, whole=whole, done=poller.done)

    def has_input(self) -> bool:
        """Whether the peer has sent something that is yet to be read, its end included."""
        if self.descriptor < 0 or self._closing:
            return False
        try:
            with _borrowed(self.descriptor) as connection:
                connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass  # it is broken, which reading will find out
        return True

    def unreadable(self, error: OSError) -> None:
        """Reading failed: end, unless there was only nothing to read."""
        if not isinstance(error, BlockingIOError | InterruptedError):
            self._lose(error)

    def ended(self) -> None:
        """The peer sends no more: close, unless the protocol has something left to say."""
        self._watch(self.watched & ~READ)
        if not self.protocol.eof_received():
            self.close()

    def pause_reading(self) -> None:
        """
        Leave what the peer sends in the kernel, so that it has to wait.

        Should it be gone altogether meanwhile, so is what it sent: epoll would not stop saying so.
        """
        if not self._closing:
            self._watch(self.watched & ~READ)

    def resume_reading(self) -> None:
        """Read on."""
        if not self._closing:
            self._watch(self.watched | READ)

    def is_reading(self) -> bool:
        """Whether what the peer sends is read."""
        return bool(self.watched & READ)

    def _watch(self, what: int) -> None:
        if what != self.watched and not self._lost:
            self.watched = what
            self._poller.watch(self.descriptor, what)

    # -- Ending --------------------------------------------------------------------------

    def close(self) -> None:
        """Read no more, and end when what waits is out."""
        if not self._closing:
            self._watch(self.watched & ~READ)
            self._closing = self._done = True
            if self._waiting is None:
                self._lose(None)

    def abort(self) -> None:
        """End now; what waits is lost."""
        self._lose(None)

    def fail(self, error: Exception) -> None:
        """End because of a fault of ours, which is told to the loop's handler."""
        self._poller.complain(error, self)
        self._lose(error)

    def is_closing(self) -> bool:
        """Whether the connection is ending, or has ended."""
        return self._closing

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = self._done = True
            self.watched = 0
            self._waiting = None
            self._size = 0
            self._poller.lose(self, error)

    # -- Who it is -----------------------------------------------------------------------

    @property
    def stream(self) -> "Stream":
        """The socket's own stream, which this is; what is built upon one has the same."""
        return self

    def set_protocol(self, protocol: Receiver) -> None:
        """Have *protocol* told of what comes from now on."""
        self.protocol = protocol

    def get_protocol(self) -> Receiver:
        """Return who is told of what comes."""
        return self.protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the socket's own name, or the peer's; *default* for all else, or once gone."""
        if self.descriptor < 0:
            return default
        try:
            with _borrowed(self.descriptor) as connection:
                if name == "peername":
                    return connection.getpeername()
                if name == "sockname":
                    return connection.getsockname()
        except OSError:
            pass  # it is gone, as the answer says
        return default


def _rest(
    parts: list[bytes | bytearray | memoryview], sent: int
) -> list[bytes | bytearray | memoryview]:
    """Return what is left of *parts* after their first *sent* bytes."""
    for index, part in enumerate(parts):
        if sent < len(part):
            rest = parts[index:]
            if sent:
                rest[0] = memoryview(part)[sent:]
            return rest
        sent -= len(part)
    return []


class _borrowed:  # noqa: N801 - it reads as what it does
    """A socket object for a descriptor that stays somebody else's to close."""

    __slots__ = ("_socket",)

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_error: object) -> None:
        self._socket.detach()


class Poller:
    """
    All plain sockets of one server.

    It works in turns: what has come is read and handled, then what was to be done `soon` is done,
    then all that was written meanwhile goes out. Where more has come than a turn has time for, it
    is queued (see turns.py). *clock* reads monotonic seconds, which must not stand still.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = monotonic
    ) -> None:
        self._loop = loop
        self.clock = clock
        self.now = 0.0
        """The time, as it was read last during this turn."""
        self._queue: Queue[Stream] = Queue()
        self._serving = False  # a stream's input is being handled
        self._again: list[tuple[Stream, GoOn]] = []  # and what of it is left for another turn
        self._next: asyncio.Handle | None = None  # of a turn that nothing new need begin
        self._endings: deque[tuple[Stream, Exception | None]] = deque()  # whose end is to be told
        self.read_bytes = READ_BYTES
        """How much is read from one socket at once, now."""
        self._epoll = select.epoll()
        self._streams: dict[int, Stream] = {}
        self.turns = 0
        """How often there was something to do."""
        self.working = False
        """Whether a turn goes on."""
        self.held: list[Stream] = []
        """Those with something written during this turn: they send at its end."""
        self._then: list[Callable[[], object]] = []
        self._when_read: list[Callable[[], object]] = []
        self._unread_since = 0.0  # when the first of these was put there
        self._reading = False  # and has not come to its `_then`
        loop.add_reader(self._epoll.fileno(), self._turn)

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def queued(self) -> int:
        """How many connections are queued for their turn."""
        return len(self._queue)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do of the input that is being handled."""
        return not self._again

    def adopt(self, descriptor: int, protocol: FirstReceiver) -> None:
        """
        Take on a connected socket, which does not block, and have *protocol* told of it.

        Raises OSError where the kernel watches as many as it will; the socket stays the caller's.
        """
        self._epoll.register(descriptor, READ)
        stream = self._streams[descriptor] = Stream(self, descriptor, protocol)
        try:
            protocol.connection_made(stream)
        except Exception as error:  # noqa: BLE001 - it is told, and ends this connection only
            stream.fail(error)

    def soon(self, callback: Callable[[], object]) -> None:
        """Have *callback* called at the end of this turn, in one of its own if there is none."""
        if self._reading:
            self._then.append(callback)
        else:
            self._loop.call_soon(self._do, [callback])

    def when_read(self, callback: Callable[[], object]) -> None:
        """
        Have *callback* called once what has come is read, UNREAD_S from now at the latest.

        That is at the end of this turn, unless there is more to read than it had time for.
        """
        if not self._reading:
            self._loop.call_soon(self._do, [callback])
            return
        if not self._when_read:
            self._unread_since = self.now
        self._when_read.append(callback)

    def again(self, go_on: GoOn, transport: Any, /) -> None:
        """Have *go_on* called on a later turn; see Turns."""
        stream: Stream = transport.stream
        if self._serving:
            self._again.append((stream, go_on))  # its time has yet to be noted
        else:
            self._queue.put(stream, stream.standing, self.clock(), go_on)
            self._turn_on()

    def stop(self) -> None:
        """Cut off whoever is left, and watch nothing any more."""
        self._queue.clear()
        self._when_read.clear()
        if self._next is not None:
            self._next.cancel()
        for stream in list(self._streams.values()):
            stream.abort()
            self._end(stream, None)
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    # -- What streams ask ----------------------------------------------------------------

    def watch(self, descriptor: int, what: int) -> None:
        """Be told of *what* from now on; that the peer is gone is always told."""
        self._epoll.modify(descriptor, what)

    def lose(self, stream: Stream, error: Exception | None) -> None:
        """Watch *stream* no more, and tell its protocol on the next turn."""
        self._epoll.unregister(stream.descriptor)
        # Not now: the number would be given to the next who comes, while this turn may still have
        # something to say of its last bearer.
        self._endings.append((stream, error))
        if len(self._endings) == 1:
            self._loop.call_soon(self._end_some)

    def complain(self, error: Exception, stream: Stream | None = None) -> None:
        """Tell the loop's handler of a fault of ours."""
        context: dict[str, Any] = {
            "message": "unhandled exception in a connection",
            "exception": error,
        }
        if stream is not None:
            context |= {"protocol": stream.protocol, "transport": stream}
        self._loop.call_exception_handler(context)

    # -- Turns ---------------------------------------------------------------------------

    def _turn(self) -> None:
        """Read what has come, handle it, and write what came of that."""
        self.turns += 1
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self.working = self._reading = True
        try:
            # Those that are queued are still ready to the kernel, and must not hide the others.
            events = self._epoll.poll(0, AT_ONCE + len(self._queue))
            self.now = self.clock()
            if self._queue:
                self._line_up(events)
                self.now = self.clock()  # the first one served has not used that time
                self._serve_queue()
            else:
                self._serve_all(events)
        finally:
            # Even where something got through that is no mere fault, nothing is held for ever.
            self._reading = False
            then, self._then = self._then, []
            if self._when_read and (not self._queue or self.now - self._unread_since >= UNREAD_S):
                then += self._when_read
                self._when_read = []
            self._do(then)
            self._turn_on()

    def _turn_on(self) -> None:
        """Have a turn follow where connections are queued: the kernel may have nothing to say."""
        # Not where `_next` was just set to None: compiled, that is trusted to be so still.
        if self._queue and self._next is None:
            self._next = self._loop.call_soon(self._turn)

    def _serve_all(self, events: list[tuple[int, int]]) -> None:
        """Serve whatever is ready, in the kernel's order; queue what there is no time for."""
        end = self.now + TURN_S
        streams = self._streams
        for position, (descriptor, what) in enumerate(events, 1):
            stream = streams.get(descriptor)
            if stream is None:
                continue  # somebody called `stop` in this turn
            self._serve(stream, what)
            if self.now >= end:
                self._line_up(events[position:])
                return

    def _line_up(self, events: list[tuple[int, int]]) -> None:
        """Queue what is ready and not queued yet."""
        streams = self._streams
        for descriptor, what in events:
            stream = streams.get(descriptor)
            if stream is None:
                continue
            if not stream.ready:
                self._queue.put(stream, stream.standing, self.now)
            stream.ready |= what

    def _serve_queue(self) -> None:
        """Serve those that have used the least time, until the turn is over."""
        end = self.now + TURN_S
        self.read_bytes = BUSY_READ_BYTES
        try:
            while self._queue and self.now < end:
                stream, go_on = self._queue.take()
                if go_on is None:
                    what, stream.ready = stream.ready, 0
                    self._serve(stream, what)
                else:
                    self._resume(stream, go_on)
        finally:
            self.read_bytes = READ_BYTES

    def _serve(self, stream: Stream, what: int) -> None:
        """Handle what the kernel says of *stream*, and take note of the time when that is done."""
        self._serving = True
        try:
            if what != READ or stream.watched != READ:
                stream.happened(what)
                self.now = self.clock()
            else:
                stream.read()  # as `happened` would: nine times in ten there is no more to it
        except Exception as error:  # noqa: BLE001 - it is told, and ends only this
            stream.fail(error)
        self._settle()

    def _resume(self, stream: Stream, go_on: GoOn) -> None:
        """
        Have a connection handle more of its input.

        However little is left: it is the rest of a read that was long.
        """
        self._serving = True
        try:
            go_on()
        except Exception as error:  # noqa: BLE001 - it is told, and ends only this
            stream.fail(error)
        self.now = self.clock()
        if self._again:
            stream.standing = standing_after(stream.standing, SLICE_S, whole=True, done=False)
        self._settle()

    def _settle(self) -> None:
        """Queue what is left to do of what was served."""
        self._serving = False
        if self._again:
            again, self._again = self._again, []
            for one, go_on in again:
                self._queue.put(one, one.standing, self.now, go_on)

    def _do(self, callbacks: Iterable[Callable[[], object]]) -> None:
        self.working = True
        try:
            for callback in callbacks:
                try:
                    callback()
                except Exception as error:  # noqa: BLE001 - it is told
                    self.complain(error)
        finally:
            self.working = False
            held, self.held = self.held, []
            for stream in held:
                try:
                    stream.send()
                except Exception as error:  # noqa: BLE001 - it is told, and ends only this
                    stream.fail(error)

    def _end_some(self) -> None:
        """End the streams that are lost, as many as there is time for before the loop turns."""
        end = self.clock() + ENDINGS_S
        while self._endings:
            stream, error = self._endings[0]
            try:
                self._end(stream, error)
            finally:  # only now: while there is one, nobody else asks for this to be called
                self._endings.popleft()
            if self.clock() >= end:
                break
        if self._endings:
            self._loop.call_soon(self._end_some)

    def _end(self, stream: Stream, error: Exception | None) -> None:
        descriptor = stream.descriptor
        if descriptor < 0:
            return  # `stop` was here before
        del self._streams[descriptor]
        os.close(descriptor)
        stream.descriptor = -1  # the number is somebody else's from now on
        try:
            stream.protocol.connection_lost(error)
        except Exception as fault:  # noqa: BLE001 - it is told
            self.complain(fault, stream)
        # They refer to each other; nobody should wait for the collector.
        stream.protocol = None  # type: ignore[assignment]  # nothing will be told any more
