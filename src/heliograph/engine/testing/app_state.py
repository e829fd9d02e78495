"""
The state of one app that all nodes share, in one epoch.

Executes the commands of nodes (assertions, publishes, reads), and creates facts and owed changes.
Knows no links: the functions that send a message to a node, and read the clock, are arguments.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import structs

from heliograph.engine.answers import (
    NOTHING_WANTED,
    POSITION_ONLY,
    CacheFilled,
    CacheMiss,
    Change,
    ChannelOccupied,
    ChannelVacated,
    Counts,
    Gap,
    Mark,
    Options,
    Owed,
    Page,
    Published,
    Reason,
    Since,
    Terms,
    Wants,
)
from heliograph.engine.base import LARGE_CHANNEL, LARGE_INTERVAL_S, PAGE_BYTES
from heliograph.engine.history import HISTORY_MAX_BYTES, AppHistory, HistoryBudget
from heliograph.engine.keys import KeyedAnswers
from heliograph.engine.testing import messages
from heliograph.engine.testing.log import Log
from heliograph.engine.testing.owing import Owing
from heliograph.hub.facts import (
    Event,
    Fact,
    Keep,
    Member,
    MemberAdded,
    MemberRemoved,
    Notice,
    Position,
    SubscriptionCount,
    UserOffline,
    UserOnline,
    UserTerminated,
)

NAMES_AT_ONCE = 128
"""Channels in one part of a listing."""

SendTo = Callable[[str, messages.Message], object]
"""Sends a message to a node."""


class Damaged(Exception):
    """A part of the state is missing, so that its numbers cannot be trusted."""


class Tools:
    """The functions that an app's state uses; they are not part of a copy of it."""

    def __init__(
        self,
        send: SendTo,
        now: Callable[[], float],
        unix_s: Callable[[], float],
        new_text: Callable[[], str],
    ) -> None:
        self.send = send
        self.now = now
        self.unix_s = unix_s
        self.new_text = new_text

    def __deepcopy__(self, _memo: object) -> "Tools":
        return self


class Bounds:
    """Limits of the data that the state of an app keeps: for interrupted nodes, and as history."""

    def __init__(
        self,
        *,
        log_entries: int = 10_000,
        log_bytes: int = 8 << 20,
        owed_changes: int = 10_000,
        owed_bytes: int = 8 << 20,
        history_max_bytes: int = HISTORY_MAX_BYTES,
    ) -> None:
        self.log_entries = log_entries
        self.log_bytes = log_bytes
        self.owed_changes = owed_changes
        self.owed_bytes = owed_bytes
        self.history_max_bytes = history_max_bytes


class _Kept:
    """
    The kept events of an app, and its answers to publishes with a key, in one epoch.

    They are not part of a copy of the state: it is continued in another epoch only.
    """

    def __init__(self, app_id: str, epoch: str, max_bytes: int, now: float) -> None:
        self.evicted = 0
        self.keys = KeyedAnswers()
        budget = HistoryBudget(max_bytes, self._count)
        self.history = AppHistory(app_id, epoch, budget, now)

    def __deepcopy__(self, _memo: object) -> None:
        """Return nothing."""

    def _count(self, _app_id: str, number: int) -> None:
        self.evicted += number


class _Channel:
    """A channel with subscriptions. *users* is the number of members, to detect a loss."""

    __slots__ = (
        "born",
        "due_at",
        "due_node",
        "last",
        "members",
        "nodes",
        "options",
        "subscriptions",
        "totals",
        "users",
    )

    def __init__(self, options: Options, born: int) -> None:
        self.options = options
        self.born = born  # a number of the log, of the moment when it became occupied
        self.last = 0  # the number of its last event in the log
        self.subscriptions = 0
        self.nodes: dict[str, int] = {}  # node -> its subscriptions
        self.members: dict[str, Member] = {}
        self.totals: dict[str, int] = {}  # user id -> sessions on all nodes
        self.users = 0
        self.due_at: float | None = None
        self.due_node: str | None = None


class _User:
    """A user with sessions, or with nodes that watch it."""

    __slots__ = ("born", "last", "sessions", "watching")

    def __init__(self) -> None:
        self.born = 0  # a number of the log, of the moment when it came online
        self.last = 0  # the number of its last termination in the log
        self.sessions: dict[str, int] = {}  # node -> sessions signed in there
        self.watching: dict[str, int] = {}  # node -> sessions there that watch it


class _Part:
    """The part of one node in one channel."""

    __slots__ = ("sessions", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions = 0
        self.sessions: dict[str, int] = {}  # user id -> sessions


class _Uncounted:
    """
    A refused command, until its node has received the refusal: the node's numbers include it.

    *number* is that of the inbox message with the refusal. It is None where the deadline had
    passed: no message is sent then, and the node withdraws the command.
    """

    __slots__ = ("channel", "number", "user_id", "watchlist")

    def __init__(
        self,
        channel: str | None,
        user_id: str | None,
        watchlist: frozenset[str] = frozenset(),
    ) -> None:
        self.number: int | None = None
        self.channel = channel
        self.user_id = user_id
        self.watchlist = watchlist


class _Registration:
    """
    A registered node. *fields* counts its parts, to detect a loss.

    *missed* has the tickets of entries that owed a `CacheMiss`, with the inbox number of the
    answer, until the node has received it: the same `enter`, asserted again, owes no second one.
    """

    __slots__ = ("channels", "fields", "missed", "number", "seq", "uncounted", "users", "watched")

    def __init__(self) -> None:
        self.seq = 0
        self.number = 0  # of its last inbox message
        self.channels: dict[str, _Part] = {}
        self.users: dict[str, int] = {}
        self.watched: dict[str, int] = {}
        self.uncounted: dict[int, _Uncounted] = {}  # by ticket
        self.missed: dict[int, int] = {}
        self.fields = 0

    def intact(self) -> bool:
        return self.fields == len(self.channels) + len(self.users) + len(self.watched)

    def note_fields(self) -> None:
        self.fields = len(self.channels) + len(self.users) + len(self.watched)


class _Turn:
    """
    An assertion that is being executed.

    *skip* is the node itself if it receives the complete state afterwards.
    """

    __slots__ = ("fresh", "node", "registration", "seq", "skip")

    def __init__(
        self, node: str, registration: _Registration, seq: int, skip: str | None, *, fresh: bool
    ) -> None:
        self.node = node
        self.registration = registration
        self.seq = seq
        self.skip = skip
        self.fresh = fresh


class _Sessions:
    """The numbers of sessions of members on a node, with the members as they were stated."""

    __slots__ = ("members", "numbers")

    def __init__(self, numbers: dict[str, int], stated: Iterable[tuple[Member, int]]) -> None:
        self.numbers = numbers
        self.members = {member.user_id: member for member, _ in stated}


class AppState:
    """
    One app's shared state; it lives for one epoch.

    *life* names the run of the process, or of the store, in which it was created. *holder* is the
    holder of the epoch before. Until *grants_from*, no new holder is granted: a disconnected node
    may still be the holder from a life that this state does not know; it releases when its lease
    ends.
    """

    def __init__(
        self,
        app_id: str,
        life: str,
        tools: "Tools",
        bounds: Bounds,
        *,
        holder: str | None = None,
        grants_from: float = 0.0,
    ) -> None:
        self.app_id = app_id
        self.life = life
        self.epoch = tools.new_text()
        self.wants: Wants = NOTHING_WANTED
        self.holder = holder
        self._grants_from = grants_from
        self._tools = tools
        self._bounds = bounds
        self._greeting: str | None = None  # the node whose hello is being executed
        self._nodes: dict[str, _Registration] = {}
        self._channels: dict[str, _Channel] = {}
        self._channel_count = 0
        self._users: dict[str, _User] = {}
        self._kept = _Kept(app_id, self.epoch, bounds.history_max_bytes, tools.now())
        self._log = Log(bounds.log_entries, bounds.log_bytes)
        self._owing = Owing(tools, self._truth, bounds.owed_changes, bounds.owed_bytes)

    # -- Registration ------------------------------------------------------------------------

    def registered(self, node: str) -> bool:
        """Return whether *node* is registered."""
        return node in self._nodes

    def fence(self, node: str, seq: int) -> bool:
        """Return whether the command with the number *seq* is the node's latest; store *seq*."""
        registration = self._nodes.get(node)
        if registration is None:
            return True
        if seq <= registration.seq:
            return False
        registration.seq = seq
        return True

    def check(self, node: str) -> None:
        """Raise Damaged if a part of the state is missing."""
        registration = self._nodes.get(node)
        if len(self._channels) != self._channel_count or (
            registration is not None and not registration.intact()
        ):
            raise Damaged

    def received(self, node: str, number: int) -> None:
        """Handle that *node* has handled its inbox messages up to *number*."""
        registration = self._nodes.get(node)
        if registration is None:
            return
        for ticket, refused in list(registration.uncounted.items()):
            if refused.number is not None and refused.number <= number:
                del registration.uncounted[ticket]
        for ticket, answered in list(registration.missed.items()):
            if answered <= number:
                del registration.missed[ticket]

    def hello(self, node: str, seq: int, hello: messages.Hello) -> messages.Why | None:
        """Register *node* from now on; return the reason if this hello is not sufficient."""
        same = hello.epoch == self.epoch
        registration = self._nodes.get(node)
        if not hello.complete:
            if registration is None or not same:
                return messages.Why.UNKNOWN
            if not self._log.reaches(hello.seen):
                return messages.Why.INCOMPLETE
        if registration is None:
            registration = self._nodes[node] = _Registration()
            registration.seq = seq
        registration.uncounted.clear()
        if self.holder == node and hello.holding is None:
            self.holder = None  # its lease ended, by its own clock
        self._greeting = node
        self._send(node, messages.Began(), log=hello.seen if same else self._log.last)
        losses: dict[str, Reason] = {}
        lost_users: dict[str, Reason] = {}
        missed: tuple[Fact | Notice, ...] = ()
        if hello.complete:
            losses = self._channel_losses(hello, same=same)
            lost_users = self._user_losses(hello, same=same)
            missed = tuple(self._missed(hello)) if same else ()
        else:
            self._replay(node, registration, hello.seen)
        answers = self._assert(node, seq, hello.asserted, complete=hello.complete, fresh=True)
        self._greeting = None
        self._welcome(node, hello, missed, losses, lost_users)
        self._answer(node, answers)
        self._remind(node)
        return None

    def _replay(self, node: str, registration: _Registration, seen: int) -> None:
        for logged in self._log.after(seen):
            if (logged.channel is not None and logged.channel in registration.channels) or (
                logged.user_id is not None
                and (logged.user_id in registration.users or logged.user_id in registration.watched)
            ):
                self._send(node, messages.FactMessage(logged.fact), log=logged.number)

    def _missed(self, hello: messages.Hello) -> Iterator[Fact | Notice]:
        if not self._log.reaches(hello.seen):
            return  # a channel or user with a missing part is lost as a whole
        channels = {one.channel for one in hello.asserted.channels}
        users = {one.user_id for one in hello.asserted.users if one.sessions}
        for logged in self._log.after(hello.seen):
            fact = logged.fact
            if (isinstance(fact, Event) and logged.channel in channels) or (
                isinstance(fact, UserTerminated) and logged.user_id in users
            ):
                yield fact

    def _channel_losses(self, hello: messages.Hello, *, same: bool) -> dict[str, Reason]:
        losses: dict[str, Reason] = {}
        trimmed = not self._log.reaches(hello.seen)
        for one in hello.asserted.channels:
            channel = self._channels.get(one.channel)
            if not same:
                losses[one.channel] = Reason.NEW_STATE
            elif began_after(_born(channel), hello.seen):
                losses[one.channel] = Reason.VACATED
            elif trimmed and channel is not None and channel.last > hello.seen:
                losses[one.channel] = Reason.TRIMMED
        return losses

    def _user_losses(self, hello: messages.Hello, *, same: bool) -> dict[str, Reason]:
        losses: dict[str, Reason] = {}
        trimmed = not self._log.reaches(hello.seen)
        for one in hello.asserted.users:
            if not one.sessions:
                continue
            user = self._users.get(one.user_id)
            if not same:
                losses[one.user_id] = Reason.NEW_STATE
            elif began_after(_born(user), hello.seen):
                losses[one.user_id] = Reason.VACATED
            elif trimmed and user is not None and user.last > hello.seen:
                losses[one.user_id] = Reason.TRIMMED
        return losses

    def _welcome(
        self,
        node: str,
        hello: messages.Hello,
        missed: tuple[Fact | Notice, ...],
        losses: dict[str, Reason],
        lost_users: dict[str, Reason],
    ) -> None:
        holds = self.holder == node and hello.holding is not None
        registration = self._nodes[node]
        pictures: list[messages.ChannelPicture] = []
        if hello.complete:
            pictures += [
                self._picture(name, self._channels[name], losses.get(name))
                for name in registration.channels
            ]
        online = frozenset(one for one in registration.watched if self._users[one].sessions)
        self._send(
            node,
            messages.Welcome(
                hello.complete,
                holds,
                missed,
                tuple(pictures),
                online if hello.complete else frozenset(),
                lost_users,
            ),
        )
        if holds and hello.holding is not None:
            if hello.settled is not None:
                self.settle(node, hello.settled)
            if hello.holding.epoch == self._owing.epoch:
                changes = self._owing.after(hello.holding.number)
            else:
                self._send(node, messages.Restarted(Mark("", self._owing.epoch, 0)))
                changes = self._owing.after(0)
            if changes:
                self._send(node, messages.OwedChanges(tuple(changes)))

    def _picture(
        self, name: str, channel: _Channel, lost: Reason | None
    ) -> messages.ChannelPicture:
        picture = messages.ChannelPicture(
            name, channel.subscriptions, tuple(channel.members.values()), lost=lost
        )
        keep = channel.options.keep
        if keep is None:
            return picture
        return structs.replace(
            picture,
            history=self._read(name, POSITION_ONLY, asked=keep),
            nothing_kept=not self._kept.history.keeps(name, self._tools.now()),
        )

    def _remind(self, node: str) -> None:
        """Send *node* again which counts it must request: the connection may have lost that."""
        for name in self._nodes[node].channels:
            channel = self._channels[name]
            if channel.due_at is not None and channel.due_node == node:
                self._send(
                    node, messages.CountDue(name, max(0.0, channel.due_at - self._tools.now()))
                )

    def unregister(self, node: str) -> None:
        """Remove *node* with all its data: it sent a goodbye, or is dead."""
        if self.holder == node:
            self.holder = None
        registration = self._nodes.get(node)
        if registration is None:
            return
        self.check(node)
        channels = [
            messages.ChannelAssertion(name, 0, self._channels[name].options)
            for name in registration.channels
        ]
        users = [messages.UserAssertion(user_id, 0, 0) for user_id in _users_of(registration)]
        registration.uncounted.clear()
        # Facts are not sent to it: it is no longer registered.
        self._assert(
            node, 0, messages.Assert(tuple(channels), tuple(users)), complete=False, fresh=True
        )
        del self._nodes[node]

    def execute(self, node: str, seq: int, body: messages.Body) -> object:
        """Execute a command of a registered node; return the value of a read."""
        match body:
            case messages.Assert():
                self._answer(node, self._assert(node, seq, body, complete=False, fresh=body.fresh))
            case messages.Publish(events, terms):
                return self.publish(events, terms)
            case messages.Terminate(user_id):
                self.terminate(user_id)
            case messages.StateCount(channel):
                self.state_count(node, channel)
            case messages.Take():
                self.take(node)
            case messages.Settle(mark):
                self.settle(node, mark)
            case messages.Probe():
                self.probe(node)
            case _:
                return self.read(body)
        return None

    # -- Assertions --------------------------------------------------------------------------

    def _answer(self, node: str, answers: Iterable[messages.Inbox]) -> None:
        registration = self._nodes[node]
        for body in answers:
            self._send(node, body)
            if isinstance(body, messages.EnterRefused):
                registration.uncounted[body.ticket].number = registration.number
            elif isinstance(body, messages.Entered) and body.ticket in registration.missed:
                registration.missed[body.ticket] = registration.number

    def _assert(
        self, node: str, seq: int, asserted: messages.Assert, *, complete: bool, fresh: bool
    ) -> list[messages.Inbox]:
        registration = self._nodes[node]
        turn = _Turn(node, registration, seq, node if complete else None, fresh=fresh)
        for ticket in asserted.withdrawn:
            registration.uncounted.pop(ticket, None)
        channels, users = list(asserted.channels), list(asserted.users)
        if complete:
            named = {one.channel for one in channels}
            channels += [
                messages.ChannelAssertion(name, 0, self._channels[name].options)
                for name in registration.channels
                if name not in named
            ]
            named = {one.user_id for one in users}
            users += [
                messages.UserAssertion(user_id, 0, 0)
                for user_id in _users_of(registration)
                if user_id not in named
            ]
        if fresh:
            self._forget_refusals(registration, channels)
        answers: list[messages.Inbox] = []
        for one in channels:
            answers += self._assert_channel(turn, one)
        signed_in = self._admit_sessions(registration, asserted.signing_in)
        self._assert_users(turn, users)
        answers += [self._signed_in(one, seq) for one in signed_in]
        registration.note_fields()
        return answers

    @staticmethod
    def _forget_refusals(
        registration: _Registration, channels: Iterable[messages.ChannelAssertion]
    ) -> None:
        """Remove the refusals of *channels*: unanswered commands are decided again."""
        names = {one.channel for one in channels}
        for ticket, refused in list(registration.uncounted.items()):
            if refused.channel in names:
                del registration.uncounted[ticket]

    def _assert_channel(
        self, turn: "_Turn", asserted: messages.ChannelAssertion
    ) -> list[messages.Inbox]:
        name = asserted.channel
        channel = self._channels.get(name)
        if channel is not None:
            self._check_members(channel)
        part = turn.registration.channels.get(name)
        before = part.subscriptions if part is not None else 0
        sessions = _sessions(turn, asserted, part)
        accepted, refusals = self._admit(turn, asserted, channel, sessions)
        # Below 0 only if an earlier command was not executed: the node will repeat it.
        uncounted = sum(one.channel == name for one in turn.registration.uncounted.values())
        wanted = max(0, asserted.subscriptions - uncounted)
        if not wanted:
            if part is None:
                return refusals
            # Members without a name here may remain from a command that was not executed.
            sessions |= dict.fromkeys((*part.sessions, *sessions), 0)
        if channel is None:
            channel = self._channels[name] = _Channel(asserted.options, self._log.take_number())
            self._channel_count += 1
        channel.options = asserted.options
        self._count(turn, name, channel, wanted, _Sessions(sessions, asserted.members))
        roster = None
        if accepted and (not before or turn.fresh):
            roster = tuple(channel.members.values())
        return refusals + self._entered(turn, name, channel, accepted, roster)

    def _count(
        self, turn: "_Turn", name: str, channel: _Channel, wanted: int, stated: "_Sessions"
    ) -> None:
        """Set the numbers of a node in a channel, and send and owe the changes."""
        node, registration = turn.node, turn.registration
        part = registration.channels.get(name)
        if part is None:
            part = registration.channels[name] = _Part()
        if not wanted:
            channel.nodes.pop(node, None)  # facts of its departure do not concern it
        if wanted and not channel.subscriptions:
            self._owe_of(channel, ChannelOccupied(name), "occupancy")
        for user_id in stated.numbers:
            fact = _set_sessions(name, channel, part, user_id, stated)
            if fact is not None:
                self._deliver(name, channel, fact, turn.skip)
                self._owe_of(channel, fact, "members")
        changed = wanted != part.subscriptions
        channel.subscriptions += wanted - part.subscriptions
        part.subscriptions = wanted
        if changed:
            self._count_changed(name, channel, node, turn.skip)
        if wanted:
            channel.nodes[node] = wanted
        else:
            del registration.channels[name]
        if not channel.subscriptions:
            del self._channels[name]
            self._channel_count -= 1
            self._owe_of(channel, ChannelVacated(name), "occupancy")
        elif channel.due_at is not None and channel.due_node not in channel.nodes:
            self._pass_count_on(name, channel, channel.due_at)

    def _admit(
        self,
        turn: "_Turn",
        asserted: messages.ChannelAssertion,
        channel: _Channel | None,
        sessions: dict[str, int],
    ) -> tuple[list[messages.Entering], list[messages.Inbox]]:
        """
        Decide which of the entering subscriptions are counted; subtract the others.

        The member limit refuses a user only if it is no member yet, and the node has no answered
        session of it: a node may assert its existing sessions again, whatever the limit.
        """
        accepted: list[messages.Entering] = []
        refusals: list[messages.Inbox] = []
        members = channel.members if channel is not None else {}
        undecided = Counter(one.user_id for one in asserted.entering)
        added = {  # members besides those of the channel
            user_id
            for user_id, number in sessions.items()
            if number > undecided[user_id] and user_id not in members
        }
        now = self._tools.now()
        for entering in asserted.entering:
            user_id = entering.user_id
            late = now >= entering.deadline
            newcomer = user_id is not None and user_id not in members and user_id not in added
            limit = entering.max_members
            full = newcomer and bool(limit) and len(members) + len(added) >= limit
            if late or full:
                turn.registration.uncounted[entering.ticket] = _Uncounted(asserted.channel, user_id)
                if user_id is not None:
                    sessions[user_id] -= 1
                if not late:
                    refusals.append(messages.EnterRefused(entering.ticket, turn.seq))
                continue
            accepted.append(entering)
            if newcomer and user_id is not None:
                added.add(user_id)
        return accepted, refusals

    def _entered(
        self,
        turn: "_Turn",
        name: str,
        channel: _Channel,
        accepted: Sequence[messages.Entering],
        roster: tuple[Member, ...] | None,
    ) -> list[messages.Inbox]:
        answers: list[messages.Inbox] = []
        missed = turn.registration.missed
        nothing_kept = not self._kept.history.keeps(name, self._tools.now())
        for entering in accepted:
            if nothing_kept and channel.options.cached and entering.ticket not in missed:
                missed[entering.ticket] = turn.registration.number + 1  # or later: see `_answer`
                self._owe_of(channel, CacheMiss(name), "cache")
            history = None
            if entering.since is not None:
                history = self._read(name, entering.since, asked=entering.asked)
            answers.append(
                messages.Entered(
                    entering.ticket,
                    turn.seq,
                    name,
                    channel.subscriptions,
                    roster,
                    history,
                    nothing_kept,
                )
            )
        return answers

    def _admit_sessions(
        self, registration: _Registration, signing_in: Sequence[messages.SigningIn]
    ) -> list[messages.SigningIn]:
        """Return the sessions that are counted; the deadline of the others has passed."""
        now = self._tools.now()
        accepted = [one for one in signing_in if now < one.deadline]
        for one in signing_in:
            if now >= one.deadline:
                registration.uncounted[one.ticket] = _Uncounted(
                    None, one.user_id, frozenset(one.watchlist)
                )
        return accepted

    def _assert_users(self, turn: "_Turn", users: Sequence[messages.UserAssertion]) -> None:
        numbers: list[tuple[str, int, int]] = []
        for asserted in users:
            sessions, watching = asserted.sessions, asserted.watching
            for refused in turn.registration.uncounted.values():
                if refused.channel is None:
                    sessions -= refused.user_id == asserted.user_id
                    watching -= asserted.user_id in refused.watchlist
            numbers.append((asserted.user_id, max(0, sessions), max(0, watching)))
        # Interest ends before the notices are sent, and begins after them.
        for user_id, _, watching in numbers:
            if not watching:
                self._set_watching(turn, user_id, 0)
        for user_id, sessions, _ in numbers:
            self._set_signed_in(turn, user_id, sessions)
        for user_id, _, watching in numbers:
            if watching:
                self._set_watching(turn, user_id, watching)

    def _signed_in(self, signing_in: messages.SigningIn, seq: int) -> messages.SignedInAs:
        users = self._users
        online = [one for one in signing_in.watchlist if one in users and users[one].sessions]
        return messages.SignedInAs(signing_in.ticket, seq, frozenset(online))

    def _set_watching(self, turn: "_Turn", user_id: str, number: int) -> None:
        node, registration = turn.node, turn.registration
        if number:
            user = self._users.setdefault(user_id, _User())
            user.watching[node] = registration.watched[user_id] = number
        elif user_id in registration.watched:
            del registration.watched[user_id], self._users[user_id].watching[node]
            self._forget_user(user_id)

    def _set_signed_in(self, turn: "_Turn", user_id: str, number: int) -> None:
        node, registration = turn.node, turn.registration
        before = registration.users.get(user_id, 0)
        if number == before:
            return
        user = self._users.setdefault(user_id, _User())
        online = bool(user.sessions)
        if number:
            user.sessions[node] = registration.users[user_id] = number
        else:
            del user.sessions[node], registration.users[user_id]
        if bool(user.sessions) == online:
            return
        notice: Notice
        if online:
            notice = UserOffline(user_id)
        else:
            notice = UserOnline(user_id)
            user.born = self._log.take_number()
        self._notify(user_id, notice, user.watching, turn.skip)
        if self.wants.users:
            self._owe(notice)
        self._forget_user(user_id)

    def _forget_user(self, user_id: str) -> None:
        user = self._users[user_id]
        if not user.sessions and not user.watching:
            del self._users[user_id]

    # -- Events, terminations, counts --------------------------------------------------------

    def publish(self, events: Sequence[Event], terms: Terms | None = None) -> Published | None:
        """Deliver *events* to all nodes that entered their channels, and number those to keep."""
        if terms is None:
            for event in events:
                self._publish(event)
            return None
        now = self._tools.now()
        if terms.key is not None:
            answer = self._kept.keys.find(terms.key, now)
            if answer is not None:
                return answer
        positions: list[Position | None] = []
        for index, event in enumerate(events):
            position = self._publish(event)
            keep = terms.keeps[index] if terms.keeps else None
            if keep is None:
                position = None
            elif position is None:
                position = self._kept.history.top(event.channel, keep, now)
            positions.append(position)
        published = Published(
            positions if terms.keeps else (),
            {one.channel: self._counts(one.channel) for one in events} if terms.counts else {},
            terms.fingerprint,
        )
        if terms.key is not None:
            self._kept.keys.add(terms.key, published, now)
        return published

    def _publish(self, event: Event) -> Position | None:
        """Deliver *event*; return its position if it is kept."""
        if event.keep is not None:
            event = self._keep(event, event.keep)
        channel = self._channels.get(event.channel)
        if channel is not None:
            self._deliver(event.channel, channel, event, None)
        if event.owed and self.wants.client_events:
            self._owe(event)
        return event.position

    def terminate(self, user_id: str) -> None:
        """Send a termination of the user to each node that has a session of it."""
        user = self._users.get(user_id)
        if user is not None and user.sessions:
            user.last = self._notify(user_id, UserTerminated(user_id), user.sessions, None)

    def _keep(self, event: Event, keep: Keep) -> Event:
        """Keep *event*; return it with its position."""
        history, now = self._kept.history, self._tools.now()
        if self.wants.cache and not history.keeps(event.channel, now):
            self._owe(CacheFilled(event.channel))
        return history.add(event, keep, now)

    def _read(
        self,
        name: str,
        since: Since,
        *,
        asked: Keep | None,
        limit: int = 0,
        max_bytes: int = PAGE_BYTES,
        times: bool = False,
    ) -> Page | Gap:
        """Return the kept events of a channel; see `AppHistory.read`."""
        now, unix_s = self._tools.now(), self._tools.unix_s()
        return self._kept.history.read(
            name, since, now, unix_s, asked=asked, limit=limit, max_bytes=max_bytes, times=times
        )

    @property
    def evicted(self) -> int:
        """The number of events that were removed before they expired."""
        return self._kept.evicted

    def state_count(self, node: str, name: str) -> None:
        """State the number of a large channel if it is due, otherwise send the node its time."""
        channel = self._channels.get(name)
        if channel is None or channel.due_at is None:
            return
        left = channel.due_at - self._tools.now()
        if left > 0:
            self._send(node, messages.CountDue(name, left))
        else:
            self._state_count(name, channel, None)

    def _count_changed(self, name: str, channel: _Channel, node: str, skip: str | None) -> None:
        if not channel.options.counted:
            return
        if channel.subscriptions <= LARGE_CHANNEL:
            self._state_count(name, channel, skip)
        elif channel.due_at is None:
            channel.due_at = self._tools.now() + LARGE_INTERVAL_S
            channel.due_node = node
            self._send(node, messages.CountDue(name, LARGE_INTERVAL_S))

    def _state_count(self, name: str, channel: _Channel, skip: str | None) -> None:
        channel.due_at = channel.due_node = None
        fact = SubscriptionCount(name, channel.subscriptions)
        self._deliver(name, channel, fact, skip)
        self._owe_of(channel, fact, "counts")

    def _pass_count_on(self, name: str, channel: _Channel, due_at: float) -> None:
        """Make another node request a count: the node that had to has left the channel."""
        channel.due_node = next(iter(channel.nodes))
        left = max(0.0, due_at - self._tools.now())
        self._send(channel.due_node, messages.CountDue(name, left))

    def probe(self, node: str) -> None:
        """Check the part of *node*; send it a numbered message, so that it detects missing ones."""
        for name in self._nodes[node].channels:
            self._check_members(self._channels.get(name))
        self._send(node, messages.Probed())

    # -- Reads -------------------------------------------------------------------------------

    def read(self, question: messages.Body) -> object:
        """Return the value of a read of the state."""
        match question:
            case messages.CountsOf(channels):
                return {name: self._counts(name) for name in channels}
            case messages.ChannelsWith(prefix):
                return self._listing(prefix)
            case messages.UsersOf(name):
                channel = self._channels.get(name)
                if channel is None:
                    return []
                self._check_members(channel)
                return list(channel.members)
            case messages.HistoryOf(name, since, keep, limit, max_bytes):
                return self._read(
                    name, since, asked=keep, limit=limit, max_bytes=max_bytes, times=True
                )
            case _:
                raise AssertionError(f"{question} is no question")

    def _listing(self, prefix: str) -> messages.Listed:
        names = [name for name in self._channels if name.startswith(prefix)]
        return tuple(
            {name: self._counts(name) for name in names[start : start + NAMES_AT_ONCE]}
            for start in range(0, len(names), NAMES_AT_ONCE)
        )

    @staticmethod
    def _check_members(channel: _Channel | None) -> None:
        if channel is None or channel.users != len(channel.members):
            raise Damaged

    def _counts(self, name: str) -> Counts:
        channel = self._channels.get(name)
        if channel is None:
            return Counts(0, 0)
        self._check_members(channel)
        return Counts(channel.subscriptions, len(channel.members))

    # -- Owed changes ------------------------------------------------------------------------

    def take(self, node: str) -> None:
        """Make *node* the holder, if there is none."""
        if self.holder not in {None, node} or self._tools.now() < self._grants_from:
            return
        self.holder = node
        restart, changes = self._owing.take()
        self._send(
            node,
            messages.Granted(self._tools.new_text(), self._owing.start, restart, tuple(changes)),
        )

    def settle(self, node: str, mark: Mark) -> None:
        """Remove the changes that the holder has kept."""
        if self.holder == node:
            self._owing.settle(mark)

    def unsettled(self) -> Sequence[Owed]:
        """Return the changes that are not settled."""
        return self._owing.after(0)

    def _owe_of(self, channel: _Channel, change: Change, kind: str) -> None:
        if channel.options.observed and getattr(self.wants, kind):
            self._owe(change)

    def _owe(self, change: Change) -> None:
        owed = self._owing.add(change)
        if owed is not None and self.holder is not None and self.holder != self._greeting:
            self._send(self.holder, messages.OwedChanges((owed,)))

    def finish(self) -> None:
        """
        Restart the owed changes after a command, if there were too many.

        This must follow the command: in the middle of a command, the state is incomplete.
        """
        if not self._owing.overflowed or self.holder is None:
            return
        changes = self._owing.restart()
        self._send(self.holder, messages.Restarted(Mark("", self._owing.epoch, 0)))
        if changes:
            self._send(self.holder, messages.OwedChanges(tuple(changes)))

    def _truth(self) -> Iterator[Change]:
        """Return the changes that lead from an empty state to the present one."""
        wants = self.wants
        for name, channel in self._channels.items():
            if not channel.options.observed:
                continue
            if wants.occupancy and channel.subscriptions:
                yield ChannelOccupied(name)
            if wants.members:
                for member in channel.members.values():
                    yield MemberAdded(name, member)
        if wants.users:
            for user_id, user in self._users.items():
                if user.sessions:
                    yield UserOnline(user_id)

    # -- Losses of a part, as in a store with several keys -----------------------------------

    def lose_share(self, node: str) -> None:
        """Lose the numbers that *node* has asserted, but not the totals."""
        registration = self._nodes.get(node)
        if registration is not None:
            registration.channels.clear()
            registration.users.clear()
            registration.watched.clear()

    def lose_channel(self, name: str) -> None:
        """Lose the record of a channel."""
        self._channels.pop(name, None)

    def lose_members(self, name: str) -> None:
        """Lose the members of a channel."""
        channel = self._channels.get(name)
        if channel is not None:
            channel.members.clear()

    def lose_log(self) -> None:
        """Lose the log."""
        self._log.lose()

    # -- Messages ----------------------------------------------------------------------------

    def _deliver(self, name: str, channel: _Channel, fact: Fact, skip: str | None) -> None:
        """Log a fact, and send it to the nodes that have the channel."""
        if not channel.nodes:
            return
        number = self._log.append(fact, channel=name, user_id=None)
        if isinstance(fact, Event):
            channel.last = number
        for node in channel.nodes:
            if node != skip:
                self._send(node, messages.FactMessage(fact))

    def _notify(self, user_id: str, notice: Notice, nodes: Iterable[str], skip: str | None) -> int:
        """Log a notice, and send it to *nodes*; return its number."""
        nodes = list(nodes)
        if not nodes:
            return 0
        number = self._log.append(notice, channel=None, user_id=user_id)
        for node in nodes:
            if node != skip:
                self._send(node, messages.FactMessage(notice))
        return number

    def _send(self, node: str, body: messages.Inbox, log: int | None = None) -> None:
        registration = self._nodes.get(node)
        if registration is None:
            return
        registration.number += 1
        self._tools.send(
            node,
            messages.Message(
                self.app_id,
                self.epoch,
                registration.number,
                self._log.last if log is None else log,
                body,
            ),
        )


def _sessions(
    turn: _Turn, asserted: messages.ChannelAssertion, part: _Part | None
) -> dict[str, int]:
    """Return the sessions that are asserted of members, without those that were refused."""
    sessions = {member.user_id: number for member, number in asserted.members}
    if turn.fresh and part is not None:
        for user_id in part.sessions:
            sessions.setdefault(user_id, 0)
    for refused in turn.registration.uncounted.values():
        if refused.channel == asserted.channel and refused.user_id in sessions:
            sessions[refused.user_id] -= 1
    return sessions


def _set_sessions(
    name: str, channel: _Channel, part: _Part, user_id: str, stated: _Sessions
) -> MemberAdded | MemberRemoved | None:
    """Set the number of a user's sessions on a node; return the change for the channel."""
    before = part.sessions.get(user_id, 0)
    number = max(0, stated.numbers[user_id])
    if number == before:
        return None
    if number:
        part.sessions[user_id] = number
    else:
        del part.sessions[user_id]
    had = channel.totals.get(user_id, 0)
    total = had + number - before
    if not total:
        del channel.totals[user_id], channel.members[user_id]
        channel.users = len(channel.members)
        return MemberRemoved(name, user_id)
    channel.totals[user_id] = total
    if had:
        return None
    member = channel.members[user_id] = stated.members[user_id]
    channel.users = len(channel.members)
    return MemberAdded(name, member)


def _born(record: _Channel | _User | None) -> int | None:
    """Return the log number after which a channel became occupied, or a user online; else None."""
    if record is None or (isinstance(record, _User) and not record.sessions):
        return None
    return record.born


def began_after(born: int | None, seen: int) -> bool:
    """Return whether the channel was vacated, or the user offline, at some time after *seen*."""
    return born is None or born > seen


def _users_of(registration: _Registration) -> list[str]:
    return list({**registration.users, **registration.watched})
