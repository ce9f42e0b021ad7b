"""The pool's numbers, read at scrape time."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sandboxd.pool.stats import PoolStats

REJECT_REASONS = ("queue_full", "queue_timeout", "draining")
EXIT_REASONS = (
    "recycled",
    "timeout_killed",
    "cancelled",
    "stalled",
    "crashed",
    "killed",
    "protocol",
    "boot_failed",
    "reload",
    "shutdown",
)
"""All stand at 0 from the start: a series that begins with its first exit hides that one from increase()."""


class PoolCollector(Collector):
    """`sandboxd_pool_*` and `sandboxd_worker_*`.

    Parameters:
        pool: value of the `pool` label.
        read: gives a reading; called once per scrape.
    """

    def __init__(self, pool: str, read: Callable[[], PoolStats]) -> None:
        self._pool = pool
        self._read = read

    def describe(self) -> list[Metric]:
        """Nothing: registering must not take a reading before the pool stands."""
        return []

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["pool"])
        family.add_metric([self._pool], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=["pool"])
        family.add_metric([self._pool], value)
        return family

    def _reasons(self, name: str, text: str, values: dict[str, int]) -> Metric:
        family = CounterMetricFamily(name, text, labels=["pool", "reason"])
        for reason, value in values.items():
            family.add_metric([self._pool, reason], value)
        return family

    def collect(self) -> Iterator[Metric]:
        """A reading as metrics."""
        stats = self._read()
        workers = GaugeMetricFamily("sandboxd_pool_workers", "Worker processes by state.", labels=["pool", "state"])
        for state, count in (
            ("idle", stats.workers_idle),
            ("busy", stats.workers_busy),
            ("starting", stats.workers_starting),
            ("draining", stats.workers_draining),
        ):
            workers.add_metric([self._pool, state], count)
        yield workers
        yield self._gauge("sandboxd_pool_workers_limit", "Worker processes the pool keeps.", stats.workers_limit)
        yield self._gauge("sandboxd_pool_workers_busy_max", "Most workers busy at once since start.", stats.busy_max)
        yield self._counter(
            "sandboxd_pool_busy_seconds",
            "Time workers were busy, summed over workers; its rate over the limit is the utilisation.",
            stats.busy_seconds_total,
        )
        yield self._gauge("sandboxd_pool_queue_depth", "Invocations waiting for a worker.", stats.queue_depth)
        yield self._gauge("sandboxd_pool_queue_limit", "Invocations that may wait for a worker.", stats.queue_limit)
        yield self._gauge("sandboxd_pool_queue_depth_max", "Most waiting at once since start.", stats.queue_depth_max)
        yield self._counter(
            "sandboxd_pool_saturated", "Invocations that arrived when no worker was idle.", stats.saturated_total
        )
        yield self._reasons(
            "sandboxd_pool_rejected",
            "Invocations refused.",
            {**dict.fromkeys(REJECT_REASONS, 0), **stats.rejected_total},
        )
        yield self._counter("sandboxd_worker_starts", "Workers started.", stats.worker_starts_total)
        exits = {**dict.fromkeys(EXIT_REASONS, 0), **stats.worker_exits_total}
        yield self._reasons("sandboxd_worker_exits", "Workers ended.", exits)
        yield self._gauge(
            "sandboxd_worker_boot_seconds", "Time the latest worker took to be ready.", stats.worker_boot_seconds
        )
        yield self._counter(
            "sandboxd_pool_redelivered",
            "Invocations given to another worker because the first did not begin them.",
            stats.redelivered_total,
        )
        yield self._gauge(
            "sandboxd_pool_generation", "Number of the set of bindings that is serving.", stats.generation
        )
