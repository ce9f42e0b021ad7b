"""The pool: accepts invocations, gives each to exactly one worker, and answers each caller exactly once."""

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from sandboxd.errors import SandboxdError
from sandboxd.outcome import Outcome
from sandboxd.pool.delivery import Delivery
from sandboxd.pool.errors import (
    BindingShareReached,
    BindingUnavailable,
    PoolClosing,
    QueueFull,
    QueueTimeout,
    Rejected,
    RejectReason,
)
from sandboxd.pool.generation import Generation, Holding
from sandboxd.pool.generations import Generations
from sandboxd.pool.invocation import Invocation, Receiver
from sandboxd.pool.lease import Leases
from sandboxd.pool.maintenance import Maintenance
from sandboxd.pool.polling import Polling
from sandboxd.pool.settings import PoolSettings
from sandboxd.pool.spares import Spares
from sandboxd.pool.state import ExitReason, WorkerState
from sandboxd.pool.stats import BindingLoad, PoolStats
from sandboxd.pool.stream import Stream
from sandboxd.pool.sweep import SWEEP_S, Sweeper
from sandboxd.pool.warm import Warm
from sandboxd.pool.worker import Role, Worker
from sandboxd.wall import Layer
from sandboxd.wire import messages as m


class Pool:
    """The workers and the invocations that wait for them. It runs on one event loop, in synchronous steps.

    Parameters:
        settings: sizes and timeouts.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._maintenance = Maintenance()
        self._generations = Generations(self._maintenance, settings.workers, settings.load_timeout_s)
        self._warm = Warm(self._maintenance, settings.warm_memory_bytes)
        self._spares = Spares(self._generations)
        self._leases = Leases(
            settings.queue_limit,
            settings.look_ahead,
            Polling(settings.polling),
            self._warm,
            settings.workers,
            self._spares,
        )
        self._delivery = Delivery(
            self._maintenance,
            self._leases,
            self._warm,
            self._spares,
            recycle_after=settings.recycle_after,
            hand_over=self._hand_over,
        )
        self._maintenance.report_to(self._generations, self._delivery, self._delivery)
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._rejected: Counter[RejectReason] = Counter()
        self._sweeper = Sweeper(
            self._leases,
            self._maintenance,
            settings.queue_timeout_s,
            redeliver=self._delivery.redeliver,
            expire=self._expire,
        )
        self._closing = False
        self.elsewhere: Mapping[str, Pool] = {}
        """The bindings that have a pool of their own. They are looked for last, so that the others pay nothing."""
        self._loading = asyncio.Lock()
        """Held while a generation starts, so that the most recent request for one wins."""

    def __repr__(self) -> str:
        return f"<Pool of {self._settings.workers} {self._leases!r}>"

    @property
    def workers(self) -> int:
        """The number of worker processes that it keeps."""
        return self._settings.workers

    @property
    def worker_processes(self) -> Mapping[int, Worker]:
        """All workers that are not reaped yet, by serial."""
        return self._maintenance.workers

    @property
    def generations(self) -> Sequence[Generation]:
        """The generations that have workers, the serving one last."""
        return self._generations.all

    @property
    def failure(self) -> "asyncio.Future[SandboxdError]":
        """Completes with an error if the pool can no longer replace workers."""
        return self._generations.failure

    async def load(
        self, load: m.Load, max_concurrency: Mapping[str, int], required: AbstractSet[str] = frozenset()
    ) -> tuple[tuple[str, str], ...]:
        """Start a generation with these guests, wait for its workers, and switch over to it. A reload does the same.

        Parameters:
            load: the settings of wasmtime's engine, the outbound settings and the guests.
            max_concurrency: the limit of each binding; 0 or absent leaves only the binding share of the settings.
            required: the bindings that must load.

        Returns:
            (binding, reason) for each guest that could not be loaded; its invocations raise BindingUnavailable.

        Raises:
            ZygoteError, SandboxdError: the generation could not start. A former one still serves.
        """
        async with self._loading:
            generation, failed = await self.start(load, max_concurrency, required)
            self.switch(generation)
            return failed

    async def start(
        self, load: m.Load, max_concurrency: Mapping[str, int], required: AbstractSet[str]
    ) -> tuple[Generation, tuple[tuple[str, str], ...]]:
        """Start a generation and wait for its workers. It serves nothing until `switch`; `discard` ends it again.

        Parameters, errors: as for `load`.

        Returns:
            the generation, and (binding, reason) for each guest that could not be loaded.
        """
        names = [spec.binding for spec in load.guests]
        limits = {name: self._holding(max_concurrency.get(name, 0), len(names)) for name in names}
        return await self._generations.start(load, limits, required)

    def switch(self, generation: Generation) -> None:
        """Serve with this generation from now on. The former one finishes what it has begun."""
        self._warm.serve(generation)
        self._generations.promote(generation)
        share = self._settings.max_binding_share if len(generation.entries) > 1 else 1.0
        self._leases.queue.binding_limit = math.ceil(self._settings.queue_limit * share)
        workers = [worker for worker in self._maintenance.workers_of(generation) if worker.role is Role.WORKER]
        for invocation in self._leases.swap(generation, workers):
            self._hand_over(invocation)

    def take_over(self, invocation: Invocation) -> None:
        """Take an invocation that waited in another pool when its binding moved here. It queues anew."""
        current = self._leases.current
        entry = current.entries.get(invocation.binding) if current is not None else None
        if self._closing:
            invocation.answer(self._reject(PoolClosing("the server is shutting down")))
        elif entry is None or entry.why_failed:
            invocation.answer(self._unavailable(invocation.binding))
        elif not invocation.over:
            invocation.id = next(self._ids)
            invocation.pool = self
            if not self._leases.place(invocation, entry):
                invocation.answer(self._queue_full())
            self._sweeper.start()

    async def discard(self, generation: Generation) -> None:
        """End a generation that was started and is not to serve."""
        await self._generations.discard(generation)

    @property
    def waits_for(self) -> tuple[str, float]:
        """The condition that guests wait for, and the time.monotonic() since which they do; empty if they can run."""
        return self._generations.waits_for

    def ready(self) -> bool:
        """Return whether a worker of the serving generation is READY and the pool is not closing."""
        return not self._closing and not self.failure.done() and self._generations.ready_workers() > 0

    async def invoke(self, binding: str, call: m.Call, stream: Stream | None = None) -> m.Result:
        """Run a guest once. Cancelling the awaiting task cancels the invocation.

        Parameters:
            binding: the binding's name.
            call: what the guest is called with.
            stream: carries the bodies of a streaming invocation; it is closed when the invocation is over.

        Raises:
            QueueFull, QueueTimeout, PoolClosing: no worker was available.
            BindingUnavailable: the serving generation has no such guest.
        """
        future: asyncio.Future[m.Result] = self._loop.create_future()
        invocation = self.begin(binding, call, partial(_settle, future), stream)
        try:
            return await future
        except asyncio.CancelledError:
            invocation.abandon()
            raise
        finally:
            if stream is not None:
                stream.close()

    def begin(self, binding: str, call: m.Call, receive: Receiver, stream: Stream | None = None) -> Invocation:
        """Accept an invocation: give it to a worker, or queue it.

        Parameters:
            binding: the binding's name.
            call: what the guest is called with.
            receive: takes the answer, after this has returned.
            stream: carries the bodies of a streaming invocation.

        Returns:
            the invocation, which its caller may abandon.

        Raises:
            QueueFull, PoolClosing: it is refused.
            BindingUnavailable: the serving generation has no such guest.
        """
        if self._closing:
            raise self._reject(PoolClosing("the server is shutting down"))
        current = self._leases.current
        entry = current.entries.get(binding) if current is not None else None
        if entry is None or entry.why_failed:
            if binding in self.elsewhere:
                return self.elsewhere[binding].begin(binding, call, receive, stream)
            raise self._unavailable(binding)
        invocation = Invocation(next(self._ids), binding, call, receive, time.monotonic_ns(), self, stream)
        if stream is not None:
            stream.bound(entry.limits.http_body_bytes, head_only=call.http is not None and call.http.method == "HEAD")
        if not self._leases.place(invocation, entry):
            raise self._queue_full()
        if not self._sweeper.sweeping:
            self._sweeper.start()
        return invocation

    def capacity(self, binding: str) -> int:
        """Return how many further invocations of a binding would be accepted now: sent to idle workers or queued.

        It is 1 if `invoke` refuses the binding for another reason, so that the caller learns that reason.
        """
        current = self._leases.current
        entry = current.entries.get(binding) if current is not None else None
        if entry is None and binding in self.elsewhere:
            return self.elsewhere[binding].capacity(binding)
        return 1 if self._closing or entry is None or entry.why_failed else self._leases.capacity(entry)

    def has_room(self, binding: str) -> bool:
        """Return whether `capacity` is more than 0."""
        # Where there is room in the queue, it does not matter what the workers do.
        return (self._leases.queue.free_places(binding) > 0 and binding not in self.elsewhere) or self.capacity(
            binding
        ) > 0

    def has_short_runs(self) -> bool:
        """Return whether a guest is running whose runs are so short that its worker soon waits for the front."""
        current = self._leases.current
        return current is not None and any(entry.running and entry.short for entry in current.entries.values())

    def reject_queue_full(self, binding: str) -> Rejected:
        """Count a rejection that was decided without `invoke`. Return the error for the caller."""
        if binding in self.elsewhere:
            return self.elsewhere[binding].reject_queue_full(binding)
        if not self._leases.idle:
            self._leases.saturated += 1
        return self._queue_full()

    def stats(self) -> PoolStats:
        """Return the statistics for the metrics."""
        now = time.monotonic_ns()
        leases, maintenance, generations = self._leases, self._maintenance, self._generations
        present = [w for w in maintenance.workers.values() if w.generation in generations.all]
        states = Counter(w.state for w in present if w.role is Role.WORKER)
        # Each child at work has an idle worker stand by.
        warm = sum(w.role is Role.CHILD and w.state is WorkerState.BUSY for w in present)
        running = sum(now - w.busy_since_ns for w in leases.busy.values())
        return PoolStats(
            workers_limit=self._settings.workers,
            workers_starting=states[WorkerState.STARTING],
            workers_idle=max(0, states[WorkerState.IDLE] - warm),
            workers_busy=states[WorkerState.BUSY] + warm,
            workers_draining=states[WorkerState.DRAINING] + states[WorkerState.KILLED],
            busy_max=leases.busy_max,
            busy_seconds_total=(leases.busy_ns + running) / 1e9,
            queue_depth=len(leases.queue),
            queue_limit=leases.queue.limit,
            queue_depth_max=leases.queue_max,
            saturated_total=leases.saturated,
            rejected_total=dict(self._rejected),
            workers_spare=generations.surplus(),
            spare_starts_total=self._spares.started,
            worker_starts_total=maintenance.starts_total,
            worker_exits_total=dict(maintenance.exits),
            worker_boot_seconds=maintenance.boot_seconds,
            redelivered_total=leases.redelivered,
            broker_restarts_total=maintenance.broker.restarts,
            wall=generations.current.wall if generations.current else dict.fromkeys(Layer, False),
            warm=self._warm.stats(),
            generation=generations.current.number if generations.current else 0,
            bindings={
                name: BindingLoad(entry.held, entry.share, leases.queue.waiting(name))
                for name, entry in (leases.current.entries if leases.current is not None else {}).items()
            },
        )

    async def drain(self, timeout_s: float) -> bool:
        """Accept no more invocations and finish those that were accepted.

        Parameters:
            timeout_s: after this time, waiting invocations are rejected and running ones are cancelled.

        Returns:
            True if all finished by themselves.
        """
        self._closing = True
        leases = self._leases
        end = time.monotonic() + timeout_s
        while (leases.busy or len(leases.queue)) and time.monotonic() < end:  # noqa: ASYNC110 - bounded, once per server
            await asyncio.sleep(SWEEP_S)
        clean = not leases.busy and not len(leases.queue)
        for invocation in leases.queue.clear():
            invocation.answer(self._reject(PoolClosing("the server shut down before its turn came")))
        for worker in list(leases.busy.values()):
            for invocation in worker.inflight:
                detail = "the server shut down before the invocation was over"
                invocation.answer(m.Result(id=invocation.id, outcome=Outcome.CANCELLED, detail=detail))
            self._maintenance.kill(worker, ExitReason.SHUTDOWN)
        return clean

    async def close(self) -> None:
        """End every worker and zygote. Call `drain` first."""
        self._closing = True
        await self._generations.close()

    # ------------------------------------------------------------------------------------------------------------------

    def _holding(self, max_concurrency: int, bindings: int) -> Holding:
        if max_concurrency:
            return Holding(max_concurrency, max_concurrency, max_concurrency)
        workers = self._settings.workers
        share = max(1, math.floor(workers * self._settings.max_binding_share)) if bindings > 1 else workers
        # Where nobody may wait, others would be refused before a spare worker is there: nothing is lent.
        limit = workers if self._settings.queue_limit else share
        return Holding(share, limit, limit * (1 + self._settings.look_ahead))

    def abandon(self, invocation: Invocation) -> None:
        """Cancel an invocation whose caller has gone away."""
        if invocation.worker_serial:
            self._delivery.abandon(invocation)
        else:
            self._leases.queue.remove(invocation)

    def _expire(self, late: Invocation, now_ns: int) -> None:
        """Answer an invocation that has waited until its deadline or for the queue timeout."""
        if now_ns >= late.call.deadline_ns:
            detail = "the deadline passed while waiting for a worker"
            late.answer(m.Result(id=late.id, outcome=Outcome.DEADLINE_EXCEEDED, detail=detail))
        else:
            waited = f"no worker became free within {self._settings.queue_timeout_s:g} s"
            late.answer(self._reject(QueueTimeout(waited)))

    def _hand_over(self, invocation: Invocation) -> None:
        """Give an invocation whose binding is here no more to the pool that it has now. Refuse it if there is none."""
        pool = self.elsewhere.get(invocation.binding)
        if pool is None:
            invocation.answer(self._unavailable(invocation.binding))
        else:
            pool.take_over(invocation)

    def _queue_full(self) -> Rejected:
        queue = self._leases.queue
        if len(queue) < queue.limit:
            return self._reject(BindingShareReached("as many invocations of the binding wait as its share allows"))
        return self._reject(QueueFull("as many invocations are waiting for a worker as may wait"))

    def _reject(self, refusal: Rejected) -> Rejected:
        self._rejected[refusal.reason] += 1
        return refusal

    def _unavailable(self, binding: str) -> BindingUnavailable:
        current = self._leases.current
        if current is None:
            return BindingUnavailable(binding, "the server is still loading its guests", loading=True)
        entry = current.entries.get(binding)
        return BindingUnavailable(binding, entry.why_failed if entry else "it is not loaded", loading=False)


def _settle(future: "asyncio.Future[m.Result]", answer: m.Result | Exception) -> None:
    """Give a future the answer to an invocation, unless its task was cancelled meanwhile."""
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
