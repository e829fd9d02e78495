"""
An HTTP connection: it answers requests in the order in which they arrive.

Implements pipelining and time-outs; hands over its socket and unparsed bytes when a client requests
a WebSocket. The handler interprets the requests.
"""

from functools import partial
from typing import ClassVar, Final, TypeAlias

from heliograph.handler import Answer, AnswerReply, Handler, Takeover
from heliograph.net.addresses import Origin
from heliograph.net.context import Context
from heliograph.net.handshake import Upgrades
from heliograph.net.intake import UNFINISHED_BYTES
from heliograph.net.takeover import Handover
from heliograph.net.transport import Transport, has_input
from heliograph.net.turns import SLICE_S
from heliograph.reply import Later
from heliograph.wire.http import (
    CONTINUE,
    CONTINUE_RESPONSE,
    Continue,
    RefusedRequest,
    Request,
    RequestReader,
)
from heliograph.wire.responses import Response, text

MAX_HELD = 16
"""Unanswered requests that one connection may have; then reading pauses."""

LINES_AT_ONCE: Final = 100
"""
Input with more lines than this is handled in pieces. Lines are counted because requests, headers
and chunks have lines.
"""

PIECE_BYTES: Final = 1024
"""
Bytes in a piece; of a body with a Content-Length, a piece is all that is missing. The connection
checks the clock after each piece.
"""

LINGER_S = 2.0
"""Seconds that a client whose request was refused unread has to read the answer."""

OVER_CAPACITY_S = 5.0
"""Seconds that a client over capacity has to send a request; others need its descriptor."""


class _Early:
    """The answer to a request whose body has not arrived and will not be read."""

    __slots__ = ("request", "response")

    def __init__(self, request: Request, response: Response) -> None:
        self.request = request
        self.response = response


_Event: TypeAlias = Request | RefusedRequest | Continue | _Early


class _Answer:
    """An answer in the order of its connection; *data* is None until the answer is ready."""

    __slots__ = ("closes", "data", "head_only", "takeover", "unread", "version")

    def __init__(self, event: _Event) -> None:
        self.data: bytes | None = None
        self.takeover: Takeover | None = None  # instead of data
        self.unread = isinstance(event, RefusedRequest | _Early)
        self.closes = self.unread
        self.head_only = False
        self.version = "1.1"
        if isinstance(event, _Early):
            self.head_only = event.request.method == "HEAD"
            self.version = event.request.version
        elif isinstance(event, Request):
            self.closes = not event.keep_alive
            self.head_only = event.method == "HEAD"
            self.version = event.version


class HttpConnection:
    """
    A connection that passes requests to *handler*, and WebSocket requests to *upgrades*, if given.

    *origin* counts the connection since it was accepted; None if it is not counted yet. If
    *over_capacity*, the server was over capacity, or the origin is over its limit: the connection
    gets one answer, within a short time-out.
    """

    __slots__ = (
        "_answers",
        "_backlog",
        "_closing",
        "_context",
        "_counted",
        "_handler",
        "_held",
        "_input",
        "_judged",
        "_last_seen",
        "_over_capacity",
        "_queued",
        "_reader",
        "_request_since",
        "_transport",
        "_unread",
        "_upgrades",
        "due",
        "origin",
    )

    patient: ClassVar[bool] = True
    """An answer may be large, and the client has `request_timeout` to read it."""

    def __init__(
        self,
        context: Context,
        handler: Handler,
        *,
        upgrades: Upgrades | None,
        origin: Origin | None = None,
        over_capacity: bool = False,
    ) -> None:
        self.due = 0
        self._over_capacity = over_capacity
        self.origin = origin
        self._context = context
        self._handler = handler
        self._transport: Transport
        self._upgrades = upgrades
        self._reader: RequestReader | None = None  # None until the first input
        # Lists, because they are usually empty or short, and an empty deque is not small.
        self._answers: list[_Answer] = []
        self._backlog: list[_Event] = []
        self._input = b""  # received, but not parsed yet
        self._queued = False  # for a turn that parses more of it
        self._judged: Request | None = None  # the request whose body may be read
        self._counted = False  # the intake counts the buffered bytes
        self._closing = False
        self._held = False  # reading is paused
        self._unread = False  # the client does not read
        self._last_seen = 0.0
        self._request_since = 0.0  # 0 until the first input

    def connection_made(self, transport: Transport) -> None:
        """Begin to serve a client, whose first request has no more time than any request."""
        self._transport = transport
        context = self._context
        context.http_connections.add(self)
        self._last_seen = context.now()
        if context.addresses.limit:
            self._count_in()
        if self._over_capacity:
            self._reschedule(context.settings.keep_alive_timeout)
        else:
            context.wheel.add(self, context.first_deadline_s)

    def _count_in(self) -> None:
        """Count the connection in, if there is a limit for each address."""
        context = self._context
        if self.origin is None:  # the event loop accepted it
            self.origin = context.addresses.arrive_by(self._transport)
        origin = self.origin
        if origin is None or (origin.proxy and not context.unnamed.add(self)):
            self._transport.abort()
        elif origin.over:
            self._over_capacity = True

    def connection_lost(self, _error: Exception | None) -> None:
        """Release everything: the socket is closed; pending answers are dropped."""
        self._let_go()
        if self.origin is not None:
            self._context.addresses.leave(self.origin)
        self._context.wheel.discard(self)
        self._context.departed()
        self._answers.clear()
        self._backlog.clear()

    def _let_go(self) -> None:
        """Stop serving the connection; its entry on the wheel stays, for a successor."""
        self._closing = True
        if self._unread:
            self._context.backlog.forget(self)
        self._context.http_connections.discard(self)
        if self.origin is not None and self.origin.proxy:
            self._context.unnamed.discard(self)
        if self._reader is not None:
            self._reader.close()
        if self._counted:
            self._counted = False
            self._context.intake.forget(self)

    # -- Reading -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Answer every request that *data* completes."""
        if self._closing:
            return  # lingering: input is only read so that the socket closes without a reset
        context = self._context
        self._last_seen = context.now()
        context.bytes_received += len(data)
        reader = self._reader
        if reader is None:
            upgrades = self._upgrades
            if upgrades is not None and not self._over_capacity:
                upgrade = upgrades.answer_fast(data)
                if upgrade is not None:
                    self._hand_over(upgrade)
                    return
            reader = self._reader = RequestReader(
                context.http_limits, context.header_memory, websockets=upgrades is not None
            )
        if not self._answers and not self._backlog and not self._over_capacity and not self._input:
            request = reader.request_fast(data)
            if request is not None:
                self._request_since = self._last_seen
                if reader.upgraded:
                    self._backlog.append(request)
                    if not self._unread:
                        self._upgrade(request, head=data)
                    return
                reply = self._handler.handle(request)
                if isinstance(reply, Response):
                    self._transport.write(context.answers.usual(reply))
                else:
                    self._answer_otherwise(request, reply)
                return
        self._read(reader, data)

    def _read(self, reader: RequestReader, data: bytes) -> None:
        """Answer the requests in *data*: at once if it has few lines, else in pieces."""
        if self._input or data.count(b"\r\n") > LINES_AT_ONCE:
            self._input += data
            if not self._queued:
                self._go_on()
            return
        events = self._feed(reader, data, more=False)
        if len(events) == 1 and not self._answers and not self._backlog and not self._over_capacity:
            event = events[0]
            if type(event) is Request and event.keep_alive and not reader.upgraded:
                self._answer_alone(event)  # nine reads in ten
                return
        self._backlog.extend(events)
        self._work()

    def _go_on(self) -> None:
        """
        Parse the buffered input in pieces, until this connection's slice is over.

        Nothing is parsed while the client does not read, or too many answers are pending.
        """
        reader = self._reader
        if reader is None:
            raise AssertionError("without a reader there is no input")
        clock = self._context.clock
        end = clock() + SLICE_S
        self._queued = True  # so that no other method requests a turn meanwhile
        while self._input and not self._closing and not self._full():
            size = max(PIECE_BYTES, reader.missing)
            piece, self._input = self._input[:size], self._input[size:]
            self._backlog.extend(self._feed(reader, piece, more=bool(self._input)))
            self._work()
            if clock() >= end:
                break
        self._queued = False
        if not self._closing:
            self._count()
            self._pace()

    def _feed(self, reader: RequestReader, data: bytes, *, more: bool) -> list[_Event]:
        """Return the requests that *data* completes, and early answers to those that it begins."""
        was_receiving = reader.receiving
        events: list[_Event] = [*reader.feed(data, more=more)]
        if events or not was_receiving:
            self._request_since = self._last_seen
        unfinished = reader.unfinished
        if unfinished is not self._judged:
            self._judged = unfinished
            if unfinished is not None:
                self._judge(reader, unfinished, events)
        if self._counted or reader.receiving:
            self._count()
        return events

    def _judge(self, reader: RequestReader, request: Request, events: list[_Event]) -> None:
        """Answer a request whose head has arrived, if the head decides the answer."""
        response = self._handler.refuse_early(request)
        if response is not None:
            reader.close()
            self._judged = None
            # A pending 100 Continue would ask for the body.
            events[:] = [event for event in events if event is not CONTINUE]
            events.append(_Early(request, response))

    def _count(self) -> None:
        """Let the intake count the buffered bytes of an incomplete request."""
        held = len(self._input)
        if self._reader is not None:
            held += self._reader.held
        if held > UNFINISHED_BYTES:
            self._counted = True
            self._context.intake.note(self, held)
        elif self._counted:
            self._counted = False
            self._context.intake.forget(self)

    def drop_unfinished(self) -> None:
        """Answer that the server buffers too many incomplete requests, and close."""
        if not self._closing:
            self._refuse(503, "Too many requests are incomplete, try again later")

    def _refuse(self, status: int, reason: str) -> None:
        """Answer the request that is being received, and close."""
        if self._reader is not None:
            self._reader.close()
        self._input = b""
        self._take(RefusedRequest(status, reason))
        self._write_answers()

    def _answer_alone(self, request: Request) -> None:
        """Answer the only pending request of the connection."""
        reply = self._handler.handle(request)
        if isinstance(reply, Response):
            answer = _Answer(request)
            self._answer(answer, reply)
            self._transport.write(answer.data or b"")
        else:
            self._answer_otherwise(request, reply)

    def _answer_otherwise(self, request: Request, reply: AnswerReply) -> None:
        """Answer the only pending request, later or by a takeover."""
        answer = _Answer(request)
        self._answers.append(answer)
        self._reply(answer, reply)
        if self._answers:
            self._write_answers()

    def _reply(self, answer: _Answer, reply: AnswerReply) -> None:
        """Fill in *answer*, now or later."""
        if isinstance(reply, Later):
            reply.then(partial(self._answered_late, answer), _never)
        else:
            self._answer(answer, reply)

    def eof_received(self) -> bool:
        """Return whether the client, which sends no more, still needs pending answers."""
        return (
            bool(self._answers) and self._transport.can_write_eof()
        )  # asyncio's TLS transport cannot write EOF

    def _work(self) -> None:
        """Handle requests until too many answers are pending, and write the ready answers."""
        while self._backlog and not self._owes_enough() and not self._closing:
            event = self._backlog[0]
            if isinstance(event, Request) and self._asks_for_websocket():
                if self._answers or self._unread:
                    break  # the upgrade must follow the earlier answers, once they are read
                self._upgrade(event)
                return
            del self._backlog[0]
            self._take(event)
            if not self._backlog or self._owes_enough() or self._upgraded:
                self._write_answers()
        if not self._closing:
            self._pace()

    def _asks_for_websocket(self) -> bool:
        return self._upgraded and len(self._backlog) == 1

    @property
    def _upgraded(self) -> bool:
        return self._reader is not None and self._reader.upgraded

    @property
    def _receiving(self) -> bool:
        return self._reader is not None and self._reader.receiving

    def _take(self, event: _Event) -> None:
        answer = _Answer(event)
        self._answers.append(answer)
        if isinstance(event, Request):
            answer.closes = answer.closes or self._over_capacity
            self._reply(answer, self._handler.handle(event))
        elif isinstance(event, RefusedRequest):
            self._answer(answer, text(event.status, event.text))
        elif isinstance(event, _Early):
            self._answer(answer, event.response)
        else:
            answer.data = CONTINUE_RESPONSE

    def _upgrade(self, request: Request, *, head: bytes = b"") -> None:
        """Answer a WebSocket request; *head* is the complete request if it came in one piece."""
        upgrades = self._upgrades
        if upgrades is None:
            raise AssertionError("only a reader for WebSockets lets requests for them pass")
        found = upgrades.answer(request, head)
        if isinstance(found, Response):
            answer = _Answer(RefusedRequest(found.status, ""))
            self._answers.append(answer)
            self._answer(answer, found)
            self._write_answers()
            return
        rest = self._input
        if self._reader is not None:
            rest = self._reader.rest + rest
        self._hand_over(found, rest)

    def _hand_over(self, takeover: Takeover, rest: bytes = b"") -> None:
        """Hand the connection over to *takeover*; *rest* followed an upgrade request."""
        if self._held:
            self._held = False
            self._transport.resume_reading()  # the successor expects that reading is active
        self._let_go()
        self._answers.clear()
        self._backlog.clear()
        self._input = b""
        takeover.take(
            Handover(
                self._context,
                self._transport,
                rest,
                self.origin,
                self._over_capacity,
                self,
                self._last_seen,
            )
        )

    def _owes_enough(self) -> bool:
        """
        Whether no more requests are handled for now.

        That is so if the client does not read, too many answers are pending, or a takeover follows.
        """
        answers = self._answers
        if self._unread or len(answers) >= MAX_HELD:
            return True
        return bool(answers) and answers[-1].takeover is not None

    def _full(self) -> bool:
        """Whether parsing is paused."""
        return bool(self._backlog) or self._owes_enough() or self._upgraded

    def _pace(self) -> None:
        """Pause reading while requests queue up or the client does not read; else resume it."""
        full = self._full()
        if self._input and not full and not self._queued:
            self._queued = True
            self._context.turns.again(self._go_on, self._transport)
        waits = full or bool(self._input)
        if waits is not self._held:
            self._held = waits
            if waits:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # -- Answering -----------------------------------------------------------------------

    def _answered_late(self, answer: _Answer, result: Answer) -> None:
        if not self._closing:
            self._answer(answer, result)
            self._write_answers()
            self._work()

    def _answer(self, answer: _Answer, result: Answer) -> None:
        if not isinstance(result, Response):
            answer.takeover = result
            return
        answer.data = self._context.answers.any(
            result,
            keep_alive=not answer.closes,
            head_only=answer.head_only,
            version=answer.version,
        )

    def _write_answers(self) -> None:
        """
        Write the ready answers, up to the first that is not ready, in one write.

        A takeover follows once the client has received the answers before it.
        """
        ready = []
        closes = lingers = False
        takeover: Takeover | None = None
        while self._answers and not closes:
            answer = self._answers[0]
            if answer.data is None:
                takeover = answer.takeover
                break
            del self._answers[0]
            ready.append(answer.data)
            closes, lingers = answer.closes, answer.unread
        if ready:
            self._transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
        if closes:
            self._finish(lingers=lingers)
        elif takeover is not None and not self._unread:
            self._hand_over(takeover)

    def _finish(self, *, lingers: bool) -> None:
        """Close, once all written bytes are sent."""
        self._closing = True
        self._backlog.clear()
        self._answers.clear()
        self._input = b""
        self._count()
        self._context.wheel.add(self, LINGER_S)
        # Closing a socket with unread bytes would reset the connection, and the answer be lost.
        if lingers and self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def pause_writing(self) -> None:
        """Handle a full write buffer: no more requests are read until the client reads answers."""
        self._unread = True
        self._context.backlog.note(self, self.unread())
        if not self._closing:
            self._pace()

    def resume_writing(self) -> None:
        """Handle a drained write buffer: the client reads again."""
        self._unread = False
        self._context.backlog.forget(self)
        if not self._closing:
            self._write_answers()  # the first of them may be a takeover
            self._work()

    def unread(self) -> int:
        """Return the number of unsent bytes."""
        return self._transport.get_write_buffer_size()

    # -- Time ----------------------------------------------------------------------------

    def on_timer(self, now: float) -> None:
        """
        Handle deadlines: of a slow request, an idle connection, an unread answer.

        After a stall of the server, a client's pending input is read before its deadlines apply.
        """
        if self._context.wheel.late_s and not self._closing and has_input(self._transport):
            self._reschedule(0.0)
            return
        patience_s = self._context.settings.keep_alive_timeout
        request_s = self._request_timeout()
        if not self._request_since:
            patience_s = min(patience_s, request_s)
        if self._closing and self.unread() and now - self._last_seen < request_s:
            self._reschedule(LINGER_S)  # a large answer has request_timeout, also the last one
        elif self._closing or (self._unread and now - self._last_seen >= request_s):
            self._transport.abort()
        elif self._answers:
            self._reschedule(request_s)  # the server is slow, not the client
        elif self._receiving and now - self._request_since >= request_s:
            self._refuse(408, "The request took too long")
        elif not self._receiving and now - self._last_seen >= patience_s:
            self.close()
        elif self._receiving:
            self._reschedule(self._request_since + request_s - now)
        else:
            self._reschedule(self._last_seen + patience_s - now)

    def _reschedule(self, delay_s: float) -> None:
        # At most the time-out of a request that begins now, and the delay of a WebSocket's first
        # ping.
        latest_s = min(self._request_timeout(), self._context.first_deadline_s)
        self._context.wheel.add(self, min(delay_s, latest_s))

    def _request_timeout(self) -> float:
        timeout_s = self._context.settings.request_timeout
        return min(timeout_s, OVER_CAPACITY_S) if self._over_capacity else timeout_s

    def close(self, *, idle_s: float = 0.0) -> None:
        """
        Close after the pending answers. For a server that stops.

        Without pending answers, close at once; with *idle_s*, only if the client has been silent
        for so many seconds, and no request is being received.
        """
        if self._answers:
            self._answers[-1].closes = True
        elif not self._closing and not (
            idle_s and (self._receiving or self._context.now() - self._last_seen < idle_s)
        ):
            self._finish(lingers=False)

    # -- Freeing descriptors and memory --------------------------------------------------

    @property
    def silent(self) -> bool:
        """Whether nothing was received yet."""
        return not self._request_since

    def idle_since(self) -> float | None:
        """Return since when the connection has been idle; None if it is not idle."""
        if self._closing or self._unread or self._answers or self._backlog or self._receiving:
            return None
        if self._input:
            return None
        return self._last_seen

    def drop(self) -> None:
        """Abort the connection: its descriptor or its memory is needed."""
        self._transport.abort()


def _never(error: Exception) -> None:
    raise AssertionError("a handler answers whatever happens") from error
