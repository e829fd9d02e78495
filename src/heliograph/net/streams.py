"""
Stream sockets that are read, written and closed without a transport of the event loop for each.

One epoll watches all sockets, and is a single descriptor for the loop. This module handles
descriptors and bytes; protocols interpret the bytes. On systems without epoll, asyncio's own
transports do the same: see docs/decisions/0007. TLS is in tls_streams.py.
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
Seconds that `when_read` callbacks are delayed while there is more to read than a turn has time for.
So if a thousand clients join a channel at once, each member gets the announcements in a few writes,
not in one write per turn.
"""

AT_ONCE = 512
"""Maximum number of ready sockets that one turn gets from epoll."""

READ_BYTES: Final = 64 * 1024
"""Maximum size of one read from a socket."""

BUSY_READ_BYTES: Final = 16 * 1024
"""
The same while there is more to read than time: the kernel keeps input that cannot be handled yet.
By default, an event of the largest size fits into one read, so that its publisher is not counted
as a client that uses much time.
"""

PARTS_AT_ONCE = 512
"""Chunks that one system call writes; POSIX guarantees 16, Linux accepts 1024."""

SMALL_BYTES = 128
"""
Smaller chunks are joined while a peer does not read. Otherwise Python's overhead for each chunk
would exceed the chunk, and the limit on unsent bytes would not limit the memory.
"""

HIGH_BYTES = 16 * 1024
"""With more unsent bytes than this, a protocol is paused, unless it sets another limit."""

# In compiled code, access to a Final name costs nothing; these are called for each event.
_read: Final = os.read
_write: Final = os.write
_writev: Final = os.writev

if hasattr(select, "epoll"):
    READ, WRITE, BROKEN = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP


def available() -> bool:
    """Whether the kernel has epoll, which a Poller needs."""
    return hasattr(select, "epoll")


class Stream:
    """
    One connected socket: the transport of its protocol.

    Writes during a turn of the poller are sent at its end, all of them in one system call; other
    writes are sent at once. No method raises, whatever the peer does: `connection_lost` is called
    once, on a later turn of the loop.
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
        self.ready = 0  # its events from epoll, while it is queued for them
        self._poller = poller
        # The unsent chunks: a list, or one chunk alone (the usual case), or None.
        self._waiting: Any = None
        self._size = 0  # of the unsent chunks, in bytes
        self._high = HIGH_BYTES
        self._full = False  # the protocol was paused
        self._done = False  # further writes are ignored
        self._shuts = False  # EOF follows the unsent bytes
        self._closing = False
        self._lost = False

    # -- Writing -------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Send *data* after earlier writes; *data* is lost if the connection is closing."""
        if self._done or not data:
            return
        waiting = self._waiting
        if waiting is None:
            self._waiting = data
            self._size = size = len(data)
            poller = self._poller
            # A large chunk is sent at once: joining would save nothing, and it need not be kept.
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
            # If the protocol is paused, the socket is full, and the rest is sent as it drains.
            if self._size > self._high and not self._full:
                self.send()

    def send(self) -> None:
        """Send as many of the unsent bytes as the kernel accepts now."""
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
        """Continue sending once the socket accepts more."""
        self._watch(self.watched | WRITE)
        if self._size > self._high and not self._full:
            self._pace(full=True)
        elif self._full and self._size <= self._high // 4:
            self._pace(full=False)

    def _pace(self, *, full: bool) -> None:
        """Pause or resume the protocol; an exception there does not reach the caller of `write`."""
        self._full = full
        try:
            if full:
                self.protocol.pause_writing()
            else:
                self.protocol.resume_writing()
        except Exception as error:  # noqa: BLE001 - logged, and ends only this connection
            self.fail(error)

    def _sent(self) -> None:
        """Resume the protocol, and do a pending EOF or close: everything is sent."""
        self._watch(self.watched & ~WRITE)
        if self._full:
            self._pace(full=False)
        if self._waiting is None:  # the protocol may have written
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
        """End the sending direction after the unsent bytes."""
        if not self._done:
            self._done = self._shuts = True
            if self._waiting is None:
                self._shut()

    def can_write_eof(self) -> bool:
        """Return True: one direction can end before the other."""
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pause the protocol with more than *high* unsent bytes, until a quarter is left."""
        assert low is None  # noqa: S101 - no caller sets it
        self._high = HIGH_BYTES if high is None else high

    def get_write_buffer_size(self) -> int:
        """Return the number of unsent bytes in this process, without those in the kernel."""
        return self._size

    # -- Reading -------------------------------------------------------------------------

    def happened(self, what: int) -> None:
        """Handle the events *what* that epoll reported for the socket."""
        reads = what & self.watched & READ
        if reads:
            self.read()  # first: if the peer disconnected, sending fails, and input would be lost
        if what & WRITE:
            self.send()
        if what & BROKEN and not reads and not self._lost:
            self._lose(ConnectionResetError("the peer disconnected"))

    def read(self) -> None:
        """Read once, and let the protocol handle the input."""
        poller = self._poller
        try:
            data = _read(self.descriptor, poller.read_bytes)
        except OSError as error:
            self.unreadable(error)  # the kernel reports the error only once
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
        """Whether there is unread input; the peer's EOF counts as input."""
        if self.descriptor < 0 or self._closing:
            return False
        try:
            with _borrowed(self.descriptor) as connection:
                connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass  # the connection is broken; reading handles the error
        return True

    def unreadable(self, error: OSError) -> None:
        """Handle an error of reading: close, unless there was just nothing to read."""
        if not isinstance(error, BlockingIOError | InterruptedError):
            self._lose(error)

    def ended(self) -> None:
        """Handle the peer's EOF: close, unless the protocol has more to send."""
        self._watch(self.watched & ~READ)
        if not self.protocol.eof_received():
            self.close()

    def pause_reading(self) -> None:
        """
        Stop reading; input stays in the kernel, which slows the peer down (backpressure).

        If the peer disconnects completely meanwhile, its unread input is lost: epoll would report
        that again and again, so the connection is closed at once.
        """
        if not self._closing:
            self._watch(self.watched & ~READ)

    def resume_reading(self) -> None:
        """Read from the peer again."""
        if not self._closing:
            self._watch(self.watched | READ)

    def is_reading(self) -> bool:
        """Whether input is read."""
        return bool(self.watched & READ)

    def _watch(self, what: int) -> None:
        if what != self.watched and not self._lost:
            self.watched = what
            self._poller.watch(self.descriptor, what)

    # -- Ending --------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading, and close once all unsent bytes are sent."""
        if not self._closing:
            self._watch(self.watched & ~READ)
            self._closing = self._done = True
            if self._waiting is None:
                self._lose(None)

    def abort(self) -> None:
        """Close at once; unsent bytes are lost."""
        self._lose(None)

    def fail(self, error: Exception) -> None:
        """Close because of an exception in this server; report it to the loop's handler."""
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

    # -- Identity ------------------------------------------------------------------------

    @property
    def stream(self) -> "Stream":
        """This stream; a transport on top of a stream, such as TLS, has the same attribute."""
        return self

    def set_protocol(self, protocol: Receiver) -> None:
        """Deliver all further events to *protocol*."""
        self.protocol = protocol

    def get_protocol(self) -> Receiver:
        """Return the receiver of events."""
        return self.protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the `sockname` or `peername`; *default* for other names, or once closed."""
        if self.descriptor < 0:
            return default
        try:
            with _borrowed(self.descriptor) as connection:
                if name == "peername":
                    return connection.getpeername()
                if name == "sockname":
                    return connection.getsockname()
        except OSError:
            pass  # the peer has disconnected
        return default


def _rest(
    parts: list[bytes | bytearray | memoryview], sent: int
) -> list[bytes | bytearray | memoryview]:
    """Return *parts* without their first *sent* bytes."""
    for index, part in enumerate(parts):
        if sent < len(part):
            rest = parts[index:]
            if sent:
                rest[0] = memoryview(part)[sent:]
            return rest
        sent -= len(part)
    return []


class _borrowed:  # noqa: N801 - used like a function
    """A socket object for a descriptor that its owner closes."""

    __slots__ = ("_socket",)

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_error: object) -> None:
        self._socket.detach()


class Poller:
    """
    All stream sockets of one server.

    The poller works in turns: it reads and handles input, then calls the callbacks of `soon`, then
    sends all writes of the turn. If there is more input than a turn has time for, connections are
    queued (see turns.py). *clock* returns monotonic seconds, and must advance during a turn.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = monotonic
    ) -> None:
        self._loop = loop
        self.clock = clock
        self.now = 0.0
        """The time of the last clock reading in this turn."""
        self._queue: Queue[Stream] = Queue()
        self._serving = False  # a stream's input is being handled
        self._again: list[tuple[Stream, GoOn]] = []  # its rest, for later turns
        self._next: asyncio.Handle | None = None  # the scheduled turn, if any
        self._endings: deque[tuple[Stream, Exception | None]] = deque()  # lost, not closed
        self.read_bytes = READ_BYTES
        """Maximum size of one read now."""
        self._epoll = select.epoll()
        self._streams: dict[int, Stream] = {}
        self.turns = 0
        """Number of turns."""
        self.working = False
        """Whether a turn is running."""
        self.held: list[Stream] = []
        """Streams that were written to during this turn: they send at its end."""
        self._then: list[Callable[[], object]] = []
        self._when_read: list[Callable[[], object]] = []
        self._unread_since = 0.0  # when the first of these was added
        self._reading = False  # a turn runs, and its `_then` is not called yet
        loop.add_reader(self._epoll.fileno(), self._turn)

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def queued(self) -> int:
        """Number of connections that are queued for their turn."""
        return len(self._queue)

    @property
    def done(self) -> bool:
        """Whether the current input has been handled completely."""
        return not self._again

    def adopt(self, descriptor: int, protocol: FirstReceiver) -> None:
        """
        Serve a connected, non-blocking socket with *protocol*.

        Raises OSError if the kernel's limit of watched sockets is reached; then the caller must
        close the socket.
        """
        self._epoll.register(descriptor, READ)
        stream = self._streams[descriptor] = Stream(self, descriptor, protocol)
        try:
            protocol.connection_made(stream)
        except Exception as error:  # noqa: BLE001 - logged, and ends only this connection
            stream.fail(error)

    def soon(self, callback: Callable[[], object]) -> None:
        """Call *callback* at the end of this turn; outside a turn, soon, in a turn of its own."""
        if self._reading:
            self._then.append(callback)
        else:
            self._loop.call_soon(self._do, [callback])

    def when_read(self, callback: Callable[[], object]) -> None:
        """
        Call *callback* once all pending input is read, or after UNREAD_S at the latest.

        That is at the end of this turn, unless there is more to read than the turn has time for.
        """
        if not self._reading:
            self._loop.call_soon(self._do, [callback])
            return
        if not self._when_read:
            self._unread_since = self.now
        self._when_read.append(callback)

    def again(self, go_on: GoOn, transport: Any, /) -> None:
        """Call *go_on* on a later turn; see Turns."""
        stream: Stream = transport.stream
        if self._serving:
            self._again.append((stream, go_on))  # queued once its time is measured
        else:
            self._queue.put(stream, stream.standing, self.clock(), go_on)
            self._turn_on()

    def stop(self) -> None:
        """Abort all connections, and stop watching."""
        self._queue.clear()
        self._when_read.clear()
        if self._next is not None:
            self._next.cancel()
        for stream in list(self._streams.values()):
            stream.abort()
            self._end(stream, None)
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    # -- Called by streams ---------------------------------------------------------------

    def watch(self, descriptor: int, what: int) -> None:
        """Watch for the events *what* from now on; a disconnected peer is always reported."""
        self._epoll.modify(descriptor, what)

    def lose(self, stream: Stream, error: Exception | None) -> None:
        """Stop watching *stream*, and notify its protocol on the next turn."""
        self._epoll.unregister(stream.descriptor)
        # Not now: a new connection could get the same descriptor while this turn still has events
        # of the old one.
        self._endings.append((stream, error))
        if len(self._endings) == 1:
            self._loop.call_soon(self._end_some)

    def complain(self, error: Exception, stream: Stream | None = None) -> None:
        """Report an exception in this server to the loop's handler."""
        context: dict[str, Any] = {
            "message": "unhandled exception in a connection",
            "exception": error,
        }
        if stream is not None:
            context |= {"protocol": stream.protocol, "transport": stream}
        self._loop.call_exception_handler(context)

    # -- Turns ---------------------------------------------------------------------------

    def _turn(self) -> None:
        """Read input, handle it, and send the writes of the turn."""
        self.turns += 1
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self.working = self._reading = True
        try:
            # The kernel also reports queued sockets as ready; they must not displace the others.
            events = self._epoll.poll(0, AT_ONCE + len(self._queue))
            self.now = self.clock()
            if self._queue:
                self._line_up(events)
                self.now = self.clock()  # queueing is not the time of the first one
                self._serve_queue()
            else:
                self._serve_all(events)
        finally:
            # Also after an exception such as KeyboardInterrupt, so that no write is held forever.
            self._reading = False
            then, self._then = self._then, []
            if self._when_read and (not self._queue or self.now - self._unread_since >= UNREAD_S):
                then += self._when_read
                self._when_read = []
            self._do(then)
            self._turn_on()

    def _turn_on(self) -> None:
        """Schedule a turn if connections are queued, because epoll may report no event."""
        # A method of its own: after `_next = None`, compiled code assumes that it is still None.
        if self._queue and self._next is None:
            self._next = self._loop.call_soon(self._turn)

    def _serve_all(self, events: list[tuple[int, int]]) -> None:
        """Serve ready streams in the kernel's order; queue those without time in this turn."""
        end = self.now + TURN_S
        streams = self._streams
        for position, (descriptor, what) in enumerate(events, 1):
            stream = streams.get(descriptor)
            if stream is None:
                continue  # `stop` was called in this turn
            self._serve(stream, what)
            if self.now >= end:
                self._line_up(events[position:])
                return

    def _line_up(self, events: list[tuple[int, int]]) -> None:
        """Queue the ready streams that are not queued yet."""
        streams = self._streams
        for descriptor, what in events:
            stream = streams.get(descriptor)
            if stream is None:
                continue
            if not stream.ready:
                self._queue.put(stream, stream.standing, self.now)
            stream.ready |= what

    def _serve_queue(self) -> None:
        """Serve the connections that have used the least time, until the turn is over."""
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
        """Handle the events *what* of *stream*, and then update `now`."""
        self._serving = True
        try:
            if what != READ or stream.watched != READ:
                stream.happened(what)
                self.now = self.clock()
            else:
                stream.read()  # as `happened` does in the usual case
        except Exception as error:  # noqa: BLE001 - logged, and ends only this connection
            stream.fail(error)
        self._settle()

    def _resume(self, stream: Stream, go_on: GoOn) -> None:
        """
        Let a connection handle more of its input.

        The rest never counts as a short read, because it belongs to a long one.
        """
        self._serving = True
        try:
            go_on()
        except Exception as error:  # noqa: BLE001 - logged, and ends only this connection
            stream.fail(error)
        self.now = self.clock()
        if self._again:
            stream.standing = standing_after(stream.standing, SLICE_S, whole=True, done=False)
        self._settle()

    def _settle(self) -> None:
        """Queue the unhandled input of the connection that was just served."""
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
                except Exception as error:  # noqa: BLE001 - logged
                    self.complain(error)
        finally:
            self.working = False
            held, self.held = self.held, []
            for stream in held:
                try:
                    stream.send()
                except Exception as error:  # noqa: BLE001 - logged, and ends only this connection
                    stream.fail(error)

    def _end_some(self) -> None:
        """Close lost streams, as many as there is time for before the loop turns."""
        end = self.clock() + ENDINGS_S
        while self._endings:
            stream, error = self._endings[0]
            try:
                self._end(stream, error)
            finally:  # only now: while the queue is not empty, `lose` does not schedule this method
                self._endings.popleft()
            if self.clock() >= end:
                break
        if self._endings:
            self._loop.call_soon(self._end_some)

    def _end(self, stream: Stream, error: Exception | None) -> None:
        descriptor = stream.descriptor
        if descriptor < 0:
            return  # `stop` has closed it
        del self._streams[descriptor]
        os.close(descriptor)
        stream.descriptor = -1  # a new connection may get the number
        try:
            stream.protocol.connection_lost(error)
        except Exception as fault:  # noqa: BLE001 - logged
            self.complain(fault, stream)
        # The stream and its protocol refer to each other; without this line, their memory is only
        # freed by the garbage collector.
        stream.protocol = None  # type: ignore[assignment]  # no event follows
