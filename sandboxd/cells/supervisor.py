"""Keeps the cells of one server running. No request and no guest ever passes through this process.

It holds the listening sockets, starts the cells, starts anew those that die, sends new connections to those that are
ready, adds up their metrics and passes on what concerns all of them. Its loss is not repaired: the cells see
end-of-file, finish what they have begun and exit, and whoever watches the server starts it again.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import time
from collections.abc import Mapping
from typing import Any, Final

from sandboxd.cells.accounts import ANSWER_S, Accounts
from sandboxd.cells.incarnation import Incarnation
from sandboxd.cells.listeners import inherited_fd, open_listeners
from sandboxd.cells.messages import Attribute, Merged, ReloadCell, State, Watch, Welcome
from sandboxd.cells.share import pack, share
from sandboxd.config import Config
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.log import fields, setup
from sandboxd.problems import Problem

log = logging.getLogger("sandboxd.cells")

FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 30.0
"""Between the deaths of a cell and its next start: nothing after the first, then doubling."""
STABLE_S: Final = 30.0
"""A cell that was ready and lived this long starts anew with a clean record."""
MAX_BOOT_FAILURES: Final = 5
"""Starts of one cell that fail in a row, with no other cell ready, before the supervisor gives up."""
PING_S: Final = 5.0
"""How often cells are asked whether they still run. One that does not answer gets no new connections."""
SAVE_PINGS: Final = 6
"""Every so many pings cells are asked for their metrics, even if nobody scrapes. What a cell has counted since it was
asked last is lost if it is killed; no scrape has shown it."""
HUNG_S: Final = 60.0
"""A cell that has not answered for so long is killed."""
STOP_MARGIN_S: Final = 12.0
"""Beyond the drain time, before a cell that has not ended is killed."""

_NEEDS_THE_OPERATOR: Final = frozenset((ExitCode.USAGE, ExitCode.CONFIG, ExitCode.COMPONENT, ExitCode.LISTEN))
"""Statuses of the very first start that would only come again."""


def supervise(config: Config, problems: tuple[Problem, ...], *, fd: int | None) -> int:
    """`sandboxd serve` with more than one cell: serve until SIGTERM or SIGINT.

    Parameters:
        config: all settings; `cell_count` is above 1.
        problems: warnings of reading them, to be logged.
        fd: an inherited listening socket, which all cells then share; None listens on config.listen, one socket per
            cell (or takes systemd's socket).

    Returns:
        the exit status: OK if all cells drained, CELLS if they failed to start again and again, or the status of the
        first cell if that says what the operator has to repair.
    """
    handler = setup(level=config.logging.level, format=config.logging.format)
    for problem in problems:
        remedy = f" ({problem.remedy})" if problem.remedy else ""
        log.warning("%s%s", problem.message, remedy, extra=fields(path=problem.place))
    try:
        return asyncio.run(Supervisor(config, os.environ, fd).run())
    except SandboxdError as error:
        log.critical("%s", error, extra=fields(event="failed"))
        return error.exit_code
    finally:
        handler.close()


class Supervisor:
    """All cells of a server.

    Parameters:
        config, fd: see `supervise`.
        environ: the environment.
    """

    def __init__(self, config: Config, environ: Mapping[str, str], fd: int | None) -> None:
        self._config = config
        self._count = config.cell_count
        self._fd = inherited_fd(environ, os.getpid()) if fd is None else fd
        self._cells: list[Incarnation | None] = [None] * self._count
        self._accounts = Accounts(self._count)
        self._attributes: dict[str, str] = {}
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._first_ready = asyncio.Event()
        self._failure: SandboxdError | None = None
        self._watcher: Incarnation | None = None
        self._state = State(0, self._count)
        self._complete = False
        self._answering: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Supervisor of {self._state.ready}/{self._count} cells>"

    async def run(self) -> int:
        """From listening to exit.

        Raises:
            SandboxdError: see `supervise`.
        """
        listen = self._config.listen
        self._listeners = open_listeners(listen.host, listen.port, self._count, self._fd)
        log.info(
            "%d cells listen",
            self._count,
            extra=fields(event="cells_listening", address=self._listeners.address, count=self._count),
        )
        self._steer()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        keeping = [asyncio.create_task(self._keep(number), name=f"keep-{number}") for number in range(self._count)]
        others = [asyncio.create_task(task, name="supervisor") for task in (self._poll(), self._roll())]
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        everything: set[asyncio.Task[Any]] = {stopped, *keeping, *others}
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            for task in (*keeping, *others):
                if task.done():
                    task.result()  # they end only by failing
        finally:
            clean = await self._end(keeping, (stopped, *others))
        if self._failure is not None:
            raise self._failure
        return ExitCode.OK if clean else ExitCode.FAILED

    # the life of a cell -----------------------------------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        """Have a cell run, until all are to stop."""
        if number > 0:
            # The first compiles what is not compiled yet, and finds what is wrong with the components. The others
            # find its artifacts, and whatever is wrong is said once.
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

    async def _until_ended(self, cell: Incarnation) -> int:
        status = await cell.ended
        await cell.close()
        self._accounts.retire(cell)
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

    def _start(self, number: int) -> Incarnation:
        cell = Incarnation.start(number, self._listeners.fd(number), self)
        config = pack(share(self._config, number, self._count))
        attributes = tuple(self._attributes.items())
        first = not self._first_ready.is_set()
        cell.send(Welcome(number=number, first=first, config=config, attributes=attributes))
        cell.send(self._state)
        self._cells[number] = cell
        self._accounts.started(number)
        log.info("cell started", extra=fields(event="cell_started", worker_pid=cell.pid, cell=number))
        return cell

    def _judge(self, status: int, boot_failures: int) -> None:
        """Give up, if trying again is of no use."""
        if self._failure is not None or self._state.ready:
            return
        if not self._first_ready.is_set() and status in _NEEDS_THE_OPERATOR:
            self._failure = SandboxdError("the first cell cannot start", exit_code=ExitCode(status))
        elif boot_failures >= MAX_BOOT_FAILURES:
            self._failure = SandboxdError(
                f"a cell failed to start {boot_failures} times in a row and no other is ready",
                remedy="the log above says why it ended",
                exit_code=ExitCode.CELLS,
            )
        if self._failure is not None:
            self._stop.set()

    # what concerns all of them ----------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Readiness may have changed: say so where it matters."""
        if self._stop.is_set():
            return
        self._steer()
        alive = [cell for cell in self._cells if cell is not None]
        ready = [cell for cell in alive if cell.ready]
        state = State(len(ready), self._count)
        if state != self._state:
            self._state = state
            for cell in alive:
                cell.send(state)
        if ready and not self._first_ready.is_set():
            self._first_ready.set()
        if len(ready) == self._count and not self._complete:
            self._complete = True
            log.info("all cells are ready", extra=fields(event="cells_ready", count=self._count))
        if ready and (self._watcher is None or self._watcher.ended.done()):
            self._watcher = ready[0]
            self._watcher.send(Watch())

    def _steer(self) -> None:
        ready = [number for number, cell in enumerate(self._cells) if cell is not None and cell.ready]
        alive = [number for number, cell in enumerate(self._cells) if cell is not None and not cell.ended.done()]
        # With no cell ready, those that are starting are the ones to wait for: at the very start the first alone.
        self._listeners.send_to(ready or alive or ([0] if not self._first_ready.is_set() else range(self._count)))

    async def _poll(self) -> None:
        for turn in itertools.count(1):
            await asyncio.sleep(PING_S)
            if turn % SAVE_PINGS == 0:
                await self._accounts.ask(self._alive)
            else:
                await asyncio.gather(*(cell.ping(ANSWER_S) for cell in self._alive()))
            for cell in self._alive():
                if not cell.answers and time.monotonic() - cell.last_answer > HUNG_S:
                    log.error("cell %d hangs and is killed", cell.number, extra=fields(event="cell_hung"))
                    cell.signal(signal.SIGKILL)

    async def _roll(self) -> None:
        """Reload one cell after the other, so that only one at a time has two generations of workers."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            # Those that are ready go first: one that is still starting may have read the files before they changed.
            cells = sorted(self._alive(), key=lambda cell: not cell.ready)
            for position, cell in enumerate(cells):
                await cell.settled.wait()
                error = await cell.reload(ReloadCell())
                if not error:
                    continue
                log.error("cell %d was not reloaded: %s", cell.number, error, extra=fields(event="cell_reload_failed"))
                if position == 0 and not cell.ended.done():
                    break  # what the first refuses the others would refuse too; so all go on serving the same
            else:
                log.info("all cells reloaded", extra=fields(event="cells_reloaded", count=len(cells)))

    def _alive(self) -> list[Incarnation]:
        return [cell for cell in self._cells if cell is not None and not cell.ended.done()]

    # Requests of cells ------------------------------------------------------------------------------------------------

    def on_readiness(self, cell: Incarnation) -> None:
        """See `Requests`."""
        if cell.ready:
            log.info("cell ready", extra=fields(event="cell_ready", worker_pid=cell.pid, cell=cell.number))
        elif not self._stop.is_set():
            why = f"waits for {', '.join(cell.missing)}" if cell.missing else "does not answer"
            level = logging.WARNING if cell.was_ready else logging.INFO
            log.log(level, "cell %s", why, extra=fields(event="cell_waits", worker_pid=cell.pid, cell=cell.number))
        self._changed()

    def on_collect(self, cell: Incarnation, ask: int) -> None:
        """See `Requests`."""

        async def answer() -> None:
            await self._accounts.ask(self._alive)
            cell.send(Merged(ask, self._accounts.merged(self._cells)))

        task = asyncio.create_task(answer(), name="collect")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def on_changed(self) -> None:
        """See `Requests`."""
        self._reload.set()

    def on_attribute(self, cell: Incarnation, attribute: Attribute) -> None:
        """See `Requests`."""
        self._attributes[attribute.key] = attribute.value
        for other in self._alive():
            if other is not cell:
                other.send(attribute)

    # the end ----------------------------------------------------------------------------------------------------------

    async def _end(self, keeping: "list[asyncio.Task[None]]", others: "tuple[asyncio.Task[Any], ...]") -> bool:
        """Stop listening, drain all cells, wait for them. Whether all ended by themselves."""
        self._stop.set()
        # The cells hold the sockets too, until they stop accepting. After that nobody does, and connections are
        # refused instead of waiting for an answer that will not come.
        self._listeners.close()
        log.info("draining", extra=fields(event="cells_draining", count=len(self._alive())))
        for cell in self._alive():
            cell.signal(signal.SIGTERM)
        self._first_ready.set()  # lets those end that have not begun
        limit_s = self._config.drain.timeout_ms / 1000 + STOP_MARGIN_S
        await asyncio.wait(keeping, timeout=limit_s)
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
