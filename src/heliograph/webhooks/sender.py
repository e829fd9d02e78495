"""
The POSTs. Each is one try: what a failure means is for others to say.

Knows nothing of apps, events and secrets. What a receiver answers beyond its status is thrown
away, and is never logged.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

import aiohttp

MAX_ANSWER_BYTES = 64 << 10
"""What we read of an answer to be able to use the connection again."""

READ_TIMEOUT_S = 1.0
"""How long an answer may go on after its status."""

# Shorter than what usual servers keep an idle connection for (gunicorn 2 s, excepted): one that
# is closed just as we use it costs a retry.
KEEPALIVE_S = 4.0


class HttpSender:
    """
    Sends through a pool of connections, within an event loop.

    Redirects are not followed, and nothing is remembered of a receiver but its connection.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(
            # Callers bound what is in flight, for each receiver: a common bound would let
            # one that is slow delay the others.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # `post` has its own
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
        )

    async def post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> str | None:
        """Make one try; see the port."""
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
        """Let go of every connection."""
        await self._session.close()


def _reason(error: Exception) -> str:
    """Say what went wrong, and never more: an error's text may hold the URL and a password."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"certificate not accepted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error.strerror or error.os_error}"
    return f"connection lost or unusable ({type(error).__name__})"


async def _read(response: aiohttp.ClientResponse) -> None:
    """
    Read a short answer to its end, so that the connection can be used again.

    Its status has been received, and that is what counts: the rest may be as late as it likes.
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
