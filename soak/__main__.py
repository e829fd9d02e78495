"""`python -m soak`: the exit status says whether the books balance."""

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

from soak import report
from soak.run import Plan, Soak

OUT = Path(__file__).parent / "out"


def main() -> int:
    """Soak a server, and say what came of it."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="how long, three cycles in all")
    parser.add_argument("--clients", type=int, default=2000, help="how many at a time")
    parser.add_argument("--seed", type=int, default=1, help="what chance is drawn from")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="a folder for report.json and soak.svg"
    )
    parser.add_argument("--chart", type=Path, help="another place for the chart")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="heliograph-soak-") as folder:
        plan = Plan(given.minutes, given.clients, given.seed, Path(folder))
        # Whoever ends us ends the server, too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome = runner.run(Soak(plan).run())
    report.write(plan, outcome, given.out, given.chart)
    print("\n".join(report.summary(plan, outcome)))
    for line in outcome.faults.lines():
        print(f"does not balance: {line}")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
