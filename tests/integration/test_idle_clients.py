"""What a client costs that is only there."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.integration.rig import PATIENCE_S
from tests.integration.test_deploys import SUBSCRIBE, masked
from tests.integration.test_http import UPGRADE
from tests.server import ServerProcess

WARM_UP = 300
CLIENTS = 1_000

MOST_BYTES = 6_000
"""Twice what `make bench` measures; one buffer, task or compressor for each would be more."""


def memory(server: ServerProcess) -> int:
    pages = int(Path(f"/proc/{server.process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def come(server: ServerProcess, number: int, stack: ExitStack) -> None:
    """Have *number* clients subscribe, and stay."""
    for _ in range(number):
        client = stack.enter_context(
            socket.create_connection((server.host, server.port), timeout=PATIENCE_S)
        )
        client.sendall(UPGRADE + masked(1, SUBSCRIBE))
        said = b""
        while b"subscription_succeeded" not in said:
            part = client.recv(4096)
            assert part, said
            said += part


@pytest.mark.usefixtures("descriptors")
def test_an_idle_client_is_cheap(start_server: StartServer) -> None:
    server = start_server()
    with ExitStack() as stack:
        come(server, WARM_UP, stack)  # what is paid once
        before = memory(server)
        come(server, CLIENTS, stack)
        assert (memory(server) - before) / CLIENTS <= MOST_BYTES
