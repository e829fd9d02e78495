"""
The connection of a client, for every framing: admission, liveness, rate limit and deadlines.

This module decides when a client is closed: if it is silent, sends too fast, reads too slowly, does
not authenticate, or does not complete a message in time. Subclasses do the framing of messages;
the session interprets them. A connection is one object, without a task, a timer or a queue of its
own: the bytes that a slow client has not read stay in the transport's write buffer, up to a limit.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, ClassVar

from heliograph import rate
from heliograph.net.addresses import Origin
from heliograph.net.context import Context
from heliograph.net.takeover import Handover
from heliograph.net.transport import Transport, has_input, peer_address
from heliograph.node.dialect import ClientLane, Ending, Goodbye, Opening, Refused, Session
from heliograph.wire.http import Request

CLOSE_TIMEOUT_S = 5.0
"""Seconds that a client has to end its side of the connection after the server's goodbye."""

FAR_OVER = 4
"""A client with this many times its limit of unsent bytes is dropped without a second check."""

MESSAGES_BURST_S = 10.0
"""
The messages of this many seconds may arrive at once, because a client subscribes to all its
channels at once.
"""


class State(IntEnum):
    """The state of a connection; states are in the order in which they occur."""

    OPEN = 0
    PINGED = 1  # the client was silent, and the server sent a ping
    CLOSING = 2  # the server sent its goodbye, or answered the client's
    CLOSED = 3


def discard(_chunk: Any) -> None:
    """Discard a write to a closing connection."""


class Client:
    """
    A Subscriber, and the Peer of a session, over a transport.

    The class for a framing overrides the methods under "Framing".
    """

    __slots__ = (
        "_context",
        "_identify_by",
        "_last_seen",
        "_message_arrival",
        "_origin",
        "_session",
        "_state",
        "_transport",
        "due",
        "id",
        "lane",
        "write",
    )

    patient: ClassVar[bool] = False
    """A client with too many unsent bytes is dropped."""

    def __init__(
        self, context: Context, transport: Transport, lane: ClientLane, now: float
    ) -> None:
        self.id = ""
        self.lane = lane
        self.due = 0
        # The transport's own method, which saves a call per client in a fan-out. Replaced by
        # another function when the connection is closing or its client is slow.
        self.write: Any = transport.write
        self._context = context
        self._transport = transport
        self._session: Session | None = None
        self._state = State.OPEN
        self._origin: Origin | None = None  # where the connection is counted, if it is
        self._identify_by = 0.0  # deadline for authentication; 0: none
        self._last_seen = now
        self._message_arrival = 0.0  # see rate.py
        context.sockets += 1
        context.sockets_opened += 1

    # -- Framing: what a class of connections overrides ----------------------------------

    def data_received(self, data: bytes) -> None:
        """Pass every message that *data* contains or completes to the session."""
        raise NotImplementedError

    def ping(self) -> None:
        """Send a ping; any input from the client is an answer."""
        raise NotImplementedError

    def last_bytes(self, goodbye: Goodbye) -> bytes:
        """Return the last bytes of the connection."""
        raise NotImplementedError

    def unfinished_since(self) -> float:
        """Return when the incomplete message began, in monotonic seconds; 0 if there is none."""
        raise NotImplementedError

    def refuse_unfinished(self) -> None:
        """Close the connection, because the incomplete message has taken too long."""
        raise NotImplementedError

    def forget_unfinished(self) -> None:
        """Drop the bytes of an incomplete message."""
        raise NotImplementedError

    # -- Opening -------------------------------------------------------------------------

    def open(self, answer: bytes, opening: Opening, request: Request, handover: Handover) -> None:
        """
        Write *answer* and begin the session, in one write.

        A refusal also follows the answer, because a browser gives its page no details of a failed
        request.
        """
        context = self._context
        refusal = self._refusal(opening, request, handover)
        if refusal is None:
            try:
                session = opening.dialect.connect(opening, self._peer_name)
            except Refused as refused:
                refusal = refused.goodbye
        if refusal is not None:
            self.write(answer)
            self.close(refusal)
            return
        self.id = session.id
        self._session = session
        self.write(answer + self.lane.framing.uncompressed(session.open(self)))
        patience_s = session.tenant.app.authorized_connections_timeout
        if patience_s:
            self._identify_by = context.now() + patience_s
            context.wheel.add(self, min(patience_s, context.settings.ping_interval))
        if handover.rest:
            self.data_received(handover.rest)

    def resume(
        self,
        answer: bytes,
        opening: Opening,
        session: Session,
        before: "Client",
        *,
        request: Request,
        handover: Handover,
    ) -> None:
        """
        Write *answer* and continue *session*, which *opening* began and *before* had.

        *before* gives up its connection if the connection is not lost yet. The client's rate limit
        and deadlines continue from *before*. A resumption is refused for the same reasons as a new
        client; a refused resumption does not change the session.
        """
        context = self._context
        refusal = self._refusal(opening, request, handover)
        if refusal is not None:
            self.write(answer)
            self.close(refusal)
            return
        before.give_up()
        self.id = session.id
        self._session = session
        self._message_arrival = before._message_arrival  # noqa: SLF001 - of our own class
        self._identify_by = before._identify_by  # noqa: SLF001
        self.write(answer)
        self.repeat()
        session.attach(self)
        if self._identify_by and self._state < State.CLOSING:
            context.wheel.hasten(self, max(self._identify_by - context.now(), 0.0))

    def _peer_name(self) -> str:
        return peer_address(self._transport) or "a Unix socket"

    def _refusal(self, opening: Opening, request: Request, handover: Handover) -> Goodbye | None:
        """Take over the connection; return the goodbye of a refusal that holds for every app."""
        context = self._context
        origin = self._origin = handover.origin
        self._transport.set_write_buffer_limits(context.behind_bytes)
        goodbye = opening.dialect.goodbye
        if origin is not None and origin.proxy:
            # First, because a client that is refused for another reason also counts until its end.
            origin = context.addresses.name_client(origin, request)
            if origin is None:
                self._transport.abort()
                return goodbye(Ending.ADDRESS_OVER_LIMIT)
            self._origin = origin
        if opening.refusal is not None:
            return opening.refusal
        if context.draining:
            return goodbye(Ending.RECONNECT)  # accepted just before the drain began
        if origin is not None and origin.over:
            return goodbye(Ending.ADDRESS_OVER_LIMIT)
        if handover.over_capacity:
            context.refused_over_capacity += 1
            return goodbye(Ending.OVER_CAPACITY)
        return None

    # -- Pace ----------------------------------------------------------------------------

    def admits(self, now: float, count: int = 1) -> bool:
        """Return whether the rate limit admits *count* more messages; close if it does not."""
        context = self._context
        arrival = rate.admit(
            self._message_arrival,
            now,
            per_second=context.max_messages_per_second,
            burst_s=MESSAGES_BURST_S,
            count=count,
        )
        if arrival is None:
            context.rate_limited_messages += 1
            self.close_for(Ending.TOO_MANY_MESSAGES)
            return False
        self._message_arrival = arrival
        return True

    # -- Writing -------------------------------------------------------------------------

    def send(self, *texts: bytes) -> None:
        """Deliver messages to this client, in one write."""
        frame = self.lane.framing.frame
        self._context.messages_sent += len(texts)
        chunk: bytes = frame(texts[0]) if len(texts) == 1 else b"".join(map(frame, texts))
        self._context.bytes_sent += len(chunk)
        self.write(chunk)

    def pause_writing(self) -> None:
        """Handle a full write buffer: the client is slow. Called inside a write."""
        self._context.backlog.note(self, self.unread())
        if self._state < State.CLOSING:
            self.write = self._write_to_slow

    def resume_writing(self) -> None:
        """Handle a drained write buffer: the client has caught up."""
        self._context.backlog.forget(self)
        if self._state < State.CLOSING:
            self.write = self._transport.write

        waiting = self._context.awaiting_room
        if waiting:
            for callback in waiting.pop(self, ()):
                callback()

    def unread(self) -> int:
        """Return the number of unsent bytes."""
        return self._transport.get_write_buffer_size()

    def room(self) -> int:
        """
        Return the bytes that can be written now; 0 if the client has yet to read earlier ones.

        Half of what the client may leave unread, and less if all clients together leave much.
        """
        context = self._context
        if self._state >= State.CLOSING or self.unread() > context.behind_bytes:
            return 0
        return min(context.settings.max_write_buffer // 2, context.backlog.room())

    def when_room(self, callback: Callable[[], object]) -> None:
        """Call *callback* once the client has read most of what was written."""
        if self._state < State.CLOSING:
            self._context.awaiting_room.setdefault(self, {})[callback] = None

    def _write_to_slow(self, chunk: bytes) -> None:
        self._transport.write(chunk)
        context = self._context
        size = self.unread()
        context.backlog.note(self, size)
        if size > FAR_OVER * context.settings.max_write_buffer:
            # A flush calls this; subscriptions must not change before its end.
            self.write = discard
            context.loop.call_soon(self.drop)

    def drop(self) -> None:
        """End the connection at once: the client reads too slowly."""
        if self._state < State.CLOSING:
            self._context.slow_readers += 1
            self.end()
        if self._state is not State.CLOSED:
            self._transport.abort()

    # -- Time ----------------------------------------------------------------------------

    def on_timer(self, now: float) -> None:
        """
        Handle deadlines: of a silent client, authentication, an incomplete message, a slow close.

        After a stall of the server, a client's pending input is read before its deadlines apply.
        """
        settings = self._context.settings
        if self._state is State.CLOSING:
            self._transport.abort()
            return
        if self._context.wheel.late_s and has_input(self._transport):
            self._reschedule(0.0, now)  # by then the input has been read
            return
        if not self._identified(now) or not self._in_time(now):
            return
        silent_s = now - self._last_seen
        if silent_s < settings.ping_interval:
            self._reschedule(settings.ping_interval - silent_s, now)
        elif self._state is State.OPEN:
            self._state = State.PINGED
            self._last_seen = now - settings.ping_interval  # even if late: the time-out begins now
            self.ping()
            self._reschedule(min(settings.pong_timeout, settings.ping_interval), now)
        elif (left_s := settings.ping_interval + settings.pong_timeout - silent_s) > 0:
            # A check before the deadline, since the client may answer and be silent again by then.
            self._reschedule(min(left_s, settings.ping_interval), now)
        elif has_input(self._transport):
            self._reschedule(settings.pong_timeout, now)  # alive, but read late
        else:
            self.close_for(Ending.PING_UNANSWERED)

    def _in_time(self, now: float) -> bool:
        """Return whether the client may stay: no message has been incomplete for too long."""
        since = self.unfinished_since()
        if not since or now - since < self._context.settings.request_timeout:
            return True
        self.refuse_unfinished()
        return False

    def _identified(self, now: float) -> bool:
        """Return whether the client may stay: it has authenticated, or still has time to."""
        session = self._session
        if not self._identify_by:
            return True
        if session is not None and session.identified:
            self._identify_by = 0.0
        elif now >= self._identify_by:
            self.close_for(Ending.NOT_IDENTIFIED)
            return False
        return True

    def _reschedule(self, delay_s: float, now: float) -> None:
        if self._identify_by:
            delay_s = min(delay_s, self._identify_by - now)
        since = self.unfinished_since()
        if since:
            delay_s = min(delay_s, since + self._context.settings.request_timeout - now)
        self._context.wheel.add(self, delay_s)

    # -- Closing -------------------------------------------------------------------------

    def close_for(self, ending: Ending) -> None:
        """Close with the goodbye that the client's protocol has for *ending*."""
        if self._session is not None:
            self._session.close(ending)

    def close(self, goodbye: Goodbye) -> None:
        """Send *goodbye* to the client in one write, and nothing after it."""
        if self._state >= State.CLOSING:
            return
        self._context.tally.refused(goodbye.code)
        self._transport.write(self.last_bytes(goodbye))
        self.end()
        self.finish(CLOSE_TIMEOUT_S)

    def finish(self, patience_s: float) -> None:
        """
        End the server's half of the connection after pending writes; wait for the peer's end.

        Input that still arrives is read and discarded. The peer's Close frame has no information
        that the server needs. Closing a socket with unread bytes would reset the connection, and
        the client would not receive the reason.
        """
        self._context.wheel.add(self, patience_s)
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def end(self) -> None:
        """End the session, and discard all further writes."""
        session = self._release()
        if session is not None:
            session.end()

    def give_up(self) -> None:
        """Abort the connection if it is not lost yet: another one continues the session."""
        if self._state is State.CLOSED:
            return
        session = self._release()
        if session is not None:
            self.on_lost(session)
        self._transport.abort()

    def repeat(self) -> None:
        """
        Write again the messages that the earlier connection may not have delivered.

        A class that cannot repeat does not override this; its clients miss messages in flight.
        """

    def on_lost(self, session: Session) -> None:
        """
        End the session, because its connection is lost.

        A class whose clients can resume their session detaches it instead.
        """
        session.end()

    def _release(self) -> Session | None:
        """Discard further writes; detach from the session and return it."""
        self._state = State.CLOSING
        self.write = discard
        self.forget_unfinished()
        session, self._session = self._session, None
        return session

    def drop_unfinished(self) -> None:
        """Close, because the incomplete messages of all clients together are too large."""
        self.close_for(Ending.TOO_MUCH_UNFINISHED)

    def eof_received(self) -> None:
        """Do nothing: the transport closes itself, and then calls `connection_lost`."""

    def connection_lost(self, _error: Exception | None) -> None:
        """Release everything: the socket is closed."""
        session = self._release()
        if session is not None:
            self.on_lost(session)
        self._state = State.CLOSED
        self._context.sockets -= 1
        if self._origin is not None:
            self._context.addresses.leave(self._origin)
        self._context.backlog.forget(self)
        self._context.awaiting_room.pop(self, None)
        self._context.wheel.discard(self)
        self._context.departed()
        # The transport and this object refer to each other; without this line, their memory is
        # only freed by the garbage collector.
        self._transport = None  # type: ignore[assignment]  # not used after this
