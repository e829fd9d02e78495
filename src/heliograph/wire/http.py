"""
HTTP/1.1 requests, as a server reads them.

Knows RFC 9110 and 9112, and llhttp (through httptools), which judges the syntax. Knows
nothing of sockets, time or the meaning of requests. The owner of the connection feeds bytes
in, answers the events in their order, and closes after a `RefusedRequest` and after a request
that does not keep the connection alive.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, NoReturn, TypeAlias

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)

END_OF_HEAD = b"\r\n\r\n"
"""The end of a head, and of a chunked body: llhttp accepts no shorter line ends."""

METHODS = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
}
"""llhttp knows many more methods, including those of RTSP and WebDAV. CONNECT is for proxies."""

FRAMING_ALLOWANCE = 4
"""The bytes of a chunked body that are not data, as a multiple of the largest head."""

SCHEMES = frozenset((b"http", b"https", b"ws", b"wss"))

_FAST_LINE = re.compile(rb"POST (/[!$-;=@-~]*)(?:\?([!$-;=?-~]*))? HTTP/1\.1")
"""A request line that needs no further check: origin form, and only unambiguous characters."""

_FAST_UPGRADE_LINE = re.compile(rb"GET (/[!$-;=@-~]*)(?:\?([!$-;=?-~]*))? HTTP/1\.1")

_FAST_HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)+")

MAX_REMEMBERED_HEADERS = 256
"""Header blocks that are remembered, of at most MAX_REMEMBERED_BYTES each."""

MAX_REMEMBERED_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The limits of a request; a request over a limit is refused."""

    max_head_bytes: int = 16384  # request line, headers and the empty line
    max_headers: int = 100
    max_body_bytes: int = 1 << 20


class Request:
    """
    One complete request.

    *target* is that of the request line; *path* and *query* are its parts around the first `?`,
    raw, because signatures cover the bytes that were sent. Header names are in lower case.
    *keep_alive* is true if another request may follow on this connection.
    """

    __slots__ = (
        "body",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "target",
        "version",
    )

    def __init__(  # noqa: PLR0917 - on the hot path, where keywords cost
        self,
        method: str,
        target: bytes,
        path: bytes,
        query: bytes,
        version: str,
        headers: list[tuple[bytes, bytes]],
        keep_alive: bool,
        body: bytes = b"",
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.version = version
        self.headers = headers
        self.keep_alive = keep_alive
        self.body = body

    def __repr__(self) -> str:
        # Without the query: it may contain a key and a signature, and this text may be logged.
        return f"<Request {self.method} {self.path!r}>"

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of the header *name*, which is in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def lone_header(self, name: bytes) -> bytes | None:
        """
        Return the value of a header that may occur once; None if it is missing or repeated.

        If it is repeated, a proxy may have used another value than this server would.
        """
        values = [value for key, value in self.headers if key == name]
        return values[0] if len(values) == 1 else None


class HeaderMemory:
    """
    Parsed header blocks, by their bytes, for all connections of a server.

    A publisher repeats the same headers, and only the request line and the body are new. A block
    is remembered if it needs no further check: its request has HTTP/1.1, keeps the connection, has
    a Content-Length, and no header that requests anything else.
    """

    __slots__ = ("blocks",)

    def __init__(self) -> None:
        self.blocks: dict[bytes, tuple[list[tuple[bytes, bytes]], int]] = {}
        """Headers, and their Content-Length."""

    def remember(self, block: bytes, request: Request) -> None:
        """Keep the headers of *request*, received as *block*, if they need no further check."""
        if len(block) > MAX_REMEMBERED_BYTES or not request.keep_alive:
            return
        if request.version != "1.1":
            return  # a block without Host is valid only in HTTP/1.0
        fields = dict(request.headers)
        if b"content-length" not in fields or not _EVENTFUL.isdisjoint(fields):
            return
        if fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return
        if len(self.blocks) >= MAX_REMEMBERED_HEADERS:
            self.blocks.clear()  # cheaper than an LRU order, and blocks in use are soon back
        self.blocks[block] = (request.headers, len(request.body))


_EVENTFUL = frozenset((b"transfer-encoding", b"upgrade", b"expect"))
"""Headers for which a request needs the full parser."""


_UPGRADING = frozenset((b"upgrade", b"keep-alive, upgrade"))  # the latter is Firefox's

_BODILY = frozenset((b"transfer-encoding", b"content-length", b"expect"))
"""Headers of requests with a body."""


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """The request cannot be served: respond with *status* and *text*, then close."""

    status: int
    text: str


class Continue(Enum):
    """The type of `CONTINUE`."""

    WANTED = 100


CONTINUE: Final = Continue.WANTED
"""The client sends its body only after it has received `CONTINUE_RESPONSE`."""

CONTINUE_RESPONSE = b"HTTP/1.1 100 Continue\r\n\r\n"

Event: TypeAlias = Request | RefusedRequest | Continue


class _RefusedError(Exception):
    """Stops the parser from inside one of its callbacks; the refusal is already stored."""


class RequestReader:
    """
    Reads the bytes of one connection into requests; the boundaries of the reads do not matter.

    The parser is fed one part at a time: a head, a body, or a section of a chunked body. So the
    size of every head is known to the byte, and nothing of the next request is parsed before the
    current request is checked.

    The parser and the reader refer to each other. The reader drops the parser after a refusal, an
    upgrade or the last request. If a connection ends before that, call `close`: it frees the memory
    at once instead of at the next garbage collection.
    """

    __slots__ = (
        "_body",
        "_events",
        "_expecting",
        "_head_bytes",
        "_headers",
        "_left",
        "_limits",
        "_memory",
        "_parser",
        "_raw_bytes",
        "_request",
        "_skipped",
        "_tail",
        "_target",
        "_websockets",
        "rest",
        "upgraded",
    )

    def __init__(
        self, limits: HttpLimits, memory: HeaderMemory | None = None, *, websockets: bool = True
    ) -> None:
        """
        Without *websockets*, a request for a WebSocket is an ordinary request.

        Readers that share a *memory* must have the same limits.
        """
        self.upgraded = False
        self.rest = b""
        self._limits = limits
        self._memory = memory
        self._websockets = websockets
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._events: list[Event] = []
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0  # of a head that has begun and not ended
        self._request: Request | None = None  # its head is complete, its body is not
        self._body: bytes | bytearray = b""
        self._left = 0  # bytes still to come of a body with a Content-Length
        self._raw_bytes = 0  # of a chunked body, its framing included
        self._tail = b""  # the last bytes before a cut, which may begin an END_OF_HEAD
        self._expecting = False  # the client may wait for CONTINUE_RESPONSE
        self._skipped = False  # llhttp is about to end a request before its body

    @property
    def receiving(self) -> bool:
        """Whether a request has begun and is not complete; empty lines before it do not count."""
        return self._request is not None or self._head_bytes > 0

    @property
    def receiving_body(self) -> bool:
        """Whether the head of a request is complete and its body is not."""
        return self._request is not None

    @property
    def unfinished(self) -> Request | None:
        """The request whose body is being received, without its body; None if there is none."""
        return self._request

    @property
    def missing(self) -> int:
        """The number of missing bytes of a body with a Content-Length."""
        return self._left

    @property
    def held(self) -> int:
        """The number of buffered bytes of an incomplete request."""
        return self._head_bytes + len(self._body)

    def close(self) -> None:
        """Drop the parser and an incomplete request. Further bytes are discarded."""
        self._parser = None
        self._request = None
        self._headers = []
        self._target = self._body = self._tail = b""
        self._head_bytes = self._left = self._raw_bytes = 0
        self._expecting = False

    def feed(self, data: bytes, *, more: bool = False) -> list[Event]:
        """
        Return the events that *data* completes, in their order. Never raises, whatever the input.

        *more* is true if more data has arrived, which is fed next.

        No event follows a `RefusedRequest` or the last request of a connection. After a request
        for a WebSocket, `upgraded` is True, and `rest` collects the bytes behind its head, of this
        call and of later calls.
        """
        idle = not self.receiving
        whole = data
        position = 0
        while position < len(data) and (parser := self._parser) is not None:
            if data[position] in b"\r\n" and not self.receiving:
                data, position = data[position:].lstrip(b"\r\n"), 0
                continue
            start, position = position, self._end_of_part(data, position)
            try:
                parser.feed_data(data[start:position])
            except HttpParserUpgrade:
                self._ignore_upgrade()
            except HttpParserCallbackError:
                if self._parser is not None:
                    raise  # not a refusal: a fault in a callback
            except HttpParserError as error:
                self._refuse_syntax(error)
            if self._head_bytes or self._raw_bytes or self._expecting:
                self._take_stock(position == len(data) and not more)
        if self.upgraded:
            self.rest += data[position:]
        # The list is not kept: an idle connection must not keep its last request in memory.
        events, self._events = self._events, []
        if idle and len(events) == 1 and whole.startswith(b"POST ") and self._memory is not None:
            self._remember(whole, events[0])
        return events

    def request_fast(self, data: bytes) -> Request | None:
        """
        Return the request in *data*, or None if `feed` must be used; costs a fifth of `feed`.

        The fast path reads one complete request with remembered headers, as nine in ten requests
        of publishers are, and one for a WebSocket with only usual headers.
        """
        if self._parser is None or self._request is not None or self._head_bytes:
            return None  # a request is incomplete, or there will be no more
        if data.startswith(b"GET "):
            return self._upgrade_fast(data)
        if self._memory is None:
            return None
        end_of_line = data.find(b"\r\n")
        start_of_body = data.find(END_OF_HEAD, end_of_line) + 4
        known = self._memory.blocks.get(data[end_of_line:start_of_body])
        if known is None:
            return None
        headers, length = known
        line = _FAST_LINE.fullmatch(data, 0, end_of_line)
        if (
            line is None
            or len(data) != start_of_body + length
            or start_of_body > self._limits.max_head_bytes
        ):
            return None
        path, query = line.groups(b"")
        # Between the method and the version.
        target = data[5 : end_of_line - 9]
        body = data[start_of_body:]
        return Request("POST", target, path, query, "1.1", headers, True, body)

    def _upgrade_fast(self, data: bytes) -> Request | None:
        """Read a request for a WebSocket that is the whole of *data*. None: use `feed`."""
        end_of_line = data.find(b"\r\n")
        block = data[end_of_line + 2 : -2]
        if not self._websockets or not data.endswith(END_OF_HEAD):
            return None
        line = _FAST_UPGRADE_LINE.fullmatch(data, 0, end_of_line)
        if line is None or _FAST_HEADERS.fullmatch(block) is None:
            return None
        parts = [header.partition(b":") for header in block[:-2].split(b"\r\n")]
        headers = [(name.lower(), value.strip(b"\t ")) for name, _, value in parts]
        fields = dict(headers)
        if (
            fields.get(b"upgrade", b"").lower() != b"websocket"
            or fields.get(b"connection", b"").lower() not in _UPGRADING
            or b"host" not in fields
            or not _BODILY.isdisjoint(fields)
            or not len(fields) == len(headers) <= self._limits.max_headers
            or len(data) > self._limits.max_head_bytes
        ):
            return None
        path, query = line.groups(b"")
        self.upgraded = True
        self.close()
        return Request("GET", data[4 : end_of_line - 9], path, query, "1.1", headers, True)

    def _remember(self, data: bytes, event: Event) -> None:
        """Keep the headers of *event* if it is a request that fills *data* completely."""
        if self._memory is not None and isinstance(event, Request):
            start = data.find(b"\r\n")
            end = data.find(END_OF_HEAD, start) + len(END_OF_HEAD)
            if len(data) == end + len(event.body):
                self._memory.remember(data[start:end], event)

    # -- A part at a time ----------------------------------------------------------------

    def _end_of_part(self, data: bytes, start: int) -> int:
        """Return where the part of *data* that begins at *start* ends, and count it."""
        if self._left:
            end = min(start + self._left, len(data))
            self._left -= end - start
            return end
        end = self._after_empty_line(data, start)
        if self._request is not None:
            self._raw_bytes += end - start
            return end
        # Not beyond the limit: an error of llhttp in the bytes before it is reported first.
        room = self._limits.max_head_bytes - self._head_bytes
        self._head_bytes += end - start
        return min(end, start + room)

    def _after_empty_line(self, data: bytes, start: int) -> int:
        """Return the position behind the first END_OF_HEAD after *start*, or the end of *data*."""
        tail = self._tail
        if tail:
            found = (tail + data[start : start + 3]).find(END_OF_HEAD)
            if found >= 0:
                self._tail = b""
                return start + found + len(END_OF_HEAD) - len(tail)
        found = data.find(END_OF_HEAD, start)
        if found >= 0:
            self._tail = b""
            return found + len(END_OF_HEAD)
        self._tail = (tail + data[max(start, len(data) - 3) :])[-3:]
        return len(data)

    def _take_stock(self, at_end: bool) -> None:
        """Check limits between two parts; *at_end* is true if no more data has arrived."""
        if self._head_bytes > self._limits.max_head_bytes:
            self._refuse_head()
        elif self._raw_bytes and self._wasteful():
            self._refuse(413, "Request body too large")
        elif self._expecting:
            self._expecting = False
            if at_end:  # otherwise the client sends the body without CONTINUE
                self._events.append(CONTINUE)

    def _wasteful(self) -> bool:
        # Chunk sizes, extensions and trailers count. A mebibyte in chunks of a hundred bytes is
        # accepted. A trailer without an end is not: httptools copies all of it for every piece.
        # If the body is malformed, too, either fault may be reported.
        allowance = FRAMING_ALLOWANCE * self._limits.max_head_bytes
        return self._raw_bytes - len(self._body) > allowance

    def _ignore_upgrade(self) -> None:
        """
        Continue after the head of a request whose upgrade the server ignores.

        For llhttp, the connection has left HTTP, and the request has no body. So a new parser
        takes over; if a body follows, the new parser is first fed a head with the same framing.
        """
        request = self._request
        if self._parser is None:
            return  # it was the last request, or the upgrade is to a WebSocket
        self._parser = HttpRequestParser(self)
        if request is None:
            return
        length = self._left
        framing = b"Content-Length: %d" % length if length else b"Transfer-Encoding: chunked"
        self._request = None
        self._parser.feed_data(b"POST / HTTP/1.1\r\nHost: -\r\n" + framing + END_OF_HEAD)
        self._request = request

    def _refuse(self, status: int, text: str) -> None:
        self._events.append(RefusedRequest(status, text))
        self.close()

    def _refuse_head(self) -> None:
        if len(self._target) + len(b"GET  HTTP/1.1\r\n") > self._limits.max_head_bytes:
            self._refuse(414, "Request line too long")
        else:
            self._refuse(431, "Request header fields too large")

    def _refuse_syntax(self, error: HttpParserError) -> None:
        # llhttp's own texts are not sent: they may change, and do not help a client.
        if str(error) == "Invalid HTTP version":
            self._refuse(505, "HTTP version not supported")
        else:
            self._refuse(400, "Malformed HTTP request")

    def _stop(self, status: int, text: str) -> NoReturn:
        """Refuse the request from inside a callback."""
        self._refuse(status, text)
        raise _RefusedError

    # -- Callbacks of the parser ---------------------------------------------------------

    def on_url(self, piece: bytes) -> None:
        """Receive the target, or a piece of it."""
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a complete header. Trailers are dropped."""
        # One header above the limit is kept, to show that there were too many.
        if self._request is None and len(self._headers) <= self._limits.max_headers:
            self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        """Check the head, and make the request; its body is added later."""
        parser = self._parser
        if parser is None:
            raise AssertionError("a closed reader parses nothing")
        headers, self._headers = self._headers, []
        target, self._target = self._target, b""
        self._head_bytes = 0
        fields = dict(headers)

        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._stop(505, "HTTP version not supported")
        path, _, query = self._origin(target).partition(b"?")
        method = METHODS.get(parser.get_method())
        if method is None:
            self._stop(501, "Method not supported")
        if len(headers) > self._limits.max_headers:
            self._stop(431, "Too many header fields")
        if len(fields) < len(headers) or b"host" not in fields:
            self._check_host(headers, version)
        has_body = self._take_framing(headers, fields, version)
        if b"expect" in fields and version == "1.1":  # RFC 9110 10.1.1: ignored in 1.0
            self._check_expect(headers, has_body)

        keep_alive = parser.should_keep_alive()
        if version == "1.0" and keep_alive:
            keep_alive = b"close" not in _tokens(headers, b"connection")
        self._request = Request(method, target, path, query, version, headers, keep_alive)
        if b"upgrade" in fields and parser.should_upgrade():
            self._take_upgrade(headers, version, has_body)

    def on_body(self, piece: bytes) -> None:
        """Receive the body, or a piece of it."""
        if not self._body:
            self._body = piece  # most bodies arrive in one piece
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body + piece)
        else:
            self._body += piece
        if len(self._body) > self._limits.max_body_bytes:
            self._stop(413, "Request body too large")

    def on_message_complete(self) -> None:
        """Add the complete request to the events."""
        if self._skipped:
            self._skipped = False  # _ignore_upgrade handles the body
            return
        request = self._request
        if request is None:
            raise AssertionError("a message ends after its head")
        if self._raw_bytes:
            if self._wasteful():
                self._stop(413, "Request body too large")
            self._raw_bytes = 0
        if self._body:
            request.body = bytes(self._body)
            self._body = b""
        self._request = None
        self._events.append(request)
        if self.upgraded or not request.keep_alive:
            self.close()

    # -- Checks of a head ----------------------------------------------------------------

    def _origin(self, target: bytes) -> bytes:
        """Return the path and query of *target* in origin or absolute form (RFC 9112 3.2)."""
        origin = target if target[:1] == b"/" else _origin_form(target)
        if origin is None or b"#" in origin:
            self._stop(400, "The request target must be a path")
        return origin

    def _check_host(self, headers: list[tuple[bytes, bytes]], version: str) -> None:
        hosts = sum(name == b"host" for name, _ in headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._stop(400, "Exactly one Host header is required")

    def _take_framing(
        self, headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes], version: str
    ) -> bool:
        """Store how the body is delimited; return whether there is one."""
        if b"transfer-encoding" in fields:
            if version == "1.0":
                # RFC 9112 6.1: the framing of such a message is to be treated as faulty.
                self._stop(400, "Transfer-Encoding needs HTTP/1.1")
            # llhttp checks only the position of chunked: if it occurs twice, or not as the last,
            # the end of the body is unknown, and the status is 400.
            if _tokens(headers, b"transfer-encoding") != [b"chunked"]:
                self._stop(501, "Transfer coding not supported")
            return True
        length = fields.get(b"content-length")
        if length is None:
            return False
        self._left = int(length)
        if self._left > self._limits.max_body_bytes:
            self._stop(413, "Request body too large")
        return self._left > 0

    def _check_expect(self, headers: list[tuple[bytes, bytes]], has_body: bool) -> None:
        if _tokens(headers, b"expect") != [b"100-continue"]:
            self._stop(417, "Expectation not supported")
        self._expecting = has_body

    def _take_upgrade(
        self, headers: list[tuple[bytes, bytes]], version: str, has_body: bool
    ) -> None:
        # RFC 9110 7.8: an Upgrade in an HTTP/1.0 request is ignored.
        websocket = version == "1.1" and b"websocket" in _tokens(headers, b"upgrade")
        self.upgraded = websocket and self._websockets
        self._skipped = has_body and not self.upgraded


def _tokens(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the members, in lower case, of the comma-separated lists in headers of *name*."""
    lists = [value for key, value in headers if key == name]
    return [token.strip().lower() for token in b",".join(lists).split(b",")]


def _origin_form(target: bytes) -> bytes | None:
    """Return the path and query of a target in absolute form; None if it has another form."""
    scheme, _, rest = target.partition(b"://")
    end = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    if scheme.lower() not in SCHEMES or end == 0:
        return None
    origin = rest[end:]
    return origin if origin.startswith(b"/") else b"/" + origin
