"""
A Hypothesis state machine over nodes and faults in any order; see `EngineMachine`.

`FaultMachine` has the faults, for other machines as well (`history_machine`). The model of an
`EngineMachine` has the state of a hub and of a receiver of webhooks, built only from the engine's
calls and replies. At the end, it is compared with the engine, with the commands of the clients, and
with the published events.
"""

from collections.abc import Callable, Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from heliograph.engine.answers import (
    CacheFilled,
    CacheMiss,
    ChannelOccupied,
    ChannelVacated,
    Counts,
    Entry,
    Lost,
    Mark,
    Options,
    Owed,
    Refusal,
    SignedIn,
)
from heliograph.engine.share import Share
from heliograph.engine.testing.app_state import Bounds
from heliograph.engine.testing.cluster import (
    Answer,
    FaultyCluster,
    FaultyNode,
    LinkedCluster,
    Recorder,
)
from heliograph.engine.testing.link import Pace
from heliograph.errors import Unavailable
from heliograph.hub.facts import (
    Event,
    Fact,
    Member,
    MemberAdded,
    MemberRemoved,
    Notice,
    SubscriptionCount,
    UserOffline,
    UserOnline,
    UserTerminated,
)
from heliograph.reply import proceed

OPTIONS = Options(counted=True, observed=True)
CHANNELS = ("a", "b", "presence-p", "presence-q")
SUBSCRIBERS = ("s", "t", "u")
USERS = ("ann", "bob", "cat")
MAX_MEMBERS = 2
FAULTS = (
    *("cut", "cut_off", "freeze_up", "freeze_down", "lose_up", "lose_down", "refuse", "delay"),
    *("stall", "bury", "kill"),
    *("empty", "set_back", "lose_share", "lose_channel", "lose_members", "lose_log"),
)
"""Faults of links, of nodes, of the state."""

INDEX = st.integers(0, 2)
MOVES = st.integers(0, 3).map(bool)
"""Whether everything arrives after a command: mostly, otherwise little could fail."""


class Subscription:
    """A subscriber of a channel, and the facts that it received."""

    def __init__(self, channel: str, subscriber_id: str, member: Member | None) -> None:
        self.channel = channel
        self.subscriber_id = subscriber_id
        self.member = member
        self.entered_at: int | None = None
        self.lost_at = -1
        self.events: list[int] = []
        self.roster: dict[str, Member] = {}
        self.count = 0


class Session:
    """A session that is signed in, and the notices that it received about its watched users."""

    def __init__(self, user_id: str, session_id: str, watchlist: tuple[str, ...]) -> None:
        self.user_id = user_id
        self.session_id = session_id
        self.watchlist = watchlist
        self.signed_in_at: int | None = None
        self.lost_at = -1
        self.online: set[str] = set()
        self.terminated: list[int] = []  # at which steps


class Published:
    """An event that was published, or the termination of a user."""

    def __init__(self, channel: str, at: int, node: FaultyNode, answer: Answer) -> None:
        self.channel = channel
        self.at = at
        self.node = node
        self.answer = answer
        self.orphaned = False  # its node was killed


class Receiver:
    """
    The data that successive holders keep: the reported state, with the last mark.

    It is kept in one write, beside the shared state: only the holder can write. After a restart,
    changes that were kept, but not settled, are owed again with the same marks.
    """

    def __init__(self) -> None:
        self.mark: Mark | None = None
        self.reported: set[tuple[str, ...]] = set()

    def keep(self, noted: Sequence[Owed | Mark]) -> Mark | None:
        """Keep the changes that a holder recorded; a mark means a restart."""
        for owed in noted:
            if isinstance(owed, Mark):
                if self.mark is None or self.mark.epoch != owed.epoch:
                    self.reported.clear()
                    self.mark = owed
                continue
            mark = owed.mark
            if self.mark is None or mark.epoch != self.mark.epoch:
                if mark.number != 1:
                    raise AssertionError(f"an epoch of changes begins with {mark}")
                self.reported.clear()
            elif mark.number <= self.mark.number:
                continue
            elif mark.number != self.mark.number + 1:
                raise AssertionError(f"{mark} follows {self.mark}")
            self.mark = mark
            self._report(owed)
        return self.mark

    def _report(self, owed: Owed) -> None:
        match owed.change:
            case ChannelOccupied(channel):
                self._begin(("occupied", channel))
            case ChannelVacated(channel):
                self._end(("occupied", channel))
            case MemberAdded(channel, member):
                self._begin(("member", channel, member.user_id))
            case MemberRemoved(channel, user_id):
                self._end(("member", channel, user_id))
            case UserOnline(user_id):
                self._begin(("online", user_id))
            case UserOffline(user_id):
                self._end(("online", user_id))
            case Event() | SubscriptionCount() | CacheMiss() | CacheFilled():
                pass

    def _begin(self, state: tuple[str, ...]) -> None:
        if state in self.reported:
            raise AssertionError(f"{state} began twice")
        self.reported.add(state)

    def _end(self, state: tuple[str, ...]) -> None:
        if state not in self.reported:
            raise AssertionError(f"{state} ended and had not begun")
        self.reported.remove(state)


class ModelNode(Recorder):
    """One node from its clients' side: its hub, and its part as the holder."""

    def __init__(self, machine: "EngineMachine") -> None:
        super().__init__()
        self._machine = machine
        self.subscriptions: dict[tuple[str, str], Subscription] = {}
        self.sessions: dict[str, Session] = {}
        self.noted: list[Owed | Mark] = []

    def deliver(self, fact: Fact, /) -> None:
        for one in self._of_channel(fact.channel):
            self._deliver_to(one, fact)

    def _of_channel(self, channel: str | None) -> list[Subscription]:
        found = [
            one
            for one in self.subscriptions.values()
            if one.channel == channel and one.entered_at is not None
        ]
        if not found:
            raise AssertionError(f"facts of {channel} are delivered where nobody has entered it")
        return found

    @staticmethod
    def _deliver_to(one: Subscription, fact: Fact) -> None:
        match fact:
            case Event(data=data):
                one.events.append(int(data))
            case MemberAdded(_, member):
                if member.user_id in one.roster:
                    raise AssertionError(f"{member} was added twice")
                one.roster[member.user_id] = member
            case MemberRemoved(_, user_id):
                if user_id not in one.roster:
                    raise AssertionError(f"{user_id} was removed and was no member")
                del one.roster[user_id]
            case SubscriptionCount(_, count):
                one.count = count

    def notice(self, notice: Notice, /) -> None:
        concerned = 0
        for session in self.sessions.values():
            if session.signed_in_at is None:
                continue
            if isinstance(notice, UserTerminated):
                if session.user_id == notice.user_id:
                    concerned += 1
                    session.terminated.append(self._machine.now)
            elif notice.user_id in session.watchlist:
                concerned += 1
                online = isinstance(notice, UserOnline)
                if (notice.user_id in session.online) is online:
                    raise AssertionError(f"{notice} changes nothing")
                session.online ^= {notice.user_id}
        if not concerned:
            raise AssertionError(f"{notice} concerns nobody here")

    def count_due(self, channel: str, in_s: float, /) -> None:
        raise AssertionError(f"{channel} is not large, and its count due in {in_s} s")

    def lost(self, losses: Sequence[Lost], /) -> None:
        for loss in losses:
            if loss.channel is not None:
                for one in self._of_channel(loss.channel):
                    one.lost_at = self._machine.now
            for session in self.sessions.values():
                if session.user_id == loss.user_id:
                    session.lost_at = self._machine.now

    def hold(self, term: str, /) -> None:
        if self.holds:
            raise AssertionError(f"{term}: the node is the holder already")
        self.holds = True
        self.noted.clear()

    def owe(self, changes: Sequence[Owed], /) -> None:
        if not self.holds:
            raise AssertionError("changes are owed to a node that is not the holder")
        self.noted.extend(changes)

    def restart(self, scope: str, epoch: str, /) -> None:
        if not self.holds:
            raise AssertionError(f"{scope} is restarted on a node that is not the holder")
        self.noted.append(Mark(scope, epoch, 0))

    def release(self) -> None:
        if not self.holds:
            raise AssertionError("a node is released that is not the holder")
        self.holds = False
        self.noted.clear()

    def keep(self) -> Mark | None:
        """Keep the recorded changes, in one write."""
        noted, self.noted = self.noted, []
        return self._machine.receiver.keep(noted)


class FaultMachine(RuleBasedStateMachine):
    """
    The nodes of a `FaultyCluster`, with links that a test moves, and faults in any order.

    Subclasses set *number*, and *bounds* of the state for more faults. Subclasses for another
    engine override `make`, and set *possible* to the faults that their cluster has. *channels* are
    those whose records can be lost, at least four.
    """

    number = 2
    bounds: Bounds | None = None
    possible: Sequence[str] = FAULTS
    channels: Sequence[str] = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.now = 0  # steps of this machine
        self.snapshot: object | None = None

    @initialize(faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=2))
    def start(self, faults: list[str]) -> None:
        """Begin, and choose the faults of this run: if all occur together, they hide each other."""
        self.faults = [one for one in faults if one in self.possible] or list(self.possible)
        self.cluster = self.make(self.local)
        self.on_start()

    def on_start(self) -> None:
        """Prepare the cluster for a run."""

    def local(self) -> Recorder:
        """Return the recorder of a new node."""
        raise NotImplementedError

    def make(self, local: Callable[[], Recorder]) -> FaultyCluster:
        """Return a new cluster; *local* makes the recorder of each node."""
        return LinkedCluster(self.number, Pace.STEPPED, bounds=self.bounds, local=local)

    def _node(self, index: int) -> FaultyNode:
        self.now += 1
        return self.cluster.nodes[index % len(self.cluster.nodes)]

    # -- Messages and time -------------------------------------------------------------------

    @rule(index=INDEX, up=st.integers(0, 3), down=st.integers(0, 5))
    def step(self, index: int, up: int, down: int) -> None:
        node = self._node(index)
        if node.stalled:
            return
        for _ in range(up):
            node.link.step_up()
        for _ in range(down):
            node.link.step_down()

    @rule(ticks=st.sampled_from((1, 3, 21, 51)), moves=st.booleans())
    def elapse(self, ticks: int, moves: bool) -> None:
        self.now += 1
        for _ in range(ticks):
            self._move(moves)
            self.cluster.clock.now += 0.1
            self.cluster.tick()

    @rule()
    def elapse_a_lease(self) -> None:
        """Let the leases of stalled and disconnected nodes end; the others renew theirs."""
        self.now += 1
        for _ in range(25):
            self.cluster.settle()
            self.cluster.clock.now += 0.5
            self.cluster.tick()

    def _move(self, moves: bool) -> None:
        if moves:
            self.cluster.settle()

    # -- Faults ------------------------------------------------------------------------------

    @precondition(lambda self: self.faults)
    @rule(index=INDEX, choice=st.integers(0, 5), amount=st.integers(0, 3))
    def fail(self, index: int, choice: int, amount: int) -> None:
        """Cause one of the faults of this run, on one node."""
        name = self.faults[choice % len(self.faults)]
        self.on_fault(name)
        getattr(self, f"_{name}")(self._node(index), amount)

    @precondition(lambda self: self.faults)
    @rule(index=INDEX, choice=st.integers(0, 5), amount=st.integers(0, 3))
    def fail_again(self, index: int, choice: int, amount: int) -> None:
        """Cause faults as often as commands: rules are chosen evenly."""
        self.fail(index, choice, amount)

    @precondition(lambda self: self.faults)
    @rule(index=INDEX)
    def mend(self, index: int) -> None:
        """End the lasting faults of a node."""
        node = self._node(index)
        if node.stalled:
            node.stalled = False
            node.tick()
        node.link.heal()

    def _cut(self, node: FaultyNode, amount: int) -> None:
        node.link.cut(amount)

    def _cut_off(self, node: FaultyNode, amount: int) -> None:
        """Cut a link; no other is made until `mend`."""
        node.link.reachable = False
        node.link.cut(amount)

    def _freeze_up(self, node: FaultyNode, _amount: int) -> None:
        node.link.frozen_up = True

    def _freeze_down(self, node: FaultyNode, _amount: int) -> None:
        node.link.frozen_down = True

    def _lose_up(self, node: FaultyNode, _amount: int) -> None:
        node.link.losing_up = not node.link.losing_up

    def _lose_down(self, node: FaultyNode, _amount: int) -> None:
        node.link.losing_down = not node.link.losing_down

    def _refuse(self, node: FaultyNode, _amount: int) -> None:
        node.link.refusing = not node.link.refusing

    def _delay(self, node: FaultyNode, amount: int) -> None:
        """Deliver withheld commands late, or withhold the next ones for later."""
        if node.link.withheld:
            node.link.deliver_withheld()
            return
        for _ in range(amount):
            node.link.withhold()
        if amount % 2:
            node.link.cut()

    def _stall(self, node: FaultyNode, _amount: int) -> None:
        node.stalled = True

    def _bury(self, node: FaultyNode, _amount: int) -> None:
        """Declare a node dead that is alive."""
        node.declare_dead()

    def _kill(self, node: FaultyNode, amount: int) -> None:
        """Kill a node, and start another one."""
        self.on_kill(node, amount)
        node.kill()
        self.cluster.join()

    def on_fault(self, name: str) -> None:
        """Prepare the model for a fault."""

    def on_kill(self, node: FaultyNode, amount: int) -> None:
        """Prepare the model for the death of a node."""

    def _empty(self, _node: FaultyNode, _amount: int) -> None:
        self.cluster.empty()

    def _set_back(self, _node: FaultyNode, _amount: int) -> None:
        """Copy the state, or set it back to the copy."""
        if self.snapshot is None:
            self.snapshot = self.cluster.snapshot()
        else:
            self.cluster.restore(self.snapshot)
            self.snapshot = None

    def _lose_share(self, node: FaultyNode, _amount: int) -> None:
        node.lose_share()

    def _lose_channel(self, _node: FaultyNode, amount: int) -> None:
        self.cluster.lose_channel(self.channels[amount])

    def _lose_members(self, _node: FaultyNode, amount: int) -> None:
        self.cluster.lose_members(self.channels[amount])

    def _lose_log(self, _node: FaultyNode, _amount: int) -> None:
        self.cluster.lose_log()


class EngineMachine(FaultMachine):
    """A model of hubs, sessions and the receiver of owed changes, over nodes that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.receiver = Receiver()
        self.published: list[Published] = []
        self.terminated: list[Published] = []
        self.gone: list[Subscription] = []

    def local(self) -> Recorder:
        """Return the recorder of a new node."""
        return ModelNode(self)

    @staticmethod
    def _model(node: FaultyNode) -> ModelNode:
        if not isinstance(node.local, ModelNode):
            raise TypeError
        return node.local

    def on_kill(self, node: FaultyNode, amount: int) -> None:
        """Let a node die, possibly just after it kept owed changes."""
        for published in (*self.published, *self.terminated):
            published.orphaned |= published.node is node
        if amount % 2:
            self._keep(node)

    # -- Clients -----------------------------------------------------------------------------

    @rule(
        index=INDEX,
        channel=st.sampled_from(CHANNELS),
        subscriber_id=st.sampled_from(SUBSCRIBERS),
        user_id=st.sampled_from(USERS),
        moves=MOVES,
    )
    def enter(
        self, index: int, channel: str, subscriber_id: str, user_id: str, moves: bool
    ) -> None:
        node = self._node(index)
        model = self._model(node)
        key = (channel, subscriber_id)
        if node.stalled or key in model.subscriptions:
            return
        presence = channel.startswith("presence-")
        member = Member(user_id, b'"%s"' % user_id.encode()) if presence else None
        one = model.subscriptions[key] = Subscription(channel, subscriber_id, member)

        def entered(entry: object) -> None:
            if model.subscriptions.get(key) is not one:
                raise AssertionError("a withdrawn command was answered")
            if isinstance(entry, Refusal):
                if member is None:
                    raise AssertionError("the member limit refused a public channel")
                del model.subscriptions[key]
                return
            if not isinstance(entry, Entry):
                raise TypeError
            one.entered_at = self.now
            one.roster = {member.user_id: member for member in entry.roster}
            one.count = entry.count
            if member is not None and member.user_id not in one.roster:
                raise AssertionError("the roster is without the newcomer")

        def failed(error: Exception) -> None:
            if not isinstance(error, Unavailable):
                raise error
            del model.subscriptions[key]

        limit = MAX_MEMBERS if presence else 0
        reply = node.space.enter(channel, subscriber_id, OPTIONS, member=member, max_members=limit)
        proceed(reply, entered, failed)
        self._move(moves)

    @rule(
        index=INDEX,
        subscriber_id=st.sampled_from(SUBSCRIBERS),
        channels=st.sets(st.sampled_from(CHANNELS), min_size=1),
        moves=MOVES,
    )
    def leave(self, index: int, subscriber_id: str, channels: set[str], moves: bool) -> None:
        """Leave some channels at once, answered or not."""
        node = self._node(index)
        model = self._model(node)
        if node.stalled:
            return
        left = []
        for channel in sorted(channels):
            one = model.subscriptions.pop((channel, subscriber_id), None)
            if one is not None:
                left.append((channel, OPTIONS, one.member))
                self.gone.append(one)
        if left:
            node.space.leave(left, subscriber_id)
        self._move(moves)

    @rule(
        index=INDEX,
        channels=st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=3),
        moves=MOVES,
    )
    def publish(self, index: int, channels: list[str], moves: bool) -> None:
        node = self._node(index)
        if node.stalled:
            return
        first = len(self.published)
        events = [
            Event(channel, "e", b"%d" % (first + offset), owed=True)
            for offset, channel in enumerate(channels)
        ]
        answer = Answer(node.space.publish(events))
        self.published += [Published(channel, self.now, node, answer) for channel in channels]
        self._move(moves)

    @rule(
        index=INDEX,
        session_id=st.sampled_from(SUBSCRIBERS),
        user_id=st.sampled_from(USERS),
        watchlist=st.sets(st.sampled_from(USERS)),
        moves=MOVES,
    )
    def sign_in(
        self, index: int, session_id: str, user_id: str, watchlist: set[str], moves: bool
    ) -> None:
        node = self._node(index)
        model = self._model(node)
        if node.stalled or session_id in model.sessions:
            return
        one = Session(user_id, session_id, tuple(sorted(watchlist)))
        model.sessions[session_id] = one

        def signed_in(found: SignedIn) -> None:
            if model.sessions.get(session_id) is not one:
                raise AssertionError("a withdrawn command was answered")
            one.signed_in_at = self.now
            one.online = set(found.online)

        def failed(error: Exception) -> None:
            if not isinstance(error, Unavailable):
                raise error
            del model.sessions[session_id]

        proceed(node.space.sign_in(user_id, session_id, one.watchlist), signed_in, failed)
        self._move(moves)

    @rule(index=INDEX, session_id=st.sampled_from(SUBSCRIBERS))
    def sign_out(self, index: int, session_id: str) -> None:
        node = self._node(index)
        one = self._model(node).sessions.get(session_id)
        if node.stalled or one is None:
            return
        del self._model(node).sessions[session_id]
        node.space.sign_out(one.user_id, session_id, one.watchlist)

    @rule(index=INDEX, user_id=st.sampled_from(USERS))
    def terminate(self, index: int, user_id: str) -> None:
        node = self._node(index)
        if not node.stalled:
            answer = Answer(node.space.terminate(user_id))
            self.terminated.append(Published(user_id, self.now, node, answer))

    # -- Holders -----------------------------------------------------------------------------

    @rule(index=INDEX, settles=st.booleans())
    def keep(self, index: int, settles: bool) -> None:
        """Keep the owed changes and, unless the holder dies before, settle them."""
        node = self._node(index)
        mark = self._keep(node)
        if settles and mark is not None:
            node.space.settle(mark)

    def _keep(self, node: FaultyNode) -> Mark | None:
        if node.stalled or not self._model(node).holds or not node.is_holder():
            return None
        return self._model(node).keep()

    # -- The end -----------------------------------------------------------------------------

    def teardown(self) -> None:
        """Heal everything, then compare."""
        if not hasattr(self, "cluster"):
            return
        self.now += 1
        self.cluster.heal()
        for node in self.cluster.nodes:
            mark = self._keep(node)
            if mark is not None:
                node.space.settle(mark)
        self.cluster.settle()
        self.compare()

    def compare(self) -> None:
        """Compare the state of every node and subscriber with the actual state."""
        models = [self._model(node) for node in self.cluster.nodes]
        subscriptions = [one for model in models for one in model.subscriptions.values()]
        sessions = [one for model in models for one in model.sessions.values()]
        if any(one.entered_at is None for one in subscriptions) or any(
            one.signed_in_at is None for one in sessions
        ):
            raise AssertionError("a command was never answered")
        for node, model in zip(self.cluster.nodes, models, strict=True):
            self._same("a node's share", node.space.share(), share_of(model))
        self._compare_state(subscriptions)
        for one in subscriptions:
            self._compare_events(one)
        for session in sessions:
            self._compare_session(session, {one.user_id for one in sessions})
        self._compare_order([*subscriptions, *self.gone])
        self._compare_owed(models, subscriptions, sessions)

    @staticmethod
    def _same(what: str, found: object, expected: object) -> None:
        if found != expected:
            raise AssertionError(f"{what}: {found!r}, but should be {expected!r}")

    def _compare_state(self, subscriptions: list[Subscription]) -> None:
        space = self.cluster.nodes[0].space
        expected = {}
        for channel in CHANNELS:
            of = [one for one in subscriptions if one.channel == channel]
            users = {one.member.user_id for one in of if one.member is not None}
            if of:
                expected[channel] = Counts(len(of), len(users))
            for one in of:
                self._same(f"the roster of {channel}", set(one.roster), users)
                self._same(f"the count of {channel}", one.count, len(of))
        answer = Answer(space.channels(""))
        self.cluster.settle()
        found = {name: counts for part in answer.value for name, counts in part.items()}
        self._same("the channels", found, expected)

    def _compare_events(self, one: Subscription) -> None:
        for number, published in enumerate(self.published):
            if published.channel != one.channel:
                continue
            times = one.events.count(number)
            if times > 1:
                raise AssertionError(f"event {number} was delivered twice")
            error = published.answer.error
            if not published.answer.came and not published.orphaned:
                raise AssertionError(f"a publisher was never answered for {number}")
            if isinstance(error, Unavailable) and times:
                raise AssertionError(f"event {number} was delivered and its publisher refused")
            if not published.answer.came or error is not None or one.entered_at is None:
                continue
            older = one.entered_at < published.at
            if older and not times and one.lost_at < published.at:
                raise AssertionError(f"event {number} is missing, and nothing says so")

    def _compare_session(self, session: Session, online: set[str]) -> None:
        self._same("who is online", session.online, online & set(session.watchlist))
        for terminated in self.terminated:
            if terminated.channel != session.user_id or not terminated.answer.came:
                continue
            if terminated.answer.error is not None:
                continue
            if session.signed_in_at is None or session.signed_in_at >= terminated.at:
                continue
            if not any(at >= terminated.at for at in session.terminated) and (
                session.lost_at < terminated.at
            ):
                raise AssertionError("a session survived its termination, and nothing says so")

    def _compare_order(self, subscriptions: list[Subscription]) -> None:
        for channel in CHANNELS:
            of = [one.events for one in subscriptions if one.channel == channel]
            for first in of:
                for second in of:
                    common = set(first) & set(second)
                    self._same(
                        f"the order of {channel}",
                        [one for one in first if one in common],
                        [one for one in second if one in common],
                    )

    def _compare_owed(
        self,
        models: list[ModelNode],
        subscriptions: list[Subscription],
        sessions: list[Session],
    ) -> None:
        self._same("the number of holders", sum(model.holds for model in models), 1)
        expected: set[tuple[str, ...]] = {("occupied", one.channel) for one in subscriptions}
        expected |= {
            ("member", one.channel, one.member.user_id)
            for one in subscriptions
            if one.member is not None
        }
        expected |= {("online", one.user_id) for one in sessions}
        self._same("what was owed", self.receiver.reported, expected)
        self._same("what is unsettled", tuple(self.cluster.unsettled()), ())


def share_of(model: ModelNode) -> Share:
    """Return the share of the node, from the model of its hub."""
    share = Share()
    for one in model.subscriptions.values():
        share.enter(one.channel, one.member)
    for session in model.sessions.values():
        share.sign_in(session.user_id, session.watchlist)
    return share
