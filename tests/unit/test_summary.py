"""What strangers can cause any number of times is said once, and then once a minute how often."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from heliograph.observe.log_throttle import MAX_REASONS, WINDOW_S, Summary


class Minutes:
    """A clock that goes by the minute."""

    def __init__(self) -> None:
        self._due: list[Callable[[], object]] = []

    def later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> None:
        assert delay_s == WINDOW_S
        self._due.append(lambda: callback(*arguments))

    def pass_one(self) -> None:
        due, self._due = self._due, []
        for callback in due:
            callback()

    @property
    def idle(self) -> bool:
        return not self._due


@pytest.fixture
def minutes() -> Minutes:
    return Minutes()


@pytest.fixture
def summary(minutes: Minutes, caplog: pytest.LogCaptureFixture) -> Summary:
    caplog.set_level(logging.INFO)
    return Summary(logging.getLogger("heliograph.test"), logging.INFO, minutes.later)


def test_a_million_times_in_a_minute_are_two_lines(
    summary: Summary, minutes: Minutes, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1_000_000):
        summary.note("app 3", "wrong" if number % 4 else "unknown")
    assert caplog.messages == ["app 3: unknown"]
    minutes.pass_one()
    assert caplog.messages[1:] == [
        "app 3: in the last minute, 750000 times wrong, 249999 times unknown"
    ]


def test_subjects_are_counted_apart(
    summary: Summary, minutes: Minutes, caplog: pytest.LogCaptureFixture
) -> None:
    for subject in ("a", "b", "a"):
        summary.note(subject, "wrong")
    minutes.pass_one()
    assert caplog.messages == ["a: wrong", "b: wrong", "a: in the last minute, 1 time wrong"]


def test_what_goes_on_is_said_every_minute_and_what_ended_is_forgotten(
    summary: Summary, minutes: Minutes, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        summary.note("a", "wrong")
        summary.note("a", "wrong")
        minutes.pass_one()
    assert len(caplog.messages) == 4
    minutes.pass_one()
    assert minutes.idle
    summary.note("a", "wrong")
    assert caplog.messages[4:] == ["a: wrong"]


def raised(text: str, *, elsewhere: bool = False) -> Exception:
    try:
        if elsewhere:
            int(text)
        float(text)
    except ValueError as error:
        return error
    raise AssertionError("no test wants a number")


def test_a_fault_shows_where_it_is_and_after_that_how_often(
    summary: Summary, minutes: Minutes, caplog: pytest.LogCaptureFixture
) -> None:
    """What a client sent is in the text of an error, so that does not tell faults apart."""
    for number in range(1000):
        summary.fault("a request failed", raised(f"broken {number}"))
    summary.fault("a request failed", raised("broken", elsewhere=True))
    assert caplog.messages == ["a request failed"] * 2
    assert caplog.text.count("Traceback") == 2
    minutes.pass_one()
    (line,) = caplog.messages[2:]
    assert line.startswith("a request failed (ValueError at test_summary.py:")
    assert line.endswith("): in the last minute, 999 times the same error")


def test_a_fault_that_was_never_raised_has_only_its_kind(
    summary: Summary, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        summary.fault("a request failed", ValueError("x"))
    assert caplog.messages == ["a request failed"]


def test_any_number_of_reasons_is_one_line_of_a_length_that_is_known(
    summary: Summary, minutes: Minutes, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10_000):
        summary.note("a", f"reason {number}")
    minutes.pass_one()
    (_, line) = caplog.messages
    assert line.count(" time reason ") == MAX_REASONS
    assert line.endswith(f"{9_999 - MAX_REASONS} times other reasons")
