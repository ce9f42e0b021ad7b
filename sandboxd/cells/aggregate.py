"""The server's metrics: the supervisor asks every cell, keeps the counts of ended processes, and adds its own."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from sandboxd.cells.cell_process import CellProcess
from sandboxd.cells.merge import RetainedCounters
from sandboxd.wire.cells import Family

ANSWER_S: Final = 1.0
"""The longest that a scrape waits for one cell's metrics, so that a hung cell delays it no further."""

_REQUESTS: Final = "sandboxd_requests_total"


class MetricsAggregator:
    """The metrics of a server of several cells.

    Parameters:
        count: the configured number of cells.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._retained = RetainedCounters()
        self._starts = [0] * count
        self._requests = [0.0] * count
        self._round: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<MetricsAggregator of {self._count} cells>"

    def started(self, number: int) -> None:
        """Record that a process was started for a cell."""
        self._starts[number] += 1

    def retire(self, cell: CellProcess) -> None:
        """Keep the counts of a cell's process that has ended. Call it once everything the process wrote is read."""
        self._retained.retire(cell.number, cell.families)
        self._requests[cell.number] += _requests(cell)

    async def ask(self, alive: Callable[[], Sequence[CellProcess]]) -> None:
        """Ask all cells for their metrics, each with a timeout of ANSWER_S.

        Concurrent callers share one round. They never share a round that began before they asked, so a scrape holds
        everything that was counted before it.

        Parameters:
            alive: returns the cells to ask.
        """
        if self._round is None:
            self._round = asyncio.create_task(self._ask_all(alive), name="ask")
        await asyncio.shield(self._round)

    async def _ask_all(self, alive: Callable[[], Sequence[CellProcess]]) -> None:
        async with self._turn:
            self._round = None
            await asyncio.gather(*(cell.ask(ANSWER_S) for cell in alive()))

    def merged(self, cells: Sequence[CellProcess | None]) -> tuple[Family, ...]:
        """Return the merged metrics that the cells sent last, and the supervisor's own.

        Parameters:
            cells: the processes by cell number; None for a cell that does not run.
        """
        present = [cell for cell in cells if cell is not None]
        told = {cell.number: cell.families for cell in present}
        silent = {cell.number for cell in present if not cell.answers or cell.ended.done()}
        return (*self._retained.merged(told, silent), *self._own(cells))

    def _own(self, cells: Sequence[CellProcess | None]) -> tuple[Family, ...]:
        up = [float(cell is not None and cell.ready) for cell in cells]
        restarts = [float(max(0, starts - 1)) for starts in self._starts]
        requests = [
            former + (_requests(cell) if cell is not None else 0.0)
            for former, cell in zip(self._requests, cells, strict=True)
        ]
        return (
            _by_cell("sandboxd_cell_up", "gauge", "Whether the cell can run guests.", up),
            _by_cell("sandboxd_cell_restarts", "counter", "Processes that took over from one that died.", restarts),
            _by_cell("sandboxd_cell_requests", "counter", "Binding requests that reached the cell.", requests),
        )


def _requests(cell: CellProcess) -> float:
    return sum(value for family in cell.families for name, _, value in family.samples if name == _REQUESTS)


def _by_cell(name: str, kind: str, text: str, values: Sequence[float]) -> Family:
    sample = f"{name}_total" if kind == "counter" else name
    samples = tuple((sample, (("cell", str(number)),), value) for number, value in enumerate(values))
    return Family(name, kind, text, samples)
