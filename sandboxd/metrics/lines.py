"""The lines of Prometheus' text formats. Most of a scrape uses the lines of the scrape before it again.

prometheus_client writes each line from a mapping of labels, which takes 6 µs, and a thousand bindings have 140,000
lines. Here a child of a family keeps its lines, and writes them again only if it has counted since. Both formats,
Prometheus' own and OpenMetrics, have the same lines of samples; only the lines before them differ.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.utils import floatToGoString

_EXACT: Final = 2**53
"""Whole numbers below this are written with all their digits."""
_BEFORE: Final = b"\xfe"
_BEHIND: Final = b"\xff"
"""The places of a child's labels in its family's lines: of those before `le` in the alphabet, and of those behind it.
No text in UTF-8 has these bytes."""


def number(value: float) -> bytes:
    """Return a value as it is written in a line, with the line's end."""
    value = float(value)
    if value.is_integer() and -_EXACT < value < _EXACT:
        return b"%d.0\n" % value
    shown: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return shown.encode() + b"\n"


def _label(name: str, value: str) -> str:
    if '"' in value or "\\" in value or "\n" in value:
        value = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'{name}="{value}"'


def prefix(name: str, labels: Iterable[tuple[str, str]]) -> bytes:
    """Return the part of a line before the value.

    Parameters:
        name: the sample's name.
        labels: the names and values of its labels.
    """
    inside = ",".join([_label(*pair) for pair in sorted(labels)])
    return f"{name}{{{inside}}} ".encode() if inside else f"{name} ".encode()


def of_metric(metric: Metric) -> list[bytes]:
    """Return the lines of a metric's samples."""
    return [prefix(sample.name, sample.labels.items()) + number(sample.value) for sample in metric.samples]


class HistogramLines:
    """The lines of the children of one family of histograms.

    Parameters:
        name: the family's name.
        bounds: the upper bounds of the buckets, without the infinite one.
        whole_bounds: whether to write whole bounds without a point, as Go's client library does.
    """

    def __init__(self, name: str, bounds: Sequence[float], *, whole_bounds: bool = False) -> None:
        shown = [repr(float(bound)) for bound in bounds]
        if whole_bounds:
            shown = [bound.removesuffix(".0") for bound in shown]
        bucket = b'%b_bucket{%ble="%b"%b} %%d.0\n'
        self._buckets = b"".join(
            bucket % (name.encode(), _BEFORE, bound.encode(), _BEHIND) for bound in (*shown, "+Inf")
        )
        self._rest = b"%b_count%%b %%d.0\n%b_sum%%b %%b" % (name.encode(), name.encode())

    def labels(self, labels: Sequence[tuple[str, str]]) -> tuple[bytes, bytes, bytes]:
        """Return the texts of a child's labels in its lines: before `le`, behind it, and in lines without `le`."""
        shown = sorted(labels)
        before = "".join(_label(*pair) + "," for pair in shown if pair[0] < "le")
        behind = "".join("," + _label(*pair) for pair in shown if pair[0] > "le")
        alone = prefix("", labels)[:-1]
        return before.encode(), behind.encode(), alone

    def text(self, labels: tuple[bytes, bytes, bytes], counts: Sequence[int], total: float) -> bytes:
        """Return a child's lines.

        Parameters:
            labels: from `labels`.
            counts: the count of each bucket, without the buckets below it.
            total: the sum of the observed values.
        """
        before, behind, alone = labels
        sums = tuple(accumulate(counts))
        buckets = (self._buckets % sums).replace(_BEFORE, before).replace(_BEHIND, behind)
        return buckets + self._rest % (alone, sums[-1], alone, number(total))
