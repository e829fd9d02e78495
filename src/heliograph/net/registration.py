"""
The interface between a server and a transport other than WebSockets: a handler with takeovers.

The list of a server's transports is in assembly.py. This module imports no transport and no
protocol.
"""

from collections.abc import Sequence

from heliograph.config.settings import Config
from heliograph.handler import Handler
from heliograph.node.dialect import Dialect


class TransportRegistration:
    """Registers a transport with servers. Each transport has a subclass."""

    paths: tuple[str, ...] = ()
    """The beginnings of its paths, without the prefix; if CORS is on, it applies to these."""

    def handler(self, dialects: Sequence[Dialect], config: Config, otherwise: Handler) -> Handler:
        """
        Make the handler of a port's requests, for clients of *dialects*.

        *otherwise* answers requests to paths that the transport does not have.
        """
        raise NotImplementedError

    def route_of(self, path: bytes) -> str | None:
        """
        Return the name of *path* in metrics, without the prefix and without variable parts.

        Return None if *path* does not belong to this transport.
        """
        raise NotImplementedError
