"""
The exceptions of a publisher and of a listener.

    RemoteError
    ├── Unreachable         no connection, or no answer in time
    │   ├── NotUpgraded     the answer to the WebSocket handshake has another status than 101
    │   └── NoGreeting      the handshake succeeded, and no message followed in time
    ├── InvalidAnswer       the answer does not come from a server for Pusher clients
    ├── Refused             the server refused a connection, a subscription or a sign-in
    ├── RequestRefused      the HTTP API answered with another status than 200
    └── Disconnected        the connection has ended
"""

from heliograph.errors import HeliographError


class RemoteError(HeliographError):
    """Something failed on the other side, or on the way to it."""


class Unreachable(RemoteError):
    """There is no connection, or no answer in time. A request may have been executed."""


class NotUpgraded(Unreachable):
    """The answer to the WebSocket handshake was *status* instead of 101."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the answer was {status} instead of 101")
        self.status = status


class NoGreeting(Unreachable):
    """The handshake succeeded, and the server sent no message within *seconds*."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no message arrived within {seconds:g} s of the handshake")


class InvalidAnswer(RemoteError):
    """The answer does not come from a server for Pusher clients."""


class Refused(RemoteError):
    """
    The server answered with `pusher:error`.

    *code* is Pusher's code, None where the server sent `null`; *message* is the server's text.
    """

    def __init__(self, code: int | None, message: str) -> None:
        super().__init__(message if code is None else f"{code} {message}")
        self.code = code
        self.message = message


class RequestRefused(RemoteError):
    """The HTTP API answered with *status*, which is not 200, and with *message*."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message


class Disconnected(RemoteError):
    """
    The connection has ended.

    *code* and *reason* are those of the Close frame that the server sent. *code* is None where the
    connection ended without one; then *reason* says what is known.
    """

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(reason if code is None else f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason
