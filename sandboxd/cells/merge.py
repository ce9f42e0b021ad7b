"""Makes one set of metrics of those of several cells, alive and dead."""

from collections.abc import Iterable, Mapping, Sequence
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
    """What cells had counted when they died, so that sums never go backwards.

    A binding that no live cell knows any more was taken out of the configuration; what dead cells counted for it is
    not shown, as a living cell forgets it too.
    """

    def __init__(self) -> None:
        self._retired: tuple[Family, ...] = ()

    def __repr__(self) -> str:
        return f"<Ledger of {len(self._retired)} metrics>"

    def retire(self, families: Iterable[Family]) -> None:
        """Take over what a cell had counted. To be called once in the life of a process."""
        self._retired = merge({0: self._retired, 1: counted(families)})

    def merged(
        self, answered: Mapping[int, Sequence[Family]], silent: Sequence[Sequence[Family]]
    ) -> tuple[Family, ...]:
        """The metrics of the server.

        Parameters:
            answered: the metrics of every cell that has just told them.
            silent: the last known metrics of cells that live, but did not answer: their counts still stand, the
                state they were in is unknown.
        """
        names = {value for families in (*answered.values(), *silent) for value in _names(families)}
        retired = _only(self._retired, names) if names else self._retired
        # Numbers below zero cannot be a cell's, and gauges, the only ones to show a number, are not among these.
        quiet = {-2 - position: counted(families) for position, families in enumerate(silent)}
        return merge({**answered, -1: retired, **quiet})


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
