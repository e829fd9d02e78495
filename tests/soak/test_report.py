"""What a soak shows."""

from pathlib import Path
from xml.etree import ElementTree as ET

from soak import chart, report
from soak.books import Faults
from soak.process import Held
from soak.run import Outcome, Plan, Sample

HELD = Held(100, 1000, 1, 2, {"heliograph.node.Tenant": 2, "builtins.dict": 9}, 17, 44 << 20)
SVG = "{http://www.w3.org/2000/svg}"


def outcome(*, silent: bool = False) -> Outcome:
    """Ten seconds, of which the clients heard nothing for five if *silent*."""
    samples = [
        Sample(
            n,
            100,
            44 << 20,
            117,
            1 << 20,
            *((None, None) if silent and 2 < n < 8 else (0.001, 0.005)),
        )
        for n in range(10)
    ]
    lags = [(float(n), 0.001, 0.02) for n in range(10)]
    return Outcome(Faults(), samples, lags, HELD, [HELD] * 3, [44 << 20] * 3)


def lines(of: Outcome) -> int:
    drawing = ET.fromstring(chart.draw(of, "A soak"))
    return len(drawing.findall(f"{SVG}polyline"))


def test_the_chart_has_a_line_for_everything_measured() -> None:
    assert lines(outcome()) == 7


def test_no_line_is_drawn_where_nothing_was_measured() -> None:
    assert lines(outcome(silent=True)) == 9


def test_a_chart_of_nothing_is_a_chart() -> None:
    assert lines(Outcome(Faults())) == 7


def test_what_does_not_balance_is_in_the_report(tmp_path: Path) -> None:
    found = outcome()
    found.faults.add("presence", "bob is missing")
    report.write(Plan(2, 100, 1, tmp_path), found, tmp_path / "out", tmp_path / "chart.svg")
    text = (tmp_path / "out" / "report.json").read_text()
    assert '"balanced": false' in text
    assert "presence: 1 faults, such as: bob is missing" in text
    assert (tmp_path / "chart.svg").read_text() == (tmp_path / "out" / "soak.svg").read_text()


def test_only_the_servers_own_objects_must_be_as_many_as_at_the_start() -> None:
    assert HELD.own == {"heliograph.node.Tenant": 2}
