"""A limit of processor time behind the deadlines.

A guest that computes beyond its deadline is ended by its own code (see `hostfuncs.running.deadline`); if that fails the
pool kills the worker. This limit stands behind both: the kernel ends a process that has used more processor time than
the longest timeout allows, though nobody is left to notice, because the server was stopped or swapped out.
"""

import resource
import time
from typing import Final

PERIOD_NS: Final = 10_000_000_000
"""The time for which a limit holds before it is raised. Raising takes two system calls."""
_THREADS: Final = 2
"""The guest's thread, and the worker's others."""


class CpuTimeLimit:
    """RLIMIT_CPU, raised while the worker does its work.

    Parameters:
        longest_ms: the longest timeout of any binding, in milliseconds.
        period_ns: see PERIOD_NS.
    """

    __slots__ = ("_budget_s", "_period_ns", "next_ns")

    def __init__(self, longest_ms: int, period_ns: int = PERIOD_NS) -> None:
        self._period_ns = period_ns
        # What has run since the limit was last raised, at most a period, and one whole invocation.
        self._budget_s = -(-_THREADS * (period_ns // 1_000_000 + longest_ms) // 1000) + 1
        self.next_ns = 0
        """CLOCK_MONOTONIC instant from which `renew` is due. The worker compares it before each invocation."""

    def __repr__(self) -> str:
        return f"<CpuTimeLimit {self._budget_s} s ahead>"

    def renew(self) -> None:
        """Raise the limit. The hard limit stays as it is; once lowered it could not be raised again."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = int(usage.ru_utime + usage.ru_stime) + self._budget_s
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
        self.next_ns = time.monotonic_ns() + self._period_ns
