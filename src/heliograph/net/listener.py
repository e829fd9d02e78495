"""
Accepting: who comes to a place where the server listens gets a protocol.

Knows the ways in: plain, through TLS, behind a proxy that says for whom it comes. What is spoken
then is the caller's business.
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
Makes the protocol of a connection; given is where it is counted, if it is already, and whether
there is no room for it.
"""

LATE_S = 1.0
"""How long those let in at the last moment have for their TLS before they are not waited for."""

FULL_PAUSE_S = 0.1
"""How long nobody is accepted when there is no room for one more; they wait in the kernel."""

AT_ONCE = 4
"""How many asyncio's own loop accepts before anybody can tell it that there is no room."""

ARRIVALS_AT_ONCE = 128
"""How many are accepted before the loop turns, and those who came before are served."""

BUSY_ARRIVALS = 8
"""
The same while more connections than that are queued for their turn: those that come faster than
they can be served wait in the kernel, where they cost nothing. It takes nothing from a server that
is busy with newcomers alone, since it is never out of work.
"""


class Listener:
    """
    Has *factory* make a protocol for every connection that comes to *sockets*.

    *poller* serves them, where there is one, else the event loop. *tls* is for those that come from
    afar, not through a Unix socket. Where it is *proxied*, connections must begin by saying for
    whom (PROXY protocol 2). *patience_s* is what they have for either. *addresses* counts them,
    where they are counted. *tls_failed* is called for each handshake of TLS that fails, where there
    is a poller. A listener begins once, and ends once; what it brought stays.
    """

    def __init__(
        self,
        sockets: Sequence[ListeningSocket],
        factory: Factory,
        room: DescriptorBudget,
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
        self._room = room
        self._poller = poller
        self._tls = tls
        self._proxied = proxied
        self._patience_s = patience_s
        self._addresses = addresses if addresses is not None and addresses.limit else None
        self._servers: list[asyncio.Server] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._arriving: dict[asyncio.Task[None], None] = {}  # in the order in which they came
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
                    # Those who are accepted have it from the one they came to.
                    listening.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._proxied:
            await self._open()
            return
        for listening in self._sockets:
            listening.socket.listen(BACKLOG)
            self._accepting.append(loop.create_task(self._accept(listening)))

    async def end(self) -> None:
        """
        Accept the connections that are in the backlog, and no more; return when they are set up.

        If the caller cancels it, that goes on, and the next call waits for the same end.
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
        # asyncio's own loop takes the backlog for the number that it accepts in one go.
        at_once = AT_ONCE if isinstance(loop, asyncio.SelectorEventLoop) else BACKLOG
        for listening in self._sockets:
            if self._poller is not None:
                listening.socket.listen(BACKLOG)
                loop.add_reader(listening.socket.fileno(), self._arrivals, listening)
                continue
            create: Any = loop.create_unix_server if listening.local else loop.create_server
            # The loop closes what it is given, and some are still waiting then: see `end`.
            waiting = listening.socket.dup()
            options = self._security(listening)
            if listening.local and sys.version_info >= (3, 13):
                # Python 3.13 removes the path of a Unix socket; it can belong to somebody else.
                options["cleanup_socket"] = False
            try:
                server = await create(self._meet, sock=waiting, backlog=at_once, **options)
            except BaseException:
                waiting.close()
                raise
            self._servers.append(server)
            listening.socket.listen(BACKLOG)  # for the kernel, it is how many may wait

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
        """Accept who waits at *listening*, as long as there is room to tell them anything."""
        busy = self._poller is not None and self._poller.queued > ARRIVALS_AT_ONCE
        for _ in range(BUSY_ARRIVALS if busy else ARRIVALS_AT_ONCE):
            if self._pausing is not None or self._room.exhausted():
                self._pause_soon()
                return
            try:
                # As accept() does, but for the socket object: that costs as much again.
                descriptor, peer = listening.socket._accept()  # type: ignore[attr-defined]  # noqa: SLF001
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # that one did not wait
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
        """Have the poller serve one who came to *listening*; *peer* is whom accept() named."""
        assert self._poller is not None  # noqa: S101 - its callers have looked
        origin = None
        if self._addresses is not None:
            origin = self._origin(self._addresses, listening, peer, proxied_address)
            if origin is None:
                os.close(descriptor)
                return
        os.set_blocking(descriptor, False)
        protocol = self._factory(origin, self._room.full(descriptor))
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
        """Count a connection in; None says that it must be closed without an answer."""
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
        """Make a protocol for one whom the loop accepted, perhaps the last for now."""
        if self._room.exhausted():
            self._pause_soon()
        return self._factory(None, self._room.full())

    async def _pause(self) -> None:
        """
        Accept nobody until there is room.

        A loop that has no descriptor left for one who comes would drop all who wait, unheard.
        """
        await self._close()
        while not self._ending:
            await asyncio.sleep(FULL_PAUSE_S)
            if not self._room.exhausted():
                try:
                    await self._open()
                    break
                except OSError as error:
                    self._cannot_accept(error)
                    await self._close()
        self._pausing = None

    async def _stop_watching(self) -> None:
        """Let asyncio's own loop finish what it began: a closed server resets whom it accepted."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, asyncio.SelectorEventLoop):
            for server in self._servers:
                for listening in server.sockets:
                    loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)

    def _security(self, listening: ListeningSocket) -> dict[str, Any]:
        tls = self._tls_at(listening)
        return {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": self._patience_s}

    # -- By hand -------------------------------------------------------------------------

    async def _accept(self, listening: ListeningSocket) -> None:
        for accepted in itertools.count(1):
            if accepted % ARRIVALS_AT_ONCE == 0 and 2 * len(self._arriving) > self._most_arriving:
                await asyncio.sleep(0)  # their headers may be here, and are yet to be read
            # Who has not said yet for whom it comes has a descriptor already.
            if self._room.full() and self._room.exhausted():
                await asyncio.sleep(FULL_PAUSE_S)
                continue
            try:
                connection, peer = await asyncio.get_running_loop().sock_accept(listening.socket)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # that one did not wait
                    self._cannot_accept(error)
                    await asyncio.sleep(FULL_PAUSE_S)
            else:
                self._welcome(connection, listening, peer)

    def _empty(self, listening: ListeningSocket) -> None:
        """Accept whoever is connected as far as the kernel is concerned: closing resets them."""
        while True:
            try:
                connection, peer = listening.socket.accept()
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue
                return  # nobody waits, or there is no room for them
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
        """How many may owe their PROXY header; beyond that the oldest is closed."""
        return most_unnamed(self._room.capacity)

    def _arrived(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._arriving.pop(task, None)
        if task.cancelled():
            connection.close()  # before it began

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
        make: Any = partial(self._factory, origin, self._room.full())
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make, connection, **self._security(listening)
            )
        except OSError:  # it leaves, or speaks no TLS: no protocol was given it
            if origin is not None and self._addresses is not None:
                self._addresses.leave(origin)


async def _proxied_address(connection: socket.socket) -> str | None:
    """Return whom the PROXY header says it comes for; what follows is left where it is."""
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
