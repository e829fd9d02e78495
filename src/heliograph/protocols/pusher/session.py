"""
One client's protocol state: its messages and the time in; answers and requests out.

Knows what Pusher's client says and is told. Knows nothing of sockets, frames or other
nodes: it answers through its `Peer`, and asks its `Application` for what concerns others.

A subscription is, in `channels`:

    missing ──subscribe──▶ Attempt ──entered──▶ Subscription
       ▲                      │                      │
       └─────────unsubscribe──┴──────────────────────┘

An attempt that is no longer in its place when its answer comes is ignored: whoever took
it out has already told the application that it left, in the same order.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

from msgspec import Struct

from heliograph.apps import App
from heliograph.engine.answers import Entry, Refusal, SignedIn
from heliograph.errors import MAX_ECHO, ClientError, EngineError
from heliograph.hub.channel import Lane, Subscription
from heliograph.hub.facts import Event, Member
from heliograph.metrics import Tally
from heliograph.node.dialect import Ending
from heliograph.protocols.json import UNREADABLE, as_string_literal, string_size
from heliograph.protocols.pusher import auth, messages, refusals
from heliograph.protocols.pusher.messages import User
from heliograph.protocols.pusher.names import (
    CLIENT_EVENT_PREFIX,
    TAKES_CLIENT_EVENTS,
    USER_CHANNEL_PREFIX,
    Kind,
    is_channel_name,
    kind_of,
)
from heliograph.reply import Later, Reply, proceed
from heliograph.slices import Each

LEFT_AT_ONCE = 32
"""A session with more channels than this leaves them in slices: each takes some 10 µs."""


class Peer(Protocol):
    """Who carries what a session says: a subscriber that can also be spoken to alone."""

    id: str

    @property
    def lane(self) -> Lane:
        """How it wants what is said on channels."""

    def write(self, chunk: Any, /) -> object:
        """Take a chunk of the lane's."""

    def send(self, *texts: bytes) -> None:
        """Deliver messages to this client, in one write."""

    def close(self, error: ClientError) -> None:
        """Tell the client why, then end the connection; `Session.end` is called on the way."""


class Application(Protocol):
    """What a session asks of the app that it belongs to."""

    app: App
    tally: Tally

    def enter(
        self, session: "Session", channel: str, kind: Kind, member: Member | None
    ) -> Reply[Entry | Refusal]:
        """Make a subscription known to everybody; the reply comes in the channel's order."""

    def subscribe(self, session: "Session", channel: str, kind: Kind, entry: Entry) -> Subscription:
        """Have what is said on *channel* from now on written to the session's peer."""

    def leave(
        self, session: "Session", channel: str, kind: Kind, subscription: Subscription | None
    ) -> None:
        """Undo `enter`, and `subscribe` where it came to that."""

    def client_event(self, session: "Session", event: Event) -> Reply[None]:
        """Have a client's event delivered to the others on its channel."""

    def sign_in(self, session: "Session", user: User) -> Reply[SignedIn]:
        """Make it known to everybody that the session is *user*."""

    def watch(self, session: "Session", user: User) -> None:
        """Have the session told of those that the user watches, and closed with the user."""

    def sign_out(self, session: "Session", user: User) -> None:
        """Undo `sign_in`, and `watch` where it came to that."""

    def signature_failed(self, reason: str, channel: str | None) -> None:
        """
        Take note that a client showed a signature that is none; *reason* is of a few.

        *channel* is what it wanted to subscribe to, None where it wanted to sign in.
        """

    def ended(self, session: "Session") -> None:
        """Count the session no more; it has left its channels, or is about to leave them."""

    def leave_in_slices(self, session: "Session", job: Iterator[None]) -> None:
        """Have *job* done, by which an ended session leaves, between the loop's other work."""


class Attempt(Struct, frozen=True, eq=False):
    """A subscription that waits for the application's answer."""

    channel: str
    kind: Kind
    member: Member | None


class DialectSettings(Struct, frozen=True):
    """
    What all sessions of a dialect share.

    *greeting* is the first message, with a place for the socket id. *subscription_errors* adds
    `pusher_internal:subscription_error` to a refused subscription. *terminate_code* closes the
    sessions of a user whose connections are terminated.
    """

    greeting: bytes
    subscription_errors: bool
    terminate_code: int


class Session:
    """The state of one client of an app."""

    __slots__ = (
        "_application",
        "_members",
        "_refilled",
        "_settings",
        "_signing_in",
        "_tokens",
        "channels",
        "ended",
        "id",
        "identified",
        "peer",
        "user",
    )

    def __init__(self, socket_id: str, application: Application, settings: DialectSettings) -> None:
        self.id = socket_id
        self.peer: Peer
        self.user: User | None = None
        self._signing_in: User | None = None
        # Whether it ever proved who it is, by signing in or joining what is not public.
        self.identified = False
        self.ended = False
        self.channels: dict[str, Subscription | Attempt] = {}
        self._application = application
        self._settings = settings
        self._members: dict[str, Member] | None = None  # who we are, by presence channel
        # A full bucket is None, so that idle clients share it; see _take_token.
        self._tokens: float | None = None
        self._refilled = 0.0

    @property
    def app(self) -> App:
        """The app that the session belongs to, as it is configured now."""
        return self._application.app

    def open(self, peer: Peer) -> bytes:
        """Return the first message, which the peer sends before anything else."""
        self.peer = peer
        return self._settings.greeting % self.id.encode()

    def receive(self, text: bytes, now: float) -> None:
        """Handle a message, valid UTF-8, that came at *now* (monotonic seconds)."""
        try:
            try:
                message = messages.INCOMING.decode(text)
            except UNREADABLE:
                message = messages.read_message(text)
            if message.event.startswith(CLIENT_EVENT_PREFIX):
                self._client_event(message, now)
            elif message.event == messages.SUBSCRIBE:
                self._subscribe(message)
            else:
                self._handle(message)
        except ClientError as error:
            self.refuse(error)

    def refuse(self, error: ClientError) -> None:
        """Tell the client of *error*, and close where the error says so."""
        if error.closes:
            self.peer.close(error)
        else:
            self._application.tally.refused(error.code)
            self.peer.send(messages.error_message(error))

    def close(self, ending: Ending) -> None:
        """End the connection, with the code and text that Pusher has for *ending*."""
        self.peer.close(refusals.ended(ending, self._settings.terminate_code))

    def lost(self, _channel: str, _now: Entry | None) -> bool:
        """Return False: this protocol has no message for lost events, its client must reconnect."""
        return False

    def end(self) -> None:
        """
        Leave everything: the client disconnected or is being closed. Called once.

        From now on the session is not counted, and nothing is sent to its client. If it has many
        channels, it leaves them in slices; a reply that comes before its attempt's turn changes
        what there is to leave, no more.
        """
        self.ended = True
        if len(self.channels) > LEFT_AT_ONCE:
            self._application.ended(self)
            job = Each(self._names(), self._leave_ended, self._sign_out)
            self._application.leave_in_slices(self, job)
            return
        channels, self.channels = self.channels, {}
        for name, place in channels.items():
            self._leave(name, place)
        if self.user is not None or self._signing_in is not None:
            self._sign_out()
        self._application.ended(self)

    def _names(self) -> Iterator[str]:
        """The channels to leave, listed when it comes to that: many sessions may wait for it."""
        yield from list(self.channels)

    def _leave_ended(self, name: str) -> None:
        place = self.channels.pop(name, None)
        if place is not None:  # nor an attempt that was refused, or failed, since the end
            self._leave(name, place)

    def _sign_out(self) -> None:
        user = self.user or self._signing_in
        self.user = self._signing_in = None
        if user is not None:
            self._application.sign_out(self, user)

    def _handle(self, message: messages.Incoming) -> None:
        match message.event:
            case messages.PING:
                self.peer.send(messages.PONG_MESSAGE)
            case messages.UNSUBSCRIBE:
                self._unsubscribe(message)
            case messages.SIGN_IN:
                self._sign_in(message)
            case messages.PONG:
                pass  # a sign of life like any other, which the peer has noticed
            case event:
                raise refusals.unsupported_event(event)

    # -- Subscriptions -------------------------------------------------------------------

    def _subscribe(self, message: messages.Incoming) -> None:
        request = messages.read_subscribe(message.data)
        name = request.channel
        try:
            kind, member = self._admitted(name, request)
        except ClientError as error:
            self._subscription_refused(name, error)
            return
        attempt = self.channels[name] = Attempt(name, kind, member)
        reply = self._application.enter(self, name, kind, member)
        if isinstance(reply, Later):
            reply.then(partial(self._answered, attempt), partial(self._failed, attempt))
        else:
            self._answered(attempt, reply)

    def _admitted(self, name: str, request: messages.Subscribe) -> tuple[Kind, Member | None]:
        app = self._application.app
        if not is_channel_name(name, app.max_channel_name_length):
            raise refusals.invalid_channel_name(name)
        if name in self.channels:
            raise refusals.already_subscribed(name)
        if len(self.channels) >= app.max_subscriptions > 0:
            raise refusals.too_many_subscriptions(app.max_subscriptions)
        kind = kind_of(name)
        if kind.user and (self.user is None or name != USER_CHANNEL_PREFIX + self.user.id):
            raise refusals.not_signed_in_as(name)
        if not kind.private:
            return kind, None
        signed = auth.channel_string(self.id, name, request.channel_data)
        self._check_signature(signed, request.auth or "", name)
        return kind, self._member(request) if kind.presence else None

    def _check_signature(self, signed: str, stated: str, channel: str | None = None) -> None:
        key, _, signature = stated.partition(":")
        application = self._application
        secret = application.app.secret(key)
        if secret is None:
            application.signature_failed("unknown key", channel)
            raise refusals.invalid_key(key)
        if not auth.matches(auth.sign(secret, signed), signature):
            application.signature_failed("wrong signature", channel)
            raise refusals.invalid_signature(signed, signature)

    def _member(self, request: messages.Subscribe) -> Member:
        if request.channel_data is None:
            if self.user is None:
                raise refusals.channel_data_required()
            return self.user.member
        app = self._application.app
        return messages.read_member(
            request.channel_data, app.max_presence_user_id_length, app.max_presence_user_bytes
        )

    def _subscription_refused(self, name: str, error: ClientError) -> None:
        self.refuse(error)
        # Java's client tries to decrypt whatever names an encrypted channel, and throws.
        # It finds the channel by its whole name, so one that is not legal is not repeated cut.
        whole = len(name) <= MAX_ECHO or is_channel_name(name, self.app.max_channel_name_length)
        if self._settings.subscription_errors and whole and not kind_of(name).encrypted:
            self.peer.send(messages.subscription_error(name, error))

    def _answered(self, attempt: Attempt, entry: Entry | Refusal) -> None:
        if self.channels.get(attempt.channel) is not attempt:
            return
        if isinstance(entry, Entry):
            if not self.ended:
                self._entered(attempt, entry)
            return
        del self.channels[attempt.channel]
        if self.ended:
            return
        limit = self._application.app.max_presence_members
        full = refusals.presence_channel_full(attempt.channel, limit)
        self._subscription_refused(attempt.channel, full)

    def _failed(self, attempt: Attempt, error: Exception) -> None:
        if not isinstance(error, EngineError):
            raise error
        if self.channels.get(attempt.channel) is attempt:
            del self.channels[attempt.channel]
            if not self.ended:
                self._subscription_refused(attempt.channel, refusals.engine_away(attempt.channel))

    def _entered(self, attempt: Attempt, entry: Entry) -> None:
        name, kind, member = attempt.channel, attempt.kind, attempt.member
        self.identified |= kind.private
        if member is None:
            acknowledgement = messages.subscription_succeeded(name)
        else:
            acknowledgement = messages.presence_succeeded(name, entry.roster)
        if not kind.cached:
            self.peer.send(acknowledgement)
        elif entry.cached is None:
            self.peer.send(acknowledgement, messages.cache_miss(name))
        else:
            self.peer.send(acknowledgement, messages.fact_message(entry.cached.event))
        subscription = self._application.subscribe(self, name, kind, entry)
        # The channel's own string for all its subscribers, not one from each client's message.
        del self.channels[name]
        name = subscription.channel.name
        self.channels[name] = subscription
        if member is not None:
            if self._members is None:
                self._members = {}
            self._members[name] = member

    def _unsubscribe(self, message: messages.Incoming) -> None:
        name = messages.read_unsubscribe(message.data).channel
        place = self.channels.pop(name, None)
        if place is None:
            raise refusals.not_subscribed(name)
        self._leave(name, place)

    def _leave(self, name: str, place: Subscription | Attempt) -> None:
        if self._members is not None:
            self._members.pop(name, None)
        subscription = place if isinstance(place, Subscription) else None
        self._application.leave(self, name, kind_of(name), subscription)

    # -- Signing in ----------------------------------------------------------------------

    def _sign_in(self, message: messages.Incoming) -> None:
        request = messages.read_sign_in(message.data)
        if request.user_data is None:
            raise refusals.user_data_required()
        self._check_signature(auth.user_string(self.id, request.user_data), request.auth)
        app = self._application.app
        user = messages.read_user(request.user_data, app.max_presence_user_id_length)
        present = self.user or self._signing_in
        if present is not None and present.id != user.id:
            raise refusals.already_signed_in(present.id)
        self._signing_in = user
        proceed(
            self._application.sign_in(self, user),
            partial(self._signed_in, user, request.user_data),
            partial(self._sign_in_failed, user),
        )

    def _signed_in(self, user: User, user_data: str, found: SignedIn) -> None:
        if self._signing_in is not user:
            return
        self._signing_in = None
        self.user = user
        if self.ended:
            return  # it signs out once it has left its channels
        self.identified = True
        self._application.watch(self, user)
        told = [messages.signin_success(user_data)]
        if self._application.app.watchlist:
            if user.truncated:
                told.append(messages.error_message(refusals.watchlist_limit(user.watchlist)))
            online = [one for one in user.watchlist if one in found.online]
            offline = [one for one in user.watchlist if one not in found.online]
            states = messages.watchlist_events(online, offline)
            if states is not None:
                told.append(states)
        self.peer.send(*told)

    def _sign_in_failed(self, user: User, error: Exception) -> None:
        if not isinstance(error, EngineError):
            raise error
        if self._signing_in is user:
            self._signing_in = None
            if not self.ended:
                self.refuse(refusals.sign_in_failed())

    # -- Client events -------------------------------------------------------------------

    def _client_event(self, message: messages.Incoming, now: float) -> None:
        event = self._accepted_client_event(message)
        limit = self._application.app.max_client_events_per_second
        if limit and not self._take_token(limit, now):
            raise refusals.client_event_rate()
        reply = self._application.client_event(self, event)
        if reply is not None:
            proceed(reply, _done, self._client_event_failed)

    def _accepted_client_event(self, message: messages.Incoming) -> Event:
        app = self._application.app
        channel, data = message.channel, bytes(message.data)
        if not isinstance(channel, str) or not data:
            raise refusals.client_event_incomplete()
        if not app.client_events:
            raise refusals.client_events_disabled()
        if not channel.startswith(TAKES_CLIENT_EVENTS):
            raise refusals.client_event_wrong_channel()
        if type(self.channels.get(channel)) is not Subscription:
            raise refusals.client_event_not_subscribed(channel)
        if app.max_event_name_length and len(message.event) > app.max_event_name_length:
            raise refusals.client_event_name_too_long(app.max_event_name_length)
        if not data.startswith(b'"'):
            data = as_string_literal(data)
        # Escapes only make a literal longer, so a short one needs no closer look.
        limit = app.max_event_bytes
        if limit and len(data) - 2 > limit and string_size(data) > limit:
            raise refusals.client_event_too_large(limit)
        member = self._members.get(channel) if self._members else None
        return Event(channel, message.event, data, self.id, member.user_id if member else None)

    def _client_event_failed(self, error: Exception) -> None:
        if not isinstance(error, EngineError):
            raise error
        self.refuse(ClientError("Client event rejected - try again later"))

    def _take_token(self, per_second: int, now: float) -> bool:
        """Take one of *per_second* tokens that come back within a second, evenly."""
        if self._tokens is None:
            tokens = float(per_second)
        else:
            tokens = min(per_second, self._tokens + (now - self._refilled) * per_second)
        self._refilled = now
        self._tokens = tokens - 1 if tokens >= 1 else tokens
        return tokens >= 1


def _done(_nothing: None) -> None:
    """Nothing is left to do."""
