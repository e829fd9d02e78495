"""What those who run the server ask it: whether it is there."""

from heliograph.api.response import Response, text


def health() -> Response:
    """GET /health and /up: 200 while serving."""
    return text(200, "OK")
