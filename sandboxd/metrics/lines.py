"""The lines of Prometheus' text formats, made so that most of a scrape is what the scrape before it made already.

prometheus_client writes each line anew from a mapping of labels, which takes 6 µs; a thousand bindings have 140,000
lines. Here a child of a family keeps its lines, and makes them anew only if it has counted since. Both formats,
Prometheus' own and OpenMetrics, have the same lines; only what stands before them differs.
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
"""Where the labels of a child stand in its family's lines: those before `le`, in order of the alphabet, and those
behind. No text in UTF-8 has these bytes."""


def number(value: float) -> bytes:
    """Return a value as it stands in a line, with the line's end."""
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
    """Return what stands before the value in a line.

    Parameters:
        name: of the sample.
        labels: names and values.
    """
    inside = ",".join([_label(*pair) for pair in sorted(labels)])
    return f"{name}{{{inside}}} ".encode() if inside else f"{name} ".encode()


def of_metric(metric: Metric) -> list[bytes]:
    """Return the lines of a metric's samples."""
    return [prefix(sample.name, sample.labels.items()) + number(sample.value) for sample in metric.samples]


class HistogramLines:
    """The lines of the children of one family of histograms.

    Parameters:
        name: of the family.
        bounds: of the buckets, without the infinite one.
        whole_bounds: write whole bounds without a point, as Go's client library does.
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
        """Return what a child's labels put into its lines: before `le`, behind it, and where there is no `le`."""
        shown = sorted(labels)
        before = "".join(_label(*pair) + "," for pair in shown if pair[0] < "le")
        behind = "".join("," + _label(*pair) for pair in shown if pair[0] > "le")
        alone = prefix("", labels)[:-1]
        return before.encode(), behind.encode(), alone

    def text(self, labels: tuple[bytes, bytes, bytes], counts: Sequence[int], total: float) -> bytes:
        """Return a child's lines.

        Parameters:
            labels: from `labels`.
            counts: of each bucket alone.
            total: the sum of the observed values.
        """
        before, behind, alone = labels
        sums = tuple(accumulate(counts))
        buckets = (self._buckets % sums).replace(_BEFORE, before).replace(_BEHIND, behind)
        return buckets + self._rest % (alone, sums[-1], alone, number(total))
