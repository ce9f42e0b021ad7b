"""The present state of the workers of all pools, for the status page."""

import time

import msgspec

from sandboxd.pool.pool import Pool
from sandboxd.pool.pools import Pools
from sandboxd.pool.worker import Worker


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker process."""

    pool: str
    serial: int
    pid: int
    state: str
    generation: int
    bindings: tuple[str, ...]
    """Whose invocations it has."""
    for_s: float
    """Since when it runs the present one. Seconds; 0 if it runs none."""
    age_s: float
    runs: int


def workers_of(pools: Pools) -> list[WorkerStatus]:
    """Return the workers of all pools."""
    now = time.monotonic_ns()
    return [
        _status(label, worker, now)
        for label, pool in pools.by_label().items()
        for worker in _workers(pool)
        if worker.generation in pool.generations
    ]


def _workers(pool: Pool) -> list[Worker]:
    return list(pool.worker_processes.values())


def _status(pool: str, worker: Worker, now: int) -> WorkerStatus:
    return WorkerStatus(
        pool=pool,
        serial=worker.serial,
        pid=worker.pid,
        state=worker.state.name.lower(),
        generation=worker.generation.number,
        bindings=tuple(worker.holding),
        for_s=(now - worker.head_since_ns) / 1e9 if worker.inflight else 0.0,
        age_s=(now - worker.asked_ns) / 1e9,
        runs=worker.served,
    )
