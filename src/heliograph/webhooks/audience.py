"""
The receivers of one app, their queues, and the state that was reported to them.

Does not decide when changes are taken, or when events are stored or sent.
"""

import hashlib

from heliograph.config.apps import App, Webhook
from heliograph.webhooks import payload
from heliograph.webhooks.counts import LatestCounts
from heliograph.webhooks.debounce import Reported, ReportedState
from heliograph.webhooks.payload import Reportable
from heliograph.webhooks.schedule import Limits, Outbox


class WebhookReceiver:
    """One webhook of an app, and the queue of its events."""

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
        """The name in log messages."""
        return f"app {self.app.id}: webhook {self.label}"

    def configure(self, app: App, webhook: Webhook) -> None:
        """Apply new settings; the queue stays."""
        self.app = app
        self.webhook = webhook
        self.outbox.batching = app.webhook_batching
        self.outbox.reserve(payload.reserved_for(webhook))

    def wants(self, kind: str, channel: str | None) -> bool:
        """Return whether it receives events of *kind* on *channel*; None for events of users."""
        webhook = self.webhook
        if kind not in webhook.events:
            return False
        if channel is None:
            return not webhook.channel_prefix
        return channel.startswith(webhook.channel_prefix)


class Audience:
    """The receivers of one app, and the state that was reported to them."""

    __slots__ = ("app", "counts", "receivers", "reported")

    def __init__(self, app: App, limits: Limits) -> None:
        self.app = app
        self.reported = Reported(limits.grace_s, limits.cache_miss_s)
        self.counts = LatestCounts(limits.count_s)
        self.receivers: list[WebhookReceiver] = []

    @property
    def selection(self) -> set[tuple[frozenset[str], str]]:
        """The kinds of events, and the prefixes of channels, that its receivers select."""
        hooks = [receiver.webhook for receiver in self.receivers]
        return {(frozenset(hook.events), hook.channel_prefix) for hook in hooks}

    def wanting(self, change: Reportable) -> list[WebhookReceiver]:
        """Return the receivers of *change*."""
        kind, channel = payload.KINDS[type(change)], payload.channel_of(change)
        return [receiver for receiver in self.receivers if receiver.wants(kind, channel)]

    def not_reported(self, state: ReportedState) -> bool:
        """Return whether no receiver is notified of the end of *state*."""
        return not self.wanting(state.removal())

    def due(self) -> float | None:
        """Return the time of the next report of a removal or a number; None if none is held."""
        times = (self.reported.due(), self.counts.due())
        return min((time for time in times if time is not None), default=None)


def receiver_id(app: App, webhook: Webhook, number: int) -> str:
    """Return the name of a webhook in a store; it does not show the URL, which may be a secret."""
    known_by = f"{app.id}\n{webhook.url}\n{number}"
    return hashlib.sha256(known_by.encode()).hexdigest()[:32]
