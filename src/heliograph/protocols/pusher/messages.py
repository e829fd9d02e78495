"""
Messages of the Pusher protocol: those that clients send, and those that the server sends.

The server sends JSON in UTF-8; `data` is a string that contains JSON, except in `pusher:error`,
where it is an object. The codes of errors, and most of their texts, are in refusals.py.

Source: https://pusher.com/docs/channels/library_auth_reference/pusher-websockets-protocol/
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType, field

from heliograph.engine.answers import FromTime, Since
from heliograph.errors import ClientError
from heliograph.hub.facts import (
    Event,
    Fact,
    Member,
    MemberAdded,
    MemberRemoved,
    Position,
    UserStatus,
)
from heliograph.node.dialect import Goodbye
from heliograph.node.replay import HistoryRequest
from heliograph.protocols.json import (
    UNREADABLE,
    InvalidJson,
    as_string_literal,
    decode,
    decoder_of,
    encode,
    string_literal,
    string_value,
)
from heliograph.protocols.kinds import USER_CHANNEL_PREFIX
from heliograph.protocols.pusher.event_text import event_message
from heliograph.protocols.pusher.names import is_channel_name
from heliograph.wire.websocket import CloseCode

T = TypeVar("T")

MIN_PROTOCOL = 4
MAX_PROTOCOL = 7

# -- Sent by clients -----------------------------------------------------------------------

SUBSCRIBE = "pusher:subscribe"
UNSUBSCRIBE = "pusher:unsubscribe"
PING = "pusher:ping"
PONG = "pusher:pong"
SIGN_IN = "pusher:signin"

MAX_WATCHLIST = 100
MAX_FORMER_IDS = 16
MAX_FORMER_ID_LENGTH = 64  # three times that of a socket id

LONE_SURROGATES = "backslashreplace"
"""
The error handler for JSON within a JSON string: UTF-8 cannot contain lone surrogates.

It writes them as escapes, which mean the same in JSON.
"""


class Incoming(Struct, gc=False):
    """
    Any message of a client. *data* is not decoded, and is empty if the client sent none.

    *channel* is None if the client sent no string.
    """

    event: str
    channel: str | None = None
    data: Raw = Raw()


class _AnyChannel(Struct, gc=False):
    """Any message of a client, with a *channel* of any type, which is not decoded."""

    event: str
    channel: Raw = Raw()
    data: Raw = Raw()


class AskedHistory(Struct, gc=False):
    """
    The `history` of a `pusher:subscribe`, of this server: the client wants positions.

    It misses events after the position *epoch* and *offset*, or since the time *since* (seconds
    since 1970), or has none to miss. *former_ids* are socket ids that it had before.
    """

    epoch: str | None = None
    offset: int | None = None
    since: float | None = None
    former_ids: list[str] = field(name="except", default_factory=list)


class Subscribe(Struct, gc=False):
    """The data of `pusher:subscribe`."""

    channel: str
    auth: str | None = None
    channel_data: str | None = None
    history: AskedHistory | None = None


class Unsubscribe(Struct, gc=False):
    """The data of `pusher:unsubscribe`."""

    channel: str


class ChannelData(Struct, gc=False):
    """The user of a client in a presence channel; signed by the application."""

    user_id: str | int
    user_info: Raw = Raw()


class SignIn(Struct, gc=False):
    """The data of `pusher:signin`; *user_data* is None if the client sent none."""

    auth: str = ""
    user_data: str | None = None


class UserData(Struct, gc=False):
    """The user that a client signs in as; signed by the application. The id is always a string."""

    id: str
    user_info: Raw = Raw()
    watchlist: Any = None


class User(Struct, frozen=True):
    """A signed-in user, with the data that one of its sessions sent."""

    id: str
    member: Member  # the member in presence channels, for subscriptions without channel_data
    watchlist: tuple[str, ...] = ()  # the accepted part
    truncated: bool = False  # the client sent more users than are accepted


INCOMING = decoder_of(Incoming)
"""Decodes most messages; if it fails, `read_message` decodes the message or raises the error."""

_subscribe = decoder_of(Subscribe)


def read_message(text: bytes) -> Incoming:
    """Read a client's message, valid UTF-8. Raises ClientError."""
    try:
        found = decode(text, _AnyChannel)
        literal = bytes(found.channel)
        channel = string_value(literal) if literal.startswith(b'"') else None
    except InvalidJson as error:
        if error.well_formed:
            message = 'Invalid message: expected a JSON object with a string "event"'
            raise ClientError(message) from None
        raise ClientError("Invalid JSON") from None
    return Incoming(found.event, channel, found.data)


def read_subscribe(data: Raw) -> Subscribe:
    """Read the data of `pusher:subscribe`. Raises ClientError."""
    try:
        return _subscribe.decode(data)
    except UNREADABLE:
        return _read_data(
            data,
            Subscribe,
            SUBSCRIBE,
            "a string channel, strings for auth and channel_data, and an object for history",
        )


def history_request(asked: AskedHistory) -> HistoryRequest:
    """Return what a client asks for with `history`. Raises ClientError."""
    since: Since | None = None
    if asked.epoch is not None and asked.offset is not None and asked.offset >= 0:
        since = Position(asked.epoch, asked.offset)
    elif asked.epoch is not None or asked.offset is not None:
        raise ClientError(
            "Invalid history: a position has both a string epoch and an offset that is not negative"
        )
    if asked.since is not None:
        if since is not None:
            raise ClientError("Invalid history: expected either a position or since, not both")
        since = FromTime(asked.since)
    if len(asked.former_ids) > MAX_FORMER_IDS:
        raise ClientError(f"Invalid history: except has more than {MAX_FORMER_IDS} socket ids")
    if any(len(one) > MAX_FORMER_ID_LENGTH for one in asked.former_ids):
        raise ClientError("Invalid history: except has a text that is no socket id")
    return HistoryRequest(since, frozenset(asked.former_ids))


def read_unsubscribe(data: Raw) -> Unsubscribe:
    """Read the data of `pusher:unsubscribe`. Raises ClientError."""
    return _read_data(data, Unsubscribe, UNSUBSCRIBE, "a string channel")


def _read_data(data: Raw, shape: type[T], event: str, expected: str) -> T:
    text = bytes(data)
    try:
        # Data should be an object; some clients send a string that contains one.
        if text.startswith(b'"'):
            text = string_value(text).encode(errors=LONE_SURROGATES)
        return decode(text, shape)
    except InvalidJson:
        raise ClientError(f"Invalid data of {event}: expected an object with {expected}") from None


def read_member(channel_data: str, max_user_id_length: int, max_bytes: int) -> Member:
    """
    Read the `channel_data` of a presence subscription; 0 is no limit. Raises ClientError.

    A user id that is a number is converted to its decimal string here.
    """
    text = channel_data.encode(errors=LONE_SURROGATES)
    if max_bytes and len(text) > max_bytes:
        raise ClientError(
            f"channel_data of a presence subscription exceeds the allowed {max_bytes} bytes"
        )
    try:
        found = decode(text, ChannelData)
    except InvalidJson:
        raise ClientError(
            "Invalid channel_data: expected a JSON object whose user_id is a string or an integer"
        ) from None
    user_id = str(found.user_id)
    if not user_id:
        raise ClientError("Invalid channel_data: user_id is empty")
    if max_user_id_length and len(user_id) > max_user_id_length:
        raise ClientError(
            f"Invalid channel_data: user_id exceeds the allowed {max_user_id_length} characters"
        )
    user_info = bytes(found.user_info)
    return Member(user_id, user_info if user_info not in (b"", b"null") else None)


def read_sign_in(data: Raw) -> SignIn:
    """Read the data of `pusher:signin`. Raises ClientError."""
    return _read_data(data, SignIn, SIGN_IN, "strings for auth and user_data")


def read_user(user_data: str, max_id_length: int) -> User:
    """Read the `user_data` of a sign-in; 0 is no limit. Raises ClientError."""
    try:
        found = decode(user_data.encode(errors=LONE_SURROGATES), UserData)
    except InvalidJson:
        raise ClientError(
            "Invalid user_data: expected a JSON object whose id is a string"
        ) from None
    # The id must be legal in the name of a channel: each user has a channel.
    if not is_channel_name(USER_CHANNEL_PREFIX + found.id, 0):
        raise ClientError(
            "Invalid user_data: id contains characters that are not allowed in channel names"
        )
    if max_id_length and len(found.id) > max_id_length:
        raise ClientError(f"Invalid user_data: id exceeds the allowed {max_id_length} characters")
    watchlist = found.watchlist if found.watchlist is not None else []
    if not isinstance(watchlist, list) or not all(isinstance(one, str) for one in watchlist):
        raise ClientError("Invalid user_data: watchlist must be an array of strings")
    distinct = tuple(dict.fromkeys(watchlist))
    user_info = bytes(found.user_info)
    return User(
        found.id,
        Member(found.id, user_info if user_info not in (b"", b"null") else None),
        distinct[:MAX_WATCHLIST],
        len(distinct) > MAX_WATCHLIST,
    )


# -- Sent by the server --------------------------------------------------------------------


class ServerMessage(Struct, frozen=True, gc=False):
    """Any message of the server except events and errors. *data* is the literal of a string."""

    event: str
    channel: str | UnsetType = UNSET
    data: Raw = Raw()


class ErrorData(Struct, frozen=True, gc=False):
    """The data of `pusher:error`; *code* is an integer or null, never a string."""

    code: int | None
    message: str


class ErrorMessage(Struct, frozen=True, gc=False):
    """`pusher:error`."""

    event: str
    data: ErrorData


_EMPTY = Raw(b'"{}"')
PONG_MESSAGE = encode(ServerMessage(PONG, data=_EMPTY))


def _nested(value: Any) -> Raw:
    """Return *value* as JSON in a JSON string: the form of `data`."""
    return Raw(as_string_literal(encode(value)))


def error_message(error: ClientError) -> bytes:
    """`pusher:error`."""
    return encode(ErrorMessage("pusher:error", ErrorData(error.code, error.message)))


def goodbye(error: ClientError) -> Goodbye:
    """Return the goodbye of a client that is closed for *error*: `pusher:error`, then its code."""
    return Goodbye(error.code or CloseCode.NORMAL, error.message, error_message(error))


def subscription_error(channel: str, error: ClientError) -> bytes:
    """`pusher_internal:subscription_error`: an extension that only the .NET client handles."""
    data = {"type": "AuthError", "error": error.message, "status": 401}
    return encode(ServerMessage("pusher_internal:subscription_error", channel, _nested(data)))


def connection_established(activity_timeout_s: int) -> bytes:
    """
    The first message of a connection, with %b in place of its socket id.

    A socket id needs no escaping.
    """
    return (
        b'{"event":"pusher:connection_established","data":"{\\"socket_id\\":\\"%%b\\",'
        b'\\"activity_timeout\\":%d}"}' % activity_timeout_s
    )


def subscription_succeeded(channel: str) -> bytes:
    """The acknowledgement of a subscription, presence channels excepted."""
    return encode(ServerMessage("pusher_internal:subscription_succeeded", channel, _EMPTY))


def presence_succeeded(channel: str, roster: Sequence[Member]) -> bytes:
    """
    The acknowledgement of a subscription to a presence channel, with all of its members.

    It is joined from parts that are encoded once for each member: in a channel of a thousand
    members, each of a thousand new subscribers receives the roster.
    """
    parts = [_encoded(member) for member in roster]
    return b"".join(
        (
            b'{"event":"pusher_internal:subscription_succeeded","channel":',
            string_literal(channel),
            b',"data":"{\\"presence\\":{\\"count\\":%d,\\"ids\\":[' % len(parts),
            b",".join([part.user_id for part in parts]),
            b'],\\"hash\\":{',
            b",".join([part.entry for part in parts]),
            b'}}}"}',
        )
    )


class _MemberParts(Struct, frozen=True, gc=False):
    """The two parts of a member in a roster, escaped for the inside of a JSON string."""

    user_id: bytes
    entry: bytes


def _encoded(member: Member) -> _MemberParts:
    parts = member.encoded
    if not isinstance(parts, _MemberParts):
        user_id = string_literal(member.user_id)
        entry = user_id + b":" + (member.user_info or b"null")
        parts = _MemberParts(_inside_string(user_id), _inside_string(entry))
        member.encoded = parts
    return parts


def _inside_string(text: bytes) -> bytes:
    return encode(text.decode())[1:-1]


def signin_success(user_data: str) -> bytes:
    """The acknowledgement of a sign-in; it contains *user_data* exactly as the client sent it."""
    return encode(ServerMessage("pusher:signin_success", data=_nested({"user_data": user_data})))


def watchlist_events(online: Sequence[str], offline: Sequence[str]) -> bytes | None:
    """The watched users that are online and offline; None if both lists are empty."""
    events = [
        {"name": name, "user_ids": list(user_ids)}
        for name, user_ids in (("online", online), ("offline", offline))
        if user_ids
    ]
    if not events:
        return None
    data = _nested({"events": events})
    return encode(ServerMessage("pusher_internal:watchlist_events", data=data))


def cache_miss(channel: str) -> bytes:
    """The channel keeps no event for a new subscriber."""
    return encode(ServerMessage("pusher:cache_miss", channel, _EMPTY))


def next_position(channel: str, position: Position) -> bytes:
    """The position of the event that the next message is; for clients that asked for positions."""
    return _position_message("pusher_internal:next_position", channel, position)


def current_position(channel: str, position: Position) -> bytes:
    """The client has all events up to *position*; for clients that asked for positions."""
    return _position_message("pusher_internal:position", channel, position)


def _position_message(name: str, channel: str, position: Position) -> bytes:
    # An epoch needs no escaping. Joining text takes half the time of encoding a Struct.
    return b'{"event":"%b","channel":%b,"data":"{\\"epoch\\":\\"%b\\",\\"offset\\":%d}"}' % (
        name.encode(),
        string_literal(channel),
        position.epoch.encode(),
        position.offset,
    )


def gap(channel: str, reason: str, position: Position | None) -> bytes:
    """
    The client misses events of *channel*, and must fetch them elsewhere.

    Live events follow after *position*; None if the channel keeps no events.
    """
    data: dict[str, Any] = {"reason": reason}
    if position is not None:
        data |= {"epoch": position.epoch, "offset": position.offset}
    return encode(ServerMessage("pusher_internal:gap", channel, _nested(data)))


def fact_message(fact: Fact) -> bytes:
    """Return the message with which the subscribers of a channel receive *fact*."""
    if isinstance(fact, Event):
        return event_message(fact)
    if isinstance(fact, MemberAdded):
        return encode(
            ServerMessage("pusher_internal:member_added", fact.channel, _added(fact.member))
        )
    if isinstance(fact, MemberRemoved):
        data = _nested({"user_id": fact.user_id})
        return encode(ServerMessage("pusher_internal:member_removed", fact.channel, data))
    if isinstance(fact, UserStatus):
        name = "online" if fact.online else "offline"
        data = _nested({"events": [{"name": name, "user_ids": [fact.channel]}]})
        return encode(ServerMessage("pusher_internal:watchlist_events", data=data))
    data = _nested({"subscription_count": fact.count})
    return encode(ServerMessage("pusher_internal:subscription_count", fact.channel, data))


def _added(member: Member) -> Raw:
    data: dict[str, Any] = {"user_id": member.user_id}
    if member.user_info is not None:
        data["user_info"] = Raw(member.user_info)
    return _nested(data)
