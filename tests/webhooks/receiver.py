"""An application's receiver: a real HTTP server that checks what it is told, and can misbehave."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pusher

from tests.server import APP_ID, KEY, SECRET

DELIVERY_HEADER = "X-Heliograph-Delivery"


@dataclass(frozen=True)
class Delivery:
    """One request, as it came."""

    id: str
    body: bytes
    headers: dict[str, str]
    accepted: bool

    @property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(self.body)["events"]
        return events


class Receiver:
    """
    Receives webhooks on loopback and has the official SDK check each.

    *behave* may answer for a request: an HTTP status, or None to break the connection.
    """

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.behave: Callable[[], int | None] = lambda: 200
        self.port = 0
        self._changed = threading.Condition()
        self._sdk = pusher.Pusher(app_id=APP_ID, key=KEY, secret=SECRET)

    def take(self, body: bytes, headers: dict[str, str]) -> int | None:
        status = self.behave()
        valid = self._sdk.validate_webhook(
            headers.get("X-Pusher-Key"), headers.get("X-Pusher-Signature"), body.decode()
        )
        accepted = valid is not None
        with self._changed:
            self.deliveries.append(
                Delivery(headers[DELIVERY_HEADER], body, headers, accepted and status == 200)
            )
            self._changed.notify_all()
        return status

    @property
    def told(self) -> list[dict[str, Any]]:
        """The events of accepted deliveries in order, each delivery once."""
        events: list[dict[str, Any]] = []
        seen: set[str] = set()
        for delivery in list(self.deliveries):
            if delivery.accepted and delivery.id not in seen:
                seen.add(delivery.id)
                events += delivery.events
        return events

    def wait_for(self, satisfied: Callable[[], bool], timeout_s: float = 10) -> None:
        """Wait until what was received satisfies; fail with it when it never does."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not satisfied():
                left = deadline - time.monotonic()
                assert left > 0, f"received only {self.told}"
                self._changed.wait(left)

    @contextmanager
    def listening(self, port: int = 0) -> Iterator[None]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.take(body, dict(self.headers.items()))
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_arguments: object) -> None:
                """A server that is killed breaks its connections."""

        server = Server(("127.0.0.1", port), Handler)
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def replay(events: list[dict[str, Any]]) -> tuple[set[str], dict[str, set[str]]]:
    """What a receiver believes after all of *events*: occupied channels, and who is present."""
    occupied: set[str] = set()
    present: dict[str, set[str]] = {}
    for event in events:
        channel = event["channel"]
        match event["name"]:
            case "channel_occupied":
                assert channel not in occupied, f"{channel} was occupied twice"
                occupied.add(channel)
            case "channel_vacated":
                assert channel in occupied, f"{channel} was vacated without being occupied"
                occupied.discard(channel)
            case "member_added":
                assert event["user_id"] not in present.setdefault(channel, set())
                present[channel].add(event["user_id"])
            case "member_removed":
                present[channel].remove(event["user_id"])
    return occupied, {channel: users for channel, users in present.items() if users}
