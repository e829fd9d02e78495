"""
`python -m fuzz`: hostile bytes for so many minutes, shared by all targets.

Where atheris can be imported (`pip install .[fuzz]`), it makes the bytes, led by what they reach;
otherwise our own mutations do, led by nothing but the corpus. What breaks a promise is kept as a
file, and the exit status is not 0.
"""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

from fuzz import mutations
from fuzz.targets import MAX_INPUT, TARGETS

FOLDER = Path(__file__).parent
CORPUS = FOLDER / "corpus"
OUT = FOLDER / "out"

SLOWEST_S = 5
MOST_MEMORY_MB = 1024


def main() -> int:
    """Fuzz, and say what broke."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one")
    parser.add_argument("--seed", type=int, default=1, help="what chance is drawn from")
    parser.add_argument("--engine", choices=("atheris", "mutations"), help="what makes the bytes")
    parser.add_argument("--input", type=Path, help="run one file through --target, and no more")
    given = parser.parse_args()
    targets = given.target or list(TARGETS)
    if given.input is not None:
        for name in targets:
            mutations.check(name, given.input.read_bytes())
        return 0
    engine = given.engine or ("atheris" if importlib.util.find_spec("atheris") else "mutations")
    seconds = max(given.minutes * 60 / len(targets), 1)
    run = _with_atheris if engine == "atheris" else _with_mutations
    broken = [name for name in targets if not run(name, seconds, given.seed)]
    for name in broken:
        print(f"broken: {name}; see {OUT / name}")
    return 1 if broken else 0


def _with_atheris(name: str, seconds: float, seed: int) -> bool:
    grown = OUT / name
    grown.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "fuzz.coverage", name),
        *(str(grown), str(CORPUS / name)),
        f"-max_total_time={seconds:.0f}",
        f"-seed={seed}",
        f"-max_len={MAX_INPUT}",
        f"-timeout={SLOWEST_S}",
        f"-rss_limit_mb={MOST_MEMORY_MB}",
        f"-artifact_prefix={grown}/broken-",
        "-print_final_stats=1",
    ]
    return subprocess.run(command, check=False, cwd=FOLDER.parent).returncode == 0  # noqa: S603


def _with_mutations(name: str, seconds: float, seed: int) -> bool:
    found = mutations.run(name, mutations.corpus(CORPUS / name), seconds=seconds, seed=seed)
    print(f"{name}: {found.tried} inputs, the slowest {found.slowest_s * 1e3:.1f} ms")
    if found.broken is None:
        return True
    OUT.joinpath(name).mkdir(parents=True, exist_ok=True)
    kept = OUT / name / "broken-by-mutation"
    kept.write_bytes(found.broken)
    print(f"{name}: {found.why}\n{found.broken!r}\nkept as {kept}")
    return False


if __name__ == "__main__":
    sys.exit(main())
