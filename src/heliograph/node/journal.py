"""
Observers: of what occurs on this node, and, on the holder of an app, of the changes that are owed.

Knows no observer by name. A list without observers costs its caller one truth test.
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
    """A subscription was refused; *reason* is a text for people."""

    session_id: str
    channel: str
    reason: str


class Published(Struct, frozen=True):
    """The engine accepted events of a publisher."""

    events: Sequence[Event]


class ClientEventSent(Struct, frozen=True, gc=False):
    """The engine accepted an event of a client."""

    session_id: str
    event: Event


Occurrence = (
    Connected | Disconnected | Subscribed | SubscriptionRefused | Published | ClientEventSent
)
"""What occurs on one node, and concerns this node only: it is not owed."""

Observer: TypeAlias = Callable[[str, Occurrence], object]
"""Takes an app's id and what occurred there."""

Settle: TypeAlias = Callable[[Mark], object]
"""Takes the mark up to which all changes of its scope are kept elsewhere."""


class OwedObserver(Protocol):
    """
    Takes the changes of the apps that this node is the holder of, and keeps what it makes of them.

    The calls are those of `engine.base.Local`, each with the app that is meant.
    """

    def wants(self, app: App) -> Wants:
        """Return which changes of *app* are wanted, as it is configured now."""

    def hold(self, app_id: str, term: str, settle: Settle) -> None:
        """Begin to take the changes of an app. What is kept already is reported by *settle*."""

    def owe(self, app_id: str, changes: Sequence[Owed]) -> None:
        """
        Take changes; those that are marked already are skipped. Never raises.

        The mark of the last one is kept in the same write as what is made of them; after that
        write it is settled.
        """

    def restart(self, app_id: str, scope: str, epoch: str) -> None:
        """
        Take note that the state of *scope* begins from nothing, as after a crash.

        What is made of it is kept in one write with *epoch*: nothing follows from a restart that
        is kept.
        """

    def release(self, app_id: str) -> None:
        """Take no more changes of an app, at once, and write nothing more of it."""


class Journal:
    """The observers of a node: *observers* of its occurrences, *owed* of changes that are owed."""

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
    The owed changes of one app, on their way to each of *observers*.

    A mark is settled, by *settle*, once all observers have settled it.
    """

    __slots__ = ("_app_id", "_marks", "_observers", "_settle")

    def __init__(self, app_id: str, observers: Sequence[OwedObserver], settle: Settle) -> None:
        self._app_id = app_id
        self._observers = observers
        self._settle = settle
        self._marks: dict[str, list[Mark | None]] = {}  # by scope: the last one of each observer

    def hold(self, term: str) -> None:
        """Be the holder."""
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
        """Take note that the state of *scope* begins from nothing."""
        for observer in self._observers:
            observer.restart(self._app_id, scope, epoch)

    def release(self) -> None:
        """Be the holder no more."""
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
