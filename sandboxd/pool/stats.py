"""The pool's statistics, taken at each scrape."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sandboxd.pool.errors import RejectReason
from sandboxd.pool.state import ExitReason
from sandboxd.pool.warm import WarmStats
from sandboxd.wall import Layer


class BindingLoad(NamedTuple):
    """The present load of one binding."""

    in_flight: int
    """The workers that it holds."""
    limit: int
    """The workers that it may hold while others wait."""
    waiting: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStats:
    """Gauges are present values; the others count since the start. The front makes `sandboxd_pool_*` of them."""

    workers_limit: int = 0
    """The number of workers that the pool keeps."""
    workers_starting: int = 0
    workers_idle: int = 0
    workers_busy: int = 0
    workers_draining: int = 0
    busy_max: int = 0
    """The most workers that were busy at once."""
    busy_seconds_total: float = 0.0
    """The time that workers were busy, summed over workers, including those that still are."""
    queue_depth: int = 0
    queue_limit: int = 0
    queue_depth_max: int = 0
    saturated_total: int = 0
    """The invocations that arrived while no worker was idle."""
    rejected_total: Mapping[RejectReason, int] = field(default_factory=dict)
    workers_spare: int = 0
    """The workers beyond those that the pool keeps."""
    spare_starts_total: int = 0
    worker_starts_total: int = 0
    worker_exits_total: Mapping[ExitReason, int] = field(default_factory=dict)
    worker_boot_seconds: float = 0.0
    """The time from the request for the latest worker to its READY."""
    redelivered_total: int = 0
    """The invocations sent to another worker because the first died, or was blocked, before it began them."""
    broker_restarts_total: int = 0
    """The number of times that the egress broker ended while it was needed, and was started again."""
    wall: Mapping[Layer, bool] = field(default_factory=lambda: dict.fromkeys(Layer, False))
    """For each layer of the wall, whether it stands around the workers of the serving generation."""
    warm: WarmStats = field(default_factory=WarmStats)
    """Warm starts."""
    generation: int = 0
    """The number of the generation that serves; each reload increases it."""
    bindings: Mapping[str, BindingLoad] = field(default_factory=dict)
    """The bindings of the generation that serves."""
