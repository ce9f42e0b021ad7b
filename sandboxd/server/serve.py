"""`sandboxd serve` with one cell: the front, its pool, reloads and draining."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from sandboxd import __version__
from sandboxd.config import Config
from sandboxd.errors import SHORT_OF, ExitCode, SandboxdError
from sandboxd.files.problems import Problem
from sandboxd.front.http.app import App
from sandboxd.front.ports import Bindings
from sandboxd.front.servers.connections import CallerLimits
from sandboxd.front.servers.refusals import Refusals
from sandboxd.front.servers.serving import choose, loop_factory
from sandboxd.front.servers.serving import serve as serve_connections
from sandboxd.log import fields, next_level, set_level, setup
from sandboxd.metrics import DaprLabels, Metrics
from sandboxd.metrics.process import LoopLag
from sandboxd.pool.pools import Pools
from sandboxd.processes import signals
from sandboxd.processes.allocator import return_large_blocks
from sandboxd.processes.notify import READY, STOPPING, Notifier
from sandboxd.server.admin_side import AdminSide
from sandboxd.server.catalog import Catalog
from sandboxd.server.component_side import ComponentSettings, ComponentSide, Reloading
from sandboxd.server.grpc_side import GrpcSide, all_end
from sandboxd.server.listening import BACKLOG, open_listener
from sandboxd.server.member import Member
from sandboxd.server.orphans import Orphans
from sandboxd.server.progress import ProgressLine
from sandboxd.server.reloader import Reloader
from sandboxd.server.settings import caller_limits, front_settings, http_server_settings, pool_settings
from sandboxd.server.sockets import address_of, inherited_fd, tcp_port
from sandboxd.server.translate import first_fault

log = logging.getLogger("sandboxd")

_NO_THREAD = "can't start new thread"
"""CPython's message for EAGAIN from pthread_create. The RuntimeError has neither a type nor an errno of its own."""


def serve(
    config: Config,
    problems: tuple[Problem, ...],
    *,
    fd: int | None,
    grpc_fd: int | None = None,
    member: Member | None = None,
    component: ComponentSettings | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT.

    Parameters:
        config: all settings.
        problems: the warnings from reading the settings, to be logged.
        fd: an inherited listening socket; None uses systemd's socket if there is one, else listens on config.listen.
        grpc_fd: a bound socket that holds the port for gRPC; None binds config.listen.grpc_port.
        member: for a cell among several, its connection to the supervisor.
        component: serve daprd as a pluggable component instead of gRPC.

    Returns:
        the exit status.

    Raises:
        SandboxdError: the server could not start; `exit_code` says why.
    """
    return_large_blocks()
    handler = setup(
        level=config.logging.level, format=config.logging.format, cell=None if member is None else member.number
    )
    for problem in problems:
        remedy = f" ({problem.remedy})" if problem.remedy else ""
        log.warning("%s%s", problem.message, remedy, extra=fields(path=problem.place))
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(Server(config, os.environ, fd, member, grpc_fd, component).run())
    except SandboxdError as error:
        log.critical("%s", error, extra=fields(event="failed"))
        return error.exit_code
    except OSError as error:
        if error.errno not in SHORT_OF:
            raise
        remedy = SHORT_OF[error.errno]
        log.critical("the server cannot continue: %s (%s)", error, remedy, extra=fields(event="failed"))
        return ExitCode.WORKERS
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        remedy = SHORT_OF[errno.EAGAIN]
        log.critical("the server cannot continue: %s (%s)", error, remedy, extra=fields(event="failed"))
        return ExitCode.WORKERS
    finally:
        handler.close()


class Server:
    """One front with its pool.

    Parameters:
        config: all settings.
        environ: the environment.
        fd, member, grpc_fd, component: see `serve`.
    """

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        fd: int | None,
        member: Member | None = None,
        grpc_fd: int | None = None,
        component: ComponentSettings | None = None,
    ) -> None:
        self._config = config
        self._environ = environ
        self._fd = fd
        self._grpc_fd = grpc_fd
        self._component = component
        self._member = member
        # A cell's supervisor is the process that systemd knows.
        self._notifier = Notifier(environ if member is None else {}, os.getpid())
        self._draining = False
        self._loaded = False
        self._first_load = asyncio.Event()
        self._stop = asyncio.Event()
        self._answered = asyncio.Event()
        self._reload = asyncio.Event()
        self._began = time.monotonic()

    def __repr__(self) -> str:
        state = "draining" if self._draining else "serving" if self._loaded else "loading"
        return f"<Server {state}>"

    async def run(self) -> int:
        """Listen, serve, drain, and return the exit status.

        Raises:
            SandboxdError: as for `serve`.
        """
        config = self._config
        orphans = Orphans()
        signals.take(asyncio.get_running_loop(), self.stop, self._reload.set, self._change_level)
        fd = inherited_fd(self._environ, os.getpid()) if self._fd is None else self._fd
        self._inherited = fd is not None
        listener = open_listener(config.listen, fd)
        cell = None if self._member is None else self._member.number
        self._grpc = self._grpc_side(cell)
        self._admin = AdminSide(config, self._member, replaces=self._inherited and self._member is None)
        dapr = DaprLabels(app_id=config.app_id, namespace=config.namespace or "")
        self._metrics = Metrics(version=__version__, dapr=dapr if config.metrics.dapr_compatibility else None)
        self._metrics.watch_process()
        self._pool = Pools(pool_settings(config))
        self._metrics.watch_pools(self._pool.all_stats)
        progress = ProgressLine(sys.stderr) if sys.stderr.isatty() else None
        self._catalog = Catalog(
            config,
            self._environ,
            self._pool,
            self._metrics,
            progress,
            (*tcp_port(listener), *self._grpc.ports, *self._admin.ports),
        )
        self._reloader = Reloader(
            config, self._catalog, self._metrics, self._notifier, self._member, self._reload, self._serve_bindings
        )
        front = (
            front_settings(config),
            self._pool,
            self._metrics,
            self,
        )
        self._app = App(*front, cells=self._member)
        self._grpc.prepare(*front, self._app.attributes)
        if self._member is not None:
            await self._member.join(self)
        lag = LoopLag(self._metrics.loop_lag)
        self._admin.watch(self._metrics, self._pool, self._catalog, self, lag)
        serving = asyncio.create_task(self._serve(listener), name="servers")
        looking = asyncio.create_task(self._serve_admin(address_of(listener)), name="admin")
        reaping = asyncio.create_task(orphans.keep_reaping(), name="orphans")
        alive = asyncio.create_task(self._notifier.keep_alive(), name="watchdog")
        try:
            return await self._until_stopped(serving)
        finally:
            await self._end(serving)
            reaping.cancel()
            alive.cancel()
            looking.cancel()
            lag.close()
            orphans.end()

    def _grpc_side(self, cell: int | None) -> GrpcSide | ComponentSide:
        config = self._config
        if self._component is None:
            return GrpcSide(config, fd=self._grpc_fd, replaces=self._inherited, cell=cell)
        reloading = Reloading(lambda: self._reloader.reload_and_wait(), lambda name: self._reloader.fault_of(name))
        return ComponentSide(config, self._component, reloading, partial(first_fault, config, self._environ))

    def not_ready(self) -> list[str]:
        """Return what the server still waits for; empty when it is ready. Implements the front's `Health`."""
        own = self.own_not_ready()
        return own if self._member is None else self._member.not_ready(own)

    def waits_for(self) -> str:
        """Return what this process waits for, and for how long, as a sentence. Implements the front's `Health`."""
        what, since = self._pool.waits_for
        if not what:
            what, since = self._catalog.waits_for
        return f"{what}, for {time.monotonic() - since:.0f} s" if what and self.own_not_ready() else ""

    def remarks(self) -> Mapping[str, str]:
        """Return the extra attributes of /v1.0/metadata. Implements the front's `Health`."""
        remarks = {"generation": str(self._catalog.generation)}
        if self._catalog.last_error:
            remarks["lastReloadError"] = self._catalog.last_error
        return remarks

    def metric_pieces(self) -> Iterator[Metric]:
        """Yield the metrics of this process in pieces. Implements `member.Cell`."""
        return self._metrics.pieces()

    @property
    def registry(self) -> CollectorRegistry:
        """The metrics of this process. Implements `member.Cell`."""
        return self._metrics.registry

    def own_not_ready(self) -> list[str]:
        """Return what this process still waits for; empty when it is ready."""
        if self._draining:
            return ["draining"]
        if not self._loaded:
            return ["components"]
        return [] if self._pool.ready() else ["workers"]

    def stop(self) -> None:
        """Drain and exit, as after SIGTERM: at once if nothing is served yet, or if it is said again."""
        delay_s = self._config.drain.delay_ms / 1000
        if self._draining or not self._loaded or not delay_s:
            self._stop.set()
            return
        self._draining = True
        self._notifier.tell(STOPPING)
        log.info("not ready from now on, and draining in %.0f s", delay_s, extra=fields(event="leaving"))
        asyncio.get_running_loop().call_later(delay_s, self._stop.set)

    def _change_level(self, steps: int) -> None:
        """Log so many steps less."""
        level = next_level(steps)
        if self._member is None:
            set_level(level)
        else:
            self._member.share_log_level(level)

    async def status_part(self) -> bytes:
        """Return this process's part of the status document. Implements `member.Cell`."""
        return await self._admin.status_part()

    def reload(self) -> None:
        """Reload, as after SIGHUP."""
        self._reload.set()

    # ------------------------------------------------------------------------------------------------------------------

    async def _serve(self, listener: socket.socket) -> None:
        callers = caller_limits(self._config)
        when_ready = self._config.listen.when_ready
        if when_ready or (self._inherited if self._member is None else not self._member.first):
            # Connections wait in the socket's queue until this process has loaded, or until another process with the
            # same socket accepts them, such as the one that this process replaces.
            await self._loaded_or_stopped()
            if self._stop.is_set():
                listener.close()
                return
        if when_ready and not self._inherited:
            listener.listen(BACKLOG)
        serving = [asyncio.create_task(self._serve_http(listener, callers), name="http")]
        if self._grpc.on:
            serving.append(asyncio.create_task(self._serve_grpc(callers), name="grpc"))
        await all_end(serving, self._stop)

    async def _serve_admin(self, address: str) -> None:
        # A Unix socket and the name that curl wants beside it, on two lines.
        api = f"{address}\nhttp://localhost" if "/" in address else f"http://{address}"
        try:
            await self._admin.serve(self._pool, self._app, self._catalog, api, self._stop)
        except Exception:  # the server goes on without its page
            log.exception("the status page is no longer served", extra=fields(event="no_admin"))

    async def _serve_grpc(self, callers: CallerLimits) -> None:
        if self._component is not None:
            # daprd finds the socket when all that it sent earlier is served again.
            await self._loaded_or_stopped()
            if self._stop.is_set():
                return
        await self._grpc.serve(self._metrics, callers, self._stop, self._answered)

    async def _serve_http(self, listener: socket.socket, callers: CallerLimits) -> None:
        config = self._config
        server_settings = http_server_settings(config, callers)
        log.info("serving HTTP", extra=fields(event="serving", engine=choose(server_settings)))
        await serve_connections(
            self._app,
            listener,
            server_settings,
            self._stop,
            drain_s=config.drain.timeout_ms / 1000,
            answered=self._answered,
            refusals=Refusals(self._metrics.turned_away),
            direct=self._app.direct,
        )

    async def _loaded_or_stopped(self) -> None:
        either = [asyncio.create_task(event.wait()) for event in (self._first_load, self._stop)]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in either:
                task.cancel()

    async def _until_stopped(self, serving: "asyncio.Task[None]") -> int:
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        loading = asyncio.create_task(self._load_first(), name="load")
        reloading: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({loading, stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                reloading = asyncio.create_task(self._reloader.keep_current(), name="reload")
                ends: set[asyncio.Future[Any]] = {stopped, serving, self._pool.failure, reloading}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if reloading.done():
                    reloading.result()
            if self._pool.failure.done():
                error = self._pool.failure.result()
                log.critical("%s", error, extra=fields(event="failed"))
                return error.exit_code
            if serving.done() and not self._stop.is_set():
                serving.result()
                raise SandboxdError("an HTTP or gRPC server ended unexpectedly", exit_code=ExitCode.LISTEN)
            return ExitCode.OK
        finally:
            unfinished = [task for task in (stopped, loading, reloading) if task is not None and not task.done()]
            for task in unfinished:
                task.cancel()
            # A generation that is still starting ends before everything else.
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def _load_first(self) -> None:
        await self._reloader.load_first()
        self._loaded = True
        self._first_load.set()
        self._notifier.tell(READY)
        log.info(
            "ready after %.0f ms",
            (time.monotonic() - self._began) * 1000,
            extra=fields(event="ready", count=len(self._catalog.bindings), workers=self._config.pool.workers),
        )

    def _serve_bindings(self, bindings: Bindings) -> None:
        self._app.bindings = bindings
        self._grpc.serve_bindings(bindings)

    async def _end(self, serving: "asyncio.Task[None]") -> None:
        self._draining = True
        self._stop.set()
        self._notifier.tell(STOPPING)
        drain_s = self._config.drain.timeout_ms / 1000
        log.info("draining", extra=fields(event="draining"))
        # Requests that have arrived run to their end. Only at the deadline does the pool end the rest.
        await asyncio.wait({serving}, timeout=drain_s)
        clean = await self._pool.drain(0)
        self._answered.set()
        await asyncio.wait({serving}, timeout=5)
        if not serving.done():
            serving.cancel()
        await self._pool.close()
        if self._member is not None:
            await self._member.leave()
        self._catalog.close()
        self._app.close()
        if self._config.listen.unix_socket is not None and not self._inherited:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._config.listen.unix_socket)
        if clean:
            log.info("stopped", extra=fields(event="stopped"))
        else:
            log.warning("stopped", extra=fields(event="stopped", detail="the drain deadline passed"))
