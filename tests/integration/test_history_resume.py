"""
A thousand clients whose connections are cut under load have every event exactly once, in order.

The server is a process. Its clients, the publisher and a proxy that cuts are this one.
"""

import asyncio
import random
import sys
import urllib.request
from collections import Counter
from dataclasses import dataclass

import pytest
import uvloop

from heliograph.client.publisher import OutgoingEvent, Publisher
from heliograph.client.signing import Credentials
from tests.conftest import StartServer
from tests.integration.resuming import MOST_FORMER_IDS, Client, CuttingProxy, Published
from tests.integration.test_metrics import samples
from tests.server import ServerProcess

CLIENTS = 1000
PROXIED = 200
"""Clients whose connections are cut by a proxy, in the middle of a frame, too."""

AT_ONCE = 50
CHANNELS = [f"c-{number}" for number in range(50)]
EVENTS, FEWER_EVENTS = 3000, 1500
BATCH = 10
EVENTS_PER_SECOND = 200
MEAN_LIFE_S = 5.0
MOST_AWAY_S = 2.0
MOST_BYTES_THROUGH_PROXY = 30_000
EXCLUDING = 0.1
PATIENCE_S = 60.0

LARGE_LIMIT, SMALL_LIMIT = 100, 3
"""A channel has 4 events a second: 100 are those of 25 s, some clients miss more than 3."""


@dataclass
class Outcome:
    """What the clients of one run received."""

    faults: list[str]
    wrong: list[str]
    cuts: Counter[str]
    gaps: Counter[str]
    continued: int
    received: int


class Run:
    """One server, its clients and what was published there."""

    def __init__(self, server: ServerProcess, events: int, seed: int) -> None:
        self.published = {channel: Published() for channel in CHANNELS}
        self.clients: list[Client] = []
        self._server = server
        self._events = events
        self._chance = random.Random(seed)
        self._proxy = CuttingProxy(
            (server.host, server.port), random.Random(seed), MOST_BYTES_THROUGH_PROXY
        )

    async def run(self) -> Outcome:
        """Publish while connections are cut; return what the clients have in the end."""
        direct, through_proxy = (self._server.host, self._server.port), await self._proxy.start()
        for number in range(CLIENTS):
            address = through_proxy if number < PROXIED else direct
            self.clients.append(
                Client(
                    self._chance.sample(CHANNELS, self._chance.randint(1, 3)),
                    address,
                    random.Random(self._chance.random()),
                    mean_life_s=MEAN_LIFE_S,
                    most_away_s=MOST_AWAY_S,
                )
            )
        for begin in range(0, CLIENTS, AT_ONCE):
            some = self.clients[begin : begin + AT_ONCE]
            await asyncio.gather(*(client.start() for client in some))
        for client in self.clients[PROXIED:]:
            client.cut_now_and_then()
        async with Publisher(
            self._server.url,
            self._server.app_id,
            Credentials(self._server.key, self._server.secret),
        ) as publisher:
            await self._publish(publisher)
            # A client may have missed events that exclude it; of these last ones, it misses none.
            await self._publish_to_all(publisher)
        self._proxy.calm()
        goal = {channel: one.count for channel, one in self.published.items()}
        for client in self.clients:
            client.calm(goal)
        # What is missing by then is in the outcome.
        await asyncio.wait([client.reached for client in self.clients], timeout=PATIENCE_S)
        await asyncio.gather(*(client.stop() for client in self.clients))
        await self._proxy.stop()
        return self._outcome()

    async def _publish(self, publisher: Publisher) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(self._events // BATCH):
            await publisher.publish_batch(
                [self._event(self._chance.choice(CHANNELS)) for _ in range(BATCH)]
            )
            due += BATCH / EVENTS_PER_SECOND
            await asyncio.sleep(max(due - loop.time(), 0))

    async def _publish_to_all(self, publisher: Publisher) -> None:
        for begin in range(0, len(CHANNELS), BATCH):
            some = CHANNELS[begin : begin + BATCH]
            await publisher.publish_batch([self._event(one, excludes=False) for one in some])

    def _event(self, channel: str, *, excludes: bool = True) -> OutgoingEvent:
        excluded = None
        if excludes and self._chance.random() < EXCLUDING:
            one = self._chance.choice(self.clients)
            # The server knows as many former ids of a client, and no more.
            if channel in one.read and one.socket_id and len(one.former_ids) < MOST_FORMER_IDS - 1:
                excluded = one
        number = self.published[channel].next(excluded)
        data = f"{number} {'x' * self._chance.choice((10, 100, 1000))}"
        socket_id = None if excluded is None else excluded.socket_id
        return OutgoingEvent(channel, "numbered", data, socket_id)

    def _outcome(self) -> Outcome:
        outcome = Outcome([], [], Counter(proxy=self._proxy.cuts), Counter(), 0, 0)
        for client in self.clients:
            outcome.faults += client.faults
            outcome.cuts.update(client.cuts)
            outcome.continued += client.continued
            for channel, read in client.read.items():
                expected = self.published[channel].expected(client, read)
                if read.numbers != expected:
                    outcome.wrong.append(_difference(channel, read.numbers, expected))
                outcome.gaps.update(one.reason for one in read.missing)
                outcome.received += len(read.numbers)
        return outcome


def _difference(channel: str, found: list[int], expected: list[int]) -> str:
    missing = sorted(set(expected) - set(found))
    extra = sorted((Counter(found) - Counter(expected)).elements())
    return f"{channel}: {missing} missing, {extra} too many, in order: {found == sorted(found)}"


def run_with(server: ServerProcess, events: int) -> Outcome:
    """Return what clients of *server* received; the seed is printed, for a run that fails."""
    seed = random.randrange(1 << 32)
    sys.stderr.write(f"seed {seed}\n")

    async def whole() -> Outcome:
        return await Run(server, events, seed).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(whole())


def counted(server: ServerProcess, name: str) -> dict[str, float]:
    """Return the values of a metric of *server*, by the value of its label, if it has one."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        found = samples(answer.read().decode())
    return {
        labels[0][1] if labels else "": value
        for (metric, labels), value in found.items()
        if metric == name
    }


def options(limit: int) -> dict[str, object]:
    return {"broker": "memory", "history_limit": limit, "metrics": True}


@pytest.mark.usefixtures("descriptors")
def test_a_thousand_clients_cut_under_load_have_every_event_once_and_in_order(
    start_server: StartServer,
) -> None:
    server = start_server(options(LARGE_LIMIT))
    outcome = run_with(server, EVENTS)
    assert not outcome.faults
    assert not outcome.wrong
    assert not outcome.gaps
    assert min(outcome.cuts[how] for how in ("reset", "between", "proxy")) > 0
    assert outcome.cuts.total() >= CLIENTS
    assert outcome.continued >= CLIENTS
    resumes = counted(server, "heliograph_resumes_total")
    assert resumes["continued"] >= outcome.continued
    assert not resumes["gap"]


@pytest.mark.usefixtures("descriptors")
def test_clients_that_miss_more_events_than_are_kept_are_notified_and_continue(
    start_server: StartServer,
) -> None:
    server = start_server(options(SMALL_LIMIT))
    outcome = run_with(server, FEWER_EVENTS)
    assert not outcome.faults
    assert not outcome.wrong
    assert outcome.gaps.keys() == {"trimmed"}
    assert outcome.continued > 0
    # A client whose connection is cut before it has received a gap is sent another one.
    assert counted(server, "heliograph_gaps_total")["trimmed"] >= outcome.gaps["trimmed"]
    assert counted(server, "heliograph_resumes_total")["continued"] >= outcome.continued
