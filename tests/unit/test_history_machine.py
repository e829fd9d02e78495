"""
Clients of channels with history that come, go and resume: `engine.testing.history_machine`.

A few examples in each run, many more with `--hypothesis-profile=thorough`.
"""

from collections.abc import Callable

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from heliograph.engine import history, keys
from heliograph.engine.history import AppHistory
from heliograph.engine.testing import app_state, space
from heliograph.engine.testing.app_state import Bounds
from heliograph.engine.testing.cluster import FaultyCluster, LinkedCluster, Recorder
from heliograph.engine.testing.history_machine import FaultyHistoryMachine, HistoryMachine
from heliograph.engine.testing.link import Pace
from heliograph.engine.testing.partitions import Partitions
from heliograph.hub.facts import Event, Keep, Position
from tests.unit.test_engine_mechanisms import (
    Break,
    adding,
    answer_after_the_next_fact,
    compare_no_epochs,
    keep_one_less,
    replaced,
    return_what_is_left,
    returns,
)

SETTINGS = hypothesis.settings(
    max_examples=hypothesis.settings().max_examples * 2 // 5,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


class LateLinks(FaultyHistoryMachine):
    """Messages are late, and nothing fails: each gap must be justified."""

    number = 3
    possible = ()


class TwoNodes(FaultyHistoryMachine):
    number = 2


class ThreeNodes(FaultyHistoryMachine):
    number = 3


class LittleIsLogged(FaultyHistoryMachine):
    """Nodes that were interrupted lose events, which their clients read from the history."""

    bounds = Bounds(log_entries=3)


class LittleIsKept(FaultyHistoryMachine):
    """Events, and numberings, give way to others."""

    bounds = Bounds(history_max_bytes=100_000)
    bounded = True


class PartitionedCluster(LinkedCluster):
    """Messages of different channels, and pages, arrive in another order than they were sent in."""

    def __init__(self, number: int, local: Callable[[], Recorder]) -> None:
        self._partitions = Partitions()
        super().__init__(number, Pace.STEPPED, local=local, schedule=self._partitions)

    def settle(self) -> None:
        super().settle()
        while self._partitions.settle():
            super().settle()


class SeveralPartitions(FaultyHistoryMachine):
    def make(self, local: Callable[[], Recorder]) -> FaultyCluster:
        return PartitionedCluster(self.number, local)


class Interruptions(FaultyHistoryMachine):
    """Links are cut, and nodes removed that live; the state loses nothing."""

    possible = ("cut", "cut_off", "bury", "stall")


class CutLinks(FaultyHistoryMachine):
    """Publishes often have an unknown outcome, and are repeated with their keys."""

    possible = ("cut",)


TestTheMemoryEngine = HistoryMachine.TestCase
TestLateLinks = LateLinks.TestCase
TestTwoNodes = TwoNodes.TestCase
TestThreeNodes = ThreeNodes.TestCase
TestLittleIsLogged = LittleIsLogged.TestCase
TestLittleIsKept = LittleIsKept.TestCase
TestSeveralPartitions = SeveralPartitions.TestCase
TestTheMemoryEngine.settings = TestLateLinks.settings = SETTINGS
TestTwoNodes.settings = TestThreeNodes.settings = TestLittleIsLogged.settings = SETTINGS
TestLittleIsKept.settings = TestSeveralPartitions.settings = SETTINGS


FINDING = hypothesis.settings(
    max_examples=1000,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def repeat_the_last_event(original: Callable[..., object]) -> Callable[..., object]:
    """Begin a page with the event before the position, if it is kept."""

    def first_after(since: Position, top: Position, kept: int) -> object:
        first = original(since, top, kept)
        return first - 1 if isinstance(first, int) and first else first

    return first_after


def keep_half_as_long(event: Event, keep: Keep) -> tuple[Event, Keep]:
    return event, Keep(keep.count, keep.ttl_s / 2)


def keep_too_long(event: Event, keep: Keep) -> tuple[Event, Keep]:
    return event, Keep(keep.count, keep.ttl_s * 2)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("breaks", "machine"),
    [
        pytest.param(
            replaced(history, "_first_after", return_what_is_left(history._first_after)),
            HistoryMachine,
            id="what is left instead of a gap",
        ),
        pytest.param(
            replaced(history, "_first_after", repeat_the_last_event(history._first_after)),
            HistoryMachine,
            id="an event twice",
        ),
        pytest.param(
            replaced(history, "_first_after", compare_no_epochs(history._first_after)),
            HistoryMachine,
            id="positions of other epochs",
        ),
        pytest.param(adding(keep_one_less), HistoryMachine, id="trimmed too early"),
        pytest.param(adding(keep_half_as_long), HistoryMachine, id="expired too early"),
        pytest.param(adding(keep_too_long), HistoryMachine, id="expired too late"),
        pytest.param(
            replaced(history, "NUMBERED_TTLS", 5), HistoryMachine, id="numberings end too early"
        ),
        pytest.param(
            replaced(AppHistory, "_forget", AppHistory._silence),
            HistoryMachine,
            id="numberings never end",
        ),
        pytest.param(
            replaced(
                space.LinkedSpace, "_take", answer_after_the_next_fact(space.LinkedSpace._take)
            ),
            LateLinks,
            id="replies behind the next fact",
        ),
        pytest.param(
            returns(app_state.AppState, "_replay"), Interruptions, id="interruptions without a log"
        ),
        pytest.param(
            returns(app_state.AppState, "_channel_losses", {}), Interruptions, id="losses unsaid"
        ),
        pytest.param(returns(keys.KeyedAnswers, "find"), CutLinks, id="keys not remembered"),
    ],
)
def test_the_machine_finds_what_is_broken(
    breaks: Break, machine: type[HistoryMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=FINDING)
