"""The benchmark runs and its books balance; what it finds in so short a time does not matter."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench import tools
from bench.__main__ import parse
from bench.history import FLAG
from bench.messages import message, request, upgrade
from bench.tools import BenchError, Target
from bench.workloads import WORKLOADS, Bench
from tests.docs.commands import all_commands

ROOT = Path(__file__).parents[2]


def bench(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", "--quick", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_every_kind_of_workload_is_measured_and_drawn(tmp_path: Path) -> None:
    names = "fan-out-4,fan-out-excluding,fan-out-channels,undelivered-4,posts-1,batches"
    names += ",client-events,connecting-private,memory-one-channel,presence-burst"
    found, drawn = tmp_path / "bench.json", tmp_path / "chart.svg"
    done = bench("--only", names, "--json", str(found), "--chart", str(drawn))

    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert len(rows) == len(names.split(","))
    for row in rows:
        assert row["server"], f"{row['title']}: {row['notes']}"
        assert row["measure"] in done.stdout
    plain = [row for row in rows if row["plain"]]
    coalescing = [row for row in rows if row["coalescing"]]
    assert len(coalescing) == len(rows) - 2
    assert len(plain) == len(coalescing) - 2  # it cannot exclude anybody, nor take a batch
    (burst,) = (row for row in rows if "burst" in row["title"])
    assert re.search(r"; 1\.00 encodings, [1-9]\d*\.\d writes a join", burst["server"])
    for row in coalescing:
        assert row["coalescing"]["ratio"] > 0
        assert row["shares"]["load_busy"] > 0
    svg = "{http://www.w3.org/2000/svg}"
    bars = [
        bar.get("class") for bar in ET.fromstring(drawn.read_text()).findall(f"{svg}rect[@class]")
    ]
    assert bars.count("plain") == 1 + len(plain)  # and the legend
    assert bars.count("coalescing") == 1 + len(coalescing)


def test_what_a_history_costs_is_measured(tmp_path: Path) -> None:
    names = "publish-with-history,resume-storm,slow-reader,history-memory"
    found = tmp_path / "bench.json"
    done = bench("--interpreted", "--only", names, "--json", str(found))

    assert done.returncode in (0, 1), done.stderr
    publishes, storm, slow, memory = json.loads(found.read_text())["rows"]
    assert re.search(r"times events that are not kept \(.*\)$", publishes["notes"][-1])
    assert float(storm["server"]) > 0
    assert 0 < storm["p50_ms"] <= storm["p99_ms"]
    seconds, each = slow["server"].split("; ")
    assert float(seconds) > 4  # 900 KB at 200 KB/s
    assert int(each.replace(",", "")) >= 0
    event, channel = (int(one.replace(",", "")) for one in memory["server"].split("; "))
    assert 100 < event < channel
    assert memory["met"]


@pytest.mark.parametrize("kept", [3, 5])
def test_clients_that_resume_must_receive_exactly_the_events_that_they_missed(kept: int) -> None:
    """Here the history has fewer events than they missed, and then exactly as many."""
    options = ("clients=2", "channels=2", "events=5", "payload=10")
    with tools.heliograph(FLAG, f"--history_limit={kept}", interpreted=True) as target:
        done = subprocess.run(
            [sys.executable, "-m", "bench.resuming", "storm", f"port={target.port}", *options],
            cwd=ROOT,
            input="begin\n",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    if kept == 5:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["seconds"] > 0
    else:
        assert done.returncode == 1
        assert "a client received 0 of 5 events that it missed" in done.stderr


def test_without_a_compiler_there_are_no_ratios(tmp_path: Path) -> None:
    found = tmp_path / "bench.json"
    done = bench("--only", "posts-1,memory-one-channel", "--json", str(found), PATH=str(tmp_path))

    assert "without a C compiler" in done.stderr
    rows = json.loads(found.read_text())["rows"]
    found_in_c = [(row["plain"], row["coalescing"]) for row in rows]
    assert found_in_c == [(None, None)] * 2
    assert all(row["server"] for row in rows), done.stderr


def test_a_benchmark_that_is_ended_ends_its_servers() -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--interpreted", "--only"]
    command += ["posts-1,fan-out-1,fan-out-4,fan-out-128,fan-out-channels,posts-32"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("posts-1")  # the others are to come
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.terminate()
        process.communicate(timeout=60)
    assert len(listed) >= 3  # baselines and server; the load ends with its connections
    assert process.returncode == 128 + signal.SIGTERM
    assert not [child for child in listed if Path("/proc", child).exists()]


def test_a_load_ends_with_the_block_that_runs_it_however_that_ended() -> None:
    with pytest.raises(SystemExit), tools.loading(["sleep", "60"]) as process:
        sys.exit("as SIGTERM does")
    assert process.returncode == -signal.SIGKILL


def test_sigterm_while_a_load_starts_ends_it() -> None:
    """Python runs a handler between two instructions: here, as early as there is a process."""
    script = (
        "import signal, subprocess\n"
        "from bench import tools\n"
        "class Interrupted(subprocess.Popen):\n"
        "    def _execute_child(self, *arguments):\n"
        "        super()._execute_child(*arguments)\n"
        "        print(self.pid, flush=True)\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "tools.subprocess.Popen = Interrupted\n"
        "tools.end_children_on_sigterm()\n"
        "with tools.loading(['sleep', '60']): print('still there')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert not Path("/proc", done.stdout.strip()).exists()


def test_another_server_is_measured_by_its_address(tmp_path: Path) -> None:
    found = tmp_path / "bench.json"
    with tools.heliograph(interpreted=True) as target:
        address = f"ws://localhost:{target.port}"
        here = ("--server", address, "--json", str(found), "--name", "Other 1.2")
        done = bench("--only", "posts-1,undelivered-1", "--pid", str(target.pid), *here)
        rows = json.loads(found.read_text())["rows"]
        unpinned = bench("--only", "posts-1", "--server", address)
        names = "posts-1,memory-one-channel,presence-burst,compressed-payloads"
        ours_only = bench("--only", names, "--server", address)
        wrong = bench("--only", "posts-1", "--server", address, "--secret", "wrong")

    assert done.returncode == 0, done.stderr
    assert "\nOther 1.2; " in done.stdout
    assert "not pinned" not in done.stdout
    for row in rows:  # our bounds are no other server's
        assert (row["must"], row["goal"], row["met"]) == ("", "", None)
        assert row["coalescing"]["ratio"] > 0
    assert f"\n{address}, not pinned to a core; " in unpinned.stdout
    assert ours_only.returncode == 2
    reason = " not measured: this takes a server that is started for it\n"
    assert ours_only.stdout.count(reason) == 3
    assert "≤" not in ours_only.stdout
    assert "memory-one-channel: not measured: this takes" in ours_only.stderr
    assert wrong.returncode == 2
    (row,) = [line for line in wrong.stdout.splitlines() if line.startswith("posts-1")]
    assert "not measured: the load failed: a publish was not taken: HTTP/1.1 401" in row
    assert "Invalid signature" in row  # below the head of the answer, in one line here


def test_the_documents_print_commands_that_the_benchmark_accepts() -> None:
    titles = [command.title.replace("$pid", "4242") for command in all_commands()]
    found = [match[1] for title in titles if (match := re.match(r'make bench ARGS="(.*)"$', title))]
    assert len(found) >= 8
    for arguments in found:
        options = parse(shlex.split(arguments))
        assert set((options.only or "posts-1").split(",")) <= WORKLOADS.keys(), arguments


# -- What other servers do -----------------------------------------------------------------------


class Scripted(socketserver.ThreadingTCPServer):
    """
    A server that does what Heliograph does not: it loses events, pings, closes connections.

    Each publish is delivered to every subscriber by *deliver*, which gets their sockets.
    """

    allow_reuse_address = daemon_threads = True

    def __init__(
        self,
        deliver: Callable[[list[socket.socket], bytes], None],
        *,
        answer: bytes = b"Content-Length: 2\r\nConnection: close\r\n\r\n{}",
    ) -> None:
        super().__init__(("127.0.0.1", 0), ScriptedConnection)
        self.deliver, self.answer = deliver, b"HTTP/1.1 200 OK\r\n" + answer
        self.subscribers: list[socket.socket] = []
        self.heard = b""
        self.lock = threading.Lock()


class ScriptedConnection(socketserver.StreamRequestHandler):
    """A client or a publisher, by its request."""

    disable_nagle_algorithm = True  # it would hold events back until others are acknowledged
    server: Scripted

    def handle(self) -> None:
        target = self.rfile.readline()
        headers = {}
        while line := self.rfile.readline().strip():
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        if target.startswith(b"POST"):
            self.rfile.read(int(headers[b"content-length"]))
            with self.server.lock:
                self.server.deliver(self.server.subscribers, EVENT)
            self.wfile.write(self.server.answer)
            return
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        hello = {"socket_id": "1.1", "activity_timeout": 120}
        self.wfile.write(server_frame("pusher:connection_established", json.dumps(hello)))
        self.rfile.read(6)
        with self.server.lock:
            self.wfile.write(server_frame("pusher_internal:subscription_succeeded", "{}"))
            self.server.subscribers.append(self.connection)
        with contextlib.suppress(OSError):
            while heard := self.connection.recv(65536):
                self.server.heard += heard


def server_frame(event: str, data: str) -> bytes:
    payload = json.dumps({"event": event, "data": data}).encode()
    return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload


EVENT = server_frame("my-event", "x" * 100)


def to_all(subscribers: list[socket.socket], event: bytes) -> None:
    for subscriber in subscribers:
        subscriber.sendall(event)


@contextlib.contextmanager
def scripted(server: Scripted) -> Iterator[Target]:
    with server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        port = server.server_address[1]
        yield Target(port=port, api_port=port, may_lose=True)
        server.shutdown()
        thread.join()


LOAD: Mapping[str, Any] = {"seconds": 0.3, "subscribers": 3, "patience": 1}


@pytest.mark.parametrize("undelivered", [0, 1])
def test_a_publisher_dials_again_where_the_server_closes(undelivered: int) -> None:
    with scripted(Scripted(to_all)) as target:
        found = tools.run_load([str(tools.build("load"))], target, undelivered=undelivered, **LOAD)
    assert found.figures["lost"] == 0
    assert found.figures["deliveries"] >= 3
    assert abs(found.figures["redials"] - found.figures["answers"]) <= 1


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 2\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"X-Ends: with the connection\r\n\r\n{}",
    ],
)
def test_an_answer_ends_as_http_allows_and_a_closed_connection_is_dialled_again(
    answer: bytes,
) -> None:
    with scripted(Scripted(to_all, answer=answer)) as target:
        found = tools.run_load([str(tools.build("load"))], target, **LOAD)
    assert found.figures["lost"] == 0
    assert found.figures["answers"] >= 2
    assert found.figures["redials"] >= found.figures["answers"] - 1


def test_pings_are_answered_and_are_no_events() -> None:
    def with_pings(subscribers: list[socket.socket], event: bytes) -> None:
        pusher = b'{"event":"pusher:ping","data":{}}'
        to_all(subscribers, b"\x89\x02hi" + bytes((0x81, len(pusher))) + pusher + event)

    server = Scripted(with_pings)
    with scripted(server) as target:
        found = tools.run_load([str(tools.build("load"))], target, undelivered=1, **LOAD)
        assert found.figures["lost"] == 0
        assert found.figures["deliveries"] >= 3
    pong = bytes(byte ^ b"mask"[at % 4] for at, byte in enumerate(b"hi"))
    assert b"\x8a\x82mask" + pong in server.heard
    pusher_pong = b'{"event":"pusher:pong","data":{}}'
    assert bytes(byte ^ b"mask"[at % 4] for at, byte in enumerate(pusher_pong)) in server.heard


def test_events_that_a_server_loses_are_counted_and_none_of_ours_may_be() -> None:
    def to_some(subscribers: list[socket.socket], event: bytes) -> None:
        to_all(subscribers[1:], event)

    load = [str(tools.build("load"))]
    with scripted(Scripted(to_some)) as target:
        found = tools.run_load(load, target, **LOAD)
        assert found.figures["lost"] * 2 >= found.figures["deliveries"] > 0
    with scripted(Scripted(to_some)) as target:
        with pytest.raises(BenchError, match="events did not arrive"):
            tools.run_load(load, replace(target, may_lose=False), **LOAD)


def test_a_queue_that_shrinks_is_waited_for_and_one_that_grows_is_named() -> None:
    held: list[tuple[list[socket.socket], bytes]] = []
    load = [str(tools.build("load"))]
    over = threading.Event()

    def later(subscribers: list[socket.socket], event: bytes) -> None:
        held.append((list(subscribers), event))

    def deliver() -> None:
        over.wait(1.0)
        while not over.wait(0.0005):
            if held:
                to_all(*held.pop())

    with scripted(Scripted(later)) as target:
        thread = threading.Thread(target=deliver)
        thread.start()
        found = tools.run_load(load, target, **LOAD)
        over.set()
        thread.join()
    assert found.figures["lost"] == 0
    assert found.figures["drain_s"] > 0.2
    assert found.figures["queue_end"] > found.figures["queue_half"] > 0
    assert tools.grows([found])


def test_a_queue_that_keeps_its_length_does_not_grow() -> None:
    """It is measured over time: ten events, to three subscribers each, are always to come."""
    held: list[bytes] = []

    def ten_later(subscribers: list[socket.socket], event: bytes) -> None:
        held.append(event)
        if len(held) > 10:
            to_all(subscribers, held.pop(0))

    with scripted(Scripted(ten_later)) as target:
        found = tools.run_load([str(tools.build("load"))], target, **LOAD)
    # One more is being delivered, and the next may be published before the load has read that.
    assert 30 <= found.figures["queue_half"] <= 36
    assert 30 <= found.figures["queue_end"] <= 36
    assert found.figures["lost"] == 30  # those that are held in the end
    assert not tools.grows([found])


def test_a_queue_that_swings_from_round_to_round_does_not_grow() -> None:
    def one(before: float, after: float) -> tools.Load:
        return tools.Load({"deliveries": 1000, "queue_half": before, "queue_end": after})

    assert tools.grows([one(100, 300)])
    assert not tools.grows([one(100, 300), one(300, 100), one(100, 120)])
    assert tools.grows([one(100, 300), one(300, 250), one(100, 120)])


def test_where_each_event_is_delivered_before_the_next_no_queue_can_grow() -> None:
    with scripted(Scripted(to_all)) as target:
        found = tools.run_load([str(tools.build("load"))], target, undelivered=1, **LOAD)
    assert found.figures["queue_half"] == found.figures["queue_end"] == 0
    assert not tools.grows([found])


def test_nothing_is_compiled_again_that_did_not_change() -> None:
    before = tools.build("load").stat().st_mtime_ns
    assert tools.build("load").stat().st_mtime_ns == before


def test_a_process_is_pinned_with_its_threads() -> None:
    script = (
        "import threading, time\n"
        "[threading.Thread(target=time.sleep, args=(60,), daemon=True).start() for _ in range(3)]\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        tools.pin(process.pid, 0)
        tasks = list(Path(f"/proc/{process.pid}/task").iterdir())
        assert len(tasks) == 4
        assert {frozenset(os.sched_getaffinity(int(task.name))) for task in tasks} == {
            frozenset({0})
        }
        process.kill()


# -- The baselines -------------------------------------------------------------------------------


EVENTS = f"/apps/{tools.APP}/events"
GOOD = json.dumps({"name": "n", "channel": "c", "data": "x"}).encode()


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (lambda: request("POST", EVENTS, GOOD), True),
        (lambda: request("POST", EVENTS, GOOD).replace(b'"x"', b'"y"'), False),
        (lambda: request("POST", EVENTS, GOOD, signature="0" * 64), False),
        (lambda: request("POST", EVENTS, GOOD, at=time.time() - 700), False),
        (lambda: request("POST", EVENTS, GOOD + b"}"), False),
        (lambda: request("POST", EVENTS, GOOD.replace(b'"x"', b"1.")), False),
        (lambda: request("POST", EVENTS, GOOD.replace(b'"x"', b'"\\x"')), False),
        (lambda: request("POST", EVENTS, b'{"name":"n","data":"x"}'), False),
        (
            lambda: request(
                "POST", EVENTS, GOOD.replace(b'"x"', b'{"a":[1,-2.5e3,true,"\\u00e9"]}')
            ),
            True,
        ),
    ],
)
def test_the_baseline_that_coalesces_answers_only_what_is_right(
    sent: Callable[[], bytes], answered: bool
) -> None:
    with (
        tools.coalescing() as target,
        socket.create_connection((target.host, target.port), timeout=10) as publisher,
    ):
        publisher.sendall(sent())
        answer = publisher.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200 ") if answered else answer == b""


def test_the_baseline_that_coalesces_keeps_what_a_slow_subscriber_has_yet_to_read() -> None:
    data = "x" * 9000
    event = json.dumps({"name": "n", "channel": "c", "data": data}).encode()
    with tools.coalescing() as target:
        address = (target.host, target.port)
        with (
            socket.create_connection(address, timeout=20) as subscriber,
            socket.create_connection(address, timeout=20) as publisher,
        ):
            subscriber.sendall(upgrade() + message("pusher:subscribe", {"channel": "c"}))
            received = b""
            while b"subscription_succeeded" not in received:
                received += subscriber.recv(65536)
            for _ in range(1000):  # more than the sockets hold
                publisher.sendall(request("POST", EVENTS, event))
                assert publisher.recv(4096).startswith(b"HTTP/1.1 200 ")
            read = 0
            frame_size = 4 + len('{"event":"n","channel":"c","data":""}') + len(data)
            while read < 1000 * frame_size:
                read += len(subscriber.recv(1 << 20))
    assert read == 1000 * frame_size


def test_the_baseline_that_coalesces_checks_what_a_server_must() -> None:
    load = [str(tools.build("load"))]
    with tools.coalescing() as target:
        for options in (
            {"publishers": 4, "channels": 2},
            {"publishers": 4, "exclude": 1},
            {"publishers": 2, "batch": 3},
            {"publishers": 2, "channels": 5, "all_channels": 1, "payload": 9000},
        ):
            found = tools.run_load(load, target, seconds=0.3, subscribers=20, **options)
            assert found.figures["deliveries"] > 0, options
        private = {"subscribers": 10, "prefix": "private-", "mode": "client_events"}
        assert tools.run_load(load, target, seconds=0.2, **private).figures["deliveries"] > 0
        for wrong in (replace(target, secret="wrong"), replace(target, key="wrong")):
            with pytest.raises(BenchError, match="the load failed"):
                tools.run_load(load, wrong, seconds=0.2)
        with pytest.raises(BenchError, match="the load failed"):
            tools.run_load(load, replace(target, secret="wrong"), seconds=0.2, **private)


def test_a_load_without_time_to_spare_is_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "LOAD_BUSY", 0.0)
    monkeypatch.setattr(tools, "SERVER_BUSY", 1.1)
    load = [str(tools.build("load"))]
    with tools.baseline(100) as target:
        measured = replace(target, baseline=False)
        tools.run_load(load, measured, seconds=0.2, subscribers=10)  # too short to tell
        monkeypatch.setattr(tools, "SHORTEST_SHARED_S", 0.0)
        with pytest.raises(BenchError, match="is the bottleneck"):
            tools.run_load(load, measured, seconds=0.2, subscribers=10)
        assert tools.run_load(load, target, seconds=0.2, subscribers=10).limited


def test_a_row_says_where_a_baseline_was_limited_by_the_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tools, "LOAD_BUSY", 0.0)
    monkeypatch.setattr(tools, "SERVER_BUSY", 1.1)
    monkeypatch.setattr(tools, "SHORTEST_SHARED_S", 0.0)
    with tools.coalescing() as limit, tools.heliograph(interpreted=True) as target:
        bench = Bench(
            load=[str(tools.build("load"))],
            server=replace(target, baseline=True),  # so that it is not refused here
            plain=None,
            coalescing=limit,
            ours=False,
            build=tools.tree(interpreted=True),
            rounds=1,
            round_s=0.2,
        )
        row = WORKLOADS["posts-1"](bench)
    assert row.notes == [
        "the load is the bottleneck of the server in C that coalesces: the ratio is at most this"
    ]


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(BenchError, match="--max_write_buffer"):
        with tools.heliograph("--max_write_buffer", "1"):
            pass
