"""
Programs to measure with, and servers to measure: built, started, pinned and ended.

Knows compilers, processes, processor cores and /proc; knows nothing of what is measured.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILT = ROOT / "build" / "bench"
COMPILED = ROOT / ".compiled" / "bin" / "python"
"""Has the server compiled, after `make compile`."""

SERVER_CORE = 0
LOAD_CORE = 1
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
AFTERMATH_S = 1.0
"""How long a server has to forget thousands of clients."""

LOAD_TIMEOUT_S = 600.0
"""A server whose queue has grown may need minutes to deliver it."""

LOAD_BUSY = 0.95
"""A load that had something to do for this share of the time, or more, had no time to spare."""

SERVER_BUSY = 0.9
"""A server that uses this share of its core, or more, is what limits the figures."""

RESTING_S, REST_TIMEOUT_S = 0.3, 10.0
"""The server has taken in what it was sent when its memory did not change for so long."""

SHORTEST_SHARED_S = 0.5
"""In less time, the kernel's clock of processor time is too coarse for a share of it."""

GROWS = 0.1
"""A queue that takes this share of what was delivered meanwhile, or more, grows."""

KEY = "bench-key"
SECRET = "bench-secret"  # noqa: S105 - of a server that lives for minutes, on loopback
APP = "1"


class BenchError(Exception):
    """The benchmark cannot go on, or its figures would not be worth much; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    A server to measure.

    Without a *pid*, nothing is known of how it spends its time. One that is not *pinned* may use
    every core, that of the load included. Of one that *may_lose* events, losses are reported; of
    others, they are a failure. A *baseline* may be limited by the load: then it is faster than what
    was measured, and its row says so.
    """

    port: int
    api_port: int
    host: str = "127.0.0.1"
    app: str = APP
    key: str = KEY
    secret: str = SECRET
    path: str = ""
    pid: int | None = None
    pinned: bool = True
    may_lose: bool = False
    baseline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One version of Heliograph that can be started: the tree's, or that of a commit."""

    name: str  # what tables and messages call it
    source: Path  # the root of its sources
    python: str  # the interpreter with its dependencies, and the package itself where compiled
    compiled: bool
    options: frozenset[str] | None = None  # the flags that it knows; None where it knows all

    @property
    def environment(self) -> dict[str, str]:
        """
        Return the environment in which *python* imports this build's package.

        An inherited PYTHONPATH precedes what is installed, and would replace the compiled package.
        """
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if not self.compiled:
            environment["PYTHONPATH"] = str(self.source / "src")
        return environment

    def knows(self, flag: str) -> bool:
        """Return whether the server takes *flag*, as in `--port` or `--port=80`."""
        return self.options is None or flag.partition("=")[0] in self.options


def tree(*, interpreted: bool) -> Build:
    """Return the build of this tree: compiled, where `make compile` was and it is wanted."""
    found = python(interpreted=interpreted)
    return Build(name="the tree", source=ROOT, python=found, compiled=found != sys.executable)


# -- Compiling ---------------------------------------------------------------------------------


def compiler() -> str | None:
    """Return a C compiler, if this machine has one."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def build(name: str) -> Path:
    """
    Return one of the C programs beside this file, compiled if it changed since it last was.

    Raises BenchError.
    """
    found = compiler()
    if found is None:
        raise BenchError("there is no C compiler (cc, gcc or clang) on this machine")
    BUILT.mkdir(parents=True, exist_ok=True)
    program = BUILT / name
    changed = max(path.stat().st_mtime for path in (HERE / f"{name}.c", *HERE.glob("*.h")))
    if program.exists() and program.stat().st_mtime > changed:
        return program
    command = [found, "-O2", "-o", str(program), str(HERE / f"{name}.c"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{name}.c does not compile:\n{done.stderr}")
    return program


# -- Processes ---------------------------------------------------------------------------------


def end_children_on_sigterm() -> None:
    """Have SIGTERM end this program as an error would, through each block that runs a process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, with all its threads, where there are several to choose from."""
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        return
    pinned: set[int] = set()
    # A thread that is started meanwhile has the cores of the one that started it.
    while threads := {int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()} - pinned:
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, {core})
        pinned |= threads


@contextlib.contextmanager
def sigterm_held() -> Iterator[Callable[[], None]]:
    """
    Hold SIGTERM back until the function that is yielded is called, or the block ends.

    What interrupts the start of a process leaves one that no block ends.
    """
    came: list[int] = []
    previous: Any = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))

    def release() -> None:
        nonlocal previous
        if previous is not None:
            handler, previous = previous, None
            signal.signal(signal.SIGTERM, handler)
            if came:
                signal.raise_signal(signal.SIGTERM)

    try:
        yield release
    finally:
        release()


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on the servers' core until the block ends. Raises BenchError."""
    # A file: a pipe that nobody empties would stop a server that complains a lot.
    with tempfile.TemporaryFile() as log, sigterm_held() as release:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
        try:
            release()
            pin(process.pid, SERVER_CORE)
            _await_port(process, port, log)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    given_up = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < given_up:
        if process.poll() is not None:
            log.seek(0)
            said = log.read().decode(errors="replace")
            raise BenchError(f"a server did not start: {said.strip()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise BenchError(f"nobody listens on port {port} after {START_TIMEOUT_S:.0f} s")


@contextlib.contextmanager
def baseline(payload_bytes: int) -> Iterator[Target]:
    """Run the server in C that writes each event by itself, all of *payload_bytes*."""
    port = free_port()
    command = [str(build("baseline")), str(port), str(payload_bytes)]
    with running(command, port) as process:
        yield Target(port=port, api_port=port, pid=process.pid, baseline=True)


@contextlib.contextmanager
def coalescing() -> Iterator[Target]:
    """Run the server in C that writes once for each subscriber and turn."""
    port = free_port()
    command = [str(build("coalescing")), str(port), KEY, SECRET]
    with running(command, port) as process:
        yield Target(port=port, api_port=port, pid=process.pid, baseline=True)


def python(*, interpreted: bool) -> str:
    """Return the Python that the server runs in: one that has it compiled, where there is one."""
    return str(COMPILED) if COMPILED.exists() and not interpreted else sys.executable


LIFTED_LIMITS = ("--max_client_events_per_second=0", "--max_presence_members=0")
"""With them there would be nothing to measure. A build that does not know one has no such limit."""


NO_VARIABLES: Mapping[str, str] = {}

LARGE_IS_MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""In glibc: what is larger is given back when it is freed, and never comes out of the heap."""


@contextlib.contextmanager
def heliograph(
    *flags: str,
    interpreted: bool = False,
    build: Build | None = None,
    variables: Mapping[str, str] = NO_VARIABLES,
) -> Iterator[Target]:
    """
    Run Heliograph as a user would, with *flags* on top of what every workload needs.

    It is *build*, or else the tree's; *variables* are added to its environment. Raises BenchError,
    also where *build* does not know a flag.
    """
    build = build or tree(interpreted=interpreted)
    unknown = [flag for flag in flags if flag.startswith("--") and not build.knows(flag)]
    if unknown:
        raise BenchError(f"{build.name} does not know {', '.join(unknown)}")
    port = free_port()
    command = [
        *(build.python, "-m", "heliograph", "--host", "127.0.0.1", "--port", str(port)),
        *("--pusher_app_id", APP, "--pusher_app_key", KEY, "--pusher_secret", SECRET),
        *("--log_level", "warning", *filter(build.knows, LIFTED_LIMITS), *flags),
    ]
    with running(command, port, {**build.environment, **variables}) as process:
        yield Target(port=port, api_port=port, pid=process.pid)


# -- Load --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the load generator found: see report() in load.c."""

    figures: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Deliveries a second, or clients a second where clients connected."""
        return (self.figures["clients"] or self.figures["deliveries"]) / self.figures["seconds"]

    @property
    def requests(self) -> float:
        """Requests answered a second."""
        return self.figures["answers"] / self.figures["seconds"]

    @property
    def server_busy(self) -> float:
        """The share of its core that the server used; 0 where that cannot be seen."""
        return self.figures["server_user"] + self.figures["server_kernel"]

    @property
    def limited(self) -> bool:
        """Whether the load was the bottleneck: it was busy all the time, and the server was not."""
        long_enough = self.figures["seconds"] >= SHORTEST_SHARED_S
        seen = self.server_busy > 0
        busy = self.figures["load_busy"] >= LOAD_BUSY
        return long_enough and seen and busy and self.server_busy < SERVER_BUSY


def grows(loads: Sequence[Load]) -> bool:
    """
    Return whether the server took events faster than it delivered them, in these rounds together.

    The queue before half-time is compared with the one before the end. In a single round, a queue
    that only swings may seem to grow.
    """
    grown = sum(load.figures["queue_end"] - load.figures["queue_half"] for load in loads)
    return grown > GROWS * sum(load.figures["deliveries"] for load in loads) / 2


def command_of(load: Sequence[str], target: Target, options: Mapping[str, Any]) -> list[str]:
    """Return the command line of the load generator for *target*."""
    aims = {
        "host": target.host,
        "port": target.port,
        "api_port": target.api_port,
        "app": target.app,
        "key": target.key,
        "secret": target.secret,
        "path": target.path,
        "pid": target.pid or 0,
    }
    return [*load, *(f"{name}={value}" for name, value in {**aims, **options}.items())]


@contextlib.contextmanager
def loading(
    command: Sequence[str], stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """Run a program on the load's core. It has ended when the block has, however that ended."""
    pipe = subprocess.PIPE
    with (
        sigterm_held() as release,
        subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=pipe, text=True) as process,
    ):
        try:
            release()
            pin(process.pid, LOAD_CORE)
            yield process
        finally:
            process.kill()


def _await_clients(process: subprocess.Popen[str]) -> str:
    """Return what the load generator prints once its clients are connected. Raises BenchError."""
    printed = process.stdout.readline() if process.stdout is not None else ""
    if not printed:
        _, said = process.communicate()
        raise BenchError(f"the clients did not connect: {said.strip()}")
    return printed


def run_load(load: Sequence[str], target: Target, **options: Any) -> Load:
    """Put *target* under load once. Raises BenchError where the figures would be wrong."""
    with loading(command_of(load, target, options)) as process:
        try:
            printed, said = process.communicate(timeout=LOAD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise BenchError(f"the load did not end within {LOAD_TIMEOUT_S:.0f} s") from None
    if process.returncode:
        raise BenchError(f"the load failed: {said.strip()}")
    found = Load(json.loads(printed.splitlines()[-1]))
    _check(found, target)
    return found


def _check(found: Load, target: Target) -> None:
    figures = found.figures
    if figures["lost"] and not target.may_lose:
        raise BenchError(f"{figures['lost']:.0f} events did not arrive")
    if found.limited and not target.baseline:
        raise BenchError(
            f"the load is the bottleneck: it was busy for {figures['load_busy']:.0%} of the time,"
            f" and the server used {found.server_busy:.0%} of its core"
        )


@contextlib.contextmanager
def holding(load: Sequence[str], target: Target, **options: Any) -> Iterator[Load]:
    """Have clients connected, and idle, while the block runs. Raises BenchError."""
    command = command_of(load, target, {"mode": "idle", **options})
    with loading(command, subprocess.PIPE) as process:
        yield Load(json.loads(_await_clients(process)))
        process.communicate()  # the end of its input asks it to close its connections


@contextlib.contextmanager
def background(load: Sequence[str], target: Target, **options: Any) -> Iterator[None]:
    """Have load that goes on while the block runs, and whose figures do not matter."""
    with loading(command_of(load, target, options)) as process:
        _await_clients(process)
        yield
    time.sleep(AFTERMATH_S)


# -- What the kernel knows of a process ----------------------------------------------------------


def processor_s(pid: int) -> float:
    """Return the processor time that a process has used. Raises BenchError if that is unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        raise BenchError(f"the time of process {pid} cannot be read: {error.strerror}") from None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds. Raises BenchError where that cannot be seen."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError as error:
        raise BenchError(f"the memory of process {pid} cannot be read: {error.strerror}") from None
    return pages * os.sysconf("SC_PAGE_SIZE")


def at_rest(pid: int) -> int:
    """Return the memory of a process once it does not change any more. Raises BenchError."""
    given_up = time.monotonic() + REST_TIMEOUT_S
    size = resident_bytes(pid)
    while time.monotonic() < given_up:
        time.sleep(RESTING_S)
        before, size = size, resident_bytes(pid)
        if size == before:
            return size
    raise BenchError("the server's memory does not come to rest")
