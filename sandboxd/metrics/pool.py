"""The metrics of the pool and its workers, read at each scrape."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sandboxd.pool.errors import RejectReason
from sandboxd.pool.state import ExitReason
from sandboxd.pool.stats import PoolStats
from sandboxd.pool.warm import WarmStats

_Reason = TypeVar("_Reason", bound=str)


class PoolCollector(Collector):
    """`sandboxd_pool_*` and `sandboxd_worker_*`.

    Parameters:
        read: returns the statistics of each pool, by the value of the `pool` label; called once per scrape.
    """

    def __init__(self, read: Callable[[], Mapping[str, PoolStats]]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """Return nothing: registering must not call `read` before the pool exists."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the statistics as metrics, each with the samples of all pools."""
        pools = [_Pool(pool, stats).families() for pool, stats in self._read().items()]
        for first, *others in zip(*pools, strict=True):
            for other in others:
                first.samples += other.samples
            yield first


class _Pool:
    """The metrics of one pool.

    Parameters:
        pool: the value of the label `pool`.
        stats: its statistics.
    """

    def __init__(self, pool: str, stats: PoolStats) -> None:
        self._pool = pool
        self._stats = stats

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["pool"])
        family.add_metric([self._pool], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=["pool"])
        family.add_metric([self._pool], value)
        return family

    def _reasons(self, name: str, text: str, values: Mapping[_Reason, int]) -> Metric:
        family = CounterMetricFamily(name, text, labels=["pool", "reason"])
        for reason, value in values.items():
            family.add_metric([self._pool, reason], value)
        return family

    def families(self) -> Iterator[Metric]:
        """Yield the statistics as metrics, the same ones for every pool."""
        stats = self._stats
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
            {reason: stats.rejected_total.get(reason, 0) for reason in RejectReason},
        )
        yield self._gauge(
            "sandboxd_pool_workers_spare",
            "Workers beyond the limit, for bindings others keep waiting.",
            stats.workers_spare,
        )
        yield self._counter("sandboxd_pool_spare_starts", "Spare workers started.", stats.spare_starts_total)
        yield self._counter("sandboxd_worker_starts", "Workers started.", stats.worker_starts_total)
        exits = {reason: stats.worker_exits_total.get(reason, 0) for reason in ExitReason}
        yield self._reasons("sandboxd_worker_exits", "Workers ended.", exits)
        yield self._gauge(
            "sandboxd_worker_boot_seconds", "Time the latest worker took to be ready.", stats.worker_boot_seconds
        )
        wall = GaugeMetricFamily(
            "sandboxd_worker_wall", "Whether the workers have a layer of the wall.", labels=["pool", "layer"]
        )
        for layer, used in stats.wall.items():
            wall.add_metric([self._pool, layer], used)
        yield wall
        yield self._counter(
            "sandboxd_egress_broker_restarts",
            "Times the egress broker ended unexpectedly and was started again.",
            stats.broker_restarts_total,
        )
        yield self._counter(
            "sandboxd_pool_redelivered",
            "Invocations given to another worker because the first did not begin them.",
            stats.redelivered_total,
        )
        yield from self._bindings(stats)
        yield from self._warm(stats.warm)
        yield self._gauge(
            "sandboxd_pool_generation", "Number of the set of bindings that is serving.", stats.generation
        )

    def _warm(self, warm: WarmStats) -> Iterator[Metric]:
        states = GaugeMetricFamily("sandboxd_warm_templates", "Templates by state.", labels=["pool", "state"])
        for state, count in warm.templates.items():
            states.add_metric([self._pool, state.name.lower()], count)
        yield states
        yield self._gauge("sandboxd_warm_children", "Guests that wait for a request, started ahead.", warm.children)
        touched = GaugeMetricFamily(
            "sandboxd_warm_private_bytes",
            "Private memory of templates and of waiting guests, estimated from page faults.",
            labels=["pool", "process"],
        )
        touched.add_metric([self._pool, "template"], warm.template_bytes)
        touched.add_metric([self._pool, "child"], warm.child_bytes)
        yield touched
        yield self._gauge(
            "sandboxd_warm_boot_seconds", "Time the latest template took to its first input.", warm.boot_seconds
        )
        hits = CounterMetricFamily("sandboxd_warm_invocations", "Invocations started warm.", labels=["pool", "binding"])
        for binding, count in warm.hits.items():
            hits.add_metric([self._pool, binding], count)
        yield hits
        misses = CounterMetricFamily(
            "sandboxd_warm_misses",
            "Invocations of bindings with warmStart that ran cold, by reason.",
            labels=["pool", "binding", "reason"],
        )
        for (binding, reason), count in warm.misses.items():
            misses.add_metric([self._pool, binding, reason], count)
        yield misses

    def _bindings(self, stats: PoolStats) -> Iterator[Metric]:
        for name, text, field in (
            ("sandboxd_binding_in_flight", "Workers that run invocations of the binding.", "in_flight"),
            (
                "sandboxd_binding_in_flight_limit",
                "Workers that may run the binding's invocations while others wait.",
                "limit",
            ),
            ("sandboxd_binding_queue_depth", "Invocations of the binding that wait for a worker.", "waiting"),
        ):
            family = GaugeMetricFamily(name, text, labels=["pool", "binding"])
            for binding, load in stats.bindings.items():
                family.add_metric([self._pool, binding], getattr(load, field))
            yield family
