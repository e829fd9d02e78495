"""
Pusher's protocol as the node and connections know it: begins the sessions of its clients.

Knows the form of a socket id, and Pusher's code for each reason not to admit a client.
"""

from collections.abc import Callable

from heliograph.node.dialect import NotAdmitted
from heliograph.node.journal import Connected
from heliograph.node.node import Node
from heliograph.protocols.pusher import messages, refusals
from heliograph.protocols.pusher.session import DialectSettings, Session


def _unknown_address() -> str:
    return "an unknown address"


class PusherDialect:
    """
    The Dialect of Pusher's clients, for the apps of *node*.

    *activity_timeout_s* is how long a client is silent before it sends a ping. The other settings
    are those of `DialectSettings`.
    """

    name = "pusher"

    def __init__(
        self,
        node: Node,
        *,
        activity_timeout_s: int = 120,
        subscription_errors: bool = False,
        terminate_code: int = refusals.Code.UNAUTHORIZED,
    ) -> None:
        self._node = node
        self._settings = DialectSettings(
            messages.connection_established(activity_timeout_s), subscription_errors, terminate_code
        )

    def connect(
        self, app_key: str, origin: str | None, address: Callable[[], str] = _unknown_address
    ) -> Session:
        """Begin a session, as `Dialect.connect` has it."""
        node = self._node
        try:
            tenant = node.admit(app_key, origin)
        except NotAdmitted as refused:
            node.connection_refused(refused.why, app_key, origin, address)
            raise refusals.not_admitted(refused.why, app_key) from refused
        sessions = tenant.sessions
        while True:
            bits = node.random_bits(62)
            socket_id = f"{bits >> 32}.{bits & 0xFFFFFFFF}"
            if socket_id not in sessions and socket_id not in tenant.leaving:
                break
        session = Session(socket_id, tenant, self._settings)
        sessions[socket_id] = session
        if tenant.observers:
            tenant.record(Connected(socket_id))
        return session
