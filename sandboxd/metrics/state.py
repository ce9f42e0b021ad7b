"""The metrics of a server's state: its build, its bindings and their guests, its reloads and its log."""

import platform
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sandboxd.log import dropped_lines
from sandboxd.resiliency import Breaker


class ServerState(Collector):
    """The metrics of the build, the bindings and their guests, the reloads, and the lines that the log left out.

    Parameters:
        version: sandboxd's version.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self.ready: dict[str, bool] = {}
        self.modules: dict[str, tuple[str, str, str]] = {}
        self.breakers: Mapping[str, Breaker] = {}
        self.loaded_ok = True
        """Whether the latest load of the components succeeded."""
        self.loaded_at = 0.0
        """The end of the latest successful load, in seconds since the epoch."""

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("sandboxd_build_info", "Version of the server.", labels=["version", "python"])
        build.add_metric([self._version, platform.python_version()], 1)
        yield build
        ready = GaugeMetricFamily("sandboxd_binding_ready", "Whether the binding can be called.", labels=["binding"])
        for binding, value in self.ready.items():
            ready.add_metric([binding], value)
        yield ready
        info = GaugeMetricFamily(
            "sandboxd_module_info", "The guest of a binding.", labels=["binding", "digest", "scheme", "abi"]
        )
        for binding, values in self.modules.items():
            info.add_metric([binding, *values], 1)
        yield info
        states = GaugeMetricFamily(
            "sandboxd_circuit_breaker_state", "Circuit breakers: 0 closed, 1 half open, 2 open.", labels=["binding"]
        )
        for binding, breaker in self.breakers.items():
            states.add_metric([binding], breaker.state)
        yield states
        yield GaugeMetricFamily(
            "sandboxd_reload_last_success",
            "Whether the latest load of the components succeeded; if not, the former bindings are served.",
            value=self.loaded_ok,
        )
        yield GaugeMetricFamily(
            "sandboxd_reload_last_success_timestamp_seconds",
            "When the components were last loaded successfully.",
            value=self.loaded_at,
        )
        dropped = CounterMetricFamily(
            "sandboxd_log_lines_dropped",
            "Lines left out of the log: too many in too short a time, or stderr was too slow.",
            labels=["source", "binding"],
        )
        for labels, count in dropped_lines.copy().items():
            dropped.add_metric(labels, count)
        yield dropped
