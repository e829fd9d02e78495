"""
The dialect of Pusher's protocol, which the node and connections use.

Knows the requests of the protocol, the form of a socket id, and Pusher's code for each reason for
which a client is not admitted or a session ends.
"""

from collections.abc import Callable

from heliograph.errors import ClientError
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
from heliograph.protocols.pusher import endpoint, messages, refusals
from heliograph.protocols.pusher.lanes import PusherLane
from heliograph.protocols.pusher.redact import redact_message, redact_text
from heliograph.protocols.pusher.session import DialectSettings, PusherSession
from heliograph.wire.websocket import offered_subprotocols


def _unknown_address() -> str:
    return "an unknown address"


class PusherDialect:
    """
    The Dialect of Pusher's clients, for the apps of *node*.

    *prefix* precedes the paths that clients connect to. A *lenient* dialect accepts clients that
    send no protocol version. *activity_timeout_s* is the number of seconds without a message after
    which a client sends a ping. The other settings are those of `DialectSettings`.

    It has an opening for every request: a wrong path is refused with one of Pusher's codes.
    """

    name = "pusher"

    def __init__(
        self,
        node: Node,
        *,
        prefix: str = "",
        lenient: bool = False,
        activity_timeout_s: int = 120,
        subscription_errors: bool = False,
        terminate_code: int = refusals.Code.UNAUTHORIZED,
    ) -> None:
        self._node = node
        self._prefix = prefix
        self._lenient = lenient
        self._settings = DialectSettings(
            messages.connection_established(activity_timeout_s), subscription_errors, terminate_code
        )
        self._lanes: dict[Framing, PusherLane] = {}

    def opening(self, request: RequestHead) -> Opening:
        """Return the opening of a request, possibly with a refusal; see `Dialect.opening`."""
        refusal: Goodbye | None = None
        key = ""
        try:
            key = endpoint.requested_app(
                request.path, request.query, self._prefix, lenient=self._lenient
            )
        except ClientError as error:
            refusal = messages.goodbye(error)
        origin = request.lone_header(b"origin")
        return Opening(
            dialect=self,
            key=key,
            origin=origin.decode("latin-1") if origin is not None else None,
            subprotocol=endpoint.subprotocol(offered_subprotocols(request.headers)),
            refusal=refusal,
        )

    def connect(
        self, opening: Opening, address: Callable[[], str] = _unknown_address
    ) -> PusherSession:
        """Begin a session; see `Dialect.connect`."""
        node, key = self._node, opening.key
        try:
            tenant = node.admit(key, opening.origin, address)
        except NotAdmitted as refused:
            refusal = refusals.not_admitted(refused.why, key)
            raise Refused(messages.goodbye(refusal)) from refused
        while True:
            bits = node.random_bits(62)
            socket_id = f"{bits >> 32}.{bits & 0xFFFFFFFF}"
            if not tenant.has_session(socket_id):
                return PusherSession(socket_id, tenant, self._settings)

    def lane(self, framing: Framing) -> PusherLane:
        """Return the lane for clients with *framing*."""
        lane = self._lanes.get(framing)
        if lane is None:
            lane = self._lanes[framing] = PusherLane(framing)
        return lane

    def goodbye(self, ending: Ending) -> Goodbye:
        """Return Pusher's code and text for *ending*."""
        return messages.goodbye(refusals.ended(ending, self._settings.terminate_code))

    def redact(self, text: bytes) -> str:
        """Return a message for the log, without secrets."""
        return redact_message(text)

    def redact_reason(self, reason: str) -> str:
        """Return the reason in a Close frame for the log, without secrets."""
        return redact_text(reason)
