"""The data that a connection is handed over with: from HTTP to a WebSocket, or to a stream."""

from msgspec import Struct

from heliograph.net.addresses import Origin
from heliograph.net.context import Context
from heliograph.net.timers import Timed
from heliograph.net.transport import Transport


class Handover(Struct, eq=False):
    """
    A connection that a handler takes over (see `handler.Takeover`).

    *rest* are the bytes that followed an upgrade request. *origin* counts the connection, if it is
    counted; the count continues. An *over_capacity* connection was accepted only to be refused
    with a reason. *predecessor* is the HTTP connection, whose place on the wheel the successor
    takes. *now* is the time of the request, in monotonic seconds. The successor writes *headers* in
    its response, except in that of a WebSocket.
    """

    context: Context
    transport: Transport
    rest: bytes
    origin: Origin | None
    over_capacity: bool
    predecessor: Timed
    now: float
    headers: tuple[tuple[bytes, bytes], ...] = ()
