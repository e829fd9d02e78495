"""Two builds are compared: in turns, with a control, and whatever differs is the server alone."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bench import against, builds, tools
from bench.__main__ import main
from bench.against import Compared, Effort, Method, Side, compare_workload, exit_status
from bench.tools import BenchError, Build
from bench.verdict import Round, Verdict
from bench.workloads import WORKLOADS

EFFORT = Effort(load=[])


def build(name: str) -> Build:
    return Build(name=name, source=tools.ROOT, python=sys.executable, compiled=False)


SIDES = {Side.NEW: build("new"), Side.OLD: build("old"), Side.CONTROL: build("control")}


class Scripted:
    """A method whose samples are made up: a rate for each build and sample of it."""

    def __init__(self, rate: Callable[[str, int], float]) -> None:
        self.taken: list[str] = []
        self.begun: list[str] = []
        self.method = Method(begin=self._begin, more_is_better=("events/s",))
        self._rate = rate

    @contextlib.contextmanager
    def _begin(self, _effort: Effort, build: Build) -> Iterator[Callable[[], Mapping[str, float]]]:
        self.begun.append(build.name)

        def sample() -> Mapping[str, float]:
            number = self.taken.count(build.name)
            self.taken.append(build.name)
            return {"events/s": self._rate(build.name, number)}

        yield sample


def compared(script: Scripted, effort: Effort = EFFORT) -> Compared:
    (row,) = compare_workload("scripted", script.method, SIDES, effort)
    return row


# -- Rounds ------------------------------------------------------------------------------------


def test_the_builds_take_turns_and_each_round_has_servers_of_its_own() -> None:
    script = Scripted(lambda _name, _number: 100.0)
    row = compared(script)

    assert (len(row.rounds), row.verdict) == (7, Verdict.PASSES)
    first, second = script.taken[:6], script.taken[6:12]
    assert first == ["new", "old", "control", "control", "old", "new"]
    assert second == ["control", "old", "new", "new", "old", "control"]
    assert script.begun.count("new") == script.begun.count("control") == 7
    leading = script.taken[::6][:6]
    assert {name: leading.count(name) for name in leading} == {"new": 2, "old": 2, "control": 2}


def test_what_is_measured_once_a_round_is_measured_in_turns_too() -> None:
    script = Scripted(lambda _name, _number: 100.0)
    script.method = replace(script.method, mirrored=False)
    compared(script)
    assert script.taken[:6] == ["new", "old", "control", "control", "old", "new"]


def test_a_machine_that_slows_down_all_the_time_slows_no_build_more_than_another() -> None:
    script = Scripted(lambda _name, _number: 1000.0 - len(script.taken))
    row = compared(script)
    assert row.ratios is not None
    new, control = row.ratios
    assert new.spread == control.spread == (1.0, 1.0)


def test_each_figure_is_that_of_its_own_server() -> None:
    """The mean of both that it measured in the round."""
    figures = {"new": (80.0, 100.0), "old": (101.0, 99.0), "control": (99.0, 97.0)}
    row = compared(Scripted(lambda name, number: figures[name][number % 2]))
    assert row.rounds == (Round(new=90.0, old=100.0, control=98.0),) * 7


def test_a_slower_build_fails_and_takes_no_more_rounds_where_they_agree() -> None:
    row = compared(Scripted(lambda name, _number: 90.0 if name == "new" else 100.0))
    assert (row.verdict, len(row.rounds)) == (Verdict.FAILS, 7)
    assert exit_status([row]) == 1


def test_where_less_is_better_a_larger_figure_fails() -> None:
    script = Scripted(lambda name, _number: 110.0 if name == "new" else 100.0)
    script.method = replace(script.method, more_is_better=(), less_is_better=("bytes",))
    script.method = replace(script.method, begin=_renamed(script.method, "bytes"))
    row = compared(script)
    assert row.ratios is not None
    assert row.ratios[0].median == pytest.approx(1 / 1.1)
    assert row.verdict is Verdict.FAILS


def _renamed(method: Method, measure: str) -> Callable[[Effort, Build], against.Measuring]:
    @contextlib.contextmanager
    def begin(effort: Effort, build: Build) -> Iterator[Callable[[], Mapping[str, float]]]:
        with method.begin(effort, build) as sample:
            yield lambda: {measure: sample()["events/s"]}

    return begin


def test_a_row_near_its_bound_gets_more_rounds() -> None:
    """Five rounds are unlucky for the new build, which are most of seven, but not of fifteen."""

    def rate(name: str, number: int) -> float:
        return 96.0 if name == "new" and number < 2 * 5 else 100.0

    row = compared(Scripted(rate))
    assert (len(row.rounds), row.verdict) == (15, Verdict.PASSES)
    assert compared(Scripted(rate), replace(EFFORT, extended=False)).verdict is Verdict.FAILS


# -- What cannot be measured -------------------------------------------------------------------


def test_a_round_that_went_wrong_is_taken_again(capsys: pytest.CaptureFixture[str]) -> None:
    def rate(_name: str, number: int) -> float:
        if number == 3 and not went_wrong:
            went_wrong.append(True)
            raise BenchError("the load is the bottleneck")
        return 100.0

    went_wrong: list[bool] = []
    row = compared(Scripted(rate))
    assert (len(row.rounds), row.verdict) == (7, Verdict.PASSES)
    assert "a round is taken again: the load is the bottleneck" in capsys.readouterr().err


def test_a_workload_that_goes_wrong_again_and_again_is_not_measured() -> None:
    def rate(name: str, _number: int) -> float:
        if name == "new":
            raise BenchError("12 events did not arrive")
        return 100.0

    row = compared(Scripted(rate))
    assert (row.verdict, row.note) == (None, "12 events did not arrive")
    assert exit_status([row]) == 2


def test_a_figure_of_nothing_is_not_measured() -> None:
    row = compared(Scripted(lambda name, _number: 0.0 if name == "old" else 100.0))
    assert row.note == "events/s of old was 0"


def test_what_an_old_build_cannot_do_is_skipped_and_fails_nothing() -> None:
    script = Scripted(lambda _name, _number: 100.0)
    script.method = replace(script.method, needs=("--newer=yes",))
    old = replace(SIDES[Side.OLD], name="old", options=frozenset({"--port"}))
    (row,) = compare_workload("scripted", script.method, {**SIDES, Side.OLD: old}, EFFORT)
    assert not script.taken
    assert (row.verdict, row.outcome) == (None, "skipped: old does not know --newer")
    assert exit_status([row]) == 0

    knows = replace(old, options=frozenset({"--port", "--newer"}))
    (row,) = compare_workload("scripted", script.method, {**SIDES, Side.OLD: knows}, EFFORT)
    assert row.verdict is Verdict.PASSES


def test_the_exit_status_is_that_of_the_worst_row() -> None:
    def row(new: float, control: float = 1.0, note: str = "") -> Compared:
        return Compared(
            workload="w",
            measure="m",
            less_is_better=False,
            rounds=(Round(new, 1.0, control),) * 7,
            note=note,
        )

    passes, fails, unmeasured = row(1.0), row(0.9), row(1.0, note="the server hung up")
    disturbed = row(0.8, control=0.9)
    assert disturbed.verdict is Verdict.DISTURBED
    assert exit_status([passes]) == 0
    assert exit_status([passes, unmeasured]) == exit_status([passes, disturbed]) == 2
    assert exit_status([unmeasured, fails, disturbed]) == 1


def test_every_workload_can_be_compared() -> None:
    assert list(against.METHODS) == list(WORKLOADS)


# -- Real builds -------------------------------------------------------------------------------


@pytest.fixture
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep builds of commits here, so that a test evicts nobody's compiled ones."""
    folder = tmp_path / "against"
    monkeypatch.setattr(builds, "KEPT_IN", folder)
    return folder


def test_the_tree_is_compared_with_a_commit(
    kept_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, document = tmp_path / "against.json", tmp_path / "document.md"
    document.write_text("<!-- bench against -->\nold\n<!-- /bench against -->\nend\n")
    arguments = ["--against", "HEAD", "--quick", "--interpreted", "--json", str(found)]
    arguments += ["--only", "posts-1,memory-one-channel,presence-burst"]
    status = main([*arguments, "--markdown", str(document)])

    report = json.loads(found.read_text())
    (commit,) = kept_in.iterdir()
    assert (report["old"], report["compiled"]) == (commit.name[:10], False)
    rows = {(row["workload"], row["measure"]): row for row in report["rows"]}
    assert list(rows) == [
        ("posts-1", "requests/s"),
        ("memory-one-channel", "bytes a client"),
        ("presence-burst", "joins/s"),
        ("presence-burst", "encodings a join"),
        ("presence-burst", "writes a join"),
    ]
    for row in rows.values():
        (one,) = row["rounds"]
        expected = one["old"] / one["new"] if row["less_is_better"] else one["new"] / one["old"]
        assert row["ratio"] == pytest.approx(expected)
    verdicts = {row["verdict"] for row in rows.values()}
    assert status == (1 if "FAILS" in verdicts else 2 if "disturbed" in verdicts else 0)
    printed = capsys.readouterr().out
    assert "old against itself (spread)" in printed
    assert "| presence-burst | writes a join (less is better) |" in document.read_text()


def test_a_server_that_takes_longer_for_each_request_does_not_pass(tmp_path: Path) -> None:
    """Real servers, of which one sleeps: whatever else the machine does meanwhile."""
    slow = tmp_path / "slow"
    for folder in ("src", "clients"):
        shutil.copytree(tools.ROOT / folder, slow / folder)
    endpoint = slow.joinpath("src", "heliograph", "protocols", "pusher", "api", "events.py")
    endpoint.write_text(endpoint.read_text() + SLEEPER)

    tree = tools.tree(interpreted=True)
    sides = {
        Side.NEW: replace(tree, name="slow", source=slow),
        Side.OLD: tree,
        Side.CONTROL: tree,
    }
    effort = Effort(load=[str(tools.build("load"))], rounds=3, extended=False, slice_s=0.2)
    (row,) = compare_workload("posts-1", against.METHODS["posts-1"], sides, effort)
    assert row.ratios is not None, row.note
    assert row.ratios[0].median < 0.5
    assert row.verdict in {Verdict.FAILS, Verdict.DISTURBED}


SLEEPER = """

import time

_publish = publish


def publish(request):
    time.sleep(0.01)
    return _publish(request)
"""


def test_a_commit_that_does_not_exist_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--against", "no-such-revision"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("bench: no-such-revision: no such commit")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("other", ["--server=ws://127.0.0.1:1", "--chart=chart.svg"])
def test_a_comparison_of_builds_is_of_builds_alone(other: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--against", "HEAD", other])
    assert ended.value.code == 2


@pytest.mark.usefixtures("kept_in")
def test_a_build_is_made_once_and_runs_its_own_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever PYTHONPATH says: it would have a build measured under another one's name."""
    monkeypatch.setenv("PYTHONPATH", str(tools.ROOT / "src"))
    commit = builds.commit_of("HEAD")
    made = builds.of_commit(commit, compiled=False)
    command = [made.python, "-c", "import heliograph; print(heliograph.__file__)"]
    printed = subprocess.check_output(command, env=made.environment, text=True)
    assert Path(printed.strip()).is_relative_to(made.source)
    assert made.options is not None
    assert {"--port", "--max_presence_members"} <= made.options

    monkeypatch.setattr(builds, "_extract", None)  # nothing is extracted a second time
    assert builds.of_commit(commit, compiled=False) == made


def test_a_compiled_build_is_not_replaced_by_sources_on_the_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tools.ROOT / "src"))
    assert "PYTHONPATH" not in replace(build("this"), compiled=True).environment


@pytest.mark.usefixtures("kept_in")
def test_a_build_that_is_not_compiled_is_not_taken_for_one_that_is() -> None:
    with pytest.raises(BenchError, match="is not compiled"):
        builds._checked(replace(build("this"), compiled=True), name="this")


def test_a_build_with_another_ones_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    elsewhere = replace(build("this"), source=tmp_path)  # hence what is installed is imported
    with pytest.raises(BenchError, match="its server would be that of"):
        builds._checked(elsewhere, name="this")


def test_the_builds_used_last_are_kept(kept_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "_checked", lambda build, name: build)  # noqa: ARG005
    monkeypatch.setattr(builds, "_extract", lambda _commit, to: to.mkdir())
    for commit in "abcd":
        builds.of_commit(commit, compiled=False)
    builds.of_commit("a", compiled=False)
    builds.of_commit("e", compiled=False)
    assert {folder.name for folder in kept_in.iterdir()} == set("acde")


def test_a_build_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    def cut_short(to: Path) -> None:
        to.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builds._made(tmp_path / "source", cut_short)
    assert not (tmp_path / "source").exists()
    builds._made(tmp_path / "source", Path.mkdir)
    assert (tmp_path / "source").exists()


def test_a_command_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"")
    command = [sys.executable, "-c", "print('no room'); raise SystemExit(3)"]
    with pytest.raises(BenchError, match="no room"):
        builds._run(command, {}, log)


def test_a_tree_with_changes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "module.py").write_text("")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "begin")
    monkeypatch.setattr(tools, "ROOT", tmp_path)
    commit = builds.commit_of("HEAD")
    assert commit.startswith(builds._state())
    (tmp_path / "src" / "module.py").write_text("changed = True")
    assert builds._state().endswith(" with changes")


def test_a_tree_that_changed_since_it_was_compiled_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "COMPILED", tmp_path / "python")
    with pytest.raises(BenchError, match="run make compile"):
        builds._of_tree(compiled=True)

    (tmp_path / "python").write_text("")
    monkeypatch.setattr(builds, "_package_of", lambda _build: tmp_path)
    with pytest.raises(BenchError, match="has changed since"):
        builds._of_tree(compiled=True)


def test_a_build_is_not_given_flags_that_it_does_not_know() -> None:
    tree = tools.tree(interpreted=True)
    older = replace(tree, name="older", options=frozenset({"--host", "--max_presence_members"}))
    with tools.heliograph(build=older) as target:
        command = Path(f"/proc/{target.pid}/cmdline").read_text()
    assert "--max_presence_members=0" in command
    assert "--max_client_events_per_second" not in command
    with pytest.raises(BenchError, match="older does not know --enable_ws_compression"):
        with tools.heliograph("--enable_ws_compression", build=older):
            pass
