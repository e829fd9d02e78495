"""
The signatures of Pusher's protocol, as a client makes them. The time is an argument.

Sources: https://pusher.com/docs/channels/library_auth_reference/auth-signatures/ and
https://pusher.com/docs/channels/library_auth_reference/rest-api/#authentication
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote

Parameters = Iterable[tuple[str, str]]
"""Query parameters, not percent-encoded. A name may be repeated."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key of an app, and the secret that belongs to it. The secret is in no representation."""

    key: str
    secret: str = field(repr=False)

    def sign(self, text: str) -> str:
        """Return the lower-case hex HMAC-SHA256 of *text*."""
        return hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).hexdigest()

    def authorize_subscription(
        self, socket_id: str, channel: str, channel_data: str | None = None
    ) -> str:
        """
        Return the `auth` of a subscription to a private or presence channel.

        *channel_data* is the JSON text that the client sends with it, None where it sends none.
        """
        return f"{self.key}:{self.sign(subscription_text(socket_id, channel, channel_data))}"

    def authorize_user(self, socket_id: str, user_data: str) -> str:
        """Return the `auth` of a sign-in; *user_data* is the JSON text that the client sends."""
        return f"{self.key}:{self.sign(user_text(socket_id, user_data))}"

    def request_parameters(
        self, method: str, path: str, *, at: float, parameters: Parameters = (), body: bytes = b""
    ) -> list[tuple[str, str]]:
        """
        Return the parameters to add to a request of the HTTP API, `auth_signature` last.

        *parameters* are those that the request has already. *at* is the time of signing, in seconds
        since 1970; the server accepts the request up to ten minutes before and after it.
        """
        added = [
            ("auth_key", self.key),
            ("auth_timestamp", str(int(at))),
            ("auth_version", "1.0"),
        ]
        if body:
            added.append(("body_md5", body_md5(body)))
        text = request_text(method, path, [*parameters, *added])
        return [*added, ("auth_signature", self.sign(text))]

    def request_target(
        self, method: str, path: str, *, at: float, parameters: Parameters = (), body: bytes = b""
    ) -> str:
        """
        Return the signed target of a request line: *path*, which is percent-encoded, and a query.

        The parameters are in the order in which they are signed. A prefix that the server or a
        proxy removes from the path is not signed: put it before the target.
        """
        given = list(parameters)
        added = self.request_parameters(method, path, at=at, parameters=given, body=body)
        *signed, signature = added
        return f"{path}?{query([*_sorted([*given, *signed]), signature])}"


def subscription_text(socket_id: str, channel: str, channel_data: str | None = None) -> str:
    """Return what the signature of a subscription covers."""
    if channel_data is None:
        return f"{socket_id}:{channel}"
    return f"{socket_id}:{channel}:{channel_data}"


def user_text(socket_id: str, user_data: str) -> str:
    """Return what the signature of a sign-in covers."""
    return f"{socket_id}::user::{user_data}"


def request_text(method: str, path: str, parameters: Parameters) -> str:
    """Return what the signature of a request covers; *parameters* have no `auth_signature`."""
    pairs = [f"{name.lower()}={value}" for name, value in _sorted(parameters)]
    return f"{method.upper()}\n{path}\n{'&'.join(pairs)}"


def body_md5(body: bytes) -> str:
    """Return the `body_md5` of a request with *body*."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def query(parameters: Parameters) -> str:
    """Return *parameters*, percent-encoded, as the query of a URL."""
    return "&".join(
        f"{quote(name, safe='[]')}={quote(value, safe='')}" for name, value in parameters
    )


def _sorted(parameters: Parameters) -> list[tuple[str, str]]:
    """Return *parameters* by name. Those with one name keep their order."""
    return sorted(parameters, key=lambda pair: pair[0].lower())
