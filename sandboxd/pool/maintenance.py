"""Maintenance of the workers: spawns, retires, kills and removes them, and finds out how each has ended."""

import asyncio
import errno
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Protocol

import msgspec

from sandboxd.broker.client import BrokerClient
from sandboxd.pool.generation import Generation
from sandboxd.pool.state import ExitReason, WorkerEvent, WorkerState
from sandboxd.pool.worker import Role, Worker, WorkerEvents
from sandboxd.wire import messages as m
from sandboxd.zygote import hardening
from sandboxd.zygote.client import ZygoteClient

log = logging.getLogger("sandboxd.pool")

BOOT_TIMEOUT_S = 10.0
"""A worker that has not sent READY after this time is killed."""
EXIT_TIMEOUT_S = 2.0
"""A worker that has not ended this long after its socket was closed is killed."""
REAP_TIMEOUT_S = 10.0
"""If a killed worker is not reaped after this time, the zygote, which reaps, counts as dead."""

_UNEXPECTED = (ExitReason.BOOT_FAILED, ExitReason.KILLED, ExitReason.CRASHED, ExitReason.PROTOCOL)
_LIVE = (WorkerState.STARTING, WorkerState.IDLE, WorkerState.BUSY)


class PoolEvents(Protocol):
    """Receives the starts and ends of workers, for the invocations."""

    def on_worker_ready(self, worker: Worker) -> None:
        """The worker may get work."""

    def on_worker_unusable(self, worker: Worker) -> None:
        """The worker gets no more work. The invocations that it has not begun go to other workers."""

    def on_worker_gone(self, worker: Worker, why: str) -> None:
        """The worker is dead. The invocation that it had begun is lost."""

    def on_spare_failed(self) -> None:
        """A worker beyond those that the pool keeps did not start."""


class GenerationEvents(Protocol):
    """Receives the starts and ends of workers, for the number of workers."""

    def on_worker_started(self, worker: Worker) -> None:
        """A worker has become READY."""

    def on_worker_ending(self, worker: Worker) -> None:
        """A worker was retired or killed. It has not ended yet."""

    def on_worker_ended(self, worker: Worker, why: str) -> None:
        """A worker, template or child has ended and is forgotten."""

    def on_zygote_lost(self, client: ZygoteClient) -> None:
        """A zygote has died."""


class Maintenance:
    """Owns the workers and the egress broker. It implements ZygoteEvents and BrokerEvents."""

    _generations: GenerationEvents
    _pool_events: PoolEvents
    _worker_events: WorkerEvents

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        """All workers that are not reaped yet, by serial."""
        self.closing = False
        """Whether the server ends. Workers are then no longer expected to start."""
        self.starts_total = 0
        self.exits: Counter[ExitReason] = Counter()
        self.boot_seconds = 0.0
        self._serial = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.broker = BrokerClient(self, hardening.environment(os.environ))

    def __repr__(self) -> str:
        return f"<Maintenance of {len(self.workers)} workers>"

    def report_to(self, generations: GenerationEvents, pool_events: PoolEvents, worker_events: WorkerEvents) -> None:
        """Say, before the first worker is spawned, who is told of workers.

        Parameters:
            generations: is told when workers start and end.
            pool_events: is told when workers can be used and when not.
            worker_events: receives the workers' messages.
        """
        self._generations = generations
        self._pool_events = pool_events
        self._worker_events = worker_events

    def workers_of(self, generation: Generation) -> list[Worker]:
        """Return a generation's workers, templates and children that are not reaped yet."""
        return [worker for worker in self.workers.values() if worker.generation is generation]

    def live_workers_of(self, generation: Generation) -> list[Worker]:
        """Return a generation's workers that start, idle or work."""
        return [w for w in self.workers_of(generation) if w.role is Role.WORKER and w.state in _LIVE]

    def spawn(self, generation: Generation) -> Worker:
        """Start a worker."""
        self.starts_total += 1
        worker = self._new(generation, Role.WORKER, BOOT_TIMEOUT_S)
        generation.client.spawn(worker.serial)
        return worker

    def spawn_template(self, generation: Generation, order: m.SpawnTemplate) -> Worker:
        """Start a template. See `sandboxd.pool.warm.Processes`."""
        worker = self._new(generation, Role.TEMPLATE, order.boot_ms / 1000 + BOOT_TIMEOUT_S)
        generation.client.spawn_template(msgspec.structs.replace(order, serial=worker.serial))
        return worker

    def spawn_child(self, template: Worker) -> Worker:
        """Have a template forked. See `sandboxd.pool.warm.Processes`."""
        worker = self._new(template.generation, Role.CHILD, BOOT_TIMEOUT_S)
        template.generation.client.spawn_child(worker.serial, template.serial)
        return worker

    def retire(self, worker: Worker, reason: ExitReason | None) -> None:
        """Let a worker finish what is in flight and then end. Its replacement starts now."""
        if worker.state in (WorkerState.KILLED, WorkerState.GONE, WorkerState.DRAINING):
            return
        was_starting = worker.state is WorkerState.STARTING
        worker.exit_reason = reason
        worker.advance(WorkerEvent.RETIRE)
        self._pool_events.on_worker_unusable(worker)
        if not worker.inflight and not was_starting:
            self.end_drained(worker)
        self._generations.on_worker_ending(worker)

    def end_drained(self, worker: Worker) -> None:
        """Close the socket of a draining worker with nothing in flight; it then ends by itself."""
        worker.disconnect()
        if worker.exited:
            # It was reaped before its socket was read to the end, which now nobody does.
            self._remove(worker, worker.exited)
        elif worker.generation.lost:
            worker.kill_orphan()
            self._remove(worker, "lost with the zygote")
        else:
            asyncio.get_running_loop().call_later(EXIT_TIMEOUT_S, self._check_ended, worker)

    def kill(self, worker: Worker, reason: ExitReason | None) -> None:
        """Kill a worker. Its replacement starts before it is reaped."""
        if worker.state in (WorkerState.KILLED, WorkerState.GONE):
            return
        was_starting = worker.state is WorkerState.STARTING
        worker.exit_reason = reason
        worker.advance(WorkerEvent.KILL)
        self._pool_events.on_worker_unusable(worker)
        if worker.generation.lost:
            worker.kill_orphan()
            self._remove(worker, "was killed")
            return
        worker.generation.client.kill(worker.serial)
        asyncio.get_running_loop().call_later(REAP_TIMEOUT_S, self._check_reaped, worker)
        if not was_starting:
            # One that never became ready is replaced when it is reaped, after a growing delay.
            self._generations.on_worker_ending(worker)

    async def end_all(self, generation: Generation) -> None:
        """End a generation's zygote and with it all of its workers."""
        for worker in self.workers_of(generation):
            if not worker.exit_reason:
                worker.exit_reason = ExitReason.SHUTDOWN if self.closing else ExitReason.RELOAD
            worker.disconnect()
        await generation.client.close()
        self.broker.forget(generation.number)
        for worker in self.workers_of(generation):
            # The zygote has killed them, unless it had to be killed itself.
            worker.kill_orphan()
            self._remove(worker, "ended with its generation")

    def remove_orphans(self, generation: Generation) -> None:
        """Kill the workers of a lost zygote that cannot be at work. The others finish first."""
        for worker in self.workers_of(generation):
            at_work = worker.state in (WorkerState.IDLE, WorkerState.BUSY, WorkerState.DRAINING) and worker.connected
            if not at_work:
                worker.kill_orphan()
                self._remove(worker, worker.exited or "was lost with the zygote")

    def run(self, work: Coroutine[None, None, None]) -> None:
        """Run something in a task that `close` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for the tasks and end the broker. Every generation was ended before."""
        # Among them are those that end former generations. Cancelling one would leave a hung zygote behind.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.broker.close()

    # ZygoteEvents -----------------------------------------------------------------------------------------------------

    def on_spawned(
        self,
        serial: int,
        pid: int,
        channel: socket.socket,
        page_fd: int,
        pidfd: int,
        broker: socket.socket | None = None,
    ) -> None:
        """Adopt a new worker process."""
        worker = self.workers[serial]
        if broker is not None:
            worker.place = self.broker.attach(serial, worker.generation.number, broker)
        try:
            worker.adopt(pid, page_fd, pidfd)
        except OSError as error:
            log.error("%s (pid %d) cannot be used: %s", worker.name, pid, error)
            worker.out_of_descriptors = error.errno in (errno.EMFILE, errno.ENFILE)
            channel.close()
            self.kill(worker, ExitReason.BOOT_FAILED)
        else:
            self.run(worker.connect(channel))

    def on_spawn_failed(self, serial: int, detail: str) -> None:
        """Count a worker that could not be forked as a failed start."""
        worker = self.workers[serial]
        if worker.role is not Role.CHILD:
            log.error("%s could not be forked: %s", worker.name, detail)
        elif worker.state is WorkerState.STARTING:
            # Its template has most likely just ended, which is logged itself; requests run cold.
            log.info("%s could not be forked: %s", worker.name, detail)
        worker.exit_reason = ExitReason.BOOT_FAILED
        self._remove(worker, f"could not be forked: {detail}")

    def on_spawned_without_descriptors(self, serial: int, pid: int) -> None:
        """Kill a new worker whose descriptors this process could not receive."""
        log.error(
            "worker %d (pid %d) cannot be used: this process has too many open files (see ulimit -n)", serial, pid
        )
        worker = self.workers[serial]
        worker.pid = pid
        worker.out_of_descriptors = True
        self.kill(worker, ExitReason.BOOT_FAILED)

    def on_exited(self, serial: int, status: int) -> None:
        """Record how a worker ended that was reaped."""
        worker = self.workers[serial]
        if not worker.exit_reason:
            unread = worker.connected or worker.connecting
            if worker.role is Role.TEMPLATE and worker.state is WorkerState.STARTING and status == 0 and unread:
                # It ends by itself once it has said that its guest was not parked.
                worker.exit_reason = ExitReason.RECYCLED
            elif worker.state is WorkerState.STARTING:
                worker.exit_reason = ExitReason.BOOT_FAILED
            elif worker.role is Role.CHILD and worker.state is WorkerState.BUSY and status == 0:
                # It ends by itself once it has answered. The answer may still be in its socket.
                worker.exit_reason = ExitReason.RECYCLED
            else:
                worker.exit_reason = ExitReason.KILLED if status == -signal.SIGKILL else ExitReason.CRASHED
        end = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        if worker.exit_reason in _UNEXPECTED:
            log.error("%s (pid %d) %s after %d invocations", worker.name, worker.pid, end, worker.served)
        worker.exited = worker.fault or end
        if not (worker.connected or worker.connecting):
            # Otherwise results may still be in its socket; end-of-file follows them.
            self._remove(worker, worker.exited)

    def on_zygote_lost(self, client: ZygoteClient) -> None:
        """Pass it on: it concerns a whole generation."""
        self._generations.on_zygote_lost(client)

    # BrokerEvents -----------------------------------------------------------------------------------------------------

    def binding_run_by(self, serial: int, invocation: int) -> str | None:
        """Return the binding for which a worker runs an invocation now; None if it does not."""
        worker = self.workers.get(serial)
        if worker is None or not worker.inflight or worker.inflight[0].id != invocation:
            return None
        return worker.inflight[0].binding

    def on_broker_reports_fault(self, serial: int, what: str) -> None:
        """Kill a worker that broke the broker's protocol."""
        worker = self.workers.get(serial)
        if worker is not None:
            self.on_channel_lost(worker, f"sent {what}")

    def on_broker_out_of_descriptors(self, serial: int) -> None:
        """Replace a worker that the broker cannot serve, once it has done what it was given."""
        worker = self.workers.get(serial)
        if worker is not None:
            log.error(
                "worker %d (pid %d) cannot call out: the egress broker has too many open files (see ulimit -n)",
                serial,
                worker.pid,
            )
            self.retire(worker, ExitReason.BOOT_FAILED)

    # from workers, through the pool -----------------------------------------------------------------------------------

    def on_ready(self, worker: Worker) -> None:
        """Make a worker that has sent READY usable."""
        if worker.state is WorkerState.DRAINING:
            if not worker.inflight:
                self.end_drained(worker)
            return
        if worker.state is not WorkerState.STARTING or worker.role is Role.TEMPLATE:
            return  # a template that runs is of no use before its guest is parked
        worker.advance(WorkerEvent.READY)
        if worker.role is Role.CHILD:
            self._pool_events.on_worker_ready(worker)
            return
        self.boot_seconds = (time.monotonic_ns() - worker.asked_ns) / 1e9
        self._generations.on_worker_started(worker)
        self._pool_events.on_worker_ready(worker)

    def on_channel_lost(self, worker: Worker, why: str) -> None:
        """Kill a worker whose socket has closed or carries a protocol error. The reap that follows tells how it ended.

        Parameters:
            worker: the worker.
            why: the protocol error; empty if the socket has closed.
        """
        if why and worker.state not in (WorkerState.KILLED, WorkerState.GONE):
            log.error("%s (pid %d) %s", worker.name, worker.pid, why)
            worker.fault = why
            worker.exit_reason = ExitReason.PROTOCOL
            worker.disconnect()  # ignore everything else that it has sent
        if worker.exited:
            self._remove(worker, worker.fault or worker.exited)
            return
        if worker.state in (WorkerState.KILLED, WorkerState.GONE):
            return
        if worker.generation.lost:
            worker.kill_orphan()
            self._remove(worker, why or "died")
            return
        if why:
            self.kill(worker, ExitReason.PROTOCOL)
        else:
            # Its exit status tells why it died. Only a failed start is known already.
            self.kill(worker, ExitReason.BOOT_FAILED if worker.state is WorkerState.STARTING else worker.exit_reason)

    # ------------------------------------------------------------------------------------------------------------------

    def _new(self, generation: Generation, role: Role, boot_timeout_s: float) -> Worker:
        self._serial += 1
        worker = Worker(self._serial, generation, self._worker_events, role)
        self.workers[worker.serial] = worker
        asyncio.get_running_loop().call_later(boot_timeout_s, self._check_boot, worker, boot_timeout_s)
        return worker

    def _check_boot(self, worker: Worker, timeout_s: float) -> None:
        if worker.state is WorkerState.STARTING and not self.closing:
            log.error("%s did not become ready within %.0f s", worker.name, timeout_s)
            self.kill(worker, ExitReason.BOOT_FAILED)
        elif worker.state is WorkerState.DRAINING and worker.connected and not worker.inflight:
            # It was retired while it started, and never became ready.
            self.kill(worker, worker.exit_reason)

    def _check_ended(self, worker: Worker) -> None:
        if worker.state is WorkerState.DRAINING:
            self.kill(worker, worker.exit_reason)

    def _check_reaped(self, worker: Worker) -> None:
        if worker.state is WorkerState.KILLED and not worker.generation.lost:
            log.error("worker %d (pid %d) was killed and has not been reaped", worker.serial, worker.pid)
            worker.generation.client.end()

    def _remove(self, worker: Worker, why: str) -> None:
        if self.workers.pop(worker.serial, None) is None:
            return
        was_live = worker.state in _LIVE
        worker.advance(WorkerEvent.EXITED)
        if was_live:
            self._pool_events.on_worker_unusable(worker)
        # Templates and their children end as often as their guests run. One that lies is counted in any case.
        if worker.role is Role.WORKER or worker.exit_reason is ExitReason.PROTOCOL:
            self.exits[worker.exit_reason or ExitReason.CRASHED] += 1
        self._pool_events.on_worker_gone(worker, why)
        worker.release()
        self.broker.detach(worker.serial)
        if worker.spare and worker.exit_reason is ExitReason.BOOT_FAILED:
            self._pool_events.on_spare_failed()
        self._generations.on_worker_ended(worker, why)
