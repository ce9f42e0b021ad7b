"""The pools of a cell: one that bindings share, and one for each binding that runs alone (`isolation: own`).

Each pool has zygotes of its own, so what a zygote is told (environment, secrets, modules) is in no other pool's memory.
"""

import asyncio
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from typing import Final

import msgspec

from sandboxd.errors import SandboxdError
from sandboxd.limits import units
from sandboxd.pool import starting
from sandboxd.pool.generation import Generation
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.pool.stats import PoolStats
from sandboxd.wire import messages as m

SHARED: Final = "default"
"""The `pool` label of the shared pool."""
OWN: Final = "own:"
"""The beginning of the label of a binding's own pool; the binding's name follows."""
_RETIRE_S: Final = units.DAY_MS / 1000
"""The longest time for which a pool whose binding is gone finishes what it has begun: no `timeout` is longer."""


class Pools:
    """All pools of a cell, to be used as one.

    Parameters:
        settings: of the shared pool. A pool of one binding has as many workers as the binding has `maxConcurrency`, at
            most as many as the shared one.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._shared = Pool(settings)
        self._own: dict[str, Pool] = {}
        self.failure: asyncio.Future[SandboxdError] = asyncio.get_running_loop().create_future()
        """Completes with an error if a pool can no longer replace workers."""
        self._loading = asyncio.Lock()
        self._retiring: dict[asyncio.Task[None], Pool] = {}
        self._starting: dict[str, Pool] = {}
        self._watch("", self._shared)
        # Every request asks these, so nothing stands between: the shared pool passes on what others serve.
        self.invoke = self._shared.invoke
        self.begin = self._shared.begin
        self.capacity = self._shared.capacity
        self.has_room = self._shared.has_room
        self.has_short_runs = self._shared.has_short_runs
        self.reject_queue_full = self._shared.reject_queue_full

    def __repr__(self) -> str:
        return f"<Pools {self._shared!r} and {len(self._own)} of one binding>"

    async def load(
        self,
        load: m.Load,
        max_concurrency: Mapping[str, int],
        required: AbstractSet[str] = frozenset(),
        alone: AbstractSet[str] = frozenset(),
    ) -> tuple[tuple[str, str], ...]:
        """Start a generation in every pool, and switch over once all stand. A failure leaves what serves.

        Parameters:
            load, max_concurrency, required: as for `Pool.load`.
            alone: the bindings that get a pool of their own.

        Returns:
            (binding, reason) for each guest that could not be loaded.

        Raises:
            ZygoteError, SandboxdError: a generation could not start. The former ones still serve.
        """
        async with self._loading:
            started: list[tuple[Pool, Generation]] = []
            failed: list[tuple[str, str]] = []
            pools: dict[str, Pool] = {}
            try:
                shared = tuple(spec for spec in load.guests if spec.binding not in alone)
                parts = [(self._shared, shared)]
                for spec in load.guests:
                    if spec.binding in alone:
                        pools[spec.binding] = self._pool_of_one(spec.binding, max_concurrency.get(spec.binding, 0))
                        parts.append((pools[spec.binding], (spec,)))
                for pool, guests in parts:
                    part = msgspec.structs.replace(load, guests=guests)
                    here = required & {spec.binding for spec in guests}
                    generation, lost = await pool.start(part, max_concurrency, here)
                    started.append((pool, generation))
                    failed += lost
                if any(generation.lost for _, generation in started):
                    # One died while those after it started. It would serve until its workers end, and replace none.
                    raise starting.zygote_lost("the workers of other bindings were still starting")
            except BaseException:
                for pool, generation in started:
                    await pool.discard(generation)
                for pool in self._starting.values():
                    await pool.close()
                self._starting.clear()
                raise
            self._starting.clear()
            self._shared.elsewhere = pools
            for pool, generation in reversed(started):  # the shared one last: it hands over what waits and has moved
                pool.switch(generation)
            former, self._own = self._own, pools
            for name, pool in pools.items():
                if former.get(name) is not pool:
                    self._watch(name, pool)
            for name, pool in former.items():
                if pools.get(name) is not pool:
                    self._retire(pool)
            return tuple(failed)

    def _pool_of_one(self, name: str, limit: int) -> Pool:
        """Return the pool of a binding that runs alone: the one it has, or a new one if that has another size."""
        workers = min(limit, self._settings.workers) if limit else self._settings.workers
        pool = self._own.get(name)
        if pool is None or pool.workers != workers:
            pool = self._starting[name] = Pool(replace(self._settings, workers=workers))
        return pool

    def _watch(self, name: str, pool: Pool) -> None:
        pool.failure.add_done_callback(partial(self._failed, name, pool))

    def _failed(self, name: str, pool: Pool, failure: "asyncio.Future[SandboxdError]") -> None:
        serving = self._shared if pool is self._shared else self._own.get(name)
        if pool is serving and not failure.cancelled() and not self.failure.done():
            self.failure.set_result(failure.result())

    def _retire(self, pool: Pool) -> None:
        async def end() -> None:
            try:
                await pool.drain(_RETIRE_S)
            finally:
                await pool.close()

        task = asyncio.get_running_loop().create_task(end())
        self._retiring[task] = pool
        task.add_done_callback(self._retiring.pop)

    def _all(self) -> Iterable[Pool]:
        return (self._shared, *self._own.values())

    @property
    def waits_for(self) -> tuple[str, float]:
        """The condition that guests wait for, and the time.monotonic() since which they do; empty if they can run."""
        waiting = (pool.waits_for for pool in (*self._starting.values(), *self._all()))
        return next((step for step in waiting if step[0]), ("", 0.0))

    def ready(self) -> bool:
        """Return whether every pool can run guests."""
        return all(pool.ready() for pool in self._all())

    def stats(self) -> PoolStats:
        """Return the statistics of the shared pool."""
        return self._shared.stats()

    def all_stats(self) -> dict[str, PoolStats]:
        """Return the statistics of every pool, by its label."""
        return {label: pool.stats() for label, pool in self.by_label().items()}

    def by_label(self) -> dict[str, Pool]:
        """Return the pools by their labels."""
        return {SHARED: self._shared} | {f"{OWN}{name}": pool for name, pool in self._own.items()}

    async def drain(self, timeout_s: float) -> bool:
        """Accept no more invocations and finish those that were accepted; see `Pool.drain`."""
        pools = (*self._all(), *self._retiring.values())
        drained = all(await asyncio.gather(*(pool.drain(timeout_s) for pool in pools)))
        await asyncio.gather(*self._retiring, return_exceptions=True)
        return drained

    async def close(self) -> None:
        """End every worker and zygote."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await asyncio.gather(*(pool.close() for pool in self._all()))
