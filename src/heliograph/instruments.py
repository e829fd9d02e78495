"""
Reads the counters of a server for a scrape of its metrics.

Knows the location of each counter. The parts of the server count in their own attributes, which
costs almost nothing; names and texts of metrics are made here, at the time of the scrape.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from heliograph import __version__
from heliograph.net.context import Context
from heliograph.node.node import Node
from heliograph.observe.metrics import Histogram, Values, render
from heliograph.observe.metrics_page import Requests
from heliograph.webhooks import Webhooks

DESCRIPTORS = "/proc/self/fd"

LAG_INTERVAL_S = 0.1
LAGS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class LagProbe:
    """A timer that measures how late the event loop calls it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lags = Histogram(LAGS_S)
        self._loop = loop
        self._due = loop.time() + LAG_INTERVAL_S
        self._timer = loop.call_at(self._due, self._on_timer)

    def _on_timer(self) -> None:
        now = self._loop.time()
        self.lags.observe(max(now - self._due, 0.0))
        self._due = now + LAG_INTERVAL_S
        self._timer = self._loop.call_at(self._due, self._on_timer)

    def stop(self) -> None:
        """Cancel the timer."""
        self._timer.cancel()


class Instruments:
    """
    The metrics of one server; `scrape` returns them.

    *history_max_bytes* is the bound of all kept events, None if the engine has another one.
    """

    def __init__(
        self,
        context: Context,
        node: Node,
        webhooks: Webhooks,
        *,
        engine: str,
        route_of: Callable[[bytes], str],
        history_max_bytes: int | None,
    ) -> None:
        self.requests = Requests(route_of)
        self._context = context
        self._node = node
        self._webhooks = webhooks
        self._engine = engine
        self._history_max_bytes = history_max_bytes
        self._began = context.now()
        self._lag = LagProbe(context.loop)

    def stop(self) -> None:
        """Stop measuring."""
        self._lag.stop()

    def scrape(self) -> bytes:
        """Return all metrics with their present values, as text."""
        return render(self._figures())

    def _figures(self) -> Iterator[tuple[str, Values]]:
        yield "heliograph_info", {(__version__,): 1}
        yield "heliograph_uptime_seconds", self._context.now() - self._began
        yield from self._of_clients()
        yield from self._of_traffic()
        yield from self._of_history()
        yield from self._of_requests()
        yield from self._of_webhooks()
        yield "heliograph_engine_up", {(self._engine,): int(self._node.engine_available)}
        yield "heliograph_engine_losses_total", self._node.tally.losses
        yield "heliograph_event_loop_lag_seconds", self._lag.lags
        yield "heliograph_descriptor_capacity", self._context.descriptors.capacity
        yield from _of_process()

    def _of_clients(self) -> Iterator[tuple[str, Values]]:
        tenants = list(self._node.tenants())
        yield "heliograph_connections", {(one.app.id,): len(one.sessions) for one in tenants}
        yield "heliograph_connections_opened_total", self._context.sockets_opened
        yield "heliograph_http_connections", len(self._context.http_connections)
        yield "heliograph_subscriptions", {(one.app.id,): one.subscriptions for one in tenants}
        yield (
            "heliograph_channels",
            {
                (one.app.id, kind): count
                for one in tenants
                for kind, count in sorted(one.channels_by_kind.items())
            },
        )
        yield "heliograph_users", {(one.app.id,): len(one.users) for one in tenants}

    def _of_traffic(self) -> Iterator[tuple[str, Values]]:
        context, counters = self._context, self._node.counters
        yield "heliograph_messages_received_total", context.messages_received
        yield "heliograph_messages_sent_total", context.messages_sent
        yield "heliograph_bytes_sent_total", context.bytes_sent
        yield "heliograph_bytes_received_total", context.bytes_received
        yield "heliograph_bytes_delivered_total", counters.bytes
        yield "heliograph_publishes_total", self._node.tally.publishes
        yield "heliograph_channel_messages_total", counters.facts
        yield "heliograph_facts_total", counters.facts
        yield "heliograph_deliveries_total", counters.deliveries
        yield "heliograph_writes_total", counters.writes
        yield "heliograph_encodings_total", counters.encodings
        yield "heliograph_slow_readers_total", context.slow_readers
        tally = self._node.tally
        yield (
            "heliograph_refused_connections_total",
            {("unknown_key",): tally.unknown_keys, ("origin",): tally.refused_origins},
        )
        yield (
            "heliograph_protocol_errors_total",
            {(str(code),): count for code, count in sorted(context.protocol_errors.items())},
        )
        yield "heliograph_tls_failures_total", context.tls_failures
        yield "heliograph_refused_over_capacity_total", context.refused_over_capacity
        yield "heliograph_refused_per_address_total", context.refused_per_address
        yield "heliograph_idle_connections_closed_total", context.idle.closed
        yield "heliograph_rate_limited_messages_total", context.rate_limited_messages
        yield "heliograph_rate_limited_publishes_total", self._node.tally.rate_limited_publishes

    def _of_history(self) -> Iterator[tuple[str, Values]]:
        tally = self._node.tally
        sizes = {(one.app.id,): one.space.history_size() for one in self._node.tenants()}
        known = {labels: size for labels, size in sizes.items() if size is not None}
        if known:
            yield "heliograph_history_events", {it: size.events for it, size in known.items()}
            yield "heliograph_history_bytes", {it: size.bytes for it, size in known.items()}
            yield "heliograph_history_channels", {it: size.channels for it, size in known.items()}
        if self._history_max_bytes is not None:
            yield "heliograph_history_max_bytes", self._history_max_bytes
        yield (
            "heliograph_resumes_total",
            {("continued",): tally.resumes_continued, ("gap",): sum(tally.gaps.values())},
        )
        yield "heliograph_gaps_total", {(reason,): count for reason, count in tally.gaps.items()}
        yield "heliograph_replayed_events_total", tally.replayed
        yield "heliograph_evicted_events_total", tally.events_evicted
        yield "heliograph_cached_events_evicted_total", tally.events_evicted
        yield "heliograph_repeated_publishes_total", tally.repeated_publishes

    def _of_requests(self) -> Iterator[tuple[str, Values]]:
        tally = self._node.tally
        yield "heliograph_api_requests_total", self.requests.answered
        yield "heliograph_api_request_duration_seconds", self.requests.durations
        yield (
            "heliograph_auth_failures_total",
            {("client",): tally.auth_failures, ("api",): self.requests.unauthorized},
        )
        codes: Counter[str] = Counter()
        for code, count in tally.errors.items():
            codes["none" if code is None else str(code)] += count
        yield "heliograph_client_errors_total", {(code,): codes[code] for code in sorted(codes)}

    def _of_webhooks(self) -> Iterator[tuple[str, Values]]:
        counters = self._webhooks.counters
        yield "heliograph_webhook_events_queued_total", counters.queued
        yield "heliograph_webhook_events_dropped_total", counters.dropped
        yield "heliograph_webhook_events_pending", self._webhooks.pending
        yield (
            "heliograph_webhook_deliveries_total",
            {("sent",): counters.sent, ("failed",): counters.failed},
        )
        yield "heliograph_webhook_retries_total", counters.retried
        yield "heliograph_webhook_store_failures_total", self._webhooks.store_failures


def _of_process() -> Iterator[tuple[str, Values]]:
    """Metrics of the whole process, shared by its servers; without Linux, only the first."""
    yield "heliograph_cpu_seconds_total", time.process_time()
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        descriptors = _open_descriptors()
    except OSError:
        return
    yield "heliograph_resident_memory_bytes", pages * os.sysconf("SC_PAGE_SIZE")
    yield "heliograph_open_descriptors", descriptors


def _open_descriptors() -> int:
    # Since Linux 6.2 the size of the folder is the number of descriptors. Listing the folder takes
    # a microsecond per client, and during that time the server serves no client.
    size = os.stat(DESCRIPTORS).st_size  # noqa: PTH116 - a path for two functions of os
    return size or len(os.listdir(DESCRIPTORS)) - 1  # noqa: PTH208 - one descriptor is that of the listing
