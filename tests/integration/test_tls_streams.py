"""TLS over our own streams: what a peer may do, told to the byte by a client in memory."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliograph.net.tls import Certificate
from heliograph.net.tls_streams import RECORD_BYTES, TlsStream
from tests import certificates
from tests.certificates import Pair
from tests.integration.test_streams import (
    ENDED,
    GOT,
    LOST,
    MUCH,
    Switchboard,
    Told,
    switchboard,
)
from tests.integration.test_turns import Clock, until


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return certificates.make(tmp_path_factory.mktemp("tls"), "served")


class Peer:
    """A client whose TLS is done in memory, so that a test has every byte in its hands."""

    def __init__(self, pair: Pair, **limits: ssl.TLSVersion) -> None:
        context = pair.trusting()
        for name, version in limits.items():
            setattr(context, name, version)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.socket: socket.socket

    def flush(self) -> None:
        self.socket.sendall(self.outgoing.read())

    def receive(self) -> bool:
        """Take what has come; return whether anything had."""
        with contextlib.suppress(BlockingIOError):
            data = self.socket.recv(1 << 20)
            if data:
                self.incoming.write(data)
                return True
        return False

    async def shake_hands(self) -> None:
        async def step() -> bool:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                await asyncio.sleep(0)
                self.receive()
                return False
            self.flush()
            return True

        while not await step():
            pass

    def read_now(self) -> bytes:
        read = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while part := self.tls.read(1 << 16):
                read += part
        return read

    async def say(self, data: bytes, told: Told) -> None:
        """Write *data* a little at a time, as the socket takes it."""
        self.tls.write(data)
        while part := self.outgoing.read(5000):
            while part:
                try:
                    part = part[self.socket.send(part) :]
                except BlockingIOError:
                    told.transport.resume_reading()
                    await asyncio.sleep(0)

    async def read(self, size: int) -> bytes:
        read = b""

        def enough() -> bool:
            nonlocal read
            self.receive()
            read += self.read_now()
            return len(read) >= size

        await until(enough)
        return read


@asynccontextmanager
async def connected(
    pair: Pair, told: Told, *, clock: Clock | None = None, **limits: ssl.TLSVersion
) -> AsyncIterator[tuple[Switchboard, Peer]]:
    context = Certificate(str(pair.certificate), str(pair.key)).context
    async with switchboard(clock) if clock else switchboard() as board:
        peer = Peer(pair, **limits)
        stream = TlsStream(context, board.poller, told, *([clock] if clock else []))
        peer.socket = board.connect(stream)  # type: ignore[arg-type]  # as much of one as is asked
        yield board, peer


async def test_both_sides_read_what_the_other_wrote_however_much(pair: Pair) -> None:
    told = Told()
    async with connected(pair, told) as (_, peer):
        await peer.shake_hands()
        much = bytes(range(256)) * 1000
        peer.tls.write(b"hello")
        peer.flush()
        await told.until_received(b"hello")
        told.transport.write(much)
        told.transport.write(memoryview(much)[:100])
        assert await peer.read(len(much) + 100) == much + much[:100]


async def test_what_is_written_before_the_handshake_is_lost_and_harms_nothing(pair: Pair) -> None:
    told = Told(connection_made=lambda _: None)
    async with connected(pair, told) as (_, peer):
        told.transport.write(b"too early")
        await peer.shake_hands()
        await peer.say(b"hello", told)
        await told.until(GOT)
        told.transport.write(b"in time")
        assert await peer.read(7) == b"in time"


async def test_a_peer_that_ends_its_half_is_still_answered(pair: Pair) -> None:
    told = Told(eof_received=lambda _: True)
    async with connected(pair, told) as (_, peer):
        await peer.shake_hands()
        peer.tls.write(b"the last")
        with contextlib.suppress(ssl.SSLError):
            peer.tls.unwrap()
        peer.flush()
        await told.until(ENDED)
        peer.socket.sendall(b"what is not heard any more")
        await until(lambda: not told.transport.stream.has_input())
        assert told.received == b"the last"
        told.transport.write(b"an answer")
        told.transport.close()
        await until(lambda: not peer.receive() and bool(told.losses))
        with contextlib.suppress(ssl.SSLError):
            assert peer.tls.read(100) == b"an answer"
        assert told.calls.count(ENDED) == 1


async def test_closing_says_so_in_tls_before_the_connection_ends(pair: Pair) -> None:
    told = Told()
    async with connected(pair, told) as (_, peer):
        await peer.shake_hands()
        await peer.say(b"hello", told)
        await told.until(GOT)
        told.transport.write(b"bye")
        told.transport.close()
        await told.until(LOST)
        while peer.receive():
            pass
        assert peer.tls.read(3) == b"bye"
        assert peer.tls.read(1) == b"", "a close_notify, not only the end of the connection"


async def test_after_our_end_nothing_is_decrypted(pair: Pair) -> None:
    told = Told()
    async with connected(pair, told, clock=Clock()) as (_, peer):
        await peer.shake_hands()
        await peer.say(b"hello", told)
        await told.until(GOT)
        told.transport.write(b"bye")
        told.transport.write_eof()
        peer.tls.write(b"too late")
        peer.flush()
        peer.socket.sendall(b"nor does nonsense harm")
        peer.socket.shutdown(socket.SHUT_WR)
        await told.until(LOST)
        assert told.received == b"hello"
        assert told.losses == [None]


@pytest.mark.parametrize(
    "nonsense", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", bytes(1000)]
)
async def test_nonsense_instead_of_tls_ends_the_connection_and_says_nothing(
    pair: Pair, nonsense: bytes
) -> None:
    told = Told()
    async with connected(pair, told) as (_, peer):
        peer.socket.sendall(nonsense)
        peer.socket.shutdown(socket.SHUT_WR)
        await told.until(LOST)
        assert told.received == b""


async def test_nonsense_after_the_handshake_ends_the_connection(pair: Pair) -> None:
    told = Told()
    async with connected(pair, told) as (_, peer):
        await peer.shake_hands()
        peer.tls.write(b"sense")
        peer.flush()
        peer.socket.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        await told.until(LOST)
        assert told.received == b"sense"


@pytest.mark.parametrize("last", ["an end", "nonsense"])
async def test_once_a_connection_closes_there_is_no_input_to_be_received(
    pair: Pair, last: str
) -> None:
    told = Told()
    async with connected(pair, told) as (_, peer):
        await peer.shake_hands()
        peer.tls.write(b"sense")
        if last == "an end":
            with contextlib.suppress(ssl.SSLError):
                peer.tls.unwrap()
        told.then[GOT] = lambda _: told.transport.write(MUCH)
        nonsense = b"\x17\x03\x03\x00\x20" + bytes(3 * RECORD_BYTES)
        peer.socket.sendall(peer.outgoing.read() + nonsense)
        await until(lambda: told.transport._closing)
        assert not told.losses, "it waits for its peer to read"
        assert not told.transport.has_input()


async def test_a_peer_cannot_renegotiate(pair: Pair) -> None:
    context = Certificate(str(pair.certificate), str(pair.key)).context
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_records_are_received_in_slices_between_which_others_are_served(pair: Pair) -> None:
    clock = Clock()

    told, beside = Told(), Told()
    async with connected(pair, told, clock=clock) as (board, peer):
        other = board.connect(beside)
        clock.now += 1
        await peer.shake_hands()

        def work(_data: bytes) -> None:
            clock.now += 0.01  # more than a turn
            if len(told.received) == len(record):
                other.send(b"a")

        record = bytes(16 * 1024)
        told.then[GOT] = work
        at: list[int] = []
        beside.then[GOT] = lambda _: at.append(len(told.received))
        for _ in range(4):
            peer.tls.write(record)
        peer.flush()
        await told.until_received(record * 4)
        assert all(len(data) <= len(record) for what, data in told.heard if what == GOT)
        assert at
        assert at[0] <= 2 * len(record)


async def test_a_receiver_that_pauses_is_given_nothing_until_it_resumes(pair: Pair) -> None:
    told = Told()
    told.then[GOT] = lambda _: told.transport.pause_reading()
    async with connected(pair, told) as (board, peer):
        await peer.shake_hands()
        for _ in range(5):
            peer.tls.write(b"x" * 1000)
            peer.flush()
        for number in range(1, 6):
            await told.until(GOT, number)
            assert await board.turns_while_idle() == 0
            assert len(told.received) == 1000 * number
            assert told.transport.has_input() is (number < 5)
            told.transport.resume_reading()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    acts=st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(1, 40_000)),
            st.tuples(st.just("write"), st.integers(1, 40_000)),
            st.tuples(st.sampled_from(["pause", "resume", "turn"]), st.just(0)),
        ),
        max_size=25,
    ),
    slow=st.booleans(),
    version=st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]),
)
def test_whatever_the_order_both_sides_read_all_that_was_written(
    pair: Pair, acts: list[tuple[str, int]], slow: bool, version: ssl.TLSVersion
) -> None:
    async def story() -> None:
        clock = Clock() if slow else None
        told = Told()
        if clock is not None:
            told.then[GOT] = lambda _: setattr(clock, "now", clock.now + 0.01)
        limits = {"minimum_version": version, "maximum_version": version}
        async with connected(pair, told, clock=clock, **limits) as (_, peer):
            await peer.shake_hands()
            await peer.say(b"hello", told)
            await told.until(GOT)
            sent, written, read = b"hello", b"", b""
            for act, size in acts:
                data = bytes([size % 251]) * size
                if act == "send":
                    await peer.say(data, told)
                    sent += data
                elif act == "write":
                    told.transport.write(data)
                    written += data
                elif act == "turn":
                    await asyncio.sleep(0)
                    peer.receive()
                    read += peer.read_now()
                else:
                    getattr(told.transport, f"{act}_reading")()
            told.transport.resume_reading()
            await told.until_received(sent)
            read += await peer.read(len(written) - len(read))
            assert read == written

    asyncio.run(story())
