"""
One server: listening sockets, reload, drain.

A server has no state at module level, and changes nothing that belongs to the whole process, such
as signals and limits. So several servers run in one process, and in one event loop.
"""

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any

from heliograph import prerequisites
from heliograph.assembly import (
    ENGINE_CLOSE_TIMEOUT_S,
    PROTOCOLS,
    TRANSPORTS,
    WEBHOOKS_STOP_TIMEOUT_S,
    Assembly,
    assemble,
)
from heliograph.config.checks import check_reload
from heliograph.config.settings import DEFAULT, PART_OF, SERVER_OPTIONS, Config
from heliograph.engine.base import Engine
from heliograph.errors import ConfigError
from heliograph.handler import Handler
from heliograph.instruments import Instruments
from heliograph.net import streams, systemd, tls
from heliograph.net.addresses import Origin
from heliograph.net.context import Context
from heliograph.net.descriptors import DescriptorBudget, descriptor_limit
from heliograph.net.drain import FAREWELL_S, IDLE_S, drain
from heliograph.net.handshake import Upgrades
from heliograph.net.http import HttpConnection
from heliograph.net.listener import LATE_S, Listener
from heliograph.net.pages import Readiness
from heliograph.net.registration import TransportRegistration
from heliograph.net.sockets import ListeningSocket, bind, bind_unix
from heliograph.net.streams import Poller
from heliograph.net.timers import Wheel
from heliograph.net.trace import TracedConnection
from heliograph.net.transport import Transport, peer_address
from heliograph.net.turns import LoopTurns
from heliograph.net.websocket import WebSocketConnection
from heliograph.node.node import Node
from heliograph.observe.log_throttle import Summary, counted
from heliograph.observe.metrics_page import Metered, MetricsPage
from heliograph.protocols.registration import Registration
from heliograph.wire.framing import DeflateFraming
from heliograph.wire.http import HttpLimits

logger = logging.getLogger(__name__)

HANDOVER_S = 0.5
"""
Over how long clients are closed if the next server shares the port. That server receives what is
published meanwhile, and clients that are still here miss it.
"""

HANDOVER_IDLE_S = 0.05
"""Silence after which an idle HTTP connection is closed then: its next request goes there."""

DRAINING = "draining"

CERTIFICATE_OPTIONS = frozenset(("ssl_cert", "ssl_key"))
"""A reload applies these, if the server started with a certificate."""

RULE_OPTIONS = frozenset(("history_limit", "history_ttl"))
"""Defaults of the rules of apps, which a reload applies. For every channel, a restart does."""


class LoopTiming:
    """The event loop as a node uses it. The ticks are the turns of *poller*, if there is one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller | None) -> None:
        self.soon = loop.call_soon if poller is None else poller.soon
        self.when_read = loop.call_soon if poller is None else poller.when_read
        self.later = loop.call_later
        self.now = time.monotonic  # as loop.time, which uvloop has in milliseconds only


class ServerState(Enum):
    """What a server does at the moment."""

    NEW = "has not been started"
    STARTING = "is starting"
    SERVING = "is running"
    STOPPING = "is stopping"
    STOPPED = "has been stopped"


class Server:
    """
    One server: `start`, then `stop`, in one event loop.

    After `start`, `port`, `api_port` and `metrics_port` are the ports that it has; *config* may ask
    for any free port. *make_engine* is called in the event loop and makes the engine of this node;
    without it, the server is alone. *protocols* are those that it serves, over WebSockets and
    over *transports*. *shuffle* brings a list into a random order: the order in which clients are
    closed.

    *passed* are listening sockets that the caller has bound, each with its name. The server listens
    on copies of them instead of on the ports and the Unix socket of *config*; `stop` closes them.

    A server whose start failed can be started again, in another event loop, too. One that was
    stopped cannot. Calls in the wrong order raise RuntimeError.
    """

    def __init__(
        self,
        config: Config,
        make_engine: Callable[[], Engine] | None = None,
        *,
        passed: Sequence[tuple[str, ListeningSocket]] = (),
        protocols: Sequence[Registration] = PROTOCOLS,
        transports: Sequence[TransportRegistration] = TRANSPORTS,
        shuffle: Callable[[list[Any]], None] = random.shuffle,
    ) -> None:
        self.config = config
        self.readiness = Readiness()
        self.urls: list[str] = []
        self.api_urls: list[str] = []
        self.metrics_urls: list[str] = []
        self.port = 0
        self.api_port = 0
        self.metrics_port = 0
        self.node: Node
        self.context: Context
        self.upgrades: Upgrades
        self._passed = passed
        self._shuffle = shuffle
        self._make_engine = make_engine
        self._protocols = protocols
        self._transports = transports
        self._state = ServerState.NEW
        self._stopped = asyncio.Event()
        self._started = contextlib.AsyncExitStack()  # what is to be closed, the last one first
        self._assembly: Assembly
        self._instruments: Instruments | None = None
        self._listeners: list[Listener] = []
        self._certificate: tls.Certificate | None = None
        self._poller: Poller | None = None
        self._failed_handshakes: Summary

    async def start(self) -> None:
        """
        Listen, and return when clients are served.

        Raises ConfigError if that is not possible. Nothing is left open then, and *passed* is as it
        was. The same holds if the caller cancels the start.
        """
        self._require(ServerState.NEW, "start")
        self._state = ServerState.STARTING
        try:
            await self._start()
        except BaseException:
            try:
                await self._started.aclose()
            finally:
                self._listeners.clear()
                self._state = ServerState.NEW
            raise
        self._state = ServerState.SERVING
        self.readiness.why_not = ""

    def _require(self, state: ServerState, action: str) -> None:
        if self._state is not state:
            raise RuntimeError(f"cannot {action}: the server {self._state.value}")

    async def _start(self) -> None:
        config, started = self.config, self._started
        loop = asyncio.get_running_loop()
        self._certificate = prerequisites.certificate(config)
        await self._assemble(loop)
        self._failed_handshakes = Summary(logger, logging.INFO, loop.call_later)
        self.upgrades = Upgrades(
            self._assembly.dialects,
            compression=DeflateFraming(config.connections.ws_compression_threshold)
            if config.connections.enable_ws_compression
            else None,
            connect=TracedConnection
            if config.log_output.lowest_level == "debug"
            else WebSocketConnection,
        )
        self.context = context = Context(
            loop=loop,
            settings=config.connections,
            tally=self.node.tally,
            wheel=Wheel(loop),
            turns=LoopTurns(loop) if self._poller is None else self._poller,
            http_limits=HttpLimits(
                max_head_bytes=config.http_requests.max_request_head_bytes,
                max_body_bytes=config.http_requests.max_request_body_bytes,
            ),
            now=loop.time,
            descriptors=DescriptorBudget(descriptor_limit(), loop.call_later),
        )
        started.callback(context.descriptors.close)
        started.callback(context.backlog.stop)
        started.callback(context.wheel.stop)
        main, api, metrics = self._bind_all()
        await self._assembly.webhooks.start()
        if config.monitoring.metrics or metrics:
            self._instruments = Instruments(
                context,
                self.node,
                self._assembly.webhooks,
                engine=self._assembly.engine_name,
                route_of=self._assembly.route_of,
                history_max_bytes=self._assembly.history_max_bytes,
            )
            started.callback(self._instruments.stop)
        self.port = main[0].port
        self.api_port = api[0].port if api else self.port
        self.urls = self._urls(main)
        self.api_urls = self._urls(api or main)
        self.metrics_urls = self._urls(metrics)
        await self._listen(main, api=not api, websockets=True)
        if api:
            await self._listen(api, api=True, websockets=False)
        if metrics and self._instruments is not None:
            self.metrics_port = metrics[0].port
            await self._serve(
                metrics, self._metrics_page(), websockets=False, proxied=False, per_address=False
            )

    async def _assemble(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the node and what belongs to it, and what serves its connections."""
        config = self.config
        poller = self._poller = Poller(loop) if streams.available() else None
        try:
            self._assembly = await assemble(
                config,
                LoopTiming(loop, poller),
                monotonic=loop.time,
                make_engine=self._make_engine,
                protocols=self._protocols,
                transports=self._transports,
                shuffle=self._shuffle,
                verbose=config.log_output.lowest_level == "debug",
            )
        except BaseException:
            if poller is not None:
                poller.stop()
            raise
        self.node = self._assembly.node
        self._started.push_async_callback(self._assembly.close)
        if poller is not None:
            # Before that: clients that are disconnected now leave their channels, which the
            # engine and webhooks must still record.
            self._started.callback(poller.stop)

    def _bind_all(
        self,
    ) -> tuple[list[ListeningSocket], list[ListeningSocket], list[ListeningSocket]]:
        """Return the sockets for WebSockets, those for the API alone, and those for metrics."""
        config = self.config

        def bind(port: int, option: str) -> list[ListeningSocket]:
            return self._to_close(self._bind(port, option))

        if self._passed:
            api = self._copies(name == systemd.API_NAME for name, _ in self._passed)
            main = self._copies(name != systemd.API_NAME for name, _ in self._passed)
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
        metrics_port = config.monitoring.metrics_port
        metrics = bind(metrics_port, "metrics_port") if metrics_port is not None else []
        if config.listening.unix_socket and not self._passed:
            source = config.sources.get("unix_socket", DEFAULT)
            listening = bind_unix(
                config.listening.unix_socket,
                int(config.listening.unix_socket_mode, 8),
                option=f"--unix_socket (from {source})",
                shared=config.listening.reuse_port,
            )
            main += self._to_close([listening])
        return main, api, metrics

    def _to_close(self, sockets: list[ListeningSocket]) -> list[ListeningSocket]:
        for listening in sockets:
            self._started.callback(listening.close)
        return sockets

    def _copies(self, selected: Iterable[bool]) -> list[ListeningSocket]:
        """Return copies of the *selected* ones of the passed sockets."""
        chosen = itertools.compress((listening for _, listening in self._passed), selected)
        return self._to_close([listening.copy() for listening in chosen])

    def _urls(self, sockets: list[ListeningSocket]) -> list[str]:
        encrypted = self._certificate is not None
        return list(
            dict.fromkeys(
                f"{'https' if encrypted and not listening.local else 'http'}://{listening.name}"
                for listening in sockets
            )
        )

    def _bind(self, port: int, option: str) -> list[ListeningSocket]:
        sources = self.config.sources
        return bind(
            self.config.listening.host or ("",),
            port,
            host_option=f"--host (from {sources.get('host', DEFAULT)})",
            port_option=f"--{option} (from {sources.get(option, DEFAULT)})",
            shared=self.config.listening.reuse_port,
        )

    async def _listen(self, sockets: list[ListeningSocket], *, api: bool, websockets: bool) -> None:
        handler = self._assembly.handler(
            api=api, websockets=websockets, not_ready_because=lambda: self.readiness.why_not
        )
        if self._instruments is not None:
            requests = self._instruments.requests
            handler = Metered(handler, requests, self.context.now)
            if self.config.monitoring.metrics and api:
                handler = self._metrics_page(handler)
        proxied = self.config.listening.proxy_protocol
        await self._serve(sockets, handler, websockets=websockets, proxied=proxied)

    async def _serve(
        self,
        sockets: list[ListeningSocket],
        handler: Handler,
        *,
        websockets: bool,
        proxied: bool,
        per_address: bool = True,
    ) -> None:
        context = self.context
        upgrades = self.upgrades if websockets else None
        uncounted = None if per_address else context.addresses.uncounted

        def connection(origin: Origin | None, over_capacity: bool) -> HttpConnection:
            return HttpConnection(
                context,
                handler,
                upgrades=upgrades,
                origin=origin or uncounted,
                over_capacity=over_capacity,
            )

        listener = Listener(
            sockets,
            connection,
            context.descriptors,
            poller=self._poller,
            tls=self._certificate.context if self._certificate else None,
            proxied=proxied,
            patience_s=self.config.connections.request_timeout,
            addresses=context.addresses if per_address else None,
            tls_failed=self._tls_failed,
        )
        self._listeners.append(listener)
        self._started.push_async_callback(listener.end)
        await listener.begin()

    def _tls_failed(self, connection: Transport, reason: str) -> None:
        self.context.tls_failures += 1
        if self._failed_handshakes.first("TLS", reason):
            address = peer_address(connection) or "?"
            logger.info("TLS: a handshake failed: %s (from %s)", reason, address)

    def _metrics_page(self, handler: Handler | None = None) -> MetricsPage:
        if self._instruments is None:
            raise AssertionError("a page of metrics needs instruments")
        return MetricsPage(self._instruments.scrape, self.config.monitoring.metrics_token, handler)

    def reload(self, config: Config) -> None:
        """
        Apply the apps and the certificate of *config*, and log its options that need a restart.

        Raises ConfigError if *config* is refused; nothing is changed then.
        """
        self._require(ServerState.SERVING, "reload")
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
            and PART_OF[one.name] != "single_app"  # it is among the apps
            and not (pair and one.name in CERTIFICATE_OPTIONS)
            and not (one.name in RULE_OPTIONS and not self.config.event_history.every)
        ]
        if fixed:
            logger.warning("a restart is needed to apply: %s", ", ".join(fixed))
        # Nothing is refused from here on: a reload is applied as a whole or not at all.
        if certificate and pair:
            certificate.renew(pair)
        self._assembly.configure(config.apps)
        logger.info("configuration reloaded: %s", counted(len(config.apps), "app"))

    @property
    def stop_s(self) -> float:
        """How long `stop` may take."""
        clients_s = self._delay_s + self._handover_s + LATE_S + FAREWELL_S
        return clients_s + ENGINE_CLOSE_TIMEOUT_S + WEBHOOKS_STOP_TIMEOUT_S

    async def stop(self, *, at_once: bool = False) -> None:
        """
        Report that the server is not ready, stop accepting, and close all clients; bounded.

        Clients reconnect to another server. *at_once* leaves out the delay, and closes all clients
        at the same moment. A server that does not run has nothing to stop; if `stop` was called
        before, this call returns when the server has stopped. If the caller cancels it, everything
        is closed at once.
        """
        if self._state is ServerState.STOPPING:
            await self._stopped.wait()
        if self._state in (ServerState.NEW, ServerState.STOPPED):
            return
        self._require(ServerState.SERVING, "stop")
        self._state = ServerState.STOPPING
        self.readiness.why_not = DRAINING
        try:
            if self._delay_s and not at_once:
                await asyncio.sleep(self._delay_s)
            await self._drain(0.0 if at_once else self._handover_s)
        finally:
            try:
                await self._started.aclose()
            finally:
                for _, listening in self._passed:
                    listening.close()
                self._state = ServerState.STOPPED
                self._stopped.set()

    async def _drain(self, over_s: float) -> None:
        """Accept no more connections, and close all clients, spread over *over_s*."""
        await asyncio.gather(*(listener.end() for listener in self._listeners))
        idle_s = HANDOVER_IDLE_S if self.config.listening.reuse_port else IDLE_S
        await drain(self.context, self.node, over_s, shuffle=self._shuffle, idle_s=idle_s)

    @property
    def _delay_s(self) -> float:
        """How long the server goes on accepting after `stop`; not if another shares the port."""
        return 0.0 if self.config.listening.reuse_port else self.config.shutdown.shutdown_delay

    @property
    def _handover_s(self) -> float:
        """
        Over how long the closing of clients is spread.

        Two servers on one port do not share events, so both should run for a short time only.
        """
        config = self.config
        return (
            min(config.shutdown.shutdown_timeout, HANDOVER_S)
            if config.listening.reuse_port
            else config.shutdown.shutdown_timeout
        )
