"""One binding's callers cannot fill the queue for all: as of the workers, a part of its places stays for others."""

import asyncio

import pytest

from sandboxd.outcome import Outcome
from sandboxd.pool.errors import QueueFull
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.wire import messages as m
from tests.hammer.scripted import World
from tests.hammer.test_machine import load_of


def loaded(world: World, settings: PoolSettings, bindings: tuple[str, ...]) -> Pool:
    async def make() -> Pool:
        return Pool(settings)

    pool: Pool = world.run(make())
    loading = world.loop.create_task(pool.load(load_of(bindings), {}))
    world.loop.settle()
    while not loading.done():
        assert world.go_on()
    return pool


def call(world: World, pool: Pool, binding: str, count: int) -> "list[asyncio.Task[m.Result]]":
    deadline_ns = world.clock.now_ns + 10**10
    tasks = [world.loop.create_task(pool.invoke(binding, m.Call(deadline_ns=deadline_ns))) for _ in range(count)]
    world.loop.settle()
    return tasks


def refused(tasks: "list[asyncio.Task[m.Result]]") -> int:
    return sum(1 for task in tasks if task.done() and isinstance(task.exception(), QueueFull))


def end(world: World, pool: Pool, tasks: "list[asyncio.Task[m.Result]]") -> None:
    world.run(pool.drain(0.0))
    world.run(pool.close())
    world.loop.settle()
    for task in tasks:
        task.exception()


def test_a_part_of_the_queue_stays_for_others(world: World) -> None:
    settings = PoolSettings(workers=4, queue_limit=8, look_ahead=0, max_binding_share=0.5)
    pool = loaded(world, settings, ("a", "b"))
    many = call(world, pool, "a", 20)
    assert refused(many) == 20 - 4 - 4  # all workers, four places
    assert pool.capacity("a") == 0
    assert not pool.has_room("a")
    assert pool.capacity("b") == 4
    assert pool.has_room("b")
    others = call(world, pool, "b", 4)
    assert refused(others) == 0
    assert pool.capacity("b") == 0
    assert refused(call(world, pool, "b", 1)) == 1
    end(world, pool, many + others)


@pytest.mark.parametrize("queue_limit", [0, 2])
def test_there_is_room_as_long_as_there_is_capacity(world: World, queue_limit: int) -> None:
    pool = loaded(world, PoolSettings(workers=2, queue_limit=queue_limit, look_ahead=0), ("a",))
    tasks = []
    for _ in range(2 + queue_limit):
        assert pool.has_room("a")
        assert pool.capacity("a") > 0
        tasks += call(world, pool, "a", 1)
    assert pool.capacity("a") == 0
    assert not pool.has_room("a")
    end(world, pool, tasks)


def test_a_single_binding_has_the_whole_queue(world: World) -> None:
    settings = PoolSettings(workers=2, queue_limit=3, look_ahead=0, max_binding_share=0.5)
    pool = loaded(world, settings, ("a",))
    assert pool.capacity("a") == 2 + 3
    tasks = call(world, pool, "a", 7)
    assert refused(tasks) == 2
    end(world, pool, tasks)


def test_there_is_always_room_to_be_told_why_not(world: World) -> None:
    pool = loaded(world, PoolSettings(workers=1, queue_limit=0), ("a",))
    assert pool.capacity("nobody") == 1
    tasks = call(world, pool, "a", 1)
    assert pool.capacity("a") == 0
    world.run(pool.drain(0.0))
    assert pool.capacity("a") == 1
    end(world, pool, tasks)


def test_runs_that_their_deadline_ended_are_not_short(world: World) -> None:
    """Those that waited long are given a worker with no time left. A binding is not quick because of them: none of its
    invocations is sent ahead."""
    settings = PoolSettings(workers=4, queue_limit=200, look_ahead=1, max_binding_share=0.5)
    pool = loaded(world, settings, ("a", "b"))
    tasks = call(world, pool, "a", 100)
    for _ in range(20):
        for process in world.processes:
            if process.unread and process.running is None:
                process.begin()
                process.finish(Outcome.DEADLINE_EXCEEDED, 1_000, False)
                world.step(process.deliver)
    world.loop.advance(0.02)  # a sweep gives idle workers what waits
    assert sum(task.done() for task in tasks) == 20 * 4
    assert pool.stats().workers_busy == 4
    assert all(len(process.unread) == 1 for process in world.processes)
    end(world, pool, tasks)
