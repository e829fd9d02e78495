"""The names of the HTTP API's paths in metrics: variable segments of a path are left out."""

_ENDPOINTS = frozenset(("events", "batch_events", "channels", "users"))
_OF_A_CHANNEL = frozenset((b"events", b"history", b"stats", b"users"))


def route_of(path: bytes) -> str | None:
    """Return the name of *path*, without its prefix; None if it is no path of Pusher's API."""
    match path.split(b"/"):
        case [b"", b"apps", _, endpoint] if endpoint.decode("latin-1") in _ENDPOINTS:
            return f"/apps/{{app}}/{endpoint.decode('latin-1')}"
        case [b"", b"apps", _, b"channels", _]:
            return "/apps/{app}/channels/{channel}"
        case [b"", b"apps", _, b"channels", _, endpoint] if endpoint in _OF_A_CHANNEL:
            return f"/apps/{{app}}/channels/{{channel}}/{endpoint.decode()}"
        case [b"", b"apps", _, b"users", _, b"terminate_connections"]:
            return "/apps/{app}/users/{user}/terminate_connections"
        case [b"", b"users", _, b"terminate_connections"]:
            return "/users/{user}/terminate_connections"
        case [b"", b"app", _]:
            return "/app/{key}"
    return None
