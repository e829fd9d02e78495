"""
An app: who it is, what it may do, and who is told of what happens in it.

Each key of an app is declared here once, and is an option of the command line too, for the
single app that one can configure there. 0 for a number is no limit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from heliograph.errors import ConfigError
from heliograph.options import option, options_of

WEBHOOK_KINDS = (
    "channel_existence",
    "presence",
    "client_event",
    "cache_miss",
    "subscription_count",
    "user_presence",
)
"""What a webhook can be told of; a webhook that names none is told of all."""


@dataclass(frozen=True, slots=True)
class AppKey:
    """A key, which is public, and the secret that signs for it."""

    key: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where an app is told of what happens; *events* are of WEBHOOK_KINDS."""

    url: str = field(repr=False)  # it may hold a password
    events: tuple[str, ...] = WEBHOOK_KINDS
    channel_prefix: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """One application that shares the server with others, and nothing else with them."""

    id: str
    keys: tuple[AppKey, ...]
    webhooks: tuple[Webhook, ...] = ()
    name: str = option("", "A name for people.")
    enabled: bool = option(True, "Off: its clients are sent away, its API requests refused.")
    client_events: bool = option(True, "Clients may send events to each other.")
    subscription_count: bool = option(False, "Clients are told how many subscribe to a channel.")
    watchlist: bool = option(False, "Signed-in users may watch who else is online.")
    authorized_connections_timeout: float = option(
        0.0, "Time within which a client must sign in or join a private channel.", unit="s"
    )
    allowed_origins: tuple[str, ...] = option(
        (), "Sites whose pages may connect, * for anything; all when empty."
    )
    max_connections: int = option(0, "Connections at a time, on this server.")
    max_subscriptions: int = option(1000, "Channels that one connection may subscribe to.")
    max_presence_members: int = option(100, "Users in a presence channel.")
    max_presence_user_bytes: int = option(1024, "Size of what a member says of itself.")
    max_presence_user_id_length: int = option(128, "Characters of a user's id.")
    max_event_bytes: int = option(10240, "Size of an event's data.")
    max_event_name_length: int = option(200, "Characters of an event's name.")
    max_channel_name_length: int = option(200, "Characters of a channel's name.")
    max_channels_per_publish: int = option(100, "Channels that one request may publish to.")
    max_batch: int = option(10, "Events in a batch.")
    max_client_events_per_second: int = option(10, "Client events of one connection a second.")
    max_publishes_per_second: int = option(
        0, "Events from the HTTP API a second, one for each of their channels, on this server."
    )
    webhook_batching: bool = option(True, "Webhooks may tell several events at once.")

    def secret(self, key: str) -> bytes | None:
        """Return the secret of one of this app's keys, None for any other key."""
        for own in self.keys:
            if own.key == key:
                return own.secret.encode()
        return None


APP_OPTIONS = options_of(App)
"""The keys of an app that are options too."""


class Apps:
    """
    The apps of a server, by id.

    Raises ConfigError where two share an id or a key, and where one has nothing to sign with:
    anybody can sign with an empty secret.
    """

    def __init__(self, apps: Iterable[App] = ()) -> None:
        self._apps: dict[str, App] = {}
        owners: dict[str, str] = {}
        for app in apps:
            if app.id in self._apps:
                raise ConfigError(f"two apps have the id {app.id!r}")
            self._apps[app.id] = app
            if not app.keys:
                raise ConfigError(f"the app {app.id!r} has no key")
            for key in app.keys:
                if not key.secret:
                    raise ConfigError(f"the key {key.key!r} of the app {app.id!r} has no secret")
                if key.key in owners:
                    other = owners[key.key]
                    if other == app.id:
                        raise ConfigError(f"the app {app.id!r} has the key {key.key!r} twice")
                    raise ConfigError(
                        f"the apps {other!r} and {app.id!r} have the same key {key.key!r}"
                    )
                owners[key.key] = app.id

    def __iter__(self) -> Iterator[App]:
        return iter(self._apps.values())

    def __len__(self) -> int:
        return len(self._apps)

    def get(self, app_id: str) -> App | None:
        """Return the app with this id."""
        return self._apps.get(app_id)
