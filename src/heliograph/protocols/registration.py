"""
The registration of a protocol with a server: its dialect, and its HTTP API if it has one.

The list of a server's protocols is in assembly.py. Knows no protocol.
"""

from collections.abc import Callable

from heliograph.config.settings import Config
from heliograph.handler import Handler
from heliograph.node.dialect import Dialect
from heliograph.node.node import Node


class Registration:
    """The registration of one protocol. Each protocol derives its own class."""

    paths: tuple[str, ...] = ()
    """Prefixes of the paths of its HTTP API; with CORS, pages may use these paths."""

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
        Make the handler of the requests of a port; *otherwise* handles requests for other paths.

        *api* and *websockets* are True if the port serves them. *now_s* reads the wall clock.
        """
        del node, config, now_s, api, websockets
        return otherwise

    def route_of(self, path: bytes) -> str | None:
        """
        Return the name of *path*, without the prefix, in metrics: variable segments are left out.

        None if the path does not belong to this protocol.
        """
        del path
        return None
