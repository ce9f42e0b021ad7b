"""A worker that leaves its socket unread is replaced; one that takes its time for a long frame is not."""

from collections.abc import Iterator

import pytest

from sandboxd.outcome import Outcome
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from tests.hammer.scripted import Process, World
from tests.hammer.test_machine import load_of
from tests.hammer.test_taken_back import call

FRAME_BYTES = 128 << 20


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    with world.installed():
        yield world
    world.close()


def started(world: World) -> tuple[Pool, Process]:
    """A pool of one worker, which is ready."""

    async def make() -> Pool:
        return Pool(PoolSettings(workers=1))

    pool = world.run(make())
    loading = world.loop.create_task(pool.load(load_of(("a",)), {}))
    world.loop.settle()
    while not loading.done():
        world.go_on()
    (process,) = world.processes
    return pool, process


def close(world: World, pool: Pool) -> None:
    world.run(pool.drain(0.0))
    world.run(pool.close())


def test_a_worker_that_takes_its_time_for_a_long_frame_is_not_stalled(world: World) -> None:
    pool, process = started(world)
    long = call(world, pool, b"long")
    for left in range(4, -1, -1):  # 7.5 s in all
        process.transport.buffered = FRAME_BYTES * left // 5
        world.loop.advance(1.5)
    assert pool.stats().worker_exits_total == {}
    process.begin()
    process.finish(Outcome.COMPLETED, 10_000, False)
    world.step(process.deliver)
    assert long.result().stdout == b"long"
    assert pool.stats().worker_exits_total == {}
    close(world, pool)


def test_a_worker_that_takes_a_part_and_then_no_more_is_replaced(world: World) -> None:
    pool, process = started(world)
    long = call(world, pool, b"long")
    for left in (2, 1):
        process.transport.buffered = FRAME_BYTES * left // 2
        world.loop.advance(1.0)
    world.loop.advance(3.0)
    while not long.done():
        world.go_on()
    assert not process.alive
    assert long.result().stdout == b"long"
    assert world.begun[b"long"] == 1
    assert sum(pool.stats().worker_exits_total.values()) == 1
    close(world, pool)
