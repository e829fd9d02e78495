"""A bare WebSocket client that listens, for tests of what publishes."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from heliograph.client.signing import Credentials
from tests.server import ServerProcess

PATIENCE_S = 10.0


class Listener:
    """A connection that is subscribed to channels and hears what is said there, in order."""

    def __init__(self, connection: ClientConnection, server: ServerProcess) -> None:
        self._connection = connection
        self._server = server
        greeting = json.loads(self.frame())
        assert greeting["event"] == "pusher:connection_established"
        self.socket_id: str = json.loads(greeting["data"])["socket_id"]

    @classmethod
    @contextmanager
    def open(cls, server: ServerProcess, *channels: str, **members: str) -> Iterator[Self]:
        """Connect and subscribe; *members* are presence channels, by name without the prefix."""
        url = f"ws://{server.host}:{server.port}/app/{server.key}?protocol=7&client=test"
        with connect(url, proxy=None, compression=None) as connection:
            listener = cls(connection, server)
            for channel in channels:
                listener.subscribe(channel)
            for room, user_id in members.items():
                listener.join(f"presence-{room}", user_id)
            yield listener

    def frame(self) -> str:
        """Return the next frame, as it came."""
        frame = self._connection.recv(PATIENCE_S)
        assert isinstance(frame, str)
        return frame

    def hear(self) -> tuple[str, str, str]:
        """Return channel, name and data of the next event."""
        event = json.loads(self.frame())
        return event["channel"], event["event"], event["data"]

    def send(self, event: str, data: Any) -> None:
        self._connection.send(json.dumps({"event": event, "data": data}))

    def closed_with(self) -> int | None:
        """Wait until the server has closed the connection, and return the code."""
        try:
            while True:
                self.frame()
        except ConnectionClosed:
            return self._connection.close_code

    def subscribe(self, channel: str, signed: Mapping[str, str] | None = None) -> None:
        """Subscribe, with what an authorization endpoint said, or else a signature made here."""
        if signed is None and channel.startswith(("private-", "presence-")):
            signed = self._sign(channel)
        self.send("pusher:subscribe", {"channel": channel, **(signed or {})})
        acknowledged = self.hear()
        assert acknowledged[:2] == (channel, "pusher_internal:subscription_succeeded")

    def join(self, channel: str, user_id: str) -> None:
        self.subscribe(channel, self._sign(channel, json.dumps({"user_id": user_id})))

    def _sign(self, channel: str, channel_data: str | None = None) -> dict[str, str]:
        app = Credentials(self._server.key, self._server.secret)
        signed = {"auth": app.authorize_subscription(self.socket_id, channel, channel_data)}
        return signed if channel_data is None else {**signed, "channel_data": channel_data}
