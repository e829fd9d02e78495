"""
Config in; node, engine, protocols and webhooks out.

The list of protocols is here. Knows no sockets and no connections of clients.
"""

import os
import random
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from heliograph.config.apps import Apps
from heliograph.config.settings import Config
from heliograph.engine.base import Engine
from heliograph.engine.memory import MemoryEngine
from heliograph.handler import Handler
from heliograph.hub.facts import Keep
from heliograph.net.cors import CrossOrigin
from heliograph.net.pages import Pages, route_of
from heliograph.node.journal import Journal
from heliograph.node.node import Node
from heliograph.node.tenant import ENGINE_UNAVAILABLE, Timing
from heliograph.protocols.pusher.registration import Pusher
from heliograph.protocols.registration import Registration
from heliograph.webhooks import MemoryStore, SqliteStore, Webhooks

PROTOCOLS: tuple[Registration, ...] = (Pusher(),)
"""The protocols of a server. The first that has a request's path handles it; the last has all."""

WEBHOOKS_STOP_TIMEOUT_S = 10.0
"""How long a server that stops sends webhooks that no file keeps."""

ENGINE_CLOSE_TIMEOUT_S = 5.0
"""How long the departures of the last clients may take to reach the engine."""

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


class Assembly:
    """The parts of one server that `assemble` has put together; *engine* is open."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        engine_name: str,
        timing: Timing,
        *,
        monotonic: Callable[[], float],
        protocols: Sequence[Registration],
        shuffle: Callable[[list[Any]], None],
        verbose: bool,
    ) -> None:
        self.engine = engine
        self.engine_name = engine_name
        self.webhooks = Webhooks(
            store=SqliteStore(config.data_dir) if config.data_dir else MemoryStore(),
            now_s=time.time,
            monotonic=monotonic,
            random=random.random,
            settle_s=config.webhook_settle,
        )
        self.webhooks.configure(config.apps)
        self.node = Node(
            config.apps,
            engine,
            timing,
            RandomBits(),
            keep=Keep(1, config.cache_ttl),
            journal=Journal(owed=[self.webhooks]),
            shuffle=shuffle,
            verbose=verbose,
        )
        self._config = config
        self._protocols = tuple(protocols)
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

        handler: Handler = Pages(config.path_prefix, why_not_ready)
        for protocol in reversed(self._protocols):
            handler = protocol.handler(
                self.node, config, handler, now_s=time.time, api=api, websockets=websockets
            )
        if config.cors_allowed_origins and api:
            paths = [config.path_prefix + path for one in self._protocols for path in one.paths]
            handler = CrossOrigin(config.cors_allowed_origins, paths, handler)
        return handler

    def route_of(self, path: bytes) -> str:
        """Return the name of *path* in metrics: one of few, whatever paths clients request."""
        path = path.removeprefix(self._config.path_prefix.encode())
        for protocol in self._protocols:
            name = protocol.route_of(path)
            if name is not None:
                return name
        return route_of(path) or "other"


async def assemble(
    config: Config,
    timing: Timing,
    *,
    monotonic: Callable[[], float],
    make_engine: Callable[[], Engine] | None = None,
    protocols: Sequence[Registration] = PROTOCOLS,
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
        assembly.node.cached_events_evicted(app_id, count)

    if make_engine is None:
        epoch = secrets.token_hex(8)
        engine: Engine = MemoryEngine(time.monotonic, epoch=epoch, evicted=evicted)
    else:
        engine = make_engine()
    await engine.open()
    try:
        assembly = Assembly(
            config,
            engine,
            "memory" if make_engine is None else "custom",
            timing,
            monotonic=monotonic,
            protocols=protocols,
            shuffle=shuffle,
            verbose=verbose,
        )
    except BaseException:
        await engine.close(ENGINE_CLOSE_TIMEOUT_S)
        raise
    return assembly
