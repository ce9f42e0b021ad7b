"""The generations of a pool: starts and ends them, keeps each at its number of workers, and reports when it cannot.

`Maintenance` starts and ends single workers. It tells `Generations` of each, which decides whether another is due.
"""

import asyncio
import logging
from collections.abc import Set as AbstractSet
from typing import Final

from sandboxd.errors import ComponentError, SandboxdError
from sandboxd.pool import starting
from sandboxd.pool.generation import Generation, Holding
from sandboxd.pool.maintenance import Maintenance
from sandboxd.pool.state import ExitReason, WorkerState
from sandboxd.pool.worker import Role, Worker
from sandboxd.wire import messages as m
from sandboxd.zygote.client import ZygoteClient

log = logging.getLogger("sandboxd.pool")

_NEVER_READY: Final = "its workers never became ready"


class Generations:
    """Owns the generations. It implements GenerationEvents and SpareProcesses.

    Parameters:
        maintenance: starts and ends workers.
        workers: the number of workers that the current generation keeps.
        load_timeout_s: the longest time in which a zygote must load the guests.
    """

    def __init__(self, maintenance: Maintenance, workers: int, load_timeout_s: float = 120.0) -> None:
        self.size = workers
        self.current: Generation | None = None
        self.all: list[Generation] = []
        """Those that have workers, the serving one last."""
        self.failure: asyncio.Future[SandboxdError] = asyncio.get_running_loop().create_future()
        """Set once workers can no longer be replaced. The server then drains and exits with the error's exit code."""
        self._maintenance = maintenance
        self._load_timeout_s = load_timeout_s
        self._readiness = starting.Readiness()
        self._all_ready: dict[int, asyncio.Future[None]] = {}

    def __repr__(self) -> str:
        return f"<Generations {[one.number for one in self.all]} of {self.size} workers>"

    async def start(
        self, load: m.Load, limits: dict[str, Holding], required: AbstractSet[str]
    ) -> tuple[Generation, tuple[tuple[str, str], ...]]:
        """Start a generation beside the current one and wait until all of its workers are READY.

        Parameters:
            load: what its zygote loads.
            limits: of each binding.
            required: the bindings that must load.

        Returns:
            the generation, which does not serve yet, and (binding, reason) for each guest that failed to load.

        Raises:
            ZygoteError: the zygote could not load the guests. Nothing has changed.
            ComponentError: a required guest could not be loaded. Nothing has changed.
            SandboxdError: the workers do not start. The generation was ended again.
        """
        number = self.all[-1].number + 1 if self.all else 1
        generation = Generation(number, load, limits, ZygoteClient(self._maintenance))
        self._readiness.begin(f"the zygote of generation {number} loads {len(load.guests)} guests")
        try:
            failed = await generation.start(self._load_timeout_s)
            for binding, why in failed:
                if binding in required:
                    raise ComponentError(f"binding {binding} cannot be loaded: {why}")
        except BaseException:
            await generation.client.close()
            raise
        self.all.append(generation)
        ready = self._all_ready[number] = asyncio.get_running_loop().create_future()
        self._readiness.begin(f"{self.size} workers of generation {number} start")
        try:
            if generation.lost:
                # It died while the guests were noted, before `on_zygote_lost` could find it among `all`.
                raise starting.zygote_lost(_NEVER_READY)
            if generation.brokered:
                self._maintenance.broker.learn(number, load)
            for _ in range(self.size):
                self._maintenance.spawn(generation)
            await ready
            if generation.lost:
                # It died in the same turn of the event loop as the last READY. It cannot replace workers any more.
                raise starting.zygote_lost(_NEVER_READY)
        except BaseException:
            await self._take_down(generation)
            raise
        finally:
            del self._all_ready[number]
        return generation, failed

    async def discard(self, generation: Generation) -> None:
        """End a generation that does not serve, and its workers."""
        await self._take_down(generation)

    def promote(self, generation: Generation) -> None:
        """Make this the current generation, and let the former one finish what it has begun."""
        former, self.current = self.current, generation
        if former is not None:
            former.retiring = True
            for worker in self._maintenance.workers_of(former):
                self._maintenance.retire(worker, ExitReason.RELOAD)
            self._end_if_empty(former)

    async def close(self) -> None:
        """End every worker and zygote."""
        self._maintenance.closing = True
        for generation in list(self.all):
            await self._take_down(generation)
        await self._maintenance.close()

    def ready_workers(self) -> int:
        """Return the number of the current generation's workers that are READY."""
        states = (WorkerState.IDLE, WorkerState.BUSY)
        return sum(
            1
            for worker in self._maintenance.workers.values()
            if worker.generation is self.current and worker.state in states and worker.role is Role.WORKER
        )

    @property
    def waits_for(self) -> tuple[str, float]:
        """The condition that guests wait for, and the time.monotonic() since which they do; empty if they can run."""
        return self._readiness.waits_for(loaded=self.current is not None, ready=self.ready_workers() > 0)

    # SpareProcesses ---------------------------------------------------------------------------------------------------

    def surplus(self) -> int:
        """See `sandboxd.pool.spares.SpareProcesses`."""
        return 0 if self.current is None else max(0, len(self._maintenance.live_workers_of(self.current)) - self.size)

    def starting(self) -> int:
        """See `sandboxd.pool.spares.SpareProcesses`."""
        if self.current is None:
            return 0
        return sum(worker.state is WorkerState.STARTING for worker in self._maintenance.live_workers_of(self.current))

    def spawn_spare(self) -> None:
        """See `sandboxd.pool.spares.SpareProcesses`."""
        current = self.current
        if current is not None and not (self._maintenance.closing or current.lost or current.boot_failures):
            self._maintenance.spawn(current).spare = True

    def retire_surplus(self) -> None:
        """See `sandboxd.pool.spares.SpareProcesses`. Those with the least to do end."""
        if self.current is not None:
            workers = sorted(self._maintenance.live_workers_of(self.current), key=lambda worker: len(worker.inflight))
            for worker in workers[: self.surplus()]:
                self._maintenance.retire(worker, ExitReason.SPARE)

    # GenerationEvents -------------------------------------------------------------------------------------------------

    def on_worker_started(self, worker: Worker) -> None:
        """End the wait of `start` if this was the last one."""
        generation = worker.generation
        generation.boot_failures = 0
        self._note_readiness()
        waiting = self._all_ready.get(generation.number)
        if waiting is not None and not waiting.done():
            workers = self._maintenance.live_workers_of(generation)
            if sum(one.state is WorkerState.IDLE for one in workers) >= self.size:
                waiting.set_result(None)

    def on_worker_ending(self, worker: Worker) -> None:
        """Start its replacement."""
        self._note_readiness()
        self._fill(worker.generation)

    def on_worker_ended(self, worker: Worker, why: str) -> None:
        """Count a failed start. Start its replacement, or end a generation whose last process it was."""
        generation = worker.generation
        if worker.role is Role.WORKER:
            self._readiness.lost(worker.serial, why)
            self._note_readiness()
            # Without a spare one the pool can do; the server must not end for it.
            if worker.exit_reason is ExitReason.BOOT_FAILED and not worker.spare:
                self._count_boot_failure(generation, worker, why)
        self._fill(generation)
        self._end_if_empty(generation)

    def on_zygote_lost(self, client: ZygoteClient) -> None:
        """End what depends on a zygote that has died: nothing can be forked from its generation any more."""
        generation = next((one for one in self.all if one.client is client), None)
        if self._maintenance.closing or generation is None:
            return  # one that has just loaded has no workers yet; `start` notices
        waiting = self._all_ready.get(generation.number)
        if waiting is not None and not waiting.done():
            waiting.set_exception(starting.zygote_lost(_NEVER_READY))
        elif generation is self.current:
            error = starting.zygote_lost("in-flight invocations finish, then the server exits")
            log.critical("%s", error)
            self._fail(error)
        self._maintenance.remove_orphans(generation)

    # ------------------------------------------------------------------------------------------------------------------

    def _note_readiness(self) -> None:
        self._readiness.note(ready=self.ready_workers() > 0)

    def _fill(self, generation: Generation) -> None:
        if self._maintenance.closing or generation.retiring or generation.lost:
            return
        delay = starting.delay_s(generation)
        if delay:
            asyncio.get_running_loop().call_later(delay, self._fill_now, generation)
        else:
            self._fill_now(generation)

    def _fill_now(self, generation: Generation) -> None:
        if self._maintenance.closing or generation.retiring or generation.lost or generation not in self.all:
            return
        for _ in range(self.size - len(self._maintenance.live_workers_of(generation))):
            self._maintenance.spawn(generation)

    def _count_boot_failure(self, generation: Generation, worker: Worker, why: str) -> None:
        error = starting.count_failure(generation, worker, why, serves=generation is self.current)
        if error is None:
            return
        waiting = self._all_ready.get(generation.number)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        elif generation is self.current:
            self._fail(error)

    def _fail(self, error: SandboxdError) -> None:
        if not self.failure.done():
            self.failure.set_result(error)

    def _end_if_empty(self, generation: Generation) -> None:
        if generation.retiring and generation in self.all and not self._maintenance.workers_of(generation):
            self._maintenance.run(self._take_down(generation))

    async def _take_down(self, generation: Generation) -> None:
        if generation in self.all:
            self.all.remove(generation)
        generation.retiring = True
        await self._maintenance.end_all(generation)
