"""The registration of Pusher's protocol, with its HTTP API."""

from collections.abc import Callable

from heliograph.config.settings import Config
from heliograph.handler import Handler
from heliograph.node.node import Node
from heliograph.protocols.pusher.api.route_names import route_of
from heliograph.protocols.pusher.api.routes import Routes
from heliograph.protocols.pusher.dialect import PusherDialect
from heliograph.protocols.registration import Registration


class Pusher(Registration):
    """Pusher's protocol. The last of a server's protocols: it has an opening for every request."""

    paths = ("/apps/", "/users/")

    def dialect(self, node: Node, config: Config) -> PusherDialect:
        """Make the dialect of a server."""
        return PusherDialect(
            node,
            prefix=config.http_requests.path_prefix,
            lenient=config.pusher_protocol.lenient_protocol,
            activity_timeout_s=config.pusher_protocol.activity_timeout,
            subscription_errors=config.pusher_protocol.subscription_errors,
            terminate_code=config.pusher_protocol.terminate_code,
        )

    def handler(
        self,
        node: Node,
        config: Config,
        otherwise: Handler,
        *,
        now_s: Callable[[], float],
        api: bool,
        websockets: bool,
    ) -> Routes:
        """Make the handler of the HTTP API."""
        return Routes(
            node,
            prefix=config.http_requests.path_prefix,
            now_s=now_s,
            api=api,
            websockets=websockets,
            otherwise=otherwise,
        )

    def route_of(self, path: bytes) -> str | None:
        """Return the name of *path* in metrics."""
        return route_of(path)
