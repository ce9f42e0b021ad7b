"""The metric families that the front counts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from sandboxd.metrics.journal import Journal
from sandboxd.metrics.process import LAG_SECONDS
from sandboxd.metrics.series import CounterFamily, HistogramFamily

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SHORT_SECONDS: Final = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, *SECONDS)
"""The buckets for times within a worker, most of which are far below a millisecond."""
BYTES: Final = tuple(4**n * 64 for n in range(10))
MEMORY_BYTES: Final = tuple(2**n * 65536 for n in range(0, 16, 2))
DAPR_MILLISECONDS: Final = (
    1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400, 500, 650, 800,
    1000, 2000, 5000, 10000, 20000, 50000, 100000,
)  # fmt: skip
"""daprd's buckets (pkg/diagnostics/utils, default latency distribution)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DaprLabels:
    """The labels of the metrics that copy daprd's."""

    app_id: str
    namespace: str = ""


class _Collector(Collector):
    """Collects the families of `sandboxd.metrics.series` for the registry."""

    def __init__(self) -> None:
        self.families: list[CounterFamily | HistogramFamily] = []

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for family in self.families:
            yield from family.collect()


class Families:
    """The metric families of one server, in a registry of their own.

    Parameters:
        dapr: see `sandboxd.metrics.Metrics`.
    """

    def __init__(self, dapr: DaprLabels | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.dapr = dapr
        self.journal: Journal | None = None
        """Keeps failures and denied hosts; None if the status page is not served."""
        self._collector = _Collector()
        self.registry.register(self._collector)
        by_binding = ["binding"]
        self.requests = self._counter(
            "sandboxd_requests", "Binding requests by how they ended.", ["binding", "protocol", "outcome"]
        )
        self.durations = self._histogram(
            "sandboxd_request_duration_seconds",
            "From the request head to the answer handed to the HTTP server.",
            ["binding", "outcome"],
            SECONDS,
        )
        self.queue_wait = self._histogram(
            "sandboxd_queue_wait_seconds", "Waiting for a worker.", by_binding, SHORT_SECONDS
        )
        self.instantiate = self._histogram(
            "sandboxd_instantiate_duration_seconds", "Making an instance.", by_binding, SHORT_SECONDS
        )
        self.guest = self._histogram(
            "sandboxd_guest_duration_seconds", "The guest's own run.", by_binding, SHORT_SECONDS
        )
        self.cpu = self._counter("sandboxd_guest_cpu_seconds", "Processor time of runs.", by_binding)
        self.memory = self._histogram(
            "sandboxd_guest_memory_peak_bytes", "Largest linear memory of a run.", by_binding, MEMORY_BYTES
        )
        self.stdin = self._histogram("sandboxd_guest_stdin_bytes", "Input of a run.", by_binding, BYTES)
        self.stdout = self._histogram("sandboxd_guest_stdout_bytes", "Output of a run.", by_binding, BYTES)
        self.outbound = self._counter(
            "sandboxd_outbound_requests",
            "Outbound HTTP requests of guests, by matched rule.",
            ["binding", "rule", "outcome"],
        )
        self.outbound_durations = self._histogram(
            "sandboxd_outbound_request_duration_seconds", "Outbound HTTP requests.", ["binding", "rule"], SECONDS
        )
        self.denied = self._counter(
            "sandboxd_outbound_denied", "Outbound requests refused by policy.", ["binding", "reason"]
        )
        self.limits = self._counter(
            "sandboxd_limits_reached",
            "Limits that ended or refused something, or cut stderr, by the key that raises them.",
            ["binding", "limit"],
        )
        self.texts_cut = self._counter(
            "sandboxd_guest_texts_cut", "Texts of guests in errors that were too long and were cut.", by_binding
        )
        self.retries = self._counter(
            "sandboxd_resiliency_retries", "Further attempts of requests by resiliency policies.", by_binding
        )
        self.policy_timeouts = self._counter(
            "sandboxd_resiliency_timeouts", "Attempts ended by the timeout of a resiliency policy.", by_binding
        )
        self.loop_lag = self._histogram(
            "sandboxd_event_loop_lag_seconds",
            "How late the event loop was with what was due, sampled four times a second.",
            [],
            LAG_SECONDS,
        ).labels()
        self._turned_away = self._counter(
            "sandboxd_callers_turned_away", "Callers that the HTTP server refused or cut off by itself.", ["reason"]
        )
        self._compile_cache = self._counter("sandboxd_compile_cache", "Look-ups of compiled modules.", ["result"])
        self._loads = self._histogram(
            "sandboxd_module_load_duration_seconds", "Fetching and compiling a module.", ["source"], SECONDS
        )
        self._reloads = self._counter("sandboxd_module_reloads", "Reloads of a binding's guest.", ["binding", "result"])
        if dapr is not None:
            labels = ["app_id", "component", "namespace", "operation", "success"]
            self.dapr_count = CounterFamily(
                "dapr_component_output_binding_count", "The number of operations performed.", labels, plain=True
            )
            self._collector.families.append(self.dapr_count)
            self.dapr_latencies = HistogramFamily(
                "dapr_component_output_binding_latencies",
                "The latency of the response.",
                labels,
                DAPR_MILLISECONDS,
                whole_bounds=True,
            )
            self._collector.families.append(self.dapr_latencies)
        for result in ("hit", "miss"):
            self._compile_cache.labels(result)

    def _counter(self, name: str, text: str, labels: list[str]) -> CounterFamily:
        family = CounterFamily(name, text, labels)
        self._collector.families.append(family)
        return family

    def _histogram(self, name: str, text: str, labels: list[str], bounds: Iterable[float]) -> HistogramFamily:
        family = HistogramFamily(name, text, labels, tuple(bounds))
        self._collector.families.append(family)
        return family
