"""Serves gRPC: the listeners, the connections they bring, and their end in two steps."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sandboxd.front.grpc.calls import Methods
from sandboxd.front.grpc.connection import Connection
from sandboxd.front.servers.connections import SWEEP_S, CallerLimits, Connections
from sandboxd.front.servers.idle_close import wait_for_answers, wait_until_closed
from sandboxd.front.servers.refusals import Refusals
from sandboxd.front.servers.tls_accept import TlsAcceptor
from sandboxd.log import fields
from sandboxd.metrics import Metrics

log = logging.getLogger("sandboxd.grpc")

BACKLOG: Final = 2048
LEAVE_S: Final = 2.0
"""So long after the first GOAWAY a caller has to hear of it. Then calls that come are refused."""
CUT_S: Final = 1.0
"""So long connections have that are cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpcConfig:
    """The bounds of the calls, and TLS."""

    max_message_bytes: int = 4 * 1024 * 1024
    max_header_bytes: int = 16 * 1024
    callers: CallerLimits
    tls: ssl.SSLContext | None = None


def tls_context(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return the context of a certificate, for HTTP/2.

    Parameters:
        certificate, key: paths of PEM files.

    Raises:
        OSError: they cannot be read.
        ssl.SSLError: they hold no certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return context


class GrpcServer:
    """The connections of a server, and what they have in common.

    Parameters:
        methods: answer the calls.
        config: the bounds.
        metrics: counts callers that are turned away.
    """

    def __init__(self, methods: Methods, config: GrpcConfig, metrics: Metrics) -> None:
        self.methods = methods
        self.refusals = Refusals(metrics.turned_away)
        self.table = Connections(config.callers, self.refusals)
        self.max_message_bytes = config.max_message_bytes
        self.max_header_bytes = config.max_header_bytes
        self.draining = False
        """Whether callers are asked to open no more calls."""
        self._config = config
        self._connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._acceptors: list[TlsAcceptor] = []
        self._stopped = False

    def __repr__(self) -> str:
        return f"<GrpcServer {len(self._connections)} connections>"

    def made(self, connection: Connection) -> None:
        """See `sandboxd.front.grpc.connection.Server`."""
        self._connections.add(connection)

    def lost(self, connection: Connection) -> None:
        """See `sandboxd.front.grpc.connection.Server`."""
        self._connections.discard(connection)

    def _made(self, entering: Callable[[], None] = lambda: None) -> Connection:
        return Connection(self, entering)

    async def serve(
        self,
        listeners: Sequence[socket.socket],
        stop: asyncio.Event,
        *,
        drain_s: float = 30.0,
        answered: asyncio.Event | None = None,
        accepting: Callable[[], None] = lambda: None,
        released: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve until `stop` is set, then finish what has begun.

        Parameters:
            listeners: bound, not listening yet, not blocking. They are closed here.
            stop: set it to stop accepting and to let calls finish.
            drain_s: how long they may take; what is left then is cancelled. Seconds.
            answered: set by a caller that answers those that are left itself, which decides instead of `drain_s`.
            accepting: called as soon as connections are accepted.
            released: called once, as soon as nothing is accepted any more.
        """
        sweeping = asyncio.create_task(self._sweep(), name="grpc-sweep")
        try:
            for listener in listeners:
                await self._listen(listener)
            accepting()
            where = ", ".join(_shown(listener) for listener in listeners)
            log.info("serving gRPC", extra=fields(event="serving_grpc", address=where))
            await stop.wait()
            await self._stop_listening(listeners, released)
            await self._drain(drain_s, answered)
        finally:
            await self._stop_listening(listeners, released)
            sweeping.cancel()
            for acceptor in self._acceptors:
                acceptor.abort()
            for connection in list(self._connections):
                connection.abort()
            await wait_until_closed(lambda: bool(self._connections), CUT_S)
            self.refusals.report()

    async def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        if self._config.tls is not None:
            listener.listen(BACKLOG)
            timeout_s = self._config.callers.head_timeout_s
            self._acceptors.append(TlsAcceptor(listener, self._config.tls, timeout_s, self.table, self._made))
        elif listener.family == socket.AF_UNIX:
            self._servers.append(await loop.create_unix_server(self._made, sock=listener, backlog=BACKLOG))
        else:
            self._servers.append(await loop.create_server(self._made, sock=listener, backlog=BACKLOG))

    async def _stop_listening(self, listeners: Sequence[socket.socket], released: Callable[[], None]) -> None:
        if self._stopped:
            return  # what was released may be a successor's by now
        self._stopped = True
        for acceptor in self._acceptors:
            await acceptor.stop()
        for server in self._servers:
            server.close()
        for listener in listeners:
            listener.close()
        released()

    async def _drain(self, drain_s: float, answered: asyncio.Event | None) -> None:
        """Have the callers leave, see `Connection.leave`."""
        self.draining = True
        for connection in list(self._connections):
            connection.leave()
        leave_s = min(LEAVE_S, drain_s)
        await wait_until_closed(lambda: bool(self._connections), leave_s)
        for connection in list(self._connections):
            connection.leave_now()
        if answered is None:
            await wait_until_closed(lambda: bool(self._connections), drain_s - leave_s)
        else:
            await wait_for_answers(answered, lambda: bool(self._connections))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.table.sweep()


def _shown(listener: socket.socket) -> str:
    """Return an address as SDKs want it."""
    with contextlib.suppress(OSError):
        name = listener.getsockname()
        if isinstance(name, str):
            return f"unix:{name}"
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return ""
