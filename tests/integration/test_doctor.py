"""What the doctor says of healthy and of sick surroundings."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from heliograph.cli import doctor
from heliograph.client.listener import Listener
from heliograph.client.signing import Credentials
from heliograph.config.load import load, make_config
from heliograph.config.settings import Config
from heliograph.wire.websocket import accept_key
from tests import certificates
from tests.integration.rig import APP_ID, KEY, PATIENCE_S, SECRET, SINGLE_APP, Rig, serving


def config(**options: object) -> Config:
    return make_config(**{**SINGLE_APP, **options})


def told(
    config: Config, url: str | None = None, *, wait_s: float = 0.0, origin: str | None = None
) -> tuple[int, str]:
    lines: list[str] = []
    findings = doctor.examine(config, url, wait_s=wait_s, origin=origin)
    status = doctor.report(findings, lines.append)
    return status, "\n".join(lines)


async def told_of(
    rig: Rig, config: Config, url: str | None = None, **options: Any
) -> tuple[int, str]:
    return await asyncio.to_thread(partial(told, config, url or rig.url, **options))


@pytest.fixture
def private_folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


async def test_a_healthy_server_is_found_healthy(private_folder: Path) -> None:
    async with serving() as rig:
        status, text = await told_of(rig, config(data_dir=str(private_folder)))
    assert status == 0, text
    for line in (
        "ok     WebSocket: a client can connect",
        "ok     HTTP API: a signed request succeeds",
        "ok     clock",
        "ok     --data_dir",
    ):
        assert line in text
    assert SECRET not in text


async def test_a_wrong_secret_and_an_unknown_key_are_found() -> None:
    async with serving() as rig:
        status, text = await told_of(rig, config(pusher_secret="another"))
        assert status == 1
        assert "fault  HTTP API: the answer was 401: Invalid signature" in text
        assert "another" not in text
        status, text = await told_of(rig, config(pusher_app_key="unknown"))
        assert status == 1
        assert "refused" in text
        assert "4001" in text


async def test_a_server_with_many_channels_is_found_healthy() -> None:
    """The doctor reads 64 KiB of an answer, which is less than the list of these channels."""
    async with serving() as rig, await Listener.connect(rig.url, Credentials(KEY, SECRET)) as one:
        for number in range(500):
            await one.subscribe(f"channel-{number}-".ljust(164, "x"))
        assert len((await rig.request("GET", "/channels")).body) > doctor.MAX_ANSWER_BYTES
        status, text = await told_of(rig, config())
    assert status == 0, text
    assert "ok     HTTP API: a signed request succeeds" in text


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            b"426 Upgrade Required",
            "the answer was 426 instead of 101: the proxy must pass on the headers",
        ),
        (
            b"502 Bad Gateway",
            "the answer was 502 instead of 101: the proxy cannot reach the server",
        ),
    ],
)
async def test_a_proxy_that_lets_no_websocket_through_is_found(status: bytes, reason: str) -> None:
    """What it says to people is shown on one line, and nothing of it speaks to the terminal."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = b"no\nway \x1b[31m"
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(words)) + words)
        writer.close()

    async with serving() as rig, await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        code, text = await told_of(rig, config(), f"ws://127.0.0.1:{port}")
    assert code == 1
    assert reason in text
    assert f"the answer was {int(status[:3])}: no way [31m" in text.splitlines()[-1]


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:1", "ftp://a", "ws://127.0.0.1:99999", "wss://[::1"]
)
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


def test_a_folder_that_is_made_is_for_nobody_else(tmp_path: Path) -> None:
    status, text = told(config(data_dir=str(tmp_path / "new")))
    assert status == 0
    assert "ok     --data_dir" in text


# -- Certificates --------------------------------------------------------------------------


def issued(folder: Path, days: int, constraint: str) -> tuple[str, str]:
    """Return a certificate that is valid for *days*, and its key."""
    request, certificate, key = (str(folder / name) for name in ("request", "certificate", "key"))
    extensions = folder / "extensions"
    extensions.write_text(f"basicConstraints = critical,{constraint}\n")
    command = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-subj", "/CN=localhost", "-keyout", key, "-out", request]
    subprocess.run(command, check=True, capture_output=True)
    command = ["openssl", "x509", "-req", "-in", request, "-signkey", key, "-days", str(days)]
    command += ["-extfile", str(extensions), "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


# Those that an authority issues may sign no others; the years from 2050 on are written in full.
@pytest.mark.parametrize("constraint", ["CA:FALSE", "CA:TRUE"])
@pytest.mark.parametrize(
    ("days", "state", "said"),
    [
        (365, "ok", "is valid until 2"),
        (20_000, "ok", "is valid until 20"),
        (3, "hint", "is valid until 2"),
        (-1, "fault", "expired on 2"),
    ],
)
def test_a_certificate_that_ends_soon_is_worth_a_hint(
    tmp_path: Path, days: int, state: str, said: str, constraint: str
) -> None:
    certificate, key = issued(tmp_path, days, constraint)
    status, text = told(config(ssl_cert=certificate, ssl_key=key))
    assert status == (state == "fault")
    (line,) = [line for line in text.splitlines() if certificate in line]
    assert line.startswith(f"{state:5}  certificate: {certificate}")
    assert said in line
    assert f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}" in line


def test_of_a_chain_the_certificate_that_ends_first_counts(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, _ = issued(tmp_path / "other", 3, "CA:TRUE")
    certificate, key = issued(tmp_path, 365, "CA:FALSE")
    with Path(certificate).open("a") as chain:
        chain.write(Path(other).read_text())
    _, text = told(config(ssl_cert=certificate, ssl_key=key))
    assert f"hint   certificate: {certificate}" in text


def test_a_certificate_whose_dates_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    """OpenSSL's own form is good enough to serve with."""
    certificate, key = issued(tmp_path, 365, "CA:FALSE")
    trusted = tmp_path / "trusted.pem"
    subprocess.run(
        ["openssl", "x509", "-trustout", "-in", certificate, "-out", str(trusted)], check=True
    )
    status, text = told(config(ssl_cert=str(trusted), ssl_key=key))
    assert status == 1
    assert f"{trusted} has no readable dates" in text


async def test_the_certificate_that_clients_are_shown_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy it is the proxy's, of which the configuration says nothing."""
    pair = certificates.make(tmp_path, "pair")
    url = "wss://localhost"
    async with serving(**pair.options) as rig:
        status, text = await told_of(rig, config(), f"{url}:{rig.server.port}")
        assert status == 1
        assert "localhost: the certificate is not valid: self-signed certificate" in text
        monkeypatch.setenv("SSL_CERT_FILE", str(pair.certificate))
        status, text = await told_of(rig, config(), f"{url}:{rig.server.port}")
    assert status == 0
    assert "hint   certificate: the certificate of localhost is valid until" in text
    assert "ok     WebSocket" in text


# -- This machine --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "said"),
    [(500, "hint   open files: at most 500, and every client needs one: raise"), (10_000, "ok")],
)
def test_few_descriptors_are_worth_a_hint(limit: int, said: str) -> None:
    command = f'ulimit -n {limit} && exec "$@"'
    flags = [f"--pusher_app_id={APP_ID}", f"--pusher_app_key={KEY}", f"--pusher_secret={SECRET}"]
    looked = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "heliograph", "doctor", *flags],
        check=True,
        capture_output=True,
        text=True,
    )
    assert looked.stdout.startswith(said)


@pytest.mark.parametrize("off_s", [-300, 0, 300])
async def test_a_clock_that_differs_is_worth_a_hint(off_s: int) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        date = formatdate(time.time() + off_s, usegmt=True).encode()
        writer.write(b"HTTP/1.1 404 X\r\nDate: " + date + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with serving() as rig, await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        _, text = await told_of(rig, config(), f"ws://127.0.0.1:{port}")
    (line,) = [line for line in text.splitlines() if "clock" in line]
    assert line.startswith("hint   clock: " if off_s else "ok     clock: ")


# -- Whoever answers -----------------------------------------------------------------------


@pytest.mark.parametrize("trickling", [False, True])
async def test_whoever_answers_without_end_is_not_listened_to_for_ever(
    trickling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        (nonce,) = re.findall(rb"Sec-WebSocket-Key: (\S+)", asked)
        accepted = b"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: " + accept_key(nonce) + b"\r\n\r\n"
        writer.write(accepted)
        try:
            while not writer.is_closing():
                writer.write(b"x" if trickling else b"x" * 10_000)
                await writer.drain()
                await asyncio.sleep(0.02 if trickling else 0)
        except ConnectionError:
            pass  # it has heard enough
        finally:
            writer.transport.abort()
            left.set()

    left = asyncio.Event()
    if trickling:
        monkeypatch.setattr(doctor, "TIMEOUT_S", 0.3)
    async with serving() as rig, await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        async with asyncio.timeout(PATIENCE_S):
            status, text = await told_of(rig, config(), f"ws://127.0.0.1:{port}")
            await left.wait()
    assert status == 1
    assert "fault  public URL" in text


# -- Origins, ports and time-outs ----------------------------------------------------------


async def test_without_an_app_the_generated_one_is_not_tried_on_the_server() -> None:
    nobody = load({}, {}, generate_app=lambda: ("1", "generated", "generated"))
    async with serving() as rig:
        status, text = await told_of(rig, nobody, wait_s=1.0)
    assert status == 0, text
    assert "hint   idle time-out: not measured" in text
    assert "ok     WebSocket: a client reaches the server; without an app" in text
    assert "hint   HTTP API: not checked: set --pusher_app_id" in text


async def test_an_address_without_a_scheme_is_tried_with_and_without_tls() -> None:
    async with serving() as rig:
        status, text = await told_of(rig, config(), f"127.0.0.1:{rig.server.port}")
    assert status == 0, text
    assert "ok     HTTP API: a signed request succeeds" in text


async def test_a_refused_origin_is_found_and_one_that_is_allowed_is_used() -> None:
    async with serving(allowed_origins="https://shop.example") as rig:
        status, text = await told_of(rig, config())
        assert status == 1
        assert "a page without an Origin header is not in the app's allowed_origins" in text
        status, text = await told_of(rig, config(), origin="https://other.example")
        assert status == 1
        assert "a page from https://other.example is not in the app" in text
        assert (await told_of(rig, config(), origin="https://shop.example"))[0] == 0
        for entry in ("https://shop.example", "shop.example"):
            assert (await told_of(rig, config(allowed_origins=entry)))[0] == 0


async def test_a_wrong_key_says_which_option_it_is() -> None:
    async with serving() as rig:
        _, text = await told_of(rig, config(pusher_app_key="unknown"))
    assert "the server has no app with this --pusher_app_key" in text


@asynccontextmanager
async def through(rig: Rig, *, idle_s: float, holds_back: bool = False) -> AsyncIterator[str]:
    """A proxy with an idle time-out, which may hold back what the server sends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
        heard = asyncio.Event()

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                heard.set()
                if sink is writer and holds_back:
                    head, end, _ = data.partition(b"\r\n\r\n")
                    data = head + end
                sink.write(data)

        async def watch() -> None:
            with suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(idle_s):
                        await heard.wait()
                    heard.clear()
            writer.transport.abort()

        ways = (pass_on(reader, server_writer), pass_on(server_reader, writer), watch())
        tasks = [asyncio.create_task(way) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        server_writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        yield f"ws://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"


async def test_a_proxy_that_cuts_off_idle_clients_is_found_with_its_time_out() -> None:
    async with serving(ping_interval=30) as rig, through(rig, idle_s=1.0) as url:
        status, text = await told_of(rig, config(), url, wait_s=4.0)
    assert status == 1
    assert "a proxy closed the connection after 1 s of silence: raise its idle time-out" in text
    assert "--ping_interval below 1" in text


async def test_a_proxy_that_is_more_patient_than_the_server_is_silent_cuts_nobody_off() -> None:
    async with serving(ping_interval=0.4) as rig, through(rig, idle_s=2.0) as url:
        status, text = await told_of(rig, config(), url, wait_s=3.0)
    assert status == 0, text
    assert "ok     idle time-out: a client stayed connected for 3 s" in text


async def test_a_server_that_closes_a_client_meanwhile_is_no_proxy() -> None:
    async with serving(ping_interval=30, authorized_connections_timeout=0.5) as rig:
        status, text = await told_of(rig, config(), wait_s=3.0)
    assert status == 1
    assert "the server closed the connection after" in text
    assert "4009" in text


async def test_a_proxy_that_holds_back_what_the_server_sends_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "GREETING_S", 0.5)
    monkeypatch.setattr(doctor, "TIMEOUT_S", 1.0)
    async with serving() as rig, through(rig, idle_s=30.0, holds_back=True) as url:
        status, text = await told_of(rig, config(), url)
    assert status == 1
    assert "a proxy buffers what the server sends" in text


async def test_a_wrong_app_id_is_a_fault_though_the_api_may_be_elsewhere() -> None:
    async with serving() as rig:
        status, text = await told_of(rig, config(pusher_app_id="7"))
    assert status == 1
    assert "fault  HTTP API: the answer was 404: Unknown app_id" in text


# -- History -------------------------------------------------------------------------------

RULES = """
[[apps]]
id = "9"
[[apps.keys]]
key = "nine"
secret = "hidden-secret"
[[apps.history]]
prefix = "chat-"
limit = {limit}
"""


def line_of(subject: str, text: str) -> str:
    """Return the only finding with this subject."""
    (line,) = [line for line in text.splitlines() if line[7:].startswith(f"{subject}: ")]
    return line


def test_the_doctor_reports_which_channels_have_history(tmp_path: Path) -> None:
    file = tmp_path / "h.toml"
    file.write_text(RULES.format(limit=5))
    by_rules: dict[str, object] = {"config": str(file)}
    off = "off: a client that was away misses what was published meanwhile; --broker memory"
    on = "on for every channel: the last 1,000 events of each, for 60 s"
    limits = {"history_limit": 1000, "history_ttl": 60}
    found: list[tuple[dict[str, object], str]] = [
        ({}, f"{off} turns it on"),
        ({"broker": "memory", **limits}, f"{on}; 64 MiB at most"),
        ({"presets": "broker", **limits, "history_max_bytes": 3 << 19}, f"{on}; 1.5 MiB at most"),
        (by_rules, "on for the channels of 1 rule of [[apps.history]]; 64 MiB at most"),
        (
            {**by_rules, "broker": "memory", **limits},
            f"{on}, except 1 rule of [[apps.history]]; 64 MiB at most",
        ),
    ]
    for options, report in found:
        status, text = told(config(**options))
        assert status == 0
        assert line_of("history", text) == f"ok     history: {report}"


def test_rules_that_only_switch_history_off_turn_none_on(tmp_path: Path) -> None:
    file = tmp_path / "h.toml"
    file.write_text(RULES.format(limit=0))
    _, text = told(config(config=str(file)))
    assert line_of("history", text).startswith("ok     history: off")


def test_rules_that_switch_history_off_are_not_counted_as_rules_that_turn_it_on(
    tmp_path: Path,
) -> None:
    file = tmp_path / "h.toml"
    off = '[[apps.history]]\nprefix = "chat-typing-"\nlimit = 0\n'
    file.write_text(RULES.format(limit=5) + off)
    _, text = told(config(config=str(file)))
    assert "on for the channels of 1 rule of [[apps.history]];" in line_of("history", text)


@pytest.mark.parametrize("separate", [False, True])
async def test_the_doctor_reports_how_much_a_server_keeps(separate: bool) -> None:
    """On the page of metrics, which has the port of the URL or a separate one."""
    where: dict[str, object] = {"metrics_port": 0} if separate else {"metrics": True}
    options: dict[str, Any] = {"broker": "memory", "metrics_token": "open sesame", **where}
    async with serving(**options) as rig:
        for number in range(1200):
            await rig.publish("n", f"channel-{number % 3}", "x" * 5000)
        if separate:
            options = {**options, "host": "127.0.0.1", "metrics_port": rig.server.metrics_port}
        status, text = await told_of(rig, config(**options))
    assert status == 0, text
    assert line_of("kept events", text) == (
        "ok     kept events: 300 of 3 channels, 1.6 MiB of 64 MiB; none was dropped before it"
        " expired"
    )
    assert "sesame" not in text


async def test_events_that_are_dropped_before_they_expire_are_worth_a_hint() -> None:
    options = {"broker": "memory", "metrics": True, "history_max_bytes": 1 << 20}
    async with serving(max_event_bytes=0, **options) as rig:
        for number in range(4):
            await rig.publish("n", f"channel-{number}", "x" * 500_000)
        status, text = await told_of(rig, config(**options))
    assert status == 0, text
    line = line_of("kept events", text)
    assert line.startswith("hint   kept events: 2 of 2 channels, 1 MiB of 1 MiB; 2 were dropped")
    assert line.endswith("raise --history_max_bytes, or lower --history_limit or --history_ttl")


async def test_events_of_cache_channels_are_kept_without_history() -> None:
    async with serving(metrics=True) as rig:
        await rig.publish("n", "cache-a", "x")
        _, text = await told_of(rig, config(metrics=True))
    assert "ok     kept events: 1 of 1 channels" in text


async def test_the_doctor_reads_no_metrics_where_there_are_none() -> None:
    async with serving(broker="memory") as rig:
        _, text = await told_of(rig, config(broker="memory"))
        assert line_of("kept events", text) == (
            "hint   kept events: not checked: the server needs --metrics or --metrics_port"
        )
        _, text = await told_of(rig, config())
        assert "kept events" not in text
        _, text = await told_of(rig, config(metrics=True))
        assert line_of("kept events", text) == (
            f"hint   kept events: not checked: http://127.0.0.1:{rig.server.port}/metrics: the"
            " answer was 404"
        )
        options = {"host": "127.0.0.1", "metrics_port": 1}
        _, text = await told_of(rig, config(**options))
        line = line_of("kept events", text)
        assert line.startswith("hint   kept events: not checked: http://127.0.0.1:1/metrics: ")
        assert "Connect call failed" in line


async def test_a_wrong_token_of_the_metrics_is_found() -> None:
    async with serving(metrics=True, metrics_token="open sesame") as rig:
        status, text = await told_of(rig, config(metrics=True, metrics_token="another"))
    assert status == 0
    assert line_of("kept events", text).endswith("/metrics: the server refused --metrics_token")
    assert "another" not in text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "the answer is not a page of metrics"),
        (b"heliograph_history_events 1.2.3\n", "the answer is not a page of metrics"),
        (b"heliograph_uptime_seconds 5\n", "the engine of the server counts none"),
        (b"x" * (1 << 20), "the answer exceeds 1 MiB"),
    ],
)
async def test_another_page_than_that_of_the_metrics_is_found(
    body: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "MAX_METRICS_BYTES", 1 << 20)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        full = body + b"x" * (len(body) == 1 << 20)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(full) + full)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with serving() as rig, await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        options = {"host": "127.0.0.1", "metrics_port": port}
        status, text = await told_of(rig, config(**options))
    assert status == 0
    assert line_of("kept events", text).endswith(f": {reason}")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:9191/metrics"),
        ("::", "http://[::1]:9191/metrics"),
        ("::1,127.0.0.1", "http://[::1]:9191/metrics"),
        ("localhost", "http://localhost:9191/metrics"),
    ],
)
def test_a_separate_port_of_metrics_is_one_of_this_machine(host: str, url: str) -> None:
    assert doctor.metrics_url(config(host=host, metrics_port=9191), "wss://ws.example.com") == url


def test_metrics_have_the_address_of_the_url_or_the_port_of_the_api() -> None:
    url = "wss://ws.example.com/realtime"
    assert doctor.metrics_url(config(metrics=True), url) == "https://ws.example.com/metrics"
    api = config(metrics=True, pusher_api_port=8081)
    assert doctor.metrics_url(api, url) == "http://localhost:8081/metrics"
