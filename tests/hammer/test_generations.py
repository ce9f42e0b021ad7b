"""Generations that come and go at awkward moments."""

import asyncio
import signal
from typing import Any

import pytest

from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.outcome import Outcome
from sandboxd.pool.pools import Pools
from sandboxd.pool.settings import PoolSettings
from sandboxd.pool.starting import BOOT_FAILURES_MAX
from tests.hammer.scripted import ScriptedZygote, World
from tests.hammer.test_machine import load_of
from tests.hammer.test_steps import Scene


def test_a_zygote_that_dies_as_its_last_worker_gets_up_does_not_take_over(world: World) -> None:
    scene = Scene(world)
    loading = scene.load(("a", "b"))
    zygote = world.zygotes[1]
    world.step(zygote.fork)
    worker = world.processes[-1]
    worker.get_up()

    def both() -> None:
        worker.deliver()
        zygote.lose()

    world.step(both)
    error = loading.exception()
    assert isinstance(error, SandboxdError)
    assert error.exit_code is ExitCode.ZYGOTE_LOST
    scene.rest()
    assert scene.pool.stats().generation == 1
    assert not scene.pool.failure.done()
    call = scene.call()
    scene.rest()
    assert call.result().outcome is Outcome.COMPLETED


def test_a_zygote_that_dies_before_its_first_worker_ends_the_reload(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(world)
    start = ScriptedZygote.start

    async def start_and_die(zygote: ScriptedZygote, *load: Any) -> Any:
        loaded = await start(zygote, *load)
        asyncio.get_running_loop().call_soon(zygote.lose)  # while the generation notes its guests
        return loaded

    monkeypatch.setattr(ScriptedZygote, "start", start_and_die)
    loading = scene.load(("a", "b"))
    scene.rest()
    error = loading.exception()
    assert isinstance(error, SandboxdError)
    assert error.exit_code is ExitCode.ZYGOTE_LOST
    assert scene.pool.ready()
    assert scene.pool.stats().generation == 1


def test_a_zygote_that_dies_while_another_pool_starts_does_not_take_over(world: World) -> None:
    async def make() -> Pools:
        return Pools(PoolSettings(workers=1))

    def load() -> "asyncio.Task[Any]":
        return asyncio.ensure_future(pools.load(load_of(("a", "b")), {}, alone={"b"}), loop=world.loop)

    pools = world.run(make())
    first = load()
    while not first.done():
        world.go_on()
        world.loop.settle()
    second = load()
    while len(world.zygotes) < 4:  # those of the shared pool and of `b`, twice
        world.go_on()
        world.loop.settle()
    world.step(world.zygotes[2].lose)
    while not second.done():
        world.go_on()
        world.loop.settle()
    error = second.exception()
    assert isinstance(error, SandboxdError)
    assert error.exit_code is ExitCode.ZYGOTE_LOST
    assert pools.ready()
    assert not pools.failure.done()


def test_of_two_reloads_at_once_the_later_one_serves(world: World) -> None:
    scene = Scene(world, workers=2)
    # No step between them: both are begun before either has a zygote.
    both = [asyncio.ensure_future(scene.pool.load(load_of((name,)), {}), loop=world.loop) for name in ("a", "b")]
    for _ in range(20):
        scene.rest()
        world.loop.advance(0.01)
    assert all(loading.done() for loading in both)
    assert [loading.result() for loading in both] == [(), ()]
    assert scene.pool.stats().generation == 3
    call = scene.call("b")
    scene.rest()
    assert call.result().outcome is Outcome.COMPLETED
    assert len(scene.alive()) == 2


def test_closing_waits_for_a_former_generation_that_is_being_ended(world: World) -> None:
    scene = Scene(world)
    former = world.zygotes[0]
    may_end = asyncio.Event()
    ended = []

    async def slowly() -> None:
        await may_end.wait()
        ended.append(former)

    former.close = slowly  # type: ignore[method-assign]
    loading = scene.load(("a", "b"))
    scene.rest()
    assert loading.done()
    closing = scene.task(scene.pool.close())
    assert not ended
    world.step(may_end.set)
    assert ended == [former]
    assert closing.done()


def test_a_front_out_of_descriptors_serves_on_and_has_its_workers_again_later(world: World) -> None:
    scene = Scene(world, workers=2)
    (zygote,) = world.zygotes
    victim = scene.alive()[0]
    victim.die(-signal.SIGKILL)
    world.step(victim.close)
    world.step(lambda: zygote.reap(victim))
    for _ in range(3 * BOOT_FAILURES_MAX):
        while not zygote.spawns:
            world.loop.advance(0.1)
        world.step(zygote.fork_without_descriptors)
        scene.rest()
        assert not scene.pool.failure.done()
        assert scene.pool.ready()
    world.loop.advance(3)
    scene.rest()
    assert scene.pool.stats().workers_idle == 2
    assert scene.pool.stats().worker_exits_total == {"killed": 1, "boot_failed": 3 * BOOT_FAILURES_MAX}


def test_a_reload_by_a_front_out_of_descriptors_is_refused(world: World) -> None:
    scene = Scene(world)
    loading = scene.load(("a", "b"))
    zygote = world.zygotes[1]
    while not loading.done():
        if zygote.spawns:
            world.step(zygote.fork_without_descriptors)
        scene.rest()
        world.loop.advance(0.1)
    error = loading.exception()
    assert isinstance(error, SandboxdError)
    assert error.exit_code is ExitCode.WORKERS
    assert scene.pool.ready()
    assert scene.pool.stats().generation == 1
