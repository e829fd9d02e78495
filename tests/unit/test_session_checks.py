"""
What a session refuses: each check and each limit, to the byte, and what a refused client may still.

The stories in which orders matter are in `test_session.py`.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.config.apps import Webhook
from heliograph.node.dialect import Opening
from heliograph.protocols.pusher import auth, messages
from heliograph.protocols.pusher.dialect import PusherDialect
from tests.unit.fakes import texts_of
from tests.unit.test_session import FakePeer, World, say, sign


def subscribed(world: World, channel: str, user_id: str | None = None) -> FakePeer:
    peer = world.client()
    say(peer, "subscribe", channel, **(sign(peer, channel, user_id) if channel[0] == "p" else {}))
    world.settle()
    peer.take()
    return peer


def send(peer: FakePeer, event: str, **fields: Any) -> None:
    """Send a message whose `data` is a string, as it stands there, or anything else."""
    peer.session.receive(json.dumps({"event": event, **fields}).encode(), 0.0)


def error(peer: FakePeer) -> str:
    (told,) = peer.take()
    assert told.startswith("error: ")
    return told.removeprefix("error: ")


# -- Client events ---------------------------------------------------------------------------

MAX = 100
AT_THE_LIMIT = texts_of(MAX)


@pytest.mark.parametrize("data", AT_THE_LIMIT.values(), ids=AT_THE_LIMIT)
@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "as it is"])
def test_a_client_event_may_be_as_large_as_the_limit_and_no_larger(
    data: str, ascii_only: bool
) -> None:
    """Its size is that of its text, however that is escaped."""
    world = World(late=False, max_event_bytes=MAX)
    sender, receiver = (subscribed(world, "private-c") for _ in range(2))
    assert len(data.encode()) == MAX
    for text, taken in ((data[:-1], True), (data, True), (data + "x", False), (data * 2, False)):
        message = {"event": "client-x", "channel": "private-c", "data": text}
        sender.session.receive(json.dumps(message, ensure_ascii=ascii_only).encode(), 0.0)
        world.settle()
        if taken:
            assert [one["data"] for one in receiver.told] == [text]
            assert (receiver.take(), sender.take()) == (["client-x private-c"], [])
        else:
            assert receiver.take() == []
            assert error(sender) == (
                "Client event rejected - the data content of this event exceeds the allowed"
                " maximum (100 bytes)"
            )


def test_half_of_a_pair_of_surrogates_counts_as_three_bytes() -> None:
    world = World(late=False, max_event_bytes=MAX)
    sender, receiver = (subscribed(world, "private-c") for _ in range(2))
    for text, taken in (("\ud800" * 33 + "x", 1), ("\ud800" * 33 + "xy", 0), ("\ud800" * 34, 0)):
        send(sender, "client-x", channel="private-c", data=text)
        world.settle()
        assert (len(receiver.take()), len(sender.take())) == (taken, 1 - taken)


def test_the_size_of_data_that_is_no_string_is_that_of_its_json() -> None:
    world = World(late=False, max_event_bytes=MAX)
    sender, receiver = (subscribed(world, "private-c") for _ in range(2))
    for length, taken in ((MAX - 6, True), (MAX - 5, False)):
        text = b'{"event":"client-x","channel":"private-c","data":{"a":"%b"}}'
        inner = b'{"a":"%b"}' % (b"x" * (length - 2))
        assert len(inner) == length + 6
        sender.session.receive(text % (b"x" * (length - 2)), 0.0)
        world.settle()
        assert (len(receiver.take()), len(sender.take())) == ((1, 0) if taken else (0, 1))


def test_without_a_limit_a_client_event_is_as_large_as_it_is() -> None:
    world = World(late=False, max_event_bytes=0, max_event_name_length=0)
    sender, receiver = (subscribed(world, "private-c") for _ in range(2))
    send(sender, "client-" + "x" * 1000, channel="private-c", data="x" * 100_000)
    world.settle()
    assert len(receiver.take()) == 1


def test_a_client_event_has_a_name_as_long_as_the_limit_and_no_longer() -> None:
    world = World(late=False, max_event_name_length=20)
    sender, receiver = (subscribed(world, "private-c") for _ in range(2))
    for length, taken in ((20, True), (21, False)):
        send(sender, "client-".ljust(length, "é"), channel="private-c", data="x")
        world.settle()
        assert len(receiver.take()) == taken
        if not taken:
            assert error(sender) == "Client event rejected - the name exceeds 20 characters"


NOT_SUBSCRIBED = "Cannot broadcast client event (connection not subscribed to channel private-c)"


def test_a_client_event_is_refused_until_its_subscription_is_answered() -> None:
    world = World(late=True)
    assert world.late
    receiver, sender = subscribed(world, "private-c"), world.client()
    say(sender, "subscribe", "private-c", **sign(sender, "private-c"))
    say(sender, "client-early", "private-c")
    assert error(sender) == NOT_SUBSCRIBED
    world.settle()
    assert sender.take() == ["subscription_succeeded private-c"]
    assert receiver.take() == []
    say(sender, "client-late", "private-c")
    world.settle()
    assert receiver.take() == ["client-late private-c"]


def test_a_client_event_is_refused_once_its_sender_has_left() -> None:
    for late in (False, True):
        world = World(late=late)
        receiver, sender = (subscribed(world, "private-c") for _ in range(2))
        say(sender, "unsubscribe", "private-c")
        say(sender, "client-x", "private-c")
        world.settle()
        assert error(sender) == NOT_SUBSCRIBED
        assert receiver.take() == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"data": "x"}, "Invalid client event (must contain channel and data)"),
        ({"channel": "private-c"}, "Invalid client event (must contain channel and data)"),
        ({"channel": 5, "data": "x"}, "Invalid client event (must contain channel and data)"),
        (
            {"channel": "c", "data": "x"},
            "Client event rejected - only supported on private and presence channels",
        ),
        (
            {"channel": "private", "data": "x"},
            "Client event rejected - only supported on private and presence channels",
        ),
        (
            {"channel": "private-other", "data": "x"},
            "Cannot broadcast client event (connection not subscribed to channel private-other)",
        ),
    ],
)
def test_a_client_event_that_is_none(fields: dict[str, Any], text: str) -> None:
    world = World(late=False)
    sender, receiver = (subscribed(world, "private-c") for _ in range(2))
    say(sender, "subscribe", "c")
    sender.take()
    send(sender, "client-x", **fields)
    world.settle()
    assert error(sender) == text
    assert receiver.take() == []


def test_a_client_event_reaches_the_others_with_the_id_of_its_sender() -> None:
    world = World(late=False)
    ann, bob = (subscribed(world, "presence-c", name) for name in ("ann", "bob"))
    ann.take()
    say(ann, "client-x", "presence-c")
    world.settle()
    assert [one for one in ann.take() if one.startswith("client")] == []
    assert bob.told[-1]["user_id"] == "ann"


def test_refused_client_events_cost_no_token_and_those_too_fast_get_4301() -> None:
    world = World(late=False, max_client_events_per_second=2)
    sender, receiver = (subscribed(world, "private-c") for _ in range(2))
    for _ in range(5):
        say(sender, "client-x", "private-other")
    sender.take()
    for _ in range(3):
        say(sender, "client-x", "private-c")
    world.settle()
    assert receiver.take() == ["client-x private-c"] * 2
    (told,) = sender.told
    assert told["data"] == {"code": 4301, "message": "Client event rejected due to rate limit"}


def test_a_token_comes_back_whole_or_not_at_all() -> None:
    session = World(late=False).client().session
    assert [session.take_token(2, 10.0) for _ in range(3)] == [True, True, False]
    assert [session.take_token(2, at) for at in (10.25, 10.49, 10.5, 10.5)] == [
        *(False, False, True, False)
    ]
    assert [session.take_token(2, 100.0) for _ in range(3)] == [True, True, False]


def test_client_events_are_refused_where_the_app_has_them_switched_off() -> None:
    world = World(late=False, client_events=False)
    sender, receiver = (subscribed(world, "private-c") for _ in range(2))
    say(sender, "client-x", "private-c")
    world.settle()
    assert error(sender).startswith("To send client events, you must enable this feature")
    assert receiver.take() == []


def test_a_member_that_left_a_presence_channel_is_forgotten_there() -> None:
    world = World(late=False)
    peer = subscribed(world, "presence-c", "u")
    say(peer, "unsubscribe", "presence-c")
    assert not peer.session.members


# -- Subscriptions ---------------------------------------------------------------------------


def test_a_connection_has_as_many_subscriptions_as_the_limit_attempts_included() -> None:
    for late in (False, True):
        world = World(late=late, max_subscriptions=2)
        peer = world.client()
        for name in ("a", "b", "c"):
            say(peer, "subscribe", name)
        world.settle()
        refused = "error: Subscription limit exceeded: at most 2 for each connection"
        assert sorted(peer.take()) == [
            refused,
            "subscription_succeeded a",
            "subscription_succeeded b",
        ]
        say(peer, "unsubscribe", "a")
        say(peer, "subscribe", "c")
        world.settle()
        assert peer.take() == ["subscription_succeeded c"]


@pytest.mark.parametrize(("limit", "taken"), [(0, 5), (1, 1), (4, 4), (5, 5)])
def test_no_limit_of_subscriptions_is_none_and_one_is_one(limit: int, taken: int) -> None:
    world = World(late=False, max_subscriptions=limit)
    peer = world.client()
    for name in "abcde":
        say(peer, "subscribe", name)
    assert len(peer.session.channels) == taken


def test_what_clients_are_told_is_counted_by_its_code() -> None:
    world = World(late=False, max_client_events_per_second=1)
    peer = subscribed(world, "private-c")
    for _ in range(3):
        say(peer, "client-x", "private-c")
    say(peer, "subscribe", "a b")
    assert world.node.tally.errors == {4301: 2, None: 1}


def test_a_channel_has_a_name_as_long_as_the_limit_and_no_longer() -> None:
    world = World(late=False, max_channel_name_length=5)
    peer = world.client()
    say(peer, "subscribe", "12345")
    say(peer, "subscribe", "123456")
    world.settle()
    assert peer.take() == ["subscription_succeeded 12345", "error: Invalid channel name: 123456"]


def test_a_second_subscription_is_refused_before_and_after_the_answer_to_the_first() -> None:
    world = World(late=True)
    peer = world.client()
    say(peer, "subscribe", "c")
    say(peer, "subscribe", "c")
    assert error(peer) == "Existing subscription to channel c"
    world.settle()
    assert peer.take() == ["subscription_succeeded c"]
    say(peer, "subscribe", "c")
    assert error(peer) == "Existing subscription to channel c"


def test_what_is_not_subscribed_cannot_be_left() -> None:
    world = World(late=False)
    peer = subscribed(world, "c")
    say(peer, "unsubscribe", "d")
    assert error(peer) == "No current subscription to channel d, or subscription in progress"
    say(peer, "unsubscribe", "c")
    say(peer, "unsubscribe", "c")
    assert error(peer).startswith("No current subscription")


SIGNED = ["private-c", "presence-c", "private-encrypted-c", "private-cache-c", "presence-cache-c"]


@pytest.mark.parametrize("channel", SIGNED)
def test_a_channel_that_is_not_public_needs_its_own_signature(channel: str) -> None:
    """Not another channel's, another socket's, another secret's, nor one of other channel_data."""
    world = World(late=False)
    peer, other = world.client(), world.client()
    data = '{"user_id":"u"}'

    def signature(secret: bytes = b"secret", socket: str = peer.id, name: str = channel) -> str:
        return auth.sign(secret, auth.channel_string(socket, name, data))

    wrong = {
        "": "Invalid key in subscription auth data: ''",
        f"nobody:{signature()}": "Invalid key in subscription auth data: 'nobody'",
        signature(): f"Invalid key in subscription auth data: '{signature()}'",
    }
    for stated in (
        "",
        "0" * 64,
        signature(secret=b"other"),
        signature(socket=other.id),
        signature(name=channel + "x"),
        signature().upper(),
        signature()[:-1],
        auth.sign(b"secret", auth.channel_string(peer.id, channel, None)),
        auth.sign(b"secret", auth.channel_string(peer.id, channel, '{"user_id":"v"}')),
        auth.sign(b"secret", auth.user_string(peer.id, data)),
    ):
        wrong[f"key:{stated}"] = (
            f"Invalid signature: Expected HMAC SHA256 hex digest of {peer.id}:{channel}:{data}, but"
            f" got {stated}"
        )
    for number, (stated, text) in enumerate(wrong.items()):
        say(peer, "subscribe", channel, auth=stated, channel_data=data)
        assert error(peer) == text
        assert world.node.tally.auth_failures == number + 1
    say(peer, "subscribe", channel, channel_data=data)
    assert error(peer) == "Invalid key in subscription auth data: ''"
    assert not peer.session.identified
    assert peer.session.channels == {}
    say(peer, "subscribe", channel, auth=f"key:{signature()}", channel_data=data)
    world.settle()
    assert peer.take()[0] == f"subscription_succeeded {channel}"
    assert peer.session.identified


def test_a_public_channel_identifies_nobody() -> None:
    world = World(late=False)
    for channel in ("c", "cache-c"):
        assert not subscribed(world, channel).session.identified


def test_a_client_is_not_identified_before_its_subscription_is_answered() -> None:
    world = World(late=True)
    peer = world.client()
    say(peer, "subscribe", "private-c", **sign(peer, "private-c"))
    assert not peer.session.identified
    world.settle()
    assert peer.session.identified


def member(peer: FakePeer, channel_data: str) -> str:
    signed = auth.sign(b"secret", auth.channel_string(peer.id, "presence-c", channel_data))
    say(peer, "subscribe", "presence-c", auth=f"key:{signed}", channel_data=channel_data)
    return peer.take()[0]


def test_a_member_is_as_large_as_the_limits_and_no_larger() -> None:
    world = World(late=False, max_presence_user_id_length=5, max_presence_user_bytes=40)
    assert member(world.client(), '{"user_id":"12345"}') == "subscription_succeeded presence-c"
    assert member(world.client(), '{"user_id":"éàüöä"}') == "subscription_succeeded presence-c"
    assert member(world.client(), '{"user_id":"123456"}') == (
        "error: Invalid channel_data: user_id exceeds the allowed 5 characters"
    )
    full = '{"user_id":"1","user_info":"' + "x" * 10 + '"}'
    assert len(full) == 40
    assert member(world.client(), full) == "subscription_succeeded presence-c"
    for more in (full + " ", full.replace("x", "é", 1)):
        assert member(world.client(), more) == (
            "error: channel_data of a presence subscription exceeds the allowed 40 bytes"
        )


@pytest.mark.parametrize("channel", ["cache-c", "private-cache-c", "private-encrypted-cache-c"])
def test_a_cache_channel_says_its_last_event_or_that_it_has_none(channel: str) -> None:
    world = World(late=False)

    def told() -> list[str]:
        peer = world.client()
        say(peer, "subscribe", channel, **(sign(peer, channel) if channel[0] == "p" else {}))
        return peer.take()

    assert told() == [f"subscription_succeeded {channel}", f"cache_miss {channel}"]
    world.publish("first", channel, cached=True)
    world.publish("last", channel, cached=True)
    assert told() == [f"subscription_succeeded {channel}", f"last {channel}"]


def test_what_the_engine_cannot_do_is_told_and_a_fault_of_ours_is_none_of_that() -> None:
    """It is raised to whoever logs it, and the client's state stays as it is."""
    world = World(late=True)
    assert world.late
    peer = world.client()
    say(peer, "subscribe", "private-c", **sign(peer, "private-c"))
    attempt: Any = peer.session.channels["private-c"]
    failures: list[Callable[[], None]] = [
        lambda: peer.session._failed(attempt, ValueError("ours")),
        lambda: peer.session._sign_in_failed(ValueError("ours")),
        lambda: peer.session._client_event_failed(ValueError("ours")),
    ]
    for failed in failures:
        with pytest.raises(ValueError, match="ours"):
            failed()
    assert peer.take() == []
    assert peer.session.channels == {"private-c": attempt}


def test_without_limits_a_member_is_as_large_as_it_is() -> None:
    world = World(late=False, max_presence_user_id_length=0, max_presence_user_bytes=0)
    data = json.dumps({"user_id": "u" * 1000, "user_info": "x" * 10_000})
    assert member(world.client(), data) == "subscription_succeeded presence-c"


def test_a_presence_channel_is_full_for_newcomers_and_not_for_further_tabs() -> None:
    world = World(late=False, max_presence_members=2)
    for user in ("ann", "bob", "ann"):
        assert member(world.client(), f'{{"user_id":"{user}"}}').startswith("subscription_succ")
    late = world.client()
    assert member(late, '{"user_id":"eve"}') == (
        "error: Presence channel presence-c is full: at most 2 members"
    )
    assert late.session.channels == {}


@pytest.mark.parametrize("late", [False, True])
def test_what_net_clients_listen_for_comes_with_each_refusal_but_on_encrypted_channels(
    late: bool,
) -> None:
    world = World(late=late, max_presence_members=1)
    subscribed(world, "presence-c", "ann")
    dialect = PusherDialect(world.node, subscription_errors=True)
    session = dialect.connect(Opening(dialect=dialect, key="key"))
    peer = FakePeer(session)
    session.open(peer)
    say(peer, "subscribe", "private-c", auth="key:wrong")
    say(peer, "subscribe", "a b")
    say(peer, "subscribe", "presence-c", **sign(peer, "presence-c", "bob"))
    world.settle()
    told = peer.take()
    assert [one.partition(":")[0] for one in told] == [
        *("error", "subscription_error private-c"),
        *("error", "subscription_error a b"),
        *("error", "subscription_error presence-c"),
    ]
    say(peer, "subscribe", "private-encrypted-c", auth="key:wrong")
    assert [one.partition(":")[0] for one in peer.take()] == ["error"]


# -- Signing in ------------------------------------------------------------------------------


def sign_in(peer: FakePeer, user_id: str = "u", **fields: Any) -> None:
    data = json.dumps({"id": user_id, **fields})
    signed = auth.sign(b"secret", auth.user_string(peer.id, data))
    send(peer, "pusher:signin", data={"auth": f"key:{signed}", "user_data": data})


def users_of(world: World, user_id: str) -> int:
    tenant = world.node.tenant("1")
    assert tenant is not None
    return len(list(tenant.users.sessions(user_id)))


def test_a_sign_in_needs_its_own_signature() -> None:
    world = World(late=False)
    peer, other = world.client(), world.client()
    data = '{"id":"u"}'
    for stated in (
        auth.sign(b"other", auth.user_string(peer.id, data)),
        auth.sign(b"secret", auth.user_string(other.id, data)),
        auth.sign(b"secret", auth.user_string(peer.id, '{"id":"v"}')),
        auth.sign(b"secret", auth.channel_string(peer.id, "user", data)),
        auth.sign(b"secret", auth.user_string(peer.id, data)).upper(),
        "",
    ):
        send(peer, "pusher:signin", data={"auth": f"key:{stated}", "user_data": data})
        assert error(peer).startswith("Invalid signature: Expected HMAC SHA256 hex digest of")
    right = auth.sign(b"secret", auth.user_string(peer.id, data))
    for auth_data in (f"nobody:{right}", right, ""):
        send(peer, "pusher:signin", data={"auth": auth_data, "user_data": data})
        assert error(peer).startswith("Invalid key in subscription auth data")
    send(peer, "pusher:signin", data={"user_data": data})
    assert error(peer).startswith("Invalid key in subscription auth data")
    send(peer, "pusher:signin", data={"auth": f"key:{right}"})
    assert error(peer) == "Missing parameter: data.user_data"
    assert peer.session.user is None
    assert not peer.session.identified
    assert users_of(world, "u") == 0
    sign_in(peer)
    assert peer.take() == ["signin_success"]
    assert peer.session.identified


def test_of_sign_ins_in_one_breath_the_last_follows_the_first() -> None:
    """The user is online all the time; those in between are not answered."""
    world = World(late=True, webhooks=(Webhook(url="http://localhost"),))
    assert world.late
    peer = world.client()
    sign_in(peer, user_info="first")
    sign_in(peer, user_info="skipped")
    sign_in(peer, user_info="last")
    assert not peer.session.identified
    world.settle()
    first, last = peer.told
    assert "first" in first["data"]
    assert "last" in last["data"]
    assert peer.session.user is not None
    assert peer.session.user.member.user_info == b'"last"'
    assert users_of(world, "u") == 1
    assert [type(one).__name__ for one in world.recorded] == ["UserOnline"]
    assert world.space.share() == world.asserted()


def test_an_answer_to_a_sign_in_comes_too_late_for_a_client_that_left() -> None:
    world = World(late=True, watchlist=True)
    assert world.late
    peer, watcher = world.client(), world.client()
    sign_in(watcher, "w", watchlist=["u"])
    world.settle()
    watcher.take()
    sign_in(peer)
    peer.session.end()
    world.settle()
    # The engine had not executed it yet: it was withdrawn, and nobody saw it.
    assert watcher.take() == []
    assert peer.take() == []
    assert peer.session.user is None
    assert users_of(world, "u") == 0
    again = world.client()
    sign_in(again)
    world.settle()
    assert again.take() == ["signin_success"]
    assert users_of(world, "u") == 1


def test_a_sign_in_that_the_engine_does_not_answer_closes_the_client_with_4100() -> None:
    world = World(late=True)
    assert world.late
    peer, other = world.client(), world.client()
    sign_in(other)
    world.settle()
    world.late.away = True
    sign_in(peer)
    world.late.away = False
    sign_in(peer)
    world.settle()
    assert peer.take() == []
    assert peer.closed is not None
    assert peer.closed.code == 4100
    assert users_of(world, "u") == 1
    assert world.space.share() == world.asserted()


def test_a_session_is_one_user_from_when_it_asks() -> None:
    world = World(late=True)
    peer = world.client()
    sign_in(peer, "u")
    sign_in(peer, "v")
    assert error(peer) == "Connection already signed in as user u"
    world.settle()
    assert peer.take() == ["signin_success"]
    sign_in(peer, "v")
    assert error(peer) == "Connection already signed in as user u"
    sign_in(peer, "u")
    world.settle()
    assert peer.take() == ["signin_success"]


def test_a_users_channel_is_for_sessions_signed_in_as_that_user() -> None:
    world = World(late=True)
    peer = world.client()
    mine, anothers = "#server-to-user-u", "#server-to-user-v"
    say(peer, "subscribe", mine)
    assert error(peer) == f"Subscription to {mine} requires signing in as that user"
    sign_in(peer, "u")
    say(peer, "subscribe", mine)  # not answered yet
    assert error(peer) == f"Subscription to {mine} requires signing in as that user"
    world.settle()
    peer.take()
    for other in (anothers, "#server-to-user-uv"):
        say(peer, "subscribe", other)
        assert error(peer) == f"Subscription to {other} requires signing in as that user"
    say(peer, "subscribe", mine)
    world.settle()
    assert peer.take() == [f"subscription_succeeded {mine}"]


def test_presence_without_channel_data_needs_a_sign_in() -> None:
    world = World(late=False)
    peer = world.client()
    say(peer, "subscribe", "presence-c", **sign(peer, "presence-c"))
    assert error(peer).startswith("Missing parameter: data.channel_data")
    sign_in(peer, "u")
    peer.take()
    say(peer, "subscribe", "presence-c", **sign(peer, "presence-c"))
    assert peer.told[0]["data"] == '{"presence":{"count":1,"ids":["u"],"hash":{"u":null}}}'


def test_as_many_are_watched_as_the_limit_and_no_more() -> None:
    world = World(late=False, watchlist=True)
    names = [f"w{number}" for number in range(messages.MAX_WATCHLIST + 1)]
    exactly, over = world.client(), world.client()
    sign_in(exactly, "u", watchlist=[*names[:-1], "w0"])
    assert exactly.take() == ["signin_success", "watchlist_events"]
    sign_in(over, "v", watchlist=names)
    success, limit, states = over.told
    assert limit["data"]["code"] == 4302
    assert limit["data"]["message"].startswith(
        "Watchlist limit exceeded. Only the first 100 user IDs are accepted. Accepted: w0, w1, "
    )
    assert limit["data"]["message"].endswith(", w99")
    assert json.loads(states["data"])["events"] == [{"name": "offline", "user_ids": names[:-1]}]
    assert success["event"] == "pusher:signin_success"


def test_watchlist_events_are_of_watched_users_where_the_app_wants_them() -> None:
    for wanted, told in (
        (True, ["signin_success", "watchlist_events"]),
        (False, ["signin_success"]),
    ):
        world = World(late=False, watchlist=wanted)
        peer = world.client()
        sign_in(peer, "u", watchlist=["v"])
        assert peer.take() == told
        other = world.client()
        sign_in(other, "w")
        assert peer.take() == []
        sign_in(world.client(), "v")
        world.settle()
        assert peer.take() == told[1:]
        assert other.take() == ["signin_success"]


def test_the_id_of_a_user_is_as_long_as_the_limit_and_no_longer() -> None:
    world = World(late=False, max_presence_user_id_length=3)
    peer = world.client()
    sign_in(peer, "1234")
    assert error(peer) == "Invalid user_data: id exceeds the allowed 3 characters"
    sign_in(peer, "123")
    assert peer.take() == ["signin_success"]


# -- What is no message ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"event":"pusher:nothing"}', "Unsupported event received on socket: pusher:nothing"),
        ('{"event":""}', "Unsupported event received on socket: "),
        ('{"event":"client"}', "Unsupported event received on socket: client"),
        ('{"event":"pusher:subscribe"}', "Invalid data of pusher:subscribe: expected an object"),
        ('{"event":"pusher:unsubscribe"}', "Invalid data of pusher:unsubscribe: expected an obj"),
        ('{"event":"pusher:signin"}', "Invalid data of pusher:signin: expected an object"),
        ('{"event":5}', "Invalid message: expected a JSON object"),
        ("{}", "Invalid message: expected a JSON object"),
        ("[]", "Invalid message: expected a JSON object"),
        ("", "Invalid JSON"),
        ("nonsense", "Invalid JSON"),
    ],
)
def test_a_message_that_is_none_is_an_error_and_the_socket_stays(text: str, said: str) -> None:
    world = World(late=False)
    peer = world.client()
    peer.session.receive(text.encode(), 0.0)
    assert error(peer).startswith(said)
    assert peer.closed is None
    say(peer, "subscribe", "c")
    world.settle()
    assert peer.take() == ["subscription_succeeded c"]


def test_a_ping_is_answered_and_a_pong_is_not() -> None:
    peer = World(late=False).client()
    send(peer, "pusher:ping")
    assert peer.take() == ["pong"]
    send(peer, "pusher:pong")
    assert peer.take() == []


@given(st.integers(1, 20), st.lists(st.floats(0, 3), max_size=60))
def test_client_events_keep_to_their_rate_whenever_they_come(
    per_second: int, gaps: list[float]
) -> None:
    """In no stretch of time are more taken than a full bucket and what comes back meanwhile."""
    session = World(late=False).client().session
    now, taken = 0.0, []
    for gap in gaps:
        now += gap
        if session.take_token(per_second, now):
            taken.append(now)
    for start, first in enumerate(taken):
        for end, last in enumerate(taken[start:], start):
            assert end - start + 1 <= per_second + (last - first) * per_second + 1e-6
