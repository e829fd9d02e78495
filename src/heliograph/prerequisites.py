"""
What a configuration requires of the machine: the certificate and its key, the event loop.

These checks read files and import packages, so they are not among the pure ones in
`heliograph.config.checks`. A server starts with what the same functions return.
"""

import asyncio
from collections.abc import Callable

from heliograph.config.settings import Config
from heliograph.errors import ConfigError
from heliograph.net import tls


def check(config: Config) -> None:
    """
    Raise ConfigError unless a server can be started with *config* on this machine.

    Ports and folders are not checked: another process may use them at the moment.
    """
    loop_factory(config)
    certificate(config)


def loop_factory(config: Config) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what creates the event loop. Raises ConfigError if uvloop is required and missing."""
    kind = config.event_loop.loop
    if kind == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop  # noqa: PLC0415 - it does not exist everywhere
    except ImportError:
        if kind == "uvloop":
            raise ConfigError("--loop: uvloop is not installed; use auto or asyncio") from None
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def certificate(config: Config) -> tls.Certificate | None:
    """Return the certificate, None without TLS. Raises ConfigError if it cannot be used."""
    settings = config.certificate
    if settings.ssl_cert and settings.ssl_key:
        return tls.Certificate(settings.ssl_cert, settings.ssl_key)
    return None
