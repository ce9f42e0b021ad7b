"""The metrics of the front's process: its processor time, memory and descriptors, and the lag of its event loop.

A front is one thread. It can be the bottleneck while workers are idle, which no metric of the pool shows.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sandboxd.metrics.series import Histogram

SAMPLE_S: Final = 0.25
"""The interval at which the loop's lag is measured. Seconds."""
LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class ProcessState(Collector):
    """`process_*`, the metrics that every Prometheus client has, and the processor time of the event loop's thread.

    It must be collected on the thread of the event loop.
    """

    def __init__(self) -> None:
        self._process = ProcessCollector(registry=None)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._process.collect()
        yield CounterMetricFamily(
            "sandboxd_front_cpu_seconds",
            "Processor time of the threads that run event loops; its rate over sandboxd_fronts is their utilisation.",
            value=time.thread_time(),
        )
        yield GaugeMetricFamily("sandboxd_fronts", "Event loops that answer callers, one a cell.", value=1)


class LoopLag:
    """Measures the lag of the running event loop: how late it calls a timer that is due.

    Parameters:
        histogram: receives the lag of each sample, in seconds.
    """

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._loop = asyncio.get_running_loop()
        self.latest = 0.0
        """The lag of the latest sample. Seconds."""
        self._worst = 0.0
        self._due = self._loop.time() + SAMPLE_S
        self._timer = self._loop.call_at(self._due, self._sample)

    def __repr__(self) -> str:
        return f"<LoopLag {self.latest:.6f} s>"

    def _sample(self) -> None:
        now = self._loop.time()
        self.latest = max(0.0, now - self._due)
        self._worst = max(self._worst, self.latest)
        self._histogram.observe(self.latest)
        # A long stall counts once for each sample that it covered, since requests that came meanwhile waited, too.
        missed = int(self.latest // SAMPLE_S)
        for late in range(1, missed + 1):
            self._histogram.observe(self.latest - late * SAMPLE_S)
        self._due = now + SAMPLE_S
        self._timer = self._loop.call_at(self._due, self._sample)

    def take_worst(self) -> float:
        """Return the worst lag since the last call, in seconds."""
        worst, self._worst = self._worst, 0.0
        return worst

    def close(self) -> None:
        """Stop measuring."""
        self._timer.cancel()
