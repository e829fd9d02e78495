"""The clients that tests may ask for."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.clients.javascript import AppKeys, JavaScript, Runtime
from tests.clients.pages import KINDS, Page, page_of
from tests.server import APP_ID, KEY, SECRET, ServerProcess

COUNTING_APP_ID = "4"
COUNTING_KEY = "a-counting-key"
COUNTING_SECRET = "a-counting-secret"

TWO_APPS = f"""
[[apps]]
id = "{APP_ID}"
watchlist = true

[[apps.keys]]
key = "{KEY}"
secret = "{SECRET}"

[[apps]]
id = "{COUNTING_APP_ID}"
subscription_count = true

[[apps.keys]]
key = "{COUNTING_KEY}"
secret = "{COUNTING_SECRET}"
"""

APPS: AppKeys = {
    "main": {"id": APP_ID, "key": KEY, "secret": SECRET},
    "counting": {"id": COUNTING_APP_ID, "key": COUNTING_KEY, "secret": COUNTING_SECRET},
}


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> Iterator[None]:
    """Keep clients that read the environment from asking a proxy for the loopback interface."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="module", params=["node", "chromium"])
def clients(request: pytest.FixtureRequest) -> Iterator[JavaScript]:
    """JavaScript clients, in Node and in a browser, each with a server of two apps of its own."""
    runtime: Runtime = request.param
    with ServerProcess(toml=TWO_APPS) as server, JavaScript(server, runtime, APPS) as javascript:
        yield javascript


@pytest.fixture(scope="module")
def node(server: ServerProcess) -> Iterator[JavaScript]:
    """Node, with the module's server."""
    with JavaScript(server, "node") as javascript:
        yield javascript


# -- Pages whose connections are cut ---------------------------------------------------------


@pytest.fixture(scope="module")
def running(server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The runtime of `page`: parametrize both with `pages.each_library`."""
    with page_of(server, request.param) as page:
        yield page


@pytest.fixture
def page(running: Page, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page with a build of pusher-js."""
    yield running._replace(build=request.param)
    running.relay.release()


@pytest.fixture
def channels() -> list[str]:
    """A channel of each kind, of the test alone."""
    own = next(NUMBERS)
    return [f"{kind}-{own}" for kind in KINDS]


NUMBERS = count(1)
