"""
An app: who it is, what it may do, and who is told of what happens in it.

Each key of an app is declared here once, and is an option of the command line too, for the
single app that one can configure there. 0 for a number is no limit.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from heliograph import origins
from heliograph.config.options import option, options_of
from heliograph.errors import ConfigError

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


_HEADER_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")

_OUR_HEADERS = frozenset(
    (
        *("content-type", "x-pusher-key", "x-pusher-signature", "x-heliograph-delivery"),
        *("connection", "content-encoding", "content-length", "expect", "host", "keep-alive"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    )
)
"""Headers of a webhook's request that say what it is, or how it travels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """
    Where an app is told of what happens; *events* are of WEBHOOK_KINDS.

    Raises ConfigError where no request can be sent. Its text begins with the name of the field at
    fault, and shows nothing of a URL, which may hold a password, nor of a header's value.
    """

    url: str = field(repr=False)  # it may hold a password
    events: tuple[str, ...] = WEBHOOK_KINDS
    channel_prefix: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    enabled: bool = True

    def __post_init__(self) -> None:
        """Check URL and headers."""
        _check_url(self.url)
        for name, text in self.headers:
            if not _HEADER_NAME.fullmatch(name):
                raise ConfigError(f"headers.{name}: is not a valid header name")
            if name.lower() in _OUR_HEADERS:
                raise ConfigError(f"headers.{name}: the server sets this header; remove it")
            if not text.isprintable():
                raise ConfigError(
                    f"headers.{name}: the value must be one line of printable characters"
                )


def _check_url(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ConfigError("url: must begin with http:// or https://")
    if not url.isprintable() or " " in url:
        raise ConfigError("url: must not contain spaces or control characters")
    try:
        # Reading the port checks it. A password with a slash in it ends up here, too.
        named = bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:
        named = False
    if not named:
        raise ConfigError("url: has no host, or an invalid port")


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """One application that shares the server with others, and nothing else with them."""

    id: str
    keys: tuple[AppKey, ...]
    webhooks: tuple[Webhook, ...] = ()
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
