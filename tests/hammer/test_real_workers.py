"""The pool on a real zygote, real workers and real guests, while workers are killed, crashed and stopped, callers hang
up, and guests are reloaded: every caller gets its own answer, and afterwards everything is as before.

Random, but seeded: which call does what, which worker suffers what, and in which order. How that falls in time is the
machine's, so two runs of one seed are not the same run.
"""

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from sandboxd.config import Config
from sandboxd.config.model import Cache
from sandboxd.front.servers.serving import loop_factory
from sandboxd.modules.prepare import PreparedGuest, Preparer
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import Rejected
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.server.translate import load_message, module_settings, read_components
from sandboxd.wire import messages as m
from tests.conftest import guest_component
from tests.process import tree
from tests.running import write_components

WORKERS = 3
CALLERS = 12
CALLS = 70
"""Per caller."""
LONGEST_S = 20.0
"""The callers stop by then, whatever they have left to do."""
RELOADS = 3
BOUND_S = 60.0

GUESTS = ("echo", "tiny", "exit", "trap", "loop", "sleep")
WEIGHTS = (40, 25, 10, 8, 4, 8)


@contextlib.asynccontextmanager
async def prepared(cache: Path, resources: Path) -> AsyncIterator[tuple[Config, list[PreparedGuest]]]:
    config = Config(resources_paths=(str(resources),), cache=Cache(folder=cache))
    loaded = read_components(config, {})
    async with Preparer(module_settings(config)) as preparer:
        guests = [g for g in await preparer.prepare_all(loaded.bindings) if isinstance(g, PreparedGuest)]
    assert [guest.binding.name for guest in guests] == list(GUESTS)
    try:
        yield config, guests
    finally:
        for guest in guests:
            guest.close()


class Callers:
    """Callers that ask, wait or hang up, and check what they are told."""

    def __init__(self, pool: Pool, rng: random.Random) -> None:
        self.pool = pool
        self.rng = rng
        self.tally: Counter[str] = Counter()
        self.calls = 0
        self._end = time.monotonic() + LONGEST_S

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(CALLERS):
                tasks.create_task(self._caller(number))

    async def _caller(self, number: int) -> None:
        for turn in range(CALLS):
            if time.monotonic() > self._end:
                return
            self.calls += 1
            self.tally[await self._call(b"%d.%d " % (number, turn) * self.rng.choice([1, 1, 50, 5000]))] += 1

    async def _call(self, payload: bytes) -> str:
        rng = self.rng
        (guest,) = rng.choices(GUESTS, WEIGHTS)
        code = rng.randrange(1, 256)
        args = {"exit": (b"%d" % code,), "sleep": (b"%d" % rng.randrange(1, 30),)}.get(guest, ())
        seconds = rng.choice([0.03, 0.1]) if guest == "loop" else rng.choice([0.02, 1.0, 5.0])
        patience_s = rng.choice([None, None, None, None, 0.001, 0.02])
        deadline_ns = time.monotonic_ns() + int(seconds * 1e9)
        call = self.pool.invoke(guest, m.Call(deadline_ns=deadline_ns, args=args, stdin=payload))
        try:
            async with asyncio.timeout(patience_s):
                result = await call
        except TimeoutError:
            return "hung up"
        except Rejected as rejected:
            await asyncio.sleep(rng.uniform(0.001, 0.01))  # what a caller told to come again does
            return rejected.reason
        self._check(guest, payload, code, result)
        return result.outcome.value

    def _check(self, guest: str, payload: bytes, code: int, result: m.Result) -> None:
        if result.outcome in (Outcome.WORKER_LOST, Outcome.DEADLINE_EXCEEDED):
            return
        expected = {
            "echo": (Outcome.COMPLETED, payload, 0),
            "tiny": (Outcome.COMPLETED, payload.upper(), 0),
            "exit": (Outcome.EXIT_NONZERO, b"", code),
            "trap": (Outcome.TRAPPED, b"before\n", 0),
        }
        if guest == "sleep":
            assert (result.outcome, result.stdout[:4]) == (Outcome.COMPLETED, b"1 0 ")
        else:
            assert (result.outcome, result.stdout, result.exit_code) == expected[guest]


class Trouble:
    """Kill, stop and reload while requests run."""

    def __init__(self, pool: Pool, rng: random.Random, load: m.Load) -> None:
        self.pool = pool
        self.rng = rng
        self.load = load
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        for round in range(10_000):
            await asyncio.sleep(self.rng.uniform(0.005, 0.06))
            if round % 12 == 11 and self.done["reload"] < RELOADS:
                self.done["reload"] += 1
                await self.pool.load(self.load, {})
                continue
            number = self.rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
            workers = [worker for worker in self.pool._maintenance.workers.values() if worker.pid]
            if workers:
                victim = self.rng.choice(workers)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim.pid, number)
                    self.done[number.name] += 1


async def until(true: Callable[[], bool], what: Callable[[], str]) -> None:
    end = time.monotonic() + BOUND_S
    while not true():
        assert time.monotonic() < end, what()
        await asyncio.sleep(0.01)


async def hammer(seed: int, cache: Path, resources: Path) -> None:
    rng = random.Random(seed)
    pool = Pool(PoolSettings(workers=WORKERS, queue_limit=6, queue_timeout_s=2.0, look_ahead=2, recycle_after=25))
    async with prepared(cache, resources) as (config, guests):
        load = load_message(config, guests)
        try:
            assert await pool.load(load, {"loop": 1}, set(GUESTS)) == ()
            callers, trouble = Callers(pool, rng), Trouble(pool, rng, load)
            troubling = asyncio.create_task(trouble.run())
            await callers.run()
            troubling.cancel()
            await asyncio.wait({troubling})
            assert troubling.cancelled(), troubling.exception()
            print(f"\nseed {seed}: {dict(trouble.done)} -> {dict(callers.tally)}, {pool.stats()}")
            assert sum(callers.tally.values()) == callers.calls
            assert callers.tally["completed"] > CALLERS
            await until(
                lambda: (
                    len(pool.generations) == 1
                    and len(pool._leases.idle) == WORKERS
                    and not pool.stats().workers_draining
                ),
                lambda: f"not at rest: {pool!r} {pool._generations!r} {pool._leases.busy}",
            )
            check_rest(pool)
            assert await pool.drain(0) is True
        finally:
            await pool.close()
    stats = pool.stats()
    assert stats.worker_starts_total == sum(stats.worker_exits_total.values())
    assert not pool.failure.done()


def check_rest(pool: Pool) -> None:
    stats = pool.stats()
    assert (stats.workers_idle, stats.workers_busy, stats.workers_draining) == (WORKERS, 0, 0)
    assert stats.workers_starting == 0
    assert stats.queue_depth == 0
    assert stats.queue_depth_max <= stats.queue_limit + WORKERS * 3  # those given back come on top
    assert stats.worker_starts_total == WORKERS + sum(stats.worker_exits_total.values())
    (generation,) = pool.generations
    assert {entry.running for entry in generation.entries.values()} == {0}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Every killed worker is an error in the log."""
    logging.getLogger("sandboxd").setLevel(logging.CRITICAL + 1)
    yield
    logging.getLogger("sandboxd").setLevel(logging.NOTSET)


def open_files() -> list[str]:
    """Return what this process has open, without the descriptors' numbers."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{number}").partition(":")[0])
    return sorted(found)


@pytest.mark.parametrize(("seed", "factory"), [(20_261, None), (4_711, loop_factory())], ids=["asyncio", "fast"])
def test_hammered(
    seed: int,
    factory: Callable[[], asyncio.AbstractEventLoop] | None,
    cache_folder: Path,
    tmp_path: Path,
) -> None:
    resources = write_components(tmp_path / "resources", [guest_component(name) for name in GUESTS])
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.sleep(0))  # libuv's first loop opens a pipe for the life of the process
    gc.collect()  # earlier tests' files would be closed in between
    descriptors = open_files()
    children = tree.children(os.getpid())
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(hammer(seed, cache_folder, resources))
    assert tree.children(os.getpid()) == children
    assert open_files() == descriptors
