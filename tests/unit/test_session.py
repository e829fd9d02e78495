"""A client's session and its node, over an engine that answers at once and one that does not."""

import gc
import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client.signing import Credentials
from heliograph.config.apps import App, AppKey, Apps, HistoryRule, Webhook
from heliograph.config.settings import ConnectionSettings
from heliograph.engine.answers import Change, Counts
from heliograph.engine.base import PAGE_BYTES, Engine, Space
from heliograph.engine.memory import MemoryEngine
from heliograph.engine.share import Share
from heliograph.hub.channel import Subscription
from heliograph.hub.facts import Event
from heliograph.node.dialect import ClientLane, Ending, Goodbye, Opening, Refused
from heliograph.node.journal import Journal, Occurrence
from heliograph.node.node import Node
from heliograph.node.policy import Policy
from heliograph.node.tenant import Tenant
from heliograph.protocols.pusher import messages, refusals
from heliograph.protocols.pusher.dialect import PusherDialect
from heliograph.protocols.pusher.lanes import PusherLane
from heliograph.protocols.pusher.session import PusherSession
from heliograph.reply import proceed
from tests.unit.fakes import Recorder
from tests.unit.late_engine import LateEngine

KEY = AppKey(key="key", secret="secret")
CREDENTIALS = Credentials(KEY.key, KEY.secret)


class LineFraming:
    """A message is a line."""

    compression = False

    def frame(self, text: bytes, /) -> bytes:
        return text + b"\n"

    uncompressed = frame


class FakePeer:
    """Remembers what a client was told."""

    lane: ClientLane = PusherLane(LineFraming())

    def __init__(self, session: PusherSession) -> None:
        self.id = session.id
        self.session = session
        self.told: list[dict[str, Any]] = []
        self.closed: Goodbye | None = None
        self.chunks = 0  # that were written to it
        self.free_bytes = PAGE_BYTES
        self.waiting: dict[Callable[[], object], None] = {}  # for room

    def write(self, chunk: bytes, /) -> None:
        self.chunks += 1
        if self.closed is None:
            self.told += [json.loads(line) for line in chunk.splitlines()]

    def send(self, *texts: bytes) -> None:
        self.write(b"\n".join(texts))

    def room(self) -> int:
        return self.free_bytes

    def when_room(self, callback: Callable[[], object]) -> None:
        self.waiting[callback] = None

    def read(self, free_bytes: int = PAGE_BYTES) -> None:
        """Have room again for *free_bytes*."""
        self.free_bytes = free_bytes
        waiting, self.waiting = self.waiting, {}
        for callback in waiting:
            callback()

    def close(self, goodbye: Goodbye) -> None:
        self.closed = goodbye
        self.session.end()

    def take(self) -> list[str]:
        """What was told since the last time, in short."""
        told, self.told = self.told, []
        return [short(message) for message in told]


def short(message: dict[str, Any]) -> str:
    name = message["event"].rpartition(":")[2]
    if name == "error":
        return f"error: {message['data']['message']}"
    return f"{name} {message['channel']}" if "channel" in message else name


class FakeTiming:
    """A loop that turns when the test says so."""

    def __init__(self) -> None:
        self.due: list[Callable[[], object]] = []
        self.delayed: list[tuple[float, Callable[[], object]]] = []
        self.time = 0.0

    def soon(self, callback: Callable[[], object]) -> None:
        self.due.append(callback)

    when_read = soon

    def now(self) -> float:
        return self.time

    def later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> None:
        self.delayed.append((delay_s, lambda: callback(*arguments)))

    def turn(self) -> None:
        while self.due:
            self.due.pop(0)()

    def elapse(self) -> None:
        """Let everything that was put off happen."""
        delayed, self.delayed = self.delayed, []
        began = self.time
        for delay_s, callback in sorted(delayed, key=lambda one: one[0]):
            self.time = began + delay_s
            callback()


class World:
    """A node with one app, and clients of it."""

    def __init__(
        self,
        *,
        late: bool,
        timing: FakeTiming | None = None,
        policy: Policy | None = None,
        every: HistoryRule | None = None,
        wrap: Callable[[Engine], Engine] | None = None,
        **settings: Any,
    ) -> None:
        self.timing = timing or FakeTiming()
        self.memory = memory = MemoryEngine(
            lambda: self.timing.time, wall=lambda: self.timing.time, epoch="1"
        )
        self.late = LateEngine(memory) if late else None
        app = App(id="1", name="test", keys=(KEY,), **settings)
        numbers = iter(range(1, 10_000))
        engine: Engine = self.late or memory
        if wrap is not None:
            engine = wrap(engine)
        self.recorder = Recorder()
        self.recorded: list[Change] = self.recorder.changes
        self.occurred: list[Occurrence] = []
        self.node = Node(
            Apps([app]),
            engine,
            self.timing,
            lambda _bits: next(numbers),
            journal=Journal(owed=[self.recorder]),
            policy=policy,
            every=every,
        )
        self.dialect = PusherDialect(self.node)

    @property
    def space(self) -> Space:
        """The state of the app, as the node uses it."""
        tenant = self.node.tenant("1")
        assert tenant is not None
        return tenant.space

    def asserted(self) -> Share:
        """What the node should want, by the channels and the users of its sessions."""
        tenant = self.node.tenant("1")
        assert tenant is not None
        return asserted_by(tenant)

    def client(self) -> FakePeer:
        session = self.dialect.connect(Opening(dialect=self.dialect, key="key"))
        peer = FakePeer(session)
        session.open(peer)
        return peer

    def settle(self) -> None:
        if self.late:
            self.late.settle()
        self.timing.turn()

    def publish(self, name: str, channel: str, **fields: Any) -> None:
        tenant = self.node.tenant("1")
        assert tenant is not None
        history = tenant.histories.of(channel, cached=fields.pop("cached", False))
        keep = None if history is None else history.keep
        reply = tenant.publish([Event(channel, name, b'"{}"', keep=keep, **fields)])
        proceed(reply, lambda _: None, lambda _: None)


def asserted_by(tenant: Tenant) -> Share:
    """What a node should want of an app, by the channels and the users of its sessions."""
    share = Share()
    for session in tenant.sessions.values():
        assert isinstance(session, PusherSession)
        for channel in session.channels:
            share.enter(channel, (session.members or {}).get(channel))
        if session.user is not None:
            share.sign_in(session.user.id, session.user.watchlist)
    return share


@pytest.fixture(params=[False, True], ids=["memory", "late"])
def late(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def world(late: bool) -> World:
    return World(late=late)


def say(peer: FakePeer, event: str, channel: str, **fields: Any) -> None:
    now = fields.pop("now", 0.0)
    if peer.closed is not None:
        return
    if event.startswith("client-"):
        message: dict[str, Any] = {"event": event, "channel": channel, "data": fields}
    else:
        message = {"event": f"pusher:{event}", "data": {"channel": channel, **fields}}
    peer.session.receive(json.dumps(message).encode(), now)


def sign(peer: FakePeer, channel: str, user_id: str | None = None) -> dict[str, str]:
    data = None if user_id is None else json.dumps({"user_id": user_id})
    signed = {"auth": CREDENTIALS.authorize_subscription(peer.id, channel, data)}
    if data is not None:
        signed["channel_data"] = data
    return signed


def test_the_acknowledgement_precedes_any_event_of_that_channel(world: World) -> None:
    """And what was published before it is never delivered."""
    peer = world.client()
    world.publish("before", "c")
    say(peer, "subscribe", "c")
    world.publish("after", "c")
    world.settle()
    assert peer.take() == ["subscription_succeeded c", "after c"]


def test_subscribe_unsubscribe_subscribe_in_one_breath_ends_subscribed(world: World) -> None:
    peer = world.client()
    for event in ("subscribe", "unsubscribe", "subscribe"):
        say(peer, event, "c")
    world.settle()
    world.publish("heard", "c")
    world.settle()
    told = peer.take()
    assert told[-2:] == ["subscription_succeeded c", "heard c"]
    assert told.count("heard c") == 1


def test_unsubscribe_before_the_answer_ends_unsubscribed() -> None:
    world = World(late=True)
    peer = world.client()
    say(peer, "subscribe", "c")
    say(peer, "unsubscribe", "c")
    world.settle()
    world.publish("lost", "c")
    world.settle()
    assert peer.take() == []


def test_a_connection_that_dies_while_joining_leaves_nothing_behind(world: World) -> None:
    peer, witness = world.client(), world.client()
    say(witness, "subscribe", "presence-c", **sign(witness, "presence-c", "w"))
    world.settle()
    witness.take()
    say(peer, "subscribe", "presence-c", **sign(peer, "presence-c", "u"))
    say(peer, "subscribe", "c")
    peer.session.end()
    world.settle()
    # An attempt that is withdrawn before the engine executed it is seen by nobody.
    seen = [] if world.late else ["member_added presence-c", "member_removed presence-c"]
    assert witness.take() == seen
    assert world.space.share() == world.asserted()
    tenant = world.node.tenant("1")
    assert tenant is not None
    assert "c" not in tenant.hub
    assert list(tenant.sessions) == [witness.id]


def test_a_refused_subscription_can_be_tried_again(world: World) -> None:
    peer = world.client()
    say(peer, "subscribe", "private-c", auth="key:wrong")
    say(peer, "subscribe", "private-c", **sign(peer, "private-c"))
    world.settle()
    first, second = peer.take()
    assert first.startswith("error: Invalid signature")
    assert second == "subscription_succeeded private-c"


def test_an_unanswered_subscription_closes_the_client_with_4100() -> None:
    """Never a refused subscription: client libraries forget such a channel for good."""
    world = World(late=True)
    assert world.late
    peer, other = world.client(), world.client()
    say(peer, "subscribe", "c")
    world.settle()
    world.late.away = True
    say(peer, "subscribe", "d")
    say(peer, "subscribe", "e")
    world.settle()
    assert peer.take() == ["subscription_succeeded c"]
    assert peer.closed is not None
    assert peer.closed.code == 4100
    assert other.closed is None
    world.late.away = False
    world.settle()
    assert world.space.share() == world.asserted() == Share()


def test_a_client_event_that_the_engine_did_not_take_is_told_to_its_sender() -> None:
    world = World(late=True)
    assert world.late
    peer = world.client()
    say(peer, "subscribe", "private-c", **sign(peer, "private-c"))
    world.settle()
    world.late.away = True
    say(peer, "client-x", "private-c")
    world.settle()
    assert peer.take()[-1] == "error: Client event rejected - try again later"


def test_an_error_that_closes_ends_the_session(world: World) -> None:
    peer = world.client()
    say(peer, "subscribe", "c")
    world.settle()
    world.node.close(Ending.RECONNECT)
    world.settle()
    assert peer.closed is not None
    assert peer.closed.code == 4200
    assert world.node.connections == 0
    world.publish("lost", "c")
    world.settle()
    assert peer.take() == ["subscription_succeeded c"]


def test_tokens_for_client_events_come_back_evenly() -> None:
    world = World(late=False, max_client_events_per_second=10)
    peer, other = world.client(), world.client()
    for one in (peer, other):
        say(one, "subscribe", "private-c", **sign(one, "private-c"))

    def accepted(now: float, tries: int) -> int:
        other.take()
        for _ in range(tries):
            say(peer, "client-x", "private-c", now=now)
        world.settle()
        return other.take().count("client-x private-c")

    assert accepted(100.0, 15) == 10
    assert accepted(100.05, 1) == 0
    assert accepted(100.11, 5) == 1
    assert accepted(200.0, 15) == 10


def counts_sent_to(peer: FakePeer) -> list[int]:
    told, peer.told = peer.told, []
    return [
        json.loads(message["data"])["subscription_count"]
        for message in told
        if message["event"] == "pusher_internal:subscription_count"
    ]


def test_one_client_in_a_loop_does_not_have_every_subscriber_written_to_each_time() -> None:
    world = World(late=False, subscription_count=True)
    others = [world.client() for _ in range(84)]
    for other in others:
        say(other, "subscribe", "c")
    world.settle()
    assert len(others[0].told) == 2  # it is subscribed, and alone
    for _ in range(3):
        world.timing.elapse()
        world.settle()
    assert all(counts_sent_to(other)[-1] == 84 for other in others)
    assert world.timing.delayed == []

    greedy = world.client()
    for _ in range(100):
        say(greedy, "subscribe", "c")
        say(greedy, "unsubscribe", "c")
        world.settle()
    say(greedy, "subscribe", "c")
    world.settle()
    assert [counts_sent_to(other) for other in others] == [[84]] * 84
    world.timing.elapse()
    world.settle()
    assert [counts_sent_to(other) for other in others] == [[85]] * 84


@pytest.mark.parametrize("before", [False, True])
def test_subscription_counts_hold_at_once_when_they_are_switched(*, before: bool) -> None:
    world = World(late=False, subscription_count=before)
    peers = [world.client() for _ in range(3)]
    for peer in peers:
        say(peer, "subscribe", "c")
    world.settle()
    world.timing.elapse()
    world.settle()
    peers[0].told.clear()
    world.node.configure(Apps([App(id="1", keys=(KEY,), subscription_count=not before)]))
    say(peers[2], "unsubscribe", "c")
    world.settle()
    assert counts_sent_to(peers[0]) == ([] if before else [2])


def test_clients_of_a_removed_app_receive_neither_counts_nor_states_of_users() -> None:
    world = World(late=False, subscription_count=True, watchlist=True)
    peers = [world.client() for _ in range(100)]
    for number, peer in enumerate(peers):
        say(peer, "subscribe", "c")
        data = json.dumps({"id": f"u{number}", "watchlist": [f"u{one}" for one in range(50)]})
        signed = CREDENTIALS.authorize_user(peer.id, data)
        peer.session.receive(
            json.dumps(
                {
                    "event": "pusher:signin",
                    "data": {"auth": signed, "user_data": data},
                }
            ).encode(),
            0.0,
        )
    world.settle()
    for peer in peers:
        peer.told.clear()
    world.node.configure(Apps([app("other")]))
    world.settle()
    assert {peer.closed.code for peer in peers if peer.closed} == {4003}
    assert [peer.told for peer in peers if peer.told] == []


def test_large_channels_are_sent_their_number_at_intervals() -> None:
    world = World(late=False, subscription_count=True)
    first = world.client()
    for one in [first, *(world.client() for _ in range(99))]:
        say(one, "subscribe", "c")
        world.timing.elapse()
        world.settle()
    world.timing.elapse()
    assert counts_sent_to(first) == list(range(1, 101))

    for one in [world.client() for _ in range(50)]:
        say(one, "subscribe", "c")
    world.settle()
    assert first.told == []
    assert [delay for delay, _ in world.timing.delayed] == [5.0]
    world.timing.elapse()
    world.settle()
    assert counts_sent_to(first) == [150]
    world.timing.elapse()
    assert world.timing.delayed == []


def test_what_one_connection_subscribes_to_by_default_holds_less_than_its_write_buffer() -> None:
    """With the longest names, and nobody else in any of the channels."""
    world = World(late=False, subscription_count=True)
    client = world.client()
    tracemalloc.start()
    try:
        number = 0
        while client.closed is None and "error" not in str(client.told[-1:]):
            client.take()
            world.recorded.clear()
            say(client, "subscribe", f"{number:0200d}")
            number += 1
        client.take()
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1000 < number < 2000
    assert held < ConnectionSettings().max_write_buffer


def test_a_name_is_one_string_for_all_subscribers_of_its_channel() -> None:
    """Each client's message has the name anew, 249 bytes for one of the longest."""
    world = World(late=False)
    name = "presence-c"
    names = []
    for number in range(3):
        client = world.client()
        say(client, "subscribe", name, **sign(client, name, f"u{number}"))
        session = client.session
        (place,) = session.channels.values()
        assert isinstance(place, Subscription)
        assert session.members is not None
        names += [place.channel.name, *session.channels, *session.members]
    assert len(names) == 9
    assert len({id(one) for one in names}) == 1


def test_no_name_that_a_client_sends_is_interned() -> None:
    """Where CPython never frees interned strings, each would be held for ever."""
    world = World(late=False)
    client = world.client()
    for name in ("public-1", "private-2", "presence-3", "cache-4"):
        signed = {} if name.startswith(("public", "cache")) else sign(client, name, "u")
        say(client, "subscribe", name, **signed)
        say(client, f"client-of-{name}", name)
        for text in (name, f"client-of-{name}"):
            mine = "".join(list(text))  # equal to what the server has, and another object
            assert sys.intern(mine) is mine
    assert len(client.session.channels) == 4


channels = st.sampled_from(["c", "private-c", "presence-c", "cache-c"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), st.integers(0, 3), channels),
        st.tuples(st.just("unsubscribe"), st.integers(0, 3), channels),
        st.tuples(st.just("client-x"), st.integers(0, 3), channels),
        st.tuples(st.just("die"), st.integers(0, 3), channels),
        st.tuples(st.just("publish"), st.integers(0, 3), channels),
        st.tuples(st.just("answer"), st.integers(0, 3), channels),
        st.tuples(st.just("turn"), st.integers(0, 3), channels),
    ),
    max_size=50,
)


@given(steps, st.booleans())
def test_clients_and_server_agree_in_any_order_of_answers(  # noqa: C901 - a story has many verbs
    story: list[tuple[str, int, str]], late: bool
) -> None:
    """
    For every order of requests, answers and publishes: each client is told a success before
    anything of a channel, replaying members on the roster gives who is there, and in the end the
    server's books say what the clients asked for last.
    """
    world = World(late=late)
    peers = [world.client() for _ in range(4)]
    wanted: dict[tuple[int, str], bool] = {}
    for what, number, channel in story:
        peer = peers[number]
        if what == "subscribe" and peer.closed is None:
            signed = {}
            if channel.startswith("pr"):
                user = f"u{number % 2}" if channel.startswith("presence") else None
                signed = sign(peer, channel, user)
            say(peer, what, channel, **signed)
            wanted[number, channel] = True
        elif what in {"unsubscribe", "client-x"}:
            say(peer, what, channel)
            if what == "unsubscribe":
                wanted[number, channel] = False
        elif what == "die" and peer.closed is None:
            peer.close(messages.goodbye(refusals.reconnect()))
            wanted = {key: value and key[0] != number for key, value in wanted.items()}
        elif what == "publish":
            world.publish("news", channel, cached="cache" in channel)
        elif what == "answer" and world.late and channel in world.late.waiting:
            world.late.step(channel)
        elif what == "turn":
            world.timing.turn()
    world.settle()

    tenant = world.node.tenant("1")
    assert tenant is not None
    for channel in ("c", "private-c", "presence-c", "cache-c"):
        there = [n for n in range(4) if wanted.get((n, channel))]
        assert tenant.hub.count(channel) == len(there)
        for number in there:
            if channel == "presence-c":
                assert replayed_members(peers[number]) == {f"u{n % 2}" for n in there}
            assert_success_comes_first(peers[number], channel)


def replayed_members(peer: FakePeer) -> set[str]:
    members: set[str] = set()
    for message in peer.told:
        if message.get("channel") != "presence-c":
            continue
        data = json.loads(message["data"]) if message["event"].startswith("pusher") else None
        match message["event"]:
            case "pusher_internal:subscription_succeeded":
                assert data
                members = set(data["presence"]["ids"])
                assert data["presence"]["count"] == len(members)
                assert set(data["presence"]["hash"]) == members
            case "pusher_internal:member_added":
                assert data
                assert data["user_id"] not in members
                members.add(data["user_id"])
            case "pusher_internal:member_removed":
                assert data
                members.remove(data["user_id"])
    return members


def assert_success_comes_first(peer: FakePeer, channel: str) -> None:
    events = [m["event"] for m in peer.told if m.get("channel") == channel]
    assert events[0] == "pusher_internal:subscription_succeeded"
    if channel == "cache-c":
        for place, name in enumerate(events):
            if name == "pusher_internal:subscription_succeeded":
                assert events[place + 1] in {"pusher:cache_miss", "news"}


def test_what_applications_with_webhooks_are_told(late: bool) -> None:
    """Changes are told once, also of a subscription that was given up while it was asked for."""
    world = World(late=late, webhooks=(Webhook(url="http://localhost"),))
    ann, bob = world.client(), world.client()
    say(ann, "subscribe", "presence-c", **sign(ann, "presence-c", "ann"))
    say(bob, "subscribe", "cache-c")
    say(bob, "subscribe", "given-up")
    say(bob, "unsubscribe", "given-up")
    world.settle()
    say(ann, "client-x", "presence-c", a=1)
    world.settle()
    ann.session.end()
    world.settle()

    told = sorted(str(type(happening).__name__) for happening in world.recorded)
    given_up = [] if late else ["ChannelOccupied", "ChannelVacated"]
    assert told == sorted(
        [
            *(*given_up, "ChannelOccupied", "ChannelVacated"),  # presence-c
            *("ChannelOccupied", "CacheMiss"),
            *("MemberAdded", "MemberRemoved", "Event"),
        ]
    )
    assert [mark.number for mark in world.recorder.marks] == list(range(1, len(told) + 1))
    (sent,) = [one for one in world.recorded if isinstance(one, Event)]
    assert (sent.name, sent.except_id, sent.user_id) == ("client-x", ann.id, "ann")


def test_an_application_without_webhooks_is_told_nothing(world: World) -> None:
    peer = world.client()
    say(peer, "subscribe", "cache-c")
    world.settle()
    peer.session.end()
    world.settle()
    assert world.recorded == []


# -- Several apps, and changes of them -------------------------------------------------------


def app(app_id: str, **settings: Any) -> App:
    return App(id=app_id, keys=(AppKey(key=f"key-{app_id}", secret="secret"),), **settings)


def connected(node: Node, app_id: str) -> FakePeer:
    dialect = PusherDialect(node)
    session = dialect.connect(Opening(dialect=dialect, key=f"key-{app_id}"))
    peer = FakePeer(session)
    session.open(peer)
    return peer


def test_what_is_configured_anew_holds_at_once() -> None:
    world = World(late=False)
    node = world.node
    node.configure(Apps([app("a"), app("b"), app("c")]))
    stays, disabled, removed = (connected(node, name) for name in "abc")

    node.configure(Apps([app("a", max_connections=1), app("b", enabled=False), app("d")]))

    assert stays.closed is None
    for gone in (disabled, removed):
        assert gone.closed is not None
        assert gone.closed.code == 4003
    connected(node, "d")
    for name, code in (("a", 4004), ("b", 4003), ("c", 4001)):
        with pytest.raises(Refused) as caught:
            connected(node, name)
        assert caught.value.goodbye.code == code
    assert node.connections == 2


def test_a_changed_limit_holds_for_those_who_are_connected() -> None:
    world = World(late=False)
    world.node.configure(Apps([app("a")]))
    peer = connected(world.node, "a")
    world.node.configure(Apps([app("a", max_channel_name_length=3)]))
    say(peer, "subscribe", "abcd")
    assert peer.take() == ["error: Invalid channel name: abcd"]


def test_apps_share_neither_channels_nor_users_nor_counts() -> None:
    world = World(late=False)
    node = world.node
    node.configure(Apps([app("a"), app("b")]))
    ann, bob = connected(node, "a"), connected(node, "b")
    for peer in (ann, bob):
        say(peer, "subscribe", "c")
        peer.take()
    tenant = node.tenant("a")
    assert tenant is not None
    tenant.publish([Event("c", "for-a", b'"{}"')])
    world.settle()
    assert (ann.take(), bob.take()) == (["for-a c"], [])
    assert tenant.counts(["c"]) == {"c": Counts(1, 0)}


def test_a_socket_id_is_nobody_elses() -> None:
    world = World(late=False)
    numbers = iter([(1 << 32) + 1, (1 << 32) + 1, (2 << 32) + 2])
    world.node.random_bits = lambda _bits: next(numbers)
    assert [world.client().id, world.client().id] == ["1.1", "2.2"]
