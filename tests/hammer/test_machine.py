"""The pool under every order of events hypothesis can think of: who waits is answered once, and nothing runs twice.

The pool's own code runs, on scripted processes (see `scripted`). What only real processes show is in
`test_real_workers`.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sandboxd.limits import EngineSettings
from sandboxd.outcome import Outcome
from sandboxd.pool.delivery import LOSSES_MAX
from sandboxd.pool.errors import BindingUnavailable, PoolClosing, QueueFull, QueueTimeout
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.pool.state import WorkerState
from sandboxd.pool.template import TemplateState
from sandboxd.pool.worker import Role, Worker
from sandboxd.wire import messages as m
from tests.hammer.scripted import Process, ScriptedZygote, World

BINDINGS = ("a", "b", "c")
WARM = {"b": 0, "c": 2}
"""The bindings that are started warm, and how many of their guests are kept ready."""
PICK = st.integers(0, 1000)
LONGEST_S = 4.0


def load_of(bindings: tuple[str, ...], broken: tuple[str, ...] = ()) -> m.Load:
    return m.Load(
        engine=EngineSettings(),
        outbound=m.OutboundSettings(),
        guests=tuple(
            m.GuestSpec(
                binding=name,
                kind="module",
                artifact="broken" if name in broken else "fine",
                argv0=b"x",
                warm=m.GuestWarm(instances=WARM[name], templates=2) if name in WARM else None,
            )
            for name in bindings
        ),
    )


class PoolMachine(RuleBasedStateMachine):
    """One pool, from its first load to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.world = World()
        self.patches = self.world.installed()
        self.patches.__enter__()
        self.calls: dict[bytes, asyncio.Task[m.Result]] = {}
        self.cancelled: set[bytes] = set()
        self.reloading: asyncio.Task[Any] | None = None
        self.lost = False
        self.warm_lies = 0

    @initialize(
        workers=st.integers(1, 4),
        queue_limit=st.integers(0, 4),
        look_ahead=st.integers(0, 3),
        recycle_after=st.sampled_from([0, 0, 1, 3]),
        patience_s=st.sampled_from([0.05, 1.0, 10.0]),
        max_concurrency=st.sampled_from([0, 0, 1]),
        warmed=st.booleans(),
        share=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    )
    def start(
        self,
        workers: int,
        queue_limit: int,
        look_ahead: int,
        recycle_after: int,
        patience_s: float,
        max_concurrency: int,
        warmed: bool,
        share: float,
    ) -> None:
        self.max_concurrency = {"a": max_concurrency}
        sizes = PoolSettings(
            workers=workers,
            queue_limit=queue_limit,
            look_ahead=look_ahead,
            recycle_after=recycle_after,
            queue_timeout_s=patience_s,
            warm_memory_bytes=100,
            max_binding_share=share,
        )

        async def make() -> Pool:
            return Pool(sizes)

        self.pool: Pool = self.world.run(make())
        loading = self.world.loop.create_task(self.pool.load(load_of(BINDINGS), self.max_concurrency))
        self.world.loop.settle()
        while not loading.done():
            assert self.world.go_on()
        assert loading.result() == ()
        assert self.pool.ready()
        if warmed:
            # Otherwise chance alone would hardly ever bring a template as far as to children.
            for binding in (*WARM, *WARM):
                self.call(binding, LONGEST_S, 1, b"x")
                self.go_on(20)

    @rule(times=st.integers(1, 3))
    def go_on(self, times: int) -> None:
        for _ in range(times):
            if not self.world.go_on():
                break

    # callers ----------------------------------------------------------------------------------------------------------

    @rule(
        binding=st.sampled_from(BINDINGS),
        timeout_s=st.sampled_from([0.02, 1.0, LONGEST_S]),
        count=st.integers(1, 4),
        arg=st.sampled_from([b"x", b"x", b"x", b"y", b"z"]),
    )
    def call(self, binding: str, timeout_s: float, count: int, arg: bytes) -> None:
        for _ in range(count):
            payload = b"%s-%d" % (binding.encode(), len(self.calls))
            deadline_ns = self.world.clock.now_ns + int(timeout_s * 1e9)
            self.calls[payload] = self.world.loop.create_task(
                self.pool.invoke(binding, m.Call(deadline_ns=deadline_ns, args=(arg,), stdin=payload))
            )
        self.world.loop.settle()

    @precondition(lambda self: any(not task.done() for task in self.calls.values()))
    @rule(which=PICK)
    def hang_up(self, which: int) -> None:
        waiting = [payload for payload, task in self.calls.items() if not task.done()]
        payload = waiting[which % len(waiting)]
        self.cancelled.add(payload)
        self.calls[payload].cancel()
        self.world.loop.settle()

    @rule(seconds=st.sampled_from([0.001, 0.006, 0.011, 0.3, 2.1, 11.0]))
    def wait(self, seconds: float) -> None:
        self.world.loop.advance(seconds)

    # processes --------------------------------------------------------------------------------------------------------

    def zygotes_with(self, attribute: str) -> list[ScriptedZygote]:
        return [zygote for zygote in self.world.zygotes if getattr(zygote, attribute)]

    @precondition(lambda self: self.zygotes_with("spawns"))
    @rule(which=PICK, works=st.sampled_from([True, True, True, False]))
    def fork(self, which: int, works: bool) -> None:
        zygotes = self.zygotes_with("spawns")
        zygote = zygotes[which % len(zygotes)]
        self.world.step(zygote.fork if works else zygote.refuse)

    @precondition(lambda self: self.zygotes_with("kills"))
    @rule(which=PICK)
    def kill(self, which: int) -> None:
        zygotes = self.zygotes_with("kills")
        self.world.step(lambda: zygotes[which % len(zygotes)].execute(which))

    def alive(self) -> list[Process]:
        return [process for process in self.world.processes if process.alive]

    @precondition(lambda self: any(not process.up for process in self.alive()))
    @rule(which=PICK, cpu_ns=st.sampled_from([0, 0, 1_000_000, 10_000_000]))
    def get_up(self, which: int, cpu_ns: int) -> None:
        down = [process for process in self.alive() if not process.up]
        down[which % len(down)].get_up(cpu_ns)

    def booting(self) -> list[Process]:
        return [p for p in self.alive() if p.up and p.role is Role.TEMPLATE and not p.parked]

    @precondition(lambda self: self.booting())
    @rule(
        which=PICK,
        works=st.sampled_from([True, True, True, False]),
        boot_ns=st.sampled_from([1_000_000, 1_000_000, 40_000_000]),
        private_bytes=st.sampled_from([1, 1, 60, 101]),
    )
    def park(self, which: int, works: bool, boot_ns: int, private_bytes: int) -> None:
        able = self.booting()
        process = able[which % len(able)]
        process.park(works=works, boot_ns=boot_ns, private_bytes=private_bytes)
        self.world.step(process.deliver)

    @precondition(lambda self: any(p.unread and p.running is None and p.up for p in self.alive()))
    @rule(which=PICK)
    def begin(self, which: int) -> None:
        able = [p for p in self.alive() if p.unread and p.running is None and p.up]
        able[which % len(able)].begin()

    @precondition(lambda self: any(process.running for process in self.alive()))
    @rule(
        which=PICK,
        outcome=st.sampled_from([Outcome.COMPLETED, Outcome.COMPLETED, Outcome.EXIT_NONZERO, Outcome.TRAPPED]),
        guest_ns=st.sampled_from([10_000, 10_000, 10_000_000]),
        retire=st.sampled_from([False, False, False, True]),
        on_to_next=st.booleans(),
    )
    def finish(self, which: int, outcome: Outcome, guest_ns: int, retire: bool, on_to_next: bool) -> None:
        able = [process for process in self.alive() if process.running]
        process = able[which % len(able)]
        process.finish(outcome, guest_ns, retire)
        if on_to_next and process.unread:
            process.begin()

    @precondition(lambda self: any(process.unsent for process in self.world.processes))
    @rule(which=PICK, size=st.sampled_from([None, None, 1, 7]))
    def deliver(self, which: int, size: int | None) -> None:
        able = [process for process in self.world.processes if process.unsent]
        process = able[which % len(able)]
        self.world.step(lambda: process.deliver(size))

    @precondition(lambda self: self.alive())
    @rule(which=PICK, status=st.sampled_from([-signal.SIGKILL, -signal.SIGSEGV, 70]))
    def crash(self, which: int, status: int) -> None:
        able = self.alive()
        able[which % len(able)].die(status)

    @precondition(lambda self: any(process.transport.closed for process in self.alive()))
    @rule(which=PICK)
    def notice_the_end(self, which: int) -> None:
        able = [process for process in self.alive() if process.transport.closed]
        able[which % len(able)].die(0)

    @precondition(lambda self: any(not p.transport.closed for p in self.world.processes if not p.alive))
    @rule(which=PICK)
    def close_socket(self, which: int) -> None:
        able = [p for p in self.world.processes if not p.alive and not p.transport.closed]
        self.world.step(able[which % len(able)].close)

    def unreaped(self) -> list[Process]:
        dead = (p for p in self.world.processes if not p.alive and not p.reaped)
        return [process for process in dead if not self.world.zygote_of(process).dead]

    @precondition(lambda self: self.unreaped())
    @rule(which=PICK)
    def reap(self, which: int) -> None:
        able = self.unreaped()
        process = able[which % len(able)]
        self.world.step(lambda: self.world.zygote_of(process).reap(process))

    @precondition(lambda self: any(p.up and not p.transport.closed for p in self.alive()))
    @rule(which=PICK, garbage=st.sampled_from([b"\xff\xff\xff\xff", b"\1\0\0\0\xc1", b"\x00" * 40]))
    def garble(self, which: int, garbage: bytes) -> None:
        able = [p for p in self.alive() if p.up and not p.transport.closed]
        process = able[which % len(able)]
        process.unsent += garbage
        self.warm_lies += process.role is not Role.WORKER
        self.world.step(process.deliver)

    @precondition(lambda self: self.reloading is None or self.reloading.done())
    @rule(bindings=st.sampled_from([BINDINGS, ("a", "b"), ("c",)]), broken=st.sampled_from([(), (), ("a",)]))
    def reload(self, bindings: tuple[str, ...], broken: tuple[str, ...]) -> None:
        if self.reloading is not None:
            self.reloading.exception()
        self.reloading = self.world.loop.create_task(self.pool.load(load_of(bindings, broken), self.max_concurrency))
        self.world.loop.settle()

    @precondition(lambda self: not self.lost)
    @rule(which=PICK, really=st.sampled_from([False] * 9 + [True]))
    def lose_a_zygote(self, which: int, really: bool) -> None:
        living = [zygote for zygote in self.world.zygotes if not zygote.dead]
        if really and living:
            self.lost = True
            self.world.step(living[which % len(living)].lose)

    # what must hold ---------------------------------------------------------------------------------------------------

    def workers(self) -> list[Worker]:
        return list(self.pool._maintenance.workers.values())

    @invariant()
    def every_invocation_is_in_one_place(self) -> None:
        if not hasattr(self, "pool"):
            return
        leases = self.pool._leases
        waiting = [one for queue in leases.queue._queues.values() for one in queue]
        assert len(waiting) == len(leases.queue)
        assert len({one.id for one in waiting}) == len(waiting)
        flying = [(one, worker) for worker in self.workers() for one in worker.inflight]
        assert all(one.worker_serial == worker.serial for one, worker in flying)
        assert all(one.worker_serial == 0 for one in waiting)
        assert all(leases.busy[worker.serial] is worker for _, worker in flying)
        places = [one.call.stdin for one in waiting] + [one.call.stdin for one, _ in flying if not one.over]
        assert len(set(places)) == len(places), "given twice"
        assert set(places) == {payload for payload, task in self.calls.items() if not task.done()}, "a lease was lost"

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        leases = self.pool._leases
        for generation in self.pool.generations:
            for name, entry in generation.entries.items():
                workers = [worker for worker in self.workers() if worker.generation is generation]
                flying = [one for worker in workers for one in worker.inflight if one.binding == name]
                assert entry.running == len(flying)
                assert entry.held == len({one.worker_serial for one in flying}) <= entry.limit
                if self.max_concurrency.get(name):
                    assert entry.running <= self.max_concurrency[name]
        given_back = sum(1 for queue in leases.queue._queues.values() for one in queue if one.sent_ns)
        assert len(leases.queue) - given_back <= leases.queue.limit
        plain = [worker for worker in self.workers() if worker.role is Role.WORKER]
        idle = [w for w in plain if w.generation is leases.current and w.state is WorkerState.IDLE]
        assert {w.serial for w in leases.idle} == {w.serial for w in idle}
        assert not any(w.inflight for w in idle)
        self.starts_agree(len(plain))

    @invariant()
    def spare_workers_are_bounded_and_there_when_needed(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.world.loop.settle()  # a sweep may be due
        leases, spares, generations = self.pool._leases, self.pool._spares, self.pool._generations
        assert leases.current is not None
        entries = leases.current.entries
        least = min(entry.share for entry in entries.values())
        size = self.pool.stats().workers_limit
        assert generations.surplus() <= size - min(least, size)
        now = self.world.clock.now_ns
        blocked = spares._blocked_until * 1e9 > now or leases.current.lost or leases.current.boot_failures
        if blocked or len(leases.idle) > len(leases._children):
            return
        owed = sum(
            min(len(waiting), entries[binding].share - entries[binding].held)
            for binding, waiting in leases.queue.bindings()
            if entries[binding].within_share and now - waiting[0].queued_ns > 100_000_000
        )
        missing = min(owed - generations.starting(), spares.borrowed() - generations.surplus())
        assert missing <= 0, "it waits for a guest of a binding that holds more than its share"

    @invariant()
    def templates_and_children_are_accounted_for(self) -> None:
        if not hasattr(self, "pool"):
            return
        leases, warm = self.pool._leases, self.pool._warm
        children = [worker for worker in self.workers() if worker.role is Role.CHILD]
        # Each child at work is known to the leases, and ends after its one invocation.
        at_work = {w.serial for w in children if w.generation is leases.current and w.inflight}
        assert at_work - {w.serial for w in children if w.state is WorkerState.KILLED} <= leases._children
        assert leases._children <= {w.serial for w in children}
        assert all(len(worker.inflight) <= 1 for worker in children)
        live = [w for w in self.workers() if w.state in (WorkerState.STARTING, WorkerState.IDLE)]
        for template in warm._table:
            own = [w for w in live if w.role is Role.CHILD and warm._of[w.serial] is template]
            assert set(template.ready) <= {w for w in own if w.state is WorkerState.IDLE and not w.inflight}
            if template.state is TemplateState.PARKED:
                assert template.starting == sum(w.state is WorkerState.STARTING for w in own)
                assert template.wanted <= max(template.most, template.warm.instances)
            assert (id(template) in warm._running) == (template.state is not TemplateState.FAILED)
        processes = {w.serial for w in live if w.role is Role.TEMPLATE and w.generation is leases.current}
        assert processes <= {process.serial for process in warm._running.values()}

    @invariant()
    def nothing_runs_twice(self) -> None:
        assert all(count == 1 for count in self.world.begun.values())

    # the end ----------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if hasattr(self, "pool"):
                self.let_all_end()
        finally:
            self.patches.__exit__(None, None, None)
            self.world.close()
        # Fewer, where what an earlier test left was collected meanwhile.
        assert len(os.listdir("/proc/self/fd")) <= self.descriptors

    def let_all_end(self) -> None:
        # Slowly at first, so that what can run does, then beyond every deadline.
        for _ in range(200):
            if not self.world.go_on():
                break
        for seconds in (0.3, 3.0, LONGEST_S + 1, 11.0, 11.0):
            self.world.loop.advance(seconds)
            for _ in range(200):
                if not self.world.go_on():
                    break
        for payload, task in self.calls.items():
            assert task.done(), f"{payload!r} was never answered"
            self.check_answer(payload, task)
        self.every_invocation_is_in_one_place()
        self.counts_agree()
        leases = self.pool._leases
        assert not leases.busy
        assert not len(leases.queue)
        if not self.lost and not self.pool.failure.done():
            assert self.pool.ready()
            assert len(leases.idle) == self.pool.stats().workers_limit
        assert self.world.run(self.pool.drain(0.0)) is True
        if self.reloading is not None:
            self.reloading.cancel()
            self.world.loop.settle()
            if not self.reloading.cancelled():
                self.reloading.exception()
        self.world.run(self.pool.close())
        self.world.loop.settle()
        self.starts_agree(0)
        assert not self.alive()

    def starts_agree(self, workers: int) -> None:
        """Whoever was started is there or has ended. Templates and their children are counted only if they lied."""
        stats = self.pool.stats()
        ended = sum(stats.worker_exits_total.values())
        assert stats.worker_starts_total <= workers + ended <= stats.worker_starts_total + self.warm_lies

    def check_answer(self, payload: bytes, task: "asyncio.Task[m.Result]") -> None:
        begun = self.world.begun[payload]
        if task.cancelled():
            assert payload in self.cancelled
            return
        error = task.exception()
        if error is not None:
            assert isinstance(error, QueueFull | QueueTimeout | PoolClosing | BindingUnavailable)
            assert begun == 0
            return
        result = task.result()
        if result.outcome is Outcome.WORKER_LOST and begun == 0:
            assert result.detail == f"{LOSSES_MAX} worker processes in a row ended with it unread"
        elif result.outcome is Outcome.WORKER_LOST:
            assert result.detail.startswith("the worker process running it ")
            assert begun == 1
        elif result.outcome is not Outcome.DEADLINE_EXCEEDED:
            assert (result.stdout, begun) == (payload, 1)


PoolMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Hundreds of scripted crashes are logged as errors otherwise."""
    logging.getLogger("sandboxd").setLevel(logging.CRITICAL + 1)
    yield
    logging.getLogger("sandboxd").setLevel(logging.NOTSET)


TestPool = PoolMachine.TestCase
