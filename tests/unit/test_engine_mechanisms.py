"""
Each mechanism of the linked engine is needed: without it, a test of the suite fails.

A mechanism is broken on purpose by replacing a function; the test of the suite that is named beside
it must fail then, and passes otherwise (`test_engine.py`).
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from msgspec import structs

from heliograph.engine import history, keys, share
from heliograph.engine.answers import Counts, FromTime, GapReason, Rewind, Since, Terms
from heliograph.engine.history import AppHistory
from heliograph.engine.testing import app_state, engine, log, messages, owing, space, state
from heliograph.engine.testing.cluster import LinkedCluster
from heliograph.errors import OutcomeUnknown, Unavailable
from heliograph.hub.facts import Event, Keep, Position, SubscriptionCount
from tests.unit import test_engine

Break = Callable[[pytest.MonkeyPatch], object]


class Mechanism(NamedTuple):
    """What is broken, how, and the tests that fail then."""

    name: str
    breaks: Break
    tests: tuple[str, ...]


def returns(owner: Any, name: str, value: object = None) -> Break:
    """Have a function do nothing, and return *value*."""
    return lambda patch: patch.setattr(owner, name, lambda *_arguments, **_named: value)


def replaced(owner: Any, name: str, value: object) -> Break:
    """Have *value* in the place of a function."""
    return lambda patch: patch.setattr(owner, name, value)


def every(*breaks: Break) -> Break:
    """Break several at once: one alone is made good by the other."""

    def break_all(patch: pytest.MonkeyPatch) -> None:
        for one in breaks:
            one(patch)

    return break_all


def limited(original: Any) -> Callable[..., object]:
    """Apply a limit of one member to everything that is asserted."""

    def assert_channel(self: Any, turn: Any, asserted: Any) -> object:
        channel = self._channels.get(asserted.channel)
        if channel is not None and any(
            number and member.user_id not in channel.members for member, number in asserted.members
        ):
            return []
        return original(self, turn, asserted)

    return assert_channel


def fail_without_withdrawing(self: Any, entering: Any) -> None:
    self._forget(entering)
    entering.later.fail(Unavailable("the engine did not answer in time"))


def assert_without_tickets(
    self: Any,
    channels: Any = (),
    users: Any = (),
    signing_in: Any = (),
    withdrawn: Any = (),  # noqa: ARG001 - this is what is broken
) -> None:
    self._send(messages.Assert(channels, users, signing_in))


def go_on_in_the_same_epoch(self: Any, snapshot: Any) -> None:
    self._apps, self._leases = snapshot.apps, snapshot.leases


def say_to_all(self: Any, name: str, channel: Any, fact: Any, skip: Any) -> None:
    channel.last = self._log.append(fact, channel=name, user_id=None)
    for node in self._nodes:
        if node != skip:
            self._send(node, messages.FactMessage(fact))


def deliver_all(self: Any, fact: Any) -> None:
    if hasattr(fact, "channel"):
        self._local.deliver(fact)


def owe_the_present_holder(original: Any) -> Callable[..., object]:
    def owe(self: Any, change: Any) -> None:
        if self.holder is not None:
            original(self, change)

    return owe


def grant_at_once(self: Any) -> None:
    self._life = self._new_text()


def take_always(self: Any, node: str) -> None:
    self.holder = None
    original_take(self, node)


original_take = app_state.AppState.take


def begin_anew(self: Any) -> object:
    changes = [owed.change for owed in self.after(0)]
    self.epoch, self.number = self._texts.new_text(), 0
    self._clear()
    for change in changes:
        self._append(change)
    return True, self.after(0)


def expired_leases(self: Any, now: float, lease_s: float) -> None:
    self.since = now - lease_s
    self.ends = now + lease_s


def forget_nothing(_self: Any, _entering: Any) -> None:
    """Go on waiting for the answer."""


def settle_anybody(self: Any, _node: str, mark: Any) -> None:
    self._owing.settle(mark)


def roster_that_lacks_members(original: Any) -> Callable[..., object]:
    """Answer with the first member and the newcomers only."""

    def entered(
        self: Any, turn: Any, name: str, channel: Any, accepted: Any, roster: Any
    ) -> object:
        if roster is not None:
            new = {one.user_id for one in accepted}
            roster = tuple(
                one for index, one in enumerate(roster) if not index or one.user_id in new
            )
        return original(self, turn, name, channel, accepted, roster)

    return entered


def answer_after_the_next_fact(original: Any) -> Callable[..., object]:
    """Let each fact overtake the reply before it."""
    kept: list[tuple[Any, Any]] = []

    def take(self: Any, message: Any, body: Any) -> None:
        if isinstance(body, messages.Entered):
            kept.append((message, body))
            return
        original(self, message, body)
        while kept:
            original(self, *kept.pop())

    return take


def publish_on_one_node(original: Any) -> Callable[..., object]:
    """Send an event only to the node that came first to the channel."""

    def say(self: Any, name: str, channel: Any, fact: Any, skip: Any) -> None:
        nodes = channel.nodes
        if isinstance(fact, Event):
            channel.nodes = dict(list(nodes.items())[:1])
        original(self, name, channel, fact, skip)
        channel.nodes = nodes

    return say


def owe_whatever_is_wanted(self: Any, channel: Any, change: Any, _kind: str) -> None:
    if channel.options.observed:
        self._owe(change)


def owe_no_numbers(original: Any) -> Callable[..., object]:
    def owe(self: Any, change: Any) -> None:
        if not isinstance(change, SubscriptionCount):
            original(self, change)

    return owe


def fail_sign_in_without_withdrawing(self: Any, signing_in: Any) -> None:
    del self._signing_in[signing_in.ticket]
    signing_in.later.fail(Unavailable("the engine did not answer in time"))


def fail_sign_in_without_asserting(self: Any, signing_in: Any) -> None:
    del self._signing_in[signing_in.ticket]
    self._share.sign_out(signing_in.user_id, signing_in.watchlist)
    signing_in.later.fail(Unavailable("the engine did not answer in time"))


def sign_out_without_withdrawing(self: Any, user_id: str, _session_id: str, watched: Any) -> None:
    self._share.sign_out(user_id, tuple(watched))
    self._assert_users((user_id, *watched), ())


def welcome_without_settling(original: Any) -> Callable[..., object]:
    def welcome(self: Any, node: str, hello: Any, *arguments: Any) -> None:
        original(self, node, structs.replace(hello, settled=None), *arguments)

    return welcome


def rely_on_the_picture(original: Callable[..., object]) -> Callable[..., object]:
    def take_entered(self: Any, body: Any) -> object:
        if body.roster is None:
            self._known[body.channel].count = body.count
        return original(self, body)

    return take_entered


def replace_the_picture(self: Any, channel: str, picture: Any) -> None:
    self._known[channel] = space._KnownChannel(
        picture.count, {one.user_id: one for one in picture.roster}
    )


def publish_backwards(original: Any) -> Callable[..., object]:
    return lambda self, events, terms: original(self, events[::-1], terms)


def owe_what_nobody_observes(self: Any, _channel: Any, change: Any, _kind: str) -> None:
    self._owe(change)


def admit_without_limit(original: Any) -> Callable[..., object]:
    def admit(self: Any, turn: Any, asserted: Any, channel: Any, sessions: Any) -> object:
        entering = tuple(structs.replace(one, max_members=0) for one in asserted.entering)
        asserted = structs.replace(asserted, entering=entering)
        return original(self, turn, asserted, channel, sessions)

    return admit


def leave_the_first(original: Any) -> Callable[..., object]:
    return lambda self, channels, subscriber_id: original(self, [*channels][:1], subscriber_id)


def list_without_prefix(original: Any) -> Callable[..., object]:
    return lambda self, _prefix: original(self, "")


def list_the_first_part(original: Any) -> Callable[..., object]:
    return lambda self, prefix: original(self, prefix)[:1]


def skip_numbers(original: Any) -> Callable[..., object]:
    def append(self: Any, change: Any) -> object:
        self.number += 1
        return original(self, change)

    return append


def fail_with_unknown_outcome(self: Any) -> None:
    if not self.over:
        self.over = True
        self.later.fail(OutcomeUnknown("the engine did not answer in time"))


def sign_in_without_answer(_self: Any, signing_in: Any, seq: int) -> object:
    return messages.SignedInAs(signing_in.ticket, seq, frozenset())


def repeat_what_was_refused(original: Any) -> Callable[..., object]:
    def answered(self: Any, sent: Any, body: Any) -> None:
        if sent.call is not None and isinstance(body, messages.NotExecuted):
            body = messages.NotExecuted(body.seq, messages.Why.UNKNOWN)
        original(self, sent, body)

    return answered


def remove_named_members_only(original: Any) -> Callable[..., object]:
    def count(self: Any, turn: Any, name: str, channel: Any, wanted: int, stated: Any) -> None:
        if not wanted:
            stated.numbers = {one: stated.numbers[one] for one in stated.members}
        original(self, turn, name, channel, wanted, stated)

    return count


def adding(change: Callable[[Event, Keep], tuple[Event, Keep]]) -> Break:
    """Keep another event than the one that was published, or by another rule."""
    original = AppHistory.add
    return replaced(
        AppHistory,
        "add",
        lambda self, event, keep, now: original(self, *change(event, keep), now),
    )


def reading(change: Callable[[Since, dict[str, Any]], Since]) -> Break:
    """Read from another place, or with other arguments."""
    original = AppHistory.read

    def read(self: Any, channel: str, since: Since, *times: float, **named: Any) -> object:
        return original(self, channel, change(since, named), *times, **named)

    return replaced(AppHistory, "read", read)


def without(name: str, value: object) -> Callable[[Since, dict[str, Any]], Since]:
    """Read with *value* for an argument."""

    def change(since: Since, named: dict[str, Any]) -> Since:
        named[name] = value
        return since

    return change


def keep_for_ever(event: Event, keep: Keep) -> tuple[Event, Keep]:
    return event, Keep(keep.count, keep.ttl_s * 1000)


def keep_one_less(event: Event, keep: Keep) -> tuple[Event, Keep]:
    return event, Keep(keep.count - 1, keep.ttl_s)


def by_the_first_rule() -> Callable[[Event, Keep], tuple[Event, Keep]]:
    """Apply the first rule of a channel for ever."""
    first: dict[str, Keep] = {}
    return lambda event, keep: (event, first.setdefault(event.channel, keep))


def deliver_without_position(original: Any) -> Callable[..., object]:
    def keep(self: Any, event: Event, rule: Keep) -> Event:
        original(self, event, rule)
        return event

    return keep


def keep_every_event(original: Any) -> Callable[..., object]:
    def publish(self: Any, event: Event) -> object:
        if event.keep is None:
            event = structs.replace(event, keep=Keep(3, 30.0))
        return original(self, event)

    return publish


def return_what_is_left(original: Any) -> Callable[..., object]:
    """Where events are missing, continue with those that are left."""

    def first_after(since: Position, top: Position, kept: int) -> object:
        first = original(since, top, kept)
        return 0 if first is GapReason.TRIMMED else first

    return first_after


def continue_ahead(original: Any) -> Callable[..., object]:
    def first_after(since: Position, top: Position, kept: int) -> object:
        first = original(since, top, kept)
        return kept if first is GapReason.AHEAD else first

    return first_after


def compare_no_epochs(original: Any) -> Callable[..., object]:
    return lambda since, top, kept: original(Position(top.epoch, since.offset), top, kept)


def expire_one_by_one(self: Any, record: Any, now: float) -> None:
    """Remove the events that have expired, and no other."""
    for index in reversed(range(len(record.events))):
        if record.times[index] + record.events[index].keep.ttl_s <= now:
            del record.events[index], record.times[index]
            self._events -= 1


def refuse_the_future(since: Since, _named: dict[str, Any]) -> Since:
    return FromTime(0.0) if isinstance(since, FromTime) and since.unix_s > 1e11 else since


def rewind_everything(since: Since, _named: dict[str, Any]) -> Since:
    return Rewind(count=1_000_000) if isinstance(since, Rewind) else since


def forget_when_events_were_dropped(original: Any) -> Callable[..., object]:
    def drop(self: Any, record: Any, count: int) -> None:
        cut = record.cut
        original(self, record, count)
        record.cut = cut

    return drop


def beginning(**changes: Any) -> Break:
    """Begin the history of an app with other arguments."""
    original = AppHistory.__init__

    def init(self: Any, app_id: str, prefix: str, budget: Any, now: float) -> None:
        original(self, app_id, **{"prefix": prefix, "budget": budget, "now": now, **changes})

    return replaced(AppHistory, "__init__", init)


def miss_whatever_is_kept(original: Any) -> Callable[..., object]:
    """Owe a miss of each channel that keeps events."""

    def entered(self: Any, turn: Any, name: str, channel: Any, *arguments: Any) -> object:
        options = channel.options
        channel.options = structs.replace(options, cached=True, observed=True)
        answers = original(self, turn, name, channel, *arguments)
        channel.options = options
        return answers

    return entered


def answer_publishers(**changes: Any) -> Break:
    """Answer a publish with terms otherwise."""
    original = app_state.AppState.publish

    def publish(self: Any, events: Any, terms: Any = None) -> object:
        published = original(self, events, terms)
        return None if published is None else structs.replace(published, **changes)

    return replaced(app_state.AppState, "publish", publish)


def answer_every_publisher(original: Any) -> Callable[..., object]:
    return lambda self, events, terms=None: original(self, events, terms or Terms())


def enter_from_the_beginning(original: Any) -> Callable[..., object]:
    def message(self: Any) -> object:
        since = self.since and Rewind(count=1_000_000)
        return structs.replace(original(self), since=since)

    return message


def repeat_without_history(original: Any) -> Callable[..., object]:
    """Ask for history in the first command only."""

    def message(self: Any) -> object:
        found = original(self)
        self.since = None
        return found

    return message


def lose_history_with_a_node(original: Any) -> Callable[..., object]:
    def unregister(self: Any, node: str) -> None:
        original(self, node)
        self._kept = app_state._Kept(self.app_id, self.epoch, 1 << 20, self._tools.now())

    return unregister


def without_the_position_of_a_loss(original: Any) -> Callable[..., object]:
    return lambda self, *arguments: structs.replace(original(self, *arguments), history=None)


def answers_in_any_order(original: Any) -> Callable[..., object]:
    """Take the answers that are missing for given."""

    def received(self: Any, message: Any) -> None:
        body = message.body
        if isinstance(body, messages.Done | messages.NotExecuted):
            while self._sent and self._sent[0].seq < body.seq:
                self._sent.popleft()
        original(self, message)

    return received


MECHANISMS = (
    Mechanism(
        "the fence of a node's numbers",
        returns(app_state.AppState, "fence", True),
        (
            "test_a_command_of_an_old_connection_is_not_executed",
            "test_a_late_publish_of_an_old_connection_is_not_executed",
        ),
    ),
    Mechanism(
        "the deadline where commands are executed",
        returns(state.SharedState, "_late", False),
        ("test_nothing_happens_after_its_deadline",),
    ),
    Mechanism(
        "the log",
        returns(app_state.AppState, "_replay"),
        ("test_events_during_an_interruption_are_delivered_after_it",),
    ),
    Mechanism(
        "the numbers of the inbox",
        returns(space.LinkedSpace, "_follows", True),
        (
            "test_events_that_were_lost_silently_are_noticed",
            "test_a_silent_loss_is_noticed_without_further_events",
        ),
    ),
    Mechanism(
        "probes",
        returns(app_state.AppState, "probe"),
        ("test_a_silent_loss_is_noticed_without_further_events",),
    ),
    Mechanism(
        "the complete hello after a hole in the log",
        returns(log.Log, "reaches", True),
        ("test_what_the_log_lacks_is_lost_and_nothing_else",),
    ),
    Mechanism(
        "the birth of channels and users",
        returns(app_state, "began_after", False),
        ("test_a_stalled_node_makes_good_what_it_missed",),
    ),
    Mechanism(
        "a number for each life of a channel or user",
        replaced(log.Log, "take_number", lambda self: self.last),
        ("test_what_reached_nobody_while_a_node_was_removed_is_lost",),
    ),
    Mechanism(
        "a member limit for enters only",
        replaced(
            app_state.AppState, "_assert_channel", limited(app_state.AppState._assert_channel)
        ),
        ("test_a_node_that_comes_back_is_not_refused_by_the_member_limit",),
    ),
    Mechanism(
        "the withdrawal of what failed",
        replaced(space.LinkedSpace, "_fail_enter", fail_without_withdrawing),
        (
            "test_an_enter_that_failed_leaves_no_trace",
            "test_an_enter_that_was_executed_and_failed_is_made_good",
        ),
    ),
    Mechanism(
        "the withdrawal of what is unanswered",
        replaced(space.LinkedSpace, "_forget", forget_nothing),
        (
            "test_a_withdrawn_enter_is_never_answered",
            "test_a_subscriber_that_leaves_and_enters_again_has_the_second_answer",
        ),
    ),
    Mechanism(
        "the names of withdrawn tickets",
        replaced(space.LinkedSpace, "_send_assert", assert_without_tickets),
        ("test_a_refused_enter_that_was_withdrawn_takes_nothing_away",),
    ),
    Mechanism(
        "the repetition of what is unanswered",
        returns(space.LinkedSpace, "_repeat"),
        (
            "test_an_enter_whose_reply_was_lost_is_answered_after_the_interruption",
            "test_a_leave_that_was_cut_off_is_made_good",
            "test_a_leave_that_was_refused_is_made_good",
        ),
    ),
    Mechanism(
        "the assertion of what changed during an outage",
        returns(space.LinkedSpace, "_take_unsaid", messages.Assert()),
        ("test_a_leave_during_an_outage_is_made_good",),
    ),
    Mechanism(
        "answers to each command, in order",
        replaced(space.LinkedSpace, "received", answers_in_any_order(space.LinkedSpace.received)),
        ("test_a_leave_that_was_lost_silently_is_made_good",),
    ),
    Mechanism(
        "giving up a connection that does not answer",
        returns(space.LinkedSpace, "stuck", False),
        ("test_a_connection_that_answers_no_more_is_given_up",),
    ),
    Mechanism(
        "removal only by nodes whose lease was never broken",
        replaced(state._Lease, "__init__", expired_leases),
        ("test_a_common_outage_kills_no_node",),
    ),
    Mechanism(
        "a new epoch when the state was set back",
        replaced(state.SharedState, "restore", go_on_in_the_same_epoch),
        ("test_a_state_that_was_set_back_begins_anew",),
    ),
    Mechanism(
        "the cross-checks",
        every(returns(app_state.AppState, "check"), returns(app_state.AppState, "_check_members")),
        ("test_the_loss_of_a_part_is_noticed",),
    ),
    Mechanism(
        "changes that are recorded without a holder",
        replaced(app_state.AppState, "_owe", owe_the_present_holder(app_state.AppState._owe)),
        ("test_changes_without_a_holder_are_kept",),
    ),
    Mechanism(
        "the holder's own look at its lease",
        returns(engine.LinkedEngine, "renewed"),
        ("test_a_holder_releases_when_its_lease_ends",),
    ),
    Mechanism(
        "the time without a holder when the state begins anew",
        replaced(state.SharedState, "_begin_life", grant_at_once),
        ("test_an_empty_state_grants_no_second_holder",),
    ),
    Mechanism(
        "one holder",
        replaced(app_state.AppState, "take", take_always),
        (
            "test_there_is_one_holder_from_the_beginning",
            "test_exactly_one_node_is_owed_each_change",
        ),
    ),
    Mechanism(
        "the repetition of owed changes after a hello",
        returns(owing.Owing, "after", ()),
        ("test_a_holder_that_was_cut_off_for_a_moment_goes_on",),
    ),
    Mechanism(
        "marks that stay the same for the next holder",
        replaced(owing.Owing, "take", begin_anew),
        ("test_what_was_not_settled_is_owed_to_the_next_holder_with_the_same_marks",),
    ),
    Mechanism(
        "settling by the holder only",
        replaced(app_state.AppState, "settle", settle_anybody),
        ("test_only_the_holder_settles",),
    ),
    Mechanism(
        "the restart after too many changes",
        returns(app_state.AppState, "finish"),
        ("test_too_many_changes_are_a_restart",),
    ),
    Mechanism(
        "interest, in the state and in the node",
        every(
            replaced(app_state.AppState, "_deliver", say_to_all),
            replaced(space.LinkedSpace, "_fact", deliver_all),
        ),
        (
            "test_a_node_that_did_not_enter_gets_no_facts",
            "test_interest_ends_with_the_last_subscription_of_a_node",
        ),
    ),
    Mechanism(
        "delivery of events to each node that has the channel",
        replaced(app_state.AppState, "_deliver", publish_on_one_node(app_state.AppState._deliver)),
        ("test_facts_and_replies_have_one_order_on_all_nodes",),
    ),
    Mechanism(
        "whole rosters",
        replaced(
            app_state.AppState,
            "_entered",
            roster_that_lacks_members(app_state.AppState._entered),
        ),
        ("test_a_newcomer_gets_a_roster_and_then_exactly_the_later_facts",),
    ),
    Mechanism(
        "the place of the reply among the facts",
        replaced(space.LinkedSpace, "_take", answer_after_the_next_fact(space.LinkedSpace._take)),
        ("test_a_newcomer_gets_a_roster_and_then_exactly_the_later_facts",),
    ),
    Mechanism(
        "the changes that a node wants",
        returns(space.LinkedSpace, "want"),
        ("test_only_what_is_wanted_is_owed",),
    ),
    Mechanism(
        "the changes that a node wants, in the state",
        replaced(app_state.AppState, "_owe_of", owe_whatever_is_wanted),
        ("test_only_what_is_wanted_is_owed",),
    ),
    Mechanism(
        "numbers that are owed",
        replaced(app_state.AppState, "_owe", owe_no_numbers(app_state.AppState._owe)),
        (
            "test_only_what_is_wanted_is_owed",
            "test_large_numbers_are_facts_once_in_an_interval",
        ),
    ),
    Mechanism(
        "what is known of an outage, by the space",
        returns(space.LinkedSpace, "available", True),
        ("test_an_outage_is_known_without_asking",),
    ),
    Mechanism(
        "what is known of an outage, by the engine",
        replaced(engine.LinkedEngine, "available", True),
        ("test_an_outage_is_known_without_asking",),
    ),
    Mechanism(
        "another node that asks for a number when the first one leaves",
        returns(app_state.AppState, "_pass_count_on"),
        ("test_the_number_of_a_large_channel_is_stated_if_the_node_asked_for_it_leaves",),
    ),
    Mechanism(
        "the reminder of numbers that are due",
        returns(app_state.AppState, "_remind"),
        ("test_a_number_that_is_due_is_stated_after_an_interruption",),
    ),
    Mechanism(
        "the comparison of numbers after a complete hello",
        replaced(space.LinkedSpace, "_repair_channel", replace_the_picture),
        ("test_a_number_that_changed_during_an_interruption_is_stated",),
    ),
    Mechanism(
        "the withdrawal of a failed sign-in",
        replaced(space.LinkedSpace, "_fail_sign_in", fail_sign_in_without_withdrawing),
        (
            "test_a_sign_in_that_failed_leaves_no_trace",
            "test_a_sign_in_that_was_executed_and_failed_is_made_good",
        ),
    ),
    Mechanism(
        "the assertion after a failed sign-in",
        replaced(space.LinkedSpace, "_fail_sign_in", fail_sign_in_without_asserting),
        ("test_a_sign_in_that_fails_while_a_connection_begins_is_made_good",),
    ),
    Mechanism(
        "the repetition of a sign-in that is unanswered",
        returns(space.LinkedSpace, "_repeat"),
        ("test_a_sign_in_whose_reply_was_lost_is_answered_after_the_interruption",),
    ),
    Mechanism(
        "the withdrawal of an unanswered sign-in",
        replaced(space.LinkedSpace, "sign_out", sign_out_without_withdrawing),
        ("test_a_withdrawn_sign_in_is_never_answered",),
    ),
    Mechanism(
        "a hello that repeats what was settled",
        replaced(
            app_state.AppState, "_welcome", welcome_without_settling(app_state.AppState._welcome)
        ),
        ("test_a_mark_whose_settling_was_cut_off_is_settled",),
    ),
    Mechanism(
        "connecting anew where the state knows a channel that the node forgot",
        replaced(
            space.LinkedSpace, "_take_entered", rely_on_the_picture(space.LinkedSpace._take_entered)
        ),
        ("test_an_entry_behind_a_departure_that_was_lost_is_answered",),
    ),
    Mechanism(
        "the failure of what was refused",
        replaced(
            space.LinkedSpace, "_answered", repeat_what_was_refused(space.LinkedSpace._answered)
        ),
        ("test_a_refused_publish_reaches_nobody",),
    ),
    Mechanism(
        "the removal of all members of a node with its last leave",
        replaced(
            app_state.AppState, "_count", remove_named_members_only(app_state.AppState._count)
        ),
        ("test_the_last_leave_of_a_node_makes_good_a_refused_one_before_it",),
    ),
    Mechanism(
        "the order of a batch",
        replaced(app_state.AppState, "publish", publish_backwards(app_state.AppState.publish)),
        ("test_events_are_delivered_in_order",),
    ),
    Mechanism(
        "counts of the state",
        returns(app_state.AppState, "_counts", Counts(0, 0)),
        ("test_entries_count_subscriptions",),
    ),
    Mechanism(
        "changes of channels that are owed",
        returns(app_state.AppState, "_owe_of"),
        (
            "test_the_first_subscription_occupies_and_the_last_vacates",
            "test_cache_misses_and_the_first_event_after_them_are_owed",
        ),
    ),
    Mechanism(
        "the options of a channel",
        replaced(app_state.AppState, "_owe_of", owe_what_nobody_observes),
        ("test_a_channel_that_is_not_observed_owes_nothing",),
    ),
    Mechanism(
        "facts",
        returns(app_state.AppState, "_deliver"),
        (
            "test_members_are_announced_to_those_before_them",
            "test_the_last_session_of_a_user_removes_the_member",
        ),
    ),
    Mechanism(
        "the member limit",
        replaced(app_state.AppState, "_admit", admit_without_limit(app_state.AppState._admit)),
        (
            "test_a_full_channel_refuses_new_users_but_not_more_sessions",
            "test_a_refused_enter_leaves_no_trace",
        ),
    ),
    Mechanism(
        "leaving many channels",
        replaced(space.LinkedSpace, "leave", leave_the_first(space.LinkedSpace.leave)),
        ("test_many_channels_are_left_at_once",),
    ),
    Mechanism(
        "the prefix of a listing",
        replaced(app_state.AppState, "_listing", list_without_prefix(app_state.AppState._listing)),
        ("test_channels_are_listed_by_prefix",),
    ),
    Mechanism(
        "all parts of a listing",
        replaced(app_state.AppState, "_listing", list_the_first_part(app_state.AppState._listing)),
        ("test_a_channel_that_stays_occupied_is_in_the_whole_listing",),
    ),
    Mechanism(
        "the time for which an event is kept",
        adding(keep_for_ever),
        ("test_the_last_event_is_kept_for_a_while",),
    ),
    Mechanism(
        "owed changes",
        returns(app_state.AppState, "_owe"),
        ("test_events_of_clients_are_owed",),
    ),
    Mechanism(
        "marks without gaps",
        replaced(owing.Owing, "_append", skip_numbers(owing.Owing._append)),
        ("test_marks_have_no_gaps",),
    ),
    Mechanism(
        "numbers as facts",
        returns(app_state.AppState, "_count_changed"),
        ("test_small_numbers_are_facts_at_once",),
    ),
    Mechanism(
        "notices",
        returns(app_state.AppState, "_notify", 0),
        (
            "test_a_user_is_online_from_the_first_session_to_the_last",
            "test_terminations_reach_the_sessions",
        ),
    ),
    Mechanism(
        "the answer to a sign-in",
        replaced(app_state.AppState, "_signed_in", sign_in_without_answer),
        ("test_a_user_sees_itself_online",),
    ),
    Mechanism(
        "the share",
        returns(share.Share, "leave"),
        ("test_a_share_is_what_the_node_wants",),
    ),
    Mechanism(
        "availability",
        replaced(engine.LinkedEngine, "available", False),
        ("test_available_is_known_without_asking",),
    ),
    Mechanism(
        "changes that the next holder is owed",
        returns(owing.Owing, "take", (False, ())),
        ("test_a_holder_that_leaves_is_followed_by_another",),
    ),
    Mechanism(
        "the deadlines of the node",
        returns(space.LinkedSpace, "fail_overdue"),
        ("test_a_publish_without_an_answer_is_unknown_at_its_deadline",),
    ),
    Mechanism(
        "certainty that nothing was sent",
        replaced(space._Call, "fail", fail_with_unknown_outcome),
        ("test_a_publish_that_was_not_sent_is_unavailable",),
    ),
    Mechanism(
        "removal from the state",
        returns(state.SharedState, "_remove"),
        (
            "test_a_dead_node_is_removed",
            "test_a_goodbye_removes_everything",
        ),
    ),
    Mechanism(
        "losses after the state was emptied",
        every(
            returns(app_state.AppState, "_channel_losses", {}),
            returns(app_state.AppState, "_user_losses", {}),
        ),
        ("test_an_empty_state_is_filled_again",),
    ),
    Mechanism(
        "positions of delivered events",
        replaced(app_state.AppState, "_keep", deliver_without_position(app_state.AppState._keep)),
        (
            "test_kept_events_are_numbered_from_one_in_each_channel",
            "test_kept_events_of_an_interruption_arrive_with_their_positions",
            "test_positions_are_the_same_on_all_nodes",
        ),
    ),
    Mechanism(
        "the excluded sender of a kept event",
        adding(lambda event, keep: (structs.replace(event, except_id=None), keep)),
        ("test_a_kept_event_is_returned_as_it_was_published",),
    ),
    Mechanism(
        "gaps",
        replaced(history, "_first_after", return_what_is_left(history._first_after)),
        (
            "test_a_position_is_continued_exactly_if_nothing_is_missing_after_it",
            "test_a_page_whose_events_were_trimmed_meanwhile_is_a_gap",
            "test_the_channel_that_was_quiet_the_longest_loses_its_events_first",
        ),
    ),
    Mechanism(
        "the number of events that are kept",
        adding(keep_one_less),
        (
            "test_a_position_before_the_first_event_is_continued",
            "test_a_position_is_continued_exactly_if_nothing_is_missing_after_it",
        ),
    ),
    Mechanism(
        "the refusal of positions ahead",
        replaced(history, "_first_after", continue_ahead(history._first_after)),
        ("test_a_position_ahead_of_the_last_event_is_a_gap",),
    ),
    Mechanism(
        "the comparison of epochs",
        replaced(history, "_first_after", compare_no_epochs(history._first_after)),
        ("test_a_position_of_another_numbering_is_a_gap",),
    ),
    Mechanism(
        "numberings that outlive their events",
        replaced(history, "NUMBERED_TTLS", 1),
        ("test_the_top_is_continued_when_nothing_is_kept_any_more",),
    ),
    Mechanism(
        "the end of numberings",
        replaced(history, "NUMBERED_TTLS", 1_000_000),
        ("test_numbering_ends_some_time_after_the_last_event",),
    ),
    Mechanism(
        "records of channels without events",
        reading(without("asked", None)),
        ("test_positions_of_an_empty_channel_are_continued",),
    ),
    Mechanism(
        "the expiry of single events",
        returns(AppHistory, "_drop_expired"),
        ("test_each_event_is_kept_for_its_own_time",),
    ),
    Mechanism(
        "rules that change",
        adding(by_the_first_rule()),
        ("test_a_rule_that_changed_applies_from_the_next_event_on",),
    ),
    Mechanism(
        "the expiry of earlier events with a later one",
        every(
            replaced(AppHistory, "_drop_expired", expire_one_by_one),
            returns(AppHistory, "_expire"),
        ),
        ("test_a_shorter_time_to_live_leaves_no_hole",),
    ),
    Mechanism(
        "events that are not kept",
        replaced(app_state.AppState, "_publish", keep_every_event(app_state.AppState._publish)),
        ("test_only_events_with_a_rule_are_kept",),
    ),
    Mechanism(
        "times that are inclusive",
        replaced(history, "TIME_TOLERANCE_S", -0.2),
        ("test_history_from_a_time_on_includes_that_time",),
    ),
    Mechanism(
        "the future",
        reading(refuse_the_future),
        ("test_a_time_in_the_future_is_the_present",),
    ),
    Mechanism(
        "the time of the last event that is not kept",
        replaced(AppHistory, "_drop", forget_when_events_were_dropped(AppHistory._drop)),
        ("test_a_time_is_refused_if_a_later_event_is_no_longer_kept",),
    ),
    Mechanism(
        "the time at which the engine began to serve",
        beginning(now=float("-inf")),
        ("test_a_time_before_the_engine_served_is_refused",),
    ),
    Mechanism(
        "rewind",
        reading(rewind_everything),
        ("test_rewind_returns_the_last_events_by_number_or_age",),
    ),
    Mechanism(
        "the limit of a page in events",
        reading(without("limit", 0)),
        ("test_pages_are_limited_in_number",),
    ),
    Mechanism(
        "the limit of a page in bytes",
        replaced(history, "_end_of_page", lambda _events, _first, last, _max_bytes: last),
        (
            "test_pages_are_limited_in_bytes",
            "test_the_page_of_an_entry_is_bounded_and_the_rest_is_read_up_to_its_top",
        ),
    ),
    Mechanism(
        "what an entry knows of kept events",
        returns(AppHistory, "keeps", True),
        ("test_an_entry_knows_whether_anything_is_kept",),
    ),
    Mechanism(
        "misses of cached channels only",
        replaced(
            app_state.AppState, "_entered", miss_whatever_is_kept(app_state.AppState._entered)
        ),
        ("test_a_miss_is_owed_only_of_cached_channels",),
    ),
    Mechanism(
        "positions for publishers",
        answer_publishers(positions=()),
        ("test_a_publisher_gets_the_positions_that_it_asks_for",),
    ),
    Mechanism(
        "counts for publishers",
        answer_publishers(counts={}),
        ("test_a_publisher_gets_the_counts_that_it_asks_for",),
    ),
    Mechanism(
        "answers for publishers that ask only",
        replaced(app_state.AppState, "publish", answer_every_publisher(app_state.AppState.publish)),
        ("test_without_terms_a_publish_has_no_answer",),
    ),
    Mechanism(
        "keys of publishers",
        returns(keys.KeyedAnswers, "find"),
        (
            "test_a_publish_with_the_same_key_is_not_delivered_again",
            "test_a_publish_of_unknown_outcome_is_repeated_with_its_key",
        ),
    ),
    Mechanism(
        "the time for which a key is known",
        replaced(keys, "KEY_TTL_S", 1e9),
        ("test_a_key_is_forgotten_after_a_while",),
    ),
    Mechanism(
        "the place of an entry with history among the facts",
        replaced(space.LinkedSpace, "_take", answer_after_the_next_fact(space.LinkedSpace._take)),
        ("test_page_and_facts_of_a_newcomer_have_each_event_once",),
    ),
    Mechanism(
        "the place from which an entry has events",
        replaced(space._Entering, "message", enter_from_the_beginning(space._Entering.message)),
        ("test_an_entry_has_the_events_since_the_last_one_on_another_node",),
    ),
    Mechanism(
        "the bound of kept events in bytes",
        returns(history.HistoryBudget, "shrink"),
        (
            "test_the_channel_that_was_quiet_the_longest_loses_its_events_first",
            "test_a_channel_alone_loses_its_oldest_events_one_by_one",
            "test_numberings_without_events_end_before_events_are_evicted",
        ),
    ),
    Mechanism(
        "history in an entry that is repeated",
        replaced(space._Entering, "message", repeat_without_history(space._Entering.message)),
        ("test_history_of_an_entry_that_was_cut_off_joins_the_facts",),
    ),
    Mechanism(
        "other epochs after another life of the state",
        beginning(prefix="always the same"),
        (
            "test_a_state_that_lost_everything_has_other_epochs",
            "test_a_state_that_was_set_back_has_other_epochs",
        ),
    ),
    Mechanism(
        "the position of a loss",
        replaced(
            app_state.AppState,
            "_picture",
            without_the_position_of_a_loss(app_state.AppState._picture),
        ),
        ("test_events_that_a_node_lost_are_read_up_to_the_position_of_the_loss",),
    ),
    Mechanism(
        "the deadlines of reads",
        returns(space.LinkedSpace, "fail_overdue"),
        ("test_history_that_cannot_be_read_fails",),
    ),
    Mechanism(
        "history without its node",
        replaced(
            app_state.AppState,
            "unregister",
            lose_history_with_a_node(app_state.AppState.unregister),
        ),
        ("test_history_outlives_the_node_that_published_it",),
    ),
)

CASES = [
    pytest.param(mechanism, test, id=f"{mechanism.name}: {test}")
    for mechanism in MECHANISMS
    for test in mechanism.tests
]


class Suite(
    test_engine.TestFaultsOfTwoNodes,
    test_engine.TestTwoNodesOverLateLinks,
    test_engine.TestTwoNodesWithLittleMemory,
):
    """All tests that a mechanism may be needed for, over two nodes whose links a test moves."""

    __test__ = False

    def make(self) -> LinkedCluster:
        return test_engine.TestFaultsOfTwoNodes.make(self)


def run(test: str) -> None:
    """Run a test of the suite, with each of its parameters: it fails if one of them does."""
    suite = Suite()
    function = getattr(suite, test)
    marks = getattr(function, "pytestmark", [])
    values: list[tuple[object, ...]] = [(value,) for mark in marks for value in mark.args[1]]
    for arguments in values or [()]:
        if "cluster" in inspect.signature(function).parameters:
            function(suite.make(), *arguments)
        else:
            function(*arguments)


@pytest.mark.parametrize("test", sorted({test for one in MECHANISMS for test in one.tests}))
def test_the_suite_passes_with_every_mechanism(test: str) -> None:
    run(test)


@pytest.mark.interpreted
@pytest.mark.parametrize(("mechanism", "test"), CASES)
def test_the_suite_fails_without(
    mechanism: Mechanism, test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mechanism.breaks(monkeypatch)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        run(test)


def test_each_test_of_the_suite_is_seen_to_fail() -> None:
    tests = {name for name in dir(Suite) if name.startswith("test_")}
    assert tests == {test for one in MECHANISMS for test in one.tests}
