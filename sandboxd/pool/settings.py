"""How large the pool is, and how patient. Defaults are those of sandboxd.config."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSettings:
    """How large, and how patient."""

    workers: int
    """Worker processes kept."""
    queue_limit: int = 1000
    """Invocations that may wait for a worker."""
    queue_timeout_s: float = 10.0
    """How long one may wait. Seconds."""
    look_ahead: int = 8
    """Invocations of short-running bindings sent to a busy worker beforehand; 0 switches it off."""
    recycle_after: int = 0
    """Invocations after which a worker is replaced; 0 means never."""
    polling: bool = False
    """Poll while requests come one at a time; see `sandboxd.pool.polling`."""
    max_binding_share: float = 0.75
    """Part of the workers, and of the queue, that one binding may hold where several are served, in (0, 1], rounded
    up."""
