"""
The contract of an engine, as tests.

An engine's author subclasses `EngineContract` and, for an engine that several nodes share,
`SharedContract`, and overrides `make` to return a cluster of nodes. `FaultContract` tests links
that fail; it runs over any `FaultyCluster`, such as `LinkedCluster`. The contract itself is in the
docstrings of `heliograph.engine.base`. The tests of history are in `history_suite`.

The tests fail with AssertionError by `assert`, so that pytest shows the difference.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from heliograph.engine.answers import (
    CacheFilled,
    CacheMiss,
    Change,
    ChannelOccupied,
    ChannelVacated,
    Counts,
    Entry,
    Listing,
    Lost,
    Mark,
    Options,
    Page,
    Reason,
    Refusal,
    Rewind,
    SignedIn,
    Wants,
)
from heliograph.engine.base import (
    ENTER_DEADLINE_S,
    LARGE_CHANNEL,
    LARGE_INTERVAL_S,
    PUBLISH_DEADLINE_S,
)
from heliograph.engine.share import Share
from heliograph.engine.testing.app_state import Bounds
from heliograph.engine.testing.cluster import Answer, Cluster, FaultyCluster, FaultyNode, Node
from heliograph.engine.testing.state import LEASE_S
from heliograph.errors import OutcomeUnknown, Unavailable
from heliograph.hub.facts import (
    Event,
    Keep,
    Member,
    MemberAdded,
    MemberRemoved,
    SubscriptionCount,
    UserOffline,
    UserOnline,
    UserTerminated,
)
from heliograph.reply import Reply, proceed

NO_OPTIONS = Options()
OBSERVED = Options(observed=True)
COUNTED = Options(counted=True, observed=True)
KEEP = Keep(1, 30.0)
BRIEF = Keep(1, 1.0)
CACHED = Options(observed=True, keep=KEEP, cached=True)
THE_LAST = Rewind(count=1)
ANN, BOB, CAT = Member("ann", b'{"n":1}'), Member("bob"), Member("cat")


def event(name: str, channel: str = "chat", *, keep: Keep | None = None) -> Event:
    """Make an event."""
    return Event(channel, name, b'"1"', keep=keep)


def listed(listing: Listing) -> dict[str, Counts]:
    """Read a listing to its end."""
    return {name: counts for part in listing for name, counts in part.items()}


def ask(cluster: Cluster, reply: Reply[Any]) -> Any:
    """Return the value of a reply."""
    answer = Answer(reply)
    cluster.settle()
    if answer.error is not None:
        raise answer.error
    assert answer.came, "a command was not answered"
    return answer.value


def enter(
    cluster: Cluster,
    node: Node,
    channel: str,
    subscriber_id: str,
    options: Options = NO_OPTIONS,
    **arguments: Any,
) -> Entry:
    """Enter a channel, and check that this was not refused."""
    entry = ask(cluster, node.space.enter(channel, subscriber_id, options, **arguments))
    assert isinstance(entry, Entry)
    return entry


def record_entry(
    node: Node,
    channel: str,
    subscriber_id: str,
    options: Options = NO_OPTIONS,
    **arguments: Any,
) -> None:
    """Enter a channel, and record the answer among the calls of the node, as "entered"."""

    def entered(entry: object) -> None:
        node.local.calls.append(("entered", entry))

    def failed(error: Exception) -> None:
        node.local.calls.append(("failed", error))

    proceed(node.space.enter(channel, subscriber_id, options, **arguments), entered, failed)


def leave(
    cluster: Cluster,
    node: Node,
    channel: str,
    subscriber_id: str,
    options: Options = NO_OPTIONS,
    member: Member | None = None,
) -> None:
    """Leave a channel."""
    node.space.leave([(channel, options, member)], subscriber_id)
    cluster.settle()


def names(node: Node, channel: str = "chat") -> list[str]:
    """Return the names of the events of a channel that were delivered to a node."""
    return [
        one.name for one in node.local.facts if isinstance(one, Event) and one.channel == channel
    ]


def stated(node: Node) -> list[SubscriptionCount]:
    """Return the numbers of subscriptions that were delivered to a node."""
    return [one for one in node.local.facts if isinstance(one, SubscriptionCount)]


def owed(cluster: Cluster, *kinds: type) -> list[Change]:
    """Return the owed changes of some kinds, of all nodes together."""
    return [
        one.change
        for node in cluster.nodes
        for one in node.local.owed
        if not kinds or isinstance(one.change, kinds)
    ]


def owed_of_each(cluster: Cluster, *kinds: type) -> dict[str, list[Change]]:
    """Return the owed changes by channel or user: only within each, they have an order."""
    found: dict[str, list[Change]] = {}
    for change in owed(cluster, *kinds):
        key = change.user_id if isinstance(change, UserOnline | UserOffline) else change.channel
        found.setdefault(key, []).append(change)
    return found


def last_marks(marks: Iterable[Mark]) -> dict[str, Mark]:
    """Return the last mark of each scope."""
    return {mark.scope: mark for mark in marks}


def holders(cluster: Cluster) -> list[Node]:
    """Return the nodes that are the holder."""
    return [node for node in cluster.nodes if node.local.holds]


WANTED: Mapping[str, tuple[type, ...]] = {
    "occupancy": (ChannelOccupied, ChannelVacated),
    "members": (MemberAdded, MemberRemoved),
    "users": (UserOnline, UserOffline),
    "cache": (CacheMiss, CacheFilled),
    "counts": (SubscriptionCount,),
    "client_events": (Event,),
}
"""The kinds of changes that are owed with each field of Wants."""


def cause_every_change(cluster: Cluster, node: Node, channel: str) -> None:
    """Cause each kind of change on a node, in a channel without subscriptions."""
    options = Options(counted=True, observed=True, keep=KEEP, cached=True)
    enter(cluster, node, channel, "a", options, member=ANN)
    sent = Event(channel, "client-x", b'"1"', owed=True)
    ask(cluster, node.space.publish([event("x", channel, keep=KEEP), sent]))
    leave(cluster, node, channel, "a", options, ANN)
    ask(cluster, node.space.sign_in("ann", "a"))
    node.space.sign_out("ann", "a")
    cluster.settle()


class ClusterTests:
    """Tests of an engine: each has a cluster of its own."""

    def make(self) -> Cluster:
        """Return a new cluster."""
        raise NotImplementedError

    @pytest.fixture
    def cluster(self) -> Cluster:
        """Return the cluster of a test."""
        return self.make()


class EngineContract(ClusterTests):
    """The promises of every engine; with several nodes, one sends commands and another observes."""

    def test_events_are_delivered_in_order(self, cluster: Cluster) -> None:
        """Broken on purpose: if a batch is delivered in another order, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        for channel in ("chat", "other"):
            enter(cluster, last, channel, "s")
        ask(cluster, first.space.publish([event("a"), event("b", "other"), event("c")]))
        ask(cluster, last.space.publish([event("d")]))
        assert names(last) == ["a", "c", "d"]
        assert names(last, "other") == ["b"]

    def test_entries_count_subscriptions(self, cluster: Cluster) -> None:
        """Broken on purpose: if counts are not read from the state, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        assert enter(cluster, first, "chat", "a").count == 1
        assert enter(cluster, last, "chat", "b").count == 2
        leave(cluster, first, "chat", "a")
        assert enter(cluster, last, "chat", "c").count == 2
        assert ask(cluster, first.space.counts(["chat", "nobody"])) == {
            "chat": Counts(2, 0),
            "nobody": Counts(0, 0),
        }

    def test_the_first_subscription_occupies_and_the_last_vacates(self, cluster: Cluster) -> None:
        """Broken on purpose: if changes of channels are not owed, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, first, "chat", "a", OBSERVED)
        enter(cluster, last, "chat", "b", OBSERVED)
        assert owed(cluster) == [ChannelOccupied("chat")]
        leave(cluster, first, "chat", "a", OBSERVED)
        assert owed(cluster) == [ChannelOccupied("chat")]
        leave(cluster, last, "chat", "b", OBSERVED)
        assert owed(cluster) == [ChannelOccupied("chat"), ChannelVacated("chat")]

    def test_a_channel_that_is_not_observed_owes_nothing(self, cluster: Cluster) -> None:
        """Broken on purpose: if options are ignored, this test fails."""
        node = cluster.nodes[0]
        enter(cluster, node, "presence-p", "a", NO_OPTIONS, member=ANN)
        leave(cluster, node, "presence-p", "a", NO_OPTIONS, ANN)
        assert owed(cluster) == []

    def test_members_are_announced_to_those_before_them(self, cluster: Cluster) -> None:
        """
        The roster has the newcomer, and the announcement precedes the answer.

        Broken on purpose: if facts are not sent, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        assert list(enter(cluster, last, "p", "a", member=ANN).roster) == [ANN]
        last.local.calls.clear()
        for subscriber_id in ("b", "b2"):
            roster = enter(cluster, first, "p", subscriber_id, member=BOB).roster
            assert (len(roster), set(roster)) == (2, {ANN, BOB})
        assert last.local.facts == [MemberAdded("p", BOB)]

    def test_the_last_session_of_a_user_removes_the_member(self, cluster: Cluster) -> None:
        """Broken on purpose: if facts are not sent, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, last, "p", "watcher", OBSERVED, member=BOB)
        for node, session in ((first, "a"), (first, "b"), (last, "c")):
            enter(cluster, node, "p", session, OBSERVED, member=ANN)
        last.local.calls.clear()
        leave(cluster, first, "p", "a", OBSERVED, ANN)
        leave(cluster, last, "p", "c", OBSERVED, ANN)
        assert last.local.facts == []
        leave(cluster, first, "p", "b", OBSERVED, ANN)
        assert last.local.facts == [MemberRemoved("p", "ann")]

    def test_a_full_channel_refuses_new_users_but_not_more_sessions(self, cluster: Cluster) -> None:
        """Broken on purpose: without the member limit, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, first, "p", "a", member=ANN, max_members=1)
        refused = ask(cluster, last.space.enter("p", "b", NO_OPTIONS, member=BOB, max_members=1))
        assert refused is Refusal.FULL
        enter(cluster, last, "p", "a2", member=ANN, max_members=1)
        assert ask(cluster, first.space.users("p")) == ["ann"]
        assert ask(cluster, first.space.counts(["p"])) == {"p": Counts(2, 1)}

    def test_a_refused_enter_leaves_no_trace(self, cluster: Cluster) -> None:
        """Broken on purpose: without the member limit, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, first, "p", "a", OBSERVED, member=ANN, max_members=1)
        replies = [
            Answer(last.space.enter("p", one, OBSERVED, member=member, max_members=1))
            for one, member in (("b", BOB), ("c", CAT), ("d", ANN))
        ]
        last_entry = Answer(last.space.enter("p", "e", OBSERVED, member=ANN, max_members=1))
        cluster.settle()
        assert [one.value for one in replies[:2]] == [Refusal.FULL] * 2
        assert replies[2].value.count in {2, 3}  # 3: both entered in one step
        assert last_entry.value.count == 3
        for node, one in ((last, "d"), (last, "e"), (first, "a")):
            leave(cluster, node, "p", one, OBSERVED, ANN)
        assert listed(ask(cluster, first.space.channels(""))) == {}
        assert owed(cluster, ChannelVacated, MemberRemoved) == [
            MemberRemoved("p", "ann"),
            ChannelVacated("p"),
        ]

    def test_many_channels_are_left_at_once(self, cluster: Cluster) -> None:
        """Broken on purpose: if only the first channel is left, this test fails."""
        node = cluster.nodes[0]
        for channel in ("a", "b"):
            enter(cluster, node, channel, "s", OBSERVED)
        enter(cluster, node, "p", "s", OBSERVED, member=ANN)
        enter(cluster, node, "b", "t", OBSERVED)
        node.space.leave([("a", OBSERVED, None), ("b", OBSERVED, None), ("p", OBSERVED, ANN)], "s")
        cluster.settle()
        assert listed(ask(cluster, node.space.channels(""))) == {"b": Counts(1, 0)}
        assert owed_of_each(cluster, ChannelVacated, MemberRemoved) == {
            "a": [ChannelVacated("a")],
            "p": [MemberRemoved("p", "ann"), ChannelVacated("p")],
        }

    def test_channels_are_listed_by_prefix(self, cluster: Cluster) -> None:
        """Broken on purpose: if the prefix is ignored, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        for session in "abc":
            enter(cluster, first, "presence-p", session, member=ANN)
        enter(cluster, last, "chat", "a")
        assert listed(ask(cluster, last.space.channels("pre"))) == {"presence-p": Counts(3, 1)}
        assert set(listed(ask(cluster, last.space.channels("")))) == {"presence-p", "chat"}
        assert ask(cluster, first.space.users("nobody")) == []

    def test_a_channel_that_stays_occupied_is_in_the_whole_listing(self, cluster: Cluster) -> None:
        """Broken on purpose: if only the first part is listed, this test fails."""
        node = cluster.nodes[0]
        channels = [f"c{number}" for number in range(1000)]
        for channel in channels:
            enter(cluster, node, channel, "a")
        listing = ask(cluster, node.space.channels(""))
        parts = iter(listing)
        found: dict[str, Counts] = {}
        while not found:  # parts may be empty
            found.update(next(parts))
        assert len(found) < 500
        node.space.leave([(channel, NO_OPTIONS, None) for channel in channels[:-1]], "a")
        cluster.settle()
        for part in parts:
            found.update(part)
        assert found["c999"] == Counts(1, 0)

    def test_the_last_event_is_kept_for_a_while(self, cluster: Cluster) -> None:
        """Broken on purpose: if events are kept for ever, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]

        def entered(subscriber_id: str) -> list[str]:
            entry = enter(cluster, last, "chat", subscriber_id, CACHED, since=THE_LAST)
            assert isinstance(entry.history, Page)
            assert entry.nothing_kept is not bool(entry.history.events)
            return [one.name for one in entry.history.events]

        ask(cluster, first.space.publish([event("old", keep=BRIEF)]))
        cluster.elapse(0.2)
        ask(cluster, first.space.publish([event("new", keep=BRIEF), event("unkept")]))
        assert entered("a") == ["new"]
        assert enter(cluster, last, "chat", "b").history is None
        cluster.elapse(BRIEF.ttl_s / 2)
        assert entered("c") == ["new"]
        cluster.elapse(BRIEF.ttl_s / 2)
        assert entered("d") == []

    def test_cache_misses_and_the_first_event_after_them_are_owed(self, cluster: Cluster) -> None:
        """Broken on purpose: if changes of channels are not owed, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, last, "chat", "a", CACHED)
        ask(cluster, first.space.publish([event("x", keep=KEEP), event("y", keep=KEEP)]))
        enter(cluster, first, "chat", "b", CACHED)
        assert owed(cluster, CacheMiss, CacheFilled) == [CacheMiss("chat"), CacheFilled("chat")]

    @pytest.mark.parametrize("kind", ["", *WANTED])
    def test_only_what_is_wanted_is_owed(self, cluster: Cluster, kind: str) -> None:
        """Broken on purpose: if `want` does nothing, or is ignored, this test fails."""
        node = cluster.nodes[-1]
        for channel, wants in (("p", Wants()), ("q", Wants(**{kind: True}) if kind else Wants())):
            assert owed(cluster) == []
            for one in cluster.nodes:
                one.space.want(wants)
            cause_every_change(cluster, node, channel)
        assert {type(change) for change in owed(cluster)} == set(WANTED.get(kind, ()))

    def test_events_of_clients_are_owed(self, cluster: Cluster) -> None:
        """Broken on purpose: if nothing is owed, this test fails."""
        node = cluster.nodes[-1]
        sent = Event("chat", "client-x", b'"1"', owed=True)
        ask(cluster, node.space.publish([sent, event("x")]))
        assert owed(cluster) == [sent]

    def test_marks_have_no_gaps(self, cluster: Cluster) -> None:
        """In each scope. Broken on purpose: if numbers are skipped, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        for channel in "abc":
            enter(cluster, first, channel, "s", OBSERVED)
            leave(cluster, first, channel, "s", OBSERVED)
            enter(cluster, last, channel, "s", OBSERVED)
        (holder,) = holders(cluster)
        assert len(holder.marks) == 9
        for scope, last_mark in last_marks(holder.marks).items():
            marks = [mark for mark in holder.marks if mark.scope == scope]
            assert [mark.number for mark in marks] == list(range(1, len(marks) + 1))
            assert {mark.epoch for mark in marks} == {last_mark.epoch}

    def test_small_numbers_are_facts_at_once(self, cluster: Cluster) -> None:
        """Broken on purpose: if numbers are no facts, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, last, "chat", "a", COUNTED)
        enter(cluster, first, "chat", "b", COUNTED)
        leave(cluster, first, "chat", "b", COUNTED)
        enter(cluster, first, "uncounted", "b", OBSERVED)
        counts = stated(last)
        assert counts[-2:] == [SubscriptionCount("chat", 2), SubscriptionCount("chat", 1)]
        assert all(one.channel == "chat" for one in counts)

    def test_large_numbers_are_facts_once_in_an_interval(self, cluster: Cluster) -> None:
        """
        For all nodes together; the number is the one at its end.

        Broken on purpose: if the number is not owed, this test fails.
        """
        first, last = cluster.nodes[0], cluster.nodes[-1]
        for number in range(LARGE_CHANNEL):
            enter(cluster, last, "chat", f"s{number}", COUNTED)
        for node in cluster.nodes:
            node.local.calls.clear()
        for number in range(5):
            enter(cluster, first, "chat", f"t{number}", COUNTED)
            enter(cluster, last, "chat", f"u{number}", COUNTED)
        asked = [node for node in cluster.nodes if node.local.of("count_due")]
        assert asked
        for node in asked:
            for channel, in_s in node.local.of("count_due"):
                assert channel == "chat"
                assert 0 < in_s <= LARGE_INTERVAL_S
        assert not any(stated(node) for node in cluster.nodes)
        cluster.elapse(LARGE_INTERVAL_S)
        for node in asked * 2:  # to ask twice is harmless
            node.space.state_count("chat")
            cluster.settle()
        expected = SubscriptionCount("chat", LARGE_CHANNEL + 10)
        for node in cluster.nodes:
            assert stated(node) == ([expected] if node in (first, last) else [])
        assert owed(cluster, SubscriptionCount)[-1:] == [expected]

    def test_a_user_is_online_from_the_first_session_to_the_last(self, cluster: Cluster) -> None:
        """Broken on purpose: if notices are not sent, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        watcher = ask(cluster, last.space.sign_in("wim", "w", ["ann", "bob"]))
        assert watcher.online == frozenset()
        ask(cluster, first.space.sign_in("ann", "a"))
        second = ask(cluster, last.space.sign_in("ann", "b", ["ann", "bob"]))
        assert second.online == {"ann"}
        first.space.sign_out("ann", "a")
        cluster.settle()
        assert [one for one in last.local.notices if one.user_id == "ann"] == [UserOnline("ann")]
        last.space.sign_out("ann", "b", ["ann", "bob"])
        cluster.settle()
        assert last.local.notices[-1] == UserOffline("ann")
        assert owed_of_each(cluster) == {
            "wim": [UserOnline("wim")],
            "ann": [UserOnline("ann"), UserOffline("ann")],
        }

    def test_a_user_sees_itself_online(self, cluster: Cluster) -> None:
        """Broken on purpose: if the answer names no user, this test fails."""
        signed_in = ask(cluster, cluster.nodes[0].space.sign_in("ann", "a", ["ann", "bob"]))
        assert signed_in.online == {"ann"}

    def test_terminations_reach_the_sessions(self, cluster: Cluster) -> None:
        """Broken on purpose: if notices are not sent, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        ask(cluster, last.space.sign_in("ann", "a"))
        last.local.calls.clear()
        ask(cluster, first.space.terminate("ann"))
        assert last.local.notices == [UserTerminated("ann")]

    def test_a_share_is_what_the_node_wants(self, cluster: Cluster) -> None:
        """Broken on purpose: if a leave does not change the share, this test fails."""
        node = cluster.nodes[0]
        enter(cluster, node, "p", "a", member=ANN)
        enter(cluster, node, "p", "b", member=ANN)
        enter(cluster, node, "chat", "a")
        ask(cluster, node.space.sign_in("ann", "a", ["bob"]))
        share = node.space.share()
        assert set(share.channels) == {"p", "chat"}
        assert (share.channels["p"].subscriptions, share.channels["p"].sessions) == (2, {"ann": 2})
        assert (share.users, share.watched) == ({"ann": 1}, {"bob": 1})
        node.space.leave([("p", NO_OPTIONS, ANN), ("chat", NO_OPTIONS, None)], "a")
        node.space.leave([("p", NO_OPTIONS, ANN)], "b")
        node.space.sign_out("ann", "a", ["bob"])
        cluster.settle()
        assert node.space.share() == type(share)()

    def test_there_is_one_holder_from_the_beginning(self, cluster: Cluster) -> None:
        """Broken on purpose: if each node that asks becomes the holder, this test fails."""
        (holder,) = holders(cluster)
        assert len(holder.local.of("hold")) == 1
        enter(cluster, cluster.nodes[0], "chat", "a", OBSERVED)
        holder.settle()
        cluster.settle()

    def test_available_is_known_without_asking(self, cluster: Cluster) -> None:
        """Broken on purpose: if `available` is always false, this test fails."""
        for node in cluster.nodes:
            assert node.engine.available
            assert node.space.available("chat")


class SharedContract(EngineContract):
    """The further promises of an engine that several nodes share."""

    takeover_s: ClassVar[float] = LEASE_S
    """Seconds after which another node is the holder if the holder closed its engine."""

    def test_a_node_that_did_not_enter_gets_no_facts(self, cluster: Cluster) -> None:
        """Broken on purpose: with facts sent to every node, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, first, "p", "a", COUNTED, member=ANN)
        ask(cluster, last.space.publish([event("x", "p")]))
        ask(cluster, first.space.sign_in("ann", "a"))
        ask(cluster, last.space.terminate("ann"))
        assert (last.local.facts, last.local.notices) == ([], [])

    def test_interest_ends_with_the_last_subscription_of_a_node(self, cluster: Cluster) -> None:
        """Broken on purpose: with facts sent to every node, this test fails."""
        first, last = cluster.nodes[0], cluster.nodes[-1]
        for node in (first, last):
            enter(cluster, node, "chat", "a")
        leave(cluster, last, "chat", "a")
        ask(cluster, first.space.publish([event("x")]))
        assert (names(first), names(last)) == (["x"], [])

    def test_exactly_one_node_is_owed_each_change(self, cluster: Cluster) -> None:
        """Broken on purpose: if each node that asks is the holder, this test fails."""
        for index, node in enumerate(cluster.nodes):
            enter(cluster, node, "p", "a", OBSERVED, member=Member(f"user-{index}"))
        (holder,) = holders(cluster)
        assert [node for node in cluster.nodes if node.local.owed] == [holder]
        added = [
            one.member.user_id for one in owed(cluster, MemberAdded) if isinstance(one, MemberAdded)
        ]
        assert added == [f"user-{index}" for index in range(len(cluster.nodes))]

    def test_facts_and_replies_have_one_order_on_all_nodes(self, cluster: Cluster) -> None:
        """Broken on purpose: if events are lost on one node, this test fails."""
        replies = []
        for node in cluster.nodes:
            enter(cluster, node, "p", "first", member=ANN)
        for node in cluster.nodes:
            node.local.calls.clear()
        for index, node in enumerate(cluster.nodes):
            member = Member(f"user-{index}")
            replies.append(Answer(node.space.enter("p", "second", NO_OPTIONS, member=member)))
            node.space.publish([event(f"event-{index}", "p")])
        cluster.settle()
        seen = [node.local.facts for node in cluster.nodes]
        assert all(facts == seen[0] for facts in seen)
        assert len(seen[0]) == 2 * len(cluster.nodes)
        for answer in replies:
            assert {one.user_id for one in answer.value.roster} >= {"ann"}

    def test_the_number_of_a_large_channel_is_stated_if_the_node_asked_for_it_leaves(
        self, cluster: Cluster
    ) -> None:
        """Broken on purpose: if no other node is asked then, this test fails."""
        nodes = (cluster.nodes[0], cluster.nodes[-1])
        for node in nodes:
            for number in range(LARGE_CHANNEL + 1):
                enter(cluster, node, "chat", f"s{number}", COUNTED)
        leaving = next(node for node in nodes if node.local.of("count_due"))
        for node in cluster.nodes:
            node.local.calls.clear()
        for number in range(LARGE_CHANNEL + 1):
            leave(cluster, leaving, "chat", f"s{number}", COUNTED)
            enter(cluster, nodes[leaving is nodes[0]], "chat", f"t{number}", COUNTED)
        cluster.elapse(LARGE_INTERVAL_S)
        staying = nodes[leaving is nodes[0]]
        for channel, _ in staying.local.of("count_due"):
            staying.space.state_count(channel)
            cluster.settle()
        assert stated(staying) == [SubscriptionCount("chat", 2 * LARGE_CHANNEL + 2)]

    def test_a_newcomer_gets_a_roster_and_then_exactly_the_later_facts(
        self, cluster: Cluster
    ) -> None:
        """
        Its node had no subscription of the channel, and all messages are in transit at once.

        Broken on purpose: if a roster lacks members, or if its reply comes after facts that it
        should precede, this test fails.
        """
        witness, *others = cluster.nodes
        before = {one.user_id: one for one in (ANN, BOB, CAT)}
        for user_id, member in before.items():
            enter(cluster, witness, "p", user_id, member=member)
        witness.local.calls.clear()
        for index, node in enumerate(others):
            witness.space.publish([event(f"before-{index}", "p")])
            record_entry(node, "p", "s", member=Member(f"user-{index}"))
            witness.space.enter("p", f"t{index}", NO_OPTIONS, member=Member(f"later-{index}"))
            node.space.publish([event(f"after-{index}", "p")])
        witness.space.leave([("p", NO_OPTIONS, ANN)], "ann")
        cluster.settle()
        assert len(witness.local.facts) == 1 + 4 * len(others)
        for index, node in enumerate(others):
            (entry,) = node.local.of("entered")
            assert node.local.calls[0] == ("entered", entry)
            later = node.local.facts
            earlier = witness.local.facts[: len(witness.local.facts) - len(later)]
            assert witness.local.facts[len(earlier) :] == later
            assert {one.user_id for one in entry.roster} == members_of(earlier, set(before))
            assert MemberAdded("p", Member(f"user-{index}")) in earlier

    def test_a_holder_that_leaves_is_followed_by_another(self, cluster: Cluster) -> None:
        """
        Its unsettled changes are owed again, with the same marks.

        Broken on purpose: if the next holder is owed only new changes, this test fails.
        """
        (holder,) = holders(cluster)
        other = next(node for node in cluster.nodes if node is not holder)
        enter(cluster, other, "a", "s", OBSERVED)
        holder.settle()
        cluster.settle()
        settled = holder.marks
        enter(cluster, other, "b", "s", OBSERVED)
        unsettled = holder.local.owed[-1]
        self.close(cluster, holder)
        cluster.elapse(self.takeover_s)
        (successor,) = holders(cluster)
        again = [one for one in successor.local.owed if one.mark not in settled]
        assert again == [unsettled]

    def close(self, cluster: Cluster, node: Node) -> None:
        """Close the engine of a node."""
        raise NotImplementedError


class FaultyClusterTests:
    """Tests of an engine whose links, nodes and state fail: each has a cluster of its own."""

    def make(self) -> FaultyCluster:
        """Return a new cluster, whose links move only in `settle` and `heal`."""
        raise NotImplementedError

    def make_bounded(self, bounds: Bounds) -> FaultyCluster:
        """Return a new cluster whose state has these limits."""
        raise NotImplementedError

    @pytest.fixture
    def cluster(self) -> FaultyCluster:
        """Return the cluster of a test."""
        return self.make()


class FaultContract(FaultyClusterTests):
    """
    The promises of an engine when links, nodes and the state fail.

    `settle` moves the messages of the cluster's links, so that a test can cause faults before.
    """

    lease_s: ClassVar[float] = LEASE_S
    """Seconds of silence after which a node can be removed; another one is the holder then."""

    # -- Enters that fail --------------------------------------------------------------------

    def test_an_enter_that_failed_leaves_no_trace(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if a failed enter is not withdrawn, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, other, "chat", "a")
        node.link.frozen_up = True
        answer = Answer(node.space.enter("chat", "b", NO_OPTIONS))
        pass_time(cluster, ENTER_DEADLINE_S)
        assert isinstance(answer.error, Unavailable)
        cluster.heal()
        assert ask(cluster, node.space.counts(["chat"])) == {"chat": Counts(1, 0)}

    def test_an_enter_that_was_executed_and_failed_is_made_good(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if a failed enter is not withdrawn, this test fails."""
        node = cluster.nodes[0]
        answer = Answer(node.space.enter("p", "b", NO_OPTIONS, member=ANN))
        node.link.step_up()
        node.link.frozen_down = True
        pass_time(cluster, ENTER_DEADLINE_S)
        assert isinstance(answer.error, Unavailable)
        cluster.heal()
        assert listed(ask(cluster, node.space.channels(""))) == {}

    def test_an_enter_whose_reply_was_lost_is_answered_after_the_interruption(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if a hello does not repeat unanswered commands, this test fails."""
        node = cluster.nodes[0]
        answer = Answer(node.space.enter("p", "a", OBSERVED, member=ANN, max_members=1))
        node.link.cut(executed=1)
        tick(cluster)
        assert answer.value == Entry(1, (ANN,))
        assert ask(cluster, node.space.counts(["p"])) == {"p": Counts(1, 1)}
        assert owed(cluster) == [ChannelOccupied("p"), MemberAdded("p", ANN)]

    def test_a_withdrawn_enter_is_never_answered(self, cluster: FaultyCluster) -> None:
        """Executed or not, with any messages in transit. Broken on purpose: without withdrawal."""
        for before in range(3):
            node = cluster.nodes[0]
            answer = Answer(node.space.enter("p", "a", NO_OPTIONS, member=ANN))
            for _ in range(before):
                node.link.step()
            node.space.leave([("p", NO_OPTIONS, ANN)], "a")
            cluster.settle()
            assert answer.came is (before > 1)
            assert listed(ask(cluster, node.space.channels(""))) == {}

    def test_a_subscriber_that_leaves_and_enters_again_has_the_second_answer(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: without withdrawal, this test fails."""
        node = cluster.nodes[0]
        first = Answer(node.space.enter("p", "a", NO_OPTIONS, member=ANN))
        node.space.leave([("p", NO_OPTIONS, ANN)], "a")
        second = Answer(node.space.enter("p", "a", NO_OPTIONS, member=ANN))
        cluster.settle()
        assert (first.came, second.value) == (False, Entry(1, (ANN,)))

    def test_a_refused_enter_that_was_withdrawn_takes_nothing_away(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if withdrawn tickets are not named, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, other, "p", "a", member=ANN, max_members=1)
        enter(cluster, node, "p", "a2", member=ANN, max_members=1)
        answer = Answer(node.space.enter("p", "b", NO_OPTIONS, member=BOB, max_members=1))
        node.link.step_up()
        node.space.leave([("p", NO_OPTIONS, BOB)], "b")
        cluster.settle()
        assert not answer.came
        assert ask(cluster, node.space.counts(["p"])) == {"p": Counts(2, 1)}

    # -- Sign-ins that fail ------------------------------------------------------------------

    def test_a_sign_in_that_failed_leaves_no_trace(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if a failed sign-in is not withdrawn, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        node.link.frozen_up = True
        answer = Answer(node.space.sign_in("ann", "a", ["bob"]))
        pass_time(cluster, ENTER_DEADLINE_S)
        assert isinstance(answer.error, Unavailable)
        cluster.heal()
        assert ask(cluster, other.space.sign_in("bob", "b", ["ann"])).online == frozenset()
        assert node.local.notices == []
        assert node.space.share() == Share()

    def test_a_sign_in_that_was_executed_and_failed_is_made_good(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if a failed sign-in is not withdrawn, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        ask(cluster, other.space.sign_in("bob", "b", ["ann"]))
        answer = Answer(node.space.sign_in("ann", "a"))
        node.link.step_up()
        node.link.frozen_down = True
        pass_time(cluster, ENTER_DEADLINE_S)
        assert isinstance(answer.error, Unavailable)
        cluster.heal()
        assert other.local.notices == [UserOnline("ann"), UserOffline("ann")]

    def test_a_sign_in_that_fails_while_a_connection_begins_is_made_good(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if the changes by a failure are not sent, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        cut_off(node)
        answer = Answer(node.space.sign_in("ann", "a"))
        cluster.clock.now += ENTER_DEADLINE_S - 0.2
        node.link.reachable = True
        cluster.tick()
        while node.link.step_up():
            pass
        cluster.clock.now += 0.3
        cluster.tick()
        assert isinstance(answer.error, Unavailable)
        cluster.heal()
        assert ask(cluster, other.space.sign_in("bob", "b", ["ann"])).online == frozenset()

    def test_a_sign_in_whose_reply_was_lost_is_answered_after_the_interruption(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if a hello does not repeat unanswered commands, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        ask(cluster, other.space.sign_in("bob", "b", ["ann"]))
        answer = Answer(node.space.sign_in("ann", "a", ["bob"]))
        node.link.cut(executed=1)
        tick(cluster)
        assert answer.value == SignedIn(frozenset({"bob"}))
        assert other.local.notices == [UserOnline("ann")]
        node.space.sign_out("ann", "a", ["bob"])
        cluster.settle()
        assert other.local.notices == [UserOnline("ann"), UserOffline("ann")]

    def test_a_withdrawn_sign_in_is_never_answered(self, cluster: FaultyCluster) -> None:
        """Executed or not. Broken on purpose: if it stays unanswered, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        for executed in range(2):
            answer = Answer(node.space.sign_in("ann", "a", ["bob"]))
            for _ in range(executed):
                node.link.step_up()
            node.space.sign_out("ann", "a", ["bob"])
            cluster.settle()
            assert not answer.came
            assert node.space.share() == Share()
            assert ask(cluster, other.space.sign_in("bob", "b", ["ann"])).online == frozenset()
            other.space.sign_out("bob", "b", ["ann"])
            cluster.settle()
        assert node.local.notices == []

    # -- Deadlines ---------------------------------------------------------------------------

    def test_a_publish_without_an_answer_is_unknown_at_its_deadline(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: without the node's deadlines, this test fails."""
        node = cluster.nodes[0]
        node.link.frozen_up = True
        answer = Answer(node.space.publish([event("x")]))
        pass_time(cluster, PUBLISH_DEADLINE_S - 0.2)
        assert not answer.came
        pass_time(cluster, 0.3)
        assert isinstance(answer.error, OutcomeUnknown)

    def test_a_publish_that_was_not_sent_is_unavailable(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if it is unknown whether it was sent, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, other, "chat", "a")
        cut_off(node)
        answers = [
            Answer(node.space.publish([event("x")])),
            Answer(node.space.terminate("ann")),
            Answer(node.space.counts(["chat"])),
        ]
        pass_time(cluster, PUBLISH_DEADLINE_S)
        assert [type(one.error) for one in answers] == [Unavailable] * 3
        cluster.heal()
        assert names(other) == []

    def test_nothing_happens_after_its_deadline(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: without the check where commands are executed, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, other, "chat", "a")
        answers = [
            Answer(node.space.publish([event("x")])),
            Answer(node.space.enter("chat", "b", COUNTED)),
        ]
        node.link.frozen_up = True
        for _ in range(52):  # the node's own connection stays: it is not ticked
            cluster.clock.now += 0.1
        node.link.frozen_up = False
        node.link.move()
        node.tick()
        cluster.settle()
        assert isinstance(answers[0].error, Unavailable | OutcomeUnknown)
        assert isinstance(answers[1].error, Unavailable)
        assert other.local.facts == []

    # -- Late and repeated commands ----------------------------------------------------------

    def test_a_command_of_an_old_connection_is_not_executed(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: without the fence of numbers, this test fails."""
        node = cluster.nodes[0]
        enter(cluster, node, "chat", "a")
        node.space.leave([("chat", NO_OPTIONS, None)], "a")
        node.link.withhold()
        node.link.cut()
        tick(cluster)
        enter(cluster, node, "chat", "b")
        node.link.deliver_withheld()
        cluster.settle()
        assert ask(cluster, node.space.counts(["chat"])) == {"chat": Counts(1, 0)}

    def test_an_entry_behind_a_departure_that_was_lost_is_answered(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if the node relies on the members that it forgot, this test fails."""
        node = cluster.nodes[0]
        enter(cluster, node, "chat", "a")
        node.space.leave([("chat", NO_OPTIONS, None)], "a")
        node.link.withhold()
        answer = Answer(node.space.enter("chat", "b", NO_OPTIONS))
        cluster.settle()
        tick(cluster)
        assert answer.value == Entry(1)
        assert ask(cluster, node.space.counts(["chat"])) == {"chat": Counts(1, 0)}

    def test_a_late_publish_of_an_old_connection_is_not_executed(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: without the fence of numbers, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, other, "chat", "a")
        answer = Answer(node.space.publish([event("x")]))
        node.link.withhold()
        node.link.cut()
        tick(cluster)
        assert isinstance(answer.error, OutcomeUnknown)
        node.link.deliver_withheld()
        cluster.settle()
        assert names(other) == []

    # -- Interruptions -----------------------------------------------------------------------

    def test_an_outage_is_known_without_asking(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if `available` is always true, this test fails."""
        node, others = cluster.nodes[0], cluster.nodes[1:]
        cut_off(node)
        tick(cluster)
        assert not node.engine.available
        assert not node.space.available("chat")
        assert all(one.engine.available and one.space.available("chat") for one in others)
        cluster.heal()
        assert node.engine.available
        assert node.space.available("chat")

    def test_a_number_that_is_due_is_stated_after_an_interruption(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if a node is not reminded of it, this test fails."""
        node = cluster.nodes[0]
        for number in range(LARGE_CHANNEL):
            enter(cluster, node, "chat", f"s{number}", COUNTED)
        node.local.calls.clear()
        node.space.enter("chat", "t", COUNTED)
        node.link.cut(executed=1)
        pass_time(cluster, LARGE_INTERVAL_S)
        for channel, _ in node.local.of("count_due"):
            node.space.state_count(channel)
            cluster.settle()
        assert stated(node) == [SubscriptionCount("chat", LARGE_CHANNEL + 1)]

    def test_a_number_that_changed_during_an_interruption_is_stated(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if numbers are not compared after it, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "chat", "a", COUNTED)
        node.link.cut()
        node.declare_dead()
        enter(cluster, other, "chat", "b", COUNTED)
        cluster.heal()
        assert stated(node)[-1:] == [SubscriptionCount("chat", 2)]

    def test_a_leave_during_an_outage_is_made_good(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if a hello does not assert unsent changes, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "p", "a", OBSERVED, member=ANN)
        enter(cluster, other, "p", "b", OBSERVED, member=BOB)
        other.local.calls.clear()
        cut_off(node)
        leave(cluster, node, "p", "a", OBSERVED, ANN)
        assert other.local.facts == []
        cluster.heal()
        assert other.local.facts == [MemberRemoved("p", "ann")]

    def test_a_leave_that_was_cut_off_is_made_good(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if unanswered commands are not asserted again, this test fails."""
        node = cluster.nodes[0]
        for channel in "abc":
            enter(cluster, node, channel, "s")
        node.space.leave([(channel, NO_OPTIONS, None) for channel in "abc"], "s")
        node.link.cut(executed=0)
        tick(cluster)
        assert listed(ask(cluster, node.space.channels(""))) == {}

    def test_a_leave_that_was_lost_silently_is_made_good(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if answers may be missing, this test fails."""
        node = cluster.nodes[0]
        enter(cluster, node, "chat", "s")
        node.link.losing_up = True
        node.space.leave([("chat", NO_OPTIONS, None)], "s")
        node.link.losing_up = False
        cluster.heal()
        assert listed(ask(cluster, node.space.channels(""))) == {}

    def test_a_connection_that_answers_no_more_is_given_up(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if commands may stay unanswered, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "chat", "s")
        node.link.frozen_up = True
        node.space.leave([("chat", NO_OPTIONS, None)], "s")
        pass_time(cluster, ENTER_DEADLINE_S + 0.2)
        assert listed(ask(cluster, other.space.channels(""))) == {}

    def test_a_leave_that_was_refused_is_made_good(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if refused assertions are not repeated, this test fails."""
        node = cluster.nodes[0]
        enter(cluster, node, "chat", "s")
        node.link.refusing = True
        leave(cluster, node, "chat", "s")
        node.link.refusing = False
        tick(cluster)
        assert listed(ask(cluster, node.space.channels(""))) == {}

    def test_the_last_leave_of_a_node_makes_good_a_refused_one_before_it(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: if only the members that it names are removed, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        for one, subscriber_id, member in ((node, "a", ANN), (node, "b", BOB), (other, "c", CAT)):
            enter(cluster, one, "p", subscriber_id, member=member)
        node.link.refusing = True
        leave(cluster, node, "p", "a", NO_OPTIONS, ANN)
        node.link.refusing = False
        leave(cluster, node, "p", "b", NO_OPTIONS, BOB)
        cluster.heal()
        assert ask(cluster, other.space.users("p")) == ["cat"]

    def test_a_refused_publish_reaches_nobody(self, cluster: FaultyCluster) -> None:
        """All or none of its events. Broken on purpose: if it is repeated, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        for channel in ("chat", "other"):
            enter(cluster, other, channel, "s")
        node.link.refusing = True
        answer = Answer(node.space.publish([event("x"), event("y", "other")]))
        cluster.settle()
        assert isinstance(answer.error, Unavailable)
        cluster.heal()
        assert (names(other), names(other, "other")) == ([], [])

    def test_events_during_an_interruption_are_delivered_after_it(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: without the log, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "p", "s", member=ANN)
        ask(cluster, node.space.sign_in("ann", "s", ["bob"]))
        node.local.calls.clear()
        node.link.cut()
        enter(cluster, other, "p", "t", member=BOB)
        ask(cluster, other.space.publish([event("x", "p")]))
        ask(cluster, other.space.sign_in("bob", "t"))
        ask(cluster, other.space.terminate("ann"))
        tick(cluster)
        assert node.local.facts == [MemberAdded("p", BOB), event("x", "p")]
        assert len(node.local.notices) == 2
        assert set(node.local.notices) == {UserOnline("bob"), UserTerminated("ann")}
        assert node.local.losses == []

    def test_events_that_were_lost_silently_are_noticed(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: without the numbers of the inbox, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "chat", "s")
        node.link.losing_down = True
        ask(cluster, other.space.publish([event("x")]))
        node.link.losing_down = False
        ask(cluster, other.space.publish([event("y")]))
        assert names(node) == ["x", "y"]

    def test_a_silent_loss_is_noticed_without_further_events(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: without probes, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "chat", "s")
        node.link.losing_down = True
        ask(cluster, other.space.publish([event("x")]))
        node.link.losing_down = False
        pass_time(cluster, self.lease_s / 2)
        assert names(node) == ["x"]

    def test_what_the_log_lacks_is_lost_and_nothing_else(self) -> None:
        """Broken on purpose: if a hello with holes counts as complete, this test fails."""
        cluster = self.make_bounded(Bounds(log_entries=2))
        node, other = cluster.nodes[0], cluster.nodes[-1]
        for channel in ("busy", "idle"):
            enter(cluster, node, channel, "s")
        enter(cluster, node, "p", "s", member=ANN)
        node.local.calls.clear()
        node.link.cut()
        enter(cluster, other, "p", "t", member=BOB)
        for name in "abc":
            ask(cluster, other.space.publish([event(name, "busy")]))
        tick(cluster)
        assert node.local.losses == [Lost(Reason.TRIMMED, channel="busy", now=Entry(1))]
        assert node.local.facts[:1] == [MemberAdded("p", BOB)]

    # -- Nodes that die, and come back -------------------------------------------------------

    def test_a_dead_node_is_removed(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if its lease does not end, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "p", "a", OBSERVED, member=ANN)
        enter(cluster, other, "p", "b", OBSERVED, member=BOB)
        for one in holders(cluster):
            one.settle()
        cluster.settle()
        node.kill()
        pass_time(cluster, 2 * self.lease_s)
        assert MemberRemoved("p", "ann") in other.local.facts
        assert ask(cluster, other.space.counts(["p"])) == {"p": Counts(1, 1)}
        (holder,) = holders(cluster)
        assert MemberRemoved("p", "ann") in owed(cluster)
        assert holder is not node

    def test_a_stalled_node_makes_good_what_it_missed(self, cluster: FaultyCluster) -> None:
        """
        It was removed, and returns: its members leave and enter; it gets a Lost for the interval.

        Broken on purpose: without `born`, this test fails.
        """
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "p", "a", member=ANN)
        enter(cluster, node, "alone", "a")
        enter(cluster, other, "p", "b", member=BOB)
        ask(cluster, node.space.sign_in("ann", "a"))
        other.local.calls.clear()
        node.local.calls.clear()
        node.stalled = True
        pass_time(cluster, 2 * self.lease_s)
        assert other.local.facts == [MemberRemoved("p", "ann")]
        ask(cluster, other.space.publish([event("x", "p"), event("y", "alone")]))
        cluster.heal()
        assert other.local.facts[-1] == MemberAdded("p", ANN)
        assert node.local.facts == [event("x", "p")]
        assert {(one.channel, one.user_id, one.reason) for one in node.local.losses} == {
            ("alone", None, Reason.VACATED),
            (None, "ann", Reason.VACATED),
        }

    def test_what_reached_nobody_while_a_node_was_removed_is_lost(
        self, cluster: FaultyCluster
    ) -> None:
        """
        The channel was vacated, and the user offline, when the event and the termination came.

        Broken on purpose: if a life of a channel, or of a user, has no number of its own, this test
        fails.
        """
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "chat", "a")
        ask(cluster, node.space.sign_in("ann", "a"))
        node.declare_dead()
        cut_off(node)
        ask(cluster, other.space.publish([event("x")]))
        ask(cluster, other.space.terminate("ann"))
        enter(cluster, other, "chat", "b")
        ask(cluster, other.space.sign_in("ann", "b"))
        cluster.heal()
        assert names(node) == []
        assert {(one.channel, one.user_id, one.reason) for one in node.local.losses} == {
            ("chat", None, Reason.VACATED),
            (None, "ann", Reason.VACATED),
        }

    def test_a_node_that_comes_back_is_not_refused_by_the_member_limit(
        self, cluster: FaultyCluster
    ) -> None:
        """Broken on purpose: with the limit for assertions, too, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "p", "a", member=ANN, max_members=1)
        node.declare_dead()
        enter(cluster, other, "p", "b", member=BOB, max_members=1)
        cluster.heal()
        assert set(ask(cluster, other.space.users("p"))) == {"ann", "bob"}
        refused = ask(cluster, other.space.enter("p", "c", NO_OPTIONS, member=CAT, max_members=1))
        assert refused is Refusal.FULL

    def test_a_common_outage_kills_no_node(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if the first node back removes the others, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "p", "a", member=ANN)
        enter(cluster, other, "p", "b", member=BOB)
        other.local.calls.clear()
        for one in cluster.nodes:
            cut_off(one)
        pass_time(cluster, 3 * self.lease_s)
        other.link.reachable = True
        pass_time(cluster, 1.0)
        node.link.reachable = True
        pass_time(cluster, 2 * self.lease_s)
        assert other.local.facts == []

    # -- The state as a whole ----------------------------------------------------------------

    def test_an_empty_state_is_filled_again(self, cluster: FaultyCluster) -> None:
        """
        Members and counts by difference; events may be missing, and are reported as lost.

        Broken on purpose: if nothing is reported as lost, this test fails.
        """
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "p", "a", COUNTED, member=ANN)
        enter(cluster, other, "p", "b", COUNTED, member=BOB)
        ask(cluster, node.space.sign_in("ann", "a", ["bob"]))
        for one in cluster.nodes:
            one.local.calls.clear()
        cluster.empty()
        cluster.heal()
        assert ask(cluster, node.space.counts(["p"])) == {"p": Counts(2, 2)}
        for one, users in ((node, ["ann"]), (other, [])):
            assert [loss.channel for loss in one.local.losses if loss.user_id is None] == ["p"]
            assert [loss.user_id for loss in one.local.losses if loss.channel is None] == users
            assert {loss.reason for loss in one.local.losses} == {Reason.NEW_STATE}
        assert members_of(node.local.facts, {"ann", "bob"}) == {"ann", "bob"}

    def test_a_state_that_was_set_back_begins_anew(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if it goes on in the same epoch, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "chat", "a")
        old = cluster.snapshot()
        ask(cluster, other.space.publish([event("x")]))
        enter(cluster, other, "chat", "b")
        cluster.restore(old)
        cluster.heal()
        assert ask(cluster, node.space.counts(["chat"])) == {"chat": Counts(2, 0)}
        assert [one.reason for one in node.local.losses] == [Reason.NEW_STATE]

    @pytest.mark.parametrize("part", ["share", "channel", "members"])
    def test_the_loss_of_a_part_is_noticed(self, cluster: FaultyCluster, part: str) -> None:
        """Broken on purpose: without the cross-checks, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "p", "a", member=ANN)
        enter(cluster, other, "p", "b", member=BOB)
        match part:
            case "share":
                node.lose_share()
            case "channel":
                cluster.lose_channel("p")
            case _:
                cluster.lose_members("p")
        cluster.heal()
        leave(cluster, node, "p", "a", NO_OPTIONS, ANN)
        assert ask(cluster, node.space.users("p")) == ["bob"]
        assert ask(cluster, node.space.counts(["p"])) == {"p": Counts(1, 1)}

    # -- Owed changes ------------------------------------------------------------------------

    def test_changes_without_a_holder_are_kept(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if nothing is recorded without a holder, this test fails."""
        (holder,) = holders(cluster)
        node = next(one for one in cluster.nodes if one is not holder)
        enter(cluster, node, "a", "s", OBSERVED)
        settled = holder.marks
        holder.settle()
        cluster.settle()
        node.local.calls.clear()
        linked(holder).declare_dead()
        cut_off(linked(holder))
        enter(cluster, node, "b", "s", OBSERVED)
        pass_time(cluster, self.lease_s)
        assert node.local.holds
        again = [one for one in node.local.owed if one.mark not in settled]
        assert [one.change for one in again] == [ChannelOccupied("b")]
        assert again[0].mark.number == 1 + sum(
            (mark.scope, mark.epoch) == (again[0].mark.scope, again[0].mark.epoch)
            for mark in settled
        )

    def test_what_was_not_settled_is_owed_to_the_next_holder_with_the_same_marks(
        self, cluster: FaultyCluster
    ) -> None:
        """
        Even after a restart: the holder that died may have kept an event, which must stay valid.

        Broken on purpose: if the next holder is owed it with a new mark, this test fails.
        """
        (holder,) = holders(cluster)
        node = next(one for one in cluster.nodes if one is not holder)
        enter(cluster, node, "a", "s", OBSERVED)
        ask(cluster, node.space.publish([Event("a", "client-x", b'"1"', "s", owed=True)]))
        owed = holder.local.owed
        restart = (owed[0].mark.scope, owed[0].mark.epoch)
        assert holder.local.of("restart") == [restart]
        linked(holder).declare_dead()
        cut_off(linked(holder))
        pass_time(cluster, self.lease_s)
        assert node.local.holds
        assert node.local.of("restart") == [restart]
        assert node.local.owed == owed

    def test_a_holder_releases_when_its_lease_ends(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if only the state ends it, two nodes hold, and this test fails."""
        (holder,) = holders(cluster)
        cut_off(linked(holder))
        pass_time(cluster, self.lease_s + 0.2)
        assert not holder.local.holds
        pass_time(cluster, self.lease_s)
        assert len(holders(cluster)) == (1 if len(cluster.nodes) > 1 else 0)

    def test_an_empty_state_grants_no_second_holder(self, cluster: FaultyCluster) -> None:
        """
        The holder is cut off and holds until its lease ends; the next one is owed the changes.

        Broken on purpose: if a new life of the state grants a holder at once, this test fails.
        """
        (holder,) = holders(cluster)
        node = next(one for one in cluster.nodes if one is not holder)
        cut_off(linked(holder))
        cluster.empty()
        tick(cluster)
        enter(cluster, node, "a", "s", OBSERVED)
        for _ in range(round(4 * self.lease_s)):
            pass_time(cluster, 0.5)
            assert len(holders(cluster)) <= 1
        assert not holder.local.holds
        assert len(holders(cluster)) == 1
        assert owed(cluster) == [ChannelOccupied("a")]

    def test_a_holder_that_was_cut_off_for_a_moment_goes_on(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if owed changes are not repeated after a hello, this test fails."""
        (holder,) = holders(cluster)
        node = next(one for one in cluster.nodes if one is not holder)
        linked(holder).link.cut()
        enter(cluster, node, "a", "s", OBSERVED)
        tick(cluster)
        enter(cluster, node, "b", "s", OBSERVED)
        assert len(holder.local.of("hold")) == 1
        assert {one.change for one in holder.local.owed} == {
            ChannelOccupied("a"),
            ChannelOccupied("b"),
        }
        assert len(holder.marks) == len(set(holder.marks)) == 2

    def test_a_mark_whose_settling_was_cut_off_is_settled(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if a hello does not repeat it, this test fails."""
        (holder,) = holders(cluster)
        enter(cluster, cluster.nodes[0], "a", "s", OBSERVED)
        holder.settle()
        linked(holder).link.cut()
        tick(cluster)
        assert list(cluster.unsettled()) == []

    def test_only_the_holder_settles(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if the state takes it from any node, this test fails."""
        (holder,) = holders(cluster)
        node = next(one for one in cluster.nodes if one is not holder)
        enter(cluster, node, "a", "s", OBSERVED)
        node.settle_in_state(holder.marks[-1])
        assert [one.change for one in cluster.unsettled()] == [ChannelOccupied("a")]
        holder.settle()
        cluster.settle()
        assert list(cluster.unsettled()) == []

    def test_too_many_changes_are_a_restart(self) -> None:
        """Broken on purpose: if they are dropped without a restart, this test fails."""
        cluster = self.make_bounded(Bounds(owed_changes=4))
        (holder,) = holders(cluster)
        for channel in "abcdef":
            enter(cluster, cluster.nodes[0], channel, "s", OBSERVED)
        leave(cluster, cluster.nodes[0], "a", "s", OBSERVED)
        calls = [name for name, _ in holder.local.calls if name in {"restart", "owe"}]
        since = len(calls) - 1 - calls[::-1].index("restart")
        changes = [one.change for one in holder.local.owed[calls[:since].count("owe") :]]
        assert calls.count("restart") > 1
        occupied = {one.channel for one in changes if isinstance(one, ChannelOccupied)}
        vacated = {one.channel for one in changes if isinstance(one, ChannelVacated)}
        assert occupied - vacated == set("bcdef")

    def test_a_goodbye_removes_everything(self, cluster: FaultyCluster) -> None:
        """Broken on purpose: if the state does not remove the node, this test fails."""
        node, other = cluster.nodes[0], cluster.nodes[-1]
        enter(cluster, node, "p", "a", member=ANN)
        enter(cluster, other, "p", "b", member=BOB)
        goodbye(cluster, node)
        assert ask(cluster, other.space.counts(["p"])) == {"p": Counts(1, 1)}
        assert not node.local.holds


def linked(node: Node) -> FaultyNode:
    """Return the same node, which is behind a link."""
    assert isinstance(node, FaultyNode)
    return node


def members_of(facts: Sequence[object], members: set[str]) -> set[str]:
    """Return the members after *facts*; *members* are those before."""
    members = set(members)
    for fact in facts:
        match fact:
            case MemberAdded(_, member):
                members.add(member.user_id)
            case MemberRemoved(_, user_id):
                members.remove(user_id)
            case _:
                pass
    return members


def cut_off(node: FaultyNode) -> None:
    """Cut a link, and make the state unreachable for a new one."""
    node.link.reachable = False
    node.link.cut()


def tick(cluster: FaultyCluster) -> None:
    """Let the timers of all nodes run once, and everything arrive."""
    cluster.clock.now += 0.1
    cluster.tick()
    cluster.settle()


def pass_time(cluster: FaultyCluster, seconds: float) -> None:
    """Let time pass, in which all messages arrive that no fault stops."""
    for _ in range(round(seconds * 10) + 1):
        tick(cluster)


def goodbye(cluster: FaultyCluster, node: FaultyNode) -> None:
    """Close a node's engine as its server does when it stops."""
    asyncio.run(node.close())
    cluster.settle()
