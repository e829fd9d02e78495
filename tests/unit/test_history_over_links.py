"""
Clients that continue where they had been, on whole nodes over one state whose links fail.

At the end, each client has every event of its channels once and in order, or was notified of a gap.
"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.config.apps import HistoryRule
from tests.unit.test_nodes_over_links import CHANNELS, CLIENTS, FAULTS, STATE_FAULTS, Story
from tests.unit.test_session import FakePeer

PLENTY = HistoryRule(prefix="", limit=1000, ttl=10_000.0)
LITTLE = HistoryRule(prefix="", limit=3, ttl=10_000.0)

LARGE = b'"' + b"x" * 30_000 + b'"'
"""Data of an event of which two fit into a page."""

Place = tuple[str, int]


class Reader:
    """What a client knows of a channel, over all of its connections."""

    def __init__(self) -> None:
        self.here: Place | None = None
        self.gaps: list[str] = []
        self.before: list[Place] = []  # the events that it had before its last gap
        self.seen: list[Place] = []  # since then

    def take(self, name: str, data: dict[str, Any], following: Place | None) -> Place | None:
        """Take a message; return the position of the event that is to follow."""
        place = (data["epoch"], data["offset"]) if "epoch" in data else None
        match name:
            case "pusher_internal:next_position":
                assert place is not None
                return place
            case "pusher_internal:position":
                assert place is not None
                assert self.here in (None, place), "there was nothing to be missed in silence"
                self.here = place
            case "pusher_internal:gap":
                self.gaps.append(data["reason"])
                self.before += self.seen
                self.seen = []
                self.here = place
            case _ if name.startswith("e"):
                assert following is not None, "a kept event has a position"
                assert following not in (*self.seen, *self.before), "no event comes twice"
                if self.here is not None and following[0] == self.here[0]:
                    assert following[1] == self.here[1] + 1, "no event is missing"
                self.here = following
                self.seen.append(following)
        return None


class HistoryStory(Story):
    """Clients with positions, which they keep when their connections end."""

    def __init__(self, number: int, rule: HistoryRule, *, large: bool) -> None:
        self.readers = {(one, name): Reader() for one in range(CLIENTS) for name in CHANNELS}
        self.names_at: dict[tuple[str, Place], str] = {}
        self.data = LARGE if large else b'"{}"'
        self._taken: dict[int, int] = {}  # by id() of the peer: messages that were taken
        self._kept: list[FakePeer] = []  # so that no id is used again
        super().__init__(number, (rule,))

    def claim(self, number: int, channel: str) -> dict[str, Any]:
        here = self.readers[number, channel].here
        return {"history": {} if here is None else {"epoch": here[0], "offset": here[1]}}

    def take(self, number: int) -> None:
        """Take what has arrived at a client."""
        peer = self.peers[number]
        following: Place | None = None
        for message in peer.told:
            channel = message.get("channel")
            if channel not in CHANNELS:
                continue
            name, data = message["event"], message["data"]
            internal = name.startswith("pusher_internal:")
            found = json.loads(data) if internal and isinstance(data, str) else {}
            reader = self.readers[number, channel]
            if following is not None:
                known = self.names_at.setdefault((channel, following), name)
                assert known == name, "every client has the same event at a position"
            following = reader.take(name, found, following)
        assert following is None, "the event follows its position in one write"

    def do(self, what: str, number: int, channel: str) -> None:
        super().do(what, number, channel)
        for one in range(CLIENTS):
            self.take(one)
            self.peers[one].told.clear()

    def note_subscriptions(self) -> None:
        """Events are compared by their positions here."""

    def reconnect(self, number: int) -> None:
        self.take(number)
        super().reconnect(number)

    def check_history(self) -> None:
        cluster = self.cluster
        cluster.heal()
        for number in range(CLIENTS):
            if self.peers[number].closed is not None:
                self.reconnect(number)
            for channel in CHANNELS:
                self.do("subscribe", number, channel)
        cluster.settle()
        for channel in CHANNELS:
            self.publish(self.home(0), channel)
        cluster.heal()
        last: dict[str, set[Place | None]] = {channel: set() for channel in CHANNELS}
        for number in range(CLIENTS):
            assert self.peers[number].closed is None
            self.take(number)
            for session in self.home(number).sessions:
                assert not session.replays
        for (_, channel), reader in self.readers.items():
            last[channel].add(reader.here)
        assert all(len(places) == 1 for places in last.values()), "all clients are up to date"


VERBS = [
    *("subscribe", "subscribe", "unsubscribe", "publish", "publish", "publish", "publish"),
    *("die", "die", "step", "step", "settle", "settle", "second", "lease"),
]


def steps(verbs: list[str]) -> st.SearchStrategy[list[tuple[str, int, str]]]:
    one = st.tuples(
        st.sampled_from(verbs), st.integers(0, CLIENTS - 1), st.sampled_from(CHANNELS[:2])
    )
    return st.lists(one, max_size=60)


@settings(deadline=None, max_examples=150)
@given(steps([*VERBS, *sorted(FAULTS - STATE_FAULTS)]), st.sampled_from([2, 3]), st.booleans())
def test_with_enough_kept_no_client_misses_an_event_whatever_happens_to_links_and_nodes(
    story: list[tuple[str, int, str]], number: int, large: bool
) -> None:
    told = HistoryStory(number, PLENTY, large=large)
    for step in story:
        told.do(*step)
    told.check_history()
    assert not [reader.gaps for reader in told.readers.values() if reader.gaps]


@settings(deadline=None, max_examples=150)
@given(steps([*VERBS, *sorted(FAULTS)]), st.sampled_from([2, 3]), st.booleans())
def test_a_client_that_misses_an_event_is_notified_whatever_happens(
    story: list[tuple[str, int, str]], number: int, large: bool
) -> None:
    told = HistoryStory(number, LITTLE, large=large)
    for step in story:
        told.do(*step)
    told.check_history()


@pytest.mark.parametrize("number", [2, 3])
def test_a_long_replay_on_another_node_has_every_event_once(number: int) -> None:
    told = HistoryStory(number, PLENTY, large=True)
    told.do("subscribe", 0, "c")
    told.do("settle", 0, "c")
    told.do("die", 0, "c")
    for _ in range(20):
        told.do("publish", 1, "c")
    told.do("settle", 0, "c")
    told.homes[0] = number - 1
    told.reconnect(0)
    told.do("subscribe", 0, "c")
    for _ in range(20):
        told.do("step", 0, "c")
        told.do("publish", 1, "c")
    told.check_history()
    assert len(told.readers[0, "c"].seen) == 41
