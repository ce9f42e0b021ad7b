"""Keeps the pool at its size: spawns, replaces, retires, kills; notices when that is no longer possible."""

import asyncio
import errno
import logging
import signal
import socket
import time
from collections import Counter
from collections.abc import Coroutine
from collections.abc import Set as AbstractSet
from typing import Protocol

from sandboxd.errors import ComponentError, ExitCode, SandboxdError
from sandboxd.pool.generation import Generation
from sandboxd.pool.state import WorkerEvent, WorkerState
from sandboxd.pool.worker import Worker, WorkerEvents
from sandboxd.wire import messages as m

log = logging.getLogger("sandboxd.pool")

BOOT_TIMEOUT_S = 10.0
"""READY must arrive within this."""
BOOT_FAILURES_MAX = 8
"""Boots failed in a row after which the server gives up."""
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0
EXIT_TIMEOUT_S = 2.0
"""A worker whose socket was closed must be gone after this; then it is killed."""
REAP_TIMEOUT_S = 10.0
"""A killed worker must be reaped after this; then the zygote, whose task that is, counts as dead."""

_NOT_TAKING_OVER = "its workers were to take over, and do not"
_LIVE = (WorkerState.STARTING, WorkerState.IDLE, WorkerState.BUSY)


class Crew(Protocol):
    """What maintenance asks of the pool."""

    def on_worker_ready(self, worker: Worker) -> None:
        """The worker may get work."""

    def on_worker_unusable(self, worker: Worker) -> None:
        """The worker gets no more work; its invocations that it had not begun go to others."""

    def on_worker_gone(self, worker: Worker, why: str) -> None:
        """The worker is dead; whatever it had begun is lost."""


class Maintenance:
    """Owns generations and workers.

    Parameters:
        workers: how many the current generation keeps.
        crew: the pool.
        worker_events: who hears what workers say.
    """

    def __init__(self, workers: int, crew: Crew, worker_events: WorkerEvents) -> None:
        self.size = workers
        self.current: Generation | None = None
        self.generations: list[Generation] = []
        self.starts_total = 0
        self.exits: Counter[str] = Counter()
        self.boot_seconds = 0.0
        self.failure: asyncio.Future[SandboxdError] = asyncio.get_running_loop().create_future()
        """Set once the pool cannot go on; the server then drains and exits with the error's code."""
        self._crew = crew
        self._worker_events = worker_events
        self._serial = 0
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_ready: dict[int, asyncio.Future[None]] = {}

    def __repr__(self) -> str:
        return f"<Maintenance of {self.size} workers, generations {[g.number for g in self.generations]}>"

    async def start(
        self, load: m.Load, limits: dict[str, tuple[int, int]], required: AbstractSet[str]
    ) -> tuple[Generation, tuple[tuple[str, str], ...]]:
        """Start a generation beside the current one and wait until all of its workers are READY.

        Parameters:
            load: what its zygote is given.
            limits: by binding, the workers it may hold and the invocations that may be sent at once.
            required: bindings that must load.

        Returns:
            the generation, which does not serve yet, and (binding, why) for guests that failed to load.

        Raises:
            ZygoteError: the zygote could not load; nothing was changed.
            ComponentError: a required guest could not be loaded; likewise.
            SandboxdError: its workers do not start; it was taken down again.
        """
        number = self.generations[-1].number + 1 if self.generations else 1
        generation = Generation(number, load, limits, self)
        try:
            failed = await generation.start()
            for binding, why in failed:
                if binding in required:
                    raise ComponentError(f"binding {binding} cannot be loaded: {why}")
        except BaseException:
            await generation.client.close()
            raise
        self.generations.append(generation)
        ready = self._all_ready[number] = asyncio.get_running_loop().create_future()
        try:
            for _ in range(self.size):
                self._spawn(generation)
            await ready
            if generation.lost:
                # In the same turn of the loop as the last READY: it must not take over what it cannot keep up.
                raise _zygote_lost(_NOT_TAKING_OVER)
        except BaseException:
            await self._take_down(generation)
            raise
        finally:
            del self._all_ready[number]
        return generation, failed

    def promote(self, generation: Generation) -> None:
        """Make it the serving one and let the former one finish."""
        former, self.current = self.current, generation
        if former is not None:
            former.retiring = True
            for worker in list(former.workers.values()):
                self.retire(worker, "reload")
            self._end_if_empty(former)

    def ready_workers(self) -> int:
        """Workers of the current generation that are up."""
        if self.current is None:
            return 0
        states = (WorkerState.IDLE, WorkerState.BUSY)
        return sum(1 for worker in self.current.workers.values() if worker.state in states)

    def retire(self, worker: Worker, reason: str) -> None:
        """Let it finish what is in flight, then end. A replacement starts now."""
        if worker.state in (WorkerState.KILLED, WorkerState.GONE, WorkerState.DRAINING):
            return
        starting = worker.state is WorkerState.STARTING
        worker.exit_reason = reason
        worker.advance(WorkerEvent.RETIRE)
        self._crew.on_worker_unusable(worker)
        if not worker.inflight and not starting:
            self.dismiss(worker)
        self._fill(worker.generation)

    def dismiss(self, worker: Worker) -> None:
        """A draining worker has nothing left to do: it ends as soon as it notices."""
        worker.disconnect()
        if worker.generation.lost:
            worker.kill_orphan()
            self._bury(worker, "lost with the zygote")
        else:
            asyncio.get_running_loop().call_later(EXIT_TIMEOUT_S, self._check_dismissed, worker)

    def kill(self, worker: Worker, reason: str) -> None:
        """End it now. A replacement starts before it is reaped."""
        if worker.state in (WorkerState.KILLED, WorkerState.GONE):
            return
        starting = worker.state is WorkerState.STARTING
        worker.exit_reason = reason
        worker.advance(WorkerEvent.KILL)
        self._crew.on_worker_unusable(worker)
        if worker.generation.lost:
            worker.kill_orphan()
            self._bury(worker, "was killed")
            return
        worker.generation.client.kill(worker.serial)
        asyncio.get_running_loop().call_later(REAP_TIMEOUT_S, self._check_reaped, worker)
        if not starting:
            # One that never got up is replaced when it is reaped, after a pause that grows.
            self._fill(worker.generation)

    async def close(self) -> None:
        """End every worker and zygote. Nothing is left afterwards."""
        self._closing = True
        for generation in list(self.generations):
            await self._take_down(generation)
        # Former generations that are being taken down. To cancel that would leave a zygote that hangs behind.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # from generations -------------------------------------------------------------------------------------------------

    def on_spawned(
        self, generation: Generation, serial: int, pid: int, channel: socket.socket, page_fd: int, pidfd: int
    ) -> None:
        """A worker process exists."""
        worker = generation.workers[serial]
        try:
            worker.adopt(pid, page_fd, pidfd)
        except OSError as error:
            log.error("worker %d (pid %d) cannot be used: %s", serial, pid, error)
            worker.turned_away = error.errno in (errno.EMFILE, errno.ENFILE)
            channel.close()
            self.kill(worker, "boot_failed")
        else:
            self._run(worker.connect(channel))

    def on_spawn_failed(self, generation: Generation, serial: int, detail: str) -> None:
        """No process could be had."""
        log.error("worker %d could not be forked: %s", serial, detail)
        worker = generation.workers[serial]
        worker.exit_reason = "boot_failed"
        self._bury(worker, f"could not be forked: {detail}")

    def on_spawned_in_vain(self, generation: Generation, serial: int, pid: int) -> None:
        """A worker process exists, but there was no room for its descriptors here."""
        log.error("worker %d (pid %d) came without its descriptors: too many are open (see ulimit -n)", serial, pid)
        worker = generation.workers[serial]
        worker.pid = pid
        worker.turned_away = True
        self.kill(worker, "boot_failed")

    def on_exited(self, generation: Generation, serial: int, status: int) -> None:
        """A worker was reaped."""
        worker = generation.workers[serial]
        if not worker.exit_reason:
            if worker.state is WorkerState.STARTING:
                worker.exit_reason = "boot_failed"
            else:
                worker.exit_reason = "killed" if status == -signal.SIGKILL else "crashed"
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        if worker.exit_reason in ("boot_failed", "killed", "crashed", "protocol"):
            log.error("worker %d (pid %d) %s after %d invocations", serial, worker.pid, how, worker.served)
        worker.exited = worker.fault or how
        if not worker.connected:
            # Otherwise there may be answers in its socket; the end of it follows them.
            self._bury(worker, worker.exited)

    def on_zygote_lost(self, generation: Generation) -> None:
        """Nobody can fork from this generation any more."""
        if self._closing:
            return
        waiting = self._all_ready.get(generation.number)
        if waiting is not None and not waiting.done():
            waiting.set_exception(_zygote_lost(_NOT_TAKING_OVER))
        elif generation is self.current:
            error = _zygote_lost("in-flight invocations finish, then the server exits")
            log.critical("%s", error)
            self._fail(error)
        for worker in list(generation.workers.values()):
            at_work = worker.state in (WorkerState.IDLE, WorkerState.BUSY, WorkerState.DRAINING) and worker.connected
            if not at_work:
                worker.kill_orphan()
                self._bury(worker, worker.exited or "was lost with the zygote")

    # from workers, through the pool -----------------------------------------------------------------------------------

    def on_ready(self, worker: Worker) -> None:
        """READY arrived."""
        if worker.state is WorkerState.DRAINING:
            if not worker.inflight:
                self.dismiss(worker)
            return
        if worker.state is not WorkerState.STARTING:
            return
        worker.advance(WorkerEvent.READY)
        self.boot_seconds = (time.monotonic_ns() - worker.asked_ns) / 1e9
        generation = worker.generation
        generation.boot_failures = 0
        waiting = self._all_ready.get(generation.number)
        if waiting is not None and not waiting.done():
            states = [w.state for w in generation.workers.values()]
            if states.count(WorkerState.IDLE) >= self.size:
                waiting.set_result(None)
        self._crew.on_worker_ready(worker)

    def on_channel_lost(self, worker: Worker, why: str) -> None:
        """Its socket closed or is of no use. The reap that follows says how it died; a live one is killed."""
        if worker.exited:
            self._bury(worker, worker.exited)
            return
        if worker.state in (WorkerState.KILLED, WorkerState.GONE):
            return
        if worker.generation.lost:
            worker.kill_orphan()
            self._bury(worker, why or "died")
            return
        if why:
            log.error("worker %d (pid %d) %s", worker.serial, worker.pid, why)
            worker.fault = why
            worker.disconnect()  # nothing more it says counts
            self.kill(worker, "protocol")
        else:
            # Why it died is read off its exit status; only a boot that failed can be told from here.
            self.kill(worker, "boot_failed" if worker.state is WorkerState.STARTING else worker.exit_reason)

    # ------------------------------------------------------------------------------------------------------------------

    def _spawn(self, generation: Generation) -> None:
        self._serial += 1
        worker = Worker(self._serial, generation, self._worker_events)
        generation.workers[worker.serial] = worker
        self.starts_total += 1
        generation.client.spawn(worker.serial)
        asyncio.get_running_loop().call_later(BOOT_TIMEOUT_S, self._check_boot, worker)

    def _check_boot(self, worker: Worker) -> None:
        if worker.state is WorkerState.STARTING and not self._closing:
            log.error("worker %d did not become ready within %.0f s", worker.serial, BOOT_TIMEOUT_S)
            self.kill(worker, "boot_failed")
        elif worker.state is WorkerState.DRAINING and worker.connected and not worker.inflight:
            # Told to go before it was up, and it never got up.
            self.kill(worker, worker.exit_reason)

    def _check_dismissed(self, worker: Worker) -> None:
        if worker.state is WorkerState.DRAINING:
            self.kill(worker, worker.exit_reason)

    def _check_reaped(self, worker: Worker) -> None:
        if worker.state is WorkerState.KILLED and not worker.generation.lost:
            log.error("worker %d (pid %d) was killed but is not reaped", worker.serial, worker.pid)
            worker.generation.client.end()

    def _fill(self, generation: Generation) -> None:
        if self._closing or generation.retiring or generation.lost:
            return
        if generation.boot_failures:
            delay = min(BACKOFF_FIRST_S * 2**generation.boot_failures, BACKOFF_MAX_S)
            asyncio.get_running_loop().call_later(delay, self._fill_now, generation)
        else:
            self._fill_now(generation)

    def _fill_now(self, generation: Generation) -> None:
        if self._closing or generation.retiring or generation.lost or generation not in self.generations:
            return
        live = sum(1 for worker in generation.workers.values() if worker.state in _LIVE)
        for _ in range(self.size - live):
            self._spawn(generation)

    def _bury(self, worker: Worker, why: str) -> None:
        generation = worker.generation
        if generation.workers.pop(worker.serial, None) is None:
            return
        was_live = worker.state in _LIVE
        worker.advance(WorkerEvent.EXITED)
        if was_live:
            self._crew.on_worker_unusable(worker)
        self.exits[worker.exit_reason or "crashed"] += 1
        self._crew.on_worker_gone(worker, why)
        worker.release()
        if worker.exit_reason == "boot_failed":
            self._count_boot_failure(generation, worker, why)
        self._fill(generation)
        self._end_if_empty(generation)

    def _count_boot_failure(self, generation: Generation, worker: Worker, why: str) -> None:
        if worker.turned_away and generation is self.current:
            # Callers can bring that about, by as many connections as may be open. It ends when they leave, so it must
            # not end the server.
            generation.boot_failures = min(generation.boot_failures + 1, BOOT_FAILURES_MAX - 1)
            return
        generation.boot_failures += 1
        if generation.boot_failures < BOOT_FAILURES_MAX:
            return
        error = SandboxdError(
            f"{generation.boot_failures} workers in a row failed to start; the last one {why}",
            remedy="see the lines before; lower pool.workers if the machine is out of memory or processes",
            exit_code=ExitCode.WORKERS,
        )
        waiting = self._all_ready.get(generation.number)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        elif generation is self.current:
            self._fail(error)

    def _fail(self, error: SandboxdError) -> None:
        if not self.failure.done():
            self.failure.set_result(error)

    def _end_if_empty(self, generation: Generation) -> None:
        if generation.retiring and not generation.workers and generation in self.generations:
            self._run(self._take_down(generation))

    async def _take_down(self, generation: Generation) -> None:
        if generation in self.generations:
            self.generations.remove(generation)
        generation.retiring = True
        for worker in list(generation.workers.values()):
            if not worker.exit_reason:
                worker.exit_reason = "shutdown" if self._closing else "reload"
            worker.disconnect()
        await generation.client.close()
        for worker in list(generation.workers.values()):
            # The zygote has ended them, unless it had to be killed itself.
            worker.kill_orphan()
            self._bury(worker, "ended with its generation")

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _zygote_lost(consequence: str) -> SandboxdError:
    return SandboxdError(
        f"the zygote process died; {consequence}",
        remedy="restart sandboxd; if it happens again look for the kernel's out-of-memory messages",
        exit_code=ExitCode.ZYGOTE_LOST,
    )
