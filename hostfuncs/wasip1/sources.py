"""The sources of time and randomness: the system, or fixed rules for guests in the strict sandbox.

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
        """Return `size` random bytes."""

    def suspend(self) -> None:
        """Take note that the run stops here for a while. `resume` follows, perhaps in a copy of the process."""

    def resume(self) -> None:
        """Go on: the clocks of the wall have moved meanwhile, and the processor time has not."""


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
        self._cpu_base: int | None = None

    def cpu_time(self) -> int:
        """See Sources. Counted from the first reading: earlier guests' use must not show."""
        now = time.thread_time_ns()
        if self._cpu_base is None:
            self._cpu_base = now
        return now - self._cpu_base

    def suspend(self) -> None:
        """See Sources. Between the two calls the base is what the guest has used."""
        if self._cpu_base is not None:
            self._cpu_base = time.thread_time_ns() - self._cpu_base

    def resume(self) -> None:
        """See Sources. The clock of a new process begins at zero."""
        if self._cpu_base is not None:
            self._cpu_base = time.thread_time_ns() - self._cpu_base


class StrictSources:
    """Clocks and randomness that are of no use for a timing attack; see the module's docstring."""

    __slots__ = ("_began", "_monotonic", "_random", "_realtime")

    realtime_resolution = MILLISECOND
    monotonic_resolution = 1
    sleeps = False

    def __init__(self) -> None:
        self._began = time.time_ns() // SECOND * SECOND
        self._realtime = self._began
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
        """See Sources. As the monotonic clock: real processor time would reveal what that one hides."""
        return self.monotonic()

    def random(self, size: int) -> bytes:
        """See Sources."""
        if self._random is None:
            self._random = GoRand()
        return self._random.read(size)

    def suspend(self) -> None:
        """See Sources. Nothing here depends on the process."""

    def resume(self) -> None:
        """See Sources. The wall clock goes on as if the run had begun in the current second."""
        now = time.time_ns() // SECOND * SECOND
        self._realtime += now - self._began
        self._began = now
