"""
Whole nodes, with hubs and sessions, over one shared state whose links fail.

At the end engine, hub and sessions agree on every node, and each client that is still connected has
seen the truth: what it missed, it was closed for. What one holder after another kept of owed
changes is the truth, too.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.config.apps import App, Apps, HistoryRule, Webhook
from heliograph.engine.answers import Counts, Mark, Owed
from heliograph.engine.testing.cluster import Clock, run_now
from heliograph.engine.testing.engine import LinkedEngine
from heliograph.engine.testing.link import Link, Pace
from heliograph.engine.testing.machine import Receiver
from heliograph.engine.testing.state import LEASE_S, SharedState, Snapshot
from heliograph.errors import EngineError
from heliograph.hub.channel import Subscription
from heliograph.hub.facts import Event
from heliograph.node.dialect import Ending, Opening
from heliograph.node.journal import Journal, Settle
from heliograph.node.node import Node
from heliograph.node.tenant import Tenant
from heliograph.protocols.pusher.dialect import PusherDialect
from heliograph.protocols.pusher.session import PusherSession
from heliograph.reply import proceed
from tests.unit.fakes import Recorder
from tests.unit.test_large_work import sign_in
from tests.unit.test_session import (
    KEY,
    FakePeer,
    FakeTiming,
    asserted_by,
    replayed_members,
    say,
    sign,
)

TICK_S = 0.1

LASTING = {
    "freeze up": "frozen_up",
    "freeze down": "frozen_down",
    "lose up": "losing_up",
    "lose down": "losing_down",
}
STATE_FAULTS = {
    *("empty", "set back", "declare dead"),
    *("lose share", "lose channel", "lose members", "lose log"),
}
FAULTS = {
    *("cut", "refuse", "withhold", "late", "unreachable", "stall", "kill"),
    *LASTING,
    *STATE_FAULTS,
}
APP_ID = "1"
CHANNELS = ("c", "private-c", "presence-c", "cache-c")
CLIENTS = 6


class ClockTiming(FakeTiming):
    """A loop whose timers fire when time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()

    def later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> None:
        at = self.time + delay_s
        heapq.heappush(self.timers, (at, next(self._numbers), lambda: callback(*arguments)))

    def elapse_for(self, seconds: float) -> None:
        self.time += seconds
        while self.timers and self.timers[0][0] <= self.time:
            heapq.heappop(self.timers)[2]()


class Keeper(Recorder):
    """An observer that keeps owed changes when a test says so, as webhooks do in one write."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self._receiver = receiver
        self._settle: Settle | None = None
        self._noted: list[Owed | Mark] = []  # a mark is a restart

    @property
    def holds(self) -> bool:
        return self._settle is not None

    def hold(self, app_id: str, term: str, settle: Settle) -> None:
        assert self._settle is None, "the node is the holder already"
        super().hold(app_id, term, settle)
        self._settle = settle

    def owe(self, app_id: str, changes: Sequence[Owed]) -> None:
        assert self._settle is not None, "changes are owed to a node that is not the holder"
        super().owe(app_id, changes)
        self._noted += changes

    def restart(self, app_id: str, scope: str, epoch: str) -> None:
        assert self._settle is not None, "a scope is restarted on a node that is not the holder"
        super().restart(app_id, scope, epoch)
        self._noted.append(Mark(scope, epoch, 0))

    def release(self, app_id: str) -> None:
        super().release(app_id)
        self._settle = None
        self._noted.clear()

    def keep(self, *, settles: bool = True) -> None:
        """Keep what was noted, and settle it if the node does not die before."""
        assert self._settle is not None
        noted, self._noted = self._noted, []
        mark = self._receiver.keep(noted)
        if settles and mark is not None:
            self._settle(mark)


class LinkedNode:
    """A node, its clients' loop, and its link."""

    def __init__(self, cluster: "NodeCluster", number: int) -> None:
        self.link = Link(cluster.state, Pace.STEPPED)
        self.engine = LinkedEngine(self.link, cluster.clock, f"incarnation {number}")
        run_now(self.engine.open())
        self.timing = ClockTiming()
        self.keeper = Keeper(cluster.receiver)
        app = App(
            id=APP_ID,
            keys=(KEY,),
            webhooks=(Webhook(url="http://localhost"),),
            watchlist=True,
            history=cluster.history,
        )
        bits = count(number * 1000)
        self.node = Node(
            Apps([app]),
            self.engine,
            self.timing,
            lambda _bits: next(bits),
            journal=Journal(owed=[self.keeper]),
        )
        self.dialect = PusherDialect(self.node)
        self.stalled = False

    @property
    def tenant(self) -> Tenant:
        tenant = self.node.tenant(APP_ID)
        assert tenant is not None
        return tenant

    @property
    def sessions(self) -> list[PusherSession]:
        return [one for one in self.tenant.sessions.values() if isinstance(one, PusherSession)]

    def client(self) -> FakePeer:
        session = self.dialect.connect(Opening(dialect=self.dialect, key="key"))
        peer = FakePeer(session)
        session.open(peer)
        return peer


class NodeCluster:
    """Some nodes over one state."""

    def __init__(self, number: int, history: tuple[HistoryRule, ...] = ()) -> None:
        self.history = history
        self.clock = Clock()
        texts = count()
        self.state = SharedState(self.clock, lambda: f"text {next(texts)}")
        self.receiver = Receiver()
        self.snapshot: Snapshot | None = None
        self._numbers = count(1)
        self.nodes = [LinkedNode(self, next(self._numbers)) for _ in range(number)]
        self.settle()

    def settle(self) -> None:
        moved = True
        while moved:
            moved = False
            for one in self.nodes:
                if not one.stalled:
                    moved |= one.link.move() or bool(one.timing.due)
                    one.timing.turn()

    def elapse(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += TICK_S
            for one in self.nodes:
                if not one.stalled:
                    one.engine.tick()
                    one.timing.elapse_for(TICK_S)
            self.settle()

    def replace(self, number: int) -> None:
        """Kill a node: its process and its clients are gone without a word. Another one starts."""
        dead = self.nodes[number]
        dead.link.close()
        self.nodes[number] = LinkedNode(self, next(self._numbers))
        self.settle()

    def keep(self, one: LinkedNode, *, settles: bool = True) -> None:
        """Have a node keep what it is owed; only the holder can write."""
        holder = self.state.app(APP_ID).holder
        if not one.stalled and one.keeper.holds and holder == one.engine.node:
            one.keeper.keep(settles=settles)

    def heal(self) -> None:
        for one in self.nodes:
            one.stalled = False
            one.link.deliver_withheld()
            one.link.heal()
        self.elapse(3 * LEASE_S)


class Story:
    """What clients and links do, in the order of a test."""

    data = b'"{}"'

    def __init__(self, number: int, history: tuple[HistoryRule, ...] = ()) -> None:
        self.cluster = NodeCluster(number, history)
        self.peers = [self.cluster.nodes[one % number].client() for one in range(CLIENTS)]
        self.homes = [one % number for one in range(CLIENTS)]
        self.names = count()
        self.accepted: dict[str, list[str]] = {}  # channel -> events that were answered 200
        self.refused: set[str] = set()
        self.owed_to: dict[tuple[int, str], set[str]] = {}  # client, channel -> events since then
        self.subscribed: set[tuple[int, str]] = set()

    def home(self, number: int) -> LinkedNode:
        return self.cluster.nodes[self.homes[number]]

    def reconnect(self, number: int) -> None:
        self.peers[number] = self.home(number).client()
        self.subscribed = {key for key in self.subscribed if key[0] != number}
        self.owed_to = {key: value for key, value in self.owed_to.items() if key[0] != number}

    def claim(self, _number: int, _channel: str) -> dict[str, Any]:
        """Return what a client adds to its subscription."""
        return {}

    def note_subscriptions(self) -> None:
        """From the acknowledgement on, a client is owed what is accepted."""
        for number, peer in enumerate(self.peers):
            if peer.closed is not None:
                continue
            for channel in CHANNELS:
                there = f"subscription_succeeded {channel}" in map(_short, peer.told)
                if (number, channel) in self.subscribed and there:
                    self.owed_to.setdefault((number, channel), set())

    def do(self, what: str, number: int, channel: str) -> None:
        if what in STATE_FAULTS:
            self.damage(what, self.home(number), channel)
        elif what in FAULTS:
            self.break_link(what, number)
        elif what in {"keep", "keep and settle"}:
            self.cluster.keep(self.home(number), settles=what == "keep and settle")
        elif what in {"step", "settle", "second", "lease"}:
            self.wait(what, number)
        else:
            self.act(what, number, channel)
        self.note_subscriptions()

    def act(self, what: str, number: int, channel: str) -> None:
        """Have a client, or a publisher on its node, do something."""
        peer, one = self.peers[number], self.home(number)
        if what == "subscribe" and channel not in peer.session.channels and peer.closed is None:
            user = f"u{number % 2}" if channel.startswith("presence") else None
            signed = sign(peer, channel, user) if channel.startswith("pr") else {}
            peer.told = [m for m in peer.told if m.get("channel") != channel]
            say(peer, "subscribe", channel, **signed, **self.claim(number, channel))
            self.subscribed.add((number, channel))
        elif what == "unsubscribe" and channel in peer.session.channels:
            say(peer, "unsubscribe", channel)
            self.subscribed.discard((number, channel))
            self.owed_to.pop((number, channel), None)
        elif what == "sign in":
            sign_in(peer, f"u{number % 2}", watchlist=["u0", "u1"])
        elif what == "die":
            if peer.closed is None:
                peer.session.close(Ending.RECONNECT)
            self.reconnect(number)
        elif what == "publish":
            self.publish(one, channel)
        elif what == "terminate":
            proceed(one.tenant.terminate(f"u{number % 2}"), lambda _: None, _expected)

    def break_link(self, what: str, number: int) -> None:  # noqa: C901 - as many faults
        """Begin a fault of the node of a client, or of the state; some end by being named again."""
        one = self.home(number)
        link = one.link
        if what in LASTING:
            setattr(link, LASTING[what], True)
        elif what == "cut":
            link.cut(executed=number % 3)
        elif what == "refuse":
            link.refusing = not link.refusing
        elif what == "withhold":
            link.withhold()
        elif what == "late":
            link.deliver_withheld()
        elif what == "unreachable":
            link.reachable = not link.reachable
        elif what == "stall":
            one.stalled = not one.stalled
        elif what == "kill":
            home = self.homes[number]
            self.cluster.replace(home)
            for other, at in enumerate(self.homes):
                if at == home:
                    self.reconnect(other)

    def damage(self, what: str, one: LinkedNode, channel: str) -> None:
        """Have the state lose something, or a node that is alive."""
        cluster = self.cluster
        app = cluster.state.app(APP_ID)
        match what:
            case "empty":
                cluster.state.empty()
            case "set back" if cluster.snapshot is None:
                cluster.snapshot = cluster.state.snapshot()
            case "set back":
                assert cluster.snapshot is not None
                cluster.state.restore(cluster.snapshot)
                cluster.snapshot = None
            case "declare dead":
                cluster.state.bury(one.engine.node)
            case "lose share":
                app.lose_share(one.engine.node)
            case "lose channel":
                app.lose_channel(channel)
            case "lose members":
                app.lose_members(channel)
            case _:
                app.lose_log()

    def wait(self, what: str, number: int) -> None:
        """Let messages move, or time pass."""
        if what == "step":
            self.home(number).link.step()
        elif what == "settle":
            self.cluster.settle()
        else:
            self.cluster.elapse(1.0 if what == "second" else 2 * LEASE_S)

    def publish(self, one: LinkedNode, channel: str) -> None:
        name = f"e{next(self.names)}"
        due = [key for key in self.owed_to if key[1] == channel]
        history = one.tenant.histories.of(channel, cached=channel.startswith("cache"))
        keep = None if history is None else history.keep

        def accepted(_nothing: object) -> None:
            self.accepted.setdefault(channel, []).append(name)
            for key in due:
                if key in self.owed_to:
                    self.owed_to[key].add(name)

        def failed(error: Exception) -> None:
            _expected(error)
            if type(error).__name__ == "Unavailable":
                self.refused.add(name)

        event = Event(channel, name, self.data, keep=keep)
        proceed(one.tenant.publish([event]), accepted, failed)

    def check(self) -> None:
        cluster = self.cluster
        cluster.heal()
        open_ = [(number, peer) for number, peer in enumerate(self.peers) if peer.closed is None]
        counts: Counter[str] = Counter()
        for one in cluster.nodes:
            share = asserted_by(one.tenant)
            assert one.tenant.space.share() == share
            hubs = {name: one.tenant.hub.count(name) for name in CHANNELS}
            assert {name: number for name, number in hubs.items() if number} == {
                name: held.subscriptions for name, held in share.channels.items()
            }
            for session in one.sessions:
                assert all(isinstance(place, Subscription) for place in session.channels.values())
            counts.update({name: held.subscriptions for name, held in share.channels.items()})
        users = {
            member
            for number, peer in open_
            if "presence-c" in peer.session.channels
            for member in [f"u{number % 2}"]
        }
        for one in cluster.nodes:
            found: dict[str, Counts] = {}
            proceed(one.tenant.counts(CHANNELS), found.update, _unexpected)
            cluster.settle()
            assert {name: both.subscriptions for name, both in found.items()} == {
                name: counts[name] for name in CHANNELS
            }
            assert found["presence-c"].users == len(users)
        self.check_owed()
        for number, channel in self.subscribed:
            peer = self.peers[number]
            assert peer.closed is not None or channel in peer.session.channels
        for number, peer in open_:
            if "presence-c" in peer.session.channels:
                assert replayed_members(peer) == users
            self.check_events(number, peer)
        for channel in CHANNELS:
            stories = [heard(peer, channel) for peer in self.peers]
            for first, second in combinations(stories, 2):
                both = set(first).intersection(second)
                assert [one for one in first if one in both] == [
                    one for one in second if one in both
                ]

    def check_owed(self) -> None:
        """What holders kept is what the nodes have, and one node is the holder."""
        cluster = self.cluster
        assert [one.keeper.holds for one in cluster.nodes].count(True) == 1
        for one in cluster.nodes:
            cluster.keep(one)
        cluster.settle()
        expected: set[tuple[str, ...]] = set()
        for share in [asserted_by(one.tenant) for one in cluster.nodes]:
            for channel, held in share.channels.items():
                expected.add(("occupied", channel))
                expected.update(("member", channel, user_id) for user_id in held.sessions)
            expected.update(("online", user_id) for user_id in share.users)
        assert cluster.receiver.reported == expected
        assert list(cluster.state.app(APP_ID).unsettled()) == []

    def check_events(self, number: int, peer: FakePeer) -> None:
        told = [message["event"] for message in peer.told if message["event"].startswith("e")]
        assert not self.refused.intersection(told), "what was refused reached nobody"
        for channel in CHANNELS:
            events = heard(peer, channel)
            assert len(events) == len(set(events)), "no event comes twice"
            missing = self.owed_to.get((number, channel), set()).difference(events)
            assert not missing, f"client {number} missed {missing} of {channel}, and stayed"


def heard(peer: FakePeer, channel: str) -> list[str]:
    """The events of a channel that reached a client, in order."""
    return [
        message["event"]
        for message in peer.told
        if message["event"].startswith("e") and message.get("channel") == channel
    ]


def _short(message: dict[str, Any]) -> str:
    return f"{message['event'].rpartition(':')[2]} {message.get('channel')}"


def _expected(error: Exception) -> None:
    assert isinstance(error, EngineError)


def _unexpected(error: Exception) -> None:
    raise AssertionError(f"the state is reachable: {error}")


VERBS = [
    *("subscribe", "subscribe", "subscribe", "unsubscribe", "publish", "publish", "sign in"),
    *("die", "terminate", "step", "step", "settle", "settle", "second", "lease"),
    *("keep", "keep and settle"),
    *sorted(FAULTS),
]

steps = st.lists(
    st.tuples(st.sampled_from(VERBS), st.integers(0, CLIENTS - 1), st.sampled_from(CHANNELS)),
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(steps, st.sampled_from([2, 3]))
def test_whatever_happens_to_links_and_nodes_engine_hub_sessions_and_clients_agree(
    story: list[tuple[str, int, str]], number: int
) -> None:
    told = Story(number)
    for client in range(CLIENTS):
        told.do("subscribe", client, CHANNELS[client % 4])
    told.do("settle", 0, "c")
    for step in story:
        told.do(*step)
    told.check()


@pytest.mark.parametrize("number", [2, 3])
def test_without_faults_every_client_on_every_node_sees_the_same(number: int) -> None:
    told = Story(number)
    for client in range(CLIENTS):
        for channel in CHANNELS:
            told.do("subscribe", client, channel)
    told.do("settle", 0, "c")
    for client in range(CLIENTS):
        for channel in CHANNELS:
            told.do("publish", client, channel)
    told.check()
    assert all(peer.closed is None for peer in told.peers)
    assert {len(events) for events in told.accepted.values()} == {CLIENTS}
    for channel in CHANNELS:
        stories = [heard(peer, channel) for peer in told.peers]
        assert len(stories[0]) == CLIENTS
        assert stories == [stories[0]] * CLIENTS
