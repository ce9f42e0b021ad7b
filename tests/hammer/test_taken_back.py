"""A frame taken back from a busy worker is still in that worker's socket; until it says so, it gets nothing new."""

import asyncio

from sandboxd.outcome import Outcome
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.wire import messages as m
from tests.hammer.scripted import Process, World
from tests.hammer.test_machine import load_of


def call(world: World, pool: Pool, payload: bytes) -> "asyncio.Task[m.Result]":
    deadline_ns = world.clock.now_ns + 10**10
    task = world.loop.create_task(pool.invoke("a", m.Call(deadline_ns=deadline_ns, stdin=payload)))
    world.loop.settle()
    return task


def run_briefly(world: World, process: Process) -> None:
    process.begin()
    process.finish(Outcome.COMPLETED, 10_000, False)
    world.step(process.deliver)


def test_what_was_taken_back_is_not_sent_to_the_same_worker_before_it_skipped_it(world: World) -> None:
    async def make() -> Pool:
        return Pool(PoolSettings(workers=1, look_ahead=1))

    pool = world.run(make())
    loading = world.loop.create_task(pool.load(load_of(("a",)), {}))
    world.loop.settle()
    while not loading.done():
        world.go_on()
    (process,) = world.processes
    for number in range(3):  # so that the binding counts as short, and is sent ahead
        call(world, pool, b"warm-%d" % number)
        run_briefly(world, process)

    first, second = call(world, pool, b"first"), call(world, pool, b"second")
    process.begin()
    assert len(process.unread) == 1  # the second was sent ahead
    world.loop.advance(0.03)  # the first takes long: the second is taken back, to go to whoever is free
    process.finish(Outcome.COMPLETED, 10_000, False)
    world.step(process.deliver)
    assert first.done()
    assert len(process.unread) == 1  # nothing on top of what was taken back
    process.begin()
    world.step(process.deliver)
    run_briefly(world, process)

    assert second.result().stdout == b"second"
    assert world.begun[b"second"] == 1
    assert pool.stats().worker_exits_total == {}
    world.run(pool.drain(0.0))
    world.run(pool.close())
