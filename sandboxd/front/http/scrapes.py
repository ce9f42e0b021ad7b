"""Answer scrapes of the metrics. Only one text is made at a time, and making it leaves time for requests.

Scrapes need no token, so that anybody can send many of them. A scrape that arrives while a text is being made waits for
the next text. That one is begun after the scrape arrived, and so counts everything that the scraper has seen happen.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.responses import Response

from sandboxd.front.ports import Receive, Scope, Send
from sandboxd.metrics.exposition import asked_for, compressed

REST: Final = 1.0
"""Pause after each piece of a text, as a multiple of the time that the piece took. 1 leaves half of the loop's time."""
BUSY_REST: Final = 4.0
"""The pause if the last text was made less than `QUIET_S` ago. 4 leaves four fifths of the loop's time."""
QUIET_S: Final = 1.0

Parts = tuple[Sequence[bytes], str]
"""The metrics as text, in parts, and its Content-Type."""


class Text:
    """The metrics as text.

    Parameters:
        parts: the text.
        content_type: its Content-Type.
    """

    def __init__(self, parts: Sequence[bytes], content_type: str) -> None:
        self.parts = parts
        self.content_type = content_type
        self._compressing: asyncio.Future[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Text of {sum(map(len, self.parts))} bytes>"

    async def gzipped(self) -> bytes:
        """Return it compressed; all scrapes that share it share that, too."""
        if self._compressing is None:
            self._compressing = asyncio.ensure_future(compressed(self.parts))
        return await asyncio.shield(self._compressing)


class TextResponse(Response):
    """Sends a text part by part, so that a long one is not copied into one piece.

    Parameters:
        parts: the text.
        headers: of the answer, without its length.
    """

    def __init__(self, parts: Sequence[bytes], headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, "content-length": str(sum(map(len, parts)))})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def takes_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip (RFC 9110, section 12.5.3)."""
    for coding in accept_encoding.split(","):
        name, _, weight = coding.partition(";")
        if name.strip().lower() in ("gzip", "x-gzip"):
            return weight.replace(" ", "").lower().rstrip("0.") != "q="
    return False


class Scrapes:
    """Makes the texts for all scrapes, on one event loop.

    Parameters:
        render: makes a text, given an Accept header and the pause after each piece.
    """

    def __init__(self, render: Callable[[str, float], Awaitable[Parts]]) -> None:
        self._render = render
        self._next: dict[str, asyncio.Future[Text]] = {}
        """The texts that are asked for, by the Accept header of `asked_for`."""
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
        accept = asked_for(accept)
        if accept not in self._next:
            self._next[accept] = asyncio.get_running_loop().create_future()
        future = self._next[accept]
        if self._rendering is None:
            self._rendering = asyncio.create_task(self._make_all(), name="scrapes")
        return await asyncio.shield(future)

    async def _make_all(self) -> None:
        try:
            while self._next:
                accept = next(iter(self._next))
                future = self._next.pop(accept)
                rest = REST if time.monotonic() - self._ended > QUIET_S else BUSY_REST
                making = asyncio.ensure_future(self._render(accept, rest))
                await asyncio.wait({making})
                error = making.exception()
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(Text(*making.result()))
                self._ended = time.monotonic()
        finally:
            self._rendering = None
