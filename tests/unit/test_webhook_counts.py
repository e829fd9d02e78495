"""Numbers of subscriptions: one for each channel and second, the latest in the end."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from heliograph.webhooks.counts import LatestCounts

EVERYTHING = 1000


def test_the_first_number_is_reported_at_once_and_the_latest_at_the_end_of_the_interval() -> None:
    counts = LatestCounts(1.0)
    assert counts.take("a", 1, 0.0)
    assert not counts.take("a", 2, 0.1)
    assert not counts.take("a", 3, 0.9)
    assert counts.take("b", 1, 0.9)
    assert counts.pending == {"a": 3}
    assert counts.due() == 1.0
    assert counts.elapse(0.99, EVERYTHING) == []
    assert counts.elapse(1.0, EVERYTHING) == [("a", 3)]
    assert counts.pending == {}
    assert not counts.take("a", 4, 1.9), "a new interval began"
    assert counts.take("b", 2, 3.0) is False, "until it has elapsed"


def test_a_channel_whose_number_did_not_change_is_forgotten_after_the_interval() -> None:
    counts = LatestCounts(1.0)
    for number in range(10):
        counts.take(f"c{number}", 1, number / 100)
    assert counts.due() == 1.09, "all together: there is nothing to report before"
    assert counts.elapse(1.09, EVERYTHING) == []
    assert len(counts) == 0
    assert counts.due() is None
    assert counts.take("c0", 2, 1.1)


def test_numbers_are_reported_a_part_at_a_time() -> None:
    counts = LatestCounts(1.0)
    for number in range(5):
        counts.take(str(number), 1, 0.0)
        counts.take(str(number), 2, 0.0)
    assert [len(counts.elapse(1.0, 2)) for _ in range(4)] == [2, 2, 1, 0]
    assert counts.elapse(1.0, 0) == []


def test_numbers_that_were_pending_elsewhere_are_reported_after_an_interval() -> None:
    counts = LatestCounts(1.0)
    counts.load([("a", 3), ("b", 0)], 5.0)
    assert counts.pending == {"a": 3, "b": 0}
    assert not counts.take("a", 4, 5.5)
    assert counts.due() == 6.0
    assert counts.elapse(6.0, EVERYTHING) == [("a", 4), ("b", 0)]


def test_when_intervals_end_all_numbers_are_reported() -> None:
    counts = LatestCounts(1.0)
    counts.take("a", 1, 0.0)
    counts.take("a", 2, 0.0)
    counts.take("b", 1, 0.0)
    counts.end_intervals(0.1)
    assert counts.elapse(0.1, EVERYTHING) == [("a", 2)]


pauses = st.sampled_from([0.0, 0.25, 0.875, 2.0])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), pauses)))
def test_the_last_report_of_each_channel_is_its_last_number_and_reports_keep_their_distance(
    story: list[tuple[str, int, float]],
) -> None:
    counts, now = LatestCounts(1.0), 0.0
    truth: dict[str, int] = {}
    reports: dict[str, list[tuple[float, int]]] = {}

    def elapse() -> None:
        for channel, count in counts.elapse(now, EVERYTHING):
            reports[channel].append((now, count))

    for channel, count, pause in story:
        truth[channel] = count
        if counts.take(channel, count, now):
            reports.setdefault(channel, []).append((now, count))
        now += pause
        elapse()
    now += 1.0
    elapse()
    assert {channel: found[-1][1] for channel, found in reports.items()} == truth
    for found in reports.values():
        times = [at for at, _ in found]
        assert all(later - at >= 1.0 for at, later in pairwise(times))
