"""
The state that was reported to receivers, and its debounce.

One `Reported` is about one app: its occupied channels, the members of its presence channels, its
users online. Nothing is reported twice, and what returns in time was never gone. Knows of time only
what it is given, and nothing of how receivers are notified.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from heliograph.engine.answers import CacheMiss, Change, ChannelOccupied, ChannelVacated
from heliograph.hub.facts import MemberAdded, MemberRemoved, UserOffline, UserOnline

Removal = ChannelVacated | MemberRemoved | UserOffline

FORGOTTEN_AT_ONCE = 200
"""States that are checked in one piece, some microseconds each."""

MAX_HELD = 100_000
"""
Removals held at a time; beyond, the oldest are reported before their time.

Clients that subscribe and unsubscribe in a loop leave one behind for each channel name that
they invent, 450 bytes each.
"""

MAX_MISSES = 10_000
"""Cache misses that are remembered; an older one may be reported again."""


# What a state is about.
CHANNEL, MEMBER, USER = range(3)


class ReportedState(NamedTuple):
    """That a channel is occupied, a user in it, or a user (without a channel) online."""

    about: int
    channel: str
    user_id: str

    def removal(self) -> Removal:
        """Return what is reported when it ends."""
        if self.about == CHANNEL:
            return ChannelVacated(self.channel)
        if self.about == MEMBER:
            return MemberRemoved(self.channel, self.user_id)
        return UserOffline(self.user_id)


def state_of(change: Change) -> tuple[ReportedState, bool] | None:
    """Return the state that *change* is about, and whether it begins, if it is about one."""
    match change:
        case ChannelOccupied(channel):
            return ReportedState(CHANNEL, channel, ""), True
        case ChannelVacated(channel):
            return ReportedState(CHANNEL, channel, ""), False
        case MemberAdded(channel, member):
            return ReportedState(MEMBER, channel, member.user_id), True
        case MemberRemoved(channel, user_id):
            return ReportedState(MEMBER, channel, user_id), False
        case UserOnline(user_id):
            return ReportedState(USER, "", user_id), True
        case UserOffline(user_id):
            return ReportedState(USER, "", user_id), False
    return None


class Standing(Enum):
    """How certain a reported state is."""

    CONFIRMED = 0
    ENDED = 1  # its end is reported after the grace period
    UNCONFIRMED = 2  # its end is reported after the settling time


class Outcome(Enum):
    """What follows from a change."""

    NOTHING = "the reported state stays as it is"
    REPORT = "the change is reported at once"
    CONFIRMED = "the state is confirmed, or belongs to another scope"
    HELD = "the end of the state is held back"


class _Hold(NamedTuple):
    """A removal that is held. The *number* keeps the order of those of the same time."""

    until: float
    number: int
    state: ReportedState
    scope: str
    standing: Standing


class Reported:
    """
    What the receivers of one app know.

    A removal is held for *grace_s*, unless MAX_HELD are: where the channel or user returns
    meanwhile, neither is reported. A cache miss is reported once for a channel until it is
    `filled`, or for *cache_miss_s*, unless MAX_MISSES are remembered. Each state has the scope of
    the change that was the last to confirm it.
    """

    def __init__(self, grace_s: float, cache_miss_s: float) -> None:
        self._grace_s = grace_s
        self._cache_miss_s = cache_miss_s
        # The scope of what is confirmed, the hold of what is not: nothing more for each state.
        self._states: dict[ReportedState, str | _Hold] = {}
        self._members: dict[str, set[str]] = {}  # channel -> users reported to be in it
        self._heap: list[_Hold] = []  # those that _states does not have are stale
        self._holds = 0
        self._scopes: dict[str, str] = {}  # one object for each scope
        self._missed: OrderedDict[str, float] = OrderedDict()  # channel -> until when
        self._max_held = MAX_HELD

    def __iter__(self) -> Iterator[ReportedState]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def standing(self, state: ReportedState) -> tuple[str, Standing]:
        """Return the scope of a state that was reported, and how certain it is."""
        known = self._states[state]
        return (known, Standing.CONFIRMED) if isinstance(known, str) else known[3:]

    def take(self, change: Change, now: float, scope: str = "") -> Outcome:
        """Take a change of *scope*; return what follows from it."""
        if isinstance(change, CacheMiss):
            return self._miss(change.channel, now)
        concerned = state_of(change)
        if concerned is None:
            return Outcome.REPORT
        state, begins = concerned
        if begins:
            return self._begin(state, scope)
        if not isinstance(self._states.get(state), str):
            return Outcome.NOTHING  # it was not reported, or its end is held already
        self._hold(state, now + self._grace_s, scope, Standing.ENDED)
        return Outcome.HELD

    def filled(self, channel: str) -> None:
        """Note that a cache channel has an event again."""
        self._missed.pop(channel, None)

    def elapse(self, now: float, limit: int) -> list[Removal]:
        """
        Return the removals that are to be reported now, *limit* at most.

        A channel's members go before the channel does.
        """
        removals: list[Removal] = []
        while self._heap and len(removals) < limit:
            if self._heap[0].until > now and len(self._heap) <= self._max_held:
                break
            hold = heapq.heappop(self._heap)
            if self._states.get(hold.state) is not hold:
                continue
            last = self._last_member_goes(hold.state)
            if last is not None and last > hold[:2]:
                self._hold(hold.state, last[0], hold.scope, hold.standing)
                continue
            self._retract(hold.state)
            removals.append(hold.state.removal())
        return removals

    def due(self) -> float | None:
        """Return when the next removal is to be reported, if one is held."""
        while self._heap:
            hold = self._heap[0]
            if self._states.get(hold.state) is hold:
                return hold.until if len(self._heap) <= self._max_held else float("-inf")
            heapq.heappop(self._heap)
        return None

    def load(
        self,
        states: Iterable[tuple[ReportedState, str, Standing]],
        now: float,
        settle_s: float,
    ) -> None:
        """
        Take over what another life of the server, or another node, has reported.

        Removals that were held are held anew.
        """
        ending = []
        for state, scope, standing in states:
            self._report(state, scope)
            if standing is not Standing.CONFIRMED:
                ending.append((state, scope, standing))
        self._make_room(len(ending))
        for state, scope, standing in sorted(ending, key=lambda one: one[0].about == CHANNEL):
            pause = self._grace_s if standing is Standing.ENDED else settle_s
            self._hold(state, now + pause, scope, standing)

    def restart(self, scope: str, until: float) -> None:
        """Report as gone what is of *scope* and is not confirmed *until* then."""
        states = [
            state
            for state, known in self._states.items()
            if (known if isinstance(known, str) else known.scope) == scope
        ]
        self._make_room(len(states))
        # Members first: of two removals due at once, the first one held is reported first.
        for state in sorted(states, key=lambda state: state.about == CHANNEL):
            self._hold(state, until, scope, Standing.UNCONFIRMED)

    def end_holds(self, now: float) -> None:
        """Hold nothing any longer: `elapse` now returns every removal."""
        held, self._heap = sorted(self._heap), []
        for hold in held:
            if self._states.get(hold.state) is hold:
                self._hold(hold.state, now, hold.scope, hold.standing)

    def forget(
        self, not_reported: Callable[[ReportedState], bool]
    ) -> Iterator[list[ReportedState]]:
        """
        Forget the states that no receiver wants any longer, and yield them: a piece at a time.

        A piece has FORGOTTEN_AT_ONCE states, which *not_reported* decides on then. States that are
        reported between two pieces are not checked.
        """
        left = list(self._states)
        while left:
            piece, left[-FORGOTTEN_AT_ONCE:] = left[-FORGOTTEN_AT_ONCE:], []
            forgotten = [state for state in piece if state in self._states and not_reported(state)]
            for state in forgotten:
                self._retract(state)
            yield forgotten
        # What is left of the heap is stale, and may be as large: until something is reported again.
        while self._heap and not self._states:
            del self._heap[-FORGOTTEN_AT_ONCE:]
            yield []

    def _begin(self, state: ReportedState, scope: str) -> Outcome:
        known = self._states.get(state)
        if known is None:
            self._report(state, scope)
            return Outcome.REPORT
        if known == scope:
            return Outcome.NOTHING
        self._states[state] = self._same(scope)
        return Outcome.CONFIRMED

    def _report(self, state: ReportedState, scope: str) -> None:
        self._states[state] = self._same(scope)
        if state.about == MEMBER:
            self._members.setdefault(state.channel, set()).add(state.user_id)

    def _retract(self, state: ReportedState) -> None:
        del self._states[state]
        if state.about == MEMBER:
            members = self._members[state.channel]
            members.discard(state.user_id)
            if not members:
                del self._members[state.channel]

    def _hold(self, state: ReportedState, until: float, scope: str, standing: Standing) -> None:
        self._holds += 1
        hold = _Hold(until, self._holds, state, self._same(scope), standing)
        self._states[state] = hold
        heapq.heappush(self._heap, hold)

    def _make_room(self, more: int) -> None:
        """Let *more* removals be held until their time, whatever their number."""
        self._max_held = max(MAX_HELD, 2 * (more + len(self._heap)))

    def _same(self, scope: str) -> str:
        return self._scopes.setdefault(scope, scope)

    def _last_member_goes(self, state: ReportedState) -> tuple[float, int] | None:
        """Return the last hold of those reported to be members of this channel, if any is."""
        if state.about != CHANNEL:
            return None
        users = self._members.get(state.channel, ())
        known = (self._states[ReportedState(MEMBER, state.channel, user)] for user in users)
        return max((one[:2] for one in known if isinstance(one, _Hold)), default=None)

    def _miss(self, channel: str, now: float) -> Outcome:
        while self._missed and next(iter(self._missed.values())) <= now:
            self._missed.popitem(last=False)
        if channel in self._missed:
            return Outcome.NOTHING
        self._missed[channel] = now + self._cache_miss_s
        if len(self._missed) > MAX_MISSES:
            self._missed.popitem(last=False)
        return Outcome.REPORT
