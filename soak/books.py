"""
The books: what must be true, and every place where it was not.

Pure. Knows channels, who is in them and what webhooks said; nothing of sockets or the server.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from soak.ledger import LEAVING_S, SENT_AWAY_S, Follower, Reader, Stream

T = TypeVar("T")

SHOWN = 5
"""Faults of a kind that are kept in words; of the others, the number."""


class Faults:
    """What does not balance, by the book that it is in."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, book: str, text: str) -> None:
        """Note a fault."""
        self.counts[book] += 1
        examples = self.examples.setdefault(book, [])
        if len(examples) < SHOWN:
            examples.append(text)

    def to(self, book: str) -> Callable[[str], None]:
        """Return what notes a fault in *book*."""
        return lambda text: self.add(book, text)

    def compare(self, book: str, what: str, found: Iterable[str], true: Iterable[str]) -> None:
        """Note where two sets differ."""
        found, true = set(found), set(true)
        if found != true:
            extra, missing = _some(found - true), _some(true - found)
            self.add(book, f"{what}: {extra} too many, {missing} missing")

    def lines(self) -> list[str]:
        """Say of each book what is wrong with it."""
        return [
            f"{book}: {count} faults, such as: {'; '.join(self.examples[book])}"
            for book, count in sorted(self.counts.items())
        ]


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return f"{len(names)} ({shown})" if names else "0"


class Channel:
    """One channel as it truly is: what was said there, and who is subscribed."""

    __slots__ = ("events", "name", "replays", "subscriptions", "whispers")

    def __init__(self, app: str, name: str) -> None:
        self.name = name
        self.replays = name.startswith("cache-")
        self.events = Stream(f"app {app}, {name}")
        self.whispers: dict[str, Stream] = {}
        """What clients said, by who said it."""
        self.subscriptions: set[Subscription] = set()

    @property
    def users(self) -> set[str]:
        """Who is present."""
        return {one.user_id for one in self.subscriptions if one.user_id is not None}

    def voice(self, speaker: str) -> Stream:
        """Return the stream of the client *speaker*, as its whispers name it."""
        stream = self.whispers.get(speaker)
        if stream is None:
            stream = Stream(f"{self.events.name}, client {speaker}")
            self.whispers[speaker] = stream
        return stream


@dataclass(frozen=True, slots=True)
class Position:
    """A position, as the server sends it."""

    epoch: str
    offset: int


@dataclass(slots=True, eq=False)
class Subscription:
    """
    One client's place in a channel, from asking for it until it is given up.

    With a *follower*, the client asked for positions, and continues what earlier ones began.
    """

    channel: Channel
    socket_id: str
    asked: float
    faults: Faults
    user_id: str | None = None
    follower: Follower | None = None
    acknowledged: float = 0.0
    left: float = 0.0
    owed_until: float = 0.0
    roster: set[str] = field(default_factory=set)
    _events: Reader | None = None
    _announced: Position | None = None  # of the event that the next message is
    _whispers: dict[str, Reader] = field(default_factory=dict)

    def acknowledge(self, now: float) -> None:
        """The server said that the subscription is there."""
        self.acknowledged = now
        if not self.left:
            self.channel.subscriptions.add(self)
        if self.follower is None:
            self._events = self._reader(self.channel.events, replays=self.channel.replays)

    def _reader(self, stream: Stream, *, replays: bool = False) -> Reader:
        return Reader(
            stream,
            self.socket_id,
            asked=self.asked,
            acknowledged=self.acknowledged,
            complain=self.faults.to("delivery"),
            replays=replays,
        )

    def hear(self, number: int) -> None:
        """An event of a publisher."""
        if self.follower is not None:
            announced, self._announced = self._announced, None
            if announced is None:
                text = f"{self.channel.name}: {self.socket_id} heard {number} without a position"
                self.faults.add("delivery", text)
            else:
                self.follower.hear(number, announced.epoch, announced.offset)
        elif self._events is None:
            self.faults.add("delivery", f"{self.channel.name}: heard before the acknowledgement")
        else:
            self._events.hear(number)

    def announce(self, position: Position) -> None:
        """The position of the event that the next message is."""
        if self.follower is None or self._announced is not None:
            text = f"{self.channel.name}: a position for {self.socket_id}, and no event"
            self.faults.add("delivery", text)
        self._announced = position

    def hear_whisper(self, speaker: str, number: int) -> None:
        """An event of another client."""
        reader = self._whispers.get(speaker)
        if reader is None:
            stream = self.channel.whispers.get(speaker)
            if stream is None or not self.acknowledged:
                text = f"{self.channel.name}: heard {speaker}, who said nothing"
                self.faults.add("delivery", text)
                return
            reader = self._whispers[speaker] = self._reader(stream)
        reader.hear(number)

    def appear(self, user_id: str) -> None:
        """Somebody is said to have come."""
        if user_id in self.roster:
            self.faults.add("presence", f"{self.channel.name}: {user_id} was added twice")
        self.roster.add(user_id)

    def vanish(self, user_id: str) -> None:
        """Somebody is said to have gone."""
        if user_id not in self.roster:
            text = f"{self.channel.name}: {user_id} was removed without being there"
            self.faults.add("presence", text)
        self.roster.discard(user_id)

    def leave(self, now: float, *, sent_away: bool = False) -> None:
        """The client gives it up or is *sent_away*, and is not in the channel from then on."""
        self.left = now
        self.owed_until = now - (SENT_AWAY_S if sent_away else LEAVING_S)
        self.channel.subscriptions.discard(self)

    def owed(self, until: float) -> int:
        """Return how many events that were accepted by *until* have not been heard."""
        return sum(reader.owed(until) for reader in self._readers())

    def close(self) -> None:
        """Complain of what should have come while it was there."""
        for reader in self._readers():
            reader.close(self.owed_until)

    def _readers(self) -> Iterable[Reader | Follower]:
        if self.follower is not None and self.acknowledged:
            yield self.follower
        if self._events is None:
            return
        yield self._events
        for speaker, stream in self.channel.whispers.items():
            if speaker not in self._whispers and stream.closed >= self.acknowledged:
                # A voice not heard yet; nobody hears itself, which is why it is left out.
                if speaker == self.socket_id:
                    continue
                self._whispers[speaker] = self._reader(stream)
        yield from self._whispers.values()


class Webhooks:
    """What the webhooks of one app have said, taken together."""

    def __init__(self, app: str, faults: Faults, channels: dict[str, Channel]) -> None:
        self.occupied: set[str] = set()
        self.present: set[tuple[str, str]] = set()
        self.received = 0
        self.repeated = 0
        self._app = app
        self._complain = faults.to("webhooks")
        self._channels = channels
        self._deliveries: set[str] = set()
        self._whispers: dict[Stream, Reader] = {}

    def is_repeat(self, delivery: str) -> bool:
        """Note a delivery; return whether it came before."""
        if delivery in self._deliveries:
            self.repeated += 1
            return True
        self._deliveries.add(delivery)
        return False

    def take(self, event: dict[str, str]) -> None:
        """Take one event, in the order in which they come."""
        self.received += 1
        channel = event["channel"]
        match event["name"]:
            case "channel_occupied":
                self._begin(self.occupied, channel, "occupied")
            case "channel_vacated":
                self._end(self.occupied, channel, "vacated")
            case "member_added":
                self._begin(self.present, (channel, event["user_id"]), "added")
            case "member_removed":
                self._end(self.present, (channel, event["user_id"]), "removed")
            case "client_event":
                self._hear(channel, event["data"])
            case "cache_miss":
                pass  # once for each time, more or less: nothing to balance
            case other:
                self._complain(f"app {self._app}: {other}, which was not asked for")

    def _begin(self, there: set[T], what: T, verb: str) -> None:
        if what in there:
            self._complain(f"app {self._app}: {what} {verb} twice")
        there.add(what)

    def _end(self, there: set[T], what: T, verb: str) -> None:
        if what not in there:
            self._complain(f"app {self._app}: {what} {verb} without being there")
        there.discard(what)

    def _hear(self, channel: str, data: str) -> None:
        speaker, number = read_whisper(data)
        stream = self._channels[channel].voice(speaker)
        reader = self._whispers.get(stream)
        if reader is None:
            reader = self._whispers[stream] = self._reader(stream)
        reader.hear(number)

    def _reader(self, stream: Stream) -> Reader:
        return Reader(stream, "webhook", asked=0, acknowledged=0, complain=self._complain)

    def owed(self, now: float) -> int:
        """Return how many whispers that were accepted by *now* were not told."""
        for channel in self._channels.values():
            for stream in channel.whispers.values():
                if stream not in self._whispers:
                    self._whispers[stream] = self._reader(stream)
        return sum(reader.owed(now) for reader in self._whispers.values())

    def close(self, now: float) -> None:
        """Complain of whispers that were not told, and begin anew."""
        self.owed(now)
        for reader in self._whispers.values():
            reader.close(now)
        self._whispers.clear()
        self._deliveries.clear()


def whisper(speaker: str, number: int) -> str:
    """Return the data of a client's event."""
    return f"{speaker} {number}"


def read_whisper(data: str) -> tuple[str, int]:
    """Return who said what, of the data of a client's event."""
    speaker, _, number = data.partition(" ")
    return speaker, int(number)
