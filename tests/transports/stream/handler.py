"""
The requests of streams.

`POST /stream/KEY` opens one, with the query that a WebSocket client of Pusher's connects with. Its
response does not end. `POST /stream/ID/send` sends messages, one on each line; a client sends the
next when it has the answer to the one before. `POST /stream/ID/resume?received=NUMBER` goes on
after the connection was lost, with the messages after the first NUMBER.
"""

from collections.abc import Sequence

from msgspec import Struct

from heliograph.config.settings import Config
from heliograph.handler import Answer, AnswerReply, Handler
from heliograph.net.takeover import Handover
from heliograph.node.dialect import ClientLane, Dialect, Opening, opening_of
from heliograph.wire.chunked import ChunkedFraming
from heliograph.wire.http import Request
from heliograph.wire.responses import Response, text
from tests.transports.stream.connection import StreamConnection
from tests.transports.stream.resumable import Log, Stream, Streams, Terms

ACTIONS = ("", "send", "resume")

MOST_MESSAGES = 64
"""In one request: they are handled at once."""

NOT_POST = text(405, "Method not allowed. Allowed: POST", headers=((b"Allow", b"POST"),))
NOT_CHUNKED = text(426, "A stream needs HTTP/1.1", headers=((b"Upgrade", b"HTTP/1.1"),))
WITHOUT_BODY = text(413, "This request has no body")
UNKNOWN = text(404, "No such stream, open another one")
AWAY = text(409, "The connection of this stream is lost, resume it first")
NO_NUMBER = text(400, "?received= is the number of messages that were received")


class Open(Struct):
    """The takeover by which a stream begins."""

    opening: Opening
    lane: ClientLane
    streams: Streams[StreamConnection]
    request: Request
    status: int = 200

    def take(self, connection: Handover, /) -> None:
        """Go on with a connection as a stream."""
        limit = connection.context.settings.max_write_buffer
        log = Log(self.streams.terms.kept_bytes(limit))
        client = StreamConnection(connection, self.lane, self.streams, log)
        client.begin(self.opening, self.request, connection)


class Resume(Struct):
    """The takeover by which a stream goes on."""

    stream: Stream[StreamConnection]
    received: int
    streams: Streams[StreamConnection]
    request: Request
    status: int = 200

    def take(self, connection: Handover, /) -> None:
        """Go on with a connection as the one of a stream."""
        stream = self.stream
        lane = stream.connection.lane
        client = StreamConnection(connection, lane, self.streams, stream.log)
        client.go_on(stream, self.received, self.request, connection)


class StreamHandler:
    """Answers the requests of streams for clients of *dialects*."""

    def __init__(
        self, dialects: Sequence[Dialect], config: Config, otherwise: Handler, terms: Terms
    ) -> None:
        self._dialects = dialects
        self._config = config
        self._otherwise = otherwise
        self._framing = ChunkedFraming()
        self._root = f"{config.http_requests.path_prefix}/stream/".encode()
        self.streams: Streams[StreamConnection] = Streams(terms)

    def handle(self, request: Request) -> AnswerReply:
        """Answer *request*. Never raises."""
        if not request.path.startswith(self._root):
            return self._otherwise.handle(request)
        if request.method != "POST":
            return NOT_POST
        name, action = self._asked(request)
        if action not in ACTIONS:
            return UNKNOWN
        if action == "send":
            return self._send(name, request)
        if request.version == "1.0":
            return NOT_CHUNKED
        if request.body:
            return WITHOUT_BODY
        return self._resume(name, request) if action else self._open(name, request)

    def refuse_early(self, request: Request) -> Response | None:
        """Answer *request* before its body has arrived: only one that sends may have one."""
        if not request.path.startswith(self._root):
            return self._otherwise.refuse_early(request)
        if request.method != "POST":
            return NOT_POST
        name, action = self._asked(request)
        if action not in ACTIONS:
            return UNKNOWN
        return self._unable(name) if action == "send" else WITHOUT_BODY

    def _asked(self, request: Request) -> tuple[str, str]:
        """Return the key of an app, or the id of a stream, and what is asked for."""
        path = request.path.removeprefix(self._root).decode("latin-1")
        name, _, action = path.partition("/")
        return name, action

    def _open(self, key: str, request: Request) -> Answer:
        path = f"{self._config.http_requests.path_prefix}/app/{key}".encode("latin-1")
        connecting = Request("GET", path, path, request.query, "1.1", request.headers, True)
        opening = opening_of(self._dialects, connecting)
        if opening is None:
            return UNKNOWN
        return Open(opening, opening.dialect.lane(self._framing), self.streams, request)

    def _resume(self, name: str, request: Request) -> Answer:
        stream = self.streams.get(name)
        if stream is None:
            return UNKNOWN
        field, _, number = request.query.partition(b"=")
        if field != b"received" or not number.isdigit() or len(number) > 18:
            return NO_NUMBER
        if int(number) > stream.log.numbers.stop:
            return NO_NUMBER
        return Resume(stream, int(number), self.streams, request)

    def _send(self, name: str, request: Request) -> Response:
        refusal = self._unable(name)
        stream = self.streams.get(name)
        if refusal is not None or stream is None:
            return refusal or UNKNOWN
        texts = [line for line in request.body.split(b"\n") if line]
        if len(texts) > MOST_MESSAGES:
            return text(413, f"At most {MOST_MESSAGES} messages in one request")
        most = self._config.connections.max_message_bytes
        if any(len(one) > most for one in texts):
            return text(413, f"A message has at most {most} bytes")
        try:
            request.body.decode()
        except UnicodeDecodeError:
            return text(400, "Messages are UTF-8")
        stream.connection.take_messages(texts)
        return Response(204, b"")

    def _unable(self, name: str) -> Response | None:
        """Return why nothing can be sent to this stream; None if it can."""
        stream = self.streams.get(name)
        if stream is None:
            return UNKNOWN
        return None if stream.connection.connected else AWAY
