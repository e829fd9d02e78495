"""
What must outlive the server: what receivers have been told, and what they are still owed.

Knows rows, not what they mean. What was given to a store is *kept* once `kept` has reached the
`group` that was current then; nothing may be sent before. The file never holds a secret of an
app, but it does hold events, so only its owner may read it.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from heliograph.errors import ConfigError
from heliograph.webhooks import rows
from heliograph.webhooks.beliefs import Belief
from heliograph.webhooks.rows import Kept

logger = logging.getLogger(__name__)

FILE_NAME = "webhooks.sqlite3"

SCHEMA_VERSION = 1

# A grouped write must be over within 50 ms: this is how long it waits for company.
LINGER_S = 0.02

RECOVERED = ".recovered"
"""What is added to the name of the file that takes the place of a damaged one."""

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
"""Errors for which a file is not to blame: the disk, its rights, another server."""

RETRY_S = 5.0
"""How long to leave a disk alone that failed us."""

MAX_OPERATIONS = 400_000
MAX_OPERATIONS_BYTES = 64 << 20
"""Operations that may wait for a disk that hangs before it counts as failed, and their texts."""


class Store(Protocol):
    """What webhooks ask of a place that keeps things."""

    failures: int
    """How often something could not be kept."""

    @property
    def lasting(self) -> bool:
        """Whether what is given to it now outlives the process."""

    @property
    def group(self) -> int:
        """The group that what is given now belongs to."""

    @property
    def kept(self) -> int:
        """The last group that is kept."""

    async def open(self, on_kept: Callable[[], object], tell_all: Callable[[], object]) -> Kept:
        """
        Return what was kept; from now on call *on_kept* whenever `kept` has grown.

        *tell_all* is asked to give everything anew, to a store that lost track. Raises
        ConfigError, which says what to do.
        """

    def believe(self, app_id: str, belief: Belief) -> None:
        """Receivers of the app are about to be told this."""

    def disbelieve(self, app_id: str, belief: Belief) -> None:
        """Receivers of the app are about to be told the end of this."""

    def disbelieve_all(self, app_id: str) -> None:
        """The app has no receivers any longer."""

    def queue(self, number: int, receiver: str, stream: str, text: bytes) -> None:
        """A receiver is owed an event."""

    def deliver(
        self, delivery: str, receiver: str, key: str, time_ms: int, numbers: Sequence[int]
    ) -> None:
        """The events of these numbers make up a delivery."""

    def finish(self, delivery: str, numbers: Sequence[int]) -> None:
        """A delivery, of the events of these numbers, is done with."""

    def drop(self, numbers: Sequence[int]) -> None:
        """The events of these numbers are not owed any longer."""

    async def close(self) -> None:
        """Keep what was given, and let go of the file."""


class MemoryStore:
    """Keeps nothing; everything counts as kept at once."""

    lasting = False
    group = 0
    kept = 0

    def __init__(self) -> None:
        self.failures = 0

    async def open(self, on_kept: Callable[[], object], tell_all: Callable[[], object]) -> Kept:  # noqa: ARG002 - the port's
        """Return nothing, for nothing was kept."""
        return Kept()

    def believe(self, app_id: str, belief: Belief) -> None:
        """Keep nothing."""

    def disbelieve(self, app_id: str, belief: Belief) -> None:
        """Keep nothing."""

    def disbelieve_all(self, app_id: str) -> None:
        """Keep nothing."""

    def queue(self, number: int, receiver: str, stream: str, text: bytes) -> None:
        """Keep nothing."""

    def deliver(
        self, delivery: str, receiver: str, key: str, time_ms: int, numbers: Sequence[int]
    ) -> None:
        """Keep nothing."""

    def finish(self, delivery: str, numbers: Sequence[int]) -> None:
        """Keep nothing."""

    def drop(self, numbers: Sequence[int]) -> None:
        """Keep nothing."""

    async def close(self) -> None:
        """Let go of nothing."""


# Names and ids are blobs: a user's id may hold what SQLite's text cannot.
_SCHEMA = f"""
BEGIN;
CREATE TABLE beliefs (
    app TEXT NOT NULL, about INTEGER NOT NULL, channel BLOB NOT NULL, user BLOB NOT NULL,
    PRIMARY KEY (app, about, channel, user)
) WITHOUT ROWID;
CREATE TABLE deliveries (
    id TEXT PRIMARY KEY, receiver TEXT NOT NULL, key TEXT NOT NULL, time_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE events (
    number INTEGER PRIMARY KEY, receiver TEXT NOT NULL, stream BLOB NOT NULL, text BLOB NOT NULL,
    delivery TEXT
);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_BELIEVE = "INSERT OR REPLACE INTO beliefs VALUES (?, ?, ?, ?)"
_DISBELIEVE = "DELETE FROM beliefs WHERE app = ? AND about = ? AND channel = ? AND user = ?"
_DISBELIEVE_ALL = "DELETE FROM beliefs WHERE app = ?"
_QUEUE = "INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, NULL)"
_DELIVER = "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?)"
_ASSIGN = "UPDATE events SET delivery = ? WHERE number = ?"
_FINISH = "DELETE FROM deliveries WHERE id = ?"
_DROP = "DELETE FROM events WHERE number = ?"
_WIPE = ("DELETE FROM beliefs", "DELETE FROM deliveries", "DELETE FROM events")

_Operation = tuple[str, tuple[Any, ...]]


class SqliteStore:
    """
    A SQLite file under *directory*, which is made where it does not exist.

    One thread does all of the writing, in groups. A disk that fails does not stop anything: what
    is given meanwhile counts as kept, as in memory, and the whole is written anew once the disk
    is well again.
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
        self._operations: list[_Operation] = []
        self._text_bytes = 0  # of those
        self._writing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False
        self._renewing = False
        self._closed = False

    @property
    def lasting(self) -> bool:
        """Whether the disk does what a disk should."""
        return not self._failed

    @property
    def kept(self) -> int:
        """The last group that is on disk, or any while the disk fails."""
        return self.group if self._failed else self._kept

    async def open(self, on_kept: Callable[[], object], tell_all: Callable[[], object]) -> Kept:
        """Open or make the file; see the port."""
        self._loop = asyncio.get_running_loop()
        self._on_kept = on_kept
        self._tell_all = tell_all
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="webhooks")
        try:
            return await self._loop.run_in_executor(self._executor, self._open)
        except BaseException:
            self._executor.shutdown(wait=False)
            raise

    def believe(self, app_id: str, belief: Belief) -> None:
        """Keep a belief."""
        self._add(_BELIEVE, (app_id, *_columns(belief)))

    def disbelieve(self, app_id: str, belief: Belief) -> None:
        """Keep a belief no longer."""
        self._add(_DISBELIEVE, (app_id, *_columns(belief)))

    def disbelieve_all(self, app_id: str) -> None:
        """Keep no belief of the app any longer."""
        self._add(_DISBELIEVE_ALL, (app_id,))

    def queue(self, number: int, receiver: str, stream: str, text: bytes) -> None:
        """Keep an event."""
        self._text_bytes += len(text)
        self._add(_QUEUE, (number, receiver, _blob(stream), text))

    def deliver(
        self, delivery: str, receiver: str, key: str, time_ms: int, numbers: Sequence[int]
    ) -> None:
        """Keep a delivery, and which events it is made of."""
        self._add(_DELIVER, (delivery, receiver, key, time_ms))
        for number in numbers:
            self._add(_ASSIGN, (delivery, number))

    def finish(self, delivery: str, numbers: Sequence[int]) -> None:
        """Keep a delivery and its events no longer."""
        self._add(_FINISH, (delivery,))
        self.drop(numbers)

    def drop(self, numbers: Sequence[int]) -> None:
        """Keep events no longer."""
        for number in numbers:
            self._add(_DROP, (number,))

    async def close(self) -> None:
        """Write what is to be written, and let go of the file."""
        self._closed = True
        if self._failed and self._writing is None:
            self._renew()  # the last chance to take out what is not true any longer
        while self._writing is not None or self._operations:
            self._write()
            if self._writing is not None:
                with contextlib.suppress(sqlite3.Error):  # _written says so
                    await asyncio.shield(self._writing)
                await asyncio.sleep(0)  # _written is called
        if self._timer is not None:
            self._timer.cancel()
        await self._loop.run_in_executor(self._executor, self._disconnect)
        self._executor.shutdown(wait=False)

    # -- On the event loop ---------------------------------------------------------------

    def _add(self, statement: str, values: tuple[Any, ...]) -> None:
        if self._failed and not self._renewing:
            return
        self._operations.append((statement, values))
        if self._writing is None:
            if self._timer is None:
                self._timer = self._loop.call_later(self._linger_s, self._write)
        elif len(self._operations) > MAX_OPERATIONS or self._text_bytes > MAX_OPERATIONS_BYTES:
            self._fail("the disk does not respond")
            self._loop.call_soon(self._on_kept)

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None or not self._operations:
            return
        operations, self._operations = self._operations, []
        self._text_bytes = 0
        group, self.group = self.group, self.group + 1
        self._writing = self._loop.run_in_executor(self._executor, self._commit, operations)
        self._writing.add_done_callback(partial(self._written, group))

    def _written(self, group: int, writing: asyncio.Future[None]) -> None:
        self._writing = None
        renewed, self._renewing = self._renewing, False
        error = writing.exception()
        if error is not None:
            self._fail(str(error))
        elif renewed:
            self._failed = False
            logger.warning("%s is written again; pending webhooks survive a restart", self.path)
        if self._failed:
            self._forget()
            if not self._closed:
                self._timer = self._loop.call_later(self._retry_s, self._renew)
        else:
            self._kept = group
            self._write()  # what came meanwhile has waited long enough
        self._on_kept()

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
        self._forget()

    def _forget(self) -> None:
        self._operations.clear()
        self._text_bytes = 0

    def _renew(self) -> None:
        """Have everything written anew: what the file holds is of another time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._renewing = True
        self._operations = [(statement, ()) for statement in _WIPE]
        self._tell_all()
        self._write()

    # -- In the thread -------------------------------------------------------------------

    def _open(self) -> Kept:
        recovered = self.path.with_name(FILE_NAME + RECOVERED)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if recovered.exists() and not self.path.exists():
                recovered.rename(self.path)  # it was ready when we were killed
            recovered.unlink(missing_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            kept, damage = self._connect()
            return kept if damage is None else self._recover(damage, recovered)
        except OSError as error:
            raise ConfigError(f"--data_dir: {self.path}: {error.strerror}") from None
        except rows.UNREADABLE as error:
            raise ConfigError(f"--data_dir: {self.path}: {_advice(error)}") from None

    def _connect(self) -> tuple[Kept, str | None]:
        """Return what the file keeps and, if not all of it can be used, what is wrong with it."""
        self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=1.0)
        try:
            self._prepare()
            kept, wrong = rows.read(self._connection)
        except rows.UNREADABLE as error:
            self._connection.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in NOT_THE_FILE:
                raise
            return Kept(), _on_one_line(error)
        except BaseException:
            self._connection.close()
            raise
        if wrong:
            self._connection.close()
            return kept, f"invalid rows: {wrong}"
        return kept, None

    def _prepare(self) -> None:
        connection = self._connection
        rows.prepare(connection)
        # Held until we end: two servers on one file would send everything twice.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL, for a group of writes costs one fsync and there are few groups a second: with
        # NORMAL, a power cut would forget what receivers have been told.
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

    def _recover(self, damage: str, recovered: Path) -> Kept:
        """
        Go on with a new file that keeps what can be read of this one, which is put aside.

        Killed at any moment, the next start finds one of the two.
        """
        kept, wrong = self._read_damaged()
        try:
            _write_anew(recovered, kept)
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
            len(kept.events),
            len(kept.deliveries),
            len(kept.beliefs),
            wrong,
            aside.name,
        )
        kept, again = self._connect()
        if again is not None:
            raise sqlite3.DatabaseError(again)
        return kept

    def _read_damaged(self) -> tuple[Kept, int]:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=1.0)
        try:
            rows.prepare(connection)
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # Without this, nothing is read of a file that is shorter than it once was.
            connection.execute("PRAGMA writable_schema = ON")
            return rows.read_damaged(connection)
        finally:
            connection.close()

    def _put_aside(self) -> Path:
        names = (self.path.with_name(f"{FILE_NAME}.damaged-{number}") for number in count(1))
        aside = next(name for name in names if not name.exists())
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):  # they are of that file, and would spoil the new one
            beside = self.path.with_name(FILE_NAME + suffix)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + suffix))
        return aside

    def _commit(self, operations: Iterable[_Operation]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in operations:
                connection.execute(statement, values)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # some errors have ended it already
                connection.execute("ROLLBACK")
            raise

    def _disconnect(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # what could not be written was said before
            self._connection.close()


def _write_anew(path: Path, kept: Kept) -> None:
    """Make a file that keeps *kept*; it is whole, and on disk, when this returns."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN")
        for app_id, belief in kept.beliefs:
            connection.execute(_BELIEVE, (app_id, *_columns(belief)))
        for one in kept.deliveries:
            connection.execute(_DELIVER, (one.id, one.receiver, one.key, one.time_ms))
        for event in kept.events:
            stream = _blob(event.stream)
            connection.execute(_QUEUE, (event.number, event.receiver, stream, event.text))
            if event.delivery is not None:
                connection.execute(_ASSIGN, (event.delivery, event.number))
        connection.execute("COMMIT")
    finally:
        connection.close()


def _advice(error: Exception) -> str:
    """Say what an operator can do about a file that cannot be opened."""
    if "locked" in str(error):
        return "another server uses this file; give each server its own directory"
    return _on_one_line(error)


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _columns(belief: Belief) -> tuple[int, bytes, bytes]:
    return belief.about, _blob(belief.channel), _blob(belief.user_id)


def _blob(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
