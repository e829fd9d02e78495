"""A connection is cheap in every state, so that holding many is no attack on memory."""

from pathlib import Path

import pytest

from bench import states
from bench.states import STATES, State, bytes_a_connection, sent
from bench.tools import BenchError

CLIENTS, WARM_UP = 400, 300

MOST_BYTES = {
    "silent": 2_000,
    "proxy-silent": 9_000,
    "tls-silent": 20_000,
    "tls-half": 95_000,
    "tls-idle": 40_000,
    "tls-websocket": 40_000,
    "head": 8_000,
    "body": 65_000,
    "idle": 5_000,
    "websocket": 4_000,
    "subscribed": 5_000,
    "message": 65_000,
    "closing": 2_000,
}
"""About twice what `python -m bench.states` measures. One more buffer or task would be more."""


def test_every_state_has_its_bound() -> None:
    assert MOST_BYTES.keys() == STATES.keys()


@pytest.mark.parametrize("name", STATES)
def test_a_connection_costs_little_in_every_state(name: str) -> None:
    each = bytes_a_connection(STATES[name], CLIENTS, warm_up=WARM_UP, interpreted=True)
    assert each <= MOST_BYTES[name]


def test_connections_that_did_not_stay_are_no_figure() -> None:
    """An unsigned publish is refused before its body has arrived."""
    unsigned = b"POST /apps/1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    refused = State("refused", "at once", lambda visit: sent(visit.connect(), unsigned))
    with pytest.raises(BenchError, match="3 of 3 connections did not stay: refused"):
        bytes_a_connection(refused, 3, warm_up=0, interpreted=True)


def test_the_figures_go_between_the_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "document.md"
    document.write_text(f"before\n{states.MARKS[0]}old\n{states.MARKS[1]}after\n")
    arguments = ["--only", "silent,idle", "--clients", "20", "--interpreted"]
    assert states.main([*arguments, "--markdown", str(document)]) == 0
    text = document.read_text()
    assert text.startswith(f"before\n{states.MARKS[0]}Heliograph interpreted; ")
    assert text.endswith(f"|\n{states.MARKS[1]}after\n")
    assert "| HTTP: idle keep-alive | " in text
    assert (
        text.partition(states.MARKS[0])[2].partition(states.MARKS[1])[0] in capsys.readouterr().out
    )
    document.write_text("no marks\n")
    assert states.main([*arguments, "--markdown", str(document)]) == 2
