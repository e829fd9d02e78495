"""
The process of one server: signals, systemd, event loop, garbage collector, descriptor limit.

Only this module changes what belongs to the whole process, so that several servers can run in one.
"""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from heliograph import prerequisites
from heliograph.config.settings import Config
from heliograph.errors import ConfigError
from heliograph.net import systemd
from heliograph.net.descriptors import raise_descriptor_limit
from heliograph.observe import logs
from heliograph.observe.log_throttle import Summary, location_of
from heliograph.server import Server

logger = logging.getLogger(__name__)

COLLECTED_AFTER = 20_000
"""New objects after which the garbage collector examines the youngest generation."""

COLLECTED_WHOLLY_AFTER = 1000
"""
Collections of the middle generation after which it examines all objects. On a server with a
hundred thousand channels that takes 30 ms, in which no client is served.
"""


def run(
    config: Config, load: Callable[[], Config], snippets: Callable[[Config, int, int], str]
) -> int:
    """
    Run a server until it gets a signal; return the exit status.

    SIGTERM stops the server; SIGINT stops it without the delays; a second signal ends the process
    at once. SIGHUP reloads: *load* returns the new configuration, or raises ConfigError, and
    nothing is changed then. In development mode, *snippets* returns the text to print, for a
    configuration and its ports. Raises ConfigError if the server cannot be started.
    """
    logs.set_up(config.log_output.lowest_level, config.log_output.log_format)
    raise_descriptor_limit()
    _collect_rarely()
    with asyncio.Runner(loop_factory=prerequisites.loop_factory(config)) as runner:
        return runner.run(_serve(config, load, snippets))


def _collect_rarely() -> None:
    """
    Collect garbage in cycles after many new objects, not after seven hundred.

    Each collection examines the objects of all clients, which are no garbage. Those of a closed
    connection are freed without the collector, because a connection cuts its own cycles.
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
    # The configuration was read a moment ago, so there is nothing to reload yet.
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
    # SIGINT comes from a user at a terminal; other signals come from a service manager.
    await server.stop(at_once=reason == signal.SIGINT)
    # The closing event loop would restore the default action of SIGHUP, which ends the process with
    # another exit status. It is blocked until it is ignored.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    loop.remove_signal_handler(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logger.info("server stopped")
    return 0


def _summed_up(loop: asyncio.AbstractEventLoop) -> Callable[..., None]:
    """Return an exception handler for *loop* that logs each fault once, and then sums."""
    faults = Summary(logger, logging.ERROR, loop.call_later)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        subject, error = str(context.get("message")), context.get("exception")
        if isinstance(error, BaseException):
            subject = f"unhandled exception in the event loop ({location_of(error)})"
        if faults.first(subject, "the same error"):
            loop.default_exception_handler(context)

    return handle


def _ignore() -> None:
    """Take a SIGHUP, which would end the process without a handler."""


def _reload(server: Server, load: Callable[[], Config], notifier: systemd.Notifier) -> None:
    notifier.reloading(time.monotonic())
    try:
        config = load()
        server.reload(config)
        for warning in config.warnings:
            logger.warning("%s", warning)
    except ConfigError as error:
        logger.error(  # noqa: TRY400 - a line for the operator, whose fault it is
            "configuration not reloaded, nothing was changed: %s", error
        )
    finally:
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
