"""
Answers that may still be on their way.

An engine in this process knows everything at once; a shared one asks elsewhere. Both
answer with a `Reply`, and whoever asked goes on in the same call when it is a value.

`Later` is not an asyncio.Future, whose callbacks run a tick after the result: in between,
events of the channel in question could pass. Here the continuation runs inside
`resolve`, at the very place in the order of things where the engine answered.
"""

from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Later(Generic[T]):
    """A value of *T*, or an exception, that is not known yet. One continuation waits for it."""

    __slots__ = ("_done", "_failed", "_outcome")

    def __init__(self) -> None:
        self._done: Callable[[T], object] | None = None
        self._failed: Callable[[Exception], object] | None = None
        self._outcome: tuple[T] | Exception | None = None

    def resolve(self, value: T) -> None:
        """Give the value; the continuation runs before this returns."""
        self._settle((value,))

    def fail(self, error: Exception) -> None:
        """Give up; the continuation for failure runs before this returns."""
        self._settle(error)

    def then(self, done: Callable[[T], object], failed: Callable[[Exception], object]) -> None:
        """Have *done* called with the value, or *failed* with the exception, once."""
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
    """Go on with *done* in this very call when *reply* is a value, else when it comes."""
    if isinstance(reply, Later):
        reply.then(done, failed)
    else:
        done(reply)


def after(reply: Reply[T], transform: Callable[[T], Reply[U]]) -> Reply[U]:
    """
    Return what *transform* makes of the reply's value: at once when it is there.

    A failure of the reply, or an exception that *transform* raises later, fails the result.
    """
    if not isinstance(reply, Later):
        return transform(reply)
    result: Later[U] = Later()

    def transformed(value: T) -> None:
        try:
            following = transform(value)
        except Exception as error:  # noqa: BLE001 - it is handed on, not swallowed
            result.fail(error)
        else:
            proceed(following, result.resolve, result.fail)

    reply.then(transformed, result.fail)
    return result
