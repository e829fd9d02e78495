"""
The connection of a client, whatever its framing: admission, liveness, pace and deadlines.

Knows when a client is closed: one that is silent, sends too fast, reads too slowly, does not prove
who it is, or does not complete a message in time. How messages are framed is for the class of the
connection, what they mean is the session's business. There is one object for a connection, no
task, no timer of its own, no queue: what a slow client has not read yet waits in the transport, up
to a limit.
"""

from enum import IntEnum
from typing import Any, ClassVar

from heliograph import rate
from heliograph.net.addresses import Origin
from heliograph.net.backlog import BEHIND_BYTES
from heliograph.net.context import Context
from heliograph.net.takeover import Handover
from heliograph.net.transport import Transport, has_input, peer_address
from heliograph.node.dialect import ClientLane, Ending, Goodbye, Opening, Refused, Session
from heliograph.wire.http import Request

CLOSE_TIMEOUT_S = 5.0
"""How long a client has to end its side of the connection after our goodbye."""

FAR_OVER = 4
"""A client this many times over its limit is not waited for."""

MESSAGES_BURST_S = 10.0
"""Clients subscribe to all their channels at once: so much time's messages may come together."""


class State(IntEnum):
    """Where a connection is in its life; in the order in which it gets there."""

    OPEN = 0
    PINGED = 1  # silent for long, and pinged
    CLOSING = 2  # our goodbye is on its way, or the peer's was answered
    CLOSED = 3


def discard(_chunk: Any) -> None:
    """Where writes to a closing connection go."""


class Client:
    """
    A Subscriber, and the Peer of a session, over a transport.

    The class for a framing overrides what stands under "Framing".
    """

    __slots__ = (
        "_arrival",
        "_context",
        "_identify_by",
        "_last_seen",
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
    """One that is far behind is dropped."""

    def __init__(
        self, context: Context, transport: Transport, lane: ClientLane, now: float
    ) -> None:
        self.id = ""
        self.lane = lane
        self.due = 0
        # The transport's own method, so that a fan-out pays for no call of ours; replaced by
        # another when the connection is closing or its client slow.
        self.write: Any = transport.write
        self._context = context
        self._transport = transport
        self._session: Session | None = None
        self._state = State.OPEN
        self._origin: Origin | None = None  # where it is counted, if it is
        self._identify_by = 0.0  # when the client must have proved who it is; 0 for never
        self._last_seen = now
        self._arrival = 0.0  # see rate.py
        context.sockets += 1
        context.sockets_opened += 1

    # -- Framing: what a class of connections overrides ----------------------------------

    def data_received(self, data: bytes) -> None:
        """Hand every message in *data*, and in what came before it, to the session."""
        raise NotImplementedError

    def ping(self) -> None:
        """Ask the client whether it is there; whatever it sends is an answer."""
        raise NotImplementedError

    def last_bytes(self, goodbye: Goodbye) -> bytes:
        """Return the last bytes of the connection."""
        raise NotImplementedError

    def unfinished_since(self) -> float:
        """Return when the message began that is not complete, in monotonic seconds; 0 if none."""
        raise NotImplementedError

    def refuse_unfinished(self) -> None:
        """Close: the message that is not complete has taken too long."""
        raise NotImplementedError

    def forget_unfinished(self) -> None:
        """Drop what is held of a message that is not complete."""
        raise NotImplementedError

    # -- Opening -------------------------------------------------------------------------

    def open(self, answer: bytes, opening: Opening, request: Request, handover: Handover) -> None:
        """
        Write *answer* and begin the session, in one write.

        A refusal follows the answer, too: a browser shows its page nothing of a failed request.
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
        Write *answer* and go on with *session*, which *opening* began and *before* had.

        *before* gives its connection up where that is not lost yet. The client's limits go on as
        they were there. A resumption is refused for the reasons for which a new client would be,
        and leaves the session as it is then.
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
        self._arrival = before._arrival  # noqa: SLF001 - of our own class
        self._identify_by = before._identify_by  # noqa: SLF001
        self.write(answer)
        self.repeat()
        session.attach(self)
        if self._identify_by and self._state < State.CLOSING:
            context.wheel.hasten(self, max(self._identify_by - context.now(), 0.0))

    def _peer_name(self) -> str:
        return peer_address(self._transport) or "a Unix socket"

    def _refusal(self, opening: Opening, request: Request, handover: Handover) -> Goodbye | None:
        """Take over the connection; return why its client is refused, if no app need be asked."""
        context = self._context
        origin = self._origin = handover.origin
        limit = context.settings.max_write_buffer
        self._transport.set_write_buffer_limits(min(limit, BEHIND_BYTES))
        goodbye = opening.dialect.goodbye
        if origin is not None and origin.proxy:
            # First: those that are refused for another reason count until they have left, too.
            origin = context.addresses.name_client(origin, request)
            if origin is None:
                self._transport.abort()
                return goodbye(Ending.ADDRESS_OVER_LIMIT)
            self._origin = origin
        if opening.refusal is not None:
            return opening.refusal
        if context.draining:
            return goodbye(Ending.RECONNECT)  # let in at the last moment, while the others leave
        if origin is not None and origin.over:
            return goodbye(Ending.ADDRESS_OVER_LIMIT)
        if handover.over_capacity:
            context.refused_over_capacity += 1
            return goodbye(Ending.OVER_CAPACITY)
        return None

    # -- Pace ----------------------------------------------------------------------------

    def admits(self, now: float, count: int = 1) -> bool:
        """Return whether *count* more messages may come now; close where they may not."""
        context = self._context
        arrival = rate.admit(
            self._arrival,
            now,
            per_second=context.max_messages_per_second,
            burst_s=MESSAGES_BURST_S,
            count=count,
        )
        if arrival is None:
            context.rate_limited_messages += 1
            self.close_for(Ending.TOO_MANY_MESSAGES)
            return False
        self._arrival = arrival
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
        """Called inside a write: the client is behind."""
        self._context.backlog.note(self, self.unread())
        if self._state < State.CLOSING:
            self.write = self._write_to_slow

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._context.backlog.forget(self)
        if self._state < State.CLOSING:
            self.write = self._transport.write

    def unread(self) -> int:
        """Return the number of bytes that wait for the client."""
        return self._transport.get_write_buffer_size()

    def _write_to_slow(self, chunk: bytes) -> None:
        self._transport.write(chunk)
        context = self._context
        size = self.unread()
        context.backlog.note(self, size)
        if size > FAR_OVER * context.settings.max_write_buffer:
            # A flush is going on around us: memberships change after it.
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
        See to what is due: a silent client, an unknown one, an unfinished message, a slow close.

        After a stall of the server no client is judged before what it sent meanwhile is read.
        """
        settings = self._context.settings
        if self._state is State.CLOSING:
            self._transport.abort()
            return
        if self._context.wheel.late_s and has_input(self._transport):
            self._reschedule(0.0, now)  # when it is read
            return
        if not self._identified(now) or not self._finishes(now):
            return
        silent_s = now - self._last_seen
        if silent_s < settings.ping_interval:
            self._reschedule(settings.ping_interval - silent_s, now)
        elif self._state is State.OPEN:
            self._state = State.PINGED
            self._last_seen = now - settings.ping_interval  # however late: it has time from now on
            self.ping()
            self._reschedule(min(settings.pong_timeout, settings.ping_interval), now)
        elif (left_s := settings.ping_interval + settings.pong_timeout - silent_s) > 0:
            # Once more before, for it may have answered and be silent again by then.
            self._reschedule(min(left_s, settings.ping_interval), now)
        elif has_input(self._transport):
            self._reschedule(settings.pong_timeout, now)  # it is there, and we are slow to read
        else:
            self.close_for(Ending.PING_UNANSWERED)

    def _finishes(self, now: float) -> bool:
        """Return whether the client may stay: no message of its has been on its way for long."""
        since = self.unfinished_since()
        if not since or now - since < self._context.settings.request_timeout:
            return True
        self.refuse_unfinished()
        return False

    def _identified(self, now: float) -> bool:
        """Return whether the client may stay: it proved who it is, or has time left to."""
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
        """Close, in the words of the client's protocol."""
        if self._session is not None:
            self._session.close(ending)

    def close(self, goodbye: Goodbye) -> None:
        """Send the client *goodbye*, in one write, and nothing after it."""
        if self._state >= State.CLOSING:
            return
        self._context.tally.refused(goodbye.code)
        self._transport.write(self.last_bytes(goodbye))
        self.end()
        self.finish(CLOSE_TIMEOUT_S)

    def finish(self, patience_s: float) -> None:
        """
        End our half of the connection after what was written, and wait for the peer's end.

        What it still sends is read and thrown away: its Close frame says nothing that we need,
        and closing with bytes unread would reset the connection, and take the reason along.
        """
        self._context.wheel.add(self, patience_s)
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def end(self) -> None:
        """End the session, and let nothing more be written."""
        session = self._release()
        if session is not None:
            session.end()

    def give_up(self) -> None:
        """Lose the connection, where it is not lost yet: another one goes on with the session."""
        if self._state is State.CLOSED:
            return
        session = self._release()
        if session is not None:
            self.on_lost(session)
        self._transport.abort()

    def repeat(self) -> None:
        """
        Write again what the connection before was given and may not have delivered.

        A class that cannot repeat leaves this out: its clients miss what was under way.
        """

    def on_lost(self, session: Session) -> None:
        """
        End the session, since its connection is lost.

        A class whose clients can come back detaches it instead.
        """
        session.end()

    def _release(self) -> Session | None:
        """Write nothing more, and have no more to do with the session, which is returned."""
        self._state = State.CLOSING
        self.write = discard
        self.forget_unfinished()
        session, self._session = self._session, None
        return session

    def drop_unfinished(self) -> None:
        """Close, since the unfinished messages of all clients together are too large."""
        self.close_for(Ending.TOO_MUCH_UNFINISHED)

    def eof_received(self) -> None:
        """The peer sends no more: the transport closes itself, and says so."""

    def connection_lost(self, _error: Exception | None) -> None:
        """The socket is gone."""
        session = self._release()
        if session is not None:
            self.on_lost(session)
        self._state = State.CLOSED
        self._context.sockets -= 1
        if self._origin is not None:
            self._context.addresses.leave(self._origin)
        self._context.backlog.forget(self)
        self._context.wheel.discard(self)
        self._context.departed()
        # The transport and we refer to each other; nobody should wait for the collector.
        self._transport = None  # type: ignore[assignment]  # nobody may use it any more
