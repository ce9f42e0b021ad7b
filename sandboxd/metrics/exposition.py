"""Writes metrics as text for Prometheus, and as messages between cells.

With a thousand bindings the text has 140,000 lines. Most of them are the same as in the scrape before (see `lines`).
The text is made in pieces with pauses between them, in which the event loop serves requests.
"""

import asyncio
import re
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sandboxd.metrics.lines import number, of_metric, prefix
from sandboxd.wire.cells import Family

HURRY_S: Final = 1.0
"""The time after which the pauses are no longer than the work, because scrapers have deadlines."""
DAPR: Final = "dapr_"
"""The beginning of the names of daprd's metrics."""
_whole_bound = re.compile(rb'le="([0-9]+)\.0"').sub
_pointed_bound = re.compile(rb'le="([0-9]+)"').sub
WORK_S: Final = 0.001
"""The time of work after which there is a pause. Seconds."""
PART_BYTES: Final = 128 * 1024
"""The least size of the parts in which a text is kept, compressed and sent."""
GZIP_LEVEL: Final = 1
"""The lines resemble each other so much that a higher level saves little."""
_SAMPLES: Final = 150
"""The most samples of a message in one piece."""
_samples_as_bytes = msgspec.msgpack.Encoder().encode


def snapshot(registry: CollectorRegistry) -> tuple[Family, ...]:
    """Return all metrics of a registry as they are now."""
    return _families(registry.collect())


def _families(metrics: Iterable[Metric]) -> tuple[Family, ...]:
    """Return metrics as messages. The pieces of one metric, which follow each other, are joined."""
    joined: list[Family] = []
    for metric in metrics:
        samples = tuple((sample.name, tuple(sample.labels.items()), float(sample.value)) for sample in metric.samples)
        if joined and joined[-1].name == metric.name:
            joined[-1] = Family(metric.name, metric.type, metric.documentation, joined[-1].samples + samples)
        else:
            joined.append(Family(metric.name, metric.type, metric.documentation, samples))
    return tuple(joined)


async def paced_snapshot(pieces: Iterator[Metric], rest: float) -> tuple[Family, ...]:
    """Return metrics as `snapshot` does, with pauses.

    Parameters:
        pieces: the metrics, in pieces.
        rest: the pause after each piece, as a multiple of the time that it took.
    """
    metrics: list[Metric] = []
    began = time.perf_counter()
    for metric in pieces:
        metrics.append(metric)
        await asyncio.sleep((time.perf_counter() - began) * rest)
        began = time.perf_counter()
    return _families(metrics)


class _Empty(Collector):
    """A collector of one metric without samples, for prometheus_client's encoders."""

    def __init__(self, metric: Metric) -> None:
        self._metric = Metric(metric.name, metric.documentation, metric.type)

    def collect(self) -> Iterator[Metric]:
        return iter((self._metric,))


_version = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4}){0,2}").fullmatch
_OPEN_METRICS: Final = "application/openmetrics-text"
_ESCAPING: Final = frozenset(("allow-utf-8", "underscores", "dots", "values"))


def asked_for(accept: str) -> str:
    """Return an Accept header that asks for the same format, of the few that there are.

    prometheus_client repeats the version that it is asked for, and raises if it is none. So callers could ask for as
    many different texts as there are versions, and each of them would be made.

    Parameters:
        accept: as it came.
    """
    for asked in accept.split(","):
        kind, *parameters = (part.strip() for part in asked.split(";"))
        if kind not in (_OPEN_METRICS, "text/plain"):
            continue
        given = dict(part.split("=", 1) for part in reversed(parameters) if "=" in part)
        version = given.get("version", "")
        if not version and kind == _OPEN_METRICS:
            return kind
        if _version(version) and int(version.partition(".")[0]) >= 1:
            escaping = given.get("escaping", "")
            return f"{kind}; version=1.0.0; escaping={escaping if escaping in _ESCAPING else 'underscores'}"
    return ""


class TextFormat:
    """The text format that a scrape gets: OpenMetrics if it prefers that, else Prometheus' own.

    Parameters:
        accept: the scrape's Accept header, from `asked_for`.
    """

    def __init__(self, accept: str) -> None:
        self._encoder, self.content_type = choose_encoder(accept)
        self.open_metrics = self.content_type.startswith("application/openmetrics-text")
        self._former = ""

    def __repr__(self) -> str:
        return f"<TextFormat {self.content_type}>"

    def head(self, metric: Metric) -> bytes:
        """Return the lines before the samples of a metric. Only the first piece of a metric has them."""
        if metric.name == self._former:
            return b""
        self._former = metric.name
        # Encoders take a Collector. A real registry would check the names again each time.
        head: bytes = self._encoder(_Empty(metric)).removesuffix(b"# EOF\n")
        if metric.name.startswith(DAPR) and not self.open_metrics:
            # Go's client library has counters without `_total`, which the encoder does not know.
            head = head.replace(b" untyped\n", b" counter\n")
        return head

    def of_dapr(self, lines: bytes) -> bytes:
        """Return lines of daprd's metrics in this format. Their bounds are whole numbers, which OpenMetrics forbids."""
        return _pointed_bound(rb'le="\1.0"', lines) if self.open_metrics else lines

    def pieces(self, metrics: Iterable[Metric]) -> Iterator[bytes]:
        """Yield metrics as text. The pieces of one metric follow each other."""
        for metric in metrics:
            yield self.head(metric)
            lines = of_metric(metric)
            yield b"".join(self.bounded(lines) if self.has_whole_bounds(metric.name) else lines)

    def has_whole_bounds(self, name: str) -> bool:
        """Return whether a metric's bounds are written without a point in this format, as Go's client library does."""
        return name.startswith(DAPR) and not self.open_metrics

    def bounded(self, lines: Iterable[bytes]) -> list[bytes]:
        """Return lines with their bounds written so."""
        return [_whole_bound(rb'le="\1"', line, 1) for line in lines]

    @property
    def end(self) -> bytes:
        """The end of the text."""
        return b"# EOF\n" if self.open_metrics else b""


class KeptPieces:
    """The text of metrics that come as messages. A piece whose samples are those of the text before is not made again.

    A piece is known by all of its samples as bytes, which cost a fortieth of its text to make. What a text has no use
    for is forgotten.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, bool], bytes] = {}

    def __repr__(self) -> str:
        return f"<KeptPieces {len(self._kept)}>"

    def pieces(self, families: Iterable[Family], form: TextFormat) -> Iterator[bytes]:
        """Yield the text of metrics, in pieces.

        Parameters:
            families: the metrics.
            form: the format of the text.
        """
        former, self._kept = self._kept, {}
        for family in families:
            yield form.head(Metric(family.name, family.text, family.kind))
            whole_bounds = form.has_whole_bounds(family.name)
            for begin in range(0, len(family.samples), _SAMPLES):
                samples = family.samples[begin : begin + _SAMPLES]
                key = _samples_as_bytes(samples), whole_bounds
                text = former.get(key)
                if text is None:
                    lines = [prefix(name, labels) + number(value) for name, labels, value in samples]
                    text = b"".join(form.bounded(lines) if whole_bounds else lines)
                self._kept[key] = text
                yield text


async def paced(pieces: Iterable[bytes], rest: float) -> list[bytes]:
    """Join pieces of a text to parts of at least `PART_BYTES`, with pauses.

    Parameters:
        pieces: the pieces, each of which takes less than a millisecond to make.
        rest: the pause after each millisecond of work, as a multiple of the time that the work took.
    """
    parts: list[bytes] = []
    batch: list[bytes] = []
    size = 0
    began = start = time.perf_counter()
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= PART_BYTES:
            parts.append(b"".join(batch))
            batch, size = [], 0
        worked = time.perf_counter()
        if worked - began >= WORK_S:
            await asyncio.sleep((worked - began) * (rest if worked - start < HURRY_S else min(rest, 1.0)))
            began = time.perf_counter()
    parts.append(b"".join(batch))
    return parts


async def compressed(parts: Iterable[bytes]) -> bytes:
    """Return a text in the gzip format (RFC 1952). Another thread does the work, without the interpreter lock."""
    return await asyncio.to_thread(_compress, tuple(parts))


def _compress(parts: Iterable[bytes]) -> bytes:
    deflater = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return b"".join((*(deflater.compress(part) for part in parts), deflater.flush()))
