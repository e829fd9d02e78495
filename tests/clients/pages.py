"""Pages that are subscribed through a relay, and a publisher: what tests of missed events need."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pusher
import pytest

from tests.clients.javascript import JavaScript, Runtime
from tests.clients.relay import Relay
from tests.server import ServerProcess

MASTER_KEY = b64encode(b"a master key that has 32 bytes..").decode()
KINDS = ("news", "private-news", "presence-news", "private-encrypted-news", "cache-news")

STABLE = [
    ("node", "pusher-with-encryption"),
    ("chromium", "pusher-with-encryption"),
    ("chromium", "pusher-7-with-encryption"),
]
"""
Libraries that connect again as often as their connection is cut.

pusher-js 7 uses no WebSockets any more after two ended without a close frame within some minutes,
and in Node it takes no close frame into account. pusher-js 8 has no such limit.
"""

each_library = pytest.mark.parametrize(
    ("running", "page"), [*STABLE, ("node", "pusher-7-with-encryption")], indirect=True
)
each_stable_library = pytest.mark.parametrize(("running", "page"), STABLE, indirect=True)


class Page(NamedTuple):
    """A page that is subscribed to channels, its way to the server, and a publisher."""

    javascript: JavaScript
    build: str
    server: ServerProcess
    relay: Relay
    sdk: Any

    def start(self, scenario: str, **params: Any) -> None:
        self.javascript.start(scenario, build=self.build, **params)

    def reached(self, *marks: str) -> None:
        for mark in marks:
            self.javascript.reached(mark)

    def cut_first(self) -> None:
        """End the connection, as one of two: with a close frame for pusher-js 7, see STABLE."""
        if self.build.startswith("pusher-7"):
            self.relay.close()
        else:
            self.relay.cut()

    def publish(self, channels: list[str], *data: Any, socket_id: str | None = None) -> None:
        """Publish each of *data* on each of *channels*."""
        for one in data:
            for channel in channels:
                self.sdk.trigger(channel, "said", one, socket_id)

    def mark(self, channels: list[str], name: str) -> None:
        """Publish a mark, and wait until all *channels* have received it."""
        self.publish(channels, {"mark": name})
        self.reached(name)

    def end(self, channels: list[str]) -> Any:
        """Publish the end, and return what the page received."""
        self.publish(channels, {"mark": "end"})
        return self.javascript.result()


@contextmanager
def page_of(server: ServerProcess, runtime: Runtime = "node") -> Iterator[Page]:
    """Start a runtime for pages, with pusher-js 8 unless another build is named."""
    sdk = pusher.Pusher(
        server.app_id,
        server.key,
        server.secret,
        ssl=False,
        host=server.host,
        port=server.port,
        encryption_master_key_base64=MASTER_KEY,
    )
    try:
        with Relay(server.port) as relay, JavaScript(server, runtime, relay=relay) as javascript:
            yield Page(javascript, "pusher-with-encryption", server, relay, sdk)
    finally:
        sdk._pusher_client.http.session.close()
