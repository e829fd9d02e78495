"""
What outlives the connections of a stream: its session, and what was written to its client last.

A stream whose connection is lost is kept for a time; the wheel of the server ends it. There is no
timer for a stream.
"""

import secrets
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from msgspec import Struct

from heliograph.net.context import Context
from heliograph.node.dialect import Opening, Session

Connection = TypeVar("Connection")

STALL_S = 0.25
"""How much longer a stream is kept after a stall of the server: clients may be yet to be read."""


class Terms(Struct, frozen=True):
    """
    How streams are kept whose connection is lost.

    They have *resume_s* seconds to come back. Up to *most_bytes* of what was written last, and as
    much of what comes meanwhile, are kept for each of them. There are *most_away* of them at the
    most: of more the oldest is ended.
    """

    resume_s: float = 10.0
    most_bytes: int = 256 * 1024
    most_away: int = 1000

    def kept_bytes(self, max_write_buffer: int) -> int:
        """Return *most_bytes*, or less: all is written at once to a client that comes back."""
        return min(self.most_bytes, max_write_buffer // 2)


def chunks_of(row: bytes) -> Iterator[bytes]:
    """Cut chunks of HTTP, each of which is one message, that stand in a row."""
    position = 0
    while position < len(row):
        data = row.index(b"\r\n", position) + 2
        end = data + int(row[position:data], 16) + 2
        yield row[position:end]
        position = end


class Log:
    """The last *most_bytes* that were written to a client, by the numbers of messages."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._first = 0  # the number of the first message that is kept
        self._rows: deque[bytes] = deque()
        self._size = 0

    def append(self, row: bytes) -> None:
        """Keep chunks in a row."""
        self._rows.append(row)
        self._size += len(row)
        while self._size > self._most_bytes:
            oldest = self._rows.popleft()
            self._size -= len(oldest)
            self._first += sum(1 for _ in chunks_of(oldest))

    @property
    def numbers(self) -> range:
        """The numbers of the messages that are kept."""
        kept = sum(1 for row in self._rows for _ in chunks_of(row))
        return range(self._first, self._first + kept)

    def take(self, since: int) -> bytes:
        """Return what is kept from the message *since* on, and keep nothing."""
        kept = [one for row in self._rows for one in chunks_of(row)]
        rest = b"".join(kept[since - self._first :])
        self._rows.clear()
        self._first, self._size = since, 0
        return rest


class Stream(Generic[Connection]):
    """
    A session with the present, or the last, connection of its client.

    *session* is what *opening* began; *log* has what was written last.
    """

    def __init__(
        self,
        streams: "Streams[Connection]",
        context: Context,
        opening: Opening,
        session: Session,
        log: Log,
        connection: Connection,
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.due = 0  # of the wheel
        self.opening = opening
        self.session = session
        self.connection = connection
        self.log = log
        self._streams = streams
        self._context = context

    def lost(self) -> None:
        """Keep the session, for a while."""
        if self._context.draining:
            self._streams.end(self)  # its client is to connect to another server
            return
        terms = self._streams.terms
        limit = self._context.settings.max_write_buffer
        self.session.detach(terms.kept_bytes(limit))
        self._streams.away[self] = None
        self._context.wheel.add(self, terms.resume_s)
        if len(self._streams.away) > terms.most_away:
            self._streams.end(next(iter(self._streams.away)))

    def resumed(self) -> None:
        """The session has a connection again, unless it closes that at once."""
        self._context.wheel.discard(self)
        self._streams.away.pop(self, None)

    def on_timer(self, _now: float) -> None:
        """End the session: its client did not come back in time."""
        wheel = self._context.wheel
        if wheel.late_s:
            wheel.add(self, STALL_S)
        else:
            self._streams.end(self)


class Streams(Generic[Connection]):
    """The streams of a server, by their ids, which nobody can guess."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.away: dict[Stream[Connection], None] = {}  # in the order in which they were lost
        self._streams: dict[str, Stream[Connection]] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, stream_id: str) -> Stream[Connection] | None:
        """Return the stream with this id."""
        return self._streams.get(stream_id)

    def add(self, stream: Stream[Connection]) -> None:
        """Begin to know a stream."""
        self._streams[stream.id] = stream

    def end(self, stream: Stream[Connection]) -> None:
        """End the session of a stream, where that has not ended, and forget the stream."""
        stream.resumed()
        self._streams.pop(stream.id, None)
        stream.session.end()
