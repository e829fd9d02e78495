"""Every asynchronous test here runs on both event loops that the server runs on."""

import asyncio
import resource
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from tests.integration.rig import Engines

CROWD = 4_100
"""Descriptors for two thousand clients that are in two places while they move, and some more."""

BOTH_ENGINES = ("test_api", "test_history_api", "test_users", "test_websocket")
"""The suites of protocol and API hold over an engine that answers later, too."""


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in BOTH_ENGINES:
        metafunc.fixturenames.append("engine")
        metafunc.parametrize("engine", ["memory", "late"], indirect=True)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """DescriptorBudget for a crowd in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], CROWD), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which engine the servers of a test have."""
    Engines.late = request.param == "late"
    yield request.param
    Engines.late = False
