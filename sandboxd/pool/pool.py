"""The pool: takes invocations, gives each to exactly one worker, answers every caller exactly once."""

import asyncio
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sandboxd.errors import SandboxdError
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, PoolClosing, QueueFull, QueueTimeout, Rejected
from sandboxd.pool.generation import GuestEntry
from sandboxd.pool.invocation import Invocation
from sandboxd.pool.maintenance import Maintenance
from sandboxd.pool.state import WorkerEvent, WorkerState
from sandboxd.pool.stats import PoolStats
from sandboxd.pool.waiting import WaitingQueue
from sandboxd.pool.worker import Worker
from sandboxd.wire import messages as m

log = logging.getLogger("sandboxd.pool")

SWEEP_S = 0.01
GRACE_NS = 250_000_000
"""A worker that has not answered this long after its invocation's deadline is killed."""
BLOCKED_NS = 5_000_000
"""After a worker has run one invocation for this long, what waits in its socket is taken back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSettings:
    """How large, and how patient."""

    workers: int
    """Worker processes kept."""
    queue_limit: int = 1024
    """Invocations that may wait for a worker."""
    queue_timeout_s: float = 10.0
    """How long one may wait. Seconds."""
    look_ahead: int = 2
    """Invocations of short-running bindings sent to a busy worker beforehand; 0 switches it off."""
    recycle_after: int = 0
    """Invocations after which a worker is replaced; 0 means never."""
    max_binding_share: float = 0.75
    """Part of the workers that one binding may hold where several are served, in (0, 1], rounded up."""


class Pool:
    """Workers, and who waits for them. Everything happens on one event loop, in synchronous steps.

    Parameters:
        settings: sizes and times.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._queue = WaitingQueue(settings.queue_limit)
        self._idle: list[Worker] = []
        self._busy: dict[int, Worker] = {}
        self._maintenance = Maintenance(settings.workers, self, self)
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._sweeping = False
        self._closing = False
        self._rejected: Counter[str] = Counter()
        self._busy_ns = 0
        self._busy_max = 0
        self._queue_max = 0
        self._saturated = 0
        self._redelivered = 0

    def __repr__(self) -> str:
        return f"<Pool idle={len(self._idle)} busy={len(self._busy)} waiting={len(self._queue)}>"

    @property
    def failure(self) -> "asyncio.Future[SandboxdError]":
        """Completes if the pool can no longer replace workers."""
        return self._maintenance.failure

    async def load(self, load: m.Load, max_concurrency: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
        """Start a generation with these guests, warm it up, and let it take over. Also how a reload is done.

        Parameters:
            load: engine, outbound settings and guests.
            max_concurrency: per binding; 0 or absent means the pool's share rule alone.

        Returns:
            (binding, why) for guests that could not be loaded; calls to them are answered BindingUnavailable.

        Raises:
            ZygoteError, SandboxdError: nothing was changed; a former generation serves on.
        """
        names = [spec.binding for spec in load.guests]
        generation, failed = await self._maintenance.start(
            load, {name: self._sent_limit(max_concurrency.get(name, 0), len(names)) for name in names}
        )
        self._idle.clear()
        self._maintenance.promote(generation)
        self._idle.extend(w for w in generation.workers.values() if w.state is WorkerState.IDLE)
        for invocation in self._queue.clear():
            if invocation.binding in generation.entries:
                self._queue.append(invocation)
            elif not invocation.future.done():
                invocation.future.set_exception(self._unavailable(invocation.binding))
        self._feed_idle()
        return failed

    def ready(self) -> bool:
        """True if at least one worker of the serving generation is up and the pool is not closing."""
        return not self._closing and not self.failure.done() and self._maintenance.ready_workers() > 0

    async def invoke(
        self,
        binding: str,
        *,
        args: tuple[bytes, ...] = (),
        env: tuple[tuple[bytes, bytes], ...] = (),
        stdin: bytes = b"",
        deadline_ns: int,
        http: m.HttpRequest | None = None,
    ) -> m.Result:
        """Run a guest once. Cancelling the awaiting task cancels the invocation.

        Parameters:
            deadline_ns: CLOCK_MONOTONIC instant by which it must be over, waiting included.

        Raises:
            QueueFull, QueueTimeout, PoolClosing: no worker could be had.
            BindingUnavailable: no such guest in the serving generation.
        """
        if self._closing:
            raise self._reject(PoolClosing("the server is shutting down"))
        current = self._maintenance.current
        entry = current.entries.get(binding) if current is not None else None
        if entry is None or entry.why_failed:
            raise self._unavailable(binding)
        now = time.monotonic_ns()
        invocation = Invocation(
            next(self._ids), binding, self._loop.create_future(), deadline_ns, args, env, stdin, http, now
        )
        if not self._idle:
            self._saturated += 1
        worker = self._pick(entry)
        if worker is not None:
            self._send(worker, invocation, entry, now)
        elif self._queue.full():
            raise self._reject(QueueFull(f"{self._queue.limit} invocations are waiting for a worker already"))
        else:
            self._queue.append(invocation)
            self._queue_max = max(self._queue_max, len(self._queue))
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)
        try:
            return await invocation.future
        except asyncio.CancelledError:
            self._abandon(invocation)
            raise

    def stats(self) -> PoolStats:
        """A reading for the metrics."""
        now = time.monotonic_ns()
        workers = [w for g in self._maintenance.generations for w in g.workers.values()]
        states = Counter(w.state for w in workers)
        running = sum(now - w.busy_since_ns for w in self._busy.values())
        return PoolStats(
            workers_limit=self._settings.workers,
            workers_starting=states[WorkerState.STARTING],
            workers_idle=states[WorkerState.IDLE],
            workers_busy=states[WorkerState.BUSY],
            workers_draining=states[WorkerState.DRAINING] + states[WorkerState.KILLED],
            busy_max=self._busy_max,
            busy_seconds_total=(self._busy_ns + running) / 1e9,
            queue_depth=len(self._queue),
            queue_limit=self._queue.limit,
            queue_depth_max=self._queue_max,
            saturated_total=self._saturated,
            rejected_total=dict(self._rejected),
            worker_starts_total=self._maintenance.starts_total,
            worker_exits_total=dict(self._maintenance.exits),
            worker_boot_seconds=self._maintenance.boot_seconds,
            redelivered_total=self._redelivered,
            generation=self._maintenance.current.number if self._maintenance.current else 0,
        )

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing more and finish what was taken.

        Parameters:
            timeout_s: after this, what still waits is rejected and what still runs is ended as cancelled.

        Returns:
            True if everything finished by itself.
        """
        self._closing = True
        end = time.monotonic() + timeout_s
        while (self._busy or len(self._queue)) and time.monotonic() < end:  # noqa: ASYNC110 - bounded, once per server
            await asyncio.sleep(SWEEP_S)
        clean = not self._busy and not len(self._queue)
        for invocation in self._queue.clear():
            if not invocation.future.done():
                invocation.future.set_exception(self._reject(PoolClosing("the server shut down before its turn came")))
        for worker in list(self._busy.values()):
            for invocation in worker.inflight:
                detail = "the server shut down before the invocation was over"
                invocation.answer(m.Result(id=invocation.id, outcome=Outcome.CANCELLED, detail=detail))
            self._maintenance.kill(worker, "shutdown")
        return clean

    async def close(self) -> None:
        """End every worker and zygote. Call `drain` before."""
        self._closing = True
        await self._maintenance.close()

    # leases -----------------------------------------------------------------------------------------------------------

    def _sent_limit(self, max_concurrency: int, bindings: int) -> int:
        if max_concurrency:
            return max_concurrency
        share = self._settings.max_binding_share if bindings > 1 else 1.0
        return max(1, math.ceil(self._settings.workers * share)) * (1 + self._settings.look_ahead)

    def _entry(self, worker: Worker, binding: str) -> GuestEntry:
        return worker.generation.entries[binding]

    def _pick(self, entry: GuestEntry) -> Worker | None:
        """The worker that gets the next invocation: the one idle for the shortest time, or a busy one ahead of time."""
        if entry.running >= entry.limit:
            return None
        if self._idle:
            # Last in, first out: its caches are warm, and the others may sleep.
            return self._idle.pop()
        if not entry.short or not self._settings.look_ahead or len(self._queue):
            return None
        best: Worker | None = None
        for worker in self._busy.values():
            if self._may_look_ahead(worker) and (best is None or len(worker.inflight) < len(best.inflight)):
                best = worker
        return best

    def _may_look_ahead(self, worker: Worker) -> bool:
        if worker.state is not WorkerState.BUSY or not worker.inflight or not worker.room(self._settings.look_ahead):
            return False
        return all(self._entry(worker, ahead.binding).short for ahead in worker.inflight)

    def _send(self, worker: Worker, invocation: Invocation, entry: GuestEntry, now_ns: int) -> None:
        if worker.state is not WorkerState.BUSY:
            worker.advance(WorkerEvent.SENT)
            worker.busy_since_ns = now_ns
            self._busy[worker.serial] = worker
            self._busy_max = max(self._busy_max, len(self._busy))
        if not worker.inflight:
            worker.head_since_ns = now_ns
        entry.running += 1
        invocation.sent_ns = now_ns
        worker.send(invocation, entry.index)

    def _may_run(self, binding: str) -> bool:
        current = self._maintenance.current
        entry = current.entries.get(binding) if current is not None else None
        return entry is not None and entry.running < entry.limit

    def _feed(self, worker: Worker, now_ns: int) -> None:
        """Give a worker that just answered its next work, or rest."""
        while len(self._queue):
            if worker.inflight and not self._may_look_ahead(worker):
                break
            invocation = self._queue.take(self._may_run)
            if invocation is None:
                break
            entry = self._entry(worker, invocation.binding)
            if worker.inflight and not entry.short:
                self._queue.give_back(invocation)
                break
            self._send(worker, invocation, entry, now_ns)
        if not worker.inflight:
            self._rest(worker, now_ns)

    def _rest(self, worker: Worker, now_ns: int) -> None:
        if self._busy.pop(worker.serial, None) is not None:
            self._busy_ns += now_ns - worker.busy_since_ns
        if worker.state is WorkerState.BUSY:
            worker.advance(WorkerEvent.EMPTIED)
            self._idle.append(worker)
        elif worker.state is WorkerState.DRAINING:
            worker.disconnect()

    def _feed_idle(self) -> None:
        now = time.monotonic_ns()
        while self._idle and len(self._queue):
            invocation = self._queue.take(self._may_run)
            if invocation is None:
                return
            worker = self._idle.pop()
            self._send(worker, invocation, self._entry(worker, invocation.binding), now)

    def _let_go(self, worker: Worker, invocation: Invocation) -> None:
        entry = self._entry(worker, invocation.binding)
        entry.running -= 1

    def _redeliver(self, worker: Worker, invocation: Invocation) -> None:
        self._let_go(worker, invocation)
        invocation.worker = None
        if invocation.future.done():
            return
        current = self._maintenance.current
        if current is None or invocation.binding not in current.entries:
            invocation.future.set_exception(self._unavailable(invocation.binding))
            return
        self._redelivered += 1
        invocation.queued_ns = time.monotonic_ns()
        self._queue.give_back(invocation)

    def _abandon(self, invocation: Invocation) -> None:
        """Its caller went away."""
        worker = invocation.worker
        if worker is None:
            self._queue.remove(invocation)
        elif worker.state in (WorkerState.BUSY, WorkerState.DRAINING) and invocation in worker.inflight:
            if worker.revoke(invocation):
                self._let_go(worker, invocation)
            else:
                self._maintenance.kill(worker, "cancelled")

    # what workers say -------------------------------------------------------------------------------------------------

    def on_ready(self, worker: Worker) -> None:
        """READY arrived."""
        self._maintenance.on_ready(worker)

    def on_result(self, worker: Worker, result: m.Result) -> None:
        """An answer arrived; it must be to the oldest invocation in flight there."""
        if not worker.inflight or worker.inflight[0].id != result.id:
            self._maintenance.on_channel_lost(worker, f"answered invocation {result.id}, which it was not asked next")
            return
        now = time.monotonic_ns()
        invocation = worker.inflight.popleft()
        worker.head_since_ns = now
        worker.settle(invocation)
        worker.served += 1
        entry = self._entry(worker, invocation.binding)
        entry.running -= 1
        entry.observe(result.guest_ns + result.instantiate_ns)
        invocation.answer(result)
        if worker.state is WorkerState.BUSY:
            recycle_after = self._settings.recycle_after
            if result.retire or (recycle_after and worker.served >= recycle_after):
                self._maintenance.retire(worker, "recycled")
                if not worker.inflight:
                    self._rest(worker, now)
            else:
                self._feed(worker, now)
        elif worker.state is WorkerState.DRAINING and not worker.inflight:
            self._rest(worker, now)

    def on_skipped(self, worker: Worker, invocation_id: int) -> None:
        """It left out a frame we had taken back, or both sides let go of at once."""
        worker.stale = False
        for invocation in worker.inflight:
            if invocation.id == invocation_id:
                worker.inflight.remove(invocation)
                self._redeliver(worker, invocation)
                break
        now = time.monotonic_ns()
        if worker.state is WorkerState.BUSY:
            self._feed(worker, now)
        elif not worker.inflight:
            self._rest(worker, now)
        self._feed_idle()

    def on_channel_lost(self, worker: Worker, why: str) -> None:
        """Its socket is of no use any more."""
        self._maintenance.on_channel_lost(worker, why)

    # what maintenance says --------------------------------------------------------------------------------------------

    def on_worker_ready(self, worker: Worker) -> None:
        """It may get work, if its generation serves already."""
        if worker.generation is self._maintenance.current:
            self._idle.insert(0, worker)
            self._feed_idle()

    def on_worker_unusable(self, worker: Worker) -> None:
        """Take back what it has not begun; others run it."""
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.state is not WorkerState.DRAINING:
            for invocation in reversed(list(worker.inflight)):
                if worker.revoke(invocation):
                    self._redeliver(worker, invocation)
            self._feed_idle()

    def on_worker_gone(self, worker: Worker, why: str) -> None:
        """It is dead. What it had begun is lost and not repeated; what it never began runs elsewhere."""
        if worker in self._idle:
            self._idle.remove(worker)
        if self._busy.pop(worker.serial, None) is not None:
            self._busy_ns += time.monotonic_ns() - worker.busy_since_ns
        for invocation in reversed(list(worker.inflight)):
            if worker.has_begun(invocation):
                self._let_go(worker, invocation)
                detail = f"the worker process running it {why}"
                invocation.answer(m.Result(id=invocation.id, outcome=Outcome.WORKER_LOST, detail=detail))
            else:
                self._redeliver(worker, invocation)
        worker.inflight.clear()
        self._feed_idle()

    # ------------------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Enforce what no event announces: deadlines passed, waits too long, work stuck behind a long run."""
        now = time.monotonic_ns()
        for worker in list(self._busy.values()):
            if not worker.inflight:
                continue
            head = worker.inflight[0]
            if now > head.deadline_ns + GRACE_NS:
                detail = "the guest did not stop at its deadline; its worker was killed"
                head.answer(m.Result(id=head.id, outcome=Outcome.DEADLINE_EXCEEDED, detail=detail))
                self._maintenance.kill(worker, "timeout_killed")
            elif len(worker.inflight) > 1 and now - worker.head_since_ns > BLOCKED_NS:
                for invocation in reversed(list(worker.inflight)[1:]):
                    if worker.revoke(invocation):
                        self._redeliver(worker, invocation)
        patience_ns = int(self._settings.queue_timeout_s * 1e9)
        for head in self._queue.heads():
            expired = now >= head.deadline_ns
            if not expired and now - head.queued_ns < patience_ns:
                continue
            self._queue.remove(head)
            if expired:
                detail = "the deadline passed while waiting for a worker"
                head.answer(m.Result(id=head.id, outcome=Outcome.DEADLINE_EXCEEDED, detail=detail))
            elif not head.future.done():
                waited = f"no worker became free within {self._settings.queue_timeout_s:g} s"
                head.future.set_exception(self._reject(QueueTimeout(waited)))
        self._feed_idle()
        self._maintenance.sweep(now)
        if self._busy or len(self._queue):
            self._loop.call_later(SWEEP_S, self._sweep)
        else:
            self._sweeping = False

    def _reject(self, refusal: Rejected) -> Rejected:
        self._rejected[refusal.reason] += 1
        return refusal

    def _unavailable(self, binding: str) -> BindingUnavailable:
        current = self._maintenance.current
        if current is None:
            return BindingUnavailable(binding, "the server is still loading its guests", loading=True)
        entry = current.entries.get(binding)
        return BindingUnavailable(binding, entry.why_failed if entry else "it is not loaded", loading=False)
