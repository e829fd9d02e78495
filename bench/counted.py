"""
Heliograph in a process that tells what it encoded, and how often it had the kernel write.

    python -m bench.counted PORT

A line on standard input is answered by one of JSON; the server ends when the input does.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from bench import tools
from bench.tools import APP, KEY, SECRET, BenchError, Build, Load, Target

SETTLE_S = 0.5
"""How long the last joins may take to be told to everybody."""


def counted_presence(
    load: Sequence[str], mode: str, members: int, build: Build
) -> tuple[Load, Mapping[str, int]]:
    """
    Have *members* join one presence channel; return the load's figures and the counters.

    `system_calls` are all that wrote to sockets, those for connecting and acknowledging included.
    What counts inside a server reaches into its parts, so it is that of *build*'s own commit.
    """
    port = tools.free_port()
    command = [build.python, "-m", "bench.counted", str(port)]
    pipe = subprocess.PIPE
    # It ends when its input does, which is where the block ends.
    with subprocess.Popen(
        command, cwd=build.source, env=build.environment, stdin=pipe, stdout=pipe, text=True
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        tools.pin(process.pid, tools.SERVER_CORE)
        if not process.stdout.readline():
            raise BenchError(f"the counted server of {build.name} did not start")
        target = Target(port=port, api_port=port, pid=process.pid)
        parallel = 1 if mode == "idle" else 64
        options = {"mode": mode, "subscribers": members, "parallel": parallel}
        with tools.holding(load, target, prefix="presence-", **options) as found:
            time.sleep(SETTLE_S)
            process.stdin.write("\n")
            process.stdin.flush()
            counters: Mapping[str, int] = json.loads(process.stdout.readline())
        return found, counters


async def _serve(port: int, system_calls: Callable[[], int]) -> None:
    # Only now: what is compiled binds os.write when it is imported.
    from heliograph.config.load import make_config  # noqa: PLC0415 - see above
    from heliograph.server import Server  # noqa: PLC0415 - see above

    config = make_config(
        host="127.0.0.1",
        port=port,
        pusher_app_id=APP,
        pusher_app_key=KEY,
        pusher_secret=SECRET,
        max_presence_members=0,
    )
    server = Server(config)
    await server.start()
    counters = server.node.counters
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def read_input() -> None:
        while os.read(0, 1):
            told = {"encodings": counters.encodings, "system_calls": system_calls()}
            print(json.dumps(told), flush=True)
        loop.call_soon_threadsafe(ended.set)

    print("listening", flush=True)
    threading.Thread(target=read_input, daemon=True).start()
    await ended.wait()
    await server.stop()


def _count_writes() -> Callable[[], int]:
    """Have every call of the kernel that writes to sockets counted from now on; return the sum."""
    count = 0

    def counted(call: Callable[..., int]) -> Callable[..., int]:
        def write(descriptor: int, data: object, /) -> int:
            nonlocal count
            count += 1
            return call(descriptor, data)

        return write

    os.write, os.writev = counted(os.write), counted(os.writev)
    return lambda: count


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(int(sys.argv[1]), _count_writes()))
