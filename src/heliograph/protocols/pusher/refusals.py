"""
The errors that clients receive: Pusher's codes, and Pusher's texts where they are known.

People search for these texts, so they are exactly Pusher's. A code of None is sent as `null`, and
the socket stays open. Text from a client is in them only as returned by `echoed`.

Source: https://pusher.com/docs/channels/library_auth_reference/pusher-websockets-protocol/
"""

from collections.abc import Callable, Sequence
from typing import assert_never

from heliograph.errors import ClientError, echoed
from heliograph.node.dialect import Ending, NotAdmitted


class Code:
    """The codes that are sent in errors and Close frames; other codes confuse clients."""

    NO_SUCH_APP = 4001
    APP_DISABLED = 4003
    OVER_CONNECTION_QUOTA = 4004
    PATH_NOT_FOUND = 4005
    UNSUPPORTED_PROTOCOL = 4007
    NO_PROTOCOL = 4008
    UNAUTHORIZED = 4009
    OVER_CAPACITY = 4100
    RECONNECT = 4200
    PONG_NOT_RECEIVED = 4201
    CLIENT_EVENT_RATE = 4301
    WATCHLIST_LIMIT = 4302


def not_admitted(why: NotAdmitted.Why, key: str) -> ClientError:
    """The node does not admit a client that connects with *key*."""
    match why:
        case NotAdmitted.Why.UNKNOWN_KEY:
            return no_such_app(key)
        case NotAdmitted.Why.APP_DISABLED:
            return app_disabled()
        case NotAdmitted.Why.ORIGIN:
            return origin_not_allowed()
        case NotAdmitted.Why.QUOTA:
            return over_connection_quota()
        case other:
            assert_never(other)


def ended(ending: Ending, terminate_code: int) -> ClientError:
    """A session ends; *terminate_code* is for the connections of a terminated user."""
    if ending is Ending.TERMINATED:
        return terminated(terminate_code)
    return _ENDINGS[ending]()


def no_such_app(key: str) -> ClientError:
    """No app has this key."""
    text = f"App key {echoed(key)} not in this cluster. Did you forget to specify the cluster?"
    return ClientError(text, Code.NO_SUCH_APP, closes=True)


def app_disabled() -> ClientError:
    """The app exists and is switched off."""
    return ClientError("Application disabled", Code.APP_DISABLED, closes=True)


def over_connection_quota() -> ClientError:
    """The app has as many connections as it may have."""
    text = "Application is over connection quota"
    return ClientError(text, Code.OVER_CONNECTION_QUOTA, closes=True)


def path_not_found() -> ClientError:
    """The path of the WebSocket request is not /app/{key}."""
    return ClientError("Path not found", Code.PATH_NOT_FOUND, closes=True)


def unsupported_protocol() -> ClientError:
    """The server does not support the protocol version."""
    return ClientError("Unsupported protocol version", Code.UNSUPPORTED_PROTOCOL, closes=True)


def no_protocol() -> ClientError:
    """The client did not send a protocol version."""
    return ClientError("No protocol version supplied", Code.NO_PROTOCOL, closes=True)


def origin_not_allowed() -> ClientError:
    """The page is of another site; an extension, with Pusher's code for unauthorised."""
    return ClientError("Connection is unauthorized", Code.UNAUTHORIZED, closes=True)


def over_capacity() -> ClientError:
    """The server has as many connections as it can have; clients retry after a second."""
    return ClientError("Over capacity", Code.OVER_CAPACITY, closes=True)


def too_many_from_address() -> ClientError:
    """The client's address has too many connections. Not 4004, after which clients never retry."""
    text = "Over capacity: too many connections from your address"
    return ClientError(text, Code.OVER_CAPACITY, closes=True)


def too_many_messages() -> ClientError:
    """The client sends faster than the server allows; it may reconnect and send more slowly."""
    return ClientError(
        "Over capacity: too many messages per second", Code.OVER_CAPACITY, closes=True
    )


def too_much_unfinished() -> ClientError:
    """The server holds too many bytes of incomplete messages, and this client's are the most."""
    text = "Over capacity: too many incomplete messages"
    return ClientError(text, Code.OVER_CAPACITY, closes=True)


def engine_unavailable() -> ClientError:
    """The engine is unavailable; clients reconnect after a second, and subscribe again."""
    text = "Over capacity: the server is temporarily unavailable"
    return ClientError(text, Code.OVER_CAPACITY, closes=True)


def reconnect() -> ClientError:
    """The server stops in an orderly manner."""
    return ClientError("Please reconnect immediately", Code.RECONNECT, closes=True)


def pong_not_received() -> ClientError:
    """The client did not answer a ping of the server."""
    return ClientError("Pong reply not received", Code.PONG_NOT_RECEIVED, closes=True)


def invalid_signature(signed: str, received: str) -> ClientError:
    """The signature is not that of *signed*, a text without secrets."""
    signed, received = echoed(signed), echoed(received)
    text = f"Invalid signature: Expected HMAC SHA256 hex digest of {signed}, but got {received}"
    return ClientError(text)


def invalid_key(key: str) -> ClientError:
    """The part before the colon is no key of this app."""
    return ClientError(f"Invalid key in subscription auth data: '{echoed(key)}'")


def user_data_required() -> ClientError:
    """A sign-in must have user_data."""
    return ClientError("Missing parameter: data.user_data")


def already_signed_in(user_id: str) -> ClientError:
    """A session is signed in as one user until it ends."""
    return ClientError(f"Connection already signed in as user {echoed(user_id)}")


def not_signed_in_as(channel: str) -> ClientError:
    """Only sessions of a user may subscribe to the channel of that user."""
    return ClientError(f"Subscription to {echoed(channel)} requires signing in as that user")


def watchlist_limit(accepted: Sequence[str]) -> ClientError:
    """The sign-in succeeded, but not all of its watchlist is watched."""
    return ClientError(
        f"Watchlist limit exceeded. Only the first {len(accepted)} user IDs are accepted."
        f" Accepted: {echoed(', '.join(accepted))}",
        Code.WATCHLIST_LIMIT,
    )


def not_authorized_in_time() -> ClientError:
    """The app requires its clients to prove their identity, and this client did not in time."""
    return ClientError("Connection not authorized within timeout", Code.UNAUTHORIZED, closes=True)


def terminated(code: int) -> ClientError:
    """The application ended all connections of this user."""
    return ClientError("Connection is unauthorized", code, closes=True)


def already_subscribed(channel: str) -> ClientError:
    """The socket has a live subscription to the channel."""
    return ClientError(f"Existing subscription to channel {echoed(channel)}")


def too_many_subscriptions(limit: int) -> ClientError:
    """The socket has as many subscriptions as it may have."""
    return ClientError(f"Subscription limit exceeded: at most {limit} for each connection")


def not_subscribed(channel: str) -> ClientError:
    """The socket is not subscribed to the channel."""
    text = f"No current subscription to channel {echoed(channel)}, or subscription in progress"
    return ClientError(text)


def invalid_channel_name(channel: str) -> ClientError:
    """The name has characters, or a length, that are not legal for a channel."""
    return ClientError(f"Invalid channel name: {echoed(channel)}")


def presence_channel_full(channel: str, limit: int) -> ClientError:
    """The channel has as many members as it may have."""
    return ClientError(f"Presence channel {echoed(channel)} is full: at most {limit} members")


def channel_data_required() -> ClientError:
    """A presence subscription must have channel_data, or the socket must be signed in."""
    return ClientError(
        "Missing parameter: data.channel_data (a presence subscription needs it,"
        " or a signed-in user)"
    )


def client_events_disabled() -> ClientError:
    """The app does not allow client events; Pusher's text, which people search for."""
    return ClientError(
        "To send client events, you must enable this feature in the Settings page of your"
        " dashboard."
    )


def client_event_not_subscribed(channel: str) -> ClientError:
    """Only subscribers of a channel may send client events to it."""
    return ClientError(
        f"Cannot broadcast client event (connection not subscribed to channel {echoed(channel)})"
    )


def client_event_incomplete() -> ClientError:
    """A client event needs a channel and data."""
    return ClientError("Invalid client event (must contain channel and data)")


def client_event_wrong_channel() -> ClientError:
    """A client event needs a private or presence channel: any client may subscribe to others."""
    return ClientError("Client event rejected - only supported on private and presence channels")


def client_event_name_too_long(limit: int) -> ClientError:
    """The event's name is longer than the app allows."""
    return ClientError(f"Client event rejected - the name exceeds {limit} characters")


def client_event_too_large(limit: int) -> ClientError:
    """The event's data is larger than the app allows."""
    return ClientError(
        f"Client event rejected - the data content of this event exceeds the allowed maximum"
        f" ({limit} bytes)"
    )


def client_event_rate() -> ClientError:
    """The socket sends faster than the app allows; this event was dropped."""
    return ClientError("Client event rejected due to rate limit", Code.CLIENT_EVENT_RATE)


def unsupported_event(event: str) -> ClientError:
    """The protocol has no such event."""
    return ClientError(f"Unsupported event received on socket: {echoed(event)}")


def forbidden(channel: str, reason: str) -> ClientError:
    """The application's rules do not allow the subscription; the *reason* is the application's."""
    return ClientError(f"Subscription to channel {echoed(channel)} is forbidden: {echoed(reason)}")


_ENDINGS: dict[Ending, Callable[[], ClientError]] = {
    Ending.APP_DISABLED: app_disabled,
    Ending.RECONNECT: reconnect,
    Ending.EVENTS_LOST: reconnect,
    Ending.ENGINE_UNAVAILABLE: engine_unavailable,
    Ending.OVER_CAPACITY: over_capacity,
    Ending.ADDRESS_OVER_LIMIT: too_many_from_address,
    Ending.TOO_MANY_MESSAGES: too_many_messages,
    Ending.TOO_MUCH_UNFINISHED: too_much_unfinished,
    Ending.PING_UNANSWERED: pong_not_received,
    Ending.NOT_IDENTIFIED: not_authorized_in_time,
}
