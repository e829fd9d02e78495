"""
What can be measured of the server: names, types, meanings, and Prometheus' text format.

Knows nothing of the server itself. No label has values that strangers choose.

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
    Family("heliograph_uptime_seconds", GAUGE, "Time since the server began to listen."),
    Family("heliograph_connections", GAUGE, "WebSocket clients that are connected.", ("app",)),
    Family("heliograph_connections_opened_total", COUNTER, "WebSockets that were opened, those"
           " refused at once included."),
    Family("heliograph_http_connections", GAUGE, "HTTP connections, those on their way to"
           " becoming WebSockets included."),
    Family("heliograph_subscriptions", GAUGE, "Subscriptions of connected clients.", ("app",)),
    Family("heliograph_channels", GAUGE, "Occupied channels.", ("app", "kind")),
    Family("heliograph_users", GAUGE, "Users that are signed in.", ("app",)),
    Family("heliograph_messages_received_total", COUNTER, "Messages of clients."),
    Family("heliograph_messages_sent_total", COUNTER, "Messages to single clients: answers,"
           " acknowledgements, errors. What is said on channels counts as deliveries."),
    Family("heliograph_bytes_sent_total", COUNTER, "Bytes of messages to single clients."),
    Family("heliograph_bytes_received_total", COUNTER, "Bytes that arrived, TLS taken off."),
    Family("heliograph_bytes_delivered_total", COUNTER, "Bytes written because of what was said on"
           " channels."),
    Family("heliograph_publishes_total", COUNTER, "Events taken from the HTTP API, one for each of"
           " their channels."),
    Family("heliograph_facts_total", COUNTER, "What was said on channels that somebody here"
           " subscribes to: events, members, counts."),
    Family("heliograph_deliveries_total", COUNTER, "Facts handed to a subscriber."),
    Family("heliograph_writes_total", COUNTER, "Writes that it took. Deliveries divided by writes"
           " is how many were put together."),
    Family("heliograph_encodings_total", COUNTER, "Facts turned into frames, once for all who"
           " take the same."),
    Family("heliograph_api_requests_total", COUNTER, "Requests of the HTTP API.",
           ("route", "status")),
    Family("heliograph_api_request_duration_seconds", HISTOGRAM, "Time from a request's last byte"
           " to its answer."),
    Family("heliograph_auth_failures_total", COUNTER, "Signatures that were wrong: of clients, and"
           " of requests of the HTTP API.", ("of",)),
    Family("heliograph_client_errors_total", COUNTER, "Errors told to clients; the code is"
           " Pusher's, or none.", ("code",)),
    Family("heliograph_slow_readers_total", COUNTER, "Clients dropped because they did not read."),
    Family("heliograph_refused_connections_total", COUNTER, "WebSocket clients refused for what the"
           " page has wrong: the key, or its origin.", ("reason",)),
    Family("heliograph_protocol_errors_total", COUNTER, "WebSockets closed for a malformed frame or"
           " message, by the code of the Close frame.", ("code",)),
    Family("heliograph_tls_failures_total", COUNTER, "TLS handshakes that failed."),
    Family("heliograph_refused_over_capacity_total", COUNTER, "Clients told 4100 because the server"
           " was full."),
    Family("heliograph_refused_per_address_total", COUNTER, "Connections refused because their"
           " address had as many connections as it may have."),
    Family("heliograph_idle_connections_closed_total", COUNTER, "Idle HTTP connections closed"
           " because file descriptors ran short."),
    Family("heliograph_rate_limited_messages_total", COUNTER, "Clients told 4100 because their"
           " messages came too fast."),
    Family("heliograph_rate_limited_publishes_total", COUNTER, "Events answered with 429, one for"
           " each of their channels."),
    Family("heliograph_cached_events_evicted_total", COUNTER, "Events of cache channels that were"
           " not kept until they expired, because their app had too many."),
    Family("heliograph_webhook_events_queued_total", COUNTER, "Events that webhooks wait for."),
    Family("heliograph_webhook_events_dropped_total", COUNTER, "Events that no webhook will get:"
           " there was no room, or it was removed."),
    Family("heliograph_webhook_events_pending", GAUGE, "Events that were not yet received."),
    Family("heliograph_webhook_deliveries_total", COUNTER, "Requests to webhooks: sent are those"
           " that were received, failed those given up.", ("result",)),
    Family("heliograph_webhook_retries_total", COUNTER, "Tries after the first."),
    Family("heliograph_webhook_store_failures_total", COUNTER, "Times that webhooks could not be"
           " written to disk."),
    Family("heliograph_engine_up", GAUGE, "Whether what nodes share can be reached; alone, always"
           " 1.", ("engine",)),
    Family("heliograph_event_loop_lag_seconds", HISTOGRAM, "How late a timer was, asked ten times"
           " a second."),
    Family("heliograph_cpu_seconds_total", COUNTER, "Time that the process was computing. The"
           " server is busy where it grows by one a second."),
    Family("heliograph_resident_memory_bytes", GAUGE, "Memory that the process holds."),
    Family("heliograph_open_descriptors", GAUGE, "Files and sockets that are open."),
    Family("heliograph_descriptor_capacity", GAUGE, "With so many, new clients are told 4100."),
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


class Tally:
    """What all apps of a node are counted in together, where it happens."""

    __slots__ = (
        "auth_failures",
        "cached_events_evicted",
        "errors",
        "publishes",
        "rate_limited_publishes",
        "refused_origins",
        "unknown_keys",
    )

    def __init__(self) -> None:
        self.publishes = 0  # events, one for each of their channels
        self.rate_limited_publishes = 0  # events that an app published too fast
        self.cached_events_evicted = 0  # for there were too many, before they expired
        self.auth_failures = 0  # signatures of clients that were wrong
        self.unknown_keys = 0  # WebSocket clients with a key of no app
        self.refused_origins = 0  # WebSocket clients from pages that their app does not allow
        self.errors: dict[int | None, int] = {}  # told to clients, by code

    def refused(self, code: int | None) -> None:
        """Count an error told to a client."""
        self.errors[code] = self.errors.get(code, 0) + 1


Labels = tuple[str, ...]
Values = Mapping[Labels, float] | float | Histogram


def render(found: Iterable[tuple[str, Values]]) -> bytes:
    """
    Write what was found, by name, as text.

    A value is a number, a number for each combination of labels, or a Histogram. Raises KeyError
    for a name that is none of FAMILIES.
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
