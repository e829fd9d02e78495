"""
The port of HTTP: what answers the requests of connections.

Connections call a `Handler`; protocols, health pages and metrics are handlers, and pass what is not
theirs to another one. Knows nothing of sockets.
"""

from typing import Any, Protocol, TypeAlias

from heliograph.reply import Later
from heliograph.wire.http import Request
from heliograph.wire.responses import Response


class Takeover(Protocol):
    """The answer of a handler that goes on with the connection itself: a WebSocket, or a stream."""

    @property
    def status(self) -> int:
        """The status of the response that it writes."""

    def take(self, connection: Any, /) -> None:
        """
        Go on with *connection*, a `net.takeover.Handover`, once earlier answers are written, and
        read. Never called where the client leaves before that.
        """


Answer: TypeAlias = Response | Takeover
AnswerReply: TypeAlias = Answer | Later[Response] | Later[Answer]
"""An answer now or later."""


class Handler(Protocol):
    """Answers HTTP requests."""

    def handle(self, request: Request) -> AnswerReply:
        """Answer *request*, now or later. Never raises."""

    def refuse_early(self, request: Request) -> Response | None:
        """
        Answer *request*, whose body has yet to arrive, where its head decides the answer.

        None where its body is wanted. The connection closes after an answer. Never raises.
        """
