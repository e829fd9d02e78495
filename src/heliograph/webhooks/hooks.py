"""
The shell: takes what occurs in apps, keeps it, and has it sent.

The only place here that knows the event loop, and the only one that sees beliefs, outboxes, store
and sender together. Everything but the tries themselves happens on the loop, without awaiting.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from heliograph.apps import App, Webhook
from heliograph.engine.answers import Happening
from heliograph.hub.facts import Event
from heliograph.summary import Summary, counted
from heliograph.webhooks import payload
from heliograph.webhooks.beliefs import Belief, Beliefs, belief_of
from heliograph.webhooks.rows import Kept
from heliograph.webhooks.schedule import Agenda, Delivery, Entry, Limits, Outbox
from heliograph.webhooks.store import Store

logger = logging.getLogger(__name__)

REMOVALS_AT_ONCE = 200
"""
Removals sent before the loop turns, some 15 µs each: one client may leave thousands of channels,
and a whole data centre may lose its connections at once.
"""


class Sender(Protocol):
    """What webhooks ask of a network."""

    async def post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> str | None:
        """Return None when the receiver has taken it, else why not, in words for a log."""

    async def close(self) -> None:
        """Let go of every connection."""


@dataclass(slots=True)
class Counters:
    """What became of it all. An event counts once for each receiver, a delivery once."""

    queued: int = 0  # events
    sent: int = 0  # deliveries that arrived
    retried: int = 0  # tries after the first
    failed: int = 0  # deliveries given up
    dropped: int = 0  # events that found no room, or whose receiver was taken out


class _Receiver:
    """One webhook of an app, and what it is owed."""

    __slots__ = ("app", "failing", "id", "label", "lost", "outbox", "webhook")

    def __init__(self, receiver_id: str, app: App, webhook: Webhook, limits: Limits) -> None:
        self.id = receiver_id
        self.app = app
        self.webhook = webhook
        self.label = payload.label(webhook)
        self.outbox = Outbox(
            limits, batching=app.webhook_batching, reserved_for=payload.reserved_for(webhook)
        )
        self.failing = False
        self.lost = 0  # events dropped in this episode

    @property
    def name(self) -> str:
        """What a log calls it."""
        return f"app {self.app.id}: webhook {self.label}"

    def configure(self, app: App, webhook: Webhook) -> None:
        self.app = app
        self.webhook = webhook
        self.outbox.batching = app.webhook_batching
        self.outbox.reserve(payload.reserved_for(webhook))

    def wants(self, kind: str, channel: str | None) -> bool:
        webhook = self.webhook
        if kind not in webhook.events:
            return False
        if channel is None:
            return not webhook.channel_prefix
        return channel.startswith(webhook.channel_prefix)


class _Audience:
    """The receivers of one app, and what they believe."""

    __slots__ = ("app", "beliefs", "receivers")

    def __init__(self, app: App, limits: Limits) -> None:
        self.app = app
        self.beliefs = Beliefs(limits.grace_s, limits.cache_miss_s)
        self.receivers: list[_Receiver] = []

    @property
    def wants(self) -> set[tuple[frozenset[str], str]]:
        """The kinds of events, and the beginnings of channels, that its receivers ask for."""
        hooks = [receiver.webhook for receiver in self.receivers]
        return {(frozenset(hook.events), hook.channel_prefix) for hook in hooks}

    def wanting(self, kind: str, channel: str | None) -> list[_Receiver]:
        return [receiver for receiver in self.receivers if receiver.wants(kind, channel)]

    def unwanted(self, belief: Belief) -> bool:
        removal = belief.removal()
        return not self.wanting(payload.KINDS[type(removal)], payload.channel_of(removal))


class Webhooks:
    """
    What apps are told of what happens in them: `configure`, `start`, `record`, `stop`.

    *now_s* reads the wall clock, which bodies carry; *monotonic* the clock that everything is
    timed by; *random* is a chance from 0 to 1. What was kept and has not come back *settle_s*
    after the start is told as gone. *sender* is made when there is somebody to send to.
    """

    def __init__(
        self,
        *,
        store: Store,
        now_s: Callable[[], float],
        monotonic: Callable[[], float],
        random: Callable[[], float],
        settle_s: float = 30.0,
        limits: Limits | None = None,
        sender: Callable[[float], Sender] | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self.counters = Counters()
        self._store = store
        self._now_s = now_s
        self._monotonic = monotonic
        self._random = random
        self._settle_s = settle_s
        self._limits = limits or Limits()
        self._make_sender = sender or _http_sender
        self._new_id = new_id
        self._sender: Sender | None = None
        self._audiences: dict[str, _Audience] = {}
        self._receivers: dict[str, _Receiver] = {}
        self._agenda: Agenda[_Audience | _Receiver] = Agenda()
        self._dirty: dict[_Receiver, None] = {}
        self._next_number = 1
        self._tries: set[asyncio.Task[None]] = set()
        self._recording = False
        self._working = False
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()

    @property
    def pending(self) -> int:
        """The events that receivers are owed now."""
        return sum(receiver.outbox.events for receiver in self._receivers.values())

    @property
    def store_failures(self) -> int:
        """How often something could not be kept."""
        return self._store.failures

    # -- Configuration -------------------------------------------------------------------

    def configure(self, apps: Iterable[App]) -> None:
        """
        Serve the webhooks of *apps*, and no others; before `start`, and whenever they change.

        A webhook is the same as before while its app and URL are: it keeps what it is owed. What
        a webhook that was removed or disabled is owed is dropped.
        """
        before, self._receivers = self._receivers, {}
        wanted = {name: audience.wants for name, audience in self._audiences.items()}
        audiences = {app.id: audience for app in apps if (audience := self._audience(app, before))}
        gone_apps = [self._audiences[name] for name in self._audiences.keys() - audiences.keys()]
        self._audiences = audiences
        for receiver in before.values():
            if receiver.id not in self._receivers:
                self._dismiss(receiver)
        for name, audience in audiences.items():
            # An app may have a hundred thousand channels, and most reloads change no webhook.
            if audience.wants != wanted.get(name):
                self._in_pieces(self._forget_unwanted(audience))
        for audience in gone_apps:
            if audience.beliefs:
                # At once, for the app may be back before its beliefs are out of memory.
                self._store.disbelieve_all(audience.app.id)
            self._in_pieces(audience.beliefs.forget(lambda _: True))
        self._dirty = dict.fromkeys(self._receivers.values())
        if self._recording and self._receivers:
            self._ready_sender()
        self._wake()

    def _audience(self, app: App, before: dict[str, _Receiver]) -> _Audience | None:
        """Return who is told of *app*, None where nobody is."""
        webhooks = [webhook for webhook in app.webhooks if webhook.enabled]
        if not webhooks or not app.keys:
            return None
        audience = self._audiences.get(app.id) or _Audience(app, self._limits)
        audience.app = app
        audience.receivers = []
        for webhook in webhooks:
            number = sum(receiver.webhook.url == webhook.url for receiver in audience.receivers)
            name = _receiver_id(app, webhook, number)
            receiver = before.get(name) or _Receiver(name, app, webhook, self._limits)
            receiver.configure(app, webhook)
            audience.receivers.append(receiver)
            self._receivers[name] = receiver
        return audience

    def _dismiss(self, receiver: _Receiver) -> None:
        outbox = receiver.outbox
        if outbox.events:
            self.counters.dropped += outbox.events
            logger.warning(
                "app %s: webhook %s was removed; %s dropped",
                receiver.app.id,
                receiver.label,
                counted(outbox.events, "event"),
            )
        for delivery in outbox.deliveries:
            self._store.finish(delivery.id, [entry.number for entry in delivery.entries])
        self._store.drop([entry.number for entry in outbox.waiting])

    def _forget_unwanted(self, audience: _Audience) -> Iterator[object]:
        """Forget, a piece at a time, what *audience* wants no more, while it is the app's own."""
        for forgotten in audience.beliefs.forget(audience.unwanted):
            for belief in forgotten:
                self._store.disbelieve(audience.app.id, belief)
            yield None
            if not self._working or self._audiences.get(audience.app.id) is not audience:
                return

    def _in_pieces(self, job: Iterator[object]) -> None:
        """Do a piece of *job* now, and another one in each turn of the event loop from now on."""
        for _ in job:
            self._loop.call_soon(self._in_pieces, job)
            return

    # -- A life --------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what was kept, and begin to send. Raises ConfigError."""
        self._loop = asyncio.get_running_loop()
        # Clients can cause any number of events, and each may find a receiver that fails.
        self._faults = Summary(logger, logging.ERROR, self._loop.call_later)
        self._losses = Summary(logger, logging.ERROR, self._loop.call_later)
        self._failures = Summary(logger, logging.WARNING, self._loop.call_later)
        self._recoveries = Summary(logger, logging.INFO, self._loop.call_later)
        kept = await self._store.open(self._on_kept, self._tell_all)
        now = self._monotonic()
        self._take_up_beliefs(kept, now)
        self._take_up_deliveries(kept, now)
        self._recording = self._working = True
        if self._receivers:
            self._ready_sender()
        self._dirty = dict.fromkeys(self._receivers.values())
        self._wake()

    def _ready_sender(self) -> Sender:
        if self._sender is None:
            self._sender = self._make_sender(self._limits.timeout_s)
        return self._sender

    def _take_up_beliefs(self, kept: Kept, now: float) -> None:
        by_app: dict[str, list[Belief]] = {}
        for app_id, belief in kept.beliefs:
            audience = self._audiences.get(app_id)
            if audience is None or audience.unwanted(belief):
                self._store.disbelieve(app_id, belief)
            else:
                by_app.setdefault(app_id, []).append(belief)
        for app_id, beliefs in by_app.items():
            self._audiences[app_id].beliefs.load(beliefs, now + self._settle_s)
            self._look_at(self._audiences[app_id])

    def _take_up_deliveries(self, kept: Kept, now: float) -> None:
        lost, unreadable = [], []
        formed: dict[tuple[str | None, str], list[Entry]] = {
            (one.id, one.receiver): [] for one in kept.deliveries
        }
        waiting: list[tuple[_Receiver, Entry]] = []
        for one in kept.events:
            self._next_number = one.number + 1
            receiver = self._receivers.get(one.receiver)
            happening = payload.read(one.text)
            if receiver is None:
                lost.append(one.number)
            elif happening is None:
                unreadable.append(one.number)
            else:
                stream = payload.stream_of(happening)  # what order is kept in must not be damaged
                entry = _entry(one.number, happening, stream, one.text, now)
                if (one.delivery, one.receiver) in formed:
                    formed[one.delivery, one.receiver].append(entry)
                else:
                    waiting.append((receiver, entry))
        for kept_delivery in kept.deliveries:
            receiver = self._receivers.get(kept_delivery.receiver)
            entries = formed[kept_delivery.id, kept_delivery.receiver]
            if receiver is None or not entries:
                self._store.finish(kept_delivery.id, [])
                continue
            delivery = Delivery(kept_delivery.id, kept_delivery.key, kept_delivery.time_ms, entries)
            receiver.outbox.restore(delivery, now)
        # Only now: what waits behind a delivery must find it there.
        for receiver, entry in waiting:
            self._queue(receiver, entry)
        self.counters.dropped += len(lost) + len(unreadable)
        self._store.drop(lost + unreadable)
        if lost:
            logger.warning(
                "webhooks: %s dropped: the webhook is no longer configured",
                counted(len(lost), "event"),
            )
        if unreadable:
            logger.error(
                "webhooks: %s dropped: the stored data is unreadable",
                counted(len(unreadable), "event"),
            )

    async def stop(self, timeout_s: float) -> None:
        """
        End, within about *timeout_s*; nothing is recorded any longer.

        Where the store is lasting, tries under way may end, and everything else stays in the
        store. Where it is not, held removals and everything pending is sent, as far as it can be.
        """
        if not self._recording:
            return
        self._recording = False
        deadline = self._loop.time() + timeout_s
        if self._store.lasting:
            self._working = False
            if self._tries:
                await asyncio.wait(self._tries, timeout=timeout_s)
        else:
            await self._hurry(deadline)
            self._working = False
        for attempt in list(self._tries):
            attempt.cancel()
        await asyncio.gather(*self._tries, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        if self._sender is not None:
            await self._sender.close()
        await self._store.close()

    async def _hurry(self, deadline: float) -> None:
        """Send everything now, held removals too."""
        now = self._monotonic()
        for audience in self._audiences.values():
            audience.beliefs.release(now)
            self._look_at(audience)
        for receiver in self._receivers.values():
            receiver.outbox.hurried = True
            self._dirty[receiver] = None
        self._work()
        while not self._quiet() and self._loop.time() < deadline:
            self._idle.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._idle.wait()
            except TimeoutError:
                break
        if self.pending:
            self.counters.dropped += self.pending
            logger.warning(
                "webhooks: the server stopped before %s could be delivered",
                counted(self.pending, "event"),
            )

    def _quiet(self) -> bool:
        held = any(audience.beliefs.due() is not None for audience in self._audiences.values())
        return not held and not self.pending

    # -- What occurs ---------------------------------------------------------------------

    def record(self, app_id: str, happening: Happening) -> None:
        """
        Take what occurred in an app; never raises.

        An Event that is `cached` is no client's: it only says that its channel is filled again,
        which ends the silence after a cache miss.
        """
        audience = self._audiences.get(app_id)
        if audience is None or not self._recording:
            return
        try:
            self._take(audience, happening)
        except Exception as error:  # noqa: BLE001 - a client caused it, and must not suffer from it
            self._faults.fault(f"app {app_id}: an event for webhooks could not be queued", error)

    def _take(self, audience: _Audience, happening: Happening) -> None:
        if isinstance(happening, Event) and happening.cached:
            audience.beliefs.filled(happening.channel)
            return
        channel = payload.channel_of(happening)
        if channel is not None and channel.startswith(payload.INTERNAL_PREFIX):
            return
        receivers = audience.wanting(payload.KINDS[type(happening)], channel)
        if not receivers:
            return
        now = self._monotonic()
        if audience.beliefs.take(happening, now):
            self._tell(audience, happening, receivers, now)
        else:
            self._look_at(audience)

    def _tell(
        self,
        audience: _Audience,
        happening: Happening,
        receivers: Sequence[_Receiver],
        now: float,
    ) -> None:
        """Owe *receivers* an event, and keep what they will believe by it in the same group."""
        self._keep_belief(audience.app.id, happening)
        stream, text = payload.stream_of(happening), payload.event(happening)
        for receiver in receivers:
            number, self._next_number = self._next_number, self._next_number + 1
            self._store.queue(number, receiver.id, stream, text)
            self.counters.queued += 1
            self._queue(receiver, _entry(number, happening, stream, text, now))
        self._wake()

    def _keep_belief(self, app_id: str, happening: Happening) -> None:
        concerned = belief_of(happening)
        if concerned is None:
            return
        belief, there = concerned
        if there:
            self._store.believe(app_id, belief)
        else:
            self._store.disbelieve(app_id, belief)

    def _queue(self, receiver: _Receiver, entry: Entry) -> None:
        dropped = receiver.outbox.put(entry)
        self._dirty[receiver] = None
        if dropped:
            self._store.drop([entry.number for entry in dropped])
            self.counters.dropped += len(dropped)
            if not receiver.lost:
                logger.error(
                    "app %s: the queue of webhook %s is full; events are dropped, those of"
                    " public channels first",
                    receiver.app.id,
                    receiver.label,
                )
            receiver.lost += len(dropped)

    # -- What is due ---------------------------------------------------------------------

    def _look_at(self, audience: _Audience) -> None:
        due = audience.beliefs.due()
        if due is not None:
            self._agenda.put(audience, due)
            self._wake()

    def _wake(self) -> None:
        if not self._woken and self._working:
            self._woken = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        """Do everything that is due, and see to it that we are called when the next thing is."""
        self._woken = False
        if not self._working:
            return
        now = self._monotonic()
        while (thing := self._agenda.take_one(now)) is not None:
            if isinstance(thing, _Receiver):
                self._dirty[thing] = None
            elif self._audiences.get(thing.app.id) is thing and self._elapse(thing, now):
                break  # the loop turns first
        dirty, self._dirty = self._dirty, {}
        for receiver in dirty:
            if self._receivers.get(receiver.id) is receiver:
                self._serve(receiver, now)
        self._set_timer()
        self._idle.set()

    def _elapse(self, audience: _Audience, now: float) -> bool:
        """Tell removals whose time has come; return whether there are more of them."""
        removals = audience.beliefs.elapse(now, REMOVALS_AT_ONCE)
        for removal in removals:
            kind, channel = payload.KINDS[type(removal)], payload.channel_of(removal)
            self._tell(audience, removal, audience.wanting(kind, channel), now)
        due = audience.beliefs.due()
        if due is not None:
            self._agenda.put(audience, due)
        return len(removals) == REMOVALS_AT_ONCE

    def _serve(self, receiver: _Receiver, now: float) -> None:
        """Make up deliveries, and begin tries, until neither makes room for the other."""
        while self._form(receiver, now) or self._begin(receiver, now):
            pass
        due = receiver.outbox.due()
        if due is not None:
            self._agenda.put(receiver, due)

    def _form(self, receiver: _Receiver, now: float) -> bool:
        now_ms, key = int(self._now_s() * 1000), receiver.app.keys[0].key
        delivery = receiver.outbox.form(now, now_ms, key, self._new_id)
        if delivery is None:
            return False
        numbers = [entry.number for entry in delivery.entries]
        self._store.deliver(delivery.id, receiver.id, key, now_ms, numbers)
        delivery.group = self._store.group
        return True

    def _begin(self, receiver: _Receiver, now: float) -> bool:
        receiver.outbox.kept(self._store.kept, now)
        delivery = receiver.outbox.begin(now)
        if delivery is None:
            return False
        if delivery.tries > 1:
            self.counters.retried += 1
        attempt = self._loop.create_task(
            self._try(receiver, delivery), name=f"webhook {delivery.id}"
        )
        self._tries.add(attempt)
        attempt.add_done_callback(self._tries.discard)
        return True

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._agenda.due()
        if due is not None:
            self._timer = self._loop.call_later(max(0.0, due - self._monotonic()), self._work)

    # -- Tries ---------------------------------------------------------------------------

    async def _try(self, receiver: _Receiver, delivery: Delivery) -> None:
        app, webhook = receiver.app, receiver.webhook
        secret = app.secret(delivery.key)
        if secret is None:  # the key was taken out since
            delivery.key = app.keys[0].key
            secret = app.keys[0].secret.encode()
        delivery.renew(int(self._now_s() * 1000), self._limits.max_body_age_s)
        body = payload.body(delivery.time_ms, (entry.text for entry in delivery.entries))
        headers = payload.headers(delivery.key, secret, body, delivery.id, webhook.headers)
        try:
            failure = await self._ready_sender().post(webhook.url, headers, body)
        except Exception as error:  # noqa: BLE001 - our fault; the others must not wait for it
            self._faults.fault(f"{receiver.name}: a request failed", error)
            failure = "internal error"
        if self._receivers.get(receiver.id) is receiver:
            self._tried(receiver, delivery, failure)

    def _tried(self, receiver: _Receiver, delivery: Delivery, failure: str | None) -> None:
        now = self._monotonic()
        done = True
        if failure is None:
            self.counters.sent += 1
            receiver.outbox.delivered(delivery, now)
            self._recovered(receiver)
        else:
            done = not receiver.outbox.failed(delivery, now, self._random())
            self._say_failure(receiver, delivery, failure, given_up=done)
        if done:
            self._store.finish(delivery.id, [entry.number for entry in delivery.entries])
            self._found_room(receiver)
        self._dirty[receiver] = None
        self._wake()

    def _say_failure(
        self, receiver: _Receiver, delivery: Delivery, failure: str, *, given_up: bool
    ) -> None:
        if given_up:
            self.counters.failed += 1
            if self._losses.first(receiver.name, f"{failure}; delivery dropped"):
                logger.error(
                    "%s: %s; delivery %s dropped after %s, %s lost",
                    receiver.name,
                    failure,
                    delivery.id,
                    counted(delivery.tries, "attempt"),
                    counted(len(delivery.entries), "event"),
                )
        elif not receiver.failing:
            self._failures.note(receiver.name, f"{failure}; trying again")
        receiver.failing = True

    def _recovered(self, receiver: _Receiver) -> None:
        if receiver.failing:
            receiver.failing = False
            self._recoveries.note(receiver.name, "accepts events again")

    def _found_room(self, receiver: _Receiver) -> None:
        if receiver.lost and not receiver.outbox.crowded:
            logger.warning(
                "app %s: the queue of webhook %s has room again; %s dropped",
                receiver.app.id,
                receiver.label,
                counted(receiver.lost, "event"),
            )
            receiver.lost = 0

    # -- What the store asks -------------------------------------------------------------

    def _on_kept(self) -> None:
        for receiver in self._receivers.values():
            if receiver.outbox.gated:
                self._dirty[receiver] = None
        if self._dirty:
            self._wake()

    def _tell_all(self) -> None:
        for audience in self._audiences.values():
            for belief in audience.beliefs:
                self._store.believe(audience.app.id, belief)
        for receiver in self._receivers.values():
            waiting = receiver.outbox.waiting
            deliveries = receiver.outbox.deliveries
            for entries in (waiting, *(delivery.entries for delivery in deliveries)):
                for entry in entries:
                    self._store.queue(entry.number, receiver.id, entry.stream, entry.text)
            for one in deliveries:
                numbers = [entry.number for entry in one.entries]
                self._store.deliver(one.id, receiver.id, one.key, one.time_ms, numbers)


def _entry(number: int, happening: Happening, stream: str, text: bytes, now: float) -> Entry:
    concerned = belief_of(happening)
    return Entry(
        number,
        stream,
        text,
        now,
        share=payload.share_of(happening),
        subject=None if concerned is None else concerned[0],
        appears=concerned is None or concerned[1],
    )


def _receiver_id(app: App, webhook: Webhook, number: int) -> str:
    """Return what a webhook is known by in a store; its URL may be a secret, and is not in it."""
    known_by = f"{app.id}\n{webhook.url}\n{number}"
    return hashlib.sha256(known_by.encode()).hexdigest()[:32]


def _http_sender(timeout_s: float) -> Sender:
    # aiohttp costs a tenth of a second and 15 MB: only where there is a webhook.
    from heliograph.webhooks.sender import HttpSender  # noqa: PLC0415 - see above

    return HttpSender(timeout_s)
