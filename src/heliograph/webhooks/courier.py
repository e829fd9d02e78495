"""
Takes the changes that are owed to this node, stores the resulting events, and sends them.

The only module here that knows the event loop, and the only one that uses reported state, outboxes,
store and sender together. Everything except loading and the tries runs on the event loop without
awaiting.
"""

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from heliograph.config.apps import App
from heliograph.engine.answers import NOTHING_WANTED, CacheFilled, Change, Mark, Owed, Wants
from heliograph.hub.facts import SubscriptionCount
from heliograph.node.journal import Settle
from heliograph.observe.log_throttle import Summary, counted
from heliograph.webhooks import payload
from heliograph.webhooks.audience import Audience, WebhookReceiver, receiver_id
from heliograph.webhooks.debounce import Outcome, Standing, state_of
from heliograph.webhooks.payload import Reportable
from heliograph.webhooks.progress import Progress
from heliograph.webhooks.rows import Stored, StoredDelivery
from heliograph.webhooks.schedule import Agenda, Delivery, Limits, QueuedEvent
from heliograph.webhooks.store import Store

logger = logging.getLogger(__name__)

REMOVALS_AT_ONCE = 200
"""
Removals and numbers that are reported in one turn of the event loop, about 15 µs each: one client
may leave thousands of channels, and all clients of a data centre may disconnect at once.
"""

MAX_WAITING_BYTES = 64 << 20
"""Bytes of changes that wait until their apps are loaded; above, the store counts as failed."""


class Sender(Protocol):
    """The interface of `Webhooks` to the network."""

    async def post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> str | None:
        """Return None if the receiver has accepted the request, otherwise a reason for the log."""

    async def close(self) -> None:
        """Close all connections."""


@dataclass(slots=True)
class DeliveryCounters:
    """Counters of results. An event counts once for each receiver, a delivery counts once."""

    queued: int = 0  # events
    sent: int = 0  # deliveries that receivers accepted
    retried: int = 0  # tries after the first
    failed: int = 0  # deliveries given up
    dropped: int = 0  # events for which a queue was full, or whose webhook was removed


class Webhooks:
    """
    Sends the changes in apps to their webhooks.

    Call `configure`, `start` and `stop`; between them, the methods of `node.journal.OwedObserver`.
    If this node does not hold an app, it keeps, writes and sends nothing of the app.

    *now_s* reads the wall clock, for the time in bodies; *monotonic* reads the clock of all timers.
    *random* returns a number from 0 to 1. After a restart, a state that is not confirmed within
    *settle_s* is reported as ended. *sender* is called once there is a receiver.
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
        self.counters = DeliveryCounters()
        self._store = store
        self._now_s = now_s
        self._monotonic = monotonic
        self._random = random
        self._settle_s = settle_s
        self._limits = limits or Limits()
        self._make_sender = sender or _http_sender
        self._new_id = new_id
        self._sender: Sender | None = None
        self._audiences: dict[str, Audience] = {}
        self._receivers: dict[str, WebhookReceiver] = {}
        self._progress: dict[str, Progress] = {}  # by app
        self._unsettled: dict[str, Progress] = {}  # those with changes that are not settled
        self._agenda: Agenda[Audience | WebhookReceiver] = Agenda()
        self._dirty: dict[WebhookReceiver, None] = {}
        self._next_number = 1
        self._tries: dict[asyncio.Task[None], WebhookReceiver] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._started = False
        self._stopped = False
        self._working = False
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()

    @property
    def pending(self) -> int:
        """The number of events that are not delivered yet."""
        return sum(receiver.outbox.events for receiver in self._receivers.values())

    @property
    def store_failures(self) -> int:
        """The number of failures of the store."""
        return self._store.failures

    # -- Configuration -------------------------------------------------------------------

    def configure(self, apps: Iterable[App]) -> None:
        """
        Serve the webhooks of *apps*, and no others. Call it before `start` and after each change.

        A webhook with the same app and the same URL keeps its queue. The queue of a webhook that
        was removed or disabled is dropped.
        """
        before, self._receivers = self._receivers, {}
        selected = {name: audience.selection for name, audience in self._audiences.items()}
        audiences = {app.id: audience for app in apps if (audience := self._audience(app, before))}
        gone_apps = [self._audiences[name] for name in self._audiences.keys() - audiences.keys()]
        self._audiences = audiences
        for receiver in before.values():
            if receiver.id not in self._receivers:
                self._dismiss(receiver)
        for name, audience in audiences.items():
            # An app may have a hundred thousand channels, and most reloads change no webhook.
            if audience.selection != selected.get(name):
                self._in_pieces(self._forget_not_reported(audience))
        for audience in gone_apps:
            if self._started and audience.app.id in self._progress:
                # At once, because the app may be added again before its state is out of memory.
                # With the receivers, because their queues may not be loaded yet.
                receivers = [receiver.id for receiver in audience.receivers]
                self._store.clear(audience.app.id, receivers)
            self._in_pieces(audience.reported.forget(lambda _: True))
        self._dirty = dict.fromkeys(self._receivers.values())
        if self._working and self._receivers:
            self._ready_sender()
        self._wake()

    def _audience(self, app: App, before: dict[str, WebhookReceiver]) -> Audience | None:
        """Return the receivers of *app*, None if it has none."""
        webhooks = [webhook for webhook in app.webhooks if webhook.enabled]
        if not webhooks or not app.keys:
            return None
        audience = self._audiences.get(app.id) or Audience(app, self._limits)
        audience.app = app
        audience.receivers = []
        for webhook in webhooks:
            number = sum(receiver.webhook.url == webhook.url for receiver in audience.receivers)
            name = receiver_id(app, webhook, number)
            receiver = before.get(name) or WebhookReceiver(name, app, webhook, self._limits)
            receiver.configure(app, webhook)
            audience.receivers.append(receiver)
            self._receivers[name] = receiver
        return audience

    def _dismiss(self, receiver: WebhookReceiver) -> None:
        app_id, outbox = receiver.app.id, receiver.outbox
        if outbox.events:
            self.counters.dropped += outbox.events
            logger.warning(
                "app %s: webhook %s was removed; %s dropped",
                app_id,
                receiver.label,
                counted(outbox.events, "event"),
            )
        for delivery in outbox.deliveries:
            self._store.finish(app_id, delivery.id, _numbers(delivery.events))
        self._store.drop(app_id, _numbers(outbox.waiting))

    def _forget_not_reported(self, audience: Audience) -> Iterator[object]:
        """Remove states without a receiver, in pieces, until the app has another audience."""
        for forgotten in audience.reported.forget(audience.not_reported):
            for state in forgotten:
                self._store.retract(audience.app.id, state)
            yield None
            if not self._working or self._audiences.get(audience.app.id) is not audience:
                return

    def _in_pieces(self, job: Iterator[object]) -> None:
        """Do one piece of *job* now, and one in each following turn of the event loop."""
        for _ in job:
            self._loop.call_soon(self._in_pieces, job)
            return

    # -- Start and stop ------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, and load the data of the apps that are held. Raises ConfigError."""
        self._loop = asyncio.get_running_loop()
        # Clients can cause any number of events, and each of them may fail to be delivered.
        self._faults = Summary(logger, logging.ERROR, self._loop.call_later)
        self._losses = Summary(logger, logging.ERROR, self._loop.call_later)
        self._failures = Summary(logger, logging.WARNING, self._loop.call_later)
        self._recoveries = Summary(logger, logging.INFO, self._loop.call_later)
        stored = await self._store.open(self._on_kept, self._write_all)
        self._started = self._working = True
        if self._receivers:
            self._ready_sender()
        by_app = self._by_app(stored)
        for app_id, progress in list(self._progress.items()):
            self._take_over(app_id, progress, by_app.get(app_id) or Stored())
        self._dirty = dict.fromkeys(self._receivers.values())
        self._wake()

    def _ready_sender(self) -> Sender:
        if self._sender is None:
            self._sender = self._make_sender(self._limits.timeout_s)
        return self._sender

    def _by_app(self, stored: Stored) -> dict[str, Stored]:
        """Group *stored* by app, and drop the data of removed apps and webhooks."""
        apps: defaultdict[str, Stored] = defaultdict(Stored)
        for state in stored.states:
            apps[state.app_id].states.append(state)
        for count in stored.counts:
            apps[count.app_id].counts.append(count)
        for mark in stored.marks:
            apps[mark.app_id].marks.append(mark)
        for app_id in apps.keys() - self._audiences.keys():
            self._store.clear(app_id, ())
        lost = []
        for event in stored.events:
            self._next_number = max(self._next_number, event.number + 1)
            if event.receiver in self._receivers:
                apps[self._receivers[event.receiver].app.id].events.append(event)
            else:
                lost.append(event.number)
        for delivery in stored.deliveries:
            if delivery.receiver in self._receivers:
                apps[self._receivers[delivery.receiver].app.id].deliveries.append(delivery)
            else:
                self._store.finish("", delivery.id, ())
        self._store.drop("", lost)
        self.counters.dropped += len(lost)
        if lost:
            logger.warning(
                "webhooks: %s dropped: the webhook is no longer configured",
                counted(len(lost), "event"),
            )
        return apps

    async def _load(self, app_id: str, progress: Progress) -> None:
        """Load the data of an app from the store, unless the app is released meanwhile."""
        receivers = [one.id for one in self._receivers.values() if one.app.id == app_id]
        stored = await self._store.load(app_id, receivers)
        if self._working and self._progress.get(app_id) is progress:
            self._take_over(app_id, progress, stored)
            self._wake()

    def _take_over(self, app_id: str, progress: Progress, stored: Stored) -> None:
        audience = self._audiences.get(app_id)
        if audience is None:
            self._store.clear(app_id, ())
        else:
            now = self._monotonic()
            self._take_over_states(audience, stored, now)
            self._take_over_events(audience, stored, now)
            self._schedule(audience)
        progress.load(one.mark for one in stored.marks)
        for call in progress.take_waiting():
            if isinstance(call, Mark):
                self._restart(app_id, progress, call)
            else:
                self._take_all(app_id, progress, call)

    def _take_over_states(self, audience: Audience, stored: Stored, now: float) -> None:
        app_id, wanted = audience.app.id, []
        for _, state, scope, standing in stored.states:
            if audience.not_reported(state):
                self._store.retract(app_id, state)
            else:
                wanted.append((state, scope, standing))
        audience.reported.load(wanted, now, self._settle_s)
        audience.counts.load(((channel, number) for _, channel, number in stored.counts), now)

    def _take_over_events(self, audience: Audience, stored: Stored, now: float) -> None:
        app_id, unreadable, gone = audience.app.id, [], []
        formed: dict[tuple[str | None, str], list[QueuedEvent]] = {
            (one.id, one.receiver): [] for one in stored.deliveries
        }
        waiting: list[tuple[WebhookReceiver, QueuedEvent]] = []
        for one in stored.events:
            # Numbers of another node: a new event must not replace one of its events.
            self._next_number = max(self._next_number, one.number + 1)
            receiver = self._receivers.get(one.receiver)
            change = payload.read(one.text)
            if change is None:
                unreadable.append(one.number)
            elif receiver is None:  # it was removed meanwhile
                gone.append(one.number)
            else:
                stream = payload.stream_of(change)  # decides order; the stored one may be damaged
                event = _queued(one.number, change, stream, one.text, now)
                if (one.delivery, one.receiver) in formed:
                    formed[one.delivery, one.receiver].append(event)
                else:
                    waiting.append((receiver, event))
        for old in stored.deliveries:
            receiver = self._receivers.get(old.receiver)
            events = formed[old.id, old.receiver]
            if receiver is None or not events:
                self._store.finish(app_id, old.id, ())
            else:
                receiver.outbox.restore(Delivery(old.id, old.key, old.time_ms, events), now)
                self._dirty[receiver] = None
        # After the deliveries: an event of the same stream waits behind its delivery.
        for receiver, event in waiting:
            self._queue(receiver, event)
        self.counters.dropped += len(unreadable) + len(gone)
        self._store.drop(app_id, [*unreadable, *gone])
        if unreadable:
            logger.error(
                "webhooks: %s dropped: the stored data is unreadable",
                counted(len(unreadable), "event"),
            )

    async def stop(self, timeout_s: float) -> None:
        """
        Stop within about *timeout_s*; later changes are ignored.

        If the store is lasting, current tries may finish, and everything else stays in the store.
        Otherwise, held removals and all pending events are sent, as far as the time allows.
        """
        if not self._started or self._stopped:
            return
        self._stopped = True
        deadline = self._loop.time() + timeout_s
        if self._store.lasting:
            self._working = False
            if self._tries:
                await asyncio.wait(self._tries, timeout=timeout_s)
        else:
            await self._hurry(deadline)
            self._working = False
        ending = [*self._tries, *self._loads]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        if self._sender is not None:
            await self._sender.close()
        await self._store.close()

    async def _hurry(self, deadline: float) -> None:
        """Send everything now, including held removals."""
        now = self._monotonic()
        for audience in self._audiences.values():
            audience.reported.end_holds(now)
            audience.counts.end_intervals(now)
            self._schedule(audience)
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
        held = any(
            audience.reported.due() is not None or audience.counts.pending
            for audience in self._audiences.values()
        )
        return not held and not self.pending

    # -- Changes -------------------------------------------------------------------------

    def wants(self, app: App) -> Wants:
        """Return the kinds of changes that the enabled webhooks of *app* select."""
        if not app.keys:
            return NOTHING_WANTED
        kinds = {kind for webhook in app.webhooks if webhook.enabled for kind in webhook.events}
        return Wants(
            occupancy="channel_existence" in kinds,
            members="presence" in kinds,
            users="user_presence" in kinds,
            cache="cache_miss" in kinds,
            counts="subscription_count" in kinds,
            client_events="client_event" in kinds,
        )

    def hold(self, app_id: str, term: str, settle: Settle) -> None:  # noqa: ARG002 - what was taken in one term stays taken in the next
        """Begin to take the changes of an app; may be called before or after `start`."""
        progress = self._progress.get(app_id)
        if progress is not None:
            progress.settle = settle
            progress.settle_again()
            return
        progress = self._progress[app_id] = Progress(settle)
        if self._working:
            load = self._loop.create_task(
                self._load(app_id, progress), name=f"webhooks of {app_id}"
            )
            self._loads.add(load)
            load.add_done_callback(self._loads.discard)

    def owe(self, app_id: str, changes: Sequence[Owed]) -> None:
        """Take changes of an app that is held; changes that were taken before are skipped."""
        progress = self._progress.get(app_id)
        if progress is None or self._stopped:
            return
        if progress.loaded:
            self._take_all(app_id, progress, changes)
        else:
            progress.wait(changes)
            loading = (one.waiting_bytes for one in self._progress.values() if not one.loaded)
            if self._started and sum(loading) > MAX_WAITING_BYTES:
                self._store.give_up()

    def restart(self, app_id: str, scope: str, epoch: str) -> None:
        """Mark all reported states of *scope* as unconfirmed, once for each epoch."""
        progress = self._progress.get(app_id)
        if progress is None or self._stopped:
            return
        mark = Mark(scope, epoch, 0)
        if progress.loaded:
            self._restart(app_id, progress, mark)
        else:
            progress.waiting.append(mark)

    def release(self, app_id: str) -> None:
        """Drop an app from memory at once; nothing more of it is written or sent."""
        if self._progress.pop(app_id, None) is None:
            return
        self._unsettled.pop(app_id, None)
        if app_id in self._audiences:  # otherwise only its removal is to be written
            self._store.abandon(app_id)
        for attempt, receiver in self._tries.items():
            if receiver.app.id == app_id:
                attempt.cancel()
        audience = self._audiences.pop(app_id, None)
        if audience is None:
            return
        fresh = self._audience(audience.app, {})
        if fresh is not None:
            self._audiences[app_id] = fresh
        self._in_pieces(audience.reported.forget(lambda _: True))

    def _restart(self, app_id: str, progress: Progress, mark: Mark) -> None:
        """Take a restart, and store its mark in the same group as its results."""
        if not progress.restart(mark):
            return
        audience = self._audiences.get(app_id)
        if audience is not None:
            self._store.unconfirm(app_id, mark.scope)
            self._store.mark(app_id, mark)
            audience.reported.restart(mark.scope, self._monotonic() + self._settle_s)
            self._schedule(audience)

    def _take_all(self, app_id: str, progress: Progress, changes: Sequence[Owed]) -> None:
        """Take *changes*, and store the last mark of each scope in the same group."""
        audience = self._audiences.get(app_id)
        marks = {}
        for owed in progress.take(changes):
            marks[owed.mark.scope] = owed.mark
            if audience is not None:
                try:
                    self._take(audience, owed.change, owed.mark.scope)
                except Exception as error:  # noqa: BLE001 - a client caused it, and must not suffer from it
                    self._faults.fault(f"app {app_id}: an event for webhooks is lost", error)
        if not marks:
            return
        if audience is not None:
            for mark in marks.values():
                self._store.mark(app_id, mark)
        progress.give(marks.values(), 0 if audience is None else self._store.group)
        self._unsettled[app_id] = progress
        self._wake()  # settles later, because the engine is the caller here

    def _take(self, audience: Audience, change: Change, scope: str) -> None:
        if isinstance(change, CacheFilled):
            audience.reported.filled(change.channel)
            return
        channel = payload.channel_of(change)
        if channel is not None and channel.startswith(payload.INTERNAL_PREFIX):
            return
        receivers = audience.wanting(change)
        if not receivers:
            return
        app_id, now = audience.app.id, self._monotonic()
        if isinstance(change, SubscriptionCount):
            if audience.counts.take(change.channel, change.count, now):
                self._report(audience, change, receivers, now)
            else:
                self._store.keep_count(app_id, change.channel, change.count)
            self._schedule(audience)
            return
        outcome = audience.reported.take(change, now, scope)
        if outcome is Outcome.REPORT:
            self._keep_state(app_id, change, scope)
            self._report(audience, change, receivers, now)
        elif outcome is not Outcome.NOTHING:
            concerned = state_of(change)
            assert concerned is not None  # noqa: S101 - only states are confirmed or held
            standing = audience.reported.standing(concerned[0])
            self._store.report(app_id, concerned[0], *standing)
            self._schedule(audience)

    def _keep_state(self, app_id: str, change: Reportable, scope: str) -> None:
        """Store the state that *change* reports, in the same group as the event."""
        concerned = state_of(change)
        if concerned is not None:
            self._store.report(app_id, concerned[0], scope, Standing.CONFIRMED)

    def _report(
        self,
        audience: Audience,
        change: Reportable,
        receivers: Sequence[WebhookReceiver],
        now: float,
    ) -> None:
        """Queue an event for *receivers*."""
        stream, text = payload.stream_of(change), payload.event(change)
        for receiver in receivers:
            number, self._next_number = self._next_number, self._next_number + 1
            self._store.queue(audience.app.id, number, receiver.id, stream, text)
            self.counters.queued += 1
            self._queue(receiver, _queued(number, change, stream, text, now))
        self._wake()

    def _queue(self, receiver: WebhookReceiver, event: QueuedEvent) -> None:
        dropped = receiver.outbox.put(event)
        self._dirty[receiver] = None
        if dropped:
            self._store.drop(receiver.app.id, _numbers(dropped))
            self.counters.dropped += len(dropped)
            if not receiver.lost:
                logger.error(
                    "app %s: the queue of webhook %s is full; events are dropped, those of"
                    " public channels first",
                    receiver.app.id,
                    receiver.label,
                )
            receiver.lost += len(dropped)

    # -- Timers and due work -------------------------------------------------------------

    def _schedule(self, audience: Audience) -> None:
        due = audience.due()
        if due is not None:
            self._agenda.put(audience, due)
            self._wake()

    def _wake(self) -> None:
        if not self._woken and self._working:
            self._woken = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        """Do all work that is due, and set the timer for the next."""
        self._woken = False
        if not self._working:
            return
        self._settle()
        now = self._monotonic()
        while (thing := self._agenda.take_one(now)) is not None:
            if isinstance(thing, WebhookReceiver):
                self._dirty[thing] = None
            elif self._audiences.get(thing.app.id) is thing and self._elapse(thing, now):
                break  # the loop turns first
        dirty, self._dirty = self._dirty, {}
        for receiver in dirty:
            if self._receivers.get(receiver.id) is receiver:
                self._serve(receiver, now)
        self._set_timer()
        self._idle.set()

    def _elapse(self, audience: Audience, now: float) -> bool:
        """Report the removals and numbers that are due; return whether there may be more."""
        app_id = audience.app.id
        removals = audience.reported.elapse(now, REMOVALS_AT_ONCE)
        for removal in removals:
            concerned = state_of(removal)
            assert concerned is not None  # noqa: S101 - a removal is of a state
            self._store.retract(app_id, concerned[0])
            self._report(audience, removal, audience.wanting(removal), now)
        numbers = audience.counts.elapse(now, REMOVALS_AT_ONCE - len(removals))
        for channel, number in numbers:
            self._store.drop_count(app_id, channel)
            count = SubscriptionCount(channel, number)
            self._report(audience, count, audience.wanting(count), now)
        due = audience.due()
        if due is not None:
            self._agenda.put(audience, due)
        return len(removals) + len(numbers) == REMOVALS_AT_ONCE

    def _serve(self, receiver: WebhookReceiver, now: float) -> None:
        """Form deliveries and begin tries, until neither is possible."""
        while self._form(receiver, now) or self._begin(receiver, now):
            pass
        due = receiver.outbox.due()
        if due is not None:
            self._agenda.put(receiver, due)

    def _form(self, receiver: WebhookReceiver, now: float) -> bool:
        now_ms, key = int(self._now_s() * 1000), receiver.app.keys[0].key
        delivery = receiver.outbox.form(now, now_ms, key, self._new_id)
        if delivery is None:
            return False
        self._keep_delivery(receiver, delivery)
        delivery.group = self._store.group
        return True

    def _keep_delivery(self, receiver: WebhookReceiver, delivery: Delivery) -> None:
        stored = StoredDelivery(delivery.id, receiver.id, delivery.key, delivery.time_ms)
        self._store.deliver(receiver.app.id, stored, _numbers(delivery.events))

    def _begin(self, receiver: WebhookReceiver, now: float) -> bool:
        receiver.outbox.kept(self._store.kept, now)
        delivery = receiver.outbox.begin(now)
        if delivery is None:
            return False
        if delivery.tries > 1:
            self.counters.retried += 1
        attempt = self._loop.create_task(
            self._try(receiver, delivery), name=f"webhook {delivery.id}"
        )
        self._tries[attempt] = receiver
        attempt.add_done_callback(self._tries.__delitem__)
        return True

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._agenda.due()
        if due is not None:
            self._timer = self._loop.call_later(max(0.0, due - self._monotonic()), self._work)

    # -- Tries ---------------------------------------------------------------------------

    async def _try(self, receiver: WebhookReceiver, delivery: Delivery) -> None:
        app, webhook = receiver.app, receiver.webhook
        secret = app.secret(delivery.key)
        if secret is None:  # the key was removed meanwhile
            delivery.key = app.keys[0].key
            secret = app.keys[0].secret.encode()
        delivery.renew(int(self._now_s() * 1000), self._limits.max_body_age_s)
        body = payload.body(delivery.time_ms, (event.text for event in delivery.events))
        headers = payload.headers(delivery.key, secret, body, delivery.id, webhook.headers)
        try:
            failure = await self._ready_sender().post(webhook.url, headers, body)
        except Exception as error:  # noqa: BLE001 - a fault of the server; must not delay the others
            self._faults.fault(f"{receiver.name}: a request failed", error)
            failure = "internal error"
        if self._receivers.get(receiver.id) is receiver:
            self._tried(receiver, delivery, failure)

    def _tried(self, receiver: WebhookReceiver, delivery: Delivery, failure: str | None) -> None:
        now = self._monotonic()
        done = True
        if failure is None:
            self.counters.sent += 1
            receiver.outbox.delivered(delivery, now)
            self._recovered(receiver)
        else:
            done = not receiver.outbox.failed(delivery, now, self._random())
            self._log_failure(receiver, delivery, failure, given_up=done)
        if done:
            self._store.finish(receiver.app.id, delivery.id, _numbers(delivery.events))
            self._found_room(receiver)
        self._dirty[receiver] = None
        self._wake()

    def _log_failure(
        self, receiver: WebhookReceiver, delivery: Delivery, failure: str, *, given_up: bool
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
                    counted(len(delivery.events), "event"),
                )
        elif not receiver.failing:
            self._failures.note(receiver.name, f"{failure}; trying again")
        receiver.failing = True

    def _recovered(self, receiver: WebhookReceiver) -> None:
        if receiver.failing:
            receiver.failing = False
            self._recoveries.note(receiver.name, "accepts events again")

    def _found_room(self, receiver: WebhookReceiver) -> None:
        if receiver.lost and not receiver.outbox.over_capacity:
            logger.warning(
                "app %s: the queue of webhook %s has room again; %s dropped",
                receiver.app.id,
                receiver.label,
                counted(receiver.lost, "event"),
            )
            receiver.lost = 0

    # -- Callbacks of the store ----------------------------------------------------------

    def _on_kept(self) -> None:
        self._settle()
        for receiver in self._receivers.values():
            if receiver.outbox.gated:
                self._dirty[receiver] = None
        if self._dirty:
            self._wake()

    def _settle(self) -> None:
        """Settle the changes whose results are all stored."""
        for app_id, progress in list(self._unsettled.items()):
            progress.keep(self._store.kept)
            if not progress.unsettled and self._unsettled.get(app_id) is progress:
                del self._unsettled[app_id]

    def _write_all(self) -> None:
        """Pass all data of the apps that are held to the store."""
        for app_id, progress in self._progress.items():
            audience = self._audiences.get(app_id)
            if audience is None or not progress.loaded:
                continue
            for state in audience.reported:
                self._store.report(app_id, state, *audience.reported.standing(state))
            for channel, number in audience.counts.pending.items():
                self._store.keep_count(app_id, channel, number)
            for mark in progress.taken:
                self._store.mark(app_id, mark)
            for receiver in audience.receivers:
                self._write_queue(receiver)

    def _write_queue(self, receiver: WebhookReceiver) -> None:
        deliveries = list(receiver.outbox.deliveries)
        for events in (receiver.outbox.waiting, *(one.events for one in deliveries)):
            for event in events:
                self._store.queue(
                    receiver.app.id, event.number, receiver.id, event.stream, event.text
                )
        for delivery in deliveries:
            self._keep_delivery(receiver, delivery)


def _numbers(events: Iterable[QueuedEvent]) -> list[int]:
    return [event.number for event in events]


def _queued(number: int, change: Reportable, stream: str, text: bytes, now: float) -> QueuedEvent:
    concerned = state_of(change)
    return QueuedEvent(
        number,
        stream,
        text,
        now,
        share=payload.share_of(change),
        subject=None if concerned is None else concerned[0],
        appears=concerned is None or concerned[1],
    )


def _http_sender(timeout_s: float) -> Sender:
    # aiohttp costs a tenth of a second and 15 MB, so it is imported only if there is a webhook.
    from heliograph.webhooks.sender import HttpSender  # noqa: PLC0415 - see above

    return HttpSender(timeout_s)
