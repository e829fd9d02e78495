"""Servers that share a process: side by side, one after the other, and after a failed start."""

import asyncio
import gc
import json
import logging
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvloop

from heliograph import server as server_module
from heliograph.client.signing import Credentials
from heliograph.config.apps import App, AppKey, Apps, Webhook
from heliograph.config.load import make_config
from heliograph.config.settings import Config
from heliograph.engine.base import Engine
from heliograph.engine.testing.looped import LoopedEngine
from heliograph.engine.testing.state import SharedState
from heliograph.errors import ConfigError
from heliograph.net import streams
from heliograph.net.sockets import ListeningSocket, bind
from heliograph.protocols.pusher.registration import Pusher
from heliograph.server import Server
from heliograph.webhooks.store import FILE_NAME, SqliteStore
from tests import certificates
from tests.integration.rig import APP_ID, KEY, LOCAL, PATIENCE_S, SINGLE_APP, Client, Rig
from tests.integration.test_http import UPGRADE, wire
from tests.integration.test_metrics import samples, scrape
from tests.integration.test_tls import Secured
from tests.integration.test_webhook_delivery import Receiver, receiving, short

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def configured(app: App | None = None, **options: Any) -> Config:
    """Return the configuration of a server with *app*, on a free port of the loopback interface."""
    config = make_config(**{**LOCAL, **SINGLE_APP, **options})
    return replace(config, apps=Apps([app or app_of("k")]))


def app_of(key: str, *webhooks: Webhook) -> App:
    """Return an app; all of them have the same id."""
    return App(id=APP_ID, keys=(AppKey(key, f"secret of {key}"),), webhooks=webhooks)


class OneOfTwo(Rig):
    """A server with an app of its own, and ways to reach it."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        (key,) = server.config.apps.get(APP_ID).keys  # type: ignore[union-attr]  # it has one
        self.key, self.secret = key.key, key.secret

    @asynccontextmanager
    async def open(self, path: str | None = None, **options: Any) -> AsyncIterator[Client]:
        async with super().open(path or f"/app/{self.key}?protocol=7", **options) as client:
            yield client


class Encrypted(OneOfTwo):
    """The same through TLS."""

    def __init__(self, server: Server, pair: certificates.Pair) -> None:
        super().__init__(server)
        self._secured = Secured(self, pair)

    @property
    def url(self) -> str:
        return self._secured.url

    @asynccontextmanager
    async def open(self, path: str | None = None, **options: Any) -> AsyncIterator[Client]:
        options.setdefault("ssl", self._secured.pair.trusting())
        async with super().open(path, **options) as client:
            yield client

    async def fetch(self, *arguments: Any, **options: Any) -> Any:
        return await self._secured.fetch(*arguments, **options)


class Two:
    """
    Two servers in one event loop, whose apps have the same id.

    `first` has TLS, compression, a data_dir, a port for metrics, and a log with every message;
    `second` has none of these.
    """

    def __init__(self, folder: Path, receivers: tuple[Receiver, Receiver]) -> None:
        pair = certificates.make(folder, "first")
        self.folder = folder / "data"
        self.hooks = receivers
        keys = ("first-key", "second-key")
        apps = [app_of(key, Webhook(url=it.url)) for key, it in zip(keys, receivers, strict=True)]
        first = configured(
            apps[0],
            **pair.options,
            enable_ws_compression=True,
            data_dir=str(self.folder),
            metrics_port=0,
            debug=True,
        )
        self.servers = (Server(first), Server(configured(apps[1], metrics=True)))
        self._pair = pair

    async def start(self) -> None:
        for server in self.servers:
            await server.start()
        self.first = Encrypted(self.servers[0], self._pair)
        self.second = OneOfTwo(self.servers[1])


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with receiving() as one, receiving() as other, AsyncExitStack() as stopping:
        two = Two(tmp_path, (one, other))
        for server in two.servers:
            stopping.push_async_callback(server.stop)
        await two.start()
        yield two


# -- Side by side ----------------------------------------------------------------------------


async def test_each_of_two_servers_delivers_to_its_own_clients(two: Two) -> None:
    async with two.first.client() as ann, two.second.client() as bob:
        for client in (ann, bob):
            await client.subscribe("c")
        for rig, client, name in ((two.first, ann, "one"), (two.second, bob, "two")):
            await rig.publish(name, "c")
            await client.expect(f'{{"event":"{name}","channel":"c","data":"{{}}"}}')
        for client in (ann, bob):
            await client.expect_nothing_before_pong()
        assert [one.node.connections for one in two.servers] == [1, 1]


async def test_each_of_two_servers_has_its_own_keys(two: Two) -> None:
    for rig, other in ((two.first, two.second), (two.second, two.first)):
        async with rig.open(f"/app/{other.key}?protocol=7") as client:
            await client.expect_close(4001)
        target = other.signed("GET", f"/apps/{APP_ID}/channels")
        reply = await rig.fetch("GET", target)
        assert (reply.status, reply.body) == (400, b"Unknown auth_key\n")
        assert (await rig.request("GET", "/channels")).status == 200


async def test_each_of_two_servers_has_its_own_compression(two: Two) -> None:
    async with two.first.client() as ann, two.second.client() as bob:
        assert [one.name for one in ann.connection.protocol.extensions] == ["permessage-deflate"]
        assert bob.connection.protocol.extensions == []


async def test_each_of_two_servers_sends_its_own_webhooks(two: Two) -> None:
    async with two.first.client() as ann, two.second.client() as bob:
        await ann.subscribe("a")
        await bob.subscribe("b")
        for receiver in two.hooks:
            await receiver.received(1)
    for server in two.servers:
        await server.stop()
    # The first keeps in its file what it has yet to send; the second sends it while it stops.
    first = reported(two.hooks[0], "first-key")
    second = reported(two.hooks[1], "second-key")
    assert first == ["channel_occupied a"]
    assert second == ["channel_occupied b", "channel_vacated b"]
    assert (two.folder / FILE_NAME).exists()


def reported(receiver: Receiver, key: str) -> list[str]:
    """Return the events that *receiver* got, all of them signed with *key*."""
    for request in receiver.requests:
        assert request.headers["X-Pusher-Key"] == key
        signature = Credentials(key, f"secret of {key}").sign(request.body.decode())
        assert request.headers["X-Pusher-Signature"] == signature
    bodies = [json.loads(request.body) for request in receiver.requests]
    return [short(event) for body in bodies for event in body["events"]]


async def test_each_of_two_servers_has_its_own_metrics(two: Two) -> None:
    async with two.first.client() as ann, two.second.client(), two.second.client():
        await ann.subscribe("c")
        await two.first.publish("n", "c")
        await ann.receive()
        page = await two.first.fetch("GET", "/metrics", port=two.servers[0].metrics_port)
        found = await scrape(two.second), samples(page.text)
    for name, in_second, in_first in (
        ("heliograph_connections", 2, 1),
        ("heliograph_subscriptions", 0, 1),
    ):
        label = (("app", APP_ID),)
        assert [one[name, label] for one in found] == [in_second, in_first], name
    assert [one["heliograph_publishes_total", ()] for one in found] == [0, 1]


async def test_each_of_two_servers_has_its_own_log_level(
    two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "heliograph")
    async with two.first.client() as ann, two.second.client() as bob:
        await ann.subscribe("traced")
        await bob.subscribe("silent")
        await two.first.publish("n", "nobody-of-the-first")
        await two.second.publish("n", "nobody-of-the-second")
    assert "traced" in caplog.text
    assert "'nobody-of-the-first' has no subscribers" in caplog.text
    assert "silent" not in caplog.text
    assert "nobody-of-the-second" not in caplog.text


@pytest.mark.parametrize("stopped", [0, 1])
async def test_one_of_two_servers_stops_and_the_other_serves_and_reloads(
    two: Two, stopped: int
) -> None:
    rigs = (two.first, two.second)
    stopping, staying = rigs[stopped], rigs[1 - stopped]
    async with stopping.client() as leaving, staying.client() as client:
        await client.subscribe("c")
        await stopping.server.stop()
        await leaving.expect_error(4200, "Please reconnect immediately")
        await staying.publish("n", "c")
        await client.expect('{"event":"n","channel":"c","data":"{}"}')
        config = staying.server.config
        staying.server.reload(replace(config, apps=Apps([*config.apps, other_app()])))
        async with staying.client("/app/new-key?protocol=7") as newcomer:
            await newcomer.subscribe("c")
            await client.expect_nothing_before_pong()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", stopping.server.port)).close()


def other_app() -> App:
    return App(id="another", keys=(AppKey("new-key", "s"),))


async def test_a_reload_of_one_server_changes_nothing_of_the_other(two: Two) -> None:
    async with two.first.client() as ann, two.second.client() as bob:
        config = two.servers[1].config
        two.servers[1].reload(replace(config, apps=Apps([other_app()])))
        await bob.expect_close(4003)
        await ann.expect_nothing_before_pong()
    async with two.first.client():
        assert two.servers[0].node.connections == 1


async def test_two_servers_cannot_have_one_data_dir(two: Two) -> None:
    third = Server(configured(data_dir=str(two.folder)))
    with pytest.raises(ConfigError, match="another server uses this file"):
        await third.start()
    async with two.first.client() as client:
        await client.expect_nothing_before_pong()
    await two.first.server.stop()
    await third.start()
    await third.stop()


# -- What a failed start leaves ------------------------------------------------------------


class Held:
    """What the process and the event loop hold: what a server could leave behind."""

    def __init__(self) -> None:
        gc.collect()
        self.threads = set(threading.enumerate())
        self.tasks = asyncio.all_tasks()
        self.timers = {id(one): one for one in timers()}
        self.descriptors = descriptors()


def timers() -> list[Any]:
    """Return the timers of all event loops that are not cancelled; asyncio's and uvloop's."""
    found = [one for one in gc.get_objects() if type(one).__name__ == "TimerHandle"]
    return [one for one in found if not one.cancelled()]


def descriptors() -> set[tuple[str, str]]:
    """Return the open descriptors, and of what: none where the system does not list them."""
    found = set()
    for one in Path("/proc/self/fd").iterdir() if sys.platform == "linux" else ():
        try:
            found.add((one.name, str(one.readlink())))
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


async def assert_nothing_is_left(before: Held) -> None:
    for thread in set(threading.enumerate()) - before.threads:
        if not thread.name.startswith(("asyncio_", "uvloop_")):  # the event loop's own
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), thread
    await asyncio.sleep(0)  # the loop closes what it was given at the end of a turn
    await asyncio.sleep(0)
    gc.collect()
    assert asyncio.all_tasks() == before.tasks
    assert [one for one in timers() if id(one) not in before.timers] == []
    left = {file for _, file in descriptors() - before.descriptors}
    if isinstance(asyncio.get_running_loop(), uvloop.Loop):
        left.discard("/dev/null")  # libuv keeps one for each loop that had a connection
    assert left == set()


class Clustered(LoopedEngine):
    """An engine of several nodes, with a timer and a task; the test asks whether it is closed."""

    made: ClassVar[list["Clustered"]] = []

    def __init__(self) -> None:
        names = iter(map(str, range(1_000_000)))
        super().__init__(SharedState(time.monotonic, lambda: next(names)), time.monotonic, "node")
        self.life = ""
        self.made.append(self)

    async def open(self) -> None:
        await super().open()
        self.life += "opened "

    async def close(self, timeout_s: float) -> None:
        await super().close(timeout_s)
        self.life += "closed "


class Unusable(Clustered):
    """One whose shared state can never be used."""

    async def open(self) -> None:
        raise ConfigError("--engine: the credentials are wrong")


@pytest.fixture(params=["memory", "custom"])
def make_engine(request: pytest.FixtureRequest) -> Callable[[], Engine] | None:
    """The engine of a server, both kinds; the contract suite of engines is not run compiled."""
    Clustered.made.clear()
    return None if request.param == "memory" else Clustered


@contextmanager
def taken_port() -> Iterator[int]:
    (place,) = bind(("127.0.0.1",), 0, host_option="--host", port_option="--port")
    yield place.port
    place.close()


LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
connection.close()
"""


@contextmanager
def locked_by_another_process(folder: Path) -> Iterator[None]:
    """Have another process use the file of webhooks: SQLite itself keeps files of its own open."""
    folder.mkdir()
    command = [sys.executable, "-c", LOCK, str(folder / FILE_NAME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.communicate(timeout=PATIENCE_S)


class Faulty(Pusher):
    """A protocol that fails in a step of the start."""

    def __init__(self, step: str) -> None:
        self.step = step

    def dialect(self, node: Any, config: Any) -> Any:
        if self.step == "dialect":
            raise ValueError("no dialect")
        return super().dialect(node, config)

    def handler(self, *arguments: Any, **options: Any) -> Any:
        if self.step == ("API" if options["api"] else "WebSockets"):
            raise ValueError("no handler")
        return super().handler(*arguments, **options)


STEPS: dict[str, dict[str, Any]] = {
    "certificate": {"ssl_cert": "/dev/null", "ssl_key": "/dev/null"},
    "port": {"port": "taken"},
    "port of the API": {"pusher_api_port": "taken"},
    "port of metrics": {"metrics_port": "taken"},
    "Unix socket": {"unix_socket": "file"},
    "data_dir that is a file": {"data_dir": "file"},
    "data_dir of another server": {"data_dir": "locked"},
    "dialect": {},
    "WebSockets": {"pusher_api_port": 0, "metrics_port": 0, "unix_socket": "free"},
    "API": {"pusher_api_port": 0, "metrics_port": 0, "unix_socket": "free", "data_dir": "free"},
}
"""Steps of the start, and the options with which a server fails there."""


@pytest.mark.parametrize("step", STEPS)
async def test_a_failed_start_leaves_nothing_open_whichever_step_fails(
    step: str, make_engine: Callable[[], Engine] | None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with taken_port() as taken, locked_by_another_process(tmp_path / "locked"):
        options: dict[str, Any] = {
            name: taken
            if value == "taken"
            else str(tmp_path / value)
            if value in ("file", "free", "locked")
            else value
            for name, value in STEPS[step].items()
        }
        server = Server(configured(**options), make_engine, protocols=[Faulty(step)])
        before = Held()
        with pytest.raises((ConfigError, ValueError)):
            await server.start()
        await assert_nothing_is_left(before)
        await server.stop()
        await assert_nothing_is_left(before)
    assert all(one.life == "opened closed " for one in Clustered.made)
    assert not (tmp_path / "free").is_socket()


FAULTS = (
    "Poller",
    "LoopTiming",
    "Upgrades",
    "Wheel",
    "DescriptorBudget",
    "Context",
    "Instruments",
    "Listener",
)


@pytest.mark.parametrize("name", FAULTS)
async def test_whatever_part_of_a_server_cannot_be_made_nothing_is_left(
    name: str,
    make_engine: Callable[[], Engine] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_arguments: Any, **_options: Any) -> None:
        raise MemoryError

    server = Server(configured(data_dir=str(tmp_path), metrics_port=0), make_engine)
    before = Held()
    with monkeypatch.context() as patched:
        patched.setattr(server_module, name, broken)
        with pytest.raises(MemoryError):
            await server.start()
    await assert_nothing_is_left(before)
    await server.start()  # the file in data_dir is free, and the server can still be used
    await server.stop()
    await assert_nothing_is_left(before)
    assert {one.life for one in Clustered.made} <= {"opened closed "}


async def test_an_engine_that_cannot_be_opened_leaves_nothing() -> None:
    server = Server(configured(), Unusable)
    before = Held()
    with pytest.raises(ConfigError, match="credentials"):
        await server.start()
    await assert_nothing_is_left(before)


async def test_without_epoll_a_socket_that_cannot_be_listened_on_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first ports are served already when the last one fails."""
    monkeypatch.setattr(streams, "available", lambda: False)
    loop: Any = Failing(asyncio.get_running_loop())
    server = Server(configured(unix_socket=str(tmp_path / "s"), metrics_port=0))
    before = Held()
    with monkeypatch.context() as patched:
        patched.setattr("heliograph.net.listener.asyncio.get_running_loop", lambda: loop)
        with pytest.raises(OSError, match="no server"):
            await server.start()
    assert loop.servers == 1
    await assert_nothing_is_left(before)


class Failing:
    """An event loop that cannot listen on Unix sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.servers = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        self.servers += 1
        return await self._loop.create_server(*arguments, **options)

    async def create_unix_server(self, *_arguments: Any, **_options: Any) -> None:
        raise OSError("no server")


class Slow(SqliteStore):
    """A store whose file is opened when the test lets it be."""

    opening: ClassVar[threading.Event]
    may_open: ClassVar[threading.Event]

    def _open(self) -> Any:
        self.opening.set()
        assert self.may_open.wait(PATIENCE_S)
        return super()._open()


async def test_a_start_that_is_cancelled_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread opens the file of webhooks meanwhile; nobody uses it then, and it is closed."""
    Slow.opening, Slow.may_open = threading.Event(), threading.Event()
    monkeypatch.setattr("heliograph.assembly.SqliteStore", Slow)
    server = Server(configured(data_dir=str(tmp_path)), Clustered)
    before = Held()
    starting = asyncio.create_task(server.start())
    await asyncio.to_thread(Slow.opening.wait, PATIENCE_S)
    with pytest.raises(RuntimeError, match="cannot stop: the server is starting"):
        await server.stop()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    Slow.may_open.set()
    await assert_nothing_is_left(before)
    with sqlite3.connect(tmp_path / FILE_NAME, timeout=0) as connection:
        connection.execute("BEGIN EXCLUSIVE")
    connection.close()


async def test_a_failed_start_leaves_passed_sockets_to_a_second_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, taken_port() as taken:
        passed = [("", ListeningSocket(one.dup(), kept=True))]
        server = Server(configured(metrics_port=taken), passed=passed)
        before = Held()
        with pytest.raises(ConfigError, match="--metrics_port"):
            await server.start()
        await assert_nothing_is_left(before)
        waiting = asyncio.create_task(OneOfTwo(server).fetch("GET", "/up", b"", port_of(one)))
        await asyncio.sleep(0)
        server.config = configured()
        await server.start()
        assert (await waiting).status == 200
        assert server.port == port_of(one)
        await server.stop()
        assert passed[0][1].socket.fileno() == -1


def port_of(one: socket.socket) -> int:
    return int(one.getsockname()[1])


# -- The order of calls ----------------------------------------------------------------------


async def test_a_server_starts_after_its_failed_start_once_the_port_is_free() -> None:
    first = Server(configured())
    await first.start()
    second = Server(configured(port=first.port))
    before = Held()
    for _ in range(2):
        with pytest.raises(ConfigError, match="Address already in use"):
            await second.start()
        await assert_nothing_is_left(before)
        assert not second.readiness.ready
    async with OneOfTwo(first).client() as client:
        await client.expect_nothing_before_pong()
    await first.stop()
    await second.start()
    assert second.readiness.ready
    async with OneOfTwo(second).client() as client:
        await client.subscribe("c")
    await second.stop()


async def test_a_server_that_was_not_started_has_nothing_to_stop() -> None:
    before = Held()
    server = Server(configured())
    await server.stop()
    with pytest.raises(RuntimeError, match="cannot reload: the server has not been started"):
        server.reload(server.config)
    await assert_nothing_is_left(before)
    await server.start()
    assert (await OneOfTwo(server).fetch("GET", "/ready")).status == 200
    await server.stop()


async def test_a_server_that_runs_is_not_started_again() -> None:
    server = Server(configured())
    await server.start()
    port = server.port
    with pytest.raises(RuntimeError, match="cannot start: the server is running"):
        await server.start()
    assert server.port == port
    assert (await OneOfTwo(server).fetch("GET", "/ready")).status == 200
    await server.stop()
    with pytest.raises(RuntimeError, match="cannot start: the server has been stopped"):
        await server.start()
    with pytest.raises(RuntimeError, match="cannot reload: the server has been stopped"):
        server.reload(server.config)


async def test_stop_can_be_called_twice_and_returns_when_the_server_has_stopped() -> None:
    before = Held()
    server = Server(configured())
    await server.start()
    async with OneOfTwo(server).client() as client:
        assert not server.context.descriptors.full()  # it keeps a descriptor for that
        first = asyncio.create_task(server.stop())
        await client.expect_error(4200, "Please reconnect immediately")
        await server.stop()
        assert first.done()
        await client.expect_close(4200)
    await assert_nothing_is_left(before)
    await server.stop()


async def test_a_stop_that_is_cancelled_closes_everything_at_once() -> None:
    before = Held()
    server = Server(configured(shutdown_timeout=60))
    await server.start()
    rig = OneOfTwo(server)
    async with wire(rig) as one, rig.client() as client:
        await one.send(b"GET /up HTTP/1.1\r\nHost: x\r\n\r\n")
        await one.read_until(b"OK\n")
        stopping = asyncio.create_task(server.stop())
        await client.expect_error(4200, "Please reconnect immediately")
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await server.stop()
    await assert_nothing_is_left(before)


class Watched(Clustered):
    """An engine that records how many connections its server has when it is closed."""

    server: ClassVar[Server]
    connections: ClassVar[list[int]]

    async def close(self, timeout_s: float) -> None:
        self.connections.append(self.server.context.sockets)
        await super().close(timeout_s)


async def test_the_engine_is_closed_after_the_last_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that does not answer the Close frame is cut off, and leaves its channels then."""
    monkeypatch.setattr("heliograph.net.drain.FAREWELL_S", 0.1)
    Watched.server, Watched.connections = Server(configured(), Watched), []
    await Watched.server.start()
    async with wire(OneOfTwo(Watched.server)) as one:
        await one.send(UPGRADE.replace(KEY.encode(), b"k"))
        await one.read_until(b"connection_established")
        assert Watched.server.context.sockets == 1
        await Watched.server.stop()
    assert Watched.connections == [0]


async def test_a_stop_that_is_cancelled_while_connections_are_accepted_closes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that has not sent its PROXY header yet is waited for."""
    monkeypatch.setattr("heliograph.net.listener.LATE_S", 0.1)
    before = Held()
    server = Server(configured(proxy_protocol=True))
    await server.start()
    async with wire(OneOfTwo(server)) as late:
        (listener,) = server._listeners
        stopping = asyncio.create_task(server.stop())
        while not (listener._ending and listener._arriving):  # noqa: ASYNC110 - it is near
            await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert await late.read_all() == b""
    await assert_nothing_is_left(before)


# -- One after the other -------------------------------------------------------------------


def test_servers_follow_one_another_in_one_process_whatever_the_event_loop(tmp_path: Path) -> None:
    async def live(port: int) -> int:
        before = Held()
        server = Server(configured(port=port, data_dir=str(tmp_path)))
        await server.start()
        rig = OneOfTwo(server)
        async with rig.client() as client:
            await client.subscribe("c")
            await rig.publish("n", "c")
            assert json.loads(await client.receive())["event"] == "n"
        await server.stop()
        await assert_nothing_is_left(before)
        return server.port

    port = 0
    for loop in ("uvloop", "asyncio", "uvloop", "asyncio"):
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            port = runner.run(live(port))


@pytest.mark.parametrize("loops", [("uvloop", "asyncio"), ("asyncio", "uvloop")])
def test_a_server_whose_start_failed_in_one_event_loop_starts_in_another(
    loops: tuple[str, str],
) -> None:
    async def fail(server: Server) -> None:
        with pytest.raises(ConfigError, match="Address already in use"):
            await server.start()

    async def live(server: Server) -> None:
        await server.start()
        async with OneOfTwo(server).client() as client:
            await client.expect_nothing_before_pong()
        await server.stop()

    with taken_port() as port:
        server = Server(configured(port=port))
        with asyncio.Runner(loop_factory=LOOPS[loops[0]]) as runner:
            runner.run(fail(server))
    with asyncio.Runner(loop_factory=LOOPS[loops[1]]) as runner:
        runner.run(live(server))


def test_two_threads_have_a_server_each() -> None:
    """Whatever a server keeps, it keeps it for its own event loop."""
    done: list[str] = []
    both = threading.Barrier(2)

    async def live(name: str) -> None:
        server = Server(configured())
        await server.start()
        both.wait(PATIENCE_S)
        rig = OneOfTwo(server)
        async with rig.client() as client:
            await client.subscribe("c")
            await rig.publish(name, "c")
            assert json.loads(await client.receive())["event"] == name
            await client.expect_nothing_before_pong()
        await server.stop()
        done.append(name)

    def run(loop: str) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(live(loop))

    threads = [threading.Thread(target=partial(run, loop)) for loop in LOOPS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE_S)
    assert sorted(done) == sorted(LOOPS)
