"""
Kept events of a channel: GET /apps/{app_id}/channels/{channel}/history. Not part of Pusher's API.

A cursor is a position as text. A reader passes the cursor of one page to get the next one.
"""

import re
from collections.abc import Callable
from functools import partial
from math import floor
from typing import Any

from msgspec import Raw

from heliograph.engine.answers import POSITION_ONLY, FromTime, Gap, Page, Rewind, Since
from heliograph.errors import ApiError
from heliograph.hub.facts import Event, Position
from heliograph.node.history import History
from heliograph.node.tenant import Tenant
from heliograph.protocols.kinds import history_of, kind_of
from heliograph.protocols.pusher.api.request import ApiRequest
from heliograph.protocols.pusher.api.response import ok
from heliograph.reply import Later, Reply, after
from heliograph.wire.responses import Response

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
"""Events of one answer."""

MAX_BYTES = 1 << 20
"""Bytes of the events of one answer, as `engine.base` counts them; a single one may be larger."""

ALL_KEPT = Rewind(count=(1 << 31) - 1)
"""More events than any channel keeps: all of them."""

_LIMIT = re.compile(r"[0-9]{1,4}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,9})?", re.ASCII)
_CURSOR = re.compile(r"(.{1,64}):([0-9]{1,15})", re.ASCII)


def numbered_history(tenant: Tenant, channel: str) -> History | None:
    """Return the history of *channel*; None without one, or if its positions are not available."""
    found = history_of(tenant, channel, kind_of(channel))
    return found if found is not None and found.positions else None


def required_history(tenant: Tenant, channel: str, what: str) -> History:
    """Return the history of *channel*. Raises ApiError without one: *what* has no meaning there."""
    found = numbered_history(tenant, channel)
    if found is not None:
        return found
    if kind_of(channel).user:
        raise ApiError(400, f"Cannot retrieve the {what}: channels of users have no history")
    raise ApiError(
        400,
        f"Cannot retrieve the {what}: the channel has no history. [[apps.history]] in the"
        " configuration file switches it on for some channels, --broker memory for all",
    )


def when_read(
    reply: Reply[Page | Gap], answer: Callable[[Page | Gap], Response]
) -> Reply[Response]:
    """Return the *answer* to what was read: `after`, in a form in which its type can be checked."""
    return after(reply, answer) if isinstance(reply, Later) else answer(reply)


def history(request: ApiRequest, name: str) -> Reply[Response]:
    """GET /channels/{channel}/history: kept events, the oldest first, and the present position."""
    request.allow_only("since", "cursor", "limit")
    request.check_channel(name)
    found = required_history(request.tenant, name, "history")
    limit = _limit(request.parameter("limit"))
    since = _since(request.parameter("since"), request.parameter("cursor"))
    if since is None:
        since = ALL_KEPT if limit else POSITION_ONLY
    # For an engine, 0 is no limit.
    reply = request.tenant.history(name, since, found.keep, limit=limit or 1, max_bytes=MAX_BYTES)
    return when_read(reply, partial(_answer, limit))


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if _LIMIT.fullmatch(text) is None or int(text) > MAX_LIMIT:
        raise ApiError(400, f"Expected limit parameter to be an integer from 0 to {MAX_LIMIT}")
    return int(text)


def _since(seconds: str | None, cursor: str | None) -> Since | None:
    if seconds is not None and cursor is not None:
        raise ApiError(400, "Expected either a since parameter or a cursor parameter, not both")
    if seconds is not None:
        if _SECONDS.fullmatch(seconds) is None:
            raise ApiError(
                400,
                "Expected since parameter to be a number of seconds since 1970, e.g. 1700000000.5",
            )
        return FromTime(float(seconds))
    if cursor is None:
        return None
    parts = _CURSOR.fullmatch(cursor)
    if parts is None:
        raise ApiError(
            400,
            "Expected cursor parameter to be the cursor of an answer, or epoch and offset of a"
            " position with a colon between them",
        )
    return Position(parts[1], int(parts[2]))


def _answer(limit: int, found: Page | Gap) -> Response:
    if isinstance(found, Gap):
        raise ApiError(
            410,
            f"Cannot continue from here: {found.reason.value}. Read all events that are kept,"
            " without since and cursor, or only the present position, with limit=0",
        )
    position = found.position
    written: list[dict[str, Any]] = []
    if limit:
        written = [_written(*one) for one in zip(found.events, found.times, strict=True)]
    elif found.events:
        # The place before the event that a longer page begins with.
        first = _position(found.events[0])
        position = Position(first.epoch, first.offset - 1)
    return ok(
        {
            "events": written,
            "cursor": f"{position.epoch}:{position.offset}",
            "more": position.offset < found.top.offset,
            "epoch": found.top.epoch,
            "offset": found.top.offset,
        }
    )


def _written(event: Event, unix_s: float) -> dict[str, Any]:
    position = _position(event)
    written: dict[str, Any] = {
        "name": event.name,
        "data": Raw(event.data),
        # Rounded down: with `since`, the time of an event includes the event.
        "time": floor(unix_s * 1000) / 1000,
        "epoch": position.epoch,
        "offset": position.offset,
    }
    if event.user_id is not None:
        written["user_id"] = event.user_id
    return written


def _position(event: Event) -> Position:
    if event.position is None:
        raise AssertionError("a kept event has a position")
    return event.position
