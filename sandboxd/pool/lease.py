"""Leases: which worker has which invocation. Every step is synchronous; nothing here waits."""

import time
from collections.abc import Container, Iterable
from functools import partial
from typing import Final, Protocol

from sandboxd.pool.generation import SHORT_NS, Generation, GuestEntry
from sandboxd.pool.invocation import Invocation
from sandboxd.pool.polling import Polling
from sandboxd.pool.spares import Spares
from sandboxd.pool.state import WorkerEvent, WorkerState
from sandboxd.pool.waiting import WaitingQueue
from sandboxd.pool.worker import Role, Worker

PATIENCE_NS: Final = 5_000_000
"""A spare worker is forked at once, but not before somebody has waited this long if all that is borrowed is short."""


class WarmStarts(Protocol):
    """Gives invocations to parked children of templates. See `sandboxd.pool.warm.Warm`."""

    def take(self, invocation: Invocation, entry: GuestEntry, now_ns: int) -> Worker | None:
        """Take a parked child."""

    def expects(self, invocation: Invocation, now_ns: int) -> bool:
        """Return whether a child is about to be ready, so that waiting is faster than a cold run."""

    def missed(self, invocation: Invocation) -> None:
        """Count an invocation that runs cold."""


class Leases:
    """The idle and busy workers, and the queue of invocations that wait for them.

    An invocation is in exactly one place: in the queue, or in flight at one worker.

    Parameters:
        queue_limit: the most invocations that may wait.
        look_ahead: the most invocations of short-running bindings that are sent ahead to a busy worker.
        polling: used for invocations that are alone in flight.
        warm: starts guests warm.
        workers: the number of workers that the pool keeps.
        spares: provides more for bindings that others keep waiting.
    """

    def __init__(
        self,
        queue_limit: int,
        look_ahead: int,
        polling: Polling,
        warm: WarmStarts,
        workers: int,
        spares: Spares,
    ) -> None:
        self.queue = WaitingQueue(queue_limit)
        self.idle: list[Worker] = []
        self.busy: dict[int, Worker] = {}
        self.current: Generation | None = None
        """The serving generation: only its workers get work."""
        self.busy_ns = 0
        self.busy_max = 0
        self.queue_max = 0
        self.saturated = 0
        self.redelivered = 0
        self._look_ahead = look_ahead
        self._polling = polling
        self._warm = warm
        self._workers = workers
        self._spares = spares
        self._any_warm = False
        """Whether a guest of the serving generation is started warm."""
        self._children: set[int] = set()
        """The serials of the children at work. Each of them has an idle worker stand by, so that no more invocations
        run at once than there are workers."""

    def __repr__(self) -> str:
        return f"<Leases idle={len(self.idle)} busy={len(self.busy)} waiting={len(self.queue)}>"

    def waits(self) -> bool:
        """Return whether an invocation waits, in the queue or in the socket of a busy worker."""
        return bool(len(self.queue)) or any(len(worker.inflight) > 1 for worker in self.busy.values())

    def place(self, invocation: Invocation, entry: GuestEntry) -> bool:
        """Send an invocation to a worker, or queue it. Return False if the queue is full."""
        if entry.warm is not None:
            return self._place_warm(invocation, entry)
        worker: Worker | None = None
        if len(self.idle) <= len(self._children):
            self.saturated += 1
        elif self._may_have_idle(entry):
            # The last one that was used: its caches are warm, and the others may sleep.
            worker = self.idle.pop()
        if worker is None and invocation.stream is None:
            worker = self._pick_ahead(entry)
        if worker is not None:
            self._send(worker, invocation, entry, invocation.queued_ns)
            return True
        return self._enqueue(invocation, entry)

    def _place_warm(self, invocation: Invocation, entry: GuestEntry) -> bool:
        """As `place`, for a binding that is started warm. Nothing of it is sent ahead to a busy worker."""
        if len(self.idle) <= len(self._children):
            self.saturated += 1
        elif self._may_have_idle(entry) and not self.queue.waiting(entry.binding):
            worker = self._choose(invocation, entry, invocation.queued_ns)
            if worker is not None:
                self._send(worker, invocation, entry, invocation.queued_ns)
                return True
        return self._enqueue(invocation, entry)

    def _choose(self, invocation: Invocation, entry: GuestEntry, now_ns: int) -> Worker | None:
        """Return a child or an idle worker for an invocation; None if it is to wait for a child. A worker is free."""
        if entry.warm is not None:
            if invocation.stream is None and invocation.call.http is None:
                child = self._warm.take(invocation, entry, now_ns)
                if child is not None:
                    self._children.add(child.serial)
                    return child
                if self._warm.expects(invocation, now_ns):
                    return None
            self._warm.missed(invocation)
        return self.idle.pop()

    def _enqueue(self, invocation: Invocation, entry: GuestEntry) -> bool:
        if self.queue.free_places(invocation.binding) <= 0:
            return False
        self.queue.append(invocation)
        self.queue_max = max(self.queue_max, len(self.queue))
        if entry.held < entry.share:
            self.provide_spares(invocation.queued_ns)
        return True

    def provide_spares(self, now_ns: int) -> None:
        """Have workers forked for bindings within their shares that wait, as many as other bindings have borrowed."""
        if not self._spares.borrowed() or len(self.idle) > len(self._children):
            return
        least_ns = PATIENCE_NS if self._spares.short() else 0
        owed = 0
        for binding, waiting in self.queue.bindings():
            entry = self._entry(binding)
            if entry is not None and entry.within_share and now_ns - waiting[0].queued_ns >= least_ns:
                owed += min(len(waiting), entry.share - entry.held)
        if owed:
            self._spares.provide(owed)

    def capacity(self, entry: GuestEntry) -> int:
        """Return how many further invocations of a binding could be sent to idle workers or queued."""
        idle = len(self.idle) - len(self._children)
        free = min(idle, entry.free) if idle > 0 else 0
        if free:
            free = min(free, max(entry.share - entry.held, self._workers - len(self.busy), 0))
        return max(0, self.queue.free_places(entry.binding)) + free

    def swap(self, generation: Generation, workers: Iterable[Worker]) -> list[Invocation]:
        """Let another generation serve from now on.

        Parameters:
            generation: the new one.
            workers: its workers.

        Returns:
            the waiting invocations for which it has no guest; they are no longer in the queue.
        """
        self.current = generation
        self.idle = [worker for worker in workers if worker.state is WorkerState.IDLE]
        self._any_warm = any(entry.warm is not None for entry in generation.entries.values())
        self._children.clear()
        self._spares.forget()
        orphaned = []
        for invocation in self.queue.clear():
            if generation.runs(invocation.binding):
                self.queue.append(invocation)
            else:
                orphaned.append(invocation)
        self.dispatch_to_idle()
        return orphaned

    def dispatch_to(self, worker: Worker, now_ns: int) -> None:
        """Send a worker its next invocations, or list it as idle if there are none."""
        if worker.stale:
            return  # otherwise an invocation that was taken back could be in its socket twice
        if self._any_warm and not worker.inflight:
            self.set_idle(worker, now_ns)
            self.dispatch_to_idle()
            return
        while self.queue.size:
            if not worker.inflight:
                invocation = self._take(len(self.busy) - 1)  # it is one of them
            elif self._may_look_ahead(worker):
                invocation = self.queue.take(partial(self._may_follow, worker))
            else:
                break
            if invocation is None:
                break
            if worker.inflight and invocation.stream is not None:
                # A streaming invocation needs a worker that can begin it at once. It stays first in the queue, so that
                # it cannot starve.
                self.queue.defer(invocation)
                break
            self._send(worker, invocation, worker.generation.entries[invocation.binding], now_ns)
        if not worker.inflight:
            self.set_idle(worker, now_ns)

    def dispatch_to_idle(self) -> None:
        """Send waiting invocations to idle workers. Call it whenever capacity was freed by anything but a result."""
        if not self.idle or not len(self.queue):
            return
        now = time.monotonic_ns()
        held: set[str] = set()
        while len(self.idle) > len(self._children):
            invocation = self._take(len(self.busy), held)
            if invocation is None:
                return
            assert self.current is not None
            entry = self.current.entries[invocation.binding]
            worker = self._choose(invocation, entry, now)
            if worker is None:
                held.add(invocation.binding)
                self.queue.requeue(invocation)
            else:
                self._send(worker, invocation, entry, now)

    def set_idle(self, worker: Worker, now_ns: int) -> None:
        """List a worker with nothing in flight as idle again, unless it is draining."""
        self._leave_busy(worker, now_ns)
        if worker.state is WorkerState.BUSY:
            worker.advance(WorkerEvent.EMPTIED)
            self.idle.append(worker)

    def add(self, worker: Worker) -> None:
        """List a new worker as idle. It is used last, because the caches of the others are warmer."""
        if worker.generation is self.current:
            self.idle.insert(0, worker)
            self.dispatch_to_idle()

    def unlist(self, worker: Worker) -> None:
        """Give a worker no more work. What is in flight at it stays."""
        if worker in self.idle:
            self.idle.remove(worker)

    def end_child(self, child: Worker) -> None:
        """Take a child off the list of those at work: its invocation is over."""
        self._leave_busy(child, time.monotonic_ns())

    def remove(self, worker: Worker) -> None:
        """Remove a worker that is dead."""
        self.unlist(worker)
        self._leave_busy(worker, time.monotonic_ns())

    def end_lease(self, worker: Worker, entry: GuestEntry) -> None:
        """End a lease: one invocation of the binding is no longer in flight at this worker."""
        entry.running -= 1
        left = worker.holding[entry.binding] - 1
        if left:
            worker.holding[entry.binding] = left
        else:
            del worker.holding[entry.binding]
            entry.held -= 1

    def redeliver(self, worker: Worker, invocation: Invocation) -> bool:
        """Put an invocation that its worker did not begin back at the head of its binding's queue.

        Returns:
            False if the serving generation no longer has its guest.
        """
        self.end_lease(worker, entry_of(worker, invocation))
        invocation.worker_serial = 0
        if invocation.over:
            return True
        if self.current is None or not self.current.runs(invocation.binding):
            return False
        self.redelivered += 1
        invocation.queued_ns = time.monotonic_ns()
        invocation.held_ns = 0
        self.queue.requeue(invocation)
        return True

    # ------------------------------------------------------------------------------------------------------------------

    def _take(self, at_work: int, without: Container[str] = ()) -> Invocation | None:
        """Take the next invocation to run out of the queue. Those of bindings within their shares come first.

        Parameters:
            at_work: the number of other workers at work.
            without: the bindings that are passed over.
        """
        found = self.queue.take(lambda binding: binding not in without and self._is_within_share(binding))
        if found is None and at_work < self._workers:
            found = self.queue.take(lambda binding: binding not in without and self._may_run(binding))
        return found

    def _may_have_idle(self, entry: GuestEntry) -> bool:
        """Return whether an idle worker may be given to a binding now."""
        held = entry.held
        return (
            held < entry.limit
            and entry.running < entry.short_limit
            and (held < entry.share or len(self.busy) < self._workers)
        )

    def _pick_ahead(self, entry: GuestEntry) -> Worker | None:
        """Return the busy worker to which one more invocation may be sent ahead; None if it may to none."""
        if not self._look_ahead or self.queue.size or entry.average_ns >= SHORT_NS:
            return None
        best: Worker | None = None
        least = self._look_ahead + 1
        for worker in self.busy.values():
            waiting = len(worker.inflight)
            if waiting < least and entry.may_follow(worker.holding) and self._may_look_ahead(worker):
                best, least = worker, waiting
        return best

    def _may_look_ahead(self, worker: Worker) -> bool:
        if (
            worker.state is not WorkerState.BUSY
            or worker.role is not Role.WORKER
            or not worker.may_accept(self._look_ahead)
            # Nothing may wait behind a streaming invocation.
            or (worker.inflight and worker.inflight[0].stream is not None)
        ):
            return False
        entries = worker.generation.entries
        for binding in worker.holding:  # noqa: SIM110 - a generator would cost more than the loop
            if entries[binding].average_ns >= SHORT_NS:
                return False
        return True

    def _entry(self, binding: str) -> GuestEntry | None:
        return self.current.entries.get(binding) if self.current is not None else None

    def _may_run(self, binding: str) -> bool:
        entry = self._entry(binding)
        return entry is not None and entry.below_limit

    def _is_within_share(self, binding: str) -> bool:
        entry = self._entry(binding)
        return entry is not None and entry.within_share

    def _may_follow(self, worker: Worker, binding: str) -> bool:
        entry = self._entry(binding)
        if entry is None or entry.warm is not None or not entry.may_follow(worker.holding):
            return False
        # What is borrowed is given back as soon as another waits: it is not filled up again.
        return entry.held <= entry.share or not any(self._is_within_share(other) for other, _ in self.queue.bindings())

    def _send(self, worker: Worker, invocation: Invocation, entry: GuestEntry, now_ns: int) -> None:
        if worker.state is not WorkerState.BUSY:
            worker.advance(WorkerEvent.SENT)
            worker.busy_since_ns = now_ns
            self.busy[worker.serial] = worker
            if len(self.busy) > self.busy_max:
                self.busy_max = len(self.busy)
        if not worker.inflight:
            worker.head_since_ns = now_ns
        entry.running += 1
        before = worker.holding.get(entry.binding, 0)
        worker.holding[entry.binding] = before + 1
        if not before:
            entry.held += 1
            if entry.held > entry.share:
                self._spares.note(entry)
        invocation.sent_ns = now_ns
        if worker.inflight or len(self.busy) > 1:
            worker.send(invocation, entry)
        else:
            worker.send(invocation, entry, self._polling.worker_ns(now_ns))
            self._polling.watch(invocation, entry, now_ns)

    def _leave_busy(self, worker: Worker, now_ns: int) -> None:
        if self._children:
            self._children.discard(worker.serial)
        if self.busy.pop(worker.serial, None) is not None:
            self.busy_ns += now_ns - worker.busy_since_ns
            if not self.busy:
                self._polling.quiet(now_ns)


def entry_of(worker: Worker, invocation: Invocation) -> GuestEntry:
    """Return the state of the invocation's binding in the generation of its worker."""
    return worker.generation.entries[invocation.binding]
