"""
Clients that continue from a position after events that they missed.

    python -m bench.resuming MODE port=PORT clients=N channels=N events=N payload=BYTES [rate=BYTES]

It remembers the position of each channel, publishes *events* events on each, and prints a line.
When it has read a line, its clients connect and continue from the position, and it prints what it
found as JSON, once all of them are live. In the mode `storm`, many of them connect at the same
time and read as fast as they can. In the mode `slow`, each reads *rate* bytes a second. A client
that does not receive exactly the events that it missed ends the program with status 1.
"""

import asyncio
import json
import re
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from bench.messages import message, request, upgrade
from bench.tools import APP, BenchError
from heliograph.net.descriptors import raise_descriptor_limit

PARALLEL = 256
"""Clients that connect at the same time: fewer than any server's accept queue."""

PATIENCE_S = 60.0
READ_BYTES = 1 << 16
SLOW_RECEIVE_BUFFER = 16_384
SLOW_READ_BYTES = 20_000
PIPELINED_BYTES, PIPELINED = 1 << 16, 64
"""Requests that are sent before their answers are read: so many bytes, or so many, at most."""

NEXT = b'"pusher_internal:next_position"'
HERE = b'"pusher_internal:position"'
GAP = b'"pusher_internal:gap"'
PLACE = re.compile(
    HERE + rb',"channel":"([^"]*)","data":"{\\"epoch\\":\\"([^\\"]*)\\",\\"offset\\":(\d+)}"'
)
RESET = struct.pack("ii", 1, 0)
ANSWER, ACCEPTED = b"HTTP/1.1 ", b"HTTP/1.1 200 "


def channel_name(number: int) -> str:
    """Return the name of a channel with a history."""
    return f"kept-{number}"


# -- Before the clients come -----------------------------------------------------------------------


def publish_request(channels: Sequence[str], data: str, times: int = 1) -> bytes:
    """Return a signed request that publishes an event on *channels*, *times* times."""
    event = {"name": "kept", "data": data}
    if len(channels) == 1:
        event["channel"] = channels[0]
        if times > 1:
            body = json.dumps({"batch": [event] * times}).encode()
            return request("POST", f"/apps/{APP}/batch_events", body)
    body = json.dumps({**event, "channels": channels}).encode()
    return request("POST", f"/apps/{APP}/events", body)


def publish(port: int, requests: Iterable[bytes]) -> None:
    """Send *requests* over one connection, several at a time. Raises BenchError if one fails."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        unanswered, size = 0, 0
        for one in requests:
            if unanswered and (unanswered == PIPELINED or size + len(one) > PIPELINED_BYTES):
                _await_answers(connection, unanswered)
                unanswered = size = 0
            connection.sendall(one)
            unanswered += 1
            size += len(one)
        _await_answers(connection, unanswered)


def _await_answers(connection: socket.socket, count: int) -> None:
    received = b""
    while received.count(ANSWER) < count or not received.endswith(b"}"):
        part = connection.recv(READ_BYTES)
        if not part:
            raise BenchError("the server hung up on a publisher")
        received += part
    if received.count(ACCEPTED) != count:
        raise BenchError(f"an event was not published: {received[:300]!r}")


def places(port: int, channels: Sequence[str]) -> list[dict[str, object]]:
    """Return the present position of each of *channels*. Raises BenchError."""
    found: dict[str, dict[str, object]] = {}
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        asked = [message("pusher:subscribe", {"channel": one, "history": {}}) for one in channels]
        connection.sendall(upgrade() + b"".join(asked))
        received = b""
        while received.count(HERE) < len(channels) or not received.endswith(b"}"):
            part = connection.recv(READ_BYTES)
            if not part:
                raise BenchError(f"the server sends no positions: {received[-300:]!r}")
            received += part
    for channel, epoch, offset in PLACE.findall(received):
        found[channel.decode()] = {"epoch": epoch.decode(), "offset": int(offset)}
    return [found[channel] for channel in channels]


def check(received: bytes | bytearray, events: int) -> None:
    """Insist that a client received *events* missed events, each once. Raises BenchError."""
    missed = received.partition(HERE)[0].count(NEXT)
    if GAP in received or missed != events:
        raise BenchError(f"a client received {missed} of {events} events that it missed")


# -- A storm ---------------------------------------------------------------------------------------


class Storm:
    """Clients that come back at the same time, PARALLEL of them on their way at once."""

    def __init__(self, port: int, openings: Sequence[bytes], clients: int, events: int) -> None:
        self._address = ("127.0.0.1", port)
        self._openings = openings
        self._events = events
        self._left = clients
        self._on_their_way = 0
        self._poll = select.epoll()
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}

    def run(self) -> float:
        """Return the seconds until all clients are live. Raises BenchError."""
        began = time.monotonic()
        while self._left or self._on_their_way:
            while self._left and self._on_their_way < PARALLEL:
                self._connect()
            for descriptor, _ in self._poll.poll(0.1):
                self._read(descriptor)
            if time.monotonic() > began + PATIENCE_S:
                raise BenchError(f"{self._left + self._on_their_way} clients are not live")
        return time.monotonic() - began

    def _connect(self) -> None:
        self._left -= 1
        self._on_their_way += 1
        client = socket.socket()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.connect(self._address)
        client.sendall(self._openings[self._left % len(self._openings)])
        client.setblocking(False)
        self._clients[client.fileno()] = client, bytearray()
        self._poll.register(client.fileno(), select.EPOLLIN)

    def _read(self, descriptor: int) -> None:
        client, received = self._clients[descriptor]
        part = client.recv(READ_BYTES)
        if not part:
            raise BenchError(f"the server hung up on a client: {bytes(received[-200:])!r}")
        received += part
        if GAP in part or (HERE in received and received.endswith(b"}")):
            check(received, self._events)
            self._on_their_way -= 1
            self._poll.unregister(descriptor)

    def close(self) -> None:
        """Reset all connections."""
        self._poll.close()
        for client, _ in self._clients.values():
            client.close()


def storm(port: int, openings: Sequence[bytes], clients: int, events: int) -> None:
    """
    Print how long a storm took, and the share of that time in which this process ran.

    The clients stay until standard input ends: thousands that disconnect are another storm.
    """
    one = Storm(port, openings, clients, events)
    used = _processor_s()
    try:
        seconds = one.run()
        _print({"seconds": seconds, "load_busy": (_processor_s() - used) / seconds})
        sys.stdin.read()
    finally:
        one.close()


def _print(figures: Mapping[str, float]) -> None:
    print(json.dumps(figures), flush=True)


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# -- Slow readers ----------------------------------------------------------------------------------


async def read_slowly(port: int, opening: bytes, events: int, rate: int) -> None:
    """Connect and read *rate* bytes a second until the client is live. Raises BenchError."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_RECEIVE_BUFFER)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, opening)
        received = bytearray()
        while HERE not in received[-SLOW_READ_BYTES:]:
            part = await loop.sock_recv(client, SLOW_READ_BYTES)
            if not part:
                raise BenchError("the server hung up on a slow client")
            received += part
            await asyncio.sleep(len(part) / rate)
        check(received, events)


async def slow(port: int, opening: bytes, clients: int, events: int, rate: int) -> float:
    """Return the seconds until all clients are live."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(read_slowly(port, opening, events, rate))
    return time.monotonic() - began


# -- The program -----------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Do what the command line asks for. Raises BenchError."""
    mode, *others = arguments
    options = {name: int(value) for name, _, value in (one.partition("=") for one in others)}
    port, clients, events = options["port"], options["clients"], options["events"]
    raise_descriptor_limit()
    channels = [channel_name(number) for number in range(options["channels"])]
    found = places(port, channels)
    data = "x" * options["payload"]
    publish(port, (publish_request([one], data) for one in channels for _ in range(events)))
    openings = [
        upgrade() + message("pusher:subscribe", {"channel": channel, "history": place})
        for channel, place in zip(channels, found, strict=True)
    ]
    print("ready", flush=True)
    sys.stdin.readline()
    if mode == "storm":
        storm(port, openings, clients, events)
    else:
        seconds = asyncio.run(slow(port, openings[0], clients, events, options["rate"]))
        _print({"seconds": seconds})


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BenchError as error:
        sys.exit(str(error))
