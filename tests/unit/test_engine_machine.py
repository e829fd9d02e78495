"""
Nodes, links and a state that fail in any order: `heliograph.engine.testing.machine`.

A few examples in each run, many more with `--hypothesis-profile=thorough`.
"""

import hypothesis

from heliograph.engine.testing.app_state import Bounds
from heliograph.engine.testing.machine import EngineMachine

SETTINGS = hypothesis.settings(
    max_examples=hypothesis.settings().max_examples * 2 // 5,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


class TwoNodes(EngineMachine):
    number = 2


class ThreeNodes(EngineMachine):
    number = 3


class LittleIsKept(EngineMachine):
    """The log and the owed changes are trimmed all the time."""

    number = 2
    bounds = Bounds(log_entries=3, owed_changes=4)


class LittleIsKeptForThree(LittleIsKept):
    number = 3


TestTwoNodes = TwoNodes.TestCase
TestThreeNodes = ThreeNodes.TestCase
TestLittleIsKept = LittleIsKept.TestCase
TestLittleIsKeptForThree = LittleIsKeptForThree.TestCase
TestTwoNodes.settings = TestThreeNodes.settings = SETTINGS
TestLittleIsKept.settings = TestLittleIsKeptForThree.settings = SETTINGS
