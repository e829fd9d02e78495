"""What the log says, to people and to machines."""

import asyncio
import contextlib
import json
import logging
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from heliograph.hub.facts import Event
from heliograph.observe import logs
from heliograph.protocols.pusher.lanes import PusherLane
from heliograph.wire.framing import DeflateFraming
from heliograph.wire.unmasked import read_server_frames
from heliograph.wire.websocket import Opcode, close_frame, frame, text_frame
from tests.conftest import StartServer
from tests.integration.rig import APP_ID, KEY, PATIENCE_S, SECRET, Engines, serving
from tests.integration.test_http import UPGRADE, wire
from tests.server import ServerProcess

Log = Callable[[], list[str]]


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[Log]:
    """Return the lines of a log that is set up meanwhile; afterwards logging is as it was."""
    root, ours = logging.getLogger(), logging.getLogger("heliograph")
    before = root.handlers[:], root.level, ours.level

    def lines() -> list[str]:
        return capsys.readouterr().err.splitlines()

    try:
        yield lines
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])


def test_a_fact_is_one_line_of_json_with_its_exception_inside(log: Log) -> None:
    logs.set_up("info", "json")
    try:
        int("why")
    except ValueError:
        logging.getLogger("heliograph.x").exception("it %s", "broke\nand how\u2028")
    (line,) = log()
    fields = json.loads(line)
    assert list(fields) == ["time", "level", "logger", "message", "exception"]
    assert fields["level"] == "error"
    assert fields["logger"] == "heliograph.x"
    assert fields["message"] == "it broke\nand how\u2028"
    assert fields["time"].endswith("Z")
    assert "ValueError: invalid literal" in fields["exception"]


def test_what_libraries_and_python_say_is_of_the_same_form(log: Log) -> None:
    logs.set_up("error", "json")
    logging.getLogger("asyncio").error("a callback failed\ntransport: <x>")
    logging.getLogger("asyncio").info("not worth a line")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old ways", UserWarning, stacklevel=1)
    loggers = [json.loads(line)["logger"] for line in log()]
    assert loggers == ["asyncio", "py.warnings"]


def test_strangers_can_neither_begin_a_line_nor_speak_to_the_terminal(log: Log) -> None:
    logs.set_up("info")
    logging.getLogger("heliograph.x").info("channel %s", "a\n2020 ERROR b\r\x1b[2J\x9b\u2028ü")
    (line,) = log()
    assert line.endswith(r"INFO channel a\n2020 ERROR b\r\x1b[2J\x9b\u2028ü")


def test_levels_leave_out_what_is_below(log: Log) -> None:
    logs.set_up("warning")
    logging.getLogger("heliograph.x").info("a detail")
    logging.getLogger("heliograph.x").warning("a danger")
    (line,) = log()
    assert line.endswith("WARNING a danger")


# -- Frames --------------------------------------------------------------------------------


def subscribe(server: ServerProcess, *, compression: str | None = None) -> str:
    """Do what a client with secrets does; return what the server's log says of it."""
    url = f"ws://127.0.0.1:{server.port}/app/{server.key}?protocol=7"
    with connect(url, proxy=None, compression=compression) as client:
        client.recv()
        member = json.dumps({"user_id": "ann", "user_info": {"pass": "open sesame"}})
        data = {"channel": "presence-a", "auth": f"{KEY}:open sesame", "channel_data": member}
        client.send(json.dumps({"event": "pusher:subscribe", "data": data}))
        client.recv()
        client.send(json.dumps({"event": "pusher:subscribe", "data": {"channel": "a\u2028b"}}))
        client.recv()
        client.send("{" + "sesame" * 200)
        client.recv()
        client.close(4321, "goodbye")
    return server.log()


@pytest.mark.parametrize("option", [{"debug": True}, {"log_level": "debug"}])
def test_debug_shows_frames_and_no_secret(
    start_server: StartServer, option: dict[str, Any]
) -> None:
    server = start_server(option)
    log = subscribe(server)
    assert "sesame" not in log
    assert SECRET not in log
    assert 'sent {"event":"pusher:connection_established"' in log
    assert f'"auth":"{KEY}:(hidden)"' in log
    assert "received (1201 bytes, not JSON)" in log
    assert "received a Close frame: 4321 goodbye" in log
    assert "sent a Close frame: 4321" in log


def test_frames_are_shown_as_json_too_and_inflated(start_server: StartServer) -> None:
    server = start_server(
        {
            "debug": True,
            "log_format": "json",
            "enable_ws_compression": True,
            "ws_compression_threshold": 0,
        }
    )
    log = subscribe(server, compression="deflate")
    said = [json.loads(line)["message"] for line in log.splitlines()]
    assert any("received" in one and "presence-a" in one for one in said)
    assert any("sent" in one and "connection_established" in one for one in said)
    assert "sesame" not in log


def test_no_frame_is_in_the_log_unless_asked_for(start_server: StartServer) -> None:
    log = subscribe(start_server())
    assert "pusher:subscribe" not in log
    assert "connected" not in log


async def test_watched_clients_are_served_like_any_other() -> None:
    async with serving(debug=True) as rig, rig.client() as ann, rig.client() as bob:
        await ann.subscribe("private-a")
        await bob.subscribe("private-a")
        await ann.send("client-x", {"n": 1}, channel="private-a")
        await bob.expect('{"event":"client-x","channel":"private-a","data":"{\\"n\\": 1}"}')
        await rig.publish("e", "private-a", "x" * 9000)
        for client in (ann, bob):
            assert json.loads(await client.receive())["data"] == "x" * 9000
        batch = [{"name": str(number), "channel": "private-a", "data": "x"} for number in range(4)]
        batch[1]["socket_id"] = bob.socket_id
        await rig.request("POST", "/batch_events", {"batch": batch})
        assert [json.loads(await bob.receive())["event"] for _ in range(3)] == ["0", "2", "3"]
        assert rig.app_id == APP_ID


@pytest.mark.parametrize("name", ["", "x", "a/longer/one", "\0abstract"])
async def test_watched_clients_of_a_unix_socket_are_local_whatever_their_own_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "heliograph")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "longer").mkdir(parents=True)
    async with serving(debug=True, unix_socket="server"):
        with socket.socket(socket.AF_UNIX) as client:
            if name:
                client.bind(name)
            client.connect("server")
            client.setblocking(False)
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(sock=client)
                writer.write(UPGRADE)
                await reader.readuntil(b"connection_established")
            writer.transport.abort()
    assert "a local client connected" in caplog.messages


def test_frames_are_read_as_they_were_written() -> None:
    lane = PusherLane(DeflateFraming(1))
    long = lane.encode(Event("c", "e", b'"' + b"x" * 70_000 + b'"', None, None))
    chunk = text_frame(b"a") + text_frame(b"b" * 300) + text_frame(b"c" * 70_000) + long
    chunk = b"HTTP/1.1 101 X\r\nA: b\r\n\r\n" + chunk + frame(Opcode.PING) + close_frame(4200, "x")
    read = list(read_server_frames(chunk))
    assert [opcode for opcode, _ in read] == [Opcode.TEXT] * 4 + [Opcode.PING, Opcode.CLOSE]
    assert [len(payload) for _, payload in read[:3]] == [1, 300, 70_000]
    assert read[3][1].startswith(b'{"event":"e"')
    assert read[5][1] == b"\x10\x68x"


# -- Who did what wrong --------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


async def test_refused_publishes_are_found_in_the_log_and_cannot_fill_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "heliograph")
    async with serving() as rig:
        await rig.publish("e", "c")
        for _ in range(20):
            reply = await rig.request("POST", "/events", {"name": "e", "channel": "ü", "data": ""})
            assert reply.status == 400
        reply = await rig.request("GET", "/channels/public/users")
        assert reply.status == 400
    assert said(caplog) == [
        ("INFO", f"app {APP_ID}: a signed request was refused: 400 Invalid channel name: ü")
    ]


async def test_an_engine_that_is_away_is_a_warning_and_a_metric(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "heliograph")
    monkeypatch.setattr(Engines, "late", True)
    async with serving(metrics=True) as rig:
        assert Engines.made is not None
        up = 'heliograph_engine_up{engine="custom"} '
        assert f"{up}1\n" in (await rig.fetch("GET", "/metrics")).text
        Engines.made.away = True
        assert f"{up}0\n" in (await rig.fetch("GET", "/metrics")).text
        for _ in range(20):
            reply = await rig.request("POST", "/events", {"name": "e", "channel": "c", "data": ""})
            assert reply.status == 503
        Engines.made.away = False
        await rig.publish("e", "c")
    assert said(caplog) == [
        ("WARNING", "engine unavailable: a request was refused with 503 (away)")
    ]


async def test_a_clients_mistakes_are_in_no_log_but_the_one_for_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "heliograph")
    for debug in (False, True):
        async with serving(debug=debug) as rig, rig.client() as client:
            await client.send("nonsense")
            await client.receive()
        assert [level for level, text in said(caplog) if "Unsupported event" in text] == (
            ["DEBUG"] if debug else []
        )


TIMES = 25

HANDSHAKE = (
    b"GET /app/%b?protocol=7 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TO_US = HANDSHAKE % KEY.encode()


def masked_text(message: str) -> bytes:
    """A client's frame with *message*, masked with nothing."""
    text = message.encode()
    return b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text


GOODBYE = b"\x88\x80" + bytes(4)
SUBSCRIBE = '{"event":"pusher:subscribe","data":{"channel":"private-%s","auth":"%s:beef"}}'
ATTACKS = {
    "no such app": HANDSHAKE % b"nobody",
    "no such path": HANDSHAKE.replace(b"/app/", b"/application/") % b"x",
    "no key of a handshake": TO_US.replace(b"Sec-WebSocket-Key", b"X"),
    "no HTTP": b"\x16\x03\x01" * 20 + b"\r\n\r\n",
    "no mask": TO_US + b"\x81\x01x",
    "reserved bits": TO_US + b"\xf1\x80",
    "binary": TO_US + b"\x82\x80" + bytes(4),
    "no UTF-8": TO_US + b"\x81\x81" + bytes(4) + b"\xff",
    "too long": TO_US + b"\x81\xff" + (1 << 40).to_bytes(8, "big") + bytes(4),
    "too many": TO_US + masked_text("{}" + " " * 200) * 200,
    "no JSON": TO_US + masked_text("{" * 200),
    "wrong signature": TO_US + masked_text(SUBSCRIBE % ("x" * 100, KEY)),
    "unknown key": TO_US + masked_text(SUBSCRIBE % ("x" * 100, "nobody")),
    "request without a signature": b"GET /apps/3/channels HTTP/1.1\r\nHost: x\r\n"
    b"Connection: close\r\n\r\n",
    "request of a stranger": b"GET /apps/3/channels?auth_key=x HTTP/1.1\r\nHost: x\r\n"
    b"Connection: close\r\n\r\n",
    "head too long": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000,
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_client_without_a_signature_cannot_fill_the_log(
    attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(max_messages_per_second=5) as rig:
        before = len(caplog.records)
        for _ in range(TIMES):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
            writer.write(ATTACKS[attack] + GOODBYE)
            writer.write_eof()
            with contextlib.suppress(ConnectionResetError):
                async with asyncio.timeout(PATIENCE_S):
                    assert await reader.read()
            writer.close()
        assert len(caplog.records) - before <= 2


@pytest.mark.parametrize("style", [logs.TextFormatter, logs.JsonFormatter])
def test_an_exception_is_no_longer_than_its_traceback_needs(style: type[logging.Formatter]) -> None:
    nothing: dict[str, int] = {}
    try:
        nothing["x" * 1_000_000]
    except KeyError as error:
        caught = error
    one = logging.LogRecord("x", logging.ERROR, "x", 1, "broken", (), None)
    one.exc_info = (KeyError, caught, caught.__traceback__)
    line = style().format(one)
    assert len(line) < logs.MAX_EXCEPTION + 1000
    assert "Traceback" in line
    assert "test_logs.py" in line


# -- What an operator can mend --------------------------------------------------------------


def said_of_clients(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "a client was refused" in line]


async def test_a_refused_origin_is_a_line_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "heliograph")
    async with serving(allowed_origins="https://shop.example", metrics=True) as rig:
        for origin in ("https://other.example", "https://other.example", None):
            async with rig.open(origin=origin) as client:
                assert "4009" in await client.receive()
        text = (await rig.fetch("GET", "/metrics")).text
        assert 'heliograph_refused_connections_total{reason="origin"} 3\n' in text
        assert 'heliograph_refused_connections_total{reason="unknown_key"} 0\n' in text
    assert said_of_clients(caplog) == [
        f"app {APP_ID}: a client was refused: origin 'https://other.example' is not in"
        " allowed_origins (from 127.0.0.1)"
    ]


async def test_a_wrong_key_in_a_page_is_a_line_and_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No more of it than its beginning: it may be the secret."""
    caplog.set_level("INFO", "heliograph")
    async with serving(metrics=True) as rig:
        for key in (SECRET, "a%0Ab", "short"):
            async with rig.open(f"/app/{key}?protocol=7") as client:
                assert "4001" in await client.receive()
        text = (await rig.fetch("GET", "/metrics")).text
        assert 'heliograph_refused_connections_total{reason="unknown_key"} 3\n' in text
    assert said_of_clients(caplog) == [
        f"unknown app: a client was refused: unknown key '{SECRET[:8]}...' (from 127.0.0.1)"
    ]


async def test_a_wrong_signature_is_a_line_with_its_channel(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "heliograph")
    async with serving() as rig, rig.client() as client:
        data = {"channel": "private-a", "auth": f"{KEY}:no"}
        await client.send("pusher:subscribe", data)
        await client.receive()
    assert said_of_clients(caplog) == [
        f"app {APP_ID}: a client was refused: wrong signature (channel 'private-a')"
    ]


async def test_malformed_frames_are_counted_by_the_code_of_their_close() -> None:
    async with serving(metrics=True) as rig:
        for sent, code in ((b"\x81\x01a", 1002), (b"\x82\x81\0\0\0\0a", 1003)):
            async with wire(rig) as one:
                await one.send(UPGRADE + sent)
                await one.read_all()
            text = (await rig.fetch("GET", "/metrics")).text
            assert f'heliograph_protocol_errors_total{{code="{code}"}} 1\n' in text


@pytest.mark.parametrize("verbose", [True, False])
async def test_an_event_that_reaches_nobody_is_in_the_log_for_debugging(
    verbose: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "heliograph")
    async with serving(debug=verbose) as rig, rig.client() as client:
        await client.subscribe("there")
        await rig.publish("n", "there")
        await client.receive()
        await rig.publish("order-created", "nobody")
    lines = [line for line in caplog.messages if "has no subscribers" in line]
    line = (
        f"app {APP_ID}: channel 'nobody' has no subscribers;"
        " event 'order-created' was not delivered"
    )
    assert lines == ([line] if verbose else [])


async def test_one_kind_of_refusal_does_not_hide_the_first_line_of_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "heliograph")
    async with serving(allowed_origins="https://shop.example") as rig:
        async with rig.open(origin="https://other.example") as refused:
            await refused.receive()
        await rig.fetch(
            "GET", rig.signed("GET", f"/apps/{APP_ID}/channels", auth_signature="0" * 64)
        )
        async with rig.client(origin="https://shop.example") as client:
            await client.send("pusher:subscribe", {"channel": "private-a", "auth": f"{KEY}:no"})
            await client.receive()
    lines = [line for line in caplog.messages if "refused" in line]
    assert len(lines) == 3, lines
    assert lines[2].endswith("(channel 'private-a')")
