"""
Reads and checks the rows of a store's file.

The file may be damaged by crashes, disks and manual edits, so it is not trusted: an invalid row is
left out and counted. Knows the tables, including those of earlier versions, and the failures of
SQLite; does not know when rows are written, or the meaning of an event.
"""

import re
import sqlite3
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from heliograph.engine.answers import Mark
from heliograph.webhooks.debounce import CHANNEL, MEMBER, USER, ReportedState, Standing

MAX_NAME_BYTES = 1 << 20
"""Bytes of the name of a channel, user or key: far above any useful limit of an app."""

MAX_TEXT_BYTES = 64 << 20
"""Bytes of an event's text: as many as a whole queue may have."""

MAX_NUMBER = 1 << 62
"""The largest number of a stored event, so that numbers are left for new events."""

MAX_FAILURES = 20_000
"""Failures in the middle of the table of events after which the rest of it is not read."""

SINGLE_STEPS = 1000
"""Successive failures after which the distance to the next number to be tried doubles each time."""

UNREADABLE = (sqlite3.Error, MemoryError, OverflowError, UnicodeError)
"""Exceptions of reading a damaged file; the last, if SQLite's message repeats text of the file."""

_STANDINGS = {standing.value: standing for standing in Standing}

_DELIVERY_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")  # it is sent in a header

T = TypeVar("T")
Row = Sequence[Any]


@dataclass(slots=True)
class StoredEvent:
    """An event that is not delivered to *receiver* yet, possibly as part of *delivery*."""

    number: int
    receiver: str
    stream: str
    text: bytes
    delivery: str | None


@dataclass(slots=True)
class StoredDelivery:
    """A delivery that was formed and is not finished."""

    id: str
    receiver: str
    key: str
    time_ms: int


class StoredState(NamedTuple):
    """A state that was reported to the receivers of an app."""

    app_id: str
    state: ReportedState
    scope: str
    standing: Standing


class StoredCount(NamedTuple):
    """The latest number of subscriptions of a channel, which is not reported yet."""

    app_id: str
    channel: str
    subscriptions: int


class StoredMark(NamedTuple):
    """The mark up to which the changes of a scope are kept."""

    app_id: str
    mark: Mark


@dataclass(slots=True)
class Stored:
    """The contents of a store, of all apps or of one; events are in order."""

    states: list[StoredState] = field(default_factory=list)
    counts: list[StoredCount] = field(default_factory=list)
    marks: list[StoredMark] = field(default_factory=list)
    events: list[StoredEvent] = field(default_factory=list)
    deliveries: list[StoredDelivery] = field(default_factory=list)


_STATES = "SELECT app, about, channel, user, scope, standing FROM reported"
# Schema 1 had no scopes: all states are unconfirmed (2).
_OLD_STATES = "SELECT app, about, channel, user, '', 2 FROM beliefs"
_COUNTS = "SELECT app, channel, count FROM counts"
_MARKS = "SELECT app, scope, epoch, number FROM marks"
_DELIVERIES = "SELECT id, receiver, key, time_ms FROM deliveries"
_EVENTS = "SELECT number, receiver, stream, text, delivery FROM events"


def prepare(connection: sqlite3.Connection) -> None:
    """Accept text that is not UTF-8; `read` and `read_damaged` leave such rows out."""
    connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")


def read(connection: sqlite3.Connection) -> tuple[Stored, int]:
    """Return the contents of an intact file, and the number of invalid rows. Raises UNREADABLE."""
    return _checked(
        connection.execute(_STATES),
        connection.execute(_COUNTS),
        connection.execute(_MARKS),
        connection.execute(_EVENTS),
        connection.execute(_DELIVERIES),
    )


def read_app(
    connection: sqlite3.Connection, app_id: str, receivers: Iterable[str]
) -> tuple[Stored, int]:
    """Return the same for an app and its *receivers*."""
    receivers = list(receivers)

    def of_receivers(select: str) -> Iterator[Row]:
        for receiver in receivers:
            yield from connection.execute(f"{select} WHERE receiver = ?", (receiver,))

    return _checked(
        connection.execute(f"{_STATES} WHERE app = ?", (app_id,)),
        connection.execute(f"{_COUNTS} WHERE app = ?", (app_id,)),
        connection.execute(f"{_MARKS} WHERE app = ?", (app_id,)),
        of_receivers(_EVENTS),
        of_receivers(_DELIVERIES),
    )


def read_damaged(connection: sqlite3.Connection) -> tuple[Stored, int]:
    """
    Return the readable rows of a damaged file, and the number of invalid rows. Never raises.

    Each table is read from both ends up to the damage; between them, events are read by number.
    """
    states, _ = _from_both_ends(connection, _STATES, "app", "about", "channel", "user")
    if not states:
        states, _ = _from_both_ends(connection, _OLD_STATES, "app", "about", "channel", "user")
    counts, _ = _from_both_ends(connection, _COUNTS, "app", "channel")
    marks, _ = _from_both_ends(connection, _MARKS, "app", "scope")
    deliveries, _ = _from_both_ends(connection, _DELIVERIES, "id")
    events, whole = _from_both_ends(connection, _EVENTS, "number")
    if not whole:
        _between(connection, events)
    for row in list(events.values()):
        if row[4] is not None and (row[4],) not in deliveries:
            found = _one(connection, f"{_DELIVERIES} WHERE id = ?", row[4])
            if found is not None:
                deliveries[row[4],] = found
    return _checked(
        states.values(), counts.values(), marks.values(), events.values(), deliveries.values()
    )


def _from_both_ends(
    connection: sqlite3.Connection, select: str, *key: str
) -> tuple[dict[Hashable, Row], bool]:
    """Return the rows by their *key*, and whether the table was read completely."""
    rows: dict[Hashable, Row] = {}
    columns, marks = ", ".join(key), ", ".join("?" * len(key))
    for direction, beyond in (("ASC", ">"), ("DESC", "<")):
        seen: set[Hashable] = set()
        last: Row = ()
        order = "ORDER BY " + ", ".join(f"{column} {direction}" for column in key)
        try:
            for row in connection.execute(f"{select} {order}"):
                last = row[: len(key)]
                if last in seen:
                    break  # the pages form a loop
                seen.add(last)
                rows.setdefault(last, row)
            else:
                return rows, True
        except UNREADABLE:
            # Python reads the next row before it returns one: the last row is missing so far.
            where = f"WHERE ({columns}) {beyond} ({marks})" if last else ""
            row = _one(connection, f"{select} {where} {order} LIMIT 1", *last)
            if row is not None:
                rows.setdefault(row[: len(key)], row)
    return rows, False


def _between(connection: sqlite3.Connection, events: dict[Hashable, Row]) -> None:
    """Read events by number, which finds those on intact pages behind a damaged page."""
    position = failures = in_a_row = 0
    select = f"{_EVENTS} WHERE number >= ? ORDER BY number"
    while failures < MAX_FAILURES and position < MAX_NUMBER:
        try:
            for row in connection.execute(select, (position,)):
                if row[0] < position:
                    break  # as above
                events.setdefault((row[0],), row)
                position, in_a_row = row[0] + 1, 0
            else:
                return
        except UNREADABLE:
            row = _one(connection, f"{select} LIMIT 1", position)  # as above
            if row is not None and row[0] >= position:
                events.setdefault((row[0],), row)
                position, in_a_row = row[0], 0
        failures += 1
        in_a_row += 1
        position += 1 if in_a_row < SINGLE_STEPS else 1 << (in_a_row - SINGLE_STEPS)


def _one(connection: sqlite3.Connection, select: str, *values: Any) -> Row | None:
    try:
        row: Row | None = connection.execute(select, values).fetchone()
    except UNREADABLE:
        return None
    return row


def _checked(
    states: Iterable[Row],
    counts: Iterable[Row],
    marks: Iterable[Row],
    events: Iterable[Row],
    deliveries: Iterable[Row],
) -> tuple[Stored, int]:
    stored = Stored()
    wrong = _sort_out(states, _state, stored.states)
    wrong += _sort_out(counts, _count, stored.counts)
    wrong += _sort_out(marks, _mark, stored.marks)
    wrong += _sort_out(events, _event, stored.events)
    wrong += _sort_out(deliveries, _delivery, stored.deliveries)
    stored.events.sort(key=lambda event: event.number)
    return stored, wrong


def _sort_out(rows: Iterable[Row], check: Callable[[Row], T | None], right: list[T]) -> int:
    """Add the valid *rows* to *right*; return the number of invalid rows."""
    wrong = 0
    for row in rows:
        one = check(row)
        if one is None:
            wrong += 1
        else:
            right.append(one)
    return wrong


def _state(row: Row) -> StoredState | None:
    app_id, about, scope, standing = row[0], row[1], row[4], row[5]
    channel, user_id = _text(row[2]), _text(row[3])
    if not _is_name(app_id) or type(about) is not int or channel is None or user_id is None:
        return None
    if not _is_text(scope) or type(standing) is not int or standing not in _STANDINGS:
        return None
    named = {CHANNEL: channel and not user_id, MEMBER: channel, USER: not channel}
    if not named.get(about):
        return None
    return StoredState(app_id, ReportedState(about, channel, user_id), scope, _STANDINGS[standing])


def _count(row: Row) -> StoredCount | None:
    app_id, channel, count = row[0], _text(row[1]), row[2]
    if not _is_name(app_id) or not channel or type(count) is not int or count < 0:
        return None
    return StoredCount(app_id, channel, count)


def _mark(row: Row) -> StoredMark | None:
    app_id, scope, epoch, number = row
    if not _is_name(app_id) or not _is_text(scope) or not _is_text(epoch):
        return None
    if type(number) is not int or number < 0:
        return None
    return StoredMark(app_id, Mark(scope, epoch, number))


def _event(row: Row) -> StoredEvent | None:
    number, receiver, text, delivery = row[0], row[1], _bytes(row[3], MAX_TEXT_BYTES), row[4]
    if type(number) is not int or not 0 < number <= MAX_NUMBER:
        return None
    if not _is_name(receiver) or text is None:
        return None
    # The event can be sent even if these two are invalid.
    return StoredEvent(
        number, receiver, _text(row[2]) or "", text, delivery if _is_name(delivery) else None
    )


def _delivery(row: Row) -> StoredDelivery | None:
    delivery_id, receiver, key, time_ms = row
    if not isinstance(delivery_id, str) or not _DELIVERY_ID.fullmatch(delivery_id):
        return None
    if not _is_name(receiver) or not _is_name(key) or type(time_ms) is not int or time_ms < 0:
        return None
    return StoredDelivery(delivery_id, receiver, key, time_ms)


def _is_name(value: Any) -> bool:
    return value != "" and _is_text(value)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > MAX_NAME_BYTES:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bytes(value: Any, most: int) -> bytes | None:
    """Return a blob; text from a manual edit is accepted, too."""
    if isinstance(value, str):
        value = value.encode(errors="surrogateescape")
    return value if isinstance(value, bytes) and len(value) <= most else None


def _text(value: Any) -> str | None:
    """Return a name that is stored as a blob, because it may contain lone surrogates."""
    blob = _bytes(value, MAX_NAME_BYTES)
    try:
        return None if blob is None else blob.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return None
