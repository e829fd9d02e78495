"""What a store keeps, and what it says of files it cannot use."""

import asyncio
import re
import shutil
import sqlite3
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.engine.answers import Mark
from heliograph.errors import ConfigError
from heliograph.webhooks.debounce import CHANNEL, MEMBER, USER, ReportedState, Standing
from heliograph.webhooks.rows import (
    MAX_NAME_BYTES,
    Stored,
    StoredCount,
    StoredDelivery,
    StoredEvent,
    StoredMark,
    StoredState,
)
from heliograph.webhooks.store import FILE_NAME, RECOVERED, SqliteStore


def nothing() -> None:
    """What is told to a store that nobody waits for."""


async def opened(directory: Path) -> tuple[SqliteStore, Stored]:
    store = SqliteStore(directory, linger_s=0.0, retry_s=0.0)
    return store, await store.open(nothing, nothing)


async def written(store: SqliteStore) -> None:
    """Return when all that was given to *store* is on disk."""
    store._write()
    while store._writing is not None:
        await asyncio.wait([store._writing])
        await asyncio.sleep(0)  # the store takes note


async def kept_in(directory: Path) -> Stored:
    store, kept = await opened(directory)
    await store.close()
    return kept


def states_in(kept: Stored) -> list[tuple[str, ReportedState]]:
    return sorted((one.app_id, one.state) for one in kept.states)


async def test_what_was_given_is_there_in_the_next_life(tmp_path: Path) -> None:
    store, kept = await opened(tmp_path / "made" / "for us")
    assert kept == Stored()
    states = [
        ReportedState(CHANNEL, "c", ""),
        ReportedState(MEMBER, "c", "\ud800\x00é"),
        ReportedState(USER, "", "7"),
    ]
    for state in states:
        store.report("3", state, "", Standing.CONFIRMED)
        store.report("3", state, "", Standing.CONFIRMED)
    store.retract("3", ReportedState(CHANNEL, "never", ""))
    store.report("3", ReportedState(CHANNEL, "gone", ""), "", Standing.CONFIRMED)
    store.retract("3", ReportedState(CHANNEL, "gone", ""))
    for number in (1, 2, 3, 4):
        store.queue("3", number, "receiver", "c", b'{"n":%d}' % number)
    store.deliver("3", StoredDelivery("d1", "receiver", "key", 5), [1])
    store.deliver("3", StoredDelivery("d2", "receiver", "key", 6), [2])
    store.finish("3", "d1", [1])
    store.drop("3", [3])
    await store.close()

    kept = await kept_in(tmp_path / "made" / "for us")
    assert states_in(kept) == sorted(("3", state) for state in states)
    assert kept.events == [
        StoredEvent(2, "receiver", "c", b'{"n":2}', "d2"),
        StoredEvent(4, "receiver", "c", b'{"n":4}', None),
    ]
    assert kept.deliveries == [StoredDelivery("d2", "receiver", "key", 6)]


async def test_all_that_was_reported_of_one_app_is_kept_no_longer(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    first, second = ReportedState(CHANNEL, "c", ""), ReportedState(USER, "", "7")
    for app_id in ("3", "33"):
        store.report(app_id, first, "", Standing.CONFIRMED)
        store.report(app_id, second, "", Standing.CONFIRMED)
    store.clear("3", ())
    store.report("3", second, "", Standing.CONFIRMED)  # it is back
    await store.close()
    kept = await kept_in(tmp_path)
    assert states_in(kept) == [("3", second), ("33", first), ("33", second)]


async def test_a_state_is_kept_with_its_scope_and_its_standing(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    state = ReportedState(CHANNEL, "c", "")
    for standing in Standing:
        store.report("3", state, "1", standing)
        await written(store)
        (kept,) = (await store.load("3", ())).states
        assert kept == StoredState("3", state, "1", standing)
    for scope in ("1", "2"):
        other = ReportedState(CHANNEL, scope, "")
        store.report("3", other, scope, Standing.CONFIRMED)
    store.unconfirm("3", "1")
    await store.close()
    kept_states = (await kept_in(tmp_path)).states
    assert {one.state.channel: one.standing for one in kept_states} == {
        "c": Standing.UNCONFIRMED,
        "1": Standing.UNCONFIRMED,
        "2": Standing.CONFIRMED,
    }


async def test_the_last_mark_of_a_scope_is_kept_once_with_its_group(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    for number in range(1, 101):
        store.mark("3", Mark("1", "e", number))
        store.mark("3", Mark("", "é", number + 5))
    store.mark("33", Mark("1", "e", 7))
    assert len(store._operations) == 3
    await store.close()
    store, kept = await opened(tmp_path)
    marks = [StoredMark("3", Mark("", "é", 105)), StoredMark("3", Mark("1", "e", 100))]
    assert sorted(kept.marks, key=str) == [*marks, StoredMark("33", Mark("1", "e", 7))]
    store.mark("3", Mark("1", "of another life", 2))
    await store.close()
    marks[1] = StoredMark("3", Mark("1", "of another life", 2))
    assert sorted((await kept_in(tmp_path)).marks[:2], key=str) == marks


async def test_a_state_or_count_that_changes_often_is_one_row_in_a_group(tmp_path: Path) -> None:
    """Any client can subscribe and unsubscribe in a loop."""
    store, _ = await opened(tmp_path)
    states = [ReportedState(CHANNEL, name, "") for name in ("held", "gone", "unconfirmed", "back")]
    held, gone, unconfirmed, back = states
    for _ in range(100):
        for state in states:
            store.report("3", state, "1", Standing.CONFIRMED)
            store.report("3", state, "1", Standing.ENDED)
        store.retract("3", gone)
        store.keep_count("3", "c", 1)
        store.keep_count("3", "c", 2)
        store.keep_count("3", "sent", 2)
        store.drop_count("3", "sent")
    assert len(store._operations) == 6
    store.report("3", unconfirmed, "1", Standing.CONFIRMED)
    store.unconfirm("3", "1")
    store.report("3", back, "1", Standing.CONFIRMED)
    assert len(store._operations) == 7
    await store.close()
    kept = await kept_in(tmp_path)
    assert kept.counts == [StoredCount("3", "c", 2)]
    assert {one.state: one.standing for one in kept.states} == {
        held: Standing.UNCONFIRMED,
        unconfirmed: Standing.UNCONFIRMED,
        back: Standing.CONFIRMED,
    }


async def test_a_mark_alone_is_written_and_counts_as_kept(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    group = store.group
    store.mark("3", Mark("1", "e", 1))
    await written(store)
    assert store.kept == group
    assert (await store.load("3", ())).marks == [StoredMark("3", Mark("1", "e", 1))]
    await store.close()


async def test_numbers_that_are_to_be_reported_later_are_kept(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    store.keep_count("3", "\ud800", 4)
    store.keep_count("3", "\ud800", 5)
    store.keep_count("3", "d", 1)
    store.drop_count("3", "d")
    store.keep_count("33", "c", 7)
    await store.close()
    counts = [StoredCount("3", "\ud800", 5), StoredCount("33", "c", 7)]
    assert sorted((await kept_in(tmp_path)).counts) == counts


async def test_what_is_kept_of_one_app_is_loaded_alone(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    state = ReportedState(CHANNEL, "c", "")
    for number, app_id in enumerate(("3", "33"), 1):
        store.report(app_id, state, "1", Standing.ENDED)
        store.keep_count(app_id, "c", number)
        store.mark(app_id, Mark("1", "e", number))
        for receiver in ("a", "b"):
            name = f"{receiver}{app_id}"
            store.queue(app_id, 2 * number + (receiver == "b"), name, "c", b"{}")
            store.deliver(app_id, StoredDelivery(f"d{name}", name, "key", 5), [2 * number])
    await written(store)
    assert await store.load("3", ["a3", "other"]) == Stored(
        states=[StoredState("3", state, "1", Standing.ENDED)],
        counts=[StoredCount("3", "c", 1)],
        marks=[StoredMark("3", Mark("1", "e", 1))],
        events=[StoredEvent(2, "a3", "c", b"{}", "db3")],
        deliveries=[StoredDelivery("da3", "a3", "key", 5)],
    )
    await store.close()


async def test_of_an_app_that_is_abandoned_nothing_more_is_written(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    for app_id in ("3", "33"):
        store.queue(app_id, 1 if app_id == "3" else 2, app_id, "c", b"{}" * 50)
        store.mark(app_id, Mark("1", "e", 1))
    store.abandon("3")
    assert store._text_bytes == 100
    store.mark("3", Mark("1", "e", 2))  # it is held again
    await store.close()
    kept = await kept_in(tmp_path)
    assert [event.receiver for event in kept.events] == ["33"]
    assert sorted((one.app_id, one.mark.number) for one in kept.marks) == [("3", 2), ("33", 1)]


async def test_a_file_that_cannot_be_read_counts_as_a_disk_that_fails(tmp_path: Path) -> None:
    changed = asyncio.Event()
    store = SqliteStore(tmp_path, linger_s=0.0, retry_s=0.0)
    await store.open(changed.set, lambda: store.mark("3", Mark("1", "e", 5)))
    execute = store._connection.execute
    store._executor.submit(execute, "ALTER TABLE counts RENAME TO elsewhere").result()
    assert await store.load("3", ()) == Stored()
    assert (store.lasting, store.failures) == (False, 1)
    store._executor.submit(execute, "ALTER TABLE elsewhere RENAME TO counts").result()
    await changed.wait()
    assert store.kept == store.group
    while not store.lasting:
        changed.clear()
        await changed.wait()
    await store.close()
    assert (await kept_in(tmp_path)).marks == [StoredMark("3", Mark("1", "e", 5))]


SCHEMA_1 = Path(__file__).parent / "data" / "webhooks-schema-1.sqlite3"
"""Written by the version of Heliograph before schema 2."""


@pytest.mark.parametrize("damaged", [False, True])
async def test_of_a_file_of_schema_1_everything_is_kept(tmp_path: Path, damaged: bool) -> None:
    """Of what was reported, nothing is confirmed, as it was after each start."""
    shutil.copy(SCHEMA_1, tmp_path / FILE_NAME)
    if damaged:
        connection = sqlite3.connect(tmp_path / FILE_NAME)
        connection.execute("UPDATE deliveries SET time_ms = 'soon'")
        connection.commit()
        connection.close()
    kept = await kept_in(tmp_path)
    members = [ReportedState(MEMBER, "presence-c", user) for user in ("7", "\ud800\x00é")]
    states = [ReportedState(CHANNEL, "presence-c", ""), *members, ReportedState(USER, "", "7")]
    assert states_in(kept) == [("3", state) for state in states]
    assert {(one.scope, one.standing) for one in kept.states} == {("", Standing.UNCONFIRMED)}
    assert [(one.number, one.stream, one.delivery) for one in kept.events] == [
        (1, "presence-c", "d1"),
        (2, "presence-c", "d1"),
        (3, "#7", None),
        (4, "private-c", None),
    ]
    assert kept.deliveries == ([] if damaged else [StoredDelivery("d1", "receiver", "key", 5)])
    assert (kept.marks, kept.counts) == ([], [])
    assert await kept_in(tmp_path) == kept


async def test_a_damaged_page_of_a_file_of_schema_1_loses_what_is_on_it_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(SCHEMA_1, tmp_path / FILE_NAME)
    content = content_of(tmp_path / FILE_NAME)
    (page,) = (at // 4096 for at in [content.index(b"client-n")])
    content[page * 4096 : (page + 1) * 4096] = b"\xff" * 4096
    (tmp_path / FILE_NAME).write_bytes(content)
    kept = await kept_in(tmp_path)
    assert kept.events == []
    assert len(kept.states) == 4
    assert {one.standing for one in kept.states} == {Standing.UNCONFIRMED}
    assert "reported states: 4;" in only_problem(caplog)


async def test_a_group_counts_as_kept_when_it_is_on_disk(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, linger_s=0.0)
    kept = asyncio.Event()
    await store.open(kept.set, nothing)
    store.report("3", ReportedState(CHANNEL, "c", ""), "", Standing.CONFIRMED)
    group = store.group
    assert store.kept < group
    await kept.wait()
    assert store.kept == group
    # Read as whoever comes after a kill -9 would: from a copy, for the file is ours.
    for name in (FILE_NAME, FILE_NAME + "-wal"):
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_bytes((tmp_path / name).read_bytes())
    copied = await kept_in(tmp_path / "copy")
    assert states_in(copied) == [("3", ReportedState(CHANNEL, "c", ""))]
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
    store.report("3", ReportedState(CHANNEL, "c", ""), "", Standing.CONFIRMED)
    for number in range(1, events + 1):
        store.queue(
            "3", number, "receiver", f"c{number}", b'{"number":"<%d>"}' % number + b" " * 400
        )
    store.deliver("3", StoredDelivery("d1", "receiver", "key", 5), [1, 2])
    store.deliver("3", StoredDelivery("d2", "receiver", "key", 6), [events])
    await store.close()


async def test_a_file_that_is_no_database_is_renamed_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the server starts; a second time, the first one is not overwritten."""
    for number in (1, 2):
        caplog.clear()
        (tmp_path / FILE_NAME).write_bytes(b"no database at all %d" % number * 100)
        assert await kept_in(tmp_path) == Stored()
        assert only_problem(caplog) == (
            f"{tmp_path / FILE_NAME} is damaged (file is not a database); recovered events: 0,"
            " deliveries: 0, reported states: 0; unreadable rows: 0; the damaged file is now"
            f" webhooks.sqlite3.damaged-{number}"
        )
    caplog.clear()
    assert await kept_in(tmp_path) == Stored()
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
    assert states_in(kept) == [("3", ReportedState(CHANNEL, "c", ""))]
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
        content.replace(b"tablereported", b"table\x90\x90ported").replace(b"CREATE", b"XREATE")
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
    assert len(left) > 500 * part * 0.7
    assert left <= kept
    assert f"recovered events: {len(kept)}," in only_problem(caplog)


async def test_a_file_that_is_cut_to_nothing_is_a_new_one(tmp_path: Path) -> None:
    await filled(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"")
    assert await kept_in(tmp_path) == Stored()


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
    ("statement", "values", "states", "events", "deliveries"),
    [
        ("UPDATE events SET text = ? WHERE number = 2", (5,), 3, 3, 2),
        ("UPDATE events SET text = ? WHERE number = 2", (1.5,), 3, 3, 2),
        ("UPDATE events SET receiver = ? WHERE number = 2", (b"receiver",), 3, 3, 2),
        ("UPDATE events SET receiver = ? WHERE number = 2", ("",), 3, 3, 2),
        ("UPDATE events SET receiver = CAST(? AS TEXT) WHERE number = 2", (b"\xff",), 3, 3, 2),
        ("UPDATE events SET number = ? WHERE number = 2", (0,), 3, 3, 2),
        ("UPDATE events SET number = ? WHERE number = 2", (-5,), 3, 3, 2),
        ("UPDATE events SET number = ? WHERE number = 2", (2**63 - 1,), 3, 3, 2),
        ("UPDATE reported SET about = ? WHERE about = 0", (3,), 2, 4, 2),
        ("UPDATE reported SET about = ? WHERE about = 0", (-1,), 2, 4, 2),
        ("UPDATE reported SET about = ? WHERE about = 0", ("x",), 2, 4, 2),
        ("UPDATE reported SET about = ? WHERE about = 0", (0.5,), 2, 4, 2),
        ("UPDATE reported SET app = ? WHERE about = 0", (b"3",), 2, 4, 2),
        ("UPDATE reported SET channel = ? WHERE about = 0", (b"\xff",), 2, 4, 2),
        ("UPDATE reported SET channel = ? WHERE about = 0", (b"",), 2, 4, 2),
        ("UPDATE reported SET channel = ? WHERE about = 0", (5,), 2, 4, 2),
        ("UPDATE reported SET channel = ? WHERE about = 0", (HUGE,), 2, 4, 2),
        ("UPDATE reported SET user = ? WHERE about = 0", (b"7",), 2, 4, 2),
        ("UPDATE reported SET channel = ? WHERE about = 2", (b"c",), 2, 4, 2),
        ("UPDATE reported SET standing = ? WHERE about = 0", (3,), 2, 4, 2),
        ("UPDATE reported SET standing = ? WHERE about = 0", (b"0",), 2, 4, 2),
        ("UPDATE reported SET scope = ? WHERE about = 0", (b"s",), 2, 4, 2),
        ("UPDATE reported SET scope = CAST(? AS TEXT) WHERE about = 0", (b"\xff",), 2, 4, 2),
        ("UPDATE counts SET count = ?", (-1,), 3, 4, 2),
        ("UPDATE counts SET count = ?", ("many",), 3, 4, 2),
        ("UPDATE counts SET channel = ?", (b"",), 3, 4, 2),
        ("UPDATE counts SET app = ?", (b"3",), 3, 4, 2),
        ("UPDATE marks SET number = ?", (-1,), 3, 4, 2),
        ("UPDATE marks SET number = ?", (0.5,), 3, 4, 2),
        ("UPDATE marks SET epoch = ?", (b"e",), 3, 4, 2),
        ("UPDATE marks SET scope = ?", (HUGE.decode(),), 3, 4, 2),
        ("UPDATE marks SET app = ?", ("",), 3, 4, 2),
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
    states: int,
    events: int,
    deliveries: int,
) -> None:
    store, _ = await opened(tmp_path)
    for state in (
        ReportedState(CHANNEL, "c", ""),
        ReportedState(MEMBER, "c", "7"),
        ReportedState(USER, "", "7"),
    ):
        store.report("3", state, "", Standing.CONFIRMED)
    for number in (1, 2, 3, 4):
        store.queue("3", number, "receiver", "c", b"{}")
    store.deliver("3", StoredDelivery("d1", "receiver", "key", 5), [1])
    store.deliver("3", StoredDelivery("d2", "receiver", "key", 5), [3])
    store.keep_count("3", "c", 1)
    store.mark("3", Mark("", "e", 1))
    await store.close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute(statement, values).rowcount == 1
    connection.commit()
    connection.close()

    kept = await kept_in(tmp_path)
    assert (len(kept.states), len(kept.events), len(kept.deliveries)) == (
        states,
        events,
        deliveries,
    )
    assert len(kept.counts) == ("counts" not in statement)
    assert len(kept.marks) == ("marks" not in statement)
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
    store.queue("3", 1, "receiver", "c", b"{}")
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
        "DROP TABLE reported",
        "ALTER TABLE reported DROP COLUMN user",
    ],
)
async def test_of_a_file_of_another_shape_what_is_right_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    store, _ = await opened(tmp_path)
    store.queue("3", 1, "receiver", "c", b"{}")
    await store.close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    if "COLUMN" in statement:
        connection.execute("DROP TABLE reported")
        connection.execute("CREATE TABLE reported (app, about, channel)")
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
            store.queue("3", number, "receiver", "c", b'{"number":"<%d>"}' % number)
        await written.wait()
        path = directory / FILE_NAME
        found = path.read_bytes(), path.with_name(FILE_NAME + "-wal").read_bytes()
        await store.close()
        return found

    return asyncio.run(write())


@settings(deadline=None, max_examples=50)  # it is about files
@given(spans, spans, st.booleans())
def test_a_server_starts_with_any_damaged_file_or_logs_one_line(
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
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(
        ConfigError, match=r"newer version of Heliograph \(schema 3; this version reads 2\)"
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
    truth = [ReportedState(CHANNEL, "true", "")]
    changed = asyncio.Event()

    def write_all() -> None:
        for state in truth:
            store.report("3", state, "", Standing.CONFIRMED)

    async def until(*, lasting: bool) -> None:
        while store.lasting is not lasting:
            await changed.wait()
            changed.clear()

    store = SqliteStore(tmp_path, linger_s=0.0, retry_s=0.0)
    await store.open(changed.set, write_all)
    store.report("3", ReportedState(CHANNEL, "stale", ""), "", Standing.CONFIRMED)
    await changed.wait()
    limit_pages(store, 20)
    store.queue("3", 1, "receiver", "c", b"x" * 1_000_000)
    await until(lasting=False)
    store.report("3", ReportedState(CHANNEL, "lost", ""), "", Standing.CONFIRMED)
    assert store.kept >= store.group
    assert store.failures >= 1

    limit_pages(store, 100_000)
    await until(lasting=True)
    store.report("3", ReportedState(CHANNEL, "after", ""), "", Standing.CONFIRMED)
    await store.close()
    kept = await kept_in(tmp_path)
    assert [state.channel for _, state in states_in(kept)] == ["after", "true"]
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
    store.report("3", ReportedState(CHANNEL, "c", ""), "", Standing.CONFIRMED)
    store._write()
    limit_pages(store, 20)
    store.queue("3", 1, "receiver", "c", b"x" * 1_000_000)
    await store.close()
    assert not store.lasting


@pytest.mark.parametrize(("bound", "most"), [("OPERATIONS", 10), ("OPERATIONS_BYTES", 105)])
async def test_a_store_whose_disk_hangs_goes_on_in_memory(
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
        store.queue("3", number, "receiver", "c", b"0123456789")
    store._write()
    assert store._text_bytes == 0
    loading = asyncio.create_task(store.load("33", ()))
    for number in range(11, 22):
        assert store.lasting
        store.queue("3", number, "receiver", "c", b"0123456789")
        await asyncio.sleep(0)
    assert not store.lasting
    async with asyncio.timeout(5):
        assert await loading == Stored()
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
