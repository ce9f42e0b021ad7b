"""Answer scrapes of the metrics. Only one text is made at a time, and making it leaves time for requests.

Scrapes need no token, so that anybody can send many of them. A scrape that arrives while a text is being made waits for
the next text. That one is begun after the scrape arrived, and so counts everything that the scraper has seen happen.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client.exposition import choose_encoder

REST: Final = 1.0
"""Pause after each piece of a text, as a multiple of the time that the piece took. 1 leaves half of the loop's time."""
BUSY_REST: Final = 4.0
"""The pause if the last text was made less than `QUIET_S` ago. 4 leaves four fifths of the loop's time."""
QUIET_S: Final = 1.0

Text = tuple[bytes, str]
"""The metrics as text, and its Content-Type."""


class Scrapes:
    """Makes the texts for all scrapes, on one event loop.

    Parameters:
        render: makes a text, given an Accept header and the pause after each piece.
    """

    def __init__(self, render: Callable[[str, float], Awaitable[Text]]) -> None:
        self._render = render
        self._next: dict[str, tuple[str, asyncio.Future[Text]]] = {}
        """Content-Type -> an Accept header that asks for it, and the future of the text."""
        self._rendering: asyncio.Task[None] | None = None
        self._ended = float("-inf")

    def __repr__(self) -> str:
        return f"<Scrapes {len(self._next)} texts asked for>"

    async def text(self, accept: str) -> Text:
        """Return the metrics as they are now or later.

        Parameters:
            accept: the scrape's Accept header.

        Raises:
            TimeoutError: the other cells did not send their metrics in time.
        """
        content_type = choose_encoder(accept)[1]
        if content_type not in self._next:
            self._next[content_type] = accept, asyncio.get_running_loop().create_future()
        future = self._next[content_type][1]
        if self._rendering is None:
            self._rendering = asyncio.create_task(self._make_all(), name="scrapes")
        return await asyncio.shield(future)

    async def _make_all(self) -> None:
        try:
            while self._next:
                accept, future = self._next.pop(next(iter(self._next)))
                rest = REST if time.monotonic() - self._ended > QUIET_S else BUSY_REST
                making = asyncio.ensure_future(self._render(accept, rest))
                await asyncio.wait({making})
                error = making.exception()
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(making.result())
                self._ended = time.monotonic()
        finally:
            self._rendering = None
