"""Refuses requests while too many wait for a worker, without neglecting the accepted ones.

The front refuses a request hardly faster than it answers one. Suppose it refused every request at once while the queue
is full. Callers that retry at once would then use up its time: results would stay unread in the workers' sockets, and
the workers would be idle. So a request for which the queue has no place waits at the gate with its body unread:

- As soon as there is capacity, the newest waiting request is admitted.
- The oldest request of each binding in turn is refused, as far as the event loop has time. It has all the time in which
  it would have slept and a share of the time in which it runs. The share is small while guests run so briefly that the
  workers wait for the front.

An event loop that is not busy refuses within a millisecond or two. A busy one answers as many requests as it can. The
other requests wait on their connections, which slows their callers down.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections import OrderedDict, deque
from typing import Final, Protocol

from sandboxd.log import fields
from sandboxd.pool.errors import Rejected

log = logging.getLogger("sandboxd.request")

TICK_S: Final = 0.001
SHARE: Final = 0.5
"""The share of the event loop's running time that refusals may use while other work waits."""
SHARE_SHORT_RUNS: Final = 0.1
"""The share while guests run briefly: workers are then idle as long as results stay unread."""
REFUSAL_NS: Final = 120_000
"""The estimated cost of one refusal, from reading the request to the metrics; a high estimate."""
SAVED_NS: Final = 50_000_000
"""The most unused time that can be saved for a burst."""
REPORT_S: Final = 1.0
"""The least time between two lines of the log; each line tells a number of refusals."""


class Capacity(Protocol):
    """The part of the pool that the gate uses."""

    def capacity(self, binding: str) -> int:
        """Return how many further invocations of a binding would be accepted now."""
        ...

    def has_short_runs(self) -> bool:
        """Return whether guests run so briefly that workers soon wait for the front."""
        ...

    def reject_queue_full(self, binding: str) -> Rejected:
        """Count a refusal because the queue is full. Return the error for the reply."""
        ...


class Turn(Protocol):
    """A request at the gate. A future is one."""

    def done(self) -> bool:
        """Return whether it needs no decision any more."""
        ...

    def set_result(self, result: None, /) -> None:
        """It is admitted."""

    def set_exception(self, refusal: Rejected, /) -> None:
        """It is refused."""


class Gate:
    """The place where requests wait while the queue is full. It is used on one event loop.

    Parameters:
        pool: knows its capacity.
    """

    def __init__(self, pool: Capacity) -> None:
        self._capacity = pool.capacity
        self._has_short_runs = pool.has_short_runs
        self._reject_queue_full = pool.reject_queue_full
        # By binding, each in order of arrival; the bindings in the order in which they are refused next.
        self._lines: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._spare = _SpareTime()
        self._ticking = False
        self._unreported = 0
        self._reported = 0.0

    def __repr__(self) -> str:
        return f"<Gate {sum(map(len, self._lines.values()))} waiting>"

    def close(self) -> None:
        """Close the gate's descriptors. Call it when no more requests come."""
        self._spare.close()

    def shut(self, binding: str) -> bool:
        """Return whether a request of this binding must `enter` before its body is read."""
        return self._capacity(binding) <= 0

    async def enter(self, binding: str) -> None:
        """Wait for capacity.

        Raises:
            Rejected: the request is refused.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.line_up(binding, turn)
        await turn

    def line_up(self, binding: str, turn: Turn) -> None:
        """Have a request wait for capacity. It is told the decision by a later call, and may be `done` before that."""
        line = self._lines.get(binding)
        if line is None:
            line = self._lines[binding] = deque()
        line.append(turn)
        if not self._ticking:
            self._ticking = True
            self._spare.start()
            asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        try:
            self._decide()
        finally:
            # Also after an error, which the event loop reports: without ticks all would wait for ever.
            loop = asyncio.get_running_loop()
            if self._lines:
                loop.call_later(TICK_S, self._tick)
            else:
                self._ticking = False
                if self._unreported:
                    loop.call_later(REPORT_S, self._report)

    def _decide(self) -> None:
        for binding, line in list(self._lines.items()):
            self._let_in(line, self._capacity(binding))
            if not line:
                del self._lines[binding]
        affordable = self._spare.affordable(SHARE_SHORT_RUNS if self._has_short_runs() else SHARE)
        while affordable > 0 and self._lines:
            binding, line = next(iter(self._lines.items()))
            turn = line.popleft()
            if line:
                self._lines.move_to_end(binding)
            else:
                del self._lines[binding]
            if not turn.done():
                self._spare.spend()
                self._unreported += 1
                affordable -= 1
                turn.set_exception(self._reject_queue_full(binding))
        self._report()

    def _let_in(self, line: deque[Turn], capacity: int) -> None:
        while capacity > 0 and line:
            turn = line.pop()
            if not turn.done():
                turn.set_result(None)
                capacity -= 1

    def _report(self) -> None:
        now = time.monotonic()
        if self._unreported and now - self._reported >= REPORT_S:
            log.warning("requests were refused: too many wait for a worker", extra=fields(count=self._unreported))
            self._reported, self._unreported = now, 0


class _SpareTime:
    """The time that the event loop's thread has for refusals: its sleep, and a share of its running time."""

    def __init__(self) -> None:
        self._saved_ns = 0
        self._read: tuple[int, int, int] = (0, 0, 0)
        self._refused = 0
        self._schedstat = -1
        with contextlib.suppress(OSError):
            # Absent where the kernel keeps no such statistics; then waiting for a processor counts as sleep.
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def __repr__(self) -> str:
        return f"<_SpareTime {self._saved_ns / 1e6:.1f} ms>"

    def start(self) -> None:
        """Begin to measure."""
        self._read = self._now()
        self._refused = 0

    def affordable(self, share: float) -> int:
        """Return the number of refusals for which there is time now.

        Parameters:
            share: the share of the running time that may be used.
        """
        now, run, delayed = self._now()
        then, had_run, had_been_delayed = self._read
        passed, ran = now - then, run - had_run
        slept = passed - ran - (delayed - had_been_delayed)
        gained = slept + int(share * ran)
        if slept > SHARE_SHORT_RUNS * passed:
            # It slept in spite of the last refusals, so it has time for as many again.
            gained += self._refused * REFUSAL_NS
        self._saved_ns = min(self._saved_ns + max(0, gained), SAVED_NS)
        self._read = (now, run, delayed)
        self._refused = 0
        return self._saved_ns // REFUSAL_NS

    def spend(self) -> None:
        """Record a refusal."""
        self._saved_ns -= REFUSAL_NS
        self._refused += 1

    def close(self) -> None:
        """Close the statistics."""
        if self._schedstat >= 0:
            os.close(self._schedstat)
            self._schedstat = -1

    def _now(self) -> tuple[int, int, int]:
        """Return the time now, this thread's running time, and its time of waiting for a processor. Nanoseconds."""
        delayed = 0
        if self._schedstat >= 0:
            # "time run, time waited, slices"; the first is brought up to date too rarely.
            delayed = int(os.pread(self._schedstat, 96, 0).split()[1])
        return time.monotonic_ns(), time.thread_time_ns(), delayed
