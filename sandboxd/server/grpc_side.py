"""The gRPC API of a server: its addresses, and when it is served."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from sandboxd.config import Config
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.front.answering.attributes import Attributes
from sandboxd.front.ports import Bindings, FrontSettings, Health, Invoker
from sandboxd.front.servers.connections import CallerLimits
from sandboxd.log import fields
from sandboxd.metrics import Metrics
from sandboxd.server.held_port import adopt_port, clear_socket, hold_port, join_port
from sandboxd.server.sockets import listen_unix

if TYPE_CHECKING:
    from sandboxd.front.grpc.service import Service

log = logging.getLogger("sandboxd.grpc")

RETRY_S: Final = 0.5
"""The interval at which a process that replaces another one checks whether that has left the port."""


class GrpcSide:
    """Serves gRPC beside HTTP, or nothing if it is off.

    Parameters:
        config: of the server.
        fd: a bound socket that holds the port, from `--grpc-fd`; None binds `listen.grpcPort`.
        replaces: this process may replace another one that still holds the port.
        cell: the number among several cells, for which the supervisor holds the port; None for a single process.

    Raises:
        SandboxdError: the port is taken.
    """

    def __init__(self, config: Config, *, fd: int | None, replaces: bool, cell: int | None) -> None:
        listen = config.listen
        self._config = config
        self._unix = listen.grpc_unix_socket if cell in (None, 0) else None
        self._on = fd is not None or bool(listen.grpc_port or self._unix)
        self._held: socket.socket | None = None
        self._address: tuple[str, int] | None = None
        """The host and the port that it listens on."""
        self._bound: str | None = None
        """The path of the Unix socket, while it is this process's."""
        self._waits = False
        self._service: Service | None = None
        if not self._on:
            return
        if cell is not None:
            self._address = (listen.host, listen.grpc_port) if listen.grpc_port else None
        elif fd is not None:
            self._hold(adopt_port(fd))
        elif listen.grpc_port:
            try:
                self._hold(hold_port(listen.host, listen.grpc_port))
            except SandboxdError:
                if not replaces:
                    raise
                self._waits = True
        if self._unix is not None:
            clear_socket(self._unix)

    def __repr__(self) -> str:
        return f"<GrpcSide {self._address or self._unix or 'off'}>"

    @property
    def on(self) -> bool:
        """Whether gRPC is served."""
        return self._on

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports it listens on."""
        if not self._on:
            return ()
        port = self._address[1] if self._address else self._config.listen.grpc_port
        return (port,) if port else ()

    def prepare(
        self, settings: FrontSettings, invoker: Invoker, metrics: Metrics, health: Health, attributes: Attributes
    ) -> None:
        """Make the service. Parameters as of `Service`."""
        if self._on:
            from sandboxd.front.grpc.service import Service

            self._service = Service(settings, invoker, metrics, health, attributes)

    def serve_bindings(self, bindings: Bindings) -> None:
        """Serve another snapshot from now on."""
        if self._service is not None:
            self._service.bindings = bindings

    async def serve(
        self, metrics: Metrics, callers: CallerLimits, stop: asyncio.Event, answered: asyncio.Event
    ) -> None:
        """Serve until `stop` is set.

        Parameters:
            metrics: counts callers that are turned away.
            callers: what they may take.
            stop: ends it.
            answered: set when the calls that are left after that are answered.

        Raises:
            SandboxdError: an address is taken or cannot be used.
        """
        from sandboxd.front.grpc.server import GrpcConfig, GrpcServer

        assert self._service is not None
        listen = self._config.listen
        config = GrpcConfig(
            max_message_bytes=listen.max_body_bytes,
            max_header_bytes=listen.max_header_bytes,
            callers=callers,
            tls=_tls(self._config),
        )
        server = GrpcServer(self._service.methods(tools=listen.grpc_health), config, metrics)
        try:
            if self._waits:
                await self._wait_for_port(stop)
                if stop.is_set():
                    return
            listeners = [] if self._address is None else [join_port(*self._address)]
            if self._unix:
                listeners.append(_unix_socket(self._unix))
                self._bound = self._unix
            drain_s = self._config.drain.timeout_ms / 1000
            await server.serve(listeners, stop, drain_s=drain_s, answered=answered, released=self._release)
        finally:
            self._release()

    async def _wait_for_port(self, stop: asyncio.Event) -> None:
        listen = self._config.listen
        where = f"{listen.host}:{listen.grpc_port}"
        log.warning("gRPC waits until another process leaves %s", where, extra=fields(event="grpc_waits"))
        while not stop.is_set():
            try:
                self._hold(hold_port(listen.host, listen.grpc_port))
            except SandboxdError:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RETRY_S)
            else:
                return

    def _hold(self, held: socket.socket) -> None:
        self._held = held
        self._address = held.getsockname()[:2]

    def _release(self) -> None:
        """Leave the port, and the socket's path, to another process."""
        if self._held is not None:
            self._held.close()
            self._held = None
        bound, self._bound = self._bound, None
        if bound is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(bound)


async def all_end(tasks: "Iterable[asyncio.Task[None]]", stop: asyncio.Event) -> None:
    """Wait for servers to end: for all of them once `stop` is set, and before that for the first.

    Raises:
        Exception: a server failed; the others are cancelled.
    """
    left = set(tasks)
    try:
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if not stop.is_set():
                return
    finally:
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


def _unix_socket(path: str) -> socket.socket:
    """Return a socket at a path that is free.

    Raises:
        SandboxdError: it cannot be bound.
    """
    try:
        return listen_unix(path, backlog=None)
    except OSError as error:
        raise SandboxdError(
            f"cannot listen for gRPC on unix:{path}: {error.strerror or error}",
            remedy="choose another address for gRPC",
            exit_code=ExitCode.LISTEN,
        ) from error


def _tls(config: Config) -> ssl.SSLContext | None:
    """Return the context of `engine.tlsCertificate`; None if there is none.

    Raises:
        SandboxdError: it cannot be used.
    """
    from sandboxd.front.grpc.server import tls_context

    certificate, key = config.engine.tls_certificate, config.engine.tls_key
    if certificate is None:
        return None
    try:
        return tls_context(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise SandboxdError(
            f"cannot use {certificate}: {error.strerror or error}",
            remedy="engine.tlsCertificate and engine.tlsKey must be readable files of a certificate and its key",
            exit_code=ExitCode.CONFIG,
        ) from error
