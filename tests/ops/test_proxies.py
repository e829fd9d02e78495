"""The configurations that we give away for the proxies in front of us, in these proxies."""

import asyncio
import os
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from heliograph.client.listener import Listener
from heliograph.client.publisher import Publisher
from tests.integration.rig import APP, APP_ID, KEY, PATIENCE_S, Client, parse, serving

OPS = Path(__file__).parents[2] / "ops"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    key, chain = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "both.pem").write_text(chain.read_text() + key.read_text())
    return folder


def replaced(name: str, *pairs: tuple[str, str]) -> str:
    """Return a file of ops/ with the addresses and files of a test, and nothing else changed."""
    text = (OPS / name).read_text()
    for given, ours in pairs:
        assert given in text
        text = text.replace(given, ours)
    return text


def for_nginx(
    folder: Path, certificate: Path, port: int, server_port: int, settings: str = "events {}"
) -> str:
    snippet = replaced(
        "nginx.conf",
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("server 127.0.0.1:8080;", f"server 127.0.0.1:{server_port};"),
        ("ws.example.com.pem", f"{certificate}/certificate.pem"),
        ("ws.example.com.key", f"{certificate}/key.pem"),
    )
    snippet = re.sub(r"/etc/ssl/(?=/)", "", snippet)
    logs = f"error_log {folder}/error.log;\npid {folder}/nginx.pid;\n"
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off;\nworker_processes 1;\n{logs}{settings}\n"
        f"http {{\naccess_log off;\n{paths}{snippet}\n}}\n"
    )


def for_haproxy(_folder: Path, certificate: Path, port: int, server_port: int) -> str:
    return replaced(
        "haproxy.cfg",
        ("maxconn 100000", "maxconn 100"),
        (
            "bind :443 ssl crt /etc/ssl/ws.example.com.pem",
            f"bind 127.0.0.1:{port} ssl crt {certificate}/both.pem",
        ),
        ("127.0.0.1:8080", f"127.0.0.1:{server_port}"),
    )


def for_caddy(_folder: Path, certificate: Path, port: int, server_port: int) -> str:
    site = f"https://localhost:{port} {{\n\tbind 127.0.0.1\n"
    return "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + replaced(
        "Caddyfile",
        ("ws.example.com {", f"{site}\ttls {certificate}/certificate.pem {certificate}/key.pem"),
        ("127.0.0.1:8080", f"127.0.0.1:{server_port}"),
    )


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, the beginning of its command line, and what it says to who asks for /metrics."""

    configured: Callable[[Path, Path, int, int], str]
    command: Sequence[str]
    hidden: int


PROXIES = {
    "nginx": Proxy(for_nginx, ["nginx", "-p", ".", "-c"], 403),
    "haproxy": Proxy(for_haproxy, ["haproxy", "-db", "-f"], 403),
    "caddy": Proxy(for_caddy, ["caddy", "run", "--adapter", "caddyfile", "--config"], 404),
}


@asynccontextmanager
async def running(proxy: Proxy, folder: Path, configuration: str, port: int) -> AsyncIterator[None]:
    path, log = folder / "configuration", folder / "log"
    path.write_text(configuration)
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *proxy.command,
            str(path),
            cwd=folder,
            stdout=said,
            stderr=said,
            env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield
    finally:
        process.terminate()
        await process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("name", PROXIES)
async def test_websockets_and_the_api_go_through_a_proxy(
    name: str, certificate: Path, tmp_path: Path
) -> None:
    port, proxy = free_port(), PROXIES[name]
    trusting = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
    async with serving(metrics=True) as rig:
        configuration = proxy.configured(tmp_path, certificate, port, rig.server.port)
        async with running(proxy, tmp_path, configuration, port):
            url = f"wss://localhost:{port}"
            async with (
                await Listener.connect(url, APP, ssl=trusting) as client,
                Publisher(url, APP_ID, APP, ssl=trusting) as publisher,
                asyncio.timeout(PATIENCE_S),
            ):
                await client.subscribe("private-a")
                await publisher.publish("private-a", "n", "x" * 9000)
                assert (await client.receive()).data == "x" * 9000
            assert await get_through(port, trusting, "/metrics") == proxy.hidden
            assert await get_through(port, trusting, "/up") == 200


@asynccontextmanager
async def clients_through_nginx(
    certificate: Path, folder: Path, settings: str, at_most: int
) -> AsyncIterator[list[ClientConnection]]:
    """Connect clients, one after the other, until one is reset or there are *at_most*."""
    port = free_port()
    trusting = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
    async with serving() as rig, AsyncExitStack() as connected:
        configuration = for_nginx(folder, certificate, port, rig.server.port, settings)
        await connected.enter_async_context(running(PROXIES["nginx"], folder, configuration, port))
        clients: list[ClientConnection] = []
        while len(clients) < at_most:
            try:
                connection = await connect(
                    f"wss://localhost:{port}/app/{KEY}?protocol=7", ssl=trusting, proxy=None
                )
            except ConnectionResetError:
                break
            clients.append(await connected.enter_async_context(connection))
            assert "connection_established" in await Client(connection).receive()
        yield clients


async def test_with_the_defaults_of_debian_nginx_resets_the_384th_client(
    certificate: Path, tmp_path: Path
) -> None:
    settings = "events { worker_connections 768; }"
    async with clients_through_nginx(certificate, tmp_path, settings, 450) as clients:
        assert 380 <= len(clients) <= 383
    assert "768 worker_connections are not enough" in (tmp_path / "error.log").read_text()


async def test_with_the_settings_of_the_documentation_nginx_serves_more_clients(
    certificate: Path, tmp_path: Path
) -> None:
    (settings,) = re.findall(
        r"^```nginx\n(.*?)^```", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL
    )
    assert "worker_connections" in settings
    async with clients_through_nginx(certificate, tmp_path, settings, 800) as clients:
        assert len(clients) == 800


async def get_through(port: int, trusting: ssl.SSLContext, path: str) -> int:
    reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting)
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    return parse(answer).status
