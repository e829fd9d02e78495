"""
The metrics of the server: names, types, meanings, and Prometheus' text format.

Knows nothing of the server itself. No label has values that clients choose.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4)
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


class Family(Struct, frozen=True):
    """One metric: *labels* are the names of its labels, *meaning* a sentence."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...] = ()


FAMILIES = (
    Family("heliograph_info", GAUGE, "Always 1; the version is the label.", ("version",)),
    Family("heliograph_uptime_seconds", GAUGE, "Seconds since the server began to listen."),
    Family("heliograph_connections", GAUGE, "Connected WebSocket clients.", ("app",)),
    Family("heliograph_connections_opened_total", COUNTER, "WebSocket connections opened, including"
           " those refused immediately."),
    Family("heliograph_http_connections", GAUGE, "Open HTTP connections, including those that are"
           " about to become WebSockets."),
    Family("heliograph_subscriptions", GAUGE, "Subscriptions of connected clients.", ("app",)),
    Family("heliograph_channels", GAUGE, "Occupied channels.", ("app", "kind")),
    Family("heliograph_users", GAUGE, "Signed-in users.", ("app",)),
    Family("heliograph_messages_received_total", COUNTER, "Messages received from clients."),
    Family("heliograph_messages_sent_total", COUNTER, "Messages sent to single clients: replies,"
           " acknowledgements, errors. Events on channels count as deliveries."),
    Family("heliograph_bytes_sent_total", COUNTER, "Bytes of messages to single clients."),
    Family("heliograph_bytes_received_total", COUNTER, "Bytes received, after TLS."),
    Family("heliograph_bytes_delivered_total", COUNTER, "Bytes of events written to subscribers."),
    Family("heliograph_publishes_total", COUNTER, "Events published with the HTTP API; an event for"
           " several channels counts once for each."),
    Family("heliograph_channel_messages_total", COUNTER, "Events, membership changes and counts on"
           " channels that have subscribers on this server, and online states of watched users."),
    Family("heliograph_facts_total", COUNTER, "The same, under its old name; removed in the next"
           " version."),
    Family("heliograph_deliveries_total", COUNTER, "Events, membership changes, counts and"
           " online states delivered, one for each subscriber."),
    Family("heliograph_writes_total", COUNTER, "Socket writes for deliveries. Deliveries divided by"
           " writes is the batch size."),
    Family("heliograph_encodings_total", COUNTER, "Frames encoded for deliveries; subscribers that"
           " need the same frame share it."),
    Family("heliograph_api_requests_total", COUNTER, "Requests to the HTTP"
           " API.", ("route", "status")),
    Family("heliograph_api_request_duration_seconds", HISTOGRAM, "Seconds from the last byte of a"
           " request to its response."),
    Family("heliograph_auth_failures_total", COUNTER, "Wrong signatures, of clients and of requests"
           " to the HTTP API.", ("of",)),
    Family("heliograph_client_errors_total", COUNTER, "Errors sent to clients, by error code or"
           " none.", ("code",)),
    Family("heliograph_slow_readers_total", COUNTER, "Clients disconnected because they did not"
           " read fast enough."),
    Family("heliograph_refused_connections_total", COUNTER, "WebSocket clients refused because of"
           " an unknown key or a refused origin.", ("reason",)),
    Family("heliograph_protocol_errors_total", COUNTER, "WebSocket connections closed for a"
           " malformed frame or message, by close code.", ("code",)),
    Family("heliograph_tls_failures_total", COUNTER, "TLS handshakes that failed."),
    Family("heliograph_refused_over_capacity_total", COUNTER, "Clients closed with 4100 because the"
           " server was over capacity."),
    Family("heliograph_refused_per_address_total", COUNTER, "Connections refused because of"
           " --max_connections_per_ip."),
    Family("heliograph_idle_connections_closed_total", COUNTER, "Idle HTTP connections closed"
           " because few file descriptors were left."),
    Family("heliograph_rate_limited_messages_total", COUNTER, "Clients closed with 4100 because of"
           " --max_messages_per_second."),
    Family("heliograph_rate_limited_publishes_total", COUNTER, "Published events refused with 429;"
           " an event for several channels counts once for each."),
    Family("heliograph_history_events", GAUGE, "Kept events, of channels with history and of cache"
           " channels.", ("app",)),
    Family("heliograph_history_bytes", GAUGE, "Bytes of kept events, as --history_max_bytes counts"
           " them.", ("app",)),
    Family("heliograph_history_channels", GAUGE, "Channels that have kept events.", ("app",)),
    Family("heliograph_history_max_bytes", GAUGE, "The value of --history_max_bytes, which is for"
           " all apps together."),
    Family("heliograph_resumes_total", COUNTER, "Clients that asked for the events that they"
           " missed, by result: continued, or gap.", ("result",)),
    Family("heliograph_gaps_total", COUNTER, "Clients notified that they miss events, by reason:"
           " trimmed, epoch, ahead, no_history.", ("reason",)),
    Family("heliograph_replayed_events_total", COUNTER, "Kept events sent to clients, one for each"
           " subscriber."),
    Family("heliograph_evicted_events_total", COUNTER, "Kept events dropped before they expired,"
           " because of --history_max_bytes."),
    Family("heliograph_cached_events_evicted_total", COUNTER, "The same, under its old name;"
           " removed in the next version."),
    Family("heliograph_repeated_publishes_total", COUNTER, "Requests that repeated the"
           " idempotency_key of another one; they published nothing."),
    Family("heliograph_webhook_events_queued_total", COUNTER, "Events queued for webhooks."),
    Family("heliograph_webhook_events_dropped_total", COUNTER, "Webhook events dropped: the queue"
           " was full, or the webhook was removed."),
    Family("heliograph_webhook_events_pending", GAUGE, "Webhook events not delivered yet."),
    Family("heliograph_webhook_deliveries_total", COUNTER, "Webhook deliveries by result: sent, or"
           " failed after the last attempt.", ("result",)),
    Family("heliograph_webhook_retries_total", COUNTER, "Webhook requests sent again after a failed"
           " attempt."),
    Family("heliograph_webhook_store_failures_total", COUNTER, "Failed writes of webhooks to"
           " --data_dir."),
    Family("heliograph_engine_up", GAUGE, "1 while the engine is available, else 0; always 1 for a"
           " single process.", ("engine",)),
    Family("heliograph_engine_losses_total", COUNTER, "Channels and users whose events or"
           " terminations the engine may have lost; their clients are closed with 4200."),
    Family("heliograph_event_loop_lag_seconds", HISTOGRAM, "Delay of a timer that runs ten times a"
           " second."),
    Family("heliograph_cpu_seconds_total", COUNTER, "CPU seconds of the process. The server is"
           " saturated when this grows by one per second."),
    Family("heliograph_resident_memory_bytes", GAUGE, "Resident memory of the process."),
    Family("heliograph_open_descriptors", GAUGE, "Open file descriptors."),
    Family("heliograph_descriptor_capacity", GAUGE, "Descriptors in use from which new clients are"
           " closed with 4100."),
)  # fmt: skip

BY_NAME: Mapping[str, Family] = {family.name: family for family in FAMILIES}


class Histogram:
    """Counts values by upper bounds, which are ascending."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


GAP_REASONS = ("trimmed", "epoch", "ahead", "no_history")


class Tally:
    """Counters for all apps of a node together; the code that causes an event increments them."""

    __slots__ = (
        "auth_failures",
        "errors",
        "events_evicted",
        "gaps",
        "losses",
        "publishes",
        "rate_limited_publishes",
        "refused_origins",
        "repeated_publishes",
        "replayed",
        "resumes_continued",
        "unknown_keys",
    )

    def __init__(self) -> None:
        self.publishes = 0  # events, one for each of their channels
        self.rate_limited_publishes = 0  # events that an app published too fast
        self.events_evicted = 0  # kept events, before they expired: there were too many
        self.losses = 0  # channels and users of which the engine reported a loss
        self.auth_failures = 0  # signatures of clients that were wrong
        self.unknown_keys = 0  # WebSocket clients with a key of no app
        self.refused_origins = 0  # WebSocket clients from pages that the app does not allow
        self.repeated_publishes = 0  # answered with the answer of the first
        self.replayed = 0  # kept events that were written to new subscribers
        self.resumes_continued = 0  # subscriptions that continued where their client had been
        # Clients that were notified that they miss events, by reason.
        self.gaps = dict.fromkeys(GAP_REASONS, 0)
        self.errors: dict[int | None, int] = {}  # sent to clients, by code

    def gap(self, reason: str) -> None:
        """Count a client that is notified that it misses events."""
        self.gaps[reason] += 1

    def refused(self, code: int | None) -> None:
        """Count an error that is sent to a client."""
        self.errors[code] = self.errors.get(code, 0) + 1


Labels = tuple[str, ...]
Values = Mapping[Labels, float] | float | Histogram


def render(found: Iterable[tuple[str, Values]]) -> bytes:
    """
    Return the values in *found*, by name of the metric, as text.

    A value is a number, a number for each combination of labels, or a Histogram. Raises KeyError
    for a name that is not in FAMILIES.
    """
    lines: list[str] = []
    for name, values in found:
        family = BY_NAME[name]
        lines += [f"# HELP {name} {family.meaning}", f"# TYPE {name} {family.kind}"]
        if isinstance(values, Histogram):
            lines += _histogram(name, values)
        elif isinstance(values, Mapping):
            lines += [
                f"{name}{_labels(family.labels, labels)} {value:.17g}"
                for labels, value in values.items()
            ]
        else:
            lines.append(f"{name} {values:.17g}")
    return ("\n".join(lines) + "\n").encode()


def _histogram(name: str, histogram: Histogram) -> list[str]:
    lines, below = [], 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        below += count
        lines.append(f'{name}_bucket{{le="{bound:g}"}} {below}')
    total = below + histogram.counts[-1]
    return [
        *lines,
        f'{name}_bucket{{le="+Inf"}} {total}',
        f"{name}_sum {histogram.sum:.17g}",
        f"{name}_count {total}",
    ]


def _labels(names: Labels, values: Labels) -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)]
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def table() -> str:
    """Return all metrics as a table in Markdown, for the documentation."""
    lines = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{family.name}` | {family.kind} | {labels} | {family.meaning} |")
    return "\n".join(lines) + "\n"
