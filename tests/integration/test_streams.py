"""Plain sockets in a poller's hands: what a peer gets, what a protocol is told, and how often."""

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from heliograph.net import listener as listener_module
from heliograph.net import streams
from heliograph.net.descriptors import DescriptorBudget
from heliograph.net.listener import Listener
from heliograph.net.sockets import ListeningSocket
from heliograph.net.streams import AT_ONCE, HIGH_BYTES, PARTS_AT_ONCE, Poller, Stream
from heliograph.net.turns import TURN_S
from tests.integration.rig import PATIENCE_S

MUCH = bytes(range(256)) * 16 * 1024
"""4 MiB: more than any socket here takes at once."""

SMALL = 4096
"""For sockets that take little; the kernel has a minimum of its own."""

MADE, GOT, ENDED, PAUSE, RESUME, LOST = (
    "connection_made",
    "data_received",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
)


class Told(asyncio.Protocol):
    """Writes down what it is told, and does *then*, by its name, what a test wants of it."""

    def __init__(self, **then: Callable[[Any], Any]) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.transport: Any
        self.then = then
        self._news = asyncio.Event()

    def _hear(self, what: str, detail: Any = None) -> Any:
        self.heard.append((what, detail))
        self._news.set()
        then = self.then.get(what)
        return then(detail) if then is not None else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._hear(MADE)

    def data_received(self, data: bytes) -> None:
        self._hear(GOT, data)

    def eof_received(self) -> bool | None:
        return bool(self._hear(ENDED))

    def pause_writing(self) -> None:
        self._hear(PAUSE)

    def resume_writing(self) -> None:
        self._hear(RESUME)

    def connection_lost(self, error: Exception | None) -> None:
        self._hear(LOST, error)

    @property
    def calls(self) -> list[str]:
        """What it was told, in order; however many pieces the data came in."""
        return [name for name, _ in groupby(name for name, _ in self.heard)]

    @property
    def received(self) -> bytes:
        return b"".join(detail for name, detail in self.heard if name == GOT)

    @property
    def losses(self) -> list[Exception | None]:
        return [detail for name, detail in self.heard if name == LOST]

    async def until(self, what: str, times: int = 1) -> None:
        """Wait until it was told *what*, so many *times*."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(name == what for name, _ in self.heard) < times:
                self._news.clear()
                await self._news.wait()

    async def until_received(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.received != data:
                self._news.clear()
                await self._news.wait()


class Switchboard:
    """A poller, the peers of its streams, and the faults that the loop's handler heard of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.poller = Poller(asyncio.get_running_loop(), clock)
        self.faults: list[BaseException] = []
        self.peers: list[socket.socket] = []

    def connect(
        self, protocol: asyncio.Protocol, pair: tuple[socket.socket, socket.socket] | None = None
    ) -> socket.socket:
        """Have the poller serve one end of *pair* with *protocol*; return the other."""
        ours, peer = pair or unix_pair()
        self.peers.append(peer)
        self.poller.adopt(ours.detach(), protocol)
        return peer

    async def in_a_turn(self, act: Callable[[], object]) -> None:
        """Have *act* done while the poller is at work, and all be sent that it writes."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self.poller.soon(act)
        self.poller.soon(lambda: done.set_result(None))
        async with asyncio.timeout(PATIENCE_S):
            await done
        await asyncio.sleep(0)

    async def turns_while_idle(self) -> int:
        """Let the loop look for events a hundred times; return the turns that came of it."""
        before = self.poller.turns
        for _ in range(100):
            await asyncio.sleep(0)
        return self.poller.turns - before

    def expect_faults(self, *types: type[BaseException]) -> None:
        """The loop's handler heard of these faults, and no others."""
        assert [type(fault) for fault in self.faults] == list(types)
        self.faults.clear()


def open_descriptors() -> int:
    """Return how many sockets and epolls are open; a loop opens files of its own as it goes."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            count += str(link.readlink()).startswith(("socket:", "anon_inode:[eventpoll]"))
        except FileNotFoundError:
            pass  # what it was listed with
    return count


@asynccontextmanager
async def switchboard(clock: Callable[[], float] = time.monotonic) -> AsyncIterator[Switchboard]:
    """A poller that leaves nothing behind, and no fault that nobody expected."""
    before = open_descriptors()
    board = Switchboard(clock)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: board.faults.append(context.get("exception") or Exception(context))
    )
    try:
        yield board
    finally:
        board.poller.stop()
        for peer in board.peers:
            peer.close()
        loop.set_exception_handler(None)
    await asyncio.sleep(0)  # uvloop closes what is its own a turn later
    assert board.faults == []
    assert len(board.poller) == 0
    assert open_descriptors() == before


# -- Sockets ---------------------------------------------------------------------------------


def unix_pair(*, small: bool = False) -> tuple[socket.socket, socket.socket]:
    """Two ends, ours first. What one writes is there for the other at once."""
    return _ready(*socket.socketpair(), small=small)


def tcp_pair(*, small: bool = False) -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listening:
        if small:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        peer = socket.socket()
        if small:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        peer.connect(listening.getsockname())
        ours, _ = listening.accept()
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _ready(ours, peer, small=small)


def record_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, of which each gets what the other wrote by the call: one, one record."""
    return _ready(*socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), small=False)


def _ready(
    ours: socket.socket, peer: socket.socket, *, small: bool
) -> tuple[socket.socket, socket.socket]:
    for one in (ours, peer):
        one.setblocking(False)
        if small:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    return ours, peer


PAIRS = pytest.mark.parametrize("pair", [unix_pair, tcp_pair])


async def read(peer: socket.socket, size: int) -> bytes:
    """Read exactly *size* bytes."""
    got = bytearray()
    async with asyncio.timeout(PATIENCE_S):
        while len(got) < size:
            part = await asyncio.get_running_loop().sock_recv(peer, size - len(got))
            assert part, f"it ended after {len(got)} bytes"
            got += part
    return bytes(got)


async def read_all(peer: socket.socket) -> bytes:
    """Read until it ends, one way or the other: closing with something unread resets."""
    got = bytearray()
    async with asyncio.timeout(PATIENCE_S):
        try:
            while part := await asyncio.get_running_loop().sock_recv(peer, 65536):
                got += part
        except ConnectionResetError:
            pass
    return bytes(got)


def here(peer: socket.socket) -> bytes:
    """Read what is here already."""
    try:
        return peer.recv(1 << 20)
    except BlockingIOError:
        return b""


def reset(peer: socket.socket) -> None:
    """End a TCP connection without a farewell."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


# -- Writing ---------------------------------------------------------------------------------


async def test_what_is_written_outside_of_a_turn_is_with_the_kernel_at_once() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told)
        told.transport.write(b"a")
        assert here(peer) == b"a"
        told.transport.write(b"b")
        assert here(peer) == b"b"


async def test_all_that_is_written_in_a_turn_goes_out_in_one_call_at_its_end() -> None:
    async with switchboard() as board:

        def answer(data: bytes) -> None:
            for _ in range(3):
                told.transport.write(data)
            assert here(peer) == b""
            board.poller.soon(lambda: told.transport.write(b"soon"))

        told = Told(data_received=answer)
        peer = board.connect(told, record_pair())
        peer.send(b"a")
        await told.until(GOT)
        assert here(peer) == b"aaasoon"


async def test_what_was_to_be_done_soon_has_a_turn_of_its_own_where_none_is_going_on() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, record_pair())

        def first() -> None:
            told.transport.write(b"1")
            board.poller.soon(second)  # not within this one
            told.transport.write(b"2")

        def second() -> None:
            told.transport.write(b"3")
            told.transport.write(b"4")

        await board.in_a_turn(first)
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.get_running_loop().sock_recv(peer, 9) == b"12"
            assert await asyncio.get_running_loop().sock_recv(peer, 9) == b"34"


async def test_more_pieces_than_one_call_takes_arrive_in_order() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told)
        pieces = [b"%d," % number for number in range(PARTS_AT_ONCE * 5 + 1)]
        await board.in_a_turn(lambda: told.transport.write(b"".join(pieces)))
        for piece in pieces:
            told.transport.write(piece)

        def write_each() -> None:
            for piece in pieces:
                told.transport.write(piece)

        await board.in_a_turn(write_each)
        told.transport.close()
        assert await read_all(peer) == b"".join(pieces) * 3


@PAIRS
async def test_what_the_kernel_does_not_take_goes_out_as_the_peer_reads(pair: Any) -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, pair(small=True))
        told.transport.write(b"before")
        told.transport.write(MUCH)
        told.transport.write(b"after")
        assert await read(peer, len(MUCH) + 11) == b"before" + MUCH + b"after"
        await told.until(RESUME)
        assert told.calls == [MADE, PAUSE, RESUME]
        assert told.transport.get_write_buffer_size() == 0
        told.transport.write(b"at once again")
        assert await read(peer, 13) == b"at once again"
        assert await board.turns_while_idle() == 0


async def test_a_protocol_pauses_once_and_resumes_once_however_much_it_writes_meanwhile() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, unix_pair(small=True))
        told.transport.set_write_buffer_limits(1000)
        for _ in range(2):
            for _ in range(10):
                told.transport.write(MUCH[:65536])
            assert len(await read(peer, 655360)) == 655360
            await told.until(RESUME)
            told.heard.remove((RESUME, None))
            assert told.calls == [MADE, PAUSE]
            told.heard.remove((PAUSE, None))


async def test_whoever_resumes_may_write_more_than_fits_and_is_paused_again() -> None:
    async with switchboard() as board:
        more = [MUCH, MUCH]
        told = Told(resume_writing=lambda _: more and told.transport.write(more.pop()))
        peer = board.connect(told)
        told.transport.write(MUCH)
        assert await read(peer, len(MUCH) * 3) == MUCH * 3
        await told.until(RESUME, 3)
        assert told.calls == [MADE] + [PAUSE, RESUME] * 3


@pytest.mark.parametrize("ending", ["close", "write_eof"])
async def test_whoever_resumes_may_write_the_rest_and_end(ending: str) -> None:
    async with switchboard() as board:

        def write_the_rest(_: None) -> None:
            told.transport.write(MUCH)
            getattr(told.transport, ending)()

        told = Told(resume_writing=write_the_rest)
        peer = board.connect(told)
        told.transport.write(MUCH)
        assert await read_all(peer) == MUCH * 2
        peer.close()
        await told.until(LOST)
        assert told.losses == [None]


async def test_below_the_limit_nobody_is_paused_though_something_waits() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, record_pair())
        told.transport.set_write_buffer_limits(100)
        record, count = MUCH[:100], 0
        while not told.transport.get_write_buffer_size():
            told.transport.write(record)
            count += 1
        assert told.calls == [MADE]
        told.transport.write(b"x")
        assert told.calls == [MADE, PAUSE]
        assert len(await read(peer, count * 100 + 1)) == count * 100 + 1


async def test_many_small_writes_to_a_peer_that_does_not_read_are_kept_in_few_pieces() -> None:
    """A three-byte answer for each of a million pings would otherwise cost fifty bytes."""
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told)
        told.transport.write(MUCH)
        small = [b"%d," % number for number in range(20_000)]
        for one in small:
            told.transport.write(one)
        assert len(told.transport._waiting) <= 3
        told.transport.close()
        assert await read_all(peer) == MUCH + b"".join(small)


@pytest.mark.interpreted
async def test_the_kernel_is_not_asked_again_for_a_peer_that_is_known_not_to_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Counting(Stream):
        calls = 0

        def send(self) -> None:
            Counting.calls += 1
            super().send()

    monkeypatch.setattr(streams, "Stream", Counting)
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told)
        told.transport.write(MUCH)
        asked = Counting.calls
        for _ in range(100):
            told.transport.write(b"more")
        assert Counting.calls == asked
        told.transport.close()
        assert await read_all(peer) == MUCH + b"more" * 100


# -- Reading ---------------------------------------------------------------------------------


async def test_more_than_one_read_takes_is_all_received() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_sendall(peer, MUCH)
        await told.until_received(MUCH)


async def test_whoever_pauses_reading_hears_nothing_until_it_reads_on() -> None:
    async with switchboard() as board:
        told = Told(data_received=lambda _: told.transport.pause_reading())
        peer = board.connect(told)
        peer.send(b"a")
        await told.until(GOT)
        peer.send(b"b")
        peer.shutdown(socket.SHUT_WR)
        assert not told.transport.is_reading()
        assert await board.turns_while_idle() == 0
        told.transport.resume_reading()
        await told.until(GOT, 2)
        told.transport.resume_reading()
        await told.until(LOST)
        assert [detail for name, detail in told.heard if name == GOT] == [b"a", b"b"]
        assert told.calls == [MADE, GOT, ENDED, LOST]


async def test_a_stream_may_be_read_from_while_it_cannot_be_written_to() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told)
        told.transport.write(MUCH)
        peer.send(b"still here")
        await told.until_received(b"still here")
        assert await read(peer, len(MUCH)) == MUCH


async def test_another_protocol_takes_over_in_the_middle() -> None:
    async with switchboard() as board:
        second = Told()
        first = Told(data_received=lambda _: first.transport.set_protocol(second))
        peer = board.connect(first)
        peer.send(b"for the first")
        await first.until(GOT)
        assert first.transport.get_protocol() is second
        peer.send(b"for the second")
        await second.until(GOT)
        first.transport.write(MUCH)
        assert await read(peer, len(MUCH)) == MUCH
        await second.until(RESUME)
        peer.close()
        await second.until(LOST)
        assert (first.calls, first.received) == ([MADE, GOT], b"for the first")
        assert second.calls == [GOT, PAUSE, RESUME, ENDED, LOST]


async def test_an_error_in_reading_is_what_the_protocol_is_told() -> None:
    async with switchboard() as board:
        told = Told()

        def reset_the_other(_: bytes) -> None:
            assert os.read(told.transport.descriptor, 9) == b"a"
            reset(peer)

        peer_of_first = board.connect(Told(data_received=reset_the_other))
        peer = board.connect(told, tcp_pair())
        peer_of_first.send(b"a")
        peer.send(b"a")  # in the same turn
        await told.until(LOST)
        assert told.calls == [MADE, LOST]
        assert [type(error) for error in told.losses] == [ConnectionResetError]


async def test_nothing_to_read_after_all_is_no_error() -> None:
    async with switchboard() as board:
        told = Told()
        peer_of_first = board.connect(
            Told(data_received=lambda _: os.read(told.transport.descriptor, 9))
        )
        peer = board.connect(told)
        peer_of_first.send(b"a")
        peer.send(b"a")  # in the same turn
        await board.turns_while_idle()
        peer.send(b"b")
        await told.until(GOT)
        assert told.received == b"b"


# -- Half of a connection ----------------------------------------------------------------------


@PAIRS
async def test_a_peer_that_sends_no_more_can_still_be_told_everything(pair: Any) -> None:
    async with switchboard() as board:
        told = Told(eof_received=lambda _: True)
        peer = board.connect(told, pair())
        peer.send(b"the last request")
        peer.shutdown(socket.SHUT_WR)
        await told.until(ENDED)
        told.transport.write(MUCH)
        assert await read(peer, len(MUCH)) == MUCH
        told.transport.write(b"the end")
        told.transport.close()
        assert await read_all(peer) == b"the end"
        await told.until(LOST)
        assert told.calls == [MADE, GOT, ENDED, PAUSE, RESUME, LOST]
        assert told.losses == [None]


@PAIRS
async def test_a_peer_that_is_told_no_more_can_still_say_everything(pair: Any) -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, pair())
        told.transport.write(MUCH)
        told.transport.write_eof()
        told.transport.write(b"too late")
        assert await read_all(peer) == MUCH
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_sendall(peer, MUCH)
        peer.shutdown(socket.SHUT_WR)
        await told.until(LOST)
        assert told.received == MUCH
        assert told.calls == [MADE, PAUSE, RESUME, GOT, ENDED, LOST]
        assert told.losses == [None]


async def test_an_end_that_is_said_in_a_turn_comes_after_what_was_written_in_it() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, record_pair())

        def say() -> None:
            told.transport.write(b"a")
            told.transport.write_eof()
            told.transport.write(b"b")

        await board.in_a_turn(say)
        assert await read_all(peer) == b"a"
        assert not told.transport.is_closing()


# -- Ending ------------------------------------------------------------------------------------


@PAIRS
async def test_whoever_closes_has_said_all_that_was_written_before(pair: Any) -> None:
    async with switchboard() as board:
        told = Told(data_received=lambda _: say_and_close())
        peer = board.connect(told, pair(small=True))

        def say_and_close() -> None:
            told.transport.write(MUCH)
            told.transport.write(b"the end")
            told.transport.close()
            told.transport.close()
            told.transport.write(b"too late")
            assert told.transport.is_closing()

        peer.send(b"a")
        assert await read_all(peer) == MUCH + b"the end"
        await told.until(LOST)
        assert told.losses == [None]


async def test_who_is_closed_hears_nothing_more_that_the_peer_says() -> None:
    async with switchboard() as board:
        told = Told(data_received=lambda _: told.transport.close())
        peer = board.connect(told)
        told.transport.write(MUCH)
        peer.send(b"a")
        await told.until(GOT)
        peer.send(b"b")
        told.transport.resume_reading()  # changes nothing
        assert await read(peer, len(MUCH)) == MUCH
        await told.until(LOST)
        assert told.received == b"a"


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_a_protocol_hears_of_its_end_on_a_later_turn_and_once(ending: str) -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told)
        getattr(told.transport, ending)()
        assert told.transport.is_closing()
        assert told.calls == [MADE]
        told.transport.abort()
        told.transport.close()
        told.transport.write(b"too late")
        told.transport.write_eof()
        told.transport.pause_reading()
        await told.until(LOST)
        told.transport.abort()
        assert await read_all(peer) == b""
        assert await board.turns_while_idle() == 0
        assert told.losses == [None]


async def test_aborting_drops_what_waits() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told)
        told.transport.write(MUCH)
        told.transport.abort()
        assert told.transport.get_write_buffer_size() == 0
        await told.until(LOST)
        assert MUCH.startswith(got := await read_all(peer))
        assert len(got) < len(MUCH)
        assert told.calls == [MADE, PAUSE, LOST]


async def test_whoever_is_cut_off_by_another_in_the_same_turn_hears_only_that() -> None:
    async with switchboard() as board:
        cut, bystander = Told(), Told()
        given: list[int] = []

        def cut_off(_: bytes) -> None:
            descriptor = cut.transport.descriptor
            cut.transport.write(b"too late")
            cut.transport.abort()
            given.append(os.dup(0))
            # Its number is not given to anybody while the turn goes on.
            assert given[0] != descriptor
            os.close(given[0])

        cutting = Told(data_received=cut_off)
        peers = [board.connect(one) for one in (cutting, cut, bystander)]
        for peer in peers:
            peer.send(b"a")  # three in one turn, in this order
        await bystander.until(GOT)
        await cut.until(LOST)
        assert board.poller.turns == 1
        assert cut.calls == [MADE, LOST]
        assert await read_all(peers[1]) == b""


async def test_a_write_to_a_peer_that_is_gone_ends_the_stream_and_raises_nothing() -> None:
    async with switchboard() as board:
        told = Told()
        board.connect(told).close()
        told.transport.write(b"a")
        told.transport.write(b"b")
        told.transport.write_eof()
        assert told.transport.is_closing()
        await told.until(LOST)
        assert [type(error) for error in told.losses] == [BrokenPipeError]


async def test_stopping_cuts_off_whoever_is_left_and_tells_each_once() -> None:
    async with switchboard() as board:
        alive, full, closing, aborted = (Told() for _ in range(4))
        peers = [board.connect(one) for one in (alive, full, closing, aborted)]
        for one in (full, closing):
            one.transport.write(MUCH)
        closing.transport.close()
        aborted.transport.abort()
        poller = board.poller
        poller.stop()
        for one, peer in zip((alive, full, closing, aborted), peers, strict=True):
            assert one.losses == [None]
            await read_all(peer)
        assert len(poller) == 0
        board.poller = Poller(asyncio.get_running_loop())
        await board.turns_while_idle()
        assert {len(one.losses) for one in (alive, full, closing, aborted)} == {1}


async def test_whoever_is_gone_has_no_address_though_its_number_is_anothers() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, tcp_pair())
        assert told.transport.get_extra_info("peername") == peer.getsockname()
        assert told.transport.get_extra_info("sockname") == peer.getpeername()
        assert told.transport.get_extra_info("cipher", "none") == "none"
        descriptor = told.transport.descriptor
        told.transport.abort()
        await told.until(LOST)
        ours, peer = tcp_pair()
        board.peers += (ours, peer)
        assert descriptor in {ours.fileno(), peer.fileno()}
        assert told.transport.get_extra_info("peername") is None
        assert told.transport.get_extra_info("sockname", "gone") == "gone"


# -- Nothing spins -----------------------------------------------------------------------------


async def test_a_reset_is_noticed_once_though_reading_is_paused() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, tcp_pair())
        told.transport.pause_reading()
        assert await board.turns_while_idle() == 0
        reset(peer)
        await told.until(LOST)
        assert await board.turns_while_idle() == 0
        assert board.poller.turns == 1
        assert [type(error) for error in told.losses] == [ConnectionResetError]


async def test_a_local_peer_that_goes_is_noticed_once_though_reading_is_paused() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, unix_pair())
        told.transport.pause_reading()
        peer.send(b"unread")
        peer.close()
        await told.until(LOST)
        assert await board.turns_while_idle() == 0
        assert board.poller.turns == 1
        assert told.calls == [MADE, LOST]


async def test_a_reset_is_noticed_once_though_what_was_written_waits() -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, tcp_pair(small=True))
        told.transport.write(MUCH)
        told.transport.close()
        assert await board.turns_while_idle() < 10  # what is under way arrives
        before = board.poller.turns
        reset(peer)
        await told.until(LOST)
        await board.turns_while_idle()
        assert board.poller.turns == before + 1
        assert [isinstance(error, OSError) for error in told.losses] == [True]


@PAIRS
async def test_a_half_closed_peer_is_left_alone(pair: Any) -> None:
    async with switchboard() as board:
        told = Told(eof_received=lambda _: True)
        peer = board.connect(told, pair())
        peer.shutdown(socket.SHUT_WR)
        await told.until(ENDED)
        assert await board.turns_while_idle() == 0
        assert board.poller.turns == 1
        assert told.calls == [MADE, ENDED]


@PAIRS
async def test_a_half_closed_stream_is_left_alone(pair: Any) -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, pair())
        told.transport.write_eof()
        assert await read_all(peer) == b""
        assert await board.turns_while_idle() == 0
        told.transport.pause_reading()
        assert await board.turns_while_idle() == 0
        assert told.calls == [MADE]


@PAIRS
async def test_a_peer_that_does_not_read_is_left_alone(pair: Any) -> None:
    async with switchboard() as board:
        told = Told()
        peer = board.connect(told, pair(small=True))
        told.transport.write(MUCH)
        await board.turns_while_idle()  # what is under way arrives
        assert await board.turns_while_idle() == 0
        told.transport.close()
        assert await board.turns_while_idle() == 0
        assert told.calls == [MADE, PAUSE]
        assert await read_all(peer) == MUCH


@PAIRS
async def test_both_directions_may_end_before_the_protocol_closes(pair: Any) -> None:
    async with switchboard() as board:
        told = Told(eof_received=lambda _: True)
        peer = board.connect(told, pair())
        peer.shutdown(socket.SHUT_WR)
        await told.until(ENDED)
        told.transport.write(b"the end")
        told.transport.write_eof()
        assert await read_all(peer) == b"the end"
        await told.until(LOST)
        assert await board.turns_while_idle() == 0
        assert board.poller.turns <= 2
        assert len(told.losses) == 1


@pytest.mark.usefixtures("descriptors")
async def test_more_peers_than_one_turn_takes_are_all_read_in_the_next() -> None:
    async with switchboard(clock=float) as board:  # a turn takes no time
        sent: list[bytes] = []
        some = [Told(data_received=sent.append) for _ in range(AT_ONCE + 44)]
        peers = [board.connect(one) for one in some]
        for peer in peers:
            peer.send(b"a")
        for one in some:
            await one.until(GOT)
        assert board.poller.turns == 2
        assert len(sent) == AT_ONCE + 44
        assert await board.turns_while_idle() == 0


# -- Faults of ours -----------------------------------------------------------------------------


class MistakeError(Exception):
    """A fault in a protocol."""


def mistake(_: object = None) -> None:
    raise MistakeError


def echo() -> Told:
    """A protocol that says what it is told."""

    def answer(data: bytes) -> None:
        told.transport.write(data)

    told = Told(data_received=answer)
    return told


@pytest.mark.parametrize("what", [GOT, ENDED])
async def test_a_fault_in_a_protocol_ends_its_stream_and_no_other(what: str) -> None:
    async with switchboard() as board:
        before, faulty, after = echo(), Told(**{what: mistake}), echo()
        peers = [board.connect(one) for one in (before, faulty, after)]
        for peer in peers:
            peer.send(b"a")
            peer.shutdown(socket.SHUT_WR)
        for one in (before, faulty, after):
            await one.until(LOST)
        assert [await read_all(peer) for peer in peers] == [b"a", b"", b"a"]
        assert [type(error) for error in faulty.losses] == [MistakeError]
        assert before.losses == after.losses == [None]
        board.expect_faults(MistakeError)


async def test_a_fault_in_hearing_of_the_end_is_told_and_no_more() -> None:
    async with switchboard() as board:
        faulty, other = Told(connection_lost=mistake), Told()
        for one in (faulty, other):
            board.connect(one).close()
        await other.until(LOST)
        assert len(faulty.losses) == 1
        board.expect_faults(MistakeError)


async def test_a_fault_in_what_was_to_be_done_soon_leaves_the_rest_to_be_done() -> None:
    async with switchboard() as board:

        def answer(data: bytes) -> None:
            board.poller.soon(mistake)
            board.poller.soon(lambda: told.transport.write(data))

        told = Told(data_received=answer)
        peer = board.connect(told)
        peer.send(b"a")
        assert await read(peer, 1) == b"a"
        board.expect_faults(MistakeError)


async def test_a_fault_in_pausing_at_the_end_of_a_turn_keeps_nothing_from_the_others() -> None:
    async with switchboard() as board:
        faulty, other = Told(pause_writing=mistake), Told()
        board.connect(faulty)
        peer = board.connect(other)
        await board.in_a_turn(lambda: (faulty.transport.write(MUCH), other.transport.write(b"a")))
        assert here(peer) == b"a"
        await faulty.until(LOST)
        board.expect_faults(MistakeError)


async def test_a_fault_in_pausing_is_not_raised_to_whoever_writes() -> None:
    async with switchboard() as board:
        told = Told(pause_writing=mistake)
        board.connect(told)
        told.transport.write(MUCH)
        await told.until(LOST)
        board.expect_faults(MistakeError)


async def test_a_fault_in_resuming_ends_the_stream() -> None:
    async with switchboard() as board:
        told = Told(resume_writing=mistake)
        peer = board.connect(told)
        told.transport.write(MUCH)
        assert await read(peer, len(MUCH) // 2)
        await read_all(peer)
        await told.until(LOST)
        assert [type(error) for error in told.losses] == [MistakeError]
        board.expect_faults(MistakeError)


async def test_a_fault_in_a_protocol_that_begins_ends_its_stream() -> None:
    async with switchboard() as board:
        told = Told(connection_made=mistake)
        peer = board.connect(told)
        await told.until(LOST)
        assert await read_all(peer) == b""
        board.expect_faults(MistakeError)


async def test_what_ends_a_turn_early_holds_up_nobody() -> None:
    async with switchboard() as board:
        done: list[bool] = []

        def be_cancelled(_: bytes) -> None:
            other.transport.write(b"a")
            board.poller.soon(lambda: done.append(True))
            raise asyncio.CancelledError

        told, other = Told(data_received=be_cancelled), Told()
        peers = [board.connect(one) for one in (told, other)]
        peers[0].send(b"a")
        assert await read(peers[1], 1) == b"a"
        assert done == [True]
        other.transport.write(b"b")
        assert here(peers[1]) == b"b"
        assert board.poller.turns == 1
        board.expect_faults(asyncio.CancelledError)


async def test_a_poller_can_be_stopped_by_one_of_its_protocols() -> None:
    async with switchboard() as board:
        poller = board.poller
        stopping, other = Told(data_received=lambda _: poller.stop()), Told()
        for peer in [board.connect(one) for one in (stopping, other)]:
            peer.send(b"a")
        await other.until(LOST)
        board.poller = Poller(asyncio.get_running_loop())
        await board.turns_while_idle()
        assert stopping.calls == [MADE, GOT, LOST]
        assert other.calls == [MADE, LOST]


# -- Arriving --------------------------------------------------------------------------------


@asynccontextmanager
async def listening(
    board: Switchboard, listening_socket: socket.socket | None = None
) -> AsyncIterator[tuple[list[Told], Callable[[], socket.socket]]]:
    """A listener; given are the protocols that it made, and how to come to it."""
    bound = listening_socket or socket.socket()
    bound.bind(("127.0.0.1", 0))
    address = bound.getsockname()
    arrived: list[Told] = []

    def make(_origin: object, _over_capacity: bool) -> Told:
        arrived.append(echo())
        return arrived[-1]

    def come() -> socket.socket:
        peer = socket.create_connection(address, timeout=PATIENCE_S)
        peer.setblocking(False)
        board.peers.append(peer)
        return peer

    room = DescriptorBudget(1 << 20, asyncio.get_running_loop().call_later)
    listener = Listener([ListeningSocket(bound)], make, room, poller=board.poller)
    await listener.begin()
    try:
        yield arrived, come
    finally:
        await listener.end()


async def test_whoever_is_accepted_is_served_without_delay() -> None:
    async with switchboard() as board, listening(board) as (arrived, come):
        peer = come()
        peer.send(b"a")
        assert await read(peer, 1) == b"a"
        descriptor = arrived[0].transport.descriptor
        assert not os.get_blocking(descriptor)
        with socket.socket(fileno=os.dup(descriptor)) as ours:
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_whoever_the_kernel_will_not_watch_is_let_go_and_the_next_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with switchboard() as board, listening(board) as (arrived, come):
        epoll, board.poller._epoll = board.poller._epoll, FullEpoll()  # type: ignore[assignment]
        assert await read_all(come()) == b""
        board.poller._epoll = epoll
        assert arrived[0].calls == []
        assert len(board.poller) == 0
        peer = come()
        peer.send(b"a")
        assert await read(peer, 1) == b"a"
    assert caplog.messages == ["a connection was closed: No space left on device"]


async def test_whoever_left_before_it_was_accepted_keeps_nobody_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with switchboard() as board, listening(board, Deserted()) as (_, come):
        peer = come()
        peer.send(b"a")
        assert await read(peer, 1) == b"a"
    assert caplog.messages == []


async def test_fewer_are_accepted_while_many_who_came_before_have_yet_to_be_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener_module, "ARRIVALS_AT_ONCE", 8)
    monkeypatch.setattr(listener_module, "BUSY_ARRIVALS", 1)
    now = 100.0

    def costs_a_turn(_data: bytes) -> None:
        nonlocal now
        now += TURN_S

    async with switchboard(lambda: now) as board, listening(board) as (arrived, come):
        busy = [Told(data_received=costs_a_turn) for _ in range(30)]
        for one in busy:
            board.connect(one).send(b"a")
        while board.poller.queued < 25:  # noqa: ASYNC110 - it is the loop that turns
            await asyncio.sleep(0)
        peers = [come() for _ in range(8)]
        turns = board.poller.turns
        while board.poller.turns < turns + 4:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        assert 1 <= len(arrived) <= 5, "one in a turn"
        for peer in peers:
            peer.send(b"a")
            assert await read(peer, 1) == b"a"


class FullEpoll:
    """An epoll of a user who has as much watched as may be."""

    def register(self, _descriptor: int, _what: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Deserted(socket.socket):
    """A listening socket whose first client has left already."""

    deserted = False

    def _accept(self) -> tuple[int, Any]:
        if not self.deserted:
            self.deserted = True
            raise ConnectionAbortedError(errno.ECONNABORTED, "gone")
        accepted: tuple[int, Any] = super()._accept()  # type: ignore[misc]  # of the C class
        return accepted


# -- Every order ---------------------------------------------------------------------------------

sizes = st.integers(1, 30_000)
acts = st.one_of(
    st.tuples(st.just("write"), sizes),
    st.tuples(st.just("write in a turn"), st.lists(sizes, min_size=1, max_size=4)),
    st.tuples(st.just("write small pieces in a turn"), st.integers(1, 3 * PARTS_AT_ONCE)),
    st.tuples(st.just("peer reads"), sizes),
    st.tuples(st.just("peer writes"), sizes),
    st.tuples(st.sampled_from(["pause", "resume", "turn"]), st.none()),
)
endings = st.sampled_from(
    ["close", "close in a turn", "write_eof", "peer's end", "abort", "peer goes", "stop"]
)


class Story:
    """Acts upon one stream, and what its peer must have got in the end."""

    def __init__(self, board: Switchboard, *, tcp: bool, limit: int) -> None:
        self.board = board
        self.told = Told()
        self.peer = board.connect(self.told, (tcp_pair if tcp else unix_pair)(small=True))
        self.stream: Stream = self.told.transport
        self.stream.set_write_buffer_limits(limit)
        self.written = bytearray()
        self.got = bytearray()
        self.sent = bytearray()  # by the peer
        self._content = iter(lambda: os.urandom(4096), b"")

    def write(self, *sizes: int) -> None:
        for size in sizes:
            data = (next(self._content) * (size // 4096 + 1))[:size]
            self.written += data
            self.stream.write(data)

    def write_and_close(self) -> None:
        self.write(50_000)
        self.stream.close()

    async def act(self, name: str, detail: Any) -> None:
        if name == "write":
            self.write(detail)
        elif name == "write in a turn":
            await self.board.in_a_turn(lambda: self.write(*detail))
        elif name == "write small pieces in a turn":
            await self.board.in_a_turn(lambda: self.write(*[7] * detail))
        elif name == "peer reads":
            try:
                self.got += self.peer.recv(detail)
            except BlockingIOError:
                pass
        elif name == "peer writes":
            data = os.urandom(detail)
            try:
                self.sent += data[: self.peer.send(data)]
            except BlockingIOError:
                pass
        elif name == "turn":
            await asyncio.sleep(0)
        else:
            getattr(self.stream, f"{name}_reading")()

    async def read_the_rest(self) -> None:
        # Through a small window the kernel passes on no more than 10 KB a second.
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.got += await read_all(self.peer)

    async def end(self, ending: str) -> None:
        """End it, and see that nobody lost what was promised."""
        stream, told, peer = self.stream, self.told, self.peer
        whole = ending in {"close", "close in a turn", "write_eof"}
        if ending == "close":
            stream.close()
        elif ending == "close in a turn":
            await self.board.in_a_turn(self.write_and_close)
        elif ending == "write_eof":
            stream.write_eof()
            await self.read_the_rest()
            peer.shutdown(socket.SHUT_WR)
            stream.resume_reading()
        elif ending == "peer's end":
            peer.shutdown(socket.SHUT_WR)
            stream.resume_reading()
        elif ending == "abort":
            stream.abort()
        elif ending == "peer goes":
            peer.close()
            stream.resume_reading()
            await told.until(LOST)
            return
        else:
            self.board.poller.stop()
            self.board.poller = Poller(asyncio.get_running_loop())
        await self.read_the_rest()
        await told.until(LOST)
        if whole or ending == "peer's end":
            assert self.got == self.written
        assert self.written.startswith(self.got)
        if ending in {"write_eof", "peer's end"}:
            assert told.received == self.sent


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tcp=st.booleans(),
    limit=st.sampled_from([0, 1000, HIGH_BYTES]),
    script=st.lists(acts, max_size=25),
    ending=endings,
)
async def test_the_peer_gets_what_was_written_in_order_and_each_is_told_of_the_end_once(
    tcp: bool, limit: int, script: list[tuple[str, Any]], ending: str
) -> None:
    if ending in {"close", "close in a turn"}:
        # The kernel takes back what is under way when we close with something unread.
        script = [(name, detail) for name, detail in script if name != "peer writes"]
    event(ending)
    async with switchboard() as board:
        story = Story(board, tcp=tcp, limit=limit)
        for name, detail in script:
            await story.act(name, detail)
        await story.end(ending)
        told = story.told
        assert len(told.losses) == 1
        assert told.heard[-1][0] == LOST
        assert story.sent.startswith(told.received)
        paces = [name for name, _ in told.heard if name in {PAUSE, RESUME}]
        assert paces == [PAUSE, RESUME] * (len(paces) // 2) + [PAUSE] * (len(paces) % 2)


# -- As asyncio's own ------------------------------------------------------------------------------


async def echo_until_the_peer_ends(told: Told, peer: socket.socket) -> None:
    told.then[GOT] = told.transport.write
    peer.send(b"abc")
    assert await read(peer, 3) == b"abc"
    peer.shutdown(socket.SHUT_WR)
    assert await read_all(peer) == b""


async def answer_after_the_peer_ended(told: Told, peer: socket.socket) -> None:
    told.then[ENDED] = lambda _: True
    peer.send(b"abc")
    peer.shutdown(socket.SHUT_WR)
    await told.until(ENDED)
    told.transport.write(MUCH)
    assert await read(peer, len(MUCH)) == MUCH
    await told.until(RESUME)
    told.transport.write_eof()
    told.transport.close()
    assert await read_all(peer) == b""


async def end_first_and_hear_what_comes(told: Told, peer: socket.socket) -> None:
    told.transport.write(MUCH)
    told.transport.write_eof()
    assert await read_all(peer) == MUCH
    peer.send(b"abc")
    peer.shutdown(socket.SHUT_WR)


async def close_with_much_unsent(told: Told, peer: socket.socket) -> None:
    told.transport.write(MUCH)
    told.transport.close()
    assert told.transport.is_closing()
    assert await read_all(peer) == MUCH


async def abort_with_much_unsent(told: Told, peer: socket.socket) -> None:
    told.transport.write(MUCH)
    told.transport.abort()
    await told.until(LOST)
    assert len(await read_all(peer)) < len(MUCH)


async def close_on_what_comes(told: Told, peer: socket.socket) -> None:
    told.then[GOT] = lambda data: (told.transport.write(data), told.transport.close())
    peer.send(b"abc")
    assert await read_all(peer) == b"abc"


async def be_reset(told: Told, peer: socket.socket) -> None:
    peer.send(b"abc")
    await told.until(GOT)
    reset(peer)


async def be_reset_after_its_last_words(told: Told, peer: socket.socket) -> None:
    told.transport.write(MUCH)
    for _ in range(100):
        await asyncio.sleep(0)
    peer.send(b"abc")
    reset(peer)


async def pause_and_read_on(told: Told, peer: socket.socket) -> None:
    told.transport.pause_reading()
    assert not told.transport.is_reading()
    peer.send(b"abc")
    peer.shutdown(socket.SHUT_WR)
    for _ in range(10):
        await asyncio.sleep(0)
    assert told.calls == [MADE]
    told.transport.resume_reading()


async def be_told_of_a_limit(told: Told, peer: socket.socket) -> None:
    told.transport.set_write_buffer_limits(1000)
    told.transport.write(MUCH)
    assert await read(peer, len(MUCH)) == MUCH
    await told.until(RESUME)
    assert told.transport.get_write_buffer_size() == 0
    told.transport.close()


SCRIPTS = [
    echo_until_the_peer_ends,
    answer_after_the_peer_ended,
    end_first_and_hear_what_comes,
    close_with_much_unsent,
    abort_with_much_unsent,
    close_on_what_comes,
    be_reset,
    be_reset_after_its_last_words,
    pause_and_read_on,
    be_told_of_a_limit,
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
async def test_a_protocol_cannot_tell_it_from_a_transport_of_the_loop(
    script: Callable[[Told, socket.socket], Awaitable[None]],
) -> None:
    async with switchboard() as board:
        by_us, by_the_loop = Told(), Told()
        peer = board.connect(by_us, tcp_pair())
        await script(by_us, peer)
        await by_us.until(LOST)

        ours, peer = tcp_pair()
        board.peers.append(peer)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: by_the_loop, ours)
        await script(by_the_loop, peer)
        await by_the_loop.until(LOST)

        assert by_us.calls == by_the_loop.calls
        assert by_us.received == by_the_loop.received
        assert [type(one) for one in by_us.losses] == [type(one) for one in by_the_loop.losses]
