"""Accepts connections that begin with a TLS handshake, and has them counted from the moment they are accepted.

asyncio's servers tell of a connection once its handshake is done. Until then a caller could hold any number of them
open, each with a descriptor and half a megabyte of OpenSSL's memory, beside `listen.maxConnections`.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from sandboxd.front.servers.connections import Connections

log = logging.getLogger("sandboxd.server")

_SHORT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SHORT_PAUSE_S: Final = 1.0
"""The pause after an accept that failed for want of descriptors or memory, as in asyncio's servers."""
_STREAM_BYTES: Final = 1 << 16
"""The limit of asyncio's stream readers."""

Make = Callable[[Callable[[], None]], asyncio.Protocol]
"""Makes the protocol of a connection. It is given what the protocol calls when its handshake is done, before it takes a
place among the connections itself."""
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Handshake:
    """A connection whose handshake is under way: a `Connection` that is idle, and so the first to make room."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._since = time.monotonic()
        self._task = asyncio.current_task()

    def idle_since(self) -> float:
        """See `Connection`."""
        return self._since

    def overdue(self, now: float) -> None:
        """See `Connection`. asyncio ends a handshake that takes too long."""

    def unread(self) -> int:
        """See `Connection`."""
        return 0

    def sent(self) -> int:
        """See `Connection`."""
        return 0

    def close(self) -> None:
        """See `Connection`."""
        assert self._task is not None
        self._task.cancel()

    abort = close


class TlsAcceptor:
    """Accepts until `stop`, and serves what it has accepted.

    Parameters:
        listener: bound, listening, not blocking. It stays the caller's.
        context: the server's certificate and protocols.
        timeout_s: the longest time for a handshake. Seconds.
        connections: told of every handshake.
        make: makes the protocol of each connection.
    """

    def __init__(
        self, listener: socket.socket, context: ssl.SSLContext, timeout_s: float, connections: Connections, make: Make
    ) -> None:
        self._listener = listener
        self._context = context
        self._timeout_s = timeout_s
        self._connections = connections
        self._make = make
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept(), name="tls-accept")

    def __repr__(self) -> str:
        return f"<TlsAcceptor {len(self._handshakes)} handshakes>"

    async def stop(self) -> None:
        """Accept no more. Handshakes that are under way go on."""
        self._accepting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._accepting

    def abort(self) -> None:
        """Give up the handshakes that are under way."""
        for task in self._handshakes:
            task.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno in _SHORT:
                    log.error("connections cannot be accepted: %s", error)
                # Otherwise the caller was gone before it was accepted.
                await asyncio.sleep(_SHORT_PAUSE_S if error.errno in _SHORT else 0)
                continue
            task = loop.create_task(self._welcome(accepted, address[0] if isinstance(address, tuple) else ""))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _welcome(self, accepted: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        handshake = _Handshake(peer)
        protocol = self._make(partial(self._connections.leave, handshake))
        task = asyncio.current_task()
        assert task is not None
        self._handshakes.add(task)
        self._connections.enter(handshake)
        try:
            await loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=self._context, ssl_handshake_timeout=self._timeout_s
            )
        except (OSError, asyncio.CancelledError):
            accepted.close()
            return  # no TLS, too late, or it had to make room; nothing that callers do is logged
        finally:
            self._handshakes.discard(task)
            self._connections.leave(handshake)
        if isinstance(protocol, Streams):
            await protocol.serve()


class Streams(asyncio.StreamReaderProtocol):
    """The protocol of a connection that is served by asyncio's streams.

    Parameters:
        serve: called with them.
    """

    def __init__(self, serve: Serve) -> None:
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(limit=_STREAM_BYTES, loop=loop)
        super().__init__(self._reader, loop=loop)
        self._transport_made: asyncio.BaseTransport | None = None
        self._serving = serve

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport_made = transport
        super().connection_made(transport)

    async def serve(self) -> None:
        """Serve the connection."""
        loop = asyncio.get_running_loop()
        transport: Any = self._transport_made
        await self._serving(self._reader, asyncio.StreamWriter(transport, self, self._reader, loop))
