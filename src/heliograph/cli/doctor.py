"""
Checks of a server's environment, before or after its start, and the report of the results.

Checks the system's limits, the files of the configuration, and the way through a proxy to a running
server's public address. Changes nothing, except that a missing webhook folder is created.
"""

import asyncio
import os
import re
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import aiohttp
from msgspec import Struct

from heliograph.client.errors import (
    Disconnected,
    InvalidAnswer,
    NoGreeting,
    NotUpgraded,
    Refused,
    RemoteError,
    Unreachable,
)
from heliograph.client.listener import Listener
from heliograph.client.publisher import Answer, Publisher
from heliograph.client.signing import Credentials
from heliograph.client.urls import HTTP, WEBSOCKET, base_url
from heliograph.config.settings import Config
from heliograph.errors import ConfigError

TIMEOUT_S = 10.0
"""Time-out of a request in seconds, from the beginning of the connection to its end."""

GREETING_S = 5.0
"""Seconds for the first message, which the server sends together with the handshake."""

FEW_DESCRIPTORS = 10_000
SKEW_HINT_S = 30.0
"""
Clock difference in seconds above which there is a hint: it may grow to ten minutes, and then every
publish request is refused.
"""

EXPIRES_SOON = timedelta(days=21)
MAX_ANSWER_BYTES = 65536
MAX_METRICS_BYTES = 16 << 20
MIB = 1 << 20
GATEWAY_ERRORS = (502, 503, 504)
UNKNOWN_KEY, UNAUTHORIZED = 4001, 4009

FINE, HINT, FAULT = "ok", "hint", "fault"


class Finding(Struct, frozen=True):
    """The subject of a check, its result (FINE, HINT or FAULT), and a remedy if it is not fine."""

    state: str
    subject: str
    text: str


def examine(
    config: Config, url: str | None, *, wait_s: float = 0.0, origin: str | None = None
) -> Iterator[Finding]:
    """
    Run all checks. *url*, if given, is the public address of a running server.

    At *url*, a client stays connected for *wait_s* seconds, to find out whether a proxy disconnects
    it. The client sends *origin* as its Origin, by default the first of the app's allowed_origins.
    """
    yield _descriptors()
    yield from _certificate(config)
    yield from _folder(config)
    yield _history(config)
    if url is None:
        yield Finding(
            HINT,
            "public URL",
            "not checked: give the URL as an argument, such as wss://ws.example.com",
        )
    else:
        yield from _public(config, url, wait_s=wait_s, origin=origin)


def report(findings: Iterator[Finding], write: Callable[[str], object]) -> int:
    """Write each finding on a line; return the exit status, which is 1 if there is a fault."""
    status = 0
    for finding in findings:
        # A finding may contain text that the remote server sent.
        text = "".join(one if one.isprintable() else " " for one in finding.text)
        write(f"{finding.state:5}  {finding.subject}: {' '.join(text.split())}")
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


def _history(config: Config) -> Finding:
    settings = config.event_history
    rules = [rule for app in config.apps for rule in app.history]
    keeping = [rule for rule in rules if rule.limit]
    if every := settings.every:
        on = f"on for every channel: the last {every.limit:,} events of each, for {every.ttl:g} s"
        if rules:
            on = f"{on}, except {_of_rules(len(rules))}"
    elif keeping:
        on = f"on for the channels of {_of_rules(len(keeping))}"
    else:
        return Finding(
            FINE,
            "history",
            "off: a client that was away misses what was published meanwhile; --broker memory"
            " turns it on",
        )
    return Finding(FINE, "history", f"{on}; {_mib(settings.history_max_bytes)} at most")


def _of_rules(count: int) -> str:
    return f"{count} {'rule' if count == 1 else 'rules'} of [[apps.history]]"


def _mib(count: float) -> str:
    return f"{count / MIB:.1f}".removesuffix(".0") + " MiB"


# -- The way through the proxy -------------------------------------------------------------------


class _Way(Struct, frozen=True):
    """The way to a running server: its URL, an app of it, and the page of the client."""

    url: str
    app_id: str
    credentials: Credentials
    page: str | None
    invented: bool  # there is no app in the configuration

    def by(self, url: str) -> "_Way":
        return _Way(url, self.app_id, self.credentials, self.page, self.invented)


def _public(config: Config, url: str, *, wait_s: float, origin: str | None) -> Iterator[Finding]:
    try:
        address = urlsplit(base_url(url if "://" in url else f"wss://{url}", WEBSOCKET))
    except ValueError:
        yield Finding(FAULT, "public URL", f"{url} is not a URL such as wss://ws.example.com")
        return
    if not address.path:
        address = address._replace(path=config.http_requests.path_prefix)
    app = next(iter(config.apps))
    key = app.keys[0]
    page = (origin and origin.removesuffix("/")) or next(
        (one for one in app.allowed_origins if "*" not in one), None
    )
    page = f"https://{page}" if page is not None and "://" not in page else page
    credentials = Credentials(key.key, key.secret)
    way = _Way(address.geturl(), app.id, credentials, page, config.development)
    try:
        try:
            yield from _websocket(way)
        except Unreachable:
            if "://" in url:
                raise
            way = way.by(address._replace(scheme="ws").geturl())  # the URL may mean either
            yield from _websocket(way)
        if config.development:
            yield Finding(
                HINT,
                "HTTP API",
                "not checked: set --pusher_app_id, --pusher_app_key and --pusher_secret,"
                " or --config",
            )
        else:
            yield from asyncio.run(_api(way))
        yield from _kept_events(config, way.url)
        if wait_s and config.development:
            yield Finding(HINT, "idle time-out", "not measured: set the app, as for the HTTP API")
        elif wait_s:
            yield asyncio.run(_wait(way, wait_s))
    except RemoteError as error:
        yield Finding(FAULT, "public URL", str(error))


def _websocket(way: _Way) -> Iterator[Finding]:
    """Check the certificate that clients receive, and whether a client can connect."""
    yield from _received_certificate(urlsplit(way.url))
    yield asyncio.run(_connect(way))


async def _connect(way: _Way) -> Finding:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            client = await _listener(way)
            await client.close()
    except NotUpgraded as answer:
        reason = (
            "the proxy cannot reach the server"
            if answer.status in GATEWAY_ERRORS
            else "the proxy must pass on the headers Upgrade and Connection, use HTTP/1.1, and"
            " leave the path unchanged"
        )
        return Finding(FAULT, "WebSocket", f"{answer}: {reason}")
    except NoGreeting as error:
        return Finding(
            FAULT,
            "WebSocket",
            f"{error}: a proxy buffers what the server sends (in nginx, set proxy_buffering off)",
        )
    except Refused as refused:
        return _refused(refused, way)
    except TimeoutError:
        raise Unreachable(f"the answer was not complete within {TIMEOUT_S:g} s") from None
    return Finding(FINE, "WebSocket", "a client can connect")


async def _listener(way: _Way) -> Listener:
    """Return a client that sends no pings."""
    return await Listener.connect(
        way.url,
        way.credentials,
        origin=way.page,
        client="heliograph-doctor",
        open_timeout_s=TIMEOUT_S,
        greeting_timeout_s=GREETING_S,
        activity_timeout_s=0,
    )


def _refused(refused: Refused, way: _Way) -> Finding:
    if refused.code == UNKNOWN_KEY and way.invented:
        return Finding(
            FINE,
            "WebSocket",
            "a client reaches the server; without an app, nothing more can be checked",
        )
    advice = ""
    if refused.code == UNKNOWN_KEY:
        advice = ": the server has no app with this --pusher_app_key"
    elif refused.code == UNAUTHORIZED:
        comes = "without an Origin header" if way.page is None else f"from {way.page}"
        advice = f": a page {comes} is not in the app's allowed_origins (--origin sets another one)"
    return Finding(
        FAULT, "WebSocket", f"a client reaches the server and is refused{advice}: {refused}"
    )


async def _wait(way: _Way, wait_s: float) -> Finding:
    """Keep a client connected, and find out which side closes the connection."""
    now = asyncio.get_running_loop().time
    longest_s = 0.0
    async with await _listener(way) as client:
        began = now()
        while (left_s := began + wait_s - now()) > 0:
            before = client.last_frame_at
            try:
                async with asyncio.timeout(min(left_s, 0.25)):
                    await client.receive()
            except TimeoutError:
                pass  # the time of the last frame shows whether one arrived
            except Disconnected as ended:
                return _cut(ended, silent_s=now() - client.last_frame_at, after_s=now() - began)
            longest_s = max(longest_s, client.last_frame_at - before)
        longest_s = max(longest_s, now() - client.last_frame_at)
    return Finding(
        FINE,
        "idle time-out",
        f"a client stayed connected for {wait_s:.0f} s; the longest silence was {longest_s:.0f} s",
    )


def _cut(ended: Disconnected, *, silent_s: float, after_s: float) -> Finding:
    if ended.code is not None:
        return Finding(
            FAULT,
            "idle time-out",
            f"the server closed the connection after {after_s:.0f} s: {ended}",
        )
    return Finding(
        FAULT,
        "idle time-out",
        f"a proxy closed the connection after {silent_s:.0f} s of silence: raise its idle time-out"
        " (proxy_read_timeout in nginx, timeout tunnel in HAProxy, the idle timeout of a cloud load"
        f" balancer), or set --ping_interval below {max(silent_s, 1):.0f}",
    )


def _received_certificate(address: SplitResult) -> Iterator[Finding]:
    """Check the certificate that clients receive, which may be a proxy's."""
    if address.scheme != "wss":
        return
    host = address.hostname or ""
    try:
        with (
            socket.create_connection((host, address.port or 443), TIMEOUT_S) as connection,
            ssl.create_default_context().wrap_socket(connection, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert()
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"{host}: the certificate is not valid: {error.verify_message}") from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"{host} cannot be reached: {error}") from None
    if certificate:
        begin, end = (
            datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate[name])), UTC)
            for name in ("notBefore", "notAfter")
        )
        yield _dates(f"the certificate of {host}", begin, end, "renew it")


async def _api(way: _Way) -> list[Finding]:
    # A prefix that no channel has, so that the answer is short.
    parameters = [("filter_by_prefix", "heliograph-doctor-")]
    async with Publisher(
        way.url,
        way.app_id,
        way.credentials,
        timeout_s=TIMEOUT_S,
        max_answer_bytes=MAX_ANSWER_BYTES,
    ) as publisher:
        try:
            answer = await publisher.request("GET", "/channels", parameters=parameters)
        except RemoteError as error:
            raise Unreachable(f"the HTTP API did not answer: {error}") from error
    return [*_clock(answer.headers.get("date")), _judged(answer)]


def _judged(answer: Answer) -> Finding:
    if answer.status == HTTPStatus.NOT_FOUND and "app_id" not in answer.text:
        return Finding(
            HINT, "HTTP API", "not found: correct if the HTTP API has a separate, private port"
        )
    try:
        found = "channels" in answer.json()
    except RemoteError:
        found = False
    if found:
        return Finding(FINE, "HTTP API", "a signed request succeeds")
    return Finding(FAULT, "HTTP API", f"the answer was {answer.status}: {answer.text[:200]}")


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


# -- Metrics ---------------------------------------------------------------------------------------


def _kept_events(config: Config, url: str) -> Iterator[Finding]:
    """Check how much the server at *url* keeps for clients, if it has a page of metrics."""
    monitoring, history = config.monitoring, config.event_history
    if not (monitoring.metrics or monitoring.metrics_port):
        if history.every or any(app.history for app in config.apps):
            yield Finding(
                HINT, "kept events", "not checked: the server needs --metrics or --metrics_port"
            )
        return
    page = metrics_url(config, url)
    try:
        found = _sums(asyncio.run(_page(page, monitoring.metrics_token)))
    except RemoteError as error:
        yield Finding(HINT, "kept events", f"not checked: {page}: {error}")
        return
    if "heliograph_history_events" not in found:
        yield Finding(HINT, "kept events", "not checked: the engine of the server counts none")
        return
    events, channels, size, evicted = (
        found.get(f"heliograph_{name}", 0.0)
        for name in ("history_events", "history_channels", "history_bytes", "evicted_events_total")
    )
    bound = found.get("heliograph_history_max_bytes")
    kept = f"{events:,.0f} of {channels:,.0f} channels"
    size_of_bound = _mib(size) + (f" of {_mib(bound)}" if bound else "")
    if evicted:
        yield Finding(
            HINT,
            "kept events",
            f"{kept}, {size_of_bound}; {evicted:,.0f} were dropped before they expired: raise"
            " --history_max_bytes, or lower --history_limit or --history_ttl",
        )
    else:
        yield Finding(
            FINE, "kept events", f"{kept}, {size_of_bound}; none was dropped before it expired"
        )


def metrics_url(config: Config, url: str) -> str:
    """Return the address of the page: on a port of this machine, or else below *url*."""
    port = config.monitoring.metrics_port or config.listening.pusher_api_port
    if not port:
        parts = urlsplit(url)
        return f"{HTTP[parts.scheme]}://{parts.netloc}/metrics"
    host = next(iter(config.listening.host), "")
    host = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not listened on here
    scheme = "https" if config.certificate.ssl_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/metrics"


async def _page(url: str, token: str | None) -> str:
    """Return the text of the page of metrics. Raises RemoteError."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=ssl.create_default_context())
            ) as session,
            session.get(url, headers=headers, allow_redirects=False) as answer,
        ):
            if answer.status == HTTPStatus.UNAUTHORIZED:
                raise InvalidAnswer("the server refused --metrics_token")
            if answer.status != HTTPStatus.OK:
                raise InvalidAnswer(f"the answer was {answer.status}")
            received = bytearray()
            async for part in answer.content.iter_any():
                received += part
                if len(received) > MAX_METRICS_BYTES:
                    raise InvalidAnswer(f"the answer exceeds {_mib(MAX_METRICS_BYTES)}")
    except TimeoutError:
        raise Unreachable(f"no answer within {TIMEOUT_S:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(str(error) or type(error).__name__) from None
    return received.decode(errors="replace")


_SAMPLE = re.compile(r"^(heliograph_\w+)(?:\{.*\})? ([0-9.e+-]+)$", re.ASCII | re.MULTILINE)


def _sums(page: str) -> dict[str, float]:
    """Return the metrics of *page*, each summed over its labels. Raises RemoteError."""
    sums: dict[str, float] = {}
    try:
        for name, value in _SAMPLE.findall(page):
            sums[name] = sums.get(name, 0.0) + float(value)
    except ValueError:
        raise InvalidAnswer("the answer is not a page of metrics") from None
    if not sums:
        raise InvalidAnswer("the answer is not a page of metrics")
    return sums
