"""
The HTTP port: the interface of handlers, which answer the requests of connections.

Connections call a `Handler`. Protocols, health pages and metrics are handlers; each passes a
request that it does not serve to another handler. This module does not depend on sockets.
"""

from typing import Any, Protocol, TypeAlias

from heliograph.reply import Later
from heliograph.wire.http import Request
from heliograph.wire.responses import Response


class Takeover(Protocol):
    """The answer of a handler that takes over the connection: a WebSocket, or a stream."""

    @property
    def status(self) -> int:
        """The status of the response that it writes."""

    def take(self, handover: Any, /) -> None:
        """
        Take over the connection of *handover*, a `net.takeover.Handover`. Never raises.

        Called once the client has received the earlier answers; not called if the client
        disconnects before that.
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
        Answer *request* before its body arrives, if its head decides the answer.

        Return None if the body is needed. The connection closes after an answer. Never raises.
        """
