"""
Inputs out of other inputs, with nothing but a seed: for a few seconds anywhere, and for CI.

What breaks is made smaller before it is shown.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz import rig
from fuzz.targets import MAX_INPUT, TARGETS

SPLICES = (
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\0", b"\xff", b"\x81\x80\0\0\0\0", b"\x88\x80\0\0\0\0"),
    *(b"0\r\n\r\n", b"Content-Length: 1", b"Transfer-Encoding: chunked", b"Expect: 100-continue"),
    *(b"HTTP/1.0", b"Connection: close", b"Upgrade: websocket", b"\xed\xa0\x80", b"\\ud800"),
    *(b"&", b"=", b"%", b"%00", b"+", b'"', b"{", b"}", b"[", b"]", b",", b":", b"1e999", b"-0"),
    *(b"[" * 600, b"a" * 300, b"null", b"!", b'{"event":"', b'"data":', b'"channel":'),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What so many inputs showed."""

    tried: int
    slowest_s: float
    broken: bytes | None = None
    why: str = ""


def corpus(folder: Path) -> list[bytes]:
    """Return what is in *folder*, in the same order everywhere."""
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def check(name: str, data: bytes) -> None:
    """Run one input. Raises where a promise is broken."""
    rig.sound_the_alarm()
    TARGETS[name](data)


def run(
    name: str,
    seeds: Sequence[bytes],
    *,
    seed: int,
    seconds: float | None = None,
    inputs: int | None = None,
) -> Found:
    """Try inputs made of *seeds* for so many *seconds*, or so many of them, or until one breaks."""
    chance = random.Random(seed)
    deadline = None if seconds is None else time.monotonic() + seconds
    tried, slowest_s = 0, 0.0
    while (deadline is None or time.monotonic() < deadline) and tried != inputs:
        data = seeds[tried] if tried < len(seeds) else _mutated(chance, seeds)
        tried += 1
        begun = time.perf_counter()
        why = _why(name, data)
        slowest_s = max(slowest_s, time.perf_counter() - begun)
        if why:
            smaller = _smaller(name, data)
            return Found(tried, slowest_s, smaller, _why(name, smaller) or why)
    return Found(tried, slowest_s)


def _why(name: str, data: bytes) -> str:
    """Return what breaks with *data*, if anything does."""
    try:
        check(name, data)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what we are looking for
        return f"{type(error).__name__}: {error}"
    return ""


def _mutated(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    data = chance.choice(seeds)
    for _ in range(chance.randint(1, 5)):
        start = chance.randint(0, len(data))
        end = min(start + chance.choice((0, 0, 1, 1, 2, 5, 40)), len(data))
        data = data[:start] + _splice(chance, seeds, data, start) + data[end:]
    return data[:MAX_INPUT]


def _splice(chance: random.Random, seeds: Sequence[bytes], data: bytes, at: int) -> bytes:
    kind = chance.randrange(6)
    if kind == 0:
        return b""
    if kind == 1:
        return chance.randbytes(chance.randint(1, 4))
    if kind == 2:
        return chance.choice(SPLICES)
    if kind == 3 and at < len(data):
        return bytes([data[at] ^ 1 << chance.randrange(8)])
    other = data if kind == 4 else chance.choice(seeds)
    start = chance.randint(0, len(other))
    return other[start : start + chance.randint(1, 80)]


def _smaller(name: str, data: bytes) -> bytes:
    """Return *data* without what it breaks without."""
    length = max(len(data) // 2, 1)
    while length:
        start = 0
        while start < len(data):
            without = data[:start] + data[start + length :]
            if _why(name, without):
                data = without
            else:
                start += length
        length //= 2
    return data
