"""
The hub: the channels of one app on this node, and their subscriptions.

Knows channels, subscribers and lanes. Knows nothing of JSON, sockets, time or other nodes: its
callers do. Nothing here awaits, so every operation is atomic for the event loop.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from heliograph.hub.channel import GONE, Channel, Counters, Lane, Subscriber, Subscription
from heliograph.hub.facts import Event, Fact, Position

# Compiled, a name that is not Final costs a lookup for each event.
_EVENT: Final = Event

FLUSH_BUDGET = 256
"""The most writes that one flush makes: about 2 ms of a core."""


class Hub:
    """
    The channels of one app on this node.

    *hurry* is called when the first event is to be flushed: the owner then calls `flush` at the end
    of the event loop's tick, and again while `pending`. *wake* is called when only members and
    counts are to be flushed: the owner may then call `flush` a little later. Without *hurry*,
    *wake* is called in both cases.
    """

    __slots__ = ("_channels", "_dirty", "_hurry", "_urgent", "_wake", "_walked", "counters")

    def __init__(
        self,
        wake: Callable[[], object],
        counters: Counters | None = None,
        hurry: Callable[[], object] | None = None,
    ) -> None:
        self._wake = wake
        self._hurry = hurry or wake
        self._urgent = False  # *hurry* was called since the last flush
        self._channels: dict[str, Channel] = {}
        self._dirty: deque[Channel] = deque()
        self._walked: deque[Channel] = deque()  # large channels in the middle of their flush
        self.counters = counters or Counters()

    def __contains__(self, channel: object) -> bool:
        return channel in self._channels

    def __len__(self) -> int:
        return len(self._channels)

    def subscribe(self, subscriber: Subscriber, name: str, lane: Lane) -> Subscription:
        """
        Write all facts of channel *name* from now on to *subscriber*, as *lane* encodes them.

        A subscriber may have several subscriptions to one channel; `unsubscribe` ends one, by its
        handle.
        """
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, self.counters)
        subscription = Subscription(channel, subscriber, lane, channel.next)
        channel.subscriptions[subscription] = None
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription: nothing more is written for it, pending facts included."""
        if subscription.since == GONE:
            raise AssertionError("a subscription ends once")
        channel = subscription.channel
        subscription.since = GONE
        del channel.subscriptions[subscription]
        if not channel.subscriptions:
            del self._channels[channel.name]

    def drop(self, subscriptions: Iterable[Subscription]) -> None:
        """End all of *subscriptions*, in time proportional to their number."""
        for subscription in subscriptions:
            self.unsubscribe(subscription)

    def publish(self, fact: Fact) -> None:
        """Queue *fact* for the present subscribers of its channel; later ones never receive it."""
        channel = self._channels.get(fact.channel)
        if channel is None:
            return
        channel.next += 1
        self.counters.facts += 1
        if type(fact) is _EVENT:
            if fact.position is not None:
                channel.position = fact.position
            if not self._urgent:
                self._urgent = True
                self._hurry()
        if channel.pending is not None:
            channel.pending.append(fact)
            return
        channel.pending = [fact]
        if channel.walk is None:
            self._dirty.append(channel)
            if len(self._dirty) == 1 and not self._walked and not self._urgent:
                self._wake()

    @property
    def pending(self) -> bool:
        """Whether any fact is to be flushed."""
        return bool(self._dirty or self._walked)

    def flush(self, budget: int = FLUSH_BUDGET) -> int:
        """
        Write pending facts to about *budget* subscribers; return the number of writes.

        Channels with new facts are flushed before a large channel goes on with its flush, so that a
        large channel never delays a small one for more than one call. Half of the budget is
        reserved for large channels.
        """
        self._urgent = False
        writes = 0
        share = budget // 2 if self._walked else budget
        for queue, limit in ((self._dirty, share), (self._walked, budget)):
            for _ in range(len(queue)):
                if writes >= limit:
                    break
                channel = queue.popleft()
                try:
                    writes += channel.flush(budget - writes)
                finally:
                    if channel.pending is not None or channel.walk is not None:
                        self._walked.append(channel)
        return writes

    def set_position(self, channel: str, position: Position) -> None:
        """Record that the last kept event of *channel* is at *position*, though it is not here."""
        found = self._channels.get(channel)
        if found is not None:
            found.position = position

    def count(self, channel: str) -> int:
        """Return the number of subscriptions to *channel* on this node."""
        found = self._channels.get(channel)
        return len(found.subscriptions) if found else 0

    def subscriber_ids(self, channel: str) -> list[str]:
        """Return the ids of the subscribers of *channel* on this node."""
        found = self._channels.get(channel)
        return [one.subscriber.id for one in found.subscriptions] if found else []
