"""Where the server listens: addresses, Unix sockets, behind a proxy, on what systemd passes on."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from heliograph.config.load import make_config
from heliograph.errors import ConfigError
from heliograph.net import systemd
from heliograph.net.sockets import ListeningSocket
from heliograph.server import Server
from tests import certificates
from tests.integration.rig import (
    APP_ID,
    KEY,
    PATIENCE_S,
    SECRET,
    SINGLE_APP,
    Reply,
    Rig,
    parse,
    serving,
)
from tests.integration.test_http import HEALTH, UPGRADE, wire
from tests.unit.test_proxy import ADDITIONS, OF_V4, OF_V6, header

ONCE = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def ask(sock: socket.socket, address: Any, request: bytes = ONCE) -> Reply:
    """Make one request of *address*, through a socket of its kind."""
    sock.setblocking(False)
    async with asyncio.timeout(PATIENCE_S):
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return parse(answer)


# -- Addresses -------------------------------------------------------------------------------


async def test_it_listens_on_several_addresses(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(host="127.0.0.1, 127.0.0.2,::1") as rig:
        port = rig.server.port
        for address in (("127.0.0.1", port), ("127.0.0.2", port)):
            assert (await ask(socket.socket(), address)).status == 200
        assert (await ask(socket.socket(socket.AF_INET6), ("::1", port))).status == 200
        with pytest.raises(ConnectionRefusedError):
            await ask(socket.socket(), ("127.0.0.3", port))
        assert rig.server.urls == [
            f"http://127.0.0.1:{port}",
            f"http://127.0.0.2:{port}",
            f"http://[::1]:{port}",
        ]
    assert not caplog.text


async def test_an_address_that_two_names_share_is_bound_once() -> None:
    async with serving(host="127.0.0.1,localhost") as rig:
        assert (await rig.fetch("GET", "/health")).status == 200


async def test_a_server_binds_all_of_its_addresses_or_none() -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port \(.*\): cannot listen on 127.0.0.2:{port}"):
            async with serving(host="127.0.0.1,127.0.0.2", port=port):
                pass
        with socket.create_server(("127.0.0.1", port)):
            pass


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
async def test_an_address_that_cannot_be_is_said(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"--host \(.*\): .*'{host}'"):
        async with serving(host=host):
            pass


async def test_servers_share_a_port_only_if_both_have_reuse_port() -> None:
    async with serving(reuse_port=True) as rig:
        port = rig.server.port
        async with serving(reuse_port=True, port=port) as other:
            assert other.server.port == port
        with pytest.raises(ConfigError, match="Address already in use"):
            async with serving(port=port):
                pass
    async with serving() as rig:
        with pytest.raises(ConfigError, match="Address already in use"):
            async with serving(reuse_port=True, port=rig.server.port):
                pass


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- A Unix socket ---------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "h.sock"


async def test_a_unix_socket_serves_and_is_removed_at_the_end(path: Path) -> None:
    async with serving(unix_socket=str(path)) as rig:
        assert (await ask(socket.socket(socket.AF_UNIX), str(path))).status == 200
        assert mode_of(path) == 0o660
        assert rig.server.urls[-1] == f"http://unix:{path}:"
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(UPGRADE)
            await reader.readuntil(b"connection_established")
            writer.close()
    assert list(path.parent.iterdir()) == []


async def test_the_permissions_of_a_unix_socket_can_be_set(path: Path) -> None:
    async with serving(unix_socket=str(path), unix_socket_mode="0606"):
        assert mode_of(path) == 0o606


async def test_a_unix_socket_that_answers_is_in_use(path: Path) -> None:
    async with serving(unix_socket=str(path)):
        with pytest.raises(ConfigError, match=r"--unix_socket \(.*\): .*h.sock is in use"):
            async with serving(unix_socket=str(path)):
                pass
        assert (await ask(socket.socket(socket.AF_UNIX), str(path))).status == 200


async def test_a_unix_socket_that_is_full_is_in_use(path: Path) -> None:
    """Nobody accepts, and there is no room to wait: that is no reason to take its place."""
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waits:
        busy.bind(str(path))
        busy.listen(0)
        waits.connect(str(path))
        with pytest.raises(ConfigError, match="is in use"):
            async with serving(unix_socket=str(path)):
                pass


async def test_a_stale_unix_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with serving(unix_socket=str(path)):
        assert (await ask(socket.socket(socket.AF_UNIX), str(path))).status == 200


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("file", "the file exists and is not a socket"), ("nothing", "No such file")],
)
async def test_a_file_that_is_no_unix_socket_stays(path: Path, kind: str, reason: str) -> None:
    path = obstruct(path) if kind == "file" else path / "below"
    with pytest.raises(ConfigError, match=reason):
        async with serving(unix_socket=str(path)):
            pass
    if kind == "file":
        assert is_obstructed(path)


def obstruct(path: Path) -> Path:
    path.write_text("precious")
    return path


def is_obstructed(path: Path) -> bool:
    return path.read_text() == "precious"


async def test_a_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--unix_socket .*too long"):
        async with serving(unix_socket=str(tmp_path / ("x" * 120))):
            pass


async def test_a_server_that_shares_takes_a_unix_socket_over(path: Path) -> None:
    """The one before it ends without taking the path along."""
    async with serving(unix_socket=str(path), reuse_port=True) as new:
        old = Server(new.server.config)
        await old.start()
        await new.server.stop()
        assert (await ask(socket.socket(socket.AF_UNIX), str(path))).status == 200
        await old.stop()
    assert list(path.parent.iterdir()) == []


async def test_a_unix_socket_serves_what_the_main_port_does(path: Path) -> None:
    """With a port of its own, the API is for whoever reaches that port."""
    async with serving(unix_socket=str(path), pusher_api_port=0) as rig:
        target = rig.signed("GET", f"/apps/{APP_ID}/channels")
        request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        assert (await ask(socket.socket(socket.AF_UNIX), str(path), request)).status == 404
        assert (await rig.fetch("GET", target)).status == 200


async def test_a_unix_socket_is_cleartext_where_the_port_has_tls(
    path: Path, tmp_path: Path
) -> None:
    pair = certificates.make(tmp_path, "c")
    async with serving(unix_socket=str(path), **pair.options) as rig:
        assert (await ask(socket.socket(socket.AF_UNIX), str(path))).status == 200
        assert [url.partition("://")[0] for url in rig.server.urls] == ["https", "http"]


# -- Behind a proxy --------------------------------------------------------------------------


COUNTING = {"proxy_protocol": True, "max_connections_per_ip": 100}


async def proxied_address(rig: Rig, first: bytes) -> str:
    """Return the address that a connection is counted by; empty where it is not."""
    async with wire(rig) as one:
        await one.send(first + HEALTH)
        await one.read_until(b"OK\n")
        (connection,) = rig.server.context.http_connections
        assert connection.origin is not None
        address: str = connection.origin.key
    async with asyncio.timeout(PATIENCE_S):
        while rig.server.context.http_connections:  # noqa: ASYNC110 - it notices by itself
            await asyncio.sleep(0)
    return address


@pytest.mark.parametrize(
    ("first", "address"),
    [
        (header(OF_V4 + ADDITIONS), "192.0.2.1"),
        (header(OF_V6, family=0x21), "2001:db8::/64"),
        (header(b"", command=0x20, family=0), ""),
    ],
)
async def test_a_proxy_header_has_the_address_of_the_client(
    first: tuple[bytes, bytes], address: str
) -> None:
    async with serving(**COUNTING) as rig:
        assert await proxied_address(rig, b"".join(first)) == address


async def test_clients_are_counted_by_the_address_in_the_proxy_header() -> None:
    async with serving(proxy_protocol=True, max_connections_per_ip=1) as rig:
        async with wire(rig) as first, wire(rig) as second, wire(rig) as third:
            await first.send(b"".join(header(OF_V4)) + UPGRADE)
            await first.read_until(b"connection_established")
            await second.send(b"".join(header(OF_V4)) + UPGRADE)
            await second.read_until(b'"code":4100')
            await third.send(b"".join(header(OF_V6, family=0x21)) + UPGRADE)
            await third.read_until(b"connection_established")


async def test_a_websocket_comes_through_a_proxy_byte_by_byte() -> None:
    async with serving(proxy_protocol=True) as rig, wire(rig) as one:
        for byte in b"".join(header(OF_V4)) + UPGRADE:
            await one.send(bytes([byte]))
            await asyncio.sleep(0)
        await one.read_until(b"connection_established")


async def test_a_connection_without_a_proxy_header_gets_no_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(**COUNTING, request_timeout=0.3) as rig:
        for words in (HEALTH, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + HEALTH, header(b"")[0]):
            async with wire(rig) as one:
                await one.send(words)
                try:
                    assert await one.read_all() == b""
                except ConnectionResetError:
                    pass  # closed with bytes unread
        # However many come, they do not fill the log.
        assert caplog.text.count("does not begin with a PROXY header") == 1
        async with wire(rig) as silent:
            assert await silent.read_all() == b""
        assert await proxied_address(rig, b"".join(header(OF_V4))) == "192.0.2.1"


async def test_a_proxy_may_pass_tls_on(tmp_path: Path) -> None:
    """The header comes first, in plain text; the handshake follows, maybe with the same bytes."""
    pair = certificates.make(tmp_path, "c")
    async with serving(**COUNTING, **pair.options) as rig:
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", rig.server.port))
        sock.send(b"".join(header(OF_V4)))
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=pair.trusting(), server_hostname="localhost"
            )
            writer.write(HEALTH)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        (connection,) = rig.server.context.http_connections
        assert connection.origin is not None
        assert connection.origin.key == "192.0.2.1"
        writer.transport.abort()


async def test_a_full_process_accepts_again_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a proxy we accept by hand: no descriptor left means a pause, not an end."""
    monkeypatch.setattr("heliograph.net.listener.FULL_PAUSE_S", 0.01)
    async with serving(**COUNTING) as rig:
        loop = asyncio.get_running_loop()
        accept = loop.sock_accept
        failures = 0

        async def full(sock: socket.socket) -> Any:
            nonlocal failures
            if failures < 3:
                failures += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return await accept(sock)

        listener = rig.server._listeners[0]
        (place,) = listener._sockets
        for task in listener._accepting:
            task.cancel()
        patched = _Patched(loop, full)
        monkeypatch.setattr("heliograph.net.listener.asyncio.get_running_loop", lambda: patched)
        listener._accepting = [loop.create_task(listener._accept(place))]
        assert await proxied_address(rig, b"".join(header(OF_V4))) == "192.0.2.1"
        assert failures == 3
        assert caplog.text.count("connections cannot be accepted: Too many open files") == 1


class _Patched:
    """An event loop with another way to accept."""

    def __init__(self, loop: asyncio.AbstractEventLoop, accept: Any) -> None:
        self._loop = loop
        self.sock_accept = accept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


# -- systemd ---------------------------------------------------------------------------------


@asynccontextmanager
async def passed_on(*named: tuple[str, socket.socket]) -> AsyncIterator[Server]:
    """Run a server on sockets that somebody else bound."""
    # Port 1 would need permissions that tests do not have.
    config = make_config(**SINGLE_APP, port=1, shutdown_timeout=0)
    places = [(name, ListeningSocket(one, kept=True)) for name, one in named]
    server = Server(config, passed=places)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_passed_sockets_are_served_and_left_to_their_owner(path: Path) -> None:
    """Who comes between two servers waits for the next one."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        for _ in range(2):
            waiting = asyncio.create_task(ask(socket.socket(), tcp.getsockname()))
            await asyncio.sleep(0)
            async with passed_on(("", tcp.dup()), ("", unix.dup())) as server:
                assert server.port == tcp.getsockname()[1]
                assert (await waiting).status == 200
                assert (await ask(socket.socket(socket.AF_UNIX), str(path))).status == 200
        assert list(path.parent.iterdir()) == [path]


async def test_a_passed_socket_can_be_for_the_api_alone() -> None:
    target = Rig.signed(Rig.__new__(_Signing), "GET", f"/apps/{APP_ID}/channels")
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as main, socket.create_server(("", 0)) as api:
        addresses = (("127.0.0.1", one.getsockname()[1]) for one in (main, api))
        async with passed_on(("web", main.dup()), ("api", api.dup())):
            replies = [await ask(socket.socket(), one, request) for one in addresses]
        assert [reply.status for reply in replies] == [404, 200]


class _Signing(Rig):
    app_id, key, secret = APP_ID, KEY, SECRET


def test_descriptors_for_another_process_are_not_ours() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "PATH": "p"}
    assert systemd.inherited(environ) == []
    assert environ == {"PATH": "p"}


def test_without_systemd_nothing_is_passed_or_told() -> None:
    assert systemd.inherited({}) == []
    systemd.Notifier({}).ready()


def passed_to_us() -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}


def test_a_passed_descriptor_must_be_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", os.dup(datagrams.fileno()))
        with pytest.raises(ConfigError, match="is not a stream socket"):
            systemd.inherited(passed_to_us())
    reader, writer = os.pipe()
    os.close(writer)
    monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", reader)
    with pytest.raises(ConfigError, match="is not a socket"):
        systemd.inherited(passed_to_us())
    os.close(reader)


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_notified(path: Path, abstract: bool) -> None:
    name = f"\0heliograph-{os.getpid()}" if abstract else str(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(PATIENCE_S)
        notifier = systemd.Notifier({"NOTIFY_SOCKET": name.replace("\0", "@")})
        notifier.ready()
        notifier.reloading(2.5)
        notifier.stopping(23)
        assert [manager.recv(100) for _ in range(3)] == [
            b"READY=1",
            b"RELOADING=1\nMONOTONIC_USEC=2500000",
            b"STOPPING=1\nEXTEND_TIMEOUT_USEC=23000000",
        ]


def test_a_service_manager_that_is_away_is_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    systemd.Notifier({"NOTIFY_SOCKET": str(path)}).ready()
    assert "NOTIFY_SOCKET: READY cannot be sent to the service manager: No such file" in caplog.text
