"""Metrics as text for Prometheus, and as messages between cells.

With a hundred bindings the text has 10,000 lines and takes a tenth of a second, in which the event loop would answer
nobody. So it is made in pieces, with a rest after each.
"""

import asyncio
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sandboxd.wire.cells import Family

HURRY_S: Final = 1.0
"""A text that has taken this long rests only as long as it works from then on: scrapers have deadlines, too."""
DAPR: Final = "dapr_"
"""What the names of daprd's metrics begin with."""
_whole_bound = re.compile(rb'le="([0-9]+)\.0"').sub
_SAMPLES: Final = 150
"""So many samples of a message are made into text at once."""


def snapshot(registry: CollectorRegistry) -> tuple[Family, ...]:
    """Return all metrics of a registry as they are now."""
    return _families(registry.collect())


def _families(metrics: Iterable[Metric]) -> tuple[Family, ...]:
    """Join metrics; pieces of one follow each other."""
    joined: list[Family] = []
    for metric in metrics:
        samples = tuple((sample.name, tuple(sample.labels.items()), float(sample.value)) for sample in metric.samples)
        if joined and joined[-1].name == metric.name:
            joined[-1] = Family(metric.name, metric.type, metric.documentation, joined[-1].samples + samples)
        else:
            joined.append(Family(metric.name, metric.type, metric.documentation, samples))
    return tuple(joined)


async def paced_snapshot(pieces: Iterator[Metric], rest: float) -> tuple[Family, ...]:
    """Do as `snapshot`, in pieces.

    Parameters:
        pieces: the metrics.
        rest: how long to rest after each piece, as a multiple of the time it took.
    """
    metrics: list[Metric] = []
    began = time.perf_counter()
    for metric in pieces:
        metrics.append(metric)
        await asyncio.sleep((time.perf_counter() - began) * rest)
        began = time.perf_counter()
    return _families(metrics)


class _Single(Collector):
    """A registry of one metric, for the encoders."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        return iter((self._metric,))


def pieces_of(families: Sequence[Family]) -> Iterator[Metric]:
    """Yield metrics that came as messages, in pieces."""
    for family in families:
        for begin in range(0, max(1, len(family.samples)), _SAMPLES):
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples[begin : begin + _SAMPLES]:
                metric.add_sample(name, dict(labels), value)
            yield metric


def _as_daprd(line: bytes) -> bytes:
    """Write a line as Go's client library does: a counter without `_total` is one, bounds are whole numbers.

    Only in Prometheus' own text format, which is all that daprd has. OpenMetrics allows neither.
    """
    if line.startswith(b"# TYPE ") and line.endswith(b" untyped\n"):
        return line.removesuffix(b"untyped\n") + b"counter\n"
    return _whole_bound(rb'le="\1"', line, 1)


async def paced_text(pieces: Iterator[Metric], accept: str, rest: float) -> tuple[bytes, str]:
    """Return metrics as text, and its Content-Type: OpenMetrics if `accept` prefers it.

    Parameters:
        pieces: the metrics; pieces of one metric follow each other.
        accept: the scrape's Accept header.
        rest: how long to rest after each piece, as a multiple of the time it took.
    """
    encoder, content_type = choose_encoder(accept)
    parts: list[bytes] = []
    former = ""
    began = start = time.perf_counter()
    for metric in pieces:
        # Encoders write no type but Collector; a registry would check names again each time.
        lines = encoder(_Single(metric)).splitlines(keepends=True)
        if lines and lines[-1] == b"# EOF\n":
            lines.pop()
        elif metric.name.startswith(DAPR):
            lines = [_as_daprd(line) for line in lines]
        if metric.name == former:
            lines = [line for line in lines if not line.startswith(b"#")]
        former = metric.name
        parts += lines
        worked = time.perf_counter()
        await asyncio.sleep((worked - began) * (rest if worked - start < HURRY_S else min(rest, 1.0)))
        began = time.perf_counter()
    if content_type.startswith("application/openmetrics-text"):
        parts.append(b"# EOF\n")
    return b"".join(parts), content_type
