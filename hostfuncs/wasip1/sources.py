"""Where time and randomness come from: the system, or fixed rules for guests in the strict sandbox.

The strict rules are Dapr's (`common/wasm/wasm.go`, NewModuleConfig) and those of wazero's defaults that it keeps
(`internal/platform/time.go`, `internal/platform/crypto.go`): the wall clock begins at the current second and advances
1 ms with each reading; the monotonic clock begins at zero and advances 1 ms with each reading; sleep returns at once;
random bytes are those of Go's math/rand with seed 42. Each invocation begins anew.
"""

import os
import time
from collections.abc import Callable
from typing import Protocol

from hostfuncs.wasip1.gorand import GoRand

MILLISECOND = 1_000_000
SECOND = 1_000_000_000


class Sources(Protocol):
    """Clocks and randomness of one invocation. Times are nanoseconds."""

    realtime_resolution: int
    monotonic_resolution: int
    sleeps: bool
    """False: sleeping returns at once."""

    def realtime(self) -> int:
        """Since 1970-01-01 UTC."""

    def monotonic(self) -> int:
        """Since an arbitrary instant."""

    def cpu_time(self) -> int:
        """Processor time used, counted from the first reading."""

    def random(self, size: int) -> bytes:
        """That many random bytes."""


class SystemSources:
    """The machine's own. Resolutions as Dapr announces them (WithSysWalltime, WithSysNanotime)."""

    __slots__ = ("_cpu_base",)

    realtime_resolution = 1_000
    monotonic_resolution = 1
    sleeps = True
    realtime: Callable[[], int] = staticmethod(time.time_ns)
    monotonic: Callable[[], int] = staticmethod(time.monotonic_ns)
    random: Callable[[int], bytes] = staticmethod(os.urandom)

    def __init__(self) -> None:
        self._cpu_base = -1

    def cpu_time(self) -> int:
        """See Sources. From the first reading, because what earlier guests used is none of this one's business."""
        now = time.thread_time_ns()
        if self._cpu_base < 0:
            self._cpu_base = now
        return now - self._cpu_base


class StrictSources:
    """Nothing that a timing attack could use; see the module's docstring."""

    __slots__ = ("_monotonic", "_random", "_realtime")

    realtime_resolution = MILLISECOND
    monotonic_resolution = 1
    sleeps = False

    def __init__(self) -> None:
        self._realtime = time.time_ns() // SECOND * SECOND
        self._monotonic = -MILLISECOND
        self._random: GoRand | None = None

    def realtime(self) -> int:
        """See Sources."""
        self._realtime += MILLISECOND
        return self._realtime

    def monotonic(self) -> int:
        """See Sources."""
        self._monotonic += MILLISECOND
        return self._monotonic

    def cpu_time(self) -> int:
        """See Sources. The same fake as the monotonic clock: real processor time would tell what it hides."""
        return self.monotonic()

    def random(self, size: int) -> bytes:
        """See Sources."""
        if self._random is None:
            self._random = GoRand()
        return self._random.read(size)
