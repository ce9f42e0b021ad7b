"""A template's children in orders of steps that seldom happen: when a child is waited for, and how it may end."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from sandboxd.outcome import Outcome
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.pool.template import Key, Miss, Template
from sandboxd.pool.templates import Templates
from sandboxd.pool.worker import Role
from sandboxd.wire import messages as m
from tests.hammer.scripted import Process, World
from tests.hammer.test_machine import load_of

BOOT_NS = 100_000_000
"""A guest for which it pays to wait: children take a few milliseconds."""


def call(world: World, pool: Pool, *args: bytes) -> "asyncio.Task[m.Result]":
    deadline_ns = world.clock.now_ns + 10**10
    task = world.loop.create_task(pool.invoke("b", m.Call(deadline_ns=deadline_ns, stdin=b"x", args=args)))
    world.loop.settle()
    return task


def running(world: World, role: Role) -> list[Process]:
    return [process for process in world.processes if process.alive and process.role is role]


def begin(world: World, process: Process) -> None:
    process.begin()
    world.step(process.deliver)


def finish(world: World, process: Process) -> None:
    process.finish(Outcome.COMPLETED, 1_000_000, False)
    world.step(process.deliver)


def fork_child(world: World) -> Process:
    (zygote,) = world.zygotes
    world.step(zygote.fork)
    child = world.processes[-1]
    child.get_up()
    world.step(child.deliver)
    return child


@pytest.fixture
def pool(world: World) -> Iterator[Pool]:
    """A pool of one worker, whose binding has a template, a child that runs, and another that was not forked yet."""

    async def make() -> Pool:
        return Pool(PoolSettings(workers=1, warm_memory_bytes=100))

    pool = world.run(make())
    loading = world.loop.create_task(pool.load(load_of(("b",)), {}))
    world.loop.settle()
    while not loading.done():
        world.go_on()
    (worker,) = running(world, Role.WORKER)
    for _ in range(2):  # the second starts the template
        call(world, pool)
        begin(world, worker)
        finish(world, worker)
    (zygote,) = world.zygotes
    world.step(zygote.fork)
    (template,) = running(world, Role.TEMPLATE)
    template.get_up()
    template.park(works=True, boot_ns=BOOT_NS, private_bytes=1)
    world.step(template.deliver)
    child = fork_child(world)
    first = call(world, pool)
    begin(world, child)
    assert not first.done()
    yield pool
    world.run(pool.drain(0.0))
    world.run(pool.close())


def misses(pool: Pool) -> int:
    return sum(count for (_, reason), count in pool.stats().warm.misses.items() if reason is Miss.NO_CHILD)


def test_who_waited_long_for_a_place_still_waits_for_a_child(world: World, pool: Pool) -> None:
    (child,) = running(world, Role.CHILD)
    second = call(world, pool)
    world.loop.advance(0.5)  # the only place is taken all the time
    finish(world, child)
    assert misses(pool) == 0, "a place is free and the next child is being forked: it is worth waiting for"
    child = fork_child(world)
    begin(world, child)
    finish(world, child)
    assert second.done()
    assert misses(pool) == 0


def test_a_child_that_does_not_come_is_not_waited_for_any_longer(world: World, pool: Pool) -> None:
    (child,) = running(world, Role.CHILD)
    second = call(world, pool)
    world.loop.advance(0.5)
    finish(world, child)
    world.loop.advance(0.1)
    (worker,) = running(world, Role.WORKER)
    begin(world, worker)
    finish(world, worker)
    assert second.done()
    assert misses(pool) == 1


def test_a_child_may_be_reaped_before_its_answer_is_read(
    world: World, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    (child,) = running(world, Role.CHILD)
    fork_child(world)
    child.finish(Outcome.COMPLETED, 1_000_000, False)
    (zygote,) = world.zygotes
    with caplog.at_level(logging.INFO):
        world.step(lambda: zygote.reap(child))
        world.step(child.deliver)
        world.step(child.close)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert pool.stats().warm.hits == {"b": 1}


def test_a_template_that_is_reaped_before_it_is_connected_says_why(
    world: World, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """A front that is held up reads from the zygote at once that a process was forked and that it has ended."""
    finish(world, *running(world, Role.CHILD))
    (worker,) = running(world, Role.WORKER)
    for _ in range(2):
        call(world, pool, b"other")
        begin(world, worker)
        finish(world, worker)
    (zygote,) = world.zygotes
    while len(zygote.spawns) > 1:  # the first template's next child was asked for before
        world.step(zygote.fork)

    def fork_and_reap() -> None:
        zygote.fork()
        template = world.processes[-1]
        assert template.role is Role.TEMPLATE
        template.get_up()
        template.park(works=False, boot_ns=1_000_000, private_bytes=1)
        zygote.reap(template)

    world.step(fork_and_reap)
    template = world.processes[-1]
    world.step(template.deliver)
    world.step(template.close)
    assert any("its guest ended before it read stdin" in record.message for record in caplog.records)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_child_that_ends_without_an_answer_is_told_of(
    world: World, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    (child,) = running(world, Role.CHILD)
    child.die(1)
    (zygote,) = world.zygotes
    world.step(lambda: zygote.reap(child))
    world.step(child.close)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == [
        f"child {child.serial} (pid {1000 + child.serial}) exited with status 1 after 0 invocations"
    ]


class Asked:
    """Notes the forks that a table of templates asks for, and does nothing."""

    def __init__(self) -> None:
        self.forks = 0

    def boot(self, template: Template[str]) -> None:
        pass

    def fork(self, template: Template[str]) -> None:
        self.forks += 1

    def end(self, template: Template[str]) -> None:
        pass

    def end_child(self, child: str) -> None:
        pass


@pytest.mark.parametrize(("child_cpu_ns", "waits"), [(3_000_000, True), (4_000_000, False)])
def test_processor_time_decides_whether_a_child_is_waited_for(child_cpu_ns: int, waits: bool) -> None:
    asked = Asked()
    table: Templates[str] = Templates(asked, 100)
    key, warm = Key("b", (), ()), m.GuestWarm(instances=1)
    for _ in range(2):
        table.take(key, warm, 1, 0)
    (template,) = table
    assert table.on_parked(template, 1, 10_000_000)
    assert table.expects_child(key), "nothing is known of its children yet"
    assert table.on_child_ready(template, "child")
    assert table.pays(template, child_cpu_ns), "their number is configured"
    assert not table.expects_child(key), "none is being forked"
    assert table.take(key, warm, 1, 0) == "child"
    assert asked.forks == 2
    assert table.expects_child(key) is waits
