"""
Stores data that outlives the process: the state that was reported to receivers, the events that are
not delivered yet, and the marks up to which changes were taken.

Knows rows, not their meaning. Data is *kept* once `kept` has reached the `group` that was current
when the data was given: a group is kept as a whole or not at all, and its events must not be sent
before. The file never contains a secret of an app, but it contains events, so only its owner may
read it.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from heliograph.engine.answers import Mark
from heliograph.errors import ConfigError
from heliograph.webhooks import rows
from heliograph.webhooks.debounce import ReportedState, Standing
from heliograph.webhooks.rows import Stored, StoredDelivery

logger = logging.getLogger(__name__)

FILE_NAME = "webhooks.sqlite3"

SCHEMA_VERSION = 2

# Seconds in which operations are collected for one group; its write must end within 50 ms.
LINGER_S = 0.02

RECOVERED = ".recovered"
"""The suffix of the file that replaces a damaged one."""

NOT_THE_FILE = {
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
"""Errors that do not come from a damaged file: the disk, permissions, another server."""

RETRY_S = 5.0
"""Seconds until the next write after a failure of the disk."""

MAX_OPERATIONS = 400_000
MAX_OPERATIONS_BYTES = 64 << 20
"""Limits of waiting operations, and of their texts; above, the disk counts as failed."""


class Store(Protocol):
    """The interface of `Webhooks` to its storage."""

    failures: int
    """The number of failures."""

    @property
    def lasting(self) -> bool:
        """Whether data that is given now outlives the process."""

    @property
    def group(self) -> int:
        """The group of the data that is given now."""

    @property
    def kept(self) -> int:
        """The last group that is kept."""

    async def open(self, on_kept: Callable[[], object], write_all: Callable[[], object]) -> Stored:
        """
        Return the stored data; from now on, call *on_kept* whenever `kept` has grown.

        A store whose file is out of date begins with an empty one, and calls *write_all*, which
        gives it all data of the apps that this node holds. Raises ConfigError with advice.
        """

    async def load(self, app_id: str, receivers: Iterable[str]) -> Stored:
        """
        Return the data of an app and of these receivers; empty while the store cannot be read.

        The result includes all data that was given before. Returns at once if the store fails.
        """

    def give_up(self) -> None:
        """Count the store as failed: too much data in memory waits for `load`."""

    def abandon(self, app_id: str) -> None:
        """Drop the data of an app that was given since the last group began to be written."""

    def mark(self, app_id: str, mark: Mark) -> None:
        """
        Changes up to *mark* were taken. It is kept together with their results, once for a group.

        The number 0 means that a restart was taken, and no change after it.
        """

    def report(self, app_id: str, state: ReportedState, scope: str, standing: Standing) -> None:
        """
        The state is about to be reported to receivers of the app, or its standing has changed.

        Repeated calls are cheap: for one state, or one count, a group has only the last row.
        """

    def retract(self, app_id: str, state: ReportedState) -> None:
        """The end of the state is about to be reported, or no receiver selects it any longer."""

    def unconfirm(self, app_id: str, scope: str) -> None:
        """All reported states of a scope are unconfirmed."""

    def keep_count(self, app_id: str, channel: str, count: int) -> None:
        """A number of subscriptions is to be reported later."""

    def drop_count(self, app_id: str, channel: str) -> None:
        """The number of a channel need not be reported later any more."""

    def clear(self, app_id: str, receivers: Iterable[str]) -> None:
        """Remove all data of an app, and all events of these receivers."""

    def queue(self, app_id: str, number: int, receiver: str, stream: str, text: bytes) -> None:
        """An event is to be sent to a receiver."""

    def deliver(self, app_id: str, delivery: StoredDelivery, numbers: Sequence[int]) -> None:
        """The events with these numbers form a delivery."""

    def finish(self, app_id: str, delivery: str, numbers: Sequence[int]) -> None:
        """A delivery, which has the events with these numbers, is finished."""

    def drop(self, app_id: str, numbers: Sequence[int]) -> None:
        """The events with these numbers are dropped."""

    async def close(self) -> None:
        """Keep all data that was given, and close the file."""


class MemoryStore:
    """Stores nothing; all data counts as kept at once."""

    lasting = False
    group = 0
    kept = 0

    def __init__(self) -> None:
        self.failures = 0

    async def open(self, on_kept: Callable[[], object], write_all: Callable[[], object]) -> Stored:  # noqa: ARG002 - the port's
        """Return nothing, for nothing was kept."""
        return Stored()

    async def load(self, app_id: str, receivers: Iterable[str]) -> Stored:  # noqa: ARG002 - the port's
        """Return nothing, for nothing was kept."""
        return Stored()

    def give_up(self) -> None:
        """Do nothing: `load` never returns data."""

    def abandon(self, app_id: str) -> None:
        """Keep nothing."""

    def mark(self, app_id: str, mark: Mark) -> None:
        """Keep nothing."""

    def report(self, app_id: str, state: ReportedState, scope: str, standing: Standing) -> None:
        """Keep nothing."""

    def retract(self, app_id: str, state: ReportedState) -> None:
        """Keep nothing."""

    def unconfirm(self, app_id: str, scope: str) -> None:
        """Keep nothing."""

    def keep_count(self, app_id: str, channel: str, count: int) -> None:
        """Keep nothing."""

    def drop_count(self, app_id: str, channel: str) -> None:
        """Keep nothing."""

    def clear(self, app_id: str, receivers: Iterable[str]) -> None:
        """Keep nothing."""

    def queue(self, app_id: str, number: int, receiver: str, stream: str, text: bytes) -> None:
        """Keep nothing."""

    def deliver(self, app_id: str, delivery: StoredDelivery, numbers: Sequence[int]) -> None:
        """Keep nothing."""

    def finish(self, app_id: str, delivery: str, numbers: Sequence[int]) -> None:
        """Keep nothing."""

    def drop(self, app_id: str, numbers: Sequence[int]) -> None:
        """Keep nothing."""

    async def close(self) -> None:
        """Close nothing."""


# Names and ids are blobs: SQLite's text cannot have every character of a user's id.
_COUNTS_AND_MARKS = """\
CREATE TABLE counts (
    app TEXT NOT NULL, channel BLOB NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (app, channel)
) WITHOUT ROWID;
CREATE TABLE marks (
    app TEXT NOT NULL, scope TEXT NOT NULL, epoch TEXT NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (app, scope)
) WITHOUT ROWID;
"""

_SCHEMA = f"""
BEGIN;
CREATE TABLE reported (
    app TEXT NOT NULL, about INTEGER NOT NULL, channel BLOB NOT NULL, user BLOB NOT NULL,
    scope TEXT NOT NULL, standing INTEGER NOT NULL,
    PRIMARY KEY (app, about, channel, user)
) WITHOUT ROWID;
{_COUNTS_AND_MARKS}CREATE TABLE deliveries (
    id TEXT PRIMARY KEY, receiver TEXT NOT NULL, key TEXT NOT NULL, time_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE events (
    number INTEGER PRIMARY KEY, receiver TEXT NOT NULL, stream BLOB NOT NULL, text BLOB NOT NULL,
    delivery TEXT
);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

# All data of schema 1 is used. It had no scopes, and its states are of an earlier process.
_FROM_SCHEMA_1 = f"""
BEGIN;
ALTER TABLE beliefs RENAME TO reported;
ALTER TABLE reported ADD COLUMN scope TEXT NOT NULL DEFAULT '';
ALTER TABLE reported ADD COLUMN standing INTEGER NOT NULL DEFAULT {Standing.UNCONFIRMED.value};
{_COUNTS_AND_MARKS}PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_REPORT = "INSERT OR REPLACE INTO reported VALUES (?, ?, ?, ?, ?, ?)"
_RETRACT = "DELETE FROM reported WHERE app = ? AND about = ? AND channel = ? AND user = ?"
_UNCONFIRM = "UPDATE reported SET standing = ? WHERE app = ? AND scope = ?"
_KEEP_COUNT = "INSERT OR REPLACE INTO counts VALUES (?, ?, ?)"
_DROP_COUNT = "DELETE FROM counts WHERE app = ? AND channel = ?"
_MARK = "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)"
_QUEUE = "INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, NULL)"
_DELIVER = "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?)"
_ASSIGN = "UPDATE events SET delivery = ? WHERE number = ?"
_FINISH = "DELETE FROM deliveries WHERE id = ?"
_DROP = "DELETE FROM events WHERE number = ?"
_CLEAR_APP = (
    "DELETE FROM reported WHERE app = ?",
    "DELETE FROM counts WHERE app = ?",
    "DELETE FROM marks WHERE app = ?",
)
_CLEAR_RECEIVER = (
    "DELETE FROM deliveries WHERE receiver = ?",
    "DELETE FROM events WHERE receiver = ?",
)

_CLEAR_ALL = (
    "DELETE FROM reported",
    "DELETE FROM counts",
    "DELETE FROM marks",
    "DELETE FROM deliveries",
    "DELETE FROM events",
)

_Operation = tuple[str, str, tuple[Any, ...]]
"""The app, a statement and its values."""


class SqliteStore:
    """
    A SQLite file under *directory*, which is created if it does not exist.

    One thread does all writes, in groups. If the disk fails, webhooks are still sent: data counts
    as kept, as in a MemoryStore, and all data is written again once the disk works.
    """

    def __init__(
        self, directory: str | Path, *, linger_s: float = LINGER_S, retry_s: float = RETRY_S
    ) -> None:
        self.path = Path(directory) / FILE_NAME
        self.failures = 0
        self.group = 1
        self._kept = 0
        self._linger_s = linger_s
        self._retry_s = retry_s
        # By number or, if a group needs only the last operation of a row, by the row.
        self._operations: dict[Hashable, _Operation] = {}
        self._given = 0
        self._text_bytes = 0  # of these operations
        self._writing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing: asyncio.Future[None]  # done while the disk fails
        self._failed = False
        self._renewing = False
        self._closed = False
        self._connected = False

    @property
    def lasting(self) -> bool:
        """Whether the disk works."""
        return not self._failed

    @property
    def kept(self) -> int:
        """The last group that is on disk; while the disk fails, every group counts."""
        return self.group if self._failed else self._kept

    async def open(self, on_kept: Callable[[], object], write_all: Callable[[], object]) -> Stored:
        """Open or create the file; see `Store`."""
        self._loop = asyncio.get_running_loop()
        self._on_kept = on_kept
        self._write_all = write_all
        self._failing = self._loop.create_future()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="webhooks")
        try:
            return await self._loop.run_in_executor(self._executor, self._open)
        except BaseException:
            # If the caller cancels this, the thread may still open the file; it closes it then.
            self._executor.submit(self._disconnect)
            self._executor.shutdown(wait=False)
            raise

    async def load(self, app_id: str, receivers: Iterable[str]) -> Stored:
        """Return the data of an app; see `Store`."""
        if self._failed:
            return Stored()  # the file is out of date, and will be written again
        failing = self._failing
        await self._write_given(failing)
        reading = self._loop.run_in_executor(
            self._executor, lambda: rows.read_app(self._connection, app_id, receivers)
        )
        reading.add_done_callback(_retrieve)
        either: set[asyncio.Future[Any]] = {reading, failing}
        try:
            # Wait for the failure, too: the thread may be in a write that hangs.
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                return Stored()
            stored, wrong = reading.result()
        except rows.UNREADABLE as error:
            self._fail(_on_one_line(error))
            self._retry()
            self._loop.call_soon(self._on_kept)
            return Stored()
        finally:
            reading.cancel()
        if wrong:
            logger.error("%s: app %s: unreadable rows: %d", self.path, app_id, wrong)
        return stored

    def give_up(self) -> None:
        """Count the disk as failed; see `Store`."""
        if not self._failed:
            self._fail("the disk does not respond")
            self._retry()
            self._loop.call_soon(self._on_kept)

    def abandon(self, app_id: str) -> None:
        """Drop the data of an app that is not being written; see `Store`."""
        self._operations = {
            about: one for about, one in self._operations.items() if one[0] != app_id
        }
        queued = [one[2] for one in self._operations.values() if one[1] == _QUEUE]
        self._text_bytes = sum(len(values[-1]) for values in queued)

    def mark(self, app_id: str, mark: Mark) -> None:
        """Keep a mark, the last one of a scope in a group."""
        values = (app_id, mark.scope, mark.epoch, mark.number)
        self._add(app_id, _MARK, values, ("mark", app_id, mark.scope))

    def report(self, app_id: str, state: ReportedState, scope: str, standing: Standing) -> None:
        """Keep a reported state."""
        values = (app_id, *_columns(state), scope, standing.value)
        self._add(app_id, _REPORT, values, (app_id, state))

    def retract(self, app_id: str, state: ReportedState) -> None:
        """Remove a reported state."""
        self._add(app_id, _RETRACT, (app_id, *_columns(state)), (app_id, state))

    def unconfirm(self, app_id: str, scope: str) -> None:
        """Keep all states of a scope as unconfirmed."""
        self._add(app_id, _UNCONFIRM, (Standing.UNCONFIRMED.value, app_id, scope))

    def keep_count(self, app_id: str, channel: str, count: int) -> None:
        """Keep a number."""
        self._add(app_id, _KEEP_COUNT, (app_id, _blob(channel), count), ("count", app_id, channel))

    def drop_count(self, app_id: str, channel: str) -> None:
        """Remove the number of a channel."""
        self._add(app_id, _DROP_COUNT, (app_id, _blob(channel)), ("count", app_id, channel))

    def clear(self, app_id: str, receivers: Iterable[str]) -> None:
        """Remove the data of the app and of its receivers."""
        for statement in _CLEAR_APP:
            self._add(app_id, statement, (app_id,))
        for receiver in receivers:
            for statement in _CLEAR_RECEIVER:
                self._add(app_id, statement, (receiver,))

    def queue(self, app_id: str, number: int, receiver: str, stream: str, text: bytes) -> None:
        """Keep an event."""
        self._text_bytes += len(text)
        self._add(app_id, _QUEUE, (number, receiver, _blob(stream), text))

    def deliver(self, app_id: str, delivery: StoredDelivery, numbers: Sequence[int]) -> None:
        """Keep a delivery, and the numbers of its events."""
        values = delivery.id, delivery.receiver, delivery.key, delivery.time_ms
        self._add(app_id, _DELIVER, values)
        for number in numbers:
            self._add(app_id, _ASSIGN, (delivery.id, number))

    def finish(self, app_id: str, delivery: str, numbers: Sequence[int]) -> None:
        """Remove a delivery and its events."""
        self._add(app_id, _FINISH, (delivery,))
        self.drop(app_id, numbers)

    def drop(self, app_id: str, numbers: Sequence[int]) -> None:
        """Remove events."""
        for number in numbers:
            self._add(app_id, _DROP, (number,))

    async def close(self) -> None:
        """Write all data, and close the file."""
        self._closed = True
        if self._failed and self._writing is None:
            self._renew()  # the last chance to remove data that is out of date
        while self._writing is not None or self._operations:
            self._write()
            if self._writing is not None:
                with contextlib.suppress(sqlite3.Error):  # _written logs it
                    await asyncio.shield(self._writing)
                await asyncio.sleep(0)  # _written is called
        if self._timer is not None:
            self._timer.cancel()
        await self._loop.run_in_executor(self._executor, self._disconnect)
        self._executor.shutdown(wait=False)

    # -- On the event loop ---------------------------------------------------------------

    def _add(
        self,
        app_id: str,
        statement: str,
        values: tuple[Any, ...],
        about: Hashable | None = None,
    ) -> None:
        """
        Execute *statement* with the current group.

        It replaces an earlier one *about* the same row, but is executed last: other statements of
        the group may change that row, too.
        """
        if self._failed and not self._renewing:
            return
        if about is None:
            about = self._given = self._given + 1
        self._operations.pop(about, None)
        self._operations[about] = (app_id, statement, values)
        self._write_soon()

    def _write_soon(self) -> None:
        if self._writing is None:
            if self._timer is None:
                self._timer = self._loop.call_later(self._linger_s, self._write)
        elif len(self._operations) > MAX_OPERATIONS or self._text_bytes > MAX_OPERATIONS_BYTES:
            self.give_up()

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            return
        if not self._operations and not self._renewing:
            return
        operations, self._operations = list(self._operations.values()), {}
        self._text_bytes = 0
        group, self.group = self.group, self.group + 1
        self._writing = self._loop.run_in_executor(self._executor, self._commit, operations)
        self._writing.add_done_callback(partial(self._written, group))

    async def _write_given(self, failing: asyncio.Future[None]) -> None:
        """Return when all data that was given is on disk, or the disk fails."""
        group = self.group
        self._write()
        while self._writing is not None and self._kept < group and not failing.done():
            either: set[asyncio.Future[Any]] = {self._writing, failing}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    def _written(self, group: int, writing: asyncio.Future[None]) -> None:
        self._writing = None
        renewed, self._renewing = self._renewing, False
        error = writing.exception()
        if error is not None:
            self._fail(str(error))
        elif renewed:
            self._failed = False
            self._failing = self._loop.create_future()
            logger.warning("%s is written again; pending webhooks survive a restart", self.path)
        if self._failed:
            self._forget()
            self._retry()
        else:
            self._kept = group
            self._write()  # operations given meanwhile need not wait longer
        self._on_kept()

    def _retry(self) -> None:
        if not self._closed and self._writing is None:  # else called at its end
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(self._retry_s, self._renew)

    def _fail(self, reason: str) -> None:
        self.failures += 1
        if not self._failed:
            logger.error(
                "%s cannot be written: %s; webhooks are still sent, but until writing succeeds"
                " again, a restart loses the pending ones",
                self.path,
                reason,
            )
        self._failed = True
        if not self._failing.done():
            self._failing.set_result(None)
        self._forget()

    def _forget(self) -> None:
        self._operations.clear()
        self._text_bytes = 0

    def _renew(self) -> None:
        """
        Write all data again, because the file is out of date.

        All old rows are removed, because memory has no record of the data that was removed
        meanwhile. No other process uses the file.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._renewing = True
        for statement in _CLEAR_ALL:
            self._add("", statement, ())
        self._write_all()
        self._write()

    # -- In the thread -------------------------------------------------------------------

    def _open(self) -> Stored:
        recovered = self.path.with_name(FILE_NAME + RECOVERED)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if recovered.exists() and not self.path.exists():
                recovered.rename(self.path)  # it was complete when the process was killed
            recovered.unlink(missing_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            stored, damage = self._connect()
            return stored if damage is None else self._recover(damage, recovered)
        except OSError as error:
            raise ConfigError(f"--data_dir: {self.path}: {error.strerror}") from None
        except rows.UNREADABLE as error:
            raise ConfigError(f"--data_dir: {self.path}: {_advice(error)}") from None

    def _connect(self) -> tuple[Stored, str | None]:
        """Return the data of the file and, if not all of it is valid, the reason."""
        self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=1.0)
        try:
            self._prepare()
            stored, wrong = rows.read(self._connection)
        except rows.UNREADABLE as error:
            self._connection.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in NOT_THE_FILE:
                raise
            return Stored(), _on_one_line(error)
        except BaseException:
            self._connection.close()
            raise
        if wrong:
            self._connection.close()
            return stored, f"invalid rows: {wrong}"
        self._connected = True
        return stored, None

    def _prepare(self) -> None:
        connection = self._connection
        rows.prepare(connection)
        # Locked until the process ends: two servers on one file would send everything twice.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL, because a group of writes costs one fsync, and there are few groups a second. With
        # NORMAL, the state that was reported to receivers could be lost by a power failure.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE").execute("COMMIT")  # takes the lock
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(_SCHEMA)
        elif version > SCHEMA_VERSION:
            raise ConfigError(
                f"--data_dir: {self.path} was written by a newer version of Heliograph (schema"
                f" {version}; this version reads {SCHEMA_VERSION}); run that version, or move the"
                " file away (the webhooks in it are then not sent)"
            )
        elif version < 0:
            raise sqlite3.DatabaseError(f"schema {version}")
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        if version == 1:
            connection.executescript(_FROM_SCHEMA_1)

    def _recover(self, damage: str, recovered: Path) -> Stored:
        """
        Continue with a new file that has the readable rows of this one, which is renamed.

        If the process is killed at any moment, the next start finds one of the two files.
        """
        stored, wrong = self._read_damaged()
        try:
            _write_anew(recovered, stored)
        except rows.UNREADABLE:
            recovered.unlink(missing_ok=True)
            raise
        aside = self._put_aside()
        recovered.rename(self.path)
        logger.error(
            "%s is damaged (%s); recovered events: %d, deliveries: %d, reported states: %d;"
            " unreadable rows: %d; the damaged file is now %s",
            self.path,
            damage,
            len(stored.events),
            len(stored.deliveries),
            len(stored.states),
            wrong,
            aside.name,
        )
        stored, again = self._connect()
        if again is not None:
            raise sqlite3.DatabaseError(again)
        return stored

    def _read_damaged(self) -> tuple[Stored, int]:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=1.0)
        try:
            rows.prepare(connection)
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # Without this, SQLite reads nothing of a truncated file.
            connection.execute("PRAGMA writable_schema = ON")
            return rows.read_damaged(connection)
        finally:
            connection.close()

    def _put_aside(self) -> Path:
        names = (self.path.with_name(f"{FILE_NAME}.damaged-{number}") for number in count(1))
        aside = next(name for name in names if not name.exists())
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):  # they belong to that file, and would damage the new one
            beside = self.path.with_name(FILE_NAME + suffix)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + suffix))
        return aside

    def _commit(self, operations: Iterable[_Operation]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for _, statement, values in operations:
                connection.execute(statement, values)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # some errors have ended it already
                connection.execute("ROLLBACK")
            raise

    def _disconnect(self) -> None:
        if not self._connected:
            return
        with contextlib.suppress(sqlite3.Error):  # a failed write was logged before
            self._connection.close()


def _write_anew(path: Path, stored: Stored) -> None:
    """Create a file with *stored*; it is complete, and on disk, when this returns."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN")
        for app_id, state, scope, standing in stored.states:
            connection.execute(_REPORT, (app_id, *_columns(state), scope, standing.value))
        for app_id, channel, count in stored.counts:
            connection.execute(_KEEP_COUNT, (app_id, _blob(channel), count))
        for app_id, mark in stored.marks:
            connection.execute(_MARK, (app_id, mark.scope, mark.epoch, mark.number))
        for one in stored.deliveries:
            connection.execute(_DELIVER, (one.id, one.receiver, one.key, one.time_ms))
        for event in stored.events:
            stream = _blob(event.stream)
            connection.execute(_QUEUE, (event.number, event.receiver, stream, event.text))
            if event.delivery is not None:
                connection.execute(_ASSIGN, (event.delivery, event.number))
        connection.execute("COMMIT")
    finally:
        connection.close()


def _retrieve(reading: asyncio.Future[Any]) -> None:
    """Retrieve an error without a waiting task: the failure of the disk is logged already."""
    if not reading.cancelled():
        reading.exception()


def _advice(error: Exception) -> str:
    """Return advice for the operator about a file that cannot be opened."""
    if "locked" in str(error):
        return "another server uses this file; give each server its own directory"
    return _on_one_line(error)


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _columns(state: ReportedState) -> tuple[int, bytes, bytes]:
    return state.about, _blob(state.channel), _blob(state.user_id)


def _blob(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
