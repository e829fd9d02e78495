"""What is published: it builds, holds what it should, and runs where nothing else is installed."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, **options: str | Path) -> str:
    """Run *command*, and return what it printed; a failure shows all of it."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, **options
    )  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", target, ROOT)
    return target


def test_the_sdist_holds_sources_and_documents(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"src/heliograph/server.py", "README.md", "LICENSE", "constraints.txt"} <= names
    assert "clients/heliograph-resume.js" in names
    assert not [name for name in names if "node_modules" in name]


def test_the_wheel_runs_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "heliograph/py.typed" in names
    assert "heliograph/clients/heliograph-resume.js" in names
    assert not [name for name in names if name.startswith("tests")]

    venv.create(tmp_path / "empty", with_pip=True)
    executables = tmp_path / "empty" / "bin"
    constraints = ROOT / "constraints.txt"
    run(executables / "pip", "install", "--quiet", "--constraint", constraints, wheel)

    # From a folder that has no sources, so that it is the wheel that runs.
    assert run(executables / "heliograph", "--version", cwd=tmp_path).startswith("heliograph ")
    assert "port = 8080" in run(executables / "heliograph", "check-config", cwd=tmp_path)
    serve_once = (
        "import asyncio\n"
        "from heliograph.config.load import make_config\n"
        "from heliograph.server import Server\n"
        "async def main():\n"
        "    app = dict(pusher_app_id='1', pusher_app_key='k', pusher_secret='s')\n"
        "    server = Server(make_config(port=0, **app))\n"
        "    await server.start()\n"
        "    for path in (b'/health', b'/clients/heliograph-resume-1.js'):\n"
        "        reader, writer = await asyncio.open_connection('127.0.0.1', server.port)\n"
        "        writer.write(b'GET %b HTTP/1.0\\r\\n\\r\\n' % path)\n"
        "        print((await reader.read()).decode())\n"
        "        writer.close()\n"
        "    await server.stop()\n"
        "asyncio.run(main())\n"
    )
    answer = run(executables / "python", "-c", serve_once, cwd=tmp_path)
    assert answer.startswith("HTTP/1.1 200 OK")
    assert (ROOT / "clients" / "heliograph-resume.js").read_text() in answer
