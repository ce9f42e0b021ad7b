"""Shares of the workers: a binding may use every idle one, and whoever is within its share waits for a fork at most."""

import asyncio

from sandboxd.outcome import Outcome
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.pool.spares import AFTER_FAILURE_S, CHECK_S, KEEP_S
from sandboxd.pool.state import ExitReason
from sandboxd.wire import messages as m
from tests.hammer.scripted import Process, World
from tests.hammer.test_queue_share import call, end, loaded, refused

Calls = list["asyncio.Task[m.Result]"]


def lent(world: World, *, workers: int = 4, share: float = 0.5, look_ahead: int = 0) -> tuple[Pool, Calls]:
    """A pool in which `a` has every worker, and waits for more."""
    settings = PoolSettings(workers=workers, look_ahead=look_ahead, max_binding_share=share)
    pool = loaded(world, settings, ("a", "b", "c"))
    calls = call(world, pool, "a", 3 * workers)
    assert pool.stats().workers_busy == workers
    begin_all(world)
    return pool, calls


def begin_all(world: World) -> None:
    for process in world.processes:
        if process.unread and process.running is None:
            process.begin()


def asked_for(world: World) -> int:
    """How many workers the zygote is asked for."""
    return sum(len(zygote.spawns) for zygote in world.zygotes)


def forked(world: World) -> None:
    """What the zygote was asked for happens, and the new workers get up."""
    for zygote in world.zygotes:
        while zygote.spawns:
            world.step(zygote.fork)
    for process in world.processes:
        if process.alive and not process.up:
            process.get_up()
            world.step(process.deliver)


def at_work(world: World) -> list[Process]:
    return [process for process in world.processes if process.alive and (process.unread or process.running)]


def finish(world: World, process: Process, guest_ns: int = 10_000_000) -> None:
    if process.running is None:
        process.begin()
    process.finish(Outcome.COMPLETED, guest_ns, False)
    world.step(process.deliver)


def held(pool: Pool, binding: str) -> int:
    return pool.stats().bindings[binding].in_flight


def test_no_worker_idles_while_somebody_waits(world: World) -> None:
    pool, calls = lent(world)
    assert held(pool, "a") == 4
    assert pool.stats().bindings["a"].limit == 2
    assert asked_for(world) == 0, "nobody else waits"
    end(world, pool, calls)


def test_whoever_is_within_its_share_waits_for_a_fork_and_for_no_guest(world: World) -> None:
    pool, calls = lent(world)
    others = call(world, pool, "b", 1)
    assert held(pool, "b") == 0
    assert asked_for(world) == 1
    world.loop.advance(0.05)
    assert asked_for(world) == 1, "the one that starts will do"
    forked(world)
    assert (held(pool, "a"), held(pool, "b")) == (4, 1)
    stats = pool.stats()
    assert (stats.workers_spare, stats.spare_starts_total, stats.workers_limit) == (1, 1, 4)
    end(world, pool, calls + others)


def test_there_are_as_many_spare_workers_as_are_borrowed(world: World) -> None:
    pool, calls = lent(world)
    others = call(world, pool, "b", 5) + call(world, pool, "c", 5)
    forked(world)
    world.loop.advance(0.1)
    assert asked_for(world) == 0
    assert pool.stats().workers_spare == 2
    assert held(pool, "b") + held(pool, "c") == 2, "as many as if nothing had been lent"
    end(world, pool, calls + others)


def test_what_was_borrowed_goes_to_those_within_their_shares(world: World) -> None:
    pool, calls = lent(world)
    others = call(world, pool, "b", 5)
    forked(world)
    of_a = [process for process in at_work(world) if process.serial <= 4]
    assert (held(pool, "a"), held(pool, "b")) == (4, 2)
    finish(world, of_a[0])
    assert (held(pool, "a"), held(pool, "b")) == (3, 2), "b has its share, and a none beyond while 4 are at work"
    more = call(world, pool, "c", 1)
    assert held(pool, "c") == 1, "the next worker was free for it"
    end(world, pool, calls + others + more)


def test_spare_workers_are_not_lent(world: World) -> None:
    pool, calls = lent(world)
    others = call(world, pool, "b", 1)
    forked(world)
    spare = at_work(world)[-1]
    finish(world, spare)
    assert others[0].done()
    world.loop.advance(0.1)
    assert held(pool, "a") == 4
    assert pool.stats().workers_idle == 1
    again = call(world, pool, "b", 1)
    assert held(pool, "b") == 1, "it does not wait at all"
    assert pool.stats().spare_starts_total == 1
    end(world, pool, calls + again)


def test_spare_workers_end_when_nothing_is_borrowed_any_more(world: World) -> None:
    pool, calls = lent(world)
    others = call(world, pool, "b", 1)
    forked(world)
    begin_all(world)
    world.loop.advance(KEEP_S + 2 * CHECK_S)
    assert pool.stats().workers_spare == 1, "something is borrowed still"
    while world.go_on():
        pass
    assert all(task.done() for task in calls + others)
    assert pool.stats().workers_spare == 1
    world.loop.advance(KEEP_S + 2 * CHECK_S)
    while world.go_on():
        pass
    stats = pool.stats()
    assert (stats.workers_spare, stats.workers_idle) == (0, 4)
    assert stats.worker_exits_total == {ExitReason.SPARE: 1}
    end(world, pool, [])


def test_a_machine_without_room_for_spare_workers_serves_on(world: World) -> None:
    pool, calls = lent(world)
    others = call(world, pool, "b", 1)
    for _ in range(6):
        for zygote in world.zygotes:
            while zygote.spawns:
                world.step(zygote.refuse)
        world.loop.advance(AFTER_FAILURE_S / 10)
    assert pool.stats().spare_starts_total == 1, "it is not asked for again and again"
    assert pool.generations[-1].boot_failures == 0, "the server does not end for it"
    finish(world, at_work(world)[0])
    assert held(pool, "b") == 1, "the next worker"
    end(world, pool, calls + others)


def test_for_guests_that_are_done_at_once_nothing_is_forked(world: World) -> None:
    settings = PoolSettings(workers=2, look_ahead=2, max_binding_share=0.5)
    pool = loaded(world, settings, ("a", "b"))
    quick = call(world, pool, "a", 40)
    while not all(task.done() for task in quick):
        for process in at_work(world):
            finish(world, process, 10_000)
    calls = call(world, pool, "a", 40)
    assert held(pool, "a") == 2
    others = call(world, pool, "b", 1)
    assert asked_for(world) == 0
    turns = 0
    while not held(pool, "b"):
        turns += 1
        assert turns < 10, "what is borrowed is filled up again and again"
        finish(world, at_work(world)[0], 10_000)
    assert asked_for(world) == 0
    assert held(pool, "a") == 1
    end(world, pool, calls + others)


def test_a_guest_that_was_always_quick_and_hangs_keeps_nobody_waiting(world: World) -> None:
    settings = PoolSettings(workers=2, look_ahead=2, max_binding_share=0.5)
    pool = loaded(world, settings, ("a", "b"))
    quick = call(world, pool, "a", 40)
    while not all(task.done() for task in quick):
        for process in at_work(world):
            finish(world, process, 10_000)
    calls = call(world, pool, "a", 40)
    for process in at_work(world):
        process.begin()
    others = call(world, pool, "b", 1)
    world.loop.advance(0.03)
    forked(world)
    assert held(pool, "b") == 1
    end(world, pool, calls + others)


def test_where_nobody_may_wait_nothing_is_lent(world: World) -> None:
    """Who comes would be refused before a spare worker is there."""
    pool = loaded(world, PoolSettings(workers=4, queue_limit=0, look_ahead=0, max_binding_share=0.5), ("a", "b"))
    calls = call(world, pool, "a", 4)
    assert refused(calls) == 2
    others = call(world, pool, "b", 2)
    assert refused(others) == 0
    end(world, pool, calls + others)


def test_a_share_of_all_workers_protects_nobody(world: World) -> None:
    pool, calls = lent(world, share=1.0)
    others = call(world, pool, "b", 1)
    world.loop.advance(0.1)
    assert asked_for(world) == 0
    end(world, pool, calls + others)


def test_spare_workers_of_a_former_generation_end_with_it(world: World) -> None:
    pool, calls = lent(world)
    others = call(world, pool, "b", 1)
    forked(world)

    async def reload() -> None:
        from tests.hammer.test_machine import load_of

        await pool.load(load_of(("a", "b", "c")), {})

    loading = world.loop.create_task(reload())
    world.loop.settle()
    while world.go_on():
        pass
    assert loading.done()
    assert all(task.done() for task in calls + others)
    assert (pool.stats().workers_spare, pool.stats().workers_idle) == (0, 4)
    assert len([process for process in world.processes if process.alive]) == 4
    end(world, pool, [])
