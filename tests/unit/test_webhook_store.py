"""What a store keeps, and what it says of files it cannot use."""

import asyncio
import re
import sqlite3
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.errors import ConfigError
from heliograph.webhooks.beliefs import CHANNEL, MEMBER, USER, Belief
from heliograph.webhooks.rows import MAX_NAME_BYTES, Kept, KeptDelivery, KeptEvent
from heliograph.webhooks.store import FILE_NAME, RECOVERED, SqliteStore


def nothing() -> None:
    """What is told to a store that nobody waits for."""


async def opened(directory: Path) -> tuple[SqliteStore, Kept]:
    store = SqliteStore(directory, linger_s=0.0, retry_s=0.0)
    return store, await store.open(nothing, nothing)


async def kept_in(directory: Path) -> Kept:
    store, kept = await opened(directory)
    await store.close()
    return kept


async def test_what_was_given_is_there_in_the_next_life(tmp_path: Path) -> None:
    store, kept = await opened(tmp_path / "made" / "for us")
    assert kept == Kept()
    beliefs = [
        Belief(CHANNEL, "c", ""),
        Belief(MEMBER, "c", "\ud800\x00é"),
        Belief(USER, "", "7"),
    ]
    for belief in beliefs:
        store.believe("3", belief)
        store.believe("3", belief)
    store.disbelieve("3", Belief(CHANNEL, "never", ""))
    store.believe("3", Belief(CHANNEL, "gone", ""))
    store.disbelieve("3", Belief(CHANNEL, "gone", ""))
    for number in (1, 2, 3, 4):
        store.queue(number, "receiver", "c", b'{"n":%d}' % number)
    store.deliver("d1", "receiver", "key", 5, [1])
    store.deliver("d2", "receiver", "key", 6, [2])
    store.finish("d1", [1])
    store.drop([3])
    await store.close()

    kept = await kept_in(tmp_path / "made" / "for us")
    assert sorted(kept.beliefs) == sorted(("3", belief) for belief in beliefs)
    assert kept.events == [
        KeptEvent(2, "receiver", "c", b'{"n":2}', "d2"),
        KeptEvent(4, "receiver", "c", b'{"n":4}', None),
    ]
    assert kept.deliveries == [KeptDelivery("d2", "receiver", "key", 6)]


async def test_all_that_one_app_believed_is_kept_no_longer(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    first, second = Belief(CHANNEL, "c", ""), Belief(USER, "", "7")
    for app_id in ("3", "33"):
        store.believe(app_id, first)
        store.believe(app_id, second)
    store.disbelieve_all("3")
    store.believe("3", second)  # it is back
    await store.close()
    kept = await kept_in(tmp_path)
    assert sorted(kept.beliefs) == [("3", second), ("33", first), ("33", second)]


async def test_a_group_counts_as_kept_when_it_is_on_disk(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, linger_s=0.0)
    kept = asyncio.Event()
    await store.open(kept.set, nothing)
    store.believe("3", Belief(CHANNEL, "c", ""))
    group = store.group
    assert store.kept < group
    await kept.wait()
    assert store.kept == group
    # Read as whoever comes after a kill -9 would: from a copy, for the file is ours.
    for name in (FILE_NAME, FILE_NAME + "-wal"):
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_bytes((tmp_path / name).read_bytes())
    assert (await kept_in(tmp_path / "copy")).beliefs == [("3", Belief(CHANNEL, "c", ""))]
    await store.close()


async def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    await kept_in(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def content_of(path: Path) -> bytearray:
    return bytearray(path.read_bytes())


def only_problem(caplog: pytest.LogCaptureFixture) -> str:
    """The one line of the log, which is one line."""
    (record,) = caplog.records
    assert record.exc_info is None
    message = record.getMessage()
    assert "\n" not in message
    return message


async def filled(directory: Path, events: int = 500) -> None:
    store, _ = await opened(directory)
    store.believe("3", Belief(CHANNEL, "c", ""))
    for number in range(1, events + 1):
        store.queue(number, "receiver", f"c{number}", b'{"number":"<%d>"}' % number + b" " * 400)
    store.deliver("d1", "receiver", "key", 5, [1, 2])
    store.deliver("d2", "receiver", "key", 6, [events])
    await store.close()


async def test_what_is_no_database_is_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the server starts; a second time, the first one is not overwritten."""
    for number in (1, 2):
        caplog.clear()
        (tmp_path / FILE_NAME).write_bytes(b"no database at all %d" % number * 100)
        assert await kept_in(tmp_path) == Kept()
        assert only_problem(caplog) == (
            f"{tmp_path / FILE_NAME} is damaged (file is not a database); recovered events: 0,"
            " deliveries: 0, reported states: 0; unreadable rows: 0; the damaged file is now"
            f" webhooks.sqlite3.damaged-{number}"
        )
    caplog.clear()
    assert await kept_in(tmp_path) == Kept()
    assert not caplog.records
    for number in (1, 2):
        aside = tmp_path / f"{FILE_NAME}.damaged-{number}"
        assert aside.read_bytes() == b"no database at all %d" % number * 100


@pytest.mark.parametrize("pages", [{10}, {9, 10, 25, 40}], ids=["one", "four"])
async def test_of_a_file_with_holes_the_rest_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pages: set[int]
) -> None:
    await filled(tmp_path)
    path = tmp_path / FILE_NAME
    content = content_of(path)
    damaged: set[int] = set()
    for page in pages:
        hole = slice(page * 4096, (page + 1) * 4096)
        damaged |= {int(one) for one in re.findall(rb"<(\d+)>", content[hole])}
        content[hole] = b"\xff" * 4096
    assert 5 * len(pages) < len(damaged) < 15 * len(pages)
    path.write_bytes(content)
    kept = await kept_in(tmp_path)
    whole = {event.number for event in kept.events}
    assert whole == set(range(1, 501)) - damaged
    assert [one.delivery for one in kept.events if one.delivery] == ["d1", "d1", "d2"]
    assert [one.id for one in kept.deliveries] == ["d1", "d2"]
    assert kept.beliefs == [("3", Belief(CHANNEL, "c", ""))]
    assert f"recovered events: {len(whole)}, deliveries: 2, reported states: 1;" in only_problem(
        caplog
    )
    assert path.with_name(FILE_NAME + ".damaged-1").read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    caplog.clear()
    assert await kept_in(tmp_path) == kept
    assert not caplog.records


async def test_a_message_of_sqlites_that_is_no_utf8_is_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It repeats the name of a table that it cannot make out."""
    await filled(tmp_path)
    path = tmp_path / FILE_NAME
    content = content_of(path)
    path.write_bytes(
        content.replace(b"tablebeliefs", b"table\x90\x90liefs").replace(b"CREATE", b"XREATE")
    )
    await kept_in(tmp_path)
    assert "is damaged (" in only_problem(caplog)


@pytest.mark.parametrize("part", [0.9, 0.6, 0.3])
async def test_of_a_truncated_file_what_is_left_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, part: float
) -> None:
    await filled(tmp_path)
    path = tmp_path / FILE_NAME
    content = content_of(path)
    del content[int(len(content) * part) :]
    # Pages are whole or not there; the first ones of the file hold what points to all others.
    left = {
        int(one)
        for page in range(1, len(content) // 4096)
        for one in re.findall(rb"<(\d+)>", content[page * 4096 : (page + 1) * 4096])
    }
    path.write_bytes(content)
    kept = {event.number for event in (await kept_in(tmp_path)).events}
    assert len(left) > 500 * part * 0.8
    assert left <= kept
    assert f"recovered events: {len(kept)}," in only_problem(caplog)


async def test_a_file_that_is_cut_to_nothing_is_a_new_one(tmp_path: Path) -> None:
    await filled(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"")
    assert await kept_in(tmp_path) == Kept()


@pytest.mark.parametrize("renamed", [False, True])
async def test_a_server_that_is_killed_while_it_recovers_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    """Before the damaged file was put aside, and after."""
    await filled(tmp_path)
    path = tmp_path / FILE_NAME
    connection = sqlite3.connect(path)
    connection.execute("UPDATE events SET text = 5 WHERE number = 3")
    connection.commit()
    connection.close()

    class Killed(Exception):
        pass

    put_aside = SqliteStore._put_aside

    def die(store: SqliteStore) -> Path:
        if renamed:
            put_aside(store)
        raise Killed

    monkeypatch.setattr(SqliteStore, "_put_aside", die)
    with pytest.raises(Killed):
        await opened(tmp_path)
    monkeypatch.undo()
    assert path.exists() is not renamed
    kept = await kept_in(tmp_path)
    assert [event.number for event in kept.events] == [1, 2, *range(4, 501)]
    assert len(kept.deliveries) == 2
    assert not path.with_name(FILE_NAME + RECOVERED).exists()


HUGE = b"x" * (MAX_NAME_BYTES + 1)


@pytest.mark.parametrize(
    ("statement", "values", "beliefs", "events", "deliveries"),
    [
        ("UPDATE events SET text = ? WHERE number = 2", (5,), 3, 3, 2),
        ("UPDATE events SET text = ? WHERE number = 2", (1.5,), 3, 3, 2),
        ("UPDATE events SET receiver = ? WHERE number = 2", (b"receiver",), 3, 3, 2),
        ("UPDATE events SET receiver = ? WHERE number = 2", ("",), 3, 3, 2),
        ("UPDATE events SET receiver = CAST(? AS TEXT) WHERE number = 2", (b"\xff",), 3, 3, 2),
        ("UPDATE events SET number = ? WHERE number = 2", (0,), 3, 3, 2),
        ("UPDATE events SET number = ? WHERE number = 2", (-5,), 3, 3, 2),
        ("UPDATE events SET number = ? WHERE number = 2", (2**63 - 1,), 3, 3, 2),
        ("UPDATE beliefs SET about = ? WHERE about = 0", (3,), 2, 4, 2),
        ("UPDATE beliefs SET about = ? WHERE about = 0", (-1,), 2, 4, 2),
        ("UPDATE beliefs SET about = ? WHERE about = 0", ("x",), 2, 4, 2),
        ("UPDATE beliefs SET about = ? WHERE about = 0", (0.5,), 2, 4, 2),
        ("UPDATE beliefs SET app = ? WHERE about = 0", (b"3",), 2, 4, 2),
        ("UPDATE beliefs SET channel = ? WHERE about = 0", (b"\xff",), 2, 4, 2),
        ("UPDATE beliefs SET channel = ? WHERE about = 0", (b"",), 2, 4, 2),
        ("UPDATE beliefs SET channel = ? WHERE about = 0", (5,), 2, 4, 2),
        ("UPDATE beliefs SET channel = ? WHERE about = 0", (HUGE,), 2, 4, 2),
        ("UPDATE beliefs SET user = ? WHERE about = 0", (b"7",), 2, 4, 2),
        ("UPDATE beliefs SET channel = ? WHERE about = 2", (b"c",), 2, 4, 2),
        ("UPDATE deliveries SET time_ms = ? WHERE id = 'd1'", ("soon",), 3, 4, 1),
        ("UPDATE deliveries SET time_ms = ? WHERE id = 'd1'", (-1,), 3, 4, 1),
        ("UPDATE deliveries SET id = ? WHERE id = 'd1'", ("d\r\nX-Mine: 1",), 3, 4, 1),
        ("UPDATE deliveries SET id = ? WHERE id = 'd1'", (b"d1",), 3, 4, 1),
        ("UPDATE deliveries SET key = ? WHERE id = 'd1'", (b"key",), 3, 4, 1),
        (
            "UPDATE deliveries SET receiver = ? WHERE id = 'd1'",
            ("x" * (MAX_NAME_BYTES + 1),),
            3,
            4,
            1,
        ),
    ],
)
async def test_a_row_that_is_wrong_is_left_out_and_the_others_are_kept(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    statement: str,
    values: tuple[object, ...],
    beliefs: int,
    events: int,
    deliveries: int,
) -> None:
    store, _ = await opened(tmp_path)
    for belief in (Belief(CHANNEL, "c", ""), Belief(MEMBER, "c", "7"), Belief(USER, "", "7")):
        store.believe("3", belief)
    for number in (1, 2, 3, 4):
        store.queue(number, "receiver", "c", b"{}")
    store.deliver("d1", "receiver", "key", 5, [1])
    store.deliver("d2", "receiver", "key", 5, [3])
    await store.close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute(statement, values).rowcount == 1
    connection.commit()
    connection.close()

    kept = await kept_in(tmp_path)
    assert (len(kept.beliefs), len(kept.events), len(kept.deliveries)) == (
        beliefs,
        events,
        deliveries,
    )
    line = only_problem(caplog)
    assert "is damaged (invalid rows: 1)" in line
    assert "unreadable rows: 1;" in line
    caplog.clear()
    assert await kept_in(tmp_path) == kept
    assert not caplog.records


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE events SET stream = ?", (5,)),
        ("UPDATE events SET stream = ?", (b"\xff",)),
        ("UPDATE events SET delivery = ?", ("unknown",)),
        ("UPDATE events SET delivery = ?", (b"d1",)),
        ("UPDATE events SET text = ?", ("{}",)),
        ("UPDATE events SET text = CAST(text AS TEXT), stream = CAST(stream AS TEXT)", ()),
    ],
)
async def test_what_can_be_sent_all_the_same_is_kept(
    tmp_path: Path, statement: str, values: tuple[object, ...]
) -> None:
    store, _ = await opened(tmp_path)
    store.queue(1, "receiver", "c", b"{}")
    await store.close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute(statement, values)
    connection.commit()
    connection.close()
    (event,) = (await kept_in(tmp_path)).events
    assert (event.number, event.receiver, event.text) == (1, "receiver", b"{}")


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version = 0",
        "PRAGMA user_version = -1",
        "DROP TABLE beliefs",
        "ALTER TABLE beliefs DROP COLUMN user",
    ],
)
async def test_of_a_file_of_another_shape_what_is_right_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    store, _ = await opened(tmp_path)
    store.queue(1, "receiver", "c", b"{}")
    await store.close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    if "COLUMN" in statement:
        connection.execute("DROP TABLE beliefs")
        connection.execute("CREATE TABLE beliefs (app, about, channel)")
    else:
        connection.execute(statement)
    connection.commit()
    connection.close()
    assert [event.number for event in (await kept_in(tmp_path)).events] == [1]
    assert "is damaged (" in only_problem(caplog)


spans = st.lists(
    st.tuples(st.floats(0, 1), st.integers(1, 3000), st.sampled_from([b"\0", b"\xff", b"", b"7"])),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A file as `kill -9` leaves it: some of it is in the log that SQLite writes ahead."""
    directory = tmp_path_factory.mktemp("template")

    async def write() -> tuple[bytes, bytes]:
        await filled(directory, 100)
        written = asyncio.Event()
        store = SqliteStore(directory, linger_s=0.0)
        await store.open(written.set, nothing)
        for number in range(101, 151):
            store.queue(number, "receiver", "c", b'{"number":"<%d>"}' % number)
        await written.wait()
        path = directory / FILE_NAME
        found = path.read_bytes(), path.with_name(FILE_NAME + "-wal").read_bytes()
        await store.close()
        return found

    return asyncio.run(write())


@settings(deadline=None, max_examples=50)  # it is about files
@given(spans, spans, st.booleans())
def test_whatever_bytes_of_a_file_are_damaged_the_server_starts_or_says_why(
    template: tuple[bytes, bytes],
    damage: list[tuple[float, int, bytes]],
    damage_of_log: list[tuple[float, int, bytes]],
    both: bool,
) -> None:
    """In one line; and what is kept then is sound."""
    with TemporaryDirectory() as name:
        path = Path(name) / FILE_NAME
        path.write_bytes(damaged(template[0], damage))
        log = damaged(template[1], damage_of_log) if both else template[1]
        path.with_name(FILE_NAME + "-wal").write_bytes(log)
        try:
            kept = asyncio.run(kept_in(Path(name)))
        except ConfigError as error:
            assert str(error).startswith(f"--data_dir: {path}: ")  # noqa: PT017 - either will do
            assert "\n" not in str(error)  # noqa: PT017 - as above
            return
        assert asyncio.run(kept_in(Path(name))) == kept
        numbers = [event.number for event in kept.events]
        assert numbers == sorted(set(numbers))


def damaged(content: bytes, damage: list[tuple[float, int, bytes]]) -> bytes:
    found = bytearray(content)
    for where, length, byte in damage:
        start = int(where * len(found))
        found[start : start + length] = byte * min(length, len(found) - start)
    return bytes(found)


async def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    await kept_in(tmp_path)
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(
        ConfigError, match=r"newer version of Heliograph \(schema 2; this version reads 1\)"
    ):
        await opened(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before


async def test_two_servers_cannot_share_a_file(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    with pytest.raises(ConfigError, match="another server uses this file"):
        await opened(tmp_path)
    await store.close()
    await kept_in(tmp_path)


async def test_a_directory_that_is_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--data_dir: .*webhooks\.sqlite3: "):
        await opened(tmp_path / "file")


async def test_a_full_disk_stops_nothing_and_heals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was given meanwhile counts as kept; once there is room, the truth is written anew."""
    truth = [Belief(CHANNEL, "true", "")]
    changed = asyncio.Event()

    def tell_all() -> None:
        for belief in truth:
            store.believe("3", belief)

    async def until(*, lasting: bool) -> None:
        while store.lasting is not lasting:
            await changed.wait()
            changed.clear()

    store = SqliteStore(tmp_path, linger_s=0.0, retry_s=0.0)
    await store.open(changed.set, tell_all)
    store.believe("3", Belief(CHANNEL, "stale", ""))
    await changed.wait()
    limit_pages(store, 20)
    store.queue(1, "receiver", "c", b"x" * 1_000_000)
    await until(lasting=False)
    store.believe("3", Belief(CHANNEL, "lost", ""))
    assert store.kept >= store.group
    assert store.failures >= 1

    limit_pages(store, 100_000)
    await until(lasting=True)
    store.believe("3", Belief(CHANNEL, "after", ""))
    await store.close()
    assert [belief.channel for _, belief in (await kept_in(tmp_path)).beliefs] == ["after", "true"]
    problems = [record.getMessage() for record in caplog.records]
    assert len(problems) == 2
    assert "database or disk is full; webhooks are still sent" in problems[0]
    assert "is written again" in problems[1]


def limit_pages(store: SqliteStore, pages: int) -> None:
    """Make the disk as small, in the thread that the file belongs to."""
    store._executor.submit(
        lambda: store._connection.execute(f"PRAGMA max_page_count = {pages}")
    ).result()


async def test_a_disk_that_is_full_to_the_end_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    store.believe("3", Belief(CHANNEL, "c", ""))
    store._write()
    limit_pages(store, 20)
    store.queue(1, "receiver", "c", b"x" * 1_000_000)
    await store.close()
    assert not store.lasting


@pytest.mark.parametrize(("bound", "most"), [("OPERATIONS", 10), ("OPERATIONS_BYTES", 105)])
async def test_a_disk_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """What waits for it is bounded, in number and in bytes."""
    monkeypatch.setattr(f"heliograph.webhooks.store.MAX_{bound}", most)
    changed = asyncio.Event()
    store = SqliteStore(tmp_path, linger_s=0.0, retry_s=0.0)
    await store.open(changed.set, nothing)
    released = asyncio.Event()
    loop = asyncio.get_running_loop()
    hanging = store._executor.submit(
        lambda: asyncio.run_coroutine_threadsafe(released.wait(), loop).result()
    )
    for number in range(11):
        store.queue(number, "receiver", "c", b"0123456789")
    store._write()
    assert store._text_bytes == 0
    for number in range(11, 22):
        assert store.lasting
        store.queue(number, "receiver", "c", b"0123456789")
    assert not store.lasting
    assert store._text_bytes == 0
    assert not store._operations
    await changed.wait()
    released.set()
    while not store.lasting:
        changed.clear()
        await changed.wait()
    assert hanging.done()
    await store.close()
    assert (await kept_in(tmp_path)).events == []
