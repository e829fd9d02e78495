"""
Deploys: the next server starts beside the one that runs, behind a balancer or on the same port.

Both are processes. The clients are sockets of this one, and do what pusher-js does when it is
told 4200: they connect again at once.
"""

import asyncio
import bisect
import struct
from collections.abc import Callable
from contextlib import ExitStack

import pusher
import pytest

from tests.integration.test_http import UPGRADE
from tests.server import APP_ID, KEY, SECRET, ServerProcess

CLIENTS = 2_000
AT_ONCE = 100
"""Clients that connect at the same time, in the beginning."""

LEAVING_S = 8
PATIENCE_S = 60.0

SUBSCRIBE = b'{"event":"pusher:subscribe","data":{"channel":"c"}}'


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame; a mask of zeros is one, too."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


class Crowd:
    """Clients that want to be subscribed; when each of them was sent away, and came back."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.there = 0
        self.sent_away: list[float] = []
        self.back: list[float] = []
        self.problems: list[str] = []
        self.complete = asyncio.Event()
        self.under_way: set[asyncio.Task[None]] = set()
        self.members: set[Member] = set()

    def join(self, *, again: bool) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._join(again=again))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        return task

    async def _join(self, *, again: bool) -> None:
        member = Member(self, again=again)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: member, "127.0.0.1", self.port
            )
        except OSError as error:
            self.problems.append(repr(error))
        else:
            await member.subscribed.wait()

    def joined(self, *, again: bool) -> None:
        self.there += 1
        if again:
            self.back.append(asyncio.get_running_loop().time())
        if self.there == CLIENTS:
            self.complete.set()

    async def gather(self) -> None:
        """Have all clients connect, some at a time."""
        for _ in range(CLIENTS // AT_ONCE):
            await asyncio.gather(*(self.join(again=False) for _ in range(AT_ONCE)))

    def most_in_a_second(self) -> int:
        """Return the number that came back in the second that saw most of them."""
        times = sorted(self.back)
        return max(bisect.bisect_left(times, at + 1) - i for i, at in enumerate(times))


class Member(asyncio.Protocol):
    """One of them."""

    def __init__(self, crowd: Crowd, *, again: bool) -> None:
        self.crowd = crowd
        self.again = again
        self.subscribed = asyncio.Event()
        self.received = b""
        self.left = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.crowd.members.add(self)
        transport.write(UPGRADE + masked(1, SUBSCRIBE))

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.subscribed.is_set() and b"subscription_succeeded" in self.received:
            self.subscribed.set()
            self.crowd.joined(again=self.again)
        if not self.left and b'"code":4200' in self.received:
            self.left = True
            self.crowd.sent_away.append(asyncio.get_running_loop().time())
            if self.subscribed.is_set():
                self.crowd.there -= 1
                self.crowd.complete.clear()
            self.transport.write(masked(8, struct.pack("!H", 4200)))
            self.crowd.join(again=True)

    def connection_lost(self, error: Exception | None) -> None:
        self.subscribed.set()
        self.crowd.members.discard(self)
        if error is not None or not self.left:
            self.crowd.problems.append(f"a connection was lost: {error!r}")


async def replace_under(
    crowd: Crowd, old: ServerProcess, new: ServerProcess, servers: ExitStack
) -> None:
    """Start *new* beside *old*, and have *old* end, while everybody is connected to it."""
    await crowd.gather()
    assert crowd.there == CLIENTS
    await asyncio.to_thread(servers.enter_context, new)
    crowd.port = new.port  # a balancer, or the kernel, sends newcomers there
    assert crowd.problems == []
    assert await asyncio.to_thread(old.stop) == 0
    async with asyncio.timeout(PATIENCE_S):
        await crowd.complete.wait()
    assert len(crowd.back) == CLIENTS
    assert crowd.problems == []
    client = pusher.Pusher(APP_ID, KEY, SECRET, host=new.host, port=new.port, ssl=False)
    channel = await asyncio.to_thread(client.channel_info, "c", ["subscription_count"])
    assert channel["subscription_count"] == CLIENTS
    for member in list(crowd.members):
        member.left = True
        member.transport.abort()
    await asyncio.sleep(0)


@pytest.mark.usefixtures("descriptors")
def test_two_thousand_clients_reconnect_evenly_in_a_deploy(
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """All are back, none was refused, and no second saw twice its even share of them."""
    with ExitStack() as servers:
        options = {"shutdown_timeout": LEAVING_S}
        old = servers.enter_context(ServerProcess(options))
        crowd = Crowd(old.port)
        asyncio.run(replace_under(crowd, old, ServerProcess(options), servers))
    share = CLIENTS / LEAVING_S
    took_s = max(crowd.back) - min(crowd.back)
    record_testsuite_property("reconnects in the busiest second", crowd.most_in_a_second())
    record_testsuite_property("even share", share)
    record_testsuite_property("seconds", took_s)
    assert crowd.most_in_a_second() <= 2 * share
    assert took_s >= LEAVING_S / 2


@pytest.mark.usefixtures("descriptors")
def test_a_server_on_a_shared_port_closes_two_thousand_clients_at_once() -> None:
    """While there are both, an event reaches the clients of one: the less time, the better."""
    with ExitStack() as servers:
        options = {"reuse_port": True, "shutdown_timeout": LEAVING_S, "shutdown_delay": PATIENCE_S}
        old = servers.enter_context(ServerProcess(options))
        crowd = Crowd(old.port)
        new = ServerProcess({**options, "port": old.port})
        asyncio.run(replace_under(crowd, old, new, servers))
    # A second by the server's clock; two thousand clients share this process and its core.
    assert max(crowd.sent_away) - min(crowd.sent_away) < LEAVING_S / 2
