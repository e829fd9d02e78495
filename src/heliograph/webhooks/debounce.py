"""
The state that was reported to receivers, and its debounce.

One `Reported` has the state of one app: its occupied channels, the members of its presence
channels, its users online. No state is reported twice. If a state ends and begins again within the
grace period, neither is reported. The time is an argument. Does not notify receivers itself.
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
"""States that are checked in one piece, a few microseconds each."""

MAX_HELD = 100_000
"""
Removals held at a time; above this, the oldest are reported before their time.

A client that subscribes and unsubscribes in a loop causes one removal for each channel name that it
invents, 450 bytes each.
"""

MAX_MISSES = 10_000
"""Cache misses that are stored; an older one may be reported again."""


# The kinds of states.
CHANNEL, MEMBER, USER = range(3)


class ReportedState(NamedTuple):
    """A channel is occupied, a user is a member of a channel, or a user (no channel) is online."""

    about: int
    channel: str
    user_id: str

    def removal(self) -> Removal:
        """Return the change that is reported when it ends."""
        if self.about == CHANNEL:
            return ChannelVacated(self.channel)
        if self.about == MEMBER:
            return MemberRemoved(self.channel, self.user_id)
        return UserOffline(self.user_id)


def state_of(change: Change) -> tuple[ReportedState, bool] | None:
    """Return the state that *change* begins or ends, and whether it begins; None if it has none."""
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
    """The result of a change."""

    NOTHING = "the reported state stays as it is"
    REPORT = "the change is reported at once"
    CONFIRMED = "the state is confirmed, or belongs to another scope"
    HELD = "the end of the state is held back"


class _Hold(NamedTuple):
    """A removal that is held. The *number* keeps the order of removals with the same time."""

    until: float
    number: int
    state: ReportedState
    scope: str
    standing: Standing


class Reported:
    """
    The state that was reported to the receivers of one app.

    A removal is held for *grace_s*, unless MAX_HELD are held: if the channel or user returns
    meanwhile, neither is reported. A cache miss of a channel is reported once until the channel is
    `filled`, or for *cache_miss_s*, unless MAX_MISSES are stored. Each state has the scope of the
    last change that confirmed it.
    """

    def __init__(self, grace_s: float, cache_miss_s: float) -> None:
        self._grace_s = grace_s
        self._cache_miss_s = cache_miss_s
        # The scope of a confirmed state, the hold of any other: no further object for a state.
        self._states: dict[ReportedState, str | _Hold] = {}
        self._members: dict[str, set[str]] = {}  # channel -> users reported to be in it
        self._heap: list[_Hold] = []  # a hold that is not in _states is stale
        self._holds = 0
        self._scopes: dict[str, str] = {}  # one object for each scope
        self._missed: OrderedDict[str, float] = OrderedDict()  # channel -> end of *cache_miss_s*
        self._max_held = MAX_HELD

    def __iter__(self) -> Iterator[ReportedState]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def standing(self, state: ReportedState) -> tuple[str, Standing]:
        """Return the scope and the standing of a reported state."""
        known = self._states[state]
        return (known, Standing.CONFIRMED) if isinstance(known, str) else known[3:]

    def take(self, change: Change, now: float, scope: str = "") -> Outcome:
        """Take a change of *scope*; return its outcome."""
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
        """Handle that a cache channel has an event again."""
        self._missed.pop(channel, None)

    def elapse(self, now: float, limit: int) -> list[Removal]:
        """
        Return the removals that are to be reported now, *limit* at most.

        The removals of a channel's members come before that of the channel.
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
        """Return the time at which the next removal is to be reported, None if none is held."""
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
        Load the state that an earlier process of this server, or another node, has reported.

        For removals that were held, the time begins again.
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
        """Hold the removals of all states of *scope*; unless confirmed, they are due at *until*."""
        states = [
            state
            for state, known in self._states.items()
            if (known if isinstance(known, str) else known.scope) == scope
        ]
        self._make_room(len(states))
        # Members first: of two removals with the same time, the one held first is reported first.
        for state in sorted(states, key=lambda state: state.about == CHANNEL):
            self._hold(state, until, scope, Standing.UNCONFIRMED)

    def end_holds(self, now: float) -> None:
        """End all holds: `elapse` now returns every removal."""
        held, self._heap = sorted(self._heap), []
        for hold in held:
            if self._states.get(hold.state) is hold:
                self._hold(hold.state, now, hold.scope, hold.standing)

    def forget(
        self, not_reported: Callable[[ReportedState], bool]
    ) -> Iterator[list[ReportedState]]:
        """
        Remove the states that no receiver selects any longer, and yield them, one piece at a time.

        A piece has FORGOTTEN_AT_ONCE states; *not_reported* is called for each of them when its
        piece begins. States that are reported between two pieces are not checked.
        """
        left = list(self._states)
        while left:
            piece, left[-FORGOTTEN_AT_ONCE:] = left[-FORGOTTEN_AT_ONCE:], []
            forgotten = [state for state in piece if state in self._states and not_reported(state)]
            for state in forgotten:
                self._retract(state)
            yield forgotten
        # If no state is left, the rest of the heap is stale, and may be as large as the states
        # were. It is removed in pieces until a state is reported again.
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
        """Raise the limit so that *more* removals can be held until their time."""
        self._max_held = max(MAX_HELD, 2 * (more + len(self._heap)))

    def _same(self, scope: str) -> str:
        return self._scopes.setdefault(scope, scope)

    def _last_member_goes(self, state: ReportedState) -> tuple[float, int] | None:
        """Return the latest hold of the members of this channel, None if no member is held."""
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
