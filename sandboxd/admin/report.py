"""The report of one front about itself. `sandboxd.admin.document` makes one document from the reports of all cells.

Reports are sent only between cells of the same server and version.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec

from sandboxd.admin.history import History, ServerPoint, Track
from sandboxd.components.binding import Binding
from sandboxd.metrics import BindingMetrics, Metrics
from sandboxd.metrics.journal import FailureNote
from sandboxd.metrics.process import LoopLag
from sandboxd.metrics.totals import outcomes
from sandboxd.pool.pools import Pools
from sandboxd.pool.stats import BindingLoad, PoolStats
from sandboxd.pool.status import WorkerStatus, workers_of

_BINDINGS_AT_ONCE: Final = 25
_WORKERS_AT_ONCE: Final = 16
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class BindingReport(msgspec.Struct, kw_only=True):
    """One binding in one front. The counts are those since the front's start. Times are in seconds."""

    name: str
    ready: bool = True
    why: str = ""
    """The reason why it cannot be called; empty if it can."""
    abi: str = ""
    digest: str = ""
    timeout_ms: int = 0
    memory_limit: int = 0
    now: int = 0
    limit: int = 0
    queue: int = 0
    outcomes: dict[str, int] = {}
    runs: int = 0
    wait: list[int] = []
    """Runs by the bucket of their wait for a worker."""
    guest_s: float = 0.0
    cpu_s: float = 0.0
    memory_peak: int = 0
    stdin_bytes: float = 0.0
    stdout_bytes: float = 0.0
    outbound: int = 0
    denied: int = 0
    denied_hosts: dict[str, int] = {}
    limits: dict[str, int] = {}
    failures: tuple[FailureNote, ...] = ()
    track: Track = msgspec.field(default_factory=Track)


class WorkerReport(msgspec.Struct, kw_only=True):
    """One worker."""

    status: WorkerStatus
    rss_bytes: int = 0
    cpu_s: float = 0.0


class PoolReport(msgspec.Struct, kw_only=True):
    """One pool; see `sandboxd.pool.stats.PoolStats`."""

    idle: int = 0
    busy: int = 0
    starting: int = 0
    draining: int = 0
    limit: int = 0
    busy_s: float = 0.0
    queue: int = 0
    queue_limit: int = 0
    queue_max: int = 0
    saturated: int = 0
    rejected: dict[str, int] = {}
    starts: int = 0
    exits: dict[str, int] = {}
    redelivered: int = 0
    broker_restarts: int = 0
    generation: int = 0
    wall: dict[str, bool] = {}


class Report(msgspec.Struct, kw_only=True):
    """One front."""

    cell: int = 0
    pid: int
    at: float
    began: float
    missing: tuple[str, ...] = ()
    waits_for: str = ""
    reload_ok: bool = True
    reload_at: float = 0.0
    reload_error: str = ""
    rss_bytes: int = 0
    fds: int = 0
    lag_s: float = 0.0
    server: tuple[ServerPoint, ...] = ()
    pools: dict[str, PoolReport] = {}
    workers: tuple[WorkerReport, ...] = ()
    bindings: tuple[BindingReport, ...] = ()
    unnamed: BindingReport
    """The requests that named no binding."""
    warm: dict[str, float] = {}


class Guest(Protocol):
    """The guest of a binding. `sandboxd.modules.prepare.PreparedGuest` is one."""

    @property
    def binding(self) -> Binding: ...
    @property
    def abi(self) -> Any: ...
    @property
    def digest(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def cached(self) -> bool: ...


class ServerView(Protocol):
    """The parts of the server's state that the reporter reads."""

    def guests(self) -> Iterable[Guest]:
        """Return the guests of all bindings that were prepared."""

    def failed(self) -> Mapping[str, str]:
        """Return the reason for each binding that could not be loaded."""

    def reload_error(self) -> str:
        """Return why the latest reload was refused; empty if it was not."""

    def own_not_ready(self) -> list[str]:
        """Return the conditions that this front still waits for."""

    def waits_for(self) -> str:
        """Return in words what this front waits for."""


class Reporter:
    """Makes the reports of one front.

    Parameters:
        server: the state of the server.
        metrics, pools: the front's.
        lag: measures the lag of its event loop.
        cell: the cell's number; 0 without cells.
    """

    def __init__(self, server: ServerView, metrics: Metrics, pools: Pools, lag: LoopLag, cell: int = 0) -> None:
        self._server = server
        self._metrics = metrics
        self._pools = pools
        self._lag = lag
        self._cell = cell
        self._began = time.time()
        self.history = History(metrics.bindings, self._figures)

    def __repr__(self) -> str:
        return f"<Reporter of cell {self._cell}>"

    def _figures(self) -> tuple[float, float, int, float]:
        stats = self._pools.all_stats().values()
        busy = sum(one.busy_seconds_total for one in stats)
        return busy, time.thread_time(), sum(one.queue_depth for one in stats), self._lag.take_worst()

    async def report(self) -> Report:
        """Return a report of the present state. It is made in pieces, and the event loop serves requests in between."""
        metrics, server = self._metrics, self._server
        stats = self._pools.all_stats()
        state = metrics.state
        return Report(
            cell=self._cell,
            pid=os.getpid(),
            at=time.time(),
            began=self._began,
            missing=tuple(server.own_not_ready()),
            waits_for=server.waits_for(),
            reload_ok=state.loaded_ok,
            reload_at=state.loaded_at,
            reload_error=server.reload_error(),
            rss_bytes=_rss(os.getpid()),
            fds=_open_descriptors(),
            lag_s=self._lag.latest,
            server=tuple(self.history.server),
            pools={label: _pool(one) for label, one in stats.items()},
            workers=await self._workers(),
            bindings=await self._bindings(stats),
            unnamed=BindingReport(
                name="",
                outcomes=outcomes(metrics.binding("")),
                failures=metrics.journal.failures_of("") if metrics.journal is not None else (),
            ),
            warm=self._warm(),
        )

    def _warm(self) -> dict[str, float]:
        """Return all gauges and counters of warm starts, by their names without `sandboxd_`."""
        return {
            sample.name.removeprefix("sandboxd_"): sample.value
            for metric in self._metrics.pool_metrics()
            if "_warm_" in metric.name and metric.type in ("gauge", "counter")
            for sample in metric.samples
        }

    async def _workers(self) -> tuple[WorkerReport, ...]:
        found = []
        for number, status in enumerate(workers_of(self._pools), 1):
            found.append(WorkerReport(status=status, rss_bytes=_rss(status.pid), cpu_s=_cpu_s(status.pid)))
            if number % _WORKERS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return tuple(found)

    async def _bindings(self, stats: Mapping[str, PoolStats]) -> tuple[BindingReport, ...]:
        loads: dict[str, BindingLoad] = {}
        for one in stats.values():
            loads.update(one.bindings)
        guests = {guest.binding.name: guest for guest in self._server.guests()}
        failed = self._server.failed()
        metrics = self._metrics
        totals = {
            "outbound": metrics.outbound.sums("binding"),
            "denied": metrics.denied.sums("binding"),
        }
        limits: dict[str, dict[str, int]] = {}
        for (binding, key), counter in metrics.limits.children():
            limits.setdefault(binding, {})[key] = int(counter.value)
        reports = []
        for number, name in enumerate(sorted({*guests, *failed}), 1):
            guest = guests.get(name)
            report = BindingReport(name=name, ready=name not in failed, why=failed.get(name, ""))
            if guest is not None:
                report.abi, report.digest = str(guest.abi), guest.digest
                report.timeout_ms = guest.binding.limits.timeout_ms
                report.memory_limit = guest.binding.limits.memory_bytes
            load = loads.get(name)
            if load is not None:
                report.now, report.limit, report.queue = load
            report.outbound, report.denied = int(totals["outbound"].get(name, 0)), int(totals["denied"].get(name, 0))
            report.limits = limits.get(name, {})
            self._count(report, metrics.binding(name))
            reports.append(report)
            if number % _BINDINGS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return tuple(reports)

    def _count(self, report: BindingReport, metrics: BindingMetrics) -> None:
        report.outcomes = outcomes(metrics)
        runs = metrics.runs()
        report.wait = list(runs["wait"].counts)
        report.runs, report.memory_peak = sum(report.wait), metrics.memory_peak
        report.guest_s, report.stdin_bytes = runs["guest"].sum, runs["stdin"].sum
        report.stdout_bytes, report.cpu_s = runs["stdout"].sum, metrics.cpu_s
        report.track = self.history.of(metrics)
        if metrics.journal is not None:
            report.failures = metrics.journal.failures_of(metrics.name)
            report.denied_hosts = metrics.journal.denied_of(metrics.name)


def _pool(stats: PoolStats) -> PoolReport:
    return PoolReport(
        idle=stats.workers_idle,
        busy=stats.workers_busy,
        starting=stats.workers_starting,
        draining=stats.workers_draining,
        limit=stats.workers_limit,
        busy_s=stats.busy_seconds_total,
        queue=stats.queue_depth,
        queue_limit=stats.queue_limit,
        queue_max=stats.queue_depth_max,
        saturated=stats.saturated_total,
        rejected={reason.value: number for reason, number in stats.rejected_total.items()},
        starts=stats.worker_starts_total,
        exits={reason.value: number for reason, number in stats.worker_exits_total.items()},
        redelivered=stats.redelivered_total,
        broker_restarts=stats.broker_restarts_total,
        generation=stats.generation,
        wall={layer.value: used for layer, used in stats.wall.items()},
    )


def _rss(pid: int) -> int:
    """Return the resident memory of a process. Bytes; 0 if it is gone."""
    with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE
    return 0


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process. Seconds; 0 if it is gone."""
    with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/stat", "rb") as file:
        # The name, in parentheses, may contain blanks. The fields are those of proc(5), from the third on.
        fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def _open_descriptors() -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/fd"))
    return 0
