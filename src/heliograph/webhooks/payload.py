"""
The requests to receivers: Pusher's webhook JSON, signed, with headers in Pusher's spelling.

Knows the format, and does not decide when a request is sent. Every value of an event is a scalar,
and the data of a client event is a string: the SDKs for Go and .NET read events as tables of
strings.

Source: https://pusher.com/docs/channels/server_api/webhooks/
"""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Raw, Struct

from heliograph.config.apps import Webhook
from heliograph.engine.answers import CacheMiss, ChannelOccupied, ChannelVacated
from heliograph.hub.facts import (
    Event,
    Member,
    MemberAdded,
    MemberRemoved,
    SubscriptionCount,
    UserOffline,
    UserOnline,
)
from heliograph.protocols import json
from heliograph.protocols.kinds import kind_of
from heliograph.protocols.pusher import auth
from heliograph.webhooks.schedule import OPEN

Reportable = (
    ChannelOccupied
    | ChannelVacated
    | MemberAdded
    | MemberRemoved
    | Event
    | CacheMiss
    | SubscriptionCount
    | UserOnline
    | UserOffline
)
"""A change that is reported to receivers; an Event is a client event."""

# The kind of `apps.WEBHOOK_KINDS` of each change.
KINDS: dict[type[Reportable], str] = {
    ChannelOccupied: "channel_existence",
    ChannelVacated: "channel_existence",
    MemberAdded: "presence",
    MemberRemoved: "presence",
    Event: "client_event",
    CacheMiss: "cache_miss",
    SubscriptionCount: "subscription_count",
    UserOnline: "user_presence",
    UserOffline: "user_presence",
}

INTERNAL_PREFIX = "#"
"""The prefix of internal channels, which are not reported."""

KEY_HEADER = "X-Pusher-Key"
SIGNATURE_HEADER = "X-Pusher-Signature"
DELIVERY_HEADER = "X-Heliograph-Delivery"
USER_AGENT = "Heliograph"


def channel_of(change: Reportable) -> str | None:
    """Return the channel of a change, None for a change of a user."""
    if isinstance(change, UserOnline | UserOffline):
        return None
    return change.channel


def stream_of(change: Reportable) -> str:
    """Return the stream that keeps its order: its channel, or its user in no channel's spelling."""
    if isinstance(change, UserOnline | UserOffline):
        return INTERNAL_PREFIX + change.user_id
    return change.channel


def share_of(change: Reportable) -> str:
    """
    Return the share of a receiver's queue that it counts against: its kind, or OPEN.

    OPEN has all changes of public channels, because every client may subscribe to any number of
    them. Private and presence channels, their client events, and users need a signature.
    """
    channel = channel_of(change)
    if channel is not None and not kind_of(channel).private:
        return OPEN
    return KINDS[type(change)]


def reserved_for(webhook: Webhook) -> list[str]:
    """Return the shares of the queue of *webhook* for which space is reserved."""
    return sorted(set(webhook.events))


def event(change: Reportable) -> bytes:
    """Return the JSON of one event of a webhook."""
    return json.encode(_fields(change))


def _fields(change: Reportable) -> dict[str, Any]:
    match change:
        case ChannelOccupied(channel):
            return {"name": "channel_occupied", "channel": channel}
        case ChannelVacated(channel):
            return {"name": "channel_vacated", "channel": channel}
        case MemberAdded(channel, member):
            return {"name": "member_added", "channel": channel, "user_id": member.user_id}
        case MemberRemoved(channel, user_id):
            return {"name": "member_removed", "channel": channel, "user_id": user_id}
        case SubscriptionCount(channel, count):
            return {"name": "subscription_count", "channel": channel, "subscription_count": count}
        case CacheMiss(channel):
            return {"name": "cache_miss", "channel": channel}
        case Event():
            return _client_event(change)
        # No SDK knows these two events, but PHP's SDK passes the channel of every event to a typed
        # function: without a channel, it would refuse the whole webhook.
        case UserOnline(user_id):
            return {"name": "user_online", "channel": "", "user_id": user_id}
        case UserOffline(user_id):
            return {"name": "user_offline", "channel": "", "user_id": user_id}


def _client_event(sent: Event) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": "client_event",
        "channel": sent.channel,
        "event": sent.name,
        "data": Raw(json.as_string_literal(sent.data)),
    }
    if sent.except_id is not None:
        fields["socket_id"] = sent.except_id
    if sent.user_id is not None:
        fields["user_id"] = sent.user_id
    return fields


class _Fields(Struct):
    name: str
    channel: str
    user_id: str | None = None
    subscription_count: int | None = None
    event: str | None = None
    data: str | None = None
    socket_id: str | None = None


def read(text: bytes) -> Reportable | None:  # noqa: C901 - a return for each kind
    """Return the change that `event` wrote as *text*; None if *text* is invalid."""
    try:
        text.decode()  # the check includes unread fields, which are sent, too
        fields = json.decode(text, _Fields)
    except (UnicodeDecodeError, json.InvalidJson):
        return None
    channel, user_id = fields.channel, fields.user_id
    match fields.name:
        case "channel_occupied":
            return ChannelOccupied(channel)
        case "channel_vacated":
            return ChannelVacated(channel)
        case "member_added" if user_id is not None:
            return MemberAdded(channel, Member(user_id))
        case "member_removed" if user_id is not None:
            return MemberRemoved(channel, user_id)
        case "subscription_count" if fields.subscription_count is not None:
            return SubscriptionCount(channel, fields.subscription_count)
        case "cache_miss":
            return CacheMiss(channel)
        case "client_event" if fields.event is not None and fields.data is not None:
            data = json.string_literal(fields.data)
            return Event(channel, fields.event, data, fields.socket_id, user_id)
        case "user_online" if user_id is not None:
            return UserOnline(user_id)
        case "user_offline" if user_id is not None:
            return UserOffline(user_id)
    return None


def body(time_ms: int, events: Iterable[bytes]) -> bytes:
    """Return the body with *events*; equal arguments give equal bytes."""
    return b'{"time_ms":%d,"events":[%b]}' % (time_ms, b",".join(events))


def headers(
    key: str, secret: bytes, body: bytes, delivery_id: str, extra: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """
    Return the headers for *body*, with its signature.

    The server's own headers come first. PHP's SDK finds them by this spelling, and Node's SDK
    compares the whole content type. *extra* has the operator's headers, which are checked already.
    """
    sent = [
        ("Content-Type", "application/json"),
        (KEY_HEADER, key),
        (SIGNATURE_HEADER, auth.sign(secret, body.decode())),
        (DELIVERY_HEADER, delivery_id),
        *extra,
    ]
    if not any(name.lower() == "user-agent" for name, _ in extra):
        sent.append(("User-Agent", USER_AGENT))
    return sent


def label(webhook: Webhook) -> str:
    """Return its URL for logs: without user, password and query."""
    scheme, _, rest = webhook.url.partition("://")
    authority, slash, path = rest.partition("/")
    host = authority.partition("?")[0].partition("#")[0].rpartition("@")[2]
    return f"{scheme}://{host}{slash}{path.partition('?')[0].partition('#')[0]}"
