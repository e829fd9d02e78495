"""
A Hypothesis state machine of history: clients that come, go and resume, in any order.

`HistoryMachine` runs over an engine without faults, `FaultyHistoryMachine` over nodes and links
that fail. The model has clients with a position each. A client enters with its position, takes the
page of the entry, reads further pages until it has what its node delivered meanwhile, and then
takes the facts. It checks each event that it receives. At the end, each client has every kept event
since it began, or since it was notified of a gap. Without a fault of the state, the model knows of
each gap whether it is justified.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from heliograph.engine.answers import (
    POSITION_ONLY,
    Entry,
    Gap,
    GapReason,
    Lost,
    Options,
    Owed,
    Page,
    Published,
    Rewind,
    Since,
    Terms,
)
from heliograph.engine.base import KEY_TTL_S, NUMBERED_TTLS, PAGE_BYTES
from heliograph.engine.testing.cluster import (
    FaultyCluster,
    FaultyNode,
    MemoryCluster,
    Node,
    Recorder,
)
from heliograph.engine.testing.machine import INDEX, FaultMachine
from heliograph.errors import OutcomeUnknown, Unavailable
from heliograph.hub.facts import Event, Fact, Keep, Position
from heliograph.reply import Reply, proceed

KEEPS = {
    "few": Keep(3, 20.0),
    "many": Keep(60, 60.0),
    "brief": Keep(60, 2.0),
    "fleeting": Keep(5, 0.1),
}
"""
The rule of each channel. Events of "few" are trimmed by number, of "brief" by age; numberings of
"fleeting" end after a second.
"""

OPTIONS = {channel: Options(keep=keep) for channel, keep in KEEPS.items()}
CHANNELS = tuple(KEEPS)
LARGE = 30_000
"""Bytes of some events: two of them in a page of an entry."""

STATE_FAULTS = ("empty", "set_back", "lose_share", "lose_channel", "lose_members")
"""Faults after which a state may begin anew, with other epochs."""

READS = 400
"""Reads of all clients at the end, after which each of them must be live."""

CHANNEL = st.sampled_from(CHANNELS)
CLIENT = st.integers(0, 7)
SINCE: st.SearchStrategy[Since] = st.sampled_from(
    (
        POSITION_ONLY,
        Rewind(count=2),
        Rewind(count=100),
        Rewind(seconds=1.0),
    )
)


def ignore(_outcome: object) -> None:
    """Ignore the outcome of a reply, whatever it is."""


class Sent:
    """An event that a publish of the model had; *position* is None until an answer has it."""

    def __init__(self, number: int, channel: str, call: "Call") -> None:
        self.number = number
        self.channel = channel
        self.call = call
        self.position: Position | None = None


class Call:
    """A publish: its events, and the outcome; *called_at* is the time of the first attempt."""

    def __init__(self, key: str | None, called_at: float) -> None:
        self.key = key
        self.called_at = called_at
        self.sent: list[Sent] = []
        self.events: tuple[Event, ...] = ()
        self.succeeded = False
        """Whether the engine answered that it was executed."""
        self.is_unknown = False
        """Whether it may have been executed or not."""


class Client:
    """A client with one channel, as a page with the add-on is: it keeps its position."""

    def __init__(self, machine: "HistoryMachine", name: str, channel: str) -> None:
        self.machine = machine
        self.name = name
        self.channel = channel
        self.node: ModelNode | None = None
        self.space_node: Node | None = None
        self.entered = False
        self.live = False
        self.reading = False
        self.attempt = 0
        self.position: Position | None = None
        self.asked_at = (
            0.0  # when it asked for the history that it began with, or for the next page
        )
        self.position_at = 0.0  # its position was known to the engine then, or later
        self.began: Position | None = None
        self.began_at = 0.0
        self.received: list[tuple[Position, int]] = []

    def begin(self, position: Position) -> None:
        """Begin anew at *position*: nothing before it is expected."""
        self.began = self.position = position
        self.began_at = self.machine.time
        self.position_at = self.asked_at
        self.received = []

    def receive(self, event: Event) -> None:
        """Take the next event; fail if it is not the one that follows."""
        place, before = event.position, self.position
        if place is None or before is None:
            raise AssertionError(f"{event.name} has no position")
        follows = place.epoch == before.epoch and place.offset == before.offset + 1
        # Numbering may begin anew while a client is live.
        if not follows and not (self.live and place.epoch != before.epoch and place.offset == 1):
            raise AssertionError(f"{place} follows {before}")
        self.received.append((place, self.machine.note(event)))
        self.position = place

    def fact(self, event: Event) -> None:
        """Take a fact that the node delivers, if the client is live."""
        place, before = event.position, self.position
        if not self.live or place is None or before is None:
            return
        if place.epoch == before.epoch and place.offset <= before.offset:
            return  # a page that was read ahead of the facts had it
        if place.offset > 1 and (place.epoch, place.offset - 1) != (before.epoch, before.offset):
            self.live = False  # a hole: the loss that explains it follows
            return
        self.receive(event)

    def take(self, found: Page | Gap, asked: Since) -> None:
        """Take a page, or a gap."""
        if isinstance(found, Gap):
            if not isinstance(asked, Position):
                raise TypeError(f"{asked} was answered with {found}")
            self.machine.check_gap(self, found, asked)
            self.begin(found.top)
            return
        if isinstance(asked, Position):
            if found.position.epoch != asked.epoch:
                raise AssertionError(f"{asked} was continued in another epoch, {found.position}")
        else:
            first = found.events[0].position if found.events else None
            self.begin(found.position if first is None else Position(first.epoch, first.offset - 1))
        self.machine.check_page(self.channel, found)
        for event in found.events:
            self.receive(event)
        if self.position != found.position:
            raise AssertionError(f"{found.position} is not that of the last event")


class ModelNode(Recorder):
    """One node from its clients' side."""

    def __init__(self, machine: "HistoryMachine") -> None:
        super().__init__()
        self._machine = machine
        self.clients: list[Client] = []
        self.delivered: dict[str, Position] = {}
        """For each channel with clients, the position up to which facts were delivered."""
        self.holes: set[str] = set()
        self.killed = False
        """Whether its process was killed: what is still to arrive has no effect."""

    def deliver(self, fact: Fact, /) -> None:
        if not isinstance(fact, Event):
            raise TypeError(f"{fact} is unexpected")
        clients = [one for one in self.clients if one.channel == fact.channel and one.entered]
        self._machine.note(fact)
        if not clients or fact.position is None:
            return
        before, place = self.delivered[fact.channel], fact.position
        if place.offset != 1 and place != Position(before.epoch, before.offset + 1):
            if place.epoch == before.epoch and place.offset <= before.offset:
                raise AssertionError(f"{place} is delivered after {before}")
            self.holes.add(fact.channel)
        self.delivered[fact.channel] = place
        for one in clients:
            one.fact(fact)

    def lost(self, losses: Sequence[Lost], /) -> None:
        for loss in losses:
            if loss.channel is None or loss.now is None:
                raise AssertionError(f"{loss} is not that of a channel")
            now = loss.now.history
            if not isinstance(now, Page) or now.events or now.position != now.top:
                raise AssertionError(f"{loss} has no position")
            self.holes.discard(loss.channel)
            self.delivered[loss.channel] = now.top
            for one in self.clients:
                if one.channel == loss.channel:
                    one.live = False  # it reads what it missed

    def hold(self, _term: str, /) -> None:
        self.holds = True

    def owe(self, changes: Sequence[Owed], /) -> None:
        if not self.holds:
            raise AssertionError(f"{changes} are owed to a node that is not the holder")

    def restart(self, _scope: str, _epoch: str, /) -> None:
        if not self.holds:
            raise AssertionError("a node is notified of a restart that is not the holder")

    def release(self) -> None:
        self.holds = False

    def drop(self, client: Client) -> None:
        """Forget a client, and with the last one its channel."""
        self.clients.remove(client)
        if not any(one.channel == client.channel and one.entered for one in self.clients):
            self.delivered.pop(client.channel, None)
            self.holes.discard(client.channel)


class HistoryMachine(RuleBasedStateMachine):
    """
    Clients that publish, come, go and resume, over an engine whose replies are values.

    Subclasses for another engine override `make`. If *exact*, a publish is executed when it is
    called.
    """

    exact: ClassVar[bool] = True
    bounded: ClassVar[bool] = False
    """Whether the bound of all kept events may be reached."""

    cluster: MemoryCluster | FaultyCluster

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.sent: list[Sent] = []
        self.numbers: dict[tuple[str, str, int], int] = {}  # (channel, epoch, offset) -> number
        self.clients = [
            Client(self, f"c{index}", channel)
            for index, channel in enumerate((*CHANNELS, *CHANNELS))
        ]
        self.began_anew = False  # the state may have begun anew

    @initialize()
    def begin(self) -> None:
        """Make the cluster."""
        self.cluster = self.make_calm(lambda: ModelNode(self))
        self.on_start()

    def on_start(self) -> None:
        """Begin with clients that have a position; half of them are away."""
        for index, one in enumerate(self.clients):
            self._come(one, index, POSITION_ONLY, numbered=True)
        for index in range(2):
            self.publish(index, list(CHANNELS), large=False, keyed=False, moves=True)
        for one in self.clients[::2]:
            self._go(one)
        self.cluster.settle()

    def make_calm(self, local: Callable[[], Recorder]) -> MemoryCluster:
        """Return a new cluster without faults; *local* makes the recorder of each node."""
        return MemoryCluster(local=local())

    @property
    def time(self) -> float:
        """The time of the clock."""
        return self.cluster.clock.now

    def usable(self, index: int) -> Node | None:
        """Return the node with this index, None if it does nothing now."""
        return self.cluster.nodes[index % len(self.cluster.nodes)]

    # -- Publishers --------------------------------------------------------------------------

    @rule(
        index=INDEX,
        channels=st.lists(CHANNEL, min_size=1, max_size=6),
        large=st.booleans(),
        keyed=st.booleans(),
        moves=st.booleans(),
    )
    def publish(
        self, index: int, channels: list[str], large: bool, keyed: bool, moves: bool
    ) -> None:
        node = self.usable(index)
        if node is None:
            return
        call = Call(f"key {len(self.calls)}" if keyed else None, self.time)
        call.sent = [
            Sent(len(self.sent) + offset, channel, call) for offset, channel in enumerate(channels)
        ]
        self.sent += call.sent
        self.calls.append(call)
        call.events = tuple(
            Event(
                one.channel,
                "e",
                b"%d" % one.number + b" " * (LARGE if large else 0),
                keep=KEEPS[one.channel],
            )
            for one in call.sent
        )
        self._send(node, call)
        self.move(moves)

    @rule(index=INDEX, channel=CHANNEL)
    def publish_a_transient_event(self, index: int, channel: str) -> None:
        """Publish an event that is not kept."""
        node = self.usable(index)
        if node is not None:
            proceed(node.space.publish([Event(channel, "transient", b"-1")]), ignore, ignore)

    @precondition(lambda self: any(call.is_unknown and call.key for call in self.calls))
    @rule(index=INDEX, moves=st.booleans())
    def repeat(self, index: int, moves: bool) -> None:
        """Repeat a publish of unknown outcome with its key, as a publisher does."""
        node = self.usable(index)
        for call in self.calls:
            if call.is_unknown and call.key and self.time < call.called_at + KEY_TTL_S / 2:
                if node is not None:
                    self._send(node, call)
                    self.move(moves)
                return

    def _send(self, node: Node, call: Call) -> None:
        keeps = tuple(KEEPS[one.channel] for one in call.sent)
        call.is_unknown = False
        reply = node.space.publish(call.events, Terms(keeps=keeps, key=call.key))
        proceed(reply, partial(self._answered, call), partial(self._failed, call))

    def _answered(self, call: Call, published: Published | None) -> None:
        if published is None:
            raise AssertionError("a publish with terms has no answer")
        call.succeeded = True
        for sent, place in zip(call.sent, published.positions, strict=True):
            if place is None:
                raise AssertionError(f"the publisher of event {sent.number} has no position")
            sent.position = place
            self._number(sent.channel, place, sent.number)

    @staticmethod
    def _failed(call: Call, error: Exception) -> None:
        if not isinstance(error, Unavailable | OutcomeUnknown):
            raise error
        call.is_unknown = isinstance(error, OutcomeUnknown)

    def note(self, event: Event) -> int:
        """Record the number of an event, and its position; each position has one event."""
        number = int(event.data)
        place = event.position
        if place is None:
            if number >= 0:
                raise AssertionError(f"event {number} is kept and has no position")
            return number
        self._number(event.channel, place, number)
        return number

    def _number(self, channel: str, place: Position, number: int) -> None:
        found = self.numbers.setdefault((channel, place.epoch, place.offset), number)
        if found != number:
            raise AssertionError(f"{place} of {channel} is that of {found} and of {number}")

    # -- Clients -----------------------------------------------------------------------------

    @rule(index=INDEX, client=CLIENT, since=SINCE, numbered=st.booleans(), moves=st.booleans())
    def come(self, index: int, client: int, since: Since, numbered: bool, moves: bool) -> None:
        """Let a client enter that is away."""
        away = [one for one in self.clients if one.node is None]
        if away:
            self._come(away[client % len(away)], index, since, numbered=numbered)
        self.move(moves)

    @rule(index=INDEX, moves=st.booleans())
    def all_come(self, index: int, moves: bool) -> None:
        """Let all clients enter that are away, on several nodes."""
        for number, one in enumerate(self.clients):
            if one.node is None:
                self._come(one, index + number, POSITION_ONLY, numbered=True)
        self.move(moves)

    @rule(index=INDEX, client=CLIENT, amount=st.integers(0, 3), moves=st.booleans())
    def move_to_another_node(self, index: int, client: int, amount: int, moves: bool) -> None:
        """Let a client leave, and enter elsewhere behind some events."""
        one = self.clients[client]
        if one.node is not None and self._go(one):
            for _ in range(amount):
                self.publish(index, [one.channel], large=False, keyed=False, moves=False)
            self._come(one, index + 1, POSITION_ONLY, numbered=True)
        self.move(moves)

    @rule(client=CLIENT)
    def forget(self, client: int) -> None:
        """Let a client that is away forget its position, as a page does that is loaded again."""
        one = self.clients[client]
        if one.node is None:
            one.position = one.began = None

    def _come(self, one: Client, index: int, since: Since, *, numbered: bool) -> None:
        """Enter the channel: from the last position on, if the client has one."""
        node = self.usable(index)
        if node is None:
            return
        if not isinstance(node.local, ModelNode):
            raise TypeError
        model = one.node = node.local
        one.space_node = node
        model.clients.append(one)
        one.attempt += 1
        attempt = one.attempt
        asked: Since = since if one.position is None else one.position
        # A client that keeps positions needs that they are continued.
        numbered = numbered or isinstance(asked, Position) or asked == POSITION_ONLY
        one.asked_at = self.time if numbered else 0.0

        def entered(entry: object) -> None:
            if model.killed:
                return
            if one.attempt != attempt:
                raise AssertionError("a withdrawn command was answered")
            if not isinstance(entry, Entry) or entry.history is None:
                raise AssertionError(f"{one.channel} was entered without history: {entry}")
            self._entered(one, model, entry.history, asked)

        def failed(error: Exception) -> None:
            if not isinstance(error, Unavailable):
                raise error
            self._away(one)

        reply = node.space.enter(
            one.channel,
            one.name,
            OPTIONS[one.channel],
            since=asked,
            numbered=numbered,
        )
        proceed(reply, entered, failed)

    def _entered(self, one: Client, model: ModelNode, found: Page | Gap, asked: Since) -> None:
        before = model.delivered.get(one.channel)
        if before is not None and one.channel not in model.holes:
            same = before == found.top
            if not same and (before.epoch == found.top.epoch or found.top.offset):
                raise AssertionError(f"facts reached {before}, and an entry begins at {found.top}")
        model.delivered[one.channel] = found.top
        one.entered = True
        one.take(found, asked)
        one.live = one.position == found.top

    def _away(self, one: Client) -> None:
        if one.node is None:
            raise AssertionError("the client is away")
        model, one.node, one.space_node = one.node, None, None
        one.entered = one.live = one.reading = False
        one.attempt += 1
        model.drop(one)

    @rule(client=CLIENT, moves=st.booleans())
    def go(self, client: int, moves: bool) -> None:
        """Let a client leave, whatever is unanswered; it keeps its position."""
        present = [one for one in self.clients if one.node is not None]
        if present:
            self._go(present[client % len(present)])
        self.move(moves)

    def _go(self, one: Client) -> bool:
        node = one.space_node
        if node is None or not self.works(node):
            return False
        self._away(one)
        node.space.leave([(one.channel, OPTIONS[one.channel], None)], one.name)
        return True

    @rule(
        client=CLIENT,
        limit=st.sampled_from((0, 1, 3)),
        max_bytes=st.sampled_from((PAGE_BYTES, 1000)),
        moves=st.booleans(),
    )
    def read(self, client: int, limit: int, max_bytes: int, moves: bool) -> None:
        """Let a client read a page that is not live."""
        behind = [one for one in self.clients if one.entered and not one.live]
        if behind:
            self._read(behind[client % len(behind)], limit, max_bytes)
        self.move(moves)

    def _read(self, one: Client, limit: int, max_bytes: int) -> None:
        model, node, asked = one.node, one.space_node, one.position
        if model is None or node is None or asked is None:
            return
        if not one.entered or one.live or one.reading or not self.works(node):
            return
        one.reading = True
        one.asked_at = self.time
        attempt, before = one.attempt, model.delivered[one.channel]

        def found(answer: Page | Gap) -> None:
            if one.attempt != attempt:
                return
            one.reading = False
            if limit and isinstance(answer, Page) and len(answer.events) > limit:
                raise AssertionError(f"a page has {len(answer.events)} events, not {limit}")
            one.take(answer, asked)
            more = isinstance(answer, Page) and answer.more
            one.live = not more and self._is_caught_up(one, model, before)

        def failed(error: Exception) -> None:
            if not isinstance(error, Unavailable):
                raise error
            if one.attempt == attempt:
                one.reading = False

        reply: Reply[Any] = node.space.history(
            one.channel, asked, KEEPS[one.channel], limit=limit, max_bytes=max_bytes
        )
        proceed(reply, found, failed)

    @staticmethod
    def _is_caught_up(one: Client, model: ModelNode, before: Position) -> bool:
        """
        Return whether the facts that its node delivers next follow what a client has read.

        *before* is the position up to which they were delivered when the page was asked for. If
        the page has another epoch, and none was delivered since, its epoch is the later one.
        """
        now, position = model.delivered[one.channel], one.position
        if position is None:
            raise AssertionError("a client that reads has a position")
        if position.epoch == now.epoch:
            return position.offset >= now.offset
        return before == now

    # -- Time --------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((0.05, 0.2, 0.5, 2.0)))
    def let_time_pass(self, seconds: float) -> None:
        self.cluster.elapse(seconds)

    def works(self, node: Node) -> bool:  # noqa: ARG002 - for nodes that may be stalled
        """Return whether a node does anything now."""
        return True

    def move(self, moves: bool) -> None:
        """Deliver everything, if *moves*."""
        if moves:
            self.cluster.settle()

    # -- What the model knows ----------------------------------------------------------------

    def check_page(self, channel: str, found: Page) -> None:
        """Check that a page has no event that should not be kept any more."""
        keep = KEEPS[channel]
        for event in found.events:
            place = event.position
            if place is None or place.offset <= found.top.offset - keep.count:
                raise AssertionError(f"{place} is kept beyond the limit of {found.top}")
            sent = self.sent[self.note(event)]
            if self.exact and self.time >= sent.call.called_at + keep.ttl_s + 1e-6:
                raise AssertionError(f"event {sent.number} is kept beyond its time")

    def check_gap(self, one: Client, found: Gap, asked: Position) -> None:
        """Check that a gap is justified."""
        if self.began_anew or self.bounded:
            if found.reason is GapReason.AHEAD:
                raise AssertionError(f"{asked} is ahead of {found.top}")
            return
        channel = one.channel
        keep = KEEPS[channel]
        justified = False
        match found.reason:
            case GapReason.TRIMMED:
                justified = found.top.epoch == asked.epoch and self._is_trimmed(
                    channel, asked, found.top, keep
                )
            case GapReason.EPOCH:
                justified = found.top.epoch != asked.epoch and self._has_ended(
                    channel, asked, one.position_at, keep
                )
            case GapReason.AHEAD:
                justified = False
        if not justified:
            raise AssertionError(f"{asked} of {channel} was answered with {found} at {self.time}")

    def _is_trimmed(self, channel: str, asked: Position, top: Position, keep: Keep) -> bool:
        offset = asked.offset + 1
        if offset > top.offset:
            return False
        if top.offset - offset >= keep.count:
            return True
        number = self.numbers.get((channel, asked.epoch, offset))
        if number is None:
            # Its publisher has no answer yet: the oldest of such events counts.
            found = [
                sent.call.called_at
                for sent in self.sent
                if sent.channel == channel and not sent.call.succeeded
            ]
        else:
            found = [self.sent[number].call.called_at]
        return any(self.time >= at + keep.ttl_s - 1e-6 for at in found)

    def _has_ended(self, channel: str, asked: Position, position_at: float, keep: Keep) -> bool:
        """
        Return whether a numbering may have ended.

        *position_at* is a time at which the engine knew it, even if it has had no event.
        """
        last = max(
            (
                self.sent[number].call.called_at
                for (name, epoch, _), number in self.numbers.items()
                if (name, epoch) == (channel, asked.epoch)
            ),
            default=0.0,
        )
        if not asked.offset:
            last = max(last, position_at)
        return self.time >= last + NUMBERED_TTLS * keep.ttl_s - 1e-6

    # -- The end -----------------------------------------------------------------------------

    def heal(self) -> None:
        """End all faults."""

    def teardown(self) -> None:
        """Heal everything, let each client catch up, publish once more, and compare."""
        if not hasattr(self, "cluster"):
            return
        self.heal()
        self.cluster.settle()
        self._catch_up()
        for channel in CHANNELS:
            self.publish(0, [channel], large=False, keyed=False, moves=True)
        self.cluster.settle()
        self._compare()

    def _catch_up(self) -> None:
        for _ in range(READS):
            behind = [one for one in self.clients if one.node is not None and not one.live]
            if not behind:
                return
            for one in behind:
                if not one.entered:
                    raise AssertionError("an entry was never answered")
                self._read(one, 0, PAGE_BYTES)
            self.cluster.settle()
        raise AssertionError("clients never became live")

    def _compare(self) -> None:
        for node in self.cluster.nodes:
            if isinstance(node.local, ModelNode) and node.local.holes:
                raise AssertionError(f"facts are missing in {node.local.holes}: nothing was lost")
        for one in self.clients:
            if one.node is not None:
                if not one.live:
                    raise AssertionError("a client is not live at the end")
                self._compare_client(one)

    def _compare_client(self, one: Client) -> None:
        if one.began is None:
            raise AssertionError("a client is live and has never begun")
        numbers = [number for _, number in one.received]
        if len(set(numbers)) != len(numbers) and not self.began_anew:
            raise AssertionError(f"a client received an event twice: {numbers}")
        places = {place for place, _ in one.received}
        for sent in self._expected(one, one.began):
            if sent.position not in places:
                raise AssertionError(
                    f"{one.name} began at {one.began} in {one.channel} and lacks event "
                    f"{sent.number} at {sent.position}: it has {one.received}"
                )

    def _expected(self, one: Client, began: Position) -> Iterator[Sent]:
        """Return the events that were published after a client began."""
        for sent in self.sent:
            place = sent.position
            if sent.channel != one.channel or place is None:
                continue
            if place.epoch == began.epoch:
                if place.offset > began.offset:
                    yield sent
            elif sent.call.called_at > one.began_at:
                yield sent


class FaultyHistoryMachine(FaultMachine, HistoryMachine):
    """The same over nodes, links and a state that fail in any order."""

    exact = False
    channels = CHANNELS
    cluster: FaultyCluster

    @initialize()
    def begin(self) -> None:
        """Do nothing: `start` makes the cluster."""

    def on_start(self) -> None:
        """Begin with clients that have a position."""
        HistoryMachine.on_start(self)

    def local(self) -> Recorder:
        """Return the recorder of a new node."""
        return ModelNode(self)

    def usable(self, index: int) -> Node | None:
        """Return the node with this index, None if it does nothing now."""
        node = self._node(index)
        return None if node.stalled else node

    def works(self, node: Node) -> bool:
        """Return whether a node does anything now."""
        return isinstance(node, FaultyNode) and not node.stalled

    def on_kill(self, node: FaultyNode, amount: int) -> None:  # noqa: ARG002 - of other machines
        """Disconnect the clients of a node: they resume elsewhere."""
        if isinstance(node.local, ModelNode):
            node.local.killed = True
        for one in self.clients:
            if one.space_node is node:
                self._away(one)

    @precondition(lambda self: "cut" in self.faults)
    @rule(index=INDEX, channel=CHANNEL, executed=st.integers(0, 3))
    def cut_a_publish(self, index: int, channel: str, executed: int) -> None:
        """Cut a link with a publish under way, which is repeated elsewhere when that is noticed."""
        node = self._node(index)
        if node.stalled:
            return
        self.publish(index, [channel], large=False, keyed=True, moves=False)
        node.link.cut(executed)
        node.tick()
        self.cluster.settle()
        self.repeat(index + 1, moves=True)

    def on_fault(self, name: str) -> None:
        """Record that gaps are justified from now on."""
        self.began_anew |= name in STATE_FAULTS

    def heal(self) -> None:
        """End all faults, and let the time pass in which everything is repaired."""
        self.cluster.heal()
