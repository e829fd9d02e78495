"""The clients that tests may ask for."""

from collections.abc import Iterator

import pytest

from tests.clients.javascript import AppKeys, JavaScript, Runtime
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
