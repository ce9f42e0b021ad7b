"""Metrics as messages, and back as text for Prometheus. Only cells need this; the supervisor just adds numbers."""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sandboxd.cells.messages import Family


def snapshot(registry: CollectorRegistry) -> tuple[Family, ...]:
    """All metrics of a registry as they are now."""
    return tuple(
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            tuple((sample.name, tuple(sample.labels.items()), float(sample.value)) for sample in metric.samples),
        )
        for metric in registry.collect()
    )


class _Merged(Collector):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric

    def describe(self) -> Iterable[Metric]:
        return []


def expose(families: Sequence[Family], accept: str) -> tuple[bytes, str]:
    """Metrics as text, and its Content-Type: OpenMetrics if `accept` prefers it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(families))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
