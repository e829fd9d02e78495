"""
Sends POST requests. Each request is one try; the caller decides what follows from a failure.

Knows nothing of apps, events and secrets. Only the status of a response is used; the rest is
discarded, and is never logged.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

import aiohttp

MAX_ANSWER_BYTES = 64 << 10
"""Bytes of a response that are read so that the connection can be used again."""

READ_TIMEOUT_S = 1.0
"""Time-out in seconds for the rest of a response after its status."""

# Shorter than the idle time-out of usual servers (except gunicorn with 2 s): if a server closes a
# connection while a request is sent on it, a retry is needed.
KEEPALIVE_S = 4.0


class HttpSender:
    """
    Sends through a pool of connections, within an event loop.

    Redirects are not followed, and the only state of a receiver is its connection.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(
            # The caller limits the concurrent requests of each receiver. With a common limit, a
            # slow receiver would delay the others.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # `post` has its own
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
        )

    async def post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> str | None:
        """Make one try; see `courier.Sender`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._session.post(
                    url, data=body, headers=headers, allow_redirects=False
                )
        except TimeoutError:
            return f"no answer within {self._timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _reason(error)
        async with response:
            await _read(response)
        accepted = HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES
        return None if accepted else f"HTTP {response.status}"

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _reason(error: Exception) -> str:
    """Return a reason for the log, without the error's text: it may have the URL and a password."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"certificate not accepted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error.strerror or error.os_error}"
    return f"connection lost or unusable ({type(error).__name__})"


async def _read(response: aiohttp.ClientResponse) -> None:
    """
    Read a short response to its end, so that the connection can be used again.

    The status has been received and is the result: a late or failed rest is no failure of the try.
    """
    left = MAX_ANSWER_BYTES
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            while left > 0 and not response.content.at_eof():
                left -= len(await response.content.read(left))
    except (aiohttp.ClientError, OSError):  # a TimeoutError is an OSError
        left = 0
    if left <= 0:
        response.close()
