"""The configuration that we give away for nginx, in nginx."""

import asyncio
import json
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.integration.rig import KEY, PATIENCE_S, Client, Rig, parse, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def configured(certificate: Path, port: int, server_port: int) -> str:
    """Return ops/nginx.conf with the addresses and files of this test, and nothing else changed."""
    text = (ROOT / "ops" / "nginx.conf").read_text()
    for given, ours in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("server 127.0.0.1:8080;", f"server 127.0.0.1:{server_port};"),
        ("ws.example.com.pem", f"{certificate}/certificate.pem"),
        ("ws.example.com.key", f"{certificate}/key.pem"),
    ):
        assert given in text
        text = text.replace(given, ours)
    return re.sub(r"/etc/ssl/(?=/)", "", text)


@asynccontextmanager
async def nginx(folder: Path, snippet: str, port: int) -> AsyncIterator[None]:
    configuration = folder / "nginx.conf"
    logs = f"error_log {folder}/error.log;\npid {folder}/nginx.pid;\n"
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration.write_text(
        f"daemon off;\nworker_processes 1;\n{logs}events {{}}\n"
        f"http {{\naccess_log off;\n{paths}{snippet}\n}}\n"
    )
    process = await asyncio.create_subprocess_exec(
        "nginx", "-p", str(folder), "-c", str(configuration), stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    assert process.returncode is None, (folder / "error.log").read_text()
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


async def test_websockets_and_the_api_go_through_nginx(certificate: Path, tmp_path: Path) -> None:
    port = free_port()
    trusting = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
    async with serving(metrics=True) as rig:
        snippet = configured(certificate, port, rig.server.port)
        async with nginx(tmp_path, snippet, port):
            url = f"wss://localhost:{port}/app/{KEY}?protocol=7&client=js&version=8.6.0"
            async with connect(url, ssl=trusting, proxy=None) as connection:
                client = Client(connection)
                greeting = json.loads(await client.receive())
                client.socket_id = json.loads(greeting["data"])["socket_id"]
                await client.subscribe("private-a")
                status = await publish_through(rig, port, trusting, "x" * 9000)
                assert status == 200
                assert json.loads(await client.receive())["data"] == "x" * 9000
            assert await get_through(port, trusting, "/metrics") == 403
            assert await get_through(port, trusting, "/up") == 200


async def publish_through(rig: Rig, port: int, trusting: ssl.SSLContext, data: str) -> int:
    body = json.dumps({"name": "n", "channel": "private-a", "data": data}).encode()
    target = rig.signed("POST", f"/apps/{rig.app_id}/events", body)
    return await send(port, trusting, f"POST {target}", body)


async def get_through(port: int, trusting: ssl.SSLContext, path: str) -> int:
    return await send(port, trusting, f"GET {path}", b"")


async def send(port: int, trusting: ssl.SSLContext, line: str, body: bytes) -> int:
    reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting)
    head = f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    return parse(answer).status
