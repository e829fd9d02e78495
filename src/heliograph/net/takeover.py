"""A connection that changes hands: from HTTP to a WebSocket, or to a stream."""

from msgspec import Struct

from heliograph.net.addresses import Origin
from heliograph.net.context import Context
from heliograph.net.timers import Timed
from heliograph.net.transport import Transport


class Handover(Struct, eq=False):
    """
    A connection that a handler takes over (see `handler.Takeover`).

    *rest* are the bytes that followed an upgrade request. *origin* is where the connection is
    counted, if it is; it keeps its place there. An *over_capacity* one was accepted only to hear
    that there is no room for it. *predecessor* is the HTTP connection, whose place on the wheel the
    successor takes. *now* is the time of the request, in monotonic seconds. *headers* belong into
    the response that the successor writes, unless it is that of a WebSocket.
    """

    context: Context
    transport: Transport
    rest: bytes
    origin: Origin | None
    over_capacity: bool
    predecessor: Timed
    now: float
    headers: tuple[tuple[bytes, bytes], ...] = ()
