"""
Webhooks of whole nodes over one shared state, with links that fail and a store that they share.

Whatever happens to links, nodes, state, store and receiver: in the end the receiver knows the truth
about all sessions, each event made sense when it came, and no client event came twice or was lost.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.config.apps import App, Apps, Webhook
from heliograph.engine.answers import Mark, Owed
from heliograph.engine.testing.app_state import AppState
from heliograph.engine.testing.cluster import APP, Clock
from heliograph.engine.testing.engine import LinkedEngine
from heliograph.engine.testing.link import Link, Pace
from heliograph.engine.testing.state import LEASE_S, SharedState, Snapshot
from heliograph.hub.channel import Subscription
from heliograph.hub.facts import Event
from heliograph.node.dialect import Ending, Opening
from heliograph.node.journal import ClientEventSent, Journal, Occurrence
from heliograph.node.node import Node
from heliograph.node.tenant import Tenant
from heliograph.protocols.pusher.dialect import PusherDialect
from heliograph.protocols.pusher.session import PusherSession
from heliograph.webhooks import Limits, Webhooks
from heliograph.webhooks.audience import Audience
from heliograph.webhooks.debounce import Reported, ReportedState, Standing
from heliograph.webhooks.progress import Progress
from heliograph.webhooks.rows import Stored
from heliograph.webhooks.schedule import Outbox
from tests.unit.shared_store import Disk, SharedStore
from tests.unit.test_large_work import sign_in
from tests.unit.test_session import KEY, FakePeer, say, sign
from tests.unit.test_webhook_takeover import Receivers
from tests.unit.turned_loop import TurnedLoop

LOGGER = logging.getLogger("heliograph")
TICK_S = 0.1
COARSE_S = 0.5
GRACE_S = 3.0
SETTLE_S = 30.0
ANSWERS_S = 0.05
LIMITS = Limits(grace_s=GRACE_S, batch_s=0.0, backoff_s=0.1, max_backoff_s=0.1, retry_for_s=1e9)
CERTAIN_S = 2 * LEASE_S
"""
What was there for so long, for a client of a node without faults, is not reported as gone: the
holder knows of it, or has lost its lease.
"""

CHANNELS = ("c", "private-c", "presence-c", "presence-d")
CLIENTS = 4
State = tuple[str, str]
"""A channel, a channel and a member, or no channel and a user: as `Receivers.known` has it."""


class NotedState(SharedState):
    """Notes which client events were lost with the state of the app."""

    def __init__(self, now: Callable[[], float], new_text: Callable[[], str]) -> None:
        super().__init__(now, new_text)
        self.lost: set[str] = set()

    def note_lost(self) -> None:
        if APP in self._apps:
            changes = [one.change for one in self._apps[APP].unsettled()]
            self.lost |= {_text(one) for one in changes if isinstance(one, Event)}

    def _begin(self, app_id: str, holder: str | None = None) -> AppState:
        self.note_lost()
        return super()._begin(app_id, holder)


class LoopTiming:
    """A node's loop."""

    def __init__(self, loop: TurnedLoop) -> None:
        self.now = loop.time
        self.soon = self.when_read = loop.call_soon
        self.later = loop.call_later


class Sender:
    """A node's way to the receiver, which answers after a while."""

    def __init__(self, receivers: Receivers, node: "HookedNode") -> None:
        self._receivers = receivers
        self._node = node

    async def post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> str | None:
        if self._node.dead:
            raise asyncio.CancelledError
        self._node.posts += 1
        answer = await self._receivers.post(url, headers, body)
        await asyncio.sleep(ANSWERS_S)
        return answer

    async def close(self) -> None:
        """Nothing is open."""


class HookedNode:
    """A node with webhooks: one process, with a loop and a link of its own."""

    link: Link
    engine: LinkedEngine

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.dead = self.stalled = False
        self.posts = 0  # requests that it sent to the receiver
        self.loop = TurnedLoop(world.clock)
        self.link = Link(world.state, Pace.STEPPED)
        self.engine = LinkedEngine(self.link, world.clock, f"incarnation {number}")
        self.store = SharedStore(world.disk, self.is_holder, world.judge)
        app = App(
            id=APP,
            keys=(KEY,),
            webhooks=(Webhook(url="http://localhost"),),
            watchlist=True,
            subscription_count=True,
        )
        deliveries = count()
        self.webhooks = Webhooks(
            store=self.store,
            now_s=world.clock,
            monotonic=world.clock,
            random=lambda: 0.5,
            settle_s=SETTLE_S,
            limits=LIMITS,
            sender=lambda _: Sender(world.receivers, self),
            new_id=lambda: f"{number}-{next(deliveries)}",
        )
        self.webhooks.configure([app])
        self._do(self.webhooks.start())
        self._do(self.engine.open())
        bits = count(number * 1000)
        self.node = Node(
            Apps([app]),
            self.engine,
            LoopTiming(self.loop),
            lambda _bits: next(bits),
            journal=Journal(observers=[world.observe], owed=[self.webhooks]),
        )
        self.dialect = PusherDialect(self.node)

    @property
    def tenant(self) -> Tenant:
        tenant = self.node.tenant(APP)
        assert tenant is not None
        return tenant

    @property
    def sessions(self) -> list[PusherSession]:
        return [one for one in self.tenant.sessions.values() if isinstance(one, PusherSession)]

    @property
    def well(self) -> bool:
        link = self.link
        frozen = link.frozen_up or link.frozen_down or link.losing_up or link.losing_down
        faulty = frozen or link.refusing or link.withheld > 0
        return not self.stalled and link.connected and self.engine.available and not faulty

    @property
    def holds(self) -> bool:
        return APP in self.webhooks._progress

    def is_holder(self) -> bool:
        return self.world.state.app(APP).holder == self.engine.node

    def client(self) -> FakePeer:
        session = self.dialect.connect(Opening(dialect=self.dialect, key="key"))
        peer = FakePeer(session)
        session.open(peer)
        return peer

    def die(self, *, landed: bool) -> None:
        """The process ends without a word; what the disk was writing is kept if it *landed*."""
        self.dead = True
        self.link.close()
        self.link.reachable = False
        self.store.die(landed=landed)
        self.loop.end()

    def stop(self) -> None:
        """Stop as a server does."""
        self.node.close(Ending.RECONNECT)
        for closing in (self.engine.close(5.0), self.webhooks.stop(5.0)):
            task = self.loop.begin(closing)
            while not task.done():
                self.world.tick(TICK_S)
        self.dead = True
        self.link.reachable = False
        self.loop.end()

    def _do(self, coroutine: Any) -> None:
        task = self.loop.begin(coroutine)
        self.loop.turn()
        task.result()


class Errors(logging.Handler):
    """Notes the faults of their own that nodes and webhooks log, instead of failing by them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.noted: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.noted.append(self.format(record))


class World:
    """Some nodes over one state, a store, a receiver, and clients."""

    def __init__(self, number: int) -> None:
        self.clock = Clock()
        texts = count()
        self.state = NotedState(self.clock, lambda: f"text {next(texts)}")
        self.snapshot: Snapshot | None = None
        self.disk = Disk()
        self.receivers = Receivers()
        self.accepted: list[str] = []
        self.wrong: list[str] = []
        self.supported: dict[tuple[str, State], float] = {}  # by a session, since when
        self.faults: list[dict[str, Any]] = []
        self.errors = Errors()
        LOGGER.addHandler(self.errors)
        self._numbers = count(1)
        self._said = count()
        self.nodes = [HookedNode(self, next(self._numbers)) for _ in range(number)]
        self.settle()
        self.peers = [self.nodes[one % number].client() for one in range(CLIENTS)]

    # -- What is checked as it happens -----------------------------------------------------

    def observe(self, _app_id: str, occurrence: Occurrence) -> None:
        if isinstance(occurrence, ClientEventSent):
            self.accepted.append(_text(occurrence.event))

    def judge(self, text: bytes) -> Callable[[], object]:
        """Return what is to be called if an event of a webhook, decided upon now, is kept."""
        event = json.loads(text)
        state = (event["channel"], event.get("user_id", ""))
        ends = event["name"] in {"channel_vacated", "member_removed", "user_offline"}
        certain = self.clock.now - CERTAIN_S
        by = [
            session
            for (session, supported), since in self.supported.items()
            if ends and supported == state and since <= certain
        ]
        fault = f"{self.clock.now}: {event} while {by} were there"
        return lambda: self.wrong.append(fault) if by else None

    def note_supported(self) -> None:
        now = {
            (session.id, state)
            for one in self.nodes
            if one.well
            for session in one.sessions
            for state in states_of(session)
        }
        self.supported = {key: self.supported.get(key, self.clock.now) for key in now}

    def trouble(self, one: HookedNode) -> None:
        ids = {session.id for session in one.sessions}
        self.supported = {key: at for key, at in self.supported.items() if key[0] not in ids}

    # -- Time ------------------------------------------------------------------------------

    def settle(self) -> None:
        moved = True
        while moved:
            moved = False
            for one in self.nodes:
                if not one.stalled:
                    moved |= one.link.move()
                    moved |= one.loop.turn()

    def tick(self, seconds: float) -> None:
        self.clock.now += seconds
        for one in self.nodes:
            if not one.stalled:
                one.engine.tick()
        self.settle()
        self.note_supported()

    def elapse(self, seconds: float, tick_s: float = TICK_S) -> None:
        for _ in range(round(seconds / tick_s)):
            self.tick(tick_s)

    # -- What happens ----------------------------------------------------------------------

    def home(self, number: int) -> HookedNode:
        return self.nodes[number % len(self.nodes)]

    @property
    def holder(self) -> HookedNode:
        """The holder, as the state sees it."""
        name = self.state.app(APP).holder
        return next((one for one in self.nodes if one.engine.node == name), self.nodes[0])

    def do(self, what: str, number: int = 0, channel: str = "c") -> None:
        """Have something happen to a client, to its node or, with "holder", to the holder."""
        of_holder = what.startswith("holder ")
        what = what.removeprefix("holder ")
        one = self.holder if of_holder else self.home(number)
        if what in CLIENT_VERBS:
            if not one.stalled:
                CLIENT_VERBS[what](self, number, channel)
        elif what in NODE_VERBS:
            self.trouble(one)
            NODE_VERBS[what](self, one)
        elif what in STATE_VERBS:
            STATE_VERBS[what](self, channel)
        elif what == "step":
            if not one.stalled:
                one.link.step()
        elif what == "turn":
            if not one.stalled:
                one.loop.turn()
        else:
            TIME_VERBS[what](self)
        self.note_supported()

    def subscribe(self, number: int, channel: str) -> None:
        peer = self.peers[number]
        if peer.closed is not None:
            return
        if channel in peer.session.channels:
            say(peer, "unsubscribe", channel)
            return
        user = f"u{number % 2}" if channel.startswith("presence") else None
        signed = sign(peer, channel, user) if channel.startswith("pr") else {}
        say(peer, "subscribe", channel, **signed)

    def sign_in(self, number: int, channel: str) -> None:
        sign_in(self.peers[number], f"u{(number + len(channel)) % 2}", watchlist=["u0"])

    def disconnect(self, number: int, _channel: str) -> None:
        if self.peers[number].closed is None:
            self.peers[number].session.close(Ending.RECONNECT)
        self.peers[number] = self.home(number).client()

    def speak(self, number: int, channel: str) -> None:
        channel = channel if channel.startswith("pr") else "private-c"
        say(self.peers[number], "client-x", channel, text=f"{number} {next(self._said)}")

    def replace(self, one: HookedNode) -> None:
        """Start a node in the place of one that is dead."""
        self.faults += one.loop.faults
        index = self.nodes.index(one)
        self.nodes[index] = HookedNode(self, next(self._numbers))
        for number in range(CLIENTS):
            if number % len(self.nodes) == index:
                self.peers[number] = self.nodes[index].client()

    def kill(self, one: HookedNode, *, landed: bool = False) -> None:
        one.die(landed=landed)
        self.replace(one)

    def stop(self, one: HookedNode) -> None:
        if not one.stalled:
            one.stop()
            self.replace(one)

    def wake(self, one: HookedNode, *, timers_first: bool = False) -> None:
        """End a stall; what is due on the loop may happen before the engine notices it."""
        if one.stalled:
            one.stalled = False
            if timers_first:
                one.loop.turn()
            one.engine.tick()

    def empty(self) -> None:
        self.state.note_lost()
        self.state.empty()

    def save(self) -> None:
        self.snapshot = self.state.snapshot()

    def restore(self) -> None:
        if self.snapshot is not None:
            self.state.note_lost()
            self.state.restore(self.snapshot)

    # -- The end ---------------------------------------------------------------------------

    def heal(self) -> None:
        self.receivers.failing = False
        self.disk.latency_s = 0.0
        for one in self.nodes:
            self.wake(one)
            one.link.deliver_withheld()
            one.link.heal()
        self.elapse(3 * LEASE_S, COARSE_S)

    def check(self) -> None:
        self.heal()
        # What is unconfirmed ends after the settling time, and a channel after its last member.
        self.elapse(SETTLE_S + 2 * GRACE_S + 1.0, COARSE_S)
        self.elapse(5.0)
        receivers, state = self.receivers, self.state.app(APP)
        assert not [*self.faults, *(fault for one in self.nodes for fault in one.loop.faults)]
        assert self.errors.noted == []
        assert state.unsettled() == ()
        assert sum(one.webhooks.pending for one in self.nodes) == 0
        assert not self.disk.events
        assert not self.disk.deliveries
        assert not self.disk.counts
        assert receivers.wrong == []
        assert self.wrong == []
        assert receivers.known == self.truth
        assert {(one.channel, one.user_id) for one in self.disk.states} == self.truth
        self.check_client_events()
        self.check_counts()
        assert [one.engine.node for one in self.nodes if one.holds] == [state.holder]

    def close(self) -> None:
        LOGGER.removeHandler(self.errors)
        for one in self.nodes:
            one.die(landed=False)

    @property
    def truth(self) -> set[State]:
        sessions = [session for one in self.nodes for session in one.sessions]
        return {state for session in sessions for state in states_of(session)}

    def check_client_events(self) -> None:
        came = [text for said in self.receivers.said.values() for text in map(_spoken, said)]
        assert len(set(came)) == len(came), "a client event came twice"
        missing = set(self.accepted).difference(came, self.state.lost)
        assert not missing, "accepted, and never sent"
        for channel, said in self.receivers.said.items():
            for number in range(CLIENTS):
                order = [
                    int(text.split()[1]) for text in map(_spoken, said) if text[0] == f"{number}"
                ]
                assert order == sorted(order), f"the events of {number} on {channel}"

    def check_counts(self) -> None:
        counts = Counter(
            channel
            for one in self.nodes
            for session in one.sessions
            for channel in session.channels
            if not channel.startswith("presence")
        )
        for channel, number in counts.items():
            assert self.receivers.counts.get(channel) == number


def states_of(session: PusherSession) -> Iterator[State]:
    """What is there since *session* is: what the engine has answered."""
    for channel, place in session.channels.items():
        if isinstance(place, Subscription):
            yield channel, ""
            member = (session.members or {}).get(channel)
            if member is not None:
                yield channel, member.user_id
    if session.user is not None:
        yield "", session.user.id


def _text(event: Event) -> str:
    return _spoken(json.loads(event.data))


def _spoken(data: str) -> str:
    return str(json.loads(data)["text"])


def sets(name: str) -> Callable[[World, HookedNode], None]:
    def set_it(_world: World, one: HookedNode) -> None:
        setattr(one.link, name, not getattr(one.link, name))

    return set_it


CLIENT_VERBS: dict[str, Callable[[World, int, str], None]] = {
    "toggle": World.subscribe,
    "sign in": World.sign_in,
    "disconnect": World.disconnect,
    "speak": World.speak,
}
NODE_VERBS: dict[str, Callable[[World, HookedNode], object]] = {
    **{
        name: sets(name)
        for name in (
            *("frozen_up", "frozen_down", "losing_up", "losing_down", "refusing", "reachable"),
        )
    },
    "cut": lambda _, one: one.link.cut(),
    "cut after one": lambda _, one: one.link.cut(executed=1),
    "withhold": lambda _, one: one.link.withhold(),
    "late": lambda _, one: one.link.deliver_withheld(),
    "stall": lambda _, one: setattr(one, "stalled", True),
    "wake": World.wake,
    "wake with timers": lambda world, one: world.wake(one, timers_first=True),
    "kill": World.kill,
    "kill in time": lambda world, one: world.kill(one, landed=True),
    "stop": World.stop,
    "release": lambda _, one: None if one.stalled else one.engine._spaces[APP].release(),
}
STATE_VERBS: dict[str, Callable[[World, str], object]] = {
    "empty": lambda world, _: world.empty(),
    "save": lambda world, _: world.save(),
    "restore": lambda world, _: world.restore(),
    "lose share": lambda world, _: world.state.app(APP).lose_share(world.nodes[0].engine.node),
    "lose channel": lambda world, name: world.state.app(APP).lose_channel(name),
    "lose members": lambda world, name: world.state.app(APP).lose_members(name),
    "fail": lambda world, _: setattr(world.receivers, "failing", True),
    "mend": lambda world, _: setattr(world.receivers, "failing", False),
    "slow disk": lambda world, _: setattr(world.disk, "latency_s", 2.0),
    "fast disk": lambda world, _: setattr(world.disk, "latency_s", 0.0),
}
TIME_VERBS: dict[str, Callable[[World], object]] = {
    "settle": World.settle,
    "tick": lambda world: world.tick(TICK_S),
    "second": lambda world: world.elapse(1.0),
    "grace": lambda world: world.elapse(GRACE_S, COARSE_S),
    "lease": lambda world: world.elapse(2 * LEASE_S + 2.0, COARSE_S),
}
OF_HOLDER = ("kill", "kill in time", "stall", "wake", "wake with timers", "release", "stop", "cut")

verbs = st.sampled_from(
    [
        *(4 * ["toggle"]),
        *(2 * ["sign in", "speak", "disconnect"]),
        *NODE_VERBS,
        *(f"holder {verb}" for verb in OF_HOLDER),
        *(2 * ["step", "turn", "holder step", "holder turn"]),
        *(2 * list(TIME_VERBS)),
        *STATE_VERBS,
    ]
)
step = st.tuples(verbs, st.integers(0, CLIENTS - 1), st.sampled_from(CHANNELS))
# A list without a least size is short on average; a failing one is shown as short as can be.
steps = st.one_of(st.lists(step, max_size=60), st.lists(step, min_size=25, max_size=60))


def tell(story: Sequence[tuple[Any, ...]], number: int) -> None:
    """Have *story* happen to *number* nodes, and check the end."""
    world = World(number)
    try:
        for step in story:
            world.do(*step)
        world.check()
    finally:
        world.close()


BEGAN: list[tuple[Any, ...]] = [
    *(("toggle", client, CHANNELS[client]) for client in range(CLIENTS)),
    ("settle",),
]
"""Each channel has a subscription, and the holder has taken that; nothing is kept yet."""


@settings(deadline=None, max_examples=60)
@given(steps, st.sampled_from([2, 3]))
def test_whatever_happens_to_links_nodes_and_state_the_receiver_ends_up_with_the_truth(
    story: list[tuple[str, int, str]], number: int
) -> None:
    tell([*BEGAN, *story], number)


# -- Stories -------------------------------------------------------------------------------


@pytest.fixture(params=[2, 3])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Nodes, of which the first one is the holder; the other clients are those of the last."""
    world = World(request.param)
    world.elapse(2.0)
    assert world.holder is world.nodes[0]
    for number, one in enumerate(world.nodes):
        world.peers[number] = one.client()
    yield world
    world.close()


def test_a_change_of_a_node_that_dies_at_once_is_reported_by_the_holder(world: World) -> None:
    last = len(world.nodes) - 1
    world.do("toggle", last, "presence-c")
    world.home(last).link.step()  # the state has executed it, and nobody else knows
    world.do("kill", last)
    world.settle()
    world.elapse(1.0)
    user = f"u{last % 2}"
    assert world.receivers.story == [
        "channel_occupied presence-c",
        f"member_added presence-c {user}",
    ]
    world.check()
    assert world.receivers.story[2:] == [
        f"member_removed presence-c {user}",
        "channel_vacated presence-c",
    ]


def test_a_change_of_a_holder_that_dies_at_once_is_reported_by_the_next_one(world: World) -> None:
    last = len(world.nodes) - 1
    world.do("toggle", last, "private-c")
    world.settle()
    world.elapse(1.0)
    world.do("speak", last, "private-c")
    world.do("toggle", 0, "private-c")  # the last number is 2, then 1 again
    world.settle()
    assert world.holder.store.unwritten, "it was taken, and is not kept"
    world.do("holder kill")
    assert world.receivers.said == {}
    world.check()
    assert list(map(_spoken, world.receivers.said["private-c"])) == [f"{last} 0"]
    assert world.receivers.known == {("private-c", "")}
    assert world.receivers.counts == {"private-c": 1}


@pytest.mark.parametrize("wakes", ["wake", "wake with timers"])
def test_a_holder_that_was_stalled_keeps_and_sends_nothing_more_of_its_old_term(
    world: World, wakes: str
) -> None:
    last, old = len(world.nodes) - 1, world.holder
    world.do("toggle", last, "presence-c")
    world.settle()
    assert old.store.unwritten
    world.do("stall", 0)
    world.do("lease")
    assert world.holder is not old
    story = ["channel_occupied presence-c", f"member_added presence-c u{last % 2}"]
    assert world.receivers.story == story
    world.do("toggle", last, "presence-c")
    world.do("lease")
    story += [f"member_removed presence-c u{last % 2}", "channel_vacated presence-c"]
    assert world.receivers.story == story
    world.do(wakes, 0)
    world.do("lease")
    assert not old.holds
    assert not old.store.unwritten
    assert old.webhooks.pending == 0
    assert old.posts == 0
    assert world.receivers.story == story
    world.check()


def test_what_a_stalled_holder_was_sending_is_sent_under_the_same_delivery_id(
    world: World,
) -> None:
    last, old = len(world.nodes) - 1, world.holder
    world.do("toggle", last, "private-c")
    world.do("fail")
    world.do("second")
    while old.webhooks._tries:
        world.do("tick")
    tried = old.posts
    assert tried > 1
    world.do("stall", 0)
    world.do("mend")
    world.do("lease")
    assert sorted(world.receivers.deliveries) == ["1-0"]
    world.do("wake with timers", 0)
    world.settle()
    assert old.posts == tried + 1, "its timer was due before its engine noticed"
    world.check()
    assert world.receivers.story == ["channel_occupied private-c", "subscription_count private-c"]


def test_a_client_event_that_was_kept_and_not_settled_is_sent_once_also_after_a_restart(
    world: World,
) -> None:
    last = len(world.nodes) - 1
    world.do("toggle", last, "private-c")
    world.settle()
    world.elapse(1.0)
    world.do("speak", last, "private-c")
    world.do("empty")
    world.settle()
    while world.state.app(APP).holder is None:
        world.do("tick")
    world.do("holder frozen_up")
    world.do("tick")
    unsettled = world.state.app(APP).unsettled()
    assert Event in [type(one.change) for one in unsettled]
    assert list(world.disk.marks.values()) == [unsettled[-1].mark], "the last one is kept"
    world.do("holder kill")
    world.check()
    assert list(map(_spoken, world.receivers.said["private-c"])) == [f"{last} 0"]


# -- Mechanisms, broken on purpose ---------------------------------------------------------


class Mechanism(NamedTuple):
    """What is broken, how, and a story that ends well with it and badly without it."""

    name: str
    owner: Any
    function: str
    broken: Callable[..., object]
    story: tuple[tuple[Any, ...], ...]


def settle_at_once(self: Progress, marks: Iterable[Mark], _group: int) -> None:
    for mark in list(marks):
        self.settle(mark)


def take_all(self: Progress, changes: Iterable[Owed]) -> Iterator[Owed]:
    for owed in changes:
        yield owed
        self._taken[owed.mark.scope] = owed.mark


async def load_nothing(self: Webhooks, app_id: str, progress: Progress) -> None:
    self._take_over(app_id, progress, Stored())


def send_at_once(self: Outbox, _group: int, now: float) -> None:
    note_kept(self, 1 << 60, now)


def count_from_one(self: Webhooks, audience: Audience, stored: Stored, now: float) -> None:
    number = self._next_number
    take_over_events(self, audience, stored, now)
    self._next_number = number


def load_as_ended(
    self: Reported,
    states: Iterable[tuple[ReportedState, str, Standing]],
    now: float,
    settle_s: float,
) -> None:
    load(self, ((state, scope, Standing.ENDED) for state, scope, _ in states), now, settle_s)


def do_nothing(*_arguments: object) -> None:
    """What is missing."""


note_kept = Outbox.kept
load = Reported.load
take_over_events = Webhooks._take_over_events
SPEAK_AND_DIE_UNSETTLED = (
    ("speak", 1, "private-c"),
    ("settle",),
    ("holder frozen_up",),
    ("tick",),
    ("holder kill",),
)

MECHANISMS = (
    # Broken: what was taken is settled before it is kept. A release loses it.
    Mechanism("keep, then settle", Progress, "give", settle_at_once, (("holder release",),)),
    # Broken: a mark that is kept makes nobody skip a change. A client event comes twice.
    Mechanism("skip what is marked", Progress, "take", take_all, SPEAK_AND_DIE_UNSETTLED),
    # Broken: the mark is not kept in the group of what was made of the change.
    Mechanism("marks in the group", SharedStore, "mark", do_nothing, SPEAK_AND_DIE_UNSETTLED),
    # Broken: a release leaves everything as it is. When the node holds again, it goes on with that.
    Mechanism(
        "release",
        Webhooks,
        "release",
        do_nothing,
        (
            *(("tick",), ("stall", 0), ("toggle", 1, "private-c"), ("lease",)),  # it is vacated
            *(("wake", 0), ("lease",), ("stall", 1), ("lease",)),  # the first node holds again
            *(("wake", 1), ("lease",), ("disconnect", 1), ("toggle", 1, "private-c")),
        ),
    ),
    # Broken: the next holder begins without what is kept. It reports again what is known.
    Mechanism("load, then hold", Webhooks, "_load", load_nothing, (("tick",), ("holder kill",))),
    # Broken: events are sent before they are kept. The next holder sends them once more.
    Mechanism("keep, then send", Outbox, "kept", send_at_once, (("holder release",),)),
    # Broken: a holder gives its events the numbers of those that it took over.
    Mechanism(
        "numbers after those of the last holder",
        Webhooks,
        "_take_over_events",
        count_from_one,
        (("tick",), ("holder kill",)),
    ),
    # Broken: a state that begins from nothing leaves everything confirmed, what ended too.
    Mechanism(
        "a restart",
        Webhooks,
        "_restart",
        do_nothing,
        (("tick",), ("toggle", 0, "c"), ("empty",)),
    ),
    # Broken: for the next holder, all that was reported has ended, though clients are there.
    Mechanism(
        "what stands for the next holder",
        Reported,
        "load",
        load_as_ended,
        (("lease",), ("holder kill",)),
    ),
    # Broken: what is reported is not kept with the event that reports it.
    Mechanism(
        "states in the group", Webhooks, "_keep_state", do_nothing, (("tick",), ("holder kill",))
    ),
    # Broken: the store keeps what a node gives that is the holder no more.
    Mechanism(
        "a store for the holder alone",
        HookedNode,
        "is_holder",
        lambda _: True,
        (
            ("slow disk",),
            ("tick",),
            ("holder stall",),
            ("lease",),
            ("wake with timers", 0),
            ("tick",),
        ),
    ),
)


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=[one.name for one in MECHANISMS])
def test_without_a_mechanism_a_story_ends_badly(
    mechanism: Mechanism, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = [*BEGAN, *mechanism.story]
    tell(story, 2)
    monkeypatch.setattr(mechanism.owner, mechanism.function, mechanism.broken)
    with pytest.raises(AssertionError):
        tell(story, 2)
