"""What Autobahn|Testsuite wrote about each of its cases."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
"""Of `behavior`: non-strict is allowed by the RFC, informational cases have no right answer."""

CLOSED_CORRECTLY = {"OK", "INFORMATIONAL"}
"""Of `behaviorClose`."""


@dataclass(frozen=True, slots=True)
class Case:
    """The result of a case."""

    number: str
    behavior: str
    close: str

    @property
    def failed(self) -> bool:
        """Whether the server broke the protocol, or left something out."""
        return self.behavior not in PASSED or self.close not in CLOSED_CORRECTLY


def read(index: Path) -> list[Case]:
    """Return the cases of an `index.json`; none where there is no such file."""
    if not index.exists():
        return []
    agents = json.loads(index.read_text(encoding="utf-8"))
    return [
        Case(number, result["behavior"], result["behaviorClose"])
        for cases in agents.values()
        for number, result in cases.items()
    ]


def summary(cases: list[Case]) -> str:
    """Return the failed cases, one a line, and a last line with the totals."""
    failed = [case for case in cases if case.failed]
    lines = [f"{case.number}: {case.behavior}, close: {case.close}" for case in failed]
    counts = Counter(case.behavior for case in cases)
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    lines.append(f"{len(failed)} failed of {len(cases)} ({kinds or 'no case ran'})")
    return "\n".join(lines)
