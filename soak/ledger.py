"""
Who must have heard what.

Pure: times are arguments, all of one clock, which the soak reads in the one process that publishes
and listens. So what was answered before something else was asked for did happen before it.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from math import inf

MOST_FORMER_IDS = 16
"""The most ids of earlier connections that a client may name."""

LEAVING_S = 1.0
"""
What is accepted so shortly before its subscriber leaves may or may not arrive: the server drops
what it has not written yet. Who stays must receive it.
"""

SENT_AWAY_S = 5.0
"""
The same where it is the server that ends it, which the subscriber knows only once it reads so: the
soak's own process has been seen to be seconds behind on a busy machine.
"""


class Stream:
    """What one voice said in one place, numbered in its order, and when it was accepted."""

    __slots__ = ("_accepted", "_sent", "closed", "excluded", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.excluded: dict[int, str] = {}
        """Who is to be left out of what: a socket id."""
        self.closed = inf
        """When the voice fell silent for good."""
        self._sent = array("d")
        self._accepted = array("d")

    def __len__(self) -> int:
        return len(self._sent)

    def say(self, now: float, *, leave_out: str | None = None) -> int:
        """Note that something is being sent, and return its number."""
        number = len(self._sent)
        self._sent.append(now)
        self._accepted.append(inf)
        if leave_out is not None:
            self.excluded[number] = leave_out
        return number

    def accept(self, number: int, now: float) -> None:
        """Note that the server has taken it; in the order of sending."""
        self._accepted[number] = now

    def sent_at(self, number: int) -> float:
        """Return when it was sent."""
        return self._sent[number]

    def sent_before(self, time: float) -> int:
        """Return how many had been sent by *time*."""
        return bisect_left(self._sent, time)

    def accepted_before(self, time: float) -> int:
        """Return how many had been accepted by *time*."""
        return bisect_left(self._accepted, time)

    @property
    def accepted(self) -> int:
        """How many have been accepted so far."""
        return self.accepted_before(inf)


class Reader:
    """
    What one subscriber heard of a stream, and what it should have.

    It *asked* to subscribe and was *acknowledged* at these times. With *replays*, the last event
    from before comes first, as on a cache channel. *complain* is told each fault as it shows.
    """

    __slots__ = ("_complain", "_first", "_latest", "_next", "heard", "socket_id", "stream")

    def __init__(
        self,
        stream: Stream,
        socket_id: str,
        *,
        asked: float,
        acknowledged: float,
        complain: Callable[[str], None],
        replays: bool = False,
    ) -> None:
        self.stream = stream
        self.socket_id = socket_id
        self.heard = 0
        self._complain = complain
        # What was accepted before we asked must not come; what is sent after the answer must.
        self._first = max(stream.accepted_before(asked) - replays, 0)
        self._latest = stream.sent_before(acknowledged)
        if replays:
            self._latest = max(self._latest - 1, 0)
        self._next: int | None = None

    def hear(self, number: int) -> bool:
        """Take what was heard; return whether it was as it should be."""
        stream, expected = self.stream, self._next
        if not 0 <= number < len(stream):
            return self._fault(f"heard {number}, which was never said")
        if stream.excluded.get(number) == self.socket_id:
            return self._fault(f"heard {number}, which it was to be left out of")
        self.heard += 1
        self._next = number + 1
        if expected is None:
            if number < self._first:
                return self._fault(f"heard {number}, which was said before it subscribed")
            if number > self._past_excluded(self._latest):
                return self._fault(f"began with {number} instead of {self._latest}")
            return True
        expected = self._past_excluded(expected)
        if number < expected:
            self._next = expected
            return self._fault(f"heard {number} again, or too late")
        if number > expected:
            return self._fault(f"heard {number} after {expected - 1}: {number - expected} missing")
        return True

    def owed(self, until: float) -> int:
        """Return how many that had been accepted by *until* were not heard."""
        expected = self._latest if self._next is None else self._next
        expected = self._past_excluded(expected)
        owed = range(expected, self.stream.accepted_before(until))
        excluded = self.stream.excluded
        return sum(excluded.get(number) != self.socket_id for number in owed)

    def close(self, until: float) -> None:
        """Complain of what is missing."""
        owed = self.owed(until)
        if owed:
            self._fault(f"never heard {owed} of what was accepted, the last of it")

    def _past_excluded(self, number: int) -> int:
        while self.stream.excluded.get(number) == self.socket_id:
            number += 1
        return number

    def _fault(self, text: str) -> bool:
        self._complain(f"{self.stream.name}: {self.socket_id} {text}")
        return False


class Follower:
    """
    What a page received of a stream, over connections of which each continues the one before.

    It has each event once and in order, from its first position on, except those that exclude one
    of its connections. The event with the number n has the offset n + 1. *complain* receives each
    fault, *done* counts what is done.
    """

    __slots__ = ("_complain", "_continuing", "_done", "_ids", "_next", "_place", "stream")

    def __init__(self, stream: Stream, complain: Callable[[str], None], done: Counter[str]) -> None:
        self.stream = stream
        self._complain = complain
        self._done = done
        self._ids: list[str] = []
        self._place: tuple[str, int] | None = None
        self._next: int | None = None
        self._continuing = False

    @property
    def may_continue(self) -> bool:
        """Whether another connection can name all earlier ones."""
        return len(self._ids) <= MOST_FORMER_IDS

    def connect(self, socket_id: str) -> dict[str, object]:
        """Return the `history` that the connection *socket_id* asks for."""
        asked: dict[str, object] = {}
        if self._place is not None:
            epoch, offset = self._place
            asked = {"epoch": epoch, "offset": offset, "except": list(self._ids)}
        self._continuing = self._place is not None
        self._ids.append(socket_id)
        return asked

    def hear(self, number: int, epoch: str, offset: int) -> None:
        """Record an event that arrived after its position."""
        self._done["replayed events"] += self._continuing
        if offset != number + 1:
            self._fault(f"heard {number} with the offset {offset}")
        if self._excludes(number):
            self._fault(f"heard {number}, which excluded it")
        if self._next is None or number < self._next:
            self._done["repeated events"] += 1
            self._fault(f"heard {number} again, or before its first position")
            return
        self._pass_to(number, "the next event")
        self._next = number + 1
        self._place = epoch, offset

    def catch_up(self, epoch: str, offset: int) -> None:
        """Record that live events follow after a position."""
        self._done["continued channels"] += self._continuing
        self._continuing = False
        if self._next is not None:
            self._pass_to(offset, "the position")
        self._next = offset
        self._place = epoch, offset

    def miss(self, reason: str, epoch: str, offset: int) -> None:
        """Record a gap, which is a fault: the history is longer than any absence."""
        self._done["gaps"] += 1
        self._continuing = False
        self._fault(f"was notified of a gap ({reason}) up to the offset {offset}")
        self._next = offset
        self._place = epoch, offset

    def owed(self, until: float) -> int:
        """Return the number of events that were accepted by *until* and did not arrive."""
        if self._next is None:
            return 0
        return self._missing(self.stream.accepted_before(until))

    def close(self, until: float) -> None:
        """Complain of what is missing."""
        owed = self.owed(until)
        if owed:
            self._fault(f"never heard {owed} of what was accepted, the last of it")

    def _pass_to(self, number: int, what: str) -> None:
        missing = self._missing(number)
        if missing:
            self._done["lost events"] += missing
            self._fault(f"heard {what} {number}, with {missing} events missing before it")

    def _missing(self, end: int) -> int:
        return sum(not self._excludes(number) for number in range(self._next or 0, end))

    def _excludes(self, number: int) -> bool:
        return self.stream.excluded.get(number) in self._ids

    def _fault(self, text: str) -> None:
        self._complain(f"{self.stream.name}: a page at {self._ids[-1]} {text}")
