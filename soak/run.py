"""One soak from beginning to end: a server, the same load three times, and the books."""

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from soak.books import Faults
from soak.client import App, Client
from soak.load import FEED, LAST_S, Load, Pace, Population
from soak.process import Held, Server
from soak.receiver import Receiver

CYCLES = 3
WARM_UP_S = 4.0
OVERHEAD_S = 16.0
"""What a cycle takes beside the load: all come, everything settles, all go."""

BEFORE_S = 15.0
"""What the warm-up takes."""

SETTLE_S = 45.0
"""How long the server and its webhooks may take until everything is true."""

CHECK_INTERVAL_S = 0.25
RELOAD_EVERY_S = 6.0
GROWTH = 1.02
"""The memory of the third cycle may be this much of the second's."""

MOST_KEPT_BYTES = 16 << 20
"""The bound of all kept events, of which there are fewer."""

BOUNDED = {
    "heliograph.protocols.pusher.api.routes._Found": 1024,
    # What is remembered of heads of requests, of which there are few different ones here.
    "heliograph.net.handshake.Handshake": 64,
    "heliograph.node.dialect.Opening": 64,
    "heliograph.wire.http.Request": 128,
    # One for each channel that keeps events, one for each time to live.
    "heliograph.engine.history._Record": 1024,
    "heliograph.engine.history._Ages": 8,
}
"""Kinds of which the server remembers so many, and no more."""

OPTIONS = {
    "ping_interval": 8,
    "pong_timeout": 4,
    "enable_ws_compression": True,
    "log_level": "info",
    "metrics": True,
    "history_max_bytes": MOST_KEPT_BYTES,
}
HISTORY = f'[[apps.history]]\nprefix = "{FEED}"\nlimit = 100\nttl = 30\n'
"""Longer than the absence of any client that continues."""

WEBHOOK_KINDS = '["channel_existence", "presence", "client_event", "cache_miss"]'
ALARMING = re.compile(r"^.*(?:Traceback|\b(?:ERROR|CRITICAL)\b).*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    minutes: float
    clients: int
    seed: int
    folder: Path

    @property
    def load_s(self) -> float:
        """How long the load of one cycle goes on."""
        return max((self.minutes * 60 - BEFORE_S) / CYCLES - OVERHEAD_S, LAST_S + 4)


@dataclass(frozen=True, slots=True)
class Sample:
    """How things were at a time, in seconds from the start; latencies are None in silence."""

    time: float
    clients: int
    memory: int
    descriptors: int
    kept: int  # bytes of kept events
    median: float | None
    slowest: float | None  # of a hundred


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    faults: Faults
    samples: list[Sample] = field(default_factory=list)
    lags: list[tuple[float, float, float]] = field(default_factory=list)
    start: Held | None = None
    cycles: list[Held] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)


class Soak:
    """A server under load, watched."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._outcome = Outcome(Faults())
        self._faults = self._outcome.faults
        self._apps = {name: App(name, f"key-of-{name}", f"secret-of-{name}") for name in ("1", "2")}
        self._extra = App("9", "key-of-9", "secret-of-9")
        self._latencies: list[float] = []
        self._receiver = Receiver(self._apps, self._faults, random.Random(plan.seed))
        self._populations: list[Population] = []
        self._reloads = 0
        self._begun = 0.0
        self._server: Server

    async def run(self) -> Outcome:
        """Return what came of it. The books that do not balance are in its faults."""
        plan, outcome = self._plan, self._outcome
        await self._receiver.start()
        self._server = Server(plan.folder, self._options(), self._configuration())
        await asyncio.to_thread(self._server.start)
        try:
            self._begun = asyncio.get_running_loop().time()
            self._server.measure_lag()
            # So that everything has been done once, and what is made once has been made.
            await self._cycle(plan.clients // 20, WARM_UP_S, plan.seed, reload_every_s=1.0)
            outcome.start = await self._server.held()
            outcome.done.clear()
            async with asyncio.TaskGroup() as watching:
                watch = watching.create_task(self._watch())
                for _ in range(CYCLES):
                    before = len(outcome.samples)
                    await self._cycle(plan.clients, plan.load_s, plan.seed)
                    outcome.peaks.append(max(one.memory for one in outcome.samples[before:]))
                    outcome.cycles.append(await self._held_at_rest(outcome.start))
                watch.cancel()
            outcome.lags = [
                (time - self._begun, median, most) for time, median, most in self._server.lags()
            ]
            self._balance(outcome.start)
        finally:
            status = await asyncio.to_thread(self._server.stop)
            await self._receiver.stop()
        if status != 0:
            self._faults.add("the end", f"the server ended with status {status}")
        self._check_log()
        return outcome

    def _options(self) -> dict[str, object]:
        return {**OPTIONS, "data_dir": self._plan.folder / "data"}

    # -- A cycle -----------------------------------------------------------------------------

    async def _cycle(
        self, clients: int, seconds: float, seed: int, reload_every_s: float = RELOAD_EVERY_S
    ) -> None:
        address = (self._server.host, self._server.port)
        sizes = (clients - clients // 4, clients // 4)
        self._populations = [
            Population(
                app,
                size,
                address=address,
                faults=self._faults,
                heard=self._latencies.append,
                chance=random.Random(seed),
            )
            for app, size in zip(self._apps.values(), sizes, strict=True)
        ]
        await asyncio.gather(*(one.fill() for one in self._populations))
        async with asyncio.TaskGroup() as meanwhile:
            enough = asyncio.Event()
            meanwhile.create_task(self._reload_now_and_then(reload_every_s, enough))
            await Load(self._populations, Pace()).run(seconds)
            enough.set()
        await asyncio.gather(*(one.rest() for one in self._populations))
        await self._settle(self._untrue)
        for population in self._populations:
            self._outcome.done.update(population.done)
        await asyncio.gather(*(one.leave() for one in self._populations))
        await self._settle(self._not_gone)
        now = asyncio.get_running_loop().time()
        for app in self._apps.values():
            self._receiver.books[app.id].close(now)
            for channel in app.channels.values():
                channel.whispers.clear()

    async def _settle(self, untrue: Callable[[], Awaitable[Faults]]) -> None:
        """Wait until everything is true; what is not by then is a fault."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_S
        while (found := await untrue()) and loop.time() < deadline:  # noqa: ASYNC110 - another process's events
            await asyncio.sleep(CHECK_INTERVAL_S)
        for book, count in found.counts.items():
            for example in found.examples[book]:
                self._faults.add(book, example)
            self._faults.counts[book] += count - len(found.examples[book])

    async def _untrue(self) -> Faults:
        found = Faults()
        now = asyncio.get_running_loop().time()
        for population in self._populations:
            await population.check(found)
            self._check_webhooks(population.app, found, now)
        return found

    def _check_webhooks(self, app: App, found: Faults, now: float) -> None:
        books = self._receiver.books[app.id]
        channels = app.channels.values()
        occupied = {one.name for one in channels if one.subscriptions}
        found.compare("webhooks", f"occupied in app {app.id}", books.occupied, occupied)
        present = {f"{user} in {one.name}" for one in channels for user in one.users}
        told = {f"{user} in {channel}" for channel, user in books.present}
        found.compare("webhooks", f"present in app {app.id}", told, present)
        owed = books.owed(now)
        if owed:
            found.add("webhooks", f"app {app.id}: {owed} client events were never told")

    async def _not_gone(self) -> Faults:
        found = await self._untrue()
        for population in self._populations:
            await population.hush()
        start = self._outcome.start
        descriptors = self._server.descriptors()
        if start is not None and descriptors > start.descriptors:
            found.add("descriptors", f"{descriptors} are open, {start.descriptors} at the start")
        elif start is None and not found:
            await asyncio.sleep(5)  # connections for webhooks are kept for a while
        return found

    # -- Reloads -----------------------------------------------------------------------------

    async def _reload_now_and_then(self, every_s: float, enough: asyncio.Event) -> None:
        while not enough.is_set():
            self._reloads += 1
            self._outcome.done["reloads of the configuration"] += 1
            await (self._reload_extra, self._reload_broken, self._reload_fixed)[self._reloads % 3]()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(enough.wait(), every_s)

    async def _reload_extra(self) -> None:
        """An app appears, has a client, and goes; its client is sent away."""
        await self._server.reload(self._configuration(extra=True), "reloaded: 3 apps")
        client = Client(self._extra, self._faults, self._latencies.append, compression=False)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: client, self._server.host, self._server.port)
        await client.ready
        await self._server.reload(self._configuration(), "reloaded: 2 apps")
        await client.ended
        if client.close_code != 4003:
            text = f"a client of an app that is gone was closed with {client.close_code}"
            self._faults.add("reloads", text)

    async def _reload_broken(self) -> None:
        """A file that cannot be read changes nothing."""
        broken = self._configuration() + "nonsense"
        await self._server.reload(broken, "configuration not reloaded, nothing was changed")

    async def _reload_fixed(self) -> None:
        """What takes a restart is named, and the rest is taken on."""
        toml = f"max_message_bytes = 65536\n{self._configuration()}"
        await self._server.reload(toml, "a restart is needed to apply: max_message_bytes")

    def _configuration(self, *, extra: bool = False) -> str:
        apps = [self._table(app, webhooks=True) for app in self._apps.values()]
        if extra:
            apps.append(self._table(self._extra, webhooks=False))
        return "\n".join(apps)

    def _table(self, app: App, *, webhooks: bool) -> str:
        table = (
            f'[[apps]]\nid = "{app.id}"\nname = "Reloaded {self._reloads} times"\n'
            f'[[apps.keys]]\nkey = "{app.key}"\nsecret = "{app.secret}"\n{HISTORY}'
        )
        if webhooks:
            url = f"http://127.0.0.1:{self._receiver.port}/{app.id}"
            table += f'[[apps.webhooks]]\nurl = "{url}"\nevents = {WEBHOOK_KINDS}\n'
        return table

    # -- Watching ----------------------------------------------------------------------------

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        interval_s = max(1.0, self._plan.minutes / 10)
        while True:
            await asyncio.sleep(interval_s)
            latencies = sorted(self._latencies)
            self._latencies.clear()
            self._outcome.done["events heard"] += len(latencies)
            self._outcome.samples.append(
                Sample(
                    time=loop.time() - self._begun,
                    clients=sum(len(one.clients) for one in self._populations),
                    memory=self._server.memory(),
                    descriptors=self._server.descriptors(),
                    kept=await asyncio.to_thread(self._server.kept_bytes),
                    median=latencies[len(latencies) // 2] if latencies else None,
                    slowest=latencies[len(latencies) * 99 // 100] if latencies else None,
                )
            )

    # -- What is left ------------------------------------------------------------------------

    async def _held_at_rest(self, start: Held) -> Held:
        """Return what the server holds once it has seen the ends of the last connections."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_S
        while True:
            held = await self._server.held()
            if not _left_over(start, held) or loop.time() > deadline:
                return held
            await asyncio.sleep(CHECK_INTERVAL_S)

    def _balance(self, start: Held) -> None:
        """Compare what the server holds once all are gone with what it held at first."""
        for book, fault in _left_over(start, self._outcome.cycles[-1]):
            self._faults.add(book, fault)
        most_kept = max(one.kept for one in self._outcome.samples)
        if not 0 < most_kept <= MOST_KEPT_BYTES:
            self._faults.add("kept events", f"{most_kept} bytes, of {MOST_KEPT_BYTES} at most")
        _, second, third = self._outcome.peaks
        if third > second * GROWTH:
            self._faults.add("memory", f"{third} bytes in the third cycle, {second} in the second")

    def _check_log(self) -> None:
        for line in ALARMING.findall(self._server.log()):
            if "configuration not reloaded" not in line:
                self._faults.add("the log", line)


def _left_over(start: Held, end: Held) -> list[tuple[str, str]]:
    """Return the book, and a sentence, of all that the server holds more of than at first."""
    found = []
    for kind in sorted(end.own | start.own):
        before, after = start.own.get(kind, 0), end.own.get(kind, 0)
        if after > max(before, BOUNDED.get(kind, 0)):
            found.append(("objects", f"{after} of {kind}, {before} at the start"))
    for book in ("tasks", "threads", "descriptors"):
        before, after = getattr(start, book), getattr(end, book)
        if after > before:
            found.append((book, f"{after}, {before} at the start"))
    return found
