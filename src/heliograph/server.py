"""
Builds everything from a Config, runs one life, and ends it in order.

Nothing of a server lives at module level: two of them run in one process.
"""

import asyncio
import contextlib
import gc
import logging
import os
import random
import secrets
import signal
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from heliograph import prerequisites
from heliograph.config.checks import check_reload
from heliograph.config.settings import DEFAULT, SERVER_OPTIONS, Config
from heliograph.engine.base import Engine
from heliograph.engine.memory import MemoryEngine
from heliograph.errors import ConfigError
from heliograph.handler import Handler
from heliograph.hub.facts import Keep
from heliograph.instruments import Instruments
from heliograph.net import pages, streams, systemd, tls
from heliograph.net.addresses import Origin
from heliograph.net.clock import Wheel
from heliograph.net.context import Context
from heliograph.net.cors import CrossOrigin
from heliograph.net.drain import FAREWELL_S, IDLE_S, drain
from heliograph.net.http import HttpConnection
from heliograph.net.listener import LATE_S, Listener
from heliograph.net.pages import Pages, Readiness
from heliograph.net.places import Place, bind, bind_unix
from heliograph.net.room import Room, raise_descriptor_limit
from heliograph.net.streams import Poller
from heliograph.net.transport import Transport, peer_address
from heliograph.net.turns import LoopTurns
from heliograph.net.watching import WatchedConnection
from heliograph.net.websocket import DeflateLane, HandshakeMemory, TextLane
from heliograph.node.journal import Journal
from heliograph.node.node import Node
from heliograph.node.tenant import ENGINE_UNAVAILABLE
from heliograph.observe import logs
from heliograph.observe.log_throttle import Summary, counted, place_of
from heliograph.observe.metrics_page import Metered, MetricsPage
from heliograph.protocols.pusher.api import route_names
from heliograph.protocols.pusher.api.routes import Routes
from heliograph.protocols.pusher.dialect import PusherDialect
from heliograph.webhooks import MemoryStore, SqliteStore, Webhooks
from heliograph.wire.http import HttpLimits

logger = logging.getLogger(__name__)

WEBHOOKS_STOP_TIMEOUT_S = 10.0
"""How long webhooks have to be sent when the server stops and they are not kept elsewhere."""

ENGINE_CLOSE_TIMEOUT_S = 5.0
"""How long the departures of the last clients may take to reach the engine."""

COLLECTED_AFTER = 20_000
"""New objects after which the garbage collector looks at the youngest."""

COLLECTED_WHOLLY_AFTER = 1000
"""
Collections of the middle generation after which it looks at all objects: for a server with a
hundred thousand channels that takes 30 ms, in which no client is served.
"""

HANDOVER_S = 0.5
"""
Over how long clients are sent to the next server on the same port. Until then, what is published
goes to that one, and they miss it.
"""

HANDOVER_IDLE_S = 0.05
"""Silence after which an HTTP connection is closed then: the next request shall go to that one."""

RANDOM_NUMBERS = "64Q"
_RANDOM_BYTES = struct.calcsize(RANDOM_NUMBERS)

DRAINING = "draining"

CERTIFICATE_OPTIONS = {"ssl_cert", "ssl_key"}
"""Taken on while serving, where the server began with a certificate."""


class LoopTiming:
    """An event loop, as a node needs it; with the *poller* whose turns are its ticks, if any."""

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller | None) -> None:
        self.soon = loop.call_soon if poller is None else poller.soon
        self.when_read = loop.call_soon if poller is None else poller.when_read
        self.later = loop.call_later
        self.now = time.monotonic  # as loop.time, which uvloop has in milliseconds only


class RandomBits:
    """Bits that nobody can guess, which the kernel is asked for many at a time."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def __call__(self, count: int) -> int:
        """Return *count* random bits as a number, 64 at the most; none are given twice."""
        if not self._numbers:
            self._numbers.extend(struct.unpack(RANDOM_NUMBERS, os.urandom(_RANDOM_BYTES)))
        return self._numbers.pop() >> 64 - count


class Server:
    """
    One server: `start`, then `stop`.

    *config* is what was asked for; `port` and `api_port` are what came of it. *make_engine* makes
    the engine of this node, inside the event loop; without it, the server is alone. *passed*
    are places that somebody else bound for us, each with its name: they are listened on instead
    of the ports and the Unix socket of *config*. *shuffle* is chance, for the order in which
    clients are sent away.
    """

    def __init__(
        self,
        config: Config,
        make_engine: Callable[[], Engine] | None = None,
        *,
        passed: Sequence[tuple[str, Place]] = (),
        shuffle: Callable[[list[Any]], None] = random.shuffle,
    ) -> None:
        self.config = config
        self.readiness = Readiness()
        self.urls: list[str] = []
        self.api_urls: list[str] = []
        self.metrics_urls: list[str] = []
        self._passed = passed
        self._shuffle = shuffle
        self._make_engine = make_engine or self._memory_engine
        self._engine_name = "memory" if make_engine is None else "custom"
        self.port = 0
        self.api_port = 0
        self.metrics_port = 0
        self._instruments: Instruments | None = None
        self.node: Node
        self.context: Context
        self._listeners: list[Listener] = []
        self._started = contextlib.AsyncExitStack()  # what `stop` has to end, the last one first
        self._serving = False
        self._certificate: tls.Certificate | None = None
        self._poller: Poller | None = None
        self._webhooks: Webhooks

    async def start(self) -> None:
        """Listen. Raises ConfigError where that is not possible, and leaves nothing behind then."""
        try:
            await self._start()
        except BaseException:
            await asyncio.gather(*(listener.end() for listener in self._listeners))
            await self._started.aclose()
            raise
        self._serving = True
        self.readiness.why_not = ""

    async def _start(self) -> None:
        config, started = self.config, self._started
        loop = asyncio.get_running_loop()
        self._certificate = prerequisites.certificate(config)
        engine = self._make_engine()
        await engine.open()
        # Last: webhooks are the holder of their apps until they have stopped. A change that they do
        # not take any more is owed to another node.
        started.push_async_callback(engine.close, ENGINE_CLOSE_TIMEOUT_S)
        self._webhooks = Webhooks(
            store=SqliteStore(config.webhook_delivery.data_dir)
            if config.webhook_delivery.data_dir
            else MemoryStore(),
            now_s=time.time,
            monotonic=loop.time,
            random=random.random,
            settle_s=config.webhook_delivery.webhook_settle,
        )
        self._webhooks.configure(config.apps)
        started.push_async_callback(self._webhooks.stop, WEBHOOKS_STOP_TIMEOUT_S)
        if streams.available():
            self._poller = Poller(loop)
        self.node = Node(
            config.apps,
            engine,
            LoopTiming(loop, self._poller),
            RandomBits(),
            keep=Keep(1, config.pusher_protocol.cache_ttl),
            journal=Journal(owed=[self._webhooks]),
            shuffle=self._shuffle,
            verbose=config.log_output.lowest_level == "debug",
        )
        started.callback(self.node.finish)  # what the last clients leave is recorded by webhooks
        if self._poller is not None:
            started.callback(self._poller.stop)
        self._handshakes = Summary(logger, logging.INFO, loop.call_later)
        self.context = context = Context(
            loop=loop,
            config=config.connections,
            path_prefix=config.http_requests.path_prefix,
            lenient_protocol=config.pusher_protocol.lenient_protocol,
            node=self.node,
            dialect=PusherDialect(
                self.node,
                activity_timeout_s=config.pusher_protocol.activity_timeout,
                subscription_errors=config.pusher_protocol.subscription_errors,
                terminate_code=config.pusher_protocol.terminate_code,
            ),
            wheel=Wheel(loop),
            turns=LoopTurns(loop) if self._poller is None else self._poller,
            lane=TextLane(),
            deflate_lane=DeflateLane(config.connections.ws_compression_threshold)
            if config.connections.enable_ws_compression
            else None,
            connect=WatchedConnection if config.log_output.lowest_level == "debug" else None,
            handshakes=HandshakeMemory(),
            http_limits=HttpLimits(
                max_head_bytes=config.http_requests.max_request_head_bytes,
                max_body_bytes=config.http_requests.max_request_body_bytes,
            ),
            now=loop.time,
            room=Room(raise_descriptor_limit(), loop.call_later),
        )
        started.callback(context.room.close)
        started.callback(context.backlog.stop)
        started.callback(context.wheel.stop)
        main, api, metrics = self._bind_all()
        await self._webhooks.start()
        if config.monitoring.metrics or metrics:
            self._instruments = Instruments(
                context, self._webhooks, self._engine_name, self._route_of
            )
            started.callback(self._instruments.stop)
        self.port = main[0].port
        self.api_port = api[0].port if api else self.port
        self.urls = self._urls(main)
        self.api_urls = self._urls(api or main)
        self.metrics_urls = self._urls(metrics)
        await self._listen(main, api=not api, websockets=True)
        await self._listen(api, api=True, websockets=False)
        if metrics and self._instruments is not None:
            self.metrics_port = metrics[0].port
            await self._serve(
                metrics, self._metrics_page(), websockets=False, proxied=False, counted=False
            )

    def _bind_all(self) -> tuple[list[Place], list[Place], list[Place]]:
        """Return the places for WebSockets, those for the API alone, and those for metrics."""
        config = self.config

        def bind(port: int, option: str) -> list[Place]:
            places = self._bind(port, option)
            for place in places:
                self._started.callback(place.close)
            return places

        if self._passed:
            main = [place for name, place in self._passed if name != systemd.API_NAME]
            api = [place for name, place in self._passed if name == systemd.API_NAME]
            if not main:
                raise ConfigError(
                    "LISTEN_FDNAMES: every socket is for the API only; add one for clients"
                )
        else:
            main, api = bind(config.listening.port, "port"), []
        port = config.listening.pusher_api_port
        # 0 takes a free port for each.
        if not api and port is not None and (port == 0 or port != config.listening.port):
            api = bind(port, "pusher_api_port")
        metrics = (
            bind(config.monitoring.metrics_port, "metrics_port")
            if config.monitoring.metrics_port is not None
            else []
        )
        if config.listening.unix_socket and not self._passed:
            source = config.sources.get("unix_socket", DEFAULT)
            place = bind_unix(
                config.listening.unix_socket,
                int(config.listening.unix_socket_mode, 8),
                option=f"--unix_socket (from {source})",
                shared=config.listening.reuse_port,
            )
            self._started.callback(place.close)
            main.append(place)
        return main, api, metrics

    def _urls(self, places: list[Place]) -> list[str]:
        tls = self._certificate is not None
        return list(
            dict.fromkeys(
                f"{'https' if tls and not place.local else 'http'}://{place.name}"
                for place in places
            )
        )

    def _memory_engine(self) -> Engine:
        return MemoryEngine(
            time.monotonic, epoch=secrets.token_hex(8), evicted=self._cached_events_evicted
        )

    def _cached_events_evicted(self, app_id: str, count: int) -> None:
        self.node.cached_events_evicted(app_id, count)

    def _bind(self, port: int, option: str) -> list[Place]:
        sources = self.config.sources
        return bind(
            self.config.listening.host or ("",),
            port,
            host_option=f"--host (from {sources.get('host', DEFAULT)})",
            port_option=f"--{option} (from {sources.get(option, DEFAULT)})",
            shared=self.config.listening.reuse_port,
        )

    async def _listen(self, places: list[Place], *, api: bool, websockets: bool) -> None:
        handler: Handler = Routes(
            self.node,
            prefix=self.config.http_requests.path_prefix,
            now_s=time.time,
            api=api,
            websockets=websockets,
            otherwise=Pages(self.config.http_requests.path_prefix, self._why_not_ready),
        )
        if self.config.http_requests.cors_allowed_origins and api:
            prefix = self.config.http_requests.path_prefix
            handler = CrossOrigin(self.config.http_requests.cors_allowed_origins, prefix, handler)
        if self._instruments is not None:
            requests = self._instruments.requests
            handler = Metered(handler, requests, self.context.now)
            if self.config.monitoring.metrics and api:
                handler = self._metrics_page(handler)
        proxied = self.config.listening.proxy_protocol
        await self._serve(places, handler, websockets=websockets, proxied=proxied)

    async def _serve(
        self,
        places: list[Place],
        handler: Handler,
        *,
        websockets: bool,
        proxied: bool,
        counted: bool = True,
    ) -> None:
        context = self.context
        uncounted = None if counted else context.addresses.uncounted

        def connection(origin: Origin | None, crowded: bool) -> HttpConnection:
            return HttpConnection(
                context,
                handler,
                websockets=websockets,
                origin=origin or uncounted,
                crowded=crowded,
            )

        listener = Listener(
            places,
            connection,
            context.room,
            poller=self._poller,
            tls=self._certificate.context if self._certificate else None,
            proxied=proxied,
            patience_s=self.config.connections.request_timeout,
            addresses=context.addresses if counted else None,
            tls_failed=self._tls_failed,
        )
        self._listeners.append(listener)
        await listener.begin()

    def _route_of(self, path: bytes) -> str:
        """Return the name of *path* in metrics."""
        path = path.removeprefix(self.config.http_requests.path_prefix.encode())
        return route_names.route_of(path) or pages.route_of(path) or "other"

    def _why_not_ready(self) -> str:
        if self.readiness.why_not:
            return self.readiness.why_not
        return "" if self.node.engine_available else ENGINE_UNAVAILABLE

    def _tls_failed(self, connection: Transport, reason: str) -> None:
        self.context.tls_failures += 1
        if self._handshakes.first("TLS", reason):
            address = peer_address(connection) or "?"
            logger.info("TLS: a handshake failed: %s (from %s)", reason, address)

    def _metrics_page(self, handler: Handler | None = None) -> MetricsPage:
        if self._instruments is None:
            raise AssertionError("metrics are measured where they are shown")
        return MetricsPage(self._instruments.scrape, self.config.monitoring.metrics_token, handler)

    def reload(self, config: Config) -> None:
        """
        Take on the apps and the certificate of *config*, and name its options that take a restart.

        Raises ConfigError, and changes nothing then.
        """
        check_reload(config, self.config)
        certificate = self._certificate
        pair = None
        files = config.certificate
        if certificate and files.ssl_cert and files.ssl_key:
            pair = tls.load(files.ssl_cert, files.ssl_key)
        fixed = [
            one.name
            for one in SERVER_OPTIONS
            if config.value(one.name) != self.config.value(one.name)
            and not (pair and one.name in CERTIFICATE_OPTIONS)
        ]
        if fixed:
            logger.warning("a restart is needed to apply: %s", ", ".join(fixed))
        # Nothing from here on is refused: a reload is taken as a whole, or not at all.
        if certificate and pair:
            certificate.renew(pair)
        self._webhooks.configure(config.apps)
        self.node.configure(config.apps)
        logger.info("configuration reloaded: %s", counted(len(config.apps), "app"))

    @property
    def stop_s(self) -> float:
        """How long `stop` may take."""
        clients_s = self._delay_s + self._handover_s + LATE_S + FAREWELL_S
        return clients_s + ENGINE_CLOSE_TIMEOUT_S + WEBHOOKS_STOP_TIMEOUT_S

    async def stop(self, *, at_once: bool = False) -> None:
        """
        Say that we are not ready, stop accepting, have every client reconnect elsewhere; bounded.

        *at_once* leaves out the delay, and sends all clients away at the same moment. A server
        stops once; one that did not start has nothing to stop.
        """
        if not self._serving:
            return
        self._serving = False
        self.readiness.why_not = DRAINING
        if self._delay_s and not at_once:
            await asyncio.sleep(self._delay_s)
        await asyncio.gather(*(listener.end() for listener in self._listeners))
        over_s = 0.0 if at_once else self._handover_s
        idle_s = HANDOVER_IDLE_S if self.config.listening.reuse_port else IDLE_S
        await drain(self.context, over_s, shuffle=self._shuffle, idle_s=idle_s)
        await self._started.aclose()

    @property
    def _delay_s(self) -> float:
        """How long the server goes on when it is told to end; not beside its successor."""
        return 0.0 if self.config.listening.reuse_port else self.config.shutdown.shutdown_delay

    @property
    def _handover_s(self) -> float:
        """
        Over how long clients are sent away.

        Another server may share the port, and no events: the less time there are both, the better.
        """
        config = self.config
        return (
            min(config.shutdown.shutdown_timeout, HANDOVER_S)
            if config.listening.reuse_port
            else config.shutdown.shutdown_timeout
        )


def run(
    config: Config, load: Callable[[], Config], snippets: Callable[[Config, int, int], str]
) -> int:
    """
    Serve until a signal says stop; return the exit status.

    *snippets* returns what is printed in development mode, for a configuration and its ports.

    SIGINT and SIGTERM end the server in order, a second one at once. SIGHUP has the apps
    read again by *load*, which raises ConfigError where nothing is to be changed. Raises
    ConfigError.
    """
    logs.set_up(config.log_output.lowest_level, config.log_output.log_format)
    _collect_rarely()
    with asyncio.Runner(loop_factory=prerequisites.loop_factory(config)) as runner:
        return runner.run(_serve(config, load, snippets))


def _collect_rarely() -> None:
    """
    Look for garbage in cycles after many new objects, not after seven hundred.

    Ten thousand clients are no garbage, but each look walks over them. What a connection leaves
    behind is freed without: connections cut their own cycles when they end.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER, 20, COLLECTED_WHOLLY_AFTER)


async def _serve(
    config: Config, load: Callable[[], Config], snippets: Callable[[Config, int, int], str]
) -> int:
    notifier = systemd.Notifier(os.environ)
    server = Server(config, passed=systemd.inherited(os.environ))
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_summed_up(loop))
    stopping: asyncio.Future[int] = loop.create_future()

    def signalled(number: int) -> None:
        if stopping.done():
            os._exit(128 + number)
        logger.info("server stopping: %s", signal.Signals(number).name)
        stopping.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled, number)
    # Whoever asks so early to read the file again sees it read for the first time.
    loop.add_signal_handler(signal.SIGHUP, _ignore)
    await server.start()
    for warning in config.warnings:
        logger.warning("%s", warning)
    loop.add_signal_handler(signal.SIGHUP, _reload, server, load, notifier)
    _announce(server)
    if config.development:
        print(snippets(config, server.port, server.api_port), flush=True)  # noqa: T201 - meant to be copied
    notifier.ready()
    reason = await stopping
    loop.add_signal_handler(signal.SIGHUP, _ignore)
    notifier.stopping(server.stop_s)
    # Somebody sits at a terminal and waits, or a service manager has something to replace.
    await server.stop(at_once=reason == signal.SIGINT)
    # A loop that closes would leave the default, which ends the process before its status is ours.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # there is a moment in between
    loop.remove_signal_handler(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logger.info("server stopped")
    return 0


def _summed_up(loop: asyncio.AbstractEventLoop) -> Callable[..., None]:
    """Return a handler of *loop*'s exceptions: as usual, but each fault once, and then in sums."""
    faults = Summary(logger, logging.ERROR, loop.call_later)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        subject, error = str(context.get("message")), context.get("exception")
        if isinstance(error, BaseException):
            subject = f"unhandled exception in the event loop ({place_of(error)})"
        if faults.first(subject, "the same error"):
            loop.default_exception_handler(context)

    return handle


def _ignore() -> None:
    """Keep a SIGHUP from ending the process."""


def _reload(server: Server, load: Callable[[], Config], notifier: systemd.Notifier) -> None:
    notifier.reloading(time.monotonic())
    try:
        server.reload(load())
    except ConfigError as error:
        logger.error(  # noqa: TRY400 - a line for the operator, whose fault it is
            "configuration not reloaded, nothing was changed: %s", error
        )
    notifier.ready()


def _announce(server: Server) -> None:
    config = server.config
    prefix = config.http_requests.path_prefix
    for app in config.apps:
        for url in server.urls:
            for key in app.keys:
                logger.info(
                    "Handle Pusher WebSocket connections at %s%s/app/%s", url, prefix, key.key
                )
        for url in server.api_urls:
            logger.info("Handle Pusher API requests at %s%s/apps/%s/", url, prefix, app.id)
    for url in server.metrics_urls:
        logger.info("Handle Prometheus at %s/metrics", url)
    if config.webhook_delivery.data_dir is None and any(app.webhooks for app in config.apps):
        logger.info(
            "webhooks are kept in memory only: set --data_dir to keep them through a restart"
        )
