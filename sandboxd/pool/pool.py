"""The pool: takes invocations, gives each to exactly one worker, answers every caller exactly once."""

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import msgspec

from sandboxd.errors import SandboxdError
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, PoolClosing, QueueFull, QueueTimeout, Rejected
from sandboxd.pool.generation import LONG_NS
from sandboxd.pool.invocation import Invocation
from sandboxd.pool.lease import Leases
from sandboxd.pool.maintenance import Maintenance
from sandboxd.pool.polling import Polling
from sandboxd.pool.settings import PoolSettings
from sandboxd.pool.state import WorkerState
from sandboxd.pool.stats import PoolStats
from sandboxd.pool.stream import FromGuest, Stream
from sandboxd.pool.worker import Worker
from sandboxd.wire import messages as m
from sandboxd.wire.codec import ProtocolError

SWEEP_S = 0.01
"""Between sweeps while something waits that a sweep may set going."""
CALM_SWEEP_S = 0.05
"""Between sweeps while only deadlines are to be watched: a sweep costs the front about as much as a request."""
GRACE_NS = 200_000_000
"""A worker that has not answered this long after its invocation's deadline is killed: at most 250 ms with the sweep."""
BLOCKED_NS = 5_000_000
"""After a worker has run one invocation for this long, the next sweep takes back what waits in its socket."""


class Pool:
    """Workers, and who waits for them. Everything happens on one event loop, in synchronous steps.

    Parameters:
        settings: sizes and times.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._leases = Leases(settings.queue_limit, settings.look_ahead, Polling(settings.polling))
        self._maintenance = Maintenance(settings.workers, self, self)
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._rejected: Counter[str] = Counter()
        self._sweeping = False
        self._closing = False
        self._loading = asyncio.Lock()
        """One generation is started at a time: that asked for last is the one that serves in the end."""

    def __repr__(self) -> str:
        return f"<Pool of {self._settings.workers} {self._leases!r}>"

    @property
    def failure(self) -> "asyncio.Future[SandboxdError]":
        """Completes if the pool can no longer replace workers."""
        return self._maintenance.failure

    async def load(
        self, load: m.Load, max_concurrency: Mapping[str, int], required: AbstractSet[str] = frozenset()
    ) -> tuple[tuple[str, str], ...]:
        """Start a generation with these guests, warm it up, and let it take over. Also how a reload is done.

        Parameters:
            load: engine, outbound settings and guests.
            max_concurrency: per binding; 0 or absent means the pool's share rule alone.
            required: bindings without which the generation must not take over.

        Returns:
            (binding, why) for guests that could not be loaded; calls to them are answered BindingUnavailable.

        Raises:
            ZygoteError, SandboxdError: nothing was changed; a former generation serves on.
        """
        async with self._loading:
            names = [spec.binding for spec in load.guests]
            generation, failed = await self._maintenance.start(
                load,
                {name: self._sent_limits(max_concurrency.get(name, 0), len(names)) for name in names},
                required,
            )
            self._maintenance.promote(generation)
            share = self._settings.max_binding_share if len(names) > 1 else 1.0
            self._leases.queue.line_limit = math.ceil(self._settings.queue_limit * share)
            for invocation in self._leases.swap(generation):
                self._refuse(invocation, self._unavailable(invocation.binding))
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
        stream: Stream | None = None,
    ) -> m.Result:
        """Run a guest once. Cancelling the awaiting task cancels the invocation.

        Parameters:
            binding: its name.
            args: argv without argv[0].
            env: variables on top of the operator's.
            stdin: all of it.
            deadline_ns: CLOCK_MONOTONIC instant by which it must be over, waiting included.
            http: for guests that handle requests.
            stream: through it the response flows; closed when the invocation is over.

        Raises:
            QueueFull, QueueTimeout, PoolClosing: no worker could be had.
            BindingUnavailable: no such guest in the serving generation.
        """
        if self._closing:
            raise self._reject(PoolClosing("the server is shutting down"))
        current = self._leases.current
        entry = current.entries.get(binding) if current is not None else None
        if entry is None or entry.why_failed:
            raise self._unavailable(binding)
        invocation = Invocation(
            next(self._ids),
            binding,
            self._loop.create_future(),
            deadline_ns,
            args,
            env,
            stdin,
            http,
            time.monotonic_ns(),
            stream,
        )
        if not self._leases.place(invocation, entry):
            raise self._queue_full()
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)
        try:
            return await invocation.future
        except asyncio.CancelledError:
            self._abandon(invocation)
            raise
        finally:
            if stream is not None:
                stream.close()

    def room(self, binding: str) -> int:
        """How many further invocations of a binding would be taken now: by idle workers, or to wait.

        For what `invoke` refuses for another reason there is always room: to be told the reason.
        """
        current = self._leases.current
        entry = current.entries.get(binding) if current is not None else None
        return 1 if self._closing or entry is None or entry.why_failed else self._leases.room(entry)

    def brisk(self) -> bool:
        """Whether a guest is running that takes so little time that its worker soon waits for the front."""
        current = self._leases.current
        return current is not None and any(entry.running and entry.short for entry in current.entries.values())

    def turn_away(self) -> Rejected:
        """Count a refusal for want of room that was decided without `invoke`; the error to answer it with."""
        self._leases.saturated += 1
        return self._queue_full()

    def stats(self) -> PoolStats:
        """A reading for the metrics."""
        now = time.monotonic_ns()
        leases, maintenance = self._leases, self._maintenance
        states = Counter(w.state for g in maintenance.generations for w in g.workers.values())
        running = sum(now - w.busy_since_ns for w in leases.busy.values())
        return PoolStats(
            workers_limit=self._settings.workers,
            workers_starting=states[WorkerState.STARTING],
            workers_idle=states[WorkerState.IDLE],
            workers_busy=states[WorkerState.BUSY],
            workers_draining=states[WorkerState.DRAINING] + states[WorkerState.KILLED],
            busy_max=leases.busy_max,
            busy_seconds_total=(leases.busy_ns + running) / 1e9,
            queue_depth=len(leases.queue),
            queue_limit=leases.queue.limit,
            queue_depth_max=leases.queue_max,
            saturated_total=leases.saturated,
            rejected_total=dict(self._rejected),
            worker_starts_total=maintenance.starts_total,
            worker_exits_total=dict(maintenance.exits),
            worker_boot_seconds=maintenance.boot_seconds,
            redelivered_total=leases.redelivered,
            generation=maintenance.current.number if maintenance.current else 0,
        )

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing more and finish what was taken.

        Parameters:
            timeout_s: after this, what still waits is rejected and what still runs is ended as cancelled.

        Returns:
            True if everything finished by itself.
        """
        self._closing = True
        leases = self._leases
        end = time.monotonic() + timeout_s
        while (leases.busy or len(leases.queue)) and time.monotonic() < end:  # noqa: ASYNC110 - bounded, once per server
            await asyncio.sleep(SWEEP_S)
        clean = not leases.busy and not len(leases.queue)
        for invocation in leases.queue.clear():
            self._refuse(invocation, self._reject(PoolClosing("the server shut down before its turn came")))
        for worker in list(leases.busy.values()):
            for invocation in worker.inflight:
                detail = "the server shut down before the invocation was over"
                invocation.answer(m.Result(id=invocation.id, outcome=Outcome.CANCELLED, detail=detail))
            self._maintenance.kill(worker, "shutdown")
        return clean

    async def close(self) -> None:
        """End every worker and zygote. Call `drain` before."""
        self._closing = True
        await self._maintenance.close()

    # what workers say -------------------------------------------------------------------------------------------------

    def on_ready(self, worker: Worker) -> None:
        """READY arrived."""
        self._maintenance.on_ready(worker)

    def on_result(self, worker: Worker, result: m.Result) -> None:
        """An answer arrived; it must be to the oldest invocation in flight there."""
        if not worker.inflight or worker.inflight[0].id != result.id:
            self._maintenance.on_channel_lost(worker, f"answered invocation {result.id}, which was not its next")
            return
        now = time.monotonic_ns()
        invocation = worker.inflight.popleft()
        worker.head_since_ns = now
        worker.settle(invocation)
        worker.served += 1
        entry = self._leases.let_go(worker, invocation)
        took_ns = result.guest_ns + result.instantiate_ns
        if result.outcome is Outcome.DEADLINE_EXCEEDED:
            # How long it would have taken nobody knows: after a long wait for a worker it may have had no time at all.
            took_ns = max(took_ns, LONG_NS)
        entry.observe(took_ns)
        # The struct is frozen for everyone else; copying it would cost more than the whole step.
        msgspec.structs.force_setattr(result, "queue_ns", invocation.sent_ns - invocation.queued_ns)
        invocation.answer(result)
        recycle_after = self._settings.recycle_after
        if result.retire or (recycle_after and worker.served >= recycle_after):
            self._maintenance.retire(worker, "recycled")
        self._go_on(worker, now)

    def on_skipped(self, worker: Worker, invocation_id: int) -> None:
        """It left out a frame we had taken back, or both sides let go of at once."""
        try:
            invocation = worker.skipped(invocation_id)
        except ProtocolError as error:
            self._maintenance.on_channel_lost(worker, str(error))
            return
        if invocation is not None:
            self._redeliver(worker, invocation)
        self._go_on(worker, time.monotonic_ns())
        self._leases.feed_idle()

    def on_streamed(self, worker: Worker, message: FromGuest) -> None:
        """Something of a streaming invocation arrived; it must be the one in flight there."""
        head = worker.inflight[0] if worker.inflight else None
        if head is None or head.id != message.id or head.stream is None:
            wrong = f"sent {type(message).__name__} for invocation {message.id}, which does not stream there"
        else:
            wrong = head.stream.take(worker, message)
        if wrong:
            self._maintenance.on_channel_lost(worker, wrong)

    def on_channel_lost(self, worker: Worker, why: str) -> None:
        """Its socket is of no use any more."""
        self._maintenance.on_channel_lost(worker, why)

    # what maintenance says --------------------------------------------------------------------------------------------

    def on_worker_ready(self, worker: Worker) -> None:
        """It may get work, if its generation serves already."""
        self._leases.join(worker)

    def on_worker_unusable(self, worker: Worker) -> None:
        """No more work for it. One that is to die gives back what it has not begun; one that drains finishes it."""
        self._leases.sit_out(worker)
        if worker.state is not WorkerState.DRAINING:
            for invocation in reversed(list(worker.inflight)):
                if worker.revoke(invocation):
                    self._redeliver(worker, invocation)
                elif invocation.stream is not None:
                    invocation.stream.close()  # or a slow caller would keep its end from being noticed
            self._leases.feed_idle()

    def on_worker_gone(self, worker: Worker, why: str) -> None:
        """It is dead. What it had begun is lost and not repeated; what it never began runs elsewhere."""
        self._leases.leave(worker)
        for invocation in reversed(list(worker.inflight)):
            if worker.has_begun(invocation):
                self._leases.let_go(worker, invocation)
                detail = f"the worker process running it {why}"
                invocation.answer(m.Result(id=invocation.id, outcome=Outcome.WORKER_LOST, detail=detail))
            else:
                self._redeliver(worker, invocation)
        worker.inflight.clear()
        self._leases.feed_idle()

    # ------------------------------------------------------------------------------------------------------------------

    def _sent_limits(self, max_concurrency: int, bindings: int) -> tuple[int, int]:
        if max_concurrency:
            return max_concurrency, max_concurrency
        share = self._settings.max_binding_share if bindings > 1 else 1.0
        workers = max(1, math.ceil(self._settings.workers * share))
        return workers, workers * (1 + self._settings.look_ahead)

    def _go_on(self, worker: Worker, now_ns: int) -> None:
        if worker.state is WorkerState.BUSY:
            self._leases.feed(worker, now_ns)
        elif worker.state is WorkerState.DRAINING and not worker.inflight:
            self._leases.rest(worker, now_ns)
            self._maintenance.dismiss(worker)

    def _abandon(self, invocation: Invocation) -> None:
        """Its caller went away."""
        worker = invocation.worker
        if worker is None:
            self._leases.queue.remove(invocation)
        elif worker.state in (WorkerState.BUSY, WorkerState.DRAINING) and invocation in worker.inflight:
            if worker.revoke(invocation):
                self._leases.let_go(worker, invocation)
            else:
                self._maintenance.kill(worker, "cancelled")

    def _sweep(self) -> None:
        """Enforce what no event announces: deadlines passed, waits too long, work stuck behind a long run."""
        try:
            self._sweep_once()
        finally:
            # Even after a failure, which the loop reports: without sweeps no deadline would count any more.
            if self._leases.busy or len(self._leases.queue):
                self._loop.call_later(SWEEP_S if self._leases.waits() else CALM_SWEEP_S, self._sweep)
            else:
                self._sweeping = False

    def _sweep_once(self) -> None:
        now = time.monotonic_ns()
        for worker in list(self._leases.busy.values()):
            if worker.stalled(now):
                self._maintenance.kill(worker, "stalled")
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
        for late in self._leases.queue.take_expired(
            lambda one: now >= one.deadline_ns or now - one.queued_ns >= patience_ns
        ):
            self._give_up(late, now)
        self._leases.feed_idle()

    def _give_up(self, late: Invocation, now_ns: int) -> None:
        """It waited until its deadline, or longer than may be waited."""
        if now_ns >= late.deadline_ns:
            detail = "the deadline passed while waiting for a worker"
            late.answer(m.Result(id=late.id, outcome=Outcome.DEADLINE_EXCEEDED, detail=detail))
        else:
            waited = f"no worker became free within {self._settings.queue_timeout_s:g} s"
            self._refuse(late, self._reject(QueueTimeout(waited)))

    def _redeliver(self, worker: Worker, invocation: Invocation) -> None:
        if not self._leases.redeliver(worker, invocation):
            self._refuse(invocation, self._unavailable(invocation.binding))

    def _refuse(self, invocation: Invocation, error: Exception) -> None:
        if not invocation.future.done():
            invocation.future.set_exception(error)

    def _queue_full(self) -> Rejected:
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
