"""Leases: which worker runs which invocation. Every step is synchronous; nothing here waits."""

import time
from functools import partial

from sandboxd.pool.generation import Generation, GuestEntry
from sandboxd.pool.invocation import Invocation
from sandboxd.pool.polling import Polling
from sandboxd.pool.state import WorkerEvent, WorkerState
from sandboxd.pool.waiting import WaitingQueue
from sandboxd.pool.worker import Worker


class Leases:
    """Idle and busy workers, and the queue in front of them.

    An invocation is in exactly one place: in the queue, or in flight at one worker.

    Parameters:
        queue_limit: invocations that may wait.
        look_ahead: invocations of short-running bindings sent to a busy worker beforehand.
        polling: for invocations that are alone.
    """

    def __init__(self, queue_limit: int, look_ahead: int, polling: Polling) -> None:
        self.queue = WaitingQueue(queue_limit)
        self.idle: list[Worker] = []
        self.busy: dict[int, Worker] = {}
        self.current: Generation | None = None
        """Only its workers are given work."""
        self.busy_ns = 0
        self.busy_max = 0
        self.queue_max = 0
        self.saturated = 0
        self.redelivered = 0
        self._look_ahead = look_ahead
        self._polling = polling

    def __repr__(self) -> str:
        return f"<Leases idle={len(self.idle)} busy={len(self.busy)} waiting={len(self.queue)}>"

    def waits(self) -> bool:
        """Whether an invocation waits, in the queue or in the socket of a busy worker."""
        return bool(len(self.queue)) or any(len(worker.inflight) > 1 for worker in self.busy.values())

    def place(self, invocation: Invocation, entry: GuestEntry) -> bool:
        """Send it to a worker, or let it wait. False if neither is possible: the queue is full."""
        if not self.idle:
            self.saturated += 1
        worker = self._pick(entry, ahead=invocation.stream is None)
        if worker is not None:
            self._send(worker, invocation, entry, invocation.queued_ns)
            return True
        if self.queue.places(invocation.binding) <= 0:
            return False
        self.queue.append(invocation)
        self.queue_max = max(self.queue_max, len(self.queue))
        return True

    def room(self, entry: GuestEntry) -> int:
        """How many further invocations of a binding would find a worker that is idle, or may wait."""
        free = min(len(self.idle), entry.free) if self.idle else 0
        return max(0, self.queue.places(entry.binding)) + free

    def swap(self, generation: Generation) -> list[Invocation]:
        """Another generation serves from now on.

        Returns:
            waiting invocations it has no guest for; they are in the queue no more.
        """
        self.current = generation
        self.idle = [worker for worker in generation.workers.values() if worker.state is WorkerState.IDLE]
        orphaned = []
        for invocation in self.queue.clear():
            if generation.runs(invocation.binding):
                self.queue.append(invocation)
            else:
                orphaned.append(invocation)
        self.feed_idle()
        return orphaned

    def feed(self, worker: Worker, now_ns: int) -> None:
        """Give a worker that has room its next work, or let it rest."""
        if worker.stale:
            return  # what was taken back might otherwise come to lie in its socket twice
        while len(self.queue):
            if worker.inflight and not self._may_look_ahead(worker):
                break
            invocation = self.queue.take(self._may_run if not worker.inflight else partial(self._may_follow, worker))
            if invocation is None:
                break
            if worker.inflight and invocation.stream is not None:
                # What streams begins at once where it is sent. Nothing overtakes it, or it would wait for ever.
                self.queue.put_off(invocation)
                break
            self._send(worker, invocation, entry_of(worker, invocation), now_ns)
        if not worker.inflight:
            self.rest(worker, now_ns)

    def feed_idle(self) -> None:
        """Give idle workers what waits. Needed whenever something other than a result made room."""
        if not self.idle or not len(self.queue):
            return
        now = time.monotonic_ns()
        while self.idle:
            invocation = self.queue.take(self._may_run)
            if invocation is None:
                return
            worker = self.idle.pop()
            self._send(worker, invocation, entry_of(worker, invocation), now)

    def rest(self, worker: Worker, now_ns: int) -> None:
        """It has nothing in flight: idle again, unless it is on its way out."""
        self._leave_busy(worker, now_ns)
        if worker.state is WorkerState.BUSY:
            worker.advance(WorkerEvent.EMPTIED)
            self.idle.append(worker)

    def join(self, worker: Worker) -> None:
        """A new worker is up. It goes to the end of the line: the others' caches are warmer."""
        if worker.generation is self.current:
            self.idle.insert(0, worker)
            self.feed_idle()

    def sit_out(self, worker: Worker) -> None:
        """No more work for it; what is in flight there stays."""
        if worker in self.idle:
            self.idle.remove(worker)

    def leave(self, worker: Worker) -> None:
        """It is gone."""
        self.sit_out(worker)
        self._leave_busy(worker, time.monotonic_ns())

    def let_go(self, worker: Worker, invocation: Invocation) -> GuestEntry:
        """The invocation is no longer in flight at this worker."""
        entry = entry_of(worker, invocation)
        entry.running -= 1
        left = worker.holding[entry.binding] - 1
        if left:
            worker.holding[entry.binding] = left
        else:
            del worker.holding[entry.binding]
            entry.held -= 1
        return entry

    def redeliver(self, worker: Worker, invocation: Invocation) -> bool:
        """Give an invocation that its worker did not begin to another one, before all that wait.

        Returns:
            False if the serving generation cannot run such a guest any more.
        """
        self.let_go(worker, invocation)
        invocation.worker = None
        if invocation.future.done():
            return True
        if self.current is None or not self.current.runs(invocation.binding):
            return False
        self.redelivered += 1
        invocation.queued_ns = time.monotonic_ns()
        self.queue.give_back(invocation)
        return True

    # ------------------------------------------------------------------------------------------------------------------

    def _pick(self, entry: GuestEntry, *, ahead: bool) -> Worker | None:
        if self.idle and entry.has_room:
            # Last in, first out: its caches are warm, and the others may sleep.
            return self.idle.pop()
        if not ahead or not self._look_ahead or not entry.short or len(self.queue):
            return None
        best: Worker | None = None
        for worker in self.busy.values():
            if best is not None and len(worker.inflight) >= len(best.inflight):
                continue
            if entry.may_follow(worker) and self._may_look_ahead(worker):
                best = worker
        return best

    def _may_look_ahead(self, worker: Worker) -> bool:
        if worker.state is not WorkerState.BUSY or not worker.room(self._look_ahead):
            return False
        if worker.inflight and worker.inflight[0].stream is not None:
            return False  # it is alone there: nothing is sent ahead to follow it, nor is it sent ahead
        entries = worker.generation.entries
        return all(entries[binding].short for binding in worker.holding)

    def _may_run(self, binding: str) -> bool:
        entry = self.current.entries.get(binding) if self.current is not None else None
        return entry is not None and entry.has_room

    def _may_follow(self, worker: Worker, binding: str) -> bool:
        entry = self.current.entries.get(binding) if self.current is not None else None
        return entry is not None and entry.may_follow(worker)

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
        invocation.sent_ns = now_ns
        if worker.inflight or len(self.busy) > 1:
            worker.send(invocation, entry.index)
        else:
            worker.send(invocation, entry.index, self._polling.worker_ns(now_ns))
            self._polling.watch(invocation.future, entry, now_ns)

    def _leave_busy(self, worker: Worker, now_ns: int) -> None:
        if self.busy.pop(worker.serial, None) is not None:
            self.busy_ns += now_ns - worker.busy_since_ns
            if not self.busy:
                self._polling.quiet(now_ns)


def entry_of(worker: Worker, invocation: Invocation) -> GuestEntry:
    """What is known of the invocation's binding in the generation of the worker it is at."""
    return worker.generation.entries[invocation.binding]
