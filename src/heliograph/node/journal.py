"""
Observers of occurrences on this node, and, on the holder of an app, of owed changes.

Knows no observer by name. An empty list of observers costs its caller one truth test.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from msgspec import Struct

from heliograph.config.apps import App
from heliograph.engine.answers import Mark, Owed, Wants
from heliograph.hub.facts import Event


class Connected(Struct, frozen=True, gc=False):
    """A client began a session."""

    session_id: str


class Disconnected(Struct, frozen=True, gc=False):
    """The session of a client ended."""

    session_id: str


class Subscribed(Struct, frozen=True, gc=False):
    """A session subscribed to a channel, a presence channel as *user_id*."""

    session_id: str
    channel: str
    user_id: str | None = None


class SubscriptionRefused(Struct, frozen=True, gc=False):
    """A subscription was refused; *reason* is a text that people read."""

    session_id: str
    channel: str
    reason: str


class EventsPublished(Struct, frozen=True):
    """The engine accepted events of a publisher."""

    events: Sequence[Event]


class ClientEventSent(Struct, frozen=True, gc=False):
    """The engine accepted an event of a client."""

    session_id: str
    event: Event


Occurrence = (
    Connected | Disconnected | Subscribed | SubscriptionRefused | EventsPublished | ClientEventSent
)
"""An occurrence on one node, which concerns this node only: it is not owed."""

Observer: TypeAlias = Callable[[str, Occurrence], object]
"""Takes the id of an app and an occurrence there."""

Settle: TypeAlias = Callable[[Mark], object]
"""Takes a mark: all changes of its scope up to it are stored by the observer."""


class OwedObserver(Protocol):
    """
    Takes the changes of the apps whose holder this node is, and stores its result of them.

    The calls are those of `engine.base.Local`, each with the app as an argument.
    """

    def wants(self, app: App) -> Wants:
        """Return the changes of *app* that are wanted with its present configuration."""

    def hold(self, app_id: str, term: str, settle: Settle) -> None:
        """Begin to take the changes of an app. *settle* gets the marks that are stored already."""

    def owe(self, app_id: str, changes: Sequence[Owed]) -> None:
        """
        Take changes, and skip those up to a stored mark. Never raises.

        The result of the changes and the mark of the last one are stored in the same write; after
        that write, the mark is settled.
        """

    def restart(self, app_id: str, scope: str, epoch: str) -> None:
        """
        Handle that the state of *scope* begins from nothing, as after a crash.

        The result and *epoch* are stored in one write: a restart with a stored epoch has no effect.
        """

    def release(self, app_id: str) -> None:
        """Stop, at once, to take changes of an app, and write nothing more for it."""


class Journal:
    """The observers of a node: *observers* of its occurrences, and *owed* of owed changes."""

    __slots__ = ("observers", "owed")

    def __init__(
        self, observers: Sequence[Observer] = (), owed: Sequence[OwedObserver] = ()
    ) -> None:
        self.observers = list(observers)
        self.owed = list(owed)

    def wants(self, app: App) -> Wants:
        """Return the changes of *app* that any observer wants."""
        wanted = [observer.wants(app) for observer in self.owed]
        return Wants(
            occupancy=any(one.occupancy for one in wanted),
            members=any(one.members for one in wanted),
            users=any(one.users for one in wanted),
            cache=any(one.cache for one in wanted),
            counts=any(one.counts for one in wanted),
            client_events=any(one.client_events for one in wanted),
        )


class Holding:
    """
    Passes the owed changes of one app to each of *observers*.

    *settle* is called with a mark when all observers have settled it.
    """

    __slots__ = ("_app_id", "_marks", "_observers", "_settle")

    def __init__(self, app_id: str, observers: Sequence[OwedObserver], settle: Settle) -> None:
        self._app_id = app_id
        self._observers = observers
        self._settle = settle
        self._marks: dict[str, list[Mark | None]] = {}  # by scope: the last one of each observer

    def hold(self, term: str) -> None:
        """Become the holder."""
        self._marks.clear()
        for index, observer in enumerate(self._observers):
            observer.hold(self._app_id, term, partial(self._settled, index))

    def owe(self, changes: Sequence[Owed]) -> None:
        """Take changes; without observers, they are settled at once."""
        for observer in self._observers:
            observer.owe(self._app_id, changes)
        if not self._observers:
            for mark in {one.mark.scope: one.mark for one in changes}.values():
                self._settle(mark)

    def restart(self, scope: str, epoch: str) -> None:
        """Notify the observers that the state of *scope* begins from nothing."""
        for observer in self._observers:
            observer.restart(self._app_id, scope, epoch)

    def release(self) -> None:
        """Stop being the holder."""
        for observer in self._observers:
            observer.release(self._app_id)

    def _settled(self, index: int, mark: Mark) -> None:
        marks = self._marks.setdefault(mark.scope, [None] * len(self._observers))
        before = _common(marks)
        marks[index] = mark
        settled = _common(marks)
        if settled is not None and settled != before:
            self._settle(settled)


def _common(marks: Sequence[Mark | None]) -> Mark | None:
    """Return the mark up to which all observers have settled; None while their epochs differ."""
    lowest: Mark | None = None
    for mark in marks:
        if mark is None or (lowest is not None and mark.epoch != lowest.epoch):
            return None
        if lowest is None or mark.number < lowest.number:
            lowest = mark
    return lowest
