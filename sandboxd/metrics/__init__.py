"""All Prometheus metrics of the server. The front owns them; workers report figures in their results.

Label values come from closed sets or from the configuration, never from callers or guests.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final

from prometheus_client.core import Metric

from sandboxd.log import dropped_lines
from sandboxd.metrics.binding import DENIAL_REASONS, GRPC, HTTP, BindingMetrics
from sandboxd.metrics.exposition import DAPR, TextFormat
from sandboxd.metrics.families import SECONDS, SHORT_SECONDS, DaprLabels, Families
from sandboxd.metrics.pool import PoolCollector
from sandboxd.metrics.process import ProcessState
from sandboxd.metrics.state import ServerState
from sandboxd.pool.stats import PoolStats
from sandboxd.resiliency import Breaker

__all__ = [
    "DENIAL_REASONS",
    "GRPC",
    "HTTP",
    "SECONDS",
    "SHORT_SECONDS",
    "BindingMetrics",
    "DaprLabels",
    "Metrics",
]

LINES_CHILDREN: Final = 64
"""The most children of a family whose lines are joined at once."""
PIECE_CHILDREN: Final = 8
"""The most children of a family in one piece: up to 300 lines of text."""


class Metrics(Families):
    """Every metric of one server, in its own registry.

    Parameters:
        version: sandboxd's version.
        dapr: the labels for daprd's `dapr_component_output_binding_*`; None leaves these metrics out.
    """

    def __init__(self, *, version: str, dapr: DaprLabels | None = None) -> None:
        super().__init__(dapr)
        self._pools: list[PoolCollector] = []
        self._state = ServerState(version)
        self._process: ProcessState | None = None
        self._bindings: dict[str, BindingMetrics] = {}
        self.registry.register(self._state)

    def __repr__(self) -> str:
        return f"<Metrics of {len(self._bindings)} bindings>"

    def binding(self, name: str) -> BindingMetrics:
        """Return the metrics of one binding.

        Parameters:
            name: the binding; empty for requests that name no configured binding.
        """
        found = self._bindings.get(name)
        if found is None:
            found = self._bindings[name] = BindingMetrics(self, name)
        return found

    def bindings(self) -> Iterator[BindingMetrics]:
        """Yield the metrics of all bindings, without those of requests that name none."""
        return (metrics for name, metrics in list(self._bindings.items()) if name)

    @property
    def state(self) -> ServerState:
        """The gauges of the build, the bindings and the reloads."""
        return self._state

    def forget_binding(self, name: str) -> None:
        """Remove every series of a binding that is no longer configured."""
        self._bindings.pop(name, None)
        if self.journal is not None:
            self.journal.forget(name)
        for family in self._collector.families:
            for label in ("binding", "component"):
                if label in family.label_names:
                    family.remove(label, name)
        self._state.ready.pop(name, None)
        self._state.modules.pop(name, None)
        for key in [key for key in dropped_lines if key[1] == name != ""]:
            del dropped_lines[key]

    def watch_pool(self, read: Callable[[], PoolStats], pool: str = "default") -> None:
        """Call `read` for the pool's statistics at every scrape."""
        self.watch_pools(lambda: {pool: read()})

    def watch_pools(self, read: Callable[[], Mapping[str, PoolStats]]) -> None:
        """Call `read` for the statistics of all pools, by the value of the label `pool`, at every scrape."""
        collector = PoolCollector(read)
        self._pools.append(collector)
        self.registry.register(collector)

    def watch_process(self) -> None:
        """Read the figures of this process at every scrape. Call it on the thread of the event loop."""
        self._process = ProcessState()
        self.registry.register(self._process)

    def binding_ready(self, name: str, ready: bool) -> None:
        """Record whether a configured binding can be called."""
        self._state.ready[name] = ready

    def module_loaded(self, binding: str, *, digest: str, scheme: str, abi: str, seconds: float, cached: bool) -> None:
        """Record that a binding's guest was loaded.

        Parameters:
            binding: its name.
            digest: the guest's sha256.
            scheme: the scheme of its URL: file, http or https.
            abi: one of `sandboxd.modules.preamble.Abi`.
            seconds: the time to fetch and compile it.
            cached: whether the store held its artifact.
        """
        self._state.modules[binding] = (digest, scheme, abi)
        self._loads.labels(scheme).observe(seconds)
        self._compile_cache.labels("hit" if cached else "miss").inc()

    def watch_breakers(self, breakers: Mapping[str, Breaker]) -> None:
        """Show the states of these circuit breakers at every scrape. The keys are the names of their bindings."""
        self._state.breakers = breakers

    def components_loaded(self, *, ok: bool) -> None:
        """Record whether the latest load of the components succeeded, the first one included."""
        self._state.loaded_ok = ok
        if ok:
            self._state.loaded_at = time.time()

    def module_reloaded(self, binding: str, *, ok: bool) -> None:
        """Count a reload of a binding's guest."""
        self._reloads.labels(binding, "success" if ok else "failure").inc()

    def turned_away(self, reason: str) -> None:
        """Count a caller that the HTTP server refused or cut off by itself.

        Parameters:
            reason: a value of `sandboxd.front.servers.refusals.Refusal`, or another from a closed set.
        """
        self._turned_away.labels(reason).inc()

    def pieces(self) -> Iterator[Metric]:
        """Yield all metrics, those with many children in pieces. Each takes about a millisecond."""
        for family in self._collector.families:
            yield from family.pieces(PIECE_CHILDREN)
        yield from self._state.collect()
        if self._process is not None:
            yield from self._process.collect()
        yield from self.pool_metrics()

    def text_pieces(self, form: TextFormat) -> Iterator[bytes]:
        """Yield all metrics as text, without its end, in pieces that take less than a millisecond each.

        Parameters:
            form: the format of the text.
        """
        for family in self._collector.families:
            yield form.head(family.head())
            lines = family.lines()
            while batch := b"".join(islice(lines, LINES_CHILDREN)):
                yield form.of_dapr(batch) if family.name.startswith(DAPR) else batch
        yield from form.pieces(self._state.collect())
        if self._process is not None:
            yield from form.pieces(self._process.collect())
        yield from form.pieces(self.pool_metrics())

    def pool_metrics(self) -> Iterator[Metric]:
        """Yield the metrics of the pools."""
        for collector in self._pools:
            yield from collector.collect()
