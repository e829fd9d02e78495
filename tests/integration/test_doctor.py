"""What the doctor says of healthy and of sick surroundings."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from heliograph import doctor
from heliograph.config import Config, load
from tests.integration.rig import APP_ID, KEY, SECRET, Rig, serving


def config(**options: object) -> Config:
    flags = {"pusher_app_id": APP_ID, "pusher_app_key": KEY, "pusher_secret": SECRET, **options}
    return load(flags, {}, make_up=lambda: ("", "", ""))


def told(config: Config, url: str | None = None) -> tuple[int, str]:
    lines: list[str] = []
    status = doctor.report(doctor.examine(config, url), lines.append)
    return status, "\n".join(lines)


async def told_of(rig: Rig, config: Config, url: str | None = None) -> tuple[int, str]:
    return await asyncio.to_thread(told, config, url or rig.url)


@pytest.fixture
def private_folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


async def test_a_healthy_server_is_found_healthy(private_folder: Path) -> None:
    async with serving() as rig:
        status, text = await told_of(rig, config(data_dir=str(private_folder)))
    assert status == 0, text
    for line in (
        "ok     WebSocket: a client gets through and is greeted",
        "ok     HTTP API: a signed request is answered",
        "ok     clock",
        "ok     --data_dir",
    ):
        assert line in text
    assert SECRET not in text


async def test_a_wrong_secret_and_an_unknown_key_are_found() -> None:
    async with serving() as rig:
        status, text = await told_of(rig, config(pusher_secret="another"))
        assert status == 1
        assert "fault  HTTP API: answered 401: Invalid signature" in text
        assert "another" not in text
        status, text = await told_of(rig, config(pusher_app_key="unknown"))
        assert status == 1
        assert "refused" in text
        assert "4001" in text


async def test_a_proxy_that_passes_no_upgrade_on_is_found() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with serving() as rig, await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        status, text = await told_of(rig, config(), f"ws://127.0.0.1:{port}")
    assert status == 1
    assert "answered 426 instead of 101: the proxy must pass on Upgrade" in text


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1", "ftp://a", "ws://127.0.0.1:99999"])
def test_an_address_where_nobody_answers_is_a_fault(url: str) -> None:
    status, text = told(config(), url)
    assert status == 1
    assert "fault  public URL" in text


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, text = told(config(data_dir=str(tmp_path / "file" / "below")))
    assert status == 1
    assert "fault  --data_dir" in text


def test_a_folder_that_is_open_to_all_is_worth_a_hint(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    status, text = told(config(data_dir=str(tmp_path)))
    assert status == 0
    assert "hint   --data_dir" in text


@pytest.fixture
def make_certificate(tmp_path: Path) -> Callable[[int], tuple[str, str]]:
    def make(days: int) -> tuple[str, str]:
        certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(days)]
        command += ["-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
        return certificate, key

    return make


@pytest.mark.parametrize(("days", "state"), [(365, "ok"), (3, "hint")])
def test_a_certificate_that_ends_soon_is_worth_a_hint(
    make_certificate: Callable[[int], tuple[str, str]], days: int, state: str
) -> None:
    certificate, key = make_certificate(days)
    status, text = told(config(ssl_cert=certificate, ssl_key=key))
    assert status == 0
    assert f"{state:5}  certificate: {certificate} is valid until" in text
