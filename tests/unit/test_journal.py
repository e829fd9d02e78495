"""Observers: of what occurs on a node, and of the changes that are owed."""

import logging
from collections.abc import Sequence

import pytest

from heliograph.config.apps import App, AppKey, Apps, Webhook
from heliograph.engine.answers import (
    NOTHING_WANTED,
    CacheMiss,
    ChannelOccupied,
    Mark,
    Owed,
    Wants,
)
from heliograph.node.journal import (
    ClientEventSent,
    Connected,
    Disconnected,
    EventsPublished,
    Holding,
    Journal,
    Settle,
    Subscribed,
    SubscriptionRefused,
)
from tests.unit.fakes import ALL, Recorder
from tests.unit.test_session import KEY, World, say, sign

HOOK = Webhook(url="http://localhost")


@pytest.fixture(params=[False, True], ids=["memory", "late"])
def late(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_an_observer_sees_what_occurs_on_its_node(late: bool) -> None:
    world = World(late=late, max_presence_members=1)
    tenant = world.node.tenant("1")
    assert tenant is not None
    seen: list[tuple[str, object]] = []
    tenant.observers.append(lambda app_id, occurrence: seen.append((app_id, occurrence)))
    ann, bob = world.client(), world.client()
    say(ann, "subscribe", "presence-c", **sign(ann, "presence-c", "ann"))
    world.settle()
    say(bob, "subscribe", "presence-c", **sign(bob, "presence-c", "bob"))
    say(bob, "subscribe", "c")
    world.settle()
    say(ann, "client-x", "presence-c", a=1)
    world.publish("news", "c")
    world.settle()
    ann.session.end()
    world.settle()

    assert {app_id for app_id, _ in seen} == {"1"}
    found = [occurrence for _, occurrence in seen]
    assert found[:2] == [Connected(ann.id), Connected(bob.id)]
    assert found[2] == Subscribed(ann.id, "presence-c", "ann")
    full = "Presence channel presence-c is full: at most 1 members"
    refused = SubscriptionRefused(bob.id, "presence-c", full)
    assert sorted(map(str, found[3:5])) == sorted(map(str, [refused, Subscribed(bob.id, "c")]))
    sent, published = sorted(found[5:7], key=lambda one: isinstance(one, EventsPublished))
    assert isinstance(sent, ClientEventSent)
    assert (sent.session_id, sent.event.name) == (ann.id, "client-x")
    assert isinstance(published, EventsPublished)
    assert [event.name for event in published.events] == ["news"]
    assert found[7:] == [Disconnected(ann.id)]


def test_every_refused_subscription_is_observed() -> None:
    world = World(late=False)
    tenant = world.node.tenant("1")
    assert tenant is not None
    peer = world.client()
    seen: list[str] = []

    def note(_app_id: str, occurrence: object) -> None:
        assert isinstance(occurrence, SubscriptionRefused)
        assert occurrence.session_id == peer.id
        seen.append(occurrence.channel)

    tenant.observers.append(note)
    refused = ("private-c", "not legal", "#server-to-user-x", "presence-c")
    for channel in refused:
        signed = sign(peer, channel) if channel == "presence-c" else {"auth": "key:wrong"}
        say(peer, "subscribe", channel, **signed)
    assert tuple(seen) == refused


def test_what_the_engine_refused_to_publish_is_not_observed() -> None:
    world = World(late=True)
    assert world.late
    tenant = world.node.tenant("1")
    assert tenant is not None
    peer = world.client()
    seen: list[object] = []
    tenant.observers.append(lambda _app_id, occurrence: seen.append(occurrence))
    world.late.away = True
    world.publish("news", "c")
    world.settle()
    assert seen == []
    assert peer.closed is None


def test_a_fault_of_an_observer_is_logged_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(late=False)
    tenant = world.node.tenant("1")
    assert tenant is not None
    seen: list[object] = []

    def broken(_app_id: str, _occurrence: object) -> None:
        raise ValueError("ours")

    tenant.observers += [broken, lambda _app_id, occurrence: seen.append(occurrence)]
    with caplog.at_level(logging.ERROR):
        peer = world.client()
        say(peer, "subscribe", "c")
    assert peer.take() == ["subscription_succeeded c"]
    assert len(seen) == 2
    assert [record.message for record in caplog.records] == ["app 1: an observer failed"]


def test_the_holder_of_an_app_begins_from_nothing_and_gets_each_change_with_its_mark() -> None:
    world = World(late=False, webhooks=(HOOK,))
    assert world.recorder.terms == ["1", "restart  1"]
    peer = world.client()
    say(peer, "subscribe", "cache-c")
    assert world.recorded == [ChannelOccupied("cache-c"), CacheMiss("cache-c")]
    assert world.recorder.marks == [Mark("", "1", 1), Mark("", "1", 2)]


def test_what_is_wanted_changes_with_the_configuration() -> None:
    world = World(late=False)
    peer = world.client()
    say(peer, "subscribe", "a")
    key = AppKey(key="key", secret="secret")
    world.node.configure(Apps([App(id="1", keys=(key,), webhooks=(HOOK,))]))
    say(peer, "subscribe", "b")
    world.node.configure(Apps([App(id="1", keys=(KEY,))]))
    say(peer, "subscribe", "c")
    assert world.recorded == [ChannelOccupied("b")]


def test_a_journal_wants_what_any_observer_wants() -> None:
    class Users(Recorder):
        def wants(self, app: App) -> Wants:
            return Wants(users=True) if app.webhooks else NOTHING_WANTED

    class Counts(Recorder):
        def wants(self, _app: App) -> Wants:
            return Wants(counts=True)

    app = App(id="1", keys=(KEY,), webhooks=(HOOK,))
    assert Journal().wants(app) == NOTHING_WANTED
    assert Journal(owed=[Users(), Counts()]).wants(app) == Wants(users=True, counts=True)
    assert Journal(owed=[Users(), Recorder()]).wants(app) == ALL


class Settling(Recorder):
    """An observer that settles when the test says so."""

    def hold(self, app_id: str, term: str, settle: Settle) -> None:
        super().hold(app_id, term, settle)
        self.settle = settle


def mark(number: int) -> Mark:
    return Mark("s", "e", number)


def test_a_mark_is_settled_once_every_observer_has_settled_it() -> None:
    settled: list[Mark] = []
    observers = [Settling(), Settling()]
    holding = Holding("1", observers, settled.append)
    holding.hold("t")
    first, second = observers
    first.settle(mark(3))
    assert settled == []
    second.settle(mark(2))
    assert settled == [mark(2)]
    second.settle(mark(5))
    assert settled == [mark(2), mark(3)]
    holding.release()
    assert first.terms == ["t", "released"]


def test_observers_that_settle_marks_of_different_epochs_are_waited_for() -> None:
    settled: list[Mark] = []
    first, second = observers = [Settling(), Settling()]
    Holding("1", observers, settled.append).hold("t")
    first.settle(Mark("s", "new", 5))
    second.settle(Mark("s", "old", 3))
    assert settled == []
    second.settle(Mark("s", "new", 5))
    assert settled == [Mark("s", "new", 5)]


def test_a_change_that_nobody_observes_is_settled_at_once() -> None:
    settled: list[Mark] = []
    other = Mark("t", "e", 7)
    changes: Sequence[Owed] = [Owed(CacheMiss("c"), one) for one in (mark(1), other, mark(2))]
    Holding("1", [], settled.append).owe(changes)
    assert settled == [mark(2), other]


def test_a_new_epoch_is_settled_anew() -> None:
    settled: list[Mark] = []
    observers = [Settling(), Settling()]
    holding = Holding("1", observers, settled.append)
    holding.hold("t")
    for observer in observers:
        observer.settle(mark(9))
    for observer in observers:
        observer.settle(Mark("s", "new", 1))
    assert settled == [mark(9), Mark("s", "new", 1)]
