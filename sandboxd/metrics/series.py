"""Counters and histograms that are cheap to update. The names are those of prometheus_client.

They belong to one event loop, so updates and scrapes never overlap and need no lock. An observation is put on a list,
and a list of them is sorted and counted at once; prometheus_client's own histogram takes two locks and a walk over the
buckets for each.
"""

from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from sandboxd.metrics.lines import HistogramLines, number, prefix

MOST_PENDING: Final = 64
"""So many observations of a histogram are counted at once. Each of them takes 32 bytes until then."""


class Counter:
    """A number that only increases."""

    __slots__ = ("prefix", "shown", "text", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.prefix = b""
        self.text = b""
        """Its line with the value `shown`. Its family writes both."""
        self.shown = -1.0

    def __repr__(self) -> str:
        return f"<Counter {self.value:g}>"

    def inc(self, amount: float = 1) -> None:
        """Increase it by `amount`."""
        self.value += amount


class Histogram:
    """Counts observations in buckets.

    Parameters:
        bounds: the inclusive upper bounds of the buckets, increasing, without the infinite one.
    """

    __slots__ = ("_counts", "_sum", "bounds", "labels", "pending", "shown", "text")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.pending: list[float] = []
        """What was observed and is not counted yet; always the same list. Whoever appends to it, to save the call of
        `observe`, calls `fold` once it has `MOST_PENDING` values."""
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self.labels: tuple[bytes, bytes, bytes] | None = None
        self.text = b""
        """Its lines with the counts `shown`. Its family writes both."""
        self.shown: list[int] = []

    def __repr__(self) -> str:
        return f"<Histogram of {sum(self.counts)} observations>"

    def observe(self, value: float) -> None:
        """Count one observation."""
        pending = self.pending
        pending.append(value)
        if len(pending) >= MOST_PENDING:
            self.fold()

    def fold(self) -> None:
        """Count what is pending."""
        pending, bounds = self.pending, self.bounds
        self._sum = sum(pending, self._sum)
        pending.sort()
        at = 0
        while at < len(pending):
            bucket = bisect_left(bounds, pending[at])
            # All up to the bucket's bound are counted with the first of them.
            end = bisect_right(pending, bounds[bucket], at) if bucket < len(bounds) else len(pending)
            self._counts[bucket] += end - at
            at = end
        pending.clear()

    @property
    def counts(self) -> list[int]:
        """The number of observations in each bucket, without those of the buckets below it."""
        if self.pending:
            self.fold()
        return self._counts

    @property
    def sum(self) -> float:
        """The sum of the observed values."""
        if self.pending:
            self.fold()
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative count of each upper bound, as the exposition formats require."""
        total = 0
        out: list[tuple[str, float]] = []
        for bound, count in zip((*map(float, self.bounds), float("inf")), self.counts, strict=True):
            total += count
            out.append(("+Inf" if bound == float("inf") else repr(bound), total))
        return out


Child = TypeVar("Child", Counter, Histogram)


class _Family(Generic[Child]):
    """One metric: a child for each combination of label values in use.

    Parameters:
        name: its name.
        text: the help line.
        labels: the label names.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.name = name
        self._text = text
        self.label_names = tuple(labels)
        self._children: dict[tuple[str, ...], Child] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of {len(self._children)}>"

    def remove(self, label: str, value: str) -> None:
        """Remove the children whose `label` is `value`."""
        at = self.label_names.index(label)
        self._children = {values: child for values, child in self._children.items() if values[at] != value}

    def head(self) -> Metric:
        """Return the metric without samples."""
        return self._metric(())

    def collect(self) -> Iterator[Metric]:
        """Yield the metric with its present values."""
        yield self._metric(self._children.items())

    def pieces(self, most: int) -> Iterator[Metric]:
        """Yield the metric in pieces of at most `most` children each, one at least."""
        children = list(self._children.items())
        for begin in range(0, max(1, len(children)), most):
            yield self._metric(children[begin : begin + most])

    @abstractmethod
    def _metric(self, children: Iterable[tuple[tuple[str, ...], Child]]) -> Metric: ...


class CounterFamily(_Family[Counter]):
    """One counter metric: a child `Counter` for each combination of label values in use.

    Parameters:
        name: its name, with or without `_total`.
        text: the help line.
        labels: the label names.
        plain: expose samples under the bare name, without the `_total` that OpenMetrics requires.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], *, plain: bool = False) -> None:
        super().__init__(name, text, labels)
        self._plain = plain

    def labels(self, *values: str) -> Counter:
        """Return the child of these label values. Keep it, because the look-up is too slow for every request."""
        assert len(values) == len(self.label_names)
        return self._children.setdefault(values, Counter())

    def children(self) -> Iterator[tuple[tuple[str, ...], Counter]]:
        """Yield the label values and the counter of each child."""
        yield from self._children.items()

    def sums(self, label: str) -> dict[str, float]:
        """Return the sum of the children for each value of a label."""
        at = self.label_names.index(label)
        found: dict[str, float] = {}
        for values, child in self._children.items():
            found[values[at]] = found.get(values[at], 0.0) + child.value
        return found

    def lines(self) -> Iterator[bytes]:
        """Yield the line of each child."""
        name = self.name if self._plain else self.name.removesuffix("_total") + "_total"
        for values, child in list(self._children.items()):
            if child.shown != child.value:
                if not child.prefix:
                    child.prefix = prefix(name, zip(self.label_names, values, strict=True))
                child.shown = child.value
                child.text = child.prefix + number(child.value)
            yield child.text

    def _metric(self, children: Iterable[tuple[tuple[str, ...], Counter]]) -> Metric:
        if self._plain:
            metric = Metric(self.name, self._text, "unknown")
            for values, child in children:
                metric.add_sample(self.name, dict(zip(self.label_names, values, strict=True)), child.value)
            return metric
        family = CounterMetricFamily(self.name, self._text, labels=self.label_names)
        for values, child in children:
            family.add_metric(values, child.value)
        return family


class HistogramFamily(_Family[Histogram]):
    """One histogram metric: a child `Histogram` for each combination of label values in use.

    Parameters:
        name, text, labels: as for `CounterFamily`.
        bounds: as for `Histogram`.
        whole_bounds: whether to write whole bounds without a point, as Go's client library does.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        *,
        whole_bounds: bool = False,
    ) -> None:
        super().__init__(name, text, labels)
        self._lines = HistogramLines(name, tuple(bounds), whole_bounds=whole_bounds)
        self._bounds = tuple(bounds)

    def labels(self, *values: str) -> Histogram:
        """Return the child of these label values. Keep it, because the look-up is too slow for every request."""
        assert len(values) == len(self.label_names)
        found = self._children.get(values)
        if found is None:
            found = self._children[values] = Histogram(self._bounds)
        return found

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of each child."""
        for values, child in list(self._children.items()):
            # The counts are compared and not the sum, which an observation of 0 does not change.
            if child.shown != child.counts:
                if child.labels is None:
                    child.labels = self._lines.labels(tuple(zip(self.label_names, values, strict=True)))
                child.shown = child.counts.copy()
                child.text = self._lines.text(child.labels, child.counts, child.sum)
            yield child.text

    def _metric(self, children: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
        family = HistogramMetricFamily(self.name, self._text, labels=self.label_names)
        for values, child in children:
            family.add_metric(values, child.buckets(), child.sum)
        return family
