"""A server killed with -9 again and again: in the end receivers believe the truth."""

import json
import random
import threading
import time
from pathlib import Path

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.conftest import StartServer
from tests.webhooks.receiver import Receiver, replay
from tests.webhooks.test_end_to_end import Client, configuration, url

CRASHES = 20
CHANNELS = [f"{kind}-{number}" for kind in ("presence", "public") for number in range(30)]


class Wanderer(threading.Thread):
    """A client that comes and goes, and comes back when the server was away."""

    def __init__(self, endpoint: str, number: int) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.user_id = f"u{number}"
        self.random = random.Random(number)
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                self.visit()
            except (OSError, WebSocketException, TimeoutError):
                self.ending.wait(0.05)  # the server is away

    def visit(self) -> None:
        with connect(self.endpoint, open_timeout=2, close_timeout=0.5) as connection:
            client = Client(connection)
            channels = self.random.sample(CHANNELS, 2)
            for channel in channels:
                client.subscribe(channel, self.user_id if "presence" in channel else None)
                if self.ending.wait(self.random.uniform(0, 0.1)):
                    return
            if self.random.random() < 0.5:
                client.say("pusher:unsubscribe", {"channel": channels[0]})
            self.ending.wait(self.random.uniform(0, 0.2))


def test_twenty_kills_leave_receivers_with_the_correct_state(
    start_server: StartServer, tmp_path: Path
) -> None:
    chance = random.Random(20)
    receiver = Receiver()
    # A fifth of all requests fails, so that some deliveries are on their way at every crash.
    receiver.behave = lambda: 200 if chance.random() < 0.8 else 500
    with receiver.listening():
        events = ["channel_existence", "presence"]
        server = start_server(
            {"data_dir": tmp_path, "webhook_settle": 0.5},
            # One event a request: the more requests, the more that a crash can tear apart.
            toml="webhook_batching = false\n".join(
                configuration(receiver, events=events).partition("subscription_count = true\n")[::2]
            ),
        )
        wanderers = [Wanderer(url(server), number) for number in range(8)]
        for one in wanderers:
            one.start()
        try:
            for _ in range(CRASHES):
                time.sleep(chance.uniform(0.05, 0.6))  # it is the moment that is under test
                server.kill()
                server.start()
        finally:
            for one in wanderers:
                one.ending.set()
            for one in wanderers:
                one.join()

        with connect(url(server)) as ann, connect(url(server)) as bob:
            Client(ann).subscribe("presence-0", "ann")
            Client(bob).subscribe("public-0")
            truth = ({"presence-0", "public-0"}, {"presence-0": {"ann"}})
            receiver.wait_for(lambda: believed(receiver) == truth, 60)
    assert len(receiver.deliveries) > 5 * CRASHES
    contents = {(one.id, json.dumps(one.events)) for one in receiver.deliveries}
    assert len({identity for identity, _ in contents}) == len(contents)  # an id is one content


def believed(receiver: Receiver) -> tuple[set[str], dict[str, set[str]]]:
    return replay(receiver.told)
