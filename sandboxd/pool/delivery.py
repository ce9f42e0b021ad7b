"""Delivers the answers of invocations that workers have: results, losses, and work that goes to another worker."""

import time
from collections.abc import Callable

import msgspec

from sandboxd.outcome import Outcome
from sandboxd.pool import faults
from sandboxd.pool.generation import LONG_NS, GuestEntry
from sandboxd.pool.invocation import Invocation
from sandboxd.pool.lease import Leases, entry_of
from sandboxd.pool.maintenance import Maintenance
from sandboxd.pool.spares import Spares
from sandboxd.pool.state import ExitReason, WorkerState
from sandboxd.pool.stream import FromGuest
from sandboxd.pool.warm import Warm
from sandboxd.pool.worker import Role, Worker
from sandboxd.wire import messages as m
from sandboxd.wire.codec import ProtocolError

LOSSES_MAX = 3
"""An invocation that so many workers in a row had as their next one when they ended is answered as lost."""

_NOT_BEGUN = "spoke for an invocation that it had not begun"


class Delivery:
    """Answers each invocation that a worker has, exactly once. It implements WorkerEvents and PoolEvents.

    Parameters:
        maintenance: ends and retires workers.
        leases: who runs what.
        warm: the templates and their children.
        spares: the workers beyond those that the pool keeps.
        recycle_after: a worker ends after so many runs; 0 for never.
        hand_over: takes an invocation whose binding is not in the serving generation.
    """

    def __init__(
        self,
        maintenance: Maintenance,
        leases: Leases,
        warm: Warm,
        spares: Spares,
        *,
        recycle_after: int,
        hand_over: Callable[[Invocation], None],
    ) -> None:
        self._maintenance = maintenance
        self._leases = leases
        self._warm = warm
        self._spares = spares
        self._recycle_after = recycle_after
        self._hand_over = hand_over

    def __repr__(self) -> str:
        return f"<Delivery of {self._leases!r}>"

    def abandon(self, invocation: Invocation) -> None:
        """Cancel an invocation that a worker has, and whose caller has gone away."""
        worker = self._leases.busy.get(invocation.worker_serial)
        if worker is None or worker.state not in (WorkerState.BUSY, WorkerState.DRAINING):
            return  # the worker is dead or dying
        if invocation in worker.inflight:
            if worker.revoke(invocation):
                self._leases.end_lease(worker, entry_of(worker, invocation))
            else:
                self._maintenance.kill(worker, ExitReason.CANCELLED)

    def redeliver(self, worker: Worker, invocation: Invocation, *, held: bool = False) -> None:
        """Give an invocation that its worker did not begin to another worker.

        Parameters:
            held: whether it was the next one of a worker that had to be killed, or died. The worker may have run it
                without saying so; this must not be repeated for ever.
        """
        if held:
            invocation.losses += 1
            if invocation.losses >= LOSSES_MAX:
                self._leases.end_lease(worker, entry_of(worker, invocation))
                detail = f"{invocation.losses} worker processes in a row ended with it unread"
                invocation.answer(m.Result(id=invocation.id, outcome=Outcome.WORKER_LOST, detail=detail))
                return
        if not self._leases.redeliver(worker, invocation):
            self._hand_over(invocation)

    # WorkerEvents -----------------------------------------------------------------------------------------------------

    def on_ready(self, worker: Worker) -> None:
        """Pass READY on to maintenance."""
        self._maintenance.on_ready(worker)

    def on_result(self, worker: Worker, result: m.Result) -> None:
        """Answer the caller. The result must be that of the oldest invocation in flight at the worker."""
        if not worker.inflight or worker.inflight[0].id != result.id:
            self._maintenance.on_channel_lost(worker, f"answered invocation {result.id}, which was not its next")
            return
        now = time.monotonic_ns()
        invocation = worker.inflight[0]
        entry = entry_of(worker, invocation)
        fault = self._fault(worker, invocation, entry, result, now)
        if fault:
            self._disbelieve(worker, invocation, fault)
            return
        # The struct is frozen for all other code. A copy would cost more than this whole step.
        msgspec.structs.force_setattr(result, "queue_ns", invocation.sent_ns - invocation.queued_ns)
        worker.answered(now)
        self._leases.end_lease(worker, entry)
        if worker.role is Role.CHILD:
            self._warm.on_served(worker)
            self._end_child(worker)
            invocation.answer(result)
            return
        took_ns = result.guest_ns + result.instantiate_ns
        if result.outcome is Outcome.DEADLINE_EXCEEDED:
            # Its full duration is unknown: after a long wait in the queue it may have had no time at all.
            took_ns = max(took_ns, LONG_NS)
        entry.observe(took_ns)
        recycle_after = self._recycle_after
        if result.retire or (recycle_after and worker.served >= recycle_after):
            self._maintenance.retire(worker, ExitReason.RECYCLED)
        # The worker first: it then has its next work while the answer is written.
        if worker.state is WorkerState.BUSY:
            self._leases.dispatch_to(worker, now)
        else:
            self._next_work(worker, now)
        invocation.answer(result)

    def on_skipped(self, worker: Worker, invocation_id: int) -> None:
        """Take note of a skipped frame: one that was taken back, or whose revocation and start coincided."""
        try:
            invocation = worker.skipped(invocation_id)
        except ProtocolError as error:
            self._maintenance.on_channel_lost(worker, str(error))
            return
        if invocation is not None:
            self.redeliver(worker, invocation)
        if worker.role is Role.CHILD:
            self._end_child(worker)
            return
        self._next_work(worker, time.monotonic_ns())
        self._leases.dispatch_to_idle()

    def on_streamed(self, worker: Worker, message: FromGuest) -> None:
        """Pass on a frame of a streaming invocation, which must be the one in flight at the worker."""
        head = worker.inflight[0] if worker.inflight else None
        if head is None or head.id != message.id or head.stream is None:
            wrong = f"sent {type(message).__name__} for invocation {message.id}, which does not stream there"
            self._maintenance.on_channel_lost(worker, wrong)
            return
        wrong = head.stream.take(worker, message) if worker.has_begun(head) else _NOT_BEGUN
        if wrong:
            self._disbelieve(worker, head, wrong)

    def on_template(self, worker: Worker, message: m.Parked | m.NotParked) -> None:
        """Take note of whether a template's guest is parked."""
        if isinstance(message, m.Parked):
            wrong = self._warm.on_parked(worker, message)
        else:
            wrong = self._warm.on_not_parked(worker, message)
        if wrong:
            self._maintenance.on_channel_lost(worker, wrong)

    def on_channel_lost(self, worker: Worker, why: str) -> None:
        """Pass the loss of a worker's socket on to maintenance."""
        self._maintenance.on_channel_lost(worker, why)

    # PoolEvents -------------------------------------------------------------------------------------------------------

    def on_worker_ready(self, worker: Worker) -> None:
        """List a worker as idle, if its generation serves already."""
        if worker.role is Role.CHILD:
            self._warm.on_child_ready(worker)
            self._leases.dispatch_to_idle()
            return
        self._leases.add(worker)

    def on_worker_unusable(self, worker: Worker) -> None:
        """Give a worker no more work. One that is killed loses what it has not begun; one that drains finishes it."""
        self._leases.unlist(worker)
        if worker.role is not Role.WORKER:
            self._warm.on_unusable(worker)
        if worker.state is not WorkerState.DRAINING:
            head = worker.inflight[0] if worker.inflight else None
            for invocation in reversed(list(worker.inflight)):
                if worker.revoke(invocation):
                    self.redeliver(worker, invocation, held=invocation is head)
                elif invocation.stream is not None:
                    invocation.stream.close()  # otherwise a slow caller would hide the worker's end
            self._leases.dispatch_to_idle()

    def on_worker_gone(self, worker: Worker, why: str) -> None:
        """Answer for a dead worker: what it had begun is lost and not repeated, the rest runs elsewhere."""
        self._leases.remove(worker)
        if worker.role is not Role.WORKER:
            self._warm.on_gone(worker)
        head = worker.inflight[0] if worker.inflight else None
        for invocation in reversed(list(worker.inflight)):
            if worker.has_begun(invocation):
                self._leases.end_lease(worker, entry_of(worker, invocation))
                detail = f"the worker process running it {why}"
                invocation.answer(m.Result(id=invocation.id, outcome=Outcome.WORKER_LOST, detail=detail))
            else:
                self.redeliver(worker, invocation, held=invocation is head)
        worker.inflight.clear()
        self._leases.dispatch_to_idle()

    def on_spare_failed(self) -> None:
        """Fork no more spare workers for a while."""
        self._spares.failed()

    # ------------------------------------------------------------------------------------------------------------------

    def _fault(self, worker: Worker, invocation: Invocation, entry: GuestEntry, result: m.Result, now_ns: int) -> str:
        """Return what is wrong with a result; empty if nothing is."""
        if not worker.has_begun(invocation):
            return _NOT_BEGUN
        stream = invocation.stream
        if stream is not None and result.outcome is Outcome.COMPLETED:
            fault = stream.incomplete()
            if fault:
                return fault
        span_ns = now_ns - invocation.sent_ns
        return faults.of_result(result, entry.limits, entry.rules, span_ns, streams=stream is not None)

    def _disbelieve(self, worker: Worker, invocation: Invocation, fault: str) -> None:
        """Answer for an invocation whose worker has sent a frame with a fault, and have the worker killed.

        The invocation may have run, whatever the status page says: it is not repeated.
        """
        worker.leave(invocation)
        self._leases.end_lease(worker, entry_of(worker, invocation))
        detail = f"the worker process running it {fault}"
        invocation.answer(m.Result(id=invocation.id, outcome=Outcome.WORKER_LOST, detail=detail))
        self._maintenance.on_channel_lost(worker, fault)

    def _end_child(self, child: Worker) -> None:
        """End a template's child whose invocation is over."""
        self._leases.end_child(child)
        if child.state is WorkerState.DRAINING:
            self._maintenance.end_drained(child)
        else:
            self._maintenance.retire(child, ExitReason.RECYCLED)
        self._leases.dispatch_to_idle()

    def _next_work(self, worker: Worker, now_ns: int) -> None:
        if worker.state is WorkerState.BUSY:
            self._leases.dispatch_to(worker, now_ns)
        elif worker.state is WorkerState.DRAINING and not worker.inflight:
            self._leases.set_idle(worker, now_ns)
            self._maintenance.end_drained(worker)
            self._leases.dispatch_to_idle()  # fewer are at work: a spare worker may be what is waited for
