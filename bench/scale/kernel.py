"""
The kernel's memory for connections.

Knows /proc; knows no server. The kernel counts for the whole machine, so that each figure is a
difference between two readings, with as little as possible going on besides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.tools import BenchError

SLABINFO = Path("/proc/slabinfo")
MEMINFO = Path("/proc/meminfo")
SOCKSTAT = Path("/proc/net/sockstat")

PAGE = 4096
INODES = "inode_cache"
OWN_INODES = ("sock_inode_cache", "lsm_inode_cache")
"""Inodes of sockets. The other caches of inodes belong to file systems."""

OBJECTS_EACH = 0.5
"""A cache that grows by fewer objects for each end of a connection grows for other reasons."""


@dataclass(frozen=True, slots=True)
class Reading:
    """
    The kernel's memory at one moment.

    *caches* has the objects of each slab cache and the bytes of one, its share of a page's rest
    included; None where only root may read them.
    """

    caches: Mapping[str, tuple[int, float]] | None
    slab_bytes: int
    buffer_bytes: int  # what TCP has for data that was not read or not acknowledged


@dataclass(frozen=True, slots=True)
class Growth:
    """Bytes that connections have added, both ends of each."""

    source: str  # where the figure is from
    bytes: int
    caches: Mapping[str, int]  # the same, by cache; empty where the kernel does not show that
    buffer_bytes: int


def read() -> Reading:
    """Read what the kernel shows now. Raises BenchError."""
    try:
        meminfo = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        slab_bytes = int(meminfo["Slab"].split()[0]) * 1024
        fields = next(
            line.split() for line in SOCKSTAT.read_text().splitlines() if line.startswith("TCP:")
        )
        buffer_bytes = int(fields[fields.index("mem") + 1]) * PAGE
    except (OSError, KeyError, StopIteration, ValueError) as error:
        raise BenchError(f"the kernel's memory cannot be read: {error}") from None
    try:
        text = SLABINFO.read_text()
    except OSError:
        return Reading(None, slab_bytes, buffer_bytes)
    return Reading(_caches(text), slab_bytes, buffer_bytes)


def _caches(text: str) -> dict[str, tuple[int, float]]:
    found = {}
    for line in text.splitlines()[2:]:
        # name, objects in use, objects, bytes of one, objects in a slab, pages of a slab, ...
        name, active, _, _, each, pages, *_ = line.split()
        found[name] = (int(active), int(pages) * PAGE / int(each))
    return found


def grown(before: Reading, after: Reading, connections: int) -> Growth:
    """Return what *connections*, both ends on this machine, have added between two readings."""
    buffers = after.buffer_bytes - before.buffer_bytes
    if before.caches is None or after.caches is None:
        return Growth("Slab of /proc/meminfo", after.slab_bytes - before.slab_bytes, {}, buffers)
    caches = {}
    for name, (objects, size) in after.caches.items():
        more = objects - before.caches.get(name, (0, size))[0]
        if more >= OBJECTS_EACH * 2 * connections and _of_connections(name):
            caches[name] = round(more * size)
    return Growth("/proc/slabinfo", sum(caches.values()), caches, buffers)


def _of_connections(cache: str) -> bool:
    return not cache.endswith(INODES) or cache in OWN_INODES
