"""
An app: its id and keys, its limits, and its webhooks.

Each key of an app is declared here once, and is an option of the command line too, for the
single app that can be configured there. 0 for a number is no limit. `checks` refuses values that
are not possible together.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from heliograph import origins
from heliograph.config.options import option, options_of

WEBHOOK_KINDS = (
    "channel_existence",
    "presence",
    "client_event",
    "cache_miss",
    "subscription_count",
    "user_presence",
)
"""The kinds of events that a webhook can select; by default, it receives all of them."""


LARGEST_HISTORY_LIMIT = 10_000
SHORTEST_HISTORY_TTL_S, LONGEST_HISTORY_TTL_S = 0.001, 30 * 86400.0
"""The events of a channel that can be kept, and the seconds for which each can be kept."""


@dataclass(frozen=True, slots=True)
class AppKey:
    """A key, which is public, and the secret that signs for it."""

    key: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A URL that receives events of an app; *events* are of WEBHOOK_KINDS."""

    url: str = field(repr=False)  # it may hold a password
    events: tuple[str, ...] = WEBHOOK_KINDS
    channel_prefix: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRule:
    """
    The channels of an app whose names begin with *prefix* keep events; the longest prefix decides.

    The last *limit* events are kept, each for *ttl* seconds. A new subscriber receives the last
    *rewind_count* of them, or those of the last *rewind_s* seconds; at most one of both is set. A
    *limit* of 0: these channels keep no events, although others do.
    """

    prefix: str
    limit: int
    ttl: float
    rewind_count: int = 0
    rewind_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """An application that shares the server with others, and nothing else."""

    id: str
    keys: tuple[AppKey, ...]
    webhooks: tuple[Webhook, ...] = ()
    history: tuple[HistoryRule, ...] = ()
    name: str = option("", "Name of the app, for people.")
    enabled: bool = option(True, "If off, clients are disconnected and API requests refused.")
    client_events: bool = option(True, "Clients may send client events.")
    subscription_count: bool = option(
        False, "Clients receive the number of subscribers of a channel."
    )
    watchlist: bool = option(False, "Signed-in users may watch whether others are online.")
    authorized_connections_timeout: float = option(
        0.0,
        "Seconds in which a client must sign in or join a private channel; 0 is no limit.",
        unit="s",
    )
    allowed_origins: tuple[str, ...] = option(
        (),
        "Origins whose pages may connect; * matches anything, all when empty.",
        environment=("ANYCABLE_ALLOWED_ORIGINS",),
        each=origins.entry,
    )
    max_connections: int = option(
        0,
        "Connections at a time, on this server; 0 is no limit.",
        environment=("ANYCABLE_MAX_CONN",),
        aliases=("max_conn",),
    )
    max_subscriptions: int = option(1000, "Channels of one connection; 0 is no limit.")
    max_presence_members: int = option(100, "Users in a presence channel; 0 is no limit.")
    max_presence_user_bytes: int = option(
        1024, "Largest `user_info` of a member, in bytes; 0 is no limit."
    )
    max_presence_user_id_length: int = option(128, "Longest user id, in characters; 0 is no limit.")
    max_event_bytes: int = option(10240, "Largest data of an event, in bytes; 0 is no limit.")
    max_event_name_length: int = option(200, "Longest event name, in characters; 0 is no limit.")
    max_channel_name_length: int = option(
        200, "Longest channel name, in characters; 0 is no limit."
    )
    max_channels_per_publish: int = option(100, "Channels of one publish; 0 is no limit.")
    max_batch: int = option(10, "Events of one batch; 0 is no limit.")
    max_client_events_per_second: int = option(
        10, "Client events of one connection per second; 0 is no limit."
    )
    max_publishes_per_second: int = option(
        0, "Published events per second, one for each channel, on this server; 0 is no limit."
    )
    webhook_batching: bool = option(True, "A webhook request may have several events.")

    def secret(self, key: str) -> bytes | None:
        """Return the secret of one of this app's keys, None for any other key."""
        for own in self.keys:
            if own.key == key:
                return own.secret.encode()
        return None


APP_OPTIONS = options_of(App)
"""The keys of an app that are options too."""


class Apps:
    """The apps of a server, in their order; of two with the same id, `get` returns the first."""

    def __init__(self, apps: Iterable[App] = ()) -> None:
        self._apps = tuple(apps)
        self._by_id = {app.id: app for app in reversed(self._apps)}

    def __iter__(self) -> Iterator[App]:
        return iter(self._apps)

    def __len__(self) -> int:
        return len(self._apps)

    def get(self, app_id: str) -> App | None:
        """Return the app with this id."""
        return self._by_id.get(app_id)
