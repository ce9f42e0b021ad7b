"""Orders of events that once went wrong, each alone."""

import asyncio
import signal
from collections.abc import Awaitable
from typing import Any

import pytest

from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, QueueTimeout
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.pool.worker import STALLED_NS, STALLED_NS_PER_BYTE
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from tests.hammer.scripted import Process, World
from tests.hammer.test_machine import load_of


class Scene:
    """A pool on scripted workers, loaded."""

    def __init__(self, world: World, **sizes: Any) -> None:
        self.world = world

        async def make() -> Pool:
            return Pool(PoolSettings(**{"workers": 1, "queue_timeout_s": 1.0, **sizes}))

        self.pool: Pool = world.run(make())
        loading = self.load(("a", "b"))
        self.rest()
        loading.result()

    def load(self, bindings: tuple[str, ...], broken: tuple[str, ...] = ()) -> "asyncio.Task[Any]":
        return self.task(self.pool.load(load_of(bindings, broken), {}))

    def task(self, work: Awaitable[Any]) -> "asyncio.Task[Any]":
        task = asyncio.ensure_future(work, loop=self.world.loop)
        self.world.loop.settle()
        return task

    def call(self, binding: str = "a", seconds: float = 100.0, stdin: bytes = b"") -> "asyncio.Task[m.Result]":
        deadline_ns = self.world.clock.now_ns + int(seconds * 1e9)
        return self.task(self.pool.invoke(binding, m.Call(deadline_ns=deadline_ns, stdin=stdin)))

    def rest(self) -> None:
        while self.world.go_on():
            pass

    def alive(self) -> list[Process]:
        return [process for process in self.world.processes if process.alive]


def test_an_answer_in_a_dead_workers_socket_is_read(world: World) -> None:
    scene = Scene(world)
    call = scene.call(stdin=b"payload")
    (process,) = scene.alive()
    process.begin()
    process.finish(Outcome.COMPLETED, 1000, False)
    process.die(-signal.SIGKILL)
    # The zygote's word arrives before what the worker said.
    world.step(lambda: world.zygote_of(process).reap(process))
    assert not call.done()
    world.step(process.close)
    assert call.result().stdout == b"payload"


def test_a_worker_that_leaves_a_revoked_frame_unread_is_replaced(world: World) -> None:
    scene = Scene(world)
    (stopped,) = scene.alive()
    call = scene.call()
    call.cancel()
    world.loop.settle()
    assert scene.pool.stats().workers_busy == 1
    world.loop.advance(2.5)
    assert world.zygote_of(stopped).kills == [stopped.serial]
    scene.rest()
    assert scene.pool.stats().worker_exits_total == {"stalled": 1}
    assert scene.pool.stats().workers_idle == 1


@pytest.mark.parametrize("size", [16 << 20, 0])
def test_a_worker_has_its_time_for_a_long_frame_and_no_more(world: World, size: int) -> None:
    scene = Scene(world)
    (stopped,) = scene.alive()
    call = scene.call(stdin=bytes(size))
    world.loop.advance((STALLED_NS + size * STALLED_NS_PER_BYTE) / 1e9 - 0.1)
    assert not world.zygote_of(stopped).kills
    world.loop.advance(0.2)
    assert world.zygote_of(stopped).kills == [stopped.serial]
    scene.rest()
    assert call.result().stdout == bytes(size)
    assert world.begun[bytes(size)] == 1
    assert scene.pool.stats().worker_exits_total == {"stalled": 1}


def test_a_worker_that_begins_a_long_frame_late_is_not_replaced(world: World) -> None:
    scene = Scene(world)
    call = scene.call(stdin=bytes(16 << 20))
    world.loop.advance(3.5)
    scene.rest()
    assert len(call.result().stdout) == 16 << 20
    assert scene.pool.stats().worker_exits_total == {}


def test_all_that_waited_too_long_leave_at_once(world: World) -> None:
    scene = Scene(world, queue_limit=1000)
    first = scene.call()
    (process,) = scene.alive()
    process.begin()
    waiting = [scene.call() for _ in range(100)]
    world.loop.advance(1.05)
    assert all(isinstance(call.exception(), QueueTimeout) for call in waiting)
    assert not first.done()
    scene.rest()


def test_one_given_back_does_not_make_those_behind_it_wait_longer(world: World) -> None:
    scene = Scene(world)
    given_back = scene.call()
    (stopped,) = scene.alive()
    behind = scene.call()
    world.loop.advance(0.8)
    stopped.die(-signal.SIGKILL)
    world.step(stopped.close)
    world.loop.advance(0.4)
    assert isinstance(behind.exception(), QueueTimeout)
    assert not given_back.done()
    scene.rest()
    assert given_back.result().outcome is Outcome.COMPLETED


def test_a_worker_that_is_dead_before_it_is_connected_leaves_nothing(world: World) -> None:
    scene = Scene(world)
    (process,) = scene.alive()
    process.die(-signal.SIGKILL)
    world.step(process.close)
    zygote = world.zygote_of(process)

    def both() -> None:
        zygote.fork()
        born_dead = world.processes[-1]
        born_dead.die(1)
        zygote.reap(born_dead)

    world.step(both)
    born_dead = world.processes[-1]
    world.step(born_dead.close)  # whoever connects to it finds the end at once
    assert born_dead.transport.closed
    assert scene.pool.stats().worker_exits_total["boot_failed"] == 1


def test_failures_of_a_refused_reload_do_not_count_against_what_serves(world: World) -> None:
    scene = Scene(world)
    loading = scene.load(("a", "b"))
    serving, next_one = world.zygotes
    while not loading.done():
        while next_one.spawns:
            world.step(next_one.refuse)
        world.loop.advance(0.1)
    error = loading.exception()
    assert isinstance(error, SandboxdError)
    assert error.exit_code is ExitCode.WORKERS
    # A single failure of the serving generation afterwards is no reason to give up.
    (process,) = scene.alive()
    process.die(-signal.SIGKILL)
    world.step(process.close)
    world.step(serving.refuse)
    world.step(lambda: serving.reap(process))
    assert not scene.pool.failure.done()
    world.loop.advance(0.2)
    scene.rest()
    assert scene.pool.ready()


def test_without_a_zygote_an_overdue_worker_is_killed_and_its_caller_told(world: World) -> None:
    scene = Scene(world, workers=2)
    calls = [scene.call(seconds=0.5), scene.call(seconds=0.5)]
    for process in scene.alive():
        process.begin()
    world.step(world.zygotes[0].lose)
    assert scene.pool.failure.done()
    world.loop.advance(1)
    assert [call.result().outcome for call in calls] == [Outcome.DEADLINE_EXCEEDED] * 2
    assert not scene.alive()
    assert scene.pool.stats().workers_busy == 0


def test_a_zygote_that_does_not_reap_is_given_up(world: World) -> None:
    scene = Scene(world)
    call = scene.call(seconds=0.5)
    scene.alive()[0].begin()
    world.loop.advance(1)
    assert call.result().outcome is Outcome.DEADLINE_EXCEEDED
    assert not scene.pool.failure.done()
    world.loop.advance(11)
    assert scene.pool.failure.result().exit_code is ExitCode.ZYGOTE_LOST


@pytest.mark.parametrize("serves", [(), ("a",)], ids=["gone", "broken"])
def test_what_waits_for_a_guest_that_a_reload_takes_away_is_told(world: World, serves: tuple[str, ...]) -> None:
    scene = Scene(world)
    running = scene.call("a")
    (process,) = scene.alive()
    process.begin()
    waiting = scene.call("a")
    loading = scene.load((*serves, "b"), broken=serves)
    world.step(world.zygotes[1].fork)
    world.processes[-1].get_up()
    world.step(world.processes[-1].deliver)
    assert loading.done()
    assert isinstance(waiting.exception(), BindingUnavailable)
    scene.rest()
    assert running.result().outcome is Outcome.COMPLETED


def test_a_stopped_worker_of_a_former_generation_is_killed(world: World) -> None:
    scene = Scene(world)
    (stopped,) = scene.alive()
    loading = scene.load(("a", "b"))
    world.step(world.zygotes[1].fork)
    world.processes[-1].get_up()
    world.step(world.processes[-1].deliver)
    assert loading.done()
    assert stopped.transport.closed
    world.loop.advance(2.5)
    assert world.zygotes[0].kills == [stopped.serial]


def test_nothing_said_after_garbage_is_believed(world: World) -> None:
    scene = Scene(world)
    call = scene.call(stdin=b"truth")
    (process,) = scene.alive()
    process.begin()
    wrong = m.Result(id=99, outcome=Outcome.COMPLETED)
    lie = m.Result(id=process.running.id if process.running else 0, outcome=Outcome.COMPLETED, stdout=b"lie")
    process.unsent += codec.encode(wrong) + codec.encode(lie)
    world.step(process.deliver)
    scene.rest()
    assert call.result().outcome is Outcome.WORKER_LOST
    assert call.result().detail == "the worker process running it answered invocation 99, which was not its next"


def test_a_sweep_that_fails_is_not_the_last(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(world)
    heard: list[str] = []
    world.loop.set_exception_handler(lambda _, context: heard.append(str(context.get("exception"))))
    call = scene.call(seconds=0.5)
    (process,) = scene.alive()
    process.begin()
    with monkeypatch.context() as patched:
        patched.setattr(process.transport.protocol, "stalled", lambda _: 1 / 0)
        world.loop.advance(0.05)
    assert set(heard) == {"division by zero"}
    world.loop.advance(1)
    assert call.result().outcome is Outcome.DEADLINE_EXCEEDED
    scene.rest()
