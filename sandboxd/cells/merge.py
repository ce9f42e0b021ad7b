"""Makes one set of metrics of those of several cells, alive and dead."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Final

from sandboxd.cells.messages import Family, Labels, Sample


class How(Enum):
    """What a gauge of all cells is."""

    SUM = auto()
    MIN = auto()
    MAX = auto()
    EACH = auto()
    """Neither: every cell's own value, told apart by the label `cell`."""


GAUGES: Final[Mapping[str, How]] = {
    "sandboxd_build_info": How.MAX,
    "sandboxd_module_info": How.MAX,
    # A caller may reach any cell, so a binding is as ready as it is in the worst of them.
    "sandboxd_binding_ready": How.MIN,
    "sandboxd_pool_workers": How.SUM,
    "sandboxd_pool_workers_limit": How.SUM,
    # Maxima of different moments add up to nothing that ever was.
    "sandboxd_pool_workers_busy_max": How.MAX,
    "sandboxd_pool_queue_depth": How.SUM,
    "sandboxd_pool_queue_limit": How.SUM,
    "sandboxd_pool_queue_depth_max": How.MAX,
    "sandboxd_worker_boot_seconds": How.MAX,
    "sandboxd_pool_generation": How.EACH,
}
"""Gauges not named here are shown for each cell: that is never wrong, only longer."""

_NAMING_LABELS: Final = ("binding", "component")

_Key = tuple[str, Labels]


class _Merging:
    """One metric being put together."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.values: dict[_Key, float] = {}

    def add(self, samples: Iterable[Sample], how: How, cell: int) -> None:
        values = self.values
        for name, labels, value in samples:
            if how is How.EACH:
                labels = (("cell", str(cell)), *labels)
            key = (name, labels)
            former = values.get(key)
            if former is None:
                values[key] = value
            elif how is How.SUM:
                values[key] = former + value
            else:
                values[key] = min(former, value) if how is How.MIN else max(former, value)

    def finished(self) -> Family:
        family = self.family
        samples = tuple((name, labels, value) for (name, labels), value in self.values.items())
        return Family(family.name, family.kind, family.text, samples)


def merge(cells: Mapping[int, Sequence[Family]]) -> tuple[Family, ...]:
    """The metrics of all cells as one: what is counted is added up, gauges follow GAUGES.

    Parameters:
        cells: the metrics of each by its number.
    """
    merged: dict[str, _Merging] = {}
    for number, families in cells.items():
        for family in families:
            found = merged.get(family.name)
            if found is None:
                found = merged[family.name] = _Merging(family)
            how = GAUGES.get(family.name, How.EACH) if family.kind == "gauge" else How.SUM
            found.add(family.samples, how, number)
    return tuple(found.finished() for found in merged.values())


def counted(families: Iterable[Family]) -> tuple[Family, ...]:
    """Those whose values count since a start: all but the gauges."""
    return tuple(family for family in families if family.kind != "gauge")


class Ledger:
    """What dead processes of cells had counted, so that sums never go backwards.

    Prometheus takes a counter that is smaller than before, be it by the last bit, for one that began anew at zero. So
    the order of additions is always the same: for each cell what its dead processes counted, then what its living one
    did; then cell by cell. Rounding keeps order: with no term shrinking, no sum does.

    A binding that no live cell knows any more was taken out of the configuration; what dead cells counted for it is
    not shown, as a living cell forgets it too.
    """

    def __init__(self) -> None:
        self._retired: dict[int, tuple[Family, ...]] = {}

    def __repr__(self) -> str:
        return f"<Ledger of cells {sorted(self._retired)}>"

    def retire(self, number: int, families: Sequence[Family]) -> None:
        """Take over what a process of a cell had counted. To be called once, at its end.

        Parameters:
            number: the cell's.
            families: the last metrics it told.
        """
        self._retired[number] = _sum(self._retired.get(number, ()), counted(families))

    def merged(self, told: Mapping[int, Sequence[Family]], silent: Collection[int] = ()) -> tuple[Family, ...]:
        """The metrics of the server.

        Parameters:
            told: the last metrics that each living cell has told.
            silent: the numbers of those that did not tell them just now: their counts still stand, the state they
                were in is unknown.
        """
        names = {value for families in told.values() for value in _names(families)}
        cells: dict[int, tuple[Family, ...]] = {}
        for number in sorted({*told, *self._retired}):
            families = told.get(number, ())
            retired = self._retired.get(number, ())
            counts = _sum(_only(retired, names) if names else retired, counted(families))
            gauges = () if number in silent else tuple(family for family in families if family.kind == "gauge")
            cells[number] = (*counts, *gauges)
        return merge(cells)


def _sum(first: tuple[Family, ...], second: tuple[Family, ...]) -> tuple[Family, ...]:
    return merge({0: first, 1: second}) if first else second


def _names(families: Iterable[Family]) -> Iterable[str]:
    for family in families:
        for _, labels, _ in family.samples:
            for label, value in labels:
                if label in _NAMING_LABELS and value:
                    yield value


def _only(families: Iterable[Family], names: set[str]) -> tuple[Family, ...]:
    def kept(labels: Labels) -> bool:
        return all(label not in _NAMING_LABELS or not value or value in names for label, value in labels)

    return tuple(
        Family(f.name, f.kind, f.text, tuple(sample for sample in f.samples if kept(sample[1]))) for f in families
    )
