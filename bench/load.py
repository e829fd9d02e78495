"""
The load generator of load.c in Python, for machines without a C compiler.

It takes the same options and prints the same object of JSON, for the modes publish, connect
and idle, one publish in flight a publisher. It is slow: what it finds is often its own limit,
as the share of its time in which it was busy shows.
"""

import json
import os
import selectors
import socket
import statistics
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heliograph.client.signing import Credentials

OPTIONS: dict[str, Any] = {
    "mode": "publish",
    "host": "127.0.0.1",
    "app": "1",
    "key": "key",
    "secret": "secret",
    "prefix": "",
    "path": "",
    "port": 8080,
    "api_port": 0,
    "subscribers": 1000,
    "channels": 1,
    "first": 0,
    "publishers": 1,
    "payload": 100,
    "parallel": 64,
    "pid": 0,
    "seconds": 3.0,
}
WARM_UP_S = 0.3
SETTLE_S = 0.5
STUCK_S = 5.0
"""What is queued for so long, while the queue does not shrink, is lost."""

MASK = b"mask"


def credentials(options: dict[str, Any]) -> Credentials:
    """Return the key of the app, with its secret."""
    return Credentials(options["key"], options["secret"])


def text_frame(text: str) -> bytes:
    """Return *text* as a client sends it."""
    payload = text.encode()
    masked = bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))
    length = len(payload)
    head = bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack(">H", length)
    return b"\x81" + head + MASK + masked


def processor_s(pid: int) -> tuple[float, float]:
    """Return the processor time that a process has used, in its own code and in the kernel."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks, int(fields[12]) / ticks


class Client:
    """A client on its way to its subscription, and then one that counts."""

    def __init__(self, options: dict[str, Any], channel: int) -> None:
        self.options = options
        self.channel = f"{options['prefix']}bench-{options['first'] + channel}"
        self.number = channel
        self.live = False
        self.received = 0
        self.began = time.monotonic()
        self.joined_s = 0.0
        self._upgraded = False
        self._buffer = b""
        self.socket = socket.create_connection((options["host"], options["port"]))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        upgrade = (
            f"GET {options['path']}/app/{options['key']}?protocol=7 HTTP/1.1\r\n"
            f"Host: {options['host']}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        self.socket.sendall(upgrade.encode())

    def readable(self) -> int:
        """Take what has arrived; return the number of events in it."""
        got = self.socket.recv(1 << 18)
        if not got:
            raise SystemExit("the server hung up")
        self._buffer += got
        events = 0
        while message := self._next():
            if self.live:
                events += 1
            else:
                self._opening(message)
        self.received += events
        return events

    def _next(self) -> bytes | None:
        if not self._upgraded:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return None
            if not head.startswith(b"HTTP/1.1 101"):
                raise SystemExit(f"no WebSocket: {head!r}")
            self._upgraded, self._buffer = True, rest
        data = self._buffer
        if len(data) < 2:
            return None
        length, start = data[1] & 127, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(data) < start:
                return None
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:
            return None
        self._buffer = data[start + length :]
        return data[start : start + length]

    def _opening(self, message: bytes) -> None:
        said = json.loads(message)
        if said["event"] == "pusher:connection_established":
            data = {"channel": self.channel}
            if self.options["prefix"]:
                socket_id = json.loads(said["data"])["socket_id"]
                signer = credentials(self.options)
                data["auth"] = signer.authorize_subscription(socket_id, self.channel)
            text = json.dumps({"event": "pusher:subscribe", "data": data})
            self.socket.sendall(text_frame(text))
        elif said["event"] == "pusher_internal:subscription_succeeded":
            self.live = True
            self.joined_s = time.monotonic() - self.began
        else:
            raise SystemExit(f"refused: {message!r}")


class Publisher:
    """A connection that publishes, waits for the answer, and publishes again."""

    def __init__(self, options: dict[str, Any], number: int) -> None:
        self.socket = socket.create_connection((options["host"], options["api_port"]))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.channel = number % options["channels"]
        self.sent = 0.0
        self._request = self._make_request(options)

    def _make_request(self, options: dict[str, Any]) -> bytes:
        channel = f"{options['prefix']}bench-{options['first'] + self.channel}"
        event = {"name": "my-event", "channel": channel, "data": "x" * options["payload"]}
        body = json.dumps(event).encode()
        path = f"/apps/{options['app']}/events"
        target = credentials(options).request_target("POST", path, at=time.time(), body=body)
        return (
            f"POST {options['path']}{target} HTTP/1.1\r\n"
            f"Host: {options['host']}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def publish(self) -> None:
        """Send the event once more."""
        self.sent = time.monotonic()
        self.socket.sendall(self._request)

    def readable(self) -> float:
        """Take an answer; return how long it took."""
        answer = self.socket.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"a publish was not taken: {answer!r}")
        return time.monotonic() - self.sent


class Load:
    """Everything that is connected, and what it found."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.selector = selectors.DefaultSelector()
        self.clients: list[Client] = []
        self.sent: list[deque[float]] = [deque() for _ in range(options["channels"])]
        self.published = [0] * options["channels"]
        self.queue_half = self.queue_end = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self.deliveries = 0
        self.forget_times()
        self.delays: list[float] = []
        self.answers: list[float] = []

    def forget_times(self) -> None:
        """Begin to measure how the time is spent."""
        self.idle_s, self._idle_since, self._found_nothing = 0.0, time.monotonic(), False
        self.used_s = processor_s(self.options["pid"])

    def turn(self, answered: Callable[[Publisher], None] | None = None) -> None:
        """Take what there is, and never wait for it."""
        ready = self.selector.select(0)
        if not ready:
            self._found_nothing = True
            return
        if self._found_nothing:
            self.idle_s += time.monotonic() - self._idle_since
            self._found_nothing = False
        for key, _ in ready:
            one = key.data
            if isinstance(one, Publisher):
                self.answers.append(one.readable())
                if answered:
                    answered(one)
            elif events := one.readable():
                self.deliveries += events
                self._time(one, events)
        self._idle_since = time.monotonic()

    def _time(self, client: Client, events: int) -> None:
        sent, now = self.sent[client.number], time.monotonic()
        first = self.published[client.number] - len(sent)
        for number in range(client.received - events, client.received):
            if number >= first:
                self.delays.append(now - sent[number - first])

    def connect(self) -> float:
        """Connect and subscribe everybody; return the seconds it took."""
        began = time.monotonic()
        wanted, parallel = self.options["subscribers"], self.options["parallel"]
        while True:
            live = sum(client.live for client in self.clients[-parallel:])
            waiting = min(parallel, len(self.clients)) - live
            if len(self.clients) == wanted and not waiting:
                return time.monotonic() - began
            if len(self.clients) < wanted and waiting < parallel:
                client = Client(self.options, len(self.clients) % self.options["channels"])
                self.clients.append(client)
                self.selector.register(client.socket, selectors.EVENT_READ, client)
            self.turn()

    def publish(self, publisher: Publisher) -> None:
        """Have *publisher* publish, and note when."""
        sent = self.sent[publisher.channel]
        if len(sent) == 4096:
            sent.popleft()
        sent.append(time.monotonic())
        self.published[publisher.channel] += 1
        publisher.publish()

    def missing(self) -> int:
        """Return how many events have not arrived."""
        return sum(self.published[client.number] - client.received for client in self.clients)

    def figures(self, seconds: float, connected: int = 0) -> dict[str, float]:
        """Return what was found, as load.c prints it."""

        def quantile(values: list[float], share: float) -> float:
            if len(values) < 2:
                return values[0] * 1000 if values else 0.0
            return statistics.quantiles(values, n=100)[int(share * 100) - 1] * 1000

        shares = zip(processor_s(self.options["pid"]), self.used_s, strict=True)
        user, kernel = ((after - before) / seconds for after, before in shares)
        found: dict[str, float] = {
            "seconds": seconds,
            "deliveries": self.deliveries,
            "answers": len(self.answers),
            "clients": connected,
            "lost": 0,
            "bytes": 0,
            "redials": 0,
            "queue_half": self.queue_half,
            "queue_end": self.queue_end,
            "load_busy": 1 - self.idle_s / seconds,
            "server_user": user,
            "server_kernel": kernel,
        }
        times = self.answers or [client.joined_s for client in self.clients]
        for name, values in (("delivery", self.delays), ("answer", times)):
            found[f"{name}_p50_ms"] = quantile(values, 0.5)
            found[f"{name}_p99_ms"] = quantile(values, 0.99)
        return found


def run_publish(load: Load) -> None:
    """Publish for some seconds, then wait for the rest."""
    options = load.options
    load.connect()
    print("connected", flush=True)
    publishers = [Publisher(options, number) for number in range(options["publishers"])]
    for publisher in publishers:
        load.selector.register(publisher.socket, selectors.EVENT_READ, publisher)
        load.publish(publisher)
    warm = time.monotonic() + WARM_UP_S
    while time.monotonic() < warm:
        load.turn(load.publish)
    load.reset()
    began = time.monotonic()
    half = began + options["seconds"] / 2
    while (now := time.monotonic()) < began + options["seconds"]:
        load.turn(load.publish)
        if now > half:
            load.queue_half, half = load.missing(), float("inf")
    load.queue_end = load.missing()
    found = load.figures(now - began)
    lost, drain_s = drain(load)
    print(json.dumps({**found, "lost": lost, "drain_s": drain_s}), flush=True)


def drain(load: Load) -> tuple[int, float]:
    """Wait for what is on its way, as long as it becomes less; return what never came, and when."""
    start = shrunk = time.monotonic()
    least = load.missing()
    while least and time.monotonic() < shrunk + STUCK_S:
        load.turn()
        left = load.missing()
        if left < least:
            least, shrunk = left, time.monotonic()
    return least, shrunk - start


def run_connect(load: Load) -> None:
    """Connect everybody, disconnect, and again."""
    seconds, connected = 0.0, 0
    spent = dict.fromkeys(("load_busy", "server_user", "server_kernel"), 0.0)
    while seconds < load.options["seconds"]:
        load.forget_times()  # while clients are disconnected, nothing is measured
        took = load.connect()
        found = load.figures(took)
        spent = {name: before + found[name] * took for name, before in spent.items()}
        seconds += took
        connected += len(load.clients)
        for client in load.clients:
            load.selector.unregister(client.socket)
            client.socket.close()
        load.answers += [client.joined_s for client in load.clients]
        load.clients.clear()
        time.sleep(SETTLE_S)
    shares = {name: share / seconds for name, share in spent.items()}
    print(json.dumps({**load.figures(seconds, connected), **shares, "drain_s": 0.0}), flush=True)


def run_idle(load: Load) -> None:
    """Connect and stay until standard input ends."""
    found = load.figures(load.connect(), len(load.clients))
    print(json.dumps({**found, "drain_s": 0.0}), flush=True)
    sys.stdin.read()


MODES = {"publish": run_publish, "connect": run_connect, "idle": run_idle}


def main(arguments: list[str]) -> None:
    """Put a server under load as *arguments* say."""
    options = dict(OPTIONS)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in OPTIONS:
            raise SystemExit(f"{name}: this takes the load generator in C")
        options[name] = type(OPTIONS[name])(value)
    options["api_port"] = options["api_port"] or options["port"]
    if options["mode"] not in MODES:
        raise SystemExit(f"mode {options['mode']}: this takes the load generator in C")
    MODES[options["mode"]](Load(options))


if __name__ == "__main__":
    main(sys.argv[1:])
