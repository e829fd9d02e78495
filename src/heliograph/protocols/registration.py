"""
What a server needs of a protocol: its dialect, and its HTTP API if it has one.

The list of a server's protocols is in assembly.py. Knows no protocol.
"""

from collections.abc import Callable

from heliograph.config.settings import Config
from heliograph.handler import Handler
from heliograph.node.dialect import Dialect
from heliograph.node.node import Node


class Registration:
    """A protocol, for servers. Each protocol derives a class of its own."""

    paths: tuple[str, ...] = ()
    """What the paths of its HTTP API begin with; with CORS, pages may use these."""

    def dialect(self, node: Node, config: Config) -> Dialect:
        """Make the dialect of a server."""
        raise NotImplementedError

    def handler(
        self,
        node: Node,
        config: Config,
        otherwise: Handler,
        *,
        now_s: Callable[[], float],
        api: bool,
        websockets: bool,
    ) -> Handler:
        """
        Make what answers the requests of a port; *otherwise* answers those that it has no path for.

        *api* and *websockets* say what the port is for. *now_s* reads the wall clock.
        """
        del node, config, now_s, api, websockets
        return otherwise

    def route_of(self, path: bytes) -> str | None:
        """
        Return the name of *path*, without the prefix, in metrics: what varies is left out.

        None where it is no path of this protocol's.
        """
        del path
        return None
