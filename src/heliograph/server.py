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
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from heliograph import development, logs
from heliograph.api.metered import Metered, MetricsPage
from heliograph.api.routes import Routes
from heliograph.config import DEFAULT, SERVER_OPTIONS, Config
from heliograph.engine.base import Engine
from heliograph.engine.memory import MemoryEngine
from heliograph.errors import ConfigError
from heliograph.instruments import Instruments
from heliograph.net import tls
from heliograph.net.clock import Wheel
from heliograph.net.context import Context, Handler
from heliograph.net.http import HttpConnection
from heliograph.net.listener import bind, listen
from heliograph.net.watching import WatchedConnection
from heliograph.net.websocket import DeflateLane, TextLane
from heliograph.node import Node
from heliograph.protocols.pusher import refusals
from heliograph.webhooks import MemoryStore, SqliteStore, Webhooks
from heliograph.wire.http import HttpLimits

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 3.0
"""How long clients have to take their leave when the server stops."""

WEBHOOKS_STOP_TIMEOUT_S = 10.0
"""How long webhooks have to be sent when the server stops and they are not kept elsewhere."""


RESERVED_DESCRIPTORS = 64
"""Kept free for files, webhooks, and for telling clients that there is no room."""

COLLECTED_AFTER = 20_000
"""New objects after which the garbage collector looks at the youngest."""

CERTIFICATE_OPTIONS = {"ssl_cert", "ssl_key"}
"""Taken on while serving, where the server began with a certificate."""

MOST_DESCRIPTORS = 1 << 20
"""As many as are asked for where there is no limit."""


class LoopTiming:
    """An event loop, as a node needs it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.soon = loop.call_soon
        self.later = loop.call_later
        self.now = loop.time


class Server:
    """
    One server: `start`, then `stop`.

    *config* is what was asked for; `port` and `api_port` are what came of it. *make_engine* makes
    the engine of this node, inside the event loop; without it, the server is alone.
    """

    def __init__(self, config: Config, make_engine: Callable[[], Engine] | None = None) -> None:
        self.config = config
        self._make_engine = make_engine or self._memory_engine
        self._engine_name = "memory" if make_engine is None else "custom"
        self.port = 0
        self.api_port = 0
        self.metrics_port = 0
        self._instruments: Instruments | None = None
        self.node: Node
        self.context: Context
        self._servers: list[asyncio.Server] = []
        self._certificate: tls.Certificate | None = None
        self._webhooks: Webhooks

    async def start(self) -> None:
        """Listen. Raises ConfigError where that is not possible."""
        config = self.config
        loop = asyncio.get_running_loop()
        if config.ssl_cert and config.ssl_key:
            self._certificate = tls.Certificate(config.ssl_cert, config.ssl_key)
        self._webhooks = Webhooks(
            store=SqliteStore(config.data_dir) if config.data_dir else MemoryStore(),
            now_s=time.time,
            monotonic=loop.time,
            random=random.random,
            settle_s=config.webhook_settle,
        )
        self._webhooks.configure(config.apps)
        self.node = Node(
            config.apps,
            self._make_engine(),
            LoopTiming(loop),
            secrets.randbits,
            record=self._webhooks.record,
            terminate_code=config.terminate_code,
        )
        self.context = Context(
            loop=loop,
            config=config,
            node=self.node,
            wheel=Wheel(loop),
            lane=TextLane(),
            deflate_lane=DeflateLane(config.ws_compression_threshold)
            if config.enable_ws_compression
            else None,
            connect=WatchedConnection if _at_level(config) == "debug" else None,
            http_limits=HttpLimits(
                max_head_bytes=config.max_request_head_bytes,
                max_body_bytes=config.max_request_body_bytes,
            ),
            now=loop.time,
            capacity=_raise_descriptor_limit() - RESERVED_DESCRIPTORS,
        )
        # 0 takes a free port for each.
        api_port = config.pusher_api_port
        own_metrics = config.metrics_port is not None
        separate = api_port is not None and (api_port == 0 or api_port != config.port)
        main = self._bind(config.port, "port")
        try:
            api = self._bind(api_port, "pusher_api_port") if separate else []
        except BaseException:
            _close(main)
            raise
        try:
            metrics = self._bind(config.metrics_port, "metrics_port") if own_metrics else []
        except BaseException:
            _close(main + api)
            raise
        try:
            await self._webhooks.start()
        except BaseException:
            _close(main + api + metrics)
            raise
        if config.metrics or own_metrics:
            self._instruments = Instruments(self.context, self._webhooks, self._engine_name)
        self.port = main[0].getsockname()[1]
        self.api_port = api[0].getsockname()[1] if api else self.port
        await self._listen(main, api=not separate, websockets=True)
        await self._listen(api, api=True, websockets=False)
        if metrics and self._instruments is not None:
            self.metrics_port = metrics[0].getsockname()[1]
            await self._serve(metrics, self._metrics_page(), websockets=False)

    def _memory_engine(self) -> Engine:
        return MemoryEngine(time.monotonic, self.config.cache_ttl)

    def _bind(self, port: int | None, option: str) -> list[socket.socket]:
        sources = self.config.sources
        return bind(
            self.config.host,
            port or 0,
            host_option=f"--host (from {sources.get('host', DEFAULT)})",
            port_option=f"--{option} (from {sources.get(option, DEFAULT)})",
        )

    async def _listen(self, sockets: list[socket.socket], *, api: bool, websockets: bool) -> None:
        routes = Routes(
            self.node,
            prefix=self.config.path_prefix,
            now_s=time.time,
            api=api,
            websockets=websockets,
        )
        handler: Handler = routes
        if self._instruments is not None:
            requests = self._instruments.requests
            handler = Metered(routes, requests, self.config.path_prefix, self.context.now)
            if self.config.metrics and api:
                handler = self._metrics_page(handler)
        await self._serve(sockets, handler, websockets=websockets)

    async def _serve(
        self, sockets: list[socket.socket], handler: Handler, *, websockets: bool
    ) -> None:
        context = self.context
        self._servers += await listen(
            sockets,
            lambda: HttpConnection(context, handler, websockets=websockets),
            tls=self._certificate.context if self._certificate else None,
            handshake_timeout_s=self.config.request_timeout,
        )

    def _metrics_page(self, handler: Handler | None = None) -> MetricsPage:
        if self._instruments is None:
            raise AssertionError("metrics are measured where they are shown")
        return MetricsPage(self._instruments.scrape, self.config.metrics_token, handler)

    def reload(self, config: Config) -> None:
        """
        Take on the apps and the certificate of *config*, and name its options that take a restart.

        Raises ConfigError, and changes nothing then.
        """
        if config.development and not self.config.development:
            # An app that is made up is for a first look, not for the clients of a running server.
            raise ConfigError(f"{config.config or 'the environment'}: no app is left")
        certificate = self._certificate
        pair = None
        if certificate and config.ssl_cert and config.ssl_key:
            pair = tls.load(config.ssl_cert, config.ssl_key)
        fixed = [
            one.name
            for one in SERVER_OPTIONS
            if getattr(config, one.name) != getattr(self.config, one.name)
            and not (pair and one.name in CERTIFICATE_OPTIONS)
        ]
        if fixed:
            logger.warning("changed only by a restart: %s", ", ".join(fixed))
        if certificate and pair:
            certificate.renew(pair)
        self._webhooks.configure(config.apps)
        self.node.configure(config.apps)
        logger.info("configuration reloaded: %d apps", len(config.apps))

    async def stop(self) -> None:
        """Stop accepting, tell every client to reconnect elsewhere, and wait for them, bounded."""
        for server in self._servers:
            server.close()
        context = self.context
        context.deserted = asyncio.Event()
        for connection in list(context.http_connections):
            connection.close()
        self.node.close(refusals.reconnect())
        context.departed()
        with contextlib.suppress(TimeoutError):  # the rest is cut off when the loop closes
            await asyncio.wait_for(context.deserted.wait(), STOP_TIMEOUT_S)
        context.wheel.stop()
        if self._instruments is not None:
            self._instruments.stop()
        context.backlog.stop()
        await self._webhooks.stop(WEBHOOKS_STOP_TIMEOUT_S)


def _raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as it may have; return their number."""
    if sys.platform == "win32":
        return sys.maxsize  # there is no such limit
    import resource  # noqa: PLC0415 - it does not exist everywhere

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, MOST_DESCRIPTORS)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft  # some systems allow less than they say
    return wanted


def _close(sockets: list[socket.socket]) -> None:
    for bound in sockets:
        bound.close()


def run(config: Config, load: Callable[[], Config]) -> int:
    """
    Serve until a signal says stop; return the exit status.

    SIGINT and SIGTERM end the server in order, a second one at once. SIGHUP has the apps
    read again by *load*, which raises ConfigError where nothing is to be changed. Raises
    ConfigError.
    """
    logs.set_up(_at_level(config), config.log_format)
    _collect_rarely()
    with asyncio.Runner(loop_factory=_loop_factory(config.loop)) as runner:
        return runner.run(_serve(config, load))


def _at_level(config: Config) -> str:
    return "debug" if config.debug else config.log_level


def _collect_rarely() -> None:
    """
    Look for garbage in cycles after many new objects, not after seven hundred.

    Ten thousand clients are no garbage, but each look walks over them. What a connection leaves
    behind is freed without: connections cut their own cycles when they end.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER, 20, 50)


def _loop_factory(kind: str) -> Any:
    if kind == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop  # noqa: PLC0415 - it does not exist everywhere
    except ImportError:
        if kind == "uvloop":
            raise ConfigError("--loop: uvloop is not installed here; use auto or asyncio") from None
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _serve(config: Config, load: Callable[[], Config]) -> int:
    for warning in config.warnings:
        logger.warning("%s", warning)
    server = Server(config)
    stopping = asyncio.Event()

    def signalled(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        logger.info("stopping: %s", signal.Signals(number).name)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled, number)
    # Whoever asks so early to read the file again sees it read for the first time.
    loop.add_signal_handler(signal.SIGHUP, _read_already)
    await server.start()
    loop.add_signal_handler(signal.SIGHUP, _reload, server, load)
    _announce(server)
    await stopping.wait()
    await server.stop()
    logger.info("stopped")
    return 0


def _read_already() -> None:
    """Keep a SIGHUP from ending the process."""


def _reload(server: Server, load: Callable[[], Config]) -> None:
    try:
        server.reload(load())
    except ConfigError as error:
        logger.error(  # noqa: TRY400 - a line for the operator, whose fault it is
            "configuration not reloaded, nothing is changed: %s", error
        )


def _announce(server: Server) -> None:
    config = server.config
    base = f"{'https' if config.ssl_cert else 'http'}://{_in_url(config.host)}"
    prefix = config.path_prefix
    for app in config.apps:
        for key in app.keys:
            logger.info(
                "Handle Pusher WebSocket connections at %s:%d%s/app/%s",
                base,
                server.port,
                prefix,
                key.key,
            )
        logger.info(
            "Handle Pusher API requests at %s:%d%s/apps/%s/", base, server.api_port, prefix, app.id
        )
    if server.metrics_port:
        logger.info("Handle Prometheus at %s:%d/metrics", base, server.metrics_port)
    if config.data_dir is None and any(app.webhooks for app in config.apps):
        logger.info("webhooks wait in memory: give --data_dir to keep them through a restart")
    if config.development:
        print(development.snippets(config, server.port, server.api_port), flush=True)  # noqa: T201 - meant to be copied


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
