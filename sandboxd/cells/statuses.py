"""The parts of the status document, asked of all cells at most once a second, whoever looks."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from sandboxd.cells.cell_process import CellProcess

FRESH_S: Final = 0.9
"""So long a round's answers serve others who ask. Viewers ask once a second."""
ANSWER_S: Final = 2.0
"""The longest that is waited for one cell."""


class Statuses:
    """See the module."""

    def __init__(self) -> None:
        self._round: asyncio.Task[tuple[bytes, ...]] | None = None
        self._began = float("-inf")

    def __repr__(self) -> str:
        return f"<Statuses since {self._began:.1f}>"

    async def parts(self, alive: Callable[[], Sequence[CellProcess]]) -> tuple[bytes, ...]:
        """Return the parts of all cells that answer in time, the order being that of the cells.

        Parameters:
            alive: returns the cells to ask.
        """
        now = time.monotonic()
        if self._round is None or now - self._began > FRESH_S:
            self._began = now
            self._round = asyncio.create_task(_ask(alive()), name="ask-status")
        return await asyncio.shield(self._round)


async def _ask(cells: Sequence[CellProcess]) -> tuple[bytes, ...]:
    parts = await asyncio.gather(*(cell.ask_status(ANSWER_S) for cell in cells))
    return tuple(part for part in parts if part is not None)
