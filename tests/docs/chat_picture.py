"""
Make `docs/images/chat.png` again: the chat example as two people see it.

    python -m tests.docs.chat_picture

Starts a real server, the chat and a Chromium, and needs what the tests in `tests/clients` need.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clients.javascript import NODE_FOLDER, find_chromium, find_node
from tests.server import ServerProcess

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "chat.png"
PUSHER_JS = NODE_FOLDER / "node_modules" / "pusher-js" / "dist" / "web" / "pusher.min.js"
TIMEOUT_S = 90


@contextmanager
def chat_of(server: ServerProcess) -> Iterator[str]:
    """Run the chat example beside *server*; give the address of its page."""
    command = [sys.executable, str(ROOT / "examples" / "chat" / "app.py"), "--listen=0"]
    command += [f"--app_id={server.app_id}", f"--key={server.key}", f"--secret={server.secret}"]
    command += [f"--host={server.host}", f"--port={server.port}", f"--pusher_js={PUSHER_JS}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as chat:
        assert chat.stdout is not None
        try:
            yield chat.stdout.readline().split()[1]
        finally:
            chat.terminate()


def draw(file: Path) -> None:
    """Write the picture to *file*."""
    with ServerProcess() as server, chat_of(server) as address:
        command = [find_node(), "chat_picture.js", find_chromium(), address, str(file)]
        subprocess.run(command, cwd=NODE_FOLDER, check=True, timeout=TIMEOUT_S)


if __name__ == "__main__":
    draw(PICTURE)
