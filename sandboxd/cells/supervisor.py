"""The supervisor keeps the cells of one server running. It carries no request and runs no guest.

It holds the listening sockets, starts the cells, restarts those that die, assigns new connections to those that are
ready, merges their metrics and passes on what concerns all of them. If the supervisor itself dies, the cells read
end-of-file, finish the requests they have begun and exit; the service manager then starts the server again.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sandboxd.cells.aggregate import ANSWER_S, MetricsAggregator
from sandboxd.cells.cell_process import CellProcess
from sandboxd.cells.listeners import open_listeners
from sandboxd.cells.statuses import Statuses
from sandboxd.config import Config
from sandboxd.config.cells import pack, share
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.files.problems import Problem
from sandboxd.log import fields, next_level, set_level, setup
from sandboxd.processes import signals
from sandboxd.processes.notify import READY, STOPPING, Notifier
from sandboxd.server import held_port
from sandboxd.server.admin_port import hold_admin_port
from sandboxd.server.orphans import Orphans
from sandboxd.server.sockets import inherited_fd
from sandboxd.wire.cells import Attribute, LogLevel, Merged, ReloadCell, State, StatusParts, Watch, Welcome

log = logging.getLogger("sandboxd.cells")

FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 30.0
"""The delay before a dead cell is started again: none after the first death, then FIRST_DELAY_S, then doubling."""
STABLE_S: Final = 30.0
"""A cell that was ready and ran for this long has its earlier deaths forgotten."""
MAX_BOOT_FAILURES: Final = 5
"""The supervisor gives up after this many failed starts of one cell in a row, if no other cell is ready."""
PING_S: Final = 5.0
"""The interval between pings of each cell. A cell that does not answer gets no new connections."""
SAVE_PINGS: Final = 6
"""Every so many pings the cells are asked for their metrics instead, even if nobody scrapes. A killed cell loses what
it has counted since it was asked last; no scrape has shown that yet."""
HUNG_S: Final = 60.0
"""A cell that has not answered for this long is killed."""
STOP_MARGIN_S: Final = 12.0
"""A cell that has not ended this long after the drain timeout is killed."""

_NEEDS_THE_OPERATOR: Final = frozenset((ExitCode.USAGE, ExitCode.CONFIG, ExitCode.COMPONENT, ExitCode.LISTEN))
"""Exit statuses of the very first start that a restart cannot cure."""


def supervise(config: Config, problems: tuple[Problem, ...], *, fd: int | None, grpc_fd: int | None = None) -> int:
    """Run `sandboxd serve` with more than one cell, until SIGTERM or SIGINT.

    Parameters:
        config: all settings; `cell_count` is above 1.
        problems: the warnings from reading the settings, to be logged.
        fd: an inherited listening socket, which all cells then share; None uses systemd's socket if there is one, else
            listens on config.listen with one socket per cell.
        grpc_fd: an inherited socket that holds the port for gRPC; None binds config.listen.grpc_port.

    Returns:
        the exit status: OK if all cells drained, CELLS if they failed to start again and again, or the first cell's
        status if it says what the operator has to repair.
    """
    handler = setup(level=config.logging.level, format=config.logging.format)
    for problem in problems:
        remedy = f" ({problem.remedy})" if problem.remedy else ""
        log.warning("%s%s", problem.message, remedy, extra=fields(path=problem.place))
    try:
        return asyncio.run(Supervisor(config, os.environ, fd, grpc_fd).run())
    except SandboxdError as error:
        log.critical("%s", error, extra=fields(event="failed"))
        return error.exit_code
    finally:
        handler.close()


class Supervisor:
    """All cells of a server.

    Parameters:
        config, fd, grpc_fd: see `supervise`.
        environ: the environment.
    """

    def __init__(self, config: Config, environ: Mapping[str, str], fd: int | None, grpc_fd: int | None = None) -> None:
        self._config = config
        self._count = config.cell_count
        self._fd = inherited_fd(environ, os.getpid()) if fd is None else fd
        self._grpc_fd = grpc_fd
        self._held: socket.socket | None = None
        self._admin: socket.socket | None = None
        self._cells: list[CellProcess | None] = [None] * self._count
        self._metrics = MetricsAggregator(self._count)
        self._statuses = Statuses()
        self._attributes: dict[str, str] = {}
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._first_ready = asyncio.Event()
        self._notifier = Notifier(environ, os.getpid())
        self._failure: SandboxdError | None = None
        self._watcher: CellProcess | None = None
        self._state = State(0, self._count)
        self._complete = False
        self._answering: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Supervisor of {self._state.ready}/{self._count} cells>"

    async def run(self) -> int:
        """Listen, run the cells, drain them, and return the exit status.

        Raises:
            SandboxdError: the address cannot be bound, or the cells cannot be started.
        """
        orphans = Orphans()
        self._listeners = open_listeners(self._config.listen, self._count, self._fd)
        self._hold_grpc_port()
        self._config, self._admin = hold_admin_port(self._config, replaces=self._fd is not None)
        log.info(
            "%d cells listen",
            self._count,
            extra=fields(event="cells_listening", address=self._listeners.address, count=self._count),
        )
        self._assign_connections()
        signals.take(
            asyncio.get_running_loop(),
            self._end_soon,
            self._reload.set,
            lambda steps: self.on_log_level(next_level(steps)),
        )
        keeping = [asyncio.create_task(self._keep(number), name=f"keep-{number}") for number in range(self._count)]
        others = [
            asyncio.create_task(task, name="supervisor")
            for task in (self._poll(), self._roll(), orphans.keep_reaping())
        ]
        alive = asyncio.create_task(self._notifier.keep_alive(), name="watchdog")
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        everything: set[asyncio.Task[Any]] = {stopped, *keeping, *others}
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            for task in (*keeping, *others):
                if task.done():
                    task.result()  # they end only by failing
        finally:
            clean = await self._end(keeping, (stopped, alive, *others))
            orphans.end()
        if self._failure is not None:
            raise self._failure
        return ExitCode.OK if clean else ExitCode.FAILED

    def _hold_grpc_port(self) -> None:
        """Hold the port on which the cells serve gRPC. Each listens with a socket of its own once it is ready."""
        listen = self._config.listen
        if self._grpc_fd is not None:
            self._held = held_port.adopt_port(self._grpc_fd)
            host, port = self._held.getsockname()[:2]
            self._config = replace(self._config, listen=replace(listen, host=host, grpc_port=port))
        elif listen.grpc_port:
            self._held = held_port.hold_port(listen.host, listen.grpc_port)

    # one cell ---------------------------------------------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        """Keep a cell running until the server stops."""
        if number > 0:
            # The first cell compiles what is not compiled yet and reports what is wrong with the components. The
            # others find its artifacts, so each problem is reported once.
            await self._first_ready.wait()
        deaths = boot_failures = 0
        while not self._stop.is_set():
            try:
                cell = self._start(number)
            except OSError as error:
                log.error("cell %d cannot be started: %s", number, error, extra=fields(cell=number))
                status, was_ready, stable = 0, False, False
            else:
                status = await self._until_ended(cell)
                was_ready = cell.was_ready
                stable = was_ready and time.monotonic() - cell.began >= STABLE_S
            if self._stop.is_set():
                return
            deaths = 1 if stable else deaths + 1
            boot_failures = 0 if was_ready else boot_failures + 1
            self._judge(status, boot_failures)
            if was_ready and deaths == 1:
                continue
            delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(deaths - 1, 10))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay_s)

    async def _until_ended(self, cell: CellProcess) -> int:
        status = await cell.ended
        await cell.close()
        self._metrics.retire(cell)
        self._cells[cell.number] = None
        if not self._stop.is_set():
            log.error(
                "cell %d ended with status %d",
                cell.number,
                status,
                extra=fields(event="cell_ended", worker_pid=cell.pid, exit_code=status, cell=cell.number),
            )
        self._changed()
        return status

    def _start(self, number: int) -> CellProcess:
        cell = CellProcess.start(number, self._listeners.fd(number), self)
        config = pack(share(self._config, number, self._count))
        attributes = tuple(self._attributes.items())
        first = not self._first_ready.is_set()
        cell.send(Welcome(number=number, first=first, config=config, attributes=attributes))
        cell.send(self._state)
        self._cells[number] = cell
        self._metrics.started(number)
        log.info("cell started", extra=fields(event="cell_started", worker_pid=cell.pid, cell=number))
        return cell

    def _judge(self, status: int, boot_failures: int) -> None:
        """Stop the server if another start would fail too."""
        if self._failure is not None or self._state.ready:
            return
        if not self._first_ready.is_set() and status in _NEEDS_THE_OPERATOR:
            self._failure = SandboxdError("the first cell cannot start", exit_code=ExitCode(status))
        elif boot_failures >= MAX_BOOT_FAILURES:
            self._failure = SandboxdError(
                f"a cell failed to start {boot_failures} times in a row and no other cell is ready",
                remedy="see the log above for the reason of each failed start",
                exit_code=ExitCode.CELLS,
            )
        if self._failure is not None:
            self._stop.set()

    def _end_soon(self) -> None:
        """Drain and end, as after SIGTERM. If it is said again, the cells do not wait for `drain.delay` either."""
        if self._stop.is_set():
            for cell in self._alive():
                cell.signal(signal.SIGTERM)
        self._stop.set()

    # all cells together -----------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Act on readiness that may have changed: assign connections, tell the cells, choose the watching cell."""
        if self._stop.is_set():
            return
        self._assign_connections()
        alive = [cell for cell in self._cells if cell is not None]
        ready = [cell for cell in alive if cell.ready]
        state = State(len(ready), self._count)
        if state != self._state:
            self._state = state
            for cell in alive:
                cell.send(state)
        if ready and not self._first_ready.is_set():
            self._first_ready.set()
            # From now on requests are answered, even if another cell never can start.
            self._notifier.tell(READY)
        if len(ready) == self._count and not self._complete:
            self._complete = True
            log.info("all cells are ready", extra=fields(event="cells_ready", count=self._count))
        if ready and (self._watcher is None or self._watcher.ended.done()):
            self._watcher = ready[0]
            self._watcher.send(Watch())

    def _assign_connections(self) -> None:
        ready = [number for number, cell in enumerate(self._cells) if cell is not None and cell.ready]
        alive = [number for number, cell in enumerate(self._cells) if cell is not None and not cell.ended.done()]
        # With no cell ready, connections wait for those that are starting; at the very start only for the first.
        self._listeners.assign_to(ready or alive or ([0] if not self._first_ready.is_set() else range(self._count)))

    async def _poll(self) -> None:
        for turn in itertools.count(1):
            await asyncio.sleep(PING_S)
            if turn % SAVE_PINGS == 0:
                await self._metrics.ask(self._alive)
            else:
                await asyncio.gather(*(cell.ping(ANSWER_S) for cell in self._alive()))
            for cell in self._alive():
                if not cell.answers and time.monotonic() - cell.last_answer > HUNG_S:
                    log.error("cell %d does not answer and is killed", cell.number, extra=fields(event="cell_hung"))
                    cell.signal(signal.SIGKILL)

    async def _roll(self) -> None:
        """Reload one cell after another, so that only one at a time has two generations of workers."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._notifier.reloading()
            # Ready cells go first: one that is still starting may have read the files before they changed.
            cells = sorted(self._alive(), key=lambda cell: not cell.ready)
            for position, cell in enumerate(cells):
                await cell.settled.wait()
                error = await cell.reload(ReloadCell())
                if not error:
                    continue
                log.error("cell %d was not reloaded: %s", cell.number, error, extra=fields(event="cell_reload_failed"))
                if position == 0 and not cell.ended.done():
                    break  # the others would refuse it too; this way all keep serving the same bindings
            else:
                log.info("all cells reloaded", extra=fields(event="cells_reloaded", count=len(cells)))
            self._notifier.tell(READY)

    def _alive(self) -> list[CellProcess]:
        return [cell for cell in self._cells if cell is not None and not cell.ended.done()]

    # CellEvents -------------------------------------------------------------------------------------------------------

    def on_readiness(self, cell: CellProcess) -> None:
        """See `CellEvents`."""
        if cell.ready:
            log.info("cell ready", extra=fields(event="cell_ready", worker_pid=cell.pid, cell=cell.number))
        elif not self._stop.is_set():
            why = f"waits for {', '.join(cell.missing)}" if cell.missing else "does not answer"
            level = logging.WARNING if cell.was_ready else logging.INFO
            log.log(level, "cell %s", why, extra=fields(event="cell_waits", worker_pid=cell.pid, cell=cell.number))
        self._changed()

    def on_collect(self, cell: CellProcess, ask: int) -> None:
        """See `CellEvents`."""

        async def answer() -> None:
            await self._metrics.ask(self._alive)
            cell.send(Merged(ask, self._metrics.merged(self._cells)))

        task = asyncio.create_task(answer(), name="collect")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def on_collect_status(self, cell: CellProcess, ask: int) -> None:
        """See `CellEvents`."""

        async def answer() -> None:
            cell.send(StatusParts(ask, await self._statuses.parts(self._alive)))

        task = asyncio.create_task(answer(), name="collect-status")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def on_log_level(self, level: str) -> None:
        """See `CellEvents`."""
        set_level(level)
        # A cell that is started later logs the same.
        self._config = replace(self._config, logging=replace(self._config.logging, level=level))
        for cell in self._alive():
            cell.send(LogLevel(level))

    def on_changed(self) -> None:
        """See `CellEvents`."""
        self._reload.set()

    def on_attribute(self, cell: CellProcess, attribute: Attribute) -> None:
        """See `CellEvents`."""
        self._attributes[attribute.key] = attribute.value
        for other in self._alive():
            if other is not cell:
                other.send(attribute)

    # draining ---------------------------------------------------------------------------------------------------------

    async def _end(self, keeping: "list[asyncio.Task[None]]", others: "tuple[asyncio.Task[Any], ...]") -> bool:
        """Stop listening, drain all cells and wait for them. Return whether all ended by themselves."""
        self._stop.set()
        # The cells hold the sockets too, until they stop accepting. After that the port is closed, so connections are
        # refused instead of waiting for an answer that will not come.
        self._listeners.close()
        for held in (self._held, self._admin):
            if held is not None:
                held.close()
        self._notifier.tell(STOPPING)
        log.info("draining", extra=fields(event="cells_draining", count=len(self._alive())))
        for cell in self._alive():
            cell.signal(signal.SIGTERM)
        self._first_ready.set()  # ends the tasks of cells that have not started
        drain = self._config.drain
        await asyncio.wait(keeping, timeout=drain.delay_ms / 1000)  # the cells accept until then
        if self._config.listen.unix_socket is not None and self._fd is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._config.listen.unix_socket)
        await asyncio.wait(keeping, timeout=drain.timeout_ms / 1000 + STOP_MARGIN_S)
        clean = True
        for cell in self._alive():
            clean = False
            log.error("cell %d did not end and is killed", cell.number, extra=fields(event="cell_hung"))
            cell.signal(signal.SIGKILL)
        for task in others:
            task.cancel()
        await asyncio.wait([*keeping, *others])
        log.info("all cells have ended", extra=fields(event="cells_stopped"))
        return clean
