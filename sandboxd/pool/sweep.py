"""The pool's sweep: enforces passed deadlines and queue timeouts, and takes back work that waits behind a long run."""

import asyncio
import time
from collections.abc import Callable

from sandboxd.outcome import Outcome
from sandboxd.pool.invocation import Invocation
from sandboxd.pool.lease import Leases
from sandboxd.pool.maintenance import Maintenance
from sandboxd.pool.state import ExitReason
from sandboxd.pool.worker import Worker
from sandboxd.wire import messages as m

SWEEP_S = 0.01
"""The interval of sweeps while an invocation waits that a sweep may send."""
DEADLINE_SWEEP_S = 0.05
"""The interval of sweeps while only deadlines matter: a sweep costs the front about as much as a request."""
GRACE_NS = 200_000_000
"""A worker that has not answered this long after its invocation's deadline is killed: after 250 ms with the sweep."""
BLOCKED_NS = 5_000_000
"""When a worker has run one invocation for this long, the next sweep takes back those that wait in its socket."""


class Sweeper:
    """Sweeps again and again while invocations wait or run, because no event reports that a time has passed.

    Parameters:
        leases: the workers at work, and the queue.
        maintenance: kills workers that are overdue.
        queue_timeout_s: the longest time that an invocation may wait in the queue.
        redeliver: gives an invocation that its worker did not begin to another worker.
        expire: answers an invocation that has waited too long; called with it and the time in nanoseconds.
    """

    def __init__(
        self,
        leases: Leases,
        maintenance: Maintenance,
        queue_timeout_s: float,
        *,
        redeliver: Callable[[Worker, Invocation], None],
        expire: Callable[[Invocation, int], None],
    ) -> None:
        self._leases = leases
        self._maintenance = maintenance
        self._queue_timeout_ns = int(queue_timeout_s * 1e9)
        self._redeliver = redeliver
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self.sweeping = False
        """Whether it sweeps. `start` does nothing then."""

    def __repr__(self) -> str:
        return f"<Sweeper {'sweeping' if self.sweeping else 'idle'}>"

    def start(self) -> None:
        """Sweep from now on, until nothing waits or runs."""
        if not self.sweeping:
            self.sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        try:
            self._sweep_once()
        finally:
            # Also after an error, which the event loop reports: without sweeps no deadline would be enforced.
            if self._leases.busy or len(self._leases.queue):
                self._loop.call_later(SWEEP_S if self._leases.waits() else DEADLINE_SWEEP_S, self._sweep)
            else:
                self.sweeping = False

    def _sweep_once(self) -> None:
        now = time.monotonic_ns()
        for worker in list(self._leases.busy.values()):
            self._check(worker, now)
        for late in self._leases.queue.take_expired(
            lambda one: now >= one.call.deadline_ns or now - one.queued_ns >= self._queue_timeout_ns
        ):
            self._expire(late, now)
        self._leases.dispatch_to_idle()
        self._leases.provide_spares(now)

    def _check(self, worker: Worker, now_ns: int) -> None:
        if worker.stalled(now_ns):
            self._maintenance.kill(worker, ExitReason.STALLED)
        if not worker.inflight:
            return
        head = worker.inflight[0]
        if now_ns > head.call.deadline_ns + GRACE_NS:
            detail = "the guest did not stop at its deadline; its worker was killed"
            head.answer(m.Result(id=head.id, outcome=Outcome.DEADLINE_EXCEEDED, detail=detail))
            self._maintenance.kill(worker, ExitReason.TIMEOUT_KILLED)
        elif len(worker.inflight) > 1 and now_ns - worker.head_since_ns > BLOCKED_NS:
            for invocation in reversed(list(worker.inflight)[1:]):
                if worker.revoke(invocation):
                    self._redeliver(worker, invocation)
