"""The pool's settings. The defaults are those of sandboxd.config."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSettings:
    """Sizes and timeouts of the pool."""

    workers: int
    """The number of worker processes."""
    load_timeout_s: float = 120.0
    """The longest time in which a zygote must load the guests."""
    queue_limit: int = 1000
    """The most invocations that may wait for a worker."""
    queue_timeout_s: float = 10.0
    """The longest time that an invocation may wait for a worker."""
    look_ahead: int = 8
    """The most invocations of short-running bindings that are sent ahead to a busy worker; 0 disables it."""
    recycle_after: int = 0
    """The number of invocations after which a worker is replaced; 0 means never."""
    polling: bool = False
    """Poll while requests come one at a time; see `sandboxd.pool.polling`."""
    warm_memory_bytes: int = 1 << 30
    """The memory that the templates of warm starts may touch together, in bytes."""
    max_binding_share: float = 0.75
    """The share that one of several bindings may hold while others wait: in (0, 1]. Of the workers it is rounded down,
    to one at least, of the queue's places up."""
