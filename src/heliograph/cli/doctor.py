"""
What may be wrong around a server, before or after it is started: looked at, and said.

Knows the system's limits, the files of the configuration, and the way through a proxy to a running
server's public address. Changes nothing, but that a webhook folder is made where one is missing.
"""

import base64
import json
import os
import secrets
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.parse import SplitResult, quote, urlsplit

from msgspec import Struct
from websockets.exceptions import ConnectionClosed
from websockets.protocol import Event
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from heliograph.config.settings import Config
from heliograph.errors import ConfigError
from heliograph.protocols.pusher import auth
from heliograph.wire.websocket import accept_key

TIMEOUT_S = 10.0
"""How long whoever answers may take, all told."""

GREETING_S = 5.0
"""How long the first message may take behind the handshake, with which it is sent."""

FEW_DESCRIPTORS = 10_000
SKEW_HINT_S = 30.0
"""A clock that is off by more may be off by ten minutes some day: then nobody can publish."""

EXPIRES_SOON = timedelta(days=21)
HELD_LINES = 65536
GATEWAY_ERRORS = ("502", "503", "504")

FINE, HINT, FAULT = "ok", "hint", "fault"


class Finding(Struct, frozen=True):
    """What was looked at, how it is (FINE, HINT or FAULT), and what to do where it is not fine."""

    state: str
    subject: str
    text: str


def examine(
    config: Config, url: str | None, *, wait_s: float = 0.0, origin: str | None = None
) -> Iterator[Finding]:
    """
    Look at everything there is to look at; at *url*, too, where the server is said to answer.

    There, a client stays for *wait_s* seconds, to see whether somebody in between cuts it off, and
    comes from a page of *origin*. Without it, its page is the first of the app's allowed_origins.
    """
    yield _descriptors()
    yield from _certificate(config)
    yield from _folder(config)
    if url is None:
        yield Finding(
            HINT,
            "public URL",
            "not checked: give the URL as an argument, such as wss://ws.example.com",
        )
    else:
        yield from _public(config, url, wait_s=wait_s, origin=origin)


def report(findings: Iterator[Finding], say: Callable[[str], object]) -> int:
    """Say each finding on a line; return the exit status, which is 1 where there is a fault."""
    status = 0
    for finding in findings:
        # Whoever answered may have written some of it.
        text = "".join(one if one.isprintable() else " " for one in finding.text)
        say(f"{finding.state:5}  {finding.subject}: {' '.join(text.split())}")
        if finding.state == FAULT:
            status = 1
    return status


# -- This machine ------------------------------------------------------------------------------


def _descriptors() -> Finding:
    if sys.platform == "win32":
        return Finding(FINE, "open files", "this system has no limit")
    import resource  # noqa: PLC0415 - it does not exist everywhere

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= FEW_DESCRIPTORS:
        many = "without limit" if hard == resource.RLIM_INFINITY else f"{hard:,}"
        return Finding(FINE, "open files", f"{many}; every client needs one")
    return Finding(
        HINT,
        "open files",
        f"at most {hard:,}, and every client needs one: raise LimitNOFILE or ulimit -Hn",
    )


def _certificate(config: Config) -> Iterator[Finding]:
    files = config.certificate
    if files.ssl_cert is None or files.ssl_key is None:
        return
    from heliograph.net import tls  # noqa: PLC0415 - not needed without TLS

    try:
        tls.load(files.ssl_cert, files.ssl_key)
        begin, end = tls.lifetime(files.ssl_cert)
    except ConfigError as error:
        yield Finding(FAULT, "certificate", str(error))
        return
    yield _dates(files.ssl_cert, begin, end, "renew it, then send SIGHUP")


def _dates(of: str, begin: datetime, end: datetime, advice: str) -> Finding:
    now = datetime.now(UTC)
    if begin > now:
        return Finding(FAULT, "certificate", f"{of}: not valid before {begin:%Y-%m-%d %H:%M} UTC")
    if end <= now:
        return Finding(FAULT, "certificate", f"{of}: expired on {end:%Y-%m-%d %H:%M} UTC")
    until = f"{of} is valid until {end:%Y-%m-%d %H:%M} UTC"
    if end - now < EXPIRES_SOON:
        return Finding(HINT, "certificate", f"{until}: {advice}")
    return Finding(FINE, "certificate", until)


def _folder(config: Config) -> Iterator[Finding]:
    folder = config.webhook_delivery.data_dir
    if folder is None:
        if any(app.webhooks for app in config.apps):
            yield Finding(
                HINT,
                "webhooks",
                "kept in memory only: set --data_dir to keep them through a restart",
            )
        return
    try:
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"heliograph")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        yield Finding(
            FAULT, "--data_dir", f"{folder} cannot be written: {error.strerror}; change its owner"
            " to the user of the server",
        )  # fmt: skip
        return
    if sys.platform != "win32" and Path(folder).stat().st_mode & 0o007:
        yield Finding(
            HINT, "--data_dir", f"{folder} is open to every user, and contains the content of"
            " webhooks: run chmod o= on it",
        )  # fmt: skip
    else:
        yield Finding(FINE, "--data_dir", f"{folder} is writable")


# -- The way through the proxy -------------------------------------------------------------------


class _Unreachable(Exception):
    """Nothing useful came back; says why."""


def _public(config: Config, url: str, *, wait_s: float, origin: str | None) -> Iterator[Finding]:
    address = _address(url)
    if address.scheme not in ("ws", "wss", "http", "https") or not address.hostname:
        yield Finding(FAULT, "public URL", f"{url} is not a URL such as wss://ws.example.com")
        return
    app = next(iter(config.apps))
    key = app.keys[0]
    prefix = address.path.rstrip("/") or config.http_requests.path_prefix
    path = f"{prefix}/app/{quote(key.key)}"
    page = (origin and origin.removesuffix("/")) or next(
        (one for one in app.allowed_origins if "*" not in one), None
    )
    page = f"https://{page}" if page is not None and "://" not in page else page
    try:
        try:
            yield from _websocket(address, path, page, invented=config.development)
        except _Unreachable:
            if "://" in url:
                raise
            address = _address(f"ws://{url}")  # somebody who named a port only may mean either
            yield from _websocket(address, path, page, invented=config.development)
        if config.development:
            yield Finding(
                HINT,
                "HTTP API",
                "not checked: set --pusher_app_id, --pusher_app_key and --pusher_secret,"
                " or --config",
            )
        else:
            yield from _api(address, prefix, app.id, key.key, key.secret.encode())
        if wait_s and config.development:
            yield Finding(HINT, "idle time-out", "not measured: set the app, as for the HTTP API")
        elif wait_s:
            yield _wait(address, path, page, wait_s)
    except _Unreachable as error:
        yield Finding(FAULT, "public URL", str(error))
    except OSError as error:
        yield Finding(FAULT, "public URL", f"the connection failed: {error}")


def _address(url: str) -> SplitResult:
    try:
        return urlsplit(url if "://" in url else f"wss://{url}")
    except ValueError:  # half of an IPv6 address
        return urlsplit("")


def _websocket(
    address: SplitResult, path: str, page: str | None, *, invented: bool
) -> Iterator[Finding]:
    """Look at the way of a WebSocket; the app of *path* may be *invented*, for want of one."""
    nonce = base64.b64encode(secrets.token_bytes(16))
    head = (
        f"GET {path}?protocol=7&client=heliograph-doctor HTTP/1.1\r\nHost: {address.netloc}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {nonce.decode()}\r\n"
        + (f"Origin: {page}\r\n" if page is not None else "")
        + "\r\n"
    )
    with _connected(address) as connection:
        yield from _shown(address, connection)
        connection.sendall(head.encode())
        lines, rest = _head_of(connection)
        status = lines[0].split(" ", 2)[1] if " " in lines[0] else "?"
        if status != "101":
            reason = (
                "the proxy cannot reach the server"
                if status in GATEWAY_ERRORS
                else "the proxy must pass on the headers Upgrade and Connection, use HTTP/1.1, and"
                " leave the path unchanged"
            )
            yield Finding(FAULT, "WebSocket", f"the answer was {status} instead of 101: {reason}")
            return
        accepted = f"sec-websocket-accept: {accept_key(nonce).decode()}".lower()
        if accepted not in (line.lower() for line in lines):
            yield Finding(FAULT, "WebSocket", "the answer does not come from a WebSocket server")
            return
        connection.settimeout(GREETING_S)
        try:
            while b"}" not in rest:  # the end of a greeting or of an error
                rest += _received(connection)
                if len(rest) > HELD_LINES:
                    raise _Unreachable("the answer does not come from a server for Pusher clients")
        except TimeoutError:
            yield Finding(
                FAULT,
                "WebSocket",
                f"no message arrived within {GREETING_S:.0f} s of the handshake: a proxy buffers"
                " what the server sends (in nginx, set proxy_buffering off)",
            )
            return
    yield _greeting(rest, page, invented=invented)


def _greeting(rest: bytes, page: str | None, *, invented: bool) -> Finding:
    """Judge the first message that the server sent."""
    if b"connection_established" in rest:
        return Finding(FINE, "WebSocket", "a client can connect")
    told = rest[rest.find(b"{") : rest.rfind(b"}") + 1].decode(errors="replace")
    if b":4001" in rest and invented:
        return Finding(
            FINE,
            "WebSocket",
            "a client reaches the server; without an app, nothing more can be checked",
        )
    advice = ""
    if b":4001" in rest:
        advice = ": the server has no app with this --pusher_app_key"
    elif b":4009" in rest:
        comes = "without an Origin header" if page is None else f"from {page}"
        advice = f": a page {comes} is not in the app's allowed_origins (--origin sets another one)"
    return Finding(
        FAULT, "WebSocket", f"a client reaches the server and is refused{advice}: {told}"
    )


class _Idle(ClientConnection):
    """A client that says nothing but what it is asked, and notes when it heard something."""

    heard = 0.0

    def process_event(self, event: Event) -> None:
        """Note the time of every frame, pings included, which are answered as they come."""
        self.heard = time.monotonic()
        super().process_event(event)


def _wait(address: SplitResult, path: str, page: str | None, wait_s: float) -> Finding:
    """Have a client stay connected, and find out who ends that."""
    scheme = "wss" if address.scheme in ("wss", "https") else "ws"
    url = f"{scheme}://{address.netloc}{path}?protocol=7&client=heliograph-doctor"
    longest_s = 0.0
    page_origin = None if page is None else Origin(page)
    with connect(
        url, origin=page_origin, create_connection=_Idle, ping_interval=None, proxy=None
    ) as connection:
        client = cast("_Idle", connection)
        began = client.heard = time.monotonic()
        while (left_s := began + wait_s - time.monotonic()) > 0:
            before = client.heard
            try:
                client.recv(timeout=min(left_s, 0.25))
            except TimeoutError:
                longest_s = max(longest_s, client.heard - before)
                continue
            except ConnectionClosed as closed:
                silent_s = time.monotonic() - client.heard
                return _cut(closed, silent_s, time.monotonic() - began)
            longest_s = max(longest_s, client.heard - before)
        longest_s = max(longest_s, time.monotonic() - client.heard)
    return Finding(
        FINE,
        "idle time-out",
        f"a client stayed connected for {wait_s:.0f} s; the longest silence was {longest_s:.0f} s",
    )


def _cut(closed: ConnectionClosed, silent_s: float, after_s: float) -> Finding:
    if closed.rcvd is not None:
        return Finding(
            FAULT,
            "idle time-out",
            f"the server closed the connection after {after_s:.0f} s:"
            f" {closed.rcvd.code} {closed.rcvd.reason}",
        )
    return Finding(
        FAULT,
        "idle time-out",
        f"a proxy closed the connection after {silent_s:.0f} s of silence: raise its idle time-out"
        " (proxy_read_timeout in nginx, timeout tunnel in HAProxy, the idle timeout of a cloud load"
        f" balancer), or set --ping_interval below {max(silent_s, 1):.0f}",
    )


def _shown(address: SplitResult, connection: socket.socket) -> Iterator[Finding]:
    """Look at the certificate that clients are shown, which may be a proxy's."""
    certificate = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    if certificate:
        begin, end = (
            datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate[name])), UTC)
            for name in ("notBefore", "notAfter")
        )
        yield _dates(f"the certificate of {address.hostname}", begin, end, "renew it")


def _api(
    address: SplitResult, prefix: str, app_id: str, key: str, secret: bytes
) -> Iterator[Finding]:
    path = f"/apps/{quote(app_id)}/channels"
    parameters = [
        ("auth_key", key),
        ("auth_timestamp", str(int(time.time()))),
        ("auth_version", "1.0"),
    ]
    signature = auth.sign(secret, auth.request_string("GET", path, parameters))
    query = "&".join(f"{name}={quote(value)}" for name, value in parameters)
    request = (
        f"GET {prefix}{path}?{query}&auth_signature={signature} HTTP/1.1\r\n"
        f"Host: {address.netloc}\r\nConnection: close\r\n\r\n"
    )
    with _connected(address) as connection:
        connection.sendall(request.encode())
        response = HTTPResponse(connection)
        try:
            response.begin()
            body = response.read(HELD_LINES).decode(errors="replace").strip()
        except (OSError, HTTPException) as error:
            raise _Unreachable(f"the HTTP API did not answer: {error}") from None
    yield from _clock(response.getheader("Date"))
    try:
        taken = response.status == 200 and "channels" in json.loads(body)  # noqa: PLR2004 - OK
    except (ValueError, TypeError):
        taken = False
    if taken:
        yield Finding(FINE, "HTTP API", "a signed request succeeds")
    elif response.status == 404 and "app_id" not in body:  # noqa: PLR2004 - Not Found
        yield Finding(
            HINT, "HTTP API", "not found: correct if the HTTP API has a separate, private port"
        )
    else:
        yield Finding(FAULT, "HTTP API", f"the answer was {response.status}: {body[:200]}")


def _clock(date: str | None) -> Iterator[Finding]:
    if date is None:
        return
    try:
        skew_s = parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        return
    if abs(skew_s) > SKEW_HINT_S:
        yield Finding(
            HINT,
            "clock",
            f"{abs(skew_s):.0f} s off the clock of the server: signed requests are refused from"
            " 600 s on",
        )
    else:
        yield Finding(FINE, "clock", "the clocks of the server and of this machine agree")


@contextmanager
def _connected(address: SplitResult) -> Iterator[socket.socket]:
    """Connect, for TIMEOUT_S at the most: one who says a byte now and then is cut off, too."""

    def cut() -> None:
        with suppress(OSError):  # it has left
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    with _connection(address) as connection:
        timer = threading.Timer(TIMEOUT_S, cut)
        timer.start()
        try:
            yield connection
        finally:
            timer.cancel()


def _connection(address: SplitResult) -> socket.socket:
    secure = address.scheme in ("wss", "https")
    host = address.hostname or ""
    try:
        port = address.port or (443 if secure else 80)
        plain = socket.create_connection((host, port), timeout=TIMEOUT_S)
        if not secure:
            return plain
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise _Unreachable(
            f"{host}: the certificate is not valid: {error.verify_message}"
        ) from None
    except (OSError, ValueError) as error:
        raise _Unreachable(f"{host} cannot be reached: {error}") from None


def _received(connection: socket.socket) -> bytes:
    try:
        part = connection.recv(HELD_LINES)
    except TimeoutError:
        raise
    except OSError as error:
        raise _Unreachable(f"the connection failed: {error}") from None
    if not part:
        raise _Unreachable("the connection was closed before the answer was complete")
    return part


def _head_of(connection: socket.socket) -> tuple[list[str], bytes]:
    """Return the lines of an answer's head, and what came behind it."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _received(connection)
        if len(received) > HELD_LINES:
            raise _Unreachable("the answer is not HTTP")
    head, _, rest = received.partition(b"\r\n\r\n")
    return head.decode("latin-1").split("\r\n"), rest
