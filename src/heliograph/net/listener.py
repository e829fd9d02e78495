"""
Accepting: each connection to a listening socket gets a protocol.

Accepts connections in cleartext, over TLS, and from proxies that send the PROXY protocol. The
caller's factory decides the protocol of the connection.
"""

import asyncio
import errno
import itertools
import logging
import os
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from heliograph.net.addresses import Addresses, Origin
from heliograph.net.descriptors import DescriptorBudget
from heliograph.net.idle import most_unnamed
from heliograph.net.sockets import BACKLOG, INTERNET, ListeningSocket
from heliograph.net.streams import Poller
from heliograph.net.tls_streams import Failed, TlsStream
from heliograph.net.transport import FirstReceiver
from heliograph.observe.log_throttle import Summary
from heliograph.wire import proxy

logger = logging.getLogger(__name__)

Factory = Callable[[Origin | None, bool], FirstReceiver]
"""
Makes the protocol of a connection. Takes the origin that counts the connection, None if it is not
counted yet, and whether the server is over capacity.
"""

LATE_S = 1.0
"""Seconds that connections accepted at the end have for TLS; then they are cancelled."""

FULL_PAUSE_S = 0.1
"""Seconds without accepting if no descriptor is left; connections stay in the accept queue."""

AT_ONCE = 4
"""Connections that asyncio's own loop accepts before the server can stop it at capacity."""

ARRIVALS_AT_ONCE = 128
"""Connections that are accepted before the loop turns and serves earlier connections."""

BUSY_ARRIVALS = 8
"""
The same limit while more than ARRIVALS_AT_ONCE connections are queued for their turn: connections
that arrive faster than they can be served stay in the accept queue, where they cost nothing. A
server that only handles new connections does not get slower by this, since it always has work.
"""


class Listener:
    """
    Lets *factory* make a protocol for every connection to *sockets*.

    *poller* serves the connections; without one, the event loop does. *tls* is used for TCP
    connections, not for Unix sockets. If *proxied*, connections must begin with a header that names
    the client (PROXY protocol 2). *patience_s* is the time-out for TLS handshakes and for this
    header. *addresses* counts the connections, if given. *tls_failed* is called for each failed TLS
    handshake, if there is a poller. A listener begins once and ends once; its connections stay.
    """

    def __init__(
        self,
        sockets: Sequence[ListeningSocket],
        factory: Factory,
        descriptors: DescriptorBudget,
        *,
        poller: Poller | None = None,
        tls: ssl.SSLContext | None = None,
        proxied: bool = False,
        patience_s: float = 60.0,
        addresses: Addresses | None = None,
        tls_failed: Failed | None = None,
    ) -> None:
        self._tls_failed = tls_failed
        self._sockets = sockets
        self._factory = factory
        self._descriptors = descriptors
        self._poller = poller
        self._tls = tls
        self._proxied = proxied
        self._patience_s = patience_s
        self._addresses = addresses if addresses is not None and addresses.limit else None
        self._servers: list[asyncio.Server] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._arriving: dict[asyncio.Task[None], None] = {}  # in order of arrival
        self._pausing: asyncio.Task[None] | None = None
        self._ending = False
        self._end: asyncio.Task[None] | None = None
        self._strangers: Summary

    async def begin(self) -> None:
        """Accept from now on."""
        loop = asyncio.get_running_loop()
        self._strangers = Summary(logger, logging.WARNING, loop.call_later)
        if self._poller is not None:
            for listening in self._sockets:
                listening.socket.setblocking(False)
                if listening.socket.family in INTERNET:
                    # Accepted sockets inherit this option from the listening socket.
                    listening.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._proxied:
            await self._open()
            return
        for listening in self._sockets:
            listening.socket.listen(BACKLOG)
            self._accepting.append(loop.create_task(self._accept(listening)))

    async def end(self) -> None:
        """
        Accept the connections in the accept queue, and no more; return when they are set up.

        If the caller is cancelled, this continues, and the next call waits for its end.
        """
        if self._end is None:
            self._end = asyncio.get_running_loop().create_task(self._end_all())
        await asyncio.shield(self._end)

    async def _end_all(self) -> None:
        self._ending = True
        if self._pausing is not None:
            await self._pausing
        await self._close()
        for task in self._accepting:
            task.cancel()
        for listening in self._sockets:
            if not listening.kept:
                self._empty(listening)
            listening.close()
        if self._arriving:
            _, unfinished = await asyncio.wait(self._arriving, timeout=LATE_S)
            for task in unfinished:
                task.cancel()

    def _cannot_accept(self, error: OSError) -> None:
        self._strangers.note("connections cannot be accepted", error.strerror or str(error))

    # -- By the poller, or by the loop ---------------------------------------------------

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        # asyncio's own loop uses *backlog* as the number of connections to accept at once.
        at_once = AT_ONCE if isinstance(loop, asyncio.SelectorEventLoop) else BACKLOG
        for listening in self._sockets:
            if self._poller is not None:
                listening.socket.listen(BACKLOG)
                loop.add_reader(listening.socket.fileno(), self._arrivals, listening)
                continue
            create: Any = loop.create_unix_server if listening.local else loop.create_server
            # A copy, because the loop closes its socket while connections may still be in the
            # accept queue: see `end`.
            waiting = listening.socket.dup()
            options = self._security(listening)
            if listening.local and sys.version_info >= (3, 13):
                # Python 3.13 removes the path of a Unix socket, which may be another server's.
                options["cleanup_socket"] = False
            try:
                server = await create(self._meet, sock=waiting, backlog=at_once, **options)
            except BaseException:
                waiting.close()
                raise
            self._servers.append(server)
            listening.socket.listen(BACKLOG)  # for the kernel: the size of the accept queue

    async def _close(self) -> None:
        for listening in self._sockets:
            if self._poller is not None:
                asyncio.get_running_loop().remove_reader(listening.socket.fileno())
        await self._stop_watching()
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _tls_at(self, listening: ListeningSocket) -> ssl.SSLContext | None:
        return None if listening.local else self._tls

    def _arrivals(self, listening: ListeningSocket) -> None:
        """Accept connections at *listening*, as long as descriptors are left to answer them."""
        busy = self._poller is not None and self._poller.queued > ARRIVALS_AT_ONCE
        for _ in range(BUSY_ARRIVALS if busy else ARRIVALS_AT_ONCE):
            if self._pausing is not None or self._descriptors.exhausted():
                self._pause_soon()
                return
            try:
                # As accept(), but without a socket object, which would double the cost.
                descriptor, peer = listening.socket._accept()  # type: ignore[attr-defined]  # noqa: SLF001
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # the client has disconnected
                    self._cannot_accept(error)
                    self._pause_soon()
                    return
            else:
                self._adopt(descriptor, listening, peer, None)

    def _adopt(
        self,
        descriptor: int,
        listening: ListeningSocket,
        peer: tuple[Any, ...] | str,
        proxied_address: str | None,
    ) -> None:
        """Let the poller serve a connection to *listening*; *peer* is its address from accept()."""
        assert self._poller is not None  # noqa: S101 - its callers have checked
        origin = None
        if self._addresses is not None:
            origin = self._origin(self._addresses, listening, peer, proxied_address)
            if origin is None:
                os.close(descriptor)
                return
        os.set_blocking(descriptor, False)
        protocol = self._factory(origin, self._descriptors.full(descriptor))
        tls = self._tls_at(listening)
        if tls is not None:
            protocol = TlsStream(tls, self._poller, protocol, failed=self._tls_failed)
        try:
            self._poller.adopt(descriptor, protocol)
        except OSError as error:
            if origin is not None and self._addresses is not None:
                self._addresses.leave(origin)
            os.close(descriptor)
            self._strangers.note("a connection was closed", error.strerror or str(error))

    def _origin(
        self,
        addresses: Addresses,
        listening: ListeningSocket,
        peer: tuple[Any, ...] | str,
        proxied_address: str | None,
    ) -> Origin | None:
        """Count a connection in; return None if it must be closed without an answer."""
        if proxied_address is not None:
            return addresses.arrive(proxied_address)
        if listening.local:
            return addresses.arrive_locally()
        if self._proxied:
            return addresses.arrive_unnamed(peer[0])
        return addresses.arrive(peer[0])

    def _pause_soon(self) -> None:
        if self._pausing is None:
            self._pausing = asyncio.get_running_loop().create_task(self._pause())

    def _meet(self) -> Any:
        """Make a protocol for a connection that the loop accepted; pause if none may follow."""
        if self._descriptors.exhausted():
            self._pause_soon()
        return self._factory(None, self._descriptors.full())

    async def _pause(self) -> None:
        """
        Accept no connection until descriptors are left.

        A loop without a free descriptor would drop all connections in the accept queue without an
        answer.
        """
        await self._close()
        while not self._ending:
            await asyncio.sleep(FULL_PAUSE_S)
            if not self._descriptors.exhausted():
                try:
                    await self._open()
                    break
                except OSError as error:
                    self._cannot_accept(error)
                    await self._close()
        self._pausing = None

    async def _stop_watching(self) -> None:
        """Let asyncio's own loop set up accepted connections; closing the server resets them."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, asyncio.SelectorEventLoop):
            for server in self._servers:
                for listening in server.sockets:
                    loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)

    def _security(self, listening: ListeningSocket) -> dict[str, Any]:
        tls = self._tls_at(listening)
        return {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": self._patience_s}

    # -- With the PROXY protocol, and at the end -----------------------------------------

    async def _accept(self, listening: ListeningSocket) -> None:
        for accepted in itertools.count(1):
            if accepted % ARRIVALS_AT_ONCE == 0 and 2 * len(self._arriving) > self._most_arriving:
                await asyncio.sleep(0)  # headers that have arrived are read now
            # Connections without their PROXY header already use a descriptor.
            if self._descriptors.full() and self._descriptors.exhausted():
                await asyncio.sleep(FULL_PAUSE_S)
                continue
            try:
                connection, peer = await asyncio.get_running_loop().sock_accept(listening.socket)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # the client has disconnected
                    self._cannot_accept(error)
                    await asyncio.sleep(FULL_PAUSE_S)
            else:
                self._welcome(connection, listening, peer)

    def _empty(self, listening: ListeningSocket) -> None:
        """Accept all connections in the accept queue, because closing the socket resets them."""
        while True:
            try:
                connection, peer = listening.socket.accept()
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue
                return  # the queue is empty, or no descriptor is left
            self._welcome(connection, listening, peer)

    def _welcome(self, connection: socket.socket, listening: ListeningSocket, peer: Any) -> None:
        if self._poller is not None and not self._proxied:
            self._adopt(connection.detach(), listening, peer, None)
            return
        connection.setblocking(False)
        if len(self._arriving) >= self._most_arriving and not self._ending:
            oldest = next(iter(self._arriving))
            del self._arriving[oldest]
            oldest.cancel()
            self._strangers.note(
                "--proxy_protocol: a connection was closed",
                "its header had not arrived, and too many connections were waiting for theirs",
            )
        arrival: Coroutine[Any, Any, None] = self._arrive(connection, listening, peer)
        task = asyncio.get_running_loop().create_task(arrival)
        self._arriving[task] = None
        task.add_done_callback(partial(self._arrived, connection))

    @property
    def _most_arriving(self) -> int:
        """Limit of connections without their PROXY header; over it, the oldest is closed."""
        return most_unnamed(self._descriptors.capacity)

    def _arrived(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._arriving.pop(task, None)
        if task.cancelled():
            connection.close()  # cancelled before the task began

    async def _arrive(
        self, connection: socket.socket, listening: ListeningSocket, peer: Any
    ) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                address = await _proxied_address(connection) if self._proxied else None
        except proxy.HeaderError as error:
            self._strangers.note("--proxy_protocol: a connection was closed", str(error))
            connection.close()
            return
        except (OSError, TimeoutError, asyncio.CancelledError):
            connection.close()
            return
        if self._poller is not None:
            self._adopt(connection.detach(), listening, peer, address)
            return
        origin = None
        if self._addresses is not None:
            origin = self._origin(self._addresses, listening, peer, address)
            if origin is None:
                connection.close()
                return
        make: Any = partial(self._factory, origin, self._descriptors.full())
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make, connection, **self._security(listening)
            )
        except OSError:  # disconnected, or no TLS: it has no protocol
            if origin is not None and self._addresses is not None:
                self._addresses.leave(origin)


async def _proxied_address(connection: socket.socket) -> str | None:
    """Return the client's address from the PROXY header; read nothing after the header."""
    head = await _exactly(connection, proxy.HEAD_BYTES)
    return proxy.source(head, await _exactly(connection, proxy.rest_bytes(head)))


async def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = await asyncio.get_running_loop().sock_recv(connection, size - len(received))
        if not part:
            raise ConnectionResetError
        received += part
    return received
