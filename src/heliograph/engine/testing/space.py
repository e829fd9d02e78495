"""
The state of one app for one node, over a link to the shared state; see `engine`.

For each channel and user, it keeps the node's share, the answered part of it, and the last state
that the node received: members, counts, users online. So after an interruption, everything except
events can be repaired by difference.
"""

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from heliograph.engine.answers import (
    Counts,
    Entry,
    Gap,
    HistorySize,
    Listing,
    Lost,
    Mark,
    Options,
    Page,
    Published,
    Refusal,
    SignedIn,
    Since,
    Terms,
    Wants,
)
from heliograph.engine.base import PAGE_BYTES, Leaving, Local
from heliograph.engine.share import Share, count_less, count_more
from heliograph.engine.testing import messages
from heliograph.errors import OutcomeUnknown, Unavailable
from heliograph.hub.facts import (
    Event,
    Fact,
    Keep,
    Member,
    MemberAdded,
    MemberRemoved,
    Notice,
    SubscriptionCount,
    UserOffline,
    UserOnline,
    UserTerminated,
)
from heliograph.reply import Later, Reply, after

MAX_WAITING = 10_000
"""Commands of publishers that wait until the state is available again; others fail at once."""

MAX_WAITING_BYTES = 32 << 20
"""The approximate size of these commands in bytes."""

OVERHEAD_BYTES = 500
"""The approximate size of a command in bytes, without its texts."""


class Host(Protocol):
    """The interface of a space to its engine."""

    node: str
    now: Callable[[], float]
    publish_deadline_s: float
    enter_deadline_s: float
    schedule: Callable[[str, Callable[[], None]], object] | None
    is_connected: bool

    def send(self, command: messages.Command) -> None:
        """Send a command."""

    def reconnect(self) -> None:
        """Drop the connection, and make a new one."""

    def renewed(self, sent_at: float) -> None:
        """Handle that a command, sent at *sent_at*, renewed the lease."""


def user_partition(user_id: str) -> str:
    """Return the name of the partition of a user."""
    return f"user {user_id}"


class _Entering:
    """An `enter` that is unanswered; *seq* is that of the last command that contained it."""

    def __init__(
        self, ticket: int, channel: str, subscriber_id: str, options: Options, deadline: float
    ) -> None:
        self.ticket = ticket
        self.channel = channel
        self.subscriber_id = subscriber_id
        self.options = options
        self.deadline = deadline
        self.member: Member | None = None
        self.max_members = 0
        self.since: Since | None = None
        self.numbered = False
        self.seq = 0
        self.later: Later[Entry | Refusal] = Later()

    def message(self) -> messages.Entering:
        user_id = self.member.user_id if self.member is not None else None
        asked = self.options.keep if self.numbered else None
        return messages.Entering(
            self.ticket, self.deadline, user_id, self.max_members, self.since, asked
        )


class _SigningIn:
    """A `sign_in` that is unanswered."""

    def __init__(
        self,
        ticket: int,
        user_id: str,
        session_id: str,
        watchlist: tuple[str, ...],
        deadline: float,
    ) -> None:
        self.ticket = ticket
        self.user_id = user_id
        self.session_id = session_id
        self.watchlist = watchlist
        self.deadline = deadline
        self.seq = 0
        self.later: Later[SignedIn] = Later()

    def message(self) -> messages.SigningIn:
        return messages.SigningIn(self.ticket, self.deadline, self.user_id, self.watchlist)


class _Call:
    """A command that is not repeated after it failed: a publish, a termination, a read."""

    def __init__(self, body: messages.Body, deadline: float) -> None:
        self.body = body
        self.deadline = deadline
        self.sent = False
        self.over = False
        self.size = _size(body)
        self.later: Later[Any] = Later()

    def resolve(self, value: object) -> None:
        if not self.over:
            self.over = True
            self.later.resolve(value)

    def fail(self) -> None:
        """Fail with the certain outcome: it was not executed, or at least it will not be."""
        if self.over:
            return
        self.over = True
        changes = isinstance(self.body, messages.Publish | messages.Terminate)
        if self.sent and changes:
            self.later.fail(OutcomeUnknown("the engine did not answer in time"))
        else:
            self.later.fail(Unavailable("the engine is unavailable"))


class _Sent:
    """A command that the state has not answered."""

    def __init__(self, seq: int, body: messages.Body, at: float, call: _Call | None) -> None:
        self.seq = seq
        self.body = body
        self.at = at
        self.call = call


class _PutOff:
    """A delayed action of a partition; *received* is the last inbox number before it."""

    def __init__(self, partition: str, received: int, action: Callable[[], None]) -> None:
        self.partition = partition
        self.received = received
        self.action = action


class _KnownChannel:
    """The number and the members of a channel, as of the last message of the state."""

    def __init__(self, count: int, members: dict[str, Member]) -> None:
        self.count = count
        self.members = members


class _Parts:
    """A listing that was read at one moment."""

    def __init__(self, parts: messages.Listed) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Mapping[str, Counts]]:
        return iter(self._parts)


def _size(body: messages.Body) -> int:
    match body:
        case messages.Publish(events):
            return OVERHEAD_BYTES + sum(
                len(one.channel) + len(one.name) + len(one.data) for one in events
            )
        case messages.CountsOf(channels):
            return OVERHEAD_BYTES + sum(map(len, channels))
        case _:
            return OVERHEAD_BYTES


def _assertions_of(body: messages.Body) -> tuple[messages.Assert, ...]:
    match body:
        case messages.Assert():
            return (body,)
        case messages.Hello():
            return (body.asserted,)
        case _:
            return ()


def _failed() -> Later[Any]:
    later: Later[Any] = Later()
    later.fail(Unavailable("the engine is closed"))
    return later


def _listing(parts: Any) -> Reply[Listing]:
    return _Parts(parts)


class LinkedSpace:
    """The space of one app; the contract describes its methods."""

    def __init__(self, host: Host, app_id: str, local: Local, wants: Wants) -> None:
        self.app_id = app_id
        self.live = False
        self._closed = False
        self._host = host
        self._local = local
        self._wants = wants
        # The node's share, the answered part of it, and the last received state.
        self._share = Share()
        self._options: dict[str, Options] = {}
        self._entered: dict[str, int] = {}
        self._signed_in: dict[str, int] = {}
        self._watched: dict[str, int] = {}
        self._known: dict[str, _KnownChannel] = {}
        self._online: set[str] = set()
        # Unanswered commands.
        self._tickets = 0
        self._entering: dict[int, _Entering] = {}
        self._entering_of: dict[tuple[str, str], int] = {}  # channel, subscriber -> ticket
        self._signing_in: dict[int, _SigningIn] = {}
        self._enter_deadlines: deque[_Entering | _SigningIn] = deque()
        self._call_deadlines: deque[_Call] = deque()
        self._sent: deque[_Sent] = deque()
        self._returned: list[_Call] = []  # not executed, and sent again after the hello
        self._waiting: deque[_Call] = deque()
        self._waiting_bytes = 0
        self._unknown: list[_Call] = []  # sent before a disconnection; the hello shows the outcome
        # Channels, with their options, and users that must be asserted again.
        self._unasserted: dict[str, Options] = {}
        self._unasserted_users: set[str] = set()
        # Channels and users of which the state may have numbers, with the last command's number.
        self._asserted: dict[str, int] = {}
        self._asserted_users: dict[str, int] = {}
        self._withdrawn: tuple[int, ...] = ()  # named by a command that was not executed
        self._counts_due: set[str] = set()
        # The position in the state's log and in this node's inbox.
        self._seq = 0
        self._epoch: str | None = None
        self._seen = 0
        self._number = 0
        self._put_off: dict[int, _PutOff] = {}  # by a number in the order of receipt
        self._receipts = 0
        self._awaiting_begin = True  # until then, inbox messages are ignored
        self._complete = True
        self._greeting = False  # a hello is unanswered
        # The holder.
        self._holding: Mark | None = None  # the last change that was owed here
        self._settled: Mark | None = None
        self._settles = False  # the last settling was refused

    # -- Events, terminations, reads ---------------------------------------------------------

    def available(self, channel: str) -> bool:  # noqa: ARG002 - one link for all channels
        """Return whether the state is available."""
        return self.live

    def want(self, wants: Wants) -> None:
        """Send *wants* with each command; see the contract."""
        self._wants = wants

    def publish(
        self, events: Sequence[Event], terms: Terms | None = None
    ) -> Reply[Published | None]:
        """Publish *events*, all or none."""
        return self._call(messages.Publish(tuple(events), terms))

    def terminate(self, user_id: str) -> Reply[None]:
        """Terminate the sessions of a user."""
        return self._call(messages.Terminate(user_id))

    def counts(self, channels: Sequence[str]) -> Reply[Mapping[str, Counts]]:
        """Read the counts of *channels*."""
        return self._call(messages.CountsOf(tuple(channels)))

    def channels(self, prefix: str) -> Reply[Listing]:
        """Read the occupied channels."""
        return after(self._call(messages.ChannelsWith(prefix)), _listing)

    def users(self, channel: str) -> Reply[Sequence[str]]:
        """Read the members of *channel*."""
        return self._call(messages.UsersOf(channel))

    def history(
        self,
        channel: str,
        since: Since,
        keep: Keep,
        *,
        limit: int = 0,
        max_bytes: int = PAGE_BYTES,
    ) -> Reply[Page | Gap]:
        """Read the events that *channel* keeps."""
        return self._call(messages.HistoryOf(channel, since, keep, limit, max_bytes))

    def history_size(self) -> HistorySize | None:
        """Return None: the state keeps the events, and this node does not ask it."""
        return None

    def state_count(self, channel: str) -> None:
        """Request that the number of *channel* is stated, if it is due."""
        if self.live:
            self._send(messages.StateCount(channel))
        else:
            self._counts_due.add(channel)

    def settle(self, mark: Mark) -> None:
        """Report that the changes up to *mark* are kept."""
        self._settled = mark
        if self.live and self._holding is not None:
            self._send(messages.Settle(mark))

    def share(self) -> Share:
        """Return this node's share."""
        return self._share

    def _call(self, body: messages.Body) -> Later[Any]:
        call = _Call(body, self._host.now() + self._host.publish_deadline_s)
        if self._closed or not (self.live or self._wait(call)):
            call.fail()
            return call.later
        self._call_deadlines.append(call)
        if self.live:
            self._send_call(call)
        return call.later

    def _wait(self, call: _Call) -> bool:
        """Send *call* when the state is available again; return whether there is room for it."""
        size = self._waiting_bytes + call.size
        if len(self._waiting) >= MAX_WAITING or size > MAX_WAITING_BYTES:
            return False
        self._waiting.append(call)
        self._waiting_bytes = size
        return True

    def _send_call(self, call: _Call) -> None:
        call.sent = True
        self._send(call.body, call.deadline, call)

    # -- Entering and leaving ----------------------------------------------------------------

    def enter(
        self,
        channel: str,
        subscriber_id: str,
        options: Options,
        *,
        member: Member | None = None,
        max_members: int = 0,
        since: Since | None = None,
        numbered: bool = False,
    ) -> Reply[Entry | Refusal]:
        """Count a subscription; see the contract."""
        if self._closed:
            return _failed()
        deadline = self._host.now() + self._host.enter_deadline_s
        entering = _Entering(self._new_ticket(), channel, subscriber_id, options, deadline)
        entering.member, entering.max_members = member, max_members
        entering.since, entering.numbered = since, numbered
        self._share.enter(channel, member)
        self._options[channel] = options
        self._entering[entering.ticket] = entering
        self._entering_of[channel, subscriber_id] = entering.ticket
        self._enter_deadlines.append(entering)
        if self.live:
            entering.seq = self._seq + 1
            asserted = self._assertion(channel, options, [member], (entering.message(),))
            self._send_assert((asserted,))
        else:
            self._unasserted[channel] = options
        return entering.later

    def leave(self, channels: Iterable[Leaving], subscriber_id: str) -> None:
        """Undo `enter` for each of *channels*; see the contract."""
        withdrawn: list[int] = []
        left: dict[str, tuple[Options, list[Member | None]]] = {}
        for channel, options, member in channels:
            ticket = self._entering_of.get((channel, subscriber_id))
            self._share.leave(channel, member)
            if ticket is None:
                count_less(self._entered, channel)
            else:
                self._forget(self._entering[ticket])
                withdrawn.append(ticket)
            left.setdefault(channel, (options, []))[1].append(member)
            self._forget_channel(channel)
        self._assert_channels(left, tuple(withdrawn))

    def _assert_channels(
        self,
        changed: Mapping[str, tuple[Options, Sequence[Member | None]]],
        withdrawn: tuple[int, ...],
    ) -> None:
        if self.live:
            self._send_assert(
                tuple(
                    self._assertion(channel, options, members)
                    for channel, (options, members) in changed.items()
                ),
                withdrawn=withdrawn,
            )
            return
        for channel, (options, _) in changed.items():
            if channel in self._share.channels or channel in self._asserted:
                self._unasserted[channel] = options
            else:
                self._unasserted.pop(channel, None)  # entered and left, and the state knows nothing

    def _assertion(
        self,
        channel: str,
        options: Options,
        members: Iterable[Member | None],
        entering: tuple[messages.Entering, ...] = (),
    ) -> messages.ChannelAssertion:
        held = self._share.channels.get(channel)
        if held is None:
            numbers = {member: 0 for member in members if member is not None}
            return messages.ChannelAssertion(channel, 0, options, tuple(numbers.items()), entering)
        numbers = {
            held.members.get(member.user_id, member): held.sessions.get(member.user_id, 0)
            for member in members
            if member is not None
        }
        return messages.ChannelAssertion(
            channel, held.subscriptions, options, tuple(numbers.items()), entering
        )

    def _forget(self, entering: _Entering) -> None:
        """Drop an `enter`: its answer will be ignored."""
        del self._entering[entering.ticket]
        del self._entering_of[entering.channel, entering.subscriber_id]

    def _forget_channel(self, channel: str) -> None:
        """Drop the received state of a channel that is no longer in the node's share."""
        if channel not in self._share.channels:
            self._known.pop(channel, None)
            self._options.pop(channel, None)

    # -- Signing in and out ------------------------------------------------------------------

    def sign_in(
        self, user_id: str, session_id: str, watchlist: Sequence[str] = ()
    ) -> Reply[SignedIn]:
        """Count a session of a user; see the contract."""
        if self._closed:
            return _failed()
        deadline = self._host.now() + self._host.enter_deadline_s
        signing_in = _SigningIn(self._new_ticket(), user_id, session_id, tuple(watchlist), deadline)
        self._share.sign_in(user_id, watchlist)
        self._signing_in[signing_in.ticket] = signing_in
        self._enter_deadlines.append(signing_in)
        if self.live:
            signing_in.seq = self._seq + 1
            users = self._user_assertions((user_id, *watchlist))
            self._send_assert(users=users, signing_in=(signing_in.message(),))
        else:
            self._unasserted_users.update((user_id, *watchlist))
        return signing_in.later

    def sign_out(self, user_id: str, session_id: str, watchlist: Sequence[str] = ()) -> None:
        """Undo `sign_in`; see the contract."""
        watched = tuple(watchlist)
        self._share.sign_out(user_id, watched)
        withdrawn: tuple[int, ...] = ()
        for signing_in in self._signing_in.values():
            if (signing_in.user_id, signing_in.session_id) == (user_id, session_id) and (
                signing_in.watchlist == watched
            ):
                del self._signing_in[signing_in.ticket]
                withdrawn = (signing_in.ticket,)
                break
        else:
            count_less(self._signed_in, user_id)
            for one in watched:
                count_less(self._watched, one)
        self._assert_users((user_id, *watched), withdrawn)

    def _assert_users(self, user_ids: Sequence[str], withdrawn: tuple[int, ...]) -> None:
        self._online.difference_update(one for one in user_ids if one not in self._share.watched)
        if self.live:
            self._send_assert(users=self._user_assertions(user_ids), withdrawn=withdrawn)
            return
        users, watched = self._share.users, self._share.watched
        for one in user_ids:
            if one in users or one in watched or one in self._asserted_users:
                self._unasserted_users.add(one)
            else:
                self._unasserted_users.discard(one)

    def _user_assertions(self, user_ids: Iterable[str]) -> tuple[messages.UserAssertion, ...]:
        users, watched = self._share.users, self._share.watched
        return tuple(
            messages.UserAssertion(one, users.get(one, 0), watched.get(one, 0))
            for one in dict.fromkeys(user_ids)
        )

    # -- Time --------------------------------------------------------------------------------

    def fail_overdue(self, now: float) -> None:
        """Fail the commands that have reached their deadlines."""
        while self._call_deadlines and self._call_deadlines[0].deadline <= now:
            self._call_deadlines.popleft().fail()
        while self._waiting and self._waiting[0].over:
            self._waiting_bytes -= self._waiting.popleft().size
        while self._enter_deadlines and self._enter_deadlines[0].deadline <= now:
            overdue = self._enter_deadlines.popleft()
            if isinstance(overdue, _Entering):
                if overdue.ticket in self._entering:
                    self._fail_enter(overdue)
            elif overdue.ticket in self._signing_in:
                self._fail_sign_in(overdue)

    def _fail_enter(self, entering: _Entering) -> None:
        channel, member = entering.channel, entering.member
        self._forget(entering)
        self._share.leave(channel, member)
        self._forget_channel(channel)
        self._assert_channels({channel: (entering.options, (member,))}, (entering.ticket,))
        entering.later.fail(Unavailable("the engine did not answer in time"))

    def _fail_sign_in(self, signing_in: _SigningIn) -> None:
        del self._signing_in[signing_in.ticket]
        self._share.sign_out(signing_in.user_id, signing_in.watchlist)
        self._assert_users((signing_in.user_id, *signing_in.watchlist), (signing_in.ticket,))
        signing_in.later.fail(Unavailable("the engine did not answer in time"))

    def close(self) -> None:
        """Send nothing from now on: commands fail at once, and leaves need no command."""
        self.release()
        self._closed = True
        self.live = False

    def fail_all(self) -> None:
        """Fail all unanswered commands: there will be no answer."""
        self._do_put_off()
        self.fail_overdue(float("inf"))

    def stuck(self, now: float) -> bool:
        """Return whether a command on the connection is unanswered for too long."""
        return bool(self._sent) and now - self._sent[0].at >= self._host.enter_deadline_s

    def repair(self, *, renews: bool) -> None:
        """Repeat refused commands; with *renews*, also send a probe, so that the node is known."""
        if not self.live:
            if not self._greeting:
                self._greet()
            return
        self._catch_up()
        if renews:
            self._send(messages.Probe())
            if self._holding is None:
                self._send(messages.Take())

    # -- The connection ----------------------------------------------------------------------

    def connected(self) -> None:
        """Send a hello to the state."""
        self._greet()

    def disconnected(self) -> None:
        """Keep the unanswered commands, which may have been executed or not."""
        self.live = self._greeting = False
        self._awaiting_begin = True
        sent, self._sent = self._sent, deque()
        for one in sent:
            self._repeat(one.body)
            call = one.call
            if call is None or call.over:
                continue
            if isinstance(call.body, messages.Publish | messages.Terminate):
                self._unknown.append(call)
            else:
                self._returned.append(call)

    def _repeat(self, body: messages.Body) -> None:
        """Queue *body* to be sent again, if it is a command that must be repeated."""
        match body:
            case messages.Hello():
                self._repeat(body.asserted)
            case messages.Assert():
                self._unasserted.update((one.channel, one.options) for one in body.channels)
                self._unasserted_users.update(one.user_id for one in body.users)
                self._withdrawn += body.withdrawn
            case messages.StateCount(channel):
                self._counts_due.add(channel)
            case messages.Settle():
                self._settles = True
            case _:
                pass

    def _greet(self) -> None:
        if self._closed:
            return
        self._do_put_off()  # first: a hello has no refused part, and its answer is later
        self._greeting = True
        if self._complete:
            for channel in self._share.channels:
                self._unasserted[channel] = self._options[channel]
            self._unasserted_users.update(self._share.users, self._share.watched)
        hello = messages.Hello(
            self._epoch,
            self._seen,
            self._complete,
            self._take_unsaid(),
            self._holding,
            self._settled,
        )
        self._settles = False
        self._send(hello, self._host.now() + self._host.enter_deadline_s)

    def _take_unsaid(self) -> messages.Assert:
        """Return the assertions to be repeated, with the unanswered commands of their channels."""
        unasserted, self._unasserted = self._unasserted, {}
        users, self._unasserted_users = self._unasserted_users, set()
        withdrawn, self._withdrawn = self._withdrawn, ()
        seq = self._seq + 1
        entering: dict[str, list[messages.Entering]] = {}
        for one in self._entering.values():
            if one.channel in unasserted:
                one.seq = seq
                entering.setdefault(one.channel, []).append(one.message())
        signing_in = []
        if users:
            for signing in self._signing_in.values():
                signing.seq = seq
                signing_in.append(signing.message())
                users.update((signing.user_id, *signing.watchlist))
        channels = []
        for channel, options in unasserted.items():
            held = self._share.channels.get(channel)
            members = held.members.values() if held is not None else ()
            channels.append(
                self._assertion(
                    channel,
                    self._options.get(channel, options),
                    members,
                    tuple(entering.get(channel, ())),
                )
            )
        return messages.Assert(
            tuple(channels), self._user_assertions(users), tuple(signing_in), withdrawn, fresh=True
        )

    def _catch_up(self) -> None:
        """Send the commands that could not be sent before."""
        if self._unasserted or self._unasserted_users:
            self._send(self._take_unsaid())
        if self._settles and self._settled is not None and self._holding is not None:
            self._settles = False
            self._send(messages.Settle(self._settled))
        counts_due, self._counts_due = self._counts_due, set()
        for channel in counts_due:
            self._send(messages.StateCount(channel))

    def _send(
        self, body: messages.Body, deadline: float | None = None, call: _Call | None = None
    ) -> None:
        self._seq += 1
        for asserted in _assertions_of(body):
            self._asserted.update((one.channel, self._seq) for one in asserted.channels)
            self._asserted_users.update((one.user_id, self._seq) for one in asserted.users)
        self._sent.append(_Sent(self._seq, body, self._host.now(), call))
        self._host.send(
            messages.Command(
                self._host.node,
                self.app_id,
                self._seq,
                self._handled(),
                self._wants,
                body,
                deadline,
            )
        )

    def _send_assert(
        self,
        channels: tuple[messages.ChannelAssertion, ...] = (),
        users: tuple[messages.UserAssertion, ...] = (),
        signing_in: tuple[messages.SigningIn, ...] = (),
        withdrawn: tuple[int, ...] = (),
    ) -> None:
        withdrawn, self._withdrawn = (*self._withdrawn, *withdrawn), ()
        self._send(messages.Assert(channels, users, signing_in, withdrawn))

    def _new_ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    # -- Answers -----------------------------------------------------------------------------

    def received(self, message: messages.Message) -> None:
        """Handle a message: check that none is missing before it, then apply it."""
        body = message.body
        if isinstance(body, messages.Done | messages.NotExecuted):
            if not self._sent or self._sent[0].seq != body.seq:
                self._host.reconnect()
                return
            sent = self._sent.popleft()
            partition = self._partition_of_call(sent) if isinstance(body, messages.Done) else None
            self._do_in(partition, self._number, partial(self._answered, sent, body))
            return
        if isinstance(body, messages.Began):
            self._awaiting_begin = False
        elif self._awaiting_begin:
            return  # the answer to the hello includes it
        elif not self._follows(message.number):
            self._host.reconnect()
            return
        if isinstance(body, messages.SignedInAs):
            self._do_before_sign_in(body)
        before, self._number = self._number, message.number
        if not self._complete:
            self._seen = message.log
        self._do_in(self._partition_of(body), before, partial(self._take, message, body))

    def _follows(self, number: int) -> bool:
        """Return whether the inbox message with this *number* is the next one."""
        return number == self._number + 1

    # -- Partitions --------------------------------------------------------------------------

    def _do_in(self, partition: str | None, received: int, action: Callable[[], None]) -> None:
        """Run *action* when the schedule calls it; without a partition, at once."""
        if partition is None or self._host.schedule is None:
            action()
            return
        self._receipts += 1
        self._put_off[self._receipts] = _PutOff(partition, received, action)
        self._host.schedule(partition, partial(self._do, self._receipts))

    def _do(self, receipt: int) -> None:
        put_off = self._put_off.pop(receipt, None)
        if put_off is not None:
            put_off.action()

    def _do_put_off(self, partitions: Container[str] | None = None) -> None:
        """Run the delayed actions of some partitions, or of all."""
        for receipt, put_off in list(self._put_off.items()):
            if partitions is None or put_off.partition in partitions:
                self._do(receipt)

    def _do_before_sign_in(self, body: messages.SignedInAs) -> None:
        """Run the delayed actions of the user and its watchlist: they come before the answer."""
        signing_in = self._signing_in.get(body.ticket)
        if signing_in is not None:
            users = (signing_in.user_id, *signing_in.watchlist)
            self._do_put_off({user_partition(user_id) for user_id in users})

    def _handled(self) -> int:
        """Return the number up to which all inbox messages were handled."""
        for put_off in self._put_off.values():
            return put_off.received
        return self._number

    @staticmethod
    def _partition_of_call(sent: _Sent) -> str | None:
        match sent.body:
            case messages.Publish(events) if events:
                return events[-1].channel
            case messages.Terminate(user_id):
                return user_partition(user_id)
            case messages.UsersOf(channel):
                return channel
            case messages.CountsOf() | messages.ChannelsWith() | messages.HistoryOf():
                return ""
            case _:
                return None

    def _partition_of(self, body: messages.Inbox) -> str | None:
        match body:
            case messages.FactMessage(fact):
                if isinstance(fact, UserOnline | UserOffline | UserTerminated):
                    return user_partition(fact.user_id)
                return fact.channel
            case messages.Entered():
                return body.channel
            case messages.EnterRefused(ticket):
                entering = self._entering.get(ticket)
                return entering.channel if entering is not None else None
            case _:
                return None

    def _answered(self, sent: _Sent, body: messages.Done | messages.NotExecuted) -> None:
        if isinstance(body, messages.Done):
            if sent.call is not None:
                sent.call.resolve(body.value)
            elif isinstance(sent.body, messages.Hello):
                self._host.renewed(sent.at)
            self._forget_asserted(sent)
            return
        call = sent.call
        self._repeat(sent.body)
        if isinstance(sent.body, messages.Hello):
            self._greeting = False
        match body.why:
            case messages.Why.UNKNOWN | messages.Why.INCOMPLETE:
                self._greet_completely()
            case messages.Why.STALE:
                self._host.reconnect()
                return
            case _:
                pass  # late or refused: `repair` sends it again
        if call is None or call.over:
            return
        call.sent = False  # it was not executed
        if body.why is messages.Why.UNKNOWN:
            self._returned.append(call)
        else:
            call.fail()

    def _forget_asserted(self, sent: _Sent) -> None:
        """Remove the channels and users whose numbers a command ended, unless sent again later."""
        for asserted in _assertions_of(sent.body):
            for one in asserted.channels:
                if not one.subscriptions and self._asserted.get(one.channel) == sent.seq:
                    del self._asserted[one.channel]
            for user in asserted.users:
                if not (user.sessions or user.watching) and (
                    self._asserted_users.get(user.user_id) == sent.seq
                ):
                    del self._asserted_users[user.user_id]

    def _greet_completely(self) -> None:
        self._complete = self._awaiting_begin = True
        self.live = False
        self.release()
        if not self._greeting:
            self._greet()

    # -- Inbox messages ----------------------------------------------------------------------

    def _take(self, message: messages.Message, body: messages.Inbox) -> None:
        match body:
            case messages.FactMessage(fact):
                self._fact(fact)
            case messages.Entered():
                self._take_entered(body)
            case messages.EnterRefused():
                self._take_refusal(body)
            case messages.SignedInAs():
                self._take_signed_in(body)
            case messages.CountDue(channel, in_s):
                self._local.count_due(channel, in_s)
            case messages.Welcome():
                self._take_welcome(message, body)
            case messages.Granted() | messages.Restarted() | messages.OwedChanges():
                self._take_owed(body)
            case _:
                pass  # it has only a number, which others follow

    def _fact(self, fact: Fact | Notice) -> None:
        match fact:
            case UserTerminated(user_id):
                if user_id in self._signed_in:
                    self._local.notice(fact)
                return
            case UserOnline(user_id):
                self._note_online(user_id, fact)
                return
            case UserOffline(user_id):
                self._note_online(user_id, fact)
                return
            case _:
                pass
        known = self._known.get(fact.channel)
        if known is not None:
            match fact:
                case MemberAdded(_, member):
                    known.members[member.user_id] = member
                case MemberRemoved(_, user_id):
                    known.members.pop(user_id, None)
                case SubscriptionCount(_, count):
                    known.count = count
                case _:
                    pass
        if fact.channel in self._entered:
            self._local.deliver(fact)

    def _note_online(self, user_id: str, notice: UserOnline | UserOffline) -> None:
        if user_id in self._share.watched:
            if isinstance(notice, UserOnline):
                self._online.add(user_id)
            else:
                self._online.discard(user_id)
        if user_id in self._watched:
            self._local.notice(notice)

    def _take_entered(self, body: messages.Entered) -> None:
        entering = self._entering.get(body.ticket)
        if body.roster is not None and body.channel in self._share.channels:
            # If this one was withdrawn, another unanswered subscription depends on it.
            self._known[body.channel] = _KnownChannel(
                body.count, {member.user_id: member for member in body.roster}
            )
        if entering is None or entering.seq != body.seq:
            return
        channel = entering.channel
        if channel in self._share.channels and channel not in self._known:
            # The state did not receive a leave before this entry: that command was lost.
            self._host.reconnect()
            return
        self._forget(entering)
        count_more(self._entered, channel)
        known = self._known[channel]
        known.count = body.count
        roster = tuple(known.members.values()) if entering.member is not None else ()
        nothing_kept = body.nothing_kept and entering.options.keep is not None
        entering.later.resolve(Entry(body.count, roster, body.history, nothing_kept))

    def _take_refusal(self, body: messages.EnterRefused) -> None:
        entering = self._entering.get(body.ticket)
        if entering is None or entering.seq != body.seq:
            return
        self._forget(entering)
        self._share.leave(entering.channel, entering.member)
        self._forget_channel(entering.channel)
        if not self.live:
            self._unasserted[entering.channel] = entering.options
        elif entering.channel not in self._share.channels and (
            self._asserted.get(entering.channel) == entering.seq
        ):
            del self._asserted[entering.channel]  # the state has counted nothing
        entering.later.resolve(Refusal.FULL)

    def _take_signed_in(self, body: messages.SignedInAs) -> None:
        signing_in = self._signing_in.get(body.ticket)
        if signing_in is None or signing_in.seq != body.seq:
            return
        del self._signing_in[body.ticket]
        count_more(self._signed_in, signing_in.user_id)
        for one in signing_in.watchlist:
            count_more(self._watched, one)
        self._online.difference_update(signing_in.watchlist)
        self._online.update(body.online)
        signing_in.later.resolve(SignedIn(body.online))

    # -- After an interruption ---------------------------------------------------------------

    def _take_welcome(self, message: messages.Message, body: messages.Welcome) -> None:
        self._greeting = False
        if body.complete:
            self._repair(body)
        if self._closed:
            return
        self._epoch, self._seen = message.epoch, message.log
        self._complete = False
        self.live = True
        if self._holding is not None and not body.holder:
            self.release()
        self._catch_up()
        returned, self._returned = self._returned, []
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        for call in (*returned, *waiting):
            if not call.over:
                self._send_call(call)
        if self._holding is None:
            self._send(messages.Take())
        unknown, self._unknown = self._unknown, []
        for call in unknown:
            call.fail()  # messages of them that may still arrive are older than the hello

    def _repair(self, welcome: messages.Welcome) -> None:
        """Deliver missed facts, then differences, then the channels and users with losses."""
        for fact in welcome.missed:
            self._fact(fact)
        losses: list[Lost] = []
        for picture in welcome.channels:
            channel = picture.channel
            if channel in self._share.channels:
                self._repair_channel(channel, picture)
            if picture.lost is not None and channel in self._entered:
                now = Entry(picture.count, picture.roster, picture.history, picture.nothing_kept)
                losses.append(Lost(picture.lost, channel=channel, now=now))
        for user_id in list(self._watched):
            if user_id in welcome.online and user_id not in self._online:
                self._local.notice(UserOnline(user_id))
            elif user_id in self._online and user_id not in welcome.online:
                self._local.notice(UserOffline(user_id))
        self._online = set(welcome.online)
        losses += [
            Lost(reason, user_id=user_id)
            for user_id, reason in welcome.lost_users.items()
            if user_id in self._signed_in
        ]
        if losses:
            self._local.lost(losses)

    def _repair_channel(self, channel: str, picture: messages.ChannelPicture) -> None:
        members = {member.user_id: member for member in picture.roster}
        known = self._known.get(channel)
        self._known[channel] = _KnownChannel(picture.count, members)
        if known is None or channel not in self._entered:
            return
        for user_id, member in known.members.items():
            if members.get(user_id) != member:
                self._local.deliver(MemberRemoved(channel, user_id))
        for user_id, member in members.items():
            if known.members.get(user_id) != member:
                self._local.deliver(MemberAdded(channel, member))
        options = self._options.get(channel)
        if options is not None and options.counted and known.count != picture.count:
            self._local.deliver(SubscriptionCount(channel, picture.count))

    # -- The holder --------------------------------------------------------------------------

    def _take_owed(
        self, body: messages.Granted | messages.Restarted | messages.OwedChanges
    ) -> None:
        if self._closed:
            return  # granted before the goodbye, which releases it
        match body:
            case messages.Granted(term, mark, restart, changes):
                if self._holding is not None:
                    self._local.release()
                self._holding = mark
                self._local.hold(term)
                if restart:
                    self._local.restart(mark.scope, mark.epoch)
                self._owe(changes)
            case messages.Restarted(mark):
                if self._holding is not None:
                    self._holding = mark
                    self._local.restart(mark.scope, mark.epoch)
            case _:
                self._owe(body.changes)

    def _owe(self, changes: Sequence[Any]) -> None:
        if changes and self._holding is not None:
            self._holding = changes[-1].mark
            self._local.owe(changes)

    def release(self) -> None:
        """Release the app as its holder, at once."""
        if self._holding is not None:
            self._holding = None
            self._local.release()
