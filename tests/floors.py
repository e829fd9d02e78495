"""
`python -m tests.floors REPORT`: the coverage of each package, and whether it is high enough.

REPORT is what `coverage json` writes. Lines and branches count alike. The floors are in
pyproject.toml under `[tool.heliograph.coverage-floors]`; `total` is the floor of everything.
"""

import json
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[1]
TOTAL = "total"


@dataclass(slots=True)
class Coverage:
    """Lines and branches of a package, and how many of them ran."""

    covered: int = 0
    all: int = 0

    @property
    def percent(self) -> float:
        return 100 * self.covered / self.all if self.all else 0.0


def package_of(path: str) -> str:
    """Return the package right under heliograph; modules there are together in `heliograph`."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    below = parts[parts.index("heliograph") + 1 :]
    return below[0] if len(below) > 1 else "heliograph"


def by_package(report: Mapping[str, Any]) -> dict[str, Coverage]:
    """Return the coverage of each package, and of everything as `total`."""
    found: defaultdict[str, Coverage] = defaultdict(Coverage)
    for path, one in report["files"].items():
        counted = one["summary"]
        for name in (package_of(path), TOTAL):
            found[name].covered += counted["covered_lines"] + counted["covered_branches"]
            found[name].all += counted["num_statements"] + counted["num_branches"]
    return dict(found)


def below(found: Mapping[str, Coverage], floors: Mapping[str, float]) -> list[str]:
    """Return a line for each package below its floor, or not measured at all."""
    return [
        f"{name}: {found[name].percent:.2f} % is below the floor of {floor:g} %"
        if name in found
        else f"{name}: not measured"
        for name, floor in floors.items()
        if name not in found or found[name].percent < floor
    ]


def floors_of_the_project() -> dict[str, float]:
    """Return the floors that pyproject.toml has."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(settings["tool"]["heliograph"]["coverage-floors"])


def main(report: Path) -> int:
    """Print a line for each package; return 1 if one is below its floor."""
    found = by_package(json.loads(report.read_text(encoding="utf-8")))
    floors = floors_of_the_project()
    for name, one in sorted(found.items(), key=lambda item: (item[0] == TOTAL, item[0])):
        floor = f"floor {floors[name]:g}" if name in floors else "no floor"
        sys.stdout.write(f"{name:<12}{one.percent:7.2f} %  {floor}\n")
    faults = below(found, floors)
    sys.stderr.writelines(f"{fault}\n" for fault in faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
