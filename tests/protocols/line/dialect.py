"""The protocol as the node and connections know it: its path, its sessions, its goodbyes."""

from collections.abc import Callable

from heliograph.node.dialect import (
    Ending,
    Framing,
    Goodbye,
    NotAdmitted,
    Opening,
    Refused,
    RequestHead,
)
from heliograph.node.node import Node
from tests.protocols.line import lines
from tests.protocols.line.lane import LineLane
from tests.protocols.line.session import LineSession

PATH = "/line/"


class LineDialect:
    """The Dialect of clients that connect to *prefix* and `/line/KEY`, for the apps of *node*."""

    name = "line"

    def __init__(self, node: Node, *, prefix: str) -> None:
        self._node = node
        self._path = prefix + PATH
        self._lanes: dict[Framing, LineLane] = {}

    def opening(self, request: RequestHead) -> Opening | None:
        """Return what a client asks for; None for a request on another path."""
        path = request.path.decode("latin-1")
        key = path.removeprefix(self._path)
        if key == path or not key or "/" in key:
            return None
        origin = request.lone_header(b"origin")
        return Opening(
            dialect=self,
            key=key,
            origin=None if origin is None else origin.decode("latin-1"),
        )

    def connect(self, opening: Opening, address: Callable[[], str]) -> LineSession:
        """Begin a session of an app that admits the client."""
        try:
            tenant = self._node.admit(opening.key, opening.origin, address)
        except NotAdmitted as refused:
            raise Refused(lines.goodbye(*lines.NOT_ADMITTED[refused.why])) from refused
        while True:
            session_id = f"line-{self._node.random_bits(64):016x}"
            if not tenant.has_session(session_id):
                return LineSession(session_id, tenant, opening.key)

    def lane(self, framing: Framing) -> LineLane:
        """Return the lane for *framing*."""
        lane = self._lanes.get(framing)
        if lane is None:
            lane = self._lanes[framing] = LineLane(framing)
        return lane

    def goodbye(self, ending: Ending) -> Goodbye:
        """Return the code and the line for *ending*."""
        return lines.goodbye(*lines.ENDINGS[ending])

    def redact(self, text: bytes) -> str:
        """Return what the log may show of a line."""
        return lines.redact(text)

    def redact_reason(self, reason: str) -> str:
        """Return what the log may show of a reason: the server's, which are words."""
        known = {word for _, word in (*lines.ENDINGS.values(), *lines.NOT_ADMITTED.values())}
        return reason if reason in known else f"({len(reason)} characters)"
