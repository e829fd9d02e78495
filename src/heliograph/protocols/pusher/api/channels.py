"""
Reads: GET /apps/{app_id}/channels, …/channels/{channel} and …/channels/{channel}/users.

Source: https://pusher.com/docs/channels/library_auth_reference/rest-api/#channels
"""

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Raw

from heliograph.engine.answers import POSITION_ONLY, Counts, Gap, Listing, Page, Rewind
from heliograph.errors import ApiError
from heliograph.node.history import History
from heliograph.node.tenant import Tenant
from heliograph.protocols.json import encode
from heliograph.protocols.kinds import history_of, kind_of
from heliograph.protocols.pusher.api.history import required_history, when_read
from heliograph.protocols.pusher.api.request import ApiRequest, attributes
from heliograph.protocols.pusher.api.response import ok
from heliograph.reply import Reply, after
from heliograph.wire.responses import Response

ANSWERED_AT_ONCE = 500
"""Channels or users up to which a list is made in one piece."""

USERS_AT_ONCE = 500
"""Users in one piece of a longer list."""

LIST_INFO = frozenset(("subscription_count", "user_count"))
CHANNEL_INFO = LIST_INFO | {"cache", "position"}

_LAST = Rewind(count=1)


def channels(request: ApiRequest) -> Reply[Response]:
    """GET /channels: the occupied channels, with the requested attributes."""
    request.allow_only("filter_by_prefix", "info")
    info = attributes(request.parameter("info"), LIST_INFO)
    prefix = request.parameter("filter_by_prefix") or ""
    if "user_count" in info and not prefix.startswith("presence-"):
        # The misspelt word is Pusher's: tests of SDKs expect it.
        raise ApiError(
            400,
            "user_count may only be requested for presence channels -"
            " please supply filter_by_prefix begining with presence-",
        )

    def listed(listing: Listing) -> Reply[Response]:
        make = partial(_list_channels, listing, info)
        return _answer(request.tenant, len(listing), ("channels", prefix, info), make)

    return after(request.tenant.channels(prefix), listed)


def _list_channels(listing: Listing, info: frozenset[str]) -> Generator[None, None, Response]:
    parts = []
    for counts in listing:
        listed = {
            name: _numbers(found, info) for name, found in counts.items() if not kind_of(name).user
        }
        if listed:
            parts.append(encode(listed)[1:-1])
        yield
    return Response(200, b'{"channels":{%b}}' % b",".join(parts))


def channel(request: ApiRequest, name: str) -> Reply[Response]:
    """GET /channels/{channel}: whether it is occupied, with the requested attributes."""
    request.allow_only("info")
    request.check_channel(name)
    info = attributes(request.parameter("info"), CHANNEL_INFO)
    kind = kind_of(name)
    if "user_count" in info and not kind.presence:
        raise ApiError(
            400, "Cannot retrieve the user count unless the channel is a presence channel"
        )
    if "cache" in info and not kind.cached:
        raise ApiError(400, "Cannot retrieve the cache unless the channel is a cache channel")

    if "position" in info:
        required_history(request.tenant, name, "position")
    history = history_of(request.tenant, name, kind)

    def counted(counts: Mapping[str, Counts]) -> Reply[Response]:
        found = counts[name]
        answer: dict[str, Any] = {"occupied": found.subscriptions > 0, **_numbers(found, info)}
        if history is None or not info & {"cache", "position"}:
            return ok(answer)
        since = _LAST if "cache" in info else POSITION_ONLY
        return when_read(
            request.tenant.history(name, since, history.keep),
            lambda page: ok({**answer, **_kept(page, info, history, request.now_s)}),
        )

    return after(request.tenant.counts((name,)), counted)


def users(request: ApiRequest, name: str) -> Reply[Response]:
    """GET /channels/{channel}/users: the distinct users in a presence channel."""
    request.allow_only()
    request.check_channel(name)
    if not kind_of(name).presence:
        raise ApiError(400, "Users can only be retrieved for presence channels")

    def listed(user_ids: Sequence[str]) -> Reply[Response]:
        make = partial(_list_users, user_ids)
        return _answer(request.tenant, len(user_ids), ("users", name), make)

    return after(request.tenant.users_in(name), listed)


def _list_users(user_ids: Sequence[str]) -> Generator[None, None, Response]:
    parts = []
    for start in range(0, len(user_ids), USERS_AT_ONCE):
        some = user_ids[start : start + USERS_AT_ONCE]
        parts.append(encode([{"id": user_id} for user_id in some])[1:-1])
        yield
    return Response(200, b'{"users":[%b]}' % b",".join(parts))


def _answer(
    tenant: Tenant,
    size: int,
    key: Hashable,
    make: Callable[[], Generator[None, None, Response]],
) -> Reply[Response]:
    """
    Return the response that *make* makes: at once if *size* is small, else in slices.

    Raises ApiError.
    """
    if size <= ANSWERED_AT_ONCE:
        making = make()
        while True:
            try:
                next(making)
            except StopIteration as end:
                response: Response = end.value
                return response
    later = tenant.large_answers.ask(key, make)
    if later is None:
        raise ApiError(
            503,
            "Too many requests for long lists are pending, try again later",
            headers=((b"Retry-After", b"1"),),
        )
    return later


def stats(request: ApiRequest, name: str) -> Reply[Response]:
    """GET /channels/{channel}/stats: the predecessor of `info`; deprecated by Pusher."""
    request.allow_only()
    request.check_channel(name)

    def counted(counts: Mapping[str, Counts]) -> Response:
        answer: dict[str, Any] = {"occupied": counts[name].subscriptions > 0}
        if kind_of(name).presence:
            answer["user_count"] = counts[name].users
        return ok(answer)

    return after(request.tenant.counts((name,)), counted)


def _numbers(counts: Counts, info: frozenset[str]) -> dict[str, int]:
    answer = {}
    if "user_count" in info:
        answer["user_count"] = counts.users
    if "subscription_count" in info:
        answer["subscription_count"] = counts.subscriptions
    return answer


def _kept(
    found: Page | Gap, info: frozenset[str], history: History, now_s: float
) -> dict[str, Any]:
    """Return the attributes of what a channel keeps: its last event, and its position."""
    if not isinstance(found, Page):
        raise AssertionError("a rewind is never refused")  # noqa: TRY004 - a fault of the engine
    answer: dict[str, Any] = {}
    if "cache" in info:
        answer["cache"] = None
        if found.events:
            # Never longer than the event is kept, if the engine's clock is ahead.
            ttl_s = min(found.times[-1] + history.keep.ttl_s - now_s, history.keep.ttl_s)
            answer["cache"] = {"data": Raw(found.events[-1].data), "ttl": max(int(ttl_s), 0)}
    if "position" in info:
        answer["epoch"], answer["offset"] = found.top.epoch, found.top.offset
    return answer
