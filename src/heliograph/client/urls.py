"""The URL of a server, as its operator gives it: ws, wss, http or https, perhaps with a path."""

from collections.abc import Mapping
from urllib.parse import urlsplit

HTTP = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
"""The schemes that a URL may have, and those of requests to the same server."""

WEBSOCKET = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
"""The same for WebSockets."""


def base_url(url: str, schemes: Mapping[str, str]) -> str:
    """Return *url* with a scheme of *schemes*, without a slash at its end. Raises ValueError."""
    try:
        parts = urlsplit(url.rstrip("/"))
        valid = parts.scheme in schemes and parts.hostname and (parts.port is None or parts.port)
    except ValueError:  # half of an IPv6 address, or a port that cannot be
        valid = False
    if not valid:
        raise ValueError(f"{url} is not a URL such as wss://ws.example.com")
    return f"{schemes[parts.scheme]}://{parts.netloc}{parts.path}"
