"""All Prometheus metrics of the server. The front owns them; workers send numbers in their results.

Labels come from closed sets or from configured names, never from what a caller or a guest wrote.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sandboxd.limit_keys import ALL_KEYS, key_of, outbound_limit
from sandboxd.metrics.cells import Count, CountFamily, Distribution, DistributionFamily
from sandboxd.metrics.pool import PoolCollector
from sandboxd.outcome import Outcome
from sandboxd.pool.stats import PoolStats
from sandboxd.wire.messages import OutboundUsage, Result

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SHORT_SECONDS: Final = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, *SECONDS)
"""For times within a worker, most of which are far below a millisecond."""
BYTES: Final = tuple(4**n * 64 for n in range(10))
MEMORY_BYTES: Final = tuple(2**n * 65536 for n in range(0, 16, 2))
DAPR_MILLISECONDS: Final = (
    1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400, 500, 650, 800,
    1000, 2000, 5000, 10000, 20000, 50000, 100000,
)  # fmt: skip
"""daprd's buckets (pkg/diagnostics/utils, default latency distribution)."""

_UNNAMED: Final = (
    Outcome.BAD_REQUEST,
    Outcome.NOT_FOUND,
    Outcome.UNAUTHORIZED,
    Outcome.CANCELLED,
    Outcome.REJECTED,
)
"""How requests can end that name no configured binding."""

_TIMEOUT_KEY: Final = key_of("timeout_ms")
_STDERR_KEY: Final = key_of("stderr_bytes")

MAX_REPORTED: Final = 128
MAX_REPORTED_CHARACTERS: Final = 300
"""How many rules, and error codes, a binding's workers may report before further ones are counted as `other`."""

DENIAL_REASONS: Final = frozenset(("host", "address", "scheme", "method", "limit"))


@dataclass(frozen=True, kw_only=True, slots=True)
class DaprLabels:
    """Labels of the metrics that repeat daprd's."""

    app_id: str
    namespace: str = ""


class _Families(Collector):
    """Hands families of cells to the registry."""

    def __init__(self) -> None:
        self.families: list[CountFamily | DistributionFamily] = []

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for family in self.families:
            yield from family.collect()


class _State(Collector):
    """What is not counted but known: build and modules."""

    def __init__(self, version: str) -> None:
        self._version = version
        self.ready: dict[str, bool] = {}
        self.modules: dict[str, tuple[str, str, str]] = {}

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


class Metrics:
    """Every metric of one server, in a registry of its own.

    Parameters:
        version: sandboxd's.
        dapr: also keep daprd's `dapr_component_output_binding_*` with these labels.
    """

    def __init__(self, *, version: str, dapr: DaprLabels | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.dapr = dapr
        self._families = _Families()
        self._state = _State(version)
        self._bindings: dict[tuple[str, str], BindingMetrics] = {}
        self.registry.register(self._families)
        self.registry.register(self._state)
        by_binding = ["binding"]
        self.requests = self._count(
            "sandboxd_requests", "Binding requests by how they ended.", ["binding", "protocol", "outcome"]
        )
        self.durations = self._distribution(
            "sandboxd_request_duration_seconds",
            "From the request head to the answer handed to the HTTP server.",
            ["binding", "outcome"],
            SECONDS,
        )
        self.queue_wait = self._distribution(
            "sandboxd_queue_wait_seconds", "Waiting for a worker.", by_binding, SHORT_SECONDS
        )
        self.instantiate = self._distribution(
            "sandboxd_instantiate_duration_seconds", "Making an instance.", by_binding, SHORT_SECONDS
        )
        self.guest = self._distribution(
            "sandboxd_guest_duration_seconds", "The guest's own run.", by_binding, SHORT_SECONDS
        )
        self.memory = self._distribution(
            "sandboxd_guest_memory_peak_bytes", "Largest linear memory of a run.", by_binding, MEMORY_BYTES
        )
        self.stdin = self._distribution("sandboxd_guest_stdin_bytes", "Input of a run.", by_binding, BYTES)
        self.stdout = self._distribution("sandboxd_guest_stdout_bytes", "Output of a run.", by_binding, BYTES)
        self.outbound = self._count(
            "sandboxd_outbound_requests",
            "Outbound HTTP requests of guests, by matched rule.",
            ["binding", "rule", "outcome"],
        )
        self.outbound_durations = self._distribution(
            "sandboxd_outbound_request_duration_seconds", "Outbound HTTP requests.", ["binding", "rule"], SECONDS
        )
        self.denied = self._count(
            "sandboxd_outbound_denied", "Outbound requests refused by policy.", ["binding", "reason"]
        )
        self.limits = self._count(
            "sandboxd_limits_reached",
            "Limits that ended or refused something, or cut stderr, by the key that raises them.",
            ["binding", "limit"],
        )
        self._compile_cache = self._count("sandboxd_compile_cache", "Look-ups of compiled modules.", ["result"])
        self._loads = self._distribution(
            "sandboxd_module_load_duration_seconds", "Fetching and compiling a module.", ["source"], SECONDS
        )
        self._reloads = self._count("sandboxd_module_reloads", "Reloads of a binding's guest.", ["binding", "result"])
        if dapr is not None:
            labels = ["app_id", "component", "namespace", "operation", "success"]
            self.dapr_count = CountFamily(
                "dapr_component_output_binding_count", "The number of operations performed.", labels, plain=True
            )
            self._families.families.append(self.dapr_count)
            self.dapr_latencies = self._distribution(
                "dapr_component_output_binding_latencies", "The latency of the response.", labels, DAPR_MILLISECONDS
            )
        for result in ("hit", "miss"):
            self._compile_cache.cell(result)

    def __repr__(self) -> str:
        return f"<Metrics of {len(self._bindings)} bindings>"

    def _count(self, name: str, text: str, labels: list[str]) -> CountFamily:
        family = CountFamily(name, text, labels)
        self._families.families.append(family)
        return family

    def _distribution(self, name: str, text: str, labels: list[str], bounds: Iterable[float]) -> DistributionFamily:
        family = DistributionFamily(name, text, labels, tuple(bounds))
        self._families.families.append(family)
        return family

    def binding(self, name: str, protocol: str = "http") -> "BindingMetrics":
        """The metrics of a configured binding; `name` is empty for requests that name none.

        Parameters:
            protocol: http, grpc or pluggable.
        """
        found = self._bindings.get((name, protocol))
        if found is None:
            found = self._bindings[name, protocol] = BindingMetrics(self, name, protocol)
        return found

    def forget_binding(self, name: str) -> None:
        """Drop every series of a binding that is no longer configured."""
        for key in [key for key in self._bindings if key[0] == name]:
            del self._bindings[key]
        for family in self._families.families:
            for label in ("binding", "component"):
                if label in family.labels:
                    family.remove(label, name)
        self._state.ready.pop(name, None)
        self._state.modules.pop(name, None)

    def watch_pool(self, read: Callable[[], PoolStats], pool: str = "default") -> None:
        """Take the pool's numbers from `read` at every scrape."""
        self.registry.register(PoolCollector(pool, read))

    def binding_ready(self, name: str, ready: bool) -> None:
        """Whether a configured binding can be called."""
        self._state.ready[name] = ready

    def module_loaded(self, binding: str, *, digest: str, scheme: str, abi: str, seconds: float, cached: bool) -> None:
        """A binding's guest is there.

        Parameters:
            digest: SHA-256 of the module.
            scheme: file, http or https.
            abi: module or component.
            seconds: fetching and compiling.
            cached: its compiled form was in the store.
        """
        self._state.modules[binding] = (digest, scheme, abi)
        self._loads.cell(scheme).add(seconds)
        self._compile_cache.cell("hit" if cached else "miss").add()

    def module_reloaded(self, binding: str, *, ok: bool) -> None:
        """A reload of a binding's guest ended."""
        self._reloads.cell(binding, "success" if ok else "failure").add()

    def expose(self, accept: str) -> tuple[bytes, str]:
        """All metrics as text, and its Content-Type: OpenMetrics if `accept` prefers it."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type


class BindingMetrics:
    """The cells of one binding, looked up once. Made by `Metrics.binding`."""

    def __init__(self, metrics: Metrics, name: str, protocol: str) -> None:
        self._metrics = metrics
        self._name = name
        self._requests: dict[Outcome, Count] = {
            outcome: metrics.requests.cell(name, protocol, outcome.value) for outcome in (Outcome if name else _UNNAMED)
        }
        self._durations: dict[Outcome, Distribution] = {}
        self._dapr: dict[tuple[bool, bool], tuple[Count, Distribution]] = {}
        self._completed: Distribution | None = None
        self._rules: set[str] = set()
        self._codes: set[str] = set()
        if name:
            self._completed = self._duration(Outcome.COMPLETED)
            self._queue_wait = metrics.queue_wait.cell(name)
            self._instantiate = metrics.instantiate.cell(name)
            self._guest = metrics.guest.cell(name)
            self._memory = metrics.memory.cell(name)
            self._stdin = metrics.stdin.cell(name)
            self._stdout = metrics.stdout.cell(name)

    def __repr__(self) -> str:
        return f"<BindingMetrics {self._name!r}>"

    def _duration(self, outcome: Outcome) -> Distribution:
        found = self._durations.get(outcome)
        if found is None:
            found = self._durations[outcome] = self._metrics.durations.cell(self._name, outcome.value)
        return found

    def ended(self, outcome: Outcome, seconds: float) -> None:
        """A request was answered, or given up.

        Parameters:
            seconds: since its head arrived.
        """
        self._requests[outcome].value += 1
        if outcome is Outcome.COMPLETED and self._completed is not None:
            self._completed.add(seconds)
        else:
            self._duration(outcome).add(seconds)

    def ran(self, result: Result, stdin_bytes: int, stdout_bytes: int | None = None) -> None:
        """A worker ran the guest.

        Parameters:
            stdin_bytes: length of its input.
            stdout_bytes: length of its output, if that is not in the result.
        """
        self._queue_wait.add(result.queue_ns * 1e-9)
        self._instantiate.add(result.instantiate_ns * 1e-9)
        self._guest.add(result.guest_ns * 1e-9)
        self._memory.add(result.memory_bytes)
        self._stdin.add(stdin_bytes)
        self._stdout.add(len(result.stdout) if stdout_bytes is None else stdout_bytes)
        if result.outcome is Outcome.DEADLINE_EXCEEDED:
            self.limit_reached(_TIMEOUT_KEY)
        elif result.limit:
            self.limit_reached(result.limit)
        if result.stderr_total > len(result.stderr):
            self.limit_reached(_STDERR_KEY)
        if result.outbound:
            for usage in result.outbound:
                self._sent(usage)

    def limit_reached(self, key: str) -> None:
        """A limit was passed.

        Parameters:
            key: of `sandboxd.limit_keys.ALL_KEYS`; another one, which only a broken worker can name, is not counted.
        """
        if key in ALL_KEYS:
            self._metrics.limits.cell(self._name, key).add()

    def _sent(self, usage: OutboundUsage) -> None:
        metrics = self._metrics
        limit = outbound_limit(usage.outcome, usage.denied)
        if limit:
            self.limit_reached(limit)
        if usage.denied:
            reason = usage.denied if usage.denied in DENIAL_REASONS else "limit"
            metrics.denied.cell(self._name, reason).add()
            return
        rule = self._known(self._rules, usage.rule)
        metrics.outbound.cell(self._name, rule, self._known(self._codes, usage.outcome)).add()
        metrics.outbound_durations.cell(self._name, rule).add(usage.duration_ns * 1e-9)

    def _known(self, seen: set[str], text: str) -> str:
        """A label out of a worker's report. Guests have no part in it, but a broken worker must not make series."""
        if text not in seen:
            if len(seen) >= MAX_REPORTED or len(text) > MAX_REPORTED_CHARACTERS:
                return "other"
            seen.add(text)
        return text

    def dapr_event(self, *, execute: bool, success: bool, seconds: float) -> None:
        """Count the request as daprd would, if that is switched on.

        Parameters:
            execute: the operation was `execute`; every other one is counted as `other`, so that callers cannot
                make series.
        """
        labels = self._metrics.dapr
        if labels is None:
            return
        cells = self._dapr.get((execute, success))
        if cells is None:
            values = (
                labels.app_id,
                self._name,
                labels.namespace,
                "execute" if execute else "other",
                "true" if success else "false",
            )
            cells = (self._metrics.dapr_count.cell(*values), self._metrics.dapr_latencies.cell(*values))
            self._dapr[execute, success] = cells
        cells[0].value += 1
        cells[1].add(seconds * 1000)
