"""What every test may ask for: a server, started as its users start it."""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import hypothesis
import pytest

from tests.server import ServerProcess

# How long an example takes depends on coverage and on what else the machine does. A test that hangs
# ends by its time-out.
hypothesis.settings.register_profile("heliograph", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=10_000)
hypothesis.settings.load_profile("heliograph")

StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server with one app and every option at its default, for all tests of a module."""
    with ServerProcess() as running:
        yield running


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers of a test's own: `start_server({"max_batch": 2})`, `start_server(toml=…)`."""
    with ExitStack() as servers:

        def start(
            options: dict[str, Any] | None = None, *, toml: str | None = None
        ) -> ServerProcess:
            return servers.enter_context(ServerProcess(options, toml=toml))

        yield start


@pytest.fixture(autouse=True)
def _nothing_is_only_logged(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Fail a test during which an event loop had to report a fault that nobody handled."""
    yield
    said = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    faults = [
        one.getMessage() for one in said if one.name == "asyncio" and one.levelno >= logging.ERROR
    ]
    assert not faults or request.node.get_closest_marker("reports_faults"), faults


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers said when a test fails."""
    report = yield
    if report.failed:
        for running in list(ServerProcess.running):
            report.sections.append((f"log of the server on port {running.port}", running.log()))
    return report
