"""Webhooks as the holder of an app: marks, takeover from a node that died, restart, release."""

import asyncio
import json
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.config.apps import App, AppKey, Webhook
from heliograph.engine.answers import (
    NOTHING_WANTED,
    CacheFilled,
    CacheMiss,
    Change,
    ChannelOccupied,
    ChannelVacated,
    Mark,
    Owed,
    Wants,
)
from heliograph.hub.facts import (
    Event,
    SubscriptionCount,
    UserOffline,
    UserOnline,
)
from heliograph.webhooks import Limits, MemoryStore, SqliteStore, Store, Webhooks
from heliograph.webhooks.audience import receiver_id
from heliograph.webhooks.debounce import Standing
from heliograph.webhooks.rows import Stored
from tests.owing import Truth
from tests.unit.test_webhook_store import SCHEMA_1

APP_ID = "3"
KEYS = (AppKey("key", "secret"),)
GRACE_S = 3.0
SETTLE_S = 30.0
NEVER_S = 1e6
MANY = 500

LIMITS = Limits(grace_s=GRACE_S, batch_s=0.0, backoff_s=0.1, max_backoff_s=0.1, retry_for_s=1e9)


class Receivers:
    """
    An application's server: takes each delivery once, and notes what makes no sense in *wrong*.

    Webhooks catch what a sender raises, so that an assertion in it would fail no test.
    """

    def __init__(self) -> None:
        self.failing = False
        self.wrong: list[str] = []
        self.deliveries: dict[str, bytes] = {}
        self.story: list[str] = []
        self.known: set[tuple[str, str]] = set()  # channel, user id
        self.counts: dict[str, int] = {}
        self.said: dict[str, list[str]] = {}  # channel -> data of client events

    async def post(self, _url: str, headers: Sequence[tuple[str, str]], body: bytes) -> str | None:
        if self.failing:
            return "HTTP 500"
        delivery = dict(headers)["X-Heliograph-Delivery"]
        if delivery not in self.deliveries:
            self.deliveries[delivery] = body
            for event in json.loads(body)["events"]:
                self._take(event)
        if self._events_of(delivery) != json.loads(body)["events"]:
            self.wrong.append(f"{delivery} has another content: {body!r}")
        return None

    async def close(self) -> None:
        """Nothing is open."""

    def _events_of(self, delivery: str) -> Any:
        return json.loads(self.deliveries[delivery])["events"]

    def _take(self, event: dict[str, Any]) -> None:
        name, channel, user_id = event["name"], event["channel"], event.get("user_id", "")
        self.story.append(" ".join(str(one) for one in (name, channel, user_id) if one))
        match name:
            case "subscription_count":
                self.counts[channel] = event["subscription_count"]
            case "client_event":
                self.said.setdefault(channel, []).append(event["data"])
            case "channel_occupied" | "member_added" | "user_online":
                if (channel, user_id) in self.known:
                    self.wrong.append(f"{self.story[-1]} twice")
                self.known.add((channel, user_id))
            case "channel_vacated" | "member_removed" | "user_offline":
                if (channel, user_id) not in self.known:
                    self.wrong.append(f"{self.story[-1]} of nothing")
                self.known.discard((channel, user_id))


class Engine:
    """What an engine owes the holder of one app; its state consists of three scopes."""

    def __init__(self) -> None:
        self.truth = Truth()
        self.counts: dict[str, int] = {}
        self.owed: list[Owed] = []  # and not settled
        self.settled: list[Mark] = []
        self.lost: set[str] = set()  # data of client events that went with a scope's state
        self.holder: Webhooks | None = None
        self._epochs = dict.fromkeys(("1", "2", "u"), 0)
        self._numbers = dict.fromkeys(self._epochs, 0)
        self._settled_epochs: dict[str, str] = {}
        self._terms = 0

    def owe(self, changes: Iterable[Change]) -> None:
        owed = [Owed(change, self._mark(scope_of(change))) for change in changes]
        self.owed += owed
        if self.holder is not None and owed:
            self.holder.owe(APP_ID, owed)

    def hold(self, webhooks: Webhooks) -> None:
        """Make *webhooks* the holder, or begin a new term of it."""
        taken_over = self.holder is not webhooks
        self.holder = webhooks
        self._terms += 1
        webhooks.hold(APP_ID, str(self._terms), self.settle)
        for scope in self._epochs:
            if taken_over and self._settled_epochs.get(scope) != self._epoch(scope):
                webhooks.restart(APP_ID, scope, self._epoch(scope))
        webhooks.owe(APP_ID, list(self.owed))

    def settle(self, mark: Mark) -> None:
        self.settled.append(mark)
        if mark.epoch == self._epoch(mark.scope):
            self._settled_epochs[mark.scope] = mark.epoch
        self.owed = [
            one
            for one in self.owed
            if (one.mark.scope, one.mark.epoch) != (mark.scope, mark.epoch)
            or one.mark.number > mark.number
        ]

    def release(self) -> None:
        if self.holder is not None:
            self.holder.release(APP_ID)
        self.holder = None

    def lose(self, scope: str, session: str) -> None:
        """Lose the state of *scope*, and a session; the nodes assert at once what they have."""
        for _, channel in [key for key in self.truth.entered if key[0] == session]:
            if scope_of(ChannelVacated(channel)) == scope:
                self.truth.leave(session, channel)
        if scope == "u" and session in self.truth.signed_in:
            self.truth.sign_out(session)
        gone = [one.change for one in self.owed if one.mark.scope == scope]
        self.lost |= {one.data.decode().strip('"') for one in gone if isinstance(one, Event)}
        self.owed = [one for one in self.owed if one.mark.scope != scope]
        self._epochs[scope] += 1
        self._numbers[scope] = 0
        if self.holder is not None:
            self.holder.restart(APP_ID, scope, self._epoch(scope))
        for channel in [one for one in self.counts if scope_of(ChannelVacated(one)) == scope]:
            self.counts[channel] = sum(name == channel for _, name in self.truth.entered)
            if not self.counts[channel]:
                del self.counts[channel]  # a number is owed again once a session is there
        occupied = {channel for _, channel in self.truth.entered}
        counts = [SubscriptionCount(channel, self.counts[channel]) for channel in sorted(occupied)]
        asserted = [*self.truth.asserted(), *counts]
        self.owe(change for change in asserted if scope_of(change) == scope)

    def _epoch(self, scope: str) -> str:
        return f"{scope}-{self._epochs[scope]}"

    def _mark(self, scope: str) -> Mark:
        self._numbers[scope] += 1
        return Mark(scope, self._epoch(scope), self._numbers[scope])


def scope_of(change: Change) -> str:
    if isinstance(change, UserOnline | UserOffline):
        return "u"
    return "1" if change.channel.endswith("a") else "2"


class Node:
    """A node with webhooks over a folder, whose disk and clock are moved by hand."""

    def __init__(self, world: "World") -> None:
        self.store = SqliteStore(world.directory, linger_s=NEVER_S)
        self.webhooks = webhooks_of(world, self.store)

    async def commit(self) -> None:
        """Have the disk keep the group that is being collected."""
        self.store._write()
        while self.store._writing is not None:
            await asyncio.wait([self.store._writing])
            await turn()
        await turn()

    async def work(self) -> None:
        self.webhooks._work()
        await turn()

    async def die(self, *, kept: bool = False) -> None:
        """Die with all that the disk has not kept; if *kept*, just before that is settled."""
        self.webhooks._working = False
        self.webhooks._stopped = True
        if kept:
            self.store._on_kept = lambda: None
            await self.commit()
        tries = list(self.webhooks._tries)
        for task in tries:
            task.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
        for timer in (self.webhooks._timer, self.store._timer):
            if timer is not None:
                timer.cancel()
        await asyncio.get_running_loop().run_in_executor(
            self.store._executor, self.store._connection.close
        )
        self.store._executor.shutdown()


async def turn() -> None:
    """Let the event loop do what it can."""
    for _ in range(6):
        await asyncio.sleep(0)


def webhooks_of(world: "World", store: Store) -> Webhooks:
    webhooks = Webhooks(
        store=store,
        now_s=lambda: world.now,
        monotonic=lambda: world.now,
        random=lambda: 0.5,
        settle_s=SETTLE_S,
        limits=LIMITS,
        sender=lambda _: world.receivers,
    )
    webhooks.configure([world.app])
    return webhooks


class World:
    """An engine, receivers, a folder, and the nodes that come and die."""

    def __init__(self, directory: Path, **app: Any) -> None:
        self.directory = directory
        self.now = 0.0
        self.app = App(id=APP_ID, keys=KEYS, webhooks=(Webhook(url="http://x/"),), **app)
        self.engine = Engine()
        self.receivers = Receivers()
        self.node: Node | None = None
        self.said: dict[str, list[str]] = {}

    async def begin(self, *, early: bool = False) -> Node:
        """Have a node hold the app; if *early*, before it has opened its store."""
        if self.node is None:
            self.node = Node(self)
            if early:
                self.engine.hold(self.node.webhooks)
            await self.node.webhooks.start()
        if self.engine.holder is None:
            self.engine.hold(self.node.webhooks)
        while self.node.webhooks._loads:
            await asyncio.wait(self.node.webhooks._loads)
        await turn()
        return self.node

    async def die(self, *, kept: bool = False) -> None:
        if self.node is not None:
            node, self.node = self.node, None
            await node.die(kept=kept)
            self.engine.holder = None

    async def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.node is not None:
            await self.node.work()

    def toggle_channel(self, session: str, channel: str, user_id: str) -> None:
        truth = self.engine.truth
        entering = (session, channel) not in truth.entered
        if entering:
            changes = truth.enter(session, channel, user_id if "presence" in channel else None)
        else:
            changes = truth.leave(session, channel)
        count = sum(name == channel for _, name in truth.entered)
        self.engine.counts[channel] = count
        self.engine.owe([*changes, SubscriptionCount(channel, count)])

    def toggle_user(self, session: str, user_id: str) -> None:
        truth = self.engine.truth
        if session in truth.signed_in:
            self.engine.owe(truth.sign_out(session))
        else:
            self.engine.owe(truth.sign_in(session, user_id))

    def say(self, channel: str) -> None:
        said = self.said.setdefault(channel, [])
        said.append(f"{channel} {len(said)}")
        self.engine.owe([Event(channel, "client-n", f'"{said[-1]}"'.encode(), "1.2")])

    async def finish(self) -> None:
        """Have the receivers answer, and wait until nothing is left to be done."""
        self.receivers.failing = False
        node = await self.begin()
        for _ in range(3):  # a channel whose members are held is held again
            await self.wait(SETTLE_S + GRACE_S)
            for _ in range(MANY):
                if not node.webhooks.pending and not self.engine.owed:
                    break
                await node.commit()
                await self.wait(0.2)
            else:
                raise AssertionError(f"never sent, or never settled: {self.engine.owed}")
        assert self.receivers.wrong == []

    @property
    def true(self) -> set[tuple[str, str]]:
        truth = self.engine.truth
        channels = {(channel, "") for _, channel in truth.entered}
        members = {(name, user) for (_, name), user in truth.entered.items() if user is not None}
        return channels | members | {("", user) for user in truth.signed_in.values()}


sessions = st.sampled_from("123")
users = st.sampled_from("uv")
channels = st.sampled_from(["presence-a", "presence-b", "a"])
steps = st.one_of(
    st.tuples(st.just("channel"), sessions, channels, users),
    st.tuples(st.just("channel"), sessions, channels, users),
    st.tuples(st.just("user"), sessions, users),
    st.tuples(st.just("say"), channels),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 0.6, 1.0, 2.5, 3.0, 31.0])),
    st.tuples(st.sampled_from(["commit", "commit", "new term", "release", "fail", "mend"])),
    st.tuples(st.sampled_from(["begin", "begin early"])),
    st.tuples(st.sampled_from(["die", "die unsettled"])),
    st.tuples(st.just("lose"), st.sampled_from(["1", "2", "u"]), sessions),
)


@settings(deadline=None, max_examples=150)  # it is about files
@given(st.lists(steps, max_size=40))
def test_receivers_get_the_correct_state_whenever_the_holder_dies(
    story: list[tuple[object, ...]],
) -> None:
    """
    Each life of a node begins with what the disk has of the one before: it may have died before
    what it took was kept, before that was settled, or while it was sent.
    """
    with TemporaryDirectory() as directory:
        asyncio.run(tell(World(Path(directory)), story))


async def tell(world: World, story: list[tuple[object, ...]]) -> None:
    for step in story:
        await take_step(world, step)
        await turn()
    await world.finish()
    assert world.receivers.known == world.true
    assert world.engine.owed == []
    for channel, said in world.said.items():
        received = world.receivers.said.get(channel, [])
        assert len(set(received)) == len(received), "an event was sent in two deliveries"
        assert received == [one for one in said if one in received]
        assert set(said) - set(received) <= world.engine.lost
    counts = {channel: world.receivers.counts.get(channel) for channel in world.engine.counts}
    assert counts == world.engine.counts
    assert world.node is not None
    await world.node.webhooks.stop(0.0)


async def take_step(world: World, step: tuple[object, ...]) -> None:  # noqa: C901 - a story has many verbs
    match step:
        case ("channel", str(session), str(channel), str(user_id)):
            world.toggle_channel(session, channel, user_id)
        case ("user", str(session), str(user_id)):
            world.toggle_user(session, user_id)
        case ("say", str(channel)):
            world.say(channel)
        case ("wait", float(seconds)):
            await world.wait(seconds)
        case ("commit",) if world.node is not None:
            await world.node.commit()
        case ("new term",) if world.engine.holder is not None:
            world.engine.hold(world.engine.holder)
        case ("release",):
            world.engine.release()
        case ("fail" | "mend" as verb,):
            world.receivers.failing = verb == "fail"
        case ("begin" | "begin early" as verb,):
            await world.begin(early=verb == "begin early")
        case ("die" | "die unsettled" as verb,):
            await world.die(kept=verb == "die unsettled")
        case ("lose", str(scope), str(session)):
            world.engine.lose(scope, session)


# -- Marks ---------------------------------------------------------------------------------


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.die()


def marks(engine: Engine) -> list[tuple[str, int]]:
    return [(mark.scope, mark.number) for mark in engine.settled]


async def test_a_change_is_settled_when_what_was_made_of_it_is_kept(world: World) -> None:
    node = await world.begin()
    world.toggle_channel("1", "a", "")
    world.toggle_user("1", "u")
    world.toggle_channel("2", "a", "")
    await turn()
    assert world.engine.settled == []
    assert world.receivers.story == []
    await node.commit()
    assert marks(world.engine) == [("1", 3), ("u", 1)]
    assert len(world.engine.settled) == 2, "one mark for a scope and a group"


async def test_a_change_that_no_webhook_wants_is_settled_too(world: World) -> None:
    node = await world.begin()
    world.engine.owe([ChannelOccupied("#server-to-user-a")])
    await turn()
    assert world.engine.owed
    await node.commit()
    assert marks(world.engine) == [("1", 1)]
    node.webhooks.configure([App(id=APP_ID, keys=KEYS)])
    world.engine.owe([ChannelOccupied("a")])
    assert marks(world.engine) == [("1", 1)], "not inside the engine's own call"
    await turn()
    assert marks(world.engine) == [("1", 1), ("1", 2)]


async def test_without_a_folder_changes_are_settled_in_the_next_turn(world: World) -> None:
    webhooks = webhooks_of(world, MemoryStore())
    await webhooks.start()
    world.engine.hold(webhooks)
    await turn()
    world.engine.owe([ChannelOccupied("a")])
    assert world.engine.settled == []
    await turn()
    assert marks(world.engine) == [("1", 1)]
    await webhooks.stop(0.0)


async def test_marks_that_are_kept_are_settled_again_by_the_next_holder(world: World) -> None:
    node = await world.begin()
    world.toggle_channel("1", "a", "")
    await node.commit()
    await node.commit()
    await world.die(kept=True)
    world.engine.settled.clear()
    await world.begin()
    assert marks(world.engine) == [("1", 2)]
    assert world.engine.holder is not None
    world.engine.hold(world.engine.holder)
    assert marks(world.engine) == [("1", 2), ("1", 2)]


async def test_changes_of_another_epoch_are_not_skipped(world: World) -> None:
    node = await world.begin()
    for number, epoch in ((5, "old"), (1, "new"), (1, "new"), (2, "new")):
        node.webhooks.owe(
            APP_ID, [Owed(ChannelOccupied(f"{epoch}{number}"), Mark("1", epoch, number))]
        )
    assert node.webhooks.counters.queued == 3


# -- Hold and release ----------------------------------------------------------------------


async def test_changes_and_restarts_before_the_start_are_taken_after_it(world: World) -> None:
    node = await world.begin()
    world.toggle_channel("1", "a", "")
    world.toggle_channel("1", "b", "")
    await node.commit()
    await node.commit()
    await world.die()
    world.engine.lose("1", "1")  # nobody is on "a" any longer
    await world.begin(early=True)
    world.toggle_channel("2", "b", "")
    await world.finish()
    assert world.receivers.known == world.true == {("b", "")}


async def test_what_a_restart_left_unconfirmed_is_so_for_the_next_holder(world: World) -> None:
    node = await world.begin()
    world.toggle_channel("1", "a", "")
    await node.commit()
    world.engine.lose("1", "1")
    world.toggle_channel("2", "presence-a", "u")
    await node.commit()
    assert world.engine.owed == []
    await world.die()
    node = await world.begin()
    await world.wait(SETTLE_S - 1.0)
    await node.commit()
    assert ("a", "") in world.receivers.known
    await world.finish()
    assert world.receivers.known == world.true == {("presence-a", ""), ("presence-a", "u")}


@pytest.mark.parametrize("asserted", ["settled", "kept", "nothing"])
@pytest.mark.parametrize("successor", [True, False])
async def test_a_restart_that_is_in_the_store_is_skipped(
    world: World, asserted: str, successor: bool
) -> None:
    """What was confirmed since stays so, what was not is reported as gone, nothing comes twice."""
    node = await world.begin()
    node.webhooks.owe(APP_ID, [Owed(ChannelOccupied("a"), Mark("1", "old", 1))])
    await node.commit()
    await node.commit()
    node.webhooks.restart(APP_ID, "1", "new")
    event = Event("a", "client-n", b'"once"', "1.2")
    changes: list[Change] = [ChannelOccupied("a"), event, CacheMiss("a")]
    owed = [Owed(change, Mark("1", "new", number)) for number, change in enumerate(changes, 1)]
    if asserted != "nothing":
        node.webhooks.owe(APP_ID, owed)
    await node.commit()
    await world.wait(SETTLE_S / 2)
    if successor:
        await world.die(kept=True)
        world.node = node = Node(world)
        await node.webhooks.start()
        node.webhooks.hold(APP_ID, "next", world.engine.settle)
        await asyncio.gather(*node.webhooks._loads)
    node.webhooks.restart(APP_ID, "1", "new")
    if asserted == "kept":
        node.webhooks.owe(APP_ID, owed)
    else:
        assert ("a", "") in world.receivers.known
    for _ in range(3):
        await world.wait(SETTLE_S)
        await node.commit()
    once = [] if asserted == "nothing" else ["client_event a", "cache_miss a"]
    gone = ["channel_vacated a"] if asserted == "nothing" else []
    assert world.receivers.story == ["channel_occupied a", *once, *gone]
    assert Mark("1", "new", 0) not in world.engine.settled


@pytest.mark.parametrize("kept", [True, False])
async def test_a_restart_is_kept_with_what_follows_from_it_or_not_at_all(
    world: World, kept: bool
) -> None:
    node = await world.begin()
    world.engine.owe([ChannelOccupied("a")])
    await node.commit()
    node.webhooks.restart(APP_ID, "1", "new")
    await world.die(kept=kept)
    world.node = node = Node(world)
    await node.webhooks.start()
    stored = await node.store.load(APP_ID, ())
    assert [one.standing for one in stored.states] == [
        Standing.UNCONFIRMED if kept else Standing.CONFIRMED
    ]
    assert (Mark("1", "new", 0) in [one.mark for one in stored.marks]) is kept


async def test_of_an_app_that_is_released_nothing_is_written_or_sent(world: World) -> None:
    node = await world.begin()
    world.toggle_channel("1", "a", "")
    await node.commit()
    world.toggle_channel("1", "presence-a", "u")
    world.engine.release()
    assert not node.store._operations
    assert node.webhooks.pending == 0
    await node.commit()
    await world.wait(NEVER_S)
    story = list(world.receivers.story)
    assert "channel_occupied presence-a" not in story
    await world.begin()
    await world.finish()
    assert world.receivers.known == world.true
    assert len(world.receivers.story) > len(story)


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
async def test_an_app_that_is_removed_and_released_leaves_nothing(
    world: World, loaded: bool, at_once: bool
) -> None:
    """Not even if the app is configured again, and its state begins anew, with the same marks."""
    world.receivers.failing = True
    node = await world.begin()
    world.say("a")
    world.engine.owe([ChannelOccupied("a")])
    await node.commit()
    if not loaded:
        await world.die(kept=True)
        world.node = node = Node(world)
        await node.webhooks.start()
        world.engine.hold(node.webhooks)
    world.engine.owe([ChannelOccupied("b")])
    node.webhooks.configure([])
    world.engine.owe([ChannelOccupied("c")])
    world.engine.release()
    assert not node.webhooks._progress
    assert not node.webhooks._unsettled
    assert node.webhooks.pending == 0
    if not at_once:
        await node.commit()
        receiver = receiver_id(world.app, world.app.webhooks[0], 0)
        assert await node.store.load(APP_ID, [receiver]) == Stored()
    node.webhooks.configure([world.app])
    world.receivers.failing = False
    world.engine = Engine()
    world.said.clear()
    await world.begin()
    world.toggle_channel("1", "b", "")
    await world.finish()
    assert sorted(world.receivers.story) == ["channel_occupied b", "subscription_count b"]


async def test_a_request_under_way_is_cancelled_by_a_release(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def hang(*_: object) -> str | None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return None

    monkeypatch.setattr(world.receivers, "post", hang)
    node = await world.begin()
    world.say("a")
    await node.commit()
    await node.commit()
    assert len(node.webhooks._tries) == 1
    world.engine.release()
    async with asyncio.timeout(5):
        await ended.wait()
    await turn()
    assert not node.webhooks._tries
    monkeypatch.undo()
    await world.finish()
    assert world.receivers.said == {"a": ["a 0"]}


async def test_an_app_that_is_not_held_is_not_loaded_and_stays_in_the_store(world: World) -> None:
    node = await world.begin()
    world.receivers.failing = True
    world.say("a")
    world.toggle_user("1", "u")
    await node.commit()
    await world.die()
    world.receivers.failing = False
    world.node = Node(world)
    await world.node.webhooks.start()
    world.node.webhooks.owe(APP_ID, [Owed(ChannelOccupied("a"), Mark("1", "e", 1))])
    world.node.webhooks.restart(APP_ID, "1", "e")
    await world.node.commit()
    assert world.node.webhooks.pending == 0
    assert world.receivers.story == []
    await world.finish()
    assert sorted(world.receivers.story) == ["client_event a", "user_online u"]


async def test_a_release_before_the_store_is_read_leaves_no_trace(world: World) -> None:
    node = await world.begin()
    world.toggle_user("1", "u")
    await node.commit()
    world.engine.release()
    world.engine.hold(node.webhooks)
    world.toggle_user("2", "v")
    world.engine.release()
    await asyncio.gather(*node.webhooks._loads)
    await turn()
    assert node.webhooks.pending == 0
    assert not node.store._operations
    await world.finish()
    assert world.receivers.known == world.true


async def test_a_disk_that_fails_holds_up_no_changes(world: World) -> None:
    node = await world.begin()
    node.store._executor.submit(node.store._connection.execute, "DROP TABLE marks").result()
    world.toggle_channel("1", "a", "")
    await node.commit()
    assert not node.store.lasting
    await world.finish()
    world.toggle_channel("1", "b", "")
    await turn()
    assert world.engine.owed == []
    assert world.receivers.known == world.true


async def test_a_disk_that_is_well_again_has_everything_for_the_next_holder(world: World) -> None:
    """What was taken while it failed is settled, so that no engine owes it any longer."""
    node = await world.begin()
    store, run = node.store, node.store._executor.submit
    run(store._connection.execute, "ALTER TABLE marks RENAME TO elsewhere").result()
    world.receivers.failing = True
    world.toggle_user("1", "u")
    world.toggle_user("2", "v")
    world.toggle_user("2", "v")
    for _ in range(2):
        world.toggle_channel("1", "a", "")  # the second number is to be sent later
    await node.commit()
    await node.commit()
    assert world.engine.owed == []
    run(store._connection.execute, "ALTER TABLE elsewhere RENAME TO marks").result()
    store._renew()
    await node.commit()
    assert store.lasting
    await world.die()
    world.engine.settled.clear()
    await world.begin()
    assert sorted(marks(world.engine)) == [("1", 4), ("u", 3)]
    await world.finish()
    assert world.receivers.known == world.true == {("", "u")}
    assert world.receivers.counts == {"a": 0}
    assert sorted(world.receivers.story) == [
        "channel_occupied a",
        "channel_vacated a",
        *["subscription_count a"] * 2,
        "user_offline v",
        "user_online u",
        "user_online v",
    ]


async def test_changes_of_an_app_that_a_hanging_disk_does_not_load_are_bounded_and_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph.webhooks.courier.MAX_WAITING_BYTES", 3000)
    node = await world.begin()
    world.engine.release()
    released = threading.Event()
    hanging = node.store._executor.submit(released.wait)
    try:
        world.engine.hold(node.webhooks)
        said = 0
        while node.store.lasting:
            assert said < 15, "200 bytes each"
            world.say("a")
            said += 1
        assert said > 10
        async with asyncio.timeout(5):
            await asyncio.gather(*node.webhooks._loads)
        await turn()
        assert world.engine.owed == []
        await world.wait(0.0)
        for _ in range(said):
            await turn()
        assert world.receivers.said == world.said
    finally:
        released.set()
    assert hanging.result(timeout=5)
    node.store._renew()
    await node.commit()
    assert node.store.lasting


@pytest.mark.parametrize("others", [(), (Webhook(url="http://other/"),)], ids=["all", "one"])
async def test_a_webhook_removed_while_the_disk_fails_is_not_in_the_file_that_is_written_anew(
    world: World, others: tuple[Webhook, ...]
) -> None:
    """Its events were logged and counted as dropped, so no later server may send them."""
    world.receivers.failing = True
    node = await world.begin()
    world.engine.owe([ChannelOccupied("a")])
    await node.commit()
    run = node.store._executor.submit
    run(node.store._connection.execute, "ALTER TABLE marks RENAME TO elsewhere").result()
    world.engine.owe([ChannelOccupied("b")])
    await node.commit()
    assert not node.store.lasting
    node.webhooks.configure([App(id=APP_ID, keys=KEYS, webhooks=others)])
    assert node.webhooks.counters.dropped == 2
    run(node.store._connection.execute, "ALTER TABLE elsewhere RENAME TO marks").result()
    node.store._renew()
    await node.commit()
    assert node.store.lasting
    await world.die()
    world.receivers.failing = False
    node = await world.begin()  # with the webhook that was removed
    assert node.webhooks.pending == 0
    await world.finish()
    assert world.receivers.story == []


# -- Numbers of subscriptions --------------------------------------------------------------


def reported_counts(world: World) -> list[str]:
    bodies = [json.loads(body)["events"] for body in world.receivers.deliveries.values()]
    return [
        f"{event['channel']} {event['subscription_count']}"
        for events in bodies
        for event in events
        if event["name"] == "subscription_count"
    ]


async def settled(world: World) -> None:
    node = await world.begin()
    for _ in range(4):
        await node.commit()
        await world.wait(0.0)


async def test_the_first_number_is_sent_at_once_and_the_latest_at_the_end_of_the_second(
    world: World,
) -> None:
    await world.begin()
    for count in (1, 2, 3):
        world.engine.owe([SubscriptionCount("a", count)])
    world.engine.owe([SubscriptionCount("b", 7)])
    await settled(world)
    assert reported_counts(world) == ["a 1", "b 7"]
    await world.wait(0.9)
    await settled(world)
    assert len(reported_counts(world)) == 2
    await world.wait(0.1)
    world.engine.owe([SubscriptionCount("a", 4)])
    await settled(world)
    assert reported_counts(world)[2:] == ["a 3"]
    await world.wait(1.0)
    await settled(world)
    assert reported_counts(world)[3:] == ["a 4"]
    await world.wait(1.0)
    assert world.node is not None
    assert len(world.node.webhooks._audiences[APP_ID].counts) == 0


async def test_a_number_that_is_to_be_sent_later_is_sent_by_the_next_holder(world: World) -> None:
    node = await world.begin()
    for count in (1, 2, 3):
        world.engine.owe([SubscriptionCount("a", count)])
    await settled(world)
    assert world.engine.owed == []
    await world.die()
    await world.begin()
    await world.wait(1.0)
    await settled(world)
    assert reported_counts(world) == ["a 1", "a 3"]
    await world.wait(1.0)
    world.engine.owe([SubscriptionCount("a", 4)])
    await settled(world)
    await world.die()
    node = await world.begin()
    await world.wait(5.0)
    await settled(world)
    assert reported_counts(world) == ["a 1", "a 3", "a 4"], "it was sent, and is not kept"
    assert node.webhooks.pending == 0


async def test_without_a_folder_stopping_sends_the_latest_number(world: World) -> None:
    webhooks = webhooks_of(world, MemoryStore())
    await webhooks.start()
    world.engine.hold(webhooks)
    await turn()
    for count in (1, 2, 3):
        world.engine.owe([SubscriptionCount("a", count)])
    await webhooks.stop(5.0)
    assert reported_counts(world) == ["a 1", "a 3"]


# -- Kinds ---------------------------------------------------------------------------------


async def test_a_cache_miss_is_reported_again_once_the_channel_has_an_event(world: World) -> None:
    await world.begin()
    miss, filled = CacheMiss("cache-a"), CacheFilled("cache-a")
    world.engine.owe([miss, miss, filled, filled, miss])
    await world.finish()
    assert world.receivers.story == ["cache_miss cache-a"] * 2


@pytest.mark.parametrize(
    ("kind", "wants"),
    [
        ("channel_existence", Wants(occupancy=True)),
        ("presence", Wants(members=True)),
        ("user_presence", Wants(users=True)),
        ("cache_miss", Wants(cache=True)),
        ("subscription_count", Wants(counts=True)),
        ("client_event", Wants(client_events=True)),
    ],
)
def test_the_changes_of_which_webhooks_select_the_kind_are_wanted(kind: str, wants: Wants) -> None:
    def wanted(*webhooks: Webhook, keys: tuple[AppKey, ...] = KEYS) -> Wants:
        app = App(id=APP_ID, keys=keys, webhooks=webhooks)
        return webhooks_of(World(Path()), MemoryStore()).wants(app)

    hook = Webhook(url="http://x/", events=(kind,))
    off = Webhook(url="http://y/", enabled=False)
    assert wanted(hook, off, hook) == wants
    assert wanted(off) == wanted() == wanted(hook, keys=()) == NOTHING_WANTED
    assert all(getattr(wanted(Webhook(url="http://x/")), name) for name in wants.__struct_fields__)


# -- A file of an earlier version ----------------------------------------------------------


async def test_the_queue_of_a_file_of_schema_1_is_sent(
    world: World,
) -> None:
    path = world.directory / "webhooks.sqlite3"
    shutil.copy(SCHEMA_1, path)
    connection = sqlite3.connect(path)
    receiver = receiver_id(world.app, world.app.webhooks[0], 0)
    for table in ("events", "deliveries"):
        connection.execute(f"UPDATE {table} SET receiver = ?", (receiver,))
    connection.execute("UPDATE deliveries SET key = 'key'")
    connection.commit()
    connection.close()
    world.receivers.failing = True
    node = await world.begin()
    assert node.webhooks.pending == 4
    assert "d1" in [one.id for one in node.webhooks._receivers[receiver].outbox.deliveries]
    world.engine.owe(world.engine.truth.enter("1", "presence-c", "7"))
    world.receivers.known = {("presence-c", "\ud800\x00é")}  # it was sent before
    await world.finish()
    assert world.receivers.story == [
        "channel_occupied presence-c",
        "member_added presence-c 7",
        "user_online 7",
        "client_event private-c",
        "member_removed presence-c \ud800\x00é",
        "user_offline 7",
    ]
    assert world.receivers.known == world.true
