"""
Replies that are available now or later.

An engine in this process has the result at once; a shared engine sends a request to another
process. Both return a `Reply`. If it is a value, the caller continues in the same call.

`Later` is not an asyncio.Future, whose callbacks run one tick after the result: between the two,
events of the same channel could be delivered. Here the continuation runs inside `resolve`, so its
place in the order of events is the place of the engine's reply.
"""

from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Later(Generic[T]):
    """A value of *T*, or an exception, that is not available yet. It has one continuation."""

    __slots__ = ("_done", "_failed", "_outcome")

    def __init__(self) -> None:
        self._done: Callable[[T], object] | None = None
        self._failed: Callable[[Exception], object] | None = None
        self._outcome: tuple[T] | Exception | None = None

    def resolve(self, value: T) -> None:
        """Set the value; the continuation runs before this returns."""
        self._settle((value,))

    def fail(self, error: Exception) -> None:
        """Set the exception; the continuation for failure runs before this returns."""
        self._settle(error)

    def then(self, done: Callable[[T], object], failed: Callable[[Exception], object]) -> None:
        """Register the continuation: *done* receives the value, or *failed* the exception, once."""
        if self._done is not None:
            raise AssertionError("one continuation waits for an answer")
        self._done, self._failed = done, failed
        self._go_on()

    def _settle(self, outcome: tuple[T] | Exception) -> None:
        if self._outcome is not None:
            raise AssertionError("an answer is given once")
        self._outcome = outcome
        self._go_on()

    def _go_on(self) -> None:
        if self._outcome is None or self._done is None or self._failed is None:
            return
        if isinstance(self._outcome, Exception):
            self._failed(self._outcome)
        else:
            self._done(self._outcome[0])


Reply: TypeAlias = T | Later[T]
"""A value, now or later. The value itself is never a `Later`."""


def proceed(
    reply: Reply[T], done: Callable[[T], object], failed: Callable[[Exception], object]
) -> None:
    """Call *done* with the value of *reply*: in this call if it is available, otherwise later."""
    if isinstance(reply, Later):
        reply.then(done, failed)
    else:
        done(reply)


def after(reply: Reply[T], transform: Callable[[T], Reply[U]]) -> Reply[U]:
    """
    Return the result of *transform* for the value of *reply*; at once if it is available.

    A failure of the reply, or an exception that *transform* raises later, fails the result.
    """
    if not isinstance(reply, Later):
        return transform(reply)
    result: Later[U] = Later()

    def transformed(value: T) -> None:
        try:
            following = transform(value)
        except Exception as error:  # noqa: BLE001 - it is passed on, not swallowed
            result.fail(error)
        else:
            proceed(following, result.resolve, result.fail)

    reply.then(transformed, result.fail)
    return result
