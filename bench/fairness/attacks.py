"""
The kinds of attackers: what each sends, what the server needs for it, and what proves it.

Knows what an attack is made of; knows nothing of processes and times.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from bench import messages
from bench.messages import FINAL, NO_MASK, PING, frame, message

Mode = Literal["flood", "trickle", "return", "alternate"]

BLOCK_BYTES = 1 << 18
"""Units are repeated until there is this much of them, as a write of a few bytes is a slow one."""

MESSAGE_BYTES = 128 * 1024
"""The largest message of a client that the server takes, by default."""

HEAD_BYTES = 15 * 1024
"""Nearly the largest head of a request that the server takes, by default."""

GREETING = "connection_established"
PONG = "pusher:pong"
WRONG_SIGNATURE = "0" * 64

HOLDERS, HELD_EACH = 1_000, 100
"""Idle clients, and the channels that each keeps occupied, while lists are asked for."""

LEAVING_CHANNELS = 100_000
"""Channels that the clients that come back occupy together, where there are many of them."""

MOST_CHANNELS_EACH = 5_000

KEPT_CHANNEL = "fair-kept"
KEPT_EVENTS, KEPT_BYTES = 100, 10_000
"""The history that clients resume over and over: 1 MB."""

SINCE = b"1000000000.125"
"""In a unit whose mask changes nothing: stands for a time (seconds since 1970)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """
    What every connection of an attacker does.

    It sends *opening*, waits for *greeting*, and then sends *units*, one after the other.
    """

    units: Sequence[bytes]
    proof: bytes
    """Is in the answer to the first unit; an attack that is not answered so is none."""

    counted: str
    """What a unit is, in the plural."""

    mode: Mode = "flood"
    opening: bytes = b""
    greeting: str = ""
    answer: str = ""
    """Where it disconnects and comes back: what it waits for before. Any byte where it is empty."""

    read: bool = True
    together: bool = False
    """All connections disconnect at the same time."""

    numbered: bool = False
    pause_us: int = 0
    times: int = 1
    """How often the second unit follows the first, where they alternate."""

    encrypted: bool = False
    """It speaks TLS, instead of sending what was made beforehand."""

    def since(self, unix_s: float) -> "Attack":
        """Return this attack on a history that began after *unix_s*."""
        time = f"{unix_s:0{len(SINCE)}.3f}".encode()
        return replace(self, units=[unit.replace(SINCE, time) for unit in self.units])

    def block(self) -> tuple[bytes, int]:
        """Return the bytes that are sent over and over, and how many units they are."""
        once = b"".join(self.units)
        once_only = self.mode in ("return", "alternate")
        times = 1 if once_only else max(1, BLOCK_BYTES // len(once))
        return once * times, len(self.units) * times


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A row of the table for each number of connections."""

    title: str
    attack: Callable[[int], Attack]
    """Makes the attack for so many connections."""

    flags: Mapping[str, str] = field(default_factory=dict)
    """Options of the server without which there is nothing to attack."""

    tls: bool = False
    held: bool = False
    """Other clients keep channels occupied meanwhile."""

    kept: bool = False
    """A channel keeps events, which were published before."""

    baseline: bool = False
    """The plainest server understands it, too."""


def websocket(
    units: Sequence[bytes],
    counted: str,
    proof: bytes = b"pusher:error",
    *,
    compressed: bool = False,
) -> Attack:
    """Return the attack that sends *units* over WebSockets."""
    return Attack(
        opening=messages.upgrade(compressed=compressed),
        greeting=GREETING,
        units=units,
        counted=counted,
        proof=proof,
    )


def requests(unit: bytes, proof: bytes, *, read: bool = True) -> Attack:
    """Return the attack that pipelines *unit*."""
    return Attack(units=[unit], counted="requests", proof=proof, read=read)


# -- HTTP ----------------------------------------------------------------------------------------

SMALLEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def bad_requests(_connections: int) -> Attack:
    """Publishes and questions whose signatures are wrong."""
    body = json.dumps({"name": "e", "channels": ["fair"], "data": "x" * 1000}).encode()
    units = [
        messages.request("POST", "/apps/1/events", body, signature=WRONG_SIGNATURE),
        messages.request("GET", "/apps/1/channels", signature=WRONG_SIGNATURE),
    ]
    return Attack(units=units, counted="requests", proof=b"HTTP/1.1 401")


def slow_heads(_connections: int) -> Attack:
    """Heads of nearly the size that is allowed, whose bytes come alone."""
    lines = "".join(f"X-Header-{at:03}: {'v' * 34}\r\n" for at in range(HEAD_BYTES // 50))
    unit = f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()
    return Attack(units=[unit], counted="requests", proof=b"HTTP/1.1 ", mode="trickle")


# -- WebSockets ----------------------------------------------------------------------------------


def bad_json(_connections: int) -> Attack:
    """Texts that are no JSON, or not a message."""
    texts = (
        '{"event":',
        "{'event':'pusher:ping'}",
        '["pusher:ping"]',
        '{"event":"pusher:subscribe","data":{"channel":NaN}}',
        '{"event":17}',
        '{"event":"pusher:subscribe","data":"{\\"channel\\""}',
        '{"data":{}}',
        "[" * 500,
    )
    return websocket([frame(text.encode()) for text in texts], "messages")


def bad_subscribes(_connections: int) -> Attack:
    """Private channels, for which the signature is wrong."""
    data = {"channel": "private-fair", "auth": f"bench-key:{WRONG_SIGNATURE}"}
    # How a refusal looks is the server's choice; that it names the channel is not.
    return websocket([message("pusher:subscribe", data)], "messages", b"pusher")


def subscribes(_connections: int) -> Attack:
    """Channels that are occupied and vacated over and over."""
    units = []
    for at in range(200):
        data = {"channel": f"come-and-go-{at}"}
        units += [message("pusher:subscribe", data), message("pusher:unsubscribe", data)]
    return websocket(units, "messages", b"subscription_succeeded")


def filled(opening: str, with_: str, end: str) -> bytes:
    """Return the largest message that is *opening*, *with_* over and over, and *end*."""
    room = MESSAGE_BYTES - len(opening) - len(end)
    return f"{opening}{with_ * (room // len(with_))}{end}".encode()


def large_texts(with_: str) -> list[bytes]:
    """
    Return the largest messages of which a field is *with_* over and over.

    The answer to the first is short, whatever of a message the server repeats.
    """
    return [
        filled('{"event":"fair","data":{},"channel":"', with_, '"}'),
        filled('{"event":"pusher:subscribe","data":{"channel":"', with_, '"}}'),
        filled('{"event":"', with_, '"}'),
    ]


LETTERS = large_texts("a")
LONE_SURROGATES = large_texts(r"\ud800")


def inflating(payloads: Sequence[bytes]) -> Callable[[int], Attack]:
    """Make an attack of small frames that inflate to *payloads*."""

    def attack(_connections: int) -> Attack:
        frames = [messages.compressed(payload) for payload in payloads]
        return websocket(frames, "messages", compressed=True)

    return attack


def surrogates(_connections: int) -> Attack:
    """Large messages whose fields, each in its turn, are lone surrogates."""
    return websocket([frame(text) for text in LONE_SURROGATES], "messages")


def alternating(_connections: int) -> Attack:
    """Clients that send something expensive after two messages that seem harmless, and so on."""
    units = [messages.compressed(LONE_SURROGATES[0]), message("pusher:ping")]
    attack = websocket(units, "bytes", compressed=True)
    return replace(attack, mode="alternate", times=2)


def slow_frames(_connections: int) -> Attack:
    """Messages of the largest size, whose bytes come alone."""
    return replace(websocket([frame(LETTERS[0])], "messages"), mode="trickle")


def _subscribing(prefix: str, each: int, counted: str) -> Attack:
    """Clients with *each* channels of their own, which then wait for a pong."""
    channels = [{"channel": f"{prefix}-@@@@@@-{at}"} for at in range(each)]
    subscribes = [message("pusher:subscribe", channel, mask=NO_MASK) for channel in channels]
    return Attack(
        opening=messages.upgrade(),
        greeting=GREETING,
        units=[*subscribes, message("pusher:ping")],
        counted=counted,
        proof=b"subscription_succeeded",
        mode="return",
        answer=PONG,
        numbered=True,
    )


def leaving(connections: int) -> Attack:
    """Clients with channels of their own, all of which disconnect at once and come back."""
    each = max(1, min(MOST_CHANNELS_EACH, LEAVING_CHANNELS // connections))
    return replace(_subscribing("left", each, "disconnects"), together=True)


def resumes(_connections: int) -> Attack:
    """Clients that receive all of a history, disconnect and come back for it."""
    data = {"channel": KEPT_CHANNEL, "history": {"since": float(SINCE)}}
    return Attack(
        opening=messages.upgrade(),
        greeting=GREETING,
        units=[message("pusher:subscribe", data, mask=NO_MASK)],
        counted="histories",
        proof=b"pusher_internal:next_position",
        mode="return",
        answer="pusher_internal:position",
    )


def holders() -> Attack:
    """Return what idle clients do that keep channels occupied."""
    return _subscribing("held", HELD_EACH, "clients")


# -- TLS -----------------------------------------------------------------------------------------


def handshakes(_connections: int) -> Attack:
    """
    Handshakes that end when the server has signed its part.

    All of them begin with the same bytes, so they cost the attacker nothing.
    """
    hello = messages.client_hello()
    return Attack(units=[hello], counted="handshakes", proof=b"\x16\x03", mode="return")


def encrypted_gets(_connections: int) -> Attack:
    """Requests through TLS."""
    return Attack(units=[SMALLEST], counted="requests", proof=b"HTTP/1.1 ", encrypted=True)


COMPRESSION = {"enable_ws_compression": "true"}

KINDS: Mapping[str, Kind] = {
    "gets": Kind(
        title="pipelined `GET /`",
        attack=lambda _: requests(SMALLEST, b"HTTP/1.1 "),
        baseline=True,
    ),
    "gets-unread": Kind(
        title="pipelined `GET /`, answers not read",
        attack=lambda _: requests(SMALLEST, b"HTTP/1.1 ", read=False),
    ),
    "lists": Kind(
        title=f"signed `GET /channels` over {HOLDERS * HELD_EACH:,} channels",
        attack=lambda _: requests(messages.channels(), b"HTTP/1.1 200"),
        held=True,
    ),
    "searches": Kind(
        title="the same requests, with a prefix that no channel has",
        attack=lambda _: requests(messages.channels("filter_by_prefix=none"), b"HTTP/1.1 200"),
        held=True,
    ),
    "bad-json": Kind(title="bad JSON", attack=bad_json),
    "bad-requests": Kind(title="API requests with a wrong signature", attack=bad_requests),
    "bad-subscribes": Kind(
        title="private subscribes with a wrong signature", attack=bad_subscribes
    ),
    "subscribes": Kind(title="subscribe and unsubscribe", attack=subscribes),
    "ping-frames": Kind(
        title="ping frames",
        attack=lambda _: websocket([frame(b"", PING)], "messages", bytes([FINAL | 0xA])),
    ),
    "pings": Kind(
        title="`pusher:ping`",
        attack=lambda _: websocket([message("pusher:ping")], "messages", PONG.encode()),
        baseline=True,
    ),
    "inflating": Kind(
        title=f"{len(messages.compressed(LETTERS[0]))} bytes that inflate to 128 KiB",
        attack=inflating(LETTERS),
        flags=COMPRESSION,
    ),
    "inflating-surrogates": Kind(
        title="the same size of frame, with lone surrogates",
        attack=inflating(LONE_SURROGATES),
        flags=COMPRESSION,
    ),
    "alternating": Kind(
        title="one such frame and two pings in turns, each after an answer",
        attack=alternating,
        flags=COMPRESSION,
    ),
    "surrogates": Kind(title="128 KiB of lone surrogates", attack=surrogates),
    "tls-gets": Kind(title="pipelined `GET /` through TLS", attack=encrypted_gets, tls=True),
    "tls-handshakes": Kind(title="TLS handshakes", attack=handshakes, tls=True),
    "slow-heads": Kind(title="request heads, byte by byte", attack=slow_heads),
    "slow-frames": Kind(title="frames, byte by byte", attack=slow_frames),
    "leaving": Kind(
        title="clients with thousands of subscriptions that disconnect and come back",
        attack=leaving,
        flags={"max_subscriptions": str(MOST_CHANNELS_EACH)},
    ),
    "resumes": Kind(
        title=f"clients that resume {KEPT_EVENTS * KEPT_BYTES // 1_000_000} MB of history over"
        " and over",
        attack=resumes,
        flags={"broker": "memory", "history_limit": str(KEPT_EVENTS)},
        kept=True,
    ),
}
