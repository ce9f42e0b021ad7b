"""The history of a server's figures: five minutes with a point every five seconds, for the server and each binding.

A point is computed completely when it is taken, so that showing five minutes costs no more than showing one.
"""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from sandboxd.metrics import SECONDS, BindingMetrics
from sandboxd.metrics.totals import Count, count

PERIOD_S: Final = 5
"""The time between two points. The points of all cells are taken at the same instants of the clock."""
POINTS: Final = 60
MINUTE: Final = 60 // PERIOD_S
BUCKETS: Final = len(SECONDS) + 1
_BINDINGS_AT_ONCE: Final = 25
"""The number of bindings after which the event loop may serve requests."""
_QUIET: Final = bytes(BUCKETS * array("I").itemsize)


class Track(msgspec.Struct, kw_only=True):
    """The history of a binding, the oldest point first."""

    requests: list[int] = []
    failed: list[int] = []
    p99_s: list[float | None] = []
    durations: bytes = b""
    """The completed requests of each point by the bucket of their duration: `BUCKETS` numbers a point. Empty if there
    were none."""
    minute: list[int] = []
    """The completed requests of the last minute and the present period, by the bucket of their duration."""
    recent_requests: int = 0
    """The requests since the last point but one."""
    recent_failed: int = 0
    """Those of them that failed."""
    recent_cpu_s: float = 0.0
    """The processor time of the guest's runs since the last point but one."""
    recent_s: float = 0.0
    """The time since the last point but one."""

    def rows(self) -> list[list[int]]:
        """Return the numbers in `durations`, a row for each point."""
        numbers = array("I", self.durations).tolist()
        return [numbers[at : at + BUCKETS] for at in range(0, len(numbers), BUCKETS)]


class ServerPoint(NamedTuple):
    """The figures of a process for one period."""

    period: int
    """The number of the period since the epoch."""
    busy_s: float
    """The time that workers were busy in the period, summed over workers."""
    cpu_s: float
    """The processor time of the front's thread in the period."""
    queue: int
    """The number of invocations that wait at the period's end."""
    lag_ms: float
    """The worst lag of the event loop in the period."""
    requests: int
    durations: tuple[int, ...]


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Return a quantile of observations that were counted in buckets, as Prometheus' histogram_quantile does.

    Parameters:
        bounds: the upper bounds of the buckets, without the infinite one.
        counts: the number of observations in each bucket, the infinite one last.
        share: the quantile's share, 0 to 1.

    Returns:
        the quantile; None if there are no observations. One above the last bound is returned as the last bound.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below, lower = share * total, 0, 0.0
    for bound, found in zip(bounds, counts, strict=False):
        if found and below + found >= rank:
            return lower + (bound - lower) * max(0.0, rank - below) / found
        below += found
        lower = bound
    return bounds[-1]


class _Points:
    """The points of one binding, and its counts at each of the latest points."""

    __slots__ = ("counts", "failed", "p99_s", "requests", "rows")

    def __init__(self, counted: Count) -> None:
        self.counts = deque((counted,), maxlen=MINUTE + 1)
        self.requests: deque[int] = deque(maxlen=POINTS)
        self.failed: deque[int] = deque(maxlen=POINTS)
        self.p99_s: deque[float | None] = deque(maxlen=POINTS)
        self.rows: deque[bytes] = deque(maxlen=POINTS)

    def take(self, counted: Count) -> tuple[int, Sequence[int]]:
        """Add a point. Return its requests and durations."""
        last = self.counts[-1]
        self.counts.append(counted)
        requests = counted.requests - last.requests
        durations = _between(last, counted) if requests else ()
        self.requests.append(requests)
        self.failed.append(counted.failed - last.failed)
        self.p99_s.append(quantile(SECONDS, durations, 0.99))
        self.rows.append(array("I", durations).tobytes() if durations else _QUIET)
        return requests, durations


def _between(before: Count, after: Count) -> Sequence[int]:
    if not before.durations:
        return after.durations
    return [b - a for a, b in zip(before.durations, after.durations, strict=True)]


class History:
    """Takes a point every `PERIOD_S`.

    Parameters:
        bindings: returns the metrics of the bindings that are served.
        figures: returns the busy seconds so far, the processor seconds so far, the queue depth, and the worst lag since
            its last call, in seconds.
    """

    def __init__(
        self, bindings: Callable[[], Iterable[BindingMetrics]], figures: Callable[[], tuple[float, float, int, float]]
    ) -> None:
        self._bindings = bindings
        self._figures = figures
        self._tracks: dict[str, _Points] = {}
        self._busy = self._cpu = 0.0
        self._times = (time.monotonic(), time.monotonic())
        """The instants of the last two points, the earlier one first."""
        self.server: deque[ServerPoint] = deque(maxlen=POINTS)

    def __repr__(self) -> str:
        return f"<History of {len(self._tracks)} bindings, {len(self.server)} points>"

    async def keep(self) -> None:
        """Take points until cancelled."""
        await self.take(first=True)
        while True:
            await asyncio.sleep(PERIOD_S - time.time() % PERIOD_S + 0.001)
            await self.take()

    async def take(self, *, first: bool = False) -> None:
        """Take a point of the server and of each binding.

        Parameters:
            first: whether to record only the counts with which the next point is compared.
        """
        period = int(time.time()) // PERIOD_S - 1
        busy, cpu, queue, lag = self._figures()
        now = time.monotonic()
        self._times = (now, now) if first else (self._times[1], now)
        requests, durations = 0, [0] * BUCKETS
        found = list(self._bindings())
        for number, metrics in enumerate(found, 1):
            counted = count(metrics)
            points = self._tracks.get(metrics.name)
            if points is None:
                # The counts of a binding that appears after the first point began at zero.
                points = self._tracks[metrics.name] = _Points(counted if first else Count())
            if not first:
                more, of_it = points.take(counted)
                requests += more
                if of_it:
                    durations = [a + b for a, b in zip(durations, of_it, strict=True)]
            if number % _BINDINGS_AT_ONCE == 0:
                await asyncio.sleep(0)
        if not first:
            point = ServerPoint(
                period, busy - self._busy, cpu - self._cpu, queue, lag * 1000, requests, tuple(durations)
            )
            self.server.append(point)
        self._busy, self._cpu = busy, cpu
        names = {metrics.name for metrics in found}
        for name in [name for name in self._tracks if name not in names]:
            del self._tracks[name]

    def of(self, metrics: BindingMetrics) -> Track:
        """Return the history of a binding."""
        points = self._tracks.get(metrics.name) or _Points(Count())
        counted = count(metrics)
        since = points.counts[-2] if len(points.counts) > 1 else points.counts[0]
        return Track(
            requests=list(points.requests),
            failed=list(points.failed),
            p99_s=list(points.p99_s),
            durations=b"".join(points.rows) if any(points.requests) else b"",
            minute=list(_between(points.counts[0], counted)),
            recent_requests=counted.requests - since.requests,
            recent_failed=counted.failed - since.failed,
            recent_cpu_s=counted.cpu_s - since.cpu_s,
            recent_s=max(0.001, time.monotonic() - self._times[0]),
        )
