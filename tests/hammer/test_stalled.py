"""A worker that leaves its socket unread is replaced. It has the longer for it the longer the frame is."""

from collections.abc import Iterator

import pytest

from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.pool.state import ExitReason
from sandboxd.pool.worker import STALLED_NS, STALLED_NS_PER_BYTE
from tests.hammer.scripted import Process, World
from tests.hammer.test_machine import load_of
from tests.hammer.test_taken_back import call, run_briefly


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


@pytest.mark.parametrize("size", [16 << 20, 0])
def test_a_worker_has_its_time_for_a_long_frame_and_no_more(world: World, size: int) -> None:
    pool, process = started(world)
    payload = bytes(size)
    invoked = call(world, pool, payload)
    allowed_s = (STALLED_NS + size * STALLED_NS_PER_BYTE) / 1e9
    world.loop.advance(allowed_s - 0.1)
    assert process.alive
    assert not world.zygote_of(process).kills
    world.loop.advance(0.2)
    while not invoked.done():
        world.go_on()
    assert not process.alive
    assert invoked.result().stdout == payload
    assert world.begun[payload] == 1
    assert pool.stats().worker_exits_total == {ExitReason.STALLED: 1}
    close(world, pool)


def test_a_worker_that_begins_late_is_not_replaced(world: World) -> None:
    pool, process = started(world)
    payload = bytes(16 << 20)
    invoked = call(world, pool, payload)
    world.loop.advance(3.5)
    run_briefly(world, process)
    assert invoked.result().stdout == payload
    assert pool.stats().worker_exits_total == {}
    close(world, pool)
