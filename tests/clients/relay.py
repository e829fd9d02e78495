"""
A relay between clients and a server, whose connections a test cuts: as a network that fails.

Knows the boundaries of the server's WebSocket frames, so that a connection can end between two
messages. HTTP requests that ask for no WebSocket are always relayed.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

READ_BYTES = 1 << 16
END_OF_HEAD = b"\r\n\r\n"
JOIN_TIMEOUT_S = 20.0
GOING_AWAY = b"\x88\x02\x03\xe9"
"""A close frame with the code 1001, after which pusher-js connects again in a second."""


def frame_size(data: bytes) -> int | None:
    """Return the size of the unmasked frame with which *data* begins; None if it is incomplete."""
    if len(data) < 2:
        return None
    length, start = data[1], 2
    if length > 125:
        start = 4 if length == 126 else 10
        length = int.from_bytes(data[2:start], "big")
    return start + length if len(data) >= start + length else None


class Way:
    """The relayed connection of one client: its two sockets."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        self._lock = threading.Lock()
        self._closing = False

    def send(self, frame: bytes) -> None:
        """Send the client a whole frame, unless it has received a close frame."""
        with self._lock:
            if not self._closing:
                self._client.sendall(frame)

    def close(self) -> None:
        """Send the client a close frame; it answers, and the server then ends the connection."""
        self.send(GOING_AWAY)
        self._closing = True

    def end(self) -> None:
        """End both connections at once, without a close frame."""
        for one in (self._client, self._server):
            with contextlib.suppress(OSError):  # ended already
                one.shutdown(socket.SHUT_RDWR)


class Relay:
    """
    Relays connections to *port* on the loopback interface; clients connect to `host` and `port`.

    `cut` ends all WebSocket connections. While the relay holds, new ones are accepted and not
    relayed, so that a client finds its server again exactly when the test lets it.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()[:2]
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._released.set()
        self._ways: set[Way] = set()
        self._cuts_after = b""
        self._was_cut = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Of these two, one wakes `accept`: which of them depends on the system.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self.release()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)
            assert not thread.is_alive()

    # -- What a test does ----------------------------------------------------------------

    def hold(self) -> None:
        """Let no new WebSocket reach the server until `release`."""
        self._released.clear()

    def release(self) -> None:
        """Let new WebSockets reach the server."""
        self._released.set()

    def cut(self) -> None:
        """End all WebSocket connections without a close frame, and hold."""
        self.hold()
        with self._lock:
            ways = list(self._ways)
        for way in ways:
            way.end()

    def close(self) -> None:
        """End all WebSocket connections with a close frame to their clients, and hold."""
        self.hold()
        with self._lock:
            ways = list(self._ways)
        for way in ways:
            way.close()

    def cut_after(self, text: str) -> None:
        """Cut, and hold, as soon as a client was sent a frame that contains *text*."""
        self._was_cut.clear()
        self._cuts_after = text.encode()

    def wait_until_cut(self) -> None:
        """Wait until `cut_after` has cut."""
        assert self._was_cut.wait(JOIN_TIMEOUT_S), "no frame with this text was relayed"

    # -- Connections ---------------------------------------------------------------------

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # the listener is closed
            self._start(partial(self._serve, client))

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):  # either side may end at any time
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = _read_head(client)
            websocket = b"upgrade: websocket" in head.lower()
            if not head or (websocket and not self._released.wait(JOIN_TIMEOUT_S)):
                return
            with socket.create_connection(("127.0.0.1", self._server_port)) as server:
                way = Way(client, server)
                try:
                    if websocket:
                        with self._lock:
                            self._ways.add(way)
                    server.sendall(head)
                    self._start(partial(_pump, client, server))
                    if websocket:
                        self._relay_frames(server, way)
                    else:
                        _pump(server, client)
                finally:
                    with self._lock:
                        self._ways.discard(way)
                    way.end()

    def _relay_frames(self, server: socket.socket, way: Way) -> None:
        head = _read_head(server)
        end = head.index(END_OF_HEAD) + len(END_OF_HEAD)
        way.send(head[:end])
        data = head[end:]
        while True:
            while (size := frame_size(data)) is not None:
                frame, data = data[:size], data[size:]
                way.send(frame)
                if self._cuts_after and self._cuts_after in frame:
                    self._cuts_after = b""
                    self.cut()
                    self._was_cut.set()
                    return
            more = server.recv(READ_BYTES)
            if not more:
                return
            data += more


def _read_head(source: socket.socket) -> bytes:
    """Return the bytes up to the end of a head, and those read with it; none if it is cut."""
    data = b""
    while END_OF_HEAD not in data:
        more = source.recv(READ_BYTES)
        if not more:
            return b""
        data += more
    return data


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # either side may end at any time
        while data := source.recv(READ_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
