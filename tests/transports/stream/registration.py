"""The streaming transport, as a server needs it."""

from collections.abc import Sequence

from heliograph.config.settings import Config
from heliograph.handler import Handler
from heliograph.net.registration import TransportRegistration
from heliograph.node.dialect import Dialect
from tests.transports.stream.handler import StreamHandler
from tests.transports.stream.resumable import Terms

ROUTES = {b"send", b"resume"}


class StreamTransport(TransportRegistration):
    """Streams over HTTP, on *terms*."""

    paths = ("/stream/",)

    def __init__(self, terms: Terms | None = None) -> None:
        self._terms = terms or Terms()

    def handler(
        self, dialects: Sequence[Dialect], config: Config, otherwise: Handler
    ) -> StreamHandler:
        return StreamHandler(dialects, config, otherwise, self._terms)

    def route_of(self, path: bytes) -> str | None:
        if not path.startswith(b"/stream/"):
            return None
        last = path.rpartition(b"/")[2]
        return f"/stream/*/{last.decode()}" if last in ROUTES else "/stream/*"
