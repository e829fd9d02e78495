"""What an idle client costs where TLS ends in the server. The clients are Python's own."""

import contextlib
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

from bench import tools
from bench.messages import upgrade
from bench.tools import BenchError, Build, Target


def tls_bytes_a_client(clients: int, build: Build) -> float:
    """Return the memory that each of *clients* idle ones costs. Raises BenchError."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        make_certificate(certificate, key)
        with (
            tools.heliograph(
                "--ssl_cert", str(certificate), "--ssl_key", str(key), build=build
            ) as target,
            contextlib.ExitStack() as stack,
        ):
            if target.pid is None:
                raise AssertionError("it was started here")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(certificate)
            _connect(context, target).close()
            before = tools.resident_bytes(target.pid)
            for _ in range(clients):
                stack.enter_context(_connect(context, target))
            return (tools.resident_bytes(target.pid) - before) / clients


def make_certificate(certificate: Path, key: Path) -> None:
    """Write a certificate for localhost and its *key*. Raises BenchError."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-out", str(certificate), "-keyout", str(key)]
    try:
        subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise BenchError("not measured: openssl cannot make a certificate here") from None


def _connect(context: ssl.SSLContext, target: Target) -> ssl.SSLSocket:
    plain = socket.create_connection((target.host, target.port), timeout=10)
    client = context.wrap_socket(plain, server_hostname="localhost")
    client.sendall(upgrade())
    received = b""
    while b"connection_established" not in received:
        part = client.recv(4096)
        if not part:
            raise BenchError(f"the server hung up on a client of TLS: {received!r}")
        received += part
    return client
