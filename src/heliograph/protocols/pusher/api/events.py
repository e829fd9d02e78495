"""
Publishing: POST /apps/{app_id}/events and /apps/{app_id}/batch_events.

`data` is not decoded and encoded again: subscribers receive it as the publisher wrote it. The whole
of a request is checked before any of its events is published.

Source: https://pusher.com/docs/channels/library_auth_reference/rest-api/#events
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any

from msgspec import Raw

from heliograph.config.apps import App
from heliograph.engine.answers import Counts
from heliograph.errors import ApiError, echoed
from heliograph.hub.facts import Event
from heliograph.node.tenant import Tenant
from heliograph.protocols.json import (
    UNREADABLE,
    InvalidJson,
    as_string_literal,
    decode,
    decoder_of,
    encode,
    string_size,
)
from heliograph.protocols.kinds import Kind, kind_of
from heliograph.protocols.pusher.api.request import (
    ApiRequest,
    BatchBody,
    EventBody,
    Publication,
    attributes,
)
from heliograph.protocols.pusher.api.response import ACCEPTED, EMPTY, ok
from heliograph.protocols.pusher.names import (
    MAX_REMEMBERED_NAME,
    RESERVED_EVENT_PREFIXES,
    kind_if_legal,
)
from heliograph.reply import Reply, after
from heliograph.wire.responses import Response

INFO = frozenset(("subscription_count", "user_count"))
NO_INFO: frozenset[str] = frozenset()


def publish(request: ApiRequest) -> Reply[Response]:
    """POST /events: one event to one channel or several."""
    app = request.tenant.app
    body = _read_event(request.body) if request.body else _event_of_query(request)
    publication = _checked(request.tenant, body, _channels(app, body))
    if app.max_publishes_per_second:
        _admit(request.tenant, publication.events)
    reply = request.tenant.publish(publication.events)
    if reply is None and publication.info is NO_INFO:
        return EMPTY  # nine of ten requests
    return after(reply, partial(_published, request.tenant, publication))


def _published(tenant: Tenant, publication: Publication, _nothing: None) -> Reply[Response]:
    if not publication.info:
        return EMPTY
    names = [event.channel for event in publication.events]
    return after(
        tenant.counts(names),
        lambda counts: ok(
            {"channels": {name: _attributes_of(name, counts, publication.info) for name in names}}
        ),
    )


def publish_batch(request: ApiRequest) -> Reply[Response]:
    """POST /batch_events: several events, each to one channel, all of them or none."""
    app = request.tenant.app
    batch = _read(request.body, BatchBody).batch
    if app.max_batch and len(batch) > app.max_batch:
        raise ApiError(400, f"Batch too large ({len(batch)} > {app.max_batch})")
    publications = [_checked(request.tenant, body, _only_channel(body)) for body in batch]
    events = [event for publication in publications for event in publication.events]
    if app.max_publishes_per_second:
        _admit(request.tenant, events)
    reply = request.tenant.publish(events)
    return after(reply, partial(_batch_published, request.tenant, publications))


def _batch_published(
    tenant: Tenant, publications: Sequence[Publication], _nothing: None
) -> Reply[Response]:
    if not any(publication.info for publication in publications):
        return EMPTY
    channels = [publication.events[0].channel for publication in publications]
    return after(
        tenant.counts(channels),
        lambda counts: ok(
            {
                "batch": [
                    _attributes_of(channel, counts, publication.info)
                    for channel, publication in zip(channels, publications, strict=True)
                ]
            }
        ),
    )


def publish_raw(request: ApiRequest, channel: str) -> Reply[Response]:
    """
    POST /channels/{channel}/events: the body is the event's data; deprecated by Pusher.

    The query has the name and the socket id. The answer is an empty 202.
    """
    try:
        data = request.body.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "The request body is not valid UTF-8") from None
    body = EventBody(
        name=request.parameter("name"),
        data=Raw(encode(data)),
        channel=channel,
        socket_id=request.parameter("socket_id"),
    )
    publication = _checked(request.tenant, body, (channel,))
    if request.tenant.app.max_publishes_per_second:
        _admit(request.tenant, publication.events)
    return after(request.tenant.publish(publication.events), lambda _nothing: ACCEPTED)


def _attributes_of(
    channel: str, counts: Mapping[str, Counts], info: frozenset[str]
) -> dict[str, int]:
    """
    Return the attributes *info* of a channel.

    An attribute that does not apply to the kind of channel is left out, not refused.
    """
    found = {}
    if "user_count" in info and kind_of(channel).presence:
        found["user_count"] = counts[channel].users
    if "subscription_count" in info:
        found["subscription_count"] = counts[channel].subscriptions
    return found


def _admit(tenant: Tenant, events: Sequence[Event]) -> None:
    """Count *events* against the rate limit of the app, all or none. Raises ApiError."""
    wait_s = tenant.admit_publishes(len(events))
    if wait_s:
        raise ApiError(
            429,
            "Rate limit exceeded: this app may publish"
            f" {tenant.app.max_publishes_per_second} events per second on this server",
            headers=((b"Retry-After", b"%d" % ceil(wait_s)),),
        )


# -- Reading and checking ------------------------------------------------------------------


_event_body = decoder_of(EventBody)


def _read_event(body: bytes) -> EventBody:
    try:
        if body.isascii():
            return _event_body.decode(body)
    except UNREADABLE:
        pass  # `_read` decodes the body again, or raises the error
    event: EventBody = _read(body, EventBody)
    return event


def _read(body: bytes, shape: Any) -> Any:
    try:
        # msgspec does not check UTF-8 in fields that it does not decode, and browsers close the
        # connection on invalid UTF-8.
        body.decode()
        return decode(body, shape)
    except UnicodeDecodeError:
        raise ApiError(400, "The request body is not valid UTF-8") from None
    except InvalidJson as error:
        if error.well_formed:
            what = (
                'an object with "batch", an array of objects' if shape is BatchBody else "an object"
            )
            raise ApiError(400, f"Expected the request body to be {what}") from None
        raise ApiError(400, "The request body is not valid JSON") from None


def _event_of_query(request: ApiRequest) -> EventBody:
    """Read an event from the query: a POST without a body may have it there."""
    data = request.parameter("data")
    channels = [value for name, value in request.parameters if name == "channels[]"]
    return EventBody(
        name=request.parameter("name"),
        data=Raw() if data is None else Raw(encode(data)),
        channels=channels or None,
        channel=request.parameter("channel"),
        socket_id=request.parameter("socket_id"),
        info=request.parameter("info"),
    )


def _checked(tenant: Tenant, body: EventBody, channels: Sequence[str]) -> Publication:
    app, keep = tenant.app, tenant.keep
    name = body.name
    if not isinstance(name, str):
        raise ApiError(400, "Expected name parameter to be a string")
    if name.startswith(RESERVED_EVENT_PREFIXES):
        raise ApiError(400, "The 'pusher' namespace is reserved for internal usage")
    if app.max_event_name_length and len(name) > app.max_event_name_length:
        raise ApiError(400, f"The event name exceeds {app.max_event_name_length} characters")
    kinds = _kinds(channels, app.max_channel_name_length)
    data = _checked_data(app, body.data)
    # A malformed or unknown socket id excludes no subscriber, as on the real service.
    except_id = body.socket_id if isinstance(body.socket_id, str) else None
    event = Event
    events = [
        event(channel, name, data, except_id, None, keep if kind.cached else None)
        for channel, kind in zip(channels, kinds, strict=True)
    ]
    return Publication(events, attributes(body.info, INFO) if body.info else NO_INFO)


def _kinds(channels: Sequence[str], max_length: int) -> list[Kind]:
    """Return the kind of each channel. Raises ApiError for a name that no channel may have."""
    kinds = []
    # A request may have a hundred channels; compiled, a name that is not local costs a lookup.
    judge, most = kind_if_legal, MAX_REMEMBERED_NAME
    for channel in channels:
        kind = None
        length = len(channel)
        if not max_length or length <= max_length:
            kind = judge(channel) if length <= most else judge.__wrapped__(channel)
        if kind is None:
            raise ApiError(400, f"Invalid channel name: {echoed(channel)}")
        kinds.append(kind)
    return kinds


def _checked_data(app: App, raw: Raw) -> bytes:
    data = bytes(raw)
    if not data.startswith(b'"'):
        if data in (b"", b"null"):
            raise ApiError(400, "Missing required parameter: data")
        data = as_string_literal(data)
    # Escapes only make a literal longer, so the size of a short one is not computed.
    limit = app.max_event_bytes
    if limit and len(data) - 2 > limit and string_size(data) > limit:
        raise ApiError(
            413,
            f"The data content of this event exceeds the allowed maximum ({limit} bytes)."
            " See https://pusher.com/docs/channels/server_api/http-api#publishing-events"
            " for more info",
        )
    return data


def _channels(app: App, body: EventBody) -> Sequence[str]:
    """Return the channels of an event, without duplicates."""
    if body.channels is None:
        return _only_channel(body)
    strings = isinstance(body.channels, list)
    if strings:
        for channel in body.channels:
            if not isinstance(channel, str):
                strings = False
                break
    if not strings:
        raise ApiError(400, "Expected channels parameter to be an array of strings")
    if not body.channels:
        raise ApiError(400, "Missing required parameter: channel")
    limit = app.max_channels_per_publish
    if limit and len(body.channels) > limit:
        raise ApiError(400, f"Cannot publish to more than {limit} channels at once")
    return list(dict.fromkeys(body.channels))


def _only_channel(body: EventBody) -> Sequence[str]:
    if body.channel is None:
        raise ApiError(400, "Missing required parameter: channel")
    if not isinstance(body.channel, str):
        raise ApiError(400, "Expected channel parameter to be a string")
    return (body.channel,)
