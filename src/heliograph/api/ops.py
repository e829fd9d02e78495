"""What those who run the server ask it: whether it is there, and whether to send clients to it."""

from heliograph.api.response import Response, text
from heliograph.node.node import Node
from heliograph.node.tenant import ENGINE_UNAVAILABLE

PAGES = (
    "GET /health answers 200 while the server runs, GET /ready while it accepts new clients.\n"
    "Documentation: README.md and docs/ in the source."
)


class Readiness:
    """
    Whether new clients are to be sent here; *why_not* is a word for people, "" when they are.

    A server starts, serves, and drains: it still serves then, but asks to be left alone.
    """

    __slots__ = ("why_not",)

    def __init__(self) -> None:
        self.why_not = "starting"

    @property
    def ready(self) -> bool:
        """Whether they are."""
        return not self.why_not


def health() -> Response:
    """GET /health and /up: 200 while serving."""
    return text(200, "OK")


def home() -> Response:
    """GET /: 200 with a short page, which cloud load balancers and curious people ask for."""
    return text(200, f"Heliograph, a realtime server for Pusher clients.\n{PAGES}")


def ready(readiness: Readiness, node: Node) -> Response:
    """GET /ready and /accept-traffic: 200 while new clients are welcome, else 503 and why not."""
    why_not = readiness.why_not or ("" if node.engine_available else ENGINE_UNAVAILABLE)
    return text(503, f"Not ready: {why_not}") if why_not else text(200, "OK")
