"""
Builds of Heliograph to compare: that of this tree, and that of any commit, made beside it.

Knows git, how a package is compiled and installed, and where builds are kept; knows nothing of
what is measured. A build of a commit is made once and kept in build/bench/against; a few are kept.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import tools
from bench.tools import BenchError, Build

KEPT_IN = tools.BUILT / "against"
MOST_KEPT = 4
"""A compiled build takes some 60 MB. Those that were not used for longest are removed."""

LAST_LINES = 12
"""How much is shown of what a command printed that failed; the log has all of it."""

PROBE = """
import json, pathlib, heliograph
package = pathlib.Path(heliograph.__file__).resolve().parent
native = any(package.rglob("*.so")) or any(package.rglob("*.pyd"))
print(json.dumps({"package": str(package), "compiled": native}))
"""


def pair(revision: str, *, interpreted: bool) -> tuple[Build, Build]:
    """
    Return the build of this tree as it is, and that of *revision*.

    Both are compiled, or neither is: with *interpreted*, or where there is no C compiler.
    Raises BenchError, before anything is built where *revision* does not exist.
    """
    commit = commit_of(revision)
    compiled = not interpreted and tools.compiler() is not None
    return _of_tree(compiled=compiled), of_commit(commit, compiled=compiled)


def commit_of(revision: str) -> str:
    """Return the hash of the commit that *revision* names. Raises BenchError."""
    wanted = f"{revision}^{{commit}}"
    done = _git("rev-parse", "--verify", "--quiet", "--end-of-options", wanted)
    if done.returncode:
        raise BenchError(f"{revision}: no such commit in the git repository at {tools.ROOT}")
    return done.stdout.decode().strip()


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", "-C", str(tools.ROOT), *arguments],  # noqa: S607 - git is where PATH has it
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise BenchError(f"git cannot be run: {error.strerror}") from None


# -- The tree ----------------------------------------------------------------------------------


def _of_tree(*, compiled: bool) -> Build:
    """Return the tree's build, with all that is not committed. Raises BenchError where stale."""
    if compiled and not tools.COMPILED.exists():
        raise BenchError("the tree is not compiled: run make compile first, or use --interpreted")
    build = tools.tree(interpreted=not compiled)
    if compiled and _newest(tools.ROOT / "src") > _newest(_package_of(build)):
        raise BenchError("the tree has changed since it was compiled: run make compile first")
    return _checked(build, name=f"the tree ({_state()})")


def _state() -> str:
    head = _git("rev-parse", "--short", "HEAD").stdout.decode().strip()
    changed = _git("status", "--porcelain", "--", "src", "pyproject.toml", "constraints.txt").stdout
    return f"{head} with changes" if changed else head


def _newest(folder: Path) -> float:
    """Return when a file in *folder* was last written; what Python wrote by itself is left out."""
    files = (path for path in folder.rglob("*") if path.suffix in {".py", ".so", ".pyd"})
    return max((path.stat().st_mtime for path in files), default=0.0)


# -- A commit ----------------------------------------------------------------------------------


def of_commit(commit: str, *, compiled: bool) -> Build:
    """Return the build of *commit*, made now if it is not kept. Raises BenchError."""
    folder = KEPT_IN / commit
    source, installed = folder / "source", folder / f"compiled-{sys.implementation.cache_tag}"
    _made(source, lambda to: _extract(commit, to))
    if compiled:
        _made(installed, lambda to: _compile(source, to, folder / "compile.log"))
    os.utime(folder)
    _remove_all_but(MOST_KEPT)
    python = str(installed / "bin" / "python") if compiled else sys.executable
    name = commit[:10]
    return _checked(Build(name=name, source=source, python=python, compiled=compiled), name=name)


def _made(path: Path, make: Callable[[Path], None]) -> None:
    """Have *make* make *path* if it is missing; a run that was cut short leaves no half of it."""
    if path.exists():
        return
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    make(unfinished)
    unfinished.rename(path)


def _extract(commit: str, to: Path) -> None:
    archive = _git("archive", "--format=tar", commit)
    if archive.returncode:
        raise BenchError(f"git archive {commit}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(to, filter="data")


def _compile(source: Path, to: Path, log: Path) -> None:
    """Compile *source* as `make compile` does, with its own constraints, into environment *to*."""
    print(f"compiling {source.parent.name[:10]}: a few minutes, once", file=sys.stderr)
    wheels = to.with_name("wheel")
    shutil.rmtree(wheels, ignore_errors=True)
    constraints = source / "constraints.txt"
    log.write_bytes(b"")
    _run(
        # By way of an sdist: built in place, *source* would be left compiled, too.
        [sys.executable, "-m", "build", "--outdir", str(wheels), str(source)],
        {"HATCH_BUILD_HOOKS_ENABLE": "1", "PIP_CONSTRAINT": str(constraints)},
        log,
    )
    _run([sys.executable, "-m", "venv", str(to)], {}, log)
    install = [str(to / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    install += ["--constraint", str(constraints), *map(str, wheels.glob("*.whl"))]
    _run(install, {}, log)


def _run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    with log.open("ab") as output:
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            # An inherited PYTHONPATH would have the compiler read another tree's modules.
            env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment},
            check=False,
        )
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        raise BenchError(f"{' '.join(command[1:4])} failed; all of it is in {log}\n{last}")


def _remove_all_but(most: int) -> None:
    kept = sorted(KEPT_IN.iterdir(), key=lambda folder: folder.stat().st_mtime)
    for folder in kept[:-most]:
        shutil.rmtree(folder)


# -- What was built ----------------------------------------------------------------------------


def _checked(build: Build, *, name: str) -> Build:
    """
    Return *build* with the flags that it knows. Raises BenchError where it is not what it says.

    A comparison of a package with itself, because an environment leads to the wrong one, would
    always end well.
    """
    package = _package_of(build)
    expected = Path(build.python).parents[1] if build.compiled else build.source / "src"
    if not package.is_relative_to(expected.resolve()):
        raise BenchError(f"{name}: its server would be that of {package}, not of {expected}")
    listed = _output([build.python, "-m", "heliograph", "--help"], build)
    flags = frozenset(re.findall(r"--[a-z][a-z_0-9-]*", listed))
    return Build(
        name=name,
        source=build.source,
        python=build.python,
        compiled=build.compiled,
        options=flags,
    )


def _package_of(build: Build) -> Path:
    """Return where *build* has its package. Raises BenchError unless it is compiled as it says."""
    found = json.loads(_output([build.python, "-c", PROBE], build))
    if found["compiled"] != build.compiled:
        is_it = "compiled" if found["compiled"] else "not compiled"
        raise BenchError(f"{build.name}: the package at {found['package']} is {is_it}")
    return Path(found["package"])


def _output(command: Sequence[str], build: Build) -> str:
    done = subprocess.run(
        command,
        cwd=build.source,
        env=build.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{build.name} does not run: {done.stderr.strip()}")
    return done.stdout
