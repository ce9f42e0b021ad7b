"""`sandboxd serve`: one front, its pool, and everything that changes while they run."""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from sandboxd import __version__
from sandboxd.catalog import Catalog
from sandboxd.cells.listeners import inherited_fd
from sandboxd.cells.member import Member
from sandboxd.changes import watch
from sandboxd.config import Config, may_poll
from sandboxd.errors import SHORT_OF, ExitCode, SandboxdError
from sandboxd.front.app import App
from sandboxd.front.engines import EngineConfig, choose, listen, loop_factory
from sandboxd.front.engines import serve as serve_engine
from sandboxd.front.ports import FrontSettings
from sandboxd.log import fields, setup
from sandboxd.metrics import DaprLabels, Metrics
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.prepare import ProgressLine
from sandboxd.problems import Problem

log = logging.getLogger("sandboxd")

_NO_THREAD = "can't start new thread"
"""What CPython says for EAGAIN of pthread_create, without a type or number of its own."""


def serve(config: Config, problems: tuple[Problem, ...], *, fd: int | None, member: Member | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Parameters:
        config: all settings.
        problems: warnings of reading them, to be logged.
        fd: an inherited listening socket; None listens on config.listen (or takes systemd's socket).
        member: for a cell among several, its link to the others.

    Returns:
        the exit status.

    Raises:
        SandboxdError: it could not start; `exit_code` says why.
    """
    handler = setup(
        level=config.logging.level, format=config.logging.format, cell=None if member is None else member.number
    )
    for problem in problems:
        remedy = f" ({problem.remedy})" if problem.remedy else ""
        log.warning("%s%s", problem.message, remedy, extra=fields(path=problem.place))
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(Server(config, os.environ, fd, member).run())
    except SandboxdError as error:
        log.critical("%s", error, extra=fields(event="failed"))
        return error.exit_code
    except OSError as error:
        if error.errno not in SHORT_OF:
            raise
        remedy = SHORT_OF[error.errno]
        log.critical("the server could not go on: %s (%s)", error, remedy, extra=fields(event="failed"))
        return ExitCode.WORKERS
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        remedy = SHORT_OF[errno.EAGAIN]
        log.critical("the server could not go on: %s (%s)", error, remedy, extra=fields(event="failed"))
        return ExitCode.WORKERS
    finally:
        handler.close()


class Server:
    """One front with its pool.

    Parameters:
        config: all settings.
        environ: the environment.
        fd, member: see `serve`.
    """

    def __init__(
        self, config: Config, environ: Mapping[str, str], fd: int | None, member: Member | None = None
    ) -> None:
        self._config = config
        self._environ = environ
        self._fd = fd
        self._member = member
        self._draining = False
        self._loaded = False
        self._first_load = asyncio.Event()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._began = time.monotonic()

    def __repr__(self) -> str:
        state = "draining" if self._draining else "serving" if self._loaded else "loading"
        return f"<Server {state}>"

    async def run(self) -> int:
        """From listening to exit.

        Raises:
            SandboxdError: see `serve`.
        """
        config = self._config
        self._handle_signals()
        listener = self._listener()
        dapr = DaprLabels(app_id=config.app_id, namespace=config.namespace or "")
        self._metrics = Metrics(version=__version__, dapr=dapr if config.metrics.dapr_compatibility else None)
        self._pool = Pool(
            PoolSettings(
                workers=config.pool.workers,
                queue_limit=config.pool.queue_limit,
                queue_timeout_s=config.pool.queue_timeout_ms / 1000,
                look_ahead=config.pool.look_ahead,
                recycle_after=config.pool.recycle_after,
                polling=config.pool.polling and may_poll(),
                max_binding_share=config.pool.max_binding_share / 100,
            )
        )
        self._metrics.watch_pool(self._pool.stats)
        progress = ProgressLine(sys.stderr) if sys.stderr.isatty() else None
        self._catalog = Catalog(config, self._environ, self._pool, self._metrics, progress)
        self._app = App(
            FrontSettings(
                version=__version__,
                app_id=config.app_id,
                api_token=config.api_token,
                allowed_origins=config.listen.allowed_origins,
                max_body_bytes=config.listen.max_body_bytes,
            ),
            self._pool,
            self._metrics,
            self,
            cells=self._member,
        )
        if self._member is not None:
            await self._member.join(self)
        engine = asyncio.create_task(self._serve_http(listener), name="http")
        try:
            return await self._until_stopped(engine)
        finally:
            await self._end(engine)

    def not_ready(self) -> list[str]:
        """What keeps the server from being ready: `Health` of the front."""
        own = self.own_not_ready()
        return own if self._member is None else self._member.not_ready(own)

    def remarks(self) -> Mapping[str, str]:
        """What /v1.0/metadata tells beside: `Health` of the front."""
        remarks = {"generation": str(self._pool.stats().generation)}
        if self._catalog.last_error:
            remarks["lastReloadError"] = self._catalog.last_error
        return remarks

    @property
    def registry(self) -> CollectorRegistry:
        """The metrics of this process: `Cell` of the link to the others."""
        return self._metrics.registry

    def own_not_ready(self) -> list[str]:
        """What keeps this process from being ready."""
        if self._draining:
            return ["draining"]
        if not self._loaded:
            return ["components"]
        return [] if self._pool.ready() else ["workers"]

    def stop(self) -> None:
        """Drain and exit, as after SIGTERM."""
        self._stop.set()

    def reload(self) -> None:
        """Reload, as after SIGHUP."""
        self._reload.set()

    # ------------------------------------------------------------------------------------------------------------------

    def _listener(self) -> socket.socket:
        listen_config = self._config.listen
        fd = self._fd
        if fd is None:
            fd = inherited_fd(self._environ, os.getpid())
        self._inherited = fd is not None
        try:
            if fd is not None:
                listener = socket.socket(fileno=fd)
                listener.setblocking(False)
            else:
                listener = listen(listen_config.host, listen_config.port)
        except OSError as error:
            where = f"descriptor {fd}" if fd is not None else f"{listen_config.host}:{listen_config.port}"
            raise SandboxdError(
                f"cannot listen on {where}: {error.strerror or error}",
                remedy="choose another with --host and --port, or end the process that has it",
                exit_code=ExitCode.LISTEN,
            ) from error
        host, port = listener.getsockname()[:2]
        log.info("listening", extra=fields(event="listening", address=f"{host}:{port}"))
        return listener

    async def _serve_http(self, listener: socket.socket) -> None:
        config = self._config
        engine = EngineConfig(
            kind=config.engine.kind,
            http2=config.engine.http2,
            tls_certificate=config.engine.tls_certificate,
            tls_key=config.engine.tls_key,
            max_header_bytes=config.listen.max_header_bytes,
            header_timeout_s=config.listen.header_timeout_ms / 1000,
        )
        waits = self._inherited if self._member is None else not self._member.first
        if waits:
            # Connections wait in the queue until they can be answered: by this process once it has loaded, or by
            # another that has the same socket, such as the one this is to succeed.
            await self._loaded_or_stopped()
            if self._stop.is_set():
                listener.close()
                return
        log.info("serving HTTP", extra=fields(event="serving", engine=choose(engine)))
        await serve_engine(self._app, listener, engine, self._stop, drain_s=config.drain.timeout_ms / 1000)

    async def _loaded_or_stopped(self) -> None:
        either = [asyncio.create_task(event.wait()) for event in (self._first_load, self._stop)]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in either:
                task.cancel()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)

    async def _until_stopped(self, engine: "asyncio.Task[None]") -> int:
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        loading = asyncio.create_task(self._load_first(), name="load")
        reloading: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({loading, stopped, engine}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                reloading = asyncio.create_task(self._keep_current(), name="reload")
                ends: set[asyncio.Future[Any]] = {stopped, engine, self._pool.failure, reloading}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if reloading.done():
                    reloading.result()
            if self._pool.failure.done():
                error = self._pool.failure.result()
                log.critical("%s", error, extra=fields(event="failed"))
                return error.exit_code
            if engine.done() and not self._stop.is_set():
                engine.result()
                raise SandboxdError("the HTTP server ended by itself", exit_code=ExitCode.LISTEN)
            return ExitCode.OK
        finally:
            unfinished = [task for task in (stopped, loading, reloading) if task is not None and not task.done()]
            for task in unfinished:
                task.cancel()
            # A generation that was being started is taken down before the rest.
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def _load_first(self) -> None:
        self._app.bindings = await self._catalog.load()
        _settle()
        self._loaded = True
        self._first_load.set()
        log.info(
            "ready after %.0f ms",
            (time.monotonic() - self._began) * 1000,
            extra=fields(event="ready", count=len(self._catalog.bindings), workers=self._config.pool.workers),
        )

    async def _keep_current(self) -> None:
        """Reload whenever something says that there may be something new."""
        watching = asyncio.create_task(self._watch(), name="watch")
        try:
            while True:
                await self._reload.wait()
                self._reload.clear()
                await self._reload_once()
                watching.cancel()
                watching = asyncio.create_task(self._watch(), name="watch")
                if self._member is not None:
                    self._member.reloaded(self._catalog.last_error)
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        start = partial(watch, self._config, self._catalog)
        try:
            if self._member is None:
                await start(self._reload)
            else:
                # One of the cells watches; the supervisor then has all of them reload, one after the other.
                await self._member.watch(start, self._catalog.unchanged)
        except Exception:
            # For example no inotify instance is left (fs.inotify.max_user_instances). What is served, is served on.
            log.exception("changes are not noticed any more; SIGHUP reloads", extra=fields(event="not_watching"))

    async def _reload_once(self) -> None:
        began = time.monotonic()
        try:
            self._app.bindings = await self._catalog.load()
        except Exception as error:  # whatever is wrong with what is new, what is old serves on
            if not isinstance(error, SandboxdError):
                log.exception("reload failed")
            self._catalog.last_error = str(error) or type(error).__name__
            log.error("reload refused, the former bindings serve on: %s", error, extra=fields(event="reload_failed"))
        else:
            self._catalog.last_error = ""
            _settle()
            log.info(
                "reloaded after %.0f ms",
                (time.monotonic() - began) * 1000,
                extra=fields(
                    event="reloaded",
                    generation=self._pool.stats().generation,
                    count=len(self._catalog.bindings),
                ),
            )
        for binding in self._catalog.bindings:
            self._metrics.module_reloaded(binding.name, ok=not self._catalog.last_error)

    async def _end(self, engine: "asyncio.Task[None]") -> None:
        self._draining = True
        self._stop.set()
        drain_s = self._config.drain.timeout_ms / 1000
        log.info("draining", extra=fields(event="draining"))
        # Requests that have arrived are run to their end; only at the deadline does the pool answer the rest itself.
        await asyncio.wait({engine}, timeout=drain_s)
        clean = await self._pool.drain(0)
        await asyncio.wait({engine}, timeout=5)
        if not engine.done():
            engine.cancel()
        await self._pool.close()
        if self._member is not None:
            await self._member.leave()
        self._catalog.close()
        self._app.close()
        if clean:
            log.info("stopped", extra=fields(event="stopped"))
        else:
            log.warning("stopped", extra=fields(event="stopped", detail="the drain deadline passed"))


def _settle() -> None:
    """Keep what is there out of the garbage collector's sight: walking it takes tens of milliseconds, in which
    no request is answered."""
    gc.collect()
    gc.freeze()
