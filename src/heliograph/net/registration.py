"""
What a server needs of a transport beside WebSockets: a handler that answers with takeovers.

The list of a server's transports is in assembly.py. Knows no transport, and no protocol.
"""

from collections.abc import Sequence

from heliograph.config.settings import Config
from heliograph.handler import Handler
from heliograph.node.dialect import Dialect


class TransportRegistration:
    """A transport, for servers. Each transport derives a class of its own."""

    paths: tuple[str, ...] = ()
    """What its paths begin with, without the prefix; with CORS, pages may use these."""

    def handler(self, dialects: Sequence[Dialect], config: Config, otherwise: Handler) -> Handler:
        """
        Make what answers the requests of a port for clients of *dialects*.

        *otherwise* answers those that it has no path for.
        """
        raise NotImplementedError

    def route_of(self, path: bytes) -> str | None:
        """
        Return the name of *path*, without the prefix, in metrics: what varies is left out.

        None where it is no path of this transport's.
        """
        raise NotImplementedError
