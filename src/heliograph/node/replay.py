"""
A replay: the kept events of a channel that a new subscriber receives before live ones.

The first page is in the answer to `enter`. If it is not all, or the client has yet to read other
data, the rest is read from the engine, a page at a time, each when the client has read the one
before. So a replay needs no memory but its position, and cannot make a client a slow one. Until the
subscriber has caught up with this node, it receives kept events from its replay alone: its
subscription has the lane without them. Knows no protocol and no connection.

On one subscription, offsets are strictly ascending, and each event is written at most once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from msgspec import Struct

from heliograph.engine.answers import Gap, GapReason, Page, Since
from heliograph.engine.base import PAGE_BYTES
from heliograph.errors import EngineError
from heliograph.hub.channel import Lane, Subscription
from heliograph.hub.facts import Event, Keep, Position
from heliograph.node.dialect import Ending, Peer
from heliograph.node.tenant import Tenant
from heliograph.reply import Later


class HistoryRequest(Struct, frozen=True):
    """
    What a client asks for when it subscribes to a channel: positions, and maybe missed events.

    *since* is the place from which it misses events, None for a client that had no events yet. Its
    earlier sessions had the ids *former_ids*: events that excluded one of them are not written.
    """

    since: Since | None = None
    former_ids: frozenset[str] = frozenset()


class HistoryReader(Protocol):
    """The session that receives a replay, as `Membership` implements it."""

    id: str
    peer: Peer
    tenant: Tenant

    def lane_of(self, channel: str) -> Lane:
        """Return the lane for *channel*, with all facts."""

    def replay_of(self, channel: str) -> "Replay | None":
        """Return the replay of *channel* that is not over, if there is one."""

    def on_room(self) -> None:
        """Go on with all replays: the client has read most of what was written."""

    def end_replay(self, replay: "Replay", gap: Gap | None) -> None:
        """Let live events follow; notify the client of a *gap*, or that there is none."""

    def close(self, ending: Ending) -> None:
        """End the connection for *ending*."""

    def close_unanswered(self, error: Exception) -> None:
        """Close the session, since the engine did not answer."""


class Replay:
    """A replay to *session* from *position* on; `Membership` starts and ends it."""

    __slots__ = (
        "_former_ids",
        "_keep",
        "_queued",
        "_reading",
        "_session",
        "position",
        "resumes",
        "subscription",
    )

    def __init__(
        self,
        session: HistoryReader,
        subscription: Subscription,
        keep: Keep,
        position: Position,
        former_ids: frozenset[str],
        *,
        resumes: bool,
    ) -> None:
        self.subscription = subscription
        self.position = position
        self.resumes = resumes  # the client asked to continue where it had been
        self._session = session
        self._keep = keep
        self._former_ids = former_ids
        self._queued = False  # a step is among the jobs of the tenant
        self._reading = False  # the engine has yet to answer

    def go_on(self) -> None:
        """Do the next step when it is this client's turn; called whenever there may be room."""
        if not self._queued and not self._reading:
            self._queued = True
            self._session.tenant.replay_in_slices(self._job())

    def _job(self) -> Iterator[None]:
        self._queued = False
        self._run(self._step)
        yield

    def _run(self, step: Callable[..., None], *arguments: object) -> None:
        """Run a step; close the client if it fails: without its replay, it would wait for ever."""
        try:
            step(*arguments)
        except Exception:
            self._session.close(Ending.EVENTS_LOST)
            raise  # the caller reports it

    @property
    def _over(self) -> bool:
        """Whether the session, or its subscription, ended, or begins its replay anew."""
        return self._session.replay_of(self.subscription.channel.name) is not self

    def _step(self) -> None:
        session = self._session
        if self._over or session.tenant.retired:
            return
        peer = session.peer
        room = peer.room()
        if not room:
            # The session's method, which the peer keeps once: a client that subscribes again and
            # again, and does not read, leaves no replays behind.
            peer.when_room(session.on_room)
            return
        channel = self.subscription.channel.name
        reply = session.tenant.history(
            channel, self.position, self._keep, max_bytes=min(room, PAGE_BYTES)
        )
        if isinstance(reply, Later):
            self._reading = True
            reply.then(self._answered, self._failed)
        else:
            self._take(reply)

    def _answered(self, found: Page | Gap) -> None:
        self._reading = False
        if not self._over:
            self._run(self._take_if_room, found)

    def _take_if_room(self, found: Page | Gap) -> None:
        if self._session.peer.room():
            self._take(found)
        else:
            self.go_on()  # the page is read again: it is not held

    def _failed(self, error: Exception) -> None:
        self._reading = False
        if self._over:
            return
        self._session.close_unanswered(error)
        if not isinstance(error, EngineError):
            raise error

    def _take(self, found: Page | Gap) -> None:
        session, here = self._session, self.subscription.channel.position
        if here is None:
            raise AssertionError("a channel has a position as soon as a subscriber has a history")
        if isinstance(found, Gap):
            session.end_replay(self, Gap(found.reason, here))
            return
        events = found.events
        if self._is_ahead(found.position, here):
            # Events that this node has yet to deliver are live.
            events = [event for event in events if self._is_at_most(event, here)]
            self.position = here
        elif found.position.offset <= self.position.offset and not self._has(here):
            # The engine delivered events to this node that it does not have.
            session.end_replay(self, Gap(GapReason.TRIMMED, here))
            return
        else:
            self.position = found.position
        write_kept(session, self.subscription.channel.name, events, self._former_ids)
        if self._has(here):
            session.end_replay(self, None)
        else:
            self.go_on()

    def _has(self, here: Position) -> bool:
        """Whether the client has all events that this node has delivered."""
        return self.position == here

    @staticmethod
    def _is_ahead(position: Position, here: Position) -> bool:
        return position.epoch == here.epoch and position.offset > here.offset

    @staticmethod
    def _is_at_most(event: Event, here: Position) -> bool:
        return event.position is not None and event.position.offset <= here.offset


def write_kept(
    session: HistoryReader, channel: str, events: Sequence[Event], former_ids: frozenset[str]
) -> None:
    """Write kept *events* of *channel* to a client, except those that exclude it, in one write."""
    own_id = session.id
    lane = session.lane_of(channel)
    encoded = [
        lane.encode(event)
        for event in events
        if event.except_id is None
        or (event.except_id != own_id and event.except_id not in former_ids)
    ]
    if not encoded:
        return
    chunk = encoded[0] if len(encoded) == 1 else lane.join(encoded)
    tenant = session.tenant
    tenant.tally.replayed += len(encoded)
    counters = tenant.hub.counters
    counters.writes += 1
    counters.deliveries += len(encoded)
    counters.bytes += len(chunk)
    session.peer.write(chunk)
