"""Pages with the add-on to pusher-js, whose connections are cut: with real libraries."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from heliograph.client.publisher import Publisher
from heliograph.client.signing import Credentials
from tests.clients.pages import KINDS, Page, each_library, each_stable_library, page_of
from tests.server import ServerProcess

LIMIT = 20

MANY = LIMIT + 1
"""More events than a channel keeps."""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess({"broker": "memory", "history_limit": LIMIT}) as running:
        yield running


def resumed(count: int) -> list[Any]:
    return ["heliograph:resumed", {"recovered": count}]


def position_of(server: ServerProcess, channel: str) -> Any:
    """Return the position of *channel*, as a server that renders a page asks for it."""

    async def ask() -> Any:
        app = Credentials(server.key, server.secret)
        async with Publisher(server.url, server.app_id, app) as publisher:
            answer = await publisher.history(channel, limit=0)
        return {name: answer[name] for name in ("epoch", "offset")}

    return asyncio.run(ask())


async def publish_with_position(server: ServerProcess, channel: str) -> Any:
    app = Credentials(server.key, server.secret)
    async with Publisher(server.url, server.app_id, app) as publisher:
        answer = await publisher.publish(channel, "said", 2, info=["position"])
    return answer[channel]


def all_of(channels: list[str], *received: Any) -> dict[str, list[Any]]:
    return {channel: list(received) for channel in channels}


@each_library
def test_a_page_receives_missed_events_in_order_and_once(page: Page, channels: list[str]) -> None:
    page.start("resumes", channels=channels)
    page.reached("live")
    page.publish(channels, 1, 2)
    page.mark(channels, "before")
    page.relay.cut()
    page.publish(channels, 3, 4, 5)
    page.relay.release()
    page.reached("live")
    page.publish(channels, 6)
    played = page.end(channels)
    assert played["received"] == all_of(channels, 1, 2, 3, 4, 5, resumed(3), 6)
    # Of 6 events and 2 marks, the last is counted, too.
    assert {one["offset"] for one in played["positions"].values()} == {8}
    assert played["sockets"] == 2


@each_library
def test_a_page_that_missed_nothing_receives_nothing_twice(page: Page, channels: list[str]) -> None:
    page.start("resumes", channels=channels)
    page.reached("live")
    page.publish(channels, 1)
    page.mark(channels, "before")
    page.relay.cut()
    page.relay.release()
    page.reached("live")
    assert page.end(channels)["received"] == all_of(channels, 1, resumed(0))


@each_stable_library
def test_two_cuts_in_a_row_replay_nothing_twice(page: Page, channels: list[str]) -> None:
    page.start("resumes", channels=channels)
    page.reached("live")
    page.publish(channels, 1)
    page.cut_first()
    page.publish(channels, 2, 3)
    page.relay.release()
    page.reached("live")
    page.relay.cut()
    page.publish(channels, 4)
    page.relay.release()
    page.reached("live")
    played = page.end(channels)["received"]
    for received in played.values():
        assert [one for one in received if isinstance(one, int)] == [1, 2, 3, 4]
        assert received[-1] == resumed(1)
        # The first event may have been on its way when the connection was cut.
        assert received[-3] in (resumed(2), resumed(3))


@each_library
def test_a_page_is_notified_of_a_gap_when_too_much_was_published(
    page: Page, channels: list[str]
) -> None:
    page.start("resumes", channels=channels)
    page.reached("live")
    page.mark(channels, "before")
    page.relay.cut()
    page.publish(channels, *range(1, MANY + 1))
    page.relay.release()
    page.reached("live")
    page.publish(channels, "live again")
    played = page.end(channels)
    for name, received in played["received"].items():
        (gap, data), live = received
        assert (gap, data["reason"], data["offset"]) == ("heliograph:gap", "trimmed", MANY + 1)
        assert data["epoch"] == played["positions"][name]["epoch"]
        assert live == "live again"


@each_stable_library
def test_a_page_is_resumed_after_a_gap(page: Page, channels: list[str]) -> None:
    page.start("resumes", channels=channels)
    page.reached("live")
    page.mark(channels, "before")
    page.cut_first()
    page.publish(channels, *range(1, MANY + 1))
    page.relay.release()
    page.reached("live")
    page.publish(channels, 1)
    page.mark(channels, "after the gap")
    page.relay.cut()
    page.publish(channels, 2)
    page.relay.release()
    page.reached("live")
    for received in page.end(channels)["received"].values():
        assert received[1:] == [1, 2, resumed(1)]


@each_library
def test_a_page_that_missed_as_many_events_as_are_kept_receives_all(
    page: Page, channels: list[str]
) -> None:
    page.start("resumes", channels=channels)
    page.reached("live")
    page.mark(channels, "before")
    page.relay.cut()
    page.publish(channels, *range(1, LIMIT + 1))
    page.relay.release()
    page.reached("live")
    received = page.end(channels)["received"]
    assert received == all_of(channels, *range(1, LIMIT + 1), resumed(LIMIT))


@each_library
def test_a_cut_between_a_position_and_its_event_loses_and_repeats_nothing(
    page: Page, channels: list[str]
) -> None:
    (channel, *_) = channels
    page.start("resumes", channels=[channel])
    page.reached("live")
    page.publish([channel], 1)
    page.relay.cut_after(r'next_position","channel":"' + channel + r'","data":"{\"epoch\"')
    page.publish([channel], 2)
    page.relay.wait_until_cut()
    page.publish([channel], 3)
    page.relay.release()
    page.reached("live")
    played = page.end([channel])["received"][channel]
    assert [one for one in played if isinstance(one, int)] == [1, 2, 3]


@each_stable_library
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("place", ["after an event", "before an event"])
def test_a_cut_during_the_replay_loses_and_repeats_nothing(
    page: Page, channels: list[str], number: int, place: str
) -> None:
    (channel, *_) = channels
    page.start("resumes", channels=[channel])
    page.reached("live")
    page.mark([channel], "before")  # the event with offset 1
    page.cut_first()
    page.publish([channel], 1, 2, 3, 4)
    if place == "after an event":
        page.relay.cut_after(rf'"event":"said","channel":"{channel}","data":"{number}"')
    else:
        page.relay.cut_after(rf"\"offset\":{number + 1}" + "}")
    page.relay.release()
    page.relay.wait_until_cut()
    page.publish([channel], 5)
    page.relay.release()
    page.reached("live")
    assert page.end([channel])["received"][channel] == [1, 2, 3, 4, 5, resumed(5)]


@each_library
def test_a_page_does_not_receive_its_own_events_after_it_was_cut(
    page: Page, channels: list[str]
) -> None:
    """They were published with a socket id that it had. A late first position is not used."""
    page.start("isLeftOutOfMissedEvents", channel=channels[0])
    page.reached("live", "published")
    page.relay.cut()
    page.reached("away")
    page.relay.release()
    page.reached("live")
    played = page.end(channels[:1])
    assert played["received"][channels[0]] == ["from others", resumed(1)]


@each_library
def test_a_page_begins_at_the_position_at_which_it_was_rendered(
    page: Page, channels: list[str]
) -> None:
    page.publish(channels, 1)
    positions = {channel: position_of(page.server, channel) for channel in channels}
    page.publish(channels, 2, 3)
    page.start("resumes", channels=channels, positions=positions)
    page.reached("live")
    page.publish(channels, 4)
    assert page.end(channels)["received"] == all_of(channels, 2, 3, resumed(2), 4)


@each_library
def test_the_position_that_a_publisher_got_is_one_to_begin_at(
    page: Page, channels: list[str]
) -> None:
    (channel, *_) = channels
    page.publish([channel], 1)
    position = asyncio.run(publish_with_position(page.server, channel))
    page.publish([channel], 3)
    page.start("resumes", channels=[channel], positions={channel: position})
    page.reached("live")
    assert page.end([channel])["received"][channel] == [3, resumed(1)]


@each_stable_library
def test_a_position_lasts_until_the_page_unsubscribes(page: Page, channels: list[str]) -> None:
    (channel, *_) = channels
    first = position_of(page.server, channel)
    page.start("keepsPositions", channel=channel, position=first)
    page.reached("live")
    page.publish([channel], 1, 2)
    page.reached("live", "live")
    played = page.end([channel])
    # The page unsubscribes when it was resumed, and begins at the first position.
    assert played["received"][channel] == [1, 2, resumed(0), 1, 2, resumed(2)]
    assert played["inHandler"] == {**first, "offset": 1}
    assert played["before"] == played["disconnected"] == {**first, "offset": 2}
    assert played["unsubscribed"] is None
    assert played["started"] == first
    assert played["again"] is None
    assert played["same"]


@each_library
@pytest.mark.parametrize("broadcaster", ["pusher", "reverb"])
def test_laravel_echo_receives_missed_events_in_order_and_once(
    page: Page, channels: list[str], broadcaster: str
) -> None:
    channel = channels[1]
    name = channel.removeprefix("private-")
    page.start("resumesThroughEcho", broadcaster=broadcaster, channel=name)
    page.reached("live")
    page.publish([channel], 1)
    page.mark([channel], "before")
    page.relay.cut()
    page.publish([channel], 2, 3)
    page.relay.release()
    page.reached("live")
    assert page.end([channel])["received"][channel] == [1, 2, 3, resumed(2)]


@each_library
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_page_without_the_add_on_receives_no_positions(
    page: Page, channels: list[str], kind: int
) -> None:
    channel = channels[kind]
    page.start("receivesFrames", channel=channel)
    page.reached("subscribed")
    page.publish([channel], 1)
    played = page.end([channel])
    names = [frame["event"] for frame in played["frames"]]
    missing = ["pusher:cache_miss"] if channel.startswith("cache-") else []
    assert names == ["pusher_internal:subscription_succeeded", *missing, "said", "said"]
    assert all(set(frame) <= {"event", "channel", "data"} for frame in played["frames"])
    assert played["received"][channel] == [1]


def internal(event: str, data: Any, channel: str) -> dict[str, Any]:
    return {"event": f"pusher_internal:{event}", "channel": channel, "data": data}


@each_stable_library
def test_unknown_messages_change_no_position(page: Page, channels: list[str]) -> None:
    (channel, other, *_) = channels
    first = {**position_of(page.server, channel), "offset": 0}
    known = {"epoch": "e", "offset": 1}
    event = {"event": "other", "channel": channel}
    messages = [
        event,  # without a position
        internal("next_position", None, channel),
        event,
        internal("next_position", {"epoch": 1, "offset": 1}, channel),
        event,
        internal("next_position", {"epoch": "e", "offset": "1"}, channel),
        event,
        internal("next_position", known, channel),
        {"event": "other", "channel": other},  # the event that should follow is missing
        event,
        internal("next_position", known, channel),
        {"event": "other", "channel": "unknown"},
        event,
        internal("next_position", known, other),
        event,
        internal("next_position", known, channel),
        internal("unknown", {}, channel),
        {"event": "pusher:pong"},
    ]
    following = [internal("next_position", known, channel), event]
    messages += following
    page.start("ignoresMessages", channel=channel, other=other, messages=messages)
    page.reached("live", "live")  # the second is among the messages
    played = page.javascript.result()
    assert played["positions"] == [first] * (len(messages) - 1) + [known]
    assert played["others"] == position_of(page.server, other)
    assert played["pending"] == {"epoch": "e", "offset": 7}
    assert played["received"] == {channel: [], other: []}


@each_library
def test_an_add_on_that_was_loaded_late_reports_a_gap_for_its_first_time_away(
    page: Page, channels: list[str]
) -> None:
    (channel, *_) = channels
    page.start("resumesLate", channel=channel)
    page.reached("subscribed")
    page.mark([channel], "before")
    page.relay.cut()
    page.publish([channel], 1)
    page.relay.release()
    page.reached("subscribed", "live")
    page.publish([channel], 2)
    played = page.end([channel])
    assert played["received"][channel] == [["heliograph:gap", {"reason": "no_history"}], 2]
    assert (played["atFirst"], played["atLast"]["offset"]) == (None, 4)


def test_a_page_is_notified_of_a_gap_after_a_restart_of_the_server() -> None:
    """The events are kept in the memory of the server, so the numbering begins anew."""
    with ServerProcess({"broker": "memory"}) as server, page_of(server) as page:
        page.start("resumes", channels=["news"])
        page.reached("live")
        page.relay.cut()
        assert server.restart() == 0
        page.publish(["news"], "while away")
        page.relay.release()
        page.reached("live")
        (gap,) = page.end(["news"])["received"]["news"]
        assert (gap[0], gap[1]["reason"]) == ("heliograph:gap", "epoch")


def test_a_channel_without_history_has_a_gap_when_it_is_subscribed_again() -> None:
    with ServerProcess() as server, page_of(server) as page:
        page.start("resumes", channels=["news"], live=["pusher_internal:subscription_succeeded"])
        page.reached("live")
        page.mark(["news"], "before")
        page.relay.cut()
        page.relay.release()
        page.reached("live")
        played = page.end(["news"])
        assert played["received"]["news"] == [["heliograph:gap", {"reason": "no_history"}]]
        assert played["positions"] == {"news": None}
