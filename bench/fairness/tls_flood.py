"""
What attack.c does in the mode flood, through TLS: requests over and over, answers read and dropped.

    python -m bench.fairness.tls_flood PORT CONNECTIONS SECONDS BLOCK

BLOCK is a file. Its bytes go out in large writes: encrypting them is OpenSSL's work, and what
Python adds is small beside it. Prints the line of JSON that attack.c prints.
"""

import contextlib
import json
import resource
import selectors
import socket
import ssl
import sys
import time
from pathlib import Path

HANDSHAKE_TIMEOUT_S = 15.0
READ_BYTES = 1 << 18
WRITE_BYTES = 1 << 16
"""A write that the socket cannot take is tried again with the same bytes, as OpenSSL wants it."""


class Flood:
    """Connections of TLS that send the same bytes over and over."""

    def __init__(self, port: int, block: bytes) -> None:
        self._port = port
        self._parts = [block[at : at + WRITE_BYTES] for at in range(0, len(block), WRITE_BYTES)]
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE  # the attacker does not mind who it is
        self._selector = selectors.EpollSelector()
        self._at: dict[ssl.SSLSocket, int] = {}
        self.opened = self.refused = self.cut_off = self.sent = self.received = self.most = 0
        self.waited = 0.0

    def connect(self) -> None:
        """Open one more connection."""
        try:
            plain = socket.create_connection(("127.0.0.1", self._port), HANDSHAKE_TIMEOUT_S)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._context.wrap_socket(plain)
        except OSError:
            self.refused += 1
            return
        connection.setblocking(False)
        self._at[connection] = 0
        self.opened += 1
        self.most = max(self.most, len(self._at))
        self._selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def run(self, until: float) -> None:
        """Send until the clock shows *until*."""
        while (now := time.monotonic()) < until:
            ready = self._selector.select(until - now)
            self.waited += time.monotonic() - now
            for key, events in ready:
                connection = key.fileobj
                if not isinstance(connection, ssl.SSLSocket):
                    raise AssertionError("nothing else was registered")  # noqa: TRY004 - a bug
                try:
                    if events & selectors.EVENT_READ:
                        self._read(connection)
                    if events & selectors.EVENT_WRITE:
                        self._write(connection)
                except OSError:
                    self.cut_off += 1
                    self._close(connection)
                    self.connect()

    def _read(self, connection: ssl.SSLSocket) -> None:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while True:
                count = len(connection.recv(READ_BYTES))
                if not count:
                    raise ConnectionResetError
                self.received += count

    def _write(self, connection: ssl.SSLSocket) -> None:
        at = self._at[connection]
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self.sent += connection.send(self._parts[at])
            self._at[connection] = (at + 1) % len(self._parts)

    def _close(self, connection: ssl.SSLSocket) -> None:
        self._selector.unregister(connection)
        del self._at[connection]
        connection.close()

    def unread(self) -> int:
        """Return the bytes that the server has yet to read, as they are on the wire."""
        waiting = 0
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            local, remote, _, queues = line.split()[1:5]
            to_send, to_read = (int(size, 16) for size in queues.split(":"))
            waiting += to_send if int(remote.rpartition(":")[2], 16) == self._port else 0
            waiting += to_read if int(local.rpartition(":")[2], 16) == self._port else 0
        return waiting

    def close(self) -> None:
        """Hang up everywhere."""
        for connection in list(self._at):
            self._close(connection)


def main(arguments: list[str]) -> None:
    """Attack, and print what was done."""
    port, connections, seconds, block = arguments
    flood = Flood(int(port), Path(block).read_bytes())
    began = time.monotonic()
    for _ in range(int(connections)):
        flood.connect()
        if time.monotonic() - began > HANDSHAKE_TIMEOUT_S:
            break
        flood.run(0)
    attack_began = time.monotonic()
    flood.run(attack_began + float(seconds))
    ended, unread = time.monotonic(), flood.unread()
    flood.close()
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "seconds": ended - began,
        "attacked": ended - attack_began if flood.opened else 0.0,
        "waited": flood.waited,
        "cpu": used.ru_utime + used.ru_stime,
        "connections": flood.most,
        "opened": flood.opened,
        "refused": flood.refused,
        "cut_off": flood.cut_off,
        "sent": flood.sent,
        "received": flood.received,
        "unread": unread,
        "rounds": 0,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
