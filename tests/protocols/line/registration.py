"""The protocol as a server needs it: the one name that a list of protocols has to add."""

from collections.abc import Callable

from heliograph.config.settings import Config
from heliograph.handler import Handler
from heliograph.node.node import Node
from heliograph.protocols.registration import Registration
from tests.protocols.line.dialect import PATH, LineDialect
from tests.protocols.line.publish import Publish, route_of


class Line(Registration):
    """The line protocol."""

    paths = (PATH,)

    def dialect(self, node: Node, config: Config) -> LineDialect:
        """Make the dialect of a server."""
        return LineDialect(node, prefix=config.http_requests.path_prefix)

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
        """Make what answers requests of the HTTP endpoint, on ports that are for it."""
        del now_s, websockets
        return Publish(node, config.http_requests.path_prefix, otherwise) if api else otherwise

    def route_of(self, path: bytes) -> str | None:
        """Return the name of *path* in metrics."""
        return route_of(path)
