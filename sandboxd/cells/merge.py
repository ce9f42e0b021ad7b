"""Merges the metrics of several cells, and of their ended processes, into one set."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Final

from sandboxd.wire.cells import Family, Labels, Sample


class Aggregation(Enum):
    """The ways to merge the values that one gauge has in several cells: prometheus_client's multiprocess modes."""

    SUM = auto()
    MIN = auto()
    MAX = auto()
    PER_CELL = auto()
    """They do not: each cell's value is shown with the label `cell`."""


GAUGES: Final[Mapping[str, Aggregation]] = {
    "sandboxd_build_info": Aggregation.MAX,
    "sandboxd_module_info": Aggregation.MAX,
    # A caller may reach any cell, so a binding counts as ready only if it is ready in all of them.
    "sandboxd_binding_ready": Aggregation.MIN,
    "sandboxd_pool_workers": Aggregation.SUM,
    "sandboxd_pool_workers_limit": Aggregation.SUM,
    "sandboxd_pool_workers_spare": Aggregation.SUM,
    # Maxima are from different moments, so their sum was never reached.
    "sandboxd_pool_workers_busy_max": Aggregation.MAX,
    "sandboxd_pool_queue_depth": Aggregation.SUM,
    "sandboxd_pool_queue_limit": Aggregation.SUM,
    "sandboxd_pool_queue_depth_max": Aggregation.MAX,
    "sandboxd_binding_in_flight": Aggregation.SUM,
    "sandboxd_binding_in_flight_limit": Aggregation.SUM,
    "sandboxd_binding_queue_depth": Aggregation.SUM,
    "sandboxd_warm_templates": Aggregation.SUM,
    "sandboxd_warm_children": Aggregation.SUM,
    "sandboxd_warm_private_bytes": Aggregation.SUM,
    "sandboxd_warm_boot_seconds": Aggregation.MAX,
    "sandboxd_worker_boot_seconds": Aggregation.MAX,
    "sandboxd_worker_wall": Aggregation.MIN,
    # Each cell has breakers of its own; one that is open refuses a part of the requests.
    "sandboxd_circuit_breaker_state": Aggregation.MAX,
    "sandboxd_reload_last_success": Aggregation.MIN,
    "sandboxd_reload_last_success_timestamp_seconds": Aggregation.MIN,
    "sandboxd_pool_generation": Aggregation.PER_CELL,
    "sandboxd_fronts": Aggregation.SUM,
    "process_resident_memory_bytes": Aggregation.SUM,
    "process_virtual_memory_bytes": Aggregation.SUM,
    "process_start_time_seconds": Aggregation.MIN,
    # Of the cell that is nearest to its limit, so that the quotient of the two says when descriptors run out.
    "process_open_fds": Aggregation.MAX,
    "process_max_fds": Aggregation.MIN,
}
"""A gauge that is not named here is shown per cell. That is never wrong, only longer."""

_NAMING_LABELS: Final = ("binding", "component")

_Key = tuple[str, Labels]


class _FamilyBuilder:
    """Collects the samples of one metric from several cells."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.values: dict[_Key, float] = {}

    def add(self, samples: Iterable[Sample], aggregation: Aggregation, cell: int) -> None:
        values = self.values
        for name, labels, value in samples:
            if aggregation is Aggregation.PER_CELL:
                labels = (("cell", str(cell)), *labels)
            key = (name, labels)
            former = values.get(key)
            if former is None:
                values[key] = value
            elif aggregation is Aggregation.SUM:
                values[key] = former + value
            else:
                values[key] = min(former, value) if aggregation is Aggregation.MIN else max(former, value)

    def finished(self) -> Family:
        family = self.family
        samples = tuple((name, labels, value) for (name, labels), value in self.values.items())
        return Family(family.name, family.kind, family.text, samples)


def merge(cells: Mapping[int, Sequence[Family]]) -> tuple[Family, ...]:
    """Return one set of metrics for all cells: counters and histograms are summed, gauges follow GAUGES.

    Parameters:
        cells: each cell's metrics, by its number.
    """
    merged: dict[str, _FamilyBuilder] = {}
    for number, families in cells.items():
        for family in families:
            found = merged.get(family.name)
            if found is None:
                found = merged[family.name] = _FamilyBuilder(family)
            aggregation = GAUGES.get(family.name, Aggregation.PER_CELL) if family.kind == "gauge" else Aggregation.SUM
            found.add(family.samples, aggregation, number)
    return tuple(found.finished() for found in merged.values())


def counted(families: Iterable[Family]) -> tuple[Family, ...]:
    """Return the families that count since the process started: all but the gauges."""
    return tuple(family for family in families if family.kind != "gauge")


class RetainedCounters:
    """The counts of ended cell processes. They keep the server's counters from going backwards.

    Prometheus takes a counter that shrinks, even in its last bit, for a counter reset. So the additions always have the
    same order: within a cell, first the counts of its ended processes, then those of its running one; then cell by
    cell. Rounding is monotonic: while no term shrinks, the sum does not.

    A binding that no running cell knows has left the configuration. Its counts are not shown, because a running cell
    forgets them too.
    """

    def __init__(self) -> None:
        self._retired: dict[int, tuple[Family, ...]] = {}

    def __repr__(self) -> str:
        return f"<RetainedCounters of cells {sorted(self._retired)}>"

    def retire(self, number: int, families: Sequence[Family]) -> None:
        """Keep the counts of a cell's process that has ended. Call it once per process.

        Parameters:
            number: the cell's number.
            families: the last metrics that the process sent.
        """
        self._retired[number] = _sum(self._retired.get(number, ()), counted(families))

    def merged(self, told: Mapping[int, Sequence[Family]], silent: Collection[int] = ()) -> tuple[Family, ...]:
        """Return the metrics of the whole server.

        Parameters:
            told: the last metrics of each running cell, by its number.
            silent: the numbers of the cells that did not answer this time. Their counts still hold; their gauges are
                unknown and left out.
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
