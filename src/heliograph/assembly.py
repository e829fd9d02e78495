"""
Config in; node, engine, protocols and webhooks out.

The lists of protocols and of transports are here. Knows no sockets and no connections of clients.
"""

import os
import random
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from heliograph.config.apps import Apps
from heliograph.config.settings import Config
from heliograph.engine.base import Engine
from heliograph.engine.memory import MemoryEngine
from heliograph.handler import Handler
from heliograph.hub.facts import Keep
from heliograph.net import client_files
from heliograph.net.client_files import ClientFiles
from heliograph.net.cors import CrossOrigin
from heliograph.net.pages import Pages, route_of
from heliograph.net.registration import TransportRegistration
from heliograph.node.journal import Journal
from heliograph.node.node import Node
from heliograph.node.tenant import ENGINE_UNAVAILABLE, Timing
from heliograph.protocols.pusher.registration import Pusher
from heliograph.protocols.registration import Registration
from heliograph.webhooks import MemoryStore, SqliteStore, Webhooks

PROTOCOLS: tuple[Registration, ...] = (Pusher(),)
"""The protocols of a server. The first that has a request's path handles it; the last has all."""

TRANSPORTS: tuple[TransportRegistration, ...] = ()
"""The transports of a server, beside WebSockets. The first that has a request's path handles it."""

WEBHOOKS_STOP_TIMEOUT_S = 10.0
"""How long a server that stops sends webhooks that no file keeps."""

ENGINE_CLOSE_TIMEOUT_S = 5.0
"""How long the departures of the last clients may take to reach the engine."""

CLIENT_FILES = (("heliograph-resume-1.js", "heliograph-resume.js"),)
"""The files for pages: the name under which each is served, and its name in `clients/`."""

_NUMBERS = struct.Struct("64Q")


class RandomBits:
    """Random bits that cannot be guessed. One call of the kernel returns those for many calls."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def __call__(self, count: int) -> int:
        """Return *count* random bits as a number, 64 at the most; no bits are returned twice."""
        if not self._numbers:
            self._numbers.extend(_NUMBERS.unpack(os.urandom(_NUMBERS.size)))
        return self._numbers.pop() >> 64 - count


def read_client_file(name: str) -> bytes:
    """Return the file of `clients/`, which a wheel has in the package, a source tree beside src."""
    package = Path(__file__).parent
    packaged = package / "clients" / name
    return (packaged if packaged.is_file() else package.parents[1] / "clients" / name).read_bytes()


class Assembly:
    """
    The parts of one server that `assemble` has put together; *engine* is open.

    *history_max_bytes* is the bound of the engine's kept events, None if that is not known.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        engine_name: str,
        timing: Timing,
        *,
        history_max_bytes: int | None,
        monotonic: Callable[[], float],
        protocols: Sequence[Registration],
        transports: Sequence[TransportRegistration],
        shuffle: Callable[[list[Any]], None],
        verbose: bool,
    ) -> None:
        self.engine = engine
        self.engine_name = engine_name
        self.history_max_bytes = history_max_bytes
        kept_in = config.webhook_delivery.data_dir
        self.webhooks = Webhooks(
            store=SqliteStore(kept_in) if kept_in else MemoryStore(),
            now_s=time.time,
            monotonic=monotonic,
            random=random.random,
            settle_s=config.webhook_delivery.webhook_settle,
        )
        self.webhooks.configure(config.apps)
        self.node = Node(
            config.apps,
            engine,
            timing,
            RandomBits(),
            keep=Keep(1, config.pusher_protocol.cache_ttl),
            every=config.event_history.every,
            journal=Journal(owed=[self.webhooks]),
            shuffle=shuffle,
            verbose=verbose,
        )
        self._config = config
        self._client_files = {served: read_client_file(name) for served, name in CLIENT_FILES}
        self._protocols = tuple(protocols)
        self._transports = tuple(transports)
        self.dialects = tuple(one.dialect(self.node, config) for one in self._protocols)

    async def close(self) -> None:
        """Close everything, once all clients are disconnected."""
        # Webhooks report the channels that the last clients leave. The engine is closed last:
        # until then this node holds its apps, and no other node gets the changes that webhooks
        # still have to send.
        try:
            self.node.finish()
            await self.webhooks.stop(WEBHOOKS_STOP_TIMEOUT_S)
        finally:
            await self.engine.close(ENGINE_CLOSE_TIMEOUT_S)

    def configure(self, apps: Apps) -> None:
        """Serve *apps* from now on."""
        self.webhooks.configure(apps)
        self.node.configure(apps)

    def handler(
        self, *, api: bool, websockets: bool, not_ready_because: Callable[[], str]
    ) -> Handler:
        """
        Make the handler of a port for the HTTP API, WebSockets, or both.

        *not_ready_because* returns why the server accepts no new clients, "" if it does.
        """
        config = self._config

        def why_not_ready() -> str:
            return not_ready_because() or ("" if self.node.engine_available else ENGINE_UNAVAILABLE)

        prefix = config.http_requests.path_prefix
        handler: Handler = Pages(prefix, why_not_ready)
        if websockets:  # a port for clients
            handler = ClientFiles(prefix, self._client_files, handler)
        for protocol in reversed(self._protocols):
            handler = protocol.handler(
                self.node, config, handler, now_s=time.time, api=api, websockets=websockets
            )
        paths = [path for one in self._protocols for path in one.paths] if api else []
        if websockets:
            for transport in reversed(self._transports):
                handler = transport.handler(self.dialects, config, handler)
                paths += transport.paths
        allowed = config.http_requests.cors_allowed_origins
        if allowed and paths:
            handler = CrossOrigin(allowed, [prefix + path for path in paths], handler)
        return handler

    def route_of(self, path: bytes) -> str:
        """Return the name of *path* in metrics: one of few, whatever paths clients request."""
        path = path.removeprefix(self._config.http_requests.path_prefix.encode())
        names = [protocol.route_of(path) for protocol in self._protocols]
        names += [transport.route_of(path) for transport in self._transports]
        names.append(client_files.route_of(path))
        return next((name for name in (*names, route_of(path)) if name), "other")


async def assemble(
    config: Config,
    timing: Timing,
    *,
    monotonic: Callable[[], float],
    make_engine: Callable[[], Engine] | None = None,
    protocols: Sequence[Registration] = PROTOCOLS,
    transports: Sequence[TransportRegistration] = TRANSPORTS,
    shuffle: Callable[[list[Any]], None] = random.shuffle,
    verbose: bool = False,
) -> Assembly:
    """
    Make the parts of a server, and open its engine.

    *make_engine* makes the engine of this node; without it, the server is alone. *monotonic* is the
    clock of the event loop. *shuffle* brings a list into a random order. With *verbose*, the log
    names events that have no subscriber. The caller starts the webhooks, once it has its ports.
    Raises ConfigError if the engine will never work; nothing is left open then.
    """

    def evicted(app_id: str, count: int) -> None:
        assembly.node.events_evicted(app_id, count)

    if make_engine is None:
        history_max_bytes: int | None = config.event_history.history_max_bytes
        engine: Engine = MemoryEngine(
            time.monotonic,
            epoch=secrets.token_hex(8),
            evicted=evicted,
            wall=time.time,
            history_max_bytes=config.event_history.history_max_bytes,
        )
    else:
        history_max_bytes = None
        engine = make_engine()
    await engine.open()
    try:
        assembly = Assembly(
            config,
            engine,
            "memory" if make_engine is None else "custom",
            timing,
            history_max_bytes=history_max_bytes,
            monotonic=monotonic,
            protocols=protocols,
            transports=transports,
            shuffle=shuffle,
            verbose=verbose,
        )
    except BaseException:
        await engine.close(ENGINE_CLOSE_TIMEOUT_S)
        raise
    return assembly
