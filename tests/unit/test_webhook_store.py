"""What a store keeps, and what it says of files it cannot use."""

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest

from heliograph.errors import ConfigError
from heliograph.webhooks.beliefs import CHANNEL, MEMBER, USER, Belief
from heliograph.webhooks.store import FILE_NAME, Kept, KeptDelivery, KeptEvent, SqliteStore


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


async def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match=r"webhooks\.sqlite3: is damaged \(.*\)\. Move it away"):
        await opened(tmp_path)


async def test_damage_in_the_middle_is_found_before_it_does_harm(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    for number in range(500):
        store.queue(number, "receiver", "c", b"x" * 500)
    await store.close()
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    content[20_000:40_000] = b"\xff" * 20_000
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged"):
        await opened(tmp_path)


async def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    await kept_in(tmp_path)
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ConfigError, match=r"newer version of Heliograph \(schema 2, not 1\)"):
        await opened(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before


async def test_two_servers_cannot_share_a_file(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    with pytest.raises(ConfigError, match="another server uses it"):
        await opened(tmp_path)
    await store.close()
    await kept_in(tmp_path)


async def test_a_directory_that_is_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data_dir: .*webhooks\.sqlite3: "):
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
    assert "database or disk is full; webhooks go on" in problems[0]
    assert "are kept again" in problems[1]


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


async def test_a_disk_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it is bounded."""
    monkeypatch.setattr("heliograph.webhooks.store.MAX_OPERATIONS", 10)
    changed = asyncio.Event()
    store = SqliteStore(tmp_path, linger_s=0.0, retry_s=0.0)
    await store.open(changed.set, nothing)
    released = asyncio.Event()
    loop = asyncio.get_running_loop()
    hanging = store._executor.submit(
        lambda: asyncio.run_coroutine_threadsafe(released.wait(), loop).result()
    )
    for number in range(11):
        store.queue(number, "receiver", "c", b"")
    store._write()
    for number in range(11, 22):
        store.queue(number, "receiver", "c", b"")
    assert not store.lasting
    assert not store._operations
    await changed.wait()
    released.set()
    while not store.lasting:
        changed.clear()
        await changed.wait()
    assert hanging.done()
    await store.close()
    assert (await kept_in(tmp_path)).events == []
