"""TLS that ends in the server: everything works through it, and its certificate can change."""

import asyncio
import json
import shutil
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from heliograph.config.load import load
from heliograph.config.settings import Config
from heliograph.errors import ConfigError
from heliograph.net import streams
from tests import certificates
from tests.certificates import Pair
from tests.integration.rig import (
    APP_ID,
    KEY,
    LOCAL,
    PATIENCE_S,
    SECRET,
    Client,
    Reply,
    Rig,
    parse,
    serving,
)
from tests.integration.test_http import HEALTH, UPGRADE
from tests.integration.test_slow_readers import subscribing

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Secured(Rig):
    """The rig, through TLS."""

    def __init__(self, rig: Rig, pair: Pair) -> None:
        super().__init__(rig.server)
        self.pair = pair

    @property
    def url(self) -> str:
        return f"wss://127.0.0.1:{self.server.port}"

    @asynccontextmanager
    async def secured(self) -> AsyncIterator[Client]:
        async with self.client(ssl=self.pair.trusting()) as client:
            yield client

    @asynccontextmanager
    async def wire(
        self,
        *,
        trusted: Pair | None = None,
        name: str | None = "localhost",
        room: int = 1 << 16,
        port: int | None = None,
    ) -> AsyncIterator[Stream]:
        """Connect for bytes; *room* is what may lie unread in between."""
        address = ("127.0.0.1", port or self.server.port)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        sock.setblocking(False)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_connect(sock, address)
            reader, writer = await asyncio.open_connection(
                sock=sock,
                limit=room,
                ssl=(trusted or self.pair).trusting(),
                server_hostname=name or "",
            )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def fetch(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        port: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        assert headers is None
        async with self.wire(port=port) as (reader, writer), asyncio.timeout(PATIENCE_S):
            head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            return parse(await reader.read())

    async def shown(self, *, name: str | None = "localhost") -> bytes:
        """Return the certificate that a newcomer is shown, whatever it is."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", self.server.port, ssl=context, server_hostname=name or ""
            )
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        assert isinstance(certificate, bytes)
        return certificate

    def reload(self, **changes: Any) -> None:
        self.server.reload(self.server.config.with_values(**changes))


@asynccontextmanager
async def serving_tls(pair: Pair, **options: object) -> AsyncIterator[Secured]:
    async with serving(**pair.options, **options) as rig:
        yield Secured(rig, pair)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    folder = tmp_path_factory.mktemp("tls")
    return {
        "first": certificates.make(folder, "first", kind="rsa"),
        "second": certificates.make(folder, "second"),
        "locked": certificates.make(folder, "locked", passphrase="open sesame"),
    }


@pytest.fixture
def pair(made: dict[str, Pair], tmp_path: Path) -> Pair:
    """A pair of the test's own, to write over."""
    copy = Pair(tmp_path / "served.crt", tmp_path / "served.key")
    made["first"].copy_over(copy)
    return copy


async def test_websockets_and_api_work_through_tls(pair: Pair) -> None:
    async with serving_tls(pair) as rig, rig.secured() as client:
        await client.subscribe("c")
        await rig.publish("n", "c", "x" * 10_000)
        assert json.loads(await client.receive())["data"] == "x" * 10_000


async def test_who_is_left_out_of_one_event_hears_the_others_through_tls(pair: Pair) -> None:
    async with serving_tls(pair) as rig, rig.secured() as client:
        await client.subscribe("c")
        one = {"channel": "c", "data": "x"}
        batch = [{"name": str(number), **one} for number in range(5)]
        batch[2]["socket_id"] = client.socket_id
        await rig.request("POST", "/batch_events", {"batch": batch})
        assert [json.loads(await client.receive())["event"] for _ in range(4)] == list("0134")


async def test_pipelined_requests_are_answered_in_order_through_tls(pair: Pair) -> None:
    async with serving_tls(pair) as rig, rig.wire() as (reader, writer):
        writer.write(HEALTH * 100 + b"nonsense\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            answers = (await reader.read()).split(b"HTTP/1.1 ")
        assert [answer[:3] for answer in answers[1:]] == [b"200"] * 100 + [b"400"]


async def test_a_client_that_stops_reading_through_tls_is_dropped(pair: Pair) -> None:
    """The others hear everything meanwhile, and what waits for it is bounded."""
    limit = 65536
    async with (
        serving_tls(pair, max_write_buffer=limit) as rig,
        rig.secured() as healthy,
        rig.wire(room=4096) as (reader, writer),
    ):
        await healthy.subscribe("c")
        writer.write(UPGRADE + subscribing("c"))
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b'"channel":"c","data":"{}"}')
        tenant = rig.server.node.tenant(APP_ID)
        assert tenant is not None
        (stalled,) = [
            session.peer for session in tenant.sessions.values() if session.id != healthy.socket_id
        ]
        transport = stalled._transport  # type: ignore[attr-defined]
        published = largest = 0
        while not rig.server.context.slow_readers:
            assert published < 5000, "the stalled reader was never dropped"
            await rig.publish(str(published), "c", "x" * 10_000)
            assert json.loads(await healthy.receive())["event"] == str(published)
            largest = max(largest, transport.get_write_buffer_size())
            published += 1
        assert limit < largest <= 4 * limit + 300_000
        assert rig.server.context.slow_readers == 1


async def test_a_client_that_reads_no_answers_through_tls_is_held_up(pair: Pair) -> None:
    async with serving_tls(pair) as rig, rig.wire(room=4096) as (reader, writer):
        async with asyncio.timeout(PATIENCE_S):
            writer.write(HEALTH)
            await reader.readuntil(b"OK")
            (connection,) = rig.server.context.http_connections
            while not connection._unread:
                writer.write(HEALTH * 50)
                await asyncio.sleep(0)
        assert connection._held


async def test_a_cleartext_client_and_a_silent_one_are_disconnected_by_tls(pair: Pair) -> None:
    async with serving_tls(pair, request_timeout=0.2) as rig:
        for words in (HEALTH, b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
            writer.write(words)
            async with asyncio.timeout(PATIENCE_S):
                assert b"HTTP" not in await reader.read()
            writer.close()
        assert (await rig.fetch("GET", "/health")).status == 200


async def test_old_tls_is_refused(pair: Pair) -> None:
    async with serving_tls(pair) as rig:
        context = pair.trusting()
        context.set_ciphers("ALL:@SECLEVEL=0")
        connect = partial(
            asyncio.open_connection,
            "127.0.0.1",
            rig.server.port,
            ssl=context,
            server_hostname="localhost",
        )
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await connect()
        writer.transport.abort()
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await connect()


# -- Renewing --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", None], ids=["named", "nameless"])
async def test_new_clients_get_the_new_certificate_and_no_client_is_dropped(
    pair: Pair, made: dict[str, Pair], name: str | None
) -> None:
    """From RSA to EC: a context that was loaded twice would go on showing the old one, too."""
    async with serving_tls(pair) as rig, rig.secured() as client:
        await client.subscribe("c")
        before = await rig.shown(name=name)
        made["second"].copy_over(pair)
        assert await rig.shown(name=name) == before
        rig.reload()
        after = await rig.shown(name=name)
        assert ssl.DER_cert_to_PEM_cert(after) in pair.certificate.read_text()
        assert after != before
        await rig.publish("n", "c")
        assert json.loads(await client.receive())["event"] == "n"


async def test_a_certificate_may_move_to_other_files(
    pair: Pair, made: dict[str, Pair], caplog: pytest.LogCaptureFixture
) -> None:
    second = made["second"]
    async with serving_tls(pair) as rig:
        rig.reload(**second.options)
        assert (
            ssl.DER_cert_to_PEM_cert(await rig.shown()).strip()
            == second.certificate.read_text().strip()
        )
        assert "restart" not in caplog.text


BROKEN = {
    "another key": ("second", "key", "served.key is not the key of "),
    "another certificate": ("second", "crt", "served.key is not the key of "),
    "a locked key": ("locked", "key", "served.key is protected by a passphrase"),
    "no certificate": (None, "crt", "served.crt is not a certificate in PEM format"),
    "no key": (None, "key", "served.key is not the key of "),
}


@pytest.mark.parametrize(("source", "suffix", "message"), BROKEN.values(), ids=BROKEN.keys())
async def test_an_invalid_certificate_or_key_changes_nothing(
    pair: Pair, made: dict[str, Pair], source: str | None, suffix: str, message: str
) -> None:
    async with serving_tls(pair) as rig:
        before = await rig.shown()
        broken = pair.certificate.with_suffix(f".{suffix}")
        if source is None:
            broken.write_text("nonsense")
        else:
            shutil.copy(made[source].certificate.with_suffix(f".{suffix}"), broken)
        with pytest.raises(ConfigError) as raised:
            rig.reload(**pair.options)
        assert message in str(raised.value)
        assert await rig.shown() == before
        broken.unlink()
        with pytest.raises(ConfigError, match=r"cannot read .*served\.\w+: No such file"):
            rig.reload(**pair.options)
        assert await rig.shown() == before


async def test_a_server_does_not_start_with_a_pair_that_cannot_be(pair: Pair) -> None:
    pair.key.unlink()
    with pytest.raises(ConfigError, match="--ssl_key: cannot read"):
        async with serving_tls(pair):
            pass


async def test_tls_begins_and_ends_with_a_restart(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as rig:
        Secured(rig, pair).reload(**pair.options)
        assert "a restart is needed to apply: ssl_cert, ssl_key" in caplog.text
        assert (await rig.fetch("GET", "/health")).status == 200


APP = f"""
[[apps]]
id = "{APP_ID}"
max_batch = 1
keys = [{{ key = "{KEY}", secret = "{SECRET}" }}]
"""
MISTAKES = {
    "no TOML": ("[", "", "is not valid TOML"),
    "an unknown option": ("prot = 1", APP, "prot: unknown option"),
    "a wrong value": ("cache_ttl = -1", APP, "--cache_ttl: -1 is less than 1"),
    "a path that is none": ('path_prefix = "x"', APP, "--path_prefix: 'x' is not a path"),
    "no app": ("", "", "no app is configured any more"),
    "an app twice": ("", APP + APP, f"two apps have the id '{APP_ID}'"),
    "a secret that is not there": ("", APP.replace("secret =", "secret_file ="), "cannot read"),
    "a webhook without a host": (
        "",
        APP + 'webhooks = [{ url = "http://" }]',
        r"webhooks\[0\].url: has no host",
    ),
    "a header of the server": (
        "",
        APP + 'webhooks = [{ url = "http://localhost", headers = { Host = "h" } }]',
        "the server sets this header",
    ),
    "webhooks and a shared port": (
        "",
        APP + 'webhooks = [{ url = "http://localhost" }]',
        "--reuse_port .* has webhooks",
    ),
    "a key of another certificate": ('ssl_key = "other.key"', APP, "--ssl_key: cannot read"),
}


@pytest.mark.parametrize(("options", "apps", "message"), MISTAKES.values(), ids=MISTAKES.keys())
async def test_a_refused_reload_changes_nothing_the_certificate_included(
    pair: Pair, made: dict[str, Pair], tmp_path: Path, options: str, apps: str, message: str
) -> None:
    """Without the mistake, the same file changes the certificate and the app."""
    file = tmp_path / "h.toml"

    def load_file(options: str, apps: str) -> Config:
        pairs = {name: value for name, value in pair.options.items() if name not in options}
        lines = [options, *(f'{name} = "{value}"' for name, value in pairs.items())]
        file.write_text("\n".join([*lines, apps]))
        flags = {**LOCAL, "config": str(file), "reuse_port": True}
        return load(flags, {}, generate_app=lambda: ("9", "k", "s"))

    async with serving_tls(pair, reuse_port=True) as rig:
        before, node = await rig.shown(), rig.server.node
        (app,) = rig.server.config.apps
        made["second"].copy_over(pair)
        with pytest.raises(ConfigError, match=message):
            rig.server.reload(load_file(options, apps))
        assert await rig.shown() == before
        tenant = node.tenant(APP_ID)
        assert tenant is not None
        assert tenant.app == app
        assert node.tenant("9") is None
        rig.server.reload(load_file("", APP))
        assert await rig.shown() != before
        assert tenant.app.max_batch == 1


@pytest.mark.skipif(not streams.available(), reason="asyncio's transports report no handshakes")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (HEALTH, "the client sent HTTP without TLS"),
        (b"\x00" * 100, "the client sent something other than TLS"),
    ],
)
async def test_a_failed_handshake_is_a_line_with_its_address_and_is_counted(
    pair: Pair, words: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "heliograph")
    async with serving_tls(pair, metrics=True) as rig:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
            writer.write(words)
            async with asyncio.timeout(PATIENCE_S):
                await reader.read()
            writer.close()
        reply = await rig.fetch("GET", "/metrics")
        assert "\nheliograph_tls_failures_total 3\n" in reply.text
    lines = [line for line in caplog.messages if "handshake" in line]
    assert lines == [f"TLS: a handshake failed: {reason} (from 127.0.0.1)"]
