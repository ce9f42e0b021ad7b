"""The start of a generation's workers: what the pool waits for, delays after failed starts, and when it gives up."""

import time

from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.pool.generation import Generation
from sandboxd.pool.worker import Worker

BOOT_FAILURES_MAX = 8
"""The server gives up after this many failed starts of workers in a row."""
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0


class Readiness:
    """Keeps, for operators, the condition that the pool waits for before guests can run."""

    def __init__(self) -> None:
        self._step: tuple[str, float] = ("", 0.0)
        self._last_loss = ""
        self._no_worker_since = 0.0

    def __repr__(self) -> str:
        return f"<Readiness {self._step[0]!r}{self._last_loss}>"

    def begin(self, what: str) -> None:
        """Take note of the next step of a generation's start."""
        self._step = (what, time.monotonic())

    def lost(self, serial: int, why: str) -> None:
        """Take note of a worker that has ended."""
        self._last_loss = f"; the last one, {serial}, {why}"

    def note(self, *, ready: bool) -> None:
        """Take note of whether any worker is ready."""
        if ready:
            self._no_worker_since = 0.0
        elif not self._no_worker_since:
            self._no_worker_since = time.monotonic()

    def waits_for(self, *, loaded: bool, ready: bool) -> tuple[str, float]:
        """Return what the pool waits for, and since which time.monotonic(); empty if guests can run.

        Parameters:
            loaded: whether a generation serves.
            ready: whether it has a worker that is ready.
        """
        if not loaded:
            return self._step
        if ready:
            return "", 0.0
        return f"a worker starts{self._last_loss}", self._no_worker_since or time.monotonic()


def delay_s(generation: Generation) -> float:
    """Return the seconds to wait before the next start of a worker: more after each failure, 0 without one."""
    failures = generation.boot_failures
    return min(BACKOFF_FIRST_S * 2**failures, BACKOFF_MAX_S) if failures else 0.0


def count_failure(generation: Generation, worker: Worker, why: str, *, serves: bool) -> SandboxdError | None:
    """Count a worker that failed to start. Return an error once there were too many in a row, else None.

    Parameters:
        generation: the worker's generation.
        worker: the worker.
        why: how it ended.
        serves: whether the generation is the current one.
    """
    if worker.out_of_descriptors and serves:
        # Callers can cause this with many open connections. It passes when they leave, so it must not end the server.
        generation.boot_failures = min(generation.boot_failures + 1, BOOT_FAILURES_MAX - 1)
        return None
    generation.boot_failures += 1
    if generation.boot_failures < BOOT_FAILURES_MAX:
        return None
    return SandboxdError(
        f"{generation.boot_failures} workers in a row failed to start; the last one {why}",
        remedy="see the log above; lower pool.workers if the machine is out of memory or processes",
        exit_code=ExitCode.WORKERS,
    )


def zygote_lost(consequence: str) -> SandboxdError:
    """Return the error for a zygote that has died."""
    return SandboxdError(
        f"the zygote process died; {consequence}",
        remedy="restart sandboxd; if it happens again, look for out-of-memory messages of the kernel",
        exit_code=ExitCode.ZYGOTE_LOST,
    )
