"""Many idle clients are measured as they are. A few hundred stand for them here."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench.fairness import measure as fairness
from bench.fairness.measure import Server
from bench.messages import request
from bench.scale import __main__ as tool
from bench.scale import chart, growth, kernel, measure, report
from bench.scale.growth import MEASURES
from bench.scale.kernel import Growth
from bench.scale.measure import LAYOUTS, Cell, Crowd, publishes, write_requests
from bench.scale.report import Row
from bench.tools import APP, BenchError

ROOT = Path(__file__).parents[2]
ONE, EACH = LAYOUTS
FEWER, MORE = 200, 400


# -- A run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a short run has written."""
    folder = tmp_path_factory.mktemp("scale")
    (folder / "page.md").write_text(f"before\n{tool.MARKS[0]}old\n{tool.MARKS[1]}after\n")
    command = [sys.executable, "-m", "bench.scale", "--clients", f"{MORE},{FEWER}"]
    command += ["--rounds", "1", "--seconds", "0.5", "--interpreted"]
    for flag, name in (("json", "found.json"), ("chart", "chart.svg"), ("markdown", "page.md")):
        command += [f"--{flag}", str(folder / name)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=115, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


def found(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return read


def rounds(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the layout and the only round of each row."""
    for row in found(folder)["rows"]:
        (only,) = row["rounds"]
        yield row["layout"], only


def test_each_number_of_clients_is_measured_in_each_layout(folder: Path) -> None:
    rows = [(layout, one["clients"]) for layout, one in rounds(folder)]
    assert rows == [("one", FEWER), ("one", MORE), ("each", FEWER), ("each", MORE)]
    for _, one in rounds(folder):
        assert 0 < one["connect_s"] < 20
        assert all(0 < seconds < 10 for seconds in one["broadcasts_s"])
        assert 0 < one["busy"] < 1.1


def test_a_client_costs_memory_in_the_server_and_in_the_kernel(folder: Path) -> None:
    for _, one in rounds(folder):
        assert 300 < one["server_bytes"] / one["clients"] < 20_000
        assert 1_000 < one["kernel"]["bytes"] / 2 / one["clients"] < 40_000
        assert one["start_bytes"] > 10_000_000


def test_one_publish_reaches_a_hundred_channels_at_most(folder: Path) -> None:
    requests = [(layout, one["requests"]) for layout, one in rounds(folder)]
    assert requests == [("one", 1), ("one", 1), ("each", FEWER // 100), ("each", MORE // 100)]


def test_a_bystander_is_measured_with_and_without_broadcasts(folder: Path) -> None:
    for _, one in rounds(folder):
        assert min(len(one["alone_us"]), len(one["beside_us"])) >= 20
    for row in found(folder)["rows"]:
        for times in (row["step"]["alone"], row["step"]["beside"]):
            assert 0 < times["p50_ms"] <= times["p99_ms"] <= times["max_ms"]


def test_a_drain_takes_the_ten_seconds_of_the_default_and_little_cpu_time(
    folder: Path,
) -> None:
    for _, one in rounds(folder):
        assert 9 < one["last_closed_s"] <= one["drain_s"] < 20
        assert 0 < one["drain_cpu_s"] < 5


def test_the_tables_are_printed_and_put_between_the_marks(folder: Path) -> None:
    before, _, rest = (folder / "page.md").read_text().partition(tool.MARKS[0])
    tables, _, after = rest.partition(tool.MARKS[1])
    assert (before, after) == ("before\n", "after\n")
    assert tables.startswith("Heliograph interpreted; ")
    assert f"\n| one each | {MORE} | " in tables
    assert "\n| memory of the server (bytes) | " in tables
    assert "\n| processes, with LimitNOFILE=200000 | 6 | 6 |" in tables
    assert "old" not in tables
    printed = (folder / "printed").read_text()
    assert all(measure.name in printed for measure in MEASURES)


def test_the_chart_has_each_measure_of_each_layout_and_the_line_of_proportion(
    folder: Path,
) -> None:
    svg = "{http://www.w3.org/2000/svg}"
    picture = ET.fromstring((folder / "chart.svg").read_text())
    lines = [line.get("points", "").split() for line in picture.findall(f"{svg}polyline")]
    assert [len(points) for points in lines] == [2] * len(MEASURES) * len(LAYOUTS)
    texts = [text.text for text in picture.findall(f"{svg}text")]
    assert {layout.title for layout in LAYOUTS} < {*texts}
    assert {measure.name for measure in MEASURES} < {*texts}
    proportions = [one for one in picture.findall(f"{svg}line") if one.get("class") == "one"]
    assert len(proportions) == len(LAYOUTS) + 1  # and that of the legend


# -- What cannot be measured -----------------------------------------------------------------------


def test_without_a_compiler_the_tool_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.scale"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "bench.scale: it takes a C compiler (cc, gcc or clang)" in done.stderr


def test_more_clients_than_descriptors_are_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "descriptor_limit", lambda: 1024)
    assert tool.main(["--clients", "100,1000"]) == 2
    assert "1,000 clients need 1,100 descriptors, and a process may have 1,024: raise" in (
        capsys.readouterr().err
    )


def test_the_word_limit_stands_for_as_many_clients_as_there_are_descriptors() -> None:
    assert tool.numbers("10000,2500,limit", 20_000) == [2500, 10_000, 19_900]
    assert tool.numbers("limit,19900", 20_000) == [19_900]
    assert tool.numbers("limit", 1 << 20) == [tool.MOST_CLIENTS]
    for wrong in ("", "many", "0", "-5", "2500,"):
        with pytest.raises(BenchError, match="neither a number nor 'limit'"):
            tool.numbers(wrong, 20_000)


def test_a_layout_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--only", "one,none"]) == 2
    assert "--only: there is no none" in capsys.readouterr().err


def cell(clients: int, **changes: Any) -> Cell:
    """Return a round in which everything is proportional to the number of clients."""
    found = Cell(
        clients=clients,
        start_bytes=30_000_000,
        server_bytes=clients * 1000,
        kernel=Growth("/proc/slabinfo", clients * 8000, {}, 0),
        connect_s=clients / 20_000,
        broadcasts_s=[clients / 200_000],
        requests=1,
        alone_us=[100.0] * 100,
        beside_us=[float(clients)] * 100,
        busy=0.9,
        starved=0.0,
        empty_polls=0.5,
        drain_s=10.1,
        last_closed_s=10.0,
        drain_cpu_s=clients / 50_000,
    )
    return replace(found, **changes)


Measured = Callable[..., Cell]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rounds that were tried, of a tool that cannot measure 200 clients the first two times."""
    tried: list[int] = []

    def measured(_layout: object, clients: int, *_: object, **_options: object) -> Cell:
        tried.append(clients)
        if clients == 200 and tried.count(200) <= 2:
            raise BenchError("a disturbance")
        return cell(clients)

    monkeypatch.setattr(tool, "measure", measured)
    return tried


ARGUMENTS = ("--clients", "100,200", "--only", "one", "--rounds", "1")


def test_a_round_that_fails_is_measured_again(failing: list[int]) -> None:
    assert tool.main([*ARGUMENTS]) == 0
    assert failing == [100, 200, 200, 200]


def test_what_fails_three_times_is_shown_and_is_exit_status_2(
    failing: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "TRIES", 2)
    assert tool.main([*ARGUMENTS]) == 2
    assert failing == [100, 200, 200]
    printed = capsys.readouterr()
    assert "200 clients: a disturbance" in printed.err
    assert "not measured: a disturbance" in printed.out
    assert "1 round could not be measured" in printed.out


def test_a_chart_of_a_single_number_of_clients_is_refused(
    failing: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chart.svg"
    arguments = ["--clients", "100", "--rounds", "1", "--chart", str(path)]
    assert tool.main(arguments) == 2
    assert failing == [100, 100]
    assert "--chart: it takes two numbers of clients" in capsys.readouterr().err
    assert not path.exists()


def test_clients_without_time_to_spare_are_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MIN_EMPTY_POLLS", 1.1)
    monkeypatch.setattr(measure, "SERVER_BUSY", 1.1)
    with pytest.raises(BenchError, match="the clients are the bottleneck"):
        measure.measure(ONE, 20, 0.2, interpreted=True)


# -- The clients -----------------------------------------------------------------------------------


def started(tmp_path: Path, **flags: str) -> Any:
    return fairness.heliograph(flags, tmp_path, interpreted=True)


def crowd(
    server: Server, clients: int, tmp_path: Path, *, channels: int = 1
) -> AbstractContextManager[Crowd]:
    file = tmp_path / "requests"
    write_requests(file, publishes(ONE, clients))
    return Crowd.running(server.port, clients, channels, file)


def test_the_requests_of_a_broadcast_name_each_channel_once() -> None:
    bodies = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in publishes(EACH, 250)]
    assert [len(body["channels"]) for body in bodies] == [100, 100, 50]
    named = [name for body in bodies for name in body["channels"]]
    assert named == [f"scale-{number}" for number in range(250)]
    assert len(publishes(ONE, 250)) == 1


def test_clients_answer_pings_and_stay(tmp_path: Path) -> None:
    with started(tmp_path, ping_interval="1", pong_timeout="1") as server:
        with crowd(server, 10, tmp_path) as clients:
            clients.ask("connect")
            # Twice as long as a client that does not answer would stay.
            assert clients.ask("broadcast 4")["seconds"] >= 4


def test_an_event_that_arrives_beside_the_broadcasts_is_an_error(tmp_path: Path) -> None:
    with started(tmp_path) as server, crowd(server, 10, tmp_path) as clients:
        clients.ask("connect")
        clients.ask("broadcast 0")
        body = {"name": "scale-event", "channel": "scale-0", "data": "x"}
        publish = request("POST", f"/apps/{APP}/events", json.dumps(body).encode())
        with socket.create_connection(("127.0.0.1", server.port)) as publisher:
            publisher.sendall(publish)
            assert publisher.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with pytest.raises(BenchError, match="received an event that was not for it"):
            clients.result()


def test_a_publish_that_is_refused_is_an_error(tmp_path: Path) -> None:
    with started(tmp_path) as server, crowd(server, 10, tmp_path) as clients:
        write_requests(tmp_path / "requests", [request("POST", f"/apps/{APP}/events", b"{}")])
        clients.ask("connect")
        with pytest.raises(BenchError, match=r"a publish was refused: HTTP/1\.1 400"):
            clients.ask("broadcast 0")


def test_a_server_that_ends_unasked_is_an_error(tmp_path: Path) -> None:
    with started(tmp_path) as server, crowd(server, 10, tmp_path) as clients:
        clients.ask("connect")
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(BenchError, match=r"the clients failed: client \d: .*4200"):
            clients.result()


def test_a_server_that_is_killed_is_an_error(tmp_path: Path) -> None:
    with started(tmp_path) as server, crowd(server, 10, tmp_path) as clients:
        clients.ask("connect")
        server.process.kill()
        clients._process.wait(20)
        with pytest.raises(BenchError, match=r"client \d lost its connection"):
            clients.ask("broadcast 0")


def test_addresses_of_loopback_share_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One address has 14,116 ports that connect() finds quickly."""
    monkeypatch.setattr(measure, "CLIENTS_PER_ADDRESS", 4)
    with started(tmp_path) as server, crowd(server, 10, tmp_path) as clients:
        clients.ask("connect")
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    there = f"0100007F:{server.port:04X}"
    addresses = [
        line[1].partition(":")[0] for line in lines if line[2] == there and line[3] == "01"
    ]
    counts = [addresses.count(address) for address in ("0100007F", "0200007F", "0300007F")]
    assert counts == [4, 4, 2]


# -- The kernel ------------------------------------------------------------------------------------

SLABINFO = """slabinfo - version: 2.1
# name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables
TCP {tcp} 9000 2368 13 8 : tunables 0 0 0 : slabdata 1 1 0
sock_inode_cache {sockets} 9000 832 19 4 : tunables 0 0 0 : slabdata 1 1 0
proc_inode_cache {others} 9000 696 23 4 : tunables 0 0 0 : slabdata 1 1 0
kmalloc-64 {few} 9000 64 64 1 : tunables 0 0 0 : slabdata 1 1 0
"""
SOCKSTAT = "sockets: used 20\nTCP: inuse 5 orphan 0 tw 0 alloc 5 mem {pages}\nUDP: inuse 0 mem 0\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what the kernel shows."""
    for name in ("SLABINFO", "MEMINFO", "SOCKSTAT"):
        monkeypatch.setattr(kernel, name, tmp_path / name)

    def show(slab_kib: int, pages: int, **objects: int) -> None:
        (tmp_path / "MEMINFO").write_text(f"MemTotal: 9 kB\nSlab: {slab_kib} kB\n")
        (tmp_path / "SOCKSTAT").write_text(SOCKSTAT.format(pages=pages))
        if objects:
            (tmp_path / "SLABINFO").write_text(SLABINFO.format(**objects))

    return show


def test_the_kernels_memory_is_that_of_caches_that_grow_with_the_connections(
    proc: Callable[..., None],
) -> None:
    proc(1000, 5, tcp=100, sockets=100, others=100, few=100)
    before = kernel.read()
    proc(9000, 7, tcp=2100, sockets=2100, others=2100, few=200)
    grown = kernel.grown(before, kernel.read(), 1000)
    assert grown.source == "/proc/slabinfo"
    assert grown.caches == {
        "TCP": round(2000 * 8 * 4096 / 13),
        "sock_inode_cache": round(2000 * 4 * 4096 / 19),
    }
    assert grown.bytes == sum(grown.caches.values())
    assert grown.buffer_bytes == 2 * 4096


def test_without_the_right_to_read_the_caches_the_sum_of_all_counts(
    proc: Callable[..., None],
) -> None:
    proc(1000, 5)
    before = kernel.read()
    proc(9000, 5)
    grown = kernel.grown(before, kernel.read(), 1000)
    assert (grown.source, grown.bytes) == ("Slab of /proc/meminfo", 8000 * 1024)


@pytest.mark.usefixtures("proc")
def test_a_kernel_that_shows_nothing_is_an_error() -> None:
    with pytest.raises(BenchError, match="the kernel's memory cannot be read"):
        kernel.read()


# -- Arithmetic ------------------------------------------------------------------------------------


def test_the_slope_leaves_out_what_is_paid_once() -> None:
    assert growth.slope([(100, 5100), (200, 5200), (400, 5400)]) == pytest.approx(1)
    assert growth.slope([(1, 1), (2, 3), (3, 2)]) == pytest.approx(0.5)


def test_growth_that_is_faster_than_linear_has_an_exponent_above_one() -> None:
    numbers = (2500, 5000, 10_000, 19_900)
    assert growth.exponent([(n, 7.0 * n) for n in numbers]) == pytest.approx(1)
    assert growth.exponent([(n, 0.01 * n**1.5) for n in numbers]) == pytest.approx(1.5)
    assert growth.exponent([(n, 3.0) for n in numbers]) == pytest.approx(0)
    assert growth.exponent([(1, 1), (2, 0)]) is None


def test_a_step_is_the_median_of_its_rounds_and_the_worst_of_all() -> None:
    found = growth.step(
        [
            cell(100, connect_s=1.0, broadcasts_s=[0.1, 0.2, 0.9], beside_us=[1000.0]),
            cell(100, connect_s=5.0, broadcasts_s=[0.3], beside_us=[7000.0]),
            cell(100, connect_s=2.0, broadcasts_s=[0.4], beside_us=[2000.0]),
        ]
    )
    assert (found.connect_s, found.broadcast_s, found.slowest_broadcast_s) == (2.0, 0.3, 0.9)
    assert (found.beside.p50_ms, found.beside.max_ms) == (2.0, 7.0)
    assert found.kernel_bytes == 100 * 4000  # one end of each connection


def test_a_million_clients_are_calculated_from_the_slopes() -> None:
    steps = [growth.step([cell(clients)]) for clients in (100, 200, 400)]
    found = growth.outlook(steps, 1_000_000, 6)
    assert found.server_bytes == pytest.approx(1e9 + 6 * 30e6)
    assert found.kernel_bytes == pytest.approx(4e9)
    assert found.connect_s == pytest.approx(50)
    assert found.broadcast_s == pytest.approx(5)


def test_processes_keep_descriptors_in_reserve() -> None:
    assert growth.processes(1_000_000, 1_000_100) == 1
    assert growth.processes(1_000_001, 1_000_100) == 2
    assert growth.processes(1_000_000, 20_000) == 51


def test_times_of_a_round_count_if_the_server_had_its_core() -> None:
    quiet = cell(100, connect_s=1.0, starved=0.05, beside_us=[1000.0], server_bytes=100_000)
    disturbed = cell(100, connect_s=9.0, starved=0.06, beside_us=[9000.0], server_bytes=300_000)
    found = growth.step([disturbed, quiet, disturbed])
    assert (found.rounds, found.connect_s, found.beside.max_ms) == (1, 1.0, 1.0)
    assert found.server_bytes == 300_000  # memory does not depend on it
    worse = replace(disturbed, connect_s=99.0, starved=0.5)
    assert growth.step([worse, disturbed]).connect_s == 9.0

    def about(*cells: Cell) -> str:
        return report.about([Row(ONE, 100, [*cells])], compiled=True, rounds=1, seconds=1)

    assert "2 of 3 rounds do not count for times" in about(disturbed, quiet, disturbed)
    assert "too long" not in about(disturbed, quiet, disturbed)
    assert "for up to 6% of a round that counts: its times are too long" in about(disturbed)
    assert "other processes" not in about(quiet)


def test_a_measure_that_falls_has_fractions_on_its_axis() -> None:
    steps = [growth.step([cell(n, beside_us=[4e6 / n] * 9)]) for n in (100, 800)]
    texts = [text.text for text in ET.fromstring(chart.draw({ONE: steps})).iter()]
    assert {"1/8 x", "1/2 x", "1 x", "8 x"} < {*texts}


def test_proportional_growth_lies_on_the_line_of_proportion() -> None:
    steps = [growth.step([cell(clients)]) for clients in (100, 200, 400)]
    picture = ET.fromstring(chart.draw({ONE: steps}))
    svg = "{http://www.w3.org/2000/svg}"
    (line, _) = [one for one in picture.findall(f"{svg}line") if one.get("class") == "one"]
    ends = {f"{line.get('x1')},{line.get('y1')}", f"{line.get('x2')},{line.get('y2')}"}
    for curve in picture.findall(f"{svg}polyline"):
        points = curve.get("points", "").split()
        assert {points[0], points[-1]} == ends
