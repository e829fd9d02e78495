"""
The load: who comes, what they do, and when all of it must be true.

Everything that is left to chance is drawn from one seed, so each cycle does the same, as far as
the clock allows.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from heliograph.client.errors import RemoteError
from heliograph.client.publisher import Publisher
from soak.books import Channel, Faults, Subscription
from soak.client import EVENT, App, Client, numbers_of_several
from soak.ledger import Follower

STEP_S = 0.05
LAST_S = 14.0
"""Before the end of a cycle, nobody falls silent any more: the server takes that long to see it."""

PUBLISHERS = 3
JOINS_AT_ONCE = 50
LARGE, FEED = "news", "feed-"
CHANNELS = {
    "{}": 40,
    "private-{}": 20,
    "cache-{}": 10,
    "presence-{}": 80,
    "private-whispers-{}": 120,
    "feed-{}": 20,
}
"""Kinds of channels beside the large one, and how many there are of each for 2,000 clients."""

FOLLOWS = 0.7
"""Chance that a client of a channel with a history asks for positions there."""

MOST_AWAY_S = 2.0
"""The longest absence of a client that continues."""

PAYLOADS = ("", " " + "x" * 60, " " + "x" * 60, " " + "y" * 900)
COMPRESSES = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """How much happens in a second, for each client."""

    actions: float = 0.025
    whispers: float = 0.04
    publishes: float = 0.025


class Population:
    """The clients of one app: as many as there should be, doing one thing after another."""

    def __init__(
        self,
        app: App,
        size: int,
        *,
        address: tuple[str, int],
        faults: Faults,
        heard: Callable[[float], None],
        chance: random.Random,
    ) -> None:
        self.app = app
        self.size = size
        self.clients: list[Client] = []
        self.done: Counter[str] = Counter()
        self._address = address
        self._faults = faults
        self._heard = heard
        self._chance = chance
        url = "http://{}:{}".format(*address)
        self._api = Publisher(url, app.id, app.credentials)
        self._publishers = [Publisher(url, app.id, app.credentials) for _ in range(PUBLISHERS)]
        self._turns = [asyncio.Lock() for _ in range(PUBLISHERS)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._users = max(size // 3, 1)
        share = size / 2000
        self._kinds = [
            [pattern.format(number) for number in range(max(round(count * share), 2))]
            for pattern, count in CHANNELS.items()
        ]
        self._names = [LARGE, *(name for names in self._kinds for name in names)]

    # -- Coming and going --------------------------------------------------------------------

    async def fill(self) -> None:
        """Have all come."""
        while len(self.clients) < self.size:
            missing = min(self.size - len(self.clients), JOINS_AT_ONCE)
            await asyncio.gather(*(self._join(self._wishes()) for _ in range(missing)))

    def _wishes(self) -> dict[str, str | None]:
        """Return the channels that a client will join, and as whom."""
        chance = self._chance
        public, private, cached, presence, whispers, feeds = self._kinds
        names = [LARGE] if chance.random() < 0.8 else []
        names += chance.sample(public, chance.randint(0, 2))
        names += chance.sample(feeds, chance.randint(0, 2))
        names += [
            chance.choice(kind)
            for kind, likely in ((private, 0.4), (cached, 0.3), (presence, 0.6), (whispers, 0.7))
            if chance.random() < likely
        ]
        return {name: self._user(name) for name in names}

    def _user(self, name: str) -> str | None:
        # Few enough that some have several tabs in one channel.
        number = self._chance.randrange(self._users)
        return f"user-{number}" if name.startswith("presence-") else None

    async def _join(
        self, wishes: dict[str, str | None], followers: Mapping[str, Follower] | None = None
    ) -> Client | None:
        loop = asyncio.get_running_loop()
        compression = self._chance.random() < COMPRESSES
        client = Client(self.app, self._faults, self._heard, compression=compression)
        try:
            await loop.create_connection(lambda: client, *self._address)
            await client.ready
        except OSError as error:
            self._faults.add("connections", f"app {self.app.id}: {error}")
            return None
        for name, user_id in wishes.items():
            follower = None if followers is None else followers.get(name)
            self._subscribe(client, name, user_id, follower)
        self.clients.append(client)
        self.done["joins"] += 1
        return client

    def _subscribe(
        self, client: Client, name: str, user_id: str | None, follower: Follower | None = None
    ) -> None:
        if follower is None and name.startswith(FEED) and self._chance.random() < FOLLOWS:
            stream = self.app.channel(name).events
            follower = Follower(stream, self._faults.to("resumes"), self.done)
        client.subscribe(name, user_id, follower)

    def _take_out(self, client: Client) -> None:
        clients = self.clients
        index = clients.index(client)
        clients[index] = clients[-1]
        clients.pop()

    # -- What they do ------------------------------------------------------------------------

    def act(self, *, ending: bool) -> None:
        """Let a client do something; what goes on for longer is seen to by `rest`."""
        (name,) = self._chance.choices(list(ACTIONS), weights=list(ACTIONS.values()))
        client = self._anybody()
        if client is None or (name == "fall silent" and ending):
            return
        self.done[name] += 1
        if name == "hop":
            self._hop(client)
            return
        if name == "fall silent":
            # It stays, until the server finds that it is gone. Said here and not in the task,
            # before which somebody else might choose it.
            client.mute = True
        else:
            self._take_out(client)
        self._begin(self._replace(name, client))

    def _anybody(self) -> Client | None:
        client = self._chance.choice(self.clients) if self.clients else None
        return client if client is not None and client.open and not client.mute else None

    def _hop(self, client: Client) -> None:
        """Leave a channel and join another."""
        there = [name for name, one in client.subscriptions.items() if joined(one)]
        if there:
            client.unsubscribe(self._chance.choice(there))
        name = self._chance.choice(self._names[1:])
        if name not in client.subscriptions:
            self._subscribe(client, name, self._user(name))

    async def _replace(self, how: str, client: Client) -> None:
        """Let a client go, in one way or another, and another one come for it."""
        there = {name: one for name, one in client.subscriptions.items() if not one.left}
        await self._goes(how, client)
        if how == "resume":
            await asyncio.sleep(self._chance.uniform(0, MOST_AWAY_S))
            followers = {
                name: one.follower
                for name, one in there.items()
                if one.follower is not None and one.follower.may_continue
            }
            await self._join({name: one.user_id for name, one in there.items()}, followers)
        elif how in {"reload", "blink"}:
            await self._join({name: one.user_id for name, one in there.items()})
        else:
            await self._join(self._wishes())

    async def _goes(self, how: str, client: Client) -> None:
        match how:
            case "terminate":
                user_id = f"terminated-{client.socket_id}"
                client.sign_in(user_id)
                await client.settled()
                await self._api.terminate(user_id)
                await client.ended
                self._expect(client, 4009)
            case "fall silent":
                await client.ended
                self._expect(client, 4201)
                self._take_out(client)
            case "crash" | "blink" | "resume":
                client.crash()
            case "hang up":
                client.hang_up()
            case _:
                client.close()
        await client.ended

    def _expect(self, client: Client, code: int) -> None:
        if client.close_code != code:
            text = f"{client.socket_id} was closed with {client.close_code} instead of {code}"
            self._faults.add("connections", text)

    def whisper(self) -> None:
        """Let a client say something to the others of a channel."""
        client = self._anybody()
        if client is None:
            return
        for name, one in client.subscriptions.items():
            if name.startswith(("private-whispers-", "presence-")) and joined(one):
                self.done["whispers"] += 1
                client.whisper(name)
                return

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def rest(self) -> None:
        """Return when nothing is under way any more. Raises what went wrong in it."""
        while self._tasks:
            await asyncio.gather(*self._tasks)
        await asyncio.gather(*(client.settled() for client in self.clients))
        self.clients = [client for client in self.clients if client.open]

    # -- Publishing --------------------------------------------------------------------------

    def publish(self) -> None:
        """Publish one event, several at once, or one that leaves somebody out."""
        publisher = self._chance.randrange(PUBLISHERS)
        self._begin(self._publish(publisher))

    async def _publish(self, publisher: int) -> None:
        # A channel's events all go through one publisher, which sends them in order.
        names = [name for name in self._names if sum(name.encode()) % PUBLISHERS == publisher]
        chance = self._chance
        form = chance.random()
        if form < 0.15:
            events = [self._event(chance.choice(names)) for _ in range(chance.randint(2, 10))]
            form_of, path = _batch, "/batch_events"
        elif form < 0.3:
            events = [self._event(name) for name in chance.sample(names, min(4, len(names)))]
            form_of, path = _for_several, "/events"
        else:
            # The large one now and then: it is heard by nearly everybody.
            feeds = [name for name in names if name.startswith(FEED)]
            if form > 0.9 and LARGE in names:
                name = LARGE
            else:
                name = chance.choice(feeds if form > 0.6 and feeds else names)
            events = [self._event(name)]
            form_of, path = _one, "/events"
        async with self._turns[publisher]:
            await self._post(publisher, path, events, form_of)

    def _event(self, name: str) -> "Said":
        channel = self.app.channel(name)
        leave_out = None
        if not channel.replays and self._chance.random() < 0.2:
            leave_out = next((one.socket_id for one in channel.subscriptions), None)
        return Said(channel, self._chance.choice(PAYLOADS), leave_out)

    async def _post(
        self, publisher: int, path: str, events: list["Said"], form_of: "FormOf"
    ) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if form_of is _for_several:  # one body, and so one socket that is left out
            events = [replace(one, leave_out=events[0].leave_out) for one in events]
        numbers = [one.channel.events.say(now, leave_out=one.leave_out) for one in events]
        try:
            await self._publishers[publisher].post(path, form_of(events, numbers))
        except RemoteError as error:
            self._faults.add("publishing", f"app {self.app.id}: not accepted: {error!r}")
            return
        now = loop.time()
        for one, number in zip(events, numbers, strict=True):
            one.channel.events.accept(number, now)
        self.done["events"] += len(events)

    # -- What must be true -------------------------------------------------------------------

    async def check(self, found: Faults) -> None:
        """Ask the server who is where; note what it has wrong, or has not delivered yet."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        channels = self.app.channels
        owed = sum(one.owed(now) for each in channels.values() for one in each.subscriptions)
        if owed:
            found.add("delivery", f"app {self.app.id}: {owed} events never came")
        occupied = await self._api.channels(info=["subscription_count"])
        counts = {name: one["subscription_count"] for name, one in occupied.items()}
        true = {name: len(one.subscriptions) for name, one in channels.items() if one.subscriptions}
        found.compare("occupancy", f"app {self.app.id}", _counted(counts), _counted(true))
        for name, channel in channels.items():
            if name.startswith("presence-"):
                await self._check_presence(name, channel, found)

    async def _check_presence(self, name: str, channel: Channel, found: Faults) -> None:
        users = channel.users
        told = await self._api.users(name)
        if len(told) != len(set(told)):
            found.add("presence", f"{name}: somebody is listed twice")
        found.compare("presence", f"{name}, as the API has it", told, users)
        for subscription in channel.subscriptions:
            who = f"{name}, as {subscription.socket_id} was told"
            found.compare("presence", who, subscription.roster, users)

    # -- The end -----------------------------------------------------------------------------

    async def leave(self) -> None:
        """Have everybody leave, in all the ways there are."""
        ways = (Client.close, Client.crash, Client.hang_up)
        for client in self.clients:
            self._chance.choice(ways)(client)
        await asyncio.gather(*(client.ended for client in self.clients))
        self.clients.clear()

    async def hush(self) -> None:
        """Let go of the connections to the HTTP API."""
        for api in (self._api, *self._publishers):
            await api.close()


ACTIONS = {
    "hop": 40,
    "reload": 20,
    "resume": 40,
    "blink": 10,
    "leave": 15,
    "crash": 10,
    "hang up": 5,
    "terminate": 2,
    "fall silent": 1,
}
"""
What clients do, and how often. To reload is to leave and come back to the same channels; to blink,
to do so after a reset; to resume, to do so after a while, and to continue where it was cut off.
"""


@dataclass(frozen=True, slots=True)
class Said:
    """One event that is to be published."""

    channel: Channel
    padding: str
    leave_out: str | None

    def fields(self) -> dict[str, str]:
        """Return what is posted beside channel and data."""
        named = {"name": EVENT}
        return named if self.leave_out is None else {**named, "socket_id": self.leave_out}


FormOf = Callable[[list[Said], list[int]], object]


def _one(events: list[Said], numbers: list[int]) -> object:
    (said,), (number,) = events, numbers
    return {
        **said.fields(),
        "channel": said.channel.name,
        "data": f"{number}{said.padding}",
    }


def _batch(events: list[Said], numbers: list[int]) -> object:
    return {"batch": [_one([one], [number]) for one, number in zip(events, numbers, strict=True)]}


def _for_several(events: list[Said], numbers: list[int]) -> object:
    names = [one.channel.name for one in events]
    data = numbers_of_several(dict(zip(names, numbers, strict=True)))
    return {**events[0].fields(), "channels": names, "data": data}


def joined(subscription: Subscription) -> bool:
    """Whether it was acknowledged, and is not being given up."""
    return bool(subscription.acknowledged) and not subscription.left


def _counted(counts: dict[str, int]) -> set[str]:
    return {f"{name} with {count}" for name, count in counts.items()}


class Load:
    """The populations of all apps, at one pace."""

    def __init__(self, populations: Sequence[Population], pace: Pace) -> None:
        self._populations = populations
        self._pace = pace

    async def run(self, seconds: float) -> None:
        """Let clients and publishers do what they do for so long."""
        loop = asyncio.get_running_loop()
        begun = before = loop.time()
        due = [[0.0, 0.0, 0.0] for _ in self._populations]
        while (now := loop.time()) < begun + seconds:
            # A machine that stood still makes up for nothing.
            passed = min(now - before, 5 * STEP_S)
            before = now
            ending = now > begun + seconds - LAST_S
            for population, owed in zip(self._populations, due, strict=True):
                self._step(population, owed, passed, ending=ending)
            await asyncio.sleep(STEP_S)

    def _step(
        self, population: Population, owed: list[float], passed: float, *, ending: bool
    ) -> None:
        pace = self._pace
        acts: tuple[Callable[[], None], ...] = (
            partial(population.act, ending=ending),
            population.whisper,
            population.publish,
        )
        rates = (pace.actions, pace.whispers, pace.publishes)
        for index, (act, rate) in enumerate(zip(acts, rates, strict=True)):
            owed[index] += population.size * rate * passed
            while owed[index] >= 1:
                owed[index] -= 1
                act()
