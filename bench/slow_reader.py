"""
What one client that does not read costs a thousand that do: how late their events come.

    python -m bench.slow_reader

Rounds with and without it take turns, so that a machine that slows down slows both. Publisher and
subscribers are one process, whose own share in the figures is the same in both.
"""

import asyncio
import contextlib
import json
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from bench import tools
from bench.messages import message, request, upgrade
from bench.tools import APP, BenchError, Target

SUBSCRIBERS = 1000
ROUNDS = 5
EVENTS = 120
INTERVAL_S = 0.05
EVENT_BYTES = 1000
FILLING_EVENTS = 600  # of 10 KB: more than any kernel keeps for one socket
PATIENCE_S = 30.0

ALLOWED_SHARE, ALLOWED_S = 1.10, 0.002
"""The median p99 with a stalled reader may be that much of the one without, or as much more."""

UPGRADE = upgrade()
STAMP = b'"data":"at '
STAMP_BYTES = 20


def subscription(channel: str) -> bytes:
    """Return the frame that subscribes to *channel*."""
    return message("pusher:subscribe", {"channel": channel})


class Subscriber(asyncio.Protocol):
    """A client of one channel that notes how late each event came."""

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.subscribed = asyncio.Event()
        self.heard = asyncio.Event()  # all of a round
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect and subscribe in one breath."""
        if isinstance(transport, asyncio.Transport):
            transport.write(UPGRADE + subscription("crowd"))

    def data_received(self, data: bytes) -> None:
        """Look for the acknowledgement, and then for the time in each event."""
        now = time.monotonic()
        self._seen += data
        if not self.subscribed.is_set():
            if b"subscription_succeeded" in self._seen:
                self.subscribed.set()
            return
        while (at := self._seen.find(STAMP)) >= 0:
            begin = at + len(STAMP)
            if len(self._seen) < begin + STAMP_BYTES:
                break
            self.latencies_s.append(now - float(self._seen[begin : begin + STAMP_BYTES]))
            self._seen = self._seen[begin + STAMP_BYTES :]
        if len(self.latencies_s) == EVENTS:
            self.heard.set()
        self._seen = self._seen[max(0, self._seen.find(STAMP)) :][-EVENT_BYTES:]


class Publisher:
    """One connection to the HTTP API."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def publish(self, channel: str, data: str) -> None:
        """Publish an event, and wait for the answer. Raises BenchError where it is refused."""
        body = json.dumps({"name": "e", "channel": channel, "data": data}).encode()
        self._writer.write(request("POST", f"/apps/{APP}/events", body))
        answer = await self._reader.readuntil(b"\r\n\r\n{}")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"publishing failed: {answer.decode()}")


@contextlib.asynccontextmanager
async def stalled(target: Target, publisher: Publisher) -> AsyncIterator[None]:
    """Keep a subscriber that reads nothing, and for which bytes wait in the server."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (target.host, target.port))
        await loop.sock_sendall(client, UPGRADE + subscription("filler") + subscription("crowd"))
        received = b""
        while received.count(b"subscription_succeeded") < 2:
            received += await loop.sock_recv(client, 4096)
        for _ in range(FILLING_EVENTS):
            await publisher.publish("filler", "x" * 10_000)
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a thousand clients saw."""

    p50_s: float
    p99_s: float


async def measured(crowd: list[Subscriber], publisher: Publisher) -> Round:
    """Publish at a steady pace, and return how late events came."""
    for one in crowd:
        one.latencies_s.clear()
        one.heard.clear()
    loop = asyncio.get_running_loop()
    due = loop.time()
    for _ in range(EVENTS):
        due += INTERVAL_S
        await asyncio.sleep(due - loop.time())
        stamp = f"at {time.monotonic():0{STAMP_BYTES}.6f} "
        await publisher.publish("crowd", stamp.ljust(EVENT_BYTES, "x"))
    await asyncio.wait_for(asyncio.gather(*(one.heard.wait() for one in crowd)), PATIENCE_S)
    latencies = sorted(latency for one in crowd for latency in one.latencies_s)
    return Round(p50_s=latencies[len(latencies) // 2], p99_s=latencies[len(latencies) * 99 // 100])


async def compare(target: Target) -> bool:
    """Print every round and the medians; return whether a stalled reader moved nothing."""
    loop = asyncio.get_running_loop()
    crowd: list[Subscriber] = []
    for _ in range(SUBSCRIBERS):
        _, one = await loop.create_connection(Subscriber, target.host, target.port)
        await one.subscribed.wait()
        crowd.append(one)
    publisher = Publisher(*await asyncio.open_connection(target.host, target.api_port))
    await measured(crowd, publisher)  # everything is warm then
    without, beside = [], []
    for number in range(ROUNDS):
        without.append(await measured(crowd, publisher))
        async with stalled(target, publisher):
            beside.append(await measured(crowd, publisher))
        print(
            f"round {number + 1}: p99 {_ms(without[-1].p99_s)} without,"
            f" {_ms(beside[-1].p99_s)} beside a stalled reader"
            f" (p50 {_ms(without[-1].p50_s)}, {_ms(beside[-1].p50_s)})"
        )
    before = statistics.median(one.p99_s for one in without)
    after = statistics.median(one.p99_s for one in beside)
    print(f"median p99: {_ms(before)} without, {_ms(after)} beside a stalled reader")
    return after <= max(before * ALLOWED_SHARE, before + ALLOWED_S)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def main() -> None:
    """Measure, and exit with 1 where the others were held up."""
    tools.end_children_on_sigterm()
    # Its bytes stay, and nobody here answers a ping.
    with tools.heliograph("--max_write_buffer", str(64 << 20), "--ping_interval=3600") as target:
        calm = asyncio.run(compare(target))
    sys.exit(0 if calm else 1)


if __name__ == "__main__":
    main()
