"""
Every beginning has a deadline: a client that does not go on is disconnected within
`--request_timeout`, with an answer where a request had begun, and without one where none had.
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from heliograph.net import http
from tests import certificates
from tests.certificates import Pair
from tests.integration.rig import PATIENCE_S, Rig, serving
from tests.integration.test_deploys import SUBSCRIBE, masked
from tests.integration.test_http import HEALTH, UPGRADE
from tests.integration.test_streams import SMALL
from tests.integration.test_turns import until
from tests.unit.test_proxy import OF_V4, header

TIMEOUT_S = 0.3
TOLERANCE_S = 1.5
"""For the timer wheel, which looks four times a second, and for a machine that is busy."""

TRICKLE_S = 0.05
PATH = b"/apps/3/events"
BODY = b"POST /apps/3/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = b"POST /apps/3/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n"
PROXY = b"".join(header(OF_V4))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return certificates.make(tmp_path_factory.mktemp("tls"), "served")


@asynccontextmanager
async def connected(rig: Rig) -> AsyncIterator[socket.socket]:
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", rig.server.port))
        yield sock


async def last_words(sock: socket.socket, at_once: bytes, trickled: bytes = b"") -> bytes:
    """
    Send something *at_once* and the rest byte by byte; return what the server sends until it ends.

    It must end in time, and not before.
    """
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    await loop.sock_sendall(sock, at_once)
    sending = asyncio.create_task(_trickle(sock, trickled))
    received = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while part := await loop.sock_recv(sock, 4096):
                received += part
    except ConnectionError:
        pass  # closed with bytes unread
    lasted = time.monotonic() - began
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert TIMEOUT_S * 0.9 <= lasted <= TIMEOUT_S + TOLERANCE_S
    return received


async def _trickle(sock: socket.socket, data: bytes) -> None:
    for byte in data:
        await asyncio.sleep(TRICKLE_S)
        await asyncio.get_running_loop().sock_sendall(sock, bytes([byte]))


def client_hello(pair: Pair) -> bytes:
    """Return the first flight of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = pair.trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("at_once", "trickled", "answer"),
    [
        (b"", b"", b""),
        (b"", HEALTH * 9, b"HTTP/1.1 408 "),
        (HEALTH[:20], b"", b"HTTP/1.1 408 "),
        (HEALTH[:-2], b"X" * 999, b"HTTP/1.1 408 "),
        (UPGRADE[:-2], b"", b"HTTP/1.1 408 "),
        (BODY, b"", b"HTTP/1.1 408 "),
        (BODY, b"{" * 999, b"HTTP/1.1 408 "),
        (CHUNKED, b"{" * 999, b"HTTP/1.1 408 "),
    ],
    ids=[
        *("silent", "head trickles", "head stops", "headers trickle", "handshake stops"),
        *("body does not come", "body trickles", "chunk trickles"),
    ],
)
async def test_a_request_that_does_not_end_has_a_deadline(
    at_once: bytes, trickled: bytes, answer: bytes
) -> None:
    """408 where a request has begun, however slowly it goes on; nothing where none has."""
    if at_once == b"" and trickled:
        trickled = b"GET /a-path-that-is-longer-than-the-deadline"
    async with serving(request_timeout=TIMEOUT_S) as rig:
        async with connected(rig) as sock:
            words = await last_words(sock, signed(rig, at_once), trickled)
        assert words[: len(answer)] == answer
        assert bool(words) == bool(answer)
        await nobody_is_left(rig)


def signed(rig: Rig, request: bytes) -> bytes:
    """Sign *request*, for only then is its body waited for."""
    return request.replace(PATH, rig.signed("POST", PATH.decode(), b"x").encode())


async def nobody_is_left(rig: Rig) -> None:
    async with asyncio.timeout(PATIENCE_S):  # a refused client has two seconds to read why
        while rig.server.context.http_connections:  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.02)
    assert len(rig.server.context.wheel) == 0


async def test_a_second_request_that_trickles_has_a_deadline_of_its_own() -> None:
    """From when it begins, not from when the connection did or the last answer was sent."""
    async with serving(request_timeout=TIMEOUT_S) as rig, connected(rig) as sock:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            await loop.sock_sendall(sock, HEALTH)
            assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.6 * TIMEOUT_S)
        words = await last_words(sock, b"G", b"ET /a-path-that-is-longer-than-the-deadline")
        assert words.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("at_once", "trickled"),
    [(b"", b""), (b"", PROXY), (PROXY[:12], b""), (PROXY[:16], PROXY[16:]), (PROXY[:-1], b"")],
    ids=["silent", "trickles", "head stops", "rest trickles", "rest stops"],
)
async def test_a_proxy_header_that_does_not_end_has_a_deadline(
    at_once: bytes, trickled: bytes
) -> None:
    """There is nothing to answer: it is the balancer's."""
    async with (
        serving(request_timeout=TIMEOUT_S, proxy_protocol=True) as rig,
        connected(rig) as sock,
    ):
        assert await last_words(sock, at_once, trickled) == b""
        assert not rig.server._listeners[0]._arriving


@pytest.mark.parametrize(
    ("after", "trickled", "answer"), [(b"", b"", b""), (HEALTH[:9], b"X" * 99, b"HTTP/1.1 408 ")]
)
async def test_behind_a_balancer_a_request_has_its_deadline_too(
    after: bytes, trickled: bytes, answer: bytes
) -> None:
    async with (
        serving(request_timeout=TIMEOUT_S, proxy_protocol=True) as rig,
        connected(rig) as sock,
    ):
        words = await last_words(sock, PROXY + after, trickled)
        assert words[: len(answer)] == answer
        assert bool(words) == bool(answer)


@pytest.mark.parametrize("form", ["silent", "begun", "trickles", "half done"])
@pytest.mark.parametrize("proxied", [False, True], ids=["", "behind a balancer"])
async def test_a_tls_handshake_that_does_not_end_has_a_deadline(
    pair: Pair, form: str, proxied: bool
) -> None:
    """Whether it does not begin, stops within the client's first flight, or after ours."""
    hello = client_hello(pair)
    at_once, trickled = {
        "silent": (b"", b""),
        "begun": (hello[:40], b""),
        "trickles": (hello[:40], hello[40:]),
        "half done": (hello, b""),
    }[form]
    options = {**pair.options, "proxy_protocol": proxied, "request_timeout": TIMEOUT_S}
    async with serving(**options) as rig:
        async with connected(rig) as sock:
            words = await last_words(sock, PROXY * proxied + at_once, trickled)
        assert b"HTTP" not in words
        if form == "half done":
            assert words[:1] == b"\x16"  # our flight, to which the client did not answer
        await nobody_is_left(rig)


@pytest.mark.parametrize(
    ("at_once", "trickled", "answer"),
    [
        (b"", b"", b""),
        (HEALTH[:11], b"X" * 999, b"HTTP/1.1 408 "),
        (BODY, b"{" * 999, b"HTTP/1.1 408 "),
    ],
    ids=["silent", "head trickles", "body trickles"],
)
async def test_a_request_through_tls_that_does_not_end_has_a_deadline(
    pair: Pair, at_once: bytes, trickled: bytes, answer: bytes
) -> None:
    async with serving(request_timeout=TIMEOUT_S, **pair.options) as rig:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", rig.server.port, ssl=pair.trusting(), server_hostname="localhost"
        )
        writer.write(signed(rig, at_once))

        async def trickle() -> None:
            for byte in trickled:
                await asyncio.sleep(TRICKLE_S)
                writer.write(bytes([byte]))

        sending = asyncio.create_task(trickle())
        async with asyncio.timeout(PATIENCE_S):
            words = await reader.read()
        lasted = time.monotonic() - began
        sending.cancel()
        writer.transport.abort()
        assert words[: len(answer)] == answer
        assert bool(words) == bool(answer)
        assert TIMEOUT_S * 0.9 <= lasted <= TIMEOUT_S + TOLERANCE_S


async def test_silent_connections_of_every_kind_end_together(tmp_path: Path) -> None:
    """However many there are, and beside clients that are served meanwhile."""
    path = str(tmp_path / "socket")
    async with serving(request_timeout=TIMEOUT_S, unix_socket=path) as rig, rig.client() as client:
        began = time.monotonic()
        pairs = [await asyncio.open_connection("127.0.0.1", rig.server.port) for _ in range(100)]
        pairs += [await asyncio.open_unix_connection(path) for _ in range(100)]
        async with asyncio.timeout(PATIENCE_S):
            ends = await asyncio.gather(*(reader.read() for reader, _ in pairs))
        assert set(ends) == {b""}
        assert time.monotonic() - began <= TIMEOUT_S + TOLERANCE_S
        for _, writer in pairs:
            writer.close()
        await client.expect_nothing_before_pong()


async def test_a_client_that_ends_its_half_and_reads_no_more_is_not_kept() -> None:
    """It owes a pong. Its end, which is never read, once was taken for input that may be one."""
    async with serving(ping_interval=0.3, pong_timeout=0.3) as rig:
        loop = asyncio.get_running_loop()
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            peer.connect(("127.0.0.1", rig.server.port))
            peer.setblocking(False)
            await loop.sock_sendall(peer, UPGRADE + masked(1, SUBSCRIBE))
            poller = rig.server._poller
            assert poller is not None
            async with asyncio.timeout(PATIENCE_S):
                await until(lambda: len(poller) == 1)
                (stream,) = poller._streams.values()
                with socket.socket(fileno=os.dup(stream.descriptor)) as ours:
                    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
                while not stream.get_write_buffer_size():
                    await rig.publish("n", "c", "x" * 2000)
                most = rig.server.config.connections.max_write_buffer
                assert stream.get_write_buffer_size() < most
                peer.shutdown(socket.SHUT_WR)
                while rig.server.node.sessions():  # noqa: ASYNC110 - it takes two seconds
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize("headers", ["", "Connection: close\r\n"], ids=["kept", "closed"])
async def test_an_answer_has_as_long_to_be_read_on_a_connection_that_closes_after_it(
    monkeypatch: pytest.MonkeyPatch, headers: str
) -> None:
    """It was cut off 2 s after it was written."""
    monkeypatch.setattr(http, "LINGER_S", 0.1)
    async with serving(max_subscriptions=2000) as rig, rig.client() as client:
        names = [f"{number:04}{'x' * 150}" for number in range(1000)]
        for name in names:
            await client.subscribe(name)
        target = rig.signed("GET", "/apps/3/channels")
        loop = asyncio.get_running_loop()
        poller = rig.server._poller
        assert poller is not None
        before = set(poller._streams)
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            peer.connect(("127.0.0.1", rig.server.port))
            peer.setblocking(False)
            await until(lambda: len(poller) == 2)
            (descriptor,) = set(poller._streams) - before
            with socket.socket(fileno=os.dup(descriptor)) as ours:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
            request = f"GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"
            await loop.sock_sendall(peer, request.encode())
            await asyncio.sleep(1)  # longer than LINGER_S and a slot of the wheel or two
            answer = b""
            async with asyncio.timeout(PATIENCE_S):
                while not answer.endswith(b"}}}"):
                    part = await loop.sock_recv(peer, 1 << 16)
                    assert part, "the answer is not complete"
                    answer += part
        assert all(name.encode() in answer for name in names)
