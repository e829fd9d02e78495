"""
Large jobs, run in slices between the other work of the event loop.

Knows jobs and their owners; a job does one small piece of work for each `next`. Knows nothing of
the work in a piece. The clock is an argument.
"""

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from heliograph.reply import Later

T = TypeVar("T")

SLICE_S = 0.0015
"""Seconds that the jobs of all owners together may run before the event loop turns once."""

SHARE_S = 0.0005
"""Seconds of a slice that one owner has before the next owner's jobs continue."""

OVERDUE_S = 1.0
"""Seconds of work without a pause after which slices become longer."""

OVERDUE_SLICE_S = 0.005
"""
Seconds of a slice after OVERDUE_S. Clients cause work when they subscribe to many channels and
disconnect. If they could cause it faster than it is done, the remaining work would grow without a
bound.
"""

MOST_WAITING = 32
"""Requests of one owner that may wait for large answers."""


class Slices:
    """
    The jobs of one node.

    A job is an iterator: each `next` does one piece, which should take a few hundred microseconds
    at the most, and it ends as iterators do. The jobs of one owner are done one after the other,
    those of several owners in turns. If a piece fails, the error is reported, and the job continues
    with the next piece; a generator has none then.

    *soon* schedules a call for the end of this turn of the event loop. If *soon* is called at the
    end of a turn, the call must run in the next turn, so that sockets are read between two slices.
    *now* reads a monotonic clock in seconds. *fault* receives a description of the work and the
    exception for each piece that fails.
    """

    __slots__ = ("_busy_since", "_jobs", "_now", "_owners", "_soon", "fault")

    def __init__(
        self,
        soon: Callable[[Callable[[], object]], object],
        now: Callable[[], float],
        fault: Callable[[str, Exception], object],
    ) -> None:
        self._soon = soon
        self._now = now
        self.fault = fault
        self._jobs: dict[Hashable, deque[Iterator[object]]] = {}
        self._owners: deque[Hashable] = deque()  # those with jobs, in the order of their turns
        self._busy_since = 0.0

    def __len__(self) -> int:
        """Return the number of jobs that are not done."""
        return sum(map(len, self._jobs.values()))

    def start(self, owner: Hashable, job: Iterator[object]) -> None:
        """Queue *job* behind the earlier jobs of *owner*; no piece runs inside this call."""
        jobs = self._jobs.get(owner)
        if jobs is not None:
            jobs.append(job)
            return
        idle = not self._jobs
        self._jobs[owner] = deque((job,))
        self._owners.append(owner)
        if idle:
            self._busy_since = self._now()
            self._soon(self._run)

    def busy(self, owner: Hashable) -> bool:
        """Return whether *owner* has a job that is not done."""
        return owner in self._jobs

    def finish(self) -> None:
        """Finish all jobs in this call. For a server that stops and has no clients to delay."""
        while self._owners:
            self._work(self._owners.popleft(), float("inf"))

    def _run(self) -> None:
        moment = self._now()
        overdue = moment - self._busy_since > OVERDUE_S
        end = moment + (OVERDUE_SLICE_S if overdue else SLICE_S)
        try:
            while self._owners and moment < end:
                moment = self._work(self._owners.popleft(), min(moment + SHARE_S, end))
        finally:
            if self._owners:
                self._soon(self._run)

    def _work(self, owner: Hashable, end: float) -> float:
        """Do pieces of an owner's jobs until *end*; return the time at which this stopped."""
        jobs = self._jobs[owner]
        moment = 0.0
        try:
            while jobs and moment < end:
                try:
                    next(jobs[0])
                except StopIteration:
                    jobs.popleft()
                except Exception as error:  # noqa: BLE001 - it is reported, the rest is done
                    self.fault("a background task failed", error)
                moment = self._now()
        finally:
            if jobs:
                self._owners.append(owner)
            else:
                del self._jobs[owner]
        return moment


class Each(Generic[T]):
    """
    A job that calls *act* with each of *items*, one a piece, and *then* at the end.

    If *act* fails for one item, the job continues with the next item.
    """

    __slots__ = ("_act", "_items", "_then")

    def __init__(
        self,
        items: Iterable[T],
        act: Callable[[T], object],
        then: Callable[[], object] | None = None,
    ) -> None:
        self._items = iter(items)
        self._act = act
        self._then = then

    def __iter__(self) -> Iterator[None]:
        return self

    def __next__(self) -> None:
        try:
            item = next(self._items)
        except StopIteration:
            then, self._then = self._then, None
            if then is None:
                raise
            then()
        else:
            self._act(item)


class LargeAnswers(Generic[T]):
    """
    Large answers to the requests of one owner, built one at a time, in slices.

    Pending requests with equal keys share one answer, which is built once. So the memory of an
    owner's unfinished answers is bounded, and so is the cost of pipelined requests.
    """

    __slots__ = ("_owner", "_requests", "_slices", "_waiting")

    def __init__(self, slices: Slices, owner: Hashable) -> None:
        self._slices = slices
        self._owner = owner
        self._waiting: dict[
            Hashable, tuple[Callable[[], Generator[object, None, T]], list[Later[T]]]
        ] = {}
        self._requests = 0  # that have no answer yet

    def ask(self, key: Hashable, make: Callable[[], Generator[object, None, T]]) -> Later[T] | None:
        """
        Return the answer to a request, which the generator of *make* returns after some pieces.

        *make* is called after this request was received; the answer may come from the *make* of
        another request with the same *key*. Returns None if MOST_WAITING requests wait already.
        """
        if self._requests >= MOST_WAITING:
            return None
        later: Later[T] = Later()
        self._requests += 1
        waiting = self._waiting.get(key)
        self._waiting[key] = (make, [later] if waiting is None else [*waiting[1], later])
        if not self._slices.busy(self._owner):
            self._slices.start(self._owner, self._answer())
        return later

    def _answer(self) -> Iterator[object]:
        while self._waiting:
            make, requests = self._waiting.pop(next(iter(self._waiting)))
            failure: Exception | None = None
            try:
                answer = yield from make()
            except Exception as error:  # noqa: BLE001 - handed to the requests that wait for it
                failure = error
            for later in requests:
                yield None  # each has the answer copied into a response of its own
                self._requests -= 1
                try:
                    if failure is None:
                        later.resolve(answer)
                    else:
                        later.fail(failure)
                except Exception as error:  # noqa: BLE001 - no fault of the other requests
                    self._slices.fault("a request failed on an answer that it shares", error)
