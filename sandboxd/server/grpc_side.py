"""The gRPC API of a server: its addresses, and when it is served."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandboxd.config import Config
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.front.answering.attributes import Attributes
from sandboxd.front.ports import Bindings, FrontSettings, Health, Invoker
from sandboxd.front.servers.connections import CallerLimits
from sandboxd.log import fields
from sandboxd.metrics import Metrics
from sandboxd.server.held_port import DEFAULT_PORT, adopt_port, clear_socket, hold_port, resolve, target, wanted

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
        SandboxdError: the port is taken, or gRPC is asked for and is not installed.
    """

    def __init__(self, config: Config, *, fd: int | None, replaces: bool, cell: int | None) -> None:
        listen = config.listen
        self._config = config
        self._unix = listen.grpc_unix_socket if cell in (None, 0) else None
        self._on = fd is not None or wanted(listen.grpc_port, self._unix)
        self._held: socket.socket | None = None
        self._target = ""
        self._waits = False
        self._service: Service | None = None
        if not self._on:
            if listen.grpc_port == DEFAULT_PORT:
                log.info("gRPC is not served: the extra sandboxd[grpc] is not installed", extra=fields(event="no_grpc"))
            return
        if cell is not None:
            self._target = resolve(listen.host, listen.grpc_port) if listen.grpc_port else ""
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
        return f"<GrpcSide {self._target or self._unix or 'off'}>"

    @property
    def on(self) -> bool:
        """Whether gRPC is served."""
        return self._on

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports it listens on."""
        if not self._on:
            return ()
        port = int(self._target.rpartition(":")[2]) if self._target else self._config.listen.grpc_port
        return (port,) if port else ()

    def prepare(
        self, settings: FrontSettings, invoker: Invoker, metrics: Metrics, health: Health, attributes: Attributes
    ) -> None:
        """Make the service. Parameters as of `Service`. This loads grpcio."""
        if self._on:
            from sandboxd.front.grpc.service import Service

            self._service = Service(settings, invoker, metrics, health, attributes)

    def serve_bindings(self, bindings: Bindings) -> None:
        """Serve another snapshot from now on."""
        if self._service is not None:
            self._service.bindings = bindings

    async def serve(self, metrics: Metrics, callers: CallerLimits, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        Parameters:
            metrics: counts callers that are turned away.
            callers: what they may take.
            stop: ends it.

        Raises:
            SandboxdError: an address is taken or cannot be used.
        """
        from sandboxd.front.grpc.server import GrpcConfig, add_health, dapr_handlers, serve

        assert self._service is not None
        listen, engine = self._config.listen, self._config.engine
        config = GrpcConfig(
            max_message_bytes=listen.max_body_bytes,
            max_header_bytes=listen.max_header_bytes,
            callers=callers,
            certificate=_read(engine.tls_certificate),
            key=_read(engine.tls_key),
        )
        drain_s = self._config.drain.timeout_ms / 1000
        try:
            if self._waits:
                await self._wait_for_port(stop)
                if stop.is_set():
                    return
            targets = [found for found in (self._target, self._unix and f"unix:{self._unix}") if found]
            config = replace(config, targets=targets)
            handlers = dapr_handlers(self._service, config, metrics)
            others = {"add": partial(add_health, self._service)} if listen.grpc_health else {}
            await serve(handlers, config, stop, drain_s=drain_s, released=self._release, **others)
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
        self._target = target(held)

    def _release(self) -> None:
        """Leave the port to another process."""
        if self._held is not None:
            self._held.close()
            self._held = None


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


def _read(path: str | None) -> bytes:
    """Return the content of a PEM file; empty if there is none.

    Raises:
        SandboxdError: it cannot be read.
    """
    if path is None:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SandboxdError(
            f"cannot read {path}: {error.strerror}",
            remedy="engine.tlsCertificate and engine.tlsKey must be readable files",
            exit_code=ExitCode.CONFIG,
        ) from error
