"""
One server: listens, serves the parts of an assembly, reloads, and ends in order.

Nothing of a server lives at module level, or belongs to the process: two of them run in one.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from heliograph import assembly, prerequisites
from heliograph.assembly import (
    ENGINE_CLOSE_TIMEOUT_S,
    PROTOCOLS,
    TRANSPORTS,
    WEBHOOKS_STOP_TIMEOUT_S,
    Assembly,
)
from heliograph.config.checks import check_reload
from heliograph.config.settings import DEFAULT, SERVER_OPTIONS, Config
from heliograph.engine.base import Engine
from heliograph.errors import ConfigError
from heliograph.handler import Handler
from heliograph.instruments import Instruments
from heliograph.net import streams, systemd, tls
from heliograph.net.addresses import Origin
from heliograph.net.clock import Wheel
from heliograph.net.context import Context
from heliograph.net.drain import FAREWELL_S, IDLE_S, drain
from heliograph.net.handshake import Upgrades
from heliograph.net.http import HttpConnection
from heliograph.net.listener import LATE_S, Listener
from heliograph.net.pages import Readiness
from heliograph.net.places import Place, bind, bind_unix
from heliograph.net.registration import TransportRegistration
from heliograph.net.room import Room, raise_descriptor_limit
from heliograph.net.streams import Poller
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
Over how long clients are sent to the next server on the same port. Until then, what is published
goes to that one, and they miss it.
"""

HANDOVER_IDLE_S = 0.05
"""Silence after which an HTTP connection is closed then: the next request shall go to that one."""

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


class Server:
    """
    One server: `start`, then `stop`.

    *config* is what was asked for; `port` and `api_port` are what came of it. *make_engine* makes
    the engine of this node, inside the event loop; without it, the server is alone. *passed*
    are places that somebody else bound for us, each with its name: they are listened on instead
    of the ports and the Unix socket of *config*. *protocols* are those that it serves, over
    WebSockets and over *transports*. *shuffle* is chance, for the order in which clients are sent
    away. A server whose start failed can be started again; one that was stopped cannot.
    """

    def __init__(
        self,
        config: Config,
        make_engine: Callable[[], Engine] | None = None,
        *,
        passed: Sequence[tuple[str, Place]] = (),
        protocols: Sequence[Registration] = PROTOCOLS,
        transports: Sequence[TransportRegistration] = TRANSPORTS,
        shuffle: Callable[[list[Any]], None] = random.shuffle,
    ) -> None:
        self.config = config
        self.readiness = Readiness()
        self.urls: list[str] = []
        self.api_urls: list[str] = []
        self.metrics_urls: list[str] = []
        self._passed = passed
        self._shuffle = shuffle
        self._make_engine = make_engine
        self._protocols = protocols
        self._transports = transports
        self.port = 0
        self.api_port = 0
        self.metrics_port = 0
        self.node: Node
        self.context: Context
        self._assembly: Assembly
        self.upgrades: Upgrades
        self._instruments: Instruments | None = None
        self._listeners: list[Listener] = []
        self._started = contextlib.AsyncExitStack()  # what `stop` has to end, the last one first
        self._serving = False
        self._certificate: tls.Certificate | None = None
        self._poller: Poller | None = None

    async def start(self) -> None:
        """Listen. Raises ConfigError where that is not possible, and leaves nothing behind then."""
        try:
            await self._start()
        except BaseException:
            await asyncio.gather(*(listener.end() for listener in self._listeners))
            self._listeners.clear()
            await self._started.aclose()
            raise
        self._serving = True
        self.readiness.why_not = ""

    async def _start(self) -> None:
        config, started = self.config, self._started
        loop = asyncio.get_running_loop()
        self._certificate = prerequisites.certificate(config)
        poller = self._poller = Poller(loop) if streams.available() else None
        if poller is not None:
            started.callback(poller.stop)
        self._assembly = await assembly.assemble(
            config,
            LoopTiming(loop, poller),
            monotonic=loop.time,
            make_engine=self._make_engine,
            protocols=self._protocols,
            transports=self._transports,
            shuffle=self._shuffle,
            verbose=config.log_output.lowest_level == "debug",
        )
        started.push_async_callback(self._assembly.close)
        self.node = self._assembly.node
        self._handshakes = Summary(logger, logging.INFO, loop.call_later)
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
            turns=LoopTurns(loop) if poller is None else poller,
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
        await self._assembly.webhooks.start()
        if config.monitoring.metrics or metrics:
            self._instruments = Instruments(
                context,
                self.node,
                self._assembly.webhooks,
                engine=self._assembly.engine_name,
                route_of=self._assembly.route_of,
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
        handler = self._assembly.handler(
            api=api, websockets=websockets, not_ready_because=lambda: self.readiness.why_not
        )
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
        upgrades = self.upgrades if websockets else None
        uncounted = None if counted else context.addresses.uncounted

        def connection(origin: Origin | None, crowded: bool) -> HttpConnection:
            return HttpConnection(
                context,
                handler,
                upgrades=upgrades,
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
        if certificate and config.certificate.ssl_cert and config.certificate.ssl_key:
            pair = tls.load(config.certificate.ssl_cert, config.certificate.ssl_key)
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
        self._assembly.configure(config.apps)
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
        await drain(self.context, self.node, over_s, shuffle=self._shuffle, idle_s=idle_s)
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
