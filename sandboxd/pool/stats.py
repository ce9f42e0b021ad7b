"""A reading of the pool, taken at scrape time."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStats:
    """Gauges are as of now, the rest counts since start. The front makes the `sandboxd_pool_*` metrics of it."""

    workers_limit: int = 0
    """Workers the pool keeps."""
    workers_starting: int = 0
    workers_idle: int = 0
    workers_busy: int = 0
    workers_draining: int = 0
    busy_max: int = 0
    """Most workers busy at once."""
    busy_seconds_total: float = 0.0
    """Time workers spent busy, summed over workers; those still busy included."""
    queue_depth: int = 0
    queue_limit: int = 0
    queue_depth_max: int = 0
    saturated_total: int = 0
    """Invocations that arrived when no worker was idle."""
    rejected_total: Mapping[str, int] = field(default_factory=dict)
    """By reason: queue_full, queue_timeout, draining."""
    worker_starts_total: int = 0
    worker_exits_total: Mapping[str, int] = field(default_factory=dict)
    """By reason: recycled, timeout_killed, cancelled, stalled (left its frames unread), crashed, killed (SIGKILL from
    outside), protocol, boot_failed, reload, shutdown."""
    worker_boot_seconds: float = 0.0
    """How long the latest worker took from the request to READY."""
    redelivered_total: int = 0
    """Invocations given to another worker because the first died, or was blocked, before it began them."""
    generation: int = 0
    """Number of the set of bindings that is serving; grows with every reload."""
