"""The bytes of HTTP responses, with a Date header; the last response is cached for one second."""

from collections.abc import Callable
from email.utils import formatdate
from time import time

from heliograph.wire.responses import Response, response


class Dates:
    """The value of the Date header, made once a second."""

    __slots__ = ("_second", "_value")

    def __init__(self) -> None:
        self._second = 0
        self._value = b""

    def now(self) -> bytes:
        """Return the date of this second."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._value = formatdate(second, usegmt=True).encode()
        return self._value


class Answers:
    """
    Encodes responses; once *closing*, each response announces that its connection closes.

    *date* returns the value of the Date header.
    """

    __slots__ = ("_last", "closing", "date")

    def __init__(self, date: Callable[[], bytes] | None = None) -> None:
        self.date = date or Dates().now
        self.closing = False
        self._last: tuple[Response | None, bytes, bytes] = (None, b"", b"")

    def close(self) -> None:
        """Announce in each answer from now on that its connection closes."""
        self.closing = True
        self._last = (None, b"", b"")  # its bytes announce that the connection stays open

    def usual(self, result: Response) -> bytes:
        """
        Encode *result* as for most requests: in HTTP/1.1, on a connection that stays open.

        The last response is cached for one second, because all publishers receive the same one.
        """
        date = self.date()
        last, of, answer = self._last
        if result is not last or date is not of:
            answer = self.any(result)
            self._last = (result, date, answer)
        return answer

    def any(
        self,
        result: Response,
        *,
        keep_alive: bool = True,
        head_only: bool = False,
        version: str = "1.1",
    ) -> bytes:
        """Encode *result* with `wire.responses.response`."""
        return response(
            result.status,
            result.body,
            content_type=result.content_type,
            headers=result.headers,
            keep_alive=keep_alive and not self.closing,
            head_only=head_only,
            date=self.date(),
            version=version,
        )
