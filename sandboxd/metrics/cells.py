"""Counters and histograms that cost little to update.

They belong to one event loop: updates and scrapes never overlap, so there is no lock, and an observation is one
bisection and two additions (prometheus_client's own histogram takes two locks and a walk over the buckets).
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def __repr__(self) -> str:
        return f"<Count {self.value:g}>"

    def add(self, amount: float = 1) -> None:
        """Count `amount` more."""
        self.value += amount


class Distribution:
    """Observations by size.

    Parameters:
        bounds: upper bounds of the buckets, inclusive, growing, without the infinite one.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def __repr__(self) -> str:
        return f"<Distribution of {sum(self.counts)} observations>"

    def add(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as the exposition formats want them."""
        total = 0
        out: list[tuple[str, float]] = []
        for bound, count in zip((*map(float, self.bounds), float("inf")), self.counts, strict=True):
            total += count
            out.append(("+Inf" if bound == float("inf") else repr(bound), total))
        return out


class CountFamily:
    """One counter metric: a `Count` for each combination of label values that is used.

    Parameters:
        name: with or without `_total`.
        text: the help line.
        labels: names of the labels.
        plain: samples carry the bare name, without the `_total` that OpenMetrics wants.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], *, plain: bool = False) -> None:
        self._plain = plain
        self._name = name
        self._text = text
        self.labels = tuple(labels)
        self._cells: dict[tuple[str, ...], Count] = {}

    def __repr__(self) -> str:
        return f"<CountFamily {self._name} of {len(self._cells)}>"

    def cell(self, *values: str) -> Count:
        """The counter of these label values. Keep it: looking it up is not for the hot path."""
        assert len(values) == len(self.labels)
        return self._cells.setdefault(values, Count())

    def remove(self, label: str, value: str) -> None:
        """Forget the counters whose `label` is `value`."""
        at = self.labels.index(label)
        self._cells = {values: cell for values, cell in self._cells.items() if values[at] != value}

    def collect(self) -> Iterator[Metric]:
        """The metric as of now."""
        if self._plain:
            metric = Metric(self._name, self._text, "unknown")
            for values, cell in self._cells.items():
                metric.add_sample(self._name, dict(zip(self.labels, values, strict=True)), cell.value)
            yield metric
            return
        family = CounterMetricFamily(self._name, self._text, labels=self.labels)
        for values, cell in self._cells.items():
            family.add_metric(values, cell.value)
        yield family


class DistributionFamily:
    """One histogram metric: a `Distribution` for each combination of label values that is used.

    Parameters:
        name, text, labels: as of `CountFamily`.
        bounds: as of `Distribution`.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self.labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._cells: dict[tuple[str, ...], Distribution] = {}

    def __repr__(self) -> str:
        return f"<DistributionFamily {self._name} of {len(self._cells)}>"

    def cell(self, *values: str) -> Distribution:
        """The histogram of these label values. Keep it: looking it up is not for the hot path."""
        assert len(values) == len(self.labels)
        found = self._cells.get(values)
        if found is None:
            found = self._cells[values] = Distribution(self._bounds)
        return found

    def remove(self, label: str, value: str) -> None:
        """Forget the histograms whose `label` is `value`."""
        at = self.labels.index(label)
        self._cells = {values: cell for values, cell in self._cells.items() if values[at] != value}

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric as of now."""
        family = HistogramMetricFamily(self._name, self._text, labels=self.labels)
        for values, cell in self._cells.items():
            family.add_metric(values, cell.buckets(), cell.sum)
        yield family
