"""
Publishing: POST /apps/{app_id}/events and /apps/{app_id}/batch_events.

`data` is not decoded and encoded again: subscribers receive it as the publisher wrote it. The whole
of a request is checked before any of its events is published.

Source: https://pusher.com/docs/channels/library_auth_reference/rest-api/#events
"""

from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import blake2b
from math import ceil
from typing import Any

from msgspec import UNSET, Raw

from heliograph.config.apps import App
from heliograph.engine.answers import Published, Terms
from heliograph.errors import ApiError, echoed
from heliograph.hub.facts import Event, Keep
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
from heliograph.protocols.kinds import Kind, history_of, kind_of
from heliograph.protocols.pusher.api.auth import AUTH_PARAMETERS
from heliograph.protocols.pusher.api.history import numbered_history
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

COUNTS = frozenset(("subscription_count", "user_count"))
POSITION = "position"
INFO = COUNTS | {POSITION}
NO_INFO: frozenset[str] = frozenset()

MAX_KEY = 128
"""Characters of an idempotency key."""

FINGERPRINT_BYTES = 16

_ONE, _BATCH = b"events", b"batch_events"
"""The endpoints whose requests may have a key; the same content has another meaning for each."""


def publish(request: ApiRequest) -> Reply[Response]:
    """POST /events: one event to one channel or several."""
    app = request.tenant.app
    body = _read_event(request.body) if request.body else _event_of_query(request)
    publication = _checked(request.tenant, body, _channels(app, body))
    terms = None
    if publication.info is not NO_INFO or body.idempotency_key is not UNSET:
        terms = _terms(request, _ONE, (publication,), body.idempotency_key)
    if app.max_publishes_per_second:
        _admit(request.tenant, publication.events)
    reply = request.tenant.publish(publication.events, terms)
    if reply is None and terms is None:
        return EMPTY  # nine of ten requests
    return after(reply, partial(_published, request.tenant, terms, publication))


def _published(
    tenant: Tenant, terms: Terms | None, publication: Publication, published: Published | None
) -> Response:
    found = _checked_answer(tenant, terms, published)
    if found is None or not publication.info:
        return EMPTY
    return ok(
        {
            "channels": {
                event.channel: _attributes_of(event.channel, publication.info, found, number)
                for number, event in enumerate(publication.events)
            }
        }
    )


def publish_batch(request: ApiRequest) -> Reply[Response]:
    """POST /batch_events: several events, each to one channel, all of them or none."""
    app = request.tenant.app
    body: BatchBody = _read(request.body, BatchBody)
    batch = body.batch
    if app.max_batch and len(batch) > app.max_batch:
        raise ApiError(400, f"Batch too large ({len(batch)} > {app.max_batch})")
    if body.transient is not UNSET:
        raise ApiError(400, "Expected transient parameter in the events of a batch")
    publications = [_checked(request.tenant, one, _only_channel(one)) for one in batch]
    has_terms = body.idempotency_key is not UNSET
    for one, publication in zip(batch, publications, strict=True):
        if one.idempotency_key is not UNSET:
            raise ApiError(400, "Expected idempotency_key parameter beside the batch, not in it")
        if publication.info is not NO_INFO:
            has_terms = True
    if not publications:
        return EMPTY
    events = [event for publication in publications for event in publication.events]
    terms = _terms(request, _BATCH, publications, body.idempotency_key) if has_terms else None
    if app.max_publishes_per_second:
        _admit(request.tenant, events)
    reply = request.tenant.publish(events, terms)
    if reply is None and terms is None:
        return EMPTY
    return after(reply, partial(_batch_published, request.tenant, terms, publications))


def _batch_published(
    tenant: Tenant,
    terms: Terms | None,
    publications: Sequence[Publication],
    published: Published | None,
) -> Response:
    found = _checked_answer(tenant, terms, published)
    if found is None or not any(publication.info for publication in publications):
        return EMPTY
    return ok(
        {
            "batch": [
                _attributes_of(publication.events[0].channel, publication.info, found, number)
                for number, publication in enumerate(publications)
            ]
        }
    )


def _terms(
    request: ApiRequest, endpoint: bytes, publications: Sequence[Publication], key: object
) -> Terms:
    """Return the terms of a publish, for the attributes and the *key*. Raises ApiError."""
    info = NO_INFO.union(*[publication.info for publication in publications])
    keeps: list[Keep | None] = []
    if POSITION in info:
        for publication in publications:
            wanted = POSITION in publication.info
            for event in publication.events:
                found = numbered_history(request.tenant, event.channel) if wanted else None
                keeps.append(None if found is None else found.keep)
    counts = bool(info & COUNTS)
    if key is UNSET:
        return Terms(keeps, counts)
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY:
        raise ApiError(
            400, f"Expected idempotency_key parameter to be a string of 1 to {MAX_KEY} characters"
        )
    return Terms(keeps, counts, key, _fingerprint(request, endpoint))


def _fingerprint(request: ApiRequest, endpoint: bytes) -> bytes:
    """Return a digest of the content of a request, which is in its body, or else in its query."""
    content = request.body
    if not content:
        pairs = [pair for pair in request.parameters if pair[0] not in AUTH_PARAMETERS]
        content = encode(pairs)
    return blake2b(content, digest_size=FINGERPRINT_BYTES, person=endpoint).digest()


def _checked_answer(
    tenant: Tenant, terms: Terms | None, published: Published | None
) -> Published | None:
    """
    Return the engine's answer, None without *terms*. Counts a repetition.

    Raises ApiError if the request with the same key had other content.
    """
    if terms is None:
        return None
    if published is None:
        raise AssertionError("the engine answers a publish with terms")
    if published.repeated:
        if published.fingerprint != terms.fingerprint:
            raise ApiError(
                409,
                "Another request had the same idempotency_key less than a minute ago: each event"
                " or batch needs a key of its own",
            )
        tenant.tally.repeated_publishes += 1
    return published


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
    return after(request.tenant.publish(publication.events), lambda _none: ACCEPTED)


def _attributes_of(
    channel: str, info: frozenset[str], published: Published, number: int
) -> dict[str, Any]:
    """
    Return the attributes *info* of the channel of the published event with this *number*.

    An attribute that does not apply to the channel is left out, not refused.
    """
    found: dict[str, Any] = {}
    if "user_count" in info and kind_of(channel).presence:
        found["user_count"] = published.counts[channel].users
    if "subscription_count" in info:
        found["subscription_count"] = published.counts[channel].subscriptions
    if POSITION in info:
        position = published.positions[number]
        if position is not None:
            found["epoch"], found["offset"] = position.epoch, position.offset
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
    transient = request.parameter("transient")
    key = request.parameter("idempotency_key")
    return EventBody(
        name=request.parameter("name"),
        data=Raw() if data is None else Raw(encode(data)),
        channels=channels or None,
        channel=request.parameter("channel"),
        socket_id=request.parameter("socket_id"),
        info=request.parameter("info"),
        transient=_BOOLEANS.get(transient, transient),
        idempotency_key=UNSET if key is None else key,
    )


_BOOLEANS: Mapping[str | None, bool] = {None: False, "false": False, "true": True}
"""Values of a parameter of the query."""


def _checked(tenant: Tenant, body: EventBody, channels: Sequence[str]) -> Publication:
    app = tenant.app
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
    transient = body.transient
    if transient is not False and transient is not True:
        raise ApiError(400, "Expected transient parameter to be a boolean")
    event, keeps = Event, not transient
    every = keeps and tenant.histories.any
    events = [
        event(
            channel,
            name,
            data,
            except_id,
            None,
            _keep(tenant, channel, kind) if every or (keeps and kind.cached) else None,
        )
        for channel, kind in zip(channels, kinds, strict=True)
    ]
    return Publication(events, attributes(body.info, INFO) if body.info else NO_INFO)


def _keep(tenant: Tenant, channel: str, kind: Kind) -> Keep | None:
    found = history_of(tenant, channel, kind)
    return None if found is None else found.keep


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
