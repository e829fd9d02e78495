"""
The process of a server: signals, the service manager, the event loop, the garbage collector.

What belongs to the whole process is here and nowhere else, so that several servers can run in one.
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
from heliograph.observe import logs
from heliograph.observe.log_throttle import Summary, place_of
from heliograph.server import Server

logger = logging.getLogger(__name__)

COLLECTED_AFTER = 20_000
"""New objects after which the garbage collector looks at the youngest."""

COLLECTED_WHOLLY_AFTER = 1000
"""
Collections of the middle generation after which it looks at all objects: for a server with a
hundred thousand channels that takes 30 ms, in which no client is served.
"""


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
