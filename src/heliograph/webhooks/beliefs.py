"""
What receivers have been told is there, and what they will have to be told is gone.

One `Beliefs` is about one app: its occupied channels, the members of its presence channels,
its users online. Nothing is told twice, and what comes back in time was never gone. Knows of
time only what it is given, and nothing of how anybody is told.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from heliograph.engine.answers import CacheMiss, ChannelOccupied, ChannelVacated, Happening
from heliograph.hub.facts import MemberAdded, MemberRemoved, UserOffline, UserOnline

Removal = ChannelVacated | MemberRemoved | UserOffline

FORGOTTEN_AT_ONCE = 200
"""Beliefs that are looked at in one piece, some microseconds each."""

MAX_HELD = 100_000
"""
Removals held at a time; beyond, the oldest are reported before their time.

Clients that subscribe and unsubscribe in a loop leave one behind for each channel name that
they invent, 450 bytes each.
"""

MAX_MISSES = 10_000
"""Cache misses that are remembered; an older one may be reported again."""


# What a belief is about.
CHANNEL, MEMBER, USER = range(3)


class Belief(NamedTuple):
    """That a channel is occupied, a user in it, or a user (without a channel) online."""

    about: int
    channel: str
    user_id: str

    def removal(self) -> Removal:
        """Return what receivers are told when it is true no more."""
        if self.about == CHANNEL:
            return ChannelVacated(self.channel)
        if self.about == MEMBER:
            return MemberRemoved(self.channel, self.user_id)
        return UserOffline(self.user_id)


def belief_of(happening: Happening) -> tuple[Belief, bool] | None:
    """Return what it makes receivers believe (True) or no more believe (False), if anything."""
    match happening:
        case ChannelOccupied(channel):
            return Belief(CHANNEL, channel, ""), True
        case ChannelVacated(channel):
            return Belief(CHANNEL, channel, ""), False
        case MemberAdded(channel, member):
            return Belief(MEMBER, channel, member.user_id), True
        case MemberRemoved(channel, user_id):
            return Belief(MEMBER, channel, user_id), False
        case UserOnline(user_id):
            return Belief(USER, "", user_id), True
        case UserOffline(user_id):
            return Belief(USER, "", user_id), False
    return None


class Beliefs:
    """
    What the receivers of one app believe.

    A removal is held for *grace_s*, unless MAX_HELD are: where the channel or user returns
    meanwhile, neither is told. A cache miss is told once for a channel until it is `filled`, or for
    *cache_miss_s*, unless MAX_MISSES are remembered.
    """

    def __init__(self, grace_s: float, cache_miss_s: float) -> None:
        self._grace_s = grace_s
        self._cache_miss_s = cache_miss_s
        # What was told -> when its end is to be told, and which hold that was; None while it is
        # there.
        self._told: dict[Belief, tuple[float, int] | None] = {}
        self._members: dict[str, set[str]] = {}  # channel -> users believed to be in it
        # (when, n, what): n keeps the order of what ends at the same time. Entries that _told does
        # not agree with are stale.
        self._held: list[tuple[float, int, Belief]] = []
        self._holds = 0
        self._missed: OrderedDict[str, float] = OrderedDict()  # channel -> until when
        self._max_held = MAX_HELD

    def __iter__(self) -> Iterator[Belief]:
        return iter(self._told)

    def __len__(self) -> int:
        return len(self._told)

    def take(self, happening: Happening, now: float) -> bool:
        """Take what occurred; return whether receivers are to be told at once."""
        if isinstance(happening, CacheMiss):
            return self._miss(happening.channel, now)
        concerned = belief_of(happening)
        if concerned is None:
            return True
        belief, there = concerned
        if there:
            return self._appear(belief)
        if belief in self._told and self._told[belief] is None:
            self._hold(belief, now + self._grace_s)
        return False

    def filled(self, channel: str) -> None:
        """Note that a cache channel has an event again."""
        self._missed.pop(channel, None)

    def elapse(self, now: float, limit: int) -> list[Removal]:
        """
        Return what receivers are to be told now: removals that were held, *limit* at most.

        A channel's members go before the channel does.
        """
        removals: list[Removal] = []
        while self._held and len(removals) < limit:
            if self._held[0][0] > now and len(self._held) <= self._max_held:
                break
            when, number, belief = heapq.heappop(self._held)
            if self._told.get(belief) != (when, number):
                continue
            last = self._last_member_goes(belief)
            if last is not None and last > (when, number):
                self._hold(belief, last[0])
                continue
            self._untell(belief)
            removals.append(belief.removal())
        return removals

    def due(self) -> float | None:
        """Return when the next removal is to be told, if one is held."""
        while self._held:
            when, number, belief = self._held[0]
            if self._told.get(belief) == (when, number):
                return when if len(self._held) <= self._max_held else float("-inf")
            heapq.heappop(self._held)
        return None

    def load(self, beliefs: Iterable[Belief], until: float) -> None:
        """
        Take up what receivers were told in a former life of the server.

        What has not come back *until* then is told as gone.
        """
        beliefs = list(beliefs)
        self._max_held = max(MAX_HELD, 2 * len(beliefs))  # all of them are held, and have time
        # Members first: of two removals due at once, the first one held is the first one told.
        for belief in sorted(beliefs, key=lambda belief: belief.about == CHANNEL):
            self._tell(belief)
            self._hold(belief, until)

    def release(self, now: float) -> None:
        """Hold nothing any longer: `elapse` now returns every removal."""
        held, self._held = sorted(self._held), []
        for when, number, belief in held:
            if self._told.get(belief) == (when, number):
                self._hold(belief, now)

    def forget(self, unwanted: Callable[[Belief], bool]) -> Iterator[list[Belief]]:
        """
        Forget what nobody wants to be told about any longer, and yield it: a piece at a time.

        Looked at are FORGOTTEN_AT_ONCE a piece, by what *unwanted* says then. What is told between
        two pieces is not looked at.
        """
        left = list(self._told)
        while left:
            piece, left[-FORGOTTEN_AT_ONCE:] = left[-FORGOTTEN_AT_ONCE:], []
            forgotten = [belief for belief in piece if belief in self._told and unwanted(belief)]
            for belief in forgotten:
                self._untell(belief)
            yield forgotten
        # What is left of the heap is stale, and may be as large: until something is told again.
        while self._held and not self._told:
            del self._held[-FORGOTTEN_AT_ONCE:]
            yield []

    def _appear(self, belief: Belief) -> bool:
        if belief in self._told:
            self._told[belief] = None  # it returned in time, if it was gone at all
            return False
        self._tell(belief)
        return True

    def _tell(self, belief: Belief) -> None:
        self._told[belief] = None
        if belief.about == MEMBER:
            self._members.setdefault(belief.channel, set()).add(belief.user_id)

    def _untell(self, belief: Belief) -> None:
        del self._told[belief]
        if belief.about == MEMBER:
            members = self._members[belief.channel]
            members.discard(belief.user_id)
            if not members:
                del self._members[belief.channel]

    def _hold(self, belief: Belief, until: float) -> None:
        self._holds += 1
        self._told[belief] = (until, self._holds)
        heapq.heappush(self._held, (until, self._holds, belief))

    def _last_member_goes(self, belief: Belief) -> tuple[float, int] | None:
        """Return the last hold of those believed to be members of this channel, if any is."""
        if belief.about != CHANNEL:
            return None
        users = self._members.get(belief.channel, ())
        holds = (self._told[Belief(MEMBER, belief.channel, user_id)] for user_id in users)
        return max((hold for hold in holds if hold is not None), default=None)

    def _miss(self, channel: str, now: float) -> bool:
        while self._missed and next(iter(self._missed.values())) <= now:
            self._missed.popitem(last=False)
        if channel in self._missed:
            return False
        self._missed[channel] = now + self._cache_miss_s
        if len(self._missed) > MAX_MISSES:
            self._missed.popitem(last=False)
        return True
