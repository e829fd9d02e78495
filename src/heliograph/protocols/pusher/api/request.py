"""A request of the HTTP API with a valid signature, and the bodies that publishers send."""

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Raw, Struct

from heliograph.errors import ApiError, echoed
from heliograph.hub.facts import Event
from heliograph.node.tenant import Tenant
from heliograph.protocols.pusher.api.auth import AUTH_PARAMETERS
from heliograph.protocols.pusher.names import is_channel_name


class ApiRequest(Struct, frozen=True):
    """The app that signed a request, the content of the request, and the time (since 1970)."""

    tenant: Tenant
    parameters: Sequence[tuple[str, str]]
    body: bytes
    now_s: float

    def parameter(self, name: str) -> str | None:
        """Return the last value of a parameter of the query."""
        return next((value for found, value in reversed(self.parameters) if found == name), None)

    def check_channel(self, name: str) -> None:
        """Refuse a name that no channel may have. Raises ApiError."""
        if not is_channel_name(name, self.tenant.app.max_channel_name_length):
            raise ApiError(400, f"Invalid channel name: {echoed(name)}")

    def allow_only(self, *names: str) -> None:
        """Refuse parameters that the endpoint does not know, as Pusher does. Raises ApiError."""
        known = AUTH_PARAMETERS.union(names)
        extraneous = [name for name, _ in self.parameters if name not in known]
        if extraneous:
            raise ApiError(
                400,
                "The following query string parameters are extraneous: "
                + echoed(", ".join(extraneous)),
            )


class EventBody(Struct, gc=False):
    """
    An event in a request. Fields have any type, so that each wrong type has its own text.

    A *transient* event is not kept. An *idempotency_key* belongs to a request.
    """

    name: Any = None
    data: Raw = Raw()
    channels: Any = None
    channel: Any = None
    socket_id: Any = None
    info: Any = None
    transient: Any = False
    idempotency_key: Any = UNSET


class BatchBody(Struct, gc=False):
    """Several events at once, each for one channel. An event is transient, a batch is not."""

    batch: list[EventBody]
    idempotency_key: Any = UNSET
    transient: Any = UNSET


class Publication(Struct, frozen=True):
    """A checked event: one Event for each channel, and the attributes that the answer has."""

    events: Sequence[Event]
    info: frozenset[str]


def attributes(info: object, known: frozenset[str]) -> frozenset[str]:
    """Split the comma separated list *info*. Raises ApiError for any that is not *known*."""
    if info is None or info == "":
        return frozenset()
    wanted = info.split(",") if isinstance(info, str) else [""]
    found = frozenset(name.strip() for name in wanted)
    if not found <= known:
        raise ApiError(
            400,
            "info should be a comma separated list of attributes."
            f" Supported: {', '.join(sorted(known))}",
        )
    return found
