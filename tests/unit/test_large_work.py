"""Large work of a node, over both engines: in slices, with the same outcome as at once."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.config.apps import App, Apps, Webhook
from heliograph.engine.answers import ChannelOccupied, ChannelVacated, Counts, Options
from heliograph.engine.memory import MemorySpace
from heliograph.errors import ApiError
from heliograph.hub.facts import Event, Member
from heliograph.hub.hub import FLUSH_BUDGET
from heliograph.node.dialect import Ending, Goodbye, Refused
from heliograph.node.membership import LEFT_AT_ONCE, LEFT_IN_A_PIECE
from heliograph.node.tenant import CLOSED_AT_ONCE, Tenant
from heliograph.protocols.pusher import messages, refusals
from heliograph.protocols.pusher.api import channels as endpoints
from heliograph.protocols.pusher.api.request import ApiRequest
from heliograph.protocols.pusher.session import PusherSession
from heliograph.reply import proceed
from heliograph.slices import MOST_WAITING, SLICE_S
from heliograph.wire.responses import Response
from tests.unit.test_session import (
    CREDENTIALS,
    KEY,
    FakePeer,
    FakeTiming,
    World,
    app,
    connected,
    replayed_members,
    say,
    sign,
)

RECONNECT = messages.goodbye(refusals.reconnect())
STEP_S = 0.0001
PIECES_A_TURN = round(SLICE_S / STEP_S) + 1


class SteppingTiming(FakeTiming):
    """A loop that turns once at a time, and whose clock moves on whenever it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def now(self) -> float:
        self.time += STEP_S
        return self.time

    def turn_once(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


class LargeWorld(World):
    """A node whose loop turns once at a time."""

    timing: SteppingTiming

    def __init__(self, *, late: bool, **settings: Any) -> None:
        super().__init__(late=late, timing=SteppingTiming(), **settings)
        self.tenant: Tenant = self.node._tenants["1"]
        space: Any = self.tenant.space
        self.state: MemorySpace = space._inner if late else space

    def settle(self) -> None:
        while True:
            super().settle()
            if not (self.late and self.late.waiting):
                return

    def answer(self) -> None:
        """Let a shared engine answer what it was asked; the loop does not turn."""
        if self.late:
            self.late.settle()

    def progress(self, figure: Callable[[], int], *, publish: str = "") -> list[int]:
        """
        Turn until nothing is due; return by how much *figure* changed in each turn.

        With *publish*, an event is published to that channel before each turn.
        """
        changes = []
        while self.timing.due:
            before = figure()
            if publish:
                self.publish("news", publish)
            self.answer()
            self.timing.turn_once()
            self.answer()
            changes.append(abs(figure() - before))
            publish = publish if figure() != before else ""
        return changes

    def signed_in(self, user_id: str, **user: Any) -> FakePeer:
        peer = self.client()
        sign_in(peer, user_id, **user)
        return peer


def sign_in(peer: FakePeer, user_id: str, **user: Any) -> None:
    data = json.dumps({"id": user_id, **user})
    auth = CREDENTIALS.authorize_user(peer.id, data)
    message = {"event": "pusher:signin", "data": {"auth": auth, "user_data": data}}
    if peer.closed is None:
        peer.session.receive(json.dumps(message).encode(), 0.0)


@pytest.fixture(params=[False, True], ids=["memory", "late"])
def world(request: pytest.FixtureRequest) -> LargeWorld:
    return LargeWorld(late=bool(request.param), watchlist=True)


def open_count(peers: list[FakePeer]) -> int:
    return sum(peer.closed is None for peer in peers)


# -- Closing many sessions ---------------------------------------------------------------------


def test_a_termination_closes_a_few_sessions_in_each_turn(world: LargeWorld) -> None:
    crowd = [world.signed_in("u") for _ in range(200)]
    bystander = world.client()
    say(bystander, "subscribe", "c")
    world.settle()
    bystander.take()

    proceed(world.tenant.terminate("u"), lambda _nothing: None, lambda _error: None)
    world.answer()
    assert open_count(crowd) == 200
    closed = world.progress(lambda: open_count(crowd), publish="c")

    assert open_count(crowd) == 0
    assert max(closed) <= PIECES_A_TURN
    assert len(bystander.take()) >= 200 // PIECES_A_TURN
    assert {peer.closed.code for peer in crowd if peer.closed} == {4009}
    assert len(world.tenant.users) == 0
    assert bystander.closed is None


def test_a_termination_is_for_sessions_signed_in_when_it_came(world: LargeWorld) -> None:
    """One that ended meanwhile is left alone, and a later one stays."""
    crowd = [world.signed_in("u") for _ in range(100)]
    world.settle()
    proceed(world.tenant.terminate("u"), lambda _nothing: None, lambda _error: None)
    world.answer()
    newcomer = world.signed_in("u")
    leaver = crowd[-1]
    leaver.close(RECONNECT)
    world.settle()

    assert newcomer.closed is None
    assert leaver.closed is not None
    assert leaver.closed.code == 4200
    assert world.tenant.users.sessions("u") == [newcomer.session]
    assert list(world.tenant.sessions) == [newcomer.id]


def test_a_termination_of_a_few_sessions_is_done_at_once() -> None:
    world = LargeWorld(late=False)
    crowd = [world.signed_in("u") for _ in range(CLOSED_AT_ONCE)]
    world.tenant.terminate("u")
    assert open_count(crowd) == 0


@pytest.mark.parametrize("removed", [True, False], ids=["removed", "disabled"])
def test_an_app_that_is_removed_closes_a_few_sessions_in_each_turn(
    world: LargeWorld, removed: bool
) -> None:
    node = world.node
    node.configure(Apps([app("a"), app("b")]))
    crowd = [connected(node, "a") for _ in range(200)]
    bystander = connected(node, "b")
    for peer in (*crowd, bystander):
        say(peer, "subscribe", "c")
    world.settle()
    tenant = node.tenant("a")
    assert tenant is not None

    node.configure(Apps([app("b")] if removed else [app("a", enabled=False), app("b")]))
    with pytest.raises(Refused) as refused:
        connected(node, "a")
    assert refused.value.goodbye.code == (4001 if removed else 4003)
    assert open_count(crowd) == 200
    closed = world.progress(lambda: open_count(crowd))
    world.settle()

    assert open_count(crowd) == 0
    assert max(closed) <= PIECES_A_TURN
    assert {peer.closed.code for peer in crowd if peer.closed} == {4003}
    assert (len(tenant.sessions), tenant.subscriptions, len(tenant.hub)) == (0, 0, 0)
    assert bystander.closed is None


def test_clients_of_a_removed_app_receive_nothing_more(world: LargeWorld) -> None:
    node = world.node
    node.configure(Apps([app("a")]))
    crowd = [connected(node, "a") for _ in range(200)]
    for peer in crowd:
        say(peer, "subscribe", "c")
    world.settle()
    tenant = node.tenant("a")
    assert tenant is not None
    for peer in crowd:
        peer.take()

    node.configure(Apps([app("b")]))
    proceed(tenant.publish([Event("c", "late", b'"{}"')]), lambda _: None, _fail)
    world.answer()
    assert open_count(crowd) == 200
    world.settle()
    assert open_count(crowd) == 0
    assert [peer.told for peer in crowd if peer.told] == []


def test_an_app_that_returns_serves_while_its_old_sessions_are_closed(
    world: LargeWorld,
) -> None:
    node = world.node
    node.configure(Apps([app("a"), app("b")]))
    crowd = [connected(node, "a") for _ in range(200)]
    for peer in crowd:
        say(peer, "subscribe", "c")
    world.settle()
    tenant = node.tenant("a")

    node.configure(Apps([app("b")]))
    assert node.tenant("a") is None
    world.timing.turn_once()
    assert 0 < open_count(crowd) < 200
    node.configure(Apps([app("a", max_channel_name_length=3), app("b")]))
    assert node.tenant("a") is tenant
    assert tenant is not None
    newcomer = connected(node, "a")
    say(newcomer, "subscribe", "c")
    say(newcomer, "subscribe", "long")
    closed = world.progress(lambda: open_count(crowd))
    world.settle()

    assert max(closed) <= PIECES_A_TURN
    assert {peer.closed.code for peer in crowd if peer.closed} == {4003}
    assert open_count(crowd) == 0
    assert newcomer.closed is None
    assert "error: Invalid channel name: long" in newcomer.take()
    assert (len(tenant.sessions), tenant.subscriptions, len(tenant.hub)) == (1, 1, 1)
    counts: list[object] = []
    proceed(tenant.counts(["c"]), counts.append, _fail)
    world.settle()
    assert counts == [{"c": Counts(1, 0)}]
    proceed(tenant.publish([Event("c", "news", b'"{}"')]), lambda _: None, _fail)
    world.settle()
    assert newcomer.take() == ["news c"]


def test_an_app_that_is_removed_and_comes_back_often_is_one_tenant() -> None:
    world = LargeWorld(late=False)
    node = world.node
    node.configure(Apps([app("a"), app("b")]))
    tenants = {name: node.tenant(name) for name in "ab"}
    for _ in range(3):
        node.configure(Apps([app("b")]))
        node.configure(Apps([app("a")]))
    node.configure(Apps([app("a"), app("b")]))
    assert {name: node.tenant(name) for name in "ab"} == tenants
    assert node._retired.keys() == {"1"}  # the app that the world began with


def test_a_node_that_stops_closes_a_few_sessions_in_each_turn(world: LargeWorld) -> None:
    crowd = [world.client() for _ in range(200)]
    done: list[int] = []
    world.node.close(Ending.RECONNECT, lambda: done.append(open_count(crowd)))
    closed = world.progress(lambda: open_count(crowd))
    assert max(closed) <= PIECES_A_TURN
    assert done == [0]


def test_a_fault_in_closing_some_sessions_closes_the_others_and_is_one_line(
    world: LargeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenPeer(FakePeer):
        def close(self, goodbye: Goodbye) -> None:
            raise AssertionError(f"a fault: {goodbye}")

    crowd = [world.signed_in("u") for _ in range(100)]
    world.settle()
    for peer in crowd[10:20]:
        peer.session.peer = BrokenPeer(peer.session)
    proceed(world.tenant.terminate("u"), lambda _nothing: None, lambda _error: None)
    world.settle()
    assert open_count(crowd) == 10
    assert [record.message for record in caplog.records] == ["a background task failed"]


# -- Leaving many channels ---------------------------------------------------------------------


def test_a_client_with_many_channels_leaves_a_few_in_each_turn(world: LargeWorld) -> None:
    peer, bystander = world.client(), world.client()
    for number in range(1000):
        say(peer, "subscribe", f"c{number}")
    say(bystander, "subscribe", "c")
    world.settle()
    bystander.take()

    peer.close(RECONNECT)
    assert world.node.connections == 1
    assert len(world.tenant.hub) == 1001
    left = world.progress(lambda: len(world.tenant.hub), publish="c")

    assert max(left) <= PIECES_A_TURN * LEFT_IN_A_PIECE
    assert len(bystander.take()) >= 1000 // (PIECES_A_TURN * LEFT_IN_A_PIECE)
    assert (len(world.tenant.hub), world.tenant.subscriptions) == (1, 1)
    assert world.tenant.channels_by_kind == {"public": 1}
    assert world.tenant.leaving == set()


def test_a_client_with_a_few_channels_leaves_at_once() -> None:
    world = LargeWorld(late=False)
    peer = world.client()
    for number in range(LEFT_AT_ONCE):
        say(peer, "subscribe", f"c{number}")
    peer.close(RECONNECT)
    assert len(world.tenant.hub) == 0


def test_many_clients_that_disconnect_together_leave_a_few_channels_in_each_turn() -> None:
    world = LargeWorld(late=False)
    crowd = [world.client() for _ in range(20)]
    for peer in crowd:
        for number in range(50):
            say(peer, "subscribe", f"c{number}")
    for peer in crowd:
        peer.close(RECONNECT)
    left = world.progress(lambda: world.tenant.subscriptions)
    assert max(left) <= PIECES_A_TURN * LEFT_IN_A_PIECE
    assert len(world.tenant.hub) == 0


def test_an_ended_session_frees_its_place_at_once_and_keeps_its_id(world: LargeWorld) -> None:
    """Its channels know it by that until it has left them."""
    world.node.configure(Apps([app("a", max_connections=1)]))
    peer = connected(world.node, "a")
    for number in range(100):
        say(peer, "subscribe", f"c{number}")
    world.settle()
    peer.close(RECONNECT)

    first, second = (int(part) for part in peer.id.split("."))
    numbers = iter([(first << 32) | second, 7 << 32])
    world.node.random_bits = lambda _bits: next(numbers)
    assert connected(world.node, "a").id == "7.0"


def test_nothing_is_sent_to_an_ended_session(world: LargeWorld) -> None:
    """Neither answers that come before its turn to leave, nor notices."""
    watcher, ann = world.client(), world.client()
    for number in range(100):
        say(watcher, "subscribe", f"c{number}")
    sign_in(watcher, "w", watchlist=["ann"])
    told: list[bytes] = []
    watcher.session.end()
    watcher.write = lambda chunk, /: told.append(chunk)  # type: ignore[method-assign]
    sign_in(ann, "ann")
    world.answer()
    world.settle()
    assert told == []
    assert len(world.tenant.hub) == 0
    assert world.tenant.users.sessions("w") == []
    assert listed(world) == {}


def test_an_attempt_that_fails_after_the_end_is_not_left() -> None:
    world = LargeWorld(late=True, max_presence_members=1)
    assert world.late is not None
    first, peer = world.client(), world.client()
    say(first, "subscribe", "presence-full", **sign(first, "presence-full", "ann"))
    world.settle()
    for number in range(100):
        say(peer, "subscribe", f"c{number}")
    say(peer, "subscribe", "presence-full", **sign(peer, "presence-full", "bob"))
    world.late.away = True
    say(peer, "subscribe", "fails")
    sign_in(peer, "bob")
    world.late.away = False
    peer.session.end()
    world.late.settle()  # all attempts are answered before the first channel is left
    world.settle()

    assert listed(world) == {"presence-full": Counts(1, 1)}
    assert len(world.tenant.hub) == 1
    assert peer.take() == []


def test_webhooks_report_every_channel_that_a_client_leaves(world: LargeWorld) -> None:
    hooked = App(
        id="1",
        keys=(KEY,),
        webhooks=(Webhook(url="http://localhost"),),
    )
    world.node.configure(Apps([hooked]))
    peer = world.client()
    for number in range(100):
        say(peer, "subscribe", f"c{number}")
    world.settle()
    peer.close(RECONNECT)
    world.node.finish()  # as a server does that stops
    world.answer()
    names = sorted(f"c{number}" for number in range(100))
    for kind, changes in (
        (ChannelOccupied, world.recorded[:100]),
        (ChannelVacated, world.recorded[100:]),
    ):
        assert {type(change) for change in changes} == {kind}
        assert sorted(getattr(change, "channel", "") for change in changes) == names


# -- Lists -------------------------------------------------------------------------------------


def get(world: LargeWorld, **parameters: str) -> list[Response]:
    """Ask for the channels; return where the answer will be."""
    answers: list[Response] = []
    request = ApiRequest(world.tenant, list(parameters.items()), b"", 0.0)
    proceed(endpoints.channels(request), answers.append, _fail)
    world.answer()
    return answers


def _fail(error: Exception) -> None:
    raise AssertionError from error


def listed(world: LargeWorld) -> dict[str, Counts]:
    found: dict[str, Counts] = {}

    def read(listing: Any) -> None:
        for part in listing:
            found.update(part)

    proceed(world.tenant.channels(""), read, _fail)
    world.answer()
    return found


def occupy(world: LargeWorld, *channels: str) -> None:
    """Have somebody elsewhere subscribe to *channels*."""
    for channel in channels:
        world.state.enter(channel, "elsewhere", Options())


def some(count: int) -> list[str]:
    return [f"c{number}" for number in range(count)]


def test_a_long_list_of_channels_is_made_in_slices(world: LargeWorld) -> None:
    occupy(world, *some(5000))
    bystander = world.client()
    say(bystander, "subscribe", "other")
    world.settle()
    bystander.take()
    answers = get(world, info="subscription_count")
    assert answers == []
    turns = 0
    while not answers:
        world.publish("news", "other")
        world.answer()
        world.timing.turn_once()
        world.answer()
        turns += 1
    assert turns > 2
    assert len(bystander.take()) >= turns - 1
    (answer,) = answers
    assert json.loads(answer.body) == {
        "channels": {
            **{f"c{number}": {"subscription_count": 1} for number in range(5000)},
            "other": {"subscription_count": 1},
        }
    }


def test_a_short_list_is_answered_at_once_and_a_long_one_reads_the_same() -> None:
    world = LargeWorld(late=False)
    occupy(world, *some(400))
    ann = world.signed_in("ann")
    say(ann, "subscribe", "#server-to-user-ann")
    (short,) = get(world)
    occupy(world, *(f"d{number}" for number in range(800)))
    answers = get(world, filter_by_prefix="c")
    assert answers == []
    world.settle()
    assert answers[0] == short
    assert short.body.startswith(b'{"channels":{"c0":{},"c1":{}')
    nothing = get(world, filter_by_prefix="x")
    world.settle()
    assert nothing[0].body == b'{"channels":{}}'


def test_a_channel_that_is_occupied_all_the_time_is_in_the_list(world: LargeWorld) -> None:
    """What is occupied or vacated while the list is made may be in it or not."""
    occupy(world, *some(3000))
    comes_and_goes = world.client()
    for number in range(30):
        say(comes_and_goes, "subscribe", f"first-{number}")
    world.settle()
    answers = get(world)
    number = 0
    while not answers:
        say(comes_and_goes, "subscribe", f"new-{number}")
        if number < 30:
            say(comes_and_goes, "unsubscribe", f"first-{number}")
        number += 1
        world.answer()
        world.timing.turn_once()
    names = set(json.loads(answers[0].body)["channels"])
    assert {f"c{number}" for number in range(3000)} <= names
    assert {name.partition("-")[0] for name in names if "-" in name} <= {"first", "new"}


def test_lists_of_one_app_delay_those_of_another_by_their_share() -> None:
    world = LargeWorld(late=False)
    world.node.configure(Apps([app("a"), app("b")]))
    finished: list[str] = []
    for name in "ab":
        peer = connected(world.node, name)
        for number in range(3000):
            say(peer, "subscribe", f"c{number}")
    for name, prefix in [("a", f"{number}") for number in range(20)] + [("b", "c")]:
        tenant = world.node.tenant(name)
        assert tenant is not None
        request = ApiRequest(tenant, (("filter_by_prefix", prefix),), b"", 0.0)
        proceed(endpoints.channels(request), lambda _, name=name: finished.append(name), _fail)  # type: ignore[misc]
    world.settle()
    assert finished.index("b") <= 2
    assert len(finished) == 21


def test_too_many_requests_for_long_lists_are_answered_503(world: LargeWorld) -> None:
    occupy(world, *some(1000))
    waiting = [get(world) for _ in range(MOST_WAITING)]
    refused: list[Exception] = []
    request = ApiRequest(world.tenant, (), b"", 0.0)
    try:
        proceed(endpoints.channels(request), _fail, refused.append)  # type: ignore[arg-type]
        world.answer()
    except ApiError as error:
        refused.append(error)
    assert [getattr(error, "status", None) for error in refused] == [503]
    assert getattr(refused[0], "headers", None) == ((b"Retry-After", b"1"),)
    world.settle()
    assert all(len(answers) == 1 for answers in waiting)
    assert len({id(answers[0]) for answers in waiting}) == 1  # all asked before it was begun
    again = get(world)
    world.settle()
    assert len(again) == 1


def test_a_long_list_of_users_is_made_in_slices(world: LargeWorld) -> None:
    world.tenant.app = App(id="1", keys=(KEY,), max_presence_members=0)
    for number in range(1500):
        world.state.enter("presence-c", f"{number}", Options(), member=Member(f"u{number}"))
    answers: list[Response] = []
    request = ApiRequest(world.tenant, (), b"", 0.0)
    proceed(endpoints.users(request, "presence-c"), answers.append, _fail)
    world.answer()
    assert answers == []
    world.settle()
    assert json.loads(answers[0].body) == {"users": [{"id": f"u{n}"} for n in range(1500)]}


# -- Watchers ----------------------------------------------------------------------------------


def test_many_watchers_are_notified_a_few_in_each_turn_and_in_order(world: LargeWorld) -> None:
    crowd = [world.signed_in(f"w{number}", watchlist=["ann"]) for number in range(600)]
    world.settle()
    for peer in crowd:
        peer.take()
    ann = world.signed_in("ann")
    world.answer()
    assert sum(len(peer.told) for peer in crowd) == 0
    first = world.progress(lambda: sum(len(peer.told) for peer in crowd))
    assert max(first) <= FLUSH_BUDGET
    assert sum(first) == len(crowd)

    ann.close(RECONNECT)
    world.answer()
    world.timing.turn_once()  # offline is on its way to all
    for peer in crowd[30:]:
        peer.close(RECONNECT)
    again = world.signed_in("ann")  # and online for fewer: not past the others
    world.settle()
    for peer in crowd[:30]:
        events = [json.loads(message["data"])["events"][0]["name"] for message in peer.told]
        assert events == ["online", "offline", "online"]
    assert again.closed is None


def test_watchers_are_sent_what_is_due_at_once_in_one_write() -> None:
    world = LargeWorld(late=False, watchlist=True)
    watcher = world.signed_in("w", watchlist=["ann"])
    world.settle()
    watcher.take()
    watcher.chunks = 0
    world.signed_in("ann").close(RECONNECT)
    world.settle()
    assert watcher.take() == ["watchlist_events"] * 2
    assert watcher.chunks == 1


def test_a_notice_is_for_sessions_that_watch_when_their_turn_comes(world: LargeWorld) -> None:
    crowd = [world.signed_in(f"w{number}", watchlist=["ann"]) for number in range(100)]
    world.settle()
    for peer in crowd:
        peer.take()
    world.signed_in("ann")
    world.answer()
    other, ended = crowd[-1], crowd[-2]
    sign_in(other, "w99", watchlist=["bob"])
    for number in range(100):
        say(ended, "subscribe", f"c{number}")
    world.answer()
    ended.take()
    ended.close(RECONNECT)
    world.settle()
    assert "watchlist_events" in crowd[0].take()
    online = [message["data"] for message in other.told if "watchlist" in message["event"]]
    assert [json.loads(data)["events"][0]["user_ids"] for data in online] == [["bob"]]
    assert ended.take() == []


# -- The same as at once -----------------------------------------------------------------------

CLIENTS = 4
FILLERS = [f"filler-{number}" for number in range(LEFT_AT_ONCE + 1)]
names = st.sampled_from(["c", "presence-c", "cache-c", "filler-1"])
steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("subscribe", "unsubscribe", "publish", "sign in", "terminate", "replace"),
                *("die", "die", "answer", "turn", "turn", "turn"),
            ]
        ),
        st.integers(0, CLIENTS - 1),
        names,
    ),
    max_size=40,
)


class Story:
    """What clients of a node do, with the work done in slices or *at_once*."""

    def __init__(self, *, late: bool, at_once: bool) -> None:
        webhooks = (Webhook(url="http://localhost"),)
        self.world = LargeWorld(late=late, watchlist=True, webhooks=webhooks)
        self.at_once = at_once
        self.peers = [self.connect(number) for number in range(CLIENTS)]
        for _ in range(0 if late else CLOSED_AT_ONCE):  # so that a termination is sliced
            self.world.signed_in("u0")

    def connect(self, number: int) -> FakePeer:
        peer = self.world.client()
        for name in FILLERS:  # so that it leaves in slices
            say(peer, "subscribe", f"{name}")
        sign_in(peer, f"u{number % 2}", watchlist=["u0", "u1"])
        return peer

    def do(self, what: str, number: int, channel: str) -> None:  # noqa: C901 - as many verbs
        world, peer = self.world, self.peers[number]
        if what == "subscribe":
            signed = sign(peer, channel, f"u{number % 2}") if channel == "presence-c" else {}
            say(peer, what, channel, **signed)
        elif what == "unsubscribe":
            say(peer, what, channel)
        elif what == "publish":
            world.publish("news", channel, cached=channel == "cache-c")
        elif what == "sign in":
            sign_in(peer, f"u{number % 2}", watchlist=["u0"])
        elif what in {"die", "replace"}:
            if peer.closed is None:
                peer.close(RECONNECT)
            if what == "replace":
                self.peers[number] = self.connect(number)
        elif what == "terminate":
            proceed(world.tenant.terminate(f"u{number % 2}"), lambda _: None, _fail)
        elif what == "answer" and world.late and world.late.waiting:
            world.late.step(world.late.waiting[number % len(world.late.waiting)])
        elif what == "turn":
            world.timing.turn_once()
        if self.at_once:
            world.node.finish()

    def outcome(self) -> dict[str, Any]:
        """What the books say in the end, and what is left of what applications were told."""
        self.world.settle()
        tenant, state = self.world.tenant, self.world.state
        assert tenant.leaving == set()
        assert len(self.world.node._slices) == 0
        occupied: dict[str, int] = {}
        for change in self.world.recorded:
            if isinstance(change, ChannelOccupied | ChannelVacated):
                by = 1 if isinstance(change, ChannelOccupied) else -1
                occupied[change.channel] = occupied.get(change.channel, 0) + by
        assert set(occupied.values()) <= {0, 1}
        sessions = [one for one in tenant.sessions.values() if isinstance(one, PusherSession)]
        subscriptions = Counter(name for session in sessions for name in session.channels)
        online = Counter(session.user.id for session in sessions if session.user)
        assert state.subscriptions == subscriptions
        assert {name for name, count in occupied.items() if count} == set(subscriptions)
        assert state.online == online
        assert state.share() == self.world.asserted()
        return {
            "open": [peer.closed is None for peer in self.peers],
            "sessions": len(tenant.sessions),
            "channels": {name: tenant.hub.count(name) for name in tenant.hub._channels},
            "subscriptions": tenant.subscriptions,
            "kinds": {kind: count for kind, count in tenant.channels_by_kind.items() if count},
            "engine": state.subscriptions,
            "members": {name: set(one.user_ids()) for name, one in state.presences.items()},
            "online": state.online,
            "signed in": {user: len(tenant.users.sessions(user)) for user in ("u0", "u1")},
            "watching": (tenant.users.watchers, state.watched, len(tenant.watching)),
            "occupied": {name for name, count in occupied.items() if count},
            "seen": [replayed_members(peer) for peer in self.peers if peer.closed is None],
        }


@settings(deadline=None, max_examples=60)
@given(steps, st.booleans())
def test_work_in_slices_has_the_outcome_of_work_at_once(
    story: list[tuple[str, int, str]], late: bool
) -> None:
    """
    For every order of joins, leaves, sign-ins, publishes, ends, terminations and turns of the loop:
    in the end hub, engine, members, users and webhooks are as if nothing had been put off.
    """
    if any(what == "terminate" for what, *_ in story):
        # Who is closed depends on who has signed in by then: on when the engine answers, too.
        late = False
    outcomes = []
    for at_once in (True, False):
        told = Story(late=late, at_once=at_once)
        for step in story:
            told.do(*step)
        outcomes.append(told.outcome())
    assert outcomes[0] == outcomes[1]
