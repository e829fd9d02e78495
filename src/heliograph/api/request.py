"""A request of the HTTP API after its signature was found right."""

from collections.abc import Sequence

from msgspec import Struct

from heliograph.api.auth import AUTH_PARAMETERS
from heliograph.errors import ApiError
from heliograph.node import Tenant


class ApiRequest(Struct, frozen=True):
    """Who asks, and what for."""

    tenant: Tenant
    parameters: Sequence[tuple[str, str]]
    body: bytes

    def parameter(self, name: str) -> str | None:
        """Return the last value of a parameter of the query."""
        return next((value for found, value in reversed(self.parameters) if found == name), None)

    def allow_only(self, *names: str) -> None:
        """Refuse parameters that the endpoint does not know, as Pusher does. Raises ApiError."""
        known = AUTH_PARAMETERS.union(names)
        extraneous = [name for name, _ in self.parameters if name not in known]
        if extraneous:
            raise ApiError(
                400,
                "The following query string parameters are extraneous: " + ", ".join(extraneous),
            )


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
            f" Known here: {', '.join(sorted(known))}",
        )
    return found
