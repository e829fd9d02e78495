"""
Pusher's protocol as the node and connections know it.

Knows which requests are for it, the form of a socket id, and Pusher's code for each reason not to
admit a client, and for each ending.
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

    *prefix* stands before the paths that clients connect to. A *lenient* one accepts clients that
    name no version of the protocol. *activity_timeout_s* is how long a client is silent before it
    sends a ping. The other settings are those of `DialectSettings`.

    It has an opening for every request: a wrong path is refused with a code of Pusher's.
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
        """Return what a client asks for, or Pusher's refusal of it, as `Dialect.opening` has it."""
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
        """Begin a session, as `Dialect.connect` has it."""
        node, key = self._node, opening.key
        try:
            tenant = node.admit(key, opening.origin, address)
        except NotAdmitted as refused:
            refusal = refusals.not_admitted(refused.why, key)
            raise Refused(messages.goodbye(refusal)) from refused
        sessions = tenant.sessions
        while True:
            bits = node.random_bits(62)
            socket_id = f"{bits >> 32}.{bits & 0xFFFFFFFF}"
            if socket_id not in sessions and socket_id not in tenant.leaving:
                break
        return PusherSession(socket_id, tenant, self._settings)

    def lane(self, framing: Framing) -> PusherLane:
        """Return the lane for clients with *framing*."""
        lane = self._lanes.get(framing)
        if lane is None:
            lane = self._lanes[framing] = PusherLane(framing)
        return lane

    def goodbye(self, ending: Ending) -> Goodbye:
        """Return the code and the text that Pusher has for *ending*."""
        return messages.goodbye(refusals.ended(ending, self._settings.terminate_code))

    def redact(self, text: bytes) -> str:
        """Return what the log may show of a message."""
        return redact_message(text)

    def redact_reason(self, reason: str) -> str:
        """Return what the log may show of the reason in a Close frame."""
        return redact_text(reason)
