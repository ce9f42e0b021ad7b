"""Warm starts: gives invocations to parked children of templates, and keeps the processes that `templates` decides on.

See docs/warm-starts.md for what it is good for, and `sandboxd.worker.template` for the processes.
"""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from hostfuncs import texts
from sandboxd.errors import printable
from sandboxd.log import fields
from sandboxd.outcome import Outcome
from sandboxd.pool.generation import Generation, GuestEntry
from sandboxd.pool.invocation import Invocation
from sandboxd.pool.state import ExitReason, WorkerEvent, WorkerState
from sandboxd.pool.template import Key, Miss, Template, TemplateState
from sandboxd.pool.templates import Templates
from sandboxd.pool.worker import BYTES_MAX, Role, Worker
from sandboxd.wire import messages as m

log = logging.getLogger("sandboxd.pool")

PATIENCE_NS: Final = 50_000_000
"""An invocation that may run waits at most so long for a child that is being forked, where a cold run takes longer."""
POINTS: Final = {"stdin": "reads stdin", "request": "makes a request", "ready": "is ready"}
"""The points at which a template may report its guest as parked (`hostfuncs.running.parking.ParkPoint`), in words."""

_TRACE: Final = frozenset((b"TRACEPARENT", b"TRACESTATE", b"BAGGAGE"))
"""The variables of the trace context, which differ from request to request."""


class Processes(Protocol):
    """Starts and ends the processes of templates. `Maintenance` is one."""

    def spawn_template(self, generation: Generation, order: m.SpawnTemplate) -> Worker:
        """Start a template. The serial of the order is filled in."""

    def spawn_child(self, template: Worker) -> Worker:
        """Have a template forked."""

    def retire(self, worker: Worker, reason: ExitReason | None) -> None:
        """Let a process finish what is in flight and then end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStats:
    """Gauges are present values; the others count since the start."""

    templates: Mapping[TemplateState, int] = field(default_factory=dict)
    children: int = 0
    """The children that are parked."""
    template_bytes: int = 0
    """The memory that the templates have touched."""
    child_bytes: int = 0
    """The memory that the parked children have touched."""
    boot_seconds: float = 0.0
    """The time that the guest of the latest template took to be parked."""
    hits: Mapping[str, int] = field(default_factory=dict)
    """Invocations that were started warm, by binding."""
    misses: Mapping[tuple[str, Miss], int] = field(default_factory=dict)
    """Invocations that ran cold, by binding and reason."""


class Warm:
    """The warm starts of one pool. It implements `sandboxd.pool.templates.Actions`.

    Parameters:
        processes: starts and ends processes.
        memory_bytes: what all templates together may touch.
    """

    def __init__(self, processes: Processes, memory_bytes: int) -> None:
        self._processes = processes
        self._memory_bytes = memory_bytes
        self._generation: Generation | None = None
        self._table: Templates[Worker] = Templates(self, memory_bytes)
        self._of: dict[int, Template[Worker]] = {}
        """The template of each process and child, by serial."""
        self._running: dict[int, Worker] = {}
        """The process of each template, by the template's identity."""
        self._starting: set[int] = set()
        """The serials of the children that are not ready yet."""

        self._boot_seconds = 0.0
        self._hits: Counter[str] = Counter()
        self._misses: Counter[tuple[str, Miss]] = Counter()

    def __repr__(self) -> str:
        return f"<Warm {self._table!r}>"

    def serve(self, generation: Generation) -> None:
        """Start the guests of this generation from now on. The templates of the former one end."""
        self._table.retire_all()
        self._generation = generation
        self._table = Templates(self, self._memory_bytes)
        warm = {name for name, entry in generation.entries.items() if entry.warm is not None}
        self._hits = Counter({name: self._hits[name] for name in warm})
        self._misses = Counter({pair: count for pair, count in self._misses.items() if pair[0] in warm})

    def take(self, invocation: Invocation, entry: GuestEntry, now_ns: int) -> Worker | None:
        """Take a parked child for an invocation; None if it is to run cold, or to wait (see `expects`)."""
        assert entry.warm is not None
        if self._generation is None or self._generation.lost:
            return None
        found = self._table.take(_key(invocation), entry.warm, entry.limit, now_ns)
        if isinstance(found, Worker):
            self._hits[invocation.binding] += 1
            invocation.miss = ""
            return found
        invocation.miss = found
        return None

    def expects(self, invocation: Invocation, now_ns: int) -> bool:
        """Return whether an invocation had better wait for a child that is being forked than run cold.

        It may run now. How long it has waited for that does not count: otherwise all would run cold when many wait,
        which is when a cold run costs most.
        """
        if not self._table.expects_child(_key(invocation)):
            return False
        if not invocation.held_ns:
            invocation.held_ns = now_ns
        return now_ns - invocation.held_ns < PATIENCE_NS

    def missed(self, invocation: Invocation) -> None:
        """Count an invocation that runs cold."""
        self._misses[invocation.binding, Miss(invocation.miss or Miss.UNFIT)] += 1

    def stats(self) -> WarmStats:
        """Return the statistics for the metrics."""
        templates = list(self._table)
        parked = [child for template in templates for child in template.ready]
        states = Counter(template.state for template in templates)
        return WarmStats(
            templates={state: states[state] for state in TemplateState if state is not TemplateState.RETIRED},
            children=len(parked),
            template_bytes=self._table.private_bytes,
            child_bytes=sum(child.private_bytes for child in parked),
            boot_seconds=self._boot_seconds,
            hits=dict(self._hits),
            misses=dict(self._misses),
        )

    # Actions ----------------------------------------------------------------------------------------------------------

    def boot(self, template: Template[Worker]) -> None:
        """See Actions."""
        assert self._generation is not None
        entry = self._generation.entries[template.key.binding]
        order = m.SpawnTemplate(
            serial=0,
            guest=entry.index,
            args=template.key.args,
            env=template.key.env,
            boot_ms=entry.limits.timeout_ms,
        )
        process = self._processes.spawn_template(self._generation, order)
        self._of[process.serial] = template
        self._running[id(template)] = process

    def fork(self, template: Template[Worker]) -> None:
        """See Actions."""
        child = self._processes.spawn_child(self._running[id(template)])
        self._of[child.serial] = template
        self._starting.add(child.serial)

    def end(self, template: Template[Worker]) -> None:
        """See Actions."""
        process = self._running.pop(id(template), None)
        if process is not None:
            self._processes.retire(process, ExitReason.RECYCLED)

    def end_child(self, child: Worker) -> None:
        """See Actions."""
        self._processes.retire(child, ExitReason.RECYCLED)

    # from processes ---------------------------------------------------------------------------------------------------

    def on_parked(self, process: Worker, message: m.Parked) -> str:
        """Take note that a guest is parked. Return what is wrong with the message; empty if nothing is."""
        span_ns = time.monotonic_ns() - process.asked_ns
        if process.role is not Role.TEMPLATE or process.state is not WorkerState.STARTING:
            return "told that it was parked, which it cannot be"
        if message.at not in POINTS or not 0 <= message.boot_ns <= span_ns or not 0 <= message.cpu_ns <= BYTES_MAX:
            return "told of a start that cannot be"
        if not 0 <= message.private_bytes <= BYTES_MAX:
            return "told of memory that cannot be"
        process.advance(WorkerEvent.READY)
        template = self._of[process.serial]
        if self._running.get(id(template)) is not process:
            return ""  # it was given up meanwhile
        self._boot_seconds = message.boot_ns / 1e9
        log.info(
            "a template of %s is parked after %.0f ms: its guest %s",
            template.key.binding,
            message.boot_ns / 1e6,
            POINTS[message.at],
            extra=fields(event="template", binding=template.key.binding),
        )
        if not self._table.on_parked(template, message.private_bytes, message.cpu_ns):
            log.warning(
                "a template of %s takes %d bytes, more than pool.warmMemory: its invocations run cold",
                template.key.binding,
                message.private_bytes,
                extra=fields(event="template", binding=template.key.binding),
            )
            self._table.on_failed(template, time.monotonic_ns(), hopeless=True)
        return ""

    def on_not_parked(self, process: Worker, message: m.NotParked) -> str:
        """Take note that a guest was not parked. Return what is wrong with the message; empty if nothing is."""
        if process.role is not Role.TEMPLATE or process.state is not WorkerState.STARTING:
            return "told that it was not parked, which it cannot tell"
        template = self._of[process.serial]
        if self._running.get(id(template)) is process:
            did = "ended" if message.outcome is Outcome.COMPLETED else f"ended ({message.outcome})"
            detail = printable(texts.bounded(message.detail))
            log.warning(
                "%s is not started warm with these arguments: its guest %s before it read stdin or made a request%s",
                template.key.binding,
                did,
                f": {detail}" if detail else "",
                extra=fields(event="template", binding=template.key.binding),
            )
            self._table.on_failed(template, time.monotonic_ns(), hopeless=True)
        return ""

    def on_child_ready(self, child: Worker) -> None:
        """Take over a parked child."""
        self._starting.discard(child.serial)
        now = time.monotonic_ns()
        template = self._of[child.serial]
        if not self._table.on_child_ready(template, child):
            self._processes.retire(child, ExitReason.RECYCLED)
        elif not self._table.pays(template, child.start_cpu_ns):
            log.info(
                "%s is not started warm with these arguments: its guest starts within %.1f ms of processor time, "
                "and a copy of it takes %.1f ms to be ready, besides its fork and its end",
                template.key.binding,
                template.boot_cpu_ns / 1e6,
                child.start_cpu_ns / 1e6,
                extra=fields(event="template", binding=template.key.binding),
            )
            self._table.on_failed(template, now, hopeless=True, why=Miss.QUICK)

    def on_unusable(self, process: Worker) -> None:
        """Take note that a template or child ends, or is lost."""
        template = self._of.get(process.serial)
        if template is None:
            return
        now = time.monotonic_ns()
        if process.role is Role.TEMPLATE:
            if self._running.get(id(template)) is process:
                del self._running[id(template)]
                self._table.on_failed(template, now)
            return
        started = process.serial not in self._starting
        self._starting.discard(process.serial)
        if self._table.on_child_lost(template, process, started=started):
            self._table.on_failed(template, now)

    def on_gone(self, process: Worker) -> None:
        """Forget a template or child that has ended."""
        self._of.pop(process.serial, None)

    def on_served(self, child: Worker) -> None:
        """Take note of a result."""
        self._table.on_served(self._of[child.serial])


def _key(invocation: Invocation) -> Key:
    call = invocation.call
    env = call.env
    if env:
        env = tuple(variable for variable in env if variable[0] not in _TRACE)
    return Key(invocation.binding, call.args, env)
