"""The supervisor's part in the metrics: asks all cells, remembers what dead ones counted, adds its own."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from sandboxd.cells.incarnation import Incarnation
from sandboxd.cells.merge import Ledger
from sandboxd.cells.messages import Family

ANSWER_S: Final = 1.0
"""How long a cell may take to tell its metrics. A scrape does not wait longer for one that hangs."""

_REQUESTS: Final = "sandboxd_requests_total"


class Accounts:
    """The metrics of a server of several cells.

    Parameters:
        count: how many cells there should be.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._ledger = Ledger()
        self._starts = [0] * count
        self._requests = [0.0] * count
        self._round: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Accounts of {self._count} cells>"

    def started(self, number: int) -> None:
        """A process was started for a cell."""
        self._starts[number] += 1

    def retire(self, cell: Incarnation) -> None:
        """A cell's process has ended, and everything it wrote was read."""
        self._ledger.retire(cell.number, cell.families)
        self._requests[cell.number] += _requests(cell)

    async def ask(self, alive: Callable[[], Sequence[Incarnation]]) -> None:
        """Have all cells tell their metrics, each within ANSWER_S.

        Many who ask at once share one round, but never one that had begun before they asked: what was counted before
        a scrape is in it.

        Parameters:
            alive: gives the cells to ask.
        """
        if self._round is None:
            self._round = asyncio.create_task(self._ask_all(alive), name="ask")
        await asyncio.shield(self._round)

    async def _ask_all(self, alive: Callable[[], Sequence[Incarnation]]) -> None:
        async with self._turn:
            self._round = None
            await asyncio.gather(*(cell.ask(ANSWER_S) for cell in alive()))

    def merged(self, cells: Sequence[Incarnation | None]) -> tuple[Family, ...]:
        """The metrics of all cells as they told them last, and those about cells.

        Parameters:
            cells: by number; None for one that does not run.
        """
        present = [cell for cell in cells if cell is not None]
        told = {cell.number: cell.families for cell in present}
        silent = {cell.number for cell in present if not cell.answers or cell.ended.done()}
        return (*self._ledger.merged(told, silent), *self._own(cells))

    def _own(self, cells: Sequence[Incarnation | None]) -> tuple[Family, ...]:
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


def _requests(cell: Incarnation) -> float:
    return sum(value for family in cell.families for name, _, value in family.samples if name == _REQUESTS)


def _by_cell(name: str, kind: str, text: str, values: Sequence[float]) -> Family:
    sample = f"{name}_total" if kind == "counter" else name
    samples = tuple((sample, (("cell", str(number)),), value) for number, value in enumerate(values))
    return Family(name, kind, text, samples)
